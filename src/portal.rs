//! What does a user hold to talk to another actor?
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

use crate::actor::catalog::{self, CONTEXT_BY_PATH, EndpointInfo};
use crate::actor::child::Child;
use crate::actor::control::Command;
use crate::actor::current::{self, with_current};
use crate::actor::endpoint::{
    Call, Endpoint, Endpoints, Function, decode_output, encode_args, path_of, with_both_types,
};
use crate::actor::host::is_here;
use crate::actor::peers::{self, Lost, Process, canceller};
use crate::actor::{Actor, DataLine};
use crate::channel::{LineEnd, Outcome, Outgoing, Payload, Refused};
use crate::error::{CodecError, Error};
use crate::msg::addr::{Addr, Addrs};
use crate::msg::codec;
use crate::msg::death::Receipt;
use crate::msg::frame::{self, Encoding};
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::msg::remote_error::WireError;
use crate::proto::connection::Left;
use crate::proto::dialog::Overruns;

/// A handle to another actor: an address with an identity. Cheap to clone, and it can be sent to
/// other actors, as an argument or a result.
///
/// It is not a connection: it connects when it is used and was not connected yet, and it owns
/// nothing. The actor's life belongs to the nursery that started it.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::open_nursery(async |an| {
///     let frank = an.start_actor("frank").await?;
///     assert_eq!(frank.run(add(1, 2)).await?, 3);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone)]
pub struct Portal {
    inner: Arc<Inner>,
}

struct Inner {
    aid: Aid,
    addrs: Option<Addrs>,
    /// Our own child: its line is there already, and its end is seen by us.
    child: Option<(Arc<Actor>, Arc<Child>)>,
}

/// A path that was not known when the program was built, as errors hold it.
pub(crate) fn kept(path: &str) -> &'static str {
    Endpoints::of_program().kept(path)
}

/// How often a call goes to a new line, after the old one closed before it had started.
pub(crate) const FRESH_LINES: usize = 4;

impl Portal {
    pub(crate) fn to_child(actor: Arc<Actor>, child: Arc<Child>) -> Self {
        let addrs = Some(child.addrs());
        Portal { inner: Arc::new(Inner { aid: child.known_as().clone(), addrs, child: Some((actor, child)) }) }
    }

    pub(crate) fn to(aid: Aid, addrs: Option<Addrs>) -> Self {
        Portal { inner: Arc::new(Inner { aid, addrs, child: None }) }
    }

    /// Whom it leads to.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// assert_eq!(an.start_actor("frank").await?.aid().name(), "frank");
    /// # Ok(()) }).await }
    /// ```
    pub fn aid(&self) -> &Aid {
        &self.inner.aid
    }

    /// Where that actor listens, if it is known: the nearest of its addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// assert!(frank.addr().is_some_and(|addr| addr.to_string().starts_with("/uds/")));
    /// # Ok(()) }).await }
    /// ```
    pub fn addr(&self) -> Option<&Addr> {
        self.inner.addrs.as_ref().and_then(|addrs| addrs.as_slice().first())
    }

    /// All that it listens at, as far as it is known; the nearest first.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # use teamster::Transport;
    /// let frank = an.actor("frank").transports([Transport::Uds, Transport::InsecureTcp]).start().await?;
    /// assert_eq!(frank.addrs().len(), 2);
    /// # Ok(()) }).await }
    /// ```
    pub fn addrs(&self) -> &[Addr] {
        self.inner.addrs.as_ref().map(Addrs::as_slice).unwrap_or_default()
    }

