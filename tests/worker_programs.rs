//! Programs with workers: what a signal does to them, and that nothing is left when they end.
#![allow(unsafe_code, reason = "the helper opens a terminal")]
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use rustix::process::Signal;
use teamster::{Error, WorkerConfig, open_worker_context, run_sync, work};

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program, Terminal};

#[path = "support/gate.rs"]
mod gate;
use gate::{Gate, stand_before};

// ---- the program

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    let Some(scene) = program::scene() else { return };
    match scene.as_str() {
        "blocking" => blocking().expect("it plays to its end"),
        "blocked" => blocked(),
        "between two results" => between_two_results(),
        _ => play().expect("the scene plays to its end"),
    }
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    match program::scene().expect("it is set").as_str() {
        "map" => {
            open_worker_context(WorkerConfig::new().limit(2), async |pool| {
                pool.map((0..).map(busy_for_ever)).try_for_each(async |_never| Ok(())).await?;
                Ok(())
            })
            .await
        }
        "idle and busy" => {
            open_worker_context(WorkerConfig::new().limit(2), async |pool| {
                let first = pool.run(say("idle".into()));
                let second = pool.run(busy_for_ever(0));
                tokio::try_join!(first, second)?;
                Ok(())
            })
            .await
        }
        "saves" => {
            open_worker_context(WorkerConfig::new().limit(1), async |pool| Ok(pool.run(save(sockets(), 100)).await?))
                .await
        }
        "saves for ever" => {
            open_worker_context(WorkerConfig::new().limit(1), async |pool| {
                Ok(pool.run(save(sockets(), 60_000)).await?)
            })
            .await
        }
        "leaves them" => {
            run_sync(say("done".into())).await // they are there until the end of main
        }
        "idle without a tree" => {
            run_sync(say("ready".into())).await?;
            std::future::pending().await
        }
        "busy without a tree" => match run_sync(busy_for_ever(0)).await {
            Err(Error::Interrupted { signal }) => {
                println!("interrupted by {signal}");
                Ok(())
            }
            other => panic!("{other:?}"),
        },
        "a host that is ending" => a_host_that_is_ending().await,
        other => panic!("there is no scene {other}"),
    }
}

/// Wants a job done when a signal has ended what runs its jobs, and one of them is still left its grace.
async fn a_host_that_is_ending() -> Result<(), Error> {
    let gate = Gate::new();
    let mut held = Box::pin(run_sync(hold(gate.path())).cancellable(false));
    let line = tokio::select! {
        ended = &mut held => panic!("{ended:?}"),
        line = gate.next() => line,
    };
    drop(held); // nobody waits for it, and its worker does not let go
    let idle = run_sync(pid()).await?;
    println!("ready");
    let gone = move || teamster::testing::wait_gone(idle, Duration::from_secs(20));
    tokio::task::spawn_blocking(gone).await.expect("it ends");
    match run_sync(square(7)).await {
        Err(Error::Interrupted { signal }) => println!("interrupted by {signal}"),
        other => panic!("{other:?}"),
    }
    drop(line);
    Ok(())
}

/// A program that knows no runtime.
fn blocking() -> Result<(), Error> {
    let _guard = teamster::init();
    let pool = teamster::blocking::pool();
    println!("sum {}", pool.map((1..=10).map(square)).sum::<Result<u64, _>>()?);
    println!("sum {}", pool.map_unordered((1..=10).map(square)).sum::<Result<u64, _>>()?);
    let mut seen = 0;
    let progress = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let told = std::sync::Arc::clone(&progress);
    for square in
        pool.map((0..).map(square)).with_progress(move |done| told.store(done, std::sync::atomic::Ordering::Relaxed))
    {
        assert_eq!(square?, seen * seen);
        seen += 1;
        if seen == 10 {
            break;
        }
    }
    assert!(progress.load(std::sync::atomic::Ordering::Relaxed) >= 10);
    println!("idle {}", pool.statistics()?.idle);
    Ok(())
}

/// The same, in the middle of a job.
fn blocked() {
    let _guard = teamster::init();
    match teamster::blocking::pool().run(busy_for_ever(0)) {
        Err(Error::Interrupted { signal }) => println!("interrupted by {signal}"),
        other => panic!("{other:?}"),
    }
}

/// Has an iterator of results, and is busy with something else.
fn between_two_results() {
    let _guard = teamster::init();
    let mut squares = teamster::blocking::pool().map((0..).map(square));
    assert_eq!(squares.next().transpose().expect("it works"), Some(0));
    println!("ready");
    loop {
        std::thread::park();
    }
}

#[work]
fn hold(gate: PathBuf) -> u32 {
    stand_before(&gate)
}

#[work]
fn pid() -> u32 {
    std::process::id()
}

#[work]
fn square(n: u64) -> u64 {
    n * n
}

#[work]
fn say(text: String) {
    println!("{text}");
}

#[work]
fn busy_for_ever(n: u64) -> u64 {
    println!("busy");
    loop {
        std::hint::black_box(n);
    }
}

/// Takes so long, whatever is asked of it meanwhile, and leaves a file.
#[work]
#[expect(clippy::disallowed_methods, reason = "a job that takes its time")]
fn save(folder: PathBuf, millis: u64) {
    println!("saving");
    std::thread::sleep(Duration::from_millis(millis));
    std::fs::write(folder.join("saved"), "all of it").expect("a file");
}

