//! What can go wrong, as far as a caller can act on it.
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::msg::broken_worker::{BrokenWorker, WorkerHook};
pub use crate::msg::codec_error::{CodecError, CodecStep};
use crate::msg::death::Death;
use crate::msg::ident::{Aid, Canceller};
use crate::msg::printed;
pub use crate::msg::program::ProgramFailure;
pub use crate::msg::remote_error::RemoteError;
pub use crate::msg::spawn_reason::SpawnReason;
use crate::msg::text::as_ours;
use crate::report::Carried;

/// Any error that a body of a scope may return by `?`.
///
/// Strings convert to it too: `return Err("too big".into())`.
///
/// # Examples
///
/// ```
/// fn check(row: u32) -> Result<u32, teamster::BoxError> {
///     if row > 5 {
///         return Err("there is no such row".into());
///     }
///     Ok(row)
/// }
/// assert_eq!(check(7).unwrap_err().to_string(), "there is no such row");
/// ```
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in an actor tree. Cheap to clone.
///
/// `{}` prints one line; what is below it is in `source()`. `{:#}` and `{:?}` print the whole
/// traceback through the tree: one block for each actor, the deepest last.
///
/// # Examples
///
/// ```
/// use teamster::Error;
///
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         Error::Remote(remote) if remote.is_panic() => "a bug over there",
///         Error::ActorDied(death) if death.signal() == Some(9) => "somebody killed it",
///         Error::NotStarted { .. } => "nothing ran: try again",
///         Error::Unknown { .. } => "it may have run: ask before you try again",
///         _ => "give up",
///     }
/// }
/// assert_eq!(advice(&Error::Interrupted { signal: 2 }), "give up");
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// Another actor failed: its error, with the path that it climbed.
    Remote(RemoteError),
    /// The body of a scope of this actor failed, or a call that ran locally.
    Body(BodyError),
    /// Somebody cancelled it: `canceller` says who.
    Cancelled {
        /// Who asked.
        canceller: Canceller,
    },
    /// A signal to the root ended the tree.
    Interrupted {
        /// Its number: 2 for SIGINT.
        signal: i32,
    },
    /// An actor's process ended, and nobody of its tree had asked for that, as far as is known here.
    ///
    /// The [`Death`] says how. Of an actor of another tree, or if nobody is left who has seen it, it says only
    /// that nobody is there any more, or that somebody else is: the exit is [`ExitKind::Unknown`](crate::ExitKind).
    ActorDied(Death),
    /// The call never began over there, so it is safe to make it again.
    NotStarted {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// Why not.
        reason: String,
    },
    /// The line was lost, and whether the call ran over there can't be known.
    Unknown {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// How the line was lost.
        reason: String,
    },
    /// The remote task did not end within its grace after the cancel.
    NotStopped {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
        /// How long we waited.
        grace: Duration,
        /// Whether it has acknowledged the cancel.
        heard: bool,
    },
    /// The other side has not opened its stream, what may wait there is full, and the sender has waited
    /// for 1 s, or for what [`ContextCall::overrun_after`](crate::ContextCall::overrun_after) or
    /// [`Context::overrun_after`](crate::Context::overrun_after) says.
    StreamOverrun {
        /// The context.
        endpoint: String,
        /// Its number on the line.
        dialog: u64,
        /// The actor on the other side.
        aid: Aid,
        /// Bytes that wait there.
        window_bytes: u32,
    },
    /// The other side of the stream reads no more.
    StreamClosed {
        /// The context.
        endpoint: String,
        /// The actor on the other side.
        aid: Aid,
    },
    /// The deadline passed.
    Deadline {
        /// The time that was given.
        after: Duration,
    },
    /// The endpoint exists in that actor and may not be called there.
    NotExposed {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
    },
    /// The actor's program has no such endpoint.
    NoSuchEndpoint {
        /// What was called.
        endpoint: String,
        /// Whom.
        aid: Aid,
    },
    /// Two endpoints have one path.
    Ambiguous {
        /// The path.
        endpoint: String,
        /// `file:line` of one.
        first: String,
        /// `file:line` of the other.
        second: String,
    },
    /// A value could not be encoded or decoded.
    Codec(CodecError),
    /// A connection could not be made, or broke.
    Transport {
        /// What was attempted, with the address.
        what: String,
        /// What the operating system or the peer said.
        reason: String,
    },
    /// An actor could not be started.
    Spawn {
        /// The actor's name.
        name: String,
        /// Why, and the way out.
        reason: SpawnReason,
    },
    /// A worker process ended in the middle of a job.
    BrokenWorker(BrokenWorker),
    /// A pool's own function failed in a worker.
    WorkerHook {
        /// Which one.
        hook: WorkerHook,
        /// The worker.
        aid: Aid,
        /// What it failed with.
        error: Arc<Error>,
    },
    /// A plain program could not be started, or ended otherwise than with status 0, and nobody of the tree had asked for that.
    Program(ProgramFailure),
    /// Several things failed in one nursery.
    Group(Group),
    /// The call makes no sense here; the text says what to do.
    Usage(&'static str),
}

