//! Who runs the jobs of code that is part of no actor? A root of their own, on a thread of its own.
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::of_actor::of_actor;
use super::workers::Workers;
use crate::actor::{Actor, current, signals};
use crate::error::Error;
use crate::msg::ident::{CancelRequest, Canceller};
use crate::nursery::{at_end_of_main, root};

/// The root of this process that is there for its workers alone: from the first job to the end of `main`.
struct Host {
    place: Arc<Place>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Where its jobs are run.
pub(super) struct Place {
    runtime: Handle,
    actor: Arc<Actor>,
    /// Its lock is held while a signal is handed back, so that no new host takes the signal in between.
    hearing: Mutex<Hearing>,
}

static HOST: Mutex<Option<Host>> = Mutex::new(None);

impl Place {
    /// That of this process. Starts the host, if it is not there.
    ///
    /// That takes as long as opening a nursery does where there is no root, about a millisecond, once in the program, on
    /// whatever thread asks; others who ask meanwhile have to wait for the same. The thread that is waited for asks for no
    /// host.
    ///
    /// # Errors
    ///
    /// Those of booting a root. [`Error::Interrupted`] if a signal has ended the host, and nobody else was told of it.
    pub(super) fn of_process() -> Result<Arc<Self>, Error> {
        let mut host = HOST.lock();
        if let Some(ended) = host.take_if(|host| host.has_ended()) {
            // Its thread is about to end, or has.
            let signal = ended.place.actor.interrupted_by();
            if let Some(signal) = signal.filter(|_| ended.place.tell() == Told::First) {
                return Err(Error::Interrupted { signal });
            }
        }
        match &*host {
            Some(host) => Ok(Arc::clone(&host.place)),
            None => Ok(Arc::clone(&host.insert(start()?).place)),
        }
    }

    /// Somebody begins to wait here.
    pub(super) fn caller(self: &Arc<Self>) -> Caller {
        self.hearing.lock().enter();
        Caller { place: Arc::clone(self) }
    }

    /// The workers that do its jobs.
    pub(super) fn workers(&self) -> Result<Arc<Workers>, Error> {
        of_actor(&self.actor)
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Somebody hears of the signal that ends it.
    fn tell(&self) -> Told {
        // The end of `main` may come before that of a host that was replaced: it has nothing to hand back.
        let _ = self.actor.take_interruption();
        self.hearing.lock().tell()
    }
}

impl Host {
    /// A signal has ended it, or a panic its thread.
    fn has_ended(&self) -> bool {
        self.place.actor.is_cancelled() || self.thread.is_finished()
    }
}

/// Somebody who is part of no actor, and waits for a job.
pub(super) struct Caller {
    place: Arc<Place>,
}

impl Caller {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// What it is told of an error: of a signal that ends the host, no actor of its own tells it.
    pub(super) fn told(&self, error: Error) -> Error {
        match error {
            Error::Cancelled { canceller: Canceller { aid, request: CancelRequest::Signal(signal) } }
                if aid == self.place.actor.aid =>
            {
                self.place.tell();
                Error::Interrupted { signal }
            }
            error => error,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut hearing = self.place.hearing.lock();
        if let Some(signal) = hearing.leave() {
            signals::hand_back(signal);
        }
    }
}

/// Who hears of the signal that ends the host? Those who wait for a job, by its error; if none does, the process, as in a
/// program without us.
#[derive(Default)]
struct Hearing {
    /// Those who wait now.
    callers: usize,
    /// Somebody has heard.
    is_told: bool,
    /// The host has ended by it, and those who wait may still hear of it.
    unheard: Option<i32>,
}

/// Whether somebody is the first to hear of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    First,
    Again,
}

impl Hearing {
    fn enter(&mut self) {
        self.callers += 1;
    }

    /// Somebody hears of it.
    fn tell(&mut self) -> Told {
        self.unheard = None;
        match std::mem::replace(&mut self.is_told, true) {
            true => Told::Again,
            false => Told::First,
        }
    }

    /// One who waited does so no more. The signal that is the process's then.
    #[must_use = "nobody else hears of it"]
    fn leave(&mut self) -> Option<i32> {
        self.callers -= 1;
        match self.callers {
            0 => self.take_unheard(),
            _ => None,
        }
    }

