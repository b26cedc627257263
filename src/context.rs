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
    /// matters. Some 256 KiB of them are kept, and the newest item however long it is. Before this side has
    /// opened its stream, an item of more than 1 MiB waits for that all the same.
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
    /// [`Error::Usage`] the second time, [`Error::Codec`] if `first` can't be encoded, or is over the limit of a message: nothing
    /// was sent then.
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
        self.core.check_length("the first word", bytes.len())?;
        self.core.line.say_started(&self.core.link, encoding, bytes.into()).map_err(|misuse| self.core.misuse(misuse))
    }

    /// Opens this side of the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] before [`Context::started`], the second time, and when the context was cancelled.
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
        self.core.is_ending_here()
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
