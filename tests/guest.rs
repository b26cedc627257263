//! An actor as a guest of a host's loop: its tasks run on that loop's thread, and all else is as with any actor.
use std::cell::{Cell, RefCell};
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use rustix::process::{Pid, Signal, kill_process};
use teamster::guest::{Guest, HostLoop, Slice};
use teamster::testing::expect_cancelled;
use teamster::{Call, Context, Endpoint, Error, ExitKind, Outcome, Portal, SpawnReason, context, rpc};

#[path = "../examples/guest_loop/main_loop.rs"]
mod main_loop;
#[path = "support/program.rs"]
mod program;
use main_loop::MainLoop;
use program::{Program, scene};

/// What ends by itself and not by the grace, however busy the machine is.
const PLENTY: Duration = Duration::from_secs(10);

const BEAT: Duration = Duration::from_millis(10);

// ---- loops

thread_local! {
    static IS_HOST: Cell<bool> = const { Cell::new(false) };
    /// By how much each beat of the loop's timer was late.
    static LATE: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
    /// The processor's time that the last slice took.
    static LAST_SLICE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

#[teamster::host_loop]
fn beating(guest: Guest) {
    IS_HOST.set(true);
    let main = MainLoop::default();
    let (soon, quit) = (main.clone(), main.clone());
    let run = |slice: Slice| {
        let before = processor_time();
        slice.run();
        LAST_SLICE.set(processor_time() - before);
    };
    guest.start(move |slice| soon.call_soon(move || run(slice)), move || quit.quit());
    main.run(BEAT, |late| LATE.with_borrow_mut(|all| all.push(late.min(LAST_SLICE.take()))));
    println!("the loop has returned");
}

/// What this thread has had of a processor. Others that want one are no fault of the guest's.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Returns when somebody asks for it, whatever its guest does.
#[teamster::host_loop]
fn impatient(guest: Guest) {
    IS_HOST.set(true);
    let main = MainLoop::default();
    let soon = main.clone();
    QUIT.set(Some(main.clone()));
    guest.start(move |slice| soon.call_soon(|| slice.run()), || {});
    main.run(BEAT, |_late| {});
}

thread_local! {
    static QUIT: RefCell<Option<MainLoop>> = const { RefCell::new(None) };
}

/// Takes slices and runs none.
#[teamster::host_loop]
fn deaf(guest: Guest) {
    let (keep, kept) = mpsc::channel::<Slice>();
    guest.start(move |slice| drop(keep.send(slice)), || {});
    let _first = kept.recv();
    loop {
        std::thread::park();
    }
}

#[teamster::host_loop]
fn gone_at_once(guest: Guest) {
    drop(guest);
}

#[teamster::host_loop]
fn without_display(_guest: Guest, display: String) -> Result<(), String> {
    Err(format!("no display {display}"))
}

#[teamster::host_loop]
fn panicking(_guest: Guest) {
    panic!("the toolkit is broken");
}

#[derive(serde::Deserialize)]
struct Unencodable;

impl serde::Serialize for Unencodable {
    fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is a secret"))
    }
}

#[teamster::host_loop]
fn unstartable(_guest: Guest, _secret: Unencodable) {}

// ---- what the actors do

/// Tasks of this actor that were dropped on the loop's thread.
static DROPPED_AT_HOME: AtomicUsize = AtomicUsize::new(0);

/// Calls of `hold` that have begun.
static HOLDING: AtomicUsize = AtomicUsize::new(0);

struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        DROPPED_AT_HOME.fetch_add(usize::from(IS_HOST.get()), Ordering::SeqCst);
    }
}

#[rpc]
async fn is_at_home() -> bool {
    let before = IS_HOST.get();
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::task::yield_now().await;
    before && IS_HOST.get()
}

