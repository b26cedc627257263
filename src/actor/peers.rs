//! How is another actor reached? Lines to peers, dialled when they are needed.
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::child::Child;
use super::control::Command;
use super::host::{is_here, ways_to};
use super::listener::{dialled_parts, keep_moving};
use super::{Actor, DataLine};
use crate::channel::driver::framed;
use crate::channel::handshake::{self, HANDSHAKE_WITHIN, HandshakeError};
use crate::channel::{Channel, LineEnd, Parts};
use crate::error::Error;
use crate::msg::addr::Addrs;
use crate::msg::death::{Death, DeathData, ExitKind, Receipt};
use crate::msg::frame::{Frame, Hello, LineKind, PROTOCOL};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::proto::connection::Left;
use crate::transport::dial::{Caller, SILENT};
use crate::transport::socket::Socket;
use crate::transport::stream::Stream;
use crate::transport::watched::watch;

/// The line to one peer, and who is dialling it.
#[derive(Default)]
pub(crate) struct Peer {
    line: Mutex<Option<Arc<DataLine>>>,
    dialling: tokio::sync::Mutex<()>,
}

impl Peer {
    fn open_line(&self) -> Option<Arc<DataLine>> {
        self.line.lock().as_ref().filter(|line| line.is_open()).cloned()
    }
}

impl Actor {
    fn peer(&self, aid: &Aid) -> Arc<Peer> {
        Arc::clone(self.peers.lock().entry(aid.uuid()).or_default())
    }

    /// A peer has dialled us: its line serves calls to it, too, unless there is one.
    pub(crate) fn adopt_peer(&self, channel: &Arc<DataLine>) {
        self.add_line(channel);
        let peer = self.peer(&channel.peer);
        let mut line = peer.line.lock();
        if line.as_ref().is_none_or(|line| !line.is_open()) {
            *line = Some(Arc::clone(channel));
        }
    }

    /// A line to `aid`: the one that is there, or a new one.
    pub(crate) async fn line_to(self: &Arc<Self>, aid: &Aid, addrs: Option<&Addrs>) -> Result<Arc<DataLine>, Error> {
        if let Some(parent) = self.parent.as_ref().filter(|parent| parent.aid == *aid)
            && let Some(line) = parent.line.get()
        {
            return Ok(Arc::clone(line));
        }
        let peer = self.peer(aid);
        if let Some(line) = peer.open_line() {
            return Ok(line);
        }
        let used = InUse { actor: self, aid, peer };
        let _dialling = used.peer.dialling.lock().await;
        if let Some(line) = used.peer.open_line() {
            return Ok(line);
        }
        // Rare, and big: a TLS handshake has much to remember.
        let line = Box::pin(self.dial(aid, addrs)).await?;
        *used.peer.line.lock() = Some(Arc::clone(&line));
        Ok(line)
    }

    /// Forgets a peer without a line, unless somebody dials it: `held` was by the caller.
    fn forget_unused(&self, aid: &Aid, held: Option<Arc<Peer>>) {
        let mut peers = self.peers.lock();
        drop(held); // whoever is the last one sees that under the lock
        let is_left = |peer: &Arc<Peer>| peer.open_line().is_none() && Arc::strong_count(peer) == 1;
        if peers.get(&aid.uuid()).is_some_and(is_left) {
            peers.remove(&aid.uuid());
        }
    }

    async fn dial(self: &Arc<Self>, aid: &Aid, addrs: Option<&Addrs>) -> Result<Arc<DataLine>, Error> {
        let ways = ways_to(aid, addrs.map(Addrs::as_slice).unwrap_or_default());
        let unreached = |reason: String| Error::Transport { what: format!("calling {aid}"), reason };
        let identity = self.newest_identity().await;
        let caller = Caller { identity: identity.as_ref(), lost_after: self.settings.lost_after };
        let dialled = tokio::select! {
            biased; // what has come is not late
            dialled = caller.dial(aid.uuid(), ways) => dialled,
            () = self.clock.sleep(HANDSHAKE_WITHIN) => return Err(unreached(SILENT.to_owned())),
        };
        let failures = match dialled {
            Ok((addr, stream)) => {
                let what = format!("connecting to {aid} at {addr}");
                return self.greet(aid, stream, |reason| Error::Transport { what: what.clone(), reason }).await;
            }
            Err(failures) => failures,
        };
        if !failures.is_empty() && failures.iter().all(|(_addr, error)| is_nobody(error)) {
            return Err(Error::ActorDied(self.death_of(aid).await));
        }
        // What stands on the way (a proxy, a mapping of ports) may have answered for one that is gone.
        if failures.iter().any(|(_addr, error)| is_hung_up(error))
            && let Some(death) = has_died(self, aid).await
        {
            return Err(Error::ActorDied(death));
        }
        let last = failures.into_iter().rfind(|(_addr, error)| !is_nobody(error));
        Err(last.map_or_else(
            || unreached("it has no address".to_owned()),
            |(addr, error)| Error::Transport {
                what: format!("connecting to {aid} at {addr}"),
                reason: error.to_string(),
            },
        ))
    }

