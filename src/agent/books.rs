//! What runs here, and for whom? A folder with a file for each actor, which outlives the agent.
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::folder::{own, own_inside};
use crate::actor::control::kids::open_recorded;
use crate::actor::control::orphans;
use crate::actor::host::host_id;
use crate::actor::keeper::KEPT;
use crate::actor::process::{ProcessStat, start_ticks};
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::transport::folder::{Missing, try_lock};

/// One actor that was started here for a client.
///
/// # Examples
///
/// ```no_run
/// for actor in teamster::agent::running("/var/lib/teamster")? {
///     println!("{} for {}, of {}", actor.name, actor.client, actor.from);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Running {
    /// The identity that it was started for.
    pub client: String,
    /// The address that the client came from.
    pub from: String,
    /// The actor's name.
    pub name: String,
    /// The actor's uuid.
    pub uuid: Uuid,
    /// When it was asked for.
    pub since: SystemTime,
    /// The pid of the process that sees to it; none before that has started.
    pub keeper: Option<u32>,
    /// Whether the client still leads it: else it has its grace to end.
    pub is_led: bool,
}

/// A process, so that no other is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
}

impl Recorded {
    pub(super) fn of(pid: u32) -> Self {
        Recorded { pid, start_ticks: start_ticks(pid).unwrap_or(0) }
    }

    /// `None`: it has ended, reaped or not.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let pidfd = open_recorded(self.pid, self.start_ticks)?;
        ProcessStat::read(self.pid).filter(ProcessStat::is_alive).map(|_| pidfd)
    }

    fn lives(self) -> bool {
        self.open().is_some()
    }
}

/// What is written down of one actor, before it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// This machine, since its boot: processes of another one are none of ours.
    host_id: String,
    pub(super) client: String,
    pub(super) from: String,
    pub(super) name: String,
    pub(super) uuid: Uuid,
    since_s: u64,
    /// The process of its connection.
    pub(super) session: Recorded,
    pub(super) keeper: Option<Recorded>,
    pub(super) lineage: String,
    pub(super) grace_ms: u64,
    /// The group of its processes, if it has one.
    pub(super) group: Option<PathBuf>,
}

impl Entry {
    /// Of an actor that this process sees to.
    pub(super) fn new(client: &str, from: String, name: &str, uuid: Uuid, lineage: &str, grace: Duration) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Entry {
            host_id: host_id().to_owned(),
            client: client.to_owned(),
            from,
            name: name.to_owned(),
            uuid,
            since_s: since.as_secs(),
            session: Recorded::of(std::process::id()),
            keeper: None,
            lineage: lineage.to_owned(),
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            group: None,
        }
    }

    fn is_of_this_boot(&self) -> bool {
        self.host_id == host_id()
    }

    /// Something of it may run: those who see to it, or what a kill has not ended yet.
    pub(super) fn lives(&self) -> bool {
        let is_seen_to = || self.session.lives() || self.keeper.is_some_and(Recorded::lives);
        self.is_of_this_boot() && (is_seen_to() || !self.left().is_empty())
    }

    /// What runs of the actor and below it.
    pub(super) fn left(&self) -> Vec<OwnedFd> {
        orphans::below(&format!("{}{KEPT}", self.lineage))
    }

    /// The process of its connection, if that is there.
    pub(super) fn open_session(&self) -> Option<OwnedFd> {
        self.session.open().filter(|_| self.is_of_this_boot())
    }

    pub(super) fn open_keeper(&self) -> Option<OwnedFd> {
        self.keeper?.open().filter(|_| self.is_of_this_boot())
    }

    pub(super) fn shown(&self) -> Option<Running> {
        self.lives().then(|| Running {
            client: self.client.clone(),
            from: self.from.clone(),
            name: self.name.clone(),
            uuid: self.uuid,
            since: UNIX_EPOCH + Duration::from_secs(self.since_s),
            keeper: self.keeper.map(|keeper| keeper.pid),
            is_led: self.session.lives(),
        })
    }
}

/// The books in a folder.
#[derive(Clone, Debug)]
pub(super) struct Books {
    folder: PathBuf,
}

/// Bytes of an entry at most. One that is longer was not written by us.
const MAX_ENTRY_BYTES: u64 = 64 * 1024;

impl Books {
    /// Those that are there.
    pub(super) fn at(folder: &Path) -> Self {
        Books { folder: folder.to_owned() }
    }

