//! What becomes of a tree in an allocation of Slurm's? A cluster of one node, with Debian's daemons.
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use teamster::launch::Slurm;
use teamster::{ActorNursery, Error, ExitKind, Portal, Rung, context, rpc};
use tempfile::TempDir;

#[path = "support/namespaces.rs"]
mod namespaces;
use namespaces::{Unshared, is_busy, title};

/// More than a busy machine needs for anything that is to happen at once.
const SOON: Duration = Duration::from_secs(3);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn waits_for_ever() {
    std::future::pending().await
}

#[rpc]
async fn job() -> Option<String> {
    std::env::var("SLURM_JOB_ID").ok()
}

/// Keeps its thread busy, whoever asks it to end.
#[rpc]
async fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

/// Has a child of its own on its node, and calls it.
#[context]
async fn keeps_one(ctx: teamster::Context<i64>) -> teamster::Result<()> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        ctx.started(child.run(add(1, 2)).await?).await?;
        Ok(child.run(waits_for_ever()).await?)
    });
    Ok(block.await?)
}

/// A cluster, and an allocation in it.
struct Cluster {
    /// Holds the namespaces that its processes are in: they end with it, before their folder.
    node: Unshared,
    /// That its daemons, and this test, are on.
    _network: Unshared,
    folder: TempDir,
    job: String,
}

impl Cluster {
    /// Starts it in a network of its own, which this thread is in from now on.
    fn new() -> Self {
        let network = Unshared::new(&["--net"]);
        network.run("ip link add eth0 type veth peer name eth1");
        network.run("ip addr add 10.78.0.1/24 dev eth0");
        network.run("ip link set eth0 up");
        network.run("ip link set eth1 up");
        network.enter_network();
        let folder = tempfile::Builder::new().prefix("ts-").tempdir().expect("a folder");
        let path = folder.path().display();
        let config = format!(
            "ClusterName=test\nSlurmctldHost=node(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\n\
             AuthInfo=socket={path}/munge.s\nCredType=cred/munge\nMpiDefault=none\nProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\nReturnToService=2\nStateSaveLocation={path}/ctld\nSlurmdSpoolDir={path}/d\n\
             SlurmctldPidFile={path}/ctld.pid\nSlurmdPidFile={path}/d.pid\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\nJobAcctGatherType=jobacct_gather/none\nKillWait=2\n\
             AccountingStorageType=accounting_storage/none\nSlurmdParameters=config_overrides\n\
             NodeName=node NodeHostname=node NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\n\
             PartitionName=all Nodes=node Default=YES State=UP\n"
        );
        std::fs::write(folder.path().join("slurm.conf"), config).expect("it is written");
        std::fs::write(folder.path().join("key"), [7; 1024]).expect("it is written");
        let script = format!(
            "exec 2> {path}/log\nhostname node\nchmod 755 {path}\nchmod 400 {path}/key\nmkdir {path}/ctld {path}/d\nexport SLURM_CONF={path}/slurm.conf\n\
             munged --force --key-file={path}/key --socket={path}/munge.s --pid-file={path}/munge.pid \
             --log-file={path}/munge.log --seed-file={path}/munge.seed\n\
             slurmctld -i -L {path}/ctld.log; slurmd -N node -L {path}/d.log"
        );
        let flags = ["--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"];
        let node = Unshared::with(&flags, &script);
        let mut cluster = Cluster { folder, node, _network: network, job: String::new() };
        cluster.job = cluster.allocate();
        // Where Slurm kills a keeper itself, the next root there sweeps up its folder: that is the node's own.
        let path = cluster.folder.path().display();
        let srun = format!("#!/bin/sh\nSLURM_CONF={path}/slurm.conf TEAMSTER_DIR={path}/sockets exec srun \"$@\"\n");
        std::fs::write(cluster.srun(), srun).expect("it is written");
        assert!(Command::new("chmod").arg("755").arg(cluster.srun()).status().expect("coreutils").success());
        cluster
    }

    /// Waits until the node is there, and takes all of it.
    fn allocate(&self) -> String {
        let said = self.run("salloc", &["--no-shell", "--ntasks=2", "--overcommit", "--immediate=30"]);
        let job = said.split("Granted job allocation ").nth(1).and_then(|rest| rest.split_whitespace().next());
        job.unwrap_or_else(|| panic!("{said}\n{}", self.logs())).to_owned()
    }

