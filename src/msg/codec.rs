//! How is a value bytes? (A stand-in until the real one is merged.)
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::Encoding;

/// A value that can't become bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{type_name}` can't be encoded: {message}")]
pub(crate) struct EncodeFailure {
    pub(crate) type_name: &'static str,
    pub(crate) message: String,
}

/// Bytes that are no such value.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no `{type_name}` at {path}: {message}")]
pub(crate) struct DecodeFailure {
    pub(crate) type_name: &'static str,
    pub(crate) path: String,
    pub(crate) message: String,
}

pub(crate) fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    want: Encoding,
    out: &mut Vec<u8>,
) -> Result<Encoding, EncodeFailure> {
    let done = match want {
        Encoding::Positional => rmp_serde::encode::write(out, value),
        Encoding::Named => rmp_serde::encode::write_named(out, value),
    };
    match done {
        Ok(()) => Ok(want),
        Err(error) => {
            Err(EncodeFailure { type_name: std::any::type_name::<T>(), message: error.to_string() })
        }
    }
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeFailure> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| DecodeFailure {
        type_name: std::any::type_name::<T>(),
        path: error.path().to_string(),
        message: error.into_inner().to_string(),
    })
}
