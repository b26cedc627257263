//! How does our own error look as data? The same variants, and text where a value was foreign.
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::broken_worker::{BrokenWorker, WorkerHook};
use super::codec_error::CodecError;
use super::death::Death;
use super::error_value::Value;
use super::ident::{Aid, Canceller};
use super::program::ProgramFailure;
use super::remote_error::{RemoteData, RemoteError};
use super::spawn_reason::SpawnReason;
use super::text::{Sources, bounded};
use crate::error::{BodyError, BoxError, Error, Group};

/// [`Error`] as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ErrorData {
    Remote(RemoteData),
    Body {
        id: Uuid,
        aid: Option<Aid>,
        location: Option<String>,
        message: String,
        chain: Vec<String>,
        value: Option<Value>,
        cause: Option<Box<ErrorData>>,
    },
    Cancelled(Canceller),
    Interrupted(i32),
    ActorDied(Death),
    NotStarted {
        endpoint: String,
        aid: Aid,
        reason: String,
    },
    Unknown {
        endpoint: String,
        aid: Aid,
        reason: String,
    },
    NotStopped {
        endpoint: String,
        aid: Aid,
        grace: Duration,
        heard: bool,
    },
    StreamOverrun {
        endpoint: String,
        dialog: u64,
        aid: Aid,
        window_bytes: u32,
    },
    StreamClosed {
        endpoint: String,
        aid: Aid,
    },
    Deadline(Duration),
    NotExposed {
        endpoint: String,
        aid: Aid,
    },
    NoSuchEndpoint {
        endpoint: String,
        aid: Aid,
    },
    Ambiguous {
        endpoint: String,
        first: String,
        second: String,
    },
    Codec(CodecError),
    Transport {
        what: String,
        reason: String,
    },
    Spawn {
        name: String,
        reason: SpawnReason,
    },
    Group(Vec<ErrorData>),
    BrokenWorker(BrokenWorker),
    WorkerHook {
        hook: WorkerHook,
        aid: Aid,
        error: Box<ErrorData>,
    },
    Usage(String),
    Program(ProgramFailure),
}

impl From<&Error> for ErrorData {
    fn from(error: &Error) -> Self {
        match error.clone() {
            Error::Remote(remote) => ErrorData::Remote(remote.to_data()),
            Error::Body(body) => body_data(&body),
            Error::Cancelled { canceller } => ErrorData::Cancelled(canceller),
            Error::Interrupted { signal } => ErrorData::Interrupted(signal),
            Error::ActorDied(death) => ErrorData::ActorDied(death),
            Error::NotStarted { endpoint, aid, reason } => ErrorData::NotStarted { endpoint, aid, reason },
            Error::Unknown { endpoint, aid, reason } => ErrorData::Unknown { endpoint, aid, reason },
            Error::NotStopped { endpoint, aid, grace, heard } => ErrorData::NotStopped { endpoint, aid, grace, heard },
            Error::StreamOverrun { endpoint, dialog, aid, window_bytes } => {
                ErrorData::StreamOverrun { endpoint, dialog, aid, window_bytes }
            }
            Error::StreamClosed { endpoint, aid } => ErrorData::StreamClosed { endpoint, aid },
            Error::Deadline { after } => ErrorData::Deadline(after),
            Error::NotExposed { endpoint, aid } => ErrorData::NotExposed { endpoint, aid },
            Error::NoSuchEndpoint { endpoint, aid } => ErrorData::NoSuchEndpoint { endpoint, aid },
            Error::Ambiguous { endpoint, first, second } => ErrorData::Ambiguous { endpoint, first, second },
            Error::Codec(codec) => ErrorData::Codec(codec),
            Error::Transport { what, reason } => ErrorData::Transport { what, reason },
            Error::Spawn { name, reason } => ErrorData::Spawn { name, reason },
            Error::BrokenWorker(broken) => ErrorData::BrokenWorker(broken),
            Error::WorkerHook { hook, aid, error } => {
                ErrorData::WorkerHook { hook, aid, error: Box::new(ErrorData::from(&*error)) }
            }
            Error::Group(group) => ErrorData::Group(group.iter().map(ErrorData::from).collect()),
            Error::Usage(text) => ErrorData::Usage(text.to_owned()),
            Error::Program(failure) => ErrorData::Program(failure),
        }
    }
}

fn body_data(body: &BodyError) -> ErrorData {
    let sources = Sources::below(body.error());
    ErrorData::Body {
        id: body.id(),
        aid: body.actor().cloned(),
        location: body.location().map(str::to_owned),
        message: bounded(body.error(), "an error"),
        chain: sources.texts,
        value: Value::of(body.error()),
        cause: sources.ours.map(|ours| Box::new(ErrorData::from(&ours))),
    }
}

