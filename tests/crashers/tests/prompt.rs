//! The prompt itself: whose turn it is, what is shown, what commands answer.
mod support;

use support::Prompt;

#[test]
fn only_the_armed_actor_stops_and_its_siblings_failure_is_told_all_the_same() {
    let mut prompt = Prompt::start_with("armed_sibling", |_| {});
    let before = prompt.expect_prompt("root/armed");
    assert!(before.contains("plain: plain@") && before.contains("the len is 1 but the index is 7"), "{before}");
    assert!(before.contains("-- panic in actor root/armed") && before.contains("the len is 2 but the index is 8"), "{before}");
    prompt.enter("c");
    prompt.says("armed: armed@");
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
        prompt.enter("c");
    }
    prompt.says("one: worker@");
    prompt.says("two: worker@");
    prompt.ends_with(0);
}
