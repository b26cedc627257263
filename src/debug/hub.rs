//! Whose turn is it? The root's hub: who stands still, in order of arrival, and who sits at the terminal.
//!
//! Std threads only: one that decides, one that accepts, one that reads for each connection. The root's own runtime may
//! be what stands still.
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::held::{HeldOutput, Late};
use super::message::{self, FromHub, Stop, ToHub};
use super::session::{HiddenGdb, Next, Session};
use super::{dump, front};
use crate::actor::control::Living;
use crate::actor::crash::{Answer, LISTEN_VARIABLE as LISTEN};
use crate::actor::{Actor, Keep};
use crate::msg::ident::{Aid, CancelRequest, Canceller};

/// Connections that are kept: stopped threads, terminals, dumps. One more is closed, and what stopped there goes on.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Errors whose users have quit, and that may still be on their way up. The oldest is forgotten.
const MAX_QUITS: usize = 64;
/// Events that may wait for the hub: then their readers wait.
const EVENTS: usize = 64;
/// How often output that is held back is looked at.
const TRIM_EVERY: Duration = Duration::from_secs(1);

pub(super) type ConnectionId = u64;

pub(super) enum Event {
    Opened(ConnectionId, Arc<UnixStream>),
    Said(ConnectionId, ToHub),
    Closed(ConnectionId),
    /// Ctrl-c while a command runs.
    Interrupt,
    /// What the hidden gdb has answered.
    Gdb(ConnectionId, String),
    End,
}

/// The hubs of this process, by root: a signal handler's thread asks all of them.
static HUBS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// What other threads may look at.
pub(super) struct Shared {
    root: Weak<Actor>,
    events: SyncSender<Event>,
    /// Somebody is at the prompt of the root's own terminal.
    is_open: AtomicBool,
    /// A program runs in the terminal: ctrl-c is its own.
    runs: AtomicBool,
    streams: Mutex<HashMap<ConnectionId, Arc<UnixStream>>>,
    /// Those that read, and those that ask gdb: the hub's end waits for them.
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicU64,
}

/// Whether a SIGINT is the prompt's.
pub(super) fn shields_interrupt() -> bool {
    let hubs: Vec<Arc<Shared>> = HUBS.lock().iter().filter_map(Weak::upgrade).collect();
    let mut is_shielded = false;
    for hub in hubs.iter().filter(|hub| hub.is_open.load(Ordering::SeqCst)) {
        is_shielded = true;
        if !hub.runs.load(Ordering::SeqCst) {
            // A hub that is busy says it late, or never: it is shielded all the same.
            let _ = hub.events.try_send(Event::Interrupt);
        }
    }
    is_shielded
}

/// Starts the hub of a root, on its listening socket.
pub(super) fn open(root: &Arc<Actor>, listener: OwnedFd) -> io::Result<()> {
    let kept = start(Arc::downgrade(root), listener)?;
    root.keeps.lock().push(Box::new(kept));
    Ok(())
}

/// The same for code of no actor. It ends when what is returned is told to.
pub(super) fn open_alone(listener: OwnedFd) -> io::Result<Box<dyn Keep>> {
    Ok(Box::new(start(Weak::new(), listener)?))
}

