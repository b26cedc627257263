//! Does an actor start as it was described, and does a start that fails say why?
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use teamster::launch::{Launcher, Program};
use teamster::{Error, Resource, Rung, SpawnReason, rpc};

/// A shell that never becomes an actor.
#[derive(Debug)]
struct Script(&'static str);

impl Launcher for Script {
    fn command(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", self.0]);
        command
    }
}

async fn refused(launcher: impl Launcher + 'static) -> SpawnReason {
    teamster::open_nursery(async |an| {
        let (failed, sibling) = futures::join!(
            an.actor("x").launcher(launcher).args(["x"]).boot_timeout(Duration::from_millis(300)).start(),
            an.start_actor("sibling"), // its start is not harmed
        );
        sibling?.run(whoami()).await?;
        match failed {
            Err(Error::Spawn { name, reason }) if name == "x" => Ok(reason),
            other => panic!("{other:?}"),
        }
    })
    .await
    .unwrap()
}

#[rpc]
async fn whoami() -> (String, u32, bool) {
    let me = teamster::this_actor().expect("an actor");
    (me.aid().name().to_owned(), std::process::id(), teamster::is_root().expect("an actor"))
}

#[rpc]
async fn shell(script: String) -> String {
    let output = Command::new("sh").args(["-c", &script]).output().expect("sh starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[teamster::test]
async fn each_failed_start_says_why() {
    let missing = refused(Program::new("/nowhere/app")).await;
    assert!(matches!(&missing, SpawnReason::Exec { program, .. } if program == "/nowhere/app"), "{missing:?}");
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(refused(Program::new(&plain)).await, SpawnReason::Exec { .. }));
    match refused(Script("echo no licence >&2; exit 7")).await {
        SpawnReason::DiedBooting(death) => {
            assert_eq!((death.status(), death.stderr_tail().trim()), (Some(7), "no licence"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(refused(Script("exec sleep 60")).await, SpawnReason::BootTimeout { .. }));
}

/// This executable, in which the build id says another one.
fn of_another_build(folder: &std::path::Path) -> std::path::PathBuf {
    // elf(5): a note with a name of 4 bytes, 20 of contents, of the type NT_GNU_BUILD_ID, and that name.
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut bytes = std::fs::read("/proc/self/exe").unwrap();
    // Notes come before what a program calls its own, such as the line above.
    let note = (0..bytes.len()).step_by(4).find(|at| bytes[*at..].starts_with(NOTE)).expect("the linker has left one");
    bytes[note + NOTE.len()] ^= 0xff;
    let path = folder.join("other");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// C20
#[teamster::test]
async fn a_child_of_another_build_is_refused_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let other = of_another_build(folder.path());
    let start = teamster::open_nursery(async |an| {
        let refused = an.actor("x").launcher(Program::new(&other)).start().await;
        assert_eq!(an.start_actor("sibling").await?.run(whoami()).await?.0, "sibling");
        Ok(refused)
    });
    let refused = start.await.unwrap().expect_err("it is another build");
    let Error::Spawn { reason: SpawnReason::WrongBuild { program }, .. } = &refused else { panic!("{refused:?}") };
    assert!(program.contains("other"), "{program}");
    assert!(refused.to_string().contains("is another build than its parent"), "{refused}");
}

/// C20
#[teamster::test]
async fn a_child_that_is_killed_while_it_boots_is_told_with_the_signal() {
    match refused(Script("echo half way >&2; kill -KILL $$")).await {
        SpawnReason::DiedBooting(death) => {
            assert_eq!((death.signal(), death.stderr_tail().trim()), (Some(9), "half way"));
            assert!(death.asked().is_none());
        }
        other => panic!("{other:?}"),
    }
}

#[rpc]
async fn environment() -> Vec<(String, String)> {
    std::env::vars().collect()
}

#[rpc]
async fn arguments() -> Vec<String> {
    std::env::args().skip(1).collect()
}

/// C33
#[teamster::test]
async fn what_its_builder_does_not_say_an_actor_inherits() {
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o031));
    let nice = rustix::process::nice(3).unwrap();
    let limit = rustix::process::Rlimit { current: Some(333), maximum: Some(444) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let script = "pwd; umask; nice; ulimit -Sn; ulimit -Hn".to_owned();
    teamster::open_nursery(async |an| {
        let actor = an.start_actor("w").await?;
        let said = actor.run(shell(script)).await?;
        assert_eq!(said, format!("{}\n0031\n{nice}\n333\n444", folder.path().display()));
        assert_eq!(actor.run(arguments()).await?, arguments().await?);
        let mut theirs = actor.run(environment()).await?;
        theirs.retain(|(key, _)| key != "TEAMSTER_LINEAGE"); // who its ancestors are
        let mut ours = environment().await?;
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(theirs, ours);
        Ok(())
    })
    .await
    .unwrap();
}

/// C33
#[teamster::test]
async fn an_actor_begins_with_the_arguments_and_the_environment_that_it_is_given() {
    teamster::open_nursery(async |an| {
        let mut given = arguments().await?;
        given.push("--color=never".to_owned());
        let actor = an.actor("w").env_clear().env("K", "V").args(&given).start().await?;
        assert_eq!(actor.run(arguments()).await?, given);
        let mut theirs = actor.run(environment()).await?;
        theirs.retain(|(key, _)| key != "TEAMSTER_LINEAGE");
        assert_eq!(theirs, [("K".to_owned(), "V".to_owned())]);
        Ok(())
    })
    .await
    .unwrap();
}

#[teamster::test]
async fn an_actor_is_what_its_builder_says() {
    teamster::open_nursery(async |an| {
        let folder = tempfile::tempdir()?;
        let actor = an.actor("w").env("K", "V").env_remove("HOME").current_dir(folder.path()).umask(0o027).nice(5);
        let actor = actor.rlimit(Resource::OpenFiles, 321, 321).start().await?;
        let (name, pid, is_root) = actor.run(whoami()).await?;
        assert_eq!((name.as_str(), pid, is_root), ("w", actor.aid().pid(), false));
        let script = "echo $K-$HOME-$TEAMSTER_BOOT; pwd; umask; nice; ulimit -n".to_owned();
        let said = actor.run(shell(script)).await?;
        let wanted = format!("V--\n{}\n0027\n5\n321", folder.path().display());
        assert_eq!(said, wanted);
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        assert_eq!(comm.trim(), "teamster:w");
        Ok(())
    })
    .await
    .unwrap();
}

/// S1.23
#[teamster::test]
async fn an_actors_process_has_its_name_and_what_is_no_actor_has_not() {
    teamster::open_nursery(async |an| {
        let (frank, long) = tokio::try_join!(an.start_actor("frank"), an.start_actor("with-a-long-name"))?;
        for (portal, comm) in [(&frank, "teamster:frank"), (&long, "teamster:with-a")] {
            let pid = portal.aid().pid();
            assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim(), comm);
            let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
            let wanted = format!("teamster:{}\0", portal.aid().name());
            assert!(line.starts_with(wanted.as_bytes()), "{}", String::from_utf8_lossy(&line));
        }
        // A program that an actor runs, and this root, are none.
        let own = frank.run(shell("cat /proc/$$/comm".into())).await?;
        let root = std::fs::read_to_string("/proc/self/comm")?;
        for comm in [own.as_str(), root.trim()] {
            assert!(!comm.starts_with("teamster:"), "{comm}");
        }
        Ok(())
    })
    .await
    .unwrap();
}

#[test]
#[ignore = "run by the test below, in a process in which nobody has called init"]
fn a_program_without_init() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(teamster::open_nursery(async |an| Ok(an.start_actor("x").await?)));
    let Err(Error::Spawn { reason: SpawnReason::NotInitialised, .. }) = &result else { panic!("{result:?}") };
    println!("it says: {}", result.unwrap_err());
}

#[test]
fn a_program_that_forgot_init_hears_of_it() {
    let arguments = ["a_program_without_init", "--exact", "--ignored", "--nocapture"];
    let output = Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("it says: ").count(), 1, "{said}"); // nobody ran it a second time
    assert!(said.contains("call `teamster::init()` first"), "{said}");
}

/// Does not hear of a cancel.
#[rpc]
async fn hangs(told: teamster::Portal) -> teamster::Result<()> {
    told.run(begun()).await?;
    loop {
        std::thread::park();
    }
}

static BEGUN: tokio::sync::Notify = tokio::sync::Notify::const_new();

#[rpc]
async fn begun() {
    BEGUN.notify_one();
}

/// Who has ended behind a program that was killed too is init's to reap.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()), None | Some('Z' | 'X'))
}

#[teamster::test]
async fn an_actor_begins_behind_another_program() -> Result<(), Error> {
    let (execs, stays) = (["nice", "-n", "7"], ["sh", "-c", "\"$@\"; exit $?", "sh"]);
    let niced = rustix::process::getpriority_process(None).expect("we run") + 7;
    for parts in [&execs[..], &stays[..]] {
        teamster::open_nursery(async |an| {
            let start = async || an.actor("x").launcher(teamster::launch::Command::new(parts)).start().await;
            let x = start().await?;
            let (name, pid, _) = x.run(whoami()).await?;
            assert_eq!(name, "x");
            assert_eq!(x.run(shell("ps -o ni= -p $PPID".into())).await? == niced.to_string(), parts == execs);
            assert_eq!(x.cancel_actor().await?.rung, Some(Rung::Cancel), "{parts:?}");
            assert!(!lives(pid), "both are gone");

            let stuck = start().await?;
            let (_, pid, _) = stuck.run(whoami()).await?;
            let (hung, killed) = tokio::join!(stuck.run(hangs(teamster::this_actor()?)), async {
                BEGUN.notified().await;
                stuck.cancel_actor().await
            });
            assert!(hung.is_err());
            killed?;
            assert!(!lives(pid), "both are gone");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
