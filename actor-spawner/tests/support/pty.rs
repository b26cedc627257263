//! A person at a terminal in which the tool runs.
#![allow(dead_code, reason = "not every file uses all of it")]
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// How long something may take that is awaited: a safety net for a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Pty {
    keys: File,
    /// Kept open, so that the terminal outlives the program.
    _terminal: OwnedFd,
    /// Its settings before the program came.
    settings: String,
    screen: vt100::Parser,
    child: Child,
}

impl Pty {
    /// Starts a program as the leader of a terminal's session.
    pub(crate) fn start(program: &Command) -> Pty {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty can be had");
        grantpt(&keys).expect("it is ours");
        unlockpt(&keys).expect("it is ours");
        let path = ptsname(&keys, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(path.as_c_str(), flags, Mode::empty()).expect("it can be opened");
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program()).args(program.get_args()).env("TERM", "xterm-256color");
        for (name, value) in program.get_envs() {
            value.map(|value| command.env(name, value));
        }
        let end = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let keys = File::from(keys);
        let settings = settings(&keys);
        let (rows, columns) = (24, 120);
        let screen = vt100::Parser::new(rows, columns, 0);
        set_size(&keys, rows, columns);
        let child = command.spawn().expect("it starts");
        Pty { keys, _terminal: terminal, settings, screen, child }
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.screen_mut().set_size(rows, columns);
        set_size(&self.keys, rows, columns);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been reaped");
    }

    /// What is to be seen now.
    pub(crate) fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen looks so.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, looks: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if looks(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}:\n{text}");
            assert!(self.read_some(deadline), "it has ended before {what}:\n{text}");
        }
    }

    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) -> String {
        self.until(&format!("{text:?}"), |shown| shown.contains(text))
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while self.read_some(deadline) {
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.text());
        }
        self.child.wait().expect("it is our child")
    }

    /// The terminal is as it was before the program came.
    #[track_caller]
    pub(crate) fn assert_restored(&self) {
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen(), "it shows the screen of before:\n{}", self.text());
        assert!(!screen.hide_cursor(), "the cursor is to be seen");
        assert_eq!(settings(&self.keys), self.settings);
    }

    /// Waits for more on the screen. `false`: there is none, and the program has ended.
    fn read_some(&mut self, deadline: Instant) -> bool {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("it is our child");
        let timeout = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).expect("it is short");
        let mut fds = [PollFd::new(&self.keys, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("a terminal can't be polled: {error}"),
        }
        let (is_readable, has_ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        let mut bytes = [0; 16 * 1024];
        let read = if is_readable { self.keys.read(&mut bytes).expect("a terminal can be read") } else { 0 };
        self.screen.process(&bytes[..read]);
        read > 0 || !has_ended
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn set_size(keys: &File, ws_row: u16, ws_col: u16) {
    tcsetwinsize(keys, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("it is a terminal");
}

fn settings(keys: &File) -> String {
    format!("{:?}", tcgetattr(keys).expect("it is a terminal"))
}
