//! What time is it for this actor? One clock for its deadlines, and for every timer between cancel and reaped.
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::control::Control;
use super::suspend;
use crate::msg::frame::Frame;

/// A clock that can stand still: nobody's time runs out while code of his, or below him, is held by a
/// debugger, nor while the whole tree is stopped by the terminal.
///
/// A point in time on it is an [`Instant`], which says nothing to any other clock.
pub(crate) struct Clock {
    control: Arc<Control>,
    /// Held from a change until those above were told of it: so they hear of the changes in their order.
    telling: Mutex<()>,
    state: Mutex<State>,
    goes_on: Notify,
    goes_on_blocking: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How long it has stood in holds so far, but for the one that is on now.
    stood: Duration,
    holds: usize,
    /// Since when it stands.
    since: Option<Instant>,
    /// Holds stop it no more.
    is_void: bool,
}

impl Clock {
    pub(crate) fn new(control: Arc<Control>) -> Arc<Self> {
        Arc::new(Clock {
            control,
            telling: Mutex::default(),
            state: Mutex::default(),
            goes_on: Notify::new(),
            goes_on_blocking: Condvar::new(),
        })
    }

    pub(crate) fn now(&self) -> Instant {
        self.read().0
    }

    /// What time it is, and how long it has stood until now.
    fn read(&self) -> (Instant, Duration) {
        let state = self.state.lock();
        let (awake, asleep) = suspend::awake();
        let since = state.since.unwrap_or(awake);
        (since - state.stood, asleep + state.stood + awake.saturating_duration_since(since))
    }

    // ---- who stops it

    /// One hold more. The first one stops it, and those above are told before this returns.
    ///
    /// It may be called by any thread, whatever that is doing: it does not panic, and waits for nobody who does more
    /// than this.
    pub(super) fn hold(&self) {
        let _in_order = self.telling.lock();
        let mut state = self.state.lock();
        state.holds += 1;
        if state.holds > 1 || state.is_void {
            return;
        }
        state.since = Some(suspend::awake().0);
        drop(state);
        // A parent whose line is broken is gone.
        let _ = self.control.send_up(&Frame::Hold { on: true });
        self.control.beat_everywhere(|| self.is_held());
    }

    /// One hold less. With the last one it goes on.
    pub(super) fn release(&self) {
        let in_order = self.telling.lock();
        let mut state = self.state.lock();
        state.holds -= 1;
        if state.holds > 0 || !state.start() {
            return;
        }
        drop(state);
        let _ = self.control.send_up(&Frame::Hold { on: false });
        self.control.beat_everywhere(|| self.is_held());
        drop(in_order);
        self.wake();
    }

    /// It goes on whoever holds it, now and later: nobody is left who could release them, or somebody wants this
    /// actor gone at once.
    pub(super) fn void(&self) {
        let mut state = self.state.lock();
        state.is_void = true;
        if state.start() {
            drop(state);
            self.wake();
        }
    }

    fn wake(&self) {
        self.goes_on.notify_waiters();
        let _state = self.state.lock(); // whoever has just looked is waiting by now
        self.goes_on_blocking.notify_all();
        self.control.wake(); // its timers count again
    }

    // ---- who waits for it

    /// Whether a hold stops it.
    pub(crate) fn is_held(&self) -> bool {
        self.state.lock().since.is_some()
    }

    /// Waits until no hold stops it.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    pub(crate) async fn released(&self) {
        loop {
            let mut goes_on = pin!(self.goes_on.notified());
            goes_on.as_mut().enable();
            if !self.is_held() {
                return;
            }
            goes_on.await;
        }
    }

    /// The same for a thread without a runtime.
    pub(crate) fn wait_released(&self) {
        let mut state = self.state.lock();
        while state.since.is_some() {
            self.goes_on_blocking.wait(&mut state);
        }
    }

    /// Waits until it is `at`.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    pub(crate) async fn sleep_until(&self, at: Instant) {
        let (now, mut stood) = self.read();
        let mut left = at.saturating_duration_since(now);
        loop {
            tokio::time::sleep(left).await;
            match self.rest(&mut stood).await {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }

    /// Waits for so long, from the first poll.
    pub(crate) async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }

    /// The same for whoever keeps the future.
    pub(crate) async fn slept(self: Arc<Self>, time: Duration) {
        self.sleep(time).await;
    }

    /// Drops `future` if it has not ended when it is `at`.
    ///
    /// # Errors
    ///
    /// It has not.
    pub(crate) async fn timeout_at<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let (now, mut stood) = self.read();
        let mut left = at.saturating_duration_since(now);
        let mut future = pin!(future);
        loop {
            // Tokio's own looks at the time also for code that never leaves a task the time for that.
            if let Ok(output) = tokio::time::timeout(left, future.as_mut()).await {
                return Ok(output);
            }
            let rest = tokio::task::unconstrained(self.rest(&mut stood));
            tokio::select! {
                biased; // it may still end while the clock stands
                output = future.as_mut() => return Ok(output),
                rest = rest => match rest {
                    Some(rest) => left = rest,
                    None => return Err(Elapsed),
                },
            }
        }
    }

    /// The same when so much time is over.
    ///
    /// # Errors
    ///
    /// As [`Clock::timeout_at`].
    pub(crate) async fn timeout<F: Future>(&self, time: Duration, future: F) -> Result<F::Output, Elapsed> {
        self.timeout_at(self.now() + time, future).await
    }

    /// A time is over by the runtime's clock. What is left of it by this one, once that goes on: as long as it has
    /// stood since it had stood for `before`. `None`: nothing.
    async fn rest(&self, before: &mut Duration) -> Option<Duration> {
        if self.control.up.is_some() {
            // We may have been stopped, and be told so this very moment.
            self.control.caught_up().await;
        }
        self.released().await;
        while suspend::is_suspended() {
            tokio::time::sleep(SOON).await; // the signal's handler is about to return
        }
        let stood = self.read().1;
        let rest = stood.saturating_sub(std::mem::replace(before, stood));
        (!rest.is_zero()).then_some(rest)
    }
}

