//! Whole registrars, each with its thread and its sockets.
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use uuid::Uuid;

use super::client::{Client, Found};
use super::trees::trees_below;
use super::*;
use crate::actor::host::host_id;
use crate::actor::process::ProcessStat;
use crate::msg::addr::Addr;
use crate::msg::ident::Aid;
use crate::transport::folder::{Base, RootFolder};

struct Root {
    registrar: Registrar,
    names: Arc<Names>,
    aid: Aid,
    _folder: RootFolder,
}

impl Root {
    fn start(base: &Path, name: &str) -> Root {
        Root::try_start(base, name).unwrap()
    }

    fn try_start(base: &Path, name: &str) -> io::Result<Root> {
        let base = Base::open_at(base).unwrap();
        let folder = base.make_root().unwrap();
        let names = Names::new();
        let aid = Aid::new(name, Uuid::new_v4(), std::process::id(), host_id());
        let stat = ProcessStat::read(std::process::id()).unwrap();
        names.insert(aid.clone(), None, stat.start_ticks, None);
        let registrar = Registrar::start(&base, folder.path(), names.clone(), aid.clone(), None)?;
        names.set_ready(&aid, Addr::Uds("/root".into()).into());
        Ok(Root { registrar, names, aid, _folder: folder })
    }

    /// An actor that is this process too.
    fn add(&self, name: &str) -> Aid {
        let aid = Aid::new(name, Uuid::new_v4(), std::process::id(), host_id());
        self.names.insert(aid.clone(), Some(self.aid.uuid()), self.aid_ticks(), None);
        self.names.set_ready(&aid, Addr::Uds("/actor".into()).into());
        aid
    }

    fn add_process(&self, name: &str, child: &Child) -> Aid {
        let aid = Aid::new(name, Uuid::new_v4(), child.id(), host_id());
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
        let ticks = ProcessStat::read(child.id()).unwrap().start_ticks;
        self.names.insert(aid.clone(), Some(self.aid.uuid()), ticks, Some(pidfd));
        self.names.set_ready(&aid, Addr::Uds("/process".into()).into());
        aid
    }

    fn aid_ticks(&self) -> u64 {
        ProcessStat::read(std::process::id()).unwrap().start_ticks
    }

    async fn find(&self, name: &str) -> Option<Aid> {
        find(&self.registrar.addr(), name).await.unwrap().map(|found| found.aid)
    }

    async fn wait(&self, name: &str) -> Aid {
        within(wait(&self.registrar.addr(), name)).await.unwrap().aid
    }

    async fn all(&self, name: &str) -> Vec<Aid> {
        find_all(&self.registrar.addr(), name).await.unwrap().into_iter().map(|found| found.aid).collect()
    }

    fn socket(&self) -> std::path::PathBuf {
        let Addr::Uds(path) = self.registrar.addr() else { panic!("no socket") };
        path
    }
}

/// Asks as one who has no connection yet.
fn stranger(registrar: &Addr) -> Client {
    Client::new(registrar.clone(), Arc::default())
}

pub(super) async fn find(registrar: &Addr, name: &str) -> Result<Option<Found>, DiscoveryError> {
    stranger(registrar).find(name).await
}

pub(super) async fn find_all(registrar: &Addr, name: &str) -> Result<Vec<Found>, DiscoveryError> {
    stranger(registrar).find_all(name).await
}

pub(super) async fn list(registrar: &Addr) -> Result<Vec<Found>, DiscoveryError> {
    stranger(registrar).list().await
}

pub(super) async fn wait(registrar: &Addr, name: &str) -> Result<Found, DiscoveryError> {
    stranger(registrar).wait(name).await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("an answer within 20 s")
}

fn base() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base");
    (dir, path)
}

fn left(base: &Path) -> usize {
    std::fs::read_dir(base).unwrap().count()
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn the_newest_living_one_is_found_and_all_are_listed() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    assert_eq!(root.find("bob").await, None);
    let children = [sleeper(), sleeper(), sleeper()];
    let bobs = children.each_ref().map(|child| root.add_process("bob", child));
    let [first, second, third] = children;
    assert_eq!(root.find("bob").await.as_ref(), Some(&bobs[2]));
    assert_eq!(root.all("bob").await, [bobs[2].clone(), bobs[1].clone(), bobs[0].clone()]);
    end(third);
    assert_eq!(root.find("bob").await.as_ref(), Some(&bobs[1]));
    end(first);
    assert_eq!(root.all("bob").await, [bobs[1].clone()]);
    end(second);
    assert_eq!(root.find("bob").await, None);
    assert_eq!(root.find("root").await.as_ref(), Some(&root.aid));
    let listed = list(&root.registrar.addr()).await.unwrap();
    assert_eq!(listed, [Found { aid: root.aid.clone(), addrs: Addr::Uds("/root".into()).into() }]);
    drop(root);
    assert_eq!(left(&path), 0);
}

