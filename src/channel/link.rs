//! What is one context, seen from the line? Its state, and who waits for what in it.
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::LineEnd;
use crate::msg::frame::Stop;
use crate::proto::connection::{Left, Violation};
use crate::proto::dialog::{Dialog, Found, Misuse, Overruns, Role, Room};

/// One context on a line, on either side. The line's tables hold it until the dialog ends, the
/// user's handles as long as they like.
pub(crate) struct Link {
    /// Its number on the line.
    pub(crate) dialog: u64,
    /// The endpoint's path.
    pub(crate) path: &'static str,
    /// As the state says: for readers, who ask at every item.
    is_cancelled: AtomicBool,
    state: Mutex<State>,
}

struct State {
    dialog: Dialog<LinkEnd>,
    /// What the callee said first.
    first: Option<Bytes>,
    /// A long payload is on its way: the next one waits.
    is_sending_long: bool,
    /// When this side asked for its end, and how long after that the peer had heard it.
    asked_at: Option<Instant>,
    heard: Option<Duration>,
    wakers: Wakers,
}

#[derive(Default)]
struct Wakers {
    started: Vec<Waker>,
    reader: Vec<Waker>,
    writer: Vec<Waker>,
    end: Vec<Waker>,
}

/// How a context's callee ended.
#[derive(Clone, Debug)]
pub(crate) enum LinkEnd {
    /// The result's bytes.
    Returned(Bytes),
    /// The error's bytes.
    Failed(Bytes),
    /// The line was lost first; whether the Start had left.
    Lost(Left, LineEnd),
    /// On the callee's own side: its task is over.
    Here,
}

/// Wakers to wake when no lock is held.
#[derive(Default)]
pub(crate) struct Woken(pub(super) Vec<Waker>);

impl Drop for Woken {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// What to do with an item, once the state was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sendable {
    /// As the protocol says.
    Room(Room),
    /// A long one goes before it.
    Behind,
}

impl Link {
    pub(super) fn new(dialog: u64, path: &'static str, role: Role, overruns: Overruns) -> Self {
        Link {
            dialog,
            path,
            is_cancelled: AtomicBool::new(false),
            state: Mutex::new(State {
                dialog: Dialog::new(role, overruns),
                first: None,
                is_sending_long: false,
                asked_at: None,
                heard: None,
                wakers: Wakers::default(),
            }),
        }
    }

    // ---- for the user's handles

    /// The callee's first word, or how it ended without one.
    pub(crate) fn poll_first(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let mut state = self.state.lock();
        if let Some(first) = &state.first {
            return Poll::Ready(Ok(first.clone()));
        }
        if let Some(end) = state.dialog.tell_end() {
            return Poll::Ready(Err(end.clone()));
        }
        wait(&mut state.wakers.started, cx);
        Poll::Pending
    }

    /// The callee's first word, if it has come.
    pub(crate) fn first(&self) -> Option<Bytes> {
        self.state.lock().first.clone()
    }

