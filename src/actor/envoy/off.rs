//! Who leads to another host's agent, in a build without the feature `tls`? Nobody.
use super::{boot, signals};

/// What the variable of the boot is where an envoy is to be started.
pub(crate) const LEAD: &str = "lead";

/// Bytes of the largest message.
pub(crate) const MAX_ENVOY_BYTES: usize = 60 * 1024;

/// Says why not.
pub(super) fn lead() -> ! {
    eprintln!("teamster: this program was built without teamster's feature `tls`, by which agents are spoken to");
    signals::exit_now(boot::BOOT_FAILED)
}
