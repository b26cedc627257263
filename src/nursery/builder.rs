//! What shall the new actor be like, and how is it started?
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use uuid::Uuid;

use super::certify;
use super::one_shot::{self, OneShot};
use super::scope::ActorNursery;
use super::supervise::{Care, Nursery};
use crate::actor::child::{Child, Refusal};
use crate::actor::endpoint::{Call, Endpoint};
use crate::actor::host::host_id;
use crate::actor::peers::canceller;
use crate::actor::{boot, bounded, bounded_silence, doors};
use crate::error::{Error, SpawnReason};
use crate::guest::HostLoop;
use crate::msg::addr::{Addr, Transport};
use crate::msg::death::ExitKind;
use crate::msg::ident::{Aid, CancelRequest};
use crate::portal::{Portal, Prepared, decode_result};
use crate::spawn::agent::Agent;
use crate::spawn::launch::{Request, Spawner, limit};
use crate::spawn::launcher::Launcher;
use crate::spawn::python::{self, Python};
use crate::spawn::{Options, Output, Resource};

/// What a new actor shall be like. Begin with [`ActorNursery::actor`], end with
/// [`start`](ActorBuilder::start), [`call`](ActorBuilder::call) or
/// [`run_in_actor`](ActorBuilder::run_in_actor).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let worker = an
///     .actor("worker")
///     .threads(4)
///     .grace(Duration::from_secs(3))
///     .env("RUST_BACKTRACE", "1")
///     .expose([module_path!()])
///     .start()
///     .await?;
/// assert_eq!(worker.run(add(1, 2)).await?, 3);
/// # Ok(()) }).await }
/// ```
#[must_use = "nothing is started before `start`, `call` or `run_in_actor`"]
#[derive(Clone, Debug)]
pub struct ActorBuilder<'n> {
    nursery: &'n ActorNursery,
    name: String,
    options: Options,
}

impl<'n> ActorBuilder<'n> {
    pub(super) fn new(nursery: &'n ActorNursery, name: &str, options: Options) -> Self {
        ActorBuilder { nursery, name: name.to_owned(), options }
    }

