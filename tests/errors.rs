//! Does a failure arrive as what it was, from wherever it happened?
#![allow(unsafe_code, reason = "an actor that segfaults")]
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use teamster::testing::expect_cancelled;
use teamster::{Error, Portal, SpawnReason, rpc};
use tokio::sync::Semaphore;

#[path = "support/callee.rs"]
mod callee;
use callee::{callee, callees, is_python};

#[teamster::error]
#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("no seat in row {row}")]
struct Full {
    row: u32,
}

#[rpc]
async fn book(row: u32) -> Result<u32, Full> {
    if row > 5 { Err(Full { row }) } else { Ok(row) }
}

#[rpc]
async fn bug() {
    panic!("a bug in row 7")
}

#[rpc]
async fn below(depth: u32) -> teamster::Result<u32> {
    if depth == 0 {
        return Ok(book(9).await?);
    }
    let name = format!("level-{depth}");
    Ok(teamster::open_nursery(async |an| Ok(an.start_actor(&name).await?.run(below(depth - 1)).await?)).await?)
}

#[rpc]
async fn ask(other: Portal, row: u32) -> teamster::Result<u32> {
    Ok(other.run(book(row)).await?)
}

#[rpc]
async fn ask_parent(row: u32) -> teamster::Result<u32> {
    let parent = teamster::parent()?.expect("a child has one");
    Ok(parent.run(book(row)).await?)
}

#[rpc]
async fn stop() -> teamster::Result<()> {
    teamster::cancel_self()?;
    std::future::pending().await
}

#[teamster::test]
async fn a_typed_error_and_a_panic_arrive_whole_and_the_actor_goes_on() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let error = frank.run(book(7)).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 7 }));
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert_eq!((remote.actor(), remote.message()), (frank.aid(), "no seat in row 7"));
        assert!(remote.type_name().ends_with("errors::Full"), "{}", remote.type_name());
        assert!(remote.location().is_some_and(|at| at.starts_with("tests/errors.rs:")), "{remote:?}");
        let error = frank.run(bug()).await.unwrap_err();
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert!(remote.is_panic() && remote.message() == "a bug in row 7" && remote.backtrace().is_some());
        assert!(remote.location().is_some_and(|at| at.starts_with("tests/errors.rs:")), "{remote:?}");
        assert_eq!(frank.run(book(1)).await?, 1);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_error_over_five_hops_keeps_its_origin_and_names_each_hop_once() {
    let error = below(5).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 9 }));
    let printed = error.report().to_string();
    assert_eq!(printed.matches("no seat in row 9").count(), 1, "{printed}");
    for level in 1..=5 {
        assert_eq!(printed.matches(&format!("actor level-{level}@")).count(), 1, "{printed}");
    }
}

#[teamster::test]
async fn calls_between_siblings_and_to_the_parent() {
    teamster::open_nursery(async |an| {
        let pair = [callee(an, "a").start().await?, an.start_actor("b").await?];
        assert_eq!(pair[0].run(ask(pair[1].clone(), 2)).await?, 2);
        assert_eq!(pair[0].run(ask_parent(3)).await?, 3);
        let error = pair[0].run(ask(pair[1].clone(), 8)).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 8 }));
        pair[1].cancel_actor().await?;
        let error = pair[0].run(ask(pair[1].clone(), 2)).await.unwrap_err();
        assert!(error.to_string().contains("died"), "{error:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn what_may_not_be_called_says_so() {
    teamster::open_nursery(async |an| {
        let shut = callee(an, "shut").expose(["nothing"]).start().await?;
        assert!(matches!(shut.run(book(1)).await, Err(Error::NotExposed { .. })));
        assert!(matches!(shut.run(book(1)).await, Err(Error::NotExposed { .. }))); // the line stays up
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_actor_that_cancels_itself_names_itself() {
    let result = teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let aid = frank.aid().clone();
        let canceller = expect_cancelled(frank.run(stop()).await);
        assert_eq!(canceller.aid, aid);
        Ok(())
    })
    .await;
    // Its end may be heard of before the body's: then it is a death like any other.
    assert!(matches!(&result, Ok(()) | Err(Error::ActorDied(_))), "{result:?}");
}

#[rpc]
async fn misuse() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let none: [&str; 0] = [];
        an.start_cluster(none).await?;
        Ok(())
    })
    .await
}

#[rpc]
async fn fail_in_a_nursery(beside: Portal) -> Result<u32, Error> {
    teamster::open_nursery(async |an| {
        let called = an.actor("further-down").call(relay_failure(beside)).await;
        called.map_err(|error| anyhow::Error::new(error).context("no luck").into())
    })
    .await
}

#[rpc]
async fn relay_failure(beside: Portal) -> Result<u32, Error> {
    beside.run(book(9)).await
}

