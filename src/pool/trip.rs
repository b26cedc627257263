//! How does a job get to a worker and back, alone or with others, while its caller waits, or goes?
//!
//! A worker that is free takes the job that has waited longest, and with it those small ones behind it that call the same function,
//! as many as take half a millisecond as far as the last ones tell ([`Pace`]), and no more than its share of all that wait. To
//! its caller each is still a job of its own: he goes when he likes, and hears of it when it is done, or soon after.
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{SetOnce, oneshot};

use super::batch::{Batch, FULL_BYTES, Pace, do_all};
use super::board::{Board, Left};
use super::queue::Ticket;
use super::run::NEVER_BEGAN;
use super::share::{Job, Share};
use super::turn::{LATE, Lease, Next, Ran, Turn};
use super::workers::{CLOSED, State, Waiter, Worker, Workers};
use crate::actor::current::{self, At, Current};
use crate::actor::endpoint::Endpoint;
use crate::actor::scope;
use crate::error::Error;
use crate::msg::codec::SPILL_BYTES;
use crate::portal::{FRESH_LINES, Prepared, Runs, decode_result, wire_error};
use crate::proto::connection::Left as Gone;

/// A job that waits for a worker.
pub(super) struct Errand {
    path: &'static str,
    args: Args,
    tell: oneshot::Sender<Result<Answer, Error>>,
    /// How often a worker was on its way out when it was to do it.
    tries: usize,
    seat: Arc<Seat>,
    /// Whether it may be killed when nobody wants it any more. If not, it shares no trip.
    is_cancellable: bool,
    /// Where it was asked for, if there is a deadline there, of which its worker is told. Then it shares no trip.
    place: Option<Current>,
}

/// The arguments of a job.
pub(super) enum Args {
    /// As bytes, none of which are large.
    Encoded(Vec<u8>),
    /// Something of them is for memory that is shared with the worker, once it is known.
    Large(Box<dyn Large>),
    /// They are on their way.
    Sent,
}

impl Args {
    pub(super) fn large<E: Endpoint>(args: E::Args) -> Args {
        Args::Large(Box::new(LargeArgs::<E>(args)))
    }
}

/// The arguments of a job, their type erased.
pub(super) trait Large: Send {
    fn job<'a>(&'a mut self, share: &'a Arc<Share>) -> BoxFuture<'a, Result<Job, Error>>;
}

struct LargeArgs<E: Endpoint>(E::Args);

impl<E: Endpoint> Large for LargeArgs<E> {
    fn job<'a>(&'a mut self, share: &'a Arc<Share>) -> BoxFuture<'a, Result<Job, Error>> {
        Box::pin(share.job::<E>(&mut self.0))
    }
}

/// What a worker has answered.
pub(super) struct Answer {
    bytes: Vec<u8>,
    /// The call, if it went alone: what the bytes mean may lie in memory that is shared.
    job: Option<Job>,
}

impl Answer {
    /// # Errors
    ///
    /// [`Error::Codec`] if it is no such result; or what the job has failed with.
    pub(super) fn decode<E: Endpoint>(&self) -> Result<E::Output, Error> {
        match &self.job {
            Some(job) => job.result::<E>(&self.bytes),
            None => decode_result::<E>(&self.bytes),
        }
    }
}

/// The trip that a job is on, and its place there.
#[derive(Default)]
struct Seat(Mutex<Option<(Arc<Trip>, usize)>>);

impl Seat {
    fn set(&self, seat: Option<(Arc<Trip>, usize)>) {
        *self.0.lock() = seat;
    }
}

impl Errand {
    /// The bytes of its arguments, if it may share a trip.
    fn shared_args(&self) -> Option<&[u8]> {
        match &self.args {
            Args::Encoded(args) if self.is_cancellable && self.place.is_none() => Some(args),
            _ => None,
        }
    }

    pub(super) fn end(self, answer: Result<Answer, Error>) {
        drop(self.tell.send(answer)); // its caller may have gone
    }
}

