//! Does a host's agent start actors for those whom it believes, and keep its books of them whatever ends?
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Agent as OnAgent;
use teamster::{Addr, Context, Error, ExitKind, Portal, RootBuilder, Rung, SpawnReason, Transport, context, rpc};

#[path = "support/agent.rs"]
mod agent;
#[path = "support/authority.rs"]
mod authority;
#[path = "../../tests/support/hosts.rs"]
mod hosts;
#[path = "../../tests/support/namespaces.rs"]
mod namespaces;
use agent::{Agent, processes, run};
use authority::Ca;
use hosts::Hosts;

/// As long as the network may be silent here.
const LOST_AFTER: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(1);
/// More than a busy machine needs for anything that is to happen at once.
const SOON: Duration = Duration::from_secs(3);
/// More than it takes to send this test there, on a busy machine.
const SHIPPED_WITHIN: Duration = Duration::from_secs(30);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn adds_in(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    Ok(other.run(add(a, b)).await?)
}

#[rpc]
async fn waits_for_ever() {
    std::future::pending().await
}

/// Where it is: a variable, its last argument, its folder, and what it must not be told.
#[rpc]
async fn surroundings() -> teamster::Result<(Option<String>, Option<String>, String, Vec<String>)> {
    let hidden = ["TEAMSTER_SESSION", "TEAMSTER_FROM", "TEAMSTER_IDENTITY", "TEAMSTER_BOOT", "TEAMSTER_LINEAGE"];
    let found = hidden.iter().filter(|name| std::env::var_os(name).is_some()).map(|&name| name.to_owned()).collect();
    let folder = std::env::current_dir()?.display().to_string();
    Ok((std::env::var("TEAMSTER_TEST_GREETING").ok(), std::env::args().next_back(), folder, found))
}

#[rpc]
async fn prints(out: String, err: String) {
    println!("{out}");
    eprintln!("{err}");
}

#[rpc]
async fn exits(status: i32) {
    eprintln!("its last words");
    std::process::exit(status)
}

/// Keeps its thread busy, whoever asks it to end.
#[rpc]
async fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

/// Has a child of its own on its host.
#[context]
async fn keeps_one(ctx: Context<()>) -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        ctx.started(()).await?;
        Ok(child.run(waits_for_ever()).await?)
    });
    Ok(block.await?)
}

fn root_of(identity: &Path) -> RootBuilder {
    teamster::root().identity(identity).lost_after(LOST_AFTER).grace(GRACE).boot_timeout(SHIPPED_WITHIN)
}

/// An authority, the identity of the host `b`, and that of a client.
fn believers() -> (Ca, PathBuf, PathBuf) {
    let ca = Ca::new();
    let (host, client) = (ca.issue("b"), ca.issue("anna"));
    (ca, host, client)
}

fn cached(agent: &Agent, client: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(agent.cache().join(client)).into_iter().flatten();
    entries.map(|entry| entry.expect("it is read").path()).collect()
}

#[teamster::test]
async fn an_actor_is_started_by_the_agent_of_a_host() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let first = an.actor("first").on("b").start().await?;
        assert_eq!(first.run(add(1, 2)).await?, 3);
        let cached_first = cached(&agent, "anna");
        let [executable] = &cached_first[..] else { panic!("{cached_first:?}") };
        let shipped = fs::metadata(executable)?.modified()?;

        let mut second = an.actor("second").on("b").env("TEAMSTER_TEST_GREETING", "hay");
        // What the test harness needs over there, and a word that no test is called by.
        second = second.args(std::env::args().skip(1).chain(["it's $HOME".to_owned()])).current_dir("/tmp");
        let second = second.start().await?;
        let (greeting, arg, folder, hidden) = second.run(surroundings()).await?;
        assert_eq!((greeting.as_deref(), arg.as_deref(), folder.as_str()), (Some("hay"), Some("it's $HOME"), "/tmp"));
        assert!(hidden.is_empty(), "{hidden:?}");
        assert_eq!(cached(&agent, "anna"), cached_first);
        assert_eq!(fs::metadata(executable)?.modified()?, shipped, "it was sent once");
        assert_eq!(first.run(adds_in(second.clone(), 1, 1)).await?, 2);
        assert_eq!(second.run(adds_in(teamster::this_actor()?, 1, 1)).await?, 2);

        let listed = agent.list();
        assert_eq!(listed.len(), 2, "{listed:?}");
        let of_first = listed.iter().find(|one| one["name"] == "first").expect("it is listed");
        assert_eq!((&of_first["client"], &of_first["led"]), (&"anna".into(), &true.into()));
        assert_eq!(of_first["uuid"], first.aid().uuid().to_string());
        let receipt = second.cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)));
        assert_eq!(agent.list().len(), 1, "who hears of its end finds nothing of it there");
        Ok(())
    });
    ended.await?;
    agent.is_left_alone(SOON);
    let log = agent.log();
    assert!(log.contains("anna of 127.0.0.1") && log.contains(" starts first ("), "{log}");
    agent.says("second (");
    agent.says("of anna has ended: status 0");
    Ok(())
}

