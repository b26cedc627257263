//! A task of the event loop that is linked with a block here: what goes between them, and what ends when?
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::{Either, select};
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pythonize::pythonize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event_loop::EventLoop;
use super::task::{End, Task};
use super::value::from_python;
use super::{module, raised};
use crate::error::{BoxError, Error, Group};

/// Messages that wait in one direction: whoever would send another waits, or is refused.
const ROOM: usize = 64;

/// Runs a coroutine function as a task of this actor's event loop, linked with `body`: the task does not outlive it, and a failure of one
/// ends the other.
///
/// `path` and `args` are as for [`run_task`](super::run_task); before the arguments the function is given its side of the
/// channel, `async def func(chan, …)`. `body` begins when that has said its first word, `chan.started_nowait(value)`.
///
/// When `body` ends, the asyncio task is cancelled unless it has ended, and waited for. When that fails, `body` is
/// dropped at its next await, and its failure is what the caller gets. When it returns early, [`recv`](Channel::recv)
/// gives `None` behind its last message, `body` goes on, and [`result`](Channel::result) has what it returned.
///
/// # Errors
///
/// That of `body`, or what the asyncio task failed with; if the task fails while it cleans up behind a failure, both in an [`Error::Group`]. [`Error::Remote`] with `asyncio.CancelledError` if the task cancelled
/// itself, and with `teamster.NeverStarted` if it returned without its first word. [`Error::NotStopped`] if it swallows its cancel and goes on for
/// longer than the grace. Else as [`run_task`](super::run_task).
///
/// # Cancel safety
///
/// Dropped, it drops `body` and cancels the asyncio task; the end of what it was called in waits for that, within the grace.
///
/// # Examples
///
/// ```no_run
/// use teamster::asyncio;
///
/// /// `async def echo(chan, name)` greets, and sends back what it gets.
/// #[teamster::rpc]
/// async fn talk() -> Result<String, teamster::Error> {
///     asyncio::open_channel_from("echoes:echo", ("frank",), async |chan, greeting: String| {
///         chan.send(&greeting).await?;
///         let echo: Option<String> = chan.recv().await?;
///         Ok(echo.unwrap_or_default())
///     })
///     .await
/// }
/// # fn main() {}
/// ```
pub async fn open_channel_from<First, T, A, F>(path: &str, args: A, body: F) -> Result<T, Error>
where
    First: DeserializeOwned,
    A: Serialize + Send,
    F: AsyncFnOnce(Channel, First) -> Result<T, BoxError>,
{
    let channel = Channel::open(path, &args)?;
    drop(args);
    let linked = Linked(channel.clone());
    let ended = match channel.first::<First>().await {
        Ok(first) => {
            let body = std::pin::pin!(body(channel.clone(), first));
            // The failure is looked at first: what follows from it in the body is no cause.
            match select(std::pin::pin!(channel.failed()), body).await {
                Either::Left((failure, _dropped)) => Err(failure),
                Either::Right((ended, _)) => ended.map_err(Error::from_body),
            }
        }
        Err(failure) => Err(failure),
    };
    channel.link.close();
    let had_ended = channel.task.has_ended();
    let stopped = channel.task.stop().await;
    drop(linked);
    if !had_ended && channel.task.end() == Some(End::SwallowedCancel) {
        tracing::warn!(task = channel.task.path, "an asyncio task has swallowed its cancel, and returned");
    }
    // The same failure counts once, whoever tells it.
    let failures = ended.as_ref().err().cloned().into_iter().chain(stopped.err()).chain(channel.task.failure());
    match Group::collect(failures) {
        Some(failure) => Err(failure),
        None => ended,
    }
}

/// Our side of a channel to an asyncio task. A clone is the same side.
///
/// # Examples
///
/// ```no_run
/// use teamster::asyncio::Channel;
///
/// async fn ask(chan: &Channel, question: &str) -> Result<Option<f64>, teamster::Error> {
///     chan.send(question).await?;
///     chan.recv().await
/// }
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Channel {
    task: Arc<Task>,
    link: Arc<Link>,
}

impl Channel {
    fn open<A: Serialize>(path: &str, args: &A) -> Result<Channel, Error> {
        let link = Arc::new(Link { event_loop: EventLoop::here()?, state: Mutex::default() });
        Python::attach(|py| {
            let side = Side(Arc::clone(&link)).into_pyobject(py).map_err(|error| {
                let here = crate::actor::current::actor().map(|actor| actor.aid.clone());
                here.map_or_else(|error| error, |here| raised::error(py, &here, &error))
            })?;
            let task = Task::start(py, path, Some(side.into_any()), args)?;
            Ok(Channel { task, link })
        })
    }

