//! What does every actor of a tree do at this moment?
//!
//! The root is asked, by SIGUSR1 or through its debug socket. Its control thread tells its children by their control
//! lines, and each control thread passes that on. In each process a thread then looks at what is there and sends an
//! [`Answer`] to the root's debug socket: no runtime takes part, so a stuck one holds nothing up. The root puts the
//! answers together, and looks up the names of all addresses: they are those of its own program.
mod answer;
mod collect;
mod look;
mod places;
pub(super) mod stuck;
mod symbols;
mod symtab;
mod text;
mod threads;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub(crate) use self::answer::Answer;
use self::collect::{Collector, Expected};
use self::symbols::Own;
pub(crate) use self::threads::Skip;
use super::message::{self, FromHub, ToHub};
use crate::actor::control::{Command, Living};
use crate::actor::crash::DEBUG_SOCKET;
use crate::actor::host::is_here;
use crate::actor::process::ProcessStat;
use crate::actor::{Actor, Keep};
use crate::msg::ident::Aid;

/// When the answers are put together, whoever is missing.
const ANSWERS_WITHIN: Duration = Duration::from_millis(900);
/// When nobody is waited for any more who can't answer, being stopped.
const LIVING_WITHIN: Duration = Duration::from_millis(450);
/// How long a task may go on before it counts as one that does not let go of its thread.
const TASKS_WITHIN: Duration = Duration::from_millis(300);
/// How long all threads together may take.
const THREADS_WITHIN: Duration = Duration::from_millis(500);
/// Dumps that a process works on at a time; who asks for more at once gets none.
const MAX_AT_ONCE: usize = 4;

static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// Those that are being put together in this process.
static PENDING: Mutex<Option<HashMap<u64, Arc<Pending>>>> = Mutex::new(None);

#[derive(Default)]
struct Pending {
    /// Those that nobody has looked at yet: no more than there are actors.
    answers: Mutex<Vec<Answer>>,
    answered: Condvar,
}

/// SIGUSR1 has come. A root has its whole tree say what it does; another actor says it of itself. By the control
/// thread: all else is done by another one.
pub(super) fn asked(actor: &Arc<Actor>) {
    let asked = Arc::clone(actor);
    on_a_thread(actor, move || {
        let actor = asked;
        if !actor.is_root() {
            return print(&text_of(&look::look(&actor, 0)));
        }
        let began = Instant::now();
        let Some(text) = collect(&actor, None) else { return };
        let after = began.elapsed();
        let written = write_file(&text).map(|path| format!("written to {}", path.display()));
        let written = written.unwrap_or_else(|error| format!("not written to a file: {error}"));
        print(&format!("-- dump of {}, after {after:.0?}\n{text}-- {written}\n", actor.aid));
    });
}

/// The root of this actor collects the dump `id`. By the control thread.
pub(super) fn answer(actor: &Arc<Actor>, id: u64) {
    let asked = Arc::clone(actor);
    on_a_thread(actor, move || {
        let actor = asked;
        let answer = ToHub::Dumped(Box::new(look::look(&actor, id)));
        // A hub that has no connection to spare closes this one at once.
        for _ in 0..TRIES {
            if send(&actor.folder, &answer).is_ok_and(|said| said.is_some()) {
                return;
            }
        }
        // Its root has ended, or has what it wanted: nobody waits for it then.
    });
}

/// How often an answer is offered to the root.
const TRIES: usize = 3;

fn send(folder: &Path, message: &ToHub) -> io::Result<Option<FromHub>> {
    let hub = UnixStream::connect(folder.join(DEBUG_SOCKET))?;
    hub.set_read_timeout(Some(HEARD_WITHIN))?;
    hub.set_write_timeout(Some(HEARD_WITHIN))?;
    message::send(&hub, message)?;
    message::receive(&hub)
}

