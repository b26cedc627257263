//! `primes` on worker processes of the library: counts primes in one process, then in a worker a core.
//! `cargo run --release --example primes_pool [-- LIMIT]`
use std::num::NonZero;
use std::time::Instant;

use futures::TryStreamExt;
use teamster::{WorkerConfig, work};

#[work]
fn count_primes(from: u64, to: u64) -> u64 {
    (from..to).filter(|&n| is_prime(n)).count() as u64
}

fn is_prime(n: u64) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= n);
    n > 1 && divisors.all(|d| !n.is_multiple_of(d))
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    let limit = std::env::args().nth(1).map_or(Ok(1_000_000), |limit| limit.parse())?;
    let begin = Instant::now();
    let alone = count_primes(0, limit).await?; // the same call, run here
    let alone_time = begin.elapsed();
    println!("one process: {alone} primes below {limit} in {alone_time:.2?}");

    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let begin = Instant::now();
    let together = teamster::open_worker_context(WorkerConfig::new().limit(workers), async |pool| {
        // Whoever is done takes the next piece: the later ones take longer.
        let pieces = (0..limit).step_by(PIECE).map(|from| count_primes(from, limit.min(from + PIECE as u64)));
        Ok(pool.map_unordered(pieces).try_fold(0, async |sum, found| Ok(sum + found)).await?)
    })
    .await?;
    let together_time = begin.elapsed();
    println!("{workers} workers: {together} primes, from their start to their end {together_time:.2?}");
    println!("speed-up: {:.2}", alone_time.div_duration_f64(together_time));
    anyhow::ensure!(alone == together, "the workers miscounted");
    Ok(())
}

/// Numbers in one job.
const PIECE: usize = 10_000;
