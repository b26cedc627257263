//! Which functions of this program can be called, and how does a call run one?
use std::any::type_name;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::ContextCore;
use super::failure::Failure;
use super::panics;
use super::parcels::{Answer, Reply};
use crate::error::{CodecError, Error};
use crate::msg::codec::{self, Spill};
use crate::msg::frame::Encoding;

/// A future in a box, that may move to another thread.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), teamster::Error> {
/// fn later(n: u32) -> teamster::BoxFuture<'static, u32> {
///     Box::pin(async move { n + 1 })
/// }
/// assert_eq!(later(1).await, 2);
/// # Ok(()) }
/// ```
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A value that can travel between actors: an argument, a result, an item of a stream.
///
/// Every owned type with serde's two traits is one.
///
/// # Examples
///
/// ```
/// fn can_travel<T: teamster::Data>() {}
///
/// can_travel::<Vec<(String, Option<u32>)>>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't travel between actors",
    label = "this has to become bytes and come back in another process",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it, and own what is in it (`String` for `&str`)"
)]
pub trait Data: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Data for T {}

/// Used by the macros: asks for one type at the place where the user wrote it.
#[doc(hidden)]
pub fn travels<T: Data>() {}

/// Used by the macros: whether this value can become bytes.
#[doc(hidden)]
pub fn encodes<T: Data>(value: &T) -> bool {
    codec::encode_into(value, Encoding::Positional, &mut Vec::new()).is_ok()
}

/// What every function that other actors can reach has: arguments, a result, a path.
///
/// # Examples
///
/// ```
/// use teamster::{Call, Endpoint, Function};
///
/// #[teamster::rpc]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// fn path<E: Endpoint + Function<Args = (i64, i64)>>(call: &Call<E>) -> &'static str {
///     call.endpoint()
/// }
/// assert!(path(&add(1, 2)).ends_with("::add"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function that actors can call",
    note = "put `#[teamster::rpc]` or `#[teamster::context]` on it"
)]
pub trait Function: Send + Sync + 'static {
    /// The arguments, as a tuple.
    type Args: Data;
    /// What it gives when it ends well.
    type Output: Data;
    /// The path, where the user chose one.
    #[doc(hidden)]
    const NAME: Option<&'static str> = None;
    /// `file:line:column` of the function.
    #[doc(hidden)]
    const LOCATION: &'static str;
    /// Its arguments, in order.
    #[doc(hidden)]
    const ARGS: &'static [Arg];

    /// The place of the first argument that can't become bytes.
    #[doc(hidden)]
    fn unencodable(args: &Self::Args) -> Option<usize>;

    /// Where it is kept how its values can be laid out. `None`: nowhere, and they are always named.
    #[doc(hidden)]
    fn layouts() -> Option<&'static Layouts> {
        None
    }
}

/// A function that can be called from every actor of its program. [`#[rpc]`](macro@crate::rpc) makes one.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// # let frank = an.start_actor("frank").await?;
/// use teamster::{Call, Endpoint, Error, Portal};
///
/// /// Asks again where it is proved that nothing ran.
/// async fn insist<E: Endpoint>(portal: &Portal, call: impl Fn() -> Call<E>) -> Result<E::Output, Error> {
///     match portal.run(call()).await {
///         Err(Error::NotStarted { .. }) => portal.run(call()).await,
///         ended => ended,
///     }
/// }
/// assert_eq!(insist(&frank, || add(1, 2)).await?, 3);
/// # Ok(()) }).await }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a function that actors can call",
    note = "put `#[teamster::rpc]` on it"
)]
pub trait Endpoint: Function {
    /// Runs the function.
    #[doc(hidden)]
    fn invoke(args: Self::Args) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// An endpoint's path: what it is called on the wire and in errors.
pub(crate) fn path_of<E: Function>() -> &'static str {
    E::NAME.unwrap_or_else(type_name::<E>)
}

/// Whether an endpoint's values may be written by position: asked of their types once.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Layouts {
    args: OnceLock<Encoding>,
    output: OnceLock<Encoding>,
    started: OnceLock<Encoding>,
    /// Items to the callee.
    items_in: OnceLock<Encoding>,
    /// Items from the callee.
    items_out: OnceLock<Encoding>,
}

