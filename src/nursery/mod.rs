//! Who belongs to whom, and what ends when?
mod as_guest;
mod builder;
mod certify;
pub(crate) mod entry;
mod one_shot;
mod process;
mod root;
mod scope;
mod supervise;

pub use builder::ActorBuilder;
pub use one_shot::OneShot;
pub use process::{ProcessBuilder, ProcessExit, ProcessHandle};
pub use root::{Guard, RootBuilder, init, root};
pub use scope::{ActorNursery, Cluster, open_nursery};

pub(crate) use crate::actor::boot::{boot_if_spawned, boot_or_be_ready};
pub(crate) use crate::actor::crash::set_test;
pub(crate) use builder::start;
pub(crate) use root::{at_end_of_main, finish_roots};
pub(crate) use supervise::{Care, Nursery, is_consequence, stand_in};
