//! One feed, many subscribers: those that must not lose anything, and a slow one that is told what it has lost.
use futures::future::try_join_all;
use teamster::tasks::{Lag, RecvError};
use teamster::{Context, context};

#[context]
async fn feed(ctx: Context<(), (), u64>, ticks: u64) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for tick in 1..=ticks {
        stream.send(tick).await?;
    }
    Ok(())
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    teamster::open_nursery(async |an| {
        let exchange = an.start_actor("exchange").await?;
        let fanned_out = exchange.open_context(feed(1000), async |ctx, ()| {
            let feed = ctx.open_stream().await?.fan_out(100); // so many are kept for those who are slow
            let mut slow = feed.subscribe();
            let careful = (0..3).map(|_| feed.subscribe_with(Lag::Wait)); // the feed waits for them
            let sums = careful.map(async |mut ticks| {
                let mut sum = 0;
                while let Some(tick) = ticks.recv().await? {
                    sum += tick;
                }
                Ok::<u64, RecvError<_>>(sum)
            });
            println!("the careful ones heard {:?}", try_join_all(sums).await?);
            loop {
                match slow.recv().await {
                    Err(RecvError::Lagged(lost)) => println!("the slow one has lost {lost}"),
                    Ok(Some(tick)) if tick % 25 == 0 => println!("the slow one heard {tick}"),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(failed) => Err(failed)?,
                }
            }
        });
        Ok(fanned_out.await?)
    })
    .await?;
    Ok(())
}
