//! Does every item arrive once, in order, at the pace of its reader, and does each end say what it is?
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use teamster::{Context, Error, Portal, TrySendError, context, rpc};

#[context]
async fn bulk_sink(ctx: Context<(), Bytes, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut bytes = 0;
    while let Some(item) = stream.recv().await? {
        bytes += item.len() as u64;
    }
    stream.send(bytes).await?;
    Ok(())
}

#[teamster::test]
async fn long_items_arrive_whole() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        frank
            .open_context(bulk_sink(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                for _ in 0..100 {
                    stream.send(Bytes::from(vec![7; 1 << 20])).await?;
                }
                stream.finish().await?;
                assert_eq!(stream.recv().await?, Some(100 << 20));
                Ok(())
            })
            .await
            .map_err(Into::into)
    })
    .await
}

/// Sends `0..until`, then returns how many it has sent.
#[context]
async fn numbers(ctx: Context<(), (), u64>, until: u64) -> teamster::Result<u64> {
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
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(number) = stream.recv().await? {
        stream.send(number).await?;
    }
    Ok(())
}

/// Opens no stream, or late.
#[context]
async fn opens_late(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    std::future::pending().await
}

#[rpc]
async fn endless() -> impl Stream<Item = u64> {
    stream::iter(0..)
}

async fn with_one(test: impl AsyncFnOnce(&Portal) -> Result<(), teamster::BoxError>) {
    teamster::open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        test(&frank).await?;
        wait_idle().await;
        Ok(())
    })
    .await
    .unwrap();
}

async fn wait_idle() {
    let idle = async {
        while teamster::testing::open_dialogs().unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), idle).await.expect("a dialog is left open");
}

#[teamster::test]
async fn numbers_arrive_once_and_in_order() {
    with_one(async |frank| {
        let sum = frank
            .open_context(numbers(100_000), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut expected = 0;
                while let Some(number) = stream.recv().await? {
                    assert_eq!(number, expected);
                    expected += 1;
                }
                assert_eq!(stream.recv().await?, None);
                assert_eq!(ctx.result().await?, 100_000);
                Ok(expected)
            })
            .await?;
        assert_eq!(sum, 100_000);
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
async fn a_peer_that_opens_no_stream_makes_its_sender_overrun_after_exactly_the_window() {
    with_one(async |frank| {
        let overrun = frank
            .open_context(opens_late().overrun_after(Duration::ZERO), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut sent = 0;
                let error = loop {
                    match stream.send(1).await {
                        Ok(()) => sent += 1,
                        Err(error) => break error,
                    }
                };
                assert!(matches!(stream.try_send(7), Err(TrySendError::Full(7))));
                ctx.cancel().await?;
                Ok((sent, error))
            })
            .await?;
        assert_eq!(overrun.0, 16 * 1024, "a number below 128 is one byte");
        let Error::StreamOverrun { endpoint, window_bytes, .. } = &overrun.1 else { panic!("{:?}", overrun.1) };
        assert_eq!((endpoint.as_str(), *window_bytes), ("streams::opens_late", 16 * 1024));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_call_may_give_a_stream_and_ends_with_its_reader() {
    with_one(async |frank| {
        let mut numbers = frank.stream(endless()).await?;
        for expected in 0..50 {
            assert_eq!(numbers.recv().await?, Some(expected));
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn every_subscriber_gets_every_item_and_the_end() {
    with_one(async |frank| {
        frank
            .open_context(numbers(1000), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let mut subscribers: Vec<_> = (0..10).map(|_| stream.subscribe()).collect();
                let reading = subscribers.iter_mut().map(async |subscriber| {
                    let mut sum = 0;
                    while let Some(number) = subscriber.recv().await? {
                        sum += number;
                    }
                    Ok::<u64, teamster::BoxError>(sum)
                });
                let own = async {
                    let mut sum = 0;
                    while let Some(number) = stream.recv().await? {
                        sum += number;
                    }
                    Ok::<u64, teamster::BoxError>(sum)
                };
                let (sums, own) = futures::future::try_join(futures::future::try_join_all(reading), own).await?;
                assert_eq!(own, 499_500);
                assert_eq!(sums, [499_500; 10]);
                Ok(())
            })
            .await?;
        Ok(())
    })
    .await;
}
