//! A tree three deep: one grandchild fails, all others are cancelled, and the error climbs to the
//! root with the path that it took.
use std::future::pending;

use futures::future::try_join_all;
use teamster::rpc;
use tokio::sync::Semaphore;

/// Opens a nursery of its own: this actor is a parent with the same duties as the root.
#[rpc]
async fn branch(names: Vec<String>) -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let leaves = try_join_all(names.iter().map(|name| an.start_actor(name))).await?;
        let living = leaves.iter().zip(&names).map(|(leaf, name)| leaf.run(live(name.clone())));
        try_join_all(living).await?;
        Ok(())
    })
    .await
}

/// Lives until it is cancelled. Its neighbours tell the rotten leaf that they are there.
#[rpc]
async fn live(name: String) -> anyhow::Result<()> {
    if name == "rotten" {
        let _three = RIPE.acquire_many(3).await?;
        anyhow::bail!("this leaf is rotten");
    }
    let _guard = Farewell(name);
    teamster::wait_for_actor("rotten").await?.run(ripen()).await?;
    pending().await
}

static RIPE: Semaphore = Semaphore::const_new(0);

#[rpc]
async fn ripen() {
    RIPE.add_permits(1);
}

/// A cancelled task is dropped at its await, so destructors run.
struct Farewell(String);

impl Drop for Farewell {
    fn drop(&mut self) {
        println!("leaf {} was cancelled", self.0);
    }
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    let outcome = teamster::open_nursery(async |an| {
        let (left, right) = tokio::try_join!(an.start_actor("left"), an.start_actor("right"))?;
        tokio::try_join!(
            left.run(branch(vec!["green".into(), "fresh".into()])),
            right.run(branch(vec!["young".into(), "rotten".into()])),
        )?;
        Ok(())
    })
    .await;
    match outcome {
        Ok(()) => anyhow::bail!("the rotten leaf went unnoticed"),
        Err(failure) => println!("the root heard:\n{failure:#}"),
    }
    println!("nothing is left");
    Ok(())
}
