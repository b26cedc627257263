//! What may happen next in one context: two tasks, a first word, a stream each way, one end.
//!
//! Each side has one of these for each of its contexts. The user's calls and the peer's frames come
//! in, in any order; frames to send and what to tell the user come out.
use std::collections::VecDeque;

use super::connection::Violation;
use super::credit::{Receiving, Sending, WINDOW_BYTES};
use crate::msg::codec;
use crate::msg::frame::Stop;

/// Which side of the dialog this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It sent the Start.
    Opener,
    /// It runs the endpoint.
    Callee,
}

/// What becomes of items that nobody reads in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overruns {
    /// Their sender waits.
    #[default]
    Wait,
    /// The oldest are dropped, and counted.
    DropOldest,
}

/// The user asked for what makes no sense now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misuse {
    StartedTwice,
    /// The callee's stream comes after its first word.
    StreamBeforeStarted,
    SecondStream,
    /// This side has cancelled the context.
    Cancelled,
    /// The other side has ended, and this side knows.
    Ended,
    /// This side has finished sending.
    Finished,
}

/// One direction of the stream, as far as its sender has come.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    is_open: bool,
    stop: Option<Stop>,
}

/// One side of one context. `E` is how the callee's task ended.
#[derive(Debug)]
pub(crate) struct Dialog<E> {
    role: Role,
    has_started: bool,
    ours: Half,
    theirs: Half,
    sending: Sending,
    inbox: Inbox,
    is_cancelled: bool,
    end: Option<E>,
    /// The user was told of the end.
    is_end_known: bool,
}

/// Items that have arrived and are not read yet.
#[derive(Debug)]
struct Inbox {
    credit: Receiving,
    segments: VecDeque<Segment>,
    /// Bytes in all segments.
    waiting_bytes: usize,
    /// Bytes that have arrived of an item that goes on.
    unfinished_bytes: usize,
    /// How many of those were let in without waiting for a reader.
    let_in_bytes: usize,
    overruns: Overruns,
    dropped: u64,
    /// Nobody will read: what comes is thrown away, and its sender is not held up. It may have something to
    /// say in front of its end, or not know that nobody listens.
    forgets: bool,
}

/// Items that came together.
#[derive(Debug)]
struct Segment {
    items: Vec<u8>,
    /// Of them, bytes that were not let in as they arrived.
    unread_bytes: usize,
}

/// What to do with an item that the user wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Send it: its bytes are booked.
    Now,
    /// It is too long for the credit that is there: send it piece by piece, as credit comes.
    Pieces,
    /// Wait: the peer reads nothing yet, and what it holds unread is full.
    NoReader,
    /// Drop it: nobody reads any more, as if it were in transit.
    InTransit,
    /// Nobody reads any more, and the credit is used up.
    Gone,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Items, one behind the other.
    Items(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Nothing ever more.
    End,
}

impl<E> Dialog<E> {
    pub(crate) fn new(role: Role, overruns: Overruns) -> Self {
        let mut credit = Receiving::new(WINDOW_BYTES);
        if overruns == Overruns::DropOldest {
            credit.open_wide();
        }
        Dialog {
            role,
            has_started: false,
            ours: Half::default(),
            theirs: Half::default(),
            sending: Sending::new(),
            inbox: Inbox {
                credit,
                segments: VecDeque::new(),
                waiting_bytes: 0,
                unfinished_bytes: 0,
                let_in_bytes: 0,
                overruns,
                dropped: 0,
                forgets: false,
            },
            is_cancelled: false,
            end: None,
            is_end_known: false,
        }
    }

    // ---- our user speaks

    /// The callee says its first word: a Started may be sent.
    pub(crate) fn start(&mut self) -> Result<(), Misuse> {
        if self.has_started {
            return Err(Misuse::StartedTwice);
        }
        self.has_started = true;
        Ok(())
    }

    /// Opens this side's stream: an Open is to be sent, unless the dialog has ended.
    pub(crate) fn open_stream(&mut self) -> Result<(), Misuse> {
        if self.role == Role::Callee && !self.has_started {
            return Err(Misuse::StreamBeforeStarted);
        }
        if self.ours.is_open {
            return Err(Misuse::SecondStream);
        }
        if self.is_cancelled {
            return Err(Misuse::Cancelled);
        }
        // A callee that opened its stream and returned may be faster than we are: that is no mistake.
        if self.end.is_some() && (self.is_end_known || !self.theirs.is_open) {
            return Err(Misuse::Ended);
        }
        self.ours.is_open = true;
        Ok(())
    }

    /// Whether `bytes` of items may be sent.
    pub(crate) fn room(&mut self, bytes: usize) -> Result<Room, Misuse> {
        if self.ours.stop.is_some() {
            return Err(Misuse::Finished);
        }
        let has_room = self.sending.take(bytes);
        if !self.is_heard() {
            return Ok(if has_room { Room::InTransit } else { Room::Gone });
        }
        Ok(match has_room {
            true => Room::Now,
            false if self.theirs.is_open => Room::Pieces,
            false => Room::NoReader,
        })
    }

