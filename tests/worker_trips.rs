//! Small jobs that wait go to a worker together, and each is a job of its own all the same: to whom it is told when, who may
//! go, and what runs.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use futures::{FutureExt, StreamExt};
use teamster::pool::Run;
use teamster::{Error, WorkerConfig, WorkerPool, open_worker_context, work};

#[path = "support/gate.rs"]
mod gate;
use gate::{Gate, stand_before};

/// A safety net.
const LATE: Duration = Duration::from_secs(20);

/// Notes that it has begun, and gives its number: once it may, if there is a gate.
#[work]
fn step(n: u64, book: PathBuf, gate: Option<PathBuf>) -> Result<u64, String> {
    let mut book = std::fs::OpenOptions::new().append(true).open(book).map_err(|error| error.to_string())?;
    std::io::Write::write_all(&mut book, format!("{n}\n").as_bytes()).map_err(|error| error.to_string())?;
    if let Some(gate) = gate {
        stand_before(&gate);
    }
    match n {
        900 | 1700 => std::process::abort(),
        1200 => panic!("at {n}"),
        _ if n % 100 == 7 => Err(format!("{n} is refused")),
        _ => Ok(n),
    }
}

/// Which jobs have begun.
struct Book(tempfile::TempDir);

impl Book {
    fn new() -> Book {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("book"), "").expect("a file");
        Book(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("book")
    }

    fn step(&self, pool: &WorkerPool, n: u64) -> Run<step> {
        pool.run(step(n, self.path(), None))
    }

    /// Each of which only ran once.
    fn begun(&self) -> BTreeSet<u64> {
        let all = std::fs::read_to_string(self.path()).expect("a file");
        let mut begun = BTreeSet::new();
        for line in all.lines() {
            assert!(begun.insert(line.parse().expect("a number")), "{line} ran twice");
        }
        begun
    }
}

/// Has so many of these jobs done that the pool knows how short they are.
async fn practise(pool: &WorkerPool) -> Result<(), Error> {
    let book = Book::new();
    let runs = (0..600).filter(|n| n % 100 != 7).map(|n| book.step(pool, n));
    try_join_all(runs).await?;
    Ok(())
}

fn a_pool(workers: usize) -> WorkerConfig {
    WorkerConfig::new().limit(workers)
}

/// A worker that answers each by itself waits for the next one after each.
#[teamster::test]
async fn they_do_go_together() -> Result<(), Error> {
    #[work]
    fn waits_until_now() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("there is a /proc");
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        waits.expect("the kernel counts them").trim().parse().expect("a number")
    }
    let book = Book::new();
    open_worker_context(a_pool(1), async |pool| {
        practise(pool).await?;
        let mut least = u64::MAX;
        // Where the processor is somebody else's, they seem to take long, and go alone: not always.
        for round in 1..=20 {
            let before = pool.run(waits_until_now()).await?;
            let numbers = (0..2000).map(|n| 1_000_000 * round + n).filter(|n| n % 100 != 7);
            assert_eq!(try_join_all(numbers.map(|n| book.step(pool, n))).await?.len(), 1980);
            least = least.min(pool.run(waits_until_now()).await? - before);
            if least < 1980 / 4 {
                return Ok(());
            }
        }
        panic!("{least} waits for 1980 jobs")
    })
    .await
}

#[teamster::test]
async fn each_is_done_once_whatever_becomes_of_the_others() -> Result<(), Error> {
    let book = Book::new();
    open_worker_context(a_pool(2), async |pool| {
        let ended = join_all((0..2000).map(|n| book.step(pool, n))).await;
        for (ended, n) in ended.iter().zip(0..) {
            match (n, ended) {
                (900 | 1700, Err(Error::BrokenWorker(broken))) => assert!(broken.job().ends_with("::step")),
                (1200, Err(Error::Remote(remote))) => {
                    assert!(remote.is_panic() && remote.location().is_some_and(|at| at.contains("worker_trips.rs")));
                }
                (n, Err(Error::Remote(remote))) if n % 100 == 7 => {
                    assert_eq!(remote.message(), format!("{n} is refused"));
                }
                (n, Ok(same)) => assert_eq!(*same, n),
                other => panic!("{other:?}"),
            }
        }
        let now = pool.statistics();
        assert_eq!((now.broken, now.killed, now.running, now.waiting), (2, 0, 0, 0), "{now:?}");
        Ok(())
    })
    .await?;
    assert!(book.begun().into_iter().eq(0..2000));
    Ok(())
}

