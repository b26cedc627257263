//! What do `#[teamster::main]` and `#[teamster::test]` ask for, and how should the program end?
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Duration;

use crate::actor::Settings;
use crate::error::{Error, capture};

/// The options of `#[teamster::main]`.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct MainOptions {
    pub(crate) multi_thread: bool,
    /// `None`: tokio's default.
    pub(crate) worker_threads: Option<usize>,
    pub(crate) debug: bool,
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
    pub fn debug(mut self) -> Self {
        self.debug = true;
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
    crate::actor::boot::boot_or_be_ready();
    if options.debug {
        crate::actor::crash::arm_roots();
    }
    let mut builder = match options.multi_thread {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    if let Some(threads) = options.worker_threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().expect("a machine that has no descriptor left starts nothing");
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // What dropped nurseries have left is waited for on every way out, a panic's too.
        let _rest = crate::nursery::init();
        runtime.block_on(body())
    }));
    // Dropped, the runtime would wait for blocking closures, for ever: one may be reading a terminal.
    if let Some(signal) = ended.as_ref().ok().and_then(MainOutcome::interrupted_by) {
        runtime.shutdown_timeout(BLOCKING_WITHIN);
        crate::actor::signals::die_by(signal);
    }
    if ended.as_ref().map_or(true, MainOutcome::has_failed) {
        // Nobody would read of the failure. They get as long as an actor's.
        runtime.shutdown_timeout(Settings::default().grace);
    }
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

/// What blocking closures have to end in, after the signal that has ended everything else.
const BLOCKING_WITHIN: Duration = Duration::from_millis(100);

/// What `#[teamster::main]` may return: `()`, an `ExitCode`, or a `Result` of one of them with any
/// error that prints.
///
/// # Examples
///
/// ```
/// use teamster::{Error, MainOutcome};
///
/// let ended: anyhow::Result<()> = Err(Error::Interrupted { signal: 2 }.into());
/// assert_eq!(ended.interrupted_by(), Some(2));
/// ```
#[diagnostic::on_unimplemented(
    message = "`#[teamster::main]` can't return `{Self}`",
    note = "return `()`, `std::process::ExitCode`, or a `Result` of one of them"
)]
pub trait MainOutcome {
    /// The signal that ended the tree, if one did: the process should die by it too.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::MainOutcome;
    ///
    /// assert_eq!(().interrupted_by(), None);
    /// assert_eq!(Err::<(), _>(teamster::Error::Interrupted { signal: 2 }).interrupted_by(), Some(2));
    /// ```
    fn interrupted_by(&self) -> Option<i32>;

    /// Whether it is a failure: then blocking closures (`spawn_blocking`, tokio's stdin) get the grace to end
    /// in, and the program ends without those that don't.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::MainOutcome;
    ///
    /// assert!(Err::<(), _>("no").has_failed());
    /// assert!(std::process::ExitCode::FAILURE.has_failed());
    /// ```
    fn has_failed(&self) -> bool {
        false
    }
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

    fn has_failed(&self) -> bool {
        *self != ExitCode::SUCCESS
    }
}

impl<T: MainOutcome, E: fmt::Debug> MainOutcome for Result<T, E> {
    fn interrupted_by(&self) -> Option<i32> {
        match self {
            Ok(value) => value.interrupted_by(),
            // It will be printed by its `Debug`. Whichever type it is, one of the user's own too:
            // an interruption that ended it is what it prints.
            Err(error) => capture::shown_by(error).as_ref().and_then(|ours| signal_in(ours)),
        }
    }

    fn has_failed(&self) -> bool {
        self.as_ref().map_or(true, MainOutcome::has_failed)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BoxError;
    use crate::report::Report;

    #[derive(Debug)]
    #[expect(dead_code, reason = "it is for its Debug")]
    enum Own {
        Teamster { cause: Error, retries: u32 },
    }

    #[derive(Debug, thiserror::Error)]
    #[error("working")]
    struct BodyWrapper(#[source] Error);

    #[track_caller]
    fn check(outcome: impl MainOutcome, wanted: Option<i32>) {
        assert_eq!(outcome.interrupted_by(), wanted);
    }

    fn interrupted() -> Error {
        Error::Interrupted { signal: 2 }
    }

    #[test]
    fn an_interruption_is_found_in_every_error_type_that_main_returns() {
        type Main<E> = Result<(), E>;
        check((), None);
        check(Main::<Error>::Ok(()), None);
        check(Main::<Error>::Err(interrupted()), Some(2));
        check(Main::<anyhow::Error>::Err(interrupted().into()), Some(2));
        check(Main::<anyhow::Error>::Err(anyhow::Error::from(interrupted()).context("working")), Some(2));
        check(Main::<BoxError>::Err(interrupted().into()), Some(2));
        check(Main::<BoxError>::Err(anyhow::Error::from(interrupted()).into()), Some(2));
        check(Main::<Box<dyn StdError>>::Err(interrupted().into()), Some(2));
        check(Main::<Report>::Err(interrupted().into()), Some(2));
        check(Main::<Report>::Err(BodyWrapper(interrupted()).into()), Some(2));
        check(Main::<Own>::Err(Own::Teamster { cause: interrupted(), retries: 1 }), Some(2));
        let both = crate::Group::collect([interrupted(), Error::Usage("no")]).expect("two");
        check(Main::<Own>::Err(Own::Teamster { cause: both, retries: 1 }), Some(2));
        check(Result::<ExitCode, Error>::Err(Error::Usage("no")), None);
        check(Main::<String>::Err("interrupted".to_owned()), None);
    }
}
