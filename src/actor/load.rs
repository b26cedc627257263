//! How much does this actor have to do? Counters for who looks from outside.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Actor;
use super::process::ProcessStat;
use crate::msg::load::{CLASSES, Latencies, Load, class_of};

/// What is counted of the calls that an actor serves. While nobody looks, that is their number alone.
#[derive(Debug, Default)]
pub(crate) struct Served {
    count: AtomicU64,
    /// Until when calls are timed, in nanoseconds of the first look. 0: they are not.
    timed_until: AtomicU64,
    /// There from the first look on.
    timed: OnceLock<Timed>,
}

#[derive(Debug)]
struct Timed {
    first_look: Instant,
    counts: [AtomicU64; CLASSES],
}

impl Served {
    /// A call begins. `None`: nobody wants to know how long it takes.
    #[inline]
    pub(crate) fn begins(&self) -> Option<Instant> {
        match self.timed_until.load(Ordering::Relaxed) {
            0 => None,
            until => self.begins_timed(until),
        }
    }

    #[cold]
    fn begins_timed(&self, until: u64) -> Option<Instant> {
        let (now, timed) = (Instant::now(), self.timed.get()?);
        if timed.nanos(now) > until {
            // A look that comes in between is answered by the next one.
            let _ = self.timed_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
            return None;
        }
        Some(now)
    }

    /// It has ended.
    #[inline]
    pub(crate) fn ended(&self, began: Option<Instant>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let (Some(began), Some(timed)) = (began, self.timed.get()) {
            timed.counts[class_of(began.elapsed())].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody looks: calls are timed for a while from now on.
    fn look(&self) -> (u64, Latencies) {
        let timed = self
            .timed
            .get_or_init(|| Timed { first_look: Instant::now(), counts: [const { AtomicU64::new(0) }; CLASSES] });
        let until = timed.nanos(Instant::now() + TIMED_FOR);
        self.timed_until.store(until, Ordering::Relaxed);
        let latencies = Latencies::of(timed.counts.iter().map(|count| count.load(Ordering::Relaxed)));
        (self.count.load(Ordering::Relaxed), latencies)
    }
}

impl Timed {
    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.first_look).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Actor {
    /// By the control thread: no lock of it is held for long.
    pub(crate) fn load(&self) -> Load {
        let (served, latencies) = self.served.look();
        let process = ProcessStat::read(std::process::id());
        let mut load = Load {
            actor: self.aid.uuid(),
            served,
            in_flight: 0,
            waits_for: 0,
            queued_bytes: 0,
            rss_bytes: process.as_ref().map(ProcessStat::rss_bytes).unwrap_or_default(),
            cpu: process.as_ref().map(ProcessStat::cpu).unwrap_or_default(),
            latencies,
        };
        for tally in self.living_lines().iter().filter_map(|line| line.tally(LOCK_WITHIN)) {
            load.in_flight += tally.dialogs.served as u64;
            load.waits_for += tally.dialogs.opened as u64;
            load.queued_bytes += tally.waiting_bytes as u64;
        }
        load
    }
}

/// The loads of a tree, as they come in at its root.
#[derive(Debug)]
pub(crate) struct Loads {
    pub(crate) id: u64,
    come: Mutex<Vec<Load>>,
    more: Notify,
}

impl Loads {
    pub(crate) fn new() -> Arc<Self> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Loads { id, come: Mutex::default(), more: Notify::new() })
    }

    /// By the control thread.
    pub(crate) fn add(&self, load: Load) {
        self.come.lock().push(load);
        self.more.notify_one();
    }

    /// All that have come when these are `enough`, or when `within` is over: a stopped process tells nothing.
    pub(crate) async fn collect(&self, within: Duration, enough: impl Fn(&[Load]) -> bool) -> Vec<Load> {
        let all = async {
            while !enough(&self.come.lock()) {
                self.more.notified().await;
            }
        };
        // Over: what there is will do.
        let _ = tokio::time::timeout(within, all).await;
        std::mem::take(&mut *self.come.lock())
    }
}

/// For how long calls are timed after a look: who goes on looking comes again before that.
const TIMED_FOR: Duration = Duration::from_secs(10);

/// How long a line's lock is waited for. Who holds it does so for microseconds.
const LOCK_WITHIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_timed_only_while_somebody_looks() {
        let served = Served::default();
        assert!(served.begins().is_none());
        served.ended(None);
        assert_eq!(served.look(), (1, Latencies::default()));
        served.ended(served.begins());
        let (count, latencies) = served.look();
        assert_eq!((count, latencies.count()), (2, 1));
        served.timed_until.store(1, Ordering::Relaxed); // long ago
        assert!(served.begins().is_none());
        assert_eq!(served.timed_until.load(Ordering::Relaxed), 0, "and nobody asks the clock again");
    }
}
