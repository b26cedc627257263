//! A signal to the root cancels the tree from the top; one to a child is a death that nobody asked for.
#![allow(unsafe_code, reason = "a program that is started with a signal ignored")]
use std::future::pending;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::{KillAtRandom, rounds, seed};
use teamster::{Context, Error, Portal, context, rpc};

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program, Terminal};

// ---- the program

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    let Some(scene) = program::scene() else { return };
    play(scene).expect("the scene plays to its end");
}

/// As `main` would be: the signal that ends the tree ends this process.
fn play(scene: String) -> Result<(), Error> {
    #[teamster::main]
    async fn main() -> Result<(), Error> {
        run(&program::scene().expect("it is set")).await
    }
    if scene == "nohup" {
        // As the one who starts it does.
        // SAFETY: a plain call.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    if scene != "panics" {
        return main();
    }
    // A panic of main's goes out of it, as one of any `main`, which makes of it what a program exits with.
    let panic = std::panic::catch_unwind(|| drop(main())).expect_err("it panics");
    println!("main panicked: {}", panic.downcast_ref::<&str>().expect("it has a text"));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a pipe");
    std::panic::resume_unwind(panic)
}

async fn run(scene: &str) -> Result<(), Error> {
    match scene {
        "task" => {
            // The nursery lives in another task than main.
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(in_nursery("holding".to_owned()));
            tasks.join_next().await.expect("one").expect("no panic")
        }
        "teardowns" => loop {
            teamster::open_nursery(async |an| {
                an.start_actors(["left", "right"]).await?;
                println!("teardown");
                Ok(())
            })
            .await?;
        },
        "boots" => {
            println!("booting");
            loop {
                teamster::open_nursery(async |an| {
                    an.start_cluster(5).await?;
                    Ok(())
                })
                .await?;
            }
        }
        "roots" => {
            println!("booting");
            loop {
                teamster::open_nursery(async |_an| Ok(())).await?;
            }
        }
        "dropped" => {
            drop_nursery().await;
            Ok(()) // what it has left is waited for
        }
        "left open" => {
            let ready = std::sync::Arc::new(tokio::sync::Notify::new());
            let told = std::sync::Arc::clone(&ready);
            let task = async move {
                let nursery = teamster::open_nursery(async |an| {
                    let frank = an.start_actor("frank").await?;
                    an.start_actor("ann").await?;
                    told.notify_one();
                    Ok(frank.run(block()).await?)
                });
                nursery.await
            };
            #[expect(clippy::disallowed_methods, reason = "a task that nobody awaits is what this is about")]
            let task = tokio::spawn(task);
            ready.notified().await;
            drop(task); // it goes on
            Ok(())
        }
        "reading" => {
            // A thread that nothing ends but the end of its input.
            let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            let read = async {
                println!("ready");
                reading.await
            };
            teamster::open_nursery(async |_an| Ok(read.await.map(drop)?)).await
        }
        "fails while reading" => {
            let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            println!("ready");
            drop(reading);
            teamster::open_nursery(async |_an| Err("it has failed".into())).await
        }
        "panics while reading" => {
            let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            println!("ready");
            drop(reading);
            panic!("it has failed")
        }
        "dropped early" => {
            drop_nursery().await;
            pending().await
        }
        other => in_nursery(other.to_owned()).await,
    }
}

/// Leaves a stuck actor to its end: that takes its grace.
async fn drop_nursery() {
    let frank = tokio::sync::Notify::new();
    let nursery = teamster::open_nursery(async |an| {
        let portal = an.start_actor("frank").await?;
        frank.notify_one();
        Ok(portal.run(block()).await?)
    });
    let stuck = async {
        frank.notified().await;
        // It answers no more.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::select! {
        ended = nursery => panic!("nobody ends it: {ended:?}"),
        () = stuck => {}
    }
    println!("dropped");
}

/// Says when the body that holds it is dropped: the signal has been heard.
struct Heard;

