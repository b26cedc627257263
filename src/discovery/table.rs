//! Who has which name in one tree?
//!
//! No clock, no thread, no I/O but one question to the kernel in each lookup: does it live? So a
//! dead actor is never found, even while the news of its death is on its way.
use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actor::host::is_here;
use crate::actor::process::ProcessStat;
use crate::msg::addr::Addrs;
use crate::msg::ident::Aid;

/// What is known of one actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) aid: Aid,
    /// `None`: it is a root.
    pub(crate) parent: Option<Uuid>,
    pub(crate) start_ticks: u64,
    /// When it came into its table; no two of a table are equal.
    pub(crate) born: Place,
    /// `None`: it boots.
    pub(crate) serving: Option<Serving>,
}

/// Where an actor serves, and since when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) addrs: Addrs,
    pub(crate) since: Place,
}

/// A place in the order of events on this host: a time, and the uuid to break a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    since_boot_ns: u64,
    uuid: Uuid,
}

impl Place {
    /// One of another order.
    #[cfg(feature = "etcd")]
    pub(super) fn new(number: u64, uuid: Uuid) -> Place {
        Place { since_boot_ns: number, uuid }
    }

    #[cfg(feature = "etcd")]
    pub(super) fn number(&self) -> u64 {
        self.since_boot_ns
    }

    #[cfg(feature = "etcd")]
    pub(super) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The time, since this machine's boot.
    pub(super) fn since_boot(&self) -> Duration {
        Duration::from_nanos(self.since_boot_ns)
    }
}

impl Record {
    pub(crate) fn uuid(&self) -> Uuid {
        self.aid.uuid()
    }

    /// Its place among those that serve.
    pub(crate) fn since(&self) -> Option<Place> {
        self.serving.as_ref().map(|serving| serving.since)
    }
}

/// How the table finds out whether an actor lives.
#[derive(Debug)]
pub(crate) enum Liveness {
    /// It is this process.
    Ourselves,
    /// A pidfd, readable from the process's death on.
    Pidfd(OwnedFd),
    /// By pid and start time: costs no descriptor. For other trees, and where there was no pidfd.
    Stat { pid: u32, start_ticks: u64 },
    /// As its tree says, as long as that does: all that can be known of another host, or another pid namespace.
    Lease,
}

impl Liveness {
    /// What there is to go by for an actor's process.
    pub(crate) fn of(aid: &Aid, start_ticks: u64, pidfd: Option<OwnedFd>) -> Liveness {
        match pidfd {
            Some(pidfd) => Liveness::Pidfd(pidfd),
            None if !is_here(aid) => Liveness::Lease,
            None if aid.pid() == std::process::id() => Liveness::Ourselves,
            None => Liveness::Stat { pid: aid.pid(), start_ticks },
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        match self {
            Liveness::Ourselves | Liveness::Lease => true,
            Liveness::Pidfd(pidfd) => {
                let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
                // An error leaves the question open: the removal will come.
                !matches!(rustix::event::poll(&mut fds, Some(&Timespec::default())), Ok(1..))
            }
            Liveness::Stat { pid, start_ticks } => {
                ProcessStat::read(*pid).is_some_and(|stat| stat.is_alive() && stat.start_ticks == *start_ticks)
            }
        }
    }
}

/// The names of one tree.
#[derive(Debug, Default)]
pub(crate) struct NameTable {
    entries: HashMap<Uuid, Entry>,
    /// Those that serve, by name, in the order in which they began to.
    serving: HashMap<Box<str>, BTreeSet<Place>>,
    last_ns: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    record: Record,
    liveness: Liveness,
}

impl NameTable {
    /// Adds an actor that boots. Returns what had this uuid before.
    pub(crate) fn insert(
        &mut self,
        aid: Aid,
        parent: Option<Uuid>,
        start_ticks: u64,
        liveness: Liveness,
        now_ns: u64,
    ) -> Option<Entry> {
        let born = self.next_place(now_ns, aid.uuid());
        self.adopt(Record { aid, parent, start_ticks, born, serving: None }, liveness)
    }

