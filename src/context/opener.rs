//! What does the opener hold of a context, and when does its block end?
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use super::{ContextCall, ContextEndpoint, ContextHandle};
use crate::actor::Actor;
use crate::actor::context::{ContextCore, Ending, Side};
use crate::actor::current::{self, Current, with_current};
use crate::actor::endpoint::{Travelling, decode_output, layout, path_of, with_both_types};
use crate::actor::peers::{Lost, canceller, lost};
use crate::actor::scope::{End, Scope, Scoped, run_deferred};
use crate::actor::traces::{Origin, beneath};
use crate::channel::Refused;
use crate::channel::link::LinkEnd;
use crate::error::{BoxError, CodecError, Error, Group};
use crate::msg::codec;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::portal::{FRESH_LINES, Portal, Prepared};
use crate::proto::connection::Left;
use crate::stream::MsgStream;

/// The opener's side of a context: the task runs in the other actor.
///
/// Cheap to clone. The body of [`Portal::open_context`] gets one by reference; [`Portal::context`] gives
/// an owned one, which cancels the task when its last clone is dropped.
///
/// # Examples
///
/// ```
/// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
/// #     ctx.started(()).await?; Ok(std::future::pending().await)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// use teamster::PortalContext;
///
/// /// Kept in a struct: dropped with it, the task is cancelled.
/// struct Holder {
///     job: PortalContext<hold>,
/// }
/// let holder = Holder { job: frank.context(hold()).await? };
/// assert!(!holder.job.has_ended());
/// # Ok(()) }).await }
/// ```
pub struct PortalContext<E: ContextEndpoint> {
    opened: Arc<Opened>,
    _endpoint: PhantomData<fn() -> E>,
}

/// Dropped, it cancels the context.
struct Opened {
    core: Arc<ContextCore>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.core.abandon(CancelRequest::Dropped);
    }
}

/// How a context ended.
///
/// # Examples
///
/// ```
/// # #[teamster::context] async fn job(ctx: teamster::Context) -> u32 { let _ = ctx.started(()).await; 1 }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// let job = frank.context(job()).await?;
/// job.cancel().await?;
/// assert!(matches!(job.outcome().await, teamster::Outcome::CancelledByUs | teamster::Outcome::Returned(1)));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome<T> {
    /// The task gave this value.
    Returned(T),
    /// The task was cancelled, because this side had asked through this context.
    CancelledByUs,
    /// The task was cancelled by somebody else, or not through this context.
    Cancelled {
        /// Who asked.
        canceller: Canceller,
    },
    /// The task failed, or the line to it was lost.
    Failed(Error),
}

impl<T> fmt::Display for Outcome<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Returned(_) => f.write_str("returned"),
            Outcome::CancelledByUs => f.write_str("cancelled by me"),
            Outcome::Cancelled { canceller } => write!(f, "cancelled by {canceller}"),
            Outcome::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

impl<E: ContextEndpoint> PortalContext<E> {
    fn core(&self) -> &Arc<ContextCore> {
        &self.opened.core
    }

    /// What the task said first.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if that is no such value.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
    /// #     ctx.started(7).await?; Ok(1)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// assert_eq!(frank.context(job()).await?.first()?, 7);
    /// # Ok(()) }).await }
    /// ```
    pub fn first(&self) -> Result<E::Started, Error> {
        let bytes = self.core().link.first().unwrap_or_default();
        codec::decode(&bytes)
            .map_err(|failure| Error::Codec(CodecError::decoding(path_of::<E>(), "the first word", failure)))
    }

    /// Opens this side of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] the second time, after [`PortalContext::cancel`], and when the context has
    /// ended.
    ///
    /// # Cancel safety
    ///
    /// It is opened on the first poll.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn echo(ctx: teamster::Context<(), u64, u64>) -> teamster::Result<()> {
    /// #     ctx.started(()).await?;
    /// #     let (sends, items) = ctx.open_stream().await?.split();
    /// #     Ok(futures::StreamExt::forward(items, sends).await?)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(echo()).await?;
    /// let mut stream = job.open_stream().await?;
    /// stream.send(7).await?;
    /// assert_eq!(stream.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    #[expect(clippy::unused_async, reason = "as on the callee's side")]
    pub async fn open_stream(&self) -> Result<MsgStream<E::In, E::Out>, Error> {
        MsgStream::open(self.core(), layout::<E, E::In>(self.core().line.encoding, Travelling::In))
    }

