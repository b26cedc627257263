//! How does a registrar stand with the others of its user?
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::election::{ElectionError, Leadership, Outcome, leader_socket, stand};
use super::lookup::{Pids, Role, Server};
use super::registrar;
use super::table::Record;
use super::wire::{self, REPLY_BYTES, REQUEST_BYTES, Refusal, Reply, Request, Update};
use crate::msg::ident::Aid;

/// Leads or follows, as long as it is polled.
pub(super) async fn take_part(server: &Arc<Server>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match stand(server.base.path()).await {
            Ok(Outcome::Won(leadership)) => return lead(server, leadership).await,
            Ok(Outcome::Lost) => {
                server.role.send_replace(Role::Joining);
                match hold_lease(server).await {
                    // The leader is gone. Its lock is free at once, or very soon.
                    Ok(()) => pause = FIRST_PAUSE,
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        let path = leader_socket(server.base.path());
                        server.role.send_replace(Role::Trouble(Refusal::Foreign { path }));
                    }
                    // Elected, and doesn't listen yet; or it ended while we came.
                    Err(_) => {}
                }
                server.role.send_if_modified(|role| {
                    let is_over = !matches!(role, Role::Trouble(_));
                    if is_over {
                        *role = Role::Standing;
                    }
                    is_over
                });
            }
            Err(error) => {
                server.role.send_replace(Role::Trouble(refusal(error)));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn refusal(error: ElectionError) -> Refusal {
    match error {
        ElectionError::Foreign(path) => Refusal::Foreign { path },
        ElectionError::System { ref source, .. } => Refusal::Unable { reason: format!("{error}: {source}") },
    }
}

/// Serves the members. Dropped, it first lets the next one lead, then closes their connections:
/// so they find the lock free.
async fn lead(server: &Arc<Server>, leadership: Leadership) {
    let mut connections = JoinSet::new();
    let leadership = leadership; // dropped before `connections`
    let own = server.folder.file_name();
    let mut others = server.base.living_roots();
    others.retain(|folder| folder.file_name() != own);
    server.role.send_replace(if others.is_empty() { Role::Leader } else { Role::Settling });
    let base = server.base.path().display();
    tracing::debug!(target: "teamster::discovery", %base, others = others.len(), "this registrar leads from now on");
    let settling = async {
        // Those that don't come in time are stuck, or have no registrar.
        let _ = tokio::time::timeout(SETTLE_WITHIN, all_registered(server, &others)).await;
        server.role.send_replace(Role::Leader);
    };
    tokio::join!(registrar::serve(server, leadership.listener(), &mut connections), settling);
}

async fn all_registered(server: &Server, others: &[PathBuf]) {
    let mut changes = server.names.changes();
    while !others.iter().all(|folder| server.has_registered(folder)) {
        // It fails if there are no names any more, and the server holds them.
        let _ = changes.changed().await;
    }
}

/// The member's side: registers all names and every change, until the leader is gone.
async fn hold_lease(server: &Server) -> io::Result<()> {
    let mut stream = UnixStream::connect(leader_socket(server.base.path())).await?;
    let (mut reader, mut writer) = stream.split();
    let folder = server.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    writer.write_all(&wire::opening(&Request::Join { root: server.root.clone(), folder })).await?;
    wire::receive_greeting(&mut reader).await?;
    let mut changes = server.names.changes();
    let mut told = HashSet::new();
    changes.borrow_and_update();
    tell(server, &mut writer, &mut told).await?;
    wire::send(&mut writer, &Update::Complete).await?;
    match wire::receive(&mut reader, REPLY_BYTES).await? {
        Reply::Joined => {}
        _ => return Err(io::Error::other("the leader has no room")),
    }
    server.role.send_replace(Role::Member);
    tracing::debug!(target: "teamster::discovery", base = %server.base.path().display(), "this registrar follows another");
    let mut byte = [0];
    loop {
        tokio::select! {
            biased; // a leader that is gone needs no news
            _ = reader.read(&mut byte) => return Ok(()), // it has nothing more to say
            _ = changes.changed() => if tell(server, &mut writer, &mut told).await.is_err() { return Ok(()) },
        }
    }
}

/// Tells the leader what has changed since the last time.
async fn tell(server: &Server, writer: &mut (impl AsyncWrite + Unpin), told: &mut HashSet<Uuid>) -> io::Result<()> {
    let mut serving = server.names.serving(None);
    // In their order: who sees one of them sees all before it.
    serving.sort_by_key(Record::since);
    let now: HashSet<Uuid> = serving.iter().map(|record| record.uuid()).collect();
    let mut bytes = Vec::new();
    for gone in told.difference(&now) {
        wire::append(&mut bytes, &Update::Gone(*gone));
    }
    for record in serving {
        if !told.contains(&record.uuid()) && wire::encoded_bytes(&record).is_some() {
            wire::append(&mut bytes, &Update::Ready(record));
        }
    }
    *told = now;
    writer.write_all(&bytes).await
}

/// The leader's side: a member's names are known as long as its connection stands.
pub(super) async fn grant_lease(
    server: &Arc<Server>,
    mut stream: BufReader<UnixStream>,
    root: &Aid,
    folder: String,
) -> io::Result<()> {
    // In another pid namespace its own pid looks different from here.
    let peer = stream.get_ref().peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    let pids = if peer == Some(root.pid()) { Pids::Ours } else { Pids::OtherNamespace };
    let lease = Lease { id: server.open_lease(root.uuid(), folder, pids), server };
    loop {
        match wire::receive(&mut stream, REQUEST_BYTES).await? {
            Update::Ready(record) => server.lease_add(lease.id, record),
            Update::Gone(uuid) => server.lease_remove(lease.id, uuid),
            Update::Complete => {
                server.complete_lease(lease.id);
                wire::send(&mut stream, &Reply::Joined).await?;
            }
        }
    }
}

struct Lease<'a> {
    id: u64,
    server: &'a Server,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.server.close_lease(self.id);
    }
}

/// Pauses between elections while there is no leader to join: a leader that has just been
/// elected needs less than the first, a broken folder is not looked at more often than by the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(250);
/// How long a new leader lets lookups wait for the other roots to register.
const SETTLE_WITHIN: Duration = Duration::from_millis(300);
