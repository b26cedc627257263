//! One child to speak with, and the check that nothing of a test is left in it or here.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use teamster::{BoxError, Portal, rpc};
use tokio::sync::Semaphore;

/// A busy machine does in this time whatever it does at once.
pub(crate) const IN_TIME: Duration = Duration::from_secs(20);

/// A grace that nobody uses up who ends when he is asked to, however busy the machine is.
pub(crate) const PLENTY: Duration = Duration::from_secs(10);

/// Values of this actor that hold a [`Guard`].
static GUARDS: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new() -> Guard {
        GUARDS.fetch_add(1, Ordering::SeqCst);
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

#[rpc]
pub(crate) async fn guards() -> usize {
    GUARDS.load(Ordering::SeqCst)
}

/// Dialogs on the other actor's lines, this call among them.
#[rpc]
async fn dialogs() -> teamster::Result<usize> {
    Ok(teamster::testing::open_dialogs()?)
}

static LET_GO: Semaphore = Semaphore::const_new(0);

/// Lets one of the other actor's tasks go on that waits in [`held`].
#[rpc]
pub(crate) async fn let_go() {
    LET_GO.add_permits(1);
}

/// Until somebody says so.
pub(crate) async fn held() {
    LET_GO.acquire().await.expect("it is never closed").forget();
}

/// Memory that the other process has in use.
#[rpc]
pub(crate) async fn resident() -> usize {
    resident_here()
}

pub(crate) fn resident_here() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("there is /proc");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("it is a number");
    pages * rustix::param::page_size()
}

/// Asks until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(IN_TIME, asking).await.is_err() {
        panic!("{what}: not within {IN_TIME:?}");
    }
}

/// Nothing is left on either side.
pub(crate) async fn is_idle(there: &Portal) {
    until("a dialog is left here", async || teamster::testing::open_dialogs().is_ok_and(|open| open == 0)).await;
    until("a dialog is left there", async || there.run(dialogs()).await.is_ok_and(|open| open == 1)).await;
    until("a task is left there", async || there.run(guards()).await.is_ok_and(|left| left == 0)).await;
}

pub(crate) async fn with_one(test: impl AsyncFnOnce(&Portal) -> Result<(), BoxError>) {
    let ended = teamster::root().grace(PLENTY).open(async |an| {
        let frank = crate::callee::callee(an, "frank").start().await?;
        test(&frank).await?;
        is_idle(&frank).await;
        Ok(())
    });
    ended.await.expect("nothing fails");
}
