//! Who belongs to whom: a nursery's block, from its opening until everything under it is gone.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::builder::ActorBuilder;
use super::one_shot::OneShot;
use super::process::{ProcessBuilder, ProcessHandle};
use super::supervise::{Nursery, clean_up_grace, is_consequence, stand_in};
use crate::actor::Actor;
use crate::actor::crash::{self, DebugQuit, QUIT_TEXT};
use crate::actor::current::{self, Current};
use crate::actor::endpoint::{Call, Endpoint};
use crate::actor::peers::canceller;
use crate::actor::scope::{End, Scope, Scoped, run_deferred};
use crate::actor::traces::{Origin, traced};
use crate::error::{BoxError, Error};
use crate::msg::death::Receipt;
use crate::msg::ident::CancelRequest;
use crate::portal::Portal;
use crate::spawn::Options;

/// Runs `body` with a nursery, and returns when everything that was started in it is gone.
///
/// In a program's first nursery this process becomes the root actor; inside an actor the new
/// nursery's actors are its children. The end of the block, however it comes, is the end of every
/// process under it:
///
/// * `body` ends well: one-shot actors are waited for, then service actors are cancelled, all at
///   once. To stay up, wait in the body: [`ActorNursery::wait`].
/// * `body` fails or panics, a child dies unasked, or a one-shot call fails: everything else is
///   cancelled at once, `body` at its next await.
///
/// # Errors
///
/// The first failure, as itself: an error that `body` returned, [`Error::ActorDied`], the error of
/// a one-shot call. [`Error::Group`] if several things failed; cancellations that followed are no
/// entries. [`Error::Cancelled`] if the nursery was cancelled before `body` had a value, and in the
/// root [`Error::Interrupted`] after a signal.
///
/// # Panics
///
/// A panic of `body` goes on when everything is gone.
///
/// # Cancel safety
///
/// Dropping the future cancels everything in the nursery and leaves it to the actor's control
/// thread. The actor's own end waits for that; in the root `#[teamster::main]` does, and the guard
/// of [`init`](crate::init).
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     let sum = teamster::open_nursery(async |an| {
///         let frank = an.start_actor("frank").await?;
///         Ok(frank.run(add(1, 2)).await?)
///     })
///     .await?;
///     assert_eq!(sum, 3);
///     Ok(())
/// }
/// ```
pub async fn open_nursery<T, F>(body: F) -> Result<T, Error>
where
    F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
{
    match current::current() {
        Some(place) => run(place, body).await,
        None => match current::actor() {
            Ok(actor) if !actor.is_root() => run(actor.place(), body).await,
            _root_or_none => super::root::root().join(body).await,
        },
    }
}

/// Runs `body` in a nursery of `place`'s actor.
async fn run<T, F>(place: Current, body: F) -> Result<T, Error>
where
    F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
{
    run_catching(place, body).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same, with a panic of the body as a value: everything is gone by then.
pub(super) fn run_catching<T, F>(place: Current, body: F) -> impl Future<Output = std::thread::Result<Result<T, Error>>>
where
    F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
{
    let traces = Arc::clone(&place.actor.traces);
    traced(&traces, Origin::Nursery, run_here(place, body))
}

async fn run_here<T, F>(place: Current, body: F) -> std::thread::Result<Result<T, Error>>
where
    F: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError>,
{
    let Current { actor, scope: outer, deadline, context } = place;
    let scope = Scope::new("nursery", Some(Arc::clone(&outer)));
    let is_shielded = outer.chain().any(|scope| scope.is_shielded());
    let nursery = Nursery::new(Arc::clone(&actor), Arc::clone(&scope), is_shielded);
    let handle = ActorNursery { nursery: Arc::clone(&nursery) };
    let mut abandon = Abandon { nursery: &nursery, outer: &outer, is_armed: true };
    stand_in(&outer, &nursery);
    let inside = Current { actor: Arc::clone(&actor), scope: Arc::clone(&scope), deadline, context };
    let end = Scoped::new(inside, Box::pin(body(&handle))).await;
    let (value, failed, panic) = match end {
        End::Value(Ok(value)) => {
            nursery.close().await;
            (Some(value), None, None)
        }
        End::Value(Err(error)) => {
            let error = Error::from_body(error);
            crash::left_body(&actor, &scope, &error);
            if is_consequence(&error) {
                nursery.end_actors(&canceller(&actor.aid, CancelRequest::Failure));
                (None, Some(error), None)
            } else {
                // Booked now: what fails in the teardown stands after it.
                nursery.fail(error);
                (None, None, None)
            }
        }
        End::Cancelled(canceller) => {
            nursery.end_actors(&canceller);
            (None, None, None)
        }
        End::Panicked(quit) if quit.is::<DebugQuit>() => {
            let error = Error::from_body(QUIT_TEXT.into());
            crash::left_body(&actor, &scope, &error);
            nursery.fail(error);
            (None, None, None)
        }
        End::Panicked(panic) => {
            nursery.end_actors(&canceller(&actor.aid, CancelRequest::Failure));
            (None, None, Some(panic))
        }
    };
    nursery.gone().await;
    run_deferred(scope.take_deferred(), Some(&actor.clock), clean_up_grace(&nursery)).await;
    abandon.is_armed = false;
    if let Some(panic) = panic {
        return Err(panic);
    }
    if let Some(failure) = nursery.failure(failed) {
        return Ok(Err(failure));
    }
    Ok(match (value, scope.canceller()) {
        (Some(value), _) => Ok(value),
        (None, Some(canceller)) => Err(Error::Cancelled { canceller }),
        (None, None) => Err(Error::Usage("the nursery's body ended without a value")),
    })
}

/// What becomes of a nursery whose future is dropped: its clean-up belongs to what it stood in.
struct Abandon<'a> {
    nursery: &'a Arc<Nursery>,
    outer: &'a Arc<Scope>,
    is_armed: bool,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        self.nursery.abandon();
        let nursery = Arc::clone(self.nursery);
        let rest = async move {
            nursery.gone().await;
            let clock = &nursery.actor.clock;
            run_deferred(nursery.scope.take_deferred(), Some(clock), clean_up_grace(&nursery)).await;
        };
        self.outer.leave_nursery(Box::pin(rest));
    }
}

/// The handle to an open nursery: what starts actors. Cheap to clone.
///
/// It may be kept beyond its block; then it starts nothing any more.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # use teamster::{ActorNursery, Error, Portal};
/// async fn pair(an: &ActorNursery) -> Result<(Portal, Portal), Error> {
///     tokio::try_join!(an.start_actor("left"), an.start_actor("right"))
/// }
/// pair(an).await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone)]
pub struct ActorNursery {
    pub(crate) nursery: Arc<Nursery>,
}

impl ActorNursery {
    /// Starts a service actor: a child process that serves calls until it is cancelled, or until
    /// the nursery's body has ended.
    ///
    /// Any number may have the same name. Starting several at once is best done with
    /// [`ActorNursery::start_actors`], or by joining the futures.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] if it could not be started; its reason says why and what to do.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the child that was being started.
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
    pub async fn start_actor(&self, name: &str) -> Result<Portal, Error> {
        self.actor(name).start().await
    }

    /// Starts one actor for each name, all at once; their portals in the same order.
    ///
    /// # Errors
    ///
    /// The first failure. The others of the call are cancelled then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends those that were being started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let pair = an.start_actors(["left", "right"]).await?;
    /// assert_eq!(pair.len(), 2);
    /// # Ok(()) }).await }
    /// ```
    pub async fn start_actors<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<Vec<Portal>, Error> {
        let names: Vec<N> = names.into_iter().collect();
        futures::future::try_join_all(names.iter().map(|name| self.start_actor(name.as_ref()))).await
    }

    /// Starts a cluster at once: one actor for each name, or that many actors, as a map of portals.
    ///
    /// Given a number, the names are `worker-0`, `worker-1`, …
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for an empty cluster; else as [`ActorNursery::start_actors`].
    ///
    /// # Cancel safety
    ///
    /// As [`ActorNursery::start_actors`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let cluster = an.start_cluster(2).await?;
    /// assert!(cluster.contains_key("worker-0"));
    /// # Ok(()) }).await }
    /// ```
    pub async fn start_cluster(&self, cluster: impl Cluster) -> Result<BTreeMap<String, Portal>, Error> {
        let names = cluster.names();
        if names.is_empty() {
            return Err(Error::Usage("a cluster needs at least one actor"));
        }
        if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            return Err(Error::Usage("a cluster has one actor for each name: one name came twice"));
        }
        let portals = self.start_actors(&names).await?;
        Ok(names.into_iter().zip(portals).collect())
    }

    /// Describes an actor before it is started.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.actor("frank").threads(2).start().await?;
    /// assert_eq!(frank.run(add(1, 2)).await?, 3);
    /// # Ok(()) }).await }
    /// ```
    pub fn actor(&self, name: &str) -> ActorBuilder<'_> {
        ActorBuilder::new(self, name, Options::default())
    }

    /// Runs one call in an actor of its own, named after the function: starts it now, calls, reaps.
    ///
    /// The nursery waits for it, and its failure is the nursery's, awaited or not.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let answer = an.run_in_actor(add(40, 2));
    /// assert_eq!(answer.await?, 42);
    /// # Ok(()) }).await }
    /// ```
    pub fn run_in_actor<E: Endpoint>(&self, call: Call<E>) -> OneShot<E> {
        let path = call.endpoint();
        let name = path.rsplit("::").next().unwrap_or(path);
        OneShot::start(&self.nursery, name.to_owned(), Options::default(), call)
    }

    /// Runs a plain program, named after its file: it starts now, and the nursery waits for it. Its failure is the nursery's,
    /// awaited or not.
    ///
    /// It fails if it can't be started, ends with another status than 0, or dies by a signal that nobody of the tree has sent. It ends
    /// like an actor: asked by SIGTERM to its process group, killed by SIGKILL when its grace is over; what it leaves in that group when it ends is
    /// killed at once. The same is done if this actor or the root is killed, as far as what it runs keeps its environment.
    ///
    /// Its lines are in the log, under the target `teamster::program` with the fields `program`, `pid` and `stream`, at the level
    /// INFO whichever stream they came on: many programs say on stderr how they get on. A line over 64 KiB comes in pieces. Its pipes are read
    /// whatever the log does: over 1 MiB that the log has not taken, the oldest lines are left out, and the log says how many. What
    /// it finds on stdin is empty.
    ///
    /// What the command says of stdin, stdout, stderr, `process_group` and `kill_on_drop` does not count. A program that goes off into
    /// a session of its own, as a daemon does, has left the nursery.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// use tokio::process::Command;
    ///
    /// let mut list = Command::new("ls");
    /// list.arg("/");
    /// let listed = an.run_process(list);
    /// println!("it was process {}", listed.await?.pid());
    /// # Ok(()) }).await }
    /// ```
    pub fn run_process(&self, command: impl Into<tokio::process::Command>) -> ProcessHandle {
        self.process(command).run()
    }

    /// Describes a plain program before it is started: its name, its grace, what it reads, and whether what it prints is a result.
    ///
    /// Its command is tokio's, or std's.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let sorted = an.process(std::process::Command::new("sort")).stdin("b\na\n").capture(1 << 20).call().await?;
    /// assert_eq!(sorted.stdout(), "a\nb\n");
    /// # Ok(()) }).await }
    /// ```
    pub fn process(&self, command: impl Into<tokio::process::Command>) -> ProcessBuilder<'_> {
        ProcessBuilder::new(self, command.into())
    }

    /// Cancels every actor and program of the nursery and waits until they are gone: a receipt for each actor.
    ///
    /// The nursery starts nothing any more. Called from the nursery's own body it leaves the body
    /// alone, which goes on and may return a value; called from elsewhere, it cancels the body too.
    /// Asking twice, or from several tasks at once, is asking once.
    ///
    /// # Cancel safety
    ///
    /// The request is sent on the first poll. Dropping the future stops the waiting, not the cancel.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.start_actors(["left", "right"]).await?;
    /// for receipt in an.cancel().await {
    ///     println!("{} is gone after {:?}", receipt.aid, receipt.reaped);
    /// }
    /// assert!(an.start_actor("late").await.is_err());
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel(&self) -> Vec<Receipt> {
        let canceller = canceller(&self.nursery.actor.aid, CancelRequest::Nursery);
        let children = self.nursery.children();
        self.nursery.end_actors(&canceller);
        let is_inside = current::current().is_some_and(|place| place.scope.is_within(&self.nursery.scope));
        if !is_inside {
            self.nursery.scope.cancel(&canceller);
        }
        let mut receipts = Vec::with_capacity(children.len());
        for child in children.into_iter().filter(|child| !child.is_program) {
            receipts.push(child.gone().await.receipt.clone());
        }
        self.nursery.idle().await;
        receipts
    }

    /// Waits until no actor of the nursery is left, however they end.
    ///
    /// # Cancel safety
    ///
    /// Dropping it stops the waiting only.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let (_, ended) = tokio::join!(an.wait(), frank.cancel_actor()); // as long as frank lives
    /// ended?;
    /// # Ok(()) }).await }
    /// ```
    pub async fn wait(&self) {
        self.nursery.idle().await;
    }

    /// The actors that it holds now, those that are still starting left out.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// an.start_actors(["left", "right"]).await?;
    /// assert_eq!(an.portals().len(), 2);
    /// # Ok(()) }).await }
    /// ```
    pub fn portals(&self) -> Vec<Portal> {
        let actor: &Arc<Actor> = &self.nursery.actor;
        let living =
            self.nursery.children().into_iter().filter(|child| !child.is_program && child.reaped.get().is_none());
        living.map(|child| Portal::to_child(Arc::clone(actor), child)).collect()
    }
}

impl fmt::Debug for ActorNursery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorNursery").field("actor", &self.nursery.actor.aid).finish_non_exhaustive()
    }
}

/// What a cluster is made of: a number of actors, or their names.
///
/// # Examples
///
/// ```
/// use teamster::Cluster;
///
/// assert_eq!(2.names(), ["worker-0", "worker-1"]);
/// assert_eq!(["left", "right"].names(), ["left", "right"]);
/// ```
pub trait Cluster {
    /// One name for each actor.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(teamster::Cluster::names(vec!["left", "right"]), ["left", "right"]);
    /// ```
    fn names(self) -> Vec<String>;
}

impl Cluster for usize {
    fn names(self) -> Vec<String> {
        (0..self).map(|number| format!("worker-{number}")).collect()
    }
}

impl<N: AsRef<str>, const COUNT: usize> Cluster for [N; COUNT] {
    fn names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

impl<N: AsRef<str>> Cluster for &[N] {
    fn names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

impl<N: AsRef<str>> Cluster for Vec<N> {
    fn names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}
