//! What time is it for this actor? One clock for every timer between cancel and reaped.
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A clock that can stand still: a debugger's prompt holds it, so that nobody is killed meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How long it has stood still so far.
    stood: Duration,
    paused: Option<Instant>,
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        let state = self.state.lock();
        state.paused.unwrap_or_else(Instant::now) - state.stood
    }
}
