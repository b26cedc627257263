//! What ends, and is it gone? One std thread per actor, from cancel to reaped.
//!
//! It uses no tokio, never logs, writes to stdio or spawns, and takes no lock that may be held
//! while user code runs: whatever the runtime is doing, a cancel is heard here.
mod datagrams;
pub(crate) mod kids;
mod obituaries;
pub(crate) mod orphans;
mod starting;
mod thread;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::{Notify, oneshot};

use self::starting::Starting;
use self::thread::Token;
use super::child::Child;
use super::load::Loads;
use super::signals::Signals;
use super::suspend::{self, Listed};
use super::{Actor, DataLine};
use crate::channel::line::{Line, LineInbox};
use crate::msg::addr::Addrs;
use crate::msg::death::Receipt;
use crate::msg::frame::Frame;
use crate::msg::ident::{Aid, Canceller};
use crate::proto::pulse::Pulse;

/// Who keeps the names of a tree: the registrar, a floor up, in the root.
pub(crate) trait NameSink: Send + Sync {
    /// `pidfd`: `None` where it runs on another host.
    fn born(&self, aid: &Aid, parent: &Aid, start_ticks: u64, pidfd: Option<&Arc<OwnedFd>>);
    fn ready(&self, aid: &Aid, addrs: &Addrs);
    fn gone(&self, aid: &Aid);
    /// All that live, in the order in which they were started.
    fn living(&self) -> Vec<Living>;
}

/// An actor of the tree, as its root knows it.
#[derive(Clone, Debug)]
pub(crate) struct Living {
    pub(crate) aid: Aid,
    /// `None`: it is the root.
    pub(crate) parent: Option<uuid::Uuid>,
    pub(crate) start_ticks: u64,
}

/// What the control thread is asked to do.
pub(crate) enum Command {
    /// This thread starts a process, which may come to a stop where nobody knows of it yet.
    Starting(Starting),
    /// It has started none.
    NotStarted,
    /// A child's process exists: see to it from now on.
    Watch {
        child: Arc<Child>,
        pidfd: Arc<OwnedFd>,
        listed: Option<Listed>,
        is_watched: bool,
        boot_by: Instant,
        boot_within: Duration,
    },
    /// Its control line is up.
    Attach { child: Arc<Child>, line: Arc<Line>, inbox: LineInbox },
    /// A data line goes by datagrams, or to another host: see that it is kept up, or given up.
    Tend { line: Arc<DataLine>, lost_after: Duration },
    /// It is on its way, and has got on at this time: its time to boot begins anew.
    GetsOn { child: Arc<Child>, at: Instant },
    /// Its data line is up too: it serves.
    Ready { child: Arc<Child> },
    /// End it.
    Cancel { child: Arc<Child>, canceller: Canceller, grace: Duration, asked_at: Instant, is_sent: bool },
    /// Its data line has broken: end it, on nobody's behalf.
    LineBroken { child: Arc<Child> },
    /// A control line's kernel buffer is full: flush when there is room. `None`: the parent's.
    Blocked { child: Option<u64> },
    /// End another actor of the tree, wherever it is, and tell when it is gone.
    EndOther { aid: Aid, canceller: Canceller, told: oneshot::Sender<Option<Receipt>> },
    /// Ask how another actor of the tree has ended, and tell as soon as it has been reaped.
    AskObituary { aid: Aid, told: oneshot::Sender<Option<Receipt>> },
    /// Have all that are below say what they do, for this dump of the root.
    Dump { id: u64 },
    /// Have all actors of this root tell how much they have to do.
    Loads { asked: Arc<Loads> },
    /// What a child is busy with whose time is over. `more`: it is told once more, with names.
    Stuck { child: u64, text: String, more: bool },
    /// End this actor.
    EndSelf { canceller: Canceller, grace: Duration },
    /// The data line to the parent has ended, so the parent has.
    ParentLost,
    /// Tell when all that had come from the parent by now has been read.
    CatchUp { told: oneshot::Sender<()> },
    /// End the thread, now that no child is left.
    Stop,
}

