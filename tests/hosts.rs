//! Is a tree over several hosts what it is on one? They are network namespaces, joined by a bridge.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::{ActorNursery, Addr, Error, ExitKind, Portal, RootBuilder, Rung, Transport, context, rpc};

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/namespaces.rs"]
mod namespaces;
use hosts::{Hosts, at, ip};

/// How long a host may be silent here.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// More than a busy machine needs for anything that is to happen at once.
const SOON: Duration = Duration::from_millis(700);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn adds_in(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    Ok(other.run(add(a, b)).await?)
}

/// Starts a child of its own, which calls somebody else: where that child listens, and the sum.
#[rpc]
async fn adds_by_a_child(other: Portal) -> teamster::Result<(Vec<String>, i64)> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("grandchild").await?;
        Ok((told(&child), child.run(adds_in(other.clone(), 2, 3)).await?))
    });
    Ok(block.await?)
}

fn told(portal: &Portal) -> Vec<String> {
    portal.addrs().iter().map(Addr::to_string).collect()
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

#[rpc]
async fn waits_for_ever() {
    std::future::pending().await
}

/// A root on the first host, over TLS.
fn root() -> RootBuilder {
    teamster::root().transport(Transport::Tcp).listen(at(0)).lost_after(LOST_AFTER).grace(Duration::from_secs(5))
}

async fn start(an: &ActorNursery, hosts: &Hosts, host: usize, name: &str) -> Result<Portal, Error> {
    an.actor(name).launcher(hosts.launcher(host)).start().await
}

#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_tree_is_the_same_over_three_hosts() -> Result<(), Error> {
    let hosts = Hosts::new(3);
    let ended = root().open(async |an| {
        let near = an.start_actor("near").await?;
        let (b, c) = (start(an, &hosts, 1, "b").await?, start(an, &hosts, 2, "c").await?);
        for (portal, host) in [(&teamster::this_actor()?, 0), (&near, 0), (&b, 1), (&c, 2)] {
            let told = told(portal);
            assert!(told[0].starts_with("/ip4/127.0.0.1/tcp/"), "{told:?}: the nearest comes first");
            assert!(told[1].starts_with(&format!("/ip4/{}/tcp/", ip(host))), "{told:?}");
        }
        for one in [&near, &b, &c] {
            for other in [&near, &b, &c, &teamster::this_actor()?] {
                assert_eq!(one.run(adds_in(other.clone(), 1, 2)).await?, 3, "{} and {}", one.aid(), other.aid());
            }
        }
        let (told, sum) = b.run(adds_by_a_child(c.clone())).await?;
        assert_eq!(sum, 5);
        assert!(
            told[1].starts_with(&format!("/ip4/{}/tcp/", ip(1))),
            "it listens where its parent is reached: {told:?}"
        );
        let receipt = c.cancel_actor().await?;
        assert_eq!(receipt.rung, Some(Rung::Cancel));
        assert_eq!(b.run(add(1, 1)).await?, 2);
        Ok(())
    });
    ended.await
}

#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_link_that_comes_back_in_time_has_ended_nothing() -> Result<(), Error> {
    let hosts = Hosts::new(2);
    let lost_after = Duration::from_secs(5);
    let ended = root().lost_after(lost_after).open(async |an| {
        let b = start(an, &hosts, 1, "b").await?;
        let opened = b.open_context(echoes(), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            for n in 0..30 {
                if n == 10 {
                    hosts.unplug(1);
                }
                stream.send(n).await?;
                if n == 10 {
                    tokio::time::sleep(Duration::from_secs(1)).await; // the time that it is out
                    hosts.plug(1);
                }
                assert_eq!(stream.recv().await?, Some(n));
            }
            stream.finish().await?;
            Ok(ctx.result().await?)
        });
        Ok(opened.await?)
    });
    ended.await
}

