//! How does a child live whose tasks run in a host's loop? It waits on a thread beside the loop, which has the main thread.
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::boot::{BOOT_FAILED, Lines, live, not_let_in, say_hello};
use super::{Actor, signals};
use crate::guest::{Boarding, Guest, IO_THREAD, Registration};
use crate::msg::addr::Addrs;
use crate::msg::frame::LineKind;
use crate::msg::spec::{HostSpec, SpawnSpec};

/// What a child is made of that is to be a guest.
pub(super) struct Life {
    pub(super) actor: Arc<Actor>,
    pub(super) spec: SpawnSpec,
    pub(super) addrs: Addrs,
    pub(super) lines: Lines,
}

impl Life {
    /// Runs the host's loop on this thread, and the actor as its guest. Both are over when this returns; a loop that ends
    /// in any other way ends the process.
    pub(super) fn run(
        self,
        runtime: Runtime,
        entry: &'static Registration,
        guest: Guest,
        boarding: Boarding,
    ) -> io::Result<Runtime> {
        let Boarding { host, boarded, over } = boarding;
        let (actor, told) = (Arc::clone(&self.actor), self.spec.host.clone().unwrap_or_default());
        let waiting = std::thread::Builder::new().name(IO_THREAD.to_owned()).spawn(move || {
            runtime.block_on(self.wait(boarded));
            drop(over);
            runtime
        })?;
        let ended = catch_unwind(AssertUnwindSafe(|| entry.run(guest, &told.args)));
        let failure = match ended {
            Ok(Ok(())) if host.is_over() => None,
            // Its end and the actor's have crossed, or it has ended by what also ends the actor.
            Ok(Ok(())) if actor.is_cancelled() => None,
            Ok(Ok(())) => Some(
                "returned before its actor was over: it has to run until it is told, and \
                `teamster::cancel_self()` ends the actor from inside"
                    .to_owned(),
            ),
            Ok(Err(text)) => Some(format!("failed: {text}")),
            Err(_printed) => Some("panicked".to_owned()),
        };
        if let Some(failure) = failure {
            eprintln!("teamster: {}: its host's loop {} {failure}", actor.aid, told.path);
            signals::exit_now(BOOT_FAILED);
        }
        if host.has_begun() {
            host.finish_alone();
        }
        Ok(waiting.join().expect("it catches nothing, and what it runs does not panic"))
    }

    /// All that is waited for, from the host's first slice to the last frame.
    async fn wait(self, boarded: oneshot::Receiver<()>) {
        let Life { actor, spec, addrs, lines } = self;
        let host = spec.host.clone().unwrap_or_default();
        let within = Duration::from_millis(host.boot_within_ms).mul_f64(BOARDS_WITHIN);
        tokio::select! {
            biased; // what has come is not late
            boarded = boarded => if boarded.is_err() {
                let _canceller = actor.ending().await; // its thread says why, and ends the process
                return;
            },
            _canceller = actor.ending() => return,
            () = actor.clock.sleep(within) => never_ran(&actor, &host, within),
        }
        // Only now: who hears of us calls us, and all of that waits for the host.
        if let Err(error) = say_hello(&lines.data, &spec, LineKind::Data, addrs) {
            eprintln!("teamster: {}: this child can't boot: speaking to the parent: {error}", actor.aid);
            signals::exit_now(BOOT_FAILED);
        }
        if let Err(error) = live(Arc::clone(&actor), lines).await {
            not_let_in(&actor, &error);
        }
    }
}

/// What part of the boot timeout a host has to run its guest in: the rest is for saying so.
const BOARDS_WITHIN: f64 = 0.9;

fn never_ran(actor: &Actor, host: &HostSpec, within: Duration) -> ! {
    eprintln!("teamster: {}: its host's loop {} has not run its guest within {within:?}", actor.aid, host.path);
    signals::exit_now(BOOT_FAILED)
}
