//! Where do actors listen, who comes in there, and who is found after the end? (S6)
#![allow(unsafe_code, reason = "a program that raises a signal in itself")]
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use futures::poll;
use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Launcher;
use teamster::testing::LeakCheck;
use teamster::{
    Addr, CancelRequest, Error, Portal, SpawnReason, find_actor, list_actors, open_nursery, rpc, wait_for_actor,
};

#[path = "support/starved.rs"]
mod starved;
use starved::Moment;

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
async fn hold() {
    std::future::pending().await
}

fn folder() -> PathBuf {
    std::env::var_os("TEAMSTER_DIR").expect("the harness sets it").into()
}

fn path(portal: &Portal) -> PathBuf {
    match portal.addr() {
        Some(Addr::Uds(path)) => path.clone(),
        other => panic!("{other:?}"),
    }
}

// ---- the programs

#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "tree" => drop(tree()),
        other => panic!("no program {other:?}"),
    }
}

/// A root that starts the actor "theirs", says so, and does what it is told on stdin. Its own name is
/// "their-root".
#[teamster::main]
async fn tree() -> Result<(), Error> {
    let ended = teamster::root().name("their-root").open(async |an| {
        let theirs = an.start_actor("theirs").await?;
        println!("\nup {}", theirs.aid().pid());
        while let Some(line) = partner::heard().await {
            match line.as_str() {
                "fail" => return Err("it failed".into()),
                // SAFETY: raising a signal is a plain call.
                "raise" => drop(unsafe { libc::raise(libc::SIGINT) }),
                "hold" => theirs.run(hold()).await?,
                "meet" => {
                    let answer = an.start_actor("child").await?.run(reach_both()).await;
                    println!("met {answer:?}");
                }
                other => panic!("it was told {other:?}"),
            }
        }
        Ok(())
    });
    match ended.await {
        Err(error @ Error::Interrupted { .. }) => Err(error),
        ended => {
            if let Err(Error::Spawn { reason: SpawnReason::Folder { path, .. }, .. }) = &ended {
                eprintln!("no folder at {path}");
            }
            partner::exit(ended) // before libtest has its say
        }
    }
}

/// A child's word on its parent and on its root, whom it finds by their addresses.
#[rpc]
async fn reach_both() -> teamster::Result<(i64, i64)> {
    let parent = teamster::parent()?.expect("a child has one");
    let root = find_actor("their-root").await?.expect("it is registered");
    Ok((parent.run(add(1, 2)).await?, root.run(add(3, 4)).await?))
}

fn start_tree() -> partner::Running {
    partner::start(&mut partner::command("tree"))
}

fn start_tree_in(folder: &Path) -> partner::Running {
    partner::start(partner::command("tree").env("TEAMSTER_DIR", folder))
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

/// Its end, off the runtime.
async fn ends(mut running: partner::Running) -> (ExitStatus, String) {
    let ended = tokio::task::spawn_blocking(move || {
        let status = running.child.wait().expect("it is our child");
        (status, running.errors())
    });
    ended.await.expect("it does not panic")
}

/// Whose process listens where all roots ask.
fn leader() -> Option<u32> {
    let stream = UnixStream::connect(folder().join("registrar.s")).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await; // the kernel has no event for it
    }
}

// ---- where they listen

#[rpc]
async fn addresses_below() -> teamster::Result<Vec<Portal>> {
    Ok(open_nursery(async |an| {
        let leaf = an.start_actor("leaf").await?;
        Ok(vec![teamster::this_actor()?, leaf.run(me()).await?])
    })
    .await?)
}

/// S6.129, as far as there is one transport.
#[teamster::test]
async fn all_of_a_tree_listen_in_its_own_private_folder() -> Result<(), Error> {
    open_nursery(async |an| {
        let root = path(&teamster::this_actor()?);
        let own = root.parent().expect("it lies in a folder").to_owned();
        let below = an.start_actor("mid").await?.run(addresses_below()).await?;
        assert!(own.starts_with(folder()));
        for portal in below.iter().chain(&list_actors().await?) {
            assert_eq!(path(portal).parent(), Some(&*own), "{portal:?}");
        }
        assert_eq!(own.metadata()?.mode() & 0o777, 0o700);
        Ok(())
    })
    .await
}