#[tokio::test]
async fn a_wait_ends_when_there_is_a_living_one() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let child = sleeper();
    let zombie = sleeper();
    // Dead, and its removal is still on its way.
    let _zombie = root.add_process("bob", &zombie);
    end(zombie);
    let addr = root.registrar.addr();
    let mut waiting = std::pin::pin!(wait(&addr, "bob"));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("nobody is there"),
        _ = root.find("bob") => {}
    }
    let bob = root.add_process("bob", &child);
    assert_eq!(within(waiting).await.unwrap().aid, bob);
    end(child);
}

#[tokio::test]
async fn dropped_waits_leave_nothing() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let other = Root::start(&path, "other");
    let (idle_root, idle_other) = (root.names.waiters(), other.names.waiters());
    // Above the limit of connections, so each must really have gone.
    for _ in 0..10 {
        let addr = other.registrar.addr();
        let mut waits: futures::stream::FuturesUnordered<_> = (0..100).map(|_| wait(&addr, "nobody")).collect();
        tokio::select! {
            _ = futures::StreamExt::next(&mut waits) => panic!("nobody is there"),
            () = async { while other.names.waiters() < idle_other + 100 || root.names.waiters() < idle_root + 100 { root.find("root").await; } } => {}
        }
    }
    within(async {
        while root.names.waiters() > idle_root || other.names.waiters() > idle_other {
            root.find("root").await;
        }
    })
    .await;
}

#[tokio::test]
async fn trees_find_each_other_newest_first() {
    let (_dir, path) = base();
    let roots = ["one", "two", "three"].map(|name| Root::start(&path, name));
    let bobs = roots.each_ref().map(|root| root.add("bob"));
    for root in &roots {
        for (name, other) in ["one", "two", "three"].iter().zip(&roots) {
            assert_eq!(root.wait(name).await, other.aid);
        }
        within(async { while root.all("bob").await.len() < 3 {} }).await;
        let newest: Vec<Aid> = bobs.iter().rev().cloned().collect();
        assert_eq!(root.all("bob").await, newest);
        assert_eq!(root.find("bob").await.as_ref(), Some(&bobs[2]));
        assert_eq!(list(&root.registrar.addr()).await.unwrap().len(), 6);
    }
    // The last tree ends: at once, none of its names is left.
    let [one, two, three] = roots;
    drop(three);
    within(async { while two.find("three").await.is_some() {} }).await;
    assert_eq!(one.find("bob").await.as_ref(), Some(&bobs[1]));
}

#[tokio::test]
async fn when_the_leader_ends_lookups_wait_through_the_gap() {
    let (_dir, path) = base();
    let mut roots: Vec<Root> = (0..5).map(|number| Root::start(&path, &format!("root{number}"))).collect();
    while roots.len() > 1 {
        let leader = roots.remove(0);
        let lookers: Vec<(Addr, &Root)> = roots.iter().map(|root| (root.registrar.addr(), root)).collect();
        leader.registrar.stop();
        // Asked in the gap: the answer is right all the same.
        for (addr, _) in &lookers {
            for (_, other) in &lookers {
                let found = find(addr, other.aid.name()).await.unwrap();
                assert_eq!(found.map(|found| found.aid).as_ref(), Some(&other.aid));
            }
        }
    }
    drop(roots);
    assert_eq!(left(&path), 0);
}

#[tokio::test]
async fn a_wait_goes_on_under_the_next_leader() {
    let (_dir, path) = base();
    let leader = Root::start(&path, "leader");
    let (one, two) = (Root::start(&path, "one"), Root::start(&path, "two"));
    let addr = one.registrar.addr();
    let waiting = wait(&addr, "bob");
    let changing = async {
        leader.find("leader").await;
        drop(leader);
        two.add("bob")
    };
    let (found, bob) = within(async { tokio::join!(waiting, changing) }).await;
    assert_eq!(found.unwrap().aid, bob);
}

