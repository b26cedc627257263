//! What is open on a line now? For dumps: whoever asks changes nothing.
use std::time::Duration;

use super::{Channel, Service};
use crate::proto::connection::Progress;
use crate::proto::dialog::Look;

/// One dialog that is open.
#[derive(Debug)]
pub(crate) struct Open<T> {
    pub(crate) dialog: u64,
    pub(crate) whose: Whose<T>,
    /// Of a context.
    pub(crate) context: Option<Look>,
}

#[derive(Debug)]
pub(crate) enum Whose<T> {
    /// We opened it.
    Ours { path: &'static str, progress: Progress },
    /// The peer's, and what runs it.
    Theirs(T),
}

/// All that is open on one line.
#[derive(Debug)]
pub(crate) struct LineLook<T> {
    pub(crate) open: Vec<Open<T>>,
    /// Bytes that the peer's end has not taken yet.
    pub(crate) waiting_bytes: usize,
}

impl<S: Service> Channel<S> {
    /// `None`: the line has ended, or somebody holds its lock for so long.
    pub(crate) fn look(&self, within: Duration) -> Option<LineLook<S::Task>> {
        let shared = self.shared.try_lock_for(within)?;
        if shared.end.is_some() {
            return None;
        }
        let ours = shared.dialogs.opened_all().map(|(dialog, progress, slot)| Open {
            dialog,
            whose: Whose::Ours { path: slot.path, progress },
            context: slot.link.as_ref().map(|link| link.look()),
        });
        let theirs = shared.dialogs.served_all().map(|(dialog, served)| Open {
            dialog,
            whose: Whose::Theirs(served.task.clone()),
            context: served.link.as_ref().map(|link| link.look()),
        });
        let mut open: Vec<Open<S::Task>> = ours.chain(theirs).collect();
        open.sort_unstable_by_key(|open| open.dialog);
        Some(LineLook { open, waiting_bytes: shared.out.waiting_bytes() })
    }
}
