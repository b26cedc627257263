//! The metrics: what runs on each side, and where.
use std::pin::Pin;
use std::time::Duration;

#[cfg(feature = "etcd")]
use crate::measure::micros;
use crate::measure::{Better, Budget, Measured, alternate};
use crate::ours::{self, Ours};
use crate::raw_calls::{Echo, Pipeline};
use crate::raw_processes::Nest;
#[cfg(feature = "quic")]
use crate::raw_quic::RawQuic;
use crate::raw_streams::Raw;
#[cfg(feature = "tls")]
use crate::raw_tls::RawTls;
#[cfg(feature = "tls")]
use crate::ssh;
use crate::{Result, debug, machine};
use crate::{pools, python};

pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) run: fn(Budget) -> Run,
}

pub(crate) type Run = Pin<Box<dyn Future<Output = Result<Measured>>>>;

/// In the order in which they are printed.
pub(crate) const METRICS: &[Metric] = &[
    metric("rpc_rtt", "us", Better::Less, |budget| Box::pin(round_trips(budget, None))),
    metric("rpc_rtt_2cpu", "us", Better::Less, |budget| Box::pin(round_trips(budget, Some(1)))),
    metric("guest_overhead", "us", Better::Less, |budget| Box::pin(guest_overhead(budget, None))),
    metric("guest_overhead_2cpu", "us", Better::Less, |budget| Box::pin(guest_overhead(budget, Some(1)))),
    metric("guest_beat", "ms p99", Better::Absolute, |budget| Box::pin(beats(budget))),
    #[cfg(feature = "asyncio")]
    metric("asyncio_rtt", "us", Better::Less, |budget| Box::pin(crate::asyncio::round_trips(budget))),
    metric("rpc_tput", "calls/s", Better::More, |budget| Box::pin(throughput(budget))),
    metric("spawn", "us", Better::Less, |budget| Box::pin(spawn(budget))),
    metric("spawn_50", "us", Better::Less, |budget| Box::pin(spawn_many(budget))),
    metric("cancel_actor", "us", Better::Less, |budget| Box::pin(cancel(budget))),
    metric("cancel_ack_busy", "us", Better::Less, |budget| Box::pin(acknowledge(budget))),
    metric("teardown_tree", "us", Better::Less, |budget| Box::pin(teardown(budget))),
    metric("pool_rtt", "us", Better::Less, |budget| Box::pin(pools::round_trips(budget))),
    metric("pool_spawn", "us", Better::Less, |budget| Box::pin(pools::spawn(budget))),
    metric("pool_tput", "jobs/s", Better::More, |budget| Box::pin(pools::throughput(budget))),
    metric("pool_bulk", "us", Better::Less, |budget| Box::pin(pools::bulk(budget))),
    metric("ctx_rtt", "us", Better::Less, |budget| Box::pin(contexts(budget, None))),
    metric("ctx_rtt_2cpu", "us", Better::Less, |budget| Box::pin(contexts(budget, Some(1)))),
    metric("stream_pingpong", "us", Better::Less, |budget| Box::pin(ping_pong(budget, None))),
    metric("stream_pingpong_2cpu", "us", Better::Less, |budget| Box::pin(ping_pong(budget, Some(1)))),
    metric("stream_small", "items/s", Better::More, |budget| Box::pin(small_items(budget))),
    metric("stream_small_framed", "items/s", Better::More, |budget| Box::pin(framed_items(budget))),
    metric("stream_bulk", "MiB/s", Better::More, |budget| Box::pin(bulk(budget))),
    metric("stream_2way", "MiB/s", Better::More, |budget| Box::pin(bulk_both_ways(budget))),
    metric("stream_merge", "us", Better::Less, |budget| Box::pin(merge(budget))),
    metric("py_rpc_rtt", "us", Better::Less, |budget| Box::pin(python::round_trips(budget, "protocol"))),
    metric("py_rpc_rtt_streams", "us", Better::Less, |budget| Box::pin(python::round_trips(budget, "streams"))),
    #[cfg(feature = "tls")]
    metric("rpc_rtt_tcp_tls", "us", Better::Less, |budget| Box::pin(tls_round_trips(budget))),
    #[cfg(feature = "tls")]
    metric("bulk_tcp_tls", "MiB/s", Better::More, |budget| Box::pin(tls_bulk(budget))),
    #[cfg(feature = "quic")]
    metric("rpc_rtt_quic", "us", Better::Less, |budget| Box::pin(quic_round_trips(budget))),
    #[cfg(feature = "quic")]
    metric("bulk_quic", "MiB/s", Better::More, |budget| Box::pin(quic_bulk(budget))),
    #[cfg(feature = "etcd")]
    metric("find_actor_etcd", "us", Better::Less, |budget| Box::pin(etcd_lookups(budget))),
    #[cfg(feature = "tls")]
    metric("spawn_ssh", "us", Better::Less, |budget| Box::pin(ssh::spawn(budget))),
    metric("cancel_under_load", "us", Better::Less, |budget| Box::pin(cancel_under_load(budget))),
    metric("small_under_bulk", "us p99", Better::Less, |budget| Box::pin(small_under_bulk(budget))),
    metric("memory_backpressure", "windows", Better::Absolute, |budget| Box::pin(backpressure(budget))),
    metric("task_wrapper", "ns", Better::Less, |budget| Box::pin(wrapped(budget))),
    metric("pause_off", "ns", Better::Less, |budget| Box::pin(pauses(budget))),
    metric("armed_idle", "us", Better::Less, |budget| Box::pin(armed(budget))),
    metric("stop_to_prompt", "ms", Better::Absolute, |budget| Box::pin(prompts(budget))),
    metric("idle_pss", "KiB", Better::Less, |_| Box::pin(idle_memory())),
    metric("idle_wakeups", "switches", Better::Absolute, |_| Box::pin(idle_switches())),
];

