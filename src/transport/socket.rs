//! A connection, and a listener, that a tokio runtime watches.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use parking_lot::RwLock;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::stream::{self, Stream};
use super::tls::Session;
use super::watched::{watch, watch_borrowed};

/// Waits for what comes, without holding on to the connection.
pub(crate) struct Watched<'s> {
    fd: AsyncFd<BorrowedFd<'s>>,
    stream: &'s Stream,
}

impl<'s> Watched<'s> {
    pub(crate) fn new(stream: &'s Stream) -> io::Result<Self> {
        Ok(Watched { fd: watch_borrowed(stream.as_fd(), Interest::READABLE)?, stream })
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(read) = guard.try_io(|_fd| self.stream.recv(into)) {
                return Poll::Ready(read);
            }
        }
    }
}

/// Room that is made for one read, in bytes: several times what a local socket holds.
const READ_BYTES: usize = 1 << 20;

/// A connected socket that a tokio runtime watches, until it is closed: its descriptor goes then, whoever
/// still holds on to it.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Only closing it writes; nobody waits for anything while he reads.
    open: RwLock<Option<Open>>,
    /// What it has taken may wait for the kernel.
    is_secured: bool,
}

#[derive(Debug)]
struct Open {
    fd: AsyncFd<OwnedFd>,
    tls: Option<Session>,
    /// A duplicate that is watched for room, made when there was none for the first time: the peer's
    /// every read would wake us otherwise, with nothing for us to do.
    room: OnceLock<AsyncFd<OwnedFd>>,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> io::Result<Self> {
        let (fd, tls) = stream.into_parts();
        let is_secured = tls.is_some();
        let open = Open { fd: watch(fd, Interest::READABLE)?, tls, room: OnceLock::new() };
        Ok(Socket { open: RwLock::new(Some(open)), is_secured })
    }

    /// Sends what is taken now of `first` and of `second` behind it.
    pub(crate) fn try_send(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        stream::send(open.fd.get_ref().as_fd(), open.tls.as_ref(), first, second)
    }

    /// Whether the kernel has all that was sent; else [`Socket::poll_flush`] sees to the rest.
    pub(crate) fn is_flushed(&self) -> bool {
        if !self.is_secured {
            return true;
        }
        let open = self.open.read();
        open.as_ref().and_then(|open| open.tls.as_ref()).is_none_or(|tls| !tls.is_waiting())
    }

    /// Ready when the kernel has taken all that was sent.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        let Some(tls) = &open.tls else { return Poll::Ready(Ok(())) };
        while tls.flush(open.fd.get_ref().as_fd())? {
            ready!(open.room()?.poll_write_ready(cx))?.clear_ready();
        }
        Poll::Ready(Ok(()))
    }

    /// Receives what is there now, whatever the runtime knows of it.
    pub(crate) fn try_recv(&self, into: &mut [u8]) -> io::Result<usize> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        stream::recv(open.fd.get_ref().as_fd(), open.tls.as_ref(), into)
    }

    /// Resolves when `try_send` may get further after it has said `WouldBlock`.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        let room = open.room()?;
        loop {
            let mut guard = ready!(room.poll_write_ready(cx))?;
            match guard.try_io(|fd| stream::send(fd.get_ref().as_fd(), open.tls.as_ref(), first, second)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = into.len();
        self.poll_read(cx, most, |open| stream::recv(open.fd.get_ref().as_fd(), open.tls.as_ref(), into))
    }

    /// Appends at most `most` bytes to `into`, which grows with what comes and not with what may.
    pub(crate) fn poll_recv_more(
        &self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let most = most.min(READ_BYTES);
        self.poll_read(cx, most, |open| stream::recv_more(open.fd.get_ref().as_fd(), open.tls.as_ref(), into, most))
    }

    #[inline]
    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        mut read: impl FnMut(&Open) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let open = self.open.read();
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        // What is deciphered already makes no descriptor readable.
        if open.tls.as_ref().is_some_and(Session::has_plaintext) {
            match read(open) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        loop {
            let mut guard = ready!(open.fd.poll_read_ready(cx))?;
            match guard.try_io(|_fd| read(open)) {
                Ok(Ok(n)) => {
                    // A short read has emptied the socket: what comes later is a new edge, so the
                    // read that would only say `WouldBlock` is saved.
                    if n > 0 && open.tls.as_ref().map_or(n < most, Session::is_drained) {
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
        let open = open.as_ref().ok_or(Errno::NOTCONN)?;
        stream::recv_more(open.fd.get_ref().as_fd(), open.tls.as_ref(), into, most.min(READ_BYTES))
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