#[teamster::test]
async fn what_it_prints_comes_here_and_its_death_is_told() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    // This test has a process of its own, and here it goes on to write where it did.
    let (out, err) = (rustix::io::dup(rustix::stdio::stdout())?, rustix::io::dup(rustix::stdio::stderr())?);
    let mut files = [tempfile::tempfile()?, tempfile::tempfile()?];
    rustix::stdio::dup2_stdout(&files[0])?;
    rustix::stdio::dup2_stderr(&files[1])?;
    let much = "x".repeat(300 << 10);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        far.run(prints(much.clone(), "to stderr".into())).await?;
        Ok(far.run(exits(7)).await?)
    });
    let ended = ended.await;
    rustix::stdio::dup2_stdout(out)?;
    rustix::stdio::dup2_stderr(err)?;
    let mut written = [String::new(), String::new()];
    for (file, written) in files.iter_mut().zip(&mut written) {
        file.rewind()?;
        file.read_to_string(written)?;
    }
    // What the test harness prints there at its boot takes another way than its Hello, and may come after that.
    assert!(written[0].ends_with(&format!("{much}\n")), "all of it arrives: {} bytes", written[0].len());
    assert!(written[1].contains("to stderr\n"), "{}", written[1]);
    let Err(Error::ActorDied(death)) = ended else { panic!("it has died: {ended:?}") };
    assert_eq!(death.exit(), ExitKind::Status(7), "{death}");
    assert!(death.to_string().contains("its last words"), "{death}");
    agent.is_left_alone(SOON);
    Ok(())
}

/// What nobody reads here makes the actor wait there, and nobody else.
#[teamster::test(exclusive)]
async fn a_blocked_terminal_holds_up_no_cancel() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let out = rustix::io::dup(rustix::stdio::stdout())?;
    let (terminal, ours) = rustix::pipe::pipe()?;
    rustix::stdio::dup2_stdout(&ours)?;
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let quiet = an.actor("quiet").on("b").start().await?;
        let printing = far.clone();
        let (_cut_off, ended) = tokio::join!(printing.run(prints("x".repeat(4 << 20), String::new())), async {
            let mut before = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await; // that nothing more comes has no event
                let now = rustix::io::ioctl_fionread(&terminal)?;
                if now > 0 && now == std::mem::replace(&mut before, now) {
                    break;
                }
            }
            tokio::time::sleep(2 * LOST_AFTER).await; // the network is not silent, whoever stands still
            assert_eq!(quiet.run(add(1, 2)).await?, 3);
            assert_eq!(agent.list().iter().filter(|one| one["led"] == true).count(), 2);
            let began = Instant::now();
            let receipt = far.cancel_actor().await?;
            Ok::<_, anyhow::Error>((receipt, began.elapsed()))
        });
        Ok(ended?)
    });
    let ended = ended.await;
    rustix::stdio::dup2_stdout(out)?;
    drop((terminal, ours));
    let (receipt, took) = ended?;
    let wanted = (Some(Rung::Sigkill), ExitKind::Signal(9));
    assert_eq!((receipt.rung, receipt.exit), wanted, "it stands still in the middle of its line");
    assert!(took < GRACE + SOON, "{took:?}");
    agent.is_left_alone(SOON);
    Ok(())
}

#[teamster::test(exclusive)]
async fn one_that_is_stuck_is_killed_over_there() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let stuck = far.clone();
        let (called, receipt) = tokio::join!(stuck.run(spins()), async {
            while !is_busy("teamster:far") {
                tokio::time::sleep(Duration::from_millis(5)).await; // nothing tells when a process has taken some time
            }
            far.cancel_actor().await
        });
        assert!(called.is_err());
        let receipt = receipt?;
        assert!(receipt.heard.is_some(), "its control thread has heard it");
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)));
        assert!(agent.list().is_empty());
        Ok(())
    });
    ended.await?;
    agent.is_left_alone(SOON);
    Ok(())
}

