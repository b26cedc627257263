use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::*;
use crate::tasks::{BoxedContext, CancelScope, Exit, context_fn, move_on_after};
use crate::testing::drop_at_every_await;

const SECOND: Duration = Duration::from_secs(1);

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn say(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Says when it is dropped.
struct Drops(Log, &'static str);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.say(self.1);
    }
}

/// Enters in `n` seconds, exits in as many. `0` fails in entering after one and a half.
fn numbered(log: &Log, n: u32) -> BoxedContext<'static, u32> {
    let log = log.clone();
    context_fn(async move |hold| {
        if n == 0 {
            sleep(SECOND * 3 / 2).await;
            return Err("0 can't be entered".into());
        }
        sleep(n * SECOND).await;
        log.say(format!("{n} in"));
        let how = match hold.until_exit(n).await {
            Exit::Done => "done",
            Exit::Cut(_) => "cut",
        };
        sleep(n * SECOND).await;
        log.say(format!("{n} {how}"));
        Ok(())
    })
    .boxed()
}

/// Enters and exits, and fails as it is told.
fn failing(enters: Result<u32, &'static str>, exits: Result<(), &'static str>) -> BoxedContext<'static, u32> {
    context_fn(async move |hold| {
        hold.until_exit(enters?).await;
        Ok(exits?)
    })
    .boxed()
}

async fn text_of(result: impl Future<Output = Result<(), Error>>) -> String {
    result.await.unwrap_err().to_string()
}