    /// Adds an actor as another table knows it. Returns what had this uuid before.
    pub(crate) fn adopt(&mut self, record: Record, liveness: Liveness) -> Option<Entry> {
        let before = self.remove(record.uuid());
        if let Some(since) = record.since() {
            self.serving.entry(record.aid.name().into()).or_default().insert(since);
        }
        self.entries.insert(record.uuid(), Entry { record, liveness });
        before
    }

    /// From now on it is found. An unknown one stays unknown: it was removed already.
    pub(crate) fn set_ready(&mut self, aid: &Aid, addrs: Addrs, now_ns: u64) {
        let since = self.next_place(now_ns, aid.uuid());
        let Some(entry) = self.entries.get_mut(&aid.uuid()) else { return };
        if !is_here(aid) {
            entry.record.aid = aid.clone(); // where it has come to, it knows itself
        }
        let places = self.serving.entry(entry.record.aid.name().into()).or_default();
        if let Some(before) = entry.record.serving.replace(Serving { addrs, since }) {
            places.remove(&before.since);
        }
        places.insert(since);
    }

    /// Removes it and hands it out, so that its pidfd can be closed after an unlock.
    pub(crate) fn remove(&mut self, uuid: Uuid) -> Option<Entry> {
        let entry = self.entries.remove(&uuid)?;
        let name = entry.record.aid.name();
        if let (Some(since), Some(places)) = (entry.record.since(), self.serving.get_mut(name)) {
            places.remove(&since);
            if places.is_empty() {
                self.serving.remove(name);
            }
        }
        Some(entry)
    }

    /// The newest living actor of this name that serves.
    pub(crate) fn find(&self, name: &str) -> Option<&Record> {
        self.find_all(name).next()
    }

    /// All living actors of this name that serve, newest first.
    pub(crate) fn find_all(&self, name: &str) -> impl Iterator<Item = &Record> {
        let places = self.serving.get(name).into_iter().flatten().rev();
        places.filter_map(|place| self.entries.get(&place.uuid)).filter_map(Entry::living)
    }

    /// All living actors that serve, in no order.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Record> {
        self.all().filter(|record| record.serving.is_some())
    }

    /// All living actors, those that boot too, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.entries.values().filter_map(Entry::living)
    }

    /// Those of this name (`None`: of any) that are wanted, live and serve, in no order. The others are not looked at.
    #[cfg(feature = "etcd")]
    pub(super) fn serving_if(
        &self,
        name: Option<&str>,
        is_wanted: impl Fn(Uuid) -> bool,
    ) -> impl Iterator<Item = &Record> {
        let named = name.map(|name| self.serving.get(name).into_iter().flatten().map(|place| place.uuid));
        let any = name.is_none().then(|| self.entries.keys().copied());
        let uuids = named.into_iter().flatten().chain(any.into_iter().flatten());
        let entries = uuids.filter(move |uuid| is_wanted(*uuid)).filter_map(|uuid| self.entries.get(&uuid));
        entries.filter(|entry| entry.record.serving.is_some()).filter_map(Entry::living)
    }

    /// Whether this one lives and serves.
    #[cfg(feature = "etcd")]
    pub(super) fn serves(&self, uuid: Uuid) -> bool {
        self.entries.get(&uuid).and_then(Entry::living).is_some_and(|record| record.serving.is_some())
    }

    /// How many it holds, dead ones too.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The clock may show one time twice; our order never does.
    fn next_place(&mut self, now_ns: u64, uuid: Uuid) -> Place {
        self.last_ns = now_ns.max(self.last_ns + 1);
        Place { since_boot_ns: self.last_ns, uuid }
    }
}

