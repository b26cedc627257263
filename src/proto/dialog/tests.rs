//! Scripts for one side, and a model: two sides, two lines with delay, every call at any moment.
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::proto::credit::FIRST_WINDOW_BYTES;

type Side = Dialog<&'static str>;

fn opener() -> Side {
    let mut side = Side::new(Role::Opener, Overruns::Wait);
    side.on_started(1).expect("it is the first");
    side
}

fn callee() -> Side {
    let mut side = Side::new(Role::Callee, Overruns::Wait);
    side.start().expect("it is the first");
    side
}

#[test]
fn the_first_word_comes_once_and_before_the_stream() {
    let mut side = Side::new(Role::Callee, Overruns::Wait);
    assert_eq!(side.open_stream(), Err(Misuse::StreamBeforeStarted));
    assert_eq!(side.start(), Ok(()));
    assert_eq!(side.start(), Err(Misuse::StartedTwice));
    assert_eq!(side.open_stream(), Ok(()));
    assert_eq!(side.open_stream(), Err(Misuse::SecondStream));
    assert_eq!(side.on_started(1), Err(Violation::OutOfOrder { kind: "Started", dialog: 1 }));
}

#[test]
fn a_stream_after_the_end_is_a_mistake_only_where_the_end_is_known() {
    let mut fast = opener();
    fast.on_open(1).unwrap();
    fast.on_end("returned");
    assert_eq!(fast.open_stream(), Ok(()));
    assert_eq!(fast.read(), Found::End);

    let mut told = opener();
    told.on_open(1).unwrap();
    told.on_end("returned");
    told.tell_end();
    assert_eq!(told.open_stream(), Err(Misuse::Ended));

    let mut never = opener();
    never.on_end("returned");
    assert_eq!(never.open_stream(), Err(Misuse::Ended));
}

#[test]
fn exactly_the_first_window_is_held_for_a_reader_that_never_comes() {
    let mut side = opener();
    side.open_stream().unwrap();
    assert_eq!(side.room(FIRST_WINDOW_BYTES as usize - 1), Ok(Room::Now));
    assert_eq!(side.room(2), Ok(Room::NoReader));
    assert_eq!(side.room(1), Ok(Room::Now));
    side.on_open(1).unwrap();
    assert_eq!(side.room(1), Ok(Room::Pieces));
}

#[test]
fn what_is_sent_to_one_who_has_left_is_dropped_until_the_credit_is_used_up() {
    let mut side = opener();
    side.open_stream().unwrap();
    side.on_open(1).unwrap();
    side.on_end("returned");
    assert_eq!(side.room(FIRST_WINDOW_BYTES as usize), Ok(Room::InTransit));
    assert_eq!(side.room(1), Ok(Room::Gone));
    assert_eq!(side.room_for_piece(1), None);
}

#[test]
fn a_half_close_leaves_the_other_way_open() {
    let mut side = opener();
    side.open_stream().unwrap();
    side.on_open(1).unwrap();
    assert_eq!(side.stop(Stop::Finished), Some(Stop::Finished));
    assert_eq!(side.stop(Stop::Finished), None);
    assert_eq!(side.room(1), Err(Misuse::Finished));
    side.on_bytes(1, 1, false).unwrap();
    side.on_items(vec![7]);
    assert_eq!(side.read(), Found::Items(vec![7]));
    assert_eq!(side.read(), Found::Nothing);
    side.on_stop(1, Stop::Finished).unwrap();
    for _ in 0..100 {
        assert_eq!(side.read(), Found::End);
    }
    assert_eq!(side.stop(Stop::Left), Some(Stop::Left));
}

