//! How does the terminal's ctrl-z reach the whole tree? A root stops its actors, then itself, and continues them.
//!
//! Actors are in process groups of their own, so the terminal's SIGTSTP comes to the root alone. Its handler stops all
//! of them before the shell sees that the root has stopped. Continued, by `fg` or `bg`, each control thread
//! tells its children for how long all stood still, and only then continues them: so the time never counts.
#![allow(unsafe_code, reason = "a signal's handler, and what it may call")]
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::msg::ident::Aid;

// ---- the time

/// Nanoseconds, twice: how long this process has stood still so far; or while it does, and then it is odd, how long it
/// had been awake since [`ORIGIN`]. In one number, as a handler changes it.
static STOOD: AtomicU64 = AtomicU64::new(0);

/// Before the first stop.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The time in which this process has not been stopped by its terminal, and how long it has been.
pub(super) fn awake() -> (Instant, Duration) {
    loop {
        let stood = STOOD.load(Ordering::SeqCst);
        let now = Instant::now();
        // A stop in between would be none.
        if STOOD.load(Ordering::SeqCst) == stood {
            let nanos = Duration::from_nanos(stood >> 1);
            return match ORIGIN.get() {
                Some(origin) if stood & 1 == 1 => {
                    let awake = *origin + nanos;
                    (awake, now.saturating_duration_since(awake))
                }
                _ => (now - nanos, nanos),
            };
        }
    }
}

/// Whether it is being stopped, or was continued this moment.
pub(super) fn is_suspended() -> bool {
    STOOD.load(Ordering::SeqCst) & 1 == 1
}

/// Somebody else has stopped this process and knows for how long.
pub(super) fn has_stood(nanos: u64) {
    // No longer than can be told, whatever was said.
    let add = |stood: u64| Some((stood >> 1).saturating_add(nanos).min(u64::MAX >> 1) << 1);
    // It always gives a number.
    let _ = STOOD.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    CONTINUED.fetch_add(1, Ordering::SeqCst);
}

/// How often this process has been continued so far.
pub(super) fn times_continued() -> u64 {
    CONTINUED.load(Ordering::SeqCst)
}

/// From now on it stands still.
fn stand() {
    let (_, stood) = awake();
    let awake = ORIGIN.get().map_or(Duration::ZERO, Instant::elapsed).saturating_sub(stood);
    STOOD.store(nanos(awake) << 1 | 1, Ordering::SeqCst);
}

/// No more.
fn go_on() {
    let awake = Duration::from_nanos(STOOD.load(Ordering::SeqCst) >> 1);
    let stood = ORIGIN.get().map_or(Duration::ZERO, Instant::elapsed).saturating_sub(awake);
    STOOD.store(nanos(stood) << 1, Ordering::SeqCst);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX >> 1)
}

// ---- the stop

