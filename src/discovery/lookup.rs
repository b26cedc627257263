//! What does a registrar answer?
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{SetOnce, oneshot, watch};
use uuid::Uuid;

use super::client;
use super::election::leader_socket;
use super::etcd::Cluster;
use super::names::Names;
use super::table::{Liveness, NameTable, Place, Record};
use super::wire::{More, Refusal, Reply, Request, Scope, loads, page, page_of};
use crate::actor::Actor;
use crate::actor::control::Command;
use crate::actor::load::Loads;
use crate::actor::log;
use crate::actor::log::follow::Follower;
use crate::msg::death::Receipt;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::load::Load;
use crate::transport::folder::Base;

/// What a registrar knows.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) base: Base,
    /// Of its own root.
    pub(super) folder: PathBuf,
    pub(super) names: Arc<Names>,
    pub(super) root: Aid,
    pub(super) role: watch::Sender<Role>,
    /// Where the names of other trees are looked up, if not among those of this user's on this host.
    pub(super) cluster: Option<Cluster>,
    /// The names of the other trees, while it leads. Used by the registrar's thread alone.
    leases: Mutex<HashMap<u64, Lease>>,
    next_lease: AtomicU64,
    /// The root itself, once it has booted.
    actor: SetOnce<Weak<Actor>>,
}

/// Its place among this user's registrars.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// It stands for election.
    Standing,
    /// It lost, and registers its names with the winner.
    Joining,
    Member,
    /// It won, and the members of its predecessor have yet to register their names.
    Settling,
    Leader,
    /// It can be neither; it tries again.
    Trouble(Refusal),
}

#[derive(Debug)]
struct Lease {
    root: Uuid,
    /// The name of the root's folder.
    folder: String,
    complete: bool,
    pids: Pids,
    table: NameTable,
}

/// Whether a member's pids mean anything here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pids {
    Ours,
    OtherNamespace,
}

impl Server {
    pub(super) fn new(base: Base, folder: PathBuf, names: Arc<Names>, root: Aid, cluster: Option<Cluster>) -> Server {
        let role = watch::Sender::new(Role::Standing);
        Server {
            base,
            folder,
            names,
            root,
            role,
            cluster,
            leases: Mutex::default(),
            next_lease: AtomicU64::new(0),
            actor: SetOnce::new(),
        }
    }

    /// From now on it answers what only the root itself can.
    pub(super) fn serve_for(&self, actor: Weak<Actor>) {
        // Set once: a registrar has one root.
        let _ = self.actor.set(actor);
    }

    pub(super) fn leads(&self) -> bool {
        matches!(*self.role.borrow(), Role::Settling | Role::Leader)
    }

    pub(super) async fn answer(&self, request: Request) -> Reply {
        let answered = match request {
            Request::List { name, scope: Scope::Everywhere, after } if self.cluster.is_some() => {
                self.list_cluster(name, after).await
            }
            Request::Find { name, scope } => self.find(name, scope).await.map(Reply::Found),
            Request::List { name, scope, after } => self.list(name, scope).await.map(|all| newest_first(all, after)),
            Request::Wait { name, scope } => Ok(Reply::Found(Some(self.wait(name, scope).await))),
            Request::Tree { after } => Ok(oldest_first(self.names.all(), after)),
            Request::End { aid, by } => Ok(Reply::Ended(self.end(aid, by).await.map(Box::new))),
            Request::Loads => Ok(loads(self.loads().await)),
            Request::Join { .. } | Request::Follow => Err(Refusal::NotLeader),
        };
        answered.unwrap_or_else(Reply::Refused)
    }

    /// Ends an actor of this tree, for somebody outside of it, and waits until it is gone.
    async fn end(&self, aid: Aid, by: Aid) -> Option<Receipt> {
        let (told, word) = oneshot::channel();
        if let Some(root) = self.actor.wait().await.upgrade() {
            let canceller = Canceller { aid: by, request: CancelRequest::Actor };
            root.control.send(Command::EndOther { aid, canceller, told });
        }
        match word.await {
            Ok(receipt) => receipt,
            // The tree ends, and this registrar in a moment: that is what the one who asks waits for.
            Err(_) => std::future::pending().await,
        }
    }

    /// The log lines of this tree from now on, and what its actors log. `None`: the tree ends.
    pub(super) async fn follow(&self) -> Option<(Follower, String)> {
        let root = self.actor.wait().await.upgrade()?;
        let directives = log::directives_for(None, root.settings.log.as_ref()).unwrap_or_default();
        Some((Follower::of(&root.aid), directives))
    }

