//! How does an actor find out about itself? Its tasks tell, its lines are looked at, its threads are asked.
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::answer::{Answer, DialogNow, LineNow, TaskKind, TaskNow, ThreadNow, folded};
use super::places::{Modules, Place};
use super::threads::{self, Skip};
use super::{TASKS_WITHIN, THREADS_WITHIN};
use crate::actor::traces::{Origin, Told};
use crate::actor::{Actor, DataLine};
use crate::channel::look::Whose;

/// How long a line's lock may be held by somebody else: nobody runs code of the user's meanwhile.
const LOCK_WITHIN: Duration = Duration::from_millis(20);

/// One at a time in this process: a thread's stack is asked for in one place, and a task is asked once.
static LOOKING: Mutex<()> = Mutex::new(());

/// All that a dump says of this actor.
pub(super) fn look(actor: &Arc<Actor>, id: u64) -> Answer {
    let _alone = LOOKING.lock();
    let modules = Modules::here();
    let (tasks, unasked) = tasks(actor, &modules, Instant::now() + TASKS_WITHIN);
    let answer = Answer {
        tasks,
        unasked,
        lines: actor.living_lines().iter().map(|line| self::line(line)).collect(),
        threads: threads(&modules, Instant::now() + THREADS_WITHIN, Skip::Nothing),
        ..outline(actor, &modules, id)
    };
    answer.bounded()
}

/// Its tasks alone.
pub(super) fn look_at_tasks(actor: &Arc<Actor>, until: Instant) -> Answer {
    let _alone = LOOKING.lock();
    let modules = Modules::here();
    let (tasks, unasked) = tasks(actor, &modules, until);
    Answer { tasks, unasked, ..outline(actor, &modules, 0) }.bounded()
}

/// Its threads alone.
pub(super) fn look_at_threads(actor: &Arc<Actor>, until: Instant, skip: Skip) -> Answer {
    let _alone = LOOKING.lock();
    let modules = Modules::here();
    Answer { threads: threads(&modules, until, skip), ..outline(actor, &modules, 0) }.bounded()
}

/// The same of a process that may be no actor, with the modules that their places are in.
pub(super) fn threads_here(until: Instant, skip: Skip) -> (Vec<String>, Vec<ThreadNow>) {
    let _alone = LOOKING.lock();
    let modules = Modules::here();
    (modules.names(), threads(&modules, until, skip))
}

/// What is known without asking.
fn outline(actor: &Actor, modules: &Modules, id: u64) -> Answer {
    let metrics = actor.runtime.metrics();
    // A guest's tasks are none of the runtime's.
    let tasks = if actor.is_guest() { 0 } else { actor.tasks.len() };
    let known = tasks + actor.drivers.len();
    let workers = match actor.runtime.runtime_flavor() {
        tokio::runtime::RuntimeFlavor::CurrentThread => 0,
        _ => u32::try_from(metrics.num_workers()).unwrap_or(u32::MAX),
    };
    Answer {
        id,
        aid: actor.aid.clone(),
        parent: actor.parent.as_ref().map(|parent| parent.aid.uuid()),
        modules: modules.names(),
        workers,
        ends_for: actor.canceller().map(|canceller| canceller.to_string()),
        tasks: Vec::new(),
        unasked: 0,
        plain_tasks: metrics.num_alive_tasks().saturating_sub(known) as u64,
        lines: Vec::new(),
        threads: Vec::new(),
        left_out: 0,
    }
}

fn threads(modules: &Modules, until: Instant, skip: Skip) -> Vec<ThreadNow> {
    let places = |ips: Vec<usize>| ips.into_iter().map(|ip| modules.place(ip)).collect();
    let threads = threads::all(until, skip).into_iter();
    threads
        .map(|threads::ThreadNow { tid, name, state, ips }| ThreadNow { tid, name, state, stack: ips.map(places) })
        .collect()
}

fn tasks(actor: &Actor, modules: &Modules, until: Instant) -> (Vec<TaskNow>, u64) {
    let (told, unasked) = actor.traces.ask(until);
    let tasks = told.into_iter().map(|told| task(told, modules)).collect();
    (folded(tasks), unasked as u64)
}

fn task(told: Told, modules: &Modules) -> TaskNow {
    let stack = |ips: Vec<usize>| ips.into_iter().map(|ip| modules.place(ip)).collect::<Vec<Place>>();
    TaskNow {
        number: told.number,
        kind: match told.origin {
            Origin::Dialog { path, dialog, line } => {
                TaskKind::Dialog { path: path.to_owned(), dialog, peer: line.peer.clone() }
            }
            Origin::Nursery => TaskKind::Nursery,
            Origin::Task { label } => TaskKind::Task(label.to_owned()),
            Origin::CleanUp => TaskKind::CleanUp,
            Origin::End => TaskKind::End,
        },
        age_ms: u64::try_from(told.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        leaves: told.leaves.map(|leaves| leaves.into_iter().map(stack).collect()),
        thread: told.thread,
        within: told.within,
        alike: 0,
    }
}

fn line(line: &DataLine) -> LineNow {
    let Some(look) = line.look(LOCK_WITHIN) else {
        return LineNow { peer: line.peer.clone(), waiting_bytes: None, dialogs: Vec::new() };
    };
    let dialogs = look.open.into_iter().map(|open| {
        let (path, ours) = match open.whose {
            Whose::Ours { path, progress } => (path, Some(progress)),
            Whose::Theirs(scope) => (scope.label, None),
        };
        DialogNow { dialog: open.dialog, path: path.to_owned(), ours, context: open.context }
    });
    LineNow { peer: line.peer.clone(), waiting_bytes: Some(look.waiting_bytes), dialogs: dialogs.collect() }
}
