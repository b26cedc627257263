//! Who stands still for a debugger? A hold on an actor: its clock stands, and so do those of its ancestors.
use std::sync::Arc;

use super::Actor;
use super::clock::Clock;
use crate::error::Error;

/// While it lives, no time of its actor or of an ancestor runs out, none of them is killed for being late, and the
/// actor does not end. Cancels are heard, and acted on as far as the code that is held lets them.
///
/// A hold counts no more when the actor has lost its parent, and in the root after SIGHUP or a second signal.
#[derive(Debug)]
#[must_use = "dropped at once, it holds nobody"]
pub(crate) struct Held(Arc<Clock>);

impl Actor {
    /// Holds this actor. Its parent has been told when this returns.
    ///
    /// For any thread, in whatever state: in a panic hook, with the runtime stuck.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held::on(&self.clock)
    }
}

impl Held {
    /// The same for whoever has but the clock.
    pub(super) fn on(clock: &Arc<Clock>) -> Held {
        clock.hold();
        Held(Arc::clone(clock))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Holds the actor that this code is part of, as a debugger does: for tests.
///
/// # Errors
///
/// There is none.
pub fn hold_this_actor() -> Result<impl Drop, Error> {
    Ok(super::current::actor()?.hold())
}
