//! Whatever ends a context, at whatever moment: does each side hear the right thing, and is nothing left?
//!
//! Caller and callee are siblings, so that the line between them can be lost while both live. The root
//! conducts: it learns how far they are, and says what happens, by messages alone.
use std::future::pending;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use teamster::{ActorNursery, BoxError, Context, ContextHandle, Error, MsgStream, Portal, context, rpc};
use tokio::sync::watch;

#[path = "support/board.rs"]
mod board;
#[path = "support/callee.rs"]
mod callee;
#[path = "support/lines.rs"]
mod lines;
use board::{Guard, at_once, first_heard, heard, hears, is_empty, running, say, say_here, wipe};
use callee::{callee, caller};

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    CallerReturns,
    CallerFails,
    CallerCancels,
    CallerIsDropped,
    CalleeReturns,
    CalleeFails,
    CalleePanics,
    /// By a third actor.
    CalleeIsCancelled,
    CalleeIsKilled,
    LineIsLost,
}
use Event::*;

/// How far it is by then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Moment {
    /// The callee runs and has not said its first word: there is no body yet.
    BeforeStarted,
    /// No side has opened its stream.
    AfterStarted,
    /// Both send.
    Streaming,
    /// The caller has finished sending, the callee has not.
    HalfClosed,
    /// The caller's body is over, or has asked for the end, and the callee goes on.
    Draining,
}
use Moment::*;

const MOMENTS: [Moment; 5] = [BeforeStarted, AfterStarted, Streaming, HalfClosed, Draining];

/// What the caller's block gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Gives {
    /// The body's own value.
    Value,
    /// The callee's result, which the body has waited for.
    CalleesResult,
    BodysError,
    CalleesError,
    CalleesPanic,
    /// The callee returned, and had not said its first word.
    NoFirstWord,
    CancelledByTheThird,
    /// Its actor's parent has killed it.
    CancelledByTheRoot,
    /// Whether it has run is not known.
    Unknown,
    /// Nothing: it was dropped.
    Nothing,
    /// What should not be.
    Other(String),
}
use Gives::*;

/// What each of them gives at each moment: before and after the first word, streaming, half-closed, draining.
///
/// Before the first word no body runs that could return, fail or cancel: what can be done from there is to
/// drop the block, and that is what those cells do.
const TABLE: [(Event, [Gives; 5]); 10] = [
    (CallerReturns, [Nothing, Value, Value, Value, Value]),
    (CallerFails, [Nothing, BodysError, BodysError, BodysError, BodysError]),
    (CallerCancels, [Nothing, Value, Value, Value, Value]),
    (CallerIsDropped, [Nothing, Nothing, Nothing, Nothing, Nothing]),
    // A body that is over has its value already.
    (CalleeReturns, [NoFirstWord, CalleesResult, CalleesResult, CalleesResult, Value]),
    (CalleeFails, [CalleesError, CalleesError, CalleesError, CalleesError, CalleesError]),
    (CalleePanics, [CalleesPanic, CalleesPanic, CalleesPanic, CalleesPanic, CalleesPanic]),
    (
        CalleeIsCancelled,
        [CancelledByTheThird, CancelledByTheThird, CancelledByTheThird, CancelledByTheThird, CancelledByTheThird],
    ),
    (
        CalleeIsKilled,
        [CancelledByTheRoot, CancelledByTheRoot, CancelledByTheRoot, CancelledByTheRoot, CancelledByTheRoot],
    ),
    (LineIsLost, [Unknown, Unknown, Unknown, Unknown, Unknown]),
];

#[teamster::test]
async fn a_caller_that_returns() {
    check(CallerReturns).await;
}

#[teamster::test]
async fn a_caller_that_fails() {
    check(CallerFails).await;
}

#[teamster::test]
async fn a_caller_that_cancels() {
    check(CallerCancels).await;
}

#[teamster::test]
async fn a_caller_that_is_dropped() {
    check(CallerIsDropped).await;
}

#[teamster::test]
async fn a_callee_that_returns() {
    check(CalleeReturns).await;
}

