//! The raw side of everything about processes: std alone, one byte for what we send a frame for.
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use crate::measure::micros;
use crate::{Result, machine};

/// Set in a raw child's environment: what it is to do.
pub(crate) const ROLE: &str = "RATIOS_RAW";
const CPU: &str = "RATIOS_CPU";
const SOCKET: &str = "RATIOS_SOCKET";
const PARENT: &str = "RATIOS_PARENT";

/// Where raw children connect back to.
pub(crate) struct Nest {
    folder: TempDir,
    listener: UnixListener,
}

/// A raw child and the line that it has opened. Its end is waited for.
pub(crate) struct RawChild {
    process: Child,
    line: Option<UnixStream>,
}

impl Nest {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listener = UnixListener::bind(folder.path().join("parent"))?;
        Ok(Nest { folder, listener })
    }

    /// Starts a child and waits for its first byte.
    pub(crate) fn start(&self, role: &str, cpu: Option<usize>) -> Result<RawChild> {
        let process = self.spawn(role, cpu)?;
        let line = self.first_byte()?;
        Ok(RawChild { process, line: Some(line) })
    }

    fn spawn(&self, role: &str, cpu: Option<usize>) -> Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.env(ROLE, role).env(SOCKET, self.folder.path().join("parent"));
        if let Some(cpu) = cpu {
            command.env(CPU, cpu.to_string());
        }
        Ok(command.spawn()?)
    }

    fn first_byte(&self) -> Result<UnixStream> {
        let (mut line, _) = self.listener.accept()?;
        line.read_exact(&mut [0])?;
        Ok(line)
    }

    /// From posix_spawn to the first byte.
    pub(crate) fn spawn_time(&self) -> Result<f64> {
        let begin = Instant::now();
        let child = self.start("byte", None)?;
        let time = begin.elapsed();
        child.end()?;
        Ok(micros(time))
    }

    /// The same for `count` siblings, started one after the other by one thread: it is the
    /// children that take the time.
    pub(crate) fn spawn_many_time(&self, count: usize) -> Result<f64> {
        let begin = Instant::now();
        let processes = (0..count).map(|_| self.spawn("byte", None)).collect::<Result<Vec<_>>>()?;
        let lines = (0..count).map(|_| self.first_byte()).collect::<Result<Vec<_>>>()?;
        let time = begin.elapsed();
        drop(lines);
        for mut process in processes {
            process.wait()?;
        }
        Ok(micros(time))
    }

    /// From one byte until the child has exited and is reaped.
    pub(crate) fn cancel_time(&self) -> Result<f64> {
        let mut child = self.start("byte", None)?;
        let begin = Instant::now();
        child.line()?.write_all(b"q")?;
        child.process.wait()?;
        Ok(micros(begin.elapsed()))
    }

    /// One byte to a thread of a child whose other thread spins, and back.
    pub(crate) fn acknowledge_time(&self) -> Result<f64> {
        let mut child = self.start("busy", None)?;
        let begin = Instant::now();
        child.line()?.write_all(b"q")?;
        child.line()?.read_exact(&mut [0])?;
        let time = begin.elapsed();
        child.end()?;
        Ok(micros(time))
    }

    /// From the error in one leaf of a tree of 1 + 7 + 42 until all are reaped.
    pub(crate) fn teardown_time(&self) -> Result<f64> {
        let inbox = Inbox::bind(self.folder.path().join("root"))?;
        let branches = inbox.grow("branch", BRANCHES)?;
        branches.tell(0, FAIL)?;
        let failed = loop {
            if let Some(failed) = inbox.hear()?.strip_prefix(ERROR) {
                break u64::from_le_bytes(failed.try_into()?);
            }
        };
        branches.end()?;
        let gone = machine::now_ns();
        std::fs::remove_file(&inbox.path)?;
        Ok((gone - failed) as f64 / 1e3)
    }
}

impl RawChild {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Takes the line out, for an async owner.
    pub(crate) fn take_line(&mut self) -> Result<UnixStream> {
        Ok(self.line.take().ok_or("the line was taken before")?)
    }

    fn line(&mut self) -> Result<&mut UnixStream> {
        Ok(self.line.as_mut().ok_or("the line was taken before")?)
    }

