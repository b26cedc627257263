//! What does a thread do that has come to a stop? It tells the hub, and waits; a thread beside it answers questions.
//!
//! Nothing of a user's runs on the stopped thread: it may stand in a panic hook, where a second panic aborts. It only
//! waits for the thread that does.
use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::message::{self, Command, Frame, FromHub, Kind, Stop, ToHub};
use super::{dump, frames, report};
use crate::actor::Actor;
use crate::actor::crash::{self, Answer, CallInfo, DEBUG_SOCKET, may_block_in_place};
use crate::actor::current::{self, Current};
use crate::actor::host::is_here;
use crate::actor::scope::Scope;

/// What whoever stops knows of it.
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) chain: String,
    pub(super) location: Option<String>,
    pub(super) values: Vec<(&'static str, String)>,
    pub(super) error: Option<uuid::Uuid>,
    pub(super) is_retriable: bool,
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, nothing stops this thread: it is being looked at, or looks.
struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        (!IS_INSIDE.replace(true)).then_some(Inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IS_INSIDE.set(false);
    }
}

/// Stands still until somebody at the prompt lets go. Where nobody can be asked, the crash report is logged.
pub(super) fn stop(actor: Option<&Arc<Actor>>, seen: Seen) -> Answer {
    let Some(_inside) = Inside::enter() else { return Answer::Continue };
    let _held = actor.map(Actor::hold); // before anything that takes time
    let ips = match seen.kind {
        Kind::Returned | Kind::Relayed => Vec::new(), // what ran is over, and its frames are gone
        Kind::Panic | Kind::Error | Kind::Pause | Kind::PostMortem => frames::capture(),
    };
    let stop = described(actor, seen);
    let socket = match actor {
        Some(actor) => Some(actor.folder.join(DEBUG_SOCKET)),
        None => super::crash_handler::socket(),
    };
    let Some(Ok(hub)) = socket.map(UnixStream::connect) else {
        // Its root is gone or on its way out: nobody is left to ask.
        return Answer::Continue;
    };
    let tracer = Tracer::allow(actor);
    let serve = || {
        std::thread::scope(|scope| {
            let serving = std::thread::Builder::new().name("teamster-debug".into()).spawn_scoped(scope, || {
                let _inside = Inside::enter();
                Serving { actor, hub: &hub, ips: &ips, stop: &stop }.run()
            });
            match serving {
                Ok(thread) => thread.join().unwrap_or(Answer::Continue),
                Err(_no_thread_to_be_had) => Answer::Continue,
            }
        })
    };
    let answer = if may_block_in_place() { tokio::task::block_in_place(serve) } else { serve() };
    drop(tracer);
    answer
}

/// Runs `work` as if in this scope of the actor.
pub(super) fn within<R>(actor: &Arc<Actor>, scope: &Arc<Scope>, work: impl FnOnce() -> R) -> R {
    let place = Current { scope: Arc::clone(scope), ..actor.place() };
    current::within(&mut Some(place), work)
}

fn described(actor: Option<&Arc<Actor>>, seen: Seen) -> Stop {
    let (call, args) = current::with_current(|current| {
        let call = current
            .and_then(|current| current.scope.chain().find_map(|scope| scope.call().map(|call| (scope.label, call))));
        match call {
            Some((endpoint, call)) => (Some(call_text(endpoint, call)), report::readable(&call.args)),
            None => (current.map(|current| current.scope.label.to_owned()), None),
        }
    });
    Stop {
        aid: actor.map_or_else(|| current::this_process().clone(), |actor| actor.aid.clone()),
        tid: rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(),
        thread: std::thread::current().name().unwrap_or("a thread without a name").to_owned(),
        kind: seen.kind,
        text: seen.text,
        location: seen.location,
        chain: seen.chain,
        call,
        args,
        values: seen.values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        error: seen.error,
        is_retriable: seen.is_retriable,
        aborts: seen.kind == Kind::Panic && crash::unwinds(),
        exe: format!("/proc/{}/exe", std::process::id()),
        is_optimized: !cfg!(debug_assertions),
        cancel: actor.and_then(|actor| actor.canceller()).map(|canceller| canceller.to_string()),
    }
}

