//! What may happen next on a connection, in a dialog, in an escalation: pure state machines.
//!
//! Nothing here knows that tokio, sockets or clocks exist; time is an argument.
#![warn(clippy::wildcard_enum_match_arm)]
pub(crate) mod connection;
pub(crate) mod credit;
pub(crate) mod dialog;
pub(crate) mod escalation;
#[cfg(feature = "tls")]
pub(crate) mod pipe;
pub(crate) mod pulse;
