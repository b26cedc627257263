//! What does a user hold of a context? Two linked tasks, one on each side.
use std::any::type_name;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::actor::context::{ContextCore, Ending, Side};
use crate::actor::current::{self, Current, with_current};
use crate::actor::endpoint::{
    BoxFuture, Data, Function, Registration, Run, RunResult, Travelling, decode_args, decode_output, encode_output,
    layout, path_of, with_both_types,
};
use crate::actor::failure::Failure;
use crate::actor::peers::{Lost, canceller, lost};
use crate::actor::scope::{End, Scope, Scoped, run_deferred};
use crate::channel::Refused;
use crate::channel::link::LinkEnd;
use crate::error::{BoxError, CodecError, Error, Group};
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::portal::{FRESH_LINES, Portal, Prepared};
use crate::proto::dialog::Overruns;
use crate::stream::MsgStream;

/// A function that runs as a linked task: with a first word, a stream each way, and a result.
/// [`#[context]`](macro@crate::context) makes one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a context that actors can open",
    note = "put `#[teamster::context]` on it"
)]
pub trait ContextEndpoint: Function {
    /// What its task says first.
    type Started: Data;
    /// Items from the opener to the task.
    type In: Data;
    /// Items from the task to the opener.
    type Out: Data;

    /// Runs the function.
    #[doc(hidden)]
    fn invoke(
        ctx: Context<Self::Started, Self::In, Self::Out>,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// A context that has not been opened yet: an endpoint with its arguments.
///
/// # Examples
///
/// ```no_run
/// use teamster::{Context, context};
///
/// #[context]
/// async fn echo(ctx: Context<(), String, String>) -> teamster::Result<()> {
///     ctx.started(()).await?;
///     let mut stream = ctx.open_stream().await?;
///     while let Some(word) = stream.recv().await? {
///         stream.send(word).await?;
///     }
///     Ok(())
/// }
///
/// # async fn f(frank: teamster::Portal) -> Result<(), teamster::Error> {
/// let call = echo().allow_overruns(); // what we don't read in time is dropped
/// frank.open_context(call, async |ctx, ()| Ok(ctx.cancel().await?)).await
/// # }
/// ```
#[must_use = "a context does nothing until it is opened"]
pub struct ContextCall<E: ContextEndpoint> {
    args: E::Args,
    overruns: Overruns,
    overrun_after: Option<Duration>,
}

impl<E: ContextEndpoint> ContextCall<E> {
    /// Used by the macros: call the function itself.
    #[doc(hidden)]
    pub fn new(args: E::Args) -> Self {
        ContextCall { args, overruns: Overruns::Wait, overrun_after: None }
    }

    /// The endpoint's path, as errors and logs name it.
    pub fn endpoint(&self) -> &'static str {
        path_of::<E>()
    }

    /// Items that this side does not read in time are dropped, the oldest first, and counted
    /// ([`MsgStream::dropped`]), instead of making their sender wait: for feeds of which the newest
    /// matters. Some 256 KiB of them are kept.
    pub fn allow_overruns(mut self) -> Self {
        self.overruns = Overruns::DropOldest;
        self
    }

    /// How long [`MsgStream::send`] of this side waits, when the other side has not opened its stream
    /// and what may wait there is full, before it fails with [`Error::StreamOverrun`]. 1 s unless said
    /// otherwise; zero: it fails at once.
    pub fn overrun_after(mut self, after: Duration) -> Self {
        self.overrun_after = Some(after);
        self
    }
}

impl<E: ContextEndpoint> fmt::Debug for ContextCall<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContextCall({})", path_of::<E>())
    }
}

// ---- the callee's side

/// The callee's side of a context: `S` is what it says first, `I` what it receives, `O` what it sends.
///
/// Cheap to clone: helpers may hold one.
///
/// # Examples
///
/// ```
/// use teamster::{Context, context};
///
/// #[context]
/// async fn count(ctx: Context<u64, String, u64>, from: u64) -> teamster::Result<u64> {
///     ctx.started(from).await?;
///     let mut stream = ctx.open_stream().await?;
///     let mut n = from;
///     while let Some(word) = stream.recv().await? {
///         n += word.len() as u64;
///         stream.send(n).await?;
///     }
///     Ok(n)
/// }
/// # fn main() {}
/// ```
pub struct Context<S = (), I = (), O = ()> {
    core: Arc<ContextCore>,
    started: Encoding,
    items: Encoding,
    _types: PhantomData<fn(S, I) -> O>,
}

