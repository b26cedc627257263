//! What becomes of the processes of a pool?
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OnceCell, oneshot};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::batch::{Pace, use_board};
use super::board::Board;
use super::config::{Settings, WorkerLife};
use super::queue::{Asked, Counts, Given, Keyed, Queue, Ticket};
use super::share::Share;
use super::trip::Errand;
use super::turn::{Lease, of_hook};
use super::{Statistics, WORKER};
use crate::actor::Actor;
use crate::actor::child::{Child, Ended};
use crate::actor::current::{self, At};
use crate::actor::peers::canceller;
use crate::actor::process::ProcessStat;
use crate::error::{Error, SpawnReason};
use crate::msg::broken_worker::WorkerHook;
use crate::msg::death::Rung;
use crate::msg::ident::CancelRequest;
use crate::nursery::{self, Care, Nursery};
use crate::portal::Portal;
use crate::transport::folder::socket_path;

/// The processes of a pool, shared by its handles and by what looks after them.
pub(crate) struct Workers {
    nursery: Arc<Nursery>,
    pub(super) settings: Settings,
    pub(super) state: Mutex<State>,
    /// Something of it has come to its end.
    pub(super) changed: Notify,
    tally: Tally,
    /// A worker takes one job at a time: each may be its last, or it is on another host, or looked at by a debugger.
    is_one_by_one: bool,
}

pub(super) struct State {
    pub(super) queue: Jobs,
    /// How many jobs of a function share a trip.
    pub(super) paces: HashMap<&'static str, Pace>,
    /// Trips on their way.
    pub(super) trips: usize,
    /// Jobs on them that have only come along: they wait for those before them.
    pub(super) along: usize,
    /// Who ends those whose days are over, and when that is next.
    janitor: Option<(AbortOnDropHandle<()>, Instant)>,
}

impl State {
    pub(super) fn pace(&mut self, path: &'static str) -> &mut Pace {
        self.paces.entry(path).or_insert_with(Pace::new)
    }

    /// Whether nobody has a job, or waits with one.
    fn is_quiet(&self) -> bool {
        self.trips == 0 && self.queue.is_quiet()
    }
}

type Jobs = Queue<Arc<Worker>, Waiter>;

/// Who waits for a worker.
pub(super) enum Waiter {
    /// One that wants it for itself.
    Alone(oneshot::Sender<Result<Lease, Error>>),
    /// A job with a caller, which may go with others.
    Errand(Errand),
}

impl Waiter {
    fn fail(self, error: Error) {
        // It may have gone meanwhile.
        match self {
            Waiter::Alone(tell) => drop(tell.send(Err(error))),
            Waiter::Errand(job) => job.end(Err(error)),
        }
    }
}

/// What is counted since it was opened.
#[derive(Default)]
struct Tally {
    started: AtomicU64,
    retired: AtomicU64,
    broken: AtomicU64,
    killed: AtomicU64,
}

/// One process that does jobs.
pub(super) struct Worker {
    pub(super) child: Arc<Child>,
    pub(super) portal: Portal,
    pub(super) share: Arc<Share>,
    ready_at: Instant,
    pub(super) jobs: AtomicU64,
    /// It is ended since nobody needs it any more, not in the middle of a job.
    is_retired: AtomicBool,
    /// Where it leaves the results of batches. `None` in it: there is none.
    pub(super) board: OnceCell<Option<Board>>,
}

impl Keyed for Arc<Worker> {
    fn key(&self) -> u64 {
        self.child.key
    }
}

impl Workers {
    pub(super) fn new(nursery: Arc<Nursery>, settings: Settings) -> Arc<Self> {
        let queue = Queue::new(settings.limit);
        let is_armed = nursery.actor.settings.debug.tree.is_armed();
        let is_one_by_one = settings.retire.is_some() || settings.options.is_far() || is_armed;
        Arc::new(Workers {
            nursery,
            settings,
            state: Mutex::new(State { queue, paces: HashMap::new(), trips: 0, along: 0, janitor: None }),
            changed: Notify::new(),
            tally: Tally::default(),
            is_one_by_one,
        })
    }

    pub(super) fn nursery(&self) -> &Arc<Nursery> {
        &self.nursery
    }

    pub(super) fn limit(&self) -> usize {
        self.settings.limit
    }

