//! What tests of contexts tell each other across processes: who runs here, how far it is, what it shall do.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use teamster::testing::open_dialogs;
use teamster::{BoxError, Portal, rpc};
use tokio::sync::watch;

/// What happens at once takes less than this on the busiest machine, and what waits for something else
/// takes longer. (A panic's backtrace alone takes seconds in a debug build.)
pub(crate) const AT_ONCE: Duration = Duration::from_secs(20);

/// Fails if `future` does not end at once.
pub(crate) async fn at_once<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(AT_ONCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("not within {AT_ONCE:?}: {what}"),
    }
}

// ---- who runs here

/// Endpoints of this actor that have begun and whose values are not dropped.
static RUNNING: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// Held by an endpoint.
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new() -> Guard {
        RUNNING.send_modify(|running| *running += 1);
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.send_modify(|running| *running -= 1);
    }
}

#[rpc]
pub(crate) async fn running() -> usize {
    *RUNNING.borrow()
}

/// Resolves when so many run here.
#[rpc]
pub(crate) async fn runs(count: usize) {
    RUNNING.subscribe().wait_for(|running| *running == count).await.expect("the sender is a static");
}

/// The dialogs of this actor, this very call left out.
#[rpc]
pub(crate) async fn dialogs() -> teamster::Result<usize> {
    Ok(open_dialogs()? - 1)
}

/// Whoever runs in it is gone, and no table holds anything, at the latest a moment later.
pub(crate) async fn is_empty(portal: &Portal) -> Result<(), BoxError> {
    let name = portal.aid().name();
    at_once(&format!("nobody runs in {name}"), portal.run(runs(0))).await?;
    at_once(&format!("the tables of {name} are empty"), async {
        while portal.run(dialogs()).await? > 0 {
            tokio::task::yield_now().await; // a last frame is not counted, but it ends soon
        }
        Ok(())
    })
    .await
}

/// This actor's tables hold nothing, at the latest a moment later.
pub(crate) async fn are_our_tables_empty() -> Result<(), BoxError> {
    at_once("our tables are empty", async {
        while open_dialogs()? > 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await
}

// ---- words

static SAID: LazyLock<watch::Sender<Vec<String>>> = LazyLock::new(watch::Sender::default);

/// Says a word in this actor.
pub(crate) fn say_here(word: &str) {
    SAID.send_modify(|said| said.push(word.to_owned()));
}

/// Resolves when the word has been said in this actor.
pub(crate) async fn heard(word: &str) {
    let mut said = SAID.subscribe();
    said.wait_for(|said| said.iter().any(|one| one == word)).await.expect("the sender is a static");
}

/// The first of these words that is said in this actor.
pub(crate) async fn first_heard(words: &[&'static str]) -> &'static str {
    let mut found = None;
    let mut said = SAID.subscribe();
    let of_ours = |said: &Vec<String>| {
        found = said.iter().find_map(|one| words.iter().find(|word| *word == one).copied());
        found.is_some()
    };
    said.wait_for(of_ours).await.expect("the sender is a static");
    found.expect("it was waited for")
}

#[rpc]
pub(crate) async fn say(word: String) {
    say_here(&word);
}

#[rpc]
pub(crate) async fn hears(word: String) {
    heard(&word).await;
}

/// Forgets what was said.
#[rpc]
pub(crate) async fn wipe() {
    SAID.send_replace(Vec::new());
}
