use std::borrow::Cow;

struct Image;

impl Image {
    #[teamster::work]
    fn turned(self) {}

    #[teamster::work]
    fn size(&self) -> usize {
        0
    }
}

#[teamster::work]
fn sum<T: serde::Serialize>(values: Vec<T>) -> usize {
    values.len()
}

#[teamster::work]
fn longest<'a>(words: &'a [&'a str], other: &mut Cow<'_, str>) -> &'a str {
    words[0]
}

#[teamster::work]
unsafe fn danger() {}

#[teamster::work]
const fn known() {}

#[teamster::work]
extern "C" fn foreign() {}

#[teamster::work]
fn apply(to: fn(u32) -> u32, every: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    every.map(to)
}

#[teamster::work]
fn many(
    a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8,
    j: u8, k: u8, l: u8, m: u8, n: u8, o: u8, p: u8, q: u8,
) {
}

#[teamster::work(limit = 2)]
fn limited() {}

#[teamster::work(name = "")]
fn unnamed() {}

#[teamster::work]
struct NotAFunction;

fn main() {}
