//! Where do our large byte strings go? Into segments that are kept while they are warm, and are bounded.
//!
//! To touch a page for the first time takes longer than to copy all of it: 64 MiB into fresh memory took 60 ms where 9 were
//! enough for memory that had been used before, and the reader's first look another 3. So what has been used is used again.
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::parcel::{self, Note, Pieces};
use super::segment::{Written, aligned, rounded};
use super::side::{Label, Side};
use crate::msg::codec::Spill;

/// Segments that are kept: one is read while the next one is filled. Were it more, a worker with many short jobs would keep
/// more memory without being faster.
pub(super) const SLOTS: usize = 2;

/// Bytes of those that are kept, in one direction. A message that does not fit beside what is kept has a segment of its own,
/// which is gone with it: it costs what fresh memory costs, and is no slower than the line.
const KEPT_BYTES: usize = 128 << 20;

/// Not among those that are kept.
pub(super) const ONCE: u64 = u64::MAX;

/// Our segments of one connection.
pub(super) struct Outbox {
    side: Arc<Side>,
    kept_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: [Slot; SLOTS],
    /// Of all slots.
    bytes: usize,
    made: u64,
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Here(Segment),
    /// Somebody fills it.
    Lent,
}

struct Segment {
    slot: u64,
    number: u64,
    memory: Written,
    /// What it was last filled for, and the number of that message.
    call: u64,
    message: u64,
}

impl Outbox {
    pub(super) fn new(side: Arc<Side>) -> Self {
        Outbox::keeping(side, KEPT_BYTES)
    }

    fn keeping(side: Arc<Side>, kept_bytes: usize) -> Self {
        Outbox { side, kept_bytes, state: Mutex::default() }
    }

    /// Where the byte strings of one message for `call` go: no more than `limit` bytes of them.
    pub(super) fn begin(&self, call: u64, limit: usize) -> Filling<'_> {
        Filling { outbox: self, call, limit, segment: None, lengths: Vec::new(), used: 0 }
    }

    /// Nobody opens what was sent for calls that `is_over`, if nobody has.
    pub(super) fn take_back(&self, is_over: impl Fn(u64) -> bool) {
        for slot in &self.state.lock().slots {
            if let Slot::Here(segment) = slot
                && is_over(segment.call)
            {
                segment.memory.take_back(segment.message);
            }
        }
    }

    /// Gives back the memory of segments that nobody uses now.
    pub(super) fn trim(&self) {
        for slot in 0..SLOTS {
            // Not under the lock: it takes a while, and calls look for a place meanwhile.
            let Some(segment) = self.state.lock().lend_free(slot) else { continue };
            segment.memory.trim();
            self.put_back(segment);
        }
    }

    /// A segment with room for `bytes`, of which the other process knows.
    fn lend(&self, call: u64, bytes: usize) -> io::Result<Segment> {
        let mut state = self.state.lock();
        if let Some(segment) = state.lend_kept(call, bytes, self.kept_bytes) {
            return Ok(segment);
        }
        let room = rounded(bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        state.made += 1;
        let number = state.made;
        let slot = match state.slots.iter().position(|slot| matches!(slot, Slot::Empty)) {
            Some(slot) if state.bytes + room <= self.kept_bytes => slot as u64,
            _ => ONCE,
        };
        let memory = Written::make(bytes)?;
        // It is told of before anything is in it: what was put there could not be put elsewhere if this failed.
        self.side.send(Label { slot, number, call }, memory.file())?;
        let message = memory.take().ok_or_else(|| io::Error::other("new memory is not free"))?;
        if let Some(kept) = state.slot(slot) {
            *kept = Slot::Lent;
            state.bytes += memory.room();
        }
        Ok(Segment { slot, number, memory, call, message })
    }

    fn grow(&self, segment: &mut Segment, bytes: usize) -> io::Result<()> {
        if bytes <= segment.memory.room() {
            return Ok(());
        }
        if segment.slot == ONCE {
            return segment.memory.grow(bytes);
        }
        let mut state = self.state.lock();
        let old = segment.memory.room();
        let others = state.bytes - old;
        if rounded(bytes).is_none_or(|bytes| others + bytes > self.kept_bytes) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        segment.memory.grow(bytes)?;
        state.bytes = others + segment.memory.room();
        Ok(())
    }

    /// Back into its slot. One that has none ends here; the other process has a descriptor of its own.
    fn put_back(&self, segment: Segment) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slot(segment.slot) {
            *slot = Slot::Here(segment);
        }
    }
}

