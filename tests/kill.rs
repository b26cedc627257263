//! Whoever is killed, at whatever place in the tree: nothing that it had started stays.
use std::collections::HashSet;
use std::future::pending;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::{ProcessState, state, wait_gone};
use teamster::{Error, Portal, rpc};
use tokio::sync::watch;

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program};

// ---- the program

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    if program::scene().is_some() {
        play().expect("the scene plays to its end");
    }
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    let scene = program::scene().expect("it is set");
    teamster::open_nursery(async |an| {
        if scene == "short" {
            an.start_actor("frank").await?;
            return Ok(());
        }
        let (idle, stuck, mid) =
            tokio::try_join!(an.start_actor("idle"), an.start_actor("stuck"), an.start_actor("mid"))?;
        let stuck = async {
            match scene.as_str() {
                "blocked" => stuck.run(block()).await,
                "spinning" => stuck.run(spin()).await,
                "stubborn" => stuck.run(be_stubborn()).await,
                _idle => pending().await,
            }
        };
        let tree = mid.run(be_parent(scene.clone(), None));
        let ((), ()) = tokio::try_join!(stuck, tree)?;
        drop(idle);
        Ok(())
    })
    .await
}

#[rpc]
async fn block() {
    println!("stuck");
    #[expect(clippy::disallowed_methods, reason = "a runtime that is stuck is what this is about")]
    std::thread::sleep(Duration::from_secs(60));
}

#[rpc]
async fn spin() {
    println!("stuck");
    loop {
        std::hint::spin_loop();
    }
}

#[rpc]
async fn be_stubborn() {
    println!("stuck");
    loop {
        teamster::shield(pending::<()>()).await;
    }
}

/// Returns, and runs nothing else any more.
#[rpc]
#[expect(clippy::disallowed_methods, reason = "nobody waits for it, and nothing ends it: that is what stuck means")]
async fn get_stuck() {
    tokio::spawn(async { std::thread::sleep(Duration::from_secs(60)) });
}

#[rpc]
async fn hold() {
    println!("stuck");
    pending().await
}

/// One leaf of each kind that the scene asks for, three levels down.
#[rpc]
async fn be_parent(scene: String, told: Option<Portal>) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (leaf, other) = tokio::try_join!(an.start_actor("leaf"), an.start_actor("other"))?;
        if let Some(told) = told {
            told.run(tell(leaf.aid().pid())).await?;
            told.run(tell(other.aid().pid())).await?;
        }
        match scene.as_str() {
            "blocked" => leaf.run(block()).await?,
            "spinning" => leaf.run(spin()).await?,
            "stubborn" => leaf.run(be_stubborn()).await?,
            _idle => leaf.run(hold()).await?,
        }
        Ok(())
    })
    .await
}

/// The pids that somebody has told this actor.
static TOLD: LazyLock<watch::Sender<Vec<u32>>> = LazyLock::new(watch::Sender::default);

// ---- SIGKILL to the root (C12, S3.53)

#[track_caller]
fn check_root(scene: &str, stuck: usize, within: Duration) {
    let mut program = Program::start(scene);
    for _ in 0..stuck {
        program.says("stuck");
    }
    program.signal(Signal::KILL);
    program.ends_within(KERNEL);
    program.gone_within(within);
    // Sockets and folders that it could not remove are the next root's to sweep.
    let next = Program::start_with("short", |command| {
        command.env("TEAMSTER_DIR", program.sockets());
    })
    .ends_within(Duration::from_secs(10));
    assert!(next.status.success(), "{}", next.stderr);
    program.assert_no_files();
}

#[test]
fn a_killed_root_takes_an_idle_tree_with_it() {
    check_root("idle", 1, GRACE);
}

#[test]
fn a_killed_root_takes_blocked_actors_with_it() {
    check_root("blocked", 2, GRACE + KERNEL);
}

#[test]
fn a_killed_root_takes_spinning_actors_with_it() {
    check_root("spinning", 2, GRACE + KERNEL);
}

#[test]
fn a_killed_root_takes_stubborn_actors_with_it() {
    check_root("stubborn", 2, GRACE + KERNEL);
}

#[test]
fn a_killed_root_takes_stopped_actors_with_it() {
    let mut program = Program::start("idle");
    program.says("stuck");
    program.stop_below();
    program.signal(Signal::KILL);
    program.ends_within(KERNEL);
    // The kernel wakes stopped groups that nobody of their session looks after any more.
    program.gone_within(GRACE + KERNEL);
}

