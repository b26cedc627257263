//! Worker processes for CPU work: jobs run in processes that are kept, reused and killed when nobody wants their job any more.
//!
//! A job is a function with [`#[teamster::work]`](macro@crate::work) on it (an async one with
//! [`#[teamster::rpc]`](macro@crate::rpc) will do), and what it takes and gives travels by serde.
//!
//! ```
//! #[teamster::work]
//! fn is_prime(n: u64) -> bool {
//!     n > 1 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
//! }
//!
//! #[teamster::main]
//! async fn main() -> Result<(), teamster::Error> {
//!     assert!(teamster::run_sync(is_prime(97)).await?); // in a process of its own, kept for the next one
//!     Ok(())
//! }
//! ```
//!
//! Each worker does one job at a time, so a job may take its whole processor, be killed in the middle, and even crash: its
//! error is then [`Error::BrokenWorker`], and no other job's.
//!
//! | to | see |
//! |---|---|
//! | run a job in the workers that are there for all | [`run_sync`] |
//! | have workers of one's own | [`open_worker_context`], [`WorkerConfig`] |
//! | run many | [`WorkerPool::map`], [`WorkerPool::map_unordered`] |
//! | start some, and wait for all of them | [`WorkerPool::scope`] |
//! | do it without a runtime | [`blocking`] |
//! | have a job finished, whoever waits | [`Run::cancellable`] |
//!
//! # What ends when
//!
//! * A job whose future is dropped (by a `select!`, a timeout, a [deadline](crate::deadline), a cancel of what is around)
//!   is removed if it waits, and its worker is killed at once if it runs.
//! * A worker without a job ends after the idle timeout, or with its pool.
//! * Ctrl-C ends the program as always: workers do not hear of it themselves, and print nothing. A SIGTERM to all
//!   processes, as service managers send it, lets jobs that run end within the grace.
//! * If the program is killed, workers without a job end at once, and those with one within the grace.
use std::fmt;
use std::sync::Arc;

mod batch;
mod blob;
pub mod blocking;
mod board;
mod config;
mod host;
mod map;
mod of_actor;
mod queue;
mod run;
mod scope;
mod share;
mod trip;
mod turn;
mod workers;

pub use self::blob::Blob;
pub use self::config::{WorkerConfig, WorkerLife};
pub use self::map::Map;
pub use self::run::Run;
pub use self::scope::{Job, Jobs};
pub use crate::msg::broken_worker::{BrokenWorker, WorkerHook};

use self::map::Order;
use self::workers::Workers;
use crate::actor::endpoint::{Call, Endpoint};
use crate::error::{BoxError, Error};
use crate::nursery::open_nursery;

/// What workers are called in a tree.
const WORKER: &str = "(worker)"; // nobody names an actor so: it is found by no mistake

/// Runs a job in a worker process.
///
/// The workers are those of the nearest [`open_worker_context`] around the code that polls it; else this actor's own, which
/// are there until the actor ends; and outside of every actor the process's own, until the end of `main`. Those have the
/// [default](WorkerConfig::new) settings: as many as there are processors, each kept for 10 minutes without a job.
///
/// # Errors
///
/// Of the job: [`Error::Remote`] if it failed or panicked, [`Error::Codec`] if its arguments or result can't be encoded or
/// decoded, [`Error::BrokenWorker`] if its process ended in the middle of it.
///
/// Of the way there: [`Error::Spawn`] if no worker can be started, [`Error::Cancelled`] if what the workers belong to was
/// cancelled, [`Error::Interrupted`] outside of every actor, if a signal ends the program. [`Error::Usage`] in what a
/// root does last, when its workers are gone: its [`on_exit`](crate::on_exit) hooks and deferred clean-ups.
///
/// # Cancel safety
///
/// That of [`Run`]: dropped, a job that waits is removed, and the worker of one that runs is killed.
///
/// # Examples
///
/// ```
/// #[teamster::work]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     assert_eq!(teamster::run_sync(square(7)).await?, 49);
///     Ok(())
/// }
/// ```
pub fn run_sync<E: Endpoint>(call: Call<E>) -> Run<E> {
    Run::here(call)
}

/// Runs `body` with workers of its own, and returns when none of them is left.
///
/// When `body` ends well, jobs that still run are waited for; then the workers end, within the grace period, or are killed.
/// When it fails, panics or is cancelled, its jobs are killed.
///
/// [`run_sync`] in `body`, and in tasks of nurseries that are opened in it, uses these workers too. As a [nursery of
/// actors](crate::open_nursery) does, it boots the root actor where there is none.
///
/// # Errors
///
/// [`Error::Spawn`] if a setting is out of its range: `body` is not run then. What `body` returned, as itself.
/// [`Error::WorkerHook`] if the function that [decides about retirement](WorkerConfig::retire) failed. [`Error::Cancelled`] if it
/// was cancelled before `body` had a value, and in the root [`Error::Interrupted`] after a signal.
///
/// # Panics
///
/// A panic of `body` goes on when everything is gone.
///
/// # Cancel safety
///
/// Dropping the future kills the workers of jobs that run, and ends the others; what it stands in ends after they are gone.
///
/// # Examples
///
/// ```
/// use teamster::WorkerConfig;
///
/// #[teamster::work]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     teamster::open_worker_context(WorkerConfig::new().limit(2), async |pool| {
///         let (nine, sixteen) = tokio::try_join!(pool.run(square(3)), pool.run(square(4)))?;
///         assert_eq!(nine + sixteen, 25);
///         Ok(())
///     })
///     .await
/// }
/// ```
pub async fn open_worker_context<T, F>(config: WorkerConfig, body: F) -> Result<T, Error>
where
    F: AsyncFnOnce(&WorkerPool) -> Result<T, BoxError>,
{
    open_nursery(async |an| {
        let nursery = &an.nursery;
        let workers = Workers::new(Arc::clone(nursery), config.settle(&nursery.actor)?);
        nursery.scope.offer(Arc::downgrade(&workers) as _);
        let _closing = Closing(&workers);
        let pool = WorkerPool { workers: Arc::clone(&workers) };
        let value = body(&pool).await?;
        workers.close().await;
        Ok(value)
    })
    .await
}

