//! What does debug mode cost while nobody is stopped, and how long until the prompt is there?
#![allow(unsafe_code, reason = "the prompt needs a terminal: openpty")]
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use teamster::rpc;

use crate::measure::micros;
use crate::{Result, machine};

/// Calls of one sample.
const CALLS: u64 = 20_000_000;

#[inline(never)]
fn paused(n: u64) -> u64 {
    teamster::pause!(n);
    n.wrapping_mul(3)
}

#[inline(never)]
fn bare(n: u64) -> u64 {
    n.wrapping_mul(3)
}

/// Nanoseconds of a call with a `pause!` that is off.
pub(crate) fn paused_call() -> f64 {
    a_call(paused)
}

/// The same without.
pub(crate) fn bare_call() -> f64 {
    a_call(bare)
}

fn a_call(call: impl Fn(u64) -> u64) -> f64 {
    let begin = Instant::now();
    for n in 0..CALLS {
        black_box(call(black_box(n)));
    }
    micros(begin.elapsed()) * 1e3 / CALLS as f64
}

/// Never ready.
struct Waits(u64);

impl Future for Waits {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        self.0 = black_box(self.0.wrapping_mul(3));
        Poll::Pending
    }
}

/// Nanoseconds of a poll of a task that a dump could ask where it waits.
pub(crate) fn wrapped_poll() -> f64 {
    a_poll(pin!(teamster::__private::traced_alone(Waits(1))))
}

/// The same of one that nobody could.
pub(crate) fn bare_poll() -> f64 {
    a_poll(pin!(Waits(1)))
}

#[inline(never)]
fn a_poll(mut task: Pin<&mut dyn Future<Output = ()>>) -> f64 {
    let mut cx = Context::from_waker(Waker::noop());
    let begin = Instant::now();
    for _ in 0..CALLS {
        let _pending = black_box(task.as_mut().poll(&mut cx));
    }
    micros(begin.elapsed()) * 1e3 / CALLS as f64
}

/// What the child at the terminal is started with.
pub(crate) const CRASHES: &str = "RATIOS_CRASHES";

#[rpc]
async fn crash(prices: Vec<u32>, at: usize) -> u32 {
    println!("{MARK}{}.", machine::now_ns());
    prices[at]
}

const MARK: &str = "panics at nanosecond ";

/// A tree whose one armed actor panics.
pub(crate) async fn crashes() -> std::result::Result<(), teamster::Error> {
    teamster::open_nursery(async |an| {
        let armed = an.actor("armed").debug(true).stdout(teamster::Output::Inherit).start().await?;
        Ok(armed.run(crash(vec![1, 2, 3], 12)).await.map(drop)?)
    })
    .await
}

/// Milliseconds from the panic until the prompt stands in the terminal.
pub(crate) fn stop_to_prompt() -> Result<f64> {
    let (mut keys, screen) = terminal()?;
    let stdio = || screen.try_clone().map(Stdio::from);
    let mut root = Command::new("setsid")
        .arg("--ctty")
        .arg(std::env::current_exe()?)
        .env(CRASHES, "1")
        .env("TERM", "xterm")
        .env_remove("TEAMSTER_DEBUG")
        .stdin(stdio()?)
        .stdout(stdio()?)
        .stderr(stdio()?)
        .spawn()?;
    drop(screen);
    let shown = read_until(&mut keys, "(root/armed) ")?;
    let there = machine::now_ns();
    use std::io::Write;
    keys.write_all(b"q\r")?;
    // A terminal whose other side is closed gives an error at its end.
    let _ = keys.read_to_end(&mut Vec::new());
    root.wait()?;
    let (_, rest) = shown.split_once(MARK).ok_or("the actor did not say when it panics")?;
    let panicked: u64 = rest.split('.').next().unwrap_or_default().parse()?;
    Ok((there - panicked) as f64 / 1e6)
}

fn read_until(keys: &mut File, wanted: &str) -> Result<String> {
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    while !shown.contains(wanted) {
        let read = keys.read(&mut buffer).map_err(|error| format!("no prompt: {error}: {shown}"))?;
        shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(shown)
}

/// A pseudo-terminal: where a person would type, and what the program is given.
fn terminal() -> Result<(File, OwnedFd)> {
    let (mut keys, mut screen) = (-1, -1);
    // SAFETY: it fills two descriptors, which are ours from then on; the rest may be null.
    let opened = unsafe {
        libc::openpty(&raw mut keys, &raw mut screen, std::ptr::null_mut(), std::ptr::null(), std::ptr::null())
    };
    if opened != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: they were just opened, and nobody else knows of them.
    unsafe {
        libc::fcntl(keys, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(screen, libc::F_SETFD, libc::FD_CLOEXEC);
        Ok((File::from_raw_fd(keys), OwnedFd::from_raw_fd(screen)))
    }
}
