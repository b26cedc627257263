//! Actors that pause.
use std::time::Duration;

use teamster::{pause, rpc};

use crate::scene::{Outcome, ping, tell, tell_after, told_to_go};

#[derive(Debug)]
#[expect(dead_code, reason = "it is shown")]
struct Order {
    name: String,
    quantity: u32,
}

struct Opaque;

#[rpc]
async fn order(name: String, quantity: u32) -> u32 {
    let price = quantity * 3;
    let (order, opaque) = (Order { name, quantity }, Opaque);
    pause!(order, price + 1, opaque);
    price
}

/// One pauses while others are asked.
pub(crate) async fn values() -> Outcome {
    teamster::open_nursery(async |an| {
        let (worker, other) = (an.start_actor("worker").await?, an.start_actor("other").await?);
        let pings = async {
            for number in 0.. {
                let (one, two) = tokio::try_join!(worker.run(ping(number)), other.run(ping(number)))?;
                println!("pinged: {one} {two}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, teamster::Error>(())
        };
        tokio::select! {
            ordered = worker.run(order("pear".to_owned(), 14)) => tell("ordered", ordered),
            ended = pings => tell("pings", ended),
        }
        Ok(())
    })
    .await
}

#[rpc]
async fn pause_often(times: u32) -> u32 {
    let mut sum = 0;
    for round in 0..times {
        pause!(round);
        sum += round;
    }
    sum
}

pub(crate) async fn child_pauses(times: u32) -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        let sum = child.run(pause_often(times)).await;
        if let Err(teamster::Error::Remote(error)) = &sum {
            println!("it is a {}: {error}", error.type_name());
        }
        println!("sum: {}", sum?);
        Ok(())
    })
    .await
}

pub(crate) async fn root_pauses(times: u32) -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        let sum = pause_often(times).await?;
        println!("sum: {sum}");
        Ok(())
    })
    .await
}

/// Three actors, each twice.
pub(crate) async fn three_pause() -> Outcome {
    teamster::open_nursery(async |an| {
        let actors = an.start_actors(["one", "two", "three"]).await?;
        let [one, two, three] = &actors[..] else { unreachable!("three were asked for") };
        let sums = tokio::join!(one.run(pause_often(2)), two.run(pause_often(2)), three.run(pause_often(2)));
        tell("one", sums.0);
        tell("two", sums.1);
        tell("three", sums.2);
        Ok(())
    })
    .await
}

#[rpc]
async fn pause_and_stay() -> u32 {
    pause!();
    std::future::pending().await
}

/// A deadline of the root passes while the child is looked at, which returns at once afterwards, or stays.
pub(crate) async fn deadline(stays: bool) -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        let call = async { if stays { child.run(pause_and_stay()).await } else { child.run(pause_often(1)).await } };
        let (called, ()) = tokio::join!(
            async {
                tell("called", teamster::deadline(Duration::from_millis(400), call).await.and_then(|answer| answer))
            },
            tell_after(Duration::from_secs(1))
        );
        Ok(called)
    })
    .await
}

/// The child is cancelled while it is looked at.
pub(crate) async fn cancel() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        let cancel = async {
            told_to_go().await;
            println!("cancelling");
            tokio::join!(async { tell("cancelled", child.cancel_actor().await) }, tell_after(Duration::from_secs(1)));
        };
        tokio::join!(async { tell("called", child.run(pause_and_stay()).await) }, cancel);
        Ok(())
    })
    .await
}

/// The root's body fails while one child is looked at and another one waits.
pub(crate) async fn body_fails() -> Outcome {
    teamster::open_nursery(async |an| {
        let (one, two) = tokio::try_join!(an.start_actor("one"), an.start_actor("two"))?;
        tokio::select! {
            _ = one.run(pause_and_stay()) => {}
            _ = two.run(pause_and_stay()) => {}
            () = told_to_go() => println!("the body fails now"),
        }
        Err("the body has failed".into())
    })
    .await
}

struct PausesInDrop;

impl Drop for PausesInDrop {
    fn drop(&mut self) {
        let place = "clean-up";
        pause!(place);
        println!("cleaned up");
    }
}

#[rpc]
async fn pause_in_clean_up(panics: bool) -> u32 {
    let _guard = PausesInDrop;
    if panics {
        panic!("with a guard that pauses");
    }
    println!("waiting");
    std::future::pending().await
}

/// The pause is in what runs because of a cancel.
pub(crate) async fn cancelled() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        let cancel = async {
            told_to_go().await;
            tell("cancelled", child.cancel_actor().await);
        };
        tokio::join!(async { tell("called", child.run(pause_in_clean_up(false)).await) }, cancel);
        Ok(())
    })
    .await
}

/// The pause is in a destructor that runs because of a panic.
pub(crate) async fn unwinding() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("called", child.run(pause_in_clean_up(true)).await);
        tell("ping", child.run(ping(6)).await);
        Ok(())
    })
    .await
}

#[rpc]
async fn on_three_threads() -> u32 {
    let own = std::thread::Builder::new().name("own-thread".into()).spawn(|| pause!("of a thread"));
    let own = own.expect("a thread can be had");
    let blocking = tokio::task::spawn_blocking(|| pause!("of a blocking thread"));
    pause!("of the task");
    blocking.await.expect("it does not panic");
    let joined = tokio::task::spawn_blocking(|| own.join()).await;
    joined.expect("it does not panic").expect("nor does it");
    3
}

pub(crate) async fn threads() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("threads", child.run(on_three_threads()).await);
        Ok(())
    })
    .await
}
