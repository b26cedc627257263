//! What does a tree do at this moment? SIGUSR1 to the root tells, whoever is stuck or stopped.
use std::future::pending;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use teamster::{Call, Endpoint, Error, Portal, Rung, rpc, tasks};
use tokio::sync::{Mutex, Notify, oneshot};

#[path = "support/program.rs"]
mod program;
use program::Program;

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
    teamster::open_nursery(async |an| {
        let names = ["idle", "stuck", "waiting"];
        let [_idle, stuck, waiting] = an.start_actors(names).await?.try_into().expect("three");
        let ready = async {
            waiting.run(yields()).await?;
            println!("stuck {}", stuck.aid().pid());
            println!("ready");
            Ok(pending::<()>().await)
        };
        let ended: Result<_, Error> =
            tokio::try_join!(stuck.run(blocks()), waiting.run(waits()), waiting.run(holds_tasks()), ready);
        ended?;
        Ok(())
    })
    .await
}

#[rpc]
async fn blocks() {
    println!("blocked");
    hang();
}

fn hang() {
    #[expect(clippy::disallowed_methods, reason = "a runtime that is stuck is what this is about")]
    std::thread::sleep(Duration::from_secs(60)); // here: hangs
}

#[rpc]
async fn waits() {
    let lock = Mutex::new(());
    let _held = lock.lock().await;
    let (_sender, never) = oneshot::channel::<()>();
    tokio::join!(sleeps(), async {
        tokio::join!(locks(&lock), async {
            never.await.expect("it is not sent") /* here: receives */
        })
    });
}

async fn sleeps() {
    tokio::time::sleep(Duration::from_secs(3600)).await; // here: sleeps
}

async fn locks(lock: &Mutex<()>) {
    let _held = lock.lock().await; // here: locks
}

#[rpc]
async fn holds_tasks() -> Result<(), Error> {
    tasks::open_nursery(async |tn| {
        for _ in 0..3 {
            tn.start_soon(async { Ok(sleeps().await) });
        }
        tn.spawn(async { Ok(pending::<()>().await) });
        #[expect(clippy::disallowed_methods, reason = "a task that the user has started past us")]
        tokio::spawn(sleeps());
        Ok(())
    })
    .await
}

/// So that whoever was started before has come to wait.
#[rpc]
async fn yields() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// `tests/dumps.rs:LINE` of the line with this mark.
fn at(mark: &str) -> String {
    let source = include_str!("dumps.rs");
    let line = source
        .lines()
        .position(|line| line.contains(&format!("/ here: {mark}")) || line.contains(&format!("* here: {mark}")));
    format!("tests/dumps.rs:{}", line.expect("it is marked") + 1)
}

// ---- its dump

fn ready() -> (Program, tempfile::TempDir, Pid) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = Program::start_with("three", |command| {
        command.env("TEAMSTER_DUMP_DIR", folder.path());
    });
    // What an actor prints comes in its own time.
    let (mut stuck, mut is_blocked, mut is_ready) = (None, false, false);
    while stuck.is_none() || !is_blocked || !is_ready {
        let line = program.says("");
        let line = line.rsplit(" ... ").next().unwrap_or_default(); // libtest says on the same line which test it runs
        is_blocked |= line == "blocked";
        is_ready |= line == "ready";
        stuck = stuck.or_else(|| line.strip_prefix("stuck ")?.parse().ok().and_then(Pid::from_raw));
    }
    let stuck = stuck.expect("it was waited for");
    // What it has printed is read before it is back from printing it.
    while !program::sleeps(stuck) {
        std::thread::yield_now();
    }
    (program, folder, stuck)
}

fn dump(program: &Program) -> String {
    program.signal(Signal::USR1);
    let stderr = program.complains("\n-- written to ");
    let (_, dump) = stderr.split_once("-- dump of ").expect("it begins");
    dump.to_owned()
}

/// The lines of one actor.
fn of<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let is_title = |line: &str| line.contains(", pid ") && line.contains('@');
    let lines = dump.lines().skip(1).skip_while(|line| !(is_title(line) && line.contains(&format!("{name}@"))));
    let mut lines = lines.peekable();
    let first: Vec<&str> = lines.next().into_iter().collect();
    first.into_iter().chain(lines.take_while(|line| !is_title(line) && !line.starts_with("--"))).collect()
}

#[track_caller]
fn assert_says(lines: &[&str], parts: &[&str]) {
    let line = lines.iter().find(|line| parts.iter().all(|part| line.contains(part)));
    assert!(line.is_some(), "no line says {parts:?}: {}", lines.join("\n"));
}

