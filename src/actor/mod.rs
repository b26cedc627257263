//! What is this process doing?
mod as_guest;
pub(crate) mod boot;
pub(crate) mod build;
pub(crate) mod catalog;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod crash;
pub(crate) mod current;
pub(crate) mod doors;
pub(crate) mod endpoint;
#[cfg_attr(not(feature = "tls"), path = "envoy/off.rs")]
pub(crate) mod envoy;
pub(crate) mod failure;
pub(crate) mod hold;
pub(crate) mod host;
pub(crate) mod keeper;
pub(crate) mod listener;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod panics;
pub(crate) mod parcels;
pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod refusals;
pub(crate) mod renewal;
pub(crate) mod scope;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod stdin;
pub(crate) mod suspend;
pub(crate) mod traces;
pub(crate) mod warden;
#[cfg(feature = "tls")]
pub(crate) mod wire;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::sync::oneshot;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::clock::Clock;
use self::control::Control;
use self::doors::Doors;
use self::log::LogRing;
use self::scope::Scope;
use self::traces::{Origin, Traces, traced};
use crate::channel::Channel;
use crate::guest::{HostThread, Owned};
use crate::msg::addr::{Addr, Addrs, Transport};
use crate::msg::ident::{Aid, Canceller};
use crate::msg::spec::DebugSettings;

/// A data line of this actor.
pub(crate) type DataLine = Channel<Actor>;

/// What an actor was told at its birth, or its root's builder.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) grace: Duration,
    pub(crate) boot_within: Duration,
    /// Path prefixes of the endpoints that may be called here. `None`: all of the program's.
    pub(crate) expose: Option<Vec<String>>,
    pub(crate) max_frame_bytes: u32,
    /// The level directives of children that are given none of their own.
    pub(crate) log: Option<String>,
    pub(crate) debug: DebugSettings,
    /// Where it listens, and its children; the nearest first. Empty, before the root boots: as the environment says.
    pub(crate) transports: Vec<Transport>,
    /// Where else it listens. Its children do so on the same addresses, at ports of their own.
    pub(crate) listen: Vec<Addr>,
    /// How long another host may be silent.
    pub(crate) lost_after: Duration,
    /// The folder of its tree's identity, in the root. `None`, before that boots: as the environment says.
    pub(crate) identity: Option<PathBuf>,
    /// Where the agents of hosts are, in the root. Before that boots: those that the environment does not name.
    pub(crate) hosts: Vec<(String, Addr)>,
    /// It does jobs for a pool of its parent's.
    pub(crate) is_worker: bool,
}

/// How long another host may be silent, where nobody says otherwise.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(5);
/// A shorter time would be over before a busy host has answered.
const SHORTEST_SILENCE: Duration = Duration::from_millis(100);

/// What may be asked for as the time that another host may be silent.
pub(crate) fn bounded_silence(time: Duration) -> Duration {
    bounded(time).max(SHORTEST_SILENCE)
}

/// The default grace: how long an actor may take to end once it was asked.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// How long a child may take from its start until both its lines are up.
pub(crate) const BOOT_WITHIN: Duration = Duration::from_secs(10);

impl Default for Settings {
    fn default() -> Self {
        Settings {
            grace: grace_from_environment().unwrap_or(GRACE),
            boot_within: BOOT_WITHIN,
            expose: None,
            max_frame_bytes: crate::msg::frame::MAX_FRAME_BYTES,
            log: None,
            debug: DebugSettings::default(),
            transports: Vec::new(),
            listen: Vec::new(),
            lost_after: LOST_AFTER,
            identity: None,
            hosts: Vec::new(),
            is_worker: false,
        }
    }
}

/// `TEAMSTER_GRACE_MS`, if it is a number.
fn grace_from_environment() -> Option<Duration> {
    let text = std::env::var("TEAMSTER_GRACE_MS").ok()?;
    text.parse().map(|millis| bounded(Duration::from_millis(millis))).ok()
}

/// No time of ours is longer: a point in time that far away can still be told, and nobody gets to see it.
pub(crate) fn bounded(time: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    time.min(LONGEST)
}

