//! What does a future lose when it is dropped at one of its awaits?
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// Makes a future, polls it `k` times, drops it there and checks the world: for `k` = 0, 1, 2, …
/// until one comes to its end. Its output.
///
/// Each `k` has two rounds: in one the future is dropped while it waits, in the other when it has just
/// been woken. Between its polls it waits to be woken, like any other. With a clock that stands still
/// (`#[tokio::test(start_paused = true)]`) its sleeps cost no time. `check` is told `k`, and is
/// called for the one that has ended too.
///
/// # Panics
///
/// When no future has ended after a thousand polls.
///
/// # Examples
///
/// A queue of one place, and a `recv` that loses what it took if it is dropped between its two awaits:
///
/// ```should_panic
/// use tokio::sync::{Mutex, mpsc};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (sender, receiver) = mpsc::channel(1);
/// let receiver = Mutex::new(receiver);
/// let recv = || async {
///     let item = receiver.lock().await.recv().await;
///     tokio::task::yield_now().await; // dropped here, the item is gone
///     item
/// };
/// sender.send("item").await.unwrap();
/// teamster::testing::drop_at_every_await(recv, async |k| {
///     let queue = receiver.lock().await;
///     assert_eq!(queue.len(), 1, "lost by a drop after poll {k}");
/// })
/// .await;
/// # }
/// ```
pub async fn drop_at_every_await<Fut: Future>(
    mut make: impl FnMut() -> Fut,
    mut check: impl AsyncFnMut(usize),
) -> Fut::Output {
    for polls in 0..MAX_POLLS {
        for drop_when in [DropWhen::Waiting, DropWhen::Woken] {
            let output = {
                let future = pin!(make());
                PolledAtMost { future, polls, drop_when }.await
            };
            check(polls).await;
            if let Some(output) = output {
                return output;
            }
        }
    }
    panic!("no future has come to its end within {MAX_POLLS} polls");
}

const MAX_POLLS: usize = 1000;

#[derive(Clone, Copy, PartialEq)]
enum DropWhen {
    Waiting,
    Woken,
}

/// `None` once there is no poll left.
struct PolledAtMost<'a, Fut> {
    future: Pin<&'a mut Fut>,
    polls: usize,
    drop_when: DropWhen,
}

impl<Fut: Future> Future for PolledAtMost<'_, Fut> {
    type Output = Option<Fut::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else { return Poll::Ready(None) };
        self.polls = left;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 && self.drop_when == DropWhen::Waiting => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn it_is_dropped_at_every_await_waiting_and_woken_and_ends_with_the_output() {
        struct Alive<'a>(&'a Cell<usize>);
        impl Drop for Alive<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (alive, passed) = (Cell::new(0), Cell::new(0));
        let make = || async {
            alive.set(1);
            let _alive = Alive(&alive);
            for _ in 0..3 {
                passed.set(passed.get() + 1);
                tokio::task::yield_now().await;
            }
            "the end"
        };
        let mut seen = Vec::new();
        let output = drop_at_every_await(make, async |polls| {
            assert_eq!(alive.get(), 0);
            seen.push((polls, passed.take()));
        })
        .await;
        assert_eq!(output, "the end");
        assert_eq!(seen, [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (3, 3), (4, 3)]);
    }
}
