//! Which tests may run side by side?
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How a test stands to the others of its workspace, of every test binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It runs beside others.
    Shared,
    /// It spins or measures time, and runs alone.
    Exclusive,
}

/// Held while a test runs; dropping it lets the next one go.
pub(super) struct TestLock {
    _turn: File,
}

/// Waits for this test's turn.
///
/// Two files: whoever comes passes the gate first, and an exclusive test waits inside the gate. So
/// it is not passed by shared ones for ever.
pub(super) fn acquire(sharing: Sharing) -> io::Result<TestLock> {
    let [gate, turn] = open()?;
    gate.lock()?;
    match sharing {
        Sharing::Shared => turn.lock_shared()?,
        Sharing::Exclusive => turn.lock()?,
    }
    Ok(TestLock { _turn: turn })
}

/// The workspace's own files; if its target folder can't be written, the user's.
fn open() -> io::Result<[File; 2]> {
    let in_target = target_folder().map(|folder| open_at(&folder.join("teamster-test")));
    if let Some(Ok(files)) = in_target {
        return Ok(files);
    }
    let uid = rustix::process::getuid().as_raw();
    open_at(&std::env::temp_dir().join(format!("teamster-test-{uid}")))
}

fn open_at(path: &Path) -> io::Result<[File; 2]> {
    let open = |extension| File::options().create(true).append(true).open(path.with_extension(extension));
    Ok([open("gate")?, open("turn")?])
}

/// Cargo marks it with a tag.
fn target_folder() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(Path::to_owned)
}