    /// Waits for the task's result. It can be asked for as often as you like.
    ///
    /// # Errors
    ///
    /// What the task failed with, as for [`Portal::run`]; [`Error::Cancelled`] if it was cancelled, also by
    /// us.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
    /// #     ctx.started(7).await?; Ok(1)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(job()).await?;
    /// assert_eq!(job.result().await?, 1);
    /// assert_eq!(job.result().await?, 1); // and again
    /// # Ok(()) }).await }
    /// ```
    pub async fn result(&self) -> Result<E::Output, Error> {
        match self.core().ending().await {
            Ending::Returned(bytes) => decode_output::<E>(&bytes).map_err(Error::Codec),
            Ending::Failed(error) => Err(error),
        }
    }

    /// Waits for the task's end, and tells how it came, before and after the block's end the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// # use teamster::Outcome;
    /// let job = frank.context(hold()).await?;
    /// job.cancel().await?;
    /// assert!(matches!(job.outcome().await, Outcome::CancelledByUs));
    /// # Ok(()) }).await }
    /// ```
    pub async fn outcome(&self) -> Outcome<E::Output> {
        match self.result().await {
            Ok(value) => Outcome::Returned(value),
            Err(error) if self.core().is_ours(&error) => Outcome::CancelledByUs,
            Err(Error::Cancelled { canceller }) => Outcome::Cancelled { canceller },
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Cancels the remote task and waits until it has ended, its destructors, shielded code and
    /// clean-up included. The body of `open_context` goes on.
    ///
    /// Before the end, twice, or after the end: it is no error.
    ///
    /// # Errors
    ///
    /// [`Error::NotStopped`] if the task has not ended within its grace, does not answer at all, or its actor
    /// lives and the line to it is lost: whether the task has stopped is not known then.
    ///
    /// # Cancel safety
    ///
    /// The request is sent on the first poll. Dropping the future stops the waiting, not the cancel.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let stopped = frank.open_context(hold(), async |ctx, ()| {
    ///     ctx.cancel().await?; // returns when the task has ended
    ///     Ok("the body goes on")
    /// });
    /// assert_eq!(stopped.await?, "the body goes on");
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel(&self) -> Result<(), Error> {
        self.core().cancel();
        self.core().known_to_have_stopped().await
    }

    /// How long after the first cancel of this side the other actor had acknowledged it. A busy, or stuck,
    /// runtime over there does not hold that up, where the two are parent and child.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(hold()).await?;
    /// job.cancel().await?;
    /// println!("heard after {:?}", job.heard());
    /// # Ok(()) }).await }
    /// ```
    pub fn heard(&self) -> Option<Duration> {
        self.core().link.heard()
    }

    /// Whether this side has cancelled it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(hold()).await?;
    /// assert!(!job.is_cancelled());
    /// job.cancel().await?;
    /// assert!(job.is_cancelled());
    /// # Ok(()) }).await }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.core().link.is_cancelled()
    }

    /// Whether the task has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
    /// #     ctx.started(7).await?; Ok(1)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(job()).await?;
    /// job.result().await?;
    /// assert!(job.has_ended());
    /// # Ok(()) }).await }
    /// ```
    pub fn has_ended(&self) -> bool {
        self.core().link.end().is_some()
    }

    /// The actor that the task runs in.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
    /// #     ctx.started(7).await?; Ok(1)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// assert_eq!(frank.context(job()).await?.peer(), frank.aid());
    /// # Ok(()) }).await }
    /// ```
    pub fn peer(&self) -> &Aid {
        &self.core().peer
    }

    /// The endpoint's path.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
    /// #     ctx.started(7).await?; Ok(1)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// assert!(frank.context(job()).await?.endpoint().ends_with("::job"));
    /// # Ok(()) }).await }
    /// ```
    pub fn endpoint(&self) -> &'static str {
        self.core().link.path
    }

