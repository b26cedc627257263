//! A root in a process of its own, that tests send signals to: this test binary, started again.
#![allow(unsafe_code, dead_code, reason = "openpty has no safe wrapper here; not every file uses all of it")]
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tempfile::TempDir;

#[path = "starved.rs"]
mod starved;
pub(crate) use starved::Moment;

/// Which scene the program plays.
pub(crate) const SCENE: &str = "TEAMSTER_TEST_SCENE";
/// What all processes of the tree have in their environment.
const MARK: &str = "TEAMSTER_TEST_TREE";

/// The scene that this process was started for, in the program's own function.
pub(crate) fn scene() -> Option<String> {
    std::env::var(SCENE).ok()
}

/// A running program.
pub(crate) struct Program {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    mark: String,
    folder: TempDir,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    pub(crate) stdout: String,
}

impl Program {
    /// Starts the test function `program` of this binary, which looks at [`scene`].
    pub(crate) fn start(scene: &str) -> Program {
        Program::start_with(scene, |_| {})
    }

    pub(crate) fn start_with(scene: &str, change: impl FnOnce(&mut Command)) -> Program {
        let command = Command::new(std::env::current_exe().expect("we run"));
        Program::start_by(command, scene, |command| {
            change(command.stdin(Stdio::null()).process_group(0));
        })
    }

