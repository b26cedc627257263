//! Whom did a dead process leave behind? Those that it had no time to record, found by their environment.
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::kids::open_recorded;
use crate::actor::boot::LINEAGE_VARIABLE;
use crate::actor::process::ProcessStat;

/// Bytes of an environment that are looked at: ours stand at the end of it, and it may have megabytes.
const MAX_ENVIRONMENT_BYTES: u64 = 4 << 20;

/// The living processes that an actor of this lineage, or one below it, has started, and those that are not
/// that far: between its fork and its exec, a process has the environment of the one that starts it.
///
/// It takes about 10 µs for each process of the machine that this user may look at. Without `/proc`, none is found.
pub(crate) fn below(lineage: &str) -> Vec<OwnedFd> {
    below_with_pids(lineage).map(|(_, pidfd)| pidfd).collect()
}

/// The same, each with its pid.
pub(crate) fn below_with_pids(lineage: &str) -> impl Iterator<Item = (u32, OwnedFd)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_below = move |pid: &u32| environment(*pid).is_some_and(|environment| is_in(lineage, &environment));
    // Looked at again behind the descriptor: the pid may have become another's before we had that.
    pids.filter(is_below).filter_map(move |pid| Some((pid, open_recorded(pid, 0).filter(|_| is_below(&pid))?)))
}

/// This process, if an actor of this lineage has started it.
pub(super) fn of(pid: u32, lineage: &str) -> Option<OwnedFd> {
    open_recorded(pid, 0).filter(|_| environment(pid).is_some_and(|environment| is_in(lineage, &environment)))
}

fn environment(pid: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let began = Instant::now();
    loop {
        File::open(format!("/proc/{pid}/environ")).ok()?.take(MAX_ENVIRONMENT_BYTES).read_to_end(&mut bytes).ok()?;
        // In the middle of its exec a process has none, for some microseconds: whoever has started it may go on, or
        // die, before it has.
        let is_in_exec = || ProcessStat::read(pid).is_some_and(|stat| stat.is_in_exec);
        if !bytes.is_empty() || !is_in_exec() || began.elapsed() > EXEC_WITHIN {
            return Some(bytes);
        }
        std::thread::yield_now();
    }
}

/// How long the loading of a program is waited for at most: it may come from a disk.
const EXEC_WITHIN: Duration = Duration::from_millis(100);

/// Whether this is the environment of an actor of the lineage, or of one below.
fn is_in(lineage: &str, environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|entry| {
        let value = entry.strip_prefix(LINEAGE_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        let rest = value.and_then(|value| value.strip_prefix(lineage.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_lineage_holds_itself_and_all_below_it() {
        for (entry, wanted) in [
            ("TEAMSTER_LINEAGE=a/b", true),
            ("TEAMSTER_LINEAGE=a/b/c", true),
            ("TEAMSTER_LINEAGE=a/bc", false),
            ("TEAMSTER_LINEAGE=a", false),
            ("TEAMSTER_LINEAGE=x/a/b", false),
            ("OLD_TEAMSTER_LINEAGE=a/b", false),
            ("TEAMSTER_LINEAGE", false),
            ("", false),
        ] {
            let environment = format!("PATH=/bin\0{entry}\0LAST=1\0");
            assert_eq!(is_in("a/b", environment.as_bytes()), wanted, "{entry}");
        }
    }

    #[test]
    fn a_process_is_found_as_long_as_it_lives() {
        for _ in 0..50 {
            let lineage = uuid::Uuid::new_v4().simple().to_string();
            let mut below_it = Command::new("sleep");
            below_it.arg("60").env(LINEAGE_VARIABLE, format!("{lineage}/child")).stdin(Stdio::null());
            let mut process = below_it.spawn().unwrap();
            // Until its exec it has ours, which says nothing, as we are no actor.
            let ours = environment(std::process::id());
            while environment(process.id()) == ours {
                std::thread::yield_now();
            }
            let found = below(&lineage);
            let [pidfd] = &found[..] else { panic!("{found:?}") };
            rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL).unwrap();
            process.wait().unwrap();
            assert!(below(&lineage).is_empty());
        }
    }
}
