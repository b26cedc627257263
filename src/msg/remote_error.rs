//! How is an error data? What crosses when something fails in another actor.
use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{self, DecodeFailure};
use super::codec_error::CodecError;
use super::error_data::{ErrorData, Told};
use super::error_value::Value;
use super::frame::Encoding;
use super::ident::{Aid, Canceller};
use super::text::{Sources, bounded, bounded_to};
use crate::error::{BoxError, Error, capture, find_below};

/// An error that happened in another actor. Cheap to clone.
///
/// It prints as one line: where, and what; its sources have the rest. [`Error::report`] prints it whole.
///
/// # Examples
///
/// ```
/// fn tell(error: &teamster::RemoteError) {
///     eprintln!("{} in {}: {}", error.type_name(), error.actor().name(), error.message());
///     for source in error.chain() {
///         eprintln!("  because of {source}");
///     }
///     for relay in &error.path()[1..] {
///         eprintln!("  by way of {relay}");
///     }
/// }
/// ```
#[derive(Clone)]
pub struct RemoteError {
    origin: Arc<Origin>,
    path: Arc<[Aid]>,
}

/// What is the same in every actor that it climbs through.
struct Origin {
    id: Uuid,
    type_name: String,
    message: String,
    /// The sources' texts, down to the first error of ours.
    chain: Vec<String>,
    /// That one: what an actor further down had failed with.
    cause: Option<Error>,
    location: Option<String>,
    backtrace: Option<String>,
    panic: bool,
    value: Option<Value>,
    decoded: OnceLock<Option<BoxError>>,
    source: OnceLock<Option<BoxError>>,
    whole_chain: OnceLock<Vec<String>>,
}

/// [`RemoteError`] as data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RemoteData {
    id: Uuid,
    path: Vec<Aid>,
    type_name: String,
    message: String,
    chain: Vec<String>,
    cause: Option<Box<ErrorData>>,
    location: Option<String>,
    backtrace: Option<String>,
    panic: bool,
    value: Option<Value>,
}

/// What is known of an error besides itself, before it leaves the actor where it happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circumstances {
    pub(crate) type_name: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

impl RemoteData {
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }
}