/// A hook of `on_exit`.
type ExitHook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// This process as an actor: the root, or a spawned child.
pub(crate) struct Actor {
    pub(crate) aid: Aid,
    pub(crate) root: Aid,
    pub(crate) parent: Option<Parent>,
    pub(crate) depth: u32,
    lineage: String,
    pub(crate) settings: Settings,
    pub(crate) folder: PathBuf,
    pub(crate) doors: Doors,
    pub(crate) registrar: Option<Addr>,
    pub(crate) root_addrs: Option<Addrs>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) control: Arc<Control>,
    /// Where it waits, and where its tasks run if it is nobody's guest.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Whose guest it is: its tasks run there.
    host: Option<Arc<HostThread>>,
    /// Endpoints are polled once where they are decoded: only where that holds up nobody else.
    pub(crate) polls_inline: bool,
    /// Tasks that serve calls, and what they have left behind.
    pub(crate) tasks: TaskTracker,
    /// Those of them, and the nurseries, that a dump asks where they wait.
    pub(crate) traces: Arc<Traces>,
    /// Drivers, handshakes, the listener: they end with the process or the root.
    pub(crate) drivers: TaskTracker,
    pub(crate) lines: Mutex<Vec<Weak<DataLine>>>,
    pub(crate) peers: Mutex<HashMap<uuid::Uuid, Arc<peers::Peer>>>,
    pub(crate) expected: Mutex<HashMap<crate::msg::spec::Token, listener::Expected>>,
    pub(crate) log_ring: Option<Arc<LogRing>>,
    /// The tree's names, in the root.
    pub(crate) names: Option<Arc<dyn control::NameSink>>,
    /// Contexts that other actors may ask to end.
    pub(crate) context_handles: Mutex<context::Handles>,
    /// Calls of others that have ended here.
    pub(crate) served: load::Served,
    /// Calls between their arrival and their first poll.
    pub(crate) starting_calls: AtomicUsize,
    on_exit: Mutex<Vec<ExitHook>>,
    /// What ends what higher floors have started for the whole actor, before it waits for that.
    /// `None`: that has begun, and nothing new of this kind may.
    before_end: Mutex<Option<Vec<BoxFuture<'static, ()>>>>,
    next_child: AtomicU64,
    is_cancelled: AtomicBool,
    is_orphaned: AtomicBool,
    /// On whose behalf `is_cancelled` was set.
    cancelled_by: OnceLock<Canceller>,
    ending: SetOnce<Canceller>,
    ends_at: Mutex<Option<Instant>>,
    /// A signal that was sent to this very process, not by its parent: it dies by it in the end.
    own_signal: AtomicI32,
    /// A signal that interrupted the root.
    interrupted: AtomicI32,
    /// A nursery has ended with it.
    is_interruption_told: AtomicBool,
    /// The one at the prompt has said `off`.
    is_disarmed: AtomicBool,
    /// Spawner, output relay, registrar: whatever higher floors keep as long as the actor lives.
    pub(crate) keeps: Mutex<Vec<Box<dyn Keep>>>,
    pub(crate) spawner: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// What opens calls of the parent of which parts lie in shared memory: the pool, some floors up, fills this.
    pub(crate) parcels: Mutex<Option<Arc<dyn parcels::Parcels>>>,
    /// What tools of higher floors keep for this actor, by type.
    tables: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// Something that lives as long as the actor and ends before its control thread does.
pub(crate) trait Keep: Send {
    fn end(self: Box<Self>);
}

/// The way to the parent.
pub(crate) struct Parent {
    pub(crate) aid: Aid,
    pub(crate) addrs: Addrs,
    line: OnceLock<Arc<DataLine>>,
    /// Cancels of its dialogs, which overtook the first word on its data line.
    early: Mutex<Vec<(u64, Canceller)>>,
}

impl Parent {
    pub(crate) fn new(aid: Aid, addrs: Addrs) -> Self {
        Parent { aid, addrs, line: OnceLock::new(), early: Mutex::default() }
    }
}