    /// The first word.
    async fn first<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let waits = poll_fn(|cx| {
            let mut state = self.link.state.lock();
            if let Some(first) = state.first.take() {
                return Poll::Ready(Some(first));
            }
            state.waits_for_first = Some(cx.waker().clone());
            drop(state);
            self.task.poll_ended(cx.waker()).map(|()| None)
        });
        match waits.await {
            Some(first) => self.decoded(first, "its first word"),
            None => Err(self.task.failure().unwrap_or_else(|| {
                let text = format!("the asyncio task {} returned without a call of `started_nowait`", self.task.path);
                raised::misbehaved(&self.task.aid, "teamster.NeverStarted", text)
            })),
        }
    }

    /// Resolves with what the task has failed with, if it fails.
    async fn failed(&self) -> Error {
        self.task.ended().await;
        match self.task.failure() {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Sends a message, and waits for room if 64 are on their way already.
    ///
    /// # Errors
    ///
    /// [`Error::StreamClosed`] if the task has ended, or after [`finish`](Channel::finish); [`Error::Codec`] if Python can't have the
    /// value; [`Error::Usage`] on another thread than the loop's.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has not sent it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) -> Result<(), teamster::Error> {
    /// chan.send(&("price", 7)).await?;
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub async fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Error> {
        self.link.must_be_here()?;
        let value = Python::attach(|py| pythonize(py, value).map(Bound::unbind))
            .map_err(|error| raised::unencodable::<T>(&self.task.path, "a message", &error))?;
        let mut value = Some(value);
        poll_fn(|cx| self.poll_send(cx, &mut value)).await
    }

    fn poll_send(&self, cx: &mut Context<'_>, value: &mut Option<Py<PyAny>>) -> Poll<Result<(), Error>> {
        let mut state = self.link.state.lock();
        if self.task.has_ended() || state.is_finished {
            let (endpoint, aid) = (self.task.path.clone(), self.task.aid.clone());
            return Poll::Ready(Err(Error::StreamClosed { endpoint, aid }));
        }
        if state.to_python.len() >= ROOM {
            state.wait_for_room(cx.waker());
            drop(state);
            return self.task.poll_ended(cx.waker()).map(|()| {
                let (endpoint, aid) = (self.task.path.clone(), self.task.aid.clone());
                Err(Error::StreamClosed { endpoint, aid })
            });
        }
        state.to_python.extend(value.take());
        drop(state);
        Python::attach(|py| self.link.call_getters(py));
        Poll::Ready(Ok(()))
    }

    /// The next message. `None` behind the last one of a task that has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if it is no `T`: it is lost, and the next one can be had. [`Error::Usage`] on another thread than the loop's.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has taken nothing.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) -> Result<(), teamster::Error> {
    /// while let Some(price) = chan.recv::<f64>().await? {
    ///     println!("{price}");
    /// }
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.link.must_be_here()?;
        let received = poll_fn(|cx| {
            let mut state = self.link.state.lock();
            let Some(value) = state.to_us.pop_front() else {
                state.wait_for_message(cx.waker());
                drop(state);
                return self.task.poll_ended(cx.waker()).map(|()| None);
            };
            let is_waited_for = !state.senders.is_empty();
            drop(state);
            if is_waited_for {
                Python::attach(|py| self.link.let_in(py));
            }
            Poll::Ready(Some(value))
        });
        match received.await {
            Some(value) => self.decoded(value, "a message").map(Some),
            None => Ok(None),
        }
    }

    fn decoded<T: DeserializeOwned>(&self, value: Py<PyAny>, what: &str) -> Result<T, Error> {
        Python::attach(|py| {
            let value = value.into_bound(py);
            from_python(&value).map_err(|error| raised::undecodable::<T>(&self.task.path, what, &error))
        })
    }

    /// Sends nothing more: behind the last message the task finds `teamster.EndOfChannel`. It goes on, and may send.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] on another thread than the loop's.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) -> Result<(), teamster::Error> {
    /// chan.finish()?;
    /// let sum: i64 = chan.result().await?;
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn finish(&self) -> Result<(), Error> {
        self.link.must_be_here()?;
        self.link.state.lock().is_finished = true;
        Python::attach(|py| self.link.call_getters(py));
        Ok(())
    }

    /// Asks the task to end. [`ended`](Channel::ended) tells what came of it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) -> Result<(), teamster::Error> {
    /// use teamster::asyncio::End;
    ///
    /// chan.cancel();
    /// assert_eq!(chan.ended().await, End::Cancelled);
    /// # Ok(()) }
    /// # fn main() {}
    /// ```
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// Waits for the task's end, and tells how that came.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it stops waiting.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) {
    /// let how = chan.ended().await;
    /// # let _ = how; }
    /// # fn main() {}
    /// ```
    pub async fn ended(&self) -> End {
        loop {
            self.task.ended().await;
            if let Some(end) = self.task.end() {
                return end;
            }
        }
    }

    /// Waits for the task's end, and gives what it returned.
    ///
    /// # Errors
    ///
    /// What it failed with; [`Error::Remote`] with `asyncio.CancelledError` if it was cancelled; [`Error::Codec`] if its result is no `T`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it stops waiting. It may be asked again.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn f(chan: teamster::asyncio::Channel) -> Result<(), teamster::Error> {
    /// let sum: i64 = chan.result().await?;
    /// # let _ = sum; Ok(()) }
    /// # fn main() {}
    /// ```
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.task.ended().await;
        self.task.result()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("task", &self.task).finish_non_exhaustive()
    }
}

