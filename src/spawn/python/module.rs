//! Which files are the Python package, and where does a child find them?
use std::io;
use std::path::{Path, PathBuf};

/// The package's name, and its folder's.
const PACKAGE: &str = "teamster";

/// Its files: those in `python/src/teamster`.
const FILES: &[(&str, &str)] = &[
    ("__init__.py", include_str!("../../../python/src/teamster/__init__.py")),
    ("_actor.py", include_str!("../../../python/src/teamster/_actor.py")),
    ("_boot_watch.py", include_str!("../../../python/src/teamster/_boot_watch.py")),
    ("_codec.py", include_str!("../../../python/src/teamster/_codec.py")),
    ("_context.py", include_str!("../../../python/src/teamster/_context.py")),
    ("_control.py", include_str!("../../../python/src/teamster/_control.py")),
    ("_credit.py", include_str!("../../../python/src/teamster/_credit.py")),
    ("_first_step.py", include_str!("../../../python/src/teamster/_first_step.py")),
    ("_frames.py", include_str!("../../../python/src/teamster/_frames.py")),
    ("_ident.py", include_str!("../../../python/src/teamster/_ident.py")),
    ("_line.py", include_str!("../../../python/src/teamster/_line.py")),
    ("_link.py", include_str!("../../../python/src/teamster/_link.py")),
    ("_peers.py", include_str!("../../../python/src/teamster/_peers.py")),
    ("_portal.py", include_str!("../../../python/src/teamster/_portal.py")),
    ("_logs.py", include_str!("../../../python/src/teamster/_logs.py")),
    ("_pure.py", include_str!("../../../python/src/teamster/_pure.py")),
    ("_registry.py", include_str!("../../../python/src/teamster/_registry.py")),
    ("_served.py", include_str!("../../../python/src/teamster/_served.py")),
    ("_socket.py", include_str!("../../../python/src/teamster/_socket.py")),
    ("_spec.py", include_str!("../../../python/src/teamster/_spec.py")),
    ("_threads.py", include_str!("../../../python/src/teamster/_threads.py")),
    ("_version.py", include_str!("../../../python/src/teamster/_version.py")),
    ("errors.py", include_str!("../../../python/src/teamster/errors.py")),
    ("py.typed", include_str!("../../../python/src/teamster/py.typed")),
    ("sync.py", include_str!("../../../python/src/teamster/sync.py")),
];

/// The folder that holds the package in a tree's folder. Who comes first writes it, and the end of the tree takes it away.
pub(super) fn unpacked(folder: &Path) -> io::Result<PathBuf> {
    let place = folder.join("python");
    if place.exists() {
        return Ok(place);
    }
    // Whoever sees it sees all of it: other actors of the tree may be about to do the same.
    let new = tempfile::Builder::new().prefix("python-").tempdir_in(folder)?;
    let package = new.path().join(PACKAGE);
    std::fs::create_dir(&package)?;
    for (name, text) in FILES {
        std::fs::write(package.join(name), text)?;
    }
    match std::fs::rename(new.path(), &place) {
        Ok(()) => {
            let _moved = new.keep();
            Ok(place)
        }
        Err(_) if place.exists() => Ok(place), // another one was faster
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_package_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/src").join(PACKAGE);
        let there: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "__pycache__")
            .collect();
        assert_eq!(FILES.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), there);
    }

    #[test]
    fn its_release_is_the_crates() {
        let (_, version) = FILES.iter().find(|(name, _)| *name == "_version.py").unwrap();
        assert!(version.contains(&format!("VERSION = \"{}\"", env!("CARGO_PKG_VERSION"))), "{version}");
    }

    #[test]
    fn it_is_written_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let first = unpacked(folder.path()).unwrap();
        std::fs::write(first.join("mark"), "").unwrap();
        assert_eq!(unpacked(folder.path()).unwrap(), first);
        assert!(first.join("mark").exists() && first.join(PACKAGE).join("__init__.py").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}
