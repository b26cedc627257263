//! Siblings find each other by name and call each other, without their parent in between.
use std::sync::OnceLock;

use futures::future::try_join_all;
use teamster::rpc;

static COLOUR: OnceLock<String> = OnceLock::new();

#[rpc]
async fn choose(colour: String) {
    COLOUR.get_or_init(|| colour);
}

#[rpc]
async fn colour() -> Option<String> {
    COLOUR.get().cloned()
}

/// Asks every other actor for its colour.
#[rpc]
async fn ask(names: Vec<String>) -> Result<Vec<String>, teamster::Error> {
    let mut answers = Vec::new();
    for name in names {
        let sibling = teamster::wait_for_actor(&name).await?;
        let colour = sibling.run(colour()).await?.unwrap_or_else(|| "nothing".into());
        answers.push(format!("{name} likes {colour}"));
    }
    Ok(answers)
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    let tastes = [("anna", "amber"), ("ben", "blue"), ("cleo", "cyan")];
    teamster::open_nursery(async |an| {
        let actors = try_join_all(tastes.map(|(name, _)| an.start_actor(name))).await?;
        for (actor, (_, colour)) in actors.iter().zip(tastes) {
            actor.run(choose(colour.into())).await?;
        }
        for (actor, (name, _)) in actors.iter().zip(tastes) {
            let others = tastes.iter().map(|(other, _)| *other).filter(|other| *other != name);
            let answers = actor.run(ask(others.map(str::to_owned).collect())).await?;
            println!("{name} heard: {}", answers.join(", "));
        }
        Ok(())
    })
    .await?;
    Ok(())
}
