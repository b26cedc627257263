//! Does every item arrive once, in order, at the pace of its reader, whatever it is?
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use futures::stream::{self, Stream};
use futures::{SinkExt, StreamExt, TryStreamExt};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use teamster::{BoxError, CodecStep, Context, Error, MsgStream, Portal, TrySendError, context, rpc};
use tokio::task::JoinSet;

#[path = "support/callee.rs"]
mod callee;
#[path = "support/one.rs"]
mod one;
use one::{Guard, guards, held, is_idle, let_go, resident, resident_here, until, with_one};

/// What waits at a side that has not opened its stream, in bytes.
const FIRST_WINDOW: u64 = 16 * 1024;

/// Sends `0..until`, then returns how many it has sent.
#[context]
async fn numbers(ctx: Context<(), (), u64>, until: u64) -> teamster::Result<u64> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for number in 0..until {
        stream.send(number).await?;
    }
    Ok(until)
}

/// Gives back what it gets.
#[context]
async fn echo(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(number) = stream.recv().await? {
        stream.send(number).await?;
    }
    Ok(())
}

async fn expect_numbers<S: teamster::Data>(stream: &mut MsgStream<S, u64>, until: u64) -> Result<(), BoxError> {
    for expected in 0..until {
        assert_eq!(stream.recv().await?, Some(expected));
    }
    assert_eq!(stream.recv().await?, None);
    Ok(())
}

// ---- every one, once, in order

