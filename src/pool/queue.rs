//! Which worker does which job? All that a pool decides, and nothing of what it does.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The workers of a pool and the jobs that wait for them. `W`: a worker, by its key; `J`: a job that waits.
#[derive(Debug)]
pub(super) struct Queue<W, J> {
    limit: usize,
    /// Those that have nothing to do, and since when: the last one has worked last.
    idle: VecDeque<(W, Instant)>,
    /// Of each worker that has come up and is not forgotten yet.
    places: HashMap<u64, Place>,
    /// The oldest first.
    waiting: BTreeMap<Ticket, J>,
    next_ticket: u64,
    /// Processes that are not ready for a job yet.
    starting: usize,
    /// Starts that have failed since one has come up.
    failures: u32,
    /// While some work, no other is tried before this time: too many have failed.
    starts_from: Option<Instant>,
    is_closed: bool,
}

/// Starts that may fail one after the other, while workers live, before the next one waits.
const TRIES: u32 = 3;

/// How long it waits then.
const BACK_OFF: Duration = Duration::from_secs(5);

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    Busy,
    /// It has done its job, and is asked whether that was its last.
    Deciding,
    /// It has had its last job, and its process is not gone yet.
    Leaving,
    /// Its process has gone in the middle of a job: whoever has that job finds out.
    Gone,
}

impl Place {
    /// There will be a next job for it, if it lives.
    fn may_work(self) -> bool {
        matches!(self, Place::Idle | Place::Busy | Place::Deciding)
    }
}

/// A job's place among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A worker, as far as the queue looks at it.
pub(super) trait Keyed {
    /// Unique among the workers of one pool.
    fn key(&self) -> u64;
}

/// What becomes of a job that comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<W> {
    /// This worker does it now.
    Taken(W),
    /// It waits. Somebody has to start a worker if `starts`.
    Waits { ticket: Ticket, starts: bool },
    /// The pool takes none any more.
    Refused,
}

/// What becomes of a worker that could do another job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given<W, J> {
    /// It does this one, which had waited longest.
    To(Ticket, J, W),
    /// It waits for the next one.
    Idle,
    /// There will be none.
    End(W),
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) idle: usize,
    pub(super) busy: usize,
    pub(super) waiting: usize,
    pub(super) starting: usize,
}

impl<W: Keyed, J> Queue<W, J> {
    pub(super) fn new(limit: usize) -> Self {
        Queue {
            limit,
            idle: VecDeque::new(),
            places: HashMap::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            starting: 0,
            failures: 0,
            starts_from: None,
            is_closed: false,
        }
    }

    // ---- jobs

    /// A job comes: the worker that was used last takes it.
    pub(super) fn ask(&mut self, now: Instant, job: impl FnOnce() -> J) -> Asked<W> {
        if self.is_closed {
            return Asked::Refused;
        }
        if let Some(worker) = self.take() {
            return Asked::Taken(worker);
        }
        match self.line_up(job()) {
            Some(ticket) => Asked::Waits { ticket, starts: self.begin_start(now) },
            None => Asked::Refused,
        }
    }

    /// A job waits, also if somebody has nothing to do: [`pair`](Self::pair) and [`begin_start`](Self::begin_start) follow. `None`:
    /// the pool takes none any more.
    pub(super) fn line_up(&mut self, job: J) -> Option<Ticket> {
        if self.is_closed {
            return None;
        }
        let ticket = self.ticket();
        self.waiting.insert(ticket, job);
        Some(ticket)
    }

