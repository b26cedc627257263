//! How does a descriptor get into the other process? By `SCM_RIGHTS`, over a socket that serves nothing else.
//!
//! Neither side ever waits at it: a descriptor leaves before the word on the line that needs it, so it is there when
//! that word is.
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};

/// One end. What is sent arrives in order, or the socket is gone.
#[derive(Debug)]
pub(super) struct Side {
    socket: OwnedFd,
}

/// What is said of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// The place that it has among those that are kept, or none.
    pub(super) slot: u64,
    /// Which of all segments of its writer it is.
    pub(super) number: u64,
    /// The call that it was made for.
    pub(super) call: u64,
}

impl Label {
    const BYTES: usize = 24;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([self.slot, self.number, self.call]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn of_bytes(bytes: [u8; Self::BYTES]) -> Label {
        let mut words = bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        let mut word = || words.next().expect("three words");
        Label { slot: word(), number: word(), call: word() }
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Side {
    /// Both ends, in this process.
    #[cfg(test)]
    pub(super) fn pair() -> (Side, Side) {
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None);
        let (one, other) = pair.expect("two sockets");
        (Side { socket: one }, Side { socket: other })
    }

    /// Connects to where `pid` listens, a process of this user.
    pub(super) fn dial(path: &Path, pid: u32) -> io::Result<Side> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        if !is_process(&socket, pid)? {
            return Err(io::Error::other(format!("another process than {pid} listens at {}", path.display())));
        }
        Ok(Side { socket })
    }

    /// Sends a copy of `file`.
    ///
    /// # Errors
    ///
    /// The peer is gone, or has left so many behind that no more are taken.
    pub(super) fn send(&self, label: Label, file: BorrowedFd<'_>) -> io::Result<()> {
        let (bytes, files) = (label.to_bytes(), [file]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
        Ok(())
    }

    /// The next that is there. `None`: none is.
    ///
    /// # Errors
    ///
    /// The peer is gone, or has said what it never says, or there is no memory. Where there was no room for one more descriptor, its
    /// label comes without it: the kernel has closed it, and the peer does not know.
    pub(super) fn receive(&self) -> io::Result<Option<(Label, io::Result<OwnedFd>)>> {
        let mut bytes = [0; Label::BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        let read = match received {
            Ok(received) => received.bytes,
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // All that came are ours to close, those that nobody expected too.
        let mut files: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        match files.pop() {
            Some(file) if read == Label::BYTES && files.is_empty() => Ok(Some((Label::of_bytes(bytes), Ok(file)))),
            None if read == Label::BYTES => Ok(Some((Label::of_bytes(bytes), Err(no_descriptor())))),
            _ if read == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Err(io::Error::other("it is no label of shared memory")),
        }
    }
}

fn no_descriptor() -> io::Error {
    io::Error::other("there was no room for its descriptor: raise the limit of open files (`ulimit -n`)")
}

/// Where one process is expected to connect to. The socket's path is gone when this is.
pub(super) struct Door {
    listener: OwnedFd,
    path: PathBuf,
}

impl Door {
    pub(super) fn open(path: PathBuf) -> io::Result<Door> {
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        bind(&listener, &SocketAddrUnix::new(&path)?)?;
        let door = Door { listener, path };
        listen(&door.listener, BACKLOG)?;
        Ok(door)
    }

    /// The connection of `pid`, which has connected already. Whoever else has is not listened to.
    pub(super) fn accept(self, pid: u32) -> io::Result<Side> {
        loop {
            let socket = accept_with(&self.listener, FLAGS)?;
            if is_process(&socket, pid)? {
                return Ok(Side { socket });
            }
        }
    }
}

/// One is expected, and a sweep of the folder may look who is there.
const BACKLOG: i32 = 4;

impl Drop for Door {
    fn drop(&mut self) {
        // A sweep of the folder may have been faster.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the kernel says that the peer is this process, of this user.
fn is_process(socket: &OwnedFd, pid: u32) -> io::Result<bool> {
    let peer = crate::transport::uds::peer(socket.as_fd())?;
    let is_ours = peer.uid == rustix::process::geteuid();
    Ok(is_ours && u32::try_from(peer.pid.as_raw_nonzero().get()) == Ok(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(number: u64) -> Label {
        Label { slot: 1, number, call: u64::MAX }
    }

    fn file() -> OwnedFd {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("a file")
    }

    #[test]
    fn descriptors_arrive_with_their_labels_and_in_order() {
        let (one, other) = Side::pair();
        assert!(other.receive().expect("nothing is wrong").is_none());
        let sent = [file(), file()];
        rustix::io::write(&sent[0], b"first").expect("it is written");
        for (number, file) in sent.iter().enumerate() {
            one.send(label(number as u64), file.as_fd()).expect("there is room");
        }
        let (first, file) = other.receive().expect("nothing is wrong").expect("one is there");
        let mut read = [0; 5];
        let file = file.expect("it has come");
        rustix::io::pread(&file, &mut read, 0).expect("it is read");
        assert_eq!((first, &read), (label(0), b"first"));
        assert!(rustix::io::fcntl_getfd(&file).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(other.receive().expect("nothing is wrong").expect("another is there").0, label(1));
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (one, other) = Side::pair();
        drop(other);
        one.send(label(0), file().as_fd()).expect_err("nobody takes it");
        assert_eq!(one.receive().expect_err("nobody sends").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_peer_that_never_reads_is_not_waited_for() {
        let (one, _other) = Side::pair();
        let file = file();
        let sent = (0..100_000).take_while(|&number| one.send(label(number), file.as_fd()).is_ok()).count();
        assert!((1..100_000).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_no_label_or_brings_nothing_is_an_error() {
        let (one, other) = Side::pair();
        let mut none = SendAncillaryBuffer::default();
        let mut send = |bytes: &[u8]| {
            sendmsg(&one.socket, &[IoSlice::new(bytes)], &mut none, SendFlags::empty()).expect("it is sent");
        };
        send(&label(3).to_bytes());
        let (told, file) = other.receive().expect("nothing is wrong").expect("one is there");
        assert_eq!(told, label(3));
        file.expect_err("nothing came with it");
        send(b"short");
        other.receive().expect_err("it is no label");
    }

    #[test]
    fn only_the_process_that_is_expected_is_let_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("door.s");
        let (us, other) = (std::process::id(), 1);
        let door = Door::open(path.clone()).expect("it opens");
        let side = Side::dial(&path, us).expect("we listen");
        Side::dial(&path, other).expect_err("that one does not listen here");
        let accepted = door.accept(us).expect("we have connected");
        assert!(!path.exists());
        side.send(label(7), file().as_fd()).expect("there is room");
        assert_eq!(accepted.receive().expect("nothing is wrong").expect("one is there").0, label(7));
        let door = Door::open(path.clone()).expect("it opens");
        let _side = Side::dial(&path, us).expect("we listen");
        assert_eq!(door.accept(other).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
