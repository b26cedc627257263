//! What travels on a line: one frame is a length, a header, a payload.
//!
//! `docs/wire.md` says it field by field; a test below checks its examples against this file.
mod read;
#[cfg(test)]
mod tests;
mod write;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::addr::Addrs;
use super::death::Receipt;
use super::ident::{Aid, Canceller};
use super::spec::Token;
use read::Reader;
pub(crate) use write::encode_head;

/// A frame's header. The payload, if the kind has one, follows it in the same buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame<'a> {
    /// The connecting side's first frame.
    Hello(Hello),
    /// The accepting side's answer.
    Welcome(Welcome),
    /// Begins a dialog. Payload: the arguments, a tuple. Here as in the other kinds: `left` bytes of
    /// the payload follow in `Part`s.
    Start { dialog: u64, endpoint: u32, path: Option<&'a str>, deadline_us: Option<u64>, encoding: Encoding, left: u64 },
    /// The dialog's task runs. Left out when it ended in its first poll.
    StartAck { dialog: u64 },
    /// The task is ready for its opener. Payload: what it says first.
    Started { dialog: u64, encoding: Encoding, left: u64 },
    /// The sender's stream is open: it reads.
    Open { dialog: u64 },
    /// Items of the stream, one behind the other; with `left`, the beginning of one.
    Yield { dialog: u64, encoding: Encoding, left: u64 },
    /// The next piece of the payload that the dialog's last frame began.
    Part { dialog: u64, left: u64 },
    /// The sender sends no more items.
    Stop { dialog: u64, how: Stop },
    /// The receiver of items takes them up to this offset.
    Credit { dialog: u64, up_to: u64 },
    /// The dialog ended well. Payload: the result.
    Return { dialog: u64, encoding: Encoding, left: u64 },
    /// The dialog ended with an error. Payload: the error as data.
    Error { dialog: u64, left: u64 },
    /// A request to end a dialog, or (dialog 0) the whole actor.
    Cancel { dialog: u64, grace_ms: u64, canceller: Canceller },
    /// The request was heard.
    CancelAck { dialog: u64, state: AckState },
    /// The sender starts processes from now on: on control lines, upwards. One that dies before it could
    /// record them has left them to be looked for.
    Spawning,
    /// A process was started below: on control lines, upwards. Sent before its boot message, if it is an actor and no plain program.
    SpawnRecord { aid: Aid, start_ticks: u64, is_program: bool },
    /// A recorded actor serves now, at this address.
    Ready { aid: Aid, addrs: Addrs },
    /// Every task, dialog and child of the sender is gone; its process exits next.
    TasksGone,
    /// The sender received this signal from outside the tree. Again: it ends by it, since nobody said otherwise.
    Signalled { signal: i32 },
    /// A third actor asked the sender to end: its end is no surprise to its parent.
    EndAsked { canceller: Canceller },
    /// End that actor of the tree: on control lines, towards its parent.
    End { aid: Aid, canceller: Canceller },
    /// The answer to an [`Frame::End`], on control lines, towards the actor that asked: that one is gone.
    /// Without a receipt: nobody of the tree knows it.
    Ended { to: Aid, aid: Aid, receipt: Option<Box<Receipt>> },
    /// Tell `to` how that actor of the tree has ended: on control lines, towards its parent.
    ObituaryAsked { to: Aid, aid: Aid },
    /// The answer to an [`Frame::ObituaryAsked`], as soon as its process has been reaped. Without a receipt: nobody
    /// of the tree knows.
    Obituary { to: Aid, aid: Aid, receipt: Option<Box<Receipt>> },
    /// The sender, or one below it, is held by a debugger from now on, or no more: on control lines, upwards. No time
    /// of whoever is above runs out meanwhile.
    Hold { on: bool },
    /// The sender has stood still for so long, and the receiver too, stopped by their terminal: on control lines,
    /// downwards, before the receiver is continued.
    Stood { nanos: u64 },
    /// Say what you do to the root, for its dump of this number, and tell your children: on control lines, downwards.
    Dump { id: u64 },
    /// Without a load: tell the root how much you have to do, for its look of this number, and tell your children: on
    /// control lines, downwards. With one: the answer of the sender or of one below it, upwards.
    Load { id: u64, load: Option<&'a [u8]> },
    /// The sender lives, and was `late_ms` late to say so; no time of its runs out while it `is_held` by a debugger: on
    /// control lines between two hosts, both ways.
    Beat { late_ms: u64, is_held: bool },
    /// An actor below is gone that had been recorded, on a host where not everybody above can see that: on control lines,
    /// upwards.
    Gone { aid: Aid },
    /// What the sender is busy with, shortly before its time is over: on control lines, upwards. Between equal builds
    /// alone: it is places in the program's code.
    Stuck { places: &'a [u8] },
    /// A log line. Payload: the line as data.
    Log,
    /// Are you there?
    Ping { nonce: u64 },
    /// I am.
    Pong { nonce: u64 },
    /// No more dialogs from this side, because of `reason`.
    Bye { reason: &'a str },
}

/// How a payload's structs are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Arrays of the fields in order: between equal builds.
    Positional,
    /// Maps by field name.
    Named,
}

/// How one side's half of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It sends no more, and still reads.
    Finished,
    /// Its stream is gone: it does not read any more either.
    Left,
    /// The opener's body is over: it waits for the dialog's end alone.
    BodyOver,
}

/// Whether a cancelled dialog was still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckState {
    /// It was asked to end.
    Asked,
    /// It had ended already, or was never started.
    Ended,
}

