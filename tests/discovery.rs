//! Who is found by which name, when, and by whom?
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::future::{join, join_all, try_join_all};
use futures::poll;
use rustix::process::{Pid, Signal, kill_process};
use teamster::testing::LeakCheck;
use teamster::{Error, Portal, find_actor, find_actors, list_actors, open_nursery, rpc, wait_for_actor};
use tokio::sync::{Semaphore, watch};

#[path = "support/partner.rs"]
mod partner;

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn me() -> teamster::Result<Portal> {
    Ok(teamster::this_actor()?)
}

#[rpc]
async fn my_pid() -> u32 {
    std::process::id()
}

#[rpc]
async fn find(name: String) -> teamster::Result<Option<Portal>> {
    Ok(find_actor(&name).await?)
}

#[rpc]
async fn meet(name: String) -> teamster::Result<i64> {
    Ok(wait_for_actor(&name).await?.run(add(20, 1)).await?)
}

#[rpc]
async fn ask(portal: Portal) -> teamster::Result<i64> {
    Ok(portal.run(add(1, 2)).await?)
}

static ENTERED: Semaphore = Semaphore::const_new(0);

#[rpc]
async fn hang() {
    ENTERED.add_permits(1);
    std::future::pending().await
}

/// Waits until `hang` runs here.
#[rpc]
async fn hung() {
    ENTERED.acquire().await.expect("it is never closed").forget();
}

#[rpc]
async fn ask_to_hang(portal: Portal) -> teamster::Result<()> {
    Ok(portal.run(hang()).await?)
}

/// A child of its own, for as long as this call runs.
static LEAF: LazyLock<watch::Sender<Option<Portal>>> = LazyLock::new(watch::Sender::default);

#[rpc]
async fn keep_a_leaf() -> teamster::Result<()> {
    Ok(open_nursery(async |an| {
        LEAF.send_replace(Some(an.start_actor("leaf").await?));
        an.wait().await;
        Ok(())
    })
    .await?)
}

#[rpc]
async fn leaf() -> Portal {
    let mut leaf = LEAF.subscribe();
    let found = leaf.wait_for(Option::is_some).await.expect("the sender is a static");
    found.clone().expect("it was waited for")
}

/// Lets this actor's clock jump, as if its lines had been idle for so long.
#[rpc]
async fn idle_for(seconds: u64) {
    idle(seconds).await;
}

