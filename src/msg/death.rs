//! How did a process end: what `ActorDied` carries and what the log says.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ident::{Aid, Canceller};

/// How the operating system says that a process ended.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use teamster::ExitKind;
/// let killed = an.start_actor("frank").await?.kill_actor().await?;
/// assert_eq!(killed.exit, ExitKind::Signal(9));
/// assert_eq!(killed.exit.to_string(), "signal 9 (SIGKILL)");
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitKind {
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It is gone, and nobody here could collect its status.
    Unknown,
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitKind::Status(code) => write!(f, "exit status {code}"),
            ExitKind::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "signal {number} ({name})"),
                None => write!(f, "signal {number}"),
            },
            ExitKind::Unknown => f.write_str("status unknown"),
        }
    }
}

/// What it took to end an actor that was asked to end.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use teamster::Rung;
/// let ended = an.start_actor("frank").await?.cancel_actor().await?;
/// assert_eq!(ended.rung, Some(Rung::Cancel)); // by itself
/// let killed = an.start_actor("carl").await?.kill_actor().await?;
/// assert_eq!(killed.rung, Some(Rung::Sigkill));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rung {
    /// It ended by itself after the cancel.
    Cancel,
    /// It did not acknowledge in 250 ms and ended after SIGTERM.
    Sigterm,
    /// It was still there when its grace was over: SIGKILL.
    Sigkill,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::Cancel => "graceful",
            Rung::Sigterm => "after SIGTERM",
            Rung::Sigkill => "killed",
        })
    }
}

/// The end of one actor's process, as its parent saw it. Cheap to clone.
///
/// # Examples
///
/// ```
/// # use teamster::{Error, ExitKind, Rung};
/// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
/// println!("{death}"); // who, how, in which call, and the end of its stderr
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Death {
    inner: Arc<DeathData>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeathData {
    pub(crate) id: Uuid,
    pub(crate) aid: Aid,
    pub(crate) exit: ExitKind,
    pub(crate) asked: Option<Canceller>,
    pub(crate) rung: Option<Rung>,
    /// What the child said of itself before it went ("it received SIGTERM from outside").
    pub(crate) said: Option<String>,
    pub(crate) in_service: Vec<String>,
    pub(crate) stderr_tail: String,
    /// What it was busy with when its grace was over.
    #[serde(default)]
    pub(crate) stuck: Option<String>,
}

impl Death {
    pub(crate) fn new(data: DeathData) -> Self {
        Death { inner: Arc::new(data) }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Whose process ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.aid().name(), "frank");
    /// # Ok(()) }).await }
    /// ```
    pub fn aid(&self) -> &Aid {
        &self.inner.aid
    }

    /// The operating system's word.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.exit(), ExitKind::Status(3));
    /// # Ok(()) }).await }
    /// ```
    pub fn exit(&self) -> ExitKind {
        self.inner.exit
    }

    /// The exit status, if it exited.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.status(), Some(3));
    /// # Ok(()) }).await }
    /// ```
    pub fn status(&self) -> Option<i32> {
        match self.inner.exit {
            ExitKind::Status(code) => Some(code),
            ExitKind::Signal(_) | ExitKind::Unknown => None,
        }
    }

    /// The signal, if one killed it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.signal(), None); // it exited
    /// # Ok(()) }).await }
    /// ```
    pub fn signal(&self) -> Option<i32> {
        match self.inner.exit {
            ExitKind::Signal(number) => Some(number),
            ExitKind::Status(_) | ExitKind::Unknown => None,
        }
    }

    /// Who asked for this end, if anybody of the tree did.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert!(death.asked().is_none()); // nobody did
    /// # Ok(()) }).await }
    /// ```
    pub fn asked(&self) -> Option<&Canceller> {
        self.inner.asked.as_ref()
    }

    /// What it took, if the end was asked for.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.rung(), None); // nobody had asked
    /// # Ok(()) }).await }
    /// ```
    pub fn rung(&self) -> Option<Rung> {
        self.inner.rung
    }

    /// What the actor itself reported before its end, such as a signal from outside.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.said(), None); // a signal from outside it would have reported
    /// # Ok(()) }).await }
    /// ```
    pub fn said(&self) -> Option<&str> {
        self.inner.said.as_deref()
    }

    /// The endpoints of the calls from this actor that it was serving.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert!(death.in_service()[0].ends_with("::give_up"));
    /// # Ok(()) }).await }
    /// ```
    pub fn in_service(&self) -> &[String] {
        &self.inner.in_service
    }

    /// What it was busy with when its grace was over and it had not ended: functions of its threads, from the inside
    /// out, or the places where its tasks waited. At most 4 KiB.
    ///
    /// `None` where it ended by itself, where it could not say, and where the program is built without the feature
    /// `debug`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{process::Command, time::Duration};
    /// # use teamster::{Error, rpc};
    /// #[rpc]
    /// async fn hang() -> u32 {
    ///     loop {
    ///         std::thread::park(); // its runtime never gets to do anything else
    ///     }
    /// }
    ///
    /// # #[teamster::main] async fn main() {
    /// # let ended: Result<(), Error> = teamster::root().grace(Duration::from_millis(500)).open(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let late = tokio::time::timeout(Duration::from_millis(200), frank.run(hang())).await;
    /// assert!(late.is_err());
    /// Command::new("kill").arg(frank.aid().pid().to_string()).status()?;
    /// # an.wait().await; std::future::pending().await }).await;
    /// // … and its nursery fails with
    /// if let Err(Error::ActorDied(death)) = ended {
    ///     println!("{:?}", death.stuck()); // hang at src/main.rs:6 (std::thread::park), called from …
    ///     # assert!(death.stuck().is_some());
    /// }
    /// # else { panic!("{ended:?}") } }
    /// ```
    pub fn stuck(&self) -> Option<&str> {
        self.inner.stuck.as_deref()
    }

    /// The end of what it had written to stderr: at most 16 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, ExitKind, Rung};
    /// # #[teamster::rpc] async fn give_up() { eprintln!("no more"); std::process::exit(3) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let Err(Error::ActorDied(death)) = an.actor("frank").call(give_up()).await else { unreachable!() };
    /// assert_eq!(death.stderr_tail(), "no more\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn stderr_tail(&self) -> &str {
        &self.inner.stderr_tail
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor {} (pid {}) died: {}", self.inner.aid, self.inner.aid.pid(), self.inner.exit)?;
        if let Some(said) = &self.inner.said {
            write!(f, "; {said}")?;
        }
        if let Some(asked) = &self.inner.asked {
            write!(f, "; asked by {asked}")?;
        }
        if let Some(stuck) = &self.inner.stuck {
            write!(f, "; its grace was over, and it was in {stuck}")?;
        }
        if !self.inner.in_service.is_empty() {
            write!(f, "; in service: {}", self.inner.in_service.join(", "))?;
        }
        write_stderr_end(f, &self.inner.stderr_tail)
    }
}

