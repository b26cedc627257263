//! Is this process a child? The boot message on stdin, the two lines back, and the way out.
#![allow(unsafe_code, reason = "the boot variable is removed, and fd 0 replaced, before anything else runs")]
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::as_guest::Life;
use super::control::Control;
use super::crash::DEBUG_SOCKET;
use super::doors::{self, Bound, Doors, Places};
use super::log::LogRing;
use super::panics::PanicHook;
use super::signals::{self, Signals};
use super::stdin::read_message;
use super::traces::{Origin, traced};
use super::{Actor, Parent, Parts, Settings, envoy, host, keeper, listener, warden};
use crate::channel::Inbox;
use crate::channel::driver::{drive, framed};
use crate::channel::handshake::{self, HANDSHAKE_WITHIN};
use crate::channel::line::{Line, LineInbox};
use crate::channel::{CancelLine, Channel};
use crate::guest::{self, Boarding};
use crate::msg::addr::{Addr, Addrs};
use crate::msg::codec;
use crate::msg::frame::{Encoding, Frame, Hello, LineKind, PROTOCOL};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::spec::SpawnSpec;
use crate::proto::connection::Side;
use crate::transport::dial::{Caller, Failure, SILENT};
use crate::transport::socket::Socket;
use crate::transport::stream::Stream;
use crate::transport::tls::Identity;
use crate::transport::uds;

/// Set in the environment of a process that is to boot as a child.
pub(crate) const BOOT_VARIABLE: &str = "TEAMSTER_BOOT";

/// Set in the environment of an actor's process to [`SpawnSpec::lineage`]: so its ancestors find it when nobody
/// is left who has told them of it. The process takes it out, and its helpers have none.
pub(crate) const LINEAGE_VARIABLE: &str = "TEAMSTER_LINEAGE";

