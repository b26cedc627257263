//! What is shown, in which order, and what does a key change?
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use teamster::discovery::{Latencies, Load, TreeActor};
use uuid::Uuid;

use crate::list::{drawn, state_text};
use crate::look::{Seen, cpu_percent};
use crate::text::printable;

/// All that is on the screen.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) sort: Sort,
    pub(super) rows: Vec<Row>,
    pub(super) trees: usize,
    /// Something was looked at: that nothing runs is known.
    pub(super) has_looked: bool,
    /// Rows above the window.
    pub(super) scrolled: usize,
    /// Rows of the window, as it was drawn last.
    pub(super) height: usize,
    pub(super) before: HashMap<Uuid, Before>,
}

/// One actor.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// With the lines of the tree before it.
    pub(super) drawn: String,
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) state: String,
    pub(super) cpu_percent: Option<f64>,
    pub(super) rss_bytes: Option<u64>,
    /// The rest it tells itself. `None`: it does not, being stopped.
    pub(super) told: Option<Told>,
    pub(super) age: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// `None`: it was seen for the first time.
    pub(super) calls_per_second: Option<f64>,
    pub(super) in_flight: u64,
    pub(super) waits_for: u64,
    pub(super) queued_bytes: u64,
    /// Half of the calls since the look before kept within the first, 99 of 100 within the second.
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

/// What an actor had told at the look before.
#[derive(Debug)]
pub(super) struct Before {
    at: Instant,
    cpu: Option<Duration>,
    served: Option<(u64, Latencies)>,
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// As the trees are.
    #[default]
    Tree,
    Cpu,
    Memory,
    Calls,
    Latency,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Tree => "tree",
            Sort::Cpu => "cpu",
            Sort::Memory => "memory",
            Sort::Calls => "calls/s",
            Sort::Latency => "p99",
        }
    }

    fn next(self) -> Self {
        match self {
            Sort::Tree => Sort::Cpu,
            Sort::Cpu => Sort::Memory,
            Sort::Memory => Sort::Calls,
            Sort::Calls => Sort::Latency,
            Sort::Latency => Sort::Tree,
        }
    }
}

/// What a key asks of who runs this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    Quit,
}

