//! How do large values reach a process of this host without going through its line?
//!
//! The line carries all of a call but its large byte strings ([`Spill`](crate::msg::codec::Spill)): those are copied once,
//! into a segment of memory that both processes have mapped, and are read there. Arguments go into segments of
//! the parent, results into segments of the worker. A segment is filled before the word on the line that tells of it, and is free
//! again when the reader's last view is gone, which a word in the segment tells; so nothing is sent for it, and nobody waits.
//!
//! Whatever is in the way (another host, no descriptor left, no memory, a reader that keeps what it has read), the bytes go by
//! the line.
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
mod inbox;
mod outbox;
mod parcel;
mod segment;
mod side;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use teamster_macros::rpc;
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::inbox::Inbox;
use self::outbox::{Filling, Outbox};
use self::side::{Door, Side};
use crate::actor::current;
use crate::actor::endpoint::{Endpoint, encode_args, encode_args_with, path_of};
use crate::actor::host::is_here;
use crate::actor::parcels::{Answer, Encode, Opened, Parcels};
use crate::error::{CodecError, Error};
use crate::msg::codec::{self, DecodeFailure, EncodeFailure, SPILL_BYTES, Spill};
use crate::msg::frame::Encoding;
use crate::portal::{Portal, Prepared, decode_result};
use crate::report::Result;
use crate::transport::folder::socket_path;

/// The memory that two processes share, from one of them.
struct Link {
    outbox: Outbox,
    inbox: Inbox,
}

impl Link {
    fn new(side: Side) -> Arc<Link> {
        let side = Arc::new(side);
        Arc::new(Link { outbox: Outbox::new(Arc::clone(&side)), inbox: Inbox::new(side) })
    }

    fn trim(&self) {
        self.outbox.trim();
        self.inbox.trim();
    }
}

/// A parent's end of the memory that it shares with one child. There is none before the first call that needs it.
pub(super) struct Share {
    child: Portal,
    /// `None` in it: there can't be any.
    link: OnceCell<Option<Arc<Link>>>,
    /// A result came by the line that would better have come otherwise.
    is_missed: AtomicBool,
    /// There were calls since memory was given back last.
    is_warm: AtomicBool,
    calls: Mutex<Calls>,
}

/// Calls whose arguments or results may lie in shared memory.
#[derive(Default)]
struct Calls {
    begun: u64,
    live: BTreeSet<u64>,
}