/// What the process of an actor is to find around it, and a group of its own: the terminal's ctrl-c reaches the root alone, and
/// a kill takes its helpers.
pub(crate) fn surround<'e>(
    command: &mut Command,
    env_clear: bool,
    env: impl IntoIterator<Item = (&'e OsStr, Option<&'e OsStr>)>,
    current_dir: Option<&Path>,
    lineage: &str,
) {
    if env_clear {
        command.env_clear();
    }
    for (key, value) in env {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.env(BOOT_VARIABLE, "1").env(LINEAGE_VARIABLE, lineage);
    if let Some(folder) = current_dir {
        command.current_dir(folder);
    }
    command.process_group(0);
}

/// Bytes of the largest boot message: it must fit a pipe's buffer, so that nobody waits for it.
pub(crate) const MAX_BOOT_BYTES: usize = 60 * 1024;

/// Whether this program calls us first in its `main`: only then can it be its own child.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Whether children can be started from this executable.
pub(crate) fn is_ready() -> bool {
    IS_READY.load(Ordering::Acquire)
}

/// Becomes the child that this process was started as, and never returns; or returns at once, and this
/// process can be started as a child from then on.
pub(crate) fn boot_or_be_ready() {
    boot_if_spawned();
    IS_READY.store(true, Ordering::Release);
}

/// The same for a process that is not ready by that: its own code may never come here.
pub(crate) fn boot_if_spawned() {
    let asked = std::env::var_os(BOOT_VARIABLE);
    let is = |mode: &str| asked.as_deref() == Some(OsStr::new(mode));
    let (is_keeper, is_envoy, is_warden) = (is(keeper::KEEP), is(envoy::LEAD), is(warden::WARD));
    if !is_keeper && !is_envoy && !is_warden && !is("1") {
        return;
    }
    IS_READY.store(true, Ordering::Release); // what could start this child can start its children
    // SAFETY: this is the first thing that `main` does. Where a runtime runs already (`init()` in
    // an async main), its workers have nothing to do yet, and nothing that reads the environment.
    unsafe {
        std::env::remove_var(BOOT_VARIABLE);
        std::env::remove_var(LINEAGE_VARIABLE);
    }
    if is_keeper {
        keeper::keep();
    }
    if is_envoy {
        envoy::lead();
    }
    if is_warden {
        warden::ward();
    }
    if tokio::runtime::Handle::try_current().is_ok() {
        // A runtime can't be started on a thread of another one.
        let booted = std::thread::Builder::new().name("teamster-boot".into()).spawn(boot);
        if let Ok(thread) = booted {
            let _never_returns = thread.join();
        }
        signals::exit_now(BOOT_FAILED);
    }
    boot()
}

/// The exit status of a child that could not boot; its stderr says why.
pub(super) const BOOT_FAILED: i32 = 70;

fn boot() -> ! {
    let prepared = match prepare() {
        Ok(prepared) => prepared,
        Err(BootError::Orphan) => signals::exit_now(0),
        Err(BootError::Failed(what, error)) => {
            eprintln!("teamster: this child can't boot: {what}: {error}");
            signals::exit_now(BOOT_FAILED)
        }
    };
    match serve(prepared) {
        Ok(never) => match never {},
        Err((what, error)) => {
            eprintln!("teamster: this child can't boot: {what}: {error}");
            signals::exit_now(BOOT_FAILED)
        }
    }
}

enum BootError {
    /// The parent went away before it had sent the boot message.
    Orphan,
    Failed(&'static str, io::Error),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |error| BootError::Failed(what, error)
}

/// Reads the boot message, makes the process what it says, and connects both lines.
fn prepare() -> Result<Prepared, BootError> {
    let spec = read_spec()?;
    // A dead parent shows as the end of its lines, to whoever runs: this wakes one that is stopped, or
    // about to be. An error costs no more than that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT));
    replace_stdin().map_err(failed("opening /dev/null"))?;
    apply(&spec);
    let identity =
        spec.credentials.as_ref().map(Identity::new).transpose().map_err(failed("reading its certificate"))?;
    let host = spec.host.as_ref().map(|host| guest::find(&host.path)).transpose();
    let host = host.map_err(|text| BootError::Failed("looking for its host's loop", io::Error::other(text)))?;
    let mut runtime = None;
    let mut connect = || connect(&spec, identity.as_ref(), &mut runtime);
    let control = connect().map_err(failed("connecting the control line to the parent"))?;
    say_hello(&control, &spec, LineKind::Control, Addrs::default()).map_err(failed("speaking to the parent"))?;
    let data = connect().map_err(failed("connecting the data line to the parent"))?;
    Ok(Prepared { spec, identity, host, control, data })
}

fn read_spec() -> Result<SpawnSpec, BootError> {
    let message = read_message(&mut io::stdin().lock(), MAX_BOOT_BYTES);
    let bytes = message.map_err(failed("reading the boot message"))?.ok_or(BootError::Orphan)?;
    let mut spec: SpawnSpec = codec::decode(&bytes)
        .map_err(|error| BootError::Failed("decoding the boot message", io::Error::other(error.to_string())))?;
    if spec.protocol.0 != PROTOCOL.0 {
        let error =
            io::Error::other(format!("the parent speaks protocol {}, we speak {}", spec.protocol.0, PROTOCOL.0));
        return Err(BootError::Failed("reading the boot message", error));
    }
    match spec.is_host_known {
        true => host::set(spec.aid.host_id()),
        false => spec.aid = spec.aid.at(0, host::host_id()),
    }
    Ok(spec)
}

/// The boot pipe is of no more use, and user code must not find it.
pub(crate) fn replace_stdin() -> io::Result<()> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}

/// What of the spec belongs to the process. What the system refuses is said, and we go on.
fn apply(spec: &SpawnSpec) {
    name_process(&spec.aid);
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        eprintln!("teamster: can't become a subreaper: {error}");
    }
    if let Some(umask) = spec.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    }
    if let Some(nice) = spec.nice
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        eprintln!("teamster: can't set the nice value {nice}: {error}");
    }
    for (resource, soft, hard) in &spec.rlimits {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: setrlimit reads one structure, which is on our stack.
        if unsafe { libc::setrlimit(*resource, &raw const limit) } != 0 {
            eprintln!("teamster: can't set the resource limit {resource}: {}", io::Error::last_os_error());
        }
    }
}

/// What `ps` and `top` show. The kernel keeps 15 bytes of it, and a process without a title is none the worse.
fn name_process(aid: &Aid) {
    let title = format!("teamster:{}", aid.name());
    if rustix::thread::gettid() == rustix::process::getpid()
        && let Ok(title) = CString::new(title.as_str())
    {
        // The name of its first thread is that of the process.
        let _ = rustix::thread::set_name(&title);
    } else {
        let _ = std::fs::write("/proc/self/comm", &title);
    }
}

