//! How does every one of several readers get all of one stream?
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use futures::Stream;
use parking_lot::Mutex;

use crate::error::Error;

/// Fans a stream out: each [`Subscriber`] gets every item that arrives while it is subscribed.
///
/// The source is polled by whichever subscriber needs its next item; there is no task in between, and
/// while nobody reads, nothing is taken from the source. A subscriber that is dropped or cancelled disturbs
/// nobody: another one goes on polling, and no item is lost.
///
/// At most `capacity` items (one at least) are kept for those who are slower than the fastest. What
/// happens when one is slower by more, it chooses itself: [`Lag`]. The fastest never loses anything.
///
/// When the source ends or fails, all of them hear it, each after its last item, and as often as they ask.
/// An error of the source is an end.
///
/// # Examples
///
/// ```
/// use futures::StreamExt;
/// use teamster::tasks::broadcast;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let source = futures::stream::iter(1..=3).map(Ok::<u32, teamster::Error>);
/// let feed = broadcast(source, 16);
/// let (mut one, mut two) = (feed.subscribe(), feed.subscribe());
/// assert_eq!(one.recv().await.unwrap(), Some(1));
/// assert_eq!(two.recv().await.unwrap(), Some(1));
/// let rest: Vec<u32> = one.map(Result::unwrap).collect().await;
/// assert_eq!(rest, [2, 3]);
/// assert_eq!(two.recv().await.unwrap(), Some(2)); // it was kept
/// # }
/// ```
pub fn broadcast<S, T, E>(source: S, capacity: usize) -> Broadcast<T, E>
where
    S: Stream<Item = Result<T, E>> + Send + 'static,
    T: Clone + Send,
    E: Clone + Send,
{
    let state = State {
        source: Source::Here(Box::pin(source)),
        ring: VecDeque::new(),
        first: 0,
        capacity: capacity.max(1),
        end: None,
        cursors: HashMap::new(),
        next_id: 0,
    };
    let signal = Signal { woken: Mutex::new(Woken { is_due: true, waiting: HashMap::new() }) };
    Broadcast { core: Arc::new(Core { state: Mutex::new(state), signal: Arc::new(signal) }) }
}

/// A stream that is fanned out: see [`broadcast`]. Cheap to clone.
///
/// # Examples
///
/// ```
/// # use futures::{StreamExt, stream}; use teamster::tasks::broadcast;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let feed = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 16);
/// for mut reader in [feed.subscribe(), feed.clone().subscribe()] {
///     assert_eq!(reader.recv().await.unwrap(), Some(1));
/// }
/// # }
/// ```
pub struct Broadcast<T, E = Error> {
    core: Arc<Core<T, E>>,
}

impl<T: Clone + Send, E: Clone + Send> Broadcast<T, E> {
    /// A subscriber to all that arrives from now on, which is told when it lags.
    ///
    /// After the end of the source it hears of that end at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # use futures::{StreamExt, stream}; use teamster::tasks::broadcast;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let feed = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 16);
    /// let mut early = feed.subscribe();
    /// assert_eq!(early.recv().await.unwrap(), Some(1));
    /// assert_eq!(feed.subscribe().recv().await.unwrap(), Some(2)); // from now on
    /// # }
    /// ```
    pub fn subscribe(&self) -> Subscriber<T, E> {
        self.subscribe_with(Lag::Report)
    }

    /// The same, with a choice of what happens when it lags.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures::StreamExt;
    /// use teamster::tasks::{Lag, broadcast};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let feed = broadcast(futures::stream::iter(1..=5).map(Ok::<u32, teamster::Error>), 2);
    /// let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe_with(Lag::Skip));
    /// while fast.recv().await.unwrap().is_some() {}
    /// assert_eq!(slow.recv().await.unwrap(), Some(4)); // the oldest that was kept
    /// assert_eq!(slow.lost(), 3);
    /// # }
    /// ```
    pub fn subscribe_with(&self, lag: Lag) -> Subscriber<T, E> {
        let mut state = self.core.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let next = state.head();
        state.cursors.insert(id, Cursor { next, lag });
        Subscriber { core: Arc::clone(&self.core), id, lag, lost: 0, has_ended: false }
    }
}

impl<T, E> Clone for Broadcast<T, E> {
    fn clone(&self) -> Self {
        Broadcast { core: Arc::clone(&self.core) }
    }
}

impl<T, E> fmt::Debug for Broadcast<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast").field("state", &*self.core.state.lock()).finish()
    }
}

