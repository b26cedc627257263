//! A control line: how do cancels and process records move, without a runtime?
//!
//! Any thread may send; the control thread reads, and sends what the kernel would not take at once.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;

use super::CancelLine;
use crate::msg::frame::{self, Frame, FrameError};
use crate::msg::ident::Canceller;
use crate::transport::socket::wait_readable;
use crate::transport::stream::Stream;

/// Bytes that may wait for a peer that does not read: it is stopped, or not ours. Over it the line
/// counts as broken. A cancel takes about 120 bytes.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// A control frame is small: a longer one is a broken peer.
const MAX_CONTROL_FRAME_BYTES: u32 = 64 * 1024;

/// One control line.
pub(crate) struct Line {
    state: Mutex<State>,
    /// Called when the kernel took no more: somebody has to wait for room and flush.
    blocked: OnceLock<Act>,
    /// Called when something is due earlier than [`Line::deadline`] has said.
    due: OnceLock<Act>,
    is_timed: bool,
}

struct State {
    /// `None`: it is closed.
    stream: Option<Stream>,
    waiting: BytesMut,
    /// What [`Line::deadline`] has said last.
    told: Option<Instant>,
}

type Act = Box<dyn Fn() + Send + Sync>;

/// What was read and is not handled yet.
#[derive(Debug, Default)]
pub(crate) struct LineInbox {
    bytes: BytesMut,
}

/// Whether more may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    MayCome,
    Ended,
}

impl Line {
    pub(crate) fn new(stream: Stream) -> Self {
        let is_timed = stream.is_timed();
        let state = State { stream: Some(stream), waiting: BytesMut::new(), told: None };
        Line { state: Mutex::new(state), blocked: OnceLock::new(), due: OnceLock::new(), is_timed }
    }

    /// Has `act` called, once at a time, when a frame could not leave at once.
    pub(crate) fn on_blocked(&self, act: impl Fn() + Send + Sync + 'static) {
        // A line has one keeper, who says it once.
        let _ = self.blocked.set(Box::new(act));
    }

    /// Has `act` called when a frame that another thread sends makes something due earlier.
    pub(crate) fn on_due(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.due.set(Box::new(act)); // the same
    }

