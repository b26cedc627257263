//! How does an actor come to be in an allocation of Slurm's?
use std::ffi::{OsStr, OsString};
use std::process::Command;

use super::launcher::Launcher;
use crate::actor::boot::BOOT_VARIABLE;
use crate::actor::keeper::KEEP;

/// On a node of a Slurm allocation, as a job step of its own, by srun(1).
///
/// Inside of an allocation (`salloc`, `sbatch`) nothing else is needed: the actor goes to one of its nodes. Outside,
/// `.args(["--jobid=7"])` names one, or srun asks for resources itself and waits for them, as long as
/// [`boot_timeout`](crate::ActorBuilder::boot_timeout) lets it. Steps share the allocation's processors (`--overlap`): as many actors
/// as you like are started at once.
///
/// The nodes have to see this executable at the same path, as they mostly do; `.args(["--bcast"])` has Slurm copy it. srun has to hand on
/// its environment, as it does without `--export`. The actor connects back by TCP, with TLS, as with [`Ssh`](super::ssh::Ssh). Its key
/// comes by srun's stdin: it is as secret as what Slurm sends between its nodes, which is not enciphered unless the
/// cluster was set up so.
///
/// `scancel`, a time limit or the loss of a node end the actor like any other signal from outside: its parent gets an
/// [`ActorDied`](crate::Error::ActorDied) that says so. When srun is killed, or the parent, the actor ends too, with all that it has started.
///
/// # Examples
///
/// ```no_run
/// use teamster::launch::Slurm;
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let node = an.actor("node").launcher(Slurm::new().args(["--cpus-per-task=4"])).start().await?;
/// assert_eq!(node.run(add(1, 2)).await?, 3);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
pub struct Slurm {
    program: OsString,
    args: Vec<OsString>,
}

impl Slurm {
    /// In the allocation that this process is in, if it is in one.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Slurm};
    ///
    /// assert!(Slurm::new().is_remote());
    /// ```
    #[allow(clippy::new_without_default, reason = "one of the launchers, each of which is made by `new`")]
    pub fn new() -> Self {
        Slurm { program: "srun".into(), args: Vec::new() }
    }

    /// Options of srun(1).
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::Slurm;
    ///
    /// let node = Slurm::new().args(["--nodelist=n17", "--mem=4G"]);
    /// # drop(node);
    /// ```
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Another srun. Default: `srun`, looked up in `PATH`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Slurm};
    ///
    /// assert_eq!(Slurm::new().program("/opt/slurm/bin/srun").command().get_program(), "/opt/slurm/bin/srun");
    /// ```
    #[must_use]
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = program.as_ref().to_owned();
        self
    }
}

impl Launcher for Slurm {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--nodes=1", "--ntasks=1", "--overlap", "--unbuffered"]).args(&self.args).arg("--");
        // By its path, which the node sees too. A file that was deleted here is not there either, as srun says then.
        command.arg(std::env::current_exe().unwrap_or_default());
        command.env(BOOT_VARIABLE, KEEP); // srun hands its environment on
        command
    }

    fn is_remote(&self) -> bool {
        true
    }
}
