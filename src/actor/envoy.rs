//! Who leads to another host's agent? A process of this host, which an actor there is seen by from here.
//!
//! To whoever started it, it is the child: what comes on its stdin goes there, what is printed there comes out of it, and it
//! ends as the actor's keeper has. One thread, no runtime: it is there as long as the actor is, and mostly idle.
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use super::boot::BOOT_FAILED;
use super::signals;
use super::stdin::read_message;
use super::wire::{FROM_ACTOR, Sink, Source, TO_ACTOR, Wire, shake_hands, wait};
use crate::channel::handshake::HANDSHAKE_WITHIN;
use crate::msg::addr::{Addr, Host, HostPort};
use crate::msg::agent::EnvoySpec;
use crate::msg::codec;
use crate::msg::word::{STDERR, STDIN, STDOUT, Word};
use crate::transport::tcp;
use crate::transport::tls::{Handshake, Identity};

/// What the variable of the boot is where an envoy is to be started.
pub(crate) const LEAD: &str = "lead";

/// Bytes of the largest message: it fits a pipe's buffer.
pub(crate) const MAX_ENVOY_BYTES: usize = 60 * 1024;

/// The exit status where what led to the actor has ended, and nobody knows how the actor has: ssh's own.
const LOST: i32 = 255;

/// How long one address of the agent may be silent.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long the last of what was printed may take to be written here, once the actor has ended: a terminal may be blocked.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Room for all that is printed while nobody reads it here, in bytes: two windows, and what TLS adds.
const RECEIVE_BYTES: usize = 256 * 1024;

/// Leads there, and ends with the actor.
pub(super) fn lead() -> ! {
    // A dead parent shows as the end of stdin, once that is looked at: until then, this.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let status = match go() {
        Ok(status) => status,
        Err(failed) => {
            let (status, text) = match &failed {
                Failed::Before(text) => (BOOT_FAILED, text),
                Failed::Lost(text) => (LOST, text),
            };
            eprintln!("teamster: {text}");
            status
        }
    };
    signals::exit_now(status)
}

/// Why nothing has come of it.
enum Failed {
    /// No actor was started.
    Before(String),
    /// The line has ended before the actor.
    Lost(String),
}

fn before(error: impl fmt::Display) -> Failed {
    Failed::Before(error.to_string())
}

fn go() -> Result<i32, Failed> {
    // Not by way of `io::stdin`, which reads ahead: what follows is not ours.
    let own = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(before);
    let mut stdin = File::from(own(rustix::stdio::stdin())?);
    let (stdout, stderr) = (own(rustix::stdio::stdout())?, own(rustix::stdio::stderr())?);
    let message = read_message(&mut stdin, MAX_ENVOY_BYTES);
    let message = message.map_err(|error| before(format!("reading where the agent is: {error}")))?;
    let Some(message) = message else { return Ok(0) }; // whoever wanted it is gone
    let spec: EnvoySpec =
        codec::decode(&message).map_err(|error| before(format!("reading where the agent is: {error}")))?;
    let EnvoySpec { host, identity, addr, credentials, mut order } = spec;
    order.args = std::env::args_os().skip(1).map(|arg| arg.into_vec().into()).collect();
    let lost_after = Duration::from_millis(order.lost_after_ms);
    let own = Identity::new(&credentials).map_err(|error| before(format!("reading its certificate: {error}")))?;
    let fd = connect(&addr, lost_after).map_err(|error| {
        before(format!(
            "nobody answers for {host} at {addr}: {error}: does `teamster serve` run there, and is the address right? \
             TEAMSTER_HOSTS=\"{host}=/dns/…/tcp/7117\" or root().hosts(…) says where it is"
        ))
    })?;
    let shaken = Handshake::with_identity(fd, &own, &identity).and_then(|h| shake_hands(h, HANDSHAKE_WITHIN));
    let stream = shaken.map_err(|error| {
        before(format!("the agent of {host} at {addr}: {error}; it has to show the identity {identity}"))
    })?;
    let mut wire = Wire::new(stream);
    wire.push(&Word::Order(Box::new(order))).map_err(|error| before(format!("the arguments are too long: {error}")))?;
    let line = Line {
        wire,
        source: Source::new(STDIN, Some(stdin.into()), TO_ACTOR),
        sinks: [Sink::new(STDOUT, Some(stdout), FROM_ACTOR), Sink::new(STDERR, Some(stderr), FROM_ACTOR)],
    };
    line.carry(&host).map_err(|error| match error {
        Ended::Refused(why) => Failed::Before(why),
        Ended::Broken(error) => Failed::Lost(format!("the line to the agent of {host} has ended: {error}")),
    })
}

