//! Does `teamster` show the trees that run?
use serde_json::{Value, json};
use teamster::{Error, Portal, open_nursery, rpc};

#[path = "support/tool.rs"]
mod tool;
use tool::{printed, teamster};

#[rpc]
async fn hold_a_leaf() -> teamster::Result<()> {
    Ok(open_nursery(async |an| {
        an.start_actor("leaf").await?;
        an.wait().await;
        Ok(())
    })
    .await?)
}

#[teamster::test]
async fn a_running_tree_is_listed_and_drawn() -> Result<(), Error> {
    open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        let holder = mid.clone();
        let look = async {
            let leaf = teamster::wait_for_actor("leaf").await?;
            let listed = printed(["ps"]).await;
            let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
            assert_eq!(
                lines[0],
                ["NAME", "UUID", "HOST", "PID", "STATE", "CALLS", "RSS", "CPU%", "AGE", "PARENT"],
                "{listed}"
            );
            let names: Vec<&str> = lines[1..].iter().map(|line| line[0]).collect();
            assert_eq!(names, ["root", "mid", "leaf"], "{listed}");
            let pids: Vec<String> = lines[1..].iter().map(|line| line[3].to_owned()).collect();
            let wanted = [std::process::id(), mid.aid().pid(), leaf.aid().pid()].map(|pid| pid.to_string());
            assert_eq!(pids, wanted, "{listed}");
            assert!(lines[1..].iter().all(|line| line[4] == "ready"), "{listed}");
            let short = |portal: &Portal| portal.aid().uuid().simple().to_string()[..8].to_owned();
            assert_eq!([lines[2][1], lines[3][1]], [short(&mid), short(&leaf)], "{listed}");
            // A ready actor's state has a second word: its process's.
            assert_eq!(lines[1][10], "-", "{listed}");
            assert_eq!(lines[3][10], format!("mid@{}", short(&mid)), "{listed}");
            let is_age = |age: &str| age.strip_suffix('s').is_some_and(|seconds| seconds.parse::<u8>().is_ok());
            assert!(lines[1..].iter().all(|line| is_age(line[9])), "{listed}");

            let calls: Vec<&str> = lines[1..].iter().map(|line| line[6]).collect();
            assert_eq!(calls, ["0", "1", "0"], "{listed}");
            assert!(lines[1..].iter().all(|line| line[7].ends_with('M')), "{listed}");
            assert!(lines[1..].iter().all(|line| line[8].parse::<f64>().is_ok()), "{listed}");

            let drawn = printed(["tree"]).await;
            let column = |name| drawn.lines().find_map(|line| line.find(name)).expect("it is drawn");
            assert!(column("root") < column("mid") && column("mid") < column("leaf"), "{drawn}");

            for command in [["ps", "--json"], ["tree", "--json"]] {
                let json = printed(command).await;
                let trees: Value = serde_json::from_str(&json).expect("it is JSON");
                assert_eq!(trees.as_array().map(Vec::len), Some(1), "{json}");
                assert_eq!(trees[0]["pid"], std::process::id(), "{json}");
                let mid = &trees[0]["actors"][1];
                assert_eq!((&mid["calls_in_flight"], &mid["calls_waited_for"]), (&json!(1), &json!(0)), "{json}");
                assert_eq!(trees[0]["actors"][0]["calls_waited_for"], json!(1), "{json}");
                assert!(mid["rss_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{json}");
                assert!(mid["cpu_seconds"].as_f64().is_some_and(|cpu| cpu < 3600.0), "{json}");
                for name in ["root", "mid", "leaf"] {
                    assert!(json.contains(&format!("\"{name}\"")), "{json}");
                }
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            held = holder.run(hold_a_leaf()) => panic!("nobody ends it: {held:?}"),
            looked = look => looked?,
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_dump_tells_what_each_actor_does() -> Result<(), Error> {
    open_nursery(async |an| {
        let mid = an.start_actor("mid").await?;
        an.start_actor("idle").await?;
        let look = async {
            teamster::wait_for_actor("leaf").await?;
            let all = printed(["dump"]).await;
            let places = ["root@", "─ mid@", "─ leaf@", "─ idle@"].map(|name| all.find(name));
            assert!(places.is_sorted() && places[0] == Some(0), "{all}");
            assert!(all.contains("hold_a_leaf #"), "{all}");
            assert!(all.contains(" > teamster::ActorNursery::wait\n"), "{all}");

            let below = printed(["dump", "mid"]).await;
            assert!(below.starts_with("mid@") && below.contains("─ leaf@"), "{below}");
            assert!(!below.contains("root@root") && !below.contains("idle@"), "{below}");

            let nobody = teamster(["dump", "bob"]).await;
            assert_eq!(nobody.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&nobody.stderr).contains("no actor is called bob"), "{nobody:?}");
            Ok::<_, Error>(())
        };
        let holder = mid.clone();
        tokio::select! {
            held = holder.run(hold_a_leaf()) => panic!("nobody ends it: {held:?}"),
            looked = look => looked?,
        }
        Ok(())
    })
    .await
}

#[teamster::test]
async fn where_nothing_runs_it_says_so() {
    let dump = teamster(["dump"]).await;
    assert!(dump.status.success() && dump.stdout.is_empty());
    assert!(String::from_utf8_lossy(&dump.stderr).contains("no trees are running"));
    let output = teamster(["ps"]).await;
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no trees are running"));
    assert_eq!(printed(["ps", "--json"]).await.trim(), "[]");
    let wrong = teamster(["sp"]).await;
    assert_eq!(wrong.status.code(), Some(2));
}

/// Neither a stuck runtime nor a stopped process holds a listing up; the stuck one tells, too.
#[teamster::test]
async fn whoever_is_stuck_is_listed_with_its_calls() -> Result<(), Error> {
    open_nursery(async |an| {
        let (stuck, stopped) = tokio::try_join!(an.start_actor("stuck"), an.start_actor("stopped"))?;
        let look = async {
            ENTERED.acquire().await.expect("it is never closed").forget();
            let pid = rustix::process::Pid::from_raw(i32::try_from(stopped.aid().pid())?).ok_or("no pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
            while !std::fs::read_to_string(format!("/proc/{}/stat", stopped.aid().pid()))?.contains(") T ") {
                tokio::task::yield_now().await; // the kernel tells only its parent's control thread
            }
            let began = std::time::Instant::now();
            let listed = printed(["ps"]).await;
            assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
            let line = |name: &str| -> Vec<String> {
                let line = listed.lines().find(|line| line.starts_with(name)).expect("it is listed");
                line.split_whitespace().map(str::to_owned).collect()
            };
            assert_eq!(line("stuck")[6], "1", "{listed}");
            assert_eq!((&*line("stopped")[5], &*line("stopped")[6]), ("T", "?"), "{listed}");
            assert!(stuck.kill_actor().await?.exit == teamster::ExitKind::Signal(9));
            rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
            Ok::<_, teamster::BoxError>(())
        };
        let (call, looked) = tokio::join!(stuck.run(spin(teamster::this_actor()?)), look);
        call.expect_err("it was killed");
        looked
    })
    .await
}

static ENTERED: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

#[rpc]
async fn entered() {
    ENTERED.add_permits(1);
}

/// Never lets go of its thread again.
#[rpc]
async fn spin(parent: Portal) -> teamster::Result<()> {
    parent.run(entered()).await?;
    loop {
        std::thread::park();
    }
}
