//! Who belongs to whom, and what ends when?
mod builder;
mod certify;
pub(crate) mod entry;
mod one_shot;
mod root;
mod scope;
mod supervise;

pub use builder::ActorBuilder;
pub use one_shot::OneShot;
pub use root::{Guard, RootBuilder, init, root};
pub use scope::{ActorNursery, Cluster, open_nursery};

pub(crate) use crate::actor::boot::{boot_if_spawned, boot_or_be_ready};
pub(crate) use crate::actor::crash::set_test;
pub(crate) use root::finish_roots;
pub(crate) use supervise::is_consequence;
