//! How does a root live in a host's loop?
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::thread;

use futures::FutureExt;

use super::root::RootBuilder;
use super::scope::ActorNursery;
use crate::error::{BoxError, Error};
use crate::guest::{HostThread, Io, Slice};

impl RootBuilder {
    /// [`open`](RootBuilder::open) for a thread that runs a loop of its own: boots the root, as a guest of that loop, runs
    /// `body` there, and calls `done` when everything is gone. It returns at once; all else is done by slices, which
    /// `run_soon` is asked to have run soon on this thread. See [`guest`](crate::guest).
    ///
    /// `run_soon` is called on whatever thread; it does not wait, and does not run the slice itself. `body` and `done` run on
    /// this thread, so nothing of them has to be `Send`. A loop that stops running slices leaves the tree as a dropped
    /// nursery does: [`init`](crate::init)'s guard cancels it and waits for its processes.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`] if the thread beside the loop could not be started. All others are told to `done`.
    ///
    /// # Panics
    ///
    /// Not itself. A panic of `body` goes on in the slice that ends the guest, and `done` is not called.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use teamster::guest::Slice;
    ///
    /// #[teamster::rpc]
    /// async fn add(a: i64, b: i64) -> i64 {
    ///     a + b
    /// }
    ///
    /// let _guard = teamster::init();
    /// let (soon, callbacks) = mpsc::channel::<Result<Slice, i64>>(); // our loop's row: a slice, or the last word
    /// let over = soon.clone();
    /// teamster::root().open_as_guest(
    ///     move |slice| drop(soon.send(Ok(slice))),
    ///     async |an| Ok(an.actor("adder").call(add(1, 2)).await?),
    ///     move |sum| drop(over.send(Err(sum.expect("nothing fails")))),
    /// )?;
    /// let sum = loop {
    ///     match callbacks.recv().expect("the guest has the other end") {
    ///         Ok(slice) => slice.run(),
    ///         Err(sum) => break sum,
    ///     }
    /// };
    /// assert_eq!(sum, 3);
    /// # Ok::<(), teamster::Error>(())
    /// ```
    pub fn open_as_guest<T, B, D>(
        self,
        run_soon: impl Fn(Slice) + Send + Sync + 'static,
        body: B,
        done: D,
    ) -> Result<(), Error>
    where
        T: 'static,
        B: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError> + 'static,
        D: FnOnce(Result<T, Error>) + 'static,
    {
        let ends = move |ended: thread::Result<Result<T, Error>>, io: Io| {
            io.end();
            match ended {
                Ok(result) => done(result),
                Err(panic) => resume_unwind(panic),
            }
        };
        self.begin_as_guest(run_soon, body, ends).map(drop)
    }

    /// The same, for a loop that may not wait in `done`, or not panic: it is given what is left to do, which is to end the thread
    /// beside the loop and to let a panic of `body` go on.
    pub(crate) fn begin_as_guest<T, B, D>(
        self,
        run_soon: impl Fn(Slice) + Send + Sync + 'static,
        body: B,
        done: D,
    ) -> Result<Arc<HostThread>, Error>
    where
        T: 'static,
        B: AsyncFnOnce(&ActorNursery) -> Result<T, BoxError> + 'static,
        D: FnOnce(thread::Result<Result<T, Error>>, Io) + 'static,
    {
        let (runtime, io) = Io::start().map_err(|error| Error::Transport {
            what: "starting the thread on which a guest waits".to_owned(),
            reason: error.to_string(),
        })?;
        let host = HostThread::new(runtime);
        let at_the_end = Arc::clone(&host);
        host.spawn_local(async move {
            let ended = AssertUnwindSafe(self.open(body)).catch_unwind().await;
            at_the_end.end_with(Box::new(move || done(ended, io)));
        });
        host.begin(run_soon);
        Ok(host)
    }
}
