//! How does one job get to a worker, and what becomes of it when nobody waits any more?
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::batch::encode;
use super::of_actor::workers_here;
use super::trip::Args;
use super::workers::Workers;
use crate::actor::endpoint::{Call, Endpoint, path_of, with_both_types};
use crate::error::Error;

/// A job for a worker process: nothing of it happens before it is polled.
///
/// # Cancel safety
///
/// Dropped while the job waits for a worker, the job is removed, and never runs. Dropped while it runs, its worker is
/// killed at once, and another one is started when one is needed; not so if it is not
/// [cancellable](Run::cancellable).
///
/// # Examples
///
/// ```
/// #[teamster::work]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |_an| {
/// assert_eq!(teamster::run_sync(square(7)).await?, 49);
/// # Ok(()) }).await }
/// ```
#[must_use = "a job does nothing until it is awaited"]
pub struct Run<E: Endpoint> {
    state: State<E>,
}

enum State<E: Endpoint> {
    Asked { whose: Whose, call: Call<E>, is_cancellable: bool },
    Running(BoxFuture<'static, Result<E::Output, Error>>),
    Ended,
}

/// Nothing in it is pinned but what is in a box.
impl<E: Endpoint> Unpin for Run<E> {}

/// Whose workers are to do it.
enum Whose {
    These(Arc<Workers>),
    /// Those of the block around the code that polls it first, else its actor's own.
    Here,
}

impl<E: Endpoint> Run<E> {
    pub(super) fn by(workers: &Arc<Workers>, call: Call<E>) -> Self {
        Run { state: State::Asked { whose: Whose::These(Arc::clone(workers)), call, is_cancellable: true } }
    }

    pub(super) fn here(call: Call<E>) -> Self {
        Run { state: State::Asked { whose: Whose::Here, call, is_cancellable: true } }
    }

    /// Whether the job may be killed. Default: it may.
    ///
    /// If not, a job that has begun goes on to its end when this is dropped, and whatever is around it (the call, the
    /// nursery) ends after it, within the grace. A job that still waits for a worker is removed all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::work] fn save(text: String) -> std::io::Result<()> { std::fs::write("/dev/null", text) }
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |_an| {
    /// teamster::run_sync(save("whole or not at all".into())).cancellable(false).await?;
    /// # Ok(()) }).await }
    /// ```
    pub fn cancellable(mut self, may_be: bool) -> Self {
        if let State::Asked { is_cancellable, .. } = &mut self.state {
            *is_cancellable = may_be;
        }
        self
    }
}

impl<E: Endpoint> Future for Run<E> {
    type Output = Result<E::Output, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Running(job) => {
                    let job = job.as_mut().poll(cx);
                    if job.is_ready() {
                        self.state = State::Ended;
                    }
                    return job;
                }
                asked => match std::mem::replace(asked, State::Ended) {
                    State::Asked { whose, call, is_cancellable } => {
                        let job = run::<E>(whose, call, is_cancellable);
                        self.state = State::Running(Box::pin(job));
                    }
                    State::Running(_) | State::Ended => panic!("a job is polled no more when it has ended"),
                },
            }
        }
    }
}

async fn run<E: Endpoint>(whose: Whose, call: Call<E>, is_cancellable: bool) -> Result<E::Output, Error> {
    match whose {
        Whose::These(workers) => run_by(&workers, call, is_cancellable).await,
        Whose::Here => {
            let (workers, caller) = workers_here()?;
            let ran = run_by(&workers, call, is_cancellable).await;
            ran.map_err(|error| match caller {
                Some(caller) => caller.told(error),
                None => error,
            })
        }
    }
}

async fn run_by<E: Endpoint>(workers: &Arc<Workers>, call: Call<E>, is_cancellable: bool) -> Result<E::Output, Error> {
    let answer = workers.ride(path_of::<E>(), args_of::<E>(call.args)?, is_cancellable).await;
    answer.map_err(with_both_types::<E>)?.decode::<E>()
}

fn args_of<E: Endpoint>(args: E::Args) -> Result<Args, Error> {
    let mut bytes = Vec::new();
    Ok(match encode::<E>(&args, &mut bytes)? {
        true => Args::large::<E>(args),
        false => Args::Encoded(bytes),
    })
}

/// What a job is told that no worker gets to.
pub(super) const NEVER_BEGAN: &str =
    "each worker that was to do the job had come to its end before it began: look into the log";

impl<E: Endpoint> fmt::Debug for Run<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Asked { .. } => "asked",
            State::Running(_) => "running",
            State::Ended => "ended",
        };
        f.debug_struct("Run").field("job", &path_of::<E>()).field("state", &state).finish()
    }
}
