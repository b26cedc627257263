//! What does a user hold of a context's stream?
pub(crate) mod calls;
mod fan_out;

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Sink, Stream};

use crate::actor::context::{ContextCore, Ending};
use crate::actor::endpoint::Data;
use crate::channel::driver::after_the_others;
use crate::channel::link::LinkEnd;
use crate::channel::{Head, ItemBytes, LONG_BYTES, Sent};
use crate::error::{CodecError, Error};
use crate::msg::codec::{self, DecodeFailure};
use crate::msg::frame::{Encoding, Stop};
use crate::proto::dialog::{Found, Misuse, Role};

/// One side's handle to a context's two-way stream: it sends `S` and receives `R`.
///
/// It is a `futures::Stream` and a `futures::Sink` too, and [`MsgStream::split`]s into halves for two
/// tasks. Dropped, it sends and reads no more: the other side's `recv` gives `None`, and what it still
/// sends is thrown away.
///
/// Four ends are told apart: `Ok(None)` when the other side has finished, left, or returned, or this side
/// has cancelled the context; the task's own error when it failed; [`Error::Cancelled`] when somebody
/// else ended it; [`Error::ActorDied`] or [`Error::Unknown`] when it was lost. Each is said again as often as
/// it is asked for.
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
/// # let ctx = frank.context(echo()).await?;
/// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
/// for number in 0..3 {
///     stream.send(number).await?;
/// }
/// stream.finish().await?;
/// let all: Vec<u64> = futures::TryStreamExt::try_collect(stream).await?;
/// assert_eq!(all, [0, 1, 2]);
/// # Ok(()) }).await }
/// ```
pub struct MsgStream<S, R> {
    sending: SendHalf<S>,
    receiving: RecvHalf<R>,
}

/// The sending half of a [`MsgStream`]. Dropped, it finishes.
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
/// # let ctx = frank.context(echo()).await?;
/// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
/// let sending = async {
///     for number in 0..1000 {
///         sends.send(number).await?;
///     }
///     sends.finish().await
/// };
/// let receiving = async {
///     let mut count = 0;
///     while items.recv().await?.is_some() {
///         count += 1;
///     }
///     Ok(count)
/// };
/// let ((), count) = tokio::try_join!(sending, receiving)?;
/// assert_eq!(count, 1000);
/// # Ok(()) }).await }
/// ```
pub struct SendHalf<S> {
    shared: Arc<Shared>,
    encoding: Encoding,
    /// An item as bytes, if it has not been taken by the line.
    outgoing: Option<Outgoing>,
    scratch: Vec<u8>,
    /// Credit that is booked for items to come.
    reserved: usize,
    /// What was sent since others had their turn.
    since_turn_bytes: usize,
    /// Of a `Sink` that waits for a stream that the other side has not opened.
    timer: Timer,
    /// Of a `Sink` whose item nobody takes: why, while that is being found out.
    closing: Option<BoxFuture<'static, Error>>,
    _items: PhantomData<fn(S)>,
}

/// A sender that never has to wait lets others have their turn after so many bytes: a good write.
const TURN_BYTES: usize = 64 * 1024;
/// What an item counts for besides its bytes: small ones take time as well.
const ITEM_BYTES: usize = 32;

type Timer = Option<BoxFuture<'static, ()>>;

/// The receiving half of a [`MsgStream`]. Dropped before the sending half, it goes on reading, and
/// throws away what comes.
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
/// # let ctx = frank.context(echo()).await?;
/// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
/// sends.send(7).await?;
/// drop(sends); // it has finished
/// assert_eq!(items.recv().await?, Some(7));
/// assert_eq!(items.recv().await?, None);
/// # Ok(()) }).await }
/// ```
pub struct RecvHalf<R> {
    shared: Arc<Shared>,
    /// Items that were taken from the line: `taken[at..]` are not decoded yet.
    taken: Bytes,
    at: usize,
    source: Source<R>,
}

/// What gives the items that are not here yet. Short, since a stream is moved for each item by those
/// who merge streams.
enum Source<R> {
    Line,
    /// The line has given all; how it ended is being found out.
    Ending(BoxFuture<'static, Result<(), Error>>),
    Ended(Result<(), Box<Error>>),
    /// It is a subscriber as the others are.
    FannedOut(Box<dyn fan_out::FannedOut<R>>),
}

/// What both halves stand on. Dropped with the last of them, it leaves the stream.
struct Shared {
    core: Arc<ContextCore>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.core.line.stop_stream(&self.core.link, Stop::Left);
    }
}