    /// A job comes that need not wait: the worker that was used last takes it. Its place is what it would have had.
    pub(super) fn take_at_once(&mut self) -> Option<(Ticket, W)> {
        if !self.waiting.is_empty() {
            return None; // those come first
        }
        let worker = self.take()?;
        Some((self.ticket(), worker))
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    /// The worker that was used last, if one has nothing to do and may be given something.
    pub(super) fn take(&mut self) -> Option<W> {
        if self.is_closed { None } else { self.take_idle_one() }
    }

    /// The job that comes next, if it `fits`: whoever has been given one takes it along.
    pub(super) fn take_along(&mut self, fits: impl FnOnce(&J) -> bool) -> Option<(Ticket, J)> {
        let next = self.waiting.first_entry()?;
        fits(next.get()).then(|| next.remove_entry())
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A job that was taken along has not begun: it waits in its old place.
    pub(super) fn again(&mut self, ticket: Ticket, job: J) {
        self.waiting.insert(ticket, job);
    }

    /// A job that waits though somebody has nothing to do, since it has [lined up](Self::line_up) or come [again](Self::again), and
    /// who does it.
    pub(super) fn pair(&mut self) -> Option<Given<W, J>> {
        if self.waiting.is_empty() {
            return None;
        }
        let worker = self.take_idle_one()?;
        let (ticket, job) = self.waiting.pop_first()?;
        Some(Given::To(ticket, job, worker))
    }

    fn take_idle_one(&mut self) -> Option<W> {
        let (worker, _) = self.idle.pop_back()?;
        self.places.insert(worker.key(), Place::Busy);
        Some(worker)
    }

    /// Nobody wants this job done any more.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> Option<J> {
        self.waiting.remove(&ticket)
    }

    /// Whether one more process is to be started: it counts from now on.
    pub(super) fn begin_start(&mut self, now: Instant) -> bool {
        let may_start = self.starts_from.is_none_or(|from| from <= now || self.processes() == 0);
        let is_needed = may_start && self.waiting.len() > self.starting && self.processes() < self.limit;
        self.starting += usize::from(is_needed);
        is_needed
    }

    // ---- workers

    /// A new one is ready.
    pub(super) fn arrived(&mut self, worker: W, now: Instant) -> Given<W, J> {
        self.starting -= 1;
        (self.failures, self.starts_from) = (0, None);
        self.give(worker, now)
    }

    /// One could not be started: the jobs that fail by that. While others live, or are on their way, those are waited for.
    pub(super) fn not_started(&mut self, now: Instant) -> Vec<J> {
        self.starting -= 1;
        self.failures += 1;
        if self.failures >= TRIES {
            self.starts_from = Some(now + BACK_OFF);
        }
        let has_hope = self.starting > 0 || self.places.values().any(|place| place.may_work());
        if has_hope {
            return Vec::new();
        }
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// One is asked whether its last job was its last one.
    pub(super) fn decide(&mut self, key: u64) {
        if let Some(place @ Place::Busy) = self.places.get_mut(&key) {
            *place = Place::Deciding;
        }
    }

    /// One has done its job, and could do another.
    pub(super) fn give(&mut self, worker: W, now: Instant) -> Given<W, J> {
        let key = worker.key();
        if self.places.get(&key) == Some(&Place::Gone) {
            self.places.remove(&key);
            return Given::End(worker); // which is over already
        }
        if let Some((ticket, job)) = self.waiting.pop_first() {
            self.places.insert(key, Place::Busy);
            return Given::To(ticket, job, worker);
        }
        if self.is_closed {
            self.places.insert(key, Place::Leaving);
            return Given::End(worker);
        }
        self.places.insert(key, Place::Idle);
        self.idle.push_back((worker, now));
        Given::Idle
    }

    /// One gets no other job.
    pub(super) fn dismiss(&mut self, key: u64) {
        match self.places.get_mut(&key) {
            Some(Place::Gone) => drop(self.places.remove(&key)),
            Some(place) => *place = Place::Leaving,
            None => {}
        }
    }

    /// Its process is gone. Whether it had had nothing to do.
    pub(super) fn gone(&mut self, key: u64) -> bool {
        match self.places.get_mut(&key) {
            Some(place @ (Place::Busy | Place::Deciding)) => {
                *place = Place::Gone;
                false
            }
            Some(Place::Idle) => {
                self.idle.retain(|(worker, _)| worker.key() != key);
                self.places.remove(&key);
                true
            }
            Some(Place::Leaving | Place::Gone) | None => {
                self.places.remove(&key);
                false
            }
        }
    }

    /// Those that have had nothing to do for so long: their days are over.
    pub(super) fn expired(&mut self, now: Instant, idle_timeout: Duration) -> Vec<W> {
        let mut expired = Vec::new();
        while let Some((worker, _)) =
            self.idle.pop_front_if(|(_, since)| now.saturating_duration_since(*since) >= idle_timeout)
        {
            self.places.insert(worker.key(), Place::Leaving);
            expired.push(worker);
        }
        expired
    }

    /// Those without a job, and since when.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&W, Instant)> {
        self.idle.iter().map(|(worker, since)| (worker, *since))
    }

    /// Since when the one has had nothing to do that has waited longest for a job.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle.front().map(|(_, since)| *since)
    }

