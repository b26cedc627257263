//! A cancel is heard at once, ends what it should, and says what it took.
use std::future::pending;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use teamster::testing::{KillAtRandom, ProcessState, expect_cancelled, rounds, seed, state, wait_gone};
use teamster::{CancelRequest, Error, ExitKind, Portal, Receipt, Rung, rpc};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

#[path = "support/starved.rs"]
mod starved;
use starved::Moment;

/// What the harness sets for the actors of a test.
const GRACE: Duration = Duration::from_millis(200);

/// What an end by force may take beyond the grace, at most.
const KERNEL: Duration = Duration::from_secs(1);

/// A grace that nobody uses up who ends by himself, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(10);

/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(150);

// ---- what the actors do

/// A number that tasks of this actor wait for.
struct Count {
    now: AtomicUsize,
    changed: Notify,
}

impl Count {
    const fn new() -> Count {
        Count { now: AtomicUsize::new(0), changed: Notify::const_new() }
    }

    fn add(&self, n: isize) {
        self.now.fetch_add_signed(n, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    async fn is(&self, wanted: usize) {
        loop {
            let changed = self.changed.notified();
            if self.now.load(Ordering::Acquire) == wanted {
                return;
            }
            changed.await;
        }
    }
}

trait AddSigned {
    fn fetch_add_signed(&self, n: isize, order: Ordering) -> usize;
}

impl AddSigned for AtomicUsize {
    fn fetch_add_signed(&self, n: isize, order: Ordering) -> usize {
        self.fetch_add(n as usize, order) // it wraps
    }
}

/// Tasks of this actor that hold on.
static HELD: Count = Count::new();
/// Clean-ups that have run to their end.
static CLEANED: Count = Count::new();

struct Held;

impl Held {
    fn new() -> Held {
        HELD.add(1);
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.add(-1);
    }
}

#[rpc]
async fn pid() -> u32 {
    std::process::id()
}

#[rpc]
async fn hold() {
    let _held = Held::new();
    pending().await
}

/// Resolves when this many tasks hold on here.
#[rpc]
async fn held(wanted: usize) {
    HELD.is(wanted).await;
}

/// Resolves when this many clean-ups have run here.
#[rpc]
async fn cleaned(wanted: usize) {
    CLEANED.is(wanted).await;
}

/// What it says before it gets stuck is relayed by the output thread: no runtime is needed.
#[rpc]
async fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

#[rpc]
async fn block() {
    #[expect(clippy::disallowed_methods, reason = "a runtime that is stuck is what this is about")]
    std::thread::sleep(Duration::from_secs(60));
}

#[rpc]
async fn be_stubborn() {
    let _held = Held::new();
    loop {
        teamster::shield(pending::<()>()).await;
    }
}

#[rpc]
async fn spin_until_cancelled() -> bool {
    let mut turns = 0u64;
    while !teamster::is_cancelled() {
        turns += 1;
    }
    turns > 0
}

/// Tells `at` that it holds on, and fails in the very poll in which it sees the cancel.
#[rpc]
async fn fail_when_cancelled(at: Portal) -> Result<(), String> {
    at.run(pid()).await.map_err(|error| error.to_string())?;
    // On the line that is there now it leaves with the first poll: no await follows, so it is not
    // dropped in one.
    let mut telling = std::pin::pin!(at.run(begin_to_hold()));
    let _sent = futures::poll!(telling.as_mut());
    while !teamster::is_cancelled() {
        std::hint::spin_loop();
    }
    Err("the clean-up failed".to_owned())
}

#[rpc]
async fn begin_to_hold() {
    HELD.add(1);
}

#[rpc]
async fn fail_when_held(wanted: usize, peer: Portal) -> Result<(), String> {
    peer.run(held(wanted)).await.map_err(|error| error.to_string())?;
    Err("the first cause".to_owned())
}

/// Opens a nursery with one actor that is `stuck` or holds on, and tells its pid by `told`.
#[rpc]
async fn be_parent(of: Leaf, told: Portal) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let leaf = an.start_actor("leaf").await?;
        told.run(tell(leaf.aid().pid())).await?;
        of.occupy(&leaf).await?;
        Ok(())
    })
    .await
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Leaf {
    Idle,
    Holding,
    Spinning,
    Blocked,
    Stubborn,
}

impl Leaf {
    async fn occupy(self, leaf: &Portal) -> Result<(), Error> {
        match self {
            Leaf::Idle => pending().await,
            Leaf::Holding => leaf.run(hold()).await,
            Leaf::Spinning => leaf.run(spin()).await,
            Leaf::Blocked => leaf.run(block()).await,
            Leaf::Stubborn => leaf.run(be_stubborn()).await,
        }
    }
}

/// The pid that somebody has told this actor.
static TOLD: Count = Count::new();

#[rpc]
async fn tell(pid: u32) {
    TOLD.now.store(pid as usize, Ordering::Release);
    TOLD.changed.notify_waiters();
}

