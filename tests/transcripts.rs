//! The transcripts of docs/debugging.md are what the examples show on a terminal. `TEAMSTER_BLESS=1` writes them anew.
#![cfg(feature = "debug")]
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/program.rs"]
mod program;
use program::Terminal;

const PAGE: &str = "docs/debugging.md";
const BEGIN: &str = "```transcript\n";
const END: &str = "```\n";

#[test]
fn the_page_shows_what_the_examples_do() {
    let page = fs::read_to_string(path()).expect("there is the page");
    let mut fresh = String::new();
    let mut rest = page.as_str();
    while let Some((before, block)) = rest.split_once(BEGIN) {
        let (block, after) = block.split_once(END).expect("a block ends");
        fresh += &format!("{before}{BEGIN}{}{END}", run(block));
        rest = after;
    }
    fresh += rest;
    if std::env::var_os("TEAMSTER_BLESS").is_some() {
        fs::write(path(), &fresh).expect("it is ours to write");
    }
    assert!(page == fresh, "{PAGE} is not what the examples show; TEAMSTER_BLESS=1 writes it anew:\n{fresh}");
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)
}

/// Runs what the first line of a block says, types what stands behind its prompts, and gives the block anew.
///
/// Two actors that crash at once have no order, and the second may be late: it is run until they come as they do on the
/// page.
fn run(block: &str) -> String {
    let (head, said) = block.split_once('\n').expect("a command");
    let example = head.strip_prefix("$ cargo run --example ").expect("an example");
    let typed: Vec<(&str, &str)> = said.lines().filter(|line| line.starts_with("(root")).map(prompt_and_line).collect();
    let is_blessed = std::env::var_os("TEAMSTER_BLESS").is_some();
    let mut fresh = String::new();
    for _ in 0..RUNS {
        let Some(shown) = played(example, &typed) else { continue };
        fresh = format!("{head}\n{}", stable(&plain(&shown)));
        if is_blessed || fresh == block {
            break;
        }
    }
    fresh
}

/// About half of the runs are in the other order: fifty in a row are not.
const RUNS: usize = 50;

fn prompt_and_line(line: &str) -> (&str, &str) {
    let end = line.find(") ").expect("a prompt") + 2;
    line.split_at(end)
}

/// What an example shows when these lines are typed; `None` if another prompt comes than is expected.
fn played(example: &str, typed: &[(&str, &str)]) -> Option<String> {
    let sockets = tempfile::tempdir().expect("a folder");
    let mut terminal = Terminal::new();
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(built(example))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TERM", "xterm")
        .env("RUST_BACKTRACE", "0")
        .env("XDG_STATE_HOME", sockets.path())
        .env("TEAMSTER_DIR", sockets.path())
        .env_remove("TEAMSTER_DEBUG")
        .env_remove("TEAMSTER_DEBUG_LISTEN")
        .stdin(terminal.screen())
        .stdout(terminal.screen())
        .stderr(terminal.screen())
        .process_group(0);
    let mut child = command.spawn().expect("the example starts");
    drop(command);
    let (mut shown, mut is_expected) = (String::new(), true);
    for (number, (prompt, line)) in typed.iter().enumerate() {
        // The editor says when it has given a line away: what stands there before is the last one.
        let part = terminal.shown_until(|text| {
            (number == 0 || text.contains("\x1b[?2004l")) && plain(text).lines().last().is_some_and(is_prompt)
        });
        is_expected = plain(&part).ends_with(prompt);
        shown += &part;
        terminal.types(if is_expected { line } else { "abort" });
        if !is_expected {
            break;
        }
    }
    shown += &terminal.shown();
    let status = child.wait().expect("it is our child");
    assert!(status.code().is_some(), "it died: {shown}");
    is_expected.then_some(shown)
}

fn is_prompt(line: &str) -> bool {
    line.starts_with("(root") && line.ends_with(") ")
}

fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("we run");
    test.parent().and_then(Path::parent).expect("target/debug/deps/test").join("examples").join(example)
}

/// Without what moves the cursor, as it stands on the screen.
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut chars = shown.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|char| !char.is_ascii_alphabetic()) {}
            }
            '\r' => {}
            char => text.push(char),
        }
    }
    text
}

/// Without what differs from run to run.
fn stable(text: &str) -> String {
    let mut stable = String::new();
    for line in text.lines().filter(|line| !line.starts_with("still here")) {
        let mut line = line.trim_end().to_owned();
        for (before, number) in
            [("(pid ", "4711"), ("thread ", "4712"), ("@", "1a2b3c4d"), ("order#", "1"), ("before = ", "0")]
        {
            let mut from = 0;
            while let Some(at) = line[from..].find(before).map(|at| from + at + before.len()) {
                let digits = line[at..].chars().take_while(|char| char.is_ascii_hexdigit()).count();
                if digits > 0 {
                    line.replace_range(at..at + digits, number);
                }
                from = at;
            }
        }
        if let Some(ticks) = line.strip_suffix(" ticks while it stood still")
            && ticks.parse::<u32>().is_ok_and(|ticks| ticks > 0)
        {
            line = "28 ticks while it stood still".to_owned();
        }
        // Whether the second one has come by then is chance.
        if let Some(at) = line.find("  [1 more waiting") {
            line.truncate(at);
        }
        stable += &line;
        stable.push('\n');
    }
    stable
}
