//! What is an endpoint's failure, before it is text and bytes?
use std::any::type_name;
use std::backtrace::BacktraceStatus;
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use crate::error::{BoxError, CodecError, Error};
use crate::msg::error_value::name_of;
use crate::msg::ident::Aid;
use crate::msg::remote_error::{Circumstances, RemoteError, WireError};
use crate::report::{Carried, Report};

/// How an endpoint failed: the error itself, with its type's name and its place.
#[doc(hidden)]
pub struct Failure {
    inner: Box<Inner>,
}

struct Inner {
    what: What,
    known: Circumstances,
}

enum What {
    /// One of ours, from a call that the endpoint made.
    Ours(Error),
    /// Any other.
    Foreign(BoxError),
    #[cfg(feature = "anyhow")]
    Anyhow(anyhow::Error),
    /// A panic's text.
    Panic(String),
    /// The result can't be encoded.
    Codec(CodecError),
}

impl Failure {
    fn new(what: What, known: Circumstances) -> Failure {
        Failure { inner: Box::new(Inner { what, known }) }
    }

    pub(crate) fn codec(error: CodecError) -> Failure {
        Failure::new(What::Codec(error), Circumstances::default())
    }

    /// A panic, with what the panic hook noted of it.
    pub(crate) fn from_panic(
        payload: Box<dyn std::any::Any + Send>,
        location: Option<String>,
        backtrace: Option<String>,
    ) -> Failure {
        let text = match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => match payload.downcast_ref::<&'static str>() {
                Some(text) => (*text).to_owned(),
                None => "the panic has no text".to_owned(),
            },
        };
        Failure::new(What::Panic(text), Circumstances { type_name: "panic".to_owned(), location, backtrace })
    }

    fn boxed(error: BoxError, type_name: &'static str) -> Failure {
        let known = Circumstances { type_name: type_name.to_owned(), ..Circumstances::default() };
        match Error::unboxed(error) {
            Ok(ours) => Failure::new(What::Ours(ours), known),
            Err(error) => Failure::new(What::Foreign(error), known),
        }
    }

    /// Names the place, unless a better one is known: the endpoint's own.
    #[doc(hidden)]
    #[must_use]
    pub fn or_at(mut self, location: &'static str) -> Failure {
        self.inner.known.location.get_or_insert_with(|| location.to_owned());
        self
    }

    /// What a local call fails with.
    pub(crate) fn into_error(self) -> Error {
        let Inner { what, known } = *self.inner;
        let error = match what {
            What::Ours(ours) => ours,
            What::Foreign(error) => Error::from_body(error),
            #[cfg(feature = "anyhow")]
            What::Anyhow(error) => Error::from_body(error.into()),
            What::Panic(text) => Error::from_body(text.into()),
            What::Codec(codec) => Error::Codec(codec),
        };
        match (error, known.location) {
            (Error::Body(body), Some(location)) if body.location().is_none() => Error::Body(body.at(location)),
            (error, _) => error,
        }
    }

    /// What crosses to the opener, said by the actor `here`.
    pub(crate) fn into_wire(self, here: &Aid) -> WireError {
        let Inner { what, known } = *self.inner;
        let remote = match what {
            What::Ours(ours) => RemoteError::returned_ours(here, &ours, known),
            What::Foreign(error) => RemoteError::returned(here, &*error, known),
            #[cfg(feature = "anyhow")]
            What::Anyhow(error) => RemoteError::returned(here, &*error, known),
            What::Panic(text) => RemoteError::panicked(here, &text, known),
            What::Codec(codec) => return WireError::Codec(codec),
        };
        WireError::Failed(remote.to_data())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.what {
            What::Ours(ours) => ours.fmt(f),
            What::Foreign(error) => error.fmt(f),
            #[cfg(feature = "anyhow")]
            What::Anyhow(error) => error.fmt(f),
            What::Panic(text) => write!(f, "panic: {text}"),
            What::Codec(codec) => codec.fmt(f),
        }
    }
}

