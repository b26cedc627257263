//! The table, the wrapper of a task, and the waker that notes who takes it.
#![allow(unsafe_code, reason = "a waker that notes who takes it has a vtable of its own; a wrapper pins what it wraps")]
use std::cell::Cell;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Origin;

/// Tasks that one dump wakes, the oldest first: each costs its runtime some 50 µs, and more of them nobody reads.
const MAX_ASKED: usize = 2_000;
/// Places at which one task may wait, and frames of each: what goes beyond is left out.
const MAX_LEAVES: usize = 64;
const MAX_FRAMES: usize = 100;

/// The living tasks of one actor.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    slots: Mutex<Slots>,
    /// One that was asked has told, or ended.
    told: Condvar,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Arc<Entry>>>,
    free: Vec<usize>,
    last_number: u64,
    last_dump: u64,
    /// Of the last dump: those that have neither told nor ended.
    outstanding: usize,
}

/// One task.
#[derive(Debug)]
struct Entry {
    number: u64,
    /// Where it is in the table.
    slot: usize,
    origin: Origin,
    since: Instant,
    /// The last dump that has asked it.
    asked: AtomicU64,
    /// The thread that polls it now. 0: none.
    thread: AtomicI32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waker: Waker,
    /// The last dump that it has told.
    told: u64,
    leaves: Vec<Vec<usize>>,
    /// The task that polls it by a waker of its own.
    within: Option<u64>,
    /// It is a part of one that has told for it.
    is_covered: bool,
}

/// What a task has told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) origin: Origin,
    pub(crate) since: Instant,
    /// Where it waits, as addresses of code from the inside out. `None`: it was not polled in time.
    pub(crate) leaves: Option<Vec<Vec<usize>>>,
    /// The thread that polls it.
    pub(crate) thread: Option<i32>,
    pub(crate) within: Option<u64>,
}

impl Traces {
    /// Has each task tell where it waits, until `deadline`. How many more there are, who were not asked.
    ///
    /// One at a time: the caller sees to that.
    pub(crate) fn ask(&self, deadline: Instant) -> (Vec<Told>, usize) {
        let mut slots = self.slots.lock();
        slots.last_dump += 1;
        let dump = slots.last_dump;
        let mut asked: Vec<Arc<Entry>> = slots.entries.iter().flatten().cloned().collect();
        asked.sort_unstable_by_key(|entry| entry.number);
        let left_out = asked.len().saturating_sub(MAX_ASKED);
        asked.truncate(MAX_ASKED);
        slots.outstanding = asked.len();
        for entry in &asked {
            entry.asked.store(dump, Ordering::Relaxed);
        }
        drop(slots);
        for entry in &asked {
            let waker = entry.state.lock().waker.clone();
            waker.wake();
        }
        let mut slots = self.slots.lock();
        while slots.outstanding > 0 && !self.told.wait_until(&mut slots, deadline).timed_out() {}
        drop(slots);
        (asked.iter().filter_map(|entry| entry.tell(dump)).collect(), left_out)
    }

    fn enter(&self, origin: Origin, waker: &Waker) -> Arc<Entry> {
        let since = Instant::now();
        let state = State { waker: waker.clone(), told: 0, leaves: Vec::new(), within: None, is_covered: false };
        let mut slots = self.slots.lock();
        slots.last_number += 1;
        let number = slots.last_number;
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.entries.push(None);
                slots.entries.len() - 1
            }
        };
        let (asked, thread, state) = (AtomicU64::new(0), AtomicI32::new(0), Mutex::new(state));
        let entry = Arc::new(Entry { number, slot, origin, since, asked, thread, state });
        slots.entries[slot] = Some(Arc::clone(&entry));
        entry
    }

    /// It has told, or it has ended without.
    fn one_told(&self, slots: &mut Slots, dump: u64) {
        if slots.last_dump == dump {
            slots.outstanding = slots.outstanding.saturating_sub(1);
            if slots.outstanding == 0 {
                self.told.notify_all();
            }
        }
    }
}

impl Entry {
    /// What a dump says of it. `None`: nothing, it is a part of another one.
    fn tell(&self, dump: u64) -> Option<Told> {
        let mut state = self.state.lock();
        let has_told = state.told == dump;
        if has_told && state.is_covered {
            return None;
        }
        let thread = Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0);
        let leaves = has_told.then(|| std::mem::take(&mut state.leaves));
        let (within, origin) = (state.within, self.origin.clone());
        Some(Told { number: self.number, origin, since: self.since, leaves, thread, within })
    }
}

/// A task's place in the table, kept by the task itself: it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    table: Arc<Traces>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It has not come to wait yet.
    New(Origin),
    In(Entered),
    Left,
}

#[derive(Debug)]
struct Entered {
    entry: Arc<Entry>,
    /// The waker in the table, which lives as long as it is there: so this stands for no other one.
    waker: (usize, usize),
    told: u64,
}

impl Trace {
    pub(crate) fn new(table: &Arc<Traces>, origin: Origin) -> Self {
        Trace { table: Arc::clone(table), stage: Stage::New(origin) }
    }

    /// Polls the task.
    #[inline]
    pub(crate) fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Stage::In(entered) = &mut self.stage else {
            let polled = poll(cx);
            if polled.is_pending() {
                self.enter(beneath(cx.waker()));
            }
            return polled;
        };
        let entry = &entered.entry;
        entry.thread.store(this_thread(), Ordering::Relaxed);
        let polled = match entry.asked.load(Ordering::Relaxed) {
            dump if dump == entered.told => poll(cx),
            dump => {
                entered.told = dump;
                noting(&self.table, entry, dump, cx, poll)
            }
        };
        entry.thread.store(0, Ordering::Relaxed);
        if polled.is_pending() && identity(cx.waker()) != entered.waker {
            entered.keep(beneath(cx.waker()));
        }
        polled
    }

    #[cold]
    fn enter(&mut self, waker: &Waker) {
        if let Stage::New(origin) = std::mem::replace(&mut self.stage, Stage::Left) {
            let entry = self.table.enter(origin, waker);
            self.stage = Stage::In(Entered { entry, waker: identity(waker), told: 0 });
        }
    }
}

