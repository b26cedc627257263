//! How does a plain program start? As an actor does, by the spawner thread; and what sees to it when its actor is killed is there before.
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::pipe::{PipeFlags, pipe_with};

use super::file_may_have;
use super::launch::{limit, pidfd_of};
use super::output::OutputThread;
use super::output::program::ProgramOutput;
use crate::actor::Actor;
use crate::actor::boot::LINEAGE_VARIABLE;
use crate::actor::child::Child;
use crate::actor::process::when_started;
use crate::actor::warden::Warden;
use crate::error::SpawnReason;
use crate::msg::frame::Frame;
use crate::msg::ident::Aid;

/// A program that is to be started.
pub(crate) struct Request {
    pub(crate) actor: Arc<Actor>,
    /// Its name, and what tells it apart: it is no actor, and has no address.
    pub(crate) aid: Aid,
    pub(crate) command: Command,
    pub(crate) options: Options,
    pub(crate) is_shielded: bool,
    /// Called on the spawner thread, whatever became of it: the process exists from then on.
    pub(crate) spawned: Box<dyn FnOnce(Result<Program, SpawnReason>) + Send>,
}

/// All that can be asked of a program's start, beside its command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<Duration>,
    pub(crate) stdin: Option<Bytes>,
    /// How many bytes of its stdout are a result. `None`: it is for the log.
    pub(crate) capture_bytes: Option<usize>,
}

/// One that runs, or has.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) child: Arc<Child>,
    pub(crate) output: Arc<ProgramOutput>,
}

/// What the spawner thread keeps for an actor that runs programs: from the first on.
#[derive(Default)]
pub(super) struct Programs {
    actor: Weak<Actor>,
    output: Option<OutputThread>,
    warden: Option<Warden>,
}

impl Programs {
    pub(super) fn start(&mut self, request: Request) {
        let Request { actor, aid, command, options, is_shielded, spawned } = request;
        self.actor = Arc::downgrade(&actor);
        spawned(self.try_start(&actor, aid, command, &options, is_shielded));
    }

    fn try_start(
        &mut self,
        actor: &Arc<Actor>,
        aid: Aid,
        mut command: Command,
        options: &Options,
        is_shielded: bool,
    ) -> Result<Program, SpawnReason> {
        let limited = |error: io::Error| limit(&error);
        let (read_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| limited(error.into()))?;
        let (read_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| limited(error.into()))?;
        let stdin = options.stdin.as_ref().map_or_else(|| Ok(Stdio::null()), given).map_err(limited)?;
        let thread = match &mut self.output {
            Some(thread) => thread,
            output => output.insert(OutputThread::start_apart("teamster-programs").map_err(limited)?),
        };
        let pipes = [&read_stdout, &read_stderr].map(|pipe| pipe.try_clone());
        let [stdout_too, stderr_too] = pipes.map(|pipe| pipe.map_err(limited));
        let (stdout_too, stderr_too) = (stdout_too?, stderr_too?);
        let printed = ProgramOutput::new(read_stdout, read_stderr, options.capture_bytes, thread).map_err(limited)?;
        // There before the program is: what follows may be our end at any point.
        let warden = match self.warden.take().and_then(Warden::if_it_is_there) {
            Some(warden) => self.warden.insert(warden),
            // Of those that the one before was told of, it finds what has kept its environment.
            None => self.warden.insert(Warden::start(actor).map_err(limited)?),
        };
        command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        command.env(LINEAGE_VARIABLE, actor.lineage_of_programs());
        actor.control.starting(actor.clock.now());
        let (mut process, start_ticks) = when_started(|| command.spawn()).map_err(|error| {
            actor.control.not_started();
            refused(&command, &error)
        })?;
        drop(command); // and our copies of its ends of the pipes
        let aid = aid.with_pid(process.id());
        if !actor.is_root() {
            // An ancestor whose line is broken is gone, and so are we in a moment.
            let start_ticks = start_ticks.unwrap_or(0);
            let _ = actor.control.send_up(&Frame::SpawnRecord { aid: aid.clone(), start_ticks, is_program: true });
        }
        let pidfd = pidfd_of(&process).map_err(|error| {
            // Ours, and not reaped. It is waited for.
            let _ = process.kill();
            let _ = process.wait();
            actor.control.not_started();
            limited(error.into())
        })?;
        warden.guard(aid.pid(), [pidfd.as_fd(), stdout_too.as_fd(), stderr_too.as_fd()]);
        let child = Arc::new(child(actor, aid, options, is_shielded, &printed));
        actor.control.watch(&child, pidfd, actor.clock.now(), actor.settings.boot_within);
        if actor.is_cancelled() {
            actor.control.wake(); // the thread has looked at the children it knew
        }
        Ok(Program { child, output: printed })
    }