    /// By this, any actor can ask for the end of this context.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # use teamster::{ContextHandle, Error};
    /// # #[teamster::rpc] async fn stop(job: ContextHandle) -> Result<(), Error> { job.cancel().await }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// # let guard = an.start_actor("guard").await?;
    /// let job = frank.context(hold()).await?;
    /// guard.run(stop(job.handle())).await?; // over there: `job.cancel().await`
    /// assert!(job.has_ended());
    /// # Ok(()) }).await }
    /// ```
    pub fn handle(&self) -> ContextHandle {
        ContextHandle::to(self.core())
    }
}

impl<E: ContextEndpoint> Clone for PortalContext<E> {
    fn clone(&self) -> Self {
        PortalContext { opened: Arc::clone(&self.opened), _endpoint: PhantomData }
    }
}

impl<E: ContextEndpoint> fmt::Debug for PortalContext<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core().fmt(f)
    }
}

/// Whether an error is our own doing, so that it does not concern the body.
fn is_our_doing(core: &ContextCore, error: &Error) -> bool {
    let is_left = |error: &Error| match error {
        // Its task went on sending to a stream that we have left, as `yes | head` does.
        Error::StreamClosed { endpoint, aid } => *aid == core.actor.aid && endpoint == core.link.path,
        _ => false,
    };
    core.is_ours(error) || matches!(error, Error::Remote(remote) if remote.ours().is_some_and(is_left))
}

