//! Whole machines that a test makes: namespaces with a network, processes and a name of their own, and a real sshd in
//! each. All of them are gone with the test's process, however that ends.
#![allow(dead_code, reason = "not every file uses all of it")]
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Ssh;
use tempfile::TempDir;

use crate::namespaces::{Unshared, title};

/// Some machines, `b`, `c` and so on, on a network with this one, whose address there is [`ip`]`(0)`.
pub(crate) struct Machines {
    folder: TempDir,
    machines: Vec<Machine>,
    network: Vec<Unshared>,
}

struct Machine {
    name: String,
    unshared: Unshared,
    sshd: Child,
    /// Reads what sshd says, as long as it lives.
    listening: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of its first process ends all of a machine.
        drop(self.unshared.holder.stdin.take());
        let _ = self.unshared.holder.wait();
        let _ = self.sshd.kill(); // what led in there, and may have stopped with it
        let _ = self.sshd.wait();
        let _ = self.listening.take().map(std::thread::JoinHandle::join);
    }
}

impl Machines {
    /// Makes so many, whose sshd takes many at once. This thread, and those that it starts from now on, are on their network.
    pub(crate) fn new(count: usize) -> Self {
        Machines::with_sshd(count, "MaxStartups 200\nMaxSessions 200")
    }