#[test]
fn of_two_that_race_one_leads_and_they_find_each_other() {
    let (_dir, path) = base();
    for _ in 0..50 {
        let start = Barrier::new(2);
        let mut roots = std::thread::scope(|scope| {
            let starting = ["ann", "bob"].map(|name| {
                scope.spawn({
                    let (start, path) = (&start, &path);
                    move || {
                        start.wait();
                        Root::start(path, name)
                    }
                })
            });
            starting.map(|root| root.join().unwrap())
        });
        let leaders = roots.iter().filter(|root| root.registrar.leads()).count();
        assert_eq!(leaders, 1);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            assert_eq!(roots[0].wait("bob").await, roots[1].aid);
            assert_eq!(roots[1].wait("ann").await, roots[0].aid);
            if !roots[0].registrar.leads() {
                roots.reverse();
            }
            let [leader, member] = roots;
            drop(leader);
            assert_eq!(member.find(member.aid.name()).await.as_ref(), Some(&member.aid));
            assert!(member.registrar.leads());
        });
        assert_eq!(left(&path), 0);
    }
}

#[tokio::test]
async fn a_silent_probe_costs_nothing() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let _probes: Vec<UnixStream> = (0..10).map(|_| UnixStream::connect(root.socket()).unwrap()).collect();
    assert!(root.find("root").await.is_some());
    let begun = Instant::now();
    drop(root);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nonsense_is_disconnected() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let mut long = wire::GREETING.to_vec();
    long.extend(u32::MAX.to_le_bytes());
    let mut garbage = wire::GREETING.to_vec();
    garbage.extend([4, 0, 0, 0, 0xc1, 0xc1, 0xc1, 0xc1]);
    for bytes in [b"GET / HTTP/1.1\r\n\r\n    ".to_vec(), long, garbage] {
        let mut stream = UnixStream::connect(root.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut heard = Vec::new();
        // What was not read makes it a reset instead of an end.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, wire::GREETING);
        assert!(root.find("root").await.is_some());
    }
    let error = find(&root.registrar.addr(), &"x".repeat(5000)).await.unwrap_err();
    assert!(matches!(error, DiscoveryError::NameTooLong { bytes: 5000, .. }));
}

#[test]
fn a_foreign_listener_at_the_address_fails_the_start() {
    let (_dir, path) = base();
    Base::open_at(&path).unwrap();
    let _foreign = UnixListener::bind(path.join("registrar.s")).unwrap();
    let Err(error) = Root::try_start(&path, "root") else { panic!("it started") };
    assert!(error.to_string().contains("no registrar: stop it"), "{error}");
}

#[tokio::test]
async fn a_registrar_that_has_ended_says_so() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let addr = root.registrar.addr();
    drop(root);
    assert!(matches!(find(&addr, "root").await, Err(DiscoveryError::Ended { .. })));
    assert!(matches!(wait(&addr, "root").await, Err(DiscoveryError::Ended { .. })));
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let (_dir, path) = base();
    let (one, two) = (Root::start(&path, "one"), Root::start(&path, "two"));
    let name = "n".repeat(200);
    let mut expected: HashSet<Uuid> = [&one, &two].map(|root| root.aid.uuid()).into();
    for _ in 0..3000 {
        expected.insert(one.add(&name).uuid());
        expected.insert(two.add(&name).uuid());
    }
    let last = two.add("last");
    one.wait("last").await;
    expected.insert(last.uuid());
    for root in [&one, &two] {
        let listed = list(&root.registrar.addr()).await.unwrap();
        assert_eq!(listed[0].aid, last);
        let uuids: HashSet<Uuid> = listed.iter().map(|found| found.aid.uuid()).collect();
        assert_eq!((uuids.len(), listed.len()), (expected.len(), expected.len()));
        assert_eq!(uuids, expected);
    }
    let trees = trees_below(&Base::open_at(&path).unwrap());
    assert_eq!(trees.iter().map(|tree| tree.actors.len()).sum::<usize>(), expected.len());
}