    /// How much the actors of this tree have to do: of those that tell it in time.
    async fn loads(&self) -> Vec<Load> {
        let asked = Loads::new();
        if let Some(root) = self.actor.wait().await.upgrade() {
            root.control.send(Command::Loads { asked: Arc::clone(&asked) });
        }
        let expected: Vec<Uuid> = self.names.serving(None).iter().map(Record::uuid).collect();
        let has_told = |come: &[Load], actor: &Uuid| come.iter().any(|load| load.actor == *actor);
        asked
            .collect(TOLD_WITHIN, |come| {
                come.len() >= expected.len() && expected.iter().all(|actor| has_told(come, actor))
            })
            .await
    }

    async fn find(&self, name: String, scope: Scope) -> Result<Option<Record>, Refusal> {
        let except = match scope {
            Scope::Without(tree) => {
                self.settled().await?;
                return Ok(self.newest(&name, Some(tree)));
            }
            Scope::Everywhere => Scope::Without(self.root.uuid()),
        };
        if let Some(cluster) = &self.cluster {
            return cluster.find(&name).await;
        }
        let theirs = self.ask_leader(&Request::Find { name: name.clone(), scope: except }).await;
        // Looked up after the wait: what died meanwhile is not found.
        let ours = self.newest(&name, None);
        match theirs {
            Ok(Some(Reply::Found(theirs))) => Ok(newer(ours, theirs)),
            Err(refusal) if ours.is_none() => Err(refusal),
            Ok(_) | Err(_) => Ok(ours),
        }
    }

    async fn list(&self, name: Option<String>, scope: Scope) -> Result<Vec<Record>, Refusal> {
        let except = match scope {
            Scope::Without(tree) => {
                self.settled().await?;
                return Ok(self.known(name.as_deref(), Some(tree)));
            }
            Scope::Everywhere => Scope::Without(self.root.uuid()),
        };
        let mut theirs = Vec::new();
        let mut after = None;
        loop {
            match self.ask_leader(&Request::List { name: name.clone(), scope: except, after }).await {
                Ok(Some(Reply::Page { records, more })) => {
                    theirs.extend(records);
                    after = theirs.last().and_then(Record::since);
                    if !more || theirs.len() >= LISTED {
                        break;
                    }
                }
                Ok(_) => break,
                Err(refusal) => {
                    let ours = self.known(name.as_deref(), None);
                    return if ours.is_empty() { Err(refusal) } else { Ok(ours) };
                }
            }
        }
        theirs.extend(self.known(name.as_deref(), None));
        Ok(theirs)
    }

    async fn list_cluster(&self, name: Option<String>, after: Option<Place>) -> Result<Reply, Refusal> {
        let Some(cluster) = &self.cluster else { return Err(self.refusal()) };
        let (records, has_more) = cluster.list(name.as_deref(), after).await?;
        Ok(page_of(records, if has_more { More::Yes } else { More::No }))
    }

    async fn wait(&self, name: String, scope: Scope) -> Record {
        if let Scope::Without(tree) = scope {
            return self.wait_known(&name, Some(tree)).await;
        }
        if let Some(cluster) = &self.cluster {
            return tokio::select! {
                record = self.wait_ours(&name) => record,
                record = cluster.wait(&name) => record,
            };
        }
        let mut role = self.role.subscribe();
        loop {
            let is_member = *role.borrow_and_update() == Role::Member;
            tokio::select! {
                record = self.wait_known(&name, None) => return record,
                record = self.wait_at_leader(&name), if is_member => return record,
                // Another leader, or none: asked anew.
                _ = role.changed() => {}
            }
        }
    }

    async fn wait_ours(&self, name: &str) -> Record {
        self.wait_until(|| self.names.find(name)).await
    }

    async fn wait_known(&self, name: &str, except: Option<Uuid>) -> Record {
        self.wait_until(|| self.newest(name, except)).await
    }

    async fn wait_until(&self, mut find: impl FnMut() -> Option<Record>) -> Record {
        let mut changes = self.names.changes();
        loop {
            changes.borrow_and_update();
            if let Some(record) = find() {
                return record;
            }
            // It fails if there are no names any more, and we hold them.
            let _ = changes.changed().await;
        }
    }

    async fn wait_at_leader(&self, name: &str) -> Record {
        let request = Request::Wait { name: name.to_owned(), scope: Scope::Without(self.root.uuid()) };
        loop {
            if let Ok(Reply::Found(Some(record))) = client::ask(&leader_socket(self.base.path()), &request).await {
                return record;
            }
            // It ends, or is full. If it has ended, our role changes in the meantime.
            tokio::time::sleep(WAIT_PAUSE).await;
        }
    }

