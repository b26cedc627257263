//! A connection, and a listener, that a tokio runtime watches.
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

#[cfg(feature = "quic")]
use super::quic;
use super::session::Session;
use super::stream::{self, Stream};
use super::tcp;
use super::watched::{watch, watch_borrowed};

/// Waits for what comes, without holding on to the connection.
pub(crate) struct Watched<'s> {
    fd: AsyncFd<BorrowedFd<'s>>,
    stream: &'s Stream,
    alarm: Alarm,
}

impl<'s> Watched<'s> {
    pub(crate) fn new(stream: &'s Stream) -> io::Result<Self> {
        let fd = watch_borrowed(stream.as_fd(), Interest::READABLE)?;
        Ok(Watched { fd, stream, alarm: Alarm::default() })
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            while let Poll::Ready(guard) = self.fd.poll_read_ready(cx) {
                if let Ok(read) = guard?.try_io(|_fd| self.stream.recv(into)) {
                    return Poll::Ready(read);
                }
            }
            ready!(self.alarm.poll(cx, self.stream.deadline()));
            self.stream.on_time();
            match self.stream.recv(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

/// Wakes its task when a session is due.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `at`, and for each `at` at least once. It may be early.
    fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else {
            self.0 = None;
            return Poll::Pending;
        };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at.into())));
        // One that rings too early is set anew then: what is due moves on with every datagram.
        if sleep.deadline() > at.into() {
            sleep.as_mut().reset(at.into());
        }
        ready!(sleep.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

/// Room that is made for one read, in bytes: several times what a local socket holds.
const READ_BYTES: usize = 1 << 20;

/// A connected socket that a tokio runtime watches, until it is closed: its descriptor goes then, whoever
/// still holds on to it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Only closing it writes; nobody waits for anything while he reads.
    open: RwLock<Option<Open>>,
    /// What it has taken may wait for the kernel.
    is_secured: bool,
    /// Each dialog has a stream of its own.
    has_streams: bool,
    alarm: Mutex<Alarm>,
    /// Who waits in `poll_recv`, where a session may become due without anything having come.
    reader: AtomicWaker,
}

#[derive(Debug)]
struct Open {
    fd: AsyncFd<OwnedFd>,
    session: Option<Session>,
    /// A duplicate that is watched for room, made when there was none for the first time: the peer's
    /// every read would wake us otherwise, with nothing for us to do.
    room: OnceLock<AsyncFd<OwnedFd>>,
    /// When it is tried again, where no descriptor was left for that.
    retry: Mutex<Option<Pin<Box<Sleep>>>>,
}

/// How long a full socket waits where it can't be watched for room.
const RETRY_AFTER: Duration = Duration::from_millis(5);

impl Socket {
    pub(crate) fn new(stream: Stream) -> io::Result<Self> {
        let (fd, session) = stream.into_parts();
        let is_secured = session.is_some();
        let has_streams = session.as_ref().is_some_and(Session::is_timed);
        let open = Open { fd: watch(fd, Interest::READABLE)?, session, room: OnceLock::new(), retry: Mutex::default() };
        let (alarm, reader) = (Mutex::default(), AtomicWaker::new());
        Ok(Socket { open: RwLock::new(Some(open)), is_secured, has_streams, alarm, reader })
    }

    /// Whether each dialog has a stream of its own: frames of different ones come in any order.
    pub(crate) fn has_streams(&self) -> bool {
        self.has_streams
    }

    /// Whether it connects two processes of this host, without anything in between but the kernel.
    pub(crate) fn is_unix(&self) -> bool {
        let open = self.open.read();
        let family = open.as_ref().map(|open| rustix::net::sockopt::socket_domain(open.fd.get_ref()));
        matches!(family, Some(Ok(AddressFamily::UNIX)))
    }

    /// Sends what is taken now of `first` and of `second` behind it.
    pub(crate) fn try_send(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        let sent = stream::send(open.fd.get_ref().as_fd(), open.session.as_ref(), first, second);
        if self.has_streams {
            self.reader.wake(); // it is due earlier now
        }
        sent
    }

    /// Whether the kernel has all that was sent; else [`Socket::poll_flush`] sees to the rest.
    pub(crate) fn is_flushed(&self) -> bool {
        if !self.is_secured {
            return true;
        }
        let open = self.open.read();
        open.as_ref().and_then(|open| open.session.as_ref()).is_none_or(|session| !session.is_waiting())
    }

