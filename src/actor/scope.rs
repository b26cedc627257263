//! How far does a cancel reach? Scopes, shields, and what is left to do after a drop.
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::clock::{self, Clock};
use super::context::ContextCore;
use super::crash::{Answer, CallInfo};
use super::current::{self, Current, Place, with_current};
use super::traces::{Origin, beneath};
use crate::error::Error;
use crate::msg::ident::Canceller;

/// What ends with a scope: a nursery, whose children are told at once, by whatever thread cancels.
pub(crate) trait Below: Send + Sync {
    fn cancel(&self, canceller: &Canceller);
}

/// One region of code that is cancelled as a whole: a dialog's task, a nursery's body.
///
/// Cancelling only sets a flag, tells what is below, and wakes: any thread may do it at any time.
pub(crate) struct Scope {
    /// What runs in it, for reports.
    pub(crate) label: &'static str,
    parent: Option<Arc<Scope>>,
    is_cancelled: AtomicBool,
    state: Mutex<State>,
    /// Of a call that an armed actor serves.
    call: OnceLock<Box<CallInfo>>,
    /// What a tool of a higher floor offers to the code in it.
    offer: OnceLock<Weak<dyn Any + Send + Sync>>,
}

#[derive(Default)]
struct State {
    canceller: Option<Canceller>,
    /// Shields that are entered and not left: while there are any, nothing is dropped.
    shields: usize,
    task: Option<Waker>,
    watchers: Vec<Waker>,
    below: Vec<Weak<dyn Below>>,
    deferred: Deferred,
    /// What the one at the prompt has said of a failure on its way out.
    answer: Option<Answer>,
}

/// What the end of a scope waits for.
#[derive(Default)]
pub(crate) struct Deferred {
    /// The user's, within the grace.
    clean_ups: Vec<CleanUp>,
    /// Nurseries that were dropped. They end by themselves: their actors have graces of their own.
    nurseries: Vec<BoxFuture<'static, ()>>,
    /// Contexts that were dropped, some of which may have ended since: within the grace too.
    contexts: Vec<Arc<ContextCore>>,
}

/// What is to be waited for, and whether there is no need to any more.
struct CleanUp {
    future: BoxFuture<'static, ()>,
    is_over: Option<Box<dyn Fn() -> bool + Send>>,
}

impl CleanUp {
    fn is_over(&self) -> bool {
        self.is_over.as_ref().is_some_and(|is_over| is_over())
    }
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.clean_ups.is_empty() && self.nurseries.is_empty() && self.contexts.is_empty()
    }
}

impl Scope {
    pub(crate) fn new(label: &'static str, parent: Option<Arc<Scope>>) -> Arc<Self> {
        Arc::new(Scope {
            label,
            parent,
            is_cancelled: AtomicBool::new(false),
            state: Mutex::default(),
            call: OnceLock::new(),
            offer: OnceLock::new(),
        })
    }

    /// The first request counts.
    pub(crate) fn cancel(&self, canceller: &Canceller) {
        let mut state = self.state.lock();
        if state.canceller.is_some() {
            return;
        }
        state.canceller = Some(canceller.clone());
        self.is_cancelled.store(true, Ordering::Release);
        let below = std::mem::take(&mut state.below);
        let wakers: Vec<Waker> = state.task.take().into_iter().chain(state.watchers.drain(..)).collect();
        drop(state);
        for below in below.iter().filter_map(Weak::upgrade) {
            below.cancel(canceller);
        }
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn canceller(&self) -> Option<Canceller> {
        self.state.lock().canceller.clone()
    }

    /// Whether it is time to drop what runs here, and on whose behalf.
    fn must_drop(&self) -> Option<Canceller> {
        if !self.is_cancelled() {
            return None;
        }
        let state = self.state.lock();
        if state.shields > 0 { None } else { state.canceller.clone() }
    }

    /// Whether code that runs in it now stands in a shield. One that is around the scope itself is
    /// none of its own: only from out there are cancels held up by it.
    pub(crate) fn is_shielded(&self) -> bool {
        self.state.lock().shields > 0
    }

    /// Whether it is `outer`, or lies in it.
    pub(crate) fn is_within(self: &Arc<Self>, outer: &Arc<Scope>) -> bool {
        self.chain().any(|scope| Arc::ptr_eq(scope, outer))
    }

    fn register(&self, waker: &Waker) {
        let mut state = self.state.lock();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            state.task = Some(waker.clone());
        }
    }

