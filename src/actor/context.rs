//! What does each side of a context know of it, below the handles that users hold?
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::SetOnce;

use super::child::Child;
use super::peers::{Lost, canceller, lost};
use super::scope::Scope;
use super::{Actor, DataLine};
use crate::channel::link::{Link, LinkEnd};
use crate::error::{CodecError, Error};
use crate::msg::frame::Stop;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::remote_error::WireError;
use crate::proto::dialog::{Misuse, Role};

/// One side of a context.
pub(crate) struct ContextCore {
    pub(crate) actor: Arc<Actor>,
    pub(crate) line: Arc<DataLine>,
    pub(crate) link: Arc<Link>,
    /// The actor on the other side.
    pub(crate) peer: Aid,
    pub(crate) side: Side,
    /// Milliseconds that an item waits for a stream that the other side has not opened.
    overrun_after_ms: AtomicU64,
    /// What the loss of its line was found to be: asked once, for it has an id.
    loss: OnceLock<Error>,
    /// When its end was asked for here first, by our clock.
    asked_at: OnceLock<Instant>,
    handle: OnceLock<u64>,
}

/// What only one of the sides has.
pub(crate) enum Side {
    Opener {
        /// The other side, if it is a child of ours.
        child: Option<Arc<Child>>,
    },
    Callee {
        scope: Arc<Scope>,
        /// Its task has ended, and all that it had left to do.
        over: SetOnce<()>,
    },
}

impl Side {
    pub(crate) fn of_callee(scope: &Arc<Scope>) -> Side {
        Side::Callee { scope: Arc::clone(scope), over: SetOnce::new() }
    }
}

/// How the other side ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Returned(Bytes),
    Failed(Error),
}

/// How long an item waits for a stream that the other side has not opened, unless it was said.
pub(crate) const OVERRUN_AFTER: Duration = Duration::from_secs(1);

impl ContextCore {
    pub(crate) fn new(actor: &Arc<Actor>, line: &Arc<DataLine>, link: Arc<Link>, side: Side) -> Arc<Self> {
        let core = ContextCore {
            actor: Arc::clone(actor),
            line: Arc::clone(line),
            link,
            peer: line.peer.clone(),
            side,
            overrun_after_ms: AtomicU64::new(0),
            loss: OnceLock::new(),
            asked_at: OnceLock::new(),
            handle: OnceLock::new(),
        };
        core.set_overrun_after(OVERRUN_AFTER);
        Arc::new(core)
    }

    /// Whether one of its messages fits what the line takes.
    pub(crate) fn check_length(&self, what: &'static str, bytes: usize) -> Result<(), Error> {
        let (path, limit) = (self.link.path, self.line.limit());
        match crate::msg::frame::fits(path, bytes, limit) {
            true => Ok(()),
            false => Err(Error::Codec(CodecError::too_long(path, what, bytes, limit))),
        }
    }

    pub(crate) fn role(&self) -> Role {
        match self.side {
            Side::Opener { .. } => Role::Opener,
            Side::Callee { .. } => Role::Callee,
        }
    }

