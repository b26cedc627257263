//! What is acquired, used and given back? Async contexts, and how one is written.
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::region::Ground;
use crate::actor::current::Place;
use crate::actor::scope::{Shield, canceller_here};
use crate::context::{ContextCall, ContextEndpoint, PortalContext};
use crate::error::{BoxError, Error};
use crate::msg::ident::{CancelRequest, Canceller};
use crate::nursery::ActorBuilder;
use crate::portal::Portal;

/// Something that is entered, gives a value, and is exited when nobody uses the value any more.
///
/// It is one async function from beginning to end, which stands still in the middle while the value is in
/// use: as Python's `@asynccontextmanager` has it. So a scope that takes a body
/// ([`open_nursery`](crate::open_nursery), say) becomes a context by waiting in that body, and what fails
/// meanwhile is heard of at once. [`context_fn`] makes one of a closure;
/// [`gather_contexts`](super::gather_contexts) enters several at once;
/// [`SharedContexts`](super::SharedContexts) shares one between tasks.
///
/// An [`ActorBuilder`] is one: a portal to an actor that is cancelled at the exit. So is a portal with a
/// call, `(Portal, ContextCall)`: a linked task in another actor, as in
/// [`Portal::open_context`](crate::Portal::open_context).
///
/// # Examples
///
/// ```
/// use teamster::tasks::{AsyncContext, Hold, gather_contexts};
/// use teamster::BoxError;
///
/// struct Connection(&'static str);
///
/// impl AsyncContext for Connection {
///     type Value = String;
///     async fn open(self, hold: Hold<String>) -> Result<(), BoxError> {
///         let session = format!("a session with {}", self.0); // entering: this may wait, and fail
///         hold.until_exit(session).await; // the body is over, well or not
///         println!("{} is let go", self.0); // exiting: this too
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let sessions = gather_contexts([Connection("a"), Connection("b")], async |sessions| Ok(sessions.len()));
/// assert_eq!(sessions.await?, 2);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something that can be entered and exited",
    note = "wrap a closure in `tasks::context_fn(async |hold| …)`, or implement `AsyncContext`"
)]
pub trait AsyncContext: Sized + Send {
    /// What its user gets.
    type Value: Send;