/// An item that waits for room.
enum Outgoing {
    /// Its bytes are in `scratch`.
    Short,
    Long {
        head: Head,
        rest: Bytes,
    },
    /// The line has it, and sends it piece by piece.
    Piecewise,
}

/// Why an item was not sent at once.
///
/// # Examples
///
/// ```
/// # use teamster::TrySendError;
/// # #[teamster::context] async fn echo(ctx: teamster::Context<(), u64, u64>) -> teamster::Result<()> {
/// #     ctx.started(()).await?;
/// #     let (sends, items) = ctx.open_stream().await?.split();
/// #     Ok(futures::StreamExt::forward(items, sends).await?)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// # let ctx = frank.context(echo()).await?;
/// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
/// match stream.try_send(7) {
///     Ok(()) => println!("on its way"),
///     Err(TrySendError::Full(number)) => println!("no room for {number} now"),
///     Err(TrySendError::Failed(error)) => return Err(error.into()),
/// }
/// # Ok(()) }).await }
/// ```
#[derive(Debug)]
pub enum TrySendError<S> {
    /// There is no room for it now. Here it is back.
    Full(S),
    /// It can't be sent at all.
    Failed(Error),
}

impl<S> fmt::Display for TrySendError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full(_) => f.write_str("the stream has no room for an item now"),
            TrySendError::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl<S: fmt::Debug> std::error::Error for TrySendError<S> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TrySendError::Full(_) => None,
            TrySendError::Failed(error) => std::error::Error::source(error),
        }
    }
}

impl<S: Data, R: Data> MsgStream<S, R> {
    pub(crate) fn open(core: &Arc<ContextCore>, encoding: Encoding) -> Result<Self, Error> {
        if core.is_ending_here() {
            return Err(core.misuse(Misuse::Cancelled));
        }
        core.line.open_stream(&core.link).map_err(|misuse| core.misuse(misuse))?;
        let shared = Arc::new(Shared { core: Arc::clone(core) });
        Ok(MsgStream { sending: SendHalf::new(Arc::clone(&shared), encoding), receiving: RecvHalf::new(shared) })
    }

    /// Sends one item. Waits while the other side does not read (backpressure).
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the item can't be encoded: the stream goes on. [`Error::StreamOverrun`] if the
    /// other side has not opened its stream, and what may wait there is full. [`Error::StreamClosed`] if the
    /// other side reads no more: what was in transit is dropped without a word, and so is what is sent
    /// before this side can have heard of it. [`Error::Usage`] after [`MsgStream::finish`]. Else how
    /// the context ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it was taken by the line, the item is not sent. An item that is longer than there is
    /// credit for is taken at once and sent piece by piece: it is sent whole, dropped or not.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
    /// stream.send(7).await?;
    /// # assert_eq!(stream.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    #[inline]
    pub fn send(&mut self, item: S) -> impl Future<Output = Result<(), Error>> + Send {
        self.sending.send_encoded(&item)
    }

    /// Sends one item if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] with the item; else as [`MsgStream::send`].
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
    /// # let ctx = frank.context(echo()).await?;
    /// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
    /// stream.try_send(7)?;
    /// assert_eq!(stream.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn try_send(&mut self, item: S) -> Result<(), TrySendError<S>> {
        self.sending.try_send(item)
    }

    /// Receives the next item; `None` at the end.
    ///
    /// # Errors
    ///
    /// How the context ended, if not well; [`Error::Codec`] if the bytes are no `R`, which names the field
    /// and ends the stream: the opener's cancels the task, the task's is its own to fail with.
    ///
    /// # Cancel safety
    ///
    /// No item is lost.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
    /// stream.send(7).await?;
    /// stream.finish().await?;
    /// while let Some(number) = stream.recv().await? {
    ///     assert_eq!(number, 7);
    /// }
    /// # Ok(()) }).await }
    /// ```
    #[inline]
    pub fn recv(&mut self) -> impl Future<Output = Result<Option<R>, Error>> + Send {
        self.receiving.recv()
    }

    /// Sends no more: the other side's `recv` gives `None` when it has read what was sent. This side
    /// still receives.
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Cancel safety
    ///
    /// It is sent on the first poll.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
    /// stream.finish().await?;
    /// assert_eq!(stream.recv().await?, None); // the other side has heard it, and finished too
    /// # Ok(()) }).await }
    /// ```
    pub async fn finish(&mut self) -> Result<(), Error> {
        self.sending.finish().await
    }

    /// Two halves, for two tasks.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// let (sent, received) = tokio::join!(sends.send(7), items.recv());
    /// sent?;
    /// assert_eq!(received?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn split(self) -> (SendHalf<S>, RecvHalf<R>) {
        (self.sending, self.receiving)
    }

    /// Items that this side has not read in time and that were dropped, where that is allowed.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let mut stream = ctx.open_stream().await?; // the other side sends back what it gets
    /// stream.send(7).await?;
    /// assert_eq!(stream.dropped(), 0); // only `allow_overruns` lets items be dropped
    /// # Ok(()) }).await }
    /// ```
    pub fn dropped(&self) -> u64 {
        self.receiving.dropped()
    }
}