#[tokio::test]
async fn trees_are_listed_with_parents_and_states() {
    let (_dir, path) = base();
    assert!(Base::find_at(&path).unwrap().is_none());
    let root = Root::start(&path, "root");
    let ready = root.add("ready");
    let booting = Aid::new("booting", Uuid::new_v4(), std::process::id(), host_id());
    root.names.insert(booting, Some(ready.uuid()), root.aid_ticks(), None);
    let trees = trees_below(&Base::open_at(&path).unwrap());
    let [tree] = trees.as_slice() else { panic!("{trees:?}") };
    assert_eq!(tree.pid, std::process::id());
    let seen: Vec<_> = tree.actors.iter().map(|actor| (actor.aid.name(), actor.parent, actor.state)).collect();
    assert_eq!(
        seen,
        [
            ("root", None, ActorState::Ready),
            ("ready", Some(root.aid.uuid()), ActorState::Ready),
            ("booting", Some(ready.uuid()), ActorState::Booting),
        ]
    );
    assert!(tree.actors.iter().all(|actor| actor.process_state.is_some()));
}

/// A root in a process of its own, until its stdin ends.
struct Process {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(base: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "discovery::tests::a_root_process", "--nocapture"])
            .env("TEAMSTER_TEST_BASE", base)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut process = Process { child, lines };
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert_ne!(process.lines.read_line(&mut line).unwrap(), 0, "it ended before it served");
        }
        process
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its threads' context switches.
    fn switches(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let status =
            |task: io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let numbers = tasks.map(status).flat_map(|text| {
            let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
            lines.map(|line| line.split_whitespace().last().unwrap().parse().unwrap()).collect::<Vec<u64>>()
        });
        numbers.sum()
    }
}

#[test]
fn a_root_process() {
    let Some(base) = std::env::var_os("TEAMSTER_TEST_BASE") else { return };
    let root = Root::start(Path::new(&base), "process");
    println!("serving");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(root);
}

#[tokio::test]
async fn a_stopped_leader_holds_lookups_up_for_a_second() {
    let (_dir, path) = base();
    let leader = Process::start(&path);
    let member = Root::start(&path, "member");
    assert_eq!(member.wait("process").await.pid(), leader.child.id());
    leader.signal(Signal::STOP);
    within(async {
        while ProcessStat::read(leader.child.id()).is_none_or(|stat| !stat.is_stopped()) {
            tokio::task::yield_now().await
        }
    })
    .await;

    let begun = Instant::now();
    let error = find(&member.registrar.addr(), "nobody").await.unwrap_err();
    assert_eq!(error.to_string(), "no registrar answered within 1s");
    assert_eq!(member.find("member").await.as_ref(), Some(&member.aid), "its own names are at hand");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // One that comes now is not held up by it.
    let begun = Instant::now();
    let newcomer = Root::start(&path, "newcomer");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let trees = trees_below(&Base::open_at(&path).unwrap());
    let stopped = trees.iter().find(|tree| tree.pid == leader.child.id()).unwrap();
    assert_eq!((stopped.process_state, stopped.actors.len()), (Some('T'), 0));

    leader.signal(Signal::CONT);
    assert_eq!(newcomer.wait("member").await, member.aid);
    assert_eq!(newcomer.wait("process").await.pid(), leader.child.id());
    end(leader.child);
    // Killed: its names are gone with it, and the others carry on.
    assert_eq!(member.find("process").await, None);
    assert_eq!(member.wait("newcomer").await, newcomer.aid);
    assert_eq!(newcomer.find("member").await, Some(member.aid.clone()));
    drop((member, newcomer));
    Base::open_at(&path).unwrap().sweep();
    assert_eq!(left(&path), 0);
}

