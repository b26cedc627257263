//! How are a client's memory and processors limited? By groups of the kernel's: cgroups(7), version 2.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::limits::Limits;

/// The group that a service manager has left to the agent. In it are one for the agent's own processes, and one a client.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    base: PathBuf,
}

/// The group of the agent's own processes: where there are limits, processes are in leaves alone.
const OWN: &str = "agent";

/// What the names of clients' groups begin with.
const OF_CLIENT: &str = "client-";

/// Microseconds of which a client gets a share.
const PERIOD_US: u64 = 100_000;

impl Groups {
    /// Makes ready what limits need.
    ///
    /// # Errors
    ///
    /// They can't be kept here, and what would mend that.
    pub(super) fn prepare() -> io::Result<Self> {
        let own = own_group().ok_or_else(|| {
            cannot("this host has no cgroups of version 2, or this process is in none that it may divide".into())
        })?;
        let base = if own.ends_with(OWN) { own.parent().unwrap_or(&own).to_owned() } else { own };
        Groups { base }.prepared()
    }

    fn prepared(self) -> io::Result<Self> {
        let there = fs::read_to_string(self.base.join("cgroup.controllers")).unwrap_or_default();
        let lacks = ["memory", "cpu"].into_iter().filter(|name| !there.split_whitespace().any(|one| one == *name));
        let lacks: Vec<&str> = lacks.collect();
        if !lacks.is_empty() {
            return Err(cannot(format!("{} has no {}", self.base.display(), lacks.join(" and no "))));
        }
        let own = self.base.join(OWN);
        let prepared = make(&own)
            .and_then(|()| put(&own.join("cgroup.procs"), &std::process::id().to_string()))
            .and_then(|()| put(&self.base.join("cgroup.subtree_control"), "+memory +cpu"));
        prepared.map_err(|error| cannot(format!("{}: {error}", self.base.display())))?;
        Ok(self)
    }

