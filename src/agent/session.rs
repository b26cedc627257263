//! What does one connection get? A process that sees who is there, starts one actor's keeper, and ends with that.
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::books::{Books, Entry, Recorded};
use super::cache::{Fetch, Step, cant_start};
use super::groups::{Group, Groups};
use super::{Agent, SESSION_VARIABLE};
use crate::actor::boot::{BOOT_VARIABLE, replace_stdin};
use crate::actor::bounded;
use crate::actor::keeper::{FROM_VARIABLE, KEEP, KEPT, SIGNALLED};
use crate::actor::process::has_ended;
use crate::actor::signals;
use crate::actor::wire::{FROM_ACTOR, Sink, Source, TO_ACTOR, Wire, shake_hands, wait};
use crate::channel::handshake::HANDSHAKE_WITHIN;
use crate::msg::agent::{ORDERS, Order};
use crate::msg::word::{STDERR, STDIN, STDOUT, Word};
use crate::transport::folder::Base;
use crate::transport::tcp;
use crate::transport::tls::{Handshake, Identity};

/// As an actor's parent sees to it.
const MAX_NAME_BYTES: usize = 255;

/// Of an actor that has some five hundred others above it.
const MAX_LINEAGE_BYTES: usize = 16 * 1024;

/// How long a client may ask for, as the time that the network may be silent.
const MOST_SILENT: Duration = Duration::from_hours(1);

/// Beyond its grace, what a keeper that nobody leads may take to end its actor.
pub(super) const BEYOND_GRACE: Duration = Duration::from_secs(2);

/// How long the end of an actor waits for the last of what it has printed, and for the client to take that.
const PRINTED_WITHIN: Duration = Duration::from_secs(1);

/// What killed ones may take to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// How long a start may wait for others to be written down.
const WRITTEN_DOWN_WITHIN: Duration = Duration::from_secs(5);

/// Sees to the connection that is this process's stdin.
pub(super) fn answer(agent: &Agent, groups: &OsStr) -> ! {
    let ended = answer_one(agent, groups);
    if let Err(error) = &ended {
        tell("no", &error.to_string());
    }
    signals::exit_now(i32::from(ended.is_err()))
}

/// Says a line to the agent, which logs it; where that is gone, to whoever reads its stderr.
fn tell(word: &str, text: &str) {
    let cut = &text[..text.floor_char_boundary(MAX_TOLD_BYTES)];
    let text = cut.replace(char::is_control, " "); // some of it is a client's
    if rustix::io::write(rustix::stdio::stdout(), format!("{word} {text}\n").as_bytes()).is_err() {
        let _ = writeln!(io::stderr(), "teamster: {text}"); // nobody is left to be told
    }
}

/// Bytes of a text that is logged: a pipe takes it at once.
const MAX_TOLD_BYTES: usize = 1024;

fn answer_one(agent: &Agent, groups: &OsStr) -> io::Result<()> {
    let fd: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    replace_stdin()?;
    let from = tcp::peer(fd.as_fd()).ok_or_else(|| io::Error::other("it has gone"))?;
    tcp::prepare_to_end(&fd, HANDSHAKE_WITHIN)?;
    let (credentials, _name) = agent.credentials()?;
    let identity = Identity::new(&credentials)?;
    let stream = match shake_hands(Handshake::with_caller(fd, &identity)?, HANDSHAKE_WITHIN) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()), // a probe is no event
        stream => stream?,
    };
    let name = stream.peer_identity().ok_or_else(|| io::Error::other("its certificate is of no identity"))?;
    let mut wire = Wire::new(stream);
    let client = Client { name, from };
    let ordered = check_name(&client.name).and_then(|()| order(&mut wire));
    let served = ordered.and_then(|order| Served::admit(agent, &client, groups, order, &wire));
    match served {
        Ok(served) => {
            let order = &served.order;
            tell("in", &format!("{} of {} starts {} ({})", client.name, client.from, order.actor, order.uuid));
            let (what, ended) = served.serve(wire, &client);
            tell("out", &format!("{what} of {} has ended: {ended}", client.name));
            Ok(())
        }
        Err(error) => {
            refuse(&mut wire, error.to_string());
            Err(io::Error::other(format!("{}: {error}", client.name)))
        }
    }
}

