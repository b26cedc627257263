//! What becomes of an actor on a host that has nothing but sshd? Each host is a machine of namespaces with a real one.
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Ssh;
use teamster::{ActorNursery, Error, ExitKind, Portal, RootBuilder, Rung, SpawnReason, context, rpc};

#[path = "support/machines.rs"]
mod machines;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "support/program.rs"]
mod program;
use machines::{Machines, ip};
use namespaces::is_busy;

/// How long a host may be silent here.
const LOST_AFTER: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(1);
/// More than a busy machine needs for anything that is to happen at once.
const SOON: Duration = Duration::from_millis(1500);

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

/// Where it is: the host's name, a variable, its last argument, its folder.
#[rpc]
async fn surroundings() -> teamster::Result<(String, Option<String>, Option<String>, String)> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let folder = std::env::current_dir()?.display().to_string();
    Ok((host, std::env::var("TEAMSTER_TEST_GREETING").ok(), std::env::args().next_back(), folder))
}

#[rpc]
async fn prints(out: String, err: String) {
    println!("{out}");
    eprintln!("{err}");
}

/// Keeps its thread busy, whoever asks it to end.
#[rpc]
async fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

fn root() -> RootBuilder {
    teamster::root().lost_after(LOST_AFTER).grace(GRACE)
}

async fn start(an: &ActorNursery, machines: &Machines, n: usize, name: &str) -> Result<Portal, Error> {
    an.actor(name).launcher(machines.ssh(n)).boot_timeout(Duration::from_secs(30)).start().await
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn the_first_start_ships_the_executable_and_the_second_finds_it() -> Result<(), Error> {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let first = start(an, &machines, 1, "first").await?;
        assert_eq!(first.run(add(1, 2)).await?, 3);
        let cached = machines.cached(1);
        let [executable] = &cached[..] else { panic!("{cached:?}") };
        let shipped = std::fs::metadata(executable)?.modified()?;

        let mut second = an.actor("second").launcher(machines.ssh(1)).env("TEAMSTER_TEST_GREETING", "hay");
        // What the test harness needs over there, and a word that no test is called by.
        second = second.args(std::env::args().skip(1).chain(["it's $HOME".to_owned()])).current_dir("/tmp");
        let second = second.start().await?;
        let (host, greeting, arg, folder) = second.run(surroundings()).await?;
        assert_eq!((host.as_str(), greeting.as_deref()), ("b", Some("hay")));
        assert_eq!((arg.as_deref(), folder.as_str()), (Some("it's $HOME"), "/tmp"));
        assert_eq!(machines.cached(1), cached);
        assert_eq!(std::fs::metadata(executable)?.modified()?, shipped);

        assert_eq!(second.aid().host(), "b");
        assert!(second.addrs().iter().any(|addr| addr.to_string().contains(&ip(1))), "{:?}", second.addrs());
        assert_eq!(first.run(adds_in(second.clone(), 1, 1)).await?, 2);
        assert_eq!(second.run(adds_in(teamster::this_actor()?, 1, 1)).await?, 2);
        let receipt = second.cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)));
        assert_eq!(receipt.aid.host(), "b");
        Ok(())
    });
    ended.await?;
    machines.is_left_alone(1, Duration::ZERO).await;
    Ok(())
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn many_starts_at_once_ship_it_once() -> Result<(), Error> {
    let machines = Machines::new(1);
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).expect("this process is this test's");
    let ended = root().open(async |an| {
        let starts = (0..5).map(|n| {
            let actor = an.actor(&format!("w{n}")).launcher(machines.ssh(1)).boot_timeout(Duration::from_secs(30));
            actor.start()
        });
        let workers = futures::future::try_join_all(starts).await?;
        for worker in &workers {
            assert_eq!(worker.run(add(1, 2)).await?, 3);
        }
        Ok(())
    });
    ended.await?;
    assert_eq!(log.count("this executable is sent to its host"), 1);
    machines.is_left_alone(1, Duration::ZERO).await;
    Ok(())
}

