//! What is so on this host?
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;

/// All that can be found out without a network.
pub(super) fn findings() -> Vec<Finding> {
    vec![kernel(), sockets(), ptrace(), gdb(), cgroups(), descriptors(), clock(), debuginfo()]
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 4) => Finding::ok("kernel", format!("Linux {release}")),
        _ => Finding::fail(
            "kernel",
            format!("Linux {release} has no process descriptors to wait for"),
            "use Linux 5.4 or later",
        ),
    }
}

/// Where trees find each other.
fn sockets() -> Finding {
    match teamster::discovery::trees() {
        Ok(trees) => Finding::ok("sockets", format!("the folder of sockets is safe; trees that run: {}", trees.len())),
        Err(error) => Finding::fail("sockets", error.to_string(), "export TEAMSTER_DIR=$(mktemp -d)"),
    }
}

fn ptrace() -> Finding {
    // Without Yama any process of the user may be traced.
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    ptrace_scope(scope.trim())
}

fn ptrace_scope(scope: &str) -> Finding {
    const MEND: &str = "sudo sysctl kernel.yama.ptrace_scope=0";
    match scope {
        "" | "0" => Finding::ok("ptrace", "a debugger may attach to this user's processes"),
        "1" => Finding::ok(
            "ptrace",
            "scope 1: the prompt's gdb is let in by the actor that it looks at; a gdb of your own is not",
        ),
        "2" => Finding::warn("ptrace", "scope 2: only root may look at variables in the debugger's prompt", MEND),
        other => Finding::warn(
            "ptrace",
            format!("scope {other}: nobody may look at variables in the debugger's prompt, until the next boot"),
            "remove kernel.yama.ptrace_scope from /etc/sysctl.d and reboot",
        ),
    }
}

fn gdb() -> Finding {
    match first_line(Command::new("gdb").arg("--version")) {
        Some(version) => Finding::ok("gdb", version),
        None => {
            Finding::warn("gdb", "there is none: the debugger's prompt shows no variables", "sudo apt-get install gdb")
        }
    }
}

fn cgroups() -> Finding {
    let Ok(own) = std::fs::read_to_string("/proc/self/cgroup") else {
        return Finding::warn(
            "cgroups",
            "this kernel has none: actors can't be given limits of memory and CPU",
            "use a kernel with cgroup v2",
        );
    };
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Finding::warn(
            "cgroups",
            "version 1 alone: actors can't be given limits of memory and CPU",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    };
    let folder = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let is_ours = rustix::fs::access(folder.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    let controllers = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    delegation(is_ours, controllers.trim())
}

fn delegation(is_ours: bool, controllers: &str) -> Finding {
    const MEND: &str = "run the tree in `systemd-run --user --scope -p Delegate=yes …`";
    let has = |wanted: &str| controllers.split(' ').any(|controller| controller == wanted);
    match (is_ours, has("memory") && has("cpu")) {
        (true, true) => Finding::ok("cgroups", format!("version 2, delegated: {controllers}")),
        (true, false) => Finding::warn("cgroups", format!("delegated without memory or cpu ({controllers})"), MEND),
        (false, _) => {
            Finding::warn("cgroups", "version 2, not delegated: actors can't be given limits of memory and CPU", MEND)
        }
    }
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    descriptor_limit(limit.current, limit.maximum)
}

fn descriptor_limit(current: Option<u64>, maximum: Option<u64>) -> Finding {
    match (current, maximum) {
        (Some(current), maximum) if current < MANY => {
            let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            let says = format!(
                "{current} at once: an actor with more than {} children or peers runs out of them",
                current / A_CHILD
            );
            match maximum.is_none_or(|maximum| maximum >= MANY) {
                true => Finding::warn(
                    "descriptors",
                    says,
                    format!("ulimit -n {}", maximum.map_or(65_536, |most| most.min(65_536))),
                ),
                false => Finding::warn(
                    "descriptors",
                    format!("{says}, and more than {} are not allowed", text(maximum)),
                    "set `* hard nofile 65536` in /etc/security/limits.conf and log in anew",
                ),
            }
        }
        (Some(current), _) => Finding::ok("descriptors", format!("{current} at once")),
        (None, _) => Finding::ok("descriptors", "as many as wanted"),
    }
}

/// Whether something sets the clock: log lines of several hosts are put in order by it.
fn clock() -> Finding {
    let told = first_line(Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]));
    match told.as_deref() {
        Some("yes") => Finding::ok("clock", "it is synchronized"),
        Some("no") => Finding::warn(
            "clock",
            "nothing keeps it right: lines of several hosts come in the wrong order",
            "sudo timedatectl set-ntp true",
        ),
        _ => Finding::warn("clock", "nobody here says whether it is kept right", "sudo apt-get install chrony"),
    }
}

