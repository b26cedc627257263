//! What is around a connection's bytes? Nothing, TLS, or QUIC: whoever holds the connection drives it.
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use uuid::Uuid;

#[cfg(feature = "quic")]
use super::quic;
#[cfg(feature = "tls")]
use super::tls;
use super::tls::Identity;

/// The session of one connection. Its handshake is over.
#[derive(Debug)]
pub(crate) enum Session {
    /// Around a stream of TCP's.
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
    /// Around the datagrams of a UDP socket.
    #[cfg(feature = "quic")]
    Quic(Box<quic::Session>),
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($self:ident, $session:ident => $call:expr) => {
        match *$self {
            #[cfg(feature = "tls")]
            Session::Tls(ref $session) => $call,
            #[cfg(feature = "quic")]
            Session::Quic(ref $session) => $call,
        }
    };
}

/// Calls a method where no kernel keeps the connection up; what it is elsewhere.
macro_rules! of_quic {
    ($self:ident, $quic:ident => $call:expr, $otherwise:expr) => {
        match *$self {
            #[cfg(feature = "tls")]
            Session::Tls(_) => $otherwise,
            #[cfg(feature = "quic")]
            Session::Quic(ref $quic) => $call,
        }
    };
}

#[cfg_attr(not(feature = "quic"), allow(unused_variables, clippy::ptr_arg, reason = "not each kind needs all"))]
impl Session {
    pub(super) fn send(&self, fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
        either!(self, session => session.send(fd, first, second))
    }

    pub(super) fn recv(&self, fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
        either!(self, session => session.recv(fd, into))
    }

    pub(super) fn recv_more(&self, fd: BorrowedFd<'_>, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        either!(self, session => session.recv_more(fd, into, most))
    }

    /// Whether something of what was sent still waits for the kernel.
    pub(super) fn flush(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        either!(self, session => session.flush(fd))
    }

    /// The same, as far as it is known.
    pub(super) fn is_waiting(&self) -> bool {
        either!(self, session => session.is_waiting())
    }

    /// What the peer's certificate was made for: an actor of this id.
    pub(crate) fn is_with(&self, actor: Uuid) -> bool {
        either!(self, session => session.is_with(actor))
    }

    /// Whether the peer's certificate was made for the tree of this identity: another may be believed too.
    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        either!(self, session => session.is_of(identity))
    }

    /// The identity that the peer's certificate was signed by, if it was.
    #[cfg(feature = "tls")]
    pub(crate) fn peer_identity(&self) -> Option<String> {
        either!(self, session => session.peer_identity())
    }

    /// Whether the last read of the socket has emptied it, and nothing of that is left here.
    pub(super) fn is_drained(&self) -> bool {
        match *self {
            #[cfg(feature = "tls")]
            Session::Tls(ref tls) => tls.is_drained(),
            #[cfg(feature = "quic")]
            Session::Quic(_) => false, // only a read that finds nothing shows it
        }
    }

    /// Whether a read may give something though the socket has nothing.
    pub(super) fn has_plaintext(&self) -> bool {
        either!(self, session => session.has_plaintext())
    }

    // ---- what a kernel does for TCP

    /// Whether no kernel keeps it up: it is due at times, ends by its own word, and each dialog has a stream of its own.
    pub(super) fn is_timed(&self) -> bool {
        of_quic!(self, _quic => true, false)
    }

    /// When [`Session::on_time`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        of_quic!(self, quic => quic.deadline(), None)
    }

    /// Sends again what was lost, acknowledges what has come: whatever is due by now.
    pub(super) fn on_time(&self, fd: BorrowedFd<'_>) {
        of_quic!(self, quic => quic.on_time(fd), ());
    }

    /// Whether what has come since a write found no room has made some. It is said once.
    pub(super) fn has_room_again(&self) -> bool {
        of_quic!(self, quic => quic.has_room_again(), false)
    }

    /// Sees to what has come and to what is due, and asks for a sign of life if it `is_to_ping`. A number that changes when the
    /// other side is heard; `None`: the kernel sees to it.
    pub(super) fn tend(&self, fd: BorrowedFd<'_>, is_to_ping: bool) -> Option<u64> {
        of_quic!(self, quic => Some(quic.tend(fd, is_to_ping)), None)
    }

    /// The process at the other end is gone: what it has sent is read, and the end comes behind it.
    pub(super) fn peer_has_ended(&self, fd: BorrowedFd<'_>) {
        of_quic!(self, quic => quic.peer_has_ended(fd), ());
    }

    /// What is said on it from here on is no frames of ours.
    pub(super) fn be_raw(&self) {
        of_quic!(self, quic => quic.be_raw(), ());
    }

    /// Whether the other side has all last frames of dialogs.
    pub(super) fn is_delivered(&self) -> bool {
        of_quic!(self, quic => quic.is_delivered(), true)
    }

    /// Nothing more is said: [`Session::conclude`] is to follow.
    pub(super) fn begin_to_conclude(&self, fd: BorrowedFd<'_>) {
        of_quic!(self, quic => quic.begin_to_conclude(fd), ());
    }

    /// Closes it once the other side has all that was sent, or it is `until`. When to look again, if something comes not earlier.
    pub(super) fn conclude(&self, fd: BorrowedFd<'_>, until: Instant) -> Option<Instant> {
        of_quic!(self, quic => quic.conclude(fd, until), None)
    }

    /// Ends it both ways, before its socket is.
    pub(super) fn close(&self, fd: BorrowedFd<'_>) {
        of_quic!(self, quic => quic.close(fd), ());
    }
}