async fn told() -> u32 {
    loop {
        let changed = TOLD.changed.notified();
        let pid = TOLD.now.load(Ordering::Acquire);
        if pid != 0 {
            return u32::try_from(pid).expect("a pid");
        }
        changed.await;
    }
}

// ---- how they are asked

/// `count` calls of `hold` in flight, and begun.
async fn hold_on(portal: &Portal, calls: &mut JoinSet<Result<(), Error>>, count: usize) {
    for _ in 0..count {
        let portal = portal.clone();
        calls.spawn(async move { portal.run(hold()).await });
    }
    portal.run(held(count)).await.expect("they begin");
}

/// A call that gets the actor's runtime stuck, and does.
async fn stick(portal: &Portal, calls: &mut JoinSet<Result<(), Error>>, stuck: Leaf) {
    let stuck_one = portal.clone();
    calls.spawn(async move { stuck.occupy(&stuck_one).await });
    match stuck {
        Leaf::Stubborn => portal.run(held(1)).await.expect("it begins"),
        // Its Start leaves with the poll of the call; what follows on the line is never read.
        _ => is_stuck(portal).await,
    }
}

/// Resolves when the actor's runtime answers no more, also where an answer takes its time on the way.
async fn is_stuck(portal: &Portal) {
    while tokio::time::timeout(Duration::from_millis(200), portal.run(pid())).await.is_ok() {}
}

fn pid_of(portal: &Portal) -> u32 {
    portal.aid().pid()
}

/// Gone by the kernel's word: reaped, and its socket is away.
#[track_caller]
fn assert_gone(portal: &Portal) {
    assert_eq!(state(pid_of(portal)), None, "it has been reaped");
    let teamster::Addr::Uds(socket) = portal.addr().expect("a child has one") else { return };
    assert!(!socket.exists(), "its socket is away");
}

#[track_caller]
fn assert_killed(receipt: &Receipt) {
    assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)), "{receipt:?}");
    assert!(!receipt.was_graceful());
    assert!(receipt.reaped >= GRACE && receipt.reaped < GRACE + KERNEL, "{receipt:?}");
}

#[track_caller]
fn assert_graceful(receipt: &Receipt) {
    assert_graceful_within(receipt, GRACE);
}

#[track_caller]
fn assert_graceful_within(receipt: &Receipt, grace: Duration) {
    assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)), "{receipt:?}");
    assert!(receipt.heard.is_some() && receipt.tasks_gone.is_some(), "{receipt:?}");
    assert!(receipt.heard <= receipt.tasks_gone && receipt.tasks_gone <= Some(receipt.reaped), "{receipt:?}");
    assert!(receipt.reaped < grace, "{receipt:?}");
}

/// All of them fail by a cancel.
async fn expect_all_cancelled(mut calls: JoinSet<Result<(), Error>>) {
    while let Some(ended) = calls.join_next().await {
        expect_cancelled(ended.expect("it does not panic"));
    }
}

// ---- one actor (C10, S3.45, 59, 60, 61)

#[teamster::test(exclusive)]
async fn an_idle_actor_ends_gracefully() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        assert_graceful(&frank.cancel_actor().await?);
        assert_gone(&frank);
        assert!(teamster::find_actor("frank").await?.is_none());
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)]
async fn a_hundred_running_calls_end_gracefully() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut calls = JoinSet::new();
        hold_on(&frank, &mut calls, 100).await;
        assert_graceful(&frank.cancel_actor().await?);
        assert_gone(&frank);
        expect_all_cancelled(calls).await;
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)]
async fn a_stuck_actor_is_killed_when_its_grace_is_over() -> Result<(), Error> {
    for stuck in [Leaf::Spinning, Leaf::Blocked, Leaf::Stubborn] {
        teamster::open_nursery(async |an| {
            let frank = an.start_actor("frank").await?;
            let mut calls = JoinSet::new();
            stick(&frank, &mut calls, stuck).await;
            let receipt = frank.cancel_actor().await?;
            assert_killed(&receipt);
            assert!(receipt.heard.expect("whatever the runtime does") < AT_ONCE, "{stuck:?}: {receipt:?}");
            assert_eq!(receipt.tasks_gone, None);
            assert_gone(&frank);
            expect_all_cancelled(calls).await;
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[teamster::test(exclusive)]
async fn a_stopped_actor_is_killed_unheard() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.actor("frank").grace(Duration::from_millis(600)).start().await?;
        send(pid_of(&frank), Signal::STOP);
        is_stopped(pid_of(&frank));
        let receipt = frank.cancel_actor().await?;
        assert_killed(&receipt);
        assert_eq!(receipt.heard, None);
        assert_gone(&frank);
        Ok(())
    })
    .await
}

/// Returns when all threads of this child of ours stand still.
fn is_stopped(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("it is our child");
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

#[teamster::test(exclusive)]
async fn no_grace_is_a_kill_at_once() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let hasty = an.actor("hasty").grace(Duration::ZERO).start().await?;
        let frank = an.start_actor("frank").await?;
        for (portal, receipt) in [(&hasty, hasty.cancel_actor().await?), (&frank, frank.kill_actor().await?)] {
            assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)), "{receipt:?}");
            assert!(receipt.reaped < AT_ONCE, "{receipt:?}");
            assert_gone(portal);
        }
        Ok(())
    })
    .await
}

