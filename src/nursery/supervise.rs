//! What ends when? The book of one nursery: its children, its failures, its end.
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::actor::Actor;
use crate::actor::child::Child;
use crate::actor::peers::canceller;
use crate::actor::scope::{Below, Scope};
use crate::error::{Error, Group, SpawnReason};
use crate::msg::death::{Death, Rung};
use crate::msg::ident::{CancelRequest, Canceller};

/// One nursery, shared by its body, its tasks and whoever cancels it.
pub(crate) struct Nursery {
    pub(crate) actor: Arc<Actor>,
    pub(crate) scope: Arc<Scope>,
    /// It was opened inside a shield.
    pub(crate) is_shielded: bool,
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Default)]
struct Book {
    children: HashMap<u64, Arc<Child>>,
    /// Starts that have not come to a process yet.
    starting: usize,
    /// Calls of one-shot actors that have not ended.
    one_shots: usize,
    /// In the order in which they were heard of.
    failures: Vec<Error>,
    /// Who ends it, once somebody does.
    canceller: Option<Canceller>,
    /// Its body has ended: nothing new is started.
    is_closed: bool,
}

impl Nursery {
    pub(crate) fn new(actor: Arc<Actor>, scope: Arc<Scope>, is_shielded: bool) -> Arc<Self> {
        Arc::new(Nursery { actor, scope, is_shielded, book: Mutex::default(), changed: Notify::new() })
    }

    // ---- what joins it

    /// A start begins. Refused when the nursery is ending.
    pub(crate) fn begin_start(&self) -> Result<(), SpawnReason> {
        let mut book = self.book.lock();
        if let Some(canceller) = &book.canceller {
            return Err(SpawnReason::Cancelled(canceller.clone()));
        }
        if book.is_closed && book.one_shots == 0 {
            return Err(SpawnReason::NurseryClosed);
        }
        book.starting += 1;
        Ok(())
    }

    /// A start has come to a process, or to nothing. Called by the spawner thread.
    pub(crate) fn end_start(self: &Arc<Self>, child: Option<&Arc<Child>>, care: Care) {
        let mut book = self.book.lock();
        book.starting -= 1;
        let canceller = book.canceller.clone();
        if let Some(child) = child {
            book.children.insert(child.key, Arc::clone(child));
        }
        drop(book);
        self.changed.notify_waiters();
        let Some(child) = child else { return };
        if let Some(canceller) = canceller {
            self.cancel_child(child, &canceller);
        }
        let (nursery, child) = (Arc::clone(self), Arc::clone(child));
        self.actor.spawn_driver(async move { nursery.watch(&child, care).await });
    }

    /// Follows one child to its end.
    async fn watch(self: Arc<Self>, child: &Arc<Child>, care: Care) {
        let ended = child.reaped.wait().await;
        self.actor.expect_no_more(child);
        if care == Care::OfNursery && ended.death.asked().is_none() && child.connected.get().is_some() {
            self.fail(Error::ActorDied(ended.death.clone()));
        }
        child.gone().await;
        child.relayed().await;
        match ended.death.asked() {
            _ if child.is_program => log_program(child, &ended.death),
            None => tracing::warn!(target: "teamster::nursery", death = %ended.death, "an actor died"),
            Some(_) if ended.death.stuck().is_some() => {
                tracing::warn!(target: "teamster::nursery", death = %ended.death, "an actor was killed, its grace over");
            }
            Some(_) => tracing::debug!(target: "teamster::nursery", death = %ended.death, "an actor ended"),
        }
        self.book.lock().children.remove(&child.key);
        self.changed.notify_waiters();
    }

    pub(crate) fn begin_one_shot(&self) {
        self.book.lock().one_shots += 1;
    }

    pub(crate) fn end_one_shot(&self) {
        self.book.lock().one_shots -= 1;
        self.changed.notify_waiters();
    }

    // ---- what ends it

    /// Something of it has failed: everything else is cancelled, and the failure is kept.
    pub(crate) fn fail(&self, error: Error) {
        let mut book = self.book.lock();
        if book.canceller.is_some() && is_consequence(&error) {
            return;
        }
        book.failures.push(error);
        drop(book);
        self.changed.notify_waiters();
        self.end_actors(&canceller(&self.actor.aid, CancelRequest::Failure));
        self.scope.cancel(&canceller(&self.actor.aid, CancelRequest::Failure));
    }

    /// Asks every actor of it to end, and says so in the log: not for the control thread.
    pub(crate) fn end_actors(&self, canceller: &Canceller) {
        let asked = self.cancel_all(canceller);
        if asked > 0 {
            tracing::debug!(target: "teamster::nursery", asked, %canceller, "a nursery ends its actors");
        }
    }

