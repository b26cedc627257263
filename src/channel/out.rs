//! What waits to be written on a line, and what goes first?
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::link::{Link, Woken};
use crate::msg::frame::{self, Encoding, Frame, Stop};
use crate::transport::socket::Socket;

/// A payload on its way out.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// It is copied into the line's buffer, and shares a write with others.
    Short(Vec<u8>),
    /// It leaves from where it lies, in pieces, and lets others pass.
    Long(Bytes),
}

/// A payload of more bytes is a long one. Below, a copy costs less than a write of its own.
pub(crate) const LONG_BYTES: usize = 32 * 1024;

/// Bytes of one piece: what a small call may have to wait for, besides the kernel's own buffer.
const PIECE_BYTES: usize = 128 * 1024;

/// The same beside calls: each answer waits for one, and a call that goes on is likely to be followed by another.
const PIECE_BYTES_BESIDE_CALLS: usize = 32 * 1024;

/// Pieces that are so small behind each call or answer: a few milliseconds' worth.
const PIECES_BESIDE_CALLS: u32 = 64;

/// Items that share one frame, in bytes: what their reader is given at once.
const YIELD_BYTES: usize = 64 * 1024;

/// A buffer that a burst has grown beyond this is given back after it.
const KEEP_BYTES: usize = 256 * 1024;

/// Writes of one turn, before what was received gets its own.
const WRITES_A_TURN: usize = 4;

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() > LONG_BYTES { Payload::Long(bytes.into()) } else { Payload::Short(bytes) }
    }
}

/// A long payload of which some is still here.
#[derive(Debug)]
pub(super) struct Long {
    pub(super) dialog: u64,
    /// The first bytes, which lie apart from the rest: a `bin`'s length.
    pub(super) head: Head,
    pub(super) rest: Bytes,
    /// Of a context, which has other payloads to send: it is told when this one has left.
    link: Option<Arc<Link>>,
    /// Of an item, which waits for credit, as a value does not: bytes for which there is some already.
    booked: Option<usize>,
    /// How the stream stops behind it.
    pub(super) then: Option<Stop>,
}

impl Long {
    /// A value behind which the dialog sends nothing: the arguments, the result, an error.
    pub(super) fn value(dialog: u64, rest: Bytes) -> Long {
        Long { dialog, head: Head::default(), rest, link: None, booked: None, then: None }
    }

    pub(super) fn first_word(link: &Arc<Link>, rest: Bytes) -> Long {
        Long { link: Some(Arc::clone(link)), ..Long::value(link.dialog, rest) }
    }

    pub(super) fn item(link: &Arc<Link>, head: Head, rest: Bytes, booked: usize) -> Long {
        Long { head, booked: Some(booked), ..Long::first_word(link, rest) }
    }

    fn is_item(&self) -> bool {
        self.booked.is_some()
    }

    /// It is out of our hands.
    fn is_sent(&self, woken: &mut Woken) {
        if let Some(link) = &self.link {
            link.long_is_sent(woken);
        }
    }
}

/// A few bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    bytes: [u8; 5],
    len: u8,
}

impl Head {
    /// The beginning of a msgpack `bin` of `len` bytes.
    pub(crate) fn of_bin(len: u32) -> Head {
        let mut bytes = [0; 5];
        let len = match len {
            0..=0xff => {
                bytes[..2].copy_from_slice(&[0xc4, len as u8]);
                2
            }
            0x100..=0xffff => {
                bytes[0] = 0xc5;
                bytes[1..3].copy_from_slice(&(len as u16).to_be_bytes());
                3
            }
            _ => {
                bytes[0] = 0xc6;
                bytes[1..].copy_from_slice(&len.to_be_bytes());
                5
            }
        };
        Head { bytes, len }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Bytes on their way out.
#[derive(Default)]
pub(super) struct Out {
    /// Frames that pass all that waits: cancels, their acknowledgements, credit.
    pub(super) urgent: BytesMut,
    waiting: BytesMut,
    /// The frame of items at the very end of `waiting`, which the next item may join.
    last_yield: Option<LastYield>,
    /// Streams that have stopped, behind their items. One whose dialog ends before the next write needs no word of its own: its
    /// reader hears how it all ended, and not that there is nothing more first.
    stops: Vec<(u64, Stop)>,
    /// Long payloads take turns, a piece each, when all else has left.
    long: VecDeque<Long>,
    /// Pieces that are to be small, since there are calls beside them.
    small_pieces: u32,
    /// Handed to the socket from `written` on, then `piece`; its first `urgent_len` bytes were urgent.
    leaving: BytesMut,
    piece: Bytes,
    written: usize,
    urgent_len: usize,
    /// Somebody is in `sendmsg` with `leaving`.
    is_writing: bool,
    /// The kernel's buffer was full: the driver waits for room, and nobody tries before it has some.
    is_blocked: bool,
    /// The peer takes nothing any more.
    pub(super) is_dead: bool,
    /// Of the non-urgent bytes: all that were ever queued, and all that have left.
    queued: u64,
    flushed: u64,
    /// The last byte that has left was not an urgent one.
    is_tail_plain: bool,
    /// The last byte that has left was never read.
    is_tail_unread: bool,
}

#[derive(Clone, Copy)]
struct LastYield {
    dialog: u64,
    encoding: Encoding,
    /// Where in `waiting` it begins.
    start: usize,
}

/// What a caller takes out to write without the lock.
pub(super) struct Write {
    leaving: BytesMut,
    piece: Bytes,
    written: usize,
}

/// What a flush came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// Nothing waits any more, or somebody else is writing and will take it along.
    Done,
    /// More could be written, but others should have their turn.
    More,
    /// The kernel's buffer is full.
    Blocked,
    /// The peer takes nothing any more. What it sent before is still to be read.
    Dead,
}

impl Out {
    pub(super) fn new(greeting: BytesMut) -> Self {
        Out { urgent: greeting, ..Out::default() }
    }

