//! What is done when code of an actor is about to fail? The slot that a debugger fills, a floor up.
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Actor;

/// Who is asked before an actor's code fails, and who serves the terminal. There is none where the crate is
/// built without its feature `debug`.
pub(crate) trait Debugger: Sync {
    /// Somebody has connected to the root's debug socket: from now on it is the debugger's to listen on.
    /// By the control thread, once.
    fn open(&self, root: &Arc<Actor>, listener: OwnedFd);

    /// Whether a SIGINT that has come to this root is none of the tree's, since a prompt is open. By the control thread.
    fn shields_interrupt(&self) -> bool;

    /// SIGUSR1 has come: somebody wants to know what this root's tree does, or this actor. By the control thread.
    fn asks_for_dump(&self, actor: &Arc<Actor>);

    /// The root collects this dump. By the control thread.
    fn dump(&self, actor: &Arc<Actor>, id: u64);
}

/// Filled when the program is linked: nothing has to run for it.
#[linkme::distributed_slice]
pub(crate) static DEBUGGERS: [&'static dyn Debugger];

pub(crate) fn debugger() -> Option<&'static dyn Debugger> {
    DEBUGGERS.first().copied()
}
