#[teamster::context]
async fn count(from: u64, to: u64) -> u64 {
    to - from
}

fn main() {}
