//! How does an actor come to be on a host where an agent runs?
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::launcher::Launcher;
use crate::actor::boot::BOOT_VARIABLE;
use crate::actor::envoy::LEAD;
use crate::msg::addr::Addr;
use crate::msg::agent::PORT;

/// On another host, by its agent, which is `teamster serve` there: what [`ActorBuilder::on`](crate::ActorBuilder::on) takes.
///
/// Each side has to believe the other: the root goes by an identity ([`RootBuilder::identity`](crate::RootBuilder::identity)), and the agent
/// shows one that is called as the host is. Where it listens is said by [`RootBuilder::hosts`](crate::RootBuilder::hosts) or `TEAMSTER_HOSTS`; of
/// a host that is in neither, the name is looked up, and the port is 7117.
///
/// This executable is sent there once, as with [`Ssh`](super::ssh::Ssh), and the actor connects back in the same way. A start that the agent
/// refuses, as it lets a client have so many actors and no more, is an [`Error::Spawn`](crate::Error::Spawn) with its reason.
///
/// Beside this actor runs an envoy, a small process of the same program, which leads there. When it ends, the line to the agent
/// or this actor, the actor there ends too, with all that it has started, within its grace. An agent that is
/// restarted ends nothing.
///
/// # Examples
///
/// ```no_run
/// use teamster::launch::Agent;
/// # #[teamster::rpc] async fn host() -> String { teamster::this_actor().map(|me| me.aid().host().to_owned()).unwrap_or_default() }
/// # #[teamster::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let agent = Agent::new("host-b").at("/ip4/10.0.0.2/tcp/7117".parse()?);
/// teamster::root().identity("/etc/teamster/identity").open(async |an| {
///     let far = an.actor("far").launcher(agent).start().await?; // or `.on("host-b")`, where hosts are known
///     println!("it runs on {}", far.run(host()).await?);
///     Ok(())
/// }).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Agent {
    host: String,
    identity: Option<String>,
    addr: Option<Addr>,
}

impl Agent {
    /// On this host: a name of [`RootBuilder::hosts`](crate::RootBuilder::hosts), or one that is looked up.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::launch::{Agent, Launcher};
    ///
    /// assert!(Agent::new("host-b").is_remote());
    /// ```
    pub fn new(host: impl Into<String>) -> Self {
        Agent { host: host.into(), identity: None, addr: None }
    }

    /// Where it listens.
    ///
    /// # Examples
    ///
    /// ```
    /// let agent = teamster::launch::Agent::new("host-b").at("/dns/b.example/tcp/7117".parse()?);
    /// # drop(agent);
    /// # Ok::<(), teamster::AddrError>(())
    /// ```
    #[must_use]
    pub fn at(mut self, addr: Addr) -> Self {
        self.addr = Some(addr);
        self
    }

    /// The identity that it has to show. Default: the host's name up to its first dot.
    ///
    /// # Examples
    ///
    /// ```
    /// let agent = teamster::launch::Agent::new("host-b").identity("rack-7");
    /// # drop(agent);
    /// ```
    #[must_use]
    pub fn identity(mut self, name: impl Into<String>) -> Self {
        self.identity = Some(name.into());
        self
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn addr(&self) -> Option<&Addr> {
        self.addr.as_ref()
    }

    /// Who has to answer there.
    pub(crate) fn shown(&self) -> Result<String, String> {
        match &self.identity {
            Some(name) => Ok(name.clone()),
            None if self.host.parse::<IpAddr>().is_ok() => Err(format!(
                "the number {} does not say whose agent answers there: name it, by root().hosts([(name, addr)]) and .on(name), \
                 or by launch::Agent::new(name).at(addr)",
                self.host
            )),
            None => Ok(self.host.split('.').next().unwrap_or_default().to_ascii_lowercase()),
        }
    }
}

/// Where the agent of this host is, if nobody has said so.
pub(crate) fn by_name(host: &str) -> Result<Addr, String> {
    let addr = format!("/dns/{host}/tcp/{PORT}").parse();
    addr.map_err(|_error| {
        format!("{host:?} is no name of a host, and root().hosts(…) and TEAMSTER_HOSTS don't have it")
    })
}

/// What `TEAMSTER_HOSTS` says. What is in no such form is an error, with the text that says so.
pub(crate) fn parse_hosts(text: &str) -> Result<Vec<(String, Addr)>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let read = |entry: &str| {
        let (name, addr) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not in the form NAME=ADDRESS"))?;
        let addr = addr.trim().parse::<Addr>().map_err(|error| error.to_string())?;
        Ok((name.trim().to_owned(), addr))
    };
    entries.map(read).collect()
}

impl Launcher for Agent {
    fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(format!("teamster envoy to {}", self.host)).env(BOOT_VARIABLE, LEAD);
        command
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn agent(&self) -> Option<&Agent> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_listed_by_name() {
        let read = |text: &str| parse_hosts(text).map(|hosts| hosts.iter().map(|(n, a)| format!("{n} {a};")).collect());
        assert_eq!(
            read(" b=/dns/b.example/tcp/1 , c = /ip4/10.0.0.3/tcp/2,"),
            Ok("b /dns/b.example/tcp/1;c /ip4/10.0.0.3/tcp/2;".to_owned())
        );
        assert_eq!(read(""), Ok(String::new()));
        assert!(read("b").unwrap_err().contains("NAME=ADDRESS"));
        assert!(read("b=/pigeon/1").unwrap_err().contains("no kind of address"));
    }

    #[test]
    fn a_host_is_known_by_an_identity_of_its_name() {
        assert_eq!(Agent::new("Host-B.example").shown(), Ok("host-b".to_owned()));
        assert_eq!(Agent::new("10.0.0.2").identity("moon").shown(), Ok("moon".to_owned()));
        assert!(Agent::new("10.0.0.2").shown().unwrap_err().contains("does not say whose agent"));
        assert_eq!(by_name("b").map(|addr| addr.to_string()), Ok("/dns/b/tcp/7117".to_owned()));
        assert!(by_name("a b").unwrap_err().contains("no name of a host"));
    }
}