    /// Ends what was kept for them. They are gone, or this process is about to be.
    pub(super) fn end(self, within: Duration) {
        if let Some(output) = self.output {
            output.finish(within); // it never blocks for long
        }
        let has_living = self.actor.upgrade().is_some_and(|actor| actor.control.has_living());
        if let Some(warden) = self.warden.filter(|_| !has_living) {
            warden.end();
        } // else it sees the end of this process
    }
}

/// Bytes as a file in memory, at its start: nobody has to feed them, and their end is the file's.
fn given(bytes: &Bytes) -> io::Result<Stdio> {
    file_may_have(bytes.len())?;
    let file = rustix::fs::memfd_create("teamster-stdin", MemfdFlags::CLOEXEC)?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        rest = &rest[rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?..];
    }
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

/// A program is a child that no line leads to.
fn child(actor: &Actor, aid: Aid, options: &Options, is_shielded: bool, printed: &Arc<ProgramOutput>) -> Child {
    let grace = options.grace.unwrap_or(actor.settings.grace);
    Child {
        is_program: true,
        is_shielded,
        stderr: Some(Arc::clone(printed) as Arc<_>),
        ..Child::new(actor.next_child(), aid, grace, actor.settings.lost_after)
    }
}

/// Why it was not started, and the way out.
fn refused(command: &Command, error: &io::Error) -> SpawnReason {
    if let Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM) = error.raw_os_error() {
        return limit(error);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let path = Path::new(command.get_program());
    let is_path = path.components().count() > 1;
    let missing_folder = command.get_current_dir().filter(|folder| !folder.is_dir());
    let hint = match (error.raw_os_error(), missing_folder) {
        (Some(libc::ENOENT | libc::ENOTDIR), Some(folder)) => {
            format!("the folder that it is to run in is not there: {}", folder.display())
        }
        (Some(libc::ENOENT), None) if !is_path => {
            "it is in no folder of PATH: install it, or give its whole path".into()
        }
        (Some(libc::ENOENT), None) if path.exists() => "the interpreter that its first line names is not there".into(),
        (Some(libc::EACCES), None) => "it is not executable by this user: `chmod +x` it, or run its interpreter".into(),
        (Some(libc::ENOEXEC), _) => "it is no program of this machine, nor a script that begins with `#!`".into(),
        _ => return SpawnReason::Exec { program, error: error.to_string() },
    };
    SpawnReason::Exec { program, error: format!("{error}: {hint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(program: &str, folder: Option<&str>, errno: i32, wanted: &str) {
        let mut command = Command::new(program);
        folder.map(|folder| command.current_dir(folder));
        let told = refused(&command, &io::Error::from_raw_os_error(errno)).to_string();
        assert!(told.contains(wanted), "{told}");
    }

    #[test]
    fn a_program_that_is_not_started_says_what_to_do() {
        check(
            "no-such",
            None,
            libc::ENOENT,
            "no-such can't be run: No such file or directory (os error 2): it is in no folder of PATH",
        );
        check("./no-such", None, libc::ENOENT, "./no-such can't be run: No such file or directory (os error 2)");
        check("/bin/sh", None, libc::ENOENT, "the interpreter that its first line names");
        check("sh", Some("/no/such"), libc::ENOENT, "the folder that it is to run in is not there: /no/such");
        check("/etc/passwd", None, libc::EACCES, "chmod +x");
        check("/etc/passwd", None, libc::ENOEXEC, "`#!`");
        check("sh", None, libc::EMFILE, "ulimit -n");
    }
}