/// Whether it has taken some processor time.
fn is_busy(title: &str) -> bool {
    processes(title).iter().any(|(pid, _)| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(11)?.parse::<u64>().ok());
        ticks.is_some_and(|ticks| ticks > 20)
    })
}

/// Why a start has failed, as its user reads it.
async fn refused(root: RootBuilder, launcher: OnAgent) -> String {
    let ended = root.open(async |an| Ok(drop(an.actor("far").launcher(launcher).start().await?))).await;
    ended.expect_err("it can't start").to_string()
}

#[teamster::test]
async fn who_is_not_believed_starts_nothing_and_is_told_why() {
    let (ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let at = |name: &str| OnAgent::new(name).at(agent.addr.clone());
    let check = |told: &str, wanted: &str| assert!(told.contains(wanted), "{wanted:?} is not in {told:?}");

    check(&refused(teamster::root(), at("b")).await, "this tree has none: `teamster ca issue NAME` makes one");
    let other = Ca::new();
    check(&refused(root_of(&other.issue("anna")), at("b")).await, "of no authority that this tree believes");
    check(&refused(root_of(&client), at("c")).await, "it has to show the identity c");
    check(&refused(root_of(&client), at("127.0.0.1")).await, "does not say whose agent answers there");
    check(&refused(root_of(&client), OnAgent::new("no such host")).await, "is no name of a host");
    let nobody = OnAgent::new("b").at("/ip4/127.0.0.1/tcp/1".parse().expect("an address"));
    check(&refused(root_of(&client), nobody).await, "does `teamster serve` run there");

    // Whom the agent does not believe hears it from there.
    let both = Ca::new();
    both.issue("anna");
    both.does(&["update", "anna", "--folder", ca.path("teamster/ca").to_str().expect("it is text")]);
    check(&refused(root_of(&both.path("anna")), at("b")).await, "it refused us: it does not believe our authority");
    agent.says("its certificate is of no authority that this tree believes");

    // The list is read with each connection.
    let bob = ca.issue("bob");
    ca.does(&["revoke", "bob"]);
    ca.does(&["update", "b"]);
    check(&refused(root_of(&bob), at("b")).await, "it refused us: our identity was revoked");
    let log = agent.says("was revoked");
    assert!(log.contains("a connection was refused: 127.0.0.1: "), "{log}");
    assert!(agent.list().is_empty());
    agent.is_left_alone(SOON);
}

/// An authority that is not `teamster ca` may sign others.
#[teamster::test]
async fn a_client_whose_name_is_none_is_refused() -> anyhow::Result<()> {
    let (ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let read = |name: &str| fs::read_to_string(ca.path("teamster/ca").join(name));
    let authority = KeyPair::from_pem(&read("authority.key")?)?;
    let authority = Issuer::from_ca_cert_pem(&read("authority.pem")?, authority)?;
    let mut params = CertificateParams::new(["anna.elsewhere.identity.teamster".to_owned()])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate()?;
    fs::write(client.join("identity.pem"), params.signed_by(&key, &authority)?.pem())?;
    fs::write(client.join("identity.key"), key.serialize_pem())?;
    let told = refused(agent.known_to(root_of(&client)), OnAgent::new("b")).await;
    assert!(told.contains("\"anna.elsewhere\" is no name for a client: "), "{told}");
    agent.says("a connection was refused: 127.0.0.1: anna.elsewhere: \"anna.elsewhere\" is no name for a client: ");
    agent.is_left_alone(SOON);
    Ok(())
}

#[teamster::test]
async fn an_allow_list_of_authorities_counts_instead_of_the_identitys_own() -> anyhow::Result<()> {
    let (ca, host, client) = believers();
    let other = Ca::new();
    let friend = other.issue("friend");
    other.does(&["update", "friend", "--folder", ca.path("teamster/ca").to_str().expect("it is text")]);
    let list = other.path("teamster/ca/authority.pem");
    let agent = Agent::start(&host, &["--allow", list.to_str().expect("it is text")]);
    let told = refused(agent.known_to(root_of(&client)), OnAgent::new("b")).await;
    assert!(told.contains("it refused us"), "{told}");
    let ended = agent.known_to(root_of(&friend)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        assert_eq!(far.run(add(1, 2)).await?, 3);
        assert_eq!(agent.list()[0]["client"], "friend");
        Ok(())
    });
    ended.await?;
    agent.is_left_alone(SOON);
    Ok(())
}

#[teamster::test]
async fn a_client_has_so_many_actors_and_no_more() -> anyhow::Result<()> {
    let (ca, host, client) = believers();
    let agent = Agent::start(&host, &["--limits", "actors=0", "--limits-of", "anna:actors=2"]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let _one = an.actor("one").on("b").start().await?;
        let two = an.actor("two").on("b").start().await?;
        let three = an.actor("three").on("b").start().await;
        let Err(Error::Spawn { name, reason: SpawnReason::DiedBooting(death) }) = three else {
            panic!("it is one too many")
        };
        let told = death.to_string();
        assert_eq!(name, "three");
        let wanted =
            "b: anna may run 2 actors here at a time, and 2 run: end one, or start this host's agent with --limits-of anna:actors=3";
        assert!(told.contains(wanted), "{told}");
        two.cancel_actor().await?;
        let three = an.actor("three").on("b").start().await?;
        assert_eq!(three.run(add(1, 2)).await?, 3);
        Ok(())
    });
    ended.await?;
    let told = refused(agent.known_to(root_of(&ca.issue("bob"))), OnAgent::new("b")).await;
    assert!(told.contains("b: bob may run no actor here at a time"), "{told}");
    agent.is_left_alone(SOON);
    Ok(())
}

