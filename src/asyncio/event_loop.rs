//! How is an asyncio event loop an actor's host? It watches a descriptor by which other threads ask for a slice.
use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use rustix::event::{EventfdFlags, eventfd};

use super::{Asyncio, module, raised};
use crate::actor::{Actor, boot, clock, current};
use crate::error::Error;
use crate::guest::{Guest, Slice};
use crate::proto::escalation::childs_share;

/// The loop of this process's actor.
pub(super) struct EventLoop {
    /// Known when it has booted.
    actor: OnceLock<Arc<Actor>>,
    thread: ThreadId,
    itself: Py<PyAny>,
    ours: Py<PyModule>,
    call_soon: Py<PyAny>,
    create_future: Py<PyAny>,
    /// The context variables as they were set up: what runs here is no part of the task that happens to wake it.
    context: Py<PyAny>,
    /// What the loop calls when a slice is to be run.
    take_turn: OnceLock<Py<TakeTurn>>,
    /// Readable when a slice is to be run: written to by threads that have no business with Python's lock.
    woken: OwnedFd,
    slice: Mutex<Option<Slice>>,
    is_over: AtomicBool,
    /// Somebody else than the guest has stopped it.
    is_stopped: AtomicBool,
}

thread_local! {
    static HERE: RefCell<Option<Arc<EventLoop>>> = const { RefCell::new(None) };
}

/// Runs until the guest is over.
#[teamster::host_loop]
pub(super) fn event_loop(guest: Guest, options: Asyncio) -> Result<(), String> {
    Python::initialize(); // without handlers of signals
    let begin = |event_loop: &Arc<EventLoop>| {
        event_loop.is_of(current::actor()?);
        let (soon, over) = (Arc::clone(event_loop), Arc::clone(event_loop));
        guest.start(move |slice| soon.run_soon(slice), move || over.stop());
        Ok(())
    };
    Python::attach(|py| run(py, &options, begin).map_err(|error| raised::told(py, &error)))
}

/// Runs a loop on this thread: `begin` starts the guest, and the guest stops the loop.
pub(super) fn run(
    py: Python<'_>,
    options: &Asyncio,
    begin: impl FnOnce(&Arc<EventLoop>) -> Result<(), Error>,
) -> PyResult<()> {
    let ours = module::install(py)?;
    ours.call_method1("_activate", (&options.venv, &options.paths))?;
    let asyncio = py.import("asyncio")?;
    let itself = asyncio.call_method0("new_event_loop")?;
    asyncio.call_method1("set_event_loop", (&itself,))?;
    let event_loop = Arc::new(EventLoop {
        actor: OnceLock::new(),
        thread: std::thread::current().id(),
        call_soon: itself.getattr("call_soon")?.unbind(),
        create_future: itself.getattr("create_future")?.unbind(),
        context: py.import("contextvars")?.call_method0("copy_context")?.unbind(),
        take_turn: OnceLock::new(),
        woken: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(std::io::Error::from)?,
        itself: itself.clone().unbind(),
        ours: ours.clone().unbind(),
        slice: Mutex::default(),
        is_over: AtomicBool::new(false),
        is_stopped: AtomicBool::new(false),
    });
    let take_turn = Py::new(py, TakeTurn(Arc::downgrade(&event_loop)))?;
    let take_turn = event_loop.take_turn.get_or_init(|| take_turn);
    let _here = Here::enter(&event_loop);
    itself.call_method1("add_reader", (event_loop.woken.as_raw_fd(), take_turn))?;
    begin(&event_loop).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    while !event_loop.is_over() {
        match itself.call_method0("run_forever") {
            Ok(_) if event_loop.is_over() || !event_loop.was_stopped() => break,
            Ok(_) => {}
            // A task has raised what asyncio lets through: whoever waits for that task hears of it.
            Err(error) if error.is_instance_of::<PySystemExit>(py) => {}
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {}
            Err(error) => return Err(error),
        }
    }
    if event_loop.is_over() {
        itself.call_method1("remove_reader", (event_loop.woken.as_raw_fd(),))?;
        ours.call_method1("_shut_down", (&itself, event_loop.time_left(), event_loop.is_a_childs()))?;
    }
    Ok(())
}

/// Ends what Python has started and nobody of ours waits for, as long as that can still call others.
async fn end_background(event_loop: Option<Arc<EventLoop>>) {
    let Some((event_loop, actor)) = event_loop.as_ref().and_then(|this| Some((this, this.actor.get()?))) else {
        return;
    };
    let cancelled = Python::attach(|py| {
        let itself = event_loop.itself(py);
        // One that has returned runs nothing any more.
        match itself.call_method0("is_running")?.is_truthy()? {
            true => module::cancel_background(py, itself).map(Some),
            false => Ok(None),
        }
    });
    let ended = match cancelled {
        Ok(Some(ended)) => ended,
        Ok(None) => return,
        Err(error) => return tracing::error!(%error, "asyncio tasks in the background can't be cancelled"),
    };
    if clock::timeout(Some(&actor.clock), event_loop.time_left(), ended).await.is_err() {
        let left = Python::attach(|py| module::names_of_left(py, event_loop.itself(py)));
        tracing::error!(?left, "asyncio tasks in the background swallow their cancel, and go on");
    }
}

