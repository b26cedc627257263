//! Our side of contexts and streams: what a user would write.
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{Stream, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use teamster::{Context, MsgStream, context, rpc};

use crate::Result;
use crate::measure::micros;
use crate::ours::{Callee, add};

/// An item of 32 bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Small {
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) d: u64,
}

impl Small {
    /// All four numbers take nine bytes in msgpack, and differ from item to item.
    pub(crate) fn nth(n: u64) -> Small {
        let a = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | (1 << 63);
        Small { a, b: !a | (1 << 63), c: a.rotate_left(17) | (1 << 63), d: a.rotate_left(31) | (1 << 63) }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.a ^ self.b.rotate_left(1) ^ self.c.rotate_left(2) ^ self.d.rotate_left(3)
    }
}

/// Bytes of a bulk message.
pub(crate) const BULK_BYTES: usize = 1 << 20;
/// Bytes of a message that takes a while.
const HUGE_BYTES: usize = 1 << 30;

#[context]
async fn at_once(ctx: Context<i64>, a: i64) -> Result<i64> {
    ctx.started(a).await?;
    Ok(a + 1)
}

#[context]
async fn echo(ctx: Context<(), u64, u64>) -> Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(number) = stream.recv().await? {
        stream.send(number).await?;
    }
    Ok(())
}

/// Sums up what comes until the end.
#[context]
async fn sink(ctx: Context<(), Small, u64>) -> Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut sum = 0u64;
    while let Some(item) = stream.recv().await? {
        sum = sum.wrapping_add(item.sum());
    }
    stream.send(sum).await?;
    Ok(())
}

/// Counts bytes until the end.
#[context]
async fn bulk_sink(ctx: Context<(), Bytes, u64>) -> Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut bytes = 0;
    while let Some(item) = stream.recv().await? {
        bytes += item.len() as u64;
    }
    stream.send(bytes).await?;
    Ok(())
}

/// Sends as much as it is told to, and counts what comes.
#[context]
async fn bulk_both(ctx: Context<(), Bytes, Bytes>, messages: u32) -> Result<u64> {
    ctx.started(()).await?;
    both_ways(ctx.open_stream().await?, messages).await
}

async fn both_ways(stream: MsgStream<Bytes, Bytes>, messages: u32) -> Result<u64> {
    let (mut sends, mut receives) = stream.split();
    let sending = async {
        let message = Bytes::from(vec![7; BULK_BYTES]);
        for _ in 0..messages {
            sends.send(message.clone()).await?;
        }
        sends.finish().await
    };
    let receiving = async {
        let mut bytes = 0;
        while let Some(item) = receives.recv().await? {
            bytes += item.len() as u64;
        }
        Ok::<_, teamster::Error>(bytes)
    };
    let (sent, received) = futures::future::join(sending, receiving).await;
    sent?;
    Ok(received?)
}

/// Sends huge messages for ever.
#[context]
async fn huge(ctx: Context<(), (), Bytes>) -> Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let message = Bytes::from(vec![0; HUGE_BYTES]);
    loop {
        stream.send(message.clone()).await?;
    }
}

/// Opens its stream and never reads.
#[context]
async fn never_reads(ctx: Context<(), Small, ()>) -> Result<()> {
    ctx.started(()).await?;
    let _stream = ctx.open_stream().await?;
    std::future::pending().await
}

/// Numbers, as one streamer gives them.
#[rpc]
async fn numbers(from: u64, until: u64, step: usize) -> impl Stream<Item = u64> {
    stream::iter((from..until).step_by(step))
}

/// The same numbers from two streamers of its own, merged.
#[context]
async fn merged(ctx: Context<(), (), u64>, until: u64) -> Result<()> {
    ctx.started(()).await?;
    let mut sends = ctx.open_stream().await?;
    Ok(teamster::open_nursery(async |an| {
        let streamers = try_join_all(["even", "odd"].map(|name| an.start_actor(name))).await?;
        let even = streamers[0].stream(numbers(0, until, 2)).await?;
        let odd = streamers[1].stream(numbers(1, until, 2)).await?;
        let mut both = stream::select(even, odd);
        while let Some(number) = both.try_next().await? {
            sends.send(number).await?;
        }
        Ok(())
    })
    .await?)
}

/// From the first item to the end of `items`, each of `0..until` once, in any order.
async fn read_all(
    mut items: impl Stream<Item = std::result::Result<u64, teamster::Error>> + Unpin,
    until: u64,
) -> Result<f64> {
    let mut sum = items.try_next().await?.ok_or("no item has come")?;
    let (begin, mut count) = (Instant::now(), 1);
    while let Some(number) = items.try_next().await? {
        (sum, count) = (sum + number, count + 1);
    }
    assert_eq!((sum, count), (until * (until - 1) / 2, until));
    Ok(micros(begin.elapsed()))
}

#[context]
async fn waits(ctx: Context) -> Result<()> {
    ctx.started(()).await?;
    std::future::pending().await
}

