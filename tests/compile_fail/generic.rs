#[teamster::rpc]
async fn first<T: Send>(items: Vec<T>) -> usize {
    items.len()
}

#[teamster::rpc]
async fn sized() -> usize
where
    u8: Sized,
{
    1
}

fn main() {}