impl Error {
    /// The end of an actor that was still needed: a cancel where somebody of the tree had asked for it.
    pub(crate) fn ended(death: Death) -> Error {
        match death.asked() {
            Some(canceller) => Error::Cancelled { canceller: canceller.clone() },
            None => Error::ActorDied(death),
        }
    }

    /// What the body of a scope returned. A `teamster::Error` comes out as itself, also if it
    /// went through `anyhow` or a [`Report`](crate::Report) on its way.
    pub(crate) fn from_body(error: BoxError) -> Error {
        let error = match Error::unboxed(error) {
            Ok(itself) => return itself,
            Err(error) => error,
        };
        match error.downcast::<Carried>() {
            Ok(carried) => carried.0.into_error(),
            Err(error) => Error::Body(BodyError::new(Arc::from(error))),
        }
    }

    /// The `teamster::Error` in a box, if there is nothing else in it.
    pub(crate) fn unboxed(error: BoxError) -> Result<Error, BoxError> {
        Error::itself(&*error).ok_or(error)
    }

    /// The `teamster::Error` that this is, however it is boxed, if there is nothing around it.
    pub(crate) fn itself(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
        as_ours(error).or_else(|| capture::seen_through(error))
    }

    /// The same, as it leaves the actor `here`: what failed in its own code says so from now on.
    pub(crate) fn leaving(&self, here: &Aid) -> Error {
        match self {
            Error::Body(body) if body.actor().is_none() => Error::Body(body.clone().in_actor(here.clone())),
            Error::Group(group) => Error::Group(group.leaving(here)),
            other => other.clone(),
        }
    }

    /// What tells two failures apart: a group holds an id once.
    ///
    /// An error that wraps another one of ours has the id of that one. A variant without a place
    /// for an id has one made of its contents: saying the same thing twice is one thing.
    pub(crate) fn id(&self) -> Uuid {
        match self {
            Error::Remote(remote) => remote.id(),
            Error::Body(body) => body.id(),
            Error::ActorDied(death) => death.id(),
            Error::Codec(codec) => codec.id(),
            Error::Program(failure) => failure.id(),
            Error::Group(group) => group.primary().id(),
            Error::BrokenWorker(broken) => broken.death().id(),
            Error::WorkerHook { error, .. } => error.id(),
            Error::Spawn { reason: SpawnReason::DiedBooting(death), .. } => death.id(),
            _ => self.id_of_contents(),
        }
    }

    fn id_of_contents(&self) -> Uuid {
        let halves = [0u8, 1].map(|half| {
            let mut hasher = DefaultHasher::new();
            (half, std::mem::discriminant(self), self.to_string()).hash(&mut hasher);
            hasher.finish()
        });
        Uuid::from_u64_pair(halves[0], halves[1])
    }