/// Two starts at the very same time can't both be the last one.
#[teamster::test]
async fn starts_at_once_do_not_pass_the_limit_together() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &["--limits", "actors=3"]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        an.actor("first").on("b").start().await?.cancel_actor().await?; // sends the executable
        let starts = (0..8).map(|n| an.actor(&format!("w{n}")).on("b").start());
        let started = futures::future::join_all(starts).await;
        let (well, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        assert_eq!((well.len(), agent.list().len()), (3, 3), "{refused:?}");
        assert!(refused.iter().all(|error| format!("{error:?}").contains("3 actors here at a time")), "{refused:?}");
        Ok(())
    });
    ended.await?;
    agent.is_left_alone(SOON);
    Ok(())
}

async fn survives_a_restart(signal: Signal) -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let mut agent = Agent::start(&host, &["--limits", "actors=2"]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let one = an.actor("one").on("b").start().await?;
        agent.restart(signal);
        assert_eq!(one.run(add(1, 2)).await?, 3, "it goes on");
        assert_eq!((agent.list().len(), agent.list()[0]["led"].as_bool()), (1, Some(true)));
        let two = an.actor("two").on("b").start().await?;
        assert_eq!(two.run(adds_in(one.clone(), 1, 2)).await?, 3);
        let three = an.actor("three").on("b").start().await;
        assert!(format!("{three:?}").contains("2 actors here at a time, and 2 run"), "the first one counts: {three:?}");
        let receipt = one.cancel_actor().await?;
        assert_eq!(receipt.exit, ExitKind::Status(0));
        assert_eq!(agent.list().len(), 1);
        Ok(())
    });
    ended.await?;
    agent.is_left_alone(SOON);
    Ok(())
}

#[teamster::test]
async fn an_agent_that_is_restarted_ends_nothing_and_knows_what_runs() -> anyhow::Result<()> {
    survives_a_restart(Signal::TERM).await
}

#[teamster::test]
async fn an_agent_that_was_killed_ends_nothing_either() -> anyhow::Result<()> {
    survives_a_restart(Signal::KILL).await
}

/// What is killed of the three that lie between a parent and its actor: the actor ends, and nothing is left of it anywhere.
async fn ends_when_killed(title: &str) {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            let [(pid, _)] = processes(title)[..] else { panic!("there is one: {:?}", processes("")) };
            kill_process(pid, Signal::KILL)?;
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let ended = ended.await;
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}");
    agent.is_left_alone(GRACE + SOON);
}

#[teamster::test]
async fn when_the_envoy_is_killed_nothing_is_left_over_there() {
    ends_when_killed("teamster envoy to b").await;
}

#[teamster::test]
async fn when_the_session_is_killed_the_agent_sees_to_the_rest() {
    ends_when_killed("teamster session of").await;
}

