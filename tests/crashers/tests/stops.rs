//! Where does a program stop, and what is shown there?
mod support;

use support::{Prompt, assert_has};

#[test]
fn only_the_armed_actor_stops_and_its_siblings_failure_is_told_all_the_same() {
    let mut prompt = Prompt::start_with("armed_sibling", |_| {});
    let before = prompt.expect_prompt("root/armed");
    assert_has(
        &before,
        &[
            "plain: panic",
            "the len is 1 but the index is 7",
            "-- panic in actor root/armed",
            "the len is 2 but the index is 8",
        ],
    );
    prompt.enter("c");
    prompt.says("armed: panic");
    prompt.ends_with(0);
}

#[test]
fn two_panics_in_one_actor_stop_one_after_the_other_each_in_its_own_frame() {
    let mut prompt = Prompt::start("two_in_one");
    for _turn in 0..2 {
        let banner = prompt.expect_prompt("root/worker");
        let stack = prompt.line("bt");
        let is_first = banner.contains("the len is 3 but the index is 12");
        assert!(is_first || banner.contains("attempt to divide by zero"), "{banner}");
        assert_eq!(stack.contains("* #0   crashers::crashes::price_at"), is_first, "{stack}");
        assert_eq!(stack.contains("* #0   crashers::crashes::divide (async)"), !is_first, "{stack}");
        assert!(!stack.contains("Endpoint for") && !stack.contains("start_thread"), "{stack}");
        prompt.enter("c");
    }
    prompt.says("one: panic");
    prompt.says("two: panic");
    prompt.ends_with(0);
}

#[test]
fn a_returned_error_shows_its_chain_and_its_arguments_and_a_retry_runs_the_endpoint_again() {
    let mut prompt = Prompt::start("own_error");
    let banner = prompt.expect_prompt("root/shop");
    assert_has(
        &banner,
        &[
            "-- returned error in actor root/shop",
            "order 7 can't be filled",
            "in crashers::errors::fill#",
            "retry runs it again",
        ],
    );
    assert_has(&prompt.line("err"), &["Unfilled: order 7 can't be filled", "because of 2 are left of 30"]);
    assert_has(&prompt.line("args"), &["crashers::errors::fill#", "(7, 30)"]);
    prompt.enter("retry");
    prompt.says("filled: 30");
    prompt.ends_with(0);
}

#[test]
fn a_returned_error_that_is_quit_ends_the_tree_and_stops_nowhere_else() {
    let mut prompt = Prompt::start("own_error");
    prompt.expect_prompt("root/shop");
    prompt.enter("q");
    let rest = prompt.ends_with(1);
    assert_has(&rest, &["order 7 can't be filled"]);
    assert!(!rest.contains("-- "), "{rest}");
}

#[test]
fn an_error_stops_inside_of_its_question_mark() {
    let mut prompt = Prompt::start("question_mark");
    let banner = prompt.expect_prompt("root/shop");
    assert_has(
        &banner,
        &[
            "-- error in actor root/shop",
            "invalid digit found in string",
            "errors.rs:",
            "->",
            "number.parse::<u32>()? * factor",
        ],
    );
    let stack = prompt.line("bt");
    assert_has(&stack, &["* #0   crashers::errors::quantity_of", "#1   crashers::errors::parse_order (async)"]);
    assert_has(&prompt.line("up"), &["parse_order (async)", "let quantity = quantity_of(&text)?;"]);
    assert_has(&prompt.line("bt"), &["* #1   crashers::errors::parse_order"]);
    assert_has(&prompt.line("down"), &["quantity_of", "number.parse::<u32>()?"]);
    assert_has(&prompt.line("err"), &["ParseIntError: invalid digit found in string"]);
    prompt.enter("c");
    // Not once more where the endpoint returns it; but where it leaves the root.
    let relayed = prompt.expect_prompt("root");
    assert_has(&relayed, &["-- relayed error in actor root"]);
    prompt.enter("c");
    prompt.ends_with(1);
}

#[test]
fn a_post_mortem_stops_by_hand_then_the_error_does_and_then_where_it_leaves_the_root() {
    let mut prompt = Prompt::start("post_mortem");
    assert_has(
        &prompt.expect_prompt("root/child"),
        &["-- post mortem in actor root/child", "invalid digit", "errors.rs:"],
    );
    assert_has(&prompt.line("bt"), &["crashers::errors::looked_at"]);
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("root/child"), &["-- returned error in actor root/child", "invalid digit"]);
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("root"), &["-- relayed error in actor root", "invalid digit"]);
    prompt.enter("c");
    prompt.ends_with(1);
}

