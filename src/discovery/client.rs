//! How does an actor ask its tree's registrar?
//!
//! Who is dropped while it waits closes its connection, and is forgotten by that. After an answer the connection stays for the next
//! look-up ([`Kept`]). Those that ask at the same time have one each.
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, send, socket_with};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::DiscoveryError;
use super::kept::Kept;
use super::lookup::{GAP, LISTED};
use super::table::Record;
use super::wire::{self, NAME_BYTES, REPLY_BYTES, Refusal, Reply, Request, Scope};
use crate::msg::addr::{Addr, Addrs};
use crate::msg::ident::Aid;

/// An actor that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) aid: Aid,
    pub(crate) addrs: Addrs,
}

/// Who asks a registrar, time and again.
#[derive(Debug)]
pub(crate) struct Client {
    registrar: Addr,
    kept: Arc<Kept>,
}

impl Client {
    /// Asks this registrar, by the connection that was kept, if there is one.
    pub(crate) fn new(registrar: Addr, kept: Arc<Kept>) -> Client {
        Client { registrar, kept }
    }

    /// The newest living actor of this name in all trees of this user.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError`] after at most a second and a half. If only the other trees are out of reach,
    /// and this one has the name, that is the answer.
    ///
    /// # Cancel safety
    ///
    /// A drop closes the connection; nothing is left.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Found>, DiscoveryError> {
        let request = Request::Find { name: checked(name)?, scope: Scope::Everywhere };
        match self.ask_in_time(&request).await? {
            Reply::Found(record) => Ok(record.and_then(found)),
            reply => Err(self.unexpected(reply)),
        }
    }

    /// All living actors of this name in all trees of this user, newest first.
    ///
    /// # Errors
    ///
    /// As [`find`](Client::find).
    pub(crate) async fn find_all(&self, name: &str) -> Result<Vec<Found>, DiscoveryError> {
        self.pages(Some(checked(name)?)).await
    }

    /// All living actors in all trees of this user, newest first. Those that boot are not among them.
    ///
    /// # Errors
    ///
    /// As [`find`](Client::find).
    pub(crate) async fn list(&self) -> Result<Vec<Found>, DiscoveryError> {
        self.pages(None).await
    }

    /// As [`find`](Client::find), and waits until there is one.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError`] if this tree's registrar ends. That no other tree can be reached is no error.
    ///
    /// # Cancel safety
    ///
    /// A drop closes the connection, and the registrar forgets the wait.
    pub(crate) async fn wait(&self, name: &str) -> Result<Found, DiscoveryError> {
        let request = Request::Wait { name: checked(name)?, scope: Scope::Everywhere };
        loop {
            match self.ask(&request).await? {
                Reply::Found(Some(record)) => {
                    if let Some(found) = found(record) {
                        return Ok(found);
                    }
                }
                Reply::Refused(Refusal::Full { .. }) => {}
                reply => return Err(self.unexpected(reply)),
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    async fn pages(&self, name: Option<String>) -> Result<Vec<Found>, DiscoveryError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let request = Request::List { name: name.clone(), scope: Scope::Everywhere, after };
            match self.ask_in_time(&request).await? {
                Reply::Page { records, more } => {
                    after = records.last().and_then(Record::since);
                    all.extend(records.into_iter().filter_map(found));
                    if !more || after.is_none() || all.len() >= LISTED {
                        return Ok(all);
                    }
                }
                reply => return Err(self.unexpected(reply)),
            }
        }
    }

    async fn ask_in_time(&self, request: &Request) -> Result<Reply, DiscoveryError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut full = None;
        let asked = in_time(deadline, async {
            loop {
                match self.ask(request).await? {
                    Reply::Refused(refusal @ Refusal::Full { .. }) if Instant::now() + FULL_PAUSE < deadline => {
                        full = Some(refusal);
                        tokio::time::sleep(FULL_PAUSE).await;
                    }
                    Reply::Refused(refusal) => return Err(refusal.into()),
                    reply => return Ok(reply),
                }
            }
        })
        .await;
        match (asked, full) {
            // It has answered, and not yet the last time.
            (Err(DiscoveryError::NoAnswer { .. }), Some(refusal)) => Err(refusal.into()),
            (asked, _) => asked,
        }
    }

    /// One request and its reply, however long it takes.
    async fn ask(&self, request: &Request) -> Result<Reply, DiscoveryError> {
        // What goes wrong with a kept one says little: the registrar may have given it up, or be another one by now. Then it is
        // asked anew, once: a look-up changes nothing, so that it may be answered twice.
        if let Some(stream) = self.kept.take()
            && let Ok(reply) = self.converse(stream, &wire::message(request), Next::Reply).await
        {
            return Ok(reply);
        }
        let path = path(&self.registrar);
        let asked = async {
            let stream = connect(path).await?;
            self.converse(stream, &wire::opening(request), Next::Greeting).await
        };
        asked.await.map_err(|error| lost(path, error))
    }

    /// Keeps the connection of a reply. Dropped before, it closes it: nobody else is to read that reply.
    async fn converse(&self, mut stream: Connection, bytes: &[u8], next: Next) -> io::Result<Reply> {
        let reply = converse(&mut stream, bytes, next).await?;
        if !matches!(reply, Reply::Refused(_)) {
            self.kept.put(stream);
        }
        Ok(reply)
    }

    fn unexpected(&self, reply: Reply) -> DiscoveryError {
        match reply {
            Reply::Refused(refusal) => refusal.into(),
            Reply::Found(_)
            | Reply::Page { .. }
            | Reply::Joined
            | Reply::Ended(_)
            | Reply::Loads(_)
            | Reply::Following { .. }
            | Reply::Lines(_) => DiscoveryError::Foreign { path: path(&self.registrar).to_owned() },
        }
    }
}