/// Where this program's sockets are.
fn sockets() -> PathBuf {
    std::env::var_os("TEAMSTER_DIR").expect("it is set").into()
}

fn is_saved(folder: &Path) -> bool {
    folder.join("saved").exists()
}

// ---- signals (W6, S10.197, 198)

#[test]
fn ctrl_c_while_workers_work_is_quiet_and_leaves_nothing() {
    let mut terminal = Terminal::new();
    let mut program = terminal.start("map");
    program.says("busy");
    program.says("busy");
    terminal.ctrl_c();
    program.ends_within(GRACE + KERNEL).assert_quietly_by(libc::SIGINT);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
fn workers_do_not_hear_of_ctrl_c_themselves() {
    let mut program = Program::start("map");
    program.says("busy");
    program.says("busy");
    program.signal_below(Signal::INT);
    program.lives_for(Duration::from_millis(500)); // longer than a verdict takes
    assert_eq!(program.stderr(), "");
    program.signal_all(Signal::INT);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(libc::SIGINT);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_service_managers_sigterm_lets_jobs_end_within_the_grace() {
    // Enough for the job, however busy the machine is.
    let grace = Duration::from_secs(5);
    let mut program = Program::start_with("saves", |command| {
        command.env("TEAMSTER_GRACE_MS", grace.as_millis().to_string());
    });
    program.says("saving");
    program.signal_all(Signal::TERM);
    program.ends_within(grace).assert_quietly_by(libc::SIGTERM);
    assert!(is_saved(&program.sockets()), "it was whole");
    program.gone_within(Duration::ZERO);
}

#[test]
fn and_not_beyond_it() {
    let mut program = Program::start("saves for ever");
    program.says("saving");
    program.signal_all(Signal::TERM);
    let ended = program.ends_within(GRACE + KERNEL);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(libc::SIGTERM), "{}", ended.stderr);
    assert!(!ended.stderr.contains("broke"), "{}", ended.stderr);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_program_that_is_killed_leaves_no_worker() {
    let mut program = Program::start("idle and busy");
    let mut unsaid = vec!["idle", "busy"]; // by two processes: in any order
    while !unsaid.is_empty() {
        let line = program.says("");
        unsaid.retain(|word| !line.contains(word));
    }
    program.signal(Signal::KILL);
    program.ends_within(KERNEL);
    program.gone_within(GRACE + KERNEL);
}

// ---- the end of a program (S10.201)

#[test]
fn the_end_of_main_is_the_end_of_its_workers() {
    let mut program = Program::start("leaves them");
    program.says("done");
    let ended = program.ends_within(KERNEL);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{:?}: {}", ended.status, ended.stderr);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
fn a_signal_that_no_job_hears_of_ends_the_program_as_any_other() {
    let mut program = Program::start("idle without a tree");
    program.says("ready");
    program.signal(Signal::INT);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(libc::SIGINT);
    program.gone_within(GRACE);
}

#[test]
fn a_job_without_a_tree_hears_of_a_signal() {
    for scene in ["busy without a tree", "blocked"] {
        let mut program = Program::start(scene);
        program.says("busy");
        program.signal(Signal::INT);
        assert_eq!(program.says("interrupted by "), "2");
        let ended = program.ends_within(GRACE + KERNEL);
        assert!(ended.status.success() && ended.stderr.is_empty(), "{scene}, {:?}: {}", ended.status, ended.stderr);
        program.gone_within(Duration::ZERO);
    }
}

#[test]
fn a_signal_between_two_results_ends_the_program_as_any_other() {
    let mut program = Program::start("between two results");
    program.says("ready");
    program.signal(Signal::INT);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(libc::SIGINT);
    program.gone_within(GRACE);
}

#[test]
fn a_job_that_comes_after_a_signal_hears_of_it() {
    let mut program = Program::start_with("a host that is ending", |command| {
        command.env("TEAMSTER_WORKERS", "2");
    });
    program.says("ready");
    program.signal(Signal::INT);
    assert_eq!(program.says("interrupted by "), "2");
    let ended = program.ends_within(GRACE + KERNEL);
    assert!(ended.status.success(), "{:?}: {}", ended.status, ended.stderr);
    program.gone_within(Duration::ZERO);
}

#[test]
fn a_program_without_a_runtime_has_workers_too() {
    let mut program = Program::start("blocking");
    assert_eq!(program.says("sum "), "385");
    assert_eq!(program.says("sum "), "385");
    program.says("idle ");
    let ended = program.ends_within(KERNEL);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{:?}: {}", ended.status, ended.stderr);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
fn a_setting_that_is_no_number_is_refused() {
    for (text, wanted) in [("-1", "has to be a number of workers"), ("many", "has to be"), ("0", "1 to 4096 workers")] {
        let mut program = Program::start_with("leaves them", |command| {
            command.env("TEAMSTER_WORKERS", text);
        });
        let ended = program.ends_within(KERNEL);
        assert!(!ended.status.success() && ended.stderr.contains(wanted), "{text}: {}", ended.stderr);
        program.gone_within(Duration::ZERO);
    }
}
