//! Do two linked tasks begin, end, fail and cancel together, in every order?
#![allow(
    clippy::disallowed_methods,
    clippy::unnecessary_operation,
    clippy::never_loop,
    clippy::while_immutable_condition,
    reason = "tasks that the test's end waits for; bodies that stand for what a user may write"
)]
use std::future::pending;
use std::pin::pin;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use teamster::testing::harness::{TestOptions, test};
use teamster::testing::{KillAtRandom, expect_cancelled, open_dialogs, rounds, seed, state, wait_gone};
use teamster::{
    Aid, BoxError, CancelRequest, Canceller, CodecStep, Context, ContextEndpoint, ContextHandle, Error, Outcome,
    Portal, PortalContext, context, current_context, rpc, this_actor,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[path = "support/starved.rs"]
mod starved;
use starved::Moment;

#[path = "support/board.rs"]
mod board;
#[path = "support/callee.rs"]
mod callee;
#[path = "support/prompt.rs"]
mod prompt;
use board::{
    AT_ONCE, Guard, are_our_tables_empty, at_once, heard, hears, is_empty, running, runs, say, say_here, wipe,
};
use callee::{callee, is_python};
use prompt::promptly;

const AN_HOUR: Duration = Duration::from_secs(3600);

// ---- what the actors do

#[context]
async fn simple(ctx: Context<u32>, from: u32) -> teamster::Result<String> {
    let _guard = Guard::new();
    ctx.started(from + 1).await?;
    Ok(format!("done with {from}"))
}

#[context]
async fn holds(ctx: Context<u32, u32, u32>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(7).await?;
    pending().await
}

/// What a callee does, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Step {
    Start,
    Open,
    Item(u32),
    /// Sends numbers without end.
    Stream,
    /// Receives one item.
    Receive,
    /// Receives until the end.
    Drain,
    Finish,
    /// Waits until the word "go" is said in its actor.
    Wait,
    Hold,
    Fail,
    CancelItself,
    /// Says "there" in its actor.
    Say,
}
use Step::*;

const OPEN: &str = "the script opens it first";

/// Gives the sum of what it has received.
#[context]
async fn plays(ctx: Context<u32, u32, u32>, steps: Vec<Step>) -> teamster::Result<u32> {
    let _guard = Guard::new();
    let mut opened = None;
    let mut sum = 0;
    for step in steps {
        let stream = opened.as_mut();
        match step {
            Start => ctx.started(7).await?,
            Open => opened = Some(ctx.open_stream().await?),
            Item(item) => stream.expect(OPEN).send(item).await?,
            Stream => {
                let stream = stream.expect(OPEN);
                for item in 0.. {
                    stream.send(item).await?;
                }
            }
            Receive => sum += stream.expect(OPEN).recv().await?.expect("an item comes"),
            Drain => {
                let stream = stream.expect(OPEN);
                while let Some(item) = stream.recv().await? {
                    sum += item;
                }
            }
            Finish => stream.expect(OPEN).finish().await?,
            Wait => heard("go").await,
            Hold => pending().await,
            Fail => Err(std::io::Error::other("the callee failed"))?,
            CancelItself => ctx.cancel().await,
            Say => say_here("there"),
        }
    }
    Ok(sum)
}

/// A root whose machine may be busy: a task that ends when it is asked to is never too late.
fn patient() -> teamster::RootBuilder {
    teamster::root().grace(Duration::from_secs(10))
}

/// Runs `test` with an actor, in which nothing must be left.
async fn with_one(test: impl AsyncFnOnce(&Portal) -> Result<(), BoxError>) {
    with_threads(1, test).await;
}

async fn with_threads(threads: u32, test: impl AsyncFnOnce(&Portal) -> Result<(), BoxError>) {
    let ended = patient().open(async |an| {
        let frank = callee(an, "frank").threads(threads).start().await?;
        test(&frank).await?;
        is_empty(&frank).await?;
        are_our_tables_empty().await
    });
    ended.await.unwrap();
}

/// The same with a second actor.
async fn with_two(test: impl AsyncFnOnce(&Portal, &Portal) -> Result<(), BoxError>) {
    let ended = patient().open(async |an| {
        let (frank, third) = tokio::try_join!(callee(an, "frank").start(), an.start_actor("third"))?;
        test(&frank, &third).await?;
        is_empty(&frank).await?;
        is_empty(&third).await?;
        are_our_tables_empty().await
    });
    ended.await.unwrap();
}

/// The text of an error that a callee failed with.
#[track_caller]
fn remote(error: Error) -> String {
    match error {
        Error::Remote(remote) => remote.message().to_owned(),
        other => panic!("{other:?}"),
    }
}

// ---- beginning and ending well (X1, X3, X4, S4.88, 89)