#[test]
fn a_signal_to_the_root_tells_what_its_whole_tree_does() {
    let (program, folder, _) = ready();
    let dump = dump(&program);
    // Root first, each actor once.
    for name in ["root", "idle", "stuck", "waiting"] {
        assert_eq!(of(&dump, name).len().min(1), 1, "{name}: {dump}");
        let titles = dump.lines().skip(1).filter(|line| line.contains(&format!("{name}@")) && line.contains(", pid "));
        assert_eq!(titles.count(), 1, "{name}: {dump}");
    }
    assert!(dump.lines().nth(1).is_some_and(|line| line.starts_with("root@")), "{dump}");
    assert!(!dump.contains("no answer"), "{dump}");

    let root = of(&dump, "root");
    assert_says(&root, &["a nursery"]);
    assert_says(&root, &["leaf", "dumps::play at tests/dumps.rs:", "teamster::Portal::run"]);
    assert_says(&root, &["calls dumps::blocks #", "in stuck@", "unanswered"]);
    assert_says(&root, &["calls dumps::waits #", "in waiting@", "running there"]);

    let idle = of(&dump, "idle");
    // In the order of their names, of which a thread has its own only once it has run.
    assert_says(&idle, &["idle threads: ", "teamster:idle", "teamster-contro"]);
    assert_eq!(idle.len(), 2, "{idle:?}");

    let stuck = of(&dump, "stuck");
    assert_says(&stuck, &["serves dumps::blocks #", "for root@", "in its first poll"]);
    assert_says(&stuck, &["thread program ", ", waits"]);
    let frames = ["std::thread::functions::sleep", "dumps::hang at ", "dumps::blocks at "];
    let places: Vec<_> = frames.iter().map(|frame| stuck.iter().position(|line| line.contains(frame))).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{stuck:?}");
    assert_says(&stuck, &["dumps::hang", &at("hangs")]);

    let waiting = of(&dump, "waiting");
    assert_says(&waiting, &["task ", "dumps::waits #", "for root@"]);
    assert_says(&waiting, &["dumps::waits", "> dumps::sleeps at", &at("sleeps"), "> tokio::time::sleep::Sleep::poll"]);
    assert_says(&waiting, &["dumps::waits", "> dumps::locks at", &at("locks"), "> tokio::sync::mutex::Mutex::lock > "]);
    assert_says(&waiting, &["dumps::waits", &at("receives"), "> tokio::sync::oneshot::Receiver::poll"]);
    assert_says(&waiting, &["a task", "and 2 more like it"]);
    assert_says(&waiting, &["waits for nothing that would wake it"]);
    assert_says(&waiting, &["1 tasks of tokio::spawn"]);

    // The file says the same.
    let path = dump.rsplit_once("-- written to ").expect("it ends").1.trim();
    assert!(path.starts_with(folder.path().to_str().expect("a plain path")), "{path}");
    assert!(path.ends_with(&format!("teamster-dump-{}-1.txt", program.pid())), "{path}");
    let file = std::fs::read_to_string(path).expect("it is there");
    assert!(dump.contains(&file) && file.starts_with("root@"), "{file}");
}

#[test]
fn a_second_dump_is_a_second_file() {
    let (program, folder, _) = ready();
    dump(&program);
    program.signal(Signal::USR1);
    program.complains("-2.txt");
    assert_eq!(folder.path().read_dir().expect("it is there").count(), 2);
    let dumps = program.stderr();
    let (first, second) = dumps.split_once("-- written to ").expect("there is a first");
    let leaves = |text: &str| text.matches("leaf ").count();
    assert_eq!(leaves(first), leaves(second), "{dumps}");
}

#[test]
fn stopped_actors_are_shown_as_stopped() {
    let (program, _folder, _) = ready();
    program.stop_below();
    let dump = dump(&program);
    for name in ["idle", "stuck", "waiting"] {
        assert_says(&of(&dump, name), &["no answer", ", stopped"]);
    }
    assert_says(&of(&dump, "root"), &["a nursery"]);
    // What is stopped goes on, and answers for nobody: then it does for the next.
    program.signal_below(Signal::CONT);
}

#[test]
fn a_signal_to_an_actor_is_about_that_one() {
    let (program, folder, stuck) = ready();
    kill_process(stuck, Signal::USR1).expect("it runs");
    let stderr = program.complains("idle threads: ");
    assert!(stderr.starts_with("stuck@") && stderr.contains("dumps::hang"), "{stderr}");
    assert_eq!(folder.path().read_dir().expect("it is there").count(), 0);
    dump(&program); // nobody has died
}

// ---- who did not listen

/// A quarter of it is enough to look up names, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(4);