/// Jobs on their way to a worker and back.
struct Trip {
    turn: Arc<Turn>,
    path: &'static str,
    /// There is one job, and the board is not used.
    is_alone: bool,
    riders: Mutex<Riders>,
    /// Those that count as waiting, since they have only come along.
    along: AtomicUsize,
    is_over: SetOnce<()>,
}

#[derive(Default)]
struct Riders {
    /// Those that nobody has been told of yet, by their places. Taken with the workers' state locked.
    all: Vec<Option<(Ticket, Errand)>>,
    /// One that goes alone has been sent.
    is_off: bool,
    /// The worker was killed, since somebody did not want the job that it was in.
    is_killed: bool,
}

impl Workers {
    /// Waits for what comes of a job.
    ///
    /// Nothing of it depends on this being polled: no worker waits for a caller.
    ///
    /// # Errors
    ///
    /// There is no worker for it; or what it fails with.
    ///
    /// # Cancel safety
    ///
    /// Dropping it removes the job. If that has begun, its worker is killed; or it goes on, and what is around ends after it.
    pub(super) async fn ride(
        self: &Arc<Self>,
        path: &'static str,
        args: Args,
        is_cancellable: bool,
    ) -> Result<Answer, Error> {
        let (tell, told) = oneshot::channel();
        let seat = Arc::new(Seat::default());
        let place = current::current().filter(|place| place.deadline.is_some());
        let job = Errand { path, args, tell, tries: 0, seat: Arc::clone(&seat), is_cancellable, place };
        let ticket = self.set_out(job).ok_or(Error::Usage(CLOSED))?;
        let mut riding = Riding { workers: self, ticket, seat: &seat, is_told: false };
        let told = told.await;
        riding.is_told = true;
        told.unwrap_or_else(|_forgotten| Err(Error::Usage(CLOSED)))
    }

    /// A job gets to a worker at once, or waits for one. `None`: the pool takes none any more.
    fn set_out(self: &Arc<Self>, job: Errand) -> Option<Ticket> {
        let mut state = self.state.lock();
        if let Some((ticket, worker)) = state.queue.take_at_once() {
            self.depart(state, ticket, job, worker);
            return Some(ticket);
        }
        let ticket = state.queue.line_up(Waiter::Errand(job))?;
        drop(state);
        self.give_again();
        Some(ticket)
    }

    /// A worker takes a job, and those behind it that may go with it.
    pub(super) fn depart(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        ticket: Ticket,
        job: Errand,
        worker: Arc<Worker>,
    ) {
        let mut company = self.company_of(&mut state, &job, &worker);
        if !company.is_empty() && worker.board.get().is_none() {
            // Meanwhile it does one. It may be there for the next.
            for (ticket, job) in company.drain(..) {
                state.queue.again(ticket, Waiter::Errand(job));
            }
            let (parent, fresh) = (Arc::clone(&self.nursery().actor), Arc::clone(&worker));
            self.nursery().actor.spawn_driver(async move { _ = fresh.board(&parent).await });
        }
        let is_alone = company.is_empty();
        let (turn, path, along) = (Turn::of(Lease::of(self, worker)), job.path, AtomicUsize::new(company.len()));
        let place = job.place.clone();
        let (mut batch, mut alone) = (Batch::new(0), Args::Sent);
        let mut all = Vec::with_capacity(1 + company.len());
        for (ticket, mut job) in [(ticket, job)].into_iter().chain(company) {
            match (is_alone, &job.args) {
                (false, Args::Encoded(args)) => batch.add_encoded(args),
                _ => alone = mem::replace(&mut job.args, Args::Sent),
            }
            all.push(Some((ticket, job)));
        }
        let riders = Mutex::new(Riders { all, is_off: false, is_killed: false });
        let trip = Arc::new(Trip { turn, path, is_alone, riders, along, is_over: SetOnce::new() });
        for (place, rider) in trip.riders.lock().all.iter().enumerate() {
            let (_, job) = rider.as_ref().expect("it has just got in");
            job.seat.set(Some((Arc::clone(&trip), place)));
        }
        if !is_alone {
            trip.board().clear();
        }
        state.trips += 1;
        state.along += trip.along.load(Ordering::Relaxed);
        drop(state);
        let travelling = Travelling(trip);
        // In a box: it is large, and would be moved several times until it is a task.
        let trip = Box::pin(async move {
            let travelling = travelling; // all of it: its riders are told also if this is never polled
            let trip = &travelling.0;
            match trip.is_alone {
                true => trip.travel_alone(alone).await,
                false => Box::pin(trip.travel(&batch)).await,
            }
        });
        let actor = &self.nursery().actor;
        match place {
            Some(place) => actor.spawn_driver(At::new(place, trip)),
            None => actor.spawn_driver(trip),
        }
    }

