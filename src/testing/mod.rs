//! What do tests of actor trees stand on? Leak checks, processes seen from outside, chance with a seed.
//!
//! `#[teamster::test]` does the usual part of this for every test: it gives it a process of its
//! own, a deadline, a fresh folder for its sockets, and looks afterwards whether anything was left.
//!
//! | variable | what it sets |
//! |---|---|
//! | `TEAMSTER_ROUNDS` | how many rounds a test with chance in it runs: [`rounds`] |
//! | `TEAMSTER_SEED` | where its chance begins: [`seed`] |
mod chance;
mod drops;
mod expect;
#[doc(hidden)]
pub mod harness;
mod leak;
mod lock;
mod process;

pub use chance::{KillAtRandom, kill_at_random, rounds, seed};
pub use drops::drop_at_every_await;
pub use expect::expect_cancelled;
pub use leak::{LeakCheck, open_dialogs};
pub use process::{ProcessState, descendants, is_alive, start_ticks, state, wait_gone};
