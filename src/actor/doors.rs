//! Where does this actor listen, and what does it show there?
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::{Actor, listener};
use crate::msg::addr::{Addr, Addrs, Transport};
use crate::msg::spec::Credentials;
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
    /// A certificate of the tree's.
    Tls(Identity),
}

/// A socket that listens already, and that nobody accepts from yet.
#[derive(Debug)]
pub(crate) struct Bound {
    fd: OwnedFd,
    door: Door,
    addr: Addr,
}

/// Binds the sockets of these transports, and the Unix socket in any case: by that the next root of this user finds an
/// actor that stands still when its tree is gone. With them comes where others are told to connect.
pub(crate) fn bind(
    transports: &[Transport],
    socket: &Path,
    identity: Option<&Identity>,
) -> io::Result<(Vec<Bound>, Addrs)> {
    let beside = (!transports.contains(&Transport::Uds)).then_some(Transport::Uds);
    let all = transports.iter().copied().chain(beside);
    let bound: Vec<_> = all.map(|transport| bind_one(transport, socket, identity)).collect::<io::Result<_>>()?;
    let told = bound.iter().take(transports.len()).map(|bound| bound.addr.clone()).collect();
    Ok((bound, told))
}

fn bind_one(transport: Transport, socket: &Path, identity: Option<&Identity>) -> io::Result<Bound> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(match transport {
        Transport::Uds => Bound { fd: uds::bind_at(socket)?, door: Door::Uds, addr: Addr::Uds(socket.to_owned()) },
        Transport::InsecureTcp => {
            let (fd, addr) = tcp::bind_at(loopback)?;
            Bound { fd, door: Door::Insecure, addr: Addr::InsecureTcp(addr.into()) }
        }
        Transport::Tcp => {
            let identity = identity.ok_or_else(|| io::Error::other("it has no certificate to show"))?;
            let (fd, addr) = tcp::bind_at(loopback)?;
            Bound { fd, door: Door::Tls(identity.clone()), addr: Addr::Tcp(addr.into()) }
        }
    })
}

/// The doors of an actor.
#[derive(Default)]
pub(crate) struct Doors {
    addrs: RwLock<Addrs>,
    listening: Mutex<Vec<tokio::task::AbortHandle>>,
    identity: OnceLock<Identity>,
    /// In the root, once a network is used.
    authority: OnceLock<Authority>,
}

impl Doors {
    /// Those of an actor that listens here already.
    pub(crate) fn at(addrs: Addrs, identity: Option<Identity>) -> Self {
        let doors = Doors { addrs: RwLock::new(addrs), ..Doors::default() };
        if let Some(identity) = identity {
            // Nobody else knows of it yet.
            let _ = doors.identity.set(identity);
        }
        doors
    }

    /// Where others are told to connect, the nearest first.
    pub(crate) fn addrs(&self) -> Addrs {
        self.addrs.read().clone()
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    /// What it shows from now on, if it has had nothing.
    pub(crate) fn show(&self, credentials: &Credentials) -> io::Result<()> {
        // Another task may have been first: one is enough.
        let _ = self.identity.set(Identity::new(credentials)?);
        Ok(())
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
pub(crate) fn of_root(transports: &[Transport], socket: &Path, root: uuid::Uuid) -> io::Result<(Doors, Vec<Bound>)> {
    let doors = Doors::default();
    if transports.contains(&Transport::Tcp) {
        let credentials = doors.authority()?.issue(root)?;
        doors.show(&credentials)?;
    }
    let (bound, addrs) = bind(transports, socket, doors.identity())?;
    *doors.addrs.write() = addrs;
    Ok((doors, bound))
}

impl Actor {
    /// Where it listens, the nearest first.
    pub(crate) fn addrs(&self) -> Addrs {
        self.doors.addrs()
    }

    /// Accepts from these sockets until the actor ends.
    pub(crate) fn open_doors(self: &Arc<Self>, all: Vec<Bound>) -> io::Result<()> {
        for Bound { fd, door, addr: _ } in all {
            let listener = Listener::new(fd)?;
            let listening = self.drivers.spawn_on(listener::listen(Arc::clone(self), listener, door), &self.runtime);
            self.doors.listening.lock().push(listening.abort_handle());
        }
        Ok(())
    }

    /// Listens by this transport too, from now on.
    pub(crate) fn listen_by(self: &Arc<Self>, transport: Transport) -> io::Result<()> {
        let mut addrs = self.doors.addrs.write();
        if addrs.as_slice().iter().any(|addr| addr.transport() == transport) {
            return Ok(());
        }
        let addr = match transport {
            Transport::Uds => Addr::Uds(self.socket()), // it listens there in any case
            Transport::Tcp | Transport::InsecureTcp => {
                let bound = bind_one(transport, &self.socket(), self.doors.identity())?;
                let addr = bound.addr.clone();
                self.open_doors(vec![bound])?;
                addr
            }
        };
        let mut all: Vec<Addr> = addrs.as_slice().iter().cloned().chain([addr]).collect();
        all.sort_by_key(Addr::transport);
        *addrs = all.into_iter().collect();
        Ok(())
    }
}
