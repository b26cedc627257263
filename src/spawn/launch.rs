//! How does a process start? The spawner thread, and what it does for each child.
//!
//! A thread of its own, since `posix_spawn` blocks until the exec, and since the parent-death
//! signal of a child fires when the thread that started it ends.
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::launcher::{AtOnce, Launcher};
use super::output::far::FarOutput;
use super::output::{ChildOutput, OutputThread};
use super::program::{self, Programs};
use super::usher::{Shipments, Usher};
use super::{Options, Output, ship};
use crate::actor::boot::{LINEAGE_VARIABLE, MAX_BOOT_BYTES, surround};
use crate::actor::child::{Child, StderrTail};
use crate::actor::envoy::MAX_ENVOY_BYTES;
use crate::actor::keeper::MAX_KEEP_BYTES;
use crate::actor::process::when_started;
use crate::actor::stdin::message;
use crate::actor::{Actor, Keep};
use crate::error::SpawnReason;
use crate::guest::HostLoop;
use crate::msg::agent::{EnvoySpec, Order};
use crate::msg::frame::{Frame, PROTOCOL};
use crate::msg::ident::Aid;
use crate::msg::spec::{Credentials, HostSpec, KeepSpec, SpawnSpec, Token};
use crate::portal::Runs;
use crate::transport::folder::socket_path;

/// A child that is to be started.
pub(crate) struct Request {
    pub(crate) actor: Arc<Actor>,
    pub(crate) aid: Aid,
    pub(crate) options: Options,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) is_shielded: bool,
    pub(crate) turn: Option<Turn>,
    /// Called on the spawner thread, whatever became of it: the process exists from then on.
    pub(crate) spawned: Box<dyn FnOnce(Result<Arc<Child>, SpawnReason>) + Send>,
}

/// That a start may be on its way, where not all may at once. It ends the turn when it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

/// Starts that may wait for the spawner thread; then the next ones wait in their own task.
const MAX_WAITING: usize = 256;

/// The handle to an actor's spawner thread.
pub(crate) struct Spawner {
    requests: SyncSender<Message>,
    /// A request is sent with a permit, so that sending never blocks.
    room: Arc<Semaphore>,
    /// Where not all may be on their way at once: an entry as long as somebody is, or waits.
    turns: Mutex<HashMap<OsString, Arc<Semaphore>>>,
}

enum Message {
    Start(Box<Request>, OwnedSemaphorePermit),
    StartProgram(Box<program::Request>, OwnedSemaphorePermit),
    Stop,
}

