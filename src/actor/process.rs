//! What does the kernel say about a process?
use std::os::fd::BorrowedFd;
use std::process::Child;
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions};
use rustix::time::ClockId;

/// What we ask for of `/proc/<pid>/stat`: proc(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) name: String,
    /// `R`, `S`, `D`, `T`, `Z`, ….
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    /// The processor time that it has taken, in clock ticks.
    cpu_ticks: u64,
    rss_pages: u64,
    /// When it started, in clock ticks since boot: with its pid, what sets it apart from every
    /// other process of this boot.
    pub(crate) start_ticks: u64,
    /// It has just begun to be another program, and has no environment yet.
    pub(crate) is_in_exec: bool,
}

impl ProcessStat {
    /// Reads it. `None` if there is no such process, or no way to tell.
    pub(crate) fn read(pid: u32) -> Option<ProcessStat> {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// The name stands in parentheses and may hold anything, parentheses too.
    fn parse(stat: &str) -> Option<ProcessStat> {
        let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let cpu_ticks = fields.nth(8)?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        // It has memory (a kernel thread has none, nor a zombie), and no end of an environment in it.
        let has_memory = fields.next().is_some_and(|size| size != "0");
        let rss_pages = fields.next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let is_in_exec = has_memory && fields.nth(26) == Some("0");
        Some(ProcessStat { name: name.to_owned(), state, parent, group, cpu_ticks, rss_pages, start_ticks, is_in_exec })
    }

    /// Bytes of memory that it holds.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.rss_pages.saturating_mul(rustix::param::page_size() as u64)
    }

    /// The processor time that it has taken since its start.
    pub(crate) fn cpu(&self) -> Duration {
        ticks(self.cpu_ticks)
    }

    /// Whether it runs, or could if it were let.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether a signal has stopped it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }
}

/// Whether a child of ours has ended, reaped or not.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error: somebody else has reaped it.
    !matches!(rustix::process::waitid(WaitId::PidFd(pidfd), look), Ok(None))
}

/// When a process started, in clock ticks since boot.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    ProcessStat::read(pid).map(|stat| stat.start_ticks)
}

/// Starts a process, and says when that was, in clock ticks since boot.
///
/// To ask the kernel takes a while, the longest while the process is in its exec; the clock knows
/// it mostly.
pub(crate) fn when_started<E>(start: impl FnOnce() -> Result<Child, E>) -> Result<(Child, Option<u64>), E> {
    let before = ticks_now();
    let process = start()?;
    let ticks = if ticks_now() == before { Some(before) } else { start_ticks(process.id()) };
    Ok((process, ticks))
}

/// The kernel counts from the same clock, and cuts off like this.
fn ticks_now() -> u64 {
    let ticks = since_boot().as_nanos() * u128::from(rustix::param::clock_ticks_per_second()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// How long ago a process started.
pub(crate) fn age(start_ticks: u64) -> Duration {
    since_boot().saturating_sub(ticks(start_ticks))
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let nanos = u128::from(count) * 1_000_000_000 / u128::from(per_second);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
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
        assert!(stat.rss_bytes() > 100_000 && stat.cpu() < Duration::from_secs(3600), "{stat:?}");
        assert!(age(stat.start_ticks) < Duration::from_secs(3600));
        assert_eq!(ProcessStat::read(u32::MAX), None);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = ProcessStat::parse("17 (a) b (c) Z 3 16 17 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0\n").unwrap();
        assert_eq!((stat.parent, stat.group, stat.start_ticks), (3, 16, 4242));
        assert_eq!((stat.name.as_str(), stat.state), ("a) b (c", 'Z'));
        assert_eq!(ProcessStat::parse("17 (short) R 1"), None);
    }

    #[test]
    fn the_clock_and_the_kernel_agree_on_when_a_process_started() {
        for _ in 0..100 {
            let (mut child, ticks) = when_started(|| std::process::Command::new("true").spawn()).unwrap();
            assert_eq!(ticks, start_ticks(child.id()));
            child.wait().unwrap();
        }
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
