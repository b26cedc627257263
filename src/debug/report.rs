//! What is written where nobody can be asked? The crash report; and what arguments look like without their types.
use std::fmt::Write;

use super::message::{Frame, Stop};

/// One structured block in the log; on stderr where nobody takes the log: it is not lost by that.
pub(super) fn log(stop: &Stop, frames: &[Frame], why: &str) {
    if !tracing::enabled!(target: "teamster::debug", tracing::Level::ERROR) {
        eprintln!("teamster: {}", text(stop, frames, why));
        return;
    }
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let stack: Vec<String> =
        frames.iter().filter(|frame| frame.is_users).map(|frame| one_line(&line_of(frame))).collect();
    let values: Vec<String> = stop.values.iter().map(|(name, value)| format!("{name} = {}", one_line(value))).collect();
    tracing::error!(
        target: "teamster::debug",
        kind = stop.kind.name(),
        at = stop.location.as_deref().unwrap_or("?"),
        endpoint = stop.call.as_deref().unwrap_or("none"),
        args = stop.args.as_deref().unwrap_or("none"),
        values = values.join(", "),
        error = one_line(&stop.chain),
        stack = stack.join(" < "),
        "crash report: {} in {}: {} ({why})",
        stop.kind.name(),
        stop.aid,
        one_line(&stop.text)
    );
}

fn text(stop: &Stop, frames: &[Frame], why: &str) -> String {
    let mut text = format!("crash report: {} in {} ({why})\n{}", stop.kind.name(), stop.aid, indented(&stop.text));
    let mut part = |name: &str, value: &str| {
        // Writing to a string never fails.
        let _ = write!(text, "\n  {name}: {value}");
    };
    if let Some(location) = &stop.location {
        part("at", location);
    }
    if let Some(call) = &stop.call {
        part("in", call);
    }
    if let Some(args) = &stop.args {
        part("args", args);
    }
    for (name, value) in &stop.values {
        part(name, value);
    }
    if !stop.chain.is_empty() {
        part("error", stop.chain.trim_end());
    }
    for frame in frames.iter().filter(|frame| frame.is_users) {
        let _ = write!(text, "\n  {}", line_of(frame));
    }
    text
}

pub(super) fn line_of(frame: &Frame) -> String {
    match &frame.file {
        Some(file) => format!("{:<40} {}:{}", frame.name, short(file), frame.line),
        None => frame.name.clone(),
    }
}

/// A file as its project knows it.
pub(super) fn short(file: &str) -> &str {
    let here = std::env::current_dir().ok();
    here.as_deref().and_then(|here| file.strip_prefix(here.to_str()?)?.strip_prefix('/')).unwrap_or(file)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Arguments as they travelled: numbers, texts, lists, maps. Without names of fields where the two ends are of one
/// build, since they don't travel then.
pub(super) fn readable(args: &[u8]) -> Option<String> {
    let mut rest = args;
    let value = rmpv::decode::read_value(&mut rest).ok()?;
    let rmpv::Value::Array(items) = value else { return Some(value.to_string()) };
    Some(items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
