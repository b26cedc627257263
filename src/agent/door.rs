//! Who knocks at a host's agent, and what becomes of what was started here? One thread, which waits in one place.
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketFlags, accept_with};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use uuid::Uuid;

use super::books::{Books, Entry};
use super::folder::own;
use super::groups::{Group, Groups};
use super::session::{BEYOND_GRACE, check_name, kill_left, sweep_sockets};
use super::{Agent, SESSION_VARIABLE};
use crate::actor::refusals::{Counts, MOST_A_SECOND};
use crate::actor::signals::{self, Signals};
use crate::actor::wire::wait;
use crate::msg::addr::{Addr, Host, HostPort};
use crate::transport::tcp;
use crate::transport::tls::Identity;

/// Connections at a time of whom it is not known who they are. One more, and one is let go that has taken long, of those from
/// where most come.
const MAX_STRANGERS: usize = 64;

/// Connections at a time in all. One more waits to be accepted.
const MAX_SESSIONS: usize = 4096;

/// How long the door stays shut after the system refused it a descriptor or a process.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Bytes of a line that the process of a connection says. The rest of a longer one is thrown away.
const MAX_LINE_BYTES: usize = 4096;

/// How soon one that was killed is looked at again.
const KILLED_WITHIN: Duration = Duration::from_millis(50);

/// The same, where it takes the kernel long: each time is twice as late as the one before, up to this.
const KILLED_FOR_LONG: Duration = Duration::from_secs(2);

pub(super) struct Door {
    name: String,
    listeners: Vec<(OwnedFd, Addr)>,
    books: Books,
    _hold: OwnedFd,
    groups: Option<Groups>,
    /// Groups of an earlier agent's time may be there that are in no book.
    has_swept: bool,
    sessions: Vec<Session>,
    elsewhere: Vec<Elsewhere>,
    left: Vec<Left>,
    refused: Counts,
    let_go: u64,
    let_go_told: Option<Instant>,
    shut_until: Option<Instant>,
}

/// The process of one connection.
struct Session {
    pid: u32,
    pidfd: OwnedFd,
    /// What it says.
    told: OwnedFd,
    line: Vec<u8>,
    from: IpAddr,
    /// It is known who is there.
    is_in: bool,
}

/// The process of a connection that an earlier agent has accepted.
struct Elsewhere {
    uuid: Uuid,
    pidfd: OwnedFd,
}

/// An actor whose connection has lost its process: its keeper has seen that, and ends it.
struct Left {
    entry: Entry,
    keeper: Option<OwnedFd>,
    kill_at: Instant,
    /// How soon what is killed is looked at again.
    again_after: Duration,
}

impl Door {
    pub(super) fn open(agent: &Agent) -> io::Result<Self> {
        let (credentials, name) = agent.credentials()?;
        Identity::new(&credentials)?;
        // Limits of one who can't come would keep nobody out.
        agent.limits_of.keys().try_for_each(|client| check_name(client))?;
        let books = Books::open(&agent.state)?;
        let hold = books.hold()?.ok_or_else(|| {
            io::Error::other(format!(
                "another agent keeps the books in {}: end it, or name another folder by --state",
                agent.state.display()
            ))
        })?;
        own(&agent.cache).map_err(|error| {
            let text = format!(
                "the folder {} for executables can't be used: {error}: --cache names another",
                agent.cache.display()
            );
            io::Error::new(error.kind(), text)
        })?;
        let needs_groups = agent.limits_of.values().chain([&agent.limits]).any(|limits| limits.need_groups());
        let groups = needs_groups.then(Groups::prepare).transpose()?;
        let listeners = agent.addrs().iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        Ok(Door {
            name,
            listeners,
            books,
            _hold: hold,
            has_swept: groups.is_none(),
            groups,
            sessions: Vec::new(),
            elsewhere: Vec::new(),
            left: Vec::new(),
            refused: Counts::default(),
            let_go: 0,
            let_go_told: None,
            shut_until: None,
        })
    }

    pub(super) fn serve(mut self, ready: impl FnOnce(&[Addr])) -> io::Result<()> {
        let signals = Signals::install()?;
        let children = signals::children_that_end()?;
        // What the processes of connections leave behind becomes ours.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        self.books.sweep();
        self.look_into_books();
        let addrs: Vec<Addr> = self.listeners.iter().map(|(_, addr)| addr.clone()).collect();
        for addr in &addrs {
            tracing::info!(target: "teamster::agent", host = self.name, %addr, running = self.elsewhere.len(), "an agent listens");
        }
        if rustix::process::geteuid().is_root() {
            tracing::warn!(
                target: "teamster::agent",
                "clients may run any program as root: start the agent as a user who has nothing to lose (docs/cluster.md)"
            );
        }
        ready(&addrs);
        self.settle();
        loop {
            self.wait(&signals, &children);
            reap(&children);
            if signals.take().iter().any(|signal| *signal != libc::SIGUSR1) {
                let running = self.elsewhere.len() + self.sessions.iter().filter(|session| session.is_in).count();
                tracing::info!(target: "teamster::agent", running, "the agent ends; what it has started goes on");
                return Ok(());
            }
            self.hear();
            self.settle();
            self.let_in();
        }
    }

