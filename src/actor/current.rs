//! Which actor is this code part of, and under which scope does it run?
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::thread::LocalKey;
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use super::Actor;
use super::context::ContextCore;
use super::host::host_id;
use super::scope::Scope;
use crate::error::Error;
use crate::msg::ident::Aid;

/// Where a piece of code stands in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) actor: Arc<Actor>,
    pub(crate) scope: Arc<Scope>,
    /// By the actor's clock.
    pub(crate) deadline: Option<Instant>,
    /// The context whose task or body this is.
    pub(crate) context: Option<Arc<ContextCore>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    /// The innermost scope of code that is part of no actor, or was so before it entered one.
    static ALONE: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
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

/// The innermost scope around this code that is part of no actor.
pub(crate) fn alone() -> Option<Arc<Scope>> {
    ALONE.with_borrow(Clone::clone)
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
    swapped(&CURRENT, place, work)
}

fn swapped<T, R>(slot: &'static LocalKey<RefCell<Option<T>>>, value: &mut Option<T>, work: impl FnOnce() -> R) -> R {
    struct Restore<'a, T: 'static>(&'static LocalKey<RefCell<Option<T>>>, &'a mut Option<T>);
    impl<T> Drop for Restore<'_, T> {
        fn drop(&mut self) {
            self.0.with_borrow_mut(|current| std::mem::swap(current, self.1));
        }
    }
    slot.with_borrow_mut(|current| std::mem::swap(current, value));
    let restore = Restore(slot, value);
    let result = work();
    drop(restore);
    result
}

/// Where code runs: in an actor, in scopes outside of every actor, in both, or in neither.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    current: Option<Current>,
    alone: Option<Arc<Scope>>,
}

impl Place {
    /// The place of the code that asks.
    pub(crate) fn here() -> Self {
        Place { current: current(), alone: alone() }
    }

    /// The same; and in a process that was spawned as an actor, what stands nowhere is that actor's.
    /// A task of the root's runtime is the root's only where it was started as such.
    pub(crate) fn in_process() -> Self {
        let current = current().or_else(|| SPAWNED.get().map(Actor::place));
        Place { current, alone: alone() }
    }

    /// This place of an actor, in the same scopes outside of it as here.
    pub(crate) fn of(current: Current) -> Self {
        Place { current: Some(current), alone: alone() }
    }

    /// The same, out of reach of the deadline here and of scopes outside of the actor.
    pub(crate) fn apart(&self) -> Self {
        let mut place = Place { current: self.current.clone(), alone: None };
        place.set_deadline(None);
        place
    }

    /// The same, with this scope as the innermost.
    pub(crate) fn inside(&self, scope: Arc<Scope>) -> Self {
        let mut place = self.clone();
        match &mut place.current {
            Some(current) => current.scope = scope,
            None => place.alone = Some(scope),
        }
        place
    }

    /// The innermost scope.
    pub(crate) fn scope(&self) -> Option<&Arc<Scope>> {
        self.current.as_ref().map(|current| &current.scope).or(self.alone.as_ref())
    }

    /// The innermost scopes, of the actor and outside of it: with what is around each, all of them.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &Arc<Scope>> {
        self.current.iter().map(|current| &current.scope).chain(&self.alone)
    }

    pub(crate) fn actor(&self) -> Option<&Arc<Actor>> {
        self.current.as_ref().map(|current| &current.actor)
    }

    /// Whether this is the scope of the whole actor.
    pub(crate) fn is_actors_own(&self, scope: &Arc<Scope>) -> bool {
        self.actor().is_some_and(|actor| Arc::ptr_eq(scope, &actor.scope))
    }

    /// Who is here: the actor, or outside of every actor a stand-in for the process.
    pub(crate) fn aid(&self) -> Aid {
        match self.actor() {
            Some(actor) => actor.aid.clone(),
            None => this_process().clone(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.current.as_ref().and_then(|current| current.deadline)
    }

    /// Where there is an actor, calls made here end at this time.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        if let Some(current) = &mut self.current {
            current.deadline = deadline;
        }
    }

    /// Runs `work` here.
    pub(crate) fn within<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let Place { current, alone } = self;
        within(current, || swapped(&ALONE, alone, work))
    }
}

/// What stands for this process where there is no actor to name.
pub(crate) fn this_process() -> &'static Aid {
    static AID: OnceLock<Aid> = OnceLock::new();
    AID.get_or_init(|| {
        let program = std::env::args_os().next().map(PathBuf::from);
        let name = program.as_deref().and_then(Path::file_name).unwrap_or(OsStr::new("process"));
        Aid::new(name.to_string_lossy(), Uuid::new_v4(), std::process::id(), host_id())
    })
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