    /// Whether it is cancelled. If not, `waker` is woken when it is.
    fn watch(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.canceller.is_none() && !state.watchers.iter().any(|watcher| watcher.will_wake(waker)) {
            let waker = waker.clone(); // it may wake one that is known, and only note that it was taken
            if !state.watchers.iter().any(|watcher| watcher.will_wake(&waker)) {
                state.watchers.push(waker);
            }
        }
        state.canceller.is_some()
    }

    /// `below` ends with this scope: at once, if that is over already.
    pub(crate) fn add_below(&self, below: &Weak<dyn Below>) {
        let mut state = self.state.lock();
        if let Some(canceller) = state.canceller.clone() {
            drop(state);
            if let Some(below) = below.upgrade() {
                below.cancel(&canceller);
            }
            return;
        }
        state.below.retain(|other| other.strong_count() > 0);
        state.below.push(Weak::clone(below));
    }

    /// The scope's end waits for this. Those that are over by themselves make room for the next.
    fn defer(&self, clean_up: CleanUp) {
        let mut ended = Vec::new(); // what they hold is dropped without the lock
        let mut state = self.state.lock();
        let clean_ups = &mut state.deferred.clean_ups;
        if clean_ups.len() == clean_ups.capacity() {
            let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(clean_ups).into_iter().partition(CleanUp::is_over);
            *clean_ups = left;
            clean_ups.reserve(clean_ups.len().max(FEW_CLEAN_UPS));
            ended = gone;
        }
        clean_ups.push(clean_up);
        drop(state);
        drop(ended);
    }

    /// The scope's end waits for this end of a nursery.
    pub(crate) fn leave_nursery(&self, future: BoxFuture<'static, ()>) {
        self.state.lock().deferred.nurseries.push(future);
    }

    /// The scope's end waits for the end of this context's callee.
    ///
    /// A long-lived task may drop any number of them: those that have ended make room for the next.
    pub(crate) fn leave_context(&self, core: Arc<ContextCore>) {
        let mut ended = Vec::new(); // what they hold is dropped without the lock
        let mut state = self.state.lock();
        let contexts = &mut state.deferred.contexts;
        if contexts.len() == contexts.capacity() {
            let (gone, left): (Vec<_>, Vec<_>) =
                std::mem::take(contexts).into_iter().partition(|core| core.link.end().is_some());
            *contexts = left;
            contexts.reserve(contexts.len().max(FEW_CONTEXTS));
            ended = gone;
        }
        contexts.push(core);
        drop(state);
        drop(ended);
    }

    /// What a scope inside of this one has left behind.
    pub(crate) fn inherit(&self, deferred: Deferred) {
        let Deferred { clean_ups, nurseries, contexts } = deferred;
        let mut state = self.state.lock();
        state.deferred.clean_ups.extend(clean_ups);
        state.deferred.nurseries.extend(nurseries);
        state.deferred.contexts.extend(contexts);
    }

    pub(crate) fn has_deferred(&self) -> bool {
        !self.state.lock().deferred.is_empty()
    }

    pub(crate) fn take_deferred(&self) -> Deferred {
        std::mem::take(&mut self.state.lock().deferred)
    }

    pub(crate) fn set_call(&self, call: CallInfo) {
        // A scope serves one call.
        let _ = self.call.set(Box::new(call));
    }

    pub(crate) fn call(&self) -> Option<&CallInfo> {
        self.call.get().map(|call| &**call)
    }

    /// Offers this to the code in it, for as long as somebody else holds it. Once for each scope.
    pub(crate) fn offer(&self, offer: Weak<dyn Any + Send + Sync>) {
        let is_first = self.offer.set(offer).is_ok();
        debug_assert!(is_first, "a scope has one tool's offer");
    }

