//! Jobs run in worker processes, which are kept, reused, killed and gone; what fails in one is told, and is nobody else's.
#![allow(unsafe_code, reason = "jobs that crash on purpose")]
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, TryStreamExt};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use teamster::pool::{Statistics, WorkerHook, WorkerLife};
use teamster::testing::{drop_at_every_await, wait_gone};
use teamster::{Blob, Error, ExitKind, WorkerConfig, WorkerPool, open_worker_context, rpc, run_sync, work};

#[path = "support/starved.rs"]
mod starved;
use starved::Moment;

#[path = "support/gate.rs"]
mod gate;
use gate::{Gate, stand_before};

/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A safety net.
const LATE: Duration = Duration::from_secs(20);

// ---- jobs

#[work]
fn square(n: u64) -> u64 {
    n * n
}

#[work]
fn pid() -> u32 {
    std::process::id()
}

#[work]
fn hold(gate: PathBuf) -> u32 {
    stand_before(&gate)
}

#[work]
fn spin(gate: PathBuf) -> u32 {
    let told = std::os::unix::net::UnixStream::connect(gate).expect("there is a gate");
    io::Write::write_all(&mut &told, &std::process::id().to_be_bytes()).expect("somebody looks");
    loop {
        std::hint::spin_loop();
    }
}

#[work]
fn exit(status: i32) {
    eprintln!("no more");
    std::process::exit(status)
}

#[work]
fn signal_itself(signal: i32) {
    // SAFETY: plain calls.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[work]
fn overflow(depth: u64) -> u64 {
    let big = std::hint::black_box([depth; 512]);
    if depth == u64::MAX { 0 } else { overflow_more(depth + 1) + big[7] }
}

#[inline(never)]
fn overflow_more(depth: u64) -> u64 {
    let big = std::hint::black_box([depth; 512]);
    if std::hint::black_box(depth) == u64::MAX { 0 } else { overflow_more(depth + 1) + big[7] }
}

#[work]
fn fail(text: String) -> Result<(), io::Error> {
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

#[teamster::error]
#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("no seat in row {row}")]
struct Full {
    row: u32,
}

#[work]
fn book(row: u32) -> Result<(), Full> {
    Err(Full { row })
}

#[work]
fn panic_with_a_number() -> u32 {
    std::panic::panic_any(7_u8)
}

#[derive(serde::Deserialize)]
struct Unencodable;

impl serde::Serialize for Unencodable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is a secret"))
    }
}

#[work]
fn secret() -> Unencodable {
    Unencodable
}

#[work]
fn echo(bytes: bytes::Bytes) -> bytes::Bytes {
    bytes
}

#[work]
fn invert(bytes: Blob) -> Blob {
    bytes.iter().map(|byte| !byte).collect::<Vec<u8>>().into()
}

#[work]
fn hold_bytes(bytes: Blob, gate: PathBuf) -> usize {
    stand_before(&gate);
    bytes.len()
}

#[rpc]
async fn later(n: u64) -> u64 {
    tokio::task::yield_now().await;
    n + 1
}

fn a_pool(workers: usize) -> WorkerConfig {
    WorkerConfig::new().limit(workers)
}

async fn gone(pids: impl IntoIterator<Item = u32>) {
    for pid in pids {
        tokio::task::spawn_blocking(move || wait_gone(pid, LATE)).await.expect("it ends");
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("it lives");
}

/// Stops all threads of a child of this process.
fn stop(pid: u32) {
    kill(pid, Signal::STOP);
    let child = WaitId::Pid(Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"));
    waitid(child, WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).expect("it is our child");
}

/// Waits until that is so: nothing tells when a number changes.
async fn until(pool: &WorkerPool, is_so: impl Fn(&Statistics) -> bool) {
    let began = Instant::now();
    while !is_so(&pool.statistics()) {
        assert!(began.elapsed() < LATE, "{:?}", pool.statistics());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

// ---- jobs and their results (S10.185)

#[teamster::test]
async fn a_job_runs_in_a_process_of_its_own() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        assert_eq!(pool.run(square(7)).await?, 49);
        assert_ne!(pool.run(pid()).await?, std::process::id());
        assert_eq!(pool.run(later(1)).await?, 2, "an async one");
        assert_eq!(square(3).await?, 9, "here");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn what_a_job_fails_with_is_told_and_its_worker_stays() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        let worker = pool.run(pid()).await?;
        let failed = pool.run(fail("no such picture".into())).await.expect_err("it fails");
        let Error::Remote(remote) = &failed else { panic!("{failed:?}") };
        assert_eq!((remote.actor().pid(), remote.message()), (worker, "no such picture"));
        assert!(remote.location().expect("it has one").contains("tests/workers.rs"), "{failed:?}");
        let told = pool.run(book(7)).await.expect_err("it is full");
        assert_eq!(told.downcast_ref::<Full>().expect("it crosses").row, 7);
        let panicked = pool.run(panic_with_a_number()).await.expect_err("it panics");
        assert!(matches!(&panicked, Error::Remote(remote) if remote.is_panic()), "{panicked:?}");
        let refused = pool.run(secret()).await.err().expect("it can't be encoded");
        assert!(matches!(&refused, Error::Codec(codec) if codec.message().contains("a secret")), "{refused:?}");
        assert_eq!(pool.run(pid()).await?, worker);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn large_values_come_whole() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        for len in [1 << 20, 256 << 20] {
            let mut sent = (0..251).collect::<Vec<u8>>().repeat(len / 251 + 1);
            sent.truncate(len);
            let sent = bytes::Bytes::from(sent);
            assert!(pool.run(echo(sent.clone())).await? == sent, "{len} bytes");
        }
        Ok(())
    })
    .await
}

// ---- which worker (W1, S10.190, 202)

#[teamster::test]
async fn large_values_take_turns_in_the_memory_that_is_shared() -> Result<(), Error> {
    open_worker_context(a_pool(2), async |pool| {
        let sizes = [3 << 20, 1000, 300_000, 9 << 20, 256 << 10, 3 << 20];
        let sent = |fill: usize| Blob::from(vec![fill as u8; sizes[fill % sizes.len()]]);
        let inverted = |fill: usize| vec![!(fill as u8); sizes[fill % sizes.len()]];
        let mut kept = Vec::new();
        let mut results = pool.map((0..24).map(|fill| invert(sent(fill))));
        while let Some(result) = results.try_next().await? {
            kept.push(result);
        }
        drop(results);
        kept.push(pool.run(invert(sent(24))).cancellable(false).await?);
        assert!(kept.iter().enumerate().all(|(fill, result)| *result == inverted(fill)), "none was written over");
        assert_eq!(pool.statistics().started, 2);
        Ok(())
    })
    .await
}

/// Segments of shared memory that this process has mapped.
fn segments() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("there is a /proc");
    maps.lines().filter(|line| line.contains("/memfd:teamster")).count()
}

