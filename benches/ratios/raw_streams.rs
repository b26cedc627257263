//! The raw side of streams: bare tokio, or `tokio_util`'s frames where that is what is compared.
use std::time::Instant;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Result;
use crate::raw_calls::{serve, start};
use crate::raw_processes::{Nest, RawChild};
use crate::streams::{BULK_BYTES, Small};

const BUFFER_BYTES: usize = 64 * 1024;
/// A length, and four numbers as they lie.
const FRAME_BYTES: usize = 4 + 32;
/// The length of a frame that ends the stream.
const END: u32 = 0;

/// A child at the other end of a raw line.
pub(crate) struct Raw {
    line: UnixStream,
    _child: RawChild,
}

/// What a raw child of this file does. `None`: the role is not of this file.
pub(crate) fn child(role: &str) -> Option<Result<()>> {
    Some(match role {
        "small" => serve(async |line| small_sink(line).await),
        "framed" => serve(async |line| framed_sink(line).await),
        "bulk" => serve(async |line| bulk_sink(line).await),
        "both" => serve(async |line| both_sides(line).await),
        _ => return None,
    })
}

impl Raw {
    pub(crate) fn start(nest: &Nest, role: &str, cpu: Option<usize>) -> Result<Self> {
        let (line, child) = start(nest, role, cpu)?;
        Ok(Raw { line, _child: child })
    }

    /// Frames into one buffer, one write when it is full.
    pub(crate) async fn small_items_per_second(&mut self, count: u64) -> Result<f64> {
        let begin = Instant::now();
        let (mut sum, mut buffer) = (0u64, Vec::with_capacity(BUFFER_BYTES));
        for n in 0..count {
            let item = Small::nth(n);
            sum = sum.wrapping_add(item.sum());
            if buffer.len() + FRAME_BYTES > BUFFER_BYTES {
                self.line.write_all(&buffer).await?;
                buffer.clear();
            }
            buffer.extend_from_slice(&32u32.to_le_bytes());
            for number in [item.a, item.b, item.c, item.d] {
                buffer.extend_from_slice(&number.to_le_bytes());
            }
        }
        buffer.extend_from_slice(&END.to_le_bytes());
        self.line.write_all(&buffer).await?;
        assert_eq!(self.line.read_u64_le().await?, sum);
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// The same by `tokio_util`'s length-delimited frames and rmp-serde, a message a send.
    pub(crate) async fn framed_items_per_second(&mut self, count: u64) -> Result<f64> {
        let begin = Instant::now();
        let mut framed = Framed::new(&mut self.line, LengthDelimitedCodec::new());
        let mut sum = 0u64;
        for n in 0..count {
            let item = Small::nth(n);
            sum = sum.wrapping_add(item.sum());
            // `feed`: `send` would flush each one, and be slower by the price of a write.
            framed.feed(Bytes::from(rmp_serde::to_vec(&item)?)).await?;
        }
        framed.feed(Bytes::new()).await?;
        SinkExt::<Bytes>::flush(&mut framed).await?;
        assert_eq!(self.line.read_u64_le().await?, sum);
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// MiB/s one way.
    pub(crate) async fn bulk(&mut self, messages: u32) -> Result<f64> {
        let message = vec![7; BULK_BYTES];
        let begin = Instant::now();
        self.line.write_u32_le(messages).await?;
        for _ in 0..messages {
            self.line.write_all(&message).await?;
        }
        assert_eq!(self.line.read_u64_le().await?, u64::from(messages) * BULK_BYTES as u64);
        Ok(f64::from(messages) / begin.elapsed().as_secs_f64())
    }

    /// MiB/s, both ways together.
    pub(crate) async fn bulk_both_ways(&mut self, messages: u32) -> Result<f64> {
        let begin = Instant::now();
        self.line.write_u32_le(messages).await?;
        exchange(&mut self.line, messages).await?;
        Ok(f64::from(2 * messages) / begin.elapsed().as_secs_f64())
    }
}

/// Parses in place; answers the sum at the end of each stream.
async fn small_sink(mut line: UnixStream) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut end, mut sum) = (0, 0u64);
    loop {
        end += match line.read(&mut buffer[end..]).await? {
            0 => return Ok(()),
            length => length,
        };
        let mut rest = &buffer[..end];
        while let Some((length, body)) = rest.split_first_chunk::<4>() {
            if u32::from_le_bytes(*length) == END {
                line.write_u64_le(std::mem::take(&mut sum)).await?;
                rest = body;
                continue;
            }
            let Some((item, behind)) = body.split_at_checked(32) else { break };
            let number = |at: usize| u64::from_le_bytes(item[8 * at..8 * at + 8].try_into().expect("eight bytes"));
            sum = sum.wrapping_add(Small { a: number(0), b: number(1), c: number(2), d: number(3) }.sum());
            rest = behind;
        }
        let kept = rest.len();
        buffer.copy_within(end - kept..end, 0);
        end = kept;
    }
}

async fn framed_sink(mut line: UnixStream) -> Result<()> {
    loop {
        let mut framed = Framed::new(&mut line, LengthDelimitedCodec::new());
        let mut sum = 0u64;
        loop {
            match framed.next().await.transpose()? {
                None => return Ok(()),
                Some(frame) if frame.is_empty() => break,
                Some(frame) => sum = sum.wrapping_add(rmp_serde::from_slice::<Small>(&frame)?.sum()),
            }
        }
        line.write_u64_le(sum).await?;
    }
}

async fn bulk_sink(mut line: UnixStream) -> Result<()> {
    let mut message = vec![0; BULK_BYTES];
    while let Ok(messages) = line.read_u32_le().await {
        for _ in 0..messages {
            line.read_exact(&mut message).await?;
        }
        line.write_u64_le(u64::from(messages) * BULK_BYTES as u64).await?;
    }
    Ok(())
}

async fn both_sides(mut line: UnixStream) -> Result<()> {
    while let Ok(messages) = line.read_u32_le().await {
        exchange(&mut line, messages).await?;
    }
    Ok(())
}

async fn exchange(line: &mut UnixStream, messages: u32) -> Result<()> {
    let (mut reads, mut writes) = line.split();
    let sending = async {
        let message = vec![7; BULK_BYTES];
        for _ in 0..messages {
            writes.write_all(&message).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    let receiving = async {
        let mut message = vec![0; BULK_BYTES];
        for _ in 0..messages {
            reads.read_exact(&mut message).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    let (sent, received) = futures::future::join(sending, receiving).await;
    sent?;
    Ok(received?)
}
