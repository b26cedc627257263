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
        // A link to a program that has been built anew reads "… (deleted)"; the process's own link still opens it.
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
        // One list of the frames from new to old; what matches is selected.
        "python F = lambda f: [f] + F(f.older()) if f else []".to_owned(),
        "python import sys; sys.setrecursionlimit(100000); F = F(gdb.newest_frame())".to_owned(),
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
        command.arg(exe).stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input);
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE"); // messages are compared below
        // SAFETY: setsid is a system call without memory of ours, so it is allowed between fork and exec.
        unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
        let mut gdb = command.spawn()?;
        let stdin = gdb.stdin.take();
        let (unread, last) = (Vec::new(), String::new());
        let session = Self {
            gdb,
            stdin,
            output,
            unread,
            searched: 0,
            loaded: false,
            token: 0,
            attached: None,
            stopped: false,
            last,
        };
        Ok(session)
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
            GdbError::Said(text) if text.contains(CALLS) => GdbError::Calls,
            GdbError::Said(text) if text.contains(GONE) => GdbError::Gone { pid: place.pid },
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
        if let Query::Backtrace { full } = *query {
            return self.console(if full { "backtrace full" } else { "backtrace" }, deadline);
        }
        let frames = frames_of(&self.command("-stack-list-frames", deadline)?.fields);
        let frame = pick(&frames, place).ok_or(GdbError::NoFrame { tid: place.tid, ip: place.ip })?;
        if frame.line == 0 {
            return Err(GdbError::NoDebuginfo);
        }
        // Asked first: without variables of ours, a name would be looked up among those of libc.
        let arguments = self.command("-stack-list-arguments 0", deadline)?.fields;
        if !has_variables(&frames, &arguments) {
            return Err(GdbError::LinesOnly);
        }
        self.command(&format!("-stack-select-frame {}", frame.level), deadline)?;
        match *query {
            Query::Locals => {
                let mut text = self.console("info args", deadline)?;
                text.push('\n');
                text.push_str(&self.console("info locals", deadline)?);
                let kept = |line: &&str| !matches!(*line, "" | "No arguments." | "No locals.");
                let lines: Vec<&str> = text.lines().filter(kept).collect();
                Ok(if lines.is_empty() { "no variables in this frame".to_owned() } else { lines.join("\n") })
            }
            Query::Print(text) => self.console(&format!("print {text}"), deadline),
            Query::Assign { place, value } => {
                self.console(&format!("set variable {place} = {value}"), deadline)?;
                self.console(&format!("print {place}"), deadline)
            }
            Query::Backtrace { .. } => Ok(String::new()), // answered above
        }
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
        // Each error below means that the process is gone already.
        let _ = kill_process_group(Pid::from_child(&self.gdb), Signal::KILL);
        let _ = self.gdb.kill(); // in case it has not come to its setsid
        let _ = self.gdb.wait();
        // The kernel lets the tracees of a dead tracer go, but delivers the SIGSTOP that attached them.
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

/// One line of MI output.
#[derive(Debug, PartialEq)]
enum Record {
    Console(String),
    Result {
        token: u64,
        class: String,
        fields: Value,
    },
    /// The attached process stands still.
    Stopped,
    Prompt,
    /// A log line, news of another kind, or no MI at all.
    Other(String),
}

impl Record {
    fn parse(line: &str) -> Self {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (token, rest) = line.split_at(digits);
        let mut text = Text(rest.get(1..).unwrap_or_default());
        match rest.bytes().next() {
            Some(b'~') => Self::Console(text.string()),
            Some(b'^') => {
                let class = text.word().to_owned();
                Self::Result { token: token.parse().unwrap_or(0), class, fields: text.fields(0) }
            }
            Some(b'*') if text.word() == "stopped" => Self::Stopped,
            Some(b'(') if rest == "(gdb)" => Self::Prompt,
            _ => Self::Other(line.to_owned()),
        }
    }
}