    /// Whether nothing at all is here any more.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_writing
            && !self.is_blocked
            && self.waiting_bytes() == 0
            && self.urgent.is_empty()
            && self.stops.is_empty()
            && self.long.is_empty()
    }

    /// Whether log lines may leave: nothing else waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting_bytes() == 0 && self.urgent.is_empty() && self.stops.is_empty() && self.long.is_empty()
    }

    /// Bytes in the buffers; neither long payloads, which lie elsewhere, nor what somebody is writing now.
    pub(super) fn waiting_bytes(&self) -> usize {
        let leaving = match self.is_writing {
            true => 0,
            false => self.leaving.len() + self.piece.len() - self.written,
        };
        self.waiting.len() + leaving
    }

    /// Where frames of the lowest priority go.
    pub(super) fn idle_buffer(&mut self) -> &mut BytesMut {
        self.last_yield = None;
        &mut self.waiting
    }

    /// Queues a frame; the offset at which it ends among the non-urgent bytes.
    pub(super) fn queue(&mut self, frame: &Frame<'_>, payload: &[u8]) -> u64 {
        if self.is_dead {
            return u64::MAX; // it never leaves
        }
        if matches!(frame, Frame::Start { left: 0, .. } | Frame::Return { left: 0, .. } | Frame::Error { left: 0, .. })
        {
            self.small_pieces = PIECES_BESIDE_CALLS;
        }
        let before = self.waiting.len();
        frame::encode(frame, payload, &mut self.waiting);
        self.last_yield = None;
        self.queued += (self.waiting.len() - before) as u64;
        self.queued
    }

    /// Queues an item of a stream: into the frame of those before, if nothing came in between.
    #[inline]
    pub(super) fn queue_item(&mut self, dialog: u64, encoding: Encoding, item: &[u8]) {
        if self.is_dead {
            return;
        }
        let before = self.waiting.len();
        match self.last_yield {
            Some(last) if last.dialog == dialog && last.encoding == encoding && before - last.start < YIELD_BYTES => {
                self.waiting.extend_from_slice(item);
                let length = (self.waiting.len() - last.start - 4) as u32;
                self.waiting[last.start..last.start + 4].copy_from_slice(&length.to_le_bytes());
            }
            _ => {
                let yielded = Frame::Yield { dialog, encoding, left: 0 };
                frame::encode_head(&yielded, item.len(), &mut self.waiting);
                self.waiting.extend_from_slice(item);
                self.last_yield = Some(LastYield { dialog, encoding, start: before });
            }
        }
        self.queued += (self.waiting.len() - before) as u64;
    }

    pub(super) fn queue_long(&mut self, long: Long) {
        match self.is_dead {
            true => long.is_sent(&mut Woken::default()), // its sender is not waiting yet
            false => self.long.push_back(long),
        }
    }

    /// The stream of `dialog` stops: behind a long item of its own, if one is here.
    pub(super) fn queue_stop(&mut self, dialog: u64, how: Stop) {
        match self.long.iter_mut().find(|long| long.dialog == dialog && long.is_item()) {
            Some(long) => long.then = Some(how),
            None if self.is_dead => {}
            None => self.stops.push((dialog, how)),
        }
    }

    /// Drops what is left of a long payload of this dialog, and the word that its stream stops: it is over.
    pub(super) fn forget_rest(&mut self, dialog: u64, woken: &mut Woken) {
        self.stops.retain(|(stopped, _)| *stopped != dialog);
        self.forget(|long| long.dialog == dialog, woken);
    }

    /// Drops what is left of its arguments.
    pub(super) fn forget_args(&mut self, dialog: u64) {
        self.forget(|long| long.dialog == dialog && !long.is_item(), &mut Woken::default());
    }

    fn forget(&mut self, is_meant: impl Fn(&Long) -> bool, woken: &mut Woken) {
        self.long.retain(|long| {
            let is_forgotten = is_meant(long);
            if is_forgotten {
                long.is_sent(woken);
            }
            !is_forgotten
        });
    }

    pub(super) fn urgent(&mut self, frame: &Frame<'_>) {
        frame::encode(frame, &[], &mut self.urgent);
    }

    /// Nobody takes anything any more.
    pub(super) fn die(&mut self, woken: &mut Woken) {
        self.is_dead = true;
        self.stops.clear();
        for long in self.long.drain(..) {
            long.is_sent(woken);
        }
    }

    /// The peer's end is gone, and what had left last was not read there, to the last byte.
    pub(super) fn tail_is_unread(&mut self) {
        self.is_tail_unread = true;
    }

    /// Of the non-urgent bytes: those that may have been read.
    pub(super) fn maybe_read(&self) -> u64 {
        // What somebody is writing now may be the tail, which is not counted yet.
        match self.is_tail_unread && self.is_tail_plain && !self.is_writing {
            true => self.flushed.saturating_sub(1),
            false => self.flushed,
        }
    }

    /// What to write next, without the lock, and to give back to [`Out::wrote`].
    pub(super) fn begin_write(&mut self, woken: &mut Woken) -> Result<Write, Flush> {
        if self.is_dead {
            return Err(Flush::Dead);
        }
        if self.is_writing {
            return Err(Flush::Done); // the writer looks again before it leaves
        }
        if self.is_blocked {
            return Err(Flush::Blocked);
        }
        self.refill(woken);
        if self.leaving.is_empty() {
            return Err(Flush::Done);
        }
        self.is_writing = true;
        Ok(Write {
            leaving: std::mem::take(&mut self.leaving),
            piece: std::mem::take(&mut self.piece),
            written: self.written,
        })
    }

    /// The kernel has not taken all yet of what the socket has.
    pub(super) fn block(&mut self) {
        self.is_blocked = true;
    }

    /// The driver sees whether there is room again.
    pub(super) fn unblock(&mut self) {
        self.is_blocked = false;
    }

    /// A write came back; an error other than `WouldBlock` means that the peer takes nothing any more.
    pub(super) fn end_write(
        &mut self,
        write: Write,
        result: &io::Result<usize>,
        woken: &mut Woken,
    ) -> Result<(), Flush> {
        self.is_writing = false;
        self.leaving = write.leaving;
        self.piece = write.piece;
        match result {
            Ok(n) => {
                let before = self.written.max(self.urgent_len);
                self.written += n;
                self.flushed += self.written.max(self.urgent_len) as u64 - before as u64;
                if *n > 0 {
                    self.is_tail_plain = self.written > self.urgent_len;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Err(Flush::Blocked)
            }
            Err(_broken) => {
                // The driver meets the end of the line when it has read what came before.
                self.die(woken);
                Err(Flush::Dead)
            }
        }
    }

    fn refill(&mut self, woken: &mut Woken) {
        if self.written < self.leaving.len() + self.piece.len() {
            return;
        }
        self.written = 0;
        self.piece = Bytes::new();
        self.leaving.clear();
        if self.leaving.capacity() > KEEP_BYTES {
            self.leaving = BytesMut::new();
        }
        for (dialog, how) in std::mem::take(&mut self.stops) {
            self.queue(&Frame::Stop { dialog, how }, &[]);
        }
        self.last_yield = None;
        self.urgent_len = self.urgent.len();
        if self.urgent.is_empty() {
            std::mem::swap(&mut self.leaving, &mut self.waiting);
        } else {
            std::mem::swap(&mut self.leaving, &mut self.urgent);
            self.leaving.extend_from_slice(&self.waiting);
            self.waiting.clear();
        }
        if !self.long.is_empty() && self.leaving.len() < PIECE_BYTES {
            self.next_piece(woken);
        }
    }

    /// One piece of the first long payload that may send one goes behind what leaves now.
    fn next_piece(&mut self, woken: &mut Woken) {
        let most = if self.small_pieces > 0 { PIECE_BYTES_BESIDE_CALLS } else { PIECE_BYTES };
        self.small_pieces = self.small_pieces.saturating_sub(1);
        for _ in 0..self.long.len() {
            let Some(mut long) = self.long.pop_front() else { return };
            let total = long.head.as_slice().len() + long.rest.len();
            let wanted = total.min(most);
            let allowed = match (long.booked, &long.link) {
                (Some(booked), Some(link)) if booked < wanted => {
                    link.room_for_piece(wanted - booked).map(|more| booked + more)
                }
                _ => Some(wanted),
            };
            let Some(bytes) = allowed else {
                // Nobody reads it any more, nor waits for its end.
                long.is_sent(woken);
                if let Some(how) = long.then {
                    self.queue(&Frame::Stop { dialog: long.dialog, how }, &[]);
                }
                continue;
            };
            // Less than its first bytes is not worth a frame, nor possible.
            if bytes < long.head.as_slice().len().max(1) {
                long.booked = long.booked.map(|_| bytes);
                self.long.push_back(long);
                continue;
            }
            long.booked = long.booked.map(|booked| booked.saturating_sub(bytes));
            let before = self.leaving.len();
            let left = (total - bytes) as u64;
            frame::encode_head(&Frame::Part { dialog: long.dialog, left }, bytes, &mut self.leaving);
            self.leaving.extend_from_slice(long.head.as_slice());
            self.piece = long.rest.split_to(bytes - long.head.as_slice().len());
            long.head = Head::default();
            self.queued += (self.leaving.len() - before + self.piece.len()) as u64;
            if left > 0 {
                self.long.push_back(long);
                return;
            }
            long.is_sent(woken);
            if let Some(how) = long.then {
                self.queue(&Frame::Stop { dialog: long.dialog, how }, &[]);
            }
            return;
        }
    }
}

