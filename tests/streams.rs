//! Does every item arrive once, in order, at the pace of its reader, and does each end say what it is?
use bytes::Bytes;
use teamster::{Context, context};

#[context]
async fn bulk_sink(ctx: Context<(), Bytes, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut bytes = 0;
    while let Some(item) = stream.recv().await? {
        bytes += item.len() as u64;
    }
    stream.send(bytes).await?;
    Ok(())
}

#[teamster::test]
async fn long_items_arrive_whole() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        frank
            .open_context(bulk_sink(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for _ in 0..100 {
                    stream.send(Bytes::from(vec![7; 1 << 20])).await?;
                }
                stream.finish().await?;
                assert_eq!(stream.recv().await?, Some(100 << 20));
                Ok(())
            })
            .await
            .map_err(Into::into)
    })
    .await
}
