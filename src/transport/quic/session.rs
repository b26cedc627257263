//! One QUIC connection over a UDP socket of its own, which never waits.
//!
//! quinn-proto does no I/O and keeps no time, so the control thread can drive it as well as a runtime can.
use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, ReadError, StreamEvent,
    StreamId, VarInt, WriteError,
};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rustls::pki_types::{CertificateDer, ServerName};
use uuid::Uuid;

use super::MAX_STREAMS;
use super::inward::{Done, Inward, line_stream, stream_of};
use crate::msg::frame::{self, Course, MAX_FRAME_BYTES};
use crate::transport::identity;
use crate::transport::tls::{self, Identity};
use crate::transport::trust::actor_name;

/// Datagrams in one call of the kernel's: what it takes at most.
const MAX_BATCH: usize = 10;

/// Batches of datagrams that are taken in one go: more than a socket's buffer holds mostly, and a few milliseconds' worth.
const MAX_BATCHES: usize = 256;

/// How often the other side's kernel says that nobody is there, with no word from it in between, until that is believed:
/// such a message shows nothing of who has sent it.
const MAX_REFUSALS: u32 = 3;

/// Streams of dialogs that are over, of which the other side is told with the next datagram that leaves anyway.
const MAX_LAZY: usize = 64;

thread_local! {
    /// What the kernel gives in one go.
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Room for what the kernel gives in one go.
pub(super) fn with_input<R>(udp: &UdpSocketState, act: impl FnOnce(&mut [u8]) -> R) -> R {
    INPUT.with_borrow_mut(|input| {
        input.resize(udp.gro_segments() * usize::from(super::MAX_DATAGRAM_BYTES), 0);
        act(input)
    })
}

/// The session of one connection.
pub(crate) struct Session {
    state: Mutex<State>,
}

/// The state, with nothing logged by this thread as long as it is held: the control thread waits for the lock, which no
/// subscriber of a user's may hold up, and never logs itself.
struct Quiet<'s> {
    state: MutexGuard<'s, State>,
    _nobody: tracing::dispatcher::DefaultGuard,
}

impl Deref for Quiet<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Quiet<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
enum End {
    /// The other side has closed it, or we have, or nobody is there any more.
    Closed,
    Failed(io::ErrorKind, String),
}

impl End {
    fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => End::Closed,
            ConnectionError::TransportError(error) => {
                End::Failed(io::ErrorKind::InvalidData, told(u64::from(error.code), &error.reason, Whose::Ours))
            }
            ConnectionError::ConnectionClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason);
                End::Failed(io::ErrorKind::InvalidData, told(u64::from(close.error_code), &reason, Whose::Theirs))
            }
            ConnectionError::Reset => {
                End::Failed(io::ErrorKind::ConnectionReset, "the other side does not know the connection".to_owned())
            }
            ConnectionError::VersionMismatch => {
                End::Failed(io::ErrorKind::InvalidData, "it speaks another version of QUIC".to_owned())
            }
            ConnectionError::TimedOut | ConnectionError::CidsExhausted => {
                End::Failed(io::ErrorKind::Other, error.to_string())
            }
        }
    }

    fn read(&self) -> io::Result<usize> {
        match self {
            End::Closed => Ok(0),
            End::Failed(kind, text) => Err(io::Error::new(*kind, text.clone())),
        }
    }
}

/// Who has refused whom.
enum Whose {
    Ours,
    Theirs,
}

/// An alert of TLS's in the words of whoever has to mend it, as on TCP.
fn told(code: u64, reason: &str, whose: Whose) -> String {
    let alert = code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok()).map(rustls::AlertDescription::from);
    let what = match (alert, whose) {
        (Some(alert), Whose::Ours) => tls::told_of_alert(alert),
        (Some(alert), Whose::Theirs) => tls::told_by_alert(alert),
        (None, Whose::Ours) => "QUIC failed",
        (None, Whose::Theirs) => "it gave the connection up",
    };
    match reason.is_empty() {
        true => what.to_owned(),
        false => format!("{what} ({reason})"),
    }
}