/// However a pool's block ends, it takes no job any more.
struct Closing<'a>(&'a Workers);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// The handle to workers: what runs jobs. Cheap to clone.
///
/// It may be kept beyond its block; then it takes no jobs any more.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
///     assert_eq!(pool.run(square(7)).await?, 49);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone)]
pub struct WorkerPool {
    workers: Arc<Workers>,
}

impl WorkerPool {
    /// Runs a job in one of these workers; else as [`run_sync`].
    ///
    /// # Errors
    ///
    /// Those of [`run_sync`], and [`Error::Usage`] when the pool's block has ended.
    ///
    /// # Cancel safety
    ///
    /// That of [`Run`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// assert_eq!(pool.run(square(7)).await?, 49);
    /// # Ok(()) }).await }
    /// ```
    pub fn run<E: Endpoint>(&self, call: Call<E>) -> Run<E> {
        Run::by(&self.workers, call)
    }

    /// Runs many jobs; their results come in the order of the calls.
    ///
    /// Calls are taken from the iterator as workers get free, and no faster than results are taken from the stream: it may be
    /// endless. A job that fails is an error in its place, and the others go on.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// use futures::TryStreamExt;
    ///
    /// let mut squares = pool.map((1..).map(square)); // there is no end of them
    /// assert_eq!(squares.try_next().await?, Some(1));
    /// assert_eq!(squares.try_next().await?, Some(4));
    /// # Ok(()) }).await }
    /// ```
    pub fn map<E: Endpoint, I>(&self, calls: I) -> Map<I::IntoIter, E>
    where
        I: IntoIterator<Item = Call<E>>,
    {
        Map::new(&self.workers, calls.into_iter(), Order::Inputs)
    }

    /// The same, with each result as soon as it is there.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// use futures::TryStreamExt;
    ///
    /// let sum = pool.map_unordered((1..=3).map(square)).try_fold(0, async |sum, n| Ok(sum + n));
    /// assert_eq!(sum.await?, 14);
    /// # Ok(()) }).await }
    /// ```
    pub fn map_unordered<E: Endpoint, I>(&self, calls: I) -> Map<I::IntoIter, E>
    where
        I: IntoIterator<Item = Call<E>>,
    {
        Map::new(&self.workers, calls.into_iter(), Order::Ends)
    }

    /// Runs `body`, which starts jobs, and returns when all of them are done.
    ///
    /// A job that fails cancels the others and `body`, at once. [`run_sync`] in `body` uses these workers.
    ///
    /// # Errors
    ///
    /// The first failure, of `body` or of a job; [`Error::Group`] if several failed. [`Error::Cancelled`] if it was cancelled
    /// before `body` had a value.
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when its jobs are gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the workers of the jobs that run.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// let sum = pool.scope(async |jobs| {
    ///     let squares = [1, 2, 3].map(|n| jobs.start(square(n))); // all at once
    ///     let mut sum = 0;
    ///     for square in squares {
    ///         sum += square.await?;
    ///     }
    ///     Ok(sum)
    /// });
    /// assert_eq!(sum.await?, 14);
    /// # Ok(()) }).await }
    /// ```
    pub async fn scope<T, F>(&self, body: F) -> Result<T, Error>
    where
        F: AsyncFnOnce(&Jobs) -> Result<T, BoxError>,
    {
        scope::run(&self.workers, body).await
    }

    /// What it is doing now, and what it has done.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
    /// pool.run(square(7)).await?;
    /// let statistics = pool.statistics();
    /// assert_eq!((statistics.idle, statistics.running, statistics.started), (1, 0, 1));
    /// # Ok(()) }).await }
    /// ```
    pub fn statistics(&self) -> Statistics {
        self.workers.statistics()
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

/// What a pool is doing, and what it has done since it was opened.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// # teamster::open_worker_context(teamster::WorkerConfig::new(), async |pool| {
/// let statistics = pool.statistics();
/// println!("{} of {} workers have a job", statistics.running, statistics.running + statistics.idle);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Workers without a job.
    pub idle: usize,
    /// Workers in the middle of a job.
    pub running: usize,
    /// Jobs that wait for a worker.
    pub waiting: usize,
    /// Workers that are not ready yet.
    pub starting: usize,
    /// Workers that have been ready for a job.
    pub started: u64,
    /// Workers that ended by themselves, as nobody needed them any more.
    pub retired: u64,
    /// Workers that came to their end unasked.
    pub broken: u64,
    /// Workers that were killed: their job was cancelled, or their grace period was over.
    pub killed: u64,
}
