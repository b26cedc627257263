//! The figures, and how they are shown.
use std::fmt::Write as _;

pub(crate) struct Row {
    pub(crate) ask: &'static str,
    pub(crate) count: usize,
    pub(crate) unit: fn(f64) -> String,
    pub(crate) text: &'static str,
}

/// What was seen, by row and column.
pub(crate) struct Table {
    columns: usize,
    cells: Vec<Vec<f64>>,
}

impl Table {
    pub(crate) fn new(columns: usize) -> Self {
        Table { columns, cells: vec![Vec::new(); columns * crate::ROWS.len()] }
    }

    pub(crate) fn add(&mut self, row: usize, column: usize, seen: Vec<f64>) {
        self.cells[row * self.columns + column].extend(seen);
    }

    fn median(&self, row: usize, column: usize) -> Option<f64> {
        median(&self.cells[row * self.columns + column])
    }

    pub(crate) fn markdown(&self, rows: &[Row], names: &[String]) -> String {
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for (number, row) in rows.iter().enumerate() {
            let cells = (0..self.columns).map(|column| self.median(number, column).map_or("—".into(), row.unit));
            let _ = writeln!(text, "| {} | {} |", row.text, cells.collect::<Vec<String>>().join(" | ")); // it is a String
        }
        text
    }

    /// Ours, the first column, beside the best of the Python ones, and beside the floor, the last one.
    pub(crate) fn ratios(&self) -> String {
        let of = |ask: &str, column| {
            let row = crate::ROWS.iter().position(|row| row.ask == ask).expect("it is asked");
            self.median(row, column).unwrap_or(f64::NAN)
        };
        let best = |ask| (1..self.columns - 1).map(|column| of(ask, column)).fold(f64::NAN, f64::max);
        let copies = of("echo", self.columns - 1) + of("round_trip", 0);
        [
            format!("jobs submitted one by one: {:.1} times the best of Python", of("submit", 0) / best("submit")),
            format!(
                "jobs by `map`: {:.0} times the best of Python in chunks of one",
                of("map", 0) / best("map_single")
            ),
            format!("jobs by `map`: {:.2} times the best of Python in its best chunks", of("map", 0) / best("map")),
            format!("64 MiB there and back: {:.2} of two copies and a round trip", of("echo", 0) / copies),
        ]
        .join("\n")
    }
}

fn median(seen: &[f64]) -> Option<f64> {
    let mut sorted = seen.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[n / 2]),
        n => Some(f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])),
    }
}

pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} ms", s * 1e3),
    }
}

pub(crate) fn rate(jobs: f64) -> String {
    match jobs {
        n if n < 1e6 => format!("{:.1} k/s", n / 1e3),
        n => format!("{:.2} M/s", n / 1e6),
    }
}

pub(crate) fn mebibytes(mebibytes: f64) -> String {
    format!("{mebibytes:.1} MiB")
}