    /// The nearest offer of this type to code in this scope.
    pub(crate) fn offered<T: Send + Sync + 'static>(self: &Arc<Self>) -> Option<Arc<T>> {
        self.chain().find_map(|scope| scope.offer.get()?.upgrade()?.downcast().ok())
    }

    pub(crate) fn set_answer(&self, answer: Answer) {
        self.state.lock().answer = Some(answer);
    }

    pub(crate) fn take_answer(&self) -> Option<Answer> {
        self.state.lock().answer.take()
    }

    /// This scope and those around it in the same task.
    pub(crate) fn chain(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Scope>> {
        std::iter::successors(Some(self), |scope| scope.parent.as_ref())
    }
}

/// Clean-ups that are kept before the first look at which of them are over.
const FEW_CLEAN_UPS: usize = 16;
/// The same of dropped contexts.
const FEW_CONTEXTS: usize = 16;

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("label", &self.label).field("canceller", &self.canceller()).finish()
    }
}

impl Below for Scope {
    fn cancel(&self, canceller: &Canceller) {
        Scope::cancel(self, canceller);
    }
}

/// How code that ran in a scope came to its end.
pub(crate) enum End<T> {
    Value(T),
    Cancelled(Canceller),
    Panicked(Box<dyn std::any::Any + Send>),
}

/// Code that runs in a scope: dropped, at its place, when the scope is cancelled.
pub(crate) struct Scoped<F: Future + ?Sized> {
    place: Place,
    scope: Arc<Scope>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future + ?Sized> Scoped<F> {
    /// `place.scope` is the scope.
    pub(crate) fn new(place: Current, future: Pin<Box<F>>) -> Self {
        Scoped { scope: Arc::clone(&place.scope), place: Place::of(place), future: Some(future) }
    }

    /// The same where there may be no actor: `scope` is the innermost of `place`.
    pub(crate) fn at(place: Place, scope: Arc<Scope>, future: Pin<Box<F>>) -> Self {
        Scoped { scope, place, future: Some(future) }
    }

    /// Calls made in it from now on end at this time.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.place.set_deadline(deadline);
    }

    /// A first poll that leaves no waker behind for cancels: for code that may be done at once.
    pub(crate) fn poll_inline(&mut self, cx: &mut Context<'_>) -> Poll<End<F::Output>> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let place = &mut self.place;
        match catch_unwind(AssertUnwindSafe(|| place.within(|| future.as_mut().poll(cx)))) {
            Ok(Poll::Pending) => match self.scope.must_drop() {
                None => Poll::Pending,
                Some(canceller) => Poll::Ready(self.cut_off(canceller)),
            },
            Ok(Poll::Ready(value)) => {
                self.clear();
                Poll::Ready(End::Value(value))
            }
            Err(panic) => {
                super::crash::caught();
                self.clear();
                Poll::Ready(End::Panicked(panic))
            }
        }
    }

    fn cut_off(&mut self, canceller: Canceller) -> End<F::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.clear())) {
            Ok(()) => End::Cancelled(canceller),
            Err(panic) => End::Panicked(panic),
        }
    }

    pub(crate) fn clear(&mut self) {
        let future = self.future.take();
        if future.is_some() {
            self.place.within(|| drop(future));
        }
    }
}

impl<F: Future + ?Sized> Future for Scoped<F> {
    type Output = End<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.scope.register(beneath(cx.waker())); // before the look at the flag: a cancel in between wakes us
        if let Some(canceller) = self.scope.must_drop() {
            return Poll::Ready(self.cut_off(canceller));
        }
        self.poll_inline(cx)
    }
}

