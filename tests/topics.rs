//! Does every subscriber get what it wants, once, and does nobody disturb anybody else?
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join, poll_immediate};
use rustix::process::{Pid, Signal, kill_process};
use teamster::tasks::Topics;
use teamster::testing::{drop_at_every_await, expect_cancelled, open_dialogs};
use teamster::{ActorNursery, BoxError, Context, Error, PortalContext, context, this_actor};
use tokio::task::yield_now;

/// Whatever should happen has happened by then.
const LONG: Duration = Duration::from_secs(60);

/// Subscribes at its parent. What it receives goes on to its opener; what its opener sends are topics to want or,
/// behind a `-`, to want no more. Its first word says that it has subscribed, its result how much it has lost.
#[context]
async fn reader(ctx: Context<(), String, (String, u32)>, hub: String, topics: Vec<String>) -> teamster::Result<u64> {
    let publisher = teamster::parent()?.expect("no root reads");
    let mut messages = Topics::<u32>::subscribe(&publisher, &hub, topics).await?;
    ctx.started(()).await?;
    let (mut sends, mut wishes) = ctx.open_stream().await?.split();
    loop {
        tokio::select! {
            biased; // what was received goes before the answer to a wish
            message = messages.recv() => match message? {
                Some((topic, number)) => sends.send((topic.to_string(), number)).await?,
                None => return Ok(messages.lost()),
            },
            wish = wishes.recv() => match wish? {
                Some(wish) => {
                    match wish.strip_prefix('-') {
                        Some(topic) => messages.unsubscribe([topic]),
                        None => messages.subscribe([wish.as_str()]).await?,
                    }
                    sends.send((wish, 0)).await?;
                }
                None => return Ok(messages.lost()),
            },
        }
    }
}

/// Subscribes, and reads when it is told to: what is there then.
#[context]
async fn sleeper(ctx: Context<(), (), (u64, u32)>, hub: String) -> teamster::Result<()> {
    let publisher = teamster::parent()?.expect("no root reads");
    let mut messages = Topics::<u32>::subscribe(&publisher, &hub, ["a"]).await?;
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while stream.recv().await?.is_some() {
        if let Some((_, number)) = messages.recv().await? {
            stream.send((messages.lost(), number)).await?;
        }
    }
    Ok(())
}

/// Has a hub, and publishes what it is sent.
#[context]
async fn desk(ctx: Context<(), u32, ()>, hub: String) -> teamster::Result<()> {
    let topics = Topics::open(hub)?;
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(number) = stream.recv().await? {
        topics.publish("a", &number)?;
        stream.send(()).await?;
    }
    Ok(())
}

async fn in_a_tree(test: impl AsyncFnOnce(&ActorNursery) -> Result<(), BoxError>) {
    let tree = teamster::open_nursery(async |an| {
        test(an).await?;
        until("a dialog is left open", || open_dialogs().is_ok_and(|open| open == 0)).await;
        Ok(())
    });
    tree.await.unwrap();
}

async fn until(complaint: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect(complaint);
}

fn reads(topics: &[&str]) -> teamster::ContextCall<reader> {
    reader("news".into(), topics.iter().map(|topic| (*topic).to_owned()).collect())
}

/// Reads what was published up to the end, and how much was lost.
async fn all(ctx: &PortalContext<reader>) -> Result<(Vec<(String, u32)>, u64), Error> {
    let mut received = Vec::new();
    let mut stream = ctx.open_stream().await?;
    while let Some(message) = stream.recv().await? {
        received.push(message);
    }
    Ok((received, ctx.result().await?))
}

fn of(messages: &[(&str, u32)]) -> Vec<(String, u32)> {
    messages.iter().map(|(topic, number)| ((*topic).to_owned(), *number)).collect()
}