/// Who is there, and where.
struct Client {
    name: String,
    from: SocketAddr,
}

/// Folders and groups of processes here are called by it. An authority that is not `teamster ca` may sign any.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let is_label = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_label {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{name:?} is no name for a client: an identity's has 1 to 63 small letters, digits and hyphens, and no hyphen at its ends; \
         `teamster ca issue` makes one"
    )))
}

/// Says why not, and waits until the client has closed: what it sends meanwhile would have the kernel take the answer back. One
/// that does not read it is none of ours any more, nor one that goes on talking.
fn refuse(wire: &mut Wire, why: String) {
    let until = Instant::now() + PRINTED_WITHIN;
    let _ = wire.push(&Word::Refused(why));
    while !wire.is_over() && Instant::now() < until {
        let Ok(waits) = wire.flush() else { return };
        let Ok(is_more) = hear(wire, |_| Ok(())) else { return };
        wait(&mut [wire.watch(waits)], Some(if is_more { Instant::now() } else { until }));
    }
}

/// Hears what a client has said, as far as it is heard at a time: one that goes on talking holds up nothing else. Whether there may
/// be more of it, which no poll would tell.
fn hear(wire: &mut Wire, mut on: impl FnMut(Word) -> io::Result<()>) -> io::Result<bool> {
    for _ in 0..MOST_WORDS {
        let Some(word) = wire.next()? else { return Ok(false) };
        on(word)?;
    }
    Ok(true)
}

/// Words that are heard before something else has its turn: the whole window, in frames that are full.
const MOST_WORDS: usize = 64;

fn order(wire: &mut Wire) -> io::Result<Order> {
    let until = Instant::now() + HANDSHAKE_WITHIN;
    let order = loop {
        match wire.next()? {
            Some(Word::Order(order)) => break *order,
            Some(_) => return Err(io::Error::other("it does not begin with an order")),
            None if wire.is_over() => return Err(io::ErrorKind::UnexpectedEof.into()),
            None if until <= Instant::now() => return Err(io::Error::other("it did not say what it wants")),
            None => {}
        }
        let waits = wire.flush()?;
        wait(&mut [wire.watch(waits)], Some(until));
    };
    if order.version != ORDERS {
        let text = format!(
            "it gives orders of the version {}, and this agent takes {ORDERS}: take one of the same release",
            order.version
        );
        return Err(io::Error::other(text));
    }
    if order.actor.len() > MAX_NAME_BYTES {
        return Err(io::Error::other("it asks for an actor with too long a name"));
    }
    let is_lineage = order.lineage.len() <= MAX_LINEAGE_BYTES
        && order.lineage.split('/').all(|id| id.len() == 32 || id == &KEPT[1..]);
    if !is_lineage || !order.lineage.ends_with(&order.uuid.simple().to_string()) {
        return Err(io::Error::other("it asks for an actor that has no such ancestors"));
    }
    Ok(order)
}

/// One order that is taken. Dropped, it is in the books no more, unless something of it can't be ended.
struct Served {
    order: Order,
    books: Books,
    entry: Entry,
    group: Option<Group>,
    fetch: Fetch,
}