impl RemoteError {
    /// An error that an endpoint of the actor `here` returned.
    pub(crate) fn returned(here: &Aid, error: &(dyn StdError + 'static), known: Circumstances) -> Self {
        let message = bounded(error, &known.type_name);
        let sources = Sources::below(error).folded();
        let value = std::iter::successors(Some(error), |error| (*error).source())
            .take_while(|error| super::text::as_ours(*error).is_none())
            .find_map(Value::of);
        let id = sources.ours.as_ref().map_or_else(Uuid::new_v4, Error::id);
        let cause = sources.ours.map(|ours| ours.leaving(here));
        let origin = Origin { chain: sources.texts, cause, value, ..Origin::new(id, message, known) };
        RemoteError::at(here, origin)
    }

    /// An error of our own that an endpoint of the actor `here` returned. One that came from
    /// another actor goes on as it came.
    pub(crate) fn returned_ours(here: &Aid, error: &Error, known: Circumstances) -> Self {
        if let Error::Remote(remote) = error {
            return remote.relayed_by(here);
        }
        let error = &error.leaving(here);
        let Some(value) = Value::of(error) else {
            let id = error.id();
            let origin = RemoteError::returned(here, error, known).origin;
            let origin = Arc::into_inner(origin).expect("it was just made, and nobody else has it");
            return RemoteError::at(here, Origin { id, ..origin });
        };
        // The value says it all. A group's text grows with each level, so it goes as a summary.
        let limit_bytes = if matches!(error, Error::Group(_)) { SUMMARY_BYTES } else { super::text::MAX_TEXT_BYTES };
        let message = bounded_to(limit_bytes, error, type_name::<Error>());
        let known = Circumstances { type_name: type_name::<Error>().to_owned(), ..known };
        RemoteError::at(here, Origin { value: Some(value), ..Origin::new(error.id(), message, known) })
    }

    /// A panic in an endpoint of the actor `here`.
    pub(crate) fn panicked(here: &Aid, message: &str, known: Circumstances) -> Self {
        let message = bounded(message, "a panic");
        RemoteError::at(here, Origin { panic: true, ..Origin::new(Uuid::new_v4(), message, known) })
    }

    fn at(here: &Aid, origin: Origin) -> Self {
        RemoteError { origin: Arc::new(origin), path: Arc::new([here.clone()]) }
    }

    /// The same error, one actor further up.
    pub(crate) fn relayed_by(&self, here: &Aid) -> RemoteError {
        if self.path.last() == Some(here) {
            return self.clone();
        }
        let path = self.path.iter().chain([here]).cloned().collect();
        RemoteError { origin: self.origin.clone(), path }
    }

    pub(crate) fn to_data(&self) -> RemoteData {
        let origin = &*self.origin;
        RemoteData {
            id: origin.id,
            path: self.path.to_vec(),
            type_name: origin.type_name.clone(),
            message: origin.message.clone(),
            chain: origin.chain.clone(),
            cause: origin.cause.as_ref().map(|cause| Box::new(ErrorData::from(cause))),
            location: origin.location.clone(),
            backtrace: origin.backtrace.clone(),
            panic: origin.panic,
            value: origin.value.clone(),
        }
    }

    pub(crate) fn from_data(data: RemoteData) -> Self {
        let RemoteData { id, path, type_name, message, chain, cause, location, backtrace, panic, value } = data;
        let known = Circumstances { type_name, location, backtrace };
        let cause = cause.map(|cause| Error::from(*cause));
        let origin = Origin { chain, cause, panic, value, ..Origin::new(id, message, known) };
        let path = match path.is_empty() {
            true => Arc::new([Aid::new("unknown", Uuid::nil(), 0, "")]) as Arc<[Aid]>,
            false => path.into(),
        };
        RemoteError { origin: Arc::new(origin), path }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.origin.id
    }

    /// The actor in which it happened.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// assert_eq!(error.actor(), frank.aid());
    /// # Ok(()) }).await }
    /// ```
    pub fn actor(&self) -> &Aid {
        &self.path[0]
    }

    /// The actors that it climbed through, the one where it happened first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// assert_eq!(error.path(), [frank.aid().clone()]); // it came straight to us
    /// # Ok(()) }).await }
    /// ```
    pub fn path(&self) -> &[Aid] {
        &self.path
    }

    /// The whole path of the error's type over there, as far as it was known:
    /// `std::io::error::Error`.
    ///
    /// "panic" for a panic.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// assert_eq!(error.type_name(), "std::io::error::Error");
    /// # Ok(()) }).await }
    /// ```
    pub fn type_name(&self) -> &str {
        &self.origin.type_name
    }

    /// What it said: at most 256 KiB, and marked if it was longer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// assert!(error.message().starts_with("No such file"));
    /// # Ok(()) }).await }
    /// ```
    pub fn message(&self) -> &str {
        &self.origin.message
    }

    /// What its sources said, the nearest first, down to the deepest actor.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> anyhow::Result<String> {
    /// #     use anyhow::Context;
    /// #     std::fs::read_to_string("/no/such/file").context("reading")
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// assert!(error.message() == "reading" && error.chain()[0].starts_with("No such file"));
    /// # Ok(()) }).await }
    /// ```
    pub fn chain(&self) -> &[String] {
        let origin = &*self.origin;
        if origin.cause.is_none() && self.ours().is_none() {
            return &origin.chain;
        }
        origin.whole_chain.get_or_init(|| {
            let mut texts = Vec::new();
            let mut next = self.source();
            while let Some(error) = next {
                texts.push(match error.downcast_ref::<Error>() {
                    Some(Error::Remote(remote)) => remote.message().to_owned(),
                    _ => error.to_string(),
                });
                next = error.source();
            }
            texts
        })
    }

    /// Where it happened, as `file:line:column`, or where the endpoint that failed is defined.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// println!("{} at {}", error.message(), error.location().unwrap_or("an unknown place"));
    /// # Ok(()) }).await }
    /// ```
    pub fn location(&self) -> Option<&str> {
        self.origin.location.as_deref()
    }

    /// The backtrace over there: of a panic, or where `RUST_BACKTRACE` is set.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(read()).await else { unreachable!() };
    /// if let Some(backtrace) = error.backtrace() {
    ///     eprintln!("{backtrace}"); // it has one where RUST_BACKTRACE is set
    /// }
    /// # Ok(()) }).await }
    /// ```
    pub fn backtrace(&self) -> Option<&str> {
        self.origin.backtrace.as_deref()
    }

    /// Whether it was a panic and not a returned error.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn index(numbers: Vec<u32>, at: usize) -> u32 { numbers[at] }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Remote(error)) = frank.run(index(vec![], 3)).await else { unreachable!() };
    /// assert!(error.is_panic());
    /// frank.run(index(vec![1], 0)).await?; // the actor goes on
    /// # Ok(()) }).await }
    /// ```
    pub fn is_panic(&self) -> bool {
        self.origin.panic
    }

    /// The error's value, if its type is registered with [`#[teamster::error]`](macro@crate::error)
    /// and is a `T`.
    ///
    /// Looks through what wraps it, also in actors further down. With `T = teamster::Error` it is
    /// what the other actor saw: a death, a group, its entries intact.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # use serde::{Deserialize, Serialize};
    /// #[teamster::error]
    /// #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
    /// #[error("no seat in row {row}")]
    /// struct Full {
    ///     row: u32,
    /// }
    ///
    /// #[teamster::rpc]
    /// async fn book(row: u32) -> Result<u32, Full> {
    ///     Err(Full { row })
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let shop = an.start_actor("shop").await?;
    /// let Err(Error::Remote(error)) = shop.run(book(7)).await else { unreachable!() };
    /// assert_eq!(error.downcast_ref::<Full>().map(|full| full.row), Some(7));
    /// # Ok(()) }).await }
    /// ```
    pub fn downcast_ref<T: StdError + Send + Sync + 'static>(&self) -> Option<&T> {
        if let Some(found) = self.decoded().and_then(|value| find_below(value)) {
            return Some(found);
        }
        self.origin.cause.as_ref().and_then(|cause| find_below(cause))
    }

