//! How do a guest's tasks run on its host's thread? They wait in a row, and a slice polls those in front.
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use async_task::{FallibleTask, Runnable};
use futures::FutureExt;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::slice::Slice;

/// How long a slice polls: a timer of the host's is late by no more than this, and the switch to the host and back costs
/// little beside it.
const SLICE: Duration = Duration::from_millis(1);

type RunSoon = Arc<dyn Fn(Slice) + Send + Sync>;
type Panic = Box<dyn Any + Send>;
type Done = Box<dyn FnOnce()>;

/// The thread of a host, to its guest.
pub(crate) struct HostThread {
    id: ThreadId,
    /// That of the thread beside it.
    runtime: Handle,
    state: Mutex<State>,
    /// Something is in the row, for who waits without a host.
    woken: Condvar,
}

struct State {
    /// Tasks that are to be polled: each is here once, so there are no more than tasks.
    row: VecDeque<Runnable>,
    /// `None`: the host has not begun, or has returned.
    run_soon: Option<RunSoon>,
    /// A slice is on its way, or runs.
    is_asked: bool,
    has_begun: bool,
    is_over: bool,
}

thread_local! {
    static HERE: RefCell<Option<Arc<HostThread>>> = const { RefCell::new(None) };
    /// What is to be called when the guest is over, which the task that is polled has said.
    static LAST: RefCell<Option<Done>> = const { RefCell::new(None) };
    /// Its host is being asked for a slice.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// The host that runs this code, if the runtime around it is that of its guest.
pub(crate) fn here() -> Option<Arc<HostThread>> {
    let host = HERE.with_borrow(Clone::clone)?;
    let runtime = Handle::try_current().ok()?;
    (host.runtime.id() == runtime.id()).then_some(host)
}

impl HostThread {
    /// This thread.
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        let state = State { row: VecDeque::new(), run_soon: None, is_asked: false, has_begun: false, is_over: false };
        Arc::new(HostThread {
            id: std::thread::current().id(),
            runtime,
            state: Mutex::new(state),
            woken: Condvar::new(),
        })
    }

    /// The host takes slices from now on.
    pub(crate) fn begin(self: &Arc<Self>, run_soon: impl Fn(Slice) + Send + Sync + 'static) {
        let mut state = self.state.lock();
        state.run_soon = Some(Arc::new(run_soon));
        state.has_begun = true;
        drop(state);
        self.ask_if_due();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.state.lock().has_begun
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    // ---- its tasks

    /// A task on this thread, which goes on when nobody waits for it.
    pub(crate) fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let (runnable, task) = async_task::spawn(caught(future), self.row());
        runnable.schedule();
        task.detach();
    }

    /// A task that is dropped, on this thread, when its handle is.
    pub(crate) fn spawn_owned(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) -> Owned {
        let (runnable, task) = async_task::spawn(caught(future), self.row());
        runnable.schedule();
        Owned::Guest(task.fallible())
    }

    /// A task of what may not leave this thread.
    pub(crate) fn spawn_local(self: &Arc<Self>, future: impl Future<Output = ()> + 'static) {
        let (runnable, task) = async_task::spawn_local(caught(future), self.row());
        runnable.schedule();
        task.detach();
    }

    fn row(self: &Arc<Self>) -> impl Fn(Runnable) + Send + Sync + 'static {
        let host = Arc::clone(self);
        move |runnable| host.push(runnable)
    }

    fn push(self: &Arc<Self>, runnable: Runnable) {
        let mut state = self.state.lock();
        if state.is_over {
            drop(state);
            return drop(runnable); // and the task with it
        }
        state.row.push_back(runnable);
        drop(state);
        self.ask_if_due();
    }

    /// Has the host run a slice, if there is something to do and none on its way.
    fn ask_if_due(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.is_asked || state.row.is_empty() {
            return;
        }
        let Some(run_soon) = state.run_soon.clone() else {
            drop(state);
            self.woken.notify_all();
            return;
        };
        state.is_asked = true;
        drop(state);
        let _asking = Asking(IS_ASKING.replace(true));
        run_soon(Slice::new(Arc::clone(self)));
    }

    // ---- its slices

    /// Whether a slice may run now.
    pub(super) fn must_be_here(&self) {
        assert_eq!(std::thread::current().id(), self.id, "a slice runs on the thread of its guest's host");
        assert!(!IS_ASKING.get(), "`run_soon` has a slice run soon, not before it returns");
    }

    pub(super) fn run_slice(self: &Arc<Self>) {
        let done = self.poll_row();
        if let Some(done) = done {
            return done();
        }
        self.state.lock().is_asked = false;
        self.ask_if_due();
    }

    /// Polls until the row is empty or the slice over. Gives what is left to do if the guest is over.
    fn poll_row(self: &Arc<Self>) -> Option<Done> {
        let _here = Here::enter(self);
        let until = Instant::now() + SLICE;
        loop {
            let runnable = self.state.lock().row.pop_front()?;
            // In tokio's eyes a task: with its runtime around it, and a budget after which it lets others go on.
            self.runtime.block_on(futures::future::lazy(|_cx| runnable.run()));
            if let Some(done) = LAST.take() {
                self.close();
                return Some(done);
            }
            if Instant::now() >= until {
                return None;
            }
        }
    }

    /// A slice was dropped.
    pub(super) fn forget_slice(&self) {
        self.state.lock().is_asked = false;
    }

    /// Said by a task on this thread: it is the last one, and this is to be called behind it.
    pub(crate) fn end_with(&self, done: Done) {
        self.state.lock().is_over = true;
        LAST.set(Some(done));
    }

    fn close(&self) {
        let mut state = self.state.lock();
        let (row, run_soon) = (std::mem::take(&mut state.row), state.run_soon.take());
        drop(state);
        drop((row, run_soon));
    }

    /// The host has returned, on this thread, and its guest is on its way out: goes on with that.
    pub(crate) fn finish_alone(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.run_soon = None;
        state.is_asked = false; // no slice comes any more: who has something to do wakes us
        loop {
            while state.row.is_empty() && !state.is_over {
                self.woken.wait(&mut state);
            }
            if state.is_over {
                return;
            }
            drop(state);
            if let Some(done) = self.poll_row() {
                return done();
            }
            state = self.state.lock();
        }
    }
}