/// Notes that this thread runs a loop.
struct Here;

impl Here {
    fn enter(event_loop: &Arc<EventLoop>) -> Self {
        HERE.set(Some(Arc::clone(event_loop)));
        Here
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl EventLoop {
    /// That of this thread.
    pub(super) fn here() -> Result<Arc<EventLoop>, Error> {
        HERE.with_borrow(Clone::clone).ok_or(Error::Usage(
            "no asyncio here: start the actor with `.infect(Asyncio::new())`, and use it in the actor's own tasks",
        ))
    }

    /// Whose loop it is.
    pub(super) fn actor(&self) -> Result<&Arc<Actor>, Error> {
        self.actor.get().ok_or(Error::Usage("the actor of this event loop has not booted yet"))
    }

    pub(super) fn is_of(self: &Arc<Self>, actor: Arc<Actor>) {
        let this = Arc::downgrade(self);
        // The first hook, so that it runs behind those of the user.
        actor.add_exit_hook(Box::new(|| Box::pin(async move { end_background(this.upgrade()).await })));
        // A loop has one actor, which is told once.
        let _ = self.actor.set(actor);
        if self.is_stopped() {
            self.was_stopped();
        }
    }

    fn is_a_childs(&self) -> bool {
        self.actor.get().is_some_and(|actor| !actor.is_root())
    }

    /// Somebody else than the guest has stopped it. Whether it is to go on, so that what is cancelled may clean up: not in a
    /// child that nobody has cancelled, which ends by that.
    pub(super) fn was_stopped(&self) -> bool {
        self.is_stopped.store(true, Ordering::Release);
        match self.actor.get() {
            Some(actor) if actor.is_root() => {
                boot::cancel_self(actor);
                true
            }
            Some(actor) => actor.is_cancelled(),
            None => true, // a root that is booting, and is cancelled then
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// What tasks may take that are left at the end. There are two looks at them, and all else has to end too.
    fn time_left(&self) -> Duration {
        let left = |actor: &Arc<Actor>| actor.ends_within(actor.clock.now()).unwrap_or(actor.settings.grace);
        childs_share(self.actor.get().map(left).unwrap_or_default()) / 2
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    pub(super) fn itself<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.itself.bind(py)
    }

    /// The module `teamster`.
    pub(super) fn ours<'py>(&self, py: Python<'py>) -> &Bound<'py, PyModule> {
        self.ours.bind(py)
    }

    /// Whether this is the loop's thread.
    pub(super) fn is_here(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// A future of asyncio's.
    pub(super) fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    pub(super) fn run_soon(&self, slice: Slice) {
        *self.slice.lock() = Some(slice);
        if self.is_here() {
            // A loop that is closed runs nothing any more: it has said so already.
            let _ = Python::attach(|py| self.call_turn_soon(py));
        } else {
            // It is full when it was written to 2⁶⁴ times and never read.
            let _ = rustix::io::write(&self.woken, &1u64.to_ne_bytes());
        }
    }

    fn call_turn_soon(&self, py: Python<'_>) -> PyResult<()> {
        let context = [("context", &self.context)].into_py_dict(py)?;
        self.call_soon.bind(py).call((self.take_turn.get(),), Some(&context)).map(drop)
    }

    /// A task of asyncio's, with context variables of its own.
    pub(super) fn create_task<'py>(&self, coroutine: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        let create_task = self.itself(py).getattr("create_task")?;
        let context = self.context.bind(py).call_method0("copy")?;
        // It copies the context that it is called in; to be given one it takes Python 3.11.
        context.call_method("run", (create_task, coroutine), Some(&[("name", name)].into_py_dict(py)?))
    }

    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        // A loop that has stopped need not be stopped.
        let _ = Python::attach(|py| self.itself.bind(py).call_method0("stop").map(drop));
    }
}

#[pyclass(frozen)]
struct TakeTurn(Weak<EventLoop>);

#[pymethods]
impl TakeTurn {
    fn __call__(&self) {
        let Some(event_loop) = self.0.upgrade() else { return };
        // Nothing to read: it was called on this thread.
        let _ = rustix::io::read(&event_loop.woken, &mut [0u8; 8]);
        let slice = event_loop.slice.lock().take();
        if let Some(slice) = slice {
            slice.run();
        }
    }
}
