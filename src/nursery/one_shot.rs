//! One call in an actor of its own: supervised like a task of the nursery.
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::SetOnce;

use super::builder::start;
use super::supervise::{Care, Nursery};
use crate::actor::endpoint::{Call, Endpoint};
use crate::actor::peers::canceller;
use crate::error::Error;
use crate::msg::ident::CancelRequest;
use crate::portal::{Prepared, decode_result};
use crate::spawn::Options;

/// The outcome of a call that runs in an actor of its own: await it, as often as you like, before
/// and after the nursery's end. Dropping it leaves the call to the nursery.
///
/// # Cancel safety
///
/// Dropping its future stops the waiting only.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let sum = an.run_in_actor(add(1, 2)); // it runs already
/// let again = sum.clone();
/// assert_eq!((sum.await?, again.await?), (3, 3));
/// # Ok(()) }).await }
/// ```
#[must_use = "its failure reaches the nursery also if nobody awaits it; to ignore the value, drop it"]
pub struct OneShot<E: Endpoint> {
    outcome: Arc<SetOnce<Result<Vec<u8>, Error>>>,
    endpoint: PhantomData<fn() -> E>,
}

impl<E: Endpoint> OneShot<E> {
    pub(super) fn start(nursery: &Arc<Nursery>, name: String, options: Options, call: Call<E>) -> Self {
        let (running, outcome) = Running::begin(nursery);
        match Prepared::for_child(&nursery.actor, &call, options.runs()) {
            Ok(call) => nursery.actor.spawn_driver(async move {
                let result = run(&running.nursery, &name, options, &call, Care::OfNursery).await;
                running.end(result);
            }),
            Err(error) => running.end(Err(error)),
        }
        OneShot { outcome, endpoint: PhantomData }
    }
}

/// Starts an actor, calls it, and ends it: its process is gone when this returns.
pub(super) async fn run(
    nursery: &Arc<Nursery>,
    name: &str,
    options: Options,
    call: &Prepared,
    care: Care,
) -> Result<Vec<u8>, Error> {
    let started = start(nursery, name, options, care).await?;
    let result = started.portal().run_prepared(call).await;
    let canceller = canceller(&nursery.actor.aid, CancelRequest::NurseryEnd);
    let child = started.keep();
    nursery.actor.cancel_child(&child, &canceller, child.grace);
    let ended = child.gone().await;
    match result {
        // It was on its way to its end before we asked: that is what happened, not the cancel.
        Err(Error::Cancelled { .. }) if ended.death.asked().is_none() => Err(Error::ActorDied(ended.death.clone())),
        result => result,
    }
}

/// A one-shot's book-keeping, also if its task is dropped or panics.
pub(super) struct Running<T> {
    nursery: Arc<Nursery>,
    outcome: Arc<SetOnce<Result<T, Error>>>,
}

impl<T> Running<T> {
    /// The book-keeping, and where the outcome will be.
    pub(super) fn begin(nursery: &Arc<Nursery>) -> (Self, Arc<SetOnce<Result<T, Error>>>) {
        let outcome = Arc::new(SetOnce::new());
        nursery.begin_one_shot();
        (Running { nursery: Arc::clone(nursery), outcome: Arc::clone(&outcome) }, outcome)
    }

    pub(super) fn end(self, result: Result<T, Error>) {
        if let Err(error) = &result {
            self.nursery.fail(error.clone());
        }
        // Set here and in `drop` alone.
        let _ = self.outcome.set(result);
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if self.outcome.get().is_none() {
            let error = Error::Usage("the runtime ended before the call did, or its arguments panicked");
            self.nursery.fail(error.clone());
            let _ = self.outcome.set(Err(error));
        }
        self.nursery.end_one_shot();
    }
}

impl<E: Endpoint> IntoFuture for OneShot<E> {
    type Output = Result<E::Output, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let bytes = self.outcome.wait().await.clone()?;
            decode_result::<E>(&bytes)
        })
    }
}

impl<E: Endpoint> Clone for OneShot<E> {
    fn clone(&self) -> Self {
        OneShot { outcome: Arc::clone(&self.outcome), endpoint: PhantomData }
    }
}

impl<E: Endpoint> fmt::Debug for OneShot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneShot").field("has_ended", &self.outcome.get().is_some()).finish()
    }
}
