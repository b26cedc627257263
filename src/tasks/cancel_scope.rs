//! How is a piece of code cancelled alone, by a handle or by a deadline?
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::region::{Ground, Region};
use crate::actor::clock::Clock;
use crate::actor::scope::{Below, End, Scope, shield};
use crate::actor::{Actor, bounded};
use crate::error::Error;
use crate::msg::ident::CancelRequest;

/// A handle to code that can be cancelled as a whole, by the handle or by a deadline. Cheap to clone.
///
/// What [runs](CancelScope::run) in a scope that is cancelled is dropped at its next await; a
/// [`shield`](crate::shield) is left first, and what was [deferred](crate::defer) is waited for. The
/// end of the scope takes the cancel in: the code around it goes on. A cancel of what is around the
/// scope cancels the scope too, unless that is [shielded](CancelScope::shielded).
///
/// It needs no actor. In one, its deadline travels with the calls made inside.
///
/// # Examples
///
/// ```
/// use teamster::tasks::CancelScope;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let scope = CancelScope::new();
/// let handle = scope.clone(); // for whoever may stop it
/// let stopped = scope
///     .run(async {
///         handle.cancel();
///         std::future::pending::<u32>().await
///     })
///     .await;
/// assert_eq!(stopped, None);
/// assert!(scope.cancelled_caught());
/// # }
/// ```
#[derive(Clone)]
pub struct CancelScope {
    core: Arc<Core>,
    is_shielded: bool,
}

struct Core {
    ground: Ground,
    /// What all that runs in the scope is cancelled with.
    token: Arc<Scope>,
    deadline: watch::Sender<Option<Deadline>>,
    has_caught: AtomicBool,
}

impl CancelScope {
    /// A scope without a deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// assert_eq!(scope.run(async { 1 }).await, Some(1));
    /// # Ok(()) }
    /// ```
    pub fn new() -> Self {
        let core = Core {
            ground: Ground::here(),
            token: Scope::new("cancel scope", None),
            deadline: watch::Sender::new(None),
            has_caught: AtomicBool::new(false),
        };
        CancelScope { core: Arc::new(core), is_shielded: false }
    }

    /// The same scope; what runs through this handle is out of reach of cancels from around it.
    ///
    /// Its own cancel and its own deadline still reach it.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::tasks::CancelScope;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let outer = CancelScope::new();
    /// let mut is_saved = false;
    /// outer
    ///     .run(async {
    ///         outer.cancel();
    ///         let save = async {
    ///             tokio::task::yield_now().await; // not cut off here
    ///             is_saved = true;
    ///         };
    ///         CancelScope::new().shielded().run(save).await;
    ///     })
    ///     .await;
    /// assert!(is_saved);
    /// # }
    /// ```
    #[must_use]
    pub fn shielded(mut self) -> Self {
        self.is_shielded = true;
        self
    }

    /// Cancels it at this time, or at none. Of several deadlines the last one that was set counts. In an actor,
    /// time that it stands still for a debugger is added.
    ///
    /// A deadline that has cancelled it can't be taken back. Code with a deadline runs on a tokio
    /// runtime whose timer is on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope; use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// scope.set_deadline(Some(tokio::time::Instant::now() + Duration::from_millis(5)));
    /// assert_eq!(scope.run(std::future::pending::<()>()).await, None);
    /// # Ok(()) }
    /// ```
    pub fn set_deadline(&self, at: Option<Instant>) {
        let clock = self.core.ground.place().actor().map(|actor| Arc::clone(&actor.clock));
        self.core.deadline.send_replace(at.map(|at| Deadline::new(at, clock)));
    }

