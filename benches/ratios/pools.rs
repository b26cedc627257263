//! What does a pool of workers add to an actor?
use std::time::Instant;

use futures::StreamExt;
use teamster::{Blob, WorkerConfig, WorkerPool, work};

use crate::measure::{Budget, Measured, alternate, micros};
use crate::raw_memory::{LARGE, Memory};
use crate::raw_processes::Nest;
use crate::{Result, machine, ours};

#[work]
fn nothing() {}

/// Calls before the other side has its turn.
const CHUNK: usize = 500;

/// An empty job against an empty call to an actor, both on one processor.
pub(crate) async fn round_trips(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |actors| {
        let callee = actors.callee(None).await?;
        in_pool(1, async |pool| {
            alternate(
                budget,
                async || {
                    let mut times = Vec::with_capacity(CHUNK);
                    for _ in 0..CHUNK {
                        let begin = Instant::now();
                        pool.run(nothing()).await?;
                        times.push(micros(begin.elapsed()));
                    }
                    Ok(times)
                },
                async || callee.round_trips(CHUNK).await,
            )
            .await
        })
        .await
    })
    .await
}

/// The first job of a pool against the first call of an actor.
pub(crate) async fn spawn(budget: Budget) -> Result<Measured> {
    ours::open(machine::BOTH, async |actors| {
        alternate(
            budget,
            async || {
                let time = in_pool(1, async |pool| {
                    let begin = Instant::now();
                    pool.run(nothing()).await?;
                    Ok(micros(begin.elapsed()))
                });
                Ok(vec![time.await?])
            },
            async || Ok(vec![actors.spawn_time().await?]),
        )
        .await
    })
    .await
}

/// Empty jobs a second, by `map` on two workers, against as many calls in flight to one actor.
pub(crate) async fn throughput(budget: Budget) -> Result<Measured> {
    const JOBS: usize = 200_000;
    ours::open(machine::BOTH, async |actors| {
        let callee = actors.callee(None).await?;
        in_pool(2, async |pool| {
            alternate(
                budget,
                async || {
                    let begin = Instant::now();
                    let done = pool.map((0..JOBS).map(|_| nothing())).filter(|ended| std::future::ready(ended.is_ok()));
                    assert_eq!(done.count().await, JOBS);
                    Ok(vec![JOBS as f64 / begin.elapsed().as_secs_f64()])
                },
                async || Ok(vec![callee.calls_per_second(BATCHES).await?]),
            )
            .await
        })
        .await
    })
    .await
}

/// 64 MiB there and back, against one copy each way into memory that both sides have mapped already.
pub(crate) async fn bulk(budget: Budget) -> Result<Measured> {
    #[work]
    fn same(bytes: Blob) -> Blob {
        bytes
    }
    ours::open(machine::BOTH, async |_actors| {
        let nest = Nest::new()?;
        let mut raw = Memory::start(&nest).await?;
        let bytes: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
        let blob = Blob::from(bytes.clone());
        in_pool(1, async |pool| {
            pool.run(same(blob.clone())).await?; // which opens the way
            alternate(
                budget,
                async || {
                    let begin = Instant::now();
                    let back = pool.run(same(blob.clone())).await?;
                    let time = micros(begin.elapsed());
                    assert_eq!(back[1], blob[1]);
                    Ok(vec![time])
                },
                async || Ok(vec![raw.round_trip(&bytes).await?]),
            )
            .await
        })
        .await
    })
    .await
}

/// As many as the calls of `rpc_tput`.
const BATCHES: u32 = 100;

async fn in_pool<T>(workers: usize, body: impl AsyncFnOnce(&WorkerPool) -> Result<T>) -> Result<T> {
    Ok(teamster::open_worker_context(WorkerConfig::new().limit(workers), async |pool| body(pool).await).await?)
}