    /// The value of a typed error: the body's own, or one that crossed because its type is
    /// registered with [`#[teamster::error]`](macro@crate::error).
    ///
    /// Looks through what wraps it, in this actor and in others. `T` may be `teamster::Error`
    /// too: then it is what the other actor saw.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io;
    /// #[teamster::rpc]
    /// async fn open() -> io::Result<()> {
    ///     Err(io::Error::from(io::ErrorKind::NotFound))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = open().await.unwrap_err();
    /// let io = error.downcast_ref::<io::Error>().unwrap();
    /// assert_eq!(io.kind(), io::ErrorKind::NotFound);
    /// # }
    /// ```
    pub fn downcast_ref<T: std::error::Error + Send + Sync + 'static>(&self) -> Option<&T> {
        match self {
            Error::Remote(remote) => remote.downcast_ref(),
            Error::Body(body) => body.downcast_ref(),
            Error::Group(group) => group.primary().downcast_ref(),
            Error::WorkerHook { error, .. } => error.downcast_ref(),
            _ => None,
        }
    }

    /// The whole traceback through the tree, as `{:#}` prints it.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::rpc]
    /// async fn open() -> anyhow::Result<()> {
    ///     let cause = std::io::Error::other("the disk is gone");
    ///     Err(anyhow::Error::new(cause).context("can't open the shop"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = open().await.unwrap_err();
    /// assert_eq!(error.to_string(), "can't open the shop");
    /// assert!(error.report().to_string().ends_with("caused by: the disk is gone"));
    /// # }
    /// ```
    pub fn report(&self) -> impl fmt::Display + '_ {
        printed::Printed(self)
    }

    /// Its own line, without what is below.
    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Remote(remote) => remote.line(f),
            Error::Body(body) => write!(f, "{}", body.error()),
            Error::Cancelled { canceller } => write!(f, "cancelled by {canceller}"),
            Error::Interrupted { signal } => write!(f, "interrupted by signal {signal}"),
            Error::ActorDied(death) => write!(f, "{death}"),
            Error::NotStarted { endpoint, aid, reason } => {
                write!(f, "{endpoint} was not started on {aid}: {reason}")
            }
            Error::Unknown { endpoint, aid, reason } => {
                write!(f, "{endpoint} on {aid}: the line was lost, and whether it ran is not known: {reason}")
            }
            Error::NotStopped { endpoint, aid, grace, heard } => {
                let heard = if *heard { "acknowledged" } else { "not acknowledged" };
                write!(f, "{endpoint} on {aid} did not stop within {grace:?} after its cancel, which was {heard}")
            }
            Error::StreamOverrun { endpoint, dialog, aid, window_bytes } => write!(
                f,
                "{endpoint} (dialog {dialog}): {aid} has opened no stream, and its window of {window_bytes} bytes is full: \
                 let it open its stream, or allow overruns there"
            ),
            Error::StreamClosed { endpoint, aid } => write!(f, "{endpoint}: {aid} reads this stream no more"),
            Error::Deadline { after } => write!(f, "the deadline of {after:?} has passed"),
            Error::NotExposed { endpoint, aid } => {
                write!(f, "{endpoint} is not exposed by {aid}: add its module to `.expose(…)` where the actor is built")
            }
            Error::NoSuchEndpoint { endpoint, aid } => {
                write!(f, "{aid} has no endpoint {endpoint}: is it `#[rpc]`, and linked into that program?")
            }
            Error::Ambiguous { endpoint, first, second } => {
                write!(f, "{endpoint} is defined twice, at {first} and at {second}: give one a `#[rpc(name = \"…\")]`")
            }
            Error::Codec(codec) => write!(f, "{codec}"),
            Error::Transport { what, reason } => write!(f, "{what}: {reason}"),
            Error::Spawn { name, reason } => {
                write!(f, "actor {name} could not be started: {reason}")
            }
            Error::BrokenWorker(broken) => write!(f, "{broken}"),
            Error::WorkerHook { hook, aid, .. } => write!(f, "{hook} of the worker {aid} failed"),
            Error::Program(failure) => write!(f, "{failure}"),
            Error::Group(group) => write!(f, "{group}"),
            Error::Usage(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if capture::offer(|| self.clone()) {
            return Ok(());
        }
        if f.alternate() { write!(f, "{}", self.report()) } else { self.line(f) }
    }
}

