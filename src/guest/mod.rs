//! Actors as guests: whose loop runs an actor's tasks, where that is not its own runtime?
//!
//! Some libraries speak one event loop and no other: a toolkit's main loop, a game engine's frame loop, Python's
//! asyncio. Such a loop is the *host* of its thread, and teamster comes as its *guest*. All that the host has to offer
//! is "run this soon on your thread", from any thread. It is called with a [`Slice`] whenever tasks of the actor have
//! something to do; running the slice polls them, for about a millisecond, and then the host goes on with its own.
//!
//! Endpoints, bodies of nurseries and contexts, and tasks of [`tasks::open_nursery`](crate::tasks) run on the host's
//! thread, one at a time, so they may use what belongs to it. Everything that waits (sockets, timers, the lines to other
//! actors) does so on a thread beside it, `teamster-io`, with a tokio runtime that tasks find around them: tokio's
//! sockets, timers and `spawn_blocking` work in them. What a task hands to `tokio::spawn` runs on the thread beside.
//!
//! # A child that runs a host's loop
//!
//! [`host_loop`](macro@crate::host_loop) makes a function such a loop, and [`ActorBuilder::infect`](crate::ActorBuilder::infect)
//! starts an actor with it: the function runs on the main thread of the child's process.
//!
//! ```
//! use std::sync::mpsc;
//! use teamster::guest::Guest;
//! use teamster::rpc;
//!
//! #[teamster::host_loop]
//! fn queue(guest: Guest) {
//!     let (soon, callbacks) = mpsc::channel::<Box<dyn FnOnce() -> bool + Send>>();
//!     let over = soon.clone();
//!     guest.start(
//!         move |slice| {
//!             // An error says that the loop is over, and so is the guest.
//!             let _ = soon.send(Box::new(move || { slice.run(); true }));
//!         },
//!         move || {
//!             let _ = over.send(Box::new(|| false)); // received below
//!         },
//!     );
//!     while callbacks.recv().is_ok_and(|callback| callback()) {}
//! }
//!
//! #[rpc]
//! async fn thread() -> String {
//!     format!("{:?}", std::thread::current().id())
//! }
//!
//! #[teamster::main]
//! async fn main() -> Result<(), teamster::Error> {
//!     teamster::open_nursery(async |an| {
//!         let clock = an.actor("clock").infect(queue()).start().await?;
//!         assert_eq!(clock.run(thread()).await?, clock.run(thread()).await?); // that of the loop
//!         Ok(())
//!     })
//!     .await
//! }
//! ```
//!
//! # A root in a host's loop
//!
//! [`RootBuilder::open_as_guest`](crate::RootBuilder::open_as_guest) is called on the host's thread, returns at once, and
//! has the root's body run there.
//!
//! # What holds, and what does not
//!
//! A cancel is heard and acknowledged by the actor's control thread, whatever the host does; a loop that runs no slices
//! any more is killed when the grace is over. A loop that returns before its guest is over ends its process, and the
//! actor has died with a message that says so: what wants to end a guest from inside calls
//! [`cancel_self`](crate::cancel_self), and lets the loop return when it is told that the guest is over.
//!
//! A task that never awaits holds up the host, as any callback of its would. An actor that is armed for
//! [debugging](crate::pause) and stops holds its host's thread: the loop stands still with it, its timers too.
mod host_loop;
mod io;
mod slice;
mod thread;

pub use host_loop::{Guest, HostLoop, LoopOutcome};
pub use slice::Slice;

pub(crate) use host_loop::{Boarding, board, find};
#[doc(hidden)]
pub use host_loop::{HOST_LOOPS, Registration, named};
pub(crate) use io::{IO_THREAD, Io};
pub(crate) use thread::{HostThread, Owned, here};
