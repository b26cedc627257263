//! Registrars of several hosts, as far as they can tell: each has a folder of its own.
use std::collections::HashSet;
use std::time::Instant;

use crate::actor::host::host_id;
use crate::actor::process::ProcessStat;
use crate::discovery::tests::{find, find_all, list, wait};
use crate::discovery::{DiscoveryError, Registrar};
use crate::msg::addr::Addr;
use crate::msg::ident::Aid;
use crate::transport::folder::{Base, RootFolder};

use super::*;

#[path = "../../../tests/support/etcd.rs"]
mod process;

struct Root {
    registrar: Registrar,
    names: Arc<Names>,
    aid: Aid,
    _folder: RootFolder,
    _base: tempfile::TempDir,
}

impl Root {
    fn start(etcd: &Etcd, name: &str) -> Root {
        Root::try_start(etcd, name).unwrap()
    }

    fn try_start(etcd: &Etcd, name: &str) -> std::io::Result<Root> {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::open_at(&dir.path().join("base")).unwrap();
        let folder = base.make_root().unwrap();
        let names = Names::new();
        let aid = aid(name);
        names.insert(aid.clone(), None, ticks(), None);
        names.set_ready(&aid, Addr::Uds("/root".into()).into());
        let registrar = Registrar::start(&base, folder.path(), Arc::clone(&names), aid.clone(), Some(etcd))?;
        Ok(Root { registrar, names, aid, _folder: folder, _base: dir })
    }

    fn add(&self, name: &str) -> Aid {
        let aid = aid(name);
        self.names.insert(aid.clone(), Some(self.aid.uuid()), ticks(), None);
        self.names.set_ready(&aid, Addr::Uds("/actor".into()).into());
        aid
    }

    async fn find(&self, name: &str) -> Option<Aid> {
        find(&self.registrar.addr(), name).await.unwrap().map(|found| found.aid)
    }

    async fn wait(&self, name: &str) -> Aid {
        within(wait(&self.registrar.addr(), name)).await.unwrap().aid
    }

    async fn all(&self) -> Vec<Uuid> {
        list(&self.registrar.addr()).await.unwrap().into_iter().map(|found| found.aid.uuid()).collect()
    }

    /// Asks until so many are listed, none of them twice.
    async fn lists(&self, count: usize) {
        within(async {
            loop {
                let all = self.all().await;
                let distinct: HashSet<Uuid> = all.iter().copied().collect();
                if (all.len(), distinct.len()) == (count, count) {
                    return;
                }
            }
        })
        .await;
    }
}

fn aid(name: &str) -> Aid {
    Aid::new(name, Uuid::new_v4(), std::process::id(), host_id())
}

fn ticks() -> u64 {
    ProcessStat::read(std::process::id()).unwrap().start_ticks
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("an answer within 60 s")
}

#[tokio::test]
#[ignore = "needs etcd-server"]
async fn trees_with_nothing_in_common_but_etcd_find_each_other() {
    let cluster = process::Cluster::start(1);
    let etcd = Etcd::new(cluster.endpoints()).prefix("/test/");
    let (one, two) = (Root::start(&etcd, "one"), Root::start(&etcd, "two"));
    assert_eq!(two.find("one").await.as_ref(), Some(&one.aid), "a root is there when its boot is over");
    let first = one.add("a/b");
    assert_eq!(two.wait("a/b").await, first);
    let second = two.add("a/b");
    within(async { while one.find("a/b").await.as_ref() != Some(&second) {} }).await;
    let all: Vec<Aid> =
        find_all(&one.registrar.addr(), "a/b").await.unwrap().into_iter().map(|found| found.aid).collect();
    assert_eq!(all, [second.clone(), first.clone()]);
    assert_eq!(one.find("a").await, None);
    two.names.remove(second.uuid());
    assert_eq!(two.find("a/b").await, Some(first.clone()), "in its own tree at once");
    within(async { while one.find("a/b").await != Some(first.clone()) {} }).await;

    let other = Root::start(&Etcd::new(cluster.endpoints()), "other");
    assert_eq!(other.all().await, [other.aid.uuid()], "another prefix");
    let addr = one.registrar.addr();
    let waiting = wait(&addr, "late");
    let starting = async {
        one.find("one").await;
        two.add("late")
    };
    let (found, late) = within(async { tokio::join!(waiting, starting) }).await;
    assert_eq!(found.unwrap().aid, late);
    drop(two);
    assert_eq!((one.find("two").await, one.find("late").await), (None, None), "gone with its root");
    drop((one, other));
    assert_eq!(cluster.keys("/").await, 0);
}