#[tokio::test]
async fn nobody_wakes_while_nobody_asks() {
    let (_dir, path) = base();
    let (leader, member) = (Process::start(&path), Process::start(&path));
    let here = Root::start(&path, "here");
    here.wait("process").await;
    within(async { while here.all("process").await.len() < 2 {} }).await;
    // Their last answer may still be on its way back to sleep: so from when they are quiet. These
    // are the only waits in here for something that must not happen.
    let switches = || leader.switches() + member.switches();
    within(async {
        let mut before = 0;
        while std::mem::replace(&mut before, switches()) != switches() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let before = switches();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(switches(), before);
    end(leader.child);
    end(member.child);
}

/// A registrar in another process, whose descriptors these tests may use up.
fn crowded(base: &Path) -> (Process, std::path::PathBuf) {
    let root = Process::start(base);
    let folder = Base::open_at(base).unwrap().living_roots().remove(0);
    (root, registrar::registrar_socket(&folder))
}

#[tokio::test]
async fn when_it_is_full_silent_ones_make_room() {
    let (_dir, path) = base();
    let (root, socket) = crowded(&path);
    let streams: Vec<UnixStream> = (0..512).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    // It tries again until the oldest has been silent for long enough.
    assert!(find(&Addr::Uds(socket), "process").await.unwrap().is_some());
    let mut heard = Vec::new();
    (&streams[0]).read_to_end(&mut heard).unwrap();
    assert_eq!(heard, wire::GREETING);
    end(root.child);
}

/// So many connections that wait for a name which nobody has.
fn waits(socket: &Path, count: usize) -> Vec<UnixStream> {
    let request = wire::Request::Wait { name: "nobody".into(), scope: wire::Scope::Everywhere };
    let wait = |_| {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&wire::opening(&request)).unwrap();
        stream
    };
    (0..count).map(wait).collect()
}

/// As a look every second, for an hour, at a tree that ctrl-z has stopped.
#[tokio::test]
async fn one_that_stands_still_is_listed_though_nobody_more_can_knock() {
    let (_dir, path) = base();
    let (root, socket) = crowded(&path);
    root.signal(Signal::STOP);
    let addr = rustix::net::SocketAddrUnix::new(&socket).unwrap();
    let knocks = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        rustix::net::connect(&fd, &addr)
    };
    while knocks().is_ok() {}
    assert_eq!(knocks(), Err(rustix::io::Errno::AGAIN));
    let begun = Instant::now();
    let trees = trees_below(&Base::open_at(&path).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let [tree] = trees.as_slice() else { panic!("{trees:?}") };
    assert_eq!((tree.pid, tree.process_state, tree.actors.len()), (root.child.id(), Some('T'), 0));
    root.signal(Signal::CONT);
    end(root.child);
}

#[tokio::test]
async fn when_it_is_full_of_waits_it_says_so() {
    let (_dir, path) = base();
    let (root, socket) = crowded(&path);
    let waits = waits(&socket, 512);
    let addr = Addr::Uds(socket);
    let error = find(&addr, "process").await.unwrap_err();
    assert!(matches!(error, DiscoveryError::Full { limit: 512 }), "{error}");
    let trees = trees_below(&Base::open_at(&path).unwrap());
    let [tree] = trees.as_slice() else { panic!("{trees:?}") };
    assert_eq!((tree.pid, tree.actors.len()), (root.child.id(), 0), "it runs, and has no time for us");
    // One more wait gets its turn when others leave.
    let mut waiting = std::pin::pin!(wait(&addr, "process"));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waits);
    assert_eq!(within(waiting).await.unwrap().aid.pid(), root.child.id());
    end(root.child);
}

/// The ends of connections that the registrar at this socket has, by their inodes.
fn accepted(socket: &Path) -> HashSet<u64> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let at_path = sockets.lines().filter(|line| line.ends_with(socket.to_str().unwrap()));
    let words = at_path.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is_connected = |words: &Vec<&str>| words[5] == "03";
    words.filter(is_connected).map(|words| words[6].parse().unwrap()).collect()
}

#[tokio::test]
async fn lookups_one_after_the_other_take_one_connection() {
    let (_dir, path) = base();
    let root = Root::start(&path, "root");
    let client = stranger(&root.registrar.addr());
    assert!(client.find("root").await.unwrap().is_some());
    let first = accepted(&root.socket());
    assert_eq!(first.len(), 1);
    for _ in 0..3 {
        assert!(client.find("root").await.unwrap().is_some());
        assert_eq!(client.find("nobody").await.unwrap(), None);
        assert_eq!(client.find_all("root").await.unwrap().len(), 1);
        assert_eq!(client.list().await.unwrap().len(), 1);
        assert_eq!(client.wait("root").await.unwrap().aid, root.aid);
        assert_eq!(accepted(&root.socket()), first);
    }
    // Those at the same time have one each, and leave one.
    let at_once = futures::future::join_all((0..5).map(|_| client.find("root"))).await;
    assert!(at_once.into_iter().all(|found| found.unwrap().is_some()));
    within(async {
        while accepted(&root.socket()).len() > 1 {
            tokio::task::yield_now().await
        }
    })
    .await;
    // Its reply belongs to nobody else.
    let mut dropped = Box::pin(client.wait("bob"));
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    assert_eq!(client.find("root").await.unwrap().unwrap().aid, root.aid);
    drop(client);
    within(async {
        while !accepted(&root.socket()).is_empty() {
            tokio::task::yield_now().await
        }
    })
    .await;
}