/// One item on its way to the line.
///
/// Written by hand, so that the compiler sees that most sends end in their first poll, well: an async block
/// moves an `Ok` that has room for an error, which is a hundred bytes.
struct Sending<'s, S> {
    /// Its bytes lie there. `None`: it is up to `rest`, or over.
    half: Option<&'s mut SendHalf<S>>,
    rest: Option<BoxFuture<'s, Result<(), Error>>>,
}

impl<S: Data> Future for Sending<'_, S> {
    type Output = Result<(), Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(half) = &mut self.half
            && half.push_reserved()
            && !half.is_turn_due()
        {
            return Poll::Ready(Ok(()));
        }
        self.poll_rest(cx)
    }
}

impl<S: Data> Sending<'_, S> {
    #[cold]
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(half) = self.half.take() {
            let pushed = match half.push() {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Pushed::Sent) if !half.is_turn_due() => return Poll::Ready(Ok(())),
                Ok(pushed) => pushed,
            };
            self.rest = Some(half.wait_behind(pushed).boxed());
        }
        let sent = self.rest.as_mut().map_or(Poll::Ready(Ok(())), |rest| rest.poll_unpin(cx));
        if sent.is_ready() {
            self.rest = None;
        }
        sent
    }
}

impl<S: Data> SendHalf<S> {
    fn new(shared: Arc<Shared>, encoding: Encoding) -> Self {
        SendHalf {
            shared,
            encoding,
            outgoing: None,
            scratch: Vec::new(),
            reserved: 0,
            since_turn_bytes: 0,
            timer: None,
            closing: None,
            _items: PhantomData,
        }
    }

    fn core(&self) -> &Arc<ContextCore> {
        &self.shared.core
    }

    /// As [`MsgStream::send`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// sends.send(7).await?;
    /// # assert_eq!(items.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    #[inline]
    pub fn send(&mut self, item: S) -> impl Future<Output = Result<(), Error>> + Send {
        self.send_encoded(&item)
    }