/// Asks the compiler for the most exact way to keep an error of this type.
///
/// The macros call `(&&&probe(&error)).teamster_kind().failure(error)` where the type is concrete:
/// method lookup tries the most references first, so [`ExactKind`] goes before [`StdKind`], and
/// that before [`TextKind`]. (It is how `anyhow!` tells its arguments apart.)
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<E>(PhantomData<fn(E)>);

#[doc(hidden)]
pub fn probe<E>(_: &E) -> Probe<E> {
    Probe(PhantomData)
}

/// Our own errors, reports, and `anyhow`'s.
#[doc(hidden)]
pub trait ExactKind {
    fn teamster_kind(&self) -> Exact {
        Exact
    }
}
impl<E: ExactError> ExactKind for &&Probe<E> {}

/// Any `std::error::Error`.
#[doc(hidden)]
pub trait StdKind {
    fn teamster_kind(&self) -> Typed {
        Typed
    }
}
impl<E: StdError + Send + Sync + 'static> StdKind for &Probe<E> {}

/// All the rest, which has to convert to a boxed error.
#[doc(hidden)]
pub trait TextKind {
    fn teamster_kind(&self) -> Text {
        Text
    }
}
impl<E> TextKind for Probe<E> {}

#[doc(hidden)]
#[derive(Debug)]
pub struct Exact;

impl Exact {
    pub fn failure<E: ExactError>(self, error: E) -> Failure {
        error.into_failure()
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Typed;

impl Typed {
    pub fn failure<E: StdError + Send + Sync + 'static>(self, error: E) -> Failure {
        Failure::boxed(Box::new(error), type_name::<E>())
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Text;

impl Text {
    pub fn failure<E: EndpointError>(self, error: E) -> Failure {
        let type_name = type_name::<E>();
        match error.into_boxed().downcast::<Carried>() {
            Ok(carried) => carried.0.into_failure(),
            Err(error) => Failure::boxed(error, type_name),
        }
    }
}

/// An error that an endpoint may return.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "an endpoint can't fail with `{Self}`",
    label = "neither an error type nor a text",
    note = "implement `std::error::Error` for it, and let it be `Send + Sync`; or return `teamster::Result`"
)]
pub trait EndpointError {
    fn into_boxed(self) -> BoxError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> EndpointError for E {
    fn into_boxed(self) -> BoxError {
        self.into()
    }
}

/// A type that has more to say than its `Display`.
#[doc(hidden)]
pub trait ExactError {
    fn into_failure(self) -> Failure;
}

impl ExactError for Error {
    fn into_failure(self) -> Failure {
        Failure::new(What::Ours(self), Circumstances::default())
    }
}

impl ExactError for Report {
    fn into_failure(self) -> Failure {
        let known = Circumstances {
            type_name: self.type_name().to_owned(),
            location: Some(self.location().to_string()),
            backtrace: self.backtrace().map(ToString::to_string),
        };
        match Error::unboxed(self.into_inner()) {
            Ok(ours) => Failure::new(What::Ours(ours), known),
            Err(error) => Failure::new(What::Foreign(error), known),
        }
    }
}

/// Opened to its cause: the first error in it whose type has a name that we can tell.
#[cfg(feature = "anyhow")]
impl ExactError for anyhow::Error {
    fn into_failure(self) -> Failure {
        let top: &(dyn StdError + Send + Sync) = self.as_ref();
        if top.is::<Carried>() {
            // A report that went through `anyhow`, with nothing around it: it knows the line.
            match self.downcast::<Carried>() {
                Ok(carried) => return carried.0.into_failure(),
                Err(error) => return Failure::new(What::Anyhow(error), Circumstances::default()),
            }
        }
        let backtrace = self.backtrace();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let type_name = self.chain().find_map(name_of).unwrap_or("anyhow::Error").to_owned();
        let known = Circumstances { type_name, location: None, backtrace };
        match Error::itself(top) {
            Some(ours) => Failure::new(What::Ours(ours), known),
            None => Failure::new(What::Anyhow(self), known),
        }
    }
}
