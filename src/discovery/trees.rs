//! Which trees of this user run on this host?
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::registrar::registrar_socket;
use super::table::Record;
use super::wire::{Reply, Request, ask_blocking};
use crate::actor::process::{ProcessStat, age};
use crate::msg::addr::Addr;
use crate::msg::ident::Aid;
use crate::transport::folder::{Base, FolderError};

/// A running tree.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let trees = teamster::discovery::trees()?;
/// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
/// println!("{} actors below {}", own.actors.len(), own.folder.display());
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tree {
    /// Its root's folder of sockets.
    pub folder: PathBuf,
    /// The process id of its root.
    pub pid: u32,
    /// The state of the root's process, a letter as in proc(5): `T` if it is stopped.
    pub process_state: Option<char>,
    /// Its actors, parents before their children. Empty if its registrar did not answer.
    pub actors: Vec<TreeActor>,
}

/// An actor of a running tree.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// for actor in teamster::discovery::trees()?.iter().flat_map(|tree| &tree.actors) {
///     println!("{}, pid {}, for {:?}", actor.aid, actor.aid.pid(), actor.age);
/// }
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TreeActor {
    /// Who it is.
    pub aid: Aid,
    /// The actor that started it. `None`: it is the root.
    pub parent: Option<Uuid>,
    /// How far it has come.
    pub state: ActorState,
    /// The state of its process, a letter as in proc(5). `None` if it ended just now.
    pub process_state: Option<char>,
    /// How long its process has run.
    pub age: Duration,
    /// Where it serves, once it does.
    pub addr: Option<Addr>,
}

/// How far an actor has come.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// use teamster::discovery::{ActorState, trees};
///
/// let trees = trees()?;
/// let actors = trees.iter().flat_map(|tree| &tree.actors);
/// println!("{} actors serve", actors.filter(|actor| actor.state == ActorState::Ready).count());
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActorState {
    /// Its process has started, and it does not serve yet.
    Booting,
    /// It serves.
    Ready,
}

/// Lists the trees of this user that run on this host, oldest root first.
///
/// It asks each tree itself, so it needs no runtime and no tree of its own, and works whoever leads.
/// A tree whose root does not answer within half a second is listed without actors.
///
/// # Errors
///
/// [`FolderError`] if the folder of sockets is not safe to look into.
///
/// # Examples
///
/// ```
/// for tree in teamster::discovery::trees()? {
///     println!("{}: {} actors", tree.pid, tree.actors.len());
/// }
/// # Ok::<(), teamster::discovery::FolderError>(())
/// ```
pub fn trees() -> Result<Vec<Tree>, FolderError> {
    Ok(Base::find()?.map(|base| trees_below(&base)).unwrap_or_default())
}

pub(super) fn trees_below(base: &Base) -> Vec<Tree> {
    let mut trees: Vec<Tree> = base.living_roots().into_iter().filter_map(tree).collect();
    trees.sort_by_key(|tree| std::cmp::Reverse((tree.actors.first().map(|root| root.age), tree.pid)));
    trees
}

/// `None` for one that has no registrar yet, or any more.
fn tree(folder: PathBuf) -> Option<Tree> {
    let socket = registrar_socket(&folder);
    // The kernel knows who listens, even if that one is stopped.
    let pid = listener_pid(&socket).ok()?;
    let actors = match records(&socket) {
        Ok(records) => records.into_iter().map(actor).collect(),
        Err(error) if is_silence(&error) => Vec::new(),
        Err(_) => return None, // it ended while we asked
    };
    // Read last: what is silent has been so for a while.
    let process_state = ProcessStat::read(pid).map(|stat| stat.state);
    Some(Tree { folder, pid, process_state, actors })
}

fn listener_pid(socket: &Path) -> io::Result<u32> {
    let stream = UnixStream::connect(socket)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}

fn records(socket: &Path) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|record: &Record| record.born);
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let Reply::Page { records, more } = ask_blocking(stream, &Request::Tree { after })? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let ended = !more || records.is_empty();
        all.extend(records);
        if ended {
            return Ok(all);
        }
    }
}

fn actor(record: Record) -> TreeActor {
    let stat = ProcessStat::read(record.aid.pid()).filter(|stat| stat.start_ticks == record.start_ticks);
    TreeActor {
        parent: record.parent,
        state: if record.serving.is_some() { ActorState::Ready } else { ActorState::Booting },
        process_state: stat.map(|stat| stat.state),
        age: age(record.start_ticks),
        addr: record.serving.and_then(|serving| serving.addrs.as_slice().first().cloned()),
        aid: record.aid,
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

const ANSWER_WITHIN: Duration = Duration::from_millis(500);