impl Callee {
    /// Open, first word, result.
    pub(crate) async fn contexts(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            let sum = self.portal.open_context(at_once(1), async |ctx, first| Ok(first + ctx.result().await?)).await?;
            times.push(micros(begin.elapsed()));
            assert_eq!(sum, 3);
        }
        Ok(times)
    }

    pub(crate) async fn ping_pongs(&self, count: usize) -> Result<Vec<f64>> {
        Ok(self
            .portal
            .open_context(echo(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut times = Vec::with_capacity(count);
                for number in 0..count as u64 {
                    let number = number | (1 << 40); // as many bytes each
                    let begin = Instant::now();
                    stream.send(number).await?;
                    let answer = stream.recv().await?;
                    times.push(micros(begin.elapsed()));
                    assert_eq!(answer, Some(number));
                }
                Ok(times)
            })
            .await?)
    }

    pub(crate) async fn small_items_per_second(&self, count: u64) -> Result<f64> {
        Ok(self
            .portal
            .open_context(sink(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let begin = Instant::now();
                let mut sum = 0u64;
                for n in 0..count {
                    let item = Small::nth(n);
                    sum = sum.wrapping_add(item.sum());
                    stream.send(item).await?;
                }
                stream.finish().await?;
                assert_eq!(stream.recv().await?, Some(sum));
                Ok(count as f64 / begin.elapsed().as_secs_f64())
            })
            .await?)
    }

    /// How long `count` items take that one streamer gives.
    pub(crate) async fn numbers_time(&self, count: u64) -> Result<f64> {
        read_all(self.portal.stream(numbers(0, count, 1)).await?, count).await
    }

    /// How long they take where the callee merges them from two.
    pub(crate) async fn merged_time(&self, count: u64) -> Result<f64> {
        let body = async |ctx: &teamster::PortalContext<_>, ()| Ok(read_all(ctx.open_stream().await?, count).await?);
        Ok(self.portal.open_context(merged(count), body).await?)
    }

    /// MiB/s one way.
    pub(crate) async fn bulk(&self, messages: u32) -> Result<f64> {
        Ok(self
            .portal
            .open_context(bulk_sink(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let message = Bytes::from(vec![7; BULK_BYTES]);
                let begin = Instant::now();
                for _ in 0..messages {
                    stream.send(message.clone()).await?;
                }
                stream.finish().await?;
                assert_eq!(stream.recv().await?, Some(u64::from(messages) * BULK_BYTES as u64));
                Ok(f64::from(messages) / begin.elapsed().as_secs_f64())
            })
            .await?)
    }

    /// MiB/s, both ways together.
    pub(crate) async fn bulk_both_ways(&self, messages: u32) -> Result<f64> {
        Ok(self
            .portal
            .open_context(bulk_both(messages), async |ctx, ()| {
                let stream = ctx.open_stream().await?;
                let begin = Instant::now();
                let received = both_ways(stream, messages).await?;
                assert_eq!(received, u64::from(messages) * BULK_BYTES as u64);
                assert_eq!(ctx.result().await?, received);
                Ok(f64::from(2 * messages) / begin.elapsed().as_secs_f64())
            })
            .await?)
    }

    /// Runs `body` while `transfers` huge messages come on the same line.
    pub(crate) async fn under_load<T>(&self, transfers: usize, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        let loads = try_join_all((0..transfers).map(|_| self.portal.context(huge()))).await?;
        let mut streams = Vec::new();
        for load in &loads {
            streams.push(load.open_stream().await?);
        }
        let reading = try_join_all(streams.iter_mut().map(async |stream| -> Result<()> {
            loop {
                stream.recv().await?.ok_or("the load has ended")?;
            }
        }));
        let value = tokio::select! {
            value = body() => value?,
            ended = reading => return Err(ended.err().unwrap_or_else(|| "the load has ended".into())),
        };
        drop(streams);
        for load in &loads {
            load.cancel().await?;
        }
        Ok(value)
    }

    /// From the cancel of a context until that was acknowledged.
    pub(crate) async fn cancels(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let ctx = self.portal.context(waits()).await?;
            ctx.cancel().await?;
            times.push(micros(ctx.heard().ok_or("it ended before it had heard")?));
        }
        Ok(times)
    }

    /// Bytes per process while a producer runs into a consumer that has stopped: how many windows they grew.
    pub(crate) async fn backpressure(&self, time: Duration) -> Result<f64> {
        let ours = std::process::id();
        let theirs = self.portal.run(crate::ours::process_id()).await?;
        // Both have served a stream before, so what is counted is what waits.
        self.small_items_per_second(100_000).await?;
        let before = (crate::machine::pss_kib(ours)?, crate::machine::pss_kib(theirs)?);
        let after = self
            .portal
            .open_context(never_reads(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut n = 0;
                let producing = async {
                    loop {
                        stream.send(Small::nth(n)).await?;
                        n += 1;
                    }
                };
                let stuck: std::result::Result<std::result::Result<(), teamster::Error>, _> =
                    tokio::time::timeout(time, producing).await;
                if let Ok(Err(error)) = stuck {
                    return Err(error.into());
                }
                let after = (crate::machine::pss_kib(ours)?, crate::machine::pss_kib(theirs)?);
                ctx.cancel().await?;
                Ok(after)
            })
            .await?;
        let grown = (after.0 - before.0).max(after.1 - before.1);
        Ok((grown / WINDOW_KIB).max(0.0))
    }

    pub(crate) async fn small_calls(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            assert_eq!(self.portal.run(add(1, 2)).await?, 3);
            times.push(micros(begin.elapsed()));
        }
        Ok(times)
    }
}

/// The window of one direction of a stream, in KiB.
const WINDOW_KIB: f64 = 1024.0;