#[teamster::test]
async fn numbers_arrive_once_and_in_order() {
    with_one(async |frank| {
        let sent = frank
            .open_context(numbers(100_000), async |ctx, ()| {
                expect_numbers(&mut ctx.open_stream().await?, 100_000).await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(sent, 100_000);
        Ok(())
    })
    .await;
}

#[context]
async fn sums(ctx: Context<(), u64, u64>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let (mut count, mut check) = (0, 0);
    while let Some(number) = stream.recv().await? {
        count += 1;
        check = checksum(check, number);
    }
    stream.send(check).await?;
    Ok(count)
}

/// Other items, or others in between, give another sum.
fn checksum(before: u64, item: u64) -> u64 {
    (before ^ item).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
}

#[teamster::test]
async fn a_million_items_have_the_checksum_of_those_that_were_sent() {
    const ITEMS: u64 = 1_000_000;
    with_one(async |frank| {
        let count = frank
            .open_context(sums(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut check = 0;
                for number in 0..ITEMS {
                    let item = number.wrapping_mul(number) << (number % 24);
                    check = checksum(check, item);
                    stream.send(item).await?;
                }
                stream.finish().await?;
                assert_eq!(stream.recv().await?, Some(check));
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(count, ITEMS);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn there_and_back() {
    with_one(async |frank| {
        frank
            .open_context(echo(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for number in 0..1000 {
                    stream.send(number).await?;
                    assert_eq!(stream.recv().await?, Some(number));
                }
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn two_streams_of_one_endpoint_do_not_meet() {
    with_one(async |frank| {
        let count = async |until: u64| {
            let numbers = frank.open_context(numbers(until), async |ctx, ()| {
                expect_numbers(&mut ctx.open_stream().await?, until).await?;
                Ok(ctx.result().await?)
            });
            numbers.await
        };
        assert_eq!(try_join(count(20_000), count(10_000)).await?, (20_000, 10_000));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_reader_that_is_made_anew_goes_on_where_the_last_one_was() {
    with_one(async |frank| {
        frank
            .open_context(numbers(500), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut seen = Vec::new();
                for _ in 0..5 {
                    let mut left = 100;
                    let consumer = async {
                        while left > 0 {
                            seen.extend(stream.recv().await?);
                            left -= 1;
                        }
                        std::future::pending::<Result<(), Error>>().await // dropped while it holds the stream
                    };
                    tokio::select! {
                        biased;
                        ended = consumer => ended?,
                        () = tokio::task::yield_now() => {}
                    }
                    while left > 0 {
                        seen.extend(stream.recv().await?);
                        left -= 1;
                    }
                }
                assert_eq!(stream.recv().await?, None);
                assert_eq!(seen, (0..500).collect::<Vec<_>>());
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

// ---- of any type

/// Gives back what it gets, one by one.
async fn give_back<T: teamster::Data>(ctx: Context<(), T, T>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(item) = stream.recv().await? {
        stream.send(item).await?;
    }
    Ok(())
}

/// Sends them all, then reads them all, and again one at a time.
async fn go_and_come<T: Clone + PartialEq + teamster::Data + std::fmt::Debug>(
    mut stream: MsgStream<T, T>,
    items: &[T],
) -> Result<(), BoxError> {
    for item in items {
        stream.send(item.clone()).await?;
        assert_eq!(stream.recv().await?.as_ref(), Some(item));
    }
    let (mut sends, mut receives) = stream.split();
    let sending = async {
        for item in items {
            sends.send(item.clone()).await?;
        }
        sends.finish().await
    };
    let receiving = async {
        for item in items {
            assert_eq!(receives.recv().await?.as_ref(), Some(item));
        }
        receives.recv().await
    };
    assert_eq!(try_join(sending, receiving).await?.1, None);
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Nothing {
    nobody: PhantomData<u8>,
    none: [u8; 0],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf(Option<Bytes>),
    Twig { name: String, below: Vec<Tree> },
}

#[context]
async fn unit_items(ctx: Context<(), (), ()>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn unit_structs(ctx: Context<(), Unit, Unit>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn empty_structs(ctx: Context<(), Nothing, Nothing>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn maybe_units(ctx: Context<(), Option<Option<()>>, Option<Option<()>>>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn trees(ctx: Context<(), Tree, Tree>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn byte_items(ctx: Context<(), Bytes, Bytes>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[context]
async fn texts(ctx: Context<(), String, String>) -> teamster::Result<()> {
    give_back(ctx).await
}

#[teamster::test]
async fn items_without_bytes_are_counted_and_nested_ones_come_as_they_went() {
    with_one(async |frank| {
        let open = async |ctx: &teamster::PortalContext<unit_items>, ()| {
            go_and_come(ctx.open_stream().await?, &[(); 3000]).await
        };
        frank.open_context(unit_items(), open).await?;
        let items = vec![Unit; 3000];
        frank.open_context(unit_structs(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await).await?;
        let items = vec![Nothing { nobody: PhantomData, none: [] }; 1000];
        frank
            .open_context(empty_structs(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await)
            .await?;
        let items = [None, Some(None), Some(Some(()))].repeat(300);
        frank.open_context(maybe_units(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await).await?;
        let leaf = |bytes: usize| Tree::Leaf(Some(vec![7; bytes].into()));
        let mut items = vec![Tree::Leaf(None), leaf(0), leaf(40_000)];
        for depth in 0..50 {
            let below = vec![items.last().expect("there are some").clone(), leaf(depth)];
            items.push(Tree::Twig { name: format!("twig {depth}"), below });
        }
        frank.open_context(trees(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await).await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn bytes_of_every_length_around_a_border_come_whole() {
    // What is written at once, the first window, what goes in pieces, a piece, the window at its widest.
    const BORDERS: [usize; 7] = [0, 0xff, 16 * 1024, 32 * 1024, 0xffff, 128 * 1024, 1 << 20];
    with_one(async |frank| {
        let lengths = BORDERS.into_iter().flat_map(|border| border.saturating_sub(7)..=border + 2);
        let lengths: Vec<usize> = lengths.collect();
        let bytes = |len: usize| (0..len).map(|at| (at ^ (at >> 8) ^ len) as u8).collect::<Vec<u8>>();
        let items: Vec<Bytes> = lengths.iter().map(|&len| bytes(len).into()).collect();
        frank.open_context(byte_items(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await).await?;
        let text = |len: usize| bytes(len).into_iter().map(|byte| char::from(byte & 0x7f)).collect::<String>();
        let items: Vec<String> = lengths.iter().map(|&len| text(len)).collect();
        frank.open_context(texts(), async |ctx, ()| go_and_come(ctx.open_stream().await?, &items).await).await?;
        Ok(())
    })
    .await;
}

/// Can't be encoded where it is odd, nor decoded where it is above a hundred.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Picky(u64);

impl Serialize for Picky {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 2 {
            0 => serializer.serialize_u64(self.0),
            _ => Err(serde::ser::Error::custom("it is odd")),
        }
    }
}

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Picky, D::Error> {
        match u64::deserialize(deserializer)? {
            number @ ..=100 => Ok(Picky(number)),
            number => Err(D::Error::custom(format!("{number} is too much"))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    place: String,
    celsius: Picky,
}

fn reading(celsius: u64) -> Reading {
    Reading { place: "here".into(), celsius: Picky(celsius) }
}

#[context]
async fn readings(ctx: Context<(), Reading, Reading>, sends: Vec<u64>) -> teamster::Result<Vec<String>> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut refused = Vec::new();
    for celsius in sends {
        if let Err(error) = stream.send(reading(celsius)).await {
            refused.push(error.to_string());
        }
    }
    while let Some(reading) = stream.recv().await? {
        stream.send(reading).await?;
    }
    Ok(refused)
}

#[track_caller]
fn names_type_and_endpoint(text: &str) {
    for named in ["streams::readings", "streams::Reading", "it is odd"] {
        assert!(text.contains(named), "{named:?} is not in {text:?}");
    }
}

#[teamster::test]
async fn an_item_that_can_not_be_encoded_is_its_senders_error_and_the_stream_goes_on() {
    with_one(async |frank| {
        let refused = frank
            .open_context(readings(vec![2, 3, 4]), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let error = stream.send(reading(7)).await.expect_err("it is odd");
                assert!(matches!(&error, Error::Codec(codec) if codec.step() == CodecStep::Encode), "{error:?}");
                names_type_and_endpoint(&error.to_string());
                let Err(TrySendError::Failed(again)) = stream.try_send(reading(9)) else { panic!("it is odd") };
                names_type_and_endpoint(&again.to_string());
                SinkExt::feed(&mut stream, reading(11)).await.expect_err("it is odd");
                SinkExt::flush(&mut stream).await?;
                stream.send(reading(6)).await?;
                stream.finish().await?;
                let received: Vec<Reading> = (&mut stream).try_collect().await?;
                assert_eq!(received, [2, 4, 6].map(reading));
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(refused.len(), 1);
        names_type_and_endpoint(&refused[0]);
        Ok(())
    })
    .await;
}

#[track_caller]
fn names_field_and_endpoint(text: &str) {
    for named in ["stream's item of streams::", "celsius", "102 is too much"] {
        assert!(text.contains(named), "{named:?} is not in {text:?}");
    }
}

/// What does not decode ends its dialog and nothing else; here and there.
#[teamster::test]
async fn an_item_that_can_not_be_decoded_is_its_readers_error_and_its_sender_is_told() {
    with_one(async |frank| {
        frank
            .open_context(echo(), async |ctx, ()| {
                let mut beside = ctx.open_stream().await?;
                for _ in 0..3 {
                    let sent = frank.open_context(readings(vec![2, 102, 4]), async |ctx, ()| {
                        let mut stream = ctx.open_stream().await?;
                        assert_eq!(stream.recv().await?, Some(reading(2)));
                        let error = stream.recv().await.expect_err("it is too much");
                        names_field_and_endpoint(&error.to_string());
                        // Again and again, and what comes behind it is not read.
                        assert_eq!(stream.recv().await.expect_err("it is too much").to_string(), error.to_string());
                        Ok(stream.recv().await?)
                    });
                    names_field_and_endpoint(&sent.await.expect_err("it is too much").to_string());

                    let told = frank.open_context(readings(vec![]), async |ctx, ()| {
                        let mut stream = ctx.open_stream().await?;
                        stream.send(reading(102)).await?;
                        Ok(stream.recv().await?)
                    });
                    names_field_and_endpoint(&told.await.expect_err("it is too much").to_string());

                    beside.send(7).await?;
                    assert_eq!(beside.recv().await?, Some(7), "another dialog of the same line");
                }
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

/// Swallows what it can't read.
#[context]
async fn forgiving(ctx: Context<(), Reading, Reading>) -> teamster::Result<String> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let error = stream.recv().await.expect_err("it is too much");
    held().await;
    Ok(error.to_string())
}

#[teamster::test]
async fn who_sends_to_a_reader_that_swallowed_a_bad_item_is_not_held_up() {
    with_one(async |frank| {
        let error = frank
            .open_context(forgiving(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for _ in 0..200_000 {
                    stream.send(reading(102)).await?;
                }
                frank.run(let_go()).await?;
                Ok(ctx.result().await?)
            })
            .await?;
        names_field_and_endpoint(&error);
        Ok(())
    })
    .await;
}

// ---- at the pace of its reader

/// Never opens its stream.
#[context]
async fn opens_none(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    std::future::pending().await
}

async fn fill<R: teamster::Data>(stream: &mut MsgStream<u64, R>) -> (u64, Error) {
    let mut sent = 0;
    loop {
        match stream.send(1).await {
            Ok(()) => sent += 1, // one byte, as all numbers below 128
            Err(error) => return (sent, error),
        }
    }
}

#[track_caller]
fn is_overrun(error: &Error, path: &str) {
    let Error::StreamOverrun { endpoint, window_bytes, dialog, .. } = error else { panic!("{error:?}") };
    assert_eq!((endpoint.as_str(), u64::from(*window_bytes)), (path, FIRST_WINDOW));
    let text = error.to_string();
    assert!(text.contains(path) && text.contains(&dialog.to_string()), "{text}");
}

#[teamster::test]
async fn a_peer_that_opens_no_stream_makes_its_sender_overrun_after_exactly_the_window() {
    with_one(async |frank| {
        for after in [Duration::ZERO, Duration::from_millis(50)] {
            let (sent, error) = frank
                .open_context(opens_none().overrun_after(after), async |ctx, ()| {
                    let mut stream = ctx.open_stream().await?;
                    let filled = fill(&mut stream).await;
                    assert!(matches!(stream.try_send(7), Err(TrySendError::Full(7))));
                    is_overrun(&SinkExt::send(&mut stream, 7).await.expect_err("it is full"), "streams::opens_none");
                    ctx.cancel().await?;
                    Ok(filled)
                })
                .await?;
            assert_eq!(sent, FIRST_WINDOW);
            is_overrun(&error, "streams::opens_none");
        }
        Ok(())
    })
    .await;
}

/// Sends without being read: how many, and the error.
#[context]
async fn overruns(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.overrun_after(Duration::from_millis(20));
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let (sent, error) = fill(&mut stream).await;
    assert_eq!(sent, FIRST_WINDOW);
    Err(error.into())
}

#[teamster::test]
async fn an_opener_that_opens_no_stream_makes_its_callee_overrun_after_exactly_the_window() {
    with_one(async |frank| {
        let error = frank.open_context(overruns(), async |_, ()| Ok(std::future::pending::<()>().await)).await;
        let error = error.expect_err("it overruns");
        let text = error.to_string();
        assert!(text.contains("streams::overruns") && text.contains("16384"), "{text}");
        Ok(())
    })
    .await;
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    read: u64,
    dropped: u64,
}

async fn count<S: teamster::Data>(stream: &mut MsgStream<S, u64>) -> Result<Counted, Error> {
    let (mut read, mut last) = (0, None);
    while let Some(number) = stream.recv().await? {
        assert!(last < Some(number), "{number} after {last:?}");
        (read, last) = (read + 1, Some(number));
    }
    Ok(Counted { read, dropped: stream.dropped() })
}

/// Items of the table below: several times what may be under way.
const FLOOD: u64 = 400_000;

async fn flood<R: teamster::Data>(stream: &mut MsgStream<u64, R>) -> Result<(), Error> {
    for number in 0..FLOOD {
        stream.send(number).await?;
    }
    stream.finish().await
}

/// Long enough for the first credit of a side that drops what it does not read, on any machine.
const FOR_CREDIT: Duration = Duration::from_secs(30);

/// Reads nothing before it is let go.
#[context]
async fn slow_callee(ctx: Context<(), u64, u64>, allows: bool) -> teamster::Result<Counted> {
    let _guard = Guard::new();
    if allows {
        ctx.allow_overruns();
    }
    ctx.started(()).await?;
    held().await;
    Ok(count(&mut ctx.open_stream().await?).await?)
}

#[context]
async fn fast_callee(ctx: Context<(), u64, u64>, allows: bool, patient: bool) -> teamster::Result<()> {
    let _guard = Guard::new();
    if allows {
        ctx.allow_overruns();
    }
    ctx.overrun_after(if patient { FOR_CREDIT } else { Duration::ZERO });
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    Ok(flood(&mut stream).await?)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Finished,
    Cancelled,
}

/// The opener is slow: only what it allows counts.
async fn slow_opener(frank: &Portal, opener: bool, callee: bool, end: End) -> Result<(), BoxError> {
    let call = fast_callee(callee, opener);
    let call = if opener { call.allow_overruns() } else { call };
    let case = format!("a slow opener, allowed by opener {opener}, by callee {callee}, {end:?}");
    let ended = frank
        .open_context(call, async |ctx, ()| {
            until("its end", async || ctx.has_ended()).await; // it reads nothing before that
            if opener {
                let counted = count(&mut ctx.open_stream().await?).await?;
                assert_eq!(counted.read + counted.dropped, FLOOD, "{case}: {counted:?}");
                assert!(counted.read > 0 && counted.dropped > 0, "{case}: {counted:?}");
            }
            if end == End::Cancelled {
                ctx.cancel().await?; // too late to change anything
            }
            Ok(())
        })
        .await;
    match (opener, &ended) {
        (true, Ok(())) => Ok(()),
        (false, Err(error)) if error.to_string().contains("16384") => Ok(()),
        _ => panic!("{case}: {ended:?}"),
    }
}

/// The callee is slow.
async fn slow_callee_of(frank: &Portal, opener: bool, callee: bool, end: End) -> Result<(), BoxError> {
    let call = slow_callee(callee).overrun_after(if callee { FOR_CREDIT } else { Duration::ZERO });
    let call = if opener { call.allow_overruns() } else { call };
    let case = format!("a slow callee, allowed by opener {opener}, by callee {callee}, {end:?}");
    frank
        .open_context(call, async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            let sent = flood(&mut stream).await;
            match (callee, &sent) {
                (true, Ok(())) => {}
                (false, Err(error)) => is_overrun(error, "streams::slow_callee"),
                _ => panic!("{case}: {sent:?}"),
            }
            if end == End::Cancelled {
                ctx.cancel().await?;
                assert_eq!(ctx.outcome().await.to_string(), "cancelled by me", "{case}");
                return Ok(());
            }
            frank.run(let_go()).await?;
            drop(stream);
            let counted = ctx.result().await?;
            match callee {
                true => assert_eq!(counted.read + counted.dropped, FLOOD, "{case}: {counted:?}"),
                false => assert_eq!(counted.dropped, 0, "{case}: {counted:?}"),
            }
            assert!(counted.read > 0, "{case}: {counted:?}");
            Ok(())
        })
        .await?;
    Ok(())
}

/// Sixteen cases: what comes of them depends on what the slow side allows, and on nothing else.
#[teamster::test]
async fn the_slow_side_says_what_becomes_of_an_overrun() {
    with_one(async |frank| {
        for opener in [false, true] {
            for callee in [false, true] {
                for end in [End::Finished, End::Cancelled] {
                    slow_opener(frank, opener, callee, end).await?;
                    slow_callee_of(frank, opener, callee, end).await?;
                    is_idle(frank).await;
                }
            }
        }
        Ok(())
    })
    .await;
}

/// Keeps the newest, also where that is long.
#[context]
async fn latest(ctx: Context<(), Bytes, u64>) -> teamster::Result<(u8, u64, u64)> {
    ctx.allow_overruns();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    held().await;
    let (mut newest, mut read) = (0, 0);
    while let Some(frame) = stream.recv().await? {
        (newest, read) = (frame[0], read + 1);
    }
    Ok((newest, read, stream.dropped()))
}

/// A feed of long items, as of pictures: its sender is not held up, and its reader gets the newest.
#[teamster::test]
async fn of_long_items_that_may_be_dropped_the_newest_stays() {
    with_one(async |frank| {
        for bytes in [20_000, 300_000, 3 << 20] {
            let (newest, read, dropped) = frank
                .open_context(latest(), async |ctx, ()| {
                    let mut stream = ctx.open_stream().await?;
                    for number in 1..=40 {
                        stream.send(Bytes::from(vec![number; bytes])).await?;
                    }
                    stream.finish().await?;
                    frank.run(let_go()).await?;
                    Ok(ctx.result().await?)
                })
                .await?;
            assert_eq!((newest, read + dropped), (40, 40), "{bytes} bytes, {read} read, {dropped} dropped");
            // Where each dialog has a stream of its own, the call may be there before the items.
            let is_in_order = std::env::var("TEAMSTER_TRANSPORT").as_deref() != Ok("quic");
            assert!(dropped > 0 || !is_in_order);
        }
        Ok(())
    })
    .await;
}

const BLOCK: usize = 16 * 1024;

#[context]
async fn slow_reader(ctx: Context<(), (u64, Bytes), ()>) -> teamster::Result<u64> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut expected = 0;
    while let Some((number, block)) = stream.recv().await? {
        assert_eq!((number, block.len()), (expected, BLOCK));
        expected += 1;
        if expected == 100 {
            held().await;
        }
    }
    Ok(expected)
}

#[teamster::test]
async fn a_slow_reader_holds_its_sender_and_memory_stays_flat() {
    const ITEMS: u64 = 3000;
    const SOME_WINDOWS: usize = 6 << 20;
    with_one(async |frank| {
        let read = frank
            .open_context(slow_reader(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut number = 0;
                while number < 100 {
                    stream.send((number, Bytes::from(vec![1; BLOCK]))).await?;
                    number += 1;
                }
                let before = (resident_here(), frank.run(resident()).await?);
                // It reads no more: at some moment there is room for none, and then for none for good.
                let mut refused = 0;
                while refused < 1000 {
                    match stream.try_send((number, Bytes::from(vec![1; BLOCK]))) {
                        Ok(()) => (number, refused) = (number + 1, 0),
                        Err(TrySendError::Full(_)) => refused += 1,
                        Err(error) => return Err(error.into()),
                    }
                    tokio::task::yield_now().await;
                }
                assert!(number < ITEMS, "nothing held it up");
                let now = (resident_here(), frank.run(resident()).await?);
                let grown = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
                assert!(grown.0 < SOME_WINDOWS && grown.1 < SOME_WINDOWS, "{grown:?} bytes more");
                frank.run(let_go()).await?;
                while number < ITEMS {
                    stream.send((number, Bytes::from(vec![1; BLOCK]))).await?;
                    number += 1;
                }
                stream.finish().await?;
                let now = (resident_here(), frank.run(resident()).await?);
                let grown = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
                assert!(grown.0 < SOME_WINDOWS && grown.1 < SOME_WINDOWS, "{grown:?} bytes more");
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(read, ITEMS);
        Ok(())
    })
    .await;
}

async fn send_and_read_slowly(stream: MsgStream<u64, u64>, items: u64) -> Result<(), Error> {
    let (mut sends, mut receives) = stream.split();
    let sending = async {
        for number in 0..items {
            sends.send(number).await?;
        }
        sends.finish().await
    };
    let receiving = async {
        let mut expected = 0;
        while let Some(number) = receives.recv().await? {
            assert_eq!(number, expected);
            expected += 1;
            if expected % 8 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(expected, items);
        Ok(())
    };
    try_join(sending, receiving).await?;
    Ok(())
}

#[context]
async fn both_ways(ctx: Context<(), u64, u64>, items: u64) -> teamster::Result<()> {
    ctx.started(()).await?;
    Ok(send_and_read_slowly(ctx.open_stream().await?, items).await?)
}

#[teamster::test]
async fn both_sides_send_as_fast_as_they_can_and_read_slowly() {
    with_one(async |frank| {
        let opened = frank.open_context(both_ways(100_000), async |ctx, ()| {
            send_and_read_slowly(ctx.open_stream().await?, 100_000).await?;
            Ok(ctx.result().await?)
        });
        opened.await?;
        Ok(())
    })
    .await;
}

#[context]
async fn only_sends(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    loop {
        stream.send(7).await?;
    }
}

#[teamster::test]
async fn two_that_only_send_are_held_and_end_by_a_cancel() {
    with_one(async |frank| {
        frank
            .open_context(only_sends(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut refused = 0;
                while refused < 1000 {
                    refused = if stream.try_send(7).is_ok() { 0 } else { refused + 1 };
                    tokio::task::yield_now().await;
                }
                ctx.cancel().await?;
                assert_eq!(ctx.outcome().await.to_string(), "cancelled by me");
                assert!(matches!(stream.send(7).await, Ok(()) | Err(Error::StreamClosed { .. })));
                assert_eq!(stream.recv().await?, None);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

#[context]
async fn answers_after_the_end(ctx: Context<(), u64, u64>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut sum = 0;
    while let Some(number) = stream.recv().await? {
        sum += number;
    }
    assert_eq!(stream.recv().await?, None);
    for number in 0..1000 {
        stream.send(number).await?;
    }
    Ok(sum)
}

#[teamster::test]
async fn a_half_closed_stream_brings_a_thousand_items_back() {
    with_one(async |frank| {
        let sum = frank
            .open_context(answers_after_the_end(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for number in 0..10 {
                    stream.send(number).await?;
                }
                stream.finish().await?;
                assert!(matches!(stream.send(1).await, Err(Error::Usage(_))));
                assert!(matches!(stream.try_send(1), Err(TrySendError::Failed(Error::Usage(_)))));
                expect_numbers(&mut stream, 1000).await?;
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(sum, 45);
        Ok(())
    })
    .await;
}

/// Reads one item each time that it is let go.
#[context]
async fn one_by_one(ctx: Context<(), Bytes, u64>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut bytes = 0;
    loop {
        held().await;
        let Some(item) = stream.recv().await? else { return Ok(bytes) };
        bytes += item.len() as u64;
    }
}

#[teamster::test]
async fn an_item_without_room_comes_back_and_finds_some_when_there_was_a_read() {
    with_one(async |frank| {
        let bytes = frank
            .open_context(one_by_one(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let item = Bytes::from(vec![5; 10_000]);
                let mut sent = 0;
                for _ in 0..300 {
                    let mut waiting = Some(item.clone());
                    while let Some(item) = waiting.take() {
                        match stream.try_send(item) {
                            Ok(()) => sent += 10_000,
                            Err(TrySendError::Full(item)) => {
                                frank.run(let_go()).await?;
                                waiting = Some(item);
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                stream.finish().await?;
                for _ in 0..300 {
                    frank.run(let_go()).await?; // more than it needs
                }
                frank.run(let_go()).await?;
                assert_eq!(ctx.result().await?, sent);
                let failed = stream.try_send(item);
                assert!(matches!(failed, Err(TrySendError::Failed(Error::Usage(_)))), "{failed:?}");
                Ok(sent)
            })
            .await?;
        assert_eq!(bytes, 3_000_000);
        Ok(())
    })
    .await;
}

#[context]
async fn returns_at_once(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let _stream = ctx.open_stream().await?;
    Ok(())
}

#[teamster::test]
async fn an_item_for_nobody_is_refused_when_what_could_be_in_transit_is_used_up() {
    with_one(async |frank| {
        frank
            .open_context(returns_at_once(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                ctx.result().await?;
                let item = loop {
                    match stream.try_send(7) {
                        Ok(()) => {}
                        Err(error) => break error,
                    }
                };
                assert!(matches!(item, TrySendError::Failed(Error::StreamClosed { .. })), "{item:?}");
                let refused = stream.send(7).await;
                assert!(matches!(refused, Err(Error::StreamClosed { .. })), "{refused:?}");
                let refused = SinkExt::send(&mut stream, 7).await;
                assert!(matches!(refused, Err(Error::StreamClosed { .. })), "{refused:?}");
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

// ---- as `futures` see it

#[context]
async fn forwards(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let (sends, receives) = ctx.open_stream().await?.split();
    Ok(receives.map_ok(|number| number * 2).forward(sends).await?)
}

#[teamster::test]
async fn a_stream_is_a_stream_and_a_sink() {
    with_one(async |frank| {
        frank
            .open_context(forwards(), async |ctx, ()| {
                let (mut sends, receives) = ctx.open_stream().await?.split();
                let sending = async {
                    sends.send_all(&mut stream::iter((0..20_000).map(Ok))).await?;
                    SinkExt::feed(&mut sends, 20_000).await?;
                    SinkExt::flush(&mut sends).await?;
                    SinkExt::send(&mut sends, 20_001).await?;
                    SinkExt::close(&mut sends).await
                };
                let (received, ()) = try_join(receives.try_collect::<Vec<u64>>(), sending).await?;
                assert!(received.into_iter().eq((0..=20_001).map(|number| number * 2)));
                Ok(ctx.result().await?)
            })
            .await?;
        Ok(())
    })
    .await;
}

/// Sends numbers from one task and answers pings from another, on one stream.
#[context]
async fn two_tasks(ctx: Context<(), u64, (u8, u64)>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let (mut sends, mut receives) = ctx.open_stream().await?.split();
    let (answers, mut pings) = tokio::sync::mpsc::channel(8);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut count = 0;
        while let Some(ping) = receives.recv().await? {
            answers.send(ping).await.ok();
            count += 1;
        }
        Ok::<u64, Error>(count)
    });
    tasks.spawn(async move {
        for number in 0..5000 {
            sends.send((0, number)).await?;
            if let Ok(ping) = pings.try_recv() {
                sends.send((1, ping)).await?;
            }
        }
        while let Some(ping) = pings.recv().await {
            sends.send((1, ping)).await?;
        }
        Ok(0)
    });
    let mut count = 0;
    while let Some(ended) = tasks.join_next().await {
        count += ended??;
    }
    Ok(count)
}

#[teamster::test]
async fn halves_work_in_two_tasks() {
    with_one(async |frank| {
        let pings = frank
            .open_context(two_tasks(), async |ctx, ()| {
                let (mut sends, mut receives) = ctx.open_stream().await?.split();
                let mut tasks = JoinSet::new();
                tasks.spawn(async move {
                    for ping in 0..500 {
                        sends.send(ping).await?;
                    }
                    Ok::<_, Error>(()) // dropped, it finishes
                });
                let (mut numbers, mut answers) = (0, 0);
                while let Some((kind, number)) = receives.recv().await? {
                    let expected = if kind == 0 { &mut numbers } else { &mut answers };
                    assert_eq!(number, *expected);
                    *expected += 1;
                }
                assert_eq!((numbers, answers), (5000, 500));
                Ok(ctx.result().await?)
            })
            .await?;
        assert_eq!(pings, 500);
        Ok(())
    })
    .await;
}

/// What nobody reads any more holds up nobody, while the other way goes on.
#[teamster::test]
async fn a_dropped_reading_half_holds_up_no_sender() {
    with_one(async |frank| {
        frank
            .open_context(counts_both(), async |ctx, ()| {
                let (mut sends, receives) = ctx.open_stream().await?.split();
                drop(receives);
                for number in 0..1000 {
                    sends.send(number).await?;
                }
                sends.finish().await?;
                assert_eq!(ctx.result().await?, 1000);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

/// Sends more than may be under way, then counts what it gets.
#[context]
async fn counts_both(ctx: Context<(), u64, Bytes>) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for _ in 0..400 {
        stream.send(vec![1; 10_000].into()).await?;
    }
    stream.send(vec![1; 10 << 20].into()).await?;
    let mut count = 0;
    while stream.recv().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

// ---- results that are a stream

#[rpc]
async fn endless() -> impl Stream<Item = u64> {
    let guard = Guard::new();
    stream::iter(0..).map(move |number| {
        let _held_by_the_stream = &guard;
        number
    })
}

#[rpc]
async fn every(step: u64, until: u64) -> impl Stream<Item = u64> {
    stream::iter((0..until).step_by(step as usize))
}

#[rpc]
async fn fallible() -> impl Stream<Item = Result<u64, String>> {
    stream::iter([Ok(1), Err("no two".to_owned()), Ok(3)])
}

#[teamster::test]
async fn a_call_may_give_a_stream_and_ends_with_its_reader() {
    with_one(async |frank| {
        for asks_for_its_end in [false, true] {
            let mut numbers = frank.stream(endless()).await?;
            for expected in 0..50 {
                assert_eq!(numbers.recv().await?, Some(expected));
            }
            assert_eq!(frank.run(guards()).await?, 1);
            if asks_for_its_end {
                numbers.cancel().await?;
                assert_eq!(frank.run(guards()).await?, 0);
                assert_eq!(numbers.recv().await?, None);
            } else {
                drop(numbers);
                until("the producer is left", async || frank.run(guards()).await.is_ok_and(|left| left == 0)).await;
            }
        }
        let mut few = frank.stream(every(3, 10)).await?;
        assert_eq!((&mut few).try_collect::<Vec<u64>>().await?, [0, 3, 6, 9]);
        for _ in 0..100 {
            assert_eq!(few.recv().await?, None);
        }
        let results: Vec<_> = frank.stream(fallible()).await?.try_collect().await?;
        assert_eq!(results, [Ok(1), Err("no two".to_owned()), Ok(3)]);
        Ok(())
    })
    .await;
}

/// Merges the streams of two actors of its own.
#[context]
async fn merges(ctx: Context<(), (), u64>, until: u64) -> teamster::Result<u64> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let sent = teamster::open_nursery(async |an| {
        let streamers = try_join_all(["left", "right"].map(|name| an.start_actor(name))).await?;
        let mut sources = Vec::new();
        for (step, streamer) in streamers.iter().enumerate() {
            let source = streamer.stream(every(2, until - step as u64)).await?;
            sources.push(source.map_ok(move |number| number + step as u64));
        }
        let mut merged = stream::select_all(sources);
        let mut sent = 0;
        while let Some(number) = merged.try_next().await? {
            stream.send(number).await?;
            sent += 1;
        }
        Ok(sent)
    });
    Ok(sent.await?)
}

#[teamster::test]
async fn a_pipeline_over_four_actors_brings_each_item_once() {
    with_one(async |frank| {
        frank
            .open_context(merges(20_000), async |ctx, ()| {
                let stream = ctx.open_stream().await?;
                let mut seen: Vec<u64> = stream.try_collect().await?;
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..20_000));
                assert_eq!(ctx.result().await?, 20_000);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}

/// What streams stand on is `Send`, and what they say of themselves never fails.
#[teamster::test]
async fn streams_are_sent_and_printed() {
    fn is_sent<T: Send>(_: &T) {}
    fn travels<T: Serialize + DeserializeOwned>(_: &T) {}
    with_one(async |frank| {
        frank
            .open_context(echo(), async |ctx, ()| {
                let stream = ctx.open_stream().await?;
                is_sent(&stream);
                travels(&ctx.handle());
                let (mut sends, mut receives) = stream.split();
                is_sent(&sends.send(1));
                is_sent(&receives.recv());
                let printed = format!("{ctx:?} {sends:?} {receives:?} {:?}", ctx.handle());
                assert!(printed.contains("streams::echo") && printed.contains("u64"), "{printed}");
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}
