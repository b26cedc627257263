//! Variables of the stopped program: what gdb says of them, and what it changes.
mod support;

use support::{PROGRAM, Prompt, assert_has};

#[test]
#[ignore = "needs gdb"]
fn locals_and_expressions_of_each_frame() {
    let mut prompt = Prompt::start("two_in_one");
    let banner = prompt.expect_prompt("root/worker");
    if banner.contains("divide by zero") {
        assert_has(&prompt.line("locals"), &["dividend = 21", "divisor = 0", "double = 42"]);
        prompt.enter("c");
        prompt.expect_prompt("root/worker");
    }
    let locals = prompt.line("locals");
    assert_has(&locals, &["index = 12", "sum = 6", "scaled = 60"]);
    assert_has(&prompt.line("p scaled + sum"), &["66"]);
    assert_has(&prompt.line("p prices[1]"), &["2"]);
    assert_has(&prompt.line("p index as u32 + sum"), &["18"]);
    assert_has(&prompt.line("p nothing_of_this_name"), &["nothing_of_this_name"]);
    assert_has(&prompt.line("up"), &["crash (async)"]);
    assert_has(&prompt.line("locals"), &["total = 6", "at = 12"]);
    prompt.resize(1000, 200); // no pages
    assert_has(&prompt.line("bt full"), &["price_at", "scaled = 60"]);
    prompt.enter("off");
    prompt.ends_with(0);
}

#[test]
#[ignore = "needs gdb"]
fn a_variable_that_is_changed_is_what_the_program_goes_on_with() {
    let mut prompt = Prompt::start("values");
    prompt.expect_prompt("root/worker");
    assert_has(&prompt.line("p price"), &["42"]);
    assert_has(&prompt.line("p order.quantity"), &["14"]);
    assert_has(&prompt.line("let price = 77"), &["77"]);
    assert_has(&prompt.line("p price + 1"), &["78"]);
    prompt.enter("c");
    prompt.says("ordered: 77");
    prompt.ends_with(0);
}

#[test]
#[ignore = "needs gdb"]
fn locals_inside_of_a_question_mark_and_of_the_frame_above() {
    let mut prompt = Prompt::start("question_mark");
    prompt.expect_prompt("root/shop");
    assert_has(&prompt.line("locals"), &["factor = 2", "number = \"many\""]);
    prompt.line("up");
    assert_has(&prompt.line("locals"), &["dozens = 12"]);
    prompt.enter("q");
    prompt.ends_with(1);
}

#[test]
#[ignore = "needs gdb"]
fn pauses_in_a_loop_are_asked_by_one_gdb() {
    let mut prompt = Prompt::start("child_pauses_twice");
    let mut pids = Vec::new();
    for round in 0..2 {
        prompt.expect_prompt("root/child");
        assert_has(&prompt.line("p round"), &[&round.to_string()]);
        pids.extend(prompt.gdbs());
        prompt.enter("c");
    }
    prompt.says("sum: 1");
    prompt.ends_with(0);
    assert!(pids.len() == 2 && pids[0] == pids[1], "{pids:?}");
}

#[test]
#[ignore = "needs gdb"]
fn a_real_gdb_stands_in_the_users_frame_and_leads_back_to_the_prompt() {
    let mut prompt = Prompt::start("question_mark");
    prompt.expect_prompt("root/shop");
    prompt.line("up");
    prompt.enter("gdb");
    prompt.shows("(gdb)");
    prompt.shows("errors::_::__teamster_body_parse_order::{async_fn#0} () at tests/crashers/src/errors.rs:52");
    prompt.enter("bt 40");
    prompt.says("crashers::errors::quantity_of");
    prompt.enter("print dozens");
    prompt.says("= 12");
    // Ctrl-c is gdb's: it stops the program, and no word comes from the root.
    prompt.enter("continue");
    prompt.says("Continuing.");
    prompt.types("\x03");
    prompt.says("SIGINT");
    prompt.enter("detach");
    prompt.says("detached");
    prompt.enter("quit");
    prompt.says("back at the prompt");
    prompt.expect_prompt("root/shop");
    assert!(!prompt.all().contains("shielded"), "{}", prompt.all());
    assert_has(&prompt.line("locals"), &["dozens = 12"]);
    prompt.enter("q");
    prompt.ends_with(1);
}

#[test]
#[ignore = "needs gdb"]
fn the_roots_own_variables_are_asked_from_another_terminal() {
    let mut prompt = Prompt::start("root_panics");
    prompt.expect_prompt("root");
    assert_has(&prompt.line("locals"), &["is this one, and gdb would stop the prompt with it"]);
    prompt.enter("c");
    prompt.ends_with(101);
}

#[test]
#[ignore = "needs gdb"]
fn a_stripped_program_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let stripped = folder.path().join("stripped");
    let status = std::process::Command::new("strip").arg("-o").arg(&stripped).arg(PROGRAM).status();
    assert!(status.expect("binutils are installed").success());
    let mut prompt = Prompt::start_program(&[stripped.to_str().expect("it is text"), "relayed"], |command| {
        command.env("TEAMSTER_DEBUG", "1");
    });
    assert_has(&prompt.expect_prompt("root/child"), &["attempt to divide by zero", "crashes.rs:"]);
    prompt.resize(1000, 200); // no pages
    assert_has(&prompt.line("bt"), &["no debuginfo"]);
    assert_has(&prompt.line("locals"), &["debug = true"]);
    assert_has(&prompt.line("args"), &["(1, 0)"]);
    prompt.enter("off");
    prompt.ends_with(1);
}

#[test]
fn without_gdb_the_prompt_says_so_and_does_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    for tool in ["env", "setsid", "sh"] {
        let path = std::env::split_paths(&std::env::var_os("PATH").expect("it is set"))
            .map(|folder| folder.join(tool))
            .find(|path| path.is_file());
        std::os::unix::fs::symlink(path.expect("it is installed"), folder.path().join(tool)).expect("a link");
    }
    let mut prompt = Prompt::start_with("relayed", |command| {
        command.env("TEAMSTER_DEBUG", "1").env("PATH", folder.path());
    });
    prompt.expect_prompt("root/child");
    assert_has(&prompt.line("locals"), &["gdb is not installed"]);
    assert_has(&prompt.line("p double"), &["gdb is not installed"]);
    assert_has(&prompt.line("bt"), &["crashers::crashes::divide"]);
    prompt.enter("gdb");
    prompt.says("gdb");
    prompt.expect_prompt("root/child");
    prompt.enter("off");
    prompt.ends_with(1);
}
