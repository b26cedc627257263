//! Which actor is this code part of, and under which scope does it run?
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;

use super::Actor;
use super::context::ContextCore;
use super::scope::Scope;
use crate::error::Error;

/// Where a piece of code stands in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) actor: Arc<Actor>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) deadline: Option<Instant>,
    /// The context whose task or body this is.
    pub(crate) context: Option<Arc<ContextCore>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The one actor of a process that was spawned as one: every thread of it may ask.
static SPAWNED: OnceLock<Arc<Actor>> = OnceLock::new();

/// The roots that live in this process, by the runtime that each lives on.
static ROOTS: Mutex<Option<HashMap<tokio::runtime::Id, Weak<Actor>>>> = Mutex::new(None);

/// The innermost scope around this code, if it runs in one.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Looks at the current place without cloning it.
pub(crate) fn with_current<R>(look: impl FnOnce(Option<&Current>) -> R) -> R {
    CURRENT.with_borrow(|current| look(current.as_ref()))
}

/// The actor that this code is part of: by its task, else by its process or its runtime.
pub(crate) fn actor() -> Result<Arc<Actor>, Error> {
    if let Some(current) = current() {
        return Ok(current.actor);
    }
    if let Some(actor) = SPAWNED.get() {
        return Ok(Arc::clone(actor));
    }
    let Ok(handle) = tokio::runtime::Handle::try_current() else {
        return Err(Error::Usage("no runtime: actors are used from within a tokio runtime"));
    };
    root_on(handle.id()).ok_or(Error::Usage("no actor: open a nursery first, it boots the root actor"))
}

/// The root that lives on this runtime.
pub(crate) fn root_on(runtime: tokio::runtime::Id) -> Option<Arc<Actor>> {
    ROOTS.lock().as_ref()?.get(&runtime)?.upgrade()
}

pub(crate) fn add_root(runtime: tokio::runtime::Id, actor: &Arc<Actor>) {
    ROOTS.lock().get_or_insert_default().insert(runtime, Arc::downgrade(actor));
}

/// Forgets the root, unless another has taken its place already.
pub(crate) fn remove_root(runtime: tokio::runtime::Id, actor: &Arc<Actor>) {
    if let Some(roots) = ROOTS.lock().as_mut()
        && roots.get(&runtime).is_some_and(|root| std::ptr::eq(root.as_ptr(), Arc::as_ptr(actor)))
    {
        roots.remove(&runtime);
    }
}

/// This process was spawned as an actor.
pub(crate) fn set_spawned(actor: &Arc<Actor>) {
    // A process boots once: there is no second caller.
    let _ = SPAWNED.set(Arc::clone(actor));
}

/// Runs `work` with `place` as the current one, and takes it back.
pub(crate) fn within<R>(place: &mut Option<Current>, work: impl FnOnce() -> R) -> R {
    struct Restore<'a>(&'a mut Option<Current>);
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| std::mem::swap(current, self.0));
        }
    }
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, place));
    let restore = Restore(place);
    let result = work();
    drop(restore);
    result
}

/// A future that is polled, and dropped, at its place.
pub(crate) struct At<F: Future> {
    place: Option<Current>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> At<F> {
    pub(crate) fn new(place: Current, future: F) -> Self {
        At { place: Some(place), future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for At<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        match &mut this.future {
            Some(future) => within(&mut this.place, || future.as_mut().poll(cx)),
            None => Poll::Pending,
        }
    }
}

impl<F: Future> Drop for At<F> {
    fn drop(&mut self) {
        let future = self.future.take();
        within(&mut self.place, || drop(future));
    }
}
