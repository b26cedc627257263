//! What is a piece of memory that two processes share, and whose turn is it?
//!
//! One process writes a segment and never reads it, the other one reads it and never writes: it maps the bytes without
//! the right to. Whose turn it is stands in a word in front of the bytes, which both change by compare-and-swap.
//!
//! Neither can make the other one crash. The file is sealed against shrinking, so what was once found to be there can be
//! touched as long as it is mapped. Lengths and places come by the line, and are held against the file's size. The word
//! is one number of which every value means something. And only byte strings lie here: nothing that is decoded, no length, no
//! text. So where a hostile process of this very user changed bytes while there are views of them (our own has no
//! code that does), numbers in a [`Blob`](crate::Blob) would change under its reader; that is outside of what Rust promises for
//! `&[u8]`, as with every file that is mapped, which is why nothing but a `Blob` is ever read in place: all other types are
//! copied out first.
#![expect(unsafe_code, reason = "memory that is mapped is written and read through pointers")]
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use crate::spawn::file_may_have;

/// In front of the bytes, so that they begin a page: what the reader may write to is mapped apart from what it may not. Both sides
/// are on one host, and its kernel has pages of one length: 4, 16 or 64 KiB.
fn head_bytes() -> usize {
    rustix::param::page_size()
}

/// Sizes are multiples of this: a little more in the next message is no reason to grow.
const STEP_BYTES: usize = 1 << 20;

/// Where the next byte string may begin: what is aligned for every number can be looked at as numbers.
const ALIGNED: usize = 64;

/// Where a byte string begins that comes behind `used` bytes.
pub(super) fn aligned(used: usize) -> Option<usize> {
    used.checked_next_multiple_of(ALIGNED)
}

/// Bytes that a segment for `bytes` of them has room for.
pub(super) fn rounded(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(STEP_BYTES).filter(|bytes| bytes.checked_add(head_bytes()).is_some())
}

/// Whose a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody's: the writer may take it.
    Free,
    /// The writer's, or of whoever gives its memory back.
    Busy,
    /// Filled, and on its way to the reader. The writer may take it back.
    Sent,
    /// The reader's, as long as there are views of it.
    Held,
}

const STATE_BITS: u32 = 2;

/// The word in front of the bytes: a state, and the number of the message, by which an old word is told from a new one.
#[derive(Clone, Copy)]
struct Turn<'a>(&'a AtomicU64);

impl Turn<'_> {
    fn word(message: u64, state: State) -> u64 {
        message << STATE_BITS | state as u64
    }

    fn change(self, message: u64, from: State, to: State) -> bool {
        let (from, to) = (Turn::word(message, from), Turn::word(message, to));
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn is_free(self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word == Turn::word(word >> STATE_BITS, State::Free)
    }

    /// Takes it, if it is free; gives the number of the next message.
    fn take(self) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        let message = word >> STATE_BITS;
        let next = message + 1; // two bits are free above it
        if word != Turn::word(message, State::Free) {
            return None;
        }
        let taken = Turn::word(next, State::Busy);
        let took = self.0.compare_exchange(word, taken, Ordering::AcqRel, Ordering::Relaxed);
        took.is_ok().then_some(next)
    }
}

/// A mapped range, unmapped when it is dropped.
struct Mapping {
    at: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: it is memory, the same for every thread; who may touch which part of it is said where that is done.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, from: usize, bytes: usize, rights: ProtFlags) -> io::Result<Mapping> {
        let nowhere = std::ptr::null_mut();
        // SAFETY: the kernel chooses a range that nothing of ours is in.
        let at = unsafe { rustix::mm::mmap(nowhere, bytes, rights, MapFlags::SHARED, file, from as u64) }?;
        Ok(Mapping { at: NonNull::new(at).expect("the kernel maps nothing at zero unasked"), bytes })
    }

    /// Only of a mapping that begins with the head, which is a page at least.
    fn turn(&self) -> Turn<'_> {
        // SAFETY: a page begins aligned, is mapped as long as the borrow, with the right to write, and this word of it is
        // touched by atomic operations alone, in both processes.
        Turn(unsafe { AtomicU64::from_ptr(self.at.as_ptr().cast()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and what had borrowed from it is gone.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "it is a mapping of ours: {unmapped:?}");
    }
}

/// The writer's end.
pub(super) struct Written {
    file: OwnedFd,
    map: Mapping,
}