    /// What an actor further down had failed with, if this error wraps it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::{Error, Portal};
    /// # use anyhow::Context;
    /// #[teamster::rpc]
    /// async fn pay() -> Result<(), String> {
    ///     Err("the till is empty".to_owned())
    /// }
    ///
    /// #[teamster::rpc]
    /// async fn sell(till: Portal) -> anyhow::Result<()> {
    ///     till.run(pay()).await.context("selling")
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let [shop, till] = an.start_actors(["shop", "till"]).await?.try_into().expect("two");
    /// let Err(Error::Remote(error)) = shop.run(sell(till.clone())).await else { unreachable!() };
    /// assert_eq!(error.message(), "selling");
    /// assert!(matches!(error.cause(), Some(Error::Remote(cause)) if cause.actor() == till.aid()));
    /// # Ok(()) }).await }
    /// ```
    pub fn cause(&self) -> Option<&Error> {
        self.origin.cause.as_ref()
    }

    /// The error of ours that the endpoint returned, if it was one.
    pub(crate) fn ours(&self) -> Option<&Error> {
        self.decoded()?.downcast_ref()
    }

    /// The sources' texts, without those of [`cause`](RemoteError::cause).
    pub(crate) fn own_chain(&self) -> &[String] {
        &self.origin.chain
    }

