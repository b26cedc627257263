//! Which dialogs live here? One side of a connection: who opened what, and what may come next.
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::msg::frame::{AckState, Encoding};
use crate::msg::ident::Canceller;

/// Which ids this side gives to the dialogs that it opens. The connecting side is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Connecting,
    Accepting,
}

/// In which order frames of different dialogs come. Those of one dialog come as they were sent, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they were sent, all of them.
    AsSent,
    /// Each dialog has a stream of its own: a later one may be first.
    EachDialog,
}

/// Dialogs that one side may have open at once; then the next Start waits.
pub(crate) const MAX_DIALOGS: usize = 16_384;

/// Starts that may be missing below one that has come, where each dialog has a stream. More than a peer's dialogs can't be honest.
const MAX_GAPS: usize = MAX_DIALOGS;

/// Endpoints that a peer may introduce in any order: more than programs have.
const MAX_ENDPOINTS: usize = 1 << 20;

/// Cancels that may be ahead of their Start. More than a peer's dialogs can't be honest.
const MAX_TOMBSTONES: usize = MAX_DIALOGS;

/// The peer broke the protocol: the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("a Start with the id {0}, which is not above the last one or has the wrong parity")]
    DialogId(u64),
    #[error("more than {MAX_DIALOGS} dialogs at once")]
    TooManyDialogs,
    #[error("{kind} for the dialog {dialog}, which is not open here")]
    NotOpen { kind: &'static str, dialog: u64 },
    #[error("the dialog {0} was acknowledged twice")]
    AckedTwice(u64),
    #[error("the endpoint number {0} was never introduced")]
    UnknownEndpoint(u32),
    #[error("the endpoint number {0} was introduced out of order")]
    EndpointOrder(u32),
    #[error("a {0} frame has no place here")]
    Misplaced(&'static str),
    #[error("{kind} for the dialog {dialog}, where it has no place now")]
    OutOfOrder { kind: &'static str, dialog: u64 },
    #[error("more items in the dialog {0} than it was granted")]
    OverCredit(u64),
    #[error("a payload of {announced} bytes is over the limit of {limit} bytes")]
    PayloadTooLong { announced: u64, limit: u64 },
    #[error("more than {MAX_TOMBSTONES} cancels for dialogs that were never started")]
    TooManyCancels,
}

/// How far a dialog that we opened has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Start is on its way.
    Opening,
    /// The peer has said that its task runs.
    Running,
    /// We asked for its end, or no longer care: what comes is dropped, the last frame is awaited.
    Draining,
}

/// The same for a person.
#[cfg(feature = "debug")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Progress {
    /// The peer has said nothing yet.
    Unanswered,
    /// Its task runs.
    Runs,
    /// We have asked for its end.
    Cancelled,
}

/// How many dialogs are open on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenDialogs {
    /// By us.
    pub(crate) opened: usize,
    /// By the peer.
    pub(crate) served: usize,
}

#[derive(Debug)]
struct Opened<O> {
    phase: Phase,
    /// Where in the outgoing byte stream its Start ends: proves whether it left.
    start_ends_at: u64,
    slot: O,
}

/// One side of a connection. `O` is what the user of a dialog that we opened waits on, `S` what a
/// served one is cancelled by, `E` what an endpoint number of the peer stands for.
#[derive(Debug)]
pub(crate) struct Connection<O, S, E> {
    order: Order,
    next: u64,
    opened: HashMap<u64, Opened<O>, BuildHasherDefault<IdHasher>>,
    last_start_seen: u64,
    /// Below it, and not seen.
    gaps: HashSet<u64, BuildHasherDefault<IdHasher>>,
    served: HashMap<u64, S, BuildHasherDefault<IdHasher>>,
    tombstones: HashMap<u64, Canceller, BuildHasherDefault<IdHasher>>,
    /// Seen, and not yet served or ended: a cancel by the other line may come in between.
    starting: HashMap<u64, Option<Canceller>, BuildHasherDefault<IdHasher>>,
    cancelled_by_us: HashSet<u64, BuildHasherDefault<IdHasher>>,
    numbers: HashMap<usize, Number, BuildHasherDefault<IdHasher>>,
    endpoints: Vec<Option<E>>,
    /// Payloads that arrive in pieces: at most one for each dialog.
    assembling: HashMap<u64, Assembling<E>, BuildHasherDefault<IdHasher>>,
}