    /// How long it may take to end once it was asked, and all below it; zero: they are killed at once.
    /// Default: this actor's own grace, 1 s at the root.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use std::time::Duration;
    /// an.actor("worker").grace(Duration::from_secs(3)).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = Some(bounded(grace));
        self
    }

    /// How long it may take from its start until it has connected. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use std::time::Duration;
    /// an.actor("worker").boot_timeout(Duration::from_secs(30)).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn boot_timeout(mut self, within: Duration) -> Self {
        self.options.boot_within = Some(bounded(within));
        self
    }

    /// Lets only these endpoints be called in it: paths, or modules with all below them. Default:
    /// every endpoint of the program.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let none = an.actor("worker").expose(["no::such::module"]).start().await?;
    /// assert!(matches!(none.run(add(1, 2)).await, Err(teamster::Error::NotExposed { .. })));
    /// let all_of_here = an.actor("worker").expose([module_path!()]).start().await?;
    /// assert_eq!(all_of_here.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn expose<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.options.expose = Some(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Gives it a runtime of so many worker threads. Default, and with 1: one thread that does
    /// everything (tokio's `current_thread`).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("worker").threads(4).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn threads(mut self, threads: u32) -> Self {
        self.options.threads = threads;
        self
    }

    /// Has a host's loop run in its process, with the actor as its guest: its tasks run on that loop's thread, in slices
    /// between callbacks of the loop's own. See [`guest`](crate::guest).
    ///
    /// The loop is a function with [`#[teamster::host_loop]`](macro@crate::host_loop). It has a runtime of one thread
    /// beside it, whatever [`threads`](ActorBuilder::threads) says.
    ///
    /// # Errors
    ///
    /// Of [`start`](ActorBuilder::start): [`Error::Spawn`] if the loop's arguments can't be encoded; if the program that is
    /// started has no such loop; if the loop returns, fails or panics before it has run its guest, or does not run it
    /// within nine tenths of the boot timeout. What was wrong is at the end of the child's stderr, which the error has.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use teamster::guest::{Guest, Slice};
    ///
    /// #[teamster::host_loop]
    /// fn queue(guest: Guest) {
    ///     let (soon, slices) = mpsc::channel::<Option<Slice>>();
    ///     let over = soon.clone();
    ///     guest.start(move |slice| drop(soon.send(Some(slice))), move || drop(over.send(None)));
    ///     while let Ok(Some(slice)) = slices.recv() {
    ///         slice.run();
    ///     }
    /// }
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let clock = an.actor("clock").infect(queue()).start().await?;
    /// assert_eq!(clock.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn infect(mut self, host: impl Into<HostLoop>) -> Self {
        self.options.host = Some(host.into());
        self
    }

    /// Which of its log lines travel up: directives such as `info` or `warn,my_crate=debug`. Those of
    /// the variable `TEAMSTER_LOG` go before them, in the whole tree.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("worker").log("warn,my_crate=debug").start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn log(mut self, directives: impl Into<String>) -> Self {
        self.options.log = Some(directives.into());
        self
    }

    /// What the lines to it go over: it listens there, and so do those that it starts. Default: as this actor.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Transport;
    /// let worker = an.actor("worker").transport(Transport::InsecureTcp).start().await?;
    /// assert_eq!(worker.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn transport(self, transport: Transport) -> Self {
        self.transports([transport])
    }

    /// It listens at an address of its host's too, for actors on other hosts: as [`RootBuilder::listen`](crate::RootBuilder::listen).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").listen("/ip4/127.0.0.1/tcp/0/insecure".parse()?).start().await?;
    /// assert!(worker.addrs().iter().any(|addr| addr.to_string().ends_with("/insecure")));
    /// # Ok(()) }).await }
    /// ```
    pub fn listen(mut self, addr: Addr) -> Self {
        self.options.listen.push(addr);
        self
    }

    /// How long its host may be silent until it counts as lost, and this one's until it ends itself. Default: as this actor;
    /// see [`RootBuilder::lost_after`](crate::RootBuilder::lost_after).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use std::time::Duration;
    /// an.actor("worker").lost_after(Duration::from_secs(20)).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn lost_after(mut self, time: Duration) -> Self {
        self.options.lost_after = Some(bounded_silence(time));
        self
    }

    /// The same with several: whoever connects takes the nearest that works.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Transport;
    /// an.actor("worker").transports([Transport::Uds, Transport::InsecureTcp]).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn transports(mut self, transports: impl IntoIterator<Item = Transport>) -> Self {
        self.options.transports = Some(Transport::sorted(transports));
        self
    }

    /// How its process comes to be. Default: [`launch::Local`](crate::launch::Local).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::launch::Program;
    /// let copy = Program::new(std::env::current_exe()?); // some executable of this build
    /// an.actor("worker").launcher(copy).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn launcher(mut self, launcher: impl Launcher + 'static) -> Self {
        self.options.launcher = Some(Arc::new(launcher));
        self
    }

    /// Makes it a Python program: a script that imports `teamster`, says which of its functions can be called, and ends with
    /// `teamster.run()`. Short for [`launcher`](ActorBuilder::launcher) with [`launch::Python`](crate::launch::Python), which
    /// says more.
    ///
    /// Its functions are called by their paths: `script::function`, where the script is `script.py`. A function without a body
    /// says once what those take and give.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// #[teamster::rpc(name = "legacy::square")] // that of `legacy.py`
    /// async fn square(n: u64) -> u64;
    ///
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let legacy = an.actor("legacy").python("legacy.py").start().await?;
    /// assert_eq!(legacy.run(square(7)).await?, 49);
    /// let same: u64 = legacy.run_by_path("legacy::square", (7,)).await?;
    /// # assert_eq!(same, 49);
    /// # Ok(()) }).await }
    /// ```
    pub fn python(self, program: impl Into<Python>) -> Self {
        self.launcher(program.into())
    }

    /// Starts it on another host, by the agent there (`teamster serve`): short for
    /// [`launcher`](ActorBuilder::launcher) with [`launch::Agent`](crate::launch::Agent), which says more.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
    /// // The agent there shows the identity `host-b`, and is found by that name at the port 7117.
    /// teamster::root().identity("/etc/teamster/identity").open(async |an| {
    ///     let worker = an.actor("worker").on("host-b").start().await?;
    ///     assert_eq!(worker.run(add(1, 2)).await?, 3);
    ///     Ok(())
    /// }).await
    /// # }
    /// ```
    pub fn on(self, host: impl Into<String>) -> Self {
        self.launcher(Agent::new(host))
    }

    /// Sets an environment variable; it inherits all others.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn var(key: String) -> Option<String> { std::env::var(key).ok() }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").env("MODE", "fast").start().await?;
    /// assert_eq!(worker.run(var("MODE".into())).await?.as_deref(), Some("fast"));
    /// # Ok(()) }).await }
    /// ```
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.options.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes an environment variable away.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn var(key: String) -> Option<String> { std::env::var(key).ok() }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").env_remove("HOME").start().await?;
    /// assert_eq!(worker.run(var("HOME".into())).await?, None);
    /// # Ok(()) }).await }
    /// ```
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.options.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Begins with an empty environment instead of this process's own.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # #[teamster::rpc] async fn var(key: String) -> Option<String> { std::env::var(key).ok() }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").env_clear().env("MODE", "fast").start().await?;
    /// assert_eq!(worker.run(var("PATH".into())).await?, None);
    /// # Ok(()) }).await }
    /// ```
    pub fn env_clear(mut self) -> Self {
        self.options.env_clear = true;
        self
    }

    /// Gives it other command-line arguments than this process's own.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn args() -> Vec<String> { std::env::args().skip(1).collect() }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").args(["--quiet"]).start().await?;
    /// assert_eq!(worker.run(args()).await?, ["--quiet"]);
    /// # Ok(()) }).await }
    /// ```
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.options.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Its working directory.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn folder() -> std::io::Result<std::path::PathBuf> { std::env::current_dir() }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").current_dir("/").start().await?;
    /// assert_eq!(worker.run(folder()).await?, std::path::Path::new("/"));
    /// # Ok(()) }).await }
    /// ```
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.current_dir = Some(folder.into());
        self
    }

    /// Where its stdout goes.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("quiet").stdout(teamster::Output::Null).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn stdout(mut self, output: Output) -> Self {
        self.options.stdout = output;
        self
    }

    /// Where its stderr goes. What is not relayed is not kept for its death either.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("quiet").stderr(teamster::Output::Null).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn stderr(mut self, output: Output) -> Self {
        self.options.stderr = output;
        self
    }

    /// Its file mode creation mask, umask(2): the permission bits that new files of it don't get, such as
    /// `0o077`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("private").umask(0o077).start().await?; // files of its own are nobody else's
    /// # Ok(()) }).await }
    /// ```
    pub fn umask(mut self, mask: u32) -> Self {
        self.options.umask = Some(mask);
        self
    }

    /// Its nice value, -20 to 19: setpriority(2).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("background").nice(10).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn nice(mut self, nice: i32) -> Self {
        self.options.nice = Some(nice);
        self
    }

    /// Limits a resource of it, setrlimit(2), in the unit that [`Resource`] names: bytes, seconds or a number.
    /// It may raise the soft limit up to the hard one. `u64::MAX` is no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Resource;
    /// an.actor("worker").rlimit(Resource::Cpu, 60, u64::MAX).start().await?; // SIGXCPU after a minute of work
    /// # Ok(()) }).await }
    /// ```
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.options.limit(resource, soft, hard);
        self
    }

    /// Arms this actor for debugging, beside what its tree is: it stops where it panics or fails, and at each
    /// [`pause!`](crate::pause), and the prompt opens in the root's terminal. `docs/debugging.md` has more.
    ///
    /// The actors above and below it are armed by themselves, or not. It gets a multi-thread runtime with one
    /// worker, so that its other tasks go on while one of them is stopped.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.actor("frank").debug(true).start().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn debug(mut self, is_on: bool) -> Self {
        self.options.debug = is_on;
        self
    }

    /// Starts it as a service actor; see [`ActorNursery::start_actor`].
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] if it could not be started; its reason says why and what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the child that was being started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let worker = an.actor("worker").threads(2).start().await?;
    /// assert_eq!(worker.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub async fn start(self) -> Result<Portal, Error> {
        let started = start(&self.nursery.nursery, &self.name, self.options, Care::OfNursery).await?;
        let portal = started.portal();
        started.keep();
        Ok(portal)
    }

    /// Starts it for one call, waits for the result, and ends it. Whatever fails is the caller's
    /// error alone: the nursery goes on.
    ///
    /// # Errors
    ///
    /// Those of [`start`](ActorBuilder::start) and of [`Portal::run`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the actor.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// assert_eq!(an.actor("adder").call(add(1, 2)).await?, 3); // and it is gone
    /// # Ok(()) }).await }
    /// ```
    pub async fn call<E: Endpoint>(self, call: Call<E>) -> Result<E::Output, Error> {
        let nursery = &self.nursery.nursery;
        let prepared = Prepared::for_child(&nursery.actor, &call, self.options.runs())?;
        let bytes = one_shot::run(nursery, &self.name, self.options, &prepared, Care::OfCaller).await?;
        decode_result::<E>(&bytes)
    }

    /// Starts it now for one call, supervised by the nursery; see [`ActorNursery::run_in_actor`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let sum = an.actor("adder").nice(10).run_in_actor(add(1, 2));
    /// assert_eq!(sum.await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn run_in_actor<E: Endpoint>(self, call: Call<E>) -> OneShot<E> {
        OneShot::start(&self.nursery.nursery, self.name, self.options, call)
    }
}

