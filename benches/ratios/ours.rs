//! Our side of every metric: what a user would write.
use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use futures::stream::FuturesUnordered;
use teamster::guest::Guest;
use teamster::{ActorNursery, Portal, rpc};
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

use crate::main_loop::MainLoop;
use crate::measure::micros;
use crate::raw_calls::IN_FLIGHT;
use crate::raw_processes::{BRANCHES, LEAVES};
use crate::{Result, machine};

#[rpc]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Moves every thread of the actor to one processor.
#[rpc]
async fn pin(cpu: usize) -> Result<()> {
    machine::pin_process(&[cpu])
}

#[rpc]
pub(crate) async fn process_id() -> u32 {
    std::process::id()
}

/// Says so on the datagram socket `told`, then keeps the runtime's only thread busy.
#[rpc]
async fn spin(told: String) -> Result<()> {
    machine::pin_thread(1)?;
    std::os::unix::net::UnixDatagram::unbound()?.send_to(b"s", told)?;
    while !teamster::is_cancelled() {
        std::hint::spin_loop();
    }
    Ok(())
}

/// A nursery of the bench, with what is measured in it.
pub(crate) struct Ours<'a> {
    nursery: &'a ActorNursery,
}

/// An actor that answers calls.
pub(crate) struct Callee {
    pub(crate) portal: Portal,
}

