//! Is a Python program an actor like any other?
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{Stream, TryStreamExt};
use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Python;
use teamster::testing::expect_cancelled;
use teamster::{
    ActorNursery, CancelRequest, Context, Error, ExitKind, Portal, RemoteError, Rung, SpawnReason, context, rpc,
    this_actor,
};

// ---- what `python/callee.py` does

#[rpc(name = "callee::square")]
async fn square(n: i64) -> i64;

#[rpc(name = "callee::slow_square")]
async fn slow_square(n: i64) -> i64;

#[rpc(name = "callee::fail")]
async fn fail(text: String) -> teamster::Result<()>;

#[rpc(name = "callee::echo")]
async fn echo(value: Bytes) -> Bytes;

#[rpc(name = "callee::events")]
async fn events() -> Vec<String>;

#[rpc(name = "callee::hold")]
async fn hold(file: Option<PathBuf>);

#[rpc(name = "callee::swallow")]
async fn swallow();

#[rpc(name = "callee::cancels_itself")]
async fn cancels_itself();

#[rpc(name = "callee::exit_with")]
async fn exit_with(status: i32);

#[rpc(name = "callee::block")]
async fn block(file: PathBuf);

#[rpc(name = "callee::block_in_thread")]
async fn block_in_thread(file: PathBuf);

#[rpc(name = "callee::clean_up")]
async fn clean_up(begun: PathBuf, cleaned: PathBuf);

#[rpc(name = "callee::spin")]
async fn spin(file: PathBuf) -> String;

#[rpc(name = "callee::spin_in_thread")]
async fn spin_in_thread(file: PathBuf);

#[rpc(name = "callee::ticks")]
async fn ticks(count: u64) -> impl Stream<Item = u64>;

#[rpc(name = "callee::ticks_that_fail")]
async fn ticks_that_fail(count: u64, length: u64) -> impl Stream<Item = u64>;

#[rpc(name = "callee::ticks_in_thread")]
async fn ticks_in_thread(count: u64) -> impl Stream<Item = u64>;

#[rpc(name = "callee::ticks_in_thread_that_fail")]
async fn ticks_in_thread_that_fail(count: u64, length: u64) -> impl Stream<Item = u64>;

#[rpc(name = "callee::decorated")]
async fn decorated(n: i64) -> i64;

#[rpc(name = "callee::decorated_hold")]
async fn decorated_hold(file: Option<PathBuf>);

#[context(name = "callee::decorated_count")]
async fn decorated_count(ctx: Context<u64, String, u64>, from: u64) -> u64;

#[rpc(name = "callee::ask")]
async fn ask(portal: Portal, path: String, args: (i64,)) -> teamster::Result<i64>;

#[context(name = "callee::count")]
async fn count(ctx: Context<u64, String, u64>, from: u64) -> u64;

#[context(name = "callee::count_in_thread")]
async fn count_in_thread(ctx: Context<u64, String, u64>, from: u64) -> u64;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// With the packages of the environment that `TEAMSTER_TEST_VENV` names, if it names one.
fn python(name: &str) -> Python {
    let python = Python::script(script(name));
    match std::env::var_os("TEAMSTER_TEST_VENV") {
        Some(venv) => python.venv(Path::new(&venv)),
        None => python,
    }
}

