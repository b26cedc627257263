//! Is each end of a stream told apart, at once, on both sides, whoever leaves first and however?
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use teamster::{ActorNursery, BoxError, Context, Error, MsgStream, Outcome, Portal, PortalContext, context, rpc};

#[path = "support/callee.rs"]
mod callee;
#[path = "support/lines.rs"]
mod lines;
#[path = "support/one.rs"]
mod one;
#[path = "support/prompt.rs"]
mod prompt;
use lines::{can_be_cut, cut, cut_off, fds, lines};
use one::{Guard, IN_TIME, PLENTY, guards, held, let_go, until, with_one};
use prompt::promptly;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Sends for ever.
#[context]
async fn endless(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for number in 0.. {
        stream.send(number).await?;
    }
    Ok(())
}

/// Sends as long as somebody reads, and stays: only a cancel ends it.
#[context]
async fn stays(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut number = 0;
    while stream.send(number).await.is_ok() {
        number += 1;
    }
    std::future::pending().await
}

/// Reads until its end, and says how many came.
#[context]
async fn counts(ctx: Context<(), u64, u64>) -> teamster::Result<u64> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut count = 0;
    while stream.recv().await?.is_some() {
        count += 1;
    }
    assert_eq!(stream.recv().await?, None);
    Ok(count)
}

/// Opens its stream, sends some, and returns.
#[context]
async fn returns_early(ctx: Context<(), u64, u64>, sends: u64) -> teamster::Result<String> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for number in 0..sends {
        stream.send(number).await?;
    }
    Ok("early".into())
}

// ---- well