/// Who connects, and what for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: (u16, u16),
    pub(crate) aid: Aid,
    pub(crate) line: LineKind,
    /// A spawned child's one-time token for this line.
    pub(crate) token: Option<Token>,
    /// The sender's GNU build id, from spawned children.
    pub(crate) build: Option<Vec<u8>>,
    /// Where the sender listens, the nearest first; of those, the ones that this build knows.
    pub(crate) addrs: Addrs,
    /// Whom the sender means to reach: another uuid at this address refuses.
    pub(crate) wanted: Option<Uuid>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LineKind {
    /// Dialogs.
    Data,
    /// Cancel requests and process records between a parent and its child.
    Control,
    /// What somebody on another host says to the root's debugger: no frames follow the Welcome.
    Debug,
}

/// The accepting side's word on who it is and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) protocol: (u16, u16),
    pub(crate) aid: Aid,
    pub(crate) max_frame_bytes: u32,
    /// Whether both sides run the same build, so that payloads may be positional.
    pub(crate) same_build: bool,
}

/// Addresses of one actor that travel; the farthest ones are left out.
const MAX_ADDRS: usize = 15;

/// The protocol that this build speaks: another major is refused.
pub(crate) const PROTOCOL: (u16, u16) = (1, 0);

/// Bytes of the largest frame before both sides have agreed on more.
pub(crate) const MAX_HELLO_BYTES: u32 = 64 * 1024;

/// Default limit of one frame, and of one payload in pieces, in bytes: 1 GiB and room for headers. A
/// longer one closes the connection.
pub(crate) const MAX_FRAME_BYTES: u32 = (1 << 30) + (1 << 16);

/// The lowest that this limit can be set to, in bytes: a log line always fits.
pub(crate) const MIN_FRAME_BYTES: u32 = 256 * 1024;

/// Whether one frame can carry so many bytes for a call of `path` on a line with this limit: its header
/// counts too.
pub(crate) fn fits(path: &str, payload_bytes: usize, limit: u32) -> bool {
    let head_bytes = write::HEAD_BYTES + path.len() + write::PATH_MARK_BYTES;
    payload_bytes.checked_add(head_bytes).is_some_and(|bytes| bytes <= limit as usize)
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The announced length is over the limit. Nothing was allocated for it.
    #[error("a frame of {announced} bytes is over the limit of {limit} bytes")]
    TooLong { announced: u64, limit: u32 },
    /// The header is not what the kind needs.
    #[error("a malformed frame: {0}")]
    Malformed(&'static str),
    /// No such kind.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
}

/// The numbers of the kinds: a number is never given to another kind, not even of another major.
mod kind {
    // The connection.
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const BYE: u8 = 3;
    pub(super) const PING: u8 = 4;
    pub(super) const PONG: u8 = 5;
    // Dialogs.
    pub(super) const START: u8 = 16;
    pub(super) const START_ACK: u8 = 17;
    pub(super) const STARTED: u8 = 18;
    pub(super) const OPEN: u8 = 19;
    pub(super) const YIELD: u8 = 20;
    pub(super) const STOP: u8 = 21;
    pub(super) const RETURN: u8 = 22;
    pub(super) const ERROR: u8 = 23;
    pub(super) const CANCEL: u8 = 24;
    pub(super) const CANCEL_ACK: u8 = 25;
    pub(super) const CREDIT: u8 = 26;
    pub(super) const PART: u8 = 27;
    // Processes. Reserved: 48 to 55 Tty*.
    pub(super) const SPAWN_RECORD: u8 = 32;
    pub(super) const READY: u8 = 33;
    pub(super) const TASKS_GONE: u8 = 34;
    pub(super) const SIGNALLED: u8 = 35;
    pub(super) const END_ASKED: u8 = 36;
    pub(super) const LOG: u8 = 37;
    pub(super) const DUMP: u8 = 38;
    pub(super) const END: u8 = 39;
    pub(super) const ENDED: u8 = 40;
    pub(super) const SPAWNING: u8 = 41;
    pub(super) const OBITUARY_ASKED: u8 = 42;
    pub(super) const OBITUARY: u8 = 43;
    pub(super) const HOLD: u8 = 44;
    pub(super) const STOOD: u8 = 45;
    pub(super) const STUCK: u8 = 46;
    pub(super) const LOAD: u8 = 47;
    pub(super) const BEAT: u8 = 48;
    pub(super) const GONE: u8 = 49;
}

/// Markers of msgpack that both directions know.
const NIL: u8 = 0xc0;
const FALSE: u8 = 0xc2;
const TRUE: u8 = 0xc3;

/// Appends the frame to `out`.
///
/// # Panics
///
/// If `payload` does not fit the `u32` length: the caller has refused it by the line's limit.
#[inline]
pub(crate) fn encode(frame: &Frame<'_>, payload: &[u8], out: &mut BytesMut) {
    encode_head(frame, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Bytes that the frame at the start of `bytes` takes in all. `None`: its length is not here yet.
///
/// # Errors
///
/// [`FrameError::TooLong`]; [`FrameError::Malformed`] if it announces no byte at all.
#[inline]
pub(crate) fn needed(bytes: &[u8], limit: u32) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix);
    if length > limit {
        return Err(FrameError::TooLong { announced: u64::from(length), limit });
    }
    if length == 0 {
        return Err(FrameError::Malformed("it has no header"));
    }
    Ok(Some(4 + length as usize))
}

/// Bytes of the first msgpack value, whatever it is. `None`: there is no whole value.
pub(crate) fn value_len(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes };
    reader.skip(1)?;
    Some(bytes.len() - reader.bytes.len())
}

