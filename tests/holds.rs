//! Code that a debugger holds, and whoever waits for it: no time runs out, nobody is killed, nothing is missed.
use std::future::pending;
use std::io::Read;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::{is_alive, start_ticks, wait_gone};
use teamster::{Aid, BoxError, Context, Error, ExitKind, Portal, Rung, context, deadline, rpc};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

#[path = "support/program.rs"]
mod program;
use program::{GRACE, KERNEL, Program};

/// A time that would be over many times while somebody is [`HELD_FOR`] longer.
const SHORT: Duration = Duration::from_millis(250);

/// How long it is looked that nothing happens.
const HELD_FOR: Duration = Duration::from_millis(600);

/// What a busy machine may need for what takes no time.
const IN_TIME: Duration = Duration::from_secs(20);

// ---- what the actors do

/// Comes to a stop here: held, and released when the other side of the socket closes it.
fn stop(at: &Path) {
    let _held = teamster::__private::hold_this_actor().expect("there is an actor");
    let mut prompt = BlockingStream::connect(at).expect("the test listens");
    let ended = prompt.read(&mut [0]);
    assert!(matches!(ended, Ok(0)), "{ended:?}");
}

#[rpc]
async fn stop_here(at: PathBuf) -> u32 {
    stop(&at);
    7
}

#[rpc]
async fn stop_and_go_on_for_ever(at: PathBuf) {
    stop(&at);
    pending().await
}

#[rpc]
async fn stop_and_be_stubborn(at: PathBuf) {
    stop(&at);
    teamster::shield(pending()).await
}

/// The actor itself has nothing to do meanwhile.
#[rpc]
async fn stop_in_a_thread(at: PathBuf) {
    std::thread::spawn(move || stop(&at));
}

#[rpc]
async fn stop_in_a_blocking_closure(at: PathBuf) {
    drop(tokio::task::spawn_blocking(move || stop(&at)));
}

#[context]
async fn stop_when_started(ctx: Context, at: PathBuf) -> Result<(), Error> {
    ctx.started(()).await?;
    let stopped = tokio::task::spawn_blocking(move || stop(&at));
    teamster::shield(stopped).await.expect("no panic");
    pending().await
}

/// Counts what it gets, when it is released.
#[context]
async fn stop_and_read(ctx: Context<(), u8, ()>, at: PathBuf) -> Result<usize, Error> {
    ctx.started(()).await?;
    tokio::task::spawn_blocking(move || stop(&at)).await.expect("no panic");
    let mut stream = ctx.open_stream().await?;
    let mut count = 0;
    while stream.recv().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// With one child, which is told where to stop.
#[rpc]
async fn be_parent(at: PathBuf) -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let leaf = an.actor("leaf").grace(SHORT).start().await?;
        Ok(leaf.run(stop_and_go_on_for_ever(at)).await?)
    })
    .await
}

// ---- the prompt's side

/// Where code that is held says so.
struct Prompt {
    listener: UnixListener,
    folder: TempDir,
}

/// Somebody is held as long as this lives.
struct Held(UnixStream);

impl Prompt {
    fn new() -> Prompt {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("p")).expect("it is bound");
        Prompt { listener, folder }
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("p")
    }

    async fn held(&self) -> Held {
        Held(self.listener.accept().await.expect("a connection").0)
    }
}

impl Held {
    /// The process that is held.
    fn pid(&self) -> u32 {
        let pid = self.0.peer_cred().expect("a peer").pid().expect("it has one");
        pid.cast_unsigned()
    }

    fn release(self) {}
}

/// Nothing comes of it while somebody is held.
async fn nothing<T: std::fmt::Debug>(what: &str, future: impl Future<Output = T>) {
    if let Ok(ended) = tokio::time::timeout(HELD_FOR, future).await {
        panic!("{what}: {ended:?}");
    }
}

async fn with_frank(test: impl AsyncFnOnce(&Portal) -> Result<(), BoxError>) {
    let tree = teamster::open_nursery(async |an| {
        let frank = an.actor("frank").grace(SHORT).start().await?;
        test(&frank).await
    });
    tokio::time::timeout(IN_TIME, tree).await.expect("it ends").expect("it goes well");
}

// ---- deadlines

