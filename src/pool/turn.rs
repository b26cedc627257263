//! How does a worker do a job, or several of a batch, and what becomes of it then?
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::batch::{Batch, do_all};
use super::board::Left;
use super::share::Share;
use super::workers::{Worker, Workers};
use crate::actor::child::Child;
use crate::actor::failure::Failure;
use crate::actor::panics;
use crate::error::Error;
use crate::msg::broken_worker::{BrokenWorker, WorkerHook};
use crate::msg::codec;
use crate::msg::ident::{CancelRequest, Canceller};
use crate::portal::{Prepared, Runs, decode_result, wire_error};
use crate::proto::connection::Left as Gone;

/// A worker for one job. Dropped, it is there for the next one.
pub(super) struct Lease {
    workers: Arc<Workers>,
    worker: Option<Arc<Worker>>,
}

/// How a job ended that a worker has been given.
pub(super) enum Ran {
    Done(Result<Vec<u8>, Error>),
    /// It is proved that the job has not begun there: its worker was on its way out.
    NotBegun,
}

impl Lease {
    /// What it takes to send large things to the worker.
    pub(super) fn share(&self) -> Arc<Share> {
        let worker = self.worker.as_ref().expect("it is taken when it is used up alone");
        Arc::clone(&worker.share)
    }

    pub(super) fn of(workers: &Arc<Workers>, worker: Arc<Worker>) -> Self {
        Lease { workers: Arc::clone(workers), worker: Some(worker) }
    }

    /// Has the worker do it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it kills the worker, if it has not answered.
    pub(super) async fn run_here(self, job: &Prepared) -> Ran {
        let watched = Watched(Turn::of(self));
        watched.0.run(job).await
    }

    /// Has the worker do as many of these jobs as it gets to. `None`: it can't do several at once.
    ///
    /// If it is in the middle of a long one, `late` hears of what is done, and of how many have begun: those behind are for others.
    ///
    /// # Cancel safety
    ///
    /// Dropping it kills the worker.
    pub(super) async fn run_all<T>(
        self,
        batch: &Batch,
        path: &str,
        decode: impl Fn(Result<&[u8], Error>) -> T,
        late: impl FnOnce(VecDeque<T>, usize),
    ) -> Option<Ended<T>> {
        let watched = Watched(Turn::of(self));
        let Turn { workers, worker, .. } = &*watched.0;
        let Some(board) = worker.board(&workers.nursery().actor).await else {
            watched.0.unused();
            return None;
        };
        board.clear();
        let mut ended = Ended { from: 0, to: batch.len(), results: VecDeque::new(), ran: Ran::NotBegun };
        let call = match Prepared::for_child(&workers.nursery().actor, &batch.call(path), Runs::OwnBuild) {
            Ok(call) => call,
            Err(error) => {
                watched.0.unused();
                ended.ran = Ran::Done(Err(error));
                return Some(ended);
            }
        };
        let decoded = |left: Left<'_>| {
            decode(match left {
                Left::Value(bytes) => Ok(bytes),
                Left::Error(bytes) => Err(wire_error(bytes, path, worker.child.known_as())),
            })
        };
        let mut answer = std::pin::pin!(worker.portal.run_knowing(&call));
        let (result, left) = match tokio::time::timeout(LATE, answer.as_mut()).await {
            Ok(answered) => answered,
            Err(_late) => {
                let begun = board.stop();
                let mut results = VecDeque::new();
                board.read(begun.min(batch.len()), |left| results.push_back(decoded(left)));
                (ended.from, ended.to) = (results.len(), begun.min(batch.len()));
                late(results, ended.to);
                answer.await
            }
        };
        let mut place = 0;
        let mut add = |left: Left<'_>| {
            if (ended.from..ended.to).contains(&place) {
                ended.results.push_back(decoded(left));
            }
            place += 1;
        };
        board.read(batch.len(), &mut add);
        if let Ok(bytes) = &result
            && let Ok(Some((is_error, bytes))) = decode_result::<do_all>(bytes)
        {
            add(if is_error { Left::Error(&bytes) } else { Left::Value(&bytes) });
        }
        let begun = board.begun();
        ended.ran = watched.0.end(result, left, path, place as u64);
        if matches!(ended.ran, Ran::Done(Err(_))) && worker.is_over() && begun <= place {
            ended.ran = Ran::NotBegun; // it came to its end between two jobs
        }
        Some(ended)
    }
}

/// What has come of the jobs of a trip.
pub(super) struct Ended<T> {
    /// Those from this place on, and before that one: of the others it was told before.
    pub(super) from: usize,
    pub(super) to: usize,
    /// The first ones.
    pub(super) results: VecDeque<T>,
    /// Of the trip as a whole.
    pub(super) ran: Ran,
}

/// When it is told what a worker has done, and others are given what it has not begun: it is in the middle of a long job.
pub(super) const LATE: Duration = Duration::from_millis(4);

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.workers.give(worker);
        }
    }
}

/// A worker in the middle of a job, as long as that takes.
pub(super) struct Turn {
    pub(super) workers: Arc<Workers>,
    pub(super) worker: Arc<Worker>,
    is_over: AtomicBool,
}

/// What becomes of a worker after a turn.
#[must_use]
pub(super) enum Next {
    /// It has been seen to.
    Nothing,
    /// It has done so many jobs, and is there for the next one.
    Job(u64),
    /// It has had its last.
    End(Duration),
}

impl Turn {
    pub(super) fn of(mut lease: Lease) -> Arc<Self> {
        let worker = lease.worker.take().expect("it is taken here and in `drop` alone");
        Arc::new(Turn { workers: Arc::clone(&lease.workers), worker, is_over: AtomicBool::new(false) })
    }

