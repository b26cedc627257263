//! Where do sockets live?
//!
//! One base folder for each user, one folder in it for each root. Names in it are ours alone:
//! whoever can write there could stand in for an actor, so every part of the path is looked at
//! before anything is put there, and no part of it may be a symlink.
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

/// The folder that holds the sockets of all trees of this user.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    path: PathBuf,
}

impl Base {
    /// Opens the base folder, and makes it where it is missing: `$TEAMSTER_DIR`, else
    /// `$XDG_RUNTIME_DIR/teamster`, else `/tmp/teamster-<uid>`.
    ///
    /// Where the first two are too long for a socket's path, it is the last.
    ///
    /// # Errors
    ///
    /// [`FolderError`] if somebody else could put sockets there, or if it can't be made.
    pub(crate) fn open() -> Result<Base, FolderError> {
        Base::open_at(&base_path()?)
    }

    /// Opens `path` as the base folder.
    pub(crate) fn open_at(path: &Path) -> Result<Base, FolderError> {
        let path = fitting(path);
        walk(&path, Missing::Make)?;
        Ok(Base { path })
    }

    /// Opens the base folder if there is one, for a look: makes nothing.
    pub(crate) fn find() -> Result<Option<Base>, FolderError> {
        Base::find_at(&base_path()?)
    }