/// The types of a [`Context`], whatever it is called.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a context",
    note = "the first argument of a `#[context]` function is `ctx: teamster::Context<Started, In, Out>`"
)]
pub trait ContextTypes {
    type Started;
    type In;
    type Out;
}

impl<S, I, O> ContextTypes for Context<S, I, O> {
    type Started = S;
    type In = I;
    type Out = O;
}

impl<S: Data, I: Data, O: Data> Context<S, I, O> {
    /// Tells the opener that this task is ready: its `open_context` goes on with `first`.
    ///
    /// Once, before the stream is opened.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] the second time, [`Error::Codec`] if `first` can't be encoded: nothing was sent then.
    ///
    /// # Cancel safety
    ///
    /// It is sent on the first poll.
    #[expect(clippy::unused_async, reason = "a line may have to wait for room one day")]
    pub async fn started(&self, first: S) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let encoding = codec::encode_into(&first, self.started, &mut bytes)
            .map_err(|failure| CodecError::encoding(self.core.link.path, "the first word", failure))
            .map_err(Error::Codec)?;
        self.core
            .line
            .say_started(&self.core.link, encoding, bytes.into())
            .map_err(|misuse| self.core.misuse(misuse))
    }

    /// Opens this side of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] before [`Context::started`] and the second time.
    ///
    /// # Cancel safety
    ///
    /// It is opened on the first poll.
    #[expect(clippy::unused_async, reason = "as on the opener's side")]
    pub async fn open_stream(&self) -> Result<MsgStream<O, I>, Error> {
        MsgStream::open(&self.core, self.items)
    }

    /// Cancels this context's own task: its opener gets [`Error::Cancelled`] with this actor as the
    /// canceller.
    ///
    /// It does not return, but inside of a [`shield`](crate::shield): the task ends here.
    pub async fn cancel(&self) {
        self.core.cancel();
        yield_once().await;
    }

    /// The actor that has opened it.
    pub fn peer(&self) -> &Aid {
        &self.core.peer
    }

    /// Whether its end was asked for: as [`is_cancelled`](crate::is_cancelled), from anywhere.
    pub fn is_cancelled(&self) -> bool {
        matches!(&self.core.side, Side::Callee { scope } if scope.is_cancelled())
    }

    /// Items that this side does not read in time are dropped from now on, the oldest first, and
    /// counted. See [`ContextCall::allow_overruns`].
    pub fn allow_overruns(&self) {
        self.core.line.allow_overruns(&self.core.link);
    }

    /// See [`ContextCall::overrun_after`].
    pub fn overrun_after(&self, after: Duration) {
        self.core.set_overrun_after(after);
    }

    /// By this, any actor can ask for the end of this context.
    pub fn handle(&self) -> ContextHandle {
        ContextHandle::to(&self.core)
    }
}

impl<S, I, O> Clone for Context<S, I, O> {
    fn clone(&self) -> Self {
        Context { core: Arc::clone(&self.core), started: self.started, items: self.items, _types: PhantomData }
    }
}

impl<S, I, O> fmt::Debug for Context<S, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// The entry for one context endpoint.
#[doc(hidden)]
pub const fn register_context<E: ContextEndpoint>() -> Registration {
    Registration { path: path_of::<E>, location: E::LOCATION, run: Run::Context(serve::<E>) }
}

fn serve<E: ContextEndpoint>(
    bytes: &[u8],
    want: Encoding,
    core: Arc<ContextCore>,
) -> Result<BoxFuture<'static, RunResult>, CodecError> {
    let args = decode_args::<E>(bytes)?;
    let ctx = Context {
        started: layout::<E, E::Started>(core.line.encoding, Travelling::Started),
        items: layout::<E, E::Out>(core.line.encoding, Travelling::Out),
        core: Arc::clone(&core),
        _types: PhantomData,
    };
    Ok(Box::pin(async move {
        let output = E::invoke(ctx, args).await?;
        if !core.link.has_started() {
            return Err(Failure::ours(Error::Usage(
                "the context returned without `started`: its opener waits for that first word",
            ))
            .or_at(E::LOCATION));
        }
        let result = encode_output::<E>(&output, want)?;
        // A long item that `send` has taken goes before the result.
        poll_fn(|cx| core.link.poll_long_sent(cx)).await;
        Ok(result)
    }))
}

// ---- the opener's side

