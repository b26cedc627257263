//! What does `TEAMSTER_LOG` print? One line an event on stderr, remote ones with actor and pid.
use std::cell::Cell;
use std::fmt::{self, Write};
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::follow::FollowLayer;
use super::{REMOTE, now_us, targets, variable};

/// Prints events on stderr as `TEAMSTER_LOG` says, if it is set and the program has no subscriber.
pub(crate) fn install_in_root() {
    install(None);
}

/// The same where `TEAMSTER_LOG` says nothing, as these directives do.
#[cfg(feature = "tls")]
pub(crate) fn install_in_agent(directives: &str) {
    install(Some(directives));
}

fn install(directives: Option<&str>) {
    let text = variable().or_else(|| directives.map(str::to_owned));
    let Some(text) = text.filter(|_| !tracing::dispatcher::has_been_set()) else { return };
    let (targets, unreadable) = targets(&text);
    let own = FollowLayer.with_filter(targets.clone());
    let targets = targets.with_target(REMOTE, LevelFilter::TRACE); // filtered where they come from
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .event_format(OneLine)
        .with_filter(targets);
    // An error means that another thread was faster: its subscriber is as good.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer).with(own));
    if let Some(problem) = unreadable {
        tracing::warn!("{problem}");
    }
}

/// Runs `act`, for whose events [`OneLine`] prints this time: a line may have been on its way for a while.
pub(super) fn with_time_of(time_us: u64, act: impl FnOnce()) {
    let _restore = Restore(TIME_US.replace(Some(time_us)));
    act();
}

struct Restore(Option<u64>);

impl Drop for Restore {
    fn drop(&mut self) {
        TIME_US.set(self.0);
    }
}

thread_local! {
    static TIME_US: Cell<Option<u64>> = const { Cell::new(None) };
}

/// `2026-11-24T05:39:59.000123Z  INFO frank@4711 my_crate::work: outer:inner: message a=1 b=2`
pub(super) struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut values = Values { is_remote: metadata.target() == REMOTE, ..Values::default() };
        event.record(&mut values);
        write_time(&mut out, TIME_US.get().unwrap_or_else(now_us))?;
        write_level(&mut out, *metadata.level())?;
        if values.is_remote {
            write!(out, " {}@{} {}: ", values.actor, values.pid, values.target)?;
            if !values.spans.is_empty() {
                write!(out, "{}: ", values.spans)?;
            }
        } else {
            write!(out, " {}: ", metadata.target())?;
            for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
                write!(out, "{}: ", span.name())?;
            }
        }
        // One line an event: a line's end inside is shown as such.
        writeln!(out, "{}{}", values.message.replace('\n', "\\n"), values.others.replace('\n', "\\n"))
    }
}

/// An event's values: those that a remote line has, and all others.
#[derive(Default)]
struct Values {
    is_remote: bool,
    message: String,
    actor: String,
    pid: String,
    target: String,
    spans: String,
    others: String,
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            "actor" if self.is_remote => self.actor = text,
            "pid" if self.is_remote => self.pid = text,
            "target" if self.is_remote => self.target = text,
            "spans" if self.is_remote => self.spans = text,
            "fields" if self.is_remote => self.others = format!(" {text}"),
            name => write!(self.others, " {name}={text}").expect("a String takes all"),
        }
    }
}

fn write_level(out: &mut Writer<'_>, level: Level) -> fmt::Result {
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    match out.has_ansi_escapes() {
        true => write!(out, " \x1b[{colour}m{level:>5}\x1b[0m"),
        false => write!(out, " {level:>5}"),
    }
}

/// As RFC 3339 has it, in UTC.
pub(super) fn write_time(out: &mut impl Write, time_us: u64) -> fmt::Result {
    let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The date of a day after 1970-01-01: `civil_from_days` of Howard Hinnant's "chrono-Compatible
/// Low-Level Date Algorithms", for days that are not negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // counted from 0000-03-01, so that a leap day ends its year
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}
