//! Which trees of this user run on this host?
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use uuid::Uuid;

use super::DiscoveryError;
use super::registrar::registrar_socket;
use super::table::Record;
use super::wire::{Refusal, Reply, Request, ask_blocking, next_blocking};
use crate::actor::host::{host_id, is_here};
use crate::actor::log::follow::LogRecord;
use crate::actor::process::{ProcessStat, age, since_boot};
use crate::msg::addr::{Addr, Addrs};
use crate::msg::death::Receipt;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::load::Load;
use crate::portal::Portal;
use crate::transport::folder::{Base, FolderError, LOCK};

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
    /// Its process is one of this host's. Of one elsewhere nothing is seen here: its [`Load`] tells.
    pub is_here: bool,
    /// The state of its process, a letter as in proc(5). `None` if it ended just now, or is elsewhere.
    pub process_state: Option<char>,
    /// How long its process has run; of one elsewhere, since it was known here.
    pub age: Duration,
    /// Bytes of memory that its process holds (its resident set). `None` if it ended just now, or is elsewhere.
    pub rss_bytes: Option<u64>,
    /// The processor time that its process has taken since its start. `None` if it ended just now, or is elsewhere.
    pub cpu: Option<Duration>,
    /// Where it serves, once it does.
    pub addr: Option<Addr>,
    /// All of that.
    pub(super) addrs: Addrs,
}

impl TreeActor {
    /// A portal to it, for the actor that this code is part of. `None`: it does not serve yet.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let trees = teamster::discovery::trees()?;
    /// let found = trees.iter().flat_map(|tree| &tree.actors).find(|actor| actor.aid == *frank.aid());
    /// let portal = found.and_then(|actor| actor.portal()).expect("it serves");
    /// assert_eq!(portal.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn portal(&self) -> Option<Portal> {
        self.addr.as_ref().map(|_| Portal::to(self.aid.clone(), Some(self.addrs.clone())))
    }
}

impl Tree {
    /// Asks an actor of this tree to end, from outside of it, and waits until it is gone.
    ///
    /// The request goes by the tree's control threads, as [`Portal::cancel_actor`](crate::Portal::cancel_actor) from
    /// within does: a stuck actor hears it as well, and is killed when its grace is over. The tree names this process
    /// as the one that asked, by its program's name. With the root the whole tree ends.
    ///
    /// Of the tree itself, and of an actor whose tree has ended with it, the receipt knows no exit.
    /// `None`: the tree has no such actor, or no longer. It blocks, for as long as that actor's grace lasts; one that
    /// is held by a debugger has no end before it is released.
    ///
    /// # Errors
    ///
    /// What the system says where the tree can't be asked.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let trees = teamster::discovery::trees()?;
    /// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    /// let receipt = own.cancel_actor(frank.aid())?.expect("it has a frank");
    /// assert!(receipt.was_graceful());
    /// # Ok(()) }).await }
    /// ```
    pub fn cancel_actor(&self, aid: &Aid) -> io::Result<Option<Receipt>> {
        let by = outsider();
        let asked_at = Instant::now();
        let request = Request::End { aid: aid.clone(), by: by.clone() };
        let ended_with_its_tree = || {
            let canceller = Canceller { aid: by, request: CancelRequest::Actor };
            Receipt::unseen(aid.clone(), Some(canceller), asked_at.elapsed())
        };
        let stream = match connected(&registrar_socket(&self.folder)) {
            Err(error) if is_nobody(&error) => return Ok(None),
            stream => stream?,
        };
        stream.set_read_timeout(None)?; // as long as its grace lasts
        match ask_blocking(stream, &request) {
            Ok(Reply::Ended(receipt)) => Ok(receipt.map(|receipt| *receipt)),
            Ok(Reply::Refused(refusal)) => Err(io::Error::other(DiscoveryError::from(refusal))),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if is_end(&error) => Ok(Some(ended_with_its_tree())),
            Err(error) => Err(error),
        }
    }
}

