//! How does a Python program become a child?
mod module;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::launcher::Launcher;
use crate::msg::addr::Transport;
use crate::msg::death::Death;

/// A Python program as an actor.
///
/// The program imports the package `teamster`, puts `@teamster.rpc` or `@teamster.context` on what can be called, and ends with
/// `teamster.run()`. It needs CPython 3.11 or later and nothing else: this crate carries the package, of its own release, and the
/// program finds it by `PYTHONPATH`, before one that is installed. Where the package `msgpack` can be imported too, values become
/// bytes several times faster.
///
/// It is a child like any other: it is cancelled at once, is killed after its grace, reports errors with Python's traceback, and
/// leaves nothing behind. Its arguments are none unless [`args`](crate::ActorBuilder::args) gives it some. It
/// runs on this host, reaches its parent by a Unix socket or by insecure TCP, and can't be stopped by the debugger.
///
/// # Examples
///
/// ```no_run
/// use teamster::launch::Python;
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let numbers = Python::script("scripts/numbers.py").venv("/opt/numbers/venv");
/// let actor = an.actor("numbers").python(numbers).args(["--fast"]).start().await?;
/// let mean: f64 = actor.run_by_path("numbers::mean", ([1.0, 2.0, 6.0],)).await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    program: Program,
    interpreter: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    Script(PathBuf),
    Module(String),
}

impl Python {
    /// A script: a file, as in `python3 numbers.py`. A relative path begins at the folder in which the actor runs. Its functions
    /// have the paths `numbers::…`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Python};
    ///
    /// let command = Python::script("numbers.py").command();
    /// assert_eq!((command.get_program().to_str(), command.get_args().count()), (Some("python3"), 1));
    /// ```
    pub fn script(path: impl Into<PathBuf>) -> Self {
        Python { program: Program::Script(path.into()), interpreter: INTERPRETER.into() }
    }

    /// A module that Python finds, as in `python3 -m tools.numbers`. Its functions have the paths `tools::numbers::…`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Python};
    ///
    /// let command = Python::module("tools.numbers").command();
    /// assert_eq!(command.get_args().collect::<Vec<_>>(), ["-m", "tools.numbers"]);
    /// ```
    pub fn module(name: impl Into<String>) -> Self {
        Python { program: Program::Module(name.into()), interpreter: INTERPRETER.into() }
    }

    /// Runs it by this interpreter. Default: the first `python3` in `PATH`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Python};
    ///
    /// let command = Python::script("numbers.py").interpreter("/usr/bin/python3.12").command();
    /// assert_eq!(command.get_program(), "/usr/bin/python3.12");
    /// ```
    #[must_use]
    pub fn interpreter(self, path: impl Into<PathBuf>) -> Self {
        Python { interpreter: path.into(), ..self }
    }

    /// Runs it with the packages of a virtual environment, by the interpreter in there.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Python};
    ///
    /// let command = Python::script("numbers.py").venv("/opt/venv").command();
    /// assert_eq!(command.get_program(), "/opt/venv/bin/python");
    /// ```
    #[must_use]
    pub fn venv(self, folder: impl AsRef<Path>) -> Self {
        self.interpreter(folder.as_ref().join("bin/python"))
    }

    /// Lets it find our package: it lies in the tree's folder from its first Python actor on.
    pub(super) fn prepare(&self, command: &mut Command, folder: &Path) -> Result<(), String> {
        let package =
            module::unpacked(folder).map_err(|error| format!("can't write the Python package teamster: {error}"))?;
        let set = command.get_envs().find(|(key, _)| *key == OsStr::new(PATH_VARIABLE)).map(|(_, value)| value);
        let given = match set {
            Some(value) => value.map(OsStr::to_owned),
            None => std::env::var_os(PATH_VARIABLE),
        };
        let mut path = OsString::from(package);
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            path.push(":");
            path.push(given);
        }
        command.env(PATH_VARIABLE, path);
        Ok(())
    }

    /// What is said of one that ended well before it was an actor.
    pub(crate) fn never_ran(&self, death: &Death) -> String {
        let program = match &self.program {
            Program::Script(path) => path.display().to_string(),
            Program::Module(name) => name.clone(),
        };
        let tail = death.stderr_tail().trim_end();
        let said = if tail.is_empty() { String::new() } else { format!("; it had said:\n{tail}") };
        format!("{program} ended without `teamster.run()`, by which it becomes an actor{said}")
    }
}

const INTERPRETER: &str = "python3";

const PATH_VARIABLE: &str = "PYTHONPATH";

impl Launcher for Python {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.interpreter);
        match &self.program {
            Program::Script(path) => command.arg(path),
            Program::Module(name) => command.args(["-m", name]),
        };
        command
    }

    fn python(&self) -> Option<&Python> {
        Some(self)
    }
}

impl From<PathBuf> for Python {
    fn from(script: PathBuf) -> Self {
        Python::script(script)
    }
}

impl From<&Path> for Python {
    fn from(script: &Path) -> Self {
        Python::script(script)
    }
}

impl From<&str> for Python {
    fn from(script: &str) -> Self {
        Python::script(script)
    }
}

impl From<String> for Python {
    fn from(script: String) -> Self {
        Python::script(script)
    }
}

/// Those of its parent's that it can use; of none, it says so itself.
pub(crate) fn transports(of_parent: &[Transport]) -> Vec<Transport> {
    let usable = of_parent.iter().copied().filter(|transport| !transport.is_secured()).collect::<Vec<_>>();
    if usable.is_empty() { vec![Transport::Uds] } else { usable }
}
