//! How do bytes move?
pub(crate) mod folder;