fn connect(addr: &Addr, lost_after: Duration) -> io::Result<OwnedFd> {
    let Addr::Tcp(HostPort { host, port }) = addr else {
        return Err(io::Error::other("an agent is spoken to by TCP, with TLS"));
    };
    let addrs: Vec<SocketAddr> = match host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, *port)],
        Host::Dns(name) => (name.as_str(), *port).to_socket_addrs()?.collect(),
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for addr in addrs {
        match TcpStream::connect_timeout(&addr, CONNECT_WITHIN) {
            Ok(stream) => {
                let fd = OwnedFd::from(stream);
                rustix::net::sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BYTES)?;
                tcp::prepare_to_end(&fd, lost_after)?;
                return Ok(fd);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The line, and what it carries.
struct Line {
    wire: Wire,
    source: Source,
    sinks: [Sink; 2],
}

enum Ended {
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Ended::Broken(error)
    }
}

impl Line {
    /// Until the actor's keeper has ended, with its status, and what it printed is all written.
    fn carry(mut self, host: &str) -> Result<i32, Ended> {
        let (mut status, mut until) = (None, None);
        loop {
            while let Some(word) = self.wire.next()? {
                match self.on(word, host)? {
                    None => {}
                    ended => status = ended,
                }
            }
            for sink in &mut self.sinks {
                sink.push(&mut self.wire)?;
            }
            if let Some(status) = status {
                let until = *until.get_or_insert_with(|| Instant::now() + WRITTEN_WITHIN);
                if self.sinks.iter().all(|sink| sink.receiving.waiting().is_empty()) || until <= Instant::now() {
                    return Ok(status);
                }
            }
            if self.wire.is_over() && status.is_none() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            // What is printed goes on after the other side has closed.
            let waits = status.is_none() && {
                self.source.pull(&mut self.wire)?;
                self.wire.flush()?
            };
            let mut fds: Vec<_> = self.sinks.iter().filter_map(Sink::watch).collect();
            if status.is_none() {
                fds.push(self.wire.watch(waits));
                fds.extend(self.source.watch());
            }
            wait(&mut fds, until);
        }
    }

    /// The keeper's status, if that is what it says.
    fn on(&mut self, word: Word, host: &str) -> Result<Option<i32>, Ended> {
        let broken = |what: &dyn fmt::Display| {
            Ended::Broken(io::Error::other(format!("it does not speak as an agent does: {what}")))
        };
        match word {
            Word::Refused(why) => return Err(Ended::Refused(format!("{host}: {why}"))),
            Word::Exit(status) => return Ok(Some(status)),
            Word::Bytes(stream, bytes) => match self.sink(stream) {
                Some(sink) => sink.receiving.on_bytes(&bytes).map_err(|error| broken(&error))?,
                None => return Err(broken(&"bytes for its own stdin")),
            },
            Word::End(stream) => match self.sink(stream) {
                Some(sink) => sink.receiving.on_end(),
                None => return Err(broken(&"the end of its own stdin")),
            },
            Word::Grant(STDIN, bytes) => self.source.sending.on_grant(bytes).map_err(|error| broken(&error))?,
            Word::Grant(..) | Word::Order(_) => return Err(broken(&"an order, or a grant for what it sends")),
        }
        Ok(None)
    }

    fn sink(&mut self, stream: u8) -> Option<&mut Sink> {
        self.sinks.iter_mut().find(|sink| sink.number == stream)
    }
}