/// Opens the root on `cpus`: all that the body starts inherits them.
pub(crate) async fn open<T>(cpus: &[usize], body: impl AsyncFnOnce(&Ours<'_>) -> Result<T>) -> Result<T> {
    Ok(teamster::open_nursery(async |nursery| {
        machine::pin_process(cpus)?;
        body(&Ours { nursery }).await
    })
    .await?)
}

/// The same with etcd as the registrar.
#[cfg(feature = "etcd")]
pub(crate) async fn open_with_etcd<T>(
    cpus: &[usize],
    endpoints: Vec<String>,
    body: impl AsyncFnOnce(&Ours<'_>) -> Result<T>,
) -> Result<T> {
    let root = teamster::root().registrar(teamster::discovery::Etcd::new(endpoints));
    Ok(root
        .open(async |nursery| {
            machine::pin_process(cpus)?;
            body(&Ours { nursery }).await
        })
        .await?)
}

/// Each of them finds somebody.
#[cfg(feature = "etcd")]
pub(crate) async fn lookups(name: &str, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        assert!(teamster::find_actor(name).await?.is_some());
        times.push(micros(begin.elapsed()));
    }
    Ok(times)
}

/// A loop that has hardly anything of its own to do.
#[teamster::host_loop]
fn rest(guest: Guest) {
    let main = MainLoop::default();
    let (soon, quit) = (main.clone(), main.clone());
    guest.start(move |slice| soon.call_soon(|| slice.run()), move || quit.quit());
    main.run(Duration::from_secs(3600), |_late| {});
}

thread_local! {
    /// By how much each beat of the loop's timer was late.
    static LATE: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// A loop with a timer to keep.
#[teamster::host_loop]
fn beat(guest: Guest) {
    let main = MainLoop::default();
    let (soon, quit) = (main.clone(), main.clone());
    guest.start(move |slice| soon.call_soon(|| slice.run()), move || quit.quit());
    main.run(Duration::from_millis(10), |late| LATE.with_borrow_mut(|all| all.push(late)));
}

/// In ms, since this was asked last.
#[rpc]
async fn lateness() -> Vec<f64> {
    LATE.take().iter().map(|late| late.as_secs_f64() * 1e3).collect()
}

impl Ours<'_> {
    /// By how much 99 of 100 beats of a guest's host were less late, in ms, while the guest was flooded with calls.
    pub(crate) async fn lateness(&self, time: Duration) -> Result<f64> {
        let portal = self.nursery.actor("guest").infect(beat()).start().await?;
        portal.run(lateness()).await?;
        let callee = Callee { portal };
        let until = Instant::now() + time;
        while Instant::now() < until {
            callee.calls_per_second(100).await?;
        }
        let mut late = callee.portal.run(lateness()).await?;
        late.sort_by(f64::total_cmp);
        Ok(late[late.len() * 99 / 100])
    }

    pub(crate) async fn callee(&self, cpu: Option<usize>) -> Result<Callee> {
        let portal = self.nursery.start_actor("callee").await?;
        if let Some(cpu) = cpu {
            portal.run(pin(cpu)).await?;
        }
        Ok(Callee { portal })
    }

    /// The same as a guest of a loop.
    pub(crate) async fn guest(&self, cpu: Option<usize>) -> Result<Callee> {
        let portal = self.nursery.actor("guest").infect(rest()).start().await?;
        if let Some(cpu) = cpu {
            portal.run(pin(cpu)).await?;
        }
        Ok(Callee { portal })
    }

    /// The same over a network.
    #[cfg(feature = "tls")]
    pub(crate) async fn callee_by(&self, transport: teamster::Transport, cpu: Option<usize>) -> Result<Callee> {
        let portal = self.nursery.actor("callee").transport(transport).start().await?;
        if let Some(cpu) = cpu {
            portal.run(pin(cpu)).await?;
        }
        Ok(Callee { portal })
    }

    /// The same, stopping for a debugger.
    pub(crate) async fn armed_callee(&self) -> Result<Callee> {
        Ok(Callee { portal: self.nursery.actor("armed").debug(true).start().await? })
    }

    /// From `start_actor` until the first call has answered.
    pub(crate) async fn spawn_time(&self) -> Result<f64> {
        let begin = Instant::now();
        let portal = self.answering().await?;
        let time = begin.elapsed();
        portal.cancel_actor().await?;
        Ok(micros(time))
    }

    pub(crate) async fn spawn_many_time(&self, count: usize) -> Result<f64> {
        let begin = Instant::now();
        let portals = try_join_all((0..count).map(|_| self.answering())).await?;
        let time = begin.elapsed();
        for receipt in join_all(portals.iter().map(Portal::cancel_actor)).await {
            receipt?;
        }
        Ok(micros(time))
    }

    async fn answering(&self) -> Result<Portal> {
        let portal = self.nursery.start_actor("spawned").await?;
        assert_eq!(portal.run(add(1, 2)).await?, 3);
        Ok(portal)
    }

    /// From the cancel until the idle actor is reaped.
    pub(crate) async fn cancel_time(&self) -> Result<f64> {
        let portal = self.answering().await?;
        let begin = Instant::now();
        portal.cancel_actor().await?;
        Ok(micros(begin.elapsed()))
    }

    /// From the cancel until it is acknowledged, by an actor that spins.
    pub(crate) async fn acknowledge_time(&self) -> Result<f64> {
        let folder = tempfile::tempdir()?;
        let told = folder.path().join("told");
        let socket = UnixDatagram::bind(&told)?;
        let portal = self.nursery.start_actor("busy").await?;
        let spinning = portal.run(spin(told.to_string_lossy().into_owned()));
        let cancelling = async {
            socket.recv(&mut [0]).await?;
            let receipt = portal.cancel_actor().await?;
            receipt.heard.ok_or_else(|| "the actor was gone before it heard".into())
        };
        // How the call ends is not measured: its actor is cancelled.
        let (_, heard): (_, Result<Duration>) = tokio::join!(spinning, cancelling);
        Ok(micros(heard?))
    }

    /// From the error in one leaf of a tree of 1 + 7 + 42 until all are reaped.
    pub(crate) async fn teardown_time(&self) -> Result<f64> {
        let outcome: std::result::Result<(), teamster::Error> = teamster::open_nursery(async |nursery| {
            let branches = try_join_all((0..BRANCHES).map(|_| nursery.start_actor("branch"))).await?;
            let growing = try_join_all(branches.iter().map(|branch| branch.run(grow())));
            let failing = async {
                try_join_all(branches.iter().map(|branch| branch.run(grown()))).await?;
                branches[0].run(fail_one()).await
            };
            tokio::try_join!(growing, failing)?;
            Ok(())
        })
        .await;
        let gone = machine::now_ns();
        let error = outcome.err().ok_or("the tree ended well")?;
        let failed: u64 = after_mark(&error.to_string()).ok_or_else(|| format!("not the leaf's error: {error}"))?;
        Ok((gone - failed) as f64 / 1e3)
    }

    /// Actors that have answered one call and have nothing to do.
    pub(crate) async fn idle(&self, count: usize) -> Result<Vec<u32>> {
        let portals = try_join_all((0..count).map(|_| self.nursery.start_actor("idle"))).await?;
        Ok(try_join_all(portals.iter().map(|portal| portal.run(process_id()))).await?)
    }
}

impl Callee {
    pub(crate) async fn round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begin = Instant::now();
            let sum = self.portal.run(add(1, 2)).await?;
            times.push(micros(begin.elapsed()));
            assert_eq!(sum, 3);
        }
        Ok(times)
    }

    /// [`IN_FLIGHT`] callers, each with `calls` calls one after the other.
    pub(crate) async fn calls_per_second(&self, calls: u32) -> Result<f64> {
        let begin = Instant::now();
        let mut callers: FuturesUnordered<_> = (0..IN_FLIGHT)
            .map(|_| async {
                for _ in 0..calls {
                    assert_eq!(self.portal.run(add(1, 2)).await?, 3);
                }
                Ok::<(), teamster::Error>(())
            })
            .collect();
        while let Some(caller) = callers.next().await {
            caller?;
        }
        Ok(f64::from(calls * IN_FLIGHT) / begin.elapsed().as_secs_f64())
    }
}

// The tree. A branch's nursery lives in one call; two more calls of the same actor steer it.

static GROWN: Notify = Notify::const_new();
static FAIL_ONE: Notify = Notify::const_new();

/// Grows leaves, and fails when one of them does.
#[rpc]
async fn grow() -> Result<()> {
    Ok(teamster::open_nursery(async |nursery| {
        let leaves = try_join_all((0..LEAVES).map(|_| nursery.start_actor("leaf"))).await?;
        GROWN.notify_one();
        FAIL_ONE.notified().await;
        leaves[0].run(fail()).await?;
        Ok(())
    })
    .await?)
}

#[rpc]
async fn grown() {
    GROWN.notified().await;
}

#[rpc]
async fn fail_one() {
    FAIL_ONE.notify_one();
}

/// Its error says when it happened.
#[rpc]
async fn fail() -> Result<()> {
    Err(format!("{MARK}{}", machine::now_ns()).into())
}

const MARK: &str = "failed at nanosecond ";

fn after_mark(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(MARK)?;
    let digits = rest.split(|byte: char| !byte.is_ascii_digit()).next()?;
    digits.parse().ok()
}
