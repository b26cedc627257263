//! How does a process start? The spawner thread, and what it does for each child.
//!
//! A thread of its own, since `posix_spawn` blocks until the exec, and since the parent-death
//! signal of a child fires when the thread that started it ends.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SetOnce};

use super::output::{ChildOutput, OutputThread};
use super::{Options, Output};
use crate::actor::boot::{BOOT_VARIABLE, LINEAGE_VARIABLE, MAX_BOOT_BYTES};
use crate::actor::child::{Child, StderrTail};
use crate::actor::process::when_started;
use crate::actor::{Actor, Keep};
use crate::error::SpawnReason;
use crate::msg::codec;
use crate::msg::frame::{Encoding, Frame, PROTOCOL};
use crate::msg::ident::Aid;
use crate::msg::spec::{Credentials, SpawnSpec, Token};
use crate::transport::folder::socket_path;

/// A child that is to be started.
pub(crate) struct Request {
    pub(crate) actor: Arc<Actor>,
    pub(crate) aid: Aid,
    pub(crate) options: Options,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) is_shielded: bool,
    /// Called on the spawner thread, whatever became of it: the process exists from then on.
    pub(crate) spawned: Box<dyn FnOnce(Result<Arc<Child>, SpawnReason>) + Send>,
}

/// Starts that may wait for the spawner thread; then the next ones wait in their own task.
const MAX_WAITING: usize = 256;

/// The handle to an actor's spawner thread.
pub(crate) struct Spawner {
    requests: SyncSender<Message>,
    /// A request is sent with a permit, so that sending never blocks.
    room: Arc<Semaphore>,
}

enum Message {
    Start(Box<Request>, OwnedSemaphorePermit),
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
        let spawner = Arc::new(Spawner { requests: requests.clone(), room: Arc::new(Semaphore::new(MAX_WAITING)) });
        let thread = std::thread::Builder::new().name("teamster-spawner".into()).spawn({
            let output = Arc::clone(&output);
            move || run(&inbox, &output)
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

fn run(inbox: &Receiver<Message>, output: &Arc<OutputThread>) {
    while let Ok(Message::Start(request, permit)) = inbox.recv() {
        let Request { actor, aid, options, credentials, is_shielded, spawned } = *request;
        let started = start(&actor, aid, options, credentials, is_shielded, output);
        drop(permit);
        spawned(started);
    }
}

fn start(
    actor: &Arc<Actor>,
    aid: Aid,
    options: Options,
    credentials: Option<Credentials>,
    is_shielded: bool,
    output: &Arc<OutputThread>,
) -> Result<Arc<Child>, SpawnReason> {
    // All that can be made ready is, before there is a process: it begins at once then.
    let limited = |error: io::Error| limit(&error);
    let (stdin, boot_pipe) = pipe().map_err(limited)?;
    let (stdout, stdout_pipe) = relayed(options.stdout).map_err(limited)?;
    let (stderr, stderr_pipe) = relayed(options.stderr).map_err(limited)?;
    let child_output = ChildOutput::new(stdout_pipe, stderr_pipe).map_err(limited)?;
    output.add(Arc::clone(&child_output)).map_err(limited)?;
    let spec = spec(actor, &aid, &options, credentials);
    let boot_message = boot_message(&spec);
    let mut command = command(&spec, &options);
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
        let _ = actor.control.send_up(&Frame::SpawnRecord { aid: aid.clone(), start_ticks });
    }
    let pidfd = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)
        // Nobody has reaped it, so its pid is still its own.
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
    let pidfd = match pidfd {
        Ok(pidfd) => Arc::new(pidfd),
        Err(error) => {
            // It has had no boot message: it ends by itself when its stdin closes. It is waited for.
            drop(boot_pipe);
            let _ = process.kill();
            let _ = process.wait();
            actor.control.not_started();
            return Err(limit(&error.into()));
        }
    };
    let child = Arc::new(Child {
        key: actor.next_child(),
        aid: aid.clone(),
        grace: options.grace.unwrap_or(actor.settings.grace),
        lost_after: options.lost_after.unwrap_or(actor.settings.lost_after),
        is_shielded,
        socket: socket_path(&actor.folder, aid.uuid()),
        stderr: Some(Arc::new(Stderr(child_output)) as Arc<dyn StderrTail>),
        listens: std::sync::OnceLock::new(),
        control: SetOnce::new(),
        channel: std::sync::OnceLock::new(),
        connected: SetOnce::new(),
        refused: std::sync::OnceLock::new(),
        reaped: SetOnce::new(),
        gone: SetOnce::new(),
        closed: SetOnce::new(),
        was_asked: std::sync::atomic::AtomicBool::new(false),
        was_reached: std::sync::atomic::AtomicBool::new(false),
        story: parking_lot::Mutex::default(),
    });
    actor.expect(&child, spec.data_token, spec.control_token);
    if let Some(names) = &actor.names {
        names.born(&child.aid, &actor.aid, start_ticks, &pidfd);
    }
    let boot_within = options.boot_within.unwrap_or(actor.settings.boot_within);
    // Before the message is sent: what that leads to comes to the control thread after this.
    actor.control.watch(&child, pidfd, began, boot_within);
    if actor.is_cancelled() {
        actor.control.wake(); // the thread has looked at the children it knew
    }
    if let Err(error) = boot_message.and_then(|message| send(&message, &boot_pipe)) {
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
    if options.launcher.is_none() {
        command.arg0(format!("teamster:{}", spec.aid.name()));
    }
    match &options.args {
        Some(args) => command.args(args),
        None => command.args(std::env::args_os().skip(1)),
    };
    if options.env_clear {
        command.env_clear();
    }
    for (key, value) in &options.env {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.env(BOOT_VARIABLE, "1").env(LINEAGE_VARIABLE, &spec.lineage);
    if let Some(folder) = &options.current_dir {
        command.current_dir(folder);
    }
    // Its own group: the terminal's ctrl-c reaches the root alone, and a kill takes its helpers.
    command.process_group(0);
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
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// 122 random bits, from the operating system.
fn token() -> Token {
    Token(*uuid::Uuid::new_v4().as_bytes())
}

/// The spec as the child reads it: its length, and msgpack with names.
fn boot_message(spec: &SpawnSpec) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    codec::encode_into(spec, Encoding::Named, &mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let length = bytes.len() - 4;
    if length > MAX_BOOT_BYTES {
        return Err(io::Error::other(format!("it has {length} bytes: names and paths are too long")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
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
