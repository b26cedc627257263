//! Which command starts a child?
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process;

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
    fn command(&self) -> process::Command;
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
    fn command(&self) -> process::Command {
        process::Command::new("/proc/self/exe")
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
    fn command(&self) -> process::Command {
        process::Command::new(&self.path)
    }
}

/// This executable behind another program: `nice`, `perf record`, `strace`, `nsenter`, `systemd-run`, `docker run`.
///
/// `{exe}` in a part stands for this executable; where no part has it, it comes behind the last. Its arguments follow.
///
/// The program has to hand on its stdin, its environment, and the signals it gets, or none of them to keep for
/// itself: whoever begins with an empty environment is told `env TEAMSTER_BOOT=1 {exe}`. One that stays, as `strace` does, is the
/// process that its parent watches; both stand in one process group, and end together.
///
/// # Examples
///
/// ```
/// use teamster::launch::Command;
/// # #[teamster::rpc] async fn nice() -> i32 { rustix::process::getpriority_process(None).unwrap_or(-1) }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let frank = an.actor("frank").launcher(Command::new(["nice", "-n", "7", "{exe}"])).start().await?;
/// assert_eq!(frank.run(nice()).await?, 7);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
pub struct Command {
    parts: Vec<OsString>,
}

impl Command {
    /// A program and its arguments.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Command, Launcher};
    ///
    /// let traced = Command::new(["strace", "-f", "-o", "trace.txt"]);
    /// assert_eq!(traced.command().get_program(), "strace");
    /// assert_eq!(traced.command().get_args().count(), 4); // the last is this executable
    /// ```
    pub fn new<P: Into<OsString>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut parts: Vec<OsString> = parts.into_iter().map(Into::into).collect();
        if !parts.iter().any(|part| part.as_bytes().windows(EXE.len()).any(|at| at == EXE.as_bytes())) {
            parts.push(EXE.into());
        }
        Command { parts }
    }
}

/// What stands for this executable.
const EXE: &str = "{exe}";

impl Launcher for Command {
    fn command(&self) -> process::Command {
        let exe = executable();
        let mut parts = self.parts.iter().map(|part| filled(part, exe.as_os_str()));
        // It has one part at least.
        let mut command = process::Command::new(parts.next().unwrap_or_default());
        command.args(parts);
        command
    }
}

/// A path of this executable that others can use too, as long as we run.
fn executable() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _deleted => format!("/proc/{}/exe", process::id()).into(),
    }
}

fn filled(part: &OsStr, exe: &OsStr) -> OsString {
    let (mut rest, mut filled) = (part.as_bytes(), Vec::new());
    while let Some(at) = rest.windows(EXE.len()).position(|at| at == EXE.as_bytes()) {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(exe.as_bytes());
        rest = &rest[at + EXE.len()..];
    }
    filled.extend_from_slice(rest);
    OsString::from_vec(filled)
}
