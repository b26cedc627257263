//! ctrl-z stops the whole tree, `fg` and `bg` have it go on, and the time in between counts for nothing.
#![allow(unsafe_code, reason = "a program that is started with a signal ignored")]
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::{KillAtRandom, ProcessState, rounds, seed, state};
use teamster::{Context, Error, context, deadline, rpc};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program, Terminal};

/// A deadline, and an actor's grace.
const TIME: Duration = Duration::from_secs(1);

/// Longer than that.
const LONG: Duration = Duration::from_millis(1300);

/// What a busy machine may need for what takes no time.
const IN_TIME: Duration = Duration::from_secs(20);

/// Where the actors wait for the test.
const WAIT_AT: &str = "TEAMSTER_TEST_WAIT_AT";

// ---- the program

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    let Some(scene) = program::scene() else { return };
    match scene.strip_prefix("job ") {
        // As a shell does it: a process group of its own, and somebody who could have it go on.
        Some(job) => {
            let mut command = Command::new(std::env::current_exe().expect("we run"));
            command.args(std::env::args().skip(1)).env(program::SCENE, job).process_group(0);
            let ended = command.status().expect("it runs");
            println!("ended {ended}");
            std::process::exit(ended.signal().unwrap_or_default());
        }
        None => {
            if scene == "ignores" {
                // As the one who starts it does.
                // SAFETY: a plain call.
                unsafe { libc::signal(libc::SIGTSTP, libc::SIG_IGN) };
            }
            play().expect("the scene plays to its end");
        }
    }
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    println!("root {}", std::process::id());
    let scene = program::scene().expect("it is set");
    if scene == "boots" {
        for round in 0.. {
            teamster::open_nursery(async |an| {
                let cluster = an.start_cluster(3).await?;
                println!("round {round}");
                drop(cluster);
                Ok(())
            })
            .await?;
        }
    }
    teamster::open_nursery(async |an| {
        let mid = an.actor("mid").grace(TIME).start().await?;
        let below = mid.context(be_parent(scene.clone())).await?;
        let (leaf, helper) = below.first()?;
        println!("below {} {leaf} {helper}", mid.aid().pid());
        if scene == "graces" {
            wait().await;
            let receipt = mid.cancel_actor().await?;
            println!("mid {:?}", receipt.rung);
            return Ok(());
        }
        println!("here {:?}", deadline(TIME, wait()).await.is_ok());
        Ok(below.result().await?)
    })
    .await
}

#[context]
async fn be_parent(ctx: Context<(u32, u32)>, scene: String) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let leaf = an.actor("leaf").grace(TIME).start().await?;
        let helper = leaf.run(start_helper()).await?;
        ctx.started((leaf.aid().pid(), helper)).await?;
        if scene == "graces" {
            return Ok(leaf.run(clean_up()).await?);
        }
        let late = leaf.run(wait_below());
        let here = async {
            println!("mid {:?}", deadline(TIME, wait()).await.is_ok());
            Ok(())
        };
        tokio::try_join!(late, here)?;
        Ok(())
    })
    .await
}

/// In the actor's process group, as what it starts is.
#[rpc]
async fn start_helper() -> u32 {
    Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("it starts").id()
}

#[rpc]
async fn wait_below() {
    println!("leaf {:?}", deadline(TIME, wait()).await.is_ok());
}

#[rpc]
async fn clean_up() {
    teamster::shield(async {
        wait().await;
        teamster::cancelled().await;
        wait().await;
    })
    .await;
}

/// Until the test says so.
async fn wait() {
    let at = PathBuf::from(std::env::var_os(WAIT_AT).expect("it is set"));
    let mut line = tokio::net::UnixStream::connect(at).await.expect("the test listens");
    // An error: it has let go as well.
    let _ = line.read(&mut [0]).await;
}

// ---- the tests' side

struct Job {
    program: Program,
    root: u32,
    below: Vec<u32>,
    listener: UnixListener,
    _folder: TempDir,
}

impl Job {
    fn start(scene: &str) -> Job {
        Job::start_by(|change| Program::start_with(&format!("job {scene}"), change))
    }

    fn start_by(start: impl FnOnce(&mut dyn FnMut(&mut Command)) -> Program) -> Job {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("w");
        let listener = UnixListener::bind(&at).expect("it is bound");
        let mut program = start(&mut |command| {
            command.env(WAIT_AT, &at);
        });
        let root = program.says("root ").parse().expect("a pid");
        Job { program, root, below: Vec::new(), listener, _folder: folder }
    }

    /// Its children's pids, and those of theirs.
    fn grown(mut self) -> Job {
        let below = self.program.says("below ");
        self.below = below.split(' ').map(|pid| pid.parse().expect("a pid")).collect();
        self
    }

    /// So many tasks wait.
    fn waiting(&self, tasks: usize) -> Vec<UnixStream> {
        (0..tasks).map(|_| self.listener.accept().expect("it waits").0).collect()
    }

    fn signal(&self, signal: Signal) {
        let root = Pid::from_raw(self.root.cast_signed()).expect("a pid");
        kill_process(root, signal).expect("it lives");
    }