impl Portal {
    /// Opens a context: `call` runs in the other actor as a task that is linked to `body` here.
    ///
    /// `body` runs from when the task has said its first word, which it is given. The block ends when
    /// both have ended:
    ///
    /// * `body` gives a value: its stream stops, and the task is waited for. What it still sends is dropped;
    ///   a task that goes on sending to nobody, beyond what may be in transit, is cancelled.
    /// * `body` fails or panics: the task is cancelled, and that error is the block's.
    /// * the task fails, or is cancelled by somebody else: `body` is cancelled at its next await, and that is
    ///   the block's error.
    /// * the task returns early: its stream ends (`recv` gives `None`) and `body` goes on; `ctx.result()`
    ///   has the value.
    ///
    /// A cancel is absorbed if and only if it was asked for through this context (by any clone of
    /// `ctx`) and `body` gave a value. `ctx.cancel()` cancels the task alone, never `body`. Where this side has
    /// left its stream, a task that fails with no more than [`Error::StreamClosed`] is absorbed in the same
    /// way: that is our own doing too.
    ///
    /// # Errors
    ///
    /// As above, and those of [`Portal::run`]. Where `body` and the task fail, and `body` was not told of the
    /// task's failure, that one stands beside its own, in an [`Error::Group`]. [`Error::NotStopped`] if the
    /// task did not end within its grace after a cancel, also one that a third actor asked for by our
    /// [`handle`](PortalContext::handle).
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when the task has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels both. Inside of an actor's task or nursery, that one's end waits for
    /// the remote task, within the grace.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Context, context};
    /// # #[context]
    /// # async fn count(ctx: Context<u64, String, u64>, from: u64) -> teamster::Result<u64> {
    /// #     ctx.started(from).await?;
    /// #     let (mut stream, mut letters) = (ctx.open_stream().await?, from);
    /// #     while let Some(word) = stream.recv().await? {
    /// #         letters += word.len() as u64;
    /// #         stream.send(letters).await?;
    /// #     }
    /// #     Ok(letters)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let total = frank
    ///     .open_context(count(10), async |ctx, first| {
    ///         let mut stream = ctx.open_stream().await?;
    ///         stream.send("hay".into()).await?;
    ///         println!("{first} -> {:?}", stream.recv().await?);
    ///         stream.finish().await?;
    ///         Ok(ctx.result().await?)
    ///     })
    ///     .await?;
    /// assert_eq!(total, 13);
    /// # Ok(()) }).await }
    /// ```
    pub async fn open_context<E, T, F>(&self, call: ContextCall<E>, body: F) -> Result<T, Error>
    where
        E: ContextEndpoint,
        F: AsyncFnOnce(&PortalContext<E>, E::Started) -> Result<T, BoxError>,
    {
        let ctx = self.context(call).await?;
        let core = Arc::clone(ctx.core());
        let first = match ctx.first() {
            Ok(first) => first,
            Err(error) => {
                core.cancel();
                let _not_stopped = core.stopped().await; // the first error is the one to tell
                return Err(error);
            }
        };
        let outer = current::current();
        let scope = Scope::new("context", outer.as_ref().map(|place| Arc::clone(&place.scope)));
        let inside = Current {
            actor: Arc::clone(&core.actor),
            scope: Arc::clone(&scope),
            deadline: outer.as_ref().and_then(|place| place.deadline),
            context: Some(Arc::clone(&core)),
        };
        // Before the body, so that it is dropped after it.
        let left = LeftBehind { scope: &scope, outer: outer.as_ref().map(|place| &place.scope), actor: &core.actor };
        let body = Linked { body: Scoped::new(inside, Box::pin(body(&ctx, first))), core: &core, scope: &scope };
        let ended = body.await;
        let result = conclude(&core, ended).await;
        left.ended().await;
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Opens a context, owned: for structs, and where a block does not fit.
    ///
    /// Resolves when the task has said its first word ([`PortalContext::first`]). Nothing here is
    /// interrupted when the task fails: [`PortalContext::result`] and the stream tell. When the last clone
    /// is dropped, the task is cancelled.
    ///
    /// # Errors
    ///
    /// As for [`Portal::run`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the remote task, if it runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> u32 { let _ = ctx.started(7).await; 1 }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(job()).await?;
    /// assert_eq!(job.first()?, 7);
    /// assert_eq!(job.result().await?, 1);
    /// # Ok(()) }).await }
    /// ```
    #[expect(clippy::missing_panics_doc, reason = "whoever asks for a context gets one")]
    pub async fn context<E: ContextEndpoint>(&self, call: ContextCall<E>) -> Result<PortalContext<E>, Error> {
        let actor = self.actor()?;
        let mut line = self.line(&actor).await?;
        let prepared = Prepared::new::<E>(&call.args, line.encoding, line.limit())?;
        for _ in 0..FRESH_LINES {
            let deadline = with_current(|current| current.and_then(|current| current.deadline));
            let (_, link) = loop {
                let left = deadline.map(|at| at.saturating_duration_since(actor.clock.now()));
                match line.open(&prepared.outgoing(left, Some(call.overruns))) {
                    Ok(opened) => break opened,
                    Err(Refused::Full) => line.room().await,
                    Err(Refused::Ended(end)) => {
                        match lost(&actor, self.child(), self.aid(), prepared.path(), Left::No, &end).await {
                            Lost::Again => line = self.line(&actor).await?,
                            Lost::Failed(error) => return Err(error),
                        }
                    }
                }
            };
            let link = link.expect("a context was asked for");
            let core = ContextCore::new(&actor, &line, link, Side::Opener { child: self.child().cloned() });
            if let Some(after) = call.overrun_after {
                core.set_overrun_after(after);
            }
            let ctx = PortalContext { opened: Arc::new(Opened { core }), _endpoint: PhantomData };
            let core = ctx.core();
            match poll_fn(|cx| core.link.poll_first(cx)).await {
                Ok(_first) => return Ok(ctx),
                Err(LinkEnd::Lost(left, end)) => {
                    match lost(&actor, self.child(), self.aid(), prepared.path(), left, &end).await {
                        Lost::Again => line = self.line(&actor).await?,
                        Lost::Failed(error) => return Err(error),
                    }
                }
                Err(_ended) => match core.ending().await {
                    Ending::Failed(error) => return Err(with_both_types::<E>(error)),
                    Ending::Returned(_) => {
                        return Err(Error::Usage("the context returned without its first word: call `ctx.started(…)`"));
                    }
                },
            }
        }
        Err(Error::NotStarted {
            endpoint: path_of::<E>().to_owned(),
            aid: self.aid().clone(),
            reason: "its line closed each time before the context could begin".into(),
        })
    }
}

/// The body of a context: cancelled when the other side fails.
struct Linked<'a, F: Future> {
    body: Scoped<F>,
    core: &'a Arc<ContextCore>,
    scope: &'a Arc<Scope>,
}

