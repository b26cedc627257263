//! Our pool: what a user would write.
use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Instant;

use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use teamster::{Blob, WorkerConfig, WorkerPool, open_worker_context, work};

use crate::Result;
use crate::side::{LARGE_BYTES, WORKERS, answer, large_value, next_ask};

pub(crate) const NAME: &str = "teamster";

#[work]
fn empty(n: u32) -> u32 {
    n
}

#[work]
fn echo(value: Blob) -> Blob {
    value
}

pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let value: LazyCell<Blob> = LazyCell::new(|| Blob::from(large_value()));
        open_worker_context(WorkerConfig::new().limit(WORKERS), async |pool| {
            println!("{}", env!("CARGO_PKG_VERSION"));
            while let Some((what, count)) = next_ask()? {
                answer(&measure(pool, &value, &what, count).await?)?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    })
}

async fn measure(pool: &WorkerPool, value: &LazyCell<Blob>, what: &str, count: usize) -> Result<Vec<f64>> {
    let jobs = u32::try_from(count)?;
    Ok(match what {
        "start" => {
            let mut times = Vec::new();
            for _ in 0..count {
                let begin = Instant::now();
                let time = open_worker_context(WorkerConfig::new().limit(1), async |pool| {
                    pool.run(empty(0)).await?;
                    Ok(begin.elapsed())
                });
                times.push(time.await?.as_secs_f64());
            }
            times
        }
        "round_trip" => {
            let mut times = Vec::with_capacity(count);
            for n in 0..jobs {
                let begin = Instant::now();
                black_box(pool.run(empty(n)).await?);
                times.push(begin.elapsed().as_secs_f64());
            }
            times
        }
        "submit" => {
            let begin = Instant::now();
            let runs: FuturesUnordered<_> = (0..jobs).map(|n| pool.run(empty(n))).collect();
            let done = runs.try_fold(0, async |done, n| Ok(done + black_box(n).min(1))).await?;
            assert_eq!(done, jobs - 1); // one of them is 0
            vec![f64::from(jobs) / begin.elapsed().as_secs_f64()]
        }
        "map_single" => vec![], // what it puts together it decides itself
        "map" => {
            let begin = Instant::now();
            let results = pool.map((0..jobs).map(empty));
            let done = results.try_fold(0, async |done, n| Ok(done + black_box(n).min(1))).await?;
            assert_eq!(done, jobs - 1); // as above
            vec![f64::from(jobs) / begin.elapsed().as_secs_f64()]
        }
        "echo" => {
            let (mut times, value) = (Vec::new(), &**value);
            for _ in 0..count {
                let begin = Instant::now();
                let back = pool.run(echo(value.clone())).await?;
                times.push(begin.elapsed().as_secs_f64());
                assert_eq!(back.len(), LARGE_BYTES);
            }
            times
        }
        other => return Err(format!("no measure is called {other}").into()),
    })
}