#[tokio::test]
async fn a_registrar_that_has_taken_anothers_place_is_found() {
    let (_dir, path) = base();
    let Root { mut registrar, names, aid, _folder: folder } = Root::start(&path, "root");
    let client = stranger(&registrar.addr());
    for _ in 0..3 {
        assert_eq!(client.find("root").await.unwrap().unwrap().aid, aid);
        registrar.stop();
        assert!(matches!(client.find("root").await, Err(DiscoveryError::Ended { .. })));
        let base = Base::open_at(&path).unwrap();
        registrar = Registrar::start(&base, folder.path(), names.clone(), aid.clone(), None).unwrap();
        assert_eq!(client.find("root").await.unwrap().unwrap().aid, aid);
        registrar.stop();
        registrar = Registrar::start(&base, folder.path(), names.clone(), aid.clone(), None).unwrap();
        // Its connection is one of the other.
        assert_eq!(client.find("root").await.unwrap().unwrap().aid, aid);
    }
}

/// A look-up by hand, on a connection that stays.
fn look_up(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    let request = wire::Request::Find { name: "process".into(), scope: wire::Scope::Everywhere };
    let reply = wire::ask_blocking(&stream, &request).unwrap();
    assert!(matches!(reply, wire::Reply::Found(Some(_))), "{reply:?}");
    stream.set_nonblocking(true).unwrap();
    stream
}

#[tokio::test]
async fn connections_that_rest_give_way() {
    let (_dir, path) = base();
    let (root, socket) = crowded(&path);
    // More than are served at once: nobody is refused, and nobody waits until others are gone.
    let slow = look_up(&socket);
    (&slow).write_all(&[9, 0]).unwrap(); // and says no more: half a request keeps no place either
    let streams: Vec<UnixStream> = std::iter::once(slow).chain((0..599).map(|_| look_up(&socket))).collect();
    let has_ended = |stream: &UnixStream| !matches!((&*stream).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    let is_open = || streams.iter().map(|stream| !has_ended(stream)).collect::<Vec<_>>();
    within(async {
        while is_open().into_iter().filter(|open| *open).count() > idle::RESTING {
            tokio::task::yield_now().await
        }
    })
    .await;
    let open = is_open();
    assert!(open[..600 - idle::RESTING].iter().all(|open| !open), "the longest idle ones go");
    assert!(open[600 - idle::RESTING..].iter().all(|open| *open));

    // What rests is in the way of nobody who waits.
    let waits = waits(&socket, 511);
    let addr = Addr::Uds(socket);
    assert!(find(&addr, "process").await.unwrap().is_some());
    assert!(is_open().into_iter().all(|open| !open));
    let is_refused = |mut stream: &UnixStream| {
        stream.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard); // would block where it waits
        heard.len() > wire::GREETING.len()
    };
    assert!(!waits.iter().any(is_refused));
    end(root.child);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_that_rests_for_long() {
    let (_dir, path) = base();
    let base = Base::open_at(&path).unwrap();
    let folder = base.make_root().unwrap();
    let aid = Aid::new("root", Uuid::new_v4(), std::process::id(), host_id());
    let server = Arc::new(lookup::Server::new(base, folder.path().to_owned(), Names::new(), aid, None));
    let listener = tokio::net::UnixListener::bind(path.join("door.s")).unwrap();
    let mut connections = tokio::task::JoinSet::new();
    let begun = tokio::time::Instant::now();
    let asking = async {
        let mut stream = tokio::net::UnixStream::connect(path.join("door.s")).await.unwrap();
        let tree = wire::Request::Tree { after: None };
        for bytes in [wire::opening(&tree), wire::message(&tree), wire::message(&tree)] {
            tokio::time::sleep(Duration::from_secs(9)).await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
            if bytes.starts_with(wire::GREETING) {
                wire::receive_greeting(&mut stream).await.unwrap();
            }
            let reply = wire::receive::<wire::Reply>(&mut stream, wire::REPLY_BYTES).await.unwrap();
            assert!(matches!(reply, wire::Reply::Page { .. }), "{reply:?}");
        }
        assert_eq!(tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.unwrap(), 0);
        begun.elapsed()
    };
    tokio::select! {
        () = registrar::serve(&server, &listener, &mut connections) => panic!("it never returns"),
        elapsed = asking => assert_eq!(elapsed.as_secs(), 3 * 9 + 10),
    }
}
