//! What is an endpoint's failure, before it is text and bytes?
use std::any::type_name;
#[cfg(feature = "anyhow")]
use std::backtrace::BacktraceStatus;
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use super::crash::{DebugQuit, QUIT_TEXT, QUIT_TYPE};
use super::panics;
use crate::error::{BoxError, CodecError, Error};
#[cfg(feature = "anyhow")]
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
    /// Somebody has looked at it where it was made.
    is_seen: bool,
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
        Failure { inner: Box::new(Inner { what, known, is_seen: false }) }
    }

    /// Used by the macros: a stream of results could not be sent.
    #[doc(hidden)]
    pub fn from_stream(error: Error) -> Failure {
        Failure::ours(error)
    }

    /// One of our own errors.
    pub(crate) fn ours(error: Error) -> Failure {
        let known = Circumstances { type_name: type_name::<Error>().to_owned(), ..Circumstances::default() };
        Failure::new(What::Ours(error), known)
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
        let payload = match payload.downcast::<DebugQuit>() {
            Ok(quit) => {
                let known =
                    Circumstances { type_name: QUIT_TYPE.to_owned(), location: Some(quit.location()), backtrace: None };
                return Failure {
                    inner: Box::new(Inner { what: What::Foreign(QUIT_TEXT.into()), known, is_seen: true }),
                };
            }
            Err(payload) => payload,
        };
        let text = match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => match payload.downcast_ref::<&'static str>() {
                Some(text) => (*text).to_owned(),
                None => "the panic has no text".to_owned(),
            },
        };
        Failure::new(What::Panic(text), Circumstances { type_name: "panic".to_owned(), location, backtrace })
    }

    /// A panic that was caught on this thread just now.
    pub(crate) fn caught(payload: Box<dyn std::any::Any + Send>) -> Failure {
        let note = panics::take_note();
        let (location, backtrace) = note.map_or((None, None), |note| (note.location, note.backtrace));
        Failure::from_panic(payload, location, backtrace)
    }

    fn boxed(error: BoxError, type_name: &'static str) -> Failure {
        let known = Circumstances { type_name: type_name.to_owned(), ..Circumstances::default() };
        match Error::unboxed(error) {
            Ok(ours) => Failure::new(What::Ours(ours), known),
            Err(error) => Failure::new(What::Foreign(error), known),
        }
    }

    /// The error of ours that it is.
    pub(crate) fn as_ours(&self) -> Option<&Error> {
        match &self.inner.what {
            What::Ours(ours) => Some(ours),
            _ => None,
        }
    }

    /// The error, where it is one: a panic's text is none, nor is a result that can't be encoded.
    pub(crate) fn error(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.inner.what {
            What::Ours(ours) => Some(ours),
            What::Foreign(error) => Some(&**error),
            #[cfg(feature = "anyhow")]
            What::Anyhow(error) => Some(error.as_ref()),
            What::Codec(_) | What::Panic(_) => None,
        }
    }

    pub(crate) fn type_name(&self) -> &str {
        &self.inner.known.type_name
    }

    pub(crate) fn location(&self) -> Option<&str> {
        self.inner.known.location.as_deref()
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.inner.is_seen
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
        let Inner { what, known, .. } = *self.inner;
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
        let Inner { what, known, .. } = *self.inner;
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

/// What a function fails with here that is declared without a body.
#[doc(hidden)]
pub fn elsewhere() -> Failure {
    Failure::ours(Error::Usage(
        "this function is of another program, and has no body here: call it in an actor that runs that, \
         by `portal.run(…)` or `portal.open_context(…)`",
    ))
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
        let is_seen = self.is_seen();
        let mut failure = match Error::unboxed(self.into_inner()) {
            Ok(ours) => Failure::new(What::Ours(ours), known),
            Err(error) => Failure::new(What::Foreign(error), known),
        };
        failure.inner.is_seen = is_seen;
        failure
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

#[cfg(test)]
#[allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
mod tests {
    use std::fmt;
    use std::future::IntoFuture;

    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    use super::*;
    use crate::actor::endpoint::{Call, Endpoint};
    use crate::msg::ident::{CancelRequest, Canceller};
    use teamster::{Group, rpc};

    #[crate::error]
    #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
    #[error("row {row} is full")]
    struct Full {
        row: u32,
    }

    mod other {
        use super::*;

        #[crate::error]
        #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
        #[error("the disk is full")]
        pub(super) struct Full {
            pub(super) row: u32,
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no booking")]
    struct Booking(#[from] Full);

    #[rpc]
    async fn typed() -> Result<(), Full> {
        Err(Full { row: 3 })
    }

    #[rpc]
    async fn wrapped() -> Result<(), Booking> {
        Err(Full { row: 4 })?
    }

    #[rpc]
    async fn namesake() -> Result<(), other::Full> {
        Err(other::Full { row: 5 })
    }

    #[rpc]
    async fn report() -> crate::Result<()> {
        "x".parse::<u8>()?;
        Ok(())
    }

    #[rpc]
    async fn anyhow_chain() -> anyhow::Result<()> {
        use anyhow::Context as _;
        Err(Full { row: 6 }).context("while booking").context("on Monday")
    }

    #[rpc]
    async fn anyhow_text() -> anyhow::Result<()> {
        anyhow::bail!("just so")
    }

    #[rpc]
    async fn anyhow_ours() -> anyhow::Result<()> {
        Err(Error::Interrupted { signal: 2 })?
    }

    #[rpc]
    async fn anyhow_boxed_ours() -> anyhow::Result<()> {
        Err(anyhow::Error::from_boxed(Box::new(Error::Interrupted { signal: 2 })))
    }

    #[rpc]
    async fn anyhow_of_report() -> anyhow::Result<()> {
        async fn inner() -> crate::Result<()> {
            Err(Full { row: 8 })?
        }
        Ok(inner().await?)
    }

    #[rpc]
    async fn ours() -> Result<(), Error> {
        Err(Error::Interrupted { signal: 15 })
    }

    #[rpc]
    async fn report_of_ours() -> crate::Result<()> {
        Err(Error::Interrupted { signal: 15 })?
    }

    #[rpc]
    async fn text() -> Result<(), &'static str> {
        Err("no")
    }

    #[rpc]
    async fn boxed() -> Result<(), BoxError> {
        Err(Box::new(Full { row: 7 }))
    }

    #[rpc]
    async fn rude() -> Result<(), Rude> {
        Err(Rude)
    }

    #[derive(Debug)]
    struct Rude;

    impl fmt::Display for Rude {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("no text for you")
        }
    }
    impl StdError for Rude {}

    fn actor(name: &str) -> Aid {
        Aid::new(name, Uuid::from_u128(name.bytes().map(u128::from).sum()), 7, "here")
    }

    fn failure<E: Endpoint<Args = ()>>(_: Call<E>) -> Failure {
        match futures::executor::block_on(E::invoke(())) {
            Ok(_) => panic!("it ended well"),
            Err(failure) => failure,
        }
    }

    /// What the opener gets when the call fails in the actor `leaf`.
    fn crossed<E: Endpoint<Args = ()>>(call: Call<E>) -> RemoteError {
        sent(failure(call), "leaf")
    }

    fn sent(failure: Failure, here: &str) -> RemoteError {
        let bytes = failure.into_wire(&actor(here)).encode();
        let wire = WireError::decode(&bytes).expect("we have just encoded it");
        match wire.into_error("endpoint", &actor(here)) {
            Error::Remote(remote) => remote,
            other => panic!("{other:?}"),
        }
    }

    fn check(remote: RemoteError, type_name: &str, message: &str, chain: &[&str]) -> RemoteError {
        assert_eq!((remote.type_name(), remote.message()), (type_name, message));
        assert_eq!(remote.chain(), chain);
        assert_eq!(remote.actor(), &actor("leaf"));
        assert_eq!(remote.path(), [actor("leaf")]);
        remote
    }

    const HERE: &str = "teamster::actor::failure::tests";

    #[test]
    fn a_registered_error_crosses_as_its_value() {
        let remote = check(crossed(typed()), &format!("{HERE}::Full"), "row 3 is full", &[]);
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 3 }));
        assert!(remote.location().is_some_and(|place| place.starts_with("src/actor/failure.rs:")));
    }

    #[test]
    fn two_types_of_one_short_name_are_two() {
        let remote = check(crossed(namesake()), &format!("{HERE}::other::Full"), "the disk is full", &[]);
        assert_eq!(remote.downcast_ref::<Full>(), None);
        assert_eq!(remote.downcast_ref::<other::Full>(), Some(&other::Full { row: 5 }));
    }

    #[test]
    fn a_registered_error_is_found_below_another_one() {
        let remote = check(crossed(wrapped()), &format!("{HERE}::Booking"), "no booking", &["row 4 is full"]);
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 4 }));
        assert!(remote.downcast_ref::<Booking>().is_none());
    }

    #[test]
    fn a_report_knows_the_line_of_its_question_mark() {
        let remote = crossed(report());
        let remote = check(remote, "core::num::error::ParseIntError", "invalid digit found in string", &[]);
        let wanted = format!("{}:9", line_of("\"x\".parse::<u8>()?"));
        assert_eq!(remote.location(), Some(format!("src/actor/failure.rs:{wanted}").as_str()));
    }

    fn line_of(text: &str) -> usize {
        1 + include_str!("failure.rs").lines().position(|line| line.contains(text)).expect("the line")
    }

    #[test]
    fn anyhow_is_opened_to_its_cause() {
        let name = format!("{HERE}::Full");
        let remote = check(crossed(anyhow_chain()), &name, "on Monday", &["while booking", "row 6 is full"]);
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 6 }));
        check(crossed(anyhow_text()), "anyhow::Error", "just so", &[]);
    }

    #[test]
    fn a_report_goes_through_anyhow_with_its_line() {
        let remote = check(crossed(anyhow_of_report()), &format!("{HERE}::Full"), "row 8 is full", &[]);
        let line = line_of("Err(Full { row: 8 })?");
        assert!(remote.location().is_some_and(|place| place.contains(&format!(":{line}:"))), "{remote:?}");
    }

    #[test]
    fn texts_and_boxes_are_errors_too() {
        check(crossed(text()), "&str", "no", &[]);
        let remote = crossed(boxed());
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 7 }));
        assert_eq!(remote.message(), "row 7 is full");
    }

    #[test]
    fn our_own_error_comes_back_as_what_the_other_actor_saw() {
        for remote in [crossed(ours()), crossed(report_of_ours())] {
            match remote.downcast_ref::<Error>() {
                Some(Error::Interrupted { signal: 15 }) => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(remote.message(), "interrupted by signal 15");
        }
        for remote in [crossed(anyhow_ours()), crossed(anyhow_boxed_ours())] {
            assert!(matches!(remote.downcast_ref(), Some(Error::Interrupted { signal: 2 })), "{remote:?}");
        }
    }

    #[test]
    fn a_group_comes_back_with_its_entries() {
        let two = [Error::Remote(crossed(typed())), Error::Interrupted { signal: 2 }];
        let group = Group::collect(two.clone()).expect("two entries");
        let remote = sent(group.clone().into_failure(), "mid");
        match remote.downcast_ref::<Error>() {
            Some(Error::Group(back)) => {
                assert_eq!(back.primary().id(), two[0].id());
                assert!(matches!(back.others(), [Error::Interrupted { signal: 2 }]));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(remote.id(), group.id());
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 3 }));
    }

    #[test]
    fn an_error_from_further_down_goes_on_as_it_came() {
        let leaf = crossed(typed());
        let mid = sent(Error::Remote(leaf.clone()).into_failure(), "mid");
        let through_anyhow = sent(anyhow::Error::new(Error::Remote(mid.clone())).into_failure(), "top");
        assert_eq!(through_anyhow.path(), [actor("leaf"), actor("mid"), actor("top")]);
        assert_eq!(through_anyhow.id(), leaf.id());
        assert_eq!(through_anyhow.message(), "row 3 is full");
        assert_eq!(through_anyhow.downcast_ref::<Full>(), Some(&Full { row: 3 }));
        assert_eq!(sent(Error::Remote(mid).into_failure(), "mid").path(), [actor("leaf"), actor("mid")]);
    }

    #[test]
    fn context_around_an_error_from_further_down_is_a_level_of_its_own() {
        let leaf = crossed(typed());
        let wrapped = anyhow::Error::new(Error::Remote(leaf.clone())).context("no concert");
        let mid = sent(wrapped.into_failure(), "mid");
        assert_eq!((mid.actor(), mid.message()), (&actor("mid"), "no concert"));
        assert_eq!(mid.id(), leaf.id());
        assert_eq!(mid.chain(), ["row 3 is full"]);
        assert_eq!(mid.downcast_ref::<Full>(), Some(&Full { row: 3 }));
        match mid.cause() {
            Some(Error::Remote(cause)) => assert_eq!(cause.actor(), &actor("leaf")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_that_is_wrapped_without_end_still_arrives() {
        let mut remote = crossed(typed());
        for _ in 0..150 {
            let context = anyhow::Error::new(Error::Remote(remote)).context("again");
            remote = sent(context.into_failure(), "leaf");
        }
        assert_eq!(remote.message(), "again");
        assert_eq!(remote.chain().last().map(String::as_str), Some("row 3 is full"));
        assert_eq!(remote.downcast_ref::<Full>(), Some(&Full { row: 3 }));
    }

    #[test]
    fn a_panic_crosses_with_its_place() {
        let payload = std::panic::catch_unwind(|| panic!("index {}", 9)).expect_err("it panics");
        let failure = Failure::from_panic(payload, Some("src/a.rs:1:2".into()), Some("0: main".into()));
        let remote = check(sent(failure, "leaf"), "panic", "index 9", &[]);
        assert!(remote.is_panic());
        assert_eq!((remote.location(), remote.backtrace()), (Some("src/a.rs:1:2"), Some("0: main")));
        assert!(remote.to_string().ends_with(" panicked: index 9"));
    }

    #[test]
    fn a_text_that_panics_is_told_by_its_types_name() {
        let name = format!("{HERE}::Rude");
        check(crossed(rude()), &name, &format!("{name} (its text is missing: its Display panicked)"), &[]);
    }

    #[test]
    fn a_local_call_fails_with_the_value_itself() {
        let error = futures::executor::block_on(wrapped().into_future()).expect_err("it fails");
        assert!(error.downcast_ref::<Booking>().is_some());
        assert_eq!(error.downcast_ref::<Full>(), Some(&Full { row: 4 }));
        assert_eq!(error.to_string(), "no booking");
        let error = futures::executor::block_on(ours().into_future()).expect_err("it fails");
        assert!(matches!(error, Error::Interrupted { signal: 15 }));
    }

    #[test]
    fn other_endings_cross_as_what_they_are() {
        let canceller = Canceller { aid: actor("root"), request: CancelRequest::Actor };
        let aid = actor("leaf");
        let ends = |wire: WireError| {
            WireError::decode(&wire.encode()).expect("we have just encoded it").into_error("a::b", &aid).to_string()
        };
        assert_eq!(ends(WireError::Cancelled(canceller.clone())), format!("cancelled by {canceller}"));
        assert!(ends(WireError::NotExposed).contains("add its module to `.expose(…)`"));
        assert!(ends(WireError::NoSuchEndpoint).contains("has no endpoint a::b"));
        assert!(ends(WireError::NotStarted { reason: "it was leaving".into() }).ends_with("it was leaving"));
    }
}
