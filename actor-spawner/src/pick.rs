//! Which actor is meant?
use anyhow::bail;
use teamster::discovery::{Tree, TreeActor};
use uuid::Uuid;

use crate::text::printable;

/// The one actor of this name, or whose uuid begins so. `frank@1234abcd`, as it is printed everywhere, is one too.
pub(crate) fn pick<'a>(trees: &'a [Tree], wanted: &str) -> anyhow::Result<(&'a Tree, &'a TreeActor)> {
    let all: Vec<(&Tree, &TreeActor)> =
        trees.iter().flat_map(|tree| tree.actors.iter().map(move |actor| (tree, actor))).collect();
    let fitting: Vec<_> = all.iter().filter(|(_, actor)| fits(actor, wanted)).copied().collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => {
            let silent = trees.iter().filter(|tree| tree.actors.is_empty()).map(|tree| tree.pid.to_string());
            let silent: Vec<String> = silent.collect();
            let more = match silent.is_empty() {
                true => String::new(),
                false => format!(" (the trees of these pids do not answer: {})", silent.join(", ")),
            };
            bail!("no actor is called {}, and no uuid begins so{more}", printable(wanted))
        }
        several => {
            let listed: Vec<String> = several.iter().map(|(tree, actor)| line(tree, actor)).collect();
            bail!("{} actors are meant by {}: say which uuid\n{}", several.len(), printable(wanted), listed.join("\n"))
        }
    }
}

fn fits(actor: &TreeActor, wanted: &str) -> bool {
    is_called(actor.aid.name(), actor.aid.uuid(), wanted)
}

/// Whether an actor is meant by these words: its name, the beginning of its uuid, or both as they are printed.
pub(crate) fn is_called(name: &str, uuid: Uuid, wanted: &str) -> bool {
    let digits = uuid.simple().to_string();
    let is_uuid = |text: &str| {
        let text = text.replace('-', "").to_ascii_lowercase();
        !text.is_empty() && digits.starts_with(&text)
    };
    let is_printed = wanted.rsplit_once('@').is_some_and(|(before, uuid)| before == name && is_uuid(uuid));
    name == wanted || is_uuid(wanted) || is_printed
}

/// Where it is: the uuid comes first, to be copied.
fn line(tree: &Tree, actor: &TreeActor) -> String {
    let aid = &actor.aid;
    let uuid = aid.uuid().simple().to_string();
    format!("  {}  {} (pid {}, in the tree of pid {})", &uuid[..8], printable(aid.name()), aid.pid(), tree.pid)
}
