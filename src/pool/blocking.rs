//! Workers for programs without a runtime.
//!
//! ```
//! #[teamster::work]
//! fn square(n: u64) -> u64 {
//!     n * n
//! }
//!
//! fn main() -> Result<(), teamster::Error> {
//!     let _guard = teamster::init(); // first in `main`: a worker runs the same program again, and begins here
//!     let pool = teamster::blocking::pool();
//!     assert_eq!(pool.run(square(7))?, 49);
//!     let squares: Result<Vec<u64>, _> = pool.map((1..=3).map(square)).collect();
//!     assert_eq!(squares?, [1, 4, 9]);
//!     Ok(())
//! }
//! ```
use std::fmt;
use std::sync::Arc;

use futures::StreamExt;

use super::Statistics;
use super::host::Place;
use super::map::{Map, Order};
use super::run::Run;
use crate::actor::endpoint::{Call, Endpoint};
use crate::error::Error;

/// The workers of this process, for code that is part of no actor and waits by blocking its thread.
///
/// They are those that [`run_sync`](crate::run_sync) uses outside of every actor: from the first job to the end of `main`.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # let _guard = teamster::init();
/// assert_eq!(teamster::blocking::pool().run(square(7))?, 49);
/// # Ok::<(), teamster::Error>(())
/// ```
pub fn pool() -> Pool {
    Pool(())
}

/// What [`pool`] gives. Any thread may use it.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # let _guard = teamster::init();
/// let pool = teamster::blocking::pool();
/// let squares = std::thread::scope(|scope| {
///     let threads = [2, 3].map(|n| scope.spawn(move || pool.run(square(n))));
///     threads.map(|thread| thread.join().expect("it does not panic"))
/// });
/// assert_eq!(squares.map(Result::unwrap), [4, 9]);
/// ```
#[derive(Clone, Copy)]
pub struct Pool(());

impl Pool {
    /// Runs a job in a worker process, and waits for its result.
    ///
    /// # Errors
    ///
    /// Those of [`run_sync`](crate::run_sync). [`Error::Usage`] on a thread of an async runtime, which must not block.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # let _guard = teamster::init();
    /// assert_eq!(teamster::blocking::pool().run(square(7))?, 49);
    /// # Ok::<(), teamster::Error>(())
    /// ```
    pub fn run<E: Endpoint>(&self, call: Call<E>) -> Result<E::Output, Error> {
        let place = enter()?;
        let (run, caller) = (Run::by(&place.workers()?, call), place.caller());
        place.runtime().block_on(run).map_err(|error| caller.told(error))
    }

    /// Runs many jobs; their results come in the order of the calls. See [`WorkerPool::map`](super::WorkerPool::map).
    ///
    /// New jobs begin when the iterator is asked for its next result.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # let _guard = teamster::init();
    /// for square in teamster::blocking::pool().map((1..=3).map(square)) {
    ///     println!("{}", square?);
    /// }
    /// # Ok::<(), teamster::Error>(())
    /// ```
    pub fn map<E: Endpoint, I>(&self, calls: I) -> Results<I::IntoIter, E>
    where
        I: IntoIterator<Item = Call<E>>,
    {
        Results::new(calls.into_iter(), Order::Inputs)
    }

    /// The same, with each result as soon as it is there.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # let _guard = teamster::init();
    /// let sum: Result<u64, _> = teamster::blocking::pool().map_unordered((1..=3).map(square)).sum();
    /// assert_eq!(sum?, 14);
    /// # Ok::<(), teamster::Error>(())
    /// ```
    pub fn map_unordered<E: Endpoint, I>(&self, calls: I) -> Results<I::IntoIter, E>
    where
        I: IntoIterator<Item = Call<E>>,
    {
        Results::new(calls.into_iter(), Order::Ends)
    }

    /// What these workers are doing now, and what they have done. It starts none.
    ///
    /// # Errors
    ///
    /// Those of booting what they belong to.
    ///
    /// # Examples
    ///
    /// ```
    /// # let _guard = teamster::init();
    /// assert_eq!(teamster::blocking::pool().statistics()?.running, 0);
    /// # Ok::<(), teamster::Error>(())
    /// ```
    pub fn statistics(&self) -> Result<Statistics, Error> {
        Ok(enter()?.workers()?.statistics())
    }
}

/// Where the jobs of somebody are run who may block.
fn enter() -> Result<Arc<Place>, Error> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(Error::Usage("this is a thread of an async runtime, which must not block: await `run_sync`"));
    }
    Place::of_process()
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

/// The results of many jobs, one after the other: what [`Pool::map`] gives. Dropped, it kills the workers of jobs that run.
///
/// A signal that comes while it is asked for a result is an error in its place. In between nobody waits for one, and the
/// signal ends the program as any other.
///
/// # Examples
///
/// ```
/// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
/// # let _guard = teamster::init();
/// let mut squares = teamster::blocking::pool().map((1..).map(square)); // there is no end of them
/// assert_eq!(squares.next().transpose()?, Some(1));
/// # Ok::<(), teamster::Error>(())
/// ```
pub struct Results<I: Iterator<Item = Call<E>>, E: Endpoint> {
    /// What can't be begun fails once.
    stage: Stage<I, E>,
}

enum Stage<I: Iterator<Item = Call<E>>, E: Endpoint> {
    Working(Map<I, E>, Arc<Place>),
    Failed(Option<Error>),
}

impl<I: Iterator<Item = Call<E>>, E: Endpoint> Results<I, E> {
    fn new(calls: I, order: Order) -> Self {
        let begun = enter().and_then(|place| Ok((Map::new(&place.workers()?, calls, order), place)));
        let stage = match begun {
            Ok((map, place)) => Stage::Working(map, place),
            Err(error) => Stage::Failed(Some(error)),
        };
        Results { stage }
    }

    /// Has `progress` called with the number of jobs that are done: see [`Map::with_progress`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn square(n: u64) -> u64 { n * n }
    /// # let _guard = teamster::init();
    /// let squares = teamster::blocking::pool().map((1..=3).map(square)).with_progress(|done| println!("{done} of 3"));
    /// assert_eq!(squares.count(), 3);
    /// ```
    #[must_use = "no job begins before it is asked for a result"]
    pub fn with_progress(self, progress: impl FnMut(u64) + Send + 'static) -> Self {
        let stage = match self.stage {
            Stage::Working(map, place) => Stage::Working(map.with_progress(progress), place),
            failed @ Stage::Failed(_) => failed,
        };
        Results { stage }
    }
}

impl<I: Iterator<Item = Call<E>>, E: Endpoint> Iterator for Results<I, E> {
    type Item = Result<E::Output, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.stage {
            Stage::Working(map, place) => {
                let caller = place.caller(); // between two results nobody waits, and a signal ends the program
                let result = place.runtime().block_on(map.next());
                result.map(|result| result.map_err(|error| caller.told(error)))
            }
            Stage::Failed(error) => error.take().map(Err),
        }
    }
}

impl<I: Iterator<Item = Call<E>>, E: Endpoint> fmt::Debug for Results<I, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").finish_non_exhaustive()
    }
}
