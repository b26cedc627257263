//! Plain programs in a nursery: they are run, logged, cancelled and gone, whoever ends.
use std::fmt::Debug;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::{ProcessState, state, wait_gone};
use teamster::{Error, ExitKind, SpawnReason, rpc};
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

#[path = "support/callee.rs"]
mod callee;
#[path = "support/one.rs"]
mod one;
#[path = "support/program.rs"]
mod program;
use one::{IN_TIME, PLENTY, until};
use program::{GRACE, KERNEL, Program};

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A folder whose files tell what programs have done.
struct Notes(tempfile::TempDir);

impl Notes {
    fn new() -> Notes {
        Notes(tempfile::tempdir().expect("a folder can be made"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Waits until a program has written a whole line, or several, and gives them.
    async fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        until(&format!("{name} is not written"), async || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        std::fs::read_to_string(&path).expect("it was read before")
    }

    async fn pids(&self, name: &str) -> Vec<u32> {
        self.read(name).await.split_whitespace().map(|pid| pid.parse().expect("it is a pid")).collect()
    }
}

/// The notes' folder is where it runs.
fn sh_in(notes: &Notes, script: &str) -> Command {
    let mut command = sh(script);
    command.current_dir(notes.path());
    command
}

fn are_gone(pids: &[u32]) {
    for pid in pids {
        wait_gone(*pid, IN_TIME);
    }
}

// ---- its outcome

#[teamster::test]
async fn a_program_that_succeeds_gives_the_same_outcome_as_often_as_it_is_awaited() {
    let handle = teamster::open_nursery(async |an| {
        let handle = an.run_process(sh("echo done >&2"));
        let again = handle.clone();
        assert_eq!(handle.clone().await?, again.await?);
        Ok(handle)
    });
    let exit = handle.await.expect("nothing fails").await.expect("it is known after the nursery's end too");
    assert_eq!(exit.stderr_tail(), "done\n");
    are_gone(&[exit.pid()]);
}

#[teamster::test]
async fn another_status_is_the_nurserys_failure_with_the_end_of_stderr_awaited_or_not() {
    let ended = teamster::open_nursery(async |an| -> Result<(), teamster::BoxError> {
        drop(an.run_process(sh("echo first >&2; echo no such row >&2; exit 3")));
        pending().await
    });
    let Err(Error::Program(failure)) = ended.await else { panic!("it fails") };
    assert_eq!((failure.name(), failure.status(), failure.signal()), ("sh", Some(3), None));
    assert_eq!(failure.stderr_tail(), "first\nno such row\n");
    let text = Error::Program(failure).to_string();
    assert!(
        text.starts_with("program sh (pid ")
            && text.ends_with("exit status 3; the end of its stderr:\n    first\n    no such row"),
        "{text}"
    );
}

#[teamster::test]
async fn of_much_on_stderr_the_last_16_kib_are_kept() {
    let ended = teamster::open_nursery(async |an| {
        Ok(an
            .process(sh("i=0; while [ $i -lt 4000 ]; do echo line number $i >&2; i=$((i+1)); done; exit 1"))
            .call()
            .await)
    });
    let Ok(Err(Error::Program(failure))) = ended.await else { panic!("it fails for its caller") };
    let tail = failure.stderr_tail();
    assert!(tail.len() <= 16 * 1024 && tail.len() > 15 * 1024, "{}", tail.len());
    assert!(tail.starts_with("line number ") && tail.ends_with("line number 3999\n"));
}

#[teamster::test]
async fn a_failure_may_be_the_callers_alone() {
    teamster::open_nursery(async |an| {
        let killed = an.process(sh("kill -USR1 $$")).name("suicide").call().await;
        let Err(Error::Program(failure)) = killed else { panic!("{killed:?}") };
        assert_eq!((failure.name(), failure.exit()), ("suicide", Some(ExitKind::Signal(10))));
        assert_eq!(an.process(sh("exit 0")).call().await?.stdout(), "");
        Ok(())
    })
    .await
    .expect("the nursery goes on");
}

#[teamster::test]
async fn what_can_not_be_started_says_what_to_do() {
    let notes = Notes::new();
    std::fs::write(notes.path().join("script"), "echo hay").expect("it is written");
    let ended = teamster::open_nursery(async |an| {
        for (program, wanted) in [
            (PathBuf::from("no-such-program"), "it is in no folder of PATH"),
            (notes.path().join("missing"), "No such file"),
            (notes.path().join("script"), "chmod +x"),
        ] {
            let Err(Error::Program(failure)) = an.process(Command::new(&program)).call().await else {
                panic!("{program:?}")
            };
            assert!(matches!(failure.reason(), Some(SpawnReason::Exec { .. })) && failure.pid().is_none());
            assert!(failure.to_string().contains(wanted), "{failure}");
        }
        drop(an.run_process(Command::new("no-such-program")));
        pending::<Result<(), _>>().await
    });
    assert!(matches!(ended.await, Err(Error::Program(failure)) if failure.exit().is_none()));
}

#[teamster::test]
async fn stdout_is_a_result_where_that_is_asked_for() {
    teamster::open_nursery(async |an| {
        // More than a pipe holds, and no line's end at its end.
        let exit = an.process(sh("head -c 300000 /dev/zero")).capture(1 << 20).call().await?;
        assert_eq!((exit.stdout().len(), exit.is_cut()), (300_000, false));
        let cut = an.process(sh("head -c 300000 /dev/zero")).capture(1000).call().await?;
        assert_eq!((cut.stdout().len(), cut.is_cut()), (1000, true));
        let given = vec![b'x'; 300_000];
        let exit = an.process(Command::new("cat")).stdin(given.clone()).capture(1 << 20).run().await?;
        assert!(exit.stdout() == &given);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[rpc]
async fn cat(given: Vec<u8>) -> Result<usize, String> {
    let ran = teamster::open_nursery(async |an| {
        let exit = an.process(Command::new("cat")).stdin(given).capture(1 << 20).run().await?;
        Ok(exit.stdout().len())
    });
    ran.await.map_err(|error| error.report().to_string())
}

#[teamster::test]
async fn a_stdin_over_the_limit_of_a_files_size_is_an_error_and_no_signal() {
    teamster::open_nursery(async |an| {
        let small = an.actor("small").rlimit(teamster::Resource::FileSize, 4096, 4096).start().await?;
        let refused = small.run(cat(vec![b'x'; 4097])).await.expect_err("it is too long");
        assert!(refused.report().to_string().contains("ulimit -f"), "{refused:?}");
        assert_eq!(small.run(cat(vec![b'x'; 4096])).await?, 4096);
        Ok(())
    })
    .await
    .expect("the actor lives");
}

#[teamster::test]
async fn it_reads_an_end_on_stdin_and_leads_a_group_of_its_own() {
    teamster::open_nursery(async |an| {
        assert_eq!(an.process(Command::new("cat")).capture(100).call().await?.stdout(), "");
        let exit = an.process(sh("cut -d' ' -f5 /proc/$$/stat")).capture(100).call().await?;
        assert_eq!(*exit.stdout(), format!("{}\n", exit.pid()));
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[rpc]
async fn fail_with_a_program() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        an.run_process(sh("echo gone wrong >&2; exit 7")).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn its_failure_crosses_actors_as_itself() {
    let error = teamster::open_nursery(async |an| Ok(an.actor("frank").call(fail_with_a_program()).await));
    let error = error.await.expect("the nursery goes on").expect_err("the call fails");
    let there = error.downcast_ref::<Error>();
    let Some(Error::Program(failure)) = there else { panic!("{error:?}") };
    assert_eq!((failure.status(), failure.stderr_tail()), (Some(7), "gone wrong\n"));
}

// ---- its end

#[teamster::test]
async fn a_cancel_is_sigterm_and_whatever_it_does_then_is_no_failure() {
    let notes = Notes::new();
    let ended = teamster::root().grace(PLENTY).open(async |an| -> Result<(), teamster::BoxError> {
        let script = "trap 'echo asked > asked; exit 5' TERM; echo $$ > pid; while :; do sleep 0.01; done";
        let handle = an.run_process(sh_in(&notes, script));
        let pids = notes.pids("pid").await;
        an.cancel().await;
        are_gone(&pids);
        assert!(matches!(handle.await, Err(Error::Cancelled { .. })));
        assert_eq!(notes.read("asked").await, "asked\n");
        Err("that is all".into())
    });
    assert!(matches!(ended.await, Err(Error::Body(_))));
}

#[teamster::test]
async fn one_that_takes_no_notice_is_killed_when_its_grace_is_over_with_all_its_group() {
    let notes = Notes::new();
    let script = "trap '' TERM; sleep 600 & echo $$ $! > pids; while :; do sleep 600; done";
    let began = Instant::now();
    let ended = teamster::root().grace(PLENTY).open(async |an| -> Result<(), teamster::BoxError> {
        drop(an.process(sh_in(&notes, script)).grace(Duration::from_millis(300)).run());
        notes.pids("pids").await;
        Err("over".into())
    });
    assert!(matches!(ended.await, Err(Error::Body(_))));
    assert!(began.elapsed() > Duration::from_millis(300) && began.elapsed() < PLENTY);
    are_gone(&notes.pids("pids").await);
}

#[teamster::test]
async fn one_that_was_stopped_hears_its_cancel() {
    let notes = Notes::new();
    let ended = teamster::root().grace(PLENTY).open(async |an| -> Result<(), teamster::BoxError> {
        drop(an.run_process(sh_in(&notes, "trap 'echo asked > asked; exit' TERM; echo $$ > pid; kill -STOP $$")));
        notes.pids("pid").await;
        Err("over".into())
    });
    assert!(matches!(ended.await, Err(Error::Body(_))));
    assert_eq!(notes.read("asked").await, "asked\n");
}

#[teamster::test]
async fn what_it_leaves_in_its_group_goes_with_it() {
    let notes = Notes::new();
    teamster::open_nursery(async |an| {
        an.run_process(sh_in(&notes, "sleep 600 & echo $! > pid")).await?;
        are_gone(&notes.pids("pid").await);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

/// Runs a program that leaves some behind: those that are left of them when it is gone, living or not.
#[rpc]
async fn leave_some(folder: PathBuf) -> Result<Vec<String>, Error> {
    teamster::open_nursery(async |an| {
        let mut command = sh("sleep 600 & sleep 600 & echo $! > pid");
        command.current_dir(folder);
        an.run_process(command).await?;
        let children = format!("/proc/self/task/{}/children", std::process::id());
        let left = std::fs::read_to_string(children)?;
        let names = left.split_whitespace().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")));
        Ok(names.filter_map(Result::ok).filter(|name| name.contains("sleep")).collect())
    })
    .await
}

#[teamster::test]
async fn what_it_leaves_in_an_actor_is_reaped_there() {
    let notes = Notes::new();
    teamster::open_nursery(async |an| {
        assert_eq!(an.actor("frank").call(leave_some(notes.path().into())).await?, Vec::<String>::new());
        are_gone(&notes.pids("pid").await);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[teamster::test]
async fn a_daemon_that_keeps_its_pipes_holds_up_nobody() {
    let notes = Notes::new();
    let pid = teamster::open_nursery(async |an| {
        let exit = an.process(sh_in(
            &notes,
            "setsid sh -c 'echo $$ > pid; exec sleep 600' & echo out; while [ ! -s pid ]; do sleep 0.01; done",
        ));
        assert_eq!(exit.capture(100).call().await?.stdout(), "out\n");
        Ok(notes.pids("pid").await[0])
    });
    let began = Instant::now();
    let pid = pid.await.expect("nothing fails");
    assert!(began.elapsed() < IN_TIME);
    let pid = Pid::from_raw(pid.cast_signed()).expect("it is one");
    kill_process(pid, Signal::KILL).expect("it has left the nursery, and lives");
}

#[teamster::test]
async fn a_dropped_call_ends_its_program() {
    let notes = Notes::new();
    teamster::open_nursery(async |an| {
        let call = an.process(sh_in(&notes, "echo $$ > pid; exec sleep 600")).call();
        let pids = tokio::select! {
            ended = call => panic!("{ended:?}"),
            pids = notes.pids("pid") => pids,
        };
        an.wait().await;
        are_gone(&pids);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[teamster::test]
async fn a_call_dropped_at_whatever_point_of_its_start_leaves_no_program() {
    teamster::open_nursery(async |an| {
        for polls in 0..4 {
            let mut call = Box::pin(an.process(sh("exec sleep 600")).call());
            for _ in 0..polls {
                let _pending = futures::poll!(&mut call);
            }
            drop(call);
        }
        an.wait().await;
        Ok(())
    })
    .await
    .expect("nothing fails");
}

// ---- what it prints

/// A line of a program, as the root's subscriber gets it.
#[derive(Debug, Default)]
struct Line {
    program: String,
    pid: u64,
    stream: String,
    message: String,
    left_out: u64,
    is_info: bool,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "program" => value.clone_into(&mut self.program),
            "stream" => value.clone_into(&mut self.stream),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "pid" => self.pid = value,
            "left_out" => self.left_out = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

struct Collector {
    lines: UnboundedSender<Line>,
    /// Set: nothing is taken until this file is there.
    is_blocked_until: OnceLock<PathBuf>,
}

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "teamster::program" {
            let mut line = Line { is_info: *event.metadata().level() == Level::INFO, ..Line::default() };
            event.record(&mut line);
            // Nobody listens any more when the test is over.
            let _ = self.lines.send(line);
            while self.is_blocked_until.get().is_some_and(|path| !path.exists()) {
                std::thread::park_timeout(Duration::from_millis(5)); // nothing tells when a file comes
            }
        }
    }
}

/// Sets this process's subscriber. It takes one line only until `blocked_until` is there.
fn collect(blocked_until: Option<PathBuf>) -> UnboundedReceiver<Line> {
    #[expect(clippy::disallowed_methods, reason = "a subscriber can't wait, and a test's lines are few")]
    let (lines, collected) = unbounded_channel();
    let is_blocked_until = blocked_until.map_or_else(OnceLock::new, OnceLock::from);
    let collector = Collector { lines, is_blocked_until };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(collector)).expect("the first");
    collected
}

fn taken(lines: &mut UnboundedReceiver<Line>) -> Vec<Line> {
    std::iter::from_fn(|| lines.try_recv().ok()).collect()
}

#[teamster::test]
async fn each_line_is_in_the_log_before_its_end_is_heard_of() {
    let mut lines = collect(None);
    teamster::open_nursery(async |an| {
        let handle = an.process(sh("echo one; printf 'two\r\nlast'; echo oops >&2")).name("three").run();
        let pid = u64::from(handle.await?.pid());
        let lines = taken(&mut lines);
        assert!(lines.iter().all(|line| line.program == "three" && line.pid == pid && line.is_info), "{lines:?}");
        let of = |stream: &str| -> Vec<&str> {
            lines.iter().filter(|line| line.stream == stream).map(|line| line.message.as_str()).collect()
        };
        assert_eq!((of("stdout"), of("stderr")), (vec!["one", "two", "last"], vec!["oops"]));
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[teamster::test]
async fn a_line_without_an_end_comes_in_pieces() {
    let mut lines = collect(None);
    teamster::open_nursery(async |an| {
        an.run_process(sh("head -c 300000 /dev/zero | tr '\\0' x; echo; echo after")).await?;
        let lines = taken(&mut lines);
        let (last, pieces) = lines.split_last().expect("there are some");
        assert_eq!(last.message, "after");
        assert!(pieces.iter().all(|piece| piece.message.len() <= 256 * 1024), "each is bounded");
        assert!(pieces.len() > 1);
        assert_eq!(pieces.iter().map(|piece| piece.message.len()).sum::<usize>(), 300_000);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[teamster::test]
async fn a_log_that_stands_still_does_not_hold_up_a_program() {
    let notes = Notes::new();
    let mut lines = collect(Some(notes.path().join("done")));
    teamster::open_nursery(async |an| {
        // Far more than a pipe and all that waits.
        an.run_process(sh_in(&notes, "yes | head -c 20000000; echo last; echo > done")).await?;
        let mut taken: Vec<Line> = Vec::new();
        while taken.last().is_none_or(|line| line.message != "last") {
            taken.push(lines.recv().await.expect("the oldest go, not the last"));
        }
        let lines = taken;
        let left_out: u64 = lines.iter().map(|line| line.left_out).sum();
        let shown = lines.iter().filter(|line| line.message == "y").count() as u64;
        assert_eq!(left_out + shown, 10_000_000);
        Ok(())
    })
    .await
    .expect("nothing fails");
}

#[teamster::test]
async fn one_that_never_stops_printing_is_cancelled_as_any_other() {
    let mut lines = collect(None);
    let ended = teamster::root().grace(PLENTY).open(async |an| -> Result<(), teamster::BoxError> {
        let handle = an.run_process(Command::new("yes"));
        for _ in 0..1000 {
            lines.recv().await;
        }
        an.cancel().await;
        assert!(matches!(handle.await, Err(Error::Cancelled { .. })));
        Err("that is all".into())
    });
    assert!(matches!(ended.await, Err(Error::Body(_))));
}

// ---- who is killed

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    if program::scene().is_some() {
        // A signal ends it, or nobody is left to tell.
        let _ = play();
    }
}

/// What the scene's program does: says that it was asked, unless it is a stubborn one, and has a helper.
fn scene_command(scene: &str) -> Command {
    // It says so aloud first: whoever has read that may be gone by then.
    let asked = if scene.ends_with("stubborn") { "" } else { "echo asked; echo asked >> asked; exit" };
    let mut command = sh(&format!("trap '{asked}' TERM; sleep 600 & echo $$ $! > pids; echo it runs; wait"));
    command.current_dir(std::env::var("NOTES").expect("it is set"));
    command
}

#[rpc]
async fn run_one(scene: String) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        an.run_process(scene_command(&scene)).await?;
        Ok(())
    })
    .await
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    let scene = program::scene().expect("it is set");
    teamster::open_nursery(async |an| {
        if scene.starts_with("root") {
            an.run_process(scene_command(&scene)).await?;
        } else {
            let frank = an.start_actor("frank").await?;
            println!("frank {}", frank.aid().pid());
            let _killed = frank.run(run_one(scene)).await;
        }
        Ok(())
    })
    .await
}

/// Plays the scene until its program runs.
async fn playing(scene: &str) -> (Program, Notes) {
    let notes = Notes::new();
    let program = Program::start_with(scene, |command| {
        command.env("NOTES", notes.path()).env("TEAMSTER_LOG", "teamster::program=info");
    });
    notes.pids("pids").await;
    program.complains("it runs"); // all who see to it know of it when its lines are logged
    (program, notes)
}

fn was_asked_once(notes: &Notes) {
    assert_eq!(std::fs::read_to_string(notes.path().join("asked")).unwrap_or_default(), "asked\n");
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("it is one"), Signal::KILL).expect("it lives");
}

/// Wardens of the scene's actors.
fn wardens(notes: &Notes) -> Vec<u32> {
    let mark = format!("NOTES={}", notes.path().display());
    let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        of("cmdline").starts_with(b"teamster-warden:")
            && of("environ").split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .collect()
}

#[tokio::test]
async fn a_signal_to_the_root_ends_its_programs_and_those_of_its_actors() {
    for scene in ["root", "child"] {
        let (mut program, notes) = playing(scene).await;
        program.signal(Signal::INT);
        assert!(program.ends_within(GRACE + KERNEL).status.code().is_none());
        program.gone_within(KERNEL);
        was_asked_once(&notes);
    }
}

#[tokio::test]
async fn ctrl_z_stops_a_program_wherever_it_runs() {
    for scene in ["root", "child"] {
        let (mut program, notes) = playing(scene).await;
        let leader = notes.pids("pids").await[0];
        program.signal(Signal::TSTP);
        // The root stands still last: what comes before is lost.
        for pid in [leader, program.pid()] {
            until("it runs on", async || state(pid) == Some(ProcessState::Stopped)).await;
        }
        program.signal(Signal::CONT);
        until("it is stopped", async || state(leader) != Some(ProcessState::Stopped)).await;
        program.signal(Signal::INT);
        program.ends_within(GRACE + KERNEL);
        program.gone_within(KERNEL);
        was_asked_once(&notes);
    }
}

#[tokio::test]
async fn what_a_killed_root_ran_is_asked_and_gone_within_the_grace() {
    for scene in ["root", "root-stubborn", "child", "child-stubborn"] {
        let (mut program, notes) = playing(scene).await;
        program.signal(Signal::KILL);
        program.ends_within(KERNEL);
        program.gone_within(GRACE + KERNEL);
        if !scene.ends_with("stubborn") {
            was_asked_once(&notes);
        }
    }
}

#[tokio::test]
async fn what_a_killed_actor_ran_is_gone_when_its_nursery_is() {
    for scene in ["child", "child-stubborn"] {
        let (mut program, notes) = playing(scene).await;
        kill(program.says("frank ").parse().expect("it is a pid"));
        program.ends_within(GRACE + KERNEL);
        program.gone_within(Duration::ZERO);
        if !scene.ends_with("stubborn") {
            was_asked_once(&notes);
        }
    }
}

#[tokio::test]
async fn those_above_a_killed_actor_do_without_its_warden() {
    let (mut program, notes) = playing("child").await;
    let wardens = wardens(&notes);
    assert_eq!(wardens.len(), 1);
    kill(wardens[0]);
    kill(program.says("frank ").parse().expect("it is a pid"));
    program.ends_within(GRACE + KERNEL);
    program.gone_within(Duration::ZERO);
}

#[tokio::test]
async fn when_all_are_killed_the_warden_is_left_and_ends_what_they_ran() {
    let (mut program, notes) = playing("child").await;
    let frank = program.says("frank ").parse().expect("it is a pid");
    // Stopped, it can't see that the root is gone.
    kill_process(Pid::from_raw(i32::try_from(frank).expect("it is one")).expect("it is one"), Signal::STOP)
        .expect("it lives");
    program.signal(Signal::KILL);
    kill(frank);
    program.ends_within(KERNEL);
    program.gone_within(GRACE + KERNEL);
    was_asked_once(&notes);
}