    fn company_of(&self, state: &mut State, first: &Errand, worker: &Worker) -> Vec<(Ticket, Errand)> {
        let waiting = state.queue.waiting();
        if waiting == 0 {
            return Vec::new();
        }
        let pace = state.paces.get(first.path).map_or(1, Pace::jobs);
        let most = pace.min((waiting + 1).div_ceil(self.limit()));
        let mut company = Vec::new();
        let Some(mut bytes) = first.shared_args().map(<[u8]>::len) else { return company };
        if most < 2 || !self.may_batch() || matches!(worker.board.get(), Some(None)) {
            return company;
        }
        while 1 + company.len() < most
            && let Some((ticket, job)) = state.queue.take_along(|waiter| match waiter {
                Waiter::Errand(job) => {
                    job.path == first.path && job.shared_args().is_some_and(|args| bytes + args.len() <= FULL_BYTES)
                }
                Waiter::Alone(_) => false,
            })
            && let Waiter::Errand(job) = job
        {
            bytes += job.shared_args().map_or(0, <[u8]>::len);
            company.push((ticket, job));
        }
        company
    }
}

/// All of a trip, as long as somebody sees to it: dropped before its end, its worker is killed, and its riders are forgotten.
struct Travelling(Arc<Trip>);

impl Drop for Travelling {
    fn drop(&mut self) {
        self.0.turn.kill();
        let workers = &self.0.turn.workers;
        let mut state = workers.state.lock();
        let riders = mem::take(&mut *self.0.riders.lock());
        for (_, job) in riders.all.iter().flatten() {
            job.seat.set(None);
        }
        state.trips -= 1;
        state.along -= self.0.along.swap(0, Ordering::Relaxed);
        drop(state);
        drop(riders);
        let _ = self.0.is_over.set(()); // it is done here alone
        workers.changed.notify_waiters();
    }
}

impl Trip {
    fn board(&self) -> &Board {
        match self.turn.worker.board.get() {
            Some(Some(board)) => board,
            _ => unreachable!("it was looked at before the trip began"),
        }
    }

    async fn travel(&self, batch: &Batch) {
        let (worker, began) = (&self.turn.worker, Instant::now());
        let call = match Prepared::for_child(&self.turn.workers.nursery().actor, &batch.call(self.path), Runs::OwnBuild)
        {
            Ok(call) => call,
            Err(error) => return self.arrive(Arrival::failed(error), began.elapsed()),
        };
        let mut answer = std::pin::pin!(worker.portal.run_knowing(&call));
        let answered = tokio::time::timeout(LATE, answer.as_mut()).await;
        let (result, left) = match answered {
            Ok(answered) => answered,
            Err(_late) => {
                self.let_go();
                answer.await
            }
        };
        let mut answers = self.answers();
        if let Ok(bytes) = &result
            && let Ok(Some((is_error, bytes))) = decode_result::<do_all>(bytes)
        {
            if bytes.len() >= SPILL_BYTES {
                worker.share.miss();
                self.turn.workers.state.lock().pace(self.path).overflowed();
            }
            answers.push(self.answer(if is_error { Left::Error(&bytes) } else { Left::Value(&bytes) }));
        }
        let (jobs, begun) = (answers.len(), self.board().begun());
        let arrival = Arrival { answers, jobs, begun, result: result.map(drop), left, args: Args::Sent };
        self.arrive(arrival, began.elapsed());
    }

