//! Where does a guest wait? On a thread beside its host's.
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Its name.
pub(crate) const IO_THREAD: &str = "teamster-io";

/// The thread on which a root waits that is a guest.
pub(crate) struct Io {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Io {
    pub(crate) fn start() -> io::Result<(Handle, Io)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(IO_THREAD.to_owned()).spawn(move || {
            // The other half says nothing: it is dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background(); // closures that block are not waited for: one may be reading a terminal
        })?;
        Ok((handle, Io { stop, thread }))
    }

    /// Ends it, and waits for that: it has nothing to do any more.
    pub(crate) fn end(self) {
        drop(self.stop);
        // A panic of it was printed.
        let _ = self.thread.join();
    }
}