/// S6.130: refused with the reason, and nothing of it touched.
#[teamster::test]
async fn a_folder_that_others_could_change_is_refused() {
    let test = tempfile::tempdir().expect("a folder");
    let at = |name: &str| test.path().join(name);
    let make = |name: &str, mode| {
        std::fs::create_dir(at(name)).expect("there is room");
        std::fs::set_permissions(at(name), Permissions::from_mode(mode)).expect("it is ours");
    };
    make("real", 0o755);
    make("open", 0o777);
    make("others", 0o700);
    symlink(at("real"), at("link")).expect("there is room");
    let mut refused = vec![
        (at("link"), "link is a symlink"),
        (at("link/below"), "link is a symlink"),
        (at("open/below"), "everybody may write to"),
        (PathBuf::from("/proc/none"), "No such file or directory"), // the system's own word
    ];
    if rustix::process::geteuid().is_root() {
        chown(at("others"), Some(65534), None).expect("we are root");
        refused.push((at("others"), "belongs to user 65534"));
    }
    for (folder, wanted) in refused {
        let (status, errors) = ends(start_tree_in(&folder)).await;
        assert!(status.code() == Some(1) && errors.contains(wanted), "{wanted:?} is not in {errors}");
        assert!(errors.contains("TEAMSTER_DIR"), "the way out: {errors}");
        assert!(errors.contains(&format!("no folder at {}", folder.display())), "as data too: {errors}");
    }
    let real = at("real").metadata().expect("it is there");
    assert_eq!(real.mode() & 0o777, 0o755, "the target of a link is untouched");
    assert_eq!(std::fs::read_dir(at("real")).expect("it is there").count(), 0);
}

#[teamster::test]
async fn a_folder_of_ours_with_a_wrong_mode_is_corrected() {
    let test = tempfile::tempdir().expect("a folder");
    for (name, before) in [("new", None), ("wide", Some(0o755)), ("narrow", Some(0o500))] {
        let at = test.path().join(name);
        if let Some(mode) = before {
            std::fs::create_dir(&at).expect("there is room");
            std::fs::set_permissions(&at, Permissions::from_mode(mode)).expect("it is ours");
        }
        let mut running = start_tree_in(&at);
        running.line("up ");
        assert_eq!(at.metadata().expect("it is there").mode() & 0o777, 0o700, "{name}");
        running.stdin = None;
        let (status, errors) = ends(running).await;
        assert!(status.success(), "{status}: {errors}");
    }
}

/// S6.137.
#[test]
fn addresses_are_text_and_back() {
    for text in ["/uds/run/user/1000/teamster/0123456789/abc.s", "/uds/tmp/a b/ü.s", "/uds/x"] {
        let addr: Addr = text.parse().expect(text);
        assert_eq!(addr.to_string(), text);
        let Addr::Uds(path) = &addr else { panic!("{addr:?}") };
        assert_eq!(path.to_str(), text.strip_prefix("/uds"));
    }
    let config = "/uds/run/a.s\n/tcp/10.0.0.7/4000\n/uds/run/b.s\n";
    let read: Vec<Result<Addr, _>> = config.lines().map(str::parse).collect();
    assert!(matches!(&read[..], [Ok(_), Err(_), Ok(_)]), "{read:?}");
    for (text, wanted) in [
        ("/tcp/10.0.0.7/4000", "tcp is no kind of address"),
        ("/udsx/a", "udsx is no kind of address"),
        ("run/a.s", "begins with a kind"),
        ("/uds", "has no path"),
        ("/uds/", "has no path"),
        ("", "begins with a kind"),
    ] {
        let told = text.parse::<Addr>().expect_err(text).to_string();
        assert!(told.contains(wanted), "{wanted:?} is not in {told}");
    }
}

// ---- who comes in

