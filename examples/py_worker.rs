//! A Python program does what numpy is there for, in an actor like any other.
//!
//! It needs numpy: `TEAMSTER_TEST_VENV=/path/to/venv cargo run --example py_worker`, or numpy beside the first `python3`.
use std::f32::consts::TAU;
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use teamster::launch::Python;

#[derive(Debug, Serialize, Deserialize)]
struct Spectrum {
    peak: usize,
    cleaned: Bytes,
}

#[teamster::rpc(name = "py_worker::spectrum")] // what `py_worker.py` has, as Rust sees it
async fn spectrum(samples: Bytes) -> Spectrum;

#[teamster::main]
async fn main() -> Result<(), teamster::Error> {
    let script = Python::script(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/py_worker.py"));
    let program = match std::env::var_os("TEAMSTER_TEST_VENV") {
        Some(venv) => script.venv(Path::new(&venv)),
        None => script,
    };
    teamster::open_nursery(async |an| {
        let numpy = an.actor("numpy").python(program).start().await?;
        // A tone of 440 cycles, four million samples of it, and a hum.
        let at = |n: usize| n as f32 / SAMPLES as f32 * TAU;
        let samples = (0..SAMPLES).map(|n| (440.0 * at(n)).sin() + 0.3 * (50.0 * at(n)).sin());
        let told = numpy.run(spectrum(samples.flat_map(f32::to_le_bytes).collect())).await?;
        println!("{} bytes there, {} back: the tone has {} cycles", SAMPLES * 4, told.cleaned.len(), told.peak);
        Ok(())
    })
    .await
}

const SAMPLES: usize = 1 << 22;
