//! What does a line at the prompt mean? One stop, from its banner to its release.
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::frames::{first, place};
use super::gdb::{self, Gdb, GdbError, Place, Query};
use super::hub::{ConnectionId, Shared};
use super::message::{Command, Frame, Kind, Stop};
use super::report::{line_of, short};
use crate::actor::crash::Answer;
use crate::actor::host::is_here;

/// What the hub does next.
pub(super) enum Next {
    Show(String),
    /// The answer comes later.
    Wait,
    Do(Command),
    Gdb(Ask),
    /// A program in the terminal.
    Run(Vec<String>),
    Tree,
    Log(usize),
    Release(Answer),
    Off,
    Abort,
}

/// A question to the hidden gdb: it is asked on a thread of its own, which tells the answer.
pub(super) type Ask = Box<dyn FnOnce(Box<dyn FnOnce(String) + Send>)>;

pub(super) struct Session {
    pub(super) connection: ConnectionId,
    pub(super) path: String,
    stop: Box<Stop>,
    /// `None`: the names are being looked up.
    frames: Option<Vec<Frame>>,
    /// Which of `frames` is looked at.
    at: usize,
    /// The first frame of the code that stopped: what is above it is the machinery of stopping.
    top: usize,
    /// A line that waits for the frames.
    waits: Option<String>,
    gdb: Arc<HiddenGdb>,
    hub: Arc<Shared>,
}

/// The gdb that answers questions about one program, for one session after the other: it reads the symbols once.
pub(super) struct HiddenGdb(Mutex<Slot>);

enum Slot {
    Empty,
    Started(Gdb),
    /// Nobody asks any more, and nobody starts one.
    Ended,
}

impl HiddenGdb {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(HiddenGdb(Mutex::new(Slot::Empty)))
    }

    /// It is gone when this returns.
    pub(super) fn end(&self) {
        *self.0.lock() = Slot::Ended;
    }
}

/// Lines of source around the one that is looked at.
const AROUND: u32 = 5;

const HELP: &str = "\
bt [full]     the stack; full: all frames, with variables         up, down, f N  choose a frame
list          the source around the frame                         locals         its variables (needs gdb)
p EXPR        an expression in the frame (needs gdb)              let X = EXPR   changes a variable (needs gdb)
args          the call's arguments, and what pause! was given     err            the error with all that is below it
tasks         the actor's tasks, and where each waits             threads        its threads' stacks
tree          all actors, who is stopped and who waits            log [N]        output that is held back now
probe [NAME]  what the program lets you look at                   gdb, dap       a debugger of your own on this thread
retry         runs the failed endpoint once more                  c, ctrl-d      go on
q             fail, and stop for this error no more               abort          cancel the whole tree
off           stop nobody any more, all go on                     help           this
";

const WORDS: &[&str] = &[
    "abort", "args", "bt", "bt full", "c", "dap", "down", "err", "f ", "gdb", "help", "let ", "list", "locals", "log",
    "off", "p ", "probe ", "q", "retry", "tasks", "threads", "tree", "up",
];

impl Session {
    pub(super) fn new(
        connection: ConnectionId,
        stop: Box<Stop>,
        path: String,
        gdb: Arc<HiddenGdb>,
        hub: Arc<Shared>,
    ) -> Self {
        if is_here(&stop.aid) {
            preload(&hub, &gdb, PathBuf::from(&stop.exe));
        }
        Session { connection, path, stop, frames: None, at: 0, top: 0, waits: None, gdb, hub }
    }

    pub(super) fn prompt(&self) -> String {
        format!("({}) ", self.path)
    }

    pub(super) fn words(&self) -> Vec<String> {
        WORDS.iter().map(|word| (*word).to_owned()).collect()
    }

