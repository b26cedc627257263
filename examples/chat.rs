//! A chat of actors: each hears the rooms that it is in, comes and goes, and says something now and then.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use teamster::tasks::Topics;
use teamster::{Context, context};

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Enter(String),
    Leave(String),
    Say(String, String),
}

/// A member of the chat: does as it is told, and returns what it has heard when the chat is closed.
#[context]
async fn member(ctx: Context<(), Step, Option<(String, String)>>) -> teamster::Result<Vec<String>> {
    let root = teamster::parent()?.expect("no root is a member");
    let mut rooms = Topics::<String>::subscribe(&root, "chat", [] as [&str; 0]).await?;
    ctx.started(()).await?;
    let (mut steps, mut heard) = (ctx.open_stream().await?, Vec::new());
    loop {
        tokio::select! {
            Some(step) = async { steps.recv().await.transpose() } => {
                let said = match step? {
                    Step::Enter(room) => rooms.subscribe([room]).await.map(|()| None)?,
                    Step::Leave(room) => { rooms.unsubscribe([room]); None }
                    Step::Say(room, text) => Some((room, text)),
                };
                steps.send(said).await?; // when it is done
            }
            said = rooms.recv() => match said? {
                Some((room, text)) => heard.push(format!("{text} (in the {room})")),
                None => return Ok(heard),
            },
        }
    }
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    let (enter, leave) = (|room: &str| Step::Enter(room.into()), |room: &str| Step::Leave(room.into()));
    let say = |room: &str, text: &str| Step::Say(room.into(), text.into());
    let evening = [
        ("anna", enter("kitchen")),
        ("ben", enter("kitchen")),
        ("cleo", enter("garden")),
        ("ben", leave("kitchen")),
        ("ben", enter("garden")),
        ("anna", say("kitchen", "tea?")),
        ("cleo", enter("kitchen")),
        ("cleo", say("garden", "look, a hedgehog")),
        ("anna", say("kitchen", "more tea?")),
    ];
    teamster::open_nursery(async |an| {
        let chat = Topics::open("chat")?;
        let mut members = BTreeMap::new();
        for name in ["anna", "ben", "cleo"] {
            let ctx = an.start_actor(name).await?.context(member()).await?;
            members.insert(name, (ctx.open_stream().await?, ctx));
        }
        for (name, step) in evening {
            let (stream, _) = members.get_mut(name).ok_or("nobody of that name")?;
            stream.send(step).await?;
            if let Some(Some((room, text))) = stream.recv().await? {
                let actors = chat.publish(&room, &format!("{name}: {text}"))?;
                println!("{name} talks to {actors} in the {room}");
            }
        }
        drop(chat); // closed: all return
        for (name, (_, ctx)) in &members {
            println!("{name} heard {}", ctx.result().await?.join(", "));
        }
        Ok(())
    })
    .await?;
    Ok(())
}
