//! How do many jobs go through a pool, none pulled before a worker takes it?
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter::{Fuse, Peekable};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::batch::{Batch, Pace};
use super::run::NEVER_BEGAN;
use super::trip::Args;
use super::turn::{Ended, Ran};
use super::workers::{Workers, spawn_here};
use crate::actor::endpoint::{Call, Endpoint, path_of, with_both_types};
use crate::error::Error;
use crate::portal::{FRESH_LINES, decode_result};

/// The results of many jobs, as a stream: see [`WorkerPool::map`](super::WorkerPool::map).
///
/// It works while it is polled: jobs that have begun go on in between, new ones begin at the next poll.
///
/// # Cancel safety
///
/// Dropping it kills the workers of the jobs that run. Dropping the future of its next item loses nothing.
///
/// # Examples
///
/// ```
/// use futures::TryStreamExt;
///
/// #[teamster::work]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
///     let squares: Vec<u64> = pool.map((1..=3).map(square)).try_collect().await?;
///     assert_eq!(squares, [1, 4, 9]);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[must_use = "no job begins before the stream is polled"]
pub struct Map<I: Iterator<Item = Call<E>>, E: Endpoint> {
    workers: Arc<Workers>,
    calls: Option<Peekable<Fuse<I>>>,
    order: Order,
    /// Batches that wait for a worker, or have one: tasks of the actor, so that no worker waits for this to be polled.
    running: FuturesUnordered<AbortOnDropHandle<Done<E>>>,
    /// What has come of batches that a worker is still in the middle of.
    parts: mpsc::UnboundedReceiver<Done<E>>,
    tell_part: mpsc::UnboundedSender<Done<E>>,
    /// What workers have given back of their batches, by its first job.
    again: BTreeMap<u64, Batch>,
    pace: Pace,
    /// The next job, with its number, where it goes by itself.
    large: Option<(u64, E::Args)>,
    /// Results that came before those of earlier jobs, by the first one's number.
    early: BTreeMap<u64, Results<E>>,
    ready: Results<E>,
    /// The number of the next that is pulled, and of the next whose results go out.
    next: u64,
    next_out: u64,
    done: u64,
    /// Results that may go out before it looks after its workers again.
    unlooked: usize,
    progress: Option<Progress>,
}

type Results<E> = VecDeque<Result<<E as crate::actor::endpoint::Function>::Output, Error>>;

/// What has come of a batch.
struct Done<E: Endpoint> {
    first: u64,
    results: Results<E>,
    /// What is still to do of it.
    rest: Option<Batch>,
    /// How long it took, if a worker did something of it.
    time: Option<Duration>,
    /// There is no worker for it: an error of all its jobs.
    failed: Option<Error>,
}

type Progress = Box<dyn FnMut(u64) + Send>;

/// In which order results come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// In that of the inputs.
    Inputs,
    /// As they come.
    Ends,
}

/// How many batches for each worker may be done or running before the one whose result is next: one that takes longer than
/// others holds up nobody until so many wait behind it. Of batches with many jobs there are only so many more than workers.
const AHEAD: usize = 4;

/// Jobs of a batch that count as many.
const FEW: usize = 16;

/// Results that go out between two looks after the workers, if so many are there: a look takes as long as some of them, and a
/// worker that has done its batch waits for a microsecond.
const UNLOOKED: usize = 32;

impl<I: Iterator<Item = Call<E>>, E: Endpoint> Map<I, E> {
    pub(super) fn new(workers: &Arc<Workers>, calls: I, order: Order) -> Self {
        #[expect(clippy::disallowed_methods, reason = "there is one for each batch that runs, at most")]
        let (tell_part, parts) = mpsc::unbounded_channel();
        Map {
            workers: Arc::clone(workers),
            calls: Some(calls.fuse().peekable()),
            order,
            running: FuturesUnordered::new(),
            parts,
            tell_part,
            again: BTreeMap::new(),
            pace: Pace::new(),
            large: None,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            next: 0,
            next_out: 0,
            done: 0,
            unlooked: 0,
            progress: None,
        }
    }

