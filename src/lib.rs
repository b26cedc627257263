//! Structured-concurrent, distributed actors: a program grows a tree of processes, calls into them,
//! and leaves nothing behind.
//!
//! Each actor is an operating-system process with a runtime of its own. A parent opens a
//! [nursery](open_nursery), starts actors in it and calls functions in them through
//! [portals](Portal). The nursery's block ends when every process under it is gone. What fails
//! anywhere climbs the tree as an [`Error`] with its remote traceback, and what is no longer wanted
//! is cancelled at once.
//!
//! ```
//! use teamster::rpc;
//!
//! #[rpc] // callable from any actor of this program
//! async fn add(a: i64, b: i64) -> i64 {
//!     a + b
//! }
//!
//! #[teamster::main] // a child runs the same program again, and becomes an actor here
//! async fn main() -> anyhow::Result<()> {
//!     teamster::open_nursery(async |an| {
//!         let frank = an.start_actor("frank").await?; // a process of its own
//!         assert_eq!(frank.run(add(1, 2)).await?, 3); // over there
//!         assert_eq!(add(1, 2).await?, 3); // the same call, here
//!
//!         let answer = an.run_in_actor(add(40, 2)); // spawn, call, reap
//!         assert_eq!(answer.await?, 42);
//!         Ok(())
//!     })
//!     .await?; // both processes are gone
//!     Ok(())
//! }
//! ```
//!
//! `docs/guide.md` goes through all of it, chapter by chapter.
//!
//! # Where to go
//!
//! | to | see |
//! |---|---|
//! | make a function callable | [`rpc`], and [`error`](macro@error) for errors that cross as themselves |
//! | start actors | [`open_nursery`], [`ActorNursery`], [`ActorBuilder`] for everything about one |
//! | boot | [`main`](macro@main), or [`init`] with a runtime of your own; [`root`] for settings |
//! | run plain programs | [`ActorNursery::run_process`], [`ActorNursery::process`] |
//! | call | [`Portal::run`], [`ActorNursery::run_in_actor`], [`ActorBuilder::call`] |
//! | link tasks across actors | [`context`](macro@context), [`Portal::open_context`], [`Portal::context`] |
//! | stream between them | [`MsgStream`], [`Portal::stream`]; [`MsgStream::subscribe`] for several readers |
//! | publish by topic | [`tasks::Topics`] |
//! | end things | [`Portal::cancel_actor`], [`ActorNursery::cancel`], [`deadline`], or drop the future |
//! | run CPU work in worker processes | [`work`](macro@work), [`run_sync`], [`open_worker_context`], [`pool`] |
//! | live in a loop of another library | [`guest`], [`host_loop`](macro@host_loop), [`ActorBuilder::infect`], [`RootBuilder::open_as_guest`] |
//! | run tasks side by side | [`tasks`]: nurseries and cancel scopes, with and without actors |
//! | clean up | [`shield`], [`defer`], [`on_exit`]; [`is_cancelled`] in loops that never await |
//! | learn what failed | [`Error`], [`RemoteError`], [`Death`], [`Receipt`] |
//! | let trees believe each other on networks | [`RootBuilder::identity`], `docs/identity.md` |
//! | start actors on other hosts | [`ActorBuilder::on`], [`launch`], `docs/cluster.md` |
//! | find others | [`find_actor`], [`wait_for_actor`], [`list_actors`], [`discovery`] |
//! | debug one actor of a running tree | [`pause!`], [`ActorBuilder::debug`], [`RootBuilder::debug`], [`post_mortem`], `docs/debugging.md` |
//! | test | [`test`](macro@test) and [`testing`] |
//!
//! # Variables
//!
//! | variable | what it sets |
//! |---|---|
//! | `TEAMSTER_DIR` | the folder of sockets, mode 0700; trees that share it find each other |
//! | `TEAMSTER_GRACE_MS` | milliseconds that an actor may take to end once it was asked (1000) |
//! | `TEAMSTER_TRANSPORT` | what a tree's lines go over, if its root says nothing: `uds` (the default), `tcp`, `quic`, `insecure`, or several with commas |
//! | `TEAMSTER_LISTEN` | addresses at which the root listens for other hosts: `/ip4/0.0.0.0/tcp/0`, or several with commas |
//! | `TEAMSTER_IDENTITY` | the folder of the tree's identity, by which others believe it on networks: `docs/identity.md` |
//! | `TEAMSTER_HOSTS` | where hosts' agents listen, for [`ActorBuilder::on`]: `b=/dns/b.example/tcp/7117,c=/ip4/10.0.0.3/tcp/7117` |
//! | `TEAMSTER_WORKERS` | how many workers a pool has that is told of no limit (as many as there are processors) |
//! | `TEAMSTER_DEBUG` | which actors stop for the debugger, whatever the program says: `1`, `0`, or a list of `panic`, `err`, `pause`, `every-hop` |
//! | `TEAMSTER_DUMP_DIR` | the folder of the files that dumps are written to (that for temporary files) |
//! | `TEAMSTER_DEBUG_LISTEN` | a socket's path, where `teamster attach` opens the prompt instead of the root's terminal |
//! | `TEAMSTER_LOG` | which log lines are shown, of the whole tree: `info`, `my_crate=debug,info`, `off` |
//!
//! SIGUSR1 to the root's process prints what every actor of its tree does: [`debug::dump`](debug/fn.dump.html).
//!
//! A child's log lines reach the root's `tracing` subscriber under the target `teamster::remote`, with
//! `actor` and `pid` as fields. Without a subscriber `TEAMSTER_LOG` prints them on stderr.
#![warn(clippy::unwrap_used)]
#![cfg_attr(not(feature = "debug"), allow(dead_code, reason = "what is kept for a debugger that is not there"))]
extern crate self as teamster; // the macros' paths, in here too

