//! What can be called in this actor?
#![expect(unsafe_code, reason = "the registry is a link section, and the lint sees that")]
use serde::{Deserialize, Serialize};
use teamster_macros::rpc;

use super::current;
use super::endpoint::{Endpoints, Found, Registration, Run};
use super::serve::OWN_ENDPOINTS;
use crate::report::Result;

/// A function that can be called in an actor, as that one tells.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let endpoints = an.start_actor("frank").await?.endpoints().await?;
/// let add = endpoints.iter().find(|endpoint| endpoint.path.ends_with("::add")).expect("it is there");
/// assert_eq!(add.args[1], ("b".to_owned(), "i64".to_owned()));
/// # Ok(()) }).await }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointInfo {
    /// What it is called on the wire and in errors.
    pub path: String,
    /// Its arguments, in order: name and type.
    pub args: Vec<(String, String)>,
    /// The type of its result.
    pub output: String,
    /// It is a context: a task with a stream, which a plain call does not run.
    pub is_context: bool,
}

impl EndpointInfo {
    fn of(registration: &Registration) -> Self {
        let args = registration.args.iter().map(|arg| (arg.name.to_owned(), (arg.type_name)().to_owned()));
        EndpointInfo {
            path: (registration.path)().to_owned(),
            args: args.collect(),
            output: (registration.output)().to_owned(),
            is_context: matches!(registration.run, Run::Context(_)),
        }
    }
}

pub(crate) const CONTEXT_BY_PATH: &str = "a context has a stream: open it by its function, not by its path";

/// Whether this path leads to a context: a caller that knows no types would take its first word for nonsense.
#[rpc(name = "teamster.is_context")]
pub(crate) async fn is_context(path: String) -> bool {
    let found = Endpoints::of_program().find(&path);
    matches!(found, Some(Found::One(Registration { run: Run::Context(_), .. })))
}

/// The path of [`endpoints`].
pub(crate) const ENDPOINTS_PATH: &str = "teamster.endpoints";

/// What others may call here, by path. Our own endpoints are nobody's to call by hand.
#[rpc(name = "teamster.endpoints")]
pub(crate) async fn endpoints() -> Result<Vec<EndpointInfo>> {
    let actor = current::actor()?;
    let callable = Endpoints::of_program().callable().map(EndpointInfo::of);
    let is_shown = |info: &EndpointInfo| !info.path.starts_with(OWN_ENDPOINTS) && actor.exposes(&info.path);
    let mut shown: Vec<EndpointInfo> = callable.filter(is_shown).collect();
    shown.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(shown)
}
