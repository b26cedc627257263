//! What is before a tree, behind it, and without one.
use std::io;
use std::num::ParseIntError;
use std::panic::catch_unwind;

use teamster::debug::open_crash_handler;
use teamster::pause;

use crate::crashes::divide;
use crate::scene::{Outcome, tell};

/// Which signals this process has a handler for, without those of threads.
fn handled() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("the kernel tells it");
    u64::from_str_radix(mask.trim(), 16).expect("it is a number") as u32
}

/// What a root has taken it gives back.
pub(crate) async fn restored() -> Outcome {
    let before = handled();
    std::panic::set_hook(Box::new(|info| println!("my own hook: {}", info.payload_as_str().unwrap_or("?"))));
    teamster::open_nursery(async |an| {
        println!("other handlers inside: {}", handled() != before);
        let child = an.start_actor("child").await?;
        tell("child", child.run(divide(1, 0)).await);
        Ok(())
    })
    .await?;
    println!("same handlers: {}", handled() == before);
    pause!("nobody is armed any more");
    println!("caught: {}", catch_unwind(|| panic!("behind the tree")).is_err());
    Ok(())
}

/// Plain code, with a crash handler around it.
pub(crate) fn handler() {
    let handler = || open_crash_handler().ignoring::<io::Error>().suppressing::<ParseIntError>();
    let ignored = handler().run(|| std::fs::read("/no/such/file"));
    println!("ignored: {}", ignored.is_err());
    println!("suppressed: {:?}", handler().run(|| "many".parse::<u32>()));
    println!("other: {:?}", handler().run(|| Err::<(), _>(std::fmt::Error)));
    let paused = handler().run(|| {
        let depth = 3;
        pause!(depth);
        Ok::<_, io::Error>(depth)
    });
    println!("paused: {:?}", paused.map_err(|error| error.to_string()));
    let panicked = catch_unwind(|| handler().run(|| -> Result<u32, io::Error> { panic!("plain code panics") }));
    println!("panicked: {}", panicked.is_err());
    pause!("no handler is left");
    println!("done");
}