/// The opener's side of a context: the task runs in the other actor.
///
/// Cheap to clone. The body of [`Portal::open_context`] gets one by reference; [`Portal::context`] gives
/// an owned one, which cancels the task when its last clone is dropped.
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
/// ```no_run
/// # #[teamster::context] async fn job(ctx: teamster::Context) -> u32 { let _ = ctx.started(()).await; 1 }
/// # async fn f(frank: teamster::Portal) -> Result<(), teamster::Error> {
/// let job = frank.context(job()).await?;
/// job.cancel().await?;
/// assert!(matches!(job.outcome().await, teamster::Outcome::CancelledByUs | teamster::Outcome::Returned(1)));
/// # Ok(())
/// # }
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
    pub async fn outcome(&self) -> Outcome<E::Output> {
        match self.result().await {
            Ok(value) => Outcome::Returned(value),
            Err(error) if is_ours(self.core(), &error) => Outcome::CancelledByUs,
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
    /// [`Error::NotStopped`] if the task has not ended within its grace, or does not answer at all.
    ///
    /// # Cancel safety
    ///
    /// The request is sent on the first poll. Dropping the future stops the waiting, not the cancel.
    pub async fn cancel(&self) -> Result<(), Error> {
        self.core().cancel();
        self.core().stopped().await
    }

    /// Whether this side has cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.core().link.is_cancelled()
    }

    /// Whether the task has ended.
    pub fn has_ended(&self) -> bool {
        self.core().link.end().is_some()
    }

    /// The actor that the task runs in.
    pub fn peer(&self) -> &Aid {
        &self.core().peer
    }

    /// The endpoint's path.
    pub fn endpoint(&self) -> &'static str {
        self.core().link.path
    }

    /// By this, any actor can ask for the end of this context.
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