const BOTH: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Written {
    /// New memory with room for `bytes`.
    ///
    /// # Errors
    ///
    /// A limit of descriptors, of memory, or of a file's size.
    pub(super) fn make(bytes: usize) -> io::Result<Written> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("teamster", flags)?;
        let bytes = size_for(bytes)?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        // It may grow later. The last seal: there will be no others.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
        let map = Mapping::new(file.as_fd(), 0, bytes, BOTH)?;
        Ok(Written { file, map })
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// How many bytes it has room for.
    pub(super) fn room(&self) -> usize {
        self.map.bytes - head_bytes()
    }

    /// Makes room for `bytes`. What is in it stays.
    ///
    /// # Errors
    ///
    /// As [`Written::make`]; it is as it was.
    pub(super) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = size_for(bytes)?;
        if bytes <= self.map.bytes {
            return Ok(());
        }
        rustix::fs::ftruncate(&self.file, bytes as u64)?;
        let (at, old) = (self.map.at.as_ptr(), self.map.bytes);
        // SAFETY: it is the mapping that it says, and nobody has borrowed from it: `self` is exclusive.
        let at = unsafe { rustix::mm::mremap(at, old, bytes, MremapFlags::MAYMOVE) }?;
        self.map.at = NonNull::new(at).expect("the kernel maps nothing at zero unasked");
        self.map.bytes = bytes;
        Ok(())
    }

    /// Copies `bytes` to the place `at`.
    ///
    /// # Panics
    ///
    /// If there is no room for them there.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.room()), "there is room for what is written");
        let from = head_bytes() + at;
        // SAFETY: it lies inside the mapping, which is ours to write to, and behind the head. `bytes` is not in it: it is
        // never lent out as a slice. In the file there is memory for it, as that can't shrink.
        unsafe {
            let to = self.map.at.as_ptr().cast::<u8>().add(from);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Whether nobody has it: until its writer takes it, nobody will.
    pub(super) fn is_free(&self) -> bool {
        self.map.turn().is_free()
    }

    /// Takes it for a new message, if nobody has it. Gives the message's number.
    pub(super) fn take(&self) -> Option<u64> {
        self.map.turn().take()
    }

    /// The message is complete: from here on the reader may open it.
    pub(super) fn send(&self, message: u64) {
        self.map.turn().change(message, State::Busy, State::Sent);
    }

    /// There is no such message after all.
    pub(super) fn give_up(&self, message: u64) {
        self.map.turn().change(message, State::Busy, State::Free);
    }

    /// Nobody will open this message any more, if nobody has.
    pub(super) fn take_back(&self, message: u64) {
        self.map.turn().change(message, State::Sent, State::Free);
    }

    /// Gives its memory back, if nobody has it.
    pub(super) fn trim(&self) {
        trim(self.map.turn(), self.file(), self.map.bytes);
    }
}

/// Its pages come back, empty, when somebody writes to it.
fn trim(turn: Turn<'_>, file: BorrowedFd<'_>, bytes: usize) {
    let Some(message) = turn.take() else { return };
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Where it is refused, the memory stays, which is no more than before.
    let _ = rustix::fs::fallocate(file, flags, head_bytes() as u64, (bytes - head_bytes()) as u64);
    turn.change(message, State::Busy, State::Free);
}

/// Of the file that holds so many bytes.
fn size_for(bytes: usize) -> io::Result<usize> {
    let size = rounded(bytes).map(|bytes| bytes + head_bytes()).ok_or(io::ErrorKind::OutOfMemory)?;
    file_may_have(size)?;
    Ok(size)
}

/// The reader's end.
pub(super) struct Received {
    file: OwnedFd,
    /// As much of it as was needed so far.
    mapped: Mutex<Arc<Mapped>>,
}

struct Mapped {
    head: Mapping,
    /// Without the right to write.
    content: Option<Mapping>,
}

