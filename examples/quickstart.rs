//! One actor, called from here and from itself: the whole idea in one screen.
use teamster::rpc;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn half(n: i64) -> anyhow::Result<i64> {
    anyhow::ensure!(n % 2 == 0, "{n} is odd");
    Ok(n / 2)
}

#[teamster::main]
async fn main() -> anyhow::Result<()> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?; // a process of its own
        println!("frank says {}", frank.run(add(1, 2)).await?);
        println!("the same call, here: {}", add(1, 2).await?);

        if let Err(teamster::Error::Remote(failure)) = frank.run(half(3)).await {
            println!("frank's failure is ours to handle: {}", failure.message());
        }
        println!("frank goes on: {}", frank.run(half(4)).await?);

        let answer = an.run_in_actor(add(40, 2)); // spawn, call, reap
        println!("the answer is {}", answer.await?);

        let receipt = frank.cancel_actor().await?;
        println!("frank is gone, gracefully: {}", receipt.was_graceful());
        Ok(())
    })
    .await?;
    println!("nothing is left");
    Ok(())
}
