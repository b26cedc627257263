struct Oops;

#[teamster::rpc]
async fn fail() -> Result<(), Oops> {
    Err(Oops)
}

fn main() {}