/// What happens to a subscriber that is slower than the fastest by more than the capacity.
///
/// # Examples
///
/// ```
/// # use futures::{StreamExt, stream}; use teamster::tasks::{Lag, RecvError, broadcast};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let feed = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 1); // one item is kept
/// let (mut fast, mut told, mut skips) =
///     (feed.subscribe(), feed.subscribe_with(Lag::Report), feed.subscribe_with(Lag::Skip));
/// while fast.recv().await.unwrap().is_some() {}
/// assert!(matches!(told.recv().await, Err(RecvError::Lagged(2))));
/// assert_eq!(skips.recv().await.unwrap(), Some(3));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lag {
    /// It loses the oldest items, is told so once ([`RecvError::Lagged`]), and goes on from the oldest kept.
    #[default]
    Report,
    /// The same without being told; [`Subscriber::lost`] counts.
    Skip,
    /// It loses nothing: all wait for it.
    Wait,
}

/// One reader of a [`broadcast`]. A stream too, which ends after the error of its source.
///
/// # Cancel safety
///
/// Dropping a `recv`, or the subscriber, loses nothing for anybody else, and a `recv` nothing at all.
///
/// # Examples
///
/// ```
/// # use futures::{StreamExt, stream}; use teamster::tasks::broadcast;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let feed = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 16);
/// let all: Vec<u32> = feed.subscribe().map(Result::unwrap).collect().await;
/// assert_eq!(all, [1, 2, 3]);
/// # }
/// ```
pub struct Subscriber<T, E = Error> {
    core: Arc<Core<T, E>>,
    id: u64,
    lag: Lag,
    lost: u64,
    /// As a stream it has yielded its source's error.
    has_ended: bool,
}

impl<T: Clone + Send, E: Clone + Send> Subscriber<T, E> {
    /// The next item. `None`: the source has ended.
    ///
    /// After the end, well or not, it says the same for ever.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] once for each time that items were lost; [`RecvError::Source`] if the source
    /// has failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use futures::{StreamExt, stream}; use teamster::tasks::broadcast;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let mut reader = broadcast(stream::iter([1]).map(Ok::<u32, teamster::Error>), 16).subscribe();
    /// assert_eq!(reader.recv().await.unwrap(), Some(1));
    /// assert_eq!(reader.recv().await.unwrap(), None);
    /// assert_eq!(reader.recv().await.unwrap(), None); // said again
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Result<Option<T>, RecvError<E>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Another subscriber of the same source, to all that arrives from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use futures::{StreamExt, stream}; use teamster::tasks::broadcast;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let mut one = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 16).subscribe();
    /// assert_eq!(one.recv().await.unwrap(), Some(1));
    /// let mut other = one.subscribe();
    /// assert_eq!(other.recv().await.unwrap(), Some(2));
    /// # }
    /// ```
    pub fn subscribe(&self) -> Subscriber<T, E> {
        Broadcast { core: Arc::clone(&self.core) }.subscribe()
    }

    /// How many items it has lost so far.
    ///
    /// # Examples
    ///
    /// ```
    /// # use futures::{StreamExt, stream}; use teamster::tasks::{Lag, RecvError, broadcast};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let feed = broadcast(stream::iter(1..=3).map(Ok::<u32, teamster::Error>), 1);
    /// let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe_with(Lag::Skip));
    /// while fast.recv().await.unwrap().is_some() {}
    /// slow.recv().await.unwrap();
    /// assert_eq!((fast.lost(), slow.lost()), (0, 2));
    /// # }
    /// ```
    pub fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, RecvError<E>>> {
        loop {
            match self.core.next(self.id, cx) {
                Next::Read(result) => return Poll::Ready(result),
                Next::Lagged(lost) => {
                    self.lost += lost;
                    if self.lag == Lag::Report {
                        return Poll::Ready(Err(RecvError::Lagged(lost)));
                    }
                }
                Next::Wait => return Poll::Pending,
                // Not asked again in this poll, also if it has been woken meanwhile: so have we.
                Next::Poll(source) => ready!(self.core.poll_source(source)),
            }
        }
    }
}

impl<T: Clone + Send, E: Clone + Send> Stream for Subscriber<T, E> {
    type Item = Result<T, RecvError<E>>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_recv(cx)).transpose();
        self.has_ended = matches!(next, Some(Err(RecvError::Source(_))));
        Poll::Ready(next)
    }
}

impl<T, E> Drop for Subscriber<T, E> {
    fn drop(&mut self) {
        self.core.leave(self.id);
    }
}