/// A frame that is on its way into its stream.
struct Leaving {
    /// `None`: the stream is over, and so is its dialog. The rest is dropped.
    stream: Option<StreamId>,
    left: usize,
    /// Nothing follows it there.
    is_last: bool,
}

/// Datagrams that the kernel had no room for.
struct Stuck {
    transmit: quinn_proto::Transmit,
    bytes: Vec<u8>,
}

pub(super) struct State {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    conn: Connection,
    udp: UdpSocketState,
    inward: Inward,
    /// Streams that have something to read, each once.
    unread: VecDeque<StreamId>,
    is_noted: HashSet<StreamId>,
    /// So much has come that others have their turn before the rest is taken.
    is_cut_short: bool,
    leaving: Option<Leaving>,
    /// What leaves is no frames: it goes on the first stream as it is.
    is_raw: bool,
    /// Our results and errors of which the pieces still leave.
    last_begun: HashSet<StreamId>,
    /// Nothing of ours follows on these, as the other side is still to be told.
    lazy: Vec<StreamId>,
    /// Streams that have ended here, which the other side has not acknowledged yet.
    unacknowledged: HashSet<StreamId>,
    out: Vec<u8>,
    stuck: Option<Stuck>,
    /// A write found no room, which what comes may make.
    is_full: bool,
    /// Something that has come has made some.
    has_made_room: bool,
    refusals: u32,
    end: Option<End>,
}

