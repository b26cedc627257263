//! How do tasks share what is expensive to open? Opened by its first user, closed by its last.
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::ops::Deref;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Weak};
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::context::{AsyncContext, Held, opened};
use super::region::{Ground, Region};
use crate::actor::scope::{End, Shield, end_if_cancelled};
use crate::error::{BoxError, Error, Group};
use crate::msg::ident::CancelRequest;
use crate::nursery::is_consequence;

/// Contexts that are shared by the tasks of this process, each under a key.
///
/// Whoever asks for a key first opens its context, the others share its value, and the last one to leave
/// closes it. So a connection, an actor or a stream is there exactly as long as somebody uses it. Usually
/// a table is a `static`.
///
/// * Tasks that ask while it is being opened wait. If the one that opens is cancelled, or panics, one of
///   them opens with the context that it has brought itself. If opening fails, its error goes to all of
///   them; who asks later tries anew.
/// * The last one to leave waits until it is really closed. Whoever asks meanwhile waits behind that and
///   opens anew.
/// * No user's cancel disturbs another, wherever it comes.
///
/// A shared context belongs to none of its users: it runs in no scope of theirs, under none of their
/// deadlines, and is polled by whoever uses it.
///
/// # Examples
///
/// ```
/// use teamster::tasks::{SharedContexts, context_fn, open_nursery};
///
/// static FEEDS: SharedContexts<&str, String> = SharedContexts::new();
///
/// async fn read(symbol: &'static str) -> Result<String, teamster::Error> {
///     let feed = context_fn(async move |hold| {
///         println!("opened once: {symbol}");
///         hold.until_exit(format!("the feed of {symbol}")).await;
///         println!("closed once: {symbol}");
///         Ok(())
///     });
///     FEEDS.maybe_open_context(symbol, feed, async |feed| Ok(feed.to_uppercase())).await
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// open_nursery(async |tn| {
///     let (one, two) = (tn.start_soon(async { Ok(read("xmr").await?) }), tn.spawn(async { Ok(read("xmr").await?) }));
///     assert_eq!(one.await?, two.await?);
///     Ok(())
/// })
/// .await
/// # }
/// ```
pub struct SharedContexts<K, V> {
    table: LazyLock<Arc<Table<K, V>>>,
}

impl<K, V> SharedContexts<K, V> {
    /// A table with nothing in it.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::tasks::SharedContexts;
    ///
    /// static LINES: SharedContexts<String, u32> = SharedContexts::new();
    /// ```
    pub const fn new() -> Self {
        SharedContexts { table: LazyLock::new(|| Arc::new(Table { slots: Mutex::new(HashMap::new()) })) }
    }
}

