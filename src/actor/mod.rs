//! What is this process doing?
pub(crate) mod log;
