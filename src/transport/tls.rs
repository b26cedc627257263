//! One TLS 1.3 session over a socket that never waits.
//!
//! rustls does no I/O of its own, so the control thread can drive it as well as a runtime can.
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription as Alert, ClientConnection, Connection, ServerConnection};
use tokio::io::Interest;
use uuid::Uuid;

use super::identity::{self, identity_name};
use super::session::Session as Around;
use super::stream::{Stream, recv_plain};
use super::trust::actor_name;
pub(crate) use super::trust::{Authority, Identity};
use super::watched::watch_borrowed;

/// What was enciphered and the kernel has not taken, in bytes: a piece of a long payload and a few frames.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// One read of the socket, in bytes: two records of full size.
const READ_BYTES: usize = 36 * 1024;

/// The session of one connection. Its handshake is over.
pub(crate) struct Session {
    state: Mutex<State>,
}

struct State {
    tls: Connection,
    /// `input[start..end]` was received and not deciphered yet.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read has filled less than its room.
    is_socket_empty: bool,
    has_heard: bool,
}

/// What a handshake waits for.
pub(crate) enum Needs {
    Nothing,
    Read,
    Write,
}

impl Session {
    pub(super) fn send(&self, fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.flush(fd)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = state.tls.writer().write_vectored(&[IoSlice::new(first), IoSlice::new(second)])?;
        // It is ours now: an error is met by whoever sends or receives next.
        let _ = state.flush(fd);
        Ok(taken)
    }

    pub(super) fn recv(&self, fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
        self.read(fd, |tls| tls.reader().read(into))
    }

    pub(super) fn recv_more(&self, fd: BorrowedFd<'_>, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let before = into.len();
        loop {
            let left = most - (into.len() - before);
            let read = self.read(fd, |tls| {
                let mut reader = tls.reader();
                let chunk = reader.fill_buf()?;
                let taken = chunk.len().min(left);
                into.extend_from_slice(&chunk[..taken]);
                reader.consume(taken);
                Ok(taken)
            });
            match read {
                Ok(n) if n > 0 && n < left => {}
                Ok(_) => return Ok(into.len() - before),
                Err(_later) if into.len() > before => return Ok(into.len() - before),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether something of what was sent still waits.
    pub(super) fn flush(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        self.state.lock().flush(fd)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.state.lock().tls.wants_write()
    }

    /// Whether a read may give something though the socket has nothing.
    pub(super) fn has_plaintext(&self) -> bool {
        let mut state = self.state.lock();
        state.start < state.end || state.tls.reader().fill_buf().is_ok_and(|chunk| !chunk.is_empty())
    }

    /// Whether the last read of the socket has emptied it, and nothing of that is left here.
    pub(super) fn is_drained(&self) -> bool {
        let mut state = self.state.lock();
        state.is_socket_empty
            && state.start == state.end
            && state.tls.reader().fill_buf().map_or(true, <[u8]>::is_empty)
    }

    /// What the peer's certificate was made for: an actor of this id.
    pub(crate) fn is_with(&self, actor: Uuid) -> bool {
        self.has_shown(&actor_name(actor))
    }

    /// Whether the peer's certificate was made for the tree of this identity: another may be believed too.
    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        identity.tree.as_ref().is_none_or(|tree| self.has_shown(tree))
    }

    /// The identity that the peer's certificate was signed by, if it was.
    pub(crate) fn peer_identity(&self) -> Option<String> {
        let state = self.state.lock();
        state.tls.peer_certificates().and_then(<[_]>::first).and_then(|cert| identity::named_by(cert))
    }

    fn has_shown(&self, name: &ServerName<'_>) -> bool {
        let state = self.state.lock();
        state
            .tls
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|cert| webpki::EndEntityCert::try_from(cert).ok())
            .is_some_and(|cert| cert.verify_is_valid_for_subject_name(name).is_ok())
    }

    fn read(
        &self,
        fd: BorrowedFd<'_>,
        mut take: impl FnMut(&mut Connection) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        loop {
            match take(&mut state.tls) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Our frames say how a line ends: an end without TLS's own word is one like any other.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            state.pull(fd)?;
        }
    }
}

impl State {
    fn new(tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(MAX_WAITING_BYTES));
        State { tls, input: vec![0; READ_BYTES], start: 0, end: 0, is_socket_empty: false, has_heard: false }
    }

    fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Out(fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Deciphers some more of what is there.
    fn pull(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, recv_plain(fd, &mut self.input)?);
            self.is_socket_empty = self.end < self.input.len();
            self.has_heard |= self.end > 0;
        }
        let mut rest = &self.input[self.start..self.end];
        self.start += self.tls.read_tls(&mut rest)?; // nothing left: that is its end
        match self.tls.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => {
                // Its reason goes to the peer, as far as that reads.
                let _ = self.flush(fd);
                Err(io::Error::new(io::ErrorKind::InvalidData, told(&error)))
            }
        }
    }

    fn shake_hands(&mut self, fd: BorrowedFd<'_>) -> io::Result<Needs> {
        loop {
            if self.flush(fd)? {
                return Ok(Needs::Write);
            }
            if !self.tls.is_handshaking() {
                return Ok(Needs::Nothing);
            }
            match self.pull(fd) {
                Ok(()) if self.start == self.end && self.end == 0 => {
                    let (kind, when) = match self.has_heard {
                        true => (io::ErrorKind::InvalidData, "in the middle of"),
                        false => (io::ErrorKind::UnexpectedEof, "before"), // no event: see `listener`
                    };
                    return Err(io::Error::new(kind, format!("it closed {when} the TLS handshake")));
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Needs::Read),
                Err(error) => return Err(error),
            }
        }
    }
}