/// Both sides end, each by itself: the child in less time than its parent would give it.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_link_that_stays_down_ends_both_sides() {
    let hosts = Hosts::new(2);
    let mut cut_at = None;
    let ended = root().open(async |an| {
        let b = start(an, &hosts, 1, "b").await?;
        assert_eq!(b.run(add(1, 1)).await?, 2);
        hosts.unplug(1);
        cut_at = Some(Instant::now());
        Ok(b.run(waits_for_ever()).await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    let took = cut_at.expect("it was cut").elapsed();
    assert!(death.to_string().contains("its host, or the network to it, had been silent for"), "{death}");
    assert_eq!(death.exit(), ExitKind::Status(0), "nobody had to kill it: {death}");
    assert!(took >= LOST_AFTER - LOST_AFTER / 5, "{took:?}"); // a heartbeat may have come just before
    assert!(took < LOST_AFTER + SOON, "{took:?}");
}

/// Whichever direction it is that is lost.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_link_that_carries_only_one_way_ends_both_sides() {
    for (from, to) in [(1, 0), (0, 1)] {
        let hosts = Hosts::new(2);
        let mut cut_at = None;
        let ended = root().open(async |an| {
            let b = start(an, &hosts, 1, "b").await?;
            hosts.lose(from, to);
            cut_at = Some(Instant::now());
            Ok(b.run(waits_for_ever()).await?)
        });
        let Err(Error::ActorDied(death)) = ended.await else { panic!("{from} to {to}: it has died") };
        let took = cut_at.expect("it was cut").elapsed();
        assert!(took < 2 * LOST_AFTER + SOON, "{from} to {to}: {took:?}, {death}");
        assert_eq!(death.exit(), ExitKind::Status(0), "{from} to {to}: {death}");
    }
}

/// In the middle of a stream, which is full of items both ways: none is missing before its end, and that is an error.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_stream_ends_with_a_link_that_carries_only_one_way() {
    for (from, to) in [(1, 0), (0, 1)] {
        let hosts = Hosts::new(2);
        let (mut cut_at, mut failed) = (None, None);
        let ended = root().open(async |an| {
            let b = start(an, &hosts, 1, "b").await?;
            let opened = b.open_context(echoes(), async |ctx, ()| {
                let (mut sending, mut receiving) = ctx.open_stream().await?.split();
                let send = async {
                    for n in 0.. {
                        sending.send(n).await?;
                    }
                    Ok(())
                };
                let receive = async {
                    for n in 0.. {
                        assert_eq!(receiving.recv().await?, Some(n), "it has not ended well, and nothing is missing");
                        if n == 10_000 {
                            hosts.lose(from, to);
                            cut_at = Some(Instant::now());
                        }
                    }
                    Ok::<(), Error>(())
                };
                // The loss would cut off this body.
                teamster::shield(async { failed = Some(tokio::join!(send, receive)) }).await;
                Ok(())
            });
            Ok(opened.await?)
        });
        let Err(Error::ActorDied(death)) = ended.await else { panic!("{from} to {to}: it has died") };
        let took = cut_at.expect("it was cut").elapsed();
        assert!(took < 2 * LOST_AFTER + SOON, "{from} to {to}: {took:?}, {death}");
        assert_eq!(death.exit(), ExitKind::Status(0), "{from} to {to}: {death}");
        let (sent, received) = failed.expect("the shield runs to its end");
        for error in [sent.expect_err("nobody takes them"), received.expect_err("no more come")] {
            assert!(matches!(error, Error::ActorDied(_) | Error::Unknown { .. }), "{from} to {to}: {error:?}");
        }
    }
}

#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_host_that_is_frozen_for_a_moment_is_late_and_not_lost() -> Result<(), Error> {
    let hosts = Hosts::new(2);
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let ended = root().open(async |an| {
        let b = start(an, &hosts, 1, "b").await?;
        assert_eq!(b.run(add(1, 1)).await?, 2, "it is not booting any more");
        kill_process(pid(&b), Signal::STOP)?;
        tokio::time::sleep(LOST_AFTER / 2).await; // as long as it is frozen
        kill_process(pid(&b), Signal::CONT)?;
        assert_eq!(b.run(add(1, 1)).await?, 2);
        log.waits_for("an actor on another host is late").await;
        Ok(())
    });
    ended.await
}

/// What was logged here.
#[derive(Clone, Default)]
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    more: Arc<tokio::sync::Notify>,
}

