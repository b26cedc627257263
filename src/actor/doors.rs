//! Where does this actor listen, and what does it show there?
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::renewal::Asked;
use super::{Actor, listener};
use crate::msg::addr::{Addr, Addrs, Host, HostPort, Transport};
use crate::msg::spec::Credentials;
#[cfg(feature = "quic")]
use crate::transport::quic;
use crate::transport::socket::Listener;
use crate::transport::tls::{Authority, Identity};
use crate::transport::{tcp, uds};

/// What knocks at one address has to show.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The user, whom the kernel knows.
    Uds,
    /// The same, on the loopback interface.
    Insecure,
    /// A certificate that this actor believes.
    Tls,
    /// The same, by QUIC.
    Quic,
}

/// A socket that listens already, and that nobody accepts from yet.
#[derive(Debug)]
pub(crate) struct Bound {
    fd: OwnedFd,
    door: Door,
    /// Where others are told to connect. None: nobody is told.
    addrs: Vec<Addr>,
}

/// Where an actor is to listen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// On this host, by each of these.
    pub(crate) transports: Vec<Transport>,
    /// Where it was told to.
    pub(crate) listen: Vec<Addr>,
    /// At these addresses too, as far as they are of this host: by those of its transports that are secured.
    pub(crate) beside: Vec<IpAddr>,
}

impl Places {
    /// Those of a child that has connected to its parent from its own address `own`: other hosts reach it there, and
    /// where they reach its parent, if that is on the same host.
    pub(crate) fn of_child(transports: &[Transport], listen: &[Addr], parent: &Addrs, own: Option<IpAddr>) -> Self {
        let of_parent = parent.as_slice().iter().filter_map(secured_ip).filter(|ip| !ip.is_loopback()).chain(own);
        let listens = |ip: &IpAddr| listen.iter().filter_map(secured_ip).any(|at| at == *ip || at.is_unspecified());
        let mut beside: Vec<IpAddr> = Vec::new();
        for ip in of_parent.filter(|_| transports.iter().any(|transport| transport.is_secured())) {
            if !listens(&ip) && !beside.contains(&ip) {
                beside.push(ip);
            }
        }
        Places { transports: transports.to_vec(), listen: listen.to_vec(), beside }
    }
}

/// Of an address by number that certificates are shown at.
fn secured_ip(addr: &Addr) -> Option<IpAddr> {
    match addr {
        Addr::Tcp(HostPort { host: Host::Ip(ip), .. }) | Addr::Quic(HostPort { host: Host::Ip(ip), .. }) => Some(*ip),
        _ => None,
    }
}

/// This address, by a transport that is secured.
fn secured_at(transport: Transport, place: HostPort) -> Addr {
    match transport {
        Transport::Quic => Addr::Quic(place),
        _ => Addr::Tcp(place),
    }
}

/// These transports, and those that the addresses need.
pub(crate) fn with_transports_of(listen: &[Addr], transports: &[Transport]) -> Vec<Transport> {
    Transport::sorted(transports.iter().copied().chain(listen.iter().map(Addr::transport)))
}

/// Why an actor can't be told to listen there.
pub(crate) fn refuses(addr: &Addr) -> Option<&'static str> {
    match addr {
        Addr::Uds(_) => Some("its Unix socket is in the folder of its tree"),
        Addr::InsecureTcp(HostPort { host: Host::Ip(ip), .. }) if ip.is_loopback() => None,
        Addr::InsecureTcp(_) => Some("only the loopback interface may be insecure: leave `/insecure` out"),
        Addr::Tcp(_) | Addr::Quic(_) => None,
    }
}

/// Binds the sockets of these places, and the Unix socket in any case: by that the next root of this user finds an
/// actor that stands still when its tree is gone. With them comes where others are told to connect, the nearest first.
pub(crate) fn bind(places: &Places, socket: &Path, identity: Option<&Identity>) -> io::Result<(Vec<Bound>, Addrs)> {
    let Places { transports, listen, beside } = places;
    let mut all = Vec::new();
    for transport in transports {
        all.push(bind_one(*transport, socket, identity)?);
    }
    if !transports.contains(&Transport::Uds) {
        all.push(Bound { addrs: Vec::new(), ..bind_one(Transport::Uds, socket, identity)? });
    }
    for addr in listen {
        all.push(bind_to(addr, identity).map_err(|error| io::Error::new(error.kind(), format!("{addr}: {error}")))?);
    }
    for ip in beside {
        for transport in transports.iter().filter(|transport| transport.is_secured()) {
            match bind_to(&secured_at(*transport, SocketAddr::new(*ip, 0).into()), identity) {
                Ok(bound) => all.push(bound),
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {} // another host's
                Err(error) => return Err(io::Error::new(error.kind(), format!("{ip}: {error}"))),
            }
        }
    }
    let told = nearest_first(all.iter().flat_map(|bound| bound.addrs.iter().cloned()));
    Ok((all, told))
}

