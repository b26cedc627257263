//! What starts actors on this host for roots on others? Its agent: `teamster serve`.
//!
//! It is built as sshd is: one process listens, and each connection gets a process of its own, which sees to one actor and ends
//! with it. So a restart of the agent, or its crash, ends no actor. What runs is written down in a folder, where the next
//! agent finds it.
//!
//! Who is let in may run any program, as the agent's user.
mod books;
mod cache;
mod door;
mod folder;
mod groups;
mod limits;
mod session;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use self::books::Books;
pub use self::books::Running;
pub use self::limits::{Limits, LimitsError};
use crate::actor::log;
use crate::msg::addr::{Addr, Host, HostPort};
use crate::msg::agent::PORT;
use crate::msg::spec::Credentials;
use crate::transport::tls::Authority;

/// A host's agent: where it listens, whom it lets in, and how much they may take.
///
/// # Examples
///
/// ```no_run
/// use teamster::agent::{Agent, Limits};
///
/// let agent = Agent::new("/etc/teamster/identity", "/var/lib/teamster", "/var/cache/teamster")
///     .listen("/ip4/10.0.0.2/tcp/7117".parse()?)
///     .limits_of("anna", Limits { actors: 8, ..Limits::default() });
/// agent.serve(|addrs| println!("at {addrs:?}"))?; // until SIGTERM
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nobody is served before `serve`"]
#[derive(Clone, Debug)]
pub struct Agent {
    identity: PathBuf,
    state: PathBuf,
    cache: PathBuf,
    allowed: Vec<PathBuf>,
    listen: Vec<Addr>,
    limits: Limits,
    limits_of: BTreeMap<String, Limits>,
}

impl Agent {
    /// `identity`: the folder of `teamster ca issue`, whose name clients call this host by. `state`: the folder of its
    /// books. `cache`: the folder of the executables that were sent here.
    ///
    /// # Examples
    ///
    /// ```
    /// let agent = teamster::agent::Agent::new("identity", "state", "cache");
    /// # drop(agent);
    /// ```
    pub fn new(identity: impl Into<PathBuf>, state: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        Agent {
            identity: identity.into(),
            state: state.into(),
            cache: cache.into(),
            allowed: Vec::new(),
            listen: Vec::new(),
            limits: Limits::default(),
            limits_of: BTreeMap::new(),
        }
    }

    /// Where it listens: `/ip4/…/tcp/…` or `/ip6/…/tcp/…`. Port 0 takes a free one. Default: the port 7117 of all addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// let agent = teamster::agent::Agent::new("identity", "state", "cache").listen("/ip4/127.0.0.1/tcp/0".parse()?);
    /// # drop(agent);
    /// # Ok::<(), teamster::AddrError>(())
    /// ```
    pub fn listen(mut self, addr: Addr) -> Self {
        self.listen.push(addr);
        self
    }

    /// Lets in clients of the authorities in this PEM file, and in others that are named so, instead of all that the identity
    /// believes. Lists of what these authorities have revoked may be in it too.
    ///
    /// # Examples
    ///
    /// ```
    /// let agent = teamster::agent::Agent::new("identity", "state", "cache").allow("/etc/teamster/friends.pem");
    /// # drop(agent);
    /// ```
    pub fn allow(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.allowed.push(authorities.into());
        self
    }

    /// How much each client may take that has no limits of its own. A client is an identity, by its name.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::agent::{Agent, Limits};
    ///
    /// let agent = Agent::new("identity", "state", "cache").limits(Limits { actors: 4, ..Limits::default() });
    /// # drop(agent);
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How much this client may take. With `actors: 0` it is not let in.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::agent::{Agent, Limits};
    ///
    /// // Nobody but anna.
    /// let none = Limits { actors: 0, ..Limits::default() };
    /// let agent = Agent::new("identity", "state", "cache").limits(none).limits_of("anna", Limits::default());
    /// # drop(agent);
    /// ```
    pub fn limits_of(mut self, client: impl Into<String>, limits: Limits) -> Self {
        self.limits_of.insert(client.into(), limits);
        self
    }

    /// Serves until this process gets SIGTERM, SIGINT or SIGHUP, which has nothing else to do: it reaps whatever children it has.
    /// Actors that run then go on. `ready` is called once it listens,
    /// with the addresses.
    ///
    /// For each connection this program is started again with the same arguments, and comes here again: what it does before
    /// that has to be the same. That process never returns from here.
    ///
    /// What happens is logged; where the program has no subscriber, on stderr.
    ///
    /// # Errors
    ///
    /// Each says what to do: the identity is of no use, an address is taken, the folders can't be used, another agent uses
    /// them, or a limit can't be kept on this host.
    ///
    /// # Examples
    ///
    /// ```
    /// let served = teamster::agent::Agent::new("/no/such/folder", "/tmp", "/tmp").serve(|_addrs| {});
    /// assert!(served.unwrap_err().to_string().contains("there is no folder /no/such/folder"));
    /// ```
    pub fn serve(self, ready: impl FnOnce(&[Addr])) -> io::Result<()> {
        if let Some(groups) = std::env::var_os(SESSION_VARIABLE) {
            session::answer(&self, &groups);
        }
        log::install_in_agent("info");
        door::Door::open(&self)?.serve(ready)
    }

    /// What it shows, and whom it believes, as its files say it now; and its name.
    fn credentials(&self) -> io::Result<(Credentials, String)> {
        let credentials = Authority::open(&self.identity)?.issue_for_agent(&self.allowed)?;
        let name = credentials.identity.clone().unwrap_or_default(); // it is of a folder, so there is one
        Ok((credentials, name))
    }

    fn limits_for(&self, client: &str) -> Limits {
        self.limits_of.get(client).copied().unwrap_or(self.limits)
    }

    fn addrs(&self) -> Vec<Addr> {
        let everywhere = || Addr::Tcp(HostPort { host: Host::Ip(std::net::Ipv6Addr::UNSPECIFIED.into()), port: PORT });
        if self.listen.is_empty() { vec![everywhere()] } else { self.listen.clone() }
    }
}

/// Set in the environment of the process of a connection: where groups of processes are made, if they are.
const SESSION_VARIABLE: &str = "TEAMSTER_SESSION";

/// The actors that run here for clients, as the books in this folder say, whether an agent runs now or not.
///
/// # Errors
///
/// The folder can't be read.
///
/// # Examples
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert!(teamster::agent::running(folder.path())?.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn running(state: impl AsRef<Path>) -> io::Result<Vec<Running>> {
    let entries = Books::at(state.as_ref()).entries()?;
    let mut running: Vec<Running> = entries.iter().filter_map(books::Entry::shown).collect();
    running.sort_unstable_by(|one, other| (&one.client, one.since).cmp(&(&other.client, other.since)));
    Ok(running)
}