#[tokio::test(start_paused = true)]
async fn all_enter_at_once_and_exit_at_once() {
    let (log, begin) = (Log::default(), Instant::now());
    let sum = gather_contexts([3, 1, 2].map(|n| numbered(&log, n)), async |values| {
        assert_eq!(values, [3, 1, 2]);
        assert_eq!(begin.elapsed(), 3 * SECOND);
        log.say("body");
        Ok(values.iter().sum::<u32>())
    });
    assert_eq!(sum.await.unwrap(), 6);
    assert_eq!(begin.elapsed(), 6 * SECOND);
    assert_eq!(log.take(), ["1 in", "2 in", "3 in", "body", "1 done", "2 done", "3 done"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_in_entering_cancels_the_others() {
    let (log, begin) = (Log::default(), Instant::now());
    let five = [1, 2, 0, 3, 4].map(|n| numbered(&log, n));
    let error = text_of(gather_contexts(five, async |_| panic!("not all have entered"))).await;
    assert_eq!(error, "0 can't be entered");
    assert_eq!(log.take(), ["1 in", "1 cut"]);
    assert_eq!(begin.elapsed(), SECOND * 5 / 2);
}

#[tokio::test(start_paused = true)]
async fn cancelled_in_entering_or_in_the_body_it_runs_the_exits_of_what_had_entered() {
    let log = Log::default();
    let all = || {
        gather_contexts([2, 1].map(|n| numbered(&log, n)), async |_values| {
            let _body = Drops(log.clone(), "body gone");
            Ok(pending::<()>().await)
        })
    };
    assert!(move_on_after(SECOND * 3 / 2, all()).await.is_none());
    assert_eq!(log.take(), ["1 in", "1 cut"]);
    assert!(move_on_after(SECOND * 5 / 2, all()).await.is_none());
    assert_eq!(log.take(), ["1 in", "2 in", "body gone", "1 cut", "2 cut"]);
    // Cancelled while they exit, they exit all the same, and there is a value.
    let scope = CancelScope::new();
    let exits = scope.run(gather_contexts([numbered(&log, 1)], async |_values| Ok(scope.cancel())));
    assert!(matches!(exits.await, Some(Ok(()))));
    assert_eq!(log.take(), ["1 in", "1 done"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_body_cuts_all_of_them() {
    let log = Log::default();
    let body = gather_contexts([1, 2].map(|n| numbered(&log, n)), async |_| Err("the body".into()));
    assert_eq!(text_of(body).await, "the body");
    assert_eq!(log.take(), ["1 in", "2 in", "1 cut", "2 cut"]);
}

#[tokio::test]
async fn what_fails_in_exits_stands_together() {
    let both = || [failing(Ok(1), Err("first")), failing(Ok(2), Err("second"))];
    let exits = text_of(gather_contexts(both(), async |_| Ok(()))).await;
    assert_eq!(exits, "2 failures in one nursery: [1] first; [2] second");
    let beside = text_of(gather_contexts(both(), async |_| Err("body".into()))).await;
    assert_eq!(beside, "3 failures in one nursery: [1] body; [2] first; [3] second");
    let alone = text_of(gather_contexts([failing(Err("in"), Ok(())), failing(Ok(1), Err("out"))], async |_| Ok(())));
    assert_eq!(alone.await, "in"); // the second was dropped before it began
}

#[tokio::test]
async fn a_cut_that_is_passed_on_is_no_failure() {
    let passes_on = context_fn(async |hold| Ok(hold.until_exit(()).await.ok()?));
    assert_eq!(text_of(gather_contexts([passes_on], async |_| Err("body".into()))).await, "body");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_in_use_cuts_off_the_body() {
    let log = Log::default();
    let breaks = context_fn(async |hold| {
        tokio::select! {
            how = hold.until_exit(9) => Ok(how.ok()?),
            () = sleep(5 * SECOND) => Err("it broke".into()),
        }
    });
    // By a scope that it waits in.
    let breaks_inside = context_fn(async |hold| {
        let nested = open_nursery(async |tn| {
            tn.start_soon(async {
                sleep(5 * SECOND).await;
                Err::<(), _>("it broke".into())
            });
            Ok(hold.until_exit(9).await.ok()?)
        });
        Ok(nested.await?)
    });
    for breaks in [breaks.boxed(), breaks_inside.boxed()] {
        let broken = gather_contexts([numbered(&log, 1), breaks], async |_| {
            let _body = Drops(log.clone(), "body gone");
            Ok(pending::<()>().await)
        });
        assert_eq!(text_of(broken).await, "it broke");
        assert_eq!(log.take(), ["1 in", "body gone", "1 cut"]);
    }
}

#[tokio::test]
async fn none_at_all_and_one_without_a_value_are_errors() {
    let none: [BoxedContext<'_, ()>; 0] = [];
    let error = gather_contexts(none, async |_| Ok(())).await.unwrap_err();
    assert!(matches!(error, Error::Usage(text) if text.contains("nothing to enter")));
    let forgets = context_fn::<u32, _, _>(async |_hold| Ok(()));
    let error = gather_contexts([forgets], async |_| Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("without having given a value"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_goes_on_when_the_others_have_exited() {
    let log = Log::default();
    let body = gather_contexts([numbered(&log, 1)], async |_| -> Result<(), BoxError> { panic!("in the body") });
    let panic = std::panic::AssertUnwindSafe(body).catch_unwind().await.unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "in the body");
    assert_eq!(log.take(), ["1 in", "1 cut"]);
    let panics = context_fn(async |hold| {
        hold.until_exit(2).await;
        panic!("in an exit")
    });
    let exit = gather_contexts([numbered(&log, 1), panics.boxed()], async |_| Ok(()));
    let panic = std::panic::AssertUnwindSafe(exit).catch_unwind().await.unwrap_err();
    assert_eq!(*panic.downcast_ref::<&str>().unwrap(), "in an exit");
    assert_eq!(log.take(), ["1 in", "1 done"]);
}

#[tokio::test(start_paused = true)]
async fn dropped_anywhere_it_leaves_nothing() {
    let alive = Arc::new(());
    let make = || {
        let contexts = [1, 2, 3].map(|n| {
            let alive = Arc::clone(&alive);
            context_fn(async move |hold| {
                let _alive = alive;
                sleep(n * SECOND).await;
                hold.until_exit(n).await;
                sleep(n * SECOND).await;
                Ok(())
            })
        });
        gather_contexts(contexts, async |_| Ok(yield_now().await))
    };
    drop_at_every_await(make, async |polls| assert_eq!(Arc::strong_count(&alive), 1, "after {polls} polls"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_in_a_spawned_task_of_a_runtime_with_many_threads() {
    let gathered = async {
        let text = String::from("a b c");
        let contexts: Vec<_> = text
            .split(' ')
            .map(|part| {
                context_fn(async move |hold| {
                    hold.until_exit(part).await; // borrowed from outside
                    Ok(())
                })
            })
            .collect();
        gather_contexts(contexts, async |parts| {
            yield_now().await;
            Ok(parts.concat())
        })
        .await
    };
    assert_eq!(tokio::runtime::Handle::current().spawn(gathered).await.unwrap().unwrap(), "abc");
}