#[rpc]
async fn tasks_are_at_home(count: usize) -> teamster::Result<usize> {
    let at_home = std::sync::Arc::new(AtomicUsize::new(0));
    teamster::tasks::open_nursery(async |tasks| {
        for _ in 0..count {
            let at_home = std::sync::Arc::clone(&at_home);
            tasks.spawn(async move {
                tokio::task::yield_now().await;
                at_home.fetch_add(usize::from(IS_HOST.get()), Ordering::SeqCst);
                Ok(())
            });
        }
        Ok(())
    })
    .await?;
    Ok(at_home.load(Ordering::SeqCst))
}

#[rpc]
async fn pid() -> u32 {
    std::process::id()
}

#[rpc]
async fn double(n: u64) -> u64 {
    tokio::task::yield_now().await;
    2 * n
}

#[rpc]
async fn busy_for(millis: u64) {
    let until = Instant::now() + Duration::from_millis(millis);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Never waits, and lets others go on only as tokio has it.
#[rpc]
async fn greedy() {
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    loop {
        told.send(()).await.expect("it is received below");
        heard.recv().await.expect("it was sent above");
    }
}

#[rpc]
async fn hold() {
    HOLDING.fetch_add(1, Ordering::SeqCst);
    let _held = Held;
    pending().await
}

/// How many have begun to hold.
#[rpc]
async fn holding() -> usize {
    HOLDING.load(Ordering::SeqCst)
}

/// All that had begun to hold are dropped, on the loop's thread.
#[rpc]
async fn all_dropped_at_home() {
    while DROPPED_AT_HOME.load(Ordering::SeqCst) < HOLDING.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
}

#[rpc]
async fn clean_up_shielded() {
    let _held = Held;
    teamster::shield(async {
        teamster::cancelled().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        println!("cleaned up at home: {}", IS_HOST.get());
    })
    .await;
    pending().await
}

#[rpc]
async fn says_goodbye() -> Result<(), Error> {
    teamster::on_exit(async || println!("goodbye from home: {}", IS_HOST.get()))
}

/// What it has said is on its way by the thread beside the loop, which stands still from then on.
#[context]
async fn block(ctx: Context<()>) -> teamster::Result<()> {
    ctx.started(()).await?;
    #[expect(clippy::disallowed_methods, reason = "a loop that is stuck is what this is about")]
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

#[rpc]
async fn quit_the_loop() {
    QUIT.with_borrow(|main| main.as_ref().expect("it runs").quit());
    pending().await
}

/// The loop is gone before the clean-up is over, which waits for the thread beside it.
#[rpc]
async fn clean_up_without_a_loop() {
    teamster::shield(async {
        teamster::cancelled().await;
        QUIT.with_borrow(|main| main.as_ref().expect("it runs").quit());
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("cleaned up at home: {}", IS_HOST.get());
    })
    .await;
    pending().await
}

#[rpc]
async fn end_from_inside() {
    teamster::cancel_self().expect("it is an actor");
    pending().await
}

#[teamster::error]
#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("no seat in row {row}")]
struct Full {
    row: u32,
}

#[rpc]
async fn book(row: u32) -> Result<(), Full> {
    tokio::task::yield_now().await;
    Err(Full { row })
}

#[rpc]
async fn panic_later() {
    tokio::task::yield_now().await;
    panic!("out of tune");
}

#[rpc]
async fn grow(count: usize) -> teamster::Result<u64> {
    let sum = teamster::open_nursery(async |an| {
        let starting = (0..count).map(async |n| match n % 2 {
            0 => an.start_actor("plain").await,
            _ => an.actor("guest").infect(beating()).start().await,
        });
        let leaves = try_join_all(starting).await?;
        Ok(try_join_all(leaves.iter().map(|leaf| leaf.run(double(1)))).await?.iter().sum())
    })
    .await?;
    assert!(IS_HOST.get(), "the nursery's body has left its thread");
    Ok(sum)
}

#[context]
async fn sums(ctx: Context<bool, u64, u64>) -> teamster::Result<u64> {
    ctx.started(IS_HOST.get()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut sum = 0;
    while let Some(n) = stream.recv().await? {
        sum += n;
        stream.send(sum).await?;
    }
    Ok(sum)
}

/// By how much the guest has made each beat late since the last call, in µs.
#[rpc]
async fn lateness() -> Vec<u64> {
    LATE.take().iter().map(|late| u64::try_from(late.as_micros()).unwrap_or(u64::MAX)).collect()
}

// ---- as with any actor

#[teamster::test]
async fn everything_runs_on_the_loops_thread() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        assert!(clock.run(is_at_home()).await?);
        assert_eq!(clock.run(tasks_are_at_home(20)).await?, 20);
        let plain = an.start_actor("plain").await?;
        assert!(!plain.run(is_at_home()).await?, "it has no loop");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn contexts_and_streams_go_both_ways() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let sum = clock
            .open_context(sums(), async |ctx, is_at_home| {
                assert!(is_at_home);
                let mut stream = ctx.open_stream().await?;
                for n in 1..=100 {
                    stream.send(n).await?;
                    assert_eq!(stream.recv().await?, Some(n * (n + 1) / 2));
                }
                stream.finish().await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(sum, 5050);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_thousand_calls_at_once() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let doubles = try_join_all((0..1_000).map(|n| clock.run(double(n)))).await?;
        assert_eq!(doubles.iter().sum::<u64>(), 999_000);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn errors_and_panics_climb_and_the_actor_goes_on() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let error = clock.run(book(7)).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Full>().map(|full| full.row), Some(7), "{error}");
        let Err(Error::Remote(remote)) = clock.run(panic_later()).await else { panic!("it is not told") };
        assert!(remote.is_panic() && remote.to_string().contains("out of tune"), "{remote}");
        assert!(remote.location().is_some_and(|at| at.starts_with("tests/guest.rs:")), "{remote:?}");
        assert_eq!(clock.run(double(2)).await?, 4);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_guest_grows_a_tree_of_plain_actors_and_guests() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        assert_eq!(clock.run(grow(4)).await?, 8);
        Ok(())
    })
    .await
    .unwrap();
}

// ---- its host's own

#[teamster::test(exclusive)]
async fn the_loops_timer_keeps_its_beat_under_a_flood_of_calls() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        clock.run(lateness()).await?;
        let until = Instant::now() + Duration::from_secs(2);
        let callers = (0..200).map(async |_| {
            let mut calls = 0u64;
            while Instant::now() < until {
                clock.run(double(1)).await?;
                calls += 1;
            }
            Ok::<u64, Error>(calls)
        });
        let calls: u64 = try_join_all(callers).await?.iter().sum();
        let mut late = clock.run(lateness()).await?;
        late.sort_unstable();
        let p99 = late[late.len() * 99 / 100];
        println!("{} beats beside {calls} calls, p99 {p99} µs late", late.len());
        assert!(late.len() >= 190, "{} beats in 2 s", late.len());
        assert!(p99 < 5_000, "p99 of the beats is {p99} µs late, beside {calls} calls");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_task_that_never_waits_leaves_the_loop_and_the_others_their_turn() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let greedy = clock.run(greedy());
        let others = async {
            for n in 0..20 {
                assert_eq!(clock.run(double(n)).await?, 2 * n);
                tokio::time::sleep(BEAT).await; // the loop's timer is what is waited for
            }
            assert!(clock.run(lateness()).await?.len() >= 10, "the timer stands still");
            Ok::<(), Error>(())
        };
        tokio::select! {
            ended = greedy => panic!("it never ends: {ended:?}"),
            others = others => others?,
        }
        Ok(())
    })
    .await
    .unwrap();
}

