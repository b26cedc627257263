//! How is a value bytes? As msgpack, in the layout of `rmp-serde`.
//!
//! Reader and writer are our own, on `rmp`'s primitives: `rmp-serde` writes `Some(None)` as `None`,
//! writes positions where a field was skipped, and overflows the stack on nested enums.
mod aside;
mod de;
mod probe;
mod refusal;
mod ser;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::frame::Encoding;
pub(crate) use aside::{SPILL_BYTES, Spill, piece_of, with_pieces};
pub(crate) use probe::is_positional;

/// How deep values may nest, on both sides: a linked list of more nodes is an error at its sender.
///
/// Every level takes some KiB of stack in a debug build, and tokio's threads have 2 MiB.
pub(crate) const MAX_DEPTH: u16 = 200;

/// The extension type of a `Some` whose content looks like a `None`: `Some(())`, `Some(None)`.
/// Its one byte counts the `Some`s around the nil.
const SOME_OF_NIL: i8 = 83;

/// Why a value could not become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode {type_name}{}: {message}", Place(path))]
pub(crate) struct EncodeFailure {
    /// The whole value's type.
    pub(crate) type_name: &'static str,
    /// Where in the value, as in `[1].name`. Empty: the value itself.
    pub(crate) path: String,
    /// What was wrong with it.
    pub(crate) message: String,
}

/// Why bytes are no such value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {type_name}{}: {message}", Place(path))]
pub(crate) struct DecodeFailure {
    /// The whole value's type.
    pub(crate) type_name: &'static str,
    /// Where in the value, as in `[1].name`. Empty: the value itself.
    pub(crate) path: String,
    /// What was wrong there.
    pub(crate) message: String,
}

struct Place<'a>(&'a str);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, " at {path}"),
        }
    }
}

/// Appends `value` to `out`. Whoever wants `Positional` has asked [`is_positional`] of its type.
///
/// Says how its structs are laid out: as `want` says, or `Named` because a field was skipped, which
/// positions would not show.
///
/// # Errors
///
/// The value's own `Serialize` refused, or it nests too deep. `out` is as it was.
#[inline]
pub(crate) fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    want: Encoding,
    out: &mut Vec<u8>,
) -> Result<Encoding, EncodeFailure> {
    encode_with(value, want, out, None)
}

/// The same; and large byte strings go to `spill`, where there is one, as far as that takes them.
///
/// # Errors
///
/// As [`encode_into`]. What has been spilled then is not wanted.
#[inline]
pub(crate) fn encode_with<T: Serialize + ?Sized>(
    value: &T,
    want: Encoding,
    out: &mut Vec<u8>,
    spill: Option<&mut dyn Spill>,
) -> Result<Encoding, EncodeFailure> {
    let start = out.len();
    let mut serializer = ser::Serializer::new(&mut *out, want, spill);
    match value.serialize(&mut serializer) {
        // A value that swallows our error has skipped a field all the same.
        _ if serializer.has_skipped() => {
            let (out, spill) = serializer.into_parts();
            retry(value, start, out, spill)
        }
        Ok(()) => Ok(want),
        Err(error) => Err(refused_to_be_written(std::any::type_name::<T>(), error, start, out)),
    }
}

/// Writes a value anew, with names.
#[cold]
#[inline(never)]
fn retry<T: Serialize + ?Sized>(
    value: &T,
    start: usize,
    out: &mut Vec<u8>,
    mut spill: Option<&mut (dyn Spill + '_)>,
) -> Result<Encoding, EncodeFailure> {
    out.truncate(start);
    if let Some(spill) = &mut spill {
        spill.restart();
    }
    let again = value.serialize(&mut ser::Serializer::new(&mut *out, Encoding::Named, spill));
    match again {
        Ok(()) => Ok(Encoding::Named),
        Err(error) => Err(refused_to_be_written(std::any::type_name::<T>(), error, start, out)),
    }
}

#[cold]
fn refused_to_be_written(
    type_name: &'static str,
    error: refusal::Error,
    start: usize,
    out: &mut Vec<u8>,
) -> EncodeFailure {
    out.truncate(start);
    let (path, message) = error.into_parts();
    EncodeFailure { type_name, path, message }
}

/// Reads a value that takes all of `bytes`, in either encoding.
///
/// Allocates no more than a small multiple of the bytes that are here, whatever lengths they announce.
///
/// # Errors
///
/// With the place in the value.
#[inline]
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeFailure> {
    let mut deserializer = de::Deserializer::new(bytes);
    match T::deserialize(&mut deserializer) {
        Ok(value) if deserializer.is_done() => Ok(value),
        Ok(_) => Err(trailing(std::any::type_name::<T>(), deserializer.left())),
        Err(error) => Err(refused(std::any::type_name::<T>(), error)),
    }
}

/// Reads the first value of `bytes`, behind which others follow, and goes on to them.
///
/// # Errors
///
/// As [`decode`].
#[inline]
pub(crate) fn decode_first<'de, T: Deserialize<'de>>(bytes: &mut &'de [u8]) -> Result<T, DecodeFailure> {
    let mut deserializer = de::Deserializer::new(bytes);
    match T::deserialize(&mut deserializer) {
        Ok(value) => {
            *bytes = deserializer.rest();
            Ok(value)
        }
        Err(error) => Err(refused(std::any::type_name::<T>(), error)),
    }
}

/// Bytes of the first value, whatever it is. `None`: there is no whole value.
pub(crate) fn value_len(bytes: &[u8]) -> Option<usize> {
    super::frame::value_len(bytes)
}

#[cold]
fn trailing(type_name: &'static str, left: usize) -> DecodeFailure {
    DecodeFailure { type_name, path: String::new(), message: format!("{left} bytes are left over behind it") }
}

#[cold]
fn refused(type_name: &'static str, error: refusal::Error) -> DecodeFailure {
    let (path, message) = error.into_parts();
    DecodeFailure { type_name, path, message }
}
