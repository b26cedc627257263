//! Actors whose host is Python's asyncio: coroutines as tasks of a running event loop, linked with ours.
//!
//! An actor that is [infected](crate::ActorBuilder::infect) with [`Asyncio`] runs an asyncio event loop on the main thread of
//! its process, with the actor as its [guest](crate::guest). In its endpoints [`run_task`] runs a coroutine function as
//! a task of that loop, and [`open_channel_from`] links one with a block here, with messages both ways.
//!
//! ```no_run
//! use teamster::asyncio::{self, Asyncio};
//!
//! #[teamster::rpc]
//! async fn fetch(url: String) -> Result<String, teamster::Error> {
//!     asyncio::run_task("fetcher:fetch", (url,)).await // `async def fetch(url)` of `fetcher.py`
//! }
//!
//! #[teamster::main]
//! async fn main() -> Result<(), teamster::Error> {
//!     teamster::open_nursery(async |an| {
//!         let py = an.actor("py").infect(Asyncio::new().path("python").venv(".venv")).start().await?;
//!         println!("{}", py.run(fetch("http://localhost:8080/".into())).await?);
//!         Ok(())
//!     })
//!     .await
//! }
//! ```
//!
//! # Values
//!
//! Arguments, messages and results are what serde has of them: a struct is a `dict`, a tuple a `tuple`, a `Vec` a `list`. Where a
//! coroutine function is called, a tuple is its positional arguments, `()` none, a struct or a map its keywords, and anything else its
//! only argument. What Python gives may nest 200 levels deep, as any value that travels; a list that holds itself can't cross.
//!
//! # Ends
//!
//! What a coroutine raises is an [`Error::Remote`](crate::Error::Remote) with Python's name of the type, its text, the place and
//! the traceback; it climbs the tree as any other error. What ends us ends what we have started: a dropped or cancelled call,
//! or a block that ends, cancels its asyncio task, which sees `asyncio.CancelledError` and may clean up; the end of the call
//! waits for that, within the grace. A task that cancels itself, or swallows a cancel, is told by those words.
//!
//! Tasks that Python has started beside ours, by `asyncio.create_task`, end with the actor: behind its exit hooks they are
//! cancelled, may clean up and call others, and are waited for within the grace. A child prints what its Python has buffered
//! and runs its `atexit` functions at its end; a killed one does not.
//!
//! The actor's tasks run on the loop's thread with Python's lock, the GIL, held: while one computes, no thread of Python's runs. A job
//! for a [pool](crate::pool) or a blocking closure holds nothing.
//!
//! A call into Python that blocks stands still with its loop and its actor, and with nothing else: a cancel is heard, and the process
//! killed when the grace is over. Python installs no handler of signals.
//!
//! # What Python finds
//!
//! The module `teamster` is there in such a process: `await teamster.call(name, path, args)` calls an endpoint of any
//! actor of the tree, by its path, as [`Portal::run_by_path`](crate::Portal::run_by_path) does. What that fails with is a
//! `teamster.RemoteError`; not caught, it climbs on as the error that it was. Channels have `started_nowait`, `get`, `send`,
//! `send_nowait`, and are iterated by `async for`; behind the last message is `teamster.EndOfChannel`.
#![allow(unsafe_code, reason = "pyo3's macros make it")]
mod channel;
mod event_loop;
mod module;
mod raised;
mod root;
mod task;
mod value;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, open_channel_from};
pub use task::{End, run_task};

use crate::guest::HostLoop;

/// An asyncio event loop for a new actor: give it to [`ActorBuilder::infect`](crate::ActorBuilder::infect).
///
/// # Examples
///
/// ```
/// use teamster::asyncio::Asyncio;
///
/// let host = Asyncio::new().venv("/srv/app/.venv").path("/srv/app/python");
/// # drop(host);
/// ```
#[must_use = "it is nothing until an actor is started with it"]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asyncio {
    pub(super) venv: Option<PathBuf>,
    pub(super) paths: Vec<PathBuf>,
}

impl Asyncio {
    /// That of the Python that teamster was built with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::asyncio::Asyncio;
    /// let host = Asyncio::new();
    /// # drop(host);
    /// ```
    pub fn new() -> Self {
        Asyncio::default()
    }

    /// Has the packages of a virtual environment, which has to be of the same version of Python. One that is not there,
    /// or is of another version, fails the actor's start. Its interpreter is `sys.executable`, for what Python code starts.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::asyncio::Asyncio;
    /// let host = Asyncio::new().venv("/srv/app/.venv");
    /// # drop(host);
    /// ```
    pub fn venv(mut self, folder: impl Into<PathBuf>) -> Self {
        self.venv = Some(folder.into());
        self
    }

    /// Looks for modules in this folder too, before all others: the one that was named last goes first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::asyncio::Asyncio;
    /// let host = Asyncio::new().path("python");
    /// # drop(host);
    /// ```
    pub fn path(mut self, folder: impl Into<PathBuf>) -> Self {
        self.paths.push(folder.into());
        self
    }
}

impl From<Asyncio> for HostLoop {
    fn from(options: Asyncio) -> HostLoop {
        event_loop::event_loop(options)
    }
}
