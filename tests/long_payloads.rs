//! Do payloads of many MiB come whole, and does nothing wait behind them?
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join;
use teamster::{BoxError, Context, Error, Portal, context, rpc};

#[path = "support/callee.rs"]
mod callee;
#[path = "support/one.rs"]
mod one;
use one::{Guard, IN_TIME, guards, is_idle, resident, resident_here, until, with_one};

const MIB: usize = 1 << 20;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Something of each length, which no other has.
fn block(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16) ^ bytes) as u8).collect::<Vec<u8>>().into()
}

#[rpc]
async fn same(block: Bytes) -> Bytes {
    let _guard = Guard::new();
    block
}

#[rpc]
async fn fails_at_length(words: usize) -> teamster::Result<()> {
    Err(std::io::Error::other("word ".repeat(words)))?
}

#[teamster::test]
async fn arguments_results_and_errors_of_many_mib_come_whole() {
    with_one(async |frank| {
        for bytes in [0, 32 * 1024 - 6, 32 * 1024, 128 * 1024, MIB, 5 * MIB + 3] {
            let sent = block(bytes);
            let back = frank.run(same(sent.clone())).await?;
            assert!(back == sent, "{bytes} bytes");
        }
        let both = try_join(frank.run(same(block(3 * MIB))), frank.run(same(block(2 * MIB)))).await?;
        assert_eq!((both.0.len(), both.1.len()), (3 * MIB, 2 * MIB));
        let error = frank.run(fails_at_length(40_000)).await.expect_err("it fails");
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert!(remote.message().starts_with("word word") && remote.message().len() > 100_000);
        Ok(())
    })
    .await;
}

/// Says it first, sends it, and returns it: each in pieces, none in another's way.
#[context]
async fn says_sends_returns(ctx: Context<Bytes, Bytes, Bytes>, bytes: usize, items: bool) -> teamster::Result<Bytes> {
    let _guard = Guard::new();
    ctx.started(block(bytes)).await?;
    if items {
        let mut stream = ctx.open_stream().await?;
        for length in [1, bytes, 2, bytes + 1] {
            stream.send(block(length)).await?;
        }
    }
    Ok(block(bytes + 2))
}

#[teamster::test]
async fn a_first_word_items_and_a_result_of_many_mib_keep_their_order() {
    with_one(async |frank| {
        for bytes in [10, 100_000, 4 * MIB] {
            for items in [false, true] {
                let opened = frank.open_context(says_sends_returns(bytes, items), async |ctx, first| {
                    assert!(first == block(bytes), "the first word");
                    if items {
                        let mut stream = ctx.open_stream().await?;
                        for length in [1, bytes, 2, bytes + 1] {
                            assert!(stream.recv().await?.is_some_and(|item| item == block(length)), "{length} bytes");
                        }
                        assert_eq!(stream.recv().await?, None);
                    }
                    assert!(ctx.result().await? == block(bytes + 2), "the result");
                    Ok(())
                });
                opened.await?;
            }
        }
        Ok(())
    })
    .await;
}

/// Says something long and ends badly at once.
#[context]
async fn says_and_fails(ctx: Context<Bytes>) -> teamster::Result<()> {
    ctx.started(block(4 * MIB)).await?;
    Err(std::io::Error::other("too early"))?
}

