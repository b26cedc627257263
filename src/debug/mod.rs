//! How is one actor of a running tree looked at? Stops, the prompt in the root's terminal, dumps.
//!
//! An armed actor ([`ActorBuilder::debug`](crate::ActorBuilder::debug), `#[teamster::main(debug)]`, `TEAMSTER_DEBUG=1`)
//! stops where it panics, inside the `?` that makes a [`teamster::Result`](crate::Result) fail, where an endpoint
//! returns an error, and at each [`pause!`](crate::pause): with its stack alive. The prompt opens in the root's terminal,
//! for one actor at a time; `help` lists its commands. While an actor is stopped, its deadlines and those of its ancestors
//! stand still, and nobody kills it. `docs/debugging.md` shows it all.
mod crash_handler;
mod dump;
mod frames;
mod front;
mod gdb;
mod held;
mod hub;
mod message;
mod probe;
mod report;
mod session;
mod stop;
mod tunnel;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{Location, PanicHookInfo};
use std::sync::Arc;

use uuid::Uuid;

pub use self::crash_handler::{CrashHandler, open_crash_handler};
pub use self::dump::dump;
pub use self::front::attach;
use self::message::{FromHub, Kind, ToHub};
pub use self::probe::{ProbeGuard, probe};
use self::stop::{Seen, stop};
use crate::actor::Actor;
use crate::actor::crash::{Answer, DEBUG_SOCKET, DEBUGGERS, Debugger};
use crate::actor::failure::Failure;
use crate::actor::scope::Scope;
use crate::error::Error;
use crate::report::Report;

struct Prompt;

#[expect(unsafe_code, reason = "the slot is a link section, and the lint sees that")]
#[linkme::distributed_slice(DEBUGGERS)]
static PROMPT: &'static dyn Debugger = &Prompt;

impl Debugger for Prompt {
    fn panicked(&self, actor: Option<&Arc<Actor>>, info: &PanicHookInfo<'_>) -> Answer {
        let text = info.payload_as_str().unwrap_or("the panic has no text").to_owned();
        if CONSEQUENCES.contains(&text.as_str()) {
            return Answer::Continue; // whoever is asked has seen the panic itself, and was told
        }
        let location = info.location().map(ToString::to_string);
        stop(actor, Seen { text, location, ..Seen::of(Kind::Panic) })
    }

    fn reported(&self, actor: &Arc<Actor>, report: &Report) -> Answer {
        let ours = report.error().downcast_ref::<Error>();
        if ours.is_some_and(|error| !stops_here(actor, error)) {
            return Answer::Continue;
        }
        let (text, location) = (report.to_string(), Some(report.location().to_string()));
        let chain = chain_of(report.type_name(), report.error());
        stop(Some(actor), Seen { text, chain, location, error: ours.map(Error::id), ..Seen::of(Kind::Error) })
    }

    fn failed(&self, actor: &Arc<Actor>, scope: &Arc<Scope>, failure: &Failure) -> Answer {
        let Some(error) = failure.error() else { return Answer::Continue }; // a panic has stopped already
        let ours = failure.as_ours();
        if ours.is_some_and(|error| !stops_here(actor, error)) {
            return Answer::Continue;
        }
        let seen = Seen {
            text: error.to_string(),
            chain: chain_of(failure.type_name(), error),
            location: failure.location().map(str::to_owned),
            error: ours.map(Error::id),
            is_retriable: scope.call().is_some_and(|call| call.again.is_some()),
            ..Seen::of(Kind::Returned)
        };
        stop::within(actor, scope, || stop(Some(actor), seen))
    }

    fn quit(&self, actor: &Actor, error: Uuid) {
        // Heard before the error itself goes up. Without a hub nobody asks either.
        if let Ok(hub) = UnixStream::connect(actor.folder.join(DEBUG_SOCKET))
            && message::send(&hub, &ToHub::Quit { error }).is_ok()
        {
            let _ = message::receive::<FromHub>(&hub);
        }
    }

    fn left_root(&self, root: &Arc<Actor>, error: &Error) {
        if is_a_cancel(error) {
            return;
        }
        let kind = if matches!(error, Error::Remote(_)) { Kind::Relayed } else { Kind::Returned };
        let (text, chain) = (error.to_string(), error.report().to_string());
        // Whoever was asked here said what to do then; now the error leaves, whatever is said.
        let _ = stop(Some(root), Seen { text, chain, error: Some(error.id()), ..Seen::of(kind) });
    }

    fn paused(
        &self,
        actor: Option<&Arc<Actor>>,
        at: &'static Location<'static>,
        values: Vec<(&'static str, String)>,
    ) -> Answer {
        stop(actor, Seen { location: Some(at.to_string()), values, ..Seen::of(Kind::Pause) })
    }

    fn post_mortem(
        &self,
        actor: Option<&Arc<Actor>>,
        at: &'static Location<'static>,
        error: &(dyn std::error::Error + 'static),
    ) {
        let seen = Seen {
            text: error.to_string(),
            chain: chain_of("error", error),
            location: Some(at.to_string()),
            ..Seen::of(Kind::PostMortem)
        };
        let _ = stop(actor, seen); // it was caught: what becomes of it is the catcher's to say
    }

    fn open(&self, actor: &Arc<Actor>, listener: OwnedFd) {
        let opened = if actor.is_root() { hub::open(actor, listener) } else { tunnel::open(actor, listener) };
        if let Err(error) = opened {
            // Not a word to the log, on this thread: those that wait see their line end, and go on.
            let _no_thread_to_be_had = error;
        }
    }

    fn shields_interrupt(&self) -> bool {
        hub::shields_interrupt()
    }

    fn asks_for_dump(&self, actor: &Arc<Actor>) {
        dump::asked(actor);
    }

    fn dump(&self, actor: &Arc<Actor>, id: u64) {
        dump::answer(actor, id);
    }

    fn tell_stuck(&self, actor: &Arc<Actor>) {
        dump::stuck::tell(actor);
    }

    fn name_stuck(&self, actor: &Arc<Actor>, child: u64, places: Vec<u8>) {
        dump::stuck::name(actor, child, places);
    }
}

/// How the process aborts because of a panic that could go no further.
const CONSEQUENCES: [&str; 2] = ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];

impl Seen {
    fn of(kind: Kind) -> Self {
        Seen {
            kind,
            text: String::new(),
            chain: String::new(),
            location: None,
            values: Vec::new(),
            error: None,
            is_retriable: false,
        }
    }
}

/// Whether an error of ours stops this actor: where it began, and where each hop is wanted, those that came from
/// elsewhere too. A cancel never does.
fn stops_here(actor: &Actor, error: &Error) -> bool {
    match error {
        Error::Remote(_) => actor.settings.debug.own.every_hop,
        error => !is_a_cancel(error),
    }
}

fn is_a_cancel(error: &Error) -> bool {
    matches!(error, Error::Cancelled { .. } | Error::Interrupted { .. })
}

fn chain_of(type_name: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{type_name}: {error}\n");
    for source in std::iter::successors(error.source(), |error| error.source()) {
        text += &format!("  because of {source}\n");
    }
    text
}
