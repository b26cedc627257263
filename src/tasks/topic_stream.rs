//! How do the subscribers of one actor share what a hub sends it?
use std::any::{Any, TypeId, type_name};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use futures::Stream;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::topics::{Change, Delivery, MAX_TOPICS, TOO_MANY, serve_topics};
use crate::actor::current;
use crate::actor::endpoint::Data;
use crate::error::{CodecError, Error};
use crate::msg::codec;
use crate::portal::Portal;

/// A subscriber to topics of a hub: see [`Topics::subscribe`](super::Topics::subscribe).
///
/// A `futures::Stream` too, whose last item is the error, if there is one. Dropped, it has unsubscribed.
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{TopicStream, Topics};
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use futures::TryStreamExt;
///
/// let news = Topics::<u32>::open("news")?;
/// let reader: TopicStream<u32> = Topics::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
/// news.publish("sport", &1)?;
/// drop(news); // closed
/// let all: Vec<_> = reader.try_collect().await?;
/// assert_eq!(all, [("sport".into(), 1)]);
/// # Ok(()) }).await }
/// ```
pub struct TopicStream<T> {
    station: Arc<Station<T>>,
    id: u64,
    /// As a stream it has yielded its error.
    has_ended: bool,
}

impl<T: Data + Clone> TopicStream<T> {
    pub(super) async fn begin(portal: &Portal, hub: &str, topics: Vec<Arc<str>>) -> Result<Self, Error> {
        let actor = current::actor()?;
        let stations = actor.table::<Stations>();
        let key = (portal.aid().uuid(), hub.to_owned(), TypeId::of::<T>());
        let (mut stream, change) = {
            let mut open = stations.open.lock();
            open.retain(|_, station| station.strong_count() > 0);
            let there = open.get(&key).and_then(Weak::upgrade).and_then(|there| there.downcast::<Station<T>>().ok());
            match there.and_then(|station| TopicStream::join(station, &topics)) {
                Some(joined) => joined?,
                None => {
                    let shared = Arc::new(Shared::new());
                    let (id, change) = shared.state.lock().join(&topics).expect("it has not ended yet")?;
                    let follow = follow(Arc::clone(&shared), portal.clone(), hub.to_owned());
                    let task = actor.spawn_owned_driver(follow);
                    let station = Arc::new(Station { shared, _task: task });
                    let weak: Weak<AnyStation> = Arc::<Station<T>>::downgrade(&station) as Weak<_>;
                    open.insert(key, weak);
                    (TopicStream { station, id, has_ended: false }, change)
                }
            }
        };
        stream.known(change).await?;
        Ok(stream)
    }

    /// `None`: the station has ended.
    fn join(station: Arc<Station<T>>, topics: &[Arc<str>]) -> Option<Result<(Self, u64), Error>> {
        let joined = station.shared.state.lock().join(topics)?;
        station.shared.changed.notify_one();
        Some(joined.map(|(id, change)| (TopicStream { station, id, has_ended: false }, change)))
    }

    /// Wants these topics too. Resolves when the publisher knows it.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for too many topics; else how the hub was lost.
    ///
    /// # Cancel safety
    ///
    /// It is asked for on the first poll. Dropping the future stops the waiting.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{TopicStream, Topics};
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// reader.subscribe(["weather"]).await?; // the publisher knows it now
    /// news.publish("weather", &1)?;
    /// assert_eq!(reader.recv().await?, Some(("weather".into(), 1)));
    /// # Ok(()) }).await }
    /// ```
    pub async fn subscribe<S: Into<Arc<str>>>(&mut self, topics: impl IntoIterator<Item = S>) -> Result<(), Error> {
        let topics: Vec<Arc<str>> = topics.into_iter().map(Into::into).collect();
        let shared = &self.station.shared;
        let change = shared.state.lock().want(self.id, &topics)?;
        shared.changed.notify_one();
        self.known(change).await
    }

