#![deny(unused_must_use)]
use teamster::WorkerPool;

#[teamster::work]
fn square(n: u64) -> u64 {
    n * n
}

async fn run(pool: &WorkerPool) {
    pool.run(square(1));
    pool.map([square(2)]);
    teamster::run_sync(square(3));
}

fn main() {
    let _ = run;
}