fn call_text(endpoint: &str, call: &CallInfo) -> String {
    format!("{endpoint}#{} from {}", call.dialog, call.opener.name())
}

/// Whoever answers the hub's questions while the thread stands still.
struct Serving<'a> {
    actor: Option<&'a Arc<Actor>>,
    hub: &'a UnixStream,
    ips: &'a [usize],
    stop: &'a Stop,
}

impl Serving<'_> {
    /// Until it is let go. A hub that is gone lets go of everybody.
    fn run(&self) -> Answer {
        if message::send(self.hub, &ToHub::Stop(Box::new(self.stop.clone()))).is_err() {
            return Answer::Continue;
        }
        loop {
            let said = match message::receive(self.hub) {
                Ok(Some(FromHub::Granted)) => ToHub::Frames(self.frames()),
                Ok(Some(FromHub::Do(command))) => ToHub::Out { text: self.contained(&command) },
                Ok(Some(FromHub::Nobody { why })) => {
                    let (stop, frames) = (self.stop.clone(), self.frames());
                    beside(move || report::log(&stop, &frames, &why));
                    return Answer::Continue;
                }
                Ok(Some(FromHub::Resume { answer, off })) => {
                    if let Some(actor) = self.actor.filter(|_| off) {
                        actor.disarm();
                    }
                    return answer;
                }
                Ok(Some(_)) => continue, // of a later version
                Ok(None) | Err(_) => return Answer::Continue,
            };
            if message::send(self.hub, &said).is_err() {
                return Answer::Continue;
            }
        }
    }

    fn frames(&self) -> Vec<Frame> {
        frames::resolve(self.ips)
    }

    /// A command may run code of the user's, which may panic.
    fn contained(&self, command: &Command) -> String {
        catch_unwind(AssertUnwindSafe(|| match command {
            Command::Tasks => {
                self.actor.map_or_else(|| "no actor: it has no tasks of ours".to_owned(), dump::tasks_text)
            }
            Command::Threads => dump::threads_text(dump::Skip::OurThreads),
            Command::Probe(name) => super::probe::answer(name),
        }))
        .unwrap_or_else(|_panic| format!("{command:?} panicked: that is contained, the actor stands as it did"))
    }
}

/// Does what may need a lock that the stopped thread holds, as that of stdout: it is waited for, but not for long.
pub(super) fn beside(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let working = move || {
        work();
        drop(done);
    };
    // Without a thread it is left out.
    if std::thread::Builder::new().name("teamster-beside".into()).spawn(working).is_ok() {
        let _ = wait.recv_timeout(BESIDE); // its end, or that of our patience
    }
}

/// Longer than a flush or a line of the log takes.
const BESIDE: Duration = Duration::from_millis(500);

/// Lets a debugger of the root's attach, where the kernel asks for leave (Yama).
struct Tracer(());

impl Tracer {
    fn allow(actor: Option<&Arc<Actor>>) -> Self {
        use rustix::process::{PTracer, Pid, set_ptracer};
        let tracer = match actor.filter(|actor| !actor.is_root() && is_here(&actor.root)) {
            Some(child) => i32::try_from(child.root.pid()).ok().and_then(Pid::from_raw).map(PTracer::ProcessID),
            None => Some(PTracer::Any), // the debugger is a child of ours, whose pid is not known yet
        };
        // A kernel without Yama knows nothing of it, and needs no leave.
        let _ = set_ptracer(tracer.unwrap_or(PTracer::None));
        Tracer(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = rustix::process::set_ptracer(rustix::process::PTracer::None); // as above
    }
}
