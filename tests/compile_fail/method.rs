struct Counter(u64);

#[teamster::rpc]
async fn count(&self) -> u64 {
    self.0
}

fn main() {
    Counter(0);
}
