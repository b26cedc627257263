//! What do `#[teamster::main]` and `#[teamster::test]` ask for, and how should the program end?
use std::any::Any;
use std::error::Error as StdError;
use std::process::ExitCode;

use crate::error::{BoxError, Error};
use crate::report::Report;

/// The options of `#[teamster::main]`.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct MainOptions {
    pub(crate) multi_thread: bool,
    /// `None`: tokio's default.
    pub(crate) worker_threads: Option<usize>,
}

impl MainOptions {
    pub fn new() -> Self {
        MainOptions::default()
    }

    #[must_use]
    pub fn multi_thread(mut self) -> Self {
        self.multi_thread = true;
        self
    }

    #[must_use]
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }
}

/// Runs a program's `main`: as the child that this process was started as, or else its body.
///
/// # Panics
///
/// If no runtime can be built.
#[doc(hidden)]
pub fn main<T: MainOutcome, F: AsyncFnOnce() -> T>(options: MainOptions, body: F) -> T {
    crate::actor::boot::boot_if_spawned();
    let mut builder = match options.multi_thread {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    if let Some(threads) = options.worker_threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().expect("a machine that has no descriptor left starts nothing");
    let outcome = {
        // What dropped nurseries have left is waited for on every way out, a panic's too.
        let _rest = crate::nursery::init();
        runtime.block_on(body())
    };
    if let Some(signal) = outcome.interrupted_by() {
        drop(runtime);
        crate::actor::signals::die_by(signal);
    }
    outcome
}

/// What `#[teamster::main]` may return.
#[diagnostic::on_unimplemented(
    message = "`#[teamster::main]` can't return `{Self}`",
    note = "return `()`, `std::process::ExitCode`, or a `Result` of one of them"
)]
pub trait MainOutcome {
    /// The signal that ended the tree, if one did: the process should die by it too.
    fn interrupted_by(&self) -> Option<i32>;
}

impl MainOutcome for () {
    fn interrupted_by(&self) -> Option<i32> {
        None
    }
}

impl MainOutcome for ExitCode {
    fn interrupted_by(&self) -> Option<i32> {
        None
    }
}

impl<T: MainOutcome, E: 'static> MainOutcome for Result<T, E> {
    fn interrupted_by(&self) -> Option<i32> {
        match self {
            Ok(value) => value.interrupted_by(),
            Err(error) => signal_in_any(error),
        }
    }
}

fn signal_in_any(error: &dyn Any) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<Error>() {
        return signal_in(error);
    }
    if let Some(report) = error.downcast_ref::<Report>() {
        return signal_in(report.error());
    }
    if let Some(error) = error.downcast_ref::<BoxError>() {
        return signal_in(&**error);
    }
    if let Some(error) = error.downcast_ref::<Box<dyn StdError>>() {
        return signal_in(&**error);
    }
    #[cfg(feature = "anyhow")]
    if let Some(error) = error.downcast_ref::<anyhow::Error>() {
        return signal_in(&**error);
    }
    None
}

/// Looks through what wraps it, and at the first cause of a group.
fn signal_in(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        match Error::itself(error) {
            Some(Error::Interrupted { signal }) => return Some(signal),
            Some(Error::Group(group)) => return signal_in(group.primary()),
            Some(Error::Body(body)) => return signal_in(body.error()),
            Some(_) | None => next = error.source(),
        }
    }
    None
}
