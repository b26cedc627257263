//! What does a process hold?

/// What a process holds: memory, in KiB, and descriptors.
pub(crate) fn holds(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let rss = rss.trim_end_matches(" kB").trim().parse().expect("a number");
    (rss, std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is ours").count())
}