    /// What the terminal sends when ctrl-z is typed; all stand still when this returns.
    fn suspend(&self) {
        self.signal(Signal::TSTP);
        self.until("stopped", |state| state == Some(ProcessState::Stopped));
    }

    /// What the shell does.
    fn resume(&self) {
        self.signal(Signal::CONT);
        self.until("continued", |state| state != Some(ProcessState::Stopped));
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(Option<ProcessState>) -> bool) {
        let began = Instant::now();
        for pid in self.below.iter().chain([&self.root]) {
            while !is_so(state(*pid)) {
                assert!(began.elapsed() < IN_TIME, "{pid} is not {what}: {:?}, {:?}", state(*pid), self.below);
                std::thread::yield_now();
            }
        }
    }

    #[track_caller]
    fn ends(mut self) {
        self.program.ends_within(IN_TIME);
        self.program.gone_within(KERNEL);
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is to happen meanwhile")]
fn stand_for(time: Duration) {
    std::thread::sleep(time);
}

// ---- all of it stops, and goes on

#[test]
fn all_stop_with_the_root_and_go_on_with_it() {
    let job = Job::start("deadlines").grown();
    let waiting = job.waiting(3);
    for _ in 0..10 {
        job.suspend();
        job.resume();
    }
    drop(waiting);
    job.ends();
}

#[test]
fn a_signal_ends_a_tree_that_was_stopped() {
    let job = Job::start("deadlines").grown();
    let _waiting = job.waiting(3);
    job.suspend();
    job.signal(Signal::TERM);
    job.signal(Signal::CONT);
    job.ends();
}

#[test]
fn nobody_is_left_of_a_tree_whose_root_is_killed_while_it_is_stopped() {
    let job = Job::start("deadlines").grown();
    let _waiting = job.waiting(3);
    job.suspend();
    job.signal(Signal::KILL);
    job.program.gone_within(TIME + GRACE + KERNEL);
}

#[test]
fn it_is_stopped_at_any_moment_of_a_start_and_of_an_end() {
    let mut chance = KillAtRandom::new(seed());
    let mut job = Job::start("boots");
    for _ in 0..rounds(20) {
        job.program.says("round");
        stand_for(Duration::from_micros(chance.below(20_000)));
        job.suspend();
        job.resume();
        // What was said before is read, and then what can only be said after.
        let mut line = job.program.says("round").parse::<u64>().expect("a number");
        let after = line + 3;
        while line < after {
            line = job.program.says("round").parse().expect("a number");
        }
    }
    job.signal(Signal::TERM);
    job.ends();
}

#[test]
fn where_nobody_could_have_it_go_on_it_does_not_stop() {
    let terminal = Terminal::new();
    // The leader of a session: its parent knows nothing of its terminal.
    let job = Job::start_by(|change| terminal.start_with("deadlines", change)).grown();
    let waiting = job.waiting(3);
    job.signal(Signal::TSTP);
    check_goes_on(job, waiting);
}

#[test]
fn a_program_that_ignores_it_goes_on() {
    let job = Job::start("ignores").grown();
    let waiting = job.waiting(3);
    job.signal(Signal::TSTP);
    check_goes_on(job, waiting);
}

#[track_caller]
fn check_goes_on(mut job: Job, waiting: Vec<UnixStream>) {
    drop(waiting);
    let mut said = ["here ", "mid ", "leaf "].map(|who| (who, false));
    while let Some(who) = said.iter().position(|(_, is_said)| !is_said) {
        // In whatever order.
        let line = job.program.says("");
        if let Some((_, is_said)) = said.iter_mut().find(|(who, _)| line.starts_with(who)) {
            *is_said = true;
            assert!(line.ends_with("true"), "{line}");
        }
        let _ = who;
    }
    job.ends();
}

// ---- the time

#[test]
fn no_deadline_passes_while_all_stand_still() {
    let job = Job::start("deadlines").grown();
    let waiting = job.waiting(3);
    job.suspend();
    stand_for(LONG);
    job.resume();
    check_goes_on(job, waiting);
}

#[test]
fn what_is_left_of_a_deadline_counts_on() {
    let began = Instant::now();
    let mut job = Job::start("deadlines").grown();
    let _waiting = job.waiting(3);
    job.suspend();
    let stopped_at = Instant::now();
    stand_for(LONG);
    let stood = stopped_at.elapsed();
    job.resume();
    assert_eq!(job.program.says("here "), "false");
    let took = began.elapsed();
    assert!(took >= stood + TIME, "{took:?}");
    job.ends();
}

#[test]
fn no_grace_is_over_while_all_stand_still() {
    let mut job = Job::start("graces").grown();
    drop(job.waiting(2)); // the root asks for the end of its child, whose leaf waits for that
    let last = job.waiting(1);
    job.suspend();
    stand_for(LONG);
    job.resume();
    drop(last);
    assert_eq!(job.program.says("mid "), "Some(Cancel)");
    job.ends();
}
