//! Actors whose host is Python's asyncio: values, errors and cancels cross as between processes.
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{join_all, try_join_all};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use teamster::asyncio::{Asyncio, End, open_channel_from, run_task};
use teamster::testing::expect_cancelled;
use teamster::{ActorNursery, Error, Portal, RemoteError, rpc};

#[path = "support/program.rs"]
mod program;
use program::{Program, scene};

/// What ends by itself and not by the grace, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(10);

fn python() -> Asyncio {
    Asyncio::new().path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/asyncio"))
}

async fn start(an: &ActorNursery) -> Result<Portal, Error> {
    an.actor("py").grace(PLENTY).infect(python()).start().await
}

/// Opens a nursery with one infected actor.
async fn with_python(body: impl AsyncFnOnce(&ActorNursery, Portal) -> Result<(), teamster::BoxError>) {
    let ended = teamster::open_nursery(async |an| {
        let py = start(an).await?;
        body(an, py).await
    });
    ended.await.unwrap();
}

#[track_caller]
fn remote<T: std::fmt::Debug>(result: Result<T, Error>) -> RemoteError {
    match result {
        Err(Error::Remote(remote)) => remote,
        other => panic!("no error of another actor: {other:?}"),
    }
}

// ---- what the actors do

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    item: String,
    count: u32,
    notes: Option<Vec<String>>,
}

#[rpc]
async fn square(n: i64) -> Result<i64, Error> {
    run_task("tasks:square", (n,)).await
}

#[rpc]
async fn squares(count: i64) -> Result<i64, Error> {
    let all = (0..count).map(|n| run_task::<i64, _>("tasks:square", (n,)));
    Ok(try_join_all(all).await?.iter().sum())
}

#[rpc]
async fn count_up(order: Order) -> Result<Order, Error> {
    run_task("tasks:order", order).await
}

#[rpc]
async fn kinds() -> Result<Vec<String>, Error> {
    Ok(vec![
        run_task("tasks:kinds", ()).await?,
        run_task("tasks:kinds", (1, "two", 3.5)).await?,
        run_task("tasks:kinds", vec![1, 2]).await?,
        run_task("tasks:kinds", "text").await?,
        run_task("tasks:kinds", std::collections::BTreeMap::from([("key", true)])).await?,
    ])
}

#[derive(Debug, Serialize, Deserialize)]
struct Where {
    main: bool,
    r#loop: bool,
    prefix: PathBuf,
    executable: PathBuf,
}

#[rpc]
async fn whereabouts() -> Result<Where, Error> {
    run_task("tasks:where", ()).await
}

/// Runs a coroutine function without arguments, whatever it gives.
#[rpc]
async fn run(path: String) -> Result<rmpv::Value, Error> {
    run_task(&path, ()).await
}

#[rpc]
async fn fail(text: String) -> Result<(), Error> {
    run_task("tasks:fail", (text,)).await
}

#[rpc]
async fn not_a_number() -> Result<i64, Error> {
    run_task("tasks:kinds", ()).await
}

/// How deep it nests is no matter of what takes it here.
#[rpc]
async fn nested(levels: u32) -> Result<(), Error> {
    let mut value: rmpv::Value = run_task("tasks:nested", (levels,)).await?;
    for _ in 0..levels {
        let rmpv::Value::Array(mut items) = value else { panic!("no list: {value}") };
        value = items.pop().expect("a list of one");
    }
    assert_eq!(value.as_u64(), Some(7));
    Ok(())
}

#[rpc]
async fn ping() {}

#[rpc]
async fn echoes(upto: u64) -> Result<(String, u64), Error> {
    open_channel_from("tasks:echo", ("good day",), async |chan, greeting: String| {
        for n in 0..upto {
            chan.send(&n).await?;
            assert_eq!(chan.recv::<u64>().await?, Some(n));
        }
        chan.finish()?;
        assert_eq!(chan.recv::<u64>().await?, None);
        assert_eq!(chan.recv::<u64>().await?, None, "the end is always the same");
        Ok((greeting, chan.result().await?))
    })
    .await
}

/// Our side leaves after its 50th answer, by an error or not.
#[rpc]
async fn leave_at_50(fails: bool) -> Result<Vec<rmpv::Value>, Error> {
    let ended = open_channel_from("tasks:remember", (), async |chan, _none: ()| {
        for n in 0..100u64 {
            chan.send(&n).await?;
            chan.recv::<u64>().await?;
            if n == 50 && fails {
                return Err("we have had enough".into());
            }
            if n == 50 {
                break;
            }
        }
        Ok(())
    })
    .await;
    match ended {
        Err(error) if fails && error.to_string().contains("we have had enough") => {}
        Ok(()) if !fails => {}
        other => panic!("{other:?}"),
    }
    run_task("tasks:seen", ()).await
}

