//! How does a `#[teamster::test]` run? In a process of its own, and what that leaves behind is counted from outside.
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::leak::{files_left, list};
use super::lock::{self, Sharing};
use super::process::{self, Process};

mod inside;

/// What `#[teamster::test(…)]` says about a test.
#[derive(Clone, Copy, Debug)]
pub struct TestOptions {
    sharing: Sharing,
    flavor: Flavor,
    deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    CurrentThread,
    /// `None`: as many threads as tokio likes.
    MultiThread(Option<usize>),
}

impl Default for TestOptions {
    fn default() -> Self {
        TestOptions { sharing: Sharing::Shared, flavor: Flavor::CurrentThread, deadline: Duration::from_secs(60) }
    }
}

impl TestOptions {
    /// Beside other tests, on a current-thread runtime, with a minute of time.
    pub fn new() -> Self {
        TestOptions::default()
    }

    /// It spins or measures time: no other test of the workspace runs beside it.
    #[must_use]
    pub fn exclusive(self) -> Self {
        TestOptions { sharing: Sharing::Exclusive, ..self }
    }

    /// On a multi-thread runtime.
    #[must_use]
    pub fn multi_thread(self) -> Self {
        TestOptions { flavor: Flavor::MultiThread(None), ..self }
    }

    /// On a multi-thread runtime with this many threads.
    #[must_use]
    pub fn worker_threads(self, threads: usize) -> Self {
        TestOptions { flavor: Flavor::MultiThread(Some(threads)), ..self }
    }

    /// When it is killed, counted from its start.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        TestOptions { deadline, ..self }
    }
}

/// What a test's body may return.
#[diagnostic::on_unimplemented(
    message = "`#[teamster::test]` can't return `{Self}`",
    note = "return `()`, `std::process::ExitCode`, or a `Result` of one of them whose error is `Debug`"
)]
pub trait TestOutcome {
    /// What the harness's own process returns for a test that passed in another one.
    fn passed() -> Self;

    /// Why the test failed, if it did.
    fn failure(self) -> Option<String>;
}

impl TestOutcome for () {
    fn passed() -> Self {}

    fn failure(self) -> Option<String> {
        None
    }
}

impl TestOutcome for ExitCode {
    fn passed() -> Self {
        ExitCode::SUCCESS
    }

    fn failure(self) -> Option<String> {
        (self != ExitCode::SUCCESS).then(|| format!("the test returned {self:?}"))
    }
}

impl<T: TestOutcome, E: fmt::Debug> TestOutcome for Result<T, E> {
    fn passed() -> Self {
        Ok(T::passed())
    }

    fn failure(self) -> Option<String> {
        match self {
            Ok(outcome) => outcome.failure(),
            Err(error) => Some(format!("the test returned an error: {error:?}")),
        }
    }
}

/// What `#[teamster::test]` expands to: as a child that the test starts, becomes that child.
///
/// # Panics
///
/// As [`run`].
#[track_caller]
pub fn test<R: TestOutcome>(path: &str, options: TestOptions, body: impl AsyncFnOnce() -> R) -> R {
    match is_in_test() {
        true => {
            crate::nursery::boot_or_be_ready();
            crate::nursery::set_test();
        }
        // The harness's own process runs no body: a plain `#[test]` beside this one is not ready by this.
        false => crate::nursery::boot_if_spawned(),
    }
    run(path, options, body, crate::nursery::finish_roots)
}

/// Runs a test. `full_name` is its path with the crate: `concat!(module_path!(), "::name")`.
///
/// In the test harness it starts this executable again for that one test and judges it; there, it
/// runs the body, has `wait` see to what ends behind the body's back (dropped nurseries), and exits.
///
/// # Panics
///
/// If the body panicked (with its message), failed, left something behind or did not end in time.
#[track_caller]
pub fn run<R: TestOutcome>(
    full_name: &str,
    options: TestOptions,
    body: impl AsyncFnOnce() -> R,
    wait: impl FnOnce(),
) -> R {
    if is_in_test() {
        crate::actor::signals::ignore_none();
        inside::run(options, body, wait);
    }
    let turn = lock::acquire(options.sharing).expect("the target folder or the temporary one can hold a lock file");
    let verdict = Run::start(full_name).expect("a test can be started").judge(options.deadline);
    drop(turn);
    match verdict {
        Ok(()) => R::passed(),
        Err(failure) => panic!("{failure}"),
    }
}

/// Whether this process was started for one test, or below one that was.
fn is_in_test() -> bool {
    std::env::var_os(IN_TEST).is_some()
}

/// One test's process and the folder it works in.
struct Run {
    name: String,
    child: Child,
    output: File,
    folder: TempDir,
    /// What all processes of its tree have in their environment.
    mark: String,
}

