//! Where does an actor listen?
use core::net::{IpAddr, SocketAddr}; // the data alone: a `std::net` here would open sockets
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an actor listens. Prints and parses as a path: `/uds/run/user/1000/teamster/…`,
/// `/ip4/10.0.0.7/tcp/4711`, `/ip6/fe80::1/udp/4711/quic`, `/dns/host-b.example/tcp/4711`.
///
/// # Examples
///
/// ```
/// use teamster::Addr;
///
/// let addr = Addr::Uds("/run/user/1000/teamster/a.s".into());
/// assert_eq!(addr.to_string(), "/uds/run/user/1000/teamster/a.s");
/// let addr = Addr::Tcp("10.0.0.7:4711".parse::<std::net::SocketAddr>()?.into());
/// assert_eq!(addr.to_string(), "/ip4/10.0.0.7/tcp/4711");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Addr {
    /// A Unix socket on this host.
    Uds(PathBuf),
    /// TCP with TLS 1.3, both sides shown by certificates.
    Tcp(HostPort),
    /// TCP with nothing around it, on the loopback interface: `/ip4/127.0.0.1/tcp/4711/insecure`.
    InsecureTcp(HostPort),
    /// QUIC, which is TLS 1.3 on UDP, both sides shown by certificates: `/ip4/10.0.0.7/udp/4711/quic`.
    Quic(HostPort),
}

/// A host and a port of it.
///
/// # Examples
///
/// ```
/// use teamster::{Host, HostPort};
///
/// let place = HostPort { host: Host::Dns("host-b.example".into()), port: 4711 };
/// assert_eq!(place.to_string(), "host-b.example:4711");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port; 0, where an actor is to listen: one that is free.
    pub port: u16,
}

/// A host, by number or by name.
///
/// # Examples
///
/// ```
/// use teamster::Host;
///
/// assert_eq!(Host::Ip("::1".parse()?).to_string(), "::1");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Host {
    /// A number.
    Ip(IpAddr),
    /// A name, which is looked up at each connection.
    Dns(String),
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        HostPort { host: Host::Ip(addr.ip()), port: addr.port() }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Dns(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Addr::Uds(path) => return write!(f, "/uds{}", path.display()),
            Addr::Tcp(place) | Addr::InsecureTcp(place) | Addr::Quic(place) => place,
        };
        let kind = match place.host {
            Host::Ip(IpAddr::V4(_)) => "ip4",
            Host::Ip(IpAddr::V6(_)) => "ip6",
            Host::Dns(_) => "dns",
        };
        let (protocol, tail) = match self {
            Addr::Quic(_) => ("udp", "/quic"),
            Addr::InsecureTcp(_) => ("tcp", "/insecure"),
            Addr::Tcp(_) | Addr::Uds(_) => ("tcp", ""),
        };
        write!(f, "/{kind}/{}/{protocol}/{}{tail}", place.host, place.port)
    }
}

/// Reads what an address prints as.
///
/// # Examples
///
/// ```
/// use teamster::Addr;
///
/// let addr: Addr = "/uds/run/user/1000/teamster/a.s".parse()?;
/// assert_eq!(addr, Addr::Uds("/run/user/1000/teamster/a.s".into()));
/// assert!("/ip4/10.0.0.7/tcp/4711".parse::<Addr>().is_ok());
/// assert!("/carrier-pigeon/7".parse::<Addr>().is_err());
/// # Ok::<(), teamster::AddrError>(())
/// ```
impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let refused = |what| AddrError { text: text.to_owned(), what };
        let Some(rest) = text.strip_prefix('/') else { return Err(refused(AddrProblem::NoKind)) };
        let (kind, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        match (kind, path) {
            ("uds", "" | "/") => Err(refused(AddrProblem::NoPath)),
            ("uds", path) => Ok(Addr::Uds(path.into())),
            ("ip4" | "ip6" | "dns", path) => {
                on_network(kind, path.strip_prefix('/').unwrap_or_default()).map_err(refused)
            }
            (kind, _) => Err(refused(AddrProblem::Kind(kind.to_owned()))),
        }
    }
}

