//! How is a piece of code a region of its own: with a scope, cut off alone, its clean-up waited for?
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use crate::actor::GRACE;
use crate::actor::current::{self, Place};
use crate::actor::scope::{Below, End, Scope, Scoped, run_deferred};
use crate::actor::traces::{Origin, Trace};
use crate::msg::ident::{CancelRequest, Canceller};

/// What a tool of this floor stands on: the place where it was called.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    place: Place,
    /// The scope around what is made here.
    around: Option<Arc<Scope>>,
    /// A shield stands between this place and what is around it.
    is_shielded: bool,
    /// The scope whose end waits for what is left over here.
    heir: Option<Arc<Scope>>,
}

impl Ground {
    pub(super) fn here() -> Self {
        let place = Place::in_process();
        let heir = place.scope().cloned();
        let is_shielded = heir.as_ref().is_some_and(|scope| scope.is_shielded());
        // What the actor does at its exit is not cancelled by that.
        let is_exit = Place::here().scope().is_some_and(|scope| place.is_actors_own(scope));
        Ground { around: heir.clone().filter(|_| !is_exit), heir, place, is_shielded }
    }

    /// For what outlives the code that makes it: no cancel from around it, no deadline.
    pub(super) fn apart(&self) -> Self {
        Ground { place: self.place.apart(), around: None, is_shielded: false, heir: self.heir.clone() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A scope inside of it.
    pub(super) fn scope(&self, label: &'static str) -> Arc<Scope> {
        Scope::new(label, self.around.clone())
    }

    /// `below` is cancelled with what is around this ground, unless that is behind a shield.
    pub(super) fn pass_cancels_to(&self, below: &Arc<impl Below + 'static>) {
        if let Some(scope) = self.around.as_ref().filter(|_| !self.is_shielded) {
            let below: Weak<dyn Below> = Arc::<_>::downgrade(below) as Weak<dyn Below>;
            scope.add_below(&below);
        }
    }

    /// A cancel that is asked for here.
    pub(super) fn canceller(&self, request: CancelRequest) -> Canceller {
        Canceller { aid: self.place.aid(), request }
    }

    /// Whether there is a scope whose end waits for what is left over here.
    pub(super) fn has_heir(&self) -> bool {
        self.heir.is_some()
    }

    fn grace(&self) -> Duration {
        self.place.actor().map_or(GRACE, |actor| actor.settings.grace)
    }

    /// Leaves to what is around it the rest of what was dropped here: its end waits for that.
    pub(super) fn leave(&self, rest: BoxFuture<'static, ()>) {
        let actor = self.place.actor().cloned().or_else(|| current::actor().ok());
        match (&self.heir, actor) {
            // The actor's own scope ends with the actor: what is only left over ends earlier.
            (Some(scope), Some(actor)) if self.place.is_actors_own(scope) => actor.spawn(Origin::CleanUp, rest),
            (Some(scope), _) => scope.leave_nursery(rest),
            (None, Some(actor)) => actor.spawn(Origin::CleanUp, rest),
            (None, None) => tracing::error!("a deferred clean-up was lost: it was dropped outside of every scope"),
        }
    }

    /// The same, where what is left over has an owner besides: its end is known to whoever needs it. So
    /// outside of every scope and actor the runtime may see to it, if there is one.
    pub(super) fn see_to(&self, rest: BoxFuture<'static, ()>) {
        match (self.has_heir() || current::actor().is_ok(), Handle::try_current()) {
            (true, _) => self.leave(rest),
            (false, Ok(runtime)) => drop(runtime.spawn(rest)),
            (false, Err(_none)) => {}
        }
    }
}

/// Code with a scope of its own. Its end comes when what it has deferred is done; if it is dropped
/// before, that is left to what is around it.
pub(super) struct Region<F: Future> {
    ground: Ground,
    scope: Arc<Scope>,
    scoped: Scoped<F>,
    end: Option<End<F::Output>>,
    rest: Option<BoxFuture<'static, ()>>,
    /// Outside of every actor nobody asks. A box: there are regions in regions.
    trace: Option<Box<Trace>>,
}

/// Nothing in it is pinned but what is in a box.
impl<F: Future> Unpin for Region<F> {}

impl<F: Future> Region<F> {
    /// `scope` was made by `ground`.
    pub(super) fn new(ground: &Ground, scope: Arc<Scope>, future: Pin<Box<F>>) -> Self {
        let scoped = Scoped::at(ground.place.inside(Arc::clone(&scope)), Arc::clone(&scope), future);
        let origin = Origin::Task { label: scope.label };
        let trace = ground.place.actor().map(|actor| Box::new(Trace::new(&actor.traces, origin)));
        Region { ground: ground.clone(), scope, scoped, end: None, rest: None, trace }
    }

    /// The time at which calls made in it from now on end, if that is earlier than around it.
    pub(super) fn set_deadline(&mut self, at: Option<Instant>) {
        let around = self.ground.place.deadline();
        self.scoped.set_deadline(at.into_iter().chain(around).min());
    }

    fn take_rest(&mut self) {
        let deferred = self.scope.take_deferred();
        if !deferred.is_empty() {
            let before = self.rest.take();
            let clock = self.ground.place.actor().map(|actor| Arc::clone(&actor.clock));
            let grace = self.ground.grace();
            self.rest = Some(Box::pin(async move {
                if let Some(before) = before {
                    before.await;
                }
                run_deferred(deferred, clock.as_deref(), grace).await;
            }));
        }
    }
}

impl<F: Future> Future for Region<F> {
    type Output = End<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut trace) = self.trace.take() else { return self.poll_here(cx) };
        let polled = trace.poll(cx, |cx| self.poll_here(cx));
        self.trace = Some(trace);
        polled
    }
}

impl<F: Future> Region<F> {
    fn poll_here(&mut self, cx: &mut Context<'_>) -> Poll<End<F::Output>> {
        let this = &mut *self;
        if this.end.is_none() {
            this.end = Some(ready!(Pin::new(&mut this.scoped).poll(cx)));
        }
        loop {
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(cx));
                this.rest = None;
            }
            this.take_rest(); // also what was deferred while it ran
            if this.rest.is_none() {
                return this.end.take().map_or(Poll::Pending, Poll::Ready);
            }
        }
    }
}

impl<F: Future> Drop for Region<F> {
    fn drop(&mut self) {
        self.scoped.clear();
        self.take_rest();
        if let Some(rest) = self.rest.take() {
            self.ground.leave(rest);
        }
    }
}
