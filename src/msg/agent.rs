//! What is an envoy told that leads to another host's agent, and what does it ask for there?
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::addr::Addr;
use super::spec::Credentials;

/// The port of an agent, where nobody says otherwise.
pub(crate) const PORT: u16 = 7117;

/// What an envoy is told on its stdin, before anything else comes there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EnvoySpec {
    /// The host, as its user calls it.
    pub(crate) host: String,
    /// The identity that the agent there has to show.
    pub(crate) identity: String,
    pub(crate) addr: Addr,
    pub(crate) credentials: Credentials,
    pub(crate) order: Order,
}

/// What an agent is asked for: an actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// [`ORDERS`] of whoever asks.
    pub(crate) version: u16,
    pub(crate) actor: String,
    pub(crate) uuid: Uuid,
    /// As in [`SpawnSpec`](super::spec::SpawnSpec).
    pub(crate) lineage: String,
    pub(crate) grace_ms: u64,
    /// How long the network between the two may be silent.
    pub(crate) lost_after_ms: u64,
    /// What the executable is called in a cache, and its size in bytes.
    pub(crate) executable: String,
    pub(crate) executable_bytes: u64,
    /// Its arguments. The envoy has the same.
    pub(crate) args: Vec<Bytes>,
}

/// Which orders an agent takes: another number is another protocol.
pub(crate) const ORDERS: u16 = 1;
