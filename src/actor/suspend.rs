//! How long was this process stopped by its terminal?
use std::time::{Duration, Instant};

/// The time in which this process has not been stopped, and how long it has been.
pub(super) fn awake() -> (Instant, Duration) {
    (Instant::now(), Duration::ZERO)
}

/// Whether it is being stopped, or was continued this moment.
pub(super) fn is_suspended() -> bool {
    false
}
