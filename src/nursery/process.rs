//! One plain program: supervised like a task of the nursery, or for its caller alone.
use std::fmt;
use std::future::IntoFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::process::Command;
use tokio::sync::SetOnce;
use uuid::Uuid;

use super::builder::{MAX_NAME_BYTES, Starting, is_name};
use super::one_shot::Running;
use super::scope::ActorNursery;
use super::supervise::{Care, Nursery};
use crate::actor::boot;
use crate::actor::host::host_id;
use crate::actor::peers::canceller;
use crate::error::{Error, ProgramFailure, SpawnReason};
use crate::msg::death::ExitKind;
use crate::msg::ident::{Aid, CancelRequest};
use crate::spawn::launch::{Spawner, limit};
use crate::spawn::program::{Options, Program, Request};

/// What a program came to that ended with status 0.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use tokio::process::Command;
///
/// let sorted = an.process(Command::new("sort")).stdin("b\na\n").capture(1 << 20).call().await?;
/// assert_eq!(sorted.stdout(), "a\nb\n");
/// # Ok(()) }).await }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessExit {
    pid: u32,
    stdout: Bytes,
    is_cut: bool,
    stderr_tail: Arc<str>,
}

impl ProcessExit {
    /// The pid that it had.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// assert!(an.process(Command::new("true")).call().await?.pid() > 1);
    /// # Ok(()) }).await }
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it wrote to stdout, if [`ProcessBuilder::capture`] asked for that; else nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let mut echo = Command::new("echo");
    /// echo.arg("hay");
    /// assert_eq!(an.process(echo).capture(100).call().await?.stdout(), "hay\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn stdout(&self) -> &Bytes {
        &self.stdout
    }

    /// Whether it wrote more to stdout than was captured.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let mut echo = Command::new("echo");
    /// echo.arg("hay");
    /// let exit = an.process(echo).capture(2).call().await?;
    /// assert_eq!((&exit.stdout()[..], exit.is_cut()), (&b"ha"[..], true));
    /// # Ok(()) }).await }
    /// ```
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The end of what it had written to stderr: at most 16 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let mut sh = Command::new("sh");
    /// sh.args(["-c", "echo 'warning: late' >&2"]);
    /// assert_eq!(an.run_process(sh).await?.stderr_tail(), "warning: late\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn stderr_tail(&self) -> &str {
        &self.stderr_tail
    }
}

impl fmt::Debug for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, stdout_bytes) = (self.pid, self.stdout.len());
        f.debug_struct("ProcessExit").field("pid", &pid).field("stdout_bytes", &stdout_bytes).finish_non_exhaustive()
    }
}

/// The outcome of a program that the nursery supervises: await it, as often as you like, before and after the nursery's end.
/// Dropping it leaves the program to the nursery.
///
/// # Cancel safety
///
/// Dropping its future stops the waiting only.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use tokio::process::Command;
/// let done = an.run_process(Command::new("true")); // it runs already
/// let again = done.clone();
/// assert_eq!(done.await?.pid(), again.await?.pid());
/// # Ok(()) }).await }
/// ```
#[must_use = "its failure reaches the nursery also if nobody awaits it; to ignore the value, drop it"]
#[derive(Clone)]
pub struct ProcessHandle {
    outcome: Arc<SetOnce<Result<ProcessExit, Error>>>,
}

impl IntoFuture for ProcessHandle {
    type Output = Result<ProcessExit, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.outcome.wait().await.clone() })
    }
}

impl fmt::Debug for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHandle").field("has_ended", &self.outcome.get().is_some()).finish()
    }
}

/// Describes a plain program before it is started: see [`ActorNursery::process`].
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use std::time::Duration;
/// use tokio::process::Command;
///
/// let mut gzip = Command::new("gzip");
/// gzip.arg("-9");
/// let zipped = an.process(gzip).grace(Duration::from_secs(5)).stdin("hay").capture(1 << 20).call().await?;
/// assert_eq!(zipped.stdout()[..2], [0x1f, 0x8b]);
/// # Ok(()) }).await }
/// ```
#[must_use = "nothing runs until `call` or `run`"]
pub struct ProcessBuilder<'n> {
    nursery: &'n Arc<Nursery>,
    name: String,
    command: std::process::Command,
    options: Options,
}

