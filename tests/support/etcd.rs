//! An etcd for a test: real processes on free ports of the loopback interface, data in a temporary folder.
#![allow(dead_code, reason = "each test file takes what it needs")]
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ends with its value.
pub(crate) struct Cluster {
    members: Vec<Member>,
    folder: tempfile::TempDir,
}

struct Member {
    client_url: String,
    peer_url: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Reads what it says, to its end.
    listener: JoinHandle<()>,
}

impl Cluster {
    /// So many members, when all of them serve.
    pub(crate) fn start(count: usize) -> Cluster {
        let url = || format!("http://127.0.0.1:{}", free_port());
        let member = || Member { client_url: url(), peer_url: url(), running: None };
        let members = std::iter::repeat_with(member).take(count).collect();
        let mut cluster = Cluster { members, folder: tempfile::tempdir().expect("there is room") };
        cluster.restart();
        cluster
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().flat_map(|member| &member.running).map(|running| running.child.id()).collect()
    }

    /// Those that don't run, when all of them serve.
    pub(crate) fn restart(&mut self) {
        let stopped: Vec<usize> = (0..self.members.len()).filter(|&at| self.members[at].running.is_none()).collect();
        // All at once: they serve when most of them are there.
        let starting: Vec<_> = stopped.into_iter().map(|at| (at, self.launch(at))).collect();
        for (at, (running, serves)) in starting {
            self.members[at].running = Some(running);
            serves.recv_timeout(WITHIN).expect("a member of etcd serves within 60 s");
        }
    }

    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// As if nobody had ever written anything.
    pub(crate) fn wipe(&mut self) {
        self.kill_all();
        for at in 0..self.members.len() {
            std::fs::remove_dir_all(self.folder.path().join(at.to_string())).expect("it was ours");
        }
    }

    pub(crate) async fn kill_leader(&mut self) {
        for at in 0..self.members.len() {
            if leads(&self.members[at].client_url).await {
                return self.members[at].kill();
            }
        }
        panic!("none of them leads");
    }

    /// How many keys begin so.
    pub(crate) async fn keys(&self, prefix: &str) -> i64 {
        let began = Instant::now();
        loop {
            let mut client = etcd_client::Client::connect(self.endpoints(), None).await.expect("it connects");
            let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
            match client.get(prefix, Some(options)).await {
                Ok(answer) => return answer.count(),
                // It may have asked a member that is gone, or one that has no leader yet.
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "it answers: {error}"),
            }
        }
    }

    /// How many watches are open at this member.
    pub(crate) fn watches(&self, at: usize) -> u64 {
        let host = self.members[at].client_url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).expect("it serves");
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("it is text"));
        let counts = lines.filter_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total ")?.parse().ok());
        counts.last().expect("it tells")
    }

    fn launch(&self, at: usize) -> (Running, mpsc::Receiver<()>) {
        let Member { client_url, peer_url, .. } = &self.members[at];
        let all: Vec<String> =
            self.members.iter().enumerate().map(|(at, member)| format!("m{at}={}", member.peer_url)).collect();
        let mut child = Command::new("etcd")
            .args(["--name", &format!("m{at}"), "--initial-cluster", &all.join(",")])
            .args(["--listen-client-urls", client_url, "--advertise-client-urls", client_url])
            .args(["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.folder.path().join(at.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcd is installed: Debian's package is etcd-server");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let (tell, serves) = mpsc::channel();
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("ready to serve client requests") {
                    let _ = tell.send(()); // it may say so twice
                }
            }
        });
        (Running { child, listener }, serves)
    }
}

impl Member {
    fn kill(&mut self) {
        if let Some(Running { mut child, listener }) = self.running.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
            listener.join().expect("it only reads");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// A port that is nobody's. The kernel gives it to nobody in between, as it may do with those that it chooses itself.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let from_here_on = std::process::id().wrapping_mul(16);
    let port = || 10_000 + (from_here_on.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000) as u16;
    std::iter::repeat_with(port)
        .take(20_000)
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

async fn leads(url: &str) -> bool {
    let Ok(mut client) = etcd_client::Client::connect([url], None).await else { return false };
    let Ok(status) = client.status().await else { return false };
    status.header().is_some_and(|header| header.member_id() == status.leader())
}

const WITHIN: Duration = Duration::from_secs(60);