    async fn greet(
        self: &Arc<Self>,
        aid: &Aid,
        stream: Stream,
        broken: impl Fn(String) -> Error,
    ) -> Result<Arc<DataLine>, Error> {
        let is_foreign = stream.is_foreign(self.identity().as_ref());
        let socket = Socket::new(stream).map_err(|error| broken(error.to_string()))?;
        let hello = Hello {
            protocol: PROTOCOL,
            aid: self.aid.clone(),
            line: LineKind::Data,
            token: None,
            build: Some(super::build::build_id().to_vec()).filter(|build| !build.is_empty()),
            addrs: self.addrs(),
            wanted: Some(aid.uuid()),
        };
        let greeting = framed(&Frame::Hello(hello), &[]);
        // A fresh socket's buffer takes it whole. Where it is closed, what has come before that may say why.
        let sent = socket.try_send(&greeting, &[]);
        if sent.as_ref().is_ok_and(|sent| *sent < greeting.len()) {
            return Err(broken("its socket takes nothing".into()));
        }
        let (welcome, rest) = match handshake::welcome(&socket, self.clock.sleep(HANDSHAKE_WITHIN)).await {
            Ok(welcome) => welcome,
            // In TLS 1.3 the side that was called looks at our certificate when we believe its own already.
            Err(HandshakeError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                return Err(broken(error.to_string()));
            }
            Err(error @ (HandshakeError::Ended | HandshakeError::Io(_))) => {
                sent.map_err(|error| broken(error.to_string()))?;
                return Err(match has_died(self, aid).await {
                    Some(death) => Error::ActorDied(death),
                    None if is_here(aid) => Error::ActorDied(died_elsewhere(aid, None)),
                    None => broken(error.to_string()), // on a network, whatever stands on the way may have done it
                });
            }
            Err(error) => return Err(broken(error.to_string())),
        };
        if welcome.aid != *aid {
            return Err(Error::ActorDied(self.death_of(aid).await));
        }
        let channel = Channel::new(socket, Parts { is_foreign, ..dialled_parts(self, &welcome) });
        self.add_line(&channel);
        keep_moving(self, Arc::clone(&channel), &rest);
        Ok(channel)
    }

    /// How an actor has ended that does not answer at its address.
    async fn death_of(&self, aid: &Aid) -> Death {
        // One that takes its time to die takes nobody any more.
        has_died(self, aid).await.unwrap_or_else(|| died_elsewhere(aid, None))
    }

    /// A line of ours has ended: whoever ends with it is told.
    pub(crate) fn line_ended(self: &Arc<Self>, line: &Arc<DataLine>, end: &LineEnd) {
        self.forget_unused(&line.peer, None); // whoever dials it holds its entry, and puts the new line there
        if *end == LineEnd::Shutdown {
            return;
        }
        if self.parent_line().is_some_and(|parent| Arc::ptr_eq(parent, line)) {
            self.control.send(Command::ParentLost);
        }
    }
}

/// A peer that is dialled: nothing of it stays if that comes to nothing.
struct InUse<'a> {
    actor: &'a Actor,
    aid: &'a Aid,
    peer: Arc<Peer>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.actor.forget_unused(self.aid, Some(std::mem::take(&mut self.peer)));
    }
}