#[teamster::test]
async fn an_error_passes_the_long_payload_in_front_of_it() {
    with_one(async |frank| {
        let failed = frank.open_context(says_and_fails(), async |ctx, _| Ok(ctx.result().await?)).await;
        assert!(failed.expect_err("it fails").to_string().contains("too early"));
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await;
}

#[context]
async fn takes(ctx: Context<(), Bytes, ()>) -> teamster::Result<usize> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut bytes = 0;
    while let Some(item) = stream.recv().await? {
        bytes += item.len();
    }
    Ok(bytes)
}

/// Small calls and a whole cancel, while `transfer` runs: how many calls came back before its end.
async fn beside<T>(
    frank: &Portal,
    transfer: impl Future<Output = Result<T, BoxError>>,
) -> Result<(T, usize), BoxError> {
    let over = tokio::sync::Notify::new();
    let small = async {
        let mut calls = 0;
        let mut cancelled = false;
        loop {
            tokio::select! {
                biased;
                () = over.notified() => return Ok(calls),
                sum = frank.run(add(1, 2)) => assert_eq!(sum?, 3),
            }
            calls += 1;
            if calls > 5 && !std::mem::replace(&mut cancelled, true) {
                let other = frank.context(takes()).await?;
                other.cancel().await?;
                assert_eq!(other.outcome().await.to_string(), "cancelled by me");
            }
        }
    };
    let transfer = async {
        let value = transfer.await;
        over.notify_one();
        value
    };
    try_join(transfer, small).await
}

#[teamster::test]
async fn small_calls_and_a_cancel_do_not_wait_for_one_item_of_300_mib() {
    const LONG: usize = 300 * MIB;
    with_one(async |frank| {
        let item = Bytes::from(vec![9; LONG]);
        let before = (resident_here(), frank.run(resident()).await?);
        let (bytes, calls) = beside(frank, async {
            let sent = frank.open_context(takes(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                stream.send(item.clone()).await?;
                stream.finish().await?;
                Ok(ctx.result().await?)
            });
            Ok(sent.await?)
        })
        .await?;
        assert_eq!(bytes, LONG);
        assert!(calls >= 10, "only {calls} calls came back beside it");
        let after = (resident_here(), frank.run(resident()).await?);
        assert!(after.0 < before.0 + 16 * MIB && after.1 < before.1 + 16 * MIB, "{before:?}, then {after:?}");
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn small_calls_do_not_wait_for_arguments_and_results_of_64_mib() {
    with_one(async |frank| {
        let argument = Bytes::from(vec![9; 64 * MIB]);
        let (result, calls) = beside(frank, async { Ok(frank.run(same(argument.clone())).await?) }).await?;
        assert_eq!(result.len(), 64 * MIB);
        assert!(calls >= 3, "only {calls} calls came back beside it");
        Ok(())
    })
    .await;
}

/// What is left of the arguments of a call that nobody waits for is not sent, and the call never runs.
#[teamster::test]
async fn a_call_that_is_dropped_while_its_arguments_are_on_their_way_never_runs() {
    with_one(async |frank| {
        let argument = Bytes::from(vec![9; 64 * MIB]);
        for round in 0..20 {
            let mut call = Box::pin(frank.run(same(argument.clone())));
            for _ in 0..round {
                tokio::select! {
                    biased;
                    result = &mut call => drop(result?),
                    () = tokio::task::yield_now() => {}
                }
            }
            drop(call);
            assert_eq!(frank.run(add(1, 2)).await?, 3);
        }
        is_idle(frank).await;
        let mut opening = Box::pin(frank.context(measures(argument.clone())));
        for _ in 0..3 {
            tokio::select! {
                biased;
                opened = &mut opening => drop(opened?),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(opening);
        Ok(())
    })
    .await;
}

#[context]
async fn measures(ctx: Context<usize>, block: Bytes) -> teamster::Result<()> {
    ctx.started(block.len()).await?;
    Ok(())
}

/// A peer that does not run takes nothing: what was meant for it is given back with its calls.
#[teamster::test]
async fn arguments_of_dropped_calls_do_not_pile_up_for_an_actor_that_stands_still() {
    with_one(async |frank| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(frank.aid().pid())?).expect("it is a process");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        let before = resident_here();
        for _ in 0..30 {
            let call = frank.run(same(vec![9; 32 * MIB].into()));
            assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err(), "it stands still");
        }
        let grown = resident_here().saturating_sub(before);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
        assert!(grown < 128 * MIB, "{} MiB more", grown / MIB);
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await;
}

/// One way is full and nobody reads it; the other side leaves with something long on its way.
#[context]
async fn sends_before_it_reads(ctx: Context<(), Bytes, Bytes>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for _ in 0..40 {
        stream.send(vec![1; 100_000].into()).await?;
    }
    while stream.recv().await?.is_some() {}
    Ok(())
}

#[teamster::test]
async fn who_leaves_with_a_long_item_on_its_way_does_not_hold_up_the_other_side() {
    with_one(async |frank| {
        let opened = frank.open_context(sends_before_it_reads(), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            let mut sending = Box::pin(stream.send(vec![1; 8 * MIB].into()));
            tokio::select! {
                biased;
                sent = &mut sending => sent?,
                () = tokio::task::yield_now() => {}
            }
            Ok(())
        });
        tokio::time::timeout(IN_TIME, opened).await??;
        until("its task is left", async || frank.run(guards()).await.is_ok_and(|left| left == 0)).await;
        Ok(())
    })
    .await;
}

/// While it ends, it says more than may be under way.
#[context]
async fn says_goodbye(ctx: Context<(), Bytes, Bytes>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let goodbye = async {
        teamster::cancelled().await;
        for _ in 0..40 {
            stream.send(vec![1; 100_000].into()).await?;
        }
        Ok(())
    };
    teamster::shield(goodbye).await
}

#[teamster::test]
async fn a_cancelled_task_that_still_sends_is_not_held_up() -> Result<(), Error> {
    let root = teamster::root().grace(IN_TIME).open(async |an| {
        let frank = callee::callee(an, "frank").start().await?;
        let opened = frank.open_context(says_goodbye(), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            ctx.cancel().await?;
            assert_eq!(stream.recv().await?, None);
            assert_eq!(ctx.outcome().await.to_string(), "cancelled by me");
            Ok(())
        });
        opened.await?;
        is_idle(&frank).await;
        Ok(())
    });
    root.await
}
