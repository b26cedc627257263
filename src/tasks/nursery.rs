//! Who belongs to whom among tasks: a nursery's block, from its opening until all its tasks are gone.
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::book::{Book, Entry, Refusal};
use super::region::{Ground, Region};
use crate::actor::current::Place;
use crate::actor::scope::{End, Scope, end_if_cancelled};
use crate::error::{BoxError, Error};
use crate::msg::ident::{CancelRequest, Canceller};

/// Runs `body` with a nursery of tasks, and returns when every task that was started in it is gone.
///
/// Tasks that are [started](TaskNursery::start_soon) run inside the task that opened the nursery:
/// side by side, not in parallel, and they may borrow whatever outlives the nursery. Those that are
/// [spawned](TaskNursery::spawn) run on the runtime. What the block means is the same for both, and
/// the same as for a [nursery of actors](crate::open_nursery):
///
/// * `body` ends well: the tasks are waited for. They may still start others.
/// * `body` fails or panics, or a task does: everything else is cancelled at once, dropped at its next
///   await; a [`shield`](crate::shield) is left first.
///
/// It needs no actor. In one, a cancel of what is around it cancels it, and the
/// [`deadline`](crate::deadline) around it is that of its tasks.
///
/// # Errors
///
/// The first failure, as itself: an error that `body` or a task returned. [`Error::Group`] if several
/// failed; cancellations that followed are no entries. [`Error::Cancelled`] if the nursery was
/// cancelled before `body` had a value.
///
/// # Panics
///
/// A panic of `body` or of a task goes on when everything is gone.
///
/// # Cancel safety
///
/// Dropping the future drops `body` and the tasks that run inside it, and cancels the spawned ones:
/// the scope around it (a dialog, a nursery, a [`CancelScope`](super::CancelScope)) ends after they
/// have. Where no scope is around it, they are aborted: a shield does not hold that up, and on a
/// multi-thread runtime one that is being polled at this moment is gone a little later.
///
/// # Examples
///
/// ```
/// use teamster::tasks;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let text = String::from("three short words");
/// let count = tasks::open_nursery(async |tn| {
///     let words = tn.start_soon(async { Ok(text.split(' ').count()) }); // borrows `text`
///     let bytes = tn.start_soon(async { Ok(text.len()) });
///     Ok((words.await?, bytes.await?))
/// })
/// .await?;
/// assert_eq!(count, (3, 17));
///
/// let failed = tasks::open_nursery(async |tn| {
///     tn.start_soon(async { Err::<(), _>("no such word".into()) });
///     std::future::pending::<()>().await; // cut off here
///     Ok(())
/// })
/// .await;
/// assert_eq!(failed.unwrap_err().to_string(), "no such word");
/// # Ok(())
/// # }
/// ```
pub async fn open_nursery<'env, T, F, B>(body: F) -> Result<T, Error>
where
    F: FnOnce(TaskNursery<'env>) -> B,
    B: Future<Output = Result<T, BoxError>>,
{
    let book = Book::open(Ground::here());
    let nursery = TaskNursery { inner: Arc::new(Inner { book: Arc::clone(&book), incoming: Mutex::new(Vec::new()) }) };
    let mut running = Running { inner: Arc::clone(&nursery.inner), tasks: FuturesUnordered::new(), is_armed: true };
    // A set of one: it is polled only when it has been woken itself, not for each of the tasks.
    let mut body_alone = FuturesUnordered::new();
    let body = Box::pin(async move { body(nursery).await });
    body_alone.push(Region::new(&book.ground, Arc::clone(&book.body), body));
    let mut ended = None;
    std::future::poll_fn(|cx| {
        for _ in 0..ENDS_A_POLL {
            // First: what the body used ends after it.
            if let Poll::Ready(Some(end)) = body_alone.poll_next_unpin(cx) {
                ended = Some(book.end_body(end));
            }
            match running.poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) if ended.is_some() && book.try_end() => return Poll::Ready(()),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    running.is_armed = false;
    let ended = ended.expect("the loop ends after the body");
    match book.result(ended) {
        Err(Error::Cancelled { canceller }) => {
            end_if_cancelled().await; // it is the cancel of what is around, and goes on there
            Err(Error::Cancelled { canceller })
        }
        result => result,
    }
}

/// After so many tasks that have ended, others of the same thread have their turn: tasks that start
/// the next one and end at once would never let go of it.
const ENDS_A_POLL: usize = 64;

/// The handle to an open nursery of tasks. Cheap to clone; a task that starts others holds a clone.
///
/// It may be kept beyond its block; then it starts nothing any more.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// use teamster::tasks::{TaskNursery, open_nursery};
///
/// fn count_down<'env>(tn: &TaskNursery<'env>, from: u32) {
///     let next = tn.clone();
///     tn.start_soon(async move {
///         match from {
///             0 => println!("go"),
///             from => count_down(&next, from - 1), // a task that starts the next one
///         }
///         Ok(())
///     });
/// }
/// open_nursery(async |tn| Ok(count_down(&tn, 3))).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TaskNursery<'env> {
    inner: Arc<Inner<'env>>,
}

struct Inner<'env> {
    book: Arc<Book>,
    /// Tasks that were started and are not in the hands of the nursery's own task yet.
    incoming: Mutex<Vec<BoxFuture<'env, ()>>>,
}

impl<'env> TaskNursery<'env> {
    /// Starts a task inside the nursery's own task.
    ///
    /// It is first polled when the code that called this awaits. The nursery waits for it, and its
    /// failure is the nursery's, awaited or not; dropping the handle leaves it to the nursery. In a
    /// nursery that was cancelled nothing of it runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let mut log = Vec::new();
    /// teamster::tasks::open_nursery(async |tn| {
    ///     tn.start_soon(async {
    ///         log.push("from a task");
    ///         Ok(())
    ///     });
    ///     Ok(())
    /// })
    /// .await?;
    /// assert_eq!(log, ["from a task"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_soon<T, Fut>(&self, task: Fut) -> Task<T>
    where
        T: Send + 'env,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'env,
    {
        let (handle, task) = self.admit(task);
        if let Some(task) = task {
            self.run_inside(task);
        }
        handle
    }

    /// Starts a task on the runtime: it may run in parallel to the nursery's own task.
    ///
    /// For the rest as [`TaskNursery::start_soon`]. In an actor it is a task of that actor's runtime.
    /// Outside of a tokio runtime the nursery fails with [`Error::Usage`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), teamster::Error> {
    /// let sum = teamster::tasks::open_nursery(async |tn| {
    ///     let halves = [1..50, 50..101].map(|numbers| tn.spawn(async move { Ok(numbers.sum::<u32>()) }));
    ///     let mut sum = 0;
    ///     for half in halves {
    ///         sum += half.await?;
    ///     }
    ///     Ok(sum)
    /// })
    /// .await?;
    /// assert_eq!(sum, 5050);
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn<T, Fut>(&self, task: Fut) -> Task<T>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, BoxError>> + Send + 'static,
    {
        let (handle, task) = self.admit(task);
        if let Some(task) = task {
            self.inner.book.spawn(task);
        }
        handle
    }

    /// Starts a task and waits until it says that it is ready: its word is what this returns.
    ///
    /// Until then the task belongs to the caller of this; from then on it is like any other of the
    /// nursery. It runs as [`TaskNursery::start_soon`] has it.
    ///
    /// # Errors
    ///
    /// What the task returned before it was ready, for the caller alone to handle. [`Error::Cancelled`]
    /// if it was cancelled first, [`Error::Usage`] if it ended well without having said that it is
    /// ready.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the task, unless it is ready already.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// use teamster::tasks;
    /// use tokio::net::TcpListener;
    ///
    /// tasks::open_nursery(async |tn| {
    ///     let address = tn
    ///         .start(async |status| {
    ///             let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///             status.started(listener.local_addr()?);
    ///             listener.accept().await?;
    ///             Ok(())
    ///         })
    ///         .await?;
    ///     tokio::net::TcpStream::connect(address).await?;
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start<V, F, Fut>(&self, task: F) -> Result<V, Error>
    where
        V: Send + 'env,
        F: FnOnce(TaskStatus<V>) -> Fut,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'env,
    {
        let entry = self.inner.book.enter().map_err(Refusal::into_error)?;
        let scope = Arc::clone(&entry.scope);
        let (sender, ready) = oneshot::channel();
        let starter = Arc::new(Mutex::new(Some(sender)));
        let future = task(TaskStatus { starter: Arc::clone(&starter) });
        let mut unready =
            CancelOnDrop { scope: Arc::clone(&scope), canceller: Some(self.canceller(CancelRequest::Dropped)) };
        self.run_inside(run_started(entry, future, starter));
        let ready = ready.await;
        unready.canceller = None;
        ready.unwrap_or_else(|_gone| Err(self.inner.book.gone(&scope)))
    }

    /// Cancels every task of the nursery. It starts nothing any more.
    ///
    /// Called from the nursery's own body it leaves the body alone, which goes on and may return a
    /// value; called from elsewhere, it cancels the body too. Asking twice is asking once.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let answer = teamster::tasks::open_nursery(async |tn| {
    ///     tn.start_soon(std::future::pending::<Result<(), _>>()); // some background task
    ///     tn.cancel();
    ///     Ok(42)
    /// })
    /// .await?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self) {
        let book = &self.inner.book;
        let canceller = self.canceller(CancelRequest::Nursery);
        let is_inside = Place::here().scopes().any(|scope| scope.is_within(&book.body));
        match is_inside {
            true => book.cancel_tasks(&canceller),
            false => book.cancel(&canceller),
        }
    }

    /// Whether it has been cancelled: by [`TaskNursery::cancel`], from around it, or by a failure in it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// teamster::tasks::open_nursery(async |tn| {
    ///     assert!(!tn.is_cancelled());
    ///     tn.cancel();
    ///     assert!(tn.is_cancelled());
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.inner.book.canceller().is_some()
    }

    fn canceller(&self, request: CancelRequest) -> Canceller {
        self.inner.book.ground.canceller(request)
    }

    /// The handle of a task, and the task, if it may begin.
    fn admit<T, Fut>(&self, task: Fut) -> (Task<T>, Option<impl Future<Output = ()> + use<T, Fut>>)
    where
        Fut: Future<Output = Result<T, BoxError>>,
    {
        let book = &self.inner.book;
        let (sender, outcome) = oneshot::channel();
        match book.enter() {
            Ok(entry) => {
                let scope = Arc::clone(&entry.scope);
                (Task { book: Arc::clone(book), scope, outcome }, Some(run(entry, task, sender)))
            }
            Err(refusal) => {
                let scope = book.ground.scope("task");
                // The handle holds the other end.
                let _ = sender.send(Err(refusal.into_error()));
                (Task { book: Arc::clone(book), scope, outcome }, None)
            }
        }
    }

    fn run_inside(&self, task: impl Future<Output = ()> + Send + 'env) {
        self.inner.incoming.lock().push(Box::pin(task));
        self.inner.book.waker.wake();
    }
}