    /// Asks every actor of it to end, all at once: how many. The first request counts.
    fn cancel_all(&self, canceller: &Canceller) -> usize {
        let mut book = self.book.lock();
        if book.canceller.is_some() {
            return 0;
        }
        book.canceller = Some(canceller.clone());
        let children: Vec<Arc<Child>> = book.children.values().cloned().collect();
        drop(book);
        for child in &children {
            self.cancel_child(child, canceller);
        }
        children.len()
    }

    fn cancel_child(&self, child: &Arc<Child>, canceller: &Canceller) {
        self.actor.cancel_child(child, canceller, child.grace);
    }

    /// The body has ended well: service actors are let go when the one-shots are done.
    pub(crate) async fn close(&self) {
        self.until(|book| {
            book.is_closed = true;
            book.one_shots == 0 && book.starting == 0 || book.canceller.is_some()
        })
        .await;
        self.end_actors(&canceller(&self.actor.aid, CancelRequest::NurseryEnd));
    }

    /// Waits until every process of it, and every call, is gone.
    pub(crate) async fn gone(&self) {
        self.until(|book| {
            book.is_closed = true;
            book.one_shots == 0 && book.starting == 0 && book.children.is_empty()
        })
        .await;
    }

    /// Waits until every one-shot has ended and every service actor is gone, whoever ends them.
    pub(crate) async fn idle(&self) {
        self.until(|book| book.one_shots == 0 && book.starting == 0 && book.children.is_empty()).await;
    }

    async fn until(&self, mut is_so: impl FnMut(&mut Book) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(&mut self.book.lock()) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn children(&self) -> Vec<Arc<Child>> {
        self.book.lock().children.values().cloned().collect()
    }

    /// What its scope returns, all failures folded: the body's own among them.
    pub(crate) fn failure(&self, body: Option<Error>) -> Option<Error> {
        let mut book = self.book.lock();
        let mut failures = std::mem::take(&mut book.failures);
        failures.extend(body.filter(|error| failures.is_empty() || !is_consequence(error)));
        Group::collect(failures)
    }

    /// Its future was dropped: its children are cancelled and left to the control thread.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let canceller = canceller(&self.actor.aid, CancelRequest::Dropped);
        self.book.lock().is_closed = true;
        self.end_actors(&canceller);
        self.scope.cancel(&canceller);
    }
}

/// Its failure is told by whoever has run it.
fn log_program(program: &Child, death: &Death) {
    let (name, pid, exit, asked) = (program.aid.name(), program.aid.pid(), death.exit(), death.asked());
    if asked.is_some() && death.rung() == Some(Rung::Sigkill) {
        tracing::warn!(target: "teamster::nursery", program = name, pid, "a program was killed, its grace over");
    } else {
        tracing::debug!(target: "teamster::nursery", program = name, pid, %exit, "a program ended");
    }
}

/// Whose concern the death of a child is, when nobody had asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// The nursery's: everything else in it is cancelled.
    OfNursery,
    /// Whoever called it for one call.
    OfCaller,
}

/// Whether an error only says that something was cancelled: that follows from a first cause.
pub(crate) fn is_consequence(error: &Error) -> bool {
    match error {
        Error::Cancelled { .. } => true,
        Error::Spawn { reason: SpawnReason::Cancelled(_), .. } => true,
        Error::NotStarted { .. } => true,
        Error::ActorDied(death) => death.asked().is_some(),
        Error::Group(group) => group.iter().all(is_consequence),
        Error::Remote(remote) => remote.ours().is_some_and(is_consequence),
        Error::Body(body) => body.downcast_ref::<Error>().is_some_and(is_consequence),
        _ => false,
    }
}

/// A cancel of what the nursery stands in reaches it at once, on whatever thread.
impl Below for Nursery {
    fn cancel(&self, canceller: &Canceller) {
        self.cancel_all(canceller);
        self.scope.cancel(canceller);
    }
}

/// Registers the nursery with all that it stands in, as far as no shield is between them: the body of
/// a context hands no cancel on.
pub(crate) fn stand_in(outer: &Arc<Scope>, nursery: &Arc<Nursery>) {
    let below: Weak<Nursery> = Arc::downgrade(nursery);
    let below: Weak<dyn Below> = below;
    for scope in outer.chain().filter(|scope| !scope.is_shielded()) {
        scope.add_below(&below);
    }
}

/// How long a nursery's deferred clean-up may take.
pub(crate) fn clean_up_grace(nursery: &Nursery) -> Duration {
    nursery.actor.settings.grace
}