impl Served {
    fn admit(agent: &Agent, client: &Client, groups: &OsStr, order: Order, wire: &Wire) -> io::Result<Self> {
        let limits = agent.limits_for(&client.name);
        let fetch = Fetch::new(&agent.cache, &client.name, &order.executable, order.executable_bytes)?;
        tcp_silence(wire, Duration::from_millis(order.lost_after_ms))?;
        let books = Books::open(&agent.state)?;
        let mut entry = Entry::new(
            &client.name,
            client.from.to_string(),
            &order.actor,
            order.uuid,
            &order.lineage,
            bounded(Duration::from_millis(order.grace_ms)),
        );
        let _lock = lock(&books, wire)?;
        let others = books.entries()?;
        if others.iter().any(|other| other.uuid == order.uuid) {
            return Err(io::Error::other(format!("an actor {} was started there already", order.uuid)));
        }
        let count = others.iter().filter(|other| other.client == client.name && other.lives()).count();
        if count >= limits.actors as usize {
            let many = match limits.actors {
                0 => "no actor".to_owned(),
                1 => "1 actor".to_owned(),
                many => format!("{many} actors"),
            };
            return Err(io::Error::other(format!(
                "{0} may run {many} here at a time, and {count} run: end one, or start this host's agent with --limits-of \
                 {0}:actors={1}",
                client.name,
                count + 1
            )));
        }
        let groups = Groups::at(Path::new(groups));
        let group = groups.map(|groups| groups.make(&client.name, order.uuid, &limits)).transpose()?;
        entry.group = group.as_ref().map(|group| group.path().to_owned());
        books.write(&entry).inspect_err(|_| group.iter().for_each(Group::remove))?;
        Ok(Served { order, books, entry, group, fetch })
    }

    /// Until the actor has ended: what it was, and how it ended, for the log.
    fn serve(mut self, wire: Wire, client: &Client) -> (String, String) {
        let what = format!("{} ({})", self.order.actor, self.order.uuid);
        let mut line = Line {
            wire,
            sink: Sink::new(STDIN, None, TO_ACTOR),
            sources: [Source::new(STDOUT, None, FROM_ACTOR), Source::new(STDERR, None, FROM_ACTOR)],
        };
        let path = match line.fetch(&mut self.fetch) {
            Ok(Some(path)) => path,
            Ok(None) => return (what, "nobody waits for it".to_owned()),
            Err(error) => {
                refuse(&mut line.wire, error.to_string());
                return (what, error.to_string());
            }
        };
        let mut kept = match self.start(&path, client) {
            Ok(kept) => kept,
            Err(error) => {
                refuse(&mut line.wire, error.to_string());
                return (what, error.to_string());
            }
        };
        (what, line.carry(&mut kept, self))
    }

