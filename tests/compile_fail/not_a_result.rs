mod mine {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct Result {
        pub score: u32,
    }
}

#[teamster::rpc]
async fn score() -> mine::Result {
    mine::Result { score: 1 }
}

fn main() {}