/// With sshd's own limits it drops connections once ten have not logged in, and takes ten sessions in each.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn fifty_starts_at_once_are_no_more_than_sshd_takes() -> Result<(), Error> {
    let machines = Machines::with_sshd(1, "MaxStartups 10:30:100\nMaxSessions 10");
    let ended = root().grace(Duration::from_secs(10)).open(async |an| {
        for is_shared in [false, true] {
            let share: &[&str] = if is_shared { &["-o", "ControlMaster=auto", "-o", "ControlPersist=60"] } else { &[] };
            let starts = (0..50).map(|n| {
                let launcher = machines.ssh(1).args(share.iter().copied());
                an.actor(&format!("w{n}")).launcher(launcher).boot_timeout(Duration::from_secs(30)).start()
            });
            let workers = futures::future::try_join_all(starts).await?;
            for worker in &workers {
                assert_eq!(worker.run(add(1, 2)).await?, 3);
            }
            let ends = workers.iter().map(Portal::cancel_actor);
            futures::future::try_join_all(ends).await?;
        }
        // The connection that was shared is nobody's: it is ended here.
        let mut end = std::process::Command::new("ssh");
        end.arg("-F").arg(machines.config()).args(["-O", "exit", "b"]);
        assert!(end.output()?.status.success(), "somebody has shared it");
        Ok(())
    });
    ended.await?;
    machines.is_left_alone(1, Duration::from_secs(1)).await;
    Ok(())
}

/// A command that fails before its first word has had its turn too.
#[teamster::test]
async fn who_fails_on_the_way_lets_the_next_one_begin() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let starts = (0..20).map(|n| {
            let launcher = Ssh::new("b").program("false").starts_at_once(if n == 0 { 0 } else { 1 });
            an.actor(&format!("w{n}")).launcher(launcher).start()
        });
        for failed in futures::future::join_all(starts).await {
            let error = failed.expect_err("it leads nowhere");
            assert!(matches!(&error, Error::Spawn { reason: SpawnReason::DiedBooting(_), .. }), "{error}");
        }
        Ok(())
    })
    .await
}

/// What was logged here.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, part: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics here")).matches(part).count()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics here").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts a child of its own on a third host, and calls it.
#[context]
async fn starts_further(ctx: teamster::Context<Portal>, config: std::path::PathBuf) -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        let leaf = an.actor("leaf").launcher(machines::ssh(&config, 2)).boot_timeout(Duration::from_secs(30));
        let leaf = leaf.start().await?;
        ctx.started(leaf.clone()).await?;
        let ended = leaf.run(waits_for_ever()).await;
        assert!(matches!(ended, Err(Error::Cancelled { .. })), "somebody has ended it: {ended:?}");
        Ok(())
    });
    Ok(block.await?)
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_tree_grows_over_three_hosts_and_leaves_nothing_on_any() -> Result<(), Error> {
    let machines = Machines::new(2);
    let ended = root().open(async |an| {
        let mid = start(an, &machines, 1, "mid").await?;
        let opened = mid.open_context(starts_further(machines.config()), async |ctx, leaf: Portal| {
            assert_eq!(leaf.aid().host(), "c");
            assert_eq!(leaf.run(add(1, 2)).await?, 3);
            let found = teamster::wait_for_actor("leaf").await?; // the word on it takes another way than its portal
            assert_eq!(found.aid(), leaf.aid());
            assert_eq!(found.run(adds_in(mid.clone(), 2, 2)).await?, 4);
            // A third actor ends it, through the tree.
            let receipt = leaf.cancel_actor().await?;
            assert_eq!((receipt.rung, receipt.aid.host()), (Some(Rung::Cancel), "c"));
            assert!(teamster::find_actor("leaf").await?.is_none(), "a dead actor is never found");
            // Already gone: that is known at once.
            assert_eq!(found.cancel_actor().await?.rung, None);
            Ok(ctx.result().await?)
        });
        opened.await?;
        assert_eq!(mid.run(add(1, 1)).await?, 2);
        Ok(())
    });
    ended.await?;
    machines.is_left_alone(1, Duration::ZERO).await;
    machines.is_left_alone(2, Duration::ZERO).await;
    Ok(())
}