// ---- its ends

#[teamster::test]
async fn a_dropped_call_is_dropped_on_the_loops_thread() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let all_hold = async {
            while clock.run(holding()).await? < 10 {}
            Ok::<(), Error>(())
        };
        tokio::select! {
            ended = join_all((0..10).map(|_| clock.run(hold()))) => panic!("they hold on: {ended:?}"),
            all_hold = all_hold => all_hold?,
        }
        clock.run(all_dropped_at_home()).await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_deadline_ends_a_call_by_the_guests_own_clock() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        // On a busy machine a deadline may be over before the call has begun.
        while clock.run(holding()).await? == 0 {
            // Whichever clock is first: this one drops the call, the guest's answers it.
            let late = teamster::deadline(Duration::from_millis(50), clock.run(hold())).await;
            assert!(matches!(late, Err(Error::Deadline { .. }) | Ok(Err(Error::Deadline { .. }))), "{late:?}");
        }
        clock.run(all_dropped_at_home()).await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[test]
fn what_is_cleaned_up_is_cleaned_up_at_home_and_the_loop_returns() {
    let ended = Program::start("clean_up").ends_within(PLENTY);
    assert!(ended.status.success(), "{}", ended.stderr);
    for line in ["cleaned up at home: true", "goodbye from home: true", "the loop has returned"] {
        assert!(ended.stdout.contains(line), "no line {line:?}: {}", ended.stdout);
    }
}

