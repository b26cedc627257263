//! What one child has printed: the end of it, and what is still to be relayed.
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::io::Errno;

use super::program::Lines;
use super::{Looked, Shared};

/// The two pipes of one child, and what has been read from them.
///
/// Its lock is never held while anything is written, so the control thread may call everything
/// here at any time.
pub(crate) struct ChildOutput {
    state: Mutex<State>,
    /// The thread that relays it, and its number there.
    relay: OnceLock<(Weak<Shared>, u64)>,
    /// Where its lines go, if that is not our own stdout and stderr.
    lines: Option<Arc<Lines>>,
}

impl ChildOutput {
    /// Takes the reading ends of a child's pipes. `None`: that stream is not ours to relay.
    ///
    /// # Errors
    ///
    /// A descriptor that can't be made non-blocking.
    pub(crate) fn new(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> io::Result<Arc<ChildOutput>> {
        Self::with(State::new(Phase::Booting, stdout, stderr), None)
    }

    /// The same for a program, which is ready from the first and whose lines go to `lines`. With a `capture`, stdout goes there
    /// instead, byte by byte.
    ///
    /// # Errors
    ///
    /// A descriptor that can't be made non-blocking.
    pub(super) fn of_program(
        stdout: OwnedFd,
        stderr: OwnedFd,
        capture: Option<Capture>,
        lines: Arc<Lines>,
    ) -> io::Result<Arc<ChildOutput>> {
        let state = State { capture, ..State::new(Phase::Ready, Some(stdout), Some(stderr)) };
        Self::with(state, Some(lines))
    }

    fn with(state: State, lines: Option<Arc<Lines>>) -> io::Result<Arc<ChildOutput>> {
        for pipe in state.sources.iter().filter_map(|source| source.pipe.as_ref()) {
            rustix::io::ioctl_fionbio(pipe, true)?; // our end only: the child's stays as it is
        }
        Ok(Arc::new(ChildOutput { state: Mutex::new(state), relay: OnceLock::new(), lines }))
    }

    pub(super) fn lines(&self) -> Option<&Arc<Lines>> {
        self.lines.as_ref()
    }

    /// What was captured by now; nothing is from now on.
    pub(super) fn take_captured(&self) -> Option<Capture> {
        let mut state = self.state.lock();
        state.capture.as_mut().map(|capture| std::mem::replace(capture, Capture::new(0)))
    }

    /// The child has said Hello: what it prints from now on is relayed.
    ///
    /// What it printed before (a banner, code that stands before `init()`) stays in the tail. To
    /// tell the two apart, this must be called before the Welcome is sent.
    pub(crate) fn ready(&self) {
        let mut state = self.state.lock();
        for stream in STREAMS {
            state.read(stream, DRAIN_BYTES);
        }
        state.phase = Phase::Ready;
        state.boot_stdout = Tail::default();
    }

    /// Reads what a dead child has left in its pipes, without waiting, and has it relayed.
    ///
    /// A last line without an end gets one. If some other process has inherited the pipes, they
    /// are read on until it ends too, or until [`OutputThread::finish`].
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        for stream in STREAMS {
            if state.read(stream, DRAIN_BYTES) == Left::Nothing {
                state.sources[stream as usize].end_line();
            }
        }
        drop(state);
        if self.has_more() {
            self.relay_now();
        }
    }

    /// Whether something waits to be relayed.
    pub(super) fn has_more(&self) -> bool {
        let state = self.state.lock();
        !state.when_relayed.is_empty() || state.sources.iter().any(|source| !source.pending.is_empty())
    }

    /// The end of the child's stderr, at most 16 KiB; of its stdout too, while it has not said Hello.
    ///
    /// Starts at the start of a line if something was cut off.
    pub(crate) fn tail(&self) -> String {
        let state = self.state.lock();
        state.boot_stdout.text() + &state.tail.text()
    }

    /// Calls `act` when all that has been read by now is written, from the output thread.
    ///
    /// At once if no thread relays it. While our stdout is blocked it is not called: don't wait
    /// for it without a bound.
    pub(crate) fn when_relayed(&self, act: Box<dyn FnOnce() + Send>) {
        self.state.lock().when_relayed.push(act);
        self.relay_now();
    }

    fn relay_now(&self) {
        let relay = self.relay.get().and_then(|(shared, id)| Some((shared.upgrade()?, *id)));
        let looked = relay.map_or(Looked::NeverAgain, |(shared, id)| shared.look_at(id));
        if looked == Looked::NeverAgain {
            self.call_waiters();
        }
    }

    /// Has the epoll set tell of the pipes, by tokens that hold the number.
    pub(super) fn relayed_by(&self, shared: &Arc<Shared>, id: u64) -> io::Result<()> {
        // A second call finds it set: the child is told to the first thread that took it.
        let _ = self.relay.set((Arc::downgrade(shared), id));
        let state = self.state.lock();
        for stream in STREAMS {
            if let Some(pipe) = &state.sources[stream as usize].pipe {
                let data = epoll::EventData::new_u64(id * 2 + stream as u64);
                epoll::add(&shared.epoll, pipe, data, epoll::EventFlags::IN)?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, stream: Stream, budget_bytes: usize) {
        self.state.lock().read(stream, budget_bytes);
    }

    pub(super) fn take_lines(&self, stream: Stream) -> Option<Vec<u8>> {
        self.state.lock().sources[stream as usize].take_lines()
    }

    /// Reads what is there and closes the pipes.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        for stream in STREAMS {
            state.read(stream, DRAIN_BYTES);
            state.sources[stream as usize].end();
        }
    }

