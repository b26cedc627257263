//! The control thread's loop: wait for one of a few things, do it.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::datagrams::{self, Tended};
use super::kids::{self, Descendant, Kid, Record};
use super::obituaries::{Obituaries, Remembered};
use super::starting::Starting;
use super::{Command, Control, NameSink, orphans};
use crate::actor::Actor;
use crate::actor::child::{Child, Ended};
use crate::actor::clock::Clock;
use crate::actor::crash;
use crate::actor::hold::Held;
use crate::actor::host::is_here;
use crate::actor::load::Loads;
use crate::actor::process::ProcessStat;
use crate::actor::signals::Signals;
use crate::actor::suspend::{self, Listed, Suspension};
use crate::channel::LineEnd;
use crate::channel::line::{Line, LineInbox, Rest};
use crate::msg::addr::Addrs;
use crate::msg::death::Receipt;
use crate::msg::frame::{AckState, Frame};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::load::Load;
use crate::proto::escalation::childs_share;
use crate::proto::pulse::{Due, Pulse};

/// How long a child that got a signal from outside waits to hear whether its parent had sent it.
const VERDICT_WITHIN: Duration = Duration::from_millis(200);

/// How long before its time is over an actor that has not ended says what it is busy with, at most: enough to look
/// that up, which its parent does.
const NOTICE: Duration = Duration::from_secs(1);

/// How long its parent goes on with that when the time is over, at most.
const NAMES_WITHIN: Duration = Duration::from_millis(200);

/// How long the root's own code may go on after a second signal: everything below is dead by then.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// What an epoll event is about: a kind in the top byte, a key below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Commands,
    Signals,
    Up,
    Process(u64),
    Line(u64),
    Descendant(u64),
    Debug,
    /// The parent's process, where no line tells of its end.
    Parent,
    /// The same of whoever is at the other end of a data line.
    Peer(u64),
}

const KEY_MASK: u64 = (1 << 56) - 1;

impl Token {
    pub(super) fn encode(self) -> epoll::EventData {
        let (kind, key) = match self {
            Token::Commands => (0, 0),
            Token::Signals => (1, 0),
            Token::Up => (2, 0),
            Token::Process(key) => (3, key),
            Token::Line(key) => (4, key),
            Token::Descendant(key) => (5, key),
            Token::Debug => (6, 0),
            Token::Parent => (7, 0),
            Token::Peer(key) => (8, key),
        };
        epoll::EventData::new_u64(kind << 56 | key)
    }

    fn decode(data: epoll::EventData) -> Self {
        let (kind, key) = (data.u64() >> 56, data.u64() & KEY_MASK);
        match kind {
            0 => Token::Commands,
            1 => Token::Signals,
            2 => Token::Up,
            3 => Token::Process(key),
            4 => Token::Line(key),
            6 => Token::Debug,
            7 => Token::Parent,
            8 => Token::Peer(key),
            _ => Token::Descendant(key),
        }
    }
}

pub(super) struct Thread {
    control: Arc<Control>,
    actor: Weak<Actor>,
    aid: Aid,
    clock: Arc<Clock>,
    names: Option<Arc<dyn NameSink>>,
    signals: Signals,
    signals_seen: usize,
    /// Of a root.
    suspension: Option<Suspension>,
    up_inbox: LineInbox,
    /// Of a parent on another host.
    up_pulse: Option<Pulse>,
    /// The parent, and perhaps others above, see none of this host's processes.
    is_far: bool,
    kids: HashMap<u64, Kid>,
    /// Which child a recorded process further down belongs to.
    descendants: HashMap<u64, u64>,
    next_descendant: u64,
    /// Requests to end actors that were not known here when they came, and who asks: those of one turn.
    unfound: Vec<(Aid, Canceller)>,
    /// The same of questions how one has ended: who asks, about whom.
    unknown: Vec<(Aid, Aid, CameFrom)>,
    /// Tasks of this actor that wait for a word on another one, by that one's id.
    waiting: Vec<(Word, Uuid, oneshot::Sender<Option<Receipt>>)>,
    obituaries: Obituaries,
    /// Of a root: looks at its tree that are not over.
    looks: Vec<Weak<Loads>>,
    /// Tasks of this actor that wait until what the parent has said is read.
    catching_up: Vec<oneshot::Sender<()>>,
    /// A process that does not exist yet, as far as anybody knows.
    starting: Option<Starting>,
    /// Data lines that no kernel keeps up.
    tended: Tended,
    /// Of a parent whose line does not tell.
    parent: Option<OwnedFd>,
    own: Own,
    /// Of a child: whether it is only its own threads that live in it.
    threads: Option<Threads>,
    is_stopping: bool,
}

/// This actor's own way to its end.
#[derive(Default)]
struct Own {
    /// When this process ends itself, whatever its runtime does: nobody else will.
    kill_at: Option<Instant>,
    /// When a signal from outside counts as a cancel, unless the parent says that it was its own.
    verdict_at: Option<(Instant, i32)>,
    /// When its parent is told what this actor is busy with, which should have ended by then.
    stuck_at: Option<Instant>,
    /// When this process dies by a signal that it got, whatever its runtime does.
    die_at: Option<(Instant, i32)>,
}

impl Thread {
    pub(super) fn new(
        control: Arc<Control>,
        actor: Weak<Actor>,
        signals: Signals,
        up_inbox: LineInbox,
    ) -> io::Result<Self> {
        let (epoll, read) = (&control.epoll, epoll::EventFlags::IN);
        epoll::add(epoll, &control.event, Token::Commands.encode(), read | epoll::EventFlags::ET)?;
        epoll::add(epoll, signals.fd(), Token::Signals.encode(), read)?;
        if let Some(up) = &control.up {
            up.with_fd(|fd| epoll::add(epoll, fd, Token::Up.encode(), line_events())).transpose()?;
            let blocked = Arc::downgrade(&control);
            up.on_blocked(move || {
                if let Some(control) = blocked.upgrade() {
                    control.send(Command::Blocked { child: None });
                }
            });
            up.on_due(Self::waker(&control));
        }
        let Some(of) = actor.upgrade() else { return Err(io::Error::other("the actor is gone")) };
        let (aid, clock, names, lost_after) =
            (of.aid.clone(), Arc::clone(&of.clock), of.names.clone(), of.settings.lost_after);
        let is_far = of.parent.as_ref().is_some_and(|parent| !is_here(&parent.aid));
        let parent = match (&control.up, &of.parent) {
            (Some(up), Some(parent)) if up.is_timed() => datagrams::watch(&control.epoll, &parent.aid, Token::Parent),
            _ => None,
        };
        drop(of);
        let up_pulse = control.up.as_ref().and_then(|up| control.pulse_of(up, clock.now(), lost_after));
        let suspension = control.up.is_none().then(|| Suspension::install(&control.event));
        Ok(Thread {
            control,
            actor,
            aid,
            clock,
            names,
            signals,
            signals_seen: 0,
            suspension,
            up_inbox,
            up_pulse,
            is_far,
            kids: HashMap::new(),
            descendants: HashMap::new(),
            next_descendant: 0,
            unfound: Vec::new(),
            unknown: Vec::new(),
            waiting: Vec::new(),
            obituaries: Obituaries::default(),
            looks: Vec::new(),
            catching_up: Vec::new(),
            starting: None,
            tended: Tended::default(),
            parent,
            own: Own::default(),
            threads: None,
            is_stopping: false,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        self.on_commands(); // this thread may be late: there may be children already
        self.on_up(); // what came with the handshake
        self.threads = self.control.up.as_ref().and_then(|_| Threads::of_this_process());
        while !(self.is_stopping && self.kids.is_empty()) {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.control.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("epoll_wait on our own descriptor: {error}"),
            }
            // Always, and first: what was booked comes before what it leads to.
            self.on_commands();
            self.on_suspension();
            for event in &events {
                match Token::decode(event.data) {
                    Token::Commands => {}
                    Token::Signals => self.on_signals(),
                    Token::Up => self.on_up(),
                    Token::Line(key) => self.on_line(key),
                    Token::Process(key) => self.on_process(key),
                    Token::Descendant(key) => self.on_descendant(key),
                    Token::Debug => self.on_debug(),
                    Token::Parent => self.on_parents_end(),
                    Token::Peer(key) => self.tended.on_end(key),
                }
            }
            // A child that was booked when we looked at ours for the last time would miss their cancel.
            self.on_commands();
            self.look_again();
            self.catch_up();
            self.on_timers();
            self.on_datagrams();
        }
        self.suspension = None;
        // One that came while the last things were being put away still ends the program.
        if let Some(actor) = self.actor.upgrade()
            && let Some(signal) = self.signals.end().iter().find(|signal| **signal != libc::SIGUSR1)
        {
            actor.interrupted(*signal);
        }
    }

    /// How long to wait at most.
    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let left = self.next_timer().map(|at| at.saturating_duration_since(self.clock.now()));
        // While the clock stands nothing of its becomes due, and its going on wakes us.
        let by_clock = left.filter(|left| left.is_zero() || !self.clock.is_held());
        let by_line = self.next_datagram().map(|at| at.saturating_duration_since(Instant::now()));
        rustix::event::Timespec::try_from(by_clock.into_iter().chain(by_line).min()?).ok()
    }

