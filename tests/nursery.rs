//! Does a nursery end with everything in it, and with the right error?
#![allow(
    clippy::disallowed_methods,
    reason = "tasks of a user's own, which nobody of ours waits for, are part of what is tested"
)]
use std::future::{IntoFuture, pending};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Launcher;
use teamster::testing::{LeakCheck, expect_cancelled, wait_gone};
use teamster::{CancelRequest, Error, Portal, SpawnReason, rpc};
use tokio::sync::Barrier;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[rpc]
async fn sleep_for_ever() {
    pending().await
}

/// Fails only because it is cancelled.
#[rpc]
async fn fail_in_clean_up() -> Result<(), String> {
    teamster::shield(async {
        teamster::cancelled().await;
        Err("the clean-up failed".to_owned())
    })
    .await
}

fn group(error: &Error) -> Vec<String> {
    match error {
        Error::Group(group) => group.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    }
}

#[teamster::test]
async fn a_result_is_there_before_and_after_the_end() {
    let (handle, other) = teamster::open_nursery(async |an| {
        let handle = an.run_in_actor(add(1, 2));
        assert_eq!(handle.clone().await?, 3);
        Ok((handle, an.run_in_actor(add(3, 4))))
    })
    .await
    .unwrap();
    assert_eq!(handle.clone().await.unwrap(), 3);
    assert_eq!(handle.await.unwrap(), 3);
    assert_eq!(other.await.unwrap(), 7); // nobody had awaited it inside
}

#[teamster::test]
async fn one_of_ten_fails_and_no_cancel_shows() {
    let error = teamster::open_nursery(async |an| {
        for _ in 0..9 {
            drop(an.run_in_actor(sleep_for_ever()));
        }
        an.actor("bad").run_in_actor(fail("alone".into())).await?;
        Ok(())
    })
    .await
    .unwrap_err();
    let Error::Remote(remote) = &error else { panic!("{error:?}") };
    assert_eq!((remote.actor().name(), remote.message()), ("bad", "alone"));
}

#[teamster::test]
async fn the_bodys_failure_is_first_and_what_fails_after_it_stands_beside() {
    let error = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let call = frank.run(fail_in_clean_up());
        let handle = an.run_in_actor(fail_in_clean_up());
        let both = futures::future::join(call, handle.into_future());
        // A first answer of another call proves nothing of the one-shot: it is cancelled at any moment.
        futures::future::select(Box::pin(both), Box::pin(frank.run(add(1, 2)))).await;
        Err::<(), _>("the body failed".into())
    })
    .await
    .unwrap_err();
    assert_eq!(group(&error)[0], "the body failed", "{error:?}");
}