impl<K, V> SharedContexts<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Runs `body` with the value under `key`; `context` is opened if nobody has it open.
    ///
    /// A failure of the context while it is in use cuts off `body`. A cancel from around does so too; if
    /// this was the last user, the closing is waited for all the same, as in a [`shield`](crate::shield).
    ///
    /// # Errors
    ///
    /// What failed: opening, `body`, or, for the last user, closing; [`Error::Group`] for the last two
    /// together. [`Error::Cancelled`] if it was cancelled before `body` had a value.
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when the context is closed, if this was its last user. A panic of the
    /// context goes on in whoever opened it, or in one of those who use it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it is leaving. If that leaves nobody, the context closes on its own: the end of the scope
    /// around waits for it, else a task of the runtime sees to it. Its error is logged then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{Lease, SharedContexts, context_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let files = SharedContexts::new();
    /// let open = || context_fn(async |hold| Ok(drop(hold.until_exit(String::from("a file")).await)));
    /// let both = tokio::join!(
    ///     files.maybe_open_context("log", open(), async |file| Ok(file.len())), // this one opens
    ///     files.maybe_open_context("log", open(), async |file| Ok(file.len())),
    /// );
    /// assert_eq!((both.0?, both.1?), (6, 6));
    /// # Ok(()) }
    /// ```
    pub async fn maybe_open_context<C, T, F, B>(&self, key: K, context: C, body: F) -> Result<T, Error>
    where
        C: AsyncContext<Value = V> + 'static,
        F: FnOnce(Arc<V>) -> B,
        B: Future<Output = Result<T, BoxError>>,
    {
        let mut lease = self.lease(key, context).await?;
        let value = lease.value.clone();
        let ground = Ground::here();
        let scope = ground.scope("shared context");
        ground.pass_cancels_to(&scope);
        let shield = Shield::enter(); // the scopes around wait for the closing
        let mut broken = None;
        let end = {
            let mut in_use = lease.end.clone();
            let body = async move { body(value.expect("it has not left yet")).await };
            let mut region = Region::new(&ground, Arc::clone(&scope), Box::pin(body));
            loop {
                tokio::select! {
                    biased; // the body's value counts, if it has one
                    end = &mut region => break end,
                    Err(error) = &mut in_use, if broken.is_none() => {
                        broken = Some(error);
                        scope.cancel(&ground.canceller(CancelRequest::Failure));
                    }
                }
            }
        };
        let closed = lease.leave().await;
        drop(shield);
        let broken = broken.map(Broken::into_error);
        let mut cut = None;
        let (value, failed) = match end {
            End::Value(Ok(value)) => (Some(value), None),
            End::Value(Err(error)) => (None, Some(Error::from_body(error))),
            End::Cancelled(canceller) => (None, Some(Error::Cancelled { canceller })),
            End::Panicked(panic) => {
                if let Some(Broken::Error(error)) = closed.err() {
                    tracing::error!(%error, "a shared context failed in closing, after a panic of its last user");
                }
                resume_unwind(panic);
            }
        };
        let failed = failed.and_then(|error| match scope.is_cancelled() && is_consequence(&error) {
            true => {
                cut = Some(error);
                None
            }
            false => Some(error),
        });
        let failures = broken.into_iter().chain(failed).chain(closed.err().map(Broken::into_error));
        if let Some(error) = Group::collect(failures) {
            return Err(error);
        }
        match (value, cut) {
            (Some(value), _) => Ok(value),
            (None, cut) => {
                end_if_cancelled().await; // it is the cancel of what is around, and goes on there
                Err(cut.expect("a body without a value has failed"))
            }
        }
    }

    /// The value under `key`, to be kept as long as one likes; `context` is opened if nobody has it open.
    ///
    /// A lease is only held: unlike [`SharedContexts::maybe_open_context`] it does not drive the context,
    /// and hears of a failure in use when it leaves.
    ///
    /// # Errors
    ///
    /// What failed in opening.
    ///
    /// # Panics
    ///
    /// A panic of the context in opening goes on in whoever opened it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses the place among those who wait. An opening of its own is dropped where it
    /// is, and one of the others opens.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::tasks::{SharedContexts, context_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let files = SharedContexts::new();
    /// let open = || context_fn(async |hold| Ok(drop(hold.until_exit(String::from("a file")).await)));
    /// let first = files.lease("log", open()).await?;
    /// let second = files.lease("log", open()).await?;
    /// assert_eq!((first.len(), first.was_open(), second.was_open()), (6, false, true));
    /// first.close().await?; // not the last
    /// second.close().await
    /// # }
    /// ```
    pub async fn lease<C>(&self, key: K, context: C) -> Result<Lease<K, V>, Error>
    where
        C: AsyncContext<Value = V> + 'static,
    {
        let seat = self.seat(key).await;
        match seat.slot.claimed().await {
            Claim::Open(value, end) => Ok(Lease { value: Some(value), seat: Some(seat), end, was_open: true }),
            Claim::Failed(error) => Err(error),
            Claim::Mine => Opening::new(seat, context).run().await,
        }
    }

    /// A place among the users of `key`, behind a closing if there is one.
    async fn seat(&self, key: K) -> Seat<K, V> {
        loop {
            match self.table.join(&key) {
                Ok(slot) => return Seat { table: Arc::clone(&self.table), key, slot, has_left: false },
                // Whoever left it hears how that went.
                Err(closing) => drop(closing.await),
            }
        }
    }
}

impl<K, V> Default for SharedContexts<K, V> {
    fn default() -> Self {
        SharedContexts::new()
    }
}

