//! An actor fails in three ways: inside a `?`, by an error of its own, by a panic. The prompt opens at each.
//!
//! `cargo run --example debug_panic`, then `bt`, `up`, `err`, `args`, `retry`, `q`, `help`.
use teamster::rpc;

#[rpc]
async fn quantity(text: String) -> teamster::Result<u32> {
    let number: u32 = text.trim().parse()?; // it stops in here, with this very stack
    Ok(number)
}

#[rpc]
async fn read(path: String) -> std::io::Result<usize> {
    Ok(std::fs::read(path)?.len()) // what is returned may be tried again: `retry`
}

#[rpc]
async fn price(prices: Vec<u32>, at: usize) -> u32 {
    prices[at]
}

#[teamster::main(debug)]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let shop = an.start_actor("shop").await?;
        println!("{:?}", shop.run(quantity("12x".into())).await.map_err(|error| error.to_string()));
        println!("{:?}", shop.run(read("/no/such/file".into())).await.map_err(|error| error.to_string()));
        println!("{:?}", shop.run(price(vec![1, 2, 3], 12)).await.map_err(|error| error.to_string()));
        Ok(())
    })
    .await
}
