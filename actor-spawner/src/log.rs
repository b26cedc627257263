//! What do the actors of running trees log now?
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::bail;
use serde_json::json;
use teamster::discovery::{LogRecord, LogRecords, trees};

use crate::pick::is_called;
use crate::text::printable;

/// Prints the lines of all trees as they come, of the actors `of` alone if that is given, until the trees end.
pub(crate) fn follow(of: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let (lines, come) = sync_channel(WAITING);
    let mut followed = 0;
    for tree in trees()? {
        match tree.follow_log() {
            Ok(log) => {
                eprintln!("following the tree of pid {}{}", tree.pid, hint(&log));
                followed += 1;
                let lines = lines.clone();
                // It ends with its tree, or with this process.
                std::thread::Builder::new().spawn(move || pass_on(log, &lines))?;
            }
            Err(error) => eprintln!("teamster: the tree of pid {} does not answer: {error}", tree.pid),
        }
    }
    drop(lines);
    if followed == 0 {
        bail!("there is no tree to follow");
    }
    let mut out = io::stdout().lock();
    for record in come.into_iter().filter(|record| of.is_none_or(|of| is_called(&record.actor, record.uuid, of))) {
        let line = if as_json { json_line(&record) } else { record.to_string() };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    Ok(())
}

fn pass_on(log: LogRecords, to: &SyncSender<LogRecord>) {
    // An error is the end of a tree that was killed; a closed channel that of our reader.
    for record in log.map_while(Result::ok) {
        if to.send(record).is_err() {
            return;
        }
    }
}

fn hint(log: &LogRecords) -> String {
    match log.directives().trim() {
        "off" | "OFF" | "" => ", whose actors log nothing: start it with TEAMSTER_LOG=info".to_owned(),
        directives => format!(", whose actors log {}", printable(directives)),
    }
}

fn json_line(record: &LogRecord) -> String {
    let since = record.time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let fields: serde_json::Map<_, _> =
        record.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "time_seconds": since.as_secs_f64(),
        "level": record.level.to_string(),
        "actor": record.actor,
        "uuid": record.uuid.to_string(),
        "pid": record.pid,
        "target": record.target,
        "spans": record.spans,
        "message": record.message,
        "fields": fields,
    })
    .to_string()
}

/// Lines that wait for our own output: then the trees keep them, and drop the oldest.
const WAITING: usize = 64;