/// Stops this process's group, as the terminal does at a ctrl-z; returns when it goes on. By no control thread.
///
/// Another thread may take the signal, so the one that sends it is still running for a moment. What nobody could
/// continue is not stopped: then that is waited out.
pub(crate) fn stop_group() {
    let continued = CONTINUED.load(Ordering::SeqCst);
    let patience = Instant::now() + STOPPED_WITHIN;
    // SAFETY: a plain call. It fails for nobody: we are in that group.
    unsafe { libc::kill(0, libc::SIGTSTP) };
    while CONTINUED.load(Ordering::SeqCst) == continued && (is_suspended() || Instant::now() < patience) {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Until a signal that was sent has stopped this process.
const STOPPED_WITHIN: Duration = Duration::from_millis(200);

/// What the handler looks at. Whoever else takes it blocks the signal meanwhile, so it is never waited for by whom it
/// has interrupted. Nothing is allocated under it either: the handler may have interrupted whoever holds the
/// allocator's lock.
static TABLE: Mutex<Table> =
    Mutex::new(Table { actors: Vec::new(), free_from: 0, wake: [None; MAX_ROOTS], before: None });

/// How often this process was to be stopped, and how often it was continued.
static STOPS: AtomicU64 = AtomicU64::new(0);
static CONTINUED: AtomicU64 = AtomicU64::new(0);

/// Control threads that have stopped what they had heard of by the last stop, and not yet listed.
static READY_TO_STOP: AtomicUsize = AtomicUsize::new(0);

/// How long the handler waits for them: one of them may wait for a lock of whom it has interrupted.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// Roots that may live in one process at a time: more are refused by [`super::signals::Signals`].
const MAX_ROOTS: usize = 64;

struct Table {
    /// All processes of this process's trees.
    actors: Vec<Option<Listing>>,
    /// No place before this one is free.
    free_from: usize,
    /// The eventfds of the control threads of roots.
    wake: [Option<RawFd>; MAX_ROOTS],
    /// What a SIGTSTP would have done without us. `None`: it does.
    before: Option<libc::sigaction>,
}

/// A process, by a descriptor that is open.
#[derive(Clone, Copy, Debug)]
struct Listing {
    pidfd: RawFd,
    /// Its process group, which holds its helpers. 0: it is not known.
    group: libc::pid_t,
}

impl Table {
    fn wake_all(&self) -> usize {
        let mut roots = 0;
        for wake in self.wake.iter().flatten() {
            // SAFETY: `write` is async-signal-safe, the buffer is a live u64, and the descriptor is open: it is taken
            // out of the table before it is closed.
            unsafe { libc::write(*wake, (&raw const ONE).cast(), 8) };
            roots += 1;
        }
        roots
    }
}

static ONE: u64 = 1;

/// The table, and no stop by this thread while this lives.
struct Access {
    table: Option<MutexGuard<'static, Table>>,
    mask: libc::sigset_t,
}

impl Access {
    fn take() -> Access {
        let mask = change_mask(libc::SIG_BLOCK, &only_ours());
        Access { table: Some(locked()), mask }
    }
}

impl Deref for Access {
    type Target = Table;
    fn deref(&self) -> &Table {
        self.table.as_ref().expect(HELD)
    }
}

impl DerefMut for Access {
    fn deref_mut(&mut self) -> &mut Table {
        self.table.as_mut().expect(HELD)
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.table = None; // before a signal that has waited interrupts us
        change_mask(libc::SIG_SETMASK, &self.mask);
    }
}

const HELD: &str = "it is given back by the drop alone";

/// A try never parks a thread, so that nobody has to be unparked by a handler.
fn locked() -> MutexGuard<'static, Table> {
    loop {
        if let Some(table) = TABLE.try_lock() {
            return table;
        }
        std::hint::spin_loop();
    }
}

/// While one of these lives, ctrl-z stops the actors of a root too. The last one restores the old handler.
#[derive(Debug)]
pub(super) struct Suspension {
    place: Option<usize>,
    /// Stops that this root has made ready for, and continued its actors from.
    stops: u64,
    continued: u64,
    stood: Duration,
}

impl Suspension {
    /// `wake` wakes the control thread of a root, when something is to be stopped or continued.
    ///
    /// Where the program was started to ignore SIGTSTP, as by a shell that knows no jobs, it goes on ignoring it.
    pub(super) fn install(wake: &OwnedFd) -> Suspension {
        ORIGIN.get_or_init(Instant::now);
        let mut table = Access::take();
        let is_first = table.wake.iter().all(Option::is_none);
        let place = table.wake.iter().position(Option::is_none);
        if let Some(place) = place {
            table.wake[place] = Some(wake.as_raw_fd());
        }
        let before = if is_first { disposition() } else { None };
        if let Some(before) = before.filter(|before| before.sa_sigaction != libc::SIG_IGN) {
            table.before = Some(before);
            dispose(&ours());
        }
        let (stops, continued) = (STOPS.load(Ordering::SeqCst), CONTINUED.load(Ordering::SeqCst));
        Suspension { place, stops, continued, stood: awake().1 }
    }

    /// Whether this process is about to stop. Whoever asks then lists what it has heard of, and says so by
    /// [`is_ready_to_stop`].
    pub(super) fn is_to_stop(&mut self) -> bool {
        let stops = STOPS.load(Ordering::SeqCst);
        std::mem::replace(&mut self.stops, stops) != stops
    }

    /// For how long this process was stopped, if it was since this was asked last, and goes on.
    pub(super) fn was_continued(&mut self) -> Option<Duration> {
        let continued = CONTINUED.load(Ordering::SeqCst);
        if std::mem::replace(&mut self.continued, continued) == continued {
            return None;
        }
        let stood = awake().1;
        Some(stood.saturating_sub(std::mem::replace(&mut self.stood, stood)))
    }
}

impl Drop for Suspension {
    fn drop(&mut self) {
        let mut table = Access::take();
        if let Some(place) = self.place {
            table.wake[place] = None;
        }
        if table.wake.iter().all(Option::is_none)
            && let Some(before) = table.before.take()
        {
            dispose(&before);
        }
    }
}

/// All that a control thread had heard of is listed.
pub(super) fn is_ready_to_stop() {
    READY_TO_STOP.fetch_add(1, Ordering::SeqCst);
}

/// Continues actors, unless all have been stopped again meanwhile. `act` allocates nothing.
pub(super) fn continue_with(act: impl FnOnce()) {
    let _no_stop = Access::take();
    if !is_suspended() {
        act();
    }
}

/// Room in the table at first.
const FEW_ACTORS: usize = 64;

/// A process that a ctrl-z stops.
#[derive(Debug)]
pub(crate) struct Listed {
    place: usize,
}

impl Listed {
    /// Lists a process of a root's tree, until this is dropped; `pidfd` is to be open until then, and its pid its own
    /// if we are its parent. While all stand still, it is stopped at once.
    pub(super) fn new(aid: Option<&Aid>, pidfd: &OwnedFd) -> Listed {
        let group = aid.and_then(|aid| libc::pid_t::try_from(aid.pid()).ok()).unwrap_or(0);
        let listing = Listing { pidfd: pidfd.as_raw_fd(), group };
        let mut roomier: Vec<Option<Listing>> = Vec::new();
        loop {
            let mut table = Access::take();
            let from = table.free_from;
            if let Some(place) = table.actors[from..].iter().position(Option::is_none).map(|at| from + at) {
                table.actors[place] = Some(listing);
                table.free_from = place + 1;
                if is_suspended() {
                    listing.stop();
                }
                return Listed { place };
            }
            let actors = table.actors.len();
            if roomier.capacity() <= actors {
                drop(table);
                roomier = Vec::with_capacity(2 * actors + FEW_ACTORS);
                continue;
            }
            roomier.clear();
            roomier.extend_from_slice(&table.actors);
            roomier.resize(roomier.capacity(), None);
            std::mem::swap(&mut table.actors, &mut roomier);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = Access::take();
        table.actors[self.place] = None;
        table.free_from = table.free_from.min(self.place);
    }
}

impl Listing {
    fn stop(&self) {
        // SAFETY: plain system calls with numbers.
        let is_there = unsafe {
            let signal = std::ptr::null::<libc::siginfo_t>();
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd, libc::SIGSTOP, signal, 0) == 0
        };
        // It is not reaped, so the group's number can't have been given away. (One that its own parent reaps this
        // very moment could be: by then another process had to get the same pid and a group of its own.)
        if is_there && self.group > 0 {
            // SAFETY: as above.
            unsafe { libc::kill(-self.group, libc::SIGSTOP) };
        }
    }
}

/// By the recipe of Stevens and Rago, *Advanced Programming in the UNIX Environment*, 10.21: whoever catches SIGTSTP
/// stops himself by the same signal with its default action. The kernel knows whether there is somebody who could
/// continue us, and takes no notice of it where there is not.
extern "C" fn handler(signal: libc::c_int) {
    // SAFETY: reading and restoring errno is what POSIX asks of a handler that makes system calls.
    let errno = unsafe { *libc::__errno_location() };
    let (before, roots) = {
        let table = locked();
        if is_suspended() {
            return; // another thread is at it
        }
        let mut roots = 0;
        if table.before.is_some() {
            stand();
            for actor in table.actors.iter().flatten() {
                actor.stop();
            }
            READY_TO_STOP.store(0, Ordering::SeqCst);
            STOPS.fetch_add(1, Ordering::SeqCst);
            roots = table.wake_all();
        }
        (table.before, roots)
    };
    // SAFETY: `raise` is async-signal-safe.
    unsafe { libc::raise(signal) }; // it waits until it is let through: below, or when we return
    if let Some(before) = before {
        wait_until_ready(roots);
        dispose(&before);
        let only = only_ours();
        change_mask(libc::SIG_UNBLOCK, &only); // here we stand still
        change_mask(libc::SIG_BLOCK, &only);
        let table = locked();
        if table.before.is_some() {
            dispose(&ours());
        }
        go_on();
        CONTINUED.fetch_add(1, Ordering::SeqCst);
        table.wake_all();
    } // else the last root has gone since the kernel chose this handler
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Waits for the control threads of so many roots, to stop what they have heard of and not yet listed.
fn wait_until_ready(roots: usize) {
    let began = Instant::now();
    while READY_TO_STOP.load(Ordering::SeqCst) < roots && began.elapsed() < READY_WITHIN {
        let soon = libc::timespec { tv_sec: 0, tv_nsec: 100_000 };
        // SAFETY: `nanosleep` is async-signal-safe; what is left of the time is not asked for.
        unsafe { libc::nanosleep(&raw const soon, std::ptr::null_mut()) };
    }
}

fn only_ours() -> libc::sigset_t {
    // SAFETY: plain calls that fill a set on our stack; both are async-signal-safe.
    unsafe {
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, libc::SIGTSTP);
        only
    }
}

/// Which signals get through to this thread; what it was before.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> libc::sigset_t {
    // SAFETY: a plain call that reads one set and fills another; it is async-signal-safe.
    unsafe {
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(how, std::ptr::from_ref(set), &raw mut before);
        before
    }
}

