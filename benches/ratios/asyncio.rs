//! A hop from a task of ours to one of asyncio's and back, beside the same between two of asyncio's.
use std::time::Instant;

use teamster::asyncio::{Asyncio, open_channel_from, run_task};
use teamster::{Portal, rpc};

use crate::measure::{Budget, Measured, alternate, micros};
use crate::{Result, machine};

/// Hops in a row, of one side.
const HOPS: usize = 500;

#[rpc]
async fn channel_hops(count: usize) -> std::result::Result<Vec<f64>, teamster::Error> {
    open_channel_from("hops:echo", (), async |chan, _none: ()| {
        let mut times = Vec::with_capacity(count);
        for n in 0..count {
            let begin = Instant::now();
            chan.send(&n).await?;
            let _same: Option<usize> = chan.recv().await?;
            times.push(micros(begin.elapsed()));
        }
        Ok(times)
    })
    .await
}

#[rpc]
async fn queue_hops(count: usize) -> std::result::Result<Vec<f64>, teamster::Error> {
    run_task("hops:queues", (count,)).await
}

pub(crate) async fn round_trips(budget: Budget) -> Result<Measured> {
    let measured = teamster::open_nursery(async |an| {
        machine::pin_process(machine::ONE)?;
        let python = Asyncio::new().path(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ratios"));
        let py: Portal = an.actor("py").infect(python).start().await?;
        let ours = async || Ok(py.run(channel_hops(HOPS)).await?);
        let raw = async || Ok(py.run(queue_hops(HOPS)).await?);
        alternate(budget, ours, raw).await
    });
    Ok(measured.await?)
}
