use teamster::guest::Guest;

#[teamster::host_loop]
async fn not_blocking(_guest: Guest) {}

#[teamster::host_loop]
fn without_guest() {}

#[teamster::host_loop]
fn borrowed(_guest: Guest, _title: &str) {}

#[teamster::host_loop(name = "x")]
fn with_options(_guest: Guest) {}

#[teamster::host_loop]
fn generic<T>(_guest: Guest, _value: T) {}

#[teamster::host_loop]
fn gives_a_number(_guest: Guest) -> u32 {
    3
}

fn main() {}
