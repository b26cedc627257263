//! What does Python code find of its tree? The module `teamster`.
use std::ffi::CString;
use std::sync::Arc;

use futures::future::{AbortHandle, abortable};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pythonize::pythonize;
use tokio::sync::oneshot;

use super::event_loop::EventLoop;
use super::raised;
use super::value::from_python;
use crate::actor::crash::SendTask;
use crate::actor::current;
use crate::actor::traces::{Origin, traced};
use crate::error::Error;

/// Makes the module, and has `import teamster` find it.
pub(super) fn install(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    let source = CString::new(include_str!("teamster.py")).expect("a text without NUL");
    let module = PyModule::from_code(py, &source, c"teamster.py", c"teamster")?;
    module.add_function(wrap_pyfunction!(call, &module)?)?;
    let modules = py.import("sys")?.getattr("modules")?;
    modules.cast::<PyDict>()?.set_item("teamster", &module)?;
    Ok(module)
}

/// Cancels the tasks of this loop that nobody here waits for. What it gives is resolved when they have ended.
pub(super) fn cancel_background(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<oneshot::Receiver<()>> {
    let (told, ended) = oneshot::channel();
    py.import("teamster")?.call_method1("_cancel_all", (event_loop, Ended(Mutex::new(Some(told)))))?;
    Ok(ended)
}

/// Those that go on.
pub(super) fn names_of_left(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> Vec<String> {
    let names =
        py.import("teamster").and_then(|module| module.call_method1("_names_of_left", (event_loop,))?.extract());
    names.unwrap_or_default()
}

/// Told when there is nothing left of what was cancelled.
#[pyclass(frozen)]
struct Ended(Mutex<Option<oneshot::Sender<()>>>);

#[pymethods]
impl Ended {
    fn __call__(&self) {
        self.0.lock().take();
    }
}

pub(super) fn end_of_channel(py: Python<'_>) -> PyErr {
    made(py, "EndOfChannel", ())
}

fn made<'py>(py: Python<'py>, name: &str, args: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    let made = py.import("teamster").and_then(|module| module.getattr(name)).and_then(|class| class.call1(args));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// One of our errors on its way through Python.
#[pyclass(frozen)]
pub(super) struct Carried(pub(super) Error);

fn remote_error(py: Python<'_>, error: Error) -> PyErr {
    let (text, report) = (error.to_string(), error.report().to_string());
    match Py::new(py, Carried(error)) {
        Ok(carried) => made(py, "RemoteError", (text, report, carried)),
        Err(error) => error,
    }
}

/// `await teamster.call(name, path, args=())`: calls an endpoint of the actor of this name, by its path. Cancelled, it
/// cancels the call.
#[pyfunction]
#[pyo3(signature = (name, path, args = None))]
fn call<'py>(
    py: Python<'py>,
    name: String,
    path: String,
    args: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let event_loop = EventLoop::here().map_err(|error| remote_error(py, error))?;
    if event_loop.is_over() {
        return Err(remote_error(py, Error::Usage(OVER)));
    }
    let actor = Arc::clone(event_loop.actor().map_err(|error| remote_error(py, error))?);
    let args: rmpv::Value = match args {
        Some(args) => from_python(args)?,
        None => rmpv::Value::Array(Vec::new()),
    };
    let future = event_loop.future(py)?;
    let answer = Answer { future: Some(future.clone().unbind()), event_loop: Arc::clone(&event_loop) };
    let called = async move {
        let found = crate::find_actor(&name).await?;
        let portal = found.ok_or(Error::Usage("no actor of this name is alive: `teamster.call` can't reach it"))?;
        portal.run_by_path::<rmpv::Value, rmpv::Value>(&path, args).await
    };
    let (called, abort) = abortable(current::At::new(actor.place(), called));
    let answered = async move {
        // Else it was aborted by who has waited for it.
        if let Ok(ended) = called.await {
            answer.is(ended);
        }
    };
    // The actor's end does not wait for it: it waits for what waits for this, and cancels that where nobody here wants it.
    actor.spawn_last(traced(&actor.traces, Origin::Task { label: "teamster.call" }, SendTask(answered)));
    future.call_method1("add_done_callback", (Py::new(py, Aborts(abort))?,))?;
    Ok(future)
}

const OVER: &str = "the actor is over: `teamster.call` has nobody left who would see to it";

/// Who waits for a call: told at the latest when nobody is left who would answer.
struct Answer {
    future: Option<Py<PyAny>>,
    event_loop: Arc<EventLoop>,
}

impl Answer {
    fn is(mut self, ended: Result<rmpv::Value, Error>) {
        let future = self.future.take();
        Python::attach(|py| future.iter().for_each(|future| tell(py, future, ended.clone())));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        let event_loop = &self.event_loop;
        // In a Python that goes down nobody waits.
        Python::try_attach(|py| match event_loop.is_here() {
            true => Unanswered(future).__call__(py),
            false => {
                // A loop that is closed has cancelled whoever waits.
                let _ = event_loop.itself(py).call_method1("call_soon_threadsafe", (Unanswered(future),));
            }
        });
    }
}

/// Has a call fail, on the loop's thread.
#[pyclass(frozen)]
struct Unanswered(Py<PyAny>);

#[pymethods]
impl Unanswered {
    fn __call__(&self, py: Python<'_>) {
        tell(py, &self.0, Err(Error::Usage(OVER)));
    }
}

/// Sets a future of asyncio's, unless it was cancelled.
fn tell(py: Python<'_>, future: &Py<PyAny>, ended: Result<rmpv::Value, Error>) {
    let future = future.bind(py);
    if future.call_method0("done").and_then(|done| done.is_truthy()).unwrap_or(true) {
        return;
    }
    let value = ended.map_err(|error| remote_error(py, error)).and_then(|value| {
        let value = pythonize(py, &value);
        value.map_err(|error| {
            remote_error(py, raised::unencodable::<rmpv::Value>("teamster.call", "the result", &error))
        })
    });
    let told = match value {
        Ok(value) => future.call_method1("set_result", (value,)),
        Err(error) => future.call_method1("set_exception", (error.value(py),)),
    };
    debug_assert!(told.is_ok(), "it was not done, and is this thread's");
}

/// Ends a call that nobody waits for any more.
#[pyclass(frozen)]
struct Aborts(AbortHandle);

#[pymethods]
impl Aborts {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        self.0.abort();
    }
}