    /// Enters, waits in [`Hold::until_exit`], and exits.
    ///
    /// Until it waits there, a cancel drops it at its next await; from there on it runs to its end. An error
    /// that it returns before its exit was due cancels the body.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::BoxError;
    /// use teamster::tasks::{AsyncContext, Hold, gather_contexts};
    ///
    /// struct Two;
    ///
    /// impl AsyncContext for Two {
    ///     type Value = u32;
    ///     async fn open(self, hold: Hold<u32>) -> Result<(), BoxError> {
    ///         hold.until_exit(2).await;
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// assert_eq!(gather_contexts([Two], async |values| Ok(values)).await?, [2]);
    /// # Ok(()) }
    /// ```
    fn open(self, hold: Hold<Self::Value>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Hides its type, so that contexts of different kinds fit in one list.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::tasks::{AsyncContext, context_fn, gather_contexts};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let one = context_fn(async |hold| Ok(drop(hold.until_exit(1).await)));
    /// let two = context_fn(async |hold| Ok(drop(hold.until_exit(2).await)));
    /// let sum = gather_contexts([one.boxed(), two.boxed()], async |numbers| Ok(numbers.iter().sum::<i32>()));
    /// assert_eq!(sum.await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    fn boxed<'a>(self) -> BoxedContext<'a, Self::Value>
    where
        Self: 'a,
    {
        BoxedContext { open: Box::new(|hold| Box::pin(self.open(hold))) }
    }
}

/// Where a context hands over its value and waits for its exit.
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let two = context_fn(async |hold: Hold<u32>| {
///     hold.until_exit(2).await; // stands still here while the body runs
///     Ok(())
/// });
/// assert_eq!(gather_contexts([two], async |values| Ok(values[0])).await?, 2);
/// # Ok(()) }
/// ```
pub struct Hold<V> {
    value: oneshot::Sender<V>,
    exit: oneshot::Receiver<()>,
    entered: Arc<Entered>,
}

impl<V> Hold<V> {
    /// Gives the value to the body and waits until the body is over, and gone. What comes after this
    /// call is the exit.
    ///
    /// From here on no cancel from around drops the context: the exit runs to its end, as in a
    /// [`shield`](crate::shield). Code that waits for something that may never come looks at
    /// [`cancelled`](crate::cancelled) there. A scope that the context has opened itself, and waits in here,
    /// is cancelled like any other.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let two = context_fn(async |hold| {
    ///     println!("opened");
    ///     hold.until_exit(2).await;
    ///     println!("closed");
    ///     Ok(())
    /// });
    /// assert_eq!(gather_contexts([two], async |values| Ok(values[0])).await?, 2);
    /// # Ok(()) }
    /// ```
    pub async fn until_exit(self, value: V) -> Exit {
        self.entered.enter();
        let is_wanted = self.value.send(value).is_ok();
        match self.exit.await {
            Ok(()) if is_wanted => Exit::Done,
            _ => Exit::Cut(canceller_here().unwrap_or_else(|| Ground::here().canceller(CancelRequest::Failure))),
        }
    }
}

impl<V> fmt::Debug for Hold<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").finish_non_exhaustive()
    }
}

/// How the use of a context came to its end.
///
/// Most contexts exit in the same way for both. One that stands on a scope with a body passes the
/// difference on by `hold.until_exit(value).await.ok()?`.
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let file = context_fn(async |hold| {
///     match hold.until_exit("a file").await {
///         Exit::Done => println!("kept"),
///         Exit::Cut(canceller) => println!("thrown away, because of {canceller}"),
///     }
///     Ok(())
/// });
/// gather_contexts([file], async |_files| Ok(())).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The body ended well.
    Done,
    /// The body failed, or was cancelled by this one.
    Cut(Canceller),
}

impl Exit {
    /// The same as a result.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if the body did not end well. Who opened the context knows that already: as
    /// the context's own error it is not counted.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let nested = context_fn(async |hold| {
    ///     let opened = teamster::tasks::open_nursery(async |_tn| {
    ///         hold.until_exit("a nursery that stays open").await.ok()?;
    ///         Ok(())
    ///     });
    ///     Ok(opened.await?)
    /// });
    /// gather_contexts([nested], async |_| Ok(())).await?;
    /// # Ok(()) }
    /// ```
    pub fn ok(self) -> Result<(), Error> {
        match self {
            Exit::Done => Ok(()),
            Exit::Cut(canceller) => Err(Error::Cancelled { canceller }),
        }
    }
}

/// The other end of a [`Hold`]. Dropping it lets the context exit as one that was cut.
pub(super) struct Held<V> {
    value: oneshot::Receiver<V>,
    exit: oneshot::Sender<()>,
}

impl<V> Held<V> {
    /// The value, once it is given. `None`: the context has ended without one.
    pub(super) async fn value(&mut self) -> Option<V> {
        (&mut self.value).await.ok()
    }

    /// The body ended well: the context exits.
    pub(super) fn done(self) {
        // A context that does not wait any more has ended by itself.
        let _ = self.exit.send(());
    }
}

/// A context on its way: its future, and what its user holds.
pub(super) fn opened<C: AsyncContext>(
    context: C,
) -> (impl Future<Output = Result<(), BoxError>> + Send + use<C>, Held<C::Value>) {
    let (value, receiver) = oneshot::channel();
    let (sender, exit) = oneshot::channel();
    let entered = Arc::new(Entered::default());
    let run = async move {
        // Scopes that the context opens in itself are no part of this: what fails in them cuts it off.
        *entered.place.lock() = Some(Place::here());
        let left = Leave(Arc::clone(&entered));
        context.open(Hold { value, exit, entered }).await?;
        match left.leave() {
            true => Ok(()),
            false => Err(Error::Usage("a context ended without having given a value: `hold.until_exit(…)`").into()),
        }
    };
    (run, Held { value: receiver, exit: sender })
}

/// While a context is in use or exits, no cancel from around it drops it.
#[derive(Default)]
struct Entered {
    place: Mutex<Option<Place>>,
    shield: Mutex<Option<Shield>>,
}

impl Entered {
    fn enter(&self) {
        let place = self.place.lock().take();
        *self.shield.lock() = place.map(Shield::at);
    }
}

struct Leave(Arc<Entered>);

impl Leave {
    /// Whether it had been entered.
    fn leave(&self) -> bool {
        self.0.shield.lock().take().is_some()
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Makes a context of a closure.
///
/// # Examples
///
/// ```
/// use teamster::tasks::{context_fn, gather_contexts};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let folders = ["left", "right"].map(|name| {
///     context_fn(async move |hold| {
///         let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
///         tokio::fs::create_dir(&folder).await?;
///         hold.until_exit(folder.clone()).await;
///         tokio::fs::remove_dir_all(folder).await?;
///         Ok(())
///     })
/// });
/// let kept = gather_contexts(folders, async |folders| {
///     assert!(folders.iter().all(|folder| folder.is_dir()));
///     Ok(folders)
/// })
/// .await?;
/// assert!(kept.iter().all(|folder| !folder.exists()));
/// # Ok(())
/// # }
/// ```
pub fn context_fn<V, F, Fut>(open: F) -> FnContext<V, F>
where
    F: FnOnce(Hold<V>) -> Fut + Send,
    Fut: Future<Output = Result<(), BoxError>> + Send,
    V: Send,
{
    FnContext { open, value: PhantomData }
}

/// What [`context_fn`] returns.
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// let two = context_fn(async |hold| Ok(drop(hold.until_exit(2).await))); // an `FnContext`
/// assert_eq!(gather_contexts([two], async |values| Ok(values)).await?, [2]);
/// # Ok(()) }
/// ```
pub struct FnContext<V, F> {
    open: F,
    value: PhantomData<fn() -> V>,
}

impl<V, F, Fut> AsyncContext for FnContext<V, F>
where
    F: FnOnce(Hold<V>) -> Fut + Send,
    Fut: Future<Output = Result<(), BoxError>> + Send,
    V: Send,
{
    type Value = V;

    fn open(self, hold: Hold<V>) -> impl Future<Output = Result<(), BoxError>> + Send {
        (self.open)(hold)
    }
}

impl<V, F> fmt::Debug for FnContext<V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnContext").finish_non_exhaustive()
    }
}

/// A context whose type is hidden: see [`AsyncContext::boxed`].
///
/// # Examples
///
/// ```
/// # use teamster::tasks::{Exit, Hold, context_fn, gather_contexts};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// use teamster::tasks::{AsyncContext, BoxedContext};
///
/// let mut all: Vec<BoxedContext<'_, u32>> = Vec::new();
/// all.push(context_fn(async |hold| Ok(drop(hold.until_exit(1).await))).boxed());
/// all.push(context_fn(async |hold| Ok(drop(hold.until_exit(2).await))).boxed());
/// assert_eq!(gather_contexts(all, async |values| Ok(values)).await?, [1, 2]);
/// # Ok(()) }
/// ```
pub struct BoxedContext<'a, V> {
    open: Box<dyn Open<'a, V> + 'a>,
}

/// A context's `open`, its type hidden.
trait Open<'a, V>: FnOnce(Hold<V>) -> BoxFuture<'a, Result<(), BoxError>> + Send {}

impl<'a, V, F: FnOnce(Hold<V>) -> BoxFuture<'a, Result<(), BoxError>> + Send> Open<'a, V> for F {}

impl<V: Send> AsyncContext for BoxedContext<'_, V> {
    type Value = V;

    fn open(self, hold: Hold<V>) -> impl Future<Output = Result<(), BoxError>> + Send {
        (self.open)(hold)
    }
}

impl<V> fmt::Debug for BoxedContext<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedContext").finish_non_exhaustive()
    }
}

/// A service actor, for as long as it is used: cancelled and reaped at the exit.
impl AsyncContext for ActorBuilder<'_> {
    type Value = Portal;

    async fn open(self, hold: Hold<Portal>) -> Result<(), BoxError> {
        let portal = self.start().await?;
        hold.until_exit(portal.clone()).await;
        portal.cancel_actor().await?;
        Ok(())
    }
}

/// A linked task in another actor, for as long as it is used: its end is waited for at the exit, and if the
/// use was cut off it is cancelled. If it fails, that cuts off the use.
impl<E: ContextEndpoint> AsyncContext for (Portal, ContextCall<E>) {
    type Value = PortalContext<E>;

    async fn open(self, hold: Hold<PortalContext<E>>) -> Result<(), BoxError> {
        let (portal, call) = self;
        let used = portal.open_context(call, async |ctx, _first| {
            hold.until_exit(ctx.clone()).await.ok()?;
            Ok(())
        });
        Ok(used.await?)
    }
}