#[test]
fn a_cancel_of_our_own_ends_reading_at_once_and_is_sent_once() {
    let mut side = opener();
    side.open_stream().unwrap();
    side.on_open(1).unwrap();
    side.on_bytes(1, 1, false).unwrap();
    side.on_items(vec![7]);
    assert!(side.cancel());
    assert!(!side.cancel());
    assert_eq!(side.read(), Found::End);
    side.on_bytes(1, 1, false).expect("it was in transit");
    side.on_items(vec![8]);
    assert_eq!(side.read(), Found::End);
}

#[test]
fn one_long_item_is_let_in_while_its_reader_waits_and_not_before() {
    let mut side = callee();
    side.on_open(1).unwrap();
    side.on_bytes(1, FIRST_WINDOW_BYTES as usize, true).unwrap();
    assert_eq!(side.credit(), None, "nobody reads yet");
    side.open_stream().unwrap();
    let granted = side.credit().expect("its reader waits");
    assert_eq!(granted, u64::from(FIRST_WINDOW_BYTES + WINDOW_BYTES));
    let rest = WINDOW_BYTES as usize;
    side.on_bytes(1, rest, true).unwrap();
    assert!(side.credit().is_some_and(|more| more > granted));
    side.on_items(vec![0; FIRST_WINDOW_BYTES as usize + rest]);
    assert!(matches!(side.read(), Found::Items(_)));
    // What was let in is not counted a second time.
    assert_eq!(side.inbox.waiting_bytes, 0);
    side.credit();
    assert!(side.on_bytes(1, 2 * WINDOW_BYTES as usize, false).is_err());
}

#[test]
fn where_overruns_are_allowed_the_oldest_are_dropped_and_counted() {
    let mut side = Side::new(Role::Opener, Overruns::DropOldest);
    side.on_started(1).unwrap();
    side.on_open(1).unwrap();
    let mut sent = 0;
    assert!(side.credit().is_some());
    for _ in 0..10_000 {
        // 200 items of 5 bytes each: a `bin` of 3.
        let items: Vec<u8> = (0..200).flat_map(|_| [0xc4, 3, 1, 2, 3]).collect();
        side.on_bytes(1, items.len(), false).expect("there is always credit");
        side.on_items(items);
        sent += 200;
        side.credit();
    }
    assert!(side.inbox.waiting_bytes <= WINDOW_BYTES as usize / 2);
    side.open_stream().unwrap();
    let mut received = 0;
    while let Found::Items(items) = side.read() {
        received += items.len() as u64 / 5;
    }
    assert!(received > 0 && side.dropped() > 0);
    assert_eq!(received + side.dropped(), sent);
}

/// What travels between the two sides of the model.
#[derive(Clone, Debug)]
enum Travels {
    Started,
    Open,
    Items(usize),
    Piece(usize),
    LastPiece(usize),
    Stop(Stop),
    Credit(u64),
    Cancel,
    End(&'static str),
}

/// What may happen next in the model: side 0 opened the dialog, side 1 is the callee.
#[derive(Clone, Debug)]
enum Step {
    Start,
    OpenStream(usize),
    Send(usize, usize),
    Finish(usize),
    Leave(usize),
    BodyOver,
    Read(usize),
    Cancel,
    CalleeEnds(&'static str),
    Deliver(usize),
    LineLost,
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0usize..2;
    prop_oneof![
        3 => Just(Step::Start),
        4 => side.clone().prop_map(Step::OpenStream),
        20 => (side.clone(), prop_oneof![1usize..100, 1usize..20_000, 1usize..3_000_000]).prop_map(|(side, len)| Step::Send(side, len)),
        1 => side.clone().prop_map(Step::Finish),
        1 => side.clone().prop_map(Step::Leave),
        1 => Just(Step::BodyOver),
        20 => side.clone().prop_map(Step::Read),
        1 => Just(Step::Cancel),
        1 => prop_oneof![Just("returned"), Just("failed")].prop_map(Step::CalleeEnds),
        40 => side.prop_map(Step::Deliver),
        1 => Just(Step::LineLost),
    ]
}

struct Model {
    sides: [Side; 2],
    /// On their way to side 0, and to side 1.
    lines: [VecDeque<Travels>; 2],
    /// The long item that each side is sending.
    rest: [usize; 2],
    /// What has arrived of one.
    unfinished: [usize; 2],
    sent: [usize; 2],
    read: [usize; 2],
    /// Nobody threw anything away.
    is_lossless: [bool; 2],
    was_told_to_cancel: bool,
    is_lost: bool,
}

impl Model {
    fn new() -> Model {
        Model {
            sides: [Side::new(Role::Opener, Overruns::Wait), Side::new(Role::Callee, Overruns::Wait)],
            lines: Default::default(),
            rest: [0; 2],
            unfinished: [0; 2],
            sent: [0; 2],
            read: [0; 2],
            is_lossless: [true; 2],
            was_told_to_cancel: false,
            is_lost: false,
        }
    }