impl Share {
    /// With whom `child` leads to: a child of this actor.
    pub(super) fn with(child: Portal) -> Arc<Share> {
        let link = if is_reachable(&child) { OnceCell::new() } else { OnceCell::new_with(Some(None)) };
        let (is_missed, is_warm) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Share { child, link, is_missed, is_warm, calls: Mutex::default() })
    }

    /// A call of this child, with its arguments encoded. Connects to the child, if there is something large.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the arguments can't be encoded, or are over the limit of a message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn job<E: Endpoint>(self: &Arc<Self>, args: &mut E::Args) -> Result<Job, Error> {
        if self.is_missed.load(Ordering::Relaxed) {
            self.connect().await;
        }
        if let Some(job) = self.prepare::<E>(args)? {
            return Ok(job);
        }
        self.connect().await;
        Ok(self.prepare::<E>(args)?.expect("nothing is left open by now"))
    }

    /// The same of arguments that are encoded already, and none of which are large: the result may be.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if they are over the limit of a message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn job_of(self: &Arc<Self>, path: &'static str, args: &[u8]) -> Result<Job, Error> {
        if self.is_missed.load(Ordering::Relaxed) {
            Box::pin(self.connect()).await; // seldom: each job would be as long otherwise
        }
        let Some(Some(link)) = self.way() else { return self.whole(path, args.to_vec(), Encoding::Positional) };
        self.parcel_with(path, link, |bytes, _none_is_large| {
            bytes.extend_from_slice(args);
            Ok(Encoding::Positional)
        })
    }

    /// A result came by the line that would better have come otherwise: the next call shares memory, if it goes alone.
    pub(super) fn miss(&self) {
        self.is_missed.store(true, Ordering::Relaxed);
    }

    /// Whether there may be memory that could be given back.
    pub(super) fn is_warm(&self) -> bool {
        self.is_warm.load(Ordering::Relaxed)
    }

    /// Gives back the memory that no call uses now, on both sides. The next one that needs it takes longer.
    ///
    /// On a thread beside the runtime: the kernel took 24 to 55 ms for 128 MiB. Until it is done, calls find other places.
    pub(super) fn trim(&self) {
        self.is_warm.store(false, Ordering::Relaxed);
        let (Some(Some(link)), Ok(actor)) = (self.link.get(), self.child.actor()) else { return };
        let link = Arc::clone(link);
        actor.drivers.spawn_blocking_on(move || link.trim(), &actor.runtime);
    }

    /// The link that a new call goes by; `Some(None)`: the line. One of which something was lost is used no more: the child does not
    /// know, and would put results where they can't be read. Those that are there already are read all the same.
    fn way(&self) -> Option<Option<&Arc<Link>>> {
        let link = self.link.get()?.as_ref();
        Some(link.filter(|link| !link.inbox.has_lost()))
    }

    /// The call with its arguments encoded. `None`: they are large, and nobody has tried to share memory yet.
    fn prepare<E: Endpoint>(self: &Arc<Self>, args: &E::Args) -> Result<Option<Job>, Error> {
        match self.way() {
            Some(Some(link)) => self.parcel::<E>(link, args).map(Some),
            Some(None) => self.plain::<E>(args).map(Some),
            None => {
                let mut meter = Meter::default();
                let mut bytes = Vec::with_capacity(64);
                let encoding = encode_args_with::<E>(args, Encoding::Positional, &mut bytes, Some(&mut meter));
                if meter.is_large {
                    return Ok(None);
                }
                self.whole(path_of::<E>(), bytes, encoding.map_err(Error::Codec)?).map(Some)
            }
        }
    }

    /// The same by the line alone, for any child.
    pub(super) fn plain<E: Endpoint>(self: &Arc<Self>, args: &E::Args) -> Result<Job, Error> {
        let mut bytes = Vec::with_capacity(64);
        let encoding = encode_args::<E>(args, Encoding::Positional, &mut bytes).map_err(Error::Codec)?;
        self.whole(path_of::<E>(), bytes, encoding)
    }

    fn whole(self: &Arc<Self>, path: &'static str, bytes: Vec<u8>, encoding: Encoding) -> Result<Job, Error> {
        Ok(Job { prepared: self.prepared(path, bytes, encoding)?, share: Arc::clone(self), call: None })
    }

    fn parcel<E: Endpoint>(self: &Arc<Self>, link: &Link, args: &E::Args) -> Result<Job, Error> {
        self.parcel_with(path_of::<E>(), link, |bytes, filling| {
            encode_args_with::<E>(args, Encoding::Positional, bytes, Some(filling))
        })
    }

    /// A call whose large parts go by this link, its arguments as `write` appends them. Its result may be large too.
    fn parcel_with(
        self: &Arc<Self>,
        path: &'static str,
        link: &Link,
        write: impl FnOnce(&mut Vec<u8>, &mut Filling<'_>) -> Result<Encoding, CodecError>,
    ) -> Result<Job, Error> {
        let limit = self.limit()? as usize;
        self.is_warm.store(true, Ordering::Relaxed);
        let call = InFlight::begin(self);
        let mut filling = link.outbox.begin(call.number, limit);
        let mut bytes = Vec::with_capacity(64);
        parcel::begin(&mut bytes);
        let encoding = write(&mut bytes, &mut filling).map_err(Error::Codec)?;
        filling.end(&mut bytes, call.oldest);
        Ok(Job { prepared: self.prepared(path, bytes, encoding)?, share: Arc::clone(self), call: Some(call) })
    }

    fn prepared(&self, path: &'static str, bytes: Vec<u8>, encoding: Encoding) -> Result<Prepared, Error> {
        Prepared::of_bytes(path, bytes, encoding, self.limit()?)
    }

    fn limit(&self) -> Result<u32, Error> {
        Ok(self.child.actor()?.settings.max_frame_bytes)
    }

    fn decode<E: Endpoint>(&self, bytes: &[u8]) -> Result<E::Output, Error> {
        let Some((value, note)) = parcel::open(bytes) else {
            if bytes.len() >= SPILL_BYTES {
                self.miss();
            }
            return decode_result::<E>(bytes);
        };
        let (Some(Some(link)), Some(pieces)) = (self.link.get(), note.pieces) else {
            return decode_result::<E>(value);
        };
        let is_live = |call| self.calls.lock().live.contains(&call);
        let pieces = link.inbox.open(&pieces, is_live).map_err(|error| lost::<E>(&error))?;
        codec::with_pieces(pieces, || decode_result::<E>(value))
    }

    async fn connect(&self) {
        let connecting = async {
            match self.try_connect().await {
                Ok(link) => Some(link),
                Err(error) => {
                    tracing::debug!(target: "teamster::pool", actor = %self.child.aid(), %error, "no memory is shared");
                    None
                }
            }
        };
        self.link.get_or_init(|| connecting).await;
    }

    /// Nobody waits for the other side to connect: it has when it has answered.
    async fn try_connect(&self) -> Result<Arc<Link>, Error> {
        let actor = self.child.actor()?;
        let path = socket_path(&actor.folder, Uuid::new_v4());
        let failed = |error: std::io::Error| Error::Transport {
            what: format!("can't share memory with {}", self.child.aid()),
            reason: error.to_string(),
        };
        let door = Door::open(path.clone()).map_err(failed)?;
        self.child.run(share_memory(path)).await?;
        Ok(Link::new(door.accept(self.child.aid().pid()).map_err(failed)?))
    }
}

