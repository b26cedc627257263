//! Which connections have said nothing yet?
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// The silent connections, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

/// A connection's place in the list, until it has said something or ends.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    idle: Idle,
}

impl Idle {
    /// A place for a connection whose task is to be started now.
    pub(super) fn slot(&self) -> Slot {
        let mut list = self.list.lock();
        list.next += 1;
        Slot { id: list.next, idle: self.clone() }
    }

    /// Says which task it is: at once, before it can have run.
    pub(super) fn fill(&self, id: u64, task: AbortHandle) {
        self.list.lock().tasks.insert(id, task);
    }

    /// Closes the one that has been silent for the longest time. `false` if there is none.
    pub(super) fn close_oldest(&self) -> bool {
        let oldest = self.list.lock().tasks.pop_first();
        oldest.map(|(_, task)| task.abort()).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.list.lock().tasks.len()
    }
}

impl Slot {
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.idle.list.lock().tasks.remove(&self.id);
    }
}
