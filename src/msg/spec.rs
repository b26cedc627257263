//! What is a child told at birth: the boot message, which comes on its stdin.
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::addr::{Addr, Addrs, Transport};
use super::ident::Aid;

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
    pub(crate) parent_addrs: Addrs,
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
    /// What stops it, and those below it, for a debugger.
    pub(crate) debug: DebugSettings,
    /// Where it listens, and by which of the parent's addresses it may connect.
    pub(crate) transports: Vec<Transport>,
    /// Where else it listens.
    pub(crate) listen: Vec<Addr>,
    /// How long another host may be silent.
    pub(crate) lost_after_ms: u64,
    pub(crate) root_addrs: Addrs,
    /// What it shows on networks, if it uses one.
    pub(crate) credentials: Option<Credentials>,
    /// `aid` names the host that it runs on; else it finds out.
    pub(crate) is_host_known: bool,
    /// A keeper beside it has started it.
    pub(crate) is_kept: bool,
    /// It does jobs for a pool of its parent's.
    pub(crate) is_worker: bool,
    /// Whose guest it is to be.
    pub(crate) host: Option<HostSpec>,
}

/// The host's loop that an actor is to run as a guest of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HostSpec {
    pub(crate) path: String,
    /// The loop's own arguments.
    pub(crate) args: Bytes,
    /// How long it has until a guest of it must run.
    pub(crate) boot_within_ms: u64,
}

/// What the keeper of an actor is told on another host than its parent's: how to start it, with the keeper's own arguments, and the actor's own message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeepSpec {
    /// Variables that are set, or (`None`) taken out.
    pub(crate) env: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) env_clear: bool,
    pub(crate) current_dir: Option<PathBuf>,
    /// Its stdout and stderr come to its parent, each or not.
    pub(crate) relays: [bool; 2],
    pub(crate) actor: SpawnSpec,
}

/// What an actor shows to others on a network, and whom it believes: DER.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// The certificates of the authorities that it believes: of its tree's own, or of those in its tree's identity.
    pub(crate) authorities: Vec<Bytes>,
    /// Their lists of what they have revoked.
    pub(crate) revoked: Vec<Bytes>,
    /// Its own certificate, and that of its tree's identity, which has signed it.
    pub(crate) chain: Vec<Bytes>,
    /// Its private key, PKCS #8.
    pub(crate) key: Bytes,
    /// The name of its tree's identity, if it has one.
    pub(crate) identity: Option<String>,
    /// How often the root had read that identity.
    pub(crate) edition: u64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What stops an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arming {
    pub(crate) panics: bool,
    pub(crate) errors: bool,
    pub(crate) pauses: bool,
    /// A relayed error stops in each actor that it comes through.
    pub(crate) every_hop: bool,
}

impl Arming {
    pub(crate) const ALL: Arming = Arming { panics: true, errors: true, pauses: true, every_hop: false };

    pub(crate) fn is_armed(self) -> bool {
        self.panics || self.errors || self.pauses
    }

    fn with(self, other: Arming) -> Arming {
        Arming {
            panics: self.panics || other.panics,
            errors: self.errors || other.errors,
            pauses: self.pauses || other.pauses,
            every_hop: self.every_hop || other.every_hop,
        }
    }

    /// What `TEAMSTER_DEBUG` says: `1` or `all`, `0` or `off`, or a list of `panic`, `err`, `pause`, `every-hop`.
    /// What is in neither is an error, with the text that says so.
    pub(crate) fn parse(text: &str) -> Result<Arming, String> {
        let mut arming = Arming::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            arming = match word {
                "1" | "all" | "on" | "true" => arming.with(Arming::ALL),
                "0" | "off" | "false" => Arming::default(),
                "panic" => Arming { panics: true, ..arming },
                "err" => Arming { errors: true, ..arming },
                "pause" => Arming { pauses: true, ..arming },
                "every-hop" => Arming { every_hop: true, ..arming.with(Arming::ALL) },
                other => {
                    return Err(format!("{other:?} is none of 1, 0, panic, err, pause, every-hop"));
                }
            };
        }
        Ok(arming)
    }
}

/// What an actor is told of debug mode: it is armed itself, or with its tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DebugSettings {
    /// Of this actor.
    pub(crate) own: Arming,
    /// Of every actor below.
    pub(crate) tree: Arming,
    /// `TEAMSTER_DEBUG` has said so: nobody arms or disarms beside it.
    pub(crate) is_fixed: bool,
}

impl DebugSettings {
    /// The root's builder says it.
    pub(crate) fn arm_tree(&mut self, is_on: bool) {
        if !self.is_fixed {
            let arming = if is_on { Arming::ALL } else { Arming::default() };
            (self.own, self.tree) = (arming, arming);
        }
    }

    /// Those of a child, which may be armed beside the tree.
    pub(crate) fn of_child(&self, is_asked: bool) -> Self {
        let own = if is_asked && !self.is_fixed { self.tree.with(Arming::ALL) } else { self.tree };
        DebugSettings { own, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_says_what_stops() {
        assert_eq!(Arming::parse("1"), Ok(Arming::ALL));
        assert_eq!(Arming::parse("0"), Ok(Arming::default()));
        assert_eq!(Arming::parse("panic, err"), Ok(Arming { panics: true, errors: true, ..Arming::default() }));
        assert_eq!(Arming::parse("every-hop"), Ok(Arming { every_hop: true, ..Arming::ALL }));
        assert!(Arming::parse("sometimes").unwrap_err().contains("\"sometimes\" is none of"));
    }

    #[test]
    fn a_child_is_armed_by_itself_or_with_its_tree() {
        let mut root = DebugSettings::default();
        assert!(!root.of_child(false).own.is_armed());
        assert!(root.of_child(true).own.is_armed() && !root.of_child(true).of_child(false).own.is_armed());
        root.arm_tree(true);
        assert!(root.own.is_armed() && root.of_child(false).of_child(false).own.is_armed());
        let off = DebugSettings { is_fixed: true, ..DebugSettings::default() };
        assert!(!off.of_child(true).own.is_armed());
    }
}