impl From<ErrorData> for Error {
    fn from(data: ErrorData) -> Self {
        match data {
            ErrorData::Remote(remote) => Error::Remote(RemoteError::from_data(remote)),
            ErrorData::Body { id, aid, location, message, chain, value, cause } => {
                let error: Arc<dyn std::error::Error + Send + Sync> = match value.as_ref().and_then(Value::decode) {
                    Some(value) => Arc::from(value),
                    None => Arc::new(Told::new(message, chain, cause.map(|cause| Error::from(*cause)))),
                };
                let body = BodyError::new(error).with_id(id);
                let body = aid.into_iter().fold(body, BodyError::in_actor);
                Error::Body(location.into_iter().fold(body, BodyError::at))
            }
            ErrorData::Cancelled(canceller) => Error::Cancelled { canceller },
            ErrorData::Interrupted(signal) => Error::Interrupted { signal },
            ErrorData::ActorDied(death) => Error::ActorDied(death),
            ErrorData::NotStarted { endpoint, aid, reason } => Error::NotStarted { endpoint, aid, reason },
            ErrorData::Unknown { endpoint, aid, reason } => Error::Unknown { endpoint, aid, reason },
            ErrorData::NotStopped { endpoint, aid, grace, heard } => Error::NotStopped { endpoint, aid, grace, heard },
            ErrorData::StreamOverrun { endpoint, dialog, aid, window_bytes } => {
                Error::StreamOverrun { endpoint, dialog, aid, window_bytes }
            }
            ErrorData::StreamClosed { endpoint, aid } => Error::StreamClosed { endpoint, aid },
            ErrorData::Program(failure) => Error::Program(failure),
            ErrorData::Deadline(after) => Error::Deadline { after },
            ErrorData::NotExposed { endpoint, aid } => Error::NotExposed { endpoint, aid },
            ErrorData::NoSuchEndpoint { endpoint, aid } => Error::NoSuchEndpoint { endpoint, aid },
            ErrorData::Ambiguous { endpoint, first, second } => Error::Ambiguous { endpoint, first, second },
            ErrorData::Codec(codec) => Error::Codec(codec),
            ErrorData::Transport { what, reason } => Error::Transport { what, reason },
            ErrorData::Spawn { name, reason } => Error::Spawn { name, reason },
            ErrorData::BrokenWorker(broken) => Error::BrokenWorker(broken),
            ErrorData::WorkerHook { hook, aid, error } => {
                Error::WorkerHook { hook, aid, error: Arc::new(Error::from(*error)) }
            }
            ErrorData::Group(entries) => Group::collect(entries.into_iter().map(Error::from))
                .unwrap_or(Error::Usage("an empty group of errors came from another actor")),
            ErrorData::Usage(text) => match kept(&text) {
                Some(text) => Error::Usage(text),
                None => Error::Body(BodyError::new(Arc::new(Told::new(text, Vec::new(), None)))),
            },
        }
    }
}

/// A usage error's text as this process keeps it for ever: each once. `None`: it is too long, or too many
/// are kept already.
///
/// It is a literal of our own in some program of the tree, mostly this very one, so there are few. A peer
/// that makes texts up fills the table, and then is told by their text alone.
fn kept(text: &str) -> Option<&'static str> {
    static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut all = KEPT.lock();
    if let Some(known) = all.get(text) {
        return Some(known);
    }
    if text.len() > MAX_KEPT_BYTES || all.len() >= MAX_KEPT {
        return None;
    }
    let text: &'static str = Box::leak(text.into());
    all.insert(text);
    Some(text)
}

/// Usage texts that a process keeps.
const MAX_KEPT: usize = 256;

/// Bytes of each.
const MAX_KEPT_BYTES: usize = 1024;

/// An error whose type stayed in another actor: its text, and its sources' texts.
#[derive(Debug)]
pub(crate) struct Told {
    text: String,
    below: Option<Below>,
}

#[derive(Debug)]
enum Below {
    Text(Box<Told>),
    Ours(Box<Error>),
}

impl Told {
    /// `ours` is what stands below the last of the texts.
    pub(crate) fn new(text: String, chain: Vec<String>, ours: Option<Error>) -> Told {
        let mut below = ours.map(|ours| Below::Ours(Box::new(ours)));
        for text in chain.into_iter().rev() {
            below = Some(Below::Text(Box::new(Told { text, below })));
        }
        Told { text, below }
    }

    /// The sources alone.
    pub(crate) fn into_source(self) -> Option<BoxError> {
        match self.below? {
            Below::Text(told) => Some(told),
            Below::Ours(ours) => Some(ours),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Told {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The values themselves, not their boxes: a box is an error of another type.
        match self.below.as_ref()? {
            Below::Text(told) => Some(&**told),
            Below::Ours(ours) => Some(&**ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: String) -> Error {
        Error::from(ErrorData::Usage(text))
    }

    #[test]
    fn a_usage_error_arrives_as_one_as_long_as_there_are_few() {
        let Error::Usage(first) = told("call init first".into()) else { panic!("it is one") };
        let Error::Usage(again) = told("call init first".into()) else { panic!("it is one") };
        assert!(std::ptr::eq(first, again), "it is kept once");
        let invented = (0..2 * MAX_KEPT).map(|number| told(format!("text {number}")));
        let (kept, rest): (Vec<_>, Vec<_>) = invented.partition(|error| matches!(error, Error::Usage(_)));
        assert!(kept.len() < MAX_KEPT && rest.len() >= MAX_KEPT);
        assert_eq!(rest.last().map(ToString::to_string), Some(format!("text {}", 2 * MAX_KEPT - 1)));
        assert!(matches!(told("x".repeat(MAX_KEPT_BYTES + 1)), Error::Body(_)));
        assert!(matches!(told("call init first".into()), Error::Usage(_)));
    }
}
