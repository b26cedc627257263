//! A person at a terminal in which a scene of `crashers` runs.
//!
//! Written out here rather than with `expectrl`: that spins while it waits, and its terminal is 80 columns wide when
//! the program starts.
#![allow(dead_code, reason = "not every file uses all of it")]
mod screen;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use tempfile::TempDir;

use screen::{COLUMNS, Screen};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_crashers");
/// What all processes of the tree have in their environment.
const MARK: &str = "CRASHERS_TREE";
/// How long something may take that is awaited: a safety net for a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Prompt {
    keys: File,
    /// Kept open, so that the terminal outlives the program.
    terminal: Option<OwnedFd>,
    /// Its settings before the program came.
    settings: String,
    screen: Screen,
    /// The first row that no answer of ours has told of.
    unread: usize,
    child: Child,
    mark: String,
    folder: TempDir,
}

impl Prompt {
    /// Starts a scene, with every actor of it armed.
    pub(crate) fn start(scene: &str) -> Prompt {
        Prompt::start_with(scene, |command| {
            command.env("TEAMSTER_DEBUG", "1");
        })
    }

    /// The same, armed as `change` says.
    pub(crate) fn start_with(scene: &str, change: impl FnOnce(&mut Command)) -> Prompt {
        Prompt::start_program(&[PROGRAM, scene], change)
    }

