//! Where does the tree's output go while the prompt has the terminal? Into memory, and out again afterwards.
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, MemfdFlags};

/// What is kept of it, in bytes. Of more the oldest is dropped, and that is said.
const MAX_BYTES: u64 = 64 << 20;

/// stdout and stderr of this process, as far as they go to a terminal, lead to memory while this lives: so what the
/// relay of the children's output writes waits, and what the root prints itself, and neither waits for a reader.
pub(super) struct HeldOutput {
    memory: File,
    /// Which descriptor was what before.
    before: Vec<(i32, OwnedFd)>,
}

impl HeldOutput {
    /// `None` where neither goes to a terminal, or where that can't be done: then the lines come between.
    pub(super) fn begin() -> Option<Self> {
        // What was printed before the prompt comes before it.
        super::stop::beside(|| drop(io::Write::flush(&mut io::stdout()))); // a closed stdout holds nothing
        let terminals: Vec<i32> = [1, 2].into_iter().filter(|&fd| rustix::termios::isatty(borrowed(fd))).collect();
        if terminals.is_empty() {
            return None;
        }
        let memory: File = rustix::fs::memfd_create("teamster-held", MemfdFlags::CLOEXEC).ok()?.into();
        // Several writers, one end: each write goes behind the last.
        let flags = rustix::fs::fcntl_getfl(&memory).ok()?;
        rustix::fs::fcntl_setfl(&memory, flags | rustix::fs::OFlags::APPEND).ok()?;
        let mut held = HeldOutput { memory, before: Vec::new() };
        for fd in terminals {
            let before = rustix::io::fcntl_dupfd_cloexec(borrowed(fd), 3).ok()?;
            held.before.push((fd, before));
            redirect(held.memory.as_fd(), fd).ok()?;
        }
        Some(held)
    }

    /// The last lines.
    pub(super) fn tail(&self, lines: usize) -> String {
        const LOOKED_AT: u64 = 256 * 1024;
        let length = self.memory.metadata().map_or(0, |memory| memory.len());
        let from = length.saturating_sub(LOOKED_AT);
        let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
        if self.memory.read_exact_at(&mut bytes, from).is_err() || bytes.is_empty() {
            return "nothing was printed since the prompt is open".to_owned();
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Lets all of it out. What is still being written at this moment comes to [`Late`].
    pub(super) fn end(mut self) -> Option<Late> {
        let late = self.release();
        if let Ok(late) = late {
            self.before.clear();
            return late;
        }
        None // the drop says so
    }

    fn release(&mut self) -> io::Result<Option<Late>> {
        let Some((_, terminal)) = self.before.first() else { return Ok(None) };
        let mut terminal = File::from(terminal.try_clone()?);
        let length = self.memory.metadata()?.len();
        let from = length.saturating_sub(MAX_BYTES);
        if from > 0 {
            use std::io::Write;
            writeln!(terminal, "[{from} bytes of output were dropped while the prompt was open]")?;
        }
        // Through a descriptor with a place of its own: that of the writers is shared with them.
        let mut reader = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.memory)))?;
        reader.seek(SeekFrom::Start(from))?;
        io::copy(&mut reader, &mut terminal)?;
        for (fd, before) in &self.before {
            redirect(before.as_fd(), *fd)?;
        }
        let mut late = Late { reader, terminal };
        late.let_out()?;
        Ok(Some(late))
    }

    /// Gives back the memory of what is too old to be shown.
    pub(super) fn trim(&self) {
        let length = self.memory.metadata().map_or(0, |memory| memory.len());
        if length > MAX_BYTES {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Not to be had: then it stays.
            let _ = rustix::fs::fallocate(&self.memory, flags, 0, length - MAX_BYTES);
        }
    }
}

/// Output that a writer had begun to write when it was let out.
///
/// Who is in the midst of a write when stdout is given back writes to where it led before.
pub(super) struct Late {
    reader: File,
    terminal: File,
}

impl Late {
    /// What has come since the last look.
    pub(super) fn let_out(&mut self) -> io::Result<()> {
        io::copy(&mut self.reader, &mut self.terminal).map(drop)
    }
}

impl Drop for HeldOutput {
    fn drop(&mut self) {
        if self.before.is_empty() {
            return; // it is out
        }
        if let Err(error) = self.release() {
            // The terminal has gone away: nobody is left who could read it.
            for (fd, before) in &self.before {
                let _ = redirect(before.as_fd(), *fd);
            }
            tracing::warn!(target: "teamster::debug", %error, "output that was held back is lost");
        }
    }
}

#[expect(unsafe_code, reason = "stdout and stderr are borrowed for one call: a program that closes them gets an error")]
fn borrowed(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: 1 and 2 stay open as long as the process does, but for programs that close them: then the call fails.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn redirect(to: BorrowedFd<'_>, fd: i32) -> io::Result<()> {
    match fd {
        1 => rustix::stdio::dup2_stdout(to)?,
        _ => rustix::stdio::dup2_stderr(to)?,
    }
    Ok(())
}