/// Whether an error is the cancel that this side has asked for through this context.
fn is_ours(core: &ContextCore, error: &Error) -> bool {
    match error {
        Error::Cancelled { canceller } => {
            let ours = matches!(canceller.request, CancelRequest::Context | CancelRequest::Dropped);
            ours && canceller.aid == core.actor.aid
        }
        _ => false,
    }
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
    /// `ctx`) and `body` gave a value. `ctx.cancel()` cancels the task alone, never `body`.
    ///
    /// # Errors
    ///
    /// As above, and those of [`Portal::run`]. A failure that is met while the task is cancelled for
    /// another's sake stands beside the first, in an [`Error::Group`]. [`Error::NotStopped`] if the task did
    /// not end within its grace after a cancel.
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
    /// ```no_run
    /// # use teamster::{Context, context};
    /// # #[context]
    /// # async fn count(ctx: Context<u64, String, u64>, from: u64) -> teamster::Result<u64> {
    /// #     ctx.started(from).await?;
    /// #     Ok(from)
    /// # }
    /// # async fn f(frank: teamster::Portal) -> Result<(), teamster::Error> {
    /// let total = frank
    ///     .open_context(count(10), async |ctx, first| {
    ///         let mut stream = ctx.open_stream().await?;
    ///         stream.send("hay".into()).await?;
    ///         println!("{first} -> {:?}", stream.recv().await?);
    ///         stream.finish().await?;
    ///         Ok(ctx.result().await?)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
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
            deadline: outer.and_then(|place| place.deadline),
            context: Some(Arc::clone(&core)),
        };
        let body = Linked { body: Scoped::new(inside, Box::pin(body(&ctx, first))), core: &core, scope: &scope };
        let ended = body.await;
        let result = conclude(&core, ended).await;
        let deferred = scope.take_deferred();
        if !deferred.is_empty() {
            run_deferred(deferred, core.actor.settings.grace).await;
        }
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
    /// ```no_run
    /// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> u32 { let _ = ctx.started(7).await; 1 }
    /// # async fn f(frank: teamster::Portal) -> Result<(), teamster::Error> {
    /// let job = frank.context(job()).await?;
    /// assert_eq!(job.first()?, 7);
    /// assert_eq!(job.result().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn context<E: ContextEndpoint>(&self, call: ContextCall<E>) -> Result<PortalContext<E>, Error> {
        let actor = self.actor()?;
        let mut line = self.line(&actor).await?;
        let prepared = Prepared::new::<E>(&call.args, line.encoding, line.limit())?;
        for _ in 0..FRESH_LINES {
            let deadline = with_current(|current| current.and_then(|current| current.deadline));
            let (_, link) = loop {
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                match line.open(&prepared.outgoing(left, Some(call.overruns))) {
                    Ok(opened) => break opened,
                    Err(Refused::Full) => line.room().await,
                    Err(Refused::Ended(end)) => {
                        let left = crate::proto::connection::Left::No;
                        match lost(self.child(), self.aid(), prepared.path(), left, &end).await {
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
                    match lost(self.child(), self.aid(), prepared.path(), left, &end).await {
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
            && let Poll::Ready(end) = this.core.link.poll_watch(cx)
            && !is_absorbed(this.core, &end)
        {
            this.scope.cancel(&canceller(&this.core.peer, CancelRequest::Failure));
        }
        Pin::new(&mut this.body).poll(cx)
    }
}

/// Whether an end leaves the body alone.
fn is_absorbed(core: &ContextCore, end: &LinkEnd) -> bool {
    match end {
        LinkEnd::Returned(_) | LinkEnd::Here => true,
        LinkEnd::Failed(bytes) => is_ours(core, &core.decode_error(bytes)),
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
            let cancelled = core.link.is_cancelled();
            if cancelled && let Err(not_stopped) = core.stopped().await {
                return Ok(Err(not_stopped));
            }
            match core.watched_ending().await {
                Ending::Returned(_) => Ok(value),
                Ending::Failed(error) if is_ours(core, &error) => Ok(value),
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

/// Cancels the task for the body's sake; what it failed with after that, if it did.
async fn cancel_for_failure(core: &Arc<ContextCore>) -> Option<Error> {
    let was_over = core.link.end().is_some();
    core.cancel();
    if let Err(not_stopped) = core.stopped().await {
        return Some(not_stopped);
    }
    match core.watched_ending().await {
        Ending::Failed(Error::Cancelled { .. }) | Ending::Returned(_) => None,
        Ending::Failed(error) => (!was_over).then_some(error),
    }
}

/// Gives way once.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

// ---- from anywhere

/// The context that this code is part of: its task, or the body of its opener.
///
/// `None` outside of both.
///
/// # Examples
///
/// ```
/// fn who_asks() -> Option<teamster::Aid> {
///     teamster::current_context().map(|ctx| ctx.peer().clone())
/// }
/// assert!(who_asks().is_none());
/// ```
pub fn current_context() -> Option<CurrentContext> {
    with_current(|current| current?.context.clone()).map(|core| CurrentContext { core })
}

/// The current context, whatever its types.
#[derive(Clone, Debug)]
pub struct CurrentContext {
    core: Arc<ContextCore>,
}

impl CurrentContext {
    /// The actor on the other side.
    pub fn peer(&self) -> &Aid {
        &self.core.peer
    }

    /// The endpoint's path.
    pub fn endpoint(&self) -> &'static str {
        self.core.link.path
    }

    /// Whether this is the side that has opened it.
    pub fn is_opener(&self) -> bool {
        matches!(self.core.side, Side::Opener { .. })
    }

    /// Asks for the end of the remote task, from the opener's side, or of this very task.
    pub fn cancel(&self) {
        self.core.cancel();
    }

    /// By this, any actor can ask for the end of this context.
    pub fn handle(&self) -> ContextHandle {
        ContextHandle::to(&self.core)
    }
}

/// A way to ask for the end of a context from any actor: it can be sent as an argument, a result, an
/// item.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn stop_it(job: teamster::ContextHandle) -> teamster::Result<()> {
///     job.cancel().await?;
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContextHandle {
    /// The actor that gave the handle away.
    holder: Portal,
    number: u64,
}

impl ContextHandle {
    fn to(core: &Arc<ContextCore>) -> Self {
        let holder = Portal::to(core.actor.aid.clone(), Some(core.actor.addr.clone()));
        ContextHandle { holder, number: core.handle() }
    }

    /// Asks for the context's end, and waits for it, within the task's grace. Both of its sides get
    /// [`Error::Cancelled`] with this actor as the canceller.
    ///
    /// A context that has ended already is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] outside of every actor; those of [`Portal::run`] for the actor that gave the handle
    /// away; [`Error::NotStopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting, and the request itself if it has not left.
    pub async fn cancel(&self) -> Result<(), Error> {
        let actor = current::actor()?;
        let canceller = canceller(&actor.aid, CancelRequest::Context);
        self.holder.run(cancel_by_handle(self.number, canceller)).await
    }
}

#[crate::rpc(name = "teamster.cancel_context")]
async fn cancel_by_handle(number: u64, canceller: Canceller) -> Result<(), Error> {
    let actor = current::actor()?;
    let core = actor.context_handles.lock().find(number);
    match core {
        Some(core) if core.link.end().is_none() => {
            core.cancel_for(&canceller);
            core.stopped().await
        }
        _ => Ok(()),
    }
}

/// Used by the macros: the types of a context's first argument.
#[doc(hidden)]
pub fn is_context<C: ContextTypes>() -> &'static str {
    type_name::<C>()
}