/// Whether it is a process of this host, and sees the same folders.
fn is_reachable(child: &Portal) -> bool {
    let is_near = child.child().is_some_and(|child| !child.is_far);
    is_near && is_here(child.aid())
}

fn lost<E: Endpoint>(error: &std::io::Error) -> Error {
    let failure = DecodeFailure {
        type_name: std::any::type_name::<E::Output>(),
        path: String::new(),
        message: format!("the shared memory that it is in can't be had: {error}"),
    };
    Error::Codec(CodecError::decoding(path_of::<E>(), "the result", failure))
}

/// A call that can be sent. As long as it is there, its arguments are, and its result can be read.
pub(super) struct Job {
    prepared: Prepared,
    share: Arc<Share>,
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be dropped"))]
    call: Option<InFlight>,
}

impl Job {
    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// It can be sent to the child alone for which it was made.
    #[cfg(test)]
    pub(super) fn is_parcel(&self) -> bool {
        self.call.is_some()
    }

    /// What the child has answered.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if it is no such result.
    pub(super) fn result<E: Endpoint>(&self, bytes: &[u8]) -> Result<E::Output, Error> {
        self.share.decode::<E>(bytes)
    }
}

/// A call as long as somebody waits for its result.
struct InFlight {
    share: Arc<Share>,
    number: u64,
    /// The first of all that had not ended when it began.
    oldest: u64,
}

impl InFlight {
    fn begin(share: &Arc<Share>) -> Self {
        let mut calls = share.calls.lock();
        calls.begun += 1;
        let number = calls.begun;
        calls.live.insert(number);
        let oldest = calls.live.first().copied().unwrap_or(number);
        InFlight { share: Arc::clone(share), number, oldest }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.share.calls.lock().live.remove(&self.number);
        if let Some(Some(link)) = self.share.link.get() {
            // Arguments that were never looked at: the call was over before it had started.
            link.outbox.take_back(|call| call == self.number);
        }
    }
}

/// Whether there is anything large, before there is a place for it.
#[derive(Default)]
pub(super) struct Meter {
    pub(super) is_large: bool,
}

impl Spill for Meter {
    fn take(&mut self, _bytes: &[u8]) -> Option<u32> {
        self.is_large = true;
        Some(0)
    }

    fn restart(&mut self) {}
}

/// A child's end of the memory that its parent shares with it.
struct Shared {
    link: Arc<Link>,
    limit: usize,
}

/// Connects to where the parent listens for it.
#[rpc(name = "teamster.pool.share_memory")]
async fn share_memory(at: PathBuf) -> Result<()> {
    let actor = current::actor()?;
    let parent = actor.parent.as_ref().filter(|parent| is_here(&parent.aid));
    let parent = parent.ok_or(Error::Usage("memory is shared with the parent alone, on the same host"))?;
    let link = Link::new(Side::dial(&at, parent.aid.pid())?);
    *actor.parcels.lock() = Some(Arc::new(Shared { link, limit: actor.settings.max_frame_bytes as usize }));
    Ok(())
}

impl Parcels for Shared {
    fn open<'a>(&self, parcel: &'a [u8]) -> Result<Opened<'a>, String> {
        let (args, note) = parcel::open(parcel).ok_or("its arguments are no parcel")?;
        self.link.outbox.take_back(|call| call < note.oldest);
        let pieces = match &note.pieces {
            None => Vec::new(),
            Some(pieces) => {
                let opened = self.link.inbox.open(pieces, |call| call >= note.oldest);
                opened.map_err(|error| format!("the shared memory that its arguments are in can't be had: {error}"))?
            }
        };
        let answer = ToParent { link: Arc::clone(&self.link), call: note.call, limit: self.limit };
        Ok(Opened { args, pieces, answer: Some(Arc::new(answer)) })
    }
}

/// The way back, of one call.
struct ToParent {
    link: Arc<Link>,
    call: u64,
    limit: usize,
}

impl Answer for ToParent {
    fn encode(&self, encode: Encode<'_>) -> Result<(Vec<u8>, Encoding), EncodeFailure> {
        let mut out = Vec::new();
        parcel::begin(&mut out);
        let mut filling: Filling<'_> = self.link.outbox.begin(self.call, self.limit);
        let used = encode(&mut out, &mut filling)?;
        filling.end(&mut out, 0); // which of its calls are over, the parent knows
        Ok((out, used))
    }
}