impl Tree {
    /// How much its actors have to do now, in no order: of those that tell it within 200 ms.
    ///
    /// Each one's control thread tells it, so a stuck runtime is no hindrance; a process that is stopped, starts or ends
    /// is left out. It blocks, a millisecond mostly. From a look on actors time the calls that they serve, for 10 s.
    ///
    /// # Errors
    ///
    /// What the system says where the tree can't be asked.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.start_actors(["frank", "bob"]).await?;
    /// let trees = teamster::discovery::trees()?;
    /// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    /// let busy: u64 = own.loads()?.iter().map(|load| load.in_flight).sum();
    /// println!("{busy} calls are being served");
    /// # Ok(()) }).await }
    /// ```
    pub fn loads(&self) -> io::Result<Vec<Load>> {
        let stream = connected(&registrar_socket(&self.folder))?;
        match ask_blocking(stream, &Request::Loads)? {
            Reply::Loads(loads) => Ok(loads),
            Reply::Refused(refusal) => Err(io::Error::other(DiscoveryError::from(refusal))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Tree {
    /// Follows the log of this tree from now on: what its actors send up, and what the root logs under `TEAMSTER_LOG`
    /// itself. Lines of a root whose program has a subscriber of its own are that subscriber's alone.
    ///
    /// A tree that nobody follows pays nothing for it. Whoever reads slower than it logs loses the oldest lines, and a
    /// line in their place says how many.
    ///
    /// # Errors
    ///
    /// What the system says where the tree can't be asked.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let trees = teamster::discovery::trees()?;
    /// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    /// let log = own.follow_log()?;
    /// println!("its actors log {:?}", log.directives());
    /// # Ok(()) }).await }
    /// ```
    pub fn follow_log(&self) -> io::Result<LogRecords> {
        let mut stream = connected(&registrar_socket(&self.folder))?;
        match ask_blocking(&mut stream, &Request::Follow)? {
            Reply::Following { directives } => {
                stream.set_read_timeout(None)?; // its next line may take days
                Ok(LogRecords { stream: Some(stream), directives, come: VecDeque::new() })
            }
            Reply::Refused(refusal) => Err(io::Error::other(DiscoveryError::from(refusal))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The log lines of a tree as they come, until it ends. Waiting for the next one blocks.
///
/// # Examples
///
/// See [`Tree::follow_log`].
#[derive(Debug)]
pub struct LogRecords {
    /// `None`: it has ended.
    stream: Option<UnixStream>,
    directives: String,
    /// A message's worth of lines, at most.
    come: VecDeque<LogRecord>,
}

impl LogRecords {
    /// What an actor of this tree sends up that its builder told nothing else: `info`, `my_crate=debug,warn`, `off`.
    ///
    /// # Examples
    ///
    /// See [`Tree::follow_log`].
    pub fn directives(&self) -> &str {
        &self.directives
    }
}

impl Iterator for LogRecords {
    type Item = io::Result<LogRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.come.pop_front() {
                return Some(Ok(record));
            }
            match next_blocking(self.stream.as_mut()?) {
                Ok(Reply::Lines(lines)) => self.come.extend(lines.iter().filter_map(|line| LogRecord::decode(line))),
                Ok(_) => self.stream = None, // it speaks of something else: there is nothing to follow
                Err(error) => {
                    self.stream = None;
                    return (!is_end(&error)).then_some(Err(error));
                }
            }
        }
    }
}

/// This process as one that asks a tree from outside.
fn outsider() -> Aid {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    Aid::new(name.unwrap_or_else(|| "outsider".into()), Uuid::new_v4(), std::process::id(), host_id())
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
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
    // The kernel knows who listens, even if that one is stopped; and who holds its lock, if it has stood still for so long that
    // nobody more can knock.
    let pid = match listener_pid(&socket) {
        Err(error) if is_silence(&error) => holder_pid(&folder)?,
        pid => pid.ok()?,
    };
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
    let stream = connected(socket)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}

/// The process that keeps this folder of a root's, by the kernel's table of locks.
fn holder_pid(folder: &Path) -> Option<u32> {
    let inode = std::fs::metadata(folder.join(LOCK)).ok()?.ino().to_string();
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10092875 0 EOF`
    table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>()).find_map(|words| match words[..] {
        [_, "FLOCK", _, _, pid, file, ..] if file.rsplit(':').next() == Some(&inode) => pid.parse().ok(),
        _ => None,
    })
}

/// A connection to a registrar, on which everything is answered soon, or is an error of [`is_silence`].
fn connected(socket: &Path) -> io::Result<UnixStream> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&fd, timeout, Some(ANSWER_WITHIN))?;
    }
    connect(&fd, &SocketAddrUnix::new(socket)?)?; // where too many have knocked already, it waits as a write does
    Ok(fd.into())
}

fn records(socket: &Path) -> io::Result<Vec<Record>> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|record: &Record| record.born);
        let (records, more) = match ask_blocking(connected(socket)?, &Request::Tree { after })? {
            Reply::Page { records, more } => (records, more),
            Reply::Refused(Refusal::Full { .. }) => return Err(io::ErrorKind::WouldBlock.into()), // it is there
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let ended = !more || records.is_empty();
        all.extend(records);
        if ended {
            return Ok(all);
        }
    }
}

fn actor(record: Record) -> TreeActor {
    let addrs = record.serving.as_ref().map(|serving| serving.addrs.clone());
    let stat = Some(&record.aid).filter(|aid| is_here(aid)).and_then(|aid| ProcessStat::read(aid.pid()));
    let stat = stat.filter(|stat| stat.start_ticks == record.start_ticks);
    TreeActor {
        parent: record.parent,
        is_here: is_here(&record.aid),
        state: if record.serving.is_some() { ActorState::Ready } else { ActorState::Booting },
        process_state: stat.as_ref().map(|stat| stat.state),
        rss_bytes: stat.as_ref().map(ProcessStat::rss_bytes),
        cpu: stat.as_ref().map(ProcessStat::cpu),
        age: match is_here(&record.aid) {
            true => age(record.start_ticks),
            false => since_boot().saturating_sub(record.born.since_boot()),
        },
        addr: addrs.as_ref().and_then(|addrs| addrs.as_slice().first().cloned()),
        addrs: addrs.unwrap_or_default(),
        aid: record.aid,
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

const ANSWER_WITHIN: Duration = Duration::from_millis(500);
