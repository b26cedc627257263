//! How does somebody outside of a tree call its actors, wherever these are? One on this host by its socket, any other by the root,
//! which is known there.
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use teamster_macros::rpc;

use super::trees::{Tree, TreeActor};
use crate::actor::catalog::{self, EndpointInfo};
use crate::actor::endpoint::Endpoints;
use crate::actor::serve::OWN_ENDPOINTS;
use crate::error::{CodecError, Error};
use crate::msg::addr::Addr;
use crate::msg::codec;
use crate::msg::frame::Encoding;
use crate::portal::{Portal, kept};
use crate::report::Result;
use crate::transport::folder::socket_path;

impl Tree {
    /// Calls an endpoint of one of this tree's actors by its path, as [`Portal::run_by_path`] does, wherever the actor is.
    ///
    /// One that has no socket on this host is called by its root, on behalf of the actor that this code is part of: it needs no identity and
    /// no network of its own. The deadline and a dropped future count over there as ever, and an error names the root as
    /// the one that has relayed it. What the actor does not expose is not exposed by this way either.
    ///
    /// # Errors
    ///
    /// Those of [`Portal::run_by_path`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call.
    ///
    /// # Examples
    ///
    /// ```
    /// #[teamster::rpc(name = "stock.add")]
    /// async fn add(a: i64, b: i64) -> i64 { a + b }
    ///
    /// # #[teamster::main] async fn main() -> Result<(), teamster::Error> { teamster::open_nursery(async |an| {
    /// let frank = an.start_actor("frank").await?;
    /// let trees = teamster::discovery::trees()?;
    /// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    /// let found = own.actors.iter().find(|actor| actor.aid == *frank.aid()).expect("it lives");
    /// let sum: i64 = own.run_by_path(found, "stock.add", (1, 2)).await?;
    /// assert_eq!(sum, 3);
    /// # Ok(()) }).await }
    /// ```
    pub async fn run_by_path<A, T>(&self, actor: &TreeActor, path: &str, args: A) -> Result<T, Error>
    where
        A: Serialize + Send,
        T: DeserializeOwned,
    {
        let root = match self.way_to(actor) {
            Way::Direct(portal) => return portal.run_by_path(path, args).await,
            Way::ByRoot(root) => root,
        };
        let mut encoded = Vec::new();
        codec::encode_into(&args, Encoding::Named, &mut encoded)
            .map_err(|failure| Error::Codec(CodecError::encoding(kept(path), "the arguments", failure)))?;
        let bytes = root.run(relay(actor.far_portal(), path.to_owned(), encoded.into())).await?;
        codec::decode(&bytes).map_err(|failure| Error::Codec(CodecError::decoding(kept(path), "the result", failure)))
    }

    /// What may be called in one of this tree's actors, by path, wherever it is: as [`Portal::endpoints`].
    ///
    /// # Errors
    ///
    /// Those of [`Portal::endpoints`].
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
    /// let trees = teamster::discovery::trees()?;
    /// let own = trees.iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    /// for endpoint in own.endpoints(&own.actors[0]).await? {
    ///     println!("{} -> {}", endpoint.path, endpoint.output);
    /// }
    /// # Ok(()) }).await }
    /// ```
    pub async fn endpoints(&self, actor: &TreeActor) -> Result<Vec<EndpointInfo>, Error> {
        let root = match self.way_to(actor) {
            Way::Direct(portal) => return portal.endpoints().await,
            Way::ByRoot(root) => root,
        };
        let path = catalog::ENDPOINTS_PATH;
        let bytes = root.run(relay(actor.far_portal(), path.to_owned(), NO_ARGUMENTS.into())).await?;
        codec::decode(&bytes).map_err(|failure| Error::Codec(CodecError::decoding(path, "the result", failure)))
    }

    fn way_to(&self, actor: &TreeActor) -> Way {
        match (self.socket_of(actor), self.actors.first().and_then(|root| self.socket_of(root))) {
            (None, Some(root)) => Way::ByRoot(root),
            (direct, _) => Way::Direct(direct.unwrap_or_else(|| actor.far_portal())),
        }
    }

    /// An actor of this host by its Unix socket, which it has whatever else it listens at: so it knows that its own user asks.
    fn socket_of(&self, actor: &TreeActor) -> Option<Portal> {
        let path = Some(socket_path(&self.folder, actor.aid.uuid())).filter(|path| actor.is_here && path.exists())?;
        Some(Portal::to(actor.aid.clone(), Some(Addr::Uds(path).into())))
    }
}

enum Way {
    Direct(Portal),
    ByRoot(Portal),
}

impl TreeActor {
    fn far_portal(&self) -> Portal {
        Portal::to(self.aid.clone(), Some(self.addrs.clone()))
    }
}

/// An empty array of msgpack.
const NO_ARGUMENTS: &[u8] = &[0x90];

/// Calls another actor of the root's tree with what somebody outside has encoded, and gives its result as it came.
#[rpc(name = "teamster.relay")]
async fn relay(to: Portal, path: String, args: Bytes) -> Result<Bytes> {
    let aid = to.aid().clone();
    if path.starts_with(OWN_ENDPOINTS) && path != catalog::ENDPOINTS_PATH {
        return Err(Error::NotExposed { endpoint: path, aid }.into());
    }
    // All actors of a tree are of one program. What is in none of them is not remembered.
    if Endpoints::of_program().find(&path).is_none() {
        return Err(Error::NoSuchEndpoint { endpoint: path, aid }.into());
    }
    Ok(to.run_encoded(&path, args.into()).await?.into())
}
