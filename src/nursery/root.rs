//! Where does the tree begin? The root actor: booted by the first nursery, ended with the last.
use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use uuid::Uuid;

use super::scope::{self, ActorNursery};
use crate::actor::control::{Control, Living, NameSink};
use crate::actor::crash::DEBUG_SOCKET;
use crate::actor::current;
use crate::actor::host::host_id;
use crate::actor::panics::PanicHook;
use crate::actor::signals::Signals;
use crate::actor::{Actor, Parts, Settings, boot, bounded, bounded_silence, crash, doors, log};
use crate::channel::LineEnd;
use crate::channel::line::LineInbox;
use crate::discovery::{Etcd, Names, Record, Registrar};
use crate::error::{BoxError, Error, SpawnReason};
use crate::msg::addr::{Addr, AddrError, Addrs, Transport};
use crate::msg::frame::{MAX_FRAME_BYTES, MIN_FRAME_BYTES};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::spawn::agent;
use crate::transport::folder::{Base, FolderError, RootFolder, socket_path};
use crate::transport::tls::Authority;
use crate::transport::uds::bind_at;

/// The roots of this process, by the runtime that each lives on.
static ROOTS: Mutex<Option<HashMap<Id, Arc<Root>>>> = Mutex::new(None);

/// One root, for as long as a nursery of it is open or a process of it lives.
pub(super) struct Root {
    actor: Arc<Actor>,
    runtime: Id,
    /// Open nurseries, and dropped ones whose processes are not gone.
    users: Mutex<usize>,
    parts: Mutex<Option<RootParts>>,
}

/// What a root has besides an actor.
struct RootParts {
    folder: RootFolder,
    registrar: Registrar,
    _hook: PanicHook,
}

impl Root {
    /// The root of this runtime, with one more user. `settings` boot it if there is none.
    fn enter(settings: impl FnOnce() -> RootBuilder) -> Result<Arc<Self>, Error> {
        let handle = Handle::try_current()
            .map_err(|_none| Error::Usage("no runtime: open a nursery from within a tokio runtime"))?;
        loop {
            let existing = ROOTS.lock().get_or_insert_default().get(&handle.id()).cloned();
            match existing {
                Some(root) => {
                    let mut users = root.users.lock();
                    if *users > 0 {
                        *users += 1;
                        drop(users);
                        return Ok(root);
                    }
                    // It is on its way out, and out of the table in a moment.
                    drop(users);
                    forget(&root);
                }
                None => {
                    // Two tasks that boot at the same time are on one runtime: one of them is first.
                    let _boots = BOOTING.lock();
                    if ROOTS.lock().get_or_insert_default().contains_key(&handle.id()) {
                        continue;
                    }
                    let root = boot_root(settings(), handle.clone())?;
                    ROOTS.lock().get_or_insert_default().insert(handle.id(), Arc::clone(&root));
                    return Ok(root);
                }
            }
        }
    }

    /// One user less. The last one ends the root, and waits for that.
    async fn leave(self: &Arc<Self>) {
        if self.is_last() {
            // As a task, so that it goes on when whoever waits here is dropped.
            let root = Arc::clone(self);
            self.actor.run_last(async move { root.end().await }).await;
        }
    }

    /// Waits for what is left of the root's own code, and takes the root down.
    async fn end(self: &Arc<Self>) {
        self.actor.tasks.close();
        self.actor.tasks.wait().await;
        self.actor.end_what_is_its_own().await;
        self.actor.control.none_living().await;
        let (deferred, clock) = (self.actor.scope.take_deferred(), &self.actor.clock);
        crate::actor::scope::run_deferred(deferred, Some(clock), self.actor.settings.grace).await;
        self.actor.run_exit_hooks().await;
        clock.released().await; // a thread that no task waits for may be held
        self.finish();
        self.actor.drivers.close();
        self.actor.drivers.wait().await;
        forget(self); // nobody needs to wait for it any more, nor to keep its descriptors
    }

    fn is_last(self: &Arc<Self>) -> bool {
        let mut users = self.users.lock();
        *users -= 1;
        let is_last = *users == 0;
        drop(users);
        if is_last {
            forget(self);
        }
        is_last
    }

