//! Which terminal has the prompt, what if there is none, and what if either end goes away?
mod support;

use rustix::process::{Signal, kill_process};
use support::{PROGRAM, Prompt, assert_has, assert_has_in_rows, pid_in};

fn armed(command: &mut std::process::Command) {
    command.env("TEAMSTER_DEBUG", "1");
}

#[test]
fn a_stopped_actor_that_is_killed_is_noticed_at_once_and_the_next_one_has_the_prompt() {
    let mut prompt = Prompt::start("three_pause");
    let banner = prompt.expect_any_prompt();
    let tree = prompt.line_until("tree", "waits, 2 before it");
    let second = tree.lines().find(|line| line.contains("waits, 1 before it")).expect("there is one");
    let second = format!("root/{}", second.trim().split(' ').next().expect("it has a name"));
    prompt.types("half a line");
    prompt.shows("half a line");
    kill_process(pid_in(&banner), Signal::KILL).expect("it stands still");
    prompt.says("is gone");
    prompt.expect_prompt(&second);
    assert_has(&prompt.line("bt"), &["crashers::pauses::pause_often"]);
    prompt.enter("off");
    assert_has(&prompt.ends_with(1), &["signal 9 (SIGKILL)"]);
}

#[test]
fn actors_that_die_the_moment_they_stop_leave_the_others_their_turn() {
    let rounds = std::env::var("TEAMSTER_ROUNDS").map_or(3, |rounds| rounds.parse().expect("a number"));
    for _ in 0..rounds {
        let mut prompt = Prompt::start("three_pause");
        for _ in 0..2 {
            let banner = prompt.says("-- pause in actor");
            kill_process(pid_in(&banner), Signal::KILL).expect("it stands still");
            prompt.says("is gone");
        }
        prompt.expect_any_prompt();
        prompt.enter("off");
        assert_has(&prompt.ends_with(1), &["signal 9 (SIGKILL)"]);
    }
}

#[test]
fn the_terminal_is_sane_when_the_only_stopped_actor_is_killed() {
    let mut prompt = Prompt::start_with("armed_sibling", |_| {});
    let banner = prompt.expect_prompt("root/armed");
    let banner = banner.split_once("-- panic").expect("it is one").1;
    kill_process(pid_in(banner), Signal::KILL).expect("it stands still");
    prompt.says("is gone");
    assert_has(&prompt.ends_with(1), &["signal 9 (SIGKILL)"]);
}

#[test]
fn a_root_that_is_killed_at_the_prompt_leaves_nothing() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    prompt.line_until("tree", "waits, 2 before it");
    prompt.signal(Signal::KILL);
    prompt.root_ends();
    prompt.all_end();
}

#[test]
fn a_terminal_that_hangs_up_ends_the_tree() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    prompt.line_until("tree", "waits, 2 before it");
    prompt.hang_up();
    prompt.root_ends();
    prompt.all_end();
}

#[test]
fn a_termination_at_the_prompt_waits_for_it() {
    let mut prompt = Prompt::start("child_pauses_twice");
    prompt.expect_prompt("root/child");
    prompt.signal(Signal::TERM);
    // It has been heard when the child has been told.
    prompt.line("bt");
    prompt.enter("c");
    // There was no await in between.
    assert_has(&prompt.expect_prompt("root/child"), &["cancelled already", "signal 15"]);
    prompt.enter("c");
    prompt.ends_by(Signal::TERM);
}

#[test]
fn without_a_terminal_the_crash_report_is_logged_and_the_error_goes_on() {
    // It may write to the terminal, but is in a session without one.
    let mut prompt = Prompt::start_program(&["setsid", "--wait", PROGRAM, "two_in_one"], |command| {
        command.env("TEAMSTER_DEBUG", "1").env("TEAMSTER_LOG", "error");
    });
    let text = prompt.ends_with(0);
    assert_has_in_rows(
        &text,
        &["crash report: panic in worker@", "index out of bounds", "no terminal", "TEAMSTER_DEBUG_LISTEN"],
    );
    assert_has_in_rows(&text, &["args=[1, 2, 3], 12", "stack=crashers::crashes::price_at", "one: panic", "two: panic"]);
    assert!(!text.contains("(root/worker)"), "{text}");
}

#[test]
fn a_pause_without_a_terminal_goes_on_and_says_why() {
    let mut prompt = Prompt::start_program(&["setsid", "--wait", PROGRAM, "child_pauses_twice"], |command| {
        command.env("TEAMSTER_DEBUG", "1").env("TEAMSTER_LOG", "error");
    });
    let text = prompt.ends_with(0);
    assert_has_in_rows(&text, &["kind=pause", "values=round = 0", "values=round = 1", "no terminal", "sum: 1"]);
}

#[test]
fn with_its_output_in_a_file_the_prompt_is_in_the_terminal_and_not_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("output");
    let redirected = r#"exec "$1" two_in_one </dev/null >"$0" 2>&1"#;
    let path = path.to_str().expect("it is text");
    let mut prompt = Prompt::start_program(&["sh", "-c", redirected, path, PROGRAM], armed);
    for _ in 0..2 {
        prompt.expect_prompt("root/worker");
        assert_has(&prompt.line("args"), &["crashers::crashes::"]);
        prompt.enter("c");
    }
    let rest = prompt.ends_with(0);
    let output = std::fs::read_to_string(path).expect("it is text");
    assert!(rest.is_empty(), "{rest}");
    assert_has(&output, &["one: panic", "two: panic"]);
    assert!(!output.contains("(root/worker)") && !output.contains("-- panic"), "{output}");
}