impl<K, V> fmt::Debug for SharedContexts<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedContexts").field("open", &self.table.slots.lock().len()).finish()
    }
}

/// A value of a [`SharedContexts`], in use: see [`SharedContexts::lease`].
///
/// # Cancel safety
///
/// Dropping it is leaving; see [`SharedContexts::maybe_open_context`] for what becomes of the context if
/// that leaves nobody.
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{Lease, SharedContexts, context_fn};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let files = SharedContexts::new();
/// let open = || context_fn(async |hold| Ok(drop(hold.until_exit(String::from("a file")).await)));
/// let file: Lease<&str, String> = files.lease("log", open()).await?;
/// assert_eq!(file.len(), 6); // it is the value, by `Deref`
/// file.close().await?;
/// # Ok(()) }
/// ```
#[must_use = "it is closed when nobody uses it: dropped at once, it may be opened for nothing"]
pub struct Lease<K: Eq + Hash, V> {
    value: Option<Arc<V>>,
    seat: Option<Seat<K, V>>,
    end: Ended,
    was_open: bool,
}

impl<K: Eq + Hash, V> Lease<K, V> {
    /// Whether somebody else had opened it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{Lease, SharedContexts, context_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let files = SharedContexts::new();
    /// let open = || context_fn(async |hold| Ok(drop(hold.until_exit(String::from("a file")).await)));
    /// let (first, second) = (files.lease("log", open()).await?, files.lease("log", open()).await?);
    /// assert!(!first.was_open() && second.was_open());
    /// # first.close().await?;
    /// # second.close().await?;
    /// # Ok(()) }
    /// ```
    pub fn was_open(&self) -> bool {
        self.was_open
    }

    /// Leaves. The last one to leave waits until it is closed.
    ///
    /// # Errors
    ///
    /// What failed in closing, for the last one; what the context had failed with in use, for everybody.
    ///
    /// # Panics
    ///
    /// A panic of the context goes on in one of those who hear of it.
    ///
    /// # Cancel safety
    ///
    /// It has left on the first poll. Dropping the future leaves the closing to what is around.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{Lease, SharedContexts, context_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let files = SharedContexts::new();
    /// let open = || context_fn(async |hold| Ok(drop(hold.until_exit(String::from("a file")).await)));
    /// let file = files.lease("log", open()).await?;
    /// file.close().await?; // nobody else has it: it is closed
    /// # Ok(()) }
    /// ```
    pub async fn close(mut self) -> Result<(), Error> {
        self.leave().await.map_err(Broken::into_error)
    }

    async fn leave(&mut self) -> Result<(), Broken> {
        self.value = None;
        let Some(mut seat) = self.seat.take() else { return Ok(()) };
        match seat.leave() {
            Some(closing) => closing.await,
            None => self.end.peek().cloned().unwrap_or(Ok(())),
        }
    }
}

impl<K: Eq + Hash, V> Deref for Lease<K, V> {
    type Target = V;
    fn deref(&self) -> &V {
        self.value.as_ref().expect("only `leave` takes it, and nobody has the lease after that")
    }
}

impl<K: Eq + Hash, V: fmt::Debug> fmt::Debug for Lease<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("value", &self.value).field("was_open", &self.was_open).finish()
    }
}

// ---- the table

struct Table<K, V> {
    slots: Mutex<HashMap<K, Arc<Slot<V>>>>,
}

/// One opening of one key, from its first user to the end of its closing.
struct Slot<V> {
    /// Locked after the table, if both are.
    state: Mutex<State<V>>,
    changed: Notify,
}

struct State<V> {
    /// Those who wait for its opening are users too: it can't close before they had their turn.
    users: usize,
    phase: Phase<V>,
}

enum Phase<V> {
    /// Whoever looks next opens it.
    Vacant,
    Opening,
    Open {
        value: Arc<V>,
        held: Held<V>,
        end: Ended,
    },
    Closing(Ended),
    /// It could not be opened.
    Failed(Error),
}

/// The rest of a context, driven by whoever waits for it.
type Ended = Shared<BoxFuture<'static, Result<(), Broken>>>;

