//! How is the line kept moving between another host's agent and an envoy? By one thread, which waits in one place.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::msg::word::{CHUNK_BYTES, Word};
use crate::proto::pipe::{Receiving, Sending, Window};
use crate::transport::stream::Stream;
use crate::transport::tls::{Handshake, Needs};

/// Of what an actor is sent, which is its executable at the first time.
pub(crate) const TO_ACTOR: Window = Window(1 << 20);

/// Of what it prints, on each of its two streams. Both fit into what the kernel keeps of a connection: whoever stands still
/// for a while (ctrl-z) does not make the line stand still.
pub(crate) const FROM_ACTOR: Window = Window(64 << 10);

/// Bytes that a pipe takes without waiting once it can be written: pipe(7).
const PIPE_BUF: usize = 4096;

/// One read of the line, in bytes.
const READ_BYTES: usize = 32 * 1024;

/// A line whose handshake is over. What is pushed is bounded by what the other side grants.
pub(crate) struct Wire {
    stream: Stream,
    out: Vec<u8>,
    input: Vec<u8>,
    is_over: bool,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Wire { stream, out: Vec::new(), input: Vec::new(), is_over: false }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// # Errors
    ///
    /// A word that is too long.
    pub(crate) fn push(&mut self, word: &Word) -> io::Result<()> {
        word.write(&mut self.out).map_err(io::Error::other)
    }

    /// Sends what is taken now; whether some of it still waits.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        let ended = loop {
            if sent == self.out.len() {
                break self.stream.flush();
            }
            match self.stream.send(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(true),
                Err(error) => break Err(error),
            }
        };
        self.out.drain(..sent);
        ended
    }

    /// The next word, if it is there. `None` is no end: see [`Wire::is_over`].
    ///
    /// # Errors
    ///
    /// Something else than words comes, or the line is broken.
    pub(crate) fn next(&mut self) -> io::Result<Option<Word>> {
        loop {
            if let Some((word, length)) = Word::read(&self.input).map_err(io::Error::other)? {
                self.input.drain(..length);
                return Ok(Some(word));
            }
            let before = self.input.len();
            self.input.resize(before + READ_BYTES, 0);
            let read = self.stream.recv(&mut self.input[before..]);
            self.input.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => {
                    self.is_over = true;
                    return Ok(None);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The other side has closed it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What to poll for. Something waits, if `flush` said so.
    pub(crate) fn watch(&self, waits: bool) -> PollFd<'_> {
        let out = if waits { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN | out)
    }
}

/// A pipe of this host that goes to the other one.
pub(crate) struct Source {
    pub(crate) number: u8,
    fd: Option<OwnedFd>,
    pub(crate) sending: Sending,
}

impl Source {
    pub(crate) fn new(number: u8, fd: Option<OwnedFd>, window: Window) -> Self {
        Source { number, fd, sending: Sending::new(window) }
    }

    /// Takes the rest from there.
    pub(crate) fn open(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    /// `None`: nothing is to be read of it now.
    pub(crate) fn watch(&self) -> Option<PollFd<'_>> {
        let fd = self.fd.as_ref().filter(|_| self.sending.room() > 0)?;
        Some(PollFd::new(fd, PollFlags::IN))
    }

    /// Reads what is there, as far as it may be sent.
    pub(crate) fn pull(&mut self, wire: &mut Wire) -> io::Result<()> {
        while let Some(fd) = &self.fd {
            let room = self.sending.room().min(CHUNK_BYTES);
            if room == 0 || !is_ready(fd.as_fd(), PollFlags::IN) {
                return Ok(());
            }
            let mut bytes = vec![0; room];
            match rustix::io::read(fd, &mut bytes) {
                Ok(0) | Err(Errno::IO) => self.end(wire)?,
                Ok(count) => {
                    bytes.truncate(count);
                    self.send(wire, bytes.into())?;
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// No more than there is room for.
    pub(crate) fn send(&mut self, wire: &mut Wire, bytes: Bytes) -> io::Result<()> {
        self.sending.send(bytes.len());
        wire.push(&Word::Bytes(self.number, bytes))
    }

    pub(crate) fn end(&mut self, wire: &mut Wire) -> io::Result<()> {
        self.fd = None;
        if self.sending.end() { wire.push(&Word::End(self.number)) } else { Ok(()) }
    }
}

/// A pipe of this host that comes from the other one.
pub(crate) struct Sink {
    pub(crate) number: u8,
    fd: Option<OwnedFd>,
    /// Nobody reads it any more: what comes is thrown away.
    is_deaf: bool,
    pub(crate) receiving: Receiving,
}

impl Sink {
    /// Without a descriptor: what comes is kept for [`Sink::open`].
    pub(crate) fn new(number: u8, fd: Option<OwnedFd>, window: Window) -> Self {
        Sink { number, fd, is_deaf: false, receiving: Receiving::new(window) }
    }

    pub(crate) fn open(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    pub(crate) fn close(&mut self) {
        (self.fd, self.is_deaf) = (None, true);
    }

    /// `None`: nothing waits for it.
    pub(crate) fn watch(&self) -> Option<PollFd<'_>> {
        let fd = self.fd.as_ref().filter(|_| !self.receiving.waiting().is_empty())?;
        Some(PollFd::new(fd, PollFlags::OUT))
    }

    /// Writes what is taken now, and grants as much anew. Closed at its end.
    pub(crate) fn push(&mut self, wire: &mut Wire) -> io::Result<()> {
        loop {
            let waiting = self.receiving.waiting();
            if waiting.is_empty() {
                break;
            }
            let first = &waiting[..waiting.len().min(PIPE_BUF)];
            let taken = match &self.fd {
                None if self.is_deaf => first.len(),
                None => break,
                Some(fd) if !is_ready(fd.as_fd(), PollFlags::OUT) => break,
                Some(fd) => match rustix::io::write(fd, first) {
                    Ok(count) => count,
                    Err(Errno::INTR | Errno::AGAIN) => continue,
                    Err(_nobody_reads_it) => {
                        self.close();
                        continue;
                    }
                },
            };
            if let Some(bytes) = self.receiving.take(taken) {
                wire.push(&Word::Grant(self.number, bytes))?;
            }
        }
        if self.receiving.is_over() {
            self.close();
        }
        Ok(())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.receiving.is_over()
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    // Its end or an error is an answer too.
    matches!(poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&Timespec::default())), Ok(1..))
}

/// Waits for one of them, at most until then. A signal may be the reason to look as well.
pub(crate) fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let _ = poll(fds, left.as_ref()); // an error, or a signal: the next look tells
}

/// Shakes hands, within this time.
pub(crate) fn shake_hands(mut handshake: Handshake, within: Duration) -> io::Result<Stream> {
    let until = Instant::now() + within;
    loop {
        let flags = match handshake.step()? {
            Needs::Nothing => return Ok(handshake.done()),
            Needs::Read => PollFlags::IN,
            Needs::Write => PollFlags::OUT,
        };
        if until <= Instant::now() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not say who it is within {within:?}")));
        }
        wait(&mut [PollFd::from_borrowed_fd(handshake.as_fd(), flags)], Some(until));
    }
}
