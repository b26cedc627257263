//! Who is found in a cluster that has etcd, by trees that share nothing else?
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::discovery::Etcd;
use teamster::{Error, Portal, find_actor, list_actors, rpc, wait_for_actor};

#[path = "support/etcd.rs"]
mod etcd;
#[path = "support/partner.rs"]
mod partner;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn find(name: String) -> teamster::Result<Option<Portal>> {
    Ok(find_actor(&name).await?)
}

/// Programs of this file, in processes of their own.
#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "tree" => partner::exit(tree()),
        other => panic!("no program {other:?}"),
    }
}

/// A root that does what it is told on stdin, in a folder of its own: for other roots it is on another host, as far as they
/// can tell by themselves.
#[teamster::main]
async fn tree() -> Result<(), Error> {
    let root = teamster::root().name(std::env::var("NAME").expect("the test sets it"));
    match std::env::var("MEMBERS") {
        Ok(members) => root.registrar(Etcd::new(members.split(',')).lease(LEASE)).open(serve).await,
        Err(_) => root.open(serve).await, // TEAMSTER_ETCD says it
    }
}

async fn serve(an: &teamster::ActorNursery) -> Result<(), teamster::BoxError> {
    let mut met = None;
    println!("serving {}", std::process::id());
    while let Some(line) = partner::heard().await {
        let (word, name) = line.split_once(' ').expect("a command and a name");
        match word {
            "start" => drop(an.start_actor(name).await?),
            "start_many" => drop(an.start_actors((0..20).map(|number| format!("{name}-{number}"))).await?),
            "end" => drop(find_actor(name).await?.expect("it lives").cancel_actor().await?),
            "meet" => met = Some(wait_for_actor(name).await?),
            _ => {}
        }
        match word {
            "find" => println!("found {}", said(find_actor(name).await)),
            "find_from" => {
                let child = find_actor(name).await?.expect("it lives");
                println!("found {}", said(child.run(find("bob".into())).await));
            }
            "call" => {
                let met = met.as_ref().expect("it was met before");
                println!("called {}", met.run(add(1, 2)).await?);
            }
            "list" => println!("listed {}", list_actors().await?.len()),
            word => println!("{word} done"),
        }
    }
    Ok(())
}

fn said(found: Result<Option<Portal>, Error>) -> String {
    match found {
        Ok(Some(portal)) => portal.aid().name().to_owned(),
        Ok(None) => "nobody".to_owned(),
        Err(error) => format!("error: {error}"),
    }
}

const LEASE: Duration = Duration::from_secs(2);

struct Tree {
    running: partner::Running,
    _folder: tempfile::TempDir,
}

impl Tree {
    fn start(cluster: &etcd::Cluster, name: &str) -> Tree {
        Tree::told_by("MEMBERS", &cluster.endpoints().join(","), name)
    }

    fn told_by(variable: &str, members: &str, name: &str) -> Tree {
        let folder = tempfile::tempdir().expect("there is room");
        let mut command = partner::command("tree");
        command.env(variable, members);
        command.env("NAME", name).env("TEAMSTER_LOG", "info").env("TEAMSTER_DIR", folder.path().join("teamster"));
        let mut running = partner::start(&mut command);
        running.line("serving");
        Tree { running, _folder: folder }
    }

    /// What it answers.
    fn ask(&mut self, line: &str, answer: &str) -> String {
        self.running.say(line);
        self.running.line(answer)
    }

    fn does(&mut self, line: &str) {
        let word = line.split(' ').next().expect("there is one");
        self.ask(line, &format!("{word} done"));
    }

    fn finds(&mut self, name: &str) -> String {
        self.ask(&format!("find {name}"), "found")
    }

    /// Asks until it is so.
    fn sees(&mut self, name: &str, expected: &str) {
        let deadline = Instant::now() + WITHIN;
        loop {
            let found = self.finds(name);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{name:?} is {found}, not {expected}");
        }
    }

    /// Gives what it has logged.
    fn end(mut self) -> String {
        drop(self.running.stdin.take());
        let ended = self.running.child.wait().expect("it is ours");
        let log = self.running.errors();
        assert!(ended.success(), "{log}");
        log
    }

    fn kill(mut self) {
        self.running.child.kill().expect("it is ours");
        self.running.child.wait().expect("it is ours");
    }
}

const WITHIN: Duration = Duration::from_secs(30);

/// A member that is silent, and what the rest of a name's way takes on a busy machine: docs/cluster.md states the first.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10 + 3);

#[test]
#[ignore = "needs etcd-server"]
fn strangers_on_a_host_find_meet_and_call_each_other() {
    let cluster = etcd::Cluster::start(1);
    let (mut one, mut two) =
        (Tree::start(&cluster, "one"), Tree::told_by("TEAMSTER_ETCD", &cluster.endpoints().join(","), "two"));
    one.does("start ann");
    two.does("meet ann");
    assert_eq!(two.ask("call ann", "called"), "3");
    assert_eq!(one.finds("two"), "two");
    one.running.say("meet bob"); // and waits
    two.does("start bob");
    one.running.line("meet done");
    assert_eq!(one.ask("call bob", "called"), "3");
    assert_eq!(one.ask("find_from ann", "found"), "bob", "from below too");
    assert_eq!(one.ask("list all", "listed"), "4");
    two.does("end bob");
    assert_eq!(one.finds("bob"), "nobody", "of this host's processes the kernel knows");
    two.end();
    assert_eq!(one.finds("two"), "nobody");
    one.end();
    assert_eq!(keys(&cluster), 0);
}