#[work]
fn fill(len: usize) -> Blob {
    vec![7; len].into()
}

#[teamster::test]
async fn large_arguments_and_results_do_lie_in_shared_memory() -> Result<(), Error> {
    const LARGE: usize = 2 << 20;
    let large = || Blob::from(vec![1; LARGE]);
    open_worker_context(a_pool(1), async |pool| {
        assert_eq!(pool.run(square(2)).await?, 4);
        assert_eq!(segments(), 0);
        let first = pool.run(invert(large())).await?;
        assert!(segments() >= 2, "one each way: {}", segments());
        drop(first);
        Ok(())
    })
    .await?;
    open_worker_context(a_pool(1), async |pool| {
        let ended: Vec<Blob> = pool.map((0..4).map(|_| invert(large()))).try_collect().await?;
        assert!(segments() >= 2 && ended.iter().all(|blob| blob.len() == LARGE));
        Ok(())
    })
    .await?;
    open_worker_context(a_pool(1), async |pool| {
        let mut sizes = Vec::new();
        let mut filled = pool.map((0..4).map(|_| fill(LARGE)));
        while let Some(blob) = filled.try_next().await? {
            assert_eq!(blob.len(), LARGE);
            sizes.push(segments());
        }
        assert!(sizes.last().is_some_and(|segments| *segments >= 1), "{sizes:?}");
        Ok(())
    })
    .await?;
    assert_eq!(segments(), 0, "given back with the pool");
    Ok(())
}