    fn start(&mut self, path: &Path, client: &Client) -> io::Result<Kept> {
        let mut command = Command::new(path);
        command.args(self.order.args.iter().map(|arg| OsString::from_vec(arg.to_vec())));
        command.env(BOOT_VARIABLE, KEEP).env(FROM_VARIABLE, client.from.ip().to_canonical().to_string());
        for ours in [SESSION_VARIABLE, "TEAMSTER_IDENTITY", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(ours);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let process = command.spawn().map_err(|error| cant_start(path, &error))?;
        let mut kept = Kept::new(process)?;
        self.entry.keeper = Some(Recorded::of(kept.process.id()));
        // It starts nothing before it is told what, and that has not been passed on yet.
        let written = self.books.write(&self.entry);
        let taken = self.group.as_ref().map_or(Ok(()), |group| group.take_in(kept.process.id()));
        if let Err(error) = written.and(taken) {
            kept.kill();
            let _ = kept.process.wait(); // what counts is why it could not stay
            return Err(error);
        }
        Ok(kept)
    }

    /// Takes it out of the books, once nothing of it is left. Where the kernel takes longer to end that, it stays in them, and
    /// the agent sees to it as soon as this process has ended.
    fn close(&self, within: Duration) {
        if !self.end_all(within) {
            return;
        }
        if let Some(group) = &self.group {
            group.remove();
        }
        self.books.remove(self.entry.uuid);
    }

    /// Sees to what its keeper has not ended: nothing, unless that was killed itself. Whether all of it is gone.
    fn end_all(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut was_left = false;
        while let Some(one) = kill_left(&self.entry).first() {
            was_left = true;
            if until <= Instant::now() {
                return false;
            }
            wait(&mut [PollFd::new(one, PollFlags::IN)], Some(until));
        }
        if was_left {
            sweep_sockets();
        }
        true
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.close(KILLED_WITHIN);
    }
}

/// SIGKILL for all that is left of an actor. Who that was: all of it is gone once there is none.
pub(super) fn kill_left(entry: &Entry) -> Vec<OwnedFd> {
    let left = entry.left();
    for pidfd in &left {
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
    if let Some(path) = &entry.group {
        Group::at(path).kill();
    }
    left
}

/// What killed ones have left of sockets. That of others is never touched, and another sweep finds what can't be looked at now.
pub(super) fn sweep_sockets() {
    if let Ok(Some(base)) = Base::find() {
        base.sweep();
    }
}

/// From here on the network may be silent as long as the client says.
fn tcp_silence(wire: &Wire, lost_after: Duration) -> io::Result<()> {
    let fd = wire.stream().as_fd().try_clone_to_owned()?;
    tcp::prepare_to_end(&fd, lost_after.clamp(Duration::from_millis(100), MOST_SILENT))
}

/// Others are written down in a moment. One that stands still is not waited for, nor one whose client has gone.
fn lock(books: &Books, wire: &Wire) -> io::Result<OwnedFd> {
    let until = Instant::now() + WRITTEN_DOWN_WITHIN;
    loop {
        if let Some(lock) = books.lock()? {
            return Ok(lock);
        }
        if until <= Instant::now() {
            return Err(io::Error::other("the host's books are in use, by a process that stands still"));
        }
        let gone = PollFd::from_borrowed_fd(wire.stream().as_fd(), PollFlags::RDHUP);
        wait(&mut [gone], Some(Instant::now() + LOOK_AGAIN_AFTER));
    }
}

/// A lock that becomes free makes nothing readable.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// A keeper.
struct Kept {
    process: Child,
    pidfd: OwnedFd,
}

impl Kept {
    fn new(mut process: Child) -> io::Result<Self> {
        match rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Kept { process, pidfd }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error.into())
            }
        }
    }

    fn kill(&self) {
        // Gone already is as good.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn status(&mut self) -> i32 {
        let status = self.process.wait();
        let of_signal = |status: std::process::ExitStatus| status.signal().map(|signal| SIGNALLED + signal);
        status.ok().and_then(|status| status.code().or_else(|| of_signal(status))).unwrap_or(SIGNALLED)
    }
}

/// What a step has left.
struct Moved {
    /// The client may say more: it has not closed the line.
    goes_on: bool,
    /// It may have said more already: see [`hear`].
    is_more: bool,
    /// Something waits to leave.
    waits: bool,
}

/// The line, and what it carries.
struct Line {
    wire: Wire,
    sink: Sink,
    sources: [Source; 2],
}

impl Line {
    /// Until the executable is here. `None`: the client has gone.
    fn fetch(&mut self, fetch: &mut Fetch) -> io::Result<Option<std::path::PathBuf>> {
        let mut step = fetch.look();
        loop {
            match step {
                Step::Found(path) => return Ok(Some(path)),
                Step::Ask(text) => self.say(text)?,
                Step::More => {}
            }
            step = Step::More;
            let is_more = self.hear()?;
            let waiting = self.sink.receiving.waiting();
            if !waiting.is_empty() {
                let (taken, next) = fetch.feed(waiting)?;
                step = next;
                if let Some(bytes) = (taken > 0).then(|| self.sink.receiving.take(taken)).flatten() {
                    self.wire.push(&Word::Grant(STDIN, bytes))?;
                }
                continue;
            }
            if self.wire.is_over() || self.sink.is_over() {
                return Ok(None);
            }
            let waits = self.wire.flush()?;
            wait(&mut [self.wire.watch(waits)], is_more.then(Instant::now));
        }
    }

