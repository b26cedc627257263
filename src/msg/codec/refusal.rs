//! Why was a value refused, and where in it?
use std::borrow::Cow;
use std::fmt::{self, Display, Write};

/// Small, as every result of reading and writing carries it.
#[derive(Debug)]
pub(super) struct Error(Box<Refusal>);

#[derive(Debug)]
struct Refusal {
    message: String,
    /// Innermost first: each value adds its place on the way out.
    path: Vec<Step>,
}

/// From a value to one that is in it.
#[derive(Debug)]
pub(super) enum Step {
    Element(usize),
    Field(Cow<'static, str>),
}

impl Error {
    #[cold]
    pub(super) fn new(message: impl Into<String>) -> Self {
        Error(Box::new(Refusal { message: message.into(), path: Vec::new() }))
    }

    #[cold]
    pub(super) fn inside(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// The path as in `[1].name`, and the message.
    pub(super) fn into_parts(self) -> (String, String) {
        let mut path = String::new();
        for step in self.0.path.iter().rev() {
            let dot = if path.is_empty() { "" } else { "." };
            // Writing to a String does not fail.
            let _ = match step {
                Step::Element(index) => write!(path, "[{index}]"),
                Step::Field(name) => write!(path, "{dot}{name}"),
            };
        }
        (path, self.0.message)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Error::new(message.to_string())
    }
}

impl serde::ser::Error for Error {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Error::new(message.to_string())
    }
}