/// A connection to the parent, by the nearest of its addresses that works. `runtime`: made when one is needed.
fn connect(
    spec: &SpawnSpec,
    identity: Option<&Identity>,
    runtime: &mut Option<tokio::runtime::Runtime>,
) -> io::Result<Stream> {
    let may_use = |addr: &&Addr| spec.transports.contains(&addr.transport());
    let ways = host::ways_to(&spec.parent, spec.parent_addrs.as_slice());
    let mut addrs = ways.into_iter().filter(may_use).peekable();
    if let Some(Addr::Uds(path)) = addrs.peek()
        && let Ok(fd) = uds::dial(path)
    {
        return Ok(Stream::plain(fd)); // without a runtime
    }
    let caller = Caller { identity, lost_after: Duration::from_millis(spec.lost_after_ms) };
    let dial = async { tokio::time::timeout(HANDSHAKE_WITHIN, caller.dial(spec.parent.uuid(), addrs)).await };
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => runtime.insert(tokio::runtime::Builder::new_current_thread().enable_all().build()?),
    };
    match runtime.block_on(dial) {
        Ok(Ok((_addr, stream))) => Ok(stream),
        Ok(Err(failures)) => Err(failed_at(&failures)),
        Err(_late) => Err(io::Error::new(io::ErrorKind::TimedOut, SILENT)),
    }
}

fn failed_at(failures: &[Failure<'_>]) -> io::Error {
    if failures.is_empty() {
        return io::Error::new(io::ErrorKind::NotFound, "it has no address that we may use");
    }
    let told: Vec<String> = failures.iter().map(|(addr, error)| format!("{addr}: {error}")).collect();
    io::Error::other(told.join("; "))
}

pub(super) fn say_hello(stream: &Stream, spec: &SpawnSpec, line: LineKind, addrs: Addrs) -> io::Result<()> {
    let token = match line {
        LineKind::Control => Some(spec.control_token),
        LineKind::Data => Some(spec.data_token),
        LineKind::Debug => None,
    };
    let hello = Hello {
        protocol: PROTOCOL,
        aid: spec.aid.with_pid(std::process::id()),
        line,
        token,
        build: Some(super::build::build_id().to_vec()),
        addrs,
        wanted: Some(spec.parent.uuid()),
    };
    let bytes = framed(&Frame::Hello(hello), &[]);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        rest = &rest[stream.send(rest)?..];
    }
    Ok(())
}

enum Never {}

/// A child that knows what it is to be, with both lines to its parent.
struct Prepared {
    spec: SpawnSpec,
    identity: Option<Identity>,
    /// Whose guest it is to be.
    host: Option<&'static guest::Registration>,
    control: Stream,
    data: Stream,
}

