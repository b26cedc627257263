//! What travels: frames, payloads, names and errors as data. No tokio, no I/O, no clock.
pub(crate) mod addr;
pub(crate) mod codec;
pub(crate) mod codec_error;
pub(crate) mod death;
pub(crate) mod error_data;
pub(crate) mod error_value;
pub(crate) mod frame;
pub(crate) mod ident;
pub(crate) mod load;
pub(crate) mod printed;
pub(crate) mod remote_error;
pub(crate) mod spawn_reason;
pub(crate) mod spec;
pub(crate) mod text;
