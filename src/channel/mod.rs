//! How is one connection kept moving?
//!
//! A [`Channel`] is one data line: callers append to its buffer and, when nothing else waits,
//! write to the socket themselves; the driver reads, hands over and writes the rest.
mod contexts;
pub(crate) mod driver;
pub(crate) mod handshake;
mod inbox;
pub(crate) mod line;
pub(crate) mod link;
#[cfg(feature = "debug")]
pub(crate) mod look;
mod out;
mod tally;

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};

use crate::msg::frame::{AckState, Encoding, Frame};
use crate::msg::ident::{Aid, Canceller};
use crate::msg::remote_error::WireError;
use crate::proto::connection::{CancelVerdict, Connection, IdHasher, Left, Order, Side, Violation};
use crate::proto::dialog::{Overruns, Role};
use crate::transport::socket::Socket;
pub(crate) use contexts::{ItemBytes, Sent};
pub(crate) use inbox::Inbox;
use link::{Link, LinkEnd, Woken};
use out::{Flush, Long, Out, Turn};
pub(crate) use out::{Head, LONG_BYTES, Payload};

/// What serves the dialogs that a peer opens: the actor, a floor up.
pub(crate) trait Service: Send + Sync + Sized + 'static {
    /// What an endpoint's path stands for.
    type Endpoint: Clone + fmt::Debug + Send + Sync;
    /// What a running dialog is cancelled by.
    type Task: Clone + fmt::Debug + Send + Sync;

    fn resolve(&self, path: &str) -> Self::Endpoint;
    /// A Start. Whoever implements it calls [`Channel::serve`] before and one of the `end`s after.
    fn on_start(self: &Arc<Self>, channel: &Arc<Channel<Self>>, start: Start<Self::Endpoint>, args: &[u8]);
    /// A cancel of one of the dialogs. Called with the channel's lock held: it only flags and wakes.
    fn cancel(task: &Self::Task, canceller: &Canceller);
    /// The peer asks for the end of this whole actor.
    fn on_cancel_actor(self: &Arc<Self>, channel: &Arc<Channel<Self>>, canceller: Canceller);
    /// A log line of the peer.
    fn on_log(&self, channel: &Channel<Self>, line: &[u8]);
    /// What to send when nothing else waits: log lines. `false`: nothing.
    fn idle_frames(&self, channel: &Channel<Self>, out: &mut BytesMut) -> bool;
    /// The line has ended. Each waiting dialog has been told.
    fn on_end(self: &Arc<Self>, channel: &Arc<Channel<Self>>, end: &LineEnd);
}

/// A dialog that the peer opens.
#[derive(Debug)]
pub(crate) struct Start<E> {
    pub(crate) dialog: u64,
    pub(crate) endpoint: E,
    pub(crate) encoding: Encoding,
    pub(crate) deadline: Option<Duration>,
}

/// How a line ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// The peer said goodbye, or we did, with no dialog open.
    Bye(String),
    /// The peer gave the line up, for this reason. What it had begun may have run.
    Dropped(String),
    /// The peer's end closed without a word.
    Eof,
    /// The operating system's error.
    Io(String),
    /// The peer broke the protocol.
    Violation(String),
    /// This actor ends.
    Shutdown,
}

impl fmt::Display for LineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineEnd::Bye(reason) | LineEnd::Dropped(reason) => write!(f, "the peer closed the line: {reason}"),
            LineEnd::Eof => f.write_str("the peer's end of the line closed"),
            LineEnd::Io(error) => f.write_str(error),
            LineEnd::Violation(what) => write!(f, "the peer broke the protocol: {what}"),
            LineEnd::Shutdown => f.write_str("this actor is ending"),
        }
    }
}

/// How a dialog that we opened ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The result's bytes.
    Returned(Vec<u8>),
    /// The error's bytes.
    Failed(Vec<u8>),
    /// The line was lost first.
    Lost(Left, LineEnd),
}

/// Why a dialog could not be opened.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Too many dialogs or bytes wait: try again when [`Channel::room`] resolves.
    Full,
    /// The line has ended.
    Ended(LineEnd),
}

/// The control line to the same peer, where there is one: cancels pass every queue on it.
pub(crate) trait CancelLine: Send + Sync {
    fn cancel(&self, dialog: u64, grace: Duration, canceller: &Canceller);
}

