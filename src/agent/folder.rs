//! Is a folder this user's alone? By what others could put there the agent would run what they like, or kill it.
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Makes it where it is missing, and shuts it where others may look in.
///
/// # Errors
///
/// It is another user's, or can't be made.
pub(super) fn own(folder: &Path) -> io::Result<()> {
    make(folder)?;
    shut(folder, &fs::metadata(folder)?)
}

/// The same of one inside: who has been able to write there may have put a link in its place.
pub(super) fn own_inside(folder: &Path) -> io::Result<()> {
    make(folder)?;
    let there = fs::symlink_metadata(folder)?;
    if !there.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a link"));
    }
    shut(folder, &there)
}

/// Nobody else has been able to write it, since it is as it is.
pub(super) fn is_own(there: &Metadata) -> bool {
    there.uid() == rustix::process::geteuid().as_raw() && there.mode() & 0o022 == 0
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn shut(folder: &Path, there: &Metadata) -> io::Result<()> {
    if there.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    if there.mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_and_shut() {
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("a/b");
        let mode = || fs::metadata(&one).unwrap().mode() & 0o777;
        own(&one).unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&one, Permissions::from_mode(0o777)).unwrap();
        assert!(!is_own(&fs::metadata(&one).unwrap()));
        own_inside(&one).unwrap();
        assert_eq!(mode(), 0o700);
        assert!(is_own(&fs::metadata(&one).unwrap()));
    }

    #[test]
    fn another_users_folder_and_a_link_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let others = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(1), None).unwrap();
            folder.path()
        } else {
            Path::new("/")
        };
        assert_eq!(own(others).unwrap_err().to_string(), "it belongs to another user");
        assert!(!is_own(&fs::metadata(others).unwrap()));
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(inside.path(), inside.path().join("link")).unwrap();
        assert_eq!(own_inside(&inside.path().join("link")).unwrap_err().to_string(), "it is a link");
    }
}
