//! Where do log lines go? A child keeps them in a ring for its parent, the root gives them to its own subscriber.
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::msg::ident::Aid;

pub(crate) mod follow;
mod terminal;
#[cfg(test)]
mod tests;

#[cfg(feature = "tls")]
pub(crate) use terminal::install_in_agent;
pub(crate) use terminal::install_in_root;

/// Sets the levels of a whole tree, over those of its actors: `info`, `my_crate=debug,info`, `off`.
const VARIABLE: &str = "TEAMSTER_LOG";

/// The target of a child's lines in the root's subscriber.
const REMOTE: &str = "teamster::remote";

/// A ring that this process's lines, and those of the actors below, leave by. Unset in a root.
static UPWARDS: OnceLock<Arc<LogRing>> = OnceLock::new();

/// What this child was told to send.
static OWN_DIRECTIVES: OnceLock<String> = OnceLock::new();

/// Has this process's events held in `ring`, and lines from below forwarded to it.
///
/// `TEAMSTER_LOG` wins over `directives`, which are the spec's. With neither, or `off`, nothing of
/// this process is formatted. If the program has a subscriber already, that one stays.
pub(crate) fn install_in_child(directives: Option<&str>, ring: Arc<LogRing>) {
    let ring = UPWARDS.get_or_init(|| ring).clone();
    let variable = variable();
    let Some(text) = variable.as_deref().or(directives) else { return };
    // Set once, like the ring: a process is one child.
    let _ = OWN_DIRECTIVES.set(text.to_owned());
    let (targets, unreadable) = targets(text);
    if targets.iter().all(|(_, level)| level == LevelFilter::OFF) && targets.default_level() == Some(LevelFilter::OFF) {
        return;
    }
    let layer = RingLayer { ring }.with_filter(targets);
    // An error means that the program has set its own subscriber, which is to stay.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    if let Some(problem) = unreadable {
        tracing::warn!("{problem}");
    }
}

/// What a child is told to send when its builder says nothing: what this child was told, or in a
/// root as much as its subscriber takes.
pub(crate) fn default_directives() -> String {
    OWN_DIRECTIVES.get().cloned().unwrap_or_else(|| LevelFilter::current().to_string())
}

/// What a child is told to send whose builder says `own`. `TEAMSTER_LOG` counts for the whole tree,
/// also for a child that does not inherit the variable.
pub(crate) fn directives_for(own: Option<&String>, default: Option<&String>) -> Option<String> {
    variable().or_else(|| own.or(default).cloned())
}

/// Takes a line from a child: forwards it, or gives it to this process's subscriber.
///
/// `aid` is the child on whose line it came: the origin is in the line itself, and stays.
pub(crate) fn emit(aid: &Aid, line: &[u8]) {
    pass_on(UPWARDS.get().map(|ring| &**ring), aid, line);
}

fn pass_on(upwards: Option<&LogRing>, aid: &Aid, line: &[u8]) {
    let Ok(mut decoded) = codec::decode::<LogLine<'_>>(line) else {
        tracing::warn!(target: "teamster::log", actor = %aid, "a malformed log line of {} bytes", line.len());
        return;
    };
    match upwards {
        Some(ring) if decoded.actor.is_some() => ring.push(Bytes::copy_from_slice(line)),
        Some(ring) => {
            decoded.actor = Some(Origin::of(aid)); // a client that does not know its own name
            ring.push(decoded.encode());
        }
        None => {
            let origin = decoded.actor.take().unwrap_or_else(|| Origin::of(aid));
            emit_here(&origin, &decoded);
        }
    }
}

/// Gives a line to the subscriber, through one of five callsites: its target can't be a new one each time.
fn emit_here(origin: &Origin<'_>, line: &LogLine<'_>) {
    macro_rules! emit_at {
        ($level:expr) => {
            tracing::event!(
                target: REMOTE,
                $level,
                actor = &*origin.name,
                pid = origin.pid,
                target = &*line.target,
                fields = line.fields_text(),
                spans = line.spans_text(),
                "{}",
                line.message
            )
        };
    }
    terminal::with_time_of(line.time_us, || match line.level {
        1 => emit_at!(Level::ERROR),
        2 => emit_at!(Level::WARN),
        3 => emit_at!(Level::INFO),
        4 => emit_at!(Level::DEBUG),
        _ => emit_at!(Level::TRACE),
    });
}

