//! The prompt itself: whose turn it is, what its commands answer, how its line is edited.
mod support;

use rustix::process::Signal;
use support::{Prompt, assert_has};

/// Numbers that look random, and are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("it is small")
    }
}

#[test]
fn two_crashers_take_turns_and_a_third_actors_output_waits() {
    let rounds: u64 = std::env::var("TEAMSTER_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let seed: u64 = std::env::var("TEAMSTER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    for seed in seed..seed + rounds {
        println!("TEAMSTER_SEED={seed}");
        take_turns(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

fn take_turns(random: &mut Random) {
    let mut prompt = Prompt::start("two_crashers");
    let before = prompt.expect_any_prompt();
    // Else the first one may be through before the other one comes.
    let waits = random.below(2) == 0;
    let first = if before.ends_with("(root/left)") { "left" } else { "right" };
    let second = if first == "left" { "right" } else { "left" };
    for (turn, actor) in [first, second].into_iter().enumerate() {
        let path = format!("root/{actor}");
        if turn == 0 && waits {
            prompt.line_until("tree", "waits, 1 before it");
        }
        if turn == 1 {
            let banner = prompt.expect_prompt(&path);
            let is_at_once = banner.starts_with(&format!("-- panic in actor {path}"));
            assert!(is_at_once || !waits, "something comes between:\n{banner}");
        }
        let mut session = String::new();
        for _ in 0..random.below(6) {
            session += &something(&mut prompt, &path, random);
        }
        // What it says of itself in the log is no output that came between.
        assert!(!session.contains("still here"), "{session}");
        let other = if actor == "left" { "right" } else { "left" };
        assert!(
            !session.contains(&format!("({other})")) && !session.contains(&format!("actor root/{other}")),
            "{session}"
        );
        prompt.enter(if random.below(2) == 0 { "c" } else { "q" });
    }
    prompt.says("left: panic");
    prompt.says("right: panic");
    prompt.ends_with(0);
    assert_each_line_is_whole(&prompt.all());
}

/// Enters a command, or ctrl-c: what it showed.
fn something(prompt: &mut Prompt, path: &str, random: &mut Random) -> String {
    const COMMANDS: [(&str, &str); 8] = [
        ("bt", "price_at"),
        ("args", "crashers::crashes::crash#"),
        ("list", "->"),
        ("up", "crash (async)"),
        ("tree", "<- at the prompt"),
        ("help", "abort"),
        ("err", "index out of bounds"),
        ("nonsense", "is no command here"),
    ];
    if random.below(4) == 0 {
        prompt.types(["", "b", "abort"][random.below(3)]);
        prompt.types("\x03");
        prompt.says("ctrl-c clears the line");
        return prompt.expect_prompt(path);
    }
    let (command, answer) = COMMANDS[random.below(COMMANDS.len())];
    let text = prompt.line(command);
    assert!(text.contains(answer) || text.contains("outermost frame"), "{command}: {text}");
    text
}

/// Each of the talker's lines is there, in order, and alone in its row.
fn assert_each_line_is_whole(all: &str) {
    let numbers = all.lines().filter(|line| line.contains("still here")).map(|line| {
        let number = line.strip_prefix("still here, ").and_then(|number| number.parse::<usize>().ok());
        number.unwrap_or_else(|| panic!("a torn line: {line:?}"))
    });
    assert!(numbers.eq(0..all.matches("still here").count()), "{all}");
}

#[test]
fn whoever_waits_is_named_in_order_of_arrival() {
    let mut prompt = Prompt::start("three_pause");
    prompt.expect_any_prompt();
    let tree = prompt.line_until("tree", "waits, 2 before it");
    let place = |line: &str| {
        let name = line.trim().split(' ').next().unwrap_or_default().to_owned();
        match line {
            line if line.contains("<- at the prompt") => Some((0, name)),
            line if line.contains("waits, 1 before it") => Some((1, name)),
            line if line.contains("waits, 2 before it") => Some((2, name)),
            _ => None,
        }
    };
    let mut order: Vec<(usize, String)> = tree.lines().filter_map(place).collect();
    order.sort();
    let [_, (_, second), (_, third)] = &order[..] else { panic!("three stand still: {tree}") };
    prompt.enter("c");
    let banner = prompt.expect_prompt(&format!("root/{second}"));
    assert_has(&banner, &["more waiting: ", &format!("root/{third}")]);
    prompt.enter("off");
    prompt.ends_with(0);
}

#[test]
fn commands_answer() {
    let mut prompt = Prompt::start("two_in_one");
    prompt.expect_prompt("root/worker");
    let tree = prompt.line("tree");
    assert!(tree.starts_with("root (pid ") && tree.contains("\n  worker (pid "), "{tree}");
    assert_has(&tree, &["<- at the prompt"]);
    assert_has(&prompt.line("help"), &["bt [full]", "locals", "retry", "ctrl-d", "off"]);
    assert_has(&prompt.line("quux"), &["\"quux\" is no command here: help lists them"]);
    assert_has(&prompt.line("retry"), &["only an endpoint that is about to return an error"]);
    assert_has(&prompt.line("f 77"), &["there is no frame"]);
    assert_has(&prompt.line("f"), &["there is no frame"]);
    assert_has(&prompt.line("p"), &["which expression?"]);
    assert_has(&prompt.line("let x"), &["to which value?"]);
    assert_has(&prompt.line("probe"), &["this actor has no probes"]);
    assert_has(&prompt.line("dap"), &["lldb-dap", "\"request\":\"attach\"", "\"pid\":"]);
    assert_has(&prompt.line("log"), &["nothing was printed"]);
    assert_eq!(prompt.line(""), "");
    assert_has(&prompt.line("down"), &["innermost frame"]);
    prompt.ctrl_d(); // as `c`
    prompt.says("-- panic in actor root/worker");
    prompt.expect_prompt("root/worker");
    prompt.enter("continue");
    prompt.says("one: panic");
    prompt.ends_with(0);
}

#[test]
fn a_probe_answers_and_one_that_panics_is_contained() {
    let mut prompt = Prompt::start("probes");
    prompt.expect_prompt("root/child");
    assert_eq!(prompt.line("probe queue").trim(), "3 jobs");
    assert_has(&prompt.line("probe"), &["probes: queue, bad"]);
    assert_has(&prompt.line("probe other"), &["no probe is called \"other\""]);
    assert_has(&prompt.line("probe bad"), &["contained"]);
    assert_eq!(prompt.line("probe queue").trim(), "3 jobs");
    prompt.enter("c");
    prompt.says("child: panic");
    let rest = prompt.ends_with(0);
    assert!(!rest.contains("a probe panics"), "{rest}");
}

#[test]
fn tab_completes_a_command_and_the_arrow_brings_back_the_last_one() {
    let mut prompt = Prompt::start("root_panics");
    prompt.expect_prompt("root");
    prompt.types("tr\t");
    prompt.shows("(root) tree");
    assert_has(&prompt.line(""), &["root (pid"]);
    prompt.types("\x1b[A");
    prompt.shows("(root) tree");
    assert_has(&prompt.line(""), &["root (pid"]);
    prompt.enter("c");
    prompt.ends_with(101);
    let history = std::fs::read_to_string(prompt.state().join("debug-history")).expect("it is kept");
    assert!(history.lines().any(|line| line == "tree"), "{history}");
}

#[test]
fn what_is_typed_ahead_is_not_lost() {
    let mut prompt = Prompt::start("relayed");
    prompt.expect_prompt("root/child");
    prompt.types("args\rtree\rhelp\r");
    prompt.says("(1, 0)");
    prompt.says("<- at the prompt");
    prompt.says("off ");
    prompt.expect_prompt("root/child");
    // To the next prompt, too.
    prompt.types("c\rtree\rc\r");
    prompt.says("-- relayed error");
    prompt.says("<- at the prompt");
    prompt.ends_with(1);
}

#[test]
fn ctrl_c_while_a_command_runs_ends_nothing() {
    let mut prompt = Prompt::start("crash_and_wait");
    prompt.expect_prompt("root/child");
    for _ in 0..10 {
        // Whether it is a key or already a signal, or not any more, is for the scheduler to say.
        prompt.enter("bt");
        prompt.types("\x03");
        prompt.says("ctrl-c ");
        prompt.expect_prompt("root/child");
        assert_eq!(prompt.line_until("args", "(1, 0)").lines().count(), 1);
    }
    prompt.enter("c");
    prompt.says("child: panic");
    prompt.types("\x03");
    prompt.ends_by(Signal::INT);
}

#[test]
fn a_long_answer_is_shown_a_screen_at_a_time() {
    let mut prompt = Prompt::start("relayed");
    prompt.expect_prompt("root/child");
    prompt.resize(6, 200);
    prompt.enter("help");
    prompt.shows("more lines: space = next, q = leave --");
    prompt.types(" ");
    let answer = prompt.expect_prompt("root/child");
    assert!(answer.starts_with("bt [full]") && answer.ends_with("this") && !answer.contains("more lines"), "{answer}");
    assert_eq!(answer.lines().count(), 10, "{answer}");
    prompt.enter("help");
    prompt.shows("more lines: space = next, q = leave --");
    prompt.types("q");
    assert_eq!(prompt.expect_prompt("root/child").lines().count(), 5);
    // What wraps takes more rows.
    prompt.resize(6, 70);
    prompt.enter("help");
    prompt.shows("-- 8 more lines");
    prompt.types("q");
    prompt.expect_prompt("root/child");
    prompt.resize(6, 200);
    prompt.enter("help");
    prompt.shows("more lines: space = next, q = leave --");
    prompt.types("\x03");
    prompt.expect_prompt("root/child");
    prompt.enter("off");
    prompt.ends_with(1);
}

#[test]
fn a_window_that_changes_its_size_keeps_the_line() {
    let mut prompt = Prompt::start("relayed");
    prompt.expect_prompt("root/child");
    prompt.types("ar");
    prompt.shows("(root/child) ar");
    prompt.resize(40, 120);
    prompt.types("gs");
    prompt.shows("(root/child) args");
    assert_has(&prompt.line(""), &["(1, 0)"]);
    prompt.enter("off");
    prompt.ends_with(1);
}
