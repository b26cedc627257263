//! How is a call of a peer run? Decode, poll once, and if that was not enough, make it a task.
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::catalog::CONTEXT_BY_PATH;
use super::context::{ContextCore, Side};
use super::crash::{self, CallInfo};
use super::current::Current;
use super::endpoint::{Endpoints, Found, Registration, Run, RunResult};
use super::failure::Failure;
use super::parcels::{Opened, Reply};
use super::scope::{End, Scope, Scoped, run_deferred};
use super::traces::Origin;
use super::{Actor, DataLine, panics, parcels};
use crate::channel::{Last, LineEnd, Service, Start};
use crate::error::{CodecError, Error};
use crate::msg::frame::{self, Encoding, Frame};
use crate::msg::ident::{CancelRequest, Canceller};
use crate::msg::remote_error::WireError;
use crate::proto::dialog::Overruns;

/// What an endpoint's path stands for in this actor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resolved {
    Known(&'static Registration),
    NotExposed,
    Unknown,
    Ambiguous { first: &'static str, second: &'static str },
}

impl Service for Actor {
    type Endpoint = Resolved;
    type Task = Arc<Scope>;

    fn resolve(&self, path: &str) -> Resolved {
        let resolved = match Endpoints::of_program().find(path) {
            None => Resolved::Unknown,
            Some(Found::Ambiguous { first, second }) => Resolved::Ambiguous { first, second },
            Some(Found::One(registration)) if self.exposes((registration.path)()) => Resolved::Known(registration),
            Some(Found::One(_)) => Resolved::NotExposed,
        };
        if !matches!(resolved, Resolved::Known(_)) {
            tracing::warn!(endpoint = path, ?resolved, "a peer asks for what can't be called here");
        }
        resolved
    }

    fn on_start(self: &Arc<Self>, line: &Arc<DataLine>, start: Start<Resolved>, args: &[u8]) {
        let dialog = start.dialog;
        let refuse = |error: WireError| line.end_with(dialog, Last::Error, error.encode().into());
        let registration = match start.endpoint {
            Resolved::Known(registration) if line.is_foreign && OF_THE_TREE.contains(&(registration.path)()) => {
                return refuse(WireError::NotExposed);
            }
            Resolved::Known(registration) => registration,
            Resolved::NotExposed => return refuse(WireError::NotExposed),
            Resolved::Unknown => return refuse(WireError::NoSuchEndpoint),
            Resolved::Ambiguous { first, second } => {
                return refuse(WireError::Ambiguous { first: first.to_owned(), second: second.to_owned() });
            }
        };
        let _starting = Starting::count(&self.starting_calls);
        if self.is_cancelled() {
            return refuse(WireError::NotStarted { reason: "the actor is ending".into() });
        }
        let began = self.served.begins();
        let path = (registration.path)();
        let scope = Scope::new(path, None);
        let Opened { args, pieces, answer } = match self.opened(line, args) {
            Ok(opened) => opened,
            Err(reason) => return refuse(WireError::NotStarted { reason }),
        };
        let reply = Reply { encoding: start.encoding, answer };
        let looked_at = self.is_armed().then(|| (pieces.clone(), reply.clone()));
        let (future, context) = match registration.run {
            Run::Rpc(run, _) => (parcels::run(run, args, pieces, reply), None),
            Run::Context(run) => {
                let link = line.serve_context(dialog, path, Arc::clone(&scope), Overruns::Wait);
                let core = ContextCore::new(self, line, link, Side::of_callee(&scope));
                (run(args, start.encoding, Arc::clone(&core)), Some(core))
            }
        };
        let future = match future {
            Ok(future) => future,
            Err(error) => {
                tracing::warn!(peer = %line.peer, %error, "a peer's arguments can't be decoded");
                return refuse(WireError::Codec(error));
            }
        };
        if context.is_none() {
            line.serve(dialog, Arc::clone(&scope));
        }
        let deadline = start.deadline.map(|left| (self.clock.now() + left, left));
        let (scope_here, at) = (Arc::clone(&scope), deadline.map(|(at, _)| at));
        let place = Current { actor: Arc::clone(self), scope: scope_here, deadline: at, context: context.clone() };
        if let Some((pieces, reply)) = looked_at {
            let again = match registration.run {
                Run::Rpc(run, _) => Some(run),
                Run::Context(_) => None,
            };
            let (opener, args) = (line.peer.clone(), bytes::Bytes::copy_from_slice(args));
            scope.set_call(CallInfo { dialog, opener, args, pieces, reply, again });
        }
        let mut task = Scoped::new(place, future);
        let mut end = None;
        let mut is_told = false;
        if self.polls_inline {
            // The waker of this poll leads nowhere: a task that is not done is polled again as one.
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(done) = panics::serving(|| task.poll_inline(&mut cx)) {
                let is_looked_at = self.is_armed() && matches!(done, End::Value(Err(_)));
                if !scope.has_deferred() && !is_looked_at {
                    if let Some(core) = &context {
                        core.is_over();
                    }
                    self.served.ended(began);
                    return self.answer(line, dialog, &scope, done, start.deadline);
                }
                end = Some(done);
            }
            line.acknowledge_start(dialog);
            is_told = true;
        }
        let origin = Origin::Dialog { path, dialog, line: Arc::clone(line) };
        let served =
            Served { actor: Arc::clone(self), line: Arc::clone(line), dialog, scope, context, deadline, began };
        let task = Serving { task, starts: (!is_told).then(|| (Arc::clone(line), dialog)) };
        self.spawn(origin, served.run(task, end));
    }

