//! How does an actor tell others what they want to know? Publishing, by topic, to all who subscribe.
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use std::any::type_name;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use futures::future::{Either, select};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::topic_stream::TopicStream;
use crate::actor::current;
use crate::actor::endpoint::Data;
use crate::context::Context;
use crate::error::{CodecError, Error};
use crate::msg::codec;
use crate::msg::frame::{self, Encoding, MAX_FRAME_BYTES};
use crate::portal::Portal;

/// A hub in this actor, from which messages go to subscribers in any actor, by topic.
///
/// * A subscriber names the topics that it wants, and changes them as it goes: [`Topics::subscribe`].
/// * A message is encoded once, and sent once to each actor that has a subscriber of its topic, however many
///   it has.
/// * Publishing never waits. Each subscribing actor, and each subscriber in it, has a queue of its own. Who is
///   too slow loses the oldest messages, alone, and can tell how many ([`TopicStream::lost`]).
/// * A subscriber that is dropped, cancelled or killed is forgotten at once. One that comes late gets what
///   is published from then on.
///
/// An actor has as many hubs as it has names for. A hub is closed when its last clone is dropped, and its
/// subscribers then hear the end, behind what was published before.
///
/// # Examples
///
/// ```
/// use teamster::tasks::Topics;
/// use teamster::rpc;
///
/// #[rpc]
/// async fn follow(desk: teamster::Portal) -> teamster::Result<()> {
///     let mut news = Topics::<String>::subscribe(&desk, "news", ["sport", "weather"]).await?;
///     while let Some((topic, text)) = news.recv().await? {
///         println!("{topic}: {text}");
///         if text == "rain" {
///             news.unsubscribe(["sport"]);
///         }
///     }
///     Ok(()) // the hub was closed
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     teamster::open_nursery(async |an| {
///         let news = Topics::open("news")?;
///         let reader = an.run_in_actor(follow(teamster::this_actor()?));
///         while news.publish("weather", &"rain".to_owned())? == 0 {
///             tokio::task::yield_now().await; // nobody is there yet
///         }
///         drop(news);
///         Ok(reader.await?)
///     })
///     .await
/// }
/// ```
pub struct Topics<T> {
    open: Arc<Open>,
    _messages: PhantomData<fn(T)>,
}

/// Dropped with the last clone, it closes the hub.
struct Open {
    hub: Arc<Hub>,
    hubs: Arc<Hubs>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hubs.open.lock().remove(&self.hub.name);
        self.hub.close();
    }
}

/// Messages that are kept for who is slow, unless it was said.
const CAPACITY: usize = 1024;

/// Topics that one actor may want of one hub: more is a mistake, and would fill the publisher's memory.
pub(super) const MAX_TOPICS: usize = 100_000;
pub(super) const TOO_MANY: Error = Error::Usage("an actor may want 100,000 topics of one hub, and this is one more");

impl<T: Data + Clone> Topics<T> {
    /// Opens a hub of this name in this actor.
    ///
    /// Those who have subscribed already, and wait for it, begin.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if this actor has one of this name, or outside of every actor.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::Topics;
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<String>::open("news")?;
    /// assert!(Topics::<String>::open("news").is_err()); // one publisher
    /// # drop(news);
    /// # Ok(()) }).await }
    /// ```
    pub fn open(name: impl Into<String>) -> Result<Self, Error> {
        Self::open_with(name, CAPACITY)
    }

    /// The same, with the number of messages (one at least) that are kept for who is slow: for each subscribing
    /// actor here, and for each subscriber there. 1,024 unless said otherwise.
    ///
    /// # Errors
    ///
    /// As [`Topics::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::Topics;
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let prices = Topics::<f64>::open_with("prices", 1)?; // only the newest is kept
    /// let mut reader = Topics::<f64>::subscribe(&teamster::this_actor()?, "prices", ["oats"]).await?;
    /// for price in [1.0, 2.0, 3.0] {
    ///     prices.publish("oats", &price)?;
    /// }
    /// assert_eq!(reader.recv().await?, Some(("oats".into(), 3.0)));
    /// # Ok(()) }).await }
    /// ```
    pub fn open_with(name: impl Into<String>, capacity: usize) -> Result<Self, Error> {
        let hubs = current::actor()?.table::<Hubs>();
        let hub = Arc::new(Hub {
            name: name.into(),
            type_name: type_name::<T>(),
            capacity: capacity.max(1),
            state: Mutex::default(),
        });
        let mut open = hubs.open.lock();
        if open.get(&hub.name).is_some_and(|there| there.strong_count() > 0) {
            return Err(Error::Usage("this actor has a hub of this name already: its topics have one publisher"));
        }
        open.insert(hub.name.clone(), Arc::downgrade(&hub));
        drop(open);
        hubs.opened.notify_waiters();
        Ok(Topics { open: Arc::new(Open { hub, hubs }), _messages: PhantomData })
    }

    /// Sends a message to all who want this topic now: to how many actors it goes.
    ///
    /// It only queues the message, and never waits. What a subscriber does not take in time is dropped, the
    /// oldest first, for that one alone.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message can't be encoded, or is over the limit of a message: nobody gets it
    /// then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::Topics;
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// assert_eq!(news.publish("sport", &1)?, 1); // to one actor
    /// assert_eq!(news.publish("weather", &2)?, 0); // nobody wants that
    /// # reader.recv().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn publish(&self, topic: &str, message: &T) -> Result<usize, Error> {
        let hub = &self.open.hub;
        if !hub.is_wanted(topic) {
            return Ok(0); // not even encoded
        }
        let mut bytes = Vec::new();
        codec::encode_into(message, Encoding::Named, &mut bytes)
            .map_err(|failure| Error::Codec(CodecError::encoding(&hub.name, "the message", failure)))?;
        let limit = current::actor().map_or(MAX_FRAME_BYTES, |actor| actor.settings.max_frame_bytes);
        if !frame::fits(topic, bytes.len() + DELIVERY_BYTES, limit) {
            return Err(Error::Codec(CodecError::too_long(&hub.name, "the message", bytes.len(), limit)));
        }
        Ok(hub.publish(topic, &Bytes::from(bytes)))
    }

    /// Subscribes to topics of the hub `name` in another actor, or in this one.
    ///
    /// Resolves when the publisher knows of it: what it publishes after that arrives, as long as it is
    /// read in time. If there is no such hub yet, it waits for it; a [`deadline`](crate::deadline) around
    /// it sets a bound.
    ///
    /// All subscribers of this actor to one hub share one stream of messages. So a topic that another of them
    /// has already begins with what is on its way for that one.
    ///
    /// # Errors
    ///
    /// Those of [`Portal::run`]; [`Error::Remote`] if the hub's messages are of another type; [`Error::Usage`]
    /// for too many topics, or outside of every actor.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is not to subscribe.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::Topics;
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// news.publish("sport", &1)?;
    /// assert_eq!(reader.recv().await?, Some(("sport".into(), 1)));
    /// # Ok(()) }).await }
    /// ```
    pub async fn subscribe<S: Into<Arc<str>>>(
        portal: &Portal,
        name: &str,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<TopicStream<T>, Error> {
        TopicStream::begin(portal, name, topics.into_iter().map(Into::into).collect()).await
    }

    /// How many actors subscribe to something here.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::Topics;
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let news = Topics::<u32>::open("news")?;
    /// let mut reader = Topics::<u32>::subscribe(&teamster::this_actor()?, "news", ["sport"]).await?;
    /// assert_eq!(news.actors(), 1); // this one is its own subscriber
    /// # reader.unsubscribe(["sport"]);
    /// # Ok(()) }).await }
    /// ```
    pub fn actors(&self) -> usize {
        self.open.hub.state.lock().outboxes.len()
    }
}

impl<T> Clone for Topics<T> {
    fn clone(&self) -> Self {
        Topics { open: Arc::clone(&self.open), _messages: PhantomData }
    }
}

impl<T> fmt::Debug for Topics<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hub = &self.open.hub;
        f.debug_struct("Topics").field("name", &hub.name).field("actors", &hub.state.lock().outboxes.len()).finish()
    }
}

