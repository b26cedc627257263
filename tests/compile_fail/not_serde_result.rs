struct Plain;

#[teamster::rpc]
async fn make() -> Plain {
    Plain
}

fn main() {}
