//! What is a cluster's etcd to a program without the cargo feature `etcd`? Nothing that could exist.
use std::sync::Arc;

use uuid::Uuid;

use super::names::Names;
use super::table::{Place, Record};
use super::wire::Refusal;

#[derive(Clone, Debug)]
pub(crate) enum Etcd {}

#[derive(Debug)]
pub(super) enum Cluster {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    #[error(
        "TEAMSTER_ETCD is set, and this program can't speak to etcd: build it with the cargo feature `etcd` of teamster"
    )]
    NoFeature,
}

impl Etcd {
    pub(crate) fn from_environment() -> Result<Option<Etcd>, EtcdError> {
        match std::env::var_os("TEAMSTER_ETCD") {
            Some(text) if !text.is_empty() => Err(EtcdError::NoFeature),
            Some(_) | None => Ok(None),
        }
    }
}

impl Cluster {
    pub(super) fn new(etcd: &Etcd, _names: Arc<Names>, _root: Uuid) -> Result<Cluster, EtcdError> {
        match *etcd {}
    }

    pub(super) async fn take_part(&self) {
        match *self {}
    }

    pub(super) async fn settled(&self) -> Result<(), EtcdError> {
        match *self {}
    }

    pub(super) async fn leave(&self) {
        match *self {}
    }

    pub(super) async fn find(&self, _name: &str) -> Result<Option<Record>, Refusal> {
        match *self {}
    }

    pub(super) async fn list(
        &self,
        _name: Option<&str>,
        _after: Option<Place>,
    ) -> Result<(Vec<Record>, bool), Refusal> {
        match *self {}
    }

    pub(super) async fn wait(&self, _name: &str) -> Record {
        match *self {}
    }
}