#[tokio::test]
#[ignore = "needs etcd-server"]
async fn five_thousand_names_are_registered_and_listed() {
    let cluster = process::Cluster::start(1);
    let etcd = Etcd::new(cluster.endpoints());
    let (one, two) = (Root::start(&etcd, "one"), Root::start(&etcd, "two"));
    let begun = Instant::now();
    let actors: Vec<Aid> = (0..5000).map(|number| one.add(&format!("actor-{number}"))).collect();
    two.wait("actor-4999").await;
    println!("5000 names are registered after {:?}", begun.elapsed());
    let begun = Instant::now();
    two.lists(5002).await;
    println!("and listed after {:?}", begun.elapsed());
    let newest: Vec<Uuid> = actors.iter().rev().map(Aid::uuid).collect();
    let ours = [one.aid.uuid(), two.aid.uuid()];
    for root in [&one, &two] {
        let listed: Vec<Uuid> = root.all().await.into_iter().filter(|uuid| !ours.contains(uuid)).collect();
        assert!(listed == newest, "the newest first");
    }
    for aid in actors.iter().step_by(500) {
        assert_eq!(two.find(aid.name()).await.as_ref(), Some(aid));
    }
    actors.iter().for_each(|aid| one.names.remove(aid.uuid()));
    two.lists(2).await;
}

#[tokio::test]
#[ignore = "needs etcd-server"]
async fn no_name_is_lost_with_the_leader() {
    let mut cluster = process::Cluster::start(3);
    let etcd = Etcd::new(cluster.endpoints());
    let (one, two) = (Root::start(&etcd, "one"), Root::start(&etcd, "two"));
    let gone: Vec<Aid> = (0..1000).map(|number| one.add(&format!("gone-{number}"))).collect();
    two.wait("gone-999").await;
    for number in 0..2000 {
        one.add(&format!("actor-{number}"));
    }
    gone.iter().for_each(|aid| one.names.remove(aid.uuid()));
    two.wait("actor-0").await; // some of them are there, and most are not
    cluster.kill_leader().await;
    for number in 2000..3000 {
        one.add(&format!("actor-{number}"));
        two.add(&format!("other-{number}"));
    }
    one.wait("other-2999").await;
    two.wait("actor-2999").await;
    one.lists(4002).await;
    two.lists(4002).await;
}

#[tokio::test]
#[ignore = "needs etcd-server"]
async fn without_etcd_lookups_say_so_and_names_come_back_by_themselves() {
    let mut cluster = process::Cluster::start(1);
    let etcd = Etcd::new(cluster.endpoints()).lease(Duration::from_secs(3));
    let (one, two) = (Root::start(&etcd, "one"), Root::start(&etcd, "two"));
    let ann = one.add("ann");
    assert_eq!(two.wait("ann").await, ann);
    let unreachable = async |expected: &str| {
        let begun = Instant::now();
        let error = find(&two.registrar.addr(), "ann").await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let text = error.to_string();
        assert!(matches!(error, DiscoveryError::Cluster { .. }) && text.contains(expected), "{text}");
        assert_eq!(one.find("ann").await.as_ref(), Some(&ann), "its own names are at hand");
    };
    // It is there and says nothing.
    let pid = rustix::process::Pid::from_raw(cluster.pids()[0].cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    within(async {
        while ProcessStat::read(cluster.pids()[0]).is_none_or(|stat| !stat.is_stopped()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    unreachable("no answer").await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    within(async { while find(&two.registrar.addr(), "ann").await.is_err() {} }).await;
    // It is gone, and has forgotten all when it comes back.
    cluster.kill_all();
    unreachable("refused").await;
    let bob = one.add("bob");
    cluster.wipe();
    cluster.restart();
    assert_eq!(two.wait("bob").await, bob);
    assert_eq!(two.wait("ann").await, ann);
    assert_eq!(one.wait("two").await, two.aid);
    // And with all that it knew.
    cluster.kill_all();
    one.names.remove(bob.uuid());
    let eve = one.add("eve");
    cluster.restart();
    assert_eq!(two.wait("eve").await, eve);
    within(async { while two.find("bob").await.is_some() {} }).await;
}

#[tokio::test]
#[ignore = "needs etcd-server"]
async fn a_boot_is_held_up_for_a_second_at_most_and_by_a_refusal_for_good() {
    let nowhere = Etcd::new(["http://127.0.0.1:1"]);
    let begun = Instant::now();
    let root = Root::start(&nowhere, "root");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(root.find("root").await.as_ref(), Some(&root.aid));
    let error = find(&root.registrar.addr(), "ann").await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1: ") && error.contains("is it running there"), "{error}");

    let cluster = process::Cluster::start(1);
    let mut admin = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    admin.user_add("root", "right", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let etcd = Etcd::new(cluster.endpoints());
    for wrong in [etcd.clone(), etcd.clone().user("root", "wrong")] {
        let Err(error) = Root::try_start(&wrong, "root") else { panic!("it is let in") };
        assert!(error.to_string().contains("etcd has refused") && error.to_string().contains("Etcd::user"), "{error}");
    }
    let one = Root::start(&etcd.clone().user("root", "right"), "one");
    let two = Root::start(&etcd.user("root", "right"), "two");
    assert_eq!(one.find("two").await, Some(two.aid));
}
