//! How does a person read what an actor has said of itself?
use std::time::Duration;

use super::answer::{Answer, DialogNow, LineNow, Stack, TaskKind, TaskNow, ThreadNow};
use super::places::Place;
use super::symbols::{self, Doing, Symbol, Symbols};
use crate::msg::ident::Aid;
use crate::proto::connection::Progress;
use crate::proto::dialog::{HalfLook, Look};

/// The actor in one line.
pub(super) fn title(answer: &Answer) -> String {
    let mut title = name(&answer.aid);
    if let Some(canceller) = &answer.ends_for {
        title.push_str(&format!(", ending: {}", printable(canceller)));
    }
    title
}

pub(super) fn name(aid: &Aid) -> String {
    format!("{}, pid {}", printable(&aid.to_string()), aid.pid())
}

/// All that is below that line.
pub(super) fn lines(answer: &Answer, symbols: &mut dyn Symbols) -> Vec<String> {
    let mut lines = tasks(answer, symbols);
    for line in &answer.lines {
        lines.extend(line_of(line, answer));
    }
    lines.extend(threads(&answer.threads, &answer.modules, symbols));
    if answer.left_out > 0 {
        lines.push(format!("(too long: {} entries are left out)", answer.left_out));
    }
    lines
}

/// Looks up all names of an answer.
pub(super) fn look_up(answer: &Answer, symbols: &mut dyn Symbols) {
    let leaves = answer.tasks.iter().filter_map(|task| task.leaves.as_ref()).flatten();
    for stack in leaves.chain(answer.threads.iter().filter_map(|thread| thread.stack.as_ref())) {
        named(stack, &answer.modules, symbols);
    }
}

pub(super) fn tasks(answer: &Answer, symbols: &mut dyn Symbols) -> Vec<String> {
    let mut lines = Vec::new();
    for task in &answer.tasks {
        lines.push(task_line(task));
        match &task.leaves {
            None => lines.push(format!("   {}", unpolled(task, answer))),
            Some(leaves) if leaves.is_empty() => lines.push("   waits for nothing that would wake it".into()),
            Some(leaves) => {
                for (number, leaf) in leaves.iter().enumerate() {
                    let stack = named(leaf, &answer.modules, symbols);
                    lines.push(format!("   leaf {number}   {}", symbols::leaf(&stack)));
                }
            }
        }
    }
    if answer.unasked > 0 {
        lines.push(format!("{} more tasks, which were not asked", answer.unasked));
    }
    if answer.plain_tasks > 0 {
        lines.push(format!("{} tasks of tokio::spawn, which can't be asked", answer.plain_tasks));
    }
    lines
}

fn task_line(task: &TaskNow) -> String {
    let alike = match task.alike {
        0 => String::new(),
        alike => format!(", and {alike} more like it"),
    };
    let within = task.within.map(|within| format!(", in task {within}")).unwrap_or_default();
    let (what, age) = (what(&task.kind), age(Duration::from_millis(task.age_ms)));
    format!("task {}: {what}, for {age}{within}{alike}", task.number)
}

fn what(kind: &TaskKind) -> String {
    match kind {
        TaskKind::Dialog { path, dialog, peer } => {
            format!("{} #{dialog} for {}", printable(path), printable(&peer.to_string()))
        }
        TaskKind::Nursery => "a nursery".into(),
        TaskKind::Task(label) => format!("a {}", printable(label)),
        TaskKind::CleanUp => "a clean-up".into(),
        TaskKind::End => "the actor's end".into(),
    }
}

fn unpolled(task: &TaskNow, answer: &Answer) -> String {
    let thread = task.thread.map(|tid| match answer.threads.iter().find(|thread| thread.tid == tid) {
        Some(thread) => format!("{} ({tid})", printable(&thread.name)),
        None => tid.to_string(),
    });
    match thread {
        Some(thread) => format!("RUNNING or BLOCKED: it does not let go of thread {thread}"),
        None => "its turn does not come: its runtime is busy".into(),
    }
}

fn line_of(line: &LineNow, answer: &Answer) -> Vec<String> {
    let peer = printable(&line.peer.to_string());
    let Some(waiting_bytes) = line.waiting_bytes else {
        return vec![format!("line to {peer}: it is in use, or has ended")];
    };
    let mut lines: Vec<String> = line.dialogs.iter().filter_map(|dialog| dialog_line(dialog, line, answer)).collect();
    if waiting_bytes > 0 {
        lines.push(format!("line to {peer}: {waiting_bytes} bytes wait to be taken"));
    }
    lines
}

fn dialog_line(open: &DialogNow, line: &LineNow, answer: &Answer) -> Option<String> {
    let (path, dialog, peer) = (printable(&open.path), open.dialog, printable(&line.peer.to_string()));
    let what = match open.ours {
        Some(progress) => {
            let progress = match progress {
                Progress::Unanswered => "unanswered",
                Progress::Runs => "running there",
                Progress::Cancelled => "cancelled",
            };
            format!("calls {path} #{dialog} in {peer}: {progress}")
        }
        None => {
            let is_of = |task: &TaskNow| matches!(&task.kind, TaskKind::Dialog { dialog, peer, .. } if *dialog == open.dialog && *peer == line.peer);
            let has_task = answer.tasks.iter().any(|task| is_of(task) || task.alike > 0);
            if has_task && open.context.is_none() {
                return None; // the task has said it all
            }
            let first = if has_task { "" } else { ": in its first poll" };
            format!("serves {path} #{dialog} for {peer}{first}")
        }
    };
    Some(match &open.context {
        Some(context) => format!("{what}; {}", context_text(context)),
        None => what,
    })
}

