//! Does a process stand still before it is the child's? Between its fork and its exec nobody knows it yet, and whoever
//! starts it waits for that.
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::actor::process::ProcessStat;

/// How long a process may take from its fork to its exec before it is looked at; mostly it takes less than a
/// millisecond.
pub(super) const LOOK_AFTER: Duration = Duration::from_millis(100);

/// A thread of this process that starts one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starting {
    pub(super) thread: Pid,
    pub(super) look_at: Instant,
    /// How often we had been continued before: one more, and it may have been stopped meanwhile.
    pub(super) continued: u64,
}

impl Starting {
    /// Has it go on if it was stopped: what is to become of it is decided when it is known.
    ///
    /// Only whoever reaps this process's children may ask, as what it has not reaped has its pid for itself.
    /// Without the list of a thread's children (`CONFIG_PROC_CHILDREN`), none is found.
    pub(super) fn look(&mut self, now: Instant, is_known: impl Fn(u32) -> bool) {
        self.look_at = now + LOOK_AFTER;
        let path = format!("/proc/self/task/{}/children", self.thread.as_raw_nonzero());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !is_known(*pid)) {
            if ProcessStat::read(pid).is_some_and(|stat| stat.is_stopped())
                && let Some(pid) = Pid::from_raw(pid.cast_signed())
            {
                // It may be killed this very moment, which is as good.
                let _ = rustix::process::kill_process(pid, Signal::CONT);
            }
        }
    }
}