    /// Wants these topics no more: no message of theirs is received after this, also none that waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{TopicStream, Topics};
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// news.publish("sport", &1)?;
    /// reader.unsubscribe(["sport"]); // also what waits
    /// drop(news);
    /// assert_eq!(reader.recv().await?, None);
    /// # Ok(()) }).await }
    /// ```
    pub fn unsubscribe<S: AsRef<str>>(&mut self, topics: impl IntoIterator<Item = S>) {
        let shared = &self.station.shared;
        for topic in topics {
            let unread = shared.state.lock().want_no_more(self.id, topic.as_ref());
            drop(unread); // users' code, with nothing locked
        }
        shared.changed.notify_one();
    }

    /// The next message, with its topic. `None`: the hub was closed.
    ///
    /// After the end, well or not, it says the same for ever.
    ///
    /// # Errors
    ///
    /// How the hub was lost: [`Error::ActorDied`], [`Error::Cancelled`] if its actor was cancelled, and so on;
    /// [`Error::Codec`] if a message can't be decoded.
    ///
    /// # Cancel safety
    ///
    /// No message is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{TopicStream, Topics};
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// news.publish("sport", &1)?;
    /// drop(news);
    /// assert_eq!(reader.recv().await?, Some(("sport".into(), 1)));
    /// assert_eq!(reader.recv().await?, None); // the hub was closed
    /// # Ok(()) }).await }
    /// ```
    pub async fn recv(&mut self) -> Result<Option<(Arc<str>, T)>, Error> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// How many messages of its topics it has lost so far, because it, its actor or the way there was too
    /// slow.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{TopicStream, Topics};
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// for number in 0..5_000 {
    ///     news.publish("sport", &number)?; // it never waits: 1,024 are kept
    /// }
    /// drop(news);
    /// let mut received = 0;
    /// while reader.recv().await?.is_some() {
    ///     received += 1;
    /// }
    /// assert_eq!(received + reader.lost(), 5_000);
    /// # Ok(()) }).await }
    /// ```
    pub fn lost(&self) -> u64 {
        self.station.shared.state.lock().readers.get(&self.id).map_or(0, |reader| reader.lost)
    }

    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Received<T>> {
        self.poll(cx, |reader, end| match (reader.queue.pop_front(), end) {
            (Some(message), _) => Some(Ok(Some(message))),
            (None, Some(end)) => Some(end.clone().map(|()| None)),
            (None, None) => None,
        })
    }

    /// Waits until the publisher has made this change.
    async fn known(&mut self, change: u64) -> Result<(), Error> {
        poll_fn(|cx| {
            let known = self.station.shared.state.lock().known;
            if known.is_some_and(|known| known >= change) {
                return Poll::Ready(Ok(()));
            }
            self.poll(cx, |_, end| end.cloned())
        })
        .await
    }

    fn poll<R>(
        &self,
        cx: &Context<'_>,
        look: impl FnOnce(&mut Reader<T>, Option<&Result<(), Error>>) -> Option<R>,
    ) -> Poll<R> {
        let mut state = self.station.shared.state.lock();
        let State { readers, end, .. } = &mut *state;
        let reader = readers.get_mut(&self.id).expect("it goes with this");
        if let Some(found) = look(reader, end.as_ref()) {
            return Poll::Ready(found);
        }
        reader.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T: Data + Clone> Stream for TopicStream<T> {
    type Item = Result<(Arc<str>, T), Error>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_recv(cx)).transpose();
        self.has_ended = matches!(next, Some(Err(_)));
        Poll::Ready(next)
    }
}

impl<T> Drop for TopicStream<T> {
    fn drop(&mut self) {
        let gone = self.station.shared.state.lock().leave(self.id);
        drop(gone); // users' code, with nothing locked
        self.station.shared.changed.notify_one();
    }
}

impl<T> fmt::Debug for TopicStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.station.shared.state.lock();
        let topics = state.readers.get(&self.id).map(|reader| &reader.topics);
        f.debug_struct("TopicStream").field("topics", &topics).finish_non_exhaustive()
    }
}

// ---- what the subscribers of one actor share

type Received<T> = Result<Option<(Arc<str>, T)>, Error>;

/// The hubs that this actor follows.
#[derive(Default)]
struct Stations {
    open: Mutex<HashMap<Followed, Weak<AnyStation>>>,
}

/// The publisher, the hub's name, the type of its messages.
type Followed = (Uuid, String, TypeId);