    fn send(&mut self, from: usize, what: Travels) {
        if !self.is_lost {
            self.lines[1 - from].push_back(what);
        }
    }

    fn grant(&mut self, side: usize) {
        if let Some(up_to) = self.sides[side].credit() {
            self.send(side, Travels::Credit(up_to));
        }
    }

    /// A long item goes on as far as there is credit.
    fn go_on(&mut self, from: usize) {
        while self.rest[from] > 0 {
            match self.sides[from].room_for_piece(self.rest[from].min(100_000)) {
                None => {
                    self.rest[from] = 0;
                    self.is_lossless[from] = false;
                }
                Some(0) => return,
                Some(piece) => {
                    self.rest[from] -= piece;
                    let what = if self.rest[from] == 0 { Travels::LastPiece(piece) } else { Travels::Piece(piece) };
                    self.send(from, what);
                }
            }
        }
    }

    fn end(&mut self, end: &'static str) {
        if self.sides[1].end().is_none() {
            self.rest[1] = 0;
            self.is_lossless = [false; 2];
            self.sides[1].on_end(end);
            self.send(1, Travels::End(end));
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start => {
                if self.sides[1].end().is_none() && self.sides[1].start().is_ok() {
                    self.send(1, Travels::Started);
                }
            }
            Step::OpenStream(side) => {
                let may = side == 1 || self.sides[0].has_started();
                if may && self.sides[side].open_stream().is_ok() {
                    if self.sides[side].end().is_none() {
                        self.send(side, Travels::Open);
                    }
                    self.grant(side);
                }
            }
            Step::Send(from, len) => {
                if !self.sides[from].ours.is_open || self.rest[from] > 0 {
                    return;
                }
                match self.sides[from].room(len) {
                    Ok(Room::Now) => {
                        self.sent[from] += len;
                        self.send(from, Travels::Items(len));
                    }
                    Ok(Room::Pieces) => {
                        self.sent[from] += len;
                        self.rest[from] = len;
                        self.go_on(from);
                    }
                    Ok(Room::InTransit | Room::Gone | Room::NoReader) | Err(_) => {}
                }
            }
            Step::Finish(side) => self.stop(side, Stop::Finished),
            Step::Leave(side) => self.stop(side, Stop::Left),
            Step::BodyOver => self.stop(0, Stop::BodyOver),
            Step::Read(side) => {
                if self.sides[side].ours.is_open {
                    if let Found::Items(items) = self.sides[side].read() {
                        self.read[side] += items.len();
                    }
                    self.grant(side);
                }
            }
            Step::Cancel => {
                if self.sides[0].cancel() {
                    self.is_lossless = [false; 2];
                    self.send(0, Travels::Cancel);
                }
            }
            Step::CalleeEnds(how) => self.end(how),
            Step::Deliver(to) => {
                if let Some(what) = self.lines[to].pop_front() {
                    self.deliver(to, what);
                }
            }
            Step::LineLost => {
                self.is_lost = true;
                self.is_lossless = [false; 2];
                self.lines = Default::default();
                for side in &mut self.sides {
                    side.on_end("lost");
                }
            }
        }
    }

