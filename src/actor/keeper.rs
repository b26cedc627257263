//! Who sees to an actor that was started on another host? A process beside it, at the far end of its launcher.
//!
//! What a parent does for a child on its own host, with pidfds and signals, this does over there: it gives the actor its boot
//! message and a folder for sockets, hands on signals, waits for it and for all that it has started, and ends with its
//! status. Its stdin leads to the parent: when that ends, the actor has its grace to end as well.
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::boot::{BOOT_FAILED, MAX_BOOT_BYTES, surround};
use super::control::orphans;
use super::host::host_id;
use super::process::has_ended;
use super::signals::{self, Signals};
use super::stdin::{message, read_message};
use crate::msg::addr::{Addr, Addrs, Host, HostPort};
use crate::msg::codec;
use crate::msg::spec::{KeepSpec, SpawnSpec};
use crate::transport::folder::{Base, RootFolder};

/// What the variable of the boot is where a keeper is to be started.
pub(crate) const KEEP: &str = "keep";

/// The keeper's first line on stdout: it waits for its message.
pub(crate) const KEEPS: &str = "teamster keeps";

/// An actor that a signal has ended, by its keeper's exit status: as shells tell it.
pub(crate) const SIGNALLED: i32 = 128;

/// Sees to one actor, and ends with it.
pub(super) fn keep() -> ! {
    match keep_one() {
        Ok(status) => signals::exit_now(status),
        Err((what, error)) => {
            eprintln!("teamster: an actor can't be started on {}: {what}: {error}", host());
            signals::exit_now(BOOT_FAILED)
        }
    }
}

fn host() -> &'static str {
    host_id().split('/').next().unwrap_or_default()
}

type Failed = (&'static str, io::Error);

fn at(what: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |error| (what, error)
}

fn keep_one() -> Result<i32, Failed> {
    println!("\n{KEEPS}"); // a login shell, or a test harness, may be in the middle of a line
    // Not by way of `io::stdin`, which reads ahead: what follows is read when it is looked for.
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0).map(File::from);
    let mut stdin = stdin.map_err(|error| ("duplicating its stdin", error.into()))?;
    let within = Timespec::try_from(TOLD_WITHIN).ok();
    if !matches!(poll(&mut [PollFd::new(&stdin, PollFlags::IN)], within.as_ref()), Ok(1..)) {
        return Ok(0); // nobody is at the other end, whatever the network says
    }
    let Some(spec) = read_spec(&mut stdin).map_err(at("reading what to start"))? else {
        return Ok(0); // whoever wanted it is gone
    };
    // What its actor leaves behind becomes ours.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| ("becoming a subreaper", error.into()))?;
    let folder = Base::open().and_then(|base| base.make_root());
    let folder = folder.map_err(|error| ("making a folder for its sockets", io::Error::other(error)))?;
    let signals = Signals::install().map_err(at("taking signals"))?;
    let kept = Kept::start(spec, &folder).map_err(at("starting this program there"))?;
    let status = kept.see_to(&signals, &stdin);
    folder.remove();
    Ok(status)
}

fn read_spec(stdin: &mut File) -> io::Result<Option<KeepSpec>> {
    let Some(bytes) = read_message(stdin, MAX_KEEP_BYTES)? else { return Ok(None) };
    codec::decode(&bytes).map(Some).map_err(|error| io::Error::other(error.to_string()))
}

/// How long a parent may take that was told that a keeper is there.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of the largest message: the actor's, and as much for its arguments and its environment.
pub(crate) const MAX_KEEP_BYTES: usize = 2 * MAX_BOOT_BYTES;

/// The actor, and how long it may live when nobody waits for it any more.
struct Kept {
    process: Child,
    pidfd: OwnedFd,
    lineage: String,
    grace: Duration,
}

