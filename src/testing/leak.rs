//! What is there now that was not there before?
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::Process;
use crate::actor::current;
use crate::error::Error;

/// A look at this process's descriptors, threads and children, to compare with later.
///
/// It sees the whole process, so it belongs into a process of its own: `#[teamster::test]` gives
/// every test one, and does this check by itself.
///
/// # Examples
///
/// ```
/// use teamster::testing::LeakCheck;
///
/// let folder = tempfile::tempdir()?;
/// let check = LeakCheck::new().folder(folder.path());
/// let thread = std::thread::spawn(|| 40 + 2);
/// let file = std::fs::File::open("/proc/self/stat")?;
/// # let _ =
/// thread.join();
/// drop(file);
/// check.assert_clean();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LeakCheck {
    before: Snapshot,
    folders: Vec<PathBuf>,
}

impl LeakCheck {
    /// Remembers what there is.
    ///
    /// # Examples
    ///
    /// ```
    /// let check = teamster::testing::LeakCheck::new();
    /// // … what must leave nothing behind …
    /// check.assert_clean();
    /// ```
    #[expect(clippy::new_without_default, reason = "it reads the whole of /proc: nothing to happen by default")]
    pub fn new() -> LeakCheck {
        LeakCheck { before: Snapshot::take(), folders: Vec::new() }
    }

    /// Takes a folder in too, which must hold no socket, file or folder at the end. The registrar's
    /// lock file (`registrar.lock`) may stay.
    ///
    /// # Examples
    ///
    /// ```
    /// let folder = tempfile::tempdir()?;
    /// let check = teamster::testing::LeakCheck::new().folder(folder.path());
    /// std::fs::write(folder.path().join("a.s"), "")?;
    /// assert_eq!(check.left().len(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> LeakCheck {
        self.folders.push(path.into());
        self
    }

    /// What is there that was not there before, one line each. Looks once.
    ///
    /// # Examples
    ///
    /// ```
    /// let check = teamster::testing::LeakCheck::new();
    /// let file = std::fs::File::open("/proc/self/stat")?;
    /// assert_eq!(check.left().len(), 1);
    /// # drop(file);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn left(&self) -> Vec<String> {
        let mut left = Snapshot::take().beyond(&self.before);
        left.extend(self.folders.iter().flat_map(|folder| files_left(folder)));
        left
    }

    /// Panics if anything is left.
    ///
    /// The kernel takes a joined thread out of `/proc` a little later: threads are given two
    /// seconds, everything else must be gone.
    ///
    /// # Panics
    ///
    /// With a list of all that is left.
    ///
    /// # Examples
    ///
    /// ```
    /// let check = teamster::testing::LeakCheck::new();
    /// drop(std::fs::File::open("/proc/self/stat")?);
    /// check.assert_clean();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = self.left_in_the_end();
        assert!(left.is_empty(), "{}", list(&left));
    }

    /// Looks again while nothing but threads is left, for two seconds.
    pub(super) fn left_in_the_end(&self) -> Vec<String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = self.left();
            let is_settling = !left.is_empty() && left.iter().all(|line| line.starts_with(THREAD));
            if !is_settling || Instant::now() >= deadline {
                return left;
            }
            // A thread's end is no event that could be waited for, before Linux 6.9.
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }
}

/// Calls that are open on the lines of the actor that asks: those it has made, and those it serves.
///
/// A call's end takes its entry out of the table on both sides, however it ended.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor.
///
/// # Examples
///
/// ```
/// assert!(teamster::testing::open_dialogs().is_err()); // no nursery is open: there is no actor
/// ```
pub fn open_dialogs() -> Result<usize, Error> {
    Ok(current::actor()?.living_lines().iter().map(|line| line.dialogs()).sum())
}

/// `left behind:` and a line for each.
pub(super) fn list(left: &[String]) -> String {
    format!("left behind:\n    {}", left.join("\n    "))
}

#[derive(Clone, Debug)]
struct Snapshot {
    descriptors: BTreeMap<u32, String>,
    threads: BTreeMap<u32, String>,
    children: BTreeMap<(u32, u64), String>,
}

impl Snapshot {
    fn take() -> Snapshot {
        let us = std::process::id();
        let folder = format!("/proc/{us}/fd");
        let mut descriptors: BTreeMap<u32, String> = numbers("/proc/self/fd")
            .filter_map(|number| Some((number, read_link(&format!("/proc/self/fd/{number}"))?)))
            .collect();
        descriptors.retain(|_, file| *file != folder); // the one that this list was read from
        let threads = numbers("/proc/self/task")
            .map(|id| (id, std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default()))
            .collect();
        let children = Process::all().into_iter().filter(|process| process.parent == us);
        let children = children.map(|child| ((child.pid, child.start_ticks), child.to_string())).collect();
        Snapshot { descriptors, threads, children }
    }

    fn beyond(&self, before: &Snapshot) -> Vec<String> {
        let mut left = Vec::new();
        for (number, file) in &self.descriptors {
            if before.descriptors.get(number) != Some(file) {
                left.push(format!("descriptor {number} ({file})"));
            }
        }
        for (id, name) in &self.threads {
            if !before.threads.contains_key(id) {
                left.push(format!("{THREAD}{id} ({})", name.trim()));
            }
        }
        for (key, child) in &self.children {
            if !before.children.contains_key(key) {
                left.push(format!("child {child}"));
            }
        }
        left
    }
}

fn numbers(folder: &str) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read_link(path: &str) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.to_string_lossy().into_owned())
}

/// What a folder holds that should be gone: everything but lock files and the folders around them.
pub(super) fn files_left(folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder {
            let is_empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            if is_empty {
                left.push(format!("the empty folder {}", path.display()));
            }
            left.extend(files_left(&path));
        } else if entry.file_name() != "registrar.lock" {
            left.push(format!("the file {}", path.display()));
        }
    }
    left
}

/// How the line of a thread begins.
const THREAD: &str = "thread ";

/// How long a thread may take to disappear after it was joined.
const SETTLE: Duration = Duration::from_secs(2);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_may_stay_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("registrar")).unwrap();
        std::fs::write(at("registrar/registrar.lock"), "").unwrap();
        assert!(files_left(folder.path()).is_empty());
        std::fs::create_dir_all(at("root-1/sockets")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("root-1/s")).unwrap();
        let mut left = files_left(folder.path());
        left.sort();
        let expected = [
            format!("the empty folder {}", at("root-1/sockets").display()),
            format!("the file {}", at("root-1/s").display()),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn what_is_new_is_listed() {
        let before = Snapshot {
            descriptors: BTreeMap::from([(0, "/dev/null".into()), (3, "socket:[1]".into())]),
            threads: BTreeMap::from([(17, "main".into())]),
            children: BTreeMap::new(),
        };
        let mut after = before.clone();
        assert!(after.beyond(&before).is_empty());
        after.descriptors.insert(3, "socket:[2]".into());
        after.threads.insert(18, "worker\n".into());
        after.children.insert((19, 5), "process 19 (zombie, cat)".into());
        let left = after.beyond(&before);
        assert_eq!(left, ["descriptor 3 (socket:[2])", "thread 18 (worker)", "child process 19 (zombie, cat)"]);
    }
}
