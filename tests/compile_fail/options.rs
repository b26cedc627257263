#[teamster::rpc(names = "add")]
async fn one() {}

#[teamster::rpc(name = "")]
async fn two() {}

#[teamster::rpc("three")]
async fn three() {}

#[teamster::test(flavor = "many")]
async fn four() {}

#[teamster::test(slow)]
async fn five() {}

#[teamster::main(worker_threads = 2)]
async fn main() {}
