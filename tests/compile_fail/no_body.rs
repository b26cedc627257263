//! A function without a body is one of another program, which calls it something.
#[teamster::rpc]
async fn square(n: u64) -> u64;

#[teamster::rpc(name = "numbers::cube")]
fn cube(n: u64) -> u64;

#[teamster::work]
fn job(n: u64) -> u64;

fn main() {}