    /// The item becomes bytes here and not in the future, which would have to carry it.
    #[inline]
    fn send_encoded<'s>(&'s mut self, item: &S) -> Sending<'s, S> {
        match self.encode(item) {
            Ok(()) => Sending { half: Some(self), rest: None },
            Err(refused) => Sending { half: None, rest: Some(ready_with(refused)) },
        }
    }

    async fn wait_behind(&mut self, pushed: Pushed) -> Result<(), Error> {
        if pushed != Pushed::Sent {
            self.push_slowly().await?;
        }
        if self.is_turn_over() {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Somebody who only sends must let others have their turn.
    #[inline]
    fn is_turn_due(&self) -> bool {
        self.since_turn_bytes >= TURN_BYTES
    }

    fn is_turn_over(&mut self) -> bool {
        let is_over = self.is_turn_due();
        if is_over {
            self.since_turn_bytes = 0;
        }
        is_over
    }

    /// As [`MsgStream::try_send`].
    ///
    /// # Errors
    ///
    /// As there.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// sends.try_send(7)?;
    /// # assert_eq!(items.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn try_send(&mut self, item: S) -> Result<(), TrySendError<S>> {
        self.encode(&item).map_err(TrySendError::Failed)?;
        let pushed = self.push().map_err(TrySendError::Failed)?;
        if matches!(pushed, Pushed::Sent | Pushed::Piecewise) {
            return Ok(());
        }
        self.outgoing = None;
        Err(match pushed {
            Pushed::Nobody => TrySendError::Failed(self.core().stream_closed()),
            _ => TrySendError::Full(item),
        })
    }

    /// As [`MsgStream::finish`].
    ///
    /// # Errors
    ///
    /// None today.
    ///
    /// # Cancel safety
    ///
    /// It is sent on the first poll.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// sends.finish().await?;
    /// assert_eq!(items.recv().await?, None);
    /// # Ok(()) }).await }
    /// ```
    #[expect(clippy::unused_async, reason = "as `Sink::close`")]
    pub async fn finish(&mut self) -> Result<(), Error> {
        self.stop();
        Ok(())
    }

    fn stop(&mut self) {
        self.reserved = 0; // what comes after this is told that it is a mistake
        self.core().line.stop_stream(&self.core().link, Stop::Finished);
    }

    fn encode(&mut self, item: &S) -> Result<(), Error> {
        self.outgoing = None;
        if TypeId::of::<S>() == TypeId::of::<Bytes>()
            && let Some(bytes) = (item as &dyn Any).downcast_ref::<Bytes>()
            && bytes.len() > LONG_BYTES
            && let Ok(len) = u32::try_from(bytes.len())
        {
            self.outgoing = Some(Outgoing::Long { head: Head::of_bin(len), rest: bytes.clone() });
            return Ok(());
        }
        self.scratch.clear();
        if let Err(failure) = codec::encode_into(item, self.encoding, &mut self.scratch) {
            let path = self.core().link.path;
            return Err(Error::Codec(CodecError::encoding(path, "the stream's item", failure)));
        }
        self.outgoing = Some(match self.scratch.len() > LONG_BYTES {
            true => Outgoing::Long { head: Head::default(), rest: std::mem::take(&mut self.scratch).into() },
            false => Outgoing::Short,
        });
        Ok(())
    }

    /// Hands a short item to the line, if there is room for it already, as mostly there is.
    #[inline]
    fn push_reserved(&mut self) -> bool {
        let len = self.scratch.len();
        if !matches!(self.outgoing, Some(Outgoing::Short)) || len > self.reserved {
            return false;
        }
        let core = &self.shared.core;
        core.line.send_reserved(core.link.dialog, self.encoding, &self.scratch);
        self.reserved -= len;
        self.outgoing = None;
        self.since_turn_bytes += len + ITEM_BYTES;
        true
    }

    /// Hands the item to the line, if there is room.
    fn push(&mut self) -> Result<Pushed, Error> {
        let core = &self.shared.core;
        let item = match &self.outgoing {
            None | Some(Outgoing::Piecewise) => return Ok(Pushed::Sent),
            Some(Outgoing::Short) => ItemBytes::Short(&self.scratch),
            Some(Outgoing::Long { head, rest }) => ItemBytes::Long { head: *head, rest: rest.clone() },
        };
        let mut len = self.scratch.len();
        if let ItemBytes::Long { rest, .. } = &item {
            len = rest.len();
            if let Err(too_long) = core.check_length("the stream's item", len) {
                self.outgoing = None;
                return Err(too_long);
            }
        }
        let sent = match core.line.send_item(&core.link, self.encoding, &item, &mut self.reserved) {
            Ok(sent) => sent,
            Err(misuse) => {
                self.outgoing = None;
                return Err(core.misuse(misuse));
            }
        };
        Ok(match sent {
            Sent::Now | Sent::InTransit => {
                self.outgoing = None;
                self.since_turn_bytes += len + ITEM_BYTES;
                Pushed::Sent
            }
            Sent::Piecewise => {
                self.outgoing = Some(Outgoing::Piecewise);
                self.since_turn_bytes += len + ITEM_BYTES; // on a dead line nothing is waited for
                Pushed::Piecewise
            }
            Sent::Behind | Sent::NoReader => Pushed::NoRoom,
            Sent::Gone => Pushed::Nobody,
        })
    }

    /// Waits for room. What was not taken is forgotten when this is dropped, at the next send.
    async fn push_slowly(&mut self) -> Result<(), Error> {
        let after = self.core().overrun_after();
        let (mut timer, mut has_waited) = (None, false);
        poll_fn(|cx| {
            let pushed = self.poll_push(cx, after, &mut timer);
            has_waited |= pushed.is_pending();
            pushed
        })
        .await?;
        if has_waited {
            self.since_turn_bytes = 0; // others have had their turn
        }
        self.closed_by_end().await
    }

    /// `Ready`: it was taken, or there is nobody to take it, which [`SendHalf::closed_by_end`] tells.
    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        after: std::time::Duration,
        timer: &mut Timer,
    ) -> Poll<Result<(), Error>> {
        let core = Arc::clone(self.core());
        core.link.wait_for_room(cx); // before the look: what comes in between wakes us
        let item = match &self.outgoing {
            None => return Poll::Ready(Ok(())),
            Some(Outgoing::Piecewise) => {
                ready!(core.link.poll_long_sent(cx));
                self.outgoing = None;
                return Poll::Ready(Ok(()));
            }
            Some(Outgoing::Short) => ItemBytes::Short(&self.scratch),
            Some(Outgoing::Long { head, rest }) => ItemBytes::Long { head: *head, rest: rest.clone() },
        };
        match core.line.send_item(&core.link, self.encoding, &item, &mut self.reserved) {
            Err(misuse) => {
                self.outgoing = None;
                Poll::Ready(Err(core.misuse(misuse)))
            }
            Ok(Sent::Now | Sent::InTransit) => {
                self.outgoing = None;
                Poll::Ready(Ok(()))
            }
            Ok(Sent::Piecewise) => {
                self.outgoing = Some(Outgoing::Piecewise);
                ready!(core.link.poll_long_sent(cx));
                self.outgoing = None;
                Poll::Ready(Ok(()))
            }
            Ok(Sent::Behind) => Poll::Pending,
            Ok(Sent::Gone) => Poll::Ready(Ok(())), // the item stays: nobody has taken it
            Ok(Sent::NoReader) => {
                if after.is_zero() {
                    self.outgoing = None;
                    return Poll::Ready(Err(core.overrun()));
                }
                let clock = &core.actor.clock;
                let timer = timer.get_or_insert_with(|| Box::pin(Arc::clone(clock).slept(after)));
                ready!(timer.as_mut().poll(cx));
                self.outgoing = None;
                Poll::Ready(Err(core.overrun()))
            }
        }
    }

    /// Where the item was not taken because nobody reads any more: why.
    async fn closed_by_end(&mut self) -> Result<(), Error> {
        match self.outgoing.take() {
            None => Ok(()),
            Some(_) => Err(self.core().closed().await),
        }
    }
}

