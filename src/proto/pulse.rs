//! Is the other side of a control line still there? Heartbeats, both ways.
//!
//! A side that hears nothing for `lost_after` gives the other one up. Whoever was late itself, because its machine had no
//! time for it, says so in its next heartbeat and is waited for that much longer; and what a side could not hear, because
//! it was not running, it does not hold against the other.
use std::time::{Duration, Instant};

/// Heartbeats in [`Pulse::lost_after`]: some may be late.
const BEATS: u32 = 5;

/// One side's view of a line.
#[derive(Debug)]
pub(crate) struct Pulse {
    lost_after: Duration,
    /// When the next heartbeat is due.
    beat_at: Instant,
    /// When the other side was heard last, moved on by the times when nobody listened.
    heard_at: Instant,
    /// How late the other side said it was. No more than `lost_after`.
    late: Duration,
    /// The other side stands still for a debugger, as it said: it is not silent, but held.
    is_held: bool,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Send a heartbeat that says how late it is.
    Beat {
        late: Duration,
    },
    /// Give the other side up: it was silent for so long.
    Lost {
        silent: Duration,
    },
}

impl Pulse {
    pub(crate) fn new(now: Instant, lost_after: Duration) -> Self {
        Pulse { lost_after, beat_at: now, heard_at: now, late: Duration::ZERO, is_held: false }
    }

    /// After which silence the other side is given up.
    pub(crate) fn lost_after(&self) -> Duration {
        self.lost_after
    }

    /// When [`Pulse::on_timeout`] is due.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.lost_at().map_or(self.beat_at, |at| at.min(self.beat_at))
    }

    fn lost_at(&self) -> Option<Instant> {
        (!self.is_held).then_some(self.heard_at + self.lost_after + self.late)
    }

    /// Something has come.
    pub(crate) fn on_heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// A heartbeat has come: the other side was `late` with it, and is held or not. Whether it is late since now, by more
    /// than a heartbeat.
    pub(crate) fn on_beat(&mut self, now: Instant, late: Duration, is_held: bool) -> bool {
        let is_late = |late: Duration| late >= self.lost_after / BEATS;
        let has_become_late = is_late(late) && !is_late(self.late);
        self.heard_at = now;
        self.late = late.min(self.lost_after);
        self.is_held = is_held;
        has_become_late
    }

    /// How long nothing has come, if that is long enough for the other side to have missed something itself.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.heard_at);
        (!self.is_held && silent > self.lost_after / 2).then_some(silent)
    }

    /// What is due by now. All that had come has to be told before.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Due {
        let mut due = Due::Nothing;
        if self.beat_at <= now {
            let late = now - self.beat_at;
            self.heard_at = (self.heard_at + late).min(now).max(self.heard_at);
            self.beat_at = now + self.lost_after / BEATS;
            due = Due::Beat { late };
        }
        match self.lost_at() {
            Some(at) if at <= now => Due::Lost { silent: now - self.heard_at },
            _ => due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(5);

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Runs it without being late until something else than a heartbeat is due: when that is, in milliseconds.
    fn lost_at(pulse: &mut Pulse, start: Instant) -> u128 {
        loop {
            let now = pulse.next_deadline();
            match pulse.on_timeout(now) {
                Due::Beat { late } => assert_eq!(late, Duration::ZERO),
                Due::Nothing => panic!("nothing is due at the deadline"),
                Due::Lost { .. } => return (now - start).as_millis(),
            }
        }
    }

    #[test]
    fn silence_is_a_loss_in_time_and_heartbeats_go_on_until_then() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, LOST_AFTER);
        assert_eq!(pulse.on_timeout(start), Due::Beat { late: Duration::ZERO });
        assert_eq!(pulse.on_timeout(start), Due::Nothing);
        assert_eq!(pulse.next_deadline(), at(start, 1000));
        assert_eq!(lost_at(&mut pulse, start), 5000);
    }

    #[test]
    fn what_is_heard_puts_the_loss_off() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, LOST_AFTER);
        pulse.on_heard(at(start, 3000));
        pulse.on_beat(at(start, 4000), Duration::ZERO, false);
        pulse.on_timeout(at(start, 0));
        assert_eq!(lost_at(&mut pulse, start), 9000);
    }

    #[test]
    fn a_side_that_is_late_is_waited_for_but_not_for_ever() {
        let start = Instant::now();
        for (late, lost) in [(0, 5000), (1500, 6500), (60_000, 10_000)] {
            let mut pulse = Pulse::new(start, LOST_AFTER);
            pulse.on_timeout(start);
            pulse.on_beat(start, Duration::from_millis(late), false);
            assert_eq!(lost_at(&mut pulse, start), lost, "{late} ms late");
            // Once it is on time again, so is its loss.
            let mut pulse = Pulse::new(start, LOST_AFTER);
            pulse.on_timeout(start);
            pulse.on_beat(start, Duration::from_millis(late), false);
            pulse.on_beat(start, Duration::ZERO, false);
            assert_eq!(lost_at(&mut pulse, start), 5000);
        }
    }

    #[test]
    fn it_is_said_once_that_a_side_has_become_late() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, LOST_AFTER);
        let late =
            [900, 1000, 60_000, 3000, 20, 1500].map(|late| pulse.on_beat(start, Duration::from_millis(late), false));
        assert_eq!(late, [false, true, false, false, false, true]);
    }

    #[test]
    fn the_time_in_which_we_did_not_run_is_not_the_others_silence() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, LOST_AFTER);
        pulse.on_timeout(start);
        // Its heartbeat was due after 1 s: it stood still for an hour since.
        let late = Duration::from_secs(3599);
        assert_eq!(pulse.on_timeout(start + Duration::from_secs(3600)), Due::Beat { late });
        assert_eq!(lost_at(&mut pulse, start), (3599 + 5) * 1000);
    }

    #[test]
    fn a_side_that_is_held_is_not_silent() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, LOST_AFTER);
        pulse.on_beat(start, Duration::ZERO, true);
        for n in 0..100 {
            assert_eq!(pulse.on_timeout(at(start, n * 1000)), Due::Beat { late: Duration::ZERO });
        }
        pulse.on_beat(at(start, 99_000), Duration::ZERO, false);
        assert_eq!(lost_at(&mut pulse, start), 104_000);
    }
}
