#[teamster::rpc]
async fn sum(items: impl Iterator<Item = u64>) -> impl Into<u64> {
    items.sum::<u64>()
}

fn main() {}