    pub(crate) fn set_overrun_after(&self, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.overrun_after_ms.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn overrun_after(&self) -> Duration {
        Duration::from_millis(self.overrun_after_ms.load(Ordering::Relaxed))
    }

    /// How the callee ended, once it has: what its opener is told of it.
    pub(crate) async fn ending(&self) -> Ending {
        let end = poll_fn(|cx| self.link.poll_end(cx)).await;
        self.told(end).await
    }

    /// The same, without the user being told.
    pub(crate) async fn watched_ending(&self) -> Ending {
        let end = poll_fn(|cx| self.link.poll_watch(cx)).await;
        self.told(end).await
    }

    async fn told(&self, end: LinkEnd) -> Ending {
        match end {
            LinkEnd::Returned(bytes) => Ending::Returned(bytes),
            LinkEnd::Failed(bytes) => Ending::Failed(self.decode_error(&bytes)),
            LinkEnd::Lost(left, end) => {
                if let Some(loss) = self.loss.get() {
                    return Ending::Failed(loss.clone());
                }
                let child = match &self.side {
                    Side::Opener { child } => child.as_ref(),
                    Side::Callee { .. } => None,
                };
                let path = self.link.path;
                let error = match lost(&self.actor, child, &self.peer, path, left, &end).await {
                    Lost::Failed(error) => error,
                    Lost::Again => {
                        Error::NotStarted { endpoint: path.to_owned(), aid: self.peer.clone(), reason: end.to_string() }
                    }
                };
                Ending::Failed(self.loss.get_or_init(|| error).clone())
            }
            LinkEnd::Here => Ending::Failed(Error::Usage("this context's own task has ended")),
        }
    }

    /// The error's payload as the opener's user gets it.
    pub(crate) fn decode_error(&self, bytes: &[u8]) -> Error {
        match WireError::decode(bytes) {
            Ok(error) => error.into_error(self.link.path, &self.peer),
            Err(failure) => Error::Codec(CodecError::decoding(self.link.path, "the error", failure)),
        }
    }

    /// This actor asks for the context's end. From the opener it is a request to the callee alone;
    /// from the callee it is one to its own task.
    pub(crate) fn cancel(&self) {
        self.asks();
        match &self.side {
            Side::Opener { .. } => self.line.ask_to_end(&self.link, &self.our_cancel()),
            Side::Callee { scope, .. } => {
                scope.cancel(&canceller(&self.actor.aid, CancelRequest::Itself));
            }
        }
    }

    /// Its end is asked for on this side. When that was done first, by our clock: its grace counts from there.
    fn asks(&self) -> Instant {
        self.link.asks();
        *self.asked_at.get_or_init(|| self.actor.clock.now())
    }

    /// Whether an error is the cancel that this side has asked for through this context.
    pub(crate) fn is_ours(&self, error: &Error) -> bool {
        match error {
            Error::Cancelled { canceller } => {
                let ours = matches!(canceller.request, CancelRequest::Context | CancelRequest::Dropped);
                ours && canceller.aid == self.actor.aid
            }
            _ => false,
        }
    }

    fn our_cancel(&self) -> Canceller {
        canceller(&self.actor.aid, CancelRequest::Context)
    }

    /// A third actor asks for the context's end.
    pub(crate) fn cancel_for(&self, canceller: &Canceller) {
        self.asks();
        match &self.side {
            Side::Opener { .. } => self.line.ask_for(&self.link, canceller),
            Side::Callee { scope, .. } => scope.cancel(canceller),
        }
    }

    /// Waits until the callee has ended, at most its grace after it was asked.
    pub(crate) async fn stopped(&self) -> Result<(), Error> {
        self.stopped_by(self.asks() + self.line.grace() + ANSWER_WITHIN).await
    }

    /// The same for whoever has asked: a lost line is no answer, unless its loss says that the callee is over.
    pub(crate) async fn known_to_have_stopped(&self) -> Result<(), Error> {
        let asked_at = self.asks();
        self.stopped().await?;
        if !matches!(self.link.end(), Some(LinkEnd::Lost(..))) {
            return Ok(());
        }
        // It may have been asked long before its line was lost.
        let clock = &self.actor.clock;
        let by = clock.now().max(asked_at + self.line.grace()) + ANSWER_WITHIN;
        let known = async {
            match &self.side {
                Side::Opener { .. } => !matches!(self.watched_ending().await, Ending::Failed(Error::Unknown { .. })),
                Side::Callee { over, .. } => {
                    over.wait().await;
                    true
                }
            }
        };
        match clock.timeout_at(by, known).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(self.not_stopped(clock.now().saturating_duration_since(asked_at))),
        }
    }

    /// The callee's task has ended, and all that it had left to do.
    pub(crate) fn is_over(&self) {
        if let Side::Callee { over, .. } = &self.side {
            // Once alone: by whoever serves it.
            let _ = over.set(());
        }
    }

