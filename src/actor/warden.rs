//! Who ends an actor's plain programs when it is killed? A process beside it, which sees its end.
//!
//! An actor that loses its parent ends by itself; a plain program knows nothing of that. Those above the actor find what it leaves and
//! kill it when its grace is over, but a root has nobody above it, and nobody else could ask first, by SIGTERM. So an actor that runs
//! programs has this process. It is handed what it needs of each: a descriptor that stands for it, and the ends of its pipes, so that its last
//! words do not kill it. When the actor has ended, however it did, it asks them to end, and kills what is left a while later.
use std::collections::HashSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::Actor;
use super::boot::{BOOT_VARIABLE, LINEAGE_VARIABLE};
use super::control::kids::kill;
use super::control::orphans;
use super::signals::{self, Signals};
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::proto::escalation::childs_share;

/// What the variable of the boot is where a warden is to be started.
pub(super) const WARD: &str = "ward";

/// What it is told first, in a packet of its own. Each of the others is a program's pid, with its descriptors.
#[derive(Serialize, Deserialize)]
struct Ward {
    /// Of the programs.
    lineage: String,
    grace_ms: u64,
}

/// Bytes of the largest packet: a lineage has 33 for each floor of the tree.
const MAX_PACKET_BYTES: usize = 16 * 1024;

/// Descriptors of a program: itself, its stdout, its stderr.
const DESCRIPTORS: usize = 3;

// ---- the actor's side

/// The process, from its actor's side.
pub(crate) struct Warden {
    process: Child,
    tells: OwnedFd,
}

impl Warden {
    /// Starts it. It is not waited for: what it is told, it finds when it has booted, and the actor's end too.
    ///
    /// # Errors
    ///
    /// No process or no descriptor is to be had.
    pub(crate) fn start(actor: &Actor) -> io::Result<Self> {
        let (tells, stdin) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(format!("teamster-warden:{}", actor.aid.name())).args(std::env::args_os().skip(1));
        command.env(BOOT_VARIABLE, WARD).env(LINEAGE_VARIABLE, actor.lineage_of_warden());
        // It holds nothing that somebody waits for the end of.
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").process_group(0);
        let grace_ms = u64::try_from(childs_share(actor.settings.grace).as_millis()).unwrap_or(u64::MAX);
        let mut message = Vec::new();
        codec::encode_into(&Ward { lineage: actor.lineage_of_programs(), grace_ms }, Encoding::Named, &mut message)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let warden = Warden { process: command.spawn()?, tells };
        warden.tell(&message, &[])?;
        Ok(warden)
    }

    /// Itself, unless somebody has killed it.
    pub(crate) fn if_it_is_there(mut self) -> Option<Self> {
        matches!(self.process.try_wait(), Ok(None)).then_some(self)
    }

