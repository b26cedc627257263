//! A program with a tree of its own, run by a test of the same file: its stdio is the test's.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

/// Starts this file's test `program`, which looks at the variable `PROGRAM`.
pub(crate) fn command(name: &str) -> Command {
    at("/proc/self/exe".as_ref(), name)
}

/// The same from another path of the executable.
pub(crate) fn at(exe: &std::path::Path, name: &str) -> Command {
    let mut command = Command::new(exe);
    command
        .args(["program", "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env("PROGRAM", name)
        .env("TEAMSTER_TEST", "program")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What the variable says, without the program's own arguments for libtest.
pub(crate) fn name() -> String {
    std::env::var("PROGRAM").unwrap_or_default()
}

/// Ends a program before libtest has its say.
pub(crate) fn exit<E: std::fmt::Debug>(result: Result<(), E>) -> ! {
    let status = match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("Error: {error:?}");
            1
        }
    };
    std::process::exit(status)
}

/// A running program, spoken to by lines.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

pub(crate) fn start(command: &mut Command) -> Running {
    let mut child = command.spawn().expect("this executable starts");
    let stdin = child.stdin.take();
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let stderr = child.stderr.take();
    Running { child, stdin, stdout, stderr }
}

impl Running {
    /// What follows in the next line that says this.
    pub(crate) fn line(&mut self, start: &str) -> String {
        let mut passed = String::new();
        loop {
            let mut line = String::new();
            let count = self.stdout.read_line(&mut line).expect("a pipe can be read");
            assert!(count > 0, "the program ended without a line {start:?}: {passed}{}", self.errors());
            // libtest says on the same line which test it runs.
            if let Some((_, rest)) = line.split_once(start) {
                return rest.trim().to_owned();
            }
            passed.push_str(&line);
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        use std::io::Write;
        writeln!(self.stdin.as_mut().expect("it is open"), "{line}").expect("the program reads");
    }

    /// What it has said on stderr, once it has ended.
    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            use std::io::Read;
            stderr.read_to_string(&mut text).expect("it prints UTF-8");
        }
        text
    }
}

/// In a program: the next line of stdin, off the runtime. `None` at its end.
pub(crate) async fn heard() -> Option<String> {
    tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let count = std::io::stdin().read_line(&mut line).unwrap_or(0);
        (count > 0).then(|| line.trim().to_owned())
    })
    .await
    .ok()
    .flatten()
}
