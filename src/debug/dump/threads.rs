//! Where is each thread of this process? Asked by a signal, which a stuck one answers too.
#![allow(unsafe_code, reason = "a signal handler that walks the stack that it has interrupted")]
use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::Timespec;
use rustix::thread::futex;

/// One thread of this process.
#[derive(Clone, Debug)]
pub(crate) struct ThreadNow {
    pub(crate) tid: i32,
    pub(crate) name: String,
    /// As in proc(5): `R` runs, `S` sleeps, `D` waits for a disk.
    pub(crate) state: char,
    /// Addresses of code from the inside out. `None`: it did not answer.
    pub(crate) ips: Option<Vec<usize>>,
}

/// Whether threads of ours, such as the control thread, are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    Nothing,
    OurThreads,
}

/// What their names begin with. That of a runtime's thread may: `teamster:` and the actor's name.
const OURS: &str = "teamster-";
/// Who works on a dump is no part of it.
const DUMPS: &str = "teamster-dump";

/// How long one thread may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Frames of one stack: what is further out is left out.
const MAX_FRAMES: usize = 128;
/// Threads that one dump asks.
const MAX_THREADS: usize = 256;

/// All threads of this process but the caller's, and as asked those that are not ours; what has not answered
/// `until` then has not answered.
pub(crate) fn all(until: Instant, skip: Skip) -> Vec<ThreadNow> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut asking = ASKING.lock();
    let handler = asking.handler();
    let listed = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut tids: Vec<i32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable();
    tids.retain(|tid| *tid != own);
    tids.truncate(MAX_THREADS);
    tids.into_iter()
        .filter_map(|tid| {
            let (name, state) = described(tid)?;
            if name == DUMPS || (skip == Skip::OurThreads && name.starts_with(OURS)) {
                return None;
            }
            let within = until.saturating_duration_since(Instant::now()).min(ANSWER_WITHIN);
            let ips = handler.as_ref().and_then(|handler| handler.ask(tid, within));
            Some(ThreadNow { tid, name, state, ips })
        })
        .collect()
}

/// `None`: it has ended.
fn described(tid: i32) -> Option<(String, char)> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (!matches!(state, 'Z' | 'X')).then(|| (name.trim_end().to_owned(), state))
}

/// The handler, once one is installed. It stays: a thread may come to answer when nobody waits for it any more, and
/// would die by a signal without a handler.
static ASKING: Mutex<Asking> = Mutex::new(Asking { handler: None });

struct Asking {
    handler: Option<Handler>,
}

struct Handler {
    signal: i32,
}

impl Asking {
    fn handler(&mut self) -> Option<&Handler> {
        if self.handler.is_none() {
            self.handler = Handler::install().ok();
        }
        self.handler.as_ref()
    }
}

impl Handler {
    fn install() -> io::Result<Self> {
        // What the unwinder needs is loaded here, and not in the handler.
        let _ = walk(&[const { AtomicUsize::new(0) }; 1]);
        let free = (libc::SIGRTMIN() + 5..=libc::SIGRTMAX()).find(|signal| is_free(*signal));
        let signal = free.ok_or_else(|| io::Error::other("every real-time signal has a handler"))?;
        // SAFETY: the structure is plain data that sigaction reads, and the handler has the signature that goes with
        // SA_SIGINFO. Calls that it interrupts go on. On the stack of the thread: its alternative one, where it has
        // one, is made for a few frames.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Handler { signal })
    }

    /// The stack of one thread. `None`: it has ended, blocks the signal, or stands in the kernel.
    fn ask(&self, tid: i32, within: Duration) -> Option<Vec<usize>> {
        let asked = tid.unsigned_abs();
        // Busy: a thread that was given up still writes.
        STATE.compare_exchange(IDLE, asked, Ordering::AcqRel, Ordering::Acquire).ok()?;
        // SAFETY: a plain system call. A number that was given to another thread of ours since is asked in vain.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, self.signal) };
        let deadline = Instant::now() + within;
        loop {
            let state = STATE.load(Ordering::Acquire);
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { break };
            if sent != 0 || state == DONE || left.is_zero() {
                break;
            }
            // Woken or not, the state tells: it is looked at again.
            let _ = futex::wait(&STATE, futex::Flags::PRIVATE, state, Some(&timeout));
        }
        if STATE.load(Ordering::Acquire) == DONE {
            let count = COUNT.load(Ordering::Acquire).min(MAX_FRAMES);
            let ips = IPS[..count].iter().map(|ip| ip.load(Ordering::Relaxed)).collect();
            STATE.store(IDLE, Ordering::Release);
            return Some(ips);
        }
        // It is not asked any more, unless it has begun to write: then nobody is, until it has finished.
        let _ = STATE.compare_exchange(asked, IDLE, Ordering::AcqRel, Ordering::Acquire);
        None
    }
}