/// A value of MI: `"text"`, or a `{tuple}` or `[list]`, whose items may have no name.
#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Many(Vec<(String, Value)>),
}

impl Value {
    fn items(&self) -> &[(String, Self)] {
        if let Self::Many(items) = self { items } else { &[] }
    }

    fn field(&self, name: &str) -> Option<&Self> {
        self.items().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Option<&str> {
        if let Some(Self::Text(text)) = self.field(name) { Some(text) } else { None }
    }

    fn number(&self, name: &str) -> Option<usize> {
        let text = self.text(name)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| usize::from_str_radix(hex, 16).ok())
    }
}

/// The part of a record that is not yet parsed. Nonsense gives less fields, never a panic.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn eat(&mut self, token: char) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A name: of a class or of a field.
    fn word(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// `name=value,value,…`, with a comma before each or between two.
    fn fields(&mut self, depth: usize) -> Value {
        let mut fields = Vec::new();
        loop {
            self.eat(',');
            let name = self.word();
            self.eat('=');
            let Some(value) = self.value(depth) else { return Value::Many(fields) };
            fields.push((name.to_owned(), value));
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if self.0.starts_with('"') {
            return Some(Value::Text(self.string()));
        }
        if depth == DEPTH || !(self.eat('{') || self.eat('[')) {
            return None;
        }
        let fields = self.fields(depth + 1);
        (self.eat('}') || self.eat(']')).then_some(fields)
    }

    /// A C string. Octal escapes are bytes of UTF-8.
    fn string(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut rest = self.0.bytes().skip(1).peekable();
        let all = rest.len();
        while let Some(byte) = rest.next().filter(|byte| *byte != b'"') {
            let escaped = if byte == b'\\' { rest.next() } else { None };
            bytes.push(match escaped {
                None => byte,
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'e') => 0x1b,
                Some(digit @ b'0'..=b'7') => {
                    let mut value = digit - b'0';
                    for _ in 0..2 {
                        let Some(digit) = rest.next_if(|byte| matches!(byte, b'0'..=b'7')) else { break };
                        value = value.wrapping_mul(8).wrapping_add(digit - b'0');
                    }
                    value
                }
                Some(other) => other,
            });
        }
        // The loop ends behind an ASCII quote or at the end, so this is a boundary of characters.
        self.0 = self.0.get(1 + all - rest.len()..).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
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

/// Whether the debuginfo of this program describes variables: some Rust function then has an argument.
fn has_variables(frames: &[Frame], arguments: &Value) -> bool {
    let listed = arguments.field("stack-args").map_or(&[][..], Value::items);
    listed.iter().any(|(_, entry)| {
        let rust = frames.iter().any(|frame| frame.is_rust && Some(frame.level) == entry.number("level"));
        rust && entry.field("args").is_some_and(|args| !args.items().is_empty())
    })
}

/// As one argument of an MI command.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
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

/// How far the kernel restricts attaching; none if it does not.
fn yama() -> Option<u8> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    scope.trim().parse().ok().filter(|scope| *scope != 0)
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Becomes rust-gdb, which prints Rust's types well; or gdb, where rust-gdb is a proxy to nothing.
const RUN: &str = r#"rust-gdb --version </dev/null >/dev/null 2>&1 && exec rust-gdb "$@"; exec gdb "$@""#;

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
/// What is longer is a text pasted by mistake.
const TEXT_BYTES: usize = 4096;
/// What a person can read of one answer; the rest is cut off.
const ANSWER_BYTES: usize = 1 << 20;
/// A list of 4096 frames is smaller.
const LINE_BYTES: usize = 16 << 20;
/// How deep MI nests at most; gdb's own records stay below 8.
const DEPTH: usize = 64;

const OPTIMIZED: &str = "[optimized build: locals may be missing or WRONG]";
/// Parts of gdb's messages, in the language of `LC_ALL=C.UTF-8`.
const CALLS: &str = "may-call-functions is off";
const GONE: &str = "No such process";
