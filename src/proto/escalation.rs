//! What is done next to end a process: cancel, SIGTERM, SIGKILL, and when.
use std::time::{Duration, Instant};

use crate::msg::death::Rung;

/// How long a cancel may go unacknowledged before SIGTERM.
pub(crate) const ACK_WITHIN: Duration = Duration::from_millis(250);

/// One process on its way to its end. Fed with events and the time, gives the next measure.
#[derive(Debug)]
pub(crate) struct Escalation {
    phase: Phase,
    heard: Option<Instant>,
    tasks_gone: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked, with what is left to do at which time.
    Asked {
        at: Instant,
        rung: Rung,
        term_at: Option<Instant>,
        kill_at: Instant,
    },
    /// SIGKILL was sent: only the kernel is awaited.
    Killed {
        at: Instant,
    },
}

/// What to do to the process now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Send a cancel with this grace.
    Cancel { grace: Duration },
    /// Send SIGTERM.
    Sigterm,
    /// Send SIGKILL to its process group.
    Sigkill,
}

/// The times of an end, each counted from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) heard: Option<Duration>,
    pub(crate) tasks_gone: Option<Duration>,
    pub(crate) reaped: Duration,
    pub(crate) rung: Option<Rung>,
}

impl Escalation {
    pub(crate) fn new() -> Self {
        Escalation { phase: Phase::Running, heard: None, tasks_gone: None }
    }

    /// Somebody wants the process gone within `grace`. A later request may only shorten.
    pub(crate) fn cancel(&mut self, now: Instant, grace: Duration) -> Option<Measure> {
        let kill_at = now + grace;
        match &mut self.phase {
            Phase::Running if grace.is_zero() => Some(self.kill(now, now)),
            Phase::Running => {
                // Whoever asked may have sent the request itself: its answer can be here before us.
                let term_at = (grace > ACK_WITHIN && self.heard.is_none()).then(|| now + ACK_WITHIN);
                self.phase = Phase::Asked { at: now, rung: Rung::Cancel, term_at, kill_at };
                Some(Measure::Cancel { grace })
            }
            Phase::Asked { at, .. } if grace.is_zero() => {
                let at = *at;
                Some(self.kill(now, at))
            }
            Phase::Asked { kill_at: before, .. } if kill_at < *before => {
                *before = kill_at;
                Some(Measure::Cancel { grace })
            }
            Phase::Asked { .. } | Phase::Killed { .. } => None,
        }
    }

    /// The child's control thread has heard the cancel.
    pub(crate) fn on_ack(&mut self, now: Instant) {
        self.heard.get_or_insert(now);
        if let Phase::Asked { term_at, .. } = &mut self.phase {
            *term_at = None;
        }
    }

    /// The child says that all its tasks and children are gone.
    pub(crate) fn on_tasks_gone(&mut self, now: Instant) {
        self.tasks_gone.get_or_insert(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asked { term_at, kill_at, .. } => Some(term_at.unwrap_or(kill_at).min(kill_at)),
            Phase::Running | Phase::Killed { .. } => None,
        }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<Measure> {
        match &mut self.phase {
            Phase::Asked { at, kill_at, .. } if *kill_at <= now => {
                let at = *at;
                Some(self.kill(now, at))
            }
            Phase::Asked { term_at, rung, .. } if term_at.is_some_and(|due| due <= now) => {
                *term_at = None;
                *rung = Rung::Sigterm;
                Some(Measure::Sigterm)
            }
            Phase::Running | Phase::Asked { .. } | Phase::Killed { .. } => None,
        }
    }

    /// When SIGKILL is due.
    pub(crate) fn kill_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asked { kill_at, .. } => Some(kill_at),
            Phase::Running | Phase::Killed { .. } => None,
        }
    }

    /// What is left of the grace: nothing, once it was killed. `None`: nobody asked.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Running => None,
            Phase::Asked { kill_at, .. } => Some(kill_at.saturating_duration_since(now)),
            Phase::Killed { .. } => Some(Duration::ZERO),
        }
    }

    /// Whether anybody of ours has asked for this end.
    pub(crate) fn was_asked(&self) -> bool {
        self.phase != Phase::Running
    }

    /// The process has been reaped.
    pub(crate) fn times(&self, now: Instant) -> Times {
        let (asked_at, rung) = match self.phase {
            Phase::Running => (None, None),
            Phase::Asked { at, rung, .. } => (Some(at), Some(rung)),
            Phase::Killed { at } => (Some(at), Some(Rung::Sigkill)),
        };
        let since = |moment: Instant| moment.saturating_duration_since(asked_at.unwrap_or(moment));
        Times {
            heard: asked_at.and(self.heard).map(since),
            tasks_gone: asked_at.and(self.tasks_gone).map(since),
            reaped: since(now),
            rung,
        }
    }

    fn kill(&mut self, _now: Instant, at: Instant) -> Measure {
        self.phase = Phase::Killed { at };
        Measure::Sigkill
    }
}