#[test]
#[ignore = "needs etcd-server"]
fn the_names_of_a_killed_root_end_with_its_lease() {
    let cluster = etcd::Cluster::start(1);
    let (mut one, mut two) = (Tree::start(&cluster, "one"), Tree::start(&cluster, "two"));
    one.does("start ann");
    two.does("meet ann");
    one.kill();
    two.sees("ann", "nobody");
    let killed = Instant::now();
    while keys(&cluster) > 1 {
        assert!(killed.elapsed() < WITHIN, "{} keys are left", keys(&cluster));
    }
    println!("the lease has ended after {:?}", killed.elapsed());
    two.end();
}

#[test]
#[ignore = "needs etcd-server"]
fn a_leader_that_is_killed_takes_no_name_with_it() {
    let mut cluster = etcd::Cluster::start(3);
    let (mut one, mut two) = (Tree::start(&cluster, "one"), Tree::start(&cluster, "two"));
    one.running.say("start_many ann");
    two.does("meet ann-0");
    block_on(cluster.kill_leader());
    one.running.line("start_many done");
    two.does("start_many bob");
    for number in 0..20 {
        two.does(&format!("meet ann-{number}"));
        one.does(&format!("meet bob-{number}"));
    }
    assert_eq!(one.ask("list all", "listed"), "42");
    one.end();
    two.end();
    assert_eq!(keys(&cluster), 0);
}

/// The one that all of them ask first, and wait by: its host is frozen, and nothing ends.
#[test]
#[ignore = "needs etcd-server"]
fn a_member_that_stands_still_holds_up_no_name() {
    let cluster = etcd::Cluster::start(3);
    let (mut one, mut two) = (Tree::start(&cluster, "one"), Tree::start(&cluster, "two"));
    one.does("start ann");
    two.does("meet ann");
    two.running.say("meet bob");
    while cluster.watches(0) == 0 {} // it waits there now
    let frozen = Pid::from_raw(cluster.pids()[0].cast_signed()).expect("it runs");
    kill_process(frozen, Signal::STOP).expect("it is ours");
    let begun = Instant::now();
    one.does("start bob");
    one.sees("bob", "bob");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    two.running.line("meet done");
    assert!(begun.elapsed() < GIVEN_UP_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(two.ask("call bob", "called"), "3");
    two.does("start_many eve");
    for number in 0..20 {
        one.does(&format!("meet eve-{number}"));
    }
    kill_process(frozen, Signal::CONT).expect("it is ours");
    assert_eq!(one.ask("list all", "listed"), "24");
    one.end();
    two.end();
}

#[test]
#[ignore = "needs etcd-server"]
fn without_etcd_dialogs_go_on_and_with_it_names_are_back() {
    let mut cluster = etcd::Cluster::start(3);
    let (mut one, mut two) = (Tree::start(&cluster, "one"), Tree::start(&cluster, "two"));
    one.does("start ann");
    two.does("meet ann");
    cluster.kill_all();
    assert_eq!(two.ask("call ann", "called"), "3");
    let asked = Instant::now();
    let found = two.finds("ann");
    assert!(found.contains("looking up ann") && found.contains("is it running there"), "{found}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(two.finds("two"), "two", "its own names are at hand");
    two.does("start bob");
    assert_eq!(two.ask("call ann", "called"), "3");
    cluster.restart();
    one.does("meet bob");
    assert_eq!(one.ask("call bob", "called"), "3");
    two.sees("ann", "ann");
    one.end();
    two.end();
}

#[test]
fn a_tree_without_its_etcd_works_and_says_so_in_the_log() {
    let mut tree = Tree::told_by("TEAMSTER_ETCD", "http://127.0.0.1:1", "one");
    tree.does("start ann");
    tree.does("meet ann");
    assert_eq!(tree.ask("call ann", "called"), "3");
    let log = tree.end();
    assert_eq!(log.matches("etcd does not answer (http://127.0.0.1:1: ").count(), 1, "{log}");
}

/// What the program says is wrong, or nobody is there.
#[teamster::test]
async fn a_wrong_endpoint_says_what_to_do() {
    let boot = async |etcd| teamster::root().registrar(etcd).open(async |_an| Ok(find_actor("ann").await?)).await;
    let error = boot(Etcd::new(["10.0.0.1:2379"])).await.expect_err("it is no URL").to_string();
    assert!(error.contains("neither http:// nor https://") && error.contains("as http://10.0.0.1:2379"), "{error}");
    let begun = Instant::now();
    let error = boot(Etcd::new(["http://127.0.0.1:1"])).await.expect_err("nobody listens there").to_string();
    assert!(error.contains("http://127.0.0.1:1: ") && error.contains("is it running there"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

fn keys(cluster: &etcd::Cluster) -> i64 {
    block_on(cluster.keys("/teamster/"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
