//! How are several contexts entered at once, used together, and exited at once?
use std::future::{Future, pending};

use futures::future::BoxFuture;

use super::context::{AsyncContext, Held, opened};
use super::nursery::open_nursery;
use crate::error::{BoxError, Error};

/// Enters all `contexts` at once and runs `body` with their values, in the same order.
///
/// When `body` is over and gone, all of them exit, at once too. They succeed or fail as one:
///
/// * One that fails in entering cancels the others: those that have entered exit, the rest is dropped
///   where it waits.
/// * One that fails while `body` runs cuts off `body`, and the others exit.
/// * A cancel of what is around it (a dialog, a nursery, a [`CancelScope`](super::CancelScope)) does the
///   same. Exits are run to their end, as in a [`shield`](crate::shield).
///
/// # Errors
///
/// [`Error::Usage`] for no contexts at all. Else the first failure, in entering, in `body` or in an exit;
/// [`Error::Group`] if several failed. [`Error::Cancelled`] if it was cancelled before `body` had a value.
///
/// # Panics
///
/// A panic of `body` or of a context goes on when the others have exited.
///
/// # Cancel safety
///
/// A drop from elsewhere (`select!`, `tokio::time::timeout`) drops everything where it stands, and no exit
/// is run: [`move_on_after`](super::move_on_after) and [`CancelScope`](super::CancelScope) cancel it instead.
///
/// # Examples
///
/// Three actors that start at once and end with the block:
///
/// ```
/// # #[teamster::rpc] async fn square(n: u64) -> u64 { n * n }
/// use teamster::tasks::gather_contexts;
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> {
/// teamster::open_nursery(async |an| {
///     let three = ["a", "b", "c"].map(|name| an.actor(name));
///     let sum = gather_contexts(three, async |portals| {
///         let mut sum = 0;
///         for (portal, n) in portals.iter().zip(1..) {
///             sum += portal.run(square(n)).await?;
///         }
///         Ok(sum)
///     })
///     .await?; // all three are reaped
///     assert_eq!(sum, 14);
///     Ok(())
/// })
/// .await
/// # }
/// ```
///
/// A linked task in each of them, all with a stream: if one fails, all end.
///
/// ```
/// use teamster::tasks::gather_contexts;
/// use teamster::{Context, context};
///
/// #[context]
/// async fn count(ctx: Context<(), String, ()>) -> teamster::Result<usize> {
///     ctx.started(()).await?;
///     let (mut stream, mut letters) = (ctx.open_stream().await?, 0);
///     while let Some(word) = stream.recv().await? {
///         letters += word.len();
///     }
///     Ok(letters)
/// }
///
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let actors = an.start_actors(["a", "b"]).await?;
/// let counts = actors.into_iter().map(|actor| (actor, count()));
/// let letters = gather_contexts(counts, async |contexts| {
///     let mut letters = 0;
///     for ctx in &contexts {
///         ctx.open_stream().await?.send(String::from("hay")).await?; // dropped, it is finished
///         letters += ctx.result().await?;
///     }
///     Ok(letters)
/// })
/// .await?;
/// assert_eq!(letters, 6);
/// # Ok(()) }).await }
/// ```
pub fn gather_contexts<'env, C, V, T, F, B>(
    contexts: impl IntoIterator<Item = C>,
    body: F,
) -> impl Future<Output = Result<T, Error>>
where
    C: AsyncContext<Value = V> + 'env,
    V: Send + 'env,
    F: FnOnce(Vec<V>) -> B,
    B: Future<Output = Result<T, BoxError>>,
{
    let opened = contexts.into_iter().map(|context| {
        let (run, held) = opened(context);
        Opened { run: Box::pin(run), held }
    });
    gather(opened.collect(), body)
}

/// The type of the contexts is hidden in here. Seen by a future, it would not let that be `Send` in a
/// spawned task where values borrow, on Rust 1.95.
struct Opened<'env, V> {
    run: BoxFuture<'env, Result<(), BoxError>>,
    held: Held<V>,
}

async fn gather<'env, V, T, F, B>(contexts: Vec<Opened<'env, V>>, body: F) -> Result<T, Error>
where
    V: Send + 'env,
    F: FnOnce(Vec<V>) -> B,
    B: Future<Output = Result<T, BoxError>>,
{
    if contexts.is_empty() {
        return Err(Error::Usage("gather_contexts was given nothing to enter"));
    }
    open_nursery(async move |tn| {
        let mut all = Vec::with_capacity(contexts.len());
        for Opened { run, held } in contexts {
            tn.start_soon(run);
            all.push(held);
        }
        let mut values = Vec::with_capacity(all.len());
        for held in &mut all {
            match held.value().await {
                Some(value) => values.push(value),
                None => pending().await, // it has failed, and cuts us off
            }
        }
        let result = body(values).await?;
        all.into_iter().for_each(Held::done);
        Ok(result)
    })
    .await
}

#[cfg(test)]
mod tests;
