//! What do a stopped thread's variables hold? A hidden gdb is asked.
//!
//! It speaks gdb's machine interface (MI) over pipes: a line out is a command with a token, the lines
//! in are records, and the result record with that token ends the answer. The symbols are loaded
//! once, in the background; each question attaches, asks and detaches.
#![allow(unsafe_code, reason = "setsid in the new process, between fork and exec")]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, setsid};

use self::mi::{Record, Value, quote};

mod mi;

/// Where a stopped thread stands and which frame of it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) pid: u32,
    /// The kernel's thread id, as `gettid` gives it.
    pub(crate) tid: u32,
    /// The frame's return address, as `backtrace::trace` gives it.
    pub(crate) ip: usize,
    /// The frame's line in its source, which tells inlined frames of one address apart. 0: unknown.
    pub(crate) line: u32,
    /// How many newer frames of the thread have this address and line: recursion. Mostly 0.
    pub(crate) nth: usize,
    /// The code was optimized, so gdb's values may be wrong. gdb cannot tell; the debuggee can.
    pub(crate) optimized: bool,
}

/// What is asked about a place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Query<'a> {
    /// The arguments and variables of the frame.
    Locals,
    /// The value of an expression. It may name fields, indices, casts; it calls no functions.
    Print(&'a str),
    /// Writes a value to a variable or a part of one. The answer is what it holds now.
    Assign { place: &'a str, value: &'a str },
    /// All frames of the thread; with their variables if `full`.
    Backtrace { full: bool },
}

/// Why gdb gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GdbError {
    #[error(
        "gdb is not installed: `locals`, `p` and `let` need it (apt install gdb); \
         `bt`, `list`, `args` and captures work without"
    )]
    NotInstalled,
    #[error("gdb could not be started")]
    Start(#[source] io::Error),
    #[error(
        "the kernel lets gdb attach to no process that it did not start (yama ptrace_scope is {scope}), so not to {pid}: \
         `sysctl kernel.yama.ptrace_scope=0` as root allows it; `bt`, `list`, `args` and captures work without"
    )]
    Scope { pid: u32, scope: u8 },
    #[error(
        "gdb may not attach to process {pid}: run as its user or, in a container, start that with ptrace \
         (`docker run --cap-add=SYS_PTRACE`); `bt`, `list`, `args` and captures work without"
    )]
    Refused { pid: u32 },
    #[error("process {pid} is already held by the debugger with pid {by}: detach or quit it")]
    Held { pid: u32, by: u32 },
    #[error(
        "process {pid} is this one, and gdb would stop the prompt with it: \
         use `rust-gdb -p {pid}` in another terminal; `bt`, `list`, `args` and captures work here"
    )]
    Ourselves { pid: u32 },
    #[error("process {pid} is gone")]
    Gone { pid: u32 },
    #[error("process {pid} has no thread {tid} any more")]
    NoThread { pid: u32, tid: u32 },
    #[error(
        "gdb does not find the frame at {ip:#x} on the stack of thread {tid}: try another frame with `up` or `down`; \
         `bt` and `list` work without"
    )]
    NoFrame { tid: u32, ip: usize },
    #[error(
        "no debuginfo for this frame: set `debug = true` for the profile (`[profile.release] debug = true`); \
         `args` and captures work without"
    )]
    NoDebuginfo,
    #[error(
        "no variables in this program's debuginfo, only line tables: set `debug = true` for the profile \
         (`[profile.dev] debug = true`); `bt`, `list`, `args` and captures work without"
    )]
    LinesOnly,
    #[error(
        "this expression calls a function, and the stopped program may hold the locks that it needs: \
         name fields and indices, or use the `gdb` command"
    )]
    Calls,
    #[error("an expression is one line of 1 to {TEXT_BYTES} bytes without control characters")]
    BadText,
    #[error("gdb: {0}")]
    Said(String),
    #[error("gdb gave no answer within {0:?}: it was ended, and the next question starts it anew")]
    Timeout(Duration),
    #[error("gdb ended ({last}): the next question starts it anew")]
    Died { last: String },
}

/// One hidden gdb for one executable. Dropped, it is killed and reaped.
///
/// It has a session of its own, so no signal of the terminal meets it. It ends when this process
/// does, for then its standard input ends.
#[derive(Debug)]
pub(crate) struct Gdb {
    exe: PathBuf,
    /// None after a timeout or a death: the next question starts one.
    session: Option<Session>,
}

impl Gdb {
    /// Starts gdb and returns while it loads the symbols of `exe`: a path, or the link `/proc/PID/exe`.
    ///
    /// # Errors
    ///
    /// [`GdbError::NotInstalled`], and [`GdbError::Start`] if the system refuses the process or its pipes.
    pub(crate) fn start(exe: &Path) -> Result<Self, GdbError> {
        if !is_installed(std::env::var_os("PATH").as_deref()) {
            return Err(GdbError::NotInstalled);
        }
        let session = Session::start(exe).map_err(GdbError::Start)?;
        Ok(Self { exe: exe.to_owned(), session: Some(session) })
    }

