//! Does an actor still go by its tree's identity? It asks when it connects, or is connected to, and not otherwise.
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Actor;
use super::endpoint::BoxFuture;
use crate::msg::spec::Credentials;
use crate::transport::tls::Identity;

/// For so long an actor takes the identity to be what it was: after that a new list of what was revoked counts everywhere.
const ASKED_EVERY: Duration = Duration::from_secs(3);

/// So long a connection waits for the answer. Then it is made as before: ancestors that don't answer are no reason to be
/// alone.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// Asks up the tree: what this actor is to show, if the root has another edition of the identity than this one.
pub(crate) type Ask = fn(Arc<Actor>, u64) -> BoxFuture<'static, Result<Option<Credentials>, String>>;

/// The nursery, floors up, fills it when the program is linked.
#[linkme::distributed_slice]
pub(crate) static ASKS: [Ask];

/// When an actor has asked last, and who asks now: all others who connect meanwhile wait for the same answer.
#[derive(Default)]
pub(crate) struct Asked {
    at: Mutex<Option<Instant>>,
    asking: tokio::sync::Mutex<()>,
}

impl Asked {
    /// It is told at its birth.
    pub(crate) fn now() -> Self {
        Asked { at: Mutex::new(Some(Instant::now())), ..Asked::default() }
    }

    fn is_recent(&self) -> bool {
        self.at.lock().is_some_and(|at| at.elapsed() < ASKED_EVERY)
    }
}

impl Actor {
    /// What it shows on networks, and whom it believes, as the root's folder says it by now.
    pub(crate) async fn newest_identity(self: &Arc<Self>) -> Option<Identity> {
        let identity = self.identity()?;
        if self.is_root() || !identity.is_of_folder() {
            return Some(identity);
        }
        self.renew(identity.edition()).await;
        self.identity()
    }

    async fn renew(self: &Arc<Self>, edition: u64) {
        let asked = &self.doors.asked;
        if asked.is_recent() {
            return;
        }
        let _asking = asked.asking.lock().await;
        if asked.is_recent() {
            return;
        }
        let Some(ask) = ASKS.first() else { return };
        let answer = self.clock.timeout(ASKED_WITHIN, ask(Arc::clone(self), edition)).await;
        *asked.at.lock() = Some(Instant::now());
        let shown = match answer {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(credentials))) => self.doors.show(&credentials).map_err(|error| error.to_string()),
            Ok(Err(reason)) => Err(reason),
            Err(_late) => Err(format!("no answer within {ASKED_WITHIN:?}")),
        };
        if let Err(error) = shown {
            tracing::warn!(
                target: "teamster::identity", error,
                "whether the tree's identity has changed is not known: it is taken to be as before"
            );
        }
    }
}
