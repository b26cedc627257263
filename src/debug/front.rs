//! What does the terminal show, and what was typed? The prompt's end at a terminal: the root's own, or that of
//! `teamster attach`.
//!
//! It knows no command: it shows what the hub says, reads lines when it is asked to, and runs a program in the terminal.
//! It writes to a descriptor of its own, never to stdout: whoever stands still may hold that one's lock.
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Behavior, Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, ExternalPrinter, Helper,
    KeyEvent, RepeatCount,
};

use super::message::{self, FromHub, ToHub};
use crate::actor::{signals, suspend};

/// Whether a prompt can be opened here; if not, why.
pub(super) fn has_terminal() -> Result<(), String> {
    if crate::actor::crash::is_test() {
        return Err("a test has no terminal: set TEAMSTER_DEBUG_LISTEN and use `teamster attach`".to_owned());
    }
    match terminal() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "no terminal ({error}): set TEAMSTER_DEBUG_LISTEN to a socket's path, and use `teamster attach` from one"
        )),
    }
}

fn terminal() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

/// Serves the terminal until the hub closes the line.
pub(super) fn run(hub: UnixStream) {
    let hub = Arc::new(hub);
    match Front::new(&hub) {
        Ok(mut front) => {
            while let Ok(Some(said)) = message::receive(&hub) {
                front.on(said);
            }
            front.end();
        }
        Err(error) => {
            // A hub that is gone needs no word.
            let _ = message::send(&hub, &ToHub::NoTerminal(format!("no terminal ({error})")));
        }
    }
}

struct Front {
    hub: Arc<UnixStream>,
    terminal: File,
    editing: Arc<Editing>,
    jobs: Option<Sender<Job>>,
    editor: Option<std::thread::JoinHandle<()>>,
    printer: Option<Box<dyn ExternalPrinter + Send>>,
    /// Of the line that was asked for last.
    prompt: String,
}

/// A line to be read.
struct Job {
    prompt: String,
    words: Vec<String>,
}

/// What the thread that reads lines shares with the one that shows.
struct Editing {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes a plain read.
    event: OwnedFd,
}

#[derive(Default)]
struct State {
    is_reading: bool,
    /// Nobody wants the line any more.
    is_hushed: bool,
    thread: Option<libc::pthread_t>,
}