    /// Whether several jobs may go to a worker at once.
    pub(super) fn may_batch(&self) -> bool {
        !self.is_one_by_one
    }

    // ---- who does a job

    /// Waits for a worker that has nothing else to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the place among those that wait. A worker that was started for it is there for the next.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Error> {
        let (tell, told) = oneshot::channel();
        let asked = self.state.lock().queue.ask(Instant::now(), || Waiter::Alone(tell));
        let (ticket, starts) = match asked {
            Asked::Taken(worker) => return Ok(Lease::of(self, worker)),
            Asked::Waits { ticket, starts } => (ticket, starts),
            Asked::Refused => return Err(Error::Usage(CLOSED)),
        };
        if starts {
            self.start();
        }
        let _place = Waiting { workers: self, ticket };
        // Nobody forgets one that waits, but for a runtime that ends.
        told.await.unwrap_or_else(|_forgotten| Err(Error::Usage(CLOSED)))
    }

    /// A worker could do another job.
    pub(super) fn give(self: &Arc<Self>, worker: Arc<Worker>) {
        if worker.is_over() {
            return self.end(&worker, self.patience());
        }
        let is_warm = worker.share.is_warm();
        self.deliver(is_warm, |queue| queue.give(worker, Instant::now()));
    }

    /// Those that have nothing to do are given what waits, and others are started for the rest.
    pub(super) fn give_again(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Some(given) = state.queue.pair() else { break };
            self.carry_out(state, given, false);
        }
        self.start_if_needed();
    }

    fn deliver(self: &Arc<Self>, is_warm: bool, decide: impl FnOnce(&mut Jobs) -> Given<Arc<Worker>, Waiter>) {
        let mut state = self.state.lock();
        let given = decide(&mut state.queue);
        self.carry_out(state, given, is_warm);
    }

    fn carry_out(self: &Arc<Self>, state: MutexGuard<'_, State>, given: Given<Arc<Worker>, Waiter>, is_warm: bool) {
        match given {
            Given::To(_, Waiter::Alone(tell), worker) => {
                drop(state);
                // Whoever does not want it any more gives it back by dropping it.
                drop(tell.send(Ok(Lease::of(self, worker))));
            }
            Given::To(ticket, Waiter::Errand(job), worker) => self.depart(state, ticket, job, worker),
            Given::Idle => self.look_after_idle(state, is_warm),
            Given::End(worker) => {
                drop(state);
                self.end(&worker, self.patience());
            }
        }
        self.changed.notify_waiters();
    }

    // ---- who comes

    fn start(self: &Arc<Self>) {
        let starting = Starting { workers: Arc::clone(self), error: Some(Error::Usage(CLOSED)) };
        self.nursery.actor.spawn_driver(async move {
            let mut starting = starting; // all of it: it is told also if this is never polled
            match starting.workers.start_one().await {
                Ok(worker) => {
                    starting.error = None;
                    starting.workers.arrived(worker);
                }
                Err(error) => starting.error = Some(error),
            }
        });
    }

    async fn start_one(&self) -> Result<Arc<Worker>, Error> {
        let started = nursery::start(&self.nursery, WORKER, self.settings.options.clone(), Care::OfCaller).await;
        let started = started.map_err(|error| match error {
            Error::Spawn { reason: SpawnReason::Cancelled(canceller), .. } => Error::Cancelled { canceller },
            error => error,
        })?;
        let portal = started.portal();
        if let Some(init) = &self.settings.init
            && let Err(error) = portal.run_prepared(init).await
        {
            let child = started.keep();
            let error = of_hook(error, &child, WorkerHook::Init, init.path());
            self.cancel(&child, self.patience());
            return Err(error);
        }
        self.tally.started.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Worker {
            child: started.keep(),
            share: Share::with(portal.clone()),
            portal,
            ready_at: Instant::now(),
            jobs: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
            board: OnceCell::new(),
        }))
    }

    fn arrived(self: &Arc<Self>, worker: Arc<Worker>) {
        let (workers, watched) = (Arc::clone(self), Arc::clone(&worker));
        self.deliver(false, |queue| queue.arrived(worker, Instant::now()));
        // Not before, so that its end is not seen before its coming.
        self.nursery.actor.spawn_driver(async move {
            let ended = watched.child.reaped.wait().await;
            workers.gone(&watched, ended);
        });
    }

    /// The jobs that wait for a worker that can't be started fail with it.
    fn not_started(self: &Arc<Self>, error: &Error) {
        let waiters = self.state.lock().queue.not_started(Instant::now());
        tracing::warn!(target: "teamster::pool", %error, jobs = waiters.len(), "a worker could not be started");
        for waiter in waiters {
            waiter.fail(error.clone());
        }
        self.start_if_needed();
    }

    /// Somebody may wait for a process less.
    fn start_if_needed(self: &Arc<Self>) {
        while self.state.lock().queue.begin_start(Instant::now()) {
            self.start();
        }
        self.changed.notify_waiters();
    }

    // ---- who goes

    fn gone(self: &Arc<Self>, worker: &Worker, ended: &Ended) {
        let was_idle = self.state.lock().queue.gone(worker.child.key);
        let tally = match (ended.death.asked(), ended.death.rung()) {
            (None, _) => &self.tally.broken,
            (Some(_), Some(Rung::Sigkill)) => &self.tally.killed,
            _ => &self.tally.retired,
        };
        tally.fetch_add(1, Ordering::Relaxed);
        if ended.death.rung() == Some(Rung::Sigkill) && worker.is_retired.load(Ordering::Relaxed) {
            tracing::warn!(target: "teamster::pool", death = %ended.death, "a worker did not end within its grace period");
        }
        tracing::trace!(target: "teamster::pool", worker = %worker.child.aid, was_idle, "a worker is gone");
        self.start_if_needed();
    }

    /// It gets no other job.
    pub(super) fn end(&self, worker: &Worker, grace: Duration) {
        worker.is_retired.store(!grace.is_zero(), Ordering::Relaxed);
        self.state.lock().queue.dismiss(worker.child.key);
        self.cancel(&worker.child, grace);
        self.changed.notify_waiters();
    }

    pub(super) fn cancel(&self, child: &Arc<Child>, grace: Duration) {
        let actor = &self.nursery.actor;
        actor.cancel_child(child, &canceller(&actor.aid, CancelRequest::NurseryEnd), grace);
    }

    /// What a worker may take to end.
    pub(super) fn patience(&self) -> Duration {
        self.settings.options.grace.unwrap_or(self.nursery.actor.settings.grace)
    }

    /// Somebody ends those that get no job for long, and in time for this one, which has just become one of them.
    fn look_after_idle(self: &Arc<Self>, mut state: MutexGuard<'_, State>, is_warm: bool) {
        let due = Instant::now()
            + if is_warm { self.settings.idle_timeout.min(WARM_FOR) } else { self.settings.idle_timeout };
        if state.queue.is_closed() || state.janitor.as_ref().is_some_and(|(_, at)| *at <= due) {
            return;
        }
        let workers = Arc::downgrade(self);
        let clock = Arc::clone(&self.nursery.actor.clock);
        let janitor = self.nursery.actor.spawn_owned_driver(async move {
            while let Some(time) = workers.upgrade().and_then(|workers| workers.end_expired()) {
                clock.sleep(time).await;
            }
        });
        let before = state.janitor.replace((janitor, due));
        drop(state);
        drop(before);
    }

    /// Ends those whose days are over, and has the others give their memory back. The time until there is more to do;
    /// `None`: nobody is idle, and nobody looks after it.
    fn end_expired(&self) -> Option<Duration> {
        let timeout = self.settings.idle_timeout;
        let mut state = self.state.lock();
        let now = Instant::now();
        let expired = state.queue.expired(now, timeout);
        let next = state.queue.idle_since().map(|since| (since + timeout).saturating_duration_since(now));
        let full = state.queue.idle().filter(|(worker, _)| worker.share.is_warm());
        let full =
            full.map(|(worker, since)| (Arc::clone(&worker.share), (since + WARM_FOR).saturating_duration_since(now)));
        let (cold, warm): (Vec<_>, Vec<_>) = full.partition(|(_, time)| time.is_zero());
        let next = next.map(|next| warm.iter().map(|(_, time)| *time).fold(next, Duration::min));
        let done = match (next, &mut state.janitor) {
            (Some(time), Some((_, at))) => {
                *at = now + time;
                None
            }
            (_, janitor) => janitor.take(),
        };
        drop(state);
        if let Some((this_very_task, _)) = done {
            this_very_task.detach(); // it ends, and is not dropped here, where it runs
        }
        for worker in expired {
            self.end(&worker, self.patience());
        }
        for (share, _) in cold {
            share.trim();
        }
        next
    }

    /// Takes no job any more, waits for those that it has, and lets its workers go.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it takes no job any more all the same.
    pub(super) async fn close(&self) {
        self.state.lock().queue.close();
        loop {
            let changed = self.changed.notified();
            if self.state.lock().is_quiet() {
                break;
            }
            tokio::select! {
                biased; // its workers are ended with it: who waits for a job may not be there any more
                _ending = self.nursery.actor.ending() => break,
                () = changed => {}
            }
        }
        self.give_up();
    }

    /// Takes no job any more, and lets those go that have none.
    pub(super) fn give_up(&self) {
        let mut state = self.state.lock();
        state.queue.close();
        let idle = state.queue.take_idle();
        let janitor = state.janitor.take();
        drop(state);
        drop(janitor);
        for worker in idle {
            self.end(&worker, self.patience());
        }
    }

    pub(super) fn statistics(&self) -> Statistics {
        let state = self.state.lock();
        let Counts { idle, busy, waiting, starting } = state.queue.counts();
        let waiting = waiting + state.along;
        drop(state);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            idle,
            running: busy,
            waiting,
            starting,
            started: count(&self.tally.started),
            retired: count(&self.tally.retired),
            broken: count(&self.tally.broken),
            killed: count(&self.tally.killed),
        }
    }
}