    /// Books at most `wanted` bytes for items that are to come.
    pub(crate) fn reserve(&mut self, wanted: usize) -> usize {
        self.sending.take_up_to(wanted)
    }

    /// Books at most `wanted` bytes of an item that goes piece by piece; `None`: drop the rest.
    pub(crate) fn room_for_piece(&mut self, wanted: usize) -> Option<usize> {
        self.is_heard().then(|| self.sending.take_up_to(wanted))
    }

    /// Whether there is somebody who may read what we send.
    fn is_heard(&self) -> bool {
        self.end.is_none() && !self.is_cancelled && !matches!(self.theirs.stop, Some(Stop::Left | Stop::BodyOver))
    }

    /// Sends no more, or does not even read any more: the Stop to send, if it says something new.
    pub(crate) fn stop(&mut self, how: Stop) -> Option<Stop> {
        // Its cancel comes by another line: a task that heard first that nobody reads would fail by that.
        let how = if self.is_cancelled { Stop::Finished } else { how };
        let is_new = self.ours.stop.is_none_or(|before| (before as u8) < how as u8);
        if !is_new {
            return None;
        }
        if how != Stop::Finished {
            self.inbox.throw_away();
        }
        let concerns = self.ours.is_open || how == Stop::BodyOver;
        self.ours.stop = Some(how);
        (concerns && self.end.is_none()).then_some(how)
    }

    /// What there is to read. Take what [`Dialog::credit`] says after it.
    pub(crate) fn read(&mut self) -> Found {
        if let Some(items) = self.inbox.take() {
            return Found::Items(items);
        }
        if self.theirs.stop.is_some() || self.end.is_some() || self.is_cancelled || self.inbox.forgets {
            return Found::End;
        }
        Found::Nothing
    }

    /// The offset to grant to the peer, if one is due.
    pub(crate) fn credit(&mut self) -> Option<u64> {
        if self.end.is_some() || self.theirs.stop.is_some() {
            return None;
        }
        let holds_up = !self.inbox.forgets && self.inbox.overruns == Overruns::Wait;
        if holds_up && !self.ours.is_open {
            return None;
        }
        // One long item whose reader waits for it is let in as it arrives.
        if !holds_up || self.inbox.segments.is_empty() {
            self.inbox.let_in();
        }
        self.inbox.credit.grant()
    }

    /// This side cancels the context: whether it is the first to, and a Cancel is to be sent.
    pub(crate) fn cancel(&mut self) -> bool {
        if self.end.is_some() || self.is_cancelled {
            return false;
        }
        self.is_cancelled = true;
        self.inbox.throw_away();
        true
    }

    /// Whether this side has cancelled it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    pub(crate) fn allow_overruns(&mut self) {
        self.inbox.overruns = Overruns::DropOldest;
        self.inbox.credit.open_wide();
    }

    /// This side reads no more, and says nothing of it: what comes is read and forgotten.
    pub(crate) fn throw_away(&mut self) {
        self.inbox.throw_away();
    }

    /// Items that were dropped because nobody had read them in time.
    pub(crate) fn dropped(&self) -> u64 {
        self.inbox.dropped
    }

    // ---- the peer speaks

    pub(crate) fn on_started(&mut self, dialog: u64) -> Result<(), Violation> {
        if self.role == Role::Callee || self.has_started {
            return Err(Violation::OutOfOrder { kind: "Started", dialog });
        }
        self.has_started = true;
        Ok(())
    }

    pub(crate) fn on_open(&mut self, dialog: u64) -> Result<(), Violation> {
        if self.theirs.is_open {
            return Err(Violation::OutOfOrder { kind: "Open", dialog });
        }
        self.theirs.is_open = true;
        Ok(())
    }

    /// Bytes of items have come: whole ones, or with `goes_on` a piece of one.
    pub(crate) fn on_bytes(&mut self, dialog: u64, bytes: usize, goes_on: bool) -> Result<(), Violation> {
        if !self.theirs.is_open || self.theirs.stop.is_some() {
            return Err(Violation::OutOfOrder { kind: "Yield", dialog });
        }
        self.inbox.credit.on_bytes(bytes).map_err(|_over| Violation::OverCredit(dialog))?;
        if goes_on {
            self.inbox.unfinished_bytes += bytes;
        }
        Ok(())
    }

    /// Whole items, whose last bytes were booked by [`Dialog::on_bytes`].
    pub(crate) fn on_items(&mut self, items: Vec<u8>) {
        self.inbox.push(items);
    }

    pub(crate) fn on_stop(&mut self, dialog: u64, how: Stop) -> Result<(), Violation> {
        let is_new = self.theirs.stop.is_none_or(|before| (before as u8) < how as u8);
        let is_theirs = how != Stop::BodyOver || self.role == Role::Callee;
        if !is_new || !is_theirs || (!self.theirs.is_open && how != Stop::BodyOver) {
            return Err(Violation::OutOfOrder { kind: "Stop", dialog });
        }
        self.theirs.stop = Some(how);
        Ok(())
    }

    pub(crate) fn on_credit(&mut self, up_to: u64) {
        self.sending.on_credit(up_to);
    }

    /// The callee's task has ended, or the line is lost. The first end counts.
    pub(crate) fn on_end(&mut self, end: E) {
        self.end.get_or_insert(end);
    }

    // ---- what is known

    pub(crate) fn has_started(&self) -> bool {
        self.has_started
    }

    /// How it ended.
    pub(crate) fn end(&self) -> Option<&E> {
        self.end.as_ref()
    }

    /// The same, for the user, who knows it from now on.
    pub(crate) fn tell_end(&mut self) -> Option<&E> {
        self.is_end_known = self.end.is_some();
        self.end.as_ref()
    }

    /// Whether the user was told of the end.
    pub(crate) fn is_end_known(&self) -> bool {
        self.is_end_known
    }

    /// How the peer's half of the stream ended, if it said so.
    pub(crate) fn their_stop(&self) -> Option<Stop> {
        self.theirs.stop
    }

    /// All of it that a person would ask for.
    #[cfg(feature = "debug")]
    pub(crate) fn look(&self) -> Look {
        Look {
            has_started: self.has_started,
            is_cancelled: self.is_cancelled,
            has_ended: self.end.is_some(),
            ours: self.ours.look(),
            theirs: self.theirs.look(),
            may_send_bytes: self.sending.room(),
            may_come_bytes: self.inbox.credit.room(),
            unread_bytes: self.inbox.waiting_bytes + self.inbox.unfinished_bytes,
            dropped: self.inbox.dropped,
        }
    }
}

