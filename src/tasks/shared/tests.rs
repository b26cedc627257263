use std::cell::RefCell;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::tasks::{BoxedContext, CancelScope, context_fn, move_on_after, open_nursery};
use crate::testing::drop_at_every_await;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// What all the contexts of a test do, and what became of them.
#[derive(Clone, Default)]
struct World(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Began to open.
    begun: AtomicUsize,
    opened: AtomicUsize,
    closed: AtomicUsize,
    /// Of one key at the same time.
    open: AtomicUsize,
}

/// How a context behaves.
#[derive(Clone, Copy, Default)]
struct How {
    opens_in: Duration,
    closes_in: Duration,
    fails_to_open: bool,
    fails_to_close: bool,
}

impl World {
    fn context(&self, how: How) -> BoxedContext<'static, usize> {
        let counts = Arc::clone(&self.0);
        context_fn(async move |hold| {
            counts.begun.fetch_add(1, Ordering::SeqCst);
            sleep(how.opens_in).await;
            if how.fails_to_open {
                return Err("it can't be opened".into());
            }
            let number = counts.opened.fetch_add(1, Ordering::SeqCst) + 1;
            assert_eq!(counts.open.fetch_add(1, Ordering::SeqCst), 0, "opened twice");
            hold.until_exit(number).await;
            sleep(how.closes_in).await;
            counts.open.fetch_sub(1, Ordering::SeqCst);
            counts.closed.fetch_add(1, Ordering::SeqCst);
            if how.fails_to_close { Err("it can't be closed".into()) } else { Ok(()) }
        })
        .boxed()
    }

    fn counts(&self) -> [usize; 3] {
        [&self.0.begun, &self.0.opened, &self.0.closed].map(|count| count.load(Ordering::SeqCst))
    }

    fn is_open(&self) -> bool {
        self.0.open.load(Ordering::SeqCst) > 0
    }
}

fn in_(opens_in: Duration, closes_in: Duration) -> How {
    How { opens_in, closes_in, ..How::default() }
}

type Table = SharedContexts<&'static str, usize>;

#[track_caller]
fn check_empty(table: &Table) {
    assert_eq!(table.table.slots.lock().len(), 0, "something is left in the table");
}

