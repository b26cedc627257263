//! TCP: listening, connecting, and who is at the other end of the loopback interface.
#![expect(unsafe_code, reason = "how a connection fares is asked of the kernel, for which rustix has no function")]
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getpeername, getsockname, listen, socket_with};

use super::dial::HEAD_START;
use super::uds::BACKLOG;
use crate::msg::addr::{Host, HostPort};

/// What the kernel takes: tcp(7), `TCP_KEEPCNT`. The timeout above counts, where it is set.
const MOST_PROBES: u32 = 127;

/// Binds and listens; port 0 takes a free one. What it is bound to comes with it.
pub(crate) fn bind_at(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    take_both_kinds(&fd, addr)?;
    bind(&fd, &addr)?;
    listen(&fd, BACKLOG)?;
    let bound = getsockname(&fd)?.try_into()?;
    Ok((fd, bound))
}

/// A socket at all addresses of IPv6 is at those of IPv4 too, whatever the system makes of it by itself (`net.ipv6.bindv6only`).
pub(super) fn take_both_kinds(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    if let IpAddr::V6(ip) = addr.ip()
        && (ip.is_unspecified() || ip.to_ipv4_mapped().is_some())
    {
        sockopt::set_ipv6_v6only(fd, false)?;
    }
    Ok(())
}

/// The same at a host and a port, of which a name is looked up.
pub(crate) fn bind_to(place: &HostPort) -> io::Result<(OwnedFd, SocketAddr)> {
    first_that_works(place, bind_at)
}

/// What `bind` makes of the first address of this place that it works at.
pub(super) fn first_that_works<T>(place: &HostPort, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let addrs: Vec<SocketAddr> = match &place.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, place.port)],
        Host::Dns(name) => (name.as_str(), place.port).to_socket_addrs()?.collect(),
    };
    let mut failure = no_address(place);
    for addr in addrs {
        match bind(addr) {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The addresses of this host that a socket is reached at which listens on all of them. Those that need to be told an
/// interface too are left out.
pub(crate) fn interfaces(all: IpAddr) -> io::Result<Vec<IpAddr>> {
    let is_reached = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => all.is_ipv6() && !ip.is_unicast_link_local(),
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip()).filter(is_reached).collect())
}