/// What this process's descriptors are.
fn descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("we may look at ourselves").flatten();
    let mut files: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    files.retain(|file| !file.ends_with("fd")); // the one that this list was read from
    files.sort();
    files.into_iter().map(|file| file.to_string_lossy().into_owned()).collect()
}

/// When it returns, nothing of that actor is left in its parent, though somebody still has its portal
/// and a call of it.
#[teamster::test]
async fn a_cancel_returns_when_the_parents_descriptors_are_back() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        an.start_actor("first").await?.cancel_actor().await?; // what is opened once
        let before = descriptors();
        for end in 0..30 {
            let frank = an.actor("frank").grace(PLENTY).start().await?;
            let mut calls = JoinSet::new();
            hold_on(&frank, &mut calls, 1).await;
            let unpolled = frank.clone();
            let mut call = std::pin::pin!(unpolled.run(hold()));
            assert!(futures::poll!(call.as_mut()).is_pending());
            match end % 3 {
                0 => assert_eq!(frank.cancel_actor().await?.exit, ExitKind::Status(0)),
                1 => assert_killed_at_once(&frank.kill_actor().await?),
                _ => {
                    let (one, other) = tokio::join!(frank.cancel_actor(), frank.cancel_actor());
                    assert_eq!(one?, other?);
                }
            }
            assert_eq!(descriptors(), before, "{end}");
            drop((frank, calls));
        }
        Ok(())
    })
    .await
}

fn assert_killed_at_once(receipt: &Receipt) {
    assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)), "{receipt:?}");
}

#[teamster::test]
async fn cancelling_what_is_gone_says_so() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let first = frank.cancel_actor().await?;
        let again = frank.cancel_actor().await?;
        assert_eq!((again.reaped, again.rung, &again.asked_by), (Duration::ZERO, first.rung, &first.asked_by));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn cancelling_what_another_one_cancels_is_asking_once() -> Result<(), Error> {
    teamster::root()
        .grace(PLENTY)
        .open(async |an| {
            let frank = an.start_actor("frank").await?;
            let (one, two, three) = tokio::join!(frank.cancel_actor(), frank.cancel_actor(), frank.cancel_actor());
            let (one, two, three) = (one?, two?, three?);
            assert_graceful_within(&one, PLENTY);
            assert_eq!([one.reaped; 2], [two.reaped, three.reaped], "one end, told three times");
            Ok(())
        })
        .await
}

#[teamster::test]
async fn cancelling_what_died_unasked_says_so() -> Result<(), Error> {
    let mut receipt = None;
    let ended = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        send(pid_of(&frank), Signal::KILL);
        wait_gone(pid_of(&frank), KERNEL);
        // The death ends this body, at the latest when it leaves the shield.
        teamster::shield(async { receipt = Some(frank.cancel_actor().await) }).await;
        Ok(())
    })
    .await;
    assert!(matches!(&ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)), "{ended:?}");
    let receipt = receipt.expect("the shield runs to its end").expect("it is a child");
    assert_eq!(receipt.exit, ExitKind::Signal(9));
    Ok(())
}

// ---- by others than the parent (S3.59, 70)

/// What a receipt says: the rung, the exit, and whether the request was heard.
type Told = (Option<Rung>, ExitKind, bool);

const GRACEFUL: Told = (Some(Rung::Cancel), ExitKind::Status(0), true);

/// By a stuck actor: its control thread hears it.
const KILLED: Told = (Some(Rung::Sigkill), ExitKind::Signal(9), true);

#[rpc]
async fn cancel(whom: Portal) -> Result<Told, Error> {
    let receipt = whom.cancel_actor().await?;
    assert_eq!(state(pid_of(&whom)), None, "it has been reaped");
    Ok((receipt.rung, receipt.exit, receipt.heard.is_some()))
}

