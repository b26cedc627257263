//! A picture of the Mandelbrot set, its tiles computed by actors here or on several hosts.
//!
//! `cargo run --release --example mandelbrot -- OUT.png [--size WIDTHxHEIGHT] [--actors N] [--hosts A,B,C | --agents A,B,C]` writes a PNG. The tiles are
//! given out one by one, so that a slow host holds up nobody: the picture is the same, whoever has computed it.
//!
//! With `--hosts`, N actors (else one) are started by ssh on each of these, which need nothing but sshd. `--ssh-config FILE` has the
//! client read another configuration than `~/.ssh/config`. With `--agents` they are started by the agents of these hosts (`teamster serve`).
use std::ffi::OsStr;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use teamster::launch::Ssh;
use teamster::{ActorNursery, Portal, rpc};

/// The size of the whole picture, in pixels.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

/// A part of it, in pixels.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Tile {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// Computes a tile: a byte a pixel, row by row.
#[rpc]
async fn compute(of: Size, tile: Tile) -> Bytes {
    let mut pixels = Vec::with_capacity((tile.width * tile.height) as usize);
    for y in tile.top..tile.top + tile.height {
        pixels.extend((tile.left..tile.left + tile.width).map(|x| shade(of, x, y)));
        tokio::task::yield_now().await; // here a cancel takes effect
    }
    pixels.into()
}

/// How soon a point leaves the circle of radius 2 under z ↦ z² + c; those that stay are black.
fn shade(of: Size, x: u32, y: u32) -> u8 {
    let scale = 3.0 / f64::from(of.width.min(of.height).max(1));
    let re = (f64::from(x) - f64::from(of.width) / 2.0) * scale - 0.7;
    let im = (f64::from(y) - f64::from(of.height) / 2.0) * scale;
    let (mut zr, mut zi) = (0.0, 0.0);
    for step in 0..STEPS {
        if zr * zr + zi * zi > 4.0 {
            return 255 - (step * 255 / STEPS) as u8;
        }
        (zr, zi) = (zr * zr - zi * zi + re, 2.0 * zr * zi + im);
    }
    0
}

/// How long a point is followed.
const STEPS: u32 = 1000;

/// The sides of a tile, in pixels.
const TILE: u32 = 64;

struct Wanted {
    path: PathBuf,
    size: Size,
    /// None: here.
    hosts: Vec<String>,
    way: Way,
    /// On each of them.
    actors: usize,
    ssh_config: Option<PathBuf>,
}

/// What starts actors on another host.
#[derive(Clone, Copy)]
enum Way {
    Ssh,
    Agent,
}

#[teamster::main]
async fn main() -> ExitCode {
    let Some(wanted) = arguments() else {
        eprintln!(
            "usage: mandelbrot OUT.png [--size WIDTHxHEIGHT] [--actors N] [--hosts A,B,C [--ssh-config FILE] | --agents A,B,C]"
        );
        return ExitCode::from(2);
    };
    let drawn = draw(&wanted).await.map_err(|failure| format!("{failure:#}"));
    match drawn
        .and_then(|pixels| write(&wanted, &pixels).map_err(|error| format!("{}: {error}", wanted.path.display())))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mandelbrot: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<Wanted> {
    let (mut path, mut actors) = (None, None);
    let size = Size { width: 1024, height: 768 };
    let mut wanted =
        Wanted { path: PathBuf::new(), size, hosts: Vec::new(), way: Way::Ssh, actors: 1, ssh_config: None };
    let mut rest = std::env::args_os().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--size") => {
                let size = rest.next()?;
                let (width, height) = size.to_str()?.split_once('x')?;
                wanted.size = Size { width: width.parse().ok()?, height: height.parse().ok()? };
            }
            Some("--actors") => actors = Some(rest.next()?.to_str()?.parse().ok().filter(|&actors| actors > 0)?),
            Some(option @ ("--hosts" | "--agents")) => {
                wanted.hosts = rest.next()?.to_str()?.split(',').map(str::to_owned).collect();
                wanted.way = if option == "--agents" { Way::Agent } else { Way::Ssh };
            }
            Some("--ssh-config") => wanted.ssh_config = Some(rest.next()?.into()),
            Some(option) if option.starts_with('-') => return None,
            _ if path.is_some() => return None,
            _ => path = Some(argument.into()),
        }
    }
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let is_sensible = (1..=MAX_SIDE).contains(&wanted.size.width) && (1..=MAX_SIDE).contains(&wanted.size.height);
    wanted.actors = actors.unwrap_or_else(|| if wanted.hosts.is_empty() { cores() } else { 1 });
    wanted.path = path.filter(|_| is_sensible)?;
    Some(wanted)
}