impl Kept {
    fn start(spec: KeepSpec, folder: &RootFolder) -> io::Result<Self> {
        let KeepSpec { env, env_clear, current_dir, relays, actor } = spec;
        let actor = at_this_host(actor, folder);
        let (stdin, boot_pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(format!("teamster:{}", actor.aid.name()));
        command.args(std::env::args_os().skip(1));
        let env = env.iter().map(|(key, value)| (OsStr::from_bytes(key), value.as_deref().map(OsStr::from_bytes)));
        surround(&mut command, env_clear, env, current_dir.as_deref(), &actor.lineage);
        command.env_remove(FROM_VARIABLE);
        let relayed = |is_relayed: bool| if is_relayed { Stdio::inherit() } else { Stdio::null() };
        command.stdin(stdin).stdout(relayed(relays[0])).stderr(relayed(relays[1]));
        let (lineage, grace) = (actor.lineage.clone(), Duration::from_millis(actor.grace_ms));
        let message = message(&actor, MAX_BOOT_BYTES)?;
        let process = command.spawn()?;
        drop(command); // and our copy of its stdin
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        // One that takes it no more has ended, which is seen.
        let _ = File::from(boot_pipe).write_all(&message);
        Ok(Kept { process, pidfd, lineage, grace })
    }

    /// Hands on what its parent wants until it has ended, and waits for the rest. Its exit status.
    fn see_to(mut self, signals: &Signals, stdin: &File) -> i32 {
        let mut until: Option<Instant> = None;
        let mut is_led = true;
        loop {
            if has_ended(self.pidfd.as_fd()) {
                return self.end();
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                self.kill_all();
                until = None;
            }
            let mut fds =
                vec![PollFd::new(&self.pidfd, PollFlags::IN), PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)];
            if is_led {
                fds.push(PollFd::new(stdin, PollFlags::IN));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            // An error, or a signal: the next look tells.
            let _ = poll(&mut fds, left.as_ref());
            for signal in signals.take() {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    self.signal(signal);
                }
            }
            if is_led && !self.obey(stdin.as_fd()) {
                is_led = false;
                until = Some(Instant::now() + self.grace);
            }
        }
    }

    /// Whether somebody leads it still, as its parent's words come through.
    fn obey(&self, stdin: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        while matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            let mut word = [0; 1];
            match rustix::io::read(stdin, &mut word) {
                Ok(1..) => match Signal::from_named_raw(i32::from(word[0])) {
                    Some(Signal::KILL) => self.kill_all(),
                    Some(signal) => self.signal(signal),
                    None => {}
                },
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return false,
            }
        }
        true
    }

    fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// It, its helpers, and whatever actors it has started.
    fn kill_all(&self) {
        kill_each(&orphans::below(&self.lineage));
        self.kill_group();
        self.signal(Signal::KILL);
    }

    fn kill_group(&self) {
        // Its leader has not been reaped: the group's number is its own.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.process), Signal::KILL);
    }

    /// Its helpers end with it; actors that it has left see its end, and have their grace.
    fn end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.kill_group();
        let status = self.process.wait();
        let until = Instant::now() + self.grace;
        loop {
            let left = orphans::below(&self.lineage);
            let Some(first) = left.first() else { break };
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                kill_each(&left);
            }
            let rest = if rest.is_zero() { KILLED_WITHIN } else { rest };
            let within = Timespec::try_from(rest).ok();
            // It tells when that one has ended; the next look finds who else is there.
            let _ = poll(&mut [PollFd::new(first, PollFlags::IN)], within.as_ref());
            reap_all();
        }
        status.map_or(BOOT_FAILED, |status| {
            status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal)).unwrap_or(BOOT_FAILED)
        })
    }
}

fn kill_each(pidfds: &[OwnedFd]) {
    for pidfd in pidfds {
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}

/// Between two looks at what was killed.
const KILLED_WITHIN: Duration = Duration::from_millis(50);

/// All that has been left to us.
fn reap_all() {
    while let Ok(Some(_)) = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}

/// What follows in the lineage of an actor that has a keeper: what leads here may run on this host too, or may have handed on
/// its environment.
pub(crate) const KEPT: &str = "/kept";

/// The actor's spec with what is known here alone.
fn at_this_host(mut actor: SpawnSpec, folder: &RootFolder) -> SpawnSpec {
    actor.aid = actor.aid.at(0, host_id());
    (actor.is_host_known, actor.is_kept) = (true, true);
    actor.lineage.push_str(KEPT);
    actor.folder = folder.path().to_owned();
    actor.registrar = None; // it is behind a Unix socket of its own host
    if let Some(from) = came_from() {
        actor.parent_addrs = first_at(&actor.parent_addrs, from);
    }
    actor
}

/// Set by a host's agent to the address that the parent's envoy has come from.
pub(crate) const FROM_VARIABLE: &str = "TEAMSTER_FROM";

/// The address that ssh, or an envoy, has come from: there the parent is reached, most likely.
fn came_from() -> Option<IpAddr> {
    let from = std::env::var(FROM_VARIABLE).or_else(|_unset| std::env::var("SSH_CONNECTION"));
    from.ok()?.split(' ').next()?.parse().ok()
}

fn first_at(addrs: &Addrs, ip: IpAddr) -> Addrs {
    let is_there = |addr: &&Addr| match addr {
        Addr::Tcp(HostPort { host: Host::Ip(at), .. }) | Addr::Quic(HostPort { host: Host::Ip(at), .. }) => *at == ip,
        _ => false,
    };
    let (first, rest): (Vec<&Addr>, Vec<&Addr>) = addrs.as_slice().iter().partition(is_there);
    first.into_iter().chain(rest).cloned().collect()
}