#[teamster::test]
async fn a_third_actor_may_cancel_and_the_nursery_goes_on() -> Result<(), Error> {
    for busy in [Leaf::Idle, Leaf::Holding, Leaf::Stubborn, Leaf::Spinning] {
        teamster::open_nursery(async |an| {
            let (frank, third) = tokio::try_join!(an.start_actor("frank"), an.start_actor("third"))?;
            let mut calls = JoinSet::new();
            match busy {
                Leaf::Idle => {}
                Leaf::Holding => hold_on(&frank, &mut calls, 1).await,
                stuck => stick(&frank, &mut calls, stuck).await,
            }
            let told = third.run(cancel(frank.clone())).await?;
            let is_stuck = matches!(busy, Leaf::Stubborn | Leaf::Spinning);
            assert_eq!(told, if is_stuck { KILLED } else { GRACEFUL }, "{busy:?}");
            assert_gone(&frank);
            let by = frank.cancel_actor().await?.asked_by.expect("somebody asked");
            assert_eq!((by.aid, by.request), (third.aid().clone(), CancelRequest::Actor), "{busy:?}");
            while let Some(ended) = calls.join_next().await {
                let by = expect_cancelled(ended.expect("it does not panic"));
                assert_eq!(&by.aid, third.aid());
            }
            third.run(pid()).await?; // nothing has failed
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The leaf of this actor's own, in whose nursery it stays.
static LEAF: LazyLock<watch::Sender<Option<Portal>>> = LazyLock::new(watch::Sender::default);

#[rpc]
async fn keep_a_leaf() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        LEAF.send_replace(Some(an.start_actor("leaf").await?));
        an.wait().await;
        pending().await
    })
    .await
}

#[rpc]
async fn leaf() -> Portal {
    let mut leaf = LEAF.subscribe();
    let found = leaf.wait_for(Option::is_some).await.expect("the sender is a static");
    found.clone().expect("it was waited for")
}

/// From a leaf of one branch to one of another, to the root of a branch, upwards and downwards.
#[teamster::test]
async fn whoever_in_the_tree_asks_hears_what_it_took() -> Result<(), Error> {
    let grace = Duration::from_secs(1); // in this test others may be busy
    let in_tree = async |an: &teamster::ActorNursery| {
        let branches = an.start_actors(["a", "b", "c", "d"]).await?;
        let mut keeping = JoinSet::new();
        let mut leaves = Vec::new();
        for branch in &branches {
            let parent = branch.clone();
            keeping.spawn(async move { parent.run(keep_a_leaf()).await });
            leaves.push(branch.run(leaf()).await?);
        }
        let [_a, b, _c, d] = branches.as_slice() else { panic!("four were started") };
        let [a_leaf, b_leaf, c_leaf, d_leaf] = leaves.as_slice() else { panic!("each has one") };
        assert_eq!(a_leaf.run(cancel(b_leaf.clone())).await?, GRACEFUL, "a leaf of another branch");
        assert_eq!(b.run(cancel(b_leaf.clone())).await?, (None, ExitKind::Unknown, false), "it is gone");
        assert_eq!(a_leaf.run(cancel(b.clone())).await?, GRACEFUL, "another branch");
        assert_eq!(d.run(cancel(c_leaf.clone())).await?, GRACEFUL, "a leaf further down");
        let mut calls = JoinSet::new();
        stick(d_leaf, &mut calls, Leaf::Spinning).await;
        let receipt = d_leaf.cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)), "{receipt:?}");
        assert!(receipt.heard < Some(receipt.reaped) && receipt.reaped >= grace, "{receipt:?}");
        assert_eq!(receipt.asked_by.expect("we did").aid, *teamster::this_actor()?.aid());
        let ended = calls.join_next().await.expect("there is one")?;
        assert_eq!(expect_cancelled(ended).aid, *teamster::this_actor()?.aid(), "its parent has told us");
        Ok(())
    };
    teamster::root().grace(grace).open(in_tree).await
}

/// It is asked by its data line, which a stuck runtime does not read.
#[teamster::test(exclusive)]
async fn an_actor_of_another_tree_ends_or_is_said_not_to() -> Result<(), Error> {
    let (told, portals) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let other_tree = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(teamster::open_nursery(async |an| {
            let pair = an.start_actors(["idle", "stuck"]).await?;
            let mut calls = JoinSet::new();
            stick(&pair[1], &mut calls, Leaf::Spinning).await;
            told.send(pair).expect("the test waits");
            ended.await.ok();
            Ok(())
        }))
    });
    let pair = portals.recv().expect("the other tree grows");
    teamster::open_nursery(async |_an| {
        // As they would have come to us: sent by somebody.
        let foreign = |portal: &Portal| -> Portal {
            let bytes = rmp_serde::to_vec(portal).expect("as portals travel");
            rmp_serde::from_slice(&bytes).expect("as portals travel")
        };
        let receipt = foreign(&pair[0]).cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.exit, receipt.heard), (None, ExitKind::Unknown, None), "{receipt:?}");
        assert!(receipt.asked_by.is_some());
        assert_gone(&pair[0]);
        let asked = Instant::now();
        let stuck = foreign(&pair[1]).cancel_actor().await;
        let took = asked.elapsed();
        assert!(matches!(&stuck, Err(Error::NotStopped { aid, .. }) if aid == pair[1].aid()), "{stuck:?}");
        assert!(took >= GRACE + KERNEL && took < GRACE + KERNEL * 2, "{took:?}");
        Ok(())
    })
    .await?;
    end.send(()).expect("the other tree waits");
    other_tree.join().expect("it does not panic")
}

