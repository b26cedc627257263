//! What do an envoy and a host's agent say to each other?
use bytes::Bytes;

use super::agent::Order;
use super::codec;
use super::frame::Encoding;

/// The byte streams of an actor over there, in the order of their descriptors.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;

/// Bytes of the largest frame: an order's arguments are most of it.
pub(crate) const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Bytes of a stream in one frame at most.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// One word on the line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// First, by the envoy.
    Order(Box<Order>),
    /// The agent's answer where it does not take the order: why, for people.
    Refused(String),
    /// The next bytes of a stream.
    Bytes(u8, Bytes),
    /// Nothing follows on that stream.
    End(u8),
    /// So many bytes of that stream may be sent beyond those that were granted before.
    Grant(u8, u32),
    /// The agent's last: with this status its actor's keeper has ended.
    Exit(i32),
}

/// Bytes that are no word.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum WordError {
    #[error("a word of {0} bytes, of at most {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("a word that begins with {0:#04x} and has {1} bytes")]
    Unknown(u8, usize),
    #[error("an order that can't be read: {0}")]
    Order(String),
}

/// A kind, and a length of four bytes, little-endian.
const HEADER_BYTES: usize = 5;

impl Word {
    /// # Errors
    ///
    /// An order that is too long.
    pub(crate) fn write(&self, into: &mut Vec<u8>) -> Result<(), WordError> {
        let at = into.len();
        let kind = match self {
            Word::Order(_) => b'o',
            Word::Refused(_) => b'r',
            Word::Bytes(..) => b'b',
            Word::End(_) => b'e',
            Word::Grant(..) => b'g',
            Word::Exit(_) => b'x',
        };
        into.extend_from_slice(&[kind, 0, 0, 0, 0]);
        match self {
            Word::Order(order) => {
                codec::encode_into(order, Encoding::Named, into)
                    .map(drop)
                    .map_err(|error| WordError::Order(error.to_string()))?;
            }
            Word::Refused(why) => into.extend_from_slice(cut(why).as_bytes()),
            Word::Bytes(stream, bytes) => {
                into.push(*stream);
                into.extend_from_slice(bytes);
            }
            Word::End(stream) => into.push(*stream),
            Word::Grant(stream, bytes) => {
                into.push(*stream);
                into.extend_from_slice(&bytes.to_le_bytes());
            }
            Word::Exit(status) => into.extend_from_slice(&status.to_le_bytes()),
        }
        let length = into.len() - at - HEADER_BYTES;
        if length > MAX_FRAME_BYTES {
            into.truncate(at);
            return Err(WordError::TooLong(length));
        }
        into[at + 1..at + HEADER_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(())
    }

    /// The first word of `bytes`, and how many bytes it has. `None`: it is not all there.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Word, usize)>, WordError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(WordError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let unknown = || WordError::Unknown(kind, length);
        let word = match (kind, body) {
            (b'o', body) => codec::decode(body)
                .map(|order| Word::Order(Box::new(order)))
                .map_err(|error| WordError::Order(error.to_string()))?,
            (b'r', body) => Word::Refused(String::from_utf8_lossy(body).into_owned()),
            (b'b', [stream @ STDIN..=STDERR, bytes @ ..]) => Word::Bytes(*stream, Bytes::copy_from_slice(bytes)),
            (b'e', [stream @ STDIN..=STDERR]) => Word::End(*stream),
            (b'g', [stream @ STDIN..=STDERR, bytes @ ..]) => {
                Word::Grant(*stream, u32::from_le_bytes(bytes.try_into().map_err(|_| unknown())?))
            }
            (b'x', status) => Word::Exit(i32::from_le_bytes(status.try_into().map_err(|_| unknown())?)),
            _ => return Err(unknown()),
        };
        Ok(Some((word, HEADER_BYTES + length)))
    }
}

/// Bytes of a reason that are told at most.
const MAX_REASON_BYTES: usize = 4096;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REASON_BYTES)]
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::msg::agent::ORDERS;

    fn words() -> Vec<Word> {
        let order = Order {
            version: ORDERS,
            actor: "w".into(),
            uuid: Uuid::nil(),
            lineage: "a/b".into(),
            grace_ms: 1,
            lost_after_ms: 2,
            executable: "0a-7".into(),
            executable_bytes: 7,
            args: vec![Bytes::from_static(b"--quiet")],
        };
        vec![
            Word::Order(Box::new(order)),
            Word::Refused("no".into()),
            Word::Bytes(STDOUT, Bytes::from_static(b"hay")),
            Word::Bytes(STDERR, Bytes::new()),
            Word::End(STDIN),
            Word::Grant(STDOUT, 70_000),
            Word::Exit(-1),
        ]
    }

    #[test]
    fn a_word_comes_whole_or_not_at_all() {
        for word in words() {
            let mut bytes = Vec::new();
            word.write(&mut bytes).unwrap();
            for cut in 0..bytes.len() {
                assert_eq!(Word::read(&bytes[..cut]), Ok(None), "{word:?}");
            }
            bytes.push(b'?');
            assert_eq!(Word::read(&bytes), Ok(Some((word, bytes.len() - 1))));
        }
    }

    #[test]
    fn what_is_no_word_is_an_error_and_sizes_nothing() {
        assert_eq!(Word::read(b"b\xff\xff\xff\xff"), Err(WordError::TooLong(u32::MAX as usize)));
        let unknown: [&[u8]; 6] =
            [b"?\0\0\0\0", b"b\x01\0\0\0\x03", b"b\0\0\0\0", b"e\x02\0\0\0\0\0", b"g\x02\0\0\0\0\0", b"x\0\0\0\0"];
        for bytes in unknown {
            assert!(matches!(Word::read(bytes), Err(WordError::Unknown(..))), "{bytes:?}");
        }
        assert!(matches!(Word::read(b"o\x01\0\0\0\xc1"), Err(WordError::Order(_))));
    }

    proptest::proptest! {
        /// Whatever a stranger sends: it is no word, or one that is written as it came.
        #[test]
        fn any_bytes_are_a_word_or_an_error(kind in proptest::sample::select(b"orbegx?".to_vec()), body: Vec<u8>) {
            let bytes = [&[kind], &(body.len() as u32).to_le_bytes()[..], &body].concat();
            if let Ok(Some((word, length))) = Word::read(&bytes) {
                let mut again = Vec::new();
                word.write(&mut again).unwrap();
                proptest::prop_assert_eq!(length, bytes.len());
                proptest::prop_assert_eq!(Word::read(&again), Ok(Some((word, again.len()))));
            }
        }
    }

    #[test]
    fn a_reason_is_cut_between_two_letters() {
        let mut bytes = Vec::new();
        Word::Refused("ä".repeat(MAX_REASON_BYTES)).write(&mut bytes).unwrap();
        let Ok(Some((Word::Refused(why), _))) = Word::read(&bytes) else { panic!("it is one") };
        assert_eq!(why.len(), MAX_REASON_BYTES);
    }
}