/// The block that a task is linked with.
struct Linked(Channel);

impl Drop for Linked {
    fn drop(&mut self) {
        self.0.link.close();
        self.0.task.give_up();
    }
}

/// What both sides have of one channel. Not the task: what that holds on to may be Python's side, which has this.
struct Link {
    event_loop: Arc<EventLoop>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_started: bool,
    first: Option<Py<PyAny>>,
    waits_for_first: Option<Waker>,
    to_python: VecDeque<Py<PyAny>>,
    /// asyncio's futures of those that wait for one. They are a sign and no more: who is woken takes a message, if it has not been
    /// cancelled meanwhile.
    getters: VecDeque<Py<PyAny>>,
    /// Getters that were woken and have taken nothing yet: so many messages are not for those who come later.
    woken: usize,
    /// We send nothing more.
    is_finished: bool,
    wait_for_room: Vec<Waker>,
    to_us: VecDeque<Py<PyAny>>,
    wait_for_message: Vec<Waker>,
    /// asyncio's futures of those that wait for room, with what they send.
    senders: VecDeque<(Py<PyAny>, Py<PyAny>)>,
    /// The block here is over: it takes nothing more.
    is_closed: bool,
}

impl State {
    fn wait_for_room(&mut self, waker: &Waker) {
        note(&mut self.wait_for_room, waker);
    }

    fn wait_for_message(&mut self, waker: &Waker) {
        note(&mut self.wait_for_message, waker);
    }
}

