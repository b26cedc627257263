//! Which actors are there? Finding them by name, and listing what runs.
//!
//! Each root has a registrar, a thread of its own, which knows its tree's names and asks this
//! user's leading registrar for those of the other trees, or the cluster's etcd. A registration is a
//! lease: it ends with the process, not with a message.
mod actors;
mod client;
mod election;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(not(feature = "etcd"))]
#[path = "no_etcd.rs"]
mod etcd;
mod idle;
mod kept;
mod lookup;
mod membership;
mod names;
mod registrar;
mod relay;
mod table;
mod trees;
mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "etcd")]
pub use etcd::Etcd;
#[cfg(not(feature = "etcd"))]
pub(crate) use etcd::Etcd;

pub use actors::{find_actor, find_actors, list_actors, wait_for_actor};
pub(crate) use names::Names;
pub(crate) use registrar::Registrar;
pub(crate) use table::Record;
pub use trees::{ActorState, LogRecords, Tree, TreeActor, trees};

pub use crate::actor::log::follow::LogRecord;
pub use crate::msg::load::{Latencies, Load};
pub use crate::transport::folder::FolderError;

/// Why a lookup has no answer. That nobody has the name is an answer, and no error.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// No registrar answered in time. It may be stopped, or just be replaced: ask again.
    #[error("no registrar answered within {waited:?}")]
    NoAnswer {
        /// How long the lookup waited.
        waited: Duration,
    },
    /// The registrar ended: its tree is being taken down.
    #[error("the registrar at {path} has ended, and its tree with it", path = .path.display())]
    Ended {
        /// Where it listened.
        path: PathBuf,
    },
    /// Something else listens at the registrar's address.
    #[error(
        "{path} is in use by a program that is no registrar: stop it, or set TEAMSTER_DIR to another folder",
        path = .path.display()
    )]
    Foreign {
        /// The address.
        path: PathBuf,
    },
    /// It serves as many lookups as it can.
    #[error("the registrar serves {limit} lookups already: wait for fewer names at once")]
    Full {
        /// How many these are.
        limit: usize,
    },
    /// The name is longer than any that can be asked for.
    #[error("a name of {bytes} bytes can't be looked up: {limit} are allowed")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The registrars of this user's other trees can't be reached.
    #[error("this tree's registrar could not join the others: {reason}")]
    Unable {
        /// What its system said.
        reason: String,
    },
    /// The cluster's etcd did not answer, and the own tree has no such name.
    #[error("etcd did not answer within {waited:?} ({reason}): is it running there, and has it a leader?")]
    Cluster {
        /// How long the lookup waited.
        waited: Duration,
        /// What its members said, or their systems.
        reason: String,
    },
    /// The registrar could not be reached.
    #[error("could not ask the registrar at {path}", path = .path.display())]
    System {
        /// Where it listens.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl From<wire::Refusal> for DiscoveryError {
    fn from(refusal: wire::Refusal) -> Self {
        match refusal {
            wire::Refusal::NoLeader { waited } => DiscoveryError::NoAnswer { waited },
            wire::Refusal::Foreign { path } => DiscoveryError::Foreign { path },
            wire::Refusal::Unable { reason } => DiscoveryError::Unable { reason },
            wire::Refusal::Cluster { waited, reason } => DiscoveryError::Cluster { waited, reason },
            wire::Refusal::Full { limit } => DiscoveryError::Full { limit },
            // It did lead a moment ago.
            wire::Refusal::NotLeader => DiscoveryError::NoAnswer { waited: Duration::ZERO },
        }
    }
}

#[cfg(test)]
mod tests;
