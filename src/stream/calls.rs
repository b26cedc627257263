//! How does a call give many results? `#[rpc] async fn numbers(n: u64) -> impl Stream<Item = u64>`.
use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll};

use futures::{Stream, StreamExt};

use super::RecvHalf;
use crate::actor::endpoint::Data;
use crate::context::{Context, ContextCall, ContextEndpoint, PortalContext};
use crate::error::Error;
use crate::portal::Portal;

/// A function whose results are a stream. [`#[rpc]`](macro@crate::rpc) makes one of a function that returns
/// `impl Stream<Item = T>`.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
/// #     futures::stream::iter(0..until)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// use teamster::{Error, Portal, StreamCall, StreamEndpoint};
///
/// async fn count<E: StreamEndpoint>(portal: &Portal, call: StreamCall<E>) -> Result<u64, Error> {
///     let (mut items, mut count) = (portal.stream(call).await?, 0);
///     while items.recv().await?.is_some() {
///         count += 1;
///     }
///     Ok(count)
/// }
/// assert_eq!(count(&frank, numbers(3)).await?, 3);
/// # Ok(()) }).await }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not give a stream",
    note = "`portal.stream` takes a `#[rpc]` function that returns `impl Stream<Item = T>`"
)]
pub trait StreamEndpoint: ContextEndpoint<Started = (), In = (), Output = ()> {}

/// A call that gives a stream, and has not been made yet. See [`Portal::stream`].
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
/// #     futures::stream::iter(0..until)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// let call = numbers(3); // nothing runs yet
/// let mut items = frank.stream(call).await?;
/// assert_eq!(items.recv().await?, Some(0));
/// # Ok(()) }).await }
/// ```
#[must_use = "a call does nothing until it is handed to an actor"]
pub struct StreamCall<E: StreamEndpoint> {
    call: ContextCall<E>,
}

impl<E: StreamEndpoint> StreamCall<E> {
    /// Used by the macros: call the function itself.
    #[doc(hidden)]
    pub fn new(args: E::Args) -> Self {
        StreamCall { call: ContextCall::new(args) }
    }

    /// The endpoint's path, as errors and logs name it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
    /// #     futures::stream::iter(0..until)
    /// # }
    /// assert!(numbers(3).endpoint().ends_with("::numbers"));
    /// ```
    pub fn endpoint(&self) -> &'static str {
        self.call.endpoint()
    }
}

impl<E: StreamEndpoint> fmt::Debug for StreamCall<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamCall({})", self.call.endpoint())
    }
}

/// The results of a call as they come. Dropped, it cancels the call.
///
/// It is a `futures::Stream` of `Result<T, Error>`: an error is the last item.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
/// #     futures::stream::iter(0..until)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// use futures::TryStreamExt;
///
/// let all: Vec<u64> = frank.stream(numbers(3)).await?.try_collect().await?;
/// assert_eq!(all, [0, 1, 2]);
/// # Ok(()) }).await }
/// ```
pub struct ItemStream<E: StreamEndpoint> {
    items: RecvHalf<E::Out>,
    ctx: PortalContext<E>,
}

impl<E: StreamEndpoint> ItemStream<E> {
    /// The next result; `None` when the function's stream has ended.
    ///
    /// # Errors
    ///
    /// As for [`MsgStream::recv`](crate::MsgStream::recv).
    ///
    /// # Cancel safety
    ///
    /// No item is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
    /// #     futures::stream::iter(0..until)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let mut items = frank.stream(numbers(1)).await?;
    /// assert_eq!(items.recv().await?, Some(0));
    /// assert_eq!(items.recv().await?, None);
    /// # Ok(()) }).await }
    /// ```
    pub async fn recv(&mut self) -> Result<Option<E::Out>, Error> {
        self.items.recv().await
    }

    /// Cancels the call and waits until its task has ended.
    ///
    /// # Errors
    ///
    /// [`Error::NotStopped`] if it has not ended within its grace.
    ///
    /// # Cancel safety
    ///
    /// The request is sent on the first poll. Dropping the future stops the waiting, not the cancel.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn numbers(until: u64) -> impl futures::Stream<Item = u64> {
    /// #     futures::stream::iter(0..until)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let mut items = frank.stream(numbers(u64::MAX)).await?;
    /// assert_eq!(items.recv().await?, Some(0));
    /// items.cancel().await?; // its task has ended
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel(&self) -> Result<(), Error> {
        self.ctx.cancel().await
    }
}

impl<E: StreamEndpoint> Stream for ItemStream<E> {
    type Item = Result<E::Out, Error>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.items).poll_next(cx)
    }
}

impl<E: StreamEndpoint> fmt::Debug for ItemStream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemStream({:?})", self.ctx)
    }
}

impl Portal {
    /// Calls a function in the other actor that gives a stream of results.
    ///
    /// It runs only as far ahead as its consumer reads. When the stream is dropped it is cancelled at
    /// once. To merge two, `futures::stream::select` costs next to nothing an item; `select_all` allocates for
    /// each.
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
    /// use futures::{Stream, stream};
    ///
    /// #[teamster::rpc]
    /// async fn numbers(until: u64) -> impl Stream<Item = u64> {
    ///     stream::iter(0..until)
    /// }
    ///
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let mut numbers = frank.stream(numbers(3)).await?;
    /// while let Some(number) = numbers.recv().await? {
    ///     println!("{number}");
    /// }
    /// # Ok(()) }).await }
    /// ```
    pub async fn stream<E: StreamEndpoint>(&self, call: StreamCall<E>) -> Result<ItemStream<E>, Error> {
        let ctx = self.context(call.call).await?;
        let (mut sends, items) = ctx.open_stream().await?.split();
        sends.finish().await?;
        Ok(ItemStream { items, ctx })
    }
}

/// Used by the macros: sends what a function's stream gives.
#[doc(hidden)]
pub async fn feed<T: Data>(ctx: Context<(), (), T>, items: impl Stream<Item = T> + Send) -> Result<(), Error> {
    let mut items = pin!(items);
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(item) = items.next().await {
        stream.send(item).await?;
    }
    Ok(())
}
