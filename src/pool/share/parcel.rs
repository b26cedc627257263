//! How does a message tell which of its byte strings lie elsewhere?
//!
//! ```text
//! 0xc1 │ u32, little-endian: bytes of the note │ the value in msgpack, with marks │ the note in msgpack
//! ```
//!
//! The note comes last: it is known when the value has been written.
use serde::{Deserialize, Serialize};

use crate::actor::parcels::PARCEL;
use crate::msg::codec;
use crate::msg::frame::Encoding;

/// What is said beside a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The parent's number for the call.
    pub(super) call: u64,
    /// Of the parent's calls that have not ended, the first. What was sent for those before it, nobody wants.
    pub(super) oldest: u64,
    pub(super) pieces: Option<Pieces>,
}

/// Where byte strings lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pieces {
    pub(super) slot: u64,
    pub(super) segment: u64,
    pub(super) message: u64,
    pub(super) lengths: Vec<u64>,
}

/// In front of the value.
const FRONT_BYTES: usize = 5;

/// The beginning of a parcel: the value goes behind it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PARCEL, 0, 0, 0, 0]);
}

/// Ends the parcel that `out` is.
pub(super) fn end(out: &mut Vec<u8>, note: &Note) {
    let at = out.len();
    codec::encode_into(note, Encoding::Positional, out).expect("numbers are not too deep");
    let bytes = u32::try_from(out.len() - at).expect("the codec has no number of byte strings that long");
    out[1..FRONT_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

/// The value and the note. `None`: it is no parcel.
pub(super) fn open(bytes: &[u8]) -> Option<(&[u8], Note)> {
    let [PARCEL, a, b, c, d, rest @ ..] = bytes else { return None };
    let note_bytes = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
    let (value, note) = rest.split_at_checked(rest.len().checked_sub(note_bytes)?)?;
    Some((value, codec::decode(note).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel() -> (Vec<u8>, Note) {
        let pieces = Pieces { slot: 1, segment: 300, message: 2, lengths: vec![1 << 40, 5] };
        let note = Note { call: 7, oldest: 3, pieces: Some(pieces) };
        let mut bytes = Vec::new();
        begin(&mut bytes);
        bytes.extend_from_slice(b"value");
        end(&mut bytes, &note);
        (bytes, note)
    }

    #[test]
    fn a_parcel_is_its_value_and_its_note() {
        let (bytes, note) = parcel();
        assert_eq!(open(&bytes), Some((&b"value"[..], note)));
    }

    #[test]
    fn what_is_cut_or_changed_is_no_parcel_or_another_one() {
        let (bytes, _) = parcel();
        for length in 0..bytes.len() {
            let _another = open(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _another = open(&changed);
        }
        assert_eq!(open(b"\x90"), None);
        assert_eq!(open(&[PARCEL, 255, 255, 255, 255]), None);
    }
}
