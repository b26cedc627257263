//! What comes on a new process's stdin, and how is it bytes? A length of four bytes, little-endian, and msgpack with names.
use std::io::{self, Read};

use serde::Serialize;

use crate::msg::codec;
use crate::msg::frame::Encoding;

/// A message of at most `most` bytes.
pub(crate) fn message(value: &impl Serialize, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    codec::encode_into(value, Encoding::Named, &mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let length = bytes.len() - 4;
    if length > most {
        return Err(io::Error::other(format!("it has {length} bytes: names and paths are too long")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads one. `None`: whoever was to send it is gone.
pub(super) fn read_message(from: &mut impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if from.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::Error::other(format!("{length} bytes: is something else on stdin?")));
    }
    let mut bytes = vec![0; length];
    Ok(from.read_exact(&mut bytes).is_ok().then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_whole_or_not_at_all() {
        let bytes = message(&"hay", 100).unwrap();
        assert_eq!(read_message(&mut &bytes[..], 100).unwrap().unwrap(), bytes[4..]);
        for cut in 0..bytes.len() {
            assert_eq!(read_message(&mut &bytes[..cut], 100).unwrap(), None);
        }
    }

    #[test]
    fn one_that_is_too_long_is_refused_on_both_sides() {
        assert!(message(&"hay", 3).is_err());
        let bytes = message(&"hay", 4).unwrap();
        assert!(read_message(&mut &bytes[..], 3).unwrap_err().to_string().contains("something else on stdin"));
    }
}
