//! What do `ps` and `tree` say about the trees that run?
use serde_json::{Value, json};
use teamster::discovery::{ActorState, Tree, TreeActor};

use crate::text::{age, aligned, printable};

/// A line for each actor.
pub(crate) fn ps(trees: &[Tree]) -> String {
    aligned(&PS_HEADER, &ps_rows(trees))
}

/// The same, drawn as trees.
pub(crate) fn tree(trees: &[Tree]) -> String {
    aligned(&TREE_HEADER, &tree_rows(trees))
}

/// All that is known, as JSON.
pub(crate) fn json(trees: &[Tree]) -> String {
    format!("{:#}\n", Value::from_iter(trees.iter().map(tree_json)))
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