fn from_a_sync_function() {
    teamster::cancel_self().expect("we are in an actor");
}

#[rpc]
async fn end_yourself() {
    from_a_sync_function();
    pending().await
}

#[teamster::test]
async fn an_actor_that_cancels_itself_is_named() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let by = expect_cancelled(frank.run(end_yourself()).await);
        assert_eq!((&by.aid, by.request), (frank.aid(), CancelRequest::Actor));
        let receipt = frank.cancel_actor().await?;
        assert_eq!(receipt.asked_by.expect("it asked itself").aid, *frank.aid());
        assert_gone(&frank);
        Ok(())
    })
    .await
}

#[rpc]
async fn end_yourself_stubbornly() {
    from_a_sync_function();
    teamster::shield(pending::<()>()).await;
}

#[teamster::test]
async fn an_actor_that_cancels_itself_has_its_grace_and_no_more() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let by = expect_cancelled(frank.run(end_yourself_stubbornly()).await);
        assert_eq!(&by.aid, frank.aid());
        Ok(())
    })
    .await
}

// ---- trees (C11, S3.49, 50)

#[teamster::test(exclusive)]
async fn a_stuck_leaf_leaves_its_parent_time_to_reap_it() -> Result<(), Error> {
    /// A quarter of it is what the middle has left when its leaf is killed: enough for a busy machine.
    const ITS_GRACE: Duration = Duration::from_secs(2);
    for stuck in [Leaf::Blocked, Leaf::Spinning, Leaf::Stubborn] {
        let mut leaf = 0;
        let start = Instant::now();
        let mut asked = start;
        let failed: Result<(), Error> = teamster::open_nursery(async |an| {
            let mid = an.actor("mid").grace(ITS_GRACE).start().await?;
            let mut calls = JoinSet::new();
            TOLD.now.store(0, Ordering::Release);
            let (parent, me) = (mid.clone(), teamster::this_actor()?);
            calls.spawn(async move { parent.run(be_parent(stuck, me)).await });
            leaf = told().await;
            asked = Instant::now();
            let receipt = mid.cancel_actor().await?;
            assert_eq!(state(leaf), None, "the leaf was reaped before its parent was");
            assert_eq!(receipt.rung, Some(Rung::Cancel), "the middle had time: {receipt:?}");
            assert!(receipt.reaped < ITS_GRACE, "a child's grace is less than its parent's: {receipt:?}");
            Err("the body fails".into())
        })
        .await;
        assert_eq!(failed.expect_err("the body failed").to_string(), "the body fails");
    }
    Ok(())
}

#[teamster::test(exclusive)]
async fn what_a_killed_actor_had_started_is_killed_with_it() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let mid = an.actor("mid").grace(Duration::from_secs(30)).start().await?;
        let (parent, me) = (mid.clone(), teamster::this_actor()?);
        let mut calls = JoinSet::new();
        calls.spawn(async move { parent.run(be_parent(Leaf::Holding, me)).await });
        let leaf = told().await;
        let receipt = mid.kill_actor().await?;
        wait_gone(leaf, Duration::ZERO); // at most a zombie that waits for init
        assert!(receipt.reaped < AT_ONCE, "{receipt:?}");
        expect_all_cancelled(calls).await;
        Ok(())
    })
    .await
}

/// What a first call to that actor says: the signal it died by, and who had asked.
#[rpc]
async fn how_it_ended(portal: Portal) -> (Option<i32>, Option<String>) {
    match portal.run(pid()).await {
        Err(Error::ActorDied(death)) => (death.signal(), death.asked().map(|by| by.aid.name().to_owned())),
        other => panic!("it is dead: {other:?}"),
    }
}

#[teamster::test]
async fn whoever_calls_a_dead_actor_for_the_first_time_is_told_how_it_ended() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (frank, bob) = tokio::try_join!(an.start_actor("frank"), an.start_actor("bob"))?;
        frank.kill_actor().await?;
        assert_eq!(bob.run(how_it_ended(frank.clone())).await?, (Some(9), Some("root".to_owned())));
        Ok(())
    })
    .await
}

/// Here a leaf ends while its parent stands still, which then is killed.
#[rpc]
async fn leave_a_leaf_unreaped() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let (parent, me) = (mid.clone(), teamster::this_actor()?);
        let mut calls = JoinSet::new();
        calls.spawn(async move { parent.run(be_parent(Leaf::Holding, me)).await });
        let leaf = told().await;
        send(pid_of(&mid), Signal::STOP);
        is_stopped(pid_of(&mid));
        send(leaf, Signal::KILL);
        while state(leaf) != Some(ProcessState::Zombie) {
            tokio::task::yield_now().await;
        }
        // That has been seen here: this one's start comes behind it.
        an.start_actor("witness").await?.cancel_actor().await?;
        assert_eq!(state(leaf), Some(ProcessState::Zombie), "its parent stands still");
        mid.kill_actor().await?;
        assert_eq!(state(leaf), None, "it has been reaped");
        expect_all_cancelled(calls).await;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_leaf_that_its_parent_did_not_reap_is_its_grandparents_to_reap() -> Result<(), Error> {
    teamster::open_nursery(async |an| Ok(an.run_in_actor(leave_a_leaf_unreaped()).await?)).await
}

