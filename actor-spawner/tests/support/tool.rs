//! `teamster`, run by a test.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::process::{Command, Output};

/// Runs the tool off the runtime, which serves what it asks.
pub(crate) async fn teamster<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
    let run = move || Command::new(env!("CARGO_BIN_EXE_teamster")).args(arguments).output().expect("it starts");
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

/// What it prints when it does what it was told.
pub(crate) async fn printed<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = teamster(arguments).await;
    assert!(output.status.success(), "{}: {}", output.status, errors(&output));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// What it says when it can't.
pub(crate) async fn refused<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = teamster(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    errors(&output)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