    /// The host has ended by this signal, which is the process's if it is given back.
    #[must_use = "nobody else hears of it"]
    fn ended_by(&mut self, signal: i32) -> Option<i32> {
        if !self.is_told {
            self.unheard = Some(signal);
        }
        match self.callers {
            0 => self.take_unheard(),
            _ => None,
        }
    }

    fn take_unheard(&mut self) -> Option<i32> {
        let signal = self.unheard.take();
        self.is_told |= signal.is_some();
        signal
    }
}

fn start() -> Result<Host, Error> {
    let (tell, told) = mpsc::sync_channel(1);
    let (end, ended) = oneshot::channel();
    let failed = |error: io::Error| Error::Transport {
        what: "starting the thread of this process's workers".to_owned(),
        reason: error.to_string(),
    };
    let thread = std::thread::Builder::new().name("teamster-workers".into()).spawn(move || serve(&tell, ended));
    let thread = thread.map_err(failed)?;
    // It tells in any case, unless it panics.
    let place = told.recv().map_err(|_| failed(io::Error::other("it ended at once")))??;
    at_end_of_main(end_host);
    Ok(Host { place, end, thread })
}

fn serve(tell: &SyncSender<Result<Arc<Place>, Error>>, ended: oneshot::Receiver<()>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = "starting the runtime of this process's workers".to_owned();
            // Whoever has started the thread waits for this word.
            return drop(tell.send(Err(Error::Transport { what, reason: error.to_string() })));
        }
    };
    let mut here = None;
    let served = runtime.block_on(root().name("workers").open(async |_an| {
        let actor = current::actor()?;
        let place = Arc::new(Place { runtime: Handle::current(), actor, hearing: Mutex::default() });
        here = Some(Arc::clone(&place));
        drop(tell.send(Ok(place)));
        drop(ended.await); // the end of `main`, or of whoever holds the other half
        Ok(())
    }));
    match (served, here) {
        (Err(error), None) => drop(tell.send(Err(error))),
        (Err(Error::Interrupted { signal }), Some(place)) => {
            let mut hearing = place.hearing.lock();
            if let Some(signal) = hearing.ended_by(signal) {
                signals::hand_back(signal); // it does what it does in a program without us
            }
        }
        (_, Some(_) | None) => {}
    }
}

/// The end of `main`: whoever still waits for a job is on another thread, which ends with the process.
fn end_host() {
    let Some(Host { place, end, thread }) = HOST.lock().take() else { return };
    let actor = &place.actor;
    actor.cancel_self(Canceller { aid: actor.aid.clone(), request: CancelRequest::Dropped });
    let _ = end.send(()); // it may have ended by itself
    drop(thread.join()); // a panic of it was printed
}

#[cfg(test)]
mod tests {
    use super::Hearing;

    /// Who waits, ends and hears, in this order: what is left for the process after each word.
    fn check(script: &str, expected: &str) {
        let mut hearing = Hearing::default();
        let steps = script.split_whitespace().map(|step| match step {
            "enter" => {
                hearing.enter();
                "-".to_owned()
            }
            "leave" => hearing.leave().map_or("-".to_owned(), |signal| signal.to_string()),
            "tell" => format!("{:?}", hearing.tell()),
            "end" => hearing.ended_by(2).map_or("-".to_owned(), |signal| signal.to_string()),
            other => panic!("no step {other}"),
        });
        let steps: Vec<_> = steps.collect();
        assert_eq!(steps.join(" "), expected, "{script}");
    }

    #[test]
    fn a_signal_is_heard_once() {
        check("end", "2"); // nobody waits
        check("enter leave end", "- - 2"); // nobody waits any more
        check("enter tell leave end", "- First - -");
        check("enter end tell leave", "- - First -");
        check("enter end leave", "- - 2"); // it has left without a word of it
        check("enter enter end leave leave", "- - - - 2"); // the last one
        check("enter enter end leave tell leave", "- - - - First -");
        check("enter enter end tell tell leave leave", "- - - First Again - -");
    }

    #[test]
    fn whoever_comes_to_a_host_that_is_ending_hears_of_it() {
        check("tell end", "First -"); // before its thread has ended
        check("enter tell end leave", "- First - -"); // instead of one who still waits
        check("enter leave end tell", "- - 2 Again"); // too late: the process has it
        check("enter end leave enter leave", "- - 2 - -"); // and no second time
    }
}
