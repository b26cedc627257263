//! How did a plain program fail: what `Error::Program` carries.
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::death::{ExitKind, write_stderr_end};
use super::spawn_reason::SpawnReason;

/// A program that could not be started, or that ended otherwise than with status 0 while nobody of the tree wanted it gone.
/// Cheap to clone.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use teamster::Error;
/// use tokio::process::Command;
///
/// let mut command = Command::new("sh");
/// command.args(["-c", "echo no such row >&2; exit 3"]);
/// let Err(Error::Program(failure)) = an.process(command).call().await else { unreachable!() };
/// assert_eq!((failure.status(), failure.stderr_tail()), (Some(3), "no such row\n"));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramFailure {
    inner: Arc<Data>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Data {
    id: Uuid,
    name: String,
    how: How,
    stderr_tail: String,
}

#[derive(Debug, Serialize, Deserialize)]
enum How {
    NotStarted(SpawnReason),
    Ended { pid: u32, exit: ExitKind },
}

impl ProgramFailure {
    pub(crate) fn not_started(name: &str, reason: SpawnReason) -> Self {
        Self::new(name, How::NotStarted(reason), String::new())
    }

    pub(crate) fn ended(name: &str, pid: u32, exit: ExitKind, stderr_tail: String) -> Self {
        Self::new(name, How::Ended { pid, exit }, stderr_tail)
    }

    fn new(name: &str, how: How, stderr_tail: String) -> Self {
        ProgramFailure { inner: Arc::new(Data { id: Uuid::new_v4(), name: name.to_owned(), how, stderr_tail }) }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Its name: that of its file, or what [`ProcessBuilder::name`](crate::ProcessBuilder::name) says.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Error;
    /// # use tokio::process::Command;
    /// let Err(Error::Program(failure)) = an.process(Command::new("false")).call().await else { unreachable!() };
    /// assert_eq!(failure.name(), "false");
    /// # Ok(()) }).await }
    /// ```
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its pid. `None`: it was not started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Error;
    /// # use tokio::process::Command;
    /// let Err(Error::Program(failure)) = an.process(Command::new("false")).call().await else { unreachable!() };
    /// assert!(failure.pid().is_some());
    /// # Ok(()) }).await }
    /// ```
    pub fn pid(&self) -> Option<u32> {
        match self.inner.how {
            How::NotStarted(_) => None,
            How::Ended { pid, .. } => Some(pid),
        }
    }

    /// The operating system's word on its end. `None`: it was not started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::{Error, ExitKind};
    /// # use tokio::process::Command;
    /// let Err(Error::Program(failure)) = an.process(Command::new("false")).call().await else { unreachable!() };
    /// assert_eq!(failure.exit(), Some(ExitKind::Status(1)));
    /// # Ok(()) }).await }
    /// ```
    pub fn exit(&self) -> Option<ExitKind> {
        match self.inner.how {
            How::NotStarted(_) => None,
            How::Ended { exit, .. } => Some(exit),
        }
    }

    /// Its exit status, if it exited.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Error;
    /// # use tokio::process::Command;
    /// let Err(Error::Program(failure)) = an.process(Command::new("false")).call().await else { unreachable!() };
    /// assert_eq!((failure.status(), failure.signal()), (Some(1), None));
    /// # Ok(()) }).await }
    /// ```
    pub fn status(&self) -> Option<i32> {
        match self.exit()? {
            ExitKind::Status(status) => Some(status),
            ExitKind::Signal(_) | ExitKind::Unknown => None,
        }
    }

    /// The signal that ended it, if one did.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Error;
    /// # use tokio::process::Command;
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "kill -USR1 $$"]);
    /// let Err(Error::Program(failure)) = an.process(command).call().await else { unreachable!() };
    /// assert_eq!((failure.status(), failure.signal()), (None, Some(10)));
    /// # Ok(()) }).await }
    /// ```
    pub fn signal(&self) -> Option<i32> {
        match self.exit()? {
            ExitKind::Signal(signal) => Some(signal),
            ExitKind::Status(_) | ExitKind::Unknown => None,
        }
    }

    /// Why it was not started, if it was not.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::{Error, SpawnReason};
    /// # use tokio::process::Command;
    /// let missing = an.process(Command::new("no-such-program")).call().await;
    /// let Err(Error::Program(failure)) = missing else { unreachable!() };
    /// assert!(matches!(failure.reason(), Some(SpawnReason::Exec { .. })));
    /// # Ok(()) }).await }
    /// ```
    pub fn reason(&self) -> Option<&SpawnReason> {
        match &self.inner.how {
            How::NotStarted(reason) => Some(reason),
            How::Ended { .. } => None,
        }
    }

    /// The end of what it had written to stderr: at most 16 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Error;
    /// # use tokio::process::Command;
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "echo out of paper >&2; exit 1"]);
    /// let Err(Error::Program(failure)) = an.process(command).call().await else { unreachable!() };
    /// assert_eq!(failure.stderr_tail(), "out of paper\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn stderr_tail(&self) -> &str {
        &self.inner.stderr_tail
    }
}

impl fmt::Display for ProgramFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Data { name, how, stderr_tail, .. } = &*self.inner;
        match how {
            How::NotStarted(reason) => write!(f, "program {name} could not be started: {reason}"),
            How::Ended { pid, exit } => {
                write!(f, "program {name} (pid {pid}) failed: {exit}")?;
                write_stderr_end(f, stderr_tail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_failed_how_and_its_last_words() {
        let failed = ProgramFailure::ended("cp", 7, ExitKind::Status(1), "no space\nleft\n".to_owned());
        assert_eq!(
            failed.to_string(),
            "program cp (pid 7) failed: exit status 1; the end of its stderr:\n    no space\n    left"
        );
        let silent = ProgramFailure::ended("cp", 7, ExitKind::Signal(9), String::new());
        assert_eq!(silent.to_string(), "program cp (pid 7) failed: signal 9 (SIGKILL)");
        let reason = SpawnReason::Exec { program: "cp".to_owned(), error: "it is not there".to_owned() };
        let missing = ProgramFailure::not_started("copy", reason);
        assert_eq!(missing.to_string(), "program copy could not be started: cp can't be run: it is not there");
    }
}
