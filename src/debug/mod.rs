//! How is one actor of a running tree looked at? Stops, the prompt in the root's terminal, dumps.
#![allow(unsafe_code, reason = "the slot is filled by the linker")]
pub(crate) mod dump;
mod hub;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::actor::Actor;
use crate::actor::crash::{DEBUGGERS, Debugger};

struct Ours;

#[linkme::distributed_slice(DEBUGGERS)]
static OURS: &'static dyn Debugger = &Ours;

impl Debugger for Ours {
    fn open(&self, _root: &Arc<Actor>, _listener: OwnedFd) {}

    fn shields_interrupt(&self) -> bool {
        false
    }

    fn asks_for_dump(&self, actor: &Arc<Actor>) {
        hub::listen(actor);
        dump::asked(actor);
    }

    fn dump(&self, actor: &Arc<Actor>, id: u64) {
        dump::answer(actor, id);
    }
}
