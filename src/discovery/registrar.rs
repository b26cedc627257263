//! Who answers when an actor asks for a name?
//!
//! One thread in each root, with a runtime of its own: a user's stuck runtime does not hold it up.
//! It has no timer while nobody asks.
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::poll;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::etcd::{Cluster, Etcd};
use super::idle::{Idle, Slot};
use super::lookup::{Role, Server};
use super::membership;
use super::names::Names;
use super::wire::{self, REQUEST_BYTES, Refusal, Reply, Request};
use crate::actor::Actor;
use crate::msg::addr::Addr;
use crate::msg::ident::Aid;
use crate::transport::folder::{Base, FolderError};

/// The registrar of one root. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Registrar {
    socket: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    server: Arc<Server>,
}

impl Registrar {
    /// Starts to answer for the tree of `root`, whose folder is `folder`.
    ///
    /// Returns when it has joined this user's other registrars, or leads them. If their leader
    /// is stuck it goes on trying while this root runs, and returns after 100 ms; if the cluster's `etcd`
    /// does not answer, after a second.
    ///
    /// # Errors
    ///
    /// If the thread or its sockets can't be made, or if something that is no registrar listens at
    /// the leader's address (found out within a second). If the settings of `etcd` are wrong, or it refuses us.
    pub(crate) fn start(
        base: &Base,
        folder: &Path,
        names: Arc<Names>,
        root: Aid,
        etcd: Option<&Etcd>,
    ) -> io::Result<Registrar> {
        let join = |etcd| Cluster::new(etcd, Arc::clone(&names), root.uuid());
        let cluster = etcd.map(join).transpose().map_err(io::Error::other)?;
        let socket = registrar_socket(folder);
        let advised = |error: io::Error| io::Error::new(error.kind(), FolderError::system("listen at", &socket, error));
        let listener = StdListener::bind(&socket).map_err(advised)?;
        listener.set_nonblocking(true)?;
        let stop = CancellationToken::new();
        let (started, start) = mpsc::sync_channel(1);
        let server = Arc::new(Server::new(base.clone(), folder.to_owned(), names, root, cluster));
        let stopped = stop.clone();
        let watched = server.clone();
        let thread = std::thread::Builder::new()
            .name("teamster-names".into())
            .spawn(move || run(server, listener, stopped, &started))?;
        // From here on a failure ends the thread and removes the socket.
        let registrar = Registrar { socket, stop, thread: Some(thread), server: watched };
        start.recv().unwrap_or_else(|_| Err(io::Error::other("the registrar's thread panicked")))?;
        Ok(registrar)
    }

    /// Where the actors of this tree ask.
    pub(crate) fn addr(&self) -> Addr {
        Addr::Uds(self.socket.clone())
    }

    /// The root has booted: what has to be asked of itself is answered from now on.
    pub(crate) fn serve_for(&self, root: &Arc<Actor>) {
        self.server.serve_for(Arc::downgrade(root));
    }

    #[cfg(test)]
    pub(super) fn leads(&self) -> bool {
        self.server.leads()
    }

    /// Ends it, and waits for the end, which takes no longer than closing its sockets.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed, and what it held is released.
            let _ = thread.join();
        }
        // The folder's removal takes it too.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Where the registrar of the root in this folder listens.
pub(super) fn registrar_socket(folder: &Path) -> PathBuf {
    folder.join("registrar.s")
}

fn run(
    server: Arc<Server>,
    listener: StdListener,
    stop: CancellationToken,
    started: &mpsc::SyncSender<io::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        // The receiver waits for exactly one message.
        Err(error) => return started.send(Err(error)).unwrap_or_default(),
    };
    runtime.block_on(async {
        let own = async {
            let mut connections = JoinSet::new();
            match UnixListener::from_std(listener) {
                Ok(listener) => serve(&server, &listener, &mut connections).await,
                Err(error) => started.send(Err(error)).unwrap_or_default(),
            }
        };
        let announce = async {
            started.send(settled(&server).await).unwrap_or_default();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = own => {}
            () = announce => {}
            () = membership::take_part(&server) => {}
            () = register(&server) => {}
        }
        if let Some(cluster) = &server.cluster {
            cluster.leave().await;
        }
    });
    // A look-up of a host's address may still be on its way, on a thread of its own.
    runtime.shutdown_timeout(LOOKUP_WITHIN);
}

/// Keeps the names in the cluster's etcd, if there is one.
async fn register(server: &Server) {
    match &server.cluster {
        Some(cluster) => cluster.take_part().await,
        None => std::future::pending().await,
    }
}

/// Waits until this registrar has its place among the others.
async fn settled(server: &Server) -> io::Result<()> {
    let mut role = server.role.subscribe();
    let mut current = await_role(&mut role, |role| *role != Role::Standing).await;
    if current == Role::Joining {
        let joined = await_role(&mut role, |role| !matches!(role, Role::Standing | Role::Joining));
        current = tokio::time::timeout(JOIN_WITHIN, joined).await.unwrap_or(Role::Joining);
    }
    if let Role::Trouble(refusal) = current {
        return Err(io::Error::other(super::DiscoveryError::from(refusal)));
    }
    match &server.cluster {
        Some(cluster) => cluster.settled().await.map_err(io::Error::other),
        None => Ok(()),
    }
}

async fn await_role(role: &mut tokio::sync::watch::Receiver<Role>, wanted: impl FnMut(&Role) -> bool) -> Role {
    // The server holds the sender and outlives this future.
    role.wait_for(wanted).await.map_or(Role::Standing, |role| role.clone())
}

