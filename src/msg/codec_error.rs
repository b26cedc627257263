//! Which value of which call could not be encoded or decoded?
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{DecodeFailure, EncodeFailure};

/// A value that could not become bytes, or bytes that did not become a value. Cheap to clone.
///
/// # Examples
///
/// ```
/// use teamster::{CodecStep, Error};
///
/// fn is_ours(error: &Error) -> bool {
///     matches!(error, Error::Codec(codec) if codec.step() == CodecStep::Encode)
/// }
/// assert!(!is_ours(&Error::Interrupted { signal: 2 }));
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct CodecError {
    inner: Arc<CodecData>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CodecData {
    id: Uuid,
    step: CodecStep,
    endpoint: String,
    value: String,
    reads: Option<String>,
    writes: Option<String>,
    path: Option<String>,
    message: String,
}

/// Which of the two went wrong.
///
/// # Examples
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use teamster::{CodecStep, Error};
/// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
/// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
/// assert_eq!(error.step(), CodecStep::Encode);
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CodecStep {
    /// The value could not become bytes. Nothing was sent.
    Encode,
    /// The bytes were no value of the type that was wanted.
    Decode,
}

impl CodecError {
    /// `value` says which one: "the arguments", "the result".
    pub(crate) fn encoding(endpoint: &str, value: impl Into<String>, failure: EncodeFailure) -> Self {
        let path = failure.path;
        Self::from_data(CodecData {
            id: Uuid::new_v4(),
            step: CodecStep::Encode,
            endpoint: endpoint.to_owned(),
            value: value.into(),
            reads: None,
            writes: Some(failure.type_name.to_string()),
            path: (!path.is_empty()).then_some(path),
            message: failure.message.to_string(),
        })
    }

    /// `value` says which one: "the argument `a`", "the result".
    pub(crate) fn decoding(endpoint: &str, value: impl Into<String>, failure: DecodeFailure) -> Self {
        let path = failure.path;
        Self::from_data(CodecData {
            id: Uuid::new_v4(),
            step: CodecStep::Decode,
            endpoint: endpoint.to_owned(),
            value: value.into(),
            reads: Some(failure.type_name.to_string()),
            writes: None,
            path: (!path.is_empty()).then_some(path),
            message: failure.message.to_string(),
        })
    }

    /// The bytes are there and too many for one frame. `value` says whose: "the arguments", "the result".
    pub(crate) fn too_long(endpoint: &str, value: impl Into<String>, size: usize, limit: u32) -> Self {
        Self::from_data(CodecData {
            id: Uuid::new_v4(),
            step: CodecStep::Encode,
            endpoint: endpoint.to_owned(),
            value: value.into(),
            reads: None,
            writes: None,
            path: None,
            message: format!(
                "its {size} bytes and a header are over the limit of {limit} bytes a message: send it in parts"
            ),
        })
    }

    fn from_data(data: CodecData) -> Self {
        CodecError { inner: Arc::new(data) }
    }

    /// Adds the type that the sender wrote, once the sender hears of it.
    pub(crate) fn written_as(mut self, type_name: &str) -> Self {
        let data = Arc::make_mut(&mut self.inner);
        data.writes.get_or_insert_with(|| type_name.to_owned());
        self
    }

    pub(crate) fn id(&self) -> Uuid {
        self.inner.id
    }

    /// Whether it happened on the way to bytes or back.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use teamster::{CodecStep, Error};
    /// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
    /// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
    /// assert_eq!(error.step(), CodecStep::Encode);
    /// # Ok(()) }).await }
    /// ```
    pub fn step(&self) -> CodecStep {
        self.inner.step
    }

    /// The path of the endpoint whose call it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use teamster::{CodecStep, Error};
    /// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
    /// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
    /// assert!(error.endpoint().ends_with("::note"));
    /// # Ok(()) }).await }
    /// ```
    pub fn endpoint(&self) -> &str {
        &self.inner.endpoint
    }

    /// Which value: "the argument `a`", "the result".
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use teamster::{CodecStep, Error};
    /// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
    /// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
    /// assert_eq!(error.value(), "the argument `at`");
    /// # Ok(()) }).await }
    /// ```
    pub fn value(&self) -> &str {
        &self.inner.value
    }

    /// The type that the reading side wanted, where that is known.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # use serde::{Deserialize, Serialize};
    /// /// It writes a `u32` and wants to read a `u8`.
    /// #[derive(Clone, Serialize, Deserialize)]
    /// #[serde(into = "u32", from = "u8")]
    /// struct Small(u32);
    /// # impl From<Small> for u32 { fn from(small: Small) -> u32 { small.0 } }
    /// # impl From<u8> for Small { fn from(byte: u8) -> Small { Small(byte.into()) } }
    ///
    /// #[teamster::rpc]
    /// async fn take(small: Small) {}
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Codec(error)) = frank.run(take(Small(300))).await else { unreachable!() };
    /// assert!(error.reader_type().is_some_and(|name| name.contains("Small")));
    /// # Ok(()) }).await }
    /// ```
    pub fn reader_type(&self) -> Option<&str> {
        self.inner.reads.as_deref()
    }

    /// The type that the writing side had, where that is known.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use teamster::{CodecStep, Error};
    /// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
    /// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
    /// assert!(error.writer_type().is_some_and(|name| name.contains("SystemTime")));
    /// # Ok(()) }).await }
    /// ```
    pub fn writer_type(&self) -> Option<&str> {
        self.inner.writes.as_deref()
    }

    /// Where in the value: `items[3].name`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # use serde::{Deserialize, Serialize};
    /// /// It writes a `u32` and wants to read a `u8`.
    /// #[derive(Clone, Serialize, Deserialize)]
    /// #[serde(into = "u32", from = "u8")]
    /// struct Small(u32);
    /// # impl From<Small> for u32 { fn from(small: Small) -> u32 { small.0 } }
    /// # impl From<u8> for Small { fn from(byte: u8) -> Small { Small(byte.into()) } }
    ///
    /// #[teamster::rpc]
    /// async fn take(all: Vec<Small>) {}
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let Err(Error::Codec(error)) = frank.run(take(vec![Small(1), Small(300)])).await else { unreachable!() };
    /// assert_eq!(error.path(), Some("[1]"));
    /// # Ok(()) }).await }
    /// ```
    pub fn path(&self) -> Option<&str> {
        self.inner.path.as_deref()
    }

    /// What the codec said.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use teamster::{CodecStep, Error};
    /// # #[teamster::rpc] async fn note(at: SystemTime) -> SystemTime { at }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let too_early = SystemTime::UNIX_EPOCH - Duration::from_secs(1); // serde refuses it
    /// let Err(Error::Codec(error)) = frank.run(note(too_early)).await else { unreachable!() };
    /// assert!(error.message().contains("UNIX_EPOCH"));
    /// # Ok(()) }).await }
    /// ```
    pub fn message(&self) -> &str {
        &self.inner.message
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = &*self.inner;
        let verb = match data.step {
            CodecStep::Encode => "encoded",
            CodecStep::Decode => "decoded",
        };
        write!(f, "{} of {} could not be {verb}", data.value, data.endpoint)?;
        match (&data.reads, &data.writes) {
            (Some(reads), Some(writes)) => write!(f, " (sent as `{writes}`, wanted as `{reads}`)")?,
            (Some(one), None) | (None, Some(one)) => write!(f, " as `{one}`")?,
            (None, None) => {}
        }
        if let Some(path) = &data.path {
            write!(f, ", at `{path}`")?;
        }
        write!(f, ": {}", data.message)
    }
}

impl fmt::Debug for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
