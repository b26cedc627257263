//! Which byte strings of a value lie elsewhere? Large ones may, so that they are copied once.
//!
//! Who writes a value can have a [`Spill`]: it is shown each large byte string while it is being written, and may take a
//! copy of it to a place of its own. Only a mark with a number is left among the value's bytes then. Nothing is kept by
//! pointer: what a `Serialize` shows may be gone when it returns. Who reads it brings the byte strings, by their numbers.
use std::cell::RefCell;

use bytes::Bytes;

/// From so many bytes on a byte string is worth a place of its own.
///
/// Measured, there and back between two processes: 37 µs by shared memory, 380 by a Unix socket, whose buffer it no longer
/// fits into. 128 KiB fit, and take 87 µs.
pub(crate) const SPILL_BYTES: usize = 256 * 1024;

/// The extension type of a byte string that lies elsewhere. Its four bytes, big-endian, are the number.
pub(super) const ASIDE: i8 = 84;

/// Where large byte strings go instead of among the value's bytes.
pub(crate) trait Spill {
    /// Copies them, and gives their number. `None`: there is no room, and they stay with the rest.
    fn take(&mut self, bytes: &[u8]) -> Option<u32>;
    /// What was taken is not wanted: the value is written once more.
    fn restart(&mut self);
}

thread_local! {
    /// The byte strings of what is being decoded on this thread.
    static PIECES: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// Decodes with `pieces` at hand, which the value's marks refer to.
pub(crate) fn with_pieces<R>(pieces: Vec<Bytes>, decode: impl FnOnce() -> R) -> R {
    /// Puts back what was there before, also if the decoding panics.
    struct Before(Vec<Bytes>);

    impl Drop for Before {
        fn drop(&mut self) {
            // Its drop may run code of others: not while the cell is borrowed.
            let _ours = PIECES.replace(std::mem::take(&mut self.0));
        }
    }

    let _before = Before(PIECES.replace(pieces));
    decode()
}

pub(super) fn piece(number: u32) -> Option<Bytes> {
    PIECES.with_borrow(|pieces| pieces.get(usize::try_from(number).ok()?).cloned())
}

/// The piece that `bytes` is, so that it can be kept without a copy.
pub(crate) fn piece_of(bytes: &[u8]) -> Option<Bytes> {
    PIECES.with_borrow(|pieces| pieces.iter().find(|piece| std::ptr::eq(&raw const piece[..], bytes)).cloned())
}
