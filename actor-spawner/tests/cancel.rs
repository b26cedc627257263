//! Does `teamster cancel` end an actor, by the tree's rules?
use std::future::pending;
use std::process::{Command, Stdio};
use std::time::Duration;

use teamster::{CancelRequest, Error, ExitKind, Portal, open_nursery, rpc};
use tokio::sync::Semaphore;

#[path = "support/tool.rs"]
mod tool;
use tool::{printed, refused};

static ENTERED: Semaphore = Semaphore::const_new(0);

#[rpc]
async fn entered() {
    ENTERED.add_permits(1);
}

/// Never lets go of its thread again.
#[rpc]
async fn spin(parent: Portal) -> teamster::Result<()> {
    // The word leaves with the first poll; its answer would find this thread free for a while.
    let mut told = std::pin::pin!(parent.run(entered()));
    std::future::poll_fn(|cx| std::task::Poll::Ready(told.as_mut().poll(cx).is_ready())).await;
    loop {
        std::thread::park();
    }
}

#[rpc]
async fn hold_a_leaf() -> teamster::Result<()> {
    Ok(open_nursery(async |an| {
        an.start_actor("leaf").await?;
        an.wait().await;
        pending().await
    })
    .await?)
}

fn short(portal: &Portal) -> String {
    portal.aid().uuid().simple().to_string()[..8].to_owned()
}

#[teamster::test]
async fn an_actor_is_ended_and_the_nursery_goes_on() -> Result<(), Error> {
    open_nursery(async |an| {
        let (frank, bob) = tokio::try_join!(an.start_actor("frank"), an.start_actor("bob"))?;
        let said = printed(["cancel", "frank"]).await;
        let wanted = format!("frank@{} (pid {}) has ended, graceful, after ", short(&frank), frank.aid().pid());
        assert!(said.starts_with(&wanted) && said.ends_with(": exit status 0\n"), "{said}");
        let receipt = frank.cancel_actor().await?; // it was reaped by us, so this says how
        let by = receipt.asked_by.expect("somebody has asked");
        assert_eq!((by.aid.name(), by.request), ("teamster", CancelRequest::Actor));
        assert_eq!(receipt.exit, ExitKind::Status(0));
        assert!(bob.cancel_actor().await?.was_graceful(), "it was still there");
        assert!(refused(["cancel", "frank"]).await.contains("no actor is called frank"));
        Ok(())
    })
    .await
}

/// A leaf's end is its parent's to see: the request goes down, and the word on it comes up again.
#[teamster::test]
async fn one_further_down_is_ended_by_its_uuid() -> Result<(), Error> {
    open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let holder = mid.clone();
        let look = async {
            let leaf = teamster::wait_for_actor("leaf").await?;
            let said = printed(["cancel", &short(&leaf)]).await;
            assert!(said.starts_with(&format!("leaf@{}", short(&leaf))), "{said}");
            assert!(said.contains("has ended, graceful"), "{said}");
            assert!(teamster::find_actor("leaf").await?.is_none());
            Ok::<_, Error>(())
        };
        tokio::select! {
            held = holder.run(hold_a_leaf()) => panic!("its nursery goes on: {held:?}"),
            looked = look => looked?,
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn whoever_calls_a_cancelled_actor_hears_who_has_cancelled_it() -> Result<(), Error> {
    open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let ended = async {
            teamster::wait_for_actor("leaf").await?;
            Ok::<_, Error>(printed(["cancel", "mid"]).await)
        };
        let (call, said) = tokio::join!(mid.run(hold_a_leaf()), ended);
        assert!(said?.contains("graceful"));
        let error = call.expect_err("it was cancelled");
        assert!(matches!(&error, Error::Cancelled { .. }), "{error:?}");
        assert!(error.to_string().contains("teamster@"), "{error}");
        assert!(teamster::find_actor("leaf").await?.is_none(), "what is below goes too");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_stuck_one_is_killed_when_its_grace_is_over() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = an.actor("frank").grace(Duration::from_millis(300)).start().await?;
        let (call, said) = tokio::join!(frank.run(spin(teamster::this_actor()?)), async {
            ENTERED.acquire().await.expect("it is never closed").forget();
            printed(["cancel", "frank"]).await
        });
        assert!(said.contains("has ended, killed, after ") && said.contains("signal 9 (SIGKILL)"), "{said}");
        call.expect_err("it has ended");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_ambiguous_name_is_told_with_the_uuids() -> Result<(), Error> {
    open_nursery(async |an| {
        let twins = an.start_actors(["twin", "twin"]).await?;
        let said = refused(["cancel", "twin"]).await;
        assert!(said.contains("2 actors are meant by twin"), "{said}");
        for twin in &twins {
            assert!(said.contains(&short(twin)) && said.contains(&twin.aid().pid().to_string()), "{said}");
        }
        let said = printed(["cancel".to_owned(), format!("twin@{}", short(&twins[1]))]).await;
        assert!(said.contains(&short(&twins[1])), "{said}");
        assert!(twins[0].cancel_actor().await?.asked_by.is_some_and(|by| by.aid.name() != "teamster"));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn with_its_root_the_tree_ends() {
    let mut tool = None;
    let ended = teamster::root().name("king").open(async |an| {
        an.start_actor("frank").await?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
        // Its word comes when all is over, so nobody waits for it in here.
        tool = Some(command.args(["cancel", "king"]).stdout(Stdio::piped()).spawn()?);
        Ok(pending::<()>().await)
    });
    let error = ended.await.expect_err("it was cancelled");
    assert!(error.to_string().contains("teamster@"), "{error}");
    let tool = tool.expect("it was started").wait_with_output().expect("it is our child");
    let said = String::from_utf8_lossy(&tool.stdout);
    assert!(tool.status.success() && said.starts_with("king@"), "{tool:?}");
    assert!(said.contains(" and its tree have ended, after "), "{said}");
}