#[teamster::test]
async fn the_first_word_the_body_and_the_result() {
    with_one(async |frank| {
        let result = frank
            .open_context(simple(10), async |ctx, first| {
                assert_eq!(first, 11);
                assert_eq!(ctx.first()?, 11);
                assert_eq!(ctx.peer(), frank.aid());
                assert!(ctx.endpoint().ends_with("simple"), "{}", ctx.endpoint());
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(result, "done with 10");
        assert_eq!(frank.run(running()).await?, 0, "both have ended");
        // Twice the same, and by a clone, after the end.
        let kept = frank.open_context(simple(1), async |ctx, _| Ok(ctx.clone())).await?;
        assert_eq!(kept.result().await?, "done with 1");
        assert_eq!(kept.result().await?, "done with 1");
        assert!(matches!(kept.outcome().await, Outcome::Returned(result) if result == "done with 1"));
        assert!(kept.has_ended() && !kept.is_cancelled());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_body_that_is_over_waits_for_its_task() {
    with_one(async |frank| {
        let mut block = pin!(frank.open_context(plays(vec![Start, Wait]), async |_, first| Ok(first)));
        tokio::select! {
            ended = &mut block => panic!("its task has not ended: {ended:?}"),
            begun = frank.run(runs(1)) => begun?,
        }
        tokio::select! {
            ended = &mut block => panic!("its task has not ended: {ended:?}"),
            still = frank.run(running()) => assert_eq!(still?, 1),
        }
        frank.run(say("go".into())).await?;
        assert_eq!(at_once("the block's end", block).await?, 7);
        assert_eq!(frank.run(running()).await?, 0);
        Ok(())
    })
    .await;
}

/// What is in transit never reaches the next one.
#[teamster::test]
async fn a_body_that_is_over_ends_a_task_that_goes_on_sending() {
    with_one(async |frank| {
        for keeps_its_stream in [true, false] {
            let mut kept = None;
            let block = frank.open_context(plays(vec![Start, Open, Stream]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                let got = [stream.recv().await?, stream.recv().await?];
                kept = Some(stream).filter(|_| keeps_its_stream);
                Ok(got)
            });
            assert_eq!(at_once("its end", block).await?, [Some(0), Some(1)]);
            assert_eq!(frank.run(running()).await?, 0);
            if let Some(mut stream) = kept {
                while stream.recv().await?.is_some() {} // what had come by then, and no more
            }
            let next = frank.open_context(plays(vec![Start, Open, Item(77)]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                Ok([stream.recv().await?, stream.recv().await?])
            });
            assert_eq!(next.await?, [Some(77), None]);
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_body_that_is_over_ends_the_stream_and_the_task_gives_its_result() {
    with_one(async |frank| {
        let mut kept = None;
        frank
            .open_context(plays(vec![Start, Open, Item(1), Drain, Item(2), Item(3)]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                stream.send(40).await?;
                stream.send(2).await?;
                kept = Some((ctx.clone(), stream)); // it is not the stream's drop that ends it
                Ok(())
            })
            .await?;
        let (ctx, _stream) = kept.expect("the body ran");
        assert_eq!(ctx.result().await?, 42, "what was sent came, and what it sent to nobody is no error");
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_task_that_returns_early_ends_the_stream_and_not_the_body() {
    with_one(async |frank| {
        // It sends nothing, something, and is sent something that it does not read.
        for (steps, items, sends) in [
            (vec![Start, Open], vec![], false),
            (vec![Start, Open, Item(1), Item(2)], vec![1, 2], false),
            (vec![Start, Open, Wait], vec![], true),
            (vec![Start, Open, Receive, Item(1)], vec![1], true),
        ] {
            let (sum, got) = frank
                .open_context(plays(steps.clone()), async |ctx, _| {
                    let mut stream = ctx.open_stream().await?;
                    if sends {
                        stream.send(5).await?;
                    }
                    frank.run(say("go".into())).await?;
                    let mut got = Vec::new();
                    while let Some(item) = stream.recv().await? {
                        got.push(item);
                    }
                    for _ in 0..100 {
                        assert_eq!(stream.recv().await?, None, "the end is said again");
                    }
                    // Nobody hears it, and nobody could know.
                    stream.send(6).await?;
                    Ok((ctx.result().await?, got))
                })
                .await?;
            assert_eq!(got, items, "{steps:?}");
            assert_eq!(sum, if steps.contains(&Receive) { 5 } else { 0 });
        }
        Ok(())
    })
    .await;
}

/// More than the credit, and a stream that was left on purpose.
#[teamster::test]
async fn sending_to_somebody_who_is_gone_is_told_in_the_end() {
    with_one(async |frank| {
        let closed = frank
            .open_context(plays(vec![Start, Open]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                assert_eq!(ctx.result().await?, 0);
                loop {
                    if let Err(error) = stream.send(1).await {
                        return Ok(error);
                    }
                }
            })
            .await?;
        assert!(matches!(&closed, Error::StreamClosed { aid, .. } if aid == frank.aid()), "{closed:?}");
        Ok(())
    })
    .await;
}

/// As `yes | head` is no failure: the task's error says no more than that we have left.
#[teamster::test]
async fn a_task_that_fails_because_we_left_its_stream_is_no_failure() {
    with_one(async |frank| {
        let (item, ended) = frank
            .open_context(plays(vec![Start, Open, Stream]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                let item = stream.recv().await?;
                drop(stream);
                let ended = ctx.result().await;
                tokio::task::yield_now().await; // the body is not interrupted
                Ok((item, ended))
            })
            .await?;
        assert_eq!(item, Some(0));
        let ended = ended.expect_err("it fails over there");
        let closed = ended.downcast_ref::<Error>();
        assert!(matches!(closed, Some(Error::StreamClosed { .. })), "{ended:?}");
        Ok(())
    })
    .await;
}

// ---- failing (X2, X5, X6, X10, S4.84, 87, 97)

#[teamster::test]
async fn each_misuse_is_told_at_the_callees_own_line() {
    with_one(async |frank| {
        for (steps, text) in [
            (vec![], "without `started`"),
            (vec![Start, Start], "`started` was called twice"),
            (vec![Start, Open, Start, Hold], "`started` was called twice"),
            (vec![Open], "the stream was opened before `started`"),
            (vec![Start, Open, Open], "it was opened already"),
            (vec![Start, Open, Finish, Item(1)], "has finished its stream"),
        ] {
            let block = frank.open_context(plays(steps.clone()), async |_, _| -> Result<(), BoxError> {
                tokio::time::sleep(AN_HOUR).await;
                Ok(())
            });
            let error = at_once("the callee's failure", block).await.expect_err("it is a mistake");
            let Error::Remote(remote) = &error else { panic!("{steps:?}: {error:?}") };
            assert!(remote.message().contains(text), "{steps:?}: {error}");
            assert_eq!(remote.actor(), frank.aid());
            let line = remote.location().expect("it is known");
            let file = if is_python() { "tests/python/partner.py:" } else { "tests/contexts.rs:" };
            assert!(line.contains(file), "{steps:?}: {line}");
        }
        Ok(())
    })
    .await;
}

/// Says its first word, and then keeps its thread until it is killed.
#[context]
async fn say_and_spin(ctx: Context<u8>) -> teamster::Result<()> {
    ctx.started(7).await?;
    loop {
        std::hint::spin_loop();
    }
}

#[teamster::test(exclusive)]
async fn a_first_word_arrives_also_from_a_task_that_keeps_its_thread() {
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let ctx = at_once("the first word", frank.context(say_and_spin())).await?;
        assert_eq!(ctx.first()?, 7);
        frank.kill_actor().await?;
        Ok(())
    })
    .await;
    ended.expect("it was killed as it was asked");
}

#[teamster::test(exclusive)]
async fn a_callee_that_fails_interrupts_the_body_at_once() {
    with_one(async |frank| {
        for steps in [vec![Start, Wait, Fail], vec![Start, Open, Item(1), Wait, Fail]] {
            promptly("the callee's failure", async || {
                frank.run(wipe()).await?;
                let mut failed = None;
                let block = frank.open_context(plays(steps.clone()), async |_, _| -> Result<(), BoxError> {
                    failed = Some(Instant::now());
                    frank.run(say("go".into())).await?;
                    tokio::time::sleep(AN_HOUR).await;
                    Ok(())
                });
                let error = at_once("the callee's failure", block).await.expect_err("it failed");
                assert_eq!(remote(error), "the callee failed");
                Ok(failed.expect("the body ran").elapsed())
            })
            .await;
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_callee_that_fails_before_its_first_word_leaves_the_body_unrun() {
    with_one(async |frank| {
        let mut has_run = false;
        let ended = frank
            .open_context(plays(vec![Fail]), async |_, _| {
                has_run = true;
                Ok(())
            })
            .await;
        assert_eq!(remote(ended.expect_err("it failed")), "the callee failed");
        assert!(!has_run);
        Ok(())
    })
    .await;
}

#[expect(clippy::disallowed_methods, reason = "a body that does not await is what this is about")]
fn spin() {
    std::thread::sleep(Duration::from_secs(2));
}

/// Without waiting for the answer, which would be interrupted.
fn have_go_said(frank: &Portal) {
    let frank = frank.clone();
    tokio::spawn(async move { frank.run(say("go".into())).await });
}

/// At the first await that gives it a chance, or where the body ends.
#[teamster::test(exclusive)]
async fn a_failure_that_comes_while_the_body_spins_is_not_lost() {
    with_one(async |frank| {
        for body_awaits in [true, false] {
            let mut has_gone_on = false;
            frank.run(wipe()).await?;
            let block = frank.open_context(plays(vec![Start, Wait, Fail]), async |_, _| {
                have_go_said(frank);
                spin();
                if body_awaits {
                    tokio::time::sleep(AN_HOUR).await;
                }
                has_gone_on = true;
                Ok(())
            });
            let error = at_once("the end", block).await.expect_err("it failed");
            assert_eq!(remote(error), "the callee failed");
            assert_eq!(has_gone_on, !body_awaits);
        }
        Ok(())
    })
    .await;
}

#[teamster::test(flavor = "multi_thread", worker_threads = 2, exclusive)]
async fn two_failures_at_once_stand_beside_each_other() {
    with_one(async |frank| {
        let both_fail = async |words: fn(Option<Error>) -> BoxError, asks: bool| {
            frank.run(wipe()).await?;
            let block = frank.open_context(plays(vec![Start, Wait, Fail]), async |ctx, _| -> Result<(), BoxError> {
                have_go_said(frank);
                while !ctx.has_ended() {
                    std::hint::spin_loop(); // another thread reads its end
                }
                // What is there already is no reason to wait, and so none to be interrupted.
                Err(words(if asks { ctx.result().await.err() } else { None }))
            });
            Ok::<Error, BoxError>(block.await.expect_err("both failed"))
        };
        let error = both_fail(|_| "the body failed".into(), false).await?;
        let Error::Group(group) = &error else { panic!("both are kept: {error:?}") };
        let told: Vec<String> = group.iter().map(Error::to_string).collect();
        assert!(told[0] == "the body failed" && told[1].ends_with("the callee failed"), "{told:?}");
        // The same failure twice is one.
        let error = both_fail(|told| told.expect("it failed").into(), true).await?;
        assert_eq!(remote(error), "the callee failed");
        // A body that was told, and says it in its own words, has said it.
        let error = both_fail(|told| format!("in my words: {}", told.expect("it failed")).into(), true).await?;
        assert!(error.to_string().starts_with("in my words: "), "{error:?}");
        Ok(())
    })
    .await;
}

/// Its clean-up, once it is cancelled.
#[context]
async fn cleans_up(ctx: Context<u32>) -> teamster::Result<()> {
    let _guard = Guard::new();
    teamster::shield(async {
        ctx.started(7).await?;
        teamster::cancelled().await;
        tokio::task::yield_now().await;
        say_here("cleaned up");
        Ok(())
    })
    .await
}

/// Fails in the very poll in which it sees the cancel: it is not dropped before.
#[context]
async fn fails_when_cancelled(ctx: Context<u32>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(7).await?;
    let _telling = get_stuck().await;
    while !teamster::is_cancelled() {
        std::hint::spin_loop();
    }
    Err(std::io::Error::other("the clean-up failed"))?
}

/// Tells the parent that this runtime gets stuck now, and what to keep meanwhile: the word leaves with its
/// first poll, and no await follows.
async fn get_stuck() -> impl Future<Output = Result<(), Error>> {
    let parent = teamster::parent().expect("we are an actor").expect("we are not the root");
    let mut telling = Box::pin(async move { parent.run(say("stuck".into())).await });
    assert!(futures::poll!(telling.as_mut()).is_pending());
    telling
}

#[expect(clippy::disallowed_methods, reason = "a runtime that is stuck is what this is about")]
fn block_the_runtime() {
    std::thread::sleep(Duration::from_secs(60));
}

#[teamster::test]
async fn a_body_that_fails_cancels_the_callee_and_waits_for_its_clean_up() {
    with_one(async |frank| {
        let error = frank
            .open_context(cleans_up(), async |_, _| -> Result<(), BoxError> { Err("the body failed".into()) })
            .await
            .expect_err("the body failed");
        assert_eq!(error.to_string(), "the body failed");
        assert_eq!(frank.run(running()).await?, 0);
        at_once("it has cleaned up", frank.run(hears("cleaned up".into()))).await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_body_that_panics_ends_the_callee_and_goes_on_panicking() {
    use futures::FutureExt;
    with_one(async |frank| {
        let block = frank
            .open_context(cleans_up(), async |_, _| -> Result<(), BoxError> { std::panic::panic_any("on purpose") });
        let panic = std::panic::AssertUnwindSafe(block).catch_unwind().await.expect_err("it panics");
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert_eq!(frank.run(running()).await?, 0);
        at_once("it has cleaned up", frank.run(hears("cleaned up".into()))).await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_peers_absorbed_cancel_swallows_no_error_of_the_body() {
    with_two(async |frank, third| {
        let error = frank
            .open_context(holds(), async |_, _| -> Result<(), BoxError> {
                third.open_context(holds(), async |peer, _| Ok(peer.cancel().await?)).await?;
                Err("the body failed".into())
            })
            .await
            .expect_err("the body failed");
        assert_eq!(error.to_string(), "the body failed");
        // Both at once, in one body.
        let error = frank
            .open_context(holds(), async |ctx, _| -> Result<(), BoxError> {
                let other = third.context(holds()).await?;
                other.cancel().await?;
                ctx.cancel().await?;
                Err("the body failed".into())
            })
            .await
            .expect_err("the body failed");
        assert_eq!(error.to_string(), "the body failed");
        Ok(())
    })
    .await;
}

/// Opens a context into a fourth, fails, and cancels that one on its way out.
#[context]
async fn fails_and_cancels(ctx: Context, fourth: Portal, owned: bool) -> teamster::Result<()> {
    let _guard = Guard::new();
    if !owned {
        let inner = fourth.open_context(holds(), async |_, _| -> Result<(), BoxError> {
            ctx.started(()).await?;
            Err(std::io::Error::other("the callee failed"))?
        });
        return Ok(inner.await?);
    }
    let inner = fourth.context(holds()).await?;
    ctx.started(()).await?;
    let failed = Err(std::io::Error::other("the callee failed"));
    inner.cancel().await?;
    Ok(failed?)
}

#[teamster::test]
async fn a_failure_is_not_masked_by_a_cancel_in_its_clean_up() {
    with_two(async |frank, fourth| {
        for owned in [true, false] {
            let error = frank
                .open_context(fails_and_cancels(fourth.clone(), owned), async |_, ()| -> Result<(), BoxError> {
                    pending().await
                })
                .await
                .expect_err("it failed");
            assert_eq!(remote(error), "the callee failed");
            assert_eq!(fourth.run(running()).await?, 0, "its end was waited for");
        }
        Ok(())
    })
    .await;
}

// ---- cancels and who has asked (X7, X8, X9, S4.77 to 82, 93)

#[teamster::test]
async fn a_cancel_that_we_asked_for_is_absorbed() {
    with_one(async |frank| {
        for steps in [vec![Start, Hold], vec![Start, Open, Stream], vec![Start, Open, Drain, Hold]] {
            let kept = frank
                .open_context(plays(steps), async |ctx, _| {
                    at_once("its end", ctx.cancel()).await?;
                    assert!(ctx.is_cancelled() && ctx.has_ended());
                    assert_eq!(frank.run(running()).await?, 0, "a cancel that has returned has ended it");
                    // Twice, by a clone, and after the end: no error, and no wait.
                    ctx.cancel().await?;
                    ctx.clone().cancel().await?;
                    let by = expect_cancelled(ctx.result().await);
                    assert_eq!((by.aid, by.request), (this_actor()?.aid().clone(), CancelRequest::Context));
                    assert_eq!(ctx.outcome().await.to_string(), "cancelled by me");
                    Ok(ctx.clone())
                })
                .await?;
            assert_eq!(kept.outcome().await.to_string(), "cancelled by me");
            kept.cancel().await?;
        }
        Ok(())
    })
    .await;
}

/// Neither where the body has a value, nor where it is cut off by it.
#[teamster::test]
async fn a_failure_in_the_clean_up_is_not_absorbed() {
    with_one(async |frank| {
        for has_value in [true, false] {
            wipe().await?;
            let ended = frank
                .open_context(fails_when_cancelled(), async |ctx, _| {
                    heard("stuck").await;
                    if has_value {
                        current_context().expect("it is in one").cancel(); // and not waited for
                        return Ok(());
                    }
                    ctx.cancel().await?;
                    pending().await
                })
                .await;
            assert_eq!(remote(ended.expect_err("its clean-up failed")), "the clean-up failed");
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_cancel_of_the_whole_actor_is_raised() {
    for _ in 0..rounds(100) {
        let ended = teamster::open_nursery(async |an| {
            let frank = an.start_actor("frank").await?;
            let mut outcome = None;
            let block = frank.open_context(holds(), async |ctx, _| {
                let (ctx, frank) = (ctx.clone(), frank.clone());
                outcome = Some(ctx);
                frank.cancel_actor().await?;
                Ok(())
            });
            let by = expect_cancelled(block.await);
            assert_eq!((&by.aid, &by.request), (this_actor()?.aid(), &CancelRequest::Actor));
            let outcome = outcome.expect("the body ran").outcome().await;
            assert!(matches!(&outcome, Outcome::Cancelled { canceller } if *canceller == by), "{outcome:?}");
            Ok(())
        });
        ended.await.unwrap();
    }
}

#[teamster::test]
async fn a_result_that_was_there_before_the_cancel_stays() {
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let result = frank
            .open_context(simple(1), async |ctx, _| {
                ctx.result().await?;
                ctx.cancel().await?;
                assert!(matches!(ctx.outcome().await, Outcome::Returned(_)));
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(result, "done with 1");
        is_empty(&frank).await?;
        let result = frank
            .open_context(simple(2), async |ctx, _| {
                ctx.result().await?;
                frank.cancel_actor().await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(result, "done with 2");
        are_our_tables_empty().await
    });
    ended.await.unwrap();
}

#[teamster::test]
async fn a_callee_that_cancels_itself_is_named() {
    with_one(async |frank| {
        for steps in [
            vec![CancelItself, Hold],
            vec![Start, CancelItself, Hold],
            vec![Start, Open, CancelItself, Hold],
            vec![Start, Open, Item(1), Receive, CancelItself, Hold],
        ] {
            let mut kept = None;
            let block = frank.open_context(plays(steps.clone()), async |ctx, _| {
                kept = Some(ctx.clone());
                if steps.contains(&Receive) {
                    ctx.open_stream().await?.send(1).await?;
                }
                tokio::time::sleep(AN_HOUR).await;
                Ok(())
            });
            let error = at_once("the cancel", block).await.expect_err("it is raised");
            assert!(error.to_string().contains("itself"), "{error}");
            let by = expect_cancelled::<()>(Err(error));
            assert_eq!((&by.aid, &by.request), (frank.aid(), &CancelRequest::Itself));
            // Where both words come at once, the body is not begun.
            let Some(kept) = kept else { continue };
            assert!(matches!(kept.outcome().await, Outcome::Cancelled { canceller } if canceller == by));
            let refused = kept.open_stream().await.expect_err("it has ended");
            assert!(matches!(refused, Error::Usage(_)), "{refused:?}");
        }
        Ok(())
    })
    .await;
}

#[context]
async fn cancels_itself_in_a_shield(ctx: Context<(), u32, u32>) -> teamster::Result<()> {
    let _guard = Guard::new();
    teamster::shield(async {
        ctx.started(()).await?;
        ctx.cancel().await;
        let refused = ctx.open_stream().await.expect_err("it is cancelled");
        say_here(&refused.to_string());
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_callee_opens_no_stream_once_it_is_cancelled() {
    with_one(async |frank| {
        let ended = frank.open_context(cancels_itself_in_a_shield(), async |_, ()| Ok(())).await;
        assert_eq!(&expect_cancelled(ended).aid, frank.aid());
        let text = "the context was cancelled: it can't open a stream any more";
        at_once("it was refused", frank.run(hears(text.into()))).await?;
        Ok(())
    })
    .await;
}

/// The handle of the context that runs here.
static HANDLE: LazyLock<watch::Sender<Option<ContextHandle>>> = LazyLock::new(watch::Sender::default);

#[context]
async fn hands_out(ctx: Context<ContextHandle>, starts: bool) -> teamster::Result<()> {
    let _guard = Guard::new();
    HANDLE.send_replace(Some(ctx.handle()));
    if starts {
        ctx.started(ctx.handle()).await?;
    }
    pending().await
}

#[rpc]
async fn handle() -> ContextHandle {
    let mut handle = HANDLE.subscribe();
    let found = handle.wait_for(Option::is_some).await.expect("the sender is a static");
    found.clone().expect("it was waited for")
}

#[rpc]
async fn cancel_by(handle: ContextHandle) -> Result<(), Error> {
    handle.cancel().await
}

/// By a handle of the callee's, or of the opener's.
#[teamster::test]
async fn a_third_actors_cancel_is_raised_at_both() {
    with_two(async |frank, third| {
        for of_the_callee in [true, false] {
            let mut kept = None;
            let block = frank.open_context(hands_out(true), async |ctx, theirs| {
                kept = Some(ctx.clone());
                let handle = if of_the_callee { theirs } else { ctx.handle() };
                third.run(cancel_by(handle)).await?;
                pending::<()>().await;
                Ok(())
            });
            let by = expect_cancelled(at_once("the cancel", block).await);
            assert_eq!((&by.aid, &by.request), (third.aid(), &CancelRequest::Context));
            let kept = kept.expect("the body ran");
            assert!(!kept.is_cancelled(), "we have not");
            assert!(matches!(kept.outcome().await, Outcome::Cancelled { canceller } if canceller == by));
            assert_eq!(frank.run(running()).await?, 0);
            third.run(cancel_by(kept.handle())).await?; // it is over: no error
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_cancel_before_the_first_word_is_raised_and_its_body_never_runs() {
    with_two(async |frank, third| {
        let block = frank.open_context(hands_out(false), async |_, _| Ok(()));
        let cancel = async {
            let handle = frank.run(handle()).await?;
            third.run(cancel_by(handle)).await
        };
        let (ended, cancelled) = tokio::join!(block, cancel);
        cancelled?;
        assert_eq!(&expect_cancelled(ended).aid, third.aid());
        // Our own: there is no handle yet, the future is dropped.
        let opening = frank.context(hands_out(false));
        tokio::select! {
            opened = opening => panic!("{opened:?}"),
            began = frank.run(runs(1)) => began?,
        }
        at_once("it is cancelled", frank.run(runs(0))).await?;
        Ok(())
    })
    .await;
}

#[rpc]
async fn cancel_actor(whom: Portal) -> Result<(), Error> {
    whom.cancel_actor().await.map(drop)
}

#[teamster::test(exclusive)]
async fn a_third_actors_cancel_of_the_callee_ends_every_context_into_it() {
    promptly("every context ends", async || Ok(end_all_by_a_third().await?)).await;
}

/// How long it takes until all have ended.
async fn end_all_by_a_third() -> Result<Duration, Error> {
    let ended = patient().open(async |an| {
        let (frank, third) = tokio::try_join!(an.start_actor("frank"), an.start_actor("third"))?;
        let mut blocks = JoinSet::new();
        for opens in [false, true, true] {
            let frank = frank.clone();
            blocks.spawn(async move {
                let block = frank.open_context(holds(), async |ctx, _| {
                    let _stream = if opens { Some(ctx.open_stream().await?) } else { None };
                    pending::<()>().await;
                    Ok(())
                });
                block.await
            });
        }
        frank.run(runs(3)).await?;
        let asked = Instant::now();
        third.run(cancel_actor(frank.clone())).await?;
        while let Some(ended) = at_once("they end", blocks.join_next()).await {
            let by = expect_cancelled(ended?);
            assert_eq!((&by.aid, &by.request), (third.aid(), &CancelRequest::Actor));
        }
        let took = asked.elapsed();
        is_empty(&third).await?;
        are_our_tables_empty().await?;
        Ok(took)
    });
    ended.await
}

/// Holds a context into another actor until it ends, and tells by whom.
#[rpc]
async fn ends_by(whom: Portal) -> teamster::Result<Canceller> {
    match whom.open_context(holds(), async |_, _| Ok(pending::<()>().await)).await {
        Err(Error::Cancelled { canceller }) => Ok(canceller),
        other => panic!("it is cancelled: {other:?}"),
    }
}

#[rpc]
async fn is_stuck() {
    let _telling = get_stuck().await;
    block_the_runtime();
}

/// What an actor is like when its end is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Willing,
    Stuck,
    Stopped,
}

/// A third actor ends one that a fourth and we have contexts into, neither of us its parent.
async fn end_by_a_third(frank: &Portal, parent: &Portal, others: [&Portal; 2], is: State) -> Result<(), BoxError> {
    let [third, fourth] = others;
    let holding =
        Box::pin(async { tokio::join!(third.run(ends_by(frank.clone())), fourth.run(ends_by(frank.clone()))) });
    let ours = Box::pin(frank.open_context(holds(), async |_, _| Ok(pending::<()>().await)));
    let ending = Box::pin(async {
        frank.run(runs(3)).await?;
        match is {
            State::Willing => {}
            State::Stuck => {
                tokio::select! {
                    ended = frank.run(is_stuck()) => panic!("{ended:?}"),
                    told = parent.run(hears("stuck".into())) => told?,
                }
            }
            State::Stopped => kill_process(pid(frank.aid()), Signal::STOP).expect("it lives"),
        }
        third.run(cancel_actor(frank.clone())).await
    });
    let ((by_the_third, by_the_fourth), ours, ended) =
        at_once("all end", async { tokio::join!(holding, ours, ending) }).await;
    ended?;
    for by in [by_the_third?, by_the_fourth?, expect_cancelled(ours)] {
        assert_eq!((&by.aid, &by.request), (third.aid(), &CancelRequest::Actor), "{is:?}");
    }
    parent.run(wipe()).await?;
    Ok(())
}

/// Who had it killed is named by its parent, through the tree: it could not say so itself.
#[teamster::test]
async fn whoever_ends_an_actor_is_named_in_every_context_into_it() {
    for is in [State::Willing, State::Stuck, State::Stopped] {
        let ended = teamster::open_nursery(async |an| {
            let starts = [an.start_actor("third"), an.start_actor("fourth"), an.start_actor("frank")];
            let [third, fourth, frank] = starts.map(Box::pin);
            let (third, fourth, frank) = tokio::try_join!(third, fourth, frank)?;
            end_by_a_third(&frank, &this_actor()?, [&third, &fourth], is).await?;
            // Our own child's end is known here. That of another's child is told by that one.
            let server = an.start_actor("server").await?;
            let block = server.open_context(serves(), async |serving, spawned| {
                end_by_a_third(&spawned, &server, [&third, &fourth], is).await?;
                Ok(serving.cancel().await?)
            });
            Ok(block.await?)
        });
        ended.await.unwrap();
    }
}

fn pid(aid: &Aid) -> Pid {
    Pid::from_raw(aid.pid().cast_signed()).expect("it is a process")
}

#[teamster::test]
async fn another_task_may_cancel_and_the_body_goes_on() {
    with_one(async |frank| {
        let mut has_gone_on = false;
        frank
            .open_context(holds(), async |ctx, _| {
                let theirs = ctx.clone();
                let cancelling = tokio::spawn(async move { theirs.cancel().await });
                cancelling.await??;
                tokio::task::yield_now().await;
                has_gone_on = true;
                Ok(())
            })
            .await?;
        assert!(has_gone_on);
        Ok(())
    })
    .await;
    // With the whole actor it is interrupted.
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let theirs = frank.clone();
        let block = frank.open_context(holds(), async |_, _| {
            tokio::spawn(async move { theirs.cancel_actor().await });
            tokio::time::sleep(AN_HOUR).await;
            Ok(())
        });
        let by = expect_cancelled(at_once("the cancel", block).await);
        assert_eq!(by.request, CancelRequest::Actor);
        Ok(())
    });
    ended.await.unwrap();
}

#[teamster::test]
async fn a_cancel_ends_the_loop_over_the_stream_and_the_line_lives() {
    with_one(async |frank| {
        let last = frank
            .open_context(plays(vec![Start, Open, Stream]), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                let mut last = stream.recv().await?;
                let theirs = ctx.clone();
                let cancelling = tokio::spawn(async move { theirs.cancel().await });
                while let Some(item) = stream.recv().await? {
                    last = Some(item);
                }
                assert_eq!(stream.recv().await?, None);
                cancelling.await??;
                Ok(last)
            })
            .await?;
        assert!(last.is_some());
        assert_eq!(frank.open_context(simple(1), async |ctx, _| Ok(ctx.result().await?)).await?, "done with 1");
        Ok(())
    })
    .await;
}

/// A runtime that does not read: the request is not acted upon, and that is said in time.
#[context]
async fn gets_stuck(ctx: Context<ContextHandle>) -> teamster::Result<()> {
    ctx.started(ctx.handle()).await?;
    let _telling = get_stuck().await;
    block_the_runtime();
    Ok(())
}

#[teamster::test]
async fn a_stuck_task_is_said_not_to_have_stopped() {
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut asked = Moment::now();
        let block = frank.open_context(gets_stuck(), async |ctx, _| {
            heard("stuck").await;
            asked = Moment::now();
            let cancelled = ctx.cancel().await;
            assert!(matches!(&cancelled, Err(Error::NotStopped { .. })), "{cancelled:?}");
            Ok(())
        });
        let ended = block.await;
        let took = asked.elapsed();
        assert!(matches!(&ended, Err(Error::NotStopped { aid, .. }) if aid == frank.aid()), "{ended:?}");
        assert!(took < Duration::from_millis(200) + AT_ONCE, "{took:?}"); // the grace is waited for once
        Ok(())
    });
    ended.await.unwrap();
}

/// Whoever holds its handle.
#[teamster::test]
async fn a_stuck_task_is_said_not_to_have_stopped_by_its_handle_too() {
    let ended = teamster::open_nursery(async |an| {
        let (frank, third) = tokio::try_join!(an.start_actor("frank"), an.start_actor("third"))?;
        let ended = frank
            .open_context(gets_stuck(), async |ctx, theirs| {
                heard("stuck").await;
                for handle in [ctx.handle(), theirs] {
                    let cancelled = at_once("it is told", handle.cancel()).await;
                    assert!(
                        matches!(&cancelled, Err(Error::NotStopped { endpoint, .. }) if endpoint == ctx.endpoint())
                    );
                    let cancelled = at_once("it is told", third.run(cancel_by(handle))).await.expect_err("it is stuck");
                    assert!(matches!(cancelled.downcast_ref(), Some(Error::NotStopped { .. })), "{cancelled:?}");
                }
                Ok(())
            })
            .await;
        assert!(matches!(&ended, Err(Error::NotStopped { .. })), "{ended:?}");
        Ok(())
    });
    ended.await.unwrap();
}

// ---- twelve cases, twice (S4.76, 90, 91, 94)

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Callers {
    EndsWell,
    Fails,
    IsInterrupted,
}

/// A caller that can be interrupted: a task of an actor.
#[context]
async fn calls(
    ctx: Context<()>,
    callee: Portal,
    steps: Vec<Step>,
    opens: bool,
    caller: Callers,
) -> teamster::Result<u32> {
    let _guard = Guard::new();
    let block = callee.open_context(plays(steps.clone()), async |inner, first| {
        let _stream = if opens { Some(inner.open_stream().await?) } else { None };
        ctx.started(()).await?;
        match caller {
            Callers::EndsWell if steps.contains(&Hold) => inner.cancel().await?,
            Callers::EndsWell => drop(inner.result().await?),
            Callers::Fails => return Err("the body failed".into()),
            Callers::IsInterrupted => pending().await,
        }
        Ok(first)
    });
    Ok(block.await?)
}

#[teamster::test]
async fn a_callee_is_gone_when_its_block_has_ended() {
    with_two(async |caller, callee| {
        for blocks in [false, true] {
            for opens in [false, true] {
                for how in [Callers::EndsWell, Callers::Fails, Callers::IsInterrupted] {
                    let case = format!("blocks: {blocks}, opens: {opens}, {how:?}");
                    let mut steps = vec![Start];
                    steps.extend(opens.then_some(Open));
                    steps.extend(blocks.then_some(Hold));
                    let ended = caller
                        .open_context(calls(callee.clone(), steps, opens, how), async |ctx, ()| {
                            if how == Callers::IsInterrupted {
                                ctx.cancel().await?;
                                assert_eq!(callee.run(running()).await?, 0, "{case}");
                                return Ok(None);
                            }
                            Ok(Some(ctx.result().await))
                        })
                        .await;
                    assert_eq!(callee.run(running()).await?, 0, "{case}");
                    match (how, ended) {
                        (Callers::EndsWell, Ok(Some(Ok(7)))) | (Callers::IsInterrupted, Ok(None)) => {}
                        (Callers::Fails, Err(error)) => assert_eq!(remote(error), "the body failed", "{case}"),
                        (_, ended) => panic!("{case}: {ended:?}"),
                    }
                }
            }
        }
        Ok(())
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    BeforeTheStream,
    WhileItIsOpen,
    AfterItWasClosed,
}

#[teamster::test(exclusive)]
async fn a_cancel_is_acknowledged_whatever_the_stream_does() {
    with_one(async |frank| {
        for when in [When::BeforeTheStream, When::WhileItIsOpen, When::AfterItWasClosed] {
            for callee_sends_first in [false, true] {
                for caller_waits in [false, true] {
                    let case = format!("{when:?}, callee sends first: {callee_sends_first}, waits: {caller_waits}");
                    let mut steps = vec![Start, Open];
                    steps.extend(callee_sends_first.then_some(Item(1)));
                    steps.extend([Say, Drain, Hold]);
                    promptly(&case, async || {
                        frank.run(wipe()).await?;
                        let block = frank.open_context(plays(steps.clone()), async |ctx, _| {
                            let mut stream = None;
                            if when != When::BeforeTheStream {
                                stream = Some(ctx.open_stream().await?);
                            }
                            if when == When::AfterItWasClosed {
                                stream = None;
                            }
                            if caller_waits {
                                frank.run(hears("there".into())).await?;
                            }
                            let asked = Instant::now();
                            at_once(&case, ctx.cancel()).await?;
                            let took = asked.elapsed();
                            assert_eq!(frank.run(running()).await?, 0, "{case}");
                            assert_eq!(ctx.outcome().await.to_string(), "cancelled by me", "{case}");
                            if let Some(mut stream) = stream {
                                assert_eq!(stream.recv().await?, None, "{case}");
                            }
                            let refused = ctx.open_stream().await.expect_err("it is cancelled");
                            assert!(matches!(refused, Error::Usage(_)), "{case}: {refused:?}");
                            Ok(took)
                        });
                        Ok(block.await?)
                    })
                    .await;
                }
            }
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_stream_is_opened_once_and_while_its_context_runs() {
    with_one(async |frank| {
        let refused = |opened: Result<_, Error>, text: &str| match opened {
            Err(Error::Usage(told)) => assert!(told.contains(text), "{told}"),
            Err(other) => panic!("{other:?}"),
            Ok::<teamster::MsgStream<u32, u32>, _>(stream) => panic!("{stream:?}"),
        };
        let kept = frank
            .open_context(plays(vec![Start, Open, Drain]), async |ctx, _| {
                let stream = ctx.open_stream().await?;
                refused(ctx.open_stream().await, "opened already");
                refused(ctx.clone().open_stream().await, "opened already");
                drop(stream);
                refused(ctx.open_stream().await, "opened already");
                Ok(ctx.clone())
            })
            .await?;
        refused(kept.open_stream().await, "opened already");
        let ended = frank.context(plays(vec![Start])).await?;
        ended.result().await?;
        refused(ended.open_stream().await, "has ended");
        let cancelled = frank.context(holds()).await?;
        cancelled.cancel().await?;
        refused(cancelled.open_stream().await, "cancelled");
        Ok(())
    })
    .await;
}

// ---- owned (in structs, dropped)

/// What a user might build of it.
struct Job {
    ctx: PortalContext<plays>,
    stream: teamster::MsgStream<u32, u32>,
}

impl Job {
    async fn begin(at: &Portal) -> Result<Job, Error> {
        let ctx = at.context(plays(vec![Start, Open, Receive, Item(5), Receive])).await?;
        let stream = ctx.open_stream().await?;
        Ok(Job { ctx, stream })
    }

    async fn ask(&mut self, item: u32) -> Result<Option<u32>, Error> {
        self.stream.send(item).await?;
        self.stream.recv().await
    }
}

#[teamster::test]
async fn an_owned_context_lives_in_a_struct_and_ends_with_it() {
    with_one(async |frank| {
        let mut job = Job::begin(frank).await?;
        assert_eq!(job.ctx.first()?, 7);
        assert_eq!(job.ask(1).await?, Some(5));
        assert_eq!(job.ask(2).await?, None);
        assert_eq!(job.ctx.result().await?, 3);
        let mut job = Job::begin(frank).await?;
        assert_eq!(job.ask(1).await?, Some(5));
        let clone = job.ctx.clone();
        drop(job);
        assert_eq!(frank.run(running()).await?, 1, "there is a clone");
        drop(clone);
        at_once("it is cancelled", frank.run(runs(0))).await?;
        Ok(())
    })
    .await;
}

/// Holds a context for as long as it runs.
#[rpc]
async fn keeps_one_in(portal: Portal, word: String) -> teamster::Result<()> {
    let _ctx = portal.context(cleans_up()).await?;
    say_here(&word);
    heard("go").await;
    Ok(())
}

/// Its last frame leaves after what it has dropped is gone.
#[teamster::test]
async fn a_call_waits_for_the_context_that_it_drops() {
    with_two(async |frank, third| {
        let call = frank.run(keeps_one_in(third.clone(), "there".into()));
        let (called, said) = tokio::join!(call, async {
            frank.run(hears("there".into())).await?;
            assert_eq!(third.run(running()).await?, 1);
            frank.run(say("go".into())).await
        });
        (called?, said?);
        assert_eq!(third.run(running()).await?, 0);
        at_once("it has cleaned up", third.run(hears("cleaned up".into()))).await?;
        Ok(())
    })
    .await;
}

/// A long-lived task that drops contexts keeps nothing of them.
#[rpc]
async fn drops_many(portal: Portal, count: usize) -> teamster::Result<u64> {
    let mut before = 0;
    for number in 0..2 * count {
        if number == count {
            before = resident_kib();
        }
        drop(portal.context(holds()).await?);
    }
    Ok(resident_kib().saturating_sub(before))
}

/// This process's resident memory.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("it is there");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("proc(5) says so");
    pages * rustix::param::page_size() as u64 / 1024
}

#[rpc]
async fn memory_kib() -> u64 {
    resident_kib()
}

#[teamster::test]
async fn a_task_that_drops_contexts_does_not_grow() {
    with_two(async |frank, third| {
        let grown = frank.run(drops_many(third.clone(), 5_000)).await?;
        assert!(grown < 1024, "{grown} KiB for 5,000 dropped contexts");
        Ok(())
    })
    .await;
}

// ---- who is who (S4.95, 96)

fn helper() -> Option<(bool, String, String)> {
    current_context().map(|ctx| (ctx.is_opener(), ctx.peer().name().to_owned(), ctx.endpoint().to_owned()))
}

#[context]
async fn tells_where_it_is(ctx: Context<Option<(bool, String, String)>>, inner: Portal) -> teamster::Result<bool> {
    ctx.started(helper()).await?;
    let inner = inner.open_context(simple(1), async |_, _| Ok(helper())).await?;
    let (is_opener, _, endpoint) = inner.expect("the innermost counts");
    let (is_callee, ..) = helper().expect("it is its own again");
    Ok(is_opener && endpoint.ends_with("simple") && !is_callee)
}

#[rpc]
async fn is_in_a_context() -> bool {
    current_context().is_some()
}

#[teamster::test]
async fn helpers_know_the_context_that_they_are_part_of() {
    with_two(async |frank, third| {
        assert_eq!(helper(), None);
        let is_so = frank
            .open_context(tells_where_it_is(third.clone()), async |ctx, theirs| {
                let (is_opener, peer, endpoint) = theirs.ok_or("it is in one")?;
                assert!(!is_opener && endpoint.ends_with("tells_where_it_is"), "{endpoint}");
                assert_eq!(peer, this_actor()?.aid().name());
                let (is_opener, peer, _) = helper().ok_or("so are we")?;
                assert!(is_opener);
                assert_eq!(peer, "frank");
                // A nursery and a call are places of their own, inside of it or not.
                let inside = teamster::open_nursery(async |_| Ok(helper())).await?;
                assert!(inside.is_some());
                assert!(!frank.run(is_in_a_context()).await?, "a call is another dialog");
                Ok(ctx.result().await?)
            })
            .await?;
        assert!(is_so);
        assert_eq!(helper(), None);
        Ok(())
    })
    .await;
}

/// What a helper may do with it, without knowing its types.
#[context]
async fn gives_up(ctx: Context) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    current_context().expect("it is in one").cancel();
    pending().await
}

#[teamster::test]
async fn a_helper_may_cancel_the_context_that_it_is_part_of() {
    with_one(async |frank| {
        let by = expect_cancelled(frank.open_context(gives_up(), async |_, ()| Ok(())).await);
        assert_eq!((&by.aid, &by.request), (frank.aid(), &CancelRequest::Itself));
        frank
            .open_context(holds(), async |ctx, _| {
                current_context().expect("it is in one").cancel();
                let by = expect_cancelled(ctx.result().await);
                assert_eq!(by.request, CancelRequest::Context);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

#[rpc]
async fn opens_one_into_itself() -> teamster::Result<()> {
    Ok(into_oneself().await?)
}

async fn into_oneself() -> Result<(), Error> {
    let me = this_actor()?;
    let result = me.open_context(simple(1), async |ctx, _| Ok(ctx.result().await?)).await?;
    assert_eq!(result, "done with 1");
    let echoed = me
        .open_context(plays(vec![Start, Open, Receive, Item(2)]), async |ctx, _| {
            let mut stream = ctx.open_stream().await?;
            stream.send(1).await?;
            Ok((stream.recv().await?, ctx.result().await?))
        })
        .await?;
    assert_eq!(echoed, (Some(2), 1));
    me.open_context(holds(), async |ctx, _| Ok(ctx.cancel().await?)).await?;
    let failed = me.open_context(plays(vec![Start, Fail]), async |_, _| Ok(pending::<()>().await)).await;
    assert_eq!(remote(failed.expect_err("it fails")), "the callee failed");
    let by = expect_cancelled(me.open_context(plays(vec![Start, CancelItself]), async |_, _| Ok(())).await);
    assert_eq!((&by.aid, by.request), (me.aid(), CancelRequest::Itself));
    Ok(())
}

#[teamster::test]
async fn a_context_into_oneself_is_one_like_any_other() {
    with_one(async |frank| {
        at_once("in the root", into_oneself()).await?;
        at_once("in a child", frank.run(opens_one_into_itself())).await?;
        Ok(())
    })
    .await;
}

#[rpc]
async fn opens_one_by_name(name: String) -> teamster::Result<String> {
    let found = teamster::find_actor(&name).await?.expect("it has registered");
    let (echoed, result) = found
        .open_context(plays(vec![Start, Open, Receive, Item(2)]), async |ctx, _| {
            let mut stream = ctx.open_stream().await?;
            stream.send(40).await?;
            Ok((stream.recv().await?, ctx.result().await?))
        })
        .await?;
    Ok(format!("{echoed:?} {result} of {}", found.aid().name()))
}

#[teamster::test]
async fn a_context_goes_to_an_actor_that_was_found_by_name() {
    with_two(async |frank, third| {
        assert_eq!(third.run(opens_one_by_name("frank".into())).await?, "Some(2) 40 of frank");
        is_empty(third).await?;
        is_empty(frank).await
    })
    .await;
}

// ---- contexts inside of contexts (X22, S4.85)

/// One below the other, as deep as there are actors.
#[context]
async fn descends(ctx: Context<u32>, mut below: Vec<Portal>) -> teamster::Result<u32> {
    let _guard = Guard::new();
    let Some(next) = below.pop() else {
        ctx.started(0).await?;
        return pending().await;
    };
    let block = next.open_context(descends(below), async |_, depth| {
        ctx.started(depth + 1).await?;
        pending::<()>().await;
        Ok(())
    });
    block.await?;
    Ok(0)
}

#[teamster::test]
async fn a_cancel_goes_down_through_contexts_and_comes_back_when_all_are_gone() {
    let ended = teamster::open_nursery(async |an| {
        let row = an.start_actors(["a", "b", "c", "d"]).await?;
        let (first, below) = row.split_first().expect("there are four");
        first
            .open_context(descends(below.to_vec()), async |ctx, depth| {
                assert_eq!(depth, 3);
                ctx.cancel().await?;
                for one in &row {
                    assert_eq!(one.run(running()).await?, 0, "{:?}", one.aid());
                }
                Ok(())
            })
            .await?;
        // And into the same actor, again and again.
        let again = vec![first.clone(); 3];
        first.open_context(descends(again), async |ctx, _| Ok(ctx.cancel().await?)).await?;
        for one in &row {
            is_empty(one).await?;
        }
        are_our_tables_empty().await
    });
    ended.await.unwrap();
}

/// Where the actor stands: in the task itself, or in a context of its own.
#[context]
async fn keeps_an_actor(ctx: Context<u32>, inside: Option<Portal>) -> teamster::Result<()> {
    let _guard = Guard::new();
    let nursery = async || {
        let nursery = teamster::open_nursery(async |an| {
            let leaf = an.start_actor("leaf").await?;
            ctx.started(leaf.aid().pid()).await?;
            pending::<()>().await;
            Ok(())
        });
        nursery.await
    };
    match inside {
        None => nursery().await?,
        Some(portal) => portal.open_context(holds(), async |_, _| Ok(nursery().await?)).await?,
    }
    Ok(())
}

#[teamster::test]
async fn a_cancel_returns_when_the_callees_own_actors_are_gone() {
    with_two(async |frank, third| {
        for inside in [None, Some(third.clone())] {
            frank
                .open_context(keeps_an_actor(inside), async |ctx, leaf| {
                    assert!(state(leaf).is_some(), "it lives");
                    ctx.cancel().await?;
                    assert_eq!(state(leaf), None, "it has been reaped");
                    assert_eq!(third.run(running()).await?, 0);
                    Ok(())
                })
                .await?;
        }
        Ok(())
    })
    .await;
}

/// Its runtime does not get to drop the body.
#[context]
async fn gets_stuck_in_a_nursery(ctx: Context<u32>, third: Portal) -> teamster::Result<()> {
    let block = third.open_context(holds(), async |_, _| {
        let nursery = teamster::open_nursery(async |an| {
            ctx.started(an.start_actor("leaf").await?.aid().pid()).await?;
            let _telling = get_stuck().await;
            block_the_runtime();
            Ok(())
        });
        Ok(nursery.await?)
    });
    Ok(block.await?)
}

#[teamster::test]
async fn a_cancel_reaches_a_nursery_in_a_stuck_body_at_once() {
    let ended = teamster::open_nursery(async |an| {
        let (frank, third) = tokio::try_join!(an.start_actor("frank"), an.start_actor("third"))?;
        let ended = frank
            .open_context(gets_stuck_in_a_nursery(third.clone()), async |ctx, leaf| {
                heard("stuck").await;
                assert!(matches!(ctx.cancel().await, Err(Error::NotStopped { .. })));
                wait_gone(leaf, AT_ONCE);
                Ok(())
            })
            .await;
        assert!(matches!(&ended, Err(Error::NotStopped { .. })), "{ended:?}");
        Ok(())
    });
    ended.await.unwrap();
}

#[context]
async fn shields_a_nursery(ctx: Context, third: Portal) -> teamster::Result<()> {
    let block = third.open_context(holds(), async |inner, _| {
        let nursery = teamster::open_nursery(async |an| {
            let leaf = an.start_actor("leaf").await?;
            ctx.started(()).await?;
            teamster::cancelled().await;
            assert_eq!(leaf.run(running()).await?, 0, "it still serves");
            assert!(!inner.has_ended(), "and so does the third");
            println!("the leaf has answered");
            Ok(())
        });
        Ok(nursery.await?)
    });
    Ok(teamster::shield(block).await?)
}

#[teamster::test]
async fn a_nursery_in_a_shielded_body_is_its_shields_to_end() {
    let ended = patient().open(async |an| {
        let (frank, third) = tokio::try_join!(an.start_actor("frank"), an.start_actor("third"))?;
        let block = frank.open_context(shields_a_nursery(third.clone()), async |_, ()| {
            let receipt = frank.cancel_actor().await?;
            assert!(receipt.was_graceful(), "{receipt:?}");
            Ok(())
        });
        expect_cancelled(block.await);
        is_empty(&third).await
    });
    ended.await.unwrap();
}

/// Clean-up that needs to await, of a value in the body of a context.
struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        teamster::defer(async {
            tokio::task::yield_now().await;
            say_here("the lease is back");
        });
    }
}

#[context]
async fn leases(ctx: Context, third: Portal) -> teamster::Result<()> {
    let _guard = Guard::new();
    let block = third.open_context(holds(), async |_, _| {
        let _lease = Lease;
        ctx.started(()).await?;
        pending::<()>().await;
        Ok(())
    });
    Ok(block.await?)
}

#[teamster::test]
async fn what_a_dropped_body_defers_is_waited_for() {
    with_two(async |frank, third| {
        frank
            .open_context(leases(third.clone()), async |ctx, ()| {
                ctx.cancel().await?;
                let said = frank.run(hears("the lease is back".into()));
                assert!(futures::poll!(pin!(said)).is_pending(), "it takes a round trip to know");
                Ok(())
            })
            .await?;
        at_once("the lease is back", frank.run(hears("the lease is back".into()))).await?;
        Ok(())
    })
    .await;
}

/// Starts an actor for others.
#[context]
async fn serves(ctx: Context<Portal>) -> teamster::Result<()> {
    let _guard = Guard::new();
    let nursery = teamster::open_nursery(async |an| {
        ctx.started(an.start_actor("spawned").await?).await?;
        pending::<()>().await;
        Ok(())
    });
    Ok(nursery.await?)
}

/// Uses what another has started.
#[context]
async fn uses(ctx: Context, spawned: Portal) -> teamster::Result<()> {
    let _guard = Guard::new();
    let block = spawned.open_context(holds(), async |_, _| {
        ctx.started(()).await?;
        pending::<()>().await;
        Ok(())
    });
    Ok(block.await?)
}

#[teamster::test]
async fn a_client_of_a_spawned_actor_ends_and_then_its_server() {
    with_two(async |server, client| {
        let pid = server
            .open_context(serves(), async |serving, spawned| {
                client
                    .open_context(uses(spawned.clone()), async |using, ()| {
                        assert_eq!(spawned.run(running()).await?, 1);
                        Ok(using.cancel().await?)
                    })
                    .await?;
                assert_eq!(spawned.run(running()).await?, 0, "its client is gone");
                serving.cancel().await?;
                Ok(spawned.aid().pid())
            })
            .await?;
        assert_eq!(state(pid), None);
        assert!(teamster::find_actor("spawned").await?.is_none());
        Ok(())
    })
    .await;
}

// ---- what can't be said or understood (X17)

/// 1,000 and more can't be decoded, nothing can't be encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Weight(Option<u32>);

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let grams = self.0.ok_or_else(|| serde::ser::Error::custom("nobody has weighed it"))?;
        grams.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            1000.. => Err(serde::de::Error::custom("too heavy")),
            grams => Ok(Weight(Some(grams))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Parcel {
    number: u32,
    weight: Weight,
}

impl Parcel {
    const fn of(grams: u32) -> Parcel {
        Parcel { number: 1, weight: Weight(Some(grams)) }
    }
}

const LIGHT: Parcel = Parcel::of(1);
const HEAVY: Parcel = Parcel::of(1000);
const UNWEIGHED: Parcel = Parcel { number: 1, weight: Weight(None) };

/// What comes over there is not what would go: an argument of plain numbers says which parcels are made.
#[context]
async fn ships(ctx: Context<Parcel, Parcel, Parcel>, first: u32, item: u32, result: u32) -> teamster::Result<Parcel> {
    let _guard = Guard::new();
    let refused = ctx.started(UNWEIGHED).await.expect_err("it can't be encoded");
    assert_codec(&refused, CodecStep::Encode, "the first word", "nobody has weighed it");
    ctx.started(Parcel::of(first)).await?;
    let mut stream = ctx.open_stream().await?;
    let refused = stream.send(UNWEIGHED).await.expect_err("it can't be encoded");
    assert_codec(&refused, CodecStep::Encode, "the stream's item", "nobody has weighed it");
    stream.send(Parcel::of(item)).await?;
    while stream.recv().await?.is_some() {}
    Ok(Parcel::of(result))
}

#[track_caller]
fn assert_codec(error: &Error, step: CodecStep, value: &str, message: &str) {
    let Error::Codec(codec) = error else { panic!("{error:?}") };
    assert_eq!((codec.step(), codec.value()), (step, value));
    assert!(codec.message().contains(message), "{codec}");
    assert!(codec.to_string().contains("weight"), "the field is named: {codec}");
    assert!(codec.endpoint().ends_with("ships"), "{codec}");
}

#[teamster::test]
async fn what_can_not_be_encoded_is_its_senders_error_and_the_dialog_lives() {
    with_one(async |frank| {
        let result = frank
            .open_context(ships(1, 2, 3), async |ctx, first| {
                assert_eq!(first, LIGHT);
                let mut stream = ctx.open_stream().await?;
                let refused = stream.send(UNWEIGHED).await.expect_err("it can't be encoded");
                assert_codec(&refused, CodecStep::Encode, "the stream's item", "nobody has weighed it");
                stream.send(LIGHT).await?;
                assert_eq!(stream.recv().await?, Some(Parcel::of(2)));
                stream.finish().await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(result, Parcel::of(3));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn what_can_not_be_decoded_ends_its_dialog_and_no_other() {
    with_one(async |frank| {
        let beside = frank.context(plays(vec![Start, Open, Drain])).await?;
        let mut stream_beside = beside.open_stream().await?;
        // The first word.
        let error = frank.open_context(ships(1000, 2, 3), async |_, _| Ok(())).await.expect_err("it is too heavy");
        assert_codec(&error, CodecStep::Decode, "the first word", "too heavy");
        assert_eq!(frank.run(running()).await?, 1, "it was ended");
        // An item for us: the error is the body's to handle.
        let error = frank
            .open_context(ships(1, 1000, 3), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                while let Some(parcel) = stream.recv().await? {
                    panic!("{parcel:?}");
                }
                Ok(())
            })
            .await
            .expect_err("it is too heavy");
        assert_codec(&error, CodecStep::Decode, "the stream's item", "too heavy");
        let kept = frank
            .open_context(ships(1, 1000, 3), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                for _ in 0..3 {
                    let error = stream.recv().await.expect_err("it is too heavy");
                    assert_codec(&error, CodecStep::Decode, "the stream's item", "too heavy");
                }
                assert!(ctx.result().await.is_err(), "the task was ended for that");
                tokio::task::yield_now().await;
                Ok(ctx.clone())
            })
            .await?;
        assert_eq!(frank.run(running()).await?, 1, "it was ended: {kept:?}");
        // An item for the callee.
        let error = frank
            .open_context(ships(1, 2, 3), async |ctx, _| {
                let mut stream = ctx.open_stream().await?;
                stream.send(HEAVY).await?;
                pending::<()>().await;
                Ok(())
            })
            .await
            .expect_err("it is too heavy");
        let theirs = error.downcast_ref::<Error>().expect("it is one of ours");
        assert_codec(theirs, CodecStep::Decode, "the stream's item", "too heavy");
        // The result.
        let error = frank
            .open_context(ships(1, 2, 1000), async |ctx, _| {
                ctx.open_stream().await?.finish().await?;
                Ok(ctx.result().await?)
            })
            .await
            .expect_err("it is too heavy");
        assert_codec(&error, CodecStep::Decode, "the result", "too heavy");
        // The other one on the same line has not noticed.
        stream_beside.send(42).await?;
        stream_beside.finish().await?;
        assert_eq!(beside.result().await?, 42);
        Ok(())
    })
    .await;
}

// ---- deadlines (X21)

/// Opens a context into the last of them by way of the others, and may get stuck meanwhile.
#[context]
async fn hops(ctx: Context, mut to: Vec<Portal>, stuck: String) -> teamster::Result<()> {
    let _guard = Guard::new();
    let Some(next) = to.pop() else {
        ctx.started(()).await?;
        return pending().await;
    };
    let block = next.open_context(hops(to, stuck.clone()), async |_, ()| {
        ctx.started(()).await?;
        if this_actor()?.aid().name() == stuck {
            heard("go").await; // the first word has left by then
            let _telling = get_stuck().await;
            block_the_runtime();
        }
        pending::<()>().await;
        Ok(())
    });
    Ok(block.await?)
}

const DEADLINE: Duration = Duration::from_secs(1);

/// Three hops, and what befalls one of them before the deadline. Those that can end by their own clocks.
async fn check_deadline(stuck: &str, mut befalls: impl AsyncFnMut(&[Portal]) -> Result<(), BoxError>, ends: &[usize]) {
    promptly("the deadline", async || Ok(late_by(stuck, &mut befalls, ends).await?)).await;
}

/// How long after the deadline the last of them has ended.
async fn late_by(
    stuck: &str,
    befalls: &mut impl AsyncFnMut(&[Portal]) -> Result<(), BoxError>,
    ends: &[usize],
) -> Result<Duration, Error> {
    // No grace ends in time.
    let ended = teamster::root().grace(Duration::from_secs(1)).open(async |an| {
        let row = an.start_actors(["a", "b", "c"]).await?;
        let (first, below) = (row[0].clone(), vec![row[2].clone(), row[1].clone()]);
        let mut has_begun = false;
        let mut latest = DEADLINE;
        let begun = Instant::now();
        let block = first.open_context(hops(below, stuck.to_owned()), async |_, ()| {
            has_begun = true;
            befalls(&row).await?;
            pending::<()>().await;
            Ok(())
        });
        let ended = teamster::deadline(DEADLINE, block).await;
        let took = begun.elapsed();
        if !has_begun {
            return Ok(AT_ONCE); // somebody else has taken all that time
        }
        match ended {
            Err(Error::Deadline { .. }) | Ok(Err(Error::Deadline { .. })) => {
                assert!(took >= DEADLINE / 2, "{took:?}");
                latest = took;
            }
            // Its killer has ended it before.
            Ok(Err(Error::Cancelled { canceller })) if ends == [1, 2] => {
                assert_eq!(canceller.aid, *this_actor()?.aid())
            }
            other => panic!("{other:?}"),
        }
        for index in ends {
            at_once(&format!("the end of {index}"), row[*index].run(runs(0))).await?;
            latest = latest.max(begun.elapsed());
        }
        // Who is not there to say the last word keeps its entry.
        if ends.len() == row.len() {
            for one in &row {
                is_empty(one).await?;
            }
            are_our_tables_empty().await?;
        }
        Ok(latest.saturating_sub(DEADLINE))
    });
    ended.await
}

#[teamster::test(exclusive)]
async fn a_deadline_holds_over_three_hops() {
    check_deadline("", async |_| Ok(()), &[0, 1, 2]).await;
}

#[teamster::test(exclusive)]
async fn a_deadline_holds_when_the_middle_one_is_stuck() {
    let stick = async |row: &[Portal]| {
        row[1].run(say("go".into())).await?;
        heard("stuck").await;
        Ok(())
    };
    check_deadline("b", stick, &[0, 2]).await;
}

#[teamster::test(exclusive)]
async fn a_deadline_holds_when_the_caller_stands_still() {
    let stop = async |row: &[Portal]| {
        let pid = i32::try_from(row[0].aid().pid()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::STOP)?;
        Ok(())
    };
    check_deadline("", stop, &[1, 2]).await;
}

#[teamster::test(exclusive)]
async fn a_callers_death_ends_what_it_has_called() {
    let kill = async |row: &[Portal]| {
        row[0].kill_actor().await?;
        Ok(())
    };
    check_deadline("", kill, &[1, 2]).await;
}

// ---- many (X24, S4.101) and many threads

#[teamster::test]
async fn ten_thousand_contexts_on_one_line() {
    with_one(async |frank| {
        let mut open = Vec::new();
        for _ in 0..10 {
            let batch = (0..1000).map(|_| frank.context(plays(vec![Start, Open, Drain])));
            open.extend(futures::future::try_join_all(batch).await?);
        }
        assert_eq!((open_dialogs()?, frank.run(board::dialogs()).await?), (10_000, 10_000));
        assert_eq!(frank.run(running()).await?, 10_000);
        let mut streams = futures::future::try_join_all(open.iter().map(PortalContext::open_stream)).await?;
        for (number, stream) in (0..).zip(&mut streams) {
            stream.send(number).await?;
            stream.finish().await?;
        }
        let results = futures::future::try_join_all(open.iter().map(PortalContext::result)).await?;
        assert!(results.into_iter().eq(0..10_000));
        assert_eq!((open_dialogs()?, frank.run(board::dialogs()).await?), (0, 0));
        Ok(())
    })
    .await;
}

/// As many as there are cases of a context's end, one in four each.
async fn ends_in_one_of_four_ways(frank: &Portal, number: usize) -> Result<(), BoxError> {
    let steps = if number.is_multiple_of(4) { vec![Start, Fail] } else { vec![Start, Open, Drain, Hold] };
    let ended = frank
        .open_context(plays(steps), async |ctx, _| {
            match number % 4 {
                1 => return Err("the body failed".into()),
                2 => ctx.cancel().await?,
                3 => {
                    let mut stream = ctx.open_stream().await?;
                    stream.send(1).await?;
                    ctx.cancel().await?;
                    assert_eq!(stream.recv().await?, None);
                }
                _ => pending().await,
            }
            Ok(())
        })
        .await;
    match (number % 4, ended) {
        (0, Err(Error::Remote(_))) | (1, Err(Error::Body(_))) | (2 | 3, Ok(())) => Ok(()),
        (_, ended) => Err(format!("{number}: {ended:?}").into()),
    }
}

#[teamster::test]
async fn thousands_of_contexts_leave_no_memory_behind() {
    with_one(async |frank| {
        let mut grown = Vec::new();
        for _ in 0..6 {
            let all = (0..1000).map(|number| ends_in_one_of_four_ways(frank, number));
            futures::future::try_join_all(all).await?;
            is_empty(frank).await?;
            grown.push((resident_kib(), frank.run(memory_kib()).await?));
        }
        // The first rounds make room.
        let ((ours, theirs), (ours_in_the_end, theirs_in_the_end)) = (grown[2], grown[5]);
        assert!(ours_in_the_end <= ours + ours / 10 && theirs_in_the_end <= theirs + theirs / 10, "{grown:?}");
        Ok(())
    })
    .await;
}

/// Sends what fills a window soon, or receives, without end.
#[context]
async fn goes_on(ctx: Context<(), String, String>, sends: bool) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.overrun_after(AN_HOUR); // among a thousand, its opener may take a while to open its stream
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while sends {
        stream.send("x".repeat(1000)).await?;
    }
    while stream.recv().await?.is_some() {}
    pending().await
}

/// Ends at a random moment, in a random way.
async fn is_ended_at_random(frank: Portal, third: Portal, way: u64, turns: u64) -> Result<(), BoxError> {
    let wait = async || {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    let block = frank.open_context(goes_on(way.is_multiple_of(2)), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        if way < 4 {
            stream.send("y".repeat(1000)).await?;
            wait().await;
        }
        match way {
            0 | 1 => ctx.cancel().await?,
            2 | 3 => return Err("the body failed".into()),
            4 | 5 => {
                let (cancelled, ()) =
                    tokio::join!(ctx.cancel(), async { while let Ok(Some(_)) = stream.recv().await {} });
                cancelled?;
            }
            6 | 7 => third.run(cancel_by(ctx.handle())).await?,
            _ => pending().await,
        }
        Ok(())
    });
    tokio::select! {
        ended = block => match (way, ended) {
            (0 | 1 | 4 | 5, Ok(())) | (2 | 3, Err(Error::Body(_))) | (6 | 7, Err(Error::Cancelled { .. })) => Ok(()),
            (_, ended) => Err(format!("{way}: {ended:?}").into()),
        },
        () = wait(), if way > 7 => Ok(()), // dropped, perhaps before it has begun
    }
}

#[test]
fn contexts_that_end_at_random_moments_leave_nothing() {
    let options = TestOptions::new().deadline(Duration::from_secs(600));
    test(concat!(module_path!(), "::contexts_that_end_at_random_moments_leave_nothing"), options, end_at_random);
}

/// `TEAMSTER_ROUNDS` says how many rounds, `TEAMSTER_SEED` repeats a run.
async fn end_at_random() {
    with_two(async |frank, third| {
        let mut chance = KillAtRandom::new(seed());
        for round in 0..rounds(10) {
            let mut tasks = JoinSet::new();
            for _ in 0..1000 {
                let (way, turns) = (chance.below(12), chance.below(200));
                tasks.spawn(is_ended_at_random(frank.clone(), third.clone(), way, turns));
            }
            let all = async {
                while let Some(ended) = tasks.join_next().await {
                    ended?.map_err(|error| format!("round {round}: {error}"))?;
                }
                Ok::<(), BoxError>(())
            };
            tokio::time::timeout(Duration::from_secs(50), all).await.map_err(|_| format!("round {round} hangs"))??;
            is_empty(frank).await?;
            is_empty(third).await?;
            are_our_tables_empty().await?;
        }
        Ok(())
    })
    .await;
}

/// A bit of everything, from a task of its own: the futures are `Send`.
async fn exercise(frank: &Portal, third: &Portal) -> Result<(), BoxError> {
    let mut tasks = JoinSet::new();
    for number in 0..400 {
        let (frank, third) = (frank.clone(), third.clone());
        tasks.spawn(async move {
            match number % 5 {
                0 => {
                    let sum = frank
                        .open_context(plays(vec![Start, Open, Drain]), async |ctx, first| {
                            assert_eq!(first, 7);
                            let mut stream = ctx.open_stream().await?;
                            for item in 0..100 {
                                stream.send(item).await?;
                            }
                            stream.finish().await?;
                            Ok(ctx.result().await?)
                        })
                        .await?;
                    assert_eq!(sum, 4950);
                    Ok(())
                }
                1 => ends_in_one_of_four_ways(&frank, number / 5).await,
                2 => {
                    // The first item says that our stream is open: whoever sends for long before that is told off.
                    let block = frank.open_context(plays(vec![Start, Open, Receive, Stream]), async |ctx, _| {
                        let mut stream = ctx.open_stream().await?;
                        stream.send(1).await?;
                        for item in 0..100 {
                            assert_eq!(stream.recv().await?, Some(item));
                        }
                        Ok(())
                    });
                    Ok(block.await?)
                }
                3 => {
                    let block = frank.open_context(hands_out(true), async |_, handle| {
                        third.run(cancel_by(handle)).await?;
                        Ok(())
                    });
                    assert_eq!(&expect_cancelled(block.await).aid, third.aid());
                    Ok(())
                }
                _ => {
                    let by = expect_cancelled(frank.open_context(gives_up(), async |_, ()| Ok(())).await);
                    assert_eq!(by.request, CancelRequest::Itself);
                    Ok(())
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

#[teamster::test]
async fn a_callee_may_have_many_threads() {
    for threads in [1, 2, 4] {
        let ended = patient().open(async |an| {
            let frank = an.actor("frank").threads(threads).start().await?;
            let third = an.actor("third").threads(threads).start().await?;
            exercise(&frank, &third).await?;
            is_empty(&frank).await?;
            is_empty(&third).await?;
            are_our_tables_empty().await
        });
        ended.await.unwrap();
    }
}

#[teamster::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_opener_may_have_many_threads() {
    with_two(async |frank, third| {
        exercise(frank, third).await?;
        into_oneself().await?;
        Ok(())
    })
    .await;
    with_threads(2, async |frank| exercise(frank, frank).await).await;
}

/// The block as a whole may move to another thread.
fn is_send<T: Send>(value: T) -> T {
    value
}

#[teamster::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_may_be_spawned() {
    with_one(async |frank| {
        async fn generic<E: ContextEndpoint<Started = u32>>(
            portal: Portal,
            call: teamster::ContextCall<E>,
        ) -> Result<u32, Error> {
            portal.open_context(call, async |_, first| Ok(first)).await
        }
        let spawned = tokio::spawn(is_send(generic(frank.clone(), simple(4))));
        assert_eq!(spawned.await??, 5);
        let portal = frank.clone();
        let owned = tokio::spawn(is_send(async move { portal.context(simple(5)).await?.result().await }));
        assert_eq!(owned.await??, "done with 5");
        Ok(())
    })
    .await;
}
