//! Does every subscriber of a stream get all of it, and its end, whatever the others do?
use std::time::Duration;

use futures::future::{join_all, try_join, try_join_all};
use teamster::tasks::{Lag, RecvError, Subscriber};
use teamster::{BoxError, Context, Error, MsgStream, PortalContext, context};

#[path = "support/callee.rs"]
mod callee;
#[path = "support/one.rs"]
mod one;
use one::{Guard, IN_TIME, with_one};

/// Sends as many numbers as it is asked for, each time; ends well, or not.
#[context]
async fn on_demand(ctx: Context<(), u64, u64>, fails: bool) -> teamster::Result<u64> {
    let _guard = Guard::new();
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut next = 0;
    while let Some(more) = stream.recv().await? {
        for number in next..next + more {
            stream.send(number).await?;
        }
        next += more;
    }
    match fails {
        true => Err(std::io::Error::other("the feed broke"))?,
        false => Ok(next),
    }
}

type Feed = MsgStream<u64, u64>;

async fn with_feed(body: impl AsyncFnOnce(&PortalContext<on_demand>, &mut Feed) -> Result<(), BoxError>) {
    with_one(async |frank| {
        let opened =
            frank.open_context(on_demand(false), async |ctx, ()| body(ctx, &mut ctx.open_stream().await?).await);
        Ok(opened.await?)
    })
    .await;
}

/// What comes until its end.
async fn rest(mut subscriber: Subscriber<u64>) -> Result<Vec<u64>, RecvError<Error>> {
    let mut seen = Vec::new();
    while let Some(number) = subscriber.recv().await? {
        seen.push(number);
    }
    for _ in 0..100 {
        assert_eq!(subscriber.recv().await?, None);
    }
    Ok(seen)
}

async fn own_rest(stream: &mut Feed) -> Result<Vec<u64>, Error> {
    let mut seen = Vec::new();
    while let Some(number) = stream.recv().await? {
        seen.push(number);
    }
    Ok(seen)
}