/// A dialog to open.
pub(crate) struct Outgoing<'a> {
    /// Unique for the endpoint while the program runs.
    pub(crate) key: usize,
    pub(crate) path: &'static str,
    pub(crate) args: &'a Payload,
    pub(crate) encoding: Encoding,
    pub(crate) deadline: Option<Duration>,
    /// Of a context: what becomes of items that our side does not read in time.
    pub(crate) context: Option<Overruns>,
}

/// The last frame of a dialog that we serve.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Last {
    Return(Encoding),
    Error,
}

/// Who waits for the outcome of a dialog that we opened, and what was called.
struct Waiting {
    waker: Option<Waker>,
    path: &'static str,
    /// The endpoint whose path went along: any answer shows that it has come.
    introduces: Option<usize>,
    /// Of a context.
    link: Option<Arc<Link>>,
}

/// A dialog of the peer that runs here.
#[derive(Debug)]
struct Served<T> {
    task: T,
    /// Of a context.
    link: Option<Arc<Link>>,
}

/// One data line.
pub(crate) struct Channel<S: Service> {
    pub(crate) peer: Aid,
    /// What we encode arguments in.
    pub(crate) encoding: Encoding,
    limit: u32,
    socket: Socket,
    shared: Mutex<Shared<S>>,
    driver: AtomicWaker,
    driver_is_due: AtomicBool,
    control: Option<Arc<dyn CancelLine>>,
    /// Close when no dialog has been open for so long. `None`: the line lives as long as the peer.
    idle_after: Option<Duration>,
    /// Grace that goes along with a cancel of a dialog.
    grace: Duration,
    /// The peer has shown that it belongs to another tree.
    pub(crate) is_foreign: bool,
}

struct Shared<S: Service> {
    dialogs: Connection<Waiting, Served<S::Task>, S::Endpoint>,
    done: HashMap<u64, Outcome, BuildHasherDefault<IdHasher>>,
    out: Out,
    room: Vec<Waker>,
    flushed: Vec<Waker>,
    end: Option<LineEnd>,
    /// What we had open when it ended.
    lost_paths: Vec<&'static str>,
    bye_sent: bool,
    /// Dialogs that ended with the last read.
    settled_at_once: usize,
    /// Items that were sent since the driver last ran.
    items_sent: u32,
    /// They come in bursts: those of one share the driver's write.
    is_burst: bool,
}

/// Bytes that may wait in a line's buffer before callers are held back: enough that one write
/// carries hundreds of calls, little enough that a cancel behind them leaves at once.
const HIGH_WATER_BYTES: usize = 1 << 20;

/// What a channel is made of besides its socket.
pub(crate) struct Parts {
    pub(crate) peer: Aid,
    pub(crate) side: Side,
    pub(crate) encoding: Encoding,
    pub(crate) limit: u32,
    pub(crate) control: Option<Arc<dyn CancelLine>>,
    pub(crate) idle_after: Option<Duration>,
    pub(crate) grace: Duration,
    /// The peer has shown that it belongs to another tree.
    pub(crate) is_foreign: bool,
    /// Bytes to send first: the handshake's answer, so that it shares a write with the first call.
    pub(crate) greeting: BytesMut,
}

impl<S: Service> Channel<S> {
    pub(crate) fn new(socket: Socket, parts: Parts) -> Arc<Self> {
        let out = Out::new(parts.greeting);
        let order = if socket.has_streams() { Order::EachDialog } else { Order::AsSent };
        Arc::new(Channel {
            peer: parts.peer,
            encoding: parts.encoding,
            limit: parts.limit,
            socket,
            shared: Mutex::new(Shared {
                dialogs: Connection::new(parts.side, order),
                done: HashMap::default(),
                out,
                room: Vec::new(),
                flushed: Vec::new(),
                end: None,
                lost_paths: Vec::new(),
                bye_sent: false,
                settled_at_once: 0,
                items_sent: 0,
                is_burst: false,
            }),
            driver: AtomicWaker::new(),
            driver_is_due: AtomicBool::new(false),
            control: parts.control,
            idle_after: parts.idle_after,
            grace: parts.grace,
            is_foreign: parts.is_foreign,
        })
    }

    /// Bytes of the largest frame, both ways.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether no kernel keeps it up: see [`Channel::tend`].
    pub(crate) fn is_timed(&self) -> bool {
        self.socket.has_streams()
    }

    /// Whether its other end is on another host.
    pub(crate) fn is_remote(&self) -> bool {
        self.socket.is_remote()
    }

