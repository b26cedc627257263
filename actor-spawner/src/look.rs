//! What runs now, and how much has it to do?
use std::collections::HashMap;

use teamster::discovery::{FolderError, Load, Tree, TreeActor, trees};

/// A tree with what its actors tell of themselves.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) tree: Tree,
    loads: HashMap<uuid::Uuid, Load>,
}

impl Seen {
    /// `None`: it is stopped, starts or ends, so that it tells nothing.
    pub(crate) fn load(&self, actor: &TreeActor) -> Option<&Load> {
        self.loads.get(&actor.aid.uuid())
    }
}

/// All trees of this user, asked side by side: one that is silent holds up no other.
pub(crate) fn look() -> Result<Vec<Seen>, FolderError> {
    let trees = trees()?;
    Ok(std::thread::scope(|scope| {
        let asking: Vec<_> = trees.into_iter().map(|tree| scope.spawn(|| seen(tree))).collect();
        asking.into_iter().map(|asked| asked.join().expect("asking does not panic")).collect()
    }))
}

fn seen(tree: Tree) -> Seen {
    // A root that is stopped answers nothing, or it has ended meanwhile: then its actors are shown without.
    let told = if tree.actors.is_empty() { Vec::new() } else { tree.loads().unwrap_or_default() };
    let loads: HashMap<_, _> = told.into_iter().map(|load| (load.actor, load)).collect();
    let mut tree = tree;
    for actor in tree.actors.iter_mut().filter(|actor| !actor.is_here) {
        let load = loads.get(&actor.aid.uuid());
        (actor.rss_bytes, actor.cpu) = (load.map(|load| load.rss_bytes), load.map(|load| load.cpu));
    }
    Seen { tree, loads }
}

/// The share of one processor that an actor has taken since its start, in percent.
pub(crate) fn cpu_percent(actor: &TreeActor) -> Option<f64> {
    let age = actor.age.as_secs_f64();
    actor.cpu.map(|cpu| if age > 0.0 { 100.0 * cpu.as_secs_f64() / age } else { 0.0 })
}
