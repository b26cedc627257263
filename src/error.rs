//! What can go wrong, as far as a caller can act on it.
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::msg::death::Death;
use crate::msg::ident::{Aid, Canceller};
pub use crate::msg::remote_error::RemoteError;

/// Any error that a body of a scope may return by `?`.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in an actor tree. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another actor failed: its error, with the path that it climbed.
    #[error("{0}")]
    Remote(RemoteError),
    /// The body of a scope of this actor failed.
    #[error("{0}")]
    Body(BodyError),
    /// Somebody cancelled it: `canceller` says who.
    #[error("cancelled by {canceller}")]
    Cancelled {
        /// Who asked.
        canceller: Canceller,
    },
    /// A signal to the root ended the tree.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// Its number: 2 for SIGINT.
        signal: i32,
    },
    /// An actor's process ended, and not because its parent had asked.
    #[error("{0}")]
    ActorDied(Death),
    /// The call never began over there, so it is safe to make it again.
    #[error("{endpoint} was not started on {aid}: {reason}")]
    NotStarted {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// Why not.
        reason: String,
    },
    /// The line was lost, and whether the call ran over there can't be known.
    #[error("{endpoint} on {aid}: the line was lost, and whether it ran is not known: {reason}")]
    Unknown {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// How the line was lost.
        reason: String,
    },
    /// The remote task did not end within its grace after the cancel.
    #[error("{endpoint} on {aid} did not stop within {grace:?} after its cancel")]
    NotStopped {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// How long we waited.
        grace: Duration,
    },
    /// The deadline passed.
    #[error("the deadline of {after:?} has passed")]
    Deadline {
        /// The time that was given.
        after: Duration,
    },
    /// The endpoint exists in that actor and may not be called there.
    #[error("{endpoint} is not exposed by {aid}: add its module to `.expose(…)` where the actor is built")]
    NotExposed {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
    },
    /// The actor's program has no such endpoint.
    #[error("{aid} has no endpoint {endpoint}: is it `#[rpc]`, and linked into that program?")]
    NoSuchEndpoint {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
    },
    /// Two endpoints have one path.
    #[error("{endpoint} is defined twice, at {first} and at {second}: give one a `#[rpc(name = \"…\")]`")]
    Ambiguous {
        /// The path.
        endpoint: String,
        /// `file:line` of one.
        first: String,
        /// `file:line` of the other.
        second: String,
    },
    /// A value could not be encoded or decoded.
    #[error("{0}")]
    Codec(CodecError),
    /// A connection could not be made, or broke.
    #[error("{what}: {reason}")]
    Transport {
        /// What was attempted, with the address.
        what: String,
        /// What the operating system or the peer said.
        reason: String,
    },
    /// An actor could not be started.
    #[error("actor {name} could not be started: {reason}")]
    Spawn {
        /// The actor's name.
        name: String,
        /// Why, and the way out.
        reason: SpawnReason,
    },
    /// Several things failed in one nursery.
    #[error("{0}")]
    Group(Group),
    /// The call makes no sense here; the text says what to do.
    #[error("{0}")]
    Usage(&'static str),
}
