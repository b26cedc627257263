//! The raw side of large jobs: memory that two processes have mapped, and a byte over a socket that tells of it.
#![allow(unsafe_code, reason = "memory that two processes have mapped")]
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::Result;
use crate::measure::micros;
use crate::raw_calls::start;
use crate::raw_processes::{Nest, RawChild, connect};

/// Bytes there, and as many back.
pub(crate) const LARGE: usize = 64 << 20;

/// A child that copies what it is told of into the second half of the memory.
pub(crate) struct Memory {
    line: UnixStream,
    _child: RawChild,
    memory: &'static mut [u8],
    /// Removed with it.
    file: PathBuf,
}

/// Both halves. It stays for as long as the bench runs.
fn map(path: &Path) -> Result<&'static mut [u8]> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(2 * LARGE as u64)?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping of a file that nobody shortens; the other side writes while we wait for it.
    Ok(unsafe {
        std::slice::from_raw_parts_mut(
            mmap(std::ptr::null_mut(), 2 * LARGE, protection, flags, &file, 0)?.cast(),
            2 * LARGE,
        )
    })
}

impl Memory {
    pub(crate) async fn start(nest: &Nest) -> Result<Self> {
        let (mut line, child) = start(nest, "memory", None)?;
        // Memory and no disk, as a memfd is; and found by a name, so that no descriptor has to be handed over.
        let file = PathBuf::from(format!("/dev/shm/teamster-bench-{}", std::process::id()));
        let memory = map(&file)?;
        let path = file.as_os_str().as_encoded_bytes();
        line.write_u32(path.len() as u32).await?;
        line.write_all(path).await?;
        Ok(Memory { line, _child: child, memory, file })
    }

    /// From the first copy until the last byte is back.
    pub(crate) async fn round_trip(&mut self, bytes: &[u8]) -> Result<f64> {
        let begin = Instant::now();
        self.memory[..LARGE].copy_from_slice(bytes);
        self.line.write_u8(1).await?;
        self.line.read_u8().await?;
        let time = micros(begin.elapsed());
        assert_eq!(self.memory[LARGE + 1], bytes[1], "it is what was sent");
        Ok(time)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file); // it is in memory, and ends with the machine at the latest
    }
}

pub(crate) fn child(role: &str) -> Option<Result<()>> {
    (role == "memory").then(|| {
        let mut line = connect()?;
        line.write_all(&[1])?; // it is there
        let mut len = [0; 4];
        line.read_exact(&mut len)?;
        let mut path = vec![0; u32::from_be_bytes(len) as usize];
        line.read_exact(&mut path)?;
        let memory = map(Path::new(std::str::from_utf8(&path)?))?;
        while line.read_exact(&mut [0]).is_ok() {
            let (there, back) = memory.split_at_mut(LARGE);
            back.copy_from_slice(there);
            line.write_all(&[1])?;
        }
        Ok(())
    })
}
