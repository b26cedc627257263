//! `pause!` in an endpoint: the prompt shows what it was given, and the actor's other task goes on meanwhile.
//!
//! `cargo run --example debug_pause`, then `args`, `bt`, `tree`, and `c`.
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use teamster::rpc;

static TICKS: AtomicU32 = AtomicU32::new(0);

#[rpc]
async fn tick() {
    loop {
        TICKS.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[rpc]
async fn order(name: String, quantity: u32) -> u32 {
    let price = 4 * quantity;
    let before = TICKS.load(Ordering::Relaxed);
    teamster::pause!(name, price, before);
    TICKS.load(Ordering::Relaxed) - before
}

#[teamster::main]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let shop = an.actor("shop").debug(true).start().await?;
        tokio::select! {
            ticks = shop.run(order("tea".into(), 3)) => println!("{} ticks while it stood still", ticks?),
            ended = shop.run(tick()) => ended?,
        }
        Ok(())
    })
    .await
}