mod actor;
#[cfg(feature = "tls")]
pub mod agent;
#[cfg(feature = "asyncio")]
pub mod asyncio;
mod broadcast;
mod channel;
mod context;
#[cfg(feature = "debug")]
pub mod debug;
pub mod discovery;
mod error;
pub mod guest;
mod msg;
mod nursery;
pub mod pool;
mod portal;
mod proto;
mod report;
mod spawn;
mod stream;
pub mod tasks;
pub mod testing;
mod transport;

pub use actor::catalog::EndpointInfo;
pub use actor::crash::post_mortem;
pub use actor::endpoint::{BoxFuture, Call, Data, Endpoint, Fallible, Function};
pub use actor::on_exit;
pub use actor::scope::{cancelled, deadline, defer, is_cancelled, shield};
pub use context::{
    Context, ContextCall, ContextEndpoint, ContextHandle, CurrentContext, Outcome, PortalContext, current_context,
};
pub use discovery::{find_actor, find_actors, list_actors, wait_for_actor};
pub use error::{BodyError, BoxError, CodecError, CodecStep, Error, Group, ProgramFailure, RemoteError, SpawnReason};
pub use msg::addr::{Addr, AddrError, Host, HostPort, Transport};
pub use msg::death::{Death, ExitKind, Receipt, Rung};
pub use msg::ident::{Aid, CancelRequest, Canceller};
pub use nursery::entry::MainOutcome;
pub use nursery::{
    ActorBuilder, ActorNursery, Cluster, Guard, OneShot, ProcessBuilder, ProcessExit, ProcessHandle, RootBuilder, init,
    open_nursery, root,
};
pub use pool::{Blob, BrokenWorker, WorkerConfig, WorkerPool, blocking, open_worker_context, run_sync};
pub use portal::{Portal, cancel_self, is_root, parent, this_actor};
pub use report::{Report, Result};
pub use spawn::{Output, Resource};
pub use stream::calls::{ItemStream, StreamCall, StreamEndpoint};
pub use stream::{MsgStream, RecvHalf, SendHalf, TrySendError};
pub use teamster_macros::{context, error, host_loop, main, rpc, test, work};

