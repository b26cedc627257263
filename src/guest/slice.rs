//! What does a host run? A slice of a guest's time.
use std::fmt;
use std::sync::Arc;

use super::thread::HostThread;

/// Some of a guest's time: what its host is asked to run soon, on the host's thread.
///
/// There is one at a time for each guest. A guest that has more to do than fits into a slice asks for the next one when
/// this is over, so that callbacks of the host's own come in between: see that they do, where it has priorities.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use teamster::guest::Slice;
///
/// // What is given to a guest as `run_soon`, of a loop that takes its callbacks from a channel.
/// fn run_soon(callbacks: mpsc::Sender<Box<dyn FnOnce() + Send>>) -> impl Fn(Slice) + Send + Sync {
///     move |slice| drop(callbacks.send(Box::new(|| slice.run())))
/// }
/// # let _ = run_soon;
/// ```
#[must_use = "a guest does nothing until its slice is run"]
pub struct Slice(Option<Arc<HostThread>>);

impl Slice {
    pub(super) fn new(host: Arc<HostThread>) -> Self {
        Slice(Some(host))
    }

    /// Polls the guest's tasks that have something to do, for about 1 ms.
    ///
    /// One that takes longer is not interrupted. The last slice of a guest calls what was to be called when it is over.
    ///
    /// # Panics
    ///
    /// On another thread than the one that the guest was started on, or inside of a `run_soon`, which is to have it run later: it
    /// is then as if it was dropped, and the next wake-up of a task asks for another one. And on a thread that runs a tokio
    /// runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::guest::Slice;
    /// fn on_idle(slice: Slice) {
    ///     slice.run();
    /// }
    /// # let _ = on_idle;
    /// ```
    pub fn run(mut self) {
        if let Some(host) = &self.0 {
            host.must_be_here(); // before it is taken: else the guest would wait for it for ever
        }
        if let Some(host) = self.0.take() {
            host.run_slice();
        }
    }
}

/// Not run: the next wake-up of a task asks for another one.
impl Drop for Slice {
    fn drop(&mut self) {
        if let Some(host) = self.0.take() {
            host.forget_slice();
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slice")
    }
}