const fn metric(name: &'static str, unit: &'static str, better: Better, run: fn(Budget) -> Run) -> Metric {
    Metric { name, unit, better, run }
}

/// Sequential calls. `cpu`: where the children go; `None`: to the parent's.
async fn round_trips(budget: Budget, cpu: Option<usize>) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(cpu).await?;
        let mut echo = Echo::start(&nest, cpu)?;
        alternate(
            budget,
            async || callee.round_trips(CHUNK_OF_CALLS).await,
            async || echo.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

/// Sequential calls of an actor that is a guest of a loop. The raw side is ours too: the same of a plain one.
async fn guest_overhead(budget: Budget, cpu: Option<usize>) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let (guest, plain) = (ours.guest(cpu).await?, ours.callee(cpu).await?);
        alternate(
            budget,
            async || guest.round_trips(CHUNK_OF_CALLS).await,
            async || plain.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

/// How late the timer of a guest's host is beside a flood of calls, by the clock on the wall.
async fn beats(budget: Budget) -> Result<Measured> {
    ours::open(machine::BOTH, async |ours| {
        Ok(Measured { ours: vec![ours.lateness(budget.time()).await?], raw: vec![] })
    })
    .await
}

#[cfg(feature = "tls")]
async fn tls_round_trips(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee_by(teamster::Transport::Tcp, None).await?;
        let mut echo = RawTls::start(&nest, "tls_echo", None).await?;
        alternate(
            budget,
            async || callee.round_trips(CHUNK_OF_CALLS).await,
            async || echo.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

#[cfg(feature = "tls")]
async fn tls_bulk(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee_by(teamster::Transport::Tcp, Some(1)).await?;
        let mut raw = RawTls::start(&nest, "tls_bulk", Some(1)).await?;
        alternate(budget, async || Ok(vec![callee.bulk(MESSAGES).await?]), async || Ok(vec![raw.bulk(MESSAGES).await?]))
            .await
    })
    .await
}

#[cfg(feature = "quic")]
async fn quic_round_trips(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee_by(teamster::Transport::Quic, None).await?;
        let mut echo = RawQuic::start(&nest, "quic_echo", None).await?;
        alternate(
            budget,
            async || callee.round_trips(CHUNK_OF_CALLS).await,
            async || echo.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

#[cfg(feature = "quic")]
async fn quic_bulk(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee_by(teamster::Transport::Quic, Some(1)).await?;
        let mut raw = RawQuic::start(&nest, "quic_bulk", Some(1)).await?;
        alternate(budget, async || Ok(vec![callee.bulk(MESSAGES).await?]), async || Ok(vec![raw.bulk(MESSAGES).await?]))
            .await
    })
    .await
}

/// An actor by its name, against a read of one key. etcd itself is on both processors.
#[cfg(feature = "etcd")]
async fn etcd_lookups(budget: Budget) -> Result<Measured> {
    let etcd = crate::etcd::Cluster::start(1);
    let mut raw = etcd_client::Client::connect(etcd.endpoints(), None).await?;
    raw.put("raw", "x".repeat(300), None).await?;
    ours::open_with_etcd(machine::ONE, etcd.endpoints(), async |ours| {
        let _callee = ours.callee(None).await?;
        alternate(
            budget,
            async || ours::lookups("callee", LOOKUPS).await,
            async || {
                let mut times = Vec::new();
                for _ in 0..LOOKUPS {
                    let begin = std::time::Instant::now();
                    assert_eq!(raw.get("raw", None).await?.kvs().len(), 1);
                    times.push(micros(begin.elapsed()));
                }
                Ok(times)
            },
        )
        .await
    })
    .await
}

/// Calls in flight, each side on a processor of its own.
async fn throughput(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(Some(1)).await?;
        let mut pipeline = Pipeline::start(&nest, Some(1))?;
        alternate(
            budget,
            async || Ok(vec![callee.calls_per_second(BATCHES).await?]),
            async || Ok(vec![pipeline.calls_per_second(BATCHES).await?]),
        )
        .await
    })
    .await
}