#[tokio::test(start_paused = true)]
async fn twenty_at_once_open_once_and_the_last_one_closes() {
    let (table, world) = (Table::new(), World::default());
    for use_for in [Duration::ZERO, SECOND] {
        let users = (0..20).map(|n| {
            let context = world.context(in_(SECOND, SECOND));
            table.maybe_open_context("key", context, async move |number| {
                sleep(use_for * n).await;
                Ok(*number)
            })
        });
        let before = world.counts()[1];
        let numbers = futures::future::join_all(users).await;
        assert!(numbers.iter().all(|number| *number.as_ref().unwrap() == before + 1));
        assert_eq!(world.counts(), [before + 1; 3]);
        check_empty(&table);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_apart() {
    let (table, worlds) = (Table::new(), [World::default(), World::default()]);
    let meet = tokio::sync::Barrier::new(2);
    let both = [("a", &worlds[0]), ("b", &worlds[1])].map(|(key, world)| {
        table.maybe_open_context(key, world.context(How::default()), async |number| {
            meet.wait().await;
            assert!(worlds.iter().all(World::is_open));
            meet.wait().await;
            Ok(*number)
        })
    });
    let both = futures::future::join_all(both).await;
    assert!(both.into_iter().all(|number| number.unwrap() == 1));
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_opening_goes_to_all_who_wait_and_to_nobody_later() {
    let (table, world) = (Table::new(), World::default());
    let fails = How { fails_to_open: true, ..in_(SECOND, SECOND) };
    let users = (0..5).map(|_| table.maybe_open_context("key", world.context(fails), async |_| Ok(())));
    let results = futures::future::join_all(users).await;
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().to_string() == "it can't be opened"));
    assert_eq!(world.counts(), [1, 0, 0]);
    let later = table.maybe_open_context("key", world.context(How::default()), async |number| Ok(*number));
    assert_eq!(later.await.unwrap(), 1);
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_closing_goes_to_the_last_one() {
    let (table, world) = (Table::new(), World::default());
    let fails = How { fails_to_close: true, ..How::default() };
    let user = |time| table.maybe_open_context("key", world.context(fails), async move |_| Ok(sleep(time).await));
    let (first, second, last) = futures::join!(user(MS), user(2 * MS), user(3 * MS));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(last.unwrap_err().to_string(), "it can't be closed");
    let beside = table.maybe_open_context("key", world.context(fails), async |_| Err::<(), _>("the body".into()));
    assert_eq!(
        beside.await.unwrap_err().to_string(),
        "2 failures in one nursery: [1] the body; [2] it can't be closed"
    );
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_it_closes_waits_and_opens_anew() {
    let (table, world, begin) = (Table::new(), World::default(), Instant::now());
    let how = in_(SECOND, 5 * SECOND);
    let first = table.maybe_open_context("key", world.context(how), async |number| Ok(*number));
    let second = async {
        sleep(3 * SECOND).await; // the first is closing, until the sixth second
        table.maybe_open_context("key", world.context(how), async |number| Ok((*number, begin.elapsed()))).await
    };
    let (first, second) = futures::join!(first, second);
    assert_eq!(first.unwrap(), 1);
    assert_eq!(second.unwrap(), (2, 7 * SECOND));
    assert_eq!(world.counts(), [2, 2, 2]);
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn when_the_opener_is_cancelled_one_of_those_who_wait_opens() {
    for cancelled_after in [50, 500, 999] {
        for is_foreign_drop in [false, true] {
            let (table, world) = (Table::new(), World::default());
            let slow = || world.context(in_(SECOND, SECOND));
            let opener = async {
                let user = table.maybe_open_context("key", slow(), async |_| Ok(()));
                match is_foreign_drop {
                    true => timeout(cancelled_after * MS, user).await.is_err(),
                    false => move_on_after(cancelled_after * MS, user).await.is_none(),
                }
            };
            let others = (0..3).map(|_| table.maybe_open_context("key", slow(), async |number| Ok(*number)));
            let (cut, others) = futures::join!(opener, futures::future::join_all(others));
            assert!(cut);
            assert!(others.into_iter().all(|number| number.unwrap() == 1));
            assert_eq!(world.counts(), [2, 1, 1]);
            check_empty(&table);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_one_waits_for_the_closing_also_when_it_is_cancelled() {
    for fails_to_close in [false, true] {
        let (table, world, begin) = (Table::new(), World::default(), Instant::now());
        let how = How { fails_to_close, ..in_(SECOND, 2 * SECOND) };
        let scope = CancelScope::new();
        let used = scope.run(table.maybe_open_context("key", world.context(how), async |_| {
            scope.cancel();
            Ok(pending::<()>().await)
        }));
        let error = used.await.map(Result::unwrap_err);
        assert_eq!(error.map(|error| error.to_string()), fails_to_close.then(|| "it can't be closed".to_owned()));
        assert_eq!((world.counts(), begin.elapsed()), ([1, 1, 1], 3 * SECOND));
        check_empty(&table);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_leaves_the_closing_to_what_is_around() {
    // To the scope, which waits for it.
    let (table, world) = (Table::new(), World::default());
    let how = in_(SECOND, 2 * SECOND);
    let user = || table.maybe_open_context("key", world.context(how), async |_| Ok(pending::<()>().await));
    let in_scope = CancelScope::new();
    assert!(in_scope.run(timeout(2 * SECOND, user())).await.unwrap().is_err());
    assert_eq!(world.counts(), [1, 1, 1]);
    check_empty(&table);
    // To the runtime; who comes meanwhile waits for it.
    assert!(timeout(2 * SECOND, user()).await.is_err());
    assert_eq!(world.counts(), [2, 2, 1]);
    let next = table.maybe_open_context("key", world.context(how), async |number| Ok(*number));
    assert_eq!(next.await.unwrap(), 3);
    // Dropped in closing.
    let closing = table.maybe_open_context("key", world.context(how), async |_| Ok(()));
    assert!(timeout(2 * SECOND, closing).await.is_err());
    let lease = table.lease("key", world.context(how)).await.unwrap();
    assert_eq!(world.counts(), [5, 5, 4]);
    drop(lease);
    while world.is_open() {
        yield_now().await;
        sleep(MS).await;
    }
    check_empty(&table);
}

#[test]
fn dropped_without_a_runtime_it_is_closed_by_the_next_one() {
    let (table, log) = (Table::new(), Arc::new(Mutex::new(Vec::new())));
    let context = |number| {
        let log = Arc::clone(&log);
        context_fn(async move |hold| {
            log.lock().push(("open", number));
            hold.until_exit(number).await;
            log.lock().push(("closed", number));
            Ok(())
        })
    };
    let number = futures::executor::block_on(async {
        drop(table.lease("key", context(1)).await);
        let lease = table.lease("key", context(2)).await?;
        let number = *lease;
        lease.close().await?;
        Ok::<_, Error>(number)
    });
    assert_eq!(number.unwrap(), 2);
    assert_eq!(*log.lock(), [("open", 1), ("closed", 1), ("open", 2), ("closed", 2)]);
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn no_user_is_stuck_whichever_is_dropped_wherever() {
    let (table, world) = (Table::new(), World::default());
    let how = in_(SECOND, SECOND);
    // One that is dropped at every await: alone, with one that came before, and with one that comes after.
    for neighbours in [&[][..], &[0], &[500], &[0, 1500]] {
        let make = || table.maybe_open_context("key", world.context(how), async |_| Ok(sleep(SECOND).await));
        let others = async |polls| {
            let others = neighbours.iter().map(|ms| async {
                sleep(*ms * MS).await;
                table.maybe_open_context("key", world.context(how), async |_| Ok(sleep(SECOND).await)).await
            });
            let all = timeout(60 * SECOND, futures::future::join_all(others)).await;
            assert!(all.unwrap_or_else(|_| panic!("stuck after {polls} polls")).iter().all(Result::is_ok));
        };
        drop_at_every_await(make, async |polls| others(polls).await).await.unwrap();
        // All of them are dropped together.
        let together = || futures::future::join(make(), others(0));
        drop_at_every_await(together, async |polls| others(polls).await).await.0.unwrap();
    }
    while world.is_open() {
        sleep(MS).await;
    }
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_in_use_cuts_off_all_who_use_it() {
    let table = Table::new();
    let breaks = || {
        context_fn(async |hold| {
            tokio::select! {
                _ = hold.until_exit(1) => Ok(()),
                () = sleep(SECOND) => Err("it broke".into()),
            }
        })
    };
    let user = || table.maybe_open_context("key", breaks(), async |_| Ok(pending::<()>().await));
    let (one, two) = futures::join!(user(), user());
    for broken in [one, two] {
        assert_eq!(broken.unwrap_err().to_string(), "it broke");
    }
    let late = RefCell::new(None);
    let old = table.maybe_open_context("key", breaks(), async |_| {
        crate::shield(async {
            crate::cancelled().await;
            // It is over, also for those who have not left yet: a new one is another.
            let new = table.lease("key", context_fn(async |hold| Ok(drop(hold.until_exit(2).await)))).await?;
            *late.borrow_mut() = Some((*new, new.was_open()));
            new.close().await
        })
        .await?;
        Ok(())
    });
    assert_eq!(old.await.unwrap_err().to_string(), "it broke");
    assert_eq!(late.into_inner(), Some((2, false)));
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn panics_go_on_and_leave_nothing_stuck() {
    let (table, world) = (Table::new(), World::default());
    let panics = context_fn(async |hold| {
        sleep(SECOND).await;
        if true {
            panic!("in opening");
        }
        Ok(drop(hold.until_exit(0).await))
    });
    let opener = AssertUnwindSafe(table.lease("key", panics)).catch_unwind();
    let waits = table.maybe_open_context("key", world.context(How::default()), async |number| Ok(*number));
    let (opener, waits) = futures::join!(opener, waits);
    assert_eq!(*opener.unwrap_err().downcast_ref::<&str>().unwrap(), "in opening");
    assert_eq!(waits.unwrap(), 1);
    let body = table.maybe_open_context("key", world.context(How::default()), async |_| -> Result<(), BoxError> {
        panic!("in the body")
    });
    let panic = AssertUnwindSafe(body).catch_unwind().await.unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "in the body");
    assert!(!world.is_open());
    let exits = context_fn(async |hold| {
        hold.until_exit(0).await;
        panic!("in closing")
    });
    let closer = table.maybe_open_context("key", exits, async |_| Ok(()));
    let panic = AssertUnwindSafe(closer).catch_unwind().await.unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "in closing");
    check_empty(&table);
}

#[tokio::test(start_paused = true)]
async fn it_belongs_to_none_of_its_users() {
    let table = SharedContexts::<&str, ()>::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let context = context_fn(async move |hold| {
        hold.until_exit(()).await;
        seen.lock().push(crate::is_cancelled());
        Ok(())
    });
    let (scope, other) = (CancelScope::new(), Mutex::new(None));
    let opener = scope.run(table.maybe_open_context("key", context, async |_| {
        *other.lock() = Some(table.lease("key", context_fn(async |_| unreachable!("it is open"))).await?);
        scope.cancel();
        Ok(pending::<()>().await)
    }));
    assert!(opener.await.is_none());
    let other = other.lock().take().unwrap();
    assert_eq!(*told.lock(), [] as [bool; 0]); // still open
    other.close().await.unwrap();
    assert_eq!(*told.lock(), [false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_between_threads() {
    static TABLE: Table = Table::new();
    let world = World::default();
    for _ in 0..200 {
        open_nursery(async |tn| {
            for n in 0..8 {
                let world = world.clone();
                tn.spawn(async move {
                    let user = TABLE.maybe_open_context("key", world.context(How::default()), async |number| {
                        yield_now().await;
                        Ok(*number)
                    });
                    match n {
                        0..6 => drop(user.await?),
                        // Dropped after some polls.
                        _ => drop(futures::future::select(Box::pin(user), Box::pin(yield_now())).await),
                    }
                    Ok(())
                });
            }
            Ok(())
        })
        .await
        .unwrap();
    }
    while world.is_open() {
        yield_now().await;
    }
    let [_, opened, closed] = world.counts();
    assert_eq!(opened, closed);
}

/// One user: when it comes, how long it stays, when it is cancelled or dropped, and how its context behaves.
#[derive(Clone, Debug)]
struct User {
    key: usize,
    comes: u64,
    stays: u64,
    cut: Option<(u64, bool)>,
    opens_in: u64,
    closes_in: u64,
    fails: (bool, bool),
}

fn user() -> impl Strategy<Value = User> {
    let cut = prop::option::of((0..30u64, any::<bool>()));
    let fails = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (0..2usize, 0..30u64, 0..20u64, cut, 0..10u64, 0..10u64, fails).prop_map(
        |(key, comes, stays, cut, opens_in, closes_in, fails)| User {
            key,
            comes,
            stays,
            cut,
            opens_in,
            closes_in,
            fails,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whoever_comes_and_goes_it_is_open_once_and_closed_in_the_end(users in prop::collection::vec(user(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (table, worlds) = (Table::new(), [World::default(), World::default()]);
            let all = users.iter().map(|user| async {
                let (world, ms) = (&worlds[user.key], Duration::from_millis);
                let context = world.context(How {
                    opens_in: ms(user.opens_in),
                    closes_in: ms(user.closes_in),
                    fails_to_open: user.fails.0,
                    fails_to_close: user.fails.1,
                });
                sleep(ms(user.comes)).await;
                let used = table.maybe_open_context(["a", "b"][user.key], context, async |_| {
                    assert!(world.is_open());
                    sleep(ms(user.stays)).await;
                    assert!(world.is_open());
                    Ok(())
                });
                // What each of them hears depends on the others; that it hears does not.
                match user.cut {
                    None => drop(used.await),
                    Some((after, true)) => drop(timeout(ms(after), used).await),
                    Some((after, false)) => drop(move_on_after(ms(after), used).await),
                }
            });
            timeout(SECOND, futures::future::join_all(all)).await.expect("somebody is stuck");
            sleep(SECOND).await; // what was dropped closes by itself
            for world in &worlds {
                let [_, opened, closed] = world.counts();
                assert_eq!(opened, closed);
            }
            check_empty(&table);
        });
    }
}