    /// Attaches, selects thread and frame, asks and detaches.
    ///
    /// Blocks for at most 10 s, and before that for at most 60 s until the symbols are loaded. All
    /// threads of the process stand still while gdb is attached, but not while the symbols load. A
    /// system call that was waiting may return `EINTR` then, as after any stop.
    ///
    /// # Errors
    ///
    /// Each says what is missing and what still works. The process is let go in every case.
    pub(crate) fn query(&mut self, place: &Place, query: &Query<'_>) -> Result<String, GdbError> {
        self.query_within(place, query, ANSWER)
    }

    fn query_within(&mut self, place: &Place, query: &Query<'_>, limit: Duration) -> Result<String, GdbError> {
        query.check()?;
        if place.pid == std::process::id() {
            return Err(GdbError::Ourselves { pid: place.pid });
        }
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::start(&self.exe).map_err(GdbError::Start)?),
        };
        let answer = session.until_loaded().and_then(|()| session.ask(place, query, limit));
        if session.attached.is_some() || matches!(answer, Err(GdbError::Timeout(_) | GdbError::Died { .. })) {
            self.session = None; // its drop lets the process go
        }
        let answer = answer?;
        let warn = place.optimized && !matches!(query, Query::Backtrace { full: false });
        Ok(if warn { format!("{OPTIMIZED}\n{answer}") } else { answer })
    }
}

/// The command for a gdb in the user's terminal: attached, with the place's thread and frame selected.
///
/// It reads the user's own `.gdbinit`. Leaving it lets the process run on. A gdb without Python
/// says which thread it is and selects nothing.
pub(crate) fn interactive(place: &Place, exe: &Path) -> Vec<String> {
    let Place { pid, tid, ip, line, nth, .. } = place;
    let select = [
        format!("python for t in gdb.selected_inferior().threads(): t.ptid[1] == {tid} and t.switch()"),
        "python from gdb.FrameIterator import FrameIterator; F = FrameIterator(gdb.newest_frame())".to_owned(),
        format!("python F = [f for f in F if abs(f.pc() - {ip}) < 2 and {line} in (0, f.find_sal().line)]"),
        format!("python [f.select() for f in F[{nth}:{nth} + 1]]"),
    ];
    let mut argv: Vec<String> = ["sh", "-c", RUN, "gdb", "-q"].map(str::to_owned).into();
    for setting in ["debuginfod enabled off", "confirm off", "pagination off"] {
        argv.extend(["-iex".to_owned(), format!("set {setting}")]);
    }
    argv.extend([exe.display().to_string(), "-p".to_owned(), pid.to_string()]);
    argv.extend(["-ex".to_owned(), format!("thread find LWP {tid}")]);
    for command in select.into_iter().chain(["frame".to_owned()]) {
        argv.extend(["-ex".to_owned(), command]);
    }
    argv
}

/// What VS Code's `launch.json` needs to attach to an actor with the lldb-dap extension.
pub(crate) fn dap(name: &str, pid: u32) -> String {
    let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
    format!(r#"{{"type":"lldb-dap","request":"attach","name":"teamster {name}","pid":{pid}}}"#)
}

impl Query<'_> {
    /// No text of a user can become a second command.
    fn check(&self) -> Result<(), GdbError> {
        let texts = match *self {
            Query::Print(text) => [text, text],
            Query::Assign { place, value } => [place, value],
            Query::Locals | Query::Backtrace { .. } => return Ok(()),
        };
        let fits = |text: &str| (1..=TEXT_BYTES).contains(&text.trim().len()) && !text.contains(char::is_control);
        if texts.into_iter().all(fits) { Ok(()) } else { Err(GdbError::BadText) }
    }
}

/// A running gdb and what has been read of it.
#[derive(Debug)]
struct Session {
    gdb: Child,
    stdin: Option<ChildStdin>,
    output: PipeReader,
    unread: Vec<u8>,
    /// How far `unread` is known to hold no end of line.
    searched: usize,
    /// gdb is at its first prompt: the symbols are loaded.
    loaded: bool,
    /// The last command's token.
    token: u64,
    /// The attached process.
    attached: Option<u32>,
    /// The attached process has been seen to stand still.
    stopped: bool,
    /// The last line that was no record: what a failing shell or gdb has to say.
    last: String,
}