fn start(root: Weak<Actor>, listener: OwnedFd) -> io::Result<Kept> {
    let (events, inbox) = sync_channel(EVENTS);
    let shared = Arc::new(Shared {
        root: Weak::clone(&root),
        events,
        is_open: AtomicBool::new(false),
        runs: AtomicBool::new(false),
        streams: Mutex::default(),
        threads: Mutex::default(),
        next: AtomicU64::new(1),
    });
    let mut listeners = vec![Arc::new(UnixListener::from(listener))];
    let wanted = std::env::var_os(LISTEN).map(PathBuf::from);
    if let Some(path) = &wanted {
        match listen_at(path) {
            Ok(listener) => listeners.push(Arc::new(listener)),
            Err(error) => {
                tracing::error!(target: "teamster::debug", path = %path.display(), %error, "{LISTEN}: can't listen there");
            }
        }
    }
    let mut threads = Vec::new();
    for listener in &listeners {
        listener.set_nonblocking(false)?;
        let (listener, shared) = (Arc::clone(listener), Arc::clone(&shared));
        threads.push(thread("teamster-accept", move || accept(&listener, &shared))?);
    }
    HUBS.lock().retain(|hub| hub.strong_count() > 0);
    HUBS.lock().push(Arc::downgrade(&shared));
    let hub = Hub {
        root,
        shared: Arc::clone(&shared),
        connections: HashMap::new(),
        queue: VecDeque::new(),
        session: None,
        front: None,
        waits_for_attach: wanted.is_some(),
        own_front: None,
        is_off: false,
        quits: VecDeque::new(),
        held: None,
        late: None,
        gdb: None,
    };
    threads.push(thread("teamster-hub", move || hub.run(&inbox))?);
    Ok(Kept { shared, listeners, threads, path: wanted })
}

fn listen_at(path: &PathBuf) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    // One that a dead root has left behind is in the way of the next.
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects may read and change the stopped process: it is asked for its uid besides.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// The hub's threads, until its root ends.
struct Kept {
    shared: Arc<Shared>,
    listeners: Vec<Arc<UnixListener>>,
    threads: Vec<JoinHandle<()>>,
    path: Option<PathBuf>,
}

impl Keep for Kept {
    fn end(self: Box<Self>) {
        for listener in &self.listeners {
            // It wakes whoever accepts there.
            let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        }
        let _ = self.shared.events.send(Event::End); // the thread may have ended
        for stream in self.shared.streams.lock().values() {
            let _ = stream.shutdown(std::net::Shutdown::Both); // closed already: as good
        }
        for thread in self.threads {
            let _ = thread.join(); // its panic was told by the hook
        }
        for helper in std::mem::take(&mut *self.shared.threads.lock()) {
            let _ = helper.join(); // as above
        }
        if let Some(path) = self.path {
            let _ = std::fs::remove_file(path); // somebody may have tidied up
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        let is_ours = rustix::net::sockopt::socket_peercred(stream.as_fd())
            .is_ok_and(|peer| peer.uid == rustix::process::getuid());
        if !is_ours || shared.streams.lock().len() >= MAX_CONNECTIONS {
            continue;
        }
        begin(shared.next.fetch_add(1, Ordering::Relaxed), stream, shared);
    }
}

impl Shared {
    /// A thread that the hub's end waits for.
    pub(super) fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let started = thread(name, run)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(started);
        Ok(())
    }
}

fn begin(id: ConnectionId, stream: UnixStream, shared: &Arc<Shared>) {
    let stream = Arc::new(stream);
    shared.streams.lock().insert(id, Arc::clone(&stream));
    if shared.events.send(Event::Opened(id, Arc::clone(&stream))).is_err() {
        return; // the hub has ended
    }
    read(id, stream, shared);
}

fn read(id: ConnectionId, stream: Arc<UnixStream>, shared: &Arc<Shared>) {
    let reader = Arc::clone(shared);
    let started = shared.start("teamster-reader", move || {
        while let Ok(Some(said)) = message::receive(&stream) {
            let Some(said) = dump::heard(&reader.root, &stream, said) else { continue };
            if reader.events.send(Event::Said(id, said)).is_err() {
                break;
            }
        }
        reader.streams.lock().remove(&id);
        let _ = reader.events.send(Event::Closed(id)); // the hub may have ended
    });
    if started.is_err() {
        shared.streams.lock().remove(&id);
        let _ = shared.events.try_send(Event::Closed(id)); // as above
    }
}