impl Front {
    fn new(hub: &Arc<UnixStream>) -> io::Result<Self> {
        let terminal = terminal()?;
        let editing = Arc::new(Editing {
            state: Mutex::default(),
            changed: Condvar::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let (jobs, inbox) = channel();
        let (ready, printer) = channel();
        let (shared, to) = (Arc::clone(&editing), Arc::clone(hub));
        let editor = std::thread::Builder::new()
            .name("teamster-line".into())
            .spawn(move || read_lines(&inbox, &shared, &to, &ready))?;
        let printer = printer.recv().map_err(io::Error::other)??;
        let (jobs, editor, prompt) = (Some(jobs), Some(editor), String::new());
        Ok(Front { hub: Arc::clone(hub), terminal, editing, jobs, editor, printer, prompt })
    }

    fn on(&mut self, said: FromHub) {
        match said {
            FromHub::Show { text, is_paged } => self.show(&text, is_paged),
            FromHub::Ask { prompt, words } => {
                self.prompt.clone_from(&prompt);
                let mut state = self.editing.state.lock();
                (state.is_reading, state.is_hushed) = (true, false);
                drop(state);
                if let Some(jobs) = &self.jobs {
                    // The thread lives as long as we do.
                    let _ = jobs.send(Job { prompt, words });
                }
            }
            FromHub::Hush | FromHub::Close => self.hush(),
            FromHub::Run(program) => {
                let text = self.run(&program);
                let _ = message::send(&self.hub, &ToHub::Ran(text)); // a hub that is gone ends us
            }
            FromHub::Nobody { .. } | FromHub::Granted | FromHub::Do(_) | FromHub::Resume { .. } | FromHub::Dump(_) => {}
        }
    }

    fn show(&mut self, text: &str, is_paged: bool) {
        let is_reading = self.editing.state.lock().is_reading;
        match &mut self.printer {
            // A terminal that is gone shows as the end of its lines.
            Some(printer) if is_reading => drop(printer.print(text.to_owned())),
            // A line that nobody edits is begun anew below.
            None if is_reading => drop(write!(self.terminal, "\n{text}{}", self.prompt)),
            _ if is_paged => drop(self.page(text)),
            _ => drop(self.terminal.write_all(text.as_bytes())),
        }
    }

    /// A screen at a time: space or enter for the next, `q` to leave it.
    fn page(&mut self, text: &str) -> io::Result<()> {
        let mut lines: VecDeque<&str> = text.lines().collect();
        while !lines.is_empty() {
            // One without a size is read by a program.
            let size = rustix::termios::tcgetwinsize(&self.terminal).ok().filter(|size| size.ws_row >= 3);
            let (rows, columns) = size.map_or((u16::MAX, u16::MAX), |size| (size.ws_row, size.ws_col.max(1)));
            let mut left = usize::from(rows) - 1;
            // The first one is shown in any case: it may be longer than a screen.
            while let Some(line) = lines.pop_front() {
                writeln!(self.terminal, "{line}")?;
                left = left.saturating_sub(height(line, columns));
                if lines.front().is_some_and(|next| height(next, columns) > left) {
                    break;
                }
            }
            if !lines.is_empty() {
                let key = self.key(&format!("-- {} more lines: space = next, q = leave --", lines.len()))?;
                self.terminal.write_all(b"\r\x1b[K")?;
                if matches!(key, b'q' | 3 | 4 | 27) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One key, without its echo: ctrl-c is one, from when the question can be seen.
    fn key(&mut self, question: &str) -> io::Result<u8> {
        let before = rustix::termios::tcgetattr(&self.terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&self.terminal, rustix::termios::OptionalActions::Now, &raw)?;
        let mut key = [0; 1];
        let read = self.terminal.write_all(question.as_bytes()).and_then(|()| self.terminal.read_exact(&mut key));
        rustix::termios::tcsetattr(&self.terminal, rustix::termios::OptionalActions::Now, &before)?;
        read.map(|()| key[0])
    }

    /// Ends the line that is being read. When this returns the terminal is as it was before it.
    fn hush(&mut self) {
        let mut state = self.editing.state.lock();
        state.is_hushed = true;
        if !state.is_reading {
            return;
        }
        while state.is_reading {
            // The line editor takes a SIGINT as the end of its line, once it has begun to read; a plain read the event.
            let _ = rustix::io::write(&self.editing.event, &1u64.to_ne_bytes()); // it is full: it has been told
            if let Some(thread) = state.thread {
                interrupt(thread);
            }
            self.editing.changed.wait_for(&mut state, AGAIN_AFTER);
        }
    }

    /// Runs a program in the terminal; what there is to say of it.
    fn run(&mut self, program: &[String]) -> String {
        let Some((name, arguments)) = program.split_first() else { return String::new() };
        let stdio = || self.terminal.try_clone();
        let ran = stdio().and_then(|stdin| {
            Command::new(name).args(arguments).stdin(stdin).stdout(stdio()?).stderr(stdio()?).status()
        });
        match ran {
            Ok(_) => "back at the prompt".to_owned(),
            Err(error) => format!("{name}: {error}"),
        }
    }

    fn end(&mut self) {
        self.hush();
        self.jobs = None;
        if let Some(editor) = self.editor.take() {
            let _ = editor.join(); // its panic was told by the hook
        }
    }
}

/// How many rows a line takes, about: a character may be wider than one column.
fn height(line: &str, columns: u16) -> usize {
    line.chars().count().div_ceil(usize::from(columns)).max(1)
}

/// How long a SIGINT may take to end a line, before it is sent again: the editor may just be on its way in.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

#[expect(unsafe_code, reason = "one thread is to be interrupted, not the process")]
fn interrupt(thread: libc::pthread_t) {
    // SAFETY: the thread lives: it is joined after the last line.
    unsafe { libc::pthread_kill(thread, libc::SIGINT) };
}

type Ready = Sender<io::Result<Option<Box<dyn ExternalPrinter + Send>>>>;

/// The thread that reads lines, for as long as there may be one to read.
fn read_lines(jobs: &Receiver<Job>, editing: &Editing, hub: &UnixStream, ready: &Ready) {
    let mut reader = match Reader::new() {
        Ok(mut reader) => {
            // Somebody waits for it who is as old as we are.
            let _ = ready.send(Ok(reader.printer()));
            reader
        }
        Err(error) => return drop(ready.send(Err(error))),
    };
    #[expect(unsafe_code, reason = "std gives no handle that can be signalled")]
    // SAFETY: a plain call.
    let this = unsafe { libc::pthread_self() };
    for job in jobs {
        // A SIGINT may come before the editor's own handler is there, or when it is not any more.
        let (said, is_hushed) = signals::interruptibly(|| {
            editing.state.lock().thread = Some(this);
            let said = reader.read(&job, editing);
            let mut state = editing.state.lock();
            (state.is_reading, state.thread) = (false, None);
            (said, state.is_hushed)
        });
        editing.changed.notify_all();
        if !is_hushed {
            let _ = message::send(hub, &said); // a hub that is gone ends us
        }
    }
    reader.save();
}

/// With an editor; without one on a terminal that can't move its cursor.
enum Reader {
    Edited(Box<Editor<Words, FileHistory>>, Suspended),
    Plain(File),
}

impl Reader {
    fn new() -> io::Result<Self> {
        let is_plain = std::env::var("TERM").is_ok_and(|term| ["dumb", "cons25", "emacs"].contains(&term.as_str()));
        if is_plain {
            return Ok(Reader::Plain(terminal()?));
        }
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(true).build();
        let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
        editor.set_helper(Some(Words(Vec::new())));
        if let Some(path) = history() {
            let _ = editor.load_history(&path); // there is none yet
        }
        let suspended = Suspended::default();
        editor.bind_sequence(KeyEvent::ctrl('Z'), EventHandler::Conditional(Box::new(suspended.clone())));
        Ok(Reader::Edited(Box::new(editor), suspended))
    }

    fn printer(&mut self) -> Option<Box<dyn ExternalPrinter + Send>> {
        match self {
            Reader::Edited(editor, _) => Some(Box::new(editor.create_external_printer().ok()?)),
            Reader::Plain(_) => None,
        }
    }

    fn read(&mut self, job: &Job, editing: &Editing) -> ToHub {
        match self {
            Reader::Edited(editor, suspended) => {
                editor.set_helper(Some(Words(job.words.clone())));
                let mut line = Line::default();
                let read = loop {
                    let read = editor.readline_with_initial(&job.prompt, (&line.left, &line.right));
                    match suspended.0.lock().take() {
                        Some(begun) => line = begun,
                        None => break read,
                    }
                    // The terminal is as it was before the line.
                    suspend::stop_group();
                };
                match read {
                    Ok(line) => ToHub::Line(line),
                    Err(ReadlineError::Eof) => ToHub::Eof,
                    Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => ToHub::Interrupted,
                    Err(error) => match is_a_signal(&error) {
                        true => ToHub::Interrupted,
                        false => ToHub::NoTerminal(error.to_string()),
                    },
                }
            }
            Reader::Plain(terminal) => {
                plain(terminal, &job.prompt, editing).unwrap_or_else(|error| ToHub::NoTerminal(error.to_string()))
            }
        }
    }

    fn save(&mut self) {
        if let (Reader::Edited(editor, _), Some(path)) = (self, history()) {
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder); // a history that can't be kept is none
            }
            let _ = editor.save_history(&path); // as above
        }
    }
}

/// A line that ctrl-z has ended, and that is begun again with the same text.
///
/// The editor would stop us by itself, and go on at once on its thread while another one takes the signal: the shell
/// would find the terminal raw.
#[derive(Clone, Default)]
struct Suspended(Arc<Mutex<Option<Line>>>);

/// Before the cursor, and behind it.
#[derive(Default)]
struct Line {
    left: String,
    right: String,
}

impl ConditionalEventHandler for Suspended {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let (left, right) = context.line().split_at(context.pos());
        *self.0.lock() = Some(Line { left: left.to_owned(), right: right.to_owned() });
        Some(Cmd::Interrupt)
    }
}

fn is_a_signal(error: &ReadlineError) -> bool {
    matches!(error, ReadlineError::Io(error) if error.kind() == io::ErrorKind::Interrupted)
}

fn plain(terminal: &mut File, prompt: &str, editing: &Editing) -> io::Result<ToHub> {
    let _ = rustix::io::read(&editing.event, &mut [0; 8]); // what is left of the line before; mostly nothing
    terminal.write_all(prompt.as_bytes())?;
    let mut fds = [PollFd::new(&*terminal, PollFlags::IN), PollFd::new(&editing.event, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    if !fds[1].revents().is_empty() {
        let _ = rustix::io::read(&editing.event, &mut [0; 8]); // it was full a moment ago
        return Ok(ToHub::Interrupted);
    }
    let mut line = String::new();
    // The terminal gives a line at a time: nothing of the next is read with it.
    let read = io::BufReader::new(terminal.as_fd().try_clone_to_owned().map(File::from)?).read_line(&mut line)?;
    if read == 0 {
        terminal.write_all(b"\n")?;
        return Ok(ToHub::Eof);
    }
    Ok(ToHub::Line(line.trim_end().to_owned()))
}

/// `$XDG_STATE_HOME/teamster/debug-history`.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).map(|state| state.join("teamster/debug-history"))
}

/// Completes commands.
struct Words(Vec<String>);

impl Completer for Words {
    type Candidate = String;
    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or(line);
        Ok((0, self.0.iter().filter(|word| word.starts_with(typed)).cloned().collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

/// Opens the prompt of a tree in this process's terminal, and serves it until the tree ends: `teamster attach`.
///
/// `socket` is what the tree's `TEAMSTER_DEBUG_LISTEN` says.
///
/// # Errors
///
/// If there is no terminal here, or nobody listens there.
///
/// # Examples
///
/// ```
/// let nobody = teamster::debug::attach("/no/such/socket".as_ref());
/// assert!(nobody.is_err());
/// ```
pub fn attach(socket: &std::path::Path) -> io::Result<()> {
    let hub = UnixStream::connect(socket)?;
    terminal()?;
    message::send(&hub, &ToHub::Front)?;
    static IS_ATTACHED: AtomicBool = AtomicBool::new(false);
    if !IS_ATTACHED.swap(true, Ordering::SeqCst) {
        ignore_interrupts(); // between two lines ctrl-c means nothing here
    }
    run(hub);
    Ok(())
}

#[expect(unsafe_code, reason = "signal has no safe wrapper")]
fn ignore_interrupts() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a handler that does nothing is async-signal-safe. (SIG_IGN would be inherited by gdb.)
    unsafe { libc::signal(libc::SIGINT, nothing as extern "C" fn(libc::c_int) as usize) };
}
