//! Which machine is this, and whose pids mean something here?
use std::sync::OnceLock;

use crate::msg::addr::{Addr, Transport};
use crate::msg::ident::Aid;

/// This machine: its name, and behind a `/` its boot and its table of processes. A container with a table of its own is
/// a machine of its own.
pub(crate) fn host_id() -> &'static str {
    HOST_ID.get_or_init(|| {
        let name = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.split('-').next().unwrap_or_default();
        let table = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits: String = table.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        format!("{name}/{boot}-{digits}")
    })
}

static HOST_ID: OnceLock<String> = OnceLock::new();

/// Somebody on this machine has found it out already: to ask the kernel takes a while.
pub(super) fn set(host_id: &str) {
    HOST_ID.get_or_init(|| host_id.to_owned());
}

/// Whether an actor's pid is one of ours.
pub(crate) fn is_here(aid: &Aid) -> bool {
    aid.host_id() == host_id()
}

/// Those of an actor's addresses that may lead to it: the path of a Unix socket is one of its own host's.
pub(crate) fn ways_to<'a>(aid: &Aid, addrs: &'a [Addr]) -> Vec<&'a Addr> {
    // One that says no more than a name may be here.
    let is_elsewhere = !is_here(aid) && aid.host_id().contains('/');
    addrs.iter().filter(|addr| !is_elsewhere || addr.transport() != Transport::Uds).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn another_name_or_another_table_is_another_host() {
        let aid = |host: &str| Aid::new("frank", Uuid::nil(), 1, host);
        assert!(is_here(&aid(host_id())));
        assert!(!is_here(&aid(&format!("{}0", host_id()))) && !is_here(&aid(aid(host_id()).host())));
        assert_eq!(aid(host_id()).host(), rustix::system::uname().nodename().to_string_lossy());
    }
}