    fn end(mut self) -> Result<()> {
        self.line = None;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for RawChild {
    fn drop(&mut self) {
        self.line = None; // the child exits at the end of its line
        // Nothing can be done about a child that can't be waited for.
        let _ = self.process.wait();
    }
}

/// Connects back to the parent, pinned as it wants.
pub(crate) fn connect() -> Result<UnixStream> {
    if let Some(cpu) = std::env::var_os(CPU) {
        machine::pin_process(&[cpu.to_string_lossy().parse()?])?;
    }
    Ok(UnixStream::connect(environment(SOCKET)?)?)
}

fn environment(name: &str) -> Result<PathBuf> {
    Ok(std::env::var_os(name).ok_or_else(|| format!("{name} is not set"))?.into())
}

/// What a raw child of this file does. `None`: the role is not of this file.
pub(crate) fn child(role: &str) -> Option<Result<()>> {
    Some(match role {
        "byte" => byte(),
        "busy" => busy(),
        "idle" => idle(),
        "branch" => branch(),
        "leaf" => leaf(),
        _ => return None,
    })
}

/// Says one byte, and goes when it hears one.
fn byte() -> Result<()> {
    let mut line = connect()?;
    line.write_all(b"b")?;
    let _byte_or_end = line.read(&mut [0])?;
    Ok(())
}

/// One thread spins on the second processor, the other one echoes.
fn busy() -> Result<()> {
    let mut line = connect()?;
    let spins = Arc::new(AtomicBool::new(false));
    let spinner = Arc::clone(&spins);
    std::thread::spawn(move || {
        if machine::pin_thread(1).is_ok() {
            spinner.store(true, Ordering::Release);
        }
        loop {
            std::hint::spin_loop();
        }
    });
    while !spins.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    line.write_all(b"b")?;
    let mut heard = [0];
    line.read_exact(&mut heard)?;
    line.write_all(&heard)?;
    let _byte_or_end = line.read(&mut heard)?;
    Ok(())
}

/// An idle tokio process with one socket.
fn idle() -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let line = connect()?;
    line.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut line = tokio::net::UnixStream::from_std(line)?;
        line.write_all(b"b").await?;
        let _byte_or_end = line.read(&mut [0]).await?;
        Ok(())
    })
}

// The tree. Everybody has one datagram socket, so one blocking `recv` hears parent and children.

pub(crate) const BRANCHES: usize = 7;
pub(crate) const LEAVES: usize = 6;

const READY: &[u8] = b"r";
const FAIL: &[u8] = b"f";
const QUIT: &[u8] = b"q";
/// Followed by the nanosecond at which it happened.
const ERROR: &[u8] = b"e";

struct Inbox {
    socket: UnixDatagram,
    path: PathBuf,
}

struct Brood {
    children: Vec<(Child, UnixDatagram)>,
}

impl Inbox {
    fn bind(path: PathBuf) -> Result<Self> {
        Ok(Inbox { socket: UnixDatagram::bind(&path)?, path })
    }

    fn hear(&self) -> Result<Vec<u8>> {
        let mut word = [0; 16];
        let length = self.socket.recv(&mut word)?;
        Ok(word[..length].to_vec())
    }

    /// Starts children and waits until each is ready.
    fn grow(&self, role: &str, count: usize) -> Result<Brood> {
        let mut started = Vec::new();
        for number in 0..count {
            let path = self.path.with_added_extension(number.to_string());
            let mut command = Command::new("/proc/self/exe");
            command.env(ROLE, role).env(SOCKET, &path).env(PARENT, &self.path);
            started.push((command.spawn()?, path));
        }
        for _ in 0..count {
            self.hear()?;
        }
        let children = started.into_iter().map(|(child, path)| Ok((child, connected(&path)?)));
        Ok(Brood { children: children.collect::<Result<_>>()? })
    }
}

impl Brood {
    fn tell(&self, number: usize, word: &[u8]) -> Result<()> {
        self.children[number].1.send(word)?;
        Ok(())
    }

    /// Ends all, at once, and waits for each.
    fn end(mut self) -> Result<()> {
        for (_, line) in &self.children {
            line.send(QUIT)?;
        }
        for (child, _) in &mut self.children {
            child.wait()?;
        }
        Ok(())
    }
}

fn connected(path: &Path) -> Result<UnixDatagram> {
    let line = UnixDatagram::unbound()?;
    line.connect(path)?;
    Ok(line)
}

fn branch() -> Result<()> {
    die_with_parent()?;
    let inbox = Inbox::bind(environment(SOCKET)?)?;
    let parent = connected(&environment(PARENT)?)?;
    let mut leaves = Some(inbox.grow("leaf", LEAVES)?);
    parent.send(READY)?;
    loop {
        let word = inbox.hear()?;
        if word == FAIL {
            leaves.as_ref().ok_or("told to fail after the end")?.tell(0, FAIL)?;
        } else if word == QUIT {
            leaves.take().map_or(Ok(()), Brood::end)?;
            return Ok(std::fs::remove_file(&inbox.path)?);
        } else {
            leaves.take().map_or(Ok(()), Brood::end)?;
            parent.send(&word)?;
        }
    }
}

fn leaf() -> Result<()> {
    die_with_parent()?;
    let inbox = Inbox::bind(environment(SOCKET)?)?;
    let parent = connected(&environment(PARENT)?)?;
    parent.send(READY)?;
    while inbox.hear()? == FAIL {
        let word = [ERROR, &machine::now_ns().to_le_bytes()].concat();
        parent.send(&word)?;
    }
    Ok(std::fs::remove_file(&inbox.path)?)
}

/// A datagram socket has no end of line, so a killed bench would leave the tree behind.
fn die_with_parent() -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}