struct Hub {
    root: Weak<Actor>,
    shared: Arc<Shared>,
    connections: HashMap<ConnectionId, Connection>,
    /// Who stands still, in order of arrival. The first one's turn it is.
    queue: VecDeque<ConnectionId>,
    session: Option<Session>,
    /// The terminal that the prompt is in.
    front: Option<ConnectionId>,
    /// Somebody is to attach: the root's own terminal is left alone.
    waits_for_attach: bool,
    /// The thread that serves the root's own terminal.
    own_front: Option<OwnFront>,
    is_off: bool,
    quits: VecDeque<Uuid>,
    held: Option<HeldOutput>,
    /// What came too late to be held back, and is looked for until the end.
    late: Option<Late>,
    /// For the program that was looked at last.
    gdb: Option<(ProgramFile, Arc<HiddenGdb>)>,
}

/// Device and inode of a program, as far as they are to be had.
type ProgramFile = Option<(u64, u64)>;

struct OwnFront {
    connection: ConnectionId,
    thread: JoinHandle<()>,
}

struct Connection {
    stream: Arc<UnixStream>,
    stop: Option<Box<Stop>>,
}

impl Hub {
    fn run(mut self, inbox: &Receiver<Event>) {
        loop {
            self.let_out_late();
            let event = match inbox.recv_timeout(TRIM_EVERY) {
                Ok(event) => event,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.held.iter().for_each(HeldOutput::trim);
                    continue;
                }
            };
            match event {
                Event::Opened(id, stream) => {
                    self.connections.insert(id, Connection { stream, stop: None });
                }
                Event::Said(id, said) => self.said(id, said),
                Event::Closed(id) => self.closed(id),
                Event::Interrupt => {
                    self.show("ctrl-c is shielded here: c = continue, q = quit, abort = cancel the tree\n")
                }
                Event::Gdb(id, text) => self.answered(id, text),
                Event::End => break,
            }
        }
        self.close_terminal();
        self.let_out_late();
        if let Some((_, gdb)) = self.gdb.take() {
            gdb.end();
        }
        if let Some(OwnFront { connection, thread }) = self.own_front.take() {
            if let Some(connection) = self.connections.get(&connection) {
                let _ = connection.stream.shutdown(std::net::Shutdown::Both); // closed already: as good
            }
            let _ = thread.join(); // its panic was told by the hook
        }
    }

    fn said(&mut self, id: ConnectionId, said: ToHub) {
        match said {
            ToHub::Stop(stop) => self.stopped(id, stop),
            ToHub::Quit { error } => {
                if self.quits.len() == MAX_QUITS {
                    self.quits.pop_front();
                }
                self.quits.push_back(error);
                self.tell(id, &FromHub::Granted); // heard
            }
            ToHub::Frames(frames) => self.with_session(id, |session| session.named(frames)),
            ToHub::Out { text } => self.answered(id, text),
            ToHub::Front => self.attached(id),
            ToHub::Line(line) if self.front == Some(id) => self.typed(&line),
            ToHub::Eof if self.front == Some(id) => self.typed("c"),
            ToHub::Interrupted if self.front == Some(id) => {
                self.show("ctrl-c clears the line: c = continue, q = quit, abort = cancel the tree\n");
                self.ask();
            }
            ToHub::Ran(text) if self.front == Some(id) => {
                self.shared.runs.store(false, Ordering::SeqCst);
                if !text.is_empty() {
                    self.show(&format!("{text}\n"));
                }
                self.ask();
            }
            ToHub::NoTerminal(why) => self.no_terminal(id, &why),
            ToHub::Dumped(_) | ToHub::DumpWanted { .. } => {} // its reader has seen to it
            ToHub::Line(_) | ToHub::Eof | ToHub::Interrupted | ToHub::Ran(_) => {}
        }
    }

    // ---- who stands still

    fn stopped(&mut self, id: ConnectionId, stop: Box<Stop>) {
        let is_quit = stop.error.is_some_and(|error| self.quits.contains(&error));
        if self.is_off || is_quit {
            self.resume(id, Answer::Continue);
            return;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.stop = Some(stop);
            self.queue.push_back(id);
            self.next();
        }
    }

    /// Whoever is first has the prompt, if there is a terminal for it.
    fn next(&mut self) {
        if self.session.is_some() {
            return;
        }
        let Some(&id) = self.queue.front() else { return self.close_terminal() };
        let Some(front) = self.front.or_else(|| self.open_terminal()) else { return };
        let Some(stop) = self.connections.get_mut(&id).and_then(|connection| connection.stop.clone()) else {
            self.queue.pop_front();
            return self.next();
        };
        if self.is_own(front) && !self.shared.is_open.swap(true, Ordering::SeqCst) {
            self.held = HeldOutput::begin();
        }
        let path = self.path_of(&stop.aid);
        let gdb = self.gdb_of(&stop.exe);
        let session = Session::new(id, stop, path, gdb, Arc::clone(&self.shared));
        self.tell(id, &FromHub::Granted);
        let banner = session.banner(&self.waiting());
        self.session = Some(session);
        self.show(&banner);
        self.ask();
    }

    fn gdb_of(&mut self, exe: &str) -> Arc<HiddenGdb> {
        let file = std::fs::metadata(exe).ok().map(|file| (file.dev(), file.ino()));
        match &self.gdb {
            Some((of, gdb)) if *of == file => Arc::clone(gdb),
            _another => Arc::clone(&self.gdb.insert((file, HiddenGdb::new())).1),
        }
    }

    /// The paths of those that wait their turn.
    fn waiting(&self) -> Vec<String> {
        let waiting = self.queue.iter().skip(1).filter_map(|id| self.connections.get(id)?.stop.as_ref());
        waiting.map(|stop| self.path_of(&stop.aid)).collect()
    }

    fn resume(&mut self, id: ConnectionId, answer: Answer) {
        self.tell(id, &FromHub::Resume { answer, off: self.is_off });
    }

    /// The one at the prompt goes on.
    fn release(&mut self, answer: Answer) {
        let Some(session) = self.session.take() else { return };
        self.queue.retain(|id| *id != session.connection);
        // Closed before it goes on: what it does then finds the terminal as it was.
        if self.queue.is_empty() || self.is_off {
            self.close_terminal();
        }
        self.resume(session.connection, answer);
        if self.is_off {
            for id in std::mem::take(&mut self.queue) {
                self.resume(id, Answer::Continue);
            }
        }
        self.next();
    }

    fn closed(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.queue.retain(|other| *other != id);
        if let Some(own) = self.own_front.take_if(|own| own.connection == id) {
            let _ = own.thread.join(); // its panic was told by the hook
        }
        if self.session.as_ref().is_some_and(|session| session.connection == id)
            && let Some(session) = self.session.take()
        {
            self.tell_front(&FromHub::Hush);
            self.show(&format!("\n-- {} is gone\n", session.path));
            self.next();
        }
        if self.front == Some(id) {
            self.front = None;
            if let Some(session) = self.session.take() {
                // Its terminal is gone: it waits for the next one, where there can be one.
                self.queue.retain(|other| *other != session.connection);
                self.queue.push_front(session.connection);
            }
            self.leave_terminal();
            if !self.waits_for_attach {
                self.nobody("the terminal has gone away");
            }
        }
    }

    /// Nobody can be asked: all go on, and log what they know.
    fn nobody(&mut self, why: &str) {
        self.session = None;
        for id in std::mem::take(&mut self.queue) {
            self.tell(id, &FromHub::Nobody { why: why.to_owned() });
        }
    }

    // ---- the terminal

    fn open_terminal(&mut self) -> Option<ConnectionId> {
        if self.waits_for_attach {
            let listens = std::env::var_os(LISTEN).map(PathBuf::from).unwrap_or_default();
            let path = listens.display();
            let text = format!("an actor has stopped, and waits for `teamster attach {path}`");
            super::stop::beside(move || {
                tracing::warn!(target: "teamster::debug", "{text}");
                eprintln!("teamster: {text}");
            });
            return None;
        }
        if let Err(why) = front::has_terminal() {
            self.nobody(&why);
            return None;
        }
        if self.own_front.is_none() {
            let started = UnixStream::pair().and_then(|(ours, theirs)| {
                let thread = thread("teamster-tty", move || front::run(theirs))?;
                Ok((ours, thread))
            });
            match started {
                Ok((ours, thread)) => {
                    let (id, stream) = (self.shared.next.fetch_add(1, Ordering::Relaxed), Arc::new(ours));
                    self.own_front = Some(OwnFront { connection: id, thread });
                    // Its events come after those that wait already: it is known here and now.
                    self.connections.insert(id, Connection { stream: Arc::clone(&stream), stop: None });
                    read(id, stream, &self.shared);
                }
                Err(error) => {
                    self.nobody(&format!("no thread for the terminal: {error}"));
                    return None;
                }
            }
        }
        self.front = self.own_front.as_ref().map(|own| own.connection);
        self.front
    }

    /// Whether this is the root's own terminal.
    fn is_own(&self, front: ConnectionId) -> bool {
        self.own_front.as_ref().is_some_and(|own| own.connection == front)
    }

    fn attached(&mut self, id: ConnectionId) {
        if let Some(before) = self.front.filter(|before| *before != id) {
            self.tell(before, &FromHub::Hush);
        }
        self.front = Some(id);
        match self.session.as_ref().map(|session| session.banner(&self.waiting())) {
            Some(banner) => {
                self.show(&banner);
                self.ask();
            }
            None if self.queue.is_empty() => self.show("no actor has stopped; this terminal waits for one\n"),
            None => self.next(),
        }
    }

    fn no_terminal(&mut self, id: ConnectionId, why: &str) {
        if self.front == Some(id) {
            self.front = None;
            self.leave_terminal();
            self.nobody(why);
        }
    }

    /// Nothing is stopped any more: the terminal is as it was, and what was held goes out.
    fn close_terminal(&mut self) {
        self.tell_front(&FromHub::Close);
        if self.front.is_some_and(|front| self.is_own(front)) {
            self.front = None;
        }
        self.leave_terminal();
    }

    /// What was held back goes out, and ctrl-c is the tree's again.
    fn leave_terminal(&mut self) {
        if let Some(held) = self.held.take() {
            self.let_out_late(); // of the time before
            self.late = held.end();
        }
        self.shared.is_open.store(false, Ordering::SeqCst);
    }

    fn let_out_late(&mut self) {
        if let Some(late) = &mut self.late
            && late.let_out().is_err()
        {
            self.late = None; // the terminal has gone away
        }
    }

    fn show(&self, text: &str) {
        self.tell_front(&FromHub::Show { text: printable(text), is_paged: false });
    }

    fn ask(&self) {
        if let Some(session) = &self.session {
            self.tell_front(&FromHub::Ask { prompt: session.prompt(), words: session.words() });
        }
    }

    fn tell_front(&self, message: &FromHub) {
        if let Some(front) = self.front {
            self.tell(front, message);
        }
    }

    fn tell(&self, id: ConnectionId, message: &FromHub) {
        if let Some(connection) = self.connections.get(&id) {
            // One that is gone is told by its end.
            let _ = message::send(&connection.stream, message);
        }
    }

    // ---- commands

    fn with_session(&mut self, id: ConnectionId, act: impl FnOnce(&mut Session) -> Option<Next>) {
        if let Some(session) = self.session.as_mut().filter(|session| session.connection == id)
            && let Some(next) = act(session)
        {
            self.follow(next);
        }
    }

    fn answered(&mut self, id: ConnectionId, text: String) {
        self.with_session(id, |_| Some(Next::Show(text)));
    }

    fn typed(&mut self, line: &str) {
        if let Some(session) = &mut self.session {
            let next = session.typed(line);
            self.follow(next);
        }
    }

    fn follow(&mut self, next: Next) {
        let Some(id) = self.session.as_ref().map(|session| session.connection) else { return };
        match next {
            Next::Show(mut text) => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                self.tell_front(&FromHub::Show { text: printable(&text), is_paged: true });
                self.ask();
            }
            Next::Wait => {}
            Next::Do(command) => self.tell(id, &FromHub::Do(command)),
            Next::Gdb(query) => {
                let events = self.shared.events.clone();
                // The hub may have ended when it answers.
                query(Box::new(move |text| drop(events.send(Event::Gdb(id, text)))));
            }
            Next::Run(program) => {
                self.shared.runs.store(true, Ordering::SeqCst);
                self.tell_front(&FromHub::Run(program));
            }
            Next::Tree => {
                let text = self.tree();
                self.follow(Next::Show(text));
            }
            Next::Log(lines) => {
                let text =
                    self.held.as_ref().map_or_else(|| "nothing is held back".to_owned(), |held| held.tail(lines));
                self.follow(Next::Show(text));
            }
            Next::Release(answer) => self.release(answer),
            Next::Off => {
                self.is_off = true;
                self.show("debug mode is off: nothing stops any more\n");
                self.release(Answer::Continue);
            }
            Next::Abort => {
                self.is_off = true;
                if let Some(root) = self.root.upgrade() {
                    root.cancel_self(Canceller { aid: root.aid.clone(), request: CancelRequest::Actor });
                }
                self.release(Answer::Quit);
            }
        }
    }

    // ---- the tree

    fn path_of(&self, aid: &Aid) -> String {
        let Some(names) = self.root.upgrade().and_then(|root| root.names.clone()) else {
            return aid.name().to_owned();
        };
        let all = names.living();
        let mut path = vec![aid.name().to_owned()];
        let mut at = aid.uuid();
        while let Some(Living { parent: Some(parent), .. }) = all.iter().find(|actor| actor.aid.uuid() == at)
            && let Some(Living { aid, .. }) = all.iter().find(|actor| actor.aid.uuid() == *parent)
            && path.len() <= all.len()
        {
            path.push(aid.name().to_owned());
            at = *parent;
        }
        path.reverse();
        path.join("/")
    }

    /// Every living actor, with who stands still.
    fn tree(&self) -> String {
        let Some(names) = self.root.upgrade().and_then(|root| root.names.clone()) else {
            return "the tree is gone".to_owned();
        };
        let all = names.living();
        let mut text = String::new();
        let mut stack: Vec<(&Aid, usize)> =
            all.iter().filter(|actor| actor.parent.is_none()).map(|actor| (&actor.aid, 0)).collect();
        while let Some((aid, depth)) = stack.pop() {
            let place = self.queue.iter().position(|id| {
                let stop = self.connections.get(id).and_then(|connection| connection.stop.as_ref());
                stop.is_some_and(|stop| stop.aid.uuid() == aid.uuid())
            });
            let note = match place {
                Some(0) => "  <- at the prompt".to_owned(),
                Some(place) => format!("  waits, {place} before it"),
                None => String::new(),
            };
            text += &format!("{}{} (pid {}){note}\n", "  ".repeat(depth), aid.name(), aid.pid());
            let mut below: Vec<&Aid> =
                all.iter().filter(|actor| actor.parent == Some(aid.uuid())).map(|actor| &actor.aid).collect();
            below.sort_by_key(|aid| std::cmp::Reverse((aid.name(), aid.pid())));
            stack.extend(below.into_iter().map(|aid| (aid, depth + 1)));
        }
        text
    }
}

/// What is shown is the user's: it must not move the terminal's cursor.
fn printable(text: &str) -> String {
    let escaped =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escaped).collect()
}