#[teamster::test(exclusive)]
async fn a_failing_root_leaves_no_stuck_leaf() -> Result<(), Error> {
    for stuck in [Leaf::Blocked, Leaf::Spinning, Leaf::Stubborn] {
        let (mut leaf, mut failed_at) = (0, Moment::now());
        TOLD.now.store(0, Ordering::Release);
        let failed: Result<(), Error> = teamster::open_nursery(async |an| {
            let mid = an.start_actor("mid").await?;
            let (parent, me) = (mid.clone(), teamster::this_actor()?);
            let mut calls = JoinSet::new();
            calls.spawn(async move { parent.run(be_parent(stuck, me)).await });
            leaf = told().await;
            failed_at = Moment::now();
            Err("the body fails".into())
        })
        .await;
        let (took, left) = (failed_at.elapsed(), state(leaf));
        assert_eq!(left, None, "the leaf has been reaped");
        assert!(took < GRACE + KERNEL, "{took:?}");
        assert_eq!(failed.expect_err("the body failed").to_string(), "the body fails");
    }
    Ok(())
}

// ---- nurseries (S3.45, 71, S1.18, C17)

#[teamster::test]
async fn a_nursery_that_is_cancelled_by_its_body_goes_on_to_a_value() -> Result<(), Error> {
    let value = teamster::root()
        .grace(PLENTY)
        .open(async |an| {
            let pair = an.start_actors(["left", "right"]).await?;
            let receipts = an.cancel().await;
            assert_eq!(receipts.len(), 2);
            for receipt in &receipts {
                assert_graceful_within(receipt, PLENTY);
            }
            pair.iter().for_each(assert_gone);
            assert!(matches!(an.start_actor("late").await, Err(Error::Spawn { .. })));
            Ok(7)
        })
        .await?;
    assert_eq!(value, 7);
    Ok(())
}

#[teamster::test]
async fn a_nursery_that_three_tasks_cancel_ends_once() -> Result<(), Error> {
    let ended: Result<(), Error> = teamster::open_nursery(async |an| {
        let mut pair = an.start_actors(["left", "right"]).await?;
        pair[0].run(pid()).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            let an = an.clone();
            tasks.spawn(async move { [an.cancel().await.len(), an.cancel().await.len()] });
        }
        pair.truncate(0);
        // Tasks of our own stand outside of the body: it is cancelled too.
        std::future::poll_fn(|cx| tasks.poll_join_next(cx).map(|_| ())).await;
        pending().await
    })
    .await;
    assert_eq!(expect_cancelled(ended).request, CancelRequest::Nursery);
    Ok(())
}

#[teamster::test]
async fn a_nursery_that_is_cancelled_while_ten_boot_leaves_nobody() {
    let mut chance = KillAtRandom::new(seed());
    for round in 0..rounds(100) {
        let after = Duration::from_micros(chance.below(60_000));
        let ended: Result<(), Error> = teamster::open_nursery(async |an| {
            let starts = futures::future::join_all((0..10).map(|_| an.start_actor("one")));
            let cancel = async {
                tokio::time::sleep(after).await;
                an.cancel().await;
            };
            let (started, ()) = tokio::join!(starts, cancel);
            for start in started {
                match start {
                    Ok(portal) => assert_gone(&portal),
                    Err(Error::Spawn { reason: teamster::SpawnReason::Cancelled(_), .. }) => {}
                    Err(other) => panic!("round {round}: {other}"),
                }
            }
            Ok(())
        })
        .await;
        ended.unwrap_or_else(|error| panic!("round {round}, after {after:?}: {error}"));
        let left = teamster::testing::descendants(std::process::id());
        assert!(left.is_empty(), "round {round}, after {after:?}: {left:?}");
    }
}

#[teamster::test]
async fn a_dropped_nursery_leaves_nobody() {
    let (mut pids, started) = (Vec::new(), Notify::new());
    let nursery = teamster::open_nursery(async |an| {
        pids.extend(an.start_actors(["left", "right"]).await?.iter().map(pid_of));
        started.notify_one();
        an.wait().await;
        Ok(())
    });
    tokio::select! {
        ended = nursery => panic!("nobody ends it: {ended:?}"),
        () = started.notified() => {}
    }
    for pid in pids {
        wait_gone(pid, KERNEL);
    }
}

