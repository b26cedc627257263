//! Lines whose bytes go by datagrams: what a kernel does for those of TCP, whatever the runtime does, this thread does. And those
//! of TCP to another host, whose kernel may be silent.
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::thread::Token;
use crate::actor::DataLine;
use crate::actor::host::is_here;
use crate::actor::process::ProcessStat;
use crate::channel::LineEnd;
use crate::msg::ident::Aid;
use crate::proto::pulse::{Due, Pulse};

/// Has `epoll` tell of the end of an actor's process, if it is on this host and lives.
pub(super) fn watch(epoll: &OwnedFd, aid: &Aid, token: Token) -> Option<OwnedFd> {
    let pid = i32::try_from(aid.pid()).ok().and_then(Pid::from_raw).filter(|_| is_here(aid))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    epoll::add(epoll, &pidfd, token.encode(), epoll::EventFlags::IN).ok()?;
    Some(pidfd)
}

/// Whether a process of this host stands still, as one does that a debugger or its terminal has stopped.
pub(super) fn is_stopped(aid: &Aid) -> bool {
    ProcessStat::read(aid.pid()).is_some_and(|stat| stat.is_stopped())
}

/// The data lines that are kept up beside their drivers: the other side gets its signs of life, and is given up when it gives
/// none, or its process has ended.
///
/// It goes by the time of the machine: no debugger's hold stops what a kernel does.
#[derive(Default)]
pub(super) struct Tended {
    lines: HashMap<u64, Kept>,
    next: u64,
}

struct Kept {
    line: Weak<DataLine>,
    pulse: Pulse,
    heard: u64,
    /// Of a process on this host. Closed, it is watched no more.
    process: Option<OwnedFd>,
}

impl Tended {
    pub(super) fn add(&mut self, line: &Arc<DataLine>, lost_after: Duration, epoll: &OwnedFd) {
        let key = self.next;
        self.next += 1;
        let process = line.is_timed().then(|| watch(epoll, &line.peer, Token::Peer(key))).flatten();
        let pulse = Pulse::new(Instant::now(), lost_after);
        self.lines.insert(key, Kept { line: Arc::downgrade(line), pulse, heard: 0, process });
    }

    /// When [`Tended::on_time`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lines.values().map(|kept| kept.pulse.next_deadline()).min()
    }

    /// Sees to those that are due.
    pub(super) fn on_time(&mut self) {
        let now = Instant::now();
        self.lines.retain(|_, kept| kept.on_time(now));
    }

    /// A process at the other end has ended.
    pub(super) fn on_end(&mut self, key: u64) {
        if let Some(line) = self.lines.remove(&key).and_then(|kept| kept.line.upgrade()) {
            line.peer_has_ended();
        }
    }
}

impl Kept {
    /// Whether the line is still there.
    fn on_time(&mut self, now: Instant) -> bool {
        if self.pulse.next_deadline() > now {
            return true;
        }
        let Some(line) = self.line.upgrade() else { return false };
        if !line.is_timed() {
            return self.ask_kernel(&line, now);
        }
        // What has come counts first, though nobody has read it.
        let Some(heard) = line.tend(false) else { return false };
        if heard != self.heard {
            self.heard = heard;
            self.pulse.on_heard(now);
        }
        match self.pulse.on_timeout(now) {
            Due::Nothing => {}
            Due::Beat { .. } => _ = line.tend(true),
            // It is seen, and says nothing since somebody has stopped it.
            Due::Lost { .. } if self.process.is_some() && !line.is_remote() && is_stopped(&line.peer) => {
                self.pulse.on_heard(now);
            }
            Due::Lost { .. } => {
                line.close(LineEnd::Io("its host is silent".to_owned()));
                return false;
            }
        }
        true
    }

    /// The same of one that a kernel keeps up.
    fn ask_kernel(&mut self, line: &DataLine, now: Instant) -> bool {
        self.pulse.on_heard(now); // it is not here that it is heard: this is to look again
        self.pulse.on_timeout(now);
        let is_silent = line.silence().is_some_and(|silent| silent >= self.pulse.lost_after());
        if is_silent {
            line.close(LineEnd::Io("its host is silent".to_owned()));
        }
        !is_silent && line.end().is_none()
    }
}
