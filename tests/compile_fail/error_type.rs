#[teamster::error]
#[derive(Debug)]
struct Plain;

#[teamster::error]
#[derive(Debug)]
struct Generic<T>(T);

#[teamster::error]
fn not_a_type() {}

fn main() {}