/// A time was over before a future was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Runs `future` for at most this time: on a clock, or outside of every actor on the runtime's.
///
/// # Errors
///
/// It has not ended by then.
pub(crate) async fn timeout<F: Future>(clock: Option<&Clock>, time: Duration, future: F) -> Result<F::Output, Elapsed> {
    match clock {
        Some(clock) => clock.timeout(time, future).await,
        None => tokio::time::timeout(time, future).await.map_err(|_elapsed| Elapsed),
    }
}

/// Between two looks at something that takes microseconds.
const SOON: Duration = Duration::from_millis(1);

impl State {
    /// Has it go on. Whether it had stood.
    fn start(&mut self) -> bool {
        let Some(since) = self.since.take() else { return false };
        self.stood += suspend::awake().0.saturating_duration_since(since);
        true
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    fn clock() -> Arc<Clock> {
        Clock::new(Control::new(None).unwrap())
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test]
    async fn it_stands_until_the_last_hold_is_released() {
        let clock = clock();
        let before = clock.now();
        tokio::time::sleep(ms(2)).await;
        assert!(clock.now() >= before + ms(2));
        clock.hold();
        let held_at = clock.now();
        clock.hold();
        clock.release();
        tokio::time::sleep(ms(20)).await;
        assert_eq!(clock.now(), held_at);
        assert!(clock.is_held());
        clock.release();
        let (now, stood) = clock.read();
        assert!(now >= held_at && !clock.is_held());
        assert!(stood >= ms(20), "{stood:?}");
        assert_eq!(clock.read().1, stood);
    }

    #[tokio::test]
    async fn what_is_void_holds_nothing() {
        let clock = clock();
        clock.hold();
        let held_at = clock.now();
        clock.void();
        assert!(!clock.is_held());
        clock.hold();
        tokio::time::sleep(ms(2)).await;
        assert!(clock.now() >= held_at + ms(2));
        clock.release();
        clock.release();
        clock.hold();
        assert!(!clock.is_held());
    }

    #[tokio::test]
    async fn a_time_that_is_over_by_the_runtimes_clock_waits_for_the_release_and_for_what_is_left() {
        let clock = clock();
        let at = clock.now() + ms(40);
        let mut sleep = pin!(clock.sleep_until(at));
        assert!(poll!(sleep.as_mut()).is_pending());
        clock.hold();
        assert!(tokio::time::timeout(ms(80), sleep.as_mut()).await.is_err());
        clock.release();
        assert!(poll!(sleep.as_mut()).is_pending());
        sleep.await;
        assert!(clock.now() >= at);
    }

    #[tokio::test]
    async fn one_that_begins_in_a_hold_has_all_its_time_after_it() {
        let clock = clock();
        clock.hold();
        let mut sleep = pin!(Arc::clone(&clock).slept(ms(30)));
        assert!(tokio::time::timeout(ms(60), sleep.as_mut()).await.is_err());
        let released_at = Instant::now();
        clock.release();
        sleep.await;
        assert!(released_at.elapsed() >= ms(25), "{:?}", released_at.elapsed());
    }

    #[tokio::test]
    async fn what_ends_in_a_hold_is_in_time() {
        let clock = clock();
        clock.hold();
        assert_eq!(clock.timeout(ms(5), tokio::time::sleep(ms(20))).await, Ok(()));
        clock.release();
        assert_eq!(clock.timeout(ms(5), std::future::pending::<()>()).await, Err(Elapsed));
    }

    /// Where tests pass the time by hand, all of it is over when that says so.
    #[tokio::test(start_paused = true)]
    async fn the_runtimes_clock_may_be_quicker() {
        let clock = clock();
        let begun = Instant::now();
        assert_eq!(clock.timeout(Duration::from_secs(3600), std::future::pending::<()>()).await, Err(Elapsed));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_thread_waits_for_the_release() {
        let clock = clock();
        clock.hold();
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| clock.wait_released());
            assert!(!waits.is_finished());
            clock.release();
        });
    }
}
