//! What do `ps` and `tree` say about the trees that run?
use serde_json::{Value, json};
use teamster::discovery::{ActorState, Tree, TreeActor};

use crate::look::{Seen, cpu_percent};
use crate::text::{age, aligned, bytes, printable};

/// A line for each actor.
pub(crate) fn ps(trees: &[Seen]) -> String {
    aligned(&PS_HEADER, &ps_rows(trees))
}

/// The same, drawn as trees.
pub(crate) fn tree(trees: &[Seen]) -> String {
    aligned(&TREE_HEADER, &tree_rows(trees))
}

/// All that is known, as JSON.
pub(crate) fn json(trees: &[Seen]) -> String {
    format!("{:#}\n", Value::from_iter(trees.iter().map(tree_json)))
}

const PS_HEADER: [&str; 10] = ["NAME", "UUID", "HOST", "PID", "STATE", "CALLS", "RSS", "CPU%", "AGE", "PARENT"];
const TREE_HEADER: [&str; 9] = ["NAME", "UUID", "HOST", "PID", "STATE", "CALLS", "RSS", "CPU%", "AGE"];

fn ps_rows(trees: &[Seen]) -> Vec<[String; 10]> {
    let mut rows = Vec::new();
    for seen in trees {
        if seen.tree.actors.is_empty() {
            let [name, columns @ ..] = silent(&seen.tree);
            rows.push(row(name, columns, "-".into()));
        }
        for actor in &seen.tree.actors {
            rows.push(row(printable(actor.aid.name()), columns(seen, actor), parent(&seen.tree, actor)));
        }
    }
    rows
}

fn row(name: String, [uuid, host, pid, state, calls, rss, cpu, age]: [String; 8], parent: String) -> [String; 10] {
    [name, uuid, host, pid, state, calls, rss, cpu, age, parent]
}

fn tree_rows(trees: &[Seen]) -> Vec<[String; 9]> {
    let mut rows = Vec::new();
    for seen in trees {
        if seen.tree.actors.is_empty() {
            rows.push(silent(&seen.tree));
        }
        for (name, actor) in drawn(&seen.tree) {
            let [uuid, host, pid, state, calls, rss, cpu, age] = columns(seen, actor);
            rows.push([name, uuid, host, pid, state, calls, rss, cpu, age]);
        }
    }
    rows
}

/// The actors of a tree, each below its parent, with their names in a drawing of it.
pub(crate) fn drawn(tree: &Tree) -> Vec<(String, &TreeActor)> {
    let mut lines = Vec::new();
    // Whoever has lost its parent stands on the left too: nobody may be left out.
    for top in tree.actors.iter().filter(|actor| parent_of(tree, actor).is_none()) {
        draw(tree, top, "", "", &mut lines);
    }
    lines
}

/// One actor with its children; `first` stands before its own line, `rest` before theirs.
fn draw<'a>(tree: &'a Tree, actor: &'a TreeActor, first: &str, rest: &str, lines: &mut Vec<(String, &'a TreeActor)>) {
    lines.push((format!("{first}{}", printable(actor.aid.name())), actor));
    let children: Vec<&TreeActor> = tree.actors.iter().filter(|child| child.parent == Some(actor.aid.uuid())).collect();
    for (index, child) in children.iter().enumerate() {
        let (branch, below) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(tree, child, &format!("{rest}{branch}"), &format!("{rest}{below}"), lines);
    }
}

fn columns(seen: &Seen, actor: &TreeActor) -> [String; 8] {
    let unknown = || "?".to_owned();
    [
        short(actor),
        printable(actor.aid.host()),
        actor.aid.pid().to_string(),
        state_text(actor),
        seen.load(actor).map_or_else(unknown, |load| load.in_flight.to_string()),
        actor.rss_bytes.map_or_else(unknown, bytes),
        cpu_percent(actor).map_or_else(unknown, |percent| format!("{percent:.1}")),
        age(actor.age),
    ]
}

/// As much of its uuid as is shown.
pub(crate) fn short(actor: &TreeActor) -> String {
    actor.aid.uuid().simple().to_string()[..8].into()
}

/// How far it has come, and its process's state.
pub(crate) fn state_text(actor: &TreeActor) -> String {
    match (actor.process_state, actor.is_here) {
        (Some(process), _) => format!("{} {process}", state(actor.state)),
        (None, true) => format!("{} gone", state(actor.state)),
        (None, false) => state(actor.state).to_owned(), // what its process does is seen over there alone
    }
}

/// A tree that does not answer: what the kernel knows of its root.
fn silent(tree: &Tree) -> [String; 9] {
    let process = tree.process_state.map_or_else(|| "gone".into(), String::from);
    let none = || "-".to_owned();
    ["?".into(), none(), none(), tree.pid.to_string(), format!("silent {process}"), none(), none(), none(), none()]
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

fn tree_json(seen: &Seen) -> Value {
    let tree = &seen.tree;
    json!({
        "folder": tree.folder.to_string_lossy(),
        "pid": tree.pid,
        "process_state": tree.process_state,
        "answered": !tree.actors.is_empty(),
        "actors": tree.actors.iter().map(|actor| actor_json(seen, actor)).collect::<Value>(),
    })
}

/// What an actor does not tell is null.
fn actor_json(seen: &Seen, actor: &TreeActor) -> Value {
    let load = seen.load(actor);
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
        "rss_bytes": actor.rss_bytes,
        "cpu_seconds": actor.cpu.map(|cpu| cpu.as_secs_f64()),
        "cpu_percent": cpu_percent(actor),
        "calls_in_flight": load.map(|load| load.in_flight),
        "calls_served": load.map(|load| load.served),
        "calls_waited_for": load.map(|load| load.waits_for),
        "queued_bytes": load.map(|load| load.queued_bytes),
    })
}