/// Whether nobody handles it.
fn is_free(signal: i32) -> bool {
    // SAFETY: the structure is plain data that sigaction fills.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut before) == 0 && before.sa_sigaction == libc::SIG_DFL
    }
}

/// Whose turn it is: a thread's number, or one of these.
static STATE: AtomicU32 = AtomicU32::new(IDLE);
const IDLE: u32 = 0;
const WRITES: u32 = u32::MAX;
const DONE: u32 = u32::MAX - 1;
/// What it has written. In place: a handler must not allocate.
static IPS: [AtomicUsize; MAX_FRAMES] = [const { AtomicUsize::new(0) }; MAX_FRAMES];
static COUNT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: reading and restoring errno is what POSIX asks of a handler that makes system calls.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: a plain system call.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
    if STATE.compare_exchange(tid, WRITES, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        let count = walk(&IPS);
        // SAFETY: the kernel passes the context of what it has interrupted.
        let interrupted = unsafe { pc(context) };
        COUNT.store(without_handler(count, interrupted), Ordering::Release);
        STATE.store(DONE, Ordering::Release);
        let _ = futex::wake(&STATE, futex::Flags::PRIVATE, 1); // a bare system call; nobody may wait any more
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Notes the stack of this thread from here outwards: how many frames.
fn walk(ips: &[AtomicUsize]) -> usize {
    let mut count = 0;
    // SAFETY: it takes no lock and changes nothing that it shares: what "unsynchronized" leaves out guards the
    // resolving of names alone.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let Some(slot) = ips.get(count) else { return false };
            slot.store(frame.ip().addr(), Ordering::Relaxed);
            count += 1;
            true
        });
    }
    count
}

/// Moves what was interrupted to the front, without the handler's own frames: how many are left.
fn without_handler(count: usize, interrupted: Option<usize>) -> usize {
    let at = |index: usize| IPS[index].load(Ordering::Relaxed);
    let Some(first) = (0..count).find(|index| Some(at(*index)) == interrupted) else { return count };
    for index in first..count {
        IPS[index - first].store(at(index), Ordering::Relaxed);
    }
    // The others are where a call returns to, and are looked up one byte before that.
    IPS[0].store(at(0) + 1, Ordering::Relaxed);
    count - first
}

/// Where the thread was.
#[cfg(target_arch = "x86_64")]
unsafe fn pc(context: *mut c_void) -> Option<usize> {
    // SAFETY: the caller has it from the kernel.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    usize::try_from(context.uc_mcontext.gregs[libc::REG_RIP as usize]).ok()
}

#[cfg(target_arch = "aarch64")]
unsafe fn pc(context: *mut c_void) -> Option<usize> {
    // SAFETY: the caller has it from the kernel.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    usize::try_from(context.uc_mcontext.pc).ok()
}

/// The handler's own frames stay in the stack then, which tells as much.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn pc(_context: *mut c_void) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_waits_for_ever_is_found_where_it_waits() {
        let (stop, stopped) = mpsc::channel::<()>();
        let waiting =
            std::thread::Builder::new().name("waits".into()).spawn(move || stopped.recv().is_err()).expect("a thread");
        let found = loop {
            let threads = all(Instant::now() + Duration::from_secs(10), Skip::OurThreads);
            let found = threads.into_iter().find(|thread| thread.name == "waits" && thread.state == 'S');
            if let Some(found) = found {
                break found;
            }
        };
        assert!(found.ips.is_some_and(|ips| ips.len() > 3));
        drop(stop);
        assert!(waiting.join().expect("it ends"));
    }
}
