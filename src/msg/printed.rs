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
    /// Whose block it is that the next lines stand in.
    block_of: Option<Aid>,
    /// What stands in the indentation of the next line: a group's `[1]`.
    mark: Option<String>,
    begun: bool,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Printer { out, indent: 0, block_of: None, mark: None, begun: false }
    }

    fn error(&mut self, error: &Error) -> fmt::Result {
        match error {
            Error::Remote(remote) => self.remote(remote),
            Error::Body(body) => self.body(body),
            Error::Group(group) => self.group(group),
            Error::WorkerHook { error: below, .. } => {
                self.line(error)?;
                self.inside(|printer| printer.error(below))
            }
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
            let outer = self.block_of.replace(remote.actor().clone());
            let done = self.inside(|printer| printer.error(ours));
            self.block_of = outer;
            return done;
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
        // In its actor's own block there is no need to say whose it is.
        let actor = body.actor().filter(|actor| self.block_of.as_ref() != Some(*actor));
        match (actor, body.location()) {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::msg::death::{Death, DeathData, ExitKind};
    use crate::msg::remote_error::Circumstances;

    fn actor(name: &str, number: u32) -> Aid {
        Aid::new(name, Uuid::from_u128(u128::from(number) << 96), number, "here")
    }

    fn known(type_name: &str, location: &str) -> Circumstances {
        let location = Some(location.to_owned());
        Circumstances { type_name: type_name.to_owned(), location, backtrace: None }
    }

    fn leaf() -> RemoteError {
        #[derive(Debug, thiserror::Error)]
        #[error("can't read the list")]
        struct List(#[from] std::io::Error);

        let error = List(std::io::Error::other("the disk is gone"));
        RemoteError::returned(&actor("leaf", 3), &error, known("my::List", "src/list.rs:9:5"))
    }

    #[track_caller]
    fn check(error: &Error, wanted: &str) {
        assert_eq!(format!("{error:#}"), wanted.trim_matches('\n'));
        assert_eq!(format!("{error:?}"), wanted.trim_matches('\n'));
    }

    #[test]
    fn one_block_for_each_actor_the_deepest_last() {
        let error = Error::Remote(leaf().relayed_by(&actor("mid", 2)).relayed_by(&actor("top", 1)));
        check(
            &error,
            "
actor top@00000001 (pid 1), which relayed it
actor mid@00000002 (pid 2), which relayed it
actor leaf@00000003 (pid 3) failed at src/list.rs:9:5:
    my::List: can't read the list
    caused by: the disk is gone
",
        );
        assert_eq!(error.to_string(), "leaf@00000003: can't read the list");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("the disk is gone"));
    }

    #[test]
    fn context_that_was_added_on_the_way_has_a_block_of_its_own() {
        let context = anyhow::Error::new(leaf()).context("no shopping today");
        let known = known("anyhow::Error", "src/day.rs:2:10");
        let mid = RemoteError::returned(&actor("mid", 2), &*context, known).relayed_by(&actor("top", 1));
        check(
            &Error::Remote(mid),
            "
actor top@00000001 (pid 1), which relayed it
actor mid@00000002 (pid 2) failed at src/day.rs:2:10:
    no shopping today
actor leaf@00000003 (pid 3) failed at src/list.rs:9:5:
    my::List: can't read the list
    caused by: the disk is gone
",
        );
    }

    #[test]
    fn a_panic_shows_its_backtrace() {
        let backtrace = Some("0: begin\n1: main\n".to_owned());
        let known = Circumstances { backtrace, ..known("panic", "src/a.rs:1:2") };
        let error = Error::Remote(RemoteError::panicked(&actor("leaf", 3), "two\nlines", known));
        check(
            &error,
            "
actor leaf@00000003 (pid 3) panicked at src/a.rs:1:2:
    two
    lines
    backtrace:
        0: begin
        1: main
",
        );
    }

    #[test]
    fn a_group_numbers_its_entries_also_when_it_has_crossed() {
        let death = Death::new(DeathData {
            id: Uuid::from_u128(5),
            aid: actor("worker", 4),
            exit: ExitKind::Signal(9),
            asked: None,
            rung: None,
            said: None,
            in_service: Vec::new(),
            stderr_tail: "oh\nno\n".to_owned(),
            stuck: None,
        });
        let group = Group::collect([Error::Remote(leaf()), Error::ActorDied(death)]).expect("two");
        let text = "
2 failures in one nursery, the first cause first:
[1] actor leaf@00000003 (pid 3) failed at src/list.rs:9:5:
        my::List: can't read the list
        caused by: the disk is gone
[2] actor worker@00000004 (pid 4) died: signal 9 (SIGKILL); the end of its stderr:
        oh
        no
";
        check(&group, text);
        let known = known("", "src/day.rs:2:10");
        let mid = RemoteError::returned_ours(&actor("mid", 2), &group, known);
        let indented: String = text.trim_matches('\n').lines().map(|line| format!("    {line}\n")).collect();
        check(&Error::Remote(mid), &format!("actor mid@00000002 (pid 2) failed at src/day.rs:2:10:\n{indented}"));
    }

    #[test]
    fn an_error_of_a_body_that_crossed_says_where_unless_it_stands_there() {
        let mid = RemoteError::returned_ours(
            &actor("mid", 2),
            &Error::from_body("no fun".into()),
            known("", "src/day.rs:2:10"),
        );
        check(&Error::Remote(mid.clone()), "actor mid@00000002 (pid 2) failed at src/day.rs:2:10:\n    no fun");
        check(mid.ours().expect("it was one of ours"), "actor mid@00000002 (pid 2) failed:\n    no fun");
    }

    #[test]
    fn an_error_of_the_body_prints_its_chain_and_then_what_it_wraps() {
        let context = anyhow::Error::new(leaf()).context("no shopping").context("no fun");
        check(
            &Error::from_body(context.into()),
            "
no fun
caused by: no shopping
actor leaf@00000003 (pid 3) failed at src/list.rs:9:5:
    my::List: can't read the list
    caused by: the disk is gone
",
        );
    }

    #[test]
    fn six_hops_of_a_long_message_print_it_once_whatever_each_hop_adds() {
        let message = "long enough ".repeat(200 * 1024 / 12);
        let leaf: Box<dyn StdError + Send + Sync> = message.clone().into();
        let mut plain = RemoteError::returned(&actor("leaf", 99), &*leaf, known("", "src/a.rs:1:1"));
        let (mut context, mut grouped) = (plain.clone(), plain.clone());
        for hop in 1..=6 {
            let here = actor("hop", hop);
            plain = across(plain.relayed_by(&here));
            let error = anyhow::Error::new(Error::Remote(context)).context(format!("context {hop}"));
            context = across(RemoteError::returned(&here, &*error, known("", "src/b.rs:1:1")));
            let group = Group::collect([Error::Remote(grouped), Error::from_body(format!("other {hop}").into())]);
            grouped = across(RemoteError::returned_ours(&here, &group.expect("two"), known("", "src/c.rs:1:1")));
        }
        for error in [plain, context.clone(), grouped] {
            let text = Error::Remote(error).report().to_string();
            assert_eq!(text.matches(message.trim_end()).count(), 1);
            assert!(text.len() * 2 < message.len() * 3, "{} bytes of {}", text.len(), message.len());
            assert!((1..=6).all(|hop| text.contains(&format!("actor hop@0000000{hop} "))));
        }
        assert_eq!(context.chain().len(), 6);
    }

    fn across(remote: RemoteError) -> RemoteError {
        let mut bytes = Vec::new();
        let named = crate::msg::frame::Encoding::Named;
        crate::msg::codec::encode_into(&remote.to_data(), named, &mut bytes).expect("texts and numbers");
        assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
        RemoteError::from_data(crate::msg::codec::decode(&bytes).expect("what was just encoded"))
    }
}