    fn stop(&mut self, side: usize, how: Stop) {
        if self.rest[side] > 0 || (how != Stop::BodyOver && !self.sides[side].ours.is_open) {
            return;
        }
        if how != Stop::Finished {
            self.is_lossless[1 - side] = false;
        }
        if let Some(how) = self.sides[side].stop(how) {
            self.send(side, Travels::Stop(how));
        }
    }

    fn deliver(&mut self, to: usize, what: Travels) {
        // The table drops what comes for a dialog that has ended.
        if self.sides[to].end().is_some() {
            return;
        }
        let side = &mut self.sides[to];
        match what {
            Travels::Started => side.on_started(1).expect("once"),
            Travels::Open => side.on_open(1).expect("once"),
            Travels::Items(len) => {
                side.on_bytes(1, len, false).expect("within its credit");
                side.on_items(vec![0; len]);
            }
            Travels::Piece(len) => {
                side.on_bytes(1, len, true).expect("within its credit");
                self.unfinished[to] += len;
            }
            Travels::LastPiece(len) => {
                side.on_bytes(1, len, true).expect("within its credit");
                side.on_items(vec![0; std::mem::take(&mut self.unfinished[to]) + len]);
            }
            Travels::Stop(how) => side.on_stop(1, how).expect("in its order"),
            Travels::Credit(up_to) => side.on_credit(up_to),
            Travels::Cancel => {
                self.was_told_to_cancel = true;
                self.end("cancelled");
            }
            Travels::End(end) => side.on_end(end),
        }
        assert!(self.sides[to].inbox.waiting_bytes <= WINDOW_BYTES as usize);
        self.grant(to);
        self.go_on(to);
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            for side in [0, 1] {
                self.go_on(side);
                while !self.lines[side].is_empty() {
                    self.take(Step::Deliver(side));
                }
                self.take(Step::Read(side));
            }
            if self.lines.iter().all(VecDeque::is_empty) && self.rest == [0; 2] {
                return;
            }
            let blocked_for_good =
                [0, 1].iter().all(|&from| self.rest[from] == 0 || !self.sides[1 - from].ours.is_open);
            if self.lines.iter().all(VecDeque::is_empty) && blocked_for_good {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn two_sides_agree_whatever_happens_in_whatever_order(steps in prop::collection::vec(step(), 1..300)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        model.settle();
        // All that was sent to somebody who reads was read, once.
        for (from, to) in [(0, 1), (1, 0)] {
            prop_assert!(model.read[to] <= model.sent[from]);
            if model.is_lossless[from] && model.is_lossless[to] && model.sides[to].ours.is_open {
                prop_assert_eq!(model.read[to] + model.rest[from], model.sent[from]);
            }
        }
        // A sender whose peer reads is never stuck.
        for (from, to) in [(0, 1), (1, 0)] {
            let reads = model.sides[to].ours.is_open && !model.sides[to].inbox.is_deaf;
            let sends = model.sides[from].ours.is_open && model.sides[from].ours.stop.is_none();
            if reads && sends && model.sides[from].is_heard() {
                prop_assert!(model.sides[from].sending.room() > 0);
            }
        }
        model.take(Step::CalleeEnds("returned"));
        model.settle();
        // One end, the same on both sides, the hundredth time too.
        let (opener, callee) = (model.sides[0].end(), model.sides[1].end());
        prop_assert!(opener.is_some() && callee.is_some());
        // With the line goes the callee's last word, if it was still on its way.
        prop_assert!(opener == callee || (model.is_lost && opener == Some(&"lost")), "{:?} {:?}", opener, callee);
        for side in &mut model.sides {
            while let Found::Items(_) = side.read() {}
            for _ in 0..100 {
                prop_assert_eq!(side.read(), Found::End);
            }
        }
    }
}
