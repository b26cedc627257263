//! What has come on the streams of a connection, put into one row: whole frames, each stream's in their order.
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use quinn_proto::{Dir, Side, StreamId};

use crate::msg::frame::{self, COURSE_BYTES, Course, MAX_FRAME_BYTES, MAX_HELLO_BYTES};

/// What belongs to no dialog goes on the first stream, which the connecting side opens.
pub(super) fn line_stream() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

/// The stream of a dialog: the dialogs of a side and its streams are counted alike, behind the first stream.
pub(super) fn stream_of(dialog: u64) -> StreamId {
    match dialog % 2 {
        1 => StreamId::new(Side::Client, Dir::Bi, dialog / 2 + 1),
        _ => StreamId::new(Side::Server, Dir::Bi, (dialog / 2).saturating_sub(1)),
    }
}

/// Bytes of frames that are not whole, in all: more than one of the longest is no honest peer's.
const MAX_HELD_BYTES: usize = MAX_FRAME_BYTES as usize + (64 << 20);

/// The same before it has said who it is, and may have called already.
const MAX_EARLY_BYTES: usize = 8 << 20;

/// What a piece counts for at least, in bytes: it keeps the datagram that it came in.
const MIN_HELD_BYTES: usize = 1500;

/// The memory that a piece keeps.
fn weight(chunk: &Bytes) -> usize {
    chunk.len().max(MIN_HELD_BYTES)
}

/// The peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("a frame on the stream of another dialog")]
    Stream,
    #[error("too many bytes of frames that are not whole")]
    Held,
}

/// What a frame that has come says of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done(pub(super) StreamId);

/// Frames that are whole, and the beginnings of others.
#[derive(Default)]
pub(super) struct Inward {
    ready: VecDeque<Bytes>,
    /// Before the first frame of the connection itself nothing is handed over.
    early: VecDeque<Bytes>,
    has_greeted: bool,
    /// What comes on the first stream is no frames.
    is_raw: bool,
    partial: HashMap<StreamId, Partial>,
    held_bytes: usize,
}

/// The beginning of a frame.
#[derive(Default)]
struct Partial {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// The memory that its chunks keep.
    weight: usize,
    /// In pieces: the rest of a result or an error.
    is_last: bool,
}

impl Partial {
    /// Its first bytes, at most so many as `into` has room for.
    fn peek<'i>(&self, into: &'i mut [u8]) -> &'i [u8] {
        let mut len = 0;
        for chunk in &self.chunks {
            let taken = chunk.len().min(into.len() - len);
            into[len..len + taken].copy_from_slice(&chunk[..taken]);
            len += taken;
            if len == into.len() {
                break;
            }
        }
        &into[..len]
    }
}

impl Inward {
    /// From here on the first stream carries something else than frames.
    pub(super) fn be_raw(&mut self) {
        self.is_raw = true;
        if let Some(partial) = self.partial.remove(&line_stream()) {
            self.held_bytes -= partial.weight;
            self.ready.extend(partial.chunks);
        }
    }

    /// These bytes have come on `stream`; `done` is told when nothing more comes of a dialog.
    pub(super) fn push(&mut self, stream: StreamId, chunk: Bytes, mut done: impl FnMut(Done)) -> Result<(), Wrong> {
        if self.is_raw && stream == line_stream() {
            self.ready.push_back(chunk);
            return Ok(());
        }
        let mut partial = self.partial.remove(&stream).unwrap_or_default();
        self.held_bytes -= partial.weight;
        partial.bytes += chunk.len();
        partial.weight += weight(&chunk);
        partial.chunks.push_back(chunk);
        let mut head = [0; COURSE_BYTES];
        loop {
            let head = partial.peek(&mut head);
            let limit = if self.has_greeted || stream != line_stream() { MAX_FRAME_BYTES } else { MAX_HELLO_BYTES };
            let needed = match frame::needed(head, limit) {
                Ok(Some(needed)) if needed <= partial.bytes => needed,
                Ok(_) => break,
                Err(_said_by_its_decoder) => partial.bytes,
            };
            let course = frame::course(head);
            let expected = course.and_then(Course::dialog).map_or(line_stream(), stream_of);
            if course.is_some() && expected != stream {
                return Err(Wrong::Stream);
            }
            match course {
                Some(Course::Last(_)) => done(Done(stream)),
                Some(Course::LastBegins(_)) => partial.is_last = true,
                Some(Course::Piece { is_last: true, .. }) if partial.is_last => {
                    partial.is_last = false;
                    done(Done(stream));
                }
                _ => {}
            }
            self.hand_over(stream, &mut partial, needed);
        }
        if partial.bytes > 0 || partial.is_last {
            self.held_bytes += partial.weight;
            self.partial.insert(stream, partial);
        }
        let early: usize = self.early.iter().map(weight).sum();
        let most = if self.has_greeted { MAX_HELD_BYTES } else { MAX_EARLY_BYTES };
        if self.held_bytes + early > most { Err(Wrong::Held) } else { Ok(()) }
    }