#[cold]
fn ready_with<'s>(refused: Error) -> BoxFuture<'s, Result<(), Error>> {
    std::future::ready(Err(refused)).boxed()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Sent,
    /// It is taken, and its sender waits until it has left.
    Piecewise,
    NoRoom,
    /// Nobody reads any more.
    Nobody,
}

/// The next item. Written by hand for the same reason as [`Sending`].
struct Receiving<'r, R>(&'r mut RecvHalf<R>);

impl<R: Data> Future for Receiving<'_, R> {
    type Output = Result<Option<R>, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_recv(cx)
    }
}

impl<R: Data> RecvHalf<R> {
    fn new(shared: Arc<Shared>) -> Self {
        RecvHalf { shared, taken: Bytes::new(), at: 0, source: Source::Line }
    }

    /// As [`MsgStream::recv`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// No item is lost.
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, mut items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// sends.send(7).await?;
    /// assert_eq!(items.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    #[inline]
    pub fn recv(&mut self) -> impl Future<Output = Result<Option<R>, Error>> + Send {
        Receiving(self)
    }

    /// The next item, if it is here: `recv` without waiting.
    #[inline]
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Error>> {
        match self.at < self.taken.len() && !self.shared.core.link.is_cancelled() {
            true => Poll::Ready(self.decode_next().map(Some)),
            false => self.poll_more(cx),
        }
    }