/// The last lines of what was kept of a stderr, behind whatever is said of its process.
pub(super) fn write_stderr_end(f: &mut fmt::Formatter<'_>, tail: &str) -> fmt::Result {
    let lines: Vec<&str> = tail.trim_end().lines().collect();
    if !lines.is_empty() {
        write!(f, "; the end of its stderr:")?;
    }
    lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().try_for_each(|line| write!(f, "\n    {line}"))
}

/// Lines of stderr that a printed death shows; [`Death::stderr_tail`] has all that was kept.
const SHOWN_LINES: usize = 10;

fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// How one actor was ended: what a cancel of it or of its nursery returns.
///
/// It is the parent's word, whoever asked: the times count from the moment at which the parent had the
/// request. Of an actor of another tree, and of one whose parent is gone too, only
/// [`reaped`](Receipt::reaped) is known, counted from where it was asked: its exit is
/// [`ExitKind::Unknown`].
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let receipt = an.start_actor("frank").await?.cancel_actor().await?;
/// println!("heard after {:?}, reaped after {:?}", receipt.heard, receipt.reaped);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The actor that was asked to end.
    pub aid: Aid,
    /// Who asked first. `None`: it ended before anybody asked, or without having heard of it.
    pub asked_by: Option<Canceller>,
    /// When its control thread acknowledged the request.
    pub heard: Option<Duration>,
    /// When its tasks, its dialogs and its own children were gone.
    pub tasks_gone: Option<Duration>,
    /// When its process had been reaped. Zero: it was gone before we asked.
    pub reaped: Duration,
    /// What it took. `None`: nobody had asked it, or nobody here knows.
    pub rung: Option<Rung>,
    /// The operating system's word on its end.
    pub exit: ExitKind,
    /// What it was busy with when its grace was over, as in [`Death::stuck`].
    pub stuck: Option<String>,
}

impl Receipt {
    /// It ended by itself, or after the cancel alone: no signal was sent to it, as far as is known.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// assert!(an.start_actor("frank").await?.cancel_actor().await?.was_graceful());
    /// assert!(!an.start_actor("carl").await?.kill_actor().await?.was_graceful());
    /// # Ok(()) }).await }
    /// ```
    pub fn was_graceful(&self) -> bool {
        matches!(self.rung, None | Some(Rung::Cancel))
    }

    /// Of an end that no process of the tree tells of, so long after it was asked for.
    pub(crate) fn unseen(aid: Aid, asked_by: Option<Canceller>, reaped: Duration) -> Self {
        Receipt {
            aid,
            asked_by,
            heard: None,
            tasks_gone: None,
            reaped,
            rung: None,
            exit: ExitKind::Unknown,
            stuck: None,
        }
    }
}