    async fn travel_alone(&self, mut args: Args) {
        let (worker, began) = (&self.turn.worker, Instant::now());
        let made = match &mut args {
            Args::Encoded(args) => worker.share.job_of(self.path, args).await,
            Args::Large(args) => args.job(&worker.share).await,
            Args::Sent => unreachable!("they are on no other way"),
        };
        let job = match made {
            Ok(job) => job,
            Err(error) => return self.arrive(Arrival::failed(error), began.elapsed()),
        };
        if !self.sets_off() {
            return self.turn.unused();
        }
        let (result, left) = worker.portal.run_knowing(job.prepared()).await;
        let (answers, result) = match result {
            Ok(bytes) => (vec![Ok(Answer { bytes, job: Some(job) })], Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        self.arrive(Arrival { answers, jobs: 1, begun: 1, result, left, args }, began.elapsed());
    }

    /// One that goes alone is about to be sent. Whether it shall: its caller may have gone.
    fn sets_off(&self) -> bool {
        let mut riders = self.riders.lock();
        riders.is_off = riders.all.iter().any(Option::is_some);
        riders.is_off
    }

    /// What is on the board.
    fn answers(&self) -> Vec<Result<Answer, Error>> {
        let riders = self.riders.lock().all.len();
        let mut answers = Vec::with_capacity(riders);
        self.board().read(riders, |left| answers.push(self.answer(left)));
        answers
    }

    fn answer(&self, left: Left<'_>) -> Result<Answer, Error> {
        match left {
            Left::Value(bytes) => Ok(Answer { bytes: bytes.to_vec(), job: None }),
            Left::Error(bytes) => Err(wire_error(bytes, self.path, self.turn.worker.child.known_as())),
        }
    }

    /// The worker is in the middle of a long job: who waits for what it has done is told, and what it has not begun goes to others.
    fn let_go(&self) {
        let begun = self.board().stop();
        let answers = self.answers();
        let mut state = self.turn.workers.state.lock();
        let ended = self.settle(&mut state, answers, |place, _job| match place < begun {
            true => Outcome::Stays,
            false => Outcome::Again,
        });
        drop(state);
        tell(ended);
        self.turn.workers.give_again();
    }

    /// The worker has answered, or is over.
    fn arrive(&self, arrival: Arrival, time: Duration) {
        let Arrival { answers, jobs, begun, result, left, mut args } = arrival;
        let (done, workers) = (answers.len(), &self.turn.workers);
        let (ran, next) = self.turn.judge(result.map(|()| Vec::new()), left, self.path, jobs as u64);
        let is_killed = self.riders.lock().is_killed;
        let mut error = match ran {
            // It came to its end between two jobs.
            Ran::Done(Err(_)) if self.turn.worker.is_over() && begun <= done => None,
            Ran::Done(Err(error)) if !is_killed => Some(error),
            Ran::Done(_) | Ran::NotBegun => None,
        };
        let has_worked = matches!(next, Next::Job(1..));
        let is_over = !matches!(next, Next::Job(_));
        let mut state = workers.state.lock();
        let ended = self.settle(&mut state, answers, |place, job| {
            if place > done || is_killed {
                return Outcome::Again;
            }
            if let Some(error) = error.take() {
                return Outcome::Told(Err(error));
            }
            if self.is_alone {
                job.args = mem::replace(&mut args, Args::Sent);
            }
            job.tries += usize::from(is_over);
            match job.tries < FRESH_LINES {
                true => Outcome::Again,
                false => Outcome::Told(Err(Error::Usage(NEVER_BEGAN))),
            }
        });
        let is_waited = state.queue.waiting() > 0;
        // Where nobody waits, nobody has to know.
        if has_worked && is_waited {
            state.pace(self.path).took(jobs, time);
        }
        drop(state);
        self.turn.go_on(next);
        // Only now: who is told finds the worker where it is.
        tell(ended);
        if is_waited {
            workers.give_again();
        }
    }

    /// Those of whose jobs something has come. Does with each other one as `undone` says.
    fn settle(
        &self,
        state: &mut State,
        answers: Vec<Result<Answer, Error>>,
        mut undone: impl FnMut(usize, &mut Errand) -> Outcome,
    ) -> Vec<(Errand, Option<Result<Answer, Error>>)> {
        let mut ended = Vec::with_capacity(answers.len());
        let mut answers = answers.into_iter();
        state.along -= self.along.swap(0, Ordering::Relaxed);
        for (place, rider) in self.riders.lock().all.iter_mut().enumerate() {
            let answer = answers.next();
            let Some((ticket, mut job)) = rider.take() else { continue };
            match answer.map_or_else(|| undone(place, &mut job), Outcome::Told) {
                Outcome::Stays => *rider = Some((ticket, job)),
                Outcome::Told(answer) => {
                    job.seat.set(None);
                    ended.push((job, Some(answer)));
                }
                Outcome::Again => {
                    job.seat.set(None);
                    // One that may not be killed may have been left by its caller.
                    match job.tell.is_closed() {
                        true => ended.push((job, None)),
                        false => state.queue.again(ticket, Waiter::Errand(job)),
                    }
                }
            }
        }
        ended
    }

    /// The caller of this job goes. What is left of it is dropped where no lock is held.
    fn leave(&self, place: usize) -> (LeftBehind, Option<(Ticket, Errand)>) {
        let mut riders = self.riders.lock();
        let is_off = riders.is_off;
        let Some(rider) = riders.all.get_mut(place) else { return (LeftBehind::Nothing, None) };
        if is_off && rider.as_ref().is_some_and(|(_, job)| !job.is_cancellable) {
            return (LeftBehind::Goes, None);
        }
        let rider = rider.take();
        let runs = rider.is_some()
            && match self.is_alone {
                true => is_off,
                false => {
                    self.board().done() <= place && self.board().stop() == place + 1 && self.board().done() <= place
                }
            };
        riders.is_killed |= runs;
        (if runs { LeftBehind::Killed } else { LeftBehind::Nothing }, rider)
    }
}

/// Outside of all locks: whoever is told may go on at once.
fn tell(ended: Vec<(Errand, Option<Result<Answer, Error>>)>) {
    for (job, answer) in ended {
        if let Some(answer) = answer {
            job.end(answer);
        }
    }
}

/// What a worker has brought back.
struct Arrival {
    /// Of the first jobs.
    answers: Vec<Result<Answer, Error>>,
    /// Those that it has done, or failed with.
    jobs: usize,
    begun: usize,
    result: Result<(), Error>,
    left: Option<Gone>,
    /// Those of one that went alone, if it has to go again.
    args: Args,
}

impl Arrival {
    /// Nothing was sent.
    fn failed(error: Error) -> Self {
        Arrival { answers: Vec::new(), jobs: 0, begun: 1, result: Err(error), left: None, args: Args::Sent }
    }
}

/// What becomes of a job that nobody waits for any more.
enum LeftBehind {
    /// It never begins, or is over.
    Nothing,
    /// Its worker is in the middle of it, and begins no other one: it has to be killed.
    Killed,
    /// It goes on to its end.
    Goes,
}

/// What becomes of a job on a trip.
enum Outcome {
    /// Its caller hears this.
    Told(Result<Answer, Error>),
    /// It waits for a worker again.
    Again,
    /// The worker is in the middle of it.
    Stays,
}

/// A job that waits, or is on a trip, as long as somebody waits for it.
struct Riding<'a> {
    workers: &'a Workers,
    ticket: Ticket,
    seat: &'a Seat,
    /// He has heard what has come of it.
    is_told: bool,
}

impl Drop for Riding<'_> {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let mut state = self.workers.state.lock();
        if let Some(withdrawn) = state.queue.withdraw(self.ticket) {
            drop(state);
            drop(withdrawn);
            return self.workers.changed.notify_waiters();
        }
        let Some((trip, place)) = self.seat.0.lock().take() else { return }; // it has ended
        let (left, job) = trip.leave(place);
        drop(state);
        drop(job);
        match left {
            LeftBehind::Nothing => {}
            LeftBehind::Killed => trip.turn.kill(),
            // Outside of every actor nothing is around it that could wait: the end of `main` gives it the grace.
            LeftBehind::Goes if current::actor().is_err() => {}
            LeftBehind::Goes => scope::defer(async move { _ = trip.is_over.wait().await }),
        }
    }
}