/// The host between the two stands still: nobody there passes the request on, or says that it was done.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_cancel_that_goes_by_a_lost_host_comes_to_an_end() {
    let machines = Machines::new(2);
    let mut asked = None;
    let ended = root().open(async |an| {
        let mid = start(an, &machines, 1, "mid").await?;
        let opened = mid.open_context(starts_further(machines.config()), async |_ctx, leaf: Portal| {
            machines.freeze(1);
            // This block is cut off when the host is lost.
            teamster::shield(async {
                let began = Instant::now();
                let ended = leaf.cancel_actor().await;
                asked = Some((began.elapsed(), ended));
            })
            .await;
            Ok(())
        });
        Ok(opened.await?)
    });
    assert!(matches!(ended.await, Err(Error::ActorDied(_))), "the host was lost");
    machines.thaw(1);
    let (took, ended) = asked.expect("it came to an end");
    assert!(took < LOST_AFTER + 2 * GRACE + SOON, "{took:?}");
    assert!(ended.is_ok(), "{ended:?}");
    machines.is_left_alone(1, GRACE + SOON).await;
    machines.is_left_alone(2, GRACE + SOON).await;
}

/// The pid of the ssh client that leads to a child.
fn ssh_client() -> Pid {
    let me = std::process::id();
    let entries = std::fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(ssh)")
            && stat.rsplit_once(") ").is_some_and(|(_, rest)| rest[2..].starts_with(&format!("{me} ")))
    };
    let mut found = pids.filter(is_it);
    found.next().and_then(Pid::from_raw).expect("there is one")
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn when_the_ssh_client_is_killed_nothing_is_left_over_there() {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            kill_process(ssh_client(), Signal::KILL)?;
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    assert_eq!(death.exit(), ExitKind::Signal(9), "what led there was killed: {death}");
    // It was asked by its line, and waited for. Its keeper follows it, and nobody here can see that.
    assert!(machines.processes(1).iter().all(|(_, title)| !title.starts_with("teamster:")));
    machines.is_left_alone(1, SOON).await;
}

