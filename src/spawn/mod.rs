//! How does a process start, how is it watched, and is it gone?
pub(crate) mod output;