fn serve(prepared: Prepared) -> Result<Never, (&'static str, io::Error)> {
    let Prepared { spec, identity, host, control, data } = prepared;
    let at = |what: &'static str| move |error: io::Error| (what, error);
    let socket = crate::transport::folder::socket_path(&spec.folder, spec.aid.uuid());
    let places = Places::of_child(&spec.transports, &spec.listen, &spec.parent_addrs, control.own_ip());
    let (bound, addrs, doors) = if spec.is_worker {
        (Vec::new(), Addrs::default(), Doors::for_later(places, identity))
    } else {
        let bound = doors::bind(&places, &socket, identity.as_ref());
        let (bound, addrs) = bound.map_err(at("binding its own socket"))?;
        (bound, addrs.clone(), Doors::at(addrs, identity))
    };
    let signals = Signals::install().map_err(at("taking SIGINT and SIGTERM"))?;
    if host.is_none() {
        // Only now: whoever hears of us by this Hello may connect to us, and send us a signal.
        say_hello(&data, &spec, LineKind::Data, addrs.clone()).map_err(at("speaking to the parent"))?;
    }
    let _hook = PanicHook::install();
    let mut runtime = match spec.threads {
        // All that it may do is wait: the tasks are on their host's thread.
        _ if host.is_some() => tokio::runtime::Builder::new_current_thread(),
        // A stop blocks its thread, and hands the other tasks to a new one: that takes a runtime that can.
        0 | 1 if spec.debug.own.is_armed() => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1);
            builder
        }
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads as usize);
            builder
        }
    };
    let runtime = runtime.enable_all().build().map_err(at("starting its runtime"))?;
    let aid = spec.aid.with_pid(std::process::id());
    let ring = Arc::new(LogRing::new(aid.clone()));
    super::log::install_in_child(spec.log.as_deref(), Arc::clone(&ring));
    let (guest, boarding) = host.map(|_| guest::board(runtime.handle().clone())).unzip();
    let up = Arc::new(Line::new(control));
    let control = Control::new(Some(Arc::clone(&up))).map_err(at("setting up its control thread"))?;
    let actor = Actor::new(Parts {
        aid,
        root: spec.root.clone(),
        parent: Some(Parent::new(spec.parent.clone(), spec.parent_addrs.clone())),
        depth: spec.depth,
        lineage: spec.lineage.clone(),
        settings: Settings {
            grace: Duration::from_millis(spec.grace_ms),
            max_frame_bytes: spec.max_frame_bytes,
            expose: spec.expose.clone(),
            log: spec.log.clone(),
            debug: spec.debug,
            transports: spec.transports.clone(),
            listen: spec.listen.clone(),
            lost_after: Duration::from_millis(spec.lost_after_ms),
            is_worker: spec.is_worker,
            ..Settings::default()
        },
        folder: spec.folder.clone(),
        doors,
        registrar: spec.registrar.clone(),
        root_addrs: Some(spec.root_addrs.clone()),
        control: Arc::clone(&control),
        runtime: runtime.handle().clone(),
        host: boarding.as_ref().map(|boarding: &Boarding| Arc::clone(&boarding.host)),
        log_ring: Some(ring),
        names: None,
    });
    super::current::set_spawned(&actor);
    super::crash::booted(&actor);
    control.start(Arc::downgrade(&actor), signals, LineInbox::default()).map_err(at("starting its control thread"))?;
    if spec.is_kept && super::crash::debugger().is_some() {
        // Where the actors of this host look for the root's debugger. Nobody is stopped without one, either.
        let bound = uds::bind_at(&spec.folder.join(DEBUG_SOCKET)).and_then(|listener| control.watch_debug(listener));
        bound.map_err(at("binding its debug socket"))?;
    }
    let lines = Lines { data, bound, up };
    let runtime = match host.zip(guest).zip(boarding) {
        Some(((host, guest), boarding)) => {
            let life = Life { actor: Arc::clone(&actor), spec, addrs, lines };
            life.run(runtime, host, guest, boarding).map_err(at("starting the thread on which it waits"))?
        }
        None => {
            if let Err(error) = runtime.block_on(live(Arc::clone(&actor), lines)) {
                not_let_in(&actor, &error);
            }
            runtime
        }
    };
    leave(&actor, runtime)
}

/// The parent went away, or does not want us: nothing is left to serve.
pub(super) fn not_let_in(actor: &Actor, error: &handshake::HandshakeError) -> ! {
    eprintln!("teamster: {}: the parent did not let us in: {error}", actor.aid);
    signals::exit_now(BOOT_FAILED)
}

/// What connects an actor, before its runtime does anything.
pub(super) struct Lines {
    pub(super) data: Stream,
    bound: Vec<Bound>,
    up: Arc<Line>,
}

/// From the handshake to the last frame.
pub(super) async fn live(actor: Arc<Actor>, lines: Lines) -> Result<(), handshake::HandshakeError> {
    let Lines { data, bound, up } = lines;
    let socket = Socket::new(data)?;
    let (welcome, rest) = tokio::select! {
        welcome = handshake::welcome(&socket, actor.clock.sleep(HANDSHAKE_WITHIN)) => welcome?,
        _cancelled = actor.ending() => return Ok(()),
    };
    let mut parts = listener::dialled_parts(&actor, &welcome);
    parts.side = Side::Connecting;
    parts.encoding = Encoding::Positional;
    parts.control = Some(up as Arc<dyn CancelLine>);
    parts.idle_after = None;
    let line = Channel::new(socket, parts);
    actor.add_line(&line);
    actor.set_parent_line(&line);
    if let Some(ring) = &actor.log_ring {
        let line = Arc::downgrade(&line);
        ring.set_notify(Box::new(move || {
            if let Some(line) = line.upgrade() {
                line.wake_driver();
            }
        }));
    }
    actor.spawn_driver(drive(Arc::clone(&line), Arc::clone(&actor), Inbox::new(&rest)));
    actor.open_doors(bound)?;
    actor.ending().await;
    let end = traced(&actor.traces, Origin::End, wind_down(Arc::clone(&actor)));
    match actor.is_guest() {
        true => actor.run_last(end).await,
        false => end.await,
    }
    flush(&actor, &line).await;
    Ok(())
}

