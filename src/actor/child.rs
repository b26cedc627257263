//! What does a parent know of one of its children?
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::DataLine;
use crate::channel::line::Line;
use crate::error::Error;
use crate::msg::addr::{Addr, Addrs};
use crate::msg::death::{Death, Receipt};
use crate::msg::ident::{Aid, Canceller};

/// Where the end of a child's stderr is kept: the output relay, a floor up, fills this.
pub(crate) trait StderrTail: Send + Sync {
    /// The child has said Hello: what it prints from now on is relayed.
    fn ready(&self);
    /// Reads what is there without waiting, and gives the end of all of it.
    fn drained_tail(&self) -> String;
    /// Calls `act` when all that has been read by now is written to our own stdout and stderr.
    fn when_relayed(&self, act: Box<dyn FnOnce() + Send>);
}

/// One child process, from the parent's side. Its slots are filled by the control thread.
pub(crate) struct Child {
    pub(crate) key: u64,
    pub(crate) aid: Aid,
    pub(crate) grace: Duration,
    /// How long its host may be silent, if that is another one.
    pub(crate) lost_after: Duration,
    /// It runs on another host. Its process here leads there, and its pid is of that.
    pub(crate) is_far: bool,
    /// It is no actor: a plain program, which knows of nothing but signals.
    pub(crate) is_program: bool,
    /// Of one that is far: signals for it, a byte each, from when somebody over there takes them until it is reaped.
    pub(crate) leash: Mutex<Option<OwnedFd>>,
    /// How it knows itself: its own pid and host.
    pub(crate) itself: OnceLock<Aid>,
    /// It belongs to a nursery that was opened inside a shield: the actor's cancel leaves it to
    /// that shield's code.
    pub(crate) is_shielded: bool,
    /// Removed when it is reaped.
    pub(crate) socket: PathBuf,
    pub(crate) stderr: Option<Arc<dyn StderrTail>>,
    /// Where it listens, as it has said.
    pub(crate) listens: OnceLock<Addrs>,
    pub(crate) control: SetOnce<Arc<Line>>,
    pub(crate) channel: OnceLock<Arc<DataLine>>,
    /// Both lines are up.
    pub(crate) connected: SetOnce<()>,
    /// Its handshake was refused.
    pub(crate) refused: OnceLock<Refusal>,
    /// Its process has been reaped.
    pub(crate) reaped: SetOnce<Ended>,
    /// Everything that it had started is gone too.
    pub(crate) gone: SetOnce<()>,
    /// Its data line is closed, with all read that had come on it.
    pub(crate) closed: SetOnce<()>,
    /// Somebody here has sent it a cancel already: later ones are the control thread's to judge.
    pub(crate) was_asked: AtomicBool,
    /// That cancel has left, and its process had not ended then.
    pub(crate) was_reached: AtomicBool,
    pub(crate) story: Mutex<Story>,
}

/// How long a nursery's end waits for a blocked stdout or stderr.
const RELAY_WITHIN: Duration = Duration::from_millis(200);

/// How long the end of a child waits for its data line, which its parent's runtime has to close.
const CLOSED_WITHIN: Duration = Duration::from_millis(200);

/// What is known about why a child ends.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// Who of the tree asked first.
    pub(crate) asked: Option<Canceller>,
    /// What it said of itself: a signal from outside.
    pub(crate) said: Option<String>,
    /// It took too long to boot and was killed for that.
    pub(crate) boot_timeout: Option<Duration>,
}

/// The end of a child.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) death: Death,
    pub(crate) receipt: Receipt,
}

impl Ended {
    /// The end as an error of whoever still needed the child.
    pub(crate) fn error(&self) -> Error {
        Error::ended(self.death.clone())
    }
}

/// Why a child's handshake came to nothing on our side.
pub(crate) enum Refusal {
    /// It runs another build of the program.
    OtherBuild,
    /// A limit of the operating system.
    Limit { error: String, errno: i32 },
}

impl Child {
    /// One on this host, whose end nobody has anything to do with yet: who starts it says what else it is.
    pub(crate) fn new(key: u64, aid: Aid, grace: Duration, lost_after: Duration) -> Self {
        Child {
            key,
            aid,
            grace,
            lost_after,
            is_far: false,
            is_program: false,
            leash: Mutex::default(),
            itself: OnceLock::new(),
            is_shielded: false,
            socket: PathBuf::new(),
            stderr: None,
            listens: OnceLock::new(),
            control: SetOnce::new(),
            channel: OnceLock::new(),
            connected: SetOnce::new(),
            refused: OnceLock::new(),
            reaped: SetOnce::new(),
            gone: SetOnce::new(),
            closed: SetOnce::new(),
            was_asked: AtomicBool::new(false),
            was_reached: AtomicBool::new(false),
            story: Mutex::default(),
        }
    }

    /// Waits until the process and all that it had started are gone, and our ends of its lines closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    pub(crate) async fn gone(&self) -> &Ended {
        // In this order: both are mostly set at once, and whoever waits wakes once.
        let ended = self.reaped.wait().await;
        self.gone.wait().await;
        if self.channel.get().is_some() {
            // Its driver sees the end of the line, as soon as our runtime comes to that: not another
            // runtime's, which may be stuck, and which we don't wait for.
            let _ = tokio::time::timeout(CLOSED_WITHIN, self.closed.wait()).await;
        }
        ended
    }

    /// Waits until what it had printed is printed here, so that it comes before what we print next;
    /// not for longer than [`RELAY_WITHIN`]: our own stdout may be blocked.
    pub(crate) async fn relayed(&self) {
        let Some(output) = &self.stderr else { return };
        let (done, relayed) = tokio::sync::oneshot::channel::<()>();
        output.when_relayed(Box::new(move || drop(done)));
        // Both ways it is over: all is printed, or nobody can say when it will be.
        let _ = tokio::time::timeout(RELAY_WITHIN, relayed).await;
    }

    /// How everybody else knows it, now that it has said so itself.
    pub(crate) fn known_as(&self) -> &Aid {
        self.itself.get().unwrap_or(&self.aid)
    }

    pub(crate) fn addrs(&self) -> Addrs {
        self.listens.get().cloned().unwrap_or_else(|| Addr::Uds(self.socket.clone()).into())
    }

    /// The endpoints of our calls that it was serving.
    pub(crate) fn in_service(&self) -> Vec<String> {
        self.channel.get().map(|channel| channel.open_paths()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("aid", &self.aid).field("reaped", &self.reaped.get()).finish_non_exhaustive()
    }
}