/// A child that has just connected. Dropped without [`Started::keep`], it is ended.
pub(crate) struct Started<'n> {
    nursery: &'n Arc<Nursery>,
    child: Option<Arc<Child>>,
}

impl Started<'_> {
    pub(crate) fn portal(&self) -> Portal {
        let child = self.child.as_ref().expect("it is taken by `keep`, which consumes us");
        Portal::to_child(Arc::clone(&self.nursery.actor), Arc::clone(child))
    }

    pub(crate) fn keep(mut self) -> Arc<Child> {
        self.child.take().expect("it is taken here alone")
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let canceller = canceller(&self.nursery.actor.aid, CancelRequest::Dropped);
            self.nursery.actor.cancel_child(&child, &canceller, child.grace);
        }
    }
}

/// Starts a child of the nursery and waits until both its lines are up.
pub(crate) async fn start<'n>(
    nursery: &'n Arc<Nursery>,
    name: &str,
    mut options: Options,
    care: Care,
) -> Result<Started<'n>, Error> {
    let failed = |reason| Error::Spawn { name: name.to_owned(), reason };
    if !boot::is_ready() {
        return Err(failed(SpawnReason::NotInitialised));
    }
    if !is_name(name) {
        let text = format!("a name has 1 to {MAX_NAME_BYTES} bytes, no NUL and no line break");
        return Err(failed(SpawnReason::Other(text)));
    }
    if let Some(Err(error)) = options.host.as_ref().map(HostLoop::args) {
        return Err(failed(SpawnReason::Other(format!("its host's loop: {error}"))));
    }
    let actor = &nursery.actor;
    let spawner = Spawner::of(actor).map_err(|error| failed(limit(&error)))?;
    // Whoever waits here has not begun, and need not be ended.
    let turn = spawner.turn(options.launcher.as_deref().map(|launcher| launcher as &dyn Launcher)).await;
    nursery.begin_start().map_err(failed)?;
    let starting = Starting { nursery: Arc::clone(nursery), care, child: None };
    let outcome = Arc::new(SetOnce::new());
    let told = Arc::clone(&outcome);
    let aid = Aid::new(name, Uuid::new_v4(), 0, host_id());
    let program = options
        .launcher
        .as_ref()
        .map_or_else(|| "this executable".to_owned(), |l| format!("{:?}", l.command().get_program()));
    let python = options.launcher.as_ref().and_then(|launcher| launcher.python()).cloned();
    if let Some((addr, why)) = options.listen.iter().find_map(|addr| Some((addr, doors::refuses(addr)?))) {
        return Err(failed(SpawnReason::Other(format!("it can't listen at {addr}: {why}"))));
    }
    if python.is_some() {
        options.transports.get_or_insert_with(|| python::transports(&actor.settings.transports));
    }
    let transports = options.transports.as_deref().unwrap_or(&actor.settings.transports);
    let goes_far = transports.iter().any(|transport| transport.is_secured());
    let by_network = Some(Transport::Tcp).filter(|_| options.is_far() && !goes_far);
    let transports: Vec<Transport> = transports.iter().copied().chain(by_network).collect();
    let transports = doors::with_transports_of(&options.listen, &transports);
    let credentials = certify::prepare(actor, &transports, aid.uuid(), options.is_far()).await;
    options.transports = Some(transports);
    let credentials = credentials.map_err(|reason| failed(SpawnReason::Other(reason)))?;
    if let Some(agent) = options.launcher.as_ref().and_then(|launcher| launcher.agent()) {
        let envoy = certify::envoy(actor, agent, &aid).await;
        options.envoy = Some(envoy.map_err(|reason| failed(SpawnReason::Other(reason)))?);
    }
    let spawned = Box::new(move |result: Result<Arc<Child>, SpawnReason>| {
        let mut starting = starting;
        starting.child = result.as_ref().ok().cloned();
        drop(starting);
        // Set here alone.
        let _ = told.set(result);
    });
    let is_shielded = nursery.is_shielded;
    spawner.start(Request { actor: Arc::clone(actor), aid, options, credentials, is_shielded, turn, spawned }).await;
    // Dropped from here on, the child is ended: by us if we know it, else by what is told later.
    let mut late = EndIfLate { nursery, outcome: &outcome, is_armed: true };
    let child = Arc::clone(outcome.wait().await.as_ref().map_err(|reason| failed(reason.clone()))?);
    tracing::debug!(target: "teamster::nursery", actor = %child.aid, pid = child.aid.pid(), "an actor starts");
    tokio::select! {
        biased; // one that has connected and died since is the nursery's to hear of
        () = async { *child.connected.wait().await } => {}
        ended = child.reaped.wait() => {
            late.is_armed = false;
            child.gone().await;
            let story = child.story.lock();
            let reason = match (&story.asked, story.boot_timeout, child.refused.get()) {
                (_, Some(after), _) => SpawnReason::BootTimeout { after },
                (_, None, Some(Refusal::OtherBuild)) => SpawnReason::WrongBuild { program },
                (_, None, Some(Refusal::Limit { error, errno })) => {
                    SpawnReason::Limit { error: error.clone(), errno: *errno }
                }
                (Some(canceller), None, None) => SpawnReason::Cancelled(canceller.clone()),
                (None, None, None) => match python.filter(|_| ended.death.exit() == ExitKind::Status(0)) {
                    Some(python) => SpawnReason::Other(python.never_ran(&ended.death)),
                    None => SpawnReason::DiedBooting(ended.death.clone()),
                },
            };
            return Err(failed(reason));
        }
    }
    tracing::debug!(target: "teamster::nursery", actor = %child.aid, "an actor is ready");
    late.is_armed = false;
    Ok(Started { nursery, child: Some(child) })
}