impl<F: Future> Future for Linked<'_, F> {
    type Output = End<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.scope.is_cancelled()
            && let Poll::Ready(end) = this.core.link.poll_watch(&mut TaskContext::from_waker(beneath(cx.waker())))
            && !is_absorbed(this.core, &end)
        {
            this.scope.cancel(&canceller(&this.core.peer, CancelRequest::Failure));
        }
        Pin::new(&mut this.body).poll(cx)
    }
}

/// What the body of a context has deferred or dropped: the block waits for it, and where that is
/// dropped too, what it stood in.
struct LeftBehind<'a> {
    scope: &'a Arc<Scope>,
    outer: Option<&'a Arc<Scope>>,
    actor: &'a Arc<Actor>,
}

impl LeftBehind<'_> {
    async fn ended(self) {
        if self.scope.has_deferred() {
            run_deferred(self.scope.take_deferred(), Some(&self.actor.clock), self.actor.settings.grace).await;
        }
    }
}

impl Drop for LeftBehind<'_> {
    fn drop(&mut self) {
        let deferred = self.scope.take_deferred();
        if deferred.is_empty() {
            return;
        }
        match self.outer {
            Some(outer) => outer.inherit(deferred),
            None => {
                let (clock, grace) = (Arc::clone(&self.actor.clock), self.actor.settings.grace);
                let rest = async move { run_deferred(deferred, Some(&clock), grace).await };
                self.actor.spawn(Origin::CleanUp, rest);
            }
        }
    }
}

/// Whether an end leaves the body alone.
fn is_absorbed(core: &ContextCore, end: &LinkEnd) -> bool {
    match end {
        LinkEnd::Returned(_) | LinkEnd::Here => true,
        LinkEnd::Failed(bytes) => is_our_doing(core, &core.decode_error(bytes)),
        LinkEnd::Lost(..) => false,
    }
}

/// The end of the block: what the body came to, once the task has ended too.
async fn conclude<T>(
    core: &Arc<ContextCore>,
    ended: End<Result<T, BoxError>>,
) -> std::thread::Result<Result<T, Error>> {
    Ok(match ended {
        End::Value(Ok(value)) => {
            core.body_is_over();
            if core.link.was_asked()
                && let Err(not_stopped) = core.stopped().await
            {
                return Ok(Err(not_stopped));
            }
            match core.watched_ending().await {
                Ending::Returned(_) => Ok(value),
                Ending::Failed(error) if is_our_doing(core, &error) => Ok(value),
                Ending::Failed(error) => Err(error),
            }
        }
        End::Value(Err(error)) => {
            let error = Error::from_body(error);
            Err(match cancel_for_failure(core).await {
                Some(beside) => Group::collect([error.clone(), beside]).unwrap_or(error),
                None => error,
            })
        }
        // Either the task has failed, which is the better word, or somebody has cancelled the body.
        End::Cancelled(canceller) => match core.link.end() {
            Some(_) => match core.watched_ending().await {
                Ending::Failed(error) => Err(error),
                Ending::Returned(_) => Err(Error::Cancelled { canceller }),
            },
            None => {
                cancel_for_failure(core).await;
                Err(Error::Cancelled { canceller })
            }
        },
        End::Panicked(panic) => {
            cancel_for_failure(core).await;
            return Err(panic);
        }
    })
}

/// Cancels the task for the body's sake; what it failed with, if it did and the body was not told.
async fn cancel_for_failure(core: &Arc<ContextCore>) -> Option<Error> {
    let was_told = core.link.is_end_known();
    core.cancel();
    if let Err(not_stopped) = core.stopped().await {
        return Some(not_stopped);
    }
    match core.watched_ending().await {
        Ending::Failed(Error::Cancelled { .. }) | Ending::Returned(_) => None,
        Ending::Failed(error) if is_our_doing(core, &error) => None,
        Ending::Failed(error) => (!was_told).then_some(error),
    }
}
