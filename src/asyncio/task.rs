//! One task of the event loop: how does it start, how does it end, and how is it cancelled?
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pythonize::pythonize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event_loop::EventLoop;
use super::raised;
use super::value::from_python;
use crate::actor::current;
use crate::actor::scope::defer_until;
use crate::error::Error;
use crate::msg::ident::Aid;

/// Runs a coroutine function as a task of this actor's event loop, and gives its result.
///
/// `path` is `package.module:function`; how `args` are given is told [on the page of this module](crate::asyncio#values).
///
/// # Errors
///
/// [`Error::Remote`] with what the coroutine raised, or with `asyncio.CancelledError` if it cancelled itself; what its module
/// raised when it was imported, too. [`Error::Codec`] if the arguments or the result can't be converted. [`Error::Usage`] in code that
/// is no task of an actor with an asyncio event loop.
///
/// # Cancel safety
///
/// Dropped, it cancels the asyncio task. The end of what it was called in waits for that, within the grace; one that
/// swallows the cancel is logged.
///
/// # Examples
///
/// ```no_run
/// #[teamster::rpc]
/// async fn square(n: i64) -> Result<i64, teamster::Error> {
///     teamster::asyncio::run_task("maths:square", (n,)).await
/// }
/// # fn main() {}
/// ```
pub async fn run_task<T, A>(path: &str, args: A) -> Result<T, Error>
where
    T: DeserializeOwned,
    A: Serialize + Send,
{
    let task = Cancelled(Python::attach(|py| Task::start(py, path, None, &args))?);
    drop(args);
    task.0.ended().await;
    task.0.result()
}

/// A task that is ended when this is dropped.
struct Cancelled(Arc<Task>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// A task of the event loop.
pub(super) struct Task {
    pub(super) path: String,
    /// The actor whose loop it runs in.
    pub(super) aid: Aid,
    event_loop: Arc<EventLoop>,
    itself: Py<PyAny>,
    end: Arc<Mutex<Ending>>,
    /// Somebody here wants it to end.
    is_unwanted: AtomicBool,
    /// It was asked to end, before it had.
    was_asked: Arc<AtomicBool>,
    /// What is said of one that has cancelled itself: one failure, however often it is asked for.
    cancelled_itself: OnceLock<Error>,
}

#[derive(Default)]
struct Ending {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
}

/// What became of a task.
enum Outcome {
    Returned(Py<PyAny>),
    Raised(Error),
    Cancelled,
}

/// How an asyncio task came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It returned.
    Returned,
    /// It raised.
    Raised,
    /// It was cancelled, as we had asked.
    Cancelled,
    /// It was cancelled, and nobody here had asked.
    CancelledItself,
    /// We asked it to end, and it returned as if nobody had.
    SwallowedCancel,
}

impl Task {
    /// Calls a coroutine function, with `first` before its other arguments, and makes it a task.
    pub(super) fn start<A: Serialize>(
        py: Python<'_>,
        path: &str,
        first: Option<Bound<'_, PyAny>>,
        args: &A,
    ) -> Result<Arc<Task>, Error> {
        let event_loop = EventLoop::here()?;
        let aid = current::actor()?.aid.clone();
        let args = pythonize(py, args).map_err(|error| raised::unencodable::<A>(path, "the arguments", &error))?;
        let start = || {
            let event_loop = Arc::clone(&event_loop);
            let coroutine = call(py, path, first, &args)?;
            let itself = event_loop.create_task(&coroutine, path)?;
            let end = Arc::<Mutex<Ending>>::default();
            itself.call_method1(
                "add_done_callback",
                (Py::new(py, OnDone { aid: aid.clone(), end: Arc::clone(&end) })?,),
            )?;
            Ok(Task {
                path: path.to_owned(),
                aid: aid.clone(),
                event_loop,
                itself: itself.unbind(),
                end,
                is_unwanted: AtomicBool::new(false),
                was_asked: Arc::default(),
                cancelled_itself: OnceLock::new(),
            })
        };
        start().map(Arc::new).map_err(|error| raised::error(py, &aid, &error))
    }

    /// Asks it to end.
    pub(super) fn cancel(&self) {
        if self.has_ended() || self.is_unwanted.swap(true, Ordering::AcqRel) {
            return;
        }
        Python::attach(|py| {
            let cancel = Cancel { task: self.itself.clone_ref(py), was_asked: Arc::clone(&self.was_asked) };
            let asked = match self.event_loop.is_here() {
                true => cancel.__call__(py),
                // Nothing of asyncio's may be touched here, but for this.
                false => self.event_loop.itself(py).call_method1("call_soon_threadsafe", (cancel,)).map(drop),
            };
            // A loop that is closed has cancelled all of its tasks.
            drop(asked);
        });
    }

