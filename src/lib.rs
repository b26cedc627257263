//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
mod msg;
