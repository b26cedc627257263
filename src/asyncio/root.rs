//! How does a root live in an asyncio event loop?
use std::cell::{OnceCell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;

use pyo3::prelude::*;

use super::event_loop::{self, EventLoop};
use super::{Asyncio, raised};
use crate::actor::current;
use crate::error::{BoxError, Error};
use crate::nursery::{ActorNursery, RootBuilder};

impl Asyncio {
    /// Boots a root as a guest of such a loop, and runs both on this thread until the root is over: what
    /// [`run_task`](super::run_task) needs is then in `body`, and in all tasks of the root.
    ///
    /// It blocks the thread, which must not run a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`] if Python or the loop can't be set up, or the loop is stopped before the root is over, which cancels the root;
    /// else those of [`RootBuilder::open`].
    ///
    /// # Panics
    ///
    /// A panic of `body` goes on when everything is gone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use teamster::asyncio::{Asyncio, run_task};
    ///
    /// fn main() -> Result<(), teamster::Error> {
    ///     let _guard = teamster::init();
    ///     let now: f64 = Asyncio::new().open(teamster::root(), async |_an| Ok(run_task("clock:now", ()).await?))?;
    ///     println!("{now}");
    ///     Ok(())
    /// }
    /// ```
    pub fn open<T, B>(self, root: RootBuilder, body: B) -> Result<T, Error>
    where
        T: 'static,
        B: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError> + 'static,
    {
        let slot = Rc::new(RefCell::new(None));
        let begun = Rc::new(OnceCell::new());
        let (end, guest) = (Rc::clone(&slot), Rc::clone(&begun));
        Python::initialize(); // without handlers of signals
        let begin = move |event_loop: &Arc<EventLoop>| {
            let (soon, ours, over) = (Arc::clone(event_loop), Arc::clone(event_loop), Arc::clone(event_loop));
            let host = root.begin_as_guest(
                move |slice| soon.run_soon(slice),
                async move |an: &ActorNursery| {
                    ours.is_of(current::actor()?);
                    body(an).await
                },
                move |ended, io| {
                    *slot.borrow_mut() = Some((ended, io));
                    over.stop();
                },
            )?;
            // It begins once.
            let _ = begun.set((host, Arc::clone(event_loop)));
            Ok(())
        };
        let ran = Python::attach(|py| event_loop::run(py, &self, begin).map_err(|error| raised::told(py, &error)));
        // From here on without Python's lock: the thread beside may have to take it before it ends.
        if let Some((host, event_loop)) = guest.get()
            && !host.is_over()
        {
            event_loop.was_stopped();
            host.finish_alone();
        }
        let ended = end.take().map(|(ended, io)| {
            io.end();
            ended.unwrap_or_else(|panic| resume_unwind(panic))
        });
        let is_stopped = guest.get().is_some_and(|(_, event_loop)| event_loop.is_stopped());
        let failed = |reason: &str| {
            Err(Error::Transport { what: "running an asyncio event loop".to_owned(), reason: reason.to_owned() })
        };
        match (ended, ran) {
            (_, Ok(())) if is_stopped => failed("it was stopped before the root was over"),
            (Some(ended), Ok(())) => ended,
            (Some(Err(error)), Err(_)) if !is_stopped => Err(error), // the first cause
            (_, Err(told)) => failed(&told),
            (None, Ok(())) => failed("it has returned before the root was over"),
        }
    }
}
