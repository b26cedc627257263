//! Hosts that a test makes: network namespaces of this machine, joined by a bridge in one more. All of them are gone
//! with the test's process, however that ends.
#![allow(dead_code, reason = "not every file uses all of it")]
use teamster::{Addr, launch};

use crate::namespaces::Unshared;

/// Some hosts, and the switch between them.
pub(crate) struct Hosts {
    switch: Unshared,
    hosts: Vec<Unshared>,
}

impl Hosts {
    /// Makes so many. This thread, and those that it starts from now on, are on the first one.
    pub(crate) fn new(count: usize) -> Self {
        let switch = Unshared::new(&["--net"]);
        switch.run("ip link add br0 type bridge");
        switch.run("ip link set br0 up");
        let hosts: Vec<_> = (0..count).map(|_| Unshared::new(&["--net"])).collect();
        let hosts = Hosts { switch, hosts };
        for (n, host) in hosts.hosts.iter().enumerate() {
            host.run(&format!("ip link add eth0 type veth peer name port{n} netns {}", hosts.switch.pid));
            hosts.switch.run(&format!("ip link set port{n} master br0 up"));
            host.run(&format!("ip addr add {}/24 dev eth0", ip(n)));
            host.run("ip link set eth0 up");
        }
        hosts.hosts[0].enter_network();
        hosts
    }

    /// Starts a child on that host.
    pub(crate) fn launcher(&self, host: usize) -> launch::Command {
        launch::Command::new(self.prefix(host))
    }

    /// What goes before a command that is to run on that host.
    pub(crate) fn prefix(&self, host: usize) -> Vec<String> {
        let pid = self.hosts[host].pid.to_string();
        ["nsenter", "-t", &pid, "-n"].map(str::to_owned).to_vec()
    }

    /// The namespaces of that host.
    pub(crate) fn host(&self, host: usize) -> &Unshared {
        &self.hosts[host]
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
