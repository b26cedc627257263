//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
extern crate self as teamster; // the macros' paths, in here too

mod actor;
mod error;
mod msg;
mod report;

pub use actor::endpoint::{BoxFuture, Call, Data, Endpoint, Fallible};
pub use actor::entry::MainOutcome;
pub use error::{BodyError, BoxError, CodecError, CodecStep, Error, Group, RemoteError, SpawnReason};
pub use msg::death::{Death, ExitKind, Receipt, Rung};
pub use msg::ident::{Addr, Aid, CancelRequest, Canceller};
pub use report::{Report, Result};
pub use teamster_macros::{error, main, rpc, test};

#[doc(hidden)]
pub mod __private {
    //! What the macros' code stands on. Not for use by hand.
    pub use crate::msg::error_value::{ERRORS, ErrorRegistration, register_error};
    pub use linkme;
    pub use crate::actor::endpoint::{Arg, ENDPOINTS, Kind, Registration, encodes, register, travels};
    pub use crate::actor::entry::{MainOptions, TestOptions, main, test};
    pub use crate::actor::failure::{ExactKind, Failure, StdKind, TextKind, probe};
}
