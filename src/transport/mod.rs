//! How do bytes move?
pub(crate) mod folder;
pub(crate) mod uds;
pub(crate) mod watched;