    pub(super) fn banner(&self, waiting: &[String]) -> String {
        let stop = &self.stop;
        let mut text = format!(
            "-- {} in actor {}  (pid {}, thread {} {:?})",
            stop.kind.name(),
            self.path,
            stop.aid.pid(),
            stop.tid,
            stop.thread
        );
        let mut add = |part: String| text.push_str(&part);
        if !waiting.is_empty() {
            add(format!("  [{} more waiting: {}]", waiting.len(), waiting.join(", ")));
        }
        add("\n".to_owned());
        for line in stop.text.lines() {
            add(format!("   {line}\n"));
        }
        for (name, value) in &stop.values {
            add(format!("   {name} = {value}\n"));
        }
        if let Some(location) = &stop.location {
            add(format!("   at {}", short(location)));
            add(stop.call.as_ref().map_or_else(String::new, |call| format!("   in {call}")));
            add("\n".to_owned());
            if let Some((file, line)) = place(location) {
                add(source(Path::new(file), line, 2));
            }
        } else if let Some(call) = &stop.call {
            add(format!("   in {call}\n"));
        }
        if let Some(cancel) = &stop.cancel {
            add(format!("   cancelled already ({cancel}): that acts when it goes on\n"));
        }
        match stop.kind {
            Kind::Returned if stop.is_retriable => add(
                "   its stack is gone; retry runs it again (where it returns teamster::Result it stops in the `?`)\n"
                    .to_owned(),
            ),
            Kind::Returned | Kind::Relayed => add("   its stack is gone: err shows what is known\n".to_owned()),
            _ if stop.aborts => {
                add("   it panics in a destructor while another panic unwinds: the process aborts after c\n".to_owned())
            }
            _ => {}
        }
        text
    }

    /// The frames have names now.
    pub(super) fn named(&mut self, frames: Vec<Frame>) -> Option<Next> {
        self.top = first(&frames, self.stop.location.as_deref());
        self.at = self.top;
        self.frames = Some(frames);
        let line = self.waits.take()?;
        Some(self.typed(&line))
    }

    pub(super) fn typed(&mut self, line: &str) -> Next {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let needs_frames =
            matches!(word, "bt" | "up" | "down" | "u" | "d" | "f" | "list" | "l" | "locals" | "p" | "let" | "gdb");
        if needs_frames && self.frames.is_none() {
            self.waits = Some(line.to_owned());
            return Next::Wait;
        }
        match word {
            "" => Next::Show(String::new()),
            "help" | "h" | "?" => Next::Show(HELP.to_owned()),
            "c" | "continue" => Next::Release(Answer::Continue),
            "q" | "quit" => Next::Release(Answer::Quit),
            "abort" => Next::Abort,
            "off" => Next::Off,
            "retry" if self.stop.is_retriable => Next::Release(Answer::Retry),
            "retry" => Next::Show("only an endpoint that is about to return an error can be run again".to_owned()),
            "bt" if rest == "full" && !self.shown().is_empty() => self.ask(Asked::Stack(self.backtrace(true))),
            "bt" => Next::Show(self.backtrace(false)),
            "up" | "u" => self.step(1),
            "down" | "d" => self.step(-1),
            "f" => self.select(rest),
            "list" | "l" => Next::Show(self.list()),
            "args" => Next::Show(self.args()),
            "err" if self.stop.chain.is_empty() => Next::Show(self.stop.text.clone()),
            "err" => Next::Show(self.stop.chain.clone()),
            "locals" => self.ask(Asked::Locals),
            "p" if rest.is_empty() => Next::Show("p EXPR: which expression?".to_owned()),
            "p" => self.ask(Asked::Print(rest.to_owned())),
            "let" => match rest.split_once('=') {
                Some((name, value)) => self.ask(Asked::Assign(name.trim().to_owned(), value.trim().to_owned())),
                None => Next::Show("let X = EXPR: what, and to which value?".to_owned()),
            },
            "tasks" => Next::Do(Command::Tasks),
            "threads" => Next::Do(Command::Threads),
            "probe" => Next::Do(Command::Probe(rest.to_owned())),
            "tree" => Next::Tree,
            "log" => Next::Log(rest.parse().unwrap_or(20)),
            "gdb" | "dap" if !is_here(&self.stop.aid) => Next::Show(self.elsewhere()),
            "gdb" => Next::Run(gdb::interactive(&self.place(), Path::new(&self.stop.exe))),
            "dap" => Next::Show(gdb::dap(self.stop.aid.name(), self.stop.aid.pid())),
            other => Next::Show(format!("{other:?} is no command here: help lists them")),
        }
    }

