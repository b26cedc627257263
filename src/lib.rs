//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
pub mod discovery;
mod msg;
mod transport;
