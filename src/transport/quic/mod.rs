//! QUIC: a connection has a UDP socket of its own, on both sides, and each dialog a stream of its own on it.
//!
//! So a connection is a descriptor and a session around it, as with TLS, and whoever holds it drives it. The listening socket
//! takes first datagrams alone: the kernel gives what follows to the socket that is connected to their sender.
mod inward;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, DatagramEvent, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

pub(crate) use self::session::Session;
use self::session::State;
use super::session::Session as Around;
use super::stream::Stream;
use super::tcp;
use super::tls::Identity;
use super::trust::host_name;
use super::watched::{watch, watch_borrowed};
use crate::msg::addr::HostPort;
use crate::msg::spawn_reason::limit_hint;
use crate::proto::connection::MAX_DIALOGS;

/// Bytes of the longest datagram that we take: what Ethernet carries.
const MAX_DATAGRAM_BYTES: u16 = 1472;

/// Bytes of the shortest first datagram: RFC 9000, section 14.1.
const MIN_FIRST_BYTES: usize = 1200;

/// What both sides say they speak inside.
const PROTOCOL: &[u8] = b"teamster/1";

/// Bytes that wait for the other side's acknowledgement, at most: what a network of 100 Mbit/s with 300 ms there and back holds.
const SEND_WINDOW: u64 = 4 << 20;

/// Bytes of one stream that may come ahead of its reader: more than the other side ever has on its way, so that no stream waits
/// for its own window.
const STREAM_WINDOW: u32 = 6 << 20;

/// The same of all streams.
const RECEIVE_WINDOW: u32 = 16 << 20;

/// Streams that the other side may have open at first.
const FIRST_STREAMS: u32 = 64;

/// The same once it needs more. Those of dialogs that are over stay for a while.
const MAX_STREAMS: u32 = 2 * MAX_DIALOGS as u32;

/// What both kinds of connections need that an identity makes.
pub(crate) struct Configs {
    client: ClientConfig,
    server: Arc<ServerConfig>,
    endpoint: Arc<EndpointConfig>,
}

impl Configs {
    pub(super) fn new(client: &rustls::ClientConfig, server: &rustls::ServerConfig) -> io::Result<Self> {
        let (mut client, mut server) = (client.clone(), server.clone());
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        let transport = Arc::new(transport());
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).map_err(io::Error::other)?));
        client.transport_config(Arc::clone(&transport));
        let server = QuicServerConfig::try_from(server).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport).migration(false); // a socket is connected to one address
        let mut endpoint = EndpointConfig::default();
        endpoint.max_udp_payload_size(MAX_DATAGRAM_BYTES).map_err(io::Error::other)?;
        Ok(Configs { client, server: Arc::new(server), endpoint: Arc::new(endpoint) })
    }
}

impl fmt::Debug for Configs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configs").finish_non_exhaustive()
    }
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        // Each costs something from the beginning: more are allowed as they are needed.
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        // Who is silent is given up by our own clocks, which know of debuggers and of late machines.
        .max_idle_timeout(None)
        .send_window(SEND_WINDOW)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW));
    config
}

/// A socket for such addresses.
fn socket_for(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    tcp::take_both_kinds(&fd, addr)?;
    Ok(fd)
}

