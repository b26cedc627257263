//! Which tasks of an actor live, and where does each of them wait? What a dump asks.
//!
//! A task enters the table of its actor with the first poll that does not end it: what ends at once costs
//! nothing. A dump wakes those that are there; the next poll of each passes a waker that notes the stack of
//! whoever takes it, which is what a leaf of the task does that waits.
#[cfg_attr(not(feature = "debug"), path = "traces/off.rs")]
mod on;

use std::sync::Arc;

use super::DataLine;

#[cfg(feature = "debug")]
pub(crate) use on::Told;
pub(crate) use on::{Trace, Traces, beneath, traced};

/// A task that a dump could ask, in a table of its own: for the bench of what that costs.
#[doc(hidden)]
pub fn traced_alone<F: Future>(future: F) -> impl Future<Output = F::Output> {
    traced(&Arc::default(), Origin::CleanUp, future)
}

/// What a task is there for.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "debug"), expect(dead_code, reason = "nobody looks at it"))]
pub(crate) enum Origin {
    /// It serves a dialog of the line's peer.
    Dialog { path: &'static str, dialog: u64, line: Arc<DataLine> },
    /// It runs a nursery of actors, its body or its end.
    Nursery,
    /// It is one of a nursery of tasks, or that one's body.
    Task { label: &'static str },
    /// What was deferred, or dropped with something still to do.
    CleanUp,
    /// The actor's own end.
    End,
}
