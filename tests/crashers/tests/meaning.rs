//! What does a stop mean to others: to other tasks and actors, to deadlines and cancels, to whoever waits?
mod support;

use rustix::process::Signal;
use support::{Prompt, assert_has, pid_in};

#[test]
fn a_pause_shows_its_values_while_other_tasks_and_actors_go_on() {
    let mut prompt = Prompt::start("values");
    let banner = prompt.expect_prompt("root/worker");
    assert_has(
        &banner,
        &[
            "-- pause in actor root/worker",
            "name: \"pear\"",
            "quantity: 14",
            "price + 1 = 43",
            "opaque = <crashers::pauses::Opaque at 0x",
        ],
    );
    assert_has(&banner, &["pauses.rs:", "->", "pause!(order, price + 1, opaque);", "in crashers::pauses::order#"]);
    assert_has(&prompt.line("args"), &["(\"pear\", 14)", "price + 1 = 43"]);
    let before = last_ping(&prompt.line_until("log 1", "pinged: "));
    // The two are asked one after the other: each has answered since.
    prompt.line_until("log", &format!("pinged: {0} {0}", before + 3));
    prompt.enter("c");
    prompt.says("ordered: 42");
    prompt.ends_with(0);
}

fn last_ping(log: &str) -> u32 {
    let number =
        log.lines().filter_map(|line| line.split_once("pinged: ")?.1.split(' ').next()?.parse().ok()).next_back();
    number.expect("the log has one")
}

#[test]
fn an_error_goes_on_to_the_root_where_it_stops_once_more() {
    let mut prompt = Prompt::start("relayed");
    assert_has(&prompt.expect_prompt("root/child"), &["-- panic in actor root/child"]);
    ctrl_c_thrice(&mut prompt, "root/child");
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("root"), &["-- relayed error in actor root", "attempt to divide by zero"]);
    ctrl_c_thrice(&mut prompt, "root");
    prompt.enter("c");
    assert_has(&prompt.ends_with(1), &["attempt to divide by zero"]);
}

fn ctrl_c_thrice(prompt: &mut Prompt, actor: &str) {
    for _ in 0..3 {
        prompt.types("half a li\x03");
        prompt.says("ctrl-c clears the line");
        prompt.expect_prompt(actor);
    }
}

#[test]
fn an_error_that_is_quit_stops_nowhere_else() {
    for scene in ["relayed", "question_mark", "deep"] {
        let mut prompt = Prompt::start(scene);
        let actor = match scene {
            "relayed" => "root/child",
            "deep" => "root/middle/leaf",
            _ => "root/shop",
        };
        prompt.expect_prompt(actor);
        prompt.enter("q");
        let rest = prompt.ends_with(1);
        assert!(!rest.contains("-- "), "{scene}: {rest}");
    }
}

#[test]
fn ctrl_c_behind_the_prompt_cancels_the_tree() {
    let mut prompt = Prompt::start("crash_and_wait");
    prompt.expect_prompt("root/child");
    ctrl_c_thrice(&mut prompt, "root/child");
    prompt.enter("c");
    prompt.says("child: panic");
    prompt.types("\x03");
    prompt.ends_by(Signal::INT);
}

#[test]
fn a_pause_in_a_loop_stops_in_each_round() {
    let mut prompt = Prompt::start("child_pauses_twice");
    for round in 0..2 {
        assert_has(&prompt.expect_prompt("root/child"), &["-- pause in actor root/child", &format!("round = {round}")]);
        prompt.enter("c");
    }
    prompt.says("sum: 1");
    prompt.ends_with(0);
}

#[test]
fn a_pause_that_is_quit_fails_the_endpoint() {
    let mut prompt = Prompt::start("child_pauses");
    for round in 0..15 {
        assert_has(&prompt.expect_prompt("root/child"), &[&format!("round = {round}")]);
        prompt.enter(if round < 14 { "c" } else { "q" });
    }
    let line = prompt.says("it is a ");
    assert_has(&line, &["it is a teamster::DebugQuit: ", "quit at the debugger's prompt"]);
    let rest = prompt.ends_with(1);
    assert!(!rest.contains("-- "), "{rest}");
}

#[test]
fn a_pause_of_the_root_that_is_quit_ends_the_program() {
    let mut prompt = Prompt::start("root_pauses");
    for round in 0..10 {
        assert_has(&prompt.expect_prompt("root"), &[&format!("round = {round}")]);
        prompt.enter(if round < 9 { "c" } else { "q" });
    }
    assert_has(&prompt.ends_with(1), &["quit at the debugger's prompt"]);
}

#[test]
fn a_deadline_stands_still_while_its_callee_is_looked_at() {
    let mut prompt = Prompt::start("deadline");
    prompt.expect_prompt("root/child");
    prompt.line_until("log", "1s have passed");
    prompt.enter("c");
    prompt.says("called: 0");
    prompt.ends_with(0);
}

