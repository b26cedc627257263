//! What does a cluster's etcd do for a registrar? It has the names of its tree, and of all others in the cluster.
mod keys;
mod lookup;
mod members;
mod register;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

pub use self::settings::Etcd;
pub(crate) use self::settings::EtcdError;

use self::members::{Failure, Members};
use self::register::Ledger;
use super::lookup::GAP;
use super::names::Names;
use super::table::{Place, Record};
use super::wire::Refusal;

/// A cluster's etcd, as the registrar of one root sees it. On the registrar's thread alone.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Members,
    prefix: String,
    lease: Duration,
    names: Arc<Names>,
    root: Uuid,
    ledger: Mutex<Ledger>,
    standing: watch::Sender<Standing>,
}

/// Whether our names are in etcd.
#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Starting,
    Registered,
    Unreachable(String),
    Refused(String),
}

impl Cluster {
    pub(super) fn new(etcd: &Etcd, names: Arc<Names>, root: Uuid) -> Result<Cluster, EtcdError> {
        Ok(Cluster {
            members: Members::new(etcd)?,
            prefix: etcd.prefix.clone(),
            lease: etcd.lease,
            names,
            root,
            ledger: Mutex::default(),
            standing: watch::Sender::new(Standing::Starting),
        })
    }

    /// Registers all names and every change, as long as it is polled.
    pub(super) async fn take_part(&self) {
        register::take_part(self).await;
    }

    /// Waits until the names are there, or for so long as a boot may wait: it goes on trying.
    pub(super) async fn settled(&self) -> Result<(), EtcdError> {
        let mut standing = self.standing.subscribe();
        let settled = standing.wait_for(|standing| *standing != Standing::Starting);
        match tokio::time::timeout(BOOT_WITHIN, settled).await.ok().and_then(Result::ok).as_deref() {
            Some(Standing::Refused(reason)) => Err(EtcdError::Refused { reason: reason.clone() }),
            Some(Standing::Starting | Standing::Registered | Standing::Unreachable(_)) | None => Ok(()),
        }
    }

    /// Takes all names out of etcd, if it answers at once.
    pub(super) async fn leave(&self) {
        register::leave(self).await;
    }

    /// The newest living actor of this name in the cluster. If that is out of reach, the own tree's.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Record>, Refusal> {
        let ours = || self.names.find(name);
        if matches!(self.standing(), Standing::Unreachable(_))
            && let Some(record) = ours()
        {
            return Ok(Some(record));
        }
        match lookup::find(self, name).await {
            Ok(found) => Ok(found.or_else(ours)),
            Err(failure) => ours().map(Some).ok_or_else(|| refusal(failure)),
        }
    }

    /// Living actors of this name (`None`: of any) behind `after`, and whether there are more.
    pub(super) async fn list(&self, name: Option<&str>, after: Option<Place>) -> Result<(Vec<Record>, bool), Refusal> {
        match lookup::list(self, name, after).await {
            Ok(page) => Ok((page.records, page.has_more)),
            Err(failure) => match self.names.serving(name) {
                ours if after.is_none() && !ours.is_empty() => Ok((ours, false)),
                _ => Err(refusal(failure)),
            },
        }
    }

    /// As `find`, and waits until there is one.
    pub(super) async fn wait(&self, name: &str) -> Record {
        lookup::wait(self, name).await
    }

    /// Names of our tree that are not in etcd yet.
    fn unregistered(&self, name: Option<&str>) -> Vec<Record> {
        let ledger = self.ledger.lock();
        self.names.serving_if(name, |uuid| !ledger.is_registered(uuid))
    }

    fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Says in the log what has changed, but no trouble twice.
    fn stand(&self, now: Standing) {
        let before = self.standing.send_replace(now.clone());
        match (&before, &now) {
            (Standing::Unreachable(_), Standing::Unreachable(_)) => {}
            (before, now) if before == now => {}
            (_, Standing::Unreachable(reason)) => tracing::warn!(
                target: "teamster::discovery",
                "etcd does not answer ({reason}): the names of this tree are not found elsewhere until it does; is it running there?"
            ),
            (_, Standing::Refused(reason)) => tracing::warn!(
                target: "teamster::discovery",
                "etcd refuses the names of this tree ({reason}): they are not found elsewhere"
            ),
            (Standing::Registered, Standing::Starting) => tracing::warn!(
                target: "teamster::discovery",
                "the lease in etcd has ended: the names of this tree are registered anew"
            ),
            (_, Standing::Starting) => {}
            (_, Standing::Registered) => {
                tracing::info!(target: "teamster::discovery", "the names of this tree are in etcd");
            }
        }
    }
}

fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Unreachable(reason) => Refusal::Cluster { waited: GAP, reason },
        Failure::Refused(reason) => Refusal::Unable { reason: EtcdError::Refused { reason }.to_string() },
        Failure::LeaseLost => Refusal::Unable { reason: "etcd has refused to be read".to_owned() },
    }
}

/// How long a root's boot waits for etcd.
const BOOT_WITHIN: Duration = Duration::from_secs(1);