/// No group is stopped yet when the root dies: the kernel looks for those only at that moment.
#[test]
fn a_killed_root_takes_actors_with_it_that_are_about_to_stop() {
    for scene in ["idle", "spinning", "idle", "spinning", "idle", "spinning"] {
        let mut program = Program::start(scene);
        for _ in 0..if scene == "idle" { 1 } else { 2 } {
            program.says("stuck");
        }
        program.signal_below(Signal::STOP);
        program.signal(Signal::KILL);
        program.ends_within(KERNEL);
        program.gone_within(GRACE + KERNEL);
    }
}

/// One that is stopped when its root is dead already stays, until the next root of this user looks.
#[test]
fn the_next_root_ends_orphans_that_stand_still() {
    let mut program = Program::start("stubborn");
    for _ in 0..2 {
        program.says("stuck");
    }
    program.signal(Signal::KILL);
    program.ends_within(KERNEL);
    // One that leaves at once, and is stopped when it has put away its socket already, nobody finds.
    program.gone_named("teamster:idle", GRACE + KERNEL);
    program.stop_below();
    let next = Program::start_with("short", |command| {
        command.env("TEAMSTER_DIR", program.sockets());
    })
    .ends_within(Duration::from_secs(10));
    assert!(next.status.success(), "{}", next.stderr);
    program.gone_within(GRACE + KERNEL);
    program.assert_no_files();
}

// ---- SIGKILL to the middle (C13, S3.54)

#[rpc]
async fn tell(pid: u32) {
    TOLD.send_modify(|pids| pids.push(pid));
}

async fn told(count: usize) -> Vec<u32> {
    let mut pids = TOLD.subscribe();
    let pids = pids.wait_for(|pids| pids.len() == count).await.expect("the sender is a static");
    pids.clone()
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

/// Kills the middle of three levels, with a leaf that is busy like this.
async fn check_middle(scene: &str) {
    let mut killed_at = Instant::now();
    let mut heard_after = None;
    let mut leaves = Vec::new();
    TOLD.send_replace(Vec::new());
    let ended: Result<(), Error> = teamster::open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let kill = async {
            leaves = told(2).await;
            killed_at = Instant::now();
            send(mid.aid().pid(), Signal::KILL);
            pending::<()>().await
        };
        let me = Some(teamster::this_actor()?);
        // In a shield: the nursery hears of the death too, and would drop this body first.
        let heard = teamster::shield(async {
            tokio::select! {
                ended = mid.run(be_parent(scene.to_owned(), me)) => ended,
                () = kill => unreachable!("it waits for ever"),
            }
        });
        let heard = std::pin::pin!(heard).await;
        heard_after = Some(killed_at.elapsed());
        heard?;
        Ok(())
    })
    .await;
    let gone_after = killed_at.elapsed();
    let left: Vec<_> = leaves.iter().map(|leaf| state(*leaf)).collect();
    let Err(Error::ActorDied(death)) = &ended else { panic!("{scene}: {ended:?}") };
    assert_eq!((death.signal(), death.aid().name(), death.asked()), (Some(9), "mid", None), "{death}");
    assert!(death.in_service().iter().any(|path| path.ends_with("be_parent")), "{death}");
    // A shield whose task was cancelled meanwhile never says what it heard.
    if let Some(after) = heard_after {
        assert!(after < Duration::from_millis(150), "{scene}: {after:?}");
    }
    assert!(gone_after < IN_TESTS + KERNEL, "{scene}: {gone_after:?}");
    for state in left {
        // Who ends with the last one reaps it: a zombie that waits for that is gone.
        assert!(matches!(state, None | Some(teamster::testing::ProcessState::Zombie)), "{scene}: {state:?}");
    }
}

/// The grace that the harness sets.
const IN_TESTS: Duration = Duration::from_millis(200);

#[teamster::test(exclusive)]
async fn a_killed_middle_is_heard_of_and_leaves_no_leaf() {
    for scene in ["idle", "blocked", "spinning", "stubborn"] {
        check_middle(scene).await;
    }
}

// ---- the moment between a process and its record