// ---- the hub

/// The hubs of one actor, by name.
#[derive(Default)]
struct Hubs {
    open: Mutex<HashMap<String, Weak<Hub>>>,
    opened: Notify,
}

impl Hubs {
    /// The hub of this name, once there is one.
    async fn find(&self, name: &str) -> Arc<Hub> {
        loop {
            let mut opened = pin!(self.opened.notified());
            opened.as_mut().enable(); // before the look: one that opens in between is not missed
            if let Some(hub) = self.open.lock().get(name).and_then(Weak::upgrade) {
                return hub;
            }
            opened.await;
        }
    }
}

/// What travels with a message besides its topic, in bytes, with room to spare.
const DELIVERY_BYTES: usize = 64;

struct Hub {
    name: String,
    type_name: &'static str,
    capacity: usize,
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    outboxes: HashMap<u64, Outbox>,
    next_id: u64,
    is_closed: bool,
}

/// What waits for one subscribing actor.
#[derive(Default)]
struct Outbox {
    topics: HashSet<Arc<str>>,
    queue: VecDeque<(Arc<str>, Bytes)>,
    /// Messages that were dropped, and that the actor has not been told of.
    lost: BTreeMap<Arc<str>, u64>,
    /// The last change of topics that was made, until the actor is told.
    known: Option<u64>,
    waker: Option<Waker>,
}

impl Hub {
    fn is_wanted(&self, topic: &str) -> bool {
        self.state.lock().outboxes.values().any(|outbox| outbox.topics.contains(topic))
    }