async fn callee(an: &ActorNursery) -> Result<Portal, Error> {
    an.actor("callee").python(python("callee.py")).start().await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn start_call_end() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        // Its interpreter takes its time to end, on a busy machine more than tests have as their grace.
        let callee = an.actor("callee").python(python("callee.py")).grace(Duration::from_secs(10)).start().await?;
        assert_eq!(callee.run(square(7)).await?, 49);
        assert_eq!(callee.run(slow_square(8)).await?, 64);
        assert_eq!(callee.run_by_path::<_, i64>("callee::square", (9,)).await?, 81);
        let receipt = callee.cancel_actor().await?;
        assert!(receipt.was_graceful(), "{receipt:?}");
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn one_call_has_an_actor_of_its_own() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        assert_eq!(an.actor("once").python(python("callee.py")).call(square(7)).await?, 49);
        assert_eq!(an.actor("once").python(python("callee.py")).run_in_actor(square(8)).await?, 64);
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn an_exception_is_a_remote_error_with_its_traceback() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let Err(Error::Remote(error)) = callee.run(fail("no such thing".into())).await else { panic!("it fails") };
        assert_eq!((error.type_name(), error.message()), ("ValueError", "no such thing"));
        assert_eq!(error.chain(), ["KeyError: 'the first'"]);
        assert_eq!(error.actor().name(), "callee");
        let traceback = error.backtrace().expect("Python has told it");
        assert!(traceback.contains("raise ValueError(text) from error"), "{traceback}");
        assert!(!traceback.contains("_served.py"), "{traceback}");
        assert!(error.location().expect("it is known").contains("callee.py:"));
        assert_eq!(callee.run(square(2)).await?, 4, "it goes on");
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_context_streams_both_ways() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let total = callee
            .open_context(count(10), async |ctx, first| {
                assert_eq!(first, 10);
                let mut stream = ctx.open_stream().await?;
                stream.send("hay".into()).await?;
                assert_eq!(stream.recv().await?, Some(13));
                stream.finish().await?;
                assert_eq!(stream.recv().await?, None);
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(total, 13);
        let total = callee
            .open_context(count_in_thread(10), async |ctx, _first| {
                let mut stream = ctx.open_stream().await?;
                stream.send("hay".into()).await?;
                assert_eq!(stream.recv().await?, Some(13));
                stream.finish().await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(total, 13);
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn it_calls_its_parent() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let path = format!("{}::add", module_path!());
        let sum: i64 = callee.run_by_path("callee::ask_parent", (&path, (1, 2))).await?;
        assert_eq!(sum, 3);
        let sum: i64 = callee.run_by_path("callee::ask_parent_from_thread", (&path, (1, 2))).await?;
        assert_eq!(sum, 3);
        Ok(())
    })
    .await
}

// ---- values, many and large

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_thousand_calls_at_once_end_each_with_its_own_result() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let squares = try_join_all((0..1000).map(|n| callee.run(square(n)))).await?;
        assert_eq!(squares, (0..1000).map(|n| n * n).collect::<Vec<_>>());
        let squares = try_join_all((0..200).map(|n| callee.run(slow_square(n)))).await?;
        assert_eq!(squares, (0..200).map(|n| n * n).collect::<Vec<_>>());
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_hundred_megabytes_go_there_and_back_and_nothing_waits_behind_them() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let sent = Bytes::from((0..100_000_000_u32).map(|at| (at ^ (at >> 11)) as u8).collect::<Vec<u8>>());
        let large = async { callee.run(echo(sent.clone())).await };
        let small = async {
            let mut calls = 0;
            for n in 0..20 {
                assert_eq!(callee.run(square(n)).await?, n * n);
                calls += 1;
            }
            Ok(calls)
        };
        let (back, calls) = tokio::try_join!(large, small)?;
        assert!(back == sent && calls == 20);
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_generators_values_come_as_a_stream() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let got: Vec<u64> = callee.stream(ticks(100_000)).await?.try_collect().await?;
        assert_eq!(got, (0..100_000).collect::<Vec<_>>());
        // A reader that has seen enough is no failure.
        let mut some = callee.stream(ticks(100_000)).await?;
        assert_eq!(some.try_next().await?, Some(0));
        drop(some);
        assert_eq!(callee.run(square(3)).await?, 9);
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_plain_generators_values_come_as_a_stream_too() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let all: Vec<u64> = callee.stream(ticks_in_thread(300)).await?.try_collect().await?;
        assert_eq!(all, (0..300).collect::<Vec<_>>());
        says(&callee, "the ticks are over").await?;
        // Whoever has seen enough ends it, also where it would never end.
        let mut endless = callee.stream(ticks_in_thread(u64::from(u32::MAX))).await?;
        assert_eq!(endless.try_next().await?, Some(0));
        drop(endless);
        while callee.run(events()).await?.iter().filter(|event| *event == "the ticks are over").count() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(callee.cancel_actor().await?.was_graceful());
        Ok(())
    })
    .await
}