    /// Calls a function in the other actor and waits for its result.
    ///
    /// # Errors
    ///
    /// Of the function: [`Error::Remote`] if it failed or panicked ([`Error::Body`] if the portal leads to
    /// this very actor), [`Error::Cancelled`] if it, or its whole actor, was cancelled,
    /// [`Error::Deadline`] if the [deadline](crate::deadline) around the call passed over there first.
    ///
    /// Of the way there: [`Error::ActorDied`] if its process ended, or another actor lives at its address;
    /// [`Error::Transport`] if it can't be connected to; [`Error::NotStarted`] if it is proved that the call
    /// never began; [`Error::Unknown`] if the line was lost and that is not known.
    ///
    /// Of the call: [`Error::Codec`] if the arguments or the result can't be encoded or decoded, or are over the
    /// limit of a message; [`Error::NotExposed`], [`Error::NoSuchEndpoint`] and [`Error::Ambiguous`] if
    /// the other actor has no one function of that path to call; [`Error::Usage`] outside of every actor.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the remote task, if it runs. It is not waited for.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// assert_eq!(frank.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub async fn run<E: Endpoint>(&self, call: Call<E>) -> Result<E::Output, Error> {
        let actor = self.actor()?;
        if actor.aid == self.inner.aid {
            return call.await; // it is here
        }
        let line = self.line(&actor).await?;
        // Every later line to this actor is one to the same build: the bytes fit it as well.
        let prepared = Prepared::new::<E>(&call.args, line.encoding, line.limit())?;
        let bytes = self.exchange(&actor, line, &prepared).await.map_err(with_both_types::<E>)?;
        decode_result::<E>(&bytes)
    }

    /// Calls a function of the other actor whose type is not known here, by its path: for tools, and for programs
    /// that talk to others.
    ///
    /// `args` is a tuple, or whatever else serde writes as the same sequence; structs travel with the names of their
    /// fields, and may come back without them between programs of one build. What the path leads to is asked first,
    /// which costs a second round trip. Each path that is called so is kept for as long as the program runs.
    ///
    /// # Errors
    ///
    /// As [`Portal::run`], and [`Error::Usage`] if the path leads to a context.
    ///
    /// # Cancel safety
    ///
    /// As [`Portal::run`].
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::rpc(name = "shop.add")]
    /// async fn add(a: i64, b: i64) -> i64 { a + b }
    ///
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let sum: i64 = frank.run_by_path("shop.add", (1, 2)).await?;
    /// assert_eq!(sum, 3);
    /// # Ok(()) }).await }
    /// ```
    pub async fn run_by_path<A, T>(&self, path: &str, args: A) -> Result<T, Error>
    where
        A: Serialize + Send,
        T: DeserializeOwned,
    {
        let mut encoded = Vec::new();
        codec::encode_into(&args, Encoding::Named, &mut encoded)
            .map_err(|failure| Error::Codec(CodecError::encoding(kept(path), "the arguments", failure)))?;
        let bytes = self.run_encoded(path, encoded).await?;
        codec::decode(&bytes).map_err(|failure| Error::Codec(CodecError::decoding(kept(path), "the result", failure)))
    }

    /// The same with arguments and result as bytes, with names for what has names.
    pub(crate) async fn run_encoded(&self, path: &str, args: Vec<u8>) -> Result<Vec<u8>, Error> {
        let actor = self.actor()?;
        let path = kept(path);
        if actor.aid == self.inner.aid {
            return actor.run_here(path, &args).await;
        }
        if self.run(catalog::is_context(path.to_owned())).await? {
            return Err(Error::Usage(CONTEXT_BY_PATH));
        }
        let line = self.line(&actor).await?;
        let prepared = Prepared::of_bytes(path, args, Encoding::Named, line.limit())?;
        self.exchange(&actor, line, &prepared).await
    }

    /// What may be called in the other actor, by path.
    ///
    /// # Errors
    ///
    /// As [`Portal::run`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// for endpoint in an.start_actor("frank").await?.endpoints().await? {
    ///     println!("{} -> {}", endpoint.path, endpoint.output);
    /// }
    /// # Ok(()) }).await }
    /// ```
    pub async fn endpoints(&self) -> Result<Vec<EndpointInfo>, Error> {
        self.run(catalog::endpoints()).await
    }

    /// Calls a child of ours, and keeps the result as it came.
    pub(crate) async fn run_prepared(&self, call: &Prepared) -> Result<Vec<u8>, Error> {
        let actor = self.actor()?;
        let line = self.line(&actor).await?;
        self.exchange(&actor, line, call).await
    }

    /// The same, with what is known of its start where the child has ended first.
    pub(crate) async fn run_knowing(&self, call: &Prepared) -> (Result<Vec<u8>, Error>, Option<Left>) {
        let ran = async {
            let actor = self.actor()?;
            let line = self.line(&actor).await?;
            Ok(self.exchange_knowing(&actor, line, call).await)
        };
        ran.await.unwrap_or_else(|error| (Err(error), Some(Left::No)))
    }

    /// The actor that this portal is used by.
    pub(crate) fn actor(&self) -> Result<Arc<Actor>, Error> {
        match &self.inner.child {
            Some((actor, _)) => Ok(Arc::clone(actor)),
            None => current::actor(),
        }
    }

    /// Sends an encoded call and waits for the bytes of its result.
    async fn exchange(&self, actor: &Arc<Actor>, line: Arc<DataLine>, call: &Prepared) -> Result<Vec<u8>, Error> {
        self.exchange_knowing(actor, line, call).await.0
    }

    async fn exchange_knowing(
        &self,
        actor: &Arc<Actor>,
        line: Arc<DataLine>,
        call: &Prepared,
    ) -> (Result<Vec<u8>, Error>, Option<Left>) {
        let mut line = line;
        for _ in 0..FRESH_LINES {
            match self.once(actor, &line, call).await {
                Once::Done(result) => return (result, None),
                Once::Lost(error, left) => return (Err(error), Some(left)),
                Once::Again => match self.line(actor).await {
                    Ok(fresh) => line = fresh,
                    Err(error) => return (Err(error), Some(Left::No)),
                },
            }
        }
        let reason = "its line closed each time before the call could leave".into();
        (Err(self.not_started(call, reason)), Some(Left::No))
    }

    pub(crate) async fn line(&self, actor: &Arc<Actor>) -> Result<Arc<DataLine>, Error> {
        match &self.inner.child {
            Some((_, child)) => match child.channel.get() {
                Some(line) => Ok(Arc::clone(line)),
                None => Err(child.reaped.wait().await.error()),
            },
            None => actor.line_to(&self.inner.aid, self.inner.addrs.as_ref()).await,
        }
    }

    async fn once(&self, actor: &Arc<Actor>, line: &Arc<DataLine>, call: &Prepared) -> Once {
        let deadline = with_current(|current| current.and_then(|current| current.deadline));
        let dialog = loop {
            let left = deadline.map(|at| at.saturating_duration_since(actor.clock.now()));
            match line.open(&call.outgoing(left, None)) {
                Ok((dialog, _no_link)) => break dialog,
                Err(Refused::Full) => line.room().await,
                Err(Refused::Ended(end)) => return self.lost(actor, call, Left::No, end).await,
            }
        };
        let mut open = Open { actor, line, dialog: Some(dialog) };
        let outcome = poll_fn(|cx| line.poll_outcome(dialog, cx)).await;
        open.dialog = None;
        match outcome {
            Outcome::Returned(bytes) => Once::Done(Ok(bytes)),
            Outcome::Failed(bytes) => Once::Done(Err(wire_error(&bytes, call.path, &self.inner.aid))),
            Outcome::Lost(left, end) => self.lost(actor, call, left, end).await,
        }
    }

    /// The line has ended before the call had.
    async fn lost(&self, actor: &Actor, call: &Prepared, left: Left, end: LineEnd) -> Once {
        match peers::lost(actor, self.child(), &self.inner.aid, call.path, left, &end).await {
            Lost::Again => Once::Again,
            Lost::Failed(error) => Once::Lost(error, left),
        }
    }

    pub(crate) fn child(&self) -> Option<&Arc<Child>> {
        self.inner.child.as_ref().map(|(_, child)| child)
    }

    fn not_started(&self, call: &Prepared, reason: String) -> Error {
        Error::NotStarted { endpoint: call.path.to_owned(), aid: self.inner.aid.clone(), reason }
    }

    /// Cancels the actor and waits until its process has been reaped.
    ///
    /// Takes at most its grace plus what the kernel needs to kill. An actor that is gone, or is
    /// being ended by somebody else, is no error: the receipt says who asked first and what it took.
    /// When this returns, the process and all that it had started are gone, nobody finds it by its
    /// name any more, and its socket is away.
    ///
    /// # Errors
    ///
    /// Of an actor of another tree alone: [`Error::Transport`] if it can't be reached though its process
    /// lives, and [`Error::NotStopped`] if it is still there 1 s after the grace of this actor. It is asked
    /// by its data line, which its runtime has to read: one that is stuck does not hear it, and runs on.
    ///
    /// # Cancel safety
    ///
    /// The request is sent on the first poll. Dropping the future stops the waiting, not the cancel.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let receipt = frank.cancel_actor().await?; // its process has been reaped
    /// assert!(receipt.was_graceful());
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel_actor(&self) -> Result<Receipt, Error> {
        match &self.inner.child {
            Some((actor, child)) => Ok(cancel_child(actor, child, child.grace).await),
            None => self.cancel_foreign().await,
        }
    }

    /// Ends the actor without asking it: SIGKILL at once, for it and its process group.
    ///
    /// What it had started has no grace either: the actors below it get SIGKILL as soon as it is reaped,
    /// and are gone when this returns. No clean-up of any of them runs.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if it is not a child of this actor: only its parent may kill it.
    ///
    /// # Cancel safety
    ///
    /// As [`Portal::cancel_actor`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let receipt = frank.kill_actor().await?;
    /// assert_eq!(receipt.exit, teamster::ExitKind::Signal(9));
    /// # Ok(()) }).await }
    /// ```
    pub async fn kill_actor(&self) -> Result<Receipt, Error> {
        match &self.inner.child {
            Some((actor, child)) => Ok(cancel_child(actor, child, Duration::ZERO).await),
            None => Err(Error::Usage("only the parent of an actor may kill it: use cancel_actor")),
        }
    }

    /// An actor that is not our child: it is asked through the tree, from control thread to control
    /// thread, and its parent tells how it ended. One of another tree is asked by its data line.
    async fn cancel_foreign(&self) -> Result<Receipt, Error> {
        let actor = current::actor()?;
        let aid = self.inner.aid.clone();
        let asked_at = Instant::now();
        let asked_by = canceller(&actor.aid, CancelRequest::Actor);
        let unseen = || Receipt::unseen(aid.clone(), Some(asked_by.clone()), asked_at.elapsed());
        if actor.aid == aid {
            crate::actor::boot::cancel_self(&actor);
            return Ok(unseen());
        }
        let process = Process::of(&aid);
        if process.is_gone() {
            return Ok(Receipt::unseen(aid, None, Duration::ZERO));
        }
        let (told, mut word) = oneshot::channel();
        actor.control.send(Command::EndOther { aid: aid.clone(), canceller: asked_by.clone(), told });
        tracing::debug!(target: "teamster::portal", actor = %aid, canceller = %asked_by, "an actor is asked to end");
        let grace = actor.settings.grace;
        let word = tokio::select! {
            biased; // the word says more
            word = &mut word => word.ok().flatten(),
            // It follows when all below is gone too; never, if the parent is gone as well.
            () = process.ended() => actor.clock.timeout(grace, word).await.ok().and_then(Result::ok).flatten(),
        };
        match word {
            Some(receipt) => Ok(receipt),
            None => self.cancel_by_line(&actor, &process, &asked_by).await.map(|()| unseen()),
        }
    }

    /// Asks an actor of another tree to end, and waits for its end as long as that may take.
    async fn cancel_by_line(&self, actor: &Arc<Actor>, process: &Process, asked_by: &Canceller) -> Result<(), Error> {
        let aid = &self.inner.aid;
        let grace = actor.settings.grace;
        let asked = async {
            match actor.line_to(aid, self.inner.addrs.as_ref()).await {
                Ok(line) => {
                    line.cancel_actor(grace, asked_by);
                    if !is_here(aid) {
                        line.ended().await; // all that is seen of it
                        // One that says goodbye lives.
                        match line.end() {
                            Some(LineEnd::Bye(_)) => std::future::pending().await,
                            _ => return Ok(()),
                        }
                    }
                }
                Err(Error::ActorDied(_)) if !is_here(aid) => return Ok(()),
                Err(Error::ActorDied(_)) => {}
                Err(_) if is_here(aid) && peers::is_dead_soon(aid).await => {}
                Err(error) => return Err(error),
            }
            process.ended().await;
            Ok(())
        };
        let within = grace + KILLED_WITHIN;
        tokio::select! {
            biased; // its end is the answer, whatever its line says
            () = process.ended() => Ok(()),
            ended = actor.clock.timeout(within, asked) => ended.unwrap_or_else(|_elapsed| {
                Err(Error::NotStopped { endpoint: "cancel_actor".to_owned(), aid: aid.clone(), grace: within, heard: false })
            }),
        }
    }
}

