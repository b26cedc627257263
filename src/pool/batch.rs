//! How do many small jobs share one trip to a worker?
//!
//! Each alone costs a round trip, some 10 µs. So a pool gives a worker as many at once as it can do in half a millisecond, as
//! far as the last ones tell, and the worker answers when it has done them, or has worked for long enough: the rest comes
//! back, and whoever is free does it. What it has done it writes to the [board](super::board), one by one, and there it
//! looks whether it may begin the next one.
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use teamster_macros::rpc;
use tokio::sync::Mutex;

use super::board::Board;
use super::share::Meter;
use crate::actor::Actor;
use crate::actor::current;
use crate::actor::endpoint::{Call, Endpoint, Registration, Row, Run, encode_args_with};
use crate::actor::failure::Failure;
use crate::actor::scope::run_deferred;
use crate::actor::serve::Resolved;
use crate::channel::Service;
use crate::error::Error;
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::report::Result;

/// Jobs of one function, in the order in which they were pulled.
#[derive(Debug)]
pub(super) struct Batch {
    /// The number of the first.
    pub(super) first: u64,
    /// Their arguments, one behind the other.
    args: Vec<u8>,
    /// Where each one's arguments end.
    ends: Vec<usize>,
    /// How often a worker was on its way out when it was to do it.
    pub(super) tries: usize,
}

/// How long the jobs of one batch should take: a round trip is little against it, and nobody notices the wait.
const AIM: Duration = Duration::from_micros(500);

/// When a worker answers though there are jobs left: so a few long ones hold up nobody for longer than they take.
const ENOUGH: Duration = Duration::from_millis(2);

/// Jobs of a batch at most: their results have to be looked at, too.
const MOST: usize = 4096;

/// Bytes of arguments at which a batch is full, and from which on a job goes alone.
pub(super) const FULL_BYTES: usize = 64 * 1024;

/// How many jobs a batch shall have.
#[derive(Debug)]
pub(super) struct Pace {
    next: usize,
    /// So many more go alone, whatever they take.
    alone: usize,
}

/// Jobs that go alone after one whose result was too large for a trip: alone it need not go by the line.
const ALONE: usize = 64;

impl Pace {
    pub(super) fn new() -> Self {
        Pace { next: 1, alone: 0 }
    }

    /// A result was too large for a trip.
    pub(super) fn overflowed(&mut self) {
        (self.next, self.alone) = (1, ALONE);
    }

    /// Of the next one.
    pub(super) fn jobs(&self) -> usize {
        self.next
    }

    /// So many jobs have taken this long, the way there and back with them. More at once are tried step by step.
    pub(super) fn took(&mut self, jobs: usize, time: Duration) {
        if self.alone > 0 {
            self.alone = self.alone.saturating_sub(jobs);
            return;
        }
        let fit = AIM.as_nanos().saturating_mul(jobs as u128) / time.as_nanos().max(1);
        let fit = usize::try_from(fit).unwrap_or(MOST);
        self.next = fit.clamp(1, self.next.saturating_mul(2).min(MOST));
    }
}

impl Batch {
    pub(super) fn new(first: u64) -> Self {
        Batch { first, args: Vec::new(), ends: Vec::new(), tries: 0 }
    }

    /// Adds a job. Whether it was: one with large arguments goes by itself.
    ///
    /// # Errors
    ///
    /// Its arguments can't be encoded: it is not added.
    pub(super) fn add<E: Endpoint>(&mut self, call: &Call<E>) -> std::result::Result<bool, Error> {
        let begin = self.args.len();
        let has_large = encode::<E>(&call.args, &mut self.args)?;
        let is_small = !has_large && self.args.len() - begin < FULL_BYTES;
        match is_small {
            true => self.ends.push(self.args.len()),
            false => self.args.truncate(begin),
        }
        Ok(is_small)
    }

