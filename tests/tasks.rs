//! Are the tools for tasks at home in actors? What they do among tasks alone is tested beside their code.
#![expect(clippy::unit_arg, reason = "bodies of one call read better as `Ok(call)`")]
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::Either;
use teamster::launch::Program;
use teamster::tasks::{
    self, AsyncContext, CancelScope, Hold, SharedContexts, TaskNursery, context_fn, fail_after, gather_contexts,
    move_on_after,
};
use teamster::testing::{descendants, expect_cancelled, state, wait_gone};
use teamster::{ActorBuilder, ActorNursery, BoxError, Context, Error, Portal, context, rpc, shield};
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;

type Body = Result<(), BoxError>;

/// Long enough for a call on a busy machine.
const SHORT: Duration = Duration::from_millis(400);
/// What no test waits for.
const LONG: Duration = Duration::from_secs(60);

// ---- what the actors do

#[rpc]
async fn pid() -> u32 {
    std::process::id()
}

#[rpc]
async fn exit_with(status: i32) {
    std::process::exit(status);
}

#[rpc]
async fn hold() {
    pending().await
}

/// How many tasks of this actor hold on.
static HOLDING: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// Resolves when this many tasks hold on here.
#[rpc]
async fn holding(wanted: usize) {
    let mut holding = HOLDING.subscribe();
    holding.wait_for(|now| *now == wanted).await.expect("the sender is never dropped");
}

/// One task that holds on. At its end it says so in a file, which outlives the actor.
struct Holds<'a>(&'a Path, &'static str);

impl<'a> Holds<'a> {
    fn new(file: &'a Path, name: &'static str) -> Self {
        HOLDING.send_modify(|now| *now += 1);
        Holds(file, name)
    }
}

impl Drop for Holds<'_> {
    fn drop(&mut self) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(self.0).expect("it can be opened");
        // In one piece: another thread may be writing, too.
        file.write_all(format!("{}\n", self.1).as_bytes()).expect("it can be written");
        HOLDING.send_modify(|now| *now -= 1);
    }
}

/// A nursery of tasks that ends only by a cancel. Each of them cleans up, which takes a moment.
#[rpc]
async fn hold_with_tasks(file: PathBuf) -> Result<(), Error> {
    async fn task(file: &Path, name: &'static str) -> Result<(), BoxError> {
        let _holds = Holds::new(file, name);
        shield(async {
            teamster::cancelled().await;
            yield_now().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        })
        .await;
        pending().await
    }
    tasks::open_nursery(async |tn| {
        let theirs = file.clone();
        tn.spawn(async move { task(&theirs, "spawned").await });
        tn.start_soon(task(&file, "inside"));
        let _holds = Holds::new(&file, "body");
        pending().await
    })
    .await
}

#[derive(Debug, PartialEq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("task {0} failed")]
#[teamster::error]
struct TaskFailed(u32);

#[rpc]
async fn fail_in_a_task() -> Result<(), Error> {
    tasks::open_nursery(async |tn| {
        tn.spawn(pending::<Result<(), _>>());
        tn.start_soon(async {
            yield_now().await;
            Err::<(), _>(TaskFailed(3).into())
        });
        Ok(pending().await)
    })
    .await
}

#[rpc]
async fn sum_in_tasks(numbers: Vec<u64>) -> Result<u64, Error> {
    tasks::open_nursery(async |tn| {
        let parts: Vec<_> =
            numbers.chunks(10).map(|part| tn.start_soon(async { Ok(part.iter().sum::<u64>()) })).collect();
        let mut sum = 0;
        for part in parts {
            sum += part.await?;
        }
        Ok(sum)
    })
    .await
}

/// Gives a call that is started in it no more time than its own caller has.
#[rpc]
async fn relay_from_a_task(to: Portal) -> Result<(), Error> {
    // The shield keeps our own end from answering first.
    tasks::open_nursery(async |tn| Ok(tn.start_soon(shield(async move { Ok(to.run(hold()).await?) })).await?)).await
}