/// Opened, first word, result, one after the other; the raw side makes two round trips for each.
async fn contexts(budget: Budget, cpu: Option<usize>) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(cpu).await?;
        let mut echo = Echo::start(&nest, cpu)?;
        alternate(
            budget,
            async || callee.contexts(CHUNK_OF_CALLS).await,
            async || {
                let times = echo.round_trips(2 * CHUNK_OF_CALLS).await?;
                Ok(times.chunks(2).map(|two| two.iter().sum()).collect())
            },
        )
        .await
    })
    .await
}

/// One item there and back on an open stream.
async fn ping_pong(budget: Budget, cpu: Option<usize>) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(cpu).await?;
        let mut echo = Echo::start(&nest, cpu)?;
        alternate(
            budget,
            async || callee.ping_pongs(CHUNK_OF_CALLS).await,
            async || echo.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

/// One way, each side on a processor of its own, as all that follows.
async fn small_items(budget: Budget) -> Result<Measured> {
    streams(
        budget,
        "small",
        async |callee| callee.small_items_per_second(ITEMS).await,
        async |raw| raw.small_items_per_second(ITEMS).await,
    )
    .await
}

async fn framed_items(budget: Budget) -> Result<Measured> {
    streams(
        budget,
        "framed",
        async |callee| callee.small_items_per_second(ITEMS).await,
        async |raw| raw.framed_items_per_second(ITEMS).await,
    )
    .await
}

async fn bulk(budget: Budget) -> Result<Measured> {
    streams(budget, "bulk", async |callee| callee.bulk(MESSAGES).await, async |raw| raw.bulk(MESSAGES).await).await
}

async fn bulk_both_ways(budget: Budget) -> Result<Measured> {
    streams(
        budget,
        "both",
        async |callee| callee.bulk_both_ways(MESSAGES).await,
        async |raw| raw.bulk_both_ways(MESSAGES).await,
    )
    .await
}

async fn streams(
    budget: Budget,
    role: &str,
    ours_side: impl AsyncFn(&ours::Callee) -> Result<f64>,
    raw_side: impl AsyncFn(&mut Raw) -> Result<f64>,
) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(Some(1)).await?;
        let mut raw = Raw::start(&nest, role, Some(1))?;
        alternate(budget, async || Ok(vec![ours_side(&callee).await?]), async || Ok(vec![raw_side(&mut raw).await?]))
            .await
    })
    .await
}