    /// Makes the folder where it is missing: nobody else may write there, as he could have us kill what he likes.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let books = Books::at(folder);
        own(folder).map_err(|error| told(folder, error))?;
        own_inside(&books.actors()).map_err(|error| told(&books.actors(), error))?;
        Ok(books)
    }

    /// One agent uses it at a time. `None`: another one does.
    pub(super) fn hold(&self) -> io::Result<Option<OwnedFd>> {
        try_lock(&self.folder.join("agent.lock"), Missing::Make)
    }

    /// Nobody else starts an actor meanwhile. `None`: somebody does at this moment.
    pub(super) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        try_lock(&self.folder.join("lock"), Missing::Make)
    }

    fn actors(&self) -> PathBuf {
        self.folder.join("actors")
    }

    fn path(&self, uuid: Uuid) -> PathBuf {
        self.actors().join(uuid.simple().to_string())
    }

    /// All of them, of actors that have ended too. What can't be read says nothing about anybody, and is left out.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let files = match fs::read_dir(self.actors()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(|error| told(&self.folder, error))?,
        };
        let names = files.flatten().filter(|file| Uuid::parse_str(&file.file_name().to_string_lossy()).is_ok());
        Ok(names.filter_map(|file| read(&file.path())).collect())
    }

    /// Whole or not at all, over what was there.
    pub(super) fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode_into(entry, Encoding::Named, &mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let path = self.path(entry.uuid);
        let new = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).map_err(|error| {
            let _ = fs::remove_file(&new); // what counts is why it is not there
            told(&path, error)
        })
    }

    pub(super) fn remove(&self, uuid: Uuid) {
        // Somebody else may have seen its end as well.
        let _ = fs::remove_file(self.path(uuid));
    }

    /// What was not written to its end, by whom a kill has met.
    pub(super) fn sweep(&self) {
        for file in fs::read_dir(self.actors()).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let writer = name.strip_suffix(".new").and_then(|name| name.rsplit_once('.')?.1.parse().ok());
            if writer.is_some_and(|pid| ProcessStat::read(pid).is_none()) {
                let _ = fs::remove_file(file.path()); // the next sweep sees it again
            }
        }
    }
}

fn read(path: &Path) -> Option<Entry> {
    if fs::metadata(path).ok()?.len() > MAX_ENTRY_BYTES {
        return None;
    }
    codec::decode(&fs::read(path).ok()?).ok()
}

fn told(path: &Path, error: io::Error) -> io::Error {
    let way_out = "--state names another folder, or $STATE_DIRECTORY does";
    io::Error::new(error.kind(), format!("the books in {} can't be kept: {error}: {way_out}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new("anna", "10.0.0.1:7".into(), "w", Uuid::new_v4(), "a/b", Duration::from_secs(1))
    }

    #[test]
    fn an_entry_is_there_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(&folder.path().join("state")).unwrap();
        let mut one = entry();
        books.write(&one).unwrap();
        books.write(&entry()).unwrap();
        one.keeper = Some(Recorded::of(std::process::id()));
        books.write(&one).unwrap();
        let found = books.entries().unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().any(|entry| entry.uuid == one.uuid && entry.keeper == one.keeper && entry.lives()));
        books.remove(one.uuid);
        assert!(books.entries().unwrap().iter().all(|entry| entry.uuid != one.uuid));
    }

    #[test]
    fn what_is_no_entry_counts_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path()).unwrap();
        let path = |name: &str| books.actors().join(name);
        fs::write(books.path(Uuid::new_v4()), b"\xff").unwrap();
        fs::write(books.path(Uuid::new_v4()), vec![0; 70_000]).unwrap();
        fs::write(path("notes"), b"").unwrap();
        let (dead, ours) = (format!("{:x}.{}.new", 7, u32::MAX), format!("{:x}.{}.new", 8, std::process::id()));
        fs::write(path(&dead), b"").unwrap();
        fs::write(path(&ours), b"").unwrap();
        books.sweep();
        assert!(!path(&dead).exists() && path(&ours).exists());
        assert_eq!(books.entries().unwrap().len(), 0);
    }

    #[test]
    fn a_process_of_another_boot_is_none_of_ours() {
        let mut one = entry();
        assert!(one.lives() && one.shown().is_some());
        one.host_id = "elsewhere/1-2".into();
        assert!(!one.lives() && one.open_session().is_none() && one.shown().is_none());
        let mut other = entry();
        other.session.start_ticks += 1;
        assert!(!other.lives());
        let child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn();
        let mut child = child.unwrap();
        other.keeper = Some(Recorded::of(child.id()));
        assert!(other.lives() && !other.shown().unwrap().is_led);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!other.lives());
    }
}
