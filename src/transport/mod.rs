//! How do bytes move?
pub(crate) mod uds;
