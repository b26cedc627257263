//! What does one actor say of itself in a dump? Addresses, not names: those the root looks up, once for all.
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::places::Place;
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::msg::ident::Aid;
use crate::proto::connection::Progress;
use crate::proto::dialog::Look;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The dump that asked.
    pub(crate) id: u64,
    pub(crate) aid: Aid,
    /// `None`: it is the root.
    pub(crate) parent: Option<Uuid>,
    /// What the modules of places are called; empty: the program.
    pub(crate) modules: Vec<String>,
    /// Worker threads of its runtime; 0: it has none but the one that it runs on.
    pub(crate) workers: u32,
    /// On whose behalf it ends.
    pub(crate) ends_for: Option<String>,
    pub(crate) tasks: Vec<TaskNow>,
    /// Tasks that were not asked, being too many.
    pub(crate) unasked: u64,
    /// Tasks of its runtime that were started past us, by `tokio::spawn`.
    pub(crate) plain_tasks: u64,
    pub(crate) lines: Vec<LineNow>,
    pub(crate) threads: Vec<ThreadNow>,
    /// What was left out of all this to make it short enough.
    pub(crate) left_out: u64,
}

/// A stack, from the inside out.
pub(crate) type Stack = Vec<Place>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskNow {
    pub(crate) number: u64,
    pub(crate) kind: TaskKind,
    pub(crate) age_ms: u64,
    /// Where it waits. `None`: it did not let go of its thread, or its turn did not come.
    pub(crate) leaves: Option<Vec<Stack>>,
    /// The thread that polls it.
    pub(crate) thread: Option<i32>,
    /// The task that polls it.
    pub(crate) within: Option<u64>,
    /// How many others wait at the very same places.
    pub(crate) alike: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum TaskKind {
    Dialog { path: String, dialog: u64, peer: Aid },
    Nursery,
    Task(String),
    CleanUp,
    End,
}

/// A line to another actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LineNow {
    pub(crate) peer: Aid,
    /// Bytes that wait for the peer to read. `None`: the line's state was not to be had in time.
    pub(crate) waiting_bytes: Option<usize>,
    pub(crate) dialogs: Vec<DialogNow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DialogNow {
    pub(crate) dialog: u64,
    pub(crate) path: String,
    /// Of one that this actor has opened; the others it serves.
    pub(crate) ours: Option<Progress>,
    /// Of a context.
    pub(crate) context: Option<Look>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThreadNow {
    pub(crate) tid: i32,
    pub(crate) name: String,
    /// As in proc(5).
    pub(crate) state: char,
    /// `None`: it did not answer.
    pub(crate) stack: Option<Stack>,
}

/// Bytes of the longest answer: a thousand tasks, more than anybody reads.
const MAX_BYTES: usize = 256 * 1024;

impl Answer {
    /// The same, short enough to be sent.
    pub(crate) fn bounded(self) -> Self {
        self.bounded_to(MAX_BYTES)
    }

    pub(crate) fn bounded_to(mut self, max_bytes: usize) -> Self {
        while self.encoded_bytes() > max_bytes {
            let dialogs = self.lines.iter().map(|line| line.dialogs.len()).sum();
            let most = [self.tasks.len(), dialogs, self.lines.len(), self.threads.len()].into_iter().max();
            self.left_out += match most {
                Some(most) if most == self.tasks.len() => halve(&mut self.tasks),
                Some(most) if most == dialogs => self.lines.iter_mut().map(|line| halve(&mut line.dialogs)).sum(),
                Some(most) if most == self.lines.len() => halve(&mut self.lines),
                _ => halve(&mut self.threads),
            };
            if most <= Some(1) {
                break; // what is left is names
            }
        }
        self
    }

    fn encoded_bytes(&self) -> usize {
        let mut bytes = Vec::new();
        // What can't be encoded is found out by whoever sends it.
        let _ = codec::encode_into(self, Encoding::Named, &mut bytes);
        bytes.len()
    }
}

fn halve<T>(list: &mut Vec<T>) -> u64 {
    let kept = list.len() / 2;
    let left_out = list.len() - kept;
    list.truncate(kept);
    left_out as u64
}

/// Those that wait at the very same places are told once, with how many they are.
pub(crate) fn folded(tasks: Vec<TaskNow>) -> Vec<TaskNow> {
    let mut folded: Vec<TaskNow> = Vec::new();
    let mut places: HashMap<(String, Vec<Stack>), usize> = HashMap::new();
    for task in tasks {
        let place = task.leaves.as_ref().map(|leaves| (task.kind.label().to_owned(), leaves.clone()));
        let first = place.map(|place| *places.entry(place).or_insert(folded.len()));
        match first.and_then(|first| folded.get_mut(first)) {
            Some(first) => first.alike += 1, // the oldest comes first
            None => folded.push(task),
        }
    }
    folded
}

impl TaskKind {
    fn label(&self) -> &str {
        match self {
            TaskKind::Dialog { path, .. } => path,
            TaskKind::Nursery => "nursery",
            TaskKind::Task(label) => label,
            TaskKind::CleanUp => "clean-up",
            TaskKind::End => "end",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn answer(aid: Aid, parent: Option<Uuid>) -> Answer {
        Answer {
            id: 1,
            aid,
            parent,
            modules: vec![String::new()],
            workers: 0,
            ends_for: None,
            tasks: Vec::new(),
            unasked: 0,
            plain_tasks: 0,
            lines: Vec::new(),
            threads: Vec::new(),
            left_out: 0,
        }
    }

    pub(in super::super) fn task(number: u64, leaves: Option<Vec<Stack>>) -> TaskNow {
        let kind = TaskKind::Task("task".into());
        TaskNow { number, kind, age_ms: 5, leaves, thread: None, within: None, alike: 0 }
    }

    #[test]
    fn a_long_answer_is_cut_and_says_so() {
        let mut long = answer(Aid::new("root", Uuid::from_u128(1), 1, "here"), None);
        let stack: Stack = (0..100).map(|offset| Place(0, 0x1_0000_0000 + offset)).collect();
        long.tasks = (0..10_000).map(|number| task(number, Some(vec![stack.clone()]))).collect();
        let cut = long.bounded();
        assert!(cut.encoded_bytes() <= MAX_BYTES, "{}", cut.encoded_bytes());
        assert!(!cut.tasks.is_empty());
        assert_eq!(cut.tasks.len() as u64 + cut.left_out, 10_000);
    }

    #[test]
    fn tasks_at_the_same_place_are_told_once() {
        let here = || Some(vec![vec![Place(0, 7)]]);
        let tasks = vec![task(1, here()), task(2, here()), task(3, Some(Vec::new())), task(4, None), task(5, None)];
        let folded: Vec<(u64, u64)> = folded(tasks).iter().map(|task| (task.number, task.alike)).collect();
        assert_eq!(folded, [(1, 1), (3, 0), (4, 0), (5, 0)]);
    }
}