pub mod launch {
    //! How does a child's process come to be?
    pub use crate::spawn::agent::Agent;
    pub use crate::spawn::launcher::{AtOnce, Command, Launcher, Local, Program};
    pub use crate::spawn::python::Python;
    pub use crate::spawn::slurm::Slurm;
    pub use crate::spawn::ssh::Ssh;
}

#[doc(hidden)]
pub mod __private {
    //! What the macros' code stands on. Not for use by hand.
    pub use crate::actor::crash::{Shown, ViaDebug, ViaOpaque, pause, pause_is_on};
    pub use crate::actor::endpoint::{Arg, ENDPOINTS, Layouts, Registration, encodes, register, travels};
    pub use crate::actor::failure::{ExactKind, Failure, StdKind, TextKind, elsewhere, probe};
    pub use crate::actor::hold::hold_this_actor;
    pub use crate::actor::traces::traced_alone;
    pub use crate::context::{ContextTypes, register_context};
    pub use crate::guest::{HOST_LOOPS, Registration as HostLoopRegistration, named as host_loop};
    pub use crate::msg::error_value::{ERRORS, ErrorRegistration, register_error};
    pub use crate::nursery::entry::{MainOptions, main};
    pub use crate::stream::calls::feed;
    pub use crate::testing::harness::{TestOptions, test};
    pub use linkme;
}

/// Stops here, if the actor is armed: the prompt opens in the root's terminal, on this very line.
///
/// In async code, in plain code and on threads of your own. What is given to it is shown: `pause!(x, y)` takes
/// any expressions, by reference; of a type that is not `Debug` it shows the name. Its task stands still, what the
/// task holds with it (a lock stays locked); the actor's other tasks go on. `c` goes on as if nothing had been;
/// `q` fails the endpoint, by a panic of its own.
///
/// Where the actor is not armed (`.debug(true)`, `#[teamster::main(debug)]`, `TEAMSTER_DEBUG=1`) it is passed by, and
/// costs a load and a branch; the first one says so in the log. What is given to it is not evaluated then.
///
/// # Examples
///
/// ```
/// fn total(prices: &[u32]) -> u32 {
///     let total = prices.iter().sum();
///     teamster::pause!(prices, total);
///     total
/// }
/// assert_eq!(total(&[1, 2]), 3);
/// ```
#[macro_export]
macro_rules! pause {
    ($($value:expr),* $(,)?) => {
        if $crate::__private::pause_is_on() {
            $crate::__private::pause(&mut || {
                #[allow(unused_imports, reason = "which of the two is used is told by the value's type")]
                use $crate::__private::{ViaDebug as _, ViaOpaque as _};
                ::std::vec![$((::core::stringify!($value), (&$crate::__private::Shown(&$value)).show())),*]
            });
        }
    };
}

/// [`pause!`] where a condition holds. The condition is looked at only where somebody is armed.
///
/// # Examples
///
/// ```
/// for n in 0..10 {
///     teamster::pause_if!(n == 7, n);
/// }
/// ```
#[macro_export]
macro_rules! pause_if {
    ($condition:expr $(, $value:expr)* $(,)?) => {
        if $crate::__private::pause_is_on() && $condition {
            $crate::pause!($($value),*);
        }
    };
}

/// [`pause!`], by the name that other languages give it.
///
/// # Examples
///
/// ```
/// teamster::breakpoint!();
/// ```
#[macro_export]
macro_rules! breakpoint {
    ($($value:expr),* $(,)?) => {
        $crate::pause!($($value),*)
    };
}

/// The programs of the guide: `cargo test` runs them.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

/// Those of the page on several hosts: they compile, as there are none.
#[cfg(doctest)]
#[doc = include_str!("../docs/cluster.md")]
struct SeveralHosts;

/// The page on identities has one.
#[cfg(doctest)]
#[doc = include_str!("../docs/identity.md")]
struct Identities;

/// The program of the README, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod __fuzz;
