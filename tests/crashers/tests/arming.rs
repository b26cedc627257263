//! Who is armed, by what, and until when?
mod support;

use support::{PROGRAM, Prompt, assert_has, closed_up};

#[test]
fn the_variable_says_what_stops() {
    for (variable, stops) in [
        ("0", &[][..]),
        ("panic", &["panic"]),
        ("err", &["error"]),
        ("pause", &["pause"]),
        ("panic,pause", &["panic", "pause"]),
        ("1", &["panic", "error", "pause"]),
    ] {
        let mut prompt = Prompt::start_with("each_kind", |command| {
            command.env("TEAMSTER_DEBUG", variable);
        });
        for kind in stops {
            assert_has(&prompt.expect_prompt("root/child"), &[&format!("-- {kind} in actor root/child")]);
            prompt.enter("c");
        }
        let rest = prompt.ends_with(0);
        assert_has(&rest, &["pause: 5"]);
        assert!(!rest.contains("-- "), "{variable}: {rest}");
    }
}

#[test]
fn the_variable_wins_over_the_program() {
    let mut prompt = Prompt::start_with("armed_sibling", |command| {
        command.env("TEAMSTER_DEBUG", "0");
    });
    assert_has(&prompt.ends_with(0), &["plain: panic", "armed: panic"]);
}

#[test]
fn a_variable_that_says_nothing_known_is_told_and_arms_nobody() {
    let mut prompt = Prompt::start_with("each_kind", |command| {
        command.env("TEAMSTER_DEBUG", "sometimes");
    });
    assert_has(&prompt.ends_with(0), &["TEAMSTER_DEBUG=sometimes: \"sometimes\" is none of 1, 0, panic", "pause: 5"]);
}

#[test]
fn a_pause_of_an_unarmed_actor_is_passed_by_and_said_once() {
    let mut prompt = Prompt::start_with("child_pauses", |command| {
        command.env("TEAMSTER_LOG", "warn");
    });
    let text = prompt.ends_with(0);
    assert_has(&text, &["sum: 190"]);
    assert_eq!(closed_up(&text).matches(&closed_up("a pause! is passed by")).count(), 1, "{text}");
}

#[test]
fn behind_the_root_the_panic_hook_and_the_signals_are_what_they_were() {
    let mut prompt = Prompt::start("restored");
    prompt.expect_prompt("root/child");
    prompt.enter("c");
    let rest = prompt.ends_with(0);
    assert_has(&rest, &["child: panic", "same handlers: true", "my own hook: behind the tree", "caught: true"]);
    assert!(!rest.contains("-- ") && !rest.contains("my own hook: attempt"), "{rest}");
}

#[test]
fn a_crash_handler_stops_plain_code() {
    let mut prompt = Prompt::start_with("handler", |_| {});
    let first = prompt.expect_prompt("crashers");
    assert_has(&first, &["ignored: true", "invalid digit found in string"]);
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("crashers"), &["suppressed: Ok(None)", "an error occurred when formatting"]);
    prompt.enter("q");
    assert_has(&prompt.expect_prompt("crashers"), &["other: Err(Error)", "-- pause", "depth = 3", "alone.rs:"]);
    assert_has(&prompt.line("bt"), &["crashers::alone::handler"]);
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("crashers"), &["paused: Ok(Some(3))", "-- panic", "plain code panics"]);
    assert_has(&prompt.line("tree"), &["the tree is gone"]);
    prompt.enter("c");
    assert_has(&prompt.ends_with(0), &["panicked: true", "done"]);
}

#[test]
fn a_crash_handler_without_a_terminal_goes_on() {
    let mut prompt = Prompt::start_program(&["setsid", "--wait", PROGRAM, "handler"], |_| {});
    assert_has(&prompt.ends_with(0), &["suppressed: Ok(None)", "paused: Ok(Some(3))", "panicked: true", "done"]);
}

/// Run by the test below.
#[teamster::test]
#[ignore = "a part of another test"]
async fn paused_in_a_test() {
    teamster::open_nursery(async |_an| {
        let round = 7;
        teamster::pause!(round);
        println!("behind the pause");
        Ok(())
    })
    .await
    .unwrap();
}

#[test]
fn a_test_has_no_terminal_and_goes_on() {
    let this = std::env::current_exe().expect("we run");
    let this = this.to_str().expect("it is text");
    for capture in [&[][..], &["--nocapture"]] {
        let program = [&[this, "paused_in_a_test", "--exact", "--ignored"], capture].concat();
        let mut prompt = Prompt::start_program(&program, |command| {
            command.env("TEAMSTER_DEBUG", "1").env("TEAMSTER_LOG", "error");
        });
        let text = prompt.ends_with(0);
        assert_has(&text, &["test result: ok. 1 passed"]);
        let has = |part| closed_up(&text).contains(&closed_up(part));
        assert_eq!(has("behind the pause"), !capture.is_empty(), "{text}");
        assert!(capture.is_empty() || has("a test has no terminal"), "{text}");
    }
}
