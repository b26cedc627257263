//! How is it drawn?
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as Cells, Table};

use super::model::{Model, Row, Sort, Told};
use crate::text::{age, bytes};

/// Draws all of it, whatever the size.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    model.resized(usize::from(body.height.saturating_sub(1))); // the first one names the columns
    frame.render_widget(Line::from(summary(model)).bold(), head);
    frame.render_widget(Line::from(KEYS).dim(), foot);
    if model.rows.is_empty() {
        let text = if model.has_looked { "no trees are running" } else { "looking…" };
        return frame.render_widget(Line::from(text), body);
    }
    let sorted = model.sorted();
    let rows = sorted.into_iter().skip(model.scrolled).take(model.height).map(|row| cells(row, model.sort));
    let header = Cells::new(COLUMNS.map(|(name, _)| name)).style(Style::new().reversed());
    let table = Table::new(rows, COLUMNS.map(|(_, width)| width)).header(header).column_spacing(1);
    frame.render_widget(table, body);
}

fn summary(model: &Model) -> String {
    let told = model.rows.iter().filter_map(|row| row.told.as_ref());
    let (rate, in_flight) = told.fold((0.0, 0), |(rate, in_flight), told| {
        (rate + told.calls_per_second.unwrap_or(0.0), in_flight + told.in_flight)
    });
    let (trees, actors, sort) = (model.trees, model.rows.len(), model.sort.name());
    format!("trees {trees}  actors {actors}  calls/s {}  in flight {in_flight}  sorted by {sort}", number(rate))
}

fn cells(row: &Row, sort: Sort) -> Cells<'static> {
    let unknown = || "?".to_owned();
    let none = || "-".to_owned();
    let name = if sort == Sort::Tree { row.drawn.clone() } else { row.name.clone() };
    let told = |show: &dyn Fn(&Told) -> String| row.told.as_ref().map_or_else(unknown, show);
    let cells = [
        name,
        row.pid.to_string(),
        row.state.clone(),
        row.cpu_percent.map_or_else(unknown, |percent| format!("{percent:.1}")),
        row.rss_bytes.map_or_else(unknown, bytes),
        told(&|told| told.calls_per_second.map_or_else(none, number)),
        told(&|told| told.in_flight.to_string()),
        told(&|told| told.waits_for.to_string()),
        told(&|told| bytes(told.queued_bytes)),
        told(&|told| told.p50.map_or_else(none, short_time)),
        told(&|told| told.p99.map_or_else(none, short_time)),
        age(row.age),
    ];
    Cells::new(cells.map(Cell::from))
}

/// A rate in few digits.
fn number(rate: f64) -> String {
    match rate {
        0.0..10.0 if rate.fract() != 0.0 => format!("{rate:.1}"),
        ..10_000.0 => format!("{rate:.0}"),
        ..10_000_000.0 => format!("{:.0}k", rate / 1e3),
        _ => format!("{:.0}M", rate / 1e6),
    }
}

/// A time in two digits and a unit.
fn short_time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..10_000 => format!("{:.1}ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", time.as_secs_f64()),
    }
}

const KEYS: &str = "q quit  s sort: t tree, c cpu, m memory, r calls/s, l p99  ↑ ↓ PgUp PgDn scroll";

const COLUMNS: [(&str, Constraint); 12] = [
    ("NAME", Constraint::Min(12)),
    ("PID", Constraint::Length(8)),
    ("STATE", Constraint::Length(9)),
    ("CPU%", Constraint::Length(6)),
    ("RSS", Constraint::Length(5)),
    ("CALLS/S", Constraint::Length(7)),
    ("CALLS", Constraint::Length(6)),
    ("WAITS", Constraint::Length(6)),
    ("QUEUED", Constraint::Length(6)),
    ("P50", Constraint::Length(6)),
    ("P99", Constraint::Length(6)),
    ("AGE", Constraint::Length(7)),
];

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(model: &mut Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it is memory");
        terminal.draw(|frame| draw(frame, model)).expect("it is memory");
        terminal.backend().to_string()
    }

    #[test]
    fn numbers_and_times_are_short() {
        let rates = [(0.0, "0"), (0.5, "0.5"), (7.0, "7"), (123.4, "123"), (54_321.0, "54k"), (2e7, "20M")];
        for (rate, text) in rates {
            assert_eq!(number(rate), text);
        }
        let times = [(7, "7µs"), (1_500, "1.5ms"), (25_000, "25ms"), (3_200_000, "3.2s")];
        for (micros, text) in times {
            assert_eq!(short_time(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn an_actor_that_tells_nothing_has_question_marks_and_no_size_is_too_small() {
        let told = Told { in_flight: 7, p50: Some(Duration::from_micros(42)), ..Told::default() };
        let frank =
            Row { drawn: "└─ frank".into(), name: "frank".into(), pid: 17, told: Some(told), ..Row::default() };
        let silent = Row { drawn: "bob".into(), name: "bob".into(), ..Row::default() };
        let mut model = Model { rows: vec![frank, silent], has_looked: true, trees: 1, ..Model::default() };
        let text = drawn(&mut model, 120, 6);
        assert!(text.contains("└─ frank") && text.contains("42µs"), "{text}");
        let bob = text.lines().find(|line| line.contains("bob")).expect("he is there");
        assert_eq!(bob.matches('?').count(), 8, "{text}");
        for (width, height) in [(1, 1), (30, 2), (300, 100)] {
            drawn(&mut model, width, height);
        }
        assert!(drawn(&mut Model { has_looked: true, ..Model::default() }, 60, 4).contains("no trees are running"));
    }
}
