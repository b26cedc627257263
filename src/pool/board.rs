//! Where do the results of many small jobs lie, so that none is lost when a later one kills its worker?
//!
//! A file that the pool and one worker have mapped. The worker writes each result behind the one before and then says
//! how many there are: a process that dies in the next job has told all that it had done. The pool reads what it has been
//! told of, whenever it likes. Two more words say which job has begun, and whether another one may: so the pool can take back
//! those that have not, for certain, while the worker is in the middle of one.
#![allow(unsafe_code, reason = "memory that two processes have mapped")]
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::spawn::file_may_have;

/// Bytes of a board. When it is full, a worker answers, and is given the rest of its jobs again.
pub(super) const BOARD_BYTES: usize = 256 * 1024;

/// In front of the results: three words.
const HEAD_BYTES: usize = 64;

/// How many results there are, and the bytes that they take.
const HEAD: usize = 0;
/// How many jobs have begun. The worker writes it.
const BEGUN: usize = 1;
/// Not 0: no other job may begin. The pool writes it.
const STOP: usize = 2;

/// In front of each result: its bytes, and above them whether it is an error.
const MARK_BYTES: usize = 4;
const IS_ERROR: u32 = 1 << 31;

/// Memory that two processes have mapped.
#[derive(Debug)]
pub(super) struct Board {
    at: NonNull<u8>,
}

// SAFETY: it is plain memory, which one process writes while the other does not read; a pointer to it is good on every thread.
unsafe impl Send for Board {}
// SAFETY: the one batch that a worker does at a time is its one writer; reading copies.
unsafe impl Sync for Board {}

/// The path by which the other process finds a board: removed when it is dropped.
#[derive(Debug)]
pub(super) struct Way(PathBuf);

impl Way {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // Its folder goes with the tree.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One job's result as the worker has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left<'a> {
    Value(&'a [u8]),
    Error(&'a [u8]),
}

impl Board {
    /// Makes one, with a name for the other side.
    ///
    /// # Errors
    ///
    /// The folder's file system is full, or takes no file; or this process may write none of that length.
    pub(super) fn create(path: PathBuf) -> io::Result<(Board, Way)> {
        file_may_have(BOARD_BYTES)?;
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let way = Way(path);
        // Written and not only announced: a file system that is full says so now, and not by a SIGBUS.
        file.write_all(&vec![0; BOARD_BYTES])?;
        Ok((Board::map(&file)?, way))
    }

    /// Maps one that another process of this user has made.
    ///
    /// # Errors
    ///
    /// It is not there, or is no board.
    pub(super) fn open(path: &Path) -> io::Result<Board> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let metadata = file.metadata()?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_ours || !metadata.is_file() || metadata.len() != BOARD_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no board of this user's"));
        }
        Board::map(&file)
    }

    fn map(file: &File) -> io::Result<Board> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, where the kernel puts it; nothing of ours lies there.
        let at = unsafe { mmap(std::ptr::null_mut(), BOARD_BYTES, protection, flags, file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("a mapping at the address 0"))?;
        Ok(Board { at })
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        debug_assert!((place + 1) * size_of::<u64>() <= HEAD_BYTES);
        // SAFETY: the mapping begins on a page, is longer than its head, and is there as long as we live.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().cast::<u64>().add(place)) }
    }

    /// Forgets what is on it: the pool does, before a trip.
    pub(super) fn clear(&self) {
        for place in [HEAD, BEGUN, STOP] {
            self.word(place).store(0, Ordering::Relaxed); // what tells the other side of it comes later, by the line
        }
    }