    /// Runs one of Slurm's commands: what it says.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(args).env("SLURM_CONF", self.folder.path().join("slurm.conf")).stdin(Stdio::null());
        let ended = command.output().expect("slurm-wlm");
        let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{program}: {said}\n{}", self.logs());
        said
    }

    fn logs(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        ["log", "munge.log", "ctld.log", "d.log"].map(read).join("\n")
    }

    fn srun(&self) -> PathBuf {
        self.folder.path().join("srun")
    }

    fn launcher(&self) -> Slurm {
        Slurm::new().program(self.srun()).args([format!("--jobid={}", self.job)])
    }

    /// What runs on the node besides Slurm itself, by their pids here.
    fn processes(&self) -> Vec<(Pid, String)> {
        let titles = self.node.processes().into_iter().filter_map(|pid| Some((pid, title(pid)?)));
        let titles = titles.map(|(pid, title)| (pid, title.trim_start_matches("/usr/sbin/").to_owned()));
        titles
            .filter(|(_, title)| {
                ["cat", "munged", "slurmctld", "slurmd", "slurmstepd", ": slurmscriptd"]
                    .iter()
                    .all(|own| !title.starts_with(own))
            })
            .collect()
    }

    /// No keeper has left its folder.
    fn is_swept(&self) {
        let names = std::fs::read_dir(self.folder.path().join("sockets")).into_iter().flatten().flatten();
        let left: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "sockets are left: {left:?}");
    }

    /// Waits until nothing else runs on the node.
    async fn is_left_alone(&self, within: Duration) {
        let began = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(began.elapsed() < within, "after {within:?} there are still {left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await; // another machine's processes have no event here
        }
    }
}

async fn start(an: &ActorNursery, cluster: &Cluster, name: &str) -> Result<Portal, Error> {
    an.actor(name).launcher(cluster.launcher()).start().await
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2, slurm-wlm and munge"]
async fn a_tree_grows_in_an_allocation_and_leaves_nothing_there() -> Result<(), Error> {
    let cluster = Cluster::new();
    let ended = teamster::open_nursery(async |an| {
        let (one, other) = (start(an, &cluster, "one").await?, start(an, &cluster, "other").await?);
        assert_eq!(one.run(job()).await?.as_deref(), Some(cluster.job.as_str()));
        assert_eq!(one.aid().host(), "node");
        let opened = other.open_context(keeps_one(), async |ctx, sum| {
            assert_eq!(sum, 3);
            let child = teamster::wait_for_actor("child").await?; // the word on it takes another way than that on the sum
            assert_eq!(child.aid().host(), "node");
            ctx.cancel().await?;
            Ok(())
        });
        opened.await?;
        let receipt = one.cancel_actor().await?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Cancel), ExitKind::Status(0)));
        Ok(())
    });
    ended.await?;
    cluster.is_left_alone(Duration::ZERO).await;
    cluster.is_swept();
    Ok(())
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2, slurm-wlm and munge"]
async fn a_cancelled_job_is_an_actor_that_died_and_nothing_is_left_of_it() {
    let cluster = Cluster::new();
    let ended = teamster::open_nursery(async |an| {
        let far = start(an, &cluster, "far").await?;
        let opened = far.open_context(keeps_one(), async |_ctx, _sum| {
            cluster.run("scancel", &[&cluster.job]);
            Ok(far.run(waits_for_ever()).await?)
        });
        Ok(opened.await?)
    });
    let ended = ended.await;
    // Slurm ends every process of the job: its child over there may be the first that is heard of.
    let death = match &ended {
        Err(Error::ActorDied(death)) => Some(death),
        Err(Error::Group(group)) => group.iter().find_map(|error| match error {
            Error::ActorDied(death) => Some(death),
            _ => None,
        }),
        _ => None,
    };
    let death = death.unwrap_or_else(|| panic!("{ended:?}"));
    assert!(death.asked().is_none(), "nobody of the tree has asked: {death}");
    cluster.is_left_alone(SOON).await;
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2, slurm-wlm and munge"]
async fn one_that_is_stuck_there_is_killed() -> Result<(), Error> {
    let cluster = Cluster::new();
    let ended = teamster::open_nursery(async |an| {
        let far = start(an, &cluster, "far").await?;
        let stuck = far.clone();
        let (called, receipt) = tokio::join!(stuck.run(spins()), async {
            while !is_busy(&cluster.processes(), "far") {
                tokio::time::sleep(Duration::from_millis(5)).await; // another machine's processes have no event here
            }
            far.cancel_actor().await
        });
        assert!(called.is_err());
        let receipt = receipt?;
        assert_eq!((receipt.rung, receipt.exit), (Some(Rung::Sigkill), ExitKind::Signal(9)));
        cluster.is_left_alone(Duration::ZERO).await;
        cluster.is_swept();
        Ok(())
    });
    ended.await
}

#[teamster::test]
#[ignore = "needs root's rights, iproute2, slurm-wlm and munge"]
async fn when_srun_is_killed_nothing_is_left_on_the_node() {
    let cluster = Cluster::new();
    let ended = teamster::open_nursery(async |an| {
        let far = start(an, &cluster, "far").await?;
        kill_process(srun(), Signal::KILL)?;
        Ok(far.run(waits_for_ever()).await?)
    });
    let Err(Error::ActorDied(death)) = ended.await else { panic!("it has died") };
    assert_eq!(death.exit(), ExitKind::Signal(9), "what led there was killed: {death}");
    cluster.is_left_alone(SOON).await;
}

/// The srun that leads to a child.
fn srun() -> Pid {
    let me = std::process::id();
    let children = std::fs::read_dir(format!("/proc/{me}/task")).expect("there is a /proc").flatten();
    let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        children.flat_map(|all| all.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    let is_it =
        |pid: &&i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "srun");
    pids.iter().find(is_it).and_then(|pid| Pid::from_raw(*pid)).expect("there is one")
}
