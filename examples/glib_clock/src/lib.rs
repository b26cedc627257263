//! glib's main loop as the host of an actor, with a timer of glib's own.
use std::cell::RefCell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use teamster::guest::Guest;
use teamster::rpc;

/// How often the timer beats.
pub const PERIOD: Duration = Duration::from_millis(10);

thread_local! {
    /// How much of a processor's time this thread has had between one beat and the next: what others have had of it
    /// is not the guest's doing.
    static GAPS: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// Runs the default main context of the thread. Slices are idle callbacks, so glib's timers go before them.
#[teamster::host_loop]
pub fn main_loop(guest: Guest) {
    let main = glib::MainLoop::new(None, false);
    let quit = main.clone();
    guest.start(
        |slice| {
            glib::idle_add_once(|| slice.run());
        },
        move || quit.quit(),
    );
    let mut last = processor_time();
    glib::timeout_add_local(PERIOD, move || {
        let before = std::mem::replace(&mut last, processor_time());
        GAPS.with_borrow_mut(|gaps| gaps.push(last - before));
        glib::ControlFlow::Continue
    });
    main.run();
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Waits for so many beats, and gives the loop's time between them, in microseconds. They begin anew then.
#[rpc]
pub async fn beats(wanted: usize) -> Vec<u64> {
    while GAPS.with_borrow(Vec::len) < wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    GAPS.take().iter().map(|gap| u64::try_from(gap.as_micros()).unwrap_or(u64::MAX)).collect()
}

/// Whether the code around it is in glib's main context.
#[rpc]
pub async fn is_in_main_context() -> bool {
    tokio::time::sleep(Duration::from_millis(1)).await;
    glib::MainContext::default().is_owner()
}
