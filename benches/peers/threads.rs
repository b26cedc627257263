//! The floor: rayon's threads. They cross no border of processes, and a job that crashes takes all with it.
use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Result;
use crate::side::{WORKERS, answer, large_value, next_ask};

pub(crate) const NAME: &str = "rayon";

pub(crate) fn serve() -> Result<()> {
    let pool = ThreadPoolBuilder::new().num_threads(WORKERS).build()?;
    let value: LazyCell<Vec<u8>> = LazyCell::new(large_value);
    println!("threads");
    while let Some((what, count)) = next_ask()? {
        answer(&measure(&pool, &value, &what, count)?)?;
    }
    Ok(())
}

fn empty(n: u32) -> u32 {
    black_box(n)
}

fn measure(pool: &ThreadPool, value: &LazyCell<Vec<u8>>, what: &str, count: usize) -> Result<Vec<f64>> {
    let jobs = u32::try_from(count)?;
    Ok(match what {
        "start" => {
            let time = |_| {
                let begin = Instant::now();
                let pool = ThreadPoolBuilder::new().num_threads(1).build()?;
                black_box(pool.install(|| empty(0)));
                Ok(begin.elapsed().as_secs_f64())
            };
            (0..count).map(time).collect::<Result<_>>()?
        }
        "round_trip" => {
            let time = |n| {
                let begin = Instant::now();
                black_box(pool.install(|| empty(n)));
                begin.elapsed().as_secs_f64()
            };
            (0..jobs).map(time).collect()
        }
        "submit" => {
            let begin = Instant::now();
            pool.in_place_scope(|scope| (0..jobs).for_each(|n| scope.spawn(move |_| _ = empty(n))));
            vec![f64::from(jobs) / begin.elapsed().as_secs_f64()]
        }
        "map_single" | "map" => {
            let longest = if what == "map" { count } else { 1 };
            let begin = Instant::now();
            let results: Vec<u32> =
                pool.install(|| (0..jobs).into_par_iter().with_max_len(longest).map(empty).collect());
            assert_eq!(results.len(), count);
            vec![f64::from(jobs) / begin.elapsed().as_secs_f64()]
        }
        // Nothing has to be copied between threads. A job with a copy of its own takes one each way, here into memory that is
        // there already.
        "echo" => {
            let value = &value[..];
            let (mut there, mut back) = (value.to_vec(), value.to_vec());
            let mut time = |_| {
                let begin = Instant::now();
                pool.install(|| there.copy_from_slice(value));
                back.copy_from_slice(black_box(&there));
                let time = begin.elapsed().as_secs_f64();
                black_box(&back);
                time
            };
            (0..count).map(&mut time).collect()
        }
        other => return Err(format!("no measure is called {other}").into()),
    })
}
