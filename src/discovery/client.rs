//! How does an actor ask its tree's registrar?
//!
//! Each lookup has a connection of its own, so that dropping a future is all it takes to forget it.
use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::DiscoveryError;
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
pub(crate) async fn find(registrar: &Addr, name: &str) -> Result<Option<Found>, DiscoveryError> {
    let request = Request::Find { name: checked(name)?, scope: Scope::Everywhere };
    match ask_in_time(path(registrar), &request).await? {
        Reply::Found(record) => Ok(record.and_then(found)),
        reply => Err(unexpected(registrar, reply)),
    }
}

/// All living actors of this name in all trees of this user, newest first.
///
/// # Errors
///
/// As [`find`].
pub(crate) async fn find_all(registrar: &Addr, name: &str) -> Result<Vec<Found>, DiscoveryError> {
    pages(registrar, Some(checked(name)?)).await
}

/// All living actors in all trees of this user, newest first. Those that boot are not among them.
///
/// # Errors
///
/// As [`find`].
pub(crate) async fn list(registrar: &Addr) -> Result<Vec<Found>, DiscoveryError> {
    pages(registrar, None).await
}

/// As [`find`], and waits until there is one.
///
/// # Errors
///
/// [`DiscoveryError`] if this tree's registrar ends. That no other tree can be reached is no error.
///
/// # Cancel safety
///
/// A drop closes the connection, and the registrar forgets the wait.
pub(crate) async fn wait(registrar: &Addr, name: &str) -> Result<Found, DiscoveryError> {
    let request = Request::Wait { name: checked(name)?, scope: Scope::Everywhere };
    loop {
        match ask(path(registrar), &request).await? {
            Reply::Found(Some(record)) => {
                if let Some(found) = found(record) {
                    return Ok(found);
                }
            }
            Reply::Refused(Refusal::Full { .. }) => {}
            reply => return Err(unexpected(registrar, reply)),
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
}

/// One request and its reply, however long it takes.
pub(super) async fn ask(path: &Path, request: &Request) -> Result<Reply, DiscoveryError> {
    let mut stream = connect(path).await.map_err(|error| lost(path, error))?;
    // Before a runtime watches it, which would have to be waited for: a request fits into an empty socket.
    let written = stream.write_all(&wire::opening(request));
    let reply = async {
        let mut stream = BufReader::new(UnixStream::from_std(stream)?);
        wire::receive_greeting(&mut stream).await?;
        wire::receive(&mut stream, REPLY_BYTES).await
    };
    // One that is full answers before it has read anything, so a failed write may have a reply.
    reply.await.map_err(|error| lost(path, written.err().unwrap_or(error)))
}

async fn ask_in_time(path: &Path, request: &Request) -> Result<Reply, DiscoveryError> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    in_time(deadline, async {
        loop {
            match ask(path, request).await? {
                Reply::Refused(Refusal::Full { .. }) if Instant::now() + FULL_PAUSE < deadline => {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Reply::Refused(refusal) => return Err(refusal.into()),
                reply => return Ok(reply),
            }
        }
    })
    .await
}

async fn in_time<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, DiscoveryError>>,
) -> Result<T, DiscoveryError> {
    let late = DiscoveryError::NoAnswer { waited: ANSWER_WITHIN };
    tokio::time::timeout_at(deadline, answer).await.unwrap_or(Err(late))
}

async fn connect(path: &Path) -> io::Result<StdStream> {
    loop {
        match try_connect(path) {
            // Its backlog is full, and the kernel has no event for that.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

/// A Unix socket connects at once, or not.
fn try_connect(path: &Path) -> io::Result<StdStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd.into())
}

async fn pages(registrar: &Addr, name: Option<String>) -> Result<Vec<Found>, DiscoveryError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let request = Request::List { name: name.clone(), scope: Scope::Everywhere, after };
        match ask_in_time(path(registrar), &request).await? {
            Reply::Page { records, more } => {
                after = records.last().and_then(Record::since);
                all.extend(records.into_iter().filter_map(found));
                if !more || after.is_none() || all.len() >= LISTED {
                    return Ok(all);
                }
            }
            reply => return Err(unexpected(registrar, reply)),
        }
    }
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
        Addr::Tcp(_) | Addr::InsecureTcp(_) => Path::new(""),
    }
}

fn unexpected(registrar: &Addr, reply: Reply) -> DiscoveryError {
    match reply {
        Reply::Refused(refusal) => refusal.into(),
        Reply::Found(_)
        | Reply::Page { .. }
        | Reply::Joined
        | Reply::Ended(_)
        | Reply::Loads(_)
        | Reply::Following { .. }
        | Reply::Lines(_) => DiscoveryError::Foreign { path: path(registrar).to_owned() },
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