    /// The first `bytes` of it are a whole frame.
    fn hand_over(&mut self, stream: StreamId, partial: &mut Partial, bytes: usize) {
        let is_greeting = !self.has_greeted && stream == line_stream();
        let ready = if self.has_greeted || is_greeting { &mut self.ready } else { &mut self.early };
        partial.bytes -= bytes;
        let mut left = bytes;
        while left > 0 {
            let Some(mut chunk) = partial.chunks.pop_front() else { break };
            partial.weight -= weight(&chunk);
            if chunk.len() > left {
                ready.push_back(chunk.split_to(left));
                partial.weight += weight(&chunk);
                partial.chunks.push_front(chunk);
                break;
            }
            left -= chunk.len();
            ready.push_back(chunk);
        }
        if is_greeting {
            self.has_greeted = true;
            self.ready.append(&mut self.early);
        }
    }

    /// Nothing more comes on `stream`.
    pub(super) fn forget(&mut self, stream: StreamId) {
        if let Some(partial) = self.partial.remove(&stream) {
            self.held_bytes -= partial.weight;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Hands over at most `most` bytes of what is ready, by pieces; how many.
    pub(super) fn take(&mut self, most: usize, mut put: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(first) = self.ready.front_mut() else { break };
            let count = first.len().min(most - taken);
            put(&first[..count]);
            taken += count;
            match count == first.len() {
                true => drop(self.ready.pop_front()),
                false => drop(first.split_to(count)),
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::msg::frame::{Encoding, Frame};

    fn bytes_of(frame: &Frame<'_>, payload: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        frame::encode(frame, payload, &mut out);
        out.freeze()
    }

    fn start(dialog: u64) -> Frame<'static> {
        Frame::Start { dialog, endpoint: 0, path: Some("a::b"), deadline_us: None, encoding: Encoding::Named, left: 0 }
    }

    fn all(inward: &mut Inward) -> Vec<u8> {
        let mut bytes = Vec::new();
        inward.take(usize::MAX, |piece| bytes.extend_from_slice(piece));
        bytes
    }

    #[test]
    fn the_streams_of_both_sides_are_counted_behind_the_first() {
        assert_eq!(
            [stream_of(1), stream_of(3)].map(|id| (id.initiator(), id.index())),
            [(Side::Client, 1), (Side::Client, 2)]
        );
        assert_eq!(
            [stream_of(2), stream_of(4)].map(|id| (id.initiator(), id.index())),
            [(Side::Server, 0), (Side::Server, 1)]
        );
    }

    #[test]
    fn a_frame_that_is_not_whole_holds_up_no_other_and_nothing_passes_the_greeting() {
        let mut inward = Inward::default();
        let (one, three) = (bytes_of(&start(1), b"one"), bytes_of(&start(3), b"three"));
        let greeting = bytes_of(&Frame::Ping { nonce: 7 }, &[]);
        let ends = |_: Done| panic!("nothing ends");
        inward.push(stream_of(3), three.clone(), ends).unwrap();
        assert!(inward.is_empty(), "who is there is said first");
        inward.push(stream_of(1), one.slice(..9), ends).unwrap();
        inward.push(line_stream(), greeting.slice(..5), ends).unwrap();
        assert!(inward.is_empty());
        inward.push(line_stream(), greeting.slice(5..), ends).unwrap();
        assert_eq!(all(&mut inward), [&greeting[..], &three].concat());
        inward.push(stream_of(1), one.slice(9..), ends).unwrap();
        assert_eq!(all(&mut inward), one);
    }

    #[test]
    fn a_dialog_is_done_with_the_last_piece_of_its_result_and_not_of_an_item() {
        let mut inward = Inward { has_greeted: true, ..Inward::default() };
        let mut done = Vec::new();
        let piece = |left| bytes_of(&Frame::Part { dialog: 1, left }, b"piece");
        for (frame, ends) in [
            (bytes_of(&Frame::Yield { dialog: 1, encoding: Encoding::Named, left: 5 }, &[]), 0),
            (piece(0), 0),
            (bytes_of(&Frame::Return { dialog: 1, encoding: Encoding::Named, left: 10 }, &[]), 0),
            (piece(5), 0),
            (piece(0), 1),
        ] {
            inward.push(stream_of(1), frame, |ended| done.push(ended)).unwrap();
            assert_eq!(done.len(), ends);
        }
        inward
            .push(stream_of(3), bytes_of(&Frame::Error { dialog: 3, left: 0 }, b"e"), |ended| done.push(ended))
            .unwrap();
        assert_eq!(done, [Done(stream_of(1)), Done(stream_of(3))]);
    }

    #[test]
    fn a_frame_on_another_stream_than_its_own_is_refused_and_a_broken_one_goes_to_its_decoder() {
        let mut inward = Inward { has_greeted: true, ..Inward::default() };
        let misplaced = bytes_of(&start(1), b"");
        assert_eq!(inward.push(stream_of(3), misplaced.clone(), |_| {}), Err(Wrong::Stream));
        assert_eq!(inward.push(line_stream(), misplaced, |_| {}), Err(Wrong::Stream));
        let huge = Bytes::from_static(&[0xff; 6]);
        inward.push(stream_of(5), huge.clone(), |_| {}).unwrap();
        assert_eq!(all(&mut inward), huge);
    }

    proptest! {
        /// Whatever comes on whichever stream: it is taken or refused, and what is handed over has come.
        #[test]
        fn any_bytes_are_taken_or_refused(chunks in prop::collection::vec((0u64..4, prop::collection::vec(any::<u8>(), 0..60)), 0..60)) {
            let mut inward = Inward::default();
            let (mut came, mut handed) = (0, 0);
            for (stream, chunk) in chunks {
                came += chunk.len();
                let stream = StreamId::new(Side::Client, Dir::Bi, stream);
                let pushed = inward.push(stream, chunk.into(), |_| {});
                handed += inward.take(usize::MAX, |_| {});
                prop_assert!(handed <= came);
                if pushed.is_err() {
                    return Ok(());
                }
            }
        }

        /// However the bytes of three streams are cut and mixed: each frame comes out whole, once, in its stream's order.
        #[test]
        fn frames_come_out_whole(cuts in prop::collection::vec((0usize..3, 1usize..40), 1..300)) {
            let streams = [line_stream(), stream_of(1), stream_of(2)];
            let mut rows: Vec<Bytes> = (0..3u8).map(|row| {
                let frames = (0..20u8).map(|n| match row {
                    0 => bytes_of(&Frame::Ping { nonce: n.into() }, &[]),
                    1 => bytes_of(&Frame::Yield { dialog: 1, encoding: Encoding::Named, left: 0 }, &vec![n; usize::from(n)]),
                    _ => bytes_of(&Frame::Yield { dialog: 2, encoding: Encoding::Named, left: 0 }, &[n; 3]),
                });
                frames.collect::<Vec<_>>().concat().into()
            }).collect();
            let whole: Vec<Bytes> = rows.clone();
            let mut inward = Inward { has_greeted: true, ..Inward::default() };
            let rest = (0..3).map(|row| (row, usize::MAX));
            for (row, bytes) in cuts.into_iter().chain(rest) {
                let count = bytes.min(rows[row].len());
                if count > 0 {
                    inward.push(streams[row], rows[row].split_to(count), |_| {}).unwrap();
                }
            }
            let bytes = all(&mut inward);
            let mut out = [Vec::new(), Vec::new(), Vec::new()];
            let mut at = 0;
            while at < bytes.len() {
                let (frame, _, taken) = frame::decode(&bytes[at..], MAX_FRAME_BYTES).unwrap().expect("a whole one");
                let row = match frame { Frame::Yield { dialog, .. } => dialog as usize, _ => 0 };
                out[row].extend_from_slice(&bytes[at..at + taken]);
                at += taken;
            }
            prop_assert!(inward.partial.is_empty() && inward.held_bytes == 0);
            for (out, whole) in out.iter().zip(&whole) {
                prop_assert_eq!(&out[..], &whole[..]);
            }
        }
    }
}