    /// As if it had been printed.
    fn say(&mut self, text: String) -> io::Result<()> {
        let [stdout, _] = &mut self.sources;
        if stdout.sending.room() < text.len() {
            return Err(io::Error::other("its client does not read"));
        }
        stdout.send(&mut self.wire, text.into())
    }

    /// Takes what the client has said. Whether there may be more of it.
    fn hear(&mut self) -> io::Result<bool> {
        let Line { wire, sink, sources } = self;
        hear(wire, |word| match word {
            Word::Bytes(STDIN, bytes) => sink.receiving.on_bytes(&bytes).map_err(io::Error::other),
            Word::End(STDIN) => {
                sink.receiving.on_end();
                Ok(())
            }
            Word::Grant(stream @ (STDOUT | STDERR), bytes) => {
                let source = &mut sources[usize::from(stream - STDOUT)];
                source.sending.on_grant(bytes).map_err(io::Error::other)
            }
            _ => Err(io::Error::other("it says what an agent says")),
        })
    }

    /// Moves what is there.
    fn step(&mut self) -> io::Result<Moved> {
        let is_more = self.hear()?;
        self.sink.push(&mut self.wire)?;
        for source in &mut self.sources {
            source.pull(&mut self.wire)?;
        }
        Ok(Moved { goes_on: !self.wire.is_over(), is_more, waits: self.wire.flush()? })
    }

    /// Until the keeper has ended. How, for the log.
    fn carry(mut self, kept: &mut Kept, served: Served) -> String {
        let grace = bounded(Duration::from_millis(served.order.grace_ms));
        if let (Some(stdin), Some(stdout), Some(stderr)) =
            (kept.process.stdin.take(), kept.process.stdout.take(), kept.process.stderr.take())
        {
            self.sink.open(stdin.into());
            self.sources[0].open(stdout.into());
            self.sources[1].open(stderr.into());
        }
        let mut kill_at = None;
        let mut line = Some(self);
        let mut lost = String::new();
        while !has_ended(kept.pidfd.as_fd()) {
            let (mut waits, mut is_more) = (false, false);
            if let Some(one) = &mut line {
                let gone = match one.step() {
                    Ok(moved) if moved.goes_on => {
                        (waits, is_more) = (moved.waits, moved.is_more);
                        None
                    }
                    Ok(_) => Some("its client has gone".to_owned()),
                    Err(error) => Some(error.to_string()),
                };
                if let Some(why) = gone {
                    // With its stdin the keeper loses who led it.
                    (line, lost) = (None, format!(" ({why})"));
                    kill_at = Some(Instant::now() + grace + BEYOND_GRACE);
                }
            }
            if kill_at.is_some_and(|at| at <= Instant::now()) {
                kill_left(&served.entry);
                kept.kill();
                kill_at = None;
            }
            let mut fds = vec![PollFd::new(&kept.pidfd, PollFlags::IN)];
            if let Some(one) = &line {
                fds.push(one.wire.watch(waits));
                fds.extend(one.sink.watch());
                fds.extend(one.sources.iter().filter_map(Source::watch));
            }
            wait(&mut fds, if is_more { Some(Instant::now()) } else { kill_at });
        }
        let status = kept.status();
        let is_short = served.group.as_ref().is_some_and(Group::was_short_of_memory);
        drop(served); // who hears of the end finds nothing of it in the books, unless the kernel takes long
        if let Some(line) = line
            && let Err(error) = line.conclude(status, is_short)
        {
            lost = format!(" ({error})");
        }
        format!("status {status}{lost}")
    }

