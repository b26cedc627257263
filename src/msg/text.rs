//! What does an error say? Its text, bounded, whatever its `Display` does.
use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::remote_error::RemoteError;
use crate::error::Error;

/// Bytes of text that cross for one error; what is over it is cut, and marked.
pub(crate) const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Sources that cross for one error: a chain that goes on for ever ends somewhere.
const MAX_SOURCES: usize = 64;

/// The text of `value`, at most [`MAX_TEXT_BYTES`]. If its `Display` panics: `name`, with a note.
pub(crate) fn bounded(value: &(impl fmt::Display + ?Sized), name: &str) -> String {
    bounded_to(MAX_TEXT_BYTES, value, name)
}

pub(crate) fn bounded_to(limit_bytes: usize, value: &(impl fmt::Display + ?Sized), name: &str) -> String {
    let mut text = Cut { kept: String::new(), limit_bytes, seen_bytes: 0 };
    let written = catch_unwind(AssertUnwindSafe(|| write!(text, "{value}")));
    match written {
        Err(_) => format!("{name} (its text is missing: its Display panicked)"),
        Ok(Err(_)) if text.seen_bytes == 0 => format!("{name} (its text is missing: its Display failed)"),
        Ok(_) => text.marked(),
    }
}

/// Keeps the first bytes and counts the others.
struct Cut {
    kept: String,
    limit_bytes: usize,
    seen_bytes: usize,
}

impl Cut {
    fn marked(mut self) -> String {
        if self.seen_bytes > self.kept.len() {
            let mark = format!("… [cut: {} bytes in all]", self.seen_bytes);
            let mut room = self.limit_bytes.saturating_sub(mark.len()).min(self.kept.len());
            while !self.kept.is_char_boundary(room) {
                room -= 1;
            }
            self.kept.truncate(room);
            self.kept.push_str(&mark);
        }
        self.kept
    }
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.seen_bytes == self.kept.len() {
            let mut room = (self.limit_bytes - self.kept.len()).min(text.len());
            while !text.is_char_boundary(room) {
                room -= 1;
            }
            self.kept.push_str(&text[..room]);
        }
        self.seen_bytes += text.len();
        Ok(())
    }
}

/// What stands below an error: the texts down to the first error of ours, and that one.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) texts: Vec<String>,
    pub(crate) ours: Option<Error>,
}

impl Sources {
    pub(crate) fn below(error: &(dyn StdError + 'static)) -> Sources {
        let mut sources = Sources::default();
        let mut left_bytes = MAX_TEXT_BYTES;
        let mut next = error.source();
        while let Some(source) = next {
            if let Some(ours) = as_ours(source) {
                sources.ours = Some(ours);
                break;
            }
            if left_bytes == 0 || sources.texts.len() == MAX_SOURCES {
                sources.texts.push("… [cut: more sources]".to_owned());
                break;
            }
            let text = bounded_to(left_bytes, source, "an error");
            left_bytes = left_bytes.saturating_sub(text.len());
            sources.texts.push(text);
            next = source.source();
        }
        sources
    }

    /// With at most [`MAX_LEVELS`] errors of ours one below the other: the upper ones become
    /// text, and the deepest, where it all began, stays.
    pub(crate) fn folded(mut self) -> Sources {
        while let Some(ours) = self.ours.take_if(|ours| levels(ours) > MAX_LEVELS) {
            let (text, below) = match &ours {
                Error::Remote(remote) => (remote.message().to_owned(), remote.cause().cloned()),
                other => (bounded(other, "an error"), None),
            };
            if self.texts.len() < MAX_SOURCES {
                self.texts.push(text);
            }
            self.ours = below;
        }
        self
    }
}

/// Errors of ours that cross one below the other. Each takes three levels of the codec's.
const MAX_LEVELS: usize = 24;

/// How many errors of ours stand one below the other, counted a little above [`MAX_LEVELS`].
fn levels(error: &Error) -> usize {
    count_levels(error, MAX_LEVELS + 1)
}

fn count_levels(error: &Error, left: usize) -> usize {
    if left == 0 {
        return 0;
    }
    let below = |error: &Error| count_levels(error, left - 1);
    1 + match error {
        Error::Remote(remote) => remote.cause().map_or(0, below),
        Error::Body(body) => Sources::below(body.error()).ours.as_ref().map_or(0, below),
        Error::Group(group) => group.iter().map(below).max().unwrap_or(0),
        _ => 0,
    }
}

/// The error itself, where it is one of ours.
pub(crate) fn as_ours(error: &(dyn StdError + 'static)) -> Option<Error> {
    match error.downcast_ref::<Error>() {
        Some(ours) => Some(ours.clone()),
        None => error.downcast_ref::<RemoteError>().map(|remote| Error::Remote(remote.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, limit_bytes: usize, wanted: &str) {
        assert_eq!(bounded_to(limit_bytes, text, "a type"), wanted);
    }

    #[test]
    fn a_long_text_is_cut_at_a_letter_and_marked() {
        check("short", 5, "short");
        check(&"é".repeat(50), 40, "éééééé… [cut: 100 bytes in all]");
        assert!(bounded_to(300, &"x".repeat(1 << 20), "a type").len() <= 300);
    }

    #[test]
    fn a_text_that_fails_is_the_types_name() {
        struct Broken;
        impl fmt::Display for Broken {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        assert_eq!(bounded(&Broken, "my::Broken"), "my::Broken (its text is missing: its Display failed)");
    }
}
