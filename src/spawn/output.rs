//! What happens to what a child prints? The last of it is kept for its death, and whole lines go on to our own stdout and stderr.
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll};
use rustix::io::Errno;

mod child;
pub(super) mod far;
pub(crate) mod program;
#[cfg(test)]
mod tests;

pub(crate) use child::{Capture, ChildOutput};
use child::{STREAMS, Stream};

/// The one thread of an actor that writes what its children print.
///
/// Only this thread waits for our stdout and stderr. While one of them is blocked it reads no
/// pipe, so a child that goes on printing waits too, and nobody else does. Idle, it sleeps in one
/// `epoll_wait` without a timeout.
pub(crate) struct OutputThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Whether [`OutputThread::finish`] got everything out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// All that had been read is written, and the thread is gone.
    Relayed,
    /// Our stdout or stderr is blocked. The thread is left behind; it ends, throwing the rest
    /// away, when that write comes back.
    Blocked,
}

impl OutputThread {
    /// Starts the thread, which writes to this process's own stdout and stderr.
    ///
    /// # Errors
    ///
    /// No descriptor or no thread is to be had.
    pub(crate) fn start(name: &str) -> io::Result<OutputThread> {
        Self::start_with(name, [Box::new(OwnStdout), Box::new(OwnStderr)])
    }

    /// Starts a thread for those whose lines go elsewhere: it never waits for anything but their pipes.
    ///
    /// # Errors
    ///
    /// As [`OutputThread::start`].
    pub(crate) fn start_apart(name: &str) -> io::Result<OutputThread> {
        Self::start_with(name, [Box::new(Nowhere), Box::new(Nowhere)])
    }

    fn start_with(name: &str, sinks: [Box<dyn Sink>; 2]) -> io::Result<OutputThread> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            children: Mutex::default(),
            stage: Mutex::new(Stage::Running),
            ended: Condvar::new(),
            on_broken_pipe: Mutex::default(),
        });
        let data = epoll::EventData::new_u64(WAKE);
        epoll::add(&shared.epoll, &shared.wake, data, epoll::EventFlags::IN)?;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn({
            let shared = shared.clone();
            move || Relay { shared: &shared, outlets: sinks.map(Outlet::new) }.run()
        })?;
        Ok(OutputThread { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Sets what is called, once, when nobody reads our stdout any more (`| head -1`).
    ///
    /// Later lines for stdout are thrown away. It is called on the output thread.
    pub(crate) fn on_broken_pipe(&self, act: Box<dyn Fn() + Send>) {
        *self.shared.on_broken_pipe.lock() = Some(act);
    }

    /// Watches a child's pipes from now until both have ended.
    ///
    /// # Errors
    ///
    /// The kernel's limit of watched descriptors is reached: nothing of this child is watched.
    pub(crate) fn add(&self, child: Arc<ChildOutput>) -> io::Result<()> {
        if child.is_over() {
            return Ok(()); // it has no pipes
        }
        let id = self.shared.children.lock().insert(child.clone());
        let watched = child.relayed_by(&self.shared, id);
        match watched {
            // It may have been drained before: that is relayed now.
            Ok(()) if child.has_more() => _ = self.shared.look_at(id),
            Ok(()) => {}
            Err(_) => _ = self.shared.children.lock().by_id.remove(&id),
        }
        watched
    }

    /// Relays what the children have written so far, then ends the thread and closes their pipes.
    ///
    /// Returns after `within` at the latest, blocked terminal or not. A second call returns at once.
    pub(crate) fn finish(&self, within: Duration) -> Finished {
        let deadline = Instant::now() + within;
        let Some(thread) = self.thread.lock().take() else {
            return if *self.shared.stage.lock() == Stage::Ended { Finished::Relayed } else { Finished::Blocked };
        };
        self.shared.set_stage(Stage::Finishing);
        let mut stage = self.shared.stage.lock();
        while *stage != Stage::Ended {
            if self.shared.ended.wait_until(&mut stage, deadline).timed_out() && *stage != Stage::Ended {
                *stage = Stage::Abandoned;
                return Finished::Blocked;
            }
        }
        drop(stage);
        // A panic there came from a callback and has been printed: the thread is gone either way.
        let _ = thread.join();
        Finished::Relayed
    }
}

impl Drop for OutputThread {
    /// Lets the thread end by itself; [`OutputThread::finish`] waits for it.
    fn drop(&mut self) {
        if self.thread.lock().is_some() {
            self.shared.set_stage(Stage::Finishing);
        }
    }
}

impl fmt::Debug for OutputThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputThread").field("stage", &*self.shared.stage.lock()).finish_non_exhaustive()
    }
}

/// What the thread and its handles share.
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    children: Mutex<Children>,
    stage: Mutex<Stage>,
    ended: Condvar,
    on_broken_pipe: Mutex<Option<Box<dyn Fn() + Send>>>,
}

#[derive(Default)]
struct Children {
    next_id: u64,
    by_id: HashMap<u64, Arc<ChildOutput>>,
    /// Who has something to relay that no pipe will tell of.
    to_look_at: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Finishing,
    /// Nobody waits any more: what is left is thrown away, and that stays the last word.
    Abandoned,
    Ended,
}

/// Whether the thread will come to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Soon,
    NeverAgain,
}

impl Children {
    fn insert(&mut self, child: Arc<ChildOutput>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.by_id.insert(id, child);
        id
    }
}