/// How long a root may take, that is asked for a second of its time: its machine may be busy.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Something was said to the root's hub. What is not about dumps is given back.
pub(super) fn heard(root: &Weak<Actor>, from: &UnixStream, said: ToHub) -> Option<ToHub> {
    let answer = match said {
        ToHub::Dumped(answer) => {
            deliver(*answer);
            FromHub::Granted
        }
        ToHub::DumpWanted { name } => {
            let text = match (root.upgrade(), One::take()) {
                (Some(root), Some(_one)) => collect(&root, name.as_deref()),
                (None, _) => Some("the tree ends\n".into()),
                (_, None) => Some("too many dumps at once\n".into()),
            };
            FromHub::Dump(text)
        }
        said => return Some(said),
    };
    let _ = message::send(from, &answer); // whoever has asked may be gone
    None
}

/// What the tree whose root has this folder does at this moment: all of it, or the actors of this name, or whose uuid
/// begins so, and what is below them. `None`: it has no such actor.
///
/// Its stuck and its stopped actors are in it too. Takes up to a second.
///
/// # Errors
///
/// Where the root does not answer: it has ended, it is stopped, or it was built without the feature `debug`.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.start_actor("frank").await?;
/// let trees = teamster::discovery::trees()?;
/// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
/// let text = teamster::debug::dump(&own.folder, Some("frank"))?.expect("there is a frank");
/// assert!(text.starts_with("frank@"));
/// # Ok(()) }).await }
/// ```
pub fn dump(folder: &Path, name: Option<&str>) -> io::Result<Option<String>> {
    let wanted = ToHub::DumpWanted { name: name.map(str::to_owned) };
    match send(folder, &wanted)? {
        Some(FromHub::Dump(text)) => Ok(text),
        Some(_) | None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended meanwhile")),
    }
}

/// An answer has come to this process.
fn deliver(answer: Answer) {
    let pending = PENDING.lock().as_ref().and_then(|pending| pending.get(&answer.id).cloned());
    if let Some(pending) = pending {
        pending.answers.lock().push(answer);
        pending.answered.notify_all();
    }
}

/// The dump of a root's tree, or of the actors of this name and what is below them. `None`: there is no such actor.
/// Takes up to a second.
fn collect(root: &Arc<Actor>, name: Option<&str>) -> Option<String> {
    let began = Instant::now();
    // Reading the debug information takes as long as all the rest, the first time.
    let loading = std::thread::Builder::new().name("teamster-dump".into()).spawn(Own::load);
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
    let living = root.names.as_ref().map(|names| names.living()).unwrap_or_default();
    let expected = living.iter().map(|Living { aid, parent, .. }| Expected { aid: aid.clone(), parent: *parent });
    let mut collector = Collector::new(id, expected.collect());
    if let Some(name) = name {
        collector = collector.narrowed_to(name);
        if collector.is_empty() {
            let _ = loading.map(JoinHandle::join); // nothing is left of what nobody wants
            return None;
        }
    }
    let pending = Arc::new(Pending::default());
    PENDING.lock().get_or_insert_default().insert(id, Arc::clone(&pending));
    root.control.send(Command::Dump { id });
    deliver(look::look(root, id));
    let process = |aid: &Aid| {
        let known = living.iter().find(|known| known.aid == *aid);
        let stat = Some(aid).filter(|aid| is_here(aid)).and_then(|aid| ProcessStat::read(aid.pid()));
        stat.filter(|stat| known.is_none_or(|known| known.start_ticks == stat.start_ticks))
    };
    let can_answer =
        |aid: &Aid| !is_here(aid) || process(aid).is_some_and(|stat| stat.is_alive() && !stat.is_stopped());
    let mut symbols = loading.ok().and_then(|loading| loading.join().ok()).unwrap_or_else(Own::load);
    let mut until = began + LIVING_WITHIN;
    while collector.missing().next().is_some() {
        let mut answers = pending.answers.lock();
        let is_late = answers.is_empty() && pending.answered.wait_until(&mut answers, until).timed_out();
        let come = std::mem::take(&mut *answers);
        drop(answers);
        if is_late && come.is_empty() {
            if until == began + ANSWERS_WITHIN || !collector.missing().any(can_answer) {
                break;
            }
            until = began + ANSWERS_WITHIN;
        }
        for answer in come {
            text::look_up(&answer, &mut symbols); // while the others are awaited
            collector.on_answer(answer);
        }
    }
    if let Some(pending) = PENDING.lock().as_mut() {
        pending.remove(&id);
    }
    let after = began.elapsed();
    let silent = |aid: &Aid| match process(aid) {
        Some(stat) if stat.is_alive() => format!("no answer in {after:.1?}, {}", text::state(stat.state)),
        Some(_) | None => "ended".to_owned(),
    };
    Some(collector.finish(&silent, &mut symbols))
}