/// Sending a line makes no lines: events of this thread are dropped while the value lives.
///
/// Never held across an await.
pub(crate) fn silence() -> Silence {
    Silence { was: SILENT.replace(true) }
}

/// See [`silence`].
#[derive(Debug)]
pub(crate) struct Silence {
    was: bool,
}

impl Drop for Silence {
    fn drop(&mut self) {
        SILENT.set(self.was);
    }
}

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// The lines that wait for their way up: at most 1 MiB, and then the oldest go, counted.
///
/// Never waits for anything but its own short lock.
pub(crate) struct LogRing {
    aid: Aid,
    lines: Mutex<Lines>,
    notify: RwLock<Option<Box<dyn Fn() + Send + Sync>>>,
}

#[derive(Default)]
struct Lines {
    queue: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
}

impl LogRing {
    /// A ring for the lines of this actor and of those below it.
    pub(crate) fn new(aid: Aid) -> LogRing {
        LogRing { aid, lines: Mutex::default(), notify: RwLock::new(None) }
    }

    /// Adds an encoded line.
    pub(crate) fn push(&self, line: Bytes) {
        let mut lines = self.lines.lock();
        let was_empty = lines.queue.is_empty();
        lines.bytes += line.len();
        lines.queue.push_back(line);
        while lines.bytes > RING_BYTES {
            let oldest = lines.queue.pop_front().expect("bytes are counted only for lines in the queue");
            lines.bytes -= oldest.len();
            lines.dropped += 1;
        }
        drop(lines);
        if was_empty {
            self.notify();
        }
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        let lines = self.lines.lock();
        lines.queue.is_empty() && lines.dropped == 0
    }

    /// Takes the oldest lines, of `max_bytes` in all, but at least one. Empty: there is none.
    ///
    /// If lines were dropped, the first one says how many.
    pub(crate) fn pop_batch(&self, max_bytes: usize) -> Vec<Bytes> {
        let mut batch = Vec::new();
        let mut lines = self.lines.lock();
        let mut taken = 0;
        if lines.dropped > 0 {
            let line = self.dropped_line(std::mem::take(&mut lines.dropped));
            taken += line.len();
            batch.push(line);
        }
        while let Some(line) = lines.queue.pop_front_if(|line| batch.is_empty() || taken + line.len() <= max_bytes) {
            taken += line.len();
            lines.bytes -= line.len();
            batch.push(line);
        }
        batch
    }

    /// Sets what is called when the first line comes into an empty ring; at once if it is not empty.
    ///
    /// It is called on the thread that logs, whichever that is, and must not wait.
    pub(crate) fn set_notify(&self, act: Box<dyn Fn() + Send + Sync>) {
        *self.notify.write() = Some(act);
        let has_lines = !self.lines.lock().queue.is_empty();
        if has_lines {
            self.notify();
        }
    }

    fn notify(&self) {
        let _silence = silence();
        if let Some(act) = &*self.notify.read() {
            act();
        }
    }

    fn dropped_line(&self, count: u64) -> Bytes {
        let line = LogLine {
            actor: Some(Origin::of(&self.aid)),
            level: level_number(Level::WARN),
            time_us: now_us(),
            target: Cow::Borrowed("teamster::log"),
            message: Cow::Owned(format!("{count} log lines of {} were dropped", self.aid)),
            fields: Vec::new(),
            spans: Vec::new(),
            file: None,
            line: None,
        };
        line.encode()
    }
}

impl fmt::Debug for LogRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.lock();
        f.debug_struct("LogRing")
            .field("aid", &self.aid)
            .field("lines", &lines.queue.len())
            .field("dropped", &lines.dropped)
            .finish_non_exhaustive()
    }
}