impl<T, E> fmt::Debug for Subscriber<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("lag", &self.lag).field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// Why a subscriber got no item.
///
/// # Examples
///
/// ```
/// # use futures::{StreamExt, stream}; use teamster::tasks::{Lag, RecvError, broadcast};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let failing = stream::iter([Err::<u32, _>("the line is down")]);
/// let mut reader = broadcast(failing, 16).subscribe();
/// match reader.recv().await {
///     Err(RecvError::Lagged(items)) => println!("{items} items are lost"), // and it goes on
///     Err(RecvError::Source(error)) => assert_eq!(error, "the line is down"),
///     other => unreachable!("{other:?}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError<E> {
    /// It was too slow: so many items are lost to it. The next one is the oldest that was kept.
    #[error("a subscriber was too slow and has lost {0} items")]
    Lagged(u64),
    /// The source has failed. All subscribers hear the same.
    #[error(transparent)]
    Source(E),
}

// ---- what they share

struct Core<T, E> {
    state: Mutex<State<T, E>>,
    signal: Arc<Signal>,
}

type BoxStream<T, E> = Pin<Box<dyn Stream<Item = Result<T, E>> + Send>>;

struct State<T, E> {
    source: Source<T, E>,
    /// Items that somebody has not read yet, the oldest first.
    ring: VecDeque<Slot<T>>,
    /// The number of the first of them.
    first: u64,
    capacity: usize,
    end: Option<Result<(), E>>,
    cursors: HashMap<u64, Cursor>,
    next_id: u64,
}

enum Source<T, E> {
    Here(BoxStream<T, E>),
    /// In the hands of a subscriber that polls it at this moment.
    Out,
    Ended,
}

struct Slot<T> {
    item: T,
    /// Subscribers that have not read it.
    unread: usize,
    /// Those among them that the source waits for.
    awaited: usize,
}

struct Cursor {
    /// The number of the item that it reads next.
    next: u64,
    lag: Lag,
}

/// What a subscriber finds when it asks.
enum Next<T, E> {
    Read(Result<Option<T>, RecvError<E>>),
    Lagged(u64),
    /// Its waker is registered.
    Wait,
    /// It is the one to poll the source, and gives it back.
    Poll(BoxStream<T, E>),
}

impl<T: Clone, E: Clone> Core<T, E> {
    fn next(&self, id: u64, cx: &Context<'_>) -> Next<T, E> {
        let mut state = self.state.lock();
        if let Some(lost) = state.lost(id) {
            return Next::Lagged(lost);
        }
        let was_full = state.is_full();
        if let Some(item) = state.read(id) {
            let has_room = was_full && !state.is_full();
            drop(state);
            if has_room {
                self.signal.wake_all();
            }
            return Next::Read(Ok(Some(item)));
        }
        if let Some(end) = &state.end {
            return Next::Read(end.clone().map(|()| None).map_err(RecvError::Source));
        }
        // With the state locked: whoever changes it from here on finds the waker.
        let is_due = self.signal.register(id, cx.waker());
        if !is_due || state.is_full() {
            return Next::Wait;
        }
        match std::mem::replace(&mut state.source, Source::Out) {
            Source::Here(source) => {
                self.signal.set_due(false);
                Next::Poll(source)
            }
            other => {
                state.source = other;
                Next::Wait
            }
        }
    }

    /// Polls the source, with no lock held, and puts it back. Also if it panics: whoever polls it next
    /// meets that too.
    fn poll_source(&self, mut source: BoxStream<T, E>) -> Poll<()> {
        let waker = Waker::from(Arc::clone(&self.signal));
        let mut cx = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| source.as_mut().poll_next(&mut cx)));
        let has_come = if matches!(polled, Ok(Poll::Pending)) { Poll::Pending } else { Poll::Ready(()) };
        let mut state = self.state.lock();
        let mut evicted = None;
        let mut panic = None;
        match polled {
            Ok(Poll::Ready(Some(Ok(item)))) => evicted = state.push(item),
            Ok(Poll::Ready(Some(Err(error)))) => state.end = Some(Err(error)),
            Ok(Poll::Ready(None)) => state.end = Some(Ok(())),
            Ok(Poll::Pending) if !self.signal.is_due() => {
                state.source = Source::Here(source);
                return has_come;
            }
            Ok(Poll::Pending) => {} // it was woken while it was out
            Err(payload) => panic = Some(payload),
        }
        let over = match state.end {
            Some(_) => {
                state.source = Source::Ended;
                Some(source)
            }
            None => {
                state.source = Source::Here(source);
                None
            }
        };
        drop(state);
        drop((evicted, over)); // users' code, with nothing locked
        self.signal.set_due(true);
        self.signal.wake_all();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        has_come
    }
}