/// Bytes of the longest name: those of a file name.
pub(super) const MAX_NAME_BYTES: usize = 255;

pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(['\0', '\n'])
}

/// Tells the nursery what a start has come to, also when the request was never served.
pub(super) struct Starting {
    pub(super) nursery: Arc<Nursery>,
    pub(super) care: Care,
    pub(super) child: Option<Arc<Child>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.nursery.end_start(self.child.as_ref(), self.care);
    }
}

/// Ends a child whose start nobody waits for any more.
struct EndIfLate<'a> {
    nursery: &'a Arc<Nursery>,
    outcome: &'a Arc<SetOnce<Result<Arc<Child>, SpawnReason>>>,
    is_armed: bool,
}

impl Drop for EndIfLate<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let (nursery, outcome) = (Arc::clone(self.nursery), Arc::clone(self.outcome));
        let end = move |child: &Arc<Child>| {
            let canceller = canceller(&nursery.actor.aid, CancelRequest::Dropped);
            nursery.actor.cancel_child(child, &canceller, Duration::ZERO);
        };
        match outcome.get() {
            Some(Ok(child)) => end(child),
            Some(Err(_)) => {}
            None => self.nursery.actor.spawn_driver(async move {
                if let Ok(child) = outcome.wait().await {
                    end(child);
                }
            }),
        }
    }
}