/// The traceback: `fn main() -> Result` prints an error by its `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if capture::offer(|| self.clone()) {
            return Ok(());
        }
        write!(f, "{}", self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Remote(remote) => remote.source(),
            Error::Body(body) => body.source(),
            Error::Group(group) => group.source(),
            Error::WorkerHook { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

impl From<RemoteError> for Error {
    fn from(remote: RemoteError) -> Self {
        Error::Remote(remote)
    }
}

/// What the body of a scope, or a call that ran in this actor, failed with. Cheap to clone.
///
/// # Examples
///
/// ```
/// use teamster::Error;
///
/// #[teamster::rpc]
/// async fn refuse() -> Result<(), String> {
///     Err("not today".to_owned())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// match refuse().await {
///     Err(Error::Body(body)) => assert_eq!(body.error().to_string(), "not today"),
///     other => panic!("{other:?}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct BodyError {
    inner: Arc<BodyData>,
}

struct BodyData {
    id: Uuid,
    error: Arc<dyn std::error::Error + Send + Sync>,
    aid: Option<Aid>,
    location: Option<String>,
}

impl BodyError {
    pub(crate) fn new(error: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        let id = id_below(&*error).unwrap_or_else(Uuid::new_v4);
        BodyError { inner: Arc::new(BodyData { id, error, aid: None, location: None }) }
    }

    /// The same failure, said to have happened in this actor.
    pub(crate) fn in_actor(self, aid: Aid) -> Self {
        self.with(|data| data.aid = Some(aid))
    }

    pub(crate) fn at(self, location: impl Into<String>) -> Self {
        self.with(|data| data.location = Some(location.into()))
    }

    pub(crate) fn with_id(self, id: Uuid) -> Self {
        self.with(|data| data.id = id)
    }

    fn with(self, change: impl FnOnce(&mut BodyData)) -> Self {
        let BodyData { id, error, aid, location } = &*self.inner;
        let mut data = BodyData { id: *id, error: error.clone(), aid: aid.clone(), location: location.clone() };
        change(&mut data);
        BodyError { inner: Arc::new(data) }
    }

    pub(crate) fn id(&self) -> Uuid {
        self.inner.id
    }

    /// The error that the body returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Body(body)) = read().await else { unreachable!() };
    /// assert!(body.error().to_string().starts_with("No such file"));
    /// # Ok(()) }
    /// ```
    pub fn error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.inner.error
    }

    /// The actor in which the body ran, where that is known.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// #[teamster::rpc]
    /// async fn fail() -> Result<(), Error> {
    ///     teamster::open_nursery(async |_an| Err("the body of a nursery over there".into())).await
    /// }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let error = frank.run(fail()).await.unwrap_err();
    /// let Some(Error::Body(body)) = error.downcast_ref::<Error>() else { unreachable!() };
    /// assert_eq!(body.actor(), Some(frank.aid()));
    /// # Ok(()) }).await }
    /// ```
    pub fn actor(&self) -> Option<&Aid> {
        self.inner.aid.as_ref()
    }

    /// `file:line:column`, where that is known: a [`Report`](crate::Report) knows it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Body(body)) = read().await else { unreachable!() };
    /// println!("it failed at {}", body.location().expect("a `teamster::Result` knows"));
    /// # Ok(()) }
    /// ```
    pub fn location(&self) -> Option<&str> {
        self.inner.location.as_deref()
    }

    /// The error as the type that it is, or the first of that type among its sources.
    ///
    /// An error that `anyhow` has boxed can be seen only from its sources on: match on
    /// [`error`](BodyError::error)'s text, or return the error itself from the body.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # #[teamster::rpc] async fn read() -> teamster::Result<String> { Ok(std::fs::read_to_string("/no/such/file")?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Body(body)) = read().await else { unreachable!() };
    /// let io: &std::io::Error = body.downcast_ref().expect("it is one");
    /// assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(()) }
    /// ```
    pub fn downcast_ref<T: std::error::Error + Send + Sync + 'static>(&self) -> Option<&T> {
        find_below(&*self.inner.error)
    }

    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.error.source()
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner.error)
    }
}

impl fmt::Debug for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner.error, f)
    }
}

