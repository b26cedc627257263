//! A program that crashes and pauses on demand: one scene of it, by name. Its tests sit at the debugger's prompt.
mod alone;
mod crashes;
mod errors;
mod pauses;
mod scene;

use scene::Outcome;

fn main() -> std::process::ExitCode {
    use std::process::Termination;
    let mut arguments = std::env::args().skip(1);
    let scene = arguments.next().unwrap_or_default();
    match scene.as_str() {
        "attach" => {
            let socket = arguments.next().expect("attach SOCKET");
            teamster::debug::attach(socket.as_ref()).report()
        }
        "handler" => {
            alone::handler();
            std::process::ExitCode::SUCCESS
        }
        "many_threads" => many_threads().report(),
        _ => one_thread().report(),
    }
}

/// The root's runtime has several threads.
#[teamster::main(flavor = "multi_thread")]
async fn many_threads() -> Outcome {
    play(&std::env::args().nth(2).unwrap_or_default()).await
}

#[teamster::main]
async fn one_thread() -> Outcome {
    play(&std::env::args().nth(1).unwrap_or_default()).await
}

async fn play(scene: &str) -> Outcome {
    match scene {
        "armed_sibling" => crashes::armed_sibling().await,
        "two_crashers" => crashes::two_crashers().await,
        "two_in_one" => crashes::two_in_one().await,
        "relayed" => crashes::relayed().await,
        "crash_and_wait" => crashes::crash_and_wait().await,
        "deep" => crashes::deep().await,
        "root_panics" => crashes::root_panics().await,
        "local_set" => crashes::local_set().await,
        "panics_in_drop" => crashes::panics_in_drop().await,
        "bomb_in_child" => crashes::bomb_in_child().await,
        "bomb_in_root" => crashes::bomb_in_root().await,
        "bomb_on_stderr" => crashes::bomb_on_stderr().await,
        "probes" => crashes::probes().await,
        "values" => pauses::values().await,
        "child_pauses_twice" => pauses::child_pauses(2).await,
        "child_pauses" => pauses::child_pauses(20).await,
        "root_pauses" => pauses::root_pauses(20).await,
        "three_pause" => pauses::three_pause().await,
        "deadline" => pauses::deadline(false).await,
        "deadline_stays" => pauses::deadline(true).await,
        "cancel" => pauses::cancel().await,
        "body_fails" => pauses::body_fails().await,
        "cancelled" => pauses::cancelled().await,
        "unwinding" => pauses::unwinding().await,
        "threads" => pauses::threads().await,
        "own_error" => errors::own_error().await,
        "question_mark" => errors::question_mark().await,
        "post_mortem" => errors::post_mortem().await,
        "root_fails" => errors::root_fails().await,
        "cancelled_root_panics" => errors::cancelled_root_panics().await,
        "each_kind" => errors::each_kind().await,
        "crash_later" => errors::crash_later().await,
        "restored" => alone::restored().await,
        place => crashes::panics_elsewhere(place).await,
    }
}
