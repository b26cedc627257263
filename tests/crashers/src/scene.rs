//! What scenes have in common.
use std::fmt::Debug;
use std::time::Duration;

use teamster::Error;

pub(crate) type Outcome = Result<(), Error>;

/// What a test waits for.
pub(crate) fn tell(what: &str, result: Result<impl Debug, Error>) {
    match result {
        Ok(value) => println!("{what}: {value:?}"),
        Err(Error::Remote(error)) => println!("{what}: {} {error}", error.type_name()),
        Err(error) => println!("{what}: {error}"),
    }
}

/// Waits until the test says so.
pub(crate) async fn told_to_go() {
    let fifo = std::env::var_os("CRASHERS_GO").expect("the test sets it");
    let read = tokio::task::spawn_blocking(|| std::fs::read(fifo));
    read.await.expect("it does not panic").expect("the test has made it");
}

/// Says when time has passed that would have been enough.
pub(crate) async fn tell_after(time: Duration) {
    tokio::time::sleep(time).await;
    println!("{time:?} have passed");
}

/// An actor of the program that gives an answer if it can.
#[teamster::rpc]
pub(crate) async fn ping(number: u32) -> u32 {
    number
}
