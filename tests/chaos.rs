//! Whatever happens to a tree, is everything gone afterwards, and was the root told?
//!
//! `TEAMSTER_ROUNDS` says how many rounds, `TEAMSTER_SEED` repeats a run.
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{pending, try_join_all};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use teamster::launch::Program;
use teamster::testing::harness::{TestOptions, test};
use teamster::testing::{KillAtRandom, LeakCheck, descendants, is_alive, rounds, seed, start_ticks};
use teamster::{ActorNursery, BoxError, CancelRequest, Error, open_nursery};

#[test]
fn whatever_happens_nothing_is_left_and_the_root_is_told() {
    let options = TestOptions::new().deadline(Duration::from_secs(600));
    test(concat!(module_path!(), "::whatever_happens_nothing_is_left_and_the_root_is_told"), options, chaos);
}

async fn chaos() {
    let seed = seed();
    open_nursery(async |an| an.start_actor("warm-up").await.map(drop).map_err(Into::into)).await.expect("a quiet tree");
    let folder = std::env::var_os("TEAMSTER_DIR").expect("set by the harness");
    for number in 0..rounds(10) {
        let mut chance = KillAtRandom::new(seed.wrapping_add(u64::from(number)));
        let round = Round::draw(&mut chance);
        let check = LeakCheck::new().folder(&folder);
        println!("round {number}: {round:?}");
        round.run(&mut chance).await;
        check.assert_clean();
        assert_eq!(marked(), [std::process::id()], "processes that are still there after round {number}");
    }
}

/// What one actor does, and who is below it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    work: Work,
    below: Vec<Plan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Work {
    /// Nobody calls it.
    Idle,
    /// Its call waits.
    Waits,
    /// Its call keeps its only thread in the kernel.
    Blocks,
    /// Its call keeps its only thread busy.
    Spins,
    /// Its call does not care for cancels.
    Shields,
    /// Its call fails after so many milliseconds.
    Fails(u64),
    /// Its call panics after so many milliseconds.
    Panics(u64),
    /// Its process ends itself after so many milliseconds.
    Exits(u64),
    /// It runs, and never says Hello.
    Boots,
}

/// What befalls the tree, after a while.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Kill(u64),
    Stop(u64),
    BodyEnds,
    BodyFails,
    BodyPanics,
    BodyIsDropped,
    Cancel,
}

#[derive(Clone, Debug)]
struct Round {
    tree: Vec<Plan>,
    event: Event,
    after: Duration,
}

impl Round {
    fn draw(chance: &mut KillAtRandom) -> Round {
        let mut room = MAX_ACTORS;
        let tree = Plan::draw_all(chance, 3, &mut room);
        let event = match chance.below(11) {
            0..=3 => Event::Kill(1 + chance.below(3)),
            4..=5 => Event::Stop(1 + chance.below(3)),
            6 => Event::BodyEnds,
            7 => Event::BodyFails,
            8 => Event::BodyPanics,
            9 => Event::BodyIsDropped,
            _ => Event::Cancel,
        };
        Round { tree, event, after: Duration::from_micros(chance.below(LONGEST_QUIET_US)) }
    }