impl<'n> ProcessBuilder<'n> {
    pub(super) fn new(nursery: &'n ActorNursery, command: Command) -> Self {
        let command = command.into_std();
        let program = Path::new(command.get_program());
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        ProcessBuilder { nursery: &nursery.nursery, name, command, options: Options::default() }
    }

    /// What the log and its error call it, instead of the name of its file.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let failed = an.process(Command::new("false")).name("check").call().await.unwrap_err();
    /// assert!(failed.to_string().starts_with("program check (pid "));
    /// # Ok(()) }).await }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long it may take to end after its SIGTERM, before SIGKILL: as its actor by default. What is left of its actor's own grace
    /// may be less.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use std::time::Duration;
    /// # use tokio::process::Command;
    /// an.process(Command::new("true")).grace(Duration::from_millis(100)).call().await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = Some(crate::actor::bounded(grace));
        self
    }

    /// What it reads on stdin, to the end: nothing by default. It is a file in memory.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let counted = an.process(Command::new("wc")).stdin("one two\n").capture(100).call().await?;
    /// assert_eq!(counted.stdout().split(|byte| *byte == b' ').filter(|word| !word.is_empty()).count(), 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.options.stdin = Some(bytes.into());
        self
    }

    /// Keeps what it writes to stdout as a result, at most `max_bytes` of it, instead of its lines in the log. What is more is
    /// thrown away, and [`ProcessExit::is_cut`] says so.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let kernel = an.process(Command::new("uname")).capture(1000).call().await?;
    /// assert_eq!(kernel.stdout(), "Linux\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn capture(mut self, max_bytes: usize) -> Self {
        self.options.capture_bytes = Some(max_bytes);
        self
    }

    /// Starts it, and waits for its end. Whatever fails is the caller's error alone: the nursery goes on.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] if it could not be started, or ended otherwise than with status 0. [`Error::Cancelled`] if somebody of
    /// the tree had asked for its end, whatever its status.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the program: SIGTERM, and SIGKILL when its grace is over. The nursery waits for that.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let failed = an.process(Command::new("false")).call().await;
    /// assert!(matches!(failed, Err(teamster::Error::Program(failure)) if failure.status() == Some(1)));
    /// # Ok(()) }).await }
    /// ```
    pub async fn call(self) -> Result<ProcessExit, Error> {
        run(self.nursery, &self.name, self.command, self.options).await
    }

    /// Starts it now, supervised by the nursery; see [`ActorNursery::run_process`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use tokio::process::Command;
    /// let date = an.process(Command::new("date")).capture(100).run();
    /// println!("{}", String::from_utf8_lossy(date.await?.stdout()));
    /// # Ok(()) }).await }
    /// ```
    pub fn run(self) -> ProcessHandle {
        let (running, outcome) = Running::begin(self.nursery);
        let nursery = Arc::clone(self.nursery);
        self.nursery.actor.spawn_driver(async move {
            let result = run(&nursery, &self.name, self.command, self.options).await;
            running.end(result);
        });
        ProcessHandle { outcome }
    }
}

impl fmt::Debug for ProcessBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessBuilder")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// Starts a program and waits until it is gone, and all that it has left in its group.
async fn run(
    nursery: &Arc<Nursery>,
    name: &str,
    command: std::process::Command,
    options: Options,
) -> Result<ProcessExit, Error> {
    let program = start(nursery, name, command, options).await.map_err(|reason| match reason {
        SpawnReason::Cancelled(canceller) => Error::Cancelled { canceller },
        reason => Error::Program(ProgramFailure::not_started(name, reason)),
    })?;
    let guard = EndIfDropped { nursery, program: &program };
    let ended = guard.program.child.gone().await;
    // Its last lines are in the log before anybody hears of its end.
    guard.program.child.relayed().await;
    drop(guard);
    let (pid, death) = (program.child.aid.pid(), &ended.death);
    if let Some(canceller) = death.asked() {
        return Err(Error::Cancelled { canceller: canceller.clone() });
    }
    match death.exit() {
        ExitKind::Status(0) => {
            let captured = program.output.take_captured();
            let stderr_tail = Arc::from(program.output.stderr_tail());
            Ok(ProcessExit { pid, stdout: captured.bytes.into(), is_cut: captured.is_cut, stderr_tail })
        }
        exit => Err(Error::Program(ProgramFailure::ended(name, pid, exit, death.stderr_tail().to_owned()))),
    }
}

