//! What is said between a stopped actor, the root's hub, and who sits at the prompt?
//!
//! A message is a length (`u32`, little-endian) and msgpack. All ends are of one build, or of one version: the
//! socket lies in the tree's own folder.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dump;
use crate::actor::crash::Answer;
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::msg::ident::Aid;

/// To the hub.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToHub {
    /// A thread of an actor stands still. It stays so until it is answered, or the line breaks.
    Stop(Box<Stop>),
    /// Its stack, with names.
    Frames(Vec<Frame>),
    /// What a command has come to.
    Out { text: String },
    /// An error that nobody is to be asked about again.
    Quit { error: Uuid },
    /// Somebody sits at a terminal, and would like the prompt.
    Front,
    /// A line was typed.
    Line(String),
    /// Ctrl-d at an empty line.
    Eof,
    /// Ctrl-c at the prompt.
    Interrupted,
    /// The program that was run in the terminal has ended.
    Ran(String),
    /// There is no terminal after all.
    NoTerminal(String),
    /// What an actor does, for a dump of this root.
    Dumped(Box<dump::Answer>),
    /// Somebody wants a dump, of all or of the actors of this name and what is below them.
    DumpWanted { name: Option<String> },
}

/// From the hub.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FromHub {
    /// To a stopped actor: nobody can be asked, and why.
    Nobody { why: String },
    /// It is its turn.
    Granted,
    /// A command for it.
    Do(Command),
    /// It goes on. `off`: and stops no more.
    Resume { answer: Answer, off: bool },
    /// To a terminal: text to be shown; `is_paged`: a screen at a time.
    Show { text: String, is_paged: bool },
    /// To a terminal: read a line.
    Ask { prompt: String, words: Vec<String> },
    /// To a terminal: run this program there.
    Run(Vec<String>),
    /// To a terminal: whoever was asked is not any more.
    Hush,
    /// To a terminal: nothing is stopped any more.
    Close,
    /// The dump that was wanted. `None`: there is no actor of that name.
    Dump(Option<String>),
}

/// What a stopped actor is asked to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    Tasks,
    Threads,
    Probe(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Panic,
    /// In a `?`.
    Error,
    /// An endpoint has returned it: its stack is gone.
    Returned,
    /// It came from another actor.
    Relayed,
    Pause,
    PostMortem,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Panic => "panic",
            Kind::Error => "error",
            Kind::Returned => "returned error",
            Kind::Relayed => "relayed error",
            Kind::Pause => "pause",
            Kind::PostMortem => "post mortem",
        }
    }
}

/// All that is known of a stop when it happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stop {
    pub(crate) aid: Aid,
    pub(crate) tid: u32,
    /// The name of the thread.
    pub(crate) thread: String,
    pub(crate) kind: Kind,
    /// What it says, in one line or more.
    pub(crate) text: String,
    pub(crate) location: Option<String>,
    /// The error's chain, spelled out.
    pub(crate) chain: String,
    /// The endpoint that runs, its dialog and who has asked for it.
    pub(crate) call: Option<String>,
    /// The arguments of the call, as far as they can be read without their types.
    pub(crate) args: Option<String>,
    pub(crate) values: Vec<(String, String)>,
    /// The failure that this is about, if it has an id yet.
    pub(crate) error: Option<Uuid>,
    pub(crate) is_retriable: bool,
    /// A panic within a panic: the process aborts when it goes on.
    pub(crate) aborts: bool,
    pub(crate) exe: String,
    pub(crate) is_optimized: bool,
    /// A cancel that waits for the release.
    pub(crate) cancel: Option<String>,
}

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frame {
    pub(crate) ip: u64,
    pub(crate) name: String,
    pub(crate) file: Option<String>,
    pub(crate) line: u32,
    /// Code of the program's, not of a library's or ours.
    pub(crate) is_users: bool,
}

/// Bytes of the longest message: a screenful of text is a thousandth of it.
const MAX_BYTES: usize = 16 << 20;

pub(crate) fn send<M: Serialize>(mut to: &UnixStream, message: &M) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    codec::encode_into(message, Encoding::Named, &mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let length = bytes.len() - 4;
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&bytes)
}

/// The next message; `None` at the end.
pub(crate) fn receive<M: DeserializeOwned>(mut from: &UnixStream) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    if let Err(error) = from.read_exact(&mut length) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("a message of {length} bytes: is somebody else at the other end?")));
    }
    let mut bytes = Vec::new(); // grows with what comes, not with what is announced
    from.take(length as u64).read_to_end(&mut bytes)?;
    codec::decode(&bytes).map(Some).map_err(|error| io::Error::other(error.to_string()))
}
