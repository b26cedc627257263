//! Did it end as the test expects?
use std::fmt;

use crate::error::Error;
use crate::msg::ident::Canceller;

/// Takes the one who cancelled out of a result that must be [`Error::Cancelled`].
///
/// # Panics
///
/// If it is a value or another error.
///
/// # Examples
///
/// ```should_panic
/// let result: Result<u32, teamster::Error> = Ok(3);
/// teamster::testing::expect_cancelled(result);
/// ```
#[track_caller]
pub fn expect_cancelled<T: fmt::Debug>(result: Result<T, Error>) -> Canceller {
    match result {
        Err(Error::Cancelled { canceller }) => canceller,
        Ok(value) => panic!("expected a cancel, got the value {value:?}"),
        Err(error) => panic!("expected a cancel, got the error: {error}"),
    }
}
