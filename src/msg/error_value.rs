//! Which error types cross as values, and how: those with `#[teamster::error]`, and our own.
use std::any::type_name;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec;
use super::error_data::ErrorData;
use super::frame::Encoding;
use crate::error::{BoxError, Error};

/// An error type that crosses between actors as a value, not as text alone.
///
/// Made by [`#[teamster::error]`](macro@crate::error), for each type that carries it.
#[doc(hidden)]
#[derive(Debug)]
pub struct ErrorRegistration {
    name: fn() -> &'static str,
    encode: fn(&(dyn StdError + 'static)) -> Option<Vec<u8>>,
    decode: fn(&[u8]) -> Option<BoxError>,
    is: fn(&(dyn StdError + 'static)) -> bool,
}

/// Every registered error type of this program.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static ERRORS: [ErrorRegistration];

/// An error that can cross between actors as a value.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't cross between actors as an error value",
    label = "not an error type that becomes bytes and comes back",
    note = "implement `std::error::Error` for it and derive `serde::Serialize` and `serde::Deserialize`"
)]
pub trait ErrorValue: StdError + Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<E: StdError + Serialize + DeserializeOwned + Send + Sync + 'static> ErrorValue for E {}

/// The entry for one type.
#[doc(hidden)]
pub const fn register_error<E: ErrorValue>() -> ErrorRegistration {
    ErrorRegistration {
        name: type_name::<E>,
        encode: |error| encoded(error.downcast_ref::<E>()?),
        decode: |bytes| Some(Box::new(codec::decode::<E>(bytes).ok()?)),
        is: |error| error.is::<E>(),
    }
}

/// A typed error as data. The name is the type's whole path: short names may be equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) type_name: String,
    #[serde(with = "bin")]
    pub(crate) bytes: Vec<u8>,
}

impl Value {
    /// `None`: its type is not registered, or it can't be encoded, or is over the limit.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Option<Value> {
        let (type_name, bytes) = match error.downcast_ref::<Error>() {
            Some(ours) => (type_name::<Error>(), encoded(&ErrorData::from(ours))?),
            None => {
                let entry = ERRORS.iter().find(|entry| (entry.is)(error))?;
                ((entry.name)(), (entry.encode)(error)?)
            }
        };
        (bytes.len() <= MAX_VALUE_BYTES).then(|| Value { type_name: type_name.to_owned(), bytes })
    }

    /// The value again, if this program knows its type and the bytes are such a value.
    pub(crate) fn decode(&self) -> Option<BoxError> {
        if self.type_name == type_name::<Error>() {
            let data: ErrorData = codec::decode(&self.bytes).ok()?;
            return Some(Box::new(Error::from(data)));
        }
        let entries = by_name().get(self.type_name.as_str())?;
        entries.iter().find_map(|entry| (entry.decode)(&self.bytes))
    }
}

/// The name of an error's type, if it is registered or one of those that everybody meets.
pub(crate) fn name_of(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(entry) = ERRORS.iter().find(|entry| (entry.is)(error)) {
        return Some((entry.name)());
    }
    macro_rules! known {
        ($($known:ty),* $(,)?) => {
            $(if error.is::<$known>() { return Some(type_name::<$known>()); })*
        };
    }
    known!(
        Error,
        std::io::Error,
        std::fmt::Error,
        std::num::ParseIntError,
        std::num::ParseFloatError,
        std::num::TryFromIntError,
        std::str::ParseBoolError,
        std::str::Utf8Error,
        std::string::FromUtf8Error,
        std::char::ParseCharError,
        std::env::VarError,
        core::net::AddrParseError,
        std::time::SystemTimeError,
        std::sync::mpsc::RecvError,
        std::collections::TryReserveError,
    );
    None
}

/// Bytes of the largest value that crosses; a larger one crosses as text. It is under the limit
/// of a frame by far, so that an error always arrives.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// Named, since an error may climb through other builds. A `Serialize` that panics loses the value only.
fn encoded<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut bytes = Vec::new();
        codec::encode_into(value, Encoding::Named, &mut bytes).ok().map(|_| bytes)
    }))
    .ok()
    .flatten()
}

fn by_name() -> &'static HashMap<&'static str, Vec<&'static ErrorRegistration>> {
    static INDEX: OnceLock<HashMap<&'static str, Vec<&'static ErrorRegistration>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for entry in ERRORS {
            index.entry((entry.name)()).or_default().push(entry);
        }
        index
    })
}

/// Bytes as msgpack `bin`.
mod bin {
    use std::fmt;

    use serde::de::{Deserializer, SeqAccess, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = items.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
}