impl State {
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        endpoint: Endpoint,
        handle: ConnectionHandle,
        conn: Connection,
    ) -> io::Result<Self> {
        Ok(State {
            endpoint,
            handle,
            conn,
            udp: UdpSocketState::new(UdpSockRef::from(&fd))?,
            inward: Inward::default(),
            unread: VecDeque::new(),
            is_noted: HashSet::new(),
            is_cut_short: false,
            leaving: None,
            is_raw: false,
            last_begun: HashSet::new(),
            lazy: Vec::new(),
            unacknowledged: HashSet::new(),
            out: Vec::new(),
            stuck: None,
            is_full: false,
            has_made_room: false,
            refusals: 0,
            end: None,
        })
    }

    pub(super) fn into_session(self) -> Session {
        Session { state: Mutex::new(self) }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// The side that connects opens the first stream.
    pub(super) fn open_line(&mut self) -> io::Result<()> {
        match self.conn.streams().open(Dir::Bi) {
            Some(stream) if stream == line_stream() => {
                let _ = self.conn.send_stream(stream).set_priority(1); // it is open
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it allows no streams")),
        }
    }

    /// How it has failed, or ended.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.end.as_ref().map(|end| match end {
            End::Closed => io::ErrorKind::UnexpectedEof.into(),
            End::Failed(kind, text) => io::Error::new(*kind, text.clone()),
        })
    }

    pub(super) fn deadline(&mut self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        self.conn.poll_timeout()
    }

    /// Does what is due, and sends what follows from it.
    pub(super) fn on_time(&mut self, fd: BorrowedFd<'_>) {
        let now = Instant::now();
        if self.deadline().is_some_and(|at| at <= now) {
            self.conn.handle_timeout(now);
            self.finish_lazy();
        }
        self.follow_up();
        // What is broken shows to whoever reads.
        let _ = self.transmit(fd, now);
    }

    /// Takes a batch of datagrams off the socket; whether there was one.
    pub(super) fn pump(&mut self, fd: BorrowedFd<'_>) -> bool {
        let now = Instant::now();
        let got = with_input(&self.udp, |input| {
            let mut meta = [RecvMeta::default()];
            self.udp.recv(UdpSockRef::from(&fd), &mut [IoSliceMut::new(input)], &mut meta)?;
            let [meta] = meta;
            io::Result::Ok((BytesMut::from(&input[..meta.len]), meta))
        });
        let (mut bytes, meta) = match got {
            Ok(got) => got,
            Err(error) => {
                let is_to_go_on = self.on_socket_error(&error);
                let _ = self.transmit(fd, now); // what is broken shows to whoever reads
                return is_to_go_on;
            }
        };
        self.refusals = 0;
        while !bytes.is_empty() {
            let datagram = bytes.split_to(meta.stride.min(bytes.len()));
            self.on_datagram(now, &meta, datagram);
        }
        self.follow_up();
        let _ = self.transmit(fd, now); // the same
        true
    }

    /// Takes what is there, and no more than a socket's buffer holds.
    pub(super) fn pump_some(&mut self, fd: BorrowedFd<'_>) {
        for _ in 0..MAX_BATCHES {
            if !self.pump(fd) {
                return;
            }
        }
    }

    /// Whether another try may find something.
    fn on_socket_error(&mut self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::WouldBlock => false,
            io::ErrorKind::Interrupted => true,
            // Nobody listens there any more, as the kernel over there says.
            io::ErrorKind::ConnectionRefused => {
                self.refusals += 1;
                if self.refusals >= MAX_REFUSALS || self.conn.is_handshaking() {
                    let end = match self.conn.is_handshaking() {
                        true => End::Failed(io::ErrorKind::ConnectionRefused, "connection refused".to_owned()),
                        false => End::Closed,
                    };
                    self.end.get_or_insert(end);
                    return false;
                }
                self.conn.ping();
                true
            }
            // The way there is down for now: what is lost is sent again.
            _ => false,
        }
    }

    pub(super) fn on_datagram(&mut self, now: Instant, meta: &RecvMeta, datagram: BytesMut) {
        let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let mut response = Vec::new();
        let event = self.endpoint.handle(now, meta.addr, meta.dst_ip, ecn, datagram, &mut response);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) if handle == self.handle => {
                self.conn.handle_event(event)
            }
            // This socket is for one connection: what else comes here is a stranger's, or late.
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            Some(DatagramEvent::ConnectionEvent(..) | DatagramEvent::Response(_)) | None => {}
        }
    }

    /// What follows from what has come, or was due.
    pub(super) fn follow_up(&mut self) {
        while let Some(event) = self.conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.conn.handle_event(event);
            }
        }
        while let Some(event) = self.conn.poll() {
            match event {
                Event::ConnectionLost { reason } => {
                    self.end.get_or_insert(End::of(&reason));
                }
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    while let Some(stream) = self.conn.streams().accept(Dir::Bi) {
                        if stream == line_stream() {
                            let _ = self.conn.send_stream(stream).set_priority(1); // it is open
                        }
                        self.is_unread(stream);
                    }
                    self.allow_more();
                }
                Event::Stream(StreamEvent::Readable { id }) => self.is_unread(id),
                Event::Stream(StreamEvent::Finished { id }) => _ = self.unacknowledged.remove(&id),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    self.unacknowledged.remove(&id);
                    let _ = self.conn.send_stream(id).reset(VarInt::from_u32(0)); // or it would stay for ever
                }
                Event::Stream(StreamEvent::Writable { .. } | StreamEvent::Available { .. }) => {
                    self.has_made_room = true
                }
                Event::Stream(StreamEvent::Opened { .. })
                | Event::HandshakeDataReady
                | Event::Connected
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        if self.lazy.len() >= MAX_LAZY {
            self.finish_lazy();
        }
    }

    fn is_unread(&mut self, stream: StreamId) {
        if self.is_noted.insert(stream) {
            self.unread.push_back(stream);
        }
    }

    /// The other side has so many streams open that it may soon wait for one.
    fn allow_more(&mut self) {
        let allowed = self.conn.max_concurrent_streams(Dir::Bi);
        if self.conn.streams().remote_open_streams(Dir::Bi) * 2 > allowed && allowed < u64::from(MAX_STREAMS) {
            let more = VarInt::from_u64((allowed * 4).min(MAX_STREAMS.into())).unwrap_or(VarInt::MAX);
            self.conn.set_max_concurrent_streams(Dir::Bi, more);
        }
    }

    fn finish_lazy(&mut self) {
        for stream in std::mem::take(&mut self.lazy) {
            self.finish(stream);
        }
    }

    fn finish(&mut self, stream: StreamId) {
        // One that the other side has stopped is over.
        if self.conn.send_stream(stream).finish().is_ok() {
            self.unacknowledged.insert(stream);
        }
    }

    /// Sends what is due. Whether the kernel had no room for some of it.
    pub(super) fn transmit(&mut self, fd: BorrowedFd<'_>, now: Instant) -> io::Result<bool> {
        loop {
            if let Some(stuck) = &self.stuck {
                match send(&self.udp, fd, &stuck.transmit, &stuck.bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    sent => self.sent(sent),
                }
                self.stuck = None;
            }
            if matches!(self.end, Some(End::Closed)) {
                return Ok(false);
            }
            self.out.clear();
            let most = self.udp.max_gso_segments().min(MAX_BATCH);
            let Some(transmit) = self.conn.poll_transmit(now, most, &mut self.out) else {
                return Ok(false);
            };
            match send(&self.udp, fd, &transmit, &self.out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck = Some(Stuck { transmit, bytes: std::mem::take(&mut self.out) });
                    return Ok(true);
                }
                sent => self.sent(sent),
            }
        }
    }

    fn sent(&mut self, sent: io::Result<()>) {
        if let Err(error) = sent
            && error.raw_os_error() != Some(libc::EMSGSIZE)
        // a probe of how long they may be
        {
            self.on_socket_error(&error);
        }
    }

    /// Puts as many of these bytes as there is room for where they belong; how many.
    fn write(&mut self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let (mut at, total) = (0, first.len() + second.len());
        while at < total {
            let leaving = match &mut self.leaving {
                Some(leaving) => leaving,
                None => {
                    let Some(leaving) = self.begin(&first[at..])? else { break };
                    self.leaving.insert(leaving)
                }
            };
            let rest = if at < first.len() { &first[at..] } else { &second[at - first.len()..] };
            let piece = &rest[..rest.len().min(leaving.left)];
            let taken = match leaving.stream {
                None => piece.len(),
                Some(stream) => match self.conn.send_stream(stream).write(piece) {
                    Ok(taken) => taken,
                    Err(WriteError::Blocked) => break,
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                        leaving.stream = None;
                        piece.len()
                    }
                },
            };
            at += taken;
            leaving.left -= taken;
            if leaving.left == 0
                && let Some(Leaving { stream: Some(stream), is_last: true, .. }) =
                    self.leaving.take_if(|leaving| leaving.left == 0)
            {
                self.finish(stream);
            }
        }
        self.is_full = at < total;
        if at == 0 && total > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(at) }
    }

    /// The frame that `bytes` begin with. `None`: there is no room for its dialog.
    fn begin(&mut self, bytes: &[u8]) -> io::Result<Option<Leaving>> {
        if self.is_raw {
            return Ok(Some(Leaving { stream: Some(line_stream()), left: bytes.len(), is_last: false }));
        }
        let broken = || io::Error::new(io::ErrorKind::InvalidInput, "what is sent is no frame");
        let needed = frame::needed(bytes, MAX_FRAME_BYTES).ok().flatten().ok_or_else(broken)?;
        let course = frame::course(bytes).ok_or_else(broken)?;
        let stream = course.dialog().map_or(line_stream(), stream_of);
        let mut is_last = false;
        match course {
            Course::Start(_) => match self.conn.streams().open(Dir::Bi) {
                Some(opened) if opened == stream => {}
                Some(_) => return Err(broken()), // dialogs are started in their order
                None => return Ok(None),
            },
            Course::Last(_) => is_last = true,
            Course::LastBegins(_) => _ = self.last_begun.insert(stream),
            Course::Piece { is_last: true, .. } => is_last = self.last_begun.remove(&stream),
            Course::Line | Course::Behind(_) | Course::Piece { is_last: false, .. } => {}
        }
        Ok(Some(Leaving { stream: Some(stream), left: needed, is_last }))
    }

    /// Reads what has come on one stream; whether there was one.
    fn read_stream(&mut self) -> bool {
        let Some(stream) = self.unread.pop_front() else { return false };
        self.is_noted.remove(&stream);
        let mut receiving = self.conn.recv_stream(stream);
        let Ok(mut chunks) = receiving.read(true) else { return true }; // it is over
        let lazy = &mut self.lazy;
        let wrong = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    // The side that has opened a dialog says nothing more on it, either.
                    let done = |Done(stream): Done| lazy.extend(Some(stream));
                    if let Err(wrong) = self.inward.push(stream, chunk.bytes, done) {
                        break Some(wrong.to_string());
                    }
                }
                Ok(None) => {
                    self.inward.forget(stream);
                    break None;
                }
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(_)) => break Some("it has reset a stream".to_owned()),
            }
        };
        // What there is to say of it goes with whatever leaves next.
        let _ = chunks.finalize();
        if let Some(wrong) = wrong {
            self.conn.close(Instant::now(), VarInt::from_u32(1), wrong.clone().into());
            self.end.get_or_insert(End::Failed(io::ErrorKind::InvalidData, wrong));
        }
        true
    }

    /// Has something ready, if anything has come.
    fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.is_cut_short = false;
        for _ in 0..MAX_BATCHES {
            if !self.inward.is_empty() {
                return Ok(());
            }
            if self.read_stream() {
                continue;
            }
            if self.end.is_some() || !self.pump(fd) && self.unread.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.is_cut_short = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a read finds something though nothing comes.
    fn is_readable(&self) -> bool {
        self.is_cut_short || !self.inward.is_empty() || !self.unread.is_empty() || self.end.is_some()
    }

    fn recv(&mut self, fd: BorrowedFd<'_>, most: usize, put: impl FnMut(&[u8])) -> io::Result<usize> {
        match self.fill(fd) {
            Ok(()) => Ok(self.inward.take(most, put)),
            Err(error) => {
                // Windows that reading has opened are told now, and why it goes no further.
                let _ = self.transmit(fd, Instant::now());
                self.end.as_ref().map_or(Err(error), End::read)
            }
        }
    }
}