    /// Starts any program as the leader of the terminal's session.
    pub(crate) fn start_program(program: &[&str], change: impl FnOnce(&mut Command)) -> Prompt {
        let (keys, terminal) = open_terminal();
        let settings = settings(&keys);
        let folder = tempfile::Builder::new().prefix("cr-").tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("sockets")).expect("a folder");
        let mark = uuid::Uuid::new_v4().to_string();
        // Started in the background of a script, tests ignore signals, and what they start would.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT,QUIT,HUP,TSTP", "setsid", "--ctty"]).args(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("TEAMSTER_") || name.starts_with("RUST_")) {
                command.env_remove(name);
            }
        }
        let screen = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        command.stdin(screen()).stdout(screen()).stderr(screen());
        command.env(MARK, &mark).env("TERM", "xterm").env("TEAMSTER_DIR", folder.path().join("sockets"));
        command.env("HOME", folder.path()).env("XDG_STATE_HOME", folder.path().join("state"));
        let go = folder.path().join("go");
        rustix::fs::mknodat(rustix::fs::CWD, &go, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
        command.env("CRASHERS_GO", go);
        change(&mut command);
        let child = command.spawn().expect("it starts");
        drop(command);
        let mark = format!("{MARK}={mark}");
        let terminal = Some(terminal);
        Prompt { keys, terminal, settings, screen: Screen::default(), unread: 0, child, mark, folder }
    }

    // ---- what a person does

    /// Waits until this actor's prompt is there, for a line: what was shown before it.
    #[track_caller]
    pub(crate) fn expect_prompt(&mut self, actor: &str) -> String {
        let wanted = format!("({actor}) ");
        let unread = self.unread;
        let row = self.until(&format!("the prompt of {actor}"), |screen| {
            let (row, text, is_end) = screen.cursor();
            (row >= unread && text == wanted && is_end).then_some(row)
        });
        self.read_to(row)
    }

    /// The same for whoever it is: with the prompt itself as the last line.
    #[track_caller]
    pub(crate) fn expect_any_prompt(&mut self) -> String {
        let unread = self.unread;
        let (row, text) = self.until("a prompt", |screen| {
            let (row, text, is_end) = screen.cursor();
            (row >= unread && text.starts_with("(root") && text.ends_with(") ") && is_end).then_some((row, text))
        });
        format!("{}\n{}", self.read_to(row), text.trim_end())
    }

    /// Enters a command: the answer, up to the next prompt.
    #[track_caller]
    pub(crate) fn line(&mut self, command: &str) -> String {
        self.enter(command);
        let unread = self.unread;
        let row = self.until(&format!("the answer to {command:?}"), |screen| {
            let (row, text, is_end) = screen.cursor();
            (row >= unread && text.starts_with('(') && text.ends_with(") ") && is_end).then_some(row)
        });
        self.read_to(row)
    }

    /// Enters a command until its answer has this text.
    #[track_caller]
    pub(crate) fn line_until(&mut self, command: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.line(command);
            if answer.contains(text) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{command:?} never says {text:?}, at last {answer:?}");
        }
    }

    /// Enters a line, and does not wait for what comes.
    #[track_caller]
    pub(crate) fn enter(&mut self, line: &str) {
        self.types(&format!("{line}\r"));
        self.unread = self.screen.cursor().0 + 1;
    }

    /// Ends the line as an end of input does.
    #[track_caller]
    pub(crate) fn ctrl_d(&mut self) {
        self.types("\x04");
        self.unread = self.screen.cursor().0 + 1;
    }

    #[track_caller]
    pub(crate) fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Waits for a line with this text, that nothing has told of yet: the whole line.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) -> String {
        let unread = self.unread;
        let (row, line) = self.until(&format!("a line with {text:?}"), |screen| {
            let rows = screen.rows_from(unread);
            let at = rows.iter().position(|row| row.contains(text)).filter(|at| unread + at < screen.cursor().0)?;
            Some((unread + at, rows[at].clone()))
        });
        self.unread = row + 1;
        line
    }

    /// Waits for a line with `end`: whether one with `text` came before it.
    #[track_caller]
    pub(crate) fn says_before(&mut self, text: &str, end: &str) -> bool {
        let first = self.unread;
        self.says(end);
        self.screen.rows_from(first)[..self.unread - first].iter().any(|row| row.contains(text))
    }

    /// Waits until this text is to be seen behind what was told, in whatever row.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) {
        let unread = self.unread;
        self.until(&format!("{text:?}"), |screen| {
            screen.rows_from(unread).iter().any(|row| row.contains(text)).then_some(())
        });
    }

    /// All that was shown since it began.
    pub(crate) fn all(&self) -> String {
        self.screen.rows_from(0).join("\n")
    }

    /// Tells a scene that waits for it to go on.
    #[track_caller]
    pub(crate) fn go(&mut self) {
        let fifo = self.folder.path().join("go");
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let deadline = Instant::now() + PATIENCE;
        // It can be opened once somebody reads there.
        while rustix::fs::open(&fifo, flags, Mode::empty()).is_err() {
            assert!(Instant::now() < deadline, "nobody waits for it: {}", self.seen());
            self.read_some(Instant::now() + Duration::from_millis(5), None);
        }
    }

    /// The window has another size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.keys, rows, columns);
    }

    /// Somebody else's signal to the root.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been reaped");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The window is closed.
    pub(crate) fn hang_up(&mut self) {
        self.terminal = None;
        self.keys = File::open("/dev/null").expect("there is one");
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state/teamster")
    }

    // ---- how it ends

    /// It ends with this status, nothing of it is left, and the terminal is as it was: what was shown till then.
    #[track_caller]
    pub(crate) fn ends_with(&mut self, status: i32) -> String {
        let (ended, text) = self.ends();
        assert_eq!(ended.code(), Some(status), "{ended:?}\n{}", self.all());
        text
    }

    /// The same for an end by a signal.
    #[track_caller]
    pub(crate) fn ends_by(&mut self, signal: Signal) -> String {
        let (ended, text) = self.ends();
        assert_eq!(ended.signal(), Some(signal.as_raw()), "{ended:?}\n{}", self.all());
        text
    }

    #[track_caller]
    fn ends(&mut self) -> (ExitStatus, String) {
        let (status, text) = self.root_ends();
        // What a gdb has started that was killed ends by itself, in a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut left = self.tree();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
            left = self.tree();
        }
        assert!(
            left.is_empty(),
            "left: {:?}\n{}",
            left.iter().map(|pid| described(*pid)).collect::<Vec<_>>(),
            self.all()
        );
        self.assert_terminal_is_sane();
        (status, text)
    }

    /// The root ends, whatever it leaves.
    #[track_caller]
    pub(crate) fn root_ends(&mut self) -> (ExitStatus, String) {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("it is our child");
        let deadline = Instant::now() + PATIENCE;
        while self.read_some(deadline, Some(&pidfd)) {
            if Instant::now() > deadline {
                panic!("it has not ended: {}", self.seen());
            }
        }
        let status = self.child.wait().expect("it is our child");
        let rows = self.screen.rows_from(self.unread);
        self.unread += rows.len();
        (status, rows.join("\n"))
    }

    /// Every process of the tree ends soon.
    #[track_caller]
    pub(crate) fn all_end(&self) {
        let deadline = Instant::now() + PATIENCE;
        for pid in self.tree() {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).expect("it is short");
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).expect("a pidfd can be polled");
            assert!(ended == 1, "{} has not ended", described(pid));
        }
    }

    #[track_caller]
    pub(crate) fn assert_terminal_is_sane(&self) {
        assert_eq!(settings(&self.keys), self.settings, "the terminal is not as it was\n{}", self.all());
    }

    /// The living processes of the tree.
    pub(crate) fn tree(&self) -> Vec<Pid> {
        let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == self.mark.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
    }

    /// The hidden gdbs of the tree.
    pub(crate) fn gdbs(&self) -> Vec<Pid> {
        self.tree().into_iter().filter(|pid| described(*pid).contains("--interpreter=mi3")).collect()
    }

    // ---- waiting

    #[track_caller]
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Screen) -> Option<T>) -> T {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("it is our child");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.screen) {
                return found;
            }
            if !self.read_some(deadline, Some(&pidfd)) {
                panic!("it has ended before {what}: {}", self.seen());
            }
            if Instant::now() > deadline {
                panic!("not within {PATIENCE:?}: {what}: {}", self.seen());
            }
        }
    }

    /// Waits for more on the screen, at most until the deadline. `false`: there is none, and the program has ended.
    fn read_some(&mut self, deadline: Instant, pidfd: Option<&OwnedFd>) -> bool {
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).expect("it is short");
        let mut fds = vec![PollFd::new(&self.keys, PollFlags::IN)];
        fds.extend(pidfd.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("a terminal can't be polled: {error}"),
        }
        let (is_readable, has_ended) = (!fds[0].revents().is_empty(), fds.len() > 1 && !fds[1].revents().is_empty());
        let mut read = 0;
        if is_readable {
            let mut bytes = [0; 16 * 1024];
            read = self.keys.read(&mut bytes).expect("a terminal can be read");
            self.screen.write(&bytes[..read]);
        }
        read > 0 || !has_ended
    }

    fn read_to(&mut self, row: usize) -> String {
        let rows = self.screen.rows_from(self.unread);
        let text = rows[..row - self.unread].join("\n");
        self.unread = row;
        text
    }

    fn seen(&self) -> String {
        let tree = self.tree();
        let tree: Vec<String> = tree.iter().map(|pid| described(*pid)).collect();
        format!("unread from row {}\n{}\n== processes\n{}", self.unread, self.all(), tree.join("\n"))
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        for pid in self.tree() {
            let _ = kill_process(pid, Signal::KILL); // it may have ended
        }
        let _ = self.child.wait();
    }
}