    /// For how long the other machine's kernel has not answered, where one keeps the line up.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.socket.silence()
    }

    /// Sees to what has come and to what is due, whatever the driver does, and asks for a sign of life if it `is_to_ping`. A number
    /// that changes when the other side is heard; `None`: it has ended, or the kernel keeps it up.
    pub(crate) fn tend(&self, is_to_ping: bool) -> Option<u64> {
        self.socket.tend(is_to_ping)
    }

    /// The process at the other end is gone, where no kernel's connection tells: what it has sent is read, and the end comes behind it.
    pub(crate) fn peer_has_ended(&self) {
        self.socket.peer_has_ended();
    }

    /// Waits until the other side has all that was sent, where no kernel sees to that, and closes the line. Nobody drives it any
    /// more.
    pub(crate) fn conclude(&self, until: Instant) {
        self.socket.conclude(until);
    }

    /// How the line ended, if it has.
    pub(crate) fn end(&self) -> Option<LineEnd> {
        self.shared.lock().end.clone()
    }

    // ---- opening dialogs

    /// Whether dialogs can be opened on it: it has not ended, and we have not said goodbye.
    pub(crate) fn is_open(&self) -> bool {
        let shared = self.shared.lock();
        shared.end.is_none() && !shared.bye_sent
    }

    /// Opens a dialog: queues its Start, and writes it at once when nothing else is going on.
    pub(crate) fn open(&self, call: &Outgoing<'_>) -> Result<(u64, Option<Arc<Link>>), Refused> {
        let mut guard = self.shared.lock();
        let shared = &mut *guard;
        if let Some(end) = &shared.end {
            return Err(Refused::Ended(end.clone()));
        }
        if shared.bye_sent {
            return Err(Refused::Ended(LineEnd::Bye("it had been idle".into())));
        }
        if !shared.dialogs.has_room() || shared.out.waiting_bytes() > HIGH_WATER_BYTES {
            return Err(Refused::Full);
        }
        let (endpoint, is_new) = shared.dialogs.number_of(call.key);
        let introduces = (is_new && shared.dialogs.order() == Order::EachDialog).then_some(call.key);
        let dialog = shared.dialogs.open(Waiting { waker: None, path: call.path, introduces, link: None });
        let link = call.context.map(|overruns| Arc::new(Link::new(dialog, call.path, Role::Opener, overruns)));
        if link.is_some()
            && let Some(waiting) = shared.dialogs.slot(dialog)
        {
            waiting.link.clone_from(&link);
        }
        let path = is_new.then_some(call.path);
        let deadline_us = call.deadline.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX));
        let (first, left) = match call.args {
            Payload::Short(args) => (&args[..], 0),
            Payload::Long(args) => (&[][..], args.len() as u64),
        };
        let start = Frame::Start { dialog, endpoint, path, deadline_us, encoding: call.encoding, left };
        let ends_at = shared.out.queue(&start, first);
        if let Payload::Long(args) = call.args {
            shared.out.queue_long(Long::value(dialog, args.clone()));
        }
        shared.dialogs.start_queued(dialog, ends_at);
        // After a batch of answers the other callers are about to follow: they share the driver's write.
        let is_alone = shared.dialogs.opened() == 1 && shared.settled_at_once <= 1;
        drop(guard);
        self.flush_soon(is_alone);
        Ok((dialog, link))
    }

    /// Resolves when a refused [`Channel::open`] may be tried again.
    pub(crate) async fn room(&self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.lock();
            if shared.end.is_some() || (shared.dialogs.has_room() && shared.out.waiting_bytes() <= HIGH_WATER_BYTES) {
                return Poll::Ready(());
            }
            shared.room.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The outcome of a dialog that we opened, once.
    pub(crate) fn poll_outcome(&self, dialog: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut shared = self.shared.lock();
        if let Some(outcome) = shared.done.remove(&dialog) {
            return Poll::Ready(outcome);
        }
        match shared.dialogs.slot(dialog) {
            Some(Waiting { waker: Some(waker), .. }) if waker.will_wake(cx.waker()) => {}
            Some(slot) => slot.waker = Some(cx.waker().clone()),
            None => return Poll::Ready(Outcome::Lost(Left::Yes, shared.end.clone().unwrap_or(LineEnd::Eof))),
        }
        Poll::Pending
    }

    /// Asks for the end of a dialog that we opened. Asking twice is asking once.
    pub(crate) fn cancel(&self, dialog: u64, canceller: &Canceller) {
        let mut shared = self.shared.lock();
        if shared.done.remove(&dialog).is_some() {
            return;
        }
        if shared.end.is_some() || !shared.dialogs.cancel(dialog) {
            return;
        }
        shared.out.forget_args(dialog);
        self.send_cancel(shared, dialog, canceller);
    }

    fn send_cancel(&self, mut shared: MutexGuard<'_, Shared<S>>, dialog: u64, canceller: &Canceller) {
        if let Some(control) = &self.control {
            drop(shared);
            control.cancel(dialog, self.grace, canceller);
        } else {
            shared.out.urgent(&self.cancel_frame(dialog, canceller));
            drop(shared);
            self.flush_soon(true);
        }
    }

    /// Asks the peer's whole actor to end, by the data line.
    pub(crate) fn cancel_actor(&self, grace: Duration, canceller: &Canceller) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut shared = self.shared.lock();
        shared.out.urgent(&Frame::Cancel { dialog: 0, grace_ms, canceller: canceller.clone() });
        drop(shared);
        self.flush_soon(true);
    }

    fn cancel_frame(&self, dialog: u64, canceller: &Canceller) -> Frame<'static> {
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        Frame::Cancel { dialog, grace_ms, canceller: canceller.clone() }
    }

    /// The endpoints of the dialogs that we have open, or had when the line ended.
    pub(crate) fn open_paths(&self) -> Vec<String> {
        let shared = self.shared.lock();
        if shared.end.is_some() {
            return shared.lost_paths.iter().map(ToString::to_string).collect();
        }
        shared.dialogs.slots().map(|slot| slot.path.to_owned()).collect()
    }

    // ---- serving dialogs

    /// The dialog's task exists from here on: cancels find it.
    pub(crate) fn serve(&self, dialog: u64, task: S::Task) {
        self.serve_linked(dialog, task, None);
    }

    fn serve_linked(&self, dialog: u64, task: S::Task, link: Option<Arc<Link>>) {
        let mut shared = self.shared.lock();
        let by = task.clone();
        if let Some(canceller) = shared.dialogs.serve(dialog, Served { task, link }) {
            S::cancel(&by, &canceller);
        }
    }

    /// The task did not end in its first poll.
    pub(crate) fn acknowledge_start(&self, dialog: u64) {
        self.shared.lock().out.queue(&Frame::StartAck { dialog }, &[]);
    }

    /// Sends the dialog's last frame. From outside of the driver, see [`Channel::flush_soon`].
    pub(crate) fn end_with(&self, dialog: u64, last: Last, payload: Payload) {
        let mut woken = Woken::default();
        let mut shared = self.shared.lock();
        if let Some(link) = shared.dialogs.served_one(dialog).and_then(|served| served.link.clone()) {
            // What it has not sent of an item nobody will get to read.
            shared.out.forget_rest(dialog, &mut woken);
            link.on_end(LinkEnd::Here, &mut woken);
        }
        if shared.end.is_none() {
            let frame = |left| match last {
                Last::Return(encoding) => Frame::Return { dialog, encoding, left },
                Last::Error => Frame::Error { dialog, left },
            };
            match payload {
                Payload::Short(payload) => {
                    shared.out.queue(&frame(0), &payload);
                }
                Payload::Long(payload) => {
                    shared.out.queue(&frame(payload.len() as u64), &[]);
                    shared.out.queue_long(Long::value(dialog, payload));
                }
            }
        }
        shared.dialogs.end_served(dialog);
        drop(shared);
    }

    /// A cancel for one of the peer's dialogs, which came by whichever line.
    pub(crate) fn on_cancel(&self, dialog: u64, canceller: &Canceller) -> Result<AckState, Violation> {
        let mut shared = self.shared.lock();
        let verdict = shared.dialogs.on_cancel(dialog, canceller)?;
        let state = verdict.state();
        match verdict {
            CancelVerdict::Asked(served) => S::cancel(&served.task, canceller),
            CancelVerdict::NotWhole => {
                drop(shared);
                self.end_with(dialog, Last::Error, WireError::Cancelled(canceller.clone()).encode().into());
                self.wake_driver();
            }
            CancelVerdict::Starting | CancelVerdict::Ended => {}
        }
        Ok(state)
    }

    /// The whole actor ends: every dialog that the peer has here is cancelled.
    pub(crate) fn cancel_served(&self, canceller: &Canceller) {
        for served in self.shared.lock().dialogs.served() {
            S::cancel(&served.task, canceller);
        }
    }

    /// Whether none of the peer's dialogs is left here.
    pub(crate) fn serves_none(&self) -> bool {
        self.shared.lock().dialogs.served().next().is_none()
    }

    /// Dialogs open on this line, ours and the peer's: a debug count for leak checks.
    pub(crate) fn dialogs(&self) -> usize {
        let shared = self.shared.lock();
        shared.dialogs.opened() + shared.dialogs.served().count()
    }

    // ---- writing

    /// Gets what is queued on its way: by this very thread if `at_once`, else by the driver, which
    /// runs after the tasks that are ready now, so that what they add shares one write.
    #[inline]
    pub(crate) fn flush_soon(&self, at_once: bool) {
        if !at_once || self.flush_now() {
            self.wake_driver();
        }
    }

    /// Whether the driver has to go on with it.
    #[inline(never)]
    fn flush_now(&self) -> bool {
        matches!(self.try_flush(), Flush::Blocked | Flush::More)
    }

    #[inline]
    pub(crate) fn wake_driver(&self) {
        // A look costs less than a swap, and those of a burst find it set.
        if !self.driver_is_due.load(Ordering::Acquire) {
            self.wake_idle_driver();
        }
    }

    #[inline(never)]
    fn wake_idle_driver(&self) {
        if !self.driver_is_due.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }

    /// Whether all that was queued has been handed to the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        let shared = self.shared.lock();
        shared.end.is_some() || shared.out.is_dead || shared.out.is_empty()
    }

    /// Resolves when [`Channel::is_flushed`] may have become true.
    pub(crate) async fn flushed(&self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.lock();
            let is_flushed = shared.end.is_some() || shared.out.is_dead || shared.out.is_empty();
            if is_flushed {
                return Poll::Ready(());
            }
            shared.flushed.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Resolves when the line has ended.
    pub(crate) async fn ended(&self) {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.lock();
            if shared.end.is_some() {
                return Poll::Ready(());
            }
            shared.flushed.push(cx.waker().clone()); // woken by the end too
            Poll::Pending
        })
        .await;
    }

    fn try_flush(&self) -> Flush {
        let mut turn = Turn::new();
        loop {
            let mut woken = Woken::default();
            let mut shared = self.shared.lock();
            let write = match shared.out.begin_write(&mut woken) {
                Ok(write) => write,
                Err(flush) => return flush,
            };
            drop(shared);
            let result = write.try_send(&self.socket);
            let mut shared = self.shared.lock();
            let ended = shared.out.end_write(write, &result, &mut woken);
            let is_stuck = ended.is_ok() && !self.socket.is_flushed();
            if is_stuck {
                shared.out.block();
            }
            shared.wake_room();
            drop(shared);
            if let Err(flush) = ended {
                return flush;
            }
            if is_stuck {
                return Flush::Blocked;
            }
            if turn.is_over() {
                return Flush::More;
            }
        }
    }
}