/// Several failures of one nursery: the first cause, and those that stand beside it.
///
/// Holds at least two, each once, and no group in a group.
///
/// # Examples
///
/// ```
/// use teamster::Error;
///
/// fn deaths(error: &Error) -> usize {
///     match error {
///         Error::ActorDied(_) => 1,
///         Error::Group(group) => group.iter().map(deaths).sum(),
///         _ => 0,
///     }
/// }
/// assert_eq!(deaths(&Error::Interrupted { signal: 2 }), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    inner: Arc<GroupData>,
}

#[derive(Debug)]
struct GroupData {
    primary: Error,
    others: Vec<Error>,
}

impl Group {
    /// Folds what failed in one nursery into one error, the first cause first.
    ///
    /// The same failure counts once (the telling with more context stays), groups open up, and
    /// one failure alone is that failure. `None`: nothing failed.
    pub(crate) fn collect(failures: impl IntoIterator<Item = Error>) -> Option<Error> {
        let mut entries: Vec<(Uuid, Error)> = Vec::new();
        for failure in failures {
            match failure {
                Error::Group(group) => group.iter().for_each(|entry| add(&mut entries, entry.clone())),
                single => add(&mut entries, single),
            }
        }
        let mut entries = entries.into_iter().map(|(_, entry)| entry);
        let primary = entries.next()?;
        let others: Vec<Error> = entries.collect();
        if others.is_empty() {
            return Some(primary);
        }
        Some(Error::Group(Group { inner: Arc::new(GroupData { primary, others }) }))
    }

    /// The first cause.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # async fn fails_twice() -> Result<(), Error> {
    /// #     use teamster::tasks::{SharedContexts, context_fn};
    /// #     let file = context_fn(async |hold| {
    /// #         hold.until_exit(()).await; Err("and then it did not close".into())
    /// #     });
    /// #     SharedContexts::new().maybe_open_context("file", file, async |_| Err("it can't be written".into())).await
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Group(group)) = fails_twice().await else { unreachable!() };
    /// assert_eq!(group.primary().to_string(), "it can't be written");
    /// # Ok(()) }
    /// ```
    pub fn primary(&self) -> &Error {
        &self.inner.primary
    }

    /// What else failed, in the order in which it was heard of.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # async fn fails_twice() -> Result<(), Error> {
    /// #     use teamster::tasks::{SharedContexts, context_fn};
    /// #     let file = context_fn(async |hold| {
    /// #         hold.until_exit(()).await; Err("and then it did not close".into())
    /// #     });
    /// #     SharedContexts::new().maybe_open_context("file", file, async |_| Err("it can't be written".into())).await
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Group(group)) = fails_twice().await else { unreachable!() };
    /// assert_eq!(group.others()[0].to_string(), "and then it did not close");
    /// # Ok(()) }
    /// ```
    pub fn others(&self) -> &[Error] {
        &self.inner.others
    }

    /// All of them, the first cause first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # async fn fails_twice() -> Result<(), Error> {
    /// #     use teamster::tasks::{SharedContexts, context_fn};
    /// #     let file = context_fn(async |hold| {
    /// #         hold.until_exit(()).await; Err("and then it did not close".into())
    /// #     });
    /// #     SharedContexts::new().maybe_open_context("file", file, async |_| Err("it can't be written".into())).await
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Group(group)) = fails_twice().await else { unreachable!() };
    /// for error in group.iter() {
    ///     println!("{error}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &Error> + '_ {
        std::iter::once(&self.inner.primary).chain(&self.inner.others)
    }

    /// How many failures it holds: two at least.
    ///
    /// # Examples
    ///
    /// ```
    /// # use teamster::Error;
    /// # async fn fails_twice() -> Result<(), Error> {
    /// #     use teamster::tasks::{SharedContexts, context_fn};
    /// #     let file = context_fn(async |hold| {
    /// #         hold.until_exit(()).await; Err("and then it did not close".into())
    /// #     });
    /// #     SharedContexts::new().maybe_open_context("file", file, async |_| Err("it can't be written".into())).await
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
    /// let Err(Error::Group(group)) = fails_twice().await else { unreachable!() };
    /// assert_eq!(group.len(), 2);
    /// # Ok(()) }
    /// ```
    #[expect(clippy::len_without_is_empty, reason = "a group is never empty")]
    pub fn len(&self) -> usize {
        1 + self.inner.others.len()
    }

    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.inner.primary)
    }

    fn leaving(&self, here: &Aid) -> Group {
        let primary = self.inner.primary.leaving(here);
        let others = self.inner.others.iter().map(|other| other.leaving(here)).collect();
        Group { inner: Arc::new(GroupData { primary, others }) }
    }
}