/// Drops a nursery with a running actor in it, and tells that one's pid.
#[rpc]
async fn drop_a_nursery(told: Portal) -> Result<(), Error> {
    let nursery = teamster::open_nursery(async |an| {
        let leaf = an.start_actor("leaf").await?;
        told.run(tell(pid_of(&leaf))).await?;
        leaf.run(be_stubborn()).await?;
        Ok(())
    });
    futures::pin_mut!(nursery);
    let told = async {
        while TOLD_HERE.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = &mut nursery => ended,
        () = told => Ok(()),
    }
}

static TOLD_HERE: AtomicUsize = AtomicUsize::new(0);

#[rpc]
async fn go_on() {
    TOLD_HERE.store(1, Ordering::Release);
}

#[teamster::test]
async fn an_endpoints_last_word_waits_for_the_nursery_that_it_dropped() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let me = teamster::this_actor()?;
        let mut leaf = 0;
        let go = async {
            leaf = told().await;
            frank.run(go_on()).await
        };
        let (dropped, went) = tokio::join!(frank.run(drop_a_nursery(me)), go);
        dropped?;
        went?;
        assert_eq!(state(leaf), None, "its return came after the leaf's end");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_actors_end_waits_for_the_nursery_of_a_dropped_call() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        // A quarter of it is what is left when the leaf is killed.
        let frank = an.actor("frank").grace(Duration::from_secs(2)).start().await?;
        let me = teamster::this_actor()?;
        tokio::select! {
            ended = frank.run(be_parent(Leaf::Stubborn, me)) => panic!("{ended:?}"),
            _leaf = told() => {}
        }
        let leaf = told().await;
        let receipt = frank.cancel_actor().await?;
        assert_eq!(state(leaf), None);
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)), "{receipt:?}");
        Ok(())
    })
    .await
}

/// The cancel of the actor leaves this nursery to its shield.
#[rpc]
async fn shield_a_nursery(told: Portal) -> Result<(), Error> {
    teamster::shield(async {
        teamster::open_nursery(async |an| {
            let leaf = an.start_actor("leaf").await?;
            told.run(tell(pid_of(&leaf))).await?;
            teamster::cancelled().await;
            assert_eq!(leaf.run(pid()).await?, pid_of(&leaf)); // it still serves
            println!("the leaf has answered");
            CLEANED.add(1);
            Ok(())
        })
        .await
    })
    .await
}

#[teamster::test]
async fn a_shielded_nursery_is_its_shields_to_end() -> Result<(), Error> {
    teamster::root()
        .grace(PLENTY)
        .open(async |an| {
            let frank = an.start_actor("frank").await?;
            let me = teamster::this_actor()?;
            let mut calls = JoinSet::new();
            let shielded = frank.clone();
            calls.spawn(async move { shielded.run(shield_a_nursery(me)).await });
            let leaf = told().await;
            assert_graceful_within(&frank.cancel_actor().await?, PLENTY);
            assert_eq!(state(leaf), None);
            expect_all_cancelled(calls).await;
            Ok(())
        })
        .await
}

// ---- calls (C16, S3.73, 75)

/// Drops a call that has begun.
async fn begin_and_drop(portal: &Portal, call: teamster::Call<impl teamster::Endpoint<Output = ()>>) {
    tokio::select! {
        ended = portal.run(call) => panic!("{ended:?}"),
        began = portal.run(held(1)) => began.expect("it begins"),
    }
}

#[teamster::test(exclusive)]
async fn a_dropped_call_drops_the_remote_task_within_milliseconds() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut times = Vec::new();
        for _ in 0..20 {
            begin_and_drop(&frank, hold()).await;
            let dropped = Instant::now();
            frank.run(held(0)).await?;
            times.push(dropped.elapsed());
        }
        times.sort();
        // Where others want the processors too, some of them wait for a turn.
        assert!(times[5] < Duration::from_millis(2), "{times:?}");
        Ok(())
    })
    .await
}

/// A cancel goes by the control line, which is up in a new actor before its data line is.
#[teamster::test]
async fn a_call_that_is_dropped_at_once_ends_in_an_actor_that_is_new() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        for _ in 0..30 {
            let frank = an.start_actor("frank").await?;
            for _ in 0..3 {
                let mut call = std::pin::pin!(frank.run(hold()));
                assert!(futures::poll!(&mut call).is_pending());
            }
            let ended = async {
                frank.run(held(0)).await?;
                while teamster::testing::open_dialogs()? > 0 {
                    tokio::task::yield_now().await;
                }
                Ok::<_, Error>(())
            };
            tokio::time::timeout(PLENTY, ended).await.expect("the cancels came to their calls")?;
            frank.cancel_actor().await?;
        }
        Ok(())
    })
    .await
}

#[rpc]
async fn clean_up_in_a_shield() {
    let _held = Held::new();
    teamster::shield(async {
        teamster::cancelled().await;
        tokio::task::yield_now().await;
        CLEANED.add(1);
    })
    .await;
    pending().await
}

