//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
mod actor;
mod msg;
mod spawn;
pub mod testing;
