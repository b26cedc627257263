use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::tasks::open_nursery;
use crate::testing::drop_at_every_await;

type Item = Result<u32, &'static str>;
type Recv = Result<Option<u32>, RecvError<&'static str>>;

fn channel(capacity: usize) -> (mpsc::UnboundedSender<Item>, Broadcast<u32, &'static str>) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, broadcast(receiver, capacity))
}

/// Many items that are there already.
fn numbers(numbers: std::ops::Range<u32>, capacity: usize) -> Broadcast<u32, &'static str> {
    broadcast(futures::stream::iter(numbers).map(Ok), capacity)
}

fn now(subscriber: &mut Subscriber<u32, &'static str>) -> Option<Recv> {
    subscriber.recv().now_or_never()
}

/// All that comes until there is nothing more at this moment.
fn drain(subscriber: &mut Subscriber<u32, &'static str>) -> Vec<Recv> {
    std::iter::from_fn(|| now(subscriber).filter(|got| !matches!(got, Ok(None)))).collect()
}

#[tokio::test]
async fn twenty_two_subscribers_get_all_of_it() {
    let (mut sender, feed) = channel(1000);
    let subscribers: Vec<_> = (0..22).map(|_| feed.subscribe()).collect();
    let counts = subscribers.into_iter().map(|subscriber| async {
        let all: Vec<u32> = subscriber.map(Result::unwrap).collect().await;
        assert_eq!(all, Vec::from_iter(0..1000));
        all.len()
    });
    let produce = async {
        for n in 0..1000 {
            sender.send(Ok(n)).await.unwrap();
            if n % 7 == 0 {
                yield_now().await;
            }
        }
        drop(sender);
    };
    let (counts, ()) = futures::join!(futures::future::join_all(counts), produce);
    assert_eq!(counts, [1000; 22]);
}

#[test]
fn a_slow_one_lags_alone_and_is_told_once() {
    let feed = numbers(0..10, 4);
    let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe());
    assert_eq!(drain(&mut fast), Vec::from_iter((0..10).map(|n| Ok(Some(n)))));
    assert_eq!(drain(&mut slow), [Err(RecvError::Lagged(6)), Ok(Some(6)), Ok(Some(7)), Ok(Some(8)), Ok(Some(9))]);
    assert_eq!((fast.lost(), slow.lost()), (0, 6));
}

#[test]
fn one_that_skips_goes_on_from_the_oldest_without_an_error() {
    let feed = numbers(0..10, 4);
    let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe_with(Lag::Skip));
    assert_eq!(now(&mut slow), Some(Ok(Some(0))));
    drain(&mut fast);
    assert_eq!(drain(&mut slow), [6, 7, 8, 9].map(|n| Ok(Some(n))));
    assert_eq!(slow.lost(), 5);
}

#[test]
fn one_that_is_waited_for_loses_nothing_and_holds_up_all() {
    let feed = numbers(0..10, 4);
    let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe_with(Lag::Wait));
    assert_eq!(drain(&mut fast).len(), 4);
    assert_eq!(now(&mut fast), None); // the fifth is not taken from the source
    assert_eq!(now(&mut slow), Some(Ok(Some(0))));
    assert_eq!(drain(&mut fast), [Ok(Some(4))]);
    drop(slow); // and nobody waits any more
    assert_eq!(drain(&mut fast).len(), 5);
}

#[tokio::test]
async fn who_waits_for_room_is_woken_by_a_read_and_by_a_drop() {
    for is_dropped in [false, true] {
        let feed = numbers(0..10, 2);
        let (mut fast, mut slow) = (feed.subscribe(), feed.subscribe_with(Lag::Wait));
        drain(&mut fast);
        let makes_room = async {
            yield_now().await;
            match is_dropped {
                true => drop(slow),
                false => assert_eq!(slow.recv().await, Ok(Some(0))),
            }
        };
        let third = timeout(Duration::from_secs(5), fast.recv());
        assert_eq!(futures::join!(third, makes_room).0, Ok(Ok(Some(2))));
    }
}