fn context_text(context: &Look) -> String {
    let mut text = match (context.has_ended, context.is_cancelled, context.has_started) {
        (true, ..) => "ended".to_owned(),
        (false, true, _) => "cancelled from here".to_owned(),
        (false, false, true) => "started".to_owned(),
        (false, false, false) => "not started".to_owned(),
    };
    match context.ours {
        HalfLook::Unopened => {}
        HalfLook::Open => text.push_str(&format!("; sends, credit left {} bytes", context.may_send_bytes)),
        HalfLook::Stopped => text.push_str("; sends no more"),
    }
    match context.theirs {
        HalfLook::Unopened => {}
        HalfLook::Open => text.push_str(&format!("; receives, credit left {} bytes", context.may_come_bytes)),
        HalfLook::Stopped => text.push_str("; receives no more"),
    }
    if context.unread_bytes > 0 {
        text.push_str(&format!("; {} bytes unread", context.unread_bytes));
    }
    if context.dropped > 0 {
        text.push_str(&format!("; {} items dropped", context.dropped));
    }
    text
}

/// Those that are in the program's code, with their stacks; the others in one line.
pub(super) fn threads(threads: &[ThreadNow], modules: &[String], symbols: &mut dyn Symbols) -> Vec<String> {
    let mut lines = Vec::new();
    let mut idle = Vec::new();
    for thread in threads {
        let name = printable(&thread.name);
        let title = format!("thread {name} ({}), {}", thread.tid, state(thread.state));
        let Some(stack) = &thread.stack else {
            lines.push(format!("{title}: no answer"));
            continue;
        };
        match symbols::doing(&named(stack, modules, symbols)) {
            Doing::Idle if thread.state == 'R' => lines.push(format!("{title}: in no code of the program's")),
            Doing::Idle => idle.push(name),
            Doing::Busy { called, frames } => {
                lines.push(title);
                lines.extend(called.iter().chain(&frames).map(|frame| format!("   {frame}")));
            }
        }
    }
    if !idle.is_empty() {
        lines.push(format!("idle threads: {}", idle.join(", ")));
    }
    lines
}

/// What keeps an actor from ending, in a line or so: the threads that are busy, or where its tasks wait.
pub(super) fn stuck(answer: &Answer, symbols: &mut dyn Symbols) -> String {
    let mut parts = Vec::new();
    for stack in answer.threads.iter().filter_map(|thread| thread.stack.as_ref()) {
        if let Doing::Busy { called, frames } = symbols::doing(&named(stack, &answer.modules, symbols)) {
            let called = called.map(|called| format!(" ({called})")).unwrap_or_default();
            let mut frames = frames.into_iter();
            let innermost = frames.next().unwrap_or_default();
            let callers: String = frames.take(SHOWN_CALLERS).map(|frame| format!(", called from {frame}")).collect();
            parts.push(format!("{innermost}{called}{callers}"));
        }
    }
    for task in answer.tasks.iter().filter(|task| task.leaves.as_ref().is_some_and(Vec::is_empty)) {
        parts.push(format!("{}, which waits for nothing that would wake it", what(&task.kind)));
    }
    for leaf in answer.tasks.iter().filter_map(|task| task.leaves.as_ref()).flatten() {
        let place = symbols::leaf(&named(leaf, &answer.modules, symbols));
        if !place.is_empty() && !parts.contains(&place) {
            parts.push(place);
        }
    }
    parts.truncate(SHOWN_PARTS);
    parts.join("; ")
}

/// The same without names: what a look into the program's file makes of it.
pub(super) fn stuck_unnamed(answer: &Answer) -> String {
    let is_programs =
        |Place(module, _): &&Place| answer.modules.get(usize::from(*module)).is_some_and(String::is_empty);
    let mut parts = Vec::new();
    for stack in answer.threads.iter().filter_map(|thread| thread.stack.as_ref()).take(SHOWN_PARTS) {
        let places = stack.iter().filter(is_programs).take(SHOWN_PLACES);
        let places: Vec<String> = places.map(|Place(_, offset)| format!("{offset:#x}")).collect();
        parts.push(format!("the program at {}", places.join(", ")));
    }
    parts.join("; ")
}

/// What is told of one that is killed: callers of a function, threads or tasks, places without names.
const SHOWN_CALLERS: usize = 3;
const SHOWN_PARTS: usize = 4;
const SHOWN_PLACES: usize = 8;

/// What a letter of proc(5) means.
pub(super) fn state(letter: char) -> &'static str {
    match letter {
        'R' => "runs",
        'S' => "waits",
        'D' => "waits for a device",
        'T' => "stopped",
        't' => "stopped by a debugger",
        'Z' => "ended",
        _ => "in an unknown state",
    }
}

fn named(stack: &Stack, modules: &[String], symbols: &mut dyn Symbols) -> Vec<Symbol> {
    let mut named = Vec::with_capacity(stack.len());
    for Place(module, offset) in stack {
        let Some(module) = modules.get(usize::from(*module)) else { continue };
        let found = symbols.at(module, *offset);
        if found.is_empty() {
            let module = module.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("the program");
            named.push(Symbol { name: format!("{module}+{offset:#x}"), file: None, line: 0 });
        }
        named.extend(found);
    }
    named
}

fn age(age: Duration) -> String {
    match age.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", age.as_secs_f64()),
    }
}

/// Names are the user's: they must not move the terminal's cursor.
fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escaped).collect()
}
