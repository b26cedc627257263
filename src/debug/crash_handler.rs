//! How does plain code, without any actor, stop for a debugger?
use std::error::Error;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::message::Kind;
use super::stop::{Seen, stop};
use super::{chain_of, hub};
use crate::actor::Keep;
use crate::actor::crash::{Answer, Handled};
use crate::actor::panics::PanicHook;

/// Begins a crash handler: plain code stops at the prompt where it panics, where it fails, and at each
/// [`pause!`](crate::pause), as an armed actor does. For command lines, scripts and tests without any actor.
///
/// # Examples
///
/// ```
/// # fn convert(text: &str) -> Result<u32, std::num::ParseIntError> { text.parse() }
/// let converted = teamster::debug::open_crash_handler()
///     .ignoring::<std::io::Error>() // is no reason to stop
///     .run(|| convert("21"))?;
/// assert_eq!(converted, Some(21));
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
pub fn open_crash_handler() -> CrashHandler {
    CrashHandler { ignored: Vec::new(), suppressed: Vec::new() }
}

/// What a crash handler does with which errors. Made by [`open_crash_handler`].
///
/// # Examples
///
/// ```
/// use std::num::ParseIntError;
///
/// // Its errors are shown at the prompt, where there is a terminal, and go no further.
/// let handler = teamster::debug::open_crash_handler().ignoring::<ParseIntError>().suppressing::<ParseIntError>();
/// assert_eq!(handler.run(|| "many".parse::<u32>()), Ok(None));
/// ```
#[must_use = "it handles what `run` runs"]
#[derive(Debug)]
pub struct CrashHandler {
    ignored: Vec<fn(&(dyn Error + 'static)) -> bool>,
    suppressed: Vec<fn(&(dyn Error + 'static)) -> bool>,
}

impl CrashHandler {
    /// Errors of this type, or with one among their sources, don't stop.
    ///
    /// # Examples
    ///
    /// ```
    /// let handler = teamster::debug::open_crash_handler().ignoring::<std::fmt::Error>();
    /// assert!(handler.run(|| Err::<(), _>(std::fmt::Error)).is_err());
    /// ```
    pub fn ignoring<E: Error + 'static>(mut self) -> Self {
        self.ignored.push(has::<E>);
        self
    }

    /// Errors of this type, or with one among their sources, go no further once somebody has looked at them.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fmt::Error;
    ///
    /// let handler = teamster::debug::open_crash_handler().ignoring::<Error>().suppressing::<Error>();
    /// assert_eq!(handler.run(|| Err::<(), _>(Error)), Ok(None));
    /// ```
    pub fn suppressing<E: Error + 'static>(mut self) -> Self {
        self.suppressed.push(has::<E>);
        self
    }

    /// Runs `body`. `None` where its error was one to be suppressed.
    ///
    /// # Errors
    ///
    /// That of `body`, if it was not suppressed.
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when somebody has looked at it; and one of its own goes out of a
    /// [`pause!`](crate::pause) whose user has quit.
    ///
    /// # Examples
    ///
    /// ```
    /// let sum = teamster::debug::open_crash_handler().run(|| Ok::<_, std::fmt::Error>(1 + 2));
    /// assert_eq!(sum, Ok(Some(3)));
    /// ```
    pub fn run<T, E: Error + 'static>(self, body: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        let _alone = Alone::begin();
        let _hook = PanicHook::install();
        let _handled = Handled::begin();
        let error = match body() {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        if !self.ignored.iter().any(|is| is(&error)) {
            let seen = Seen {
                text: error.to_string(),
                chain: chain_of(std::any::type_name::<E>(), &error),
                ..Seen::of(Kind::Returned)
            };
            // It fails, whatever is said: the one who asked for more has seen it.
            let _: Answer = stop(None, seen);
        }
        if self.suppressed.iter().any(|is| is(&error)) { Ok(None) } else { Err(error) }
    }
}

fn has<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|error| error.is::<E>())
}

/// The hub of this process's handlers: of the outermost of each thread, and of all at once.
static HUB: Mutex<Option<Hub>> = Mutex::new(None);

struct Hub {
    users: usize,
    folder: tempfile::TempDir,
    hub: Box<dyn Keep>,
}

/// Where those who stop connect to.
pub(super) fn socket() -> Option<PathBuf> {
    HUB.lock().as_ref().map(|hub| hub.folder.path().join("debug"))
}

/// While it lives there is a hub without a tree.
struct Alone;

impl Alone {
    /// Without a folder or a thread to be had nothing stops: the code runs as it would without.
    fn begin() -> Option<Self> {
        let mut hub = HUB.lock();
        match hub.as_mut() {
            Some(hub) => hub.users += 1,
            None => {
                let folder = tempfile::Builder::new().prefix("teamster-").tempdir().ok()?;
                let listener = UnixListener::bind(folder.path().join("debug")).ok()?;
                *hub = Some(Hub { users: 1, folder, hub: hub::open_alone(listener.into()).ok()? });
            }
        }
        Some(Alone)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut hub = HUB.lock();
        if let Some(living) = hub.as_mut() {
            living.users -= 1;
            if living.users == 0
                && let Some(last) = hub.take()
            {
                last.hub.end();
            }
        }
    }
}