    /// How it ended, for a user who knows it from now on. Repeatable.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        let mut state = self.state.lock();
        if let Some(end) = state.dialog.tell_end() {
            return Poll::Ready(end.clone());
        }
        wait(&mut state.wakers.end, cx);
        Poll::Pending
    }

    /// The same, for us alone.
    pub(crate) fn poll_watch(&self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        let mut state = self.state.lock();
        if let Some(end) = state.dialog.end() {
            return Poll::Ready(end.clone());
        }
        wait(&mut state.wakers.end, cx);
        Poll::Pending
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<LinkEnd> {
        self.state.lock().dialog.end().cloned()
    }

    /// Whether the user was told of its end.
    pub(crate) fn is_end_known(&self) -> bool {
        self.state.lock().dialog.is_end_known()
    }

    /// Whether this side has cancelled it.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn has_started(&self) -> bool {
        self.state.lock().dialog.has_started()
    }

    pub(crate) fn their_stop(&self) -> Option<Stop> {
        self.state.lock().dialog.their_stop()
    }

    /// Items that were dropped because nobody had read them in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.state.lock().dialog.dropped()
    }

    /// Resolves when no long payload is on its way.
    pub(crate) fn poll_long_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.is_sending_long {
            return Poll::Ready(());
        }
        wait(&mut state.wakers.writer, cx);
        Poll::Pending
    }

    /// `cx` is woken when an item may find more room than now.
    pub(crate) fn wait_for_room(&self, cx: &mut Context<'_>) {
        wait(&mut self.state.lock().wakers.writer, cx);
    }

    /// Its end is asked for on this side.
    pub(crate) fn asks(&self) {
        self.state.lock().asked_at.get_or_insert_with(Instant::now);
    }

    /// Whether its end was asked for on this side, for whomever.
    pub(crate) fn was_asked(&self) -> bool {
        self.state.lock().asked_at.is_some()
    }

    /// How long after this side's cancel the peer had acknowledged it.
    pub(crate) fn heard(&self) -> Option<Duration> {
        self.state.lock().heard
    }

    #[cfg(feature = "debug")]
    pub(crate) fn look(&self) -> crate::proto::dialog::Look {
        self.state.lock().dialog.look()
    }

    // ---- for the channel

    /// The peer has heard it.
    pub(super) fn on_cancel_ack(&self) {
        let mut state = self.state.lock();
        if let Some(asked_at) = state.asked_at {
            state.heard.get_or_insert_with(|| asked_at.elapsed());
        }
    }

    #[must_use = "a grant is to be sent"]
    pub(super) fn allow_overruns(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.dialog.allow_overruns();
        state.dialog.credit()
    }

    #[must_use = "a grant is to be sent"]
    pub(super) fn throw_away(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.dialog.throw_away();
        state.dialog.credit()
    }

    /// The first word may leave. Where it is a long one, items and the result wait for it.
    pub(super) fn start(&self, is_long: bool) -> Result<(), Misuse> {
        let mut state = self.state.lock();
        state.dialog.start()?;
        state.is_sending_long = is_long;
        Ok(())
    }

    /// Opens this side's stream: whether an Open is to be sent, and a grant with it.
    pub(super) fn open_stream(&self) -> Result<(bool, Option<u64>), Misuse> {
        let mut state = self.state.lock();
        state.dialog.open_stream()?;
        Ok((state.dialog.end().is_none(), state.dialog.credit()))
    }

    /// What Stop is to be sent, and a grant with it: what waits in front of it may need room.
    pub(super) fn stop(&self, how: Stop, woken: &mut Woken) -> (Option<Stop>, Option<u64>) {
        let mut state = self.state.lock();
        woken.0.append(&mut state.wakers.reader);
        (state.dialog.stop(how), state.dialog.credit())
    }

    /// Marks it as cancelled by this side, which reads no more.
    #[must_use = "a grant is to be sent"]
    pub(super) fn cancel(&self, woken: &mut Woken) -> Option<u64> {
        let mut state = self.state.lock();
        if state.dialog.cancel() {
            self.is_cancelled.store(state.dialog.is_cancelled(), Ordering::Release);
            woken.0.append(&mut state.wakers.reader);
            woken.0.append(&mut state.wakers.writer);
        }
        state.dialog.credit()
    }

    /// Asks for room for an item. Where it is a long one, the next ones wait for it. For those that follow
    /// a short one, some room is reserved along with it.
    pub(super) fn room(&self, bytes: usize, is_long: bool, reserved: &mut usize) -> Result<Sendable, Misuse> {
        let mut state = self.state.lock();
        if state.is_sending_long {
            return Ok(Sendable::Behind);
        }
        let room = state.dialog.room(bytes - *reserved)?;
        if room == Room::Now && !is_long {
            *reserved = state.dialog.reserve(RESERVED_BYTES);
        }
        state.is_sending_long = room == Room::Pieces || (room == Room::Now && is_long);
        Ok(Sendable::Room(room))
    }

    pub(super) fn room_for_piece(&self, wanted: usize) -> Option<usize> {
        self.state.lock().dialog.room_for_piece(wanted)
    }

    /// The long payload is out of our hands.
    pub(super) fn long_is_sent(&self, woken: &mut Woken) {
        let mut state = self.state.lock();
        state.is_sending_long = false;
        woken.0.append(&mut state.wakers.writer);
    }

    /// What there is to read, and the grant that follows from it.
    #[must_use = "a grant is to be sent"]
    pub(super) fn read(&self, cx: &mut Context<'_>) -> (Found, Option<u64>) {
        let mut state = self.state.lock();
        let found = state.dialog.read();
        let grant = state.dialog.credit();
        if found == Found::Nothing {
            wait(&mut state.wakers.reader, cx);
        }
        (found, grant)
    }

    pub(super) fn on_started(&self, first: Bytes, woken: &mut Woken) -> Result<Option<u64>, Violation> {
        let mut state = self.state.lock();
        state.dialog.on_started(self.dialog)?;
        state.first = Some(first);
        woken.0.append(&mut state.wakers.started);
        Ok(state.dialog.credit())
    }

    pub(super) fn on_open(&self, woken: &mut Woken) -> Result<(), Violation> {
        let mut state = self.state.lock();
        woken.0.append(&mut state.wakers.writer);
        state.dialog.on_open(self.dialog)
    }

    /// Whole items.
    pub(super) fn on_items(&self, items: Vec<u8>, woken: &mut Woken) -> Result<Option<u64>, Violation> {
        let mut state = self.state.lock();
        state.dialog.on_bytes(self.dialog, items.len(), false)?;
        state.dialog.on_items(items);
        woken.0.append(&mut state.wakers.reader);
        Ok(state.dialog.credit())
    }

    /// A piece of a long item.
    pub(super) fn on_piece(&self, bytes: usize) -> Result<Option<u64>, Violation> {
        let mut state = self.state.lock();
        state.dialog.on_bytes(self.dialog, bytes, true)?;
        Ok(state.dialog.credit())
    }

    /// The whole of it, whose pieces were told.
    #[must_use = "a grant is to be sent"]
    pub(super) fn on_long_item(&self, item: Vec<u8>, woken: &mut Woken) -> Option<u64> {
        let mut state = self.state.lock();
        state.dialog.on_items(item);
        woken.0.append(&mut state.wakers.reader);
        state.dialog.credit()
    }

    pub(super) fn on_stop(&self, how: Stop, woken: &mut Woken) -> Result<(), Violation> {
        let mut state = self.state.lock();
        state.dialog.on_stop(self.dialog, how)?;
        woken.0.append(&mut state.wakers.reader);
        woken.0.append(&mut state.wakers.writer);
        Ok(())
    }

    pub(super) fn on_credit(&self, up_to: u64, woken: &mut Woken) {
        let mut state = self.state.lock();
        state.dialog.on_credit(up_to);
        woken.0.append(&mut state.wakers.writer);
    }

    /// It has ended. The first end counts.
    pub(super) fn on_end(&self, end: LinkEnd, woken: &mut Woken) {
        let mut state = self.state.lock();
        let is_answer = !matches!(end, LinkEnd::Lost(..));
        state.dialog.on_end(end);
        if let Some(asked_at) = state.asked_at.filter(|_| is_answer) {
            state.heard.get_or_insert_with(|| asked_at.elapsed()); // the end is an answer too
        }
        let Wakers { started, reader, writer, end } = &mut state.wakers;
        for waiting in [started, reader, writer, end] {
            woken.0.append(waiting);
        }
    }
}

/// Bytes of credit that a sender of short items takes at a time: it asks once for many of them.
const RESERVED_BYTES: usize = 2 * 1024;

fn wait(waiting: &mut Vec<Waker>, cx: &mut Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        let waker = cx.waker().clone(); // it may wake one that is known, and only note that it was taken
        if !waiting.iter().any(|other| other.will_wake(&waker)) {
            waiting.push(waker);
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("dialog", &self.dialog).field("path", &self.path).finish_non_exhaustive()
    }
}