impl fmt::Debug for HostThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostThread").field("id", &self.id).finish_non_exhaustive()
    }
}

async fn caught(future: impl Future<Output = ()>) -> Result<(), Panic> {
    AssertUnwindSafe(future).catch_unwind().await
}

/// Notes that a host is being asked for a slice; and whether it was before.
struct Asking(bool);

impl Drop for Asking {
    fn drop(&mut self) {
        IS_ASKING.set(self.0);
    }
}

/// Notes on which host's thread code runs.
struct Here(Option<Arc<HostThread>>);

impl Here {
    fn enter(host: &Arc<HostThread>) -> Self {
        Here(HERE.replace(Some(Arc::clone(host))))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(self.0.take());
    }
}

/// A task that ends at the latest when this is dropped. It gives the panic that ended it, if one did.
#[must_use = "dropped, it ends the task"]
pub(crate) enum Owned {
    Runtime(AbortOnDropHandle<()>),
    Guest(FallibleTask<Result<(), Panic>>),
}

impl Future for Owned {
    type Output = Option<Panic>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Panic>> {
        match &mut *self {
            // Else its runtime was taken down, or it was aborted: its own handles say so.
            Owned::Runtime(task) => task.poll_unpin(cx).map(|joined| joined.err()?.try_into_panic().ok()),
            Owned::Guest(task) => task.poll_unpin(cx).map(|joined| joined?.err()),
        }
    }
}
