//! An actor in somebody else's loop: its calls and the loop's own timer share one thread.
#[path = "main_loop.rs"]
mod main_loop;

use std::cell::Cell;
use std::time::Duration;

use main_loop::MainLoop;
use teamster::guest::Guest;
use teamster::rpc;

thread_local! {
    /// What belongs to the loop's thread: no lock, and no other thread sees it.
    static BEATS: Cell<u32> = const { Cell::new(0) };
}

#[teamster::host_loop]
fn metronome(guest: Guest, period: Duration) {
    let main = MainLoop::default();
    let (soon, quit) = (main.clone(), main.clone());
    guest.start(move |slice| soon.call_soon(|| slice.run()), move || quit.quit());
    main.run(period, |_late| BEATS.set(BEATS.get() + 1));
}

/// Waits for so many beats of the loop's timer, by sleeping on its thread as any task does.
#[rpc]
async fn beats(wanted: u32) -> u32 {
    while BEATS.get() < wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    BEATS.get()
}

#[teamster::main]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(metronome(Duration::from_millis(10))).start().await?;
        let counted = clock.run(beats(5)).await?;
        println!("the loop's timer has beaten five times and more: {}", counted >= 5);
        Ok(())
    })
    .await?;
    println!("nothing is left");
    Ok(())
}
