//! Which signal has arrived? Handlers that do nothing but wake the control threads.
//!
//! `tokio::signal` never gives a handler back, and its task does not run while the runtime is
//! stuck: so the handlers are ours, and each actor of this process has an eventfd that they write.
#![allow(unsafe_code, reason = "sigaction has no safe wrapper that restores what was there")]
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

/// The signals that end a tree, and the one that asks what it does, in the order of their counters in the eventfd.
const HANDLED: &[i32] = if cfg!(feature = "debug") {
    &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1]
} else {
    &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]
};
/// Bits of the eventfd's counter for each signal: 65,535 unread ones before they would spill over.
const BITS: u32 = 16;
/// Roots that may live in one process at a time.
const MAX_ACTORS: usize = 64;

/// The eventfds to write, -1 where free. The handler may read nothing else.
static TARGETS: [AtomicI32; MAX_ACTORS] = [const { AtomicI32::new(-1) }; MAX_ACTORS];

/// Handlers that run now, on whatever threads: an eventfd that one of them may have found is still to be
/// written.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Installed {
    users: usize,
    before: Vec<libc::sigaction>,
}

static INSTALLED: Mutex<Installed> = Mutex::new(Installed { users: 0, before: Vec::new() });

thread_local! {
    /// What arrives on this thread is sent to it alone, to end what it waits in: nobody else is to hear of it.
    static IS_INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what this thread may be woken from by a SIGINT of its own: that one is no ctrl-c.
pub(crate) fn interruptibly<R>(work: impl FnOnce() -> R) -> R {
    IS_INTERRUPTED.set(true);
    let result = work();
    IS_INTERRUPTED.set(false);
    result
}

extern "C" fn handler(signal: libc::c_int) {
    // A flag without a destructor is part of the thread from its beginning: a handler may read it.
    if signal == libc::SIGINT && IS_INTERRUPTED.get() {
        return;
    }
    RUNNING.fetch_add(1, Ordering::SeqCst); // before the look at `TARGETS`: see `Signals::end`
    // SAFETY: reading and restoring errno is what POSIX asks of a handler that makes system calls.
    let errno = unsafe { *libc::__errno_location() };
    for (slot, number) in HANDLED.iter().enumerate() {
        if *number == signal {
            let count: u64 = 1 << (slot as u32 * BITS);
            let mut is_heard = false;
            for target in &TARGETS {
                let fd = target.load(Ordering::SeqCst);
                if fd >= 0 {
                    // SAFETY: `write` is async-signal-safe, the buffer is a live u64, and the descriptor
                    // is open: it is taken out of `TARGETS`, and no handler runs, before it is closed.
                    unsafe { libc::write(fd, (&raw const count).cast(), 8) };
                    is_heard = true;
                }
            }
            if !is_heard && signal != libc::SIGUSR1 {
                // The last actor has gone since the kernel chose this handler. The old ones are back:
                // the signal is theirs, as soon as this one returns.
                // SAFETY: `raise` is async-signal-safe.
                unsafe { libc::raise(signal) };
            }
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

/// The signals that reach one actor, while it lives. The last one restores the old handlers.
#[derive(Debug)]
pub(crate) struct Signals {
    event: OwnedFd,
    slot: usize,
    is_listening: bool,
}

impl Signals {
    pub(crate) fn install() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut installed = INSTALLED.lock();
        let free = TARGETS.iter().position(|target| target.load(Ordering::SeqCst) < 0);
        let slot = free.ok_or_else(|| io::Error::other(format!("more than {MAX_ACTORS} roots in one process")))?;
        TARGETS[slot].store(event.as_raw_fd(), Ordering::SeqCst);
        if installed.users == 0 {
            installed.before = HANDLED.iter().map(|signal| set_handler(*signal)).collect();
        }
        installed.users += 1;
        Ok(Signals { event, slot, is_listening: true })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.event.as_fd()
    }

    /// The signals that have arrived since the last look, each as often as it did.
    pub(crate) fn take(&self) -> Vec<i32> {
        let mut counters = [0; 8];
        if rustix::io::read(&self.event, &mut counters).is_err() {
            return Vec::new(); // nothing has arrived
        }
        let counters = u64::from_ne_bytes(counters);
        let mut arrived = Vec::new();
        for (slot, signal) in HANDLED.iter().enumerate() {
            let count = (counters >> (slot as u32 * BITS)) & 0xffff;
            arrived.extend(std::iter::repeat_n(*signal, count as usize));
        }
        arrived
    }
}

impl Signals {
    /// Listens no more. What has arrived by then: the next ones go by the old handlers.
    pub(crate) fn end(&mut self) -> Vec<i32> {
        if !self.is_listening {
            return Vec::new();
        }
        self.is_listening = false;
        let mut installed = INSTALLED.lock();
        installed.users -= 1;
        // The handlers go first: a signal in between is in the eventfd, or somebody else's.
        if installed.users == 0 {
            for (signal, before) in HANDLED.iter().zip(installed.before.drain(..)) {
                if *signal == libc::SIGUSR1 && !is_ours(*signal) {
                    continue; // somebody has taken it since
                }
                // SAFETY: `before` is what sigaction gave for this signal.
                unsafe { libc::sigaction(*signal, &raw const before, std::ptr::null_mut()) };
            }
        }
        TARGETS[self.slot].store(-1, Ordering::SeqCst);
        drop(installed);
        // One that has found our eventfd writes it, wherever its thread has been held up: it is a few
        // instructions from there, and never this thread's own.
        while RUNNING.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        let mut arrived = self.take();
        arrived.retain(|signal| *signal != libc::SIGUSR1); // nothing is left to be told of
        arrived
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Whoever drops it unread has no tree that they could end: these are somebody else's.
        for signal in self.end() {
            hand_back(signal);
        }
    }
}

/// Sends this process a signal once more that had come while a tree was there to end, and that nobody was
/// told of: it does now what it does without one. While another tree is there, that one has heard it.
pub(crate) fn hand_back(signal: i32) {
    if INSTALLED.lock().users == 0 {
        // SAFETY: a plain call.
        unsafe { libc::raise(signal) };
    }
}

/// Installs our handler; what was there before.
///
/// A program that was started to ignore SIGHUP (`nohup`) or SIGINT (a background job of a script) goes on ignoring
/// it, as every well-behaved one does: sh(1), signal(7). A program that handles SIGUSR1 itself goes on handling it.
fn set_handler(signal: i32) -> libc::sigaction {
    // SAFETY: both structures are plain data that sigaction reads and fills; zero is a valid mask.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut before);
        let is_theirs = signal == libc::SIGUSR1 && before.sa_sigaction != libc::SIG_DFL;
        if is_theirs || before.sa_sigaction == libc::SIG_IGN && signal != libc::SIGTERM {
            return before;
        }
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = handler_address();
        ours.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(signal, &raw const ours, std::ptr::null_mut());
        before
    }
}

fn handler_address() -> usize {
    handler as extern "C" fn(libc::c_int) as usize
}

/// Whether it is our handler that would run now.
fn is_ours(signal: i32) -> bool {
    // SAFETY: the structure is plain data that sigaction fills.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == handler_address()
    }
}

/// Undoes what this process was started with: where SIGINT and SIGHUP were ignored (a script's background job,
/// `nohup`), they are what they are by default. Before the first handler of anybody.
pub(crate) fn ignore_none() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: a plain call; SIG_DFL is a valid handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A descriptor that can be read when a child of this process has ended, whoever that is. The signal that says so comes to this thread
/// no more.
#[cfg(feature = "tls")]
pub(crate) fn children_that_end() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the set is plain data that sigemptyset makes valid; the descriptor is new, and nobody else's.
    unsafe {
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, libc::SIGCHLD);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        match libc::signalfd(-1, &raw const only, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Ends this process the way `signal` would have without a handler.
pub(crate) fn die_by(signal: i32) -> ! {
    // SAFETY: restoring the default and raising are plain calls; SIG_DFL is a valid handler. The
    // signal is unblocked, so that it arrives here and now.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
        libc::raise(signal);
        libc::_exit(128 + signal)
    }
}

/// Ends this process now: no destructor of a static, no atexit hook runs.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` may be called at any time, from any thread.
    unsafe { libc::_exit(status) }
}
