//! What stands in etcd, and under which key?
//!
//! `<prefix>/<name>/<uuid>`, each key with the lease of its actor's root. A name may hold anything, so `/` and `%` in it are
//! written as in URLs: no name is the beginning of another one's keys.
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::discovery::table::{Place, Record};
use crate::msg::codec;
use crate::msg::frame::Encoding;

/// What a key says of its actor. Fields are named in it: the programs of a cluster need not be of one build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Registered {
    /// Whose tree it is of.
    pub(super) root: Uuid,
    /// Its place among those that were put at once: these have one revision.
    pub(super) rank: u8,
    pub(super) record: Record,
}

impl Registered {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_into(self, Encoding::Named, &mut bytes).expect("our own records are plain data");
        bytes
    }

    /// `None`: somebody else's, or of a version to come.
    pub(super) fn decode(bytes: &[u8]) -> Option<Registered> {
        codec::decode(bytes).ok()
    }

    /// The record with its place in the cluster instead of the one in its tree: clocks of several hosts have no order.
    pub(super) fn placed(mut self, created: Revision) -> Record {
        let uuid = self.record.uuid();
        if let Some(serving) = &mut self.record.serving {
            serving.since = created.place(self.rank, uuid);
        }
        self.record
    }
}

/// When a key was made, by etcd's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Revision(pub(super) i64);

impl Revision {
    fn place(self, rank: u8, uuid: Uuid) -> Place {
        let revision = u64::try_from(self.0).unwrap_or(0).min(LAST_REVISION);
        Place::new((revision << RANK_BITS) | u64::from(rank).min((1 << RANK_BITS) - 1), uuid)
    }

    /// Where a place is from. `None`: from [`unregistered`].
    pub(super) fn of(place: Place) -> Option<Revision> {
        let revision = place.number() >> RANK_BITS;
        (revision <= LAST_REVISION).then(|| Revision(i64::try_from(revision).unwrap_or(i64::MAX)))
    }
}

/// A name of our own tree that is on its way to etcd: newer than all that is there.
pub(super) fn unregistered(mut record: Record) -> Record {
    if let Some(serving) = &mut record.serving {
        serving.since = Place::new(serving.since.number() | (1 << 63), serving.since.uuid());
    }
    record
}

/// Where all names are.
pub(super) fn all(prefix: &str) -> String {
    format!("{prefix}/")
}

/// Where the actors of this name are.
pub(super) fn of_name(prefix: &str, name: &str) -> String {
    let mut key = String::with_capacity(prefix.len() + name.len() + 2);
    key.push_str(prefix);
    key.push('/');
    for char in name.chars() {
        match char {
            '/' => key.push_str("%2F"),
            '%' => key.push_str("%25"),
            char => key.push(char),
        }
    }
    key.push('/');
    key
}

/// Where this actor is.
pub(super) fn of_actor(prefix: &str, name: &str, uuid: Uuid) -> String {
    let mut key = of_name(prefix, name);
    key.push_str(uuid.simple().encode_lower(&mut Uuid::encode_buffer()));
    key
}

/// Room for the ranks of a batch.
const RANK_BITS: u32 = 7;
/// The highest bit is for [`unregistered`].
const LAST_REVISION: u64 = (1 << (63 - RANK_BITS)) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(revision: i64, rank: u8) -> Place {
        Revision(revision).place(rank, Uuid::nil())
    }

    #[test]
    fn no_name_is_the_beginning_of_anothers_keys() {
        let names = ["", "a", "a/b", "a%2Fb", "%", "b", "a/"];
        for (here, one) in names.iter().enumerate() {
            for (there, other) in names.iter().enumerate() {
                let is_below = of_actor("/p", other, Uuid::nil()).starts_with(&of_name("/p", one));
                assert_eq!(is_below, here == there, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_later_put_is_the_newer() {
        assert!(place(1, 99) < place(2, 0) && place(2, 0) < place(2, 1) && place(i64::MAX, 0) > place(1 << 40, 0));
        assert_eq!(Revision::of(place(12345, 99)), Some(Revision(12345)));
        assert_eq!(Revision::of(Place::new(1 << 63, Uuid::nil())), None);
    }
}