#[teamster::test]
async fn a_callee_that_fails() {
    check(CalleeFails).await;
}

#[teamster::test]
async fn a_callee_that_panics() {
    check(CalleePanics).await;
}

#[teamster::test]
async fn a_callee_that_a_third_one_cancels() {
    check(CalleeIsCancelled).await;
}

#[teamster::test]
async fn a_callee_that_is_killed() {
    check(CalleeIsKilled).await;
}

#[teamster::test]
async fn a_line_that_is_lost() {
    if !lines::can_be_cut() {
        return;
    }
    check(LineIsLost).await;
}

/// Whoever has a handle knows of the task's end, also if the line of its context is lost meanwhile.
#[teamster::test]
async fn a_cancel_by_handle_waits_for_a_task_whose_line_is_lost() {
    if !lines::can_be_cut() {
        return;
    }
    let root = teamster::root().grace(Duration::from_secs(10));
    let ended = root.open(async |an| {
        let (caller, callee) = tokio::try_join!(caller(an, "caller").start(), start_callee(an, 1))?;
        let asked = Cell { event: CallerCancels, moment: Draining };
        let conduct = async {
            at_once("the callee cleans up", callee.run(hears("there".into()))).await?;
            let handle = callee.run(handle()).await?;
            caller.run(lose_line(callee.aid().pid())).await?;
            let mut cancelled = std::pin::pin!(handle.cancel());
            let looks = async {
                for _look in 0..20 {
                    assert_eq!(callee.run(running()).await?, 1, "it cleans up until it is told to return");
                }
                Ok::<_, Error>(())
            };
            tokio::select! {
                ended = &mut cancelled => panic!("it waits for the task: {ended:?}"),
                looked = looks => looked?,
            }
            callee.run(say("return".into())).await?;
            at_once("the cancel ends", cancelled).await?;
            assert_eq!(callee.run(running()).await?, 0);
            Ok::<_, BoxError>(())
        };
        let (_lost, conducted) = tokio::join!(caller.run(opens(callee.clone(), asked)), conduct);
        conducted
    });
    ended.await.unwrap();
}

/// One row of the table, with a callee of one thread and with one of several.
async fn check(event: Event) {
    let (_, row) = TABLE.iter().find(|(one, _)| *one == event).expect("each has its row");
    // A busy machine is no reason to say that somebody has not stopped.
    let root = teamster::root().grace(Duration::from_secs(10));
    let ended = root.open(async |an| {
        let (caller, third) = tokio::try_join!(caller(an, "caller").start(), an.start_actor("third"))?;
        for threads in [1, 2] {
            let mut cast =
                Cast { caller: caller.clone(), third: third.clone(), callee: start_callee(an, threads).await? };
            for (moment, gives) in MOMENTS.iter().zip(row) {
                let cell = Cell { event, moment: *moment };
                println!("{cell:?}, {threads} threads"); // shown where something is not in time
                cell.check(&cast, gives).await.map_err(|error| format!("{cell:?}, {threads} threads: {error}"))?;
                if event == CalleeIsKilled {
                    cast.callee = start_callee(an, threads).await?;
                }
            }
        }
        Ok(())
    });
    ended.await.unwrap();
}

async fn start_callee(an: &ActorNursery, threads: u32) -> Result<Portal, Error> {
    callee(an, "callee").threads(threads).start().await
}

struct Cast {
    caller: Portal,
    callee: Portal,
    third: Portal,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Cell {
    event: Event,
    moment: Moment,
}

impl Cell {
    async fn check(self, cast: &Cast, gives: &Gives) -> Result<(), BoxError> {
        let Cast { caller, callee, .. } = cast;
        caller.run(wipe()).await?;
        callee.run(wipe()).await?;
        let block = caller.run(opens(callee.clone(), self));
        let conduct = async {
            at_once("the callee is there", callee.run(hears("there".into()))).await?;
            if self.moment != BeforeStarted {
                at_once("the caller is there", caller.run(hears("there".into()))).await?;
            }
            self.happen(cast).await
        };
        let (given, happened) = tokio::join!(at_once("the block ends", block), conduct);
        happened?;
        let given = given?;
        if given != *gives {
            return Err(format!("it gave {given:?}, not {gives:?}").into());
        }
        is_empty(caller).await?;
        if self.event == CalleeIsKilled {
            return Ok(());
        }
        if self.event != LineIsLost {
            // The block has waited for its end; a dropped one's call has.
            let still = callee.run(running()).await?;
            if still > 0 {
                return Err("the callee's task outlives the block".into());
            }
        }
        is_empty(callee).await?;
        // The same portal, in the same actor: on the line that is there, or on a new one.
        at_once("the next one", caller.run(goes_on(callee.clone()))).await?;
        Ok(())
    }