fn add(entries: &mut Vec<(Uuid, Error)>, error: Error) {
    let id = error.id();
    match entries.iter_mut().find(|(known, _)| *known == id) {
        Some((_, known)) if !matches!(known, Error::Body(_)) && matches!(error, Error::Body(_)) => {
            *known = error; // the body's telling wraps the other one
        }
        Some(_) => {}
        None => entries.push((id, error)),
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failures in one nursery", self.len())?;
        for (index, entry) in self.iter().enumerate() {
            write!(f, "{} [{}] {entry}", if index == 0 { ":" } else { ";" }, index + 1)?;
        }
        Ok(())
    }
}

/// The first error of this type, from `error` downwards through its sources.
pub(crate) fn find_below<'a, T: std::error::Error + Send + Sync + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let ours = match (error.downcast_ref::<Error>(), error.downcast_ref::<RemoteError>()) {
            (Some(ours), _) => ours.downcast_ref::<T>(),
            (None, Some(remote)) => remote.downcast_ref::<T>(),
            (None, None) => None,
        };
        if ours.is_some() {
            return ours;
        }
        next = error.source();
    }
    None
}

/// The id of the first error of ours among the sources of `error`.
fn id_below(error: &(dyn std::error::Error + 'static)) -> Option<Uuid> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours.id());
        }
        if let Some(remote) = error.downcast_ref::<RemoteError>() {
            return Some(remote.id());
        }
        next = error.source();
    }
    None
}

/// Finds our own error in a box that hides its type.
///
/// `anyhow` turns into a box whose type nobody can name, but the box prints as the error in it
/// does, by our own `Display`: while a capture is on, that leaves a clone of itself here
/// instead of writing text. Text from anybody else means that the box is more than our error.
pub(crate) mod capture {
    use std::cell::RefCell;
    use std::fmt::Write;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Error;

    thread_local! {
        static SLOT: RefCell<Slot> = const { RefCell::new(Slot::Off) };
    }

    enum Slot {
        Off,
        Open,
        Caught(Error),
    }

    /// Called by our `Display` and `Debug`. True: a capture took the error, so nothing should be
    /// written.
    pub(crate) fn offer(error: impl FnOnce() -> Error) -> bool {
        // Where a thread ends, its slot is gone, and nobody captures any more.
        let taken = SLOT.try_with(|slot| match &mut *slot.borrow_mut() {
            Slot::Off => false,
            open @ Slot::Open => {
                *open = Slot::Caught(error());
                true
            }
            Slot::Caught(_) => true,
        });
        taken.unwrap_or(false)
    }

    pub(super) fn seen_through(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
        let caught = first_in(&mut Silence, format_args!("{error}"))?;
        // A wrapper that prints like its source is a type of its own, which its owner may look
        // for. A mere box has the very source that our error has.
        let below = error.source().map(address);
        (below == std::error::Error::source(&caught).map(address)).then_some(caught)
    }

    /// The first error of ours that prints itself as a part of `value`.
    pub(crate) fn shown_by(value: &dyn std::fmt::Debug) -> Option<Error> {
        first_in(&mut Deaf, format_args!("{value:?}"))
    }

    fn first_in(out: &mut dyn Write, text: std::fmt::Arguments<'_>) -> Option<Error> {
        SLOT.set(Slot::Open);
        let written = catch_unwind(AssertUnwindSafe(|| out.write_fmt(text)));
        match (SLOT.replace(Slot::Off), written) {
            (Slot::Caught(caught), Ok(Ok(()))) => Some(caught),
            _ => None,
        }
    }

