//! One connection: bytes out, bytes in, never waiting. By sendmsg and recvmsg, so that descriptors can travel later.
#![expect(unsafe_code, reason = "a long payload is read into room that nobody has filled with zeros before")]
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sendmsg};

use uuid::Uuid;

use super::session::Session;
use super::tcp;
use super::tls::Identity;

/// A connected socket that never waits, plain or with a session around it. It is used by one thread at a time, or by several.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    session: Option<Session>,
}

impl Stream {
    /// A socket with nothing around it.
    pub(crate) fn plain(fd: OwnedFd) -> Self {
        Stream { fd, session: None }
    }

    /// A socket whose two sides have shaken hands.
    #[cfg(feature = "tls")]
    pub(super) fn around(fd: OwnedFd, session: Session) -> Self {
        Stream { fd, session: Some(session) }
    }

    pub(super) fn into_parts(self) -> (OwnedFd, Option<Session>) {
        (self.fd, self.session)
    }

    /// Sends what is taken now of `bytes`.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel's buffer is full.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        send(self.fd.as_fd(), self.session.as_ref(), bytes, &[])
    }

    /// Sends what `send` has taken and the kernel has not; whether some of it still waits.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        self.session.as_ref().map_or(Ok(false), |session| session.flush(self.fd.as_fd()))
    }

    /// Receives without waiting; 0 at the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there.
    pub(crate) fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        recv(self.fd.as_fd(), self.session.as_ref(), into)
    }

    /// Whether the other side has shown that it is the actor `peer`. `None`: on this connection nobody shows anything.
    pub(crate) fn is_with(&self, peer: Uuid) -> Option<bool> {
        self.session.as_ref().map(|session| session.is_with(peer))
    }

    /// The identity that the other side's certificate was signed by, if it was by one.
    #[cfg(feature = "tls")]
    pub(crate) fn peer_identity(&self) -> Option<String> {
        self.session.as_ref()?.peer_identity()
    }

    /// Whether the other side belongs to another tree than that of `own`, as far as it has shown.
    pub(crate) fn is_foreign(&self, own: Option<&Identity>) -> bool {
        self.session.as_ref().zip(own).is_some_and(|(session, own)| !session.is_of(own))
    }

    /// Whether a session is around it: a read that fills less than its room has not taken all that was there then, and what is left
    /// makes no descriptor readable.
    pub(crate) fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// Whether its other end is on another host, as far as the addresses tell.
    pub(crate) fn is_remote(&self) -> bool {
        tcp::is_remote(self.fd.as_fd())
    }

    /// Whether it goes by addresses of a network, if only those of the loopback interface.
    pub(crate) fn is_on_network(&self) -> bool {
        tcp::own_ip(self.fd.as_fd()).is_some()
    }

    /// The address of this host that it goes by, if it goes to another one.
    pub(crate) fn own_ip(&self) -> Option<std::net::IpAddr> {
        self.is_remote().then(|| tcp::own_ip(self.fd.as_fd())).flatten()
    }

    /// When [`Stream::on_time`] is due, if ever.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.session.as_ref().and_then(Session::deadline)
    }

    /// Does what its session has to do by now.
    pub(crate) fn on_time(&self) {
        if let Some(session) = &self.session {
            session.on_time(self.fd.as_fd());
        }
    }

    /// Whether its session is due at times, and ends without the kernel's seeing to it.
    pub(crate) fn is_timed(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_timed)
    }

    /// Nothing more is said: [`Stream::conclude`] is to follow.
    pub(crate) fn begin_to_conclude(&self) {
        if let Some(session) = &self.session {
            session.begin_to_conclude(self.fd.as_fd());
        }
    }

    /// Closes it once the other side has all that was sent, or it is `until`. When to look again, if something comes not earlier.
    pub(crate) fn conclude(&self, until: Instant) -> Option<Instant> {
        self.session.as_ref().and_then(|session| session.conclude(self.fd.as_fd(), until))
    }

    /// Ends it both ways: whoever reads or writes sees that.
    pub(crate) fn shutdown(&self) {
        if let Some(session) = &self.session {
            session.close(self.fd.as_fd());
        }
        if self.is_timed() {
            return; // it has no end of the kernel's
        }
        // A socket that the peer has closed already can't be shut down, and needs not.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends what is taken now of `first`, and of `second` behind it.
pub(super) fn send(fd: BorrowedFd<'_>, session: Option<&Session>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    match session {
        None => send_plain(fd, first, second),
        Some(session) => session.send(fd, first, second),
    }
}

pub(super) fn recv(fd: BorrowedFd<'_>, session: Option<&Session>, into: &mut [u8]) -> io::Result<usize> {
    match session {
        None => recv_plain(fd, into),
        Some(session) => session.recv(fd, into),
    }
}

pub(super) fn send_plain(fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if second.is_empty() {
        return retry_interrupted(|| Ok(rustix::net::send(fd, first, flags)?)); // the kernel has less to look at
    }
    let both = [IoSlice::new(first), IoSlice::new(second)];
    retry_interrupted(|| Ok(sendmsg(fd, &both, &mut SendAncillaryBuffer::default(), flags)?))
}

pub(super) fn recv_plain(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // Descriptors that came along are closed by the kernel: nobody has asked for them.
    retry_interrupted(|| Ok(rustix::net::recv(fd, &mut *into, RecvFlags::DONTWAIT)?.0))
}

/// Appends at most `most` bytes that are there now.
pub(super) fn recv_more(
    fd: BorrowedFd<'_>,
    session: Option<&Session>,
    into: &mut Vec<u8>,
    most: usize,
) -> io::Result<usize> {
    if let Some(session) = session {
        return session.recv_more(fd, into, most);
    }
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

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