#[test]
fn the_roots_own_panic_stops() {
    let mut prompt = Prompt::start("root_panics");
    assert_has(&prompt.expect_prompt("root"), &["-- panic in actor root ", "the root has no place", "crashes.rs:"]);
    let stack = prompt.line("bt");
    assert_has(&stack, &["* #0   crashers::crashes::root_panics", "crashers::main"]);
    assert!(!stack.contains("__libc_start"), "{stack}");
    prompt.enter("c");
    assert_has(&prompt.ends_with(101), &["the root has no place"]);
}

#[test]
fn the_roots_own_error_stops_where_it_leaves() {
    let mut prompt = Prompt::start("root_fails");
    assert_has(&prompt.expect_prompt("root"), &["-- returned error in actor root ", "the root's own error"]);
    prompt.enter("c");
    assert_has(&prompt.ends_with(1), &["the root's own error"]);
}

#[test]
fn a_root_that_has_cancelled_itself_and_panics_stops_all_the_same() {
    let mut prompt = Prompt::start("cancelled_root_panics");
    assert_has(&prompt.expect_prompt("root"), &["it fails all the same", "cancelled already"]);
    prompt.enter("c");
    prompt.ends_with(101);
}

#[test]
fn an_error_stops_at_its_origin_and_where_it_leaves_the_root_and_not_in_between() {
    let mut prompt = Prompt::start("deep");
    assert_has(&prompt.expect_prompt("root/middle/leaf"), &["-- panic in actor root/middle/leaf"]);
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("root"), &["-- relayed error in actor root", "attempt to divide by zero"]);
    prompt.enter("c");
    prompt.ends_with(1);
}

#[test]
fn where_each_hop_is_wanted_an_error_stops_at_each() {
    let mut prompt = Prompt::start_with("deep", |command| {
        command.env("TEAMSTER_DEBUG", "every-hop");
    });
    for actor in ["root/middle/leaf", "root/middle", "root"] {
        prompt.expect_prompt(actor);
        prompt.enter("c");
    }
    prompt.ends_with(1);
}

#[test]
fn actors_above_an_armed_one_need_not_be_armed() {
    let mut prompt = Prompt::start_with("deep", |_| {});
    prompt.expect_prompt("root/middle/leaf");
    prompt.enter("c");
    assert_has(&prompt.ends_with(1), &["attempt to divide by zero"]);
}

#[test]
fn a_panic_in_a_local_set_stops_and_aborts_nothing() {
    for scene in [&["local_set"][..], &["many_threads", "local_set"]] {
        let program: Vec<&str> = [env!("CARGO_BIN_EXE_crashers")].into_iter().chain(scene.iter().copied()).collect();
        let mut prompt = Prompt::start_program(&program, |command| {
            command.env("TEAMSTER_DEBUG", "1");
        });
        assert_has(&prompt.expect_prompt("root"), &["attempt to divide by zero"]);
        assert_has(&prompt.line("bt"), &["* #0   crashers::crashes::divide_at_once"]);
        prompt.enter("c");
        prompt.says("in a local set: true");
        prompt.ends_with(0);
    }
}

#[test]
fn panics_where_no_endpoint_runs_stop_and_the_actor_lives_on() {
    for place in ["local set in a blocking thread", "local set in the task", "blocking thread", "thread"] {
        let mut prompt = Prompt::start(place);
        let banner = prompt.expect_prompt("root/child");
        assert_has(&banner, &["-- panic in actor root/child", "attempt to divide by zero"]);
        assert_eq!(banner.contains("own-thread"), place == "thread", "{banner}");
        assert_has(&prompt.line("bt"), &["* #0   crashers::crashes::divide_at_once"]);
        prompt.enter("c");
        prompt.says("elsewhere: true");
        prompt.says("ping: 5");
        prompt.ends_with(0);
    }
}

#[test]
fn a_panic_in_a_destructor_during_a_panic_says_that_the_process_aborts() {
    let mut prompt = Prompt::start("panics_in_drop");
    let banner = prompt.expect_prompt("root/child");
    assert!(!banner.contains("aborts after c"), "{banner}");
    prompt.enter("c");
    assert_has(&prompt.expect_prompt("root/child"), &["a destructor panics", "the process aborts after c"]);
    prompt.enter("c");
    // A death is an error of the nursery.
    assert_has(&prompt.expect_prompt("root"), &["-- returned error in actor root ", "died: signal 6"]);
    prompt.enter("c");
    prompt.ends_with(1);
}
