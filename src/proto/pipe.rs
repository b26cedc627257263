//! How many bytes of a pipe may be on their way to another host?
//!
//! Whoever reads grants them: so neither side keeps more than the window, and the line itself never stands still for a
//! reader who does.
use std::collections::VecDeque;

/// Bytes of a pipe that may be on their way, and nobody has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window(pub(crate) u32);

/// The end that bytes go into.
#[derive(Debug)]
pub(crate) struct Sending {
    window: Window,
    granted: u32,
    is_over: bool,
}

impl Sending {
    pub(crate) fn new(window: Window) -> Self {
        Sending { window, granted: window.0, is_over: false }
    }

    /// So many bytes may be sent now.
    pub(crate) fn room(&self) -> usize {
        if self.is_over { 0 } else { self.granted as usize }
    }

    /// So many are: not more than there was room for.
    pub(crate) fn send(&mut self, bytes: usize) {
        self.granted -= u32::try_from(bytes).expect("no more than the room, which is a u32");
    }

    /// # Errors
    ///
    /// It would be more than the window: whoever grants that does not read, and this side would keep it.
    pub(crate) fn on_grant(&mut self, bytes: u32) -> Result<(), Overrun> {
        let granted = self.granted.checked_add(bytes).filter(|granted| *granted <= self.window.0);
        self.granted = granted.ok_or(Overrun)?;
        Ok(())
    }

    /// Nothing more is sent. Whether that is new.
    pub(crate) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_over, true)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }
}

/// The end that they come out of.
#[derive(Debug)]
pub(crate) struct Receiving {
    window: Window,
    /// Bytes that may still come.
    granted: u32,
    /// What has come and was not taken.
    waiting: VecDeque<u8>,
    /// Taken and not granted anew.
    taken: u32,
    has_ended: bool,
}

/// More has come than was granted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more has come than was granted")]
pub(crate) struct Overrun;

impl Receiving {
    pub(crate) fn new(window: Window) -> Self {
        Receiving { window, granted: window.0, waiting: VecDeque::new(), taken: 0, has_ended: false }
    }

    /// # Errors
    ///
    /// The other side does not keep to what it was granted, or goes on after its end.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), Overrun> {
        let length = u32::try_from(bytes.len()).map_err(|_| Overrun)?;
        self.granted = self.granted.checked_sub(length).filter(|_| !self.has_ended).ok_or(Overrun)?;
        self.waiting.extend(bytes);
        Ok(())
    }

    pub(crate) fn on_end(&mut self) {
        self.has_ended = true;
    }

    /// What has come and was not taken, or the first part of it.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.waiting.as_slices().0
    }

    /// So many of that are taken. What is to be granted for it: not little by little.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<u32> {
        self.waiting.drain(..bytes);
        self.taken += u32::try_from(bytes).expect("no more than the window, which is a u32");
        if self.taken < self.window.0 / 2 || self.has_ended {
            return None;
        }
        self.granted += self.taken;
        Some(std::mem::take(&mut self.taken))
    }

    /// All has come and was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever each side does and whenever: all arrives, in order, and no more than the window is ever on its way.
        #[test]
        fn no_more_than_the_window_is_on_its_way(steps in prop::collection::vec((any::<bool>(), 1..50_usize), 1..300)) {
            let window = Window(64);
            let (mut sending, mut receiving) = (Sending::new(window), Receiving::new(window));
            let (mut sent, mut taken) = (0_u32, 0_u32);
            for (sends, count) in steps {
                if sends {
                    let count = count.min(sending.room());
                    let bytes: Vec<u8> = (0..count).map(|_| { sent += 1; sent as u8 }).collect();
                    sending.send(count);
                    receiving.on_bytes(&bytes).unwrap();
                } else if !receiving.waiting().is_empty() {
                    let count = count.min(receiving.waiting().len());
                    for n in 0..count {
                        taken += 1;
                        prop_assert_eq!(receiving.waiting()[n], taken as u8);
                    }
                    if let Some(bytes) = receiving.take(count) {
                        sending.on_grant(bytes).unwrap();
                    }
                }
                prop_assert!(sent - taken <= window.0);
                prop_assert!(sending.room() > 0 || !receiving.waiting().is_empty(), "neither side can go on");
            }
        }
    }

    #[test]
    fn who_sends_more_than_was_granted_is_told_so() {
        let mut receiving = Receiving::new(Window(4));
        receiving.on_bytes(b"four").unwrap();
        assert_eq!(receiving.on_bytes(b"!"), Err(Overrun));
        let mut receiving = Receiving::new(Window(4));
        receiving.on_end();
        assert_eq!(receiving.on_bytes(b"late"), Err(Overrun));
        assert_eq!(Sending::new(Window(1)).on_grant(u32::MAX), Err(Overrun));
        assert_eq!(Sending::new(Window(1)).on_grant(1), Err(Overrun), "what was not sent needs no more room");
    }

    #[test]
    fn what_has_ended_is_over_once_it_was_taken() {
        let mut receiving = Receiving::new(Window(4));
        receiving.on_bytes(b"hay").unwrap();
        receiving.on_end();
        assert!(!receiving.is_over());
        assert_eq!(receiving.take(3), None);
        assert!(receiving.is_over());
        let mut sending = Sending::new(Window(4));
        assert!(sending.end() && !sending.end() && sending.is_over());
        assert_eq!(sending.room(), 0);
    }
}