    fn cancel(task: &Arc<Scope>, canceller: &Canceller) {
        task.cancel(canceller);
    }

    fn on_cancel_actor(self: &Arc<Self>, _line: &Arc<DataLine>, canceller: Canceller) {
        self.end(canceller);
    }

    fn on_log(&self, line: &DataLine, text: &[u8]) {
        super::log::follow::offer(&self.root, &line.peer, text);
        super::log::emit(&line.peer, text);
    }

    fn idle_frames(&self, line: &DataLine, out: &mut BytesMut) -> bool {
        let Some(ring) = &self.log_ring else { return false };
        if !self.parent_line().is_some_and(|parent| std::ptr::eq(Arc::as_ptr(parent), line)) {
            return false;
        }
        let _silence = super::log::silence(); // what is said of sending a line would be a line
        let batch = ring.pop_batch(LOG_BATCH_BYTES);
        for text in &batch {
            frame::encode(&Frame::Log, text, out);
        }
        !batch.is_empty()
    }

    fn on_end(self: &Arc<Self>, line: &Arc<DataLine>, end: &LineEnd) {
        let canceller = Canceller { aid: line.peer.clone(), request: CancelRequest::Dropped };
        line.cancel_served(&canceller);
        self.line_ended(line, end);
    }
}

/// What the names of our own endpoints begin with: they are no user's to hide.
pub(crate) const OWN_ENDPOINTS: &str = "teamster.";

/// Of no other tree, though it is believed. With a certificate of ours it could stand in for this one, also when it is not
/// believed any more; and what an actor exposes to its own tree's root is not for others.
const OF_THE_TREE: [&str; 4] = ["teamster.certify", "teamster.renew", "teamster.relay", "teamster.way"];

/// Log lines that leave in one go, in bytes: little enough that a call never waits long for them.
const LOG_BATCH_BYTES: usize = 16 * 1024;

impl Actor {
    /// Runs a function of this very actor by its path, in the task that asks.
    pub(crate) async fn run_here(&self, path: &str, args: &[u8]) -> Result<Vec<u8>, Error> {
        let (endpoint, aid) = (path.to_owned(), self.aid.clone());
        let run = match self.resolve(path) {
            Resolved::Known(Registration { run: Run::Rpc(run, _), .. }) => run,
            Resolved::Known(Registration { run: Run::Context(_), .. }) => {
                return Err(Error::Usage(CONTEXT_BY_PATH));
            }
            Resolved::NotExposed => return Err(Error::NotExposed { endpoint, aid }),
            Resolved::Unknown => return Err(Error::NoSuchEndpoint { endpoint, aid }),
            Resolved::Ambiguous { first, second } => {
                return Err(Error::Ambiguous { endpoint, first: first.to_owned(), second: second.to_owned() });
            }
        };
        let ran = run(args, Encoding::Named.into()).map_err(Error::Codec)?.await;
        ran.map(|(bytes, _)| bytes).map_err(Failure::into_error)
    }

