//! What do all threads of a root share about its tree's names?
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::table::{Liveness, NameTable, Record};
use crate::actor::process::since_boot;
use crate::msg::addr::Addrs;
use crate::msg::ident::Aid;

/// The names of this root's tree, and the news that they changed.
///
/// No call waits: what happens under the lock is a few map operations, and in a lookup one
/// `poll` without waiting for each candidate.
#[derive(Debug)]
pub(crate) struct Names {
    table: Mutex<NameTable>,
    changes: watch::Sender<()>,
}

impl Names {
    pub(crate) fn new() -> Arc<Names> {
        Arc::new(Names { table: Mutex::default(), changes: watch::Sender::new(()) })
    }

    /// Adds an actor that boots: it is listed, and not yet found.
    ///
    /// `pidfd` is a duplicate of its own; `None` for the root itself, and for an actor on another host, which lives until it
    /// is removed. An actor of this host without one is looked up in `/proc` at each lookup.
    pub(crate) fn insert(&self, aid: Aid, parent: Option<Uuid>, start_ticks: u64, pidfd: Option<OwnedFd>) {
        let liveness = Liveness::of(&aid, start_ticks, pidfd);
        let before = self.table.lock().insert(aid, parent, start_ticks, liveness, now_ns());
        drop(before);
        self.tell();
    }

    /// It serves now at `addrs`, so it is found from here on.
    pub(crate) fn set_ready(&self, aid: &Aid, addrs: Addrs) {
        self.table.lock().set_ready(aid, addrs, now_ns());
        self.tell();
    }

    /// It is gone.
    pub(crate) fn remove(&self, uuid: Uuid) {
        let removed = self.table.lock().remove(uuid);
        drop(removed); // closes its pidfd, after the unlock
        self.tell();
    }

    /// The newest living actor of this name that serves.
    pub(crate) fn find(&self, name: &str) -> Option<Record> {
        self.table.lock().find(name).cloned()
    }

    /// The living actors of this name (`None`: of any) that serve, in no order.
    pub(crate) fn serving(&self, name: Option<&str>) -> Vec<Record> {
        let table = self.table.lock();
        match name {
            Some(name) => table.find_all(name).cloned().collect(),
            None => table.serving().cloned().collect(),
        }
    }

    /// As `serving`, of those that are wanted: the others are not looked at.
    #[cfg(feature = "etcd")]
    pub(super) fn serving_if(&self, name: Option<&str>, is_wanted: impl Fn(Uuid) -> bool) -> Vec<Record> {
        self.table.lock().serving_if(name, is_wanted).cloned().collect()
    }

    /// Whether this one lives and serves.
    #[cfg(feature = "etcd")]
    pub(super) fn serves(&self, uuid: Uuid) -> bool {
        self.table.lock().serves(uuid)
    }

    /// All living actors, those that boot too, in no order.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.table.lock().all().cloned().collect()
    }

    /// Becomes ready after each change.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// How many wait for changes.
    #[cfg(test)]
    pub(super) fn waiters(&self) -> usize {
        self.changes.receiver_count()
    }

    /// Wakes those that wait for a name. Costs nothing if nobody does.
    pub(super) fn tell(&self) {
        self.changes.send_replace(());
    }
}

fn now_ns() -> u64 {
    u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX)
}