impl fmt::Debug for TaskNursery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskNursery").field("book", &self.inner.book).finish()
    }
}

/// A task from its beginning to its end in the book.
fn run<T, Fut>(entry: Entry, task: Fut, outcome: oneshot::Sender<Result<T, Error>>) -> impl Future<Output = ()>
where
    Fut: Future<Output = Result<T, BoxError>>,
{
    let region = Region::new(&entry.book.ground, Arc::clone(&entry.scope), Box::pin(task));
    async move {
        let result = match region.await {
            End::Value(Ok(value)) => Ok(value),
            End::Value(Err(error)) => {
                let error = Error::from_body(error);
                entry.fail(error.clone());
                Err(error)
            }
            End::Cancelled(canceller) => Err(Error::Cancelled { canceller }),
            End::Panicked(panic) => return entry.book.panicked(panic),
        };
        // Nobody awaits the handle: a failure is in the book.
        let _ = outcome.send(result);
    }
}

/// The same for one that belongs to whoever waits in [`TaskNursery::start`] until it is ready.
fn run_started<V, Fut>(entry: Entry, task: Fut, ready: Arc<Starter<V>>) -> impl Future<Output = ()>
where
    Fut: Future<Output = Result<(), BoxError>>,
{
    let region = Region::new(&entry.book.ground, Arc::clone(&entry.scope), Box::pin(task));
    async move {
        let end = region.await;
        let starter = ready.lock().take();
        let error = match end {
            End::Value(Ok(())) if starter.is_none() => return,
            End::Value(Ok(())) => match entry.scope.canceller() {
                Some(canceller) => Error::Cancelled { canceller }, // it ended early because of that
                None => Error::Usage("a task ended without having said that it is ready: `status.started(…)`"),
            },
            End::Value(Err(error)) => Error::from_body(error),
            End::Cancelled(canceller) => Error::Cancelled { canceller },
            End::Panicked(panic) => return entry.book.panicked(panic),
        };
        match starter.map_or(Err(Err(error.clone())), |starter| starter.send(Err(error))) {
            Ok(()) => {}
            Err(Err(unheard)) => entry.fail(unheard),
            Err(Ok(_)) => unreachable!("an error was sent"),
        }
    }
}