impl Session {
    fn start(exe: &Path) -> io::Result<Self> {
        let (output, input) = io::pipe()?;
        let mut command = Command::new("sh");
        command.args(["-c", RUN, "gdb", "--interpreter=mi3", "-nx", "-q"]);
        for setting in SETTINGS {
            command.args(["-iex", &format!("set {setting}")]);
        }
        // Set once the program's own debuginfo has been looked for. That of libc costs 140 ms per attach.
        command.args(["-ex", "set debug-file-directory"]);
        command.arg(exe).stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input);
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE"); // messages are compared below
        // SAFETY: setsid is a system call without memory of ours, so it is allowed between fork and exec.
        unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
        let mut gdb = command.spawn()?;
        let stdin = gdb.stdin.take();
        Ok(Self {
            gdb,
            stdin,
            output,
            unread: Vec::new(),
            searched: 0,
            loaded: false,
            token: 0,
            attached: None,
            stopped: false,
            last: String::new(),
        })
    }

    fn until_loaded(&mut self) -> Result<(), GdbError> {
        let deadline = Deadline::after(LOADING);
        while !self.loaded {
            match self.record(&deadline) {
                Ok(record) => self.loaded = record == Record::Prompt,
                Err(GdbError::Died { .. }) if self.is_missing() => return Err(GdbError::NotInstalled),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The shell found no gdb to become.
    fn is_missing(&mut self) -> bool {
        drop(self.stdin.take()); // so that the wait ends, whatever closed its output
        self.gdb.wait().is_ok_and(|status| status.code() == Some(127))
    }

    fn ask(&mut self, place: &Place, query: &Query<'_>, limit: Duration) -> Result<String, GdbError> {
        let deadline = Deadline::after(limit);
        self.attach(place.pid, &deadline)?;
        let answer = self.look(place, query, &deadline);
        if !matches!(answer, Err(GdbError::Timeout(_) | GdbError::Died { .. }))
            && self.command("-target-detach", &deadline).is_ok()
        {
            self.attached = None;
        }
        answer.map_err(|error| match error {
            // A process that dies while it is looked at shows as many errors.
            GdbError::Said(_) | GdbError::NoFrame { .. } | GdbError::NoThread { .. } if is_gone(place.pid) => {
                GdbError::Gone { pid: place.pid }
            }
            GdbError::Said(text) if text.contains(CALLS) => GdbError::Calls,
            error => error,
        })
    }

    fn attach(&mut self, pid: u32, deadline: &Deadline) -> Result<(), GdbError> {
        let before = tracer(pid);
        (self.attached, self.stopped) = (Some(pid), false);
        if let Err(error) = self.command(&format!("-target-attach {pid}"), deadline) {
            let GdbError::Said(text) = error else { return Err(error) };
            self.attached = None;
            return Err(match (before, yama()) {
                _ if text.contains(GONE) => GdbError::Gone { pid },
                _ if !text.contains("ptrace") => GdbError::Said(text),
                (Some(by), _) => GdbError::Held { pid, by },
                (None, Some(scope)) => GdbError::Scope { pid, scope },
                (None, None) => GdbError::Refused { pid },
            });
        }
        while !self.stopped {
            self.record(deadline)?;
        }
        Ok(())
    }

    fn look(&mut self, place: &Place, query: &Query<'_>, deadline: &Deadline) -> Result<String, GdbError> {
        let threads = self.command("-thread-info", deadline)?.fields;
        let thread = thread_of(&threads, place.tid).ok_or(GdbError::NoThread { pid: place.pid, tid: place.tid })?;
        self.command(&format!("-thread-select {thread}"), deadline)?;
        match *query {
            Query::Backtrace { full: false } => self.console("backtrace", deadline),
            Query::Backtrace { full: true } => self.console("backtrace full", deadline),
            Query::Locals => {
                self.select(place, deadline)?;
                let text = [self.console("info args", deadline)?, self.console("info locals", deadline)?].join("\n");
                let kept = |line: &&str| !matches!(*line, "" | "No arguments." | "No locals.");
                let lines: Vec<&str> = text.lines().filter(kept).collect();
                Ok(if lines.is_empty() { "no variables in this frame".to_owned() } else { lines.join("\n") })
            }
            Query::Print(text) => {
                self.select(place, deadline)?;
                self.console(&format!("print {text}"), deadline)
            }
            Query::Assign { place: target, value } => {
                self.select(place, deadline)?;
                self.console(&format!("set variable {target} = {value}"), deadline)?;
                self.console(&format!("print {target}"), deadline)
            }
        }
    }

    /// Selects the place's frame, if its variables are known at all.
    fn select(&mut self, place: &Place, deadline: &Deadline) -> Result<(), GdbError> {
        let frames = frames_of(&self.command("-stack-list-frames", deadline)?.fields);
        let frame = pick(&frames, place).ok_or(match place.line {
            0 => GdbError::NoDebuginfo, // without it gdb may lose its way up the stack, too
            _ => GdbError::NoFrame { tid: place.tid, ip: place.ip },
        })?;
        if frame.line == 0 {
            return Err(GdbError::NoDebuginfo);
        }
        // Asked first: without variables of ours, a name would be looked up among those of libc. A frame may have
        // none for itself, as that of an async function has no arguments.
        let others = frames.iter().filter(|other| other.is_rust && other.level != frame.level);
        let mut is_described = false;
        for level in std::iter::once(frame).chain(others).map(|frame| frame.level) {
            self.command(&format!("-stack-select-frame {level}"), deadline)?;
            let variables = self.command("-stack-list-variables --no-values", deadline)?.fields;
            is_described = variables.field("variables").is_some_and(|all| !all.items().is_empty());
            if is_described {
                break;
            }
        }
        if !is_described {
            return Err(GdbError::LinesOnly);
        }
        self.command(&format!("-stack-select-frame {}", frame.level), deadline)?;
        Ok(())
    }

    /// Runs one command of the kind that a person types, and gives its output.
    fn console(&mut self, command: &str, deadline: &Deadline) -> Result<String, GdbError> {
        let text = self.command(&format!("-interpreter-exec console {}", quote(command)), deadline)?.console;
        Ok(without_number(text.trim_end()).to_owned())
    }

    /// Sends one command and reads up to its result.
    fn command(&mut self, command: &str, deadline: &Deadline) -> Result<Answer, GdbError> {
        self.token += 1;
        let line = format!("{}{command}\n", self.token);
        // Cannot block: gdb has read all commands before this one, and a line is far smaller than a pipe.
        let sent = self.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.died());
        }
        let mut console = String::new();
        loop {
            match self.record(deadline)? {
                Record::Console(text) if console.len() < ANSWER_BYTES => console.push_str(&text),
                Record::Result { token, class, fields } if token == self.token => {
                    return match class.as_str() {
                        "error" => Err(GdbError::Said(fields.text("msg").unwrap_or("unknown error").to_owned())),
                        "exit" => Err(self.died()),
                        _ => Ok(Answer { console, fields }),
                    };
                }
                _ => {} // news, or what did not fit
            }
        }
    }

    fn record(&mut self, deadline: &Deadline) -> Result<Record, GdbError> {
        let record = Record::parse(&self.line(deadline)?);
        match &record {
            Record::Stopped => self.stopped = true,
            Record::Other(text) if !text.trim().is_empty() => self.last = text.chars().take(200).collect(),
            _ => {}
        }
        Ok(record)
    }

    /// Waits for the next line of gdb's output.
    fn line(&mut self, deadline: &Deadline) -> Result<String, GdbError> {
        loop {
            if let Some(end) = self.unread[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=self.searched + end).collect();
                self.searched = 0;
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.searched = self.unread.len();
            if self.searched > LINE_BYTES {
                return Err(GdbError::Died { last: format!("it wrote a line of more than {LINE_BYTES} bytes") });
            }
            deadline.wait_for(&self.output)?;
            let mut bytes = [0; 16 * 1024];
            match self.output.read(&mut bytes) {
                Ok(0) => return Err(self.died()),
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(GdbError::Died { last: error.to_string() }),
            }
        }
    }

    fn died(&self) -> GdbError {
        let last = if self.last.is_empty() { "it said nothing" } else { &self.last };
        GdbError::Died { last: last.to_owned() }
    }
}