impl Write {
    pub(super) fn try_send(&self, socket: &Socket) -> io::Result<usize> {
        let (leaving, piece) = self.rest();
        socket.try_send(leaving, piece)
    }

    pub(super) fn rest(&self) -> (&[u8], &[u8]) {
        match self.leaving.get(self.written..) {
            Some(leaving) => (leaving, &self.piece),
            None => (&[], &self.piece[self.written - self.leaving.len()..]),
        }
    }
}

/// Counts the writes of a turn.
pub(super) struct Turn(usize);

impl Turn {
    pub(super) fn new() -> Self {
        Turn(0)
    }

    /// Whether the turn is over.
    pub(super) fn is_over(&mut self) -> bool {
        self.0 += 1;
        self.0 > WRITES_A_TURN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_does_not_wait() {
        let (mut out, mut woken) = (Out::new(BytesMut::new()), Woken::default());
        out.queue(&Frame::Ping { nonce: 1 }, &[]);
        let len = out.waiting_bytes();
        let write = out.begin_write(&mut woken).expect("there is something");
        assert_eq!((out.waiting_bytes(), out.is_empty()), (0, false));
        out.end_write(write, &Ok(1), &mut woken).expect("it goes on");
        assert_eq!(out.waiting_bytes(), len - 1);
        // A thread that queues meanwhile finds a write that had begun with less than all.
        let write = out.begin_write(&mut woken).expect("there is more");
        out.queue(&Frame::Ping { nonce: 1 }, &[]);
        assert_eq!(out.waiting_bytes(), len);
        out.end_write(write, &Ok(len - 1), &mut woken).expect("it goes on");
        assert_eq!(out.waiting_bytes(), len);
    }

    #[test]
    fn of_a_tail_that_was_not_read_only_the_last_frame_is_certain() {
        let (mut out, mut woken) = (Out::new(BytesMut::new()), Woken::default());
        let mut write = |out: &mut Out| {
            let write = out.begin_write(&mut woken).expect("there is something");
            let (leaving, _) = write.rest();
            let len = leaving.len();
            out.end_write(write, &Ok(len), &mut woken).expect("it goes on");
        };
        let first = out.queue(&Frame::Ping { nonce: 1 }, &[]);
        let second = out.queue(&Frame::Ping { nonce: 1 }, &[]);
        write(&mut out);
        assert_eq!(out.maybe_read(), second);
        out.tail_is_unread();
        assert!((first..second).contains(&out.maybe_read()));
        let mut urgent_last = Out::new(BytesMut::new());
        let plain = urgent_last.queue(&Frame::Ping { nonce: 1 }, &[]);
        write(&mut urgent_last);
        urgent_last.urgent(&Frame::Ping { nonce: 1 });
        write(&mut urgent_last);
        urgent_last.tail_is_unread();
        assert_eq!(urgent_last.maybe_read(), plain, "it is the urgent one that was not read");
    }

    #[test]
    fn what_is_being_written_may_be_what_was_not_read() {
        let (mut out, mut woken) = (Out::new(BytesMut::new()), Woken::default());
        let first = out.queue(&Frame::Ping { nonce: 1 }, &[]);
        let write = out.begin_write(&mut woken).expect("there is something");
        let len = first as usize;
        out.end_write(write, &Ok(len), &mut woken).expect("it goes on");
        out.queue(&Frame::Ping { nonce: 1 }, &[]);
        let _somebody_is_in_it = out.begin_write(&mut woken).expect("there is more");
        out.tail_is_unread();
        assert_eq!(out.maybe_read(), first);
    }
}
