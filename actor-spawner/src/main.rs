//! The command line of teamster: what runs on this machine?
mod ca;
mod call;
mod cancel;
mod doctor;
mod json;
mod list;
mod log;
mod look;
mod pages;
mod pick;
mod serve;
mod text;
mod top;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use teamster::discovery::trees;

use crate::look::Seen;
use crate::text::printable;

/// Looks at this user's running actor trees.
#[derive(Debug, Parser)]
#[command(name = "teamster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the actors of all running trees, a line each.
    ///
    /// CALLS: those that it serves now; `?` where it does not tell, being stopped. RSS: the memory that its process holds.
    /// CPU%: the share of one processor that it has taken since its start.
    Ps(Output),
    /// Draws the running trees, with the columns of `ps`.
    Tree(Output),
    /// Calls a function of a running actor, and prints its result as JSON.
    Call(Call),
    /// Ends an actor with all that is below it, waits until it is gone, and says how it ended.
    Cancel(Cancel),
    /// Prints what every actor does at this moment, stuck and stopped ones too.
    Dump(Dump),
    /// Prints what the actors of the running trees log, as it comes.
    ///
    /// That is what they send up to their root: see TEAMSTER_LOG. Nothing of before is kept anywhere.
    Log(Log),
    /// Shows the running trees live: calls, latencies, queues, memory and CPU of each actor.
    Top(Top),
    /// Makes, shows and revokes the identities by which trees believe each other on networks.
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Serves this host: starts actors here for roots on others, as `.on("this-host")` there asks for.
    ///
    /// Who shows an identity that this one's authorities have issued is let in, and may run any program as this user. What runs
    /// goes on while the agent is restarted, and ends with the root that it was started for. docs/cluster.md has all of it.
    Serve(serve::Serve),
    /// Looks whether this host, and others, can do what teamster needs; says what mends it where they can't.
    ///
    /// Fails where something does not work at all. Another host is reached by the user's own ssh, and nobody is asked
    /// for a password.
    Doctor(Doctor),
    /// Prints what a shell completes with.
    ///
    /// For bash: teamster completions bash > ~/.local/share/bash-completion/completions/teamster
    Completions(Completions),
    /// Prints the manual's page of the tool, or of one of its commands, for `man`.
    ///
    /// teamster man > ~/.local/share/man/man1/teamster.1
    Man(Man),
    /// Opens the debugger's prompt of a tree in this terminal.
    Attach(Socket),
}

#[derive(Debug, Args)]
struct Socket {
    /// What `TEAMSTER_DEBUG_LISTEN` says to the tree.
    #[arg(env = "TEAMSTER_DEBUG_LISTEN")]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct Call {
    /// The actor, by its name or the beginning of its uuid. Default: the root of the only tree.
    #[arg(long, value_name = "ACTOR")]
    on: Option<String>,
    /// Shows what can be called there instead.
    #[arg(long)]
    list: bool,
    /// The path of the function, as in `my_program::add`, or its end.
    #[arg(required_unless_present = "list")]
    endpoint: Option<String>,
    /// A JSON array of its arguments. A value that is no array is its only argument.
    #[arg(default_value = "[]", value_name = "ARGS-AS-JSON", allow_hyphen_values = true)]
    args: String,
}

#[derive(Debug, Args)]
struct Cancel {
    /// Its name, or the beginning of its uuid. With a root its whole tree ends.
    actor: String,
}