/// What a child may use of the time that its parent has left: the rest is for reaping.
pub(crate) fn childs_share(left: Duration) -> Duration {
    left * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_that_hears_is_left_alone_until_its_grace_is_over() {
        let (t, mut e) = (Instant::now(), Escalation::new());
        assert_eq!(e.cancel(t, GRACE), Some(Measure::Cancel { grace: GRACE }));
        e.on_ack(t + ms(1));
        assert_eq!(e.next_deadline(), Some(t + GRACE));
        assert_eq!(e.on_timeout(t + ms(999)), None);
        e.on_tasks_gone(t + ms(3));
        let expected = Times { heard: Some(ms(1)), tasks_gone: Some(ms(3)), reaped: ms(5), rung: Some(Rung::Cancel) };
        assert_eq!(e.times(t + ms(5)), expected);
    }

    #[test]
    fn one_that_does_not_hear_gets_sigterm_then_sigkill() {
        let (t, mut e) = (Instant::now(), Escalation::new());
        e.cancel(t, GRACE);
        assert_eq!(e.next_deadline(), Some(t + ms(250)));
        assert_eq!(e.on_timeout(t + ms(250)), Some(Measure::Sigterm));
        assert_eq!(e.next_deadline(), Some(t + GRACE));
        assert_eq!(e.on_timeout(t + GRACE), Some(Measure::Sigkill));
        assert_eq!(e.next_deadline(), None);
        assert_eq!(e.on_timeout(t + GRACE), None);
        assert_eq!(e.times(t + GRACE).rung, Some(Rung::Sigkill));
    }

    #[test]
    fn asking_again_only_shortens() {
        let (t, mut e) = (Instant::now(), Escalation::new());
        e.cancel(t, GRACE);
        assert_eq!(e.cancel(t + ms(100), GRACE), None);
        assert_eq!(e.cancel(t + ms(100), ms(200)), Some(Measure::Cancel { grace: ms(200) }));
        assert_eq!(e.next_deadline(), Some(t + ms(250)));
        assert_eq!(e.on_timeout(t + ms(300)), Some(Measure::Sigkill));
    }

    #[test]
    fn no_grace_is_a_kill_at_once() {
        let (t, mut e) = (Instant::now(), Escalation::new());
        assert_eq!(e.cancel(t, Duration::ZERO), Some(Measure::Sigkill));
        let mut e = Escalation::new();
        e.cancel(t, GRACE);
        assert_eq!(e.cancel(t + ms(1), Duration::ZERO), Some(Measure::Sigkill));
        assert_eq!(e.cancel(t + ms(2), Duration::ZERO), None);
    }

    #[test]
    fn an_end_that_nobody_asked_for_has_no_rung() {
        let (t, mut e) = (Instant::now(), Escalation::new());
        e.on_tasks_gone(t);
        let times = e.times(t + ms(9));
        assert_eq!((times.rung, times.reaped, times.tasks_gone), (None, Duration::ZERO, None));
    }

    #[test]
    fn a_childs_share_shrinks_by_a_quarter() {
        assert_eq!(childs_share(GRACE), ms(750));
        assert_eq!(childs_share(childs_share(GRACE)), Duration::from_micros(562_500));
    }
}