impl Drop for Heard {
    fn drop(&mut self) {
        // Where nobody reads any more there is nobody to tell.
        let _ = writeln!(std::io::stdout(), "heard");
    }
}

async fn in_nursery(scene: String) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let _heard = Heard;
        let frank = an.start_actor("frank").await?;
        println!("pid {}", frank.aid().pid());
        match scene.as_str() {
            "idle" | "nohup" => {
                println!("ready");
                pending().await
            }
            "cluster" => {
                an.start_cluster(4).await?;
                Ok(frank.run(hold()).await?)
            }
            "holding" => Ok(frank.run(hold()).await?),
            "blocked" => Ok(frank.run(block()).await?),
            "tree" => Ok(frank.run(be_parent()).await?),
            "streaming" => {
                let block = frank.open_context(count(), async |ctx, ()| {
                    let mut stream = ctx.open_stream().await?;
                    assert_eq!(stream.recv().await?, Some(0));
                    println!("ready");
                    while stream.recv().await?.is_some() {}
                    Ok(())
                });
                Ok(block.await?)
            }
            "panics" => {
                let _held = an.actor("held").run_in_actor(be_parent());
                frank.run(pid()).await?;
                panic!("the body fails")
            }
            "stuck root" => {
                println!("ready");
                sleep_blocking();
                Ok(())
            }
            "chatty" => {
                println!("ready");
                loop {
                    frank.run(chat()).await?;
                }
            }
            other => panic!("no such scene: {other}"),
        }
    })
    .await
}

#[rpc]
async fn chat() {
    println!("line");
    tokio::task::yield_now().await;
}

/// Sends numbers without end.
#[context]
async fn count(ctx: Context<(), (), u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for number in 0.. {
        stream.send(number).await?;
    }
    Ok(())
}

#[rpc]
async fn hold() {
    println!("ready");
    pending().await
}

fn sleep_blocking() {
    #[expect(clippy::disallowed_methods, reason = "code that does not let go is what this is about")]
    std::thread::sleep(Duration::from_secs(60));
}

#[rpc]
async fn block() {
    println!("ready");
    sleep_blocking();
}

#[rpc]
async fn be_parent() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (left, right) = tokio::try_join!(an.start_actor("left"), an.start_actor("right"))?;
        let (one, other) = tokio::try_join!(left.run(pid()), right.run(pid()))?;
        println!("leaf {one} {other}");
        Ok(left.run(hold()).await?)
    })
    .await
}

#[rpc]
async fn pid() -> u32 {
    std::process::id()
}

// ---- to the root