impl Mapped {
    fn new(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Mapped> {
        let content = match bytes {
            0 => None,
            _ => Some(Mapping::new(file, head_bytes(), bytes, ProtFlags::READ)?),
        };
        Ok(Mapped { head: Mapping::new(file, 0, head_bytes(), BOTH)?, content })
    }

    fn room(&self) -> usize {
        self.content.as_ref().map_or(0, |content| content.bytes)
    }
}

impl Received {
    /// # Errors
    ///
    /// It is no file that keeps its size.
    pub(super) fn new(file: OwnedFd) -> io::Result<Received> {
        if !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("the other process could take its shared memory away"));
        }
        if size_of(&file)? < head_bytes() {
            return Err(io::Error::other("there is no shared memory in it"));
        }
        let mapped = Mutex::new(Arc::new(Mapped::new(file.as_fd(), 0)?));
        Ok(Received { file, mapped })
    }

    /// Views of the byte strings of a message, one behind the other, of these lengths. It is free again when the last of
    /// them is gone.
    ///
    /// # Errors
    ///
    /// There is no such message, or it can't be that long.
    pub(super) fn open(&self, message: u64, lengths: &[u64]) -> io::Result<Vec<Bytes>> {
        let ranges = ranges(lengths).ok_or_else(too_long)?;
        let end = ranges.last().map_or(0, |range| range.end);
        let mapped = self.mapped(end)?;
        if !mapped.head.turn().change(message, State::Sent, State::Held) {
            return Err(io::Error::other("nobody waits for this message any more"));
        }
        let hold = Arc::new(Hold { mapped, message });
        Ok(ranges.into_iter().map(|range| Bytes::from_owner(View { hold: Arc::clone(&hold), range })).collect())
    }

    /// At least so much of it.
    fn mapped(&self, bytes: usize) -> io::Result<Arc<Mapped>> {
        let mut mapped = self.mapped.lock();
        if mapped.room() < bytes {
            let there = size_of(&self.file)?.saturating_sub(head_bytes());
            if there < bytes {
                return Err(too_long());
            }
            *mapped = Arc::new(Mapped::new(self.file.as_fd(), there)?);
        }
        Ok(Arc::clone(&mapped))
    }

    /// Gives its memory back, if nobody has it.
    pub(super) fn trim(&self) {
        let mapped = Arc::clone(&self.mapped.lock());
        if let Ok(bytes) = size_of(&self.file)
            && bytes > head_bytes()
        {
            trim(mapped.head.turn(), self.file.as_fd(), bytes);
        }
    }
}

fn too_long() -> io::Error {
    io::Error::other("the message is longer than the shared memory that it is in")
}

fn size_of(file: &OwnedFd) -> io::Result<usize> {
    usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(io::Error::other)
}

/// Where byte strings of these lengths lie.
fn ranges(lengths: &[u64]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut used = 0;
    let range = |&length: &u64| {
        let start = aligned(used)?;
        used = start.checked_add(usize::try_from(length).ok()?)?;
        Some(start..used)
    };
    lengths.iter().map(range).collect()
}

/// The reader's hold on a message.
struct Hold {
    mapped: Arc<Mapped>,
    message: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.mapped.head.turn().change(self.message, State::Held, State::Free);
    }
}