fn open_terminal() -> (File, OwnedFd) {
    let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty can be had");
    grantpt(&keys).expect("it is ours");
    unlockpt(&keys).expect("it is ours");
    let path = ptsname(&keys, Vec::new()).expect("it has a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(path.as_c_str(), flags, Mode::empty()).expect("it can be opened");
    set_size(&keys, 50, COLUMNS);
    (keys.into(), terminal)
}

fn set_size(keys: impl AsFd, ws_row: u16, ws_col: u16) {
    tcsetwinsize(keys, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("it is a terminal");
}

fn settings(keys: &File) -> String {
    format!("{:?}", tcgetattr(keys).expect("it is a terminal"))
}

fn described(pid: Pid) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// The number behind `pid`, as the prompt prints it.
#[track_caller]
pub(crate) fn pid_in(text: &str) -> Pid {
    let number = text.split_once("pid ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    number
        .flatten()
        .and_then(|number| Pid::from_raw(number.parse().ok()?))
        .unwrap_or_else(|| panic!("no pid in {text}"))
}

#[track_caller]
pub(crate) fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// The same of lines that are longer than the screen, whose rows may begin or end at a space.
#[track_caller]
pub(crate) fn assert_has_in_rows(text: &str, parts: &[&str]) {
    let whole = closed_up(text);
    for part in parts {
        assert!(whole.contains(&closed_up(part)), "no {part:?} in:\n{text}");
    }
}

/// Without what is blank: the same however it was broken into rows.
pub(crate) fn closed_up(text: &str) -> String {
    text.split_whitespace().collect()
}
