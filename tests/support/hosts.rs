//! Hosts that a test makes: network namespaces of this machine, joined by a bridge in one more. All of them are gone
//! with the test's process, however that ends.
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use teamster::{Addr, launch};

/// Some hosts, and the switch between them.
pub(crate) struct Hosts {
    switch: Namespace,
    hosts: Vec<Namespace>,
}

/// A namespace lives as long as a process in it, and that as long as we hold its stdin.
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare, of util-linux, and root's rights");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("it is text");
        assert_eq!(line, "\n", "unshare --net needs root's rights");
        let namespace = Namespace { holder };
        namespace.run("ip link set lo up");
        namespace
    }

    /// What goes before a command that is to run in it.
    fn prefix(&self) -> [String; 4] {
        ["nsenter".into(), "-t".into(), self.holder.id().to_string(), "-n".into()]
    }

    #[track_caller]
    fn run(&self, line: &str) {
        let [program, args @ ..] = self.prefix();
        let ended = Command::new(program).args(args).args(line.split(' ')).output().expect("nsenter, of util-linux");
        assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait(); // it has nothing to say
    }
}

impl Hosts {
    /// Makes so many. This thread, and those that it starts from now on, are on the first one.
    pub(crate) fn new(count: usize) -> Self {
        let switch = Namespace::new();
        switch.run("ip link add br0 type bridge");
        switch.run("ip link set br0 up");
        let hosts: Vec<_> = (0..count).map(|_| Namespace::new()).collect();
        let hosts = Hosts { switch, hosts };
        for (n, host) in hosts.hosts.iter().enumerate() {
            host.run(&format!("ip link add eth0 type veth peer name port{n} netns {}", hosts.switch.holder.id()));
            hosts.switch.run(&format!("ip link set port{n} master br0 up"));
            host.run(&format!("ip addr add {}/24 dev eth0", ip(n)));
            host.run("ip link set eth0 up");
        }
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", hosts.hosts[0].holder.id()));
        move_into_link_name_space(namespace.expect("it lives").as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may");
        hosts
    }

    /// Starts a child on that host.
    pub(crate) fn launcher(&self, host: usize) -> launch::Command {
        launch::Command::new(self.prefix(host))
    }

    /// What goes before a command that is to run on that host.
    pub(crate) fn prefix(&self, host: usize) -> Vec<String> {
        self.hosts[host].prefix().to_vec()
    }

    /// Pulls a host's cable out.
    pub(crate) fn unplug(&self, host: usize) {
        self.switch.run(&format!("ip link set port{host} down"));
    }

    /// And in again.
    pub(crate) fn plug(&self, host: usize) {
        self.switch.run(&format!("ip link set port{host} up"));
    }

    /// What `from` sends to `to` gets lost from now on, and what comes the other way does not.
    pub(crate) fn lose(&self, from: usize, to: usize) {
        let nobody = "02:00:00:00:00:99";
        self.hosts[from].run(&format!("ip neigh replace {} lladdr {nobody} dev eth0 nud permanent", ip(to)));
    }
}

/// A host's address.
pub(crate) fn ip(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

/// Where an actor of that host is to listen: at a free port.
pub(crate) fn at(host: usize) -> Addr {
    format!("/ip4/{}/tcp/0", ip(host)).parse().expect("it is an address")
}
