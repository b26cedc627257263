//! What is a figure: medians of two sides that alternated.
use std::time::{Duration, Instant};

use crate::Result;
use crate::metrics::Metric;

/// How long one metric may take.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    time: Duration,
}

impl Budget {
    pub(crate) fn each(time: Duration) -> Self {
        Budget { time }
    }

    pub(crate) fn time(&self) -> Duration {
        self.time
    }
}

/// What was seen of one metric, both sides in the metric's unit.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) ours: Vec<f64>,
    pub(crate) raw: Vec<f64>,
}

/// Which way round the ratio is, so that a smaller one is always better.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Better {
    /// ours / raw.
    Less,
    /// raw / ours.
    More,
    /// Ours alone counts, and its ratio is to one.
    Absolute,
}

impl Measured {
    pub(crate) fn json(&self, metric: &Metric) -> String {
        let (ours, raw) = (median(&self.ours), median(&self.raw));
        let ratio = match metric.better {
            Better::Less => ours / raw,
            Better::More => raw / ours,
            Better::Absolute => ours,
        };
        let ratio = if ratio.is_finite() { format!("{ratio:.3}") } else { "null".into() };
        format!(
            r#"{{"metric":"{}","ours":{ours:.2},"raw":{raw:.2},"ratio":{ratio},"unit":"{}","n":{}}}"#,
            metric.name,
            metric.unit,
            self.ours.len(),
        )
    }
}

/// Takes a few samples of one side, then of the other, until the time is over: whatever the
/// machine does meanwhile, it does to both. The first round warms up and is not counted.
pub(crate) async fn alternate(
    budget: Budget,
    mut ours: impl AsyncFnMut() -> Result<Vec<f64>>,
    mut raw: impl AsyncFnMut() -> Result<Vec<f64>>,
) -> Result<Measured> {
    ours().await?;
    raw().await?;
    let mut measured = Measured::default();
    let end = Instant::now() + budget.time;
    while measured.ours.is_empty() || Instant::now() < end {
        measured.ours.extend(ours().await?);
        measured.raw.extend(raw().await?);
    }
    Ok(measured)
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