/// The handle to an actor's control thread.
pub(crate) struct Control {
    /// `None`: the thread has ended. What comes then is dropped: kept, it would hold its child,
    /// the child its line, and the line this actor.
    queue: Mutex<Option<Queue>>,
    epoll: OwnedFd,
    /// Wakes the thread.
    event: OwnedFd,
    /// Wakes it later; there from the first child on.
    timer: OnceLock<OwnedFd>,
    /// The control line to the parent, in a child.
    pub(crate) up: Option<Arc<Line>>,
    /// Children, and what they had started, that are not gone.
    living: AtomicUsize,
    none_living: Notify,
    none: Mutex<()>,
    none_blocking: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Lines to other hosts, which hear from us even when there is nothing to say.
    remote: Mutex<Vec<Weak<Line>>>,
    /// The debug socket of a root, until the first one connects.
    debug: Mutex<Option<OwnedFd>>,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    /// When the timer brings the thread to them.
    timed_at: Option<Instant>,
}

impl Control {
    /// The handle alone: commands wait until [`Control::start`].
    pub(crate) fn new(up: Option<Arc<Line>>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Control {
            queue: Mutex::new(Some(Queue::default())),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            timer: OnceLock::new(),
            up,
            living: AtomicUsize::new(0),
            none_living: Notify::new(),
            none: Mutex::default(),
            none_blocking: Condvar::new(),
            thread: Mutex::default(),
            remote: Mutex::default(),
            debug: Mutex::default(),
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

    /// Has the thread hand a listening socket to the debugger once somebody has connected there.
    pub(crate) fn watch_debug(&self, listener: OwnedFd) -> io::Result<()> {
        epoll::add(&self.epoll, &listener, Token::Debug.encode(), epoll::EventFlags::IN)?;
        *self.debug.lock() = Some(listener);
        Ok(())
    }

    pub(crate) fn take_debug(&self) -> Option<OwnedFd> {
        let listener = self.debug.lock().take()?;
        // It was added when it came: an error would be a descriptor that is closed, which ends the watch as well.
        let _ = epoll::delete(&self.epoll, &listener);
        Some(listener)
    }

    pub(crate) fn send(&self, command: Command) {
        self.book(command);
        self.wake();
    }

    /// Leaves a command for the thread's next look, for one that has to be known before what
    /// follows it happens; [`Control::wake`] or [`Control::wake_within`] has to follow, unless the
    /// thread need not know of it before it looks for another reason.
    pub(crate) fn book(&self, command: Command) {
        if let Some(queue) = self.queue.lock().as_mut() {
            queue.commands.push(command);
        }
    }

    /// The calling thread starts a process now. [`Control::watch`] says that it is there, [`Control::not_started`]
    /// that there is none.
    pub(crate) fn starting(&self, now: Instant) {
        self.add_timer();
        let (thread, continued) = (rustix::thread::gettid(), suspend::times_continued());
        self.book(Command::Starting(Starting { thread, look_at: now + starting::LOOK_AFTER, continued }));
        self.wake_within(starting::LOOK_AFTER);
    }

    pub(crate) fn not_started(&self) {
        self.book(Command::NotStarted);
    }

    /// Sees to a child from now on, that was started at `began`. The thread need not wake for that: the child's line
    /// or its end wakes it, or the end of its time to boot.
    pub(crate) fn watch(&self, child: &Arc<Child>, pidfd: Arc<OwnedFd>, began: Instant, boot_within: Duration) {
        self.living.fetch_add(1, Ordering::AcqRel);
        let token = Token::Process(child.key).encode();
        let is_watched = epoll::add(&self.epoll, &pidfd, token, epoll::EventFlags::IN).is_ok();
        let boot_by = began + boot_within;
        // What leads to another host goes on, or nothing would get there.
        let listed = (self.up.is_none() && !child.is_far).then(|| Listed::new(Some(&child.aid), &pidfd));
        self.book(Command::Watch { child: Arc::clone(child), pidfd, listed, is_watched, boot_by, boot_within });
        self.wake_within(if is_watched { boot_within } else { Duration::ZERO });
    }

    /// The control line of a child is up.
    pub(crate) fn attach(&self, child: &Arc<Child>, line: Arc<Line>, inbox: LineInbox) {
        // What TLS has read along makes no descriptor readable.
        let has_come = !inbox.is_empty() || line.is_secured();
        let token = Token::Line(child.key).encode();
        self.book(Command::Attach { child: Arc::clone(child), line: Arc::clone(&line), inbox });
        // Only now: what comes from here on comes to a child whose line is known.
        let watched = line.with_fd(|fd| epoll::add(&self.epoll, fd, token, thread::line_events()));
        let is_watched = matches!(watched, Some(Ok(())));
        if !is_watched {
            line.close(); // a line that can't be watched is a line that is lost: its child ends
        }
        if has_come || !is_watched {
            self.wake();
        }
    }

    /// The pulse of a line, if that goes to another host: it is to hear from us from now on.
    fn pulse_of(&self, line: &Arc<Line>, now: Instant, lost_after: Duration) -> Option<Pulse> {
        // Where the kernel keeps the line, it tells of the other side's end too, on one host.
        if !line.is_remote() && !line.is_timed() {
            return None;
        }
        let mut remote = self.remote.lock();
        remote.retain(|line| line.strong_count() > 0);
        remote.push(Arc::downgrade(line));
        Some(Pulse::new(now, lost_after))
    }

    /// Says on a line to another host that this actor lives.
    ///
    /// Whether it `is_held` is asked where nobody else can say it in between: what is said last is how it is.
    fn beat(&self, line: &Line, late: Duration, is_held: impl FnOnce() -> bool) {
        let _in_order = self.remote.lock();
        let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        // A line that is broken shows that to its reader.
        let _ = line.send(&Frame::Beat { late_ms, is_held: is_held() });
    }

    /// The same on all lines to other hosts, when it changes whether this actor is held. Callable wherever
    /// [`Clock::hold`](super::clock::Clock::hold) is.
    pub(crate) fn beat_everywhere(&self, is_held: impl FnOnce() -> bool) {
        let mut remote = self.remote.lock();
        if remote.is_empty() {
            return;
        }
        let is_held = is_held();
        remote
            .retain(|line| line.upgrade().is_some_and(|line| line.send(&Frame::Beat { late_ms: 0, is_held }).is_ok()));
    }

    /// Makes the timer of [`Control::wake_within`], which works without one too.
    fn add_timer(&self) {
        if self.timer.get().is_some() {
            return;
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET; // nobody reads it
        if let Ok(timer) = timerfd_create(TimerfdClockId::Monotonic, flags)
            && epoll::add(&self.epoll, &timer, Token::Commands.encode(), edges).is_ok()
        {
            // Another spawner of this actor may have been first: one is enough.
            let _ = self.timer.set(timer);
        }
    }

    pub(crate) fn wake(&self) {
        // Nobody reads the counter: each write is an edge. It is full after 2^64 - 2 of them.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Has the thread look at what was booked within `delay`, if nothing else wakes it before.
    pub(crate) fn wake_within(&self, delay: Duration) {
        let Some(timer) = self.timer.get() else { return self.wake() };
        if delay.is_zero() {
            return self.wake();
        }
        let at = Instant::now() + delay;
        let is_earlier = self.queue.lock().as_mut().is_some_and(|queue| {
            let is_earlier = !queue.commands.is_empty() && queue.timed_at.is_none_or(|before| at < before);
            if is_earlier {
                queue.timed_at = Some(at);
            }
            is_earlier
        });
        if is_earlier && wake_at_end_of(timer, delay).is_err() {
            self.wake();
        }
    }

    /// Waits until the thread has acted on all that the parent had said by now.
    pub(crate) async fn caught_up(&self) {
        let (told, heard) = oneshot::channel();
        self.send(Command::CatchUp { told });
        // An error: it has ended, and there is nothing to act on any more.
        let _ = heard.await;
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

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("living", &self.living).finish_non_exhaustive()
    }
}

/// The thread's stack, in bytes: its deepest call chain is a dozen frames.
const STACK_BYTES: usize = 128 * 1024;
