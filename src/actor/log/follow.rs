//! Who outside of a tree reads its log lines as they come?
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use super::terminal::write_time;
use super::{LogLine, LogRing, Origin, REMOTE, SILENT, line_of, silence};
use crate::actor::current::with_current;
use crate::msg::codec;
use crate::msg::ident::Aid;

/// Those who follow a root of this process.
static FOLLOWED: RwLock<Vec<Followed>> = RwLock::new(Vec::new());

/// How many these are: a line that nobody follows costs a look at this.
static COUNT: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone)]
struct Followed {
    root: Aid,
    ring: Arc<LogRing>,
}

/// One who follows a tree, until it is dropped. What it does not take in time is dropped, the oldest first, and counted.
pub(crate) struct Follower {
    ring: Arc<LogRing>,
    more: Arc<Notify>,
}

impl Follower {
    pub(crate) fn of(root: &Aid) -> Self {
        let ring = Arc::new(LogRing::new(root.clone()));
        let more = Arc::new(Notify::new());
        let wakes = Arc::clone(&more);
        ring.set_notify(Box::new(move || wakes.notify_one()));
        let mut followed = FOLLOWED.write();
        followed.push(Followed { root: root.clone(), ring: Arc::clone(&ring) });
        COUNT.store(followed.len(), Ordering::Relaxed);
        Follower { ring, more }
    }

    /// The next lines, of so many bytes in all, but at least one.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn next(&self, max_bytes: usize) -> Vec<Bytes> {
        loop {
            let batch = self.ring.pop_batch(max_bytes);
            if !batch.is_empty() {
                return batch;
            }
            self.more.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followed = FOLLOWED.write();
        followed.retain(|other| !Arc::ptr_eq(&other.ring, &self.ring));
        COUNT.store(followed.len(), Ordering::Relaxed);
    }
}

/// A line of an actor below the root `root` has come, on the line of `from`.
pub(crate) fn offer(root: &Aid, from: &Aid, line: &[u8]) {
    if COUNT.load(Ordering::Relaxed) == 0 || line.len() > LONGEST_BYTES {
        return;
    }
    let Ok(mut decoded) = codec::decode::<LogLine<'_>>(line) else { return }; // its subscriber hears of that
    let bytes = match decoded.actor {
        Some(_) => Bytes::copy_from_slice(line),
        None => {
            decoded.actor = Some(Origin::of(from)); // a client that does not know its own name
            decoded.encode()
        }
    };
    for follower in followers().iter().filter(|follower| follower.root == *root) {
        follower.ring.push(bytes.clone());
    }
}

/// The lock is not held while a ring wakes its reader.
fn followers() -> Vec<Followed> {
    FOLLOWED.read().clone()
}

/// Offers the root's own lines, too.
pub(super) struct FollowLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for FollowLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if COUNT.load(Ordering::Relaxed) == 0 || SILENT.get() || event.metadata().target() == REMOTE {
            return; // those from below have been offered as they came
        }
        let _silence = silence(); // a field's `Debug` may log
        let here = with_current(|current| current.map(|current| current.actor.root.clone()));
        // Code of no actor belongs to whoever is followed.
        for Followed { root, ring } in
            followers().iter().filter(|one| here.as_ref().is_none_or(|here| one.root == *here))
        {
            ring.push(line_of(event, &context, Origin::of(root)).encode());
        }
    }
}

/// A log line of an actor, as [`Tree::follow_log`](crate::discovery::Tree::follow_log) gives it. Prints as
/// `TEAMSTER_LOG` has it.
///
/// # Examples
///
/// ```no_run
/// for tree in teamster::discovery::trees()? {
///     for record in tree.follow_log()? {
///         let record = record?;
///         println!("{}: {}", record.actor, record.message);
///     }
/// }
/// # Ok::<(), teamster::BoxError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogRecord {
    /// The name of the actor that logged it.
    pub actor: String,
    /// That actor's uuid.
    pub uuid: Uuid,
    /// The process id of that actor.
    pub pid: u32,
    /// How grave it is.
    pub level: Level,
    /// When it was logged.
    pub time: SystemTime,
    /// Where in the program: mostly a module.
    pub target: String,
    /// Its text.
    pub message: String,
    /// Its other values, by name.
    pub fields: Vec<(String, String)>,
    /// The names of the spans around it, outermost first.
    pub spans: Vec<String>,
}

impl LogRecord {
    /// `None`: that is no line.
    pub(crate) fn decode(line: &[u8]) -> Option<Self> {
        let line = codec::decode::<LogLine<'_>>(line).ok()?;
        let actor = line.actor?;
        Some(LogRecord {
            actor: actor.name.into_owned(),
            uuid: actor.uuid,
            pid: actor.pid,
            level: match line.level {
                1 => Level::ERROR,
                2 => Level::WARN,
                3 => Level::INFO,
                4 => Level::DEBUG,
                _ => Level::TRACE,
            },
            time: UNIX_EPOCH + Duration::from_micros(line.time_us),
            target: line.target.into_owned(),
            message: line.message.into_owned(),
            fields: line.fields.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
            spans: line.spans.into_iter().map(Cow::into_owned).collect(),
        })
    }
}

/// One line, whatever is in it, and nothing that a terminal would obey.
impl fmt::Display for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        write_time(f, u64::try_from(since.as_micros()).unwrap_or(u64::MAX))?;
        write!(f, " {:>5} {}@{} {}: ", self.level, OneLine(&self.actor), self.pid, OneLine(&self.target))?;
        if !self.spans.is_empty() {
            write!(f, "{}: ", OneLine(&self.spans.join(":")))?;
        }
        OneLine(&self.message).fmt(f)?;
        for (name, value) in &self.fields {
            write!(f, " {}={}", OneLine(name), OneLine(value))?;
        }
        Ok(())
    }
}

struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// A longer line is not followed: it would not fit into a message. Ours end at 64 KiB.
const LONGEST_BYTES: usize = 512 * 1024;