    /// A signal that came when all its nurseries had been dropped, so that none could say so, ends the
    /// program as it would have without a root.
    fn hand_back_signal(&self) {
        if self.parts.lock().is_none()
            && let Some(signal) = self.actor.take_interruption()
        {
            crate::actor::signals::hand_back(signal);
        }
    }

    /// Ends its threads and removes its files. Once; by then nothing lives below.
    fn finish(&self) {
        let Some(parts) = self.parts.lock().take() else { return };
        self.actor.doors.close();
        for line in self.actor.living_lines() {
            line.close(LineEnd::Shutdown);
        }
        self.actor.end_keeps();
        parts.registrar.stop();
        parts.folder.remove();
        self.actor.control.stop(); // behind the files: it listens for signals, which end this process at once from then on
        self.actor.end_keeps(); // what the control thread has begun since
        // What a dropped nursery has left holds the actor that holds it. With its runtime gone nobody
        // runs it any more.
        drop(self.actor.scope.take_deferred());
        self.actor.forget_tables();
        current::remove_root(self.runtime, &self.actor);
        crash::ended(&self.actor);
    }
}

static BOOTING: Mutex<()> = Mutex::new(());

fn forget(root: &Arc<Root>) {
    if let Some(roots) = ROOTS.lock().as_mut()
        && roots.get(&root.runtime).is_some_and(|other| Arc::ptr_eq(other, root))
    {
        roots.remove(&root.runtime);
    }
    LEAVING.lock().retain(|other| other.parts.lock().is_some());
    if root.parts.lock().is_some() {
        LEAVING.lock().push(Arc::clone(root));
    }
}

/// Roots whose nurseries were dropped, until their processes are gone.
static LEAVING: Mutex<Vec<Arc<Root>>> = Mutex::new(Vec::new());

/// What higher floors have going for the whole process.
static AT_END_OF_MAIN: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Has this called at the end of `main`, before its roots are waited for.
pub(crate) fn at_end_of_main(end: fn()) {
    AT_END_OF_MAIN.lock().push(end);
}

/// Waits, blocking, until every root of this process whose nurseries have ended is gone, and what
/// they had started. For the end of `main`.
pub(crate) fn finish_roots() {
    let ends = std::mem::take(&mut *AT_END_OF_MAIN.lock());
    for end in ends {
        end();
    }
    let mut roots: Vec<Arc<Root>> = std::mem::take(&mut *LEAVING.lock());
    roots.extend(ROOTS.lock().iter().flat_map(HashMap::values).cloned());
    for root in roots {
        // A nursery may still be open, in a task that nobody polls any more.
        root.actor.cancel_self(Canceller { aid: root.actor.aid.clone(), request: CancelRequest::Dropped });
        root.actor.control.wait_none_living();
        root.actor.clock.wait_released();
        root.finish();
        forget(&root);
        root.hand_back_signal();
    }
}

/// The folder of the identity of roots that are told of none.
const IDENTITY_VARIABLE: &str = "TEAMSTER_IDENTITY";

/// Where the agents of hosts listen.
const HOSTS_VARIABLE: &str = "TEAMSTER_HOSTS";

/// Where roots listen that are told of no address.
const LISTEN_VARIABLE: &str = "TEAMSTER_LISTEN";

/// Addresses with commas between them: what is none is an error, with the text that says so.
fn listen_of_environment() -> Result<Vec<Addr>, String> {
    let text = std::env::var(LISTEN_VARIABLE).unwrap_or_default();
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|error: AddrError| error.to_string())).collect()
}