impl Entered {
    #[cold]
    fn keep(&mut self, waker: &Waker) {
        if identity(waker) == self.waker {
            return; // it was a noting one, with the same beneath
        }
        let waker = std::mem::replace(&mut self.entry.state.lock().waker, waker.clone());
        drop(waker); // after the unlock: it may be the last word of some task
        self.waker = identity(&self.entry.state.lock().waker);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Stage::In(Entered { entry, .. }) = std::mem::replace(&mut self.stage, Stage::Left) else { return };
        let mut slots = self.table.slots.lock();
        slots.entries[entry.slot] = None;
        slots.free.push(entry.slot);
        let asked = entry.asked.load(Ordering::Relaxed);
        if asked != 0 && entry.state.lock().told != asked {
            self.table.one_told(&mut slots, asked);
        }
    }
}

/// Polls a task that is asked where it waits.
#[cold]
#[inline(never)]
fn noting<T>(
    table: &Traces,
    entry: &Entry,
    dump: u64,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    let within = NOTED.get();
    let is_covered = is_noting(cx.waker());
    let noting = Noting { real: cx.waker(), bottom: (&raw const is_covered).addr(), leaves: Mutex::new(Vec::new()) };
    let polled = if is_covered {
        poll(cx) // whoever polls us notes already, and we are a part of that
    } else {
        let restore = Restore(NOTED.replace(Some(entry.number)));
        // SAFETY: the vtable is made for this data, which outlives the waker: nobody gets it by value, and its
        // clones are of the real one. `ManuallyDrop`: it owns nothing.
        let waker = unsafe { ManuallyDrop::new(Waker::from_raw(RawWaker::new((&raw const noting).cast(), &VTABLE))) };
        let polled = poll(&mut Context::from_waker(&waker));
        drop(restore);
        polled
    };
    let mut state = entry.state.lock();
    state.told = dump;
    state.leaves = noting.leaves.into_inner();
    state.within = within.filter(|within| *within != entry.number);
    state.is_covered = is_covered;
    drop(state);
    table.one_told(&mut table.slots.lock(), dump);
    polled
}

thread_local! {
    /// The task that this thread polls and that notes where it waits.
    static NOTED: Cell<Option<u64>> = const { Cell::new(None) };
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

struct Restore(Option<u64>);

impl Drop for Restore {
    fn drop(&mut self) {
        NOTED.set(self.0);
    }
}

#[inline]
fn this_thread() -> i32 {
    match THREAD.get() {
        0 => look_up_thread(),
        thread => thread,
    }
}

#[cold]
fn look_up_thread() -> i32 {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    THREAD.set(thread);
    thread
}

/// What a noting waker points to.
struct Noting<'a> {
    real: &'a Waker,
    /// Where the stack of the task itself begins.
    bottom: usize,
    /// One that polls on several threads may take it on all of them.
    leaves: Mutex<Vec<Vec<usize>>>,
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(take, wake_by_ref, wake_by_ref, drop_nothing);

/// Somebody takes the waker, to be woken by it: a leaf. What it gets is the real one.
unsafe fn take(data: *const ()) -> RawWaker {
    // SAFETY: the data is that of a noting waker, which its poll outlives.
    let noting = unsafe { &*data.cast::<Noting<'_>>() };
    noting.note();
    let real = ManuallyDrop::new(noting.real.clone()); // the taker's to drop
    RawWaker::new(real.data(), real.vtable())
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: as above.
    unsafe { &*data.cast::<Noting<'_>>() }.real.wake_by_ref();
}

unsafe fn drop_nothing(_data: *const ()) {}

impl Noting<'_> {
    #[inline(never)]
    fn note(&self) {
        let mut ips = Vec::with_capacity(32);
        backtrace::trace(|frame| {
            // The stack grows down: what lies above is who polls the task.
            let is_ours = frame.sp().addr() <= self.bottom;
            if is_ours {
                ips.push(frame.ip().addr());
            }
            is_ours && ips.len() < MAX_FRAMES
        });
        let mut leaves = self.leaves.lock();
        if leaves.len() < MAX_LEAVES {
            leaves.push(ips);
        }
    }
}

/// What stands for a waker.
#[inline]
fn identity(waker: &Waker) -> (usize, usize) {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

#[inline]
fn is_noting(waker: &Waker) -> bool {
    std::ptr::eq(waker.vtable(), &VTABLE)
}

/// The waker itself, without the note that somebody has taken it: for what is no place where a task waits.
#[inline]
pub(crate) fn beneath(waker: &Waker) -> &Waker {
    if !is_noting(waker) {
        return waker;
    }
    // SAFETY: a waker with this vtable has such data, which lives as long as the waker can be reached.
    beneath(unsafe { &*waker.data().cast::<Noting<'_>>() }.real)
}

/// A task that can be asked.
#[derive(Debug)]
pub(crate) struct Traced<F> {
    trace: Trace,
    future: F,
}

pub(crate) fn traced<F: Future>(table: &Arc<Traces>, origin: Origin, future: F) -> Traced<F> {
    Traced { trace: Trace::new(table, origin), future }
}

impl<F: Future> Future for Traced<F> {
    type Output = F::Output;
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned with the whole and never moved out of it; `trace` is not pinned.
        let Traced { trace, future } = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(future) };
        trace.poll(cx, |cx| future.poll(cx))
    }
}