    /// When it is cancelled by itself.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope; use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// assert_eq!(scope.deadline(), None);
    /// let noon = tokio::time::Instant::now() + Duration::from_secs(3600);
    /// scope.set_deadline(Some(noon));
    /// assert_eq!(scope.deadline(), Some(noon));
    /// # Ok(()) }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.core.deadline.borrow().as_ref().map(|deadline| deadline.at)
    }

    /// Cancels what runs in it, now or later. Asking twice is asking once.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// scope.cancel();
    /// assert_eq!(scope.run(async { 1 }).await, None); // not even begun
    /// # Ok(()) }
    /// ```
    pub fn cancel(&self) {
        self.core.cancel(CancelRequest::Dropped);
    }

    /// Whether it has been cancelled, by a handle or by its deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// assert!(!scope.is_cancelled());
    /// scope.clone().cancel();
    /// assert!(scope.is_cancelled());
    /// # Ok(()) }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.core.token.is_cancelled()
    }

    /// Whether its cancel has cut something off. What ended by itself before it could be dropped was
    /// not.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// scope.run(async { scope.cancel() }).await; // it ends before it can be cut off
    /// assert!(scope.is_cancelled() && !scope.cancelled_caught());
    /// # Ok(()) }
    /// ```
    pub fn cancelled_caught(&self) -> bool {
        self.core.has_caught.load(Ordering::Acquire)
    }

    /// Runs `future` in the scope. `None`: the scope's cancel has cut it off.
    ///
    /// Several may run in one scope, also at the same time; what runs in one that was cancelled before is
    /// cut off before it begins.
    ///
    /// # Panics
    ///
    /// A panic of `future` goes on.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `future`, shield or not.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::tasks::CancelScope;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let scope = CancelScope::new();
    /// let (one, two) = tokio::join!(scope.run(async { 1 }), scope.run(async { 2 }));
    /// assert_eq!((one, two), (Some(1), Some(2)));
    /// # Ok(()) }
    /// ```
    pub async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        let future = Box::pin(future);
        match self.is_shielded {
            true => shield(self.run_here(future)).await,
            false => self.run_here(future).await,
        }
    }

    async fn run_here<F: Future>(&self, future: Pin<Box<F>>) -> Option<F::Output> {
        let ground = Ground::here();
        let scope = ground.scope("cancel scope");
        ground.pass_cancels_to(&scope);
        self.core.token.add_below(&(Arc::downgrade(&scope) as Weak<dyn Below>));
        let mut region = Region::new(&ground, scope, future);
        let mut deadline = self.core.deadline.subscribe();
        let end = loop {
            let at = deadline.borrow_and_update().clone();
            region.set_deadline(at.as_ref().and_then(|at| at.by_clock_of(ground.place().actor())));
            let passed = async {
                match at.filter(|_| !self.is_cancelled()) {
                    Some(at) => at.passed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // a deadline that has passed counts: also for code that never waits
                () = passed => self.core.cancel(CancelRequest::Deadline),
                Ok(()) = deadline.changed() => {}
                end = &mut region => break end,
            }
        };
        match end {
            End::Value(value) => Some(value),
            End::Cancelled(_) if self.is_cancelled() => {
                self.core.has_caught.store(true, Ordering::Release);
                None
            }
            // The cancel is that of a scope around this one, and passes through: it drops us here.
            End::Cancelled(_) => std::future::pending().await,
            End::Panicked(panic) => resume_unwind(panic),
        }
    }
}

/// When a scope is cancelled.
#[derive(Clone, Debug)]
struct Deadline {
    /// As it was set.
    at: Instant,
    /// The same by the clock of the actor that the scope is part of.
    by_clock: Option<(Arc<Clock>, std::time::Instant)>,
}

impl Deadline {
    fn new(at: Instant, clock: Option<Arc<Clock>>) -> Self {
        let by_clock = clock.map(|clock| {
            let by_clock = on_clock(&clock, at);
            (clock, by_clock)
        });
        Deadline { at, by_clock }
    }

    /// The same by the clock of an actor: calls that are made there end then.
    fn by_clock_of(&self, actor: Option<&Arc<Actor>>) -> Option<std::time::Instant> {
        let clock = &actor?.clock;
        match &self.by_clock {
            Some((ours, at)) if Arc::ptr_eq(ours, clock) => Some(*at),
            Some(_) | None => Some(on_clock(clock, self.at)),
        }
    }

    async fn passed(&self) {
        match &self.by_clock {
            Some((clock, at)) => clock.sleep_until(*at).await,
            None => sleep_until(self.at).await,
        }
    }
}

fn on_clock(clock: &Clock, at: Instant) -> std::time::Instant {
    clock.now() + bounded(at.saturating_duration_since(Instant::now()))
}

impl Core {
    fn cancel(&self, request: CancelRequest) {
        self.token.cancel(&self.ground.canceller(request));
    }
}

impl Default for CancelScope {
    fn default() -> Self {
        CancelScope::new()
    }
}

impl fmt::Debug for CancelScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelScope")
            .field("deadline", &self.deadline())
            .field("is_shielded", &self.is_shielded)
            .field("is_cancelled", &self.is_cancelled())
            .field("cancelled_caught", &self.cancelled_caught())
            .finish()
    }
}

/// Runs `future` for at most this time. `None`: it was cut off, and what is around it goes on.
///
/// Unlike `tokio::time::timeout` it lets a [`shield`](crate::shield) inside come to its end, waits for what
/// was [deferred](crate::defer), and sends the time that is left along with calls made inside.
///
/// # Cancel safety
///
/// Dropping it drops `future`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use teamster::tasks::move_on_after;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// assert_eq!(move_on_after(Duration::from_secs(5), async { 3 }).await, Some(3));
/// assert_eq!(move_on_after(Duration::from_millis(5), std::future::pending::<u32>()).await, None);
/// # }
/// ```
pub async fn move_on_after<F: Future>(after: Duration, future: F) -> Option<F::Output> {
    let scope = CancelScope::new();
    // A time beyond all clocks is none.
    scope.set_deadline(Instant::now().checked_add(after));
    scope.run(future).await
}

