//! What does this host's agent serve, and what runs here by it?
use std::env;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use teamster::Addr;
use teamster::agent::{Agent, Limits, Running, running};

use crate::text::{age, aligned, printable};

/// How a host is served.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The folder of this host's identity, made by `teamster ca issue NAME`: clients call it by that name.
    #[arg(long, env = "TEAMSTER_IDENTITY", value_name = "DIR", required_unless_present = "list")]
    identity: Option<PathBuf>,
    /// Where it listens; several may be given. Default: /ip6/::/tcp/7117, which is all addresses.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Addr>,
    /// Lets in clients of the authorities in this PEM file alone, and in others that are given so, instead of all that the
    /// identity believes.
    #[arg(long, value_name = "FILE")]
    allow: Vec<PathBuf>,
    /// What each client may take, all its actors together: actors=N,memory=BYTES,cpu=PROCESSORS.
    ///
    /// memory and cpu take cgroups that the service manager has left to the agent: Delegate=yes.
    #[arg(long, default_value = "actors=64", value_name = "LIMITS")]
    limits: Limits,
    /// What this client may take, by the name of its identity: anna:actors=8,memory=2G. Several may be given. actors=0 keeps it out.
    #[arg(long, value_name = "CLIENT:LIMITS", value_parser = limits_of)]
    limits_of: Vec<(String, Limits)>,
    /// The folder of its books. Default: $STATE_DIRECTORY, teamster in $XDG_STATE_HOME or ~/.local/state.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The folder of the programs that clients send. Default: $CACHE_DIRECTORY, teamster in $XDG_CACHE_HOME or ~/.cache.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Lists the actors that run here for clients, and serves nobody.
    #[arg(long)]
    list: bool,
    /// As JSON.
    #[arg(long, requires = "list")]
    json: bool,
}

fn limits_of(text: &str) -> anyhow::Result<(String, Limits)> {
    let (client, limits) = text.split_once(':').context("it has no colon, as anna:actors=8 has")?;
    anyhow::ensure!(!client.is_empty(), "it names no client, as anna:actors=8 does");
    Ok((client.to_owned(), limits.parse()?))
}

/// Serves until it is told to end. What is to be printed, if nobody was to be served.
pub(crate) fn serve(serve: Serve) -> anyhow::Result<String> {
    let state = folder(serve.state, "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state", "--state")?;
    if serve.list {
        let all = running(&state)?;
        return Ok(if serve.json { listed_json(&all) } else { listed(&all) });
    }
    let cache = folder(serve.cache, "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache", "--cache")?;
    let identity = serve.identity.context("whose identity? --identity names its folder")?;
    let mut agent = Agent::new(identity, state, cache).limits(serve.limits);
    agent = serve.listen.into_iter().fold(agent, Agent::listen);
    agent = serve.allow.into_iter().fold(agent, Agent::allow);
    agent = serve.limits_of.into_iter().fold(agent, |agent, (client, limits)| agent.limits_of(client, limits));
    let mut told = Ok(());
    agent.serve(|addrs| told = ready(addrs))?;
    told.context("telling the service manager")?;
    Ok(String::new())
}

/// Says so to whoever reads, and to the service manager: sd_notify(3).
fn ready(addrs: &[Addr]) -> io::Result<()> {
    for addr in addrs {
        let _ = writeln!(io::stdout(), "serving at {addr}"); // whoever read it may have seen enough
    }
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let name = socket.as_encoded_bytes();
    let addr = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &addr)?;
    Ok(())
}

/// A folder that was named, that systemd has made, or the user's own.
fn folder(named: Option<PathBuf>, made: &str, own: &str, in_home: &str, flag: &str) -> anyhow::Result<PathBuf> {
    let absolute = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named
        .or_else(|| absolute(made)) // one is asked for there: several would stand between colons
        .or_else(|| Some(absolute(own)?.join("teamster")))
        .or_else(|| Some(absolute("HOME")?.join(in_home).join("teamster")))
        .with_context(|| format!("neither {made}, {own} nor HOME says which folder: say so by {flag}"))
}

const HEADER: [&str; 7] = ["NAME", "UUID", "CLIENT", "FROM", "KEEPER", "LED", "AGE"];

fn listed(all: &[Running]) -> String {
    let row = |one: &Running| {
        [
            printable(&one.name),
            one.uuid.to_string(),
            printable(&one.client),
            printable(&one.from),
            one.keeper.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            if one.is_led { "yes" } else { "no" }.to_owned(),
            age(SystemTime::now().duration_since(one.since).unwrap_or_default()),
        ]
    };
    aligned(&HEADER, &all.iter().map(row).collect::<Vec<_>>())
}

fn listed_json(all: &[Running]) -> String {
    let one = |one: &Running| {
        json!({
            "name": one.name,
            "uuid": one.uuid.to_string(),
            "client": one.client,
            "from": one.from,
            "keeper": one.keeper,
            "led": one.is_led,
            "since": one.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        })
    };
    format!("{:#}\n", Value::from_iter(all.iter().map(one)))
}
