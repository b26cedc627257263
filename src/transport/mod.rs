//! How do bytes move?
pub(crate) mod dial;
pub(crate) mod folder;
#[cfg(feature = "tls")]
mod identity;
#[cfg(feature = "quic")]
pub(crate) mod quic;
pub(crate) mod session;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod tcp;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
pub(crate) mod tls;
#[cfg(feature = "tls")]
pub(crate) mod trust;
pub(crate) mod tunnel;
pub(crate) mod uds;
pub(crate) mod watched;
