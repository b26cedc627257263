//! Does a nursery end with everything in it, and with the right error?
use std::future::{IntoFuture, pending};
use std::time::Duration;

use teamster::testing::{LeakCheck, expect_cancelled};
use teamster::{CancelRequest, Error, rpc};

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
    let portals = teamster::open_nursery(async |an| Ok(an.start_actors(["a", "a"]).await?)).await.unwrap();
    for portal in portals {
        assert!(portal.cancel_actor().await.unwrap().was_graceful());
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
            #[expect(clippy::disallowed_methods, reason = "the nursery's end is what is tested")]
            tokio::task::spawn(async move { an.cancel().await });
        }
        pending::<()>().await;
        Ok(())
    })
    .await;
    assert_eq!(expect_cancelled(result).request, CancelRequest::Nursery);
}

#[teamster::test]
async fn an_empty_cluster_is_refused_and_the_nursery_goes_on() {
    teamster::open_nursery(async |an| {
        let none: [&str; 0] = [];
        assert!(matches!(an.start_cluster(none).await, Err(Error::Usage(_))));
        let cluster = an.start_cluster(2).await?;
        assert_eq!(cluster["worker-1"].run(add(1, 1)).await?, 2);
        Ok(())
    })
    .await
    .unwrap();
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