#[teamster::test]
async fn a_call_that_is_held_has_its_time_when_it_is_released() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let mut call = pin!(deadline(SHORT, frank.run(stop_here(prompt.at()))));
        let held = tokio::select! {
            held = prompt.held() => held,
            early = &mut call => panic!("{early:?}"),
        };
        nothing("a held call", &mut call).await;
        held.release();
        assert_eq!(call.await??, 7);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_deadline_passes_after_the_release_by_what_was_left_of_it() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let began = Instant::now();
        let mut call = pin!(deadline(SHORT, frank.run(stop_and_go_on_for_ever(prompt.at()))));
        let held = tokio::select! {
            held = prompt.held() => held,
            early = &mut call => panic!("{early:?}"),
        };
        let held_at = Instant::now();
        nothing("a held call", &mut call).await;
        let stood = held_at.elapsed();
        held.release();
        let late = call.await.flatten(); // here or there, whichever is first
        assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        assert!(began.elapsed() >= stood + SHORT, "{:?}", began.elapsed());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_deadline_of_code_that_calls_nobody_stands_too() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        frank.run(stop_in_a_thread(prompt.at())).await?;
        let held = prompt.held().await;
        let mut late = pin!(deadline(SHORT, pending::<()>()));
        let mut scope = pin!(teamster::tasks::move_on_after(SHORT, pending::<()>()));
        let either = async {
            tokio::select! {
                _late = &mut late => "deadline",
                _late = &mut scope => "move_on_after",
            }
        };
        nothing("a deadline", either).await;
        held.release();
        assert!(late.await.is_err());
        assert_eq!(scope.await, None);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn the_last_of_two_holds_counts() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let mut held = Vec::new();
        for _ in 0..2 {
            frank.run(stop_in_a_thread(prompt.at())).await?;
            held.push(prompt.held().await);
        }
        let mut late = pin!(deadline(SHORT, pending::<()>()));
        held.pop().expect("two").release();
        nothing("a deadline", &mut late).await;
        held.pop().expect("one").release();
        assert!(late.await.is_err());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_held_child_that_is_killed_holds_nobody() {
    let tree = teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let prompt = Prompt::new();
        frank.run(stop_in_a_thread(prompt.at())).await?;
        let held = prompt.held().await;
        let late = deadline(SHORT, pending::<()>());
        let mut late = pin!(teamster::shield(late)); // its death ends this body
        nothing("a deadline", &mut late).await;
        kill(held.pid());
        assert!(late.await.is_err());
        Ok(())
    });
    let ended = tokio::time::timeout(IN_TIME, tree).await.expect("it ends");
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}");
}

// ---- cancels

#[teamster::test]
async fn a_cancel_of_a_held_actor_is_heard_and_acted_on_when_it_is_released() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let mut call = pin!(frank.run(stop_and_go_on_for_ever(prompt.at())));
        let held = tokio::select! {
            held = prompt.held() => held,
            early = &mut call => panic!("{early:?}"),
        };
        let mut cancel = pin!(frank.cancel_actor());
        nothing("a cancel", &mut cancel).await;
        held.release();
        let receipt = cancel.await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)), "{receipt:?}");
        assert!(receipt.heard.is_some_and(|heard| heard < SHORT), "{receipt:?}");
        assert!(receipt.reaped < SHORT, "by the clock that stood: {receipt:?}");
        assert!(matches!(call.await, Err(Error::Cancelled { .. })));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn an_actor_waits_for_whoever_is_held_in_a_thread_of_its_own() {
    check_idle(stop_in_a_thread).await;
    check_idle(stop_in_a_blocking_closure).await;
}

async fn check_idle<E>(stop: impl FnOnce(PathBuf) -> teamster::Call<E>)
where
    E: teamster::Endpoint<Output = ()>,
{
    with_frank(async |frank| {
        let prompt = Prompt::new();
        frank.run(stop(prompt.at())).await?;
        let held = prompt.held().await;
        let mut cancel = pin!(frank.cancel_actor());
        nothing("a cancel", &mut cancel).await;
        held.release();
        let receipt = cancel.await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)), "{receipt:?}");
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn what_is_left_of_a_grace_counts_on_from_the_release() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let mut call = pin!(frank.run(stop_and_be_stubborn(prompt.at())));
        let held = tokio::select! {
            held = prompt.held() => held,
            early = &mut call => panic!("{early:?}"),
        };
        let mut cancel = pin!(frank.cancel_actor());
        nothing("a cancel", &mut cancel).await;
        held.release();
        let receipt = cancel.await?;
        assert_eq!(receipt.rung, Some(Rung::Sigkill), "{receipt:?}");
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn an_opener_waits_for_a_callee_that_is_held() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let job = frank.context(stop_when_started(prompt.at())).await?;
        let held = prompt.held().await;
        let handle = job.handle();
        let mut cancel = pin!(handle.cancel());
        nothing("a cancel", &mut cancel).await; // it would be `NotStopped`
        held.release();
        cancel.await?;
        Ok(())
    })
    .await;
}

/// More items than a window takes whose stream the other side has not opened.
const MANY: usize = 20_000;

