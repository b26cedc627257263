//! How much may still be sent? Credit in bytes, for each direction of a stream.
//!
//! An offset counts the payload bytes of all items since the dialog began. The receiver grants an
//! absolute offset, so that a grant which is sent twice or overtaken does no harm.

/// Bytes that either side of a dialog may send before the other has read anything: so little that
/// thousands of idle dialogs cost nothing.
pub(crate) const FIRST_WINDOW_BYTES: u32 = 16 * 1024;

/// Bytes that may be under way or unread, once the reader has shown that it reads. On a local line
/// it is several times what one turn of two processes moves, and small beside a process.
pub(crate) const WINDOW_BYTES: u32 = 1 << 20;

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Sending {
    sent: u64,
    up_to: u64,
}

impl Sending {
    pub(crate) fn new() -> Self {
        Sending { sent: 0, up_to: u64::from(FIRST_WINDOW_BYTES) }
    }

    /// Bytes that may be sent now.
    pub(crate) fn room(&self) -> u64 {
        self.up_to - self.sent
    }

    /// Books `bytes` as sent, if there is room for all of them.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let has_room = bytes as u64 <= self.room();
        if has_room {
            self.sent += bytes as u64;
        }
        has_room
    }

    /// Books at most `wanted` bytes: how many.
    pub(crate) fn take_up_to(&mut self, wanted: usize) -> usize {
        let taken = usize::try_from(self.room()).unwrap_or(usize::MAX).min(wanted);
        self.sent += taken as u64;
        taken
    }

    /// The receiver takes more. A lower offset than before is an old one.
    pub(crate) fn on_credit(&mut self, up_to: u64) {
        self.up_to = self.up_to.max(up_to);
    }
}

/// The receiver's side.
#[derive(Debug)]
pub(crate) struct Receiving {
    received: u64,
    /// Read, dropped, or let in before it was read.
    consumed: u64,
    granted: u64,
    window: u32,
    max_window: u32,
}

/// The sender has sent more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverCredit;

impl Receiving {
    pub(crate) fn new(max_window: u32) -> Self {
        Receiving {
            received: 0,
            consumed: 0,
            granted: u64::from(FIRST_WINDOW_BYTES),
            window: FIRST_WINDOW_BYTES,
            max_window: max_window.max(FIRST_WINDOW_BYTES),
        }
    }

    pub(crate) fn on_bytes(&mut self, bytes: usize) -> Result<(), OverCredit> {
        self.received += bytes as u64;
        if self.received > self.granted { Err(OverCredit) } else { Ok(()) }
    }

    /// So many bytes wait no more.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
    }

    /// Bytes that may come before the next grant.
    #[cfg(feature = "debug")]
    pub(crate) fn room(&self) -> u64 {
        self.granted.saturating_sub(self.received)
    }

    #[cfg(test)]
    fn window(&self) -> u32 {
        self.window
    }

    /// Opens the window as far as it goes: for one long message, or where what is old is dropped.
    pub(crate) fn open_wide(&mut self) {
        self.window = self.max_window;
    }

    /// The offset to grant now, if it is worth a frame: half a window was read. Reading makes the
    /// window grow.
    pub(crate) fn grant(&mut self) -> Option<u64> {
        let up_to = self.consumed + u64::from(self.window);
        if up_to.saturating_sub(self.granted) < u64::from(self.window / 2) {
            return None;
        }
        self.window = self.window.saturating_mul(2).min(self.max_window);
        self.granted = self.consumed + u64::from(self.window);
        Some(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_old_grant_takes_nothing_back() {
        let mut sending = Sending::new();
        assert!(sending.take(FIRST_WINDOW_BYTES as usize));
        assert!(!sending.take(1));
        sending.on_credit(20_000);
        sending.on_credit(18_000);
        assert_eq!(sending.room(), 20_000 - u64::from(FIRST_WINDOW_BYTES));
    }

    #[test]
    fn reading_makes_the_window_grow_to_its_limit_and_no_further() {
        let mut receiving = Receiving::new(64 * 1024);
        for _ in 0..100 {
            let window = receiving.window() as usize;
            receiving.on_bytes(window).unwrap();
            receiving.consume(window);
            receiving.grant().unwrap();
        }
        assert_eq!(receiving.window(), 64 * 1024);
        assert_eq!(receiving.on_bytes(64 * 1024 + 1), Err(OverCredit));
    }

    proptest! {
        #[test]
        fn a_sender_and_a_reader_never_stick_and_never_overrun(steps in prop::collection::vec((0usize..200_000, any::<bool>()), 1..200)) {
            let (mut sending, mut receiving) = (Sending::new(), Receiving::new(WINDOW_BYTES));
            let mut unread = 0;
            for (wanted, reads) in steps {
                let taken = sending.take_up_to(wanted);
                prop_assert_eq!(receiving.on_bytes(taken), Ok(()));
                unread += taken;
                prop_assert!(unread <= WINDOW_BYTES as usize);
                if reads {
                    receiving.consume(unread);
                    unread = 0;
                    if let Some(up_to) = receiving.grant() {
                        sending.on_credit(up_to);
                    }
                    prop_assert!(sending.room() > 0, "all is read, and yet nothing may be sent");
                }
            }
        }
    }
}