    async fn run(&self, job: &Prepared) -> Ran {
        let (result, left) = self.worker.portal.run_knowing(job).await;
        self.end(result, left, job.path(), 1)
    }

    /// The worker has answered, or is over.
    fn end(&self, result: Result<Vec<u8>, Error>, left: Option<Gone>, path: &str, jobs: u64) -> Ran {
        let (ran, next) = self.judge(result, left, path, jobs);
        self.go_on(next);
        ran
    }

    /// The same, without the worker being given anything else.
    pub(super) fn judge(
        &self,
        result: Result<Vec<u8>, Error>,
        left: Option<Gone>,
        path: &str,
        jobs: u64,
    ) -> (Ran, Next) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            return (Ran::Done(result), Next::Nothing); // it was killed, and nobody is told
        }
        let (workers, worker) = (&self.workers, &self.worker);
        match result {
            Err(error) if worker.is_over() => {
                let ran = match left {
                    Some(Gone::No) => Ran::NotBegun,
                    _ => of_job(error, &worker.child, path),
                };
                (ran, Next::End(Duration::ZERO))
            }
            Err(error) if is_not_begun(&error, &worker.child) => (Ran::NotBegun, Next::End(workers.patience())),
            result => (Ran::Done(result), Next::Job(jobs)),
        }
    }

    pub(super) fn go_on(&self, next: Next) {
        let (workers, worker) = (&self.workers, &self.worker);
        match next {
            Next::Nothing => {}
            Next::End(grace) => workers.end(worker, grace),
            Next::Job(jobs) => {
                worker.jobs.fetch_add(jobs, Ordering::Relaxed);
                match &workers.settings.retire {
                    None => workers.give(Arc::clone(worker)),
                    Some(_) => workers.ask_whether_it_retires(Arc::clone(worker)),
                }
            }
        }
    }

    /// It has not been given anything to do: it is there for the next one.
    pub(super) fn unused(&self) {
        if !self.is_over.swap(true, Ordering::AcqRel) {
            self.workers.give(Arc::clone(&self.worker));
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn kill(&self) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        // A service manager that stops a unit sends it to all processes of that, and gives them time: a job may use it.
        let is_stopped = |by: Canceller| by.request == CancelRequest::Signal(libc::SIGTERM);
        let grace = match self.workers.nursery().actor.canceller().is_some_and(is_stopped) {
            true => self.workers.patience(),
            false => Duration::ZERO,
        };
        self.workers.end(&self.worker, grace);
    }
}

/// Whoever waits for a turn: dropped before it is over, it kills the worker.
pub(super) struct Watched(pub(super) Arc<Turn>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl Workers {
    fn ask_whether_it_retires(self: &Arc<Self>, worker: Arc<Worker>) {
        let workers = Arc::clone(self);
        self.state.lock().queue.decide(worker.child.key);
        self.changed.notify_waiters();
        self.nursery().actor.spawn_driver(async move {
            match workers.retires(&worker).await {
                Ok(false) => workers.give(worker),
                Ok(true) => workers.end(&worker, workers.patience()),
                Err(error) => {
                    tracing::warn!(target: "teamster::pool", worker = %worker.child.aid, %error, "a worker's days end by its hook");
                    workers.end(&worker, workers.patience());
                    workers.nursery().fail(error);
                }
            }
        });
    }

    async fn retires(&self, worker: &Worker) -> Result<bool, Error> {
        let Some(decide) = &self.settings.retire else { return Ok(false) };
        let (hook, actor) = (WorkerHook::Retire, &self.nursery().actor);
        // What the user gave runs on a task of ours, whose panic nobody would hear of.
        let decided = panics::serving(|| catch_unwind(AssertUnwindSafe(|| decide(worker.life(), actor))));
        let call = decided
            .unwrap_or_else(|panic| Err(Failure::caught(panic).into_wire(&actor.aid).into_error("retire", &actor.aid)));
        let call = call.map_err(|error| of_hook(error, &worker.child, hook, "retire"))?;
        match worker.portal.run_prepared(&call).await {
            Ok(bytes) => codec::decode(&bytes).map_err(|_| Error::Usage("the retire function has to give a bool")),
            // It is on its way out, which it may have heard before our control thread has booked it.
            Err(error) if is_not_begun(&error, &worker.child) || worker.is_asked() => Ok(true),
            Err(error) => Err(of_hook(error, &worker.child, hook, call.path())),
        }
    }
}

/// Whether a job has certainly not begun in this child.
fn is_not_begun(error: &Error, child: &Child) -> bool {
    matches!(error, Error::NotStarted { aid, .. } if *aid == child.aid)
}

/// How a job ended whose worker is over.
fn of_job(error: Error, child: &Child, path: &str) -> Ran {
    match is_not_begun(&error, child) {
        true => Ran::NotBegun,
        false => Ran::Done(Err(broken(error, child, path, None))),
    }
}

/// What a worker's end is to whom it worked for.
fn broken(error: Error, child: &Child, path: &str, hook: Option<WorkerHook>) -> Error {
    match error {
        Error::ActorDied(death) if death.aid() == &child.aid => {
            Error::BrokenWorker(BrokenWorker::new(death, path, hook))
        }
        error => error,
    }
}

pub(super) fn of_hook(error: Error, child: &Child, hook: WorkerHook, path: &str) -> Error {
    match broken(error, child, path, Some(hook)) {
        error @ (Error::BrokenWorker(_) | Error::Cancelled { .. }) => error,
        error => Error::WorkerHook { hook, aid: child.aid.clone(), error: Arc::new(error) },
    }
}