type AnyStation = dyn Any + Send + Sync;

/// One hub, followed for all of its subscribers here. Dropped with the last of them.
struct Station<T> {
    shared: Arc<Shared<T>>,
    _task: AbortOnDropHandle<()>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// The publisher is to be told of other topics.
    changed: Notify,
}

struct State<T> {
    readers: HashMap<u64, Reader<T>>,
    next_id: u64,
    /// By how many of them each topic is wanted.
    wanted: HashMap<Arc<str>, usize>,
    /// The number of the last change of that.
    change: u64,
    /// The last one that the publisher has made. `None`: it has not answered yet.
    known: Option<u64>,
    /// Messages that are kept for each.
    capacity: usize,
    end: Option<Result<(), Error>>,
}

struct Reader<T> {
    topics: HashSet<Arc<str>>,
    queue: VecDeque<(Arc<str>, T)>,
    lost: u64,
    waker: Option<Waker>,
}

impl<T> Shared<T> {
    fn new() -> Self {
        let state = State {
            readers: HashMap::new(),
            next_id: 0,
            wanted: HashMap::new(),
            change: 0,
            known: None,
            capacity: 1,
            end: None,
        };
        Shared { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Lets all look again.
    fn update(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.state.lock();
        change(&mut state);
        let woken: Vec<Waker> = state.readers.values_mut().filter_map(|reader| reader.waker.take()).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl<T> State<T> {
    /// One more subscriber: its number, and that of the change that its topics are in. `None`: it is over.
    fn join(&mut self, topics: &[Arc<str>]) -> Option<Result<(u64, u64), Error>> {
        if self.end.is_some() {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let reader = Reader { topics: HashSet::new(), queue: VecDeque::new(), lost: 0, waker: None };
        self.readers.insert(id, reader);
        Some(match self.want(id, topics) {
            Ok(change) => Ok((id, change)),
            Err(error) => {
                self.readers.remove(&id);
                Err(error)
            }
        })
    }

    fn want(&mut self, id: u64, topics: &[Arc<str>]) -> Result<u64, Error> {
        let unknown: HashSet<&Arc<str>> = topics.iter().filter(|topic| !self.wanted.contains_key(*topic)).collect();
        if self.wanted.len() + unknown.len() > MAX_TOPICS {
            return Err(TOO_MANY);
        }
        self.change += u64::from(!unknown.is_empty());
        let reader = self.readers.get_mut(&id).expect("it asks");
        for topic in topics {
            if reader.topics.insert(Arc::clone(topic)) {
                *self.wanted.entry(Arc::clone(topic)).or_default() += 1;
            }
        }
        Ok(self.change)
    }

    /// What it has not read of it.
    fn want_no_more(&mut self, id: u64, topic: &str) -> Vec<T> {
        let Some(reader) = self.readers.get_mut(&id) else { return Vec::new() };
        if !reader.topics.remove(topic) {
            return Vec::new();
        }
        let (unread, rest): (Vec<_>, Vec<_>) = reader.queue.drain(..).partition(|(of, _)| &**of == topic);
        reader.queue = rest.into();
        self.forget(topic);
        unread.into_iter().map(|(_, message)| message).collect()
    }

    fn leave(&mut self, id: u64) -> Option<Reader<T>> {
        let gone = self.readers.remove(&id)?;
        for topic in &gone.topics {
            self.forget(topic);
        }
        Some(gone)
    }

    fn forget(&mut self, topic: &str) {
        let Some(readers) = self.wanted.get_mut(topic) else { return };
        *readers -= 1;
        if *readers == 0 {
            self.wanted.remove(topic);
            self.change += 1;
        }
    }

    fn lose(&mut self, topic: &str, messages: u64) {
        for reader in self.readers.values_mut().filter(|reader| reader.topics.contains(topic)) {
            reader.lost += messages;
        }
    }

    /// Who wants this topic now.
    fn readers_of(&self, topic: &str) -> Vec<u64> {
        self.readers.iter().filter(|(_, reader)| reader.topics.contains(topic)).map(|(id, _)| *id).collect()
    }

    /// What nobody reads: it was too old, or its reader is gone.
    fn push(&mut self, topic: &Arc<str>, id: u64, message: T) -> Option<T> {
        let reader = self.readers.get_mut(&id).filter(|reader| reader.topics.contains(topic));
        let Some(reader) = reader else { return Some(message) };
        let oldest = if reader.queue.len() == self.capacity { reader.queue.pop_front() } else { None };
        reader.lost += u64::from(oldest.is_some());
        reader.queue.push_back((Arc::clone(topic), message));
        oldest.map(|(_, message)| message)
    }
}

/// Follows a hub, and tells all subscribers here how that ended.
async fn follow<T: Data + Clone>(shared: Arc<Shared<T>>, portal: Portal, hub: String) {
    let mut over = Over { shared: &shared, end: Err(Error::Usage("decoding a message has panicked")) };
    over.end = deliver(&shared, &portal, hub).await;
}

/// Also when it panics.
struct Over<'a, T> {
    shared: &'a Shared<T>,
    end: Result<(), Error>,
}

impl<T> Drop for Over<'_, T> {
    fn drop(&mut self) {
        let end = self.end.clone();
        self.shared.update(|state| state.end = Some(end));
    }
}

async fn deliver<T: Data + Clone>(shared: &Shared<T>, portal: &Portal, hub: String) -> Result<(), Error> {
    let mut told = Told::default();
    let first = told.next(&shared.state.lock());
    told.number = first.number;
    let ctx = portal.context(serve_topics(hub.clone(), type_name::<T>().to_owned(), first.add)).await?;
    let capacity = usize::try_from(ctx.first()?).unwrap_or(usize::MAX).max(1);
    shared.update(|state| (state.capacity, state.known) = (capacity, Some(first.number)));
    let (mut sends, mut deliveries) = ctx.open_stream().await?.split();
    // Side by side: the publisher may wait for us to read.
    let telling = pin!(async {
        loop {
            let change = told.next(&shared.state.lock());
            if change.number > told.number {
                told.number = change.number;
                if sends.send(change).await.is_err() {
                    return; // it has ended: how, the other half tells
                }
            }
            shared.changed.notified().await;
        }
    });
    let reading = pin!(async {
        while let Some(delivery) = deliveries.recv().await? {
            take(shared, &hub, delivery)?;
        }
        Ok(())
    });
    match select(reading, telling).await {
        Either::Left((end, _)) => end,
        Either::Right(((), reading)) => reading.await,
    }
}

/// The topics that the publisher was told of.
#[derive(Default)]
struct Told {
    topics: HashSet<Arc<str>>,
    number: u64,
}

impl Told {
    fn next<T>(&mut self, state: &State<T>) -> Change {
        let add: Vec<Arc<str>> = state.wanted.keys().filter(|topic| !self.topics.contains(*topic)).cloned().collect();
        let remove: Vec<Arc<str>> =
            self.topics.iter().filter(|topic| !state.wanted.contains_key(*topic)).cloned().collect();
        for topic in &remove {
            self.topics.remove(topic);
        }
        self.topics.extend(add.iter().cloned());
        Change { number: state.change, add, remove }
    }
}

fn take<T: Data + Clone>(shared: &Shared<T>, hub: &str, delivery: Delivery) -> Result<(), Error> {
    match delivery {
        Delivery::Known(change) => shared.update(|state| state.known = Some(change)),
        Delivery::Lost(lost) => {
            let mut state = shared.state.lock();
            lost.iter().for_each(|(topic, messages)| state.lose(topic, *messages));
        }
        Delivery::Message { topic, message } => {
            let readers = shared.state.lock().readers_of(&topic);
            // Decoded and cloned with nothing locked: that is users' code. Who comes in between, comes late.
            let message: T = codec::decode(&message)
                .map_err(|failure| Error::Codec(CodecError::decoding(hub, "the message", failure)))?;
            let messages = vec![message; readers.len()];
            let mut unread = Vec::new();
            shared.update(|state| {
                let pushed = readers.into_iter().zip(messages).map(|(id, message)| state.push(&topic, id, message));
                unread.extend(pushed.flatten());
            });
            drop(unread);
        }
    }
    Ok(())
}