/// Unix sockets, the loopback interface, and what goes further.
fn nearest_first(addrs: impl IntoIterator<Item = Addr>) -> Addrs {
    let mut all: Vec<Addr> = addrs.into_iter().collect();
    let is_near = |place: &HostPort| matches!(place.host, Host::Ip(ip) if ip.is_loopback());
    all.sort_by_key(|addr| match addr {
        Addr::Uds(_) => 0,
        Addr::Tcp(place) | Addr::Quic(place) if is_near(place) => 1,
        Addr::InsecureTcp(_) => 2,
        Addr::Tcp(_) | Addr::Quic(_) => 3,
    });
    all.into_iter().collect()
}

/// On this host.
fn bind_one(transport: Transport, socket: &Path, identity: Option<&Identity>) -> io::Result<Bound> {
    let loopback = || HostPort::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    match transport {
        Transport::Uds => {
            Ok(Bound { fd: uds::bind_at(socket)?, door: Door::Uds, addrs: vec![Addr::Uds(socket.to_owned())] })
        }
        Transport::InsecureTcp => bind_to(&Addr::InsecureTcp(loopback()), identity),
        Transport::Tcp | Transport::Quic => bind_to(&secured_at(transport, loopback()), identity),
    }
}

/// At an address of this host's on a network.
fn bind_to(addr: &Addr, identity: Option<&Identity>) -> io::Result<Bound> {
    if let Some(why) = refuses(addr) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let (place, door) = match addr {
        Addr::Uds(_) => return Err(io::ErrorKind::InvalidInput.into()), // refused above
        Addr::InsecureTcp(place) => (place, Door::Insecure),
        Addr::Tcp(place) | Addr::Quic(place) => {
            identity.ok_or_else(|| io::Error::other("it has no certificate to show"))?;
            (place, if matches!(addr, Addr::Quic(_)) { Door::Quic } else { Door::Tls })
        }
    };
    let (fd, bound) = match door {
        #[cfg(feature = "quic")]
        Door::Quic => quic::bind_to(place)?,
        #[cfg(not(feature = "quic"))]
        Door::Quic => return Err(crate::transport::dial::no_quic()),
        Door::Uds | Door::Insecure | Door::Tls => tcp::bind_to(place)?,
    };
    let hosts = match &place.host {
        Host::Dns(name) => vec![Host::Dns(name.clone())],
        Host::Ip(ip) if ip.is_unspecified() => tcp::interfaces(*ip)?.into_iter().map(Host::Ip).collect(),
        Host::Ip(ip) => vec![Host::Ip(*ip)],
    };
    let told = hosts.into_iter().map(|host| HostPort { host, port: bound.port() });
    let addrs = match door {
        Door::Insecure => told.map(Addr::InsecureTcp).collect(),
        Door::Quic => told.map(Addr::Quic).collect(),
        Door::Tls | Door::Uds => told.map(Addr::Tcp).collect(),
    };
    Ok(Bound { fd, door, addrs })
}

/// The doors of an actor.
#[derive(Default)]
pub(crate) struct Doors {
    addrs: RwLock<Addrs>,
    listening: Mutex<Vec<tokio::task::AbortHandle>>,
    shown: RwLock<Option<Identity>>,
    /// In the root, once a network is used, or from its boot if it has an identity.
    authority: OnceLock<Authority>,
    pub(super) asked: Asked,
    /// Where it is to listen as soon as somebody is to be told where: a worker has mostly nobody to tell.
    late: Mutex<Option<Places>>,
}

impl Doors {
    /// Those of an actor that listens here already.
    pub(crate) fn at(addrs: Addrs, identity: Option<Identity>) -> Self {
        let (addrs, shown) = (RwLock::new(addrs), RwLock::new(identity));
        Doors { addrs, shown, asked: Asked::now(), ..Doors::default() }
    }

    /// Those of an actor that listens at these places when it has to.
    pub(crate) fn for_later(places: Places, identity: Option<Identity>) -> Self {
        Doors { late: Mutex::new(Some(places)), ..Doors::at(Addrs::default(), identity) }
    }

    /// Where others are told to connect, the nearest first.
    pub(crate) fn addrs(&self) -> Addrs {
        self.addrs.read().clone()
    }

    /// Of which edition of the tree's identity that is what it shows, if it has something to show.
    pub(crate) fn edition(&self) -> Option<u64> {
        self.shown.read().as_ref().map(Identity::edition)
    }

    /// What it shows from now on.
    pub(crate) fn show(&self, credentials: &Credentials) -> io::Result<()> {
        let identity = Identity::new(credentials)?;
        *self.shown.write() = Some(identity);
        Ok(())
    }

    /// What it shows as the actor `own`. A root whose identity folder has changed shows what is in it now.
    fn identity(&self, own: Uuid) -> Option<Identity> {
        let shown = self.edition()?;
        if let Some(authority) = self.authority.get().filter(|authority| authority.edition() != shown)
            && let Err(error) = authority.issue(own).and_then(|credentials| self.show(&credentials))
        {
            tracing::warn!(target: "teamster::identity", %error, "the root goes on with its old certificate");
        }
        self.shown.read().clone()
    }

