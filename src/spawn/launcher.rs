//! Which command starts a child?
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process;

use super::agent::Agent;
use super::python::Python;

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

    /// Adds the arguments of this program to the command. A launcher whose command hands them to a shell quotes them.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Program};
    ///
    /// let app = Program::new("app");
    /// let mut command = app.command();
    /// app.add_args(&mut command, &["--quiet".into()]);
    /// assert_eq!(command.get_args().collect::<Vec<_>>(), ["--quiet"]);
    /// ```
    fn add_args(&self, command: &mut process::Command, args: &[OsString]) {
        command.args(args);
    }

    /// Whether the command leads to another machine, or to somewhere else where this one's processes are not seen.
    ///
    /// It has to end there in this program with `TEAMSTER_BOOT=keep` in its environment, and to carry its stdin, stdout,
    /// stderr and exit status. That process sees to the actor over there. The actor's environment and folder, its keys and all else
    /// that it is told reach it by stdin, never with the command: what carries that has to keep it to itself. A line on stdout, `teamster keeps`, says that it is there; what is printed
    /// before that is thrown away. Whoever ends the command has ended the actor, after its grace at the latest.
    ///
    /// Such an actor connects by TLS. Its parent listens on all its interfaces for it if it does not listen on a network yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use teamster::launch::Launcher;
    ///
    /// /// Into a pod that has this program.
    /// #[derive(Debug)]
    /// struct Pod(&'static str);
    ///
    /// impl Launcher for Pod {
    ///     fn command(&self) -> Command {
    ///         let mut command = Command::new("kubectl");
    ///         command.args(["exec", "-i", self.0, "--", "env", "TEAMSTER_BOOT=keep", "/app/app"]);
    ///         command
    ///     }
    ///
    ///     fn is_remote(&self) -> bool {
    ///         true
    ///     }
    /// }
    /// assert!(Pod("worker").is_remote() && !teamster::launch::Local.is_remote());
    /// ```
    fn is_remote(&self) -> bool {
        false
    }

    /// The agent that it leads to, if it is one that has to be told where that is.
    #[doc(hidden)]
    fn agent(&self) -> Option<&Agent> {
        None
    }

    /// The Python program that it leads to, instead of this one.
    #[doc(hidden)]
    fn python(&self) -> Option<&Python> {
        None
    }

    /// How many starts may be on their way at once to one place. The others wait for their turn, and their boot timeout begins
    /// with it. `None`: as many as there are.
    ///
    /// A start by a [remote](Launcher::is_remote) launcher is on its way until its first word from over there is here, or until
    /// it has failed; any other until its process exists.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{AtOnce, Launcher, Local, Ssh};
    ///
    /// assert_eq!(Local.at_once(), None);
    /// assert_eq!(Ssh::new("b").at_once().map(|at_once| at_once.most), Some(8));
    /// ```
    fn at_once(&self) -> Option<AtOnce> {
        None
    }
}

/// How many starts may be on their way at once, and whereto: see [`Launcher::at_once`].
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use teamster::launch::{AtOnce, Launcher};
///
/// /// In a container of its own, one after the other: that is how the daemon likes it.
/// #[derive(Debug)]
/// struct Container;
///
/// impl Launcher for Container {
///     fn command(&self) -> Command {
///         let mut command = Command::new("docker");
///         command.args(["run", "-i", "--rm", "app", "env", "TEAMSTER_BOOT=keep", "/app"]);
///         command
///     }
///
///     fn is_remote(&self) -> bool {
///         true
///     }
///
///     fn at_once(&self) -> Option<AtOnce> {
///         Some(AtOnce { place: "docker".into(), most: 1 })
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AtOnce {
    /// Starts of one actor to the same place wait for each other, whatever their launchers are.
    pub place: OsString,
    /// So many may be on their way; 0 counts as 1.
    pub most: usize,
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
/// assert_eq!(frank.run(nice()).await?, nice().await? + 7);
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
