//! What must hold for any bytes at all: the targets of `fuzz/`, which also run over its seeds below.
use bytes::BytesMut;

use crate::msg::codec;
use crate::msg::frame::{self, Encoding, Frame, MAX_FRAME_BYTES, MAX_HELLO_BYTES, PROTOCOL};

/// Reads frames until bytes end or framing is lost. Whatever was read is written and read again,
/// and payloads are read as values.
///
/// # Panics
///
/// If a frame does not come back as it was: a fault in the code.
pub fn frame_decode(mut bytes: &[u8]) {
    while let Ok(Some((frame, payload, taken))) = frame::decode(bytes, MAX_FRAME_BYTES) {
        let mut again = BytesMut::new();
        frame::encode(&frame, payload, &mut again);
        let (read, read_payload, read_bytes) = frame::decode(&again, MAX_FRAME_BYTES)
            .expect("our own frame is well-formed")
            .expect("our own frame is whole");
        assert_eq!(format!("{read:?}"), format!("{frame:?}"), "the header changed");
        assert_eq!((read_payload, read_bytes), (payload, again.len()), "the payload changed");
        value_decode(payload);
        bytes = &bytes[taken..];
    }
}

/// Reads bytes as a value of many shapes. What could be read comes back.
fn value_decode(bytes: &[u8]) {
    type Many = (Option<Option<u8>>, Vec<(String, i64)>, std::collections::BTreeMap<u8, Result<f32, ()>>);
    let Ok(value) = codec::decode::<Many>(bytes) else { return };
    let mut again = Vec::new();
    codec::encode_into(&value, Encoding::Positional, &mut again).expect("a value that was read can be written");
    let read = codec::decode::<Many>(&again).expect("our own value is well-formed");
    assert_eq!(format!("{read:?}"), format!("{value:?}"), "the value changed");
}

/// What an accepting side decides on a stranger's first bytes.
///
/// # Panics
///
/// If another major is let in, or refused without a reason: a fault in the code.
pub fn handshake(bytes: &[u8]) {
    let Ok(Some((Frame::Hello(hello), payload, _))) = frame::decode(bytes, MAX_HELLO_BYTES) else { return };
    match frame::check_hello(&hello) {
        Ok(()) => assert_eq!(hello.protocol.0, PROTOCOL.0),
        Err(reason) => {
            assert_ne!(hello.protocol.0, PROTOCOL.0);
            assert!(!reason.is_empty());
        }
    }
    assert!(payload.len() <= MAX_HELLO_BYTES as usize);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_the_seeds(target: &str, run: fn(&[u8])) {
        let folder = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for seed in std::fs::read_dir(&folder).expect("the seeds are part of the repository") {
            let bytes = std::fs::read(seed.expect("a readable folder").path()).expect("a readable seed");
            (0..=bytes.len()).for_each(|end| run(&bytes[..end]));
            count += 1;
        }
        assert!(count > 3, "{folder}: {count} seeds");
    }

    #[test]
    fn the_seeds_of_frame_decode_do_no_harm() {
        over_the_seeds("frame_decode", frame_decode);
    }

    #[test]
    fn the_seeds_of_handshake_do_no_harm() {
        over_the_seeds("handshake", handshake);
    }
}
