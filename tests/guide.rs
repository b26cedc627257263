//! The programs of the guide's last chapter, as they stand there.
use teamster::testing::{expect_cancelled, kill_at_random, wait_gone};
use teamster::{Error, rpc};

#[rpc]
async fn hold() {
    std::future::pending().await
}

#[rpc]
async fn ping() {}

#[teamster::test]
async fn a_cancelled_call_says_who_asked() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let cancelling = async {
            frank.run(ping()).await?; // answered in its turn: the call before it has begun by then
            frank.cancel_actor().await
        };
        let (called, ended) = tokio::join!(frank.run(hold()), cancelling);
        assert_eq!(expect_cancelled(called).aid, *teamster::this_actor()?.aid());
        assert!(ended?.was_graceful());
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)] // no other test beside it: it measures time, or fills the processor
async fn a_killed_worker_is_a_death() {
    let ended: Result<(), Error> = teamster::open_nursery(async |an| {
        let pid = an.start_actor("frank").await?.aid().pid();
        kill_at_random(&[pid], teamster::testing::seed());
        wait_gone(pid, std::time::Duration::from_secs(1));
        an.wait().await;
        Ok(())
    })
    .await;
    assert!(matches!(ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)));
}

/// The others are run by rustdoc, which leaves tests out.
#[test]
fn the_guide_shows_the_tests_above() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide.md")).expect("it is there");
    let (_, last) = guide.rsplit_once("```rust,no_run\n").expect("it has blocks");
    let (block, _) = last.split_once("```").expect("the block ends");
    assert!(include_str!("guide.rs").contains(block), "docs/guide.md has other tests than tests/guide.rs");
}
