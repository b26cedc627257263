//! What does the kernel say about a process?
use std::time::Duration;

use rustix::time::ClockId;

/// The two fields of `/proc/<pid>/stat` that we ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// `R`, `S`, `D`, `T`, `Z`, …: proc(5).
    pub(crate) state: char,
    /// When it started, in clock ticks since boot: with its pid, what sets it apart from every
    /// other process of this boot.
    pub(crate) start_ticks: u64,
}

impl ProcessStat {
    /// Reads it. `None` if there is no such process, or no way to tell.
    pub(crate) fn read(pid: u32) -> Option<ProcessStat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in the second field may hold spaces and brackets: count from its end.
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(ProcessStat { state, start_ticks })
    }

    /// Whether it runs, or could if it were let.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// How long ago a process started.
pub(crate) fn age(start_ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let started = Duration::from_nanos(
        u64::try_from(u128::from(start_ticks) * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX),
    );
    since_boot().saturating_sub(started)
}

/// The time since the machine's boot: the same clock in every process of this host.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_this_process() {
        let stat = ProcessStat::read(std::process::id()).unwrap();
        assert!(stat.is_alive());
        assert!(age(stat.start_ticks) < Duration::from_secs(3600));
        assert_eq!(ProcessStat::read(u32::MAX), None);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert_eq!(ProcessStat::read(child.id()).map(|stat| stat.is_alive()), Some(false));
        child.wait().unwrap();
        assert_eq!(ProcessStat::read(child.id()), None);
    }
}
