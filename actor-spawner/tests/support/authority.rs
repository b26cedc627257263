//! `teamster ca`, run by a test: an authority in a folder of its own.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

pub(crate) struct Ca {
    folder: TempDir,
}

impl Ca {
    /// One that has issued nothing.
    pub(crate) fn new() -> Self {
        let ca = Ca { folder: TempDir::new().expect("a folder") };
        ca.does(&["init"]);
        ca
    }

    /// Where its folder and those of its identities are.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn issue(&self, name: &str) -> PathBuf {
        self.does(&["issue", name]);
        self.path(name)
    }

    /// What it prints when it does what it was told.
    pub(crate) fn does(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    }

    /// What it says when it can't.
    pub(crate) fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("it prints UTF-8")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run_in(self.folder.path(), arguments)
    }
}

/// Runs it as a user does whose settings are in this folder, and who is there.
pub(crate) fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.arg("ca").args(arguments).current_dir(folder).env("XDG_CONFIG_HOME", folder);
    command.output().expect("it starts")
}
