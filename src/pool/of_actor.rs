//! Which workers are those of code that names no pool?
use std::sync::Arc;

use parking_lot::Mutex;

use super::config::WorkerConfig;
use super::host::{self, Caller};
use super::workers::Workers;
use crate::actor::Actor;
use crate::actor::current::{self, Place};
use crate::actor::scope::Scope;
use crate::error::Error;
use crate::nursery::{Nursery, stand_in};

/// Those of the nearest `open_worker_context` around this code, else of its actor, else of the process: with who asks then.
pub(super) fn workers_here() -> Result<(Arc<Workers>, Option<Caller>), Error> {
    if let Some(scope) = Place::here().scope()
        && let Some(workers) = scope.offered::<Workers>()
    {
        return Ok((workers, None));
    }
    match current::actor() {
        Ok(actor) => Ok((of_actor(&actor)?, None)),
        Err(_none) => {
            let caller = host::Place::of_process()?.caller();
            Ok((caller.place().workers()?, Some(caller)))
        }
    }
}

/// An actor's own, from the first job without a pool to its end.
#[derive(Default)]
struct Own {
    workers: Mutex<Option<Arc<Workers>>>,
}

pub(super) fn of_actor(actor: &Arc<Actor>) -> Result<Arc<Workers>, Error> {
    let own = actor.table::<Own>();
    let mut slot = own.workers.lock();
    if let Some(workers) = &*slot {
        return Ok(Arc::clone(workers));
    }
    let settings = WorkerConfig::new().settle(actor)?;
    let scope = Scope::new("workers", Some(Arc::clone(&actor.scope)));
    let nursery = Nursery::new(Arc::clone(actor), scope, false);
    let workers = Workers::new(Arc::clone(&nursery), settings);
    // The root's end would wait for them for ever; and for those that come after it, nobody would.
    let (ending, ended) = (Arc::clone(&workers), Arc::clone(&own));
    let end = async move {
        ending.close().await;
        ending.nursery().gone().await;
        ended.workers.lock().take(); // which holds the actor that holds it
    };
    if actor.before_end(Box::pin(end)).is_err() {
        return Err(Error::Usage(ENDED));
    }
    stand_in(&actor.scope, &nursery);
    *slot = Some(Arc::clone(&workers));
    Ok(workers)
}

/// What code is told that runs when its root has let its workers go.
const ENDED: &str =
    "the workers of this root have ended with it: its exit hooks and deferred clean-ups can run no jobs";
