//! What happens at once: measured, by tests that are alone on the machine.
use std::time::Duration;

use teamster::BoxError;

/// What ends at once takes less than this, as an exclusive test measures it.
pub(crate) const PROMPT: Duration = Duration::from_millis(300);

/// Measures until it was prompt, a few times: what waits for a timer is late each time, and what others on this
/// machine hold up is not.
pub(crate) async fn promptly(what: &str, mut measure: impl AsyncFnMut() -> Result<Duration, BoxError>) {
    let mut late = Vec::new();
    while late.len() < TRIES {
        match measure().await.unwrap_or_else(|error| panic!("{what}: {error:?}")) {
            took if took < PROMPT => return,
            took => late.push(took),
        }
    }
    panic!("{what}: not within {PROMPT:?}: {late:?}");
}

const TRIES: usize = 5;
