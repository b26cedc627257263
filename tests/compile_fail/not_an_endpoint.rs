async fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn run<E: teamster::Endpoint>(call: teamster::Call<E>) {
    drop(call);
}

fn main() {
    run(add(1, 2));
}
