use futures::{Stream, stream};
use teamster::{Context, Error, Portal};

#[teamster::rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[teamster::rpc]
async fn numbers() -> impl Stream<Item = u64> {
    stream::iter(0..3)
}

#[teamster::context]
async fn count(ctx: Context<u64>) {
    drop(ctx);
}

async fn run(portal: &Portal) -> Result<(), Error> {
    portal.run(count()).await?;
    portal.run(numbers()).await?;
    portal.stream(add(1, 2)).await?;
    portal.stream(count()).await?;
    portal.open_context(add(1, 2), async |_, ()| Ok(())).await?;
    portal.open_context(numbers(), async |_, ()| Ok(())).await?;
    count().await;
    Ok(())
}

fn main() {
    let _ = run;
}
