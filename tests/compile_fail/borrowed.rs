use std::borrow::Cow;

#[teamster::rpc]
async fn length(text: &str, all: Vec<&'static [u8]>) -> usize {
    text.len() + all.len()
}

#[teamster::rpc]
async fn name<'a>(text: Cow<'a, str>) -> &'a str {
    text
}

#[teamster::rpc]
async fn other(text: Cow<'_, str>) -> usize {
    text.len()
}

fn main() {}
