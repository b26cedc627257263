//! Who is there? The first frames of a line, on both sides.
use std::future::{Future, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use bytes::BytesMut;

use super::driver::framed;
use crate::msg::frame::{self, Frame, Hello, MAX_HELLO_BYTES, Welcome};
use crate::msg::spawn_reason::limit_hint;
use crate::transport::socket::{Socket, Watched};
use crate::transport::stream::Stream;

/// How long a peer may take for its first frame.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Why a line came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}{hint}", hint = Hint(.0))]
    Io(#[from] io::Error),
    #[error("it closed before it had said who it is")]
    Ended,
    #[error("it did not say who it is within {HANDSHAKE_WITHIN:?}")]
    Slow,
    #[error("it does not speak teamster: {0}")]
    Garbage(String),
    /// It speaks teamster, and has no business here.
    #[error("{0}")]
    Unwelcome(String),
    #[error("it refused us: {0}")]
    Refused(String),
}

/// The way out, where the system's answer is a limit: the other side shows it too.
struct Hint<'a>(&'a io::Error);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error().and_then(limit_hint) {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// The first bytes of the other side.
struct Opening {
    bytes: Vec<u8>,
    end: usize,
}

/// A first frame, and the bytes that came after it.
type First<T> = (T, BytesMut);

impl Opening {
    fn new() -> Self {
        Opening { bytes: vec![0; FIRST_BYTES], end: 0 }
    }

    fn room(&mut self) -> Result<&mut [u8], HandshakeError> {
        if self.end == self.bytes.len() {
            if self.end > MAX_HELLO_BYTES as usize {
                return Err(HandshakeError::Garbage("its first frame does not end".into()));
            }
            self.bytes.resize(self.end * 2, 0);
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// So many bytes more have come: `take` gets the first frame, if it is whole by now.
    fn came<T>(&mut self, count: usize, take: Take<T>) -> Result<Option<First<T>>, HandshakeError> {
        if count == 0 {
            return Err(HandshakeError::Ended);
        }
        self.end += count;
        match frame::decode(&self.bytes[..self.end], MAX_HELLO_BYTES) {
            Ok(Some((frame, _, taken))) => Ok(Some((take(frame)?, BytesMut::from(&self.bytes[taken..self.end])))),
            Ok(None) => Ok(None),
            Err(error) => Err(HandshakeError::Garbage(error.to_string())),
        }
    }

    /// Mostly the frame is there already: then nothing need be watched, and no timer set.
    fn at_once<T>(
        &mut self,
        recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        take: Take<T>,
    ) -> Result<Option<First<T>>, HandshakeError> {
        match recv(self.room()?) {
            Ok(count) => self.came(count, take),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn wait<T>(
        mut self,
        mut poll_recv: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
        take: Take<T>,
        late: impl Future<Output = ()>,
    ) -> Result<First<T>, HandshakeError> {
        let read = async {
            loop {
                let room = self.room()?;
                let count = poll_fn(|cx| poll_recv(cx, room)).await?;
                if let Some(first) = self.came(count, take)? {
                    return Ok(first);
                }
            }
        };
        tokio::select! {
            biased; // what has come is not late
            first = read => first,
            () = late => Err(HandshakeError::Slow),
        }
    }
}

type Take<T> = fn(Frame<'_>) -> Result<T, HandshakeError>;

/// Room for a Hello of the usual size and for a first call, in bytes; it grows.
const FIRST_BYTES: usize = 1024;

/// The accepting side: waits for the Hello, until `late`.
pub(crate) async fn hello(
    stream: &Stream,
    late: impl Future<Output = ()>,
) -> Result<(Hello, BytesMut), HandshakeError> {
    let take: Take<Hello> = |frame| match frame {
        Frame::Hello(hello) => Ok(hello),
        other => Err(HandshakeError::Garbage(format!("its first frame is {other:?}"))),
    };
    let mut opening = Opening::new();
    let (hello, rest) = match opening.at_once(|room| stream.recv(room), take)? {
        Some(first) => first,
        None => {
            let mut watched = Watched::new(stream)?;
            opening.wait(|cx, room| watched.poll_recv(cx, room), take, late).await?
        }
    };
    frame::check_hello(&hello).map_err(HandshakeError::Garbage)?;
    Ok((hello, rest))
}

/// The connecting side: waits for the Welcome, until `late`.
pub(crate) async fn welcome(
    socket: &Socket,
    late: impl Future<Output = ()>,
) -> Result<(Welcome, BytesMut), HandshakeError> {
    let take: Take<Welcome> = |frame| match frame {
        Frame::Welcome(welcome) => Ok(welcome),
        Frame::Bye { reason } => Err(HandshakeError::Refused(reason.to_owned())),
        other => Err(HandshakeError::Garbage(format!("its answer is {other:?}"))),
    };
    let mut opening = Opening::new();
    match opening.at_once(|room| socket.try_recv(room), take)? {
        Some(first) => Ok(first),
        None => opening.wait(|cx, room| socket.poll_recv(cx, room), take, late).await,
    }
}

/// Says why not, as far as the kernel takes it, and closes.
pub(crate) fn refuse(stream: &Stream, reason: &str) {
    // The peer may be gone or hostile: it is owed one attempt.
    let _ = stream.send(&framed(&Frame::Bye { reason }, &[]));
    stream.shutdown();
}