    /// The last of what was printed, and how it has ended.
    fn conclude(mut self, status: i32, is_short_of_memory: bool) -> io::Result<()> {
        self.sink.close();
        if is_short_of_memory {
            let text = "teamster: the kernel has killed a process of this actor, since its client's limit of memory was reached\n";
            let [_, stderr] = &mut self.sources;
            if stderr.sending.room() >= text.len() {
                stderr.send(&mut self.wire, text.into())?;
            }
        }
        let until = Instant::now() + PRINTED_WITHIN;
        let mut is_said = false;
        loop {
            let Moved { goes_on, is_more, waits } = self.step()?;
            if !goes_on {
                return Ok(()); // it has all, or does not want it
            }
            let is_late = until <= Instant::now();
            if !is_said && (is_late || self.sources.iter().all(|source| source.sending.is_over())) {
                self.wire.push(&Word::Exit(status))?;
                is_said = true;
                continue;
            }
            if until + PRINTED_WITHIN <= Instant::now() {
                return Ok(());
            }
            if is_more {
                continue;
            }
            let mut fds = vec![self.wire.watch(waits)];
            fds.extend(self.sources.iter().filter_map(Source::watch));
            wait(&mut fds, Some(if is_said { until + PRINTED_WITHIN } else { until }));
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use uuid::Uuid;

    use super::*;
    use crate::actor::boot::LINEAGE_VARIABLE;
    use crate::transport::stream::Stream;

    /// How many words of those that are there are heard in one go, until none is left.
    #[test]
    fn one_that_goes_on_talking_is_heard_so_long_and_no_longer() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut words = Vec::new();
        for _ in 0..2 * MOST_WORDS + 1 {
            Word::Bytes(STDIN, "x".into()).write(&mut words).unwrap();
        }
        assert_eq!(rustix::io::write(&other, &words).unwrap(), words.len());
        let mut line = Line {
            wire: Wire::new(Stream::plain(ours)),
            sink: Sink::new(STDIN, None, TO_ACTOR),
            sources: [Source::new(STDOUT, None, FROM_ACTOR), Source::new(STDERR, None, FROM_ACTOR)],
        };
        let heard = |line: &Line| line.sink.receiving.waiting().len();
        assert!(line.step().unwrap().is_more);
        assert_eq!(heard(&line), MOST_WORDS);
        assert!(line.step().unwrap().is_more);
        let last = line.step().unwrap();
        assert!(!last.is_more && last.goes_on);
        assert_eq!(heard(&line), 2 * MOST_WORDS + 1);
        drop(other);
        assert!(!line.step().unwrap().goes_on);
    }

    #[test]
    fn what_a_kill_has_not_ended_stays_in_the_books() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path()).unwrap();
        let uuid = Uuid::new_v4();
        let lineage = uuid.simple().to_string();
        let mut entry = Entry::new("anna", "10.0.0.1:7".into(), "w", uuid, &lineage, Duration::ZERO);
        let mut gone = Command::new("true").spawn().unwrap();
        entry.session = Recorded::of(gone.id());
        gone.wait().unwrap();
        books.write(&entry).unwrap();
        assert!(!entry.lives());
        let order = Order {
            version: ORDERS,
            actor: "w".into(),
            uuid,
            lineage: lineage.clone(),
            grace_ms: 0,
            lost_after_ms: 1000,
            executable: "0a-5".into(),
            executable_bytes: 5,
            args: Vec::new(),
        };
        let fetch = Fetch::new(folder.path(), "anna", "0a-5", 5).unwrap();
        let served = Served { order, books: books.clone(), entry, group: None, fetch };

        let mut left = Command::new("cat");
        left.env(LINEAGE_VARIABLE, format!("{lineage}{KEPT}")).stdin(Stdio::piped());
        let mut left = left.spawn().unwrap();
        assert!(books.entries().unwrap()[0].lives(), "it counts");
        served.close(Duration::ZERO);
        assert_eq!(books.entries().unwrap().len(), 1);
        assert_eq!(left.wait().unwrap().signal(), Some(9));
        drop(served);
        assert_eq!(books.entries().unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_name_is_told() {
        for name in ["anna", "host-7", "a", &"a".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "../x", "/x", "a/b", "*", "Anna", "a.b", "-a", "a-", "a\nb", &"a".repeat(64)] {
            let told = check_name(name).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{name:?} is no name for a client: ")), "{told}");
        }
    }
}
