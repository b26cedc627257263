//! Which calls do not travel whole on their line? Those of a parent that shares memory with this actor.
//!
//! A floor up, the pool fills the actor's slot. Who sends ordinary calls never meets this: it costs one look at the first
//! byte of the arguments.
use std::sync::Arc;

use bytes::Bytes;

use super::endpoint::{RunFn, RunResult};
use super::{Actor, DataLine};
use crate::error::CodecError;
use crate::msg::codec::{self, EncodeFailure, Spill};
use crate::msg::frame::Encoding;
use futures::future::BoxFuture;

/// The first byte of arguments and of results of which parts may lie elsewhere. No msgpack value begins so.
pub(crate) const PARCEL: u8 = 0xc1;

/// Opens the parcels that this actor's parent sends.
pub(crate) trait Parcels: Send + Sync {
    /// The arguments that are in it. The error says why nobody can have them.
    fn open<'a>(&self, parcel: &'a [u8]) -> Result<Opened<'a>, String>;
}

/// Makes the result of one call a parcel.
pub(crate) trait Answer: Send + Sync {
    /// Calls `encode` once, with where the value's bytes go, and its large byte strings.
    fn encode(&self, encode: Encode<'_>) -> Result<(Vec<u8>, Encoding), EncodeFailure>;
}

pub(crate) type Encode<'a> = &'a mut dyn FnMut(&mut Vec<u8>, &mut dyn Spill) -> Result<Encoding, EncodeFailure>;

/// The arguments of a call, as they are decoded.
pub(crate) struct Opened<'a> {
    pub(crate) args: &'a [u8],
    /// The byte strings of it that lay elsewhere.
    pub(crate) pieces: Vec<Bytes>,
    /// What makes the result a parcel, too.
    pub(crate) answer: Option<Arc<dyn Answer>>,
}

impl<'a> Opened<'a> {
    /// Arguments that are all here.
    #[inline]
    fn whole(args: &'a [u8]) -> Self {
        Opened { args, pieces: Vec::new(), answer: None }
    }
}

/// How a result is to be written.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) encoding: Encoding,
    pub(crate) answer: Option<Arc<dyn Answer>>,
}

impl From<Encoding> for Reply {
    fn from(encoding: Encoding) -> Self {
        Reply { encoding, answer: None }
    }
}

/// [`RunFn`] with what lay elsewhere at hand.
pub(super) fn run(
    run: RunFn,
    args: &[u8],
    pieces: Vec<Bytes>,
    reply: Reply,
) -> Result<BoxFuture<'static, RunResult>, CodecError> {
    if pieces.is_empty() {
        return run(args, reply);
    }
    codec::with_pieces(pieces, || run(args, reply))
}

impl Actor {
    /// The arguments of a call that came on `line`.
    #[inline]
    pub(super) fn opened<'a>(&self, line: &DataLine, args: &'a [u8]) -> Result<Opened<'a>, String> {
        match args.first() {
            Some(&PARCEL) => self.open_parcel(line, args),
            _ => Ok(Opened::whole(args)),
        }
    }

    #[cold]
    fn open_parcel<'a>(&self, line: &DataLine, args: &'a [u8]) -> Result<Opened<'a>, String> {
        let parcels = self.parcels.lock().clone();
        let is_of_parent = self.parent_line().is_some_and(|parent| std::ptr::eq(Arc::as_ptr(parent), line));
        match parcels.filter(|_| is_of_parent) {
            Some(parcels) => parcels.open(args),
            None => Ok(Opened::whole(args)), // it does not decode, and that is said
        }
    }
}
