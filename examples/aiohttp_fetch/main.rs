//! aiohttp, driven from a Rust root: a server in one actor, a client in another, and a request that nobody wants any more.
//!
//! `cargo run --features asyncio --example aiohttp_fetch -- VENV`, where `VENV/bin/pip install aiohttp` has run.
use std::time::Duration;

use teamster::asyncio::{Asyncio, open_channel_from, run_task};
use teamster::{Context, Error, context, rpc};

/// Runs the server until it is cancelled, says its port, and passes on what it has seen.
#[context]
async fn serve(ctx: Context<u16, (), String>) -> teamster::Result<()> {
    let served = open_channel_from("web:serve", (), async |chan, port: u16| {
        ctx.started(port).await?;
        let mut stream = ctx.open_stream().await?;
        while let Some(event) = chan.recv().await? {
            stream.send(event).await?;
        }
        Ok(())
    });
    Ok(served.await?)
}

#[rpc]
async fn fetch(url: String) -> Result<String, Error> {
    run_task("web:fetch", (url,)).await
}

#[teamster::main]
async fn main() -> Result<(), Error> {
    let venv = std::env::args().nth(1).unwrap_or_else(|| ".venv".to_owned());
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/aiohttp_fetch");
    let python = Asyncio::new().venv(venv).path(here);
    teamster::open_nursery(async |an| {
        let server = an.actor("server").infect(python.clone()).start().await?;
        let client = an.actor("client").infect(python).start().await?;
        let served = server.open_context(serve(), async |ctx, port| {
            let mut events = ctx.open_stream().await?;
            println!("{}", client.run(fetch(format!("http://127.0.0.1:{port}/hello"))).await?);
            let slow = client.run(fetch(format!("http://127.0.0.1:{port}/slow")));
            tokio::select! {
                answer = slow => println!("an answer: {answer:?}"),
                event = events.recv() => println!("the server: {}", event?.unwrap_or_default()),
            } // the request is dropped here, while the server is at it
            println!("the server: {}", events.recv().await?.unwrap_or_default());
            let lost = client.run(fetch("http://127.0.0.1:1/".into())).await.unwrap_err();
            if let Error::Remote(remote) = lost {
                println!("the client: {}", remote.type_name());
            }
            ctx.cancel().await?;
            Ok(())
        });
        tokio::time::timeout(Duration::from_secs(30), served).await??;
        Ok(())
    })
    .await?;
    println!("nothing is left");
    Ok(())
}
