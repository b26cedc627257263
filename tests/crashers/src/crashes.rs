//! Actors that panic.
use std::fmt;
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

/// One crash, and then the program waits for its end.
pub(crate) async fn crash_and_wait() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("child", child.run(divide(1, 0)).await);
        Ok(std::future::pending().await)
    })
    .await
}

#[rpc]
async fn in_the_middle() -> Result<u32, teamster::Error> {
    teamster::open_nursery(async |an| {
        let leaf = an.actor("leaf").debug(true).start().await?;
        Ok(leaf.run(divide(1, 0)).await?)
    })
    .await
}

/// Root, middle, leaf: the leaf is armed by its builder.
pub(crate) async fn deep() -> Outcome {
    teamster::open_nursery(async |an| {
        let middle = an.start_actor("middle").await?;
        middle.run(in_the_middle()).await?;
        Ok(())
    })
    .await
}

/// The root's own body.
pub(crate) async fn root_panics() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        let places: Vec<u32> = Vec::new();
        assert!(!places.is_empty(), "the root has no place");
        Ok(())
    })
    .await
}

/// A task of a `LocalSet`, which may not block in place.
async fn in_a_local_set() {
    let locals = tokio::task::LocalSet::new();
    let panicked = locals.run_until(async { tokio::task::spawn_local(async { divide_at_once(1, 0) }).await }).await;
    println!("in a local set: {}", panicked.is_err());
}

pub(crate) async fn local_set() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        in_a_local_set().await;
        Ok(())
    })
    .await
}

#[inline(never)]
fn divide_at_once(dividend: u32, divisor: u32) -> u32 {
    dividend / divisor
}

#[rpc]
async fn elsewhere(place: String) -> bool {
    let runtime = tokio::runtime::Handle::current();
    let here = move || runtime.block_on(in_a_local_set());
    match place.as_str() {
        "local set in a blocking thread" => tokio::task::spawn_blocking(here).await.is_ok(),
        "local set in the task" => {
            tokio::task::block_in_place(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(here)).is_ok())
        }
        "blocking thread" => tokio::task::spawn_blocking(|| divide_at_once(1, 0)).await.is_err(),
        "thread" => {
            let thread = std::thread::Builder::new().name("own-thread".into()).spawn(|| divide_at_once(1, 0));
            let joined = tokio::task::spawn_blocking(|| thread.expect("a thread can be had").join()).await;
            joined.expect("it does not panic").is_err()
        }
        other => unreachable!("{other:?} is no place here"),
    }
}

/// Panics where no endpoint of ours runs: in a child.
pub(crate) async fn panics_elsewhere(place: &str) -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("elsewhere", child.run(elsewhere(place.to_owned())).await);
        tell("ping", child.run(crate::scene::ping(5)).await);
        Ok(())
    })
    .await
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("a destructor panics");
    }
}

#[rpc]
async fn drop_panics() -> u32 {
    let _guard = PanicsInDrop;
    divide_at_once(1, 0)
}

pub(crate) async fn panics_in_drop() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("child", child.run(drop_panics()).await);
        Ok(())
    })
    .await
}

/// Its `Display` panics, while whoever prints it holds the lock of stdout.
struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line that has begun, ")?;
        panic!("a Display panics");
    }
}

#[rpc]
async fn print_bomb() {
    println!("{Bomb}");
}

pub(crate) async fn bomb_in_child() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("child", child.run(print_bomb()).await);
        Ok(())
    })
    .await
}

pub(crate) async fn bomb_in_root() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        println!("{Bomb}");
        Ok(())
    })
    .await
}

pub(crate) async fn bomb_on_stderr() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        eprintln!("{Bomb}");
        Ok(())
    })
    .await
}

#[rpc]
async fn with_probes() -> u32 {
    let _good = teamster::debug::probe("queue", || "3 jobs".to_owned());
    let _bad = teamster::debug::probe("bad", || panic!("a probe panics"));
    divide_at_once(1, 0)
}

pub(crate) async fn probes() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("child", child.run(with_probes()).await);
        Ok(())
    })
    .await
}
