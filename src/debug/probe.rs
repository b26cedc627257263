//! What does a program let the one at the prompt look at? Named closures that read something.
use std::sync::Arc;

use parking_lot::Mutex;

type Probe = Arc<dyn Fn() -> String + Send + Sync>;

static PROBES: Mutex<Vec<(String, Probe)>> = Mutex::new(Vec::new());

/// Gives the prompt's command `probe NAME` something to show: what `look` returns, at that moment.
///
/// It runs on a thread of the debugger's while the actor stands still at its stop: a lock that the stopped code holds
/// stays locked, so use `try_lock`. A panic in it is contained. The last one of a name counts, until the
/// guard that is returned is dropped.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// let queue = Arc::new(Mutex::new(vec![1, 2, 3]));
/// let watched = Arc::clone(&queue);
/// let _probe = teamster::debug::probe("queue", move || format!("{:?}", watched.try_lock()));
/// ```
#[must_use = "dropped, the probe is gone"]
pub fn probe(name: impl Into<String>, look: impl Fn() -> String + Send + Sync + 'static) -> ProbeGuard {
    let (name, probe): (String, Probe) = (name.into(), Arc::new(look));
    PROBES.lock().push((name, Arc::clone(&probe)));
    ProbeGuard { probe }
}

/// Keeps a [`probe`] until it is dropped.
///
/// # Examples
///
/// ```
/// let guard: teamster::debug::ProbeGuard = teamster::debug::probe("answer", || "42".to_owned());
/// drop(guard);
/// ```
pub struct ProbeGuard {
    probe: Probe,
}

impl std::fmt::Debug for ProbeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProbeGuard")
    }
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        PROBES.lock().retain(|(_, other)| !Arc::ptr_eq(other, &self.probe));
    }
}

/// What the probe of this name shows; without a name, which ones there are.
pub(super) fn answer(name: &str) -> String {
    let probes = PROBES.lock();
    let names = || probes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = probes.iter().rfind(|(other, _)| other == name).map(|(_, probe)| Arc::clone(probe));
    match found {
        Some(probe) => {
            drop(probes); // it is the user's code
            probe()
        }
        None if probes.is_empty() => {
            "this actor has no probes: `teamster::debug::probe(name, || …)` makes one".to_owned()
        }
        None if name.is_empty() => format!("probes: {}", names()),
        None => format!("no probe is called {name:?}; there are: {}", names()),
    }
}