/// Answers all who come in at this door, and never returns.
pub(super) async fn serve(server: &Arc<Server>, listener: &UnixListener, connections: &mut JoinSet<()>) {
    let idle = Idle::default();
    loop {
        tokio::select! {
            // What it said, it said to its client; the set is emptied so that it does not grow.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if !is_ours(&stream) => {} // closed without a word
                Ok((stream, _)) if !has_room(&idle, connections).await => {
                    connections.spawn(refuse(stream));
                }
                Ok((stream, _)) => {
                    if idle.silent() >= IDLE_CONNECTIONS {
                        idle.close_silent(Instant::now());
                    }
                    let slot = idle.slot();
                    let id = slot.id();
                    let task = connections.spawn(converse(server.clone(), stream, slot));
                    idle.fill(id, task, Instant::now());
                }
                // The descriptor table is full: those that say nothing go first.
                Err(_) if idle.close_oldest(Instant::now()) => tokio::task::yield_now().await,
                Err(_) => tokio::time::sleep(FULL_TABLE_PAUSE).await,
            },
        }
    }
}

/// Whether one more may come in. If need be, the one that is idle for the longest time makes room for it.
async fn has_room(idle: &Idle, connections: &mut JoinSet<()>) -> bool {
    if connections.len() >= CONNECTIONS && idle.close_oldest(Instant::now()) {
        // Told to go, it is gone in a moment. The next newcomer is not to send away another one instead.
        let _ = connections.join_next().await;
    }
    connections.len() < CONNECTIONS
}

fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn refuse(mut stream: UnixStream) {
    let mut bytes = wire::GREETING.to_vec();
    wire::append(&mut bytes, &Reply::Refused(Refusal::Full { limit: CONNECTIONS }));
    // Who has gone needs no refusal.
    let _ = tokio::time::timeout(REPLY_WITHIN, stream.write_all(&bytes)).await;
}

/// Answers one request after the other.
async fn converse(server: Arc<Server>, stream: UnixStream, mut slot: Slot) {
    let mut stream = BufReader::new(stream);
    // A client that is gone or speaks nonsense loses its connection, which is all it can be told.
    let _: io::Result<()> = async {
        let (mut request, mut bytes) = receive_request(&mut stream).await?;
        loop {
            slot.asked();
            let reply = match request {
                Request::Join { root, folder } if server.leads() => {
                    stream.write_all(&bytes).await?;
                    return membership::grant_lease(&server, stream, &root, folder).await;
                }
                Request::Follow => {
                    stream.write_all(&bytes).await?;
                    return send_log(&server, stream).await;
                }
                Request::Join { .. } => Reply::Refused(Refusal::NotLeader),
                request => tokio::select! {
                    biased; // most answers are there at once
                    reply = server.answer(request) => reply,
                    () = hung_up(&mut stream) => return Ok(()),
                },
            };
            wire::append(&mut bytes, &reply);
            tokio::time::timeout(REPLY_WITHIN, stream.write_all(&bytes)).await??;
            bytes = Vec::new(); // a long list's room is not kept
            slot.answered();
            request = tokio::time::timeout(REST_WITHIN, wire::receive(&mut stream, REQUEST_BYTES)).await??;
        }
    }
    .await;
}

/// The first request, and what has to be said before its reply.
///
/// Who speaks at once hears our greeting together with the reply: that is one wake-up less on the way of a look-up.
async fn receive_request(stream: &mut BufReader<UnixStream>) -> io::Result<(Request, Vec<u8>)> {
    let has_spoken = matches!(poll!(pin!(stream.fill_buf())), Poll::Ready(Ok(bytes)) if !bytes.is_empty());
    let mut unsaid = wire::GREETING.to_vec();
    if !has_spoken {
        stream.write_all(&unsaid).await?;
        unsaid.clear();
    }
    let received = async {
        wire::receive_greeting(stream).await?;
        wire::receive(stream, REQUEST_BYTES).await
    };
    match received.await {
        Ok(request) => Ok((request, unsaid)),
        Err(error) => {
            stream.write_all(&unsaid).await?; // it hears at least who is here
            Err(error)
        }
    }
}

/// Sends log lines as they come, to one who may be slow: what he has no room for is dropped before it gets here.
async fn send_log(server: &Server, mut stream: BufReader<UnixStream>) -> io::Result<()> {
    let Some((follower, directives)) = server.follow().await else { return Ok(()) };
    wire::send(&mut stream, &Reply::Following { directives }).await?;
    loop {
        let lines = tokio::select! {
            lines = follower.next(BATCH_BYTES) => lines,
            () = hung_up(&mut stream) => return Ok(()),
        };
        wire::send(&mut stream, &Reply::Lines(lines)).await?;
    }
}

/// A client says nothing before it has its reply, so whatever comes means that it no longer waits.
async fn hung_up(stream: &mut BufReader<UnixStream>) {
    let _ = stream.read(&mut [0]).await;
}

/// How many may be served at once at one door, waits and those that rest included: half of the usual 1,024
/// descriptors stay for the tree. Above it a client is told so, and tries again.
const CONNECTIONS: usize = 512;
/// Bytes of log lines that are sent at once.
const BATCH_BYTES: usize = 64 << 10;
/// How many may have said nothing at once. Above it the oldest is closed, if it was silent for a second.
const IDLE_CONNECTIONS: usize = 256;
/// How long a client may take to fetch its reply.
const REPLY_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept after a reply. Who asks later connects anew.
const REST_WITHIN: Duration = Duration::from_secs(10);
/// How long `start` waits for a leader that does not answer.
const JOIN_WITHIN: Duration = Duration::from_millis(100);
/// How long the end waits for the address of a member of etcd.
const LOOKUP_WITHIN: Duration = Duration::from_millis(100);
const FULL_TABLE_PAUSE: Duration = Duration::from_millis(50);
