//! Namespaces of this machine, which a test makes to stand for other ones. They are gone with the test's process, however
//! that ends.
#![allow(dead_code, reason = "not every file uses all of it")]
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Namespaces that live as long as a process in them, and that as long as we hold its stdin.
pub(crate) struct Unshared {
    pub(crate) holder: Child,
    /// The process in them, as it is seen from here.
    pub(crate) pid: u32,
}

impl Unshared {
    /// `flags`: of unshare(1). Its first process answers once the namespaces are made.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let unshared = Self::with(flags, "");
        unshared.run("ip link set lo up");
        unshared
    }

    /// The same, once its first process has run `script`.
    pub(crate) fn with(flags: &[&str], script: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(flags)
            .args(["sh", "-c", &format!("{script}\necho; exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare, of util-linux, and root's rights");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("it is text");
        assert_eq!(line, "\n", "unshare needs root's rights");
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let children = std::fs::read_to_string(children).expect("it lives");
        // With `--fork` it is a child of unshare, else unshare itself.
        let pid = children.split_ascii_whitespace().next().map_or(holder.id(), |pid| pid.parse().expect("a pid"));
        Unshared { holder, pid }
    }

    /// This thread, and those that it starts from now on, are in that network.
    pub(crate) fn enter_network(&self) {
        enter(&self.network());
    }

    pub(crate) fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.pid)).expect("it lives")
    }

    /// That program, to run in there.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-n", "-p", "-m", "-u", "--", program]);
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, line: &str) {
        let (program, args) = line.split_once(' ').expect("it has arguments");
        let ended = self.command(program).args(args.split(' ')).output().expect("nsenter, of util-linux");
        assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    /// The processes in them, as they are seen from here.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let table = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(ours) = table(&self.pid.to_string()) else { return Vec::new() };
        let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let pids = names.filter(|name| name.parse::<u32>().is_ok() && table(name).as_ref() == Some(&ours));
        pids.filter_map(|name| Pid::from_raw(name.parse().ok()?)).collect()
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait(); // it has nothing to say
    }
}

/// This thread, and those that it starts from now on, are in that network.
pub(crate) fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
}

/// A process's command line, of one that has not ended.
pub(crate) fn title(pid: Pid) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned();
    // A zombie has none, and is its parent's matter.
    Some(title).filter(|title| !title.is_empty())
}

/// Whether the actor of this name is among the processes, and has taken some processor time.
pub(crate) fn is_busy(processes: &[(Pid, String)], name: &str) -> bool {
    processes.iter().any(|(pid, title)| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(11)?.parse::<u64>().ok());
        title.starts_with(&format!("teamster:{name}")) && ticks.is_some_and(|ticks| ticks > 20)
    })
}
