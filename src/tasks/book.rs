//! What ends when in a task nursery? Its tasks, its failures, its cancel.
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, StreamExt};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::region::Ground;
use crate::actor::scope::{Below, End, Scope};
use crate::error::{BoxError, Error, Group};
use crate::guest::Owned;
use crate::msg::ident::{CancelRequest, Canceller};
use crate::nursery::is_consequence;

type Panic = Box<dyn Any + Send>;

/// One task nursery, shared by its body, its tasks and whoever cancels it.
pub(super) struct Book {
    pub(super) ground: Ground,
    /// The body's scope.
    pub(super) body: Arc<Scope>,
    /// Of the task that runs the nursery.
    pub(super) waker: AtomicWaker,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    next_task: u64,
    tasks: HashMap<u64, Arc<Scope>>,
    /// Those that the runtime runs.
    spawned: FuturesUnordered<Owned>,
    /// In the order in which they were heard of.
    failures: Vec<Error>,
    panics: Vec<Panic>,
    /// Who ends it, once somebody does.
    canceller: Option<Canceller>,
    has_ended: bool,
}

/// Why a task is not begun.
pub(super) enum Refusal {
    Cancelled(Canceller),
    Ended,
}

impl Refusal {
    pub(super) fn into_error(self) -> Error {
        match self {
            Refusal::Cancelled(canceller) => Error::Cancelled { canceller },
            Refusal::Ended => Error::Usage("the task nursery has ended: it starts nothing any more"),
        }
    }
}

impl Book {
    pub(super) fn open(ground: Ground) -> Arc<Self> {
        let body = ground.scope("task nursery");
        let book = Arc::new(Book { ground, body, waker: AtomicWaker::new(), pages: Mutex::default() });
        book.ground.pass_cancels_to(&book);
        book
    }

    // ---- its tasks

