//! How should a program end, by what its `main` returned?
use std::any::Any;
use std::error::Error as StdError;
use std::process::ExitCode;

use crate::error::{BoxError, Error};
use crate::report::Report;

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