/// What a stream of values ends with.
async fn failure_of(mut values: impl Stream<Item = Result<u64, Error>> + Unpin) -> RemoteError {
    loop {
        match values.try_next().await {
            Ok(Some(_)) => {}
            Err(Error::Remote(error)) => return error,
            other => panic!("it fails: {other:?}"),
        }
    }
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_generator_that_fails_never_looks_like_one_that_has_ended() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        for (count, length) in [(0, 20), (3, 20), (3, 100_000), (2_000, 200_000)] {
            let errors = [
                failure_of(callee.stream(ticks_that_fail(count, length)).await?).await,
                failure_of(callee.stream(ticks_in_thread_that_fail(count, length)).await?).await,
            ];
            for error in errors {
                assert_eq!((error.type_name(), error.message().len() as u64), ("ValueError", length));
            }
        }
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn what_stands_around_an_async_function_need_not_be_one() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        assert_eq!(callee.run(decorated(41)).await?, 42);
        let counted = callee.open_context(decorated_count(10), async |ctx, first| {
            assert_eq!(first, 10);
            let mut stream = ctx.open_stream().await?;
            stream.send("hay".into()).await?;
            assert_eq!(stream.recv().await?, Some(13));
            stream.finish().await?;
            Ok(ctx.result().await?)
        });
        assert_eq!(counted.await?, 13);
        {
            let mut held = std::pin::pin!(callee.run(decorated_hold(None)));
            tokio::select! {
                ended = &mut held => panic!("it holds: {ended:?}"),
                said = says(&callee, "holds") => said?,
            }
        }
        says(&callee, "cleaned up").await?;
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_call_that_makes_no_sense_says_why() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let unknown = callee.run_by_path::<_, ()>("callee::nothing", ()).await;
        assert!(matches!(unknown, Err(Error::NoSuchEndpoint { .. })), "{unknown:?}");
        let Err(Error::Codec(wrong)) = callee.run_by_path::<_, i64>("callee::square", (1, 2)).await else {
            panic!("it takes one argument")
        };
        assert!(wrong.message().contains("takes 1 arguments, and 2 came"), "{wrong}");
        let as_call = callee.run_by_path::<_, i64>("callee::count", (1,)).await;
        assert!(matches!(as_call, Err(Error::Usage(_))), "{as_call:?}");
        let paths: Vec<String> = callee.endpoints().await?.into_iter().map(|endpoint| endpoint.path).collect();
        assert!(paths.contains(&"callee::square".to_owned()), "{paths:?}");
        let hidden = an.actor("hidden").python(python("callee.py")).expose(["callee::fail"]).start().await?;
        let refused = hidden.run(square(2)).await;
        assert!(matches!(refused, Err(Error::NotExposed { .. })), "{refused:?}");
        let here = square(2).await;
        assert!(matches!(here, Err(Error::Usage(text)) if text.contains("another program")), "{here:?}");
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn python_programs_find_each_other_by_their_portals() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (one, other) = tokio::try_join!(callee(an), callee(an))?;
        assert_eq!(one.run(ask(other.clone(), "callee::square".into(), (9,))).await?, 81);
        let frank = an.start_actor("frank").await?;
        assert_eq!(frank.run(squares_of(other)).await?, 16, "from a Rust program that is not its parent");
        Ok(())
    })
    .await
}

#[rpc]
async fn squares_of(python: Portal) -> teamster::Result<i64> {
    Ok(python.run(square(4)).await?)
}

/// Whoever calls a context by its path has made a mistake of its own: nobody else suffers.
#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_context_that_python_calls_is_that_calls_error() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (one, other) = tokio::try_join!(callee(an), callee(an))?;
        for portal in [other.clone(), this_actor()?] {
            let path = if portal == other { "callee::count" } else { concat!(module_path!(), "::counts") };
            let wrong = one.run(ask(portal, path.into(), (9,))).await.expect_err("it is a context");
            let told = wrong.report().to_string();
            assert!(told.contains(&format!("{path} is a context")), "{told}");
        }
        assert_eq!(one.run(ask(other.clone(), "callee::square".into(), (9,))).await?, 81);
        Ok(())
    })
    .await
}

#[context]
async fn counts(ctx: Context<u64, String, u64>, from: u64) -> u64 {
    drop(ctx.started(from).await);
    std::future::pending().await
}

#[rpc]
async fn fails() -> std::io::Result<i64> {
    Err(std::io::Error::other("the root fails"))
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn an_error_climbs_through_it() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let path = format!("{}::fails", module_path!());
        let Err(Error::Remote(error)) =
            callee.run_by_path::<_, i64>("callee::ask_parent", (path, Vec::<()>::new())).await
        else {
            panic!("it fails")
        };
        assert_eq!(error.message(), "the root fails");
        let names: Vec<&str> = error.path().iter().map(teamster::Aid::name).collect();
        assert_eq!(names, [this_actor()?.aid().name(), "callee"]);
        Ok(())
    })
    .await
}

// ---- cancels