/// The keeper is what ends all else: without it, its session does.
#[teamster::test]
async fn when_the_keeper_is_killed_its_session_sees_to_the_rest() {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            let keeper = agent.list()[0]["keeper"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
            kill_process(keeper.expect("it has one"), Signal::KILL)?;
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let ended = ended.await;
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}");
    agent.is_left_alone(SOON);
}

/// Session and agent are killed, and another agent finds what they have left.
#[teamster::test]
async fn another_agent_sees_to_what_was_left() {
    let (_ca, host, client) = believers();
    let mut agent = Agent::start(&host, &[]);
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").grace(Duration::from_secs(10)).start().await?;
        let keeper =
            agent.list()[0]["keeper"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("it has one");
        kill_process(keeper, Signal::STOP)?; // it does not see to anything any more
        let [(session, _)] = processes("teamster session of")[..] else { panic!("there is one") };
        kill_process(agent.pid(), Signal::STOP)?;
        kill_process(session, Signal::KILL)?;
        agent.restart(Signal::KILL);
        agent.says("an actor is left without a connection");
        kill_process(keeper, Signal::CONT)?;
        Ok(far.run(waits_for_ever()).await?)
    });
    let ended = ended.await;
    assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}");
    agent.is_left_alone(GRACE + SOON);
    agent.says("it is gone");
}

#[teamster::test]
async fn actors_over_there_start_others_on_further_hosts() -> anyhow::Result<()> {
    let (ca, host, client) = believers();
    let (b, c) = (Agent::start(&host, &[]), Agent::start(&ca.issue("c"), &[]));
    let root = b.known_to(root_of(&client)).hosts([("c", c.addr.clone())]);
    let ended = root.open(async |an| {
        let mid = an.actor("mid").on("b").start().await?;
        assert_eq!(mid.run(adds_further(1, 2)).await?, 3);
        c.is_left_alone_but("teamster:mid");
        Ok(())
    });
    ended.await?;
    assert!(c.log().contains("anna of 127.0.0.1"), "{}", c.log());
    b.is_left_alone(SOON);
    c.is_left_alone(SOON);
    Ok(())
}

impl Agent {
    /// Its books are empty, whatever others have started.
    fn is_left_alone_but(&self, other: &str) {
        assert!(self.list().is_empty() && !processes(other).is_empty());
    }
}

#[rpc]
async fn adds_further(a: i64, b: i64) -> teamster::Result<i64> {
    let block = teamster::open_nursery(async |an| {
        let leaf = an.actor("leaf").on("c").boot_timeout(SHIPPED_WITHIN).start().await?;
        let sum = leaf.run(add(a, b)).await?;
        leaf.cancel_actor().await?;
        Ok(sum)
    });
    Ok(block.await?)
}

// ---- a root that is killed

/// A program that the test below starts.
#[test]
#[ignore = "a program that another test starts"]
fn program() {
    let _guard = teamster::init();
    if std::env::var_os(IDENTITY).is_some() {
        let ended = play();
        println!("it has ended: {ended:?}");
    }
}

const IDENTITY: &str = "TEAMSTER_TEST_CLIENT";
const HOSTS: &str = "TEAMSTER_HOSTS";

fn play() -> Result<(), Error> {
    let identity = PathBuf::from(std::env::var_os(IDENTITY).expect("it is set"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(root_of(&identity).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            println!("it runs");
            Ok(an.wait().await)
        });
        Ok(opened.await?)
    }))
}

#[teamster::test]
async fn a_root_that_is_killed_has_its_actors_gone_in_time() {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let mut root = Command::new(std::env::current_exe().expect("we run"));
    root.args(["program", "--exact", "--nocapture", "--ignored", "--test-threads=1"]).env(IDENTITY, &client);
    root.env(HOSTS, format!("b={}", agent.addr)).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut root = root.spawn().expect("it starts");
    let mut said = std::io::BufReader::new(root.stdout.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("it runs") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).expect("it is text") > 0, "it has ended");
    }
    assert_eq!(agent.list().len(), 1);
    root.kill().expect("it runs");
    root.wait().expect("it is our child");
    agent.is_left_alone(LOST_AFTER + GRACE + SOON);
    assert!(processes("teamster envoy").is_empty());
    // What it has left of sockets here, the next root sweeps.
    teamster::open_nursery(async |_an| Ok(())).await.expect("it opens, and ends well");
}

// ---- strangers