impl Log {
    async fn waits_for(&self, part: &str) {
        while !String::from_utf8_lossy(&self.text.lock().expect("nobody panics here")).contains(part) {
            self.more.notified().await;
        }
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.lock().expect("nobody panics here").extend_from_slice(bytes);
        self.more.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn a_frozen_host_is_lost() {
    let hosts = Hosts::new(2);
    let grace = Duration::from_millis(500);
    let mut frozen_at = None;
    let ended = root().grace(grace).open(async |an| {
        let b = start(an, &hosts, 1, "b").await?;
        kill_process(pid(&b), Signal::STOP)?;
        frozen_at = Some(Instant::now());
        Ok(b.run(waits_for_ever()).await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    let took = frozen_at.expect("it was frozen").elapsed();
    assert!(took < LOST_AFTER + grace + SOON, "{took:?}");
    assert!(death.to_string().contains("silent"), "{death}");
    assert_eq!(death.exit(), ExitKind::Signal(9), "it could not end by itself: {death}");
}

fn pid(portal: &Portal) -> Pid {
    Pid::from_raw(portal.aid().pid().cast_signed()).expect("it is a process")
}

/// Starts a child on the host that this command leads to, tells its pid, and keeps it.
#[context]
async fn keeps_a_child(ctx: teamster::Context<u32>, prefix: Vec<String>) -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        let launcher = teamster::launch::Command::new(prefix.clone());
        let leaf = an.actor("leaf").launcher(launcher).grace(Duration::from_millis(300)).start().await?;
        ctx.started(leaf.aid().pid()).await?;
        Ok(leaf.run(waits_for_ever()).await?)
    });
    Ok(block.await?)
}

/// Its parent's process is frozen, and not ended before the leaf has seen to itself.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn an_actor_whose_parents_host_is_frozen_ends_by_itself() {
    let hosts = Hosts::new(3);
    let ended = root().grace(Duration::from_secs(60)).open(async |an| {
        let mid = start(an, &hosts, 1, "mid").await?;
        let opened = mid.open_context(keeps_a_child(hosts.prefix(2)), async |_ctx, leaf| {
            let leaf = Pid::from_raw(leaf.cast_signed()).expect("it is a process");
            kill_process(pid(&mid), Signal::STOP)?;
            // The root loses it at the same time, which cuts off this body.
            Ok(teamster::shield(outlives_its_parent(leaf, pid(&mid))).await?)
        });
        Ok(opened.await?)
    });
    let ended = ended.await;
    assert!(matches!(&ended, Err(Error::ActorDied(_) | Error::Group(_))), "{ended:?}");
}

/// A leaf ends though its parent, which stands still, does not; then that may end too.
async fn outlives_its_parent(leaf: Pid, parent: Pid) -> std::io::Result<()> {
    let frozen_at = Instant::now();
    // Nobody reaps it: it is over when it is a zombie.
    while !is_over(leaf) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(frozen_at.elapsed() < Duration::from_secs(10), "the leaf lives");
    }
    let took = frozen_at.elapsed();
    assert!(took < LOST_AFTER + SOON, "{took:?}");
    assert!(!is_over(parent), "its parent is still there");
    Ok(kill_process(parent, Signal::KILL)?)
}

fn is_over(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Holds itself as a debugger does, and stands still altogether for longer than a host may be silent.
#[rpc]
async fn is_held() -> std::io::Result<()> {
    let held = teamster::__private::hold_this_actor().map_err(std::io::Error::other)?;
    let stopped = format!("sleep 2; kill -CONT {}", std::process::id());
    let mut helper = std::process::Command::new("sh").args(["-c", &stopped]).spawn()?;
    kill_process(rustix::process::getpid(), Signal::STOP)?;
    helper.wait()?;
    drop(held);
    Ok(())
}

/// One that is held is not silent: neither to its parent, nor to a child of its own on a third host.
#[teamster::test]
#[ignore = "needs root's rights and iproute2"]
async fn whoever_is_held_by_a_debugger_is_not_lost() -> Result<(), Error> {
    let hosts = Hosts::new(3);
    let ended = root().open(async |an| {
        let mid = start(an, &hosts, 1, "mid").await?;
        let opened = mid.open_context(keeps_a_child(hosts.prefix(2)), async |ctx, leaf| {
            mid.run(is_held()).await?;
            // Whoever had lost the other would have said so by now.
            tokio::time::sleep(LOST_AFTER * 3 / 2).await;
            let leaf = Pid::from_raw(leaf.cast_signed()).expect("it is a process");
            assert!(!is_over(leaf), "the leaf has not given its parent up");
            assert_eq!(mid.run(add(1, 1)).await?, 2);
            ctx.cancel().await?;
            Ok(())
        });
        Ok(opened.await?)
    });
    ended.await
}
