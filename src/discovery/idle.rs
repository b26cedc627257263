//! Which connections wait for a request?
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// The idle connections of a registrar.
#[derive(Clone, Debug, Default)]
pub(super) struct Idle {
    list: Arc<Mutex<List<AbortHandle>>>,
}

/// A connection's place in the list while it waits for a request, until it ends.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    idle: Idle,
    /// Its own, while it is not in the list.
    task: Option<AbortHandle>,
}

impl Idle {
    /// A place for a connection whose task is to be started now.
    pub(super) fn slot(&self) -> Slot {
        Slot { id: self.list.lock().number(), idle: self.clone(), task: None }
    }

    /// Says which task it is: at once, before it can have run.
    pub(super) fn fill(&self, id: u64, task: AbortHandle, now: Instant) {
        self.list.lock().silent.insert(id, (now, task));
    }

    /// Closes the one that a newcomer may have the place of. `false` if there is none.
    pub(super) fn close_oldest(&self, now: Instant) -> bool {
        let oldest = self.list.lock().take_oldest(now);
        oldest.map(|task| task.abort()).is_some()
    }

    /// The same among those that have said nothing yet.
    pub(super) fn close_silent(&self, now: Instant) -> bool {
        let oldest = self.list.lock().take_silent(now);
        oldest.map(|task| task.abort()).is_some()
    }

    /// How many have said nothing yet.
    pub(super) fn silent(&self) -> usize {
        self.list.lock().silent.len()
    }

    /// How many were answered, and may ask again.
    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.list.lock().resting.len()
    }
}

impl Slot {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// It has asked: it is closed by nobody until it is answered.
    pub(super) fn asked(&mut self) {
        self.task = self.idle.list.lock().remove(self.id);
    }

    /// It was answered, and may ask again, as long as nobody else needs its place.
    pub(super) fn answered(&mut self) {
        let Some(task) = self.task.take() else { return };
        let (id, surplus) = self.idle.list.lock().rest(task);
        self.id = id;
        if let Some(task) = surplus {
            task.abort();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.idle.list.lock().remove(self.id));
    }
}

/// Both oldest first.
#[derive(Debug)]
struct List<T> {
    next: u64,
    silent: BTreeMap<u64, (Instant, T)>,
    resting: BTreeMap<u64, T>,
}

impl<T> List<T> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Gives its number, and whose place it takes if too many rest.
    fn rest(&mut self, task: T) -> (u64, Option<T>) {
        let id = self.number();
        self.resting.insert(id, task);
        let surplus = (self.resting.len() > RESTING).then(|| self.resting.pop_first()).flatten();
        (id, surplus.map(|(_, task)| task))
    }

    fn remove(&mut self, id: u64) -> Option<T> {
        self.silent.remove(&id).map(|(_, task)| task).or_else(|| self.resting.remove(&id))
    }

    /// The one that has said nothing for too long, or else the one that rests for the longest time: its client
    /// connects anew when it asks again.
    fn take_oldest(&mut self, now: Instant) -> Option<T> {
        self.take_silent(now).or_else(|| self.resting.pop_first().map(|(_, task)| task))
    }

    /// Who has just connected is about to ask, and stays.
    fn take_silent(&mut self, now: Instant) -> Option<T> {
        let oldest = self.silent.first_entry().filter(|oldest| now.duration_since(oldest.get().0) >= PATIENCE)?;
        Some(oldest.remove().1)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { next: 0, silent: BTreeMap::new(), resting: BTreeMap::new() }
    }
}

/// How long a client may take from connecting to asking while others want its place.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many may rest: the descriptors are the root's. Above it the one that rests for the longest time is closed.
pub(super) const RESTING: usize = 128;

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
        assert_eq!(idle.silent(), 2);
        tasks.shutdown().await;
        assert_eq!(idle.silent(), 0);
    }

    #[tokio::test]
    async fn who_has_asked_is_not_closed_and_who_was_answered_may_be() {
        let idle = Idle::default();
        let mut slot = idle.slot();
        let task = tokio::task::JoinSet::new().spawn(std::future::pending::<()>());
        idle.fill(slot.id(), task, Instant::now());
        let late = Instant::now() + PATIENCE;
        slot.asked();
        assert!(!idle.close_oldest(late));
        slot.answered();
        assert_eq!((idle.silent(), idle.resting()), (0, 1));
        slot.asked();
        assert!(!idle.close_oldest(late));
        slot.answered();
        assert!(idle.close_oldest(late));
        slot.asked(); // it did, at the same moment: it is closed all the same, once
        slot.answered();
        assert_eq!((idle.silent(), idle.resting()), (0, 0));
        assert!(!idle.close_oldest(late));
    }

    /// `s`: one comes and says nothing; `r`: one was answered; `-`: a second passes; `c`: a place is needed, `S`: too many are silent.
    fn check(script: &str, expected: &[Option<u64>]) {
        let mut list = List::default();
        let mut now = Instant::now();
        let mut closed = Vec::new();
        for step in script.chars() {
            match step {
                's' => {
                    let id = list.number();
                    list.silent.insert(id, (now, id));
                }
                'r' => {
                    let task = list.next + 1;
                    let (id, surplus) = list.rest(task);
                    assert_eq!((id, surplus), (task, None));
                }
                '-' => now += PATIENCE,
                'S' => closed.push(list.take_silent(now)),
                'c' => closed.push(list.take_oldest(now)),
                other => panic!("no step {other:?}"),
            }
        }
        assert_eq!(closed, expected, "{script}");
    }

    #[test]
    fn the_longest_idle_one_makes_room() {
        check("c", &[None]);
        check("sc-c", &[None, Some(1)]); // it may be about to ask
        check("rrrccc", &[Some(1), Some(2), Some(3)]);
        check("srrc", &[Some(2)]);
        check("srr-cc", &[Some(1), Some(2)]);
        check("rs-Sc", &[Some(2), Some(1)]);
        check("rsS-Sc", &[None, Some(2), Some(1)]);
        check("rs-sccc", &[Some(2), Some(1), None]);
    }

    #[test]
    fn no_more_than_so_many_rest() {
        let mut list = List::default();
        let surplus: Vec<_> = (0..RESTING + 2).map(|task| list.rest(task).1).collect();
        assert_eq!(surplus[RESTING..], [Some(0), Some(1)]);
        assert!(surplus[..RESTING].iter().all(Option::is_none));
        assert_eq!(list.resting.len(), RESTING);
    }
}