/// Where a task's starter waits for its word.
type Starter<V> = Mutex<Option<oneshot::Sender<Result<V, Error>>>>;

/// With this a task says that it is ready: see [`TaskNursery::start`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// use teamster::tasks::{TaskStatus, open_nursery};
///
/// async fn serve(status: TaskStatus<u16>) -> Result<(), teamster::BoxError> {
///     status.started(8080);
///     Ok(())
/// }
/// open_nursery(async |tn| {
///     assert_eq!(tn.start(serve).await?, 8080);
///     Ok(())
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub struct TaskStatus<V> {
    starter: Arc<Starter<V>>,
}

impl<V> TaskStatus<V> {
    /// The task is ready: its starter goes on, with `value`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// teamster::tasks::open_nursery(async |tn| {
    ///     let word = tn
    ///         .start(async |status| {
    ///             status.started("ready"); // the starter goes on, and so does this
    ///             Ok(())
    ///         })
    ///         .await?;
    ///     assert_eq!(word, "ready");
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn started(self, value: V) {
        if let Some(starter) = self.starter.lock().take() {
            // A starter that waits no more has cancelled the task.
            let _ = starter.send(Ok(value));
        }
    }
}

impl<V> fmt::Debug for TaskStatus<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStatus").finish_non_exhaustive()
    }
}

