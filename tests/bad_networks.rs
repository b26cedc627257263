//! What becomes of a tree where the network is bad? A proxy that no actor knows of stands between them.
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use teamster::{Error, ExitKind, Portal, RootBuilder, SpawnReason, Transport, context, rpc};

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/proxy.rs"]
mod proxy;
use hosts::{Hosts, at, ip};
use namespaces::Unshared;
use proxy::{Cut, Proxy, Way, Weather};

/// The files of tests that must hold over whatever a tree's lines go.
const SUITE: [&str; 9] =
    ["calls", "cancel", "context_races", "contexts", "errors", "kill", "nursery", "stream_ends", "streams"];

/// Tests of the suite that can't hold everywhere, each with its reason.
type Skipped = &'static [(&'static str, &'static str)];

const OF_ANOTHER_TREE: (&str, &str) = (
    "an_actor_of_another_tree_ends_or_is_said_not_to",
    "over TLS another tree is reached with an identity: tests/identity.rs",
);

/// Runs the suite over one of the transports that are secured, with root and all on this host if nothing else is done.
fn run_suite(on: &Unshared, transport: &str, skipped: Skipped, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = on.command(env!("CARGO"));
    command.args(["test", "--workspace", "--offline", "--no-fail-fast"]);
    command.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    command.args(SUITE.iter().flat_map(|file| ["--test", file])).arg("--");
    command.args(skipped.iter().flat_map(|(test, _why)| ["--skip", test])).env("TEAMSTER_TRANSPORT", transport);
    // What cargo has told this test of its own package would have others built anew.
    let of_package = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_CRATE_", "CARGO_BIN_"];
    for (variable, _) in std::env::vars_os() {
        if of_package.iter().any(|prefix| variable.to_string_lossy().starts_with(prefix)) {
            command.env_remove(variable);
        }
    }
    change(&mut command);
    command.output().expect("cargo")
}