    /// Whether it had still to end when it was asked to.
    fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.lock().outcome.is_some()
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
        poll_fn(|cx| self.poll_ended(cx.waker())).await;
    }

    pub(super) fn poll_ended(&self, waker: &Waker) -> Poll<()> {
        let mut end = self.end.lock();
        if end.outcome.is_some() {
            return Poll::Ready(());
        }
        if !end.wakers.iter().any(|before| before.will_wake(waker)) {
            end.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    /// How it has ended.
    pub(super) fn end(&self) -> Option<End> {
        let was_asked = self.was_asked();
        Some(match self.end.lock().outcome.as_ref()? {
            Outcome::Returned(_) if was_asked => End::SwallowedCancel,
            Outcome::Returned(_) => End::Returned,
            Outcome::Raised(_) => End::Raised,
            Outcome::Cancelled if was_asked => End::Cancelled,
            Outcome::Cancelled => End::CancelledItself,
        })
    }

    /// What it has failed with, if it has: to be cancelled as we asked is no failure.
    pub(super) fn failure(&self) -> Option<Error> {
        match self.end()? {
            End::Returned | End::Cancelled | End::SwallowedCancel => None,
            End::CancelledItself => {
                let said =
                    || format!("the asyncio task {} cancelled itself: nobody here has asked it to end", self.path);
                Some(self.cancelled_itself.get_or_init(|| raised::misbehaved(&self.aid, CANCELLED, said())).clone())
            }
            End::Raised => match &self.end.lock().outcome {
                Some(Outcome::Raised(error)) => Some(error.clone()),
                _ => None,
            },
        }
    }

    /// What it has returned. It has ended.
    pub(super) fn result<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        Python::attach(|py| {
            let value = match &self.end.lock().outcome {
                Some(Outcome::Returned(value)) => value.clone_ref(py),
                _ => {
                    let text = format!("the asyncio task {} was cancelled, as it was asked", self.path);
                    return Err(raised::misbehaved(&self.aid, CANCELLED, text));
                }
            };
            from_python(value.bind(py)).map_err(|error| raised::undecodable::<T>(&self.path, "the result", &error))
        })
    }

    /// Nobody waits for it any more: it is cancelled, and the end of the dialog around waits for it.
    pub(super) fn give_up(self: &Arc<Self>) {
        if self.has_ended() {
            return;
        }
        self.cancel();
        let (left, end) = (Left(Arc::clone(self)), Arc::clone(&self.end));
        defer_until(move || end.lock().outcome.is_some(), async move { left.0.ended().await });
    }

    /// Cancels it and waits for its end, as long as the grace lasts.
    pub(super) async fn stop(&self) -> Result<(), Error> {
        self.cancel();
        let actor = current::actor()?;
        let grace: Duration = actor.settings.grace;
        match crate::actor::clock::timeout(Some(&actor.clock), grace, self.ended()).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => {
                tracing::error!(task = self.path, "an asyncio task swallows its cancel, and goes on");
                Err(Error::NotStopped { endpoint: self.path.clone(), aid: actor.aid.clone(), grace, heard: true })
            }
        }
    }
}

const CANCELLED: &str = "asyncio.CancelledError";

/// One that was given up. When nobody waits for it any longer, it is said what is strange about its end.
struct Left(Arc<Task>);

impl Drop for Left {
    fn drop(&mut self) {
        let task = &self.0;
        match task.end() {
            None => tracing::error!(task = task.path, "an asyncio task swallows its cancel, and goes on"),
            Some(End::SwallowedCancel) => {
                tracing::warn!(task = task.path, "an asyncio task has swallowed its cancel, and returned");
            }
            Some(End::Raised) => {
                let error = task.failure();
                tracing::warn!(task = task.path, ?error, "an asyncio task failed while it was being cancelled");
            }
            Some(_) => {}
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("path", &self.path).field("end", &self.end()).finish()
    }
}

/// What the function of this path returns: a coroutine, if it is an `async def`.
fn call<'py>(
    py: Python<'py>,
    path: &str,
    first: Option<Bound<'py, PyAny>>,
    args: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some((module, name)) = path.split_once(':') else {
        let text = format!("{path:?} is no path of a function: write `package.module:function`");
        return Err(pyo3::exceptions::PyValueError::new_err(text));
    };
    let mut function = py.import(module)?.into_any();
    for part in name.split('.') {
        function = function.getattr(part)?;
    }
    let (positional, keywords) = match (args.cast::<PyTuple>(), args.cast::<PyDict>()) {
        (Ok(tuple), _) => (tuple.iter().collect(), None),
        (Err(_), Ok(keywords)) => (Vec::new(), Some(keywords.clone())),
        (Err(_), Err(_)) if args.is_none() => (Vec::new(), None),
        (Err(_), Err(_)) => (vec![args.clone()], None),
    };
    let positional: Vec<_> = first.into_iter().chain(positional).collect();
    function.call(PyTuple::new(py, positional)?, keywords.as_ref())
}

/// Asks a task to end, on the loop's thread.
#[pyclass(frozen)]
struct Cancel {
    task: Py<PyAny>,
    was_asked: Arc<AtomicBool>,
}

#[pymethods]
impl Cancel {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        // One that has ended, and that nobody was told of yet, has not heard it.
        if self.task.call_method0(py, "cancel")?.is_truthy(py)? {
            self.was_asked.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// What asyncio calls when a task has ended.
#[pyclass(frozen)]
struct OnDone {
    aid: Aid,
    end: Arc<Mutex<Ending>>,
}

#[pymethods]
impl OnDone {
    fn __call__(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = task.py();
        let outcome = if task.call_method0("cancelled")?.is_truthy()? {
            Outcome::Cancelled
        } else {
            let raised = task.call_method0("exception")?;
            match raised.is_none() {
                true => Outcome::Returned(task.call_method0("result")?.unbind()),
                false => Outcome::Raised(raised::error(py, &self.aid, &PyErr::from_value(raised))),
            }
        };
        let mut end = self.end.lock();
        end.outcome = Some(outcome);
        let wakers = std::mem::take(&mut end.wakers);
        drop(end);
        for waker in wakers {
            waker.wake();
        }
        Ok(())
    }
}