    // ---- its end

    /// No job comes any more. Those that have come are done.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// All that had nothing to do, once it is closed.
    pub(super) fn take_idle(&mut self) -> Vec<W> {
        let all: Vec<W> = self.idle.drain(..).map(|(worker, _)| worker).collect();
        for worker in &all {
            self.places.insert(worker.key(), Place::Leaving);
        }
        all
    }

    /// Whether nobody has a job, or waits with one. Who still starts, or decides, has none.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && !self.places.values().any(|place| matches!(place, Place::Busy | Place::Gone))
    }

    pub(super) fn counts(&self) -> Counts {
        let has_job = |place: &&Place| matches!(place, Place::Busy | Place::Deciding | Place::Gone);
        let busy = self.places.values().filter(has_job).count();
        Counts { idle: self.idle.len(), busy, waiting: self.waiting.len(), starting: self.starting }
    }

    /// Those that count against the limit.
    fn processes(&self) -> usize {
        self.starting + self.places.values().filter(|place| **place != Place::Gone).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for u64 {
        fn key(&self) -> u64 {
            *self
        }
    }

    /// A queue that a script of words drives. What it says to each is what the check looks at.
    fn told(limit: usize, script: &str) -> String {
        let mut queue: Queue<u64, &str> = Queue::new(limit);
        let start = Instant::now();
        let mut tickets = HashMap::new();
        let mut said = Vec::new();
        for (second, word) in (0..).zip(script.split_whitespace()) {
            let now = start + Duration::from_secs(second);
            let (verb, what) = word.split_once(':').unwrap_or((word, ""));
            let key = || what.parse::<u64>().expect("a key");
            let given = |given| match given {
                Given::To(_, job, worker) => format!("{worker}={job}"),
                Given::Idle => "idle".to_owned(),
                Given::End(worker) => format!("end{worker}"),
            };
            said.push(match verb {
                "ask" => match queue.ask(now, || what) {
                    Asked::Taken(worker) => format!("{worker}={what}"),
                    Asked::Waits { ticket, starts } => {
                        tickets.insert(what, ticket);
                        (if starts { "start" } else { "wait" }).to_owned()
                    }
                    Asked::Refused => "refused".to_owned(),
                },
                "withdraw" => format!("{:?}", queue.withdraw(tickets[what]).is_some()),
                "along" => queue.take_along(|job| what.contains(job)).map_or("none", |(_, job)| job).to_owned(),
                "again" => {
                    queue.again(tickets[what], what);
                    "ok".to_owned()
                }
                "line" => match queue.line_up(what) {
                    Some(ticket) => {
                        tickets.insert(what, ticket);
                        "ok".to_owned()
                    }
                    None => "refused".to_owned(),
                },
                "pair" => queue.pair().map_or("none".to_owned(), given),
                "arrived" => given(queue.arrived(key(), now)),
                "failed" => format!("{:?}", queue.not_started(now)),
                "decide" => {
                    queue.decide(key());
                    "ok".to_owned()
                }
                "give" => given(queue.give(key(), now)),
                "dismiss" => {
                    queue.dismiss(key());
                    "ok".to_owned()
                }
                "gone" => format!("{}", queue.gone(key())),
                "more" => format!("{}", queue.begin_start(now)),
                "expired" => format!("{:?}", queue.expired(now, Duration::from_secs(key()))),
                "close" => {
                    queue.close();
                    format!("{:?}", queue.take_idle())
                }
                "counts" => {
                    let Counts { idle, busy, waiting, starting } = queue.counts();
                    format!("{idle}/{busy}/{waiting}/{starting}")
                }
                "quiet" => format!("{}", queue.is_quiet()),
                other => panic!("{other}"),
            });
        }
        said.join(" ")
    }

    fn check(limit: usize, script: &str, wanted: &str) {
        assert_eq!(told(limit, script), wanted, "{script}");
    }

    #[test]
    fn as_many_start_as_are_needed_and_no_more_than_the_limit() {
        check(2, "ask:a ask:b ask:c arrived:1 arrived:2 give:1 counts", "start start wait 1=a 2=b 1=c 0/2/0/0");
        check(1, "ask:a withdraw:a ask:b arrived:1", "start true wait 1=b");
        check(3, "ask:a withdraw:a arrived:1 counts", "start true idle 1/0/0/0");
    }

    #[test]
    fn the_one_that_worked_last_works_next() {
        let up = "ask:a ask:b arrived:1 arrived:2 give:1 give:2";
        check(2, &format!("{up} ask:c give:2 ask:d"), "start start 1=a 2=b idle idle 2=c idle 2=d");
    }

    #[test]
    fn jobs_are_done_in_the_order_of_their_coming() {
        check(1, "ask:a ask:b ask:c arrived:1 withdraw:b give:1", "start wait wait 1=a true 1=c");
    }

    #[test]
    fn jobs_that_are_taken_along_and_come_back_keep_their_place() {
        let up = "ask:a ask:b ask:c ask:d arrived:1 along:bc along:bc along:bc";
        let said = "start wait wait wait 1=a b c none";
        check(1, &format!("{up} again:b again:c give:1 give:1 give:1"), &format!("{said} ok ok 1=b 1=c 1=d"));
        check(1, &format!("{up} again:c pair withdraw:c give:1"), &format!("{said} ok none true 1=d"));
    }

    #[test]
    fn who_has_nothing_to_do_is_given_what_has_come_again() {
        let up = "ask:a ask:b ask:c arrived:1 along:b along:c arrived:2";
        let said = "start start wait 1=a b c idle";
        check(2, &format!("{up} pair again:c pair pair counts"), &format!("{said} none ok 2=c none 0/2/0/0"));
        check(2, &format!("{up} again:c again:b pair pair more"), &format!("{said} ok ok 2=b none false"));
        check(2, &format!("{up} line:d pair pair counts"), &format!("{said} ok 2=d none 0/2/0/0"));
        check(1, "line:a pair more arrived:1 close line:b", "ok none true 1=a [] refused");
    }

    #[test]
    fn one_that_is_gone_makes_room_only_then() {
        let up = "ask:a ask:b arrived:1";
        check(1, &format!("{up} dismiss:1 more gone:1 more"), "start wait 1=a ok false false true");
        check(1, &format!("{up} gone:1 more give:1 counts"), "start wait 1=a false true end1 0/0/1/1");
        check(1, "ask:a arrived:1 give:1 gone:1 ask:b", "start 1=a idle true start");
    }

    #[test]
    fn who_can_not_be_started_fails_those_that_wait_when_nobody_is_left_to_wait_for() {
        check(2, "ask:a ask:b ask:c failed failed", r#"start start wait [] ["a", "b", "c"]"#);
        check(2, "ask:a arrived:1 ask:b ask:c failed counts", "start 1=a start wait [] 0/1/2/0");
        check(1, "ask:a failed ask:b arrived:1", r#"start ["a"] start 1=b"#);
    }

    #[test]
    fn after_some_failures_the_next_start_takes_its_time_while_others_work() {
        let up = "ask:a arrived:1 ask:b failed more failed more failed"; // the third fails at 7 s
        check(3, &format!("{up} more"), "start 1=a start [] true [] true [] false");
        check(3, &format!("{up} give:1"), "start 1=a start [] true [] true [] 1=b");
        let told = told(3, "ask:a arrived:1 ask:b failed more failed more failed give:1 ask:c ask:d");
        assert!(told.ends_with("1=b wait wait"), "{told}");
    }

    #[test]
    fn who_decides_about_a_worker_holds_up_no_end() {
        check(1, "ask:a arrived:1 decide:1 quiet counts give:1", "start 1=a ok true 0/1/0/0 idle");
        check(1, "ask:a arrived:1 decide:1 gone:1 give:1", "start 1=a ok false end1");
    }

    #[test]
    fn days_end_by_the_time_without_a_job() {
        let up = "ask:a ask:b arrived:1 arrived:2 give:1 give:2"; // at 4 s and 5 s
        check(2, &format!("{up} expired:2 expired:2"), "start start 1=a 2=b idle idle [1] [2]");
        check(2, &format!("{up} expired:2 ask:c counts"), "start start 1=a 2=b idle idle [1] 2=c 0/1/0/0");
    }

    #[test]
    fn a_closed_one_finishes_what_it_has() {
        let script = "ask:a ask:b arrived:1 close ask:c quiet give:1 give:1 quiet";
        check(1, script, "start wait 1=a [] refused false 1=b end1 true");
        check(1, "ask:a arrived:1 give:1 close quiet", "start 1=a idle [1] true");
    }
}