    /// Has `progress` called with the number of jobs that are done, whenever that has grown: for a progress bar.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// use futures::StreamExt;
    /// use indicatif::ProgressBar;
    ///
    /// let bar = ProgressBar::new(100);
    /// let shown = bar.clone();
    /// let squares = pool.map_unordered((0..100).map(square)).with_progress(move |done| shown.set_position(done));
    /// assert_eq!(squares.count().await, 100);
    /// assert_eq!(bar.position(), 100);
    /// # Ok(()) }).await }
    /// ```
    pub fn with_progress(mut self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// A result that may go out now.
    fn next_ready(&mut self) -> Option<Result<E::Output, Error>> {
        while self.ready.is_empty() && self.order == Order::Inputs {
            self.ready = self.early.remove(&self.next_out)?;
            self.next_out += self.ready.len() as u64;
        }
        self.ready.pop_front()
    }

    fn has_come(&mut self, done: Done<E>) {
        let Done { first, mut results, rest, time, failed } = done;
        match (rest, failed) {
            (Some(rest), Some(error)) => {
                self.calls = None; // it is the same for all that follow
                results.extend((0..rest.len()).map(|_| Err(error.clone())));
            }
            (Some(rest), None) => drop(self.again.insert(rest.first, rest)),
            (None, Some(error)) => {
                self.calls = None;
                results.push_back(Err(error));
            }
            (None, None) => {}
        }
        if results.is_empty() {
            return;
        }
        if let Some(time) = time {
            self.pace.took(results.len(), time);
        }
        self.done += results.len() as u64;
        if let Some(progress) = &mut self.progress {
            progress(self.done);
        }
        match self.order {
            Order::Inputs => drop(self.early.insert(first, results)),
            Order::Ends => self.ready.extend(results),
        }
    }

    /// Whether another batch may begin: there is a job, and room for what comes of it.
    fn may_begin(&mut self) -> bool {
        let limit = self.workers.limit();
        let ahead = self.running.len() + self.early.len();
        let most = match self.pace.jobs() {
            0..FEW => limit.saturating_mul(AHEAD),
            _many => limit + AHEAD,
        };
        let has_room = ahead < most && self.ready.len() < most.max(2 * self.pace.jobs());
        // What was given back may be what the others wait for.
        let is_pulled = !self.again.is_empty() || self.large.is_some();
        let is_there = is_pulled || has_room && self.calls.as_mut().is_some_and(|calls| calls.peek().is_some());
        self.running.len() < limit && is_there
    }

    fn begin(&mut self) {
        let batch = match self.again.pop_first() {
            Some((_, batch)) => batch,
            None if self.large.is_some() => Batch::new(self.next),
            None => self.pull(),
        };
        let workers = Arc::clone(&self.workers);
        let actor = Arc::clone(&workers.nursery().actor);
        let work: BoxFuture<'static, Done<E>> = match self.large.take_if(|_| batch.len() == 0) {
            Some((number, args)) => Box::pin(do_large::<E>(workers, number, args)),
            None if batch.len() == 0 => return, // the one job that there was can't be encoded, which has come of it
            None => Box::pin(do_batch::<E>(workers, batch, self.tell_part.clone())),
        };
        self.running.push(spawn_here(&actor, work));
    }

    /// Takes as many jobs as should go in one trip.
    fn pull(&mut self) -> Batch {
        let mut batch = Batch::new(self.next);
        let jobs = if self.workers.may_batch() { self.pace.jobs() } else { 1 };
        while batch.len() < jobs
            && !batch.is_full()
            && let Some(call) = self.calls.as_mut().and_then(Iterator::next)
        {
            let number = self.next;
            self.next += 1;
            match batch.add(&call) {
                Ok(true) => {}
                Ok(false) => {
                    self.large = Some((number, call.args));
                    break;
                }
                Err(error) => {
                    // It has its place; those behind it are another batch.
                    let results = VecDeque::from([Err(error)]);
                    self.has_come(Done { first: number, results, rest: None, time: None, failed: None });
                    break;
                }
            }
        }
        batch
    }
}

/// Does one job by itself, whose arguments may lie in memory that is shared with its worker.
async fn do_large<E: Endpoint>(workers: Arc<Workers>, first: u64, args: E::Args) -> Done<E> {
    let began = Instant::now();
    let answer = workers.ride(path_of::<E>(), Args::large::<E>(args), true).await;
    let result = answer.map_err(with_both_types::<E>).and_then(|answer| answer.decode::<E>());
    Done { first, results: VecDeque::from([result]), rest: None, time: Some(began.elapsed()), failed: None }
}

