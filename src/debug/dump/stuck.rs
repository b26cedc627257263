//! What was an actor busy with that had to be killed? It says so itself, shortly before.
//!
//! It sends places in its code, which takes a few milliseconds: to look them up is its parent's, for all of its children at once
//! and only once it is about to kill some.
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::answer::Answer;
use super::symbols::Own;
use super::threads::Skip;
use super::{keep, look, on_a_thread, text};
use crate::actor::Actor;
use crate::actor::control::Command;
use crate::msg::codec;
use crate::msg::frame::{Encoding, Frame};

/// How long all threads of the actor may take to answer, and then its tasks.
const ANSWERS_WITHIN: Duration = Duration::from_millis(50);
/// Bytes of what it sends, and of the text that comes of it.
const MAX_BYTES: usize = 16 * 1024;
const MAX_TEXT_BYTES: usize = 4 * 1024;
/// Children that wait for their names at a time: the others are told of without.
const MAX_WAITING: usize = 1_000;

/// This actor's time is almost over, and it has not ended. By its control thread.
pub(in crate::debug) fn tell(actor: &Arc<Actor>) {
    let stuck = Arc::clone(actor);
    on_a_thread(actor, move || {
        let actor = stuck;
        let tasks = look::look_at_tasks(&actor, Instant::now() + ANSWERS_WITHIN);
        let threads = look::look_at_threads(&actor, Instant::now() + ANSWERS_WITHIN, Skip::OurThreads);
        let answer = Answer { threads: threads.threads, ..tasks }.bounded_to(MAX_BYTES);
        let mut places = Vec::new();
        if codec::encode_into(&answer, Encoding::Named, &mut places).is_ok() {
            // A parent whose line is broken is gone: nobody kills us then but ourselves.
            let _ = actor.control.send_up(&Frame::Stuck { places: &places });
        }
    });
}

/// Children whose places are to be looked up, and whether somebody does.
static NAMING: Mutex<Naming> = Mutex::new(Naming { waiting: Vec::new(), is_running: false });

struct Naming {
    waiting: Vec<(Weak<Actor>, u64, Vec<u8>)>,
    is_running: bool,
}

/// A child has said what it is busy with. By its parent's control thread.
pub(in crate::debug) fn name(parent: &Arc<Actor>, child: u64, places: Vec<u8>) {
    let mut naming = NAMING.lock();
    if naming.waiting.len() < MAX_WAITING {
        naming.waiting.push((Arc::downgrade(parent), child, places));
    }
    if !naming.is_running {
        let started = std::thread::Builder::new().name("teamster-dump".into()).spawn(name_all);
        naming.is_running = started.is_ok();
        drop(naming);
        if let Ok(thread) = started {
            keep(parent, thread);
        }
    }
}

fn name_all() {
    let mut symbols = None;
    loop {
        let mut naming = NAMING.lock();
        let waiting = std::mem::take(&mut naming.waiting);
        naming.is_running = !waiting.is_empty();
        drop(naming);
        if waiting.is_empty() {
            return;
        }
        let decoded = waiting.into_iter().filter_map(|(parent, child, places)| {
            let answer: Answer = codec::decode(&places).ok()?; // of another build: then it stays untold
            Some((parent.upgrade()?, child, answer))
        });
        let decoded: Vec<(Arc<Actor>, u64, Answer)> = decoded.collect();
        for (parent, child, answer) in &decoded {
            // Names may take longer than there is time.
            tell_parent(parent, *child, text::stuck_unnamed(answer), More::Follows);
        }
        let symbols = symbols.get_or_insert_with(Own::load);
        for (parent, child, answer) in &decoded {
            tell_parent(parent, *child, text::stuck(answer, symbols), More::Nothing);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Follows,
    Nothing,
}

fn tell_parent(parent: &Actor, child: u64, mut text: String, more: More) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    parent.control.send(Command::Stuck { child, text, more: more == More::Follows });
}