impl Entry {
    fn living(&self) -> Option<&Record> {
        self.liveness.is_alive().then_some(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use proptest::prelude::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;
    use crate::actor::host::host_id;

    fn aid(name: &str, number: u128) -> Aid {
        Aid::new(name, Uuid::from_u128(number), std::process::id(), host_id())
    }

    fn addr(number: u128) -> Addrs {
        crate::msg::addr::Addr::Uds(format!("/{number}").into()).into()
    }

    fn ready(table: &mut NameTable, name: &str, number: u128, liveness: Liveness) {
        table.insert(aid(name, number), None, 0, liveness, 0);
        table.set_ready(&aid(name, number), addr(number), 0);
    }

    fn numbers<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<u128> {
        records.map(|record| record.uuid().as_u128()).collect()
    }

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        (child, pidfd)
    }

    #[test]
    fn three_bobs_newest_first() {
        let mut table = NameTable::default();
        let mut children = Vec::new();
        for number in 1..=3 {
            let (child, pidfd) = sleeper();
            ready(&mut table, "bob", number, Liveness::Pidfd(pidfd));
            children.push(child);
        }
        assert_eq!(numbers(table.find_all("bob")), [3, 2, 1]);
        for left in [vec![2, 1], vec![1], vec![]] {
            let mut newest = children.pop().unwrap();
            newest.kill().unwrap();
            newest.wait().unwrap();
            // Nobody has removed it.
            assert_eq!(numbers(table.find_all("bob")), left);
            assert_eq!(table.find("bob").map(|record| record.uuid().as_u128()), left.first().copied());
        }
    }

    #[test]
    fn a_dead_process_is_never_found_by_any_kind_of_liveness() {
        for _ in 0..20 {
            let mut table = NameTable::default();
            let (mut child, pidfd) = sleeper();
            let stat = ProcessStat::read(child.id()).unwrap();
            let process = aid("process", 1).at(child.id(), host_id());
            ready(&mut table, "pidfd", 1, Liveness::Pidfd(pidfd));
            ready(&mut table, "stat", 2, Liveness::of(&process, stat.start_ticks, None));
            ready(&mut table, "reused", 3, Liveness::of(&process, stat.start_ticks + 1, None));
            assert!(table.find("pidfd").is_some() && table.find("stat").is_some());
            assert!(table.find("reused").is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(table.find("pidfd").is_none() && table.find("stat").is_none());
            assert_eq!(table.all().count(), 0);
        }
    }

    #[test]
    fn one_that_boots_is_listed_and_not_found() {
        let mut table = NameTable::default();
        table.insert(aid("bob", 1), None, 0, Liveness::Ourselves, 0);
        assert!(table.find("bob").is_none());
        assert_eq!(numbers(table.all()), [1]);
        assert_eq!(table.serving().count(), 0);
        table.set_ready(&aid("bob", 1), addr(1), 0);
        assert_eq!(numbers(table.serving()), [1]);
        table.set_ready(&aid("bob", 2), addr(2), 0);
        assert_eq!(table.len(), 1, "an unknown one stays unknown");
    }

    proptest! {
        /// Against a list that is searched from its end.
        #[test]
        fn it_agrees_with_a_list(script in prop::collection::vec((0u8..4, 1u128..6, 0usize..2, 0u64..3), 0..60)) {
            let mut table = NameTable::default();
            let mut list: Vec<(u128, &str, bool)> = Vec::new();
            for (step, number, name, now_ns) in script {
                let name = ["ann", "bob"][name];
                let at = list.iter().position(|entry| entry.0 == number);
                match step {
                    0 => {
                        table.insert(aid(name, number), None, 0, Liveness::Ourselves, now_ns);
                        if let Some(at) = at { list.remove(at); }
                        list.push((number, name, false));
                    }
                    1 | 2 => {
                        table.set_ready(&aid(name, number), addr(number), now_ns);
                        if let Some(at) = at {
                            let entry = list.remove(at);
                            list.push((entry.0, entry.1, true));
                        }
                    }
                    _ => {
                        let removed = table.remove(Uuid::from_u128(number)).is_some();
                        prop_assert_eq!(removed, at.is_some());
                        if let Some(at) = at { list.remove(at); }
                    }
                }
                for name in ["ann", "bob"] {
                    let expected: Vec<u128> = list.iter().rev().filter(|entry| entry.1 == name && entry.2).map(|entry| entry.0).collect();
                    prop_assert_eq!(numbers(table.find_all(name)), expected);
                }
                prop_assert_eq!(table.all().count(), list.len());
            }
        }
    }
}
