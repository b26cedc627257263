//! What can be done with tasks? Tools that work on any tokio runtime, and one for actors alone.
//!
//! But for [`Topics`], none of it needs an actor. In one, it is at home there: a cancel of the dialog or nursery around a tool
//! reaches what runs in it at once, a [`shield`](crate::shield) holds that up, a
//! [`deadline`](crate::deadline) goes along, and what is [deferred](crate::defer) is waited for. Outside of
//! every actor the same works between these tools: a [`CancelScope`] respects the shield inside of it.
//!
//! | to | see |
//! |---|---|
//! | run tasks that end with a block | [`open_nursery`] |
//! | use several resources at once, or none | [`gather_contexts`] |
//! | share what is expensive to open | [`SharedContexts::maybe_open_context`] |
//! | read one stream in several places | [`broadcast`] |
//! | tell other actors what they want to know, by topic | [`Topics`] |
//! | take groups of errors apart | [`split`], [`filter`], [`collapse`] |
//! | write what is opened and closed | [`AsyncContext`], [`context_fn`] |
//! | stop code by hand or by the clock | [`CancelScope`], [`move_on_after`], [`fail_after`] |
mod book;
mod cancel_scope;
mod collapse;
mod context;
mod gather;
mod nursery;
mod region;
mod shared;
mod topic_stream;
mod topics;

pub use crate::broadcast::{Broadcast, Lag, RecvError, Subscriber, broadcast};
pub use cancel_scope::{CancelScope, fail_after, move_on_after};
pub use collapse::{collapse, filter, split};
pub use context::{AsyncContext, BoxedContext, Exit, FnContext, Hold, context_fn};
pub use gather::gather_contexts;
pub use nursery::{Task, TaskNursery, TaskStatus, open_nursery};
pub use shared::{Lease, SharedContexts};
pub use topic_stream::TopicStream;
pub use topics::Topics;