    // ---- the stack

    /// The program's own frames; all, where it has none.
    fn shown(&self) -> Vec<usize> {
        let frames = self.frames.as_deref().unwrap_or_default();
        let users: Vec<usize> = (self.top..frames.len()).filter(|&at| frames[at].is_users).collect();
        if users.is_empty() { (self.top..frames.len()).collect() } else { users }
    }

    fn backtrace(&self, is_full: bool) -> String {
        let frames = self.frames.as_deref().unwrap_or_default();
        let shown = self.shown();
        let mut text = String::new();
        for (at, frame) in frames.iter().enumerate().skip(if is_full { 0 } else { self.top }) {
            let number = shown.iter().position(|&other| other == at);
            let mark = if at == self.at { '*' } else { ' ' };
            // Writing to a string never fails.
            let _ = match number {
                Some(number) => writeln!(text, "{mark} #{number:<3} {}", line_of(frame)),
                None if is_full => writeln!(text, "{mark}      {}", line_of(frame)),
                None => Ok(()),
            };
        }
        if text.is_empty() {
            text.push_str("no stack: the error was returned, so its frames are gone\n");
        } else if !frames.iter().any(|frame| frame.is_users) {
            text.push_str("no debuginfo: set `debug = \"line-tables-only\"` or more for the profile\n");
        }
        text
    }

    fn step(&mut self, by: isize) -> Next {
        let shown = self.shown();
        let here = shown.iter().position(|&at| at == self.at).unwrap_or(0);
        match here.checked_add_signed(by).and_then(|place| shown.get(place)) {
            Some(&at) => {
                self.at = at;
                Next::Show(self.list())
            }
            None => Next::Show(
                if by > 0 { "this is the outermost frame" } else { "this is the innermost frame" }.to_owned(),
            ),
        }
    }

    fn select(&mut self, number: &str) -> Next {
        match number.parse().ok().and_then(|number: usize| self.shown().get(number).copied()) {
            Some(at) => {
                self.at = at;
                Next::Show(self.list())
            }
            None => Next::Show(format!("f N: there is no frame {number:?}; bt numbers them")),
        }
    }

    fn list(&self) -> String {
        let Some(frame) = self.frames.as_deref().and_then(|frames| frames.get(self.at)) else {
            return self
                .stop
                .location
                .as_deref()
                .and_then(place)
                .map_or_else(|| "no place is known".to_owned(), |(file, line)| source(Path::new(file), line, AROUND));
        };
        let mut text = format!("{}\n", line_of(frame));
        if let Some(file) = &frame.file {
            text.push_str(&source(Path::new(file), frame.line, AROUND));
        }
        text
    }

    fn args(&self) -> String {
        let mut text = String::new();
        if let Some(args) = &self.stop.args {
            text = format!("{}({args})\n", self.stop.call.as_deref().unwrap_or("call"));
        }
        for (name, value) in &self.stop.values {
            text += &format!("{name} = {value}\n");
        }
        if text.is_empty() {
            "no call of another actor runs here, and pause! was given nothing".to_owned()
        } else {
            text
        }
    }

    // ---- the hidden gdb

    fn place(&self) -> Place {
        let frames = self.frames.as_deref().unwrap_or_default();
        let frame = frames.get(self.at);
        let is_like = |other: &&Frame| frame.is_some_and(|frame| (other.ip, other.line) == (frame.ip, frame.line));
        Place {
            pid: self.stop.aid.pid(),
            tid: self.stop.tid,
            ip: frame.map_or(0, |frame| frame.ip as usize),
            line: frame.map_or(0, |frame| frame.line),
            nth: frames[..self.at.min(frames.len())].iter().filter(is_like).count(),
            optimized: self.stop.is_optimized,
        }
    }