async fn idle(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

fn folder() -> PathBuf {
    std::env::var_os("TEAMSTER_DIR").expect("the harness sets it").into()
}

fn registrar_socket() -> PathBuf {
    folder().join("registrar.s")
}

#[teamster::test]
async fn the_newest_living_of_a_name_is_found_and_all_are_listed() -> Result<(), Error> {
    open_nursery(async |an| {
        let mut bobs = Vec::new();
        for _ in 0..3 {
            bobs.insert(0, an.start_actor("bob").await?);
        }
        assert_eq!(find_actors("bob").await?, bobs);
        while !bobs.is_empty() {
            let found = find_actor("bob").await?.expect("one lives");
            assert_eq!(found, bobs[0]);
            assert_eq!(found.run(add(1, 2)).await?, 3);
            bobs.remove(0).kill_actor().await?;
            assert_eq!(find_actors("bob").await?, bobs);
        }
        assert_eq!(find_actor("bob").await?, None);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn siblings_wait_for_each_other_and_call() -> Result<(), Error> {
    open_nursery(async |an| {
        let [ann, bob] = ["ann", "bob"];
        let one = async { an.start_actor(ann).await?.run(meet(bob.into())).await };
        let other = async { an.start_actor(bob).await?.run(meet(ann.into())).await };
        let (one, other) = join(one, other).await;
        assert_eq!((one?, other?), (21, 21));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_portal_can_be_sent_to_a_third_actor() -> Result<(), Error> {
    open_nursery(async |an| {
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        let portals = an.start_actors([a, b, c]).await?;
        let [_a, b, c] = portals.as_slice() else { panic!("three were started") };
        assert_eq!(c.run(ask(b.run(me()).await?)).await?, 3);
        assert_eq!(c.run(ask(b.clone())).await?, 3);
        let mut calling = Box::pin(join_all((0..10).map(|_| c.run(ask_to_hang(b.clone())))));
        tokio::select! {
            _ = &mut calling => panic!("nobody lets them end"),
            heard = try_join_all((0..10).map(|_| b.run(hung()))) => drop(heard?),
        }
        b.kill_actor().await?;
        for called in calling.await {
            let error = called.expect_err("its callee was killed");
            let ended = error.downcast_ref::<Error>();
            let Some(Error::Cancelled { canceller }) = ended else { panic!("{error:?}") };
            assert_eq!(canceller.aid, *teamster::this_actor()?.aid());
        }
        let error = c.run(ask(b.clone())).await.expect_err("it is dead");
        assert!(matches!(error.downcast_ref(), Some(Error::ActorDied(_))), "{error:?}");
        assert_eq!(c.run(add(3, 4)).await?, 7);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn waiting_ends_with_the_actor_and_never_with_a_dead_one() -> Result<(), Error> {
    open_nursery(async |an| {
        let mut waiting = Box::pin(wait_for_actor("late"));
        assert!(poll!(&mut waiting).is_pending());
        let late = an.start_actor("late").await?;
        assert_eq!(waiting.await?, late);
        late.cancel_actor().await?;
        let mut waiting = Box::pin(wait_for_actor("late"));
        assert!(poll!(&mut waiting).is_pending());
        let second = an.start_actor("late").await?;
        assert_eq!(waiting.await?, second);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_thousand_dropped_waits_leave_nothing() -> Result<(), Error> {
    open_nursery(async |an| {
        an.start_actor("there").await?;
        assert!(find_actor("there").await?.is_some());
        let before = descriptors();
        let mut resident = 0;
        for round in 0..40 {
            let mut waits: Vec<_> = (0..50).map(|_| Box::pin(wait_for_actor("nobody"))).collect();
            for wait in &mut waits {
                assert!(poll!(wait).is_pending());
            }
            assert!(find_actor("there").await?.is_some());
            if round == 19 {
                resident = resident_kib(); // after a thousand
            }
        }
        let grown = resident_kib().saturating_sub(resident);
        assert!(grown < 512, "{grown} KiB more after a second thousand");
        // The registrar is in this process: its ends close when it hears of ours.
        let deadline = Instant::now() + Duration::from_secs(5);
        while descriptors() > before {
            assert!(Instant::now() < deadline, "{} descriptors, {before} before", descriptors());
            find_actor("there").await?;
        }
        Ok(())
    })
    .await
}

/// The registrar lives in this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is a process with memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("we may look at ourselves").count()
}

/// Those of them that may be lines.
fn sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("we may look at ourselves").flatten();
    let files = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    files.filter(|file| file.to_string_lossy().starts_with("socket:")).count()
}

/// Where this process's root answers its tree.
fn own_registrar() -> PathBuf {
    let trees = teamster::discovery::trees().expect("the folder is ours");
    let own = trees.into_iter().find(|tree| tree.pid == std::process::id()).expect("it runs");
    own.folder.join("registrar.s")
}

/// The registrar's ends of its connections, by their inodes.
fn accepted(socket: &Path) -> BTreeSet<u64> {
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the kernel tells");
    let at_path = sockets.lines().filter(|line| line.ends_with(socket.to_str().expect("ours is text")));
    let words = at_path.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words[5] == CONNECTED).map(|words| words[6].parse().expect("a number")).collect()
}

/// In `/proc/net/unix`.
const CONNECTED: &str = "03";

#[teamster::test]
async fn the_lookups_of_an_actor_take_one_connection() -> Result<(), Error> {
    open_nursery(async |an| {
        let [ann, bob] = [an.start_actor("ann").await?, an.start_actor("bob").await?];
        let registrar = own_registrar();
        until("nobody asks", || accepted(&registrar).is_empty()).await;
        assert!(ann.run(find("bob".into())).await?.is_some());
        let anns = accepted(&registrar);
        assert_eq!(anns.len(), 1);
        for _ in 0..5 {
            assert!(ann.run(find("bob".into())).await?.is_some());
            assert!(ann.run(find("nobody".into())).await?.is_none());
            assert_eq!(ann.run(meet("bob".into())).await?, 21);
            assert_eq!(accepted(&registrar), anns);
        }
        assert!(bob.run(find("ann".into())).await?.is_some());
        let both = accepted(&registrar);
        assert!(both.is_superset(&anns) && both.len() == 2, "{anns:?}, {both:?}");
        ann.cancel_actor().await?;
        until("it is gone with its actor", || accepted(&registrar).len() == 1).await;
        Ok(())
    })
    .await
}

/// A registrar that passes on what one client says, until it is told to end with the connection.
struct StandIn {
    end: UnixStream,
    thread: std::thread::JoinHandle<()>,
}

impl StandIn {
    fn start(socket: &Path, real: PathBuf) -> StandIn {
        let listener = UnixListener::bind(socket).expect("the real one has moved");
        let (end, ended) = UnixStream::pair().expect("there is room");
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("it listens");
            let registrar = UnixStream::connect(real).expect("it listens too");
            std::thread::scope(|scope| {
                scope.spawn(|| std::io::copy(&mut &client, &mut &registrar));
                scope.spawn(|| std::io::copy(&mut &registrar, &mut &client));
                (&ended).read_exact(&mut [0]).expect("it is told");
                for stream in [&client, &registrar] {
                    stream.shutdown(Shutdown::Both).expect("it is connected");
                }
            });
        });
        StandIn { end, thread }
    }

    fn end(mut self) {
        self.end.write_all(&[0]).expect("it listens");
        self.thread.join().expect("it does not panic");
    }
}

#[teamster::test]
async fn a_registrar_that_was_replaced_between_lookups_is_found() -> Result<(), Error> {
    open_nursery(async |an| {
        let registrar = own_registrar();
        let real = registrar.with_file_name("real.s");
        std::fs::rename(&registrar, &real).expect("it is ours");
        let stand_in = StandIn::start(&registrar, real.clone());
        let ann = an.start_actor("ann").await?;
        // It accepts once: all of them by one connection.
        for _ in 0..3 {
            assert_eq!(ann.run(find("ann".into())).await?.as_ref(), Some(&ann));
        }
        stand_in.end();
        std::fs::rename(&real, &registrar).expect("it is ours");
        assert_eq!(ann.run(find("ann".into())).await?.as_ref(), Some(&ann));
        assert_eq!(ann.run(meet("ann".into())).await?, 21);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_root_that_has_looked_up_leaves_nothing() -> Result<(), Error> {
    let check = LeakCheck::new();
    for _ in 0..3 {
        open_nursery(async |an| {
            let ann = an.start_actor("ann").await?;
            assert_eq!(find_actor("ann").await?.as_ref(), Some(&ann));
            assert_eq!(ann.run(find("ann".into())).await?.as_ref(), Some(&ann));
            let registrar = own_registrar(); // by connections of its own
            until("both have kept theirs", || accepted(&registrar).len() == 2).await;
            Ok(())
        })
        .await?;
        check.assert_clean();
    }
    Ok(())
}

#[teamster::test]
async fn a_cancelled_actor_is_not_found() -> Result<(), Error> {
    open_nursery(async |an| {
        let observer = an.start_actor("observer").await?;
        for _ in 0..20 {
            let frank = an.start_actor("frank").await?;
            let socket = frank.addr().expect("it serves").to_string();
            assert_eq!(observer.run(find("frank".into())).await?.as_ref(), Some(&frank));
            frank.cancel_actor().await?;
            assert_eq!(find_actor("frank").await?, None);
            assert_eq!(observer.run(find("frank".into())).await?, None);
            let path = socket.strip_prefix("/uds").expect("there is no other transport");
            assert!(!PathBuf::from(path).exists(), "{socket}");
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn all_that_serve_are_listed() -> Result<(), Error> {
    let names = async || -> Result<BTreeSet<String>, Error> {
        Ok(list_actors().await?.iter().map(|portal| portal.aid().name().to_owned()).collect())
    };
    open_nursery(async |an| {
        an.start_actors(["one", "two"]).await?;
        assert_eq!(names().await?, ["one", "root", "two"].map(str::to_owned).into());
        Ok(())
    })
    .await?;
    open_nursery(async |_an| {
        assert_eq!(names().await?, ["root".to_owned()].into());
        assert_eq!(find_actor("one").await?, None);
        Ok(())
    })
    .await?;
    assert!(matches!(list_actors().await, Err(Error::Usage(_))));
    Ok(())
}

#[teamster::test]
async fn the_root_is_found_and_called_from_everywhere() -> Result<(), Error> {
    open_nursery(async |an| {
        let root = find_actor("root").await?.expect("we are it");
        assert_eq!(root.run(my_pid()).await?, std::process::id());
        let child = an.start_actor("child").await?;
        let from_below = child.run(find("root".into())).await?.expect("it is found");
        assert_eq!(from_below, root);
        assert_eq!(child.run(ask(root)).await?, 3);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_stale_socket_is_not_in_use() -> Result<(), Error> {
    drop(UnixListener::bind(registrar_socket()).expect("its folder is there"));
    open_nursery(async |an| {
        an.start_actor("frank").await?;
        assert!(find_actor("frank").await?.is_some());
        assert_eq!(find_actor("nobody").await?, None);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_stranger_at_the_registrars_address_is_named() -> Result<(), Error> {
    let stranger = UnixListener::bind(registrar_socket()).expect("its folder is there");
    let error = open_nursery(async |_an| Ok(())).await.expect_err("it is in the way");
    let text = error.to_string();
    assert!(text.contains("registrar.s is in use") && text.contains("TEAMSTER_DIR"), "{text}");
    drop(stranger);
    std::fs::remove_file(registrar_socket()).expect("it is still the stranger's");
    open_nursery(async |an| {
        assert_eq!(an.start_actor("frank").await?.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await
}

/// A line between peers that has been idle closes; the next call takes a new one, whichever side
/// said Bye, and also when it crosses the Bye.
#[teamster::test]
async fn a_call_that_crosses_a_bye_is_made_on_a_new_line() -> Result<(), Error> {
    open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        let holder = child.clone();
        let mut keeping = Box::pin(holder.run(keep_a_leaf()));
        let leaf = tokio::select! {
            kept = &mut keeping => panic!("nobody ends it: {kept:?}"),
            leaf = child.run(leaf()) => leaf?,
        };
        let beside = async {
            assert_eq!(leaf.run(add(0, 1)).await?, 1);
            // Not all descriptors: that the leaf has started comes up the control line in its own time, and
            // whoever hears it holds on to its process.
            let connected = sockets();
            for round in 0..100 {
                // Our Bye, and a call right behind it.
                idle(11).await;
                assert_eq!(leaf.run(add(round, 1)).await?, round + 1);
                // Theirs, with our call at any moment of it.
                let through_parent = child.run(let_leaf_idle(11));
                let mut sum = 0;
                let calls = async {
                    for _ in 0..5 {
                        sum += leaf.run(add(round, 1)).await?;
                    }
                    Ok::<_, Error>(())
                };
                let (idled, called) = join(through_parent, calls).await;
                idled?;
                called?;
                assert_eq!(sum, 5 * (round + 1));
            }
            // One each way; an old one goes when its last Bye was answered.
            until("the old lines are closed", || sockets() <= connected + 1).await;
            Ok::<_, Error>(())
        };
        tokio::select! {
            kept = &mut keeping => panic!("nobody ends it: {kept:?}"),
            done = beside => done?,
        }
        Ok(())
    })
    .await
}

#[rpc]
async fn let_leaf_idle(seconds: u64) -> teamster::Result<()> {
    let leaf = leaf().await?;
    Ok(leaf.run(idle_for(seconds)).await?)
}

// ---- several roots

/// Programs of this file, in processes of their own.
#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "pair" => partner::exit(pair()),
        other => panic!("no program {other:?}"),
    }
}

/// A root that starts an actor of a name, waits for the other root's, calls it, and then answers
/// what it is asked on stdin.
#[teamster::main]
async fn pair() -> Result<(), Error> {
    let [mine, theirs] = ["MINE", "THEIRS"].map(|name| std::env::var(name).expect("the test sets it"));
    open_nursery(async |an| {
        let ours = an.start_actor(&mine).await?;
        let other = wait_for_actor(&theirs).await?;
        println!("met {}", other.run(my_pid()).await?);
        while let Some(line) = partner::heard().await {
            match line.split_once(' ') {
                Some(("find", name)) => match find_actor(name).await {
                    Ok(found) => println!("found {}", found.map_or(0, |portal| portal.aid().pid())),
                    Err(error) => println!("found error {error}"),
                },
                Some(("call", name)) => {
                    println!("called {}", wait_for_actor(name).await?.run(add(1, 2)).await?);
                }
                _ => println!("called {}", ours.run(add(1, 2)).await?),
            }
        }
        Ok(())
    })
    .await
}

fn start_pair(mine: &str, theirs: &str) -> partner::Running {
    partner::start(partner::command("pair").env("MINE", mine).env("THEIRS", theirs))
}

/// The process that listens where all roots ask.
fn leader() -> Option<u32> {
    let stream = UnixStream::connect(registrar_socket()).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// How many hold the registrar's lock.
fn lock_holders() -> usize {
    let Ok(lock) = std::fs::metadata(folder().join("registrar.lock")) else { return 0 };
    let locks = std::fs::read_to_string("/proc/locks").expect("the kernel tells");
    let wanted = format!(":{}", lock.ino());
    let is_ours = |line: &&str| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&wanted));
    locks.lines().filter(is_ours).count()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await; // the kernel has no event for it
    }
}

/// Of the race.
const ROUNDS: usize = 50;

#[teamster::test]
async fn two_roots_race_and_one_carries_on() {
    for round in 0..ROUNDS {
        let mut roots = [start_pair("left", "right"), start_pair("right", "left")];
        for root in &mut roots {
            root.line("met ");
        }
        let pids = roots.each_ref().map(|root| root.child.id());
        let first = leader().expect("somebody leads");
        assert!(pids.contains(&first), "{first} leads, not one of {pids:?}");
        assert_eq!(lock_holders(), 1);
        let [mut gone, mut left] = roots;
        let mut their_name = "left";
        if gone.child.id() != first {
            std::mem::swap(&mut gone, &mut left);
            their_name = "right";
        }
        if round % 2 == 0 {
            gone.stdin = None; // its body ends
            let status = gone.child.wait().expect("it is our child");
            assert!(status.success(), "{status}: {}", gone.errors());
        } else {
            let pid = Pid::from_raw(first.cast_signed()).expect("a pid is not 0");
            kill_process(pid, Signal::KILL).expect("it lives");
            gone.child.wait().expect("it is our child");
        }
        // Through the gap, whoever leads by now. A dead root's actors may take their grace to end.
        left.say("find nobody");
        assert_eq!(left.line("found "), "0");
        left.say("call");
        assert_eq!(left.line("called "), "3");
        until("the other root leads", || leader() == Some(left.child.id())).await;
        assert_eq!(lock_holders(), 1);
        // A newcomer finds it, and is found.
        let my_name = if their_name == "left" { "right" } else { "left" };
        let mut third = start_pair("third", my_name);
        third.line("met ");
        left.say("call third");
        assert_eq!(left.line("called "), "3");
        if round % 2 == 0 {
            left.say(&format!("find {their_name}"));
            assert_eq!(left.line("found "), "0");
        }
        for mut root in [third, left] {
            root.stdin = None;
            let status = root.child.wait().expect("it is our child");
            assert!(status.success(), "{status}: {}", root.errors());
        }
    }
}

/// S6.133, S6.140: nobody can take its place while it has its lock, nobody waits for it for ever, and the names
/// of one's own tree need no leader.
#[teamster::test(exclusive)]
async fn a_leader_that_stands_still_holds_up_nobody_for_long() {
    let mut roots = [start_pair("left", "right"), start_pair("right", "left")];
    for root in &mut roots {
        root.line("met ");
    }
    let leads = leader().expect("somebody leads");
    let [mut stopped, mut left] = roots;
    let [mut its_name, mut my_name] = ["left", "right"];
    if stopped.child.id() != leads {
        std::mem::swap(&mut stopped, &mut left);
        std::mem::swap(&mut its_name, &mut my_name);
    }
    let leading = Pid::from_raw(leads.cast_signed()).expect("a pid is not 0");
    kill_process(leading, Signal::STOP).expect("it lives");
    // Whichever thread takes the signal stops the others.
    until("it stands still", || stands_still(leads)).await;
    // Known here.
    left.say(&format!("find {my_name}"));
    assert_ne!(left.line("found "), "0");
    // The leader would have to be asked.
    let asked = Instant::now();
    left.say("find nobody");
    let told = left.line("found ");
    assert!(asked.elapsed() < LOOKUP_WITHIN, "{:?}", asked.elapsed());
    assert!(told.starts_with("error "), "{told}");
    // One that comes now finds its own all the same, and waits for the other's.
    let mut third = start_pair("third", "third");
    third.line("met ");
    kill_process(leading, Signal::KILL).expect("it lives");
    stopped.child.wait().expect("it is our child");
    let heirs = [left.child.id(), third.child.id()];
    until("one of the others leads", || leader().is_some_and(|leader| heirs.contains(&leader))).await;
    assert_eq!(lock_holders(), 1);
    left.say("call third");
    assert_eq!(left.line("called "), "3");
    third.say(&format!("call {my_name}"));
    assert_eq!(third.line("called "), "3");
    for mut root in [third, left] {
        root.stdin = None;
        let status = root.child.wait().expect("it is our child");
        assert!(status.success(), "{status}: {}", root.errors());
    }
}

/// Whether every thread of it is stopped.
fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let mut stats = threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).expect("it lives"));
    stats.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// A look-up waits at most a second for a leader.
const LOOKUP_WITHIN: Duration = Duration::from_secs(2);

#[teamster::test]
async fn a_root_that_does_not_lead_is_found_by_the_others() -> Result<(), Error> {
    open_nursery(async |an| {
        let ours = an.start_actor("left").await?;
        until("we lead", || leader() == Some(std::process::id())).await;
        let mut other = start_pair("right", "left");
        assert_eq!(other.line("met "), ours.aid().pid().to_string());
        let right = wait_for_actor("right").await?;
        assert_eq!(ours.run(ask(right.clone())).await?, 3);
        let everybody: Vec<_> = list_actors().await?;
        assert!(everybody.contains(&right) && everybody.contains(&ours));
        other.stdin = None;
        let status = other.child.wait().expect("it is our child");
        assert!(status.success(), "{status}: {}", other.errors());
        assert_eq!(find_actor("right").await?, None);
        assert!(matches!(right.run(add(1, 2)).await, Err(Error::ActorDied(_))));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn eight_of_one_name_are_cancelled_beside_another_registrar() -> Result<(), Error> {
    // Another runtime of this process has a root of its own, which leads.
    let (ready, wait) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let leader_thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(open_nursery(async |an| {
            an.start_actor("elsewhere").await?;
            ready.send(()).expect("the test waits");
            ended.await.ok();
            Ok(())
        }))
    });
    wait.recv().expect("the other root boots");
    open_nursery(async |an| {
        let eight = an.start_actors(["same"; 8]).await?;
        assert_eq!(find_actors("same").await?.len(), 8);
        assert!(eight[0].run(find("elsewhere".into())).await?.is_some());
        let asked = Instant::now();
        assert_eq!(an.cancel().await.len(), 8);
        assert!(asked.elapsed() < Duration::from_millis(2200), "{:?}", asked.elapsed());
        assert_eq!(find_actors("same").await?, []);
        Ok(())
    })
    .await?;
    end.send(()).expect("the other root waits");
    leader_thread.join().expect("it does not panic")
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_program_that_cannot_speak_to_etcd_says_so() {
    let mut command = partner::command("pair");
    let mut pair =
        partner::start(command.env("MINE", "ann").env("THEIRS", "bob").env("TEAMSTER_ETCD", "http://a:2379"));
    assert!(!pair.child.wait().expect("it is ours").success());
    let errors = pair.errors();
    assert!(errors.contains("TEAMSTER_ETCD is set") && errors.contains("cargo feature `etcd`"), "{errors}");
}

#[rpc]
async fn ask_parent() -> teamster::Result<i64> {
    let parent = teamster::parent()?.expect("every child has one");
    Ok(parent.run(add(20, 2)).await?)
}

#[teamster::test]
async fn a_child_reaches_its_parent_and_its_root() -> Result<(), Error> {
    open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        assert_eq!(child.run(ask_parent()).await?, 22);
        assert_eq!(child.run(meet("root".into())).await?, 21);
        Ok(())
    })
    .await
}