/// Their side leaves with the 50th.
#[rpc]
async fn told_to_stop(fails: bool) -> Result<(u64, String), Error> {
    let (path, last) = if fails { ("tasks:echo_by_get", 50) } else { ("tasks:stops_at", 50) };
    let answers = AtomicUsize::new(0);
    let ended = open_channel_from(path, (last,), async |chan, _none: ()| {
        for n in 0..100u64 {
            if chan.send(&n).await.is_err() {
                break; // it has ended
            }
            if chan.recv::<u64>().await?.is_none() {
                break;
            }
            answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(chan.result::<String>().await?)
    })
    .await;
    let told = match ended {
        Ok(text) => text,
        Err(Error::Remote(remote)) => format!("{}: {}", remote.type_name(), remote.message()),
        Err(other) => return Err(other),
    };
    Ok((answers.load(Ordering::Relaxed) as u64, told))
}

#[rpc]
async fn two_consumers() -> Result<Vec<(String, u64)>, Error> {
    open_channel_from("tasks:two_consumers", (), async |chan, _none: ()| {
        let mut seen = Vec::new();
        for n in 0..100u64 {
            chan.send(&n).await?;
            seen.extend(chan.recv().await?);
        }
        chan.finish()?;
        assert_eq!(chan.result::<String>().await?, "both are done");
        Ok(seen)
    })
    .await
}

/// How many were let in before anybody had read, and whether all came in their order.
#[rpc]
async fn held_back() -> Result<(u64, u64), Error> {
    open_channel_from("tasks:count", (500,), async |chan, _none: ()| {
        for n in 0..500u64 {
            if n % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(chan.recv::<u64>().await?, Some(n));
        }
        let ahead: u64 = chan.result().await?;
        let mut left = 0;
        while chan.recv::<u64>().await?.is_some() {
            left += 1;
        }
        Ok((ahead, left))
    })
    .await
}

/// What becomes of a channel whose body does nothing.
#[rpc]
async fn idle_channel(path: String) -> Result<(), Error> {
    open_channel_from(&path, (), async |_chan, _first: rmpv::Value| Ok(())).await
}

/// Both sides fail: how.
#[rpc]
async fn failing_channel(path: String) -> Vec<String> {
    let body = async |_chan, _none: ()| Err::<(), _>("the body has failed".into());
    match open_channel_from(&path, (), body).await.expect_err("both have failed") {
        Error::Group(group) => group.iter().map(Error::to_string).collect(),
        one => vec![one.to_string()],
    }
}

/// A first word that is no number: the error, and how often a coroutine had cleaned up when it came.
#[rpc]
async fn no_number_first(path: String) -> Result<(String, u64), Error> {
    let ended = open_channel_from(&path, ("a word",), async |_chan, _first: u64| Ok(())).await;
    let cleaned = run_task("tasks:cleaned", ()).await?;
    Ok((ended.expect_err("it is none").report().to_string(), cleaned))
}

#[rpc]
async fn waiting_channel(path: String) -> Result<(), Error> {
    open_channel_from(&path, (), async |_chan, _first: rmpv::Value| std::future::pending().await).await
}

/// The same, and how its end is named when we ask for it.
#[rpc]
async fn ends_as(path: String) -> Result<String, Error> {
    open_channel_from(&path, (), async |chan, _none: ()| {
        chan.cancel();
        Ok(match chan.ended().await {
            End::Cancelled => "cancelled".to_owned(),
            other => format!("{other:?}"),
        })
    })
    .await
}

/// A getter is cancelled when it was woken for a message and has not run yet.
#[rpc]
async fn cancelled_with_a_message() -> Result<(u64, bool), Error> {
    open_channel_from("tasks:two_getters", (), async |chan, _none: ()| {
        assert_eq!(chan.recv::<String>().await?.as_deref(), Some("both wait"));
        chan.send(&7u64).await?;
        run_task::<(), _>("tasks:cancel_the_first", ()).await?;
        let answer = chan.recv::<u64>().await?.expect("the second one has it");
        Ok((answer, chan.result().await?))
    })
    .await
}

/// What is left of getters and senders that were cancelled: futures, and messages that were to be sent.
#[rpc]
async fn give_up_often() -> Result<(i64, usize), Error> {
    open_channel_from("tasks:give_up_often", (), async |chan, _none: ()| {
        let left = chan.result().await?;
        let mut unwanted = 0;
        while let Some(text) = chan.recv::<String>().await? {
            unwanted += usize::from(text != "fits");
        }
        Ok((left, unwanted))
    })
    .await
}

/// How many asyncio tasks are held on to of those that were dropped in one call.
#[rpc]
async fn drop_often() -> Result<i64, Error> {
    let before: i64 = run_task("tasks:futures_left", ()).await?;
    for _ in 0..200 {
        assert!(run_task::<(), _>("asyncio:sleep", (3600,)).now_or_never().is_none());
        run_task::<String, _>("tasks:kinds", ()).await?;
    }
    let after: i64 = run_task("tasks:futures_left", ()).await?;
    Ok(after - before)
}

/// What a task that another one has woken us to start has of that one's context variables.
#[rpc]
async fn name_beside() -> Result<String, Error> {
    open_channel_from("tasks:named", (), async |_chan, _none: ()| Ok(run_task("tasks:name", ()).await?)).await
}

/// Our side leaves with their last word, when their task has ended and nobody was told of it.
#[rpc]
async fn leave_with_the_last(path: String) -> Result<(String, Option<String>), Error> {
    let mut side = None;
    let word: Option<String> = open_channel_from(&path, (), async |chan, _none: ()| {
        side = Some(chan.clone());
        Ok(chan.recv().await?)
    })
    .await?;
    let end = side.expect("the body has run").ended().await;
    Ok((format!("{end:?}"), word))
}

#[rpc]
async fn call_back(name: String, path: String, args: (u64, u64)) -> Result<u64, Error> {
    run_task("tasks:call", (name, path, args)).await
}

#[rpc]
async fn catch(name: String, path: String) -> Result<Vec<String>, Error> {
    run_task("tasks:call_and_catch", (name, path, (1u64, 2u64))).await
}

#[rpc]
async fn give_up(name: String, path: String) -> Result<String, Error> {
    run_task("tasks:call_and_give_up", (name, path)).await
}

#[rpc(name = "tests.add")]
async fn add(a: u64, b: u64) -> u64 {
    a + b
}

#[teamster::error]
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("no seat in row {row}")]
struct Full {
    row: u64,
}

