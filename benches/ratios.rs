//! How far is teamster from hand-written code on the same machine, in the same minute?
//!
//! `cargo bench --bench ratios --features quic -- [--quick] [METRIC…]` prints one JSON line a metric. Each side is
//! a median, the two sides alternate, and both are pinned alike. The raw children are this binary.
//!
//! With `--features quic,etcd`, and where there is an `etcd`, a look-up there is measured too; with `asyncio`, hops to Python's tasks.

#[cfg(feature = "asyncio")]
#[path = "ratios/asyncio.rs"]
mod asyncio;
#[path = "ratios/debug.rs"]
mod debug;
#[cfg(feature = "etcd")]
#[path = "../tests/support/etcd.rs"]
mod etcd;
#[path = "ratios/machine.rs"]
mod machine;
#[path = "../examples/guest_loop/main_loop.rs"]
mod main_loop;
#[path = "ratios/measure.rs"]
mod measure;
#[path = "ratios/metrics.rs"]
mod metrics;
#[path = "ratios/ours.rs"]
mod ours;
#[path = "ratios/pools.rs"]
mod pools;
#[path = "ratios/python.rs"]
mod python;
#[path = "ratios/raw_calls.rs"]
mod raw_calls;
#[path = "ratios/raw_memory.rs"]
mod raw_memory;
#[path = "ratios/raw_processes.rs"]
mod raw_processes;
#[cfg(feature = "quic")]
#[path = "ratios/raw_quic.rs"]
mod raw_quic;
#[path = "ratios/raw_streams.rs"]
mod raw_streams;
#[cfg(feature = "tls")]
#[path = "ratios/raw_tls.rs"]
mod raw_tls;
#[cfg(feature = "tls")]
#[path = "ratios/ssh.rs"]
mod ssh;
#[path = "ratios/streams.rs"]
mod streams;

use std::process::ExitCode;
use std::time::Duration;

use measure::Budget;
use metrics::METRICS;

type Result<T> = std::result::Result<T, teamster::BoxError>;

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(raw_processes::ROLE) {
        raw_child(&role.to_string_lossy());
    }
    let _guard = teamster::init();
    if std::env::var_os(debug::CRASHES).is_some() {
        return ExitCode::from(crash_at_a_terminal());
    }
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ratios: {error}");
            ExitCode::FAILURE
        }
    }
}

fn crash_at_a_terminal() -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // It fails: that is what is looked at.
    runtime.is_ok_and(|runtime| runtime.block_on(debug::crashes()).is_err()).into()
}

#[cfg(feature = "tls")]
fn tls_child(role: &str) -> Option<Result<()>> {
    #[cfg(feature = "quic")]
    if let Some(ended) = raw_quic::child(role) {
        return Some(ended);
    }
    raw_tls::child(role)
}

#[cfg(not(feature = "tls"))]
fn tls_child(_role: &str) -> Option<Result<()>> {
    None
}

/// A raw child's whole life. It ends by `_exit`, as ours does.
fn raw_child(role: &str) -> ! {
    if let Err(error) = raw_calls::child(role)
        .or_else(|| raw_processes::child(role))
        .or_else(|| raw_streams::child(role))
        .or_else(|| raw_memory::child(role))
        .or_else(|| tls_child(role))
        .unwrap_or_else(|| Err(format!("no raw child is called {role}").into()))
    {
        eprintln!("raw {role}: {error}");
        machine::exit(1);
    }
    machine::exit(0)
}

fn has_etcd() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("etcd").is_file())
}

fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut budget = Budget::each(Duration::from_secs(10));
    let mut chosen = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "--bench" => {} // cargo adds it
            "--quick" => budget = Budget::each(Duration::from_millis(1200)),
            name => match METRICS.iter().find(|metric| metric.name == name) {
                Some(metric) => chosen.push(metric),
                None => {
                    let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
                    return Err(format!("no metric is called {name}; there are: {}", names.join(" ")).into());
                }
            },
        }
    }
    if chosen.is_empty() {
        chosen.extend(METRICS.iter().filter(|metric| !metric.name.ends_with("_etcd") || has_etcd()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for metric in chosen {
        let measured = runtime.block_on((metric.run)(budget)).map_err(|error| format!("{}: {error}", metric.name))?;
        println!("{}", measured.json(metric));
    }
    Ok(())
}