/// One side of a context, as it is now.
#[cfg(feature = "debug")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Look {
    pub(crate) has_started: bool,
    /// This side has cancelled it.
    pub(crate) is_cancelled: bool,
    pub(crate) has_ended: bool,
    /// The half of the stream on which this side sends, and the other.
    pub(crate) ours: HalfLook,
    pub(crate) theirs: HalfLook,
    /// What is left of the credit that the peer has granted, and of what we have.
    pub(crate) may_send_bytes: u64,
    pub(crate) may_come_bytes: u64,
    pub(crate) unread_bytes: usize,
    /// Items that nobody had read in time.
    pub(crate) dropped: u64,
}

/// One direction of a stream, as it is now.
#[cfg(feature = "debug")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum HalfLook {
    Unopened,
    Open,
    Stopped,
}

#[cfg(feature = "debug")]
impl Half {
    fn look(self) -> HalfLook {
        match (self.is_open, self.stop) {
            (_, Some(_)) => HalfLook::Stopped,
            (true, None) => HalfLook::Open,
            (false, None) => HalfLook::Unopened,
        }
    }
}

impl Inbox {
    fn push(&mut self, items: Vec<u8>) {
        let let_in = std::mem::take(&mut self.let_in_bytes);
        self.unfinished_bytes = 0;
        let mut unread_bytes = items.len().saturating_sub(let_in);
        if self.overruns == Overruns::DropOldest {
            self.credit.consume(std::mem::take(&mut unread_bytes)); // what is dropped for it makes the room
        }
        self.waiting_bytes += items.len();
        self.segments.push_back(Segment { items, unread_bytes });
        if self.forgets {
            self.take();
        }
        if self.overruns == Overruns::DropOldest {
            self.drop_oldest();
        }
    }

    /// What has come of an unfinished item needs no credit any more.
    fn let_in(&mut self) {
        if self.unfinished_bytes > self.let_in_bytes {
            self.credit.open_wide();
            self.credit.consume(self.unfinished_bytes - self.let_in_bytes);
            self.let_in_bytes = self.unfinished_bytes;
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let segment = self.segments.pop_front()?;
        self.waiting_bytes -= segment.items.len();
        self.credit.consume(segment.unread_bytes);
        Some(segment.items)
    }

    /// Keeps so much, and the newest item however long it is.
    fn drop_oldest(&mut self) {
        const KEPT_BYTES: usize = WINDOW_BYTES as usize / 4;
        while self.waiting_bytes > KEPT_BYTES {
            let is_last = self.segments.len() == 1;
            let Some(front) = self.segments.front_mut() else { return };
            let mut end = 0;
            while end < front.items.len() && self.waiting_bytes - end > KEPT_BYTES {
                let rest = &front.items[end..];
                // What is no value has no end: it takes the rest of its segment along.
                let len = codec::value_len(rest).unwrap_or(rest.len());
                if is_last && len == rest.len() {
                    break;
                }
                end += len;
                self.dropped += 1;
            }
            if end == 0 {
                return;
            }
            if end == front.items.len() {
                self.take();
            } else {
                front.items.drain(..end);
                self.waiting_bytes -= end;
                // Of those that came before overruns were allowed.
                let unread_bytes = front.unread_bytes.min(end);
                front.unread_bytes -= unread_bytes;
                self.credit.consume(unread_bytes);
            }
        }
    }

    fn throw_away(&mut self) {
        self.forgets = true;
        while self.take().is_some() {}
    }
}

#[cfg(test)]
mod tests;