/// A task of the actor, with the deadline around the code that asks: so jobs go on whoever polls, and end in time.
pub(super) fn spawn_here<T: Send + 'static>(
    actor: &Actor,
    work: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    match current::current().filter(|place| place.deadline.is_some()) {
        Some(place) => actor.spawn_owned_driver(At::new(place, work)),
        None => actor.spawn_owned_driver(work),
    }
}

/// How long a worker without a job keeps the memory that it shares: the next large job is up to seven times as fast with it.
const WARM_FOR: Duration = Duration::from_secs(10);

/// What a job is told for which there is no worker any more.
pub(super) const CLOSED: &str = "the pool takes no jobs any more: its block has ended";

/// A start that is on its way: its outcome is told also if its task is dropped.
struct Starting {
    workers: Arc<Workers>,
    error: Option<Error>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            self.workers.not_started(&error);
        }
    }
}

/// A place among those that wait: given up when it is dropped.
struct Waiting<'a> {
    workers: &'a Workers,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let withdrawn = self.workers.state.lock().queue.withdraw(self.ticket);
        if withdrawn.is_some() {
            self.workers.changed.notify_waiters();
        }
    }
}

impl Worker {
    /// Somebody has asked it to end, or its line has ended: it does no other job.
    pub(super) fn is_over(&self) -> bool {
        let child = &self.child;
        child.channel.get().is_none_or(|line| !line.is_open()) || self.is_asked()
    }

