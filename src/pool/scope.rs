//! Who waits for jobs that were started side by side? A block, whose end is theirs.
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::run::Run;
use super::workers::Workers;
use crate::actor::current::Place;
use crate::actor::endpoint::{Call, Endpoint};
use crate::actor::peers::canceller;
use crate::actor::scope::{Below, End, Scope, Scoped, end_if_cancelled};
use crate::error::{BoxError, Error, Group};
use crate::msg::ident::{Aid, CancelRequest};
use crate::nursery::is_consequence;

/// What starts jobs in a block of a pool: see [`WorkerPool::scope`](super::WorkerPool::scope). Cheap to clone.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
/// let sum = pool.scope(async |jobs| {
///     let (one, other) = (jobs.start(square(3)), jobs.start(square(4)));
///     Ok(one.await? + other.await?)
/// });
/// assert_eq!(sum.await?, 25);
/// # Ok(()) }).await }
/// ```
#[derive(Clone)]
pub struct Jobs {
    book: Arc<Book>,
}

struct Book {
    workers: Arc<Workers>,
    scope: Arc<Scope>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Started, and not in the hands of the block yet.
    incoming: Vec<BoxFuture<'static, Option<Error>>>,
    block: Option<Waker>,
    is_over: bool,
}

impl Jobs {
    /// Starts a job. The block waits for it, and fails with it, whether or not somebody awaits the handle; dropping the
    /// handle leaves the job to the block. It begins when the code that called this awaits. When the block has ended, or its
    /// future was dropped, no job begins, and the handle says so.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn check(n: u64) -> Result<(), String> { Err(format!("{n} is too much")) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// let failed = pool.scope(async |jobs| {
    ///     jobs.start(check(7));
    ///     std::future::pending::<Result<(), teamster::BoxError>>().await // cut off here
    /// });
    /// assert!(failed.await.unwrap_err().to_string().ends_with("7 is too much"));
    /// # Ok(()) }).await }
    /// ```
    pub fn start<E: Endpoint>(&self, call: Call<E>) -> Job<E::Output> {
        let (tell, told) = oneshot::channel();
        let handle = Job { outcome: told, scope: Arc::clone(&self.book.scope) };
        let run = Run::by(&self.book.workers, call);
        let job = Box::pin(async move {
            let ended = run.await;
            let failure = ended.as_ref().err().cloned();
            drop(tell.send(ended)); // nobody may wait for it
            failure
        });
        let mut state = self.book.state.lock();
        if !state.is_over {
            state.incoming.push(job);
        }
        let block = state.block.take();
        drop(state);
        if let Some(block) = block {
            block.wake();
        }
        handle
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("pool", &self.book.workers).finish_non_exhaustive()
    }
}

/// A job of a block: await it for its result.
///
/// # Cancel safety
///
/// Dropping it leaves the job to the block.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
/// let nine = pool.scope(async |jobs| Ok(jobs.start(square(3)).await?)).await?;
/// assert_eq!(nine, 9);
/// # Ok(()) }).await }
/// ```
pub struct Job<T> {
    outcome: oneshot::Receiver<Result<T, Error>>,
    scope: Arc<Scope>,
}

impl<T> Future for Job<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx).map(|ended| {
            ended.unwrap_or_else(|_dropped| {
                Err(match self.scope.canceller() {
                    Some(canceller) => Error::Cancelled { canceller },
                    None => Error::Usage("the block of this job has ended"),
                })
            })
        })
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// Runs `body`, which starts jobs, and returns when all of them are done.
pub(super) async fn run<T, F>(workers: &Arc<Workers>, body: F) -> Result<T, Error>
where
    F: AsyncFnOnce(&Jobs) -> Result<T, BoxError>,
{
    let outer = Place::here();
    let scope = Scope::new("pool", outer.scope().cloned());
    scope.offer(Arc::downgrade(workers) as _);
    let below: Arc<dyn Below> = Arc::clone(&scope) as _;
    let below: Weak<dyn Below> = Arc::downgrade(&below);
    for around in outer.scopes().flat_map(Scope::chain).filter(|scope| !scope.is_shielded()) {
        around.add_below(&below);
    }
    let me = outer.aid();
    let book = Book { workers: Arc::clone(workers), scope: Arc::clone(&scope), state: Mutex::default() };
    let jobs = Jobs { book: Arc::new(book) };
    let place = outer.inside(Arc::clone(&scope));
    // Before the body, so that it outlives it: what the body used ends after it, also if all of this is dropped.
    let mut block = Block { jobs: &jobs, me, running: FuturesUnordered::new(), failures: Vec::new() };
    let mut body = Some(Scoped::at(place, Arc::clone(&scope), Box::pin(body(&jobs))));
    let mut ended = None;
    std::future::poll_fn(|cx| {
        // First: it may start some, and what it used ends after it.
        if let Some(running) = &mut body
            && let Poll::Ready(end) = Pin::new(running).poll(cx)
        {
            if !matches!(end, End::Value(Ok(_))) {
                block.give_up(CancelRequest::Failure);
            }
            body = None;
            ended = Some(end);
        }
        match block.poll(cx) {
            Poll::Ready(()) if body.is_none() && jobs.book.try_end() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    drop(body);
    let failures = std::mem::take(&mut block.failures);
    drop(block);
    match ended.expect("the loop ends after the body") {
        End::Value(Ok(value)) => Group::collect(failures).map_or(Ok(value), Err),
        End::Value(Err(error)) => {
            let error = Error::from_body(error);
            let own = Some(error.clone()).filter(|error| failures.is_empty() || !is_consequence(error));
            Err(Group::collect(failures.into_iter().chain(own)).unwrap_or(error))
        }
        End::Cancelled(canceller) => match Group::collect(failures) {
            Some(failure) => Err(failure),
            None => {
                end_if_cancelled().await; // it is the cancel of what is around, and goes on there
                Err(Error::Cancelled { canceller })
            }
        },
        End::Panicked(panic) => std::panic::resume_unwind(panic),
    }
}

/// The jobs of one block, run by its own task.
struct Block<'a> {
    jobs: &'a Jobs,
    me: Aid,
    running: FuturesUnordered<BoxFuture<'static, Option<Error>>>,
    failures: Vec<Error>,
}

impl Block<'_> {
    /// Ready when no job is left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut state = self.jobs.book.state.lock();
            let before = state.block.replace(cx.waker().clone());
            let incoming = std::mem::take(&mut state.incoming);
            drop(state);
            drop(before); // maybe the last of a task, whose own drop may start a job
            self.running.extend(incoming);
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(None)) => {}
                Poll::Ready(Some(Some(failure))) => {
                    self.failures.push(failure);
                    self.give_up(CancelRequest::Failure);
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Everything else of it is cancelled, and it takes no job any more.
    fn give_up(&mut self, request: CancelRequest) {
        self.jobs.book.scope.cancel(&canceller(&self.me, request));
        let mut state = self.jobs.book.state.lock();
        state.is_over = true;
        let (never_begun, block) = (std::mem::take(&mut state.incoming), state.block.take());
        drop(state);
        drop((never_begun, block));
        self.running.clear();
    }
}

/// Whoever has kept the [`Jobs`] would wait for ever for what no block runs.
impl Drop for Block<'_> {
    fn drop(&mut self) {
        if !self.jobs.book.is_over() {
            self.give_up(CancelRequest::Dropped);
        }
    }
}

impl Book {
    fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// The block's end, unless a job has come meanwhile.
    fn try_end(&self) -> bool {
        let mut state = self.state.lock();
        state.is_over |= state.incoming.is_empty();
        state.is_over
    }
}
