//! Why could an actor not be started, and what is the way out?
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::death::Death;
use super::ident::Canceller;

/// Why an actor could not be started. It prints with the way out.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use teamster::{Error, SpawnReason, launch::Program};
///
/// let missing = an.actor("frank").launcher(Program::new("/no/such/app")).start().await;
/// assert!(matches!(missing, Err(Error::Spawn { reason: SpawnReason::Exec { .. }, .. })));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SpawnReason {
    /// Neither `#[teamster::main]` nor `teamster::init()` ran in this process.
    NotInitialised,
    /// The operating system did not start the program.
    Exec {
        /// What was to be run.
        program: String,
        /// What the operating system said.
        error: String,
    },
    /// Its process ended before it had connected.
    DiedBooting(Death),
    /// It ran, and had not connected when the boot timeout was over.
    BootTimeout {
        /// The boot timeout.
        after: Duration,
    },
    /// The program is another build than its parent.
    WrongBuild {
        /// What was run.
        program: String,
    },
    /// A limit of the operating system was hit.
    Limit {
        /// What the operating system said.
        error: String,
        /// Its number, such as 24 for EMFILE.
        errno: i32,
    },
    /// The folder of the tree's sockets could not be made, or is refused since others could change it.
    Folder {
        /// Its path, or that of the part of it that is in the way.
        path: String,
        /// What is wrong with it, and the way out.
        error: String,
    },
    /// It was cancelled before it had started.
    Cancelled(Canceller),
    /// The nursery had ended, or was ending.
    NurseryClosed,
    /// Something else; the text says what.
    Other(String),
}

impl fmt::Display for SpawnReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpawnReason::NotInitialised => f.write_str(
                "this program can't boot as an actor: call `teamster::init()` first in `main`, \
                 or put `#[teamster::main]` on it",
            ),
            SpawnReason::Exec { program, error } => write!(f, "{program} can't be run: {error}"),
            SpawnReason::DiedBooting(death) => write!(f, "it ended while it was booting: {death}"),
            SpawnReason::BootTimeout { after } => write!(
                f,
                "it runs, but had not connected after {after:?}: does its `main` reach \
                 `teamster::init()` or `#[teamster::main]`?"
            ),
            SpawnReason::WrongBuild { program } => {
                write!(f, "{program} is another build than its parent: run the same executable")
            }
            SpawnReason::Limit { error, errno } => {
                write!(f, "{error}")?;
                match limit_hint(*errno) {
                    Some(hint) => write!(f, ": {hint}"),
                    None => Ok(()),
                }
            }
            SpawnReason::Folder { error, .. } => f.write_str(error), // it names the path
            SpawnReason::Cancelled(canceller) => {
                write!(f, "it was cancelled before it had started, by {canceller}")
            }
            SpawnReason::NurseryClosed => f.write_str("its nursery is ending: start it earlier, or in another one"),
            SpawnReason::Other(text) => f.write_str(text),
        }
    }
}

/// The way out of a limit of the operating system.
pub(crate) fn limit_hint(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EMFILE => "raise the limit of open files (`ulimit -n`), or run fewer actors",
        libc::ENFILE => "the machine's table of open files is full (`sysctl fs.file-max`)",
        libc::EAGAIN => "raise the limit of processes (`ulimit -u`, or the cgroup's pids.max), or run fewer actors",
        libc::EFBIG => "raise the limit of a file's size (`ulimit -f`)",
        libc::ENOMEM => "the machine has no memory left for another process",
        _ => return None,
    })
}
