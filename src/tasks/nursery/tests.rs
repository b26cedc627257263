use std::future::pending;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::*;
use crate::shield;
use crate::tasks::CancelScope;
use crate::testing::drop_at_every_await;

type Body<T = ()> = Result<T, BoxError>;

/// Counts the living: each task of a test holds one.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

struct One(Alive);

impl Alive {
    fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::SeqCst);
        One(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A task that never ends by itself.
    fn endless(&self) -> impl Future<Output = Body> + Send + 'static {
        let one = self.one();
        async move {
            let _one = one;
            pending().await
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("failure {0}")]
struct Failure(u32);

/// The failures that an error is made of, the first cause first.
fn failures(error: &Error) -> Vec<u32> {
    match error {
        Error::Group(group) => group.iter().flat_map(failures).collect(),
        error => vec![error.downcast_ref::<Failure>().unwrap_or_else(|| panic!("{error:?}")).0],
    }
}

#[track_caller]
fn check(result: Result<(), Error>, wanted: &[u32]) {
    assert_eq!(failures(&result.unwrap_err()), wanted);
}

#[tokio::test(start_paused = true)]
async fn tasks_run_side_by_side_borrow_and_are_waited_for() {
    let start = tokio::time::Instant::now();
    let text = String::from("borrowed");
    let mut log = Vec::new();
    let value = open_nursery(async |tn| {
        tn.start_soon(async {
            sleep(Duration::from_secs(2)).await;
            log.push(text.len());
            Ok(())
        });
        tn.spawn(async { Ok(sleep(Duration::from_secs(2)).await) });
        let third = tn.start_soon(async { Ok(text.as_str()) });
        Ok(third.await?)
    })
    .await;
    assert_eq!(value.unwrap(), "borrowed");
    assert_eq!(log, [8]);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[test]
fn without_a_runtime_tasks_run_but_are_not_spawned() {
    let value = futures::executor::block_on(open_nursery(async |tn| {
        let task = tn.start_soon(async { Ok(3) });
        Ok(task.await?)
    }));
    assert_eq!(value.unwrap(), 3);
    let refused = futures::executor::block_on(open_nursery(async |tn| {
        tn.spawn(async { Ok(3) }).await?;
        Ok(())
    }));
    assert!(matches!(refused, Err(Error::Usage(text)) if text.contains("runtime")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_in_a_spawned_task_of_a_runtime_with_many_threads() {
    async fn sum(tree: Vec<u32>) -> Result<u32, Error> {
        open_nursery(async |tn| {
            let halves: Vec<Task<u32>> = tree
                .chunks(50)
                .map(|half| {
                    tn.start_soon(async {
                        yield_now().await;
                        Ok(half.iter().sum())
                    })
                })
                .collect();
            let mut sum = tn.start(async |status| Ok(status.started(tree[0]))).await?;
            for half in halves {
                sum += half.await?;
            }
            sum += open_nursery(async |inner| Ok(inner.spawn(async { Ok(1) }).await?)).await?;
            Ok(sum)
        })
        .await
    }
    let task = tokio::runtime::Handle::current().spawn(async { sum((1..=100).collect()).await });
    assert_eq!(task.await.unwrap().unwrap(), 5052);
}

#[tokio::test]
async fn a_task_starts_others_also_when_the_body_has_ended() {
    let order = Arc::new(Mutex::new(Vec::new()));
    open_nursery(async |tn| {
        let order = Arc::clone(&order);
        let handle = tn.clone();
        tn.start_soon(async move {
            order.lock().push(1);
            let again = handle.clone();
            handle.start_soon(async move {
                yield_now().await;
                order.lock().push(2);
                again.spawn(async move { Ok(order.lock().push(3)) });
                Ok(())
            });
            Ok(())
        });
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(*order.lock(), [1, 2, 3]);
}

#[tokio::test]
async fn tasks_that_start_the_next_one_leave_room_for_others() {
    fn next(tn: TaskNursery<'static>, count: Arc<AtomicUsize>) {
        let again = tn.clone();
        tn.start_soon(async move {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(next(again, count))
        });
    }
    let count = Arc::new(AtomicUsize::new(0));
    let endless = open_nursery(async |tn| Ok(next(tn, Arc::clone(&count))));
    let mut endless = pin!(endless);
    assert!(futures::poll!(&mut endless).is_pending());
    assert!(futures::poll!(&mut endless).is_pending());
    assert!(count.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_failing_task_cancels_the_body_and_the_others() {
    let alive = Alive::default();
    for is_spawned in [false, true] {
        let result = open_nursery(async |tn| {
            tn.start_soon(alive.endless());
            tn.spawn(alive.endless());
            let fails = async { Err::<(), _>(Failure(1).into()) };
            if is_spawned {
                tn.spawn(fails)
            } else {
                tn.start_soon(fails)
            };
            let _one = alive.one();
            pending::<Body>().await
        })
        .await;
        check(result, &[1]);
        assert_eq!(alive.count(), 0);
    }
}

#[tokio::test]
async fn a_failing_body_cancels_the_tasks() {
    let alive = Alive::default();
    let result = open_nursery(async |tn| {
        tn.start_soon(alive.endless());
        tn.spawn(alive.endless());
        yield_now().await;
        Err(Failure(7).into())
    })
    .await;
    check(result, &[7]);
    assert_eq!(alive.count(), 0);
}

#[tokio::test]
async fn the_failure_that_comes_first_cancels_those_that_would_have_failed() {
    let result = open_nursery(async |tn| {
        for number in [3, 1, 2] {
            tn.start_soon(async move { Err::<(), _>(Failure(number).into()) });
        }
        Ok(())
    })
    .await;
    check(result, &[3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn failures_of_one_moment_are_a_group() {
    let moment = Arc::new(Barrier::new(3));
    let result = open_nursery(async |tn| {
        for number in [1, 2, 3] {
            let moment = Arc::clone(&moment);
            tn.spawn(async move {
                moment.wait(); // all of them are in this poll, and end with it
                Err::<(), _>(Failure(number).into())
            });
        }
        tn.spawn(pending::<Body>());
        pending::<Body>().await
    })
    .await;
    let error = result.unwrap_err();
    let mut all = failures(&error);
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
}

#[tokio::test]
async fn a_failure_that_the_body_passes_on_counts_once() {
    let result = open_nursery(async |tn| {
        let fails = tn.start_soon(async {
            yield_now().await;
            Err::<(), _>(Failure(5).into())
        });
        Ok(shield(fails).await?)
    })
    .await;
    check(result, &[5]);
}

#[tokio::test]
async fn a_panic_goes_on_when_all_is_gone() {
    async fn panic_of(result: impl Future<Output = Result<(), Error>>) -> String {
        let panic = std::panic::AssertUnwindSafe(result).catch_unwind().await.unwrap_err();
        panic.downcast_ref::<&str>().unwrap().to_string()
    }
    let alive = Alive::default();
    let of_task = open_nursery(async |tn| {
        tn.start_soon(alive.endless());
        tn.start_soon(async { panic!("in a task") as Body });
        pending::<Body>().await
    });
    assert_eq!(panic_of(of_task).await, "in a task");
    let of_spawned = open_nursery(async |tn| {
        tn.spawn(alive.endless());
        tn.spawn(async { panic!("on the runtime") as Body });
        pending::<Body>().await
    });
    assert_eq!(panic_of(of_spawned).await, "on the runtime");
    let of_body = open_nursery(async |tn| {
        tn.spawn(alive.endless());
        tn.start_soon(alive.endless());
        panic!("in the body")
    });
    assert_eq!(panic_of(of_body).await, "in the body");
    assert_eq!(alive.count(), 0);
}

#[tokio::test]
async fn cancelled_from_its_body_it_lets_the_body_go_on() {
    let alive = Alive::default();
    let value = open_nursery(async |tn| {
        tn.start_soon(alive.endless());
        tn.spawn(alive.endless());
        tn.cancel();
        yield_now().await;
        assert!(tn.is_cancelled());
        let late = tn.start_soon(async { Ok(()) });
        assert!(matches!(late.await, Err(Error::Cancelled { .. })));
        Ok(6)
    })
    .await;
    assert_eq!((value.unwrap(), alive.count()), (6, 0));
}

#[tokio::test]
async fn cancelled_from_elsewhere_it_cuts_off_the_body() {
    let alive = Alive::default();
    let result = open_nursery(async |tn| {
        tn.start_soon(alive.endless());
        let handle = tn.clone();
        tn.start_soon(async move { Ok(handle.cancel()) });
        pending::<Body>().await
    })
    .await;
    let canceller = crate::testing::expect_cancelled(result);
    assert_eq!((canceller.request, canceller.aid.pid()), (CancelRequest::Nursery, std::process::id()));
    // A body that has its value by then keeps it.
    let value = open_nursery(async |tn| {
        tn.start_soon(alive.endless());
        let handle = tn.clone();
        tn.spawn(async { Ok(()) });
        tn.start_soon(async move {
            yield_now().await;
            Ok(handle.cancel())
        });
        Ok("value")
    })
    .await;
    assert_eq!((value.unwrap(), alive.count()), ("value", 0));
}

#[tokio::test]
async fn one_task_is_cancelled_alone() {
    let alive = Alive::default();
    let value = open_nursery(async |tn| {
        for is_spawned in [false, true] {
            let task = if is_spawned { tn.spawn(alive.endless()) } else { tn.start_soon(alive.endless()) };
            assert!(!task.is_finished());
            task.cancel();
            task.cancel();
            assert!(matches!(task.await, Err(Error::Cancelled { .. })));
            assert_eq!(alive.count(), 0);
        }
        Ok("not a failure")
    })
    .await;
    assert_eq!(value.unwrap(), "not a failure");
}

#[tokio::test]
async fn a_shield_is_left_before_a_task_is_dropped() {
    let steps = Mutex::new(Vec::new());
    let result = open_nursery(async |tn| {
        tn.start_soon(async {
            shield(async {
                crate::cancelled().await;
                steps.lock().push("told");
                yield_now().await;
                steps.lock().push("cleaned up");
            })
            .await;
            steps.lock().push("never here");
            Ok(())
        });
        yield_now().await;
        Err::<(), _>(Failure(1).into())
    })
    .await;
    check(result, &[1]);
    assert_eq!(*steps.lock(), ["told", "cleaned up"]);
}

#[tokio::test]
async fn what_a_task_defers_is_waited_for() {
    let done = Arc::new(AtomicUsize::new(0));
    let count = |later: &Arc<AtomicUsize>| {
        let later = Arc::clone(later);
        async move {
            yield_now().await;
            later.fetch_add(1, Ordering::SeqCst);
        }
    };
    open_nursery(async |tn| {
        tn.start_soon(async {
            crate::defer(count(&done));
            Ok(())
        });
        let later = count(&done);
        tn.spawn(async move { Ok(crate::defer(later)) });
        Ok(crate::defer(count(&done)))
    })
    .await
    .unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_handle_that_is_kept_starts_nothing_any_more() {
    let mut kept = None;
    open_nursery(async |tn| {
        kept = Some(tn.clone());
        Ok(())
    })
    .await
    .unwrap();
    let kept = kept.unwrap();
    assert!(matches!(kept.spawn(async { Ok(()) }).await, Err(Error::Usage(_))));
    assert!(matches!(kept.start(async |status| Ok(status.started(()))).await, Err(Error::Usage(_))));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_nursery_leaves_nothing() {
    let alive = Alive::default();
    let make = || async {
        open_nursery(async |tn| {
            tn.start_soon(alive.endless());
            tn.spawn(alive.endless());
            let inner = open_nursery(async |inner| {
                inner.spawn(alive.endless());
                yield_now().await;
                inner.start(async |status| Ok(status.started(yield_now().await))).await?;
                inner.cancel();
                Ok(())
            });
            inner.await?;
            tn.cancel();
            Ok(())
        })
        .await
    };
    drop_at_every_await(make, async |polls| {
        // An aborted task is gone when the runtime comes to it.
        while alive.count() > 0 {
            yield_now().await;
        }
        assert_eq!(alive.count(), 0, "after {polls} polls");
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_nursery_leaves_over_is_done_by_the_end_of_the_scope_around() {
    let done = Arc::new(Mutex::new(Vec::new()));
    let second = Duration::from_secs(1);
    let scope = CancelScope::new();
    scope
        .run(async {
            let dropped = open_nursery(async |tn| {
                let log = Arc::clone(&done);
                tn.spawn(async move {
                    shield(sleep(3 * second)).await;
                    log.lock().push("after the shield"); // never: it was cancelled
                    Ok(())
                });
                let log = Arc::clone(&done);
                tn.spawn(async move {
                    let saved = async {
                        sleep(3 * second).await;
                        log.lock().push("spawned");
                    };
                    shield(saved).await;
                    pending::<Body>().await
                });
                let log = Arc::clone(&done);
                tn.start_soon(async move {
                    crate::defer(async move {
                        sleep(second / 2).await;
                        log.lock().push("deferred");
                    });
                    pending::<Body>().await
                });
                pending::<Body>().await
            });
            assert!(tokio::time::timeout(second, dropped).await.is_err());
            assert!(done.lock().is_empty());
        })
        .await;
    assert_eq!(*done.lock(), ["deferred", "spawned"]);
}

// ---- start

#[tokio::test]
async fn start_returns_what_the_task_reports() {
    let arguments = (2, String::from("two"));
    let ended = AtomicBool::new(false);
    let value = open_nursery(async |tn| {
        let value = tn
            .start(async |status| {
                yield_now().await;
                status.started(format!("{arguments:?}"));
                yield_now().await;
                ended.store(true, Ordering::SeqCst);
                Ok(())
            })
            .await?;
        assert!(!ended.load(Ordering::SeqCst));
        Ok(value)
    })
    .await;
    assert_eq!(value.unwrap(), "(2, \"two\")");
    assert!(ended.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_failure_before_ready_is_the_starters_alone() {
    open_nursery(async |tn| {
        let error = tn.start(async |_: TaskStatus<()>| Err(Failure(1).into())).await.unwrap_err();
        assert_eq!(failures(&error), [1]);
        let error = tn.start(async |_: TaskStatus<()>| Ok(())).await.unwrap_err();
        assert!(matches!(error, Error::Usage(text) if text.contains("ready")));
        let alive = tn.start_soon(async { Ok("the nursery goes on") });
        Ok(alive.await?)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_failure_after_ready_is_the_nurserys() {
    let result = open_nursery(async |tn| {
        tn.start(async |status| {
            status.started(());
            yield_now().await;
            Err(Failure(2).into())
        })
        .await?;
        pending::<Body>().await
    })
    .await;
    check(result, &[2]);
}

/// What the starter of a task hears when the task's nursery is cancelled before the task is ready.
async fn heard<'env, Fut>(task: impl FnOnce(TaskStatus<()>, TaskNursery<'env>) -> Fut) -> Error
where
    Fut: Future<Output = Body> + Send + 'env,
{
    let mut heard = None;
    let heard_in_shield = async |tn: TaskNursery<'env>| {
        let handle = tn.clone();
        let started = tn.start(|status| task(status, handle));
        let cancel = async {
            yield_now().await;
            yield_now().await;
            tn.cancel();
        };
        heard = Some(futures::join!(started, cancel).0);
        Body::Ok(())
    };
    // The body may be cancelled with the task: that it was is not what counts here.
    let _ = open_nursery(async |tn| shield(heard_in_shield(tn)).await).await;
    heard.unwrap().unwrap_err()
}

#[tokio::test]
async fn start_of_a_task_that_is_cancelled_first_is_cancelled_and_not_unready() {
    let error = heard(async |_status, _tn| pending().await).await;
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
    let error = heard(async |_status, tn| Ok(tn.cancel())).await; // in its last poll
    assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
    let own = heard(async |_status, tn| {
        tn.cancel();
        Err(Failure(9).into())
    });
    assert_eq!(failures(&own.await), [9]);
    let never = open_nursery(async |tn| {
        tn.cancel();
        let error = tn.start(async |_: TaskStatus<()>| panic!("it ran")).await.unwrap_err();
        Ok(assert!(matches!(error, Error::Cancelled { .. })))
    });
    never.await.unwrap();
}

#[tokio::test]
async fn a_starter_that_is_dropped_cancels_the_task_unless_it_is_ready() {
    let alive = Alive::default();
    open_nursery(async |tn| {
        for reports in [false, true] {
            let task = alive.clone();
            let started = tn.start(async move |status| {
                let _one = task.one();
                yield_now().await;
                if reports {
                    status.started(());
                }
                pending().await
            });
            let mut started = Box::pin(started);
            assert!(futures::poll!(&mut started).is_pending());
            while alive.count() == 0 {
                yield_now().await;
            }
            if reports {
                started.as_mut().await?;
            }
            drop(started);
            for _ in 0..5 {
                yield_now().await;
            }
            assert_eq!(alive.count(), usize::from(reports));
        }
        tn.cancel();
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
}