#[tokio::test]
async fn the_end_wakes_all_and_is_repeated_for_ever() {
    for end in [Ok(None), Err(RecvError::Source("the line is lost"))] {
        let (mut sender, feed) = channel(4);
        let mut subscribers: Vec<_> = (0..3).map(|_| feed.subscribe()).collect();
        let mut behind = feed.subscribe();
        let wait = subscribers.iter_mut().map(|subscriber| async {
            assert_eq!(subscriber.recv().await, Ok(Some(1)));
            subscriber.recv().await
        });
        let finish = async {
            sender.send(Ok(1)).await.unwrap();
            yield_now().await;
            if end.is_err() {
                sender.send(Err("the line is lost")).await.unwrap();
            }
            drop(sender);
        };
        let (ends, ()) = futures::join!(futures::future::join_all(wait), finish);
        assert_eq!(ends, [end.clone(), end.clone(), end.clone()]);
        assert_eq!(now(&mut behind), Some(Ok(Some(1)))); // its last item comes first
        let mut late = feed.subscribe();
        for subscriber in subscribers.iter_mut().chain([&mut behind, &mut late]) {
            for _ in 0..100 {
                assert_eq!(now(subscriber), Some(end.clone()));
            }
        }
        let as_stream: Vec<_> = late.take(5).collect().await;
        assert_eq!(as_stream, end.clone().transpose().into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_source_is_gone_when_it_has_ended() {
    let kept = Arc::new(());
    let held = Arc::clone(&kept);
    let source = futures::stream::once(async move {
        let _held = held;
        Ok::<u32, ()>(1)
    });
    let mut subscriber = broadcast(source, 1).subscribe();
    while subscriber.recv().await.unwrap().is_some() {}
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[tokio::test]
async fn another_takes_over_from_one_that_is_dropped_in_polling() {
    let (mut sender, feed) = channel(8);
    let (mut first, mut second) = (feed.subscribe(), feed.subscribe());
    let mut waits = Box::pin(first.recv());
    assert!(futures::poll!(&mut waits).is_pending()); // it has polled the source
    let mut follows = Box::pin(second.recv());
    assert!(futures::poll!(&mut follows).is_pending());
    drop(waits);
    sender.send(Ok(1)).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(5), follows).await.unwrap(), Ok(Some(1)));
    assert_eq!(first.recv().await, Ok(Some(1)));
}

#[test]
fn a_wake_that_comes_while_the_source_is_polled_reaches_who_asked_meanwhile() {
    struct Flag(AtomicUsize);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(AtomicUsize::new(0)));
    let guest = Arc::new(Mutex::new(None::<Subscriber<u32, &'static str>>));
    let (theirs, waker) = (Arc::clone(&guest), Waker::from(Arc::clone(&flag)));
    let source = futures::stream::poll_fn(move |cx| {
        let asks_meanwhile = theirs.lock().take();
        if let Some(mut guest) = asks_meanwhile {
            cx.waker().wake_by_ref(); // there is news, and the one who polls is told
            assert!(guest.poll_recv(&mut Context::from_waker(&waker)).is_pending());
            *theirs.lock() = Some(guest);
        }
        Poll::<Option<Item>>::Pending
    });
    let feed = broadcast(source, 4);
    *guest.lock() = Some(feed.subscribe());
    // It is polled once, and asks no more, woken or not: a source that is out of its budget wakes at once.
    assert_eq!(now(&mut feed.subscribe()), None);
    assert_eq!(flag.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropped_at_any_await_a_recv_loses_nothing_for_anybody() {
    let (sender, feed) = channel(64);
    let (dropped, mut other) = (tokio::sync::Mutex::new(feed.subscribe()), feed.subscribe());
    let (next, got) = (AtomicUsize::new(0), parking_lot::Mutex::new(Vec::new()));
    let make = || async {
        for _ in 0..3 {
            let mut sender = sender.clone();
            let number = u32::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
            let send = async move {
                yield_now().await;
                sender.send(Ok(number)).await.unwrap();
            };
            let mut subscriber = dropped.lock().await;
            let receive = async {
                let item = subscriber.recv().await;
                got.lock().push(item);
            };
            futures::join!(receive, send);
        }
    };
    drop_at_every_await(make, async |_| {}).await;
    drop(sender);
    got.lock().extend(drain(&mut *dropped.lock().await));
    assert_eq!(*got.lock(), drain(&mut other));
    assert!(got.lock().len() > 3);
}

#[tokio::test]
async fn a_consumer_that_is_started_anew_sees_every_value_once() {
    let (sender, feed) = channel(64);
    let mut subscriber = feed.subscribe();
    let mut seen = Vec::new();
    for round in 0..5u32 {
        for n in 0..10 {
            sender.unbounded_send(Ok(round * 10 + n)).unwrap();
        }
        let consumer = async {
            while let Ok(Some(n)) = subscriber.recv().await {
                seen.push(n);
                if n % 10 == 7 {
                    futures::future::pending::<()>().await;
                }
            }
        };
        assert!(consumer.now_or_never().is_none()); // dropped in the middle
    }
    drop(sender);
    seen.extend(subscriber.map(Result::unwrap).collect::<Vec<_>>().await);
    assert_eq!(seen, Vec::from_iter(0..50));
}

#[test]
fn it_is_read_only_when_somebody_reads_and_asked_once_for_each_wake() {
    let polls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&polls);
    let (sender, mut receiver) = mpsc::unbounded::<Item>();
    let source = futures::stream::poll_fn(move |cx| {
        count.fetch_add(1, Ordering::SeqCst);
        receiver.poll_next_unpin(cx)
    });
    let feed = broadcast(source, 8);
    let mut subscribers: Vec<_> = (0..5).map(|_| feed.subscribe()).collect();
    sender.unbounded_send(Ok(1)).unwrap();
    assert_eq!(polls.load(Ordering::SeqCst), 0);
    for subscriber in &mut subscribers {
        assert_eq!(drain(subscriber), [Ok(Some(1))]);
    }
    assert_eq!(polls.load(Ordering::SeqCst), 2); // the item, and that there is none
    sender.unbounded_send(Ok(2)).unwrap();
    for subscriber in &mut subscribers {
        assert_eq!(drain(subscriber), [Ok(Some(2))]);
    }
    assert_eq!(polls.load(Ordering::SeqCst), 4);
}

#[test]
fn the_last_reader_gets_the_item_itself() {
    struct Counted(Arc<AtomicUsize>);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::SeqCst);
            Counted(Arc::clone(&self.0))
        }
    }
    let clones = Arc::new(AtomicUsize::new(0));
    let item = Counted(Arc::clone(&clones));
    let feed = broadcast(futures::stream::iter([Ok::<_, ()>(item)]), 4);
    let mut subscribers: Vec<_> = (0..3).map(|_| feed.subscribe()).collect();
    for subscriber in &mut subscribers {
        assert!(subscriber.recv().now_or_never().unwrap().unwrap().is_some());
    }
    assert_eq!(clones.load(Ordering::SeqCst), 2);
    assert_eq!(feed.core.state.lock().ring.len(), 0);
}

#[test]
fn a_panic_of_the_source_is_met_by_whoever_polls_it() {
    let source = futures::stream::poll_fn(|_| -> Poll<Option<Item>> { panic!("a broken source") });
    let feed = broadcast(source, 1);
    for _ in 0..2 {
        let mut subscriber = feed.subscribe();
        let polled = catch_unwind(AssertUnwindSafe(|| now(&mut subscriber)));
        assert_eq!(*polled.unwrap_err().downcast_ref::<&str>().unwrap(), "a broken source");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn between_threads_nothing_is_lost_and_nobody_is_stuck() {
    const ITEMS: u32 = 2000;
    let (sender, feed) = channel(16);
    let everything = timeout(
        Duration::from_secs(60),
        open_nursery(async |tn| {
            for _ in 0..4 {
                let mut subscriber = feed.subscribe_with(Lag::Wait);
                tn.spawn(async move {
                    for n in 0..ITEMS {
                        // Some are dropped in the middle, and asked for again.
                        let item = loop {
                            let mut recv = std::pin::pin!(subscriber.recv());
                            match futures::poll!(&mut recv) {
                                Poll::Ready(item) => break item.unwrap(),
                                Poll::Pending if n % 3 == 0 => yield_now().await,
                                Poll::Pending => break recv.await.unwrap(),
                            }
                        };
                        assert_eq!(item, Some(n));
                    }
                    assert_eq!(subscriber.recv().await, Ok(None));
                    Ok(())
                });
            }
            let feed = feed.clone();
            tn.spawn(async move {
                loop {
                    // Comes, reads one and goes again, or is cut off while it waits.
                    let mut guest = feed.subscribe_with(Lag::Wait);
                    let recv = futures::future::select(Box::pin(guest.recv()), Box::pin(yield_now()));
                    if let futures::future::Either::Left((Ok(None), _)) = recv.await {
                        return Ok(());
                    }
                }
            });
            tn.spawn(async move {
                for n in 0..ITEMS {
                    sender.unbounded_send(Ok(n))?;
                    if n % 10 == 0 {
                        yield_now().await;
                    }
                }
                Ok(())
            });
            Ok(())
        }),
    );
    everything.await.expect("somebody is stuck").unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(Lag),
    Send,
    Read(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop_oneof![Just(Lag::Report), Just(Lag::Skip), Just(Lag::Wait)].prop_map(Step::Subscribe),
        4 => Just(Step::Send),
        6 => (0..8usize).prop_map(Step::Read),
        1 => (0..8usize).prop_map(Step::Drop),
    ]
}

proptest! {
    /// Every subscriber gets, from its beginning on, each item or is told that it was lost.
    #[test]
    fn whatever_they_do_each_one_accounts_for_every_item(
        steps in prop::collection::vec(step(), 1..200),
        capacity in 0..5usize,
    ) {
        let (sender, feed) = channel(capacity);
        // What each should see next, as far as anybody has.
        let mut subscribers: Vec<(Subscriber<u32, &'static str>, u32)> = Vec::new();
        let (mut sent, mut taken) = (0, 0);
        let read = |(subscriber, next): &mut (Subscriber<u32, &'static str>, u32), taken: &mut u32| {
            let got = now(subscriber);
            match &got {
                Some(Ok(Some(n))) => {
                    if subscriber.lag == Lag::Skip {
                        prop_assert!(*n >= *next);
                    } else {
                        prop_assert_eq!(*n, *next);
                    }
                    *next = n + 1;
                    *taken = (*taken).max(*next);
                }
                Some(Err(RecvError::Lagged(lost))) => {
                    prop_assert!(subscriber.lag == Lag::Report && *lost > 0);
                    *next += u32::try_from(*lost).unwrap();
                }
                Some(Ok(None) | Err(_)) | None => {}
            }
            Ok(got)
        };
        for step in steps {
            match step {
                Step::Subscribe(lag) => subscribers.push((feed.subscribe_with(lag), taken)),
                Step::Send => {
                    sender.unbounded_send(Ok(sent)).unwrap();
                    sent += 1;
                }
                Step::Read(at) => {
                    if let Some(subscriber) = subscribers.get_mut(at) {
                        read(subscriber, &mut taken)?;
                    }
                }
                Step::Drop(at) => {
                    if at < subscribers.len() {
                        subscribers.remove(at);
                    }
                }
            }
            let kept = feed.core.state.lock().ring.len();
            prop_assert!(kept <= capacity.max(1));
        }
        drop(sender);
        // In the end all of them read to the end, in turns: who waits for another gets its turn again.
        let mut ended = vec![false; subscribers.len()];
        for _ in 0..=sent {
            for (subscriber, ended) in subscribers.iter_mut().zip(&mut ended) {
                while !*ended && let Some(got) = read(subscriber, &mut taken)? {
                    *ended = got == Ok(None);
                }
            }
        }
        prop_assert!(ended.iter().all(|ended| *ended), "{ended:?}");
        for (subscriber, next) in &subscribers {
            prop_assert!(subscriber.lag == Lag::Skip || *next == sent);
        }
        prop_assert_eq!(feed.core.state.lock().ring.len(), 0);
    }
}