    async fn stopped_by(&self, at: Instant) -> Result<(), Error> {
        let end = poll_fn(|cx| self.link.poll_watch(cx));
        match self.actor.clock.timeout_at(at, end).await {
            Ok(_end) => Ok(()),
            Err(_elapsed) => Err(self.not_stopped(self.line.grace())),
        }
    }

    fn not_stopped(&self, waited: Duration) -> Error {
        Error::NotStopped {
            endpoint: self.link.path.to_owned(),
            aid: self.peer.clone(),
            grace: waited,
            heard: self.link.heard().is_some(),
        }
    }

    /// Nobody waits for it any more: the callee is cancelled, and what the dropped code stood in
    /// waits for that, within the grace.
    pub(crate) fn abandon(self: &Arc<Self>, request: CancelRequest) {
        if self.link.end().is_some() {
            return;
        }
        self.asks();
        self.line.ask_to_end(&self.link, &canceller(&self.actor.aid, request));
        let scope = super::current::with_current(|current| current.map(|current| Arc::clone(&current.scope)));
        if let Some(scope) = scope {
            scope.leave_context(Arc::clone(self));
        }
    }

    /// Waits for a context that was given up. Not as long as whoever waits for us, who would say
    /// that we have not stopped.
    pub(crate) async fn given_up(&self) {
        if let Err(error) = self.stopped_by(self.asks() + self.line.grace()).await {
            tracing::warn!(%error, "a context that was given up has not ended");
        }
    }

    /// The opener's body is over: it reads no more, and the callee may end as it likes.
    pub(crate) fn body_is_over(&self) {
        self.line.stop_stream(&self.link, Stop::BodyOver);
    }

    /// The callee sends to an opener whose body is over: nobody wants that any more.
    pub(crate) fn end_unheard(&self) {
        if let Side::Callee { scope, .. } = &self.side {
            scope.cancel(&canceller(&self.peer, CancelRequest::Dropped));
        }
    }

    /// Whether the callee's task is to end, on the callee's side.
    pub(crate) fn is_ending_here(&self) -> bool {
        matches!(&self.side, Side::Callee { scope, .. } if scope.is_cancelled())
    }

    /// What a mistake of the user's is called.
    pub(crate) fn misuse(&self, misuse: Misuse) -> Error {
        Error::Usage(match misuse {
            Misuse::StartedTwice => "`started` was called twice: a context says its first word once",
            Misuse::StreamBeforeStarted => "the stream was opened before `started`: call `ctx.started(…)` first",
            Misuse::SecondStream => {
                "a context has one stream, and it was opened already: split it, or open another context"
            }
            Misuse::Cancelled => "the context was cancelled: it can't open a stream any more",
            Misuse::Ended => "the context has ended: it can't open a stream any more",
            Misuse::Finished => "this side has finished its stream: it can't send any more",
        })
    }

    // ---- handles for other actors

    /// A number under which other actors can ask for the end of this context.
    pub(crate) fn handle(self: &Arc<Self>) -> u64 {
        *self.handle.get_or_init(|| {
            let mut handles = self.actor.context_handles.lock();
            let number = handles.next;
            handles.next += 1;
            handles.given.retain(|_, core| core.strong_count() > 0);
            handles.given.insert(number, Arc::downgrade(self));
            number
        })
    }
}

/// Contexts that other actors may ask to end, by number.
#[derive(Default)]
pub(crate) struct Handles {
    next: u64,
    given: std::collections::HashMap<u64, Weak<ContextCore>>,
}

impl Handles {
    pub(crate) fn find(&self, number: u64) -> Option<Arc<ContextCore>> {
        self.given.get(&number)?.upgrade()
    }
}

/// The message and its answer take no longer than this, besides the grace.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(250);

impl std::fmt::Debug for ContextCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("endpoint", &self.link.path).field("peer", &self.peer).finish_non_exhaustive()
    }
}
