//! Which connections have said nothing yet?
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    tasks: BTreeMap<u64, (Instant, AbortHandle)>,
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
    pub(super) fn fill(&self, id: u64, task: AbortHandle, now: Instant) {
        self.list.lock().tasks.insert(id, (now, task));
    }

    /// Closes the one that has been silent for the longest time, if that is long enough: who has
    /// just connected is about to ask. `false` if there is none.
    pub(super) fn close_oldest(&self, now: Instant) -> bool {
        let mut list = self.list.lock();
        match list.tasks.first_entry() {
            Some(oldest) if now.duration_since(oldest.get().0) >= PATIENCE => {
                let (_, task) = oldest.remove();
                drop(list);
                task.abort();
                true
            }
            _ => false,
        }
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

/// How long a client may take from connecting to asking while others want its place.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_when_its_time_is_over() {
        let idle = Idle::default();
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..3 {
            let slot = idle.slot();
            let id = slot.id();
            let task = tasks.spawn(async move {
                let _slot = slot;
                std::future::pending::<()>().await;
            });
            idle.fill(id, task, begun + PATIENCE * number);
        }
        assert!(!idle.close_oldest(begun));
        assert!(idle.close_oldest(begun + PATIENCE));
        assert!(!idle.close_oldest(begun + PATIENCE));
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        assert_eq!(idle.len(), 2);
        tasks.shutdown().await;
        assert_eq!(idle.len(), 0);
    }
}
