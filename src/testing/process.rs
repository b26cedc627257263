//! What does the kernel say about a process?
use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::actor::process::ProcessStat;

/// What a process is doing, as `/proc/PID/stat` says.
///
/// # Examples
///
/// ```
/// use teamster::testing::{ProcessState, state};
///
/// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// assert_ne!(state(child.id()), Some(ProcessState::Stopped));
/// # child.kill()?;
/// # child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessState {
    /// Running, or ready to.
    Running,
    /// Waiting for an event.
    Sleeping,
    /// Waiting for a disk or the like: no signal reaches it now.
    Uninterruptible,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Ended, and not yet reaped.
    Zombie,
    /// A letter that this version does not know.
    Other(char),
}

impl ProcessState {
    fn from_letter(letter: char) -> Self {
        match letter {
            'R' => ProcessState::Running,
            'S' | 'I' => ProcessState::Sleeping,
            'D' => ProcessState::Uninterruptible,
            'T' => ProcessState::Stopped,
            't' => ProcessState::Traced,
            'Z' | 'X' => ProcessState::Zombie,
            other => ProcessState::Other(other),
        }
    }
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProcessState::Running => "running",
            ProcessState::Sleeping => "sleeping",
            ProcessState::Uninterruptible => "uninterruptible",
            ProcessState::Stopped => "stopped",
            ProcessState::Traced => "traced",
            ProcessState::Zombie => "zombie",
            ProcessState::Other(letter) => return write!(f, "state {letter}"),
        })
    }
}

/// What a process is doing. `None`: there is no such process.
///
/// # Examples
///
/// ```
/// use teamster::testing::{ProcessState, state};
///
/// assert_eq!(state(std::process::id()), Some(ProcessState::Running));
/// ```
pub fn state(pid: u32) -> Option<ProcessState> {
    Some(Process::of(pid)?.state)
}

/// When a process started, in clock ticks since the machine did. `None`: there is no such process.
///
/// A pid may be used again; a pid together with this number is one process.
///
/// # Examples
///
/// ```
/// use teamster::testing::start_ticks;
///
/// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// assert!(start_ticks(child.id()) >= start_ticks(std::process::id()));
/// # child.kill()?;
/// # child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn start_ticks(pid: u32) -> Option<u64> {
    crate::actor::process::start_ticks(pid)
}

/// Whether that very process is still there and has not ended. A zombie is not alive.
///
/// # Examples
///
/// ```
/// use teamster::testing::{is_alive, start_ticks};
///
/// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// let started = start_ticks(child.id()).expect("it was just started");
/// assert!(is_alive(child.id(), started));
/// child.kill()?;
/// child.wait()?;
/// assert!(!is_alive(child.id(), started));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn is_alive(pid: u32, start_ticks: u64) -> bool {
    Process::of(pid).is_some_and(|process| process.start_ticks == start_ticks && process.is_alive())
}

/// Waits until a process has ended, reaped or not.
///
/// # Panics
///
/// If it is still there after `within`; the message says what it is and what it does.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// let mut child = std::process::Command::new("true").spawn()?;
/// teamster::testing::wait_gone(child.id(), Duration::from_secs(5));
/// child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn wait_gone(pid: u32, within: Duration) {
    let Some(process) = Process::of(pid) else { return };
    if !process.ends_before(Instant::now() + within) {
        let now = Process::of(pid).unwrap_or(process);
        panic!("{now} has not ended within {within:?}");
    }
}

/// The processes below this one: its children, theirs, and so on. Zombies are among them.
///
/// One whose parent has ended belongs to somebody else.
///
/// # Examples
///
/// ```
/// use teamster::testing::descendants;
///
/// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// assert_eq!(descendants(std::process::id()), [child.id()]);
/// # child.kill()?;
/// # child.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn descendants(pid: u32) -> Vec<u32> {
    let all = Process::all();
    let mut known = HashSet::from([pid]);
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        // Each once: between two reads a pid may have become another process.
        let children = all.iter().filter(|process| process.parent == parent && known.insert(process.pid));
        found.extend(children.map(|process| process.pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// One line of `/proc/PID/stat`, as far as tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) state: ProcessState,
    pub(super) start_ticks: u64,
    name: String,
}

impl Process {
    pub(super) fn of(pid: u32) -> Option<Process> {
        let stat = ProcessStat::read(pid)?;
        Some(Process {
            pid,
            parent: stat.parent,
            group: stat.group,
            state: ProcessState::from_letter(stat.state),
            start_ticks: stat.start_ticks,
            name: stat.name,
        })
    }

    pub(super) fn all() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Process::of).collect()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state != ProcessState::Zombie
    }

    /// Whether it started with this entry (`NAME=value`) in its environment.
    pub(super) fn was_given(&self, entry: &str) -> bool {
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|given| given == entry.as_bytes())
    }

    /// Waits for its end, which another process may have to reap.
    pub(super) fn ends_before(&self, deadline: Instant) -> bool {
        self.handle().is_none_or(|handle| ends_before(&handle, deadline))
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(handle) = self.handle() {
            // An error means that it has ended by now, or is not ours to signal.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }

    /// `None`: this very process is gone.
    fn handle(&self) -> Option<OwnedFd> {
        let handle = open(self.pid)?;
        let is_same = Process::of(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks);
        is_same.then_some(handle)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let shown = if line.trim().is_empty() { &self.name } else { line.trim() };
        write!(f, "process {} ({}, {shown})", self.pid, self.state)
    }
}

/// A pidfd. `None`: there is no such process.
pub(super) fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// Waits until the process of this pidfd has ended, at most until the deadline.
pub(super) fn ends_before(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a test's deadline is not years away");
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(error) => panic!("a pidfd can't be polled: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_replaced_is_gone() {
        let mut us = Process::of(std::process::id()).unwrap();
        us.start_ticks += 1; // as if our pid had been another process before
        assert!(us.ends_before(Instant::now()));
        assert!(!is_alive(us.pid, us.start_ticks));
    }

    #[test]
    #[should_panic(expected = "has not ended within 1ms")]
    fn waiting_for_what_stays_says_what_it_is() {
        wait_gone(std::process::id(), Duration::from_millis(1));
    }
}
