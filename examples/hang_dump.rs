//! An actor hangs, and a dump says where: `kill -USR1` to a tree's root, or `teamster dump`, at any time.
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use teamster::{BoxError, Error, rpc};

static TILL: Mutex<u32> = Mutex::new(0);

/// Takes the lock twice: the oldest mistake there is. Its runtime never comes to do anything else.
#[rpc]
async fn sell() -> u32 {
    let sold = TILL.lock().expect("nobody panics");
    *sold + *TILL.lock().expect("nobody panics")
}

#[rpc]
async fn clean() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

/// What all of it does now goes to stderr, and to this file.
async fn dump() -> Result<u64, BoxError> {
    println!("what does it do? kill -USR1 {}", getpid());
    tokio::time::sleep(Duration::from_millis(200)).await; // so that it does something
    kill_process(getpid(), Signal::USR1)?;
    let file = std::env::temp_dir().join(format!("teamster-dump-{}-1.txt", getpid()));
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(std::fs::metadata(file)?.len())
}

#[teamster::main]
async fn main() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let [clerk, cleaner] = an.start_actors(["clerk", "cleaner"]).await?.try_into().expect("two");
        tokio::select! {
            sold = clerk.run(sell()) => println!("it sold {}", sold?),
            cleaned = cleaner.run(clean()) => println!("it is clean: {:?}", cleaned?),
            bytes = dump() => println!("it is in a file too: {} bytes", bytes?),
        }
        let killed = clerk.cancel_actor().await?; // it does not listen
        println!("the clerk was killed, in {}", killed.stuck.unwrap_or_default());
        Ok(())
    })
    .await
}