/// What stands behind `/ip4/`, `/ip6/` or `/dns/`.
fn on_network(kind: &str, rest: &str) -> Result<Addr, AddrProblem> {
    let mut parts = rest.split('/');
    let name = parts.next().unwrap_or_default();
    let bad_host = || AddrProblem::Host(name.to_owned());
    let host = match kind {
        "ip4" => Host::Ip(IpAddr::V4(name.parse().map_err(|_error| bad_host())?)),
        "ip6" => Host::Ip(IpAddr::V6(name.parse().map_err(|_error| bad_host())?)),
        _ => Host::Dns(Some(name).filter(|name| is_host_name(name)).ok_or_else(bad_host)?.to_owned()),
    };
    let (Some(protocol @ ("tcp" | "udp")), Some(port)) = (parts.next(), parts.next()) else {
        return Err(AddrProblem::NoPort);
    };
    let port = port.parse().map_err(|_error| AddrProblem::Port(port.to_owned()))?;
    let place = HostPort { host, port };
    match (protocol, parts.next(), parts.next()) {
        ("udp", Some("quic"), None) => Ok(Addr::Quic(place)),
        ("udp", _, _) => Err(AddrProblem::Udp),
        (_, None, _) => Ok(Addr::Tcp(place)),
        (_, Some("insecure"), None) => Ok(Addr::InsecureTcp(place)),
        (_, Some(other), _) => Err(AddrProblem::Tail(other.to_owned())),
    }
}

/// Letters, digits, `-`, `_` and dots, as the name system takes them.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What lines go over: where an actor listens, and how it is reached.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// use teamster::Transport;
///
/// teamster::root().transport(Transport::InsecureTcp).open(async |an| {
///     let frank = an.start_actor("frank").await?;
///     assert!(frank.addr().is_some_and(|addr| addr.to_string().ends_with("/insecure")));
///     assert_eq!(frank.run(add(1, 2)).await?, 3);
///     Ok(())
/// }).await
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Transport {
    /// Unix sockets: on one host, for one user. The default.
    Uds,
    /// TCP with TLS 1.3. Each actor has a key and a certificate of its tree's own authority, which the root makes and
    /// keeps in memory: nothing need be configured. It takes the cargo feature `tls`.
    Tcp,
    /// TCP with nothing around it, on the loopback interface alone, and between processes of one user.
    InsecureTcp,
    /// QUIC: TLS 1.3 on UDP, with what [`Transport::Tcp`] says of keys and certificates. Each dialog has a stream of its own, so
    /// that what the network loses of one holds up no other. It takes the cargo feature `quic`.
    Quic,
}