#[rpc(name = "tests.book")]
async fn book(row: u64, _seats: u64) -> Result<(), Full> {
    Err(Full { row })
}

#[rpc]
async fn in_the_background(name: String, path: String, then: String) -> Result<(), Error> {
    run_task("tasks:in_the_background", (name, path, then)).await
}

static HELD: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);

#[rpc(name = "tests.hold")]
async fn hold() {
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _held = Held;
    HELD.fetch_add(1, Ordering::SeqCst);
    std::future::pending().await
}

#[rpc]
async fn held() {
    while HELD.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[rpc]
async fn dropped() {
    while DROPPED.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

// ---- values

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_coroutine_is_called_with_values_and_gives_one() {
    with_python(async |_an, py| {
        assert_eq!(py.run(square(7)).await?, 49);
        let order = Order { item: "tea".into(), count: 2, notes: Some(vec!["hot".into()]) };
        let counted = py.run(count_up(order)).await?;
        assert_eq!(counted, Order { item: "tea".into(), count: 3, notes: Some(vec!["hot".into()]) });
        let wanted = ["((), {})", "((1, 'two', 3.5), {})", "(([1, 2],), {})", "(('text',), {})", "((), {'key': True})"];
        assert_eq!(py.run(kinds()).await?, wanted);
        let place = py.run(whereabouts()).await?;
        assert!(place.r#loop, "{place:?}");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_thousand_tasks_at_once() {
    with_python(async |_an, py| {
        assert_eq!(py.run(squares(1_000)).await?, (0..1_000).map(|n| n * n).sum::<i64>());
        let calls = try_join_all((0..1_000).map(|n| py.run(square(n)))).await?;
        assert_eq!(calls.iter().sum::<i64>(), (0..1_000).map(|n| n * n).sum::<i64>());
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn context_variables_stay_in_their_task() {
    with_python(async |_an, py| {
        assert_eq!(py.run(name_beside()).await?, "nobody");
        Ok(())
    })
    .await;
}

#[test]
#[ignore = "needs Python 3 with its headers"]
fn what_python_has_printed_is_not_lost_at_its_exit() {
    let mut program = Program::start("prints");
    program.says("said in a line"); // a program of Python's would say that at its end, to a pipe
    let ended = program.ends_within(PLENTY);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.contains("said without an end, and at the exit"), "{}", ended.stdout);
}

#[teamster::main]
async fn say() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let py = start(an).await?;
        py.run(run("tasks:say_without_an_end".into())).await?;
        py.cancel_actor().await?;
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_value_of_another_type_is_a_codec_error() {
    with_python(async |_an, py| {
        let error = py.run(not_a_number()).await.unwrap_err().to_string();
        assert!(error.contains("tasks:kinds") && error.contains("the result"), "{error}");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_value_that_nests_too_deep_or_holds_itself_is_an_error() {
    with_python(async |_an, py| {
        py.run(nested(200)).await?;
        let too_deep = "it nests deeper than 200 levels";
        for levels in [201, 100_000] {
            let error = py.run(nested(levels)).await.unwrap_err().to_string();
            assert!(error.contains(too_deep) && error.contains("the result"), "{error}");
        }
        for path in ["tasks:holds_itself", "tasks:call_with_what_holds_itself"] {
            let error = py.run(run(path.into())).await.unwrap_err().to_string();
            assert!(error.contains(too_deep), "{path}: {error}");
        }
        let error = py.run(waiting_channel("tasks:first_word_holds_itself".into())).await.unwrap_err().to_string();
        assert!(error.contains(too_deep) && error.contains("its first word"), "{error}");
        py.run(ping()).await?;
        Ok(())
    })
    .await;
}

// ---- errors

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn an_exception_reaches_the_root_with_type_text_place_and_traceback() {
    with_python(async |_an, py| {
        let error = remote(py.run(fail("too sour".into())).await);
        assert_eq!((error.type_name(), error.message()), ("tasks.Sour", "too sour"));
        assert_eq!(error.chain(), ["KeyError: 'the first'"]);
        assert_eq!(error.actor(), py.aid());
        assert!(error.location().is_some_and(|at| at.contains("tests/asyncio/tasks.py:")), "{error:?}");
        let traceback = error.backtrace().expect("it has one");
        assert!(traceback.contains("raise Sour(text) from error") && traceback.starts_with("Traceback"), "{traceback}");
        assert!(Error::Remote(error).report().to_string().contains("tasks.py"));
        py.run(ping()).await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn an_exception_whose_text_is_none_or_whose_causes_are_a_circle_is_told_whole() {
    with_python(async |_an, py| {
        let error = remote(py.run(run("tasks:names_a_file".into())).await);
        assert_eq!(error.message(), r"/no/such/\udcff");
        assert!(error.backtrace().is_some_and(|trace| trace.contains("tasks.py")), "{error:?}");
        let error = remote(py.run(run("tasks:caused_by_itself".into())).await);
        assert_eq!((error.message(), error.chain()), ("the first", ["ValueError: the second".to_owned()].as_slice()));
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn what_can_not_be_run_says_why() {
    with_python(async |_an, py| {
        let cases = [
            ("no_such_module:f", "ModuleNotFoundError", "no_such_module"),
            ("tasks:no_such_function", "AttributeError", "no_such_function"),
            ("tasks", "ValueError", "package.module:function"),
            ("tasks:not_async", "TypeError", "coroutine"),
            ("tasks:order", "TypeError", "missing"),
        ];
        for (path, type_name, text) in cases {
            let error = remote(py.run(run(path.into())).await);
            assert_eq!(error.type_name(), type_name, "{path}: {error}");
            assert!(error.message().contains(text), "{path}: {error}");
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn ends_of_a_tasks_own_making_are_told_apart() {
    with_python(async |_an, py| {
        let error = remote(py.run(run("tasks:cancel_itself".into())).await);
        assert_eq!(error.type_name(), "asyncio.CancelledError");
        assert!(error.message().contains("tasks:cancel_itself cancelled itself"), "{error}");
        let error = remote(py.run(run("tasks:exit_early".into())).await);
        assert_eq!((error.type_name(), error.message()), ("SystemExit", "3"));
        assert_eq!(py.run(ends_as("tasks:hold_channel".into())).await?, "cancelled");
        assert_eq!(py.run(ends_as("tasks:swallow_in_channel".into())).await?, "SwallowedCancel");
        let error = remote(py.run(waiting_channel("tasks:cancels_itself_in_channel".into())).await);
        assert!(error.message().contains("cancelled itself"), "{error}");
        py.run(ping()).await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_task_that_has_ended_was_not_asked_to() {
    with_python(async |_an, py| {
        let (end, word) = py.run(leave_with_the_last("tasks:last_words".into())).await?;
        assert_eq!((end.as_str(), word.as_deref()), ("Returned", Some("the last")));
        let error = remote(py.run(leave_with_the_last("tasks:last_words_and_cancelled".into())).await);
        assert!(error.message().contains("cancelled itself"), "{error}");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_venv_that_is_none_fails_the_start() {
    let mut failure = None;
    let ended = teamster::open_nursery(async |an| {
        failure = an.actor("py").infect(python().venv("/no/such/venv")).start().await.err();
        Ok(())
    });
    ended.await.unwrap();
    let text = failure.expect("it can't start").to_string();
    assert!(text.contains("no virtual environment of python3"), "{text}");
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn what_python_starts_is_of_the_venv_too() {
    let folder = tempfile::tempdir().unwrap();
    let venv = folder.path().join("venv");
    let python_of_the_build = std::env::var("PYO3_PYTHON").unwrap_or_else(|_unset| "python3".to_owned());
    let made = Command::new(python_of_the_build).args(["-m", "venv", "--without-pip"]).arg(&venv).status().unwrap();
    assert!(made.success());
    let ended = teamster::open_nursery(async |an| {
        let place = an.actor("py").infect(python().venv(&venv)).call(whereabouts()).await?;
        assert_eq!((place.prefix, place.executable), (venv.clone(), venv.join("bin/python")));
        Ok(())
    });
    ended.await.unwrap();
}

// ---- channels

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn messages_go_both_ways_until_each_side_ends() {
    with_python(async |_an, py| {
        assert_eq!(py.run(echoes(100)).await?, ("good day".to_owned(), 100));
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn our_side_leaves_and_theirs_is_cancelled() {
    with_python(async |_an, py| {
        for fails in [false, true] {
            let seen = py.run(leave_at_50(fails)).await?;
            let (last, values) = seen.split_last().expect("it has seen some");
            assert_eq!(values.len(), 51);
            assert!(["EndOfChannel", "CancelledError"].contains(&last.as_str().expect("a name")), "{last}");
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn their_side_leaves_and_ours_is_told() {
    with_python(async |_an, py| {
        assert_eq!(py.run(told_to_stop(false)).await?, (51, "stopped at 50".to_owned()));
        assert_eq!(py.run(told_to_stop(true)).await?, (50, "tasks.Sour: no more than 51".to_owned()));
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn two_consumers_share_the_messages() {
    with_python(async |_an, py| {
        let seen = py.run(two_consumers()).await?;
        let mut values: Vec<u64> = seen.iter().map(|(_, value)| *value).collect();
        values.sort_unstable();
        assert_eq!(values, (0..100).collect::<Vec<u64>>());
        for name in ["a", "b"] {
            assert!(seen.iter().any(|(consumer, _)| consumer == name), "{name} has had nothing");
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_message_is_not_lost_with_the_getter_that_was_woken_for_it() {
    with_python(async |_an, py| {
        assert_eq!(py.run(cancelled_with_a_message()).await?, (7, true));
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn what_was_given_up_is_not_held_on_to() {
    with_python(async |_an, py| {
        let (futures, unwanted) = py.run(give_up_often()).await?;
        assert!(futures < 50, "{futures} are left of 400");
        assert_eq!(unwanted, 0);
        let tasks = py.run(drop_often()).await?;
        assert!(tasks < 100, "{tasks} are left of 200");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn who_sends_too_much_waits_or_is_refused() {
    with_python(async |_an, py| {
        let (ahead, left) = py.run(held_back()).await?;
        assert!(ahead == left && (1..=64).contains(&ahead), "{ahead} ahead, {left} left");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_first_word_is_said_once_and_first() {
    with_python(async |_an, py| {
        let cases = [
            ("tasks:never_started", "teamster.NeverStarted", "without a call of `started_nowait`"),
            ("tasks:started_twice", "RuntimeError", "there is one first word"),
            ("tasks:sends_first", "RuntimeError", "nothing is sent before it"),
        ];
        for (path, type_name, text) in cases {
            let error = remote(py.run(waiting_channel(path.into())).await);
            assert_eq!(error.type_name(), type_name, "{path}: {error}");
            assert!(error.message().contains(text), "{path}: {error}");
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_failure_while_cleaning_up_stands_beside_its_cause() {
    with_python(async |_an, py| {
        let failures = py.run(failing_channel("tasks:fails_in_its_clean_up".into())).await?;
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(
            failures[0].contains("the body has failed") && failures[1].contains("while cleaning up"),
            "{failures:?}"
        );
        for path in ["tasks:hold_channel", "tasks:swallow_in_channel"] {
            assert_eq!(py.run(failing_channel(path.into())).await?, ["the body has failed"], "{path}");
        }
        let error = remote(py.run(idle_channel("tasks:fails_in_its_clean_up".into())).await);
        assert_eq!(error.message(), "while cleaning up");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_task_whose_first_word_is_of_another_type_has_ended_with_its_block() {
    with_python(async |_an, py| {
        let (error, cleaned) = py.run(no_number_first("tasks:hold_channel".into())).await?;
        assert!(error.contains("its first word") && cleaned == 1, "{error}, {cleaned} cleaned up");
        let (error, _) = py.run(no_number_first("tasks:fails_in_its_clean_up".into())).await?;
        assert!(error.contains("its first word") && error.contains("while cleaning up"), "{error}");
        Ok(())
    })
    .await;
}

// ---- cancels

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_dropped_call_cancels_its_coroutine_and_waits_for_its_clean_up() {
    with_python(async |_an, py| {
        for path in ["tasks:hold", "tasks:hold_channel"] {
            let held = tokio::time::timeout(Duration::from_millis(100), async {
                match path {
                    "tasks:hold" => py.run(run(path.into())).await.map(drop),
                    _ => py.run(waiting_channel(path.into())).await,
                }
            });
            held.await.expect_err("it holds on");
        }
        while py.run(run("tasks:cleaned".into())).await?.as_u64() != Some(2) {
            tokio::task::yield_now().await;
        }
        py.run(idle_channel("tasks:hold_channel".into())).await?;
        assert_eq!(py.run(run("tasks:cleaned".into())).await?.as_u64(), Some(3), "a block's end waits for its task");
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn the_actors_cancel_reaches_the_coroutine() {
    with_python(async |_an, py| {
        let held = py.run(run("tasks:hold".into()));
        let cancelled = async {
            py.run(ping()).await?; // the other call has begun before
            py.cancel_actor().await
        };
        let (held, receipt) = tokio::join!(held, cancelled);
        expect_cancelled(held);
        assert!(receipt?.was_graceful());
        Ok(())
    })
    .await;
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_task_that_swallows_every_cancel_is_killed_when_the_grace_is_over() {
    let grace = Duration::from_millis(500);
    let ended = teamster::open_nursery(async |an| {
        let py = an.actor("py").grace(grace).infect(python()).start().await?;
        let held = py.run(waiting_channel("tasks:swallow_for_ever".into()));
        let cancelled = async {
            py.run(ping()).await?;
            let begin = Instant::now();
            let receipt = py.cancel_actor().await?;
            Ok::<_, Error>((receipt, begin.elapsed()))
        };
        let (_, cancelled) = tokio::join!(held, cancelled);
        let (receipt, took) = cancelled?;
        assert!(!receipt.was_graceful(), "{receipt:?}");
        assert!(took < grace + Duration::from_secs(1), "{took:?}");
        Ok(())
    });
    ended.await.unwrap();
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_channel_that_swallows_its_cancel_has_not_stopped() {
    let ended = teamster::open_nursery(async |an| {
        let py = an.actor("py").grace(Duration::from_millis(300)).infect(python()).start().await?;
        let error = py.run(idle_channel("tasks:swallow_for_ever".into())).await.unwrap_err();
        assert!(error.to_string().contains("tasks:swallow_for_ever"), "{error}");
        Ok(())
    });
    ended.await.unwrap();
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_blocking_call_stalls_its_own_actor_only() {
    let ended = teamster::open_nursery(async |an| {
        let py = an.actor("py").infect(python()).start().await?;
        let other = start(an).await?;
        let blocked = py.run(run("tasks:block".into()));
        let cancelled = async {
            while tokio::time::timeout(Duration::from_millis(50), py.run(ping())).await.is_ok() {}
            assert_eq!(other.run(square(3)).await?, 9);
            py.cancel_actor().await
        };
        let (_, receipt) = tokio::join!(blocked, cancelled);
        let receipt = receipt?;
        assert!(receipt.heard.is_some_and(|heard| heard < Duration::from_millis(200)), "{receipt:?}");
        assert!(!receipt.was_graceful(), "{receipt:?}");
        Ok(())
    });
    ended.await.unwrap();
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn python_has_no_handler_of_signals() {
    with_python(async |_an, py| {
        assert_eq!(py.run(run("tasks:sigint_is_ours".into())).await?.as_bool(), Some(true));
        Ok(())
    })
    .await;
}

#[test]
#[ignore = "needs Python 3 with its headers"]
fn ctrl_c_reaches_the_coroutine_by_way_of_the_root() {
    let mut program = Program::start("hold");
    program.says("it holds on");
    program.signal(Signal::INT);
    let ended = program.ends_within(PLENTY);
    assert_eq!(ended.status.signal(), Some(2), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("cleaned up in python"), "{}", ended.stdout);
    assert!(!ended.stderr.contains("Traceback"), "{}", ended.stderr);
}

#[teamster::main]
async fn hold_on() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let py = start(an).await?;
        let begun = async {
            py.run(ping()).await?; // the other call has begun before
            println!("it holds on");
            Ok::<(), Error>(())
        };
        let (held, begun) = tokio::join!(py.run(run("tasks:hold".into())), begun);
        begun?;
        held?;
        Ok(())
    })
    .await
}

/// Started by tests as a program of its own.
#[test]
#[ignore = "needs Python 3 with its headers"]
fn program() {
    match scene().as_deref() {
        None => {}
        Some("hold") => hold_on().unwrap_or_else(|error| panic!("{error}")),
        Some("background") => leave_a_call_in_the_background().unwrap_or_else(|error| panic!("{error}")),
        Some("prints") => say().unwrap_or_else(|error| panic!("{error}")),
        Some("panics") => {
            let _guard = teamster::init();
            let ended = std::panic::catch_unwind(|| {
                python().open(teamster::root(), async |an| -> Result<(), teamster::BoxError> {
                    an.start_actor("plain").await?;
                    panic!("the body is broken")
                })
            });
            println!("{:?}", ended.expect_err("it panics").downcast_ref::<&str>());
        }
        Some("stopped") => {
            let _guard = teamster::init();
            let ended = python().open(teamster::root(), async |an| {
                an.start_actor("plain").await?;
                Ok(run_task::<(), _>("tasks:stop_the_loop", ()).await?)
            });
            println!("{}", ended.expect_err("it was stopped").report());
        }
        Some(other) => panic!("no scene {other}"),
    }
}

// ---- the loop's own timers

#[rpc]
async fn beat_for(millis: u64) -> Result<Vec<f64>, Error> {
    let beating = run_task::<(), _>("tasks:beat", (0.01,));
    let _late = tokio::time::timeout(Duration::from_millis(millis), beating).await;
    run_task("tasks:beats", ()).await
}

#[teamster::test(exclusive)]
#[ignore = "needs Python 3 with its headers"]
async fn asyncios_timers_keep_their_beat_under_a_flood_of_calls() {
    with_python(async |_an, py| {
        let until = Instant::now() + Duration::from_millis(2_000);
        let flood = join_all((0..50).map(async |_| {
            while Instant::now() < until {
                py.run(ping()).await?;
            }
            Ok::<(), Error>(())
        }));
        let (mut gaps, _flood) = tokio::join!(py.run(beat_for(1_900)), flood);
        let gaps = gaps.as_mut().map_err(|error| error.clone())?;
        gaps.sort_unstable_by(f64::total_cmp);
        let p99 = gaps[gaps.len() * 99 / 100];
        println!("{} beats, p99 {:.1} ms of the loop's time", gaps.len(), p99 * 1e3);
        assert!(gaps.len() > 100 && p99 < 0.015, "{} beats, p99 {p99} s of the loop's time", gaps.len());
        Ok(())
    })
    .await;
}

// ---- the way back

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn asyncio_code_calls_any_actor_of_its_tree() {
    with_python(async |an, py| {
        let plain = an.start_actor("plain").await?;
        assert_eq!(py.run(call_back("plain".into(), "tests.add".into(), (40, 2))).await?, 42);
        assert_eq!(py.run(call_back("py".into(), "tests.add".into(), (1, 2))).await?, 3, "itself too");
        let caught = py.run(catch("plain".into(), "tests.book".into())).await?;
        assert!(caught[0].contains("no seat in row 1") && caught[1].contains("asyncio.rs"), "{caught:?}");
        let error = py.run(call_back("plain".into(), "tests.book".into(), (7, 2))).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>().map(|full| full.row), Some(7), "{error}");
        let error = py.run(call_back("nobody".into(), "tests.add".into(), (1, 2))).await.unwrap_err();
        assert!(error.to_string().contains("no actor of this name"), "{error}");
        assert_eq!(py.run(give_up("plain".into(), "tests.hold".into())).await?, "late");
        plain.run(dropped()).await?;
        Ok(())
    })
    .await;
}

#[test]
#[ignore = "needs Python 3 with its headers"]
fn a_call_in_the_background_holds_up_no_end_and_may_clean_up_by_another() {
    let ended = Program::start("background").ends_within(2 * PLENTY);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("and then 42"), "{}{}", ended.stdout, ended.stderr);
}

#[teamster::main]
async fn leave_a_call_in_the_background() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let plain = an.start_actor("plain").await?;
        let py = start(an).await?;
        py.run(in_the_background("plain".into(), "tests.hold".into(), "tests.add".into())).await?;
        plain.run(held()).await?;
        let receipt = py.cancel_actor().await?;
        assert!(receipt.was_graceful(), "{receipt:?}");
        plain.run(dropped()).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_task_in_the_background_that_swallows_its_cancel_is_left_behind_within_the_grace() {
    let ended = teamster::open_nursery(async |an| {
        let py = an.actor("py").grace(Duration::from_secs(6)).infect(python()).start().await?;
        py.run(run("tasks:swallow_in_the_background".into())).await?;
        let receipt = py.cancel_actor().await?;
        assert!(receipt.was_graceful(), "{receipt:?}");
        Ok(())
    });
    ended.await.unwrap();
}

// ---- a root in an event loop

#[teamster::test]
#[ignore = "needs Python 3 with its headers"]
async fn a_root_lives_in_an_event_loop() {
    let ran = tokio::task::spawn_blocking(|| {
        let sum = python().open(teamster::root(), async |an| {
            let plain = an.start_actor("plain").await?;
            let echoed = open_channel_from("tasks:echo", (), async |chan, _greeting: String| {
                for n in 0..1_000u64 {
                    chan.send(&n).await?;
                    assert_eq!(chan.recv::<u64>().await?, Some(n));
                }
                Ok(1_000)
            });
            let echoed = echoed.await?;
            let called: u64 = run_task("tasks:call", ("plain", "tests.add", (40, 2))).await?;
            plain.cancel_actor().await?;
            Ok(echoed + called)
        });
        let failed =
            python().open(teamster::root(), async |_an| Ok(run_task::<(), _>("tasks:fail", ("at last",)).await?));
        (sum, failed)
    });
    let (sum, failed) = ran.await.unwrap();
    assert_eq!(sum.unwrap(), 1_042);
    assert_eq!(remote(failed).type_name(), "tasks.Sour");
}

#[test]
#[ignore = "needs Python 3 with its headers"]
fn a_panic_of_a_roots_body_goes_on_when_everything_is_gone() {
    let ended = Program::start("panics").ends_within(PLENTY);
    assert!(ended.stdout.contains("Some(\"the body is broken\")"), "{}{}", ended.stdout, ended.stderr);
}

#[test]
#[ignore = "needs Python 3 with its headers"]
fn a_root_whose_loop_is_stopped_cleans_up_and_says_so() {
    let ended = Program::start("stopped").ends_within(PLENTY);
    for line in ["cleaned up in python", "it was stopped before the root was over"] {
        assert!(ended.stdout.contains(line), "no line {line:?}: {}{}", ended.stdout, ended.stderr);
    }
}

/// Examples that take Python, and for the last one the network's packages.
#[test]
#[ignore = "needs Python 3 with its headers"]
fn the_echo_example_runs_to_its_end() {
    let said = example("infected_asyncio_echo", &[]);
    assert_eq!(said, "asyncio says hello to root\nasyncio has echoed 100 numbers\nnothing is left\n");
}

#[test]
#[ignore = "needs Python 3 with its headers, and PyPI"]
fn a_dropped_request_of_aiohttp_is_seen_by_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let venv = folder.path().join("venv");
    let python = std::env::var("PYO3_PYTHON").unwrap_or_else(|_unset| "python3".to_owned());
    let made = Command::new(python).args(["-m", "venv"]).arg(&venv).status().unwrap();
    assert!(made.success());
    let installed = Command::new(venv.join("bin/pip")).args(["install", "--quiet", "aiohttp"]).status().unwrap();
    assert!(installed.success());
    let said = example("aiohttp_fetch", &[&venv.to_string_lossy()]);
    let wanted = "hello from aiohttp
the server: a slow request has begun
the server: its client has gone
the client: aiohttp.client_exceptions.ClientConnectorError
nothing is left
";
    assert_eq!(said, wanted);
}

const BUILT_BY: &str = "run `cargo build --examples --features asyncio` first";

/// What an example prints. `cargo test` has built it too, `cargo test --test asyncio` has not.
#[track_caller]
fn example(name: &str, args: &[&str]) -> String {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let ran = Command::new(&program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}: {BUILT_BY}", program.display()));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}