impl Shared {
    fn look_at(&self, id: u64) -> Looked {
        let mut children = self.children.lock();
        if *self.stage.lock() != Stage::Running || !children.by_id.contains_key(&id) {
            return Looked::NeverAgain;
        }
        children.to_look_at.push(id);
        drop(children);
        self.wake();
        Looked::Soon
    }

    fn set_stage(&self, stage: Stage) {
        *self.stage.lock() = stage;
        self.wake();
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is being woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn child(&self, id: u64) -> Option<Arc<ChildOutput>> {
        self.children.lock().by_id.get(&id).cloned()
    }
}

/// The thread's own side.
struct Relay<'a> {
    shared: &'a Shared,
    outlets: [Outlet; 2],
}

impl Relay<'_> {
    fn run(mut self) {
        let _ended = Ended(self.shared); // also if a callback panics
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        while *self.shared.stage.lock() == Stage::Running {
            events.clear();
            match epoll::wait(&self.shared.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break, // the kernel refuses our own descriptor: there is nothing to relay from
            }
            for event in &events {
                match event.data.u64() {
                    // An empty counter is fine: it has been read already.
                    WAKE => _ = rustix::io::read(&self.shared.wake, &mut [0; 8]),
                    token => self.read(token / 2, STREAMS[(token % 2) as usize]),
                }
            }
            let to_look_at = std::mem::take(&mut self.shared.children.lock().to_look_at);
            for id in to_look_at {
                if let Some(child) = self.shared.child(id) {
                    self.relay(id, &child);
                }
            }
        }
        self.relay_the_rest();
    }

    fn read(&mut self, id: u64, stream: Stream) {
        let Some(child) = self.shared.child(id) else { return };
        child.read(stream, READ_BYTES);
        self.relay(id, &child);
    }

    /// The one place where lines leave.
    fn relay(&mut self, id: u64, child: &ChildOutput) {
        for stream in STREAMS {
            while let Some(lines) = child.take_lines(stream) {
                match child.lines() {
                    Some(own) => own.push(stream, lines),
                    None => self.write(id, stream, &lines),
                }
            }
        }
        if child.is_over() {
            self.shared.children.lock().by_id.remove(&id);
        }
        child.call_waiters(); // last: one that comes later finds that nobody will look again
    }

    fn write(&mut self, id: u64, stream: Stream, lines: &[u8]) {
        if *self.shared.stage.lock() == Stage::Abandoned {
            return;
        }
        let broke = self.outlets[stream as usize].write(id, lines);
        if broke == Broke::Now && stream == Stream::Stdout {
            let act = self.shared.on_broken_pipe.lock().take();
            if let Some(act) = act {
                act();
            }
        }
    }

    fn relay_the_rest(&mut self) {
        let children = std::mem::take(&mut self.shared.children.lock().by_id);
        for (id, child) in children {
            child.end();
            self.relay(id, &child);
        }
    }
}

/// Says that the thread is over, however it came to that.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut stage = self.0.stage.lock();
        if *stage != Stage::Abandoned {
            *stage = Stage::Ended;
        }
        self.0.ended.notify_all();
    }
}

/// A sink, and in whose line it stands.
struct Outlet {
    sink: Box<dyn Sink>,
    /// The child whose line was written in part.
    inside_line_of: Option<u64>,
    is_broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broke {
    No,
    Now,
}

impl Outlet {
    fn new(sink: Box<dyn Sink>) -> Self {
        Outlet { sink, inside_line_of: None, is_broken: false }
    }

    fn write(&mut self, id: u64, lines: &[u8]) -> Broke {
        if self.is_broken {
            return Broke::No;
        }
        // Another child's long line is not over: ours begins on a line of its own all the same.
        let broken_off = self.inside_line_of.is_some_and(|other| other != id);
        let before: &[u8] = if broken_off { b"\n" } else { b"" };
        self.inside_line_of = (lines.last() != Some(&b'\n')).then_some(id);
        match self.sink.write(&[before, lines].concat()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_broken = true;
                Broke::Now
            }
            // A full disk, a terminal that went away: these lines are lost, and nobody is left to tell.
            Ok(()) | Err(_) => Broke::No,
        }
    }
}

/// Where lines go.
trait Sink: Send {
    /// Writes all of it in one go, and waits for room as long as it takes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Of a thread whose children have places of their own for their lines.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

struct OwnStdout;

impl Sink for OwnStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stdout = io::stdout(); // its lock is the one of `println!`
        write_all(&mut stdout.lock(), stdout.as_fd(), bytes)
    }
}

struct OwnStderr;

impl Sink for OwnStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stderr = io::stderr();
        write_all(&mut stderr.lock(), stderr.as_fd(), bytes)
    }
}

/// `write_all` and `flush` for a descriptor that somebody may have made non-blocking.
fn write_all(writer: &mut impl Write, fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match patiently(fd, || writer.write(bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    patiently(fd, || writer.flush())
}

fn patiently<T>(fd: BorrowedFd<'_>, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_writable(fd)?,
            result => return result,
        }
    }
}

fn wait_writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The token of the eventfd; children's tokens are even and odd numbers from 0.
const WAKE: u64 = u64::MAX;

/// More than this come with the next `epoll_wait`.
const EVENTS_AT_ONCE: usize = 32;

/// Read from one child before another has its turn.
const READ_BYTES: usize = 64 * 1024;
