//! How does a conversation on a Unix socket get to another host? Its bytes go along on a line of their own.
use std::future::poll_fn;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::socket::Socket;

/// What is taken from one side for the other at a time, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// Carries bytes both ways until one side has ended. `rest` has been read from the line already.
///
/// # Cancel safety
///
/// Dropped, it ends both.
pub(crate) async fn carry(line: &Socket, rest: &[u8], unix: UnixStream) -> io::Result<()> {
    line.be_raw();
    let (mut from_unix, mut to_unix) = unix.into_split();
    to_unix.write_all(rest).await?;
    let inwards = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match poll_fn(|cx| line.poll_recv(cx, &mut chunk)).await? {
                0 => return Ok(()),
                count => to_unix.write_all(&chunk[..count]).await?,
            }
        }
    };
    let outwards = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from_unix.read(&mut chunk).await? {
                0 => return Ok(()),
                count => send_all(line, &chunk[..count]).await?,
            }
        }
    };
    tokio::select! {
        ended = inwards => ended,
        ended = outwards => ended,
    }
}

async fn send_all(line: &Socket, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = match line.try_send(rest, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|cx| line.poll_send(cx, rest, &[])).await?
            }
            sent => sent?,
        };
        rest = &rest[sent..];
    }
    poll_fn(|cx| line.poll_flush(cx)).await
}
