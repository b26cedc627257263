//! Is the client's executable here, and if not, how does it come here?
//!
//! As by ssh: what is missing is said in a line, and the answer is a line and the bytes. Each client has a folder of its own.
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::folder::{is_own, own, own_inside};
use crate::spawn::ship::{LOOK, NEEDS, SHIP};

/// An executable may have so many bytes.
const MAX_BYTES: u64 = 4 << 30;

/// Executables of one client that are kept. Beyond that the one goes that has lain there longest unused.
const MOST_KEPT: usize = 32;

/// One that nobody has started for so long goes.
const UNUSED_FOR: Duration = Duration::from_hours(30 * 24);

/// One executable on its way.
pub(super) struct Fetch {
    cache: PathBuf,
    /// That of the client, in there.
    folder: PathBuf,
    path: PathBuf,
    bytes: u64,
    state: State,
}

enum State {
    /// Until the answer is a whole line.
    Asks {
        line: Vec<u8>,
    },
    Receives {
        file: File,
        to: PathBuf,
        left: u64,
    },
    Done,
}

/// What follows from what has come.
pub(super) enum Step {
    /// More has to come.
    More,
    /// This is to be said.
    Ask(String),
    Found(PathBuf),
}

impl Fetch {
    /// # Errors
    ///
    /// What the client calls it is no such name, or it is too big.
    pub(super) fn new(cache: &Path, client: &str, name: &str, bytes: u64) -> io::Result<Self> {
        let is_name =
            (1..=200).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if !is_name {
            return Err(io::Error::other("the executable's build id and hash are not known: link it with a build id"));
        }
        if bytes > MAX_BYTES {
            return Err(io::Error::other(format!(
                "the executable has {bytes} bytes, of at most {MAX_BYTES}: strip it"
            )));
        }
        let cache = cache.to_owned();
        let folder = cache.join(client);
        Ok(Fetch { path: folder.join(name), cache, folder, bytes, state: State::Done })
    }

    /// What somebody else may have put there, or changed, is not it.
    fn is_there(&self) -> bool {
        let folders = [fs::metadata(&self.cache), fs::symlink_metadata(&self.folder)];
        folders.into_iter().all(|there| there.is_ok_and(|there| there.is_dir() && is_own(&there)))
            && fs::symlink_metadata(&self.path)
                .is_ok_and(|there| there.is_file() && is_own(&there) && there.len() == self.bytes)
    }

    /// Looks whether it is there.
    pub(super) fn look(&mut self) -> Step {
        if self.is_there() {
            self.state = State::Done;
            return Step::Found(self.path.clone());
        }
        self.state = State::Asks { line: Vec::new() };
        let here = rustix::system::uname();
        let machine = format!("{} {}", here.sysname().to_string_lossy(), here.machine().to_string_lossy());
        Step::Ask(format!("\n{NEEDS}{machine}\n"))
    }

    /// Takes what has come, as far as it is for us: so many bytes of it.
    ///
    /// # Errors
    ///
    /// Something else has come, or it can't be kept.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> io::Result<(usize, Step)> {
        match &mut self.state {
            State::Done => Ok((0, Step::Found(self.path.clone()))),
            State::Asks { line } => {
                let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
                line.extend_from_slice(&bytes[..end]);
                if line == SHIP {
                    self.begin()?;
                } else if line == LOOK {
                    return Ok((end, self.look()));
                } else if !SHIP.starts_with(line) && !LOOK.starts_with(line) {
                    return Err(io::Error::other("its client does not answer as one does"));
                }
                Ok((end, Step::More))
            }
            State::Receives { file, to, left } => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                file.write_all(&bytes[..count]).map_err(|error| cant_keep(to, &error))?;
                *left -= count as u64;
                let step = if *left == 0 { Step::Found(self.finish()?) } else { Step::More };
                Ok((count, step))
            }
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        own(&self.cache).map_err(|error| cant_keep(&self.cache, &error))?;
        own_inside(&self.folder).map_err(|error| cant_keep(&self.folder, &error))?;
        let to = self.path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&to); // of one that had our pid, before it was killed
        let file = File::create_new(&to).map_err(|error| cant_keep(&to, &error))?;
        self.state = State::Receives { file, to, left: self.bytes };
        Ok(())
    }

    fn finish(&mut self) -> io::Result<PathBuf> {
        let State::Receives { file, to, .. } = std::mem::replace(&mut self.state, State::Done) else {
            return Ok(self.path.clone());
        };
        let shut = file.set_permissions(Permissions::from_mode(0o700));
        drop(file); // one that is open for writing can't be started
        let placed = shut.and_then(|()| fs::rename(&to, &self.path));
        placed.map_err(|error| {
            let _ = fs::remove_file(&to); // what counts is why it is not there
            cant_keep(&self.path, &error)
        })?;
        self.make_room();
        Ok(self.path.clone())
    }

    /// What nobody has used for long goes. One that runs goes on to.
    fn make_room(&self) {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let used = |path: &Path| fs::metadata(path).and_then(|file| file.accessed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut others: Vec<(SystemTime, PathBuf)> =
            files.map(|file| file.path()).filter(|path| *path != self.path).map(|path| (used(&path), path)).collect();
        others.sort_unstable_by(|one, other| other.cmp(one));
        let is_old = |at: &SystemTime| at.elapsed().is_ok_and(|unused| unused > UNUSED_FOR);
        for (n, (used, path)) in others.iter().enumerate() {
            if n + 1 >= MOST_KEPT || is_old(used) {
                let _ = fs::remove_file(path); // the next shipment tries again
            }
        }
    }
}