/// Dropping a job that runs kills its worker; those that had gone with it are done elsewhere, or were done before.
#[teamster::test]
async fn who_does_not_want_a_running_one_costs_the_others_nothing() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    open_worker_context(a_pool(1), async |pool| {
        practise(pool).await?;
        for held in [0, 1, 20, 60] {
            let mut unwanted = None;
            let mut wanted = Vec::new();
            for n in 10_000 + held * 1000..10_100 + held * 1000 {
                match n % 1000 == held {
                    true => unwanted = Some(pool.run(step(n, book.path(), Some(gate.path())))),
                    false if n % 100 != 7 => wanted.push(book.step(pool, n)),
                    false => {}
                }
            }
            let mut unwanted = unwanted.expect("it is among them").fuse();
            let mut wanted = Box::pin(try_join_all(wanted));
            let mut begun = tokio::select! {
                biased;
                begun = gate.next() => begun,
                never = &mut unwanted => panic!("it has ended: {never:?}"),
                never = &mut wanted => panic!("they have ended: {never:?}"),
            };
            drop(unwanted);
            assert_eq!(wanted.await?.len(), 98);
            begun.dies().await;
        }
        let now = pool.statistics();
        assert_eq!((now.killed, now.broken), (4, 0), "{now:?}");
        Ok(())
    })
    .await?;
    assert_eq!(book.begun().len(), 4 * 99);
    Ok(())
}

/// Also those that are on their way with it.
#[teamster::test]
async fn a_long_one_holds_up_nobody() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    open_worker_context(a_pool(2), async |pool| {
        practise(pool).await?;
        for (round, held) in [(1, 0), (2, 1), (3, 40), (4, 90)] {
            let numbers = (0..100).filter(|n| n % 100 != 7).map(|n| 10_000 * round + n);
            let runs = numbers.map(|n| match n % 100 == held {
                true => pool.run(step(n, book.path(), Some(gate.path()))).boxed(),
                false => book.step(pool, n).boxed(),
            });
            let mut ended = runs.collect::<futures::stream::FuturesUnordered<_>>();
            for _ in 0..98 {
                let next = tokio::time::timeout(LATE, ended.next()).await.expect("they do not wait for the long one");
                assert_ne!(next.expect("it is one of them")? % 100, held);
            }
            let before = gate.next();
            tokio::pin!(before);
            let held_one = tokio::select! {
                held_one = &mut before => held_one,
                never = ended.next() => panic!("it may not go on: {never:?}"),
            };
            held_one.pass().await;
            assert_eq!(ended.next().await.expect("the last one")? % 100, held);
        }
        Ok(())
    })
    .await?;
    assert_eq!(book.begun().len(), 4 * 99);
    Ok(())
}

#[teamster::test]
async fn a_long_one_of_a_map_holds_up_no_other() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    open_worker_context(a_pool(2), async |pool| {
        for (round, held) in [(1, 1400), (2, 1998), (3, 0)] {
            let numbers = (0..2000).filter(|n| n % 100 != 7).map(|n| 10_000 * round + n);
            let gate_of = |n| (n % 10_000 == held).then(|| gate.path());
            let mut steps = pool.map_unordered(numbers.map(|n| step(n, book.path(), gate_of(n))));
            for _ in 0..1979 {
                let next = tokio::time::timeout(LATE, steps.next()).await.expect("they do not wait for the long one");
                assert_ne!(next.expect("it is one of them")? % 10_000, held);
            }
            let long = async {
                gate.next().await.pass().await;
                steps.next().await
            };
            assert_eq!(long.await.expect("the last one")? % 10_000, held);
            assert!(steps.next().await.is_none());
        }
        Ok(())
    })
    .await?;
    assert_eq!(book.begun().len(), 3 * 1980);
    Ok(())
}

/// One worker is in the middle of a long one: what was done before it is told, and who goes that comes after it never runs.
#[teamster::test]
async fn what_has_not_begun_can_be_taken_back() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    open_worker_context(a_pool(1), async |pool| {
        practise(pool).await?;
        let held = pool.run(step(10_000, book.path(), Some(gate.path())));
        let mut first = try_join_all((10_010..10_030).map(|n| book.step(pool, n))).boxed();
        let mut all = Box::pin(async {
            let mut held = held.fuse();
            let mut unwanted = join_all((10_030..10_090).map(|n| book.step(pool, n))).boxed();
            let before = tokio::select! {
                biased;
                never = &mut held => panic!("it may not go on: {never:?}"),
                never = &mut first => panic!("there is one worker: {never:?}"),
                never = &mut unwanted => panic!("there is one worker: {never:?}"),
                before = gate.next() => before,
            };
            drop(unwanted);
            before.pass().await;
            tokio::try_join!(held, first)
        });
        let (held, first) = tokio::time::timeout(LATE, all.as_mut()).await.expect("they end")?;
        assert_eq!((held, first.len()), (10_000, 20));
        assert_eq!(pool.statistics().killed, 0);
        Ok(())
    })
    .await?;
    assert!(book.begun().into_iter().eq([10_000].into_iter().chain(10_010..10_030)));
    Ok(())
}