impl Model {
    pub(super) fn on_key(&mut self, key: KeyEvent) -> Wish {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('s') => self.sort_by(self.sort.next()),
            KeyCode::Char('t') => self.sort_by(Sort::Tree),
            KeyCode::Char('c') => self.sort_by(Sort::Cpu),
            KeyCode::Char('m') => self.sort_by(Sort::Memory),
            KeyCode::Char('r') => self.sort_by(Sort::Calls),
            KeyCode::Char('l') => self.sort_by(Sort::Latency),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-(self.height as isize)),
            KeyCode::PageDown => self.scroll(self.height as isize),
            KeyCode::Home => self.scrolled = 0,
            KeyCode::End => self.scroll(self.rows.len() as isize),
            _ => {}
        }
        Wish::GoOn
    }

    /// The trees as they were at this time.
    pub(super) fn on_look(&mut self, at: Instant, seen: Vec<Seen>) {
        self.has_looked = true;
        self.trees = seen.len();
        let mut before = HashMap::new();
        self.rows.clear();
        for seen in &seen {
            if seen.tree.actors.is_empty() {
                let state = seen.tree.process_state.map_or_else(|| "gone".into(), String::from);
                let (drawn, name) = ("?".to_owned(), "?".to_owned());
                self.rows.push(Row {
                    drawn,
                    name,
                    pid: seen.tree.pid,
                    state: format!("silent {state}"),
                    ..Row::default()
                });
            }
            for (drawn, actor) in drawn(&seen.tree) {
                let load = seen.load(actor);
                self.rows.push(self.row(at, drawn, actor, load));
                let served = load.map(|load| (load.served, load.latencies.clone()));
                before.insert(actor.aid.uuid(), Before { at, cpu: actor.cpu, served });
            }
        }
        self.before = before;
        self.sort_by(self.sort);
    }

    fn row(&self, at: Instant, drawn: String, actor: &TreeActor, load: Option<&Load>) -> Row {
        let before = self.before.get(&actor.aid.uuid());
        let seconds = before.map(|before| at.saturating_duration_since(before.at).as_secs_f64());
        let cpu = before.and_then(|before| actor.cpu?.checked_sub(before.cpu?));
        let cpu_percent = match (cpu, seconds) {
            (Some(cpu), Some(seconds)) if seconds > 0.0 => Some(100.0 * cpu.as_secs_f64() / seconds),
            _ => cpu_percent(actor), // for now: since its start
        };
        let told = load.map(|load| {
            let earlier = before.and_then(|before| before.served.as_ref());
            let rate = |(served, _): &(u64, _)| Some(load.served.saturating_sub(*served) as f64 / seconds?);
            let latencies = earlier.map(|(_, latencies)| load.latencies.since(latencies));
            Told {
                calls_per_second: earlier.and_then(rate),
                in_flight: load.in_flight,
                waits_for: load.waits_for,
                queued_bytes: load.queued_bytes,
                p50: latencies.as_ref().and_then(|latencies| latencies.quantile(0.5)),
                p99: latencies.as_ref().and_then(|latencies| latencies.quantile(0.99)),
            }
        });
        Row {
            drawn,
            name: printable(actor.aid.name()),
            pid: actor.aid.pid(),
            state: state_text(actor),
            cpu_percent,
            rss_bytes: actor.rss_bytes,
            told,
            age: actor.age,
        }
    }

    /// The rows stay in the order of the trees; [`Model::sorted`] gives another one.
    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.scroll(0);
    }

    /// The rows as they are to be shown, the largest first.
    pub(super) fn sorted(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        let told = |row: &Row| row.told.clone().unwrap_or_default();
        let key: Box<dyn Fn(&Row) -> f64> = match self.sort {
            Sort::Tree => return rows,
            Sort::Cpu => Box::new(|row| row.cpu_percent.unwrap_or(-1.0)),
            Sort::Memory => Box::new(|row| row.rss_bytes.map_or(-1.0, |bytes| bytes as f64)),
            Sort::Calls => Box::new(move |row| told(row).calls_per_second.unwrap_or(-1.0)),
            Sort::Latency => Box::new(move |row| told(row).p99.map_or(-1.0, |p99| p99.as_secs_f64())),
        };
        rows.sort_by(|one, other| key(other).total_cmp(&key(one)));
        rows
    }

    fn scroll(&mut self, rows: isize) {
        let last = self.rows.len().saturating_sub(self.height.max(1));
        self.scrolled = self.scrolled.saturating_add_signed(rows).min(last);
    }

    /// The window has so many rows now.
    pub(super) fn resized(&mut self, height: usize) {
        self.height = height;
        self.scroll(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(rows: impl IntoIterator<Item = Row>) -> Model {
        Model { rows: rows.into_iter().collect(), ..Model::default() }
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_sort_and_whoever_tells_nothing_comes_last() {
        let row = |name: &str, cpu, p99: Option<u64>| Row {
            name: name.into(),
            cpu_percent: cpu,
            told: p99.map(|millis| Told { p99: Some(Duration::from_millis(millis)), ..Told::default() }),
            ..Row::default()
        };
        let mut model = model([row("a", Some(1.0), None), row("b", Some(9.0), Some(3)), row("c", None, Some(40))]);
        let order = |model: &Model| model.sorted().iter().map(|row| row.name.clone()).collect::<String>();
        let cases = [('t', "abc"), ('c', "bac"), ('l', "cba"), ('s', "abc")]; // behind the last one is the first
        for (sort, wanted) in cases {
            assert_eq!(model.on_key(key(KeyCode::Char(sort))), Wish::GoOn);
            assert_eq!(order(&model), wanted, "{sort}");
        }
    }

    #[test]
    fn the_window_stays_within_the_rows() {
        let mut model = model((0..10).map(|_| Row::default()));
        model.resized(4);
        let cases = [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 5),
            (KeyCode::PageDown, 6),
            (KeyCode::Home, 0),
            (KeyCode::End, 6),
        ];
        for (code, wanted) in cases {
            model.on_key(key(code));
            assert_eq!(model.scrolled, wanted, "{code:?}");
        }
        model.resized(20);
        assert_eq!(model.scrolled, 0);
    }

    #[test]
    fn q_escape_and_ctrl_c_quit() {
        let mut model = model([]);
        for quits in
            [key(KeyCode::Char('q')), key(KeyCode::Esc), KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)]
        {
            assert_eq!(model.on_key(quits), Wish::Quit);
        }
    }
}
