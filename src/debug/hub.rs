//! A stand-in.
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use crate::actor::Actor;
use crate::debug::dump::{self, Answer};
use crate::msg::codec;
use crate::msg::frame::Encoding;

pub(super) fn send(actor: &Arc<Actor>, answer: Answer) -> std::io::Result<()> {
    let mut bytes = vec![0; 4];
    let _ = codec::encode_into(&answer, Encoding::Named, &mut bytes);
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    UnixStream::connect(actor.folder.join("debug"))?.write_all(&bytes)
}

pub(super) fn listen(actor: &Arc<Actor>) {
    let Ok(listener) = UnixListener::bind(actor.folder.join("debug")) else { return };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: UnixStream = stream;
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            if let Ok(answer) = codec::decode(&bytes[4..]) {
                dump::deliver(answer);
            }
        }
    });
}