/// Does a batch, or as much of it as the worker gets to.
async fn do_batch<E: Endpoint>(workers: Arc<Workers>, batch: Batch, tell: mpsc::UnboundedSender<Done<E>>) -> Done<E> {
    let (path, first) = (path_of::<E>(), batch.first);
    let nothing =
        |batch: Batch, failed| Done { first, results: VecDeque::new(), rest: batch.without(0), time: None, failed };
    let mut lease = match workers.lease().await {
        Ok(lease) => lease,
        Err(error) => return nothing(batch, Some(error)),
    };
    let began = Instant::now();
    if batch.len() > 1 {
        let decode = |ended: Result<&[u8], Error>| decode_result::<E>(ended.map_err(with_both_types::<E>)?);
        let late = |results, begun| {
            let rest = batch.part(begun, batch.len());
            // Nobody hears of it when the map is gone.
            drop(tell.send(Done { first, results, rest, time: Some(began.elapsed()), failed: None }));
        };
        match lease.run_all(&batch, path, decode, late).await {
            Some(ended) => return of_trip::<E>(batch, ended, began.elapsed()),
            None => match workers.lease().await {
                Ok(other) => lease = other,
                Err(error) => return nothing(batch, Some(error)),
            },
        }
    }
    let result = match lease.share().job_of(path, batch.first_args()).await {
        Ok(job) => match lease.run_here(job.prepared()).await {
            Ran::Done(result) => result.map_err(with_both_types::<E>).and_then(|bytes| job.result::<E>(&bytes)),
            Ran::NotBegun if batch.tries >= FRESH_LINES => Err(Error::Usage(NEVER_BEGAN)),
            Ran::NotBegun => return nothing(batch, None),
        },
        Err(error) => Err(error),
    };
    let results = VecDeque::from([result]);
    Done { first, results, rest: batch.without(1), time: Some(began.elapsed()), failed: None }
}

/// What a trip with several jobs has come to.
fn of_trip<E: Endpoint>(batch: Batch, ended: Ended<Result<E::Output, Error>>, time: Duration) -> Done<E> {
    let Ended { from, to, mut results, ran } = ended;
    let first = batch.first + from as u64;
    let batch = match (from, to) {
        (0, to) if to == batch.len() => Some(batch),
        (from, to) => batch.part(from, to),
    };
    let Some(batch) = batch else {
        return Done { first, results, rest: None, time: None, failed: None };
    };
    match ran {
        Ran::Done(Ok(_)) => {}
        // The next one is the one that it came to its end in.
        Ran::Done(Err(error)) => results.push_back(Err(error)),
        Ran::NotBegun if batch.tries >= FRESH_LINES => results.push_back(Err(Error::Usage(NEVER_BEGAN))),
        Ran::NotBegun => {}
    }
    results.truncate(batch.len());
    Done { first, rest: batch.without(results.len()), results, time: Some(time), failed: None }
}

/// Nothing in it is pinned but what is in a box.
impl<I: Iterator<Item = Call<E>>, E: Endpoint> Unpin for Map<I, E> {}

impl<I: Iterator<Item = Call<E>>, E: Endpoint> Stream for Map<I, E> {
    type Item = Result<E::Output, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.unlooked > 0
            && let Some(result) = this.next_ready()
        {
            this.unlooked -= 1;
            return Poll::Ready(Some(result));
        }
        loop {
            // Workers first: they have something to do while what has come is looked at.
            while this.may_begin() {
                this.begin();
            }
            if let Poll::Ready(Some(part)) = this.parts.poll_recv(cx) {
                this.has_come(part);
                continue;
            }
            match Pin::new(&mut this.running).poll_next(cx) {
                Poll::Ready(Some(Ok(done))) => {
                    this.has_come(done);
                    continue;
                }
                // Its task has not ended by itself: nobody will do its jobs.
                Poll::Ready(Some(Err(_ended))) => {
                    this.calls = None;
                    this.running.clear();
                    return Poll::Ready(Some(Err(Error::Usage("the runtime ended before the jobs did"))));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(result) = this.next_ready() {
                this.unlooked = UNLOOKED;
                return Poll::Ready(Some(result));
            }
            // One that was not looked at, since this task has had its share of time, has woken it already.
            if this.running.is_empty() && this.parts.is_empty() {
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
    }
}

impl<I: Iterator<Item = Call<E>>, E: Endpoint> fmt::Debug for Map<I, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("order", &self.order).field("done", &self.done).finish_non_exhaustive()
    }
}
