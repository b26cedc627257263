//! The command line of teamster: what runs on this machine?
fn main() {}
