//! Who lives below? The control thread's book of children, and of what they have started.
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use uuid::Uuid;

use super::NameSink;
use crate::actor::child::{Child, Ended};
use crate::actor::hold::Held;
use crate::actor::keeper::SIGNALLED;
use crate::actor::process;
use crate::actor::suspend::Listed;
use crate::channel::LineEnd;
use crate::channel::line::{Line, LineInbox};
use crate::msg::death::{Death, DeathData, ExitKind, Receipt, Rung};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::proto::escalation::{Escalation, Measure, Times};
use crate::proto::pulse::Pulse;

/// One child.
pub(super) struct Kid {
    pub(super) child: Arc<Child>,
    /// In a root: ctrl-z stops it. Before the descriptor, which is open as long as this lives.
    pub(super) listed: Option<Listed>,
    pub(super) pidfd: Arc<OwnedFd>,
    pub(super) line: Option<(Arc<Line>, LineInbox)>,
    /// Its line goes over a network: what it said last may come after its end.
    pub(super) is_on_network: bool,
    /// Its process has ended, and what it said last is waited for, until then.
    pub(super) last_words_by: Option<Instant>,
    /// Of a line to another host.
    pub(super) pulse: Option<Pulse>,
    pub(super) escalation: Escalation,
    pub(super) boot_by: Option<Instant>,
    pub(super) boot_within: Duration,
    /// Processes that it and its own children have started, by their records, as far as they live.
    pub(super) below: HashMap<u64, Descendant>,
    /// Those that have ended and that nobody had reaped when we looked: their parent may die before it does.
    ended_below: Vec<Arc<OwnedFd>>,
    /// It starts processes, and has not said that all of them are gone: some may be in no record.
    pub(super) may_leave_unrecorded: bool,
    /// When what it had started is killed, now that it is dead itself.
    pub(super) below_until: Option<Instant>,
    pub(super) is_reaped: bool,
    /// Its socket file has been removed.
    pub(super) is_unlisted: bool,
    /// It has heard a cancel of ours.
    pub(super) has_acknowledged: bool,
    pub(super) signalled: Signalled,
    /// It is held, or what is below it: as long as its line is up.
    pub(super) held: Option<Held>,
    /// What it is busy with, now that its time is almost over.
    stuck: Option<String>,
    /// It is killed at this time, if it has not ended by then: the names of what it is stuck in are about to be found, or
    /// whoever sees to it on another host was told to kill it.
    kill_by: Option<Instant>,
    /// Of one that is far: that was told.
    is_told_to_be_killed: bool,
    /// Its tasks are gone, as it has said: its process is about to end.
    has_left: bool,
    pub(super) awaits_names: bool,
    /// Actors that asked for its end and are told of it. No more than there are in the tree.
    pub(super) askers: Vec<Aid>,
    /// The same of what is below it, and whom they have asked for: it tells them, unless it is lost before. As many.
    pub(super) askers_below: Vec<(Aid, Aid)>,
    /// Actors that have lost their dialogs with it and are told how it has ended. As many.
    pub(super) mourners: Vec<Aid>,
}

/// Whether it got a signal that nobody of the tree had sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Signalled {
    #[default]
    No,
    /// And waits for our word.
    Waits,
    /// And ends by it, whatever we ask now.
    Ends,
}

/// A process further down.
pub(super) struct Descendant {
    /// `None`: there was none of it.
    pub(super) record: Option<Record>,
    /// In a root: ctrl-z stops it. Before the descriptor, which is open as long as this lives.
    pub(super) listed: Option<Listed>,
    /// `None`: it runs on another host, where somebody sees to it.
    pub(super) pidfd: Option<Arc<OwnedFd>>,
}

/// Who it is, as it was told when it was started.
pub(super) struct Record {
    pub(super) aid: Aid,
    /// It is a plain program: in no list of names, and nobody asks how it has ended.
    pub(super) is_program: bool,
}

impl Descendant {
    pub(super) fn is(&self, uuid: Uuid) -> bool {
        self.record.as_ref().is_some_and(|record| record.aid.uuid() == uuid)
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            kill(pidfd, signal);
        }
    }
}

