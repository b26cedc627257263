//! Numbers go from here through another process's asyncio task, and back.
use teamster::asyncio::{Asyncio, open_channel_from};
use teamster::{Context, context};

/// A stream of ours on one side, an asyncio task on the other.
#[context]
async fn echo(ctx: Context<String, u64, u64>) -> teamster::Result<u64> {
    let echoed = open_channel_from("echo:echo", ("root",), async |chan, greeting: String| {
        ctx.started(greeting).await?;
        let mut stream = ctx.open_stream().await?;
        while let Some(number) = stream.recv().await? {
            chan.send(&number).await?;
            if let Some(number) = chan.recv().await? {
                stream.send(number).await?;
            }
        }
        chan.finish()?;
        Ok(chan.result().await?)
    });
    Ok(echoed.await?)
}

#[teamster::main]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/infected_asyncio_echo");
        let py = an.actor("py").infect(Asyncio::new().path(here)).start().await?;
        let echoed = py.open_context(echo(), async |ctx, greeting| {
            println!("{greeting}");
            let mut stream = ctx.open_stream().await?;
            for number in 0..100 {
                stream.send(number).await?;
                assert_eq!(stream.recv().await?, Some(number));
            }
            stream.finish().await?;
            Ok(ctx.result().await?)
        });
        println!("asyncio has echoed {} numbers", echoed.await?);
        Ok(())
    })
    .await?;
    println!("nothing is left");
    Ok(())
}