#[test]
fn a_display_that_panics_with_the_lock_of_stdout_stops_in_a_child_and_in_the_root() {
    let mut prompt = Prompt::start("bomb_in_child");
    assert_has(&prompt.expect_prompt("root/child"), &["a Display panics"]);
    assert_has(&prompt.line("bt"), &["fmt", "crashers::crashes::print_bomb"]);
    prompt.enter("c");
    assert_has(&prompt.ends_with(0), &["child: panic"]);

    let mut prompt = Prompt::start("bomb_in_root");
    assert_has(&prompt.expect_prompt("root"), &["a Display panics"]);
    assert_has(&prompt.line("bt"), &["fmt", "crashers::crashes::bomb_in_root"]);
    prompt.enter("c");
    assert_has(&prompt.ends_with(101), &["a Display panics", "a line that has begun,"]);
}

#[test]
fn a_display_that_panics_with_the_lock_of_stderr_does_not_hang_the_log() {
    let mut prompt = Prompt::start_program(&["setsid", "--wait", PROGRAM, "bomb_on_stderr"], |command| {
        command.env("TEAMSTER_DEBUG", "1").env("TEAMSTER_LOG", "error");
    });
    assert_has(&prompt.ends_with(101), &["a Display panics", "crash report: panic in root@"]);
}

#[test]
fn a_terminal_that_moves_no_cursor_has_a_plain_prompt() {
    let mut prompt = Prompt::start_with("two_in_one", |command| {
        armed(command);
        command.env("TERM", "dumb");
    });
    prompt.expect_prompt("root/worker");
    assert_has(&prompt.line("args"), &["crashers::crashes::"]);
    prompt.enter("c");
    prompt.expect_prompt("root/worker");
    prompt.enter("c");
    prompt.says("two: panic");
    prompt.ends_with(0);
}

#[test]
fn a_plain_prompt_takes_ctrl_c_and_ctrl_d() {
    let mut prompt = Prompt::start_with("two_in_one", |command| {
        armed(command);
        command.env("TERM", "dumb");
    });
    for _ in 0..2 {
        prompt.expect_prompt("root/worker");
        prompt.types("\x03");
        prompt.says("ctrl-c is shielded here");
        prompt.expect_prompt("root/worker");
        assert_has(&prompt.line("args"), &["crashers::crashes::"]);
        prompt.ctrl_d();
    }
    prompt.says("two: panic");
    prompt.ends_with(0);
}

#[test]
fn a_second_terminal_attaches_and_has_the_prompt() {
    let (mut program, socket) = listening("two_in_one");
    program.says("waits for `teamster attach ");
    let mut prompt = Prompt::start_program(&[PROGRAM, "attach", &socket], |_| {});
    for _ in 0..2 {
        prompt.expect_prompt("root/worker");
        assert_has(&prompt.line("args"), &["crashers::crashes::"]);
        prompt.types("\x03");
        prompt.says("ctrl-c clears the line");
        prompt.expect_prompt("root/worker");
        prompt.enter("c");
    }
    program.says("one: panic");
    program.says("two: panic");
    program.ends_with(0);
    prompt.ends_with(0);
    assert!(!std::fs::exists(&socket).expect("its folder is there"), "the socket is gone with the tree");
}

#[test]
fn whoever_attaches_before_a_stop_waits_for_it() {
    let (mut program, socket) = listening("crash_later");
    program.says("ready");
    let mut prompt = Prompt::start_program(&[PROGRAM, "attach", &socket], |_| {});
    prompt.says("no actor has stopped; this terminal waits for one");
    program.go();
    prompt.expect_prompt("root/child");
    prompt.enter("c");
    program.says("child: panic");
    program.ends_with(0);
    prompt.ends_with(0);
}

#[test]
fn when_the_attached_terminal_goes_away_the_next_one_has_the_prompt() {
    let (mut program, socket) = listening("two_in_one");
    program.says("waits for `teamster attach ");
    let mut first = Prompt::start_program(&[PROGRAM, "attach", &socket], |_| {});
    let banner = first.expect_prompt("root/worker");
    first.signal(Signal::KILL);
    first.root_ends();
    let mut second = Prompt::start_program(&[PROGRAM, "attach", &socket], |_| {});
    let again = second.expect_prompt("root/worker");
    let what = |text: &str| text.lines().find(|line| line.starts_with("-- panic")).map(|line| line[..60].to_owned());
    assert_eq!(what(&again), what(&banner), "it is the same stop");
    // It is asked where the first one is; a third one takes it over.
    let mut third = Prompt::start_program(&[PROGRAM, "attach", &socket], |_| {});
    third.expect_prompt("root/worker");
    third.enter("off");
    program.says("two: panic");
    program.ends_with(0);
    third.ends_with(0);
    second.ends_with(0);
}

fn listening(scene: &str) -> (Prompt, String) {
    let mut socket = String::new();
    let program = Prompt::start_with(scene, |command| {
        armed(command);
        let folder = command.get_envs().find(|(name, _)| *name == "HOME").and_then(|(_, folder)| folder);
        socket = format!("{}/prompt", folder.expect("it is set").display());
        command.env("TEAMSTER_DEBUG_LISTEN", &socket);
    });
    (program, socket)
}