/// Makes a connection what an agent's client needs: as [`prepare`], and it ends by itself when the other machine's kernel has
/// been silent for `lost_after`, or has had no room for so long. What goes over it is granted before.
#[cfg(feature = "tls")]
pub(crate) fn prepare_to_end(fd: &OwnedFd, lost_after: Duration) -> io::Result<()> {
    prepare(fd, lost_after)?;
    sockopt::set_tcp_user_timeout(fd, u32::try_from(lost_after.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Makes a connection what a line needs: it never waits, sends at once, and ends when the other machine's kernel is silent
/// for `lost_after` though nothing is said on it. Where something is, [`silence`] tells.
pub(crate) fn prepare(fd: &OwnedFd, lost_after: Duration) -> io::Result<()> {
    let probes = u32::try_from(lost_after.as_secs()).unwrap_or(u32::MAX).clamp(1, MOST_PROBES);
    rustix::io::ioctl_fionbio(fd, true)?;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(fd, probes)?;
    sockopt::set_socket_keepalive(fd, true)?;
    Ok(())
}

/// For how long the other machine's kernel has not answered what was sent, and sent again. One that has no room answers.
///
/// The kernel's own limit, `TCP_USER_TIMEOUT`, does not tell the two apart: a reader that stands still would lose its line.
pub(crate) fn silence(fd: BorrowedFd<'_>) -> Option<Duration> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is how many are there; all of them being zero is a value too.
    let info = unsafe {
        let asked = libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (asked == 0).then(|| info.assume_init())?
    };
    // One question is on its way: two are not answered.
    let is_owed = info.tcpi_retransmits > 0 || info.tcpi_probes > 1;
    is_owed.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

/// The addresses of a place, in the order in which they are tried.
async fn look_up(place: &HostPort) -> io::Result<Vec<SocketAddr>> {
    Ok(in_turns(match &place.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, place.port)],
        Host::Dns(name) => tokio::net::lookup_host((name.as_str(), place.port)).await?.collect(),
    }))
}

/// What `connect` makes of the first address of this place that answers.
pub(super) async fn first_that_answers<T, F: Future<Output = io::Result<T>>>(
    place: &HostPort,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut tries: FuturesUnordered<_> = look_up(place)
        .await?
        .into_iter()
        .zip(0..)
        .map(|(addr, turn)| {
            let connected = connect(addr);
            async move {
                tokio::time::sleep(HEAD_START * turn).await;
                connected.await
            }
        })
        .collect();
    let mut failure = no_address(place);
    while let Some(tried) = tries.next().await {
        match tried {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects, by the first address of the host that answers.
pub(crate) async fn dial(place: &HostPort, lost_after: Duration) -> io::Result<OwnedFd> {
    let stream = first_that_answers(place, tokio::net::TcpStream::connect).await?;
    let fd = OwnedFd::from(stream.into_std()?);
    prepare(&fd, lost_after)?;
    Ok(fd)
}

fn no_address(place: &HostPort) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", place.host))
}

/// IPv6 and IPv4 by turns, beginning with the kind that the system put first.
fn in_turns(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addrs.into_iter().partition(|addr| addr.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return turns,
            (one, other) => turns.extend(one.into_iter().chain(other)),
        }
    }
}

/// Whether both ends of a connection are on the loopback interface.
pub(crate) fn is_loopback(fd: BorrowedFd<'_>) -> bool {
    [own_ip(fd), peer_ip(fd)].into_iter().all(|ip| ip.is_some_and(|ip| ip.is_loopback()))
}

/// Whether the ends of a connection are on two hosts: a host that connects to itself does so from the same address.
pub(crate) fn is_remote(fd: BorrowedFd<'_>) -> bool {
    matches!((own_ip(fd), peer_ip(fd)), (Some(own), Some(peer)) if own != peer && !is_loopback(fd))
}

/// `None`: it is no connection of a network.
pub(crate) fn own_ip(fd: BorrowedFd<'_>) -> Option<IpAddr> {
    Some(SocketAddr::try_from(getsockname(fd).ok()?).ok()?.ip().to_canonical())
}

fn peer_ip(fd: BorrowedFd<'_>) -> Option<IpAddr> {
    Some(peer(fd)?.ip().to_canonical())
}

/// Who is at the other end. `None`: it is no connection of a network.
pub(crate) fn peer(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SocketAddr::try_from(getpeername(fd).ok()??).ok()
}

/// The user of the process at the other end of the loopback interface: the kernel's table says so, of the socket whose two
/// ends are ours turned round.
///
/// # Errors
///
/// `NotConnected`: the connection is not on the loopback interface, or over already.
pub(crate) fn peer_user(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    if !is_loopback(fd) {
        return Err(gone());
    }
    let ours = SocketAddr::try_from(getsockname(fd)?)?;
    let theirs = SocketAddr::try_from(getpeername(fd)?.ok_or_else(gone)?)?;
    let table = if ours.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let text = std::fs::read_to_string(table)?;
    text.lines()
        .filter_map(entry)
        .find(|(local, remote, _)| *local == theirs && *remote == ours)
        .map_or_else(|| Err(gone()), |(_, _, user)| Ok(user))
}

/// One line of the kernel's table of connections: both ends, and the user.
fn entry(line: &str) -> Option<(SocketAddr, SocketAddr, u32)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (end(fields.next()?)?, end(fields.next()?)?);
    Some((local, remote, fields.nth(4)?.parse().ok()?))
}

/// `0100007F:1F90`: words of 32 bits in the byte order of this machine, and the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let words: Vec<u8> = (0..host.len() / 8)
        .map(|n| u32::from_str_radix(host.get(n * 8..n * 8 + 8)?, 16).ok())
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match words.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(words).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(words).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let line = "   1: 0100007F:1F90 0200007F:0016 01 00000000:00000000 00:00000000 00000000  1000        0 24 1 0";
        let (local, remote) = ("127.0.0.1:8080".parse().unwrap(), "127.0.0.2:22".parse().unwrap());
        assert_eq!(entry(line), Some((local, remote, 1000)));
        let six = "00000000000000000000000001000000:0050";
        assert_eq!(end(six), Some("[::1]:80".parse().unwrap()));
        assert_eq!(entry("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"), None);
    }

    #[test]
    #[ignore = "needs root's rights"]
    fn all_addresses_are_of_both_kinds_whatever_the_system_prefers() {
        const NAME: &str = "transport::tcp::tests::all_addresses_are_of_both_kinds_whatever_the_system_prefers";
        if std::env::var_os("PREFERS_ONE").is_some() {
            let everywhere = "[::]:0".parse().unwrap();
            assert!(!sockopt::ipv6_v6only(&bind_at(everywhere).unwrap().0).unwrap());
            #[cfg(feature = "quic")]
            crate::transport::quic::assert_both_kinds(everywhere);
            return;
        }
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/bindv6only && exec \"$@\"", "sh"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", NAME, "--include-ignored", "--nocapture"]);
        let output = command.env("PREFERS_ONE", "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[tokio::test]
    async fn both_ends_of_a_connection_of_ours_are_ours() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let Ok((listener, addr)) = bind_at(ip.parse().unwrap()) else { continue }; // no IPv6 here
            let place = HostPort::from(addr);
            let ours = dial(&place, Duration::from_secs(5)).await.unwrap();
            let theirs = rustix::net::accept(&listener).unwrap();
            let us = rustix::process::getuid().as_raw();
            assert_eq!((peer_user(ours.as_fd()).unwrap(), peer_user(theirs.as_fd()).unwrap()), (us, us));
        }
    }

    #[test]
    fn both_kinds_of_a_host_are_tried_by_turns() {
        let addrs = |all: &[&str]| all.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = addrs(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(in_turns(mixed), addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
        assert_eq!(in_turns(vec![]), []);
    }
}
