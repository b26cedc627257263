//! How much may a client take?
use std::fmt;
use std::str::FromStr;

/// What one client may take on a host, all its actors together.
///
/// Prints and parses as `actors=8,memory=2G,cpu=1.5`; what is left out is as by default.
///
/// # Examples
///
/// ```
/// use teamster::agent::Limits;
///
/// let limits: Limits = "memory=512M,actors=4".parse()?;
/// assert_eq!((limits.actors, limits.memory, limits.cpu), (4, Some(512 << 20), None));
/// assert_eq!(limits.to_string(), "actors=4,memory=512M");
/// # Ok::<(), teamster::agent::LimitsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Actors at a time; those that they start themselves don't count. Default: 64.
    pub actors: u32,
    /// Bytes of memory. Where they are used up, the kernel kills one of its processes. Default: as many as there are.
    pub memory: Option<u64>,
    /// Processors, in hundredths at least. Default: as many as there are.
    pub cpu: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { actors: 64, memory: None, cpu: None }
    }
}

impl Limits {
    /// They can't be kept by counting.
    pub(super) fn need_groups(&self) -> bool {
        self.memory.is_some() || self.cpu.is_some()
    }
}

/// A text that says no limits.
///
/// # Examples
///
/// ```
/// use teamster::agent::Limits;
///
/// let error = "memory=lots".parse::<Limits>().unwrap_err();
/// assert_eq!(error.to_string(), "\"memory=lots\" is no limit: actors=N, memory=BYTES (K, M, G or T may follow) and cpu=PROCESSORS are");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit: actors=N, memory=BYTES (K, M, G or T may follow) and cpu=PROCESSORS are")]
pub struct LimitsError(String);

impl FromStr for Limits {
    type Err = LimitsError;

    fn from_str(text: &str) -> Result<Self, LimitsError> {
        let mut limits = Limits::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || LimitsError(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            match name {
                "actors" => limits.actors = value.parse().map_err(|_| wrong())?,
                "memory" => limits.memory = Some(bytes(value).ok_or_else(wrong)?),
                "cpu" => limits.cpu = Some(processors(value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(limits)
    }
}

/// Letters behind a number of bytes, each for 1024 of the one before.
const UNITS: &str = "KMGT";

fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().next_back().and_then(|last| UNITS.find(last.to_ascii_uppercase()));
    let shift = unit.map_or(0, |unit| 10 * (unit as u32 + 1));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

fn processors(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|count| (0.01..=10_000.0).contains(count))
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actors={}", self.actors)?;
        if let Some(bytes) = self.memory {
            let shift = (0..=4).rev().find(|unit| bytes % (1 << (10 * unit)) == 0).unwrap_or(0);
            write!(f, ",memory={}", bytes >> (10 * shift))?;
            f.write_str(if shift == 0 { "" } else { &UNITS[shift - 1..shift] })?;
        }
        if let Some(count) = self.cpu {
            write!(f, ",cpu={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_they_print() {
        for text in
            ["actors=64", "actors=0", "actors=7,memory=1025,cpu=0.5", "actors=1,memory=3K", "actors=1,memory=2T,cpu=16"]
        {
            assert_eq!(text.parse::<Limits>().map(|limits| limits.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("".parse(), Ok(Limits::default()));
        assert_eq!(
            "memory=1g, cpu=2".parse(),
            Ok(Limits { memory: Some(1 << 30), cpu: Some(2.0), ..Limits::default() })
        );
    }

    #[test]
    fn what_is_no_limit_is_told() {
        let wrong = [
            "actors",
            "actors=-1",
            "actors=x",
            "memory=0",
            "memory=G",
            "memory=99999999999T",
            "cpu=0",
            "cpu=nan",
            "disk=1",
        ];
        for text in wrong {
            assert!(text.parse::<Limits>().is_err(), "{text}");
        }
    }
}
