//! Where is the actor of this name?
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use teamster_macros::rpc;

use crate::actor::current;
use crate::discovery::client::{Client, Found};
use crate::discovery::kept::Kept;
use crate::error::Error;
use crate::portal::Portal;

/// The newest living actor of this name, in this tree or another one of this user on this host. With a cluster's etcd as the
/// registrar: in all trees that name the same one.
///
/// A dead actor is never found; only one of another tree on another host may be, until its key is deleted there, or its
/// root's lease has ended.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor, [`Error::Transport`] if no registrar answers within 1 s, or no etcd does and the
/// own tree has no such name.
///
/// # Cancel safety
///
/// Dropping the future loses nothing.
///
/// # Examples
///
/// ```
/// # #[teamster::rpc] async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let name = format!("adder-{}", std::process::id()); // other trees have their own
/// an.start_actor(&name).await?;
/// let adder = teamster::find_actor(&name).await?.expect("it lives");
/// assert_eq!(adder.run(add(1, 2)).await?, 3);
/// # Ok(()) }).await }
/// ```
pub async fn find_actor(name: &str) -> Result<Option<Portal>, Error> {
    match registrar()? {
        Asked::Here(registrar) => {
            let found = registrar.find(name).await.map_err(|error| failed(name, &error))?;
            Ok(found.map(portal))
        }
        Asked::Root(root) => root.run(find_there(name.to_owned())).await.map_err(|error| unasked(name, error)),
    }
}

/// Every living actor of this name, the newest first.
///
/// # Errors
///
/// As [`find_actor`].
///
/// # Cancel safety
///
/// Dropping the future loses nothing.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.start_actors(["twin", "twin"]).await?;
/// assert!(teamster::find_actors("twin").await?.len() >= 2);
/// # Ok(()) }).await }
/// ```
pub async fn find_actors(name: &str) -> Result<Vec<Portal>, Error> {
    match registrar()? {
        Asked::Here(registrar) => {
            let found = registrar.find_all(name).await.map_err(|error| failed(name, &error))?;
            Ok(found.into_iter().map(portal).collect())
        }
        Asked::Root(root) => root.run(find_all_there(name.to_owned())).await.map_err(|error| unasked(name, error)),
    }
}

/// Every living actor that serves, of this tree and this user's others on this host, or of all in the cluster.
///
/// # Errors
///
/// As [`find_actor`].
///
/// # Cancel safety
///
/// Dropping the future loses nothing.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// an.start_actor("frank").await?;
/// for actor in teamster::list_actors().await? {
///     println!("{}", actor.aid());
/// }
/// # Ok(()) }).await }
/// ```
pub async fn list_actors() -> Result<Vec<Portal>, Error> {
    match registrar()? {
        Asked::Here(registrar) => {
            let found = registrar.list().await.map_err(|error| failed(ALL, &error))?;
            Ok(found.into_iter().map(portal).collect())
        }
        Asked::Root(root) => root.run(list_there()).await.map_err(|error| unasked(ALL, error)),
    }
}

/// Waits until an actor of this name serves, and gives the newest.
///
/// Nothing polls meanwhile. There is no timeout: [`deadline`](crate::deadline) sets one.
///
/// # Errors
///
/// As [`find_actor`]; waiting by itself never times out.
///
/// # Cancel safety
///
/// Dropping the future ends the waiting, in the registrar too.
///
/// # Examples
///
/// ```
/// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
/// let (waited, started) = tokio::join!(teamster::wait_for_actor("latecomer"), an.start_actor("latecomer"));
/// println!("{} is there", waited?.aid());
/// # started?;
/// # Ok(()) }).await }
/// ```
pub async fn wait_for_actor(name: &str) -> Result<Portal, Error> {
    match registrar()? {
        Asked::Here(registrar) => registrar.wait(name).await.map(portal).map_err(|error| failed(name, &error)),
        Asked::Root(root) => root.run(wait_there(name.to_owned())).await.map_err(|error| unasked(name, error)),
    }
}

/// What is looked up where all are.
const ALL: &str = "all actors";

/// Who is asked.
enum Asked {
    /// The registrar of this tree, which is on this host.
    Here(Client),
    /// Its root, on another one.
    Root(Portal),
}

fn registrar() -> Result<Asked, Error> {
    let actor = current::actor()?;
    match (&actor.registrar, &actor.root_addrs) {
        (Some(registrar), _) => Ok(Asked::Here(Client::new(registrar.clone(), actor.table::<Kept>()))),
        (None, Some(root_addrs)) => Ok(Asked::Root(Portal::to(actor.root.clone(), Some(root_addrs.clone())))),
        (None, None) => Err(Error::Usage("this tree has no registrar")),
    }
}

/// The root's own answer is one as if it had come from a registrar here.
fn unasked(name: &str, error: Error) -> Error {
    match error {
        Error::Remote(remote) => failed(name, &remote),
        error => error,
    }
}

#[rpc(name = "teamster.find")]
async fn find_there(name: String) -> Result<Option<Portal>, Error> {
    find_actor(&name).await
}

#[rpc(name = "teamster.find_all")]
async fn find_all_there(name: String) -> Result<Vec<Portal>, Error> {
    find_actors(&name).await
}

#[rpc(name = "teamster.list")]
async fn list_there() -> Result<Vec<Portal>, Error> {
    list_actors().await
}

#[rpc(name = "teamster.wait")]
async fn wait_there(name: String) -> Result<Portal, Error> {
    wait_for_actor(&name).await
}

fn portal(found: Found) -> Portal {
    Portal::to(found.aid, Some(found.addrs))
}

fn failed(name: &str, error: &impl std::fmt::Display) -> Error {
    Error::Transport { what: format!("looking up {name}"), reason: error.to_string() }
}
