//! Does a failure arrive as what it was, from wherever it happened?
use serde::{Deserialize, Serialize};
use teamster::testing::expect_cancelled;
use teamster::{Error, Portal, rpc};

#[teamster::error]
#[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[error("no seat in row {row}")]
struct Full {
    row: u32,
}

#[rpc]
async fn book(row: u32) -> Result<u32, Full> {
    if row > 5 { Err(Full { row }) } else { Ok(row) }
}

#[rpc]
async fn bug() {
    panic!("a bug in row 7")
}

#[rpc]
async fn below(depth: u32) -> teamster::Result<u32> {
    if depth == 0 {
        return Ok(book(9).await?);
    }
    let name = format!("level-{depth}");
    Ok(teamster::open_nursery(async |an| Ok(an.start_actor(&name).await?.run(below(depth - 1)).await?)).await?)
}

#[rpc]
async fn ask(other: Portal, row: u32) -> teamster::Result<u32> {
    Ok(other.run(book(row)).await?)
}

#[rpc]
async fn ask_parent(row: u32) -> teamster::Result<u32> {
    let parent = teamster::parent()?.expect("a child has one");
    Ok(parent.run(book(row)).await?)
}

#[rpc]
async fn stop() -> teamster::Result<()> {
    teamster::cancel_self()?;
    std::future::pending().await
}

#[teamster::test]
async fn a_typed_error_and_a_panic_arrive_whole_and_the_actor_goes_on() {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let error = frank.run(book(7)).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 7 }));
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert_eq!((remote.actor(), remote.message()), (frank.aid(), "no seat in row 7"));
        assert!(remote.type_name().ends_with("errors::Full"), "{}", remote.type_name());
        assert!(remote.location().is_some_and(|at| at.starts_with("tests/errors.rs:")), "{remote:?}");
        let error = frank.run(bug()).await.unwrap_err();
        let Error::Remote(remote) = &error else { panic!("{error:?}") };
        assert!(remote.is_panic() && remote.message() == "a bug in row 7" && remote.backtrace().is_some());
        assert!(remote.location().is_some_and(|at| at.starts_with("tests/errors.rs:")), "{remote:?}");
        assert_eq!(frank.run(book(1)).await?, 1);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_error_over_five_hops_keeps_its_origin_and_names_each_hop_once() {
    let error = below(5).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 9 }));
    let printed = error.report().to_string();
    assert_eq!(printed.matches("no seat in row 9").count(), 1, "{printed}");
    for level in 1..=5 {
        assert_eq!(printed.matches(&format!("actor level-{level}@")).count(), 1, "{printed}");
    }
}

#[teamster::test]
async fn calls_between_siblings_and_to_the_parent() {
    teamster::open_nursery(async |an| {
        let pair = an.start_actors(["a", "b"]).await?;
        assert_eq!(pair[0].run(ask(pair[1].clone(), 2)).await?, 2);
        assert_eq!(pair[0].run(ask_parent(3)).await?, 3);
        let error = pair[0].run(ask(pair[1].clone(), 8)).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 8 }));
        pair[1].cancel_actor().await?;
        let error = pair[0].run(ask(pair[1].clone(), 2)).await.unwrap_err();
        assert!(error.to_string().contains("died"), "{error:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn what_may_not_be_called_says_so() {
    teamster::open_nursery(async |an| {
        let shut = an.actor("shut").expose(["nothing"]).start().await?;
        assert!(matches!(shut.run(book(1)).await, Err(Error::NotExposed { .. })));
        assert!(matches!(shut.run(book(1)).await, Err(Error::NotExposed { .. }))); // the line stays up
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_actor_that_cancels_itself_names_itself() {
    let result = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let aid = frank.aid().clone();
        let canceller = expect_cancelled(frank.run(stop()).await);
        assert_eq!(canceller.aid, aid);
        Ok(())
    })
    .await;
    // Its end may be heard of before the body's: then it is a death like any other.
    assert!(matches!(&result, Ok(()) | Err(Error::ActorDied(_))), "{result:?}");
}
