//! Which segments has the other process told of?
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::outbox::{ONCE, SLOTS};
use super::parcel::Pieces;
use super::segment::Received;
use super::side::{Label, Side};

/// Segments for one message each that came before the word on the line that needs them. A process of ours sends one a call;
/// of one that sends more, the first are dropped.
const WAITING: usize = 1024;

/// The other process's segments of one connection.
pub(super) struct Inbox {
    side: Arc<Side>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: [Option<(u64, Arc<Received>)>; SLOTS],
    once: Vec<(Label, Received)>,
    /// Why something that was sent is not here, and never will be.
    lost: Option<String>,
}

impl Inbox {
    pub(super) fn new(side: Arc<Side>) -> Self {
        Inbox { side, state: Mutex::default() }
    }

    /// Whether something that was sent could not be had. Its writer does not know, and would tell of that place again and again.
    pub(super) fn has_lost(&self) -> bool {
        self.state.lock().lost.is_some()
    }

    /// Views of byte strings that were sent. Of what came for calls that nobody wants any more, nothing is kept.
    ///
    /// # Errors
    ///
    /// They are not there: they were taken back, or there was no room for their descriptor, or for so much memory.
    pub(super) fn open(&self, pieces: &Pieces, is_wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Bytes>> {
        self.find(pieces, is_wanted)?.open(pieces.message, &pieces.lengths)
    }

    fn find(&self, pieces: &Pieces, is_wanted: impl Fn(u64) -> bool) -> io::Result<Arc<Received>> {
        let mut state = self.state.lock();
        state.once.retain(|(label, _)| is_wanted(label.call));
        loop {
            if let Some(found) = state.take(pieces) {
                return Ok(found);
            }
            let received = self.side.receive().inspect_err(|error| state.lose(error))?;
            let Some((label, file)) = received else {
                let lost = state.lost.as_deref().unwrap_or("its shared memory did not come with it");
                return Err(io::Error::other(lost.to_owned()));
            };
            // What is lost may be another call's: this one goes on.
            match file.and_then(Received::new) {
                Ok(received) => state.put(label, received),
                Err(error) => state.lose(&error),
            }
        }
    }

    /// Gives back the memory of the other process's segments that nobody uses now.
    pub(super) fn trim(&self) {
        // Not under the lock: it takes a while, and calls open what has come meanwhile.
        let kept = self.state.lock().kept.clone();
        for (_, received) in kept.iter().flatten() {
            received.trim();
        }
    }
}

impl State {
    /// The first reason stays: what follows, follows from it.
    fn lose(&mut self, error: &io::Error) {
        self.lost.get_or_insert_with(|| error.to_string());
    }

    fn take(&mut self, pieces: &Pieces) -> Option<Arc<Received>> {
        if pieces.slot == ONCE {
            let at = self.once.iter().position(|(label, _)| label.number == pieces.segment)?;
            return Some(Arc::new(self.once.swap_remove(at).1));
        }
        let kept = self.kept.get(usize::try_from(pieces.slot).ok()?)?.as_ref();
        kept.filter(|(number, _)| *number == pieces.segment).map(|(_, received)| Arc::clone(received))
    }