#[teamster::test]
async fn a_call_of_its_own_fails_alone() {
    teamster::open_nursery(async |an| {
        let error = an.actor("x").call(fail("mine".into())).await.unwrap_err();
        assert!(matches!(&error, Error::Remote(remote) if remote.message() == "mine"), "{error:?}");
        assert_eq!(an.actor("y").call(add(1, 1)).await?, 2);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn two_idle_service_actors_end_with_the_body() {
    let root = teamster::root().grace(Duration::from_secs(10)); // others may be busy
    let portals = root.open(async |an| Ok(an.start_actors(["a", "a"]).await?)).await.unwrap();
    for portal in portals {
        let receipt = portal.cancel_actor().await.unwrap();
        assert!(receipt.was_graceful(), "{receipt:?}");
    }
}

#[teamster::test]
async fn fifty_roots_in_a_row_leave_nothing() {
    teamster::open_nursery(async |_| Ok(())).await.unwrap(); // what is opened once, for ever
    let check = LeakCheck::new();
    for _ in 0..50 {
        teamster::open_nursery(async |_| Ok(())).await.unwrap();
    }
    check.assert_clean();
}

#[teamster::test]
async fn a_nursery_in_a_nursery_fails_first() {
    let error = teamster::open_nursery(async |an| {
        drop(an.run_in_actor(sleep_for_ever()));
        teamster::open_nursery(async |inner| {
            drop(inner.run_in_actor(sleep_for_ever()));
            inner.run_in_actor(fail("inner".into())).await?;
            Ok(())
        })
        .await?;
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::Remote(remote) if remote.message() == "inner"), "{error:?}");
}

#[teamster::test]
async fn a_dropped_nursery_is_gone_in_the_end() {
    let late = tokio::time::timeout(
        Duration::from_millis(50),
        teamster::open_nursery(async |an| {
            an.start_actors(["a", "b"]).await?;
            pending::<()>().await;
            Ok(())
        }),
    );
    late.await.unwrap_err();
}

#[teamster::test]
async fn cancelled_from_three_tasks_it_ends_once() {
    let result = teamster::open_nursery(async |an| {
        an.start_actors(["a", "b"]).await?;
        for _ in 0..3 {
            let an = an.clone();
            tokio::task::spawn(async move { an.cancel().await });
        }
        pending::<()>().await;
        Ok(())
    })
    .await;
    assert_eq!(expect_cancelled(result).request, CancelRequest::Nursery);
}

/// S1.22
#[teamster::test]
async fn an_empty_cluster_is_refused_while_another_is_up() {
    for do_pass_on in [false, true] {
        let mut pids = Vec::new();
        let ended = teamster::open_nursery(async |an| {
            let cluster = an.start_cluster(2).await?;
            pids.extend(cluster.values().map(|portal| portal.aid().pid()));
            let none: [&str; 0] = [];
            let refused = an.start_cluster(none).await;
            assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
            if do_pass_on {
                refused?;
            }
            assert_eq!(cluster["worker-1"].run(add(1, 1)).await?, 2);
            Ok(())
        })
        .await;
        assert!(matches!((&ended, do_pass_on), (Ok(()), false) | (Err(Error::Usage(_)), true)), "{ended:?}");
        assert_eq!(pids.len(), 2);
        pids.iter().for_each(|pid| wait_gone(*pid, Duration::ZERO));
    }
}

#[teamster::test]
async fn a_cluster_has_one_actor_for_each_name() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let twice = an.start_cluster(["ann", "bob", "ann"]).await;
        assert!(matches!(twice, Err(Error::Usage(_))), "{twice:?}");
        assert!(an.portals().is_empty(), "nobody was started");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn times_without_end_are_times_like_any_other() -> Result<(), Error> {
    let root = teamster::root().grace(Duration::MAX).boot_timeout(Duration::MAX);
    root.open(async |an| {
        let frank = an.actor("frank").grace(Duration::MAX).boot_timeout(Duration::MAX).start().await?;
        assert_eq!(teamster::deadline(Duration::MAX, frank.run(add(1, 2))).await??, 3);
        assert!(frank.cancel_actor().await?.was_graceful());
        Ok(())
    })
    .await
}

/// S1.21
#[teamster::test]
async fn a_cluster_is_gone_when_the_bodys_error_is_returned() {
    let mut pids = Vec::new();
    let ended = teamster::open_nursery(async |an| {
        let cluster = an.start_cluster(["ann", "bob", "eve"]).await?;
        pids.extend(cluster.values().map(|portal| portal.aid().pid()));
        Err::<(), _>("the body failed".into())
    })
    .await;
    assert_eq!(ended.unwrap_err().to_string(), "the body failed");
    assert_eq!(pids.len(), 3);
    pids.iter().for_each(|pid| wait_gone(*pid, Duration::ZERO));
}

/// It can't become bytes.
#[derive(serde::Deserialize)]
struct Secret;

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is a secret"))
    }
}

#[rpc]
async fn keep(secret: Secret) {
    let Secret = secret;
}

/// S1.14: what the compiler lets pass, and can't be sent.
#[teamster::test]
async fn a_call_that_can_not_be_sent_starts_nobody() {
    let error = teamster::open_nursery(async |an| {
        let check = LeakCheck::new();
        let refused = an.actor("x").call(keep(Secret)).await;
        assert!(matches!(&refused, Err(Error::Codec(codec)) if codec.message() == "it is a secret"), "{refused:?}");
        let handle = an.run_in_actor(keep(Secret));
        assert_eq!(an.portals(), []);
        assert_eq!(check.left(), [""; 0], "no thread of a spawner, no pipe");
        Ok(handle.await?)
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::Codec(_)), "{error:?}");
}

#[rpc]
async fn work(number: u32) -> u32 {
    if number == 2 {
        std::process::exit(3);
    }
    number * number
}

/// S1.26: a pool by hand, whose owner sees to each job.
#[teamster::test]
async fn a_worker_that_dies_fails_its_own_job_alone() {
    let done = teamster::open_nursery(async |an| {
        let mut jobs: FuturesUnordered<_> =
            (0..4).map(|number| async move { (number, an.actor("worker").call(work(number)).await) }).collect();
        let mut done = Vec::new();
        while let Some((number, result)) = jobs.next().await {
            match result {
                Ok(square) => done.push((number, square)),
                Err(Error::ActorDied(death)) if number == 2 => assert_eq!(death.status(), Some(3)),
                Err(other) => panic!("{number}: {other:?}"),
            }
        }
        done.sort_unstable();
        Ok(done)
    })
    .await;
    assert_eq!(done.unwrap(), [(0, 0), (1, 1), (3, 9)]);
}

#[teamster::test(flavor = "multi_thread")]
async fn nurseries_in_several_tasks_share_portals() {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let tasks = (0..4).map(|n| {
            let frank = frank.clone();
            tokio::task::spawn(async move {
                teamster::open_nursery(async |inner| {
                    let one = inner.run_in_actor(add(n, 1)).await?;
                    Ok(frank.run(add(one, 1)).await?)
                })
                .await
            })
        });
        let sums = futures::future::join_all(tasks).await;
        for (n, sum) in (0..4).zip(sums) {
            assert_eq!(sum??, n + 2);
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
#[should_panic(expected = "the root's own bug")]
async fn a_panic_of_the_roots_body_goes_on_when_all_is_gone() {
    let _: Result<(), _> = teamster::open_nursery(async |an| {
        an.start_actors(["a", "b"]).await?;
        panic!("the root's own bug")
    })
    .await;
}

#[teamster::test]
async fn an_exit_in_a_call_is_a_death_with_its_status() {
    #[rpc]
    async fn exit(status: i32) {
        std::process::exit(status)
    }
    for status in [0, 3] {
        let error = teamster::open_nursery(async |an| {
            let frank = an.start_actor("frank").await?;
            an.start_actor("sibling").await?;
            frank.run(exit(status)).await?;
            Ok(())
        })
        .await
        .unwrap_err();
        assert!(matches!(&error, Error::ActorDied(death) if death.status() == Some(status)), "{error:?}");
    }
}

#[teamster::test]
async fn three_at_once_are_one_group_of_failures() {
    let error = teamster::open_nursery(async |an| {
        for n in 0..3 {
            drop(an.run_in_actor(fail(n.to_string())));
        }
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(group(&error).iter().all(|text| !text.contains("cancelled")), "{error:?}");
}

// ---- starts that are cut off

/// A shell that never becomes an actor.
#[derive(Debug)]
struct NeverBoots;

impl Launcher for NeverBoots {
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "exec sleep 60"]); // what else it is given is of no interest to it
        command
    }
}

#[teamster::test(exclusive)]
async fn a_fast_failure_ends_siblings_that_are_still_booting() {
    let begun = Instant::now();
    let error = teamster::open_nursery(async |an| {
        let hanging = (0..3).map(|_| an.actor("hanging").launcher(NeverBoots).start());
        let booting = futures::future::join(futures::future::join_all(hanging), an.start_cluster(5));
        drop(an.actor("bad").run_in_actor(fail("fast".into())));
        let (hanging, _cluster) = booting.await;
        drop(hanging);
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::Remote(remote) if remote.message() == "fast"), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "no boot was waited for: {:?}", begun.elapsed());
}

#[teamster::test]
async fn a_body_that_fails_while_ten_start_leaves_none() {
    for ready in 0..5 {
        for is_kept in [false, true] {
            let error = teamster::open_nursery(async |an| {
                let mut starts: FuturesUnordered<_> = (0..10)
                    .map(|n| {
                        let an = an.clone();
                        async move { an.start_actor(&format!("child-{n}")).await }
                    })
                    .map(Box::pin)
                    .collect();
                for _ in 0..ready {
                    starts.next().await.expect("ten")?;
                }
                let _none_yet = futures::poll!(starts.next());
                if is_kept {
                    // Somebody else goes on with them.
                    tokio::task::spawn(starts.for_each(async |_| ()));
                }
                Err::<(), _>("the body failed".into())
            })
            .await
            .unwrap_err();
            assert_eq!(group(&error), ["the body failed"], "{error:?}");
        }
    }
}

// ---- one-shots

#[rpc]
async fn whoami() -> teamster::Result<String> {
    Ok(teamster::this_actor()?.aid().name().to_owned())
}

#[rpc(name = "shop.whoami")]
async fn renamed() -> teamster::Result<String> {
    Ok(teamster::this_actor()?.aid().name().to_owned())
}

#[teamster::test]
async fn a_one_shot_is_named_after_its_function_unless_a_name_is_given() {
    teamster::open_nursery(async |an| {
        let calls = (an.run_in_actor(whoami()), an.actor("given").run_in_actor(whoami()), an.run_in_actor(renamed()));
        let (own, given, renamed) =
            futures::try_join!(calls.0.into_future(), calls.1.into_future(), calls.2.into_future())?;
        assert_eq!((own.as_str(), given.as_str(), renamed.as_str()), ("whoami", "given", "shop.whoami"));
        Ok(())
    })
    .await
    .unwrap();
}

/// A grace that nobody uses up who ends by himself, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(10);

/// Where actors of a test meet, in its root.
static TWO: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
static MANY: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(CROWD));
const CROWD: usize = 25;

#[rpc]
async fn meet_in_two() {
    TWO.wait().await;
}

#[rpc]
async fn meet_in_many() {
    MANY.wait().await;
}

fn root() -> teamster::Result<Portal> {
    Ok(teamster::parent()?.expect("a child has one"))
}

#[rpc]
async fn meet_and_sleep() -> teamster::Result<()> {
    root()?.run(meet_in_two()).await?;
    pending().await
}

#[rpc]
async fn meet_and_fail() -> teamster::Result<()> {
    root()?.run(meet_in_two()).await?;
    Err(std::io::Error::other("after they met").into())
}

#[rpc]
async fn meet_many_and_fail(number: usize) -> teamster::Result<()> {
    root()?.run(meet_in_many()).await?;
    Err(std::io::Error::other(format!("number {number}")).into())
}

#[teamster::test]
async fn of_two_one_shots_the_one_that_fails_ends_the_one_that_sleeps() {
    let error = teamster::open_nursery(async |an| {
        drop(an.run_in_actor(meet_and_sleep()));
        drop(an.run_in_actor(meet_and_fail()));
        Ok(())
    })
    .await
    .unwrap_err();
    let Error::Remote(remote) = &error else { panic!("{error:?}") };
    assert_eq!((remote.actor().name(), remote.message()), ("meet_and_fail", "after they met"));
}

#[teamster::test]
async fn of_many_that_fail_at_once_only_their_own_errors_are_kept() {
    for do_meet in [false, true] {
        let error = teamster::open_nursery(async |an| {
            for number in 0..CROWD {
                if do_meet {
                    drop(an.run_in_actor(meet_many_and_fail(number)));
                } else {
                    drop(an.run_in_actor(fail(format!("number {number}"))));
                }
            }
            Ok(())
        })
        .await
        .unwrap_err();
        let entries = match &error {
            Error::Group(group) => group.iter().cloned().collect(),
            other => vec![other.clone()],
        };
        assert!(entries.len() <= CROWD, "{error:?}");
        for entry in &entries {
            let is_own = matches!(entry, Error::Remote(remote) if remote.message().starts_with("number "));
            assert!(is_own, "{entry:?}");
        }
    }
}

// ---- a root in a tree

#[rpc]
async fn open_a_root() -> Result<(), Error> {
    let error = teamster::root().open(async |_| Ok(())).await;
    teamster::open_nursery(async |an| {
        assert_eq!(an.run_in_actor(add(1, 2)).await?, 3); // its own tree is unharmed
        Ok(())
    })
    .await?;
    error
}

#[teamster::test]
async fn a_second_root_inside_a_tree_is_refused_and_the_tree_goes_on() {
    fn is_refused(result: Result<(), Error>) {
        let error = result.unwrap_err();
        let ours = error.downcast_ref::<Error>().unwrap_or(&error);
        assert!(matches!(ours, Error::Usage(text) if text.contains("open_nursery")), "{error:?}");
    }
    teamster::open_nursery(async |an| {
        is_refused(teamster::root().open(async |_| Ok(())).await);
        is_refused(open_a_root().await);
        let in_task = tokio::task::spawn(async { teamster::root().open(async |_| Ok(())).await });
        is_refused(in_task.await?);
        let frank = an.start_actor("frank").await?;
        let error = frank.run(open_a_root()).await.unwrap_err();
        assert!(error.to_string().contains("open_nursery"), "{error:?}");
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await
    .unwrap();
    teamster::root().open(async |_| Ok(())).await.unwrap(); // afterwards there may be one
}

// ---- the last word

/// A file that is there as long as somebody holds this.
struct Kept(PathBuf);

impl Kept {
    fn new(path: PathBuf) -> Kept {
        std::fs::write(&path, "").expect("the folder is there");
        Kept(path)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("it is there");
    }
}

/// Keeps a file as long as its actor lives.
#[rpc]
async fn keep_for_the_actor(path: PathBuf) -> teamster::Result<()> {
    let kept = Kept::new(path);
    teamster::on_exit(async move || drop(kept))?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Ending {
    Return,
    Failure,
    CancelledByParent,
    CancelledByItself,
    NurseryFails,
    Terminated,
    Interrupted,
    ParentLost,
}

/// Keeps a file as long as it runs, and ends as it is told.
#[rpc]
async fn keep_for_the_task(path: PathBuf, ending: Ending, begun: Portal) -> teamster::Result<()> {
    let _kept = Kept::new(path);
    begun.run(meet_in_two()).await?;
    match ending {
        Ending::Return => return Ok(()),
        Ending::Failure => return Err(std::io::Error::other("it failed").into()),
        Ending::CancelledByItself => teamster::cancel_self()?,
        _from_elsewhere => {}
    }
    pending().await
}

/// Starts the keeper below, and says by whom it is to be ended.
#[rpc]
async fn be_keepers_parent(folder: PathBuf, ending: Ending, begun: Portal) -> teamster::Result<()> {
    teamster::open_nursery(async |an| {
        let keeper = an.actor("keeper").grace(PLENTY).start().await?;
        keeper.run(keep_for_the_actor(folder.join("actor"))).await?;
        keeper.run(keep_for_the_task(folder.join("task"), ending, begun.clone())).await?;
        Ok(())
    })
    .await?;
    Ok(())
}

fn send(actor: &Portal, signal: Signal) {
    let pid = Pid::from_raw(actor.aid().pid().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

async fn end_keeper(folder: &Path, ending: Ending) -> Result<(), Error> {
    let root = async || teamster::this_actor();
    teamster::open_nursery(async |an| {
        if ending == Ending::ParentLost {
            // What is below it has its grace, when it is dead.
            let parent = an.actor("parent").grace(PLENTY).start().await?;
            let call = parent.run(be_keepers_parent(folder.to_owned(), ending, root().await?));
            let killed = async {
                TWO.wait().await;
                send(&parent, Signal::KILL);
                Ok(())
            };
            futures::try_join!(call, killed)?;
            return Ok(());
        }
        let keeper = an.actor("keeper").grace(PLENTY).start().await?;
        keeper.run(keep_for_the_actor(folder.join("actor"))).await?;
        let call = keeper.run(keep_for_the_task(folder.join("task"), ending, root().await?));
        let ended = async {
            TWO.wait().await;
            match ending {
                Ending::CancelledByParent => drop(keeper.cancel_actor().await?),
                Ending::Terminated => send(&keeper, Signal::TERM),
                Ending::Interrupted => send(&keeper, Signal::INT),
                Ending::NurseryFails => return Err("the body failed".into()),
                Ending::Return | Ending::Failure | Ending::CancelledByItself | Ending::ParentLost => {}
            }
            Ok::<(), teamster::BoxError>(())
        };
        let both = futures::future::try_join(async { Ok(call.await?) }, ended);
        both.await.map(drop)
    })
    .await
}

#[teamster::test]
async fn guards_and_hooks_have_the_last_word_on_every_ending() {
    let endings = [
        Ending::Return,
        Ending::Failure,
        Ending::CancelledByParent,
        Ending::CancelledByItself,
        Ending::NurseryFails,
        Ending::Terminated,
        Ending::Interrupted,
        Ending::ParentLost,
    ];
    for ending in endings {
        let folder = tempfile::tempdir().unwrap();
        let result = end_keeper(folder.path(), ending).await;
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{ending:?} leaves {left:?}: {result:?}");
        let is_right = match (&result, ending) {
            (Ok(()), Ending::Return) => true,
            (Err(Error::Remote(remote)), Ending::Failure) => remote.message() == "it failed",
            (Err(Error::Cancelled { canceller }), Ending::CancelledByParent) => {
                canceller.request == CancelRequest::Actor
            }
            (Err(Error::Cancelled { canceller }), Ending::CancelledByItself) => {
                (canceller.aid.name(), &canceller.request) == ("keeper", &CancelRequest::Actor)
            }
            (Err(Error::Body(body)), Ending::NurseryFails) => body.to_string() == "the body failed",
            (Err(Error::ActorDied(death)), Ending::Terminated) => death.signal() == Some(Signal::TERM.as_raw()),
            (Err(Error::ActorDied(death)), Ending::Interrupted) => death.signal() == Some(Signal::INT.as_raw()),
            (Err(Error::ActorDied(death)), Ending::ParentLost) => death.signal() == Some(Signal::KILL.as_raw()),
            _ => false,
        };
        assert!(is_right, "{ending:?}: {result:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Abrupt {
    Exit,
    Abort,
    Killed,
    Stuck,
}

/// Keeps a file as long as its actor lives, which ends without a word to it.
#[rpc]
async fn end_abruptly(path: PathBuf, how: Abrupt, begun: Portal) -> teamster::Result<()> {
    keep_for_the_actor(path).await?;
    begun.run(add(1, 2)).await?; // the line is there: the next call leaves with its first poll
    let mut telling = std::pin::pin!(begun.run(meet_in_two()));
    let _sent = futures::poll!(telling.as_mut());
    match how {
        Abrupt::Exit => std::process::exit(3),
        Abrupt::Abort => std::process::abort(),
        Abrupt::Stuck => std::thread::sleep(Duration::from_secs(60)),
        Abrupt::Killed => pending().await,
    }
    Ok(())
}

/// As the docs of `on_exit` say.
#[teamster::test]
async fn hooks_have_no_word_where_nothing_of_their_runtime_runs() {
    for how in [Abrupt::Exit, Abrupt::Abort, Abrupt::Killed, Abrupt::Stuck] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("actor");
        let kept = path.clone();
        let ended = teamster::open_nursery(async |an| {
            let actor = an.start_actor("abrupt").await?;
            let call = actor.run(end_abruptly(kept, how, teamster::this_actor()?));
            let ended = async {
                TWO.wait().await;
                match how {
                    Abrupt::Exit | Abrupt::Abort => {}
                    Abrupt::Killed => send(&actor, Signal::KILL),
                    Abrupt::Stuck => drop(actor.cancel_actor().await?),
                }
                Ok(())
            };
            Ok(futures::try_join!(call, ended)?)
        })
        .await
        .expect_err("it ends");
        match (&ended, how) {
            (Error::ActorDied(death), Abrupt::Exit) => assert_eq!(death.status(), Some(3)),
            (Error::ActorDied(death), Abrupt::Abort) => assert_eq!(death.signal(), Some(Signal::ABORT.as_raw())),
            (Error::ActorDied(death), Abrupt::Killed) => assert_eq!(death.signal(), Some(Signal::KILL.as_raw())),
            (Error::Cancelled { .. }, Abrupt::Stuck) => {}
            _ => panic!("{how:?}: {ended:?}"),
        }
        assert!(path.exists(), "{how:?}: its hook has run");
    }
}

#[teamster::test]
async fn a_one_shot_that_gets_a_signal_is_a_death_that_nobody_asked_for() {
    let error = teamster::open_nursery(async |an| {
        let shot = an.actor("keeper").run_in_actor(meet_and_sleep());
        TWO.wait().await;
        send(&an.portals()[0], Signal::TERM);
        shot.await?;
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::ActorDied(death) if death.signal() == Some(Signal::TERM.as_raw())), "{error:?}");
}

#[teamster::test]
async fn the_roots_own_hook_runs_when_its_nursery_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root");
    let leaf = teamster::open_nursery(async |an| {
        let kept = Kept::new(path.clone());
        let leaf = an.start_actor("leaf").await?;
        let pid = leaf.aid().pid();
        teamster::on_exit(async move || {
            wait_gone(pid, Duration::ZERO); // all below is gone by then
            drop(kept);
        })?;
        Ok(leaf)
    })
    .await
    .unwrap();
    assert!(!path.exists(), "{leaf:?}");
}

// ---- beside plain tests

/// What the test below runs in one process of libtest: by name, the first one first.
mod beside {
    use super::*;

    #[teamster::test]
    #[ignore = "run by the test below"]
    async fn a_test_of_ours() {
        let sum = teamster::open_nursery(async |an| Ok(an.start_actor("frank").await?.run(add(1, 2)).await?)).await;
        assert_eq!(sum.unwrap(), 3);
    }

    #[test]
    #[ignore = "run by the test below"]
    fn b_plain_test() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let started = runtime.block_on(teamster::open_nursery(async |an| Ok(an.start_actor("frank").await?)));
        let is_told = matches!(&started, Err(Error::Spawn { reason: SpawnReason::NotInitialised, .. }));
        assert!(is_told && started.unwrap_err().to_string().contains("teamster::init()"));
    }
}

#[test]
fn a_plain_test_beside_ours_is_told_to_call_init() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(std::env::current_exe().expect("we run"))
        .args(["beside::", "--ignored", "--test-threads=1"])
        .env("TEAMSTER_DIR", folder.path())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}