/// What stands for an endpoint on this connection.
#[derive(Clone, Copy, Debug)]
struct Number {
    number: u32,
    is_known: bool,
}

/// The frame that a payload in pieces belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Head<E> {
    Start { endpoint: E, encoding: Encoding, deadline_us: Option<u64> },
    Started,
    Yield,
    Return,
    Error,
}

/// A payload of which pieces are still to come.
#[derive(Debug, PartialEq)]
pub(crate) struct Assembling<E> {
    pub(crate) head: Head<E>,
    /// What has arrived. It grows with that, not with what was announced.
    pub(crate) bytes: Vec<u8>,
    left: u64,
}

/// What a piece came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<E> {
    /// Its dialog has ended: it is dropped.
    Dropped,
    /// Others follow; whether it is of an item.
    More { is_item: bool },
    /// It was the last one.
    Whole(Assembling<E>),
}

/// Bytes for which room is made when a payload of at least so many begins.
const FIRST_ROOM_BYTES: u64 = 1 << 20;

/// What to do with a Start of the peer.
#[derive(Debug, PartialEq)]
pub(crate) enum StartVerdict {
    /// Serve it.
    Serve,
    /// Its cancel came first: answer Cancelled, run nothing.
    Cancelled(Canceller),
}

/// What a cancel of the peer met.
#[derive(Debug)]
pub(crate) enum CancelVerdict<'a, S> {
    /// A running dialog.
    Asked(&'a S),
    /// One that is about to run: it is told when it does.
    Starting,
    /// One whose arguments have not all come: it never runs, and is to be answered with an Error.
    NotWhole,
    /// None: it is over, or has not begun and never will.
    Ended,
}

impl<S> CancelVerdict<'_, S> {
    pub(crate) fn state(&self) -> AckState {
        match self {
            CancelVerdict::Asked(_) | CancelVerdict::Starting | CancelVerdict::NotWhole => AckState::Asked,
            CancelVerdict::Ended => AckState::Ended,
        }
    }
}

impl<O, S, E: Clone> Connection<O, S, E> {
    pub(crate) fn new(side: Side, order: Order) -> Self {
        Connection {
            order,
            next: match side {
                Side::Connecting => 1,
                Side::Accepting => 2,
            },
            opened: HashMap::default(),
            last_start_seen: 0,
            gaps: HashSet::default(),
            served: HashMap::default(),
            tombstones: HashMap::default(),
            starting: HashMap::default(),
            cancelled_by_us: HashSet::default(),
            numbers: HashMap::default(),
            endpoints: Vec::new(),
            assembling: HashMap::default(),
        }
    }

    // ---- what we open

    /// Whether one more dialog may be opened now.
    pub(crate) fn has_room(&self) -> bool {
        self.opened.len() < MAX_DIALOGS
    }

    /// How many dialogs of ours wait for their end.
    pub(crate) fn opened(&self) -> usize {
        self.opened.len()
    }

    /// Opens a dialog. `start_ends_at` is filled in by [`Self::start_queued`].
    pub(crate) fn open(&mut self, slot: O) -> u64 {
        let dialog = self.next;
        self.next += 2;
        self.opened.insert(dialog, Opened { phase: Phase::Opening, start_ends_at: u64::MAX, slot });
        dialog
    }

    /// The Start of `dialog` ends at this offset of the outgoing bytes.
    pub(crate) fn start_queued(&mut self, dialog: u64, ends_at: u64) {
        if let Some(opened) = self.opened.get_mut(&dialog) {
            opened.start_ends_at = ends_at;
        }
    }

