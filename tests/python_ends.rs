//! Whatever ends a tree, does a Python program in it end too, and quietly?
use std::future::pending;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use teamster::launch::Python;
use teamster::{Error, rpc};

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program, Terminal};

// ---- the program

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    let Some(scene) = program::scene() else { return };
    let ended = main().expect_err("it is ended from outside, whatever the scene");
    eprintln!("{scene}: {ended}");
}

#[teamster::main]
async fn main() -> Result<(), Error> {
    let scene = program::scene().expect("it is set");
    teamster::open_nursery(async |an| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/callee.py");
        let frank = an.actor("frank").python(Python::script(script)).start().await?;
        match scene.as_str() {
            "idle" => {
                println!("ready");
                pending().await
            }
            "boots" => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/never_runs.py");
                let file = tempfile::tempdir()?.keep().join("boots");
                let starting = an.actor("carl").python(Python::script(script)).args([&file]).start();
                let telling = async {
                    while !file.exists() {
                        tokio::task::yield_now().await;
                    }
                    println!("ready");
                    pending::<Result<(), Error>>().await
                };
                tokio::select! {
                    started = starting => panic!("it is no actor: {started:?}"),
                    told = telling => Ok(told?),
                }
            }
            "below" => {
                let middle = an.start_actor("middle").await?;
                Ok(middle.run(keeps_one()).await?)
            }
            path => {
                let file = tempfile::tempdir()?.keep().join("runs");
                let running = frank.run_by_path::<_, ()>(path, (file.clone(),));
                let telling = async {
                    while path != "callee::hold" && !file.exists() {
                        tokio::task::yield_now().await;
                    }
                    if path == "callee::hold" {
                        while frank.run_by_path::<_, Vec<String>>("callee::events", ()).await?.is_empty() {}
                    }
                    println!("ready");
                    pending::<Result<(), Error>>().await
                };
                tokio::select! {
                    ran = running => Ok(ran?),
                    told = telling => Ok(told?),
                }
            }
        }
    })
    .await
}

#[rpc]
async fn keeps_one() -> teamster::Result<()> {
    let nursery = teamster::open_nursery(async |an| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/callee.py");
        an.actor("leaf").python(Python::script(script)).start().await?;
        println!("ready");
        pending::<()>().await;
        Ok(())
    });
    Ok(nursery.await?)
}

// ---- ends

#[test]
#[ignore = "needs Python 3.11"]
fn ctrl_c_ends_the_tree_and_python_says_nothing() {
    for scene in ["idle", "callee::hold", "below"] {
        let mut terminal = Terminal::new();
        let mut program = terminal.start(scene);
        program.says("ready");
        terminal.ctrl_c();
        program.ends_within(GRACE + KERNEL).assert_quietly_by(2);
        program.gone_within(Duration::ZERO);
        program.assert_no_files();
    }
}

#[test]
#[ignore = "needs Python 3.11"]
fn a_blocked_program_ends_with_the_grace() {
    let mut program = Program::start("callee::block");
    program.says("ready");
    program.signal(Signal::TERM);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(15);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

#[test]
#[ignore = "needs Python 3.11"]
fn sigint_to_every_process_of_the_tree_is_one_to_the_root() {
    let mut program = Program::start("callee::hold");
    program.says("ready");
    program.signal_all(Signal::INT);
    program.ends_within(GRACE + KERNEL).assert_quietly_by(2);
    program.gone_within(Duration::ZERO);
    program.assert_no_files();
}

/// Nobody is left who would end it: it ends by itself, whatever it does.
#[test]
#[ignore = "needs Python 3.11"]
fn a_killed_root_takes_python_programs_with_it() {
    for scene in ["idle", "boots", "callee::hold", "callee::block", "callee::spin", "below"] {
        let mut program = Program::start(scene);
        program.says("ready");
        program.signal(Signal::KILL);
        drop(program.ends_within(KERNEL));
        program.gone_within(GRACE + KERNEL);
    }
}

/// What is awaited comes much sooner, or never.
const SAFETY: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs Python 3.11"]
fn a_signal_to_a_blocked_one_alone_is_its_death_too() {
    let mut program = Program::start("callee::block");
    program.says("ready");
    program.signal_below(Signal::TERM);
    // By its own grace: nobody else would end it.
    let ended = program.ends_within(SAFETY);
    assert!(ended.stderr.contains("signal 9"), "{}", ended.stderr);
    program.gone_within(SAFETY);
}

/// A signal that nobody of the tree has sent is a death unasked, and has its number.
#[test]
#[ignore = "needs Python 3.11"]
fn a_signal_to_it_alone_is_its_death() {
    let mut program = Program::start("idle");
    program.says("ready");
    program.signal_below(Signal::TERM);
    let ended = program.ends_within(GRACE + KERNEL);
    assert!(ended.stderr.contains("signal 15"), "{}", ended.stderr);
    program.gone_within(Duration::ZERO);
}