    /// The worker is about to begin its next job. Whether it may: if not, it begins no other one either.
    pub(super) fn begin(&self) -> bool {
        let begun = self.word(BEGUN);
        begun.store(begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Each side says its own word before it looks at the other's: at least one of them sees both.
        fence(Ordering::SeqCst);
        self.word(STOP).load(Ordering::Relaxed) == 0
    }

    /// The worker begins no other job from now on. How many may have begun; none behind those ever does.
    pub(super) fn stop(&self) -> usize {
        self.word(STOP).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.begun()
    }

    /// How many jobs have begun; the last of them perhaps only wanted to.
    pub(super) fn begun(&self) -> usize {
        usize::try_from(self.word(BEGUN).load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// How many results there are.
    pub(super) fn done(&self) -> usize {
        parts(self.word(HEAD).load(Ordering::Acquire)).0
    }

    /// Adds a result. Whether there was room.
    pub(super) fn add(&self, is_error: bool, bytes: &[u8]) -> bool {
        let (count, used) = parts(self.word(HEAD).load(Ordering::Relaxed));
        let begin = HEAD_BYTES + used;
        if bytes.len() > BOARD_BYTES || begin + MARK_BYTES + bytes.len() > BOARD_BYTES {
            return false;
        }
        let mark = bytes.len() as u32 | if is_error { IS_ERROR } else { 0 };
        // SAFETY: both pieces end inside of the mapping, as was just looked at, and the other side does not read behind what it
        // was told of.
        unsafe {
            let at = self.at.as_ptr().add(begin);
            at.copy_from_nonoverlapping(mark.to_le_bytes().as_ptr(), MARK_BYTES);
            at.add(MARK_BYTES).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        let used = used + MARK_BYTES + bytes.len();
        // Behind the bytes: whoever sees it sees them.
        self.word(HEAD).store(whole(count + 1, used), Ordering::Release);
        true
    }

    /// Hands each result to `each`, at most so many. What is on it is from elsewhere, and is looked at as such.
    pub(super) fn read(&self, most: usize, mut each: impl FnMut(Left<'_>)) {
        let (count, used) = parts(self.word(HEAD).load(Ordering::Acquire));
        let used = used.min(BOARD_BYTES - HEAD_BYTES);
        let mut bytes = vec![0; used];
        // SAFETY: it ends inside of the mapping. The other side writes behind what it has told of alone.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.at.as_ptr().add(HEAD_BYTES), used) };
        let mut rest = &bytes[..];
        for _ in 0..count.min(most) {
            let Some((mark, behind)) = rest.split_first_chunk::<MARK_BYTES>() else { return };
            let mark = u32::from_le_bytes(*mark);
            let Some((one, behind)) = behind.split_at_checked((mark & !IS_ERROR) as usize) else { return };
            each(if mark & IS_ERROR == 0 { Left::Value(one) } else { Left::Error(one) });
            rest = behind;
        }
    }
}

/// The number of results, and their bytes.
fn parts(head: u64) -> (usize, usize) {
    ((head >> 32) as usize, (head & u64::from(u32::MAX)) as usize)
}

fn whole(count: usize, used: usize) -> u64 {
    (count as u64) << 32 | used as u64
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody borrows from it beyond our life. An error would leave it mapped.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), BOARD_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Board, Board, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, way) = Board::create(folder.path().join("board")).expect("there is room");
        let other = Board::open(way.path()).expect("it is there");
        drop(way);
        assert!(!folder.path().join("board").exists());
        (one, other, folder)
    }

    /// Values as they are, errors with a mark.
    fn read(board: &Board, most: usize) -> Vec<String> {
        let mut all = Vec::new();
        board.read(most, |left| {
            let (mark, bytes) = match left {
                Left::Value(bytes) => ("", bytes),
                Left::Error(bytes) => ("!", bytes),
            };
            all.push(format!("{mark}{}", String::from_utf8_lossy(bytes)));
        });
        all
    }

    #[test]
    fn what_one_side_adds_the_other_reads() {
        let (writer, reader, _folder) = pair();
        assert!(read(&reader, 9).is_empty());
        assert!(writer.add(false, b"one") && writer.add(true, b"") && writer.add(false, b"three"));
        assert_eq!(read(&reader, 9), ["one", "!", "three"]);
        assert_eq!(read(&reader, 2), ["one", "!"]);
        writer.clear();
        assert!(read(&reader, 9).is_empty());
    }

    #[test]
    fn what_has_not_begun_never_does_once_it_is_stopped() {
        let (worker, pool, _folder) = pair();
        assert!(worker.begin() && worker.add(false, b"one") && worker.begin());
        assert_eq!((pool.begun(), pool.done(), pool.stop()), (2, 1, 2));
        assert!(worker.add(false, b"two") && !worker.begin());
        assert_eq!((pool.done(), read(&pool, 9)), (2, vec!["one".to_owned(), "two".to_owned()]));
        pool.clear();
        assert_eq!((pool.begun(), pool.done()), (0, 0));
        assert!(worker.begin(), "the next trip");
    }

    /// Two threads race for the last job that begins: both are of one mind about it.
    #[test]
    fn both_sides_are_of_one_mind_about_what_has_begun() {
        let (worker, pool, _folder) = pair();
        for round in 0..2_000_u32 {
            pool.clear();
            let (ran, begun) = std::thread::scope(|threads| {
                let works = threads.spawn(|| (0..50).take_while(|_| worker.begin()).count());
                for _ in 0..round % 64 {
                    std::hint::spin_loop();
                }
                let begun = pool.stop();
                (works.join().expect("it counts"), begun)
            });
            assert!(ran <= begun && begun <= ran + 1, "{ran} have run, and {begun} had begun when it was stopped");
        }
    }

    #[test]
    fn a_full_one_takes_no_more() {
        let (writer, reader, _folder) = pair();
        let half = vec![b'7'; BOARD_BYTES / 2];
        assert!(writer.add(false, &half) && !writer.add(false, &half));
        assert_eq!(read(&reader, 9), [String::from_utf8(half).expect("it is text")]);
        assert!(!writer.add(false, &vec![0; 2 * BOARD_BYTES]));
    }

    /// Whether there was room for one.
    #[teamster_macros::rpc]
    async fn make_board() -> bool {
        let folder = tempfile::tempdir().expect("a folder");
        Board::create(folder.path().join("board")).is_ok()
    }

    #[teamster::test]
    async fn a_limit_of_a_files_size_is_an_error_and_no_signal() -> Result<(), crate::Error> {
        crate::open_nursery(async |an| {
            for (bytes, is_made) in [(BOARD_BYTES as u64 - 1, false), (BOARD_BYTES as u64, true)] {
                let actor = an.actor("small").rlimit(crate::Resource::FileSize, bytes, bytes).start().await?;
                assert_eq!(actor.run(make_board()).await?, is_made);
            }
            Ok(())
        })
        .await
    }

    #[test]
    fn what_is_on_it_is_not_believed() {
        let (writer, reader, _folder) = pair();
        writer.add(false, b"one");
        writer.word(HEAD).store(whole(usize::MAX >> 33, BOARD_BYTES * 2), Ordering::Release);
        assert_eq!(read(&reader, 3), ["one", "", ""], "marks of zero behind the first");
        // SAFETY: inside of the mapping.
        unsafe { writer.at.as_ptr().add(HEAD_BYTES).write_bytes(0xff, MARK_BYTES) };
        assert!(read(&reader, 3).is_empty());
    }

    #[test]
    fn what_is_no_board_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("short");
        std::fs::write(&path, "short").expect("a file");
        assert!(Board::open(&path).is_err() && Board::open(&folder.path().join("none")).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(Board::open(&link).is_err());
    }
}