/// A bound socket, beside which others may be, by this user alone.
fn socket_at(addr: SocketAddr) -> io::Result<OwnedFd> {
    let fd = socket_for(addr)?;
    if addr.port() != 0 {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    bind(&fd, &addr)?;
    Ok(fd)
}

/// Binds to listen; port 0 takes a free one. What it is bound to comes with it.
fn bind_at(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    // Alone first: a port that somebody listens on is not shared.
    let fd = socket_for(addr)?;
    bind(&fd, &addr)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    let bound = getsockname(&fd)?.try_into()?;
    Ok((fd, bound))
}

/// Whoever listens there, and whoever is let in by it from an address of IPv4.
#[cfg(test)]
pub(super) fn assert_both_kinds(everywhere: SocketAddr) {
    let (listens, bound) = bind_at(everywhere).expect("it is free");
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    let let_in = socket_at(SocketAddr::new(mapped.into(), bound.port())).expect("both are ours");
    for fd in [listens, let_in] {
        assert!(!sockopt::ipv6_v6only(&fd).expect("it is of IPv6"));
    }
}

/// The same at a host and a port, of which a name is looked up.
pub(crate) fn bind_to(place: &HostPort) -> io::Result<(OwnedFd, SocketAddr)> {
    tcp::first_that_works(place, bind_at)
}

/// A connection to the actor `peer`, by the first address of the host that answers.
pub(crate) async fn call(place: &HostPort, identity: &Identity, peer: Uuid) -> io::Result<Stream> {
    tcp::first_that_answers(place, |addr| call_at(addr, identity, peer)).await
}

async fn call_at(addr: SocketAddr, identity: &Identity, peer: Uuid) -> io::Result<Stream> {
    let from: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let fd = socket_at(SocketAddr::new(from, 0))?;
    connect(&fd, &addr)?;
    let configs = &identity.quic;
    let mut endpoint = Endpoint::new(Arc::clone(&configs.endpoint), None, true, None);
    let (handle, conn) =
        endpoint.connect(Instant::now(), configs.client.clone(), addr, &host_name(peer)).map_err(io::Error::other)?;
    let mut state = State::new(fd.as_fd(), endpoint, handle, conn)?;
    shake_hands(fd.as_fd(), &mut state).await?;
    state.open_line()?;
    Ok(Stream::around(fd, Around::Quic(Box::new(state.into_session()))))
}

/// The other side of a first datagram.
#[derive(Debug)]
pub(crate) struct Knock {
    /// Connected to whoever knocks.
    fd: OwnedFd,
    from: SocketAddr,
    datagrams: VecDeque<(Meta, BytesMut)>,
    /// Many knock: who does has to show first that it gets what is sent to its address.
    is_crowded: bool,
}

/// How a datagram came.
#[derive(Clone, Copy, Debug)]
struct Meta(RecvMeta);

impl Knock {
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// See [`Knock::is_crowded`].
    pub(crate) fn in_a_crowd(self) -> Self {
        Knock { is_crowded: true, ..self }
    }

    /// The side that was called. Who has called is known when he has said so: [`Session::is_with`].
    ///
    /// # Errors
    ///
    /// `Interrupted`: it was asked to knock once more, from an address that is its own.
    pub(crate) async fn answer(self, identity: &Identity) -> io::Result<Stream> {
        let Knock { fd, from: _, mut datagrams, is_crowded } = self;
        let configs = &identity.quic;
        let mut endpoint = Endpoint::new(Arc::clone(&configs.endpoint), Some(Arc::clone(&configs.server)), true, None);
        let Some((Meta(meta), first)) = datagrams.pop_front() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let (now, mut response) = (Instant::now(), Vec::new());
        let udp = UdpSocketState::new(UdpSockRef::from(&fd))?;
        let reply = |transmit: &quinn_proto::Transmit, bytes: &[u8]| {
            // It is owed one attempt.
            let _ = session::send(&udp, fd.as_fd(), transmit, bytes);
        };
        let incoming = match endpoint.handle(now, meta.addr, meta.dst_ip, None, first, &mut response) {
            Some(DatagramEvent::NewConnection(incoming)) => incoming,
            Some(DatagramEvent::Response(transmit)) => {
                reply(&transmit, &response);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak our QUIC"));
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak QUIC")),
        };
        if is_crowded && !incoming.remote_address_validated() {
            if let Ok(transmit) = endpoint.retry(incoming, &mut response) {
                reply(&transmit, &response);
            }
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (handle, conn) = match endpoint.accept(incoming, now, &mut response, None) {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(transmit) = error.response {
                    reply(&transmit, &response);
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.cause.to_string()));
            }
        };
        let mut state = State::new(fd.as_fd(), endpoint, handle, conn)?;
        for (Meta(meta), datagram) in datagrams {
            state.on_datagram(now, &meta, datagram);
        }
        shake_hands(fd.as_fd(), &mut state).await?;
        Ok(Stream::around(fd, Around::Quic(Box::new(state.into_session()))))
    }
}

/// Goes on until both sides have shown who they are.
async fn shake_hands(fd: BorrowedFd<'_>, state: &mut State) -> io::Result<()> {
    let watched = watch_borrowed(fd, Interest::READABLE)?;
    loop {
        state.on_time(fd);
        state.pump_some(fd);
        if let Some(failure) = state.failure() {
            return Err(failure);
        }
        if !state.is_handshaking() {
            return Ok(());
        }
        let due = async {
            match state.deadline() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = watched.readable() => ready?.clear_ready(),
            () = due => {}
        }
    }
}

/// A bound socket that a tokio runtime watches.
pub(crate) struct Listener {
    fd: AsyncFd<OwnedFd>,
    udp: UdpSocketState,
    state: Mutex<Listening>,
}

#[derive(Default)]
struct Listening {
    /// Datagrams that are not looked at yet.
    waiting: VecDeque<(Meta, BytesMut)>,
    /// Who has knocked lately: what comes from there belongs to a socket that is its own.
    recent: HashMap<SocketAddr, Instant>,
}

/// How long a first datagram that has come before is taken for the same: shorter than its sender waits until it sends it again.
const SAME_FOR: Duration = Duration::from_millis(200);

/// Addresses that are remembered for that, at most: beyond it a datagram that comes twice is answered twice.
const MAX_RECENT: usize = 4096;

/// Reads of the socket in one go, at most.
const BATCH: usize = 32;

/// How often a new socket is looked at for what others have sent to it: it was theirs too for a few microseconds. What is its
/// own sender's may stay there.
const MAX_ROUNDS: usize = 2;

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let udp = UdpSocketState::new(UdpSockRef::from(&fd))?;
        Ok(Listener { fd: watch(fd, Interest::READABLE)?, udp, state: Mutex::default() })
    }

    /// Who knocks next. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<Knock> {
        loop {
            let waiting = self.state.lock().waiting.pop_front();
            if let Some((meta, datagram)) = waiting {
                if self.is_first(&meta.0, &datagram) {
                    match self.connected(meta, datagram) {
                        Err(error) if error.raw_os_error().and_then(limit_hint).is_none() => {
                            // It has come from where nothing can be sent to.
                            tracing::debug!(target: "teamster::channel", from = %meta.0.addr, %error, "a datagram");
                        }
                        connected => return connected,
                    }
                }
                continue;
            }
            let mut guard = self.fd.readable().await?;
            if let Ok(read) = guard.try_io(|fd| receive(&self.udp, fd.as_fd())) {
                self.state.lock().waiting.extend(read?);
            }
        }
    }

    /// Whether it may begin a connection: of version 1, long enough, and from nobody who has just begun one.
    fn is_first(&self, meta: &RecvMeta, datagram: &[u8]) -> bool {
        let is_initial = datagram.len() >= MIN_FIRST_BYTES && datagram[0] & 0xf0 == 0xc0;
        if !is_initial {
            return false;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.recent.len() >= MAX_RECENT {
            state.recent.retain(|_, at| now.duration_since(*at) < SAME_FOR);
        }
        if state.recent.get(&meta.addr).is_some_and(|at| now.duration_since(*at) < SAME_FOR) {
            return false;
        }
        if state.recent.len() < MAX_RECENT {
            state.recent.insert(meta.addr, now);
        }
        true
    }

    /// A socket of its own for whoever has sent this. What others have sent while it was not connected yet goes back.
    fn connected(&self, meta: Meta, datagram: BytesMut) -> io::Result<Knock> {
        let own = SocketAddr::try_from(getsockname(self.fd.get_ref())?)?;
        let ip = match (meta.0.dst_ip.unwrap_or(own.ip()), own.ip()) {
            (IpAddr::V4(ip), IpAddr::V6(_)) => ip.to_ipv6_mapped().into(),
            (ip, _) => ip,
        };
        let fd = socket_at(SocketAddr::new(ip, own.port()))?;
        connect(&fd, &meta.0.addr)?;
        let mut datagrams = VecDeque::from([(meta, datagram)]);
        let udp = UdpSocketState::new(UdpSockRef::from(&fd))?;
        for _ in 0..MAX_ROUNDS {
            let Ok(read) = receive(&udp, fd.as_fd()) else { break };
            let (own, strays): (Vec<_>, Vec<_>) = read.into_iter().partition(|(other, _)| other.0.addr == meta.0.addr);
            datagrams.extend(own);
            self.state.lock().waiting.extend(strays);
        }
        Ok(Knock { fd, from: meta.0.addr, datagrams, is_crowded: false })
    }

    /// It has to knock once more.
    pub(crate) fn expect_again(&self, from: SocketAddr) {
        self.state.lock().recent.remove(&from);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("fd", &self.fd).finish_non_exhaustive()
    }
}

/// Takes some datagrams off a socket.
fn receive(udp: &UdpSocketState, fd: BorrowedFd<'_>) -> io::Result<Vec<(Meta, BytesMut)>> {
    let mut datagrams = Vec::new();
    session::with_input(udp, |input| {
        for _ in 0..BATCH {
            let mut meta = [RecvMeta::default()];
            match udp.recv(UdpSockRef::from(&fd), &mut [IoSliceMut::new(input)], &mut meta) {
                Ok(_) => {}
                Err(_later) if !datagrams.is_empty() => break,
                Err(error) => return Err(error),
            }
            let [meta] = meta;
            let mut bytes = BytesMut::from(&input[..meta.len]);
            while !bytes.is_empty() {
                datagrams.push((Meta(meta), bytes.split_to(meta.stride.min(bytes.len()))));
            }
        }
        Ok(datagrams)
    })
}