/// One task of a nursery: await its value, or cancel it alone. Dropping the handle leaves the task to
/// the nursery.
///
/// # Errors
///
/// What the task returned; the nursery fails with the same. [`Error::Cancelled`] if it was cancelled,
/// which for a task alone is no failure of the nursery.
///
/// # Cancel safety
///
/// Dropping it stops the waiting only.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// use teamster::{Error, tasks};
///
/// tasks::open_nursery(async |tn| {
///     let endless = tn.start_soon(std::future::pending::<Result<(), _>>());
///     endless.cancel();
///     assert!(matches!(endless.await, Err(Error::Cancelled { .. })));
///     Ok(())
/// })
/// .await?; // no failure
/// # Ok(())
/// # }
/// ```
pub struct Task<T> {
    book: Arc<Book>,
    scope: Arc<Scope>,
    outcome: oneshot::Receiver<Result<T, Error>>,
}

impl<T> Task<T> {
    /// Cancels this task alone: it is dropped at its next await, or when it leaves its shield.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// teamster::tasks::open_nursery(async |tn| {
    ///     let endless = tn.start_soon(std::future::pending::<Result<(), _>>());
    ///     endless.cancel(); // else the nursery would wait for it
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn cancel(&self) {
        self.scope.cancel(&self.book.ground.canceller(CancelRequest::Dropped));
    }

    /// Whether it has ended, however it did.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// teamster::tasks::open_nursery(async |tn| {
    ///     let task = tn.start_soon(async { Ok(1) });
    ///     assert!(!task.is_finished());
    ///     assert_eq!(task.await?, 1);
    ///     Ok(())
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn is_finished(&self) -> bool {
        !self.outcome.is_empty() || self.outcome.is_terminated()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(outcome.unwrap_or_else(|_gone| Err(self.book.gone(&self.scope))))
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("scope", &self.scope).field("is_finished", &self.is_finished()).finish()
    }
}

struct CancelOnDrop {
    scope: Arc<Scope>,
    canceller: Option<Canceller>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(canceller) = &self.canceller {
            self.scope.cancel(canceller);
        }
    }
}

/// The tasks that the nursery's own task runs, and the end of all if that is dropped.
struct Running<'env> {
    inner: Arc<Inner<'env>>,
    tasks: FuturesUnordered<BoxFuture<'env, ()>>,
    is_armed: bool,
}

impl Running<'_> {
    /// One task more has ended. `None`: there is none left, inside or on the runtime.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.inner.book.waker.register(cx.waker());
        let incoming = std::mem::take(&mut *self.inner.incoming.lock());
        self.tasks.extend(incoming);
        match (self.tasks.poll_next_unpin(cx), self.inner.book.poll_spawned(cx)) {
            (Poll::Ready(Some(())), _) => Poll::Ready(Some(())),
            (Poll::Ready(None), Poll::Ready(())) if self.inner.incoming.lock().is_empty() => Poll::Ready(None),
            _ if !self.inner.incoming.lock().is_empty() => Poll::Ready(Some(())), // one has started another
            _ => Poll::Pending,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.inner.book.abandon();
        }
        // A handle may outlive the nursery: tasks that were never run don't.
        let incoming = std::mem::take(&mut *self.inner.incoming.lock());
        drop(incoming);
    }
}

#[cfg(test)]
mod tests;