impl State {
    fn slot(&mut self, slot: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(slot).ok()?)
    }

    /// One that nobody has. What was sent stays where it can be taken back.
    fn lend_free(&mut self, slot: usize) -> Option<Segment> {
        let slot = &mut self.slots[slot];
        match slot {
            Slot::Here(segment) if segment.memory.is_free() => match std::mem::replace(slot, Slot::Lent) {
                Slot::Here(segment) => Some(segment),
                Slot::Empty | Slot::Lent => None,
            },
            Slot::Here(_) | Slot::Empty | Slot::Lent => None,
        }
    }

    /// The smallest that has room; else the largest that may grow as much.
    fn lend_kept(&mut self, call: u64, bytes: usize, kept_bytes: usize) -> Option<Segment> {
        let mut free: Vec<usize> = (0..SLOTS).filter(|&slot| matches!(self.slots[slot], Slot::Here(_))).collect();
        let room = |state: &State, slot: usize| match &state.slots[slot] {
            Slot::Here(segment) => segment.memory.room(),
            Slot::Empty | Slot::Lent => 0,
        };
        free.sort_by_key(|&slot| {
            let room = room(self, slot);
            if room >= bytes { (0, room) } else { (1, usize::MAX - room) }
        });
        for slot in free {
            let others = self.bytes - room(self, slot);
            let Slot::Here(segment) = &mut self.slots[slot] else { continue };
            let Some(message) = segment.memory.take() else { continue };
            if segment.memory.room() < bytes {
                let fits = rounded(bytes).is_some_and(|bytes| others + bytes <= kept_bytes);
                if !fits || segment.memory.grow(bytes).is_err() {
                    segment.memory.give_up(message);
                    continue;
                }
                self.bytes = others + segment.memory.room();
            }
            let Slot::Here(segment) = std::mem::replace(&mut self.slots[slot], Slot::Lent) else { continue };
            return Some(Segment { call, message, ..segment });
        }
        None
    }
}

/// A message that is being written. Dropped, there is none.
pub(super) struct Filling<'o> {
    outbox: &'o Outbox,
    call: u64,
    limit: usize,
    segment: Option<Segment>,
    lengths: Vec<u64>,
    used: usize,
}

impl Filling<'_> {
    /// Sends what was taken, if anything was.
    fn send(mut self) -> Option<Pieces> {
        if self.lengths.is_empty() {
            return None;
        }
        let segment = self.segment.take()?;
        let pieces = Pieces {
            slot: segment.slot,
            segment: segment.number,
            message: segment.message,
            lengths: std::mem::take(&mut self.lengths),
        };
        segment.memory.send(segment.message);
        self.outbox.put_back(segment);
        Some(pieces)
    }

    /// Ends the parcel that `out` is.
    pub(super) fn end(self, out: &mut Vec<u8>, oldest: u64) {
        let call = self.call;
        parcel::end(out, &Note { call, oldest, pieces: self.send() });
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<u32> {
        let number = u32::try_from(self.lengths.len()).ok()?;
        let start = aligned(self.used)?;
        let end = start.checked_add(bytes.len()).filter(|&end| end <= self.limit)?;
        let segment = match &mut self.segment {
            Some(segment) => {
                self.outbox.grow(segment, end).ok()?;
                segment
            }
            none => none.insert(self.outbox.lend(self.call, end).ok()?),
        };
        segment.memory.write(start, bytes);
        self.used = end;
        self.lengths.push(bytes.len() as u64);
        Some(number)
    }
}