/// What an actor is made of.
pub(crate) struct Parts {
    pub(crate) aid: Aid,
    pub(crate) root: Aid,
    pub(crate) parent: Option<Parent>,
    pub(crate) depth: u32,
    pub(crate) lineage: String,
    pub(crate) settings: Settings,
    pub(crate) folder: PathBuf,
    pub(crate) doors: Doors,
    pub(crate) registrar: Option<Addr>,
    /// `None`: it is the root.
    pub(crate) root_addrs: Option<Addrs>,
    pub(crate) control: Arc<Control>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) host: Option<Arc<HostThread>>,
    pub(crate) log_ring: Option<Arc<LogRing>>,
    pub(crate) names: Option<Arc<dyn control::NameSink>>,
}

impl Actor {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let is_current_thread = parts.runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread;
        Arc::new(Actor {
            aid: parts.aid,
            root: parts.root,
            parent: parts.parent,
            depth: parts.depth,
            lineage: parts.lineage,
            settings: parts.settings,
            folder: parts.folder,
            doors: parts.doors,
            registrar: parts.registrar,
            root_addrs: parts.root_addrs,
            clock: Clock::new(Arc::clone(&parts.control)),
            scope: Scope::new("actor", None),
            control: parts.control,
            runtime: parts.runtime,
            polls_inline: is_current_thread && parts.host.is_none(),
            host: parts.host,
            tasks: TaskTracker::new(),
            traces: Arc::default(),
            drivers: TaskTracker::new(),
            lines: Mutex::default(),
            peers: Mutex::default(),
            context_handles: Mutex::default(),
            served: load::Served::default(),
            starting_calls: AtomicUsize::new(0),
            expected: Mutex::default(),
            log_ring: parts.log_ring,
            names: parts.names,
            on_exit: Mutex::default(),
            before_end: Mutex::new(Some(Vec::new())),
            next_child: AtomicU64::new(1),
            is_cancelled: AtomicBool::new(false),
            is_orphaned: AtomicBool::new(false),
            cancelled_by: OnceLock::new(),
            ending: SetOnce::new(),
            ends_at: Mutex::new(None),
            own_signal: AtomicI32::new(0),
            interrupted: AtomicI32::new(0),
            is_interruption_told: AtomicBool::new(false),
            is_disarmed: AtomicBool::new(false),
            keeps: Mutex::default(),
            spawner: OnceLock::new(),
            parcels: Mutex::default(),
            tables: Mutex::default(),
        })
    }

    /// Its Unix socket, whether it listens there or not.
    pub(crate) fn socket(&self) -> PathBuf {
        crate::transport::folder::socket_path(&self.folder, self.aid.uuid())
    }

    /// Its tasks run on the thread of a host's loop.
    pub(crate) fn is_guest(&self) -> bool {
        self.host.is_some()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it stops for a debugger.
    pub(crate) fn is_armed(&self) -> bool {
        self.settings.debug.own.is_armed() && !self.is_disarmed.load(Ordering::Relaxed)
    }

    pub(crate) fn disarm(&self) {
        self.is_disarmed.store(true, Ordering::Relaxed);
    }

    /// What the process of this child, and each one below it, is known by.
    pub(crate) fn lineage_of(&self, child: &Aid) -> String {
        format!("{}/{}", self.lineage, child.uuid().simple())
    }

    /// The same of its plain programs, and of whatever they start.
    pub(crate) fn lineage_of_programs(&self) -> String {
        format!("{}/programs", self.lineage)
    }

    /// The same of the process that sees to them when this one is killed: whoever waits for what it leaves waits for that too.
    pub(crate) fn lineage_of_warden(&self) -> String {
        format!("{}/warden", self.lineage)
    }

    pub(crate) fn next_child(&self) -> u64 {
        self.next_child.fetch_add(1, Ordering::Relaxed)
    }

    /// A task of this actor that no dialog owns: the actor's end waits for it.
    pub(crate) fn spawn(&self, origin: Origin, future: impl Future<Output = ()> + Send + 'static) {
        let task = traced(&self.traces, origin, crash::SendTask(future));
        match &self.host {
            None => drop(self.tasks.spawn_on(task, &self.runtime)),
            Some(host) => host.spawn(self.tasks.track_future(task)),
        }
    }

    /// Runs code of the user's that is the last of this actor's, where its tasks run, and waits for it. It goes on when
    /// nobody waits any more.
    pub(crate) async fn run_last(&self, future: impl Future<Output = ()> + Send + 'static) {
        let (done, over) = oneshot::channel::<()>();
        self.spawn_last(async move {
            future.await;
            drop(done);
        });
        // Nothing is ever sent: its end is the end. Dropped with its runtime, the end of `main` sees to the rest.
        let _ = over.await;
    }

    /// The same, and waits for nothing.
    pub(crate) fn spawn_last(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.host {
            None => drop(self.runtime.spawn(future)),
            Some(host) => host.spawn(future),
        }
    }

    /// A task that ends at the latest when its handle is dropped: the actor's end waits for it too.
    pub(crate) fn spawn_owned(&self, future: impl Future<Output = ()> + Send + 'static) -> Owned {
        let task = self.tasks.track_future(crash::SendTask(future));
        match &self.host {
            None => Owned::Runtime(AbortOnDropHandle::new(self.runtime.spawn(task))),
            Some(host) => host.spawn_owned(task),
        }
    }

    /// A task that ends with the actor and is not waited for.
    pub(crate) fn spawn_driver(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.drivers.spawn_on(future, &self.runtime);
    }

    /// The same; and it ends at the latest when its handle is dropped.
    pub(crate) fn spawn_owned_driver<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.drivers.spawn_on(future, &self.runtime))
    }

    /// What a tool of a higher floor keeps for this actor: empty when it is asked for first.
    pub(crate) fn table<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut tables = self.tables.lock();
        let table = tables.entry(TypeId::of::<T>()).or_insert_with(|| Arc::<T>::default());
        Arc::clone(table).downcast().expect("it is found by its type")
    }

    /// Gives up what they keep: it may hold the actor in its turn.
    pub(crate) fn forget_tables(&self) {
        let _unlocked = std::mem::take(&mut *self.tables.lock());
        let _never_run = std::mem::take(&mut *self.before_end.lock());
    }

    /// Ends something of the whole actor's: the end of a root that nobody has asked to end waits for this, and then for
    /// every process. Given back: that end has begun, and nobody would run it any more.
    pub(crate) fn before_end(&self, end: BoxFuture<'static, ()>) -> Result<(), BoxFuture<'static, ()>> {
        match &mut *self.before_end.lock() {
            Some(ends) => ends.push(end),
            None => return Err(end),
        }
        Ok(())
    }

    pub(crate) async fn end_what_is_its_own(&self) {
        let ends = std::mem::take(&mut *self.before_end.lock());
        futures::future::join_all(ends.into_iter().flatten()).await;
    }

    /// The place of code of this actor that belongs to no dialog.
    pub(crate) fn place(self: &Arc<Self>) -> current::Current {
        current::Current { actor: Arc::clone(self), scope: Arc::clone(&self.scope), deadline: None, context: None }
    }

    pub(crate) fn add_line(&self, line: &Arc<DataLine>) {
        let mut lines = self.lines.lock();
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(line));
        drop(lines);
        if line.is_timed() || line.is_remote() {
            self.control.send(control::Command::Tend { line: Arc::clone(line), lost_after: self.settings.lost_after });
        }
    }

    pub(crate) fn living_lines(&self) -> Vec<Arc<DataLine>> {
        self.lines.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn parent_line(&self) -> Option<&Arc<DataLine>> {
        self.parent.as_ref()?.line.get()
    }

    /// The data line to the parent is up. Its driver does not run yet.
    pub(crate) fn set_parent_line(&self, line: &Arc<DataLine>) {
        let Some(parent) = &self.parent else { return };
        let mut early = parent.early.lock();
        // Set once: this is the only boot.
        let _ = parent.line.set(Arc::clone(line));
        for (dialog, canceller) in early.drain(..) {
            self.cancel_for_parent(line, dialog, &canceller);
        }
    }

    /// The parent cancels one of its dialogs, by the control line.
    pub(crate) fn on_parents_cancel(&self, dialog: u64, canceller: Canceller) {
        let Some(parent) = &self.parent else { return };
        let mut early = parent.early.lock();
        match parent.line.get() {
            Some(line) => {
                drop(early);
                self.cancel_for_parent(line, dialog, &canceller);
            }
            None => early.push((dialog, canceller)),
        }
    }

    fn cancel_for_parent(&self, line: &DataLine, dialog: u64, canceller: &Canceller) {
        // It counts its dialogs as we do: an error would be a mistake of our own.
        if let Ok(state) = line.on_cancel(dialog, canceller) {
            let _ = self.control.send_up(&crate::msg::frame::Frame::CancelAck { dialog, state });
        }
    }

    /// A child serves now: those above and the registrar know before anybody here does.
    pub(crate) fn child_is_ready(&self, child: &Aid, addrs: &Addrs) {
        // An ancestor whose line is broken sees our own end: nothing more can be told it.
        let _ = self.control.send_up(&crate::msg::frame::Frame::Ready { aid: child.clone(), addrs: addrs.clone() });
        if let Some(names) = &self.names {
            names.ready(child, addrs);
        }
    }

    // ---- its end

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn canceller(&self) -> Option<Canceller> {
        self.cancelled_by.get().cloned().or_else(|| self.scope.canceller())
    }

    /// Resolves when the actor was asked to end.
    pub(crate) async fn ending(&self) -> Canceller {
        self.ending.wait().await.clone()
    }

    /// Ends this actor on behalf of somebody else than its parent.
    pub(crate) fn end(&self, canceller: Canceller) {
        // The parent is told first: the end that follows is no surprise then. A parent whose line is
        // broken is gone.
        let _ = self.control.send_up(&crate::msg::frame::Frame::EndAsked { canceller: canceller.clone() });
        self.cancel_self(canceller);
    }

    /// Asks this actor to end: a request like any other, taken by the control thread.
    pub(crate) fn cancel_self(&self, canceller: Canceller) {
        let grace = self.settings.grace;
        self.control.send(control::Command::EndSelf { canceller, grace });
    }

    /// The flag first, so that a loop that only looks at it sees it at once.
    pub(crate) fn flag_cancelled(&self, canceller: &Canceller, ends_at: Instant) {
        // The first request counts.
        let _ = self.cancelled_by.set(canceller.clone());
        let mut until = self.ends_at.lock();
        *until = Some(until.map_or(ends_at, |before| before.min(ends_at)));
        drop(until);
        self.is_cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether this child's runtime has nothing at all to do, so that it may end without it: no
    /// call, task, hook, clean-up or log line of anybody's.
    ///
    /// The flag of the cancel is set before this looks, and a call counts itself before it looks at
    /// the flag: one of the two sees the other.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.polls_inline
            && self.starting_calls.load(Ordering::SeqCst) == 0
            && self.tasks.is_empty()
            // Tasks of the runtime that are not ours are the user's own.
            && self.runtime.metrics().num_alive_tasks() == self.drivers.len()
            && self.on_exit.lock().is_empty()
            && self.keeps.lock().is_empty()
            && !self.scope.has_deferred()
            && self.log_ring.as_ref().is_none_or(|ring| ring.is_empty())
            && !self.clock.is_held()
            && self.living_lines().iter().all(|line| line.is_flushed())
    }

    /// Asks a child to end, from whatever thread: the request leaves at once by that thread, and the
    /// control thread sees to the rest.
    pub(crate) fn cancel_child(&self, child: &Arc<child::Child>, canceller: &Canceller, grace: Duration) {
        let asked_at = self.clock.now();
        let left = self.ends_within(asked_at);
        let grace = left.map_or(grace, |left| grace.min(crate::proto::escalation::childs_share(left)));
        let is_first = !child.was_asked.swap(true, Ordering::AcqRel);
        let line = child.control.get().filter(|_| is_first && !grace.is_zero() && child.reaped.get().is_none());
        let command = control::Command::Cancel {
            child: Arc::clone(child),
            canceller: canceller.clone(),
            grace,
            asked_at,
            is_sent: line.is_some(),
        };
        // Booked before it is sent: the end that it leads to may be seen before we get any further,
        // and must not pass for one that nobody asked for.
        self.control.book(command);
        let Some(line) = line else { return self.control.wake() };
        // A line that is broken shows as its end: then that is what the control thread finds.
        if line.send_cancel(0, grace, canceller).is_ok() {
            child.was_reached.store(true, Ordering::Release);
        }
        // The answer wakes the control thread. Woken now, it would only keep a processor from whom
        // the request goes to.
        self.control.wake_within(crate::proto::escalation::ACK_WITHIN);
    }

    /// Cancels every scope and dialog of this actor, and lets its main code know.
    pub(crate) fn wake_cancelled(&self, canceller: &Canceller) {
        self.scope.cancel(canceller);
        for line in self.living_lines() {
            line.cancel_served(canceller);
        }
        // The first request counts.
        let _ = self.ending.set(canceller.clone());
    }

    /// What is left of this actor's time, if it has been asked to end.
    pub(crate) fn ends_within(&self, now: Instant) -> Option<Duration> {
        self.ends_at.lock().map(|at| at.saturating_duration_since(now))
    }

    pub(crate) fn orphaned(&self) {
        self.is_orphaned.store(true, Ordering::Release);
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.is_orphaned.load(Ordering::Acquire)
    }

    pub(crate) fn ends_by(&self, signal: i32) {
        self.own_signal.store(signal, Ordering::Release);
    }

    pub(crate) fn own_signal(&self) -> Option<i32> {
        Some(self.own_signal.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    pub(crate) fn interrupted(&self, signal: i32) {
        // The first signal counts.
        let _ = self.interrupted.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn interrupted_by(&self) -> Option<i32> {
        Some(self.interrupted.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    /// The same, for whoever sees to it that it is acted on: nobody else gets it then.
    pub(crate) fn take_interruption(&self) -> Option<i32> {
        self.interrupted_by().filter(|_| !self.is_interruption_told.swap(true, Ordering::AcqRel))
    }

    /// Our stdout has no reader any more (`| head -1`): what prints for it has nothing left to do.
    pub(crate) fn stdout_is_closed(&self) {
        if self.is_root() {
            self.interrupted(libc::SIGPIPE);
            let request = crate::msg::ident::CancelRequest::Signal(libc::SIGPIPE);
            self.cancel_self(Canceller { aid: self.aid.clone(), request });
        }
    }

    pub(crate) fn add_exit_hook(&self, hook: ExitHook) {
        self.on_exit.lock().push(hook);
    }

    /// Runs the `on_exit` hooks, the last registered first. A panic in one is logged.
    pub(crate) async fn run_exit_hooks(self: &Arc<Self>) {
        use futures::FutureExt;
        loop {
            let Some(hook) = self.on_exit.lock().pop() else { return };
            let hook = current::At::new(self.place(), async move { hook().await });
            if std::panic::AssertUnwindSafe(hook).catch_unwind().await.is_err() {
                tracing::error!("an on_exit hook panicked");
            }
        }
    }

    /// Ends what the higher floors keep for this actor.
    pub(crate) fn end_keeps(&self) {
        let keeps = std::mem::take(&mut *self.keeps.lock());
        for keep in keeps.into_iter().rev() {
            keep.end();
        }
    }
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("aid", &self.aid).finish_non_exhaustive()
    }
}

/// Registers what this actor does last, on every ending that passes through its runtime: its
/// code's return or error, a cancel, SIGINT and SIGTERM, the loss of its parent.
///
/// Not on `std::process::exit`, an abort, SIGKILL, or when its runtime is stuck until its grace is
/// over. Hooks run one after the other, the last registered first, within the actor's grace.
///
/// # Errors
///
/// [`Error::Usage`](crate::Error::Usage) outside of every actor.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn serve() -> Result<(), teamster::Error> {
///     teamster::on_exit(async || println!("the last word of this actor"))
/// }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.actor("frank").call(serve()).await?;
/// # Ok(()) }).await }
/// ```
pub fn on_exit<F, Fut>(hook: F) -> Result<(), crate::Error>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    current::actor()?.add_exit_hook(Box::new(move || Box::pin(hook())));
    Ok(())
}
