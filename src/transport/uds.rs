//! Unix sockets: who knocks, and where?
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

/// Connections that the kernel keeps for a listener that has not accepted them yet. A connecting
/// child waits in `connect` when it is full.
pub(super) const BACKLOG: i32 = 1024;

/// Connects; waits only while the listener's backlog is full. What comes back never waits.
pub(crate) fn dial(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// The peer's process and user, as the kernel took them when it connected.
pub(crate) fn peer(fd: BorrowedFd<'_>) -> io::Result<rustix::net::UCred> {
    Ok(rustix::net::sockopt::socket_peercred(fd)?)
}

/// Binds and listens: from here on peers can connect, accepted or not.
pub(crate) fn bind_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}
