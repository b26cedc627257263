//! Who is in etcd?
//!
//! Every look-up reads etcd itself, so no answer is older than what anybody was told before. What is known better here goes
//! before it: the own tree by its own table, other processes of this host by the kernel.
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, EventType, GetOptions, GetResponse, KeyValue, SortOrder, SortTarget, WatchFilterType, WatchOptions,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Cluster;
use super::keys::{self, Registered, Revision};
use super::members::Failure;
use super::register::BATCH;
use crate::discovery::lookup::GAP;
use crate::discovery::table::{Liveness, Place, Record};

/// Some of the cluster's names, the newest first.
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) has_more: bool,
    /// What etcd had seen when it was asked.
    revision: Revision,
}

/// The newest living actor of this name.
pub(super) async fn find(cluster: &Cluster, name: &str) -> Result<Option<Record>, Failure> {
    let found = page(cluster, Some(name), None, FEW).await?;
    Ok(found.records.into_iter().next())
}

/// Living actors of this name (`None`: of any) behind `after`; none, if there are no more.
pub(super) async fn list(cluster: &Cluster, name: Option<&str>, after: Option<Place>) -> Result<Page, Failure> {
    page(cluster, name, after, MANY).await
}

/// As `find`, and waits until there is one, as long as etcd may be away.
pub(super) async fn wait(cluster: &Cluster, name: &str) -> Record {
    loop {
        let seen = match page(cluster, Some(name), None, FEW).await {
            Ok(Page { records, revision, .. }) => match records.into_iter().next() {
                Some(record) => return record,
                None => watch(cluster, name, revision).await,
            },
            Err(failure) => Err(failure),
        };
        if seen.is_err() {
            tokio::time::sleep(PAUSE).await; // whoever registers our names logs what is wrong
        }
    }
}

async fn page(cluster: &Cluster, name: Option<&str>, after: Option<Place>, mut limit: i64) -> Result<Page, Failure> {
    let deadline = Instant::now() + GAP;
    // Before etcd is asked: what gets there in the meantime is neither missed nor seen twice.
    let ours = cluster.unregistered(name);
    let on_their_way: HashSet<Uuid> = ours.iter().map(Record::uuid).collect();
    let is_behind = |record: &Record| after.is_none() || record.since() < after;
    let mut records: Vec<Record> = ours.into_iter().map(keys::unregistered).filter(is_behind).collect();
    let mut until = after.and_then(Revision::of);
    loop {
        let mut answer = range(cluster, name, until, limit, deadline).await?;
        let (has_more, mut kvs) = (answer.more(), answer.take_kvs());
        let revision = Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
        let oldest = kvs.last().map_or(0, KeyValue::create_revision);
        if has_more {
            // Those of one revision come in no order: of the last one there may be newer ones behind the limit.
            kvs.retain(|kv| kv.create_revision() > oldest);
        }
        let is_stuck = kvs.is_empty() && limit == MANY; // so many of one revision are not ours
        records.extend(kvs.into_iter().filter_map(|kv| living(cluster, &kv, &on_their_way)).filter(is_behind));
        if !records.is_empty() || !has_more {
            records.sort_by_key(|record| std::cmp::Reverse(record.since()));
            return Ok(Page { records, has_more, revision });
        }
        // Those that were read are dead, and their leases have yet to end.
        until = Some(Revision(if is_stuck { oldest - 1 } else { oldest }));
        limit = MANY;
    }
}

/// The newest keys that are not newer than `until`.
async fn range(
    cluster: &Cluster,
    name: Option<&str>,
    until: Option<Revision>,
    limit: i64,
    deadline: Instant,
) -> Result<GetResponse, Failure> {
    let prefix = name.map_or_else(|| keys::all(&cluster.prefix), |name| keys::of_name(&cluster.prefix, name));
    let mut options =
        GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Descend).with_limit(limit);
    if let Some(Revision(until)) = until {
        options = options.with_max_create_revision(until);
    }
    let get = async |client: Arc<Client>| {
        let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
        kv.get(prefix.as_str(), Some(options.clone())).await
    };
    cluster.members.ask(deadline, get).await
}

/// `None` for what is dead, and for what is no actor, or not the one of its key.
fn living(cluster: &Cluster, kv: &KeyValue, on_their_way: &HashSet<Uuid>) -> Option<Record> {
    let registered = Registered::decode(kv.value())?;
    let record = &registered.record;
    if kv.key() != keys::of_actor(&cluster.prefix, record.aid.name(), record.uuid()).as_bytes() {
        return None;
    }
    let is_alive = match registered.root == cluster.root {
        true => !on_their_way.contains(&record.uuid()) && cluster.names.serves(record.uuid()),
        false => Liveness::of(&record.aid, record.start_ticks, None).is_alive(),
    };
    is_alive.then(|| registered.placed(Revision(kv.create_revision())))
}

/// Returns when a key of this name has been put after `seen`, or when that can't be told any more.
async fn watch(cluster: &Cluster, name: &str, seen: Revision) -> Result<(), Failure> {
    let key = keys::of_name(&cluster.prefix, name);
    let options =
        WatchOptions::new().with_prefix().with_start_revision(seen.0 + 1).with_filters([WatchFilterType::NoDelete]);
    let open = async |client: Arc<Client>| client.watch_client().watch(key.as_str(), Some(options.clone())).await;
    let mut stream = cluster.members.ask(Instant::now() + GAP, open).await?;
    while let Ok(Some(response)) = stream.message().await {
        if response.events().iter().any(|event| event.event_type() == EventType::Put) {
            return Ok(());
        }
        if response.canceled() {
            break; // its history was compacted away, or its member has no leader
        }
    }
    Err(Failure::Unreachable("the watch has ended".to_owned()))
}

/// How many keys of one name are read at first: more are needed only where those that were killed are the newest.
const FEW: i64 = 8;
/// How many keys are read at once. Above those of two revisions, so that the next page has others.
const MANY: i64 = 1000;
const _: () = assert!(MANY > 2 * BATCH as i64);
/// A longer answer is an error: it holds as many records as are read at once, and each is short.
const ANSWER_BYTES: usize = 32 << 20;
/// How long a wait pauses while etcd is out of reach.
const PAUSE: Duration = Duration::from_millis(100);