/// Callers go at any moment: before their job begins, in the middle of it, when it is done and not told yet.
#[teamster::test]
async fn whoever_goes_the_others_are_done_once() -> Result<(), Error> {
    let book = Book::new();
    let mut random = 7_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    open_worker_context(a_pool(2), async |pool| {
        practise(pool).await?;
        for round in 0..40 {
            let numbers = (0..200).map(|n| 1_000_000 + round * 1000 + n).filter(|n| n % 100 != 7);
            let mut runs: Vec<_> = numbers.map(|n| (n, Some(book.step(pool, n)))).collect();
            let mut goers: Vec<usize> = (0..20).map(|_| next(runs.len() as u64) as usize).collect();
            let mut wanted: BTreeSet<u64> = runs.iter().map(|(n, _)| *n).collect();
            futures::future::poll_fn(|cx| {
                for (n, run) in &mut runs {
                    if let Some(std::task::Poll::Ready(ended)) = run.as_mut().map(|run| run.poll_unpin(cx)) {
                        assert_eq!(ended.as_ref().ok(), Some(&*n), "{ended:?}");
                        assert!(wanted.remove(n));
                        *run = None;
                    }
                }
                // One of them goes at each turn, as long as there are some who would.
                if next(3) == 0
                    && let Some(goer) = goers.pop()
                    && runs[goer].1.take().is_some()
                {
                    wanted.remove(&runs[goer].0);
                }
                match wanted.is_empty() {
                    true => std::task::Poll::Ready(()),
                    false => {
                        cx.waker().wake_by_ref();
                        std::task::Poll::Pending
                    }
                }
            })
            .await;
        }
        let now = pool.statistics();
        assert_eq!((now.broken, now.waiting), (0, 0), "{now:?}");
        Ok(())
    })
    .await?;
    let begun = book.begun();
    assert!(begun.len() > 40 * (198 - 20), "{}", begun.len());
    Ok(())
}

#[teamster::test]
async fn one_with_a_large_result_or_argument_goes_among_them() -> Result<(), Error> {
    #[work]
    fn text(n: usize, before: String) -> String {
        let len = if n % 50 == 49 { 1 << 20 } else { 10 };
        before + &n.to_string().repeat(len)
    }
    open_worker_context(a_pool(2), async |pool| {
        for _ in 0..4 {
            let before = |n: usize| "x".repeat(if n % 70 == 69 { 1 << 20 } else { n % 3 });
            let texts = try_join_all((0..200).map(|n| pool.run(text(n, before(n))))).await?;
            for (n, text) in texts.iter().enumerate() {
                let word = n.to_string();
                let len = if n % 50 == 49 { 1 << 20 } else { 10 };
                let rest = text.strip_prefix(&before(n)).unwrap_or_else(|| panic!("{n} begins otherwise"));
                assert!(rest.len() == word.len() * len && rest.starts_with(&word) && rest.ends_with(&word), "{n}");
            }
        }
        Ok(())
    })
    .await
}

/// Whoever asks for a job and does not look any more holds up nobody, and not the end.
#[teamster::test]
async fn no_worker_waits_for_a_caller() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    let mut kept = Vec::new();
    open_worker_context(a_pool(1), async |pool| {
        let mut first = pool.run(step(1, book.path(), Some(gate.path())));
        let begun = tokio::select! {
            begun = gate.next() => begun,
            never = &mut first => panic!("it may not go on: {never:?}"),
        };
        kept = vec![first];
        let large = || pool.run(step(3, book.path().join(".".repeat(300_000)), None));
        for mut run in [book.step(pool, 2), large(), book.step(pool, 4).cancellable(false)] {
            assert!(futures::poll!(&mut run).is_pending());
            kept.push(run);
        }
        begun.pass().await;
        assert_eq!(book.step(pool, 5).await?, 5);
        Ok(())
    })
    .await?;
    assert!(book.begun().into_iter().eq([1, 2, 4, 5]));
    for (run, n) in kept.into_iter().zip(1..) {
        match n {
            3 => assert!(matches!(run.await, Err(Error::Remote(_))), "a path that is too long"),
            n => assert_eq!(run.await?, n),
        }
    }
    Ok(())
}

