//! `teamster`, run by a test.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::process::{Command, Output};

/// The tool with these arguments.
pub(crate) fn command<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(arguments.into_iter().map(Into::into));
    command
}

/// Runs the tool off the runtime, which serves what it asks.
pub(crate) async fn teamster<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Output {
    output(command(arguments)).await
}

/// The same where more was said to it.
pub(crate) async fn output(mut command: Command) -> Output {
    let run = move || command.output().expect("it starts");
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