fn boot_root(builder: RootBuilder, runtime: Handle) -> Result<Arc<Root>, Error> {
    let RootBuilder { name, mut settings, etcd } = builder;
    log::install_in_root();
    if settings.log.is_none() {
        settings.log = Some(log::default_directives());
    }
    let failed = |what: &str, error: std::io::Error| Error::Transport {
        what: format!("booting the root actor: {what}"),
        reason: error.to_string(),
    };
    let refused = |error: FolderError| Error::Spawn { name: name.clone(), reason: no_folder(&error) };
    let base = Base::open().map_err(refused)?;
    base.sweep();
    // From here on there is something to remove, and whoever presses ctrl-c now waits until it is.
    let signals = Signals::install().map_err(|error| failed("taking SIGINT and SIGTERM", error))?;
    let folder = base.make_root().map_err(refused)?;
    let aid = Aid::new(name.as_str(), Uuid::new_v4(), std::process::id(), host_id());
    let socket = socket_path(folder.path(), aid.uuid());
    let names = Names::new();
    names.insert(aid.clone(), None, crate::actor::process::start_ticks(aid.pid()).unwrap_or(0), None);
    if settings.transports.is_empty() {
        settings.transports = match std::env::var("TEAMSTER_TRANSPORT") {
            Ok(text) => Transport::parse_list(&text).map_err(|reason| Error::Transport {
                what: "booting the root actor: TEAMSTER_TRANSPORT".to_owned(),
                reason,
            })?,
            Err(_unset) => vec![Transport::Uds],
        };
    }
    if settings.listen.is_empty() {
        settings.listen = listen_of_environment().map_err(|reason| Error::Transport {
            what: format!("booting the root actor: {LISTEN_VARIABLE}"),
            reason,
        })?;
    }
    settings.transports = doors::with_transports_of(&settings.listen, &settings.transports);
    let places = doors::Places {
        transports: settings.transports.clone(),
        listen: settings.listen.clone(),
        ..doors::Places::default()
    };
    let variable = std::env::var_os(IDENTITY_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let authority = settings.identity.clone().or(variable).map(|folder| Authority::open(&folder));
    let authority = authority.transpose().map_err(|error| failed("its identity", error))?;
    if let Ok(text) = std::env::var(HOSTS_VARIABLE) {
        let named = agent::parse_hosts(&text).map_err(|error| failed(HOSTS_VARIABLE, std::io::Error::other(error)))?;
        settings.hosts.extend(named); // behind those of the program, which count first
    }
    let (doors, bound) = doors::of_root(&places, &socket, aid.uuid(), authority)
        .map_err(|error| failed("binding the sockets of its transports", error))?;
    names.set_ready(&aid, doors.addrs());
    let etcd = match etcd {
        Some(etcd) => Some(etcd),
        None => {
            Etcd::from_environment().map_err(|error| failed("finding its registrar", std::io::Error::other(error)))?
        }
    };
    let registrar = Registrar::start(&base, folder.path(), Arc::clone(&names), aid.clone(), etcd.as_ref())
        .map_err(|error| failed("starting its registrar", error))?;
    let control = Control::new(None).map_err(|error| failed("setting up its control thread", error))?;
    let hook = PanicHook::install();
    let id = runtime.id();
    let actor = Actor::new(Parts {
        root: aid.clone(),
        lineage: aid.uuid().simple().to_string(),
        aid,
        parent: None,
        depth: 0,
        settings,
        folder: folder.path().to_owned(),
        doors,
        registrar: Some(registrar.addr()),
        root_addrs: None,
        control: Arc::clone(&control),
        runtime,
        host: crate::guest::here(),
        log_ring: None,
        names: Some(Arc::new(Sink(names))),
    });
    control
        .start(Arc::downgrade(&actor), signals, LineInbox::default())
        .map_err(|error| failed("starting its control thread", error))?;
    actor.open_doors(bound).map_err(|error| failed("watching its sockets", error))?;
    if crash::debugger().is_some() {
        bind_at(&folder.path().join(DEBUG_SOCKET))
            .and_then(|listener| control.watch_debug(listener))
            .map_err(|error| failed("binding its debug socket", error))?;
    }
    current::add_root(id, &actor);
    registrar.serve_for(&actor);
    crash::booted(&actor);
    let parts = RootParts { folder, registrar, _hook: hook };
    Ok(Arc::new(Root { actor, runtime: id, users: Mutex::new(1), parts: Mutex::new(Some(parts)) }))
}

/// Where the system has refused, with its word beside the way out.
fn no_folder(error: &FolderError) -> SpawnReason {
    let said = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    SpawnReason::Folder { path: error.path().display().to_string(), error: format!("{error}{said}") }
}

/// The tree's names, filled by the control thread.
struct Sink(Arc<Names>);

impl NameSink for Sink {
    fn born(&self, aid: &Aid, parent: &Aid, start_ticks: u64, pidfd: Option<&Arc<std::os::fd::OwnedFd>>) {
        // Without a descriptor of its own to spare, the registrar looks into /proc instead.
        let own = pidfd.and_then(|pidfd| rustix::io::fcntl_dupfd_cloexec(pidfd, 0).ok());
        self.0.insert(aid.clone(), Some(parent.uuid()), start_ticks, own);
    }

    fn ready(&self, aid: &Aid, addrs: &Addrs) {
        self.0.set_ready(aid, addrs.clone());
    }

    fn gone(&self, aid: &Aid) {
        self.0.remove(aid.uuid());
    }

    fn living(&self) -> Vec<Living> {
        let mut records = self.0.all();
        records.sort_unstable_by_key(|record| record.born);
        let living =
            |record: Record| Living { aid: record.aid, parent: record.parent, start_ticks: record.start_ticks };
        records.into_iter().map(living).collect()
    }
}

/// Settings of a root, before its first nursery.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::root().grace(Duration::from_secs(5)).open(async |an| {
///     an.start_actor("frank").await?;
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[must_use = "a root is booted by `open`"]
#[derive(Clone, Debug)]
pub struct RootBuilder {
    name: String,
    settings: Settings,
    etcd: Option<Etcd>,
}

/// Begins the settings of a root actor; [`open_nursery`](crate::open_nursery) takes the defaults.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::root().name("shop").open(async |an| {
///     assert_eq!(teamster::this_actor()?.aid().name(), "shop");
///     an.start_actor("till").await?;
///     Ok(())
/// }).await
/// # }
/// ```
pub fn root() -> RootBuilder {
    let debug = crash::settings_of_root();
    RootBuilder { name: "root".to_owned(), settings: Settings { debug, ..Settings::default() }, etcd: None }
}

impl RootBuilder {
    /// Its name. Default: `root`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// teamster::root().name("shop").open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long actors of this tree may take to end once they were asked. Default: 1 s, or what
    /// `TEAMSTER_GRACE_MS` says.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # use std::time::Duration;
    /// teamster::root().grace(Duration::from_secs(5)).open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = bounded(grace);
        self
    }

    /// How long a child may take from its start until it has connected. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # use std::time::Duration;
    /// teamster::root().boot_timeout(Duration::from_secs(30)).open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn boot_timeout(mut self, within: Duration) -> Self {
        self.settings.boot_within = bounded(within);
        self
    }

    /// Which log lines of its actors travel up, where an actor is given no directives of its own.
    /// The variable `TEAMSTER_LOG` goes before it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// teamster::root().log("warn,my_crate=debug").open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn log(mut self, directives: impl Into<String>) -> Self {
        self.settings.log = Some(directives.into());
        self
    }

    /// Bytes of the largest message between actors of this tree: the arguments of a call or a context, its
    /// first word, one item of its stream, its result, one message of [`Topics`](crate::tasks::Topics). The
    /// header counts too: some 40 bytes, and the endpoint's path.
    ///
    /// Default, and at most: 1 GiB; at least 256 KiB. What is larger is an [`Error::Codec`] of whoever
    /// would send it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn echo(text: String) -> String { text }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// teamster::root().message_limit(1 << 20).open(async |an| {
    ///     let frank = an.start_actor("frank").await?;
    ///     let too_long = frank.run(echo(" ".repeat(2 << 20))).await;
    ///     assert!(matches!(too_long, Err(teamster::Error::Codec(_)))); // the line stays up
    ///     frank.run(echo("short".into())).await?;
    ///     Ok(())
    /// }).await
    /// # }
    /// ```
    pub fn message_limit(mut self, bytes: u32) -> Self {
        self.settings.max_frame_bytes = bytes.clamp(MIN_FRAME_BYTES, MAX_FRAME_BYTES);
        self
    }

    /// What the lines of this tree go over, on this host too. Default: what `TEAMSTER_TRANSPORT` says (`uds`, `tcp` or
    /// `insecure`, or several with commas), else Unix sockets.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # use teamster::Transport;
    /// teamster::root().transport(Transport::InsecureTcp).open(async |an| {
    ///     an.start_actor("frank").await?;
    ///     Ok(())
    /// }).await
    /// # }
    /// ```
    pub fn transport(self, transport: Transport) -> Self {
        self.transports([transport])
    }

    /// The same with several: whoever connects takes the nearest that works.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # use teamster::Transport;
    /// teamster::root().transports([Transport::Uds, Transport::InsecureTcp]).open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn transports(mut self, transports: impl IntoIterator<Item = Transport>) -> Self {
        self.settings.transports = Transport::sorted(transports);
        self
    }

    /// Listens at an address of this host's too, for actors on other hosts: at `/ip4/10.0.0.1/tcp/0`, or at all addresses by
    /// `/ip4/0.0.0.0/tcp/0` or `/ip6/::/tcp/0`. Port 0 takes a free one. What it is becomes known by
    /// [`Portal::addrs`](crate::Portal::addrs). Default: what `TEAMSTER_LISTEN` says, addresses with commas between them, else
    /// nowhere but on this host.
    ///
    /// Its actors on the same host listen at the same addresses, each at a free port of its own. One that was started on another
    /// host listens at the address by which it has reached its parent.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// teamster::root().listen("/ip4/127.0.0.1/tcp/0/insecure".parse()?).open(async |_an| {
    ///     assert!(teamster::this_actor()?.addrs().len() > 1);
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn listen(mut self, addr: Addr) -> Self {
        self.settings.listen.push(addr);
        self
    }

    /// Has a cluster's etcd as the registrar: actors are found by name in all trees that name the same one, and not any more in
    /// this user's other trees on this host. Default: what `TEAMSTER_ETCD` says, URLs with commas between them, else the
    /// registrar that each root has.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// let etcd = teamster::discovery::Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    /// teamster::root().registrar(etcd).open(async |_an| Ok(())).await
    /// # }
    /// ```
    #[cfg(feature = "etcd")]
    pub fn registrar(mut self, etcd: Etcd) -> Self {
        self.etcd = Some(etcd);
        self
    }

    /// How long another host may be silent until its actors, or this one over there, count as lost. Default: 5 s; at least
    /// 100 ms. An actor that has lost its parent ends within its grace, and a parent knows after this time and the grace that
    /// a child is gone whose host it has lost.
    ///
    /// Who is late because its machine has no time for it says so, and is waited for up to as long again. Between actors on one
    /// host nothing is timed: the end of a process shows at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// # use std::time::Duration;
    /// teamster::root().lost_after(Duration::from_secs(20)).open(async |_an| Ok(())).await
    /// # }
    /// ```
    pub fn lost_after(mut self, time: Duration) -> Self {
        self.settings.lost_after = bounded_silence(time);
        self
    }

    /// Has the identity in this folder sign the certificates of this tree's actors, instead of an authority that only this
    /// tree knows: trees whose identities are of one authority believe each other on networks. Default: what
    /// `TEAMSTER_IDENTITY` says, if it says anything. It takes the cargo feature `tls`.
    ///
    /// The folder is made by `teamster ca issue NAME`, and is read again when it has changed: the root goes by it from its
    /// next connection on, and its actors 3 s later. `docs/identity.md` has all of it.
    ///
    /// It implies nothing else: lines go over TLS where a [`transport`](RootBuilder::transport) says so.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`], of `open`: a file is missing, the key may be read by others or belongs to another certificate, the
    /// identity has expired or was revoked. Each says what mends it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// let ended = teamster::root().identity("/no/such/folder").open(async |_an| Ok(())).await;
    /// assert!(ended.unwrap_err().to_string().contains("its identity"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn identity(mut self, folder: impl Into<PathBuf>) -> Self {
        self.settings.identity = Some(folder.into());
        self
    }

    /// Says where the agents of hosts listen, for [`ActorBuilder::on`](crate::ActorBuilder::on) in the whole tree. Hosts that
    /// `TEAMSTER_HOSTS` names are known besides.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[teamster::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hosts = [("b", "/dns/b.example/tcp/7117".parse()?), ("c", "/ip4/10.0.0.3/tcp/7117".parse()?)];
    /// teamster::root().identity("/etc/teamster/identity").hosts(hosts).open(async |an| {
    ///     an.actor("w").on("b").start().await?;
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }
    /// ```
    pub fn hosts<N: Into<String>>(mut self, hosts: impl IntoIterator<Item = (N, Addr)>) -> Self {
        self.settings.hosts.extend(hosts.into_iter().map(|(name, addr)| (name.into(), addr)));
        self
    }

    /// Arms the whole tree for debugging, or not: its actors stop where they panic or fail, and at each
    /// [`pause!`](crate::pause). Default: as `#[teamster::main(debug)]` says; `TEAMSTER_DEBUG` counts before both.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// teamster::root().debug(cfg!(debug_assertions)).open(async |an| {
    ///     an.start_actor("frank").await?;
    ///     Ok(())
    /// }).await
    /// # }
    /// ```
    pub fn debug(mut self, is_on: bool) -> Self {
        self.settings.debug.arm_tree(is_on);
        self
    }

    /// Boots the root and runs `body` in its first nursery, as [`open_nursery`](crate::open_nursery)
    /// does.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] inside of an actor: a tree has one root. Else those of `open_nursery`.
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when everything is gone.
    ///
    /// # Cancel safety
    ///
    /// As `open_nursery`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// let sum = teamster::root().open(async |an| Ok(an.actor("adder").call(add(1, 2)).await?)).await?;
    /// assert_eq!(sum, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open<T, F>(self, body: F) -> Result<T, Error>
    where
        F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
    {
        if is_inside_of_a_tree() {
            return Err(Error::Usage("a root inside of a tree: open a nursery with `open_nursery`"));
        }
        self.join(body).await
    }

    /// The same, in the root that is there already, if one is.
    pub(super) async fn join<T, F>(self, body: F) -> Result<T, Error>
    where
        F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
    {
        let root = Root::enter(|| self)?;
        let user = User { root: Some(Arc::clone(&root)) };
        let place = root.actor.place();
        let ended = scope::run_catching(place, body).await;
        if let Ok(Err(error)) = &ended {
            crash::left_root(&root.actor, error);
        }
        user.leave().await;
        let result = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match root.actor.interrupted_by() {
            Some(signal) => {
                let _ = root.actor.take_interruption(); // our caller has it
                Err(interrupted(signal, result.err()))
            }
            None => result,
        }
    }
}