impl Spawner {
    /// The actor's spawner, started when it is needed first.
    pub(crate) fn of(actor: &Arc<Actor>) -> io::Result<Arc<Spawner>> {
        if let Some(spawner) = actor.spawner.get() {
            return Arc::clone(spawner).downcast().map_err(|_other| io::Error::other("not a spawner"));
        }
        let output = Arc::new(OutputThread::start("teamster-output")?);
        let actor_ends = Arc::downgrade(actor);
        output.on_broken_pipe(Box::new(move || {
            if let Some(actor) = actor_ends.upgrade() {
                actor.stdout_is_closed();
            }
        }));
        let (requests, inbox) = mpsc::sync_channel(MAX_WAITING + 1);
        let spawner = Arc::new(Spawner {
            requests: requests.clone(),
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            turns: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("teamster-spawner".into()).spawn({
            let output = Arc::clone(&output);
            move || run(&inbox, output)
        })?;
        match actor.spawner.set(Arc::clone(&spawner) as Arc<_>) {
            Ok(()) => {
                actor.keeps.lock().push(Box::new(Kept { requests, thread, output }));
                // An ancestor whose line is broken is gone, and so are we in a moment.
                let _ = actor.control.send_up(&Frame::Spawning);
            }
            // Another task was first: ours ends, unused.
            Err(_ours) => {
                Box::new(Kept { requests, thread, output }).end();
                return Self::of(actor);
            }
        }
        Ok(spawner)
    }

    /// Waits until a start by this launcher may be on its way. Those that came before go before.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it loses its place.
    pub(crate) async fn turn(&self, launcher: Option<&dyn Launcher>) -> Option<Turn> {
        let AtOnce { place, most } = launcher?.at_once()?;
        let turns = {
            let mut turns = self.turns.lock();
            // Whoever is on his way, or waits, holds one too.
            turns.retain(|_, turns| Arc::strong_count(turns) > 1);
            Arc::clone(turns.entry(place).or_insert_with(|| Arc::new(Semaphore::new(most.clamp(1, MAX_WAITING)))))
        };
        turns.acquire_owned().await.ok() // nobody closes it
    }

    /// Hands the request to the thread.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it has resolved, nothing was started; the request is lost.
    pub(crate) async fn start(&self, request: Request) {
        // The semaphore is never closed; the thread lives as long as its actor, and starts nothing
        // for one that has ended.
        if let Ok(permit) = Arc::clone(&self.room).acquire_owned().await
            && let Err(mpsc::SendError(Message::Start(request, _))) =
                self.requests.send(Message::Start(Box::new(request), permit))
        {
            (request.spawned)(Err(SpawnReason::NurseryClosed));
        }
    }

    /// The same for a plain program.
    ///
    /// # Cancel safety
    ///
    /// As [`Spawner::start`].
    pub(crate) async fn start_program(&self, request: program::Request) {
        if let Ok(permit) = Arc::clone(&self.room).acquire_owned().await
            && let Err(mpsc::SendError(Message::StartProgram(request, _))) =
                self.requests.send(Message::StartProgram(Box::new(request), permit))
        {
            (request.spawned)(Err(SpawnReason::NurseryClosed));
        }
    }
}

/// The threads behind it, until the actor ends.
struct Kept {
    requests: SyncSender<Message>,
    thread: JoinHandle<()>,
    output: Arc<OutputThread>,
}

impl Keep for Kept {
    fn end(self: Box<Self>) {
        // It may have ended by itself, when its handle was dropped.
        let _ = self.requests.send(Message::Stop);
        let _ = self.thread.join();
        self.output.finish(RELAY_WITHIN);
    }
}

/// How long the end of an actor waits for a blocked stdout or stderr.
const RELAY_WITHIN: Duration = Duration::from_millis(200);

fn run(inbox: &Receiver<Message>, output: Arc<OutputThread>) {
    let mut ushers = Ushers { threads: Vec::new(), shipments: Arc::default(), output };
    let mut programs = Programs::default();
    loop {
        match inbox.recv() {
            Ok(Message::Start(request, permit)) => {
                let Request { actor, aid, options, credentials, is_shielded, turn, spawned } = *request;
                let started = start(&actor, aid, options, credentials, is_shielded, turn, &mut ushers);
                drop(permit);
                spawned(started);
            }
            Ok(Message::StartProgram(request, permit)) => {
                programs.start(*request);
                drop(permit);
            }
            Ok(Message::Stop) | Err(_) => break,
        }
    }
    programs.end(RELAY_WITHIN);
    for usher in ushers.threads {
        // What it led somewhere is gone, and it with that. A panic there was said by the hook.
        let _ = usher.join();
    }
}

/// The threads that bring others on their way, and what they share.
struct Ushers {
    threads: Vec<JoinHandle<()>>,
    shipments: Arc<Shipments>,
    /// What relays, of those that they have brought and of all others.
    output: Arc<OutputThread>,
}

fn start(
    actor: &Arc<Actor>,
    aid: Aid,
    options: Options,
    credentials: Option<Credentials>,
    is_shielded: bool,
    turn: Option<Turn>,
    ushers: &mut Ushers,
) -> Result<Arc<Child>, SpawnReason> {
    let output = &Arc::clone(&ushers.output);
    // All that can be made ready is, before there is a process: it begins at once then.
    let limited = |error: io::Error| limit(&error);
    let (stdin, boot_pipe) = pipe().map_err(limited)?;
    let is_far = options.is_far();
    // Of one that is far, the launcher's own words have to come here. Where its actor's go is said over there.
    let of_launcher = |of_actor: Output| if is_far { Output::Relay } else { of_actor };
    let (stdout, stdout_pipe) = relayed(of_launcher(options.stdout)).map_err(limited)?;
    let (stderr, stderr_pipe) = relayed(of_launcher(options.stderr)).map_err(limited)?;
    let mut far = None;
    let printed: Arc<dyn StderrTail> = match stdout_pipe {
        Some(words) if is_far => {
            rustix::io::ioctl_fionbio(&words, true).map_err(|error| limited(error.into()))?;
            let printed = FarOutput::new(stderr_pipe, output).map_err(limited)?;
            far = Some((words, Arc::clone(&printed)));
            printed
        }
        stdout_pipe => {
            let printed = ChildOutput::new(stdout_pipe, stderr_pipe).map_err(limited)?;
            output.add(Arc::clone(&printed)).map_err(limited)?;
            Arc::new(Stderr(printed))
        }
    };
    let spec = spec(actor, &aid, &options, credentials);
    let mut command = command(&spec, &options);
    if let Some(python) = options.launcher.as_ref().and_then(|launcher| launcher.python()) {
        python.prepare(&mut command, &actor.folder).map_err(SpawnReason::Other)?;
    }
    let message = match is_far {
        false => message(&spec, MAX_BOOT_BYTES),
        true => message(&keep_spec(spec.clone(), &options), MAX_KEEP_BYTES),
    };
    let envoy =
        options.envoy.as_ref().map(|envoy| (envoy_message(envoy, &spec), format!("{} {}", envoy.host, envoy.addr)));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let began = actor.clock.now();
    actor.control.starting(began);
    let started = when_started(|| command.spawn());
    let (mut process, start_ticks) = started.map_err(|error| {
        actor.control.not_started();
        refused(&command, &error)
    })?;
    drop(command); // and our copies of its ends of the pipes
    let (pid, start_ticks) = (process.id(), start_ticks.unwrap_or(0));
    let aid = aid.with_pid(pid);
    // Every ancestor knows of it before anything else is done. If we are killed before they do, they find it
    // by its lineage.
    if !actor.is_root() {
        // An ancestor whose line is broken is gone, and so are we in a moment.
        let _ = actor.control.send_up(&Frame::SpawnRecord { aid: aid.clone(), start_ticks, is_program: false });
    }
    let pidfd = match pidfd_of(&process) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            // It has had no boot message: it ends by itself when its stdin closes. It is waited for.
            drop(boot_pipe);
            let _ = process.kill();
            let _ = process.wait();
            actor.control.not_started();
            return Err(limit(&error.into()));
        }
    };
    let grace = options.grace.unwrap_or(actor.settings.grace);
    let lost_after = options.lost_after.unwrap_or(actor.settings.lost_after);
    let child = Arc::new(Child {
        is_far,
        is_shielded,
        socket: socket_path(&actor.folder, aid.uuid()),
        stderr: Some(printed),
        ..Child::new(actor.next_child(), aid.clone(), grace, lost_after)
    });
    actor.expect(&child, spec.data_token, spec.control_token);
    if let Some(names) = &actor.names {
        names.born(&child.aid, &actor.aid, start_ticks, Some(&pidfd));
    }
    let boot_within = options.boot_within.unwrap_or(actor.settings.boot_within);
    // Before the message is sent: what that leads to comes to the control thread after this.
    actor.control.watch(&child, pidfd, began, boot_within);
    if actor.is_cancelled() {
        actor.control.wake(); // the thread has looked at the children it knew
    }
    let sent = message.and_then(|message| match far {
        None => send(&message, &boot_pipe),
        Some((stdout, far_output)) => {
            let (actor, child, output) = (Arc::clone(actor), Arc::clone(&child), Arc::clone(output));
            let (stdin, shipments) = (boot_pipe, Arc::clone(&ushers.shipments));
            let by_command = || options.launcher.as_ref().map(|launcher| format!("{:?}", launcher.command()));
            let (envoy, way) = match envoy {
                Some((envoy, way)) => (Some(envoy?), way),
                None => (None, by_command().unwrap_or_default()),
            };
            let usher = Usher { actor, child, output, far_output, stdin, stdout, envoy, message, way, shipments, turn };
            ushers.threads.retain(|usher| !usher.is_finished());
            ushers.threads.push(usher.start()?);
            Ok(())
        }
    });
    if let Err(error) = sent {
        // It has ended, or will without a message: its death says more than this.
        child.story.lock().said.get_or_insert(format!("it did not take its boot message: {error}"));
    }
    Ok(child)
}