    fn wait(&self, signals: &Signals, children: &OwnedFd) {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN), PollFd::new(children, PollFlags::IN)];
        let is_open = self.shut_until.is_none() && self.sessions.len() < MAX_SESSIONS;
        let doors = self.listeners.iter().filter(|_| is_open);
        fds.extend(doors.map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
        for session in &self.sessions {
            fds.push(PollFd::new(&session.pidfd, PollFlags::IN));
            fds.push(PollFd::new(&session.told, PollFlags::IN));
        }
        fds.extend(self.elsewhere.iter().map(|one| PollFd::new(&one.pidfd, PollFlags::IN)));
        fds.extend(self.left.iter().filter_map(|one| Some(PollFd::new(one.keeper.as_ref()?, PollFlags::IN))));
        let until = self.left.iter().map(|one| one.kill_at).chain(self.shut_until).min();
        wait(&mut fds, until);
    }

    /// What the processes of connections say.
    fn hear(&mut self) {
        let mut lines = Vec::new();
        for session in &mut self.sessions {
            session.hear(&mut lines);
        }
        for (word, text) in lines {
            match word.as_str() {
                "no" => self.tell_refusal(&text),
                _ => tracing::info!(target: "teamster::agent", "{text}"),
            }
        }
    }

    fn tell_refusal(&mut self, text: &str) {
        let (is_said, unsaid) = self.refused.count(Instant::now());
        if unsaid > 0 {
            tracing::warn!(
                target: "teamster::agent", count = unsaid,
                "more connections were refused, beside the {MOST_A_SECOND} of that second which are in the log"
            );
        }
        if is_said {
            tracing::warn!(target: "teamster::agent", "a connection was refused: {text}");
        }
    }

    /// Sees who has ended, and to what they leave.
    fn settle(&mut self) {
        let (sessions, elsewhere) = (self.sessions.len(), self.elsewhere.len());
        self.sessions.retain(|session| !has_ended(&session.pidfd));
        self.elsewhere.retain(|one| !has_ended(&one.pidfd));
        if (sessions, elsewhere) != (self.sessions.len(), self.elsewhere.len()) {
            self.look_into_books();
        }
        let now = Instant::now();
        let books = &self.books;
        self.left.retain_mut(|one| !one.is_over(now, books));
        self.has_swept = self.has_swept || self.sweep_groups();
        if self.shut_until.is_some_and(|until| until <= now) {
            self.shut_until = None;
        }
    }

    /// Everything in there is somebody's: of one of our connections, of an earlier agent's, or left.
    fn look_into_books(&mut self) {
        let entries = match self.books.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(target: "teamster::agent", %error, "the books can't be read");
                return;
            }
        };
        for entry in entries {
            let is_ours = self.sessions.iter().any(|session| session.pid == entry.session.pid);
            let is_elsewhere = self.elsewhere.iter().any(|one| one.uuid == entry.uuid);
            let is_left = self.left.iter().any(|one| one.entry.uuid == entry.uuid);
            match entry.open_session() {
                Some(_) if is_ours || is_elsewhere => {}
                Some(pidfd) => self.elsewhere.push(Elsewhere { uuid: entry.uuid, pidfd }),
                None if is_left => {}
                None => self.left.push(Left::new(entry)),
            }
        }
    }

    /// What was made for one that was killed before it could be written down. Not while somebody writes: the next look is soon.
    fn sweep_groups(&self) -> bool {
        let (Some(groups), Ok(Some(_lock)), Ok(entries)) = (&self.groups, self.books.lock(), self.books.entries())
        else {
            return false;
        };
        groups.sweep(|path| entries.iter().any(|entry| entry.group.as_deref() == Some(path)));
        true
    }

    fn let_in(&mut self) {
        if self.shut_until.is_some() {
            return;
        }
        for n in 0..self.listeners.len() {
            if self.sessions.len() >= MAX_SESSIONS {
                return;
            }
            match accept_with(&self.listeners[n].0, SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    if let Err(error) = self.begin(fd) {
                        self.shut(&error);
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => self.shut(&error.into()),
            }
        }
    }

    /// Out of descriptors or processes, mostly: those who knock stay in the backlog meanwhile.
    fn shut(&mut self, error: &io::Error) {
        self.shut_until = Some(Instant::now() + OPEN_AGAIN_AFTER);
        self.tell_refusal(&format!("this host can't serve it: {error}"));
    }

    /// Starts the process of a connection.
    fn begin(&mut self, fd: OwnedFd) -> io::Result<()> {
        let Some(from) = tcp::peer(fd.as_fd()) else { return Ok(()) }; // it has gone already
        if self.sessions.iter().filter(|session| !session.is_in).count() >= MAX_STRANGERS {
            self.let_one_go();
        }
        let (told, tells) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let base = self.groups.as_ref().map_or_else(Default::default, |groups| groups.base().as_os_str().to_owned());
        let mut command = Command::new("/proc/self/exe");
        command.arg0(format!("teamster session of {from}")).args(std::env::args_os().skip(1));
        command.env(SESSION_VARIABLE, base).stdin(Stdio::from(fd)).stdout(Stdio::from(tells));
        command.process_group(0); // ctrl-c is for the agent alone
        let process = command.spawn()?;
        // Nobody reaps it before we come back to that: its number is its own.
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
        self.sessions.push(Session {
            pid: process.id(),
            pidfd,
            told,
            line: Vec::new(),
            from: from.ip().to_canonical(),
            is_in: false,
        });
        Ok(())
    }

    /// The one that has taken longest, of those from where most come: who knocks a thousand times pushes out himself.
    fn let_one_go(&mut self) {
        self.hear(); // somebody may have come in by now
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for session in self.sessions.iter().filter(|session| !session.is_in) {
            *counts.entry(session.from).or_default() += 1;
        }
        let crowded = counts.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from);
        let slow = self.sessions.iter().position(|session| !session.is_in && Some(session.from) == crowded);
        let Some(slow) = slow else { return };
        let slow = self.sessions.remove(slow);
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(&slow.pidfd, Signal::KILL);
        self.look_into_books(); // it may have come in at this very moment
        self.let_go += 1;
        if self.let_go_told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            tracing::warn!(
                target: "teamster::agent", from = %slow.from, count = self.let_go,
                "connections are let go that have not said who they are, since {MAX_STRANGERS} others have not either"
            );
            (self.let_go, self.let_go_told) = (0, Some(Instant::now()));
        }
    }
}

