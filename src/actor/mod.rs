//! What is this process doing?
pub(crate) mod endpoint;
pub(crate) mod failure;
pub(crate) mod outcome;
pub(crate) mod log;
