//! What became of a job whose worker process came to its end?
use std::fmt;

use serde::{Deserialize, Serialize};

use super::death::{Death, ExitKind};

/// A worker process ended in the middle of a job, and nobody had asked it to. Cheap to clone.
///
/// It is the error of that job alone: the pool goes on, and starts another worker when it needs one. Whether the job
/// had done what it is for, nobody knows.
///
/// # Examples
///
/// ```
/// use teamster::{Error, WorkerConfig};
///
/// #[teamster::work]
/// fn give_up() {
///     eprintln!("no more");
///     std::process::exit(3)
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), Error> {
/// teamster::open_worker_context(WorkerConfig::new(), async |pool| {
///     let Err(Error::BrokenWorker(broken)) = pool.run(give_up()).await else { panic!("it exits") };
///     assert_eq!(broken.exit(), teamster::ExitKind::Status(3));
///     assert!(broken.job().ends_with("give_up") && broken.death().stderr_tail() == "no more\n");
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BrokenWorker {
    death: Death,
    job: String,
    hook: Option<WorkerHook>,
}

/// A function that a pool runs in its workers beside the jobs.
///
/// # Examples
///
/// ```
/// assert_eq!(teamster::pool::WorkerHook::Init.to_string(), "init");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkerHook {
    /// What runs first in each new worker.
    Init,
    /// What says after a job whether its worker has had its day.
    Retire,
}

impl fmt::Display for WorkerHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerHook::Init => "init",
            WorkerHook::Retire => "retire",
        })
    }
}

impl BrokenWorker {
    pub(crate) fn new(death: Death, job: impl Into<String>, hook: Option<WorkerHook>) -> Self {
        BrokenWorker { death, job: job.into(), hook }
    }

    /// The worker's process id, on its own host.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::BrokenWorker;
    /// fn told(broken: &BrokenWorker) -> String {
    ///     format!("{} broke the worker {}", broken.job(), broken.pid())
    /// }
    /// ```
    pub fn pid(&self) -> u32 {
        self.death.aid().pid()
    }

    /// How its process ended: its status, or the signal that killed it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{BrokenWorker, ExitKind};
    /// fn may_be_out_of_memory(broken: &BrokenWorker) -> bool {
    ///     broken.exit() == ExitKind::Signal(9) // as the kernel's out-of-memory killer does it
    /// }
    /// ```
    pub fn exit(&self) -> ExitKind {
        self.death.exit()
    }

    /// What it was running: the function's path.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::BrokenWorker;
    /// fn is_of_thumbnails(broken: &BrokenWorker) -> bool {
    ///     broken.job().ends_with("::thumbnail")
    /// }
    /// ```
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The hook that it was running, if it was no job.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::BrokenWorker;
    /// fn is_of_a_job(broken: &BrokenWorker) -> bool {
    ///     broken.hook().is_none()
    /// }
    /// ```
    pub fn hook(&self) -> Option<WorkerHook> {
        self.hook
    }

    /// The end of its process, with the end of its stderr.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::BrokenWorker;
    /// fn last_words(broken: &BrokenWorker) -> &str {
    ///     broken.death().stderr_tail()
    /// }
    /// ```
    pub fn death(&self) -> &Death {
        &self.death
    }
}

impl fmt::Display for BrokenWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = self.hook.map(|hook| format!("{hook} ")).unwrap_or_default();
        write!(f, "a worker broke while it ran {hook}{}: {}", self.job, self.death)
    }
}
