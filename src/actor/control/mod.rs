//! What ends, and is it gone? One std thread per actor, from cancel to reaped.
//!
//! It uses no tokio, never logs, writes to stdio or spawns, and takes no lock that may be held
//! while user code runs: whatever the runtime is doing, a cancel is heard here.
mod kids;
mod thread;

pub(crate) use thread::start_ticks;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
use tokio::sync::Notify;

use super::Actor;
use super::child::Child;
use super::signals::Signals;
use crate::channel::line::{Line, LineInbox};
use crate::msg::frame::Frame;
use crate::msg::ident::{Addr, Aid, Canceller};

/// Who keeps the names of a tree: the registrar, a floor up, in the root.
pub(crate) trait NameSink: Send + Sync {
    fn born(&self, aid: &Aid, parent: &Aid, start_ticks: u64, pidfd: &Arc<OwnedFd>);
    fn ready(&self, aid: &Aid, addr: &Addr);
    fn gone(&self, aid: &Aid);
}

/// What the control thread is asked to do.
pub(crate) enum Command {
    /// A child's process exists: watch it from now on.
    Watch { child: Arc<Child>, pidfd: Arc<OwnedFd>, boot_within: Duration },
    /// Its control line is up.
    Attach { child: Arc<Child>, line: Arc<Line>, inbox: LineInbox },
    /// Its data line is up too: it serves.
    Ready { child: Arc<Child> },
    /// End it.
    Cancel { child: Arc<Child>, canceller: Canceller, grace: Duration, asked_at: Instant, is_sent: bool },
    /// Its data line has broken: end it, on nobody's behalf.
    LineBroken { child: Arc<Child> },
    /// A control line's kernel buffer is full: flush when there is room. `None`: the parent's.
    Blocked { child: Option<u64> },
    /// End another actor of the tree, wherever it is.
    EndOther { aid: Aid, canceller: Canceller },
    /// End this actor.
    EndSelf { canceller: Canceller, grace: Duration },
    /// The data line to the parent has ended, so the parent has.
    ParentLost,
    /// End the thread, now that no child is left.
    Stop,
}

/// The handle to an actor's control thread.
pub(crate) struct Control {
    /// `None`: the thread has ended. What comes then is dropped: kept, it would hold its child,
    /// the child its line, and the line this actor.
    queue: Mutex<Option<Queue>>,
    event: OwnedFd,
    /// Wakes the thread later; there from the first child on.
    timer: OnceLock<OwnedFd>,
    /// The control line to the parent, in a child.
    pub(crate) up: Option<Arc<Line>>,
    /// Children, and what they had started, that are not gone.
    living: AtomicUsize,
    none_living: Notify,
    none: Mutex<()>,
    none_blocking: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    /// The timer will bring the thread to them.
    is_timed: bool,
}

impl Control {
    /// The handle alone: commands wait until [`Control::start`].
    pub(crate) fn new(up: Option<Arc<Line>>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Control {
            queue: Mutex::new(Some(Queue::default())),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            timer: OnceLock::new(),
            up,
            living: AtomicUsize::new(0),
            none_living: Notify::new(),
            none: Mutex::default(),
            none_blocking: Condvar::new(),
            thread: Mutex::default(),
        }))
    }

    /// Starts the thread. It holds the actor only weakly.
    pub(crate) fn start(self: &Arc<Self>, actor: Weak<Actor>, signals: Signals, up_inbox: LineInbox) -> io::Result<()> {
        let thread = thread::Thread::new(Arc::clone(self), actor, signals, up_inbox)?;
        let handle =
            std::thread::Builder::new().name("teamster-control".into()).stack_size(STACK_BYTES).spawn(move || {
                // Without it nothing would ever end: better no process than one that nobody can end.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread.run())).is_err() {
                    std::process::abort();
                }
            })?;
        *self.thread.lock() = Some(handle);
        Ok(())
    }

    pub(crate) fn send(&self, command: Command) {
        self.book(command);
        self.wake();
    }

    /// Leaves a command for the thread's next look, for one that has to be known before what
    /// follows it happens; [`Control::wake`] or [`Control::wake_within`] has to follow, unless the
    /// thread need not know of it before it looks for another reason.
    pub(crate) fn book(&self, command: Command) {
        if matches!(command, Command::Watch { .. }) {
            self.living.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(queue) = self.queue.lock().as_mut() {
            queue.commands.push(command);
        }
    }

    pub(crate) fn wake(&self) {
        // Nobody reads the counter: each write is an edge. It is full after 2^64 - 2 of them.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Has the thread look at what was booked within `delay`, if nothing else wakes it before.
    pub(crate) fn wake_within(&self, delay: Duration) {
        let Some(timer) = self.timer.get() else { return self.wake() };
        let must_set = match self.queue.lock().as_mut() {
            Some(queue) => !queue.commands.is_empty() && !std::mem::replace(&mut queue.is_timed, true),
            None => false,
        };
        if must_set && wake_at_end_of(timer, delay).is_err() {
            self.wake();
        }
    }

    /// Sends a frame to the parent. A root has none, and a broken line has ended this actor.
    pub(crate) fn send_up(&self, frame: &Frame<'_>) -> io::Result<()> {
        self.up.as_ref().map_or(Ok(()), |up| up.send(frame))
    }

    /// Waits until no child is left, nor anything that one had started.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    pub(crate) async fn none_living(&self) {
        loop {
            let notified = self.none_living.notified();
            if self.living.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// The same for a thread without a runtime.
    pub(crate) fn wait_none_living(&self) {
        let mut none = self.none.lock();
        while self.has_living() {
            self.none_blocking.wait(&mut none);
        }
    }

    pub(crate) fn has_living(&self) -> bool {
        self.living.load(Ordering::Acquire) > 0
    }

    fn one_gone(&self) {
        if self.living.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none_living.notify_waiters();
            let _none = self.none.lock(); // whoever has just looked is waiting by now
            self.none_blocking.notify_all();
        }
    }

    /// Ends the thread and waits for it. For a root, when nothing is left to watch.
    pub(crate) fn stop(&self) {
        self.send(Command::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It catches nothing and calls no user code: a panic there is a bug, said by the hook.
            let _ = thread.join();
        }
        self.queue.lock().take();
    }

    fn take(&self) -> Vec<Command> {
        self.queue.lock().as_mut().map(std::mem::take).unwrap_or_default().commands
    }
}

fn wake_at_end_of(timer: &OwnedFd, delay: Duration) -> io::Result<()> {
    let delay = Timespec::try_from(delay).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value: delay };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("living", &self.living).finish_non_exhaustive()
    }
}

/// The thread's stack, in bytes: its deepest call chain is a dozen frames.
const STACK_BYTES: usize = 128 * 1024;