static BEGUN: Notify = Notify::const_new();

#[rpc]
async fn has_begun() {
    BEGUN.notify_one();
}

/// In a shield, so that no cancel comes in between.
async fn then<T>(told: Portal, then: impl AsyncFnOnce() -> T) -> Result<T, Error> {
    teamster::shield(async {
        told.run(has_begun()).await?;
        Ok(then().await)
    })
    .await
}

#[rpc]
async fn blocks_then(told: Portal) -> Result<(), Error> {
    then(told, async || hang()).await
}

#[rpc]
async fn sleeps_then(told: Portal) -> Result<(), Error> {
    then(told, sleeps).await
}

#[rpc]
async fn waits_for_ever(told: Portal) -> Result<(), Error> {
    then(told, pending).await
}

/// What an actor was busy with that does this and does not listen to its cancel.
async fn stuck<E: Endpoint>(call: impl Fn(Portal) -> Call<E>) -> String {
    named(async || stuck_once(&call).await).await
}

/// Names are looked up in a bounded time, which a busy machine may not have: then once more.
async fn named(mut say: impl AsyncFnMut() -> String) -> String {
    const ROUNDS: usize = 10;
    let mut said = String::new();
    for _ in 0..ROUNDS {
        said = say().await;
        if !said.contains(" at 0x") {
            break;
        }
    }
    said
}

async fn stuck_once<E: Endpoint>(call: &impl Fn(Portal) -> Call<E>) -> String {
    let ended = teamster::root().grace(PLENTY).open(async |an| {
        let stuck = an.start_actor("stuck").await?;
        let cancel = async {
            BEGUN.notified().await;
            stuck.cancel_actor().await
        };
        let (called, receipt) = tokio::join!(stuck.run(call(teamster::this_actor()?)), cancel);
        assert!(called.is_err());
        let receipt = receipt?;
        assert_eq!(receipt.rung, Some(Rung::Sigkill));
        Ok(receipt.stuck)
    });
    ended.await.expect("nothing fails").expect("it has said so")
}

#[teamster::test]
async fn who_is_killed_after_its_grace_says_where_it_was() {
    let stuck = stuck(blocks_then).await;
    let wanted =
        format!("dumps::hang at {} (std::thread::functions::sleep), called from dumps::blocks_then at ", at("hangs"));
    assert!(stuck.contains(&wanted), "{stuck}");
}

#[teamster::test]
async fn a_task_that_does_not_let_go_is_named() {
    let stuck = stuck(sleeps_then).await;
    let wanted = ["dumps::then at tests/dumps.rs:", "dumps::sleeps at ", "tokio::time::sleep::Sleep::poll"];
    assert!(wanted.iter().all(|part| stuck.contains(part)), "{stuck}");
}

#[teamster::test]
async fn a_task_that_nothing_would_wake_is_named() {
    let stuck = stuck(waits_for_ever).await;
    assert!(stuck.contains("dumps::waits_for_ever #"), "{stuck}");
    assert!(stuck.contains("which waits for nothing that would wake it"), "{stuck}");
}

#[teamster::test]
async fn the_death_by_a_signal_from_outside_says_it_too() {
    let stuck = named(death_by_a_signal).await;
    assert!(stuck.contains("dumps::hang at "), "{stuck}");
}

async fn death_by_a_signal() -> String {
    let ended: Result<(), Error> = teamster::root()
        .grace(PLENTY)
        .open(async |an| {
            let stuck = an.start_actor("stuck").await?;
            let kill = async {
                BEGUN.notified().await;
                kill_process(Pid::from_raw(stuck.aid().pid().cast_signed()).expect("a pid"), Signal::TERM)?;
                pending::<Result<(), teamster::BoxError>>().await
            };
            let called = async { Ok(stuck.run(blocks_then(teamster::this_actor()?)).await?) };
            let ((), ()) = tokio::try_join!(called, kill)?;
            Ok(())
        })
        .await;
    let Err(Error::ActorDied(death)) = ended else { panic!("{ended:?}") };
    assert_eq!(death.signal(), Some(Signal::TERM.as_raw()));
    let stuck = death.stuck().expect("it has said so");
    assert!(death.to_string().contains(&format!("its grace was over, and it was in {stuck}")), "{death}");
    stuck.to_owned()
}

#[teamster::test]
async fn who_ends_in_time_was_not_stuck() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let idle = an.start_actor("idle").await?;
        let receipt = idle.cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.stuck), (Some(Rung::Cancel), None));
        let killed = an.start_actor("killed").await?;
        assert_eq!(killed.kill_actor().await?.stuck, None);
        Ok(())
    })
    .await
}
