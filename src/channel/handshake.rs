//! Who is there? The first frames of a line, on both sides.
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::BytesMut;

use super::driver::framed;
use crate::msg::frame::{self, Frame, Hello, MAX_HELLO_BYTES, Welcome};
use crate::transport::uds::Socket;

/// How long a peer may take for its first frame.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Why a line came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it closed before it had said who it is")]
    Ended,
    #[error("it did not say who it is within {HANDSHAKE_WITHIN:?}")]
    Slow,
    #[error("it does not speak teamster: {0}")]
    Garbage(String),
    #[error("it refused us: {0}")]
    Refused(String),
}

/// The first frame of the other side, and the bytes that came after it.
async fn first_frame<T>(
    socket: &Socket,
    mut take: impl FnMut(Frame<'_>) -> Result<T, HandshakeError>,
) -> Result<(T, BytesMut), HandshakeError> {
    let mut bytes = vec![0; 4096];
    let mut end = 0;
    let read = async {
        loop {
            if end == bytes.len() {
                if end > MAX_HELLO_BYTES as usize {
                    return Err(HandshakeError::Garbage("its first frame does not end".into()));
                }
                bytes.resize(end * 2, 0);
            }
            match poll_fn(|cx| socket.poll_recv(cx, &mut bytes[end..])).await? {
                0 => return Err(HandshakeError::Ended),
                n => end += n,
            }
            match frame::decode(&bytes[..end], MAX_HELLO_BYTES) {
                Ok(Some((frame, _, taken))) => return Ok((take(frame)?, BytesMut::from(&bytes[taken..end]))),
                Ok(None) => {}
                Err(error) => return Err(HandshakeError::Garbage(error.to_string())),
            }
        }
    };
    tokio::time::timeout(HANDSHAKE_WITHIN, read).await.map_err(|_elapsed| HandshakeError::Slow)?
}

/// The accepting side: waits for the Hello.
pub(crate) async fn hello(socket: &Socket) -> Result<(Hello, BytesMut), HandshakeError> {
    let (hello, rest) = first_frame(socket, |frame| match frame {
        Frame::Hello(hello) => Ok(hello),
        other => Err(HandshakeError::Garbage(format!("its first frame is {other:?}"))),
    })
    .await?;
    frame::check_hello(&hello).map_err(HandshakeError::Garbage)?;
    Ok((hello, rest))
}

/// The connecting side: waits for the Welcome.
pub(crate) async fn welcome(socket: &Socket) -> Result<(Welcome, BytesMut), HandshakeError> {
    first_frame(socket, |frame| match frame {
        Frame::Welcome(welcome) => Ok(welcome),
        Frame::Bye { reason } => Err(HandshakeError::Refused(reason.to_owned())),
        other => Err(HandshakeError::Garbage(format!("its answer is {other:?}"))),
    })
    .await
}

/// Says why not, as far as the kernel takes it, and closes.
pub(crate) fn refuse(socket: &Socket, reason: &str) {
    // The peer may be gone or hostile: it is owed one attempt.
    let _ = socket.try_send(&framed(&Frame::Bye { reason }, &[]), &[]);
    socket.shutdown();
}
