//! glib's main loop keeps its timers beside an actor's calls, and ends with its actor.
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use glib_clock::{PERIOD, beats, is_in_main_context, main_loop};
use teamster::{Error, rpc};

#[rpc]
async fn double(n: u64) -> u64 {
    2 * n
}

#[rpc]
async fn fail() -> Result<(), String> {
    Err("out of tune".into())
}

#[test]
fn the_example_runs_to_its_end() {
    let run = Command::new(env!("CARGO_BIN_EXE_glib_clock")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stdout), "glib's timer has beaten 5 times\nnothing is left\n");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[teamster::test]
async fn tasks_run_in_glibs_main_context() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(main_loop()).start().await?;
        assert!(clock.run(is_in_main_context()).await?);
        let error = clock.run(fail()).await.unwrap_err();
        assert!(error.to_string().contains("out of tune"), "{error}");
        assert!(clock.cancel_actor().await?.was_graceful());
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test(exclusive)]
async fn glibs_timer_keeps_its_beat_under_a_flood_of_calls() {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(main_loop()).start().await?;
        clock.run(beats(1)).await?;
        let until = Instant::now() + Duration::from_secs(2);
        let callers = (0..100).map(async |n| {
            while Instant::now() < until {
                clock.run(double(n)).await?;
            }
            Ok::<(), Error>(())
        });
        try_join_all(callers).await?;
        let mut gaps = clock.run(beats(1)).await?;
        gaps.sort_unstable();
        let p99 = Duration::from_micros(gaps[gaps.len() * 99 / 100]);
        assert!(gaps.len() > 100, "{} beats in 2 s", gaps.len());
        assert!(p99 < PERIOD + Duration::from_millis(5), "p99 of {} beats: {p99:?} of the loop's time", gaps.len());
        Ok(())
    })
    .await
    .unwrap();
}