#[track_caller]
fn passed(output: &Output) {
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

const NOT_WHERE_IT_IS_SLOW: Skipped = &[
    OF_ANOTHER_TREE,
    ("a_dropped_call_drops_the_remote_task_within_milliseconds", "the way there alone takes longer"),
    ("a_stuck_leaf_leaves_its_parent_time_to_reap_it", "what is said thrice on the way takes a part of its 200 ms"),
    ("a_task_that_drops_contexts_does_not_grow", "so many thousand round trips take minutes"),
    ("items_without_bytes_are_counted_and_nested_ones_come_as_they_went", "the same"),
    // They cut lines, whose ends they find by the addresses on both sides.
    ("a_cancel_by_handle_waits_for_a_task_whose_line_is_lost", "no line leads from one to the other"),
    ("a_line_that_is_lost", "the same"),
    ("a_call_behind_our_goodbye_goes_to_a_new_line", "the same"),
    ("a_cancel_behind_a_lost_line_says_that_it_is_not_acknowledged", "the same"),
    ("a_child_whose_lines_are_cut_is_gone_and_its_parents_body_hears", "the same"),
    ("a_call_that_is_said_not_to_have_started_has_never_begun", "the same"),
    ("a_lost_line_ends_both_sides_at_once_and_nothing_else", "the same"),
    ("an_actor_behind_a_cut_line_is_ended_at_once_and_no_error", "the same"),
];

#[test]
#[ignore = "needs root's rights, iproute2 and nftables"]
fn the_suite_holds_where_all_comes_in_pieces_and_late() {
    let host = Unshared::new(&["--net"]);
    let proxy = Proxy::new(&host, Weather { slow: Some(7), ..Weather::default() });
    let output = run_suite(&host, "tcp", NOT_WHERE_IT_IS_SLOW, |_| {});
    println!("{} connections, {} MiB", proxy.connections(), proxy.carried() >> 20);
    passed(&output);
    assert!(proxy.connections() > 1000, "they go through it");
}

const NOT_BETWEEN_HOSTS: Skipped = &[
    OF_ANOTHER_TREE,
    ("an_idle_actor_sleeps", "it sends heartbeats"),
    ("a_call_behind_our_goodbye_goes_to_a_new_line", "it stops an actor for longer than a host may be silent"),
];

#[test]
#[ignore = "needs root's rights, iproute2 and a C compiler"]
fn the_suite_holds_between_two_hosts() {
    between_two_hosts("tcp", "tcp/0");
}

#[test]
#[ignore = "needs root's rights, iproute2 and a C compiler"]
fn the_suite_holds_between_two_hosts_over_quic() {
    between_two_hosts("quic", "udp/0/quic");
}

/// Every actor is on another host than its parent, which listens by this transport at this port.
fn between_two_hosts(transport: &'static str, port: &'static str) {
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("elsewhere.so");
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/elsewhere.c"), &elsewhere);
    let of_its_own = std::thread::spawn(move || {
        let hosts = Hosts::new(2); // it takes this thread along
        let network = |host: usize| format!("/proc/{}/ns/net", hosts.host(host).pid);
        run_suite(hosts.host(0), transport, NOT_BETWEEN_HOSTS, |command| {
            command.env("LD_PRELOAD", &elsewhere).env("TEAMSTER_LISTEN", format!("/ip4/{}/{port}", ip(0)));
            command.env("TEAMSTER_TEST_NETWORK_A", network(0)).env("TEAMSTER_TEST_NETWORK_B", network(1));
        })
    });
    passed(&of_its_own.join().expect("it does not panic"));
}

fn compile(source: &Path, library: &Path) {
    let mut command = Command::new("cc");
    command.args(["-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(library).arg(source);
    assert!(command.status().expect("a C compiler").success());
}

/// How long a host may be silent here.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// More than a busy machine needs for anything that is to happen at once.
const SOON: Duration = Duration::from_millis(700);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn waits_for_ever() {
    std::future::pending().await
}

/// Calls another actor, and waits for that too.
#[context]
async fn waits_in(ctx: teamster::Context<()>, other: Portal) -> teamster::Result<()> {
    assert_eq!(other.run(add(1, 2)).await?, 3);
    ctx.started(()).await?;
    Ok(other.run(waits_for_ever()).await?)
}

/// Sends numbers as fast as they are taken.
#[context]
async fn counts(ctx: teamster::Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    for n in 0.. {
        stream.send(n).await?;
    }
    Ok(())
}

/// A root on the first host, over TLS.
fn root() -> RootBuilder {
    teamster::root().transport(Transport::Tcp).listen(at(0)).lost_after(LOST_AFTER).grace(Duration::from_secs(2))
}

/// What connects on the second host goes by the proxy: that is an actor there, to its parent.
fn two_hosts(weather: Weather) -> (Hosts, Proxy) {
    let hosts = Hosts::new(2);
    let proxy = Proxy::new(hosts.host(1), weather);
    (hosts, proxy)
}

/// The control line is the first that an actor makes, the data line to its parent the second, and others follow.
const CONTROL: usize = 0;
const DATA: usize = 1;
const NEXT: usize = 2;

/// Whichever of its two lines is lost, the actor ends, and whoever waits for it knows that at once.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and nftables"]
async fn a_connection_that_is_reset_ends_its_actor() {
    for connection in [CONTROL, DATA] {
        let (hosts, proxy) = two_hosts(Weather::default());
        let (mut cut_at, mut both) = (None, None);
        let ended = root().open(async |an| {
            let b = an.actor("b").launcher(hosts.launcher(1)).start().await?;
            let opened = b.open_context(counts(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                let read = async {
                    let mut next = 0;
                    while let Some(n) = stream.recv().await? {
                        assert_eq!(n, next, "none is missing, and none comes twice");
                        next += 1;
                        if n == 1000 {
                            proxy.cut(connection);
                            cut_at = Some(Instant::now());
                        }
                    }
                    Ok(())
                };
                // The loss would cut off this body.
                teamster::shield(async { both = Some(tokio::join!(read, b.run(waits_for_ever()))) }).await;
                Ok(())
            });
            Ok(opened.await?)
        });
        let ended = ended.await;
        let took = cut_at.expect("it was cut").elapsed();
        assert!(took < SOON, "{connection}: {took:?}");
        let (read, call) = both.expect("the shield runs to its end");
        for error in [read.expect_err("a stream that is lost has not ended"), call.expect_err("nobody answers")] {
            assert!(matches!(error, Error::ActorDied(_) | Error::Unknown { .. }), "{connection}: {error:?}");
        }
        let Err(Error::ActorDied(death)) = ended else { panic!("{connection}: it has died: {ended:?}") };
        assert_eq!(death.exit(), ExitKind::Status(0), "nobody had to kill it: {death}");
        let said = ["it had lost a line to its parent", "its data line had broken"];
        assert!(said.iter().any(|said| death.to_string().contains(said)), "{death}");
    }
}

/// At whatever byte of whichever line: the start fails and says so, or it was over by then.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and nftables"]
async fn a_start_whose_connection_is_lost_leaves_nothing() {
    for (connection, way) in [(CONTROL, Way::There), (CONTROL, Way::Back), (DATA, Way::There), (DATA, Way::Back)] {
        let mut failed = 0;
        for after_bytes in [1, 200, 517, 700, 1100, 1300, 1500, 1800, 2500] {
            let cut = Some(Cut { connection, way, after_bytes });
            let (hosts, _proxy) = two_hosts(Weather { cut, ..Weather::default() });
            let (began, mut started) = (Instant::now(), None);
            let ended = root().open(async |an| {
                let start = an.actor("b").launcher(hosts.launcher(1)).start();
                // One that was ready already may die of it as well.
                Box::pin(teamster::shield(async { started = Some(start.await) })).await;
                Ok(())
            });
            let ended = ended.await;
            let what = format!("{connection} {way:?} {after_bytes}");
            assert!(began.elapsed() < Duration::from_secs(3), "{what}: {:?}", began.elapsed());
            match started.expect("the shield runs to its end") {
                Err(Error::Spawn { reason: SpawnReason::DiedBooting(_), .. }) => {
                    failed += 1;
                    assert!(ended.is_ok(), "{what}: the start's error was its caller's: {ended:?}");
                }
                Err(error) => panic!("{what}: {error}"),
                Ok(_portal) => assert!(matches!(ended, Ok(()) | Err(Error::ActorDied(_))), "{what}: {ended:?}"),
            }
        }
        assert!((2..9).contains(&failed), "{connection} {way:?}: some fail, and some are over by then, not {failed}");
    }
}

/// A connection stays, and one way or both nothing gets through any more: no kernel sees that.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and nftables"]
async fn a_host_that_is_not_heard_any_more_is_lost() {
    for ways in [&[Way::There][..], &[Way::Back], &[Way::There, Way::Back]] {
        let (hosts, proxy) = two_hosts(Weather::default());
        let (mut silent_at, mut both) = (None, None);
        let ended = root().open(async |an| {
            let b = an.actor("b").launcher(hosts.launcher(1)).start().await?;
            let opened = b.open_context(counts(), async |ctx, ()| {
                let mut stream = ctx.open_stream().await?;
                assert_eq!(stream.recv().await?, Some(0));
                ways.iter().for_each(|way| proxy.silence(*way));
                silent_at = Some(Instant::now());
                let read = async {
                    while stream.recv().await?.is_some() {}
                    Ok(())
                };
                teamster::shield(async { both = Some(tokio::join!(read, b.run(waits_for_ever()))) }).await;
                Ok(())
            });
            Ok(opened.await?)
        });
        let ended = ended.await;
        let took = silent_at.expect("it was silenced").elapsed();
        assert!(took > LOST_AFTER / 2 && took < LOST_AFTER + SOON, "{ways:?}: {took:?} {ended:?} {both:?}");
        let (read, call) = both.expect("the shield runs to its end");
        for error in [read.expect_err("a stream that is lost has not ended"), call.expect_err("nobody answers")] {
            assert!(matches!(error, Error::ActorDied(_) | Error::Unknown { .. }), "{ways:?}: {error:?}");
        }
        let Err(Error::ActorDied(death)) = ended else { panic!("{ways:?}: it has died: {ended:?}") };
        assert_eq!(death.exit(), ExitKind::Status(0), "{ways:?}: nobody had to kill it: {death}");
        let is_parent_deaf = ways.contains(&Way::There);
        assert_eq!(death.to_string().contains("had been silent for"), is_parent_deaf, "{ways:?}: {death}");
    }
}

/// One connection among several, as something on the way may do that answers for the other side. The control line's
/// heartbeats show it; of another line only a deadline knows, and what is told to end by the control line ends.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and nftables"]
async fn a_deadline_ends_a_call_by_a_line_that_is_silent() {
    for connection in [CONTROL, DATA, NEXT] {
        let (hosts, proxy) = two_hosts(Weather::default());
        let mut silent_at = None;
        let ended = root().open(async |an| {
            let near = an.start_actor("near").await?;
            let b = an.actor("b").launcher(hosts.launcher(1)).start().await?;
            let opened = b.open_context(waits_in(near), async |_ctx, ()| {
                assert_eq!(proxy.connections(), NEXT + 1, "it has called by a line of its own");
                proxy.silence_one(connection);
                silent_at = Some(Instant::now());
                Ok(teamster::deadline(2 * LOST_AFTER, b.run(waits_for_ever())).await?)
            });
            Ok(opened.await?)
        });
        let ended = ended.await;
        let took = silent_at.expect("it was silenced").elapsed();
        match connection {
            CONTROL => assert!(matches!(ended, Err(Error::ActorDied(_))), "{ended:?}"),
            _ => {
                let first = match &ended {
                    Err(Error::Group(group)) => group.primary(), // what did not stop in its grace stands beside it
                    Err(error) => error,
                    Ok(_) => panic!("{connection}: nobody answers"),
                };
                assert!(matches!(first, Error::Deadline { .. }), "{connection}: {ended:?}");
            }
        }
        assert!(took < 2 * LOST_AFTER + Duration::from_secs(2) + SOON, "{connection}: {took:?}");
    }
}