    #[inline(never)]
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Error>> {
        // Where something is left of what was taken, we have asked for the end: this is it.
        (self.taken, self.at) = (Bytes::new(), 0);
        if let Source::FannedOut(fanned_out) = &mut self.source {
            return fanned_out.poll_recv(cx);
        }
        // Somebody who only receives must let others have their turn, once for what came together.
        let turn = ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            if self.at < self.taken.len() {
                turn.made_progress();
                return Poll::Ready(self.decode_next().map(Some));
            }
            match &mut self.source {
                Source::FannedOut(fanned_out) => return fanned_out.poll_recv(cx),
                Source::Ended(end) => {
                    turn.made_progress();
                    return Poll::Ready(end.clone().map(|()| None).map_err(|error| *error));
                }
                Source::Ending(ending) => {
                    self.source = Source::Ended(ready!(ending.as_mut().poll(cx)).map_err(Box::new));
                }
                Source::Line => {
                    let core = &self.shared.core;
                    match core.line.read_items(&core.link, cx) {
                        Found::Items(items) => (self.taken, self.at) = (items.into(), 0),
                        Found::Nothing => return Poll::Pending,
                        Found::End => {
                            let core = Arc::clone(core);
                            self.source = Source::Ending(async move { core.stream_end().await }.boxed());
                        }
                    }
                }
            }
        }
    }

    /// The reading itself, in another half of its own.
    fn take_below(&mut self) -> RecvHalf<R> {
        let mut below = RecvHalf::new(Arc::clone(&self.shared));
        below.taken = std::mem::take(&mut self.taken);
        below.at = std::mem::take(&mut self.at);
        below.source = std::mem::replace(&mut self.source, Source::Line);
        below
    }

    #[inline]
    fn decode_next(&mut self) -> Result<R, Error> {
        if TypeId::of::<R>() == TypeId::of::<Bytes>()
            && let Some(bytes) = self.bytes_in_place()
        {
            let mut slot = Some(bytes);
            if let Some(item) = (&mut slot as &mut dyn Any).downcast_mut::<Option<R>>().and_then(Option::take) {
                return Ok(item);
            }
        }
        let mut rest = &self.taken[self.at..];
        match codec::decode_first::<R>(&mut rest) {
            Ok(item) => {
                self.at = self.taken.len() - rest.len();
                Ok(item)
            }
            Err(failure) => Err(self.undecodable(failure)),
        }
    }

    #[cold]
    fn undecodable(&mut self, failure: DecodeFailure) -> Error {
        let path = self.shared.core.link.path;
        let error = Error::Codec(CodecError::decoding(path, "the stream's item", failure));
        // What follows can't be told apart: the stream ends here, and says so again.
        (self.taken, self.at) = (Bytes::new(), 0);
        self.source = Source::Ended(Err(Box::new(error.clone())));
        self.shared.core.undecodable();
        error
    }

    /// A long `bin` is handed out where it lies.
    fn bytes_in_place(&mut self) -> Option<Bytes> {
        let rest = &self.taken[self.at..];
        let (head, len) = match *rest {
            [0xc6, a, b, c, d, ..] => (5, u32::from_be_bytes([a, b, c, d]) as usize),
            [0xc5, a, b, ..] => (3, usize::from(u16::from_be_bytes([a, b]))),
            _ => return None,
        };
        // A short piece would keep all of its neighbours in memory.
        if len < self.taken.len() / 2 || rest.len() < head + len {
            return None;
        }
        let bytes = self.taken.slice(self.at + head..self.at + head + len);
        self.at += head + len;
        if self.at == self.taken.len() {
            (self.taken, self.at) = (Bytes::new(), 0);
        }
        Some(bytes)
    }

    /// As [`MsgStream::dropped`].
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
    /// # let ctx = frank.context(echo()).await?;
    /// let (mut sends, items) = ctx.open_stream().await?.split(); // the other side sends back what it gets
    /// sends.send(7).await?;
    /// assert_eq!(items.dropped(), 0);
    /// # Ok(()) }).await }
    /// ```
    pub fn dropped(&self) -> u64 {
        let lagged = match &self.source {
            Source::FannedOut(fanned_out) => fanned_out.lost(),
            Source::Line | Source::Ending(_) | Source::Ended(_) => 0,
        };
        self.shared.core.link.dropped() + lagged
    }
}

impl<S> Drop for SendHalf<S> {
    fn drop(&mut self) {
        // With the other half gone too, the stream is left as a whole.
        if Arc::strong_count(&self.shared) > 1 {
            self.shared.core.line.stop_stream(&self.shared.core.link, Stop::Finished);
        }
    }
}

impl<R> Drop for RecvHalf<R> {
    fn drop(&mut self) {
        if !matches!(self.source, Source::FannedOut(_)) && Arc::strong_count(&self.shared) > 1 {
            self.shared.core.line.throw_away(&self.shared.core.link);
        }
    }
}

