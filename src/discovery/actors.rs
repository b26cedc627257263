//! Where is the actor of this name?
use crate::actor::current;
use crate::discovery::DiscoveryError;
use crate::discovery::client::{self, Found};
use crate::error::Error;
use crate::msg::addr::Addr;
use crate::portal::Portal;

/// The newest living actor of this name, in this tree or another one of this user on this host.
///
/// A dead actor is never found.
///
/// # Errors
///
/// [`Error::Usage`] outside of every actor, [`Error::Transport`] if no registrar answers within 1 s.
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
    let found = client::find(&registrar()?, name).await.map_err(|error| failed(name, &error))?;
    Ok(found.map(portal))
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
    let found = client::find_all(&registrar()?, name).await.map_err(|error| failed(name, &error))?;
    Ok(found.into_iter().map(portal).collect())
}

/// Every living actor that serves, of this tree and this user's others on this host.
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
    let found = client::list(&registrar()?).await.map_err(|error| failed("all actors", &error))?;
    Ok(found.into_iter().map(portal).collect())
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
    let found = client::wait(&registrar()?, name).await.map_err(|error| failed(name, &error))?;
    Ok(portal(found))
}

fn registrar() -> Result<Addr, Error> {
    let actor = current::actor()?;
    actor.registrar.clone().ok_or(Error::Usage("this tree has no registrar"))
}

fn portal(found: Found) -> Portal {
    Portal::to(found.aid, Some(found.addrs))
}

fn failed(name: &str, error: &DiscoveryError) -> Error {
    Error::Transport { what: format!("looking up {name}"), reason: error.to_string() }
}