/// Which of a function's types it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Travelling {
    Args,
    Output,
    Started,
    In,
    Out,
}

impl Layouts {
    /// Used by the macros.
    pub const fn new() -> Layouts {
        Layouts {
            args: OnceLock::new(),
            output: OnceLock::new(),
            started: OnceLock::new(),
            items_in: OnceLock::new(),
            items_out: OnceLock::new(),
        }
    }

    fn of(&self, what: Travelling) -> &OnceLock<Encoding> {
        match what {
            Travelling::Args => &self.args,
            Travelling::Output => &self.output,
            Travelling::Started => &self.started,
            Travelling::In => &self.items_in,
            Travelling::Out => &self.items_out,
        }
    }
}

/// How `T`, which is `what` of `E`, is laid out for a reader who takes `want`.
pub(crate) fn layout<E: Function, T: Data>(want: Encoding, what: Travelling) -> Encoding {
    match (want, E::layouts()) {
        (Encoding::Positional, Some(layouts)) => *layouts.of(what).get_or_init(layout_of::<T>),
        _ => Encoding::Named,
    }
}

#[cold]
fn layout_of<T: Data>() -> Encoding {
    // A `Deserialize` that panics at made-up values is no mistake of its author: nobody hears of it.
    let asked = panics::serving(|| std::panic::catch_unwind(codec::is_positional::<T>));
    if asked.is_err() {
        drop(panics::take_note());
    }
    match asked {
        Ok(true) => Encoding::Positional,
        Ok(false) | Err(_) => Encoding::Named,
    }
}

/// One argument of an endpoint.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    pub(crate) name: &'static str,
    pub(crate) type_name: fn() -> &'static str,
}

impl Arg {
    /// Used by the macros.
    pub const fn new<T>(name: &'static str) -> Arg {
        Arg { name, type_name: type_name::<T> }
    }
}

/// The `Result` that an endpoint returns, under whichever name.
///
/// # Examples
///
/// ```
/// use teamster::Fallible;
///
/// fn value<R: Fallible>(result: R) -> Option<R::Ok> {
///     result.into_result().ok()
/// }
/// assert_eq!(value(std::io::Result::Ok(1)), Some(1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is called `Result`, but it is none",
    note = "a return type whose last part is `Result` has to be `std::result::Result`, or an alias of it"
)]
pub trait Fallible {
    /// What it gives when it ends well.
    type Ok;
    /// What it fails with.
    type Err;

    /// Itself, as the type that it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use teamster::Fallible;
    ///
    /// assert_eq!(std::io::Result::Ok(1).into_result().unwrap(), 1);
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "the error is the value's own")]
    fn into_result(self) -> Result<Self::Ok, Self::Err>;
}

impl<T, E> Fallible for Result<T, E> {
    type Ok = T;
    type Err = E;

    fn into_result(self) -> Result<T, E> {
        self
    }
}

/// A call that has not been made yet: an endpoint with its arguments.
///
/// Awaited, it runs here, in this task, and fails with the same [`Error`] type as a remote one.
/// `Portal::run` and its like run it in another actor. A panic of a local run is a panic.
///
/// # Examples
///
/// ```
/// #[teamster::rpc]
/// async fn add(a: i64, b: i64) -> i64 {
///     a + b
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), teamster::Error> {
/// assert_eq!(add(1, 2).await?, 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "a call does nothing until it is awaited or handed to an actor"]
pub struct Call<E: Endpoint> {
    pub(crate) args: E::Args,
}

impl<E: Endpoint> Call<E> {
    /// Used by the macros: call the function itself.
    #[doc(hidden)]
    pub fn new(args: E::Args) -> Self {
        Call { args }
    }

    /// The endpoint's path, as errors and logs name it.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
    /// assert!(add(1, 2).endpoint().ends_with("::add"));
    /// ```
    pub fn endpoint(&self) -> &'static str {
        path_of::<E>()
    }
}

