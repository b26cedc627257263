//! How do several readers get all of one stream?
use std::task::{Context, Poll, ready};

use super::{MsgStream, RecvHalf, Source};
use crate::actor::endpoint::Data;
use crate::broadcast::{Broadcast, Lag, RecvError, Subscriber, broadcast};
use crate::error::Error;

/// A stream that has become one subscriber among others.
pub(super) trait FannedOut<R>: Send {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Error>>;
    /// Items that it has not read in time.
    fn lost(&self) -> u64;
    /// Itself, where its type is known.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// The stream's own place among its subscribers.
struct Own<R> {
    feed: Broadcast<R>,
    own: Subscriber<R>,
}

/// Items that are kept for subscribers that are slower than the fastest, unless it was said.
const CAPACITY: usize = 1024;

impl<R: Data + Clone> FannedOut<R> for Own<R> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Error>> {
        Poll::Ready(match ready!(self.own.poll_recv(cx)) {
            Ok(item) => Ok(item),
            Err(RecvError::Source(error)) => Err(error),
            // It skips what it has lost, and counts it.
            Err(RecvError::Lagged(_)) => Err(Error::Usage("a stream that skips was told that it lags")),
        })
    }

    fn lost(&self) -> u64 {
        self.own.lost()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl<R: Data + Clone> RecvHalf<R> {
    /// As [`MsgStream::subscribe`].
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
    /// let (mut one, mut two) = (items.subscribe(), items.subscribe());
    /// sends.send(7).await?;
    /// assert_eq!((one.recv().await?, two.recv().await?), (Some(7), Some(7)));
    /// # Ok(()) }).await }
    /// ```
    pub fn subscribe(&mut self) -> Subscriber<R> {
        self.fan_out(CAPACITY).subscribe()
    }

    /// As [`MsgStream::fan_out`].
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
    /// let mut reader = items.fan_out(10).subscribe();
    /// sends.send(7).await?;
    /// assert_eq!(reader.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn fan_out(&mut self, capacity: usize) -> Broadcast<R> {
        if let Source::FannedOut(fanned_out) = &self.source
            && let Some(own) = fanned_out.as_any().downcast_ref::<Own<R>>()
        {
            return own.feed.clone();
        }
        let below = self.take_below();
        let feed = broadcast(below, capacity);
        let own = feed.subscribe_with(Lag::Skip);
        self.source = Source::FannedOut(Box::new(Own { feed: feed.clone(), own }));
        feed
    }
}

impl<S: Data, R: Data + Clone> MsgStream<S, R> {
    /// Fans the stream out: every subscriber gets every item that arrives from now on.
    ///
    /// This stream goes on as one reader among them. A subscriber that is slow is the only one to lag: it is told
    /// how many items it has lost ([`RecvError::Lagged`](crate::tasks::RecvError)) and goes on from the oldest
    /// that was kept (1,024 are; [`MsgStream::fan_out`] says otherwise); this stream itself skips them, and
    /// counts ([`MsgStream::dropped`]). The fastest loses nothing, and nothing is read ahead of it. When the
    /// stream ends, well or not, every subscriber ends the same way.
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
    /// let (mut one, mut two) = (stream.subscribe(), stream.subscribe());
    /// stream.send(7).await?;
    /// assert_eq!(one.recv().await?, two.recv().await?);
    /// # Ok(()) }).await }
    /// ```
    pub fn subscribe(&mut self) -> Subscriber<R> {
        self.receiving.subscribe()
    }

    /// The same, with the number of items that are kept for slow subscribers; of several calls the
    /// first one's counts.
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
    /// let mut reader = stream.fan_out(10).subscribe();
    /// stream.send(7).await?;
    /// assert_eq!(reader.recv().await?, Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn fan_out(&mut self, capacity: usize) -> Broadcast<R> {
        self.receiving.fan_out(capacity)
    }
}