fn is_deadline(error: &Error) -> bool {
    match error {
        Error::Deadline { .. } => true,
        Error::Remote(remote) => remote.downcast_ref::<Error>().is_some_and(is_deadline),
        _ => false,
    }
}

fn pid_of(portal: &Portal) -> u32 {
    portal.aid().pid()
}

// ---- nurseries of tasks

#[teamster::test]
async fn a_task_nursery_of_an_endpoint_works_and_fails_as_one() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        for threads in [1, 2] {
            let actor = an.actor("frank").threads(threads).start().await?;
            assert_eq!(actor.run(sum_in_tasks((1..=100).collect())).await?, 5050);
            let error = actor.run(fail_in_a_task()).await.unwrap_err();
            assert_eq!(error.downcast_ref::<TaskFailed>(), Some(&TaskFailed(3)));
            assert!(matches!(error, Error::Remote(remote) if remote.actor().name() == "frank"));
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_cancelled_call_ends_after_its_tasks_have_cleaned_up() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    teamster::open_nursery(async |an| {
        for threads in [1, 2] {
            let file = folder.path().join(threads.to_string());
            let frank = an.actor("frank").threads(threads).start().await?;
            // The call is dropped: its tasks end, and the actor goes on.
            let call = Box::pin(frank.run(hold_with_tasks(file.clone())));
            let held = futures::future::select(call, Box::pin(frank.run(holding(3)))).await;
            assert!(matches!(held, Either::Right((Ok(()), _))));
            drop(held);
            frank.run(holding(0)).await?;
            // The actor is cancelled: it ends after them.
            let call = frank.run(hold_with_tasks(file.clone()));
            let cancel = async {
                frank.run(holding(3)).await?;
                frank.cancel_actor().await
            };
            let (ended, receipt) = futures::join!(call, cancel);
            expect_cancelled(ended);
            assert!(receipt?.was_graceful());
            let mut said: Vec<String> = std::fs::read_to_string(&file)?.lines().map(str::to_owned).collect();
            said.sort_unstable();
            assert_eq!(said, ["body", "body", "inside", "inside", "spawned", "spawned"]);
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn what_fails_in_a_nursery_of_actors_ends_the_tasks_in_its_body() {
    let tasks_alive = Arc::new(());
    let error = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        tasks::open_nursery(async |tn| {
            let alive = Arc::clone(&tasks_alive);
            tn.spawn(async move {
                let _alive = alive;
                pending::<Result<(), BoxError>>().await
            });
            tn.start_soon(async {
                let _alive = Arc::clone(&tasks_alive);
                let exit = frank.run(exit_with(7)).await;
                pending::<()>().await; // the nursery hears of the death too
                Ok(exit?)
            });
            Ok(pending::<()>().await)
        })
        .await?;
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::ActorDied(death) if death.status() == Some(7)), "{error:?}");
    assert_eq!(Arc::strong_count(&tasks_alive), 1);
}

#[teamster::test]
async fn a_deadline_around_a_task_travels_with_its_calls() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let pair = an.start_actors(["near", "far"]).await?;
        // The shield keeps the scope from dropping the call: its end comes from over there.
        let mut heard = None;
        let far = pair[1].clone();
        let cut = move_on_after(SHORT, shield(async { heard = Some(pair[0].run(relay_from_a_task(far)).await) }));
        assert!(cut.await.is_none());
        let error = heard.expect("it was shielded").unwrap_err();
        assert!(is_deadline(&error), "{error:?}");
        // Of two the nearest counts, and a deadline that was moved on gives more time.
        let scope = CancelScope::new();
        scope.set_deadline(Some(tokio::time::Instant::now() + SHORT));
        let moved = scope.run(async {
            let at = tokio::time::Instant::now() + LONG;
            scope.set_deadline(Some(at));
            yield_now().await;
            fail_after(SHORT, shield(pair[0].run(hold()))).await
        });
        // Theirs may come a moment before ours has passed.
        let error = moved.await.expect("it was moved").flatten().unwrap_err();
        assert!(is_deadline(&error), "{error:?}");
        Ok(())
    })
    .await
}