    /// As another process has prepared them. `None`: there are none.
    pub(super) fn at(base: &Path) -> Option<Self> {
        (!base.as_os_str().is_empty()).then(|| Groups { base: base.to_owned() })
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The group of one actor, in that of its client, which has these limits from now on.
    pub(super) fn make(&self, client: &str, actor: Uuid, limits: &Limits) -> io::Result<Group> {
        let of_client = self.base.join(format!("{OF_CLIENT}{client}"));
        let path = of_client.join(actor.simple().to_string());
        let memory = limits.memory.map_or("max".into(), |bytes| bytes.to_string());
        let cpu = limits.cpu.map(|count| format!("{:.0} {PERIOD_US}", count * PERIOD_US as f64));
        let cpu = cpu.unwrap_or_else(|| format!("max {PERIOD_US}"));
        let made = while_others_go(|| {
            make(&of_client)?;
            put(&of_client.join("memory.max"), &memory)?;
            put(&of_client.join("cpu.max"), &cpu)?;
            put(&of_client.join("cgroup.subtree_control"), "+memory")?;
            make(&path)
        });
        made.map_err(|error| {
            io::Error::new(error.kind(), format!("making a group of processes in {}: {error}", of_client.display()))
        })?;
        Ok(Group { path })
    }

    /// Removes those of actors that are not known: as far as they are empty, the kernel sees to that.
    pub(super) fn sweep(&self, is_known: impl Fn(&Path) -> bool) {
        for client in folders(&self.base).filter(|path| name(path).starts_with(OF_CLIENT)) {
            for actor in folders(&client).filter(|path| Uuid::parse_str(&name(path)).is_ok() && !is_known(path)) {
                Group::at(&actor).remove();
            }
            let _ = fs::remove_dir(client); // one with actors stays
        }
    }
}

/// With the last actor of a client its group goes, maybe between the steps that make another one in it.
fn while_others_go(mut make: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut left = MOST_TRIES;
    loop {
        left -= 1;
        match make() {
            Err(error) if left > 0 && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            made => return made,
        }
    }
}

/// Each time, an actor has ended at that very moment.
const MOST_TRIES: u32 = 16;

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The processes of one actor.
#[derive(Clone, Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    pub(super) fn at(path: &Path) -> Self {
        Group { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn take_in(&self, pid: u32) -> io::Result<()> {
        put(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// SIGKILL for all of them.
    pub(super) fn kill(&self) {
        // Before Linux 5.14 there is no such file: who is found by lineage was killed.
        let _ = put(&self.path.join("cgroup.kill"), "1");
    }

    /// Whether the kernel has killed one of them, for want of memory.
    pub(super) fn was_short_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }

    /// Removes it once it is empty, and that of its client with its last one.
    pub(super) fn remove(&self) {
        // One that is not empty stays, and goes when the next agent sweeps.
        let _ = fs::remove_dir(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn put(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text)
}

/// Where the kernel shows the group of this process.
fn own_group() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    place(&own, &mounts)
}

fn place(own: &str, mounts: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (after.starts_with("cgroup2 ") && root == "/").then_some(at)
    })?;
    Some(Path::new(mount).join(own))
}

fn cannot(why: String) -> io::Error {
    io::Error::other(format!(
        "limits of memory and cpu can't be kept here: {why}: have systemd start it with Delegate=yes, as docs/teamster.service \
         does, or leave memory= and cpu= out"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_the_kernels_tree() {
        let own = "12:cpu:/x\n0::/system.slice/teamster.service\n";
        let mounts =
            "24 1 0:22 / /proc rw - proc proc rw\n31 2 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(place(own, mounts), Some("/sys/fs/cgroup/system.slice/teamster.service".into()));
        assert_eq!(place("1:cpu:/x\n", mounts), None);
        assert_eq!(place(own, "31 2 0:26 / /sys/fs/cgroup rw - cgroup cgroup rw\n"), None);
    }

    /// What is written where: the kernel's part is played by a plain folder.
    #[test]
    fn a_client_has_its_limits_and_each_actor_a_group() {
        let folder = tempfile::tempdir().unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let groups = Groups { base: folder.path().to_owned() }.prepared().unwrap();
        assert_eq!(read("agent/cgroup.procs"), std::process::id().to_string());
        assert_eq!(read("cgroup.subtree_control"), "+memory +cpu");
        let limits = Limits { memory: Some(1 << 20), cpu: Some(1.5), ..Limits::default() };
        let group = groups.make("anna", Uuid::nil(), &limits).unwrap();
        group.take_in(7).unwrap();
        assert_eq!(
            (read("client-anna/memory.max"), read("client-anna/cpu.max")),
            ("1048576".into(), "150000 100000".into())
        );
        assert_eq!(fs::read_to_string(group.path().join("cgroup.procs")).unwrap(), "7");
        groups.make("anna", Uuid::nil(), &Limits::default()).unwrap();
        assert_eq!((read("client-anna/memory.max"), read("client-anna/cpu.max")), ("max".into(), "max 100000".into()));
        assert!(!group.was_short_of_memory());
        fs::write(group.path().join("memory.events"), "low 0\noom 1\noom_kill 1\n").unwrap();
        assert!(group.was_short_of_memory());
    }

    #[test]
    fn a_clients_group_that_goes_meanwhile_is_made_again() {
        for error in [libc::ENOENT, libc::ENODEV] {
            let mut tries = 0;
            let made = while_others_go(|| {
                tries += 1;
                if tries < 3 { Err(io::Error::from_raw_os_error(error)) } else { Ok(()) }
            });
            assert!(made.is_ok() && tries == 3);
        }
        let mut tries = 0;
        let mut fails = |error| {
            tries = 0;
            let made = while_others_go(|| {
                tries += 1;
                Err(io::Error::from_raw_os_error(error))
            });
            (made.unwrap_err().raw_os_error(), tries)
        };
        assert_eq!(fails(libc::EACCES), (Some(libc::EACCES), 1));
        assert_eq!(fails(libc::ENOENT), (Some(libc::ENOENT), MOST_TRIES));
    }

    #[test]
    fn a_sweep_removes_what_nobody_knows() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups { base: folder.path().to_owned() };
        let actor = |client: &str| folder.path().join(client).join(Uuid::new_v4().simple().to_string());
        let (known, unknown, alone) = (actor("client-anna"), actor("client-anna"), actor("client-bob"));
        let (busy, others) = (actor("client-eve").join("busy"), actor("agent"));
        for path in [&known, &unknown, &alone, &busy, &others] {
            fs::create_dir_all(path).unwrap();
        }
        fs::create_dir(folder.path().join("client-anna/notes")).unwrap();
        groups.sweep(|path| path == known);
        let there = [&known, &unknown, &alone, &busy, &others].map(|path| path.exists());
        assert_eq!(there, [true, false, false, true, true]);
        assert!(!folder.path().join("client-bob").exists() && folder.path().join("client-anna/notes").exists());
    }

    /// The kernel's own, as far as it goes without memory and processors: those may be in use by an older version of cgroups.
    #[test]
    #[ignore = "needs root's rights and cgroups of version 2"]
    fn the_kernel_kills_a_whole_group() {
        use std::os::unix::process::ExitStatusExt;
        let base =
            own_group().expect("there are cgroups of version 2").join(format!("test-{}", Uuid::new_v4().simple()));
        make(&base).expect("root may");
        let group = Group { path: base.join(Uuid::new_v4().simple().to_string()) };
        make(&group.path).unwrap();
        let script = "read line; sleep 60 & sleep 60 & wait"; // it starts nothing before it is told to
        let mut shell = std::process::Command::new("sh");
        let mut shell = shell.args(["-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        group.take_in(shell.id()).unwrap();
        let own = fs::read_to_string(format!("/proc/{}/cgroup", shell.id())).unwrap();
        assert!(
            own.lines()
                .any(|line| line.starts_with("0::/")
                    && line.ends_with(&*group.path.file_name().unwrap().to_string_lossy())),
            "{own}"
        );
        group.remove();
        assert!(group.path.exists(), "it is not empty");
        let began = std::time::Instant::now();
        let mut stdin = shell.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"go\n").unwrap();
        let members = || fs::read_to_string(group.path.join("cgroup.procs")).unwrap().lines().count();
        while members() < 3 {
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "it starts two");
            std::thread::yield_now();
        }
        group.kill();
        assert_eq!(shell.wait().unwrap().signal(), Some(9));
        while members() > 0 {
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "all of them are killed");
            std::thread::yield_now();
        }
        group.remove();
        assert!(!base.exists(), "that of the client goes with its last one");
    }

    #[test]
    fn where_limits_can_not_be_kept_it_is_said_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "pids cpu\n").unwrap();
        let error = Groups { base: folder.path().to_owned() }.prepared().unwrap_err().to_string();
        assert!(error.contains("has no memory: have systemd start it with Delegate=yes"), "{error}");
    }
}
