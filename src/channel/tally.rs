//! How much is open on a line now?
use std::time::Duration;

use super::{Channel, Service};
use crate::proto::connection::OpenDialogs;

/// How much is open on one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) dialogs: OpenDialogs,
    /// Bytes that the peer's end has not taken yet.
    pub(crate) waiting_bytes: usize,
}

impl<S: Service> Channel<S> {
    /// `None`: the line has ended, or somebody holds its lock for so long.
    pub(crate) fn tally(&self, within: Duration) -> Option<Tally> {
        let shared = self.shared.try_lock_for(within)?;
        let tally = || Tally { dialogs: shared.dialogs.count_open(), waiting_bytes: shared.out.waiting_bytes() };
        shared.end.is_none().then(tally)
    }
}