/// Starts a process as an actor of ours is, down to its environment, and dies before any ancestor hears of it.
#[rpc]
async fn die_before_the_record(levels: usize, is_stubborn: bool, heir: Portal) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let sibling = an.start_actor("sibling").await?;
        if is_stubborn {
            sibling.run(get_stuck()).await?;
        }
        let environment = std::fs::read("/proc/self/environ")?;
        let environment = String::from_utf8_lossy(&environment);
        let own = environment.split('\0').find_map(|entry| entry.strip_prefix("TEAMSTER_LINEAGE="));
        let lineage = own.expect("its parent has set it").to_owned() + &"/below".repeat(levels);
        let mut command = std::process::Command::new("sleep");
        command.arg("60").env("TEAMSTER_LINEAGE", lineage).process_group(0);
        let process = command.spawn()?;
        heir.run(tell(process.id())).await?;
        send(std::process::id(), Signal::KILL);
        pending().await
    })
    .await
}

#[teamster::test(exclusive)]
async fn what_a_killed_actor_had_no_time_to_record_is_found() {
    // A sibling that takes all of its time leaves none for who is found behind it.
    for (levels, is_stubborn) in [(0, false), (1, false), (2, false), (1, true)] {
        TOLD.send_replace(Vec::new());
        let ended: Result<(), Error> = teamster::open_nursery(async |an| {
            let mid = an.start_actor("mid").await?;
            mid.run(die_before_the_record(levels, is_stubborn, teamster::this_actor()?)).await?;
            Ok(())
        })
        .await;
        assert!(matches!(&ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)), "{ended:?}");
        wait_gone(told(1).await[0], Duration::ZERO);
    }
}

// ---- deaths in a call (S3.56)

#[rpc]
async fn leave(status: i32) {
    std::process::exit(status)
}

#[teamster::test]
async fn an_exit_in_a_call_is_a_death_also_with_status_zero() {
    for status in [0, 3] {
        let mut pid = 0;
        let ended: Result<(), Error> = teamster::open_nursery(async |an| {
            let frank = an.start_actor("frank").await?;
            pid = frank.aid().pid();
            Ok(frank.run(leave(status)).await?)
        })
        .await;
        wait_gone(pid, Duration::ZERO);
        let Err(Error::ActorDied(death)) = &ended else { panic!("{ended:?}") };
        assert_eq!((death.status(), death.asked()), (Some(status), None));
    }
}

// ---- the moment between a process's fork and its exec

/// Stops a process of this program's spawner thread before it is another program.
fn stop_one_before_its_exec() {
    let tasks = || std::fs::read_dir("/proc/self/task").expect("there is /proc").flatten();
    let is_spawner = |task: &std::fs::DirEntry| is_named_spawner(&task.path());
    let spawner = loop {
        if let Some(task) = tasks().find(is_spawner) {
            break task.path().join("children");
        }
        std::thread::yield_now();
    };
    let mut seen = HashSet::new();
    loop {
        let children =
            std::fs::read_to_string(&spawner).expect("the thread is there, and the kernel tells its children");
        for child in children.split_whitespace().map(|child| child.parse().expect("a pid")) {
            if !seen.insert(child) {
                continue;
            }
            let pid = Pid::from_raw(child).expect("a pid");
            if kill_process(pid, Signal::STOP).is_ok()
                && stops(child.cast_unsigned())
                && is_named_spawner(Path::new(&format!("/proc/{child}")))
            {
                return;
            }
            // It may have ended.
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

/// A process has the name of the thread that forked it until its exec. The kernel keeps 15 bytes of it.
fn is_named_spawner(process: &Path) -> bool {
    std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "teamster-spawne")
}

/// Whether a process stops that got the signal: it does so on its way out of the kernel, or ends.
fn stops(pid: u32) -> bool {
    loop {
        match state(pid) {
            Some(ProcessState::Stopped) => return true,
            Some(ProcessState::Zombie) | None => return false,
            Some(_) => std::thread::yield_now(),
        }
    }
}

#[teamster::test(exclusive)]
async fn a_process_that_is_stopped_before_its_exec_holds_nothing_up() {
    let mut hunt = tokio::task::spawn_blocking(stop_one_before_its_exec);
    let began = teamster::open_nursery(async |an| {
        loop {
            tokio::select! {
                biased;
                stopped = &mut hunt => break stopped.map(|()| program::Moment::now()).map_err(Into::into),
                started = an.start_actor("one") => drop(started?.cancel_actor().await),
            }
        }
    });
    let began = began.await.expect("one was stopped");
    assert!(began.elapsed() < GRACE + KERNEL, "the nursery's end took {:?}", began.elapsed());
}