#[test]
fn a_loop_that_returns_while_its_guest_cleans_up_leaves_it_to_that() {
    let ended = Program::start("clean_up_alone").ends_within(PLENTY);
    assert!(ended.status.success(), "{}", ended.stderr);
    for line in ["cleaned up at home: true", "goodbye from home: true"] {
        assert!(ended.stdout.contains(line), "no line {line:?}: {}", ended.stdout);
    }
}

#[teamster::test]
async fn a_guest_ends_itself_and_its_loop() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").grace(PLENTY).infect(beating()).start().await?;
        expect_cancelled(clock.run(end_from_inside()).await);
        clock.cancel_actor().await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_stuck_loop_hears_a_cancel_and_is_killed_when_the_grace_is_over() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(beating()).start().await?;
        let blocked = clock.context(block()).await?;
        let receipt = clock.cancel_actor().await?;
        assert!(receipt.heard.is_some_and(|heard| heard < Duration::from_millis(200)), "{receipt:?}");
        assert!(!receipt.was_graceful(), "{receipt:?}");
        let outcome = blocked.outcome().await;
        assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_loop_that_returns_too_early_is_a_death_that_says_so() {
    let ended = teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(impatient()).start().await?;
        clock.run(quit_the_loop()).await?;
        Ok(())
    })
    .await;
    let error = ended.unwrap_err();
    let Error::ActorDied(death) = &error else { panic!("no death: {error:?}") };
    assert_eq!(death.exit(), ExitKind::Status(70), "{error}");
    let text = error.to_string();
    assert!(text.contains("guest::impatient returned before its actor was over"), "{text}");
}

#[teamster::test]
async fn what_can_not_be_a_guest_is_an_error_of_its_start() {
    let failure = async |host| {
        let mut reason = None;
        let ended = teamster::open_nursery(async |an| {
            let started = an.actor("clock").boot_timeout(Duration::from_secs(5)).infect(host).start().await;
            reason = started.err();
            Ok(())
        });
        ended.await.unwrap();
        match reason {
            Some(Error::Spawn { reason, .. }) => reason,
            other => panic!("not an error of its start: {other:?}"),
        }
    };
    let died = [
        (gone_at_once(), "guest::gone_at_once returned before its actor was over"),
        (without_display(":7".into()), "guest::without_display failed: no display :7"),
        (panicking(), "guest::panicking panicked"),
        (deaf(), "guest::deaf has not run its guest within 4.5s"),
    ];
    for (host, wanted) in died {
        let reason = failure(host).await;
        assert!(matches!(reason, SpawnReason::DiedBooting(_)), "{reason:?}");
        assert!(reason.to_string().contains(wanted), "{reason}");
    }
    let reason = failure(unstartable(Unencodable)).await;
    assert!(reason.to_string().contains("it is a secret"), "{reason}");
}