#[teamster::test]
async fn a_sender_waits_for_a_reader_that_is_held() {
    with_frank(async |frank| {
        let prompt = Prompt::new();
        let reader = stop_and_read(prompt.at()).overrun_after(SHORT);
        let sending = frank.open_context(reader, async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            for _ in 0..MANY {
                stream.send(1).await?;
            }
            stream.finish().await?;
            Ok(ctx.result().await?)
        });
        let mut sending = pin!(sending);
        let held = tokio::select! {
            held = prompt.held() => held,
            early = &mut sending => panic!("{early:?}"),
        };
        nothing("an overrun", &mut sending).await;
        held.release();
        assert_eq!(sending.await?, MANY);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn nobody_is_killed_while_a_grandchild_is_held() {
    let prompt = Prompt::new();
    let (told, held) = tokio::sync::oneshot::channel();
    let tree = teamster::open_nursery(async |an| {
        let mid = an.actor("mid").grace(SHORT).start().await?;
        let other = an.actor("other").grace(SHORT).start().await?;
        let held = tokio::select! {
            held = prompt.held() => held,
            early = mid.run(be_parent(prompt.at())) => panic!("{early:?}"),
        };
        drop(told.send((held, [mid.aid().clone(), other.aid().clone()])));
        Err::<(), _>("it has failed".into())
    });
    let mut tree = pin!(tree);
    let (held, [mid, _other]) = tokio::select! {
        held = held => held.expect("it is held"),
        early = &mut tree => panic!("{early:?}"),
    };
    let (leaf, mid) = (Living::of_pid(held.pid()), Living::of(&mid));
    nothing("the end of the tree", &mut tree).await;
    leaf.assert();
    mid.assert();
    held.release();
    let failure = tokio::time::timeout(IN_TIME, tree).await.expect("it ends").expect_err("it has failed");
    assert!(failure.to_string().contains("it has failed"), "{failure}");
    assert!(!leaf.lives() && !mid.lives());
}

#[teamster::test]
async fn a_held_actor_ends_when_its_parent_has_died() {
    let tree = teamster::open_nursery(async |an| {
        let prompt = Prompt::new();
        let mid = an.start_actor("mid").await?;
        let held = tokio::select! {
            held = prompt.held() => held,
            early = mid.run(be_parent(prompt.at())) => panic!("{early:?}"),
        };
        kill(mid.aid().pid());
        tokio::task::spawn_blocking({
            let leaf = held.pid();
            move || wait_gone(leaf, GRACE + KERNEL + KERNEL)
        })
        .await?;
        Ok(())
    });
    let ended = tokio::time::timeout(IN_TIME, tree).await.expect("it ends");
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}");
}

#[teamster::test]
async fn a_root_that_is_held_ends_when_it_is_released() {
    let prompt = Prompt::new();
    let (at, runtime) = (prompt.at(), tokio::runtime::Handle::current());
    let (told, held) = tokio::sync::oneshot::channel();
    let tree = teamster::open_nursery(async |an| {
        an.start_actor("frank").await?;
        let thread = std::thread::spawn(move || {
            let _here = runtime.enter();
            stop(&at);
        });
        drop(told.send((prompt.held().await, thread)));
        Ok(())
    });
    let mut tree = pin!(tree);
    let (held, thread) = tokio::select! {
        held = held => held.expect("it is held"),
        early = &mut tree => panic!("{early:?}"),
    };
    nothing("the end of the root", &mut tree).await;
    held.release();
    tokio::time::timeout(IN_TIME, tree).await.expect("it ends").expect("it goes well");
    thread.join().expect("it has gone on"); // it holds the runtime until then
}

// ---- signals to the root

#[test]
#[ignore = "a program that the other tests start"]
fn program() {
    if program::scene().is_some() {
        play().expect("the scene plays to its end");
    }
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    let at = PathBuf::from(program::scene().expect("it is set"));
    teamster::open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        Ok(mid.run(be_parent(at)).await?)
    })
    .await
}

#[track_caller]
fn check_signals(first: Signal, is_waited_for: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("p");
    let listener = std::os::unix::net::UnixListener::bind(&at).expect("it is bound");
    let mut program = Program::start(at.to_str().expect("it is text"));
    let (held, _) = listener.accept().expect("it comes to its stop");
    program.signal(first);
    if is_waited_for {
        program.lives_for(2 * GRACE);
        program.signal(first);
        program.ends_within(KERNEL).assert_quietly_by(first.as_raw());
    } else {
        program.ends_within(GRACE + KERNEL).assert_quietly_by(first.as_raw());
    }
    program.gone_within(KERNEL);
    drop(held);
}

#[test]
fn a_second_signal_ends_a_tree_that_is_held() {
    check_signals(Signal::TERM, true);
}

#[test]
fn a_terminal_that_is_gone_holds_nobody() {
    check_signals(Signal::HUP, false);
}

// ---- processes

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
}

struct Living {
    pid: u32,
    started: u64,
}

impl Living {
    fn of(aid: &Aid) -> Living {
        Living::of_pid(aid.pid())
    }

    fn of_pid(pid: u32) -> Living {
        Living { pid, started: start_ticks(pid).expect("it lives") }
    }

    fn lives(&self) -> bool {
        is_alive(self.pid, self.started)
    }

    #[track_caller]
    fn assert(&self) {
        assert!(self.lives(), "{} is gone", self.pid);
    }
}
