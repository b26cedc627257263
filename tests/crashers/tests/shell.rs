//! Job control of a real shell: ctrl-z, `fg`, `&`, at the prompt and beside it.
mod support;

use std::time::{Duration, Instant};

use rustix::process::Pid;
use support::{PROGRAM, Prompt, assert_has};

fn shell() -> Prompt {
    let mut shell = Prompt::start_program(&["bash", "--norc", "--noprofile", "-i"], |command| {
        command.env("TEAMSTER_DEBUG", "1").env("PS1", "sh> ").env("PROGRAM", PROGRAM);
        command.env_remove("PROMPT_COMMAND").env("INPUTRC", "/dev/null");
    });
    shell.shows("sh>");
    shell
}

/// Asks the shell for its jobs until it says so of one.
fn until_jobs_say(shell: &mut Prompt, state: &str) {
    loop {
        shell.enter("jobs; echo these were a\"\"ll");
        if shell.says_before(state, "these were all") {
            return;
        }
    }
}

fn actors(shell: &Prompt) -> Vec<Pid> {
    let is_actor = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(PROGRAM.as_bytes()) || line.starts_with(b"teamster:")
    };
    shell.tree().into_iter().filter(is_actor).collect()
}

fn state(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

/// Root and actor come to stand still, or to go on.
#[track_caller]
fn until_stopped(shell: &Prompt, wanted: bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let states: Vec<(Pid, char)> = actors(shell).into_iter().map(|pid| (pid, state(pid))).collect();
        // One more is a helper of theirs that has not come to its own program yet: it stands still with them.
        if states.len() >= 2 && states.iter().all(|(_, state)| (*state == 'T') == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{states:?}");
        std::thread::yield_now();
    }
}

#[test]
fn ctrl_z_at_the_prompt_leads_to_the_shell_and_fg_back() {
    let mut shell = shell();
    shell.enter("$PROGRAM child_pauses_twice");
    shell.expect_prompt("root/child");
    shell.types("b\x1a");
    shell.says("Stopped");
    until_stopped(&shell, true);
    shell.enter("echo it is s\"\"ane");
    shell.says("it is sane");
    shell.enter("fg");
    shell.shows("(root/child) b");
    until_stopped(&shell, false);
    assert_has(&shell.line("t"), &["pause_often"]);
    shell.enter("c");
    shell.expect_prompt("root/child");
    shell.enter("c");
    shell.says("sum: 1");
    shell.enter("exit 3");
    shell.ends_with(3);
}

#[test]
fn a_program_in_the_background_that_stops_waits_for_fg() {
    let mut shell = shell();
    shell.enter("$PROGRAM child_pauses_twice &");
    until_jobs_say(&mut shell, "Stopped");
    shell.enter("fg");
    shell.expect_prompt("root/child");
    assert_has(&shell.line("bt"), &["pause_often"]);
    shell.enter("off");
    shell.says("sum: 1");
    shell.enter("exit 3");
    shell.ends_with(3);
}

#[test]
fn ctrl_z_beside_the_prompt_stops_the_tree_and_fg_resumes_it() {
    let mut shell = shell();
    shell.enter("$PROGRAM crash_and_wait");
    shell.expect_prompt("root/child");
    shell.enter("c");
    shell.says("child: panic");
    shell.types("\x1a");
    shell.says("Stopped");
    until_stopped(&shell, true);
    shell.enter("fg");
    until_stopped(&shell, false);
    shell.types("\x03");
    shell.enter("exit 3");
    shell.ends_with(3);
}