struct View {
    hold: Arc<Hold>,
    /// Inside what is mapped.
    range: std::ops::Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        let Some(content) = &self.hold.mapped.content else { return &[] };
        // SAFETY: the range was found to lie in the mapping, which lives as long as `self`; the file behind it can't
        // shrink. No code of ours writes to it before the hold is gone (see above for code that is not ours).
        unsafe {
            let from = content.at.as_ptr().cast::<u8>().add(self.range.start);
            std::slice::from_raw_parts(from, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(written: &Written) -> OwnedFd {
        written.file().try_clone_to_owned().expect("a descriptor")
    }

    /// Both ends, with room for so much.
    fn pair(bytes: usize) -> (Written, Received) {
        let written = Written::make(bytes).expect("there is memory");
        let received = Received::new(copy_of(&written)).expect("it is sealed");
        (written, received)
    }

    fn filled(written: &mut Written, bytes: &[u8]) -> u64 {
        let message = written.take().expect("it is free");
        written.write(0, bytes);
        written.send(message);
        message
    }

    #[test]
    fn a_message_is_read_where_it_was_written() {
        let (mut written, received) = pair(10);
        assert_eq!(written.room(), STEP_BYTES);
        let message = written.take().expect("it is free");
        written.write(0, b"first");
        written.write(64, b"second");
        written.send(message);
        let views = received.open(message, &[5, 6, 0]).expect("it is there");
        assert_eq!(views, [&b"first"[..], b"second", b""]);
    }

    #[test]
    fn it_is_free_when_the_last_view_is_gone() {
        let (mut written, received) = pair(1);
        let message = filled(&mut written, b"bytes");
        let mut views = received.open(message, &[2, 3]).expect("it is there");
        let part = views[0].slice(1..);
        views.pop();
        assert_eq!(written.take(), None);
        drop(views);
        assert_eq!(written.take(), None, "a part of a view is one");
        drop(part);
        assert_eq!(written.take(), Some(message + 1));
    }

    #[test]
    fn a_message_is_opened_once_and_only_while_it_is_wanted() {
        let (mut written, received) = pair(1);
        let first = filled(&mut written, b"bytes");
        received.open(first + 1, &[1]).expect_err("that one was not sent");
        let views = received.open(first, &[1]).expect("it is there");
        received.open(first, &[1]).expect_err("somebody has it");
        written.take_back(first);
        assert_eq!(written.take(), None, "what is open can't be taken back");
        drop(views);
        received.open(first, &[1]).expect_err("it was read");
        let second = filled(&mut written, b"bytes");
        written.take_back(second);
        received.open(second, &[1]).expect_err("it was taken back");
        let third = written.take().expect("it is free");
        received.open(third, &[1]).expect_err("it is being written");
        written.give_up(third);
        assert_eq!(written.take(), Some(third + 1));
    }

    #[test]
    fn it_grows_and_old_views_stay() {
        let (mut written, received) = pair(STEP_BYTES);
        let first = filled(&mut written, &vec![1; STEP_BYTES]);
        let old = received.open(first, &[STEP_BYTES as u64]).expect("it is there");
        written.grow(3 * STEP_BYTES).expect("there is memory");
        written.grow(1).expect("it has room");
        assert_eq!((written.room(), written.take()), (3 * STEP_BYTES, None));
        assert!(old[0].iter().all(|&byte| byte == 1));
        drop(old);
        let second = filled(&mut written, &vec![2; 3 * STEP_BYTES]);
        let new = received.open(second, &[3 * STEP_BYTES as u64]).expect("it has grown");
        assert!(new[0].iter().all(|&byte| byte == 2));
    }

    #[test]
    fn lengths_that_are_lies_are_errors() {
        let (mut written, received) = pair(1);
        let message = filled(&mut written, b"bytes");
        for lengths in
            [&[STEP_BYTES as u64 + 1][..], &[STEP_BYTES as u64, 1], &[u64::MAX], &[u64::MAX, 2], &[1 << 63; 3]]
        {
            received.open(message, lengths).expect_err("it is too long");
        }
        assert_eq!(received.open(message, &[STEP_BYTES as u64]).expect("nobody has it")[0].len(), STEP_BYTES);
    }

    #[test]
    fn a_file_that_could_shrink_or_is_none_of_ours_is_refused() {
        let made = |flags, bytes| {
            let file = rustix::fs::memfd_create("test", flags).expect("a file");
            rustix::fs::ftruncate(&file, bytes).expect("room");
            file
        };
        Received::new(made(MemfdFlags::ALLOW_SEALING, 1 << 20)).err().expect("it is not sealed");
        let short = made(MemfdFlags::ALLOW_SEALING, 8);
        rustix::fs::fcntl_add_seals(&short, SealFlags::SHRINK).expect("a seal");
        Received::new(short).err().expect("it is too short");
        Received::new(std::fs::File::open("/dev/null").expect("it is there").into()).err().expect("it is no memory");
        let (written, _received) = pair(1);
        rustix::fs::ftruncate(written.file(), 0).expect_err("nobody takes it away");
        rustix::fs::fcntl_add_seals(written.file(), SealFlags::GROW).expect_err("it has its last seal");
    }

    #[test]
    fn a_word_that_is_nonsense_harms_nobody() {
        let (mut written, received) = pair(1);
        let message = filled(&mut written, b"bytes");
        let word = Mapping::new(written.file(), 0, head_bytes(), BOTH).expect("it is mapped");
        for nonsense in [u64::MAX, u64::MAX - 3, message << STATE_BITS | 3, 0] {
            word.turn().0.store(nonsense, Ordering::Relaxed);
            received.open(message, &[1]).expect_err("no such message");
            if let Some(taken) = written.take() {
                written.give_up(taken);
            }
        }
    }

    #[test]
    fn what_is_free_gives_its_memory_back_from_either_side() {
        let (mut written, received) = pair(STEP_BYTES);
        let blocks = |written: &Written| rustix::fs::fstat(written.file()).expect("it is a file").st_blocks;
        let trims: [&dyn Fn(&Written); 2] = [&|written| written.trim(), &|_| received.trim()];
        for trim in trims {
            let message = filled(&mut written, &vec![1; STEP_BYTES]);
            trim(&written);
            assert!(blocks(&written) >= 2048, "it was sent");
            let views = received.open(message, &[1]).expect("it is there");
            trim(&written);
            assert_eq!(views[0][0], 1, "somebody has it");
            drop(views);
            trim(&written);
            assert!(blocks(&written) <= head_bytes() as i64 / 512, "only its head is left");
        }
    }

    #[test]
    fn the_bytes_begin_a_page() {
        // Where they do not, the kernel maps nothing there.
        let (written, received) = pair(1);
        let size = size_of(&copy_of(&written)).expect("it is a file");
        assert_eq!(size - written.room(), rustix::param::page_size());
        assert_eq!(received.mapped(1).expect("it is mapped").room(), STEP_BYTES);
    }

    #[test]
    fn more_than_anybody_has_is_an_error() {
        assert!(Written::make(usize::MAX - 1).is_err());
        let (mut written, _received) = pair(1);
        written.grow(usize::MAX / 2).expect_err("no file is that long");
        assert_eq!(written.room(), STEP_BYTES);
    }
}