impl Run {
    fn start(full_name: &str) -> std::io::Result<Run> {
        // libtest leaves the crate out of a test's name.
        let name = full_name.split_once("::").map_or(full_name, |(_, name)| name).to_owned();
        let folder = tempfile::Builder::new().prefix("tt-").tempdir()?; // short: sockets live in it
        std::fs::create_dir(folder.path().join(SOCKETS))?;
        let output = folder.path().join("output");
        let to_output = || File::options().create(true).append(true).open(&output);
        let mark = uuid::Uuid::new_v4().to_string();
        let child = Command::new("/proc/self/exe") // also if it was rebuilt since
            .arg0(std::env::current_exe()?)
            .args([&name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
            .env(IN_TEST, "1")
            .env(MARK, &mark)
            .env(VERDICT, folder.path().join(VERDICT_FILE))
            .env("TEAMSTER_DIR", folder.path().join(SOCKETS))
            .env("TEAMSTER_GRACE_MS", "200")
            .stdin(Stdio::null())
            .stdout(to_output()?) // a file: a process that outlives the test can't hold it open against us
            .stderr(to_output()?)
            .process_group(0)
            .spawn()?;
        let output = File::open(&output)?;
        Ok(Run { name, child, output, folder, mark: format!("{MARK}={mark}") })
    }

    fn judge(mut self, deadline: Duration) -> Result<(), String> {
        let ended = self.wait(deadline);
        let mut failure = ended.and_then(|status| self.verdict(status)).err();
        let left = self.left(if failure.is_none() { KERNEL_TIME } else { TREE_GRACE });
        print!("{}", self.printed()); // libtest shows it if the test fails
        if !left.is_empty() {
            let list = list(&left);
            failure = Some(failure.map_or(format!("{} {list}", self.name), |first| format!("{first}\n{list}")));
        }
        failure.map_or(Ok(()), Err)
    }

    /// Waits for the end of the test's process, and makes it end after the deadline.
    fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, String> {
        let handle = process::open(self.child.id()).expect("a child stays until it is waited for");
        let in_time = process::ends_before(&handle, Instant::now() + deadline);
        let mut late = String::new();
        if !in_time {
            let tree: Vec<String> = self.tree().iter().map(Process::to_string).collect();
            // Its body may have failed before.
            let failure = std::fs::read_to_string(self.folder.path().join(VERDICT_FILE)).unwrap_or_default();
            let tree = tree.join("\n    ");
            late = format!("{failure}\n{} did not end within {deadline:?}:\n    {tree}", self.name).trim().to_owned();
            self.signal_group(Signal::ABORT); // for a core dump, where one is wanted
            process::ends_before(&handle, Instant::now() + DUMP_TIME);
            self.signal_group(Signal::KILL);
        }
        let status = self.child.wait().expect("it is our child, and waited for once");
        if in_time { Ok(status) } else { Err(late) }
    }

    fn signal_group(&self, signal: Signal) {
        // An error means that the group is gone.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// What the test's process itself has written last.
    fn verdict(&self, status: ExitStatus) -> Result<(), String> {
        match std::fs::read_to_string(self.folder.path().join(VERDICT_FILE)) {
            Ok(verdict) if verdict.is_empty() && status.success() => Ok(()),
            Ok(verdict) if !verdict.is_empty() => Err(verdict),
            Ok(_) | Err(_) => Err(format!("{} ended before its body did: {status}", self.name)),
        }
    }

    /// Processes and files that have outlived the test. The processes are killed.
    fn left(&self, grace: Duration) -> Vec<String> {
        let deadline = Instant::now() + grace;
        // Whoever ends may have started another one just before.
        while Instant::now() < deadline {
            let tree = self.tree();
            if tree.is_empty() {
                break;
            }
            for process in &tree {
                process.ends_before(deadline);
            }
        }
        let tree = self.tree();
        let mut left: Vec<String> = tree.iter().map(Process::to_string).collect();
        for process in &tree {
            process.signal(Signal::KILL);
        }
        left.extend(files_left(&self.folder.path().join(SOCKETS)));
        left
    }

    /// The living processes that the test has started, directly or not.
    fn tree(&self) -> Vec<Process> {
        let group = self.child.id();
        let mut all = Process::all();
        all.retain(|process| process.is_alive() && (process.group == group || process.was_given(&self.mark)));
        all
    }

    /// The end of what it has printed.
    fn printed(&mut self) -> String {
        let length = self.output.metadata().map_or(0, |file| file.len());
        let mut bytes = Vec::new();
        let read = self.output.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)));
        match read.and_then(|_| (&self.output).take(SHOWN_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("the test's output can't be read: {error}\n"),
        }
    }
}

/// The test's own process: it has come to the body's end. Says why the test failed, or nothing.
fn write_verdict(verdict: &str) {
    let path = std::env::var_os(VERDICT).expect("the harness sets it with the marker");
    std::fs::write(Path::new(&path), verdict).expect("the harness's folder outlives the test");
}

/// The private folder of the test in whose process we are.
fn sockets() -> std::path::PathBuf {
    std::env::var_os("TEAMSTER_DIR").expect("the harness sets it with the marker").into()
}

/// Set in a test's own process, and in all of its tree.
const IN_TEST: &str = "TEAMSTER_TEST";

/// Names the tree, so that its processes are known from outside whoever their parents are.
const MARK: &str = "TEAMSTER_TEST_MARK";

/// The file for the reason of a failure. Empty: there was none. Missing: the body's end was not reached.
const VERDICT: &str = "TEAMSTER_TEST_VERDICT";

/// In the test's folder.
const VERDICT_FILE: &str = "verdict";

/// In the test's folder.
const SOCKETS: &str = "d";

/// Between SIGABRT and SIGKILL.
const DUMP_TIME: Duration = Duration::from_millis(500);

/// What killed processes may take to be gone after a test that ended well: it has waited for them.
const KERNEL_TIME: Duration = Duration::from_millis(200);

/// What processes may take to follow the end of a test that failed: several times the grace in tests.
const TREE_GRACE: Duration = Duration::from_secs(2);

/// Of what a test prints.
const SHOWN_BYTES: u64 = 1024 * 1024;
