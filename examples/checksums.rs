//! SHA-256 of every file under a folder, hashed by an actor a core, here or on other hosts.
//!
//! `cargo run --release --example checksums -- DIR [--actors N] [--hosts A,B,C]` prints, byte for byte, what
//! `find DIR -type f -print0 | sort -z | xargs -0 sha256sum` prints under `LC_ALL=C`. A folder
//! without files gives no line (the pipeline would hash its empty stdin). What can't be read is
//! reported on stderr, the rest is still hashed, and the exit status is 1. Wrong usage: 2.
//!
//! With `--hosts`, N actors (else one) are started by ssh on each of these, which need nothing but sshd, and what is in the
//! files is streamed there. `--ssh-config FILE` has the client read another configuration than `~/.ssh/config`.
//!
//! Files travel in batches, a few batches in flight for each actor; results come out in order.
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use teamster::launch::Ssh;
use teamster::{ActorNursery, Context, Portal, context, rpc};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

/// What became of one file: its hash, or why it could not be read.
type Hashed = Result<[u8; 32], String>;

/// Hashes the files of one batch. Paths are bytes: a file name need not be UTF-8.
#[rpc]
async fn hash(paths: Vec<Bytes>) -> Vec<Hashed> {
    let mut hashed = Vec::with_capacity(paths.len());
    for path in &paths {
        hashed.push(hash_file(Path::new(OsStr::from_bytes(path))).map_err(|error| error.to_string()));
        tokio::task::yield_now().await; // here a cancel takes effect
    }
    hashed
}

fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            // Nobody will read the result, so what it says does not matter.
            _ if teamster::is_cancelled() => return Err(io::ErrorKind::Interrupted.into()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// A piece of the files that are sent to another host, one after the other.
#[derive(Serialize, Deserialize)]
enum Piece {
    Bytes(Bytes),
    EndOfFile,
}

/// The same for files that are on the opener's host alone: it sends what is in them.
#[context]
async fn hash_sent(ctx: Context<(), Piece, [u8; 32]>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    let mut hasher = Sha256::new();
    while let Some(piece) = stream.recv().await? {
        match piece {
            Piece::Bytes(bytes) => hasher.update(&bytes),
            Piece::EndOfFile => stream.send(std::mem::take(&mut hasher).finalize().into()).await?,
        }
    }
    Ok(())
}

/// Has another host hash them.
async fn hash_on(far: &Portal, paths: &[Bytes]) -> Result<Vec<Hashed>, teamster::Error> {
    let opened = far.open_context(hash_sent(), async |ctx, ()| {
        let mut stream = ctx.open_stream().await?;
        let mut hashed = Vec::with_capacity(paths.len());
        for path in paths {
            hashed.push(match tokio::fs::File::open(OsStr::from_bytes(path)).await {
                Ok(mut file) => match send(&mut file, &mut stream).await? {
                    Ok(()) => {
                        stream.send(Piece::EndOfFile).await?;
                        Ok(stream.recv().await?.ok_or("the stream has ended")?)
                    }
                    // What has been sent of it can't be taken back: the rest goes by another context.
                    Err(error) => {
                        hashed.push(Err(error.to_string()));
                        break;
                    }
                },
                Err(error) => Err(error.to_string()),
            });
        }
        stream.finish().await?;
        ctx.result().await?;
        Ok(hashed)
    });
    let mut hashed = opened.await?;
    if hashed.len() < paths.len() {
        hashed.extend(Box::pin(hash_on(far, &paths[hashed.len()..])).await?);
    }
    Ok(hashed)
}

/// Sends a file. The inner error is the file's, the outer one the stream's.
async fn send(
    file: &mut tokio::fs::File,
    stream: &mut teamster::MsgStream<Piece, [u8; 32]>,
) -> Result<io::Result<()>, teamster::Error> {
    loop {
        let mut piece = bytes::BytesMut::with_capacity(BUFFER_BYTES);
        match file.read_buf(&mut piece).await {
            Ok(0) => return Ok(Ok(())),
            Ok(_) => stream.send(Piece::Bytes(piece.freeze())).await?,
            Err(error) => return Ok(Err(error)),
        }
    }
}

struct Entry {
    path: OsString,
    bytes: u64,
}

/// Where it is done.
struct Hosts {
    /// None: here.
    names: Vec<String>,
    ssh_config: Option<PathBuf>,
    /// On each of them.
    actors: usize,
}

#[teamster::main]
async fn main() -> ExitCode {
    let Some((folder, hosts)) = arguments() else {
        eprintln!("usage: checksums DIR [--actors N] [--hosts A,B,C [--ssh-config FILE]]");
        return ExitCode::from(2);
    };
    let (entries, mut complaints) = walk(&folder);
    let outcome = hash_all(&entries, &hosts, &mut complaints).await;
    match outcome {
        Ok(()) if complaints == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("checksums: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<(OsString, Hosts)> {
    let (mut folder, mut actors) = (None, None);
    let mut hosts = Hosts { names: Vec::new(), ssh_config: None, actors: 1 };
    let mut rest = std::env::args_os().skip(1);
    while let Some(argument) = rest.next() {
        if argument == "--actors" {
            actors = Some(rest.next()?.to_str()?.parse().ok().filter(|&actors| actors > 0)?);
        } else if argument == "--hosts" {
            hosts.names = rest.next()?.to_str()?.split(',').map(str::to_owned).collect();
        } else if argument == "--ssh-config" {
            hosts.ssh_config = Some(rest.next()?.into());
        } else if argument.as_bytes().starts_with(b"-") || folder.is_some() {
            return None; // `find` takes a leading dash for an option too: write ./-x
        } else {
            folder = Some(argument);
        }
    }
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    hosts.actors = actors.unwrap_or_else(|| if hosts.names.is_empty() { cores() } else { 1 });
    Some((folder?, hosts))
}

/// All regular files, sorted by the bytes of their whole paths, and how many folders could not be read.
fn walk(folder: &OsStr) -> (Vec<Entry>, usize) {
    let mut complaints = 0;
    let mut entries = Vec::new();
    for found in walkdir::WalkDir::new(folder).follow_root_links(false) {
        match found {
            Ok(found) if found.file_type().is_file() => {
                let bytes = found.metadata().map_or(0, |metadata| metadata.len());
                entries.push(Entry { path: found.into_path().into_os_string(), bytes });
            }
            Ok(_) => {}
            Err(error) => {
                complain(error.path().unwrap_or(Path::new(folder)), &reason(&error));
                complaints += 1;
            }
        }
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    (entries, complaints)
}

fn reason(error: &walkdir::Error) -> String {
    error.io_error().map_or_else(|| error.to_string(), ToString::to_string)
}

async fn hash_all(entries: &[Entry], hosts: &Hosts, complaints: &mut usize) -> Result<(), teamster::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    teamster::open_nursery(async |an| {
        let batches = batches(entries);
        let places: Vec<Option<&str>> = match &hosts.names[..] {
            [] => vec![None; hosts.actors.min(batches.len())],
            names => names.iter().flat_map(|name| vec![Some(name.as_str()); hosts.actors]).collect(),
        };
        let ssh_config = hosts.ssh_config.as_deref();
        let starts = places.into_iter().enumerate().map(|(n, host)| Hasher::start(an, n, host, ssh_config));
        let hashers = try_join_all(starts).await?;
        let slots = Slots::new(&hashers);
        let mut results = stream::iter(&batches).map(|batch| slots.hash(batch)).buffered(hashers.len() * RESULTS_AHEAD);
        let bar = progress(entries);
        for batch in &batches {
            let Some(hashed) = results.next().await else {
                break;
            };
            let mut lines = Vec::new();
            for (entry, hashed) in batch.iter().zip(hashed?) {
                match hashed {
                    Ok(hash) => put_line(&mut lines, &hash, entry.path.as_bytes()),
                    Err(error) => {
                        bar.suspend(|| complain(Path::new(&entry.path), &error));
                        *complaints += 1;
                    }
                }
            }
            match bar.suspend(|| io::stdout().write_all(&lines)) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break, // the reader has had enough
                written => written?,
            }
            bar.inc(batch.iter().map(|entry| entry.bytes).sum());
        }
        bar.finish_and_clear();
        Ok(())
    })
    .await
}

/// Cuts the files into batches: many small ones, or one big one.
fn batches(entries: &[Entry]) -> Vec<&[Entry]> {
    let mut batches = Vec::new();
    let mut begin = 0;
    let mut bytes = 0;
    for (end, entry) in entries.iter().enumerate() {
        if end > begin && (bytes + entry.bytes > BATCH_BYTES || end - begin == BATCH_FILES) {
            batches.push(&entries[begin..end]);
            (begin, bytes) = (end, 0);
        }
        bytes += entry.bytes;
    }
    batches.push(&entries[begin..]);
    batches
}

/// An actor that hashes.
struct Hasher {
    portal: Portal,
    is_far: bool,
}

impl Hasher {
    async fn start(
        an: &ActorNursery,
        number: usize,
        host: Option<&str>,
        ssh_config: Option<&Path>,
    ) -> Result<Self, teamster::Error> {
        let name = format!("hasher-{number}");
        let Some(host) = host else {
            return Ok(Hasher { portal: an.start_actor(&name).await?, is_far: false });
        };
        let config = ssh_config.into_iter().flat_map(|config| [OsStr::new("-F"), config.as_os_str()]);
        let portal = an.actor(&name).launcher(Ssh::new(host).args(config)).start().await?;
        Ok(Hasher { portal, is_far: true })
    }
}

/// Who may be given a batch: each actor has a few slots, and the slot that was free first is taken.
struct Slots<'a> {
    free: Mutex<VecDeque<&'a Hasher>>,
    count: Semaphore,
}

impl<'a> Slots<'a> {
    fn new(hashers: &'a [Hasher]) -> Self {
        let free: VecDeque<_> = (0..CALLS_IN_FLIGHT).flat_map(|_| hashers).collect();
        Slots { count: Semaphore::new(free.len()), free: Mutex::new(free) }
    }

    async fn hash(&self, batch: &[Entry]) -> Result<Vec<Hashed>, teamster::Error> {
        let paths: Vec<Bytes> = batch.iter().map(|entry| Bytes::copy_from_slice(entry.path.as_bytes())).collect();
        let _permit = self.count.acquire().await.expect("the semaphore is never closed");
        let hasher = self.free.lock().expect("nothing panics under this lock").pop_front().expect("a permit is a slot");
        let hashed = match hasher.is_far {
            false => hasher.portal.run(hash(paths)).await,
            true => hash_on(&hasher.portal, &paths).await,
        };
        self.free.lock().expect("nothing panics under this lock").push_back(hasher);
        hashed
    }
}

/// As sha256sum does it: a name with a backslash, a newline or a carriage return is escaped, and a
/// backslash at the start of the line says so.
fn put_line(lines: &mut Vec<u8>, hash: &[u8; 32], path: &[u8]) {
    if path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        lines.push(b'\\');
    }
    for byte in hash {
        lines.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    lines.extend(b"  ");
    for &byte in path {
        match byte {
            b'\\' => lines.extend(b"\\\\"),
            b'\n' => lines.extend(b"\\n"),
            b'\r' => lines.extend(b"\\r"),
            byte => lines.push(byte),
        }
    }
    lines.push(b'\n');
}

/// Shows itself only where stderr is a terminal.
fn progress(entries: &[Entry]) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
    ProgressBar::new(entries.iter().map(|entry| entry.bytes).sum())
        .with_style(style.expect("the template is a constant"))
}

fn complain(path: &Path, reason: &str) {
    eprintln!("checksums: {}: {reason}", path.display());
}

const HEX: &[u8; 16] = b"0123456789abcdef";
const BUFFER_BYTES: usize = 128 * 1024;
/// A batch holds as many files as stay below both; a bigger file goes alone.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_FILES: usize = 256;
/// Calls on the way to one actor: while it hashes one, the next one is there.
const CALLS_IN_FLIGHT: usize = 2;
/// Batches, for each actor, that may wait until an earlier one is done: a big file holds up nobody.
const RESULTS_AHEAD: usize = 64;