#[derive(Debug, Args)]
struct Dump {
    /// Only the actors of this name, or whose uuid begins so, and what is below them.
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Log {
    /// Waits for more, until the trees end: there is nothing to be printed without.
    #[arg(short, long, required = true)]
    follow: bool,
    /// Only what the actors of this name log, or whose uuid begins so.
    actor: Option<String>,
    /// Prints a JSON object a line instead, with all that is known.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Doctor {
    /// Other hosts, as ssh knows them.
    hosts: Vec<String>,
}

#[derive(Debug, Args)]
struct Completions {
    /// Which shell.
    shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
struct Man {
    /// A command of the tool, and one of its own.
    #[arg(num_args = 0..=2)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct Top {
    /// Seconds between two looks.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    every: Duration,
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    let seconds: f64 = text.parse()?;
    anyhow::ensure!((0.05..=3600.0).contains(&seconds), "from 0.05 to 3600");
    Ok(Duration::from_secs_f64(seconds))
}

#[derive(Debug, Args)]
struct Output {
    /// Prints a JSON array of trees instead, with all that is known.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let ours = error.downcast_ref::<teamster::Error>();
            match ours {
                Some(error) => eprintln!("teamster: {}", error.report()),
                None => eprintln!("teamster: {error:#}"),
            }
            match ours {
                Some(teamster::Error::Interrupted { signal }) => ended_by(*signal),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Ps(Output { json }) => listed(if json { list::json } else { list::ps })?,
        Command::Tree(Output { json }) => listed(if json { list::json } else { list::tree })?,
        Command::Dump(Dump { name }) => dumps(name.as_deref())?,
        Command::Call(Call { on, list: false, endpoint: Some(endpoint), args }) => {
            call::call(on.as_deref(), &endpoint, &args)?
        }
        Command::Call(Call { on, .. }) => call::list(on.as_deref())?,
        Command::Ca(command) => ca::ca(command)?,
        Command::Cancel(Cancel { actor }) => cancel::cancel(&actor)?,
        Command::Log(Log { actor, json, follow: _ }) => {
            log::follow(actor.as_deref(), json)?;
            String::new()
        }
        Command::Attach(Socket { socket }) => {
            attach(&socket)?;
            String::new()
        }
        Command::Doctor(Doctor { hosts }) => {
            let (text, code) = doctor::doctor(&hosts);
            printed(&text)?;
            return Ok(code);
        }
        Command::Serve(serve) => serve::serve(serve)?,
        Command::Completions(Completions { shell }) => pages::completions(Cli::command(), shell),
        Command::Man(Man { command }) => pages::man(Cli::command(), &command)?,
        Command::Top(Top { every }) => return top::top(every),
    };
    printed(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// As a shell tells it.
fn ended_by(signal: i32) -> ExitCode {
    u8::try_from(128 + signal).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn printed(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `teamster ps | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn attach(socket: &Path) -> anyhow::Result<()> {
    teamster::debug::attach(socket).with_context(|| {
        format!(
            "nobody to attach to at {}: a tree listens there while TEAMSTER_DEBUG_LISTEN says so to it, and an \
                 actor of it has stopped",
            socket.display()
        )
    })
}

fn listed(show: fn(&[Seen]) -> String) -> anyhow::Result<String> {
    let trees = look::look()?;
    if trees.is_empty() {
        eprintln!("{NO_TREES}");
    }
    Ok(show(&trees))
}

/// All trees that have such an actor. One that does not answer is left out, and that is said.
fn dumps(name: Option<&str>) -> anyhow::Result<String> {
    let trees = trees()?;
    if trees.is_empty() {
        eprintln!("{NO_TREES}");
    }
    let mut text = String::new();
    let mut silent = 0;
    for tree in &trees {
        match teamster::debug::dump(&tree.folder, name) {
            Ok(dump) => text.extend(dump),
            Err(error) => {
                silent += 1;
                eprintln!("teamster: the tree of pid {} does not answer: {error}", tree.pid);
            }
        }
    }
    match name {
        Some(name) if text.is_empty() && silent == 0 && !trees.is_empty() => {
            anyhow::bail!("no actor is called {}, and no uuid begins so", printable(name))
        }
        _ if text.is_empty() && silent > 0 => anyhow::bail!("no tree answers"),
        _ => Ok(text),
    }
}

const NO_TREES: &str = "no trees are running";