    /// Runs it, and looks at how it ended.
    async fn run(&self, chance: &mut KillAtRandom) {
        let mut seen = Vec::new();
        let began = Instant::now();
        // Outside of it, so that a dropped nursery has somebody who waits for it.
        let scope = open_nursery(async |_outer| {
            let tree = AssertUnwindSafe(self.tree_with_event(chance, &mut seen)).catch_unwind();
            Ok(tree.await)
        });
        let ended = tokio::time::timeout(HANGS_AFTER, scope).await;
        let Ok(ended) = ended else {
            let tree: Vec<String> = marked().into_iter().map(stack_of).collect();
            panic!("{self:?}: no end after {HANGS_AFTER:?}. There are:\n{}", tree.join("\n"));
        };
        for (pid, started) in seen {
            assert!(!is_alive(pid, started), "{pid} outlives the nursery: {self:?}");
        }
        let how = format!("{ended:?}");
        println!("    ended after {:?}: {}", began.elapsed(), how.lines().next().unwrap_or_default());
        match ended.expect("the outer nursery has no child and no failure of its own") {
            Ok(outcome) => self.judge(outcome),
            Err(panic) if self.event == Event::BodyPanics && panic.is::<Planned>() => {}
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The tree's own nursery. `None`: it was dropped.
    async fn tree_with_event(
        &self,
        chance: &mut KillAtRandom,
        seen: &mut Vec<(u32, u64)>,
    ) -> Option<Result<u64, Error>> {
        let (event, after) = (self.event, self.after);
        let nursery = open_nursery(async |an| {
            let work =
                grow(an, &self.tree, if event == Event::BodyEnds { OneShots::None } else { OneShots::EverySecond });
            let befall = async {
                tokio::time::sleep(after).await;
                let pids = descendants(std::process::id());
                seen.extend(pids.iter().filter_map(|&pid| Some((pid, start_ticks(pid)?))));
                match event {
                    Event::Kill(count) => signal_some(chance, &pids, count, Signal::KILL),
                    Event::Stop(count) => signal_some(chance, &pids, count, Signal::STOP),
                    Event::BodyFails => return Err("the body fails".into()),
                    Event::BodyPanics => std::panic::panic_any(Planned),
                    Event::Cancel => drop(an.cancel().await),
                    Event::BodyEnds | Event::BodyIsDropped => {}
                }
                if matches!(event, Event::Kill(_) | Event::Stop(_)) {
                    tokio::time::sleep(AFTERMATH).await; // the failure climbs, if there is one
                    an.cancel().await; // else the one-shots would be waited for
                }
                Ok(u64::MAX)
            };
            tokio::select! {
                done = work => done.map(|()| 0),
                befallen = befall => befallen,
            }
        });
        if event == Event::BodyIsDropped {
            tokio::time::timeout(after, nursery).await.ok()
        } else {
            Some(nursery.await)
        }
    }

    fn judge(&self, outcome: Option<Result<u64, Error>>) {
        match (outcome, self.event) {
            (None, Event::BodyIsDropped) | (Some(Ok(_)), _) => {}
            (None, _) => panic!("only a dropped body has no outcome: {self:?}"),
            // A program learns why: an end that nobody of ours asked for is never just "cancelled".
            (Some(Err(Error::Cancelled { canceller })), Event::Kill(_))
                if canceller.request != CancelRequest::Nursery =>
            {
                panic!("the cause is lost behind a cancel by {canceller}: {self:?}")
            }
            (Some(Err(error)), _) => assert!(!format!("{error}").is_empty()),
        }
    }
}

/// What the body throws when it is to panic.
struct Planned;

impl Plan {
    fn draw_all(chance: &mut KillAtRandom, depth: u64, room: &mut u64) -> Vec<Plan> {
        let count = if depth == 0 { 0 } else { chance.below(5).max(u64::from(depth == 3)).min(*room) };
        *room -= count;
        (0..count).map(|_| Plan::draw(chance, depth, room)).collect()
    }

    fn draw(chance: &mut KillAtRandom, depth: u64, room: &mut u64) -> Plan {
        let soon = chance.below(LONGEST_QUIET_US / 1000);
        let work = match chance.below(24) {
            0..=4 => Work::Idle,
            5..=11 => Work::Waits,
            12..=13 => Work::Blocks,
            14 => Work::Spins,
            15..=16 => Work::Shields,
            17 => Work::Boots,
            18 => Work::Fails(soon),
            19 => Work::Panics(soon),
            20 => Work::Exits(soon),
            _ => Work::Waits,
        };
        let is_leaf = matches!(work, Work::Idle | Work::Boots);
        Plan { work, below: if is_leaf { Vec::new() } else { Plan::draw_all(chance, depth - 1, room) } }
    }
}

/// Which actors are started for their one call: a body that ends well waits for those.
#[derive(Clone, Copy, PartialEq)]
enum OneShots {
    None,
    EverySecond,
}

/// Starts these actors, all at once, and waits for their calls.
async fn grow(an: &ActorNursery, plans: &[Plan], kind: OneShots) -> Result<(), BoxError> {
    let mut one_shots = Vec::new();
    let mut services = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let actor = an.actor(&format!("{:?}-{number}", plan.work));
        match plan.work {
            Work::Boots => services
                .push(async { actor.launcher(Program::new("sleep")).args(["60"]).start().await.map(drop) }.boxed()),
            Work::Idle => services.push(async { actor.start().await.map(drop) }.boxed()),
            _ if number % 2 == 0 && kind == OneShots::EverySecond => {
                one_shots.push(actor.run_in_actor(live(plan.clone())))
            }
            _ => services.push(async { actor.start().await?.run(live(plan.clone())).await }.boxed()),
        }
    }
    try_join_all(services).await?;
    for one_shot in one_shots {
        one_shot.await?;
    }
    Ok(())
}

/// One actor's life.
#[teamster::rpc]
async fn live(plan: Plan) -> teamster::Result<()> {
    let work = plan.work;
    let own = async {
        match work {
            Work::Idle | Work::Boots | Work::Waits => pending().await,
            Work::Blocks => block(),
            Work::Spins => spin(),
            Work::Shields => teamster::shield(pending()).await,
            Work::Fails(after) => {
                tokio::time::sleep(Duration::from_millis(after)).await;
                Err(std::io::Error::other("an actor fails"))
            }
            Work::Panics(after) => {
                tokio::time::sleep(Duration::from_millis(after)).await;
                panic!("an actor panics")
            }
            Work::Exits(after) => {
                tokio::time::sleep(Duration::from_millis(after)).await;
                std::process::exit(3)
            }
        }
    };
    if plan.below.is_empty() {
        return Ok(own.await?);
    }
    // What blocks the thread does so once its children are being started.
    open_nursery(async |an| {
        tokio::try_join!(grow(an, &plan.below, OneShots::EverySecond), async {
            tokio::task::yield_now().await;
            own.await.map_err(BoxError::from)
        })?;
        Ok(())
    })
    .await?;
    Ok(())
}

fn block() -> ! {
    loop {
        std::thread::park_timeout(Duration::from_secs(60));
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn signal_some(chance: &mut KillAtRandom, pids: &[u32], count: u64, signal: Signal) {
    for _ in 0..count {
        if let Some(pid) = chance.pick(pids).and_then(|&pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by now.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The living processes of this test, whoever their parents are: known by their environment.
fn marked() -> Vec<u32> {
    let mark = std::env::var("TEAMSTER_TEST_MARK").expect("set by the harness");
    let entry = format!("TEAMSTER_TEST_MARK={mark}");
    let entries = std::fs::read_dir("/proc").expect("there is /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(); // empty: a zombie
        environment.split(|&byte| byte == 0).any(|given| given == entry.as_bytes())
    };
    pids.filter(is_ours).collect()
}

/// What a process is and does, for the message of a failure.
fn stack_of(pid: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let of = |field: &str| status.lines().find(|line| line.starts_with(field)).unwrap_or_default().replace('\t', " ");
    format!("    {pid} {} {} {} {}", read("cmdline").replace('\0', " "), of("State"), of("PPid"), read("wchan"))
}

/// Actors of one tree at most: a round is to be short.
const MAX_ACTORS: u64 = 14;

/// The event comes after less than this, in microseconds: in the middle of boots, calls and ends.
const LONGEST_QUIET_US: u64 = 60_000;

/// How long the body goes on after what befell the tree.
const AFTERMATH: Duration = Duration::from_millis(100);

/// The grace is 200 ms: far beyond what a machine that is busy with other tests makes of it.
const HANGS_AFTER: Duration = Duration::from_secs(15);