    /// A task joins it.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Entry, Refusal> {
        let mut pages = self.pages.lock();
        if let Some(canceller) = &pages.canceller {
            return Err(Refusal::Cancelled(canceller.clone()));
        }
        if pages.has_ended {
            return Err(Refusal::Ended);
        }
        let number = pages.next_task;
        pages.next_task += 1;
        let scope = self.ground.scope("task");
        pages.tasks.insert(number, Arc::clone(&scope));
        Ok(Entry { book: Arc::clone(self), number, scope })
    }

    /// The actor's runtime takes this over, else the runtime that this is called on.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let spawned = match (self.ground.place().actor(), Handle::try_current()) {
            (Some(actor), _) => actor.spawn_owned(task),
            (None, Ok(runtime)) => Owned::Runtime(AbortOnDropHandle::new(runtime.spawn(task))),
            (None, Err(_none)) => {
                drop(task);
                return self.fail(Error::Usage("no runtime: a spawned task needs one of tokio's"));
            }
        };
        self.pages.lock().spawned.push(spawned);
        self.waker.wake();
    }

    /// Whether the runtime runs none of it any more. If it does, the nursery is woken when one ends.
    pub(super) fn poll_spawned(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let joined = self.pages.lock().spawned.poll_next_unpin(cx);
            match joined {
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(Some(panic))) => self.panicked(panic),
                // Its own handle says so if its runtime was taken down.
                Poll::Ready(Some(None)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Starts nothing any more, if nothing is there.
    pub(super) fn try_end(&self) -> bool {
        let mut pages = self.pages.lock();
        pages.has_ended = pages.tasks.is_empty() && pages.spawned.is_empty();
        pages.has_ended
    }

    // ---- what ends it

    /// Something of it has failed: everything else is cancelled, and the failure is kept.
    pub(super) fn fail(&self, error: Error) {
        let mut pages = self.pages.lock();
        if pages.canceller.is_some() && is_consequence(&error) {
            return;
        }
        pages.failures.push(error);
        drop(pages);
        self.cancel(&self.ground.canceller(CancelRequest::Failure));
    }

    pub(super) fn panicked(&self, panic: Panic) {
        self.pages.lock().panics.push(panic);
        self.cancel(&self.ground.canceller(CancelRequest::Failure));
    }

    /// Cancels its tasks and its body. The first request counts.
    pub(super) fn cancel(&self, canceller: &Canceller) {
        self.body.cancel(canceller); // first: a body is gone before what it used is
        self.cancel_tasks(canceller);
    }

    /// Cancels its tasks and leaves the body alone.
    pub(super) fn cancel_tasks(&self, canceller: &Canceller) {
        let mut pages = self.pages.lock();
        if pages.canceller.is_some() {
            return;
        }
        pages.canceller = Some(canceller.clone());
        let tasks: Vec<Arc<Scope>> = pages.tasks.values().cloned().collect();
        drop(pages);
        for task in tasks {
            task.cancel(canceller);
        }
    }

    /// What became of a task that was dropped without a word.
    pub(super) fn gone(&self, task: &Scope) -> Error {
        let canceller = task.canceller().unwrap_or_else(|| self.ground.canceller(CancelRequest::Dropped));
        Error::Cancelled { canceller }
    }

    pub(super) fn canceller(&self) -> Option<Canceller> {
        self.pages.lock().canceller.clone()
    }

    /// The body is over. What it returned, if it did.
    pub(super) fn end_body<T>(&self, end: End<Result<T, BoxError>>) -> Ended<T> {
        match end {
            End::Value(Ok(value)) => return Ended::Value(value),
            End::Value(Err(error)) => {
                let error = Error::from_body(error);
                if is_consequence(&error) {
                    // It may follow from a failure that is yet to be heard of: that comes first then.
                    self.cancel(&self.ground.canceller(CancelRequest::Failure));
                    return Ended::Failed(error);
                }
                self.fail(error); // booked now: what fails in the teardown stands after it
            }
            End::Cancelled(canceller) => {
                self.cancel(&canceller);
                return Ended::Failed(Error::Cancelled { canceller });
            }
            End::Panicked(panic) => self.panicked(panic),
        }
        Ended::Booked
    }

    /// What the nursery returns, now that nothing of it is left. A panic goes on here.
    pub(super) fn result<T>(&self, body: Ended<T>) -> Result<T, Error> {
        let mut pages = self.pages.lock();
        let failures = std::mem::take(&mut pages.failures);
        let panics = std::mem::take(&mut pages.panics);
        drop(pages);
        if let Some(panic) = panics.into_iter().next() {
            for error in failures {
                tracing::error!(%error, "a task failed in a nursery that ends by a panic");
            }
            resume_unwind(panic);
        }
        match (Group::collect(failures), body) {
            (Some(failure), _) => Err(failure),
            (None, Ended::Value(value)) => Ok(value),
            (None, Ended::Failed(error)) => Err(error),
            (None, Ended::Booked) => unreachable!("a failure that was booked is among the failures"),
        }
    }

    /// Its future was dropped: what the runtime runs of it is left to what is around it, or aborted.
    pub(super) fn abandon(&self) {
        let mut pages = self.pages.lock();
        pages.has_ended = true;
        let mut spawned = std::mem::take(&mut pages.spawned);
        drop(pages);
        self.cancel(&self.ground.canceller(CancelRequest::Dropped));
        if spawned.is_empty() {
            return;
        }
        if self.ground.has_heir() {
            self.ground.leave(Box::pin(async move { while spawned.next().await.is_some() {} }));
        }
        // Else the set is dropped here, which aborts all of it.
    }
}

/// How a body came to its end.
pub(super) enum Ended<T> {
    Value(T),
    /// The error counts if there is no other.
    Failed(Error),
    /// Its failure is in the book.
    Booked,
}

/// A cancel of what the nursery stands in reaches it at once, on whatever thread.
impl Below for Book {
    fn cancel(&self, canceller: &Canceller) {
        Book::cancel(self, canceller);
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = self.pages.lock();
        f.debug_struct("Book").field("tasks", &pages.tasks.len()).field("canceller", &pages.canceller).finish()
    }
}

/// A task's place in the book.
pub(super) struct Entry {
    pub(super) book: Arc<Book>,
    number: u64,
    pub(super) scope: Arc<Scope>,
}

impl Entry {
    /// The task has failed. What only follows from its own cancel is no failure.
    pub(super) fn fail(&self, error: Error) {
        if !(self.scope.is_cancelled() && is_consequence(&error)) {
            self.book.fail(error);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut pages = self.book.pages.lock();
        pages.tasks.remove(&self.number);
        let is_last = pages.tasks.is_empty();
        drop(pages);
        if is_last {
            self.book.waker.wake(); // it may never have come as far as to be polled
        }
    }
}
