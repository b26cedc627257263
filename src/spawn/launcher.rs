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
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use teamster::launch::Launcher;
///
/// /// Begins as `nice`, which then runs this program.
/// #[derive(Debug)]
/// struct Nice;
///
/// impl Launcher for Nice {
///     fn command(&self) -> Command {
///         let mut command = Command::new("nice");
///         command.arg("-n10").arg(std::env::current_exe().expect("it runs"));
///         command
///     }
/// }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.actor("background").launcher(Nice).start().await?;
/// # Ok(()) }).await }
/// ```
pub trait Launcher: fmt::Debug + Send + Sync {
    /// The command. Environment, arguments, folder and pipes are added to it afterwards.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Program};
    ///
    /// assert_eq!(Program::new("/opt/app/bin/app").command().get_program(), "/opt/app/bin/app");
    /// ```
    fn command(&self) -> Command;
}

/// This very executable, also when its file was deleted or replaced meanwhile: the default.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.actor("frank").launcher(teamster::launch::Local).start().await?; // as without it
/// # Ok(()) }).await }
/// ```
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
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let app = teamster::launch::Program::new(std::env::current_exe()?);
/// let frank = an.actor("frank").launcher(app).start().await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// The executable at `path`; a bare name is looked up in `PATH`.
    ///
    /// # Examples
    ///
    /// ```
    /// let app = teamster::launch::Program::new("app"); // the first one in `PATH`
    /// # drop(app);
    /// ```
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Program { path: PathBuf::from(path.as_ref()) }
    }
}

impl Launcher for Program {
    fn command(&self) -> Command {
        Command::new(&self.path)
    }
}