/// A pipe: the end that the child gets, and ours.
fn pipe() -> io::Result<(Stdio, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((read.into(), write))
}

/// A process that nobody has reaped yet, by a descriptor: its pid is still its own.
pub(super) fn pidfd_of(process: &std::process::Child) -> rustix::io::Result<Arc<OwnedFd>> {
    rustix::process::pidfd_open(Pid::from_child(process), PidfdFlags::empty()).map(Arc::new)
}

fn relayed(output: Output) -> io::Result<(Stdio, Option<OwnedFd>)> {
    Ok(match output {
        Output::Relay => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (write.into(), Some(read))
        }
        Output::Inherit => (Stdio::inherit(), None),
        Output::Null => (Stdio::null(), None),
    })
}

fn command(spec: &SpawnSpec, options: &Options) -> Command {
    let mut command = match &options.launcher {
        Some(launcher) => launcher.command(),
        None => Command::new("/proc/self/exe"),
    };
    let own_args;
    let args = match &options.args {
        Some(args) => args,
        None if options.runs() == Runs::Another => &Vec::new(), // ours mean nothing to it
        None => {
            own_args = std::env::args_os().skip(1).collect();
            &own_args
        }
    };
    match &options.launcher {
        Some(launcher) => launcher.add_args(&mut command, args),
        None => _ = command.arg0(format!("teamster:{}", spec.aid.name())).args(args),
    }
    if options.is_far() {
        // What belongs to the actor travels in its message. By its lineage those above find the command.
        command.env(LINEAGE_VARIABLE, &spec.lineage).process_group(0);
        return command;
    }
    let env = options.env.iter().map(|(key, value)| (key.as_os_str(), value.as_deref()));
    surround(&mut command, options.env_clear, env, options.current_dir.as_deref(), &spec.lineage);
    command
}