impl ContextCore {
    /// How a stream ended that has nothing more to read.
    async fn stream_end(&self) -> Result<(), Error> {
        if self.link.is_cancelled() {
            return Ok(()); // we have asked for it
        }
        match self.link.end() {
            None | Some(LinkEnd::Returned(_) | LinkEnd::Here) => Ok(()),
            Some(LinkEnd::Failed(_) | LinkEnd::Lost(..)) => match self.ending().await {
                Ending::Failed(error) if self.is_ours(&error) => Ok(()), // on our behalf, when our body was over
                Ending::Failed(error) => Err(error),
                Ending::Returned(_) => Ok(()),
            },
        }
    }

    /// Why nobody takes an item.
    async fn closed(&self) -> Error {
        if self.link.their_stop() == Some(Stop::BodyOver) {
            self.end_unheard();
            tokio::task::yield_now().await; // the task ends here, but for a shield
        }
        if self.link.is_cancelled() {
            return self.stream_closed();
        }
        self.stream_end().await.err().unwrap_or_else(|| self.stream_closed())
    }

    fn stream_closed(&self) -> Error {
        Error::StreamClosed { endpoint: self.link.path.to_owned(), aid: self.peer.clone() }
    }

    fn overrun(&self) -> Error {
        Error::StreamOverrun {
            endpoint: self.link.path.to_owned(),
            dialog: self.link.dialog,
            aid: self.peer.clone(),
            window_bytes: crate::proto::credit::FIRST_WINDOW_BYTES,
        }
    }

    /// The peer sends what can't be decoded: its sender is told by the context's end. That of a
    /// callee is its own error's to bring about; until then it holds up nobody.
    fn undecodable(&self) {
        match self.role() {
            Role::Opener => self.cancel(),
            Role::Callee => self.line.throw_away(&self.link),
        }
    }
}

impl<S, R: Data> Stream for MsgStream<S, R> {
    type Item = Result<R, Error>;
    /// An error is the last item, once.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiving).poll_next(cx)
    }
}

impl<R: Data> Stream for RecvHalf<R> {
    type Item = Result<R, Error>;
    /// An error is the last item, once.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.poll_recv(cx));
        if item.is_err() {
            self.source = Source::Ended(Ok(()));
        }
        Poll::Ready(item.transpose())
    }
}

impl<S: Data, R> Sink<S> for MsgStream<S, R> {
    type Error = Error;
    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sending).poll_ready(cx)
    }
    fn start_send(mut self: Pin<&mut Self>, item: S) -> Result<(), Error> {
        Pin::new(&mut self.sending).start_send(item)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sending).poll_flush(cx)
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.sending).poll_close(cx)
    }
}

impl<S: Data> Sink<S> for SendHalf<S> {
    type Error = Error;
    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.is_turn_over() {
            return after_the_others(cx);
        }
        self.poll_flush(cx)
    }
    fn start_send(mut self: Pin<&mut Self>, item: S) -> Result<(), Error> {
        self.encode(&item)?;
        self.push().map(drop)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        if this.closing.is_none() {
            let after = this.core().overrun_after();
            let mut timer = this.timer.take();
            let pushed = this.poll_push(cx, after, &mut timer);
            this.timer = timer.filter(|_| pushed.is_pending());
            ready!(pushed)?;
            if this.outgoing.take().is_some() {
                let core = Arc::clone(this.core());
                this.closing = Some(async move { core.closed().await }.boxed());
            }
        }
        if let Some(closing) = &mut this.closing {
            let why = ready!(closing.as_mut().poll(cx));
            this.closing = None;
            return Poll::Ready(Err(why));
        }
        Poll::Ready(Ok(()))
    }
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.stop();
        Poll::Ready(Ok(()))
    }
}

impl<S, R> fmt::Debug for MsgStream<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MsgStream<{}, {}>({:?})", type_name::<S>(), type_name::<R>(), self.receiving.shared.core)
    }
}

impl<S> fmt::Debug for SendHalf<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendHalf<{}>({:?})", type_name::<S>(), self.shared.core)
    }
}

impl<R> fmt::Debug for RecvHalf<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvHalf<{}>({:?})", type_name::<R>(), self.shared.core)
    }
}