/// The longest side, in pixels: the picture is made in memory.
const MAX_SIDE: u32 = 1 << 15;

/// Computes all tiles and puts them together.
async fn draw(wanted: &Wanted) -> Result<Vec<u8>, teamster::Error> {
    let size = wanted.size;
    teamster::open_nursery(async |an| {
        let places: Vec<Option<&str>> = match &wanted.hosts[..] {
            [] => vec![None; wanted.actors],
            names => names.iter().flat_map(|name| vec![Some(name.as_str()); wanted.actors]).collect(),
        };
        let starts = places.into_iter().enumerate().map(|(n, host)| start(an, n, host, wanted));
        let painters = try_join_all(starts).await?;
        let tiles = tiles(size);
        let bar = progress(tiles.len());
        let mut pixels = vec![0; size.width as usize * size.height as usize];
        // Whoever is free takes the next one, and has one more on its way meanwhile.
        let queue = std::sync::Mutex::new(tiles.into_iter());
        let next = || queue.lock().expect("nothing panics under this lock").next();
        let workers = painters.iter().flat_map(|painter| [painter, painter]).map(|painter| {
            stream::unfold((), move |()| async move {
                let tile = next()?;
                Some((painter.run(compute(size, tile)).await.map(|pixels| (tile, pixels)), ()))
            })
            .boxed_local()
        });
        let mut done = stream::select_all(workers);
        while let Some(painted) = done.next().await {
            let (tile, painted) = painted?;
            put(&mut pixels, size, tile, &painted);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(pixels)
    })
    .await
}

async fn start(
    an: &ActorNursery,
    number: usize,
    host: Option<&str>,
    wanted: &Wanted,
) -> Result<Portal, teamster::Error> {
    let name = format!("painter-{number}");
    let Some(host) = host else { return an.start_actor(&name).await };
    let painter = match wanted.way {
        Way::Agent => an.actor(&name).on(host),
        Way::Ssh => {
            let config = wanted.ssh_config.iter().flat_map(|config| [OsStr::new("-F"), config.as_os_str()]);
            an.actor(&name).launcher(Ssh::new(host).args(config))
        }
    };
    painter.start().await
}

fn tiles(of: Size) -> Vec<Tile> {
    let lefts = (0..of.width).step_by(TILE as usize);
    let tops = (0..of.height).step_by(TILE as usize);
    tops.flat_map(|top| lefts.clone().map(move |left| (left, top)))
        .map(|(left, top)| Tile { left, top, width: TILE.min(of.width - left), height: TILE.min(of.height - top) })
        .collect()
}

fn put(pixels: &mut [u8], of: Size, tile: Tile, painted: &[u8]) {
    for (row, line) in painted.chunks_exact(tile.width as usize).enumerate() {
        let begin = (tile.top as usize + row) * of.width as usize + tile.left as usize;
        pixels[begin..begin + line.len()].copy_from_slice(line);
    }
}

fn write(wanted: &Wanted, pixels: &[u8]) -> Result<(), png::EncodingError> {
    let file = BufWriter::new(File::create(&wanted.path)?);
    let mut encoder = png::Encoder::new(file, wanted.size.width, wanted.size.height);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()
}

/// Shows itself only where stderr is a terminal.
fn progress(tiles: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tiles {eta}");
    ProgressBar::new(tiles as u64).with_style(style.expect("the template is a constant"))
}
