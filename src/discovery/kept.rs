//! Which connection does an actor's next look-up take?
use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::client::Connection;

/// The connection of the last look-up, for the next one: a look-up that finds one neither connects nor is accepted.
///
/// One at most, whatever goes on at once. It is the registrar that closes it, when nobody has asked for a while or others
/// need its place, and the next look-up that sees so.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    resting: Mutex<Option<(Id, Connection)>>,
}

impl Kept {
    /// Whoever takes it is alone with it.
    pub(super) fn take(&self) -> Option<Connection> {
        let runtime = Handle::current().id();
        let resting = self.resting.lock().take();
        // Another runtime would have to be polled for it.
        resting.filter(|(home, _)| *home == runtime).map(|(_, connection)| connection)
    }

    /// All that was said on it was heard.
    pub(super) fn put(&self, connection: Connection) {
        // What is there unasked is no reply to the next request.
        if connection.buffer().is_empty() {
            let before = self.resting.lock().replace((Handle::current().id(), connection));
            drop(before); // after the unlock
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream as StdStream;

    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    fn connection() -> (Connection, StdStream) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (BufReader::new(UnixStream::from_std(ours).unwrap()), theirs)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn one_is_kept_and_taken_once() {
        let kept = Kept::default();
        runtime().block_on(async {
            assert!(kept.take().is_none());
            let ((first, mut firsts_end), (second, _seconds_end)) = (connection(), connection());
            kept.put(first);
            kept.put(second);
            assert!(firsts_end.write_all(b"x").is_err(), "it was closed");
            assert!(kept.take().is_some());
            assert!(kept.take().is_none());
        });
    }

    #[test]
    fn one_of_another_runtime_is_not_taken() {
        let kept = Kept::default();
        let (home, elsewhere) = (runtime(), runtime());
        let mut end = home.block_on(async {
            let (connection, end) = connection();
            kept.put(connection);
            end
        });
        assert!(elsewhere.block_on(async { kept.take() }).is_none());
        assert!(end.write_all(b"x").is_err(), "it was closed");
    }

    #[test]
    fn one_with_words_that_nobody_asked_for_is_not_kept() {
        let kept = Kept::default();
        runtime().block_on(async {
            let (mut connection, mut end) = connection();
            end.write_all(b"unasked").unwrap();
            connection.fill_buf().await.unwrap();
            kept.put(connection);
            assert!(kept.take().is_none());
        });
    }
}
