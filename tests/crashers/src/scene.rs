//! What scenes have in common.
use std::fmt::Debug;

pub(crate) type Outcome = Result<(), teamster::Error>;

/// What a test waits for.
pub(crate) fn tell(what: &str, result: Result<impl Debug, teamster::Error>) {
    match result {
        Ok(value) => println!("{what}: {value:?}"),
        Err(error) => println!("{what}: {error}"),
    }
}
