//! Who gives an actor what it shows on a network? The root's authority, to whoever starts one.
#![allow(unsafe_code, reason = "the registry is a link section, and in its own crate the lint sees that")]
use std::io;
use std::sync::Arc;

use teamster_macros::rpc;
use uuid::Uuid;

use crate::actor::renewal::{ASKS, Ask};
use crate::actor::{Actor, current};
use crate::msg::addr::{Addr, Transport};
use crate::msg::agent::{EnvoySpec, ORDERS, Order};
use crate::msg::ident::Aid;
use crate::msg::spec::Credentials;
use crate::portal::Portal;
use crate::spawn::agent::{self, Agent};

/// Sees to it that a child of these transports can connect to `actor`, from another host if it `is_far`; what the child
/// will show.
pub(super) async fn prepare(
    actor: &Arc<Actor>,
    transports: &[Transport],
    child: Uuid,
    is_far: bool,
) -> Result<Option<Credentials>, String> {
    if transports.is_empty() {
        return Err("it was given no transport to listen by".to_owned());
    }
    let told = |error: io::Error| error.to_string();
    let is_secured = transports.iter().any(|transport| transport.is_secured());
    let credentials = match is_secured {
        true => Some(issue(actor, child).await?),
        false => None,
    };
    // What the child is given is of the newest identity, by which it may not believe what was shown before.
    if let Some(credentials) = &credentials
        && actor.doors.edition() != Some(credentials.edition)
    {
        let own = issue(actor, actor.aid.uuid()).await?;
        actor.doors.show(&own).map_err(told)?;
    }
    if is_far {
        actor.listen_on_networks(transports).map_err(|error| format!("listening on this host's networks: {error}"))?;
    }
    let is_reached = actor.addrs().as_slice().iter().any(|addr| transports.contains(&addr.transport()));
    if !is_reached && let Some(nearest) = transports.first() {
        actor.listen_by(*nearest).map_err(told)?;
    }
    Ok(credentials)
}

/// What leads an envoy to the agent of a host, for this child.
pub(super) async fn envoy(actor: &Arc<Actor>, agent: &Agent, child: &Aid) -> Result<EnvoySpec, String> {
    let (host, at) = (agent.host(), agent.addr().cloned());
    let identity = agent.shown()?;
    let (addr, credentials) = match &actor.root_addrs {
        None => way_to(actor, host, at)?,
        Some(addrs) => {
            let root = Portal::to(actor.root.clone(), Some(addrs.clone()));
            let asked = root.run(way(host.to_owned(), at)).await;
            asked.map_err(|error| format!("asking the root for the way to {host}: {error}"))??
        }
    };
    let order = Order {
        version: ORDERS,
        actor: child.name().to_owned(),
        uuid: child.uuid(),
        lineage: String::new(),
        grace_ms: 0,
        lost_after_ms: 0,
        executable: String::new(),
        executable_bytes: 0,
        args: Vec::new(),
    };
    Ok(EnvoySpec { host: host.to_owned(), identity, addr, credentials, order })
}

/// In the root: where the agent of this host is, and what an envoy shows to it.
fn way_to(actor: &Arc<Actor>, host: &str, at: Option<Addr>) -> Result<(Addr, Credentials), String> {
    let hosts = &actor.settings.hosts;
    let known = || hosts.iter().find(|(name, _)| name == host).map(|(_, addr)| addr.clone());
    let addr = match at.or_else(known) {
        Some(addr) => addr,
        None => agent::by_name(host)?,
    };
    let authority = actor.doors.authority();
    let credentials =
        authority.and_then(|authority| authority.issue(Uuid::new_v4())).map_err(|error| error.to_string())?;
    match &credentials.identity {
        Some(_) => Ok((addr, credentials)),
        None => Err(format!(
            "the agent of {host} believes identities alone, and this tree has none: `teamster ca issue NAME` makes one, and \
             TEAMSTER_IDENTITY=FOLDER or root().identity(FOLDER) has the root go by it (docs/identity.md)"
        )),
    }
}

async fn issue(actor: &Arc<Actor>, whom: Uuid) -> Result<Credentials, String> {
    let Some(addrs) = &actor.root_addrs else {
        return actor.doors.authority().and_then(|authority| authority.issue(whom)).map_err(|error| error.to_string());
    };
    let root = Portal::to(actor.root.clone(), Some(addrs.clone()));
    root.run(certify(whom)).await.map_err(|error| format!("asking the root for a certificate: {error}"))
}

#[linkme::distributed_slice(ASKS)]
static ASK: Ask = |actor, known| Box::pin(ask(actor, known));

/// Asks the parent, on the line that is there: what the actor has to show may be of no use for a new one.
async fn ask(actor: Arc<Actor>, known: u64) -> Result<Option<Credentials>, String> {
    let parent = actor.parent.as_ref().ok_or("it has no parent")?;
    let parent = Portal::to(parent.aid.clone(), Some(parent.addrs.clone()));
    parent.run(renew(actor.aid.uuid(), known)).await.map_err(|error| format!("asking the parent: {error}"))
}

/// What an actor below is to show, if the root has another edition of the tree's identity than the one it knows.
#[rpc(name = "teamster.renew")]
async fn renew(whom: Uuid, known: u64) -> io::Result<Option<Credentials>> {
    let actor = current::actor().map_err(io::Error::other)?;
    if let Some(parent) = &actor.parent {
        let parent = Portal::to(parent.aid.clone(), Some(parent.addrs.clone()));
        return parent.run(renew(whom, known)).await.map_err(io::Error::other);
    }
    let authority = actor.doors.authority()?;
    match authority.edition() == known {
        true => Ok(None),
        false => authority.issue(whom).map(Some),
    }
}

/// Runs in the root, for those of its tree.
#[rpc(name = "teamster.way")]
async fn way(host: String, at: Option<Addr>) -> io::Result<Result<(Addr, Credentials), String>> {
    Ok(way_to(&current::actor().map_err(io::Error::other)?, &host, at))
}

/// Runs in the root. Who belongs to its tree may ask: it could start actors as well. To others it is not exposed.
#[rpc(name = "teamster.certify")]
async fn certify(whom: Uuid) -> io::Result<Credentials> {
    current::actor().map_err(io::Error::other)?.doors.authority()?.issue(whom)
}