impl Kid {
    pub(super) fn new(
        child: Arc<Child>,
        pidfd: Arc<OwnedFd>,
        listed: Option<Listed>,
        boot_by: Instant,
        boot_within: Duration,
    ) -> Self {
        let is_program = child.is_program; // it says nothing, and nobody connects to it
        Kid {
            child,
            listed,
            pidfd,
            line: None,
            is_on_network: false,
            last_words_by: None,
            pulse: None,
            escalation: Escalation::new(),
            boot_by: Some(boot_by).filter(|_| !is_program),
            boot_within,
            below: HashMap::new(),
            ended_below: Vec::new(),
            may_leave_unrecorded: false,
            below_until: None,
            is_reaped: false,
            is_unlisted: is_program,
            has_acknowledged: false,
            signalled: Signalled::default(),
            held: None,
            stuck: None,
            kill_by: None,
            is_told_to_be_killed: false,
            has_left: false,
            awaits_names: false,
            askers: Vec::new(),
            askers_below: Vec::new(),
            mourners: Vec::new(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.is_reaped {
            return self.below_until;
        }
        if self.last_words_by.is_some() {
            return self.last_words_by;
        }
        let pulse = self.pulse.as_ref().map(Pulse::next_deadline);
        [self.escalation.next_deadline(), self.boot_by, self.kill_by, pulse].into_iter().flatten().min()
    }

    /// Ask it to end, on behalf of `canceller`.
    pub(super) fn cancel(&mut self, now: Instant, canceller: &Canceller, grace: Duration, is_sent: bool) {
        // One that has died by itself has not done so because we ask now. Of one that was asked by its
        // asker's own thread, the caller has seen to that.
        if self.is_reaped || (!is_sent && self.has_ended() && !self.has_acknowledged) {
            return;
        }
        if self.signalled != Signalled::Ends {
            self.child.story.lock().asked.get_or_insert_with(|| canceller.clone());
        }
        self.escalate(now, canceller, grace, is_sent);
    }

    /// It says that it got a signal that we had not sent; the second time, that it ends by that.
    pub(super) fn on_signalled(&mut self, signal: i32) {
        self.signalled = match self.signalled {
            Signalled::No => Signalled::Waits,
            Signalled::Waits | Signalled::Ends => Signalled::Ends,
        };
        let said = format!("signal {signal} had been sent to it from outside of the tree");
        self.child.story.lock().said.get_or_insert(said);
    }

    /// It ends by itself, on behalf of `canceller`, whom it has heard already.
    pub(super) fn ends(&mut self, now: Instant, canceller: &Canceller, grace: Duration) {
        self.child.story.lock().asked.get_or_insert_with(|| canceller.clone());
        self.end_heard(now, grace);
    }

    /// It knows of its end, and nobody asked for that: it has its grace.
    pub(super) fn end_by_itself(&mut self, now: Instant) {
        self.end_heard(now, self.child.grace);
    }

    fn end_heard(&mut self, now: Instant, grace: Duration) {
        if self.escalation.cancel(now, grace) == Some(Measure::Sigkill) {
            self.kill(now);
        }
        self.escalation.on_ack(now);
    }

    /// A process further down has ended. Mostly its own parent reaps it.
    pub(super) fn ended_below(&mut self, pidfd: Arc<OwnedFd>) {
        self.ended_below.push(pidfd);
        self.reap_orphans();
    }

    /// Reaps those below that have been left to us. (A root gets none: they are init's.)
    pub(super) fn reap_orphans(&mut self) {
        self.ended_below.retain(|pidfd| is_anothers_to_reap(pidfd));
    }

    /// Whether its process has ended, reaped or not.
    pub(super) fn has_ended(&self) -> bool {
        process::has_ended(self.pidfd.as_fd())
    }

    /// End it, and let its death count as one that nobody asked for.
    pub(super) fn end_unasked(&mut self, now: Instant, canceller: &Canceller) {
        self.escalate(now, canceller, self.child.grace, false);
    }

    fn escalate(&mut self, now: Instant, canceller: &Canceller, grace: Duration, is_sent: bool) {
        // One that still boots holds nothing that would need a grace.
        // One whose line has ended since is ending already, and keeps the word for a graceful end.
        let boots = self.line.is_none() && self.child.connected.get().is_none() && !self.child.is_program;
        let grace = if boots { Duration::ZERO } else { grace };
        if grace.is_zero() && !self.is_told_to_be_killed && self.kill_by.take().is_some() {
            self.kill(now);
        }
        if let Some(measure) = self.escalation.cancel(now, grace)
            && !(is_sent && matches!(measure, Measure::Cancel { .. }))
        {
            self.take(measure, now, canceller);
        }
    }

    /// Says the cancel again: the line came up, or the child asks whose signal it got.
    pub(super) fn repeat_cancel(&self, now: Instant) {
        let asked = self.child.story.lock().asked.clone();
        if let (Some(canceller), Some((line, _)), Some(until)) = (asked, &self.line, self.escalation.kill_at()) {
            send_cancel(line, until.saturating_duration_since(now), &canceller);
        }
    }

    /// What it is busy with. `more`: that is said once more, with names.
    pub(super) fn on_stuck(&mut self, now: Instant, text: String, more: bool) {
        self.stuck = Some(text).filter(|text| !text.is_empty());
        self.awaits_names = more;
        if !more && !self.is_told_to_be_killed && self.kill_by.take().is_some() {
            self.kill(now);
        }
    }

    /// `patience`: how long one whose time is over may go on, while the names are found of what it is busy with.
    pub(super) fn on_timeout(&mut self, now: Instant, me: &Aid, patience: Duration) {
        if self.is_reaped {
            if self.below_until.is_some_and(|until| until <= now) {
                self.below_until = None;
                for descendant in self.below.values() {
                    descendant.signal(Signal::KILL);
                }
            }
            return;
        }
        if self.last_words_by.is_some() {
            return;
        }
        if self.boot_by.is_some_and(|by| by <= now) {
            self.boot_by = None;
            self.child.story.lock().boot_timeout = Some(self.boot_within);
            let canceller = Canceller { aid: me.clone(), request: CancelRequest::Deadline };
            self.escalate(now, &canceller, Duration::ZERO, false);
        }
        if let Some(measure) = self.escalation.on_timeout(now) {
            let canceller = Canceller { aid: me.clone(), request: CancelRequest::Actor };
            match measure {
                // Never longer than it had to end in: who gives little time does not want to wait for a name.
                Measure::Sigkill if self.awaits_names && !patience.is_zero() => {
                    self.kill_by = Some(now + patience.min(self.child.grace));
                }
                measure => self.take(measure, now, &canceller),
            }
        }
        if self.kill_by.is_some_and(|by| by <= now) {
            self.kill_by = None;
            self.kill(now);
        }
    }

    fn take(&mut self, measure: Measure, now: Instant, canceller: &Canceller) {
        match measure {
            Measure::Cancel { .. } if self.child.is_program => self.terminate(now),
            Measure::Cancel { grace } => {
                if let Some((line, _)) = &self.line {
                    send_cancel(line, grace, canceller);
                }
            }
            Measure::Sigterm if self.child.is_far => drop(self.pull(Signal::TERM)),
            Measure::Sigterm => kill(&self.pidfd, Signal::TERM),
            Measure::Sigkill => self.kill(now),
        }
    }

    /// SIGTERM for a program and its group, once: that is how it hears of a cancel.
    fn terminate(&mut self, now: Instant) {
        if std::mem::replace(&mut self.has_acknowledged, true) {
            return;
        }
        self.escalation.on_ack(now); // it can't say so itself
        let pid = Pid::from_raw(self.child.aid.pid().cast_signed());
        // Its leader has not been reaped, so the number is its own.
        let leads_group = pid.is_some_and(|pid| rustix::process::getpgid(Some(pid)) == Ok(pid));
        for signal in [Signal::TERM, Signal::CONT] {
            self.signal_group(signal);
            if !leads_group {
                kill(&self.pidfd, signal); // it has moved to another one
            }
        }
    }

    /// SIGKILL. On another host whoever sees to it there is told, and has a while to do so: what leads there is killed
    /// only after that.
    fn kill(&mut self, now: Instant) {
        let within = if self.line.is_some() { KILLED_WITHIN } else { KILLED_WITHIN / 4 };
        if !std::mem::replace(&mut self.is_told_to_be_killed, true) && self.pull(Signal::KILL).is_ok() {
            self.kill_by = Some(now + within);
        } else {
            self.kill_group();
        }
    }

    /// Sends a signal to an actor on another host, if it is as far as that.
    fn pull(&self, signal: Signal) -> rustix::io::Result<()> {
        let leash = self.child.leash.lock();
        let leash = leash.as_ref().ok_or(rustix::io::Errno::NOTCONN)?;
        rustix::io::write(leash, &[signal.as_raw().unsigned_abs() as u8]).map(drop)
    }

    /// SIGKILL for it and whatever it has started besides actors.
    pub(super) fn kill_group(&self) {
        self.kill_helpers();
        kill(&self.pidfd, Signal::KILL); // a launcher may have moved it to another group
    }

    fn kill_helpers(&self) {
        self.signal_group(Signal::KILL);
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.aid.pid()).ok().and_then(Pid::from_raw) {
            // Its leader has not been reaped, so the group's number can't have been given away.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Has it go on if it was stopped. What is below it goes on by its word, or by ours if it is dead.
    pub(super) fn go_on(&self) {
        if self.is_reaped {
            self.have_those_below_go_on();
        } else {
            kill(&self.pidfd, Signal::CONT);
            self.signal_group(Signal::CONT); // its helpers, last: when they go on, all has been sent
        }
    }

    pub(super) fn have_those_below_go_on(&self) {
        for below in self.below.values() {
            below.signal(Signal::CONT);
        }
    }

    /// It has said that its tasks are gone: what can be put away before its process is gone, is, while
    /// the kernel takes that down.
    pub(super) fn prepare_end(&mut self, epoll: &OwnedFd) {
        self.unlist();
        self.has_left = true;
        if self.escalation.was_asked()
            && !self.child.is_far
            && let Some((line, _)) = &self.line
            && !line.is_timed()
        {
            // Its last word has been read: the line's end would only wake us once more. Where no kernel says so, it waits for
            // our word that this has come.
            let _ = line.with_fd(|fd| epoll::delete(epoll, fd));
        }
    }

    /// Nobody finds it at its address any more. It may have removed the file itself.
    fn unlist(&mut self) {
        if !std::mem::replace(&mut self.is_unlisted, true) {
            let _ = std::fs::remove_file(&self.child.socket);
        }
    }

    /// What led to another host has ended. Itself may live: as far as its line is up, it is asked by that.
    pub(super) fn is_cut_off(&mut self, canceller: &Canceller) {
        let Some((line, _)) = &self.line else { return };
        if !self.has_left && !self.escalation.was_asked() {
            send_cancel(line, self.child.grace, canceller);
        }
    }

    /// Nothing of it is heard any more, and nothing is left of what we see ourselves.
    pub(super) fn is_gone(&self) -> bool {
        self.is_reaped && self.line.is_none() && self.below.values().all(|below| below.pidfd.is_none())
    }

    /// Its host was silent for so long before this.
    pub(super) fn was_silent(&self, silent: Duration) {
        let said = format!("its host, or the network to it, had been silent for {:.1} s", silent.as_secs_f64());
        self.child.story.lock().said.get_or_insert(said);
    }

    /// Whether it has ended before its last words have come. They are waited for until its line ends, and not for long.
    pub(super) fn awaits_last_words(&mut self, now: Instant) -> bool {
        let Some((line, _)) = &self.line else { return false };
        // On one host the datagrams of a process are all here when it has ended, and none says that it was the last.
        let may_come = self.is_on_network && (self.child.is_far || !line.is_timed());
        if !may_come || self.has_left || !self.has_ended() {
            return false;
        }
        now < *self.last_words_by.get_or_insert(now + LAST_WORDS_WITHIN)
    }

    /// It has died by itself, as our request was on its way. Nobody can tell that when it is sent: on a network never, and on one
    /// host not while the kernel takes its process down, whose lines end before it counts as dead.
    fn died_before_it_heard(&self, exit: ExitKind, times: &Times) -> bool {
        let is_killed_by_us = times.rung.is_some_and(|rung| rung != Rung::Cancel);
        !self.child.is_program && !self.has_acknowledged && !is_killed_by_us && exit != ExitKind::Status(0)
    }

    /// Whether it has died with something on its line that we have not read, which may say that it had heard our request.
    pub(super) fn may_have_heard(&self) -> bool {
        self.line.is_some() && !self.has_acknowledged && self.escalation.was_asked() && self.has_ended()
    }

    /// Collects the exit status, once its process has ended.
    ///
    /// Nothing of it is found any more by whoever sees that it is reaped: its end is to be told after that.
    pub(super) fn try_reap(&mut self, now: Instant, names: Option<&dyn NameSink>) -> Option<Ended> {
        if !self.has_ended() {
            return None;
        }
        // What it leaves behind in its group goes with it, while its zombie still holds the number.
        self.kill_helpers();
        self.unlist();
        self.listed = None; // its number may be another's as soon as it is reaped
        let status =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let exit = match status {
            Ok(Some(status)) => exit_kind(&status),
            Ok(None) => return None,
            Err(_not_ours) => ExitKind::Unknown,
        };
        let exit = if self.child.is_far { exit_there(exit) } else { exit };
        if self.child.is_far && self.line.is_some() && !self.has_left {
            self.child.story.lock().said.get_or_insert("what led to its host has ended, before it".to_owned());
        }
        self.is_reaped = true;
        self.boot_by = None;
        if let Some(silent) = self.pulse.take().and_then(|pulse| pulse.silence(now)) {
            self.was_silent(silent); // it has lost us before we have lost it
            if let Some(channel) = self.child.channel.get() {
                channel.close(LineEnd::Io("its host is silent".to_owned())); // its end may never come here
            }
        }
        let child = &self.child;
        if let Some(names) = names.filter(|_| !child.is_program) {
            names.gone(child.known_as());
        }
        let stderr_tail = child.stderr.as_ref().map(|stderr| stderr.drained_tail()).unwrap_or_default();
        // One that has ended by itself after all was not stuck.
        let stuck = self.stuck.take().filter(|_| matches!(exit, ExitKind::Signal(_)));
        let times = self.escalation.times(now);
        let mut story = child.story.lock();
        if self.died_before_it_heard(exit, &times) {
            story.asked = None;
        }
        if self.is_on_network && story.asked.is_none() && exit == ExitKind::Status(0) {
            // Both look the same from here.
            story.said.get_or_insert("it had lost a line to its parent, or has called exit".to_owned());
        }
        let receipt = Receipt {
            aid: child.known_as().clone(),
            asked_by: story.asked.clone(),
            heard: times.heard,
            tasks_gone: times.tasks_gone,
            reaped: times.reaped,
            rung: story.asked.as_ref().and(times.rung),
            exit,
            stuck: stuck.clone(),
        };
        let death = Death::new(DeathData {
            id: uuid::Uuid::new_v4(),
            aid: child.known_as().clone(),
            exit,
            asked: story.asked.clone(),
            rung: story.asked.as_ref().and(times.rung),
            said: story.said.clone(),
            in_service: child.in_service(),
            stderr_tail,
            stuck,
        });
        drop(story);
        Some(Ended { death, receipt })
    }
}

fn send_cancel(line: &Line, grace: Duration, canceller: &Canceller) {
    use crate::channel::CancelLine;
    line.cancel(0, grace, canceller);
}

pub(crate) fn kill(pidfd: &OwnedFd, signal: Signal) {
    // Gone already is as good.
    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
}

fn exit_kind(status: &WaitIdStatus) -> ExitKind {
    if let Some(code) = status.exit_status() {
        return ExitKind::Status(code);
    }
    status.terminating_signal().map_or(ExitKind::Unknown, ExitKind::Signal)
}

/// What a keeper's status says of its actor.
fn exit_there(exit: ExitKind) -> ExitKind {
    match exit {
        ExitKind::Status(status) if (1..=64).contains(&(status - SIGNALLED)) => ExitKind::Signal(status - SIGNALLED),
        exit => exit,
    }
}

/// How long what a child said last may be on its way, when its process has ended.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(250);

/// How long another host may take to kill an actor, and to say so.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// A descriptor that stands for the recorded process, unless that is gone.
pub(crate) fn open_recorded(pid: u32, start_ticks: u64) -> Option<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?;
    // The pidfd comes before the look at the start time: a pid may be reused, a pidfd may not.
    (start_ticks == 0 || process::start_ticks(pid) == Some(start_ticks)).then_some(pidfd)
}

/// Whether a descendant that has ended still waits to be reaped by another. One that has become our own
/// child, because its parent is gone, is reaped here.
fn is_anothers_to_reap(pidfd: &OwnedFd) -> bool {
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(_) => false,
        // Not our child. A signal does nothing to what has ended, and none can be sent to what was reaped.
        Err(_) => rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::WINCH).is_ok(),
    }
}