    /// Where a debugger finds it.
    fn elsewhere(&self) -> String {
        let aid = &self.stop.aid;
        format!("it runs on {}: there, gdb -p {} looks at its variables", aid.host(), aid.pid())
    }

    fn ask(&self, asked: Asked) -> Next {
        if !is_here(&self.stop.aid) {
            let ours = if let Asked::Stack(ours) = asked { ours } else { String::new() };
            return Next::Show(ours + &self.elsewhere());
        }
        if self.shown().is_empty() {
            return Next::Show("the stack of a returned error is gone: there are no variables to look at".to_owned());
        }
        let (gdb, place, exe) = (Arc::clone(&self.gdb), self.place(), PathBuf::from(&self.stop.exe));
        let hub = Arc::clone(&self.hub);
        Next::Gdb(Box::new(move |tell| {
            let asking = move || {
                let mut gdb = gdb.0.lock();
                let text = answer(&mut gdb, &exe, &place, &asked).unwrap_or_else(|error| match asked {
                    Asked::Stack(ours) => format!("{ours}{error}\n"),
                    Asked::Locals | Asked::Print(_) | Asked::Assign(..) => error.to_string(),
                });
                drop(gdb);
                tell(text);
            };
            if let Err(error) = hub.start("teamster-gdb", asking) {
                tracing::error!(target: "teamster::debug", %error, "no thread to ask gdb with");
            }
        }))
    }
}

enum Asked {
    Locals,
    Print(String),
    Assign(String, String),
    /// With the variables of each frame; without gdb this.
    Stack(String),
}

/// gdb reads the symbols while the user reads the banner.
fn preload(hub: &Shared, gdb: &Arc<HiddenGdb>, exe: PathBuf) {
    let gdb = Arc::clone(gdb);
    let loading = move || {
        let mut slot = gdb.0.lock();
        // Why not is said when somebody asks for something.
        if let Slot::Empty = *slot
            && let Ok(gdb) = Gdb::start(&exe)
        {
            *slot = Slot::Started(gdb);
        }
    };
    // Without a thread it is started when it is needed.
    let _ = hub.start("teamster-gdb", loading);
}

fn answer(slot: &mut Slot, exe: &Path, place: &Place, asked: &Asked) -> Result<String, GdbError> {
    if let Slot::Empty = slot {
        *slot = Slot::Started(Gdb::start(exe)?);
    }
    let Slot::Started(gdb) = slot else { return Err(GdbError::Gone { pid: place.pid }) };
    let query = match asked {
        Asked::Locals => Query::Locals,
        Asked::Print(expression) => Query::Print(expression),
        Asked::Assign(place, value) => Query::Assign { place, value },
        Asked::Stack(_) => Query::Backtrace { full: true },
    };
    gdb.query(place, &query)
}

/// Lines of a file around one, which is marked. Nothing where the file is not here.
fn source(file: &Path, line: u32, around: u32) -> String {
    let Some(text) = text_of(file) else { return String::new() };
    let first = line.saturating_sub(around).max(1);
    let mut shown = String::new();
    for (number, content) in (1..).zip(text.lines()).skip(first as usize - 1).take_while(|(n, _)| *n <= line + around) {
        let mark = if number == line { "->" } else { "  " };
        shown += &format!("   {mark}{number:>5} {content}\n");
    }
    shown
}

/// The compiler names the files of a workspace from its root, and the program may have been started below it.
fn text_of(file: &Path) -> Option<String> {
    let here = std::env::current_dir().unwrap_or_default();
    here.ancestors().find_map(|folder| std::fs::read_to_string(folder.join(file)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_shown_around_its_line() {
        let text = source(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/debug/session.rs")), 1, 1);
        assert!(text.starts_with("   ->    1 //! What does a line") && text.lines().count() == 2, "{text}");
        assert_eq!(source(Path::new("/no/such/file"), 1, 1), "");
        // As seen from a folder below: tests run in that of their package.
        let name = Path::new(env!("CARGO_MANIFEST_DIR")).file_name().unwrap();
        assert_ne!(source(&Path::new(name).join("src/debug/session.rs"), 1, 1), "");
    }
}