/// Also one that would share memory with it first.
#[teamster::test]
async fn no_idle_worker_waits_for_a_caller_either() -> Result<(), Error> {
    #[work]
    fn sum(bytes: teamster::Blob) -> u64 {
        bytes.iter().copied().map(u64::from).sum()
    }
    let mut kept = Vec::new();
    open_worker_context(a_pool(1), async |pool| {
        assert_eq!(pool.run(sum(vec![1; 10].into())).await?, 10);
        for is_cancellable in [true, false] {
            let mut run = pool.run(sum(vec![1; 1 << 20].into())).cancellable(is_cancellable);
            assert!(futures::poll!(&mut run).is_pending());
            kept.push(run);
            assert_eq!(pool.run(sum(vec![1; 11].into())).await?, 11);
        }
        Ok(())
    })
    .await?;
    for run in kept {
        assert_eq!(run.await?, 1 << 20);
    }
    Ok(())
}

/// The block waits for jobs whose trip was ended under way.
#[teamster::test]
async fn an_end_waits_for_those_of_a_killed_trip() -> Result<(), Error> {
    let (book, gate) = (Book::new(), Gate::new());
    let mut kept = Vec::new();
    for round in 1..=5 {
        open_worker_context(a_pool(1), async |pool| {
            practise(pool).await?;
            let number = |n: u64| 10_000 * round + n;
            let [mut first, mut held] = [1, 2].map(|n| pool.run(step(number(n), book.path(), Some(gate.path()))));
            assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut held).is_pending());
            for n in 10..50 {
                let mut run = book.step(pool, number(n));
                assert!(futures::poll!(&mut run).is_pending());
                kept.push(run);
            }
            gate.next().await.pass().await;
            let mut second = gate.next().await;
            drop((first, held));
            second.dies().await;
            Ok(())
        })
        .await?;
        for run in kept.drain(..) {
            run.await?;
        }
    }
    Ok(())
}

/// Who fails has had its turn.
#[teamster::test]
async fn jobs_that_fail_count_for_their_worker() -> Result<(), Error> {
    #[work]
    fn refuse(n: u64) -> Result<u64, String> {
        Err(format!("{n} {}", std::process::id()))
    }
    #[work]
    fn has_done(life: teamster::pool::WorkerLife, jobs: u64) -> bool {
        life.jobs >= jobs
    }
    let config = a_pool(1).retire(|life| has_done(life, 4));
    open_worker_context(config, async |pool| {
        let refused = join_all((0..12).map(|n| pool.run(refuse(n)))).await;
        let mut pids = BTreeSet::new();
        for (refused, n) in refused.into_iter().zip(0..) {
            let Err(Error::Remote(remote)) = refused else { panic!("it is refused: {refused:?}") };
            let (number, pid) = remote.message().split_once(' ').expect("two words");
            assert_eq!(number, n.to_string());
            pids.insert(pid.to_owned());
        }
        assert_eq!(pids.len(), 3, "{pids:?}");
        Ok(())
    })
    .await
}

/// A caller on another thread finds the worker where it was.
#[teamster::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_has_the_same_worker() -> Result<(), Error> {
    #[work]
    fn own_pid() -> u32 {
        std::process::id()
    }
    open_worker_context(a_pool(2), async |pool| {
        let first = pool.run(own_pid()).await?;
        for _ in 0..500 {
            assert_eq!(pool.run(own_pid()).await?, first);
            assert_eq!(pool.statistics().running, 0);
        }
        assert_eq!(pool.statistics().started, 1);
        Ok(())
    })
    .await
}

/// Killed from outside, while jobs come and go: each fails with its own worker, or is done, and no other is lost.
#[teamster::test]
async fn workers_that_are_killed_from_outside_lose_no_more_than_what_they_were_in() -> Result<(), Error> {
    #[work]
    fn own_pid() -> u32 {
        std::process::id()
    }
    let book = Book::new();
    open_worker_context(a_pool(2), async |pool| {
        practise(pool).await?;
        let mut lost = 0;
        for round in 0..10 {
            let pid = pool.run(own_pid()).await?;
            let numbers = (0..300).map(|n| 1_000_000 + round * 1000 + n).filter(|n| n % 100 != 7);
            let kill = async {
                tokio::task::yield_now().await;
                let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
            };
            let (ended, ()) = tokio::join!(join_all(numbers.map(|n| book.step(pool, n))), kill);
            for ended in ended {
                match ended {
                    Ok(_) => {}
                    Err(Error::BrokenWorker(broken)) => {
                        assert_eq!(broken.pid(), pid);
                        lost += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        assert!(lost <= 10, "{lost} jobs failed by 10 kills");
        // The last one may have had no job, and not be reaped yet.
        let ended = loop {
            let now = pool.statistics();
            if now.broken + now.retired + now.killed == 10 {
                break now;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(ended.broken, 10, "{ended:?}");
        Ok(())
    })
    .await?;
    let _each_once = book.begun();
    Ok(())
}
