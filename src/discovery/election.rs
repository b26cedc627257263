//! Which of this user's registrars do the others ask?
//!
//! The one that holds the lock on `registrar.lock` in the base folder. The kernel frees it at the
//! holder's death, however it dies, so there are never two and never none for long.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::wire;
use crate::transport::folder::{Missing, try_lock};

/// How a candidacy ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Won(Leadership),
    /// Another leads: join it.
    Lost,
}

/// Being the leader. Dropped, the next one may take over at once.
#[derive(Debug)]
pub(super) struct Leadership {
    listener: UnixListener,
    base: PathBuf,
    _lock: OwnedFd,
}

/// Why nobody can be elected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElectionError {
    #[error(
        "{path} is in use by a program that is no registrar: stop it, or set TEAMSTER_DIR to another folder",
        path = .0.display()
    )]
    Foreign(PathBuf),
    #[error("could not become the registrar at {path}", path = .path.display())]
    System { path: PathBuf, source: io::Error },
}

/// Tries to become the leader. Takes no time, but for up to a second if something listens at the
/// leader's address that doesn't answer.
pub(super) async fn stand(base: &Path) -> Result<Outcome, ElectionError> {
    let system = |source| ElectionError::System { path: leader_socket(base), source };
    let Some(lock) = try_lock(&leader_lock(base), Missing::Make).map_err(system)? else {
        return Ok(Outcome::Lost);
    };
    // Who is there without the lock is dead, a stranger, or has had its lock file tidied away.
    for attempt in [Attempt::First, Attempt::Last] {
        match (occupant(&leader_socket(base)).await, attempt) {
            (Occupant::Nobody, _) => break,
            (Occupant::Registrar, _) => return Ok(Outcome::Lost),
            (Occupant::Stranger, Attempt::First) => {} // it may be slow, or just ending
            (Occupant::Stranger, Attempt::Last) => return Err(ElectionError::Foreign(leader_socket(base))),
        }
    }
    let listener = listen(base).map_err(system)?;
    Ok(Outcome::Won(Leadership { listener, base: base.to_owned(), _lock: lock }))
}

impl Leadership {
    /// Where the members come in.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Leadership {
    /// While the lock is held both files are ours; after the second the next leader makes its own.
    fn drop(&mut self) {
        // Nobody to tell: whoever comes next replaces what could not be removed.
        let _ = std::fs::remove_file(leader_socket(&self.base));
        let _ = std::fs::remove_file(leader_lock(&self.base));
    }
}

/// Where the leader listens.
pub(super) fn leader_socket(base: &Path) -> PathBuf {
    base.join("registrar.s")
}

fn leader_lock(base: &Path) -> PathBuf {
    base.join("registrar.lock")
}

#[derive(Clone, Copy)]
enum Attempt {
    First,
    Last,
}

enum Occupant {
    Nobody,
    Registrar,
    Stranger,
}

async fn occupant(path: &Path) -> Occupant {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        // A full backlog: somebody is there and doesn't accept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Occupant::Stranger,
        Err(_) => return Occupant::Nobody,
    };
    match tokio::time::timeout(GREETING_WITHIN, wire::receive_greeting(&mut stream)).await {
        Ok(Ok(())) => Occupant::Registrar,
        Ok(Err(_)) | Err(_) => Occupant::Stranger,
    }
}

/// Listens under another name first: at the known address there is always one who answers.
fn listen(base: &Path) -> io::Result<UnixListener> {
    let fresh = base.join("registrar.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // left by a leader that was killed between these lines
    }
    let listener = StdListener::bind(&fresh)?;
    listener.set_nonblocking(true)?;
    std::fs::rename(&fresh, leader_socket(base))?;
    UnixListener::from_std(listener)
}

/// Twice, this is how long a real registrar may take to answer while it has lost its lock file.
const GREETING_WITHIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_and_the_next_may_follow() {
        let dir = tempfile::tempdir().unwrap();
        let Outcome::Won(first) = stand(dir.path()).await.unwrap() else { panic!("nobody else is there") };
        assert!(matches!(stand(dir.path()).await.unwrap(), Outcome::Lost));
        drop(first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(matches!(stand(dir.path()).await.unwrap(), Outcome::Won(_)));
    }

    #[tokio::test]
    async fn a_stale_socket_is_not_in_use() {
        let dir = tempfile::tempdir().unwrap();
        drop(StdListener::bind(leader_socket(dir.path())).unwrap());
        drop(StdListener::bind(dir.path().join("registrar.new")).unwrap());
        std::fs::write(leader_lock(dir.path()), "").unwrap();
        assert!(matches!(stand(dir.path()).await.unwrap(), Outcome::Won(_)));
    }

    #[tokio::test]
    async fn a_stranger_at_the_address_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = leader_socket(dir.path());
        let silent = StdListener::bind(&path).unwrap();
        let error = stand(dir.path()).await.unwrap_err().to_string();
        assert!(error.contains("no registrar") && error.contains(path.to_str().unwrap()), "{error}");
        drop(silent);
    }

    #[tokio::test]
    async fn a_real_registrar_is_recognised_at_the_second_try() {
        use tokio::io::AsyncWriteExt;
        let dir = tempfile::tempdir().unwrap();
        let real = UnixListener::bind(leader_socket(dir.path())).unwrap();
        let answer_second = async {
            drop(real.accept().await.unwrap());
            let (mut stream, _) = real.accept().await.unwrap();
            stream.write_all(wire::GREETING).await.unwrap();
            stream
        };
        let (outcome, _stream) = tokio::join!(stand(dir.path()), answer_second);
        assert!(matches!(outcome.unwrap(), Outcome::Lost));
    }

    #[test]
    fn many_races_have_one_winner_each() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let start = std::sync::Barrier::new(3);
            let end = std::sync::Barrier::new(3);
            let winners: usize = std::thread::scope(|scope| {
                let racers = [(); 3].map(|()| {
                    scope.spawn(|| {
                        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        runtime.block_on(async {
                            start.wait();
                            let outcome = stand(dir.path()).await.unwrap();
                            end.wait();
                            usize::from(matches!(outcome, Outcome::Won(_)))
                        })
                    })
                });
                racers.into_iter().map(|racer| racer.join().unwrap()).sum()
            });
            assert_eq!(winners, 1, "in round {round}");
        }
    }
    #[test]
    fn there_are_never_two_while_leaders_come_and_go() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let leaders = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..500 {
                            if let Outcome::Won(leadership) = stand(dir.path()).await.unwrap() {
                                assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0);
                                std::thread::yield_now();
                                leaders.fetch_sub(1, Ordering::SeqCst);
                                drop(leadership);
                            }
                        }
                    });
                });
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
