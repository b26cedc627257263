//! Two actors crash at once while a third one talks: one prompt after the other, in the root's terminal.
//!
//! `TEAMSTER_DEBUG=1 cargo run --example debug_two_crashers`, or as it is: it arms its tree itself.
use std::time::Duration;

use teamster::rpc;

#[rpc]
async fn crash(prices: Vec<u32>, at: usize) -> u32 {
    let total: u32 = prices.iter().sum();
    total + prices[at]
}

#[rpc]
async fn chatter() {
    for number in 0.. {
        println!("still here, {number}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[teamster::main(debug)]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let chatty = an.start_actor("chatty").await?;
        let (left, right) = tokio::try_join!(an.start_actor("left"), an.start_actor("right"))?;
        let crashes = async {
            let (one, two) = tokio::join!(left.run(crash(vec![1, 2, 3], 12)), right.run(crash(vec![7], 3)));
            for error in [one.unwrap_err(), two.unwrap_err()] {
                println!("it came to {error}");
            }
        };
        tokio::select! {
            () = crashes => Ok(()),
            talked = chatty.run(chatter()) => Ok(talked?),
        }
    })
    .await
}