fn knock(addr: &Addr) -> TcpStream {
    let Addr::Tcp(place) = addr else { panic!("{addr}") };
    let addr: SocketAddr = place.to_string().parse().expect("it is by number");
    TcpStream::connect(addr).expect("it listens")
}

#[teamster::test]
async fn strangers_are_let_go_and_cost_nobody_else_anything() -> anyhow::Result<()> {
    let (_ca, host, client) = believers();
    let agent = Agent::start(&host, &[]);
    let mut plain = knock(&agent.addr);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer); // an alert, or a reset
    agent.says("it does not speak TLS");
    drop(knock(&agent.addr)); // a probe is no event

    // Half a handshake each: the first bytes of one, and no more.
    let halves: Vec<TcpStream> = (0..150)
        .map(|_| {
            let mut half = knock(&agent.addr);
            half.write_all(b"\x16\x03\x01").map(|()| half).expect("it takes that")
        })
        .collect();
    let log = agent.says("connections are let go that have not said who they are");
    let began = Instant::now();
    while processes("teamster session of").len() > 64 {
        assert!(began.elapsed() < SOON, "who is let go is gone soon, before its time is over: {log}");
        std::thread::park_timeout(Duration::from_millis(5)); // these are not our children
    }
    let ended = agent.known_to(root_of(&client)).open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        assert_eq!(far.run(add(1, 2)).await?, 3);
        Ok(())
    });
    ended.await?;
    agent.says("it did not say who it is within 5s");
    drop(halves);
    agent.is_left_alone(Duration::from_secs(10));
    assert!(agent.log().lines().count() < 120, "{}", agent.log());
    Ok(())
}

// ---- other hosts, and kinds of hosts

/// A process that counts as one of another kind of machine, as the kernel tells it.
#[teamster::test]
async fn a_host_of_another_kind_says_so() {
    let (_ca, host, client) = believers();
    let agent = Agent::start_by(&["setarch", "i686"], &host, "/ip4/127.0.0.1/tcp/0", &[]);
    let told = refused(agent.known_to(root_of(&client)), OnAgent::new("b")).await;
    assert!(told.contains("that host is Linux i686, and this program runs on Linux"), "{told}");
    agent.is_left_alone(SOON);
}

#[teamster::test]
#[ignore = "needs root's rights"]
async fn a_host_whose_cache_is_full_or_not_for_programs_says_so() {
    let (_ca, host, client) = believers();
    for (option, wanted) in [
        ("size=1m", "No space left on device (os error 28): `teamster serve --cache` names another folder"),
        ("noexec", "can not be run: is it mounted noexec?"),
    ] {
        let script = format!("mount -t tmpfs -o {option} small {{cache}} && exec \"$@\"");
        let agent = Agent::start_by(&["unshare", "-m", "sh", "-c", &script, "sh"], &host, "/ip4/127.0.0.1/tcp/0", &[]);
        let told = refused(agent.known_to(root_of(&client)), OnAgent::new("b")).await;
        assert!(told.contains(wanted), "{wanted:?} is not in {told:?}");
        agent.is_left_alone(SOON);
        assert!(agent.list().is_empty());
    }
}

/// A root that is reached by networks alone, on the first of these hosts; an agent on the second.
fn on_two_hosts() -> (Ca, Hosts, Agent, RootBuilder) {
    let hosts = Hosts::new(2);
    let (ca, host, client) = believers();
    let prefix = hosts.prefix(1);
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let agent = Agent::start_by(&prefix, &host, &hosts::at(1).to_string(), &[]);
    let root = agent.known_to(root_of(&client)).transport(Transport::Tcp).listen(hosts::at(0));
    (ca, hosts, agent, root)
}