/// Runs `future` for at most this time, and fails when it was cut off.
///
/// As [`move_on_after`], for code that can't go on without it. [`deadline`](crate::deadline) differs in that
/// it waits for nothing when the time is over: it drops shields too.
///
/// # Errors
///
/// [`Error::Deadline`] when the time was over.
///
/// # Cancel safety
///
/// Dropping it drops `future`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use teamster::{Error, tasks::fail_after};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let late = fail_after(Duration::from_millis(5), std::future::pending::<()>()).await;
/// assert!(matches!(late, Err(Error::Deadline { .. })));
/// # }
/// ```
pub async fn fail_after<F: Future>(after: Duration, future: F) -> Result<F::Output, Error> {
    move_on_after(after, future).await.ok_or(Error::Deadline { after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use tokio::task::yield_now;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_is_not_caught() {
        let scope = CancelScope::new();
        scope.set_deadline(Some(Instant::now() + 2 * SECOND));
        assert_eq!(scope.run(async { sleep(SECOND).await }).await, Some(()));
        assert!(!scope.is_cancelled() && !scope.cancelled_caught());
        // Cancelled in its last poll: it has ended all the same.
        assert_eq!(scope.run(async { scope.cancel() }).await, Some(()));
        assert!(scope.is_cancelled() && !scope.cancelled_caught());
        assert_eq!(scope.run(async { panic!("it is run in a cancelled scope") }).await, None::<()>);
        assert!(scope.cancelled_caught());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_be_moved() {
        let begin = Instant::now();
        let scope = CancelScope::new();
        scope.set_deadline(Some(begin + SECOND));
        let moved = scope.run(async {
            scope.set_deadline(Some(begin + 3 * SECOND));
            sleep(2 * SECOND).await;
            scope.set_deadline(None);
            sleep(2 * SECOND).await;
            scope.set_deadline(Some(begin)); // in the past
            pending::<()>().await;
        });
        assert_eq!(moved.await, None);
        assert_eq!(begin.elapsed(), 4 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn of_nested_scopes_the_outer_cancel_passes_through() {
        let (outer, inner, after) = (CancelScope::new(), CancelScope::new(), Cell::new(false));
        let result = outer.run(async {
            inner
                .run(async {
                    outer.cancel();
                    yield_now().await;
                })
                .await;
            after.set(true);
        });
        assert_eq!(result.await, None);
        assert!(outer.cancelled_caught() && !inner.cancelled_caught() && !after.get());
        // The inner one is taken in where it was asked.
        let inner = CancelScope::new();
        let outer = CancelScope::new();
        let result = outer.run(async {
            inner.cancel();
            inner.run(pending::<()>()).await
        });
        assert_eq!(result.await, Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancel_from_around_is_not_taken_for_its_own() {
        let (outer, inner, after) = (CancelScope::new(), CancelScope::new(), Cell::new(false));
        let result = outer.run(async {
            let first = async {
                inner.run(pending::<()>()).await;
                after.set(true);
            };
            let second = shield(async {
                outer.cancel(); // cuts off `first`, and waits for this shield to drop it
                sleep(SECOND).await;
            });
            futures::join!(first, second);
        });
        assert_eq!(result.await, None);
        assert!(!inner.cancelled_caught() && !after.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shielded_scope_hears_its_own_cancel_only() {
        let (outer, inner, passed) = (CancelScope::new(), CancelScope::new().shielded(), Cell::new(0));
        let result = outer.run(async {
            outer.cancel();
            inner
                .run(async {
                    sleep(SECOND).await;
                    assert!(crate::is_cancelled()); // it is told, and not dropped
                    passed.set(1);
                    inner.cancel();
                    yield_now().await;
                    passed.set(2);
                })
                .await;
            yield_now().await;
            passed.set(3);
        });
        assert_eq!(result.await, None);
        assert_eq!(passed.get(), 1);
        assert!(outer.cancelled_caught() && inner.cancelled_caught());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shield_inside_is_left_first_and_what_is_deferred_is_waited_for() {
        let (done, begin) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let later = Arc::clone(&done);
        let cut = move_on_after(SECOND, async {
            crate::defer(async move {
                sleep(SECOND / 2).await;
                later.store(true, Ordering::SeqCst);
            });
            shield(sleep(2 * SECOND)).await;
        });
        assert_eq!(cut.await, None);
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(begin.elapsed(), 2 * SECOND + SECOND / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn several_run_in_one_scope() {
        let scope = CancelScope::new();
        let cancel = async {
            yield_now().await;
            scope.cancel();
        };
        let all = futures::join!(scope.run(pending::<()>()), scope.run(pending::<()>()), cancel);
        assert_eq!(all, (None, None, ()));
    }

    #[tokio::test(start_paused = true)]
    async fn code_that_never_waits_is_caught_by_its_deadline() {
        let endless = async {
            loop {
                tokio::time::advance(SECOND / 10).await;
            }
        };
        let late: Result<(), Error> = fail_after(SECOND, endless).await;
        assert!(matches!(late, Err(Error::Deadline { after }) if after == SECOND));
        assert_eq!(move_on_after(Duration::MAX, async { 1 }).await, Some(1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_works_in_a_spawned_task_of_a_runtime_with_many_threads() {
        let (text, scope) = (String::from("borrowed"), CancelScope::new().shielded());
        let length = async move {
            let length = scope.run(async { move_on_after(SECOND, async { text.len() }).await }).await;
            fail_after(SECOND, async { length }).await
        };
        assert_eq!(tokio::runtime::Handle::current().spawn(length).await.unwrap().unwrap(), Some(Some(8)));
    }
}