    fn address(error: &(dyn std::error::Error + 'static)) -> *const () {
        std::ptr::from_ref(error).cast()
    }

    /// Refuses every byte.
    struct Silence;

    impl Write for Silence {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            if text.is_empty() { Ok(()) } else { Err(std::fmt::Error) }
        }
    }

    /// Takes every byte, and keeps none.
    struct Deaf;

    impl Write for Deaf {
        fn write_str(&mut self, _: &str) -> std::fmt::Result {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Wrapper(#[from] Error);

    fn interrupted() -> Error {
        Error::Interrupted { signal: 2 }
    }

    fn body(text: &str) -> Error {
        Error::from_body(text.into())
    }

    #[track_caller]
    fn check_itself(error: impl Into<BoxError>) {
        match Error::from_body(error.into()) {
            Error::Interrupted { signal: 2 } => {}
            other => panic!("not itself: {other:?}"),
        }
    }

    #[test]
    fn an_error_of_ours_comes_out_of_a_body_as_itself() {
        check_itself(interrupted());
        check_itself(anyhow::Error::new(interrupted()));
        check_itself(anyhow::Error::from_boxed(Box::new(interrupted())));
        check_itself(crate::Report::from(interrupted()));
        check_itself(anyhow::Error::from(crate::Report::from(interrupted())));
        let body = body("no");
        let id = body.id();
        let again = Error::from_body(anyhow::Error::new(body).into());
        assert_eq!((again.id(), again.to_string()), (id, "no".to_owned()));
    }

    #[test]
    fn what_stands_around_an_error_of_ours_is_kept_and_has_its_id() {
        let wrapped = Error::from_body(Box::new(Wrapper(interrupted())));
        assert!(wrapped.downcast_ref::<Wrapper>().is_some());
        assert_eq!(wrapped.id(), interrupted().id());
        let context = Error::from_body(anyhow::Error::new(interrupted()).context("while asleep").into());
        assert_eq!(context.to_string(), "while asleep");
        assert_eq!(context.id(), interrupted().id());
        assert!(matches!(context.downcast_ref(), Some(Error::Interrupted { .. })));
    }

    #[test]
    fn any_other_error_keeps_its_type_and_its_text() {
        let io = Error::from_body(Box::new(std::io::Error::other("gone")));
        assert!(io.downcast_ref::<std::io::Error>().is_some());
        assert_eq!(body("too big").to_string(), "too big");
        assert_ne!(body("a").id(), body("a").id());
        let report = Error::from_body(crate::Report::msg("no").into());
        assert!(matches!(&report, Error::Body(body) if body.location().is_some()), "{report:?}");
    }

    fn ids(error: Option<Error>) -> Vec<Uuid> {
        match error {
            Some(Error::Group(group)) => group.iter().map(Error::id).collect(),
            Some(single) => vec![single.id()],
            None => vec![],
        }
    }

    #[test]
    fn a_group_holds_each_failure_once_and_no_group() {
        let [a, b, c] = ["a", "b", "c"].map(body);
        let [ia, ib, ic] = [&a, &b, &c].map(Error::id);
        assert!(Group::collect([]).is_none());
        assert_eq!(ids(Group::collect([a.clone(), a.clone()])), [ia]);
        assert!(matches!(Group::collect([a.clone()]), Some(Error::Body(_))));
        let inner = Group::collect([b.clone(), a.clone()]).expect("two");
        assert_eq!(ids(Group::collect([a.clone(), inner.clone(), c.clone()])), [ia, ib, ic]);
        assert_eq!(ids(Group::collect([inner, c, a])), [ib, ia, ic]);
    }

    #[test]
    fn of_two_tellings_of_one_failure_the_one_with_more_context_stays() {
        let wrapped = Error::from_body(Box::new(Wrapper(interrupted())));
        let both = Group::collect([interrupted(), wrapped.clone(), interrupted()]).expect("one");
        assert!(both.downcast_ref::<Wrapper>().is_some(), "{both:?}");
    }

    #[test]
    fn an_error_is_small_enough_to_be_returned() {
        assert!(size_of::<Error>() <= 120, "{} bytes", size_of::<Error>());
    }
}