/// Waits for all that this actor has running: cancelled already, each at its own pace.
async fn wind_down(actor: Arc<Actor>) {
    actor.tasks.close();
    actor.tasks.wait().await;
    actor.control.none_living().await;
    let deferred = actor.scope.take_deferred();
    super::scope::run_deferred(deferred, Some(&actor.clock), actor.settings.grace).await;
    actor.run_exit_hooks().await;
    actor.tasks.wait().await;
}

/// Waits until the last frames and log lines have left, or the line has ended.
async fn flush(actor: &Actor, line: &Arc<super::DataLine>) {
    let has_lines = || actor.log_ring.as_ref().is_some_and(|ring| !ring.is_empty()) && line.end().is_none();
    while !line.is_flushed() || has_lines() {
        line.wake_driver();
        line.flushed().await;
        tokio::task::yield_now().await; // it is the driver that takes lines out of the ring
    }
}

/// The last steps of a child: nothing of the tree needs it any more.
fn leave(actor: &Arc<Actor>, runtime: tokio::runtime::Runtime) -> ! {
    // A thread that no task of ours waits for may be held: whoever holds it has not seen all of it yet.
    runtime.block_on(actor.clock.released());
    // Told after the last frame and before the time that the runtime's end may take. A parent that
    // is gone needs no word.
    let _ = actor.control.send_up(&Frame::TasksGone);
    let left = actor.ends_within(actor.clock.now()).unwrap_or(actor.settings.grace);
    // Those that only their drivers hold are concluded too.
    let lines = actor.living_lines();
    // Drops the user's own tasks and gives blocking closures what is left of the grace.
    // Of a parent's grace, too, the rest is for reaping: at its very end we would be killed.
    runtime.shutdown_timeout(crate::proto::escalation::childs_share(left));
    actor.clock.wait_released(); // its blocking closures have gone on
    actor.end_keeps();
    conclude(actor, &lines);
    if actor.is_orphaned() {
        crate::transport::folder::remove_if_last(&actor.folder, &actor.socket());
    } // else the parent removes it when it reaps
    flush_stdio();
    match actor.own_signal() {
        Some(signal) => signals::die_by(signal),
        None => signals::exit_now(0),
    }
}

/// The end of a child that has nothing to do, by its control thread: no other thread need wake.
/// It leaves with these last words.
pub(crate) fn leave_at_once(actor: &Arc<Actor>, last_words: &[Frame<'_>]) -> ! {
    flush_stdio();
    let is_heard = actor.control.up.as_ref().is_some_and(|up| up.send_all(last_words).is_ok());
    conclude(actor, &actor.living_lines());
    if actor.is_orphaned() || !is_heard {
        crate::transport::folder::remove_if_last(&actor.folder, &actor.socket());
    } // else the parent removes it, while the kernel takes this process down
    match actor.own_signal() {
        Some(signal) => signals::die_by(signal),
        None => signals::exit_now(0),
    }
}

/// What was sent by datagrams and is lost, no kernel sends again when this process is gone: it waits for the word that all has come.
fn conclude(actor: &Actor, lines: &[Arc<super::DataLine>]) {
    let left = actor.ends_within(actor.clock.now()).unwrap_or(actor.settings.grace);
    let until = Instant::now() + crate::proto::escalation::childs_share(left);
    for line in lines.iter().filter(|line| line.is_timed()) {
        line.conclude(until);
    }
    if let Some(up) = actor.control.up.as_ref().filter(|up| up.is_timed()) {
        up.conclude(until);
    }
}

/// What user code has printed without a newline. A reader that is gone is no reason to complain.
fn flush_stdio() {
    use std::io::Write;
    let _ = io::stdout().flush();
    let _ = io::stderr().flush();
}

/// Our own end, asked for by our own code.
pub(crate) fn cancel_self(actor: &Actor) {
    actor.end(Canceller { aid: actor.aid.clone(), request: CancelRequest::Actor });
}
