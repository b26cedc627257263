//! An actor hangs, and a dump says where: `kill -USR1` to the root of any tree prints what all of it does.
use std::sync::Mutex;
use std::time::Duration;

use teamster::{Error, rpc};

static TILL: Mutex<u32> = Mutex::new(0);

/// Takes the lock twice: the oldest mistake there is. Its runtime never comes to do anything else.
#[rpc]
async fn sell() -> u32 {
    let sold = TILL.lock().expect("nobody panics");
    *sold + *TILL.lock().expect("nobody panics")
}

/// Waits in two places at once.
#[rpc]
async fn clean() {
    let noon = tokio::time::sleep(Duration::from_secs(3600));
    let ((), ()) = tokio::join!(noon, std::future::ready(()));
}

#[teamster::main]
async fn main() -> Result<(), Error> {
    let left = teamster::open_nursery(async |an| {
        let names = ["clerk", "cleaner"];
        let [clerk, cleaner] = an.start_actors(names).await?.try_into().expect("two");
        let ask = async {
            println!("what does all of it do? kill -USR1 {}", std::process::id());
            tokio::time::sleep(Duration::from_millis(200)).await; // so that it has something to do
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1)?;
            let file = std::env::temp_dir().join(format!("teamster-dump-{}-1.txt", std::process::id()));
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, teamster::BoxError>(file)
        };
        tokio::select! {
            sold = clerk.run(sell()) => Err(format!("it sold {}", sold?).into()),
            cleaned = cleaner.run(clean()) => Err(format!("it is clean: {cleaned:?}").into()),
            file = ask => Ok(file?),
        }
    })
    .await?;
    println!("it is in a file too, {} bytes long", std::fs::metadata(&left).map_or(0, |file| file.len()));
    let _ = std::fs::remove_file(left);
    Ok(())
}
