//! What becomes of a tree over TLS when the wall clock of one of its hosts jumps?
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use teamster::{Error, Portal, Transport, context, rpc};

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/wall_clock.rs"]
mod wall_clock;
use hosts::{Hosts, at};
use wall_clock::WallClock;

/// How long a host may be silent here.
const LOST_AFTER: Duration = Duration::from_secs(1);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn adds_in(other: Portal) -> teamster::Result<i64> {
    Ok(other.run(add(1, 2)).await?)
}

/// Starts a child of its own, with a certificate of its own, which calls somebody else.
#[rpc]
async fn adds_by_a_child(other: Portal) -> teamster::Result<i64> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("grandchild").await?;
        assert_eq!(child.run(wall_clock_is()).await? / HOUR, wall_clock() / HOUR, "it has the clock of its host");
        Ok(child.run(adds_in(other.clone())).await?)
    });
    Ok(block.await?)
}

#[rpc]
async fn wall_clock_is() -> i64 {
    wall_clock()
}

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    since.as_secs().cast_signed()
}

#[rpc]
async fn waits_for_ever() {
    std::future::pending().await
}

/// How long a deadline of so much takes there.
#[rpc]
async fn waits_until(deadline: Duration) -> teamster::Result<Duration> {
    let began = Instant::now();
    let ended = teamster::deadline(deadline, std::future::pending::<Result<(), Error>>()).await;
    assert!(matches!(ended, Err(Error::Deadline { .. })), "{ended:?}");
    Ok(began.elapsed())
}

/// Echoes numbers.
#[context]
async fn echoes(ctx: teamster::Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(item) = stream.recv().await? {
        stream.send(item).await?;
    }
    Ok(())
}

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// No line is lost, no deadline ends early or late, heartbeats go on, and new actors and new lines are believed.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and faketime"]
async fn a_wall_clock_that_jumps_ends_nothing() -> Result<(), Error> {
    let (hosts, clock) = (Hosts::new(2), WallClock::new());
    let root = teamster::root().transport(Transport::Tcp).listen(at(0)).lost_after(LOST_AFTER);
    let ended = root.open(async |an| {
        let b = clock.of(an.actor("b")).launcher(hosts.launcher(1)).start().await?;
        let opened = b.open_context(echoes(), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            for (n, (offset, days)) in (0..).zip([("+10d", 10), ("-10d", -10), ("+3650d", 3650), ("-3650d", -3650)]) {
                let jumps = async {
                    // They have begun by then: what was asked later has been answered.
                    b.run(add(1, 2)).await?;
                    clock.jumps(offset);
                    let off = b.run(wall_clock_is()).await? - wall_clock();
                    assert!((off - days * DAY).abs() < HOUR, "it has jumped: by {off} s");
                    stream.send(n).await?;
                    assert_eq!(stream.recv().await?, Some(n));
                    let fresh = an.start_actor("fresh").await?;
                    assert_eq!(fresh.run(adds_in(b.clone())).await?, 3, "a new line there");
                    assert_eq!(b.run(adds_in(fresh.clone())).await?, 3, "and back");
                    assert_eq!(b.run(adds_by_a_child(fresh.clone())).await?, 3);
                    fresh.cancel_actor().await?;
                    Ok::<_, Error>(())
                };
                let deadline = 2 * LOST_AFTER; // who is not heard for half of it is lost
                let here = async {
                    let began = Instant::now();
                    let ended = teamster::deadline(deadline, b.run(waits_for_ever())).await;
                    assert!(matches!(ended, Err(Error::Deadline { .. })), "{ended:?}");
                    Ok(began.elapsed())
                };
                let there = async { b.run(waits_until(deadline)).await };
                let (here, there, ()) = tokio::try_join!(here, there, jumps)?;
                for took in [here, there] {
                    assert!(took >= deadline && took < deadline + LOST_AFTER, "{offset}: {took:?}");
                }
            }
            stream.finish().await?;
            Ok(ctx.result().await?)
        });
        Ok(opened.await?)
    });
    ended.await
}