    /// Adds a job by its arguments.
    pub(super) fn add_encoded(&mut self, args: &[u8]) {
        self.args.extend_from_slice(args);
        self.ends.push(self.args.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has all that goes in one trip.
    pub(super) fn is_full(&self) -> bool {
        self.args.len() >= FULL_BYTES
    }

    /// What is left of it when so many are done.
    pub(super) fn without(self, done: usize) -> Option<Batch> {
        let tries = self.tries + 1;
        let mut rest = self.part(done, self.len())?;
        rest.tries = if done == 0 { tries } else { 0 };
        Some(rest)
    }

    /// Some of its jobs: from this place on, and before that one. `None`: there are none.
    pub(super) fn part(&self, from: usize, to: usize) -> Option<Batch> {
        let ends = self.ends.get(from..to.min(self.len())).filter(|ends| !ends.is_empty())?;
        let begin = if from == 0 { 0 } else { self.ends[from - 1] };
        let args = self.args[begin..ends[ends.len() - 1]].to_vec();
        let ends = ends.iter().map(|end| end - begin).collect();
        Some(Batch { first: self.first + from as u64, args, ends, tries: 0 })
    }

    /// The first job alone, as an ordinary call has it.
    pub(super) fn first_args(&self) -> &[u8] {
        &self.args[..self.ends.first().copied().unwrap_or(0)]
    }

    /// The call that does all of it.
    pub(super) fn call(&self, path: &str) -> Call<do_all> {
        do_all(path.to_owned(), Bytes::copy_from_slice(&self.args))
    }
}

/// Appends the arguments of a job. Whether something of them is so large that it should not go by the line: what is written then
/// is of no use.
///
/// # Errors
///
/// They can't be encoded.
pub(super) fn encode<E: Endpoint>(args: &E::Args, out: &mut Vec<u8>) -> std::result::Result<bool, Error> {
    let mut meter = Meter::default();
    let encoded = encode_args_with::<E>(args, Encoding::Positional, out, Some(&mut meter));
    if !meter.is_large {
        encoded.map_err(Error::Codec)?;
    }
    Ok(meter.is_large)
}

// ---- in the worker

/// Where this worker leaves results.
static BOARD: OnceLock<Mutex<Board>> = OnceLock::new();

/// Maps the board, which is removed when this has answered.
#[rpc(name = "teamster.pool.board")]
pub(super) async fn use_board(path: PathBuf) -> Result<()> {
    if !current::actor()?.settings.is_worker {
        return Err(Error::Usage("only a worker has a board").into());
    }
    let board = Board::open(&path)?;
    // A worker belongs to one pool.
    let _ = BOARD.set(Mutex::new(board));
    Ok(())
}

/// Runs all jobs whose arguments these are, or as many as fit the time and the board: the results are there.
///
/// A last one that the board has no room for comes by the line: an error or not, and its bytes.
#[rpc(name = "teamster.pool.all")]
pub(super) async fn do_all(path: String, args: Bytes) -> Result<Option<(bool, Bytes)>> {
    let actor = current::actor()?;
    let board = BOARD.get().ok_or(Error::Usage("only a worker has a board"))?;
    let board = board.try_lock().map_err(|_busy| Error::Usage("a worker does one batch at a time"))?;
    let run = match actor.resolve(&path) {
        Resolved::Known(Registration { run: Run::Rpc(_, run), .. }) => *run,
        _ => return Err(Error::Usage("a batch is of jobs that may be called here").into()),
    };
    let began = Instant::now();
    let mut jobs = Jobs { actor, board: &board, rest: &args, began, ended: 0, last: None };
    run(&mut jobs).await;
    Ok(jobs.last)
}

/// The jobs of a batch, in the worker.
struct Jobs<'a> {
    actor: Arc<Actor>,
    board: &'a Board,
    rest: &'a [u8],
    began: Instant,
    /// Jobs that have ended.
    ended: u32,
    /// One for which the board has no room.
    last: Option<(bool, Bytes)>,
}

/// Jobs between two looks at the time: a look takes as long as a small one. Where they are long, the pool sees to it.
const UNLOOKED: u32 = 32;

impl Row for Jobs<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        let (one, behind) = codec::value_len(self.rest).and_then(|len| self.rest.split_at_checked(len))?;
        if !self.board.begin() {
            return None;
        }
        self.rest = behind;
        Some(one)
    }

    fn clean_up(&self) -> Option<BoxFuture<'static, ()>> {
        if !current::with_current(|place| place.is_some_and(|place| place.scope.has_deferred())) {
            return None;
        }
        let (place, actor) = (current::current()?, Arc::clone(&self.actor));
        Some(Box::pin(async move {
            let deferred = place.scope.take_deferred();
            run_deferred(deferred, Some(&actor.clock), actor.settings.grace).await;
        }))
    }

    fn ended(&mut self, ended: std::result::Result<&[u8], Failure>) -> bool {
        let has_room = match ended {
            Ok(bytes) => self.put(false, bytes),
            Err(failure) => self.put(true, &failure.into_wire(&self.actor.aid).encode()),
        };
        self.ended += 1;
        let is_late = self.ended.is_multiple_of(UNLOOKED) && self.began.elapsed() >= ENOUGH;
        has_room && !is_late && !self.actor.is_cancelled()
    }
}

impl Jobs<'_> {
    fn put(&mut self, is_error: bool, bytes: &[u8]) -> bool {
        let has_room = self.board.add(is_error, bytes);
        if !has_room {
            self.last = Some((is_error, Bytes::copy_from_slice(bytes)));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rpc]
    async fn add(a: u32, b: u32) -> u32 {
        a + b
    }

    #[test]
    fn what_is_done_of_a_batch_is_taken_off_its_front() {
        let mut batch = Batch::new(10);
        for n in [1, 1000, 100_000] {
            assert!(batch.add(&add(n, n)).expect("numbers can be encoded"));
        }
        let args: (u32, u32) = codec::decode(batch.first_args()).expect("they are its arguments");
        assert_eq!((batch.len(), args), (3, (1, 1)));
        let batch = batch.without(0).and_then(|batch| batch.without(2)).expect("one is left");
        let args: (u32, u32) = codec::decode(batch.first_args()).expect("they are its arguments");
        assert_eq!((batch.first, batch.len(), args), (12, 1, (100_000, 100_000)));
        assert!(batch.without(1).is_none());
    }

    #[test]
    fn a_part_of_a_batch_has_its_numbers() {
        let mut batch = Batch::new(10);
        for n in 0..5 {
            assert!(batch.add(&add(n, 1000 * n)).expect("numbers can be encoded"));
        }
        let part = batch.part(2, 4).expect("there are two");
        let args: (u32, u32) = codec::decode(part.first_args()).expect("they are its arguments");
        assert_eq!((part.first, part.len(), args), (12, 2, (2, 2000)));
        assert_eq!(batch.part(4, 9).map(|part| (part.first, part.len())), Some((14, 1)));
        assert!(batch.part(3, 3).is_none() && batch.part(5, 6).is_none() && batch.part(6, 7).is_none());
    }

    #[test]
    fn a_batch_grows_step_by_step_to_what_fits() {
        let mut pace = Pace::new();
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(pace.jobs());
            pace.took(pace.jobs(), Duration::from_micros(10) * pace.jobs() as u32);
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 50, 50]);
        pace.took(50, Duration::from_secs(5));
        assert_eq!(pace.jobs(), 1, "at once, when they take longer");
        pace.took(1, Duration::ZERO);
        assert_eq!(pace.jobs(), 2);
    }
}