/// What a context failed with.
#[derive(Clone)]
enum Broken {
    Error(Error),
    Panic(Arc<Mutex<Option<Box<dyn std::any::Any + Send>>>>),
}

impl Broken {
    /// A panic goes on in the first who asks.
    fn into_error(self) -> Error {
        match self {
            Broken::Error(error) => error,
            Broken::Panic(panic) => {
                let panic = panic.lock().take();
                if let Some(panic) = panic {
                    resume_unwind(panic);
                }
                Error::Usage("a shared context has panicked: that went on in another of its users")
            }
        }
    }
}

impl<K: Eq + Hash + Clone, V> Table<K, V> {
    /// One more user of this key, or a closing to wait for first.
    fn join(&self, key: &K) -> Result<Arc<Slot<V>>, Ended> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(key) {
            let mut state = slot.state.lock();
            match &state.phase {
                Phase::Closing(end) if end.peek().is_none() => return Err(end.clone()),
                Phase::Vacant | Phase::Opening => {
                    state.users += 1;
                    return Ok(Arc::clone(slot));
                }
                Phase::Open { end, .. } if end.peek().is_none() => {
                    state.users += 1;
                    return Ok(Arc::clone(slot));
                }
                Phase::Open { .. } | Phase::Closing(_) | Phase::Failed(_) => {} // it is over
            }
        }
        let state = Mutex::new(State { users: 1, phase: Phase::Vacant });
        let slot = Arc::new(Slot { state, changed: Notify::new() });
        slots.insert(key.clone(), Arc::clone(&slot));
        Ok(slot)
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// Forgets this slot, unless another has taken its place.
    fn remove(&self, key: &K, slot: *const Slot<V>) {
        let mut slots = self.slots.lock();
        if slots.get(key).is_some_and(|there| Arc::as_ptr(there) == slot) {
            slots.remove(key);
        }
    }
}

/// What somebody who waits for an opening finds.
enum Claim<V> {
    Open(Arc<V>, Ended),
    Failed(Error),
    /// It is to be opened by the one who asks.
    Mine,
}

impl<V> Slot<V> {
    async fn claimed(&self) -> Claim<V> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable(); // before the look: a change in between is not missed
            if let Some(claim) = self.try_claim() {
                return claim;
            }
            changed.await;
        }
    }

    fn try_claim(&self) -> Option<Claim<V>> {
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Vacant => {
                state.phase = Phase::Opening;
                Some(Claim::Mine)
            }
            Phase::Open { value, end, .. } => Some(Claim::Open(Arc::clone(value), end.clone())),
            Phase::Failed(error) => Some(Claim::Failed(error.clone())),
            Phase::Opening | Phase::Closing(_) => None,
        }
    }

    fn set(&self, phase: Phase<V>) {
        self.state.lock().phase = phase;
        self.changed.notify_waiters();
    }
}

/// One user's place. Dropping it is leaving.
struct Seat<K: Eq + Hash, V> {
    table: Arc<Table<K, V>>,
    key: K,
    slot: Arc<Slot<V>>,
    has_left: bool,
}

impl<K: Eq + Hash, V> Seat<K, V> {
    /// The closing, if it is the last one who leaves.
    fn leave(&mut self) -> Option<Closing> {
        if std::mem::replace(&mut self.has_left, true) {
            return None;
        }
        let mut slots = self.table.slots.lock(); // nobody joins between the look and what follows from it
        let mut state = self.slot.state.lock();
        state.users -= 1;
        if state.users > 0 {
            return None;
        }
        match std::mem::replace(&mut state.phase, Phase::Vacant) {
            Phase::Open { value, held, end } => {
                state.phase = Phase::Closing(end.clone());
                drop(state);
                drop(slots);
                drop(value);
                held.done();
                Some(Closing(Some(end)))
            }
            Phase::Vacant | Phase::Opening | Phase::Closing(_) | Phase::Failed(_) => {
                if slots.get(&self.key).is_some_and(|there| Arc::ptr_eq(there, &self.slot)) {
                    slots.remove(&self.key);
                }
                None
            }
        }
    }
}