impl Drop for Session {
    /// Kills gdb, reaps it and sees to it that no process stays stopped.
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Not if it has been reaped: its id may then be another's. Errors below: it is gone already.
        if matches!(self.gdb.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.gdb), Signal::KILL); // with what gdb forked
            let _ = self.gdb.wait();
        }
        // What it had started holds the pipe too, and is not ours to reap: it is gone when the pipe ends.
        let deadline = Deadline::after(KILLED);
        let mut rest = [0; 1024];
        while deadline.wait_for(&self.output).is_ok() && self.output.read(&mut rest).is_ok_and(|read| read > 0) {}
        // The kernel lets a dead tracer's processes go. Killed in the middle of attaching, though, it
        // leaves the SIGSTOP that it sent: without this, 26 of 40 stayed stopped.
        if let Some(pid) = self.attached.and_then(as_pid) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

/// When waiting ends, and what it was.
#[derive(Debug)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// Waits until there is something to read, or the end.
    fn wait_for(&self, output: &PipeReader) -> Result<(), GdbError> {
        loop {
            let left = self.at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GdbError::Timeout(self.limit));
            }
            let left = Timespec::try_from(left).map_err(|_| GdbError::Timeout(self.limit))?;
            match poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(GdbError::Died { last: error.to_string() }),
            }
        }
    }
}

/// What one command brought.
#[derive(Debug)]
struct Answer {
    /// What a person would have seen.
    console: String,
    /// The fields of the result record.
    fields: Value,
}

/// A frame of the selected thread.
#[derive(Debug, PartialEq)]
struct Frame {
    level: usize,
    ip: usize,
    function: String,
    /// 0: unknown.
    line: usize,
    is_rust: bool,
}

fn frames_of(fields: &Value) -> Vec<Frame> {
    let frames = fields.field("stack").map_or(&[][..], Value::items);
    let frame = |(_, frame): &(String, Value)| {
        Some(Frame {
            level: frame.number("level")?,
            ip: frame.number("addr")?,
            function: frame.text("func").unwrap_or_default().to_owned(),
            line: frame.number("line").unwrap_or(0),
            is_rust: frame.text("file").is_some_and(|file| file.ends_with(".rs")),
        })
    };
    frames.iter().filter_map(frame).collect()
}

/// gdb's own number of a thread of the kernel.
fn thread_of(fields: &Value, tid: u32) -> Option<usize> {
    let threads = fields.field("threads")?.items().iter().map(|(_, thread)| thread);
    // "Thread 0x7f… (LWP 12)", "LWP 12", and "process 12" for one that has no other threads.
    let is_it = |target: &str| {
        let mut words = target.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| matches!(word, "LWP" | "process")) && words.next().is_some_and(|id| id.parse() == Ok(tid))
    };
    threads.into_iter().find(|thread| thread.text("target-id").is_some_and(is_it))?.number("id")
}