#[rpc]
async fn start_a_guest(told: Portal) -> teamster::Result<()> {
    let _ = told;
    Ok(teamster::open_nursery(async |an| {
        an.actor("clock").infect(beating()).start().await?;
        pending().await
    })
    .await?)
}

#[teamster::test]
async fn a_guest_whose_parent_is_killed_is_gone() {
    let ended = teamster::open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let pid = mid.run(pid()).await?;
        let growing = mid.run(start_a_guest(teamster::this_actor()?));
        let killing = async {
            while teamster::find_actor("clock").await?.is_none() {
                tokio::task::yield_now().await;
            }
            kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL)?;
            Ok::<(), teamster::BoxError>(())
        };
        let (grown, killed) = tokio::join!(growing, killing);
        killed?;
        grown?;
        Ok(())
    })
    .await;
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}"); // and the harness finds nothing left
}

// ---- a root as guest

/// Runs a root as a guest of a loop on this thread.
fn in_a_loop<T: 'static>(
    body: impl AsyncFnOnce(&teamster::ActorNursery) -> Result<T, teamster::BoxError> + 'static,
) -> Result<T, Error> {
    IS_HOST.set(true);
    let main = MainLoop::default();
    let (soon, quit) = (main.clone(), main.clone());
    let result = std::rc::Rc::new(RefCell::new(None));
    let slot = std::rc::Rc::clone(&result);
    teamster::root()
        .open_as_guest(
            move |slice| soon.call_soon(|| slice.run()),
            body,
            move |ended| {
                *slot.borrow_mut() = Some(ended);
                quit.quit();
            },
        )
        .expect("a thread to spare");
    main.run(BEAT, |late| LATE.with_borrow_mut(|all| all.push(late)));
    let ended = result.borrow_mut().take();
    ended.expect("the loop runs until it is over")
}

/// On a thread of its own: that of the test runs tokio.
async fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

#[teamster::test]
async fn a_root_lives_in_a_loop_with_all_that_belongs_to_its_thread() {
    let ended = on_a_thread(|| {
        in_a_loop(async |an| {
            let here = std::rc::Rc::new(Cell::new(0)); // nothing of the body has to be Send
            let plain = an.start_actor("plain").await?;
            let clock = an.actor("clock").infect(beating()).start().await?;
            for n in 0..50 {
                here.set(here.get() + plain.run(double(n)).await? + clock.run(double(n)).await?);
                assert!(IS_HOST.get());
            }
            assert_eq!(tasks_are_at_home(10).await?, 10);
            Ok(here.get())
        })
    })
    .await;
    assert_eq!(ended.unwrap(), 4900);
}

#[teamster::test]
async fn errors_of_a_root_in_a_loop_are_told_when_all_is_gone() {
    let ended = on_a_thread(|| {
        in_a_loop(async |an| {
            let plain = an.start_actor("plain").await?;
            an.actor("clock").infect(beating()).start().await?;
            Ok(plain.run(book(3)).await?)
        })
    })
    .await;
    let error = ended.unwrap_err();
    assert_eq!(error.downcast_ref::<Full>().map(|full| full.row), Some(3), "{error}");
}

#[teamster::test]
async fn roots_follow_each_other_in_one_loop() {
    let sums =
        on_a_thread(|| (0..3).map(|n| in_a_loop(async move |an| Ok(an.actor("a").call(double(n)).await?))).collect());
    let sums: Vec<Result<u64, Error>> = sums.await;
    assert_eq!(sums.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 2, 4]);
}