impl<S: Service> Shared<S> {
    /// The context that a frame of the peer is for, if it is open here.
    fn link(&mut self, dialog: u64) -> Option<Arc<Link>> {
        if let Some(served) = self.dialogs.served_one(dialog) {
            return served.link.clone();
        }
        self.dialogs.slot(dialog).and_then(|waiting| waiting.link.clone())
    }

    /// Whether an item that is sent now leaves at once: those of a burst share a write.
    #[inline]
    fn is_lone_item(&mut self) -> bool {
        self.items_sent += 1;
        self.items_sent == 1 && !self.is_burst
    }

    /// The driver runs: were the items since its last run a burst?
    fn note_items(&mut self) {
        self.is_burst = self.items_sent > 1;
        self.items_sent = 0;
    }

    fn wake_room(&mut self) {
        if !self.flushed.is_empty() && self.out.is_empty() {
            for waker in self.flushed.drain(..) {
                waker.wake();
            }
        }
        if !self.room.is_empty() && self.dialogs.has_room() && self.out.waiting_bytes() <= HIGH_WATER_BYTES {
            for waker in self.room.drain(..) {
                waker.wake();
            }
        }
    }
}

impl<S: Service> fmt::Debug for Channel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer).field("end", &self.end()).finish_non_exhaustive()
    }
}
