//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
mod actor;
mod error;
mod msg;
mod report;

pub use actor::endpoint::{BoxFuture, Call, Data, Endpoint, Fallible};
pub use actor::outcome::MainOutcome;
pub use error::{BodyError, BoxError, CodecError, CodecStep, Error, Group, RemoteError, SpawnReason};
pub use msg::death::{Death, ExitKind, Receipt, Rung};
pub use msg::ident::{Addr, Aid, CancelRequest, Canceller};
pub use report::{Report, Result};

#[doc(hidden)]
pub mod __private {
    //! What the macros' code stands on. Not for use by hand.
    pub use crate::msg::error_value::{ERRORS, ErrorRegistration, register_error};
    pub use linkme;
    pub use crate::actor::endpoint::{Arg, ENDPOINTS, Kind, Registration, register};
    pub use crate::actor::failure::{ExactKind, Failure, StdKind, TextKind, probe};
}
mod msg;
mod spawn;
pub mod testing;
