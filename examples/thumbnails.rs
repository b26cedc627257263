//! Small versions of all pictures under a folder, made by a worker process a core.
//!
//! `cargo run --release --example thumbnails -- DIR OUT [--check]` makes, of every PNG and JPEG file under DIR, one of the
//! same name and format under OUT, at most 128 pixels wide and high, and says how many. What can't be read or is no picture is
//! reported on stderr, the rest is still made, and the exit status is 1. Wrong usage: 2. OUT may lie in DIR: what is in it is
//! no input.
//!
//! With `--check` this process then makes each of them again, alone, and compares the bytes.
//!
//! A file in OUT is whole or not there, also after Ctrl-C: it is written beside its place and then renamed, by this process, which
//! does not await in between. Workers read files, and write none.
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata, Permissions};
use std::io::{self, Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult};
use indicatif::{ProgressBar, ProgressStyle};
use teamster::{Error, WorkerConfig, work};

/// Makes one, and says which it is: results come as they are done. A path is bytes: a file name need not be UTF-8.
///
/// A picture that crashes the decoder, or takes all memory, takes no more with it than its worker.
#[work]
fn make(number: usize, picture: Bytes) -> (usize, Result<Bytes, String>) {
    let made = thumbnail(Path::new(OsStr::from_bytes(&picture)));
    (number, made.map(Bytes::from).map_err(|error| error.to_string()))
}

fn thumbnail(picture: &Path) -> ImageResult<Vec<u8>> {
    let reader = ImageReader::open(picture)?.with_guessed_format()?;
    let format = reader.format().expect("if its content shows none, its name does");
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?; // of a camera that was held upright
    let mut image = DynamicImage::from_decoder(decoder)?;
    if image.width().max(image.height()) > LONGEST_SIDE {
        image = image.thumbnail(LONGEST_SIDE, LONGEST_SIDE);
    }
    image.apply_orientation(orientation);
    let mut encoded = Cursor::new(Vec::new());
    image.write_to(&mut encoded, format)?;
    Ok(encoded.into_inner())
}

#[teamster::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Some(Arguments { folder, out, checks }) = arguments() else {
        eprintln!("usage: thumbnails DIR OUT [--check]");
        return Ok(ExitCode::from(2));
    };
    if let Err(error) = fs::read_dir(&folder) {
        complain(&folder, &error);
        return Ok(ExitCode::FAILURE);
    }
    if is_around(&out, &folder) {
        eprintln!("thumbnails: DIR is OUT, or lies in it: its own pictures would be replaced");
        return Ok(ExitCode::from(2));
    }
    let (pictures, mut complaints) = find(&folder, &out);
    let begin = Instant::now();
    let made = make_all(&folder, &pictures, &out, &mut complaints).await?;
    println!("{} thumbnails in {:.2?}", made.len(), begin.elapsed());
    if checks {
        let begin = Instant::now();
        for number in made {
            let (picture, target) = (&pictures[number], out.join(below(&folder, &pictures[number])));
            if thumbnail(picture).ok() != fs::read(&target).ok() {
                complain(&target, "it is not what one process makes");
                complaints += 1;
            }
        }
        println!("checked by one process in {:.2?}", begin.elapsed());
    }
    Ok(if complaints == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Arguments {
    folder: PathBuf,
    out: PathBuf,
    checks: bool,
}

fn arguments() -> Option<Arguments> {
    let (mut folders, mut checks) = (Vec::new(), false);
    for argument in std::env::args_os().skip(1) {
        if argument == "--check" {
            checks = true;
        } else if argument.as_bytes().starts_with(b"-") {
            return None;
        } else {
            folders.push(PathBuf::from(argument));
        }
    }
    let [folder, out] = folders.try_into().ok()?;
    Some(Arguments { folder, out, checks })
}

fn is_around(out: &Path, folder: &Path) -> bool {
    match (out.canonicalize(), folder.canonicalize()) {
        (Ok(out), Ok(folder)) => folder.starts_with(out),
        (Ok(_) | Err(_), _) => false, // OUT is not there yet
    }
}

/// All that are pictures by their names, and how many folders could not be read.
fn find(folder: &Path, out: &Path) -> (Vec<PathBuf>, usize) {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let out = fs::metadata(out).map(identity).ok();
    let is_out = |entry: &walkdir::DirEntry| {
        entry.file_type().is_dir() && out.is_some() && entry.metadata().ok().map(identity) == out
    };
    let (mut pictures, mut complaints) = (Vec::new(), 0);
    for found in walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(|entry| !is_out(entry)) {
        match found {
            Ok(found) if found.file_type().is_file() => {
                if let Ok(ImageFormat::Png | ImageFormat::Jpeg) = ImageFormat::from_path(found.path()) {
                    pictures.push(found.into_path());
                }
            }
            Ok(_) => {}
            Err(error) => {
                let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                complain(error.path().unwrap_or(folder), reason);
                complaints += 1;
            }
        }
    }
    (pictures, complaints)
}

/// Makes all that can be made: by their numbers.
async fn make_all(
    folder: &Path,
    pictures: &[PathBuf],
    out: &Path,
    complaints: &mut usize,
) -> Result<BTreeSet<usize>, Error> {
    teamster::open_worker_context(WorkerConfig::new(), async |pool| {
        let bar = progress(pictures.len());
        let shown = bar.clone();
        let jobs =
            pictures.iter().enumerate().map(|(n, path)| make(n, Bytes::copy_from_slice(path.as_os_str().as_bytes())));
        let mut results = pool.map_unordered(jobs).with_progress(move |done| shown.set_position(done));
        let mut made = BTreeSet::new();
        let mut open: BTreeSet<usize> = (0..pictures.len()).collect();
        while let Some(result) = results.next().await {
            let (number, thumbnail) = match result {
                Ok(done) => done,
                // Its job is known, and not its picture: that one is left at the end.
                Err(error @ (Error::BrokenWorker(_) | Error::Remote(_))) => {
                    bar.suspend(|| eprintln!("thumbnails: {error}"));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            open.remove(&number);
            let written = thumbnail.and_then(|thumbnail| {
                let target = out.join(below(folder, &pictures[number]));
                write(&target, &thumbnail).map_err(|error| format!("{}: {error}", target.display()))
            });
            match written {
                Ok(()) => drop(made.insert(number)),
                Err(reason) => {
                    bar.suspend(|| complain(&pictures[number], reason));
                    *complaints += 1;
                }
            }
        }
        bar.finish_and_clear();
        for &number in &open {
            complain(&pictures[number], "its worker did not get to the end of it");
        }
        *complaints += open.len();
        Ok(made)
    })
    .await
}

fn below<'a>(folder: &Path, picture: &'a Path) -> &'a Path {
    picture.strip_prefix(folder).expect("the walk began there")
}

/// Puts a file there, whole.
fn write(target: &Path, content: &[u8]) -> io::Result<()> {
    let folder = target.parent().expect("it lies in OUT");
    fs::create_dir_all(folder)?;
    let as_usual = Permissions::from_mode(0o666); // less what the umask takes
    let mut beside = tempfile::Builder::new().prefix(".thumbnail-").permissions(as_usual).tempfile_in(folder)?;
    beside.write_all(content)?;
    beside.persist(target)?;
    Ok(())
}

/// Shows itself only where stderr is a terminal.
fn progress(pictures: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures {eta}");
    ProgressBar::new(pictures as u64).with_style(style.expect("the template is a constant"))
}

fn complain(path: &Path, reason: impl std::fmt::Display) {
    eprintln!("thumbnails: {}: {reason}", path.display());
}

const LONGEST_SIDE: u32 = 128;
