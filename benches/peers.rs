//! How do our worker processes compare with other pools, on the same machine, in the same minute?
//!
//! `benches/peers/run [--quick]` prints one table; `cargo bench --bench peers` does so with the `python3` that is there. Each pool
//! lives in a process of its own, with two workers, and is asked by lines on its stdin: a measure, and how often. The others stand
//! still meanwhile. Rounds alternate, and each figure is the median of all rounds.

#[path = "peers/ours.rs"]
mod ours;
#[path = "peers/side.rs"]
mod side;
#[path = "peers/table.rs"]
mod table;
#[path = "peers/threads.rs"]
mod threads;

use std::process::ExitCode;
use std::time::Instant;

use side::Side;
use table::{Row, Table};

type Result<T> = std::result::Result<T, teamster::BoxError>;

fn main() -> ExitCode {
    let _guard = teamster::init();
    let ended = match std::env::var(side::ROLE).as_deref() {
        Ok(ours::NAME) => ours::serve(),
        Ok(threads::NAME) => threads::serve(),
        _ => compare(std::env::args().skip(1)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked of each pool, in the order of the table.
const ROWS: &[Row] = &[
    Row {
        ask: "start",
        count: 3,
        unit: table::time,
        text: "a pool of one worker, until its first empty job has answered",
    },
    Row { ask: "round_trip", count: 300, unit: table::time, text: "an empty job, one at a time" },
    Row { ask: "submit", count: 4000, unit: table::rate, text: "empty jobs, 4,000 submitted one by one" },
    Row { ask: "map_single", count: 4000, unit: table::rate, text: "empty jobs, `map` of 4,000 in chunks of one" },
    Row {
        ask: "map",
        count: 100_000,
        unit: table::rate,
        text: "empty jobs, `map` of 100,000 in the chunks that suit it best",
    },
    Row { ask: "echo", count: 2, unit: table::time, text: "64 MiB there and back" },
    Row { ask: "idle", count: 0, unit: table::mebibytes, text: "memory with two idle workers: the sum of PSS" },
    Row {
        ask: "peak",
        count: 1,
        unit: table::mebibytes,
        text: "memory at its highest, 64 MiB there and back: the sum of the peaks of RSS",
    },
];

/// The row that is measured once.
const IDLE: usize = 6;

fn compare(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut rounds = 9;
    for argument in arguments {
        match argument.as_str() {
            "--bench" => {} // cargo adds it
            "--quick" => rounds = 3,
            other => return Err(format!("{other} is no option; there is --quick").into()),
        }
    }
    let begin = Instant::now();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let mut sides = [
        Side::of_this_program(ours::NAME)?,
        Side::of_python("trio-parallel", "trio_side.py")?,
        Side::of_python("ProcessPoolExecutor", "executor_side.py")?,
        Side::of_python("multiprocessing.Pool", "pool_side.py")?,
        Side::of_this_program(threads::NAME)?,
    ];
    let mut table = Table::new(sides.len());
    for (column, side) in sides.iter_mut().enumerate() {
        side.ask("submit", 200)?; // its two workers are there from now on, and warm
        table.add(IDLE, column, side.pss_mebibytes()?); // what comes later makes them grow
    }
    for _ in 0..rounds {
        for (row, asked) in ROWS.iter().enumerate() {
            for (column, side) in sides.iter_mut().enumerate() {
                let seen = match asked.ask {
                    "idle" => vec![], // that is known
                    "peak" => side.peak_mebibytes()?,
                    ask => side.ask(ask, asked.count)?,
                };
                table.add(row, column, seen);
            }
        }
    }
    let names: Vec<String> = sides.iter().map(Side::title).collect();
    println!("{}", table.markdown(ROWS, &names));
    println!("{}", table.ratios());
    for side in sides {
        side.end()?;
    }
    let load_after = std::fs::read_to_string("/proc/loadavg")?;
    let loads = [&load, &load_after].map(|load| load.split(' ').next().unwrap_or_default().to_owned());
    println!(
        "{rounds} rounds in {:.0?} on {} processors; load {} before and {} after",
        begin.elapsed(),
        std::thread::available_parallelism()?,
        loads[0],
        loads[1],
    );
    Ok(())
}
