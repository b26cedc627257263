//! How does a process start, how is it watched, and is it gone?
pub(crate) mod agent;
pub(crate) mod launch;
pub(crate) mod launcher;
pub(crate) mod output;
pub(crate) mod program;
pub(crate) mod python;
pub(crate) mod ship;
pub(crate) mod slurm;
pub(crate) mod ssh;
mod usher;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::getrlimit;

use self::launcher::Launcher;
use crate::guest::HostLoop;
use crate::msg::addr::{Addr, Transport};
use crate::msg::agent::EnvoySpec;
use crate::portal::Runs;

/// Where a child's stdout or stderr goes.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use teamster::Output;
/// an.actor("quiet").stdout(Output::Null).start().await?;
/// an.actor("screen").stdout(Output::Inherit).start().await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Into a pipe, from which whole lines are relayed up the tree: the default. Of stderr the last
    /// 16 KiB are kept for the child's [`Death`](crate::Death).
    #[default]
    Relay,
    /// To where this process's own goes, line by line or torn, as it comes.
    Inherit,
    /// Nowhere.
    Null,
}

/// A resource that a child may be limited in: setrlimit(2).
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use teamster::Resource;
/// an.actor("small").rlimit(Resource::OpenFiles, 256, 256).rlimit(Resource::Core, 0, 0).start().await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of a core file.
    Core,
    /// Seconds of processor time.
    Cpu,
    /// Bytes of a file that it writes.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes and threads of its user.
    Processes,
    /// Bytes of a stack.
    Stack,
}

impl Resource {
    fn number(self) -> u32 {
        match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Stack => libc::RLIMIT_STACK,
        }
    }
}

/// Whether this process may have a file of so many bytes. It is asked before one is written: beyond the limit the kernel answers
/// with a signal that ends the process.
///
/// # Errors
///
/// It may not.
pub(crate) fn file_may_have(bytes: usize) -> io::Result<()> {
    match getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if limit < bytes as u64 => Err(Errno::FBIG.into()),
        _ => Ok(()),
    }
}

/// All that can be asked of a child's start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<Duration>,
    pub(crate) boot_within: Option<Duration>,
    pub(crate) expose: Option<Vec<String>>,
    pub(crate) threads: u32,
    pub(crate) log: Option<String>,
    pub(crate) launcher: Option<Arc<dyn Launcher>>,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) args: Option<Vec<OsString>>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) umask: Option<u32>,
    pub(crate) nice: Option<i32>,
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) debug: bool,
    /// It does jobs for a pool.
    pub(crate) is_worker: bool,
    /// Whose guest it is to be.
    pub(crate) host: Option<HostLoop>,
    /// `None`: as its parent.
    pub(crate) transports: Option<Vec<Transport>>,
    pub(crate) listen: Vec<Addr>,
    pub(crate) lost_after: Option<Duration>,
    /// Of one that an agent is to start: what leads there, as it was found out for this start.
    pub(crate) envoy: Option<EnvoySpec>,
}

impl Options {
    /// What it runs.
    pub(crate) fn runs(&self) -> Runs {
        match &self.launcher {
            Some(launcher) if launcher.python().is_some() => Runs::Another,
            _ => Runs::OwnBuild,
        }
    }

    /// It is to run on another host than this one.
    pub(crate) fn is_far(&self) -> bool {
        self.launcher.as_ref().is_some_and(|launcher| launcher.is_remote())
    }

    /// What can't be, whatever the system says to it; `None`: nothing.
    pub(crate) fn mistake(&self) -> Option<String> {
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            return Some(format!("a nice value is -20 to 19, not {nice}"));
        }
        if let Some((resource, soft, hard)) = self.rlimits.iter().find(|(_, soft, hard)| soft > hard) {
            return Some(format!("the soft limit of resource {resource} is at most the hard one, {hard}, not {soft}"));
        }
        let has = |text: &OsString, bytes: &[u8]| text.as_encoded_bytes().iter().any(|byte| bytes.contains(byte));
        self.env.iter().find_map(|(key, value)| {
            if key.is_empty() || has(key, b"=\0") {
                return Some(format!("{key:?} can't be the name of an environment variable"));
            }
            let is_cut = value.as_ref().is_some_and(|value| has(value, b"\0"));
            is_cut.then(|| format!("the environment variable {key:?} can't have a zero byte in it"))
        })
    }

    pub(crate) fn limit(&mut self, resource: Resource, soft: u64, hard: u64) {
        self.rlimits.push((resource.number(), soft, hard));
    }
}