/// What a SIGTSTP does now.
fn disposition() -> Option<libc::sigaction> {
    // SAFETY: the structure is plain data that sigaction fills.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(libc::SIGTSTP, std::ptr::null(), &raw mut now) == 0).then_some(now)
    }
}

/// What a SIGTSTP does from now on.
fn dispose(action: &libc::sigaction) {
    // SAFETY: `action` is ours, or what sigaction gave for this signal.
    unsafe { libc::sigaction(libc::SIGTSTP, std::ptr::from_ref(action), std::ptr::null_mut()) };
}

fn ours() -> libc::sigaction {
    // SAFETY: the structure is plain data; zero is a valid mask.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
        ours.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut ours.sa_mask);
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_again() {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        // No process group: nobody here is to be stopped.
        let before = disposition().unwrap().sa_sigaction;
        let suspension = Suspension::install(&event);
        let mut listed: Vec<Listed> = (0..200).map(|_| Listed::new(None, &event)).collect();
        let second = listed.remove(1).place;
        assert_eq!(Listed::new(None, &event).place, second);
        let places: std::collections::HashSet<usize> = listed.iter().map(|listed| listed.place).collect();
        assert_eq!(places.len(), 199);
        drop(listed);
        drop(suspension);
        // Unless another test of this process has a root.
        if Access::take().wake.iter().all(Option::is_none) {
            assert_eq!(disposition().unwrap().sa_sigaction, before);
            assert!(Access::take().actors.iter().all(Option::is_none));
        }
    }
}