/// What an actor returns as a `teamster::Error` is the same variant where it arrives, and knows where
/// its body failed.
#[teamster::test]
async fn an_error_of_ours_arrives_as_its_variant_and_with_its_actor() {
    teamster::open_nursery(async |an| {
        let (frank, shop) = tokio::try_join!(an.start_actor("frank"), an.start_actor("shop"))?;
        for _ in 0..2 {
            let error = frank.run(misuse()).await.unwrap_err();
            let told = error.downcast_ref::<Error>();
            assert!(matches!(told, Some(Error::Usage(text)) if text.contains("at least one actor")), "{error:?}");
        }
        let error = frank.run(fail_in_a_nursery(shop.clone())).await.unwrap_err();
        let Some(Error::Body(body)) = error.downcast_ref::<Error>() else { panic!("{error:?}") };
        assert_eq!(body.actor(), Some(frank.aid()));
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 9 }));
        // Taken out of its frame, it still says where.
        let alone = Error::Body(body.clone()).report().to_string();
        let first = format!("actor {} (pid {}) failed:\n    no luck\n", frank.aid(), frank.aid().pid());
        assert!(alone.starts_with(&first), "{alone}");
        assert_eq!(alone.matches("actor frank@").count(), 1, "{alone}");
        assert!(alone.contains(&format!("actor {} (pid", shop.aid())), "{alone}");
        assert_eq!(error.report().to_string().matches("actor frank@").count(), 1, "{error:?}");
        Ok(())
    })
    .await
    .unwrap();
}

// ---- several at once

/// Somebody has come here: a permit for each.
static ARRIVED: Semaphore = Semaphore::const_new(0);

#[rpc]
async fn arrive() {
    ARRIVED.add_permits(1);
}

#[rpc]
async fn arrived(count: u32) {
    ARRIVED.acquire_many(count).await.expect("it is never closed").forget();
}

#[rpc]
async fn fail_when_two_are_at(meeting: Portal) -> teamster::Result<()> {
    meeting.run(arrived(2)).await?;
    Err(std::io::Error::other("the first cause").into())
}

/// Fails in the very poll in which it sees that it is cancelled, having said that it is here.
#[rpc]
async fn fail_when_cancelled(meeting: Portal) -> teamster::Result<()> {
    meeting.run(book(1)).await?; // the line is there: the next call leaves with its first poll
    let mut arriving = std::pin::pin!(meeting.run(arrive()));
    let _sent = futures::poll!(arriving.as_mut());
    while !teamster::is_cancelled() {
        std::hint::spin_loop();
    }
    Err(std::io::Error::other("it could not save").into())
}

#[rpc]
async fn sleep_for_ever() {
    pending().await
}

/// C6: whatever had happened is in the group, and the first cause is its first.
#[teamster::test(exclusive)]
async fn three_that_fail_are_a_group_the_first_cause_first_and_each_names_its_actor() {
    let error = teamster::open_nursery(async |an| {
        let meeting = an.start_actor("meeting").await?;
        for name in ["second", "third"] {
            // With time to say so: a backtrace takes a while on a busy machine.
            let late = callee(an, name).grace(std::time::Duration::from_secs(10));
            drop(late.run_in_actor(fail_when_cancelled(meeting.clone())));
        }
        drop(callee(an, "first").run_in_actor(fail_when_two_are_at(meeting)));
        pending::<()>().await;
        Ok(())
    })
    .await
    .unwrap_err();
    let Error::Group(group) = &error else { panic!("{error:?}") };
    let told = group.iter().map(|entry| match entry {
        Error::Remote(remote) => (remote.actor().name(), remote.message()),
        other => panic!("{other:?}"),
    });
    let mut told: Vec<_> = told.collect();
    told[1..].sort_unstable();
    let late = "it could not save";
    assert_eq!(told, [("first", "the first cause"), ("second", late), ("third", late)]);
    assert!(group.primary().to_string().contains("the first cause"));
    let printed = error.report().to_string();
    for name in ["first", "second", "third"] {
        assert!(printed.contains(&format!("actor {name}@")), "{printed}");
    }
}

#[teamster::test]
async fn a_daemons_failure_is_the_error_while_one_shots_sleep_and_when_they_have_ended() {
    for do_sleep in [true, false] {
        let error = teamster::open_nursery(async |an| {
            let frank = callee(an, "frank").start().await?;
            for _ in 0..2 {
                if do_sleep {
                    drop(an.run_in_actor(sleep_for_ever()));
                } else {
                    assert_eq!(an.run_in_actor(book(1)).await?, 1);
                }
            }
            frank.run(book(8)).await?;
            Ok(())
        })
        .await
        .unwrap_err();
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert_eq!((remote.actor().name(), remote.message()), ("frank", "no seat in row 8"));
    }
}

/// Fails, and its clean-up waits for what its own failure has cancelled.
#[rpc]
async fn fail_with_a_futile_clean_up() -> teamster::Result<()> {
    struct CleanUp(Portal);
    impl Drop for CleanUp {
        fn drop(&mut self) {
            let helper = self.0.clone();
            teamster::defer(async move {
                let error = helper.run(sleep_for_ever()).await.unwrap_err();
                assert!(matches!(error, Error::Cancelled { .. } | Error::NotStarted { .. }), "{error:?}");
            });
        }
    }
    teamster::open_nursery(async |an| {
        let helper = an.start_actor("helper").await?;
        let _clean_up = CleanUp(helper.clone());
        helper.run(book(9)).await?;
        Ok(())
    })
    .await?;
    Ok(())
}