    pub(crate) fn exposes(&self, path: &str) -> bool {
        let Some(exposed) = &self.settings.expose else { return true };
        if path.starts_with(OWN_ENDPOINTS) {
            return true;
        }
        exposed.iter().any(|prefix| {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    }

    /// Sends the last frame of a dialog. The driver flushes what it finds on its way out.
    fn answer(&self, line: &DataLine, dialog: u64, scope: &Scope, end: End<RunResult>, deadline: Option<Duration>) {
        let (path, limit) = (scope.label, line.limit());
        let failure = match end {
            End::Value(Ok((bytes, encoding))) if frame::fits(path, bytes.len(), limit) => {
                return line.end_with(dialog, Last::Return(encoding), bytes.into());
            }
            End::Value(Ok((bytes, _))) => {
                WireError::Codec(CodecError::too_long(path, "the result", bytes.len(), limit))
            }
            End::Value(Err(failure)) => self.failed(scope, failure),
            End::Panicked(payload) => self.failed(scope, Failure::caught(payload)),
            End::Cancelled(Canceller { request: CancelRequest::Deadline, .. }) => {
                WireError::Deadline { after: deadline.unwrap_or_default() }
            }
            End::Cancelled(canceller) => WireError::Cancelled(canceller),
        };
        let mut bytes = failure.encode();
        if !frame::fits(path, bytes.len(), limit) {
            bytes = WireError::Codec(CodecError::too_long(path, "the error", bytes.len(), limit)).encode();
        }
        line.end_with(dialog, Last::Error, bytes.into());
    }

    fn failed(&self, scope: &Scope, failure: Failure) -> WireError {
        // The flag that it saw may be the actor's, which is set first.
        if let Some(canceller) = scope.canceller().or_else(|| self.canceller()) {
            // Whoever cancelled may be gone: the failure is not lost with the answer.
            tracing::warn!(endpoint = scope.label, %canceller, ?failure, "it failed while it was being cancelled");
        }
        let wire = failure.into_wire(&self.aid);
        if crash::is_any_armed() {
            crash::left(self, scope, &wire);
        }
        wire
    }
}

/// A call that has arrived: see [`Actor::has_nothing_to_do`].
struct Starting<'a>(&'a AtomicUsize);

impl<'a> Starting<'a> {
    fn count(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::SeqCst);
        Starting(calls)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One dialog that is served by a task of its own.
struct Served {
    actor: Arc<Actor>,
    line: Arc<DataLine>,
    dialog: u64,
    scope: Arc<Scope>,
    context: Option<Arc<ContextCore>>,
    deadline: Option<(Instant, Duration)>,
    /// When it arrived, if somebody wants to know how long it takes.
    began: Option<Instant>,
}

impl Served {
    async fn run(self, task: Serving, end: Option<End<RunResult>>) {
        let end = match (end, self.deadline) {
            (Some(end), _) => end,
            (None, None) => task.await,
            // What few calls need lies apart: a task is as large as all that it may have to wait for.
            (None, Some((at, _))) => Box::pin(self.run_until(task, at)).await,
        };
        let end = match end {
            End::Value(Err(failure)) if self.actor.is_armed() => Box::pin(self.looked_at(failure)).await,
            end => end,
        };
        // What it dropped and deferred is gone before its last frame leaves.
        let deferred = self.scope.take_deferred();
        if !deferred.is_empty() {
            Box::pin(run_deferred(deferred, Some(&self.actor.clock), self.actor.settings.grace)).await;
        }
        if let Some(core) = &self.context {
            core.is_over();
        }
        let after = self.deadline.map(|(_, after)| after);
        self.actor.served.ended(self.began);
        self.actor.answer(&self.line, self.dialog, &self.scope, end, after);
        // While others are served, their answers may share the driver's write.
        self.line.flush_soon(self.line.serves_none());
    }

    /// An armed actor's failure waits for who may look at it, and may want to see it again.
    async fn looked_at(&self, failure: Failure) -> End<RunResult> {
        let mut end = End::Value(Err(failure));
        while let End::Value(Err(failure)) = &end
            && crash::is_retried(&self.actor, &self.scope, failure)
            && let Some(CallInfo { args, pieces, reply, again: Some(run), .. }) = self.scope.call()
            && let Ok(future) = parcels::run(*run, args, pieces.clone(), reply.clone())
        {
            let deadline = self.deadline.map(|(at, _)| at);
            let (actor, scope) = (Arc::clone(&self.actor), Arc::clone(&self.scope));
            let task = Scoped::new(Current { actor, scope, deadline, context: None }, future);
            let task = Serving { task, starts: None };
            end = match self.deadline {
                None => task.await,
                Some((at, _)) => self.run_until(task, at).await,
            };
        }
        end
    }

    async fn run_until(&self, mut task: Serving, at: Instant) -> End<RunResult> {
        tokio::select! {
            end = &mut task => return end,
            () = self.actor.clock.sleep_until(at) => {}
        }
        self.scope.cancel(&Canceller { aid: self.actor.aid.clone(), request: CancelRequest::Deadline });
        task.await
    }
}

/// Notes where a served task panics, at each of its polls.
struct Serving {
    task: Scoped<dyn Future<Output = RunResult> + Send>,
    /// Where it is told that it has started, unless its first poll is its last.
    starts: Option<(Arc<DataLine>, u64)>,
}

impl Future for Serving {
    type Output = End<RunResult>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let end = panics::serving(|| Pin::new(&mut this.task).poll(cx));
        if let Some((line, dialog)) = this.starts.take()
            && end.is_pending()
        {
            line.acknowledge_start(dialog);
            line.wake_driver();
        }
        end
    }
}