pub(super) fn send(
    udp: &UdpSocketState,
    fd: BorrowedFd<'_>,
    transmit: &quinn_proto::Transmit,
    bytes: &[u8],
) -> io::Result<()> {
    let transmit = quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
        contents: &bytes[..transmit.size],
        segment_size: transmit.segment_size,
        src_ip: None, // the socket has one
    };
    udp.try_send(UdpSockRef::from(&fd), &transmit)
}

impl Session {
    pub(crate) fn send(&self, fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if let Some(end) = &state.end {
            end.read()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.stuck.is_some() && state.transmit(fd, Instant::now())? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.finish_lazy();
        let taken = state.write(first, second)?;
        let _ = state.transmit(fd, Instant::now()); // what is broken shows to whoever reads
        Ok(taken)
    }

    pub(crate) fn recv(&self, fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        let most = into.len();
        self.lock().recv(fd, most, |piece| {
            into[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        })
    }

    pub(crate) fn recv_more(&self, fd: BorrowedFd<'_>, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        self.lock().recv(fd, most, |piece| into.extend_from_slice(piece))
    }

    pub(crate) fn flush(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let mut state = self.lock();
        match state.stuck {
            Some(_) => state.transmit(fd, Instant::now()),
            None => Ok(false),
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.state.lock().stuck.is_some()
    }

    pub(crate) fn has_plaintext(&self) -> bool {
        self.state.lock().is_readable()
    }

    /// Whether what has come since a write found no room has made some. It is said once.
    pub(crate) fn has_room_again(&self) -> bool {
        let mut state = self.state.lock();
        let has_made_room = std::mem::take(&mut state.has_made_room);
        state.is_full && has_made_room
    }

    /// When something is due: at once, if there is something to read.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        if state.is_readable() { Some(Instant::now()) } else { state.deadline() }
    }

    pub(crate) fn on_time(&self, fd: BorrowedFd<'_>) {
        self.lock().on_time(fd);
    }

    /// From here on both sides say something else than frames.
    pub(crate) fn be_raw(&self) {
        let mut state = self.state.lock();
        state.is_raw = true;
        state.inward.be_raw();
    }

    /// Sees to what has come, for whoever should read it and does not: the other side hears that we are there, and is asked for a
    /// sign of life if it `is_to_ping`. A number that changes whenever it is heard.
    pub(crate) fn tend(&self, fd: BorrowedFd<'_>, is_to_ping: bool) -> u64 {
        let mut state = self.lock();
        state.pump_some(fd);
        if is_to_ping {
            state.conn.ping();
        }
        state.on_time(fd);
        let frames = state.conn.stats().frame_rx;
        frames.acks + frames.ping + frames.stream
    }

    /// Nobody is there any more: what has come is read, and the end comes behind it.
    pub(crate) fn peer_has_ended(&self, fd: BorrowedFd<'_>) {
        let mut state = self.lock();
        state.pump_some(fd);
        state.end.get_or_insert(End::Closed);
    }

    /// Ends it both ways.
    pub(crate) fn close(&self, fd: BorrowedFd<'_>) {
        let mut state = self.lock();
        if state.end.is_none() {
            let now = Instant::now();
            state.conn.close(now, VarInt::from_u32(0), Bytes::new());
            let _ = state.transmit(fd, now); // it is told once: who does not hear it finds nobody here
            state.end = Some(End::Closed);
        }
    }

    /// Nothing more is said. [`Session::conclude`] is to follow.
    pub(crate) fn begin_to_conclude(&self, fd: BorrowedFd<'_>) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.finish_lazy();
        state.finish(line_stream());
        let _ = state.transmit(fd, Instant::now()); // what is broken has no end to wait for
        // One packet's acknowledgement may be late, to share a datagram with others: that of two is not.
        state.conn.ping();
        let _ = state.transmit(fd, Instant::now());
    }

    /// Closes it once the other side has all that was sent, or it is `until`. When to look again, if something comes not earlier.
    pub(crate) fn conclude(&self, fd: BorrowedFd<'_>, until: Instant) -> Option<Instant> {
        let mut state = self.lock();
        state.pump_some(fd);
        state.on_time(fd);
        let waits = !state.unacknowledged.is_empty() && state.end.is_none();
        if waits && Instant::now() < until {
            return Some(state.deadline().map_or(until, |at| at.min(until)));
        }
        drop(state);
        self.close(fd);
        None
    }

    /// Whether the other side has all last frames.
    pub(crate) fn is_delivered(&self) -> bool {
        self.state.lock().unacknowledged.is_empty()
    }

    fn lock(&self) -> Quiet<'_> {
        let nobody = tracing::dispatcher::set_default(&tracing::Dispatch::none());
        Quiet { state: self.state.lock(), _nobody: nobody }
    }

    pub(crate) fn is_with(&self, actor: Uuid) -> bool {
        self.has_shown(&actor_name(actor))
    }

    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        identity.tree.as_ref().is_none_or(|tree| self.has_shown(tree))
    }

    /// The identity that the peer's certificate was signed by, if it was.
    pub(crate) fn peer_identity(&self) -> Option<String> {
        self.shown().as_ref().and_then(|cert| identity::named_by(cert))
    }

    fn has_shown(&self, name: &ServerName<'_>) -> bool {
        self.shown()
            .as_ref()
            .and_then(|cert| webpki::EndEntityCert::try_from(cert).ok())
            .is_some_and(|cert| cert.verify_is_valid_for_subject_name(name).is_ok())
    }

    /// The peer's own certificate.
    fn shown(&self) -> Option<CertificateDer<'static>> {
        let chain = self.state.lock().conn.crypto_session().peer_identity()?;
        chain.downcast::<Vec<CertificateDer<'static>>>().ok()?.into_iter().next()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