/// S6.134: who connects and says nothing, or not all, is nobody, and holds up no end.
#[teamster::test(exclusive)]
async fn silent_probes_hold_up_no_end_and_leave_nothing() -> Result<(), Error> {
    let mut held = Vec::new();
    let began_end = open_nursery(async |an| {
        let frank = an.start_actor("frank").await?;
        let check = LeakCheck::new();
        for to in [folder().join("registrar.s"), path(&teamster::this_actor()?), path(&frank)] {
            for said in [&b""[..], b"\x10\0", b"GET / HTTP/1.1\r\n"] {
                let mut probe = UnixStream::connect(&to)?;
                probe.write_all(said)?;
                held.push(probe);
            }
        }
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        // One that goes away leaves no peer behind.
        assert!(find_actor("frank").await?.is_some());
        held.drain(..3);
        let deadline = Instant::now() + Duration::from_secs(5);
        while check.left().len() > held.len() + 6 {
            assert!(Instant::now() < deadline, "{:?}", check.left());
            find_actor("frank").await?;
        }
        Ok(Moment::now())
    })
    .await?;
    let took = began_end.elapsed();
    assert!(took < Duration::from_secs(1), "the end took {took:?}");
    drop(held);
    Ok(())
}

/// S6.135: it has not answered at first, and then it does.
#[teamster::test]
async fn a_slow_registrar_is_recognised_at_the_second_try() -> Result<(), Error> {
    let mut running = start_tree();
    running.line("up ");
    let pid = running.child.id();
    assert_eq!(leader(), Some(pid));
    // Somebody has tidied up: whoever comes now has to look who is there.
    std::fs::remove_file(folder().join("registrar.lock")).expect("it is held by that root");
    send(pid, Signal::STOP);
    let waker = std::thread::spawn(move || {
        // A first look takes half a second.
        std::thread::park_timeout(Duration::from_millis(700));
        send(pid, Signal::CONT);
    });
    open_nursery(async |_an| {
        assert!(find_actor("theirs").await?.is_some(), "it leads, and we are its member");
        assert_eq!(leader(), Some(pid));
        Ok(())
    })
    .await?;
    waker.join().expect("it does not panic");
    running.stdin = None;
    let (status, errors) = ends(running).await;
    assert!(status.success(), "{status}: {errors}");
    Ok(())
}

/// S6.146: also where another root keeps the names of all.
#[teamster::test]
async fn a_child_reaches_its_parent_and_root_whoever_leads() -> Result<(), Error> {
    open_nursery(async |_an| {
        until("we lead", || leader() == Some(std::process::id())).await;
        let mut running = start_tree();
        running.line("up ");
        running.say("meet");
        assert_eq!(running.line("met "), "Ok((3, 7))");
        running.stdin = None;
        let (status, errors) = ends(running).await;
        assert!(status.success(), "{status}: {errors}");
        Ok(())
    })
    .await
}

// ---- who is found after the end (S6.140, 145)

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Value,
    Error,
    Raised,
    Signalled,
    SignalledInACall,
    Killed,
}

/// Their tree ends like this, and is not found from then on.
async fn end_and_look(mut running: partner::Running, ending: Ending) -> Result<(), Error> {
    let theirs = wait_for_actor("theirs").await?;
    assert_eq!(theirs.run(add(1, 2)).await?, 3);
    let pid = running.child.id();
    match ending {
        Ending::Value => running.stdin = None,
        Ending::Error => running.say("fail"),
        Ending::Raised => running.say("raise"),
        Ending::Signalled => send(pid, Signal::INT),
        Ending::SignalledInACall => {
            running.say("hold");
            send(pid, Signal::INT);
        }
        Ending::Killed => {
            send(pid, Signal::KILL);
            teamster::testing::wait_gone(theirs.aid().pid(), Duration::from_secs(5));
        }
    }
    let (status, errors) = ends(running).await;
    match ending {
        Ending::Value => assert!(status.success(), "{status}: {errors}"),
        Ending::Error => assert!(status.code() == Some(1) && errors.contains("it failed"), "{status}: {errors}"),
        Ending::Killed => assert_eq!(status.signal(), Some(9)),
        Ending::Raised | Ending::Signalled | Ending::SignalledInACall => {
            assert_eq!((status.signal(), &*errors), (Some(2), ""), "quietly: {status}");
        }
    }
    assert_eq!(find_actor("theirs").await?, None);
    assert_eq!(find_actor("their-root").await?, None);
    assert!(!list_actors().await?.contains(&theirs));
    let called = theirs.run(add(1, 2)).await;
    assert!(matches!(&called, Err(Error::ActorDied(death)) if death.aid() == theirs.aid()), "{called:?}");
    Ok(())
}

