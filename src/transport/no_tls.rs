//! TLS sessions of a build without the feature `tls`: there are none.
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use uuid::Uuid;

use super::stream::Stream;
use crate::msg::spec::Credentials;

/// No connection has one.
#[derive(Debug)]
pub(crate) enum Session {}

impl Session {
    pub(super) fn send(&self, _fd: BorrowedFd<'_>, _first: &[u8], _second: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn recv(&self, _fd: BorrowedFd<'_>, _into: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn recv_more(&self, _fd: BorrowedFd<'_>, _into: &mut Vec<u8>, _most: usize) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn flush(&self, _fd: BorrowedFd<'_>) -> io::Result<bool> {
        match *self {}
    }

    pub(crate) fn is_with(&self, _actor: Uuid) -> bool {
        match *self {}
    }

    pub(crate) fn is_of(&self, _identity: &Identity) -> bool {
        match *self {}
    }

    pub(super) fn is_waiting(&self) -> bool {
        match *self {}
    }

    pub(super) fn is_drained(&self) -> bool {
        match *self {}
    }

    pub(super) fn has_plaintext(&self) -> bool {
        match *self {}
    }
}

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