fn spec(actor: &Arc<Actor>, aid: &Aid, options: &Options, credentials: Option<Credentials>) -> SpawnSpec {
    let grace = options.grace.unwrap_or(actor.settings.grace);
    SpawnSpec {
        protocol: PROTOCOL,
        aid: aid.clone(),
        parent: actor.aid.clone(),
        root: actor.root.clone(),
        parent_addrs: actor.addrs(),
        registrar: actor.registrar.clone(),
        folder: actor.folder.clone(),
        data_token: token(),
        control_token: token(),
        build: crate::actor::build::build_id().to_vec(),
        grace_ms: millis(grace),
        max_frame_bytes: actor.settings.max_frame_bytes,
        expose: options.expose.clone(),
        threads: options.threads,
        log: crate::actor::log::directives_for(options.log.as_ref(), actor.settings.log.as_ref()),
        umask: options.umask,
        nice: options.nice,
        rlimits: options.rlimits.clone(),
        depth: actor.depth + 1,
        lineage: actor.lineage_of(aid),
        debug: actor.settings.debug.of_child(options.debug),
        transports: options.transports.clone().unwrap_or_else(|| actor.settings.transports.clone()),
        listen: options.listen.clone(),
        lost_after_ms: millis(options.lost_after.unwrap_or(actor.settings.lost_after)),
        root_addrs: actor.root_addrs.clone().unwrap_or_else(|| actor.addrs()),
        credentials,
        is_host_known: options.launcher.is_none(),
        is_kept: false,
        is_worker: options.is_worker,
        host: options
            .host
            .as_ref()
            .map(|host| host_spec(host, options.boot_within.unwrap_or(actor.settings.boot_within))),
    }
}

fn host_spec(host: &HostLoop, boot_within: Duration) -> HostSpec {
    // A loop whose arguments can't be encoded is refused before anything is started.
    let args = host.args().unwrap_or_default();
    HostSpec { path: host.path().to_owned(), args, boot_within_ms: millis(boot_within) }
}

/// The message of one that is far.
fn keep_spec(actor: SpawnSpec, options: &Options) -> KeepSpec {
    let bytes = |text: &OsStr| Bytes::copy_from_slice(text.as_bytes());
    let env = options.env.iter().map(|(key, value)| (bytes(key), value.as_deref().map(bytes)));
    KeepSpec {
        env: env.collect(),
        env_clear: options.env_clear,
        current_dir: options.current_dir.clone(),
        relays: [options.stdout, options.stderr].map(|output| output != Output::Null),
        actor,
    }
}

/// What leads to another host's agent has to know first.
fn envoy_message(envoy: &EnvoySpec, actor: &SpawnSpec) -> io::Result<Vec<u8>> {
    let order = Order {
        lineage: actor.lineage.clone(),
        grace_ms: actor.grace_ms,
        lost_after_ms: actor.lost_after_ms,
        executable: ship::key(),
        executable_bytes: ship::size()?,
        ..envoy.order.clone()
    };
    message(&EnvoySpec { order, ..envoy.clone() }, MAX_ENVOY_BYTES)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 122 random bits, from the operating system.
fn token() -> Token {
    Token(*uuid::Uuid::new_v4().as_bytes())
}

/// Sends the boot message. A pipe holds 64 KiB, so this never waits for the child.
fn send(message: &[u8], pipe: &OwnedFd) -> io::Result<()> {
    let mut rest = message;
    while !rest.is_empty() {
        rest = &rest[rustix::io::retry_on_intr(|| rustix::io::write(pipe, rest))?..];
    }
    Ok(())
}

fn refused(command: &Command, error: &io::Error) -> SpawnReason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM) => limit(error),
        _ => SpawnReason::Exec {
            program: command.get_program().to_string_lossy().into_owned(),
            error: error.to_string(),
        },
    }
}

/// What the system refused, with the way out.
pub(crate) fn limit(error: &io::Error) -> SpawnReason {
    SpawnReason::Limit { error: error.to_string(), errno: error.raw_os_error().unwrap_or(0) }
}

/// The end of a child's stderr, for its death.
struct Stderr(Arc<ChildOutput>);

impl StderrTail for Stderr {
    fn ready(&self) {
        self.0.ready();
    }

    fn drained_tail(&self) -> String {
        self.0.drain();
        self.0.tail()
    }

    fn when_relayed(&self, act: Box<dyn FnOnce() + Send>) {
        self.0.when_relayed(act);
    }
}
