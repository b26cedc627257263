struct Plain {
    count: u64,
}

#[teamster::rpc]
async fn count(given: Plain) -> u64 {
    given.count
}

fn main() {}
