//! A pipeline over four actors: a source, two filters and a sink, which is slower than the others. They wait
//! for it, so that their memory does not grow with what flows through them.
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use teamster::{Context, Portal, context, rpc};

/// Makes blocks of bytes, and hands them on: how many bytes came out at the end.
#[rpc]
async fn source(blocks: u8, next: Portal, to: VecDeque<Portal>) -> teamster::Result<u64> {
    let through = next.open_context(stage(to), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        for block in 0..blocks {
            stream.send(Bytes::from(vec![block; BLOCK_BYTES])).await?; // waits for those behind it
        }
        stream.finish().await?;
        Ok(ctx.result().await?)
    });
    Ok(through.await?)
}

/// A filter keeps three quarters of each block and hands them on; the last one counts.
#[context]
async fn stage(ctx: Context<(), Bytes, ()>, mut to: VecDeque<Portal>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut blocks = ctx.open_stream().await?;
    let Some(next) = to.pop_front() else {
        let mut bytes = 0;
        while let Some(block) = blocks.recv().await? {
            bytes += block.len() as u64;
            tokio::time::sleep(Duration::from_millis(2)).await; // the slow one
        }
        return Ok(bytes);
    };
    let through = next.open_context(stage(to), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        while let Some(block) = blocks.recv().await? {
            stream.send(block.slice(..block.len() / 4 * 3)).await?;
        }
        stream.finish().await?;
        Ok(ctx.result().await?)
    });
    Ok(through.await?)
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    teamster::open_nursery(async |an| {
        let actors = an.start_actors(["source", "first filter", "second filter", "sink"]).await?;
        for blocks in [20, 250] {
            let (next, to) = (actors[1].clone(), actors[2..].iter().cloned().collect());
            let bytes = actors[0].run(source(blocks, next, to)).await?;
            println!("{blocks} MiB went in, {} KiB came out", bytes / 1024);
            for actor in &actors {
                println!("{}: {} KiB at most", actor.aid().name(), peak_kib(actor.aid().pid())?);
            }
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// The most memory that a process has had so far.
fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    Ok(peak.ok_or_else(|| anyhow::anyhow!("a process without memory"))?.parse()?)
}

const BLOCK_BYTES: usize = 1 << 20;