#[teamster::test]
async fn a_body_that_ends_early_ends_a_callee_that_sends_and_one_that_reads() {
    with_one(async |frank| {
        let value = frank
            .open_context(endless(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                assert_eq!(stream.recv().await?, Some(0));
                Ok("enough")
            })
            .await?;
        assert_eq!(value, "enough");
        assert_eq!(frank.run(guards()).await?, 0, "it was waited for");
        let ctx = frank
            .open_context(counts(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for number in 0..5 {
                    stream.send(number).await?;
                }
                Ok(ctx.clone())
            })
            .await?;
        assert_eq!(ctx.result().await?, 5, "what was in transit was read");
        // Without a stream of its own.
        assert_eq!(frank.open_context(counts(), async |ctx, ()| Ok(ctx.clone())).await?.result().await?, 0);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_callee_that_returns_early_ends_the_stream_and_leaves_the_body_alone() {
    with_one(async |frank| {
        for (sends, sent_first) in [(0, false), (0, true), (3, false), (3, true)] {
            let early = frank.open_context(returns_early(sends), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                if sent_first {
                    stream.send(7).await?; // nobody reads it: that is no error
                }
                for expected in 0..sends {
                    assert_eq!(stream.recv().await?, Some(expected));
                }
                for _ in 0..100 {
                    assert_eq!(stream.recv().await?, None);
                }
                assert_eq!(ctx.result().await?, "early");
                Ok("late")
            });
            assert_eq!(early.await?, "late");
        }
        Ok(())
    })
    .await;
}

/// Twelve cases: the callee's task is gone when the cancel returns.
#[teamster::test]
async fn a_cancel_is_acknowledged_before_at_and_behind_the_stream() {
    with_one(async |frank| {
        for when in ["before the stream", "while it is open", "after it was left"] {
            for sends in [false, true] {
                for waits in [false, true] {
                    let case = format!("{when}, sends {sends}, waits {waits}");
                    match sends {
                        true => frank.open_context(stays(), async |ctx, ()| cancel(ctx, when, waits).await).await,
                        false => frank.open_context(counts(), async |ctx, ()| cancel(ctx, when, waits).await).await,
                    }
                    .unwrap_or_else(|error| panic!("{case}: {error}"));
                    assert_eq!(frank.run(guards()).await?, 0, "{case}");
                    assert_eq!(frank.run(add(1, 2)).await?, 3, "{case}");
                }
            }
        }
        Ok(())
    })
    .await;
}

async fn cancel<E>(ctx: &PortalContext<E>, when: &str, waits: bool) -> Result<(), BoxError>
where
    E: teamster::ContextEndpoint<In = u64, Out = u64>,
{
    let mut stream = None;
    if when != "before the stream" {
        stream = Some(ctx.open_stream().await?);
    }
    if when == "after it was left" {
        stream = None;
    }
    if waits {
        ctx.cancel().await?;
        assert!(ctx.has_ended());
    } else {
        let asked = ctx.clone();
        let mut cancelling = Box::pin(asked.cancel());
        assert!(futures::poll!(&mut cancelling).is_pending(), "it is on its way");
    }
    if let Some(mut stream) = stream {
        for _ in 0..100 {
            assert_eq!(stream.recv().await?, None);
        }
    }
    assert!(ctx.open_stream().await.is_err());
    assert!(matches!(ctx.outcome().await, Outcome::CancelledByUs | Outcome::Returned(_)));
    Ok(())
}

/// What had come before our own cancel is not read after it.
#[teamster::test]
async fn after_a_cancel_of_our_own_there_is_nothing_more_to_read() {
    with_one(async |frank| {
        frank
            .open_context(endless(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                assert_eq!(stream.recv().await?, Some(0));
                ctx.cancel().await?;
                assert_eq!(stream.recv().await?, None);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

/// Says how it ended.
#[context]
async fn tells(ctx: Context<(), u64, String>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let end = stream.recv().await;
    stream.send(format!("{end:?}")).await?;
    held().await;
    Ok(())
}

#[teamster::test]
async fn a_finished_stream_and_a_cancel_after_it_are_two_things() {
    with_one(async |frank| {
        frank
            .open_context(tells(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                stream.finish().await?;
                assert_eq!(stream.recv().await?.as_deref(), Some("Ok(None)"));
                assert_eq!(frank.run(guards()).await?, 1, "it goes on");
                ctx.cancel().await?;
                assert!(matches!(ctx.outcome().await, Outcome::CancelledByUs));
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn an_endless_stream_ends_with_its_timeout() {
    with_one(async |frank| {
        let numbers = frank.open_context(endless(), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            while stream.recv().await?.is_some() {}
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(100), numbers).await.is_err());
        until("its task is left", async || frank.run(guards()).await.is_ok_and(|left| left == 0)).await;
        Ok(())
    })
    .await;
}

// ---- a pipeline

/// Reads numbers from the actor behind it, adds one to each, and sends them on; the last one makes them.
#[context]
async fn stage(ctx: Context<(), (), u64>, behind: Vec<Portal>, items: u64) -> teamster::Result<u64> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut sends: MsgStream<u64, ()> = ctx.open_stream().await?;
    let Some((next, rest)) = behind.split_first() else {
        for number in 0..items {
            sends.send(number).await?;
        }
        return Ok(items);
    };
    let passed = next.open_context(stage(rest.to_vec(), items), async |inner, ()| {
        let mut receives = inner.open_stream().await?;
        let mut passed = 0;
        while let Some(number) = receives.recv().await? {
            sends.send(number + 1).await?;
            passed += 1;
        }
        assert_eq!(inner.result().await?, passed);
        Ok(passed)
    });
    Ok(passed.await?)
}

const ITEMS: u64 = 5000;

/// All of it, with its count.
async fn whole(actors: &[Portal], last: &std::cell::Cell<u64>) -> Result<u64, Error> {
    let (first, behind) = actors.split_first().expect("there are four");
    let taken = first.open_context(stage(behind.to_vec(), ITEMS), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        let mut count = 0;
        while let Some(number) = stream.recv().await? {
            assert_eq!(number, count + behind.len() as u64);
            count += 1;
            last.set(count);
        }
        assert_eq!(ctx.result().await?, count);
        Ok(count)
    });
    taken.await
}

async fn are_idle(actors: &[Portal]) {
    for actor in actors {
        until("a stage is left", async || actor.run(guards()).await.is_ok_and(|left| left == 0)).await;
    }
}

/// Cancelled near its end: nothing comes of it, or all, never a part.
#[teamster::test]
async fn a_pipeline_of_four_that_is_cancelled_gives_the_whole_or_nothing() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let mut actors = Vec::new();
        for name in ["one", "two", "three", "four"] {
            actors.push(an.start_actor(name).await?);
        }
        for stops_at in [1, ITEMS / 2, ITEMS - 100, ITEMS - 1, ITEMS, ITEMS + 1] {
            let last = std::cell::Cell::new(0);
            let stop = async {
                while last.get() < stops_at.min(ITEMS) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                count = whole(&actors, &last) => assert_eq!(count?, ITEMS),
                () = stop, if stops_at <= ITEMS => assert!(last.get() >= stops_at),
            }
            are_idle(&actors).await;
        }
        Ok(())
    })
    .await
}

// ---- badly

/// A task group of this actor that several contexts use.
#[context]
async fn uses_the_group(ctx: Context<(), (), u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    stream.send(1).await?;
    held().await;
    Err(std::io::Error::other("a task of the group failed"))?
}

#[teamster::test]
async fn a_failure_that_two_contexts_share_ends_both_openers() {
    with_one(async |frank| {
        let open = async || {
            let opened = frank.open_context(uses_the_group(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                assert_eq!(stream.recv().await?, Some(1));
                frank.run(let_go()).await?;
                Ok(stream.recv().await?)
            });
            opened.await.expect_err("the group fails").to_string()
        };
        let (one, two) = futures::future::join(open(), open()).await;
        assert!(one.contains("a task of the group failed") && two.contains("a task of the group failed"));
        Ok(())
    })
    .await;
}

/// The reason, for a sender by `send` and by `Sink`, as for a reader.
#[teamster::test]
async fn who_sends_hears_why_as_who_reads_does() {
    with_one(async |frank| {
        let ctx = frank.context(uses_the_group()).await?;
        let mut stream = ctx.open_stream().await?;
        assert_eq!(stream.recv().await?, Some(1));
        frank.run(let_go()).await?;
        let read = stream.recv().await.expect_err("it has failed");
        let sent = loop {
            if let Err(error) = stream.send(()).await {
                break error;
            }
        };
        let sunk = futures::SinkExt::send(&mut stream, ()).await.expect_err("it has failed");
        for error in [read, sent, sunk] {
            assert!(error.to_string().contains("a task of the group failed"), "{error:?}");
        }
        Ok(())
    })
    .await;
}

// ---- the line is lost

/// What the callee on the other side of a lost line has met.
#[context]
async fn both_ways(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(number) = stream.recv().await? {
        stream.send(number).await?;
    }
    std::future::pending().await
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Opener,
    Callee,
    OpenerThenCallee,
    CalleeThenOpener,
    Killed,
}

/// Opens a context into another actor, loses the line in its middle, and says what came of it, and how soon.
#[rpc]
async fn loses(callee: Portal, loss: u8, leaves_first: bool) -> teamster::Result<(String, Duration)> {
    let loss =
        [Loss::Opener, Loss::Callee, Loss::OpenerThenCallee, Loss::CalleeThenOpener, Loss::Killed][loss as usize];
    let (us, them) = (std::process::id(), callee.aid().pid());
    let mut lost = None;
    let ended = callee.open_context(both_ways(), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        for number in 0..100 {
            stream.send(number).await?;
            assert_eq!(stream.recv().await?, Some(number));
        }
        if leaves_first {
            drop(stream);
        }
        lost = Some(Instant::now());
        let cut_both = match loss {
            Loss::Opener => [Some((us, them)), None],
            Loss::Callee => [Some((them, us)), None],
            Loss::OpenerThenCallee => [Some((us, them)), Some((them, us))],
            Loss::CalleeThenOpener => [Some((them, us)), Some((us, them))],
            Loss::Killed => {
                kill_process(Pid::from_raw(them.cast_signed()).expect("it is a process"), Signal::KILL)?;
                [None; 2]
            }
        };
        for (from, to) in cut_both.into_iter().flatten() {
            cut(from, to)?;
        }
        Ok(std::future::pending::<()>().await)
    });
    let told = ended.await.expect_err("its line is lost").to_string();
    Ok((told, lost.expect("the body ran").elapsed()))
}

/// How long it takes until both sides have ended.
async fn lose(an: &ActorNursery, loss: u8, leaves_first: bool) -> Result<Duration, BoxError> {
    let (opener, callee) = (an.start_actor("opener").await?, an.start_actor("callee").await?);
    let (told, mut took) =
        tokio::time::timeout(IN_TIME, opener.run(loses(callee.clone(), loss, leaves_first))).await??;
    let waits_since = Instant::now();
    assert!(told.contains("callee"), "{told}");
    until("the callee's task is left", async || callee.run(guards()).await.is_ok_and(|left| left == 0)).await;
    took += waits_since.elapsed();
    // On a new line all is well again.
    let again = async |loss| opener.run(loses(callee.clone(), loss, false)).await;
    again(0).await?;
    assert_eq!(callee.run(add(1, 2)).await?, 3);
    callee.cancel_actor().await?;
    assert_eq!(opener.run(add(1, 2)).await?, 3);
    opener.cancel_actor().await?;
    Ok(took)
}

/// Ten cases: five losses, with and without the stream left first.
#[teamster::test(exclusive)]
async fn a_lost_line_ends_both_sides_at_once_and_nothing_else() {
    if !can_be_cut() {
        return;
    }
    // Whoever waits for a grace is not there at once.
    let root = || teamster::root().grace(PLENTY);
    for loss in 0..4 {
        for leaves_first in [false, true] {
            promptly(&format!("loss {loss}, left first {leaves_first}"), async || {
                Ok(root().open(async |an| lose(an, loss, leaves_first).await).await?)
            })
            .await;
        }
    }
    for leaves_first in [false, true] {
        promptly(&format!("killed, left first {leaves_first}"), async || {
            let mut took = None;
            // That the callee was killed is the nursery's failure, and would cancel our call of its opener.
            let ended = root().open(async |an| {
                let opener = an.start_actor("opener").await?;
                let lost = an.actor("keeper").call(loses_its_own(opener.clone(), leaves_first)).await?;
                took = Some(lost);
                assert_eq!(opener.run(add(1, 2)).await?, 3);
                Ok(())
            });
            ended.await?;
            Ok(took.expect("the body ran"))
        })
        .await;
    }
}

/// Has its callee here in a nursery of its own, which fails with it.
#[rpc]
async fn loses_its_own(opener: Portal, leaves_first: bool) -> teamster::Result<Duration> {
    let mut losing = tokio::task::JoinSet::new();
    let ended = teamster::open_nursery(async |an| {
        let callee = an.start_actor("callee").await?;
        // Beside the nursery's failure, which cancels this body.
        losing.spawn(async move { opener.run(loses(callee, 4, leaves_first)).await });
        Ok(an.wait().await)
    });
    let ended = ended.await;
    assert!(matches!(&ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)), "{ended:?}");
    let (told, took) = losing.join_next().await.expect("the body ran")??;
    assert!(told.contains("callee") && told.contains("signal 9 (SIGKILL)"), "{told}");
    Ok(took)
}

#[rpc]
async fn adds_by(portal: Portal) -> Result<i64, Error> {
    portal.run(add(1, 2)).await
}

/// Neither refuses the call nor waits for the other's goodbye, which may take its time.
#[teamster::test]
async fn a_call_behind_our_goodbye_goes_to_a_new_line() {
    if !can_be_cut() {
        return;
    }
    let ended = teamster::open_nursery(async |an| {
        let (caller, callee) = (an.start_actor("caller").await?, an.start_actor("callee").await?);
        caller.run(adds_by(callee.clone())).await?;
        let (here, there) = (caller.aid().pid(), callee.aid().pid());
        let process = Pid::from_raw(there.cast_signed()).expect("it is a process");
        kill_process(process, Signal::STOP)?;
        // Ten seconds after the call.
        has_something_to_read(lines(there, here)?.remove(0)).await;
        let mut calling = std::pin::pin!(caller.run(adds_by(callee.clone())));
        // It has connected, and is not refused.
        tokio::select! {
            called = &mut calling => panic!("nobody answers: {called:?}"),
            () = has_something_to_read(listening(there)?) => {}
        }
        kill_process(process, Signal::CONT)?;
        assert_eq!(calling.await?, 3);
        Ok(())
    });
    ended.await.expect("nothing fails");
}

static GIVES: AtomicU32 = AtomicU32::new(0);

/// More than the buffers on the way hold.
#[rpc]
async fn gives_much() -> Bytes {
    GIVES.fetch_add(1, Ordering::SeqCst);
    held().await;
    Bytes::from(vec![7; 32 << 20])
}

#[rpc]
async fn gives() -> u32 {
    GIVES.load(Ordering::SeqCst)
}

#[rpc]
async fn takes_much(callee: Portal) -> Result<usize, Error> {
    Ok(callee.run(gives_much()).await?.len())
}

/// The callee has nothing to do for longer than a line between two stays without a dialog: but its result is on the way.
#[teamster::test]
async fn a_result_that_waits_for_its_reader_keeps_the_line() {
    let root = teamster::root().lost_after(Duration::from_secs(60)); // between hosts, one that stands still is lost
    let ended = root.open(async |an| {
        let (caller, callee) = (an.start_actor("caller").await?, an.start_actor("callee").await?);
        let mut taking = std::pin::pin!(caller.run(takes_much(callee.clone())));
        until("it runs", async || {
            tokio::select! {
                took = &mut taking => panic!("it is held: {took:?}"),
                runs = callee.run(gives()) => runs.is_ok_and(|runs| runs == 1),
            }
        })
        .await;
        let process = Pid::from_raw(caller.aid().pid().cast_signed()).expect("it is a process");
        kill_process(process, Signal::STOP)?;
        callee.run(let_go()).await?;
        tokio::time::sleep(Duration::from_secs(11)).await;
        kill_process(process, Signal::CONT)?;
        assert_eq!(taking.await?, 32 << 20);
        assert_eq!(callee.run(gives()).await?, 1, "it ran once");
        Ok(())
    });
    ended.await.expect("nothing fails");
}

async fn has_something_to_read(socket: OwnedFd) {
    let waiting = tokio::task::spawn_blocking(move || {
        let within = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&within))
    });
    let ready = waiting.await.expect("it does not panic").expect("a socket can be polled");
    assert_eq!(ready, 1, "nothing has come in 20 s");
}

/// The socket at which a process can be connected to.
fn listening(pid: u32) -> std::io::Result<OwnedFd> {
    let is_it = |fd: &OwnedFd| rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    Ok(fds(pid)?.into_iter().find(is_it).expect("every actor has one"))
}

/// Loses the line to a callee in its context's body, and tells what its cancels say then.
#[rpc]
async fn cancels_behind_a_lost_line(callee: Portal, is_killed: bool) -> teamster::Result<String> {
    let (us, them) = (std::process::id(), callee.aid().pid());
    let ctx = callee.context(both_ways()).await?;
    if is_killed {
        kill_process(Pid::from_raw(them.cast_signed()).expect("it is a process"), Signal::KILL)?;
    } else {
        assert_eq!(cut(us, them)?, 1, "one line leads there");
    }
    let mut told = Vec::new();
    for by_handle in [false, false, true] {
        match if by_handle { ctx.handle().cancel().await } else { ctx.cancel().await } {
            Ok(()) => told.push("stopped"),
            Err(Error::NotStopped { heard: false, aid, .. }) if aid == *callee.aid() => told.push("not acknowledged"),
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(ctx.heard(), None, "nobody has heard it");
    Ok(told.join(", "))
}

/// Nobody knows whether it has heard; of a dead one everybody knows that it has stopped.
#[teamster::test]
async fn a_cancel_behind_a_lost_line_says_that_it_is_not_acknowledged() {
    if !can_be_cut() {
        return;
    }
    let ended = teamster::open_nursery(async |an| {
        let (opener, callee) = (an.start_actor("opener").await?, an.start_actor("callee").await?);
        let cancelled = opener.run(cancels_behind_a_lost_line(callee.clone(), false));
        let told = tokio::time::timeout(IN_TIME, cancelled).await??;
        assert_eq!(told, "not acknowledged, not acknowledged, not acknowledged");
        until("the callee's task is left", async || callee.run(guards()).await.is_ok_and(|left| left == 0)).await;
        let doomed = an.actor("doomed").call(callee_that_is_killed(opener.clone())).await;
        assert!(matches!(doomed, Err(Error::ActorDied(_))), "{doomed:?}");
        assert_eq!(opener.run(last_told()).await?, "stopped, stopped, stopped");
        Ok(())
    });
    ended.await.expect("nothing fails");
}

/// Has another actor open a context into this one, which kills it.
#[rpc]
async fn callee_that_is_killed(opener: Portal) -> teamster::Result<()> {
    opener.run(cancels_here(teamster::this_actor()?)).await?;
    Ok(())
}

static TOLD: tokio::sync::SetOnce<String> = tokio::sync::SetOnce::const_new();

#[rpc]
async fn cancels_here(callee: Portal) -> teamster::Result<()> {
    // Its caller dies meanwhile, which cancels this call: what is told is told to the next one.
    teamster::shield(async {
        let told = cancels_behind_a_lost_line(callee, true).await?;
        Ok(TOLD.set(told)?)
    })
    .await
}

#[rpc]
async fn last_told() -> String {
    TOLD.wait().await.clone()
}

static BEGUN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Notes that it has begun.
#[rpc]
async fn begins(number: u32, _ballast: Bytes) {
    BEGUN.lock().expect("nobody panics").push(number);
    std::future::pending().await
}

#[rpc]
async fn begun() -> Vec<u32> {
    BEGUN.lock().expect("nobody panics").clone()
}

/// Makes more calls than a stopped callee's socket takes, and loses the line: which of them have surely not begun,
/// and of which that is not known?
#[rpc]
async fn storms(callee: Portal) -> teamster::Result<(Vec<u32>, Vec<u32>)> {
    const CALLS: u32 = 500;
    callee.run(add(1, 2)).await?; // the line is there
    let (us, them) = (std::process::id(), callee.aid().pid());
    let process = Pid::from_raw(them.cast_signed()).expect("it is a process");
    kill_process(process, Signal::STOP)?;
    let ballast = Bytes::from(vec![0; 4096]);
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let mut call = Box::pin(callee.run(begins(number, ballast.clone())));
        assert!(futures::poll!(call.as_mut()).is_pending());
        calls.push(call);
    }
    cut(us, them)?;
    let (mut not_started, mut unknown) = (Vec::new(), Vec::new());
    for (number, ended) in (0..).zip(futures::future::join_all(calls).await) {
        match ended {
            Err(Error::NotStarted { .. }) => not_started.push(number),
            Err(Error::Unknown { .. }) => unknown.push(number),
            other => panic!("{number}: {other:?}"),
        }
    }
    kill_process(process, Signal::CONT)?;
    Ok((not_started, unknown))
}

#[teamster::test]
async fn a_call_that_is_said_not_to_have_started_has_never_begun() {
    if !can_be_cut() {
        return;
    }
    let ended = teamster::open_nursery(async |an| {
        let (opener, callee) = (an.start_actor("opener").await?, an.start_actor("callee").await?);
        let (not_started, unknown) = opener.run(storms(callee.clone())).await?;
        assert!(!not_started.is_empty() && !unknown.is_empty(), "{} and {}", not_started.len(), unknown.len());
        // It reads what has come by then, and sees the end of that.
        let (there, here) = (callee.aid().pid(), opener.aid().pid());
        until("its end of the lost line is open", async || lines(there, here).is_ok_and(|lines| lines.is_empty()))
            .await;
        let begun = callee.run(begun()).await?;
        assert!(!begun.is_empty(), "some calls did begin");
        let liars: Vec<&u32> = begun.iter().filter(|number| not_started.contains(number)).collect();
        assert!(liars.is_empty(), "these have begun: {liars:?}");
        Ok(())
    });
    ended.await.expect("nothing fails");
}

#[rpc]
async fn cancels_behind_a_cut(callee: Portal) -> teamster::Result<bool> {
    assert_eq!(cut(std::process::id(), callee.aid().pid())?, 1, "one line leads there");
    let receipt = callee.cancel_actor().await?;
    Ok(receipt.asked_by.is_some_and(|by| by.aid == *teamster::this_actor().expect("we are one").aid()))
}

/// S3.59: by its parent, whose own lines are cut, and by another actor, which asks through the tree.
#[teamster::test(exclusive)]
async fn an_actor_behind_a_cut_line_is_ended_at_once_and_no_error() {
    if !can_be_cut() {
        return;
    }
    for cuts in [0..2, 0..1, 1..2] {
        promptly(&format!("its end, with the lines {cuts:?} cut"), async || {
            let mut took = None;
            let ended = teamster::root().grace(PLENTY).open(async |an| {
                let frank = an.start_actor("frank").await?;
                let lines = lines(std::process::id(), frank.aid().pid())?;
                assert_eq!(lines.len(), 2, "a data line and a control line");
                cut_off(&lines[cuts.clone()])?;
                let asked = Instant::now();
                // An end that nobody asked for cuts off this body.
                teamster::shield(async {
                    let receipt = frank.cancel_actor().await?;
                    took = Some(asked.elapsed());
                    assert_eq!(&receipt.aid, frank.aid());
                    Ok(())
                })
                .await
            });
            // Where it has seen the cut before it was asked, it has ended by itself.
            match ended.await {
                Ok(()) | Err(Error::ActorDied(_)) => Ok(took.expect("there is a receipt")),
                Err(error) => Err(error.into()),
            }
        })
        .await;
    }
    promptly("its end, asked by another", async || {
        let ended = teamster::root().grace(PLENTY).open(async |an| {
            let (caller, callee) = (an.start_actor("caller").await?, an.start_actor("callee").await?);
            caller.run(adds_by(callee.clone())).await?;
            let asked = Instant::now();
            assert!(caller.run(cancels_behind_a_cut(callee)).await?, "the caller has asked");
            Ok(asked.elapsed())
        });
        Ok(ended.await?)
    })
    .await;
}

/// A child that is cut off from its parent ends, and its parent hears of it at once: whichever line is lost,
/// or is lost first.
#[teamster::test]
async fn a_child_whose_lines_are_cut_is_gone_and_its_parents_body_hears() {
    if !can_be_cut() {
        return;
    }
    for at_the_child in [false, true] {
        for which in [0..2, 0..1, 1..2] {
            let case = format!("at the child: {at_the_child}, lines {which:?}");
            let ended = teamster::open_nursery(async |an| {
                let frank = an.start_actor("frank").await?;
                let (us, them) = (std::process::id(), frank.aid().pid());
                let opened = frank.open_context(endless(), async |ctx, ()| {
                    let mut stream = ctx.open_stream().await?;
                    assert_eq!(stream.recv().await?, Some(0));
                    let (from, to) = if at_the_child { (them, us) } else { (us, them) };
                    let lines = lines(from, to)?;
                    assert_eq!(lines.len(), 2, "a data line and a control line");
                    cut_off(&lines[which.clone()])?;
                    while stream.recv().await?.is_some() {}
                    Ok(std::future::pending::<()>().await)
                });
                let error = tokio::time::timeout(IN_TIME, opened).await?.expect_err("its line is lost");
                assert!(matches!(error, Error::ActorDied(_) | Error::Unknown { .. }), "{case}: {error:?}");
                Ok(())
            })
            .await;
            // It has ended unasked.
            assert!(matches!(&ended, Err(Error::ActorDied(_))), "{case}: {ended:?}");
        }
    }
}

/// The kernel ends the lines of a process before that counts as dead. Who asks it to end in between has not ended it.
#[teamster::test]
async fn who_dies_without_having_heard_of_a_cancel_has_died_by_itself() {
    if !can_be_cut() {
        return;
    }
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let (us, them) = (std::process::id(), frank.aid().pid());
        assert_eq!(frank.run(add(1, 1)).await?, 2);
        let process = Pid::from_raw(them.cast_signed()).expect("it is a process");
        kill_process(process, Signal::STOP)?; // it sees nothing of what follows
        cut_off(&lines(us, them)?)?;
        let mut cancel = std::pin::pin!(frank.cancel_actor());
        assert!(futures::poll!(&mut cancel).is_pending());
        kill_process(process, Signal::KILL)?;
        let receipt = cancel.await?;
        assert!(receipt.asked_by.is_none() && receipt.rung.is_none(), "{receipt:?}");
        Ok(())
    })
    .await;
    assert!(matches!(&ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)), "{ended:?}");
}
