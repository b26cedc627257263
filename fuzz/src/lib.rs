//! Runs a target on stable: over the seeds, then over random mutations of them.
//!
//! `unsafe`: the allocator, which counts what is in use and is otherwise the system's.
#![allow(unsafe_code)]
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Makes a program of a target: libFuzzer's under the feature `libfuzzer`, else [`drive`]'s.
#[macro_export]
macro_rules! target {
    ($run:path) => {
        #[cfg(feature = "libfuzzer")]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $run(bytes));
        #[cfg(not(feature = "libfuzzer"))]
        fn main() -> std::process::ExitCode {
            $crate::drive(env!("CARGO_BIN_NAME"), $run)
        }
    };
}

/// Runs `run` as the command line says. Fails at the first bytes that make it panic, or that make
/// it hold more memory than so many bytes should.
pub fn drive(target: &str, run: fn(&[u8])) -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\nusage: {target} [--runs N] [--seed N] [FILE…]");
            return ExitCode::from(2);
        }
    };
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds =
        if options.files.is_empty() { files_of(&home.join("seeds").join(target)) } else { options.files.clone() };
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|file| std::fs::read(file).expect("a readable file")).collect();
    let runs = if options.files.is_empty() { options.runs } else { 0 };
    println!("{target}: {} seeds, {runs} mutations, --seed {}", seeds.len(), options.seed);
    let mut random = Random(options.seed);
    let mutations = (0..runs).map(|_| mutate(&seeds, &mut random));
    for bytes in seeds.iter().cloned().chain(mutations) {
        if let Err(error) = try_one(run, &bytes) {
            let folder = home.join("artifacts");
            let file = folder.join(format!("{target}-{:016x}", Random(bytes.len() as u64 ^ options.seed).next()));
            let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &bytes));
            eprintln!("{target}: {error}, by {} bytes, in {} ({written:?})", bytes.len(), file.display());
            return ExitCode::FAILURE;
        }
    }
    println!("{target}: nothing found");
    ExitCode::SUCCESS
}

struct Options {
    runs: u64,
    seed: u64,
    files: Vec<PathBuf>,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut options = Options { runs: 200_000, seed: now, files: Vec::new() };
        while let Some(word) = words.next() {
            let number = match word.as_str() {
                "--runs" => &mut options.runs,
                "--seed" => &mut options.seed,
                option if option.starts_with("--") => return Err(format!("unknown option {option}")),
                _ => {
                    options.files.push(word.into());
                    continue;
                }
            };
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            *number = value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
        }
        Ok(options)
    }
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    // The order of a folder is the file system's, and a seed must repeat a run.
    files.sort();
    files
}

fn try_one(run: fn(&[u8]), bytes: &[u8]) -> Result<(), String> {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    std::panic::catch_unwind(|| run(bytes)).map_err(|_| "a panic")?;
    let took = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    let allowed = (1 << 16) + 256 * bytes.len();
    if took > allowed { Err(format!("{took} bytes of memory, where {allowed} would do")) } else { Ok(()) }
}

/// A seed, changed in some places.
fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let (from, to) = random.range(bytes.len());
        match random.below(9) {
            0 => bytes.truncate(to),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            3 => bytes.insert(to, random.next() as u8),
            4 => bytes.insert(to, MARKERS[random.below(MARKERS.len())]),
            5 => {
                // Another seed's end: frames behind frames.
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(to);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            6 if bytes.len() >= 4 => {
                // A length that fits, so that what follows is read at all.
                let length = bytes.len() as u32 - 4;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
            }
            _ if bytes.is_empty() => {}
            7 => bytes[from] ^= 1 << random.below(8),
            _ => bytes[from] = random.next() as u8,
        }
    }
    bytes
}

/// What begins something in msgpack, with the edges of its ranges.
const MARKERS: &[u8] = &[
    0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc6, 0xc7, 0xca, 0xcb, 0xcc, 0xcf, 0xd0,
    0xd3, 0xd4, 0x53, 0xd8, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff,
];

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// `from <= to <= end`; `from < end` unless `end` is 0.
    fn range(&mut self, end: usize) -> (usize, usize) {
        let from = self.below(end);
        (from, from + self.below(end - from + 1))
    }
}

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[cfg_attr(not(feature = "libfuzzer"), global_allocator)]
#[cfg_attr(feature = "libfuzzer", expect(dead_code, reason = "libFuzzer has a limit of its own: -malloc_limit_mb"))]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: every call goes to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, and so do we.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