fn note(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|before| before.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

impl Link {
    /// Wakes who waits for messages: one for a message, and all of them at the end.
    fn call_getters(&self, py: Python<'_>) {
        loop {
            let mut state = self.state.lock();
            let is_over = state.is_finished || state.is_closed;
            if state.to_python.is_empty() && !is_over {
                return;
            }
            let Some(getter) = state.getters.pop_front() else { return };
            drop(state);
            if is_done(py, &getter) {
                continue; // whoever has waited was cancelled
            }
            // A loop that is closed has nobody left who waits.
            if getter.call_method1(py, "set_result", (py.None(),)).is_ok() {
                self.state.lock().woken += 1;
            }
            if !is_over {
                return;
            }
        }
    }

    /// The next message for Python.
    fn take(&self, was_woken: bool) -> Option<Py<PyAny>> {
        let mut state = self.state.lock();
        if was_woken {
            state.woken = state.woken.saturating_sub(1);
        } else if state.to_python.len() <= state.woken {
            return None;
        }
        let value = state.to_python.pop_front()?;
        let wakers = std::mem::take(&mut state.wait_for_room);
        drop(state);
        wake(wakers);
        Some(value)
    }

    /// Lets messages in that have waited for room.
    fn let_in(&self, py: Python<'_>) {
        loop {
            let mut state = self.state.lock();
            if state.to_us.len() >= ROOM && !state.is_closed {
                return;
            }
            let is_closed = state.is_closed;
            let Some((sender, value)) = state.senders.pop_front() else { return };
            drop(state);
            if is_done(py, &sender) {
                continue; // it was cancelled: its message was not sent
            }
            let set = match is_closed {
                true => sender.call_method1(py, "set_exception", (module::end_of_channel(py).into_value(py),)),
                false => {
                    self.push(value);
                    sender.call_method1(py, "set_result", (py.None(),))
                }
            };
            debug_assert!(set.is_ok(), "it was not done, and is this thread's");
        }
    }

    /// A message from Python.
    fn push(&self, value: Py<PyAny>) {
        let mut state = self.state.lock();
        state.to_us.push_back(value);
        let wakers = std::mem::take(&mut state.wait_for_message);
        drop(state);
        wake(wakers);
    }

    /// The block here is over.
    fn close(&self) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_closed, true) {
            return;
        }
        let dropped = (std::mem::take(&mut state.to_us), std::mem::take(&mut state.to_python));
        drop(state);
        drop(dropped);
        Python::attach(|py| {
            self.call_getters(py);
            self.let_in(py);
        });
    }

    fn must_be_here(&self) -> Result<(), Error> {
        match self.event_loop.is_here() {
            true => Ok(()),
            false => Err(Error::Usage(
                "a channel to asyncio is used by the actor's own tasks: they run on the loop's thread",
            )),
        }
    }

    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop.future(py)
    }

    /// Whether a message may go to us now.
    fn may_send(&self, py: Python<'_>) -> PyResult<bool> {
        let state = self.state.lock();
        if !state.has_started {
            return Err(PyRuntimeError::new_err(
                "the first word of a channel is `started_nowait`: nothing is sent before it",
            ));
        }
        if state.is_closed {
            drop(state);
            return Err(module::end_of_channel(py));
        }
        Ok(state.to_us.len() < ROOM && state.senders.is_empty())
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

fn is_done(py: Python<'_>, future: &Py<PyAny>) -> bool {
    is_true(future.bind(py).call_method0("done")).unwrap_or(true)
}

fn is_true(said: PyResult<Bound<'_, PyAny>>) -> PyResult<bool> {
    said?.is_truthy()
}

/// Python's side of a channel.
#[pyclass(frozen, name = "Channel", module = "teamster")]
struct Side(Arc<Link>);

#[pymethods]
impl Side {
    /// Says the first word: the block on the other side begins with it.
    fn started_nowait(&self, value: Py<PyAny>) -> PyResult<()> {
        let mut state = self.0.state.lock();
        if std::mem::replace(&mut state.has_started, true) {
            return Err(PyRuntimeError::new_err("`started_nowait` was called already: there is one first word"));
        }
        state.first = Some(value);
        let waker = state.waits_for_first.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// `await chan.get()`: the next message; `EndOfChannel` behind the last one.
    fn get(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        this.get().0.event_loop.ours(this.py()).getattr("_get")?.call1((this,))
    }

    fn __aiter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __anext__(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        this.get().0.event_loop.ours(this.py()).getattr("_next")?.call1((this,))
    }

    /// A message that is there for who was woken, or comes first.
    #[pyo3(name = "_take")]
    fn take(&self, was_woken: bool) -> Option<(Py<PyAny>,)> {
        self.0.take(was_woken).map(|value| (value,))
    }

    /// A future that is resolved when it is worth to look again. `None`: nothing more will come.
    #[pyo3(name = "_wait")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let future = self.0.future(py)?;
        let mut state = self.0.state.lock();
        if state.is_finished || state.is_closed {
            return Ok(None);
        }
        state.getters.push_back(future.clone().unbind());
        Ok(Some(future))
    }

    /// One that waits does so no longer: if it was woken already, the next one is.
    #[pyo3(name = "_leave")]
    fn leave(&self, getter: &Bound<'_, PyAny>) -> PyResult<()> {
        let was_woken = !is_true(getter.call_method0("cancelled"))? && is_true(getter.call_method0("done"))?;
        let mut state = self.0.state.lock();
        let waited = taken_out(&mut state.getters, |other| other.is(getter));
        state.woken = state.woken.saturating_sub(usize::from(was_woken));
        drop(state);
        drop(waited);
        // On another thread it is thrown away, and nothing of asyncio's may be touched.
        if was_woken && self.0.event_loop.is_here() {
            self.0.call_getters(getter.py());
        }
        Ok(())
    }

    /// Sends a message; `asyncio.QueueFull` where there is no room.
    fn send_nowait(&self, py: Python<'_>, value: Py<PyAny>) -> PyResult<()> {
        if !self.0.may_send(py)? {
            let full = py.import("asyncio")?.getattr("QueueFull")?.call0()?;
            return Err(PyErr::from_value(full));
        }
        self.0.push(value);
        Ok(())
    }

    /// `await chan.send(value)`: the same, and waits for room.
    fn send<'py>(this: Bound<'py, Self>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        this.get().0.event_loop.ours(this.py()).getattr("_send")?.call1((this, value))
    }

    /// Sends it at once, or gives a future that is resolved when it was sent.
    #[pyo3(name = "_put")]
    fn put<'py>(&self, py: Python<'py>, value: Py<PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.0.may_send(py)? {
            self.0.push(value);
            return Ok(None);
        }
        let future = self.0.future(py)?;
        self.0.state.lock().senders.push_back((future.clone().unbind(), value));
        Ok(Some(future))
    }

    /// One that waits for room does so no longer, and its message is not sent.
    #[pyo3(name = "_take_back")]
    fn take_back(&self, sender: &Bound<'_, PyAny>) {
        let _unlocked = taken_out(&mut self.0.state.lock().senders, |(other, _)| other.is(sender));
    }
}

fn taken_out<T>(row: &mut VecDeque<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    let place = row.iter().position(is_it)?;
    row.remove(place)
}
