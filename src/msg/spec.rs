//! What is a child told at birth: the boot message, which comes on its stdin.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ident::{Addr, Aid};

/// A secret that lets one connection in, once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Token(pub(crate) [u8; 16]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Everything that a child must know before it can connect back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnSpec {
    pub(crate) protocol: (u16, u16),
    pub(crate) aid: Aid,
    pub(crate) parent: Aid,
    pub(crate) root: Aid,
    pub(crate) parent_addr: Addr,
    /// Where the tree's registrar listens.
    pub(crate) registrar: Option<Addr>,
    /// The tree's socket folder: the child binds its own socket in it.
    pub(crate) folder: PathBuf,
    pub(crate) data_token: Token,
    pub(crate) control_token: Token,
    /// The GNU build id of the parent's executable; the child's must be equal.
    pub(crate) build: Vec<u8>,
    pub(crate) grace_ms: u64,
    /// The limit of one frame, in bytes.
    pub(crate) max_frame_bytes: u32,
    /// Default `None`: the whole program's endpoints are exposed; else path prefixes.
    pub(crate) expose: Option<Vec<String>>,
    /// 1: a current-thread runtime; more: a multi-thread one.
    pub(crate) threads: u32,
    /// A level filter directive for the child's log lines, such as `info` or `my_crate=debug`.
    pub(crate) log: Option<String>,
    pub(crate) umask: Option<u32>,
    pub(crate) nice: Option<i32>,
    /// `(resource, soft, hard)`, as in setrlimit(2); `u64::MAX`: no limit.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    /// 1 for a child of the root.
    pub(crate) depth: u32,
    /// Its ancestors' ids, the root's first, and its own: what its process is known by from outside.
    pub(crate) lineage: String,
}