/// What was not sent to its end is of no use.
impl Drop for Fetch {
    fn drop(&mut self) {
        if let State::Receives { to, .. } = &self.state {
            let _ = fs::remove_file(to); // what nobody removes goes when it is old
        }
    }
}

fn cant_keep(path: &Path, error: &io::Error) -> io::Error {
    let path = path.display();
    io::Error::other(format!(
        "the executable can not be put into {path}: {error}: `teamster serve --cache` names another folder"
    ))
}

/// Why an executable does not start, in the words of whoever has to mend it.
pub(super) fn cant_start(path: &Path, error: &io::Error) -> io::Error {
    let folder = path.parent().unwrap_or(path).display();
    let what = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => format!("a program in {folder} can not be run: is it mounted noexec?"),
        Some(libc::ENOEXEC) => "it was built for another kind of machine".to_owned(),
        Some(libc::ENOENT) => {
            "the loader that it was linked for is not here: link it statically, as for x86_64-unknown-linux-musl"
                .to_owned()
        }
        _ => format!("{} does not start", path.display()),
    };
    io::Error::other(format!("{what} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(folder: &Path) -> Fetch {
        Fetch::new(folder, "anna", "0a-5", 5).unwrap()
    }

    fn put(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }

    #[track_caller]
    fn fed(fetch: &mut Fetch, bytes: &[u8]) -> (usize, Option<PathBuf>) {
        let (taken, step) = fetch.feed(bytes).unwrap();
        (taken, if let Step::Found(path) = step { Some(path) } else { None })
    }

    #[test]
    fn what_is_sent_is_there_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = fetch(folder.path());
        assert!(matches!(first.look(), Step::Ask(line) if line.starts_with("\nteamster needs Linux ")));
        assert_eq!(fed(&mut first, b"sh"), (2, None));
        assert_eq!(fed(&mut first, b"ip\nab"), (3, None));
        assert_eq!(fed(&mut first, b"abc"), (3, None));
        let (taken, found) = fed(&mut first, b"demore");
        assert_eq!(taken, 2, "what follows is the keeper's");
        let path = found.unwrap();
        assert_eq!((fs::read(&path).unwrap(), path.parent()), (b"abcde".to_vec(), Some(&*folder.path().join("anna"))));
        assert!(matches!(fetch(folder.path()).look(), Step::Found(there) if there == path));
        fs::write(&path, b"half").unwrap();
        assert!(matches!(fetch(folder.path()).look(), Step::Ask(_)));
    }

    #[test]
    fn what_others_may_have_put_there_is_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let client = folder.path().join("anna");
        let path = client.join("0a-5");
        let is_there = || matches!(fetch(folder.path()).look(), Step::Found(_));
        let sent = || {
            let mut one = fetch(folder.path());
            one.look();
            one.feed(b"ship\n").and_then(|_| one.feed(b"abcde"))
        };
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        own_inside(&client).unwrap();
        put(&path, b"there");
        assert!(is_there());
        for shared in [folder.path(), &client, &path] {
            open(shared, 0o720);
            assert!(!is_there(), "others may write to {}", shared.display());
            open(shared, 0o700);
            assert!(is_there());
        }
        open(folder.path(), 0o777);
        let (planted, stale) =
            (folder.path().join("planted"), path.with_extension(format!("{}.new", std::process::id())));
        put(&planted, b"other");
        fs::remove_file(&path).unwrap();
        for link in [&path, &stale] {
            std::os::unix::fs::symlink(&planted, link).unwrap();
        }
        assert!(!is_there());
        sent().unwrap();
        assert!(is_there(), "the folder is shut by now");
        assert_eq!((fs::read(&path).unwrap(), fs::read(&planted).unwrap()), (b"abcde".to_vec(), b"other".to_vec()));

        fs::rename(&client, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &client).unwrap();
        assert!(!is_there());
        let told = sent().map(|_| ()).unwrap_err().to_string();
        assert!(told.ends_with("anna: it is a link: `teamster serve --cache` names another folder"), "{told}");
    }

    #[test]
    fn somebody_else_has_sent_it_or_nobody_has() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = fetch(folder.path());
        one.look();
        assert!(matches!(one.feed(b"look\n").unwrap(), (5, Step::Ask(_))));
        own_inside(&folder.path().join("anna")).unwrap();
        put(&folder.path().join("anna/0a-5"), b"there");
        assert!(fed(&mut one, b"look\n").1.is_some());
    }

    #[test]
    fn half_of_it_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = fetch(folder.path());
        one.look();
        fed(&mut one, b"ship\n");
        fed(&mut one, b"abc");
        drop(one);
        assert_eq!(fs::read_dir(folder.path().join("anna")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_answer_or_no_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = fetch(folder.path());
        one.look();
        assert!(one.feed(b"GET / HTTP/1.1\n").is_err());
        for name in ["", "../a", "a/b", ".", &"a".repeat(201)] {
            assert!(Fetch::new(folder.path(), "anna", name, 5).is_err(), "{name}");
        }
        assert!(Fetch::new(folder.path(), "anna", "a", MAX_BYTES + 1).is_err());
    }

    #[test]
    fn no_more_than_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("anna")).unwrap();
        for n in 0..2 * MOST_KEPT {
            fs::write(folder.path().join(format!("anna/{n}-1")), b"x").unwrap();
        }
        let mut one = fetch(folder.path());
        one.look();
        fed(&mut one, b"ship\n");
        assert!(fed(&mut one, b"abcde").1.is_some_and(|path| path.exists()));
        assert_eq!(fs::read_dir(folder.path().join("anna")).unwrap().count(), MOST_KEPT);
    }
}