#[teamster::test]
async fn a_message_goes_once_to_an_actor_and_from_there_to_all_who_want_it() {
    in_a_tree(async |an| {
        let news = Topics::<u32>::open("news")?;
        let [frank, anna] = &an.start_actors(["frank", "anna"]).await?[..] else { panic!("two were started") };
        let (one, two) = (frank.context(reads(&["a", "b"])).await?, frank.context(reads(&["b", "c"])).await?);
        let three = anna.context(reads(&["a"])).await?;
        assert_eq!((news.actors(), open_dialogs()?), (2, 3 + 2), "each actor has one line of messages");
        assert_eq!(news.publish("a", &1)?, 2);
        assert_eq!(news.publish("b", &2)?, 1);
        assert_eq!(news.publish("c", &3)?, 1);
        assert_eq!(news.publish("d", &4)?, 0);
        drop(news);
        assert_eq!(all(&one).await?, (of(&[("a", 1), ("b", 2)]), 0));
        assert_eq!(all(&two).await?, (of(&[("b", 2), ("c", 3)]), 0));
        assert_eq!(all(&three).await?, (of(&[("a", 1)]), 0));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn topics_change_while_they_are_read() {
    in_a_tree(async |an| {
        let news = Topics::<u32>::open("news")?;
        let frank = an.start_actor("frank").await?;
        let other = frank.context(reads(&["a"])).await?;
        let ctx = frank.context(reads(&["a"])).await?;
        let mut stream = ctx.open_stream().await?;
        // Known to the publisher when the answer comes, both ways.
        for (wish, wanted) in [("b", "ab"), ("a", "ab"), ("-a", "b"), ("-b", ""), ("c", "c"), ("-c", "")] {
            stream.send(wish.to_owned()).await?;
            assert_eq!(stream.recv().await?, Some((wish.to_owned(), 0)));
            for topic in ["a", "b", "c"] {
                news.publish(topic, &7)?;
                if wanted.contains(topic) {
                    assert_eq!(stream.recv().await?, Some((topic.to_owned(), 7)), "after {wish}");
                }
            }
        }
        // What nobody wants any more is not even sent.
        until("b is still sent", || news.publish("b", &0).is_ok_and(|actors| actors == 0)).await;
        drop(news);
        assert_eq!(stream.recv().await?, None);
        assert_eq!(all(&other).await?.0, of(&[("a", 7); 6]), "another's changes are not ours");
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_killed_subscriber_is_forgotten_and_one_that_leaves_too() {
    in_a_tree(async |an| {
        let news = Topics::<u32>::open("news")?;
        let [frank, anna] = &an.start_actors(["frank", "anna"]).await?[..] else { panic!("two were started") };
        let ctx = frank.context(reads(&["a"])).await?;
        let (lost, left) = (anna.context(reads(&["a"])).await?, frank.context(reads(&["b"])).await?);
        assert_eq!(news.publish("a", &1)?, 2);
        anna.kill_actor().await?;
        expect_cancelled(lost.result().await); // it was we who asked
        until("it is not forgotten", || news.actors() == 1).await;
        assert_eq!(news.publish("a", &2)?, 1);
        left.cancel().await?;
        until("its topic is not forgotten", || news.publish("b", &0).is_ok_and(|actors| actors == 0)).await;
        assert_eq!(news.publish("a", &3)?, 1);
        drop(news);
        assert_eq!(all(&ctx).await?, (of(&[("a", 1), ("a", 2), ("a", 3)]), 0));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn who_is_slow_loses_the_oldest_alone_and_can_tell_how_many() {
    in_a_tree(async |an| {
        let news = Topics::<u32>::open_with("news", 10)?;
        let frank = an.start_actor("frank").await?;
        let (slow, fast) = (frank.context(sleeper("news".into())).await?, frank.context(reads(&["a", "z"])).await?);
        let (mut slow, mut fast) = (slow.open_stream().await?, fast.open_stream().await?);
        for number in 1..=100 {
            news.publish("a", &number)?;
            assert_eq!(fast.recv().await?, Some((String::from("a"), number)));
        }
        for number in 91..=100 {
            slow.send(()).await?;
            assert_eq!(slow.recv().await?, Some((90, number)));
        }
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn an_actor_that_is_stopped_holds_up_nobody_and_its_loss_is_counted() {
    in_a_tree(async |an| {
        let news = Topics::<u32>::open("news")?;
        let [frank, anna] = &an.start_actors(["frank", "anna"]).await?[..] else { panic!("two were started") };
        let (stopped, other) = (frank.context(reads(&["a", "b"])).await?, anna.context(reads(&["b"])).await?);
        let mut others = other.open_stream().await?;
        let pid = i32::try_from(frank.aid().pid()).ok().and_then(Pid::from_raw).expect("it is a pid");
        kill_process(pid, Signal::STOP)?;
        let published = 60_000;
        for number in 1..=published {
            assert_eq!(news.publish("a", &number)?, 1);
            if number % 1000 == 0 {
                news.publish("b", &number)?;
                assert_eq!(others.recv().await?, Some((String::from("b"), number)));
            }
        }
        kill_process(pid, Signal::CONT)?;
        let ended = async {
            let mut stream = stopped.open_stream().await?;
            let (mut received, mut last) = (0, 0);
            while let Some((topic, number)) = stream.recv().await? {
                assert!(number > last || topic == "b", "{topic} {number} came after {last}");
                (received, last) = (received + 1, number);
            }
            Ok::<_, BoxError>((received, last, stopped.result().await?))
        };
        drop(news);
        let (received, last, lost) = ended.await?;
        assert!(lost > 0, "the way to a stopped actor holds less than {published} messages");
        assert_eq!((received + lost, last), (u64::from(published + published / 1000), published));
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn the_end_of_the_publisher_is_the_end_of_its_topics() {
    in_a_tree(async |an| {
        let frank = an.start_actor("frank").await?;
        let ctx = frank.context(desk("news".into())).await?;
        let (mut one, mut two) =
            join(async { Topics::<u32>::subscribe(&frank, "news", ["a"]).await.unwrap() }, async {
                Topics::<u32>::subscribe(&frank, "news", ["a"]).await.unwrap()
            })
            .await;
        let mut stream = ctx.open_stream().await?;
        stream.send(5).await?;
        assert_eq!(one.recv().await?, Some(("a".into(), 5)));
        frank.kill_actor().await?;
        assert_eq!(two.recv().await?, Some(("a".into(), 5)), "it had arrived");
        for _ in 0..3 {
            expect_cancelled(one.recv().await); // it was we who asked
        }
        expect_cancelled(two.subscribe(["b"]).await);
        assert!(matches!(two.next().await, Some(Err(Error::Cancelled { .. }))));
        assert!(two.next().await.is_none(), "as a stream it ends after its error");
        // The next one tries anew.
        assert!(Topics::<u32>::subscribe(&frank, "news", ["a"]).await.is_err());
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_hub_is_waited_for_and_its_type_is_looked_at() {
    in_a_tree(async |_an| {
        let here = this_actor()?;
        let mut early = Box::pin(Topics::<u32>::subscribe(&here, "late", ["a"]));
        assert!(poll_immediate(&mut early).await.is_none());
        until("it does not ask", || open_dialogs().is_ok_and(|open| open > 0)).await;
        let late = Topics::<u32>::open("late")?;
        let mut early = early.await?;
        let mut second = Topics::<u32>::subscribe(&here, "late", ["a"]).await?;
        assert_eq!(late.publish("a", &1)?, 1, "an actor may be its own subscriber");
        assert_eq!((early.recv().await?, second.recv().await?), (Some(("a".into(), 1)), Some(("a".into(), 1))));

        let error = Topics::<String>::subscribe(&here, "late", ["a"]).await.unwrap_err();
        assert!(error.to_string().contains("the messages of the hub \"late\" are u32"), "{error}");
        assert!(matches!(Topics::<u32>::open("late"), Err(Error::Usage(_))));
        let other = Topics::<u32>::open("other")?;
        let mut others = Topics::<u32>::subscribe(&here, "other", ["a"]).await?;
        other.publish("a", &2)?;
        assert_eq!(others.recv().await?, Some(("a".into(), 2)));
        drop(late);
        assert_eq!(early.recv().await?, None);
        drop(Topics::<u32>::open("late")?);
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_subscription_that_is_dropped_on_its_way_is_none() {
    in_a_tree(async |an| {
        let frank = an.start_actor("frank").await?;
        let ctx = frank.context(desk("news".into())).await?;
        drop_at_every_await(
            async || Topics::<u32>::subscribe(&frank, "news", ["a"]).await.map(drop).unwrap(),
            async |_| until("a dropped one is still open", || open_dialogs().is_ok_and(|open| open == 1)).await,
        )
        .await;
        ctx.cancel().await?;
        Ok(())
    })
    .await;
}

#[teamster::test]
async fn a_message_over_the_limit_is_its_publishers_error_alone() {
    const LIMIT_BYTES: usize = 256 * 1024; // the least that it can be set to
    let ended = teamster::root().message_limit(1).open(async |_an| {
        let here = teamster::this_actor()?;
        let news = Topics::<Vec<u8>>::open("news")?;
        let mut reader = Topics::<Vec<u8>>::subscribe(&here, "news", ["a"]).await?;
        let refused = news.publish("a", &vec![1; LIMIT_BYTES]);
        assert!(matches!(&refused, Err(Error::Codec(codec)) if codec.value() == "the message"), "{refused:?}");
        assert_eq!(news.publish("a", &vec![2])?, 1);
        assert_eq!(reader.recv().await?, Some(("a".into(), vec![2])));
        Ok(())
    });
    ended.await.unwrap();
}
