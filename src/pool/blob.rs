//! How do many bytes travel without being copied again and again?
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::msg::codec;

/// Bytes that may lie in memory which two processes share: for large inputs and results.
///
/// It is an argument or a result like any other, and bytes to everybody else (msgpack's `bin`): where a function takes a
/// `Blob`, its caller may give `bytes::Bytes` of another program. What it is made for is work that a pool
/// gives to its processes: from 256 KiB on such bytes are copied once, into memory that both processes see,
/// and are read there, where `Vec<u8>` and `Bytes` are copied once more.
///
/// A clone is another view of the same bytes, as is [`Blob::slice`].
///
/// The shared memory is free for other bytes when the last view of it is gone. A pool keeps it for those, up to 128 MiB
/// each way with a worker, until that one has had no job for ten seconds. There is no more of it, so what a
/// program keeps for long is better copied (`blob.to_vec()`); nothing fails where it is not, but later bytes
/// travel on the line then. Both processes of one program can see that memory, and neither writes to it while there are views.
/// A process that belongs to somebody hostile, yet runs as the same user, could: so it could anywhere.
///
/// # Examples
///
/// ```
/// use teamster::{Blob, rpc};
///
/// #[rpc]
/// async fn brighter(pixels: Blob) -> Blob {
///     pixels.iter().map(|pixel| pixel.saturating_add(10)).collect::<Vec<u8>>().into()
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let frank = an.start_actor("frank").await?;
/// let image = Blob::from(vec![250; 3]);
/// assert_eq!(frank.run(brighter(image)).await?, [255; 3]);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Default)]
pub struct Blob {
    bytes: Bytes,
}

impl Blob {
    /// A view of a part of it. Nothing is copied.
    ///
    /// # Panics
    ///
    /// If the range does not lie in it, as with slices.
    ///
    /// # Examples
    ///
    /// ```
    /// let blob = teamster::Blob::from(vec![1, 2, 3, 4]);
    /// assert_eq!(blob.slice(1..3), [2, 3]);
    /// ```
    #[must_use]
    pub fn slice(&self, range: impl std::ops::RangeBounds<usize>) -> Blob {
        Blob { bytes: self.bytes.slice(range) }
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob { bytes: bytes.into() }
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Blob { bytes }
    }
}

/// Nothing is copied: what it was a view of is kept as long as these bytes are.
impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.bytes
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Blob {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for Blob {}

/// How many bytes it is, and the first ones.
impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        let (shown, dots) = match self.split_at_checked(SHOWN) {
            Some((first, rest)) if !rest.is_empty() => (Cow::Borrowed(first), "…"),
            _ => (Cow::Borrowed(&**self), ""),
        };
        write!(f, "Blob({} bytes: {}{dots})", self.len(), shown.escape_ascii())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BlobVisitor)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        let bytes = codec::piece_of(bytes).unwrap_or_else(|| Bytes::copy_from_slice(bytes));
        Ok(Blob { bytes })
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Blob, A::Error> {
        // The length may be a lie: it grows with what is there.
        let mut bytes = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
        while let Some(byte) = seq.next_element::<u8>()? {
            bytes.push(byte);
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::frame::Encoding;

    fn encoded(value: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_into(value, Encoding::Positional, &mut bytes).expect("it can be encoded");
        bytes
    }

    #[test]
    fn it_is_bytes_to_everybody_else() {
        let blob = Blob::from(vec![1, 2, 3]);
        assert_eq!(encoded(&blob), encoded(&Bytes::from_static(&[1, 2, 3])));
        assert_eq!(codec::decode::<Blob>(&encoded(&blob)).expect("bytes"), blob);
        assert_eq!(codec::decode::<Blob>(&encoded(&vec![1_u8, 2])).expect("numbers"), [1, 2]);
        assert_eq!(codec::decode::<Blob>(&encoded(&"text")).expect("a text"), b"text");
        assert!(codec::is_positional::<(Blob, u8)>());
        codec::decode::<Blob>(&encoded(&vec![256])).expect_err("no byte");
    }

    #[test]
    fn what_lies_aside_is_not_copied() {
        let there = Bytes::from(vec![7; 100]);
        let at = there.as_ptr();
        let blob = codec::with_pieces(vec![there], || codec::decode::<Blob>(&[0xd6, 84, 0, 0, 0, 0])).expect("a piece");
        assert_eq!((blob.as_ptr(), blob.len()), (at, 100));
        assert_eq!(Bytes::from(blob.slice(1..)).as_ptr(), at.wrapping_add(1));
    }

    #[test]
    fn it_is_printed_short() {
        assert_eq!(format!("{:?}", Blob::from(vec![b'a'; 17])), "Blob(17 bytes: aaaaaaaaaaaaaaaa…)");
        assert_eq!(format!("{:?}", Blob::from(b"a\0".to_vec())), "Blob(2 bytes: a\\x00)");
    }
}
