//! What happens by chance in a test, and how is it done again?
use rustix::process::{Pid, Signal, kill_process};

/// How many rounds a test with chance in it should run: `TEAMSTER_ROUNDS`, or else `default`.
///
/// # Panics
///
/// If the variable holds no number.
///
/// # Examples
///
/// ```
/// for round in 0..teamster::testing::rounds(3) {
///     println!("round {round}");
/// }
/// ```
pub fn rounds(default: u32) -> u32 {
    number("TEAMSTER_ROUNDS").map_or(default, |rounds| u32::try_from(rounds).expect("TEAMSTER_ROUNDS is at most 2^32"))
}

/// Where a test's chance begins: `TEAMSTER_SEED`, or else a new number each time. It is printed, so
/// that a failure can be run again.
///
/// # Panics
///
/// If the variable holds no number.
///
/// # Examples
///
/// ```
/// use teamster::testing::{KillAtRandom, seed};
///
/// let mut chance = KillAtRandom::new(seed());
/// assert!(chance.below(6) < 6);
/// ```
pub fn seed() -> u64 {
    let seed = number("TEAMSTER_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().1);
    println!("TEAMSTER_SEED={seed}");
    seed
}

/// Kills one of these processes with SIGKILL, chosen by the seed, and says which.
///
/// `None`: there was none to kill, or the chosen one had ended and been reaped.
///
/// # Examples
///
/// ```
/// use std::os::unix::process::ExitStatusExt;
///
/// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
/// assert_eq!(teamster::testing::kill_at_random(&[child.id()], 1), Some(child.id()));
/// assert_eq!(child.wait()?.signal(), Some(9));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn kill_at_random(pids: &[u32], seed: u64) -> Option<u32> {
    KillAtRandom::new(seed).kill(pids)
}

/// Chance with a seed: the same seed makes the same choices.
///
/// # Examples
///
/// ```
/// use teamster::testing::KillAtRandom;
///
/// let (mut one, mut other) = (KillAtRandom::new(7), KillAtRandom::new(7));
/// assert_eq!(one.below(1000), other.below(1000));
/// assert_eq!(one.pick(&["stop", "fail", "kill"]), other.pick(&["stop", "fail", "kill"]));
/// ```
#[derive(Clone, Debug)]
pub struct KillAtRandom {
    state: u64,
}

impl KillAtRandom {
    /// Begins at this seed.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut chance = teamster::testing::KillAtRandom::new(7);
    /// println!("{}", chance.below(10));
    /// ```
    pub fn new(seed: u64) -> KillAtRandom {
        KillAtRandom { state: seed }
    }

    /// A number from 0 up to, but not including, `end`.
    ///
    /// # Panics
    ///
    /// If `end` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(teamster::testing::KillAtRandom::new(7).below(6) < 6);
    /// ```
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        self.next() % end // the bias is below end / 2^64
    }

    /// One of them. `None`: there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut chance = teamster::testing::KillAtRandom::new(7);
    /// assert!(chance.pick(&["stop", "kill"]).is_some());
    /// assert_eq!(chance.pick::<u32>(&[]), None);
    /// ```
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let index = self.below(choices.len().max(1) as u64);
        choices.get(index as usize) // it is below a usize
    }

    /// Kills one of these processes with SIGKILL, and says which.
    ///
    /// `None`: there was none to kill, or the chosen one had ended and been reaped.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn()?;
    /// assert_eq!(teamster::testing::KillAtRandom::new(7).kill(&[child.id()]), Some(child.id()));
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill(&mut self, pids: &[u32]) -> Option<u32> {
        let pid = *self.pick(pids)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        kill_process(raw, Signal::KILL).ok()?;
        Some(pid)
    }

    /// SplitMix64, from Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut chance = KillAtRandom::new(1_234_567);
        assert_eq!(chance.next(), 6_457_827_717_110_365_317); // the reference's first for this seed
        assert_eq!(chance.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn nothing_to_choose_from_is_none() {
        assert_eq!(KillAtRandom::new(1).pick::<u32>(&[]), None);
        assert_eq!(kill_at_random(&[], 1), None);
    }
}