    /// Opens `path` as the base folder if it exists.
    pub(crate) fn find_at(path: &Path) -> Result<Option<Base>, FolderError> {
        let path = fitting(path);
        Ok(walk(&path, Missing::Leave)?.map(|()| Base { path }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder for one root, which others leave alone as long as the result lives.
    ///
    /// # Errors
    ///
    /// [`FolderError::System`], which says what to do.
    pub(crate) fn make_root(&self) -> Result<RootFolder, FolderError> {
        loop {
            let digits = Uuid::new_v4().simple().to_string();
            let path = self.path.join(&digits[..ROOT_ID_DIGITS]);
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(FolderError::system("make", &path, error)),
            }
            loop {
                match try_lock(&path.join(LOCK), Missing::Make) {
                    Ok(Some(lock)) => return Ok(RootFolder { path, _lock: lock }),
                    // Somebody looks whether it is a dead root's, which takes a moment.
                    Ok(None) => std::thread::yield_now(),
                    // A sweep took it for one: another name.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => {
                        // What counts is why there is no lock; the empty folder goes in a sweep.
                        let _ = rustix::fs::rmdir(&path);
                        return Err(FolderError::system("lock", &path, error));
                    }
                }
            }
        }
    }

    /// Removes what dead roots left behind. What can't be removed now is left to the next sweep.
    pub(crate) fn sweep(&self) {
        for name in self.entries() {
            let path = self.path.join(&name);
            if is_doomed(&name) {
                remove_all(&path);
            } else if is_root_id(&name) {
                sweep_root(&path);
            }
        }
    }

    /// The folders of roots that live or are being made.
    pub(crate) fn living_roots(&self) -> Vec<PathBuf> {
        let folders = self.entries().into_iter().filter(|name| is_root_id(name));
        folders.map(|name| self.path.join(name)).filter(|path| is_held(path)).collect()
    }

    fn entries(&self) -> Vec<OsString> {
        // An unreadable folder has nothing that we could remove or ask.
        let Ok(entries) = std::fs::read_dir(&self.path) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
    }
}

/// The folder of one root: removed when dropped.
#[derive(Debug)]
pub(crate) struct RootFolder {
    path: PathBuf,
    /// Held as long as the root lives, and freed by the kernel at its death: so sweeps can tell.
    _lock: OwnedFd,
}

impl RootFolder {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it.
    pub(crate) fn remove(self) {
        drop(self);
    }
}

impl Drop for RootFolder {
    fn drop(&mut self) {
        remove_root(&self.path);
    }
}

/// Where the actor with this uuid listens.
pub(crate) fn socket_path(folder: &Path, uuid: Uuid) -> PathBuf {
    let digits = uuid.simple().to_string();
    folder.join(format!("{}.s", &digits[..SOCKET_DIGITS]))
}

/// Removes an orphan's own socket, and the root's folder if nobody lives in it any more.
///
/// Call it after the listener has been closed: of two that leave at the same moment, whoever takes
/// the lock finds the other's socket deaf.
pub(crate) fn remove_if_last(folder: &Path, own_socket: &Path) {
    // Already gone: a sweep was faster.
    let _ = std::fs::remove_file(own_socket);
    remove_if_deserted(folder);
}

/// Takes the lock file at `path`, unless somebody holds it (`None`).
///
/// Returns a descriptor of the file that is at `path` *now*: a lock of a file that has been
/// removed since would exclude nobody.
pub(crate) fn try_lock(path: &Path, missing: Missing) -> io::Result<Option<OwnedFd>> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if let Missing::Make = missing {
        flags |= OFlags::CREATE;
    }
    loop {
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&file, path)? => return Ok(Some(file)),
            Ok(()) | Err(Errno::INTR) => {} // removed since it was opened: try the new one
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_at(file: &OwnedFd, path: &Path) -> io::Result<bool> {
    let ours = rustix::fs::fstat(file)?;
    match rustix::fs::lstat(path) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What to do about a file that is not there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Missing {
    Make,
    Leave,
}

/// Why sockets can't be put where they belong.
///
/// # Examples
///
/// ```
/// match teamster::discovery::trees() {
///     Ok(trees) => println!("{} trees", trees.len()),
///     Err(error) => println!("{error}"), // which folder, what is wrong with it, and the way out
/// }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A part of the path is a symlink.
    #[error(
        "{path}: refused as the folder of sockets, because {link} is a symlink: set TEAMSTER_DIR to a path \
         without one",
        path = .path.display(), link = .link.display()
    )]
    Symlink {
        /// The folder that was asked for.
        path: PathBuf,
        /// The symlink. Its target was not touched.
        link: PathBuf,
    },
    /// A part of the path is no folder.
    #[error(
        "{path}: refused as the folder of sockets, because {part} is not a folder: remove it or set \
         TEAMSTER_DIR to another path",
        path = .path.display(), part = .part.display()
    )]
    NotAFolder {
        /// The folder that was asked for.
        path: PathBuf,
        /// What is in the way.
        part: PathBuf,
    },
    /// A part of the path belongs to another user, who could replace what is below it.
    #[error(
        "{path}: refused as the folder of sockets, because {part} belongs to user {owner}: set TEAMSTER_DIR \
         to a folder of your own",
        path = .path.display(), part = .part.display()
    )]
    Owner {
        /// The folder that was asked for.
        path: PathBuf,
        /// Whose owner is wrong.
        part: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// Everybody could rename a part of the path away.
    #[error(
        "{path}: refused as the folder of sockets, because everybody may write to {part}: set TEAMSTER_DIR \
         to a folder of your own",
        path = .path.display(), part = .part.display()
    )]
    WorldWritable {
        /// The folder that was asked for.
        path: PathBuf,
        /// Whose mode is wrong.
        part: PathBuf,
    },
    /// It holds files of others, so it can't be made private.
    #[error(
        "{path}: refused as the folder of sockets, because it holds other files and others may read it: set \
         TEAMSTER_DIR to a folder that is used for nothing else",
        path = .path.display()
    )]
    NotOurs {
        /// The folder that was asked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not {action} {path}: {advice}", path = .path.display(), advice = advice(source))]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl FolderError {
    /// A failed system call, with what the user can do about it.
    pub(crate) fn system(action: &'static str, path: &Path, source: impl Into<io::Error>) -> FolderError {
        FolderError::System { action, path: path.to_owned(), source: Arc::new(source.into()) }
    }

    /// The folder that was asked for, or what the system refused.
    pub(crate) fn path(&self) -> &Path {
        match self {
            FolderError::Symlink { path, .. }
            | FolderError::NotAFolder { path, .. }
            | FolderError::Owner { path, .. }
            | FolderError::WorldWritable { path, .. }
            | FolderError::NotOurs { path }
            | FolderError::System { path, .. } => path,
        }
    }
}

