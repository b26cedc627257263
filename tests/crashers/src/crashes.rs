//! Actors that panic.
use std::time::Duration;

use teamster::rpc;

use crate::scene::{Outcome, tell};

#[rpc]
pub(crate) async fn crash(prices: Vec<u32>, at: usize) -> u32 {
    let total: u32 = prices.iter().sum();
    let price = price_at(&prices, at, total);
    total + price
}

#[inline(never)]
fn price_at(prices: &[u32], index: usize, sum: u32) -> u32 {
    let scaled = sum * 10;
    prices[index] + scaled
}

#[rpc]
pub(crate) async fn divide(dividend: u32, divisor: u32) -> u32 {
    let double = dividend * 2;
    double / divisor
}

#[rpc]
async fn chatter() {
    for number in 0.. {
        println!("still here, {number}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One is armed, the other is not, nor is the root.
pub(crate) async fn armed_sibling() -> Outcome {
    teamster::open_nursery(async |an| {
        let armed = an.actor("armed").debug(true).start().await?;
        let plain = an.start_actor("plain").await?;
        tell("plain", plain.run(crash(vec![1], 7)).await);
        tell("armed", armed.run(crash(vec![1, 2], 8)).await);
        Ok(())
    })
    .await
}

/// Two crash at once, a third talks.
pub(crate) async fn two_crashers() -> Outcome {
    teamster::open_nursery(async |an| {
        let chatty = an.start_actor("chatty").await?;
        let (left, right) = tokio::try_join!(an.start_actor("left"), an.start_actor("right"))?;
        let crashes = async {
            let (one, two) = tokio::join!(left.run(crash(vec![1, 2, 3], 12)), right.run(crash(vec![7], 3)));
            tell("left", one);
            tell("right", two);
        };
        tokio::select! {
            () = crashes => Ok(()),
            talked = chatty.run(chatter()) => Ok(talked?),
        }
    })
    .await
}

/// Two tasks of one actor.
pub(crate) async fn two_in_one() -> Outcome {
    teamster::open_nursery(async |an| {
        let worker = an.start_actor("worker").await?;
        let (one, two) = tokio::join!(worker.run(crash(vec![1, 2, 3], 12)), worker.run(divide(21, 0)));
        tell("one", one);
        tell("two", two);
        Ok(())
    })
    .await
}

/// The error of an actor ends the tree.
pub(crate) async fn relayed() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        child.run(divide(1, 0)).await?;
        Ok(())
    })
    .await
}
