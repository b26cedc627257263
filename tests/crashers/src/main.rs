//! A program that crashes and pauses on demand: one scene of it, by name. Its tests sit at the debugger's prompt.
mod crashes;
mod scene;

use scene::Outcome;

#[teamster::main]
async fn main() -> Outcome {
    let scene = std::env::args().nth(1).unwrap_or_default();
    match scene.as_str() {
        "armed_sibling" => crashes::armed_sibling().await,
        "two_crashers" => crashes::two_crashers().await,
        "two_in_one" => crashes::two_in_one().await,
        "relayed" => crashes::relayed().await,
        other => panic!("no scene is called {other:?}"),
    }
}