/// One event, as it travels: a msgpack array of these fields in this order.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LogLine<'a> {
    /// Where it was logged. `None`: by the sender, who does not say more.
    #[serde(borrow)]
    actor: Option<Origin<'a>>,
    /// 1 for errors to 5 for traces.
    level: u8,
    /// Since 1970.
    time_us: u64,
    #[serde(borrow)]
    target: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The names of the spans around it, outermost first.
    spans: Vec<Cow<'a, str>>,
    file: Option<Cow<'a, str>>,
    line: Option<u32>,
}

/// The actor that logged.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Origin<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    uuid: Uuid,
    pid: u32,
}

impl<'a> Origin<'a> {
    fn of(aid: &'a Aid) -> Self {
        Origin { name: Cow::Borrowed(aid.name()), uuid: aid.uuid(), pid: aid.pid() }
    }
}

impl LogLine<'_> {
    fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        codec::encode_into(self, Encoding::Positional, &mut bytes).expect("strings and numbers always encode");
        bytes.into()
    }

    fn fields_text(&self) -> Option<String> {
        let pairs = self.fields.iter().map(|(name, value)| format!("{name}={value}"));
        (!self.fields.is_empty()).then(|| pairs.collect::<Vec<_>>().join(" "))
    }

    fn spans_text(&self) -> Option<String> {
        (!self.spans.is_empty()).then(|| self.spans.join(":"))
    }
}

/// Makes a line of each event that its filter lets through.
struct RingLayer {
    ring: Arc<LogRing>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RingLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if SILENT.get() || is_of_the_way_up(metadata.target(), metadata.level()) {
            return;
        }
        let _silence = silence(); // a field's `Debug` may log
        self.ring.push(line_of(event, &context, Origin::of(&self.ring.aid)).encode());
    }
}

/// An event of this process as it travels.
fn line_of<'a, S: Subscriber + for<'s> LookupSpan<'s>>(
    event: &Event<'a>,
    context: &Context<'_, S>,
    origin: Origin<'a>,
) -> LogLine<'a> {
    let metadata = event.metadata();
    let mut values = Values::default();
    event.record(&mut values);
    let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
    LogLine {
        actor: Some(origin),
        level: level_number(*metadata.level()),
        time_us: now_us(),
        target: metadata.target().into(),
        message: values.message.into(),
        fields: values.fields,
        spans: spans.map(|span| span.name().into()).collect(),
        file: metadata.file().map(Cow::Borrowed),
        line: metadata.line(),
    }
}

/// A line about sending a line would be sent, and so on for ever.
fn is_of_the_way_up(target: &str, level: &Level) -> bool {
    let is_ours = ["teamster::channel", "teamster::transport"].iter().any(|ours| target.starts_with(ours));
    is_ours && *level > Level::WARN
}

/// The values of one event, as text.
#[derive(Default)]
struct Values {
    message: String,
    fields: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    bytes: usize,
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format_args!("{value:?}"));
    }
}

impl Values {
    fn record(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = Bounded { text: String::new(), room: LINE_BYTES.saturating_sub(self.bytes) };
        // An error is the end of the room, or of a value that can't be printed: what there is, is kept.
        if text.write_fmt(value).is_err() {
            text.text.push('…');
        }
        self.bytes += text.text.len() + field.name().len();
        if field.name() == "message" {
            self.message = text.text;
        } else {
            self.fields.push((field.name().into(), text.text.into()));
        }
    }
}

/// Text up to a size; writing more is an error.
struct Bounded {
    text: String,
    room: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(self.room);
        self.text.push_str(&text[..end]);
        self.room -= end;
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The whole tree's directives, if the user has set them.
fn variable() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty())
}

/// Reads directives; if they can't be read, `info`, and the reason.
fn targets(text: &str) -> (Targets, Option<String>) {
    match text.trim().parse::<Targets>() {
        Ok(targets) => (targets, None),
        Err(error) => {
            let problem = format!("the log directives {text:?} can't be read ({error}): taking \"info\"");
            (Targets::new().with_default(LevelFilter::INFO), Some(problem))
        }
    }
}

fn level_number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Of all lines that wait. Over it, the oldest are dropped.
const RING_BYTES: usize = 1024 * 1024;

/// Of one line's values together. The rest is cut off.
const LINE_BYTES: usize = 64 * 1024;
