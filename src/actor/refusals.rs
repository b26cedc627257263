//! What is said of those who are not let in? Each with its reason, while they are few: nobody fills a log by knocking.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::channel::handshake::HandshakeError;

/// Refusals of one listener that are said in a second. The others are counted, and their number is said later.
pub(crate) const MOST_A_SECOND: u32 = 20;

/// The refusals of one listener.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Counts>);

/// Those of the second that goes on.
#[derive(Default)]
pub(crate) struct Counts {
    began: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Refusals {
    pub(super) fn tell(&self, from: Option<SocketAddr>, error: &HandshakeError) {
        let (is_said, unsaid) = self.0.lock().count(Instant::now());
        // With the lock free: a subscriber is the user's code.
        tell_of_others(unsaid);
        if is_said {
            let from = from.map(tracing::field::display);
            tracing::warn!(target: "teamster::channel", from, %error, "a connection was refused");
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        tell_of_others(self.0.get_mut().unsaid);
    }
}

fn tell_of_others(count: u64) {
    if count > 0 {
        tracing::warn!(
            target: "teamster::channel", count,
            "more connections were refused, beside the {MOST_A_SECOND} of that second which are in the log"
        );
    }
}

impl Counts {
    /// Whether this one is said, and how many were not in the second that is over.
    pub(crate) fn count(&mut self, now: Instant) -> (bool, u64) {
        let mut over = 0;
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            over = self.unsaid;
            *self = Counts { began: Some(now), ..Counts::default() };
        }
        let is_said = self.said < MOST_A_SECOND;
        match is_said {
            true => self.said += 1,
            false => self.unsaid += 1,
        }
        (is_said, over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_said_in_a_second_and_the_others_counted() {
        let (mut counts, now) = (Counts::default(), Instant::now());
        for n in 0..30 {
            assert_eq!(counts.count(now), (n < MOST_A_SECOND, 0), "{n}");
        }
        assert_eq!(counts.count(now + Duration::from_millis(999)), (false, 0));
        assert_eq!(counts.count(now + Duration::from_secs(1)), (true, 11));
        assert_eq!(counts.count(now + Duration::from_secs(9)), (true, 0));
    }
}