/// At its exit this actor cleans up with tasks, and says so in this file.
#[rpc]
async fn clean_up_at_exit(file: PathBuf) -> Result<(), Error> {
    teamster::on_exit(async move || {
        let cleaned_up = async {
            shield(yield_now()).await;
            tasks::open_nursery(async |tn| {
                let one = tn.spawn(async { Ok(yield_now().await) });
                let two = tn.start_soon(async { Ok(yield_now().await) });
                one.await?;
                Ok(two.await?)
            })
            .await
        };
        if let Some(Ok(())) = move_on_after(LONG, cleaned_up).await {
            std::fs::write(file, "cleaned up").expect("it can be written");
        }
    })
}

#[teamster::test]
async fn an_exit_is_not_cancelled_by_what_it_follows_from() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("exit");
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        frank.run(clean_up_at_exit(file.clone())).await?;
        assert!(frank.cancel_actor().await?.was_graceful());
        assert_eq!(std::fs::read_to_string(&file)?, "cleaned up");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_scope_around_a_whole_tree_ends_it() {
    let (mut pid, is_up) = (0, CancelScope::new());
    let cut = is_up.run(teamster::open_nursery(async |an| {
        pid = pid_of(&an.start_actor("frank").await?);
        is_up.cancel();
        Ok(pending::<()>().await)
    }));
    assert!(cut.await.is_none());
    wait_gone(pid, LONG);
}

// ---- contexts of actors

#[teamster::test]
async fn several_actors_start_at_once_and_are_reaped_at_once() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let names = ["a", "b", "c"];
        let pids = gather_contexts(names.map(|name| an.actor(name)), async |portals| {
            assert!(portals.iter().map(|portal| portal.aid().name()).eq(names));
            let mut pids = Vec::new();
            for portal in &portals {
                pids.push(portal.run(pid()).await?);
            }
            Ok(pids)
        })
        .await?;
        assert_eq!(pids.len(), 3);
        assert!(pids.into_iter().all(|pid| state(pid).is_none()), "they are not all reaped");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn of_five_the_third_fails_to_start_and_the_others_are_cancelled() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let five = (1..=5).map(|n| {
            let actor = an.actor(&format!("number-{n}"));
            if n == 3 { actor.launcher(Program::new("/no/such/program")) } else { actor }
        });
        let error = gather_contexts(five, async |_| panic!("not all have started") as Body).await.unwrap_err();
        assert!(matches!(&error, Error::Spawn { name, .. } if name == "number-3"), "{error:?}");
        an.wait().await; // those that were starting
        Ok(())
    })
    .await
}

/// A linked task that holds on, or fails before or behind its first word.
#[context]
async fn linked(ctx: Context<u32>, file: PathBuf, number: u32, fails: Option<Fails>) -> teamster::Result<u32> {
    let _holds = Holds::new(&file, "linked");
    if fails == Some(Fails::Starting) {
        holding(5).await?; // all of them are there
        Err(TaskFailed(number))?;
    }
    ctx.started(number).await?;
    let mut stream = ctx.open_stream().await?;
    while stream.recv().await?.is_some() {}
    if fails == Some(Fails::InUse) {
        Err(TaskFailed(number))?;
    }
    Ok(number)
}

#[derive(Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
enum Fails {
    Starting,
    InUse,
}