#[teamster::test]
async fn a_clean_up_that_is_cancelled_does_not_hide_the_failure() {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let error = frank.run(fail_with_a_futile_clean_up()).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 9 }), "{error:?}");
        let printed = error.report().to_string();
        assert!(!printed.contains("cancelled"), "{printed}");
        Ok(())
    })
    .await
    .unwrap();
}

// ---- long and deep

#[rpc]
async fn shout(depth: u32, length: usize) -> teamster::Result<()> {
    if depth == 0 {
        return Err(std::io::Error::other(format!("begin{}end", "!".repeat(length))).into());
    }
    let name = format!("level-{depth}");
    teamster::open_nursery(async |an| Ok(an.start_actor(&name).await?.run(shout(depth - 1, length)).await?)).await?;
    Ok(())
}

#[teamster::test]
async fn a_long_message_over_six_hops_is_printed_once() {
    const LENGTH: usize = 200 * 1024;
    let error = shout(6, LENGTH).await.unwrap_err();
    let printed = error.report().to_string();
    assert!(printed.len() < LENGTH * 3 / 2, "{} bytes", printed.len());
    assert_eq!((printed.matches("begin!").count(), printed.matches("!end").count()), (1, 1));
    for level in 1..=6 {
        assert_eq!(printed.matches(&format!("actor level-{level}@")).count(), 1);
    }
}

// ---- deaths

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Crash {
    Abort,
    Segfault,
    Overflow,
}

#[rpc]
async fn crash(how: Crash) {
    fn recurse(depth: u64) -> u64 {
        let block = std::hint::black_box([depth; 512]);
        if depth == u64::MAX { 0 } else { recurse(depth + 1) + block[0] }
    }
    match how {
        Crash::Abort => std::process::abort(),
        // SAFETY: no; that is what it is about.
        Crash::Segfault => drop(unsafe { std::ptr::with_exposed_provenance::<u64>(64).read_volatile() }),
        Crash::Overflow => drop(recurse(0)),
    }
}

#[teamster::test]
async fn a_crash_is_a_death_by_its_signal_for_all_that_wait() {
    static LOOKED: AtomicUsize = AtomicUsize::new(0);
    let crashes = [(Crash::Abort, libc::SIGABRT), (Crash::Segfault, libc::SIGSEGV), (Crash::Overflow, libc::SIGABRT)];
    // A Python program that recurses for ever raises a RecursionError.
    let crashes = if is_python() { &crashes[..2] } else { &crashes[..] };
    for &(how, signal) in crashes {
        let is_it = |error: &Error| matches!(error, Error::ActorDied(death) if death.signal() == Some(signal));
        let error = teamster::open_nursery(async |an| {
            let pair = callees(an, &["frank", "sibling"]).await?;
            let [frank, sibling] = [&pair[0], &pair[1]];
            drop(an.run_in_actor(sleep_for_ever()));
            // The nursery hears of it as well: in a shield its cancel waits until all have looked.
            teamster::shield(async {
                let waiting = futures::future::join_all((0..3).map(|_| frank.run(sleep_for_ever())));
                let by_sibling = sibling.run(crash_by(frank.clone(), how));
                let (waiting, by_sibling) = futures::future::join(waiting, by_sibling).await;
                for result in waiting {
                    assert!(is_it(result.as_ref().unwrap_err()), "{how:?}: {result:?}");
                }
                assert!(by_sibling.is_err());
                LOOKED.fetch_add(1, Ordering::Relaxed);
            })
            .await;
            Ok(())
        })
        .await
        .unwrap_err();
        assert!(is_it(&error), "{how:?}: {error:?}");
    }
    assert_eq!(LOOKED.load(Ordering::Relaxed), crashes.len());
}

#[rpc]
async fn crash_by(other: Portal, how: Crash) -> teamster::Result<()> {
    Ok(other.run(crash(how)).await?)
}

/// As a child's `main` would be that fails in its own code before it serves.
#[test]
#[ignore = "a program that the test below starts as an actor"]
fn fails_before_it_serves() {
    eprintln!("the table of rows is missing");
    std::process::exit(7);
}

#[teamster::test]
async fn a_child_that_fails_before_it_serves_fails_its_start() {
    teamster::open_nursery(async |an| {
        let program = teamster::launch::Program::new(std::env::current_exe()?);
        let arguments = ["fails_before_it_serves", "--exact", "--ignored", "--nocapture"];
        let (failed, sibling) =
            futures::join!(an.actor("x").launcher(program).args(arguments).start(), an.start_actor("sibling"));
        let Err(Error::Spawn { reason: SpawnReason::DiedBooting(death), .. }) = &failed else { panic!("{failed:?}") };
        assert_eq!(death.status(), Some(7));
        assert!(death.stderr_tail().contains("the table of rows is missing"), "{death:?}");
        assert_eq!(sibling?.run(book(1)).await?, 1);
        Ok(())
    })
    .await
    .unwrap();
}