/// What the user can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "the disk is full: free some space, or set TEAMSTER_DIR to a folder elsewhere"
        }
        Some(Errno::MFILE | Errno::NFILE) => "too many files are open: close some, or raise the limit (`ulimit -n`)",
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => "set TEAMSTER_DIR to a folder that you may write to",
        Some(Errno::NOENT) => "make the folder that it lies in, or set TEAMSTER_DIR to another",
        _ => "set TEAMSTER_DIR to a folder that can hold sockets",
    }
}

fn base_path() -> Result<PathBuf, FolderError> {
    if let Some(path) = std::env::var_os("TEAMSTER_DIR").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return std::path::absolute(&path).map_err(|error| FolderError::system("find", &path, error));
    }
    // The specification: a relative one is to be ignored. A missing one is common (su, containers).
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|path| path.is_absolute() && path.exists()) {
        Some(runtime) => Ok(runtime.join("teamster")),
        None => Ok(short_base()),
    }
}

fn short_base() -> PathBuf {
    PathBuf::from(format!("/tmp/teamster-{}", rustix::process::geteuid().as_raw()))
}

/// `path`, or a shorter one if a socket's path below it would be too long.
fn fitting(path: &Path) -> PathBuf {
    let socket = path.as_os_str().len() + 1 + ROOT_ID_DIGITS + 1 + SOCKET_DIGITS + ".s".len();
    if socket <= SOCKET_PATH_BYTES { path.to_owned() } else { short_base() }
}

/// Goes down the path part by part, without following a link, and looks at each.
///
/// Nobody but root and we may be able to exchange a part that has been looked at, so the path
/// may be used as a path from then on.
fn walk(path: &Path, missing: Missing) -> Result<Option<()>, FolderError> {
    let us = rustix::process::geteuid().as_raw();
    let mut here =
        open_part(rustix::fs::CWD, OsStr::new("/")).map_err(|error| FolderError::system("open", path, error))?;
    let mut stat = stat_of(&here, path)?;
    // In a user namespace `/` may belong to an unmapped user, who has the last word either way.
    let trusted = [0, us, stat.st_uid];
    let mut so_far = PathBuf::from("/");
    let parts: Vec<&OsStr> = path
        .components()
        .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
        .map(Component::as_os_str)
        .collect();
    for (index, part) in parts.iter().enumerate() {
        check_above(&stat, path, &so_far, &trusted)?;
        so_far.push(part);
        let opened = match (open_part(&here, part), missing) {
            (Err(Errno::NOENT), Missing::Leave) => return Ok(None),
            (Err(Errno::NOENT), Missing::Make) if index + 1 == parts.len() => {
                match rustix::fs::mkdirat(&here, *part, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => open_part(&here, part), // another root was faster
                    Err(error) => return Err(FolderError::system("make", &so_far, error)),
                }
            }
            (opened, _) => opened,
        };
        here = opened.map_err(|error| FolderError::system("open", &so_far, error))?;
        stat = stat_of(&here, path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => return Err(FolderError::Symlink { path: path.to_owned(), link: so_far }),
            _ => return Err(FolderError::NotAFolder { path: path.to_owned(), part: so_far }),
        }
    }
    check_base(&here, &stat, path, us)?;
    Ok(Some(()))
}

