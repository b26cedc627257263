//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
mod msg;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod __fuzz;