#[rpc]
async fn clean_up_deferred() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            teamster::defer(async {
                tokio::task::yield_now().await;
                CLEANED.add(1);
            });
        }
    }
    let (_late, _held) = (Late, Held::new());
    pending().await
}

#[teamster::test]
async fn a_dropped_calls_clean_ups_run_to_their_end() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        begin_and_drop(&frank, clean_up_in_a_shield()).await;
        frank.run(cleaned(1)).await?;
        frank.run(held(0)).await?;
        begin_and_drop(&frank, clean_up_deferred()).await;
        frank.run(cleaned(2)).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_hundred_dropped_calls_end_a_hundred_tasks() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut calls = JoinSet::new();
        hold_on(&frank, &mut calls, 100).await;
        drop(calls);
        frank.run(held(0)).await?;
        for _ in 0..100 {
            assert_eq!(frank.run(pid()).await?, pid_of(&frank), "no late reply goes to another call");
        }
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)]
async fn a_sync_loop_sees_the_cancel_of_its_call() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        for _ in 0..5 {
            let late = tokio::time::timeout(Duration::from_millis(20), frank.run(spin_until_cancelled())).await;
            assert!(late.is_err());
            let asked = Moment::now();
            frank.run(pid()).await?; // it can be served again
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        }
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)]
async fn a_sync_loop_sees_the_cancel_of_its_actor() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut calls = JoinSet::new();
        let spinning = frank.clone();
        calls.spawn(async move { spinning.run(spin_until_cancelled()).await.map(drop) });
        is_stuck(&frank).await;
        assert_graceful(&frank.cancel_actor().await?);
        Ok(())
    })
    .await
}

#[teamster::test(exclusive)]
async fn a_deadline_holds_when_the_callee_is_stuck() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let mut calls = JoinSet::new();
        stick(&frank, &mut calls, Leaf::Blocked).await;
        let asked = Moment::now();
        let late = teamster::deadline(Duration::from_millis(100), frank.run(pid())).await;
        let (took, all) = (asked.elapsed(), asked.all());
        assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        assert!(all >= Duration::from_millis(100) && took < Duration::from_millis(200), "{took:?} of {all:?}");
        assert_killed(&frank.cancel_actor().await?);
        expect_all_cancelled(calls).await;
        Ok(())
    })
    .await
}

// ---- failures beside a cancel (C32)

#[teamster::test(exclusive)]
async fn a_failure_while_being_cancelled_stands_beside_the_first_cause() -> Result<(), Error> {
    let failed: Result<(), Error> = teamster::open_nursery(async |an| {
        let (frank, rose) = tokio::try_join!(an.start_actor("frank"), an.start_actor("rose"))?;
        let failing = an.run_in_actor(fail_when_held(1, rose.clone()));
        let late = frank.run(fail_when_cancelled(rose.clone()));
        let (late, first) = tokio::join!(late, failing);
        drop((late, first, rose));
        Ok(())
    })
    .await;
    let failed = failed.expect_err("something failed");
    let printed = format!("{failed:?}");
    assert!(printed.contains("the first cause"), "{printed}");
    let first = match &failed {
        Error::Group(group) => group.primary().to_string(),
        other => other.to_string(),
    };
    assert!(first.contains("the first cause"), "{first}");
    Ok(())
}

#[teamster::test(exclusive)]
async fn a_one_shots_failure_while_being_cancelled_is_kept() -> Result<(), Error> {
    let failed: Result<(), Error> = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let _late = an.run_in_actor(fail_when_cancelled(frank.clone()));
        let _first = an.run_in_actor(fail_when_held(1, frank));
        pending().await
    })
    .await;
    let Err(Error::Group(group)) = &failed else { panic!("both are kept: {failed:?}") };
    let told: Vec<String> = group.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(group.primary().to_string().contains("the first cause"), "{told:?}");
    assert!(told[1].contains("the clean-up failed"), "{told:?}");
    Ok(())
}

// ---- nothing to do

#[teamster::test(exclusive)]
async fn an_idle_actor_sleeps() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        frank.run(pid()).await?;
        settled(pid_of(&frank)).await;
        let before = switches(pid_of(&frank));
        tokio::time::sleep(Duration::from_secs(3)).await; // what does not happen has no event
        assert_eq!(switches(pid_of(&frank)), before);
        Ok(())
    })
    .await
}

/// Resolves when the process has done nothing for a moment: what its boot has left is done.
async fn settled(pid: u32) {
    let mut before = Vec::new();
    while switches(pid) != before {
        before = switches(pid);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The context switches of each thread: proc(5).
fn switches(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let mut switches: Vec<String> = threads
        .flatten()
        .map(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).expect("it lives");
            let of_interest = |line: &&str| line.starts_with("Name:") || line.contains("ctxt_switches");
            status.lines().filter(of_interest).collect::<Vec<_>>().join(" ")
        })
        .collect();
    switches.sort();
    switches
}