/// Beyond the grace, what its own parent may take to end an actor of another tree by force.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

async fn cancel_child(actor: &Arc<Actor>, child: &Arc<Child>, grace: Duration) -> Receipt {
    let already = child.reaped.get().is_some();
    if !already {
        let canceller = canceller(&actor.aid, CancelRequest::Actor);
        actor.cancel_child(child, &canceller, grace);
        tracing::debug!(target: "teamster::portal", actor = %child.aid, ?grace, %canceller, "an actor is asked to end");
    }
    let ended = child.gone().await;
    let mut receipt = ended.receipt.clone();
    if already {
        receipt.reaped = Duration::ZERO;
    }
    receipt
}

enum Once {
    Done(Result<Vec<u8>, Error>),
    /// The line was lost first.
    Lost(Error, Left),
    /// The line closed before the call had begun: it is safe to make it again.
    Again,
}

/// The error that `aid` has sent as the outcome of a call.
pub(crate) fn wire_error(bytes: &[u8], path: &str, aid: &Aid) -> Error {
    match WireError::decode(bytes) {
        Ok(error) => error.into_error(path, aid),
        Err(failure) => Error::Codec(CodecError::decoding(kept(path), "the error", failure)),
    }
}

/// A dialog that we have open: dropped, it is cancelled.
struct Open<'a> {
    actor: &'a Arc<Actor>,
    line: &'a Arc<DataLine>,
    dialog: Option<u64>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(dialog) = self.dialog {
            self.line.cancel(dialog, &canceller(&self.actor.aid, CancelRequest::Dropped));
        }
    }
}

