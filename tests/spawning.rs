//! Does an actor start as it was described, and does a start that fails say why?
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use teamster::launch::{Launcher, Program};
use teamster::{Error, Resource, SpawnReason, rpc};

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
