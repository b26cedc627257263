use std::rc::Rc;

#[teamster::rpc]
async fn local() -> u64 {
    let shared = Rc::new(1);
    tokio::task::yield_now().await;
    *shared
}

fn main() {}
