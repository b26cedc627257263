//! Bytes over a Unix socket: sendmsg and recvmsg, so that descriptors can travel later.
#![expect(unsafe_code, reason = "a long payload is read into room that nobody has filled with zeros before")]
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use parking_lot::RwLock;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, acceptfrom_with, bind, connect, listen, recvmsg, sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::watched::{watch, watch_borrowed};

/// Connections that the kernel keeps for a listener that has not accepted them yet. A connecting
/// child waits in `connect` when it is full.
const BACKLOG: i32 = 1024;

/// Sends without waiting.
///
/// # Errors
///
/// `WouldBlock` when the kernel's buffer is full.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(fd, &[IoSlice::new(bytes)], &mut SendAncillaryBuffer::default(), flags)?)
}

/// The same of two buffers, the second behind the first.
fn send_both(fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    if second.is_empty() {
        return send(fd, first);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let both = [IoSlice::new(first), IoSlice::new(second)];
    Ok(sendmsg(fd, &both, &mut SendAncillaryBuffer::default(), flags)?)
}

/// Receives without waiting; 0 at the end.
///
/// # Errors
///
/// `WouldBlock` when nothing is there.
pub(crate) fn recv(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut ancillary = RecvAncillaryBuffer::default();
    Ok(recvmsg(fd, &mut [IoSliceMut::new(into)], &mut ancillary, flags)?.bytes)
}

/// Receives what is there now.
pub(crate) fn try_recv(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    retry_interrupted(|| recv(fd.as_fd(), into))
}

/// Appends at most `most` bytes that are there now.
fn recv_more(fd: &OwnedFd, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    into.reserve(most);
    let read = retry_interrupted(|| {
        let room = &mut into.spare_capacity_mut()[..most];
        let ((read, _rest), _) = rustix::net::recv(fd, room, RecvFlags::DONTWAIT)?;
        Ok(read.len())
    })?;
    // SAFETY: the kernel has written the first `read` bytes of the free room.
    unsafe { into.set_len(into.len() + read) };
    Ok(read)
}

/// Waits for what comes, without holding on to the descriptor.
pub(crate) struct Watched<'f>(AsyncFd<BorrowedFd<'f>>);

impl<'f> Watched<'f> {
    pub(crate) fn new(fd: &'f OwnedFd) -> io::Result<Self> {
        watch_borrowed(fd, Interest::READABLE).map(Watched)
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(read) = guard.try_io(|fd| retry_interrupted(|| recv(*fd.get_ref(), into))) {
                return Poll::Ready(read);
            }
        }
    }
}

/// Connects; waits only while the listener's backlog is full. What comes back never waits.
pub(crate) fn dial(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Room that is made for one read, in bytes: several times what a local socket holds.
const READ_BYTES: usize = 1 << 20;

/// The peer's process and user, as the kernel took them when it connected.
pub(crate) fn peer(fd: BorrowedFd<'_>) -> io::Result<rustix::net::UCred> {
    Ok(rustix::net::sockopt::socket_peercred(fd)?)
}

/// A connected socket that a tokio runtime watches, until it is closed: its descriptor goes then, whoever
/// still holds on to it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Only closing it writes; nobody waits for anything while he reads.
    open: RwLock<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    fd: AsyncFd<OwnedFd>,
    /// A duplicate that is watched for room, made when there was none for the first time: the peer's
    /// every read would wake us otherwise, with nothing for us to do.
    room: OnceLock<AsyncFd<OwnedFd>>,
}

impl Socket {
    /// Takes a socket that never waits.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let open = Open { fd: watch(fd, Interest::READABLE)?, room: OnceLock::new() };
        Ok(Socket { open: RwLock::new(Some(open)) })
    }

    /// Sends what the kernel takes now of `first` and of `second` behind it.
    pub(crate) fn try_send(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let open = self.open.read();
        let fd = open.as_ref().ok_or(Errno::NOTCONN)?.fd.get_ref();
        retry_interrupted(|| send_both(fd.as_fd(), first, second))
    }

    /// Receives what is there now, whatever the runtime knows of it.
    pub(crate) fn try_recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let open = self.open.read();
        try_recv(open.as_ref().ok_or(Errno::NOTCONN)?.fd.get_ref(), into)
    }

    /// Resolves when `try_send` may get further after it has said `WouldBlock`.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let room = open.as_ref().ok_or(Errno::NOTCONN)?.room()?;
        loop {
            let mut guard = ready!(room.poll_write_ready(cx))?;
            match guard.try_io(|fd| retry_interrupted(|| send_both(fd.get_ref().as_fd(), first, second))) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let fd = &open.as_ref().ok_or(Errno::NOTCONN)?.fd;
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            match guard.try_io(|fd| retry_interrupted(|| recv(fd.get_ref().as_fd(), into))) {
                Ok(Ok(n)) => {
                    // A short read has emptied the socket: what comes later is a new edge, so the
                    // read that would only say `WouldBlock` is saved.
                    if n > 0 && n < into.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Appends at most `most` bytes to `into`, which grows with what comes and not with what may.
    pub(crate) fn poll_recv_more(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let fd = &open.as_ref().ok_or(Errno::NOTCONN)?.fd;
        let most = most.min(READ_BYTES);
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            match guard.try_io(|fd| recv_more(fd.get_ref(), into, most)) {
                Ok(Ok(n)) => {
                    if n > 0 && n < most {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// The same, of what is there now, whatever the runtime knows of it.
    pub(crate) fn try_recv_more(&self, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let open = self.open.read();
        recv_more(open.as_ref().ok_or(Errno::NOTCONN)?.fd.get_ref(), into, most.min(READ_BYTES))
    }

    /// Ends it both ways: whoever reads or writes sees that.
    pub(crate) fn shutdown(&self) {
        if let Some(open) = &*self.open.read() {
            // A socket that the peer has closed already can't be shut down, and needs not.
            let _ = rustix::net::shutdown(open.fd.get_ref(), rustix::net::Shutdown::Both);
        }
    }

    /// Gives its descriptors back. Nobody waits to read or write any more.
    pub(crate) fn close(&self) {
        let open = self.open.write().take();
        drop(open); // with the lock free
    }
}

impl Open {
    fn room(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        if let Some(room) = self.room.get() {
            return Ok(room);
        }
        let room = watch(rustix::io::fcntl_dupfd_cloexec(self.fd.get_ref(), 0)?, Interest::WRITABLE)?;
        Ok(self.room.get_or_init(|| room))
    }
}

/// A bound socket that a tokio runtime watches.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: AsyncFd<OwnedFd>,
}

/// Binds and listens: from here on peers can connect, accepted or not.
pub(crate) fn bind_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Listener { fd: watch(fd, Interest::READABLE)? })
    }

    /// The next connection. Cancel safe: a connection that was not handed out stays in the backlog.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(|fd| Ok(acceptfrom_with(fd.get_ref(), flags)?.0)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