/// Appends the arguments as bytes, and tells how their structs are laid out.
pub(crate) fn encode_args<E: Function>(
    args: &E::Args,
    want: Encoding,
    out: &mut Vec<u8>,
) -> Result<Encoding, CodecError> {
    encode_args_with::<E>(args, want, out, None)
}

/// The same; and large byte strings go to `spill`, where there is one, as far as that takes them.
pub(crate) fn encode_args_with<E: Function>(
    args: &E::Args,
    want: Encoding,
    out: &mut Vec<u8>,
    spill: Option<&mut dyn Spill>,
) -> Result<Encoding, CodecError> {
    let want = layout::<E, E::Args>(want, Travelling::Args);
    codec::encode_with(args, want, out, spill).map_err(|mut failure| {
        let arg = E::unencodable(args).and_then(|index| E::ARGS.get(index));
        failure.type_name = arg.map_or(failure.type_name, |arg| (arg.type_name)());
        if let Some((_arg, rest)) = argument_at(E::ARGS, &failure.path) {
            failure.path = rest.to_owned();
        }
        CodecError::encoding(path_of::<E>(), value_named(arg), failure)
    })
}

/// The result of a call, from the bytes that the callee sent.
pub(crate) fn decode_output<E: Function>(bytes: &[u8]) -> Result<E::Output, CodecError> {
    codec::decode(bytes).map_err(|failure| CodecError::decoding(path_of::<E>(), "the result", failure))
}

/// Adds what only the opener knows to an error that the callee sent: the types that were written.
pub(crate) fn with_both_types<E: Function>(error: Error) -> Error {
    let Error::Codec(codec) = error else { return error };
    let arg = E::ARGS.iter().find(|arg| value_named(Some(arg)) == codec.value());
    match arg {
        Some(arg) => Error::Codec(codec.written_as((arg.type_name)())),
        None if codec.value() == value_named(None) => Error::Codec(codec.written_as(type_name::<E::Args>())),
        None => Error::Codec(codec),
    }
}

fn value_named(arg: Option<&Arg>) -> String {
    match arg {
        Some(arg) => format!("the argument `{}`", arg.name),
        None => "the arguments".to_owned(),
    }
}

impl<E: Endpoint<Args: Clone>> Clone for Call<E> {
    fn clone(&self) -> Self {
        Call { args: self.args.clone() }
    }
}

impl<E: Endpoint> fmt::Debug for Call<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", path_of::<E>())
    }
}

impl<E: Endpoint> IntoFuture for Call<E> {
    type Output = Result<E::Output, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { E::invoke(self.args).await.map_err(Failure::into_error) })
    }
}

/// How a dialog with an endpoint goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    /// One call, one result. And many, one after the other.
    Rpc(RunFn, RunRowFn),
    /// A task with a stream beside it.
    Context(ContextFn),
}

/// As [`RunFn`], with the callee's side of the context.
pub(crate) type ContextFn = fn(&[u8], Encoding, Arc<ContextCore>) -> Result<BoxFuture<'static, RunResult>, CodecError>;

/// Decodes the arguments and makes the task, which gives the result as bytes.
///
/// The second argument says how the result is wanted; structs of it are laid out so where their types allow it.
///
/// # Errors
///
/// The bytes are not the arguments; the error says which one.
pub(crate) type RunFn = fn(&[u8], Reply) -> Result<BoxFuture<'static, RunResult>, CodecError>;

/// Runs a function for one call after another.
pub(crate) type RunRowFn = for<'r> fn(&'r mut (dyn Row + Send)) -> BoxFuture<'r, ()>;

/// Calls of one function that are run one after the other, and what comes of them.
pub(crate) trait Row {
    /// The arguments of the next call. `None`: no other one begins.
    fn next(&mut self) -> Option<&[u8]>;

    /// What the call has left to be done before its result is told.
    fn clean_up(&self) -> Option<BoxFuture<'static, ()>>;

    /// What has come of the call: the bytes of its result. Whether another one may follow.
    fn ended(&mut self, ended: Result<&[u8], Failure>) -> bool;
}

/// The result's bytes and how they are laid out really: a type that skips fields is always named.
pub(crate) type RunResult = Result<(Vec<u8>, Encoding), Failure>;