/// An error of TLS in the words of whoever has to mend it.
fn told(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    let what = match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "its certificate is of no authority that this tree believes: it belongs to another tree, or to none"
        }
        rustls::Error::InvalidCertificate(Certificate::Revoked) => {
            "its certificate, or the identity that has signed it, was revoked"
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => "its certificate was made for another actor",
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "its certificate, or the identity that has signed it, has expired: issue a new one, and look at both clocks"
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: look at both clocks"
        }
        rustls::Error::InvalidCertificate(Certificate::Other(other)) => match other.0.downcast_ref() {
            Some(webpki::Error::NameConstraintViolation) => {
                "the identity that has signed its certificate may not sign for such names"
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it has shown an identity, or an authority, instead of a certificate signed by one"
            }
            _ => "its certificate is refused",
        },
        rustls::Error::NoCertificatesPresented => "it has shown no certificate",
        rustls::Error::InvalidMessage(_) => "it does not speak TLS",
        rustls::Error::PeerIncompatible(_) => "it does not speak TLS 1.3",
        rustls::Error::AlertReceived(alert) => told_by_alert(*alert),
        _ => "TLS failed",
    };
    format!("{what} ({error})")
}

/// Why we do not go on, by the alert that we send: where that is all that is known.
#[cfg(feature = "quic")]
pub(super) fn told_of_alert(alert: Alert) -> &'static str {
    match alert {
        Alert::UnknownCA | Alert::DecryptError => {
            "its certificate is of no authority that this tree believes: it belongs to another tree, or to none"
        }
        Alert::CertificateRevoked => "its certificate, or the identity that has signed it, was revoked",
        Alert::CertificateExpired => {
            "its certificate, or the identity that has signed it, has expired, or is not valid yet: look at both clocks"
        }
        Alert::BadCertificate | Alert::CertificateUnknown => "its certificate is refused",
        Alert::CertificateRequired => "it has shown no certificate",
        Alert::NoApplicationProtocol => "it does not speak teamster",
        _ => "QUIC failed",
    }
}

/// Why the other side does not go on, by the alert that it sends.
pub(super) fn told_by_alert(alert: Alert) -> &'static str {
    match alert {
        Alert::CertificateRevoked => "it refused us: our identity was revoked",
        Alert::CertificateExpired => "it refused us: by its clock our identity has expired",
        Alert::UnknownCA => "it refused us: it does not believe our authority",
        _ => "it refused us",
    }
}

impl AsFd for Handshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// A socket as rustls writes to it.
struct Out<'f>(BorrowedFd<'f>);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if let [only] = slices {
            return Ok(rustix::net::send(self.0, only, flags)?); // the kernel has less to look at
        }
        Ok(sendmsg(self.0, slices, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A handshake that goes on.
pub(crate) struct Handshake {
    fd: OwnedFd,
    state: State,
}

impl Handshake {
    fn with_listener(fd: OwnedFd, identity: &Identity, peer: Uuid) -> io::Result<Self> {
        let tls = ClientConnection::new(Arc::clone(&identity.client), actor_name(peer)).map_err(io::Error::other)?;
        Ok(Handshake { fd, state: State::new(tls) })
    }

    /// The side that has called: the other one has to show that it is of this identity.
    pub(crate) fn with_identity(fd: OwnedFd, own: &Identity, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(identity_name(name)).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(&own.client), name).map_err(io::Error::other)?;
        Ok(Handshake { fd, state: State::new(tls) })
    }

    pub(crate) fn with_caller(fd: OwnedFd, identity: &Identity) -> io::Result<Self> {
        let tls = ServerConnection::new(Arc::clone(&identity.server)).map_err(io::Error::other)?;
        Ok(Handshake { fd, state: State::new(tls) })
    }

    /// Goes on as far as it does without waiting.
    pub(crate) fn step(&mut self) -> io::Result<Needs> {
        self.state.shake_hands(self.fd.as_fd())
    }

    pub(crate) fn done(self) -> Stream {
        Stream::around(self.fd, Around::Tls(Box::new(Session { state: Mutex::new(self.state) })))
    }

    async fn wait(mut self) -> io::Result<Stream> {
        loop {
            // Watched anew each time: a handshake has few steps, and the descriptor is the stream's afterwards.
            let interest = match self.step()? {
                Needs::Nothing => return Ok(self.done()),
                Needs::Read => Interest::READABLE,
                Needs::Write => Interest::WRITABLE,
            };
            let _ready = watch_borrowed(self.fd.as_fd(), interest)?.ready(interest).await?;
        }
    }
}

/// The side that has called: the other one is to be the actor `peer`.
pub(crate) async fn call(fd: OwnedFd, identity: &Identity, peer: Uuid) -> io::Result<Stream> {
    Handshake::with_listener(fd, identity, peer)?.wait().await
}

/// The side that was called. Who has called is known when he has said so: [`Session::is_with`].
pub(crate) async fn answer(fd: OwnedFd, identity: &Identity) -> io::Result<Stream> {
    Handshake::with_caller(fd, identity)?.wait().await
}
