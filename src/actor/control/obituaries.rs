//! How did an actor end? What the control thread remembers of those that are gone, for whoever had a dialog with one.
use std::collections::VecDeque;

use uuid::Uuid;

use crate::msg::death::Receipt;

/// What is remembered of an actor that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Remembered {
    /// It was a child of ours.
    Child(Box<Receipt>),
    /// It was below the child with this key.
    Below(u64),
}

/// The latest ends, the newest last.
#[derive(Default)]
pub(super) struct Obituaries(VecDeque<(Uuid, Remembered)>);

/// Ends that are remembered, some 200 bytes each. Over it the oldest is forgotten: whoever asks for that one is
/// told that nobody knows. Mostly one asks when its line ends, at the same moment.
const MAX_REMEMBERED: usize = 256;

impl Obituaries {
    pub(super) fn remember(&mut self, uuid: Uuid, what: Remembered) {
        if self.0.len() == MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((uuid, what));
    }

    pub(super) fn find(&self, uuid: Uuid) -> Option<&Remembered> {
        self.0.iter().rev().find(|(whose, _)| *whose == uuid).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more_than_so_many() {
        let mut obituaries = Obituaries::default();
        let uuid = |number: usize| Uuid::from_u128(number as u128);
        for number in 0..=MAX_REMEMBERED {
            obituaries.remember(uuid(number), Remembered::Below(number as u64));
        }
        assert_eq!(obituaries.find(uuid(0)), None);
        assert_eq!(obituaries.find(uuid(1)), Some(&Remembered::Below(1)));
        assert_eq!(obituaries.find(uuid(MAX_REMEMBERED)), Some(&Remembered::Below(MAX_REMEMBERED as u64)));
        assert_eq!(obituaries.0.len(), MAX_REMEMBERED);
    }
}