/// One endpoint of this program, with its type erased.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registration {
    pub(crate) path: fn() -> &'static str,
    pub(crate) location: &'static str,
    pub(crate) args: &'static [Arg],
    pub(crate) output: fn() -> &'static str,
    pub(crate) run: Run,
}

impl Registration {
    /// The entry of a function that is run so.
    pub(crate) const fn of<F: Function>(run: Run) -> Registration {
        Registration { path: path_of::<F>, location: F::LOCATION, args: F::ARGS, output: type_name::<F::Output>, run }
    }
}

/// Every endpoint of this program.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static ENDPOINTS: [Registration];

/// The entry for one endpoint.
#[doc(hidden)]
pub const fn register<E: Endpoint>() -> Registration {
    Registration::of::<E>(Run::Rpc(run::<E>, run_row::<E>))
}

fn run<E: Endpoint>(bytes: &[u8], reply: Reply) -> Result<BoxFuture<'static, RunResult>, CodecError> {
    let args: E::Args = decode_args::<E>(bytes)?;
    Ok(Box::pin(async move {
        let output = E::invoke(args).await?;
        match &reply.answer {
            None => encode_output::<E>(&output, reply.encoding),
            Some(answer) => encode_parcel::<E>(&output, reply.encoding, &**answer),
        }
    }))
}

/// All of it is one task, and one that takes no memory for a call but what its values need.
fn run_row<E: Endpoint>(row: &mut (dyn Row + Send)) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        let mut bytes = Vec::new();
        while let Some(args) = row.next() {
            bytes.clear();
            let call = async {
                let args = decode_args::<E>(args).map_err(Failure::codec)?;
                let output = E::invoke(args).await?;
                append_output::<E>(&output, Encoding::Positional, &mut bytes)
            };
            let ended = AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| Err(Failure::caught(panic)));
            if let Some(clean_up) = row.clean_up() {
                clean_up.await;
            }
            if !row.ended(ended.map(|_used| &bytes[..])) {
                break;
            }
        }
    })
}

/// The result as bytes.
pub(crate) fn encode_output<E: Function>(output: &E::Output, want: Encoding) -> RunResult {
    let mut bytes = Vec::new();
    append_output::<E>(output, want, &mut bytes).map(|used| (bytes, used))
}

fn append_output<E: Function>(output: &E::Output, want: Encoding, bytes: &mut Vec<u8>) -> Result<Encoding, Failure> {
    let want = layout::<E, E::Output>(want, Travelling::Output);
    codec::encode_into(output, want, bytes)
        .map_err(|failure| Failure::codec(CodecError::encoding(path_of::<E>(), "the result", failure)))
}

/// The same, for an opener to whom large byte strings go by shared memory.
#[cold]
fn encode_parcel<E: Function>(output: &E::Output, want: Encoding, answer: &dyn Answer) -> RunResult {
    let want = layout::<E, E::Output>(want, Travelling::Output);
    let encoded = answer.encode(&mut |out, spill| codec::encode_with(output, want, out, Some(spill)));
    encoded.map_err(|failure| Failure::codec(CodecError::encoding(path_of::<E>(), "the result", failure)))
}

/// An empty array, and nil, in msgpack.
const NO_ARGS: &[u8] = &[0x90];
const NIL: &[u8] = &[0xc0];

pub(crate) fn decode_args<E: Function>(bytes: &[u8]) -> Result<E::Args, CodecError> {
    // No arguments are `()`, which another language may well write as an empty array.
    let bytes = if E::ARGS.is_empty() && bytes == NO_ARGS { NIL } else { bytes };
    codec::decode(bytes).map_err(|mut failure| match argument_at(E::ARGS, &failure.path) {
        Some((arg, rest)) => {
            failure.type_name = (arg.type_name)();
            failure.path = rest.to_owned();
            CodecError::decoding(path_of::<E>(), value_named(Some(arg)), failure)
        }
        None => CodecError::decoding(path_of::<E>(), value_named(None), failure),
    })
}