    fn decoded(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        let origin = &*self.origin;
        origin.decoded.get_or_init(|| origin.value.as_ref().and_then(Value::decode)).as_deref()
    }

    pub(crate) fn source(&self) -> Option<&(dyn StdError + 'static)> {
        if let Some(ours) = self.ours() {
            return StdError::source(ours);
        }
        let origin = &*self.origin;
        let source = origin
            .source
            .get_or_init(|| Told::new(String::new(), origin.chain.clone(), origin.cause.clone()).into_source());
        source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }

    /// Where, and what.
    pub(crate) fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_panic() { " panicked" } else { "" };
        write!(f, "{}{verb}: {}", self.actor(), self.message())
    }
}

impl Origin {
    fn new(id: Uuid, message: String, known: Circumstances) -> Origin {
        let Circumstances { type_name, location, backtrace } = known;
        let backtrace = backtrace.map(|text| bounded_to(BACKTRACE_BYTES, &text, "a backtrace"));
        Origin {
            id,
            type_name,
            message,
            chain: Vec::new(),
            cause: None,
            location,
            backtrace,
            panic: false,
            value: None,
            decoded: OnceLock::new(),
            source: OnceLock::new(),
            whole_chain: OnceLock::new(),
        }
    }
}

/// Bytes of a group's text beside its value: for readers that can't decode the value.
const SUMMARY_BYTES: usize = 4 * 1024;

/// Bytes of a backtrace that cross.
const BACKTRACE_BYTES: usize = 64 * 1024;

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if capture::offer(|| Error::Remote(self.clone())) {
            return Ok(());
        }
        self.line(f)
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Error::Remote(self.clone()).report())
    }
}

impl StdError for RemoteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        RemoteError::source(self)
    }
}

/// How a dialog ended that did not end well: the payload of an Error frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum WireError {
    /// The endpoint failed, or panicked.
    Failed(RemoteData),
    /// Its task was cancelled.
    Cancelled(Canceller),
    /// It may not be called.
    NotExposed,
    /// The program has no such endpoint.
    NoSuchEndpoint,
    /// The program has two of that path.
    Ambiguous { first: String, second: String },
    /// The arguments could not be decoded, or the result not be encoded.
    Codec(CodecError),
    /// Its deadline passed before it had ended.
    Deadline { after: Duration },
    /// It was not started, and won't be.
    NotStarted { reason: String },
}

impl WireError {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if codec::encode_into(self, Encoding::Named, &mut bytes).is_err() {
            // Only depth can be too much of texts and numbers: what stands far below is left out.
            bytes.clear();
            codec::encode_into(&self.shallow(), Encoding::Named, &mut bytes).expect("two levels are not too deep");
        }
        bytes
    }

    fn shallow(&self) -> WireError {
        match self.clone() {
            WireError::Failed(mut data) => {
                if data.cause.take().is_some() {
                    data.chain.push("… [cut: what is below is too deep]".to_owned());
                }
                WireError::Failed(data)
            }
            other => other,
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<WireError, DecodeFailure> {
        codec::decode(bytes)
    }

    /// What the opener of the dialog gets, who had called `endpoint` on `aid`.
    pub(crate) fn into_error(self, endpoint: &str, aid: &Aid) -> Error {
        let (endpoint, aid) = (endpoint.to_owned(), aid.clone());
        match self {
            WireError::Failed(data) => Error::Remote(RemoteError::from_data(data)),
            WireError::Cancelled(canceller) => Error::Cancelled { canceller },
            WireError::NotExposed => Error::NotExposed { endpoint, aid },
            WireError::NoSuchEndpoint => Error::NoSuchEndpoint { endpoint, aid },
            WireError::Ambiguous { first, second } => Error::Ambiguous { endpoint, first, second },
            WireError::Codec(codec) => Error::Codec(codec),
            WireError::Deadline { after } => Error::Deadline { after },
            WireError::NotStarted { reason } => Error::NotStarted { endpoint, aid, reason },
        }
    }
}
