//! Endpoints that return errors.
use std::num::ParseIntError;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use teamster::rpc;

use crate::crashes::divide;
use crate::scene::{Outcome, tell, told_to_go};

#[teamster::error]
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("order {id} can't be filled")]
struct Unfilled {
    id: u32,
    #[source]
    stock: Stock,
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{left} are left of {wanted}")]
struct Stock {
    left: u32,
    wanted: u32,
}

/// How often it was tried, in this process.
static TRIES: AtomicU32 = AtomicU32::new(0);

#[rpc]
async fn fill(id: u32, wanted: u32) -> Result<u32, Unfilled> {
    match TRIES.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Unfilled { id, stock: Stock { left: 2, wanted } }),
        _ => Ok(wanted),
    }
}

/// The first try fails.
pub(crate) async fn own_error() -> Outcome {
    teamster::open_nursery(async |an| {
        let shop = an.start_actor("shop").await?;
        let filled = shop.run(fill(7, 30)).await?;
        println!("filled: {filled}");
        Ok(())
    })
    .await
}

#[rpc]
async fn parse_order(text: String) -> teamster::Result<u32> {
    let dozens = 12;
    let quantity = quantity_of(&text)?;
    Ok(quantity * dozens)
}

#[inline(never)]
fn quantity_of(text: &str) -> teamster::Result<u32> {
    let (_name, number) = text.split_once(' ').unwrap_or(("", text));
    let factor = 2;
    Ok(number.parse::<u32>()? * factor)
}

pub(crate) async fn question_mark() -> Outcome {
    teamster::open_nursery(async |an| {
        let shop = an.start_actor("shop").await?;
        shop.run(parse_order("pears many".to_owned())).await?;
        Ok(())
    })
    .await
}

#[rpc]
async fn looked_at(text: String) -> Result<u32, ParseIntError> {
    text.parse::<u32>().inspect_err(|error| teamster::post_mortem(error))
}

pub(crate) async fn post_mortem() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        child.run(looked_at("many".to_owned())).await?;
        Ok(())
    })
    .await
}

/// The error is the root's own.
pub(crate) async fn root_fails() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        Err("the root's own error".into())
    })
    .await
}

/// The root has cancelled itself, and knows it.
pub(crate) async fn cancelled_root_panics() -> Outcome {
    teamster::open_nursery(async |an| {
        an.start_actor("child").await?;
        teamster::cancel_self()?;
        while !teamster::is_cancelled() {
            std::thread::yield_now();
        }
        panic!("it fails all the same")
    })
    .await
}

#[rpc]
async fn pause_once() -> u32 {
    teamster::pause!();
    5
}

/// Each kind of stop, one after the other.
pub(crate) async fn each_kind() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        tell("panic", child.run(divide(1, 0)).await);
        tell("error", child.run(parse_order("pears many".to_owned())).await);
        tell("pause", child.run(pause_once()).await);
        Ok(())
    })
    .await
}

/// One stop, when the test says so.
pub(crate) async fn crash_later() -> Outcome {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        println!("ready");
        told_to_go().await;
        tell("child", child.run(divide(1, 0)).await);
        Ok(())
    })
    .await
}