/// Which argument a path into the tuple of all of them begins with: `[1].items[3]`.
fn argument_at<'a>(args: &'static [Arg], path: &'a str) -> Option<(&'static Arg, &'a str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    let arg = args.get(index.parse::<usize>().ok()?)?;
    Some((arg, rest.strip_prefix('.').unwrap_or(rest)))
}

/// The endpoints of this program by path.
#[derive(Debug)]
pub(crate) struct Endpoints {
    by_path: HashMap<&'static str, Found>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    One(&'static Registration),
    /// Two of them, or more.
    Ambiguous {
        first: &'static str,
        second: &'static str,
    },
}

impl Endpoints {
    /// Those of this program: made at the first use, read without a lock.
    pub(crate) fn of_program() -> &'static Endpoints {
        static INDEX: OnceLock<Endpoints> = OnceLock::new();
        INDEX.get_or_init(|| Endpoints::index(ENDPOINTS))
    }

    fn index(entries: impl IntoIterator<Item = &'static Registration>) -> Endpoints {
        let mut by_path = HashMap::new();
        for entry in entries {
            by_path
                .entry((entry.path)())
                .and_modify(|found| {
                    if let Found::One(first) = *found {
                        *found = Found::Ambiguous { first: first.location, second: entry.location };
                    }
                })
                .or_insert(Found::One(entry));
        }
        Endpoints { by_path }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Found> {
        self.by_path.get(path).copied()
    }

    /// The same path, for as long as the program runs.
    pub(crate) fn kept(&self, path: &str) -> &'static str {
        /// Paths of other programs: as many as there are functions that somebody calls so.
        static OTHERS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        if let Some((own, _)) = self.by_path.get_key_value(path) {
            return own;
        }
        let mut others = OTHERS.lock();
        match others.get(path) {
            Some(kept) => kept,
            None => {
                let kept: &'static str = Box::leak(path.into());
                others.insert(kept);
                kept
            }
        }
    }

    /// Those that their path leads to, in no order.
    pub(crate) fn callable(&self) -> impl Iterator<Item = &'static Registration> {
        self.by_path.values().filter_map(|found| match found {
            Found::One(registration) => Some(*registration),
            Found::Ambiguous { .. } => None,
        })
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use teamster::rpc;

    #[derive(Clone, Serialize, Deserialize)]
    struct Order {
        items: Vec<u8>,
    }

    #[rpc]
    async fn add(a: i64, b: i64) -> i64 {
        a + b
    }

    #[rpc(name = "shop.size")]
    async fn size(shop: String, order: Order) -> usize {
        shop.len() + order.items.len()
    }

    #[rpc]
    async fn no_map_key() -> std::collections::HashMap<Vec<u8>, Unencodable> {
        [(vec![1], Unencodable)].into()
    }

    #[derive(Deserialize)]
    struct Unencodable;

    impl Serialize for Unencodable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it is a secret"))
        }
    }

    mod first {
        #[teamster::rpc(name = "twice")]
        async fn one() {}
    }

    mod second {
        #[teamster::rpc(name = "twice")]
        async fn two() {}
    }

    fn found(path: &str) -> &'static Registration {
        match Endpoints::of_program().find(path) {
            Some(Found::One(entry)) => entry,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn run_with<A: Serialize>(path: &str, args: &A) -> Result<i64, String> {
        let mut bytes = Vec::new();
        codec::encode_into(args, Encoding::Positional, &mut bytes).expect("the arguments");
        let Run::Rpc(run, _) = found(path).run else { panic!("{path} is a context") };
        let task = run(&bytes, Encoding::Positional.into()).map_err(|error| error.to_string())?;
        let (bytes, _) = futures::executor::block_on(task).map_err(|failure| format!("{failure:?}"))?;
        codec::decode(&bytes).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_call_runs_here_when_it_is_awaited() {
        let sum = futures::executor::block_on(async { add(1, 2).await });
        assert_eq!(sum.expect("add can't fail"), 3);
        assert_eq!(add(1, 2).endpoint(), "teamster::actor::endpoint::tests::add");
        assert_eq!(format!("{:?}", size("a".into(), Order { items: vec![] })), "Call(shop.size)");
    }

    #[test]
    fn an_endpoint_is_found_by_its_path_and_runs_on_bytes() {
        assert_eq!(run_with("teamster::actor::endpoint::tests::add", &(40, 2)), Ok(42));
        assert_eq!(run_with("shop.size", &("ab", Order { items: vec![1] })), Ok(3));
        assert!(Endpoints::of_program().find("no.such").is_none());
        let here = found("shop.size").location;
        assert!(here.starts_with("src/actor/endpoint.rs:") && here.ends_with(":14"), "{here}");
    }

    #[test]
    fn a_path_with_two_owners_leads_to_neither_and_names_both() {
        match Endpoints::of_program().find("twice") {
            Some(Found::Ambiguous { first, second }) => assert_ne!(first, second),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_that_do_not_decode_name_the_one_that_is_wrong() {
        let told = run_with("shop.size", &("ab", (vec!["x"],))).expect_err("a text is no byte");
        let wanted = "the argument `order` of shop.size could not be decoded as \
                      `teamster::actor::endpoint::tests::Order`, at `items[0]`: ";
        assert!(told.starts_with(wanted), "{told}");
        let told = run_with("shop.size", &7).expect_err("a number is no tuple");
        assert!(told.starts_with("the arguments of shop.size could not be decoded as `("), "{told}");
    }

    #[test]
    fn values_go_by_position_where_their_types_can_be_read_so() {
        #[derive(Serialize, Deserialize)]
        #[serde(untagged)]
        enum Either {
            Point { x: i32, y: i32 },
        }
        #[rpc]
        async fn pick(one: Either) -> teamster::Portal {
            let Either::Point { x: _, y: _ } = one;
            unreachable!("it is only asked of its types")
        }
        fn of_both<E: Endpoint>(_: &Call<E>, want: Encoding) -> (Encoding, Encoding) {
            let args = layout::<E, E::Args>(want, Travelling::Args);
            (args, layout::<E, E::Output>(want, Travelling::Output))
        }
        let call = pick(Either::Point { x: 1, y: 2 });
        for _ in 0..2 {
            assert_eq!(of_both(&call, Encoding::Positional), (Encoding::Named, Encoding::Positional));
            assert_eq!(of_both(&call, Encoding::Named), (Encoding::Named, Encoding::Named));
        }
    }

    #[test]
    fn an_argument_that_can_not_be_encoded_is_named() {
        #[rpc]
        async fn keep(_count: u8, secret: Unencodable) {
            let _unused = secret;
        }
        let mut bytes = vec![1];
        let refused =
            encode_args::<keep>(&keep(1, Unencodable).args, Encoding::Named, &mut bytes).expect_err("it refuses");
        assert_eq!((refused.value(), refused.message()), ("the argument `secret`", "it is a secret"));
        assert_eq!(refused.writer_type(), Some("teamster::actor::endpoint::tests::Unencodable"));
    }

    #[test]
    fn the_opener_adds_the_type_that_it_wrote() {
        let failure = codec::decode::<u8>(&[0xa0]).expect_err("a text is no byte");
        let sent = CodecError::decoding("shop.size", "the argument `order`", failure);
        fn told<E: Endpoint>(_: &Call<E>, sent: CodecError) -> String {
            with_both_types::<E>(Error::Codec(sent)).to_string()
        }
        let text = told(&size("a".into(), Order { items: vec![] }), sent);
        assert!(text.contains("(sent as `teamster::actor::endpoint::tests::Order`, wanted as `u8`)"), "{text}");
    }

    #[test]
    fn a_result_that_can_not_be_encoded_is_a_codec_error() {
        let told = run_with("teamster::actor::endpoint::tests::no_map_key", &()).expect_err("it refuses");
        assert!(told.contains("it is a secret") && told.contains("the result"), "{told}");
    }

    #[test]
    #[should_panic(expected = "a bug")]
    fn a_panic_of_a_local_call_goes_on() {
        #[rpc]
        async fn broken() {
            panic!("a bug")
        }
        let _: Result<(), Error> = futures::executor::block_on(broken().into_future()); // it does not return
    }
}
