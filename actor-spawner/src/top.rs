//! What do the running trees do, live, in this terminal?
mod model;
#[cfg(test)]
#[path = "../tests/support/pty.rs"]
mod pty;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{Event, EventStream, KeyEventKind};
use teamster::discovery::FolderError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::model::{Model, Wish};
use crate::ended_by;
use crate::look::{Seen, look};

/// Shows the trees until the user has seen enough, looking at them anew so often.
pub(crate) fn top(every: Duration) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("top needs a terminal: `teamster ps` and `teamster tree` print what runs");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut screen = Screen::open()?;
        screen.run(every).await
    })
}

/// The terminal while it is ours: given back when this is dropped, and by the panic hook before a panic is told.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        ratatui::try_init().map(Screen).context("this terminal can't be drawn in")
    }

    async fn run(&mut self, every: Duration) -> anyhow::Result<ExitCode> {
        // Before the first drawing: from then on a signal must not leave the terminal as it is.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut keys = EventStream::new();
        let (mut looks, _looking) = looking(every)?;
        let mut model = Model::default();
        loop {
            self.0.draw(|frame| view::draw(frame, &mut model))?;
            tokio::select! {
                biased; // who wants it to end is heard first
                _ = terminate.recv() => return Ok(ended_by(15)),
                _ = hangup.recv() => return Ok(ended_by(1)),
                _ = interrupt.recv() => return Ok(ended_by(2)),
                event = keys.next() => match event {
                    Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                        if model.on_key(key) == Wish::Quit {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    Some(Ok(_)) => {} // its size has changed, at most: it is drawn anew
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(ExitCode::SUCCESS),
                },
                looked = looks.recv() => match looked {
                    Some((at, Ok(seen))) => model.on_look(at, seen),
                    Some((_, Err(error))) => return Err(error.into()),
                    None => bail!("the thread that looks has ended"),
                },
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The panic hook has done so: a second time, the cursor would go back to before what was told.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

type Look = (Instant, Result<Vec<Seen>, FolderError>);

/// A thread looks at once and then so often, until both of these are dropped: a silent tree must not hold up the keys.
fn looking(every: Duration) -> io::Result<(mpsc::Receiver<Look>, std::sync::mpsc::Sender<()>)> {
    let (looked, looks) = mpsc::channel(1);
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("looking".into()).spawn(move || {
        while looked.blocking_send((Instant::now(), look())).is_ok()
            && stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout)
        {}
    })?;
    Ok((looks, stop))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What panics, when the test below runs it in a terminal.
    #[test]
    fn program() {
        if std::env::var_os("TOP_PANICS").is_some() {
            let mut screen = Screen::open().expect("it is a terminal");
            screen.0.draw(|frame| view::draw(frame, &mut Model::default())).expect("it is a terminal");
            panic!("a mistake");
        }
    }

    #[test]
    fn a_panic_is_told_in_a_terminal_that_is_as_it_was() {
        let mut command = Command::new(std::env::current_exe().expect("we run"));
        command
            .args(["--exact", "top::tests::program", "--nocapture"])
            .env("TOP_PANICS", "1")
            .env("RUST_BACKTRACE", "0");
        let mut terminal = pty::Pty::start(&command);
        let ended = terminal.ends();
        assert!(!ended.success(), "{ended}");
        terminal.assert_restored();
        assert!(terminal.text().contains("a mistake"), "{}", terminal.text());
    }
}