/// After a killed root, the next one sweeps what is left of its files.
const ENDINGS: [Ending; 6] =
    [Ending::Killed, Ending::Error, Ending::Raised, Ending::Signalled, Ending::SignalledInACall, Ending::Value];

#[teamster::test]
async fn who_has_ended_is_not_found_where_we_keep_the_names() -> Result<(), Error> {
    open_nursery(async |an| {
        let ours = an.start_actor("ours").await?;
        until("we lead", || leader() == Some(std::process::id())).await;
        for ending in ENDINGS {
            let mut running = start_tree();
            running.line("up ");
            end_and_look(running, ending).await?;
            assert_eq!(find_actor("ours").await?.as_ref(), Some(&ours), "{ending:?}");
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn who_has_ended_is_not_found_where_he_kept_the_names() -> Result<(), Error> {
    for ending in ENDINGS {
        let mut running = start_tree();
        running.line("up ");
        assert_eq!(leader(), Some(running.child.id()));
        open_nursery(async |an| {
            let ours = an.start_actor("ours").await?;
            assert!(find_actor("their-root").await?.is_some());
            end_and_look(running, ending).await?;
            assert_eq!(find_actor("ours").await?.as_ref(), Some(&ours), "{ending:?}");
            until("we lead now", || leader() == Some(std::process::id())).await;
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// S6.145: a peer of the same user may end a whole tree, by its root; what is connected later says so.
#[teamster::test]
async fn a_root_that_a_peer_cancels_ends_with_its_tree() -> Result<(), Error> {
    let mut running = start_tree();
    running.line("up ");
    open_nursery(async |_an| {
        let theirs = wait_for_actor("theirs").await?;
        let their_root = find_actor("their-root").await?.expect("it leads");
        let receipt = their_root.cancel_actor().await?;
        assert_eq!(receipt.aid, *their_root.aid());
        let (status, errors) = ends(running).await;
        let me = teamster::this_actor()?;
        assert!(
            status.code() == Some(1) && errors.contains(&format!("cancelled by {}", me.aid())),
            "{status}: {errors}"
        );
        assert!(errors.contains(&CancelRequest::Actor.to_string()), "{errors}");
        for portal in [theirs, their_root] {
            let called = portal.run(add(1, 2)).await;
            assert!(matches!(&called, Err(Error::ActorDied(death)) if death.aid() == portal.aid()), "{called:?}");
        }
        Ok(())
    })
    .await
}

// ---- who waits (S6.147)

/// It never connects.
#[derive(Debug)]
struct Asleep;

impl Launcher for Asleep {
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "exec sleep 60"]); // what else it is given is of no interest to it
        command
    }
}

#[teamster::test(exclusive)]
async fn who_waits_for_an_actor_costs_no_connection_and_no_processor_time() -> Result<(), Error> {
    open_nursery(async |an| {
        assert_eq!(an.start_actor("frank").await?.run(add(1, 2)).await?, 3);
        let mut starting = Box::pin(an.actor("asleep").launcher(Asleep).boot_timeout(Duration::from_secs(2)).start());
        let mut waiting = Box::pin(wait_for_actor("asleep"));
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut starting).is_pending());
        tokio::time::timeout(Duration::from_millis(300), &mut starting).await.expect_err("it boots for ever");
        let (before, cpu) = (LeakCheck::new(), cpu_ns());
        tokio::time::timeout(Duration::from_secs(1), &mut starting).await.expect_err("it boots for ever");
        let used = Duration::from_nanos(cpu_ns() - cpu); // the look at what is left takes some itself
        assert_eq!(before.left(), [""; 0]);
        assert!(used < Duration::from_millis(10), "{used:?} of a second");
        assert!(poll!(&mut waiting).is_pending());
        let started = starting.await;
        assert!(matches!(&started, Err(Error::Spawn { .. })), "{started:?}");
        Ok(())
    })
    .await
}

/// What this process's threads have run: the first number of each `schedstat`.
fn cpu_ns() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("we may look at ourselves").flatten();
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.filter_map(of).sum()
}