/// Three actors and their reader, on both processors. The raw side is ours too: one streamer alone.
async fn merge(budget: Budget) -> Result<Measured> {
    ours::open(machine::BOTH, async |ours| {
        let callee = ours.callee(None).await?;
        alternate(
            budget,
            async || Ok(vec![callee.merged_time(MERGED).await?]),
            async || Ok(vec![callee.numbers_time(MERGED).await?]),
        )
        .await
    })
    .await
}

/// Ours: while four huge messages come on the same line. The raw side: a round trip on an idle one.
async fn cancel_under_load(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let nest = Nest::new()?;
        let callee = ours.callee(Some(1)).await?;
        let mut echo = Echo::start(&nest, Some(1))?;
        let raw = echo.round_trips(4 * CHUNK_OF_CALLS).await?;
        let cancels = async || {
            let end = std::time::Instant::now() + budget.time();
            let mut times = Vec::new();
            while times.is_empty() || std::time::Instant::now() < end {
                times.extend(callee.cancels(10).await?);
            }
            Ok(times)
        };
        Ok(Measured { ours: callee.under_load(4, cancels).await?, raw })
    })
    .await
}

/// The 99th percentile of a call's time while a huge message comes on the same line, and alone.
async fn small_under_bulk(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let callee = ours.callee(Some(1)).await?;
        let alone = callee.small_calls(10 * CHUNK_OF_CALLS).await?;
        let calls = async || {
            let end = std::time::Instant::now() + budget.time();
            let mut times = Vec::new();
            while times.len() < CHUNK_OF_CALLS || std::time::Instant::now() < end {
                times.extend(callee.small_calls(10).await?);
            }
            Ok(times)
        };
        let loaded = callee.under_load(1, calls).await?;
        Ok(Measured { ours: vec![percentile_99(loaded)], raw: vec![percentile_99(alone)] })
    })
    .await
}

fn percentile_99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// A producer runs into a consumer that has stopped: how many windows either process grew.
async fn backpressure(budget: Budget) -> Result<Measured> {
    ours::open(machine::BOTH, async |ours| {
        let callee = ours.callee(None).await?;
        Ok(Measured { ours: vec![callee.backpressure(budget.time().max(BACKPRESSURE_TIME)).await?], raw: vec![] })
    })
    .await
}

/// A poll of a task that a dump could ask, and of one that nobody could.
async fn wrapped(budget: Budget) -> Result<Measured> {
    alternate(budget, async || Ok(vec![debug::wrapped_poll()]), async || Ok(vec![debug::bare_poll()])).await
}

/// A call with a `pause!` that is off, and one without.
async fn pauses(budget: Budget) -> Result<Measured> {
    alternate(budget, async || Ok(vec![debug::paused_call()]), async || Ok(vec![debug::bare_call()])).await
}

/// A call of an armed actor. The raw side is ours too: the same of one that is not armed.
async fn armed(budget: Budget) -> Result<Measured> {
    ours::open(machine::ONE, async |ours| {
        let (armed, unarmed) = (ours.armed_callee().await?, ours.callee(None).await?);
        alternate(
            budget,
            async || armed.round_trips(CHUNK_OF_CALLS).await,
            async || unarmed.round_trips(CHUNK_OF_CALLS).await,
        )
        .await
    })
    .await
}

/// From a panic until the prompt is there, on a terminal.
async fn prompts(budget: Budget) -> Result<Measured> {
    let end = std::time::Instant::now() + budget.time();
    let mut measured = Measured::default();
    while measured.ours.is_empty() || std::time::Instant::now() < end {
        measured.ours.push(debug::stop_to_prompt()?);
    }
    Ok(measured)
}

/// One actor at a time, on both processors.
async fn spawn(budget: Budget) -> Result<Measured> {
    processes(budget, async |ours| ours.spawn_time().await, |nest| nest.spawn_time()).await
}

async fn spawn_many(budget: Budget) -> Result<Measured> {
    processes(budget, async |ours| ours.spawn_many_time(SIBLINGS).await, |nest| nest.spawn_many_time(SIBLINGS)).await
}