/// What a child runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// The program of its parent, which is asked of it when it connects.
    OwnBuild,
    Another,
}

/// A call with its arguments encoded.
pub(crate) struct Prepared {
    key: usize,
    path: &'static str,
    args: Payload,
    encoding: Encoding,
}

impl Prepared {
    /// For a child of `parent`.
    pub(crate) fn for_child<E: Endpoint>(parent: &Actor, call: &Call<E>, program: Runs) -> Result<Self, Error> {
        let encoding = match program {
            Runs::OwnBuild => Encoding::Positional,
            Runs::Another => Encoding::Named,
        };
        Prepared::new::<E>(&call.args, encoding, parent.settings.max_frame_bytes)
    }

    pub(crate) fn new<E: Function>(args_of_call: &E::Args, want: Encoding, limit: u32) -> Result<Self, Error> {
        let path = path_of::<E>();
        let mut args = Vec::with_capacity(64);
        let encoding = encode_args::<E>(args_of_call, want, &mut args).map_err(Error::Codec)?;
        Prepared::of_bytes(path, args, encoding, limit)
    }

    pub(crate) fn of_bytes(path: &'static str, args: Vec<u8>, encoding: Encoding, limit: u32) -> Result<Self, Error> {
        if !frame::fits(path, args.len(), limit) {
            return Err(Error::Codec(CodecError::too_long(path, "the arguments", args.len(), limit)));
        }
        // Unique while the program runs: where its path is stored, and how long it is.
        let key = path.as_ptr() as usize ^ (path.len() << 48);
        Ok(Prepared { key, path, args: args.into(), encoding })
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn outgoing(&self, deadline: Option<Duration>, context: Option<Overruns>) -> Outgoing<'_> {
        Outgoing { key: self.key, path: self.path, args: &self.args, encoding: self.encoding, deadline, context }
    }
}

