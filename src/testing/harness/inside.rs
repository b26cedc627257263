//! The test's own process: the body, and what it leaves in this process.
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::runtime::{Builder, Runtime};

use super::{Flavor, TestOptions, TestOutcome, sockets, write_verdict};
use crate::testing::leak::{LeakCheck, list};

/// Runs the body and exits: libtest's judgement on this process would be a second one.
pub(super) fn run<R: TestOutcome>(options: TestOptions, body: impl AsyncFnOnce() -> R, wait: impl FnOnce()) -> ! {
    // Our group does not get the terminal's ctrl-c. The harness's thread waits for us, so its end
    // is the harness's end. Without it a test runs on to its own end.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    drop(runtime(options)); // tokio opens some descriptors once, for ever
    let check = LeakCheck::new().folder(sockets());
    let runtime = runtime(options);
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(body()).failure()));
    let failure = outcome.unwrap_or_else(|payload| Some(message(&*payload)));
    if let Some(failure) = &failure {
        write_verdict(failure); // said also if what follows does not end
    }
    runtime.shutdown_timeout(RUNTIME_GRACE);
    wait();
    let left = check.left_in_the_end();
    let left = (!left.is_empty()).then(|| list(&left));
    let verdict: Vec<String> = [failure, left].into_iter().flatten().collect();
    write_verdict(&verdict.join("\n"));
    std::process::exit(if verdict.is_empty() { 0 } else { FAILED })
}

fn runtime(options: TestOptions) -> Runtime {
    let mut builder = match options.flavor {
        Flavor::CurrentThread => Builder::new_current_thread(),
        Flavor::MultiThread(_) => Builder::new_multi_thread(),
    };
    if let Flavor::MultiThread(Some(threads)) = options.flavor {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().expect("a fresh process has threads and descriptors to spare")
}

/// What a panic said.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "the test panicked".to_owned())
}

/// For the closures of `spawn_blocking`, for which nobody waits otherwise. Their threads then count as left.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// As of a panic in `main`.
const FAILED: i32 = 101;