    fn publish(&self, topic: &str, message: &Bytes) -> usize {
        let mut state = self.state.lock();
        let mut woken = Vec::new();
        let mut actors = 0;
        for outbox in state.outboxes.values_mut() {
            let Some(topic) = outbox.topics.get(topic).cloned() else { continue };
            if outbox.queue.len() == self.capacity
                && let Some((topic, _)) = outbox.queue.pop_front()
            {
                *outbox.lost.entry(topic).or_default() += 1;
            }
            outbox.queue.push_back((topic, message.clone()));
            woken.extend(outbox.waker.take());
            actors += 1;
        }
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        actors
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let woken: Vec<Waker> = state.outboxes.values_mut().filter_map(|outbox| outbox.waker.take()).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn subscribe(self: &Arc<Self>, topics: Vec<Arc<str>>) -> Result<Subscribed, Error> {
        if topics.len() > MAX_TOPICS {
            return Err(TOO_MANY);
        }
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.outboxes.insert(id, Outbox { topics: topics.into_iter().collect(), ..Outbox::default() });
        Ok(Subscribed { hub: Arc::clone(self), id })
    }
}

/// A subscribing actor's place in the hub. Dropped, it is forgotten.
struct Subscribed {
    hub: Arc<Hub>,
    id: u64,
}

impl Subscribed {
    fn change(&self, change: Change) -> Result<(), Error> {
        let waker = self.with(|outbox| {
            for topic in change.remove {
                outbox.topics.remove(&topic);
                outbox.lost.remove(&topic);
            }
            outbox.topics.extend(change.add);
            outbox.known = Some(change.number);
            if outbox.topics.len() > MAX_TOPICS { Err(TOO_MANY) } else { Ok(outbox.waker.take()) }
        })?;
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// What to send next. `None`: the hub is closed, and everything was sent.
    fn poll_next(&self, cx: &TaskContext<'_>) -> Poll<Option<Delivery>> {
        let is_closed = self.hub.state.lock().is_closed;
        self.with(|outbox| {
            if let Some(change) = outbox.known.take() {
                return Poll::Ready(Some(Delivery::Known(change)));
            }
            if !outbox.lost.is_empty() {
                return Poll::Ready(Some(Delivery::Lost(std::mem::take(&mut outbox.lost).into_iter().collect())));
            }
            match outbox.queue.pop_front() {
                Some((topic, message)) => Poll::Ready(Some(Delivery::Message { topic, message })),
                None if is_closed => Poll::Ready(None),
                None => {
                    outbox.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Outbox) -> R) -> R {
        let mut state = self.hub.state.lock();
        act(state.outboxes.get_mut(&self.id).expect("it goes with this"))
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let gone = self.hub.state.lock().outboxes.remove(&self.id);
        drop(gone); // with nothing locked
    }
}

// ---- what travels

/// A subscribing actor wants other topics than before.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) number: u64,
    pub(super) add: Vec<Arc<str>>,
    pub(super) remove: Vec<Arc<str>>,
}

/// What a hub sends to a subscribing actor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Delivery {
    Message {
        topic: Arc<str>,
        message: Bytes,
    },
    /// So many messages of each topic were dropped since the last word about that.
    Lost(Vec<(Arc<str>, u64)>),
    /// The change of this number was made, and all before it.
    Known(u64),
}

/// A hub's messages are not what the subscriber takes them for.
#[derive(Debug, thiserror::Error)]
#[error("the messages of the hub {name:?} are {theirs}, not {wanted}")]
struct WrongType {
    name: String,
    theirs: &'static str,
    wanted: String,
}

/// Serves one subscribing actor. Its first word is how many messages each subscriber may keep waiting.
#[crate::context(name = "teamster.topics")]
pub(super) async fn serve_topics(
    ctx: Context<u64, Change, Delivery>,
    name: String,
    wanted: String,
    topics: Vec<Arc<str>>,
) -> crate::Result<()> {
    let hubs = current::actor()?.table::<Hubs>();
    let hub = hubs.find(&name).await;
    if hub.type_name != wanted {
        return Err(WrongType { name, theirs: hub.type_name, wanted })?;
    }
    let subscribed = hub.subscribe(topics)?;
    ctx.started(hub.capacity as u64).await?;
    let (mut sends, mut changes) = ctx.open_stream().await?.split();
    // Side by side: who waits for room must hear what is wanted no more.
    let changing = pin!(async {
        while let Some(change) = changes.recv().await? {
            subscribed.change(change)?;
        }
        Ok(())
    });
    let sending = pin!(async {
        while let Some(delivery) = poll_fn(|cx| subscribed.poll_next(cx)).await {
            sends.send(delivery).await?;
        }
        Ok(())
    });
    match select(changing, sending).await {
        Either::Left((end, _)) | Either::Right((end, _)) => end,
    }
}
