//! Which loop does a child run as its host, and what is that told?
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::slice::Slice;
use super::thread::HostThread;
use crate::error::CodecError;
use crate::msg::codec;
use crate::msg::frame::Encoding;

/// A host's loop for a new actor, with its arguments: what a function with
/// [`#[teamster::host_loop]`](macro@crate::host_loop) returns, for [`ActorBuilder::infect`](crate::ActorBuilder::infect).
///
/// # Examples
///
/// ```
/// use teamster::guest::{Guest, HostLoop};
///
/// #[teamster::host_loop]
/// fn frames(guest: Guest, per_second: u32) {
///     // …
/// #   let _ = (guest, per_second);
/// }
///
/// let host: HostLoop = frames(60);
/// assert!(host.path().ends_with("::frames"));
/// ```
#[must_use = "it is nothing until an actor is started with it"]
#[derive(Clone, Debug)]
pub struct HostLoop {
    path: &'static str,
    args: Result<Bytes, CodecError>,
}

impl HostLoop {
    /// By which path it is known.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::host_loop] fn frames(guest: teamster::guest::Guest) { drop(guest) }
    /// assert!(frames().path().ends_with("::frames"));
    /// ```
    pub fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn args(&self) -> Result<Bytes, CodecError> {
        self.args.clone()
    }
}

/// Used by the macro: a loop by its path, with a tuple of its arguments.
#[doc(hidden)]
pub fn named<A: Serialize>(path: &'static str, args: &A) -> HostLoop {
    let mut bytes = Vec::new();
    let written = codec::encode_into(args, Encoding::Named, &mut bytes);
    let args =
        written.map(|_named| bytes.into()).map_err(|failure| CodecError::encoding(path, "the arguments", failure));
    HostLoop { path, args }
}

/// A function that is a host's loop, as the child finds it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    path: fn() -> &'static str,
    run: fn(Guest, &[u8]) -> Result<(), String>,
}

impl Registration {
    /// Used by the macro.
    pub const fn new(path: fn() -> &'static str, run: fn(Guest, &[u8]) -> Result<(), String>) -> Self {
        Registration { path, run }
    }

    /// Used by the macro: runs a loop with its arguments from these bytes.
    #[expect(clippy::missing_errors_doc, reason = "nobody calls it by hand")]
    pub fn run_with<A: DeserializeOwned>(args: &[u8], run: impl FnOnce(A) -> Option<String>) -> Result<(), String> {
        let args = codec::decode(args).map_err(|failure| format!("its arguments can't be decoded: {failure}"))?;
        run(args).map_or(Ok(()), Err)
    }

    pub(crate) fn run(&self, guest: Guest, args: &[u8]) -> Result<(), String> {
        (self.run)(guest, args)
    }
}

/// What a host's loop may return: nothing, or a `Result` whose error is printed and ends the process.
///
/// # Examples
///
/// ```
/// use teamster::guest::LoopOutcome;
///
/// assert_eq!(Err::<(), _>("no display").into_failure().as_deref(), Some("no display"));
/// assert_eq!(().into_failure(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "a host's loop can't return `{Self}`",
    note = "return nothing, or `Result<(), E>` with an error that prints"
)]
pub trait LoopOutcome {
    /// What went wrong, if something did.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::guest::LoopOutcome;
    ///
    /// assert_eq!(().into_failure(), None);
    /// ```
    fn into_failure(self) -> Option<String>;
}

impl LoopOutcome for () {
    fn into_failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> LoopOutcome for Result<(), E> {
    fn into_failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// Every loop of this program. Filled when it is linked.
#[linkme::distributed_slice]
pub static HOST_LOOPS: [Registration];

/// The loop of this path, or a text that says that there is none.
pub(crate) fn find(path: &str) -> Result<&'static Registration, String> {
    HOST_LOOPS.iter().find(|entry| (entry.path)() == path).ok_or_else(|| {
        let there: Vec<&str> = HOST_LOOPS.iter().map(|entry| (entry.path)()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        format!("this program has no host loop {path}; it has {there}: put `#[teamster::host_loop]` on it")
    })
}

/// An actor that waits for its host's loop to take it in: what a [`host_loop`](macro@crate::host_loop) is given.
///
/// Dropped without [`start`](Guest::start), it ends the process as a loop does that returns too early.
///
/// # Examples
///
/// ```no_run
/// # struct MainLoop;
/// # impl MainLoop {
/// #     fn new() -> Self { MainLoop }
/// #     fn handle(&self) -> Self { MainLoop }
/// #     fn call_soon(&self, _callback: impl FnOnce() + Send) {}
/// #     fn quit(&self) {}
/// #     fn run(&self) {}
/// # }
/// #[teamster::host_loop]
/// fn toolkit(guest: teamster::guest::Guest) {
///     let main = MainLoop::new();
///     let (soon, quit) = (main.handle(), main.handle());
///     guest.start(move |slice| soon.call_soon(|| slice.run()), move || quit.quit());
///     main.run(); // returns when it was told to quit
/// }
/// # fn main() {}
/// ```
#[must_use = "dropped, it ends the process"]
pub struct Guest {
    host: Arc<HostThread>,
    boarded: oneshot::Sender<()>,
    over: oneshot::Receiver<()>,
}

impl Guest {
    /// Starts the guest on this thread: from now on it asks `run_soon`, on whatever thread, to have a [`Slice`] run
    /// soon on this one, and calls `done`, on this one, when it is over. The loop should return then.
    ///
    /// `run_soon` does not wait and does not run the slice itself. Where a loop has priorities, a slice is best run
    /// behind its timers. The actor answers calls from its first slice on; if that has not come shortly before the boot
    /// timeout, the process ends, and the actor's start fails with a message that says so.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use teamster::guest::{Guest, Slice};
    ///
    /// #[teamster::host_loop]
    /// fn queue(guest: Guest) {
    ///     let (soon, slices) = mpsc::channel::<Option<Slice>>();
    ///     let over = soon.clone();
    ///     guest.start(move |slice| drop(soon.send(Some(slice))), move || drop(over.send(None)));
    ///     while let Ok(Some(slice)) = slices.recv() {
    ///         slice.run();
    ///     }
    /// }
    /// # fn main() {}
    /// ```
    pub fn start(self, run_soon: impl Fn(Slice) + Send + Sync + 'static, done: impl FnOnce() + 'static) {
        let Guest { host, boarded, over } = self;
        let at_the_end = Arc::clone(&host);
        host.spawn_local(async move {
            // Nobody waits for it any more if the actor was cancelled meanwhile: then it is over, too.
            let _ = boarded.send(());
            let _ = over.await;
            at_the_end.end_with(Box::new(done));
        });
        host.begin(run_soon);
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The actor's side of a guest that is about to start.
pub(crate) struct Boarding {
    pub(crate) host: Arc<HostThread>,
    /// The host has run a slice. An error: its loop will not.
    pub(crate) boarded: oneshot::Receiver<()>,
    /// Dropped when the actor is over.
    pub(crate) over: oneshot::Sender<()>,
}

/// A guest of this thread, both sides of it.
pub(crate) fn board(runtime: Handle) -> (Guest, Boarding) {
    let host = HostThread::new(runtime);
    let (say, boarded) = oneshot::channel();
    let (over, told) = oneshot::channel();
    (Guest { host: Arc::clone(&host), boarded: say, over: told }, Boarding { host, boarded, over })
}
