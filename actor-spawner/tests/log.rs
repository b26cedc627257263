//! Does `teamster log -f` follow a running tree?
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;
use teamster::{Error, open_nursery, rpc};

#[path = "../../tests/support/partner.rs"]
mod partner;

#[rpc]
async fn log(text: String, lines: u32) {
    for line in 0..lines {
        tracing::info!(target: "work", line, "{text}");
    }
}

/// Begun, and told by the tool itself that it follows.
struct Follows {
    child: Child,
    out: BufReader<ChildStdout>,
    _err: BufReader<ChildStderr>,
    said: String,
}

fn follow(arguments: &[&str], folder: Option<&str>) -> Follows {
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.args(["log", "-f"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(folder) = folder {
        command.env("TEAMSTER_DIR", folder);
    }
    let mut child = command.spawn().expect("it starts");
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut err = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    err.read_line(&mut said).expect("it is text");
    Follows { child, out, _err: err, said }
}

impl Follows {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("it is text");
        line
    }

    fn end(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

async fn off_runtime<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.expect("it does not panic")
}

#[teamster::test]
async fn the_lines_of_an_actor_are_followed_and_of_no_other() -> Result<(), Error> {
    teamster::root()
        .log("info")
        .open(async |an| {
            let (frank, bob) = tokio::try_join!(an.start_actor("frank"), an.start_actor("bob"))?;
            let mut franks = off_runtime(|| follow(&["frank"], None)).await;
            assert!(franks.said.ends_with(", whose actors log info\n"), "{}", franks.said);
            let printed = frank.aid().to_string(); // as `teamster call --on` takes it too
            let mut of_printed = off_runtime(move || follow(&[&printed], None)).await;
            let mut all = off_runtime(|| follow(&["--json"], None)).await;
            bob.run(log("of bob".into(), 1)).await?;
            frank.run(log("of\nfrank".into(), 1)).await?;
            let (franks, of_printed, lines) = off_runtime(move || {
                let lines = [franks.line(), of_printed.line()];
                (franks, of_printed, lines)
            })
            .await;
            let wanted = format!(" INFO frank@{} work: of\\nfrank line=0\n", frank.aid().pid());
            assert!(lines.iter().all(|line| line.ends_with(&wanted)), "{lines:?}");
            let (all, lines) = off_runtime(move || {
                let lines = [all.line(), all.line()];
                (all, lines)
            })
            .await;
            let mut told: Vec<Value> =
                lines.iter().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
            told.sort_by_key(|line| line["actor"].to_string()); // two actors, two ways
            assert_eq!((&told[0]["actor"], &told[0]["message"]), (&"bob".into(), &"of bob".into()), "{told:?}");
            assert_eq!(told[1]["fields"]["line"], "0", "{told:?}");
            franks.end();
            of_printed.end();
            all.end();
            Ok(())
        })
        .await
}

#[teamster::test]
async fn a_slow_reader_is_told_how_much_it_has_lost_and_holds_up_nobody() -> Result<(), Error> {
    teamster::root()
        .log("info")
        .open(async |an| {
            let frank = an.start_actor("frank").await?;
            let mut follows = off_runtime(|| follow(&[], None)).await;
            // More than all buffers on the way; nobody reads meanwhile.
            for _ in 0..60 {
                frank.run(log("x".repeat(20_000), 10)).await?;
            }
            frank.run(log("the end".into(), 1)).await?;
            let (follows, lines) = off_runtime(move || {
                let mut lines = Vec::new();
                while !lines.last().is_some_and(|line: &String| line.contains("the end")) {
                    lines.push(follows.line());
                }
                (follows, lines)
            })
            .await;
            let lost = lines.iter().find(|line| line.contains(" log lines of ")).expect("some were lost");
            assert!(lost.ends_with(" were dropped\n") && lost.contains(" WARN "), "{lost}");
            follows.end();
            Ok(())
        })
        .await
}

/// The root's own lines are in it too, and its end is the end of what follows it.
#[test]
fn it_ends_with_the_tree() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = partner::start(
        partner::command("tree")
            .env("TEAMSTER_DIR", folder.path())
            .env("TEAMSTER_LOG", "work=info")
            .stderr(Stdio::null()),
    );
    program.line("ready");
    let mut follows = follow(&[], folder.path().to_str());
    assert!(follows.said.ends_with("whose actors log work=info\n"), "{}", follows.said);
    program.say("go");
    let line = follows.line();
    assert!(line.contains(" INFO root@") && line.ends_with(" work: of the root itself\n"), "{line}");
    program.say("end");
    let mut rest = String::new();
    follows.out.read_to_string(&mut rest).expect("it is text");
    assert_eq!(rest, "");
    assert!(follows.child.wait().expect("it is our child").success());
    assert!(program.child.wait().expect("it is our child").success());
}

/// A tree of its own, run by the test above.
#[test]
fn program() {
    if partner::name() == "tree" {
        partner::exit(tree());
    }
}

#[teamster::main]
async fn tree() -> Result<(), Error> {
    open_nursery(async |_an| {
        println!("ready");
        partner::heard().await;
        tracing::info!(target: "work", "of the root itself");
        partner::heard().await;
        Ok(())
    })
    .await
}

#[test]
fn without_a_tree_there_is_nothing_to_follow() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    let output = command.args(["log", "-f"]).env("TEAMSTER_DIR", folder.path()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no tree to follow"), "{output:?}");
}
