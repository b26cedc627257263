//! What happens to what a child on another host prints? The launcher's stderr is relayed from the first; its stdout is the
//! actor's once that is there.
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use super::{ChildOutput, OutputThread};
use crate::actor::child::StderrTail;

/// The two streams, each with a start of its own.
pub(crate) struct FarOutput {
    stderr: Arc<ChildOutput>,
    stdout: OnceLock<Arc<ChildOutput>>,
}

impl FarOutput {
    pub(crate) fn new(stderr: Option<OwnedFd>, thread: &OutputThread) -> io::Result<Arc<Self>> {
        let stderr = ChildOutput::new(None, stderr)?;
        thread.add(Arc::clone(&stderr))?;
        Ok(Arc::new(FarOutput { stderr, stdout: OnceLock::new() }))
    }

    /// From here on what comes on it is the actor's: nothing of that is before its Hello but what it prints at its boot.
    pub(crate) fn takes_stdout(&self, pipe: OwnedFd, thread: &OutputThread) -> io::Result<()> {
        let stdout = ChildOutput::new(Some(pipe), None)?;
        thread.add(Arc::clone(&stdout))?;
        // Its usher alone says so, once.
        let _ = self.stdout.set(stdout);
        Ok(())
    }
}

impl StderrTail for FarOutput {
    fn ready(&self) {
        self.stderr.ready();
        if let Some(stdout) = self.stdout.get() {
            stdout.ready();
        }
    }

    fn drained_tail(&self) -> String {
        let stdout = self.stdout.get().map(|stdout| {
            stdout.drain();
            stdout.tail()
        });
        self.stderr.drain();
        stdout.unwrap_or_default() + &self.stderr.tail()
    }

    fn when_relayed(&self, act: Box<dyn FnOnce() + Send>) {
        let stderr = Arc::clone(&self.stderr);
        let then: Box<dyn FnOnce() + Send> = Box::new(move || stderr.when_relayed(act));
        match self.stdout.get() {
            Some(stdout) => stdout.when_relayed(then),
            None => then(),
        }
    }
}