    /// Control lines that go by datagrams.
    fn timed_lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        let of_kids = self.kids.values().filter_map(|kid| kid.line.as_ref()).map(|(line, _)| line);
        of_kids.chain(self.control.up.as_ref()).filter(|line| line.is_timed())
    }

    /// When something of them is due, by the time of the machine.
    fn next_datagram(&self) -> Option<Instant> {
        let lines = self.timed_lines().filter_map(|line| line.deadline());
        lines.chain(self.tended.next_deadline()).min()
    }

    fn on_datagrams(&mut self) {
        let now = Instant::now();
        let is_due = |line: &Line| line.is_timed() && line.deadline().is_some_and(|at| at <= now);
        let of_kids = self.kids.iter().filter(|(_, kid)| kid.line.as_ref().is_some_and(|(line, _)| is_due(line)));
        for key in of_kids.map(|(key, _)| *key).collect::<Vec<_>>() {
            if let Some((line, _)) = self.kids.get(&key).and_then(|kid| kid.line.as_ref()) {
                line.on_time();
            }
            self.on_line(key); // what is due may be its end
        }
        if let Some(up) = self.control.up.clone().filter(|up| is_due(up)) {
            up.on_time();
            self.on_up();
        }
        self.tended.on_time();
    }

    /// The parent's process has ended, and what it had said before is read.
    fn on_parents_end(&mut self) {
        if let Some(parent) = self.parent.take() {
            let _ = epoll::delete(&self.control.epoll, &parent); // it was added when it was opened
            self.on_up();
            self.leave_parent();
        }
    }

    /// Has this thread look at its timers.
    fn waker(control: &Arc<Control>) -> impl Fn() + Send + Sync + 'static {
        let control = Arc::downgrade(control);
        move || {
            if let Some(control) = control.upgrade() {
                control.wake();
            }
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let kids = self.kids.values().filter_map(Kid::next_deadline);
        let own = [
            self.own.kill_at,
            self.own.stuck_at,
            self.own.verdict_at.map(|(at, _)| at),
            self.own.die_at.map(|(at, _)| at),
            self.starting.map(|starting| starting.look_at),
            self.up_pulse.as_ref().map(Pulse::next_deadline),
        ];
        kids.chain(own.into_iter().flatten()).min()
    }

    fn on_timers(&mut self) {
        if self.next_timer().is_none_or(|at| at > self.clock.now()) {
            return;
        }
        self.on_up(); // we may have been stopped, and be told only now for how long
        let now = self.clock.now();
        if let Some(starting) = self.starting.as_mut().filter(|starting| starting.look_at <= now) {
            starting.look(now, |pid| self.kids.values().any(|kid| kid.child.aid.pid() == pid));
        }
        self.on_pulses();
        let patience = self.patience(now);
        let (mut unheard, mut silent) = (Vec::new(), Vec::new());
        for (key, kid) in &mut self.kids {
            if kid.next_deadline().is_some_and(|at| at <= now) {
                kid.on_timeout(now, &self.aid, patience);
                silent.extend(Some(*key).filter(|_| kid.last_words_by.is_some()));
                unheard.extend(Some(*key).filter(|_| kid.is_reaped && kid.line.is_some()));
            }
        }
        for key in unheard {
            self.give_up(key);
        }
        for key in silent {
            self.reap(key);
        }
        if let Some((at, signal)) = self.own.verdict_at
            && at <= now
        {
            self.own.verdict_at = None;
            if let Some(actor) = self.actor.upgrade() {
                actor.ends_by(signal);
                // Before all that its end leads to, which may lead the parent to ask for it.
                let _ = self.control.send_up(&Frame::Signalled { signal });
                let grace = actor.settings.grace;
                // The parent waits for its end and does not hurry it: nobody of ours has asked.
                self.own.die_at = Some((now + grace, signal));
                self.end_self(Canceller { aid: self.aid.clone(), request: CancelRequest::Signal(signal) }, grace);
            }
        }
        if self.own.stuck_at.is_some_and(|at| at <= now) {
            self.own.stuck_at = None;
            if let (Some(actor), Some(debugger)) = (self.actor.upgrade(), crash::debugger()) {
                debugger.tell_stuck(&actor);
            }
        }
        if let Some((_, signal)) = self.own.die_at.filter(|(at, _)| *at <= now) {
            // What leads to other hosts has said over there what it could.
            self.kids.values().filter(|kid| kid.child.is_far && !kid.is_reaped).for_each(Kid::kill_group);
            crate::actor::signals::die_by(signal);
        }
        if self.own.kill_at.is_some_and(|at| at <= now) {
            // Nobody is left to kill us, and our time is over: stuck tasks go with the process.
            if let Some(group) = rustix::process::getpgrp().into() {
                let is_ours = rustix::process::getpid() == group;
                if is_ours {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
            }
            crate::actor::signals::exit_now(137);
        }
    }

    /// Heartbeats, and who has given none.
    fn on_pulses(&mut self) {
        let now = self.clock.now();
        let is_due = |pulse: Option<&Pulse>| pulse.is_some_and(|pulse| pulse.next_deadline() <= now);
        let due = self.kids.iter().filter(|(_, kid)| is_due(kid.pulse.as_ref()));
        let keys: Vec<u64> = due.map(|(key, _)| *key).collect();
        for key in keys {
            self.on_line(key); // what has come counts, whatever woke us first
            let Some(kid) = self.kids.get_mut(&key) else { continue };
            let (Some(pulse), Some((line, _))) = (&mut kid.pulse, &kid.line) else { continue };
            match pulse.on_timeout(now) {
                Due::Nothing => {}
                Due::Beat { late } => self.control.beat(line, late, || self.clock.is_held()),
                // It is seen, and says nothing since somebody has stopped it.
                Due::Lost { .. } if !line.is_remote() && datagrams::is_stopped(&kid.child.aid) => pulse.on_heard(now),
                Due::Lost { silent } => self.host_lost(key, silent),
            }
        }
        // What the parent has said has been read.
        let (Some(pulse), Some(up)) = (&mut self.up_pulse, &self.control.up) else { return };
        match pulse.on_timeout(now) {
            Due::Nothing => {}
            Due::Beat { late } => self.control.beat(up, late, || self.clock.is_held()),
            Due::Lost { .. } if !up.is_remote() && self.is_parent_stopped() => {
                if let Some(pulse) = &mut self.up_pulse {
                    pulse.on_heard(now);
                }
            }
            Due::Lost { .. } => self.leave_parent(),
        }
    }

    /// Of a parent on this host, whose line does not tell.
    fn is_parent_stopped(&self) -> bool {
        if self.parent.is_none() {
            return false;
        }
        let actor = self.actor.upgrade();
        actor.as_ref().and_then(|actor| actor.parent.as_ref()).is_some_and(|parent| datagrams::is_stopped(&parent.aid))
    }

    /// A child on another host has come to its heartbeat so late. It is not for this thread to log that.
    fn is_late(&self, aid: Aid, late: Duration) {
        if let Some(actor) = self.actor.upgrade() {
            actor.spawn_driver(async move {
                tracing::warn!(
                    target: "teamster::control", actor = %aid, late_ms = late.as_millis(),
                    "an actor on another host is late: it has not run for that long, and is waited for"
                );
            });
        }
    }

    /// A child's host, or the way there, has been silent for too long.
    fn host_lost(&mut self, key: u64, silent: Duration) {
        let Some(kid) = self.kids.get_mut(&key) else { return };
        let Some((line, _)) = kid.line.take() else { return };
        line.close();
        kid.pulse = None;
        kid.was_silent(silent);
        if let Some(channel) = kid.child.channel.get() {
            channel.close(LineEnd::Io("its host is silent".to_owned()));
        }
        self.line_lost(key);
    }

    /// A child on another host has not ended in its time, and what led there has: it ends by itself, as it loses us.
    fn give_up(&mut self, key: u64) {
        if let Some((line, _)) = self.kids.get_mut(&key).and_then(|kid| kid.line.take()) {
            line.close();
        }
        self.settle(key, None);
    }

    fn on_commands(&mut self) {
        for command in self.control.take() {
            match command {
                Command::Starting(starting) => self.starting = Some(starting),
                Command::NotStarted => self.starting = None,
                Command::Watch { child, pidfd, listed, is_watched, boot_by, boot_within } => {
                    let kid = Kid::new(child, pidfd, listed, boot_by, boot_within);
                    let starting = self.starting.take();
                    if starting.is_some_and(|starting| starting.continued != suspend::times_continued()) {
                        // Those above knew of it before we did, and stopped it with all others.
                        suspend::continue_with(|| kid.go_on());
                    }
                    self.adopt(kid, is_watched);
                }
                Command::Attach { child, line, inbox } => {
                    let key = child.key;
                    let Some(kid) = self.kids.get_mut(&key) else {
                        line.close(); // it has ended meanwhile
                        continue;
                    };
                    let control = Arc::downgrade(&self.control);
                    line.on_blocked(move || {
                        if let Some(control) = control.upgrade() {
                            control.send(Command::Blocked { child: Some(key) });
                        }
                    });
                    line.on_due(Self::waker(&self.control));
                    kid.is_on_network = line.is_on_network();
                    kid.pulse = self.control.pulse_of(&line, self.clock.now(), kid.child.lost_after);
                    kid.line = Some((line, inbox));
                    if kid.escalation.was_asked() {
                        kid.repeat_cancel(self.clock.now());
                    }
                    self.on_line(key);
                }
                Command::Tend { line, lost_after } => self.tended.add(&line, lost_after, &self.control.epoll),
                Command::GetsOn { child, at } => {
                    if let Some(kid) = self.kids.get_mut(&child.key) {
                        kid.boot_by = kid.boot_by.map(|_| at + kid.boot_within);
                    }
                }
                Command::Ready { child } => {
                    if let Some(kid) = self.kids.get_mut(&child.key) {
                        kid.boot_by = None;
                        self.look_behind(&child);
                    }
                }
                Command::Cancel { child, canceller, grace, asked_at, is_sent } => {
                    if is_sent && !child.was_reached.load(Ordering::Acquire) && self.ended_unheard(child.key) {
                        continue; // it has died by itself, not because we ask now
                    }
                    // It may have said that it ends by itself, before its end by the data line led to this.
                    self.on_line(child.key);
                    if let Some(kid) = self.kids.get_mut(&child.key) {
                        kid.cancel(asked_at, &canceller, grace, is_sent);
                    }
                }
                Command::Blocked { child } => self.await_room(child),
                Command::LineBroken { child } => {
                    let (now, canceller) =
                        (self.clock.now(), Canceller { aid: self.aid.clone(), request: CancelRequest::Dropped });
                    if let Some(kid) = self.kids.get_mut(&child.key).filter(|kid| !kid.is_reaped) {
                        kid.end_unasked(now, &canceller);
                    }
                }
                Command::EndOther { aid, canceller, told } => {
                    self.wait_for(Word::Gone, &aid, told);
                    self.end_other(aid, canceller);
                }
                Command::AskObituary { aid, told } => {
                    self.wait_for(Word::Obituary, &aid, told);
                    self.ask_obituary(self.aid.clone(), aid, CameFrom::Here);
                }
                Command::Dump { id } => self.dump_below(id),
                Command::Loads { asked } => self.ask_loads(&asked),
                Command::Stuck { child, text, more } => {
                    if let Some(kid) = self.kids.get_mut(&child) {
                        kid.on_stuck(self.clock.now(), text, more);
                    }
                }
                Command::EndSelf { canceller, grace } => self.end_self(canceller, grace),
                Command::ParentLost => self.parent_lost(),
                Command::CatchUp { told } => self.catching_up.push(told),
                Command::Stop => self.is_stopping = true,
            }
        }
    }

    /// Somebody has stopped, or wants a look.
    fn on_debug(&self) {
        if let Some(listener) = self.control.take_debug()
            && let Some(actor) = self.actor.upgrade()
            && let Some(debugger) = crash::debugger()
        {
            debugger.open(&actor, listener);
        }
    }

    /// Waits for room on a line, from now on: it has been full once.
    fn await_room(&self, child: Option<u64>) {
        let (line, token) = match child {
            None => (self.control.up.as_ref(), Token::Up),
            Some(key) => {
                (self.kids.get(&key).and_then(|kid| kid.line.as_ref()).map(|(line, _)| line), Token::Line(key))
            }
        };
        if let Some(line) = line {
            // A line that is gone by now has nothing left to send.
            let events = line_events() | epoll::EventFlags::OUT;
            let _ = line.with_fd(|fd| epoll::modify(&self.control.epoll, fd, token.encode(), events));
        }
    }

    /// A child's grace: what was asked, but never more than its share of what this actor has left.
    fn own_share(&self, grace: Duration) -> Duration {
        let left = self.actor.upgrade().and_then(|actor| actor.ends_within(self.clock.now()));
        left.map_or(grace, |left| grace.min(childs_share(left)))
    }

    /// Whether a child has ended without having heard a request of ours. All that it said before
    /// its end is read after the look at that, so an acknowledgement is not missed.
    fn ended_unheard(&mut self, key: u64) -> bool {
        let has_ended = self.kids.get(&key).is_some_and(Kid::has_ended);
        self.on_line(key);
        has_ended && self.kids.get(&key).is_some_and(|kid| !kid.has_acknowledged)
    }

    // ---- children

    fn adopt(&mut self, mut kid: Kid, is_watched: bool) {
        if !is_watched {
            // Out of memory or over the user's limit of epoll watches: a child that we can't
            // watch is not kept. It is killed here and reaped by a blocking wait, which is short.
            kids::kill(&kid.pidfd, rustix::process::Signal::KILL);
            let key = kid.child.key;
            let ended = loop {
                match kid.try_reap(self.clock.now(), self.names.as_deref()) {
                    Some(ended) => break ended,
                    None => std::thread::yield_now(),
                }
            };
            self.kids.insert(key, kid);
            self.settle(key, Some(ended));
            return;
        }
        if let Some(actor) = self.actor.upgrade()
            && actor.is_cancelled()
            && !kid.child.is_shielded
            && let Some(canceller) = actor.canceller()
        {
            let share = actor.ends_within(self.clock.now()).map_or(kid.child.grace, childs_share);
            kid.cancel(self.clock.now(), &canceller, share.min(kid.child.grace), false);
        }
        self.kids.insert(kid.child.key, kid);
    }

    fn on_line(&mut self, key: u64) {
        let Some(kid) = self.kids.get_mut(&key) else { return };
        let Some((line, mut inbox)) = kid.line.take() else { return };
        let _ = line.flush(); // a broken line shows as its end below
        let rest = line.read(&mut inbox);
        let mut frames: Vec<Received> = Vec::new();
        let is_broken = inbox.drain(|frame| frames.extend(Received::of(frame))).is_err();
        let child = Arc::clone(&kid.child);
        if let Some(pulse) = kid.pulse.as_mut().filter(|_| !frames.is_empty()) {
            pulse.on_heard(self.clock.now());
        }
        if is_broken || rest == Rest::Ended {
            line.close(); // nobody watches it any more then, either
            kid.pulse = None;
        } else {
            kid.line = Some((line, inbox));
        }
        for frame in frames {
            self.on_frame(key, &child, frame);
        }
        if is_broken || rest == Rest::Ended {
            self.line_lost(key);
        }
        if self.kids.get(&key).is_some_and(|kid| kid.last_words_by.is_some()) {
            self.reap(key);
        }
    }

    /// The control line of a living child has ended. Mostly its process is ending; if it is not,
    /// nobody could end it any more: it has its grace for that.
    fn line_lost(&mut self, key: u64) {
        let now = self.clock.now();
        let Some(kid) = self.kids.get_mut(&key) else { return };
        kid.held = None; // it saw the same end of line
        if kid.is_reaped {
            self.settle(key, None); // that was the last of one on another host
        } else if !kid.escalation.was_asked() {
            kid.end_by_itself(now);
        }
    }

    fn on_frame(&mut self, key: u64, child: &Arc<Child>, frame: Received) {
        let now = self.clock.now();
        match frame {
            Received::Cancel { dialog, canceller } => {
                let Some(channel) = child.channel.get() else { return };
                let Ok(state) = channel.on_cancel(dialog, &canceller) else { return };
                if let Some((line, _)) = self.kids.get(&key).and_then(|kid| kid.line.as_ref()) {
                    let _ = line.send(&Frame::CancelAck { dialog, state });
                }
            }
            Received::CancelAck { dialog } => {
                let Some(kid) = self.kids.get_mut(&key) else { return };
                if dialog == 0 {
                    kid.has_acknowledged = true;
                    kid.escalation.on_ack(now);
                } else if let Some(channel) = kid.child.channel.get() {
                    channel.on_cancel_ack(dialog);
                }
            }
            Received::Spawning => {
                if let Some(kid) = self.kids.get_mut(&key) {
                    kid.may_leave_unrecorded = true;
                }
            }
            Received::Hold { on } => {
                if let Some(kid) = self.kids.get_mut(&key).filter(|kid| kid.line.is_some()) {
                    kid.held = on.then(|| Held::on(&self.clock));
                }
            }
            Received::SpawnRecord { record, start_ticks } => self.record(key, record, start_ticks),
            Received::Gone { aid } => self.gone(key, &aid),
            Received::Ready { aid, addrs } => self.ready(&aid, &addrs),
            Received::TasksGone => {
                if let Some(kid) = self.kids.get_mut(&key) {
                    kid.escalation.on_tasks_gone(now);
                    kid.may_leave_unrecorded = false;
                    kid.prepare_end(&self.control.epoll);
                }
            }
            Received::Signalled { signal } => {
                if let Some(kid) = self.kids.get_mut(&key) {
                    if kid.escalation.was_asked() {
                        kid.repeat_cancel(now);
                    } else {
                        kid.on_signalled(signal);
                    }
                }
            }
            Received::EndAsked { canceller } => {
                // Its grace counts for this end as for every other: nobody else would kill it.
                let grace = self.own_share(child.grace);
                if let Some(kid) = self.kids.get_mut(&key).filter(|kid| !kid.is_reaped) {
                    kid.ends(now, &canceller, grace);
                }
            }
            Received::Stuck { places } => {
                if let (Some(kid), Some(actor), Some(debugger)) =
                    (self.kids.get_mut(&key), self.actor.upgrade(), crash::debugger())
                {
                    kid.awaits_names = true;
                    debugger.name_stuck(&actor, key, places);
                }
            }
            Received::Load { id, load: Some(load) } => self.on_load(id, &load),
            Received::Beat { late, is_held } => {
                let pulse = self.kids.get_mut(&key).and_then(|kid| kid.pulse.as_mut());
                if pulse.is_some_and(|pulse| pulse.on_beat(now, late, is_held)) {
                    self.is_late(child.aid.clone(), late);
                }
            }
            Received::Load { load: None, .. } => {} // it only comes from above
            Received::Dump { .. } => {}             // it only comes from above
            Received::Stood { .. } => {}            // it only comes from above
            Received::End { aid, canceller } => self.end_other(aid, canceller),
            Received::Ended { to, aid, receipt } => {
                if let Some(kid) = self.kids.get_mut(&key) {
                    kid.askers_below.retain(|(asker, about)| (asker, about) != (&to, &aid));
                }
                self.tell(Word::Gone, to, aid, receipt, CameFrom::Child(key));
            }
            Received::ObituaryAsked { to, aid } => self.ask_obituary(to, aid, CameFrom::Child(key)),
            Received::Obituary { to, aid, receipt } => {
                self.tell(Word::Obituary, to, aid, receipt, CameFrom::Child(key));
            }
        }
    }

    /// The children say what they do, for a dump of the root, and pass that on.
    fn dump_below(&self, id: u64) {
        for (line, _) in self.kids.values().filter_map(|kid| kid.line.as_ref()) {
            // Of one whose line is broken the root knows soon that it has ended.
            let _ = line.send(&Frame::Dump { id });
        }
    }

    /// Everybody is asked how much there is to do, and this root knows it of itself.
    fn ask_loads(&mut self, asked: &Arc<Loads>) {
        self.looks.retain(|look| look.strong_count() > 0);
        self.looks.push(Arc::downgrade(asked));
        if let Some(actor) = self.actor.upgrade() {
            asked.add(actor.load());
        }
        self.ask_loads_below(asked.id);
    }

    fn ask_loads_below(&self, id: u64) {
        for (line, _) in self.kids.values().filter_map(|kid| kid.line.as_ref()) {
            // Of one whose line is broken nothing more is heard.
            let _ = line.send(&Frame::Load { id, load: None });
        }
    }

    /// An actor further down has told its load: the root collects them.
    fn on_load(&self, id: u64, load: &[u8]) {
        if self.control.up.is_some() {
            // A parent whose line is broken is gone, and the root with it.
            let _ = self.control.send_up(&Frame::Load { id, load: Some(load) });
        } else if let Some(asked) = self.looks.iter().filter_map(Weak::upgrade).find(|asked| asked.id == id)
            && let Some(load) = Load::decode(load)
        {
            asked.add(load);
        }
    }

    /// Ends `aid`, wherever in the tree it is.
    fn end_other(&mut self, aid: Aid, canceller: Canceller) {
        if !self.end_below(&aid, &canceller) {
            self.unfound.push((aid, canceller));
        }
    }

    /// Whoever asks for an actor may have heard of it before we have: its record is on
    /// another line, or its start in the queue. What was not found is looked for once more.
    fn look_again(&mut self) {
        while !self.unfound.is_empty() || !self.unknown.is_empty() {
            let unfound = std::mem::take(&mut self.unfound);
            let unknown = std::mem::take(&mut self.unknown);
            self.on_commands();
            let keys: Vec<u64> = self.kids.keys().copied().collect();
            for key in keys {
                self.on_line(key);
            }
            for (aid, canceller) in unfound {
                if !self.end_below(&aid, &canceller) {
                    self.end_above(aid, canceller);
                }
            }
            for (to, aid, from) in unknown {
                if !self.ask_below(&to, &aid) {
                    self.ask_above(to, aid, from);
                }
            }
        }
    }

    /// The root's terminal stops it, or has done so and somebody has it go on: so does all that is below.
    fn on_suspension(&mut self) {
        let Some(suspension) = &mut self.suspension else { return };
        if let Some(stood) = suspension.was_continued() {
            self.tell_how_long(u64::try_from(stood.as_nanos()).unwrap_or(u64::MAX));
            suspend::continue_with(|| self.kids.values().for_each(Kid::go_on));
            self.control.beat_everywhere(|| self.clock.is_held());
        }
        if self.suspension.as_mut().is_some_and(Suspension::is_to_stop) {
            // Records of processes may have come that are in no list yet.
            let keys: Vec<u64> = self.kids.keys().copied().collect();
            for key in keys {
                self.on_line(key);
            }
            // Those on other hosts go on, and are not to give us up.
            self.control.beat_everywhere(|| true);
            suspend::is_ready_to_stop();
        }
    }

    /// Tells the children for how long they have stood, before they go on: no time of theirs is over by that.
    fn tell_how_long(&self, nanos: u64) {
        for (line, _) in self.kids.values().filter_map(|kid| kid.line.as_ref()) {
            // A broken line has ended that child.
            let _ = line.send(&Frame::Stood { nanos });
        }
    }

    /// All that had come from the parent when somebody asked is read.
    fn catch_up(&mut self) {
        if !self.catching_up.is_empty() {
            self.on_up();
        }
        for told in self.catching_up.drain(..) {
            // Whoever no longer waits is not told.
            let _ = told.send(());
        }
    }

    /// The child that an actor is, or is below of, as far as both live.
    fn way_to(&self, uuid: Uuid) -> Option<u64> {
        let is_it_or_above = |kid: &Kid| kid.child.aid.uuid() == uuid || kid.below.values().any(|below| below.is(uuid));
        self.kids.iter().find(|(_, kid)| is_it_or_above(kid)).map(|(key, _)| *key)
    }

    /// Ends `aid` if it is a child, or passes the request down to the one that it is below of.
    /// Whether it is either.
    fn end_below(&mut self, aid: &Aid, canceller: &Canceller) -> bool {
        let is_it = |kid: &Kid| kid.child.aid.uuid() == aid.uuid();
        let now = self.clock.now();
        let Some(key) = self.way_to(aid.uuid()) else { return false };
        let grace = self.kids.get(&key).map(|kid| self.own_share(kid.child.grace)).unwrap_or_default();
        match self.kids.get_mut(&key) {
            Some(kid) if is_it(kid) => {
                if !kid.askers.contains(&canceller.aid) {
                    kid.askers.push(canceller.aid.clone());
                }
                kid.cancel(now, canceller, grace, false);
            }
            Some(Kid { line: Some((line, _)), askers_below, .. }) => {
                let asked = (canceller.aid.clone(), aid.clone());
                if !askers_below.contains(&asked) {
                    askers_below.push(asked);
                }
                // A broken line has ended that child, and with it what is below.
                let _ = line.send(&Frame::End { aid: aid.clone(), canceller: canceller.clone() });
            }
            // Nobody is left who could pass it on, and what is below ends with that child.
            Some(kid) => kid.askers_below.push((canceller.aid.clone(), aid.clone())),
            None => {}
        }
        true
    }

    /// `aid` is not below: it is this root, or somewhere else in the tree, or in none of ours.
    fn end_above(&mut self, aid: Aid, canceller: Canceller) {
        if self.control.up.is_some() {
            // A parent whose line is broken is gone, and the tree with it.
            let _ = self.control.send_up(&Frame::End { aid, canceller });
        } else if aid.uuid() == self.aid.uuid()
            && let Some(actor) = self.actor.upgrade()
        {
            self.end_self(canceller, actor.settings.grace);
        } else {
            self.tell(Word::Gone, canceller.aid, aid, None, CameFrom::Here);
        }
    }

    fn wait_for(&mut self, word: Word, aid: &Aid, told: oneshot::Sender<Option<Receipt>>) {
        self.waiting.retain(|(.., told)| !told.is_closed());
        self.waiting.push((word, aid.uuid(), told));
    }

    /// `to` has lost its dialogs with `aid`, whose process has ended: its parent knows how.
    fn ask_obituary(&mut self, to: Aid, aid: Aid, from: CameFrom) {
        if !self.ask_below(&to, &aid) {
            self.unknown.push((to, aid, from));
        }
    }

    /// Tells `to` how `aid` has ended if that was a child, or will as soon as it is reaped, or asks the child that it
    /// was below of. Whether it is either.
    fn ask_below(&mut self, to: &Aid, aid: &Aid) -> bool {
        let uuid = aid.uuid();
        let key = match (self.way_to(uuid), self.obituaries.find(uuid)) {
            (_, Some(Remembered::Child(receipt))) => {
                let receipt = Some(receipt.clone());
                self.tell(Word::Obituary, to.clone(), aid.clone(), receipt, CameFrom::Here);
                return true;
            }
            (Some(key), _) => key,
            (None, Some(Remembered::Below(key))) => *key,
            (None, None) => return false,
        };
        match self.kids.get_mut(&key) {
            Some(kid) if kid.child.aid.uuid() == uuid => {
                if !kid.mourners.contains(to) {
                    kid.mourners.push(to.clone());
                }
            }
            Some(Kid { line: Some((line, _)), .. }) => {
                // A broken line has ended that child: nobody answers then.
                let _ = line.send(&Frame::ObituaryAsked { to: to.clone(), aid: aid.clone() });
            }
            // Whoever knew it is gone too.
            Some(_) | None => self.tell(Word::Obituary, to.clone(), aid.clone(), None, CameFrom::Here),
        }
        true
    }

    /// `aid` was not below: those above are asked, unless it is they who ask.
    fn ask_above(&mut self, to: Aid, aid: Aid, from: CameFrom) {
        if from == CameFrom::Parent || self.control.up.is_none() {
            return self.tell(Word::Obituary, to, aid, None, CameFrom::Here);
        }
        let asked = Frame::ObituaryAsked { to: to.clone(), aid: aid.clone() };
        if self.control.send_up(&asked).is_err() {
            self.tell(Word::Obituary, to, aid, None, CameFrom::Parent); // that one is gone
        }
    }

    /// Tells the actor that had asked about `aid`, wherever in the tree it is. A word never goes
    /// back to where it came from: whoever sent it did not find that actor.
    fn tell(&mut self, word: Word, to: Aid, aid: Aid, receipt: Option<Box<Receipt>>, from: CameFrom) {
        if to == self.aid {
            return self.tell_here(word, &aid, receipt.as_deref());
        }
        let below = self.kids.iter().find(|(key, kid)| {
            let is_below = kid.child.aid == to || kid.below.values().any(|below| below.is(to.uuid()));
            is_below && from != CameFrom::Child(**key)
        });
        // A line that is broken has ended whoever it led to.
        match below.map(|(_, kid)| &kid.line) {
            Some(Some((line, _))) => drop(line.send(&word.frame(to, aid, receipt))),
            Some(None) => {}
            None if from == CameFrom::Parent => {}
            // Somebody outside of the tree, on whose behalf this root has asked.
            None if self.control.up.is_none() => self.tell_here(word, &aid, receipt.as_deref()),
            None => drop(self.control.send_up(&word.frame(to, aid, receipt))),
        }
    }

    fn tell_here(&mut self, word: Word, aid: &Aid, receipt: Option<&Receipt>) {
        let is_it = |waits: &mut (Word, Uuid, _)| (waits.0, waits.1) == (word, aid.uuid());
        for (.., told) in self.waiting.extract_if(.., is_it) {
            // Whoever no longer waits is not told.
            let _ = told.send(receipt.cloned());
        }
    }

    /// A process further down exists: hold on to it, and tell those above.
    fn record(&mut self, key: u64, record: Record, start_ticks: u64) {
        let Record { ref aid, is_program } = record;
        // An ancestor whose line is broken sees our own end: nothing more can be told it.
        let _ = self.control.send_up(&Frame::SpawnRecord { aid: aid.clone(), start_ticks, is_program });
        let pidfd = match is_here(aid) {
            true => match kids::open_recorded(aid.pid(), start_ticks) {
                Some(pidfd) => Some(Arc::new(pidfd)),
                None => {
                    if !is_program {
                        self.obituaries.remember(aid.uuid(), Remembered::Below(key)); // it was quicker than its record
                    }
                    return;
                }
            },
            false => None,
        };
        let Some(kid) = self.kids.get_mut(&key) else { return };
        if let Some(names) = self.names.as_ref().filter(|_| !is_program) {
            names.born(aid, &kid.child.aid, start_ticks, pidfd.as_ref());
        }
        self.hold_on(key, Some(record), pidfd);
    }

    /// An actor further down is gone, on a host where we could not see that ourselves.
    fn gone(&mut self, key: u64, aid: &Aid) {
        let Some(kid) = self.kids.get_mut(&key) else { return };
        if let Some(descendant) = kid.below.iter().find(|(_, below)| below.is(aid.uuid())).map(|(key, _)| *key) {
            self.on_descendant(descendant);
        }
    }

    /// What was started is a program that stays, and the actor runs behind it: the child is gone when both are.
    fn look_behind(&mut self, child: &Child) {
        let itself = child.known_as();
        let Some(actor) = self.actor.upgrade().filter(|_| itself.pid() != child.aid.pid() && is_here(itself)) else {
            return; // in a container of its own its pid is another's here, and it dies with that container
        };
        if let Some(pidfd) = orphans::of(itself.pid(), &actor.lineage_of(&child.aid)) {
            self.hold_on(child.key, None, Some(Arc::new(pidfd)));
        }
    }

    /// The child is gone when this process is gone too.
    fn hold_on(&mut self, key: u64, record: Option<Record>, pidfd: Option<Arc<OwnedFd>>) {
        let Some(kid) = self.kids.get_mut(&key) else { return };
        let descendant = self.next_descendant;
        self.next_descendant += 1;
        let token = Token::Descendant(descendant).encode();
        let watch = |pidfd: &Arc<OwnedFd>| epoll::add(&self.control.epoll, pidfd.as_fd(), token, epoll::EventFlags::IN);
        if pidfd.as_ref().is_none_or(|pidfd| watch(pidfd).is_ok()) {
            let of_root = pidfd.as_ref().filter(|_| self.control.up.is_none());
            let listed = of_root.map(|pidfd| Listed::new(record.as_ref().map(|record| &record.aid), pidfd));
            kid.below.insert(descendant, Descendant { record, listed, pidfd });
            self.descendants.insert(descendant, key);
        }
    }

    /// A child has died in the middle of its work, and nothing lives of what it had recorded: what it was about to
    /// record, or what those below it were, is found by its lineage.
    fn look_for_unrecorded(&mut self, key: u64) {
        let Some(actor) = self.actor.upgrade() else { return };
        let Some(kid) = self.kids.get(&key).filter(|kid| kid.is_reaped && kid.may_leave_unrecorded) else { return };
        if kid.is_gone() {
            for pidfd in orphans::below(&actor.lineage_of(&kid.child.aid)) {
                self.hold_on(key, None, Some(Arc::new(pidfd)));
            }
            let now = self.clock.now();
            if let Some(kid) = self.kids.get_mut(&key).filter(|kid| !kid.is_gone()) {
                kid.below_until.get_or_insert(now); // where the time of those that were recorded is over, so is theirs
            }
        }
    }

    fn ready(&self, aid: &Aid, addrs: &Addrs) {
        let _ = self.control.send_up(&Frame::Ready { aid: aid.clone(), addrs: addrs.clone() });
        if let Some(names) = &self.names {
            names.ready(aid, addrs);
        }
    }

    fn on_process(&mut self, key: u64) {
        // A cancel that was sent by its asker is booked before the end that it led to.
        self.on_commands();
        // What it said before its end comes first: records, above all.
        self.on_line(key);
        self.reap(key);
    }

    fn reap(&mut self, key: u64) {
        let now = self.clock.now();
        let Some(kid) = self.kids.get_mut(&key) else { return };
        if kid.is_reaped {
            return;
        }
        if kid.awaits_last_words(now) {
            // It has nothing new to say, and would wake us until it is reaped.
            let _ = epoll::delete(&self.control.epoll, kid.pidfd.as_fd());
            return;
        }
        kid.last_words_by = None;
        if kid.may_have_heard() {
            self.on_line(key);
        }
        let Some(kid) = self.kids.get_mut(&key).filter(|kid| !kid.is_reaped) else { return };
        let left = if kid.child.is_program { left_to_us(&kid.child.aid) } else { Vec::new() };
        let Some(ended) = kid.try_reap(now, self.names.as_deref()) else { return };
        let _ = epoll::delete(&self.control.epoll, kid.pidfd.as_fd());
        if kid.child.is_far {
            kid.is_cut_off(&Canceller { aid: self.aid.clone(), request: CancelRequest::Failure });
        } else if let Some((line, _)) = kid.line.take() {
            line.close();
        }
        kid.held = None;
        kid.have_those_below_go_on(); // one that is stopped would not hear that its parent is gone
        let grace = kid.escalation.left(now).unwrap_or(kid.child.grace);
        kid.below_until = Some(now + grace);
        for pidfd in left {
            self.hold_on(key, None, Some(Arc::new(pidfd))); // it was killed, and the program is gone when it is
        }
        self.settle(key, Some(ended));
    }

    fn on_descendant(&mut self, descendant: u64) {
        let Some(key) = self.descendants.remove(&descendant) else { return };
        let Some(kid) = self.kids.get_mut(&key) else { return };
        if let Some(Descendant { record, listed, pidfd }) = kid.below.remove(&descendant) {
            drop(listed);
            let is_seen = pidfd.is_some();
            if let Some(pidfd) = pidfd {
                let _ = epoll::delete(&self.control.epoll, pidfd.as_fd());
                kid.ended_below(pidfd);
            }
            if let Some(record) = record {
                self.forget(key, record, is_seen);
            }
        }
        self.settle(key, None);
    }

    /// An actor below is gone. `is_seen`: whoever is on this host sees it too.
    fn forget(&mut self, key: u64, record: Record, is_seen: bool) {
        let Record { aid, is_program } = record;
        if !is_program {
            if let Some(names) = &self.names {
                names.gone(&aid);
            }
            self.obituaries.remember(aid.uuid(), Remembered::Below(key));
        }
        self.tell_gone(aid, is_seen);
    }

    /// Those above that can't see it hear that an actor is gone.
    fn tell_gone(&self, aid: Aid, is_seen: bool) {
        if self.is_far || !is_seen {
            // A parent whose line is broken is gone, and so are we in a moment.
            let _ = self.control.send_up(&Frame::Gone { aid });
        }
    }

    /// A child is gone when all that it had started is gone too. `ended`: its own end, that is still to be told.
    fn settle(&mut self, key: u64, ended: Option<Ended>) {
        self.look_for_unrecorded(key);
        let Some(kid) = self.kids.get_mut(&key).filter(|kid| kid.is_reaped) else { return };
        kid.reap_orphans();
        let (child, is_gone) = (Arc::clone(&kid.child), kid.is_gone());
        // On other hosts: they were seen to there, by those that are gone now.
        let below = if is_gone { std::mem::take(&mut kid.below) } else { HashMap::new() };
        for (descendant, below) in below {
            self.descendants.remove(&descendant);
            if let Some(record) = below.record {
                self.forget(key, record, false);
            }
        }
        let Some(kid) = self.kids.get_mut(&key) else { return };
        let mourners = std::mem::take(&mut kid.mourners);
        // The last descriptor of it is closed here, before anybody hears of the end.
        let askers = if is_gone { self.kids.remove(&key).map(|kid| (kid.askers, kid.askers_below)) } else { None };
        // Only this thread sets them, once each. Mostly both are set here, in the order in which whoever
        // waits for them wakes once.
        if is_gone {
            let _ = child.gone.set(());
        }
        if let Some(ended) = ended {
            let receipt = Box::new(ended.receipt.clone());
            let _ = child.reaped.set(ended);
            drop(child.leash.lock().take()); // after that, nobody sets it
            for mourner in mourners {
                let itself = child.known_as().clone();
                self.tell(Word::Obituary, mourner, itself, Some(receipt.clone()), CameFrom::Here);
            }
            if !child.is_program {
                self.obituaries.remember(child.aid.uuid(), Remembered::Child(receipt));
            }
        }
        let Some((askers, askers_below)) = askers else { return };
        self.tell_gone(child.known_as().clone(), true);
        self.control.one_gone();
        let receipt = child.reaped.get().map(|ended| Box::new(ended.receipt.clone()));
        for asker in askers {
            self.tell(Word::Gone, asker, child.known_as().clone(), receipt.clone(), CameFrom::Here);
        }
        for (asker, aid) in askers_below {
            self.tell(Word::Gone, asker, aid, None, CameFrom::Here); // it could not tell them itself
        }
    }

    // ---- this actor

    fn on_signals(&mut self) {
        for signal in self.signals.take() {
            let Some(actor) = self.actor.upgrade() else { continue };
            if signal == libc::SIGUSR1 {
                if let Some(debugger) = crash::debugger() {
                    debugger.asks_for_dump(&actor);
                }
                continue;
            }
            if self.control.up.is_none() {
                // At a prompt it is a slip of the finger: whoever means it says so there.
                let is_shielded =
                    signal == libc::SIGINT && crash::debugger().is_some_and(|debugger| debugger.shields_interrupt());
                if !is_shielded {
                    self.interrupt(&actor, signal);
                }
            } else if signal == libc::SIGINT && actor.settings.is_worker {
                // Somebody at a terminal means the program: its root decides.
            } else if !actor.is_cancelled() && self.own.verdict_at.is_none() {
                self.own.verdict_at = Some((self.clock.now() + VERDICT_WITHIN, signal));
                // A broken line says so by its end.
                let _ = self.control.send_up(&Frame::Signalled { signal });
            }
        }
    }

    /// The root got a signal: the first cancels the tree, the second leaves it no time.
    ///
    /// The first waits for whoever is held, as every cancel does. Nobody is waited for after a second one, and after a
    /// SIGHUP: the terminal is gone that could release them.
    fn interrupt(&mut self, actor: &Arc<Actor>, signal: i32) {
        self.signals_seen += 1;
        if self.signals_seen > 1 || signal == libc::SIGHUP {
            self.clock.void();
        }
        let canceller = Canceller { aid: self.aid.clone(), request: CancelRequest::Signal(signal) };
        match self.signals_seen {
            1 => {
                actor.interrupted(signal);
                self.end_self(canceller, actor.settings.grace);
            }
            2 => {
                let now = self.clock.now();
                for kid in self.kids.values_mut() {
                    kid.cancel(now, &canceller, Duration::ZERO, false);
                    for descendant in kid.below.values() {
                        descendant.signal(rustix::process::Signal::KILL);
                    }
                }
                // The root's own code is left the time to say what it has to, if it lets go at all.
                self.own.die_at = Some((now + LAST_WORDS, signal));
            }
            // The root's own code does not let go, and everything below is killed.
            _ => crate::actor::signals::die_by(signal),
        }
    }

    fn end_self(&mut self, canceller: Canceller, grace: Duration) {
        if let Some(actor) = self.flag_end(&canceller, grace) {
            if self.has_nothing_to_do(&actor) {
                crate::actor::boot::leave_at_once(&actor, &[Frame::TasksGone]);
            }
            self.end_tasks(&actor, &canceller, grace);
        }
    }

    /// The parent wants this actor to end. First the word that it was heard: a stuck runtime can't
    /// hold it up.
    fn end_for_parent(&mut self, canceller: &Canceller, grace: Duration) {
        self.own.verdict_at = None;
        let heard = Frame::CancelAck { dialog: 0, state: AckState::Asked };
        let actor = self.flag_end(canceller, grace);
        if let Some(actor) = &actor
            && self.has_nothing_to_do(actor)
        {
            crate::actor::boot::leave_at_once(actor, &[heard, Frame::TasksGone]);
        }
        // A parent whose line is broken is gone, which shows as its end.
        let _ = self.control.send_up(&heard);
        if let Some(actor) = actor {
            self.end_tasks(&actor, canceller, grace);
        }
    }

    fn flag_end(&mut self, canceller: &Canceller, grace: Duration) -> Option<Arc<Actor>> {
        let actor = self.actor.upgrade()?;
        let now = self.clock.now();
        actor.flag_cancelled(canceller, now + grace);
        if self.control.up.is_some() && !actor.is_orphaned() {
            let at = now + grace.saturating_sub(NOTICE.min(grace / 4));
            self.own.stuck_at = Some(self.own.stuck_at.map_or(at, |before| before.min(at)));
        }
        Some(actor)
    }

    /// How long a child whose time is over may go on to say where it is stuck. This actor's own time is not used up
    /// by that.
    fn patience(&self, now: Instant) -> Duration {
        let actor = self.actor.upgrade().filter(|actor| !actor.is_root());
        let left = actor.and_then(|actor| actor.ends_within(now));
        left.map_or(NAMES_WITHIN, |left| NAMES_WITHIN.min(left / 2))
    }

    /// Whether this process may end here and now.
    fn has_nothing_to_do(&self, actor: &Actor) -> bool {
        self.control.up.is_some()
            && self.kids.is_empty()
            && actor.has_nothing_to_do()
            && self.threads.as_ref().and_then(Threads::count) == Some(OWN_THREADS)
    }

    fn end_tasks(&mut self, actor: &Arc<Actor>, canceller: &Canceller, grace: Duration) {
        let now = self.clock.now();
        let share = if self.control.up.is_some() { childs_share(grace) } else { grace };
        for kid in self.kids.values_mut().filter(|kid| !kid.child.is_shielded) {
            let grace = share.min(kid.child.grace);
            kid.cancel(now, canceller, grace, false);
        }
        actor.wake_cancelled(canceller);
        if self.control.up.is_some() && !actor.is_orphaned() {
            // While its tasks wind down: nobody connects any more, and its parent has less to do. An
            // orphan's socket stays until its end: by that the next root finds it, if it stands still.
            let _ = std::fs::remove_file(actor.socket());
        }
    }

    fn on_up(&mut self) {
        let Some(up) = self.control.up.clone() else { return };
        let _ = up.flush();
        let rest = up.read(&mut self.up_inbox);
        let mut frames: Vec<Received> = Vec::new();
        let mut cancels = Vec::new();
        let is_broken = self
            .up_inbox
            .drain(|frame| match frame {
                Frame::Cancel { dialog: 0, grace_ms, canceller } => {
                    cancels.push((canceller, Duration::from_millis(grace_ms)))
                }
                frame => frames.extend(Received::of(frame)),
            })
            .is_err();
        let has_spoken = !frames.is_empty() || !cancels.is_empty();
        if let Some(pulse) = self.up_pulse.as_mut().filter(|_| has_spoken) {
            pulse.on_heard(self.clock.now());
        }
        for (canceller, grace) in cancels {
            self.end_for_parent(&canceller, grace);
        }
        for frame in frames {
            match frame {
                Received::Cancel { dialog, canceller } => {
                    if let Some(actor) = self.actor.upgrade() {
                        actor.on_parents_cancel(dialog, canceller);
                    }
                }
                Received::CancelAck { dialog } => {
                    if let Some(actor) = self.actor.upgrade()
                        && let Some(channel) = actor.parent_line()
                    {
                        channel.on_cancel_ack(dialog);
                    }
                }
                Received::End { aid, canceller } => {
                    let is_below = self.end_below(&aid, &canceller);
                    if !is_below {
                        self.tell(Word::Gone, canceller.aid, aid, None, CameFrom::Here); // it has ended meanwhile
                    }
                }
                Received::Dump { id } => {
                    self.dump_below(id);
                    if let (Some(actor), Some(debugger)) = (self.actor.upgrade(), crash::debugger()) {
                        debugger.dump(&actor, id);
                    }
                }
                Received::Load { id, load: None } => {
                    self.ask_loads_below(id);
                    if let Some(actor) = self.actor.upgrade() {
                        // A broken line says so by its end.
                        let _ = self.control.send_up(&Frame::Load { id, load: Some(&actor.load().encode()) });
                    }
                }
                Received::Beat { late, is_held } => {
                    if let Some(pulse) = &mut self.up_pulse {
                        pulse.on_beat(self.clock.now(), late, is_held);
                    }
                }
                Received::Stood { nanos } => {
                    suspend::has_stood(nanos);
                    self.on_commands(); // those who were started just before
                    self.tell_how_long(nanos);
                    self.kids.values().for_each(Kid::go_on);
                }
                Received::Ended { to, aid, receipt } => self.tell(Word::Gone, to, aid, receipt, CameFrom::Parent),
                Received::ObituaryAsked { to, aid } => self.ask_obituary(to, aid, CameFrom::Parent),
                Received::Obituary { to, aid, receipt } => {
                    self.tell(Word::Obituary, to, aid, receipt, CameFrom::Parent);
                }
                _ => {} // the rest only climbs
            }
        }
        if is_broken || rest == Rest::Ended {
            self.leave_parent();
        }
    }

    /// The line to the parent has ended, or leads to nobody any more.
    fn leave_parent(&mut self) {
        self.up_pulse = None;
        if let Some(up) = &self.control.up {
            let _ = up.with_fd(|fd| epoll::delete(&self.control.epoll, fd));
            up.close();
        }
        self.parent_lost();
    }

    /// The parent is gone: nobody else will end us.
    fn parent_lost(&mut self) {
        if self.own.kill_at.is_some() {
            return;
        }
        self.clock.void();
        let now = self.clock.now();
        let Some(actor) = self.actor.upgrade() else { return };
        let grace = actor.ends_within(now).unwrap_or(actor.settings.grace).min(actor.settings.grace);
        self.own.kill_at = Some(now + grace);
        self.kids.values().for_each(Kid::go_on); // our parent may have died while all were stopped
        actor.orphaned();
        if let Some(channel) = actor.parent_line() {
            // A parent that lives has lost its control line alone. It hears of our end by the end of this
            // one, and not from our tasks that they were cancelled: nobody over there has asked.
            channel.close(LineEnd::Eof);
        }
        self.end_self(Canceller { aid: self.aid.clone(), request: CancelRequest::ParentLost }, grace);
    }
}

