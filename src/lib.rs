//! teamster: structured-concurrent, distributed actors.
#![warn(clippy::unwrap_used)]
extern crate self as teamster; // the macros' paths, in here too

mod actor;
mod channel;
pub mod discovery;
mod error;
mod msg;
mod nursery;
mod portal;
mod proto;
mod report;
mod spawn;
pub mod testing;
mod transport;

pub use actor::endpoint::{BoxFuture, Call, Data, Endpoint, Fallible};
pub use actor::on_exit;
pub use actor::scope::{cancelled, deadline, defer, is_cancelled, shield};
pub use discovery::{find_actor, find_actors, list_actors, wait_for_actor};
pub use error::{BodyError, BoxError, CodecError, CodecStep, Error, Group, RemoteError, SpawnReason};
pub use msg::death::{Death, ExitKind, Receipt, Rung};
pub use msg::ident::{Addr, Aid, CancelRequest, Canceller};
pub use nursery::entry::MainOutcome;
pub use nursery::{ActorBuilder, ActorNursery, Cluster, Guard, OneShot, RootBuilder, init, open_nursery, root};
pub use portal::{Portal, cancel_self, is_root, parent, this_actor};
pub use report::{Report, Result};
pub use spawn::{Output, Resource};
pub use teamster_macros::{error, main, rpc, test};

pub mod launch {
    //! How does a child's process come to be?
    pub use crate::spawn::launcher::{Launcher, Local, Program};
}

#[doc(hidden)]
pub mod __private {
    //! What the macros' code stands on. Not for use by hand.
    pub use crate::actor::endpoint::{Arg, ENDPOINTS, Kind, Layouts, Registration, encodes, register, travels};
    pub use crate::actor::failure::{ExactKind, Failure, StdKind, TextKind, probe};
    pub use crate::msg::error_value::{ERRORS, ErrorRegistration, register_error};
    pub use crate::nursery::entry::{MainOptions, main};
    pub use crate::testing::harness::{TestOptions, test};
    pub use linkme;
}

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod __fuzz;
