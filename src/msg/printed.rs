//! How does an error read? A traceback through the tree: a block for each actor, the deepest last.
use std::error::Error as StdError;
use std::fmt::{self, Write};

use super::ident::Aid;
use super::remote_error::RemoteError;
use super::text::as_ours;
use crate::error::{BodyError, Error, Group};

/// Prints the whole error, and nothing twice.
pub(crate) struct Printed<'a>(pub(crate) &'a Error);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer::new(f).error(self.0)
    }
}

/// Prints one error that failed here and is not one of ours, with its sources.
pub(crate) fn foreign(
    f: &mut fmt::Formatter<'_>,
    error: &(dyn StdError + 'static),
    location: Option<&str>,
) -> fmt::Result {
    let mut printer = Printer::new(f);
    if let Some(location) = location {
        printer.line(format_args!("at {location}:"))?;
        return printer.inside(|printer| printer.chain(error));
    }
    printer.chain(error)
}

/// Writes lines, indented, with no line end after the last.
struct Printer<'a> {
    out: &'a mut dyn Write,
    indent: usize,
    /// What stands in the indentation of the next line: a group's `[1]`.
    mark: Option<String>,
    begun: bool,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Printer { out, indent: 0, mark: None, begun: false }
    }

    fn error(&mut self, error: &Error) -> fmt::Result {
        match error {
            Error::Remote(remote) => self.remote(remote),
            Error::Body(body) => self.body(body),
            Error::Group(group) => self.group(group),
            other => self.line(other),
        }
    }

    fn remote(&mut self, remote: &RemoteError) -> fmt::Result {
        for aid in remote.path()[1..].iter().rev() {
            self.line(format_args!("{}, which relayed it", Actor(aid)))?;
        }
        let verb = if remote.is_panic() { "panicked" } else { "failed" };
        self.head(remote.actor(), verb, remote.location())?;
        if let Some(ours) = remote.ours() {
            return self.inside(|printer| printer.error(ours));
        }
        self.inside(|printer| {
            match says_nothing(remote.type_name()) {
                true => printer.line(remote.message())?,
                false => printer.line(format_args!("{}: {}", remote.type_name(), remote.message()))?,
            }
            for text in remote.own_chain() {
                printer.line(format_args!("caused by: {text}"))?;
            }
            match remote.backtrace() {
                Some(backtrace) => {
                    printer.line("backtrace:")?;
                    printer.inside(|printer| printer.line(backtrace.trim_end()))
                }
                None => Ok(()),
            }
        })?;
        match remote.cause() {
            Some(cause) => self.error(cause),
            None => Ok(()),
        }
    }

    fn body(&mut self, body: &BodyError) -> fmt::Result {
        match (body.actor(), body.location()) {
            (Some(aid), location) => {
                self.head(aid, "failed", location)?;
                self.inside(|printer| printer.own(body.error()))?;
            }
            (None, Some(location)) => {
                self.line(format_args!("failed at {location}:"))?;
                self.inside(|printer| printer.own(body.error()))?;
            }
            (None, None) => self.own(body.error())?,
        }
        self.below(body.error())
    }

    /// An error that is not ours, and all below it.
    fn chain(&mut self, error: &(dyn StdError + 'static)) -> fmt::Result {
        self.own(error)?;
        self.below(error)
    }

    /// An error and its sources, down to the first of ours.
    fn own(&mut self, error: &(dyn StdError + 'static)) -> fmt::Result {
        self.line(error)?;
        let mut next = error.source();
        while let Some(source) = next.filter(|source| as_ours(*source).is_none()) {
            self.line(format_args!("caused by: {source}"))?;
            next = source.source();
        }
        Ok(())
    }

    /// The first error of ours below, with all of its own.
    fn below(&mut self, error: &(dyn StdError + 'static)) -> fmt::Result {
        let ours = std::iter::successors(error.source(), |error| (*error).source()).find_map(as_ours);
        match ours {
            Some(ours) => self.error(&ours),
            None => Ok(()),
        }
    }

    fn group(&mut self, group: &Group) -> fmt::Result {
        self.line(format_args!("{} failures in one nursery, the first cause first:", group.len()))?;
        for (index, entry) in group.iter().enumerate() {
            self.mark = Some(format!("[{}] ", index + 1));
            self.inside(|printer| printer.error(entry))?;
        }
        Ok(())
    }

    fn head(&mut self, aid: &Aid, verb: &str, location: Option<&str>) -> fmt::Result {
        match location {
            Some(location) => self.line(format_args!("{} {verb} at {location}:", Actor(aid))),
            None => self.line(format_args!("{} {verb}:", Actor(aid))),
        }
    }

    fn inside(&mut self, print: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        self.indent += INDENT;
        let done = print(self);
        self.indent -= INDENT;
        done
    }

    /// One piece of text, whose lines are indented alike.
    fn line(&mut self, text: impl fmt::Display) -> fmt::Result {
        if self.begun {
            self.out.write_char('\n')?;
        }
        self.begun = true;
        let mark = self.mark.take().unwrap_or_default();
        let blank = self.indent.saturating_sub(mark.len());
        write!(self.out, "{:blank$}{mark}", "")?;
        write!(Indented { out: self.out, indent: self.indent }, "{text}")
    }
}

/// Columns of one level.
const INDENT: usize = 4;

/// Types whose name adds nothing to the text.
fn says_nothing(type_name: &str) -> bool {
    matches!(type_name, "" | "panic" | "&str" | "alloc::string::String" | "anyhow::Error")
        || type_name.starts_with("alloc::boxed::Box<dyn ")
}

struct Actor<'a>(&'a Aid);

impl fmt::Display for Actor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor {} (pid {})", self.0, self.0.pid())
    }
}

/// Indents what follows a line end.
struct Indented<'a> {
    out: &'a mut dyn Write,
    indent: usize,
}

impl Write for Indented<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let indent = self.indent;
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                write!(self.out, "\n{:indent$}", "")?;
            }
            self.out.write_str(line)?;
        }
        Ok(())
    }
}