    /// The same with these lines for sshd.
    pub(crate) fn with_sshd(count: usize, lines: &str) -> Self {
        let switch = Unshared::new(&["--net"]);
        switch.run("ip link add br0 type bridge");
        switch.run("ip link set br0 up");
        let here = Unshared::new(&["--net"]);
        let folder = tempfile::Builder::new().prefix("tm-").tempdir().expect("a folder");
        std::fs::create_dir_all("/run/sshd").expect("sshd wants it");
        make_key(&folder.path().join("key"));
        let mut all = Machines { folder, machines: Vec::new(), network: vec![switch, here] };
        all.plug_in(0, &all.network[1]);
        for n in 1..=count {
            let name = char::from(b'a' + n as u8).to_string();
            let flags = ["--net", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"];
            let unshared = Unshared::new(&flags);
            unshared.run(&format!("hostname {name}"));
            all.plug_in(n, &unshared);
            let (sshd, listening) = all.start_sshd(n, &name, &unshared, lines);
            all.machines.push(Machine { name, unshared, sshd, listening: Some(listening) });
        }
        all.network[1].enter_network();
        all.write_client_config();
        all
    }

    fn plug_in(&self, n: usize, to: &Unshared) {
        let switch = &self.network[0];
        switch.run(&format!("ip link add port{n} type veth peer name eth0 netns {}", to.pid));
        switch.run(&format!("ip link set port{n} master br0 up"));
        to.run(&format!("ip addr add {}/24 dev eth0", ip(n)));
        to.run("ip link set eth0 up");
    }

    fn start_sshd(&self, n: usize, name: &str, on: &Unshared, lines: &str) -> (Child, std::thread::JoinHandle<()>) {
        let of = |file: &str| self.folder.path().join(format!("{name}.{file}"));
        make_key(&of("host_key"));
        for folder in ["cache", "sockets"] {
            std::fs::create_dir(of(folder)).expect("a folder");
        }
        let config = format!(
            "ListenAddress {}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n{lines}\nUseDNS no\n\
             SetEnv XDG_CACHE_HOME={} TEAMSTER_DIR={}\n",
            ip(n),
            of("host_key").display(),
            self.folder.path().join("key.pub").display(),
            of("cache").display(),
            of("sockets").display(),
        );
        std::fs::write(of("sshd_config"), config).expect("it is written");
        let mut sshd = on.command("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(of("sshd_config")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut sshd = sshd.spawn().expect("openssh-server");
        let mut stderr = BufReader::new(sshd.stderr.take().expect("it is piped"));
        let mut said = String::new();
        while !said.contains("Server listening") {
            let before = said.len();
            stderr.read_line(&mut said).expect("it is text");
            assert!(said.len() > before, "sshd has ended: {said}");
        }
        // It goes on to say who comes: read, so that it is never held up, and thrown away.
        let listening = std::thread::spawn(move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
        (sshd, listening)
    }

    fn write_client_config(&self) {
        let mut known = String::new();
        for (machine, n) in self.machines.iter().zip(1..) {
            let key = self.folder.path().join(format!("{}.host_key.pub", machine.name));
            let key = std::fs::read_to_string(key).expect("it was made");
            known += &format!("{} {}", ip(n), key);
        }
        std::fs::write(self.folder.path().join("known_hosts"), known).expect("it is written");
        let mut config = String::new();
        for (machine, n) in self.machines.iter().zip(1..) {
            config += &format!("Host {}\n  HostName {}\n", machine.name, ip(n));
        }
        config += &format!(
            "Host *\n  User root\n  IdentityFile {0}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {0}/known_hosts\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  ControlPath {0}/%C\n",
            self.folder.path().display()
        );
        std::fs::write(self.config(), config).expect("it is written");
    }

    /// Of the ssh client, on all of them.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("ssh_config")
    }

    /// Starts an actor on that machine.
    pub(crate) fn ssh(&self, n: usize) -> Ssh {
        ssh(&self.config(), n)
    }

    /// What is in that machine's cache of executables.
    pub(crate) fn cached(&self, n: usize) -> Vec<PathBuf> {
        let cache = self.folder.path().join(format!("{}.cache", self.machines[n - 1].name));
        let entries = std::fs::read_dir(cache.join("teamster")).into_iter().flatten();
        entries.map(|entry| entry.expect("it is read").path()).collect()
    }

    /// Where that machine's sockets are.
    pub(crate) fn sockets(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("{}.sockets", self.machines[n - 1].name))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command there, to its end.
    #[track_caller]
    pub(crate) fn run(&self, n: usize, line: &str) {
        self.machines[n - 1].unshared.run(line);
    }

    /// The processes on a machine besides its first one and its sshd: what they are, by their pids here.
    pub(crate) fn processes(&self, n: usize) -> Vec<(Pid, String)> {
        let all = self.machines[n - 1].unshared.processes().into_iter();
        let told = all.filter_map(|pid| Some((pid, title(pid)?)));
        told.filter(|(_, title)| !title.starts_with("sshd:") && !title.contains("/sshd") && title != "cat").collect()
    }

    /// Waits until nothing is left there but itself.
    pub(crate) async fn is_left_alone(&self, n: usize, within: Duration) {
        let began = Instant::now();
        loop {
            let left = self.processes(n);
            if left.is_empty() {
                break;
            }
            assert!(began.elapsed() < within, "after {within:?} there are still {left:?}");
            tokio::time::sleep(Duration::from_millis(2)).await; // another machine's processes have no event here
        }
        let sockets = std::fs::read_dir(self.sockets(n)).expect("it is there");
        let sockets: Vec<_> = sockets.flatten().map(|entry| entry.file_name()).collect();
        assert!(sockets.is_empty(), "sockets are left: {sockets:?}");
    }

    /// SIGSTOP for everything there.
    pub(crate) fn freeze(&self, n: usize) {
        self.signal_all(n, Signal::STOP);
    }

    pub(crate) fn thaw(&self, n: usize) {
        self.signal_all(n, Signal::CONT);
        let _ = kill_process(Pid::from_child(&self.machines[n - 1].sshd), Signal::CONT); // nsenter stops with what it started
    }

    fn signal_all(&self, n: usize, signal: Signal) {
        for pid in self.machines[n - 1].unshared.processes() {
            let _ = kill_process(pid, signal); // it may have ended
        }
    }

    /// The machine is gone from one moment to the next, its network too.
    pub(crate) fn cut_power(&self, n: usize) {
        self.unplug(n); // nothing that its end would say gets out
        let first = Pid::from_raw(self.machines[n - 1].unshared.pid.cast_signed()).expect("a pid");
        kill_process(first, Signal::KILL).expect("it lives");
    }

    /// Pulls a machine's cable out. 0 is this one's.
    pub(crate) fn unplug(&self, n: usize) {
        self.network[0].run(&format!("ip link set port{n} down"));
    }

    /// And in again.
    pub(crate) fn plug(&self, n: usize) {
        self.network[0].run(&format!("ip link set port{n} up"));
    }
}

/// As [`Machines::ssh`], from anywhere.
pub(crate) fn ssh(config: &Path, n: usize) -> Ssh {
    let name = char::from(b'a' + n as u8).to_string();
    Ssh::new(name).args(["-F".as_ref(), config.as_os_str()])
}

/// A machine's address.
pub(crate) fn ip(n: usize) -> String {
    format!("10.77.0.{}", n + 1)
}

fn make_key(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(command.status().expect("openssh-client").success());
}
