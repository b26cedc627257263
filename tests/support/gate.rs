//! Jobs that say that they have begun, and go on when they are told to.
#![allow(dead_code, reason = "not every file uses all of it")]
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where jobs come by.
pub(crate) struct Gate {
    folder: TempDir,
    listener: tokio::net::UnixListener,
}

/// A job that stands before the gate.
pub(crate) struct Held {
    pub(crate) pid: u32,
    line: tokio::net::UnixStream,
}

/// A safety net: what is awaited comes much sooner, or never.
const LATE: Duration = Duration::from_secs(20);

impl Gate {
    pub(crate) fn new() -> Gate {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = tokio::net::UnixListener::bind(folder.path().join("gate")).expect("a socket");
        Gate { folder, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("gate")
    }

    /// The next job that has begun.
    pub(crate) async fn next(&self) -> Held {
        let next = async {
            let (mut line, _) = self.listener.accept().await.expect("a socket");
            let pid = line.read_u32().await.expect("it says its pid");
            Held { pid, line }
        };
        tokio::time::timeout(LATE, next).await.expect("a job begins")
    }

    /// Whether no job has come that nobody has looked at.
    pub(crate) async fn is_empty(&self) -> bool {
        let mut next = std::pin::pin!(self.listener.accept());
        futures::poll!(&mut next).is_pending()
    }
}

impl Held {
    /// It goes on.
    pub(crate) async fn pass(mut self) {
        self.line.write_all(&[1]).await.expect("it waits");
    }

    /// Its process ends before it may go on.
    pub(crate) async fn dies(&mut self) {
        let end = tokio::time::timeout(LATE, self.line.read_u8()).await.expect("its process ends");
        assert!(end.is_err(), "it goes on");
    }
}

/// What such a job does: its pid, when it may go on.
pub(crate) fn stand_before(gate: &Path) -> u32 {
    let mut line = UnixStream::connect(gate).expect("there is a gate");
    line.write_all(&std::process::id().to_be_bytes()).expect("somebody looks");
    let _ = line.read(&mut [0]); // the gate may go away
    std::process::id()
}