#[test]
fn a_deadline_that_was_held_passes_afterwards() {
    let mut prompt = Prompt::start("deadline_stays");
    prompt.expect_prompt("root/child");
    let log = prompt.line_until("log", "1s have passed");
    assert!(!log.contains("called"), "{log}");
    prompt.enter("c");
    assert_has(&prompt.says("called: "), &["the deadline of"]);
    prompt.ends_with(0);
}

#[test]
fn a_cancel_waits_for_the_prompt() {
    let mut prompt = Prompt::start_with("cancel", |command| {
        command.env("TEAMSTER_DEBUG", "1").env("TEAMSTER_GRACE_MS", "300");
    });
    prompt.expect_prompt("root/child");
    prompt.go();
    let log = prompt.line_until("log", "1s have passed"); // three graces
    assert!(log.contains("cancelling") && !log.contains("called") && !log.contains("cancelled"), "{log}");
    prompt.enter("c");
    let rest = prompt.ends_with(0);
    assert_has(&rest, &["called: ", "cancelled: "]);
}

#[test]
fn a_body_that_fails_waits_for_the_prompts_of_its_actors() {
    let mut prompt = Prompt::start_with("body_fails", |command| {
        command.env("TEAMSTER_DEBUG", "pause").env("TEAMSTER_GRACE_MS", "300");
    });
    let first = prompt.expect_any_prompt();
    prompt.line_until("tree", "waits, 1 before it");
    prompt.go();
    prompt.line_until("log", "the body fails now");
    prompt.enter("c");
    let second = prompt.expect_any_prompt();
    let mut both = [first, second].map(|text| text.lines().next_back().unwrap_or_default().to_owned());
    both.sort();
    assert_eq!(both, ["(root/one)", "(root/two)"]);
    prompt.enter("c");
    assert_has(&prompt.ends_with(1), &["the body has failed"]);
}

#[test]
fn a_pause_in_what_a_cancel_runs_says_so_and_goes_on_to_the_cancel() {
    let mut prompt = Prompt::start("cancelled");
    prompt.says("waiting");
    prompt.go();
    assert_has(&prompt.expect_prompt("root/child"), &["place = \"clean-up\"", "cancelled already"]);
    prompt.enter("c");
    let rest = prompt.ends_with(0);
    assert_has(&rest, &["cleaned up", "called: ", "cancelled: "]);
}

#[test]
fn a_pause_in_a_destructor_that_a_panic_runs_can_be_continued_and_quit() {
    for command in ["c", "q"] {
        let mut prompt = Prompt::start("unwinding");
        assert_has(&prompt.expect_prompt("root/child"), &["-- panic", "with a guard that pauses"]);
        prompt.enter("c");
        assert_has(&prompt.expect_prompt("root/child"), &["-- pause", "place = \"clean-up\""]);
        prompt.enter(command);
        assert_has(&prompt.ends_with(0), &["cleaned up", "called: panic", "ping: 6"]);
    }
}

#[test]
fn pauses_on_three_threads_have_one_prompt_each() {
    let mut prompt = Prompt::start("threads");
    let mut threads = Vec::new();
    for _ in 0..3 {
        let banner = prompt.expect_prompt("root/child");
        let value = ["of a thread", "of a blocking thread", "of the task"]
            .into_iter()
            .find(|value| banner.contains(&format!("{value}\" = ")));
        let value = value.unwrap_or_else(|| panic!("of none: {banner}"));
        let first = banner.lines().next().unwrap_or_default();
        assert_eq!(first.contains("\"own-thread\""), value == "of a thread", "{banner}");
        threads.push(value);
        prompt.enter("c");
    }
    threads.sort_unstable();
    assert_eq!(threads, ["of a blocking thread", "of a thread", "of the task"]);
    prompt.says("threads: 3");
    prompt.ends_with(0);
}

#[test]
fn off_lets_all_waiters_go_and_nothing_stops_any_more() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    prompt.line_until("tree", "waits, 2 before it");
    prompt.enter("off");
    let rest = prompt.ends_with(0);
    assert_has(&rest, &["one: 1", "two: 1", "three: 1"]);
    assert!(!rest.contains("-- pause"), "{rest}");
}

#[test]
fn abort_cancels_the_tree_with_all_who_wait() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    prompt.line_until("tree", "waits, 2 before it");
    prompt.enter("abort");
    let rest = prompt.ends_with(1);
    assert!(!rest.contains("-- pause"), "{rest}");
}

#[test]
fn a_waiter_whose_process_dies_leaves_the_queue() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    let tree = prompt.line_until("tree", "waits, 2 before it");
    let second = tree.lines().find(|line| line.contains("waits, 1 before it")).expect("there is one");
    rustix::process::kill_process(pid_in(second), Signal::KILL).expect("it waits");
    // The third has come up to its place.
    let name = second.trim().split(' ').next().expect("it has a name").to_owned();
    loop {
        let tree = prompt.line("tree");
        if tree.contains("waits, 1 before it") && !tree.contains("waits, 2") {
            break;
        }
    }
    prompt.enter("off");
    let rest = prompt.ends_with(1);
    assert_has(&rest, &["signal 9 (SIGKILL)"]);
    assert!(!rest.contains(&format!("({name})")), "{rest}");
}
