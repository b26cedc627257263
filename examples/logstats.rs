//! Counts what is in one field of big text logs, with an actor a core.
//!
//! `cargo run --release --example logstats -- [--field N] [--actors N] [FILE…]` prints, byte for byte, what
//! `awk '{print $N}' FILE… | sort | uniq -c | sort -rn` prints under `LC_ALL=C`. Fields are separated by blanks
//! and tabs, the first is 1, and 0 is the whole line. Without files it reads stdin. A file that can't be read is
//! reported on stderr, the others are still counted, and the exit status is 1. Wrong usage: 2.
//!
//! Blocks of whole lines go to whoever is free; nothing is read faster than it is counted.
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use futures::future::try_join_all;
use teamster::tasks::gather_contexts;
use teamster::{Context, context};
use tokio::sync::{Mutex, mpsc};

/// Counts the field in the lines that it is sent.
#[context]
async fn count(ctx: Context<(), Bytes, ()>, field: usize) -> teamster::Result<Vec<(Bytes, u64)>> {
    ctx.started(()).await?;
    let mut blocks = ctx.open_stream().await?;
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    while let Some(block) = blocks.recv().await? {
        for line in block.strip_suffix(b"\n").unwrap_or(&block).split(|&byte| byte == b'\n') {
            let key = field_of(line, field);
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => drop(counts.insert(key.to_vec(), 1)),
            }
        }
    }
    Ok(counts.into_iter().map(|(key, count)| (key.into(), count)).collect())
}

/// As awk has it: what is not there is empty.
fn field_of(line: &[u8], field: usize) -> &[u8] {
    let Some(before) = field.checked_sub(1) else { return line };
    let fields = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty());
    fields.into_iter().nth(before).unwrap_or_default()
}

struct Arguments {
    field: usize,
    actors: usize,
    files: Vec<OsString>,
}

#[teamster::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Some(Arguments { field, actors, files }) = arguments() else {
        eprintln!("usage: logstats [--field N] [--actors N] [FILE…]");
        return Ok(ExitCode::from(2));
    };
    let (blocks, queue) = mpsc::channel(1);
    // A thread of its own: nobody waits for it if it hangs in a read when a counter fails.
    let reading = std::thread::Builder::new().name("reading".into()).spawn(move || read_all(files, &blocks))?;
    print(count_all(queue, field, actors).await?)?;
    let complaints = reading.join().expect("it does not panic");
    Ok(if complaints == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn arguments() -> Option<Arguments> {
    let actors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut arguments = Arguments { field: 1, actors, files: Vec::new() };
    let mut rest = std::env::args_os().skip(1);
    while let Some(argument) = rest.next() {
        if argument == "--field" {
            arguments.field = rest.next()?.to_str()?.parse().ok()?;
        } else if argument == "--actors" {
            arguments.actors = rest.next()?.to_str()?.parse().ok().filter(|&actors| actors > 0)?;
        } else if argument.as_bytes().starts_with(b"-") {
            return None; // awk takes a leading dash for an option too: write ./-x
        } else {
            arguments.files.push(argument);
        }
    }
    Some(arguments)
}

async fn count_all(
    queue: mpsc::Receiver<Bytes>,
    field: usize,
    actors: usize,
) -> Result<HashMap<Bytes, u64>, teamster::Error> {
    let queue = Mutex::new(queue);
    teamster::open_nursery(async |an| {
        let names: Vec<String> = (0..actors).map(|n| format!("counter-{n}")).collect();
        let portals = try_join_all(names.iter().map(|name| an.start_actor(name))).await?;
        let counters = portals.into_iter().map(|portal| (portal, count(field)));
        let counts = gather_contexts(counters, async |contexts| {
            let counts = contexts.iter().map(async |ctx| {
                let mut stream = ctx.open_stream().await?;
                // Nobody holds the queue while a block is sent: meanwhile another one takes the next.
                while let Some(block) = { queue.lock().await.recv().await } {
                    stream.send(block).await?;
                }
                stream.finish().await?;
                ctx.result().await
            });
            Ok(try_join_all(counts).await?)
        });
        let mut merged = HashMap::new();
        for (key, count) in counts.await?.into_iter().flatten() {
            *merged.entry(key).or_default() += count;
        }
        Ok(merged)
    })
    .await
}

/// Reads one file behind the other: how many could not be read.
fn read_all(files: Vec<OsString>, blocks: &mpsc::Sender<Bytes>) -> usize {
    if files.is_empty() {
        return complain_of(Path::new("stdin"), read(io::stdin().lock(), blocks));
    }
    files.iter().map(|file| complain_of(Path::new(file), File::open(file).and_then(|file| read(file, blocks)))).sum()
}

/// Sends blocks of whole lines. Only the last one of a file may have no newline.
fn read(mut file: impl Read, blocks: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        let known = rest.len();
        let read = file.by_ref().take(BLOCK_BYTES).read_to_end(&mut rest);
        let (end, is_last) = match (&read, rest[known..].iter().rposition(|&byte| byte == b'\n')) {
            (Ok(1..), Some(newline)) => (known + newline + 1, false),
            (Ok(1..), None) => continue, // a very long line
            (Ok(0) | Err(_), _) => (rest.len(), true),
        };
        let behind = rest.split_off(end);
        let block = std::mem::replace(&mut rest, behind);
        let is_sent = block.is_empty() || blocks.blocking_send(block.into()).is_ok();
        if is_last || !is_sent {
            return read.map(drop);
        }
    }
}

fn complain_of(file: &Path, read: io::Result<()>) -> usize {
    read.map_or_else(
        |error| {
            eprintln!("logstats: {}: {error}", file.display());
            1
        },
        |()| 0,
    )
}

/// The most frequent first; of those that are equally frequent the last one first, as `sort -r` has it.
fn print(counts: HashMap<Bytes, u64>) -> io::Result<()> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|(a, a_count), (b, b_count)| (b_count, b).cmp(&(a_count, a)));
    let mut out = BufWriter::new(io::stdout().lock());
    let written = counts.iter().try_for_each(|(key, count)| {
        write!(out, "{count:7} ")?;
        out.write_all(key)?;
        out.write_all(b"\n")
    });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // the reader has had enough
        written => written,
    }
}

/// Bytes that are read for one block.
const BLOCK_BYTES: u64 = 512 * 1024;
