//! How do the names of a tree get into etcd, and out of it again?
//!
//! All keys of a root have its lease. What etcd may know is kept, and each change of the tree is told as the difference: so
//! nothing depends on how often something was tried, nor on whether an answer was lost.
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::keys::{self, Registered};
use super::members::Failure;
use super::{Cluster, Standing};
use crate::discovery::table::{Place, Record};
use crate::discovery::wire;

/// A key that may be in etcd.
#[derive(Debug)]
pub(super) struct Told {
    key: String,
    since: Place,
    /// It was acknowledged; else its put is on its way, or its answer was lost.
    is_sure: bool,
}

/// What etcd may know of our tree.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    lease: Option<Lease>,
    told: HashMap<Uuid, Told>,
}

impl Ledger {
    /// Whether this actor is in etcd for sure.
    pub(super) fn is_registered(&self, uuid: Uuid) -> bool {
        self.told.get(&uuid).is_some_and(|told| told.is_sure)
    }
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    renew_every: Duration,
}

/// One key to put or delete.
struct Change {
    uuid: Uuid,
    key: String,
    /// `None`: it is gone.
    record: Option<Record>,
}

/// Registers all names and every change, as long as it is polled.
pub(super) async fn take_part(cluster: &Cluster) {
    let mut changes = cluster.names.changes();
    let mut pause = FIRST_PAUSE;
    loop {
        let Err(failure) = hold_lease(cluster, &mut changes).await;
        if cluster.standing() == Standing::Registered {
            pause = FIRST_PAUSE;
        }
        if failure == Failure::LeaseLost {
            *cluster.ledger.lock() = Ledger::default();
        }
        cluster.stand(match failure {
            Failure::LeaseLost => Standing::Starting,
            Failure::Unreachable(reason) => Standing::Unreachable(reason),
            Failure::Refused(reason) => Standing::Refused(reason),
        });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Ends the lease, and all keys with it, if that can be done at once.
pub(super) async fn leave(cluster: &Cluster) {
    let lease = cluster.ledger.lock().lease;
    if let (Some(lease), Standing::Registered) = (lease, cluster.standing()) {
        let revoke = async |client: Arc<Client>| client.lease_client().revoke(lease.id).await;
        // If it fails, the lease runs out by itself.
        let _ = cluster.members.ask(Instant::now() + LEAVE_WITHIN, revoke).await;
    }
}

async fn hold_lease(cluster: &Cluster, changes: &mut watch::Receiver<()>) -> Result<Infallible, Failure> {
    let held = cluster.ledger.lock().lease;
    let lease = match held {
        Some(lease) => renew(cluster, lease).await.map(|()| lease)?, // after an outage: does it still hold?
        None => grant(cluster).await?,
    };
    let mut renew_at = Instant::now() + lease.renew_every;
    loop {
        changes.borrow_and_update();
        let mut untold = difference(cluster).into_iter().peekable();
        while untold.peek().is_some() {
            if Instant::now() >= renew_at {
                renew(cluster, lease).await?;
                renew_at = Instant::now() + lease.renew_every;
            }
            tell(cluster, lease, &mut untold).await?;
        }
        cluster.stand(Standing::Registered);
        tokio::select! {
            // It fails if there are no names any more, and the cluster holds them.
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(renew_at) => {
                renew(cluster, lease).await?;
                renew_at = Instant::now() + lease.renew_every;
            }
        }
    }
}

async fn grant(cluster: &Cluster) -> Result<Lease, Failure> {
    let seconds = i64::try_from(cluster.lease.as_secs()).unwrap_or(i64::MAX);
    let grant = async |client: Arc<Client>| client.lease_client().grant(seconds, None).await;
    // An answer that was lost leaves a lease without keys, which runs out by itself.
    let granted = cluster.members.ask(Instant::now() + GRANT_WITHIN, grant).await?;
    let time = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0).max(1));
    let lease = Lease { id: granted.id(), renew_every: time / 3 };
    *cluster.ledger.lock() = Ledger { lease: Some(lease), told: HashMap::new() };
    Ok(lease)
}

async fn renew(cluster: &Cluster, lease: Lease) -> Result<(), Failure> {
    let renew = async |client: Arc<Client>| client.lease_client().keep_alive(lease.id).await;
    cluster.members.ask(Instant::now() + TELL_WITHIN, renew).await.map(drop)
}

/// What etcd has yet to be told: first what is gone, then what is new, in its order.
fn difference(cluster: &Cluster) -> Vec<Change> {
    let mut serving = cluster.names.serving(None);
    serving.retain(|record| wire::encoded_bytes(record).is_some());
    serving.sort_by_key(Record::since);
    let now: HashSet<Uuid> = serving.iter().map(Record::uuid).collect();
    let mut ledger = cluster.ledger.lock();
    let gone = ledger.told.iter().filter(|(uuid, _)| !now.contains(uuid));
    let mut changes: Vec<Change> =
        gone.map(|(uuid, told)| Change { uuid: *uuid, key: told.key.clone(), record: None }).collect();
    for record in serving {
        let (Some(since), uuid) = (record.since(), record.uuid()) else { continue };
        if ledger.told.get(&uuid).is_some_and(|told| told.is_sure && told.since == since) {
            continue;
        }
        let key = keys::of_actor(&cluster.prefix, record.aid.name(), uuid);
        // From here on etcd may know it, whatever becomes of the answer.
        ledger.told.insert(uuid, Told { key: key.clone(), since, is_sure: false });
        changes.push(Change { uuid, key, record: Some(record) });
    }
    changes
}

/// Tells as many as one transaction takes, and remembers that they were heard.
async fn tell(
    cluster: &Cluster,
    lease: Lease,
    untold: &mut std::iter::Peekable<impl Iterator<Item = Change>>,
) -> Result<(), Failure> {
    let (mut ops, mut heard, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < BATCH_BYTES && heard.len() < BATCH {
        let Some(Change { uuid, key, record }) = untold.next() else { break };
        heard.push((uuid, record.as_ref().and_then(Record::since)));
        ops.push(match record {
            Some(record) => {
                let rank = u8::try_from(heard.len()).unwrap_or(u8::MAX);
                let value = Registered { root: cluster.root, rank, record }.encode();
                bytes += key.len() + value.len();
                TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease.id)))
            }
            None => TxnOp::delete(key, None),
        });
    }
    let txn = Txn::new().and_then(ops);
    let put = async |client: Arc<Client>| client.kv_client().txn(txn.clone()).await;
    cluster.members.ask(Instant::now() + TELL_WITHIN, put).await?;
    let told = &mut cluster.ledger.lock().told;
    for (uuid, since) in heard {
        match (since, told.get_mut(&uuid)) {
            (Some(_), Some(told)) => told.is_sure = true,
            (None, _) => drop(told.remove(&uuid)),
            (Some(_), None) => {}
        }
    }
    Ok(())
}

/// Operations of a transaction: etcd takes 128, if nobody has told it otherwise.
pub(super) const BATCH: usize = 100;
/// Bytes of a transaction, but for the last name: etcd takes 1.5 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// How long a change is tried, until etcd counts as out of reach. It is tried again after that.
const TELL_WITHIN: Duration = Duration::from_secs(3);
/// Less than a boot waits, so that it can be said by then what is wrong.
const GRANT_WITHIN: Duration = Duration::from_millis(900);
/// How long the end of a root may wait for etcd.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);
/// Pauses while etcd is out of reach.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