    /// The number that stands for the endpoint `key` on this connection, and whether the peer
    /// has to be told its path with this Start.
    pub(crate) fn number_of(&mut self, key: usize) -> (u32, bool) {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let entry = self.numbers.entry(key).or_insert(Number { number: next, is_known: false });
        let is_new = !entry.is_known;
        // Where Starts pass each other, the path goes along until an answer shows that one of them has come.
        entry.is_known |= self.order == Order::AsSent;
        (entry.number, is_new)
    }

    /// The peer has answered a Start of the endpoint `key`: it knows its number.
    pub(crate) fn is_introduced(&mut self, key: usize) {
        if let Some(entry) = self.numbers.get_mut(&key) {
            entry.is_known = true;
        }
    }

    /// Whether [`Self::is_introduced`] is to be told.
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    pub(crate) fn slot(&mut self, dialog: u64) -> Option<&mut O> {
        self.opened.get_mut(&dialog).map(|opened| &mut opened.slot)
    }

    /// Whoever still waits on a dialog that we opened.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &O> {
        self.opened.values().filter(|opened| opened.phase != Phase::Draining).map(|opened| &opened.slot)
    }

    /// The peer says that the task runs.
    pub(crate) fn on_start_ack(&mut self, dialog: u64) -> Result<(), Violation> {
        let opened = self.opened.get_mut(&dialog).ok_or(Violation::NotOpen { kind: "StartAck", dialog })?;
        match opened.phase {
            Phase::Opening => opened.phase = Phase::Running,
            Phase::Draining => {}
            Phase::Running => return Err(Violation::AckedTwice(dialog)),
        }
        Ok(())
    }

    /// Return or Error came: the dialog is over. The slot, if somebody still waits on it.
    pub(crate) fn on_end(&mut self, kind: &'static str, dialog: u64) -> Result<Option<O>, Violation> {
        let opened = self.opened.remove(&dialog).ok_or(Violation::NotOpen { kind, dialog })?;
        self.cancelled_by_us.remove(&dialog);
        self.assembling.remove(&dialog);
        Ok((opened.phase != Phase::Draining).then_some(opened.slot))
    }

    /// Our user no longer waits. Whether a Cancel must be sent: only once.
    pub(crate) fn cancel(&mut self, dialog: u64) -> bool {
        let Some(opened) = self.opened.get_mut(&dialog) else { return false };
        opened.phase = Phase::Draining;
        self.cancelled_by_us.insert(dialog)
    }

    /// Our user asks for its end, and waits for it. Whether a Cancel must be sent: only once.
    pub(crate) fn ask(&mut self, dialog: u64) -> bool {
        self.opened.contains_key(&dialog) && self.cancelled_by_us.insert(dialog)
    }

    /// The line is lost, and the peer has read no more than so many bytes. Every slot, whether its Start was among them, and
    /// whether somebody waits.
    pub(crate) fn on_lost(&mut self, maybe_read: u64) -> Vec<(u64, O, Left, Waits)> {
        self.tombstones.clear();
        self.starting.clear();
        self.cancelled_by_us.clear();
        self.assembling.clear();
        self.opened
            .drain()
            .map(|(dialog, opened)| {
                let left = if opened.start_ends_at <= maybe_read { Left::Yes } else { Left::No };
                let waits = if opened.phase == Phase::Draining { Waits::No } else { Waits::Yes };
                (dialog, opened.slot, left, waits)
            })
            .collect()
    }

    // ---- what the peer opens

    pub(crate) fn on_start(&mut self, dialog: u64) -> Result<StartVerdict, Violation> {
        let is_theirs = dialog % 2 != self.next % 2;
        let is_new = dialog > self.last_start_seen || self.gaps.contains(&dialog);
        if !is_new || !is_theirs {
            return Err(Violation::DialogId(dialog));
        }
        if self.served.len() >= MAX_DIALOGS {
            return Err(Violation::TooManyDialogs);
        }
        self.see(dialog)?;
        Ok(match self.tombstones.remove(&dialog) {
            Some(canceller) => StartVerdict::Cancelled(canceller),
            None => {
                self.starting.insert(dialog, None);
                StartVerdict::Serve
            }
        })
    }

    fn see(&mut self, dialog: u64) -> Result<(), Violation> {
        if self.gaps.remove(&dialog) {
            return Ok(());
        }
        if self.order == Order::EachDialog {
            let first = match self.last_start_seen {
                0 => 2 - dialog % 2,
                last => last + 2,
            };
            if (dialog - first) / 2 + self.gaps.len() as u64 > MAX_GAPS as u64 {
                return Err(Violation::DialogId(dialog));
            }
            self.gaps.extend((first..dialog).step_by(2));
        }
        self.last_start_seen = dialog;
        Ok(())
    }

    /// The endpoint of a Start: `path` introduces its number, which is the next one where all comes as it was sent.
    pub(crate) fn on_endpoint(
        &mut self,
        number: u32,
        path: Option<&str>,
        resolve: impl FnOnce(&str) -> E,
    ) -> Result<&E, Violation> {
        let index = number as usize;
        if let Some(path) = path {
            match self.order {
                Order::AsSent if index != self.endpoints.len() => return Err(Violation::EndpointOrder(number)),
                // One that is ahead has others before it, each with a Start on its way.
                Order::EachDialog if index >= MAX_ENDPOINTS || index > self.endpoints.len() + MAX_GAPS => {
                    return Err(Violation::EndpointOrder(number));
                }
                Order::AsSent | Order::EachDialog => {}
            }
            if index >= self.endpoints.len() {
                self.endpoints.resize(index + 1, None);
            }
            if let Some(place @ None) = self.endpoints.get_mut(index) {
                *place = Some(resolve(path));
            }
        }
        self.endpoints.get(index).and_then(Option::as_ref).ok_or(Violation::UnknownEndpoint(number))
    }

    /// A served dialog runs, and is cancelled by `by`. Who has cancelled it since its Start came.
    #[must_use = "that cancel is still to be acted on"]
    pub(crate) fn serve(&mut self, dialog: u64, by: S) -> Option<Canceller> {
        self.served.insert(dialog, by);
        self.starting.remove(&dialog).flatten()
    }

    /// Our task ended: its last frame may go. `false` when the connection has forgotten it.
    pub(crate) fn end_served(&mut self, dialog: u64) -> bool {
        self.starting.remove(&dialog);
        self.assembling.remove(&dialog);
        self.served.remove(&dialog).is_some()
    }

    /// A served dialog.
    pub(crate) fn served_one(&self, dialog: u64) -> Option<&S> {
        self.served.get(&dialog)
    }

    // ---- either way

    /// Whether this dialog has begun here, and perhaps ended.
    pub(crate) fn has_been(&self, dialog: u64) -> bool {
        match dialog % 2 == self.next % 2 {
            true => dialog < self.next,
            false => self.is_seen(dialog),
        }
    }

    /// Whether the peer's Start of this dialog has come.
    fn is_seen(&self, dialog: u64) -> bool {
        dialog <= self.last_start_seen && !self.gaps.contains(&dialog)
    }

    fn is_open(&self, dialog: u64) -> bool {
        let is_served = self.served.contains_key(&dialog) || self.starting.contains_key(&dialog);
        is_served || self.opened.contains_key(&dialog)
    }

    /// A payload begins of which `left` bytes come in pieces. It takes the place of one that was
    /// not finished.
    pub(crate) fn begin(
        &mut self,
        dialog: u64,
        head: Head<E>,
        first: &[u8],
        left: u64,
        limit: u64,
    ) -> Result<(), Violation> {
        let announced = left.saturating_add(first.len() as u64);
        if announced > limit {
            return Err(Violation::PayloadTooLong { announced, limit });
        }
        let mut bytes = Vec::new();
        if announced >= FIRST_ROOM_BYTES || !first.is_empty() {
            bytes.reserve(announced.min(FIRST_ROOM_BYTES) as usize);
            bytes.extend_from_slice(first);
        }
        self.assembling.insert(dialog, Assembling { head, bytes, left });
        Ok(())
    }

    /// Where the next piece of a dialog's payload belongs.
    pub(crate) fn assembling(&mut self, dialog: u64) -> Option<&mut Vec<u8>> {
        self.assembling.get_mut(&dialog).map(|assembling| &mut assembling.bytes)
    }

    /// A piece of `bytes` has been put there, and `left` follow.
    pub(crate) fn on_piece(&mut self, dialog: u64, bytes: usize, left: u64) -> Result<Piece<E>, Violation> {
        let Some(assembling) = self.assembling.get_mut(&dialog) else {
            return match (self.is_open(dialog), self.has_been(dialog)) {
                (true, _) => Err(Violation::OutOfOrder { kind: "Part", dialog }),
                (false, true) => Ok(Piece::Dropped),
                (false, false) => Err(Violation::NotOpen { kind: "Part", dialog }),
            };
        };
        if assembling.left.checked_sub(bytes as u64) != Some(left) {
            return Err(Violation::OutOfOrder { kind: "Part", dialog });
        }
        assembling.left = left;
        if left > 0 {
            return Ok(Piece::More { is_item: matches!(assembling.head, Head::Yield) });
        }
        Ok(self.assembling.remove(&dialog).map_or(Piece::Dropped, Piece::Whole))
    }

    /// The peer asks for the end of a dialog that it opened.
    pub(crate) fn on_cancel(&mut self, dialog: u64, canceller: &Canceller) -> Result<CancelVerdict<'_, S>, Violation> {
        if !self.is_seen(dialog) {
            if self.tombstones.len() >= MAX_TOMBSTONES {
                return Err(Violation::TooManyCancels);
            }
            self.tombstones.entry(dialog).or_insert_with(|| canceller.clone());
            return Ok(CancelVerdict::Ended);
        }
        if let Some(cancelled) = self.starting.get_mut(&dialog) {
            if self.assembling.remove(&dialog).is_some() {
                self.starting.remove(&dialog);
                return Ok(CancelVerdict::NotWhole);
            }
            cancelled.get_or_insert_with(|| canceller.clone());
            return Ok(CancelVerdict::Starting);
        }
        Ok(match self.served.get(&dialog) {
            Some(by) => CancelVerdict::Asked(by),
            None => CancelVerdict::Ended,
        })
    }

    /// What the peer's dialogs here are cancelled by.
    pub(crate) fn served(&self) -> impl Iterator<Item = &S> {
        self.served.values()
    }

    /// How many dialogs are open now.
    pub(crate) fn count_open(&self) -> OpenDialogs {
        OpenDialogs { opened: self.opened.len(), served: self.served.len() }
    }

    /// All dialogs that this side has opened.
    #[cfg(feature = "debug")]
    pub(crate) fn opened_all(&self) -> impl Iterator<Item = (u64, Progress, &O)> {
        self.opened.iter().map(|(dialog, opened)| {
            let progress = match opened.phase {
                Phase::Opening => Progress::Unanswered,
                Phase::Running if self.cancelled_by_us.contains(dialog) => Progress::Cancelled,
                Phase::Running => Progress::Runs,
                Phase::Draining => Progress::Cancelled,
            };
            (*dialog, progress, &opened.slot)
        })
    }

    /// All dialogs that the peer has opened.
    #[cfg(feature = "debug")]
    pub(crate) fn served_all(&self) -> impl Iterator<Item = (u64, &S)> {
        self.served.iter().map(|(dialog, served)| (*dialog, served))
    }

    /// Changes with every dialog that either side begins.
    pub(crate) fn begun(&self) -> u64 {
        self.next + self.last_start_seen - self.gaps.len() as u64
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.opened.is_empty() && self.served.is_empty() && self.starting.is_empty()
    }
}