#[teamster::test(exclusive)]
#[ignore = "needs root's rights and iproute2"]
async fn a_cable_that_is_pulled_has_its_actors_gone_in_time() {
    let (_ca, hosts, agent, root) = on_two_hosts();
    let mut pulled_at = None;
    let ended = root.open(async |an| {
        let far = an.actor("far").on("b").start().await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            hosts.unplug(1);
            pulled_at = Some(Instant::now());
            // Where it runs, nobody waits for the other side either.
            agent.is_left_alone(LOST_AFTER + GRACE + SOON);
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    let took = pulled_at.expect("it was pulled").elapsed();
    assert!(took < LOST_AFTER + GRACE + SOON, "{took:?}");
    assert!(death.to_string().contains("had been silent for"), "{death}");
    assert!(processes("teamster envoy").is_empty());
}

/// Nothing that leads there is heard of the cable: what is shipped is on its way.
#[teamster::test(exclusive)]
#[ignore = "needs root's rights and iproute2"]
async fn a_cable_that_is_pulled_in_the_middle_of_a_start_fails_that_start() {
    let (_ca, hosts, agent, root) = on_two_hosts();
    let ended = root.boot_timeout(Duration::from_secs(4)).open(async |an| {
        let start = an.actor("far").on("b").start();
        let unplug = async {
            while cached(&agent, "anna").is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await; // another host's files have no event here
            }
            hosts.unplug(1);
        };
        let (started, ()) = tokio::join!(start, unplug);
        Ok(started.map(drop)?)
    });
    let ended = ended.await;
    assert!(matches!(ended, Err(Error::Spawn { .. })), "it did not start: {ended:?}");
    agent.is_left_alone(LOST_AFTER + SOON);
    assert!(cached(&agent, "anna").is_empty(), "half an executable is left: {:?}", cached(&agent, "anna"));
}

// ---- the command

#[teamster::test]
async fn what_can_not_be_served_is_said_with_what_to_do() {
    let (_ca, host, _client) = believers();
    let agent = Agent::start(&host, &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let refuses = |arguments: &[&str], wanted: &str| {
        let (state, cache) = (folder.path().join("state"), folder.path().join("cache"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
        command
            .arg("serve")
            .env("STATE_DIRECTORY", &state)
            .env("CACHE_DIRECTORY", &cache)
            .env_remove("TEAMSTER_IDENTITY");
        let output = command.args(arguments).output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(wanted), "{wanted:?} is not in {told:?}");
    };
    let (host, state) = (host.to_str().expect("it is text"), agent.state());
    let here = ["--identity", host, "--listen", "/ip4/127.0.0.1/tcp/0"];
    let with =
        |more: &[&'static str]| -> Vec<String> { here.iter().chain(more).map(|&text| text.to_owned()).collect() };
    let check = |arguments: Vec<String>, wanted: &str| {
        refuses(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    };
    refuses(&[], "--identity <DIR>");
    refuses(&["--identity", "/no/such/folder"], "there is no folder /no/such/folder: `teamster ca issue");
    let mut other = with(&["--state"]);
    other.push(state.to_str().expect("it is text").to_owned());
    check(other, "another agent keeps the books in");
    refuses(&["--identity", host, "--listen", &agent.addr.to_string()], "--listen names another address or port");
    refuses(&["--identity", host, "--listen", "/uds/tmp/x"], "is no place for an agent");
    check(with(&["--limits", "actors=many"]), "is no limit: actors=N");
    check(with(&["--limits-of", "actors=2"]), "it has no colon, as anna:actors=8 has");
    check(with(&["--limits-of", "Anna:actors=0"]), "\"Anna\" is no name for a client");
    check(with(&["--allow", "/etc/hostname"]), "/etc/hostname holds no certificate that can be read");
    check(with(&["--cache", "/dev/null/x"]), "--cache names another");
    check(with(&["--state", "/dev/null/x"]), "--state names another folder");
    let mut others = "/".to_owned();
    if rustix::process::geteuid().is_root() {
        let folder = folder.path().join("others");
        fs::create_dir(&folder).expect("a folder");
        std::os::unix::fs::chown(&folder, Some(1), None).expect("root may");
        others = folder.to_str().expect("it is text").to_owned();
    }
    for option in ["--cache", "--state"] {
        let mut arguments = with(&[option]);
        arguments.push(others.clone());
        check(arguments, &format!("it belongs to another user: {option} names another"));
    }
}

/// As by `teamster serve | head -0`.
#[test]
fn an_agent_serves_though_nobody_reads_where() {
    let (_ca, host, _client) = believers();
    let folder = tempfile::tempdir().expect("a folder");
    let (unread, stdout) = std::io::pipe().expect("a pipe");
    drop(unread);
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(["serve", "--listen", "/ip4/127.0.0.1/tcp/0", "--identity"]).arg(&host);
    command.env("STATE_DIRECTORY", folder.path().join("state")).env("CACHE_DIRECTORY", folder.path().join("cache"));
    let mut agent = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut log = BufReader::new(agent.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("an agent listens") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("it is text"), 0, "it has ended");
    }
    kill_process(Pid::from_child(&agent), Signal::TERM).expect("it runs");
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("it is text");
    let ended = agent.wait().expect("it is our child");
    assert!(ended.success() && rest.contains("the agent ends"), "{ended}: {rest}");
}

#[test]
fn nobody_is_listed_where_nothing_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("it is text");
    let listed = run(&["serve", "--list", "--state", state]);
    assert!(listed.status.success() && listed.stdout.is_empty(), "{listed:?}");
    assert_eq!(run(&["serve", "--list", "--json", "--state", state]).stdout, b"[]\n");
}

/// As far as this machine's systemd knows what is in it.
#[test]
fn systemd_takes_the_unit() {
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/teamster.service")).expect("it is there");
    let serve =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/teamster ")).expect("it serves");
    let folder = tempfile::tempdir().expect("a folder");
    // The command line is one that the tool takes: it comes as far as the identity, which is not there.
    let output = run(&serve.replace("/etc/", "/no/such/").split(' ').collect::<Vec<_>>());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("there is no folder /no/such/teamster/identity"),
        "{output:?}"
    );
    let path = folder.path().join("teamster.service");
    fs::write(&path, unit.replace("/usr/local/bin/teamster", env!("CARGO_BIN_EXE_teamster"))).expect("a file");
    let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() else {
        return eprintln!("there is no systemd-analyze here");
    };
    let told = String::from_utf8_lossy(&verified.stderr);
    let wrong: Vec<&str> = told.lines().filter(|line| !line.contains("'DelegateSubgroup'")).collect(); // of systemd 254
    assert!(verified.status.success() && wrong.is_empty(), "{told}");
}

/// What `docs/cluster.md` has people type, as it stands there, but for where the hosts are: both are this one.
#[teamster::test]
async fn the_commands_of_the_page_do_what_it_says() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cluster.md")).expect("it is there");
    let (_, section) = page.split_once("## Hosts with an agent\n").expect("it has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    let typed: Vec<(&str, &str)> = lines.iter().filter_map(|line| line.split_once("$ ")).collect();
    assert_eq!(typed.len(), 7, "{typed:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("bin")).expect("a folder");
    let test = std::env::current_exe().expect("our own path");
    let built = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    assert!(built.join("examples/mandelbrot").exists(), "the examples are built: `cargo build --workspace --examples`");
    let example = format!("shift 3; name=$1; shift 2; exec {}/examples/$name \"$@\"", built.display());
    for (name, script) in [
        ("cargo", example.as_str()),
        ("rsync", "shift; mkdir -p b.home/.config/teamster; cp -r \"$1\" b.home/.config/teamster/identity"),
    ] {
        fs::write(path("bin").join(name), format!("#!/bin/sh\n{script}\n")).expect("a file");
        fs::set_permissions(path("bin").join(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_teamster"), path("bin/teamster")).expect("a link");
    let mut agent: Option<(std::process::Child, String)> = None;
    for (host, line) in typed {
        let line = match &agent {
            Some((_, addr)) => line.replace("/dns/b.example/tcp/7117", addr),
            None => line.to_owned(),
        };
        let serves = line.starts_with("teamster serve --identity");
        let line = if serves { format!("exec {line} --listen /ip4/127.0.0.1/tcp/0") } else { line };
        let mut shell = Command::new("sh");
        let home = path(if host == "b" { "b.home" } else { "home" });
        shell.args(["-c", &line]).current_dir(folder.path()).env("HOME", &home).stdin(Stdio::null());
        for variable in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TEAMSTER_IDENTITY"] {
            shell.env_remove(variable);
        }
        let paths = format!("{}:{}", path("bin").display(), std::env::var("PATH").expect("it is set"));
        shell.env("PATH", paths);
        if serves {
            let mut child = shell.stdout(Stdio::piped()).spawn().expect("there is a sh");
            let mut said = String::new();
            let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
            std::io::BufRead::read_line(&mut stdout, &mut said).expect("it is text");
            let addr = said.trim().strip_prefix("serving at ").expect("it serves").to_owned();
            agent = Some((child, addr));
            continue;
        }
        let output = shell.output().expect("there is a sh");
        assert!(output.status.success(), "{line}: {output:?}");
    }
    let (mut agent, _) = agent.expect("it was started");
    kill_process(Pid::from_child(&agent), Signal::TERM).expect("it runs");
    assert!(agent.wait().expect("it is our child").success());
    assert!(fs::read(path("agents.png")).expect("it was written").starts_with(b"\x89PNG"));
}
