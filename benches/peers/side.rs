//! One pool in a process of its own: how it is started, asked, and how much memory it and its workers take.
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Result;

/// The variable that tells a child of this program which side it is.
pub(crate) const ROLE: &str = "PEERS_SIDE";

/// The variable that says which Python is meant.
const PYTHON: &str = "PEERS_PYTHON";

/// What goes there and back.
pub(crate) const LARGE_BYTES: usize = 64 << 20;

/// Workers of each pool.
pub(crate) const WORKERS: usize = 2;

pub(crate) struct Side {
    name: String,
    /// What it says of itself: its version.
    version: String,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Side {
    pub(crate) fn of_this_program(name: &str) -> Result<Self> {
        Side::start(name, Command::new(std::env::current_exe()?).env(ROLE, name))
    }

    pub(crate) fn of_python(name: &str, script: &str) -> Result<Self> {
        let python = std::env::var_os(PYTHON).unwrap_or_else(|| "python3".into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(script);
        Side::start(name, Command::new(python).arg("-B").arg(script))
    }

    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("{name}: {error}"))?;
        let asks = child.stdin.take().ok_or("its stdin is a pipe")?;
        let mut answers = BufReader::new(child.stdout.take().ok_or("its stdout is a pipe")?);
        let mut version = String::new();
        if answers.read_line(&mut version)? == 0 {
            return Err(format!("{name} does not start: `benches/peers/run` installs what it needs").into());
        }
        Ok(Side { name: name.to_owned(), version: version.trim().to_owned(), child, asks, answers })
    }

    /// The head of its column.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.version).trim().to_owned()
    }

    /// Seconds, or jobs a second.
    pub(crate) fn ask(&mut self, what: &str, count: usize) -> Result<Vec<f64>> {
        writeln!(self.asks, "{what} {count}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(format!("{} has ended at `{what}`", self.name).into());
        }
        Ok(answer.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    /// Pages that n processes map count for 1/n in each.
    pub(crate) fn pss_mebibytes(&self) -> Result<Vec<f64>> {
        self.sum("smaps_rollup", "Pss:")
    }

    /// What each process of it had in memory at its own highest moment, while one large value went there and back.
    pub(crate) fn peak_mebibytes(&mut self) -> Result<Vec<f64>> {
        for pid in self.tree() {
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?; // forgets its peak: proc(5)
        }
        self.ask("echo", 1)?;
        self.sum("status", "VmHWM:")
    }

    fn sum(&self, file: &str, key: &str) -> Result<Vec<f64>> {
        let mut kibibytes = 0.0;
        for pid in self.tree() {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            let line =
                text.lines().find_map(|line| line.strip_prefix(key)).ok_or("a file of /proc without its line")?;
            kibibytes += line.trim().trim_end_matches(" kB").parse::<f64>()?;
        }
        Ok(vec![kibibytes / 1024.0])
    }

    /// It and all below it.
    fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.child.id()];
        let mut looked = 0;
        while let Some(pid) = tree.get(looked) {
            looked += 1;
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            let pids: Vec<u32> =
                children.flat_map(|line| line.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>()).collect();
            tree.extend(pids);
        }
        tree
    }

    pub(crate) fn end(self) -> Result<()> {
        let Side { name, mut child, asks, .. } = self;
        drop(asks);
        match child.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("{name} has ended with {status}").into()),
        }
    }
}

/// What a side of this program does: it answers lines until there are no more.
pub(crate) fn next_ask() -> Result<Option<(String, usize)>> {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let (what, count) = line.trim().split_once(' ').ok_or("a line is a measure and a count")?;
    Ok(Some((what.to_owned(), count.parse()?)))
}

pub(crate) fn answer(seen: &[f64]) -> Result<()> {
    let texts: Vec<String> = seen.iter().map(f64::to_string).collect();
    writeln!(std::io::stdout(), "{}", texts.join(" "))?;
    Ok(())
}

/// Not zeros alone: pages that nobody has written are all the same one.
pub(crate) fn large_value() -> Vec<u8> {
    (0..LARGE_BYTES).map(|n| (n % 251) as u8).collect()
}
