//! Tasks share what is expensive to open: the first one opens it, the last one closes it.
use teamster::tasks::{self, AsyncContext, Hold, SharedContexts};
use teamster::{BoxError, Portal, rpc};

static DATABASES: SharedContexts<&str, Portal> = SharedContexts::new();

/// A database: an actor of its own, for as long as somebody uses it.
struct Database(&'static str);

impl AsyncContext for Database {
    type Value = Portal;
    async fn open(self, hold: Hold<Portal>) -> Result<(), BoxError> {
        println!("opening {}", self.0);
        let actor = teamster::open_nursery(async |an| {
            let database = an.start_actor(self.0).await?;
            hold.until_exit(database).await.ok()?;
            Ok(())
        });
        actor.await?;
        println!("{} is closed", self.0);
        Ok(())
    }
}

#[rpc]
async fn length(key: String) -> usize {
    key.len()
}

async fn query(key: &str) -> Result<usize, teamster::Error> {
    let shared = DATABASES
        .maybe_open_context("words", Database("words"), async |database| Ok(database.run(length(key.into())).await?));
    shared.await
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    teamster::open_nursery(async |_an| {
        let lengths = tasks::open_nursery(async |tn| {
            let queries =
                ["a", "bee", "sees", "a", "butterfly"].map(|key| tn.start_soon(async { Ok(query(key).await?) }));
            let mut lengths = Vec::new();
            for query in queries {
                lengths.push(query.await?);
            }
            Ok(lengths)
        });
        println!("five tasks asked at once: {:?}", lengths.await?);
        println!("one asked later: {}", query("moth").await?);
        Ok(())
    })
    .await?;
    Ok(())
}