/// Whether nobody listens at an address any more.
fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// Whether somebody has taken a connection and ended it without a word.
fn is_hung_up(error: &std::io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The end of a peer whose line has ended, if that is why. On this host its process tells; else its parent is asked
/// through the tree, and `None` is what nobody knows.
async fn has_died(actor: &Actor, aid: &Aid) -> Option<Death> {
    let is_seen = is_here(aid);
    if is_seen && !is_dead_soon(aid).await {
        return None;
    }
    let receipt = obituary(actor, aid).await;
    (is_seen || receipt.is_some()).then(|| died_elsewhere(aid, receipt))
}

/// The end of an actor. Its parent has seen it, and is asked through the tree.
async fn obituary(actor: &Actor, aid: &Aid) -> Option<Receipt> {
    let (told, word) = oneshot::channel();
    actor.control.send(Command::AskObituary { aid: aid.clone(), told });
    let word = actor.clock.timeout(TOLD_WITHIN, word).await;
    word.ok().and_then(Result::ok).flatten()
}

/// The end of an actor that is not our child: as far as `receipt` tells.
fn died_elsewhere(aid: &Aid, receipt: Option<Receipt>) -> Death {
    Death::new(DeathData {
        id: uuid::Uuid::new_v4(),
        aid: aid.clone(),
        exit: receipt.as_ref().map_or(ExitKind::Unknown, |receipt| receipt.exit),
        rung: receipt.as_ref().and_then(|receipt| receipt.rung),
        asked: receipt.as_ref().and_then(|receipt| receipt.asked_by.clone()),
        said: None,
        in_service: Vec::new(),
        stderr_tail: String::new(),
        stuck: receipt.as_ref().and_then(|receipt| receipt.stuck.clone()),
    })
}

/// Whether the process of an actor of this host ends now: its line has ended, and a killed process's descriptors are
/// closed just before it counts as dead. Bounded by [`DEATH_WITHIN`].
pub(crate) async fn is_dead_soon(aid: &Aid) -> bool {
    tokio::time::timeout(DEATH_WITHIN, Process::of(aid).dead()).await.is_ok()
}

/// What the loss of a line means for a dialog that was open on it.
pub(crate) enum Lost {
    /// It is proved that it never began: it may be opened again on a new line.
    Again,
    Failed(Error),
}

/// A line has ended before the dialog had that we opened with `path` on `aid`: what can be said of it?
/// `child`: the other side, if it is one of ours.
pub(crate) async fn lost(
    actor: &Actor,
    child: Option<&Arc<Child>>,
    aid: &Aid,
    path: &str,
    left: Left,
    end: &LineEnd,
) -> Lost {
    let death = match child {
        // Its process ends, by itself or because its line is broken: that is the better word.
        Some(child) => Some(child.reaped.wait().await.death.clone()),
        // Its peer had no dialog open, so this one never began over there.
        None if matches!(end, LineEnd::Bye(_)) => return Lost::Again,
        None if *end != LineEnd::Shutdown => has_died(actor, aid).await,
        None => None,
    };
    let (endpoint, aid) = (path.to_owned(), aid.clone());
    Lost::Failed(match (left, death) {
        (Left::No, Some(death)) if death.asked().is_some() => {
            Error::NotStarted { endpoint, aid, reason: death.to_string() }
        }
        (_, Some(death)) => Error::ended(death),
        (Left::No, None) => Error::NotStarted { endpoint, aid, reason: end.to_string() },
        (Left::Yes, None) => Error::Unknown { endpoint, aid, reason: end.to_string() },
    })
}

/// Another actor's process, as far as it can be seen. Not ours to reap.
pub(crate) enum Process {
    /// If it was there when we looked.
    Here(Option<AsyncFd<OwnedFd>>),
    /// On another host.
    Elsewhere,
}

impl Process {
    pub(crate) fn of(aid: &Aid) -> Self {
        if !is_here(aid) {
            return Process::Elsewhere;
        }
        let pid = i32::try_from(aid.pid()).ok().and_then(Pid::from_raw);
        let pidfd = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        Process::Here(pidfd.and_then(|pidfd| watch(pidfd, Interest::READABLE).ok()))
    }

    /// Whether there is no such process.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Process::Here(None))
    }

    /// Resolves when it has ended, reaped or not. Never, where that can't be seen.
    async fn dead(&self) {
        match self {
            // A pidfd that can't be watched belongs to a runtime that ends: nobody waits then.
            Process::Here(Some(pidfd)) => drop(pidfd.readable().await),
            Process::Here(None) => {}
            Process::Elsewhere => std::future::pending().await,
        }
    }

    /// Resolves when its parent has reaped it.
    async fn reaped(&self) {
        self.dead().await;
        let Process::Here(Some(pidfd)) = self else { return };
        // There is no event for it before Linux 6.9, and its parent is about to: look again soon.
        while rustix::process::pidfd_send_signal(pidfd.get_ref(), rustix::process::Signal::WINCH).is_ok() {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Resolves when it has ended, and mostly been reaped: its parent may be a program that takes its time.
    pub(crate) async fn ended(&self) {
        self.dead().await;
        // Over: it is dead all the same.
        let _ = tokio::time::timeout(DEATH_WITHIN, self.reaped()).await;
    }
}

/// Between two looks at a dead process that has not been reaped.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// How long the word on a dead actor may take. It comes from control threads alone, mostly within a millisecond:
/// one that is that late comes from a process that stands still.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How long a peer whose line has ended may take to be seen dead.
const DEATH_WITHIN: Duration = Duration::from_millis(100);

/// Our own request to end something.
pub(crate) fn canceller(aid: &Aid, request: CancelRequest) -> Canceller {
    Canceller { aid: aid.clone(), request }
}