    /// Asks the leader, whoever that is within the next second. `None`: it is ourselves.
    async fn ask_leader(&self, request: &Request) -> Result<Option<Reply>, Refusal> {
        let asking = async {
            let mut role = self.role.subscribe();
            loop {
                let current = role.borrow_and_update().clone();
                match current {
                    Role::Leader => return None,
                    Role::Member => match client::ask(&leader_socket(self.base.path()), request).await {
                        Ok(Reply::Refused(_)) | Err(_) => {} // it ends, and the next one will know
                        Ok(reply) => return Some(reply),
                    },
                    Role::Standing | Role::Joining | Role::Settling | Role::Trouble(_) => {}
                }
                // Short, because a leader may die before we see our connection end.
                let _ = tokio::time::timeout(ASK_PAUSE, role.changed()).await;
            }
        };
        match tokio::time::timeout(GAP, asking).await {
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.refusal()),
        }
    }

    /// Waits until the members have registered their names with us.
    async fn settled(&self) -> Result<(), Refusal> {
        if !self.leads() {
            return Err(Refusal::NotLeader);
        }
        let mut role = self.role.subscribe();
        match tokio::time::timeout(GAP, role.wait_for(|role| *role == Role::Leader)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> Refusal {
        match &*self.role.borrow() {
            Role::Trouble(refusal) => refusal.clone(),
            Role::Standing | Role::Joining | Role::Member | Role::Settling | Role::Leader => {
                Refusal::NoLeader { waited: GAP }
            }
        }
    }

    /// The newest of our own tree's and of the members'.
    fn newest(&self, name: &str, except: Option<Uuid>) -> Option<Record> {
        let ours = self.names.find(name);
        let leases = self.leases.lock();
        let others = leases.values().filter(|lease| Some(lease.root) != except);
        others.fold(ours, |newest, lease| newer(newest, lease.table.find(name).cloned()))
    }

    fn known(&self, name: Option<&str>, except: Option<Uuid>) -> Vec<Record> {
        let mut known = self.names.serving(name);
        for lease in self.leases.lock().values().filter(|lease| Some(lease.root) != except) {
            match name {
                Some(name) => known.extend(lease.table.find_all(name).cloned()),
                None => known.extend(lease.table.serving().cloned()),
            }
        }
        known
    }
}

/// What the members bring.
impl Server {
    /// Returns its number: a late end of a member's first connection must not close its second.
    pub(super) fn open_lease(&self, root: Uuid, folder: String, pids: Pids) -> u64 {
        let id = self.next_lease.fetch_add(1, Ordering::Relaxed);
        let mut leases = self.leases.lock();
        // It comes a second time: its first connection has ended, and we have yet to see that.
        leases.retain(|_, lease| lease.root != root);
        leases.insert(id, Lease { root, folder, complete: false, pids, table: NameTable::default() });
        id
    }

    pub(super) fn lease_add(&self, id: u64, record: Record) {
        if let Some(lease) = self.leases.lock().get_mut(&id)
            && lease.table.len() < LEASED
        {
            let liveness = match lease.pids {
                Pids::Ours => Liveness::of(&record.aid, record.start_ticks, None),
                Pids::OtherNamespace => Liveness::Lease,
            };
            lease.table.adopt(record, liveness);
        }
        self.names.tell();
    }

    pub(super) fn lease_remove(&self, id: u64, uuid: Uuid) {
        if let Some(lease) = self.leases.lock().get_mut(&id) {
            lease.table.remove(uuid);
        }
    }

    pub(super) fn complete_lease(&self, id: u64) {
        if let Some(lease) = self.leases.lock().get_mut(&id) {
            lease.complete = true;
        }
        self.names.tell();
    }

    pub(super) fn close_lease(&self, id: u64) {
        self.leases.lock().remove(&id);
    }

    pub(super) fn has_registered(&self, folder: &std::path::Path) -> bool {
        let leases = self.leases.lock();
        leases.values().any(|lease| lease.complete && folder.file_name() == Some(lease.folder.as_ref()))
    }
}

fn newer(one: Option<Record>, other: Option<Record>) -> Option<Record> {
    [one, other].into_iter().flatten().max_by_key(Record::since)
}

fn newest_first(mut records: Vec<Record>, after: Option<Place>) -> Reply {
    records.sort_by_key(|record| std::cmp::Reverse(record.since()));
    records.dedup_by_key(|record| record.uuid());
    page(records.into_iter().filter(|record| after.is_none() || record.since() < after))
}

fn oldest_first(mut records: Vec<Record>, after: Option<Place>) -> Reply {
    records.sort_by_key(|record| record.born);
    page(records.into_iter().filter(|record| Some(record.born) > after))
}

/// How long those are waited for that do not tell their load: they are stopped, or start, or end.
const TOLD_WITHIN: Duration = Duration::from_millis(200);
/// How long a lookup waits for a leader.
pub(super) const GAP: Duration = Duration::from_secs(1);
const ASK_PAUSE: Duration = Duration::from_millis(10);
const WAIT_PAUSE: Duration = Duration::from_millis(50);
/// How many names a member may register. Further ones are found in its own tree only.
const LEASED: usize = 1 << 16;
/// How many names of other trees a list holds at most.
pub(super) const LISTED: usize = 1 << 16;