    fn start_by(mut command: Command, scene: &str, change: impl FnOnce(&mut Command)) -> Program {
        let folder = tempfile::Builder::new().prefix("tp-").tempdir().expect("a folder");
        let mark = uuid::Uuid::new_v4().to_string();
        let stderr = std::fs::File::create(folder.path().join("stderr")).expect("a file");
        let sockets = folder.path().join("d");
        std::fs::create_dir(&sockets).expect("a folder");
        command
            .args(["program", "--exact", "--nocapture", "--ignored", "--test-threads=1"])
            .env(SCENE, scene)
            .env(MARK, &mark)
            .env("TEAMSTER_DIR", &sockets)
            .env("TEAMSTER_GRACE_MS", GRACE.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(stderr);
        change(&mut command);
        hear_signals();
        let mut child = command.spawn().expect("it starts");
        let stdout = Some(BufReader::new(child.stdout.take().expect("it is piped")));
        Program { child, stdout, mark: format!("{MARK}={mark}"), folder }
    }

    /// Reads lines until one begins so; what follows in it.
    #[track_caller]
    pub(crate) fn says(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.stdout.as_mut().map_or(0, |stdout| stdout.read_line(&mut line).expect("a pipe"));
            assert!(read > 0, "it ended without saying {beginning:?}: {}", self.stderr());
            // libtest says on the same line which test it runs.
            if let Some((_, rest)) = line.split_once(beginning) {
                return rest.trim().to_owned();
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been reaped");
    }

    /// To every process of the tree, as systemd does.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.tree() {
            // One that has ended by now needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// To every process but the root itself.
    pub(crate) fn signal_below(&self, signal: Signal) {
        for pid in self.below() {
            // One that has ended by now needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops every process but the root itself; returns when they stand still, as far as they are left.
    pub(crate) fn stop_below(&self) {
        for pid in self.below() {
            // Only its parent could wait for that.
            while kill_process(pid, Signal::STOP).is_ok() && !stands_still(pid) {
                std::thread::yield_now();
            }
        }
    }

    fn below(&self) -> Vec<Pid> {
        self.tree().into_iter().filter(|pid| *pid != Pid::from_child(&self.child)).collect()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).expect("its stderr is text")
    }

    /// The folder of its sockets.
    pub(crate) fn sockets(&self) -> std::path::PathBuf {
        self.folder.path().join("d")
    }

    /// The living processes of the tree.
    fn tree(&self) -> Vec<Pid> {
        let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == self.mark.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
    }

    /// What it has said on stderr, once that says `wanted`.
    #[track_caller]
    pub(crate) fn complains(&self, wanted: &str) -> String {
        let began = Instant::now();
        loop {
            let stderr = self.stderr();
            if stderr.contains(wanted) {
                return stderr;
            }
            assert!(began.elapsed() < LATE, "not within {LATE:?}: {wanted:?} in {stderr}");
            std::thread::park_timeout(Duration::from_millis(5)); // nothing tells when a file grows
        }
    }

    /// Waits for its end, at most so long.
    #[track_caller]
    pub(crate) fn ends_within(&mut self, within: Duration) -> Ended {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("it is our child");
        let began = Instant::now();
        if !ends_before(&pidfd, &Deadline::after(within)) {
            // A machine that stood still is told from a program that hangs.
            let is_late = ends_before(&pidfd, &Deadline::after(LATE));
            let what = if is_late { "it has ended, but late" } else { "it hangs" };
            panic!("not within {within:?}: {what}, {:?}: {}", began.elapsed(), self.stderr());
        }
        let status = self.child.wait().expect("it is our child");
        // A process that is left may hold the pipe: those are judged by `gone_within`.
        let mut stdout = Vec::new();
        if self.tree().is_empty()
            && let Some(rest) = &mut self.stdout
        {
            rest.read_to_end(&mut stdout).expect("a pipe");
        }
        Ended { status, stderr: self.stderr(), stdout: String::from_utf8_lossy(&stdout).into_owned() }
    }

    /// It does not end within this time.
    #[track_caller]
    pub(crate) fn lives_for(&self, time: Duration) {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("it is our child");
        assert!(!ends_before(&pidfd, &Deadline::sharp(time)), "it has ended: {}", self.stderr());
    }

    /// Every process of the tree ends within this time.
    #[track_caller]
    pub(crate) fn gone_within(&self, within: Duration) {
        let deadline = Deadline::after(within);
        loop {
            let tree = self.tree();
            if tree.is_empty() {
                return;
            }
            for pid in tree {
                let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                assert!(
                    ends_before(&pidfd, &deadline),
                    "{pid} ({line}) has not ended within {within:?}: {}",
                    threads(pid)
                );
            }
        }
    }

    /// Every process of this name ends within this time.
    #[track_caller]
    pub(crate) fn gone_named(&self, name: &str, within: Duration) {
        let deadline = Deadline::after(within);
        for pid in self.tree() {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let is_meant = std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
            assert!(!is_meant || ends_before(&pidfd, &deadline), "{pid} ({name}) has not ended within {within:?}");
        }
    }

    /// Every process but the root itself ends within this time.
    #[track_caller]
    pub(crate) fn gone_but_root(&self, within: Duration) {
        let deadline = Deadline::after(within);
        for pid in self.tree().into_iter().filter(|pid| *pid != Pid::from_child(&self.child)) {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            assert!(ends_before(&pidfd, &deadline), "{pid} has not ended within {within:?}");
        }
    }

    /// What it reads ends.
    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// As `| head -1` does.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Nothing but the registrar's lock is left of its files.
    #[track_caller]
    pub(crate) fn assert_no_files(&self) {
        let mut left = Vec::new();
        list(&self.sockets(), &mut left);
        assert!(left.is_empty(), "{left:?}");
    }
}

fn list(folder: &std::path::Path, left: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("it is there").flatten() {
        match entry.file_type().expect("it is there").is_dir() {
            true => list(&entry.path(), left),
            false if entry.file_name() == "registrar.lock" => {}
            false => left.push(entry.path()),
        }
    }
}

/// What each thread of a process is doing.
fn threads(pid: Pid) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let read = |thread: &std::fs::DirEntry, file| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
    threads
        .map(|thread| {
            let stat = read(&thread, "stat");
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| &rest[..1]).to_owned();
            format!("{} {state} {}; ", read(&thread, "comm").trim(), read(&thread, "wchan"))
        })
        .collect()
}

pub(crate) fn stands_still(pid: Pid) -> bool {
    all_threads_are(pid, ['T', 'Z'])
}

/// Whether no thread of the process runs, or would run if there were a processor for it.
pub(crate) fn sleeps(pid: Pid) -> bool {
    all_threads_are(pid, ['S', 'Z'])
}

fn all_threads_are(pid: Pid, states: [char; 2]) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(states)))
}