impl Session {
    /// Its whole lines: a word, and a text.
    fn hear(&mut self, lines: &mut Vec<(String, String)>) {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = rustix::io::read(&self.told, &mut bytes) {
            for byte in &bytes[..count] {
                match byte {
                    b'\n' => {
                        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                        let (word, text) = line.split_once(' ').unwrap_or((&line, ""));
                        let text = if word == "no" { format!("{}: {text}", self.from) } else { text.to_owned() };
                        self.is_in |= word == "in";
                        lines.push((word.to_owned(), text));
                    }
                    byte if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                    _ => {}
                }
            }
        }
    }
}

impl Left {
    fn new(entry: Entry) -> Self {
        let keeper = entry.open_keeper();
        let grace = || Duration::from_millis(entry.grace_ms).min(LONGEST_GRACE) + BEYOND_GRACE;
        let kill_at = Instant::now() + keeper.as_ref().map_or(Duration::ZERO, |_| grace());
        tracing::info!(
            target: "teamster::agent", actor = entry.name, uuid = %entry.uuid, client = entry.client, lives = keeper.is_some(),
            "an actor is left without a connection"
        );
        Left { entry, keeper, kill_at, again_after: KILLED_WITHIN }
    }

    fn look_again(&mut self, now: Instant) {
        self.kill_at = now + self.again_after;
        self.again_after = (2 * self.again_after).min(KILLED_FOR_LONG);
    }

    /// Whether nothing of it is there any more, nor in the books.
    fn is_over(&mut self, now: Instant, books: &Books) -> bool {
        if let Some(keeper) = &self.keeper
            && !has_ended(keeper)
        {
            if self.kill_at <= now {
                kill_left(&self.entry);
                // Gone already is as good.
                let _ = rustix::process::pidfd_send_signal(keeper, Signal::KILL);
                self.look_again(now);
            }
            return false;
        }
        if self.keeper.take().is_some() {
            self.kill_at = now; // what it has left has no time
        }
        if now < self.kill_at {
            return false;
        }
        if !kill_left(&self.entry).is_empty() {
            self.look_again(now);
            return false;
        }
        sweep_sockets();
        if let Some(path) = &self.entry.group {
            Group::at(path).remove();
        }
        books.remove(self.entry.uuid);
        tracing::info!(target: "teamster::agent", actor = self.entry.name, uuid = %self.entry.uuid, "it is gone");
        true
    }
}

/// A point in time that far away can still be told.
const LONGEST_GRACE: Duration = Duration::from_hours(365 * 24);

/// All that has ended, ours or left to us. Their descriptors have told who.
fn reap(children: &OwnedFd) {
    let mut signals = [0; 1024];
    while rustix::io::read(children, &mut signals).is_ok() {} // how often it came says nothing
    while let Ok(Some(_)) = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
}

/// Whoever reaps it.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())), Ok(1..))
}

fn listen(addr: &Addr) -> io::Result<(OwnedFd, Addr)> {
    let Addr::Tcp(place) = addr else {
        return Err(io::Error::other(format!(
            "{addr} is no place for an agent: it listens at /ip4/…/tcp/… or /ip6/…/tcp/…"
        )));
    };
    let bound = tcp::bind_to(place).or_else(|error| match place.host {
        // Where there is no IPv6, all addresses are those of IPv4.
        Host::Ip(IpAddr::V6(ip)) if ip.is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            tcp::bind_to(&HostPort { host: Host::Ip(std::net::Ipv4Addr::UNSPECIFIED.into()), port: place.port })
        }
        _ => Err(error),
    });
    let (fd, bound) = bound.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("it can't listen at {addr}: {error}: --listen names another address or port"),
        )
    })?;
    Ok((fd, Addr::Tcp(bound.into())))
}