impl<K: Eq + Hash, V> Drop for Seat<K, V> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A closing that is waited for. Dropped before its end, it is left to what is around.
struct Closing(Option<Ended>);

impl Future for Closing {
    type Output = Result<(), Broken>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(end) = &mut self.0 else { return Poll::Pending };
        let closed = ready!(end.poll_unpin(cx));
        self.0 = None;
        Poll::Ready(closed)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(end) = self.0.take() else { return };
        let rest = end.map(|closed| match closed {
            Ok(()) => {}
            Err(Broken::Error(error)) => tracing::error!(%error, "a shared context failed in closing: nobody was left"),
            Err(Broken::Panic(_)) => tracing::error!("a shared context panicked in closing: nobody was left"),
        });
        Ground::here().see_to(Box::pin(rest));
    }
}

/// A context that is being opened. Dropped before its end, it lets one of those who wait do it.
struct Opening<K: Eq + Hash, V> {
    seat: Option<Seat<K, V>>,
    run: Option<BoxFuture<'static, End<Result<(), BoxError>>>>,
    held: Option<Held<V>>,
}

impl<K, V> Opening<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn new<C: AsyncContext<Value = V> + 'static>(seat: Seat<K, V>, context: C) -> Self {
        let (run, held) = opened(context);
        let ground = Ground::here().apart();
        let scope = ground.scope("shared context");
        let run = Region::new(&ground, scope, Box::pin(run));
        Opening { seat: Some(seat), run: Some(Box::pin(run)), held: Some(held) }
    }

    async fn run(mut self) -> Result<Lease<K, V>, Error> {
        let (Some(run), Some(held)) = (&mut self.run, &mut self.held) else { unreachable!("they are taken below") };
        let opened = tokio::select! {
            biased; // one that has ended has no value to give
            end = run => Err(end),
            Some(value) = held.value() => Ok(Arc::new(value)),
        };
        match opened {
            Ok(value) => {
                let (Some(seat), Some(run), Some(held)) = (self.seat.take(), self.run.take(), self.held.take()) else {
                    unreachable!("they are taken once")
                };
                let end = rest(run, &seat);
                seat.slot.set(Phase::Open { value: Arc::clone(&value), held, end: end.clone() });
                Ok(Lease { value: Some(value), seat: Some(seat), end, was_open: false })
            }
            Err(end) => {
                self.run = None;
                let error = match end {
                    End::Value(Ok(())) => {
                        Error::Usage("a context ended while it was to be shared: `hold.until_exit(…)`")
                    }
                    End::Value(Err(error)) => Error::from_body(error),
                    End::Cancelled(canceller) => Error::Cancelled { canceller },
                    End::Panicked(panic) => resume_unwind(panic),
                };
                if let Some(seat) = self.seat.take() {
                    seat.slot.set(Phase::Failed(error.clone()));
                }
                Err(error)
            }
        }
    }
}

impl<K: Eq + Hash, V> Drop for Opening<K, V> {
    fn drop(&mut self) {
        self.run = None; // gone before another begins
        if let Some(seat) = self.seat.take() {
            seat.slot.set(Phase::Vacant);
        }
    }
}

/// What is left of a context that is open: its use and its exit.
fn rest<K, V>(run: BoxFuture<'static, End<Result<(), BoxError>>>, seat: &Seat<K, V>) -> Ended
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    // Weak: the table holds the slot, and the slot this.
    let (table, key, slot) = (Arc::downgrade(&seat.table), seat.key.clone(), Arc::downgrade(&seat.slot));
    let rest = async move {
        let end = run.await;
        if let Some(table) = table.upgrade() {
            table.remove(&key, Weak::as_ptr(&slot));
        }
        match end {
            End::Value(Ok(())) => Ok(()),
            End::Value(Err(error)) => Err(Broken::Error(Error::from_body(error))),
            End::Cancelled(canceller) => Err(Broken::Error(Error::Cancelled { canceller })),
            End::Panicked(panic) => Err(Broken::Panic(Arc::new(Mutex::new(Some(panic))))),
        }
    };
    rest.boxed().shared()
}

#[cfg(test)]
mod tests;