async fn start(
    nursery: &Arc<Nursery>,
    name: &str,
    command: std::process::Command,
    options: Options,
) -> Result<Program, SpawnReason> {
    if !boot::is_ready() {
        return Err(SpawnReason::NotInitialised); // what sees to it when we are killed is this program too
    }
    if !is_name(name) {
        return Err(SpawnReason::Other(format!("a name has 1 to {MAX_NAME_BYTES} bytes, no NUL and no line break")));
    }
    let actor = &nursery.actor;
    let spawner = Spawner::of(actor).map_err(|error| limit(&error))?;
    nursery.begin_start()?;
    let starting = Starting { nursery: Arc::clone(nursery), care: Care::OfCaller, child: None };
    let outcome = Arc::new(SetOnce::new());
    let told = Arc::clone(&outcome);
    let log = (Arc::clone(actor), name.to_owned());
    let spawned = Box::new(move |result: Result<Program, SpawnReason>| {
        let mut starting = starting;
        if let Ok(program) = &result {
            starting.child = Some(Arc::clone(&program.child));
            let (actor, name) = log;
            actor.spawn_driver(keep_log(program.clone(), name));
        }
        drop(starting);
        // Set here alone.
        let _ = told.set(result);
    });
    let aid = Aid::new(name, Uuid::new_v4(), 0, host_id());
    let is_shielded = nursery.is_shielded;
    spawner.start_program(Request { actor: Arc::clone(actor), aid, command, options, is_shielded, spawned }).await;
    // The thread has it: from here on it is told what has become of it.
    let mut late = EndIfLate { nursery, outcome: &outcome, is_armed: true };
    let program = outcome.wait().await.clone();
    late.is_armed = false;
    let program = program?;
    tracing::debug!(target: "teamster::nursery", program = name, pid = program.child.aid.pid(), "a program runs");
    Ok(program)
}

/// Logs what it prints until it is gone, whoever waits for it.
async fn keep_log(program: Program, name: String) {
    let ended = async {
        program.child.gone().await;
        program.child.relayed().await;
        program.output.close();
    };
    tokio::join!(program.output.log(&name, program.child.aid.pid()), ended);
}

/// Ends a program whose start nobody waits for any more, as soon as there is one.
struct EndIfLate<'a> {
    nursery: &'a Arc<Nursery>,
    outcome: &'a Arc<SetOnce<Result<Program, SpawnReason>>>,
    is_armed: bool,
}

impl Drop for EndIfLate<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            let (nursery, outcome) = (Arc::clone(self.nursery), Arc::clone(self.outcome));
            self.nursery.actor.spawn_driver(async move {
                if let Ok(program) = outcome.wait().await {
                    end(&nursery, program);
                }
            });
        }
    }
}

/// Ends a program that nobody waits for any more; one that is gone is left alone.
struct EndIfDropped<'a> {
    nursery: &'a Arc<Nursery>,
    program: &'a Program,
}

impl Drop for EndIfDropped<'_> {
    fn drop(&mut self) {
        if self.program.child.reaped.get().is_none() {
            end(self.nursery, self.program);
        }
    }
}

fn end(nursery: &Nursery, program: &Program) {
    let canceller = canceller(&nursery.actor.aid, CancelRequest::Dropped);
    nursery.actor.cancel_child(&program.child, &canceller, program.child.grace);
}