    /// Somebody has asked it to end.
    pub(super) fn is_asked(&self) -> bool {
        self.child.was_asked.load(Ordering::Acquire) || self.child.story.lock().asked.is_some()
    }

    /// Where it leaves the results of batches: made at the first one. `None`: there is no room for it, or the worker ended.
    pub(super) async fn board(&self, parent: &Actor) -> Option<&Board> {
        let made = async {
            let made = Board::create(socket_path(&parent.folder, Uuid::new_v4()));
            let failed = |error: &dyn fmt::Display| {
                tracing::debug!(target: "teamster::pool", worker = %self.child.aid, %error, "it does one job at a time");
            };
            let (board, way) = made.inspect_err(|error| failed(error)).ok()?;
            self.portal.run(use_board(way.path().to_owned())).await.inspect_err(|error| failed(error)).ok()?;
            Some(board)
        };
        self.board.get_or_init(|| made).await.as_ref()
    }

    pub(super) fn life(&self) -> WorkerLife {
        let resident = match self.child.is_far {
            true => None,
            false => ProcessStat::read(self.child.aid.pid()),
        };
        WorkerLife {
            jobs: self.jobs.load(Ordering::Relaxed),
            age: self.ready_at.elapsed(),
            resident_bytes: resident.map_or(0, |stat| stat.rss_bytes()),
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}