/// A control frame, taken out of the buffer.
enum Received {
    Cancel { dialog: u64, canceller: Canceller },
    CancelAck { dialog: u64 },
    Dump { id: u64 },
    Load { id: u64, load: Option<Vec<u8>> },
    Stuck { places: Vec<u8> },
    SpawnRecord { record: Record, start_ticks: u64 },
    Gone { aid: Aid },
    Ready { aid: Aid, addrs: Addrs },
    Spawning,
    TasksGone,
    Hold { on: bool },
    Stood { nanos: u64 },
    Beat { late: Duration, is_held: bool },
    Signalled { signal: i32 },
    EndAsked { canceller: Canceller },
    End { aid: Aid, canceller: Canceller },
    Ended { to: Aid, aid: Aid, receipt: Option<Box<Receipt>> },
    ObituaryAsked { to: Aid, aid: Aid },
    Obituary { to: Aid, aid: Aid, receipt: Option<Box<Receipt>> },
}

/// What an actor is told of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It is gone, and all that it had started, as the actor has asked.
    Gone,
    /// How it ended.
    Obituary,
}

impl Word {
    fn frame(self, to: Aid, aid: Aid, receipt: Option<Box<Receipt>>) -> Frame<'static> {
        match self {
            Word::Gone => Frame::Ended { to, aid, receipt },
            Word::Obituary => Frame::Obituary { to, aid, receipt },
        }
    }
}