impl<F: Future + ?Sized> Drop for Scoped<F> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether this code has been asked to end: for loops that do not await.
///
/// True as soon as the request has arrived, also while the actor's runtime is stuck in such a
/// loop. Outside of every actor it is false.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc]
/// async fn crunch() -> u64 {
///     let mut n = 0;
///     while !teamster::is_cancelled() && n < 1_000 {
///         n += 1;
///     }
///     n
/// }
/// assert!(!teamster::is_cancelled());
/// ```
pub fn is_cancelled() -> bool {
    let in_actor = with_current(|current| {
        current.map(|current| current.scope.chain().any(|scope| scope.is_cancelled()) || current.actor.is_cancelled())
    });
    in_actor.unwrap_or_else(|| current::actor().is_ok_and(|actor| actor.is_cancelled()))
        || current::alone().is_some_and(|scope| scope.chain().any(|scope| scope.is_cancelled()))
}

/// Who has asked this code to end, if somebody has and it is known.
pub(crate) fn canceller_here() -> Option<Canceller> {
    Place::here().scopes().flat_map(Scope::chain).find_map(|scope| scope.canceller())
}

/// Resolves when this code has been asked to end.
///
/// Of use inside a [`shield`], and in tasks and threads of your own. Outside of every actor it
/// never resolves.
///
/// # Cancel safety
///
/// Dropping it loses nothing.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc]
/// async fn serve() {
///     teamster::shield(async {
///         teamster::cancelled().await;
///         println!("saving before the end");
///     })
///     .await;
/// }
/// ```
pub async fn cancelled() {
    let place = Place::here();
    let ending = async {
        match (place.actor(), current::actor()) {
            (None, Ok(actor)) => drop(actor.ending().await), // the actor whose code this is, in no scope of it
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ending => {}
        _ = canceller_of(&place) => {}
    }
}

/// Who cancels one of the scopes of `place`, once somebody does.
///
/// A nursery that was opened in a shield is not cancelled with what it stands in: so all of them
/// are watched.
async fn canceller_of(place: &Place) -> Canceller {
    std::future::poll_fn(|cx| {
        let scopes = place.scopes().flat_map(Scope::chain);
        scopes
            .filter(|scope| scope.watch(cx.waker()))
            .find_map(|scope| scope.canceller())
            .map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Runs `future` to its end even when its task is cancelled meanwhile.
///
/// It is polled in place and may borrow. Inside it a cancel is only a flag ([`is_cancelled`],
/// [`cancelled`]); a task that was cancelled is dropped on leaving its outermost shield. A drop
/// from elsewhere (`select!`, `timeout`) is not held up, and neither is the SIGKILL that comes
/// when the actor's grace is over.
///
/// # Cancel safety
///
/// Dropping it drops `future`.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let saved = teamster::shield(async { "saved" }).await;
/// assert_eq!(saved, "saved");
/// # }
/// ```
pub async fn shield<F: Future>(future: F) -> F::Output {
    let shield = Shield::enter();
    let output = future.await;
    shield.leave().await;
    output
}

/// While it lives, no scope that it was entered in drops what runs there.
#[derive(Debug)]
pub(crate) struct Shield {
    place: Place,
}

impl Shield {
    pub(crate) fn enter() -> Self {
        Shield::at(Place::here())
    }

    /// The same for the scopes of a place further out.
    pub(crate) fn at(place: Place) -> Self {
        for scope in place.scopes().flat_map(Scope::chain) {
            scope.state.lock().shields += 1;
        }
        Shield { place }
    }

    /// Ends there if one of the scopes was cancelled meanwhile and no shield is left around it.
    pub(crate) async fn leave(self) {
        drop(self);
        end_if_cancelled().await;
    }
}

/// Goes no further if a scope around was cancelled and no shield is left: whoever polls it drops us here.
///
/// The actor's own scope is polled by nobody: what stands in no other, a hook of its exit, goes on.
pub(crate) async fn end_if_cancelled() {
    let place = Place::here();
    let mut scopes = place.scopes().flat_map(Scope::chain).filter(|scope| !place.is_actors_own(scope));
    if scopes.any(|scope| scope.must_drop().is_some()) {
        std::future::pending::<()>().await;
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        for scope in self.place.scopes().flat_map(Scope::chain) {
            let mut state = scope.state.lock();
            state.shields -= 1;
            // The shield may have been left by another task than the one that waits to be dropped.
            let waiting = if state.shields == 0 && state.canceller.is_some() { state.task.take() } else { None };
            drop(state);
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
    }
}

/// Leaves clean-up behind that needs to await: the end of the current dialog or nursery waits for
/// it, within the grace.
///
/// Meant for `Drop`. Outside of every scope it runs as a task of the actor; outside of every actor
/// it is refused with a logged error.
///
/// # Examples
///
/// ```
/// struct Lease(u32);
/// impl Drop for Lease {
///     fn drop(&mut self) {
///         let id = self.0;
///         teamster::defer(async move { println!("lease {id} is given back") });
///     }
/// }
/// ```
pub fn defer(future: impl Future<Output = ()> + Send + 'static) {
    leave(CleanUp { future: Box::pin(future), is_over: None });
}

/// The same for what may be over before anybody waits for it: a long-lived task may leave any number of them behind.
#[cfg_attr(not(feature = "asyncio"), expect(dead_code, reason = "only Python's tasks are such"))]
pub(crate) fn defer_until(
    is_over: impl Fn() -> bool + Send + 'static,
    future: impl Future<Output = ()> + Send + 'static,
) {
    leave(CleanUp { future: Box::pin(future), is_over: Some(Box::new(is_over)) });
}

fn leave(clean_up: CleanUp) {
    match Place::here().scope() {
        Some(scope) => scope.defer(clean_up),
        None => match current::actor() {
            Ok(actor) => actor.spawn(Origin::CleanUp, clean_up.future),
            Err(error) => tracing::error!(%error, "a deferred clean-up was lost"),
        },
    }
}

/// Waits for all of it, side by side: for clean-ups as long as the grace lasts. A panic is logged.
/// `clock`: that of the actor that they are part of.
pub(crate) async fn run_deferred(deferred: Deferred, clock: Option<&Clock>, grace: Duration) {
    use futures::FutureExt;
    let clean_ups = deferred.clean_ups.into_iter().map(|clean_up| AssertUnwindSafe(clean_up.future).catch_unwind());
    let clean_ups = clock::timeout(clock, grace, futures::future::join_all(clean_ups));
    let nurseries = futures::future::join_all(deferred.nurseries);
    let contexts = futures::future::join_all(deferred.contexts.iter().map(|core| core.given_up()));
    match futures::future::join3(clean_ups, nurseries, contexts).await.0 {
        Ok(results) => {
            for _panic in results.into_iter().filter_map(Result::err) {
                tracing::error!("a deferred clean-up panicked");
            }
        }
        Err(_elapsed) => tracing::error!(?grace, "a deferred clean-up was cut off: its grace was over"),
    }
}

/// Fails `future` when it has not ended `after` this time, here and wherever it calls to.
///
/// The time that is left travels with every call made inside: the callee's own clock cancels its
/// task, whether or not this process or the line still exists. Of nested deadlines the nearest
/// counts. In an actor, time that it stands still for a debugger, or stopped by its terminal, does not count.
///
/// # Errors
///
/// [`Error::Deadline`] when the time is over.
///
/// # Cancel safety
///
/// When the time is over, `future` is dropped, which cancels its calls.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let late = teamster::deadline(Duration::from_millis(5), std::future::pending::<()>()).await;
/// assert!(matches!(late, Err(teamster::Error::Deadline { .. })));
/// # }
/// ```
pub async fn deadline<F: Future>(after: Duration, future: F) -> Result<F::Output, Error> {
    let Some(mut place) = current::current() else {
        return tokio::time::timeout(after, future).await.map_err(|_elapsed| Error::Deadline { after });
    };
    let clock = Arc::clone(&place.actor.clock);
    let at = clock.now() + super::bounded(after);
    place.deadline = Some(place.deadline.map_or(at, |outer| outer.min(at)));
    clock.timeout_at(at, current::At::new(place, future)).await.map_err(|_elapsed| Error::Deadline { after })
}
