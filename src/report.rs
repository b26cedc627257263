//! What does an endpoint fail with that may fail with anything?
use std::any::type_name;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{BodyError, BoxError, Error};
use crate::msg::printed;

/// The result of an endpoint that may fail with anything: every error type passes `?`.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn double(text: String) -> teamster::Result<u32> {
///     Ok(2 * text.parse::<u32>()?)
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// assert_eq!(double("21".into()).await?, 42);
/// assert_eq!(double("many".into()).await.unwrap_err().to_string(), "invalid digit found in string");
/// # Ok(()) }
/// ```
pub type Result<T, E = Report> = std::result::Result<T, E>;

/// An error of any type that knows the line of the `?` which made it.
///
/// # Examples
///
/// ```
/// fn port(text: &str) -> teamster::Result<u16> {
///     Ok(text.parse::<u16>()?)
/// }
///
/// let report = port("many").unwrap_err();
/// assert_eq!(report.to_string(), "invalid digit found in string");
/// assert_eq!(report.location().column(), 8); // the line and column of `text.parse::<u16>()?`
/// assert!(report.downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct Report {
    inner: Box<ReportData>,
}

struct ReportData {
    error: BoxError,
    type_name: &'static str,
    location: &'static Location<'static>,
    backtrace: Backtrace,
    is_seen: bool,
}

impl Report {
    /// A report from what is no error type by itself: a text, or a box.
    ///
    /// # Examples
    ///
    /// ```
    /// fn even(n: u32) -> teamster::Result<u32> {
    ///     if n % 2 == 1 {
    ///         return Err(teamster::Report::msg(format!("{n} is odd")));
    ///     }
    ///     Ok(n)
    /// }
    /// assert_eq!(even(3).unwrap_err().to_string(), "3 is odd");
    /// ```
    #[track_caller]
    pub fn msg(error: impl Into<BoxError>) -> Report {
        Report::boxed(error.into(), type_name::<String>())
    }

    #[track_caller]
    fn boxed(error: BoxError, type_name: &'static str) -> Report {
        let location = Location::caller();
        let backtrace = Backtrace::capture();
        let mut report =
            Report { inner: Box::new(ReportData { error, type_name, location, backtrace, is_seen: false }) };
        if IS_WATCHED.load(Ordering::Relaxed) {
            let watcher = *WATCHER.lock();
            watcher.inspect(|watcher| watcher(&mut report));
        }
        report
    }

    /// The line of the `?`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report: teamster::Report = "many".parse::<u16>().unwrap_err().into();
    /// println!("it failed in line {}", report.location().line());
    /// ```
    pub fn location(&self) -> &'static Location<'static> {
        self.inner.location
    }

    /// The stack at the `?`, if `RUST_BACKTRACE` is set.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report: teamster::Report = "many".parse::<u16>().unwrap_err().into();
    /// if let Some(backtrace) = report.backtrace() {
    ///     eprintln!("{backtrace}");
    /// }
    /// ```
    pub fn backtrace(&self) -> Option<&Backtrace> {
        (self.inner.backtrace.status() == BacktraceStatus::Captured).then_some(&self.inner.backtrace)
    }

    /// The error.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report: teamster::Report = "many".parse::<u16>().unwrap_err().into();
    /// assert_eq!(report.error().to_string(), "invalid digit found in string");
    /// ```
    pub fn error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.inner.error
    }

    /// The error as the type that it is, or the first of that type among its sources.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report: teamster::Report = "many".parse::<u16>().unwrap_err().into();
    /// assert!(report.downcast_ref::<std::num::ParseIntError>().is_some());
    /// ```
    pub fn downcast_ref<T: std::error::Error + Send + Sync + 'static>(&self) -> Option<&T> {
        crate::error::find_below(&*self.inner.error)
    }

    /// The name of the error's type.
    pub(crate) fn type_name(&self) -> &'static str {
        self.inner.type_name
    }

    /// Somebody has looked at it where it was made.
    pub(crate) fn set_seen(&mut self) {
        self.inner.is_seen = true;
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.inner.is_seen
    }

    pub(crate) fn into_inner(self) -> BoxError {
        self.inner.error
    }

    /// The same, as an error of ours: itself, if it is one.
    pub(crate) fn into_error(self) -> Error {
        let location = self.inner.location.to_string();
        match Error::unboxed(self.inner.error) {
            Ok(itself) => itself,
            Err(error) => Error::Body(BodyError::new(error.into()).at(location)),
        }
    }
}

/// Who is shown each report inside of the `?` that makes it, while somebody wants to.
static WATCHER: parking_lot::Mutex<Option<Watcher>> = parking_lot::Mutex::new(None);
static IS_WATCHED: AtomicBool = AtomicBool::new(false);

type Watcher = fn(&mut Report);

pub(crate) fn watch(watcher: Watcher) {
    *WATCHER.lock() = Some(watcher);
    IS_WATCHED.store(true, Ordering::Relaxed);
}

pub(crate) fn watch_no_more() {
    IS_WATCHED.store(false, Ordering::Relaxed);
    *WATCHER.lock() = None;
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Report {
    #[track_caller]
    fn from(error: E) -> Self {
        Report::boxed(Box::new(error), type_name::<E>())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => fmt::Debug::fmt(self, f),
            false => write!(f, "{}", self.inner.error),
        }
    }
}

/// The whole of it, with the line: `fn main() -> Result` prints an error by its `Debug`.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.error.downcast_ref::<Error>() {
            Some(ours) => fmt::Debug::fmt(ours, f),
            None => printed::foreign(f, &*self.inner.error, Some(&self.inner.location.to_string())),
        }
    }
}

/// A report that passes on by `?` as a boxed error.
#[derive(Debug)]
pub(crate) struct Carried(pub(crate) Report);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Carried {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.error().source()
    }
}

impl From<Report> for BoxError {
    fn from(report: Report) -> BoxError {
        match report.inner.error.is::<Error>() {
            true => report.into_inner(),
            false => Box::new(Carried(report)),
        }
    }
}

#[cfg(feature = "anyhow")]
impl From<Report> for anyhow::Error {
    fn from(report: Report) -> anyhow::Error {
        match report.inner.error.downcast::<Error>() {
            Ok(ours) => anyhow::Error::new(*ours),
            Err(error) => {
                anyhow::Error::new(Carried(Report { inner: Box::new(ReportData { error, ..*report.inner }) }))
            }
        }
    }
}

impl From<Report> for Error {
    fn from(report: Report) -> Error {
        report.into_error()
    }
}