    /// Ready when the kernel has taken all that was sent.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        open.poll_flush(cx)
    }

    /// Receives what is there now, whatever the runtime knows of it.
    pub(crate) fn try_recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        stream::recv(open.fd.get_ref().as_fd(), open.session.as_ref(), into)
    }

    /// Resolves when `try_send` may get further after it has said `WouldBlock`.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        if self.has_streams {
            ready!(open.poll_flush(cx))?;
            // What makes room now is a word of the other side, which is met by whoever reads.
            return match stream::send(open.fd.get_ref().as_fd(), open.session.as_ref(), first, second) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                sent => Poll::Ready(sent),
            };
        }
        let Some(room) = open.room()? else {
            ready!(open.poll_retry(cx));
            return Poll::Ready(stream::send(open.fd.get_ref().as_fd(), open.session.as_ref(), first, second));
        };
        loop {
            let mut guard = ready!(room.poll_write_ready(cx))?;
            match guard.try_io(|fd| stream::send(fd.get_ref().as_fd(), open.session.as_ref(), first, second)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = into.len();
        self.poll_read(cx, most, |open| stream::recv(open.fd.get_ref().as_fd(), open.session.as_ref(), into))
    }

    /// Appends at most `most` bytes to `into`, which grows with what comes and not with what may.
    pub(crate) fn poll_recv_more(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let most = most.min(READ_BYTES);
        self.poll_read(cx, most, |open| stream::recv_more(open.fd.get_ref().as_fd(), open.session.as_ref(), into, most))
    }

    #[inline]
    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        mut read: impl FnMut(&Open) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        // What is deciphered already makes no descriptor readable.
        if open.session.as_ref().is_some_and(Session::has_plaintext) {
            match read(open) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        if self.has_streams {
            return self.poll_datagrams(cx, open, read);
        }
        loop {
            let mut guard = ready!(open.fd.poll_read_ready(cx))?;
            match guard.try_io(|_fd| read(open)) {
                Ok(Ok(n)) => {
                    // A short read has emptied the socket: what comes later is a new edge, so the
                    // read that would only say `WouldBlock` is saved.
                    if n > 0 && open.session.as_ref().map_or(n < most, Session::is_drained) {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// The same, where datagrams are watched: those that have come may give nothing to read, and some things are due at times.
    fn poll_datagrams(
        &self,
        cx: &mut Context<'_>,
        open: &Open,
        mut read: impl FnMut(&Open) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.reader.register(cx.waker());
        loop {
            while let Poll::Ready(guard) = open.fd.poll_read_ready(cx) {
                if let Ok(read) = guard?.try_io(|_fd| read(open)) {
                    return Poll::Ready(read);
                }
            }
            if open.session.as_ref().is_some_and(Session::has_room_again) {
                cx.waker().wake_by_ref();
            }
            let deadline = open.session.as_ref().and_then(Session::deadline);
            ready!(self.alarm.lock().poll(cx, deadline));
            if let Some(session) = &open.session {
                session.on_time(open.fd.get_ref().as_fd());
            }
            match read(open) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// The same, of what is there now, whatever the runtime knows of it.
    pub(crate) fn try_recv_more(&self, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        stream::recv_more(open.fd.get_ref().as_fd(), open.session.as_ref(), into, most.min(READ_BYTES))
    }

    /// Whether its other end is on another host.
    pub(crate) fn is_remote(&self) -> bool {
        self.open.read().as_ref().is_some_and(|open| tcp::is_remote(open.fd.get_ref().as_fd()))
    }

    /// For how long the other machine has not answered, where it is to its kernel to answer.
    pub(crate) fn silence(&self) -> Option<Duration> {
        tcp::silence(self.open.read().as_ref()?.fd.get_ref().as_fd())
    }

    /// What `act` makes of its session. `None`: it has none, or is closed.
    fn with_session<R>(&self, act: impl FnOnce(&Session, BorrowedFd<'_>) -> R) -> Option<R> {
        let open = self.open.read();
        let Open { fd, session: Some(session), .. } = open.as_ref()? else { return None };
        Some(act(session, fd.get_ref().as_fd()))
    }

    /// Whether the other side has all last frames of dialogs, where no kernel sees to that.
    pub(crate) fn is_delivered(&self) -> bool {
        self.with_session(|session, _| session.is_delivered()).unwrap_or(true)
    }

    /// What is said on it from here on is no frames of ours.
    pub(crate) fn be_raw(&self) {
        self.with_session(|session, _| session.be_raw());
    }

    /// Sees to what has come and to what is due, for whoever should and is busy. A number that changes when the other side is
    /// heard; `None`: the kernel sees to it.
    pub(crate) fn tend(&self, is_to_ping: bool) -> Option<u64> {
        let heard = self.with_session(|session, fd| session.tend(fd, is_to_ping)).flatten();
        self.reader.wake(); // what has come is his to read
        heard
    }

    /// The process at the other end is gone: what it has sent is read, and the end comes behind it.
    pub(crate) fn peer_has_ended(&self) {
        self.with_session(|session, fd| session.peer_has_ended(fd));
        self.reader.wake();
    }

    /// Waits until the other side has all that was sent, where the kernel does not see to that, and closes it.
    pub(crate) fn conclude(&self, until: Instant) {
        self.with_session(|session, fd| {
            session.begin_to_conclude(fd);
            while let Some(at) = session.conclude(fd, until) {
                wait_readable(fd, at);
            }
        });
    }

    /// Ends it both ways: whoever reads or writes sees that.
    pub(crate) fn shutdown(&self) {
        if let Some(open) = &*self.open.read() {
            if let Some(session) = &open.session {
                session.close(open.fd.get_ref().as_fd());
                self.reader.wake();
            }
            if self.has_streams {
                return; // it has no end of the kernel's
            }
            // A socket that the peer has closed already can't be shut down, and needs not.
            let _ = rustix::net::shutdown(open.fd.get_ref(), rustix::net::Shutdown::Both);
        }
    }

    /// Gives its descriptors back. Nobody waits to read or write any more.
    pub(crate) fn close(&self) {
        let open = self.open.write().take();
        if let Some(Open { fd, session: Some(session), .. }) = &open {
            session.close(fd.get_ref().as_fd());
        }
        drop(open); // with the lock free
    }
}

/// Waits until something comes, or it is `at`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, at: Instant) {
    let Ok(most) = Timespec::try_from(at.saturating_duration_since(Instant::now())) else { return };
    // Woken early by a signal, it is looked at again.
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&most));
}

impl Open {
    /// Ready when the kernel has taken all that was sent.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(session) = &self.session else { return Poll::Ready(Ok(())) };
        while session.flush(self.fd.get_ref().as_fd())? {
            match self.room()? {
                Some(room) => ready!(room.poll_write_ready(cx))?.clear_ready(),
                None => ready!(self.poll_retry(cx)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What tells of room. `None`: this process has no descriptor left for it, which is no fault of the line's.
    fn room(&self) -> io::Result<Option<&AsyncFd<OwnedFd>>> {
        if let Some(room) = self.room.get() {
            return Ok(Some(room));
        }
        let duplicate = match rustix::io::fcntl_dupfd_cloexec(self.fd.get_ref(), 0) {
            Err(Errno::MFILE) => return Ok(None),
            duplicate => duplicate?,
        };
        let room = watch(duplicate, Interest::WRITABLE)?;
        Ok(Some(self.room.get_or_init(|| room)))
    }

    /// Ready after a while.
    fn poll_retry(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut retry = self.retry.lock();
        let sleep = retry.get_or_insert_with(|| Box::pin(tokio::time::sleep(RETRY_AFTER)));
        ready!(sleep.as_mut().poll(cx));
        *retry = None;
        Poll::Ready(())
    }
}

/// A bound socket that a tokio runtime watches.
#[derive(Debug)]
pub(crate) enum Listener {
    /// For connections that the kernel makes.
    Streams(AsyncFd<OwnedFd>),
    /// For those that begin with a datagram.
    #[cfg(feature = "quic")]
    Datagrams(quic::Listener),
}

/// Whoever has connected, and has shown nothing yet.
#[derive(Debug)]
pub(crate) enum Knock {
    /// The kernel's connection.
    Stream(OwnedFd),
    /// A first datagram.
    #[cfg(feature = "quic")]
    Quic(quic::Knock),
}

impl Knock {
    /// From where, on a network.
    pub(crate) fn from(&self) -> Option<SocketAddr> {
        match self {
            Knock::Stream(fd) => tcp::peer(fd.as_fd()),
            #[cfg(feature = "quic")]
            Knock::Quic(knock) => Some(knock.from()),
        }
    }
}

impl Listener {
    pub(crate) fn streams(fd: OwnedFd) -> io::Result<Self> {
        Ok(Listener::Streams(watch(fd, Interest::READABLE)?))
    }

    /// Whoever comes from there has been asked to knock once more.
    #[cfg(feature = "quic")]
    pub(crate) fn expect_again(&self, from: Option<SocketAddr>) {
        if let (Listener::Datagrams(listener), Some(from)) = (self, from) {
            listener.expect_again(from);
        }
    }

    /// The next connection. Cancel safe: a connection that was not handed out stays in the backlog.
    pub(crate) async fn accept(&self) -> io::Result<Knock> {
        #[cfg_attr(
            not(feature = "quic"),
            expect(clippy::infallible_destructuring_match, reason = "there is a second one")
        )]
        let fd = match self {
            Listener::Streams(fd) => fd,
            #[cfg(feature = "quic")]
            Listener::Datagrams(listener) => return listener.accept().await.map(Knock::Quic),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let mut guard = fd.readable().await?;
            match guard.try_io(|fd| Ok(acceptfrom_with(fd.get_ref(), flags)?.0)) {
                Ok(result) => return result.map(Knock::Stream),
                Err(_would_block) => {}
            }
        }
    }
}