/// A connection to a registrar.
pub(super) type Connection = BufReader<UnixStream>;

/// What a registrar says next.
#[derive(Clone, Copy)]
enum Next {
    Greeting,
    Reply,
}

/// One request and its reply on a connection of its own, however long it takes.
pub(super) async fn ask(path: &Path, request: &Request) -> Result<Reply, DiscoveryError> {
    let asked = async { converse(&mut connect(path).await?, &wire::opening(request), Next::Greeting).await };
    asked.await.map_err(|error| lost(path, error))
}

async fn converse(stream: &mut Connection, bytes: &[u8], next: Next) -> io::Result<Reply> {
    // Before a runtime has seen that there is room, which would have to be waited for: a request fits into an empty socket.
    let sent = match send(stream.get_ref(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) => Err(io::Error::from(error)),
    };
    let reply = async {
        match next {
            Next::Greeting => wire::receive_greeting(stream).await?,
            Next::Reply => {}
        }
        wire::receive(stream, REPLY_BYTES).await
    };
    // One that is full answers before it has read anything, so a failed write may have a reply.
    reply.await.map_err(|error| sent.err().unwrap_or(error))
}

async fn in_time<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, DiscoveryError>>,
) -> Result<T, DiscoveryError> {
    let late = DiscoveryError::NoAnswer { waited: ANSWER_WITHIN };
    tokio::time::timeout_at(deadline, answer).await.unwrap_or(Err(late))
}

async fn connect(path: &Path) -> io::Result<Connection> {
    loop {
        match try_connect(path) {
            // Its backlog is full, and the kernel has no event for that.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

/// A Unix socket connects at once, or not.
fn try_connect(path: &Path) -> io::Result<Connection> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, UnixStream::from_std(fd.into())?))
}

fn checked(name: &str) -> Result<String, DiscoveryError> {
    match name.len() <= NAME_BYTES {
        true => Ok(name.to_owned()),
        false => Err(DiscoveryError::NameTooLong { bytes: name.len(), limit: NAME_BYTES }),
    }
}

fn found(record: Record) -> Option<Found> {
    Some(Found { aid: record.aid, addrs: record.serving?.addrs })
}

fn path(registrar: &Addr) -> &Path {
    match registrar {
        Addr::Uds(path) => path,
        // Registrars listen on Unix sockets alone: whoever asks at another address finds nobody.
        Addr::Tcp(_) | Addr::InsecureTcp(_) | Addr::Quic(_) => Path::new(""),
    }
}

fn lost(path: &Path, error: io::Error) -> DiscoveryError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::InvalidData => DiscoveryError::Foreign { path },
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => DiscoveryError::Ended { path },
        _ => DiscoveryError::System { path, source: Arc::new(error) },
    }
}

/// The registrar waits for the leader itself, so this is a little more.
const ANSWER_WITHIN: Duration = GAP.saturating_add(Duration::from_millis(500));
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// Most replies fit. It stays with a connection that is kept.
const BUFFER_BYTES: usize = 1 << 10;
