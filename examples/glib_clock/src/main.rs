//! An actor in glib's main loop: its calls and glib's timer share one thread.
use glib_clock::{beats, main_loop};

#[teamster::main]
async fn main() -> Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let clock = an.actor("clock").infect(main_loop()).start().await?;
        println!("glib's timer has beaten {} times", clock.run(beats(5)).await?.len().min(5));
        Ok(())
    })
    .await?;
    println!("nothing is left");
    Ok(())
}