/// Whether a Start had left this process when its line was lost, as far as that is known. One that has never been read over
/// there has not, if the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Yes,
    No,
}

/// Whether somebody still waits for a dialog's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Yes,
    No,
}

/// A hasher for ids that rise: one multiplication (the constant is 2^64 divided by the golden
/// ratio, Knuth, The Art of Computer Programming 3, 6.4). Peers don't choose their ids freely,
/// so nobody can aim at a bucket.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
    fn write_usize(&mut self, id: usize) {
        self.write_u64(id as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::ident::{Aid, CancelRequest};
    use proptest::prelude::*;

    type Conn = Connection<&'static str, &'static str, String>;

    fn someone() -> Canceller {
        Canceller { aid: Aid::new("someone", uuid::Uuid::nil(), 1, "here"), request: CancelRequest::Dropped }
    }

    #[test]
    fn a_cancel_between_a_start_and_its_task_is_kept_for_the_task() {
        let (mut a, canceller) = (Conn::new(Side::Connecting, Order::AsSent), someone());
        assert!(matches!(a.on_start(2), Ok(StartVerdict::Serve)));
        assert_eq!(a.on_cancel(2, &canceller).expect("it is theirs").state(), AckState::Asked);
        assert_eq!(a.serve(2, "scope"), Some(canceller));
        a.end_served(2);
        assert!(a.is_idle());
    }

    #[test]
    fn a_call_whose_arguments_have_not_all_come_ends_with_its_cancel() {
        let mut a = Conn::new(Side::Connecting, Order::AsSent);
        a.on_start(2).unwrap();
        let head = Head::Start { endpoint: "here".to_owned(), encoding: Encoding::Named, deadline_us: None };
        a.begin(2, head, b"some", 100, 1000).unwrap();
        assert!(matches!(a.on_cancel(2, &someone()), Ok(CancelVerdict::NotWhole)));
        assert!(a.is_idle());
        assert_eq!(a.on_piece(2, 50, 50), Ok(Piece::Dropped));
        assert_eq!(a.on_cancel(2, &someone()).unwrap().state(), AckState::Ended);
    }

    #[test]
    fn ids_rise_and_sides_do_not_meet() {
        let (mut a, mut b) = (Conn::new(Side::Connecting, Order::AsSent), Conn::new(Side::Accepting, Order::AsSent));
        assert_eq!([a.open("x"), a.open("y")], [1, 3]);
        assert_eq!([b.open("x"), b.open("y")], [2, 4]);
    }

    #[test]
    fn a_start_with_our_own_parity_or_a_used_id_is_refused() {
        let mut a = Conn::new(Side::Accepting, Order::AsSent);
        assert_eq!(a.on_start(2), Err(Violation::DialogId(2)));
        assert_eq!(a.on_start(3), Ok(StartVerdict::Serve));
        assert_eq!(a.on_start(3), Err(Violation::DialogId(3)));
        assert_eq!(a.on_start(1), Err(Violation::DialogId(1)));
    }

    #[test]
    fn a_cancel_that_overtakes_its_start_leaves_a_tombstone() {
        let mut a = Conn::new(Side::Accepting, Order::AsSent);
        assert_eq!(a.on_cancel(5, &someone()).unwrap().state(), AckState::Ended);
        assert_eq!(a.on_start(3), Ok(StartVerdict::Serve));
        assert_eq!(a.on_start(5), Ok(StartVerdict::Cancelled(someone())));
    }

    #[test]
    fn a_cancel_of_a_running_dialog_finds_it_and_of_an_ended_one_does_not() {
        let mut a = Conn::new(Side::Accepting, Order::AsSent);
        a.on_start(1).unwrap();
        assert!(a.serve(1, "scope").is_none());
        assert_eq!(a.on_cancel(1, &someone()).unwrap().state(), AckState::Asked);
        assert!(a.end_served(1));
        assert_eq!(a.on_cancel(1, &someone()).unwrap().state(), AckState::Ended);
    }

    #[test]
    fn a_cancel_is_sent_once_and_the_dialog_drains() {
        let mut a = Conn::new(Side::Connecting, Order::AsSent);
        let id = a.open("slot");
        assert!(a.cancel(id));
        assert!(!a.cancel(id));
        assert_eq!(a.on_start_ack(id), Ok(()));
        assert_eq!(a.on_end("Return", id), Ok(None));
        assert_eq!(a.on_end("Return", id), Err(Violation::NotOpen { kind: "Return", dialog: id }));
        assert!(a.is_idle());
    }

    #[test]
    fn a_lost_line_tells_what_had_left() {
        let mut a = Conn::new(Side::Connecting, Order::AsSent);
        let (sent, kept, dropped) = (a.open("sent"), a.open("kept"), a.open("dropped"));
        a.start_queued(sent, 10);
        a.start_queued(kept, 20);
        a.start_queued(dropped, 10);
        a.cancel(dropped);
        let mut lost = a.on_lost(19);
        lost.sort_by_key(|(dialog, ..)| *dialog);
        let dropped = (dropped, "dropped", Left::Yes, Waits::No);
        assert_eq!(lost, [(sent, "sent", Left::Yes, Waits::Yes), (kept, "kept", Left::No, Waits::Yes), dropped]);
        assert!(a.is_idle());
    }

    #[test]
    fn a_payload_in_pieces_is_whole_when_nothing_is_left_and_never_longer_than_it_said() {
        let mut a = Conn::new(Side::Accepting, Order::AsSent);
        a.on_start(1).unwrap();
        let piece = |a: &mut Conn, bytes: &[u8], left| {
            if let Some(room) = a.assembling(1) {
                room.extend_from_slice(bytes);
            }
            a.on_piece(1, bytes.len(), left)
        };
        assert_eq!(piece(&mut a, b"none began", 0), Err(Violation::OutOfOrder { kind: "Part", dialog: 1 }));
        a.begin(1, Head::Yield, b"ab", 4, 100).unwrap();
        assert_eq!(piece(&mut a, b"cd", 2), Ok(Piece::More { is_item: true }));
        assert_eq!(piece(&mut a, b"e", 0), Err(Violation::OutOfOrder { kind: "Part", dialog: 1 }));
        a.begin(1, Head::Return, b"", 2, 100).unwrap();
        let whole = Assembling { head: Head::Return, bytes: b"xy".to_vec(), left: 0 };
        assert_eq!(piece(&mut a, b"xy", 0), Ok(Piece::Whole(whole)));
        let too_long = Violation::PayloadTooLong { announced: 101, limit: 100 };
        assert_eq!(a.begin(1, Head::Error, b"x", 100, 100), Err(too_long));
        assert_eq!(a.on_piece(7, 1, 0), Err(Violation::NotOpen { kind: "Part", dialog: 7 }));
    }

    #[test]
    fn an_endpoint_is_introduced_once_and_in_order() {
        let mut a = Conn::new(Side::Connecting, Order::AsSent);
        assert_eq!(a.number_of(100), (0, true));
        assert_eq!(a.number_of(200), (1, true));
        assert_eq!(a.number_of(100), (0, false));
        let mut b = Conn::new(Side::Accepting, Order::AsSent);
        assert_eq!(b.on_endpoint(0, None, str::to_owned), Err(Violation::UnknownEndpoint(0)));
        assert_eq!(b.on_endpoint(0, Some("a"), str::to_owned), Ok(&"a".to_owned()));
        assert_eq!(b.on_endpoint(2, Some("c"), str::to_owned), Err(Violation::EndpointOrder(2)));
        assert_eq!(b.on_endpoint(0, None, str::to_owned), Ok(&"a".to_owned()));
    }

    #[test]
    fn where_each_dialog_has_a_stream_starts_pass_each_other_and_each_comes_once() {
        let (mut a, canceller) = (Conn::new(Side::Accepting, Order::EachDialog), someone());
        assert_eq!(a.on_start(5), Ok(StartVerdict::Serve));
        assert!(!a.has_been(3) && !a.has_been(1) && a.has_been(5));
        // A cancel passes its Start, which is below one that has come.
        assert_eq!(a.on_cancel(3, &canceller).unwrap().state(), AckState::Ended);
        assert_eq!(a.on_start(3), Ok(StartVerdict::Cancelled(canceller)));
        let begun = a.begun();
        assert_eq!(a.on_start(1), Ok(StartVerdict::Serve));
        assert_ne!(a.begun(), begun, "it is not idle that got a dialog");
        for again in [1, 3, 5] {
            assert_eq!(a.on_start(again), Err(Violation::DialogId(again)));
        }
        assert_eq!(a.on_start(7), Ok(StartVerdict::Serve));
        let far = 9 + 2 * MAX_GAPS as u64;
        assert_eq!(a.on_start(far + 2), Err(Violation::DialogId(far + 2)), "so many can't be on their way");
        assert_eq!(a.on_start(far), Ok(StartVerdict::Serve));
        assert_eq!(a.on_start(9), Ok(StartVerdict::Serve));
    }

    #[test]
    fn where_each_dialog_has_a_stream_a_path_goes_along_until_one_was_answered() {
        let mut a = Conn::new(Side::Connecting, Order::EachDialog);
        assert_eq!([a.number_of(100), a.number_of(200), a.number_of(100)], [(0, true), (1, true), (0, true)]);
        a.is_introduced(100);
        assert_eq!([a.number_of(100), a.number_of(200)], [(0, false), (1, true)]);
        let mut b = Conn::new(Side::Accepting, Order::EachDialog);
        assert_eq!(b.on_endpoint(1, Some("b"), str::to_owned), Ok(&"b".to_owned()));
        assert_eq!(b.on_endpoint(0, None, str::to_owned), Err(Violation::UnknownEndpoint(0)));
        assert_eq!(b.on_endpoint(0, Some("a"), str::to_owned), Ok(&"a".to_owned()));
        assert_eq!(b.on_endpoint(1, Some("b"), |_| unreachable!("it is known")), Ok(&"b".to_owned()));
        let far = MAX_GAPS as u32 + 3;
        assert_eq!(b.on_endpoint(far, Some("c"), str::to_owned), Err(Violation::EndpointOrder(far)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Drop(usize),
        PeerStart(u64),
        PeerCancel(u64),
        Ack(usize),
        End(usize),
        EndServed(u64),
        Lost,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Open),
            (0usize..8).prop_map(Step::Drop),
            (0u64..40).prop_map(Step::PeerStart),
            (0u64..40).prop_map(Step::PeerCancel),
            (0usize..8).prop_map(Step::Ack),
            (0usize..8).prop_map(Step::End),
            (0u64..40).prop_map(Step::EndServed),
            Just(Step::Lost),
        ]
    }

    proptest! {
        /// Whatever a peer sends in whatever order: no panic, one outcome a dialog, bounded tables.
        #[test]
        fn any_script_gives_each_dialog_one_outcome(script in prop::collection::vec(step(), 0..200)) {
            let mut a: Connection<u64, u64, ()> = Connection::new(Side::Connecting, Order::AsSent);
            let mut open = Vec::new();
            let mut outcomes = HashSet::new();
            let mut dropped = HashSet::new();
            for step in script {
                match step {
                    Step::Open => {
                        let id = a.open(0);
                        *a.slot(id).unwrap() = id;
                        open.push(id);
                    }

                    Step::Drop(i) => { if let Some(id) = open.get(i) {
                        a.cancel(*id);
                        dropped.insert(*id);
                    } }
                    Step::PeerStart(id) => if let Ok(StartVerdict::Serve) = a.on_start(id) { drop(a.serve(id, id)); },
                    Step::PeerCancel(id) => { a.on_cancel(id, &someone()).unwrap(); }
                    Step::Ack(i) => { if let Some(id) = open.get(i) { a.on_start_ack(*id).ok(); } }
                    Step::End(i) => { if let Some(id) = open.get(i).copied() {
                        match a.on_end("Return", id) {
                            Ok(Some(slot)) => prop_assert!(slot == id && outcomes.insert(id) && !dropped.contains(&id)),
                            Ok(None) => prop_assert!(dropped.contains(&id)),
                            Err(_) => {}
                        }
                    } }
                    Step::EndServed(id) => { a.end_served(id); }
                    Step::Lost => for (id, ..) in a.on_lost(0) {
                        prop_assert!(outcomes.insert(id));
                    },
                }
            }
            for (id, ..) in a.on_lost(0) {
                prop_assert!(outcomes.insert(id));
            }
            for id in open {
                prop_assert!(outcomes.contains(&id) || dropped.contains(&id));
            }
            prop_assert_eq!(a.opened(), 0);
        }
    }
}
