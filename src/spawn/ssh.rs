//! How does an actor come to be on a host that has nothing but sshd?
use std::ffi::{OsStr, OsString};
use std::process::Command;

use super::launcher::{AtOnce, Launcher};
use super::ship;

/// On another host, by the user's own OpenSSH client, with its configuration, keys, jump hosts and shared connections.
///
/// The host needs nothing but sshd and a POSIX shell. This executable is sent there once, through the connection, into
/// `$XDG_CACHE_HOME/teamster` (else `~/.cache/teamster`), by its build id; a later start finds it there. Both hosts have to be of one
/// architecture, and the libc there as new as the one here, unless this program is linked statically.
///
/// ssh never asks for anything (`BatchMode`): keys, and the host's own, have to be in place. Shared connections
/// (`ControlMaster auto`, `ControlPersist`) save most of the time that a start takes.
///
/// The actor connects back by TCP, with TLS: its parent has to be reached from there, and listens on all its interfaces if it
/// was given no address by [`listen`](crate::RootBuilder::listen). Where that host reaches others, its actors do too.
///
/// When ssh ends, the connection or the parent's process, the actor ends too, with all that it has started, within its
/// grace: nothing is left over there but the executable in the cache. An exit status of 129 to 192 counts as the death by the signal 1
/// to 64; 255 is ssh's own failure, which the end of its stderr tells.
///
/// Of many starts at once to one destination, eight are on their way and the others wait: sshd begins to refuse connections
/// when ten are there that have not logged in yet. [`Ssh::starts_at_once`] sets another number.
///
/// # Examples
///
/// ```no_run
/// use teamster::launch::Ssh;
/// # #[teamster::rpc] async fn host() -> String { teamster::this_actor().map(|me| me.aid().host().to_owned()).unwrap_or_default() }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let far = an.actor("far").launcher(Ssh::new("user@b.example")).start().await?;
/// println!("it runs on {}", far.run(host()).await?);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
pub struct Ssh {
    destination: OsString,
    program: OsString,
    args: Vec<OsString>,
    at_once: usize,
}

impl Ssh {
    /// On the host that `ssh DESTINATION` leads to: a name, `user@name`, or an alias of `ssh_config`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Ssh};
    ///
    /// assert!(Ssh::new("b.example").is_remote());
    /// ```
    pub fn new(destination: impl Into<OsString>) -> Self {
        Ssh { destination: destination.into(), program: "ssh".into(), args: Vec::new(), at_once: AT_ONCE }
    }

    /// Options of ssh(1), before the destination.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::Ssh;
    ///
    /// let far = Ssh::new("b.example").args(["-p", "2222", "-J", "gate.example"]);
    /// # drop(far);
    /// ```
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// So many starts of this actor's may be on their way to that destination at once, at least 1; the others wait. Default: 8.
    ///
    /// sshd drops connections at random once there are ten that have not logged in yet (`MaxStartups 10:30:100`), whoever
    /// has made them. Where it is told to take more, more may come.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Ssh};
    ///
    /// let far = Ssh::new("b.example").starts_at_once(50); // its sshd_config has `MaxStartups 100`
    /// assert_eq!(far.at_once().map(|at_once| at_once.most), Some(50));
    /// ```
    #[must_use]
    pub fn starts_at_once(mut self, most: usize) -> Self {
        self.at_once = most;
        self
    }

    /// Another client that understands ssh's options. Default: `ssh`, looked up in `PATH`.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Launcher, Ssh};
    ///
    /// let far = Ssh::new("b.example").program("/usr/local/bin/ssh");
    /// assert_eq!(far.command().get_program(), "/usr/local/bin/ssh");
    /// ```
    #[must_use]
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = program.as_ref().to_owned();
        self
    }
}

impl Launcher for Ssh {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-T", "-o", "BatchMode=yes"]).args(&self.args);
        // Its own end of a network that is gone; what was said before, in `args`, counts.
        command.args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]);
        command.arg("--").arg(&self.destination).arg(ship::script());
        command
    }

    fn add_args(&self, command: &mut Command, args: &[OsString]) {
        // The client joins its arguments with spaces, for a shell over there.
        command.args(args.iter().map(|arg| ship::quoted(arg)));
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn at_once(&self) -> Option<AtOnce> {
        let mut place = OsString::from("ssh ");
        for part in self.args.iter().chain([&self.destination]) {
            place.push(ship::quoted(part));
            place.push(" ");
        }
        Some(AtOnce { place, most: self.at_once })
    }
}

/// Two fewer than sshd takes for certain: others log in there too.
const AT_ONCE: usize = 8;