impl Transport {
    /// What `TEAMSTER_TRANSPORT` may say.
    const NAMES: [(&'static str, Transport); 4] = [
        ("uds", Transport::Uds),
        ("tcp", Transport::Tcp),
        ("insecure", Transport::InsecureTcp),
        ("quic", Transport::Quic),
    ];

    /// Whether both sides show certificates.
    pub(crate) fn is_secured(self) -> bool {
        match self {
            Transport::Tcp | Transport::Quic => true,
            Transport::Uds | Transport::InsecureTcp => false,
        }
    }

    /// A list of names: what is none of them is an error, with the text that says so.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Transport>, String> {
        let all = text
            .split(',')
            .map(|word| {
                let named = Self::NAMES.iter().find(|(name, _)| *name == word.trim());
                named
                    .map(|(_, transport)| *transport)
                    .ok_or_else(|| format!("{word:?} is none of uds, tcp, insecure, quic"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::sorted(all))
    }

    /// The nearest first, each once.
    pub(crate) fn sorted(transports: impl IntoIterator<Item = Transport>) -> Vec<Transport> {
        let mut all: Vec<_> = transports.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Addr {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Addr::Uds(_) => Transport::Uds,
            Addr::Tcp(_) => Transport::Tcp,
            Addr::InsecureTcp(_) => Transport::InsecureTcp,
            Addr::Quic(_) => Transport::Quic,
        }
    }
}

/// A text that is no address.
///
/// # Examples
///
/// ```
/// let error = "/uds".parse::<teamster::Addr>().unwrap_err();
/// assert_eq!(error.to_string(), "\"/uds\" is no address: it has no path");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: {what}")]
pub struct AddrError {
    text: String,
    what: AddrProblem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum AddrProblem {
    #[error("one begins with a kind, as in /uds/run/user/1000/teamster/a.s or /ip4/10.0.0.7/tcp/4711")]
    NoKind,
    #[error("it has no path")]
    NoPath,
    #[error("{0:?} is no such host")]
    Host(String),
    #[error("it has no port, as in /ip4/10.0.0.7/tcp/4711")]
    NoPort,
    #[error("{0:?} is no port: 0 to 65535")]
    Port(String),
    #[error("nothing but /insecure may follow its port, and {0:?} does")]
    Tail(String),
    #[error("what is spoken on UDP is QUIC alone, as in /ip4/10.0.0.7/udp/4711/quic")]
    Udp,
    #[error("{0} is no kind of address that this build knows, which are: uds, ip4, ip6, dns")]
    Kind(String),
}

/// All that an actor listens on, the nearest first. A copy is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addrs(Arc<[Addr]>);

impl Addrs {
    pub(crate) fn as_slice(&self) -> &[Addr] {
        &self.0
    }
}

impl From<Addr> for Addrs {
    fn from(addr: Addr) -> Self {
        Addrs(Arc::new([addr]))
    }
}

impl FromIterator<Addr> for Addrs {
    fn from_iter<I: IntoIterator<Item = Addr>>(addrs: I) -> Self {
        Addrs(addrs.into_iter().collect())
    }
}

impl fmt::Display for Addrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, addr) in self.0.iter().enumerate() {
            let between = if n > 0 { ", " } else { "" };
            write!(f, "{between}{addr}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_prints() {
        for text in [
            "/uds/a/b.s",
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/tcp/65535/insecure",
            "/ip6/::1/tcp/80",
            "/dns/host-b.example/tcp/4711",
            "/dns/a_b/tcp/0",
            "/ip4/10.0.0.7/udp/4711/quic",
            "/ip6/::1/udp/0/quic",
        ] {
            assert_eq!(text.parse::<Addr>().map(|addr| addr.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn transports_are_listed_by_name() {
        assert_eq!(Transport::parse_list("tcp, uds,tcp"), Ok(vec![Transport::Uds, Transport::Tcp]));
        assert_eq!(Transport::parse_list("udp").unwrap_err(), "\"udp\" is none of uds, tcp, insecure, quic");
        assert!(Transport::parse_list("").is_err());
    }

    #[test]
    fn a_text_that_is_no_address_is_told_why() {
        for (text, why) in [
            ("", "one begins with a kind"),
            ("/uds/", "it has no path"),
            ("/ip4/::1/tcp/1", "\"::1\" is no such host"),
            ("/ip6/10.0.0.1/tcp/1", "is no such host"),
            ("/dns//tcp/1", "\"\" is no such host"),
            ("/dns/a b/tcp/1", "is no such host"),
            ("/ip4/10.0.0.1", "it has no port"),
            ("/ip4/10.0.0.1/udp/1", "what is spoken on UDP is QUIC alone"),
            ("/ip4/10.0.0.1/tcp/70000", "\"70000\" is no port"),
            ("/ip4/10.0.0.1/tcp/1/secure", "nothing but /insecure"),
            ("/ip4/10.0.0.1/tcp/1/insecure/x", "nothing but /insecure"),
            ("/pigeon/1", "no kind of address"),
        ] {
            let error = text.parse::<Addr>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
