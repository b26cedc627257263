//! Does a call carry what it was given, there and back, from wherever it is made?
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join, join_all, try_join_all};
use serde::{Deserialize, Serialize};
use teamster::testing::{open_dialogs, wait_gone};
use teamster::{Call, CodecStep, Context, Endpoint, Error, Portal, context, rpc};
use tokio::sync::watch;

#[path = "support/callee.rs"]
mod callee;
use callee::{callee, callees};

/// What a deadline in these tests is: long enough for a call on a busy machine.
const SHORT: Duration = Duration::from_millis(200);
/// A deadline that no test reaches.
const LONG: Duration = Duration::from_secs(3600);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn me() -> teamster::Result<Portal> {
    Ok(teamster::this_actor()?)
}

#[rpc]
async fn pid() -> u32 {
    std::process::id()
}

// ---- values

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Plain {
    Unit,
    One(u8),
    Two(u8, String),
    Named { x: i32, y: Option<i32> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    Named { x: i32, y: i32 },
    Pair(u8, u8),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "of")]
enum Adjacent {
    Unit,
    One(u8),
    Named { x: i32, y: Untagged },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Internal {
    Unit,
    Named { x: i32, y: Plain },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    first: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Skipping {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    first: Option<u8>,
    second: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct All {
    plain: Vec<Plain>,
    untagged: Vec<Untagged>,
    adjacent: Vec<Adjacent>,
    internal: Vec<Internal>,
    flat: Flat,
    skipping: Skipping,
}

impl All {
    fn new() -> All {
        All {
            plain: vec![
                Plain::Unit,
                Plain::One(1),
                Plain::Two(1, "two".into()),
                Plain::Named { x: 1, y: None },
                Plain::Named { x: 1, y: Some(2) },
            ],
            untagged: vec![
                Untagged::Number(-1),
                Untagged::Text("text".into()),
                Untagged::Named { x: 1, y: 2 },
                Untagged::Pair(1, 2),
            ],
            adjacent: vec![
                Adjacent::Unit,
                Adjacent::One(1),
                Adjacent::Named { x: 1, y: Untagged::Named { x: 2, y: 3 } },
            ],
            internal: vec![Internal::Unit, Internal::Named { x: 1, y: Plain::Named { x: 2, y: None } }],
            flat: Flat { first: 1, rest: [("second".into(), 2)].into() },
            skipping: Skipping { first: None, second: 2 },
        }
    }
}

/// One endpoint for each type: a type that needs its names is alone in its arguments and its result.
macro_rules! echoes {
    ($($name:ident $ty:ty;)*) => {$(
        #[rpc]
        async fn $name(value: $ty) -> $ty {
            value
        }
    )*};
}

echoes! {
    echo_plain Plain;
    echo_untagged Untagged;
    echo_adjacent Adjacent;
    echo_internal Internal;
    echo_flat Flat;
    echo_skipping Skipping;
    echo_all All;
    echo_bytes Bytes;
    echo_text String;
    echo_portal Portal;
    echo_unit ();
    echo_options Vec<Option<Option<u8>>>;
}

/// A type with a `Deserialize` that takes some of its values only, and panics at others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u8, String)", into = "(u8, String)")]
struct Choosy(u8, String);

impl From<(u8, String)> for Choosy {
    fn from((number, text): (u8, String)) -> Self {
        assert_eq!(text, "right");
        Choosy(number, text)
    }
}

impl From<Choosy> for (u8, String) {
    fn from(value: Choosy) -> Self {
        (value.0, value.1)
    }
}

echoes! {
    echo_choosy Choosy;
}

#[rpc]
async fn echo_by(other: Portal, value: Untagged) -> teamster::Result<Untagged> {
    Ok(other.run(echo_untagged(value)).await?)
}

#[teamster::test]
async fn start_call_end() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        assert_eq!(frank.run(add(3, 4)).await?, 7);
        let receipt = frank.cancel_actor().await?;
        assert!(receipt.was_graceful(), "{receipt:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn every_shape_of_value_comes_back_as_it_was() {
    teamster::open_nursery(async |an| {
        let pair = callees(an, &["a", "b"]).await?;
        let frank = &pair[0];
        let all = All::new();
        for value in &all.plain {
            assert_eq!(&frank.run(echo_plain(value.clone())).await?, value);
        }
        for value in &all.untagged {
            assert_eq!(&frank.run(echo_untagged(value.clone())).await?, value);
            // From one child to another.
            assert_eq!(&frank.run(echo_by(pair[1].clone(), value.clone())).await?, value);
        }
        for value in &all.adjacent {
            assert_eq!(&frank.run(echo_adjacent(value.clone())).await?, value);
        }
        for value in &all.internal {
            assert_eq!(&frank.run(echo_internal(value.clone())).await?, value);
        }
        assert_eq!(frank.run(echo_flat(all.flat.clone())).await?, all.flat);
        assert_eq!(frank.run(echo_skipping(all.skipping.clone())).await?, all.skipping);
        frank.run(echo_unit(())).await?;
        assert_eq!(frank.run(echo_all(all.clone())).await?, all);
        assert_eq!(an.run_in_actor(echo_all(all.clone())).await?, all);
        assert_eq!(callee(an, "x").call(echo_all(all.clone())).await?, all);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_option_in_an_option_keeps_its_layers() {
    teamster::open_nursery(async |an| {
        let options = vec![None, Some(None), Some(Some(1))];
        assert_eq!(callee(an, "frank").start().await?.run(echo_options(options.clone())).await?, options);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_type_that_panics_at_other_values_travels_with_its_own() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let value = Choosy(1, "right".into());
        assert_eq!(frank.run(echo_choosy(value.clone())).await?, value);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn eight_mebibytes_go_there_and_back() {
    const SIZE: usize = 8 << 20;
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let bytes: Bytes = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let text = "x".repeat(SIZE);
        let large = join(frank.run(echo_bytes(bytes.clone())), frank.run(echo_text(text.clone())));
        let (large, small) = join(large, frank.run(add(1, 2))).await;
        assert!(large.0? == bytes && large.1? == text);
        assert_eq!(small?, 3);
        assert!(an.run_in_actor(echo_bytes(bytes.clone())).await? == bytes);
        Ok(())
    })
    .await
    .unwrap();
}

// ---- from where to where

/// The least that a tree's limit can be set to.
const LIMIT: u32 = 256 * 1024;

#[rpc]
async fn length(bytes: Bytes) -> usize {
    bytes.len()
}

#[rpc]
async fn filled(length: usize) -> Bytes {
    vec![1; length].into()
}

#[rpc]
async fn bytes_of(other: Portal, length: usize) -> teamster::Result<Bytes> {
    Ok(other.run(filled(length)).await?)
}

#[teamster::test]
async fn a_message_over_the_limit_is_an_error_of_its_sender_and_the_line_lives() {
    fn check<T: std::fmt::Debug>(called: Result<T, Error>, endpoint: &str, value: &str, size: usize) {
        let Err(Error::Codec(codec)) = &called else { panic!("{called:?}") };
        assert_eq!((codec.endpoint(), codec.value(), codec.step()), (endpoint, value, CodecStep::Encode));
        let told = format!("its {size} bytes and a header are over the limit of {LIMIT} bytes a message");
        assert!(codec.message().starts_with(&told), "{codec}");
    }
    let small = LIMIT as usize - 200;
    teamster::root()
        .message_limit(1) // less than can be
        .open(async |an| {
            let pair = callees(an, &["a", "b"]).await?;
            let [a, b] = [&pair[0], &pair[1]];
            let (to, from) = (length(Bytes::new()).endpoint(), filled(0).endpoint());
            let args = || Bytes::from(vec![1; LIMIT as usize]);
            check(a.run(length(args())).await, to, "the arguments", LIMIT as usize + 6); // a mark of each array
            check(a.run(filled(LIMIT as usize)).await, from, "the result", LIMIT as usize + 5);
            // In an actor of its own, nobody is started for it.
            check(callee(an, "c").call(length(args())).await, to, "the arguments", LIMIT as usize + 6);
            // Between siblings, whose line is no child's.
            let relayed = a.run(bytes_of(b.clone(), LIMIT as usize)).await.expect_err("it is too long");
            let told = relayed.downcast_ref::<Error>().cloned().unwrap_or(relayed);
            check(Err::<(), _>(told), from, "the result", LIMIT as usize + 5);
            // What just fits, goes; and all on the lines that there were.
            assert_eq!(a.run(length(vec![1; small].into())).await?, small);
            assert_eq!(a.run(bytes_of(b.clone(), small)).await?.len(), small);
            Ok(())
        })
        .await
        .unwrap();
}

/// What it says first is as long as that.
#[context]
async fn says_first(ctx: Context<Bytes, Bytes, Bytes>, length: usize) -> teamster::Result<()> {
    ctx.started(vec![1; length].into()).await?;
    ctx.open_stream().await?.send(vec![1; length].into()).await?;
    Ok(())
}

#[teamster::test]
async fn what_is_over_the_limit_in_a_context_is_an_error_of_its_sender_too() {
    fn value_in(error: Error) -> String {
        let own = error.downcast_ref::<Error>().cloned().unwrap_or(error);
        let Error::Codec(codec) = own else { panic!("{own:?}") };
        codec.value().to_owned()
    }
    teamster::root()
        .message_limit(1) // less than can be
        .open(async |an| {
            let frank = callee(an, "frank").start().await?;
            let long = LIMIT as usize;
            let first = frank.open_context(says_first(long), async |_, _| Ok(())).await;
            assert_eq!(value_in(first.unwrap_err()), "the first word");
            let item = frank.open_context(says_first(10), async |ctx, _| {
                let sent = ctx.open_stream().await?.send(vec![1; long].into()).await;
                Ok(value_in(sent.unwrap_err()))
            });
            assert_eq!(item.await?, "the stream's item");
            assert_eq!(frank.run(add(1, 2)).await?, 3, "on the line that there was");
            Ok(())
        })
        .await
        .unwrap();
}

#[rpc]
async fn add_by(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    Ok(other.run(add(a, b)).await?)
}

#[rpc]
async fn add_by_all(others: Vec<Portal>, n: i64) -> teamster::Result<i64> {
    let sums = try_join_all(others.iter().map(|other| other.run(add(n, 1)))).await?;
    Ok(sums.into_iter().sum())
}

/// Calls itself by its own portal.
#[rpc]
async fn factorial(n: u64) -> teamster::Result<u64> {
    match n {
        0 => Ok(1),
        _ => Ok(n * teamster::this_actor()?.run(factorial(n - 1)).await?),
    }
}

/// Goes up to the parent and down again, so often.
#[rpc]
async fn bounce(back: Portal, times: u32) -> teamster::Result<u32> {
    match times {
        0 => Ok(0),
        _ => Ok(1 + back.run(bounce(teamster::this_actor()?, times - 1)).await?),
    }
}

#[rpc]
async fn parents_pid() -> teamster::Result<u32> {
    Ok(teamster::parent()?.expect("a child has one").run(pid()).await?)
}

#[teamster::test]
async fn a_portal_travels_as_an_argument_and_as_a_result() {
    teamster::open_nursery(async |an| {
        let three = callees(an, &["a", "b", "c"]).await?;
        let a = &three[0];
        assert_eq!(a.run(add_by(three[1].clone(), 1, 2)).await?, 3);
        assert_eq!(a.run(add_by_all(three.clone(), 1)).await?, 6); // one of them is itself
        let same = a.run(echo_portal(three[1].clone())).await?;
        assert_eq!((same.aid(), same.run(pid()).await?), (three[1].aid(), three[1].aid().pid()));
        let itself = a.run(me()).await?;
        assert_eq!((&itself, itself.run(add(2, 2)).await?), (a, 4));
        let root = a.run(echo_portal(teamster::this_actor()?)).await?;
        assert_eq!(root.run(pid()).await?, std::process::id());
        // A foreign handle to a child of ours ends it just as well.
        assert!(same.cancel_actor().await.is_ok());
        wait_gone(three[1].aid().pid(), Duration::ZERO);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_call_to_oneself_and_to_the_parent_and_back() {
    teamster::open_nursery(async |an| {
        assert_eq!(teamster::this_actor()?.run(factorial(5)).await?, 120);
        let frank = callee(an, "frank").start().await?;
        assert_eq!(frank.run(factorial(5)).await?, 120);
        assert_eq!(frank.run(parents_pid()).await?, std::process::id());
        assert_eq!(frank.run(bounce(teamster::this_actor()?, 20)).await?, 20);
        Ok(())
    })
    .await
    .unwrap();
}

// ---- many at once

/// Whose turn it is in this actor.
static TURN: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(usize::MAX));

/// Ends when it is its turn, and gives it to the one before.
#[rpc]
async fn in_turn(number: usize) -> usize {
    let mut turn = TURN.subscribe();
    turn.wait_for(|turn| *turn == number).await.expect("it is never dropped");
    TURN.send_replace(number.wrapping_sub(1));
    number
}

#[rpc]
async fn begin_at(number: usize) {
    TURN.send_replace(number);
}

#[teamster::test]
async fn a_hundred_calls_in_flight_end_in_any_order() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let calls = join_all((0..100).map(|number| frank.run(in_turn(number))));
        let (numbers, begun) = join(calls, frank.run(begin_at(99))).await;
        begun?;
        for (number, answer) in numbers.into_iter().enumerate() {
            assert_eq!(answer?, number);
        }
        assert_eq!(open_dialogs()?, 0);
        Ok(())
    })
    .await
    .unwrap();
}

// ---- deadlines

/// Tasks of this actor that hold on.
static HELD: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Shows by a file, too, that it holds on: for those who can't wait.
struct Held(Option<PathBuf>);

impl Held {
    fn new(file: Option<PathBuf>) -> Held {
        if let Some(path) = &file {
            std::fs::write(path, "").expect("the folder is there");
        }
        HELD.send_modify(|held| *held += 1);
        Held(file)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.send_modify(|held| *held -= 1);
        if let Some(path) = &self.0 {
            std::fs::remove_file(path).expect("it is there");
        }
    }
}

#[rpc]
async fn hold(file: Option<PathBuf>) {
    let _held = Held::new(file);
    pending().await
}

#[rpc]
async fn held(wanted: usize) {
    HELD.subscribe().wait_for(|held| *held == wanted).await.expect("it is never dropped");
}

/// One hop more, inside a deadline of its own.
#[rpc]
async fn hold_by(other: Portal, within: Duration) -> teamster::Result<()> {
    let _held = Held::new(None);
    Ok(teamster::deadline(within, other.run(hold(None))).await??)
}

/// Whether `be_stuck_while_held` was, here.
static WAS_STUCK: AtomicBool = AtomicBool::new(false);

#[rpc]
async fn was_stuck() -> bool {
    WAS_STUCK.load(Ordering::Acquire)
}

/// Is stuck, its runtime with it, as long as the other one holds on.
#[rpc]
async fn be_stuck_while_held(other: Portal, file: PathBuf) -> teamster::Result<()> {
    other.run(pid()).await?; // the line is there: the next call leaves with its first poll
    let mut holding = std::pin::pin!(other.run(hold(Some(file.clone()))));
    let _sent = futures::poll!(holding.as_mut());
    tokio::task::yield_now().await;
    spin_until(|| file.exists() || teamster::is_cancelled());
    if file.exists() {
        WAS_STUCK.store(true, Ordering::Release);
        spin_until(|| !file.exists());
    }
    Ok(())
}

fn spin_until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

fn is_deadline(error: &Error) -> bool {
    match error {
        Error::Deadline { .. } => true,
        Error::Remote(remote) => remote.downcast_ref::<Error>().is_some_and(is_deadline),
        _ => false,
    }
}

async fn all_let_go(actors: &[Portal]) -> Result<(), Error> {
    try_join_all(actors.iter().map(|actor| actor.run(held(0)))).await.map(drop)
}

#[teamster::test]
async fn a_deadline_reaches_over_two_hops() {
    teamster::open_nursery(async |an| {
        let pair = callees(an, &["mid", "leaf"]).await?;
        let late = teamster::deadline(SHORT, pair[0].run(hold_by(pair[1].clone(), LONG))).await;
        let error = late.and_then(|result| result).unwrap_err();
        assert!(is_deadline(&error), "{error:?}");
        all_let_go(&pair).await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn of_nested_deadlines_the_nearest_counts() {
    teamster::open_nursery(async |an| {
        let pair = callees(an, &["mid", "leaf"]).await?;
        // The inner one is nearer, over there and here.
        let late = teamster::deadline(LONG, pair[0].run(hold_by(pair[1].clone(), SHORT))).await;
        let error = late.expect("the outer one is far away").unwrap_err();
        assert!(is_deadline(&error), "{error:?}");
        let inner = teamster::deadline(SHORT, pair[0].run(hold(None)));
        let late = teamster::deadline(LONG, inner).await.expect("the outer one is far away");
        let error = late.and_then(|result| result).unwrap_err(); // of our clock or of theirs
        assert!(is_deadline(&error), "{error:?}");
        // The outer one is nearer.
        let inner = teamster::deadline(LONG, pair[0].run(hold_by(pair[1].clone(), LONG)));
        let late = teamster::deadline(SHORT, inner).await;
        let error = late.and_then(|inner| inner).and_then(|result| result).unwrap_err();
        assert!(is_deadline(&error), "{error:?}");
        all_let_go(&pair).await?;
        assert_eq!(teamster::deadline(LONG, pair[0].run(add(1, 2))).await??, 3);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test(exclusive)]
async fn the_callees_own_clock_ends_it_while_its_caller_is_stuck() {
    teamster::open_nursery(async |an| {
        let folder = tempfile::tempdir()?;
        let pair = callees(an, &["mid", "leaf"]).await?;
        // On a busy machine the time may be over before mid is stuck: then it is given more.
        for within in [1, 5, 25].map(|factor| SHORT * factor) {
            let call = be_stuck_while_held(pair[1].clone(), folder.path().join("held"));
            let late = teamster::deadline(within, pair[0].run(call)).await;
            let error = late.and_then(|result| result).unwrap_err();
            assert!(is_deadline(&error), "{error:?}");
            if pair[0].run(was_stuck()).await? {
                // Mid answers again as soon as the leaf has let go, and only then.
                assert!(!Path::new(&folder.path().join("held")).exists());
                return Ok(());
            }
            all_let_go(&pair).await?;
        }
        panic!("mid was never stuck");
    })
    .await
    .unwrap();
}

// ---- what can't be called

#[rpc(name = "shop.total")]
async fn total(count: i64, price: i64) -> i64 {
    count * price
}

/// Declares endpoints as another program might know them: no such function is linked into this one.
macro_rules! foreign {
    ($($name:ident $path:literal ($($arg:literal: $ty:ty),*) -> $output:ty;)*) => {$(
        #[derive(Debug)]
        struct $name;

        impl teamster::Function for $name {
            type Args = ($($ty,)*);
            type Output = $output;
            const NAME: Option<&'static str> = Some($path);
            const LOCATION: &'static str = "elsewhere.rs:1:1";
            const ARGS: &'static [teamster::__private::Arg] = &[$(teamster::__private::Arg::new::<$ty>($arg)),*];

            fn unencodable(_: &Self::Args) -> Option<usize> {
                None
            }
        }

        impl Endpoint for $name {
            fn invoke(_: Self::Args) -> impl Future<Output = Result<$output, teamster::__private::Failure>> + Send {
                async { unreachable!("it is called over there") }
            }
        }
    )*};
}

foreign! {
    Nowhere "shop.nowhere" ("count": i64) -> i64;
    OtherArgs "shop.total" ("count": String, "price": i64) -> i64;
    FewerArgs "shop.total" ("count": i64) -> i64;
    OtherOutput "shop.total" ("count": i64, "price": i64) -> String;
}

#[teamster::test]
async fn what_can_not_be_called_says_which_of_three_it_is_and_what_to_do() {
    teamster::open_nursery(async |an| {
        let (open, shut) = join(callee(an, "open").start(), callee(an, "shut").expose(["shop.nowhere"]).start()).await;
        let (open, shut) = (open?, shut?);
        for _ in 0..2 {
            // Twice: the line stays up, with what it has learnt.
            let error = open.run(Call::<Nowhere>::new((1,))).await.unwrap_err();
            assert!(
                matches!(&error, Error::NoSuchEndpoint { endpoint, .. } if endpoint == "shop.nowhere"),
                "{error:?}"
            );
            assert!(error.to_string().contains("is it `#[rpc]`"), "{error}");
            let error = shut.run(total(1, 2)).await.unwrap_err();
            assert!(matches!(&error, Error::NotExposed { endpoint, .. } if endpoint == "shop.total"), "{error:?}");
            assert!(error.to_string().contains("`.expose("), "{error}");
            let error = open.run(Call::<FewerArgs>::new((1,))).await.unwrap_err();
            assert!(matches!(&error, Error::Codec(codec) if codec.step() == CodecStep::Decode), "{error:?}");
            let error = open.run(Call::<OtherOutput>::new((3, 2))).await.unwrap_err();
            assert!(matches!(&error, Error::Codec(codec) if codec.value() == "the result"), "{error:?}");
            assert_eq!(open.run(total(3, 2)).await?, 6);
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_argument_of_another_type_names_itself_and_both_types() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        for _ in 0..2 {
            let error = frank.run(Call::<OtherArgs>::new(("three".into(), 2))).await.unwrap_err();
            let Error::Codec(codec) = &error else { panic!("{error:?}") };
            assert_eq!((codec.step(), codec.value()), (CodecStep::Decode, "the argument `count`"));
            assert_eq!((codec.reader_type(), codec.writer_type()), (Some("i64"), Some("alloc::string::String")));
            assert_eq!(codec.endpoint(), "shop.total");
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn a_one_shot_with_the_wrong_arguments_fails_as_itself() {
    let error = teamster::open_nursery(async |an| {
        drop(an.run_in_actor(Call::<OtherArgs>::new(("three".into(), 2))));
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::Codec(codec) if codec.value() == "the argument `count`"), "{error:?}");
}

/// Can be read, and never written.
#[derive(Debug, Deserialize)]
struct Secret;

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is a secret"))
    }
}

#[rpc]
async fn keep(secret: Secret) {
    let _kept = secret;
}

#[rpc]
async fn tell() -> Secret {
    Secret
}

#[teamster::test]
async fn a_value_that_can_not_be_encoded_names_itself_and_the_line_lives() {
    teamster::open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let error = frank.run(keep(Secret)).await.unwrap_err();
        let Error::Codec(codec) = &error else { panic!("{error:?}") };
        assert_eq!((codec.step(), codec.value()), (CodecStep::Encode, "the argument `secret`"));
        assert_eq!((codec.writer_type(), codec.message()), (Some("calls::Secret"), "it is a secret"));
        let error = frank.run(tell()).await.unwrap_err();
        let Error::Codec(codec) = &error else { panic!("{error:?}") };
        assert_eq!((codec.step(), codec.value()), (CodecStep::Encode, "the result"));
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await
    .unwrap();
}

// ---- outside of every actor

#[test]
fn without_a_runtime_everything_says_so() {
    fn no_runtime<T: std::fmt::Debug>(result: Result<T, Error>) {
        assert!(matches!(&result, Err(Error::Usage(text)) if text.contains("no runtime")), "{result:?}");
    }
    futures::executor::block_on(async {
        no_runtime(teamster::find_actor("x").await);
        no_runtime(teamster::wait_for_actor("x").await);
        no_runtime(teamster::find_actors("x").await);
        no_runtime(teamster::list_actors().await);
        no_runtime(teamster::this_actor());
        no_runtime(teamster::parent());
        no_runtime(teamster::is_root());
        no_runtime(teamster::cancel_self());
        no_runtime(teamster::on_exit(async || ()));
        no_runtime(teamster::open_nursery(async |_| Ok(())).await);
        no_runtime(teamster::root().open(async |_| Ok(())).await);
    });
}