/// The header of a `Part` whose payload has not all arrived, so that the rest can be read to where it
/// belongs: the dialog, what is left after it, the header's bytes with the length, the payload's bytes.
pub(crate) fn part_ahead(bytes: &[u8], limit: u32) -> Option<(u64, u64, usize, usize)> {
    let total = needed(bytes, limit).ok()??;
    let body = &bytes[4..bytes.len().min(total)];
    let mut reader = Reader { bytes: body };
    // A header that is cut off is no header yet: the ordinary way says what is wrong with others.
    let Ok(Frame::Part { dialog, left }) = reader.frame() else { return None };
    let head = 4 + body.len() - reader.bytes.len();
    Some((dialog, left, head, total - head))
}

/// Where a frame belongs, where each dialog has a stream of its own, and what it says of that stream's end.
#[cfg(feature = "quic")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It is of the connection, or passes what its dialog sends.
    Line,
    /// It begins this dialog.
    Start(u64),
    /// It goes behind the last frame of this dialog.
    Behind(u64),
    /// The same, and nothing follows it.
    Last(u64),
    /// A result or an error: behind the pieces of its payload nothing follows.
    LastBegins(u64),
    /// A piece of a payload. `is_last`: the payload ends with it.
    Piece { dialog: u64, is_last: bool },
}

#[cfg(feature = "quic")]
impl Course {
    pub(crate) fn dialog(self) -> Option<u64> {
        match self {
            Course::Line => None,
            Course::Start(dialog) | Course::Behind(dialog) | Course::Last(dialog) | Course::LastBegins(dialog) => {
                Some(dialog)
            }
            Course::Piece { dialog, .. } => Some(dialog),
        }
    }
}

/// Bytes at the start of a frame that [`course`] looks at, at most: the length, and a few numbers.
#[cfg(feature = "quic")]
pub(crate) const COURSE_BYTES: usize = 4 + 5 + 9 + 9 + 9 + 9;

/// Looks at the beginning of a frame, its length included. `None`: it is malformed, as its decoder will say.
#[cfg(feature = "quic")]
pub(crate) fn course(bytes: &[u8]) -> Option<Course> {
    Reader { bytes: bytes.get(4..)? }.course()
}

/// A header, its payload, and how many bytes both took.
pub(crate) type Decoded<'a> = (Frame<'a>, &'a [u8], usize);

/// Reads the first frame of `bytes`: the header, its payload, and how many bytes they took.
/// `None`: more bytes are needed.
///
/// Borrows what it can; of the kinds that a call is made of, it allocates nothing.
///
/// # Errors
///
/// The connection can't go on: its framing is lost.
#[inline]
pub(crate) fn decode(bytes: &[u8], limit: u32) -> Result<Option<Decoded<'_>>, FrameError> {
    let Some(total) = needed(bytes, limit)? else {
        return Ok(None);
    };
    let Some(body) = bytes.get(4..total) else {
        return Ok(None);
    };
    let mut reader = Reader { bytes: body };
    let frame = reader.frame()?;
    Ok(Some((frame, reader.bytes, total)))
}

/// Whether we can talk to whoever says this Hello, as far as the frame itself tells.
///
/// # Errors
///
/// The reason, for the Bye that refuses it.
pub(crate) fn check_hello(hello: &Hello) -> Result<(), String> {
    let ((ours, our_minor), (theirs, their_minor)) = (PROTOCOL, hello.protocol);
    if ours != theirs {
        return Err(format!(
            "{} speaks protocol {theirs}.{their_minor}, and this side {ours}.{our_minor}: run the same major of teamster on both",
            hello.aid
        ));
    }
    Ok(())
}