    fn put(&mut self, label: Label, received: Received) {
        if label.slot == ONCE {
            if self.once.len() == WAITING {
                self.once.remove(0);
            }
            self.once.push((label, received));
        } else if let Some(kept) = usize::try_from(label.slot).ok().and_then(|slot| self.kept.get_mut(slot)) {
            *kept = Some((label.number, Arc::new(received)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::super::segment::Written;
    use super::*;

    fn pieces(slot: u64, segment: u64, message: u64) -> Pieces {
        Pieces { slot, segment, message, lengths: vec![5] }
    }

    /// The socket of the one that writes, and the other's inbox.
    fn ends() -> (Side, Inbox) {
        let (one, other) = Side::pair();
        (one, Inbox::new(Arc::new(other)))
    }

    fn sent(side: &Side, slot: u64, number: u64, call: u64) -> (Written, u64) {
        let mut memory = Written::make(5).expect("there is memory");
        let message = memory.take().expect("it is free");
        memory.write(0, b"bytes");
        memory.send(message);
        side.send(Label { slot, number, call }, memory.file()).expect("there is room");
        (memory, message)
    }

    #[test]
    fn segments_are_found_in_whatever_order_they_are_asked_for() {
        let (side, inbox) = ends();
        let segments = [(0, 1), (ONCE, 2), (1, 3), (ONCE, 4)];
        let sent = segments.map(|(slot, number)| (slot, number, sent(&side, slot, number, number).1));
        for (slot, number, message) in sent.into_iter().rev() {
            let views = inbox.open(&pieces(slot, number, message), |_| true).expect("it is there");
            assert_eq!(views, [&b"bytes"[..]]);
        }
        assert!(inbox.state.lock().once.is_empty());
    }

    #[test]
    fn what_was_not_sent_is_an_error_and_no_wait() {
        let (side, inbox) = ends();
        let (_memory, message) = sent(&side, 0, 1, 1);
        for (slot, segment) in [(0, 2), (1, 1), (2, 1), (ONCE, 1), (ONCE - 1, 1)] {
            inbox.open(&pieces(slot, segment, message), |_| true).expect_err("there is none");
        }
        inbox.open(&pieces(0, 1, message), |_| true).expect("that one is there");
    }

    #[test]
    fn what_is_lost_is_told_and_takes_nothing_else_with_it() {
        let (side, inbox) = ends();
        let (_first, first) = sent(&side, 0, 1, 1);
        let file = memfd_create("test", MemfdFlags::CLOEXEC).expect("a file");
        side.send(Label { slot: 1, number: 2, call: 2 }, file.as_fd()).expect("there is room");
        let (_third, third) = sent(&side, ONCE, 3, 3);
        inbox.open(&pieces(0, 1, first), |_| true).expect("it is there");
        assert!(!inbox.has_lost());
        inbox.open(&pieces(ONCE, 3, third), |_| true).expect("what came behind the lost one is there");
        assert!(inbox.has_lost());
        let lost = inbox.open(&pieces(1, 2, 1), |_| true).expect_err("it is lost");
        assert_eq!(lost.to_string(), "the other process could take its shared memory away");
    }

    #[test]
    fn what_is_not_there_yet_is_not_lost() {
        let (_side, inbox) = ends();
        inbox.open(&pieces(0, 1, 1), |_| true).expect_err("nothing was sent");
        assert!(!inbox.has_lost());
    }

    #[test]
    fn what_nobody_wants_is_dropped() {
        let (side, inbox) = ends();
        for call in 0..4 {
            let (_memory, _) = sent(&side, ONCE, call, call);
        }
        let (_memory, message) = sent(&side, 0, 4, 4);
        inbox.open(&pieces(0, 4, message), |_| true).expect("it is there");
        assert_eq!(inbox.state.lock().once.len(), 4);
        inbox.open(&pieces(0, 5, message), |call| call > 2).expect_err("there is none");
        assert_eq!(inbox.state.lock().once.len(), 1);
    }

    #[test]
    fn a_peer_that_sends_too_many_has_the_first_dropped() {
        let (side, inbox) = ends();
        for number in 0..WAITING as u64 + 1 {
            let (_memory, _) = sent(&side, ONCE, number, 0);
            inbox.open(&pieces(0, 0, 0), |_| true).expect_err("there is none");
        }
        assert_eq!(inbox.state.lock().once.len(), WAITING);
        assert_eq!(inbox.state.lock().once[0].0.number, 1);
    }

    #[test]
    fn what_is_no_memory_of_ours_is_an_error() {
        let (side, inbox) = ends();
        let file = memfd_create("test", MemfdFlags::CLOEXEC).expect("a file");
        side.send(Label { slot: 0, number: 1, call: 1 }, file.as_fd()).expect("there is room");
        inbox.open(&pieces(0, 1, 1), |_| true).expect_err("it is not sealed");
        drop(side);
        inbox.open(&pieces(0, 1, 1), |_| true).expect_err("the peer is gone");
    }
}