/// Of this very program: the same toolchain and profile mostly built the others.
fn debuginfo() -> Finding {
    let program = std::env::current_exe().ok().and_then(|path| std::fs::read(path).ok());
    match program.as_deref().map(|bytes| has_section(bytes, b".debug_line")) {
        Some(true) => Finding::ok("debuginfo", "this program has it: dumps and tracebacks name files and lines"),
        Some(false) => Finding::warn(
            "debuginfo",
            "this program has none: dumps and tracebacks of one built so name no lines",
            "set `debug = \"line-tables-only\"` in the profile of Cargo.toml",
        ),
        None => Finding::warn(
            "debuginfo",
            "this program's file can't be read",
            "build it with `debug = \"line-tables-only\"`",
        ),
    }
}

/// The name stands in the table of section names, with an end of its own.
fn has_section(file: &[u8], name: &[u8]) -> bool {
    file.windows(name.len() + 1).any(|window| window.split_last() == Some((&0, name)))
}

pub(super) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

/// Enough for a large tree.
const MANY: u64 = 4_096;
/// Descriptors that a child costs its parent, about: two lines, a process descriptor, two pipes.
const A_CHILD: u64 = 5;

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn each_scope_of_ptrace_has_its_word() {
        let cases =
            [("", Verdict::Ok), ("0", Verdict::Ok), ("1", Verdict::Ok), ("2", Verdict::Warn), ("3", Verdict::Warn)];
        for (scope, verdict) in cases {
            assert_eq!(ptrace_scope(scope).verdict, verdict, "{scope:?}");
        }
    }

    #[test]
    fn a_low_limit_of_descriptors_is_raised_as_far_as_it_may_be() {
        let cases = [
            ((Some(1_024), Some(1_048_576)), "ulimit -n 65536\n"),
            ((Some(1_024), Some(8_192)), "ulimit -n 8192\n"),
            ((Some(1_024), None), "ulimit -n 65536\n"),
            ((Some(1_024), Some(2_048)), "/etc/security/limits.conf and log in anew\n"),
            ((Some(65_536), None), "65536 at once\n"),
            ((None, None), "as many as wanted\n"),
        ];
        for ((current, maximum), end) in cases {
            let told = descriptor_limit(current, maximum).to_string();
            assert!(told.ends_with(end), "{told}");
        }
    }

    #[test]
    fn a_cgroup_is_of_use_with_both_controllers() {
        let cases = [
            ((true, "cpu memory pids"), Verdict::Ok),
            ((true, "pids"), Verdict::Warn),
            ((false, "cpu memory"), Verdict::Warn),
        ];
        for ((is_ours, controllers), verdict) in cases {
            assert_eq!(delegation(is_ours, controllers).verdict, verdict, "{controllers}");
        }
    }

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        assert!(has_section(b"\0.text\0.debug_line\0.bss\0", b".debug_line"));
        assert!(!has_section(b"\0.debug_line_str\0", b".debug_line"));
    }
}
