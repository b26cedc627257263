//! The attribute macros of teamster: how does a function become an endpoint?
//!
//! Their paths begin with `::teamster`, so a user needs no other dependency. Each mistake is
//! reported at the user's own tokens; `tests/compile_fail` has a case for each.
use proc_macro::TokenStream;

mod entry;
mod error_type;
mod host_loop;
mod misuse;
mod rpc;

/// Makes a function callable from every actor of its program.
///
/// `add(1, 2)` is then a `Call`: awaited, it runs here; `portal.run(add(1, 2))` runs it in another
/// actor. Arguments and result travel by serde, so they are owned types. Any error type that
/// implements `std::error::Error`, `anyhow::Error`, `teamster::Report` and texts may be the error
/// of a `Result`; any other return type is a plain value.
///
/// A function that returns `impl Stream<Item = T>` sends its items as they come: `portal.stream(numbers(10))`.
///
/// `#[rpc(name = "…")]` gives it another path than the one that the compiler knows it by.
///
/// Doc comments and `#[deprecated]` go to the function that users call, `#[cfg]` to all of it, and
/// every other attribute, such as `#[tracing::instrument]`, to the function that runs.
///
/// # Examples
///
/// ```
/// use teamster::rpc;
///
/// /// Adds two numbers.
/// #[rpc]
/// pub async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// #[rpc(name = "files.size")]
/// async fn size(path: std::path::PathBuf) -> std::io::Result<u64> {
///     Ok(std::fs::metadata(path)?.len())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), teamster::Error> {
/// assert_eq!(add(1, 2).await?, 3);
/// assert!(size("/no/such/file".into()).await.is_err());
/// # Ok(())
/// # }
/// ```
#[proc_macro_attribute]
pub fn rpc(options: TokenStream, item: TokenStream) -> TokenStream {
    done(rpc::expand(rpc::Asked::Rpc, options.into(), item.into()))
}

/// Makes a function that runs as a task linked to its opener: with a first word, a stream each way, and
/// a result.
///
/// Its first argument is its own side of the context, `ctx: Context<Started, In, Out>`; the others, and its
/// result, are as for [`macro@rpc`]. `portal.open_context(count(10), async |ctx, first| …)` opens it.
///
/// # Examples
///
/// ```
/// use teamster::{Context, context};
///
/// #[context]
/// async fn count(ctx: Context<u64, String, u64>, from: u64) -> teamster::Result<u64> {
///     ctx.started(from).await?;
///     let mut stream = ctx.open_stream().await?;
///     let mut n = from;
///     while let Some(word) = stream.recv().await? {
///         n += word.len() as u64;
///         stream.send(n).await?;
///     }
///     Ok(n)
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn context(options: TokenStream, item: TokenStream) -> TokenStream {
    done(rpc::expand(rpc::Asked::Context, options.into(), item.into()))
}

/// Makes a function a job for worker processes: it may take its processor for as long as it likes.
///
/// `thumbnail(image)` is then a `Call`: `teamster::run_sync(thumbnail(image))` runs it in a worker process,
/// `pool.map(images.map(thumbnail))` many of them. Arguments, results and errors travel as those of [`macro@rpc`] do, and
/// the options are the same. It may be async, too.
///
/// Awaited, or called in an ordinary actor, a job that is not async runs right there, and holds up the other tasks of that
/// thread as any code does that never awaits.
///
/// # Examples
///
/// ```
/// #[teamster::work]
/// fn is_prime(n: u64) -> bool {
///     n > 1 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     assert!(teamster::run_sync(is_prime(97)).await?);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn work(options: TokenStream, item: TokenStream) -> TokenStream {
    done(rpc::expand(rpc::Asked::Work, options.into(), item.into()))
}

/// Makes a function the loop of a host, which a child runs on its main thread with its actor as a guest.
///
/// Its first argument is the guest, `teamster::guest::Guest`, which it starts before it runs its loop; it returns when it
/// is told that the guest is over. It returns nothing, or a `Result` whose error ends the process. Its other arguments
/// travel by serde: `an.actor("clock").infect(frames(60))` starts an actor with it.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use teamster::guest::{Guest, Slice};
///
/// /// A loop that does nothing of its own.
/// #[teamster::host_loop]
/// fn queue(guest: Guest, name: String) -> Result<(), std::num::ParseIntError> {
///     let (soon, slices) = mpsc::channel::<Option<Slice>>();
///     let over = soon.clone();
///     guest.start(move |slice| drop(soon.send(Some(slice))), move || drop(over.send(None)));
///     while let Ok(Some(slice)) = slices.recv() {
///         slice.run();
///     }
///     println!("{name} is over");
///     Ok(())
/// }
///
/// #[teamster::main]
/// async fn main() -> Result<(), teamster::Error> {
///     teamster::open_nursery(async |an| {
///         an.actor("clock").infect(queue("the loop".into())).start().await?;
///         Ok(())
///     })
///     .await
/// }
/// ```
#[proc_macro_attribute]
pub fn host_loop(options: TokenStream, item: TokenStream) -> TokenStream {
    done(host_loop::expand(options.into(), item.into()))
}

/// Lets an error type cross between actors as a value: `error.downcast_ref::<MyError>()`.
///
/// The type implements `std::error::Error` and serde's two traits. It is known by its whole path,
/// so two types of one short name in two modules are two. An actor whose program does not know it
/// gets its name, its text and its sources' texts.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[teamster::error]
/// #[derive(Debug, thiserror::Error, Serialize, Deserialize)]
/// #[error("no seat in row {row}")]
/// struct Full {
///     row: u32,
/// }
///
/// #[teamster::rpc]
/// async fn book(row: u32) -> Result<(), Full> {
///     Err(Full { row })
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = book(7).await.unwrap_err();
/// assert_eq!(error.downcast_ref::<Full>().unwrap().row, 7);
/// # }
/// ```
#[proc_macro_attribute]
pub fn error(options: TokenStream, item: TokenStream) -> TokenStream {
    done(error_type::expand(options.into(), item.into()))
}

/// Runs an async `main`, and boots as an actor where the process was started as one.
///
/// `current_thread` by default: parallelism comes from actors. `flavor = "multi_thread"` and
/// `worker_threads = n` are as for tokio. `debug` arms the whole tree for debugging, as
/// `teamster::root().debug(true)` does. A `teamster::Error::Interrupted` that it returns, also
/// inside `anyhow::Error`, becomes the death by that signal which a shell expects. Where it fails,
/// closures of `spawn_blocking` (tokio's stdin is one) have the grace to end in, 1 s or what
/// `TEAMSTER_GRACE_MS` says: the failure is told without those that don't.
///
/// # Examples
///
/// ```
/// #[teamster::main(flavor = "multi_thread", worker_threads = 2)]
/// async fn main() -> anyhow::Result<()> {
///     println!("hello");
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    done(entry::main(options.into(), item.into()))
}

/// An async test in a process of its own, whose actors are real processes too.
///
/// `#[ignore]`, `#[should_panic]` and a `Result` work as for `#[test]`. `exclusive` keeps the
/// tests of other processes waiting: for one that measures times or fills the processor.
///
/// # Examples
///
/// ```no_run
/// #[teamster::test(exclusive)]
/// async fn is_quick() -> anyhow::Result<()> {
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    done(entry::test(options.into(), item.into()))
}

fn done(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(|error| error.into_compile_error()).into()
}