/// Where a word on somebody's end came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CameFrom {
    Here,
    Parent,
    Child(u64),
}

impl Received {
    fn of(frame: Frame<'_>) -> Option<Self> {
        Some(match frame {
            Frame::Cancel { dialog, canceller, .. } => Received::Cancel { dialog, canceller },
            Frame::CancelAck { dialog, .. } => Received::CancelAck { dialog },
            Frame::Dump { id } => Received::Dump { id },
            Frame::Load { id, load } => Received::Load { id, load: load.map(<[u8]>::to_owned) },
            Frame::Stuck { places } => Received::Stuck { places: places.to_owned() },
            Frame::SpawnRecord { aid, start_ticks, is_program } => {
                Received::SpawnRecord { record: Record { aid, is_program }, start_ticks }
            }
            Frame::Gone { aid } => Received::Gone { aid },
            Frame::Ready { aid, addrs } => Received::Ready { aid, addrs },
            Frame::Spawning => Received::Spawning,
            Frame::TasksGone => Received::TasksGone,
            Frame::Hold { on } => Received::Hold { on },
            Frame::Stood { nanos } => Received::Stood { nanos },
            Frame::Beat { late_ms, is_held } => Received::Beat { late: Duration::from_millis(late_ms), is_held },
            Frame::Signalled { signal } => Received::Signalled { signal },
            Frame::EndAsked { canceller } => Received::EndAsked { canceller },
            Frame::End { aid, canceller } => Received::End { aid, canceller },
            Frame::Ended { to, aid, receipt } => Received::Ended { to, aid, receipt },
            Frame::ObituaryAsked { to, aid } => Received::ObituaryAsked { to, aid },
            Frame::Obituary { to, aid, receipt } => Received::Obituary { to, aid, receipt },
            // Both ends are ours and of one build: anything else is a bug, not an event.
            _ => return None,
        })
    }
}

/// What a program that has ended leaves behind in its group, as far as that has become ours: we reap it, as nobody else would.
///
/// Only before the program is reaped: until then the group's number is its own.
fn left_to_us(program: &Aid) -> Vec<OwnedFd> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> = children
        .flat_map(|pids| pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let is_left =
        |pid: &u32| *pid != program.pid() && ProcessStat::read(*pid).is_some_and(|stat| stat.group == program.pid());
    pids.into_iter().filter(is_left).filter_map(|pid| kids::open_recorded(pid, 0)).collect()
}

/// Edge-triggered. Room is waited for only once there was none: the peer's every read would wake us.
pub(super) fn line_events() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET
}

/// The threads of a child that has no children: the one of its runtime, and its control thread.
const OWN_THREADS: u64 = 2;

/// How many threads this process has. Held open, as looking the folder up takes ten times as long
/// as asking it.
struct Threads(File);

impl Threads {
    fn of_this_process() -> Option<Self> {
        File::open("/proc/self/task").ok().map(Threads)
    }

    /// The folder's links, less `.` and `..`.
    fn count(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        self.0.metadata().ok().map(|folder| folder.nlink().saturating_sub(2))
    }
}