/// Resolves when its clean-up has run.
async fn says(callee: &Portal, event: &str) -> Result<(), Error> {
    while !callee.run(events()).await?.iter().any(|one| one == event) {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_dropped_call_cancels_its_task_whose_clean_up_may_wait() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        tokio::select! {
            ended = callee.run(hold(None)) => panic!("nobody ends it: {ended:?}"),
            begun = says(&callee, "holds") => begun?,
        }
        says(&callee, "cleaned up").await?;
        let cancelled = format!("cancelled by {}", this_actor()?.aid().name());
        assert_eq!(callee.run(events()).await?, ["holds", &cancelled, "cleaned up"]);
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_deadline_is_that_of_the_callees_own_clock() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        // On a busy machine a deadline may be over before the call has begun.
        while callee.run(events()).await?.is_empty() {
            let late = teamster::deadline(Duration::from_millis(50), callee.run(hold(None))).await;
            assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        }
        Ok(says(&callee, "cleaned up").await?)
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_cancelled_actor_runs_its_clean_up() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cleaned");
    teamster::root()
        .grace(Duration::from_secs(10))
        .open(async |an| {
            let callee = callee(an).await?;
            let holding = callee.run(hold(Some(file.clone())));
            let ending = async {
                says(&callee, "holds").await?;
                callee.cancel_actor().await
            };
            let (held, receipt) = tokio::join!(holding, ending);
            let receipt = receipt?;
            assert!(receipt.was_graceful(), "{receipt:?}");
            assert_eq!(expect_cancelled(held).request, CancelRequest::Actor);
            assert_eq!(std::fs::read_to_string(&file)?, "cleaned up");
            Ok(())
        })
        .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_task_that_cancels_itself_is_named() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let canceller = expect_cancelled(callee.run(cancels_itself()).await);
        assert_eq!((canceller.aid.name(), canceller.request), ("callee", CancelRequest::Itself));
        Ok(())
    })
    .await
}

/// What is cancelled and goes on is killed when its grace is over, and not before.
#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_swallowed_cancel_is_killed_at_the_grace() -> Result<(), Error> {
    const GRACE: Duration = Duration::from_millis(500);
    teamster::open_nursery(async |an| {
        let callee = an.actor("callee").python(python("callee.py")).grace(GRACE).start().await?;
        let swallowing = callee.run(swallow());
        let ending = async {
            says(&callee, "holds").await?;
            let asked = Instant::now();
            Ok::<_, Error>((callee.cancel_actor().await?, asked.elapsed()))
        };
        let (swallowed, ended) = tokio::join!(swallowing, ending);
        let (receipt, took) = ended?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)), "{receipt:?}");
        assert!(took >= GRACE, "{took:?}");
        assert!(swallowed.is_err());
        Ok(())
    })
    .await
}

async fn written(file: &Path) {
    while !file.exists() {
        tokio::task::yield_now().await;
    }
}

/// The event loop is stuck: its control thread acknowledges, and the grace is enforced.
#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_blocked_loop_acknowledges_at_once_and_is_killed_at_the_grace() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("blocks");
    teamster::open_nursery(async |an| {
        let grace = Duration::from_secs(2);
        let callee = an.actor("callee").python(python("callee.py")).grace(grace).start().await?;
        let blocked = callee.run(block(file.clone()));
        let ending = async {
            written(&file).await;
            callee.cancel_actor().await
        };
        let (blocked, receipt) = tokio::join!(blocked, ending);
        let receipt = receipt?;
        let heard = receipt.heard.expect("its control thread has heard it");
        assert!(heard < grace, "while the loop is stuck: {heard:?}");
        assert_eq!(receipt.exit, ExitKind::Signal(9), "{receipt:?}");
        assert!(blocked.is_err());
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn code_that_never_awaits_sees_the_flag() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    teamster::root()
        .grace(Duration::from_secs(10))
        .open(async |an| {
            let callee = callee(an).await?;
            let file = folder.path().join("spins");
            tokio::select! {
                ended = callee.run(spin(file.clone())) => panic!("nobody has cancelled it: {ended:?}"),
                () = written(&file) => {}
            }
            assert_eq!(callee.run(square(2)).await?, 4, "its loop goes on");
            let file = folder.path().join("thread");
            tokio::select! {
                ended = callee.run(spin_in_thread(file.clone())) => panic!("nobody has cancelled it: {ended:?}"),
                () = written(&file) => {}
            }
            written(&folder.path().join("thread.seen")).await;
            assert!(callee.cancel_actor().await?.was_graceful());
            Ok(())
        })
        .await
}

// ---- what is no actor, or not for long

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn sys_exit_in_a_call_is_the_actors_death() {
    let ended = teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let died = callee.run(exit_with(3)).await;
        assert!(matches!(&died, Err(Error::ActorDied(death)) if death.exit() == ExitKind::Status(3)), "{died:?}");
        Ok(())
    })
    .await;
    assert!(matches!(&ended, Err(Error::ActorDied(_))), "it dies unasked: {ended:?}");
}