/// The frame that is meant. Of several with its address, inlined into each other, the line tells.
fn pick<'a>(frames: &'a [Frame], place: &Place) -> Option<&'a Frame> {
    let here = || frames.iter().filter(|frame| frame.ip.abs_diff(place.ip) <= 1);
    let same_line = |frame: &&Frame| u32::try_from(frame.line) == Ok(place.line);
    if here().any(|frame| same_line(&frame)) {
        return here().filter(same_line).nth(place.nth);
    }
    // No line to go by: only if there is but one function that it can be.
    let first = here().next()?;
    let one = place.line == 0 || here().all(|frame| frame.function == first.function);
    here().nth(place.nth).filter(|_| one)
}

/// Without the `$1 = ` of gdb's history of values.
fn without_number(text: &str) -> &str {
    let rest = text.strip_prefix('$').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.and_then(|rest| rest.strip_prefix(" = ")).unwrap_or(text)
}

fn is_installed(path: Option<&OsStr>) -> bool {
    path.is_some_and(|path| std::env::split_paths(path).any(|folder| folder.join("gdb").is_file()))
}

/// Who traces a process, if anybody does.
fn tracer(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok().filter(|pid| *pid != 0)
}

/// Whether no such process runs: it may still wait to be reaped.
fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

/// How far the kernel restricts attaching; none if it does not.
fn yama() -> Option<u8> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    scope.trim().parse().ok().filter(|scope| *scope != 0)
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Becomes rust-gdb, which prints Rust's types well; or gdb, where rust-gdb is a proxy to nothing. Whoever tries that
/// keeps stdout, by another number: its end tells that all are gone.
const RUN: &str = r#"rust-gdb --version </dev/null 3>&1 >/dev/null 2>&1 && exec rust-gdb "$@"; exec gdb "$@""#;

/// No call may run in a process that stands at an unknown point: it may need a lock which is held,
/// and would let the other threads run. Unknown settings are passed over by older gdbs.
const SETTINGS: [&str; 8] = [
    "debuginfod enabled off",
    "confirm off",
    "may-call-functions off",
    "print pretty on",
    "pagination off",
    "width 0",
    "height 0",
    "backtrace limit 4096",
];