/// Where the tasks of this actor wait, for who looks at this actor alone. On any thread but those of its runtime.
pub(super) fn tasks_text(actor: &Arc<Actor>) -> String {
    let answer = look::look_at_tasks(actor, Instant::now() + TASKS_WITHIN);
    joined(text::tasks(&answer, &mut Own::load()))
}

/// What the threads of this process do, but for the thread that asks.
pub(super) fn threads_text(skip: Skip) -> String {
    let (modules, threads) = look::threads_here(Instant::now() + THREADS_WITHIN, skip);
    joined(text::threads(&threads, &modules, &mut Own::load()))
}

fn text_of(answer: &Answer) -> String {
    let lines = text::lines(answer, &mut Own::load());
    format!("{}\n{}", text::title(answer), joined(lines.into_iter().map(|line| format!("   {line}")).collect()))
}

fn joined(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

/// In another actor than a root it ends with the process.
fn on_a_thread(actor: &Arc<Actor>, work: impl FnOnce() + Send + 'static) {
    let Some(one) = One::take() else { return };
    let started = std::thread::Builder::new().name("teamster-dump".into()).spawn(move || {
        let _one = one;
        work();
    });
    // Where no thread can be had nobody hears why: this may be the control thread, which says nothing.
    if let Ok(thread) = started {
        keep(actor, thread);
    }
}

/// A root's end waits for this thread.
fn keep(actor: &Arc<Actor>, thread: JoinHandle<()>) {
    if actor.is_root() {
        let threads = actor.table::<Started>();
        let mut started = threads.0.lock();
        if started.is_none() {
            actor.keeps.lock().push(Box::new(Kept(Arc::clone(&threads))));
        }
        let started = started.get_or_insert_default();
        started.retain(|thread| !thread.is_finished());
        started.push(thread);
    }
}

/// The threads that work on dumps of a root, once there was one.
#[derive(Default)]
struct Started(Mutex<Option<Vec<JoinHandle<()>>>>);

struct Kept(Arc<Started>);

impl Keep for Kept {
    fn end(self: Box<Self>) {
        let started = self.0.0.lock().take();
        for thread in started.into_iter().flatten() {
            let _ = thread.join(); // its panic was told by the hook
        }
    }
}

/// One of the dumps that this process may work on at a time.
struct One(());

impl One {
    fn take() -> Option<Self> {
        let one = One(()); // dropped, it gives back
        (AT_ONCE.fetch_add(1, Ordering::AcqRel) < MAX_AT_ONCE).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        AT_ONCE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Past whoever holds std's lock of stderr: that may be what the dump is asked for.
fn print(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), rest) {
            Ok(0) => return,
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for_room(),
            Err(_nobody_reads) => return,
        }
    }
}

fn wait_for_room() {
    use rustix::event::{PollFd, PollFlags, poll};
    let stderr = rustix::stdio::stderr();
    // An error is found by the next write, too.
    let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
}

/// The folder of the files that dumps are written to; without it, the one for temporary files.
const FOLDER_VARIABLE: &str = "TEAMSTER_DUMP_DIR";

fn write_file(text: &str) -> io::Result<PathBuf> {
    let folder = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let (path, mut file) = new_file(&folder)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

/// A file that was not there: another program's, or a link that somebody has laid, is not written to.
fn new_file(folder: &Path) -> io::Result<(PathBuf, std::fs::File)> {
    const NAMES: u32 = 10_000;
    for number in 1..=NAMES {
        let path = folder.join(format!("teamster-dump-{}-{number}.txt", std::process::id()));
        match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return Ok((path.clone(), opened?)),
        }
    }
    Err(io::Error::other(format!("{} holds {NAMES} dumps of this process", folder.display())))
}