impl Spill for Filling<'_> {
    /// Where a limit of the system is met, the bytes go by the line, as they would to another host.
    fn take(&mut self, bytes: &[u8]) -> Option<u32> {
        self.copy(bytes)
    }

    fn restart(&mut self) {
        self.lengths.clear();
        self.used = 0;
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.take() {
            segment.memory.give_up(segment.message);
            self.outbox.put_back(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::Inbox;
    use super::*;
    use bytes::Bytes;

    const MIB: usize = 1 << 20;

    struct Ends {
        outbox: Outbox,
        inbox: Inbox,
    }

    fn ends(kept_bytes: usize) -> Ends {
        let (one, other) = Side::pair();
        Ends { outbox: Outbox::keeping(Arc::new(one), kept_bytes), inbox: Inbox::new(Arc::new(other)) }
    }

    impl Ends {
        fn send(&self, call: u64, messages: &[&[u8]]) -> Option<Pieces> {
            let mut filling = self.outbox.begin(call, usize::MAX);
            for (number, bytes) in messages.iter().enumerate() {
                assert_eq!(filling.take(bytes), Some(number as u32));
            }
            filling.send()
        }

        fn open(&self, pieces: &Pieces) -> Vec<Bytes> {
            self.inbox.open(pieces, |_| true).expect("it is there")
        }
    }

    /// Where it went: its slot, or `once`.
    fn place(pieces: &Pieces) -> String {
        if pieces.slot == ONCE { "once".to_owned() } else { format!("{}", pieces.slot) }
    }

    #[test]
    fn byte_strings_come_back_as_they_were() {
        let ends = ends(KEPT_BYTES);
        let (first, second) = (vec![1; MIB + 7], vec![2; 3 * MIB]);
        for _ in 0..3 {
            let pieces = ends.send(1, &[&first, b"", &second]).expect("something was sent");
            assert_eq!(ends.open(&pieces), [&first[..], b"", &second]);
            assert_eq!((pieces.slot, pieces.segment), (0, 1), "one is used again and again");
        }
        assert_eq!(ends.send(1, &[]), None);
    }

    #[test]
    fn what_is_held_is_not_written_to() {
        let ends = ends(KEPT_BYTES);
        let mut held = Vec::new();
        let mut places = Vec::new();
        for call in 0..4 {
            let pieces = ends.send(call, &[&[call as u8; 100]]).expect("something was sent");
            held.push(ends.open(&pieces));
            places.push(place(&pieces));
        }
        assert_eq!(places, ["0", "1", "once", "once"]);
        for (call, views) in held.iter().enumerate() {
            assert!(views[0].iter().all(|&byte| byte == call as u8));
        }
        held.remove(1);
        assert_eq!(place(&ends.send(9, &[b"bytes"]).expect("something was sent")), "1");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let ends = ends(4 * MIB);
        let sent = |bytes: usize| {
            let pieces = ends.send(1, &[&vec![1; bytes]]).expect("something was sent");
            drop(ends.open(&pieces));
            place(&pieces)
        };
        assert_eq!(sent(MIB), "0");
        assert_eq!(sent(3 * MIB), "0");
        assert_eq!(sent(5 * MIB), "once");
        assert_eq!(sent(4 * MIB), "0");
        assert_eq!(ends.outbox.state.lock().bytes, 4 * MIB);
        let held = ends.open(&ends.send(1, &[&vec![1; MIB]]).expect("something was sent"));
        assert_eq!(sent(1), "once", "there is no room for another one");
        drop(held);
        assert_eq!(sent(1), "0");
    }

    #[test]
    fn a_message_that_has_outgrown_its_segment_leaves_the_rest_to_the_line() {
        let ends = ends(2 * MIB);
        let mut filling = ends.outbox.begin(1, usize::MAX);
        assert_eq!(filling.take(&vec![1; MIB]), Some(0));
        assert_eq!(filling.take(&vec![2; 2 * MIB]), None);
        assert_eq!(filling.take(&vec![3; 1000]), Some(1));
        let views = ends.open(&filling.send().expect("something was sent"));
        assert_eq!((views[0].len(), &views[1][..]), (MIB, &[3; 1000][..]));
    }

    #[test]
    fn a_message_over_its_limit_leaves_the_rest_to_the_line() {
        let ends = ends(KEPT_BYTES);
        let mut filling = ends.outbox.begin(1, 100);
        assert_eq!(filling.take(&[1; 101]), None);
        assert_eq!(filling.take(&[1; 100]), Some(0));
        assert_eq!(filling.take(&[1; 1]), None);
    }

    #[test]
    fn a_message_that_is_given_up_or_written_anew_leaves_nothing() {
        let ends = ends(KEPT_BYTES);
        let mut filling = ends.outbox.begin(1, usize::MAX);
        assert_eq!(filling.take(b"first"), Some(0));
        drop(filling);
        let mut filling = ends.outbox.begin(2, usize::MAX);
        assert_eq!(filling.take(b"second"), Some(0));
        filling.restart();
        assert_eq!(filling.take(b"third"), Some(0));
        let pieces = filling.send().expect("something was sent");
        assert_eq!((place(&pieces), ends.open(&pieces)), ("0".to_owned(), vec![Bytes::from_static(b"third")]));
    }

    #[test]
    fn what_nobody_opens_is_taken_back_with_its_call() {
        let ends = ends(KEPT_BYTES);
        let first = ends.send(1, &[b"first"]).expect("something was sent");
        let second = ends.send(2, &[b"second"]).expect("something was sent");
        ends.outbox.take_back(|call| call < 2);
        ends.inbox.open(&first, |_| true).expect_err("it was taken back");
        assert_eq!(ends.open(&second), [&b"second"[..]]);
        assert_eq!(place(&ends.send(3, &[b"third"]).expect("something was sent")), "0");
    }

    #[test]
    fn where_there_is_nobody_or_no_memory_the_line_takes_it() {
        let (one, other) = Side::pair();
        drop(other);
        let outbox = Outbox::new(Arc::new(one));
        let mut filling = outbox.begin(1, usize::MAX);
        assert_eq!(filling.take(&[1; 100]), None);
        assert!(filling.send().is_none());
        assert_eq!(outbox.state.lock().bytes, 0);
        assert!(outbox.lend(1, usize::MAX).is_err());
    }

    #[test]
    fn a_trim_leaves_what_is_in_use() {
        let ends = ends(KEPT_BYTES);
        let pieces = ends.send(1, &[&vec![1; MIB]]).expect("something was sent");
        ends.outbox.trim();
        let views = ends.open(&pieces);
        ends.outbox.trim();
        ends.inbox.trim();
        assert!(views[0].iter().all(|&byte| byte == 1));
        drop(views);
        ends.outbox.trim();
        ends.inbox.trim();
        let pieces = ends.send(1, &[&vec![2; MIB]]).expect("something was sent");
        assert_eq!((place(&pieces), &ends.open(&pieces)[0][..3]), ("0".to_owned(), &[2, 2, 2][..]));
    }
}