#[teamster::test]
async fn of_five_contexts_the_third_fails_to_start_and_the_others_are_cancelled() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("said");
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let with = |fails: Option<Fails>| {
            let (frank, file) = (frank.clone(), file.clone());
            (1..=5).map(move |n| (frank.clone(), linked(file.clone(), n, fails.filter(|_| n == 3))))
        };
        let error = gather_contexts(with(Some(Fails::Starting)), async |_| panic!("not all have started") as Body);
        assert_eq!(error.await.unwrap_err().downcast_ref::<TaskFailed>(), Some(&TaskFailed(3)));
        assert_eq!(std::fs::read_to_string(&file)?.lines().count(), 5, "their ends were waited for");

        // In use: the third fails, the body is cut off, the others are cancelled.
        let error = gather_contexts(with(Some(Fails::InUse)), async |contexts| {
            contexts[2].open_stream().await?.finish().await?;
            pending::<()>().await;
            Ok(())
        });
        assert_eq!(error.await.unwrap_err().downcast_ref::<TaskFailed>(), Some(&TaskFailed(3)));
        assert_eq!(std::fs::read_to_string(&file)?.lines().count(), 10);

        // All are well: their values come in order, and their ends are waited for.
        let numbers = gather_contexts(with(None), async |contexts| {
            contexts.iter().map(|ctx| Ok(ctx.first()?)).collect::<Result<Vec<u32>, BoxError>>()
        });
        assert_eq!(numbers.await?, [1, 2, 3, 4, 5]);
        assert_eq!(std::fs::read_to_string(&file)?.lines().count(), 15);
        frank.run(holding(0)).await?;
        assert_eq!(teamster::testing::open_dialogs()?, 0);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn nothing_to_enter_is_an_error_and_the_cluster_goes() -> Result<(), Error> {
    let mut pids = Vec::new();
    let error = teamster::open_nursery(async |an| {
        pids = an.start_cluster(2).await?.values().map(pid_of).collect();
        Ok(gather_contexts(Vec::<ActorBuilder<'_>>::new(), async |_| Ok(())).await?)
    })
    .await
    .unwrap_err();
    assert!(matches!(error, Error::Usage(text) if text.contains("nothing to enter")));
    assert!(pids.len() == 2 && pids.into_iter().all(|pid| state(pid).is_none()));
    Ok(())
}

#[teamster::test]
async fn actors_that_were_gathered_are_reaped_when_their_use_is_cancelled() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (scope, mut pids) = (CancelScope::new(), Vec::new());
        let cut = scope.run(gather_contexts(["a", "b"].map(|name| an.actor(name)), async |portals| {
            pids = portals.iter().map(pid_of).collect();
            scope.cancel();
            Ok(portals[0].run(hold()).await?)
        }));
        assert!(cut.await.is_none());
        assert!(pids.len() == 2 && pids.into_iter().all(|pid| state(pid).is_none()));
        Ok(())
    })
    .await
}

/// Gathers actors of its own, and exits them when its own caller has cancelled it.
#[rpc]
async fn hold_actors() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        gather_contexts(["a", "b"].map(|name| an.actor(name)), async |portals| {
            HOLDING.send_modify(|now| *now += portals.len());
            Ok(pending::<()>().await)
        })
        .await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_endpoint_that_is_cancelled_reaps_what_it_has_gathered() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut call = Box::pin(frank.run(hold_actors()));
        let held = futures::future::select(&mut call, Box::pin(frank.run(holding(2)))).await;
        assert!(matches!(held, Either::Right((Ok(()), _))));
        let below = descendants(pid_of(&frank));
        assert_eq!(below.len(), 2);
        drop(call);
        below.into_iter().for_each(|pid| wait_gone(pid, LONG));
        assert!(frank.cancel_actor().await?.was_graceful());
        Ok(())
    })
    .await
}

/// An actor that tasks share: started by the first who needs it, reaped by the last.
struct SharedActor(ActorNursery);

impl AsyncContext for SharedActor {
    type Value = Portal;
    async fn open(self, hold: Hold<Portal>) -> Result<(), BoxError> {
        self.0.actor("shared").open(hold).await
    }
}