#[teamster::test]
async fn twenty_two_subscribers_and_the_stream_itself_get_every_item_and_the_end() {
    with_feed(async |ctx, stream| {
        let subscribers: Vec<_> = (0..22).map(|_| stream.subscribe()).collect();
        stream.send(1000).await?;
        stream.finish().await?;
        let all = join_all(subscribers.into_iter().map(rest));
        let (all, own) = futures::future::join(all, own_rest(stream)).await;
        let expected: Vec<u64> = (0..1000).collect();
        for seen in all {
            assert_eq!(seen?, expected);
        }
        assert_eq!(own?, expected);
        assert_eq!(ctx.result().await?, 1000);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_slow_subscriber_lags_alone_and_goes_on_from_the_oldest_that_was_kept() {
    with_feed(async |_, stream| {
        let feed = stream.fan_out(100);
        let (fast, mut slow, mut skips) = (feed.subscribe(), feed.subscribe(), feed.subscribe_with(Lag::Skip));
        assert_eq!((stream.dropped(), slow.lost()), (0, 0));
        stream.send(1000).await?;
        stream.finish().await?;
        assert!(rest(fast).await?.into_iter().eq(0..1000), "the fastest loses nothing");
        let lagged = slow.recv().await;
        assert!(matches!(lagged, Err(RecvError::Lagged(900))), "{lagged:?}");
        assert!(rest(slow).await?.into_iter().eq(900..1000));
        assert_eq!(skips.recv().await?, Some(900));
        assert_eq!(skips.lost(), 900);
        // The stream itself was slow, too.
        assert!(own_rest(stream).await?.into_iter().eq(900..1000));
        assert_eq!(stream.dropped(), 900);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn one_is_cancelled_one_is_late_and_the_others_miss_nothing() {
    with_feed(async |_, stream| {
        let (stays, mut leaves) = (stream.subscribe(), stream.subscribe());
        stream.send(10).await?;
        for expected in 0..10 {
            assert_eq!(leaves.recv().await?, Some(expected));
        }
        // Cancelled while it is the one that waits for the stream below.
        tokio::select! {
            biased;
            item = leaves.recv() => panic!("{item:?}: nothing was sent"),
            () = tokio::task::yield_now() => {}
        }
        drop(leaves);
        let late = stream.subscribe();
        stream.send(10).await?;
        stream.finish().await?;
        let (all, own) = try_join(async { Ok::<_, BoxError>((rest(stays).await?, rest(late).await?)) }, async {
            Ok(own_rest(stream).await?)
        })
        .await?;
        assert!(all.0.into_iter().eq(0..20));
        assert!(all.1.into_iter().eq(10..20), "from when it came on");
        assert!(own.into_iter().eq(0..20));
        // After the end there is nothing to wait for.
        let after = tokio::time::timeout(IN_TIME, rest(stream.subscribe())).await?;
        assert_eq!(after?, Vec::<u64>::new());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn subscribers_made_one_after_the_other_see_each_item_once() {
    with_feed(async |_, stream| {
        let mut seen = Vec::new();
        for _ in 0..5 {
            let mut subscriber = stream.subscribe();
            stream.send(20).await?;
            for _ in 0..20 {
                seen.extend(subscriber.recv().await?);
            }
        }
        assert!(seen.into_iter().eq(0..100));
        Ok(())
    })
    .await;
}

/// What was under way when the stream was fanned out is the subscribers', too.
#[teamster::test]
async fn a_stream_that_was_read_can_be_fanned_out() {
    with_feed(async |_, stream| {
        stream.send(100).await?;
        stream.finish().await?;
        for expected in 0..50 {
            assert_eq!(stream.recv().await?, Some(expected));
        }
        let subscriber = stream.subscribe();
        let (seen, own) = futures::future::join(rest(subscriber), own_rest(stream)).await;
        assert!(seen?.into_iter().eq(50..100));
        assert!(own?.into_iter().eq(50..100));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn subscribers_outlive_the_stream_that_they_came_from() {
    with_one(async |frank| {
        let opened = frank.open_context(on_demand(false), async |ctx, ()| {
            let mut stream = ctx.open_stream().await?;
            let (one, two) = (stream.subscribe(), stream.subscribe());
            stream.send(1000).await?;
            drop(stream); // its sending half finishes with it
            for seen in try_join_all([rest(one), rest(two)]).await? {
                assert!(seen.into_iter().eq(0..1000));
            }
            Ok(ctx.result().await?)
        });
        assert_eq!(opened.await?, 1000);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn an_error_below_reaches_all_who_wait_with_one_cause() {
    with_one(async |frank| {
        // Owned: the body of a block is cut off by the failure.
        let ctx = frank.context(on_demand(true)).await?;
        let mut stream = ctx.open_stream().await?;
        let mut subscribers: Vec<_> = (0..5).map(|_| stream.subscribe()).collect();
        stream.send(3).await?;
        let waiting = join_all(subscribers.iter_mut().map(async |subscriber| {
            for expected in 0..3 {
                assert_eq!(subscriber.recv().await?, Some(expected));
            }
            subscriber.recv().await
        }));
        let breaking = async {
            tokio::task::yield_now().await;
            stream.finish().await
        };
        let (errors, finished) = tokio::time::timeout(IN_TIME, futures::future::join(waiting, breaking)).await?;
        finished?;
        let late = stream.subscribe().recv().await;
        let own = async {
            while stream.recv().await?.is_some() {}
            Ok::<_, Error>(None::<u64>)
        };
        let own = own.await.map_err(RecvError::Source);
        for error in errors.into_iter().chain([late, own]) {
            let Err(RecvError::Source(Error::Remote(error))) = &error else { panic!("{error:?}") };
            assert_eq!(error.message(), "the feed broke");
        }
        for mut subscriber in subscribers {
            for _ in 0..100 {
                assert!(matches!(subscriber.recv().await, Err(RecvError::Source(_))));
            }
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_cancel_of_our_own_ends_all_subscribers_well() {
    with_feed(async |ctx, stream| {
        let mut subscribers: Vec<_> = (0..5).map(|_| stream.subscribe()).collect();
        let waiting = join_all(subscribers.iter_mut().map(|subscriber| subscriber.recv()));
        let cancelling = async {
            tokio::task::yield_now().await;
            ctx.cancel().await
        };
        let (ended, cancelled) =
            tokio::time::timeout(Duration::from_secs(20), futures::future::join(waiting, cancelling)).await?;
        cancelled?;
        for end in ended {
            assert_eq!(end?, None);
        }
        Ok(())
    })
    .await;
}