impl<T, E> Core<T, E> {
    fn leave(&self, id: u64) {
        self.signal.forget(id);
        let mut state = self.state.lock();
        let was_full = state.is_full();
        let unread = state.leave(id);
        let has_room = was_full && !state.is_full();
        drop(state);
        drop(unread); // users' code, with nothing locked
        if has_room {
            self.signal.wake_all();
        }
    }
}

impl<T, E> State<T, E> {
    /// The number of the item that comes next.
    fn head(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// There is no room, and who has not read the oldest item must not lose it.
    fn is_full(&self) -> bool {
        self.ring.len() == self.capacity && self.ring.front().is_some_and(|oldest| oldest.awaited > 0)
    }

    /// How much this subscriber has lost since it was last told. It goes on from the oldest kept.
    fn lost(&mut self, id: u64) -> Option<u64> {
        let first = self.first;
        let cursor = self.cursors.get_mut(&id)?;
        let lost = first.checked_sub(cursor.next).filter(|lost| *lost > 0)?;
        cursor.next = first;
        Some(lost)
    }

    /// The place of this subscriber's next item in the ring, which may be its end.
    fn place(&self, next: u64) -> usize {
        usize::try_from(next.saturating_sub(self.first)).map_or(self.ring.len(), |place| place.min(self.ring.len()))
    }

    /// What it loses to this.
    fn push(&mut self, item: T) -> Option<T> {
        if self.cursors.is_empty() {
            self.first += 1;
            return Some(item);
        }
        let awaited = self.cursors.values().filter(|cursor| cursor.lag == Lag::Wait).count();
        let evicted = (self.ring.len() == self.capacity).then(|| self.pop()).flatten();
        self.ring.push_back(Slot { item, unread: self.cursors.len(), awaited });
        evicted
    }

    fn pop(&mut self) -> Option<T> {
        let oldest = self.ring.pop_front()?;
        self.first += 1;
        Some(oldest.item)
    }

    /// Takes a subscriber away, and what only it had not read.
    fn leave(&mut self, id: u64) -> Vec<T> {
        let Some(cursor) = self.cursors.remove(&id) else { return Vec::new() };
        for slot in self.ring.range_mut(self.place(cursor.next)..) {
            slot.was_read(cursor.lag);
        }
        // Who subscribed before an item has read or counts for all that came after: the oldest go first.
        let mut unread = Vec::new();
        while self.ring.front().is_some_and(|oldest| oldest.unread == 0) {
            unread.extend(self.pop());
        }
        unread
    }
}

impl<T: Clone, E> State<T, E> {
    /// The next item, if it is there: the last one who reads it gets it without a clone.
    fn read(&mut self, id: u64) -> Option<T> {
        let cursor = self.cursors.get(&id)?;
        let (place, lag) = (self.place(cursor.next), cursor.lag);
        let slot = self.ring.get_mut(place)?;
        let item = match slot.unread {
            1 => None,
            _ => Some(slot.item.clone()),
        };
        slot.was_read(lag);
        self.cursors.get_mut(&id)?.next += 1;
        item.or_else(|| self.pop())
    }
}

impl<T> Slot<T> {
    fn was_read(&mut self, lag: Lag) {
        self.unread -= 1;
        self.awaited -= usize::from(lag == Lag::Wait);
    }
}

impl<T, E> fmt::Debug for State<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("subscribers", &self.cursors.len())
            .field("kept", &self.ring.len())
            .field("has_ended", &self.end.is_some())
            .finish_non_exhaustive()
    }
}

/// The source's waker: it wakes all who wait, and the first of them polls the source.
struct Signal {
    woken: Mutex<Woken>,
}

struct Woken {
    /// The source has something to say, or has not been asked yet.
    is_due: bool,
    /// By subscriber.
    waiting: HashMap<u64, Waker>,
}

impl Signal {
    /// Has `waker` woken at the next news. Whether the source should be polled now.
    fn register(&self, id: u64, waker: &Waker) -> bool {
        let mut woken = self.woken.lock();
        match woken.waiting.get_mut(&id) {
            Some(before) => before.clone_from(waker),
            None => drop(woken.waiting.insert(id, waker.clone())),
        }
        woken.is_due
    }

    fn forget(&self, id: u64) {
        let waker = self.woken.lock().waiting.remove(&id);
        drop(waker);
    }

    fn is_due(&self) -> bool {
        self.woken.lock().is_due
    }

    fn set_due(&self, is_due: bool) {
        self.woken.lock().is_due = is_due;
    }

    fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.woken.lock().waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set_due(true);
        self.wake_all();
    }
}

#[cfg(test)]
mod tests;
