//! Which command starts a child?
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// How a child's process comes to be.
///
/// The command has to end up in a process that runs this very program: it may be a wrapper that
/// execs it. Its stdin carries the boot message and has to reach that process.
///
/// Until that process has connected, its parent alone can end it, and does so if it takes too long. If
/// the parent is killed meanwhile (SIGKILL), the end of stdin is what is left: this program ends by it,
/// and so should a wrapper. One that never reads its stdin, such as `sleep`, then stays until it ends
/// by itself.
pub trait Launcher: fmt::Debug + Send + Sync {
    /// The command. Environment, arguments, folder and pipes are added to it afterwards.
    fn command(&self) -> Command;
}

/// This very executable, also when its file was deleted or replaced meanwhile: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Launcher for Local {
    fn command(&self) -> Command {
        Command::new("/proc/self/exe")
    }
}

/// Another executable of the same build, such as a copy, or a wrapper that execs one.
///
/// # Examples
///
/// ```no_run
/// # async fn f(an: &teamster::ActorNursery) -> Result<(), teamster::Error> {
/// let copy = teamster::launch::Program::new("/opt/app/bin/app");
/// let frank = an.actor("frank").launcher(copy).start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// The executable at `path`; a bare name is looked up in `PATH`.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Program { path: PathBuf::from(path.as_ref()) }
    }
}

impl Launcher for Program {
    fn command(&self) -> Command {
        Command::new(&self.path)
    }
}