    /// Whether it goes by datagrams: then some things are due at times, which no kernel sees to.
    pub(crate) fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// When [`Line::on_time`] is due, if ever.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        state.told = state.stream.as_ref().and_then(Stream::deadline);
        state.told
    }

    /// Does what is due by now.
    pub(crate) fn on_time(&self) {
        if let Some(stream) = &self.state.lock().stream {
            stream.on_time();
        }
    }

    /// Waits until the peer has all that was said, where no kernel sees to that. Nothing is said on it any more.
    pub(crate) fn conclude(&self, until: Instant) {
        // Its keeper may close it meanwhile.
        let Some(Ok(fd)) = self.with_fd(|fd| fd.try_clone_to_owned()) else { return };
        if let Some(stream) = &self.state.lock().stream {
            stream.begin_to_conclude();
        }
        loop {
            let look_at = self.state.lock().stream.as_ref().and_then(|stream| stream.conclude(until));
            let Some(at) = look_at else { return };
            wait_readable(fd.as_fd(), at);
        }
    }

    /// Sends a frame, or leaves it to the next [`Line::flush`].
    ///
    /// # Errors
    ///
    /// The line is broken, or its peer has not read for too long.
    pub(crate) fn send(&self, frame: &Frame<'_>) -> io::Result<()> {
        self.send_all(std::slice::from_ref(frame))
    }

    /// Sends frames in one go: their reader wakes once.
    ///
    /// # Errors
    ///
    /// Those of [`Line::send`].
    pub(crate) fn send_all(&self, frames: &[Frame<'_>]) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.waiting.len() > MAX_WAITING_BYTES {
            return Err(io::Error::other("the peer does not read its control line"));
        }
        let was_blocked = !state.waiting.is_empty();
        for frame in frames {
            frame::encode(frame, &[], &mut state.waiting);
        }
        let is_blocked = state.send_waiting()?;
        let is_due = self.is_timed && state.is_due_earlier();
        drop(state);
        if is_due && let Some(due) = self.due.get() {
            due();
        }
        if is_blocked
            && !was_blocked
            && let Some(blocked) = self.blocked.get()
        {
            blocked();
        }
        Ok(())
    }

    /// Sends a cancel: dialog 0 is the actor itself.
    ///
    /// # Errors
    ///
    /// Those of [`Line::send`]: its process has ended, or is about to.
    pub(crate) fn send_cancel(&self, dialog: u64, grace: Duration, canceller: &Canceller) -> io::Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.send(&Frame::Cancel { dialog, grace_ms, canceller: canceller.clone() })
    }

    /// Whether there may be something to read though its descriptor is not readable.
    pub(crate) fn is_secured(&self) -> bool {
        self.state.lock().stream.as_ref().is_some_and(Stream::is_secured)
    }

    /// Whether what is said on it may arrive later than it was said.
    pub(crate) fn is_on_network(&self) -> bool {
        self.state.lock().stream.as_ref().is_some_and(Stream::is_on_network)
    }

    /// Whether its peer is on another host.
    pub(crate) fn is_remote(&self) -> bool {
        self.state.lock().stream.as_ref().is_some_and(Stream::is_remote)
    }

    /// Sends what waits. Whether anything still does: then poll for room.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        self.state.lock().send_waiting()
    }

    /// Reads all that is there now.
    pub(crate) fn read(&self, inbox: &mut LineInbox) -> Rest {
        let mut chunk = [0; 512];
        loop {
            let state = self.state.lock();
            let Some(stream) = &state.stream else { return Rest::Ended };
            match stream.recv(&mut chunk) {
                Ok(0) => return Rest::Ended,
                Ok(n) => {
                    inbox.bytes.extend_from_slice(&chunk[..n]);
                    if n < chunk.len() && !stream.is_secured() {
                        return Rest::MayCome;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    drop(state);
                    if self.is_timed {
                        // What has come may have made room. A broken line shows to the next reader.
                        let _ = self.flush();
                    }
                    return Rest::MayCome;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_reset) => return Rest::Ended,
            }
        }
    }

    /// Gives its descriptor back, whoever still holds on to the line: its peer sees the end. What is
    /// said on it from now on is an error.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.waiting.clear();
        if let Some(stream) = state.stream.take().filter(|_| self.is_timed) {
            stream.shutdown(); // no kernel says it
        }
    }

    /// What `act` makes of its descriptor. `None`: it is closed.
    pub(crate) fn with_fd<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.state.lock().stream.as_ref().map(|stream| act(stream.as_fd()))
    }
}

impl State {
    fn is_due_earlier(&self) -> bool {
        let at = self.stream.as_ref().and_then(Stream::deadline);
        at.is_some_and(|at| self.told.is_none_or(|told| at < told))
    }

    fn send_waiting(&mut self) -> io::Result<bool> {
        while !self.waiting.is_empty() {
            let sent = match &self.stream {
                Some(stream) => stream.send(&self.waiting),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match sent {
                Ok(n) => self.waiting.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.waiting.clear();
                    return Err(error);
                }
            }
        }
        self.stream.as_ref().map_or(Ok(false), Stream::flush)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("stream", &self.state.lock().stream).finish_non_exhaustive()
    }
}

impl LineInbox {
    pub(crate) fn new(first: &[u8]) -> Self {
        LineInbox { bytes: BytesMut::from(first) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Hands each whole frame to `each`.
    ///
    /// # Errors
    ///
    /// What came is no frame: the line is of no use any more.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Frame<'_>)) -> Result<(), FrameError> {
        loop {
            let taken = match frame::decode(&self.bytes, MAX_CONTROL_FRAME_BYTES)? {
                Some((frame, _, taken)) => {
                    each(frame);
                    taken
                }
                None => return Ok(()),
            };
            self.bytes.advance(taken);
        }
    }
}

impl CancelLine for Line {
    fn cancel(&self, dialog: u64, grace: Duration, canceller: &Canceller) {
        // A broken control line has ended its process, or is about to: nothing is left to cancel.
        let _ = self.send_cancel(dialog, grace, canceller);
    }
}
