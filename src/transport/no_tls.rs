//! TLS in a build without the feature `tls`: there is none.
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use uuid::Uuid;

use super::stream::Stream;
use crate::msg::spec::Credentials;

/// Nobody has one.
#[derive(Clone, Debug)]
pub(crate) struct Identity(());

impl Identity {
    pub(crate) fn is_of_folder(&self) -> bool {
        false
    }

    pub(crate) fn edition(&self) -> u64 {
        0
    }

    pub(crate) fn new(_credentials: &Credentials) -> io::Result<Self> {
        Err(unsupported())
    }
}

/// There is none.
#[derive(Debug)]
pub(crate) struct Authority(());

impl Authority {
    pub(crate) fn new() -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn open(_folder: &Path) -> io::Result<Self> {
        Err(unsupported())
    }

    pub(crate) fn edition(&self) -> u64 {
        0
    }

    pub(crate) fn issue(&self, _actor: Uuid) -> io::Result<Credentials> {
        Err(unsupported())
    }
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this program was built without teamster's feature `tls`")
}

pub(crate) async fn call(_fd: OwnedFd, _identity: &Identity, _peer: Uuid) -> io::Result<Stream> {
    Err(unsupported())
}

pub(crate) async fn answer(_fd: OwnedFd, _identity: &Identity) -> io::Result<Stream> {
    Err(unsupported())
}
