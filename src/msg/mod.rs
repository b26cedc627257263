//! What travels: frames, payloads, names and errors as data. No tokio, no I/O, no clock.
pub(crate) mod codec;
pub(crate) mod death;
pub(crate) mod frame;
pub(crate) mod ident;
pub(crate) mod spec;
