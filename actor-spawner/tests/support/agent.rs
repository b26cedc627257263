//! A host's agent, which a test starts on this one.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use teamster::{Addr, RootBuilder};
use tempfile::TempDir;

/// How long something may take that is awaited: a safety net for a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    child: Child,
    pub(crate) addr: Addr,
    identity: PathBuf,
    arguments: Vec<String>,
    prefix: Vec<String>,
    folder: TempDir,
}

impl Agent {
    /// Serves with this identity, at a free port of the loopback interface.
    pub(crate) fn start(identity: &Path, arguments: &[&str]) -> Self {
        Agent::start_by(&[], identity, "/ip4/127.0.0.1/tcp/0", arguments)
    }

    /// The same behind other programs, in whose arguments `{cache}` stands for the cache's folder.
    pub(crate) fn start_by(prefix: &[&str], identity: &Path, listen: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).expect("a folder");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let filled = |part: &&str| part.replace("{cache}", cache.to_str().expect("it is text"));
        let prefix: Vec<String> = prefix.iter().map(filled).collect();
        let (child, addr) = begin(folder.path(), &prefix, identity, listen, &arguments);
        Agent { child, addr, identity: identity.to_owned(), arguments, prefix, folder }
    }

    /// Another one with the same folders, at the same address, once this one has ended by the signal.
    pub(crate) fn restart(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        let ended = self.child.wait().expect("it is our child");
        assert_eq!(ended.success(), signal == Signal::TERM, "{ended}: {}", self.log());
        (self.child, self.addr) =
            begin(self.folder.path(), &self.prefix, &self.identity, &self.addr.to_string(), &self.arguments);
    }

    /// A root that knows it as the host `b`.
    pub(crate) fn known_to(&self, root: RootBuilder) -> RootBuilder {
        root.hosts([("b", self.addr.clone())])
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("its log is text")
    }

    /// Waits until it has logged that.
    #[track_caller]
    pub(crate) fn says(&self, wanted: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log();
            if log.contains(wanted) {
                return log;
            }
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {wanted:?} in {log}");
            std::thread::park_timeout(Duration::from_millis(5)); // nothing tells when a file grows
        }
    }

    /// What its books say.
    pub(crate) fn list(&self) -> Vec<Value> {
        let state = self.state();
        let listed = run(&["serve", "--list", "--json", "--state", state.to_str().expect("it is text")]);
        assert!(listed.status.success(), "{listed:?}");
        serde_json::from_slice::<Vec<Value>>(&listed.stdout).expect("it is JSON")
    }

    /// Waits until nothing is in its books, nor of its processes but itself.
    #[track_caller]
    pub(crate) fn is_left_alone(&self, within: Duration) {
        let began = Instant::now();
        loop {
            let files = fs::read_dir(self.state().join("actors")).map_or(0, Iterator::count);
            let left: Vec<(Pid, String)> =
                ["teamster session", "teamster:"].iter().flat_map(|title| processes(title)).collect();
            if files == 0 && left.is_empty() {
                return;
            }
            assert!(began.elapsed() < within, "after {within:?}: {files} entries, {left:?}: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(5)); // these are not our children
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::TERM); // it may have ended
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

fn begin(folder: &Path, prefix: &[String], identity: &Path, listen: &str, arguments: &[String]) -> (Child, Addr) {
    let mut whole = prefix.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_teamster")]);
    let mut command = Command::new(whole.next().expect("it has one part at least"));
    command.args(whole);
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a file");
    command.args(["serve", "--listen", listen]).args(arguments).arg("--identity").arg(identity);
    command.arg("--state").arg(folder.join("state")).arg("--cache").arg(folder.join("cache"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is text");
    let addr = line.strip_prefix("serving at ").map(|addr| addr.trim().parse().expect("an address"));
    let addr = addr.unwrap_or_else(|| {
        let _ = child.wait();
        panic!("it does not serve: {}", fs::read_to_string(folder.join("log")).expect("it is text"))
    });
    (child, addr)
}

/// Runs the tool to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_teamster")).args(arguments).output().expect("it starts")
}

/// The living processes of this test whose titles begin so.
pub(crate) fn processes(title: &str) -> Vec<(Pid, String)> {
    const MARK: &str = "TEAMSTER_TEST_MARK";
    let mark = format!("{MARK}={}", std::env::var(MARK).expect("the harness sets it"));
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    });
    let titled = ours.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((Pid::from_raw(pid)?, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    titled.filter(|(_, line)| line.starts_with(title)).collect()
}