/// Plays a scene until it is ready, sends the root a signal, and sees it end quietly by it.
#[track_caller]
fn check(scene: &str, signal: Signal, within: Duration) {
    let mut program = Program::start(scene);
    program.says("ready");
    program.signal(signal);
    let ended = program.ends_within(within);
    ended.assert_quietly_by(signal.as_raw());
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
fn sigint_ends_an_idle_tree_quietly() {
    check("idle", Signal::INT, KERNEL);
}

#[test]
fn sigint_ends_a_running_call_quietly() {
    check("holding", Signal::INT, KERNEL);
    check("tree", Signal::INT, KERNEL);
}

#[test]
fn sigint_ends_a_stream_quietly() {
    check("streaming", Signal::INT, KERNEL);
}

/// S2.39
#[test]
fn a_panic_of_mains_body_goes_on_when_everything_below_is_gone() {
    let mut program = Program::start_with("panics", |command| {
        command.stdin(std::process::Stdio::piped());
    });
    assert_eq!(program.says("main panicked: "), "the body fails");
    program.gone_but_root(Duration::ZERO); // it has not ended yet
    program.assert_no_files();
    program.close_stdin();
    let ended = program.ends_within(KERNEL);
    assert_eq!(ended.status.code(), Some(101), "{:?}", ended.status);
    program.gone_within(Duration::ZERO);
}

#[test]
fn sigint_ends_a_stuck_call_when_its_grace_is_over() {
    check("blocked", Signal::INT, GRACE + KERNEL);
}

#[test]
fn sigint_ends_a_program_whose_blocking_thread_does_not_end() {
    let mut program = Program::start_with("reading", |command| {
        command.stdin(std::process::Stdio::piped());
    });
    program.says("ready");
    program.signal(Signal::INT);
    program.ends_within(KERNEL).assert_quietly_by(2);
}

#[test]
fn a_failure_is_told_whatever_a_blocking_thread_does() {
    for scene in ["fails while reading", "panics while reading"] {
        let mut program = Program::start_with(scene, |command| {
            command.stdin(std::process::Stdio::piped());
        });
        program.says("ready");
        let ended = program.ends_within(GRACE + KERNEL);
        assert_eq!(ended.status.code(), Some(101), "the scene's panic: {:?}", ended.status);
        assert!(ended.stderr.contains("it has failed"), "{}", ended.stderr);
    }
}

/// Nobody is left who could return it: it does what it would have done without a tree.
#[test]
fn sigint_while_a_dropped_nursery_ends_still_ends_the_program() {
    for scene in ["dropped", "dropped early"] {
        // Long enough to be there still when the signal comes, on a busy machine too.
        let mut program = Program::start_with(scene, |command| {
            command.env("TEAMSTER_GRACE_MS", "1000");
        });
        program.says("dropped");
        program.signal(Signal::INT);
        program.ends_within(Duration::from_secs(1) + KERNEL).assert_quietly_by(2);
        program.gone_within(Duration::ZERO);
        program.assert_no_files();
    }
}

/// It returns well, with a nursery open in a task that nobody awaits.
#[test]
fn a_main_that_returns_ends_what_its_tasks_have_open() {
    let mut program = Program::start("left open");
    let ended = program.ends_within(GRACE + KERNEL);
    assert!(ended.status.success(), "{:?}: {}", ended.status, ended.stderr);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
fn sigint_reaches_a_nursery_in_another_task() {
    check("task", Signal::INT, KERNEL);
}

#[test]
fn sigterm_and_sighup_are_a_cancel_too() {
    check("tree", Signal::TERM, KERNEL);
    check("tree", Signal::HUP, KERNEL);
}

#[test]
fn a_signal_that_was_ignored_when_the_program_began_is_ignored() {
    let mut program = Program::start("nohup");
    program.says("ready");
    for _ in 0..10 {
        program.signal_all(Signal::HUP);
    }
    // Of two that had come, the kernel would have told the first one first.
    program.signal(Signal::TERM);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(15);
    program.gone_within(Duration::ZERO);
}

#[test]
fn sigterm_to_every_process_of_the_tree_breaks_nothing() {
    for _ in 0..5 {
        let mut program = Program::start("tree");
        program.says("ready");
        program.signal_all(Signal::TERM);
        program.ends_within(GRACE + KERNEL).assert_quietly_by(15);
        program.gone_within(Duration::ZERO);
        program.assert_no_files();
    }
}

#[test]
fn sigint_during_boot_leaves_nobody() {
    at_random("boots", "booting");
}

#[test]
fn sigint_during_teardown_leaves_nobody() {
    at_random("teardowns", "teardown");
}

#[test]
fn sigint_during_a_root_alone_leaves_no_file() {
    at_random("roots", "booting");
}

#[track_caller]
fn at_random(scene: &str, begun: &str) {
    let mut chance = KillAtRandom::new(seed());
    for round in 0..rounds(10) {
        let mut program = Program::start(scene);
        program.says(begun);
        let after = Duration::from_micros(chance.below(40_000));
        std::thread::park_timeout(after); // the moment is what is random
        program.signal(Signal::INT);
        let ended = program.ends_within(GRACE + KERNEL);
        assert_eq!(ended.status.signal(), Some(2), "round {round}, {after:?}: {:?} {}", ended.status, ended.stderr);
        assert_eq!(ended.stderr, "", "round {round}, {after:?}");
        program.gone_within(KERNEL);
        program.assert_no_files();
    }
}

#[test]
fn a_second_sigint_leaves_no_time() {
    let mut program = Program::start_with("blocked", |command| {
        command.env("TEAMSTER_GRACE_MS", "60000");
    });
    program.says("ready");
    let asked = program::Moment::now();
    program.signal(Signal::INT);
    program.says("heard"); // the kernel makes one of two that wait
    program.signal(Signal::INT);
    let ended = program.ends_within(KERNEL);
    assert!(asked.elapsed() < KERNEL);
    ended.assert_quietly_by(2);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_second_sigint_ends_a_root_that_is_stuck_itself() {
    let mut program = Program::start("stuck root");
    program.says("ready");
    program.signal(Signal::INT);
    program.gone_but_root(GRACE + KERNEL);
    program.signal(Signal::INT);
    program.ends_within(KERNEL).assert_quietly_by(2);
    program.gone_within(Duration::ZERO);
}

// ---- from a terminal

#[test]
fn ctrl_c_reaches_the_root_alone_and_ends_the_tree() {
    for scene in ["tree", "cluster"] {
        let mut terminal = Terminal::new();
        let mut program = terminal.start(scene);
        program.says("ready");
        terminal.ctrl_c();
        program.ends_within(KERNEL).assert_quietly_by(2);
        program.gone_within(Duration::ZERO);
        program.assert_no_files();
    }
}

#[test]
fn ctrl_c_twice_leaves_no_time() {
    let mut terminal = Terminal::new();
    let mut program = terminal.start_with("blocked", |command| {
        command.env("TEAMSTER_GRACE_MS", "60000");
    });
    program.says("ready");
    terminal.ctrl_c();
    program.says("heard");
    terminal.ctrl_c();
    program.ends_within(KERNEL).assert_quietly_by(2);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_terminal_that_goes_away_ends_the_tree() {
    let terminal = Terminal::new();
    let mut program = terminal.start("tree");
    program.says("ready");
    terminal.hang_up();
    program.ends_within(KERNEL).assert_quietly_by(1);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_closed_stdout_ends_the_tree_quietly() {
    let mut program = Program::start("chatty");
    program.says("line");
    program.close_stdout();
    let ended = program.ends_within(GRACE + KERNEL);
    assert_eq!(ended.stderr, "", "no noise");
    assert!(!ended.status.success(), "{:?}", ended.status);
    program.gone_within(Duration::ZERO);
}

// ---- to a child

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

/// A child gets a signal from outside: the nursery hears of a death by it, and who told.
async fn check_child(signal: Signal, occupy: impl AsyncFnOnce(&Portal) -> Result<(), Error>) {
    let number = signal.as_raw();
    let ended: Result<(), Error> = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let pid = frank.aid().pid();
        let (_ended, ()) = tokio::join!(occupy(&frank), async {
            tokio::task::yield_now().await;
            send(pid, signal);
        });
        pending().await
    })
    .await;
    let Err(Error::ActorDied(death)) = &ended else { panic!("{ended:?}") };
    assert_eq!((death.signal(), death.asked()), (Some(number), None), "{death}");
    let said = death.said().expect("it told what it got");
    assert!(said.contains(&format!("signal {number}")), "{said}");
}

#[teamster::test]
async fn sigterm_to_a_child_is_a_death_that_nobody_asked_for() {
    check_child(Signal::TERM, async |_| Ok(())).await;
    check_child(Signal::INT, async |_| Ok(())).await;
    check_child(Signal::TERM, async |frank| frank.run(hold()).await).await;
}

#[teamster::test]
async fn sigterm_to_a_stuck_child_ends_it_when_its_grace_is_over() {
    check_child(Signal::TERM, async |frank| frank.run(block()).await).await;
}