/// Whether this code is part of an actor, or on a runtime whose root is in use.
fn is_inside_of_a_tree() -> bool {
    match current::actor() {
        Ok(actor) if actor.is_root() && current::current().is_none() => {
            let root = ROOTS.lock().get_or_insert_default().get(&actor.runtime.id()).cloned();
            root.is_some_and(|root| *root.users.lock() > 0) // else it is on its way out
        }
        Ok(_) => true,
        Err(_none) => false,
    }
}

/// The signal is the first cause; what had failed besides it stands beside it.
fn interrupted(signal: i32, other: Option<Error>) -> Error {
    let signal = Error::Interrupted { signal };
    let others = other.filter(|error| !super::supervise::is_consequence(error));
    crate::error::Group::collect(std::iter::once(signal.clone()).chain(others)).unwrap_or(signal)
}

/// A nursery's hold on its root. Dropped with the nursery's future, the rest is left to a task, and
/// to the end of `main` if the runtime ends before that.
struct User {
    root: Option<Arc<Root>>,
}

impl User {
    async fn leave(mut self) {
        if let Some(root) = self.root.take() {
            root.leave().await;
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        LEAVING.lock().push(Arc::clone(&root));
        let actor = Arc::clone(&root.actor);
        // Owned by LEAVING: whoever ends the program waits for what this has not done by then.
        actor.spawn_last(async move {
            let deferred = root.actor.scope.take_deferred();
            crate::actor::scope::run_deferred(deferred, Some(&root.actor.clock), root.actor.settings.grace).await;
            root.leave().await;
            root.hand_back_signal();
        });
    }
}

/// Must be the first thing in `main` of a program that uses teamster without `#[teamster::main]`:
/// a process that was started as an actor becomes one here, and never returns.
///
/// Keep the guard: its drop waits until nothing of a dropped nursery is left.
///
/// # Examples
///
/// ```
/// let _guard = teamster::init();
/// let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// let ended = runtime.block_on(teamster::open_nursery(async |an| {
///     an.start_actor("frank").await?;
///     Ok(())
/// }));
/// # ended.expect("it starts, and ends well");
/// ```
#[must_use = "dropped at once, it waits for nothing"]
pub fn init() -> Guard {
    boot::boot_or_be_ready();
    Guard(())
}

/// What [`init`] returns: its drop waits, blocking, for what dropped nurseries have left.
///
/// # Examples
///
/// ```
/// let guard = teamster::init(); // first in `main`
/// // … a runtime, nurseries …
/// drop(guard); // waits for what dropped nurseries have left
/// ```
#[derive(Debug)]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        finish_roots();
    }
}
