//! A worker pool by hand: counts primes in one process, then in an actor a core.
//! `cargo run --release --example primes [-- LIMIT]`
use std::cell::RefCell;
use std::num::NonZero;
use std::time::Instant;

use futures::future::try_join_all;
use teamster::rpc;

#[rpc]
async fn count_primes(from: u64, to: u64) -> u64 {
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

    let actors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let begin = Instant::now();
    let together = teamster::open_nursery(async |an| {
        let portals = an.start_cluster(actors).await?;
        // Whoever is done takes the next piece: the later ones take longer.
        let pieces = &RefCell::new((0..limit).step_by(PIECE));
        let counts = portals.values().map(|worker| async move {
            let mut found = 0;
            while let Some(from) = take_next(pieces) {
                let piece = count_primes(from, limit.min(from + PIECE as u64));
                found += worker.run(piece).await?;
            }
            Ok::<u64, teamster::Error>(found)
        });
        Ok(try_join_all(counts).await?.iter().sum::<u64>())
    })
    .await?;
    let together_time = begin.elapsed();
    println!("{actors} actors: {together} primes, from their start to their end {together_time:.2?}");
    println!("speed-up: {:.2}", alone_time.div_duration_f64(together_time));
    anyhow::ensure!(alone == together, "the actors miscounted");
    Ok(())
}

/// The cell is not borrowed while a call is on its way.
fn take_next(pieces: &RefCell<impl Iterator<Item = u64>>) -> Option<u64> {
    pieces.borrow_mut().next()
}

/// Numbers in one call.
const PIECE: usize = 10_000;
