//! How long something has taken on a machine that had a processor for it.
#![allow(dead_code, reason = "not every file uses all of it")]
use std::time::{Duration, Instant};

/// For how long somebody on this machine has waited for a processor, where the kernel counts that
/// (<https://docs.kernel.org/accounting/psi.html>).
fn starved() -> Option<Duration> {
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").ok()?;
    let (_, total) = pressure.lines().find(|line| line.starts_with("some "))?.split_once("total=")?;
    total.parse().ok().map(Duration::from_micros)
}

/// A moment, from which on time is measured for a bound.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    starved: Option<Duration>,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        Moment { at: Instant::now(), starved: starved() }
    }

    /// The time since then, without that in which somebody waited for a processor: that is about the machine.
    pub(crate) fn elapsed(&self) -> Duration {
        let starved = self.starved.zip(starved()).map_or(Duration::ZERO, |(before, now)| now - before);
        self.at.elapsed().saturating_sub(starved)
    }

    /// All of it.
    pub(crate) fn all(&self) -> Duration {
        self.at.elapsed()
    }
}