    /// A program runs. One whose word does not get through, as the warden does not read, is found by its environment all the same, as
    /// far as it has kept that.
    pub(crate) fn guard(&self, pid: u32, descriptors: [BorrowedFd<'_>; DESCRIPTORS]) {
        let _ = self.tell(&pid.to_le_bytes(), &descriptors);
    }

    fn tell(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        // Nobody waits for it.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::io::retry_on_intr(|| sendmsg(&self.tells, &[IoSlice::new(bytes)], &mut control, flags));
        Ok(sent.map(drop)?)
    }

    /// The programs are gone, so it is of no more use.
    pub(crate) fn end(mut self) {
        // It is ours and not reaped: gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- its own

/// Waits for the actor's end, ends what that has left, and then this process.
pub(super) fn ward() -> ! {
    // An error: whoever wanted it is gone, or nothing can be read. Nobody hears what it would say.
    signals::exit_now(i32::from(ward_all().is_err()))
}

fn ward_all() -> io::Result<()> {
    // What ends the actor's group, or all of one name, is no reason for this process to end: its actor's end is.
    let _signals = Signals::install()?;
    let told = rustix::stdio::stdin();
    let Some((message, _)) = next(told, receive) else { return Ok(()) };
    let ward: Ward = codec::decode(&message).map_err(|error| io::Error::other(error.to_string()))?;
    let programs = read_programs(told, receive);
    end_all(&ward, programs);
    Ok(())
}

/// A packet, and the descriptors that came with it.
type Packet = (Vec<u8>, Vec<OwnedFd>);

/// The next packet. `None`: the actor has ended.
///
/// Only that is the end: a moment without memory would otherwise end the programs of an actor that lives. A packet that can't be
/// had when the actor is gone is left: its program is found by its environment.
fn next(told: BorrowedFd<'_>, mut receive: impl FnMut(BorrowedFd<'_>) -> io::Result<Option<Packet>>) -> Option<Packet> {
    loop {
        match receive(told) {
            Ok(packet) => return packet,
            Err(_) if has_ended(told) => return None,
            Err(_) => {}
        }
    }
}

/// Whether the actor has, or does so in the next moment. What is no socket has nobody at its other end.
fn has_ended(told: BorrowedFd<'_>) -> bool {
    let is_socket = rustix::net::sockopt::socket_type(told).is_ok();
    let pause = Timespec::try_from(LOOK_AGAIN).ok();
    // No events: of a hang-up it tells all the same, and of nothing else, so that an error that lasts is no busy loop.
    !is_socket || matches!(poll(&mut [PollFd::from_borrowed_fd(told, PollFlags::empty())], pause.as_ref()), Ok(1..))
}

/// What is there, or comes.
fn receive(told: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(told, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    bytes.truncate(received.bytes);
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    Ok(Some((bytes, descriptors)).filter(|(bytes, _)| !bytes.is_empty()))
}

/// A program, or one that it has started.
struct Guarded {
    pid: u32,
    pidfd: OwnedFd,
    /// What it writes to, as far as we were given it.
    pipes: Vec<OwnedFd>,
}

impl Guarded {
    fn new(pid: u32, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        Some(Guarded { pid, pidfd: descriptors.next()?, pipes: descriptors.collect() })
    }

    /// Whether it has not ended. We are not its parent, so waiting for it tells nothing.
    fn lives(&self) -> bool {
        !matches!(poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&Timespec::default())), Ok(1..))
    }

    /// Throws away what it has written: whoever would have read that is gone, and it is not to wait for him.
    fn drain(&mut self) {
        let mut buffer = [0; 64 * 1024];
        // The actor has made them non-blocking. Each once for each look: others have their turn.
        self.pipes.retain(|pipe| !matches!(rustix::io::read(pipe, &mut buffer), Ok(0)));
    }
}

/// All that were started and live, when the actor has ended.
fn read_programs(
    told: BorrowedFd<'_>,
    mut receive: impl FnMut(BorrowedFd<'_>) -> io::Result<Option<Packet>>,
) -> Vec<Guarded> {
    let mut programs: Vec<Guarded> = Vec::new();
    while let Some((pid, descriptors)) = next(told, &mut receive) {
        programs.retain(Guarded::lives); // as many as run at once
        let pid = <[u8; 4]>::try_from(&pid[..]).map(u32::from_le_bytes);
        programs.extend(pid.ok().and_then(|pid| Guarded::new(pid, descriptors)));
    }
    programs
}

/// SIGTERM for all of them, and SIGKILL for those that are left when their time is over.
fn end_all(ward: &Ward, mut programs: Vec<Guarded>) {
    let kill_at = Instant::now() + super::bounded(Duration::from_millis(ward.grace_ms));
    let mut look_at = Instant::now();
    let mut asked = HashSet::new();
    loop {
        let now = Instant::now();
        programs.retain(Guarded::lives);
        if look_at <= now || programs.is_empty() {
            // What they have started, and those that we were not told of.
            let known: HashSet<u32> = programs.iter().map(|program| program.pid).collect();
            let found = orphans::below_with_pids(&ward.lineage).filter(|(pid, _)| !known.contains(pid));
            programs.extend(found.map(|(pid, pidfd)| Guarded { pid, pidfd, pipes: Vec::new() }));
            look_at = now + LOOK_AGAIN;
        }
        if programs.is_empty() || now >= kill_at + KILLED_WITHIN {
            return; // those that are left are not ours to kill: another user's, by a program that changes it
        }
        for program in programs.iter().filter(|program| asked.insert(program.pid)) {
            kill(&program.pidfd, Signal::TERM);
            kill(&program.pidfd, Signal::CONT); // one that is stopped would not hear it
        }
        if now >= kill_at {
            programs.iter().for_each(|program| kill(&program.pidfd, Signal::KILL));
        }
        programs.iter_mut().for_each(Guarded::drain);
        wait(&programs, if now < kill_at { kill_at.min(look_at) } else { look_at });
    }
}

/// Until one has ended or written something, or until then.
fn wait(programs: &[Guarded], until: Instant) {
    let descriptors = programs.iter().flat_map(|program| program.pipes.iter().chain([&program.pidfd]));
    let mut fds: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let rest = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
    // An error, or a signal: the next look tells.
    let _ = poll(&mut fds, rest.as_ref());
}

/// Between two looks at what they have started, or at whether the actor lives.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long what was killed may take to be gone.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::Errno;
    use rustix::pipe::pipe;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn those_that_live_are_known_when_the_actor_has_ended() {
        let (tells, told) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        let (mut gone, mut lives_on) = (sleep(), sleep());
        let pidfds =
            [&gone, &lives_on].map(|process| pidfd_open(Pid::from_child(process), PidfdFlags::empty()).unwrap());
        gone.kill().unwrap();
        gone.wait().unwrap();
        let (read, write) = pipe().unwrap();
        let warden = Warden { process: sleep(), tells };
        warden.guard(gone.id(), [pidfds[0].as_fd(), read.as_fd(), read.as_fd()]);
        warden.guard(lives_on.id(), [pidfds[1].as_fd(), read.as_fd(), read.as_fd()]);
        warden.end();
        drop(read);
        let programs = read_programs(told.as_fd(), receive);
        assert_eq!(programs.iter().map(|program| program.pid).collect::<Vec<_>>(), [lives_on.id()]);
        assert_eq!(rustix::io::write(&write, b"its last words").unwrap(), 14, "somebody takes them");
        lives_on.kill().unwrap();
        lives_on.wait().unwrap();
        assert!(!programs[0].lives());
    }

    #[test]
    fn a_word_that_can_not_be_had_is_not_the_actors_end() {
        let (tells, told) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut program = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&program), PidfdFlags::empty()).unwrap();
        let mut warden = Some(Warden { process: Command::new("sleep").arg("60").spawn().unwrap(), tells });
        let mut errors = [Errno::NOBUFS, Errno::NOMEM, Errno::INTR].into_iter();
        let programs = read_programs(told.as_fd(), |told| match (errors.next(), warden.take()) {
            (Some(error), still) => {
                warden = still;
                Err(error.into())
            }
            (None, Some(started)) => {
                started.guard(program.id(), [pidfd.as_fd(); DESCRIPTORS]);
                started.end();
                receive(told)
            }
            (None, None) => receive(told),
        });
        assert_eq!(programs.iter().map(|program| program.pid).collect::<Vec<_>>(), [program.id()]);
        let told_on = next(told.as_fd(), |_| Err(Errno::NOMEM.into()));
        assert!(told_on.is_none(), "it has ended, whatever can't be read");
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        assert!(next(no_socket.as_fd(), receive).is_none());
        program.kill().unwrap();
        program.wait().unwrap();
    }
}
