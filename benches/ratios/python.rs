//! A call into a Python program, beside the same exchange with asyncio alone.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use teamster::launch::Python;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Result;
use crate::machine::{self, ONE};
use crate::measure::{Budget, Measured, alternate, micros};

#[teamster::rpc(name = "python_side::add")]
async fn add(a: i64, b: i64) -> i64;

/// Round trips before the other side has its turn.
const TRIPS: usize = 200;

/// Python reads into a new buffer of 256 KiB. Whether malloc has the kernel map it and unmap it each time depends on what
/// it was asked for before: the raw side took 15 µs or 32 µs. With these it does not, on either side.
const MALLOC: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "4194304"), ("MALLOC_TRIM_THRESHOLD_", "8388608")];

/// `add(1, 2)` in a Python actor, and an echo of `[1, 2, 3]` in msgpack by asyncio: `raw` is "protocol" or "streams". Both by
/// the same interpreter, which `TEAMSTER_TEST_VENV` may name, and with what it has of `msgpack`. Without Python nothing is measured.
pub(crate) async fn round_trips(budget: Budget, raw: &str) -> Result<Measured> {
    let interpreter = interpreter();
    if !is_new_enough(&interpreter) {
        eprintln!("ratios: py_rpc_rtt needs Python 3.11 or later");
        return Ok(Measured::default());
    }
    machine::pin_process(ONE)?;
    let mut raw = Raw::start(&interpreter, raw).await?;
    let script = Python::script(beside("python_side.py")).interpreter(&interpreter);
    let measured = teamster::open_nursery(async |an| {
        let adder =
            MALLOC.into_iter().fold(an.actor("adder").python(script), |adder, (name, value)| adder.env(name, value));
        let adder = adder.start().await?;
        let measured = alternate(
            budget,
            async || {
                let mut times = Vec::with_capacity(TRIPS);
                for _ in 0..TRIPS {
                    let began = Instant::now();
                    let sum = adder.run(add(1, 2)).await?;
                    times.push(micros(began.elapsed()));
                    assert_eq!(sum, 3);
                }
                Ok(times)
            },
            async || raw.round_trips(TRIPS).await,
        );
        measured.await
    });
    let measured = measured.await?;
    drop(raw);
    machine::pin_process(machine::BOTH)?;
    Ok(measured)
}

fn interpreter() -> PathBuf {
    match std::env::var_os("TEAMSTER_TEST_VENV") {
        Some(venv) => Path::new(&venv).join("bin/python"),
        None => "python3".into(),
    }
}

fn is_new_enough(interpreter: &Path) -> bool {
    let asked = Command::new(interpreter).args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).status();
    asked.is_ok_and(|status| status.success())
}

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ratios").join(name)
}

/// A Python process that sends back what it hears, decoded and encoded anew.
struct Raw {
    line: UnixStream,
    child: Child,
    _folder: TempDir,
}

impl Raw {
    async fn start(interpreter: &Path, how: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("rp-").tempdir()?;
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path)?;
        let child = Command::new(interpreter)
            .arg(beside("python_side.py"))
            .arg(&path)
            .arg(how)
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("python/src"))
            .envs(MALLOC)
            .stdin(Stdio::null())
            .spawn()?;
        let (line, _addr) = listener.accept().await?;
        Ok(Raw { line, child, _folder: folder })
    }

    async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        const REQUEST: [u8; 8] = [4, 0, 0, 0, 0x93, 1, 2, 3];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.line.write_all(&REQUEST).await?;
            let mut answer = [0; REQUEST.len()];
            self.line.read_exact(&mut answer).await?;
            times.push(micros(began.elapsed()));
            assert_eq!(REQUEST, answer, "an echo is what was said");
        }
        Ok(times)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It may have ended by itself; it is ours, and nobody else waits for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
