//! The command line of teamster: what runs on this machine?
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use teamster::discovery::{ActorState, Tree, TreeActor, trees};

/// Looks at this user's running actor trees.
#[derive(Debug, Parser)]
#[command(name = "teamster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the actors of all running trees, a line each.
    Ps(Output),
    /// Draws the running trees.
    Tree(Output),
    /// Prints what every actor does at this moment, stuck and stopped ones too.
    Dump(Dump),
    /// Opens the debugger's prompt of a tree in this terminal.
    Attach(Socket),
}

#[derive(Debug, Args)]
struct Socket {
    /// What `TEAMSTER_DEBUG_LISTEN` says to the tree.
    #[arg(env = "TEAMSTER_DEBUG_LISTEN")]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct Dump {
    /// Only the actors of this name, or whose uuid begins so, and what is below them.
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Output {
    /// Prints a JSON array of trees instead, with all that is known.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teamster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    if let Command::Attach(Socket { socket }) = &command {
        return teamster::debug::attach(socket).with_context(|| {
            format!(
                "nobody to attach to at {}: a tree listens there while TEAMSTER_DEBUG_LISTEN says so to it, and an \
                     actor of it has stopped",
                socket.display()
            )
        });
    }
    let trees = trees()?;
    if trees.is_empty() {
        eprintln!("no trees are running");
    }
    let text = match command {
        Command::Ps(Output { json: true }) | Command::Tree(Output { json: true }) => {
            format!("{:#}\n", Value::from_iter(trees.iter().map(tree_json)))
        }
        Command::Ps(_) => aligned(&PS_HEADER, &ps_rows(&trees)),
        Command::Tree(_) => aligned(&TREE_HEADER, &tree_rows(&trees)),
        Command::Dump(Dump { name }) => dumps(&trees, name.as_deref())?,
        Command::Attach(_) => String::new(), // it has been seen to
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `teamster ps | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// All trees that have such an actor. One that does not answer is left out, and that is said.
fn dumps(trees: &[Tree], name: Option<&str>) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut silent = 0;
    for tree in trees {
        match teamster::debug::dump(&tree.folder, name) {
            Ok(dump) => text.extend(dump),
            Err(error) => {
                silent += 1;
                eprintln!("teamster: the tree of pid {} does not answer: {error}", tree.pid);
            }
        }
    }
    match name {
        Some(name) if text.is_empty() && silent == 0 && !trees.is_empty() => {
            anyhow::bail!("no actor is called {}, and no uuid begins so", printable(name))
        }
        _ if text.is_empty() && silent > 0 => anyhow::bail!("no tree answers"),
        _ => Ok(text),
    }
}

const PS_HEADER: [&str; 6] = ["NAME", "UUID", "PID", "STATE", "AGE", "PARENT"];
const TREE_HEADER: [&str; 5] = ["NAME", "UUID", "PID", "STATE", "AGE"];

fn ps_rows(trees: &[Tree]) -> Vec<[String; 6]> {
    let mut rows = Vec::new();
    for tree in trees {
        if tree.actors.is_empty() {
            let [name, uuid, pid, state, age] = silent(tree);
            rows.push([name, uuid, pid, state, age, "-".into()]);
        }
        for actor in &tree.actors {
            let [uuid, pid, state, age] = columns(actor);
            rows.push([printable(actor.aid.name()), uuid, pid, state, age, parent(tree, actor)]);
        }
    }
    rows
}

fn tree_rows(trees: &[Tree]) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for tree in trees {
        if tree.actors.is_empty() {
            rows.push(silent(tree));
        }
        // Whoever has lost its parent stands on the left too: nobody may be left out.
        let tops = tree.actors.iter().filter(|actor| parent_of(tree, actor).is_none());
        for top in tops {
            draw(tree, top, "", "", &mut rows);
        }
    }
    rows
}

/// One actor with its children; `first` stands before its own line, `rest` before theirs.
fn draw(tree: &Tree, actor: &TreeActor, first: &str, rest: &str, rows: &mut Vec<[String; 5]>) {
    let [uuid, pid, state, age] = columns(actor);
    rows.push([format!("{first}{}", printable(actor.aid.name())), uuid, pid, state, age]);
    let children: Vec<&TreeActor> = tree.actors.iter().filter(|child| child.parent == Some(actor.aid.uuid())).collect();
    for (index, child) in children.iter().enumerate() {
        let (branch, below) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(tree, child, &format!("{rest}{branch}"), &format!("{rest}{below}"), rows);
    }
}

fn columns(actor: &TreeActor) -> [String; 4] {
    let process = actor.process_state.map_or_else(|| "gone".into(), String::from);
    [
        actor.aid.uuid().simple().to_string()[..8].into(),
        actor.aid.pid().to_string(),
        format!("{} {process}", state(actor.state)),
        age(actor.age),
    ]
}

/// A tree that does not answer: what the kernel knows of its root.
fn silent(tree: &Tree) -> [String; 5] {
    let process = tree.process_state.map_or_else(|| "gone".into(), String::from);
    ["?".into(), "-".into(), tree.pid.to_string(), format!("silent {process}"), "-".into()]
}

fn parent(tree: &Tree, actor: &TreeActor) -> String {
    match (parent_of(tree, actor), actor.parent) {
        (Some(parent), _) => printable(&parent.aid.to_string()),
        (None, Some(uuid)) => uuid.simple().to_string()[..8].into(),
        (None, None) => "-".into(),
    }
}

fn parent_of<'a>(tree: &'a Tree, actor: &TreeActor) -> Option<&'a TreeActor> {
    tree.actors.iter().find(|other| Some(other.aid.uuid()) == actor.parent)
}

fn state(state: ActorState) -> &'static str {
    match state {
        ActorState::Booting => "booting",
        ActorState::Ready => "ready",
        _ => "unknown",
    }
}

/// The two largest units: `2h05m`.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A name is the user's: it must not move the terminal's cursor.
fn printable(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    name.chars().map(escaped).collect()
}

/// Columns as wide as their widest cell. Nothing at all without rows.
fn aligned<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let header = header.map(String::from);
    let mut widths = [0; N];
    for row in std::iter::once(&header).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    std::iter::once(&header).chain(rows).map(line).collect()
}

fn tree_json(tree: &Tree) -> Value {
    json!({
        "folder": tree.folder.to_string_lossy(),
        "pid": tree.pid,
        "process_state": tree.process_state,
        "answered": !tree.actors.is_empty(),
        "actors": tree.actors.iter().map(actor_json).collect::<Value>(),
    })
}

fn actor_json(actor: &TreeActor) -> Value {
    json!({
        "name": actor.aid.name(),
        "uuid": actor.aid.uuid().to_string(),
        "pid": actor.aid.pid(),
        "host": actor.aid.host(),
        "parent": actor.parent.map(|uuid| uuid.to_string()),
        "state": state(actor.state),
        "process_state": actor.process_state,
        "age_seconds": actor.age.as_secs_f64(),
        "addr": actor.addr.as_ref().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_two_units() {
        let cases = [(5, "5s"), (60, "1m00s"), (3_599, "59m59s"), (7_500, "2h05m"), (360_000, "4d04h")];
        for (seconds, text) in cases {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["é".into(), "1".into()], ["long name".into(), "2".into()]];
        assert_eq!(aligned(&["A", "B"], &rows), "A          B\né          1\nlong name  2\n");
        assert_eq!(aligned(&["A"], &[]), "");
    }

    #[test]
    fn a_name_does_not_reach_the_terminal_as_a_command() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
