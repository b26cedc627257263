//! Who brings an actor on another host what it needs to start? A thread, until that is done.
//!
//! The launcher's command leads there. Its first words on stdout say whether this executable is missing, and when a keeper
//! waits for its message.
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::output::OutputThread;
use super::output::far::FarOutput;
use super::ship;
use crate::actor::Actor;
use crate::actor::child::Child;
use crate::actor::control::Command;
use crate::actor::keeper::KEEPS;

/// What one thread brings.
pub(super) struct Usher {
    pub(super) actor: Arc<Actor>,
    pub(super) child: Arc<Child>,
    pub(super) output: Arc<OutputThread>,
    pub(super) far_output: Arc<FarOutput>,
    /// The command's stdin, and its stdout as far as nobody relays it yet.
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    /// What the command has to know first, if it is an envoy.
    pub(super) envoy: Option<Vec<u8>>,
    /// The message, once a keeper waits for it.
    pub(super) message: Vec<u8>,
    /// Whither: two of one way send the executable once.
    pub(super) way: String,
    pub(super) shipments: Arc<Shipments>,
    /// Until the first word from over there: others may begin then.
    pub(super) turn: Option<super::launch::Turn>,
}

impl Usher {
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("teamster-usher".into()).spawn(move || {
            let child = Arc::clone(&self.child);
            self.usher().unwrap_or_else(|error| {
                // A command that has ended says why by itself.
                if error.kind() != io::ErrorKind::BrokenPipe {
                    child.story.lock().said.get_or_insert(format!("what it needs did not get there: {error}"));
                }
            });
        })
    }

    /// # Errors
    ///
    /// The command takes no more, or what it is to be given is not to be had.
    fn usher(self) -> io::Result<()> {
        let Usher {
            actor,
            child,
            output,
            far_output,
            stdin,
            stdout,
            envoy,
            message,
            way,
            shipments,
            turn: mut on_the_way,
        } = self;
        // Its stdin is closed last: by that the command ends, and all is said then.
        let mut stdin = File::from(stdin);
        stdin.write_all(&envoy.unwrap_or_default())?;
        let is_over = || child.reaped.get().is_some();
        let goes_on = || gets_on(&actor, &child);
        let mut turn = None;
        loop {
            // `None`: it has ended.
            let Some(line) = next_line(&stdout, is_over) else { return Ok(()) };
            let needs = line.strip_prefix(ship::NEEDS);
            if line == KEEPS || needs.is_some() {
                drop(on_the_way.take());
            }
            if line == KEEPS {
                break;
            }
            // Whatever else it is: a login shell may say good morning.
            let Some(machine) = needs else { continue };
            let why_not = ship::cannot_run_on(machine)
                .or_else(|| turn.is_some().then(|| "this executable was sent there, and is not there".to_owned()));
            if let Some(why) = why_not {
                child.story.lock().said.get_or_insert(why);
                return Ok(());
            }
            turn = shipments.begin(&way, goes_on, is_over);
            match turn {
                Some(_) => {
                    tracing::info!(target: "teamster::spawn", actor = %child.aid, "this executable is sent to its host");
                    ship::ship(&mut stdin, goes_on)?;
                }
                None => stdin.write_all(ship::LOOK)?,
            }
        }
        if let Some(turn) = turn {
            turn.end(); // others find it now
        }
        gets_on(&actor, &child);
        far_output.takes_stdout(stdout, &output)?;
        stdin.write_all(&message)?;
        let stdin = OwnedFd::from(stdin);
        rustix::io::ioctl_fionbio(&stdin, true)?; // its words from here on are the control thread's, which never waits
        let mut leash = child.leash.lock();
        // Nobody takes it away from one that is reaped already.
        *leash = Some(stdin).filter(|_| child.reaped.get().is_none());
        Ok(())
    }
}

fn gets_on(actor: &Actor, child: &Arc<Child>) {
    // Soon enough when the thread looks next: before it would end the child for being late.
    actor.control.book(Command::GetsOn { child: Arc::clone(child), at: actor.clock.now() });
}

/// A line of what the command prints, byte by byte: nothing behind it is ours. `None`: there is none any more, or
/// `is_over`, though something that it had started still holds the pipe.
fn next_line(stdout: &OwnedFd, is_over: impl Fn() -> bool) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0; 1];
        match rustix::io::read(stdout, &mut byte) {
            Ok(0) => return None,
            Ok(_) if byte[0] == b'\n' => return Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()),
            Ok(_) if line.len() < LINE_BYTES => line.push(byte[0]),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if is_over() => return None,
            Err(Errno::WOULDBLOCK) => {
                let within = Timespec::try_from(LOOK_AGAIN_AFTER).ok();
                // An error, or a signal: the next read tells.
                let _ = poll(&mut [PollFd::new(stdout, PollFlags::IN)], within.as_ref());
            }
            Err(_) => return None,
        }
    }
}

/// Of a line that is longer, the rest is of no interest.
const LINE_BYTES: usize = 4096;

/// Where this executable is on its way to, so that it is not sent to one place twice.
#[derive(Default)]
pub(super) struct Shipments {
    ways: Mutex<HashMap<String, Way>>,
    changed: Condvar,
}

enum Way {
    InUse,
    Shipped,
}

/// The one that sends it.
struct Turn<'s> {
    shipments: &'s Shipments,
    way: &'s str,
    has_arrived: bool,
}

impl Shipments {
    /// Waits until nobody else sends it this way. `None`: somebody has, meanwhile, or it `is_over`.
    fn begin<'s>(&'s self, way: &'s str, waits: impl Fn(), is_over: impl Fn() -> bool) -> Option<Turn<'s>> {
        let mut ways = self.ways.lock();
        let mut has_waited = false;
        loop {
            match ways.get(way) {
                _ if is_over() => return None,
                Some(Way::InUse) => {
                    has_waited = true;
                    waits();
                    self.changed.wait_for(&mut ways, LOOK_AGAIN_AFTER);
                }
                Some(Way::Shipped) if has_waited => return None,
                // Once more, perhaps: somebody may have emptied the cache over there.
                Some(Way::Shipped) | None => {
                    ways.insert(way.to_owned(), Way::InUse);
                    return Some(Turn { shipments: self, way, has_arrived: false });
                }
            }
        }
    }
}

/// How often one who waits for another says that he still does, and one who waits for a word looks whether there will be
/// one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Turn<'_> {
    fn end(mut self) {
        self.has_arrived = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut ways = self.shipments.ways.lock();
        match self.has_arrived {
            true => ways.insert(self.way.to_owned(), Way::Shipped),
            false => ways.remove(self.way),
        };
        self.shipments.changed.notify_all();
    }
}