/// Who waits longer than this has a gdb that hangs: an answer takes a tenth of a second.
const ANSWER: Duration = Duration::from_secs(10);
/// A large program's symbols take seconds. Nothing is stopped meanwhile.
const LOADING: Duration = Duration::from_secs(60);
/// What was killed is gone in a moment.
const KILLED: Duration = Duration::from_secs(1);
/// What is longer is a text pasted by mistake.
const TEXT_BYTES: usize = 4096;
/// What a person can read of one answer; the rest is cut off.
const ANSWER_BYTES: usize = 1 << 20;
/// A list of 4096 frames is smaller.
const LINE_BYTES: usize = 16 << 20;
const OPTIMIZED: &str = "[optimized build: locals may be missing or WRONG]";
/// Parts of gdb's messages, in the language of `LC_ALL=C.UTF-8`.
const CALLS: &str = "may-call-functions is off";
const GONE: &str = "No such process";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::ChildStdout;

    #[test]
    fn a_thread_is_found_by_its_kernel_id() {
        let check = |target: &str, expected| {
            let line = format!(r#"1^done,threads=[{{id="7",target-id="{target}"}}]"#);
            let Record::Result { fields, .. } = Record::parse(&line) else { panic!() };
            assert_eq!(thread_of(&fields, 1144), expected, "{target}");
        };
        check("Thread 0x7f8a52c17780 (LWP 1144)", Some(7));
        check("LWP 1144", Some(7));
        check("process 1144", Some(7));
        check("Thread 0x1144 (LWP 11442)", None);
    }

    #[test]
    fn inlined_frames_are_told_apart_by_line_and_recursive_ones_by_number() {
        let frame =
            |level, ip, function: &str, line| Frame { level, ip, function: function.to_owned(), line, is_rust: true };
        let frames = [
            frame(0, 100, "read", 1),
            frame(1, 200, "inner", 8),
            frame(2, 200, "outer", 14),
            frame(3, 300, "again", 20),
            frame(4, 300, "again", 20),
        ];
        let check = |ip, line, nth, expected| {
            let place = Place { pid: 1, tid: 1, ip, line, nth, optimized: false };
            assert_eq!(pick(&frames, &place).map(|frame| frame.level), expected, "{place:?}");
        };
        check(200, 8, 0, Some(1));
        check(200, 14, 0, Some(2));
        check(199, 14, 0, Some(2)); // as `ip - 1`, which some captures keep
        check(200, 99, 0, None); // which of the two?
        check(200, 0, 0, Some(1));
        check(300, 20, 1, Some(4));
        check(300, 21, 0, Some(3)); // gdb and the capture may differ in the line of one function
        check(300, 20, 2, None);
        check(400, 0, 0, None);
    }

    #[test]
    fn a_text_is_one_command() {
        for bad in ["", " ", "a\n-gdb-exit", "a\r", "a\0", &"x".repeat(TEXT_BYTES + 1)] {
            assert!(matches!(Query::Print(bad).check(), Err(GdbError::BadText)), "{bad:?}");
            assert!(matches!(Query::Assign { place: "x", value: bad }.check(), Err(GdbError::BadText)), "{bad:?}");
        }
        assert_eq!(without_number("$12 = 5"), "5");
        assert_eq!(without_number("$x"), "$x");
    }

    #[test]
    fn a_missing_gdb_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_installed(Some(folder.path().as_os_str())));
        assert!(!is_installed(None));
        fs::write(folder.path().join("gdb"), "").unwrap();
        assert!(is_installed(Some(folder.path().as_os_str())));
    }

    #[test]
    fn the_hand_over_names_the_process() {
        assert_eq!(dap("a\"b", 7), r#"{"type":"lldb-dap","request":"attach","name":"teamster ab","pid":7}"#);
        let place = Place { pid: 7, tid: 8, ip: 9, line: 10, nth: 0, optimized: false };
        let argv = interactive(&place, Path::new("/bin/true"));
        assert!(argv.windows(3).any(|words| words == ["/bin/true", "-p", "7"]), "{argv:?}");
    }

    /// Prints a line with its thread and the addresses on its stack, and waits for the end of its input.
    const DEBUGGEE: &str = r#"
use std::io::Read;
use std::os::raw::{c_int, c_void};
unsafe extern "C" {
    fn gettid() -> c_int;
    fn _Unwind_Backtrace(f: extern "C" fn(*mut c_void, *mut c_void) -> c_int, ips: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}
extern "C" fn push(context: *mut c_void, ips: *mut c_void) -> c_int {
    unsafe { (*ips.cast::<Vec<usize>>()).push(_Unwind_GetIP(context)) };
    0
}
struct Order { id: u32, price: f64 }
#[inline(never)]
fn stop(depth: u32) -> u32 {
    if depth > 0 { return stop(depth - 1) + 1 } // here: stop
    let mut ips = Vec::<usize>::new();
    unsafe { _Unwind_Backtrace(push, (&raw mut ips).cast()) };
    println!("{} {ips:?}", unsafe { gettid() });
    std::io::stdin().read(&mut [0]).unwrap() as u32
}
#[inline(always)]
fn inlined(twice: u32) -> u32 {
    let inner = twice * 2;
    stop(2) + inner // here: inlined
}
#[inline(never)]
fn outer(order: &Order, items: &[u32]) -> u32 {
    let mut index = 12usize;
    let total: u32 = items.iter().sum();
    let name = "grüß \"dich\"";
    let sum = inlined(total); // here: outer
    println!("{index} {name}");
    index += 1;
    sum + order.id + index as u32
}
fn main() {
    let order = Order { id: 7, price: 1.5 };
    let thread = std::thread::spawn(move || println!("{} {}", order.price, outer(&order, &[1, 2, 3])));
    thread.join().unwrap();
}
"#;

    /// A running debuggee of a program of its own.
    struct Debuggee {
        process: Child,
        lines: std::io::Lines<BufReader<ChildStdout>>,
        tid: u32,
        /// Of `stop` three times, of `outer` with `inlined` in it, and so on.
        ips: Vec<usize>,
        exe: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Debuggee {
        fn start(flags: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (source, exe) = (folder.path().join("debuggee.rs"), folder.path().join("debuggee"));
            fs::write(&source, DEBUGGEE).unwrap();
            let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
            let built = Command::new(rustc).args(["--edition=2024", "-o"]).args([&exe, &source]).args(flags).status();
            assert!(built.unwrap().success());
            Self::run(exe, folder)
        }

        fn run(exe: PathBuf, folder: tempfile::TempDir) -> Self {
            let mut process = Command::new(&exe).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let line = lines.next().unwrap().unwrap();
            let (tid, ips) = line.split_once(' ').unwrap();
            let ips = ips.trim_matches(['[', ']']).split(", ").map(|ip| ip.parse().unwrap()).collect();
            Self { process, lines, tid: tid.parse().unwrap(), ips, exe, _folder: folder }
        }

        fn place(&self, frame: usize, function: &str) -> Place {
            let mark = format!("// here: {function}");
            let line = 1 + DEBUGGEE.lines().position(|line| line.ends_with(&mark)).unwrap() as u32;
            Place { pid: self.process.id(), tid: self.tid, ip: self.ips[frame], line, nth: 0, optimized: false }
        }

        fn outer(&self) -> Place {
            self.place(3, "outer")
        }

        /// Lets it run to its end: so it was not left stopped. Gives its last lines.
        fn finish(mut self) -> String {
            drop(self.process.stdin.take());
            let lines: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
            assert!(self.process.wait().unwrap().success());
            lines.join("\n")
        }
    }

    impl Drop for Debuggee {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    /// Ends the gdb, and asks the kernel that none is left.
    fn end(gdb: Gdb) {
        let pid = gdb.session.as_ref().map(|session| session.gdb.id());
        drop(gdb);
        assert!(pid.is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }

    fn print(gdb: &mut Gdb, place: &Place, text: &str) -> String {
        let begin = Instant::now();
        let answer = gdb.query(place, &Query::Print(text)).unwrap();
        eprintln!("p {text}: {:?}", begin.elapsed());
        answer
    }

    #[test]
    #[ignore = "needs gdb"]
    fn variables_are_read_and_written() {
        let debuggee = Debuggee::start(&["-g"]);
        let begin = Instant::now();
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let place = debuggee.outer();
        let locals = gdb.query(&place, &Query::Locals).unwrap();
        eprintln!("start to first locals: {:?}", begin.elapsed());
        let lines = ["items = &[u32](size=3) = {1, 2, 3}", "index = 12", "total = 6", r#"name = "grüß \"dich\"""#];
        for line in lines {
            assert!(locals.lines().any(|have| have == line), "{line} is not in {locals}");
        }
        assert_eq!(print(&mut gdb, &place, "order.price * 2.0"), "3");
        assert_eq!(print(&mut gdb, &place, "items[1] + total"), "8");
        assert_eq!(print(&mut gdb, &place, "*order"), "debuggee::Order {\n  id: 7,\n  price: 1.5\n}");
        assert_eq!(print(&mut gdb, &debuggee.place(3, "inlined"), "inner"), "12", "inlined: the same address");
        let recursive = debuggee.place(1, "stop");
        assert_eq!(debuggee.ips[1], debuggee.ips[2]);
        assert_eq!(print(&mut gdb, &recursive, "depth"), "1");
        assert_eq!(print(&mut gdb, &Place { nth: 1, ..recursive }, "depth"), "2");
        let assign = Query::Assign { place: "index", value: "77 + total as usize" };
        assert_eq!(gdb.query(&place, &assign).unwrap(), "83");
        assert!(gdb.query(&place, &Query::Backtrace { full: false }).unwrap().contains("outer"));
        assert!(gdb.query(&place, &Query::Backtrace { full: true }).unwrap().contains("total = 6"));
        let warned = print(&mut gdb, &Place { optimized: true, ..place }, "total");
        assert_eq!(warned, format!("{OPTIMIZED}\n6"));
        end(gdb);
        assert!(debuggee.finish().starts_with("83 gr"));
    }

    #[test]
    #[ignore = "needs gdb"]
    fn a_refused_question_lets_the_process_go() {
        let debuggee = Debuggee::start(&["-g"]);
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let place = debuggee.outer();
        let mut check = |place: Place, query, expected: &str| {
            let error = gdb.query(&place, &query).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(place, Query::Print("nope"), "gdb: No symbol 'nope' in current context");
        check(place, Query::Print("outer(order, items)"), "calls a function");
        check(place, Query::Print(r#"total" -x "\"#), "gdb: ");
        check(place, Query::Assign { place: "total", value: "" }, "one line");
        check(Place { ip: 1, ..place }, Query::Locals, "does not find the frame at 0x1");
        check(Place { tid: 1, ..place }, Query::Locals, "no thread 1 any more");
        check(Place { pid: std::process::id(), ..place }, Query::Locals, "is this one");
        check(Place { pid: u32::MAX >> 1, ..place }, Query::Locals, "is gone");
        assert_eq!(print(&mut gdb, &place, "total"), "6");
        end(gdb);
        debuggee.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn missing_debuginfo_is_named() {
        let check = |flags: &[&str], expected: &str| {
            let debuggee = Debuggee::start(flags);
            let mut gdb = Gdb::start(&debuggee.exe).unwrap();
            let place = Place { line: 0, ..debuggee.outer() };
            // libc has a variable `name`, whose value must not be taken for ours.
            for query in [Query::Locals, Query::Print("name"), Query::Assign { place: "name", value: "1" }] {
                let answer = gdb.query(&place, &query).map_err(|error| error.to_string());
                assert!(answer.as_ref().is_err_and(|error| error.contains(expected)), "{flags:?}: {answer:?}");
            }
            end(gdb);
            debuggee.finish();
        };
        check(&["-Cdebuginfo=line-tables-only"], "only line tables");
        check(&["-Cdebuginfo=0"], "no debuginfo");
        check(&["-Cdebuginfo=0", "-Cstrip=symbols"], "no debuginfo");
    }

    #[test]
    #[ignore = "needs gdb"]
    fn optimized_code_is_asked_too() {
        let debuggee = Debuggee::start(&["-g", "-O"]);
        let mut gdb = Gdb::start(Path::new(&format!("/proc/{}/exe", debuggee.process.id()))).unwrap();
        // The compiler may make a loop of the recursion, so `outer` is searched.
        let mut locals = |ip| gdb.query(&Place { ip, optimized: true, ..debuggee.outer() }, &Query::Locals).ok();
        let answers: Vec<String> = debuggee.ips.iter().filter_map(|ip| locals(*ip)).collect();
        assert!(answers.iter().any(|text| text.starts_with(OPTIMIZED) && text.contains("index = 12")), "{answers:?}");
        end(gdb);
        debuggee.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn a_gdb_that_hangs_or_dies_is_started_anew() {
        let debuggee = Debuggee::start(&["-g"]);
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let place = debuggee.outer();
        assert_eq!(print(&mut gdb, &place, "total"), "6");
        let pid = |gdb: &Gdb| Pid::from_child(&gdb.session.as_ref().unwrap().gdb);

        let hung = pid(&gdb);
        kill_process(hung, Signal::STOP).unwrap();
        let answer = gdb.query_within(&place, &Query::Locals, Duration::from_millis(50));
        assert!(matches!(answer, Err(GdbError::Timeout(_))), "{answer:?}");
        assert!(rustix::process::test_kill_process(hung).is_err(), "the hung gdb is reaped");
        assert_eq!(print(&mut gdb, &place, "total"), "6");

        for limit in [0, 1, 2, 4, 8, 16].map(Duration::from_millis) {
            // In the middle of attaching, or of the question. What comes of it is no matter.
            let _ = gdb.query_within(&place, &Query::Locals, limit);
        }
        assert_eq!(print(&mut gdb, &place, "total"), "6");

        kill_process(pid(&gdb), Signal::KILL).unwrap();
        let answer = gdb.query(&place, &Query::Locals);
        assert!(matches!(answer, Err(GdbError::Died { .. })), "{answer:?}");
        assert_eq!(print(&mut gdb, &place, "total"), "6");
        end(gdb);
        debuggee.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn a_killed_gdb_leaves_the_process_running() {
        let debuggee = Debuggee::start(&["-g"]);
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let session = gdb.session.as_mut().unwrap();
        session.until_loaded().unwrap();
        session.attach(debuggee.process.id(), &Deadline::after(ANSWER)).unwrap();
        assert_eq!(tracer(debuggee.process.id()), Some(session.gdb.id()));

        let mut second = Gdb::start(&debuggee.exe).unwrap();
        let error = second.query(&debuggee.outer(), &Query::Locals).unwrap_err().to_string();
        assert!(error.contains(&format!("held by the debugger with pid {}", session.gdb.id())), "{error}");
        end(gdb); // while attached
        assert_eq!(print(&mut second, &debuggee.outer(), "total"), "6");
        end(second);
        debuggee.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn a_process_that_is_killed_while_attached_is_gone() {
        let debuggee = Debuggee::start(&["-g"]);
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let session = gdb.session.as_mut().unwrap();
        session.until_loaded().unwrap();
        let deadline = Deadline::after(ANSWER);
        session.attach(debuggee.process.id(), &deadline).unwrap();
        kill_process(Pid::from_child(&debuggee.process), Signal::KILL).unwrap();
        let answer = session.look(&debuggee.outer(), &Query::Locals, &deadline);
        assert!(answer.is_err(), "{answer:?}");
        end(gdb);
        let mut debuggee = debuggee;
        debuggee.process.wait().unwrap(); // gdb has not kept it
        assert!(is_gone(debuggee.process.id()));
    }

    #[test]
    #[ignore = "needs gdb"]
    fn one_gdb_serves_many_processes_of_a_program_even_of_a_deleted_one() {
        let first = Debuggee::start(&["-g"]);
        let second = Debuggee::run(first.exe.clone(), tempfile::tempdir().unwrap());
        let mut gdb = Gdb::start(&first.exe).unwrap();
        for debuggee in [&first, &second, &first] {
            assert_eq!(print(&mut gdb, &debuggee.outer(), "total"), "6");
        }
        end(gdb);
        fs::remove_file(&first.exe).unwrap();
        let mut gdb = Gdb::start(Path::new(&format!("/proc/{}/exe", first.process.id()))).unwrap();
        assert_eq!(print(&mut gdb, &first.outer(), "total"), "6");
        end(gdb);
        first.finish();
        second.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn gdb_ends_when_its_input_does() {
        let debuggee = Debuggee::start(&["-g"]);
        let mut gdb = Gdb::start(&debuggee.exe).unwrap();
        let session = gdb.session.as_mut().unwrap();
        session.until_loaded().unwrap();
        let pid = Pid::from_child(&session.gdb);
        assert_eq!(rustix::process::getsid(Some(pid)), Ok(pid), "a session of its own");
        session.attach(debuggee.process.id(), &Deadline::after(ANSWER)).unwrap();
        drop(session.stdin.take()); // as when this process is killed
        let ended = std::iter::repeat_with(|| session.record(&Deadline::after(ANSWER))).find_map(Result::err);
        assert!(matches!(ended, Some(GdbError::Died { .. })), "{ended:?}");
        assert!(session.gdb.wait().is_ok());
        session.attached = None; // gdb let it go by itself
        end(gdb);
        debuggee.finish();
    }

    #[test]
    #[ignore = "needs gdb"]
    fn the_hand_over_selects_the_frame_and_leaves_the_process_running() {
        let debuggee = Debuggee::start(&["-g"]);
        let argv = interactive(&debuggee.place(3, "inlined"), &debuggee.exe);
        let mut gdb = Command::new(&argv[0]);
        gdb.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut gdb = gdb.spawn().unwrap();
        gdb.stdin.take().unwrap().write_all(b"print inner\nup\nprint index\nbt 3\nquit\n").unwrap();
        let output = gdb.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        eprintln!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("$1 = 12") && text.contains("$2 = 12") && output.status.success(), "{output:?}");
        debuggee.finish();
    }
}
