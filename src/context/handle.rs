//! Which context is this code part of, and how does another actor end it?
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::actor::context::{ANSWER_WITHIN, ContextCore, Side};
use crate::actor::current::{self, with_current};
use crate::actor::peers::canceller;
use crate::error::Error;
use crate::msg::ident::{Aid, CancelRequest, Canceller};
use crate::portal::Portal;

/// The context that this code is part of: its task, or the body of its opener.
///
/// `None` outside of both.
///
/// # Examples
///
/// ```
/// fn who_asks() -> Option<teamster::Aid> {
///     teamster::current_context().map(|ctx| ctx.peer().clone())
/// }
/// assert!(who_asks().is_none());
/// ```
pub fn current_context() -> Option<CurrentContext> {
    with_current(|current| current?.context.clone()).map(|core| CurrentContext { core })
}

/// The current context, whatever its types.
///
/// # Examples
///
/// ```
/// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
/// #     ctx.started(()).await?; Ok(std::future::pending().await)
/// # }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// frank.open_context(hold(), async |_ctx, ()| {
///     let ctx = teamster::current_context().expect("we are in one");
///     println!("{} with {}", ctx.endpoint(), ctx.peer());
///     ctx.cancel();
///     Ok(())
/// }).await?;
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug)]
pub struct CurrentContext {
    core: Arc<ContextCore>,
}

impl CurrentContext {
    /// The actor on the other side.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.open_context(hold(), async |_ctx, ()| {
    ///     let ctx = teamster::current_context().expect("we are in one");
    ///     assert_eq!(ctx.peer().name(), "frank");
    ///     # ctx.cancel();
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn peer(&self) -> &Aid {
        &self.core.peer
    }

    /// The endpoint's path.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.open_context(hold(), async |_ctx, ()| {
    ///     let ctx = teamster::current_context().expect("we are in one");
    ///     assert!(ctx.endpoint().ends_with("::hold"));
    ///     # ctx.cancel();
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn endpoint(&self) -> &'static str {
        self.core.link.path
    }

    /// Whether this is the side that has opened it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.open_context(hold(), async |_ctx, ()| {
    ///     let ctx = teamster::current_context().expect("we are in one");
    ///     assert!(ctx.is_opener());
    ///     # ctx.cancel();
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn is_opener(&self) -> bool {
        matches!(self.core.side, Side::Opener { .. })
    }

    /// Asks for the end of the remote task, from the opener's side, or of this very task.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.open_context(hold(), async |_ctx, ()| {
    ///     teamster::current_context().expect("we are in one").cancel(); // it ends, this body goes on
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn cancel(&self) {
        self.core.cancel();
    }

    /// By this, any actor can ask for the end of this context.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// frank.open_context(hold(), async |_ctx, ()| {
    ///     let handle = teamster::current_context().expect("we are in one").handle();
    ///     handle.cancel().await?; // or any actor that it was sent to
    ///     Ok(())
    /// }).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn handle(&self) -> ContextHandle {
        ContextHandle::to(&self.core)
    }
}

/// A way to ask for the end of a context from any actor: it can be sent as an argument, a result, an
/// item.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn stop_it(job: teamster::ContextHandle) -> teamster::Result<()> {
///     job.cancel().await?;
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContextHandle {
    /// The actor that gave the handle away.
    holder: Portal,
    number: u64,
    /// The endpoint's path.
    endpoint: String,
}

impl ContextHandle {
    pub(super) fn to(core: &Arc<ContextCore>) -> Self {
        let holder = Portal::to(core.actor.aid.clone(), Some(core.actor.addrs()));
        ContextHandle { holder, number: core.handle(), endpoint: core.link.path.to_owned() }
    }

    /// Asks for the context's end, and waits for it, within the task's grace. Both of its sides get
    /// [`Error::Cancelled`] with this actor as the canceller.
    ///
    /// A context that has ended already is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] outside of every actor; [`Error::NotStopped`] if the task has not ended within its
    /// grace, the line to it is lost, or the actor that gave the handle away does not answer; else those of
    /// [`Portal::run`] for that actor.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the waiting, and the request itself if it has not left.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::context] async fn hold(ctx: teamster::Context) -> teamster::Result<()> {
    /// #     ctx.started(()).await?; Ok(std::future::pending().await)
    /// # }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// # let frank = an.start_actor("frank").await?;
    /// let job = frank.context(hold()).await?;
    /// job.handle().cancel().await?;
    /// assert!(job.has_ended());
    /// # Ok(()) }).await }
    /// ```
    pub async fn cancel(&self) -> Result<(), Error> {
        let actor = current::actor()?;
        let canceller = canceller(&actor.aid, CancelRequest::Context);
        let grace = actor.settings.grace;
        // Whoever holds it waits for the grace.
        let asked = self.holder.run(cancel_by_handle(self.number, canceller));
        match actor.clock.timeout(grace + 2 * ANSWER_WITHIN, asked).await {
            Ok(Err(Error::Remote(remote))) => Err(match remote.ours() {
                Some(not_stopped @ Error::NotStopped { .. }) => not_stopped.clone(),
                _ => Error::Remote(remote),
            }),
            Ok(ended) => ended,
            Err(_elapsed) => {
                let (endpoint, aid) = (self.endpoint.clone(), self.holder.aid().clone());
                Err(Error::NotStopped { endpoint, aid, grace, heard: false })
            }
        }
    }
}

#[teamster::rpc(name = "teamster.cancel_context")]
async fn cancel_by_handle(number: u64, canceller: Canceller) -> Result<(), Error> {
    let actor = current::actor()?;
    let core = actor.context_handles.lock().find(number);
    let Some(core) = core else { return Ok(()) };
    if core.link.end().is_none() {
        core.cancel_for(&canceller);
    }
    core.known_to_have_stopped().await
}
