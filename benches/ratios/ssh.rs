//! A real sshd on the loopback interface, and one connection to it that everything shares.
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use teamster::launch::Ssh;
use tempfile::TempDir;

use crate::Result;
use crate::measure::{Budget, Measured, alternate, micros};

const SSHD: &str = "/usr/sbin/sshd";

/// An actor's start, and `ssh host true`, over the same connection. Without an sshd nothing is measured.
pub(crate) async fn spawn(budget: Budget) -> Result<Measured> {
    if !Path::new(SSHD).exists() {
        eprintln!("ratios: spawn_ssh needs openssh-server");
        return Ok(Measured::default());
    }
    let server = Server::start()?;
    let measured = teamster::open_nursery(async |an| {
        let measured = alternate(
            budget,
            async || {
                let began = Instant::now();
                let far = an.actor("far").launcher(server.launcher()).start().await?;
                let took = micros(began.elapsed());
                far.cancel_actor().await?;
                Ok(vec![took])
            },
            async || {
                let began = Instant::now();
                let ended = server.client().args(["here", "true"]).status()?;
                let took = micros(began.elapsed());
                if ended.success() { Ok(vec![took]) } else { Err("ssh here true failed".into()) }
            },
        );
        measured.await
    });
    Ok(measured.await?)
}

struct Server {
    folder: TempDir,
    sshd: Child,
}

impl Server {
    fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("rs-").tempdir()?;
        let of = |file: &str| folder.path().join(file);
        for key in ["key", "host_key"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(of(key)).status()?;
            if !made.success() {
                return Err("ssh-keygen failed".into());
            }
        }
        // sshd wants it, where it runs as root.
        let _ = std::fs::create_dir_all("/run/sshd");
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = folder.path().display();
        std::fs::write(
            of("sshd_config"),
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {path}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n\
                 AuthorizedKeysFile {path}/key.pub\nPermitRootLogin yes\nSetEnv XDG_CACHE_HOME={path}/cache\n"
            ),
        )?;
        std::fs::write(
            of("ssh_config"),
            format!(
                "Host here\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {path}/key\n  IdentitiesOnly yes\n  BatchMode yes\n  \
                 StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  ControlPath {path}/c\n"
            ),
        )?;
        let mut sshd = Command::new(SSHD);
        sshd.args(["-D", "-e", "-f"]).arg(of("sshd_config")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut sshd = sshd.spawn()?;
        let mut stderr = BufReader::new(sshd.stderr.take().ok_or("it is piped")?);
        let server = Server { folder, sshd };
        let mut said = String::new();
        while !said.contains("Server listening") {
            if stderr.read_line(&mut said)? == 0 {
                return Err(format!("sshd has ended: {said}").into());
            }
        }
        // It goes on to say who comes: read, so that it is never held up, and thrown away.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        // It comes back when the connection stands.
        let master =
            server.client().args(["-M", "-N", "-f", "here"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if master.success() { Ok(server) } else { Err("ssh -M failed".into()) }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("ssh_config")
    }

    fn client(&self) -> Command {
        let mut client = Command::new("ssh");
        client.arg("-F").arg(self.config()).stdin(Stdio::null());
        client
    }

    fn launcher(&self) -> Ssh {
        Ssh::new("here").args(["-F".into(), self.config().into_os_string()])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.client().args(["-O", "exit", "here"]).stderr(Stdio::null()).status();
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}
