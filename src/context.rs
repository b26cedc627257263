//! What does a user hold of a context? Two linked tasks, one on each side.
mod handle;
mod opener;

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::actor::context::ContextCore;
use crate::actor::endpoint::{
    BoxFuture, Data, Function, Registration, Run, RunResult, Travelling, decode_args, encode_output, layout, path_of,
};
use crate::actor::failure::Failure;
use crate::error::{CodecError, Error};
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::msg::ident::Aid;
use crate::proto::dialog::Overruns;
use crate::stream::MsgStream;
pub use handle::{ContextHandle, CurrentContext, current_context};
pub use opener::{Outcome, PortalContext};

/// A function that runs as a linked task: with a first word, a stream each way, and a result.
/// [`#[context]`](macro@crate::context) makes one.
///
/// # Examples
///
/// ```
/// # #[teamster::context] async fn job(ctx: teamster::Context<u32>) -> teamster::Result<u32> {
/// #     ctx.started(7).await?; Ok(1)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// use teamster::{ContextCall, ContextEndpoint, Error, Portal};
///
/// async fn first_word<E: ContextEndpoint>(portal: &Portal, call: ContextCall<E>) -> Result<E::Started, Error> {
///     portal.context(call).await?.first()
/// }
/// assert_eq!(first_word(&frank, job()).await?, 7);
/// # Ok(()) }).await }
/// ```
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
/// ```
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
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// let call = echo().allow_overruns(); // what we don't read in time is dropped
/// frank.open_context(call, async |ctx, ()| Ok(ctx.cancel().await?)).await?;
/// # Ok(()) }).await }
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
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn job(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     Ok(ctx.started(()).await?)
    /// # }
    /// assert!(job().endpoint().ends_with("::job"));
    /// ```
    pub fn endpoint(&self) -> &'static str {
        path_of::<E>()
    }

    /// Items that this side does not read in time are dropped, the oldest first, and counted
    /// ([`MsgStream::dropped`]), instead of making their sender wait: for feeds of which the newest
    /// matters. Some 256 KiB of them are kept, and the newest item however long it is. Before this side has
    /// opened its stream, an item of more than 1 MiB waits for that all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn count(ctx: teamster::Context<(), (), u64>) -> teamster::Result<()> {
    /// #     ctx.started(()).await?;
    /// #     let mut stream = ctx.open_stream().await?;
    /// #     for number in 0..100_000 { stream.send(number).await?; }
    /// #     Ok(())
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let counted = frank.open_context(count().allow_overruns(), async |ctx, ()| {
    ///     let mut numbers = ctx.open_stream().await?;
    ///     ctx.result().await?; // it has sent everything: nobody was waited for
    ///     let mut newest = 0;
    ///     while let Some(number) = numbers.recv().await? {
    ///         newest = number;
    ///     }
    ///     Ok((newest, numbers.dropped() > 0))
    /// });
    /// assert_eq!(counted.await?, (99_999, true));
    /// # Ok(()) }).await }
    /// ```
    pub fn allow_overruns(mut self) -> Self {
        self.overruns = Overruns::DropOldest;
        self
    }

    /// How long [`MsgStream::send`] of this side waits, when the other side has not opened its stream
    /// and what may wait there is full, before it fails with [`Error::StreamOverrun`]. 1 s unless said
    /// otherwise; zero: it fails at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn deaf(ctx: teamster::Context<(), Vec<u8>>) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use std::time::Duration;
    /// # let frank = an.start_actor("frank").await?;
    /// let call = deaf().overrun_after(Duration::ZERO);
    /// let ended: Result<(), _> = frank.open_context(call, async |ctx, ()| {
    ///     let mut stream = ctx.open_stream().await?;
    ///     loop {
    ///         stream.send(vec![0; 1000]).await?; // the other side never opens its stream
    ///     }
    /// }).await;
    /// assert!(matches!(ended, Err(teamster::Error::StreamOverrun { .. })));
    /// # Ok(()) }).await }
    /// ```
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
    /// [`Error::Usage`] the second time, [`Error::Codec`] if `first` can't be encoded, or is over the limit of a message: nothing
    /// was sent then.
    ///
    /// # Cancel safety
    ///
    /// It is sent on the first poll. In a burst of words on one line it leaves when its runtime has its next turn.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn lend(ctx: teamster::Context<u32>, books: u32) -> teamster::Result<()> {
    ///     ctx.started(books).await?; // the opener goes on
    ///     Ok(())
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// assert_eq!(frank.context(lend(3)).await?.first()?, 3);
    /// # Ok(()) }).await }
    /// ```
    #[expect(clippy::unused_async, reason = "a line may have to wait for room one day")]
    pub async fn started(&self, first: S) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let encoding = codec::encode_into(&first, self.started, &mut bytes)
            .map_err(|failure| CodecError::encoding(self.core.link.path, "the first word", failure))
            .map_err(Error::Codec)?;
        self.core.check_length("the first word", bytes.len())?;
        self.core.line.say_started(&self.core.link, encoding, bytes.into()).map_err(|misuse| self.core.misuse(misuse))
    }

    /// Opens this side of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] before [`Context::started`], the second time, and inside of a [`shield`](crate::shield)
    /// when the context was cancelled: without one the task ends here then.
    ///
    /// # Cancel safety
    ///
    /// It is opened on the first poll.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn double(ctx: teamster::Context<(), u64, u64>) -> teamster::Result<()> {
    ///     ctx.started(()).await?;
    ///     let mut stream = ctx.open_stream().await?;
    ///     while let Some(number) = stream.recv().await? {
    ///         stream.send(2 * number).await?;
    ///     }
    ///     Ok(())
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// # let job = frank.context(double()).await?;
    /// # let mut stream = job.open_stream().await?;
    /// # stream.send(21).await?;
    /// # assert_eq!(stream.recv().await?, Some(42));
    /// # Ok(()) }).await }
    /// ```
    pub async fn open_stream(&self) -> Result<MsgStream<O, I>, Error> {
        let opened = MsgStream::open(&self.core, self.items);
        if opened.is_err() && self.core.is_ending_here() {
            yield_once().await;
        }
        opened
    }

    /// Cancels this context's own task: its opener gets [`Error::Cancelled`] with this actor as the
    /// canceller.
    ///
    /// It does not return, but inside of a [`shield`](crate::shield): the task ends here.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn give_up(ctx: teamster::Context) -> teamster::Result<()> {
    ///     ctx.started(()).await?;
    ///     ctx.cancel().await;
    ///     unreachable!()
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let ended = frank.context(give_up()).await?.result().await;
    /// assert!(matches!(ended, Err(teamster::Error::Cancelled { canceller }) if canceller.aid == *frank.aid()));
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel(&self) {
        self.core.cancel();
        yield_once().await;
    }

    /// The actor that has opened it.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn greet(ctx: teamster::Context<String>) -> teamster::Result<()> {
    ///     ctx.started(format!("hello {}", ctx.peer().name())).await?;
    ///     Ok(())
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// assert_eq!(frank.context(greet()).await?.first()?, "hello root");
    /// # Ok(()) }).await }
    /// ```
    pub fn peer(&self) -> &Aid {
        &self.core.peer
    }

    /// Whether its end was asked for: as [`is_cancelled`](crate::is_cancelled), from anywhere.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn crunch(ctx: teamster::Context) -> teamster::Result<u64> {
    ///     ctx.started(()).await?;
    ///     tokio::task::yield_now().await; // that word leaves
    ///     let mut n = 0;
    ///     while !ctx.is_cancelled() {
    ///         n += 1; // this loop never awaits
    ///     }
    ///     Ok(n)
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.context(crunch()).await?.cancel().await?; // it ends, though its actor's runtime is busy
    /// # Ok(()) }).await }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.core.is_ending_here()
    }

    /// Items that this side does not read in time are dropped from now on, the oldest first, and
    /// counted. See [`ContextCall::allow_overruns`].
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn newest(ctx: teamster::Context<(), u64>) -> teamster::Result<u64> {
    ///     ctx.allow_overruns();
    ///     ctx.started(()).await?;
    ///     let mut prices = ctx.open_stream().await?;
    ///     let mut newest = 0;
    ///     while let Some(price) = prices.recv().await? {
    ///         newest = price; // the opener was never made to wait for this
    ///     }
    ///     Ok(newest)
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// # let job = frank.context(newest()).await?;
    /// # let mut stream = job.open_stream().await?;
    /// # for price in 0..100 { stream.send(price).await?; }
    /// # stream.finish().await?;
    /// # assert_eq!(job.result().await?, 99);
    /// # Ok(()) }).await }
    /// ```
    pub fn allow_overruns(&self) {
        self.core.line.allow_overruns(&self.core.link);
    }

    /// See [`ContextCall::overrun_after`].
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::context]
    /// async fn flood(ctx: teamster::Context<(), (), Vec<u8>>) -> teamster::Result<()> {
    ///     ctx.overrun_after(std::time::Duration::from_millis(10));
    ///     ctx.started(()).await?;
    ///     let mut stream = ctx.open_stream().await?;
    ///     loop {
    ///         stream.send(vec![0; 1000]).await?; // an error when the opener opens no stream
    ///     }
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// # let job = frank.context(flood()).await?; // it never opens its stream
    /// # assert!(job.result().await.unwrap_err().to_string().contains("has opened no stream"));
    /// # Ok(()) }).await }
    /// ```
    pub fn overrun_after(&self, after: Duration) {
        self.core.set_overrun_after(after);
    }

    /// By this, any actor can ask for the end of this context.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::{Context, ContextHandle, context};
    ///
    /// #[context]
    /// async fn endless(ctx: Context<ContextHandle>) -> teamster::Result<()> {
    ///     ctx.started(ctx.handle()).await?;
    ///     std::future::pending().await
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(endless()).await?;
    /// job.first()?.cancel().await?; // any actor that was sent the handle could do so
    /// assert!(job.has_ended());
    /// # Ok(()) }).await }
    /// ```
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
    Registration::of::<E>(Run::Context(serve::<E>))
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
        // A long first word goes before the result, and so does a long item that `send` has taken.
        poll_fn(|cx| core.link.poll_long_sent(cx)).await;
        Ok(result)
    }))
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