/// What a test starts from now on hears ctrl-c: in the background of a script, tests are started to ignore it.
pub(crate) fn hear_signals() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: a plain call; a test process has no handler of its own.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        for pid in self.tree() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Ended {
    /// It died by this signal and had nothing to say about it.
    #[track_caller]
    pub(crate) fn assert_quietly_by(&self, signal: i32) {
        assert_eq!(self.status.signal(), Some(signal), "{:?}: {}", self.status, self.stderr);
        assert_eq!(self.stderr, "", "no noise");
    }
}

/// When something has to be over. What of the time until then somebody on this machine waits for a processor does not count:
/// that is about the machine.
struct Deadline {
    began: Moment,
    time: Duration,
    is_sharp: bool,
}

impl Deadline {
    fn after(time: Duration) -> Deadline {
        Deadline { began: Moment::now(), time, is_sharp: false }
    }

    /// All of the time counts.
    fn sharp(time: Duration) -> Deadline {
        Deadline { began: Moment::now(), time, is_sharp: true }
    }

    fn left(&self) -> Duration {
        self.time.saturating_sub(if self.is_sharp { self.began.all() } else { self.began.elapsed() })
    }
}

fn ends_before(pidfd: &OwnedFd, deadline: &Deadline) -> bool {
    loop {
        let left = deadline.left();
        let timeout = Timespec::try_from(left).expect("it is short");
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) => {}
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("a pidfd can't be polled: {error}"),
        }
    }
}

/// The grace of its actors.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// How long it is looked whether one that is late ends at all.
const LATE: Duration = Duration::from_secs(10);

/// What an end by force may take beyond the grace, at most.
pub(crate) const KERNEL: Duration = Duration::from_secs(1);

/// A safety net: what is awaited comes much sooner, or never.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// A terminal: what a person would type into, and what would show it.
pub(crate) struct Terminal {
    keys: std::fs::File,
    screen: std::fs::File,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        let (mut keys, mut screen) = (-1, -1);
        // SAFETY: it fills two descriptors, which are ours from then on; the rest may be null.
        let opened = unsafe {
            libc::openpty(&raw mut keys, &raw mut screen, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
        };
        assert_eq!(opened, 0, "a pty can be had");
        // SAFETY: they were just opened, and nobody else knows of them.
        unsafe {
            libc::fcntl(keys, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(screen, libc::F_SETFD, libc::FD_CLOEXEC);
            Terminal { keys: FromRawFd::from_raw_fd(keys), screen: FromRawFd::from_raw_fd(screen) }
        }
    }

    /// Starts a program in it, as the leader of a session: its stdin is this terminal.
    pub(crate) fn start(&self, scene: &str) -> Program {
        self.start_with(scene, |_| {})
    }

    pub(crate) fn start_with(&self, scene: &str, change: impl FnOnce(&mut Command)) -> Program {
        let stdin = self.screen.try_clone().expect("a descriptor");
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(std::env::current_exe().expect("we run"));
        Program::start_by(command, scene, |command| change(command.stdin(stdin)))
    }

    pub(crate) fn ctrl_c(&mut self) {
        self.keys.write_all(&[3]).expect("the terminal takes it");
    }

    /// What a program writes to it.
    pub(crate) fn screen(&self) -> Stdio {
        self.screen.try_clone().expect("a descriptor").into()
    }

    pub(crate) fn types(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\r").as_bytes()).expect("the terminal takes it");
    }

    /// What is written to it from now on, until that is enough.
    #[track_caller]
    pub(crate) fn shown_until(&mut self, is_enough: impl Fn(&str) -> bool) -> String {
        let (mut shown, mut buffer) = (String::new(), [0; 4096]);
        while !is_enough(&shown) {
            let timeout = Timespec::try_from(SHOWN_WITHIN).expect("it is short");
            let ready = poll(&mut [PollFd::new(&self.keys, PollFlags::IN)], Some(&timeout)).expect("a terminal");
            assert!(ready > 0, "not within {SHOWN_WITHIN:?}; so far: {shown:?}");
            let read = self.keys.read(&mut buffer).expect("a terminal");
            shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        shown
    }

    /// All that was written to it, when whoever wrote has ended.
    pub(crate) fn shown(mut self) -> String {
        drop(self.screen);
        let mut shown = Vec::new();
        // Its other side is closed: that is an error, behind what was written.
        let _ = self.keys.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The window is closed.
    pub(crate) fn hang_up(self) {}
}