/// A function that blocks in a thread can't be stopped, and need not be: its process is over.
#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_blocked_thread_holds_up_no_death() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("blocks");
    let ended = teamster::open_nursery(async |an| {
        let callee = callee(an).await?;
        let exits = async {
            written(&file).await;
            callee.run(exit_with(3)).await
        };
        let (blocked, died) = tokio::join!(callee.run(block_in_thread(file.clone())), exits);
        assert!(matches!(&died, Err(Error::ActorDied(death)) if death.exit() == ExitKind::Status(3)), "{died:?}");
        assert!(matches!(&blocked, Err(Error::ActorDied(_))), "{blocked:?}");
        Ok(())
    })
    .await;
    assert!(matches!(&ended, Err(Error::ActorDied(_))), "it dies unasked: {ended:?}");
}

const FAILS_BESIDE_A_THREAD: &str = "
import asyncio, threading, teamster
begun = threading.Event()

@teamster.rpc
def blocks():
    begun.set()
    threading.Event().wait()

async def main():
    await asyncio.to_thread(begun.wait)
    raise RuntimeError('main has failed')

teamster.run(main)
";

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_main_that_fails_beside_a_blocked_thread_is_the_actors_death() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("fails.py");
    std::fs::write(&script, FAILS_BESIDE_A_THREAD).expect("a file");
    let ended = teamster::open_nursery(async |an| {
        let fails = an.actor("fails").python(Python::script(script)).start().await?;
        let Err(Error::ActorDied(death)) = fails.run_by_path::<_, ()>("fails::blocks", ()).await else {
            panic!("its main fails")
        };
        assert_eq!(death.exit(), ExitKind::Status(1), "{death:?}");
        assert!(death.stderr_tail().contains("RuntimeError: main has failed"), "{}", death.stderr_tail());
        Ok(())
    })
    .await;
    assert!(matches!(&ended, Err(Error::ActorDied(_))), "it dies unasked: {ended:?}");
}

#[rpc]
async fn keeps_one_that_cleans_up(begun: PathBuf, cleaned: PathBuf) -> teamster::Result<()> {
    let nursery = teamster::open_nursery(async |an| Ok(callee(an).await?.run(clean_up(begun, cleaned)).await?));
    Ok(nursery.await?)
}

/// Its parent is gone: what cleans up has the grace for that, also where it waits.
#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn a_lost_parent_leaves_time_to_clean_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let (begun, cleaned) = (folder.path().join("begun"), folder.path().join("cleaned"));
    let ended = teamster::root()
        .grace(Duration::from_secs(20))
        .open(async |an| {
            let middle = an.start_actor("middle").await?;
            let killing = async {
                written(&begun).await;
                let pid = Pid::from_raw(middle.aid().pid().cast_signed()).expect("it runs");
                kill_process(pid, Signal::KILL).expect("it is there");
                written(&cleaned).await;
            };
            let (ran, ()) = tokio::join!(middle.run(keeps_one_that_cleans_up(begun.clone(), cleaned.clone())), killing);
            assert!(ran.is_err(), "it was killed");
            Ok(())
        })
        .await;
    assert!(matches!(&ended, Err(Error::ActorDied(_))), "it dies unasked: {ended:?}");
}

async fn start_fails(program: Python) -> String {
    let mut told = String::new();
    // A failed start is its caller's.
    let ended = teamster::open_nursery(async |an| {
        let failed = an.actor("broken").python(program).start().await.expect_err("it can't start");
        assert!(matches!(failed, Error::Spawn { .. }), "{failed:?}");
        told = failed.report().to_string();
        Ok(())
    });
    ended.await.expect("nothing else fails");
    told
}

#[teamster::test]
#[ignore = "needs Python 3.11"]
async fn what_can_not_become_an_actor_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        Python::script(path)
    };
    for (program, text) in [
        (Python::script(folder.path().join("missing.py")), "can't open file"),
        (Python::script(script("callee.py")).interpreter("/no/such/python"), "/no/such/python can't be run"),
        (file("wrong.py", "def broken(:\n"), "SyntaxError"),
        (file("raises.py", "import teamster\nraise RuntimeError('no luck')\n"), "RuntimeError: no luck"),
        (file("forgets.py", "import teamster\nprint('done')\n"), "ended without `teamster.run()`"),
    ] {
        let told = start_fails(program).await;
        assert!(told.contains(text), "{text:?} is not in: {told}");
    }
    let late = teamster::open_nursery(async |an| {
        let hangs = file("hangs.py", "import threading\nthreading.Event().wait()\n");
        let within = Duration::from_millis(500);
        let late = an.actor("hangs").python(hangs).boot_timeout(within).start().await;
        assert!(matches!(late, Err(Error::Spawn { reason: SpawnReason::BootTimeout { .. }, .. })), "{late:?}");
        Ok(())
    });
    late.await.expect("nothing else fails");
}
