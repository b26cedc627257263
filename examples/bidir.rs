//! Two linked tasks play ping-pong: a first word, a stream each way, a result.
use teamster::{Context, context};

/// Says first that it is ready, answers each ball, and returns how many there were.
#[context]
async fn play(ctx: Context<String, u32, String>) -> teamster::Result<u32> {
    ctx.started("ready".into()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut balls = 0;
    while let Some(ball) = stream.recv().await? {
        balls += 1;
        stream.send(format!("pong {ball}")).await?;
    }
    Ok(balls) // the other side has finished
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    let played = teamster::open_nursery(async |an| {
        let anna = an.start_actor("anna").await?;
        let played = anna.open_context(play(), async |ctx, first| {
            println!("anna is {first}");
            let mut stream = ctx.open_stream().await?;
            for ball in 1..=3 {
                stream.send(ball).await?;
                let answer = stream.recv().await?.unwrap_or_default();
                println!("ping {ball}, {answer}");
            }
            stream.finish().await?; // half-closed: anna sees the end, and returns
            Ok(ctx.result().await?)
        });
        Ok(played.await?)
    })
    .await?;
    println!("anna has played {played} balls");
    Ok(())
}