#[teamster::test]
async fn a_job_that_is_killed_takes_its_shared_memory_with_it() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        for _ in 0..3 {
            let gate = Gate::new();
            let mut job = Box::pin(pool.run(hold_bytes(vec![1; 5 << 20].into(), gate.path())));
            tokio::select! {
                ended = &mut job => panic!("it is held: {ended:?}"),
                _held = gate.next() => {}
            }
            drop(job);
            assert!(pool.run(invert(vec![1; 1 << 20].into())).await? == vec![!1; 1 << 20]);
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_hundred_jobs_take_no_more_workers_than_the_limit_and_then_none() -> Result<(), Error> {
    open_worker_context(a_pool(2).idle_timeout(Duration::from_millis(50)), async |pool| {
        let jobs = (0..100).map(|_| pool.run(pid()));
        let pids: BTreeSet<u32> = futures::future::try_join_all(jobs).await?.into_iter().collect();
        assert!(pids.len() <= 2, "{pids:?}");
        gone(pids).await;
        until(pool, |now| now.idle == 0).await;
        assert_eq!(pool.run(square(2)).await?, 4, "another one comes");
        let now = pool.statistics();
        assert!(now.started == 3 || now.started == 2, "{now:?}");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn never_more_jobs_run_than_the_limit() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(3), async |pool| {
        let jobs = futures::future::try_join_all((0..30).map(|_| pool.run(hold(gate.path()))));
        let watched = async {
            let mut pids = BTreeSet::new();
            for _ in 0..10 {
                let held = [gate.next().await, gate.next().await, gate.next().await];
                assert!(gate.is_empty().await, "a fourth one runs");
                assert_eq!((pool.statistics().running, pool.statistics().idle), (3, 0));
                for one in held {
                    pids.insert(one.pid);
                    one.pass().await;
                }
            }
            assert_eq!(pids.len(), 3);
        };
        tokio::join!(jobs, watched).0?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn the_worker_that_was_used_last_is_used_next() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(2), async |pool| {
        let (one, two) = (pool.run(hold(gate.path())), pool.run(hold(gate.path())));
        let watched = async {
            let (first, second) = (gate.next().await, gate.next().await);
            let pids = (first.pid, second.pid);
            first.pass().await;
            until(pool, |now| now.idle == 1).await;
            second.pass().await;
            pids
        };
        let (one, two, (first, second)) = tokio::join!(one, two, watched);
        assert_eq!(BTreeSet::from([one?, two?]), BTreeSet::from([first, second]));
        for _ in 0..5 {
            assert_eq!(pool.run(pid()).await?, second);
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn the_counts_are_right_at_each_step() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(1), async |pool| {
        let counts = || {
            let now = pool.statistics();
            (now.idle, now.running, now.waiting)
        };
        assert_eq!(counts(), (0, 0, 0));
        let (one, two) = (pool.run(hold(gate.path())), pool.run(hold(gate.path())));
        let watched = async {
            let first = gate.next().await;
            assert_eq!(counts(), (0, 1, 1));
            first.pass().await;
            let second = gate.next().await;
            assert_eq!(counts(), (0, 1, 0));
            second.pass().await;
        };
        let (one, two, ()) = tokio::join!(one, two, watched);
        assert_eq!(one?, two?);
        assert_eq!(counts(), (1, 0, 0));
        Ok(())
    })
    .await
}

// ---- broken workers (W2, S10.189)

#[teamster::test]
async fn a_worker_that_dies_fails_its_own_job_alone() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(2), async |pool| {
        let jobs = futures::future::join_all((0..6).map(|_| pool.run(hold(gate.path()))));
        let watched = async {
            let mut killed = gate.next().await;
            kill(killed.pid, Signal::KILL);
            killed.dies().await; // before that it may not go on
            for _ in 0..5 {
                gate.next().await.pass().await;
            }
            killed.pid
        };
        let (ended, killed) = tokio::join!(jobs, watched);
        let (well, broken): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
        assert_eq!(well.len(), 5, "{broken:?}");
        let Some(Err(Error::BrokenWorker(broken))) = broken.into_iter().next() else { panic!("one has broken") };
        assert_eq!((broken.pid(), broken.exit(), broken.hook()), (killed, ExitKind::Signal(9), None));
        assert!(broken.job().ends_with("::hold"), "{broken}");
        assert_eq!(pool.statistics().broken, 1);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn however_a_worker_dies_it_is_said() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        let told = |ended: Result<(), Error>| match ended {
            Err(Error::BrokenWorker(broken)) => (broken.exit(), broken.death().stderr_tail().to_owned()),
            other => panic!("it is broken: {other:?}"),
        };
        assert_eq!(told(pool.run(exit(42)).await), (ExitKind::Status(42), "no more\n".to_owned()));
        for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT] {
            assert_eq!(told(pool.run(signal_itself(signal)).await).0, ExitKind::Signal(signal));
        }
        let (exit, stderr) = told(pool.run(overflow(0)).await.map(drop));
        assert_eq!(exit, ExitKind::Signal(libc::SIGABRT));
        assert!(stderr.contains("overflowed its stack"), "{stderr}");
        assert_eq!(pool.run(square(2)).await?, 4);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_idle_worker_that_dies_costs_nobody_a_job() -> Result<(), Error> {
    open_worker_context(a_pool(2), async |pool| {
        for _ in 0..10 {
            let worker = pool.run(pid()).await?;
            kill(worker, Signal::KILL);
            until(pool, |now| now.idle == 0).await;
            assert_ne!(pool.run(pid()).await?, worker);
        }
        Ok(())
    })
    .await
}

/// It had been sent, and the worker has died before it read it: another one does it.
#[teamster::test]
async fn a_job_that_its_worker_never_read_goes_to_another() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        for _ in 0..10 {
            let worker = pool.run(pid()).await?;
            stop(worker);
            let mut job = Box::pin(pool.run(pid()));
            for _ in 0..10 {
                assert!(futures::poll!(&mut job).is_pending(), "its worker stands still");
                tokio::task::yield_now().await; // it is sent
            }
            kill(worker, Signal::KILL);
            assert_ne!(job.await?, worker);
            let worker = pool.run(pid()).await?;
            stop(worker);
            let mut many = pool.map((0..3).map(|_| pid()));
            for _ in 0..10 {
                assert!(futures::poll!(many.next()).is_pending(), "its worker stands still");
                tokio::task::yield_now().await;
            }
            kill(worker, Signal::KILL);
            while let Some(other) = many.try_next().await? {
                assert_ne!(other, worker);
            }
        }
        Ok(())
    })
    .await
}

/// Nobody waits for those that are killed to be noticed.
#[teamster::test]
async fn jobs_that_come_when_all_idle_workers_have_been_killed_are_done() -> Result<(), Error> {
    open_worker_context(a_pool(4), async |pool| {
        for _ in 0..5 {
            let gate = Gate::new();
            let jobs = futures::future::join_all((0..4).map(|_| pool.run(hold(gate.path()))));
            let all = async {
                let held = [gate.next().await, gate.next().await, gate.next().await, gate.next().await];
                for one in held {
                    one.pass().await;
                }
            };
            let (workers, ()) = tokio::join!(jobs, all);
            for worker in workers {
                kill(worker?, Signal::KILL);
            }
            let squares = futures::future::try_join_all((0..4).map(|n| pool.run(square(n)))).await?;
            assert_eq!(squares, [0, 1, 4, 9]);
        }
        Ok(())
    })
    .await
}

// ---- cancelling (W3, S10.186, 187)

#[teamster::test(exclusive)]
async fn a_running_job_that_nobody_waits_for_is_killed_at_once() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(1), async |pool| {
        let endless = async {
            tokio::select! {
                ended = pool.run(spin(gate.path())) => panic!("it is endless: {ended:?}"),
                held = gate.next() => held,
            }
        };
        let (mut held, began) = (endless.await, Moment::now());
        held.dies().await;
        gone([held.pid]).await;
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_ne!(pool.run(pid()).await?, held.pid, "the next job runs");
        until(pool, |now| now.killed == 1).await;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_job_that_waits_is_removed() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(1), async |pool| {
        let first = pool.run(hold(gate.path()));
        let rest = async {
            let held = gate.next().await;
            let mut removed = Box::pin(pool.run(hold(gate.path())));
            assert!(futures::poll!(&mut removed).is_pending());
            assert_eq!(pool.statistics().waiting, 1);
            drop(removed);
            assert_eq!(pool.statistics().waiting, 0);
            held.pass().await;
        };
        let (first, ()) = tokio::join!(first, rest);
        assert_eq!(pool.run(pid()).await?, first?, "the worker is the same");
        assert!(gate.is_empty().await, "it never ran");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_job_that_is_dropped_before_a_worker_is_there_never_runs() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(1), async |pool| {
        let mut dropped = Box::pin(pool.run(hold(gate.path())));
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        pool.run(square(1)).await?;
        assert!(gate.is_empty().await);
        assert_eq!(pool.statistics().started, 1, "the one that was started for it is used");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn one_that_may_not_be_killed_is_waited_for() -> Result<(), Error> {
    let gate = Gate::new();
    let mut watched = None;
    open_worker_context(a_pool(1).grace_period(LATE), async |pool| {
        let held = tokio::select! {
            ended = pool.run(hold(gate.path())).cancellable(false) => panic!("it is held: {ended:?}"),
            held = gate.next() => held,
        };
        assert_eq!(pool.statistics().running, 1, "it goes on");
        let worker = held.pid;
        held.pass().await;
        until(pool, |now| now.idle == 1).await;
        assert_eq!(pool.run(pid()).await?, worker);
        watched = Some(worker);
        Ok(())
    })
    .await?;
    gone(watched).await;
    Ok(())
}

#[teamster::test]
async fn the_deadline_of_the_caller_holds() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(1), async |pool| {
        pool.run(square(1)).await?; // it is up
        let late = teamster::deadline(Duration::from_secs(1), pool.run(spin(gate.path())));
        let watched = async {
            let mut held = gate.next().await; // it has begun, well before its time is over
            held.dies().await;
        };
        let (late, ()) = tokio::join!(late, watched);
        assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_job_may_be_dropped_at_every_await() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        drop_at_every_await(
            || pool.run(square(3)),
            async |_polls| {
                assert_eq!(pool.run(square(2)).await.expect("it works on"), 4);
            },
        )
        .await?;
        Ok(())
    })
    .await
}

// ---- many (W4)

#[teamster::test]
async fn results_come_in_order_or_as_they_are_done() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(2), async |pool| {
        let squares: Vec<u64> = pool.map((0..1000).map(square)).try_collect().await?;
        assert!(squares.iter().zip(0..).all(|(square, n)| *square == n * n));
        let mut unordered: Vec<u64> = pool.map_unordered((0..1000).map(square)).try_collect().await?;
        unordered.sort_unstable();
        assert_eq!(unordered, squares);
        // The first one takes long: the others come before it, or behind it.
        let late = || [0, 1, 2, 3].map(|n| late(n, gate.path()));
        let order = |mut numbers: futures::stream::BoxStream<'static, Result<u64, Error>>| {
            let gate = &gate;
            async move {
                let mut seen = Vec::new();
                let held = gate.next();
                let first_three = async {
                    while seen.len() < 3 {
                        seen.push(numbers.next().await.expect("there are four").expect("it works"));
                    }
                    (seen, numbers)
                };
                let (held, (mut seen, numbers)) = tokio::join!(held, first_three);
                held.pass().await;
                seen.extend(numbers.try_collect::<Vec<u64>>().await.expect("it works"));
                seen
            }
        };
        assert_eq!(order(pool.map_unordered(late()).boxed()).await, [1, 2, 3, 0]);
        let mut ordered = pool.map(late());
        let (first, ()) = tokio::join!(ordered.next(), async { gate.next().await.pass().await });
        assert_eq!(first.transpose()?, Some(0));
        assert_eq!(ordered.try_collect::<Vec<u64>>().await?, [1, 2, 3]);
        Ok(())
    })
    .await
}