/// Opens neither what a symlink points to nor anything that has side effects when opened.
fn open_part(here: impl AsFd, part: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(here, part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn stat_of(file: &OwnedFd, path: &Path) -> Result<Stat, FolderError> {
    rustix::fs::fstat(file).map_err(|error| FolderError::system("look at", path, error))
}

fn check_above(stat: &Stat, path: &Path, part: &Path, trusted: &[u32]) -> Result<(), FolderError> {
    let (path, part) = (path.to_owned(), part.to_owned());
    if !trusted.contains(&stat.st_uid) {
        return Err(FolderError::Owner { path, part, owner: stat.st_uid });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX) {
        return Err(FolderError::WorldWritable { path, part });
    }
    Ok(())
}

fn check_base(folder: &OwnedFd, stat: &Stat, path: &Path, us: u32) -> Result<(), FolderError> {
    if stat.st_uid != us {
        return Err(FolderError::Owner { path: path.to_owned(), part: path.to_owned(), owner: stat.st_uid });
    }
    if Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO) == Mode::RWXU {
        return Ok(());
    }
    // `TEAMSTER_DIR=/etc` must not make /etc private.
    if !holds_only_ours(path) {
        return Err(FolderError::NotOurs { path: path.to_owned() });
    }
    // fchmod takes no O_PATH descriptor, and we may lack the right to open it in another way.
    let through = format!("/proc/self/fd/{}", folder.as_raw_fd());
    rustix::fs::chmod(through.as_str(), Mode::RWXU).map_err(|error| FolderError::system("make private", path, error))
}

fn holds_only_ours(path: &Path) -> bool {
    // One that its owner can't list is no folder that anybody uses.
    let Ok(entries) = std::fs::read_dir(path) else { return true };
    let mut names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    path.parent().is_some()
        && names.all(|name| is_root_id(&name) || is_doomed(&name) || name.as_bytes().starts_with(b"registrar."))
}

fn is_root_id(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.len() == ROOT_ID_DIGITS && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_doomed(name: &OsStr) -> bool {
    name.as_bytes().strip_suffix(DOOMED.as_bytes()).is_some_and(|id| is_root_id(OsStr::from_bytes(id)))
}

/// Whether a root lives there, as far as its lock tells.
fn is_held(folder: &Path) -> bool {
    match try_lock(&folder.join(LOCK), Missing::Leave) {
        Ok(None) => true,
        Ok(Some(lock)) => {
            drop(lock);
            // An orphan that left while we held it could not remove the folder.
            remove_if_deserted(folder);
            false
        }
        Err(_) => !is_deserted(folder), // something that tidies /tmp may have taken the lock file
    }
}

fn remove_if_deserted(folder: &Path) {
    // Looked at twice: a lock that a maker wants is not taken for nothing, and what was deserted
    // before we had it need not be now.
    if is_deserted(folder)
        && let Ok(Some(_lock)) = try_lock(&folder.join(LOCK), Missing::Leave)
        && is_deserted(folder)
    {
        remove_root(folder);
    }
}

fn sweep_root(folder: &Path) {
    match try_lock(&folder.join(LOCK), Missing::Leave) {
        Ok(Some(_lock)) => {
            wake_orphans(folder);
            remove_root(folder);
        }
        Ok(None) => {}
        // Without a lock it is being made right now (so it is empty, and its maker takes it well
        // if it disappears), or has lost it. `rmdir` goes first: it can't hit a fuller one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let left = rustix::fs::rmdir(folder);
            if left == Err(Errno::NOTEMPTY) && is_deserted(folder) && !folder.join(LOCK).exists() {
                remove_root(folder);
            }
        }
        Err(_) => {} // not to be had now: the next sweep's
    }
}

/// Who still listens in a dead root's folder ends within its grace, unless it was stopped meanwhile: then
/// it has to run for that.
fn wake_orphans(folder: &Path) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Some(socket) = knock(&path) else { continue };
        let Ok(orphan) = rustix::net::sockopt::socket_peercred(&socket) else { continue };
        let Ok(pidfd) = pidfd_open(orphan.pid, PidfdFlags::empty()) else { continue };
        // The pidfd comes before a second look: that process listens there still, so its pid is its own.
        if knock(&path).is_some() {
            // It may have ended by now.
            let _ = pidfd_send_signal(&pidfd, Signal::CONT);
        }
    }
}

/// A connection to whoever listens there. Never waits.
fn knock(path: &Path) -> Option<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket)
}

/// Renames first: who still binds a socket in it finds it gone, and the rest may take its time.
fn remove_root(folder: &Path) {
    let mut doomed = folder.as_os_str().to_owned();
    doomed.push(DOOMED);
    match rustix::fs::rename(folder, Path::new(&doomed)) {
        Ok(()) => remove_all(Path::new(&doomed)),
        Err(_) => remove_all(folder), // gone already, or the disk is full
    }
}