pub(crate) fn decode_result<E: Function>(bytes: &[u8]) -> Result<E::Output, Error> {
    decode_output::<E>(bytes).map_err(Error::Codec)
}

impl fmt::Debug for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portal").field("aid", &self.inner.aid).field("addrs", &self.inner.addrs).finish()
    }
}

/// Whom it leads to decides.
impl PartialEq for Portal {
    fn eq(&self, other: &Self) -> bool {
        self.inner.aid == other.inner.aid
    }
}

impl Eq for Portal {}

impl Serialize for Portal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.inner.aid, &self.inner.addrs).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Portal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (aid, addrs) = Deserialize::deserialize(deserializer)?;
        Ok(Portal::to(aid, addrs))
    }
}

/// A portal to the actor that this code is part of, to be sent to others.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn who() -> String {
///     teamster::this_actor().map(|me| me.aid().name().to_owned()).unwrap_or_default()
/// }
/// # fn main() {}
/// ```
pub fn this_actor() -> Result<Portal, Error> {
    let actor = current::actor()?;
    Ok(Portal::to(actor.aid.clone(), Some(actor.addrs())))
}

/// A portal to the actor that started this one; `None` in the root.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn is_child_of(name: String) -> bool {
///     teamster::parent().is_ok_and(|parent| parent.is_some_and(|parent| parent.aid().name() == name))
/// }
/// # fn main() {}
/// ```
pub fn parent() -> Result<Option<Portal>, Error> {
    let actor = current::actor()?;
    Ok(actor.parent.as_ref().map(|parent| Portal::to(parent.aid.clone(), Some(parent.addrs.clone()))))
}

/// Whether this code is part of the root of its tree.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor.
///
/// # Examples
///
/// ```
/// assert!(teamster::is_root().is_err()); // no nursery is open: there is no actor
/// ```
pub fn is_root() -> Result<bool, Error> {
    Ok(current::actor()?.is_root())
}

/// Asks the actor that this code is part of to end: a cancel that names itself.
///
/// Returns at once; the end comes as with every cancel, at the next await.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn stop() -> teamster::Result<()> {
///     teamster::cancel_self()?;
///     Ok(())
/// }
/// # fn main() {}
/// ```
pub fn cancel_self() -> Result<(), Error> {
    let actor = current::actor()?;
    crate::actor::boot::cancel_self(&actor);
    Ok(())
}