    /// What happens at that moment.
    async fn happen(self, cast: &Cast) -> Result<(), BoxError> {
        let Cast { caller, callee, third } = cast;
        match self.event {
            CallerReturns | CallerFails | CallerCancels if self.moment == BeforeStarted => {
                caller.run(say("drop".into())).await?;
            }
            // It has, and waits for the callee.
            CallerReturns | CallerFails | CallerCancels if self.moment == Draining => {
                callee.run(say("return".into())).await?;
            }
            CallerReturns => {
                caller.run(say("go".into())).await?;
                if self.moment == AfterStarted {
                    callee.run(say("return".into())).await?; // nothing is asked of it that would end it
                }
            }
            CallerFails | CallerCancels => caller.run(say("go".into())).await?,
            CallerIsDropped => caller.run(say("drop".into())).await?,
            CalleeReturns => callee.run(say("return".into())).await?,
            CalleeFails => callee.run(say("fail".into())).await?,
            CalleePanics => callee.run(say("panic".into())).await?,
            CalleeIsCancelled => third.run(cancel(callee.run(handle()).await?)).await?,
            CalleeIsKilled => drop(callee.kill_actor().await?),
            LineIsLost => caller.run(lose_line(callee.aid().pid())).await?,
        }
        Ok(())
    }
}

// ---- the caller

/// Opens the context as the cell says, and tells what the block gave.
#[rpc]
async fn opens(callee: Portal, cell: Cell) -> Gives {
    let block = callee.open_context(waits(cell), async |ctx, first| {
        assert_eq!(first, 1);
        let mut stream = match cell.moment {
            BeforeStarted | AfterStarted => None,
            Streaming | HalfClosed | Draining => {
                let mut stream = ctx.open_stream().await?;
                stream.send(2).await?;
                assert_eq!(stream.recv().await?, Some(0));
                Some(stream)
            }
        };
        if let (HalfClosed, Some(stream)) = (cell.moment, &mut stream) {
            stream.finish().await?;
        }
        say_here("there");
        // To be draining is what follows.
        if cell.moment != Draining && matches!(cell.event, CallerReturns | CallerFails | CallerCancels) {
            keep_going(&mut stream, heard("go")).await?;
        }
        match cell.event {
            CallerFails => return Err("the body fails".into()),
            CallerCancels => ctx.cancel().await?,
            CallerReturns => {}
            _ if cell.moment == Draining => {}
            CallerIsDropped => pending().await,
            _ => {
                while let Some(stream) = &mut stream
                    && stream.recv().await?.is_some()
                {}
                return Ok(ctx.result().await?);
            }
        }
        Ok(VALUE)
    });
    tokio::select! {
        ended = block => Gives::of(ended),
        () = heard("drop") => Nothing,
    }
}

/// Of the body, where the callee gives another one.
const VALUE: u32 = 7;
/// Of the callee.
const RESULT: u32 = 8;

/// Receives what comes until `end`.
async fn keep_going(stream: &mut Option<MsgStream<u32, u32>>, end: impl Future<Output = ()>) -> Result<(), Error> {
    let Some(stream) = stream else {
        end.await;
        return Ok(());
    };
    tokio::select! {
        () = end => Ok(()),
        ended = async { while stream.recv().await?.is_some() {} Ok(()) } => ended,
    }
}

impl Gives {
    fn of(ended: Result<u32, Error>) -> Gives {
        match ended {
            Ok(VALUE) => Value,
            Ok(RESULT) => CalleesResult,
            Err(Error::Body(body)) if body.error().to_string() == "the body fails" => BodysError,
            Err(Error::Remote(remote)) if remote.is_panic() && remote.message() == "the callee panics" => CalleesPanic,
            Err(Error::Remote(remote)) if remote.message() == "the callee fails" => CalleesError,
            Err(Error::Remote(remote)) if remote.message().contains("without `started`") => NoFirstWord,
            Err(Error::Cancelled { canceller }) if canceller.aid.name() == "third" => CancelledByTheThird,
            Err(Error::Cancelled { canceller }) if canceller.aid.name() == "root" => CancelledByTheRoot,
            Err(Error::Unknown { aid, .. }) if aid.name() == "callee" => Unknown,
            other => Other(format!("{other:?}")),
        }
    }
}

/// A call, and another context, from the actor in which the block has ended.
#[rpc]
async fn goes_on(callee: Portal) -> teamster::Result<()> {
    callee.run(wipe()).await?;
    let again = Cell { event: CallerCancels, moment: Streaming };
    let block = callee.open_context(waits(again), async |ctx, _| {
        let mut stream = ctx.open_stream().await?;
        stream.send(2).await?;
        // Nothing of the one before comes along.
        assert_eq!([stream.recv().await?, stream.recv().await?], [Some(0), Some(1)]);
        Ok(ctx.cancel().await?)
    });
    Ok(block.await?)
}

/// Cuts this actor's line to another process, in which nobody has asked for it.
#[rpc]
async fn lose_line(to: u32) {
    let cut = lines::cut(std::process::id(), to).expect("its descriptors are ours");
    assert!(cut > 0, "there is a line between the two"); // one may be open twice
}

// ---- the callee

/// The handle of the context that runs here.
static HANDLE: LazyLock<watch::Sender<Option<ContextHandle>>> = LazyLock::new(watch::Sender::default);

#[rpc]
async fn handle() -> teamster::Result<ContextHandle> {
    Ok(HANDLE.borrow().clone().expect("it is there since its beginning"))
}

#[rpc]
async fn cancel(handle: ContextHandle) -> Result<(), Error> {
    handle.cancel().await
}

/// Comes to the cell's moment, says "there", and does then what it is told.
#[context]
async fn waits(ctx: Context<u32, u32, u32>, cell: Cell) -> teamster::Result<u32> {
    let _guard = Guard::new();
    HANDLE.send_replace(Some(ctx.handle()));
    if cell.moment == BeforeStarted {
        say_here("there");
        return do_as_told().await;
    }
    ctx.started(1).await?;
    if cell.moment == AfterStarted {
        say_here("there");
        return do_as_told().await;
    }
    let (mut sends, mut receives) = ctx.open_stream().await?.split();
    assert_eq!(receives.recv().await?, Some(2));
    sends.send(0).await?;
    if cell.moment == Draining {
        return drains(cell, async || while let Ok(Some(_)) = receives.recv().await {}).await;
    }
    let sending = async {
        for item in 1.. {
            sends.send(item).await?;
        }
        Ok(RESULT)
    };
    let told = async {
        if cell.moment == HalfClosed {
            assert_eq!(receives.recv().await?, None);
        }
        say_here("there");
        do_as_told().await
    };
    tokio::select! {
        told = told => told,
        failed = sending => failed,
    }
}

/// Where it is cancelled by then, it cleans up.
async fn drains(cell: Cell, drain: impl AsyncFnOnce()) -> teamster::Result<u32> {
    if !matches!(cell.event, CallerFails | CallerCancels) {
        drain().await;
        say_here("there");
        return do_as_told().await;
    }
    teamster::shield(async {
        teamster::cancelled().await;
        say_here("there");
        do_as_told().await
    })
    .await
}

async fn do_as_told() -> teamster::Result<u32> {
    match first_heard(&["return", "fail", "panic"]).await {
        "return" => Ok(RESULT),
        "fail" => Err(std::io::Error::other("the callee fails"))?,
        _ => std::panic::panic_any("the callee panics".to_owned()),
    }
}