fn remove_all(path: &Path) {
    // Nobody to tell: another sweep removes it at the same moment, or the next one tries again.
    let _ = std::fs::remove_dir_all(path);
}

/// Whether nobody listens at any socket in it.
fn is_deserted(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.all(|path| path.file_name() == Some(OsStr::new(LOCK)) || is_deaf(&path))
}

/// Whether the kernel knows that nobody listens there. Never waits.
fn is_deaf(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else { return true };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(socket) = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else {
        return false;
    };
    matches!(rustix::net::connect(&socket, &address), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// The kernel's `sun_path`, less the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;
/// 2⁴⁰ names for a handful of roots; a collision is noticed and costs a second try.
const ROOT_ID_DIGITS: usize = 10;
const SOCKET_DIGITS: usize = 16;
pub(crate) const LOCK: &str = "lock";
/// The ending of a folder whose root is dead: whoever sees it may remove it.
const DOOMED: &str = ".dead";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path, expected: &str) {
        let error = Base::open_at(path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("TEAMSTER_DIR"), "says no way out: {error}");
    }

    #[test]
    fn it_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        assert!(Base::find_at(&path).unwrap().is_none());
        assert_eq!(Base::open_at(&path).unwrap().path(), path);
        assert_eq!(mode(&path), 0o700);
        assert!(Base::find_at(&path).unwrap().is_some());
    }

    #[test]
    fn a_wrong_mode_is_corrected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        let root = Base::open_at(&path).unwrap().make_root().unwrap();
        for wrong in [0o755, 0o777, 0o000, 0o500] {
            set_mode(&path, wrong);
            Base::open_at(&path).unwrap();
            assert_eq!(mode(&path), 0o700, "from {wrong:o}");
        }
        root.remove();
    }

    #[test]
    fn a_folder_with_other_files_is_not_made_private() {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        std::fs::write(dir.path().join("passwd"), "").unwrap();
        refused(dir.path(), "holds other files");
        assert_eq!(mode(dir.path()), 0o755);
    }

    #[test]
    fn a_symlink_is_refused_and_its_target_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::create_dir(&target).unwrap();
        set_mode(&target, 0o755);
        symlink(&target, &link).unwrap();
        refused(&link, "link is a symlink");
        assert_eq!(mode(&target), 0o755);
        // A part above it: refused as well, and nothing was made on the other side.
        refused(&link.join("base"), "link is a symlink");
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
        symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
        refused(&dir.path().join("dangling"), "dangling is a symlink");
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_plain_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        refused(&file, "file is not a folder");
        refused(&file.join("base"), "file is not a folder");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }

    #[test]
    fn another_owner_is_refused() {
        if !rustix::process::geteuid().is_root() {
            refused(Path::new("/usr"), "/usr belongs to user 0");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base");
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        refused(&path, "base belongs to user 12345");
        refused(&path.join("below"), "base belongs to user 12345");
    }

    #[test]
    fn a_parent_that_everybody_may_write_to_is_refused_unless_sticky() {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o777);
        refused(&dir.path().join("base"), "everybody may write to");
        set_mode(dir.path(), 0o1777);
        Base::open_at(&dir.path().join("base")).unwrap();
    }

    #[test]
    fn a_missing_parent_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        refused(&dir.path().join("missing/base"), "missing: make the folder that it lies in");
    }

    #[test]
    fn a_path_too_long_for_sockets_becomes_a_short_one() {
        assert_eq!(fitting(&PathBuf::from(format!("/{}", "x".repeat(77)))), short_base());
        let longest = PathBuf::from(format!("/{}", "x".repeat(76)));
        assert_eq!(fitting(&longest), longest);
        let socket = socket_path(&longest.join("0123456789"), Uuid::nil());
        assert_eq!(socket.as_os_str().len(), SOCKET_PATH_BYTES);
    }

    #[test]
    fn a_sweep_takes_dead_roots_and_leaves_living_ones_and_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::open_at(&dir.path().join("base")).unwrap();
        let living = base.make_root().unwrap();
        let dead = base.path().join("0123456789");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        drop(UnixListener::bind(dead.join("registrar.s")).unwrap());
        let lockless = base.path().join("9876543210");
        std::fs::create_dir(&lockless).unwrap();
        let listener = UnixListener::bind(lockless.join("a.s")).unwrap();
        std::fs::create_dir(base.path().join("0123456788.dead")).unwrap();
        std::fs::create_dir(base.path().join("stranger")).unwrap();
        base.sweep();
        assert!(living.path().exists() && base.path().join("stranger").exists());
        assert!(!dead.exists() && !base.path().join("0123456788.dead").exists());
        assert!(lockless.exists(), "somebody listens there");
        assert_eq!(base.living_roots().len(), 2);
        drop(listener);
        base.sweep();
        assert!(!lockless.exists());
        let path = living.path().to_owned();
        living.remove();
        assert!(!path.exists());
    }

    #[test]
    fn roots_are_made_while_others_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::open_at(&dir.path().join("base")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..200).for_each(|_| base.sweep()));
                scope.spawn(|| {
                    for _ in 0..200 {
                        let root = base.make_root().unwrap();
                        assert!(root.path().join(LOCK).exists());
                    }
                });
            }
        });
        base.sweep();
        assert_eq!(base.entries(), Vec::<OsString>::new());
    }

    #[test]
    fn the_last_orphan_removes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::open_at(&dir.path().join("base")).unwrap();
        let folder = base.path().join("0123456789");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(LOCK), "").unwrap();
        drop(UnixListener::bind(folder.join("registrar.s")).unwrap());
        let sockets = [1, 2, 3].map(|n| socket_path(&folder, Uuid::from_u128(n << 100)));
        let [first, second, killed] = &sockets;
        let listeners = [first, second].map(|path| UnixListener::bind(path).unwrap());
        drop(UnixListener::bind(killed).unwrap());
        let [one, two] = listeners;
        drop(one);
        remove_if_last(&folder, first);
        assert!(folder.exists(), "the second lives");
        drop(two);
        remove_if_last(&folder, second);
        assert!(!folder.exists());

        let living = base.make_root().unwrap();
        remove_if_last(living.path(), &living.path().join("a.s"));
        assert!(living.path().exists());
    }

    #[test]
    fn orphans_that_leave_together_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::open_at(&dir.path().join("base")).unwrap();
        let folder = base.path().join("0123456789");
        for _ in 0..300 {
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(LOCK), "").unwrap();
            let sockets = [1, 2, 3, 4].map(|n| socket_path(&folder, Uuid::from_u128(n << 100)));
            let together = std::sync::Barrier::new(sockets.len());
            let listeners = sockets.each_ref().map(|path| UnixListener::bind(path).unwrap());
            std::thread::scope(|scope| {
                for (listener, path) in listeners.into_iter().zip(&sockets) {
                    let (folder, together) = (&folder, &together);
                    scope.spawn(move || {
                        together.wait();
                        drop(listener);
                        remove_if_last(folder, path);
                    });
                }
            });
            assert!(!folder.exists());
        }
    }

    #[test]
    fn a_lock_of_a_removed_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let old = try_lock(&path, Missing::Make).unwrap().unwrap();
        assert!(try_lock(&path, Missing::Make).unwrap().is_none());
        assert!(is_at(&old, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&old, &path).unwrap());
        assert_eq!(try_lock(&path, Missing::Leave).unwrap_err().kind(), io::ErrorKind::NotFound);
        let _new = try_lock(&path, Missing::Make).unwrap().unwrap();
        assert!(!is_at(&old, &path).unwrap());
    }

    #[test]
    fn a_full_descriptor_table_says_what_to_do() {
        let error = FolderError::system("open", Path::new("/x"), Errno::MFILE);
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        let error = FolderError::system("make", Path::new("/x"), Errno::NOSPC);
        assert!(error.to_string().contains("disk is full"), "{error}");
    }
}
