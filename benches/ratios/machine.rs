//! What the machine is told and asked: processors, memory, switches, the end of a process.
use std::fs;

use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::Result;

/// Restricts every thread of this process to `cpus`; threads and children to come inherit it.
pub(crate) fn pin_process(cpus: &[usize]) -> Result<()> {
    for task in fs::read_dir("/proc/self/task")? {
        let thread: i32 = task?.file_name().to_string_lossy().parse()?;
        set_affinity(Pid::from_raw(thread), cpus)?;
    }
    Ok(())
}

/// Restricts the calling thread alone.
pub(crate) fn pin_thread(cpu: usize) -> Result<()> {
    set_affinity(None, &[cpu])
}

fn set_affinity(thread: Option<Pid>, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    match rustix::thread::sched_setaffinity(thread, &set) {
        Err(rustix::io::Errno::SRCH) => Ok(()), // the thread ended since it was listed
        other => Ok(other?),
    }
}

/// The processors that the two sides of a metric may use.
pub(crate) const ONE: &[usize] = &[0];
pub(crate) const BOTH: &[usize] = &[0, 1];

/// The process's share of memory: pages that n processes map count for 1/n in each.
pub(crate) fn pss_kib(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("smaps_rollup has no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Context switches of all threads of a process, wanted and unwanted, since they began.
pub(crate) fn context_switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        for line in status.lines().filter(|line| line.contains("ctxt_switches:")) {
            let (_, count) = line.split_once(':').ok_or("a status line without a colon")?;
            sum += count.trim().parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Nanoseconds on the clock that all processes of this machine share.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Ends this process without running anything more in it.
#[expect(unsafe_code, reason = "the raw side ends by _exit, which std does not have")]
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(status) }
}
