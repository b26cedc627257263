//! What does an actor have to do at a moment?
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec;
use super::frame::Encoding;

/// How much an actor has to do at a moment, as its control thread tells: a stuck one tells it too.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let frank = an.start_actor("frank").await?;
/// let trees = teamster::discovery::trees()?;
/// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
/// let loads = own.loads()?;
/// let franks = loads.iter().find(|load| load.actor == frank.aid().uuid()).expect("it tells");
/// assert_eq!(franks.in_flight, 0); // it serves nobody
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Load {
    /// Whose it is.
    pub actor: Uuid,
    /// Calls and contexts of others that have ended here since it began.
    pub served: u64,
    /// Those that it serves now.
    pub in_flight: u64,
    /// Its own in other actors that have not ended.
    pub waits_for: u64,
    /// Bytes that wait on its lines until the other side takes them.
    pub queued_bytes: u64,
    /// Bytes of memory that its process holds (its resident set).
    #[serde(default)]
    pub rss_bytes: u64,
    /// The processor time that its process has taken since its start.
    #[serde(default)]
    pub cpu: Duration,
    /// How long those took that it has served while somebody looked.
    pub latencies: Latencies,
}

impl Load {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_into(self, Encoding::Named, &mut bytes).expect("numbers always encode");
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes).ok()
    }
}

/// How long calls took: how many in each of a hundred classes, four between a time and its double.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use teamster::discovery::Latencies;
///
/// let mut latencies = Latencies::default();
/// for micros in [90, 100, 110, 40_000] {
///     latencies.add(Duration::from_micros(micros));
/// }
/// let median = latencies.quantile(0.5).expect("there are some");
/// assert!(median > Duration::from_micros(80) && median < Duration::from_micros(130));
/// assert!(latencies.quantile(1.0).expect("there are some") > Duration::from_millis(30));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// How many in each class, as far as there are any.
    counts: Vec<u64>,
}

impl Latencies {
    pub(crate) fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut counts: Vec<u64> = counts.into_iter().take(CLASSES).collect();
        counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        Latencies { counts }
    }

    /// One more call, that took so long.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut latencies = teamster::discovery::Latencies::default();
    /// latencies.add(std::time::Duration::from_millis(3));
    /// assert_eq!(latencies.count(), 1);
    /// ```
    pub fn add(&mut self, took: Duration) {
        let class = class_of(took);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
    }

    /// How many calls these are.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(teamster::discovery::Latencies::default().count(), 0);
    /// ```
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those that came after an earlier look at the same actor.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let mut latencies = teamster::discovery::Latencies::default();
    /// latencies.add(Duration::from_millis(3));
    /// let before = latencies.clone();
    /// latencies.add(Duration::from_secs(3));
    /// assert_eq!(latencies.since(&before).count(), 1);
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        Latencies::of(self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)))
    }

    /// The time that this share of the calls kept within, from 0 to 1; right to a fifth. `None`: there were none.
    ///
    /// # Examples
    ///
    /// ```
    /// let latencies = teamster::discovery::Latencies::default();
    /// assert_eq!(latencies.quantile(0.99), None);
    /// ```
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut passed = 0;
        let reaches = |held: &u64| {
            passed += held;
            passed >= wanted
        };
        self.counts.iter().position(reaches).map(end_of)
    }
}

/// The class that a time is counted in: its highest bit in microseconds, and the two below that.
pub(crate) fn class_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < 4 {
        return micros as usize;
    }
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    (((octave - 1) * 4) as usize + quarter as usize).min(CLASSES - 1)
}

/// The longest time of a class.
fn end_of(class: usize) -> Duration {
    let (octave, quarter) = (class / 4 + 1, class as u64 % 4);
    let end = match octave {
        1 => quarter + 1,
        _ => (quarter + 5) << (octave - 2),
    };
    Duration::from_micros(end)
}

/// Up to an hour; what takes longer is in the last one.
pub(crate) const CLASSES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_ends_where_the_next_one_begins() {
        for class in 0..CLASSES - 1 {
            let end = end_of(class);
            assert_eq!(class_of(end), class + 1, "{end:?}");
            assert_eq!(class_of(end - Duration::from_micros(1)), class, "{end:?}");
        }
        assert_eq!(class_of(Duration::MAX), CLASSES - 1);
        assert_eq!(class_of(Duration::ZERO), 0);
    }

    #[test]
    fn a_quantile_is_right_to_a_fifth() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|micros| latencies.add(Duration::from_micros(micros)));
        for share in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let (told, really) = (latencies.quantile(share).unwrap().as_secs_f64() * 1e6, share * 1000.0);
            assert!(told >= really && told <= really * 1.25, "{share}: {told} for {really}");
        }
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_micros(3));
        let before = latencies.clone();
        latencies.add(Duration::from_secs(2));
        let since = latencies.since(&before);
        assert_eq!((since.count(), since.quantile(0.0)), (1, latencies.quantile(1.0)));
        assert_eq!(before.since(&latencies).count(), 0, "another actor has its place");
    }

    #[test]
    fn it_travels() {
        let mut load = Load {
            actor: Uuid::from_u128(7),
            served: 1,
            in_flight: 2,
            waits_for: 3,
            queued_bytes: 4,
            rss_bytes: 5,
            cpu: Duration::from_millis(6),
            latencies: Latencies::default(),
        };
        load.latencies.add(Duration::from_millis(1));
        assert_eq!(Load::decode(&load.encode()), Some(load));
        assert_eq!(Load::decode(&[0xc1]), None);
    }
}