    /// Nothing more can come, and all of it was taken.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().sources.iter().all(|source| source.pipe.is_none() && source.pending.is_empty())
    }

    #[cfg(test)]
    pub(super) fn pending_bytes(&self, stream: Stream) -> usize {
        self.state.lock().sources[stream as usize].pending.len()
    }

    pub(super) fn call_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().when_relayed);
        for act in waiters {
            act();
        }
    }
}

impl fmt::Debug for ChildOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let open = state.sources.each_ref().map(|source| source.pipe.is_some());
        f.debug_struct("ChildOutput").field("phase", &state.phase).field("open", &open).finish_non_exhaustive()
    }
}

struct State {
    phase: Phase,
    sources: [Source; 2],
    /// Of stderr.
    tail: Tail,
    /// Of stdout, until the child is ready: a program that never gets there may say why on either.
    boot_stdout: Tail,
    /// Takes what comes on stdout, instead of its lines.
    capture: Option<Capture>,
    when_relayed: Vec<Box<dyn FnOnce() + Send>>,
}

/// The first bytes of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) bytes: Vec<u8>,
    most: usize,
    /// More came than was asked for.
    pub(crate) is_cut: bool,
}

impl Capture {
    /// Keeps at most so many bytes.
    pub(crate) fn new(most: usize) -> Self {
        Capture { bytes: Vec::new(), most, is_cut: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        let fitting = bytes.len().min(self.most - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..fitting]);
        self.is_cut |= fitting < bytes.len();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Booting,
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

pub(super) const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What is in a pipe after reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Perhaps,
}

impl State {
    fn new(phase: Phase, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        State {
            phase,
            sources: [Source::new(stdout), Source::new(stderr)],
            tail: Tail::default(),
            boot_stdout: Tail::default(),
            capture: None,
            when_relayed: Vec::new(),
        }
    }

    /// Reads until the pipe is empty, or `budget_bytes` have come. Never waits.
    fn read(&mut self, stream: Stream, budget_bytes: usize) -> Left {
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while taken < budget_bytes {
            let Some(pipe) = &self.sources[stream as usize].pipe else { return Left::Nothing };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.sources[stream as usize].end(),
                Ok(count) => {
                    taken += count;
                    self.keep(stream, &buffer[..count]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Left::Nothing,
                Err(_) => self.sources[stream as usize].end(), // nothing more can come of it
            }
        }
        Left::Perhaps
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        if stream == Stream::Stdout
            && let Some(capture) = &mut self.capture
        {
            return capture.push(bytes);
        }
        match (stream, self.phase) {
            (Stream::Stderr, _) => self.tail.push(bytes),
            (Stream::Stdout, Phase::Booting) => self.boot_stdout.push(bytes),
            (Stream::Stdout, Phase::Ready) => {}
        }
        if self.phase == Phase::Ready {
            self.sources[stream as usize].pending.extend_from_slice(bytes);
        }
    }
}

/// One pipe.
struct Source {
    /// `None`: it has ended, or never was. Dropping it takes it out of the epoll set.
    pipe: Option<OwnedFd>,
    /// Read and not yet relayed. Only the output thread takes from here and only while it is not
    /// writing, so this is at most a partial line, one read and one drain.
    pending: Vec<u8>,
    /// What was taken last did not end with a line's end.
    inside_line: bool,
}

impl Source {
    fn new(pipe: Option<OwnedFd>) -> Self {
        Source { pipe, pending: Vec::new(), inside_line: false }
    }

    fn end(&mut self) {
        self.pipe = None;
        self.end_line();
    }

    fn end_line(&mut self) {
        let is_inside = self.pending.last().map_or(self.inside_line, |&last| last != b'\n');
        if is_inside {
            self.pending.push(b'\n');
        }
    }

    /// Takes what may be written now: whole lines, or a piece of a line that got too long.
    fn take_lines(&mut self) -> Option<Vec<u8>> {
        let end = match self.pending.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => last + 1,
            None if self.pending.len() >= PARTIAL_LINE_BYTES => self.pending.len(),
            None => return None,
        };
        let rest = self.pending.split_off(end);
        let lines = std::mem::replace(&mut self.pending, rest);
        self.inside_line = lines.last() != Some(&b'\n');
        Some(lines)
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - TAIL_BYTES);
            self.is_cut = true;
        }
    }

    fn text(&self) -> String {
        let over = self.bytes.len().saturating_sub(TAIL_BYTES);
        let kept = &self.bytes[over..];
        // One line longer than the tail has no start in it, and is shown from where it was cut.
        let starts_inside = over > 0 || self.is_cut;
        let start = kept.iter().position(|&byte| byte == b'\n').filter(|_| starts_inside).map_or(0, |at| at + 1);
        let from = if start == kept.len() { 0 } else { start };
        String::from_utf8_lossy(&kept[from..]).into_owned()
    }
}

/// Of stderr, kept for the death of its child.
pub(super) const TAIL_BYTES: usize = 16 * 1024;

/// A line that gets longer than this is relayed in pieces.
pub(super) const PARTIAL_LINE_BYTES: usize = 64 * 1024;

/// Read at a death; a pipe holds 64 KiB, and 1 MiB if the child made it larger. The rest is read
/// by the output thread.
const DRAIN_BYTES: usize = 1024 * 1024;
