//! Who is who: an actor's identity, and who asked for a cancel.
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of one actor: one process for one lifetime.
///
/// The name is the user's and need not be unique; the uuid is.
///
/// Equality, order and hash look at the uuid alone. It prints as `name` followed by the first
/// eight digits of the uuid: `frank@1f0c9a2b`.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// let aid = frank.aid();
/// assert!(aid.to_string().starts_with("frank@"));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Aid {
    name: Arc<str>,
    uuid: Uuid,
    pid: u32,
    /// The machine's name, and behind a `/` what sets its processes apart from those of every other machine.
    host: Arc<str>,
}

impl Aid {
    pub(crate) fn new(name: impl Into<Arc<str>>, uuid: Uuid, pid: u32, host: impl Into<Arc<str>>) -> Self {
        Aid { name: name.into(), uuid, pid, host: host.into() }
    }

    /// The name that the user gave it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// assert_eq!(an.start_actor("frank").await?.aid().name(), "frank");
    /// # Ok(()) }).await }
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What sets it apart from every other actor that ever ran.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let [one, other] = an.start_actors(["frank", "frank"]).await?.try_into().expect("two");
    /// assert_ne!(one.aid().uuid(), other.aid().uuid());
    /// # Ok(()) }).await }
    /// ```
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its process id, on its own host. 0 where the process had not been started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// assert_eq!(teamster::this_actor()?.aid().pid(), std::process::id());
    /// # Ok(()) }).await }
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name of the machine that it runs on.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// println!("it runs on {}", teamster::this_actor()?.aid().host());
    /// # Ok(()) }).await }
    /// ```
    pub fn host(&self) -> &str {
        self.host.split_once('/').map_or(&self.host, |(name, _)| name)
    }

    /// Its host as it travels: two are one host if and only if these are equal.
    pub(crate) fn host_id(&self) -> &str {
        &self.host
    }

    pub(crate) fn with_pid(&self, pid: u32) -> Self {
        Aid { pid, ..self.clone() }
    }

    /// The same actor, as it knows itself: a launcher may have brought it to another host.
    pub(crate) fn at(&self, pid: u32, host: impl Into<Arc<str>>) -> Self {
        Aid { pid, host: host.into(), ..self.clone() }
    }
}

impl PartialEq for Aid {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl Eq for Aid {}
impl std::hash::Hash for Aid {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

impl fmt::Display for Aid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.uuid.simple().to_string();
        write!(f, "{}@{}", self.name, &digits[..8])
    }
}

/// Who asked for a cancel, and how.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn hold() { std::future::pending().await }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// # use teamster::{CancelRequest, Error};
/// let (called, ended) = tokio::join!(frank.run(hold()), frank.cancel_actor());
/// ended?;
/// if let Err(Error::Cancelled { canceller }) = called {
///     assert_eq!(canceller.aid, *teamster::this_actor()?.aid()); // it was us
/// }
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Canceller {
    /// The actor in which the request was made.
    pub aid: Aid,
    /// What was asked there.
    pub request: CancelRequest,
}

impl fmt::Display for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.aid, self.request)
    }
}

/// What kind of request a cancel came from.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn hold() { std::future::pending().await }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// # use teamster::{CancelRequest, Error};
/// let (called, ended) = tokio::join!(frank.run(hold()), frank.cancel_actor());
/// ended?;
/// if let Err(Error::Cancelled { canceller }) = called {
///     assert_eq!(canceller.request, CancelRequest::Actor);
/// }
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CancelRequest {
    /// `Portal::cancel_actor`, or `teamster::cancel_self`.
    Actor,
    /// `ActorNursery::cancel`.
    Nursery,
    /// The nursery's body had ended well, and its service actors were no longer wanted.
    NurseryEnd,
    /// Something else in the same nursery had failed.
    Failure,
    /// The future of a call, or of a scope, was dropped.
    Dropped,
    /// A deadline had passed.
    Deadline,
    /// This signal had arrived.
    Signal(i32),
    /// The line to the parent had ended: the parent is gone.
    ParentLost,
    /// `cancel()` of a context, by its opener or by a third actor.
    Context,
    /// A context's own task cancelled it.
    Itself,
}

impl fmt::Display for CancelRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CancelRequest::Actor => f.write_str("it asked the actor to end"),
            CancelRequest::Nursery => f.write_str("it cancelled the nursery"),
            CancelRequest::NurseryEnd => f.write_str("its nursery had come to its end"),
            CancelRequest::Failure => f.write_str("another part of the nursery had failed"),
            CancelRequest::Dropped => f.write_str("the caller no longer waits"),
            CancelRequest::Deadline => f.write_str("the deadline had passed"),
            CancelRequest::Signal(number) => write!(f, "signal {number} had arrived"),
            CancelRequest::ParentLost => f.write_str("the parent is gone"),
            CancelRequest::Context => f.write_str("it cancelled the context"),
            CancelRequest::Itself => f.write_str("the context's task cancelled itself"),
        }
    }
}