#[teamster::test]
async fn ten_tasks_share_one_actor() -> Result<(), Error> {
    static ACTORS: SharedContexts<&str, Portal> = SharedContexts::new();
    teamster::open_nursery(async |an| {
        let mut before = 0;
        for _ in 0..3 {
            let pids = tasks::open_nursery(async |tn| {
                let users: Vec<_> = (0..10)
                    .map(|n| {
                        let shared = SharedActor(an.clone());
                        let user = async move {
                            let user =
                                ACTORS.maybe_open_context("key", shared, async |portal| Ok(portal.run(pid()).await?));
                            match n {
                                3 | 7 => move_on_after(Duration::from_millis(n), user).await.transpose(),
                                _ => user.await.map(Some),
                            }
                        };
                        tn.start_soon(async move { Ok(user.await?) })
                    })
                    .collect();
                let mut pids = Vec::new();
                for user in users {
                    pids.extend(user.await?);
                }
                Ok(pids)
            })
            .await?;
            assert!(pids.len() >= 8 && pids.iter().all(|pid| *pid == pids[0] && *pid != before), "{pids:?}");
            before = pids[0];
            assert!(state(before).is_none(), "the last one has left, and it is not reaped");
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn the_death_of_a_shared_actor_is_heard_by_all_who_use_it() -> Result<(), Error> {
    static ACTORS: SharedContexts<&str, Portal> = SharedContexts::new();
    let shared = || {
        context_fn(async |hold| {
            teamster::open_nursery(async |an| {
                let portal = an.start_actor("shared").await?;
                hold.until_exit(portal).await.ok()?;
                Ok(())
            })
            .await?;
            Ok(())
        })
    };
    teamster::open_nursery(async |_an| {
        let user = |is_killer| {
            ACTORS.maybe_open_context("key", shared(), async move |portal| {
                if is_killer {
                    portal.run(exit_with(9)).await?;
                }
                Ok(pending::<()>().await)
            })
        };
        let (one, two) = futures::join!(user(false), user(true));
        for error in [one.unwrap_err(), two.unwrap_err()] {
            assert!(matches!(&error, Error::ActorDied(death) if death.status() == Some(9)), "{error:?}");
        }
        Ok(())
    })
    .await
}

// ---- a nursery of tasks that two contexts share (S2.41)

static CREW: SharedContexts<(), TaskNursery<'static>> = SharedContexts::new();

static SPOILED: Notify = Notify::const_new();

#[rpc]
async fn spoil() {
    SPOILED.notify_one();
}

/// Has a task in the nursery that all who come here share.
#[context]
async fn joins_the_crew(ctx: Context<u32>) -> teamster::Result<()> {
    let crew = context_fn(async |hold| {
        tasks::open_nursery(async |tn| {
            hold.until_exit(tn).await.ok()?;
            Ok(())
        })
        .await
        .map_err(BoxError::from)
    });
    let used = CREW.maybe_open_context((), crew, async |crew| {
        drop(crew.spawn(async {
            SPOILED.notified().await;
            Err::<(), _>("a task of the crew failed".into())
        }));
        ctx.started(std::process::id()).await?;
        Ok(pending::<()>().await)
    });
    Ok(used.await?)
}

/// Opens one from another actor, and tells what it failed with.
#[rpc]
async fn fails_with(there: Portal) -> teamster::Result<String> {
    let block = there.open_context(joins_the_crew(), async |_, _| {
        begun().await;
        Ok(pending::<()>().await)
    });
    let error = block.await.expect_err("a task fails");
    let Error::Remote(remote) = &error else { panic!("{error:?}") };
    Ok(format!("{} in {}", remote.message(), remote.actor().name()))
}

static BEGUN: Notify = Notify::const_new();

async fn begun() {
    BEGUN.notify_one();
}

#[rpc]
async fn has_begun() {
    BEGUN.notified().await;
}

#[teamster::test]
async fn a_failure_in_a_nursery_that_contexts_share_ends_all_of_them() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (frank, other) = tokio::try_join!(an.start_actor("frank"), an.start_actor("other"))?;
        let here = frank.open_context(joins_the_crew(), async |_, _| {
            other.run(has_begun()).await?;
            frank.run(spoil()).await?;
            Ok(pending::<()>().await)
        });
        let (here, there) = futures::join!(here, other.run(fails_with(frank.clone())));
        let error = here.expect_err("a task fails");
        assert!(
            matches!(&error, Error::Remote(remote) if remote.message() == "a task of the crew failed"),
            "{error:?}"
        );
        assert_eq!(there?, "a task of the crew failed in frank");
        assert_eq!(frank.run(pid()).await?, frank.aid().pid(), "it is an error of its own, not an end");
        Ok(())
    })
    .await
}