#[work]
fn late(n: u64, gate: PathBuf) -> u64 {
    if n == 0 {
        stand_before(&gate);
    }
    n
}

#[teamster::test]
async fn an_endless_row_of_jobs_is_pulled_no_faster_than_it_is_done() -> Result<(), Error> {
    open_worker_context(a_pool(2), async |pool| {
        let pulled = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&pulled);
        let endless = (0..).map(move |n| {
            counter.fetch_add(1, Ordering::Relaxed);
            square(n)
        });
        let mut squares = pool.map(endless);
        assert_eq!(pulled.load(Ordering::Relaxed), 0, "nobody has asked yet");
        for n in 0..10 {
            assert_eq!(squares.next().await.transpose()?, Some(n * n));
        }
        drop(squares);
        let pulled = pulled.load(Ordering::Relaxed);
        assert!(pulled < 5000, "{pulled} were pulled for 10 results");
        assert_eq!(pool.run(square(2)).await?, 4, "the pool goes on");
        Ok(())
    })
    .await
}

/// What an iterator does behind its end is its own affair.
#[teamster::test]
async fn a_row_of_jobs_is_not_asked_again_when_it_has_ended() -> Result<(), Error> {
    open_worker_context(a_pool(2), async |pool| {
        for len in 0..40 {
            let mut calls = (0..len).map(square);
            let mut has_ended = false;
            let calls = std::iter::from_fn(move || {
                assert!(!has_ended, "it has said that there are no more");
                let next = calls.next();
                has_ended = next.is_none();
                next
            });
            let mut squares = pool.map(calls);
            let ended: Vec<u64> = (&mut squares).try_collect().await?;
            assert!(ended.iter().copied().eq((0..len).map(|n| n * n)), "{ended:?}");
            assert!(squares.next().await.is_none() && squares.next().await.is_none());
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_job_of_many_that_fails_is_an_error_in_its_place() -> Result<(), Error> {
    #[work]
    fn odd(n: u64) -> Result<u64, String> {
        if n.is_multiple_of(2) { Err(format!("{n} is even")) } else { Ok(n) }
    }
    #[work]
    fn crash_at(n: u64, at: u64) -> u64 {
        if n == at {
            std::process::abort();
        }
        n
    }
    open_worker_context(a_pool(2), async |pool| {
        let ended: Vec<_> = pool.map((0..6).map(odd)).collect().await;
        for (ended, n) in ended.iter().zip(0..) {
            match ended {
                Ok(odd) => assert_eq!((*odd, n % 2), (n, 1)),
                Err(error) => assert!(error.to_string().contains(&format!("{n} is even")), "{error}"),
            }
        }
        let ended: Vec<_> = pool.map((0..300).map(|n| crash_at(n, 137))).collect().await;
        let broken: Vec<usize> = (0..300).filter(|n| ended[*n].is_err()).collect();
        assert_eq!(broken, [137], "its own job, and no other");
        assert!(matches!(&ended[137], Err(Error::BrokenWorker(_))), "{:?}", ended[137]);
        assert!(ended.iter().zip(0..).all(|(ended, n)| ended.as_ref().is_err() || *ended.as_ref().unwrap() == n));
        Ok(())
    })
    .await
}

/// Jobs this small go several at once.
#[teamster::test]
async fn of_many_small_jobs_each_is_done_once_whatever_becomes_of_the_others() -> Result<(), Error> {
    #[work]
    fn note(n: u64, book: PathBuf) -> Result<u64, String> {
        let mut book = std::fs::OpenOptions::new().append(true).open(book).map_err(|error| error.to_string())?;
        io::Write::write_all(&mut book, format!("{n}\n").as_bytes()).map_err(|error| error.to_string())?;
        match n {
            900 | 1700 => std::process::abort(),
            1200 => panic!("at {n}"),
            _ if n % 100 == 7 => Err(format!("{n} is refused")),
            _ => Ok(n),
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let book = folder.path().join("book");
    std::fs::write(&book, "").expect("a file");
    let jobs = || (0..2000).map(|n| note(n, book.clone()));
    open_worker_context(a_pool(2), async |pool| {
        let ended: Vec<_> = pool.map(jobs()).collect().await;
        assert_eq!(ended.len(), 2000);
        for (ended, n) in ended.iter().zip(0..) {
            match (n, ended) {
                (900 | 1700, Err(Error::BrokenWorker(broken))) => assert!(broken.job().ends_with("::note")),
                (1200, Err(Error::Remote(remote))) => {
                    assert!(remote.is_panic() && remote.location().is_some_and(|at| at.contains("workers.rs")));
                }
                (n, Err(Error::Remote(remote))) if n % 100 == 7 => {
                    assert_eq!(remote.message(), format!("{n} is refused"));
                }
                (n, Ok(same)) => assert_eq!(*same, n),
                other => panic!("{other:?}"),
            }
        }
        let now = pool.statistics();
        assert_eq!((now.broken, now.running), (2, 0), "{now:?}");
        Ok(())
    })
    .await?;
    let mut seen: Vec<u64> =
        std::fs::read_to_string(&book).expect("a file").lines().map(|line| line.parse().expect("a number")).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..2000), "{} jobs ran", seen.len());
    Ok(())
}

#[teamster::test]
async fn small_jobs_with_large_results_come_whole() -> Result<(), Error> {
    #[work]
    fn text(n: u64) -> String {
        let len = if n % 50 == 49 { 1 << 20 } else { 10 };
        n.to_string().repeat(len)
    }
    open_worker_context(a_pool(2), async |pool| {
        let mut texts = pool.map((0..200).map(text));
        let mut n = 0_u64;
        while let Some(text) = texts.try_next().await? {
            let word = n.to_string();
            let len = if n % 50 == 49 { 1 << 20 } else { 10 };
            assert!(text.len() == word.len() * len && text.starts_with(&word) && text.ends_with(&word), "{n}");
            n += 1;
        }
        assert_eq!(n, 200);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn one_job_of_many_that_can_not_be_encoded_is_an_error_in_its_place() -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Picky(u64);
    impl serde::Serialize for Picky {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 == 77 {
                return Err(serde::ser::Error::custom("not this one"));
            }
            serializer.serialize_newtype_struct("Picky", &self.0)
        }
    }
    #[work]
    fn take(picky: Picky) -> u64 {
        picky.0
    }
    open_worker_context(a_pool(2), async |pool| {
        let ended: Vec<_> = pool.map((0..200).map(|n| take(Picky(n)))).collect().await;
        assert!(matches!(&ended[77], Err(Error::Codec(codec)) if codec.message() == "not this one"), "{:?}", ended[77]);
        assert!(ended.iter().zip(0..).all(|(ended, n)| n == 77 || ended.as_ref().is_ok_and(|same| *same == n)));
        assert_eq!(ended.len(), 200);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn progress_is_told() -> Result<(), Error> {
    open_worker_context(a_pool(2), async |pool| {
        let seen = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&seen);
        let squares = pool.map((0..50).map(square)).with_progress(move |done| {
            assert!(told.swap(done, Ordering::Relaxed) < done, "it grows");
        });
        assert_eq!(squares.count().await, 50);
        assert_eq!(seen.load(Ordering::Relaxed), 50);
        Ok(())
    })
    .await
}

// ---- hooks (W5, S10.192)

static READY: AtomicUsize = AtomicUsize::new(0);

#[work]
fn get_ready(step: usize) {
    READY.fetch_add(step, Ordering::Relaxed);
}

#[work]
fn ready() -> (u32, usize) {
    (std::process::id(), READY.load(Ordering::Relaxed))
}

#[work]
fn after(life: WorkerLife, jobs: u64) -> bool {
    assert!(life.resident_bytes > 100_000 && life.age < LATE, "{life:?}");
    life.jobs >= jobs
}

#[teamster::test]
async fn a_worker_is_made_ready_once_and_retires_when_it_is_said_to() -> Result<(), Error> {
    let config = a_pool(1).init(get_ready(3)).retire(|life| after(life, 2));
    open_worker_context(config, async |pool| {
        let mut jobs: BTreeMap<u32, usize> = BTreeMap::new();
        for _ in 0..6 {
            let (pid, ready) = pool.run(ready()).await?;
            assert_eq!(ready, 3, "once for each");
            *jobs.entry(pid).or_default() += 1;
        }
        assert_eq!(jobs.into_values().collect::<Vec<_>>(), [2, 2, 2]);
        until(pool, |now| now.retired == 3).await;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_init_that_fails_is_named() -> Result<(), Error> {
    #[work]
    fn no_model() -> Result<(), String> {
        Err("there is no model".to_owned())
    }
    open_worker_context(a_pool(2).init(no_model()), async |pool| {
        let jobs = futures::future::join_all((0..5).map(square).map(|job| pool.run(job))).await;
        for job in jobs {
            let Err(Error::WorkerHook { hook: WorkerHook::Init, error, .. }) = &job else { panic!("{job:?}") };
            assert!(error.to_string().contains("there is no model"), "{error:?}");
        }
        assert_eq!(pool.statistics().started, 0);
        Ok(())
    })
    .await?;
    open_worker_context(a_pool(1).init(exit(3)), async |pool| {
        let job = pool.run(square(1)).await;
        let Err(Error::BrokenWorker(broken)) = &job else { panic!("{job:?}") };
        assert_eq!((broken.hook(), broken.exit()), (Some(WorkerHook::Init), ExitKind::Status(3)));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_retirement_that_fails_is_the_pools_failure_and_not_the_jobs() -> Result<(), Error> {
    #[work]
    fn undecided(life: WorkerLife) -> Result<bool, String> {
        Err(format!("after {} jobs", life.jobs))
    }
    let failed: Result<(), Error> = open_worker_context(a_pool(1).retire(undecided), async |pool| {
        assert_eq!(pool.run(square(3)).await?, 9);
        pending().await
    })
    .await;
    let Err(Error::WorkerHook { hook: WorkerHook::Retire, error, .. }) = &failed else { panic!("{failed:?}") };
    assert!(error.to_string().contains("after 1 jobs"), "{error:?}");
    Ok(())
}

/// Not in the worker, but here, where it is asked which call that is.
#[teamster::test]
async fn a_retirement_that_panics_fails_the_pool_too() -> Result<(), Error> {
    let config = a_pool(1).retire(|life| match life.jobs {
        1 => after(life, 2),
        jobs => panic!("never more than {jobs} jobs"),
    });
    let opened = open_worker_context(config, async |pool| {
        assert_eq!(pool.run(square(2)).await?, 4);
        assert_eq!(pool.run(square(3)).await?, 9);
        pending::<Result<(), _>>().await
    });
    let failed = tokio::time::timeout(LATE, opened).await.expect("it ends");
    let Err(Error::WorkerHook { hook: WorkerHook::Retire, error, .. }) = &failed else { panic!("{failed:?}") };
    assert!(matches!(&**error, Error::Remote(remote) if remote.is_panic()), "{error:?}");
    assert!(error.to_string().contains("never more than 2 jobs"), "{error:?}");
    Ok(())
}

/// Before a worker is started, and not in each of them.
#[teamster::test]
async fn settings_out_of_range_are_refused_when_the_pool_is_opened() {
    let files = teamster::Resource::OpenFiles;
    for (config, wanted) in [
        (a_pool(0), "1 to 4096 workers, not 0"),
        (a_pool(usize::MAX), "1 to 4096 workers"),
        (a_pool(1).nice(20), "a nice value is -20 to 19, not 20"),
        (a_pool(1).nice(i32::MIN), "a nice value is -20 to 19"),
        (a_pool(1).rlimit(files, 100, 50), "is at most the hard one"),
        (a_pool(1).env("A=B", "x"), "\"A=B\" can't be the name of an environment variable"),
        (a_pool(1).env("", "x"), "\"\" can't be the name"),
        (a_pool(1).env("A", "x\0y"), "the environment variable \"A\""),
    ] {
        let opened = open_worker_context(config, async |_pool| -> Result<(), _> { panic!("it is not opened") }).await;
        assert!(matches!(&opened, Err(Error::Spawn { .. })), "{opened:?}");
        assert!(opened.as_ref().is_err_and(|error| error.to_string().contains(wanted)), "{opened:?}");
    }
    let config = a_pool(1).nice(19).rlimit(files, 100, 100).env("A", "x=y").idle_timeout(Duration::MAX);
    let squared = open_worker_context(config, async |pool| Ok(pool.run(square(2)).await?)).await;
    assert_eq!(squared.expect("they are in range"), 4);
}

#[teamster::test]
async fn workers_that_can_not_be_started_fail_the_jobs_that_wait_after_a_few_tries() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let book = folder.path().join("starts");
    let tries = || std::fs::read_to_string(&book).unwrap_or_default().lines().count();
    let script = format!("echo try >> {}; exit 1", book.display());
    let broken = || a_pool(4).launcher(teamster::launch::Command::new(["sh", "-c", &script, "{exe}"]));
    open_worker_context(broken(), async |pool| {
        let jobs = futures::future::join_all((0..100).map(square).map(|job| pool.run(job))).await;
        assert!(jobs.iter().all(|job| matches!(job, Err(Error::Spawn { .. }))), "{:?}", jobs[0]);
        let first = tries();
        assert!(first <= 4 + 2, "as many as there may be at once, and for two that fail another one each: {first}");
        let ended: Vec<_> = pool.map((0..).map(square)).collect().await;
        assert!(ended.len() < 100 && ended.iter().all(Result::is_err), "an endless row ends with it");
        assert!(tries() <= 2 * first, "{} tries", tries());
        Ok(())
    })
    .await
}

/// Jobs that wait for one that works are not lost by another that does not come up.
#[teamster::test]
async fn while_one_works_another_that_can_not_be_started_fails_nobody() -> Result<(), Error> {
    #[work]
    fn only_the_first(place: PathBuf) -> Result<(), String> {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(place)
            .map(drop)
            .map_err(|_| "one is there".into())
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = a_pool(2).init(only_the_first(folder.path().join("first")));
    open_worker_context(config, async |pool| {
        pool.run(square(1)).await?;
        let squares: Vec<u64> = pool.map((0..5000).map(square)).try_collect().await?;
        assert!(squares.iter().zip(0..).all(|(square, n)| *square == n * n));
        assert_eq!(pool.statistics().started, 1);
        Ok(())
    })
    .await
}

// ---- who does not look

/// A worker's turn ends when it has answered, whether or not somebody looks.
#[teamster::test]
async fn jobs_that_nobody_polls_hold_no_worker() -> Result<(), Error> {
    let mut kept = (None, None);
    open_worker_context(a_pool(2), async |pool| {
        let mut squares = pool.map((0..100).map(square));
        let mut n = 0;
        while let Some(square) = squares.try_next().await? {
            assert_eq!(square, n * n);
            assert_eq!(pool.run(later(n)).await?, n + 1, "beside it");
            n += 1;
        }
        let mut others = pool.map((0..100).map(square));
        assert_eq!(others.try_next().await?, Some(0));
        let mut once = Box::pin(pool.run(square(3)));
        assert!(futures::poll!(&mut once).is_pending());
        kept = (Some(others), Some(once)); // beyond the block
        Ok(())
    })
    .await?;
    drop(kept);
    Ok(())
}

#[teamster::test]
async fn hooks_that_hang_hold_up_no_end() -> Result<(), Error> {
    #[work]
    fn hang() {
        loop {
            std::thread::park();
        }
    }
    #[work]
    fn hang_on(life: WorkerLife) -> bool {
        loop {
            std::thread::park_timeout(life.age);
        }
    }
    let began = Instant::now();
    let hanging = || a_pool(1).grace_period(Duration::from_millis(100));
    open_worker_context(hanging().init(hang()), async |pool| {
        let late = tokio::time::timeout(Duration::from_millis(300), pool.run(square(1))).await;
        assert!(late.is_err(), "it is not ready");
        Ok(())
    })
    .await?;
    open_worker_context(hanging().retire(hang_on), async |pool| {
        assert_eq!(pool.run(square(2)).await?, 4);
        Ok(())
    })
    .await?;
    assert!(began.elapsed() < LATE);
    Ok(())
}

#[teamster::test]
async fn a_handle_that_is_kept_holds_up_no_end() -> Result<(), Error> {
    let mut kept = None;
    let began = Instant::now();
    let failed: Result<(), Error> = open_worker_context(a_pool(1), async |pool| {
        pool.run(square(1)).await?;
        kept = Some(pool.clone());
        Err("the body fails".into())
    })
    .await;
    assert_eq!(failed.expect_err("it fails").to_string(), "the body fails");
    let refused = kept.expect("it was put there").run(square(1)).await;
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    assert!(began.elapsed() < LATE);
    Ok(())
}

/// Those of a map as those of single jobs.
#[teamster::test]
async fn workers_of_a_map_start_side_by_side() -> Result<(), Error> {
    let gate = Gate::new();
    #[work]
    fn stand(gate: PathBuf) {
        stand_before(&gate);
    }
    open_worker_context(a_pool(3).init(stand(gate.path())), async |pool| {
        let squares = pool.map((0..3).map(square)).try_collect::<Vec<u64>>();
        let watched = async {
            let held = [gate.next().await, gate.next().await, gate.next().await];
            for one in held {
                one.pass().await;
            }
        };
        assert_eq!(tokio::join!(squares, watched).0?, [0, 1, 4]);
        Ok(())
    })
    .await
}

// ---- the end of a pool (S10.193)

#[teamster::test]
async fn a_closed_pool_waits_for_its_jobs_and_takes_no_more() -> Result<(), Error> {
    let gate = Gate::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut running = tokio::task::JoinSet::new();
    let closed = open_worker_context(a_pool(1), async |pool| {
        running.spawn(pool.run(hold(gate.path())));
        drop(tell.send((pool.clone(), gate.next().await)));
        Ok(())
    });
    let passed = async {
        let (pool, held) = told.await.expect("the body tells");
        // Until the block knows that its body has ended, it takes some.
        while !matches!(pool.run(square(1)).now_or_never(), Some(Err(Error::Usage(_)))) {
            tokio::task::yield_now().await;
        }
        let worker = held.pid;
        held.pass().await;
        worker
    };
    let (closed, worker) = tokio::join!(closed, passed);
    closed?;
    let ran = running.join_next().await.expect("one").expect("it does not panic");
    assert_eq!(ran?, worker, "it was waited for");
    gone([worker]).await;
    Ok(())
}

#[teamster::test(exclusive)]
async fn a_worker_that_does_not_leave_is_killed_after_its_grace_period() -> Result<(), Error> {
    #[work]
    fn stay() -> u32 {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
        tokio::task::spawn_blocking(|| {
            loop {
                std::thread::park();
            }
        });
        std::process::id()
    }
    let grace = Duration::from_millis(100);
    let (mut worker, mut pool_then) = (0, None);
    let mut body_ended = Moment::now();
    open_worker_context(a_pool(1).grace_period(grace), async |pool| {
        worker = pool.run(stay()).await?;
        pool_then = Some(pool.clone());
        body_ended = Moment::now();
        Ok(())
    })
    .await?;
    assert!(body_ended.elapsed() < grace + AT_ONCE);
    gone([worker]).await;
    assert!(pool_then.expect("it was put there").statistics().idle == 0);
    Ok(())
}

// ---- whose workers (S10.194)

#[teamster::test]
async fn jobs_without_a_pool_use_the_nearest_one() -> Result<(), Error> {
    teamster::open_nursery(async |_an| {
        let own = run_sync(pid()).await?;
        assert_eq!(run_sync(pid()).await?, own, "kept");
        open_worker_context(a_pool(1), async |outer| {
            let first = outer.run(pid()).await?;
            assert_eq!(run_sync(pid()).await?, first);
            assert_ne!(first, own);
            teamster::tasks::open_nursery(async |tn| {
                open_worker_context(a_pool(1), async |inner| {
                    let second = run_sync(pid()).await?;
                    assert_eq!(inner.run(pid()).await?, second);
                    assert_ne!(first, second);
                    assert_eq!(outer.run(pid()).await?, first, "an explicit one");
                    // A task of the nursery outside of it.
                    assert_eq!(tn.start_soon(async { Ok(run_sync(pid()).await?) }).await?, first);
                    Ok(())
                })
                .await?;
                Ok(())
            })
            .await?;
            outer.scope(async |jobs| Ok(jobs.start(pid()).await? == run_sync(pid()).await?)).await?;
            Ok(())
        })
        .await?;
        assert_eq!(run_sync(pid()).await?, own);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_child_has_workers_of_its_own() -> Result<(), Error> {
    #[rpc]
    async fn pid_of_its_worker() -> teamster::Result<(u32, u32)> {
        Ok((run_sync(pid()).await?, run_sync(pid()).await?))
    }
    let mut pids = (0, 0);
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let (one, two) = frank.run(pid_of_its_worker()).await?;
        assert_eq!(one, two);
        pids = (one, run_sync(pid()).await?);
        assert_ne!(pids.0, pids.1);
        Ok(())
    })
    .await?;
    gone([pids.0, pids.1]).await;
    Ok(())
}

/// A worker listens nowhere until somebody is told of it.
#[teamster::test]
async fn a_job_may_start_actors_and_tell_others_of_its_worker() -> Result<(), Error> {
    #[rpc]
    async fn who() -> u32 {
        std::process::id()
    }
    #[rpc]
    async fn call_back(to: teamster::Portal) -> teamster::Result<u32> {
        Ok(to.run(who()).await?)
    }
    #[rpc]
    async fn start_one() -> teamster::Result<(u32, u32)> {
        let called = teamster::open_nursery(async |an| {
            let me = teamster::this_actor()?;
            Ok(an.start_actor("leaf").await?.run(call_back(me)).await?)
        });
        Ok((std::process::id(), called.await?))
    }
    open_worker_context(a_pool(1), async |pool| {
        let (worker, called) = pool.run(start_one()).await?;
        assert_eq!(worker, called);
        assert_eq!(pool.run(pid()).await?, worker);
        let own = pool.run(start_one()).await?; // again, now that it listens
        assert_eq!(own, (worker, worker));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn without_an_actor_the_process_has_workers() {
    let first = run_sync(pid()).await.expect("it works");
    assert_eq!(run_sync(pid()).await.expect("it works"), first);
    let other_runtime = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let one = runtime.block_on(run_sync(pid())).expect("it works");
        drop(runtime);
        (one, teamster::blocking::pool().run(pid()).expect("it works"))
    });
    let others = tokio::task::spawn_blocking(|| other_runtime.join()).await.expect("it ends").expect("no panic");
    assert_eq!(others, (first, first), "the same, whatever the runtime");
    assert!(teamster::blocking::pool().run(pid()).is_err(), "this thread must not block");
}

#[teamster::test]
async fn a_scope_waits_for_its_jobs_and_fails_with_the_first() -> Result<(), Error> {
    let gate = Gate::new();
    open_worker_context(a_pool(2), async |pool| {
        let sum = pool.scope(async |jobs| {
            let squares: Vec<_> = (1..=3).map(|n| jobs.start(square(n))).collect();
            futures::future::try_join_all(squares).await.map(|all| all.iter().sum::<u64>()).map_err(Into::into)
        });
        assert_eq!(sum.await?, 14);
        let began = Instant::now();
        let failed: Result<(), Error> = pool
            .scope(async |jobs| {
                jobs.start(spin(gate.path()));
                gate.next().await;
                jobs.start(fail("no such picture".into()));
                pending().await
            })
            .await;
        let failed = failed.expect_err("a job fails");
        assert!(failed.to_string().contains("no such picture"), "{failed:?}");
        assert!(began.elapsed() < LATE);
        assert_eq!(pool.run(square(2)).await?, 4);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_actors_cancel_ends_its_jobs() -> Result<(), Error> {
    #[rpc]
    async fn work_for_ever(gate: PathBuf) -> teamster::Result<u32> {
        Ok(open_worker_context(WorkerConfig::new().limit(1), async |pool| Ok(pool.run(spin(gate)).await?)).await?)
    }
    let gate = Gate::new();
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let called = frank.run(work_for_ever(gate.path()));
        let cancelled = async {
            let mut held = gate.next().await;
            let receipt = frank.cancel_actor().await?;
            held.dies().await;
            Ok::<_, Error>((held.pid, receipt))
        };
        let (called, cancelled) = tokio::join!(called, cancelled);
        let (worker, receipt) = cancelled?;
        assert!(matches!(called, Err(Error::Cancelled { .. })), "{called:?}");
        assert!(receipt.was_graceful(), "{receipt:?}");
        gone([worker]).await;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn futures_of_pools_can_be_spawned() {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async {
        let text = String::from("x");
        let sum = open_worker_context(a_pool(1), async |pool| {
            let mut sum = pool.run(square(text.len() as u64)).await?;
            sum += pool.scope(async |jobs| Ok(jobs.start(square(2)).await?)).await?;
            sum += pool.map((0..3).map(square)).try_fold(0, async |sum, n| Ok(sum + n)).await?;
            Ok(sum)
        });
        sum.await
    });
    let sum = tasks.join_next().await.expect("one").expect("it does not panic");
    assert_eq!(sum.expect("it works"), 10);
}

#[teamster::test]
async fn a_scope_that_was_dropped_takes_no_jobs() -> Result<(), Error> {
    open_worker_context(a_pool(1), async |pool| {
        let kept = Mutex::new(None);
        let scope = pool.scope(async |jobs| {
            *kept.lock().expect("nobody panics") = Some((jobs.clone(), jobs.start(square(1))));
            pending::<Result<(), _>>().await
        });
        assert!(scope.now_or_never().is_none());
        let (jobs, cut_off) = kept.into_inner().expect("nobody panics").expect("it has begun");
        for job in [jobs.start(square(2)), cut_off] {
            let refused = tokio::time::timeout(LATE, job).await.expect("it is told at once");
            assert!(matches!(refused, Err(Error::Cancelled { .. })), "{refused:?}");
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_exit_hook_has_no_workers() -> Result<(), Error> {
    for has_worked in [false, true] {
        let (tell, told) = tokio::sync::oneshot::channel();
        teamster::open_nursery(async |_an| {
            if has_worked {
                run_sync(pid()).await?;
            }
            Ok(teamster::on_exit(async move || drop(tell.send(run_sync(pid()).await)))?)
        })
        .await?;
        let refused = told.await.expect("it has run");
        assert!(matches!(refused, Err(Error::Usage(text)) if text.contains("ended with it")), "{refused:?}");
    }
    Ok(())
}