#[teamster::test]
async fn a_slice_that_is_run_elsewhere_is_asked_for_again() {
    let is_wrong = std::sync::Arc::new(AtomicBool::new(false));
    let (told, heard) = tokio::sync::oneshot::channel();
    let ended = on_a_thread(move || {
        let main = MainLoop::default();
        let (soon, quit, told) = (main.clone(), main.clone(), std::sync::Mutex::new(Some(told)));
        let goes_wrong = std::sync::Arc::clone(&is_wrong);
        let elsewhere = std::sync::Arc::new(std::sync::Mutex::new(None));
        let joined = std::sync::Arc::clone(&elsewhere);
        let run_soon = move |slice: Slice| match goes_wrong.swap(false, Ordering::SeqCst) {
            true => {
                let told = told.lock().expect("nobody panics with it").take();
                let elsewhere = std::thread::spawn(move || {
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| slice.run()));
                    told.map(|told| told.send(ran.is_err()))
                });
                *joined.lock().expect("nobody panics with it") = Some(elsewhere);
            }
            false => soon.call_soon(|| slice.run()),
        };
        let body = async move |_an: &teamster::ActorNursery| {
            let has_panicked = std::sync::Arc::new(AtomicBool::new(false));
            let panicked = std::sync::Arc::clone(&has_panicked);
            teamster::tasks::open_nursery(async |tasks| {
                tasks.spawn(async move {
                    panicked.store(heard.await?, Ordering::SeqCst);
                    Ok(())
                });
                tokio::time::sleep(Duration::from_millis(1)).await; // the task waits
                is_wrong.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await; // by the slice that goes wrong
                Ok(())
            })
            .await?;
            Ok(has_panicked.load(Ordering::SeqCst))
        };
        let result = std::rc::Rc::new(RefCell::new(None));
        let slot = std::rc::Rc::clone(&result);
        let done = move |ended| {
            *slot.borrow_mut() = Some(ended);
            quit.quit();
        };
        teamster::root().open_as_guest(run_soon, body, done).expect("a thread to spare");
        main.run(BEAT, |_late| {});
        let elsewhere = elsewhere.lock().expect("nobody panics with it").take();
        elsewhere.map(std::thread::JoinHandle::join).expect("a slice went wrong").expect("its panic is caught");
        let ended = result.borrow_mut().take();
        ended.expect("the loop runs until it is over")
    });
    assert!(ended.await.unwrap(), "it may not run there");
}

#[test]
fn ctrl_c_ends_a_root_in_a_loop() {
    let mut program = Program::start("root_in_a_loop");
    program.says("it runs");
    program.signal(Signal::INT);
    let ended = program.ends_within(PLENTY);
    assert!(ended.stdout.contains("interrupted by 2"), "{}{}", ended.stdout, ended.stderr);
}

#[test]
#[ignore = "started by the tests as a program of its own"]
fn program() {
    let _guard = teamster::init();
    match scene().as_deref() {
        Some("clean_up") => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(clean_up(beating(), clean_up_shielded())).unwrap();
        }
        Some("clean_up_alone") => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(clean_up(impatient(), clean_up_without_a_loop())).unwrap();
        }
        Some("root_in_a_loop") => {
            let ended = in_a_loop(async |an| {
                let clock = an.actor("clock").infect(beating()).start().await?;
                assert!(clock.run(is_at_home()).await?);
                println!("it runs");
                Ok(clock.run(hold()).await?)
            });
            match ended {
                Err(Error::Interrupted { signal }) => println!("interrupted by {signal}"),
                other => println!("{other:?}"),
            }
        }
        _ => {}
    }
}

async fn clean_up<E>(host: HostLoop, cleaning: Call<E>) -> Result<(), Error>
where
    E: Endpoint<Output = ()>,
{
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").grace(PLENTY).infect(host).start().await?;
        clock.run(says_goodbye()).await?;
        let cleaning = clock.run(cleaning);
        let ending = async {
            clock.run(double(1)).await?; // the other call has begun before
            clock.cancel_actor().await
        };
        let (cleaned, receipt) = tokio::join!(cleaning, ending);
        expect_cancelled(cleaned);
        assert!(receipt?.was_graceful());
        Ok(())
    })
    .await
}