/// Has a child of its own on its host.
#[context]
async fn keeps_one(ctx: teamster::Context<()>) -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        ctx.started(()).await?;
        Ok(child.run(waits_for_ever()).await?)
    });
    Ok(block.await?)
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn one_that_is_stuck_is_killed_over_there() -> Result<(), Error> {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        let stuck = far.clone();
        let (called, receipt) = tokio::join!(stuck.run(spins()), async {
            while !is_busy(&machines.processes(1), "far") {
                tokio::time::sleep(Duration::from_millis(5)).await; // another machine's processes have no event here
            }
            far.cancel_actor().await
        });
        assert!(called.is_err());
        let receipt = receipt?;
        assert!(receipt.heard.is_some(), "its control thread has heard it");
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)));
        machines.is_left_alone(1, Duration::ZERO).await;
        Ok(())
    });
    ended.await
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn its_death_over_there_is_told_here() {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        let opened = far.open_context(keeps_one(), async |_ctx, ()| {
            let is_it = |(_, title): &(Pid, String)| title.starts_with("teamster:far");
            let (pid, _) = machines.processes(1).into_iter().find(is_it).expect("it runs");
            kill_process(pid, Signal::ABORT)?;
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    assert_eq!(death.exit(), ExitKind::Signal(6), "{death}");
    machines.is_left_alone(1, Duration::ZERO).await; // its child too was waited for
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_host_whose_power_is_cut_is_lost_in_time() {
    let machines = Machines::new(1);
    let mut cut_at = None;
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        machines.cut_power(1);
        cut_at = Some(Instant::now());
        Ok(far.run(waits_for_ever()).await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    let took = cut_at.expect("it was cut").elapsed();
    assert!(took < LOST_AFTER + GRACE + SOON, "{took:?}");
    assert!(death.to_string().contains("had been silent for"), "{death}");
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_host_that_stands_still_is_lost_and_has_nothing_left_when_it_goes_on() {
    let machines = Machines::new(1);
    let mut frozen_at = None;
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        machines.freeze(1);
        frozen_at = Some(Instant::now());
        Ok(far.run(waits_for_ever()).await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    let took = frozen_at.expect("it was frozen").elapsed();
    assert!(took < LOST_AFTER + GRACE + SOON, "{took:?}");
    assert!(death.to_string().contains("had been silent for"), "{death}");
    machines.thaw(1);
    machines.is_left_alone(1, GRACE + SOON).await;
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_link_that_goes_down_in_the_middle_of_a_start_fails_that_start() {
    const BOOT_TIMEOUT: Duration = Duration::from_secs(4); // more than it takes to come to the shipping
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let start = an.actor("far").launcher(machines.ssh(1)).boot_timeout(BOOT_TIMEOUT).start();
        let unplug = async {
            let began = Instant::now();
            while machines.cached(1).is_empty() {
                assert!(began.elapsed() < BOOT_TIMEOUT, "it has not come to the shipping");
                tokio::time::sleep(Duration::from_millis(1)).await; // it is on its way: another host's files have no event here
            }
            machines.unplug(1);
        };
        let (started, ()) = tokio::join!(start, unplug);
        Ok(started.map(drop)?)
    });
    let Err(Error::Spawn { reason, .. }) = ended.await else { panic!("it did not start") };
    assert!(matches!(reason, SpawnReason::BootTimeout { .. }), "{reason}");
    machines.plug(1);
    // The kernel tries again after as long as it was out, to say that ssh has ended.
    machines.is_left_alone(1, 4 * BOOT_TIMEOUT).await;
    for left in machines.cached(1) {
        let name = left.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!name.contains('.'), "half an executable is left: {left:?}");
    }
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn what_it_prints_comes_here() -> Result<(), Error> {
    use std::io::{Read, Seek};
    let machines = Machines::new(1);
    // This test has a process of its own, and here it goes on to write where it did.
    let (out, err) = (rustix::io::dup(rustix::stdio::stdout()), rustix::io::dup(rustix::stdio::stderr()));
    let mut files = [tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file")];
    rustix::stdio::dup2_stdout(&files[0]).expect("it is open");
    rustix::stdio::dup2_stderr(&files[1]).expect("it is open");
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        far.run(prints("to stdout".into(), "to stderr".into())).await?;
        Ok(())
    });
    let ended = ended.await;
    rustix::stdio::dup2_stdout(out.expect("it was open")).expect("it is open");
    rustix::stdio::dup2_stderr(err.expect("it was open")).expect("it is open");
    for (file, wanted) in files.iter_mut().zip(["to stdout\n", "to stderr\n"]) {
        let mut written = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut written)).expect("it is text");
        assert_eq!(written, wanted);
    }
    ended
}

/// Why a start has failed, as its user reads it.
async fn refused(ssh: Ssh) -> String {
    let ended = root().open(async |an| Ok(drop(an.actor("far").launcher(ssh).start().await?))).await;
    ended.expect_err("it can't start").to_string()
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_start_that_comes_to_nothing_says_why() {
    let machines = Machines::new(1);
    let nobody = refused(Ssh::new("nobody.invalid")).await;
    assert!(nobody.contains("Could not resolve hostname nobody.invalid"), "{nobody}");
    let closed = refused(machines.ssh(1).args(["-p", "1"])).await;
    assert!(closed.contains("Connection refused"), "{closed}");
    let stranger = refused(machines.ssh(1).args(["-o", "UserKnownHostsFile=/dev/null"])).await;
    assert!(stranger.contains("Host key verification failed"), "{stranger}");
    let unknown = refused(machines.ssh(1).args(["-o", "PubkeyAuthentication=no"])).await;
    assert!(unknown.contains("Permission denied"), "{unknown}");
    let missing = refused(Ssh::new("b").program("/no/such/ssh")).await;
    assert!(missing.contains("/no/such/ssh"), "{missing}");
    machines.is_left_alone(1, Duration::ZERO).await;
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_host_that_is_full_or_of_another_kind_says_so() {
    let machines = Machines::new(2);
    machines.run(1, &format!("mount -t tmpfs -o size=1m full {}/b.cache", machines.folder().display()));
    let full = refused(machines.ssh(1)).await;
    assert!(full.contains("No space left on device") && full.contains("can not be put into"), "{full}");
    machines.run(1, &format!("umount {}/b.cache", machines.folder().display()));
    machines.run(1, &format!("mount -t tmpfs -o noexec tight {}/b.cache", machines.folder().display()));
    let tight = refused(machines.ssh(1)).await;
    assert!(tight.contains("can not be run: is it mounted noexec?"), "{tight}");
    let uname = machines.folder().join("uname");
    std::fs::write(&uname, "#!/bin/sh\necho Linux m68k\n").expect("it is written");
    machines.run(2, &format!("chmod 755 {}", uname.display()));
    machines.run(2, &format!("mount --bind {} /bin/uname", uname.display()));
    let other = refused(machines.ssh(2)).await;
    assert!(other.contains("that host is Linux m68k, and this program runs on Linux"), "{other}");
    machines.is_left_alone(1, SOON).await;
    machines.is_left_alone(2, SOON).await;
}

/// What `docs/cluster.md` has people type, as it stands there, but for where the ssh client looks for the hosts.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn the_commands_of_the_page_do_what_it_says() {
    let machines = Machines::new(2);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md")).expect("it is there");
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let mut outputs = Vec::new();
    for command in &commands {
        outputs.push(typed(command, &machines, true).await);
        machines.is_left_alone(1, Duration::ZERO).await;
        machines.is_left_alone(2, Duration::ZERO).await;
    }
    let picture = |name: &str| std::fs::read(machines.folder().join(name)).expect("it was written");
    assert!(picture("here.png") == picture("there.png"), "the hosts paint the same picture");
    let (here, _) = commands[2].split_once(" --hosts").expect("it has hosts");
    assert_eq!(outputs[2], typed(here, &machines, false).await, "they come to the same sums");
    assert!(outputs[2].lines().count() > 100);
}

/// Runs an example as a user would, in the machines' folder: its stdout.
async fn typed(command: &str, machines: &Machines, is_far: bool) -> String {
    let rest = command.strip_prefix("cargo run --release --example ").expect("it runs an example");
    let (name, args) = rest.split_once(" -- ").expect("it has arguments");
    let test = std::env::current_exe().expect("our own path");
    let examples = test.parent().and_then(std::path::Path::parent).expect("target/PROFILE/deps").join("examples");
    let mut run = tokio::process::Command::new(examples.join(name));
    run.args(args.split(' ')).current_dir(machines.folder());
    if is_far && args.contains("--hosts") {
        run.arg("--ssh-config").arg(machines.config());
    }
    let ended = run.output().await.expect("the examples are built: `cargo build --examples`");
    assert!(ended.status.success(), "{command}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("it is text")
}

/// After a power cut there may be a file that is not all there, and a shared connection that others use.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn half_an_executable_is_replaced_and_a_shared_connection_is_used() -> Result<(), Error> {
    let machines = Machines::new(1);
    let master = |args: [&str; 2]| {
        let mut client = std::process::Command::new("ssh");
        client.arg("-F").arg(machines.config()).args(args).args(["-N", "b"]).stdin(std::process::Stdio::null());
        client.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        assert!(client.status().expect("openssh-client").success());
    };
    master(["-M", "-f"]);
    let ended = root().open(async |an| {
        let whole = start(an, &machines, 1, "whole").await?;
        let cached = machines.cached(1);
        let [executable] = &cached[..] else { panic!("{cached:?}") };
        let bytes = std::fs::metadata(executable)?.len();
        let half = machines.folder().join("half");
        std::fs::write(&half, b"#!/bin/sh\nexit 0\n")?;
        std::fs::set_permissions(&half, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        std::fs::rename(&half, executable)?; // the one that runs keeps its own
        let other = start(an, &machines, 1, "other").await?;
        assert_eq!(std::fs::metadata(executable)?.len(), bytes);
        whole.cancel_actor().await?; // and the connection stays, which the other one uses too
        assert_eq!(other.run(add(1, 2)).await?, 3);
        Ok(())
    });
    ended.await?;
    master(["-O", "exit"]);
    machines.is_left_alone(1, Duration::ZERO).await;
    Ok(())
}

/// As `teamster tree` and `teamster cancel` do it, from outside.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_look_at_the_tree_shows_all_hosts_and_may_end_an_actor_there() -> Result<(), Error> {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        let tree = tokio::task::spawn_blocking(teamster::discovery::trees).await??.pop().expect("it runs");
        let seen = tree.actors.iter().find(|actor| actor.aid == *far.aid()).expect("it is listed").clone();
        assert_eq!((seen.aid.host(), seen.is_here), ("b", false));
        assert_eq!((seen.process_state, seen.rss_bytes), (None, None));
        let look = tree.clone();
        let loads = tokio::task::spawn_blocking(move || look.loads()).await??;
        let load = loads.iter().find(|load| load.actor == seen.aid.uuid()).expect("it tells");
        assert!(load.rss_bytes > 1_000_000 && load.rss_bytes < 1_000_000_000, "{load:?}");
        let receipt = tokio::task::spawn_blocking(move || tree.cancel_actor(&seen.aid)).await??.expect("it lived");
        assert_eq!((receipt.rung, receipt.aid.host()), (Some(Rung::Cancel), "b"));
        machines.is_left_alone(1, Duration::ZERO).await;
        Ok(())
    });
    ended.await
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn a_dump_shows_what_actors_on_other_hosts_do() -> Result<(), Error> {
    let machines = Machines::new(1);
    let ended = root().open(async |an| {
        let far = start(an, &machines, 1, "far").await?;
        let opened = far.open_context(keeps_one(), async |ctx, ()| {
            let tree = tokio::task::spawn_blocking(teamster::discovery::trees).await??.pop().expect("it runs");
            let dump = tokio::task::spawn_blocking(move || teamster::debug::dump(&tree.folder, None));
            let text = dump.await??.expect("it has a root");
            assert!(text.contains("far@") && text.contains("child@"), "{text}");
            assert!(!text.contains("did not answer"), "{text}");
            assert!(text.contains("keeps_one"), "its task is named: {text}");
            ctx.cancel().await?;
            Ok(())
        });
        Ok(opened.await?)
    });
    ended.await
}

// ---- the prompt

#[rpc]
async fn fails(prices: Vec<u32>) -> u32 {
    let at = prices.len();
    prices[at]
}

/// A program that the test below starts at a terminal.
#[test]
#[ignore = "a program that another test starts"]
fn program() {
    let _guard = teamster::init(); // on the other host nothing says which scene it is
    if program::scene().is_some() {
        let _status = play();
    }
}

#[teamster::main]
async fn play() -> Result<(), Error> {
    let config = std::path::PathBuf::from(std::env::var_os(CONFIG).expect("it is set"));
    teamster::open_nursery(async |an| {
        let far = an.actor("far").debug(true).launcher(machines::ssh(&config, 1));
        let far = far.boot_timeout(Duration::from_secs(30)).start().await?;
        let failed = far.run(fails(vec![1, 2, 3])).await;
        println!("it came to {}", if failed.is_err() { "an error" } else { "a value" });
        Ok(())
    })
    .await
}

const CONFIG: &str = "TEAMSTER_TEST_SSH_CONFIG";

/// The actor stands still over there, past the time that its host may be silent, and the tree waits.
#[teamster::test]
#[ignore = "needs root's rights, iproute2 and openssh-server"]
async fn an_actor_on_another_host_is_debugged_in_the_roots_terminal() {
    let machines = Machines::new(1);
    let mut terminal = program::Terminal::new();
    let mut run = terminal.start_with("debug", |command| {
        command.env(CONFIG, machines.config()).env("TERM", "dumb").stderr(terminal.screen());
    });
    let banner = terminal.shown_until(|shown| shown.contains("/far) "));
    assert!(banner.contains("index out of bounds"), "{banner}");
    terminal.types("args");
    let args = terminal.shown_until(|shown| shown.contains("/far) "));
    assert!(args.contains("[1, 2, 3]") || args.contains("[[1, 2, 3]]"), "{args}");
    terminal.types("locals");
    let locals = terminal.shown_until(|shown| shown.contains("/far) "));
    assert!(locals.contains("it runs on b: there, gdb -p"), "{locals}");
    terminal.types("c");
    assert_eq!(run.says("it came to "), "an error");
    assert!(run.ends_within(Duration::from_secs(20)).status.success());
    machines.is_left_alone(1, Duration::ZERO).await;
}