    /// The tree's authority, made when it is needed first. In the root alone.
    pub(crate) fn authority(&self) -> io::Result<&Authority> {
        if self.authority.get().is_none() {
            // Another task may have been first: one is enough.
            let _ = self.authority.set(Authority::new()?);
        }
        self.authority.get().ok_or_else(|| io::Error::other("it was not made"))
    }

    /// Nobody else is let in.
    pub(crate) fn close(&self) {
        for listening in self.listening.lock().drain(..) {
            listening.abort();
        }
    }
}

/// The doors of a root that is to be booted: what it shows is made here.
pub(crate) fn of_root(
    places: &Places,
    socket: &Path,
    root: Uuid,
    authority: Option<Authority>,
) -> io::Result<(Doors, Vec<Bound>)> {
    let doors = Doors { authority: authority.map(OnceLock::from).unwrap_or_default(), ..Doors::default() };
    if places.transports.iter().any(|transport| transport.is_secured()) {
        let credentials = doors.authority()?.issue(root)?;
        doors.show(&credentials)?;
    }
    let (bound, addrs) = bind(places, socket, doors.identity(root).as_ref())?;
    *doors.addrs.write() = addrs;
    Ok((doors, bound))
}

impl Actor {
    /// Where it listens, the nearest first: from now on, if it does not yet.
    pub(crate) fn addrs(self: &Arc<Self>) -> Addrs {
        let mut late = self.doors.late.lock();
        if let Some(places) = late.take()
            && let Err(error) = self.listen_late(&places)
        {
            tracing::warn!(%error, "a worker can't bind its sockets: nobody will reach what it tells of itself");
            *late = Some(places);
        }
        drop(late);
        self.doors.addrs()
    }

    fn listen_late(self: &Arc<Self>, places: &Places) -> io::Result<()> {
        let (bound, addrs) = bind(places, &self.socket(), self.identity().as_ref())?;
        let _on_its_runtime = self.runtime.enter();
        self.open_doors(bound)?;
        *self.doors.addrs.write() = addrs;
        Ok(())
    }

    /// What it shows on networks, and whom it believes.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.doors.identity(self.aid.uuid())
    }

    /// Accepts from these sockets until the actor ends.
    pub(crate) fn open_doors(self: &Arc<Self>, all: Vec<Bound>) -> io::Result<()> {
        for Bound { fd, door, addrs: _ } in all {
            let listener = match door {
                #[cfg(feature = "quic")]
                Door::Quic => Listener::Datagrams(quic::Listener::new(fd)?),
                _ => Listener::streams(fd)?,
            };
            let listening = self.drivers.spawn_on(listener::listen(Arc::clone(self), listener, door), &self.runtime);
            self.doors.listening.lock().push(listening.abort_handle());
        }
        Ok(())
    }

    /// Listens at all of this host's addresses from now on by each of these transports, unless it listens at one of them.
    pub(crate) fn listen_on_networks(self: &Arc<Self>, transports: &[Transport]) -> io::Result<()> {
        let mut addrs = self.doors.addrs.write();
        for transport in transports.iter().filter(|transport| transport.is_secured()) {
            let goes_further = |addr: &Addr| match addr {
                Addr::Tcp(place) | Addr::Quic(place) => !matches!(place.host, Host::Ip(ip) if ip.is_loopback()),
                Addr::Uds(_) | Addr::InsecureTcp(_) => false,
            };
            if addrs.as_slice().iter().any(|addr| addr.transport() == *transport && goes_further(addr)) {
                continue;
            }
            let everywhere =
                |ip: IpAddr| bind_to(&secured_at(*transport, SocketAddr::new(ip, 0).into()), self.identity().as_ref());
            // Of both kinds, where this host has both.
            let bound =
                everywhere(Ipv6Addr::UNSPECIFIED.into()).or_else(|_no_v6| everywhere(Ipv4Addr::UNSPECIFIED.into()))?;
            *addrs = nearest_first(addrs.as_slice().iter().cloned().chain(bound.addrs.clone()));
            self.open_doors(vec![bound])?;
        }
        Ok(())
    }

    /// Listens by this transport too, from now on.
    pub(crate) fn listen_by(self: &Arc<Self>, transport: Transport) -> io::Result<()> {
        let mut addrs = self.doors.addrs.write();
        if addrs.as_slice().iter().any(|addr| addr.transport() == transport) {
            return Ok(());
        }
        let told = match transport {
            Transport::Uds => vec![Addr::Uds(self.socket())], // it listens there in any case
            Transport::Tcp | Transport::InsecureTcp | Transport::Quic => {
                let bound = bind_one(transport, &self.socket(), self.identity().as_ref())?;
                let told = bound.addrs.clone();
                self.open_doors(vec![bound])?;
                told
            }
        };
        *addrs = nearest_first(addrs.as_slice().iter().cloned().chain(told));
        Ok(())
    }
}
