//! What shall the workers of a pool be like?
use std::env::VarError;
use std::ffi::OsStr;
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use crate::actor::endpoint::{Call, Endpoint};
use crate::actor::{Actor, bounded};
use crate::error::{Error, SpawnReason};
use crate::portal::{Prepared, Runs};
use crate::spawn::launcher::Launcher;
use crate::spawn::{Options, Resource};

/// Settings of a [pool](super::WorkerPool), for [`open_worker_context`](super::open_worker_context).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use teamster::WorkerConfig;
/// use teamster::pool::WorkerLife;
///
/// #[teamster::work]
/// fn load_model(path: std::path::PathBuf) {
///     println!("{} is loaded", path.display());
/// }
///
/// #[teamster::work]
/// fn has_had_its_day(life: WorkerLife) -> bool {
///     life.jobs >= 100 || life.resident_bytes > 1 << 30
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// let config = WorkerConfig::new()
///     .limit(2)
///     .idle_timeout(Duration::from_secs(60))
///     .grace_period(Duration::from_secs(5))
///     .init(load_model("weights".into()))
///     .retire(has_had_its_day);
/// teamster::open_worker_context(config, async |_pool| Ok(())).await
/// # }
/// ```
#[must_use = "a pool is opened by `open_worker_context`"]
#[derive(Default)]
pub struct WorkerConfig {
    limit: Option<usize>,
    idle_timeout: Option<Duration>,
    init: Option<Init>,
    retire: Option<Retire>,
    options: Options,
}

/// Encodes the call for the workers of this actor.
type Init = Box<dyn FnOnce(&Actor) -> Result<Prepared, Error> + Send>;

/// The same for each worker, after each of its jobs.
pub(super) type Retire = Arc<dyn Fn(WorkerLife, &Actor) -> Result<Prepared, Error> + Send + Sync>;

/// What a worker has behind it, for the function that [decides](WorkerConfig::retire) whether it has had its day.
///
/// # Examples
///
/// ```
/// # use teamster::pool::WorkerLife;
/// #[teamster::work]
/// fn is_old(life: WorkerLife) -> bool {
///     life.age.as_secs() > 3600
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct WorkerLife {
    /// Jobs that it has done.
    pub jobs: u64,
    /// The time since it was ready for its first one.
    pub age: Duration,
    /// Bytes of memory that it takes now: its resident set. 0 where it runs on another host.
    pub resident_bytes: u64,
}

/// The workers of a pool that nobody has told otherwise.
const LIMIT_VARIABLE: &str = "TEAMSTER_WORKERS";

/// Processes that a pool may have: more than any machine has processors.
const MAX_LIMIT: usize = 4096;

/// How long a worker waits for its next job: as long as trio-parallel's do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// A config that was looked through.
pub(super) struct Settings {
    pub(super) limit: usize,
    pub(super) idle_timeout: Duration,
    pub(super) init: Option<Prepared>,
    pub(super) retire: Option<Retire>,
    pub(super) options: Options,
}

impl WorkerConfig {
    /// The default: as many workers as there are processors for this process, each kept for 10 minutes without a job.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// teamster::open_worker_context(teamster::WorkerConfig::new(), async |_pool| Ok(())).await
    /// # }
    /// ```
    pub fn new() -> Self {
        WorkerConfig::default()
    }

    /// How many workers there may be at a time: 1 to 4,096. Default: what `TEAMSTER_WORKERS` says, else as many as there
    /// are processors for this process (those it is bound to, or that its control group allows).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() {
    /// let none = teamster::WorkerConfig::new().limit(0);
    /// let refused = teamster::open_worker_context(none, async |_pool| Ok(())).await;
    /// assert!(refused.unwrap_err().to_string().contains("1 to 4096 workers"));
    /// # }
    /// ```
    pub fn limit(mut self, workers: usize) -> Self {
        self.limit = Some(workers);
        self
    }

