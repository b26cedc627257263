//! A wall clock that a test can have jump, by libfaketime: that of an actor, whose monotonic clock goes on as it does.
use std::path::{Path, PathBuf};

use teamster::ActorBuilder;
use tempfile::TempDir;

pub(crate) struct WallClock {
    folder: TempDir,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        let clock = WallClock { folder: tempfile::tempdir().expect("a folder") };
        clock.jumps("+0");
        clock
    }

    /// Has this actor, and those that it starts, go by it.
    pub(crate) fn of<'n>(&self, actor: ActorBuilder<'n>) -> ActorBuilder<'n> {
        let actor = actor.env("LD_PRELOAD", library()).env("FAKETIME_TIMESTAMP_FILE", self.file());
        actor.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// It is off by so much from now on: `+10d`, `-5y`, `+0`.
    pub(crate) fn jumps(&self, offset: &str) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, offset).expect("a file");
        std::fs::rename(next, self.file()).expect("nobody reads half of it");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("it is there").flatten().map(|entry| entry.path());
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| Path::exists(library)).expect("libfaketime, of Debian's faketime")
}