async fn cancel(budget: Budget) -> Result<Measured> {
    processes(budget, async |ours| ours.cancel_time().await, |nest| nest.cancel_time()).await
}

/// The spinning threads are on the second processor, all others on the first: there a wake-up
/// takes the same time on both sides. The children are fresh ones on both, so neither is warm.
async fn acknowledge(budget: Budget) -> Result<Measured> {
    on(machine::ONE, budget, async |ours| ours.acknowledge_time().await, |nest| nest.acknowledge_time()).await
}

async fn teardown(budget: Budget) -> Result<Measured> {
    processes(budget, async |ours| ours.teardown_time().await, |nest| nest.teardown_time()).await
}

async fn processes(
    budget: Budget,
    ours: impl AsyncFn(&Ours<'_>) -> Result<f64>,
    raw: impl Fn(&Nest) -> Result<f64>,
) -> Result<Measured> {
    on(machine::BOTH, budget, ours, raw).await
}

async fn on(
    cpus: &[usize],
    budget: Budget,
    ours_side: impl AsyncFn(&Ours<'_>) -> Result<f64>,
    raw_side: impl Fn(&Nest) -> Result<f64>,
) -> Result<Measured> {
    ours::open(cpus, async |ours| {
        let nest = Nest::new()?;
        alternate(budget, async || Ok(vec![ours_side(ours).await?]), async || Ok(vec![raw_side(&nest)?])).await
    })
    .await
}

/// Not at the same time: they would share the binary's pages.
async fn idle_memory() -> Result<Measured> {
    let raw = {
        let nest = Nest::new()?;
        let children = (0..IDLE).map(|_| nest.start("idle", None)).collect::<Result<Vec<_>>>()?;
        settle().await;
        children.iter().map(|child| machine::pss_kib(child.pid())).collect::<Result<Vec<_>>>()?
    };
    ours::open(machine::BOTH, async |ours| {
        let actors = ours.idle(IDLE).await?;
        settle().await;
        let ours = actors.iter().map(|&pid| machine::pss_kib(pid)).collect::<Result<Vec<_>>>()?;
        Ok(Measured { ours, raw })
    })
    .await
}

/// At the same time: nobody does anything. The busiest one of each side counts, not the median.
async fn idle_switches() -> Result<Measured> {
    ours::open(machine::BOTH, async |ours| {
        let nest = Nest::new()?;
        let children = (0..IDLE).map(|_| nest.start("idle", None)).collect::<Result<Vec<_>>>()?;
        let raw: Vec<u32> = children.iter().map(|child| child.pid()).collect();
        let actors = ours.idle(IDLE).await?;
        settle().await;
        let before = (switches(&actors)?, switches(&raw)?);
        tokio::time::sleep(IDLE_TIME).await;
        let after = (switches(&actors)?, switches(&raw)?);
        Ok(Measured { ours: vec![busiest(&before.0, &after.0)], raw: vec![busiest(&before.1, &after.1)] })
    })
    .await
}

fn switches(pids: &[u32]) -> Result<Vec<u64>> {
    pids.iter().map(|&pid| machine::context_switches(pid)).collect()
}

fn busiest(before: &[u64], after: &[u64]) -> f64 {
    before.iter().zip(after).map(|(before, after)| after - before).max().unwrap_or(0) as f64
}

/// What the last answer left to do (freeing, closing) is done by then.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[cfg(feature = "etcd")]
const LOOKUPS: usize = 50;
const CHUNK_OF_CALLS: usize = 500;
/// Of 100 calls each.
const BATCHES: u32 = 100;
/// Small items of one sample.
const ITEMS: u64 = 200_000;
/// Items that a merge gives in one sample.
const MERGED: u64 = 300_000;
/// Bulk messages of one sample, of 1 MiB each.
const MESSAGES: u32 = 100;
const BACKPRESSURE_TIME: Duration = Duration::from_secs(5);
const SIBLINGS: usize = 50;
const IDLE: usize = 20;
const IDLE_TIME: Duration = Duration::from_secs(5);