    /// How long a worker without a job is kept; zero: not at all. Default: 10 minutes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let config = teamster::WorkerConfig::new().idle_timeout(Duration::from_secs(60));
    /// # drop(config);
    /// ```
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = Some(bounded(time));
        self
    }

    /// How long a worker may take to end when its days are over; then it is killed. Zero: it is killed at once.
    /// Default: the grace of the actor that the pool belongs to, 1 s at the root.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let config = teamster::WorkerConfig::new().grace_period(Duration::from_secs(30));
    /// # drop(config);
    /// ```
    pub fn grace_period(mut self, time: Duration) -> Self {
        self.options.grace = Some(bounded(time));
        self
    }

    /// A call that each new worker makes before its first job: it loads a model, opens a library.
    ///
    /// If it fails, so does the job for which the worker was started: [`Error::WorkerHook`].
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::work]
    /// fn check() -> Result<(), String> {
    ///     Err("there is no model".to_owned())
    /// }
    /// #[teamster::work]
    /// fn heavy() {}
    ///
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// let config = teamster::WorkerConfig::new().init(check());
    /// teamster::open_worker_context(config, async |pool| {
    ///     let failed = pool.run(heavy()).await;
    ///     assert!(matches!(failed, Err(teamster::Error::WorkerHook { .. })));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn init<E: Endpoint>(mut self, call: Call<E>) -> Self {
        self.init = Some(Box::new(move |actor| Prepared::for_child(actor, &call, Runs::OwnBuild)));
        self
    }

    /// A function that runs in a worker after each of its jobs, and says whether that was the last: it has grown, it is
    /// old, it has done so many.
    ///
    /// It costs a second round trip before the worker takes its next job; the caller of the job does not wait for it.
    /// If it fails or panics, its worker ends, and the pool's block fails with [`Error::WorkerHook`].
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::pool::WorkerLife;
    ///
    /// #[teamster::work]
    /// fn after(life: WorkerLife, jobs: u64) -> bool {
    ///     life.jobs >= jobs
    /// }
    /// let config = teamster::WorkerConfig::new().retire(|life| after(life, 100));
    /// # drop(config);
    /// ```
    pub fn retire<E, F>(mut self, decide: F) -> Self
    where
        E: Endpoint<Output = bool>,
        F: Fn(WorkerLife) -> Call<E> + Send + Sync + 'static,
    {
        self.retire = Some(Arc::new(move |life, actor| Prepared::for_child(actor, &decide(life), Runs::OwnBuild)));
        self
    }

    /// How their processes come to be. Default: [`launch::Local`](crate::launch::Local).
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::Command;
    ///
    /// let config = teamster::WorkerConfig::new().launcher(Command::new(["nice", "-n", "10", "{exe}"]));
    /// # drop(config);
    /// ```
    pub fn launcher(mut self, launcher: impl Launcher + 'static) -> Self {
        self.options.launcher = Some(Arc::new(launcher));
        self
    }

    /// Sets an environment variable for them; they inherit all others.
    ///
    /// # Examples
    ///
    /// ```
    /// let config = teamster::WorkerConfig::new().env("OMP_NUM_THREADS", "1");
    /// # drop(config);
    /// ```
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.options.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Their nice value, -20 to 19: setpriority(2).
    ///
    /// # Examples
    ///
    /// ```
    /// let config = teamster::WorkerConfig::new().nice(10);
    /// # drop(config);
    /// ```
    pub fn nice(mut self, nice: i32) -> Self {
        self.options.nice = Some(nice);
        self
    }

    /// Limits a resource of each of them, setrlimit(2), in the unit that [`Resource`] names; `u64::MAX` is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::Resource;
    ///
    /// let config = teamster::WorkerConfig::new().rlimit(Resource::AddressSpace, 4 << 30, u64::MAX);
    /// # drop(config);
    /// ```
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.options.limit(resource, soft, hard);
        self
    }

    /// Looks through it, on behalf of the actor whose workers they will be.
    pub(super) fn settle(self, actor: &Actor) -> Result<Settings, Error> {
        let limit = self.limit.map_or_else(default_limit, Ok).and_then(in_range);
        let refused = |text| Error::Spawn { name: super::WORKER.to_owned(), reason: SpawnReason::Other(text) };
        let limit = limit.map_err(refused)?;
        if let Some(mistake) = self.options.mistake() {
            return Err(refused(mistake));
        }
        Ok(Settings {
            limit,
            idle_timeout: self.idle_timeout.unwrap_or(IDLE_TIMEOUT),
            init: self.init.map(|init| init(actor)).transpose()?,
            retire: self.retire,
            options: Options { is_worker: true, ..self.options },
        })
    }
}

fn in_range(limit: usize) -> Result<usize, String> {
    match limit {
        1..=MAX_LIMIT => Ok(limit),
        _ => Err(format!("a pool has 1 to {MAX_LIMIT} workers, not {limit}")),
    }
}

fn default_limit() -> Result<usize, String> {
    match std::env::var(LIMIT_VARIABLE) {
        Ok(text) => text.parse().map_err(|_| format!("{LIMIT_VARIABLE} is {text:?}: it has to be a number of workers")),
        // Where the system does not tell, one at a time is what is surely there.
        Err(VarError::NotUnicode(text)) => {
            Err(format!("{LIMIT_VARIABLE} is {text:?}: it has to be a number of workers"))
        }
        Err(VarError::NotPresent) => Ok(std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_LIMIT)),
    }
}

impl fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerConfig")
            .field("limit", &self.limit)
            .field("idle_timeout", &self.idle_timeout)
            .field("init", &self.init.is_some())
            .field("retire", &self.retire.is_some())
            .field("options", &self.options)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_workers_and_not_too_many() {
        assert_eq!(in_range(1), Ok(1));
        assert_eq!(in_range(0).unwrap_err(), "a pool has 1 to 4096 workers, not 0");
        assert!(in_range(MAX_LIMIT + 1).is_err());
    }
}
