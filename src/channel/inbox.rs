//! What has been read from a line and is not handled yet?

/// Received bytes, and the payload that is being read to where it belongs.
pub(crate) struct Inbox {
    /// `bytes[start..end]` are not handled yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// A piece of a long payload, read past `bytes`.
    pub(super) direct: Option<Direct>,
    /// The next read should be a short one: behind a piece comes the header of the next.
    pub(super) expects_header: bool,
}

/// A piece of a long payload, of which bytes are missing.
pub(super) struct Direct {
    pub(super) dialog: u64,
    /// Bytes of the whole payload that follow behind this piece.
    pub(super) left: u64,
    /// The payload so far.
    pub(super) bytes: Vec<u8>,
    pub(super) piece_bytes: usize,
    pub(super) missing: usize,
}

/// The first buffer of a line, in bytes: an idle line costs no more.
const FIRST_BYTES: usize = 1024;
/// A read never asks for less room than this once a line has been busy, in bytes.
const BUSY_BYTES: usize = 64 * 1024;
/// Room for headers between two pieces, in bytes: what else is there comes along, and is copied once.
const HEADER_BYTES: usize = 512;

impl Inbox {
    pub(crate) fn new(first: &[u8]) -> Self {
        let mut bytes = vec![0; FIRST_BYTES.max(first.len())];
        bytes[..first.len()].copy_from_slice(first);
        Inbox { bytes, start: 0, end: first.len(), direct: None, expects_header: false }
    }

    pub(super) fn unhandled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn handled(&mut self, bytes: usize) {
        self.start += bytes;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// Room for the next read. Grows with bytes that came, never with a length that was announced.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > BUSY_BYTES {
                self.bytes.truncate(BUSY_BYTES);
                self.bytes.shrink_to_fit();
            }
        }
        if self.end == self.bytes.len() {
            if self.start >= self.bytes.len() / 2 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let grown = (self.bytes.len() * 2).max(BUSY_BYTES);
                self.bytes.resize(grown, 0);
            }
        }
        let mut until = self.bytes.len();
        if std::mem::take(&mut self.expects_header) {
            until = until.min(self.end + HEADER_BYTES);
        }
        &mut self.bytes[self.end..until]
    }
}
