//! What is so on a host that the user's `ssh` reaches?
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::Finding;
use super::here::first_line;

/// Whether there is an ssh at all.
pub(super) fn ssh_client() -> Finding {
    match first_line(Command::new("ssh").arg("-V")) {
        Some(version) => Finding::ok("ssh", version),
        None => {
            Finding::warn("ssh", "there is none: no other host can be reached", "sudo apt-get install openssh-client")
        }
    }
}

/// The host is reached as the user's own `ssh HOST` would, but for passwords: nobody is asked for one.
pub(super) fn findings(host: &str) -> Vec<Finding> {
    let mut findings = vec![multiplexing(host)];
    findings.extend(reach(host));
    findings
}

/// Each actor that is started there would have to log in anew.
fn multiplexing(host: &str) -> Finding {
    let settings = Command::new("ssh").args(["-G", "--", host]).output();
    match settings {
        Ok(output) if output.status.success() => shares(host, &String::from_utf8_lossy(&output.stdout)),
        Ok(_) | Err(_) => {
            Finding::warn("ssh sharing", "ssh does not tell its settings", "install OpenSSH 6.8 or later")
        }
    }
}

fn shares(host: &str, settings: &str) -> Finding {
    let setting = |name: &str| {
        let lines = settings.lines().filter_map(|line| line.split_once(' '));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
    };
    let is_on = !matches!(setting("controlmaster"), "" | "no" | "false");
    let has_path = !matches!(setting("controlpath"), "" | "none");
    if is_on && has_path {
        return Finding::ok("ssh sharing", format!("connections are shared, at {}", setting("controlpath")));
    }
    let mend = format!(
        r"printf 'Host {host}\n  ControlMaster auto\n  ControlPath ~/.ssh/%%C\n  ControlPersist 10m\n' >> ~/.ssh/config"
    );
    Finding::warn("ssh sharing", "every connection logs in anew, which takes a part of a second each", mend)
}

/// Whether it can be reached, and if so, what its clock says.
fn reach(host: &str) -> Vec<Finding> {
    let mut command = Command::new("ssh");
    command.args(["-o", "BatchMode=yes", "-o", CONNECT_TIMEOUT, "--", host, "date", "+%s.%N"]);
    let before = now();
    let output = command.output();
    let after = now();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => return vec![unreachable(host, &String::from_utf8_lossy(&output.stderr))],
        Err(error) => return vec![unreachable(host, &error.to_string())],
    };
    let took = after.saturating_sub(before);
    let reached = Finding::ok("ssh", format!("it is reached without a password, in {took:.1?}"));
    let skew = skew(host, String::from_utf8_lossy(&output.stdout).trim(), before, after);
    vec![reached, skew, udp(host)]
}

/// Whether datagrams as long as QUIC's first ones come from there, where an actor would connect from, and get back.
fn udp(host: &str) -> Finding {
    let failed = |error: &io::Error| Finding::warn("udp", format!("not looked at: {error}"), "ulimit -n 65536");
    let bound =
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_no_v6| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let (socket, port) = match bound.and_then(|socket| Ok((socket.local_addr()?.port(), socket))) {
        Ok((port, socket)) => (socket, port),
        Err(error) => return failed(&error),
    };
    if let Err(error) = socket.set_read_timeout(Some(LOOK_AGAIN_AFTER)) {
        return failed(&error);
    }
    let mut command = Command::new("ssh");
    command.args(["-o", "BatchMode=yes", "-o", CONNECT_TIMEOUT, "--", host]).arg(echo_script(port));
    let is_over = AtomicBool::new(false);
    let (output, came) = std::thread::scope(|scope| {
        let answers = scope.spawn(|| answer(&socket, &is_over));
        let output = command.output();
        is_over.store(true, Ordering::Relaxed);
        (output, answers.join().unwrap_or(false))
    });
    match output {
        Ok(output) => way(host, &String::from_utf8_lossy(&output.stdout), came),
        Err(error) => failed(&error),
    }
}

/// For the bash over there, whatever the login shell is: it knows from where ssh has come.
fn echo_script(port: u16) -> String {
    format!(
        "bash -c 'exec 3<>\"/dev/udp/${{SSH_CONNECTION%% *}}/{port}\" && set -- $SSH_CONNECTION && echo \"from $3 to $1\" && \
         for n in 1 2 3; do printf %-{DATAGRAM}s teamster >&3; read -r -t 1 -n 1 -u 3 && echo answered && exit; done'"
    )
}

/// Answers what comes. Whether anything whole did.
fn answer(socket: &UdpSocket, is_over: &AtomicBool) -> bool {
    let (mut bytes, mut came) = ([0; 2 * DATAGRAM], false);
    while !is_over.load(Ordering::Relaxed) {
        let Ok((count, from)) = socket.recv_from(&mut bytes) else { continue }; // for so long nothing has come
        if count == DATAGRAM && bytes.starts_with(b"teamster") {
            came = true;
            // One that gets lost is asked for again.
            let _ = socket.send_to(b"!", from);
        }
    }
    came
}

/// What was heard on both sides.
fn way(host: &str, told: &str, came: bool) -> Finding {
    let ends = told.lines().find_map(|line| line.strip_prefix("from ")?.split_once(" to "));
    let Some((there, here)) = ends else {
        let mend = format!("ssh {host} sudo apt-get install bash");
        return Finding::warn("udp", "not looked at: there is no bash that opens /dev/udp", mend);
    };
    match (came, told.lines().any(|line| line == "answered")) {
        (_, true) => Finding::ok("udp", format!("datagrams of {DATAGRAM} bytes get from {there} to {here} and back")),
        (true, false) => Finding::warn(
            "udp",
            format!("datagrams come from {there} to {here}, and nothing gets back: QUIC does not work"),
            format!("ssh {host} sudo ufw allow proto udp from {here}"),
        ),
        (false, false) => Finding::warn(
            "udp",
            format!("no datagram of {DATAGRAM} bytes gets from {there} to {here}: QUIC does not work"),
            format!("sudo ufw allow proto udp from {there}"),
        ),
    }
}

fn unreachable(host: &str, said: &str) -> Finding {
    let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("ssh failed").trim();
    let mend = match said.contains("Permission denied") {
        true => format!("ssh-copy-id {host}"),
        false => format!("see what `ssh -v {host}` says"),
    };
    Finding::fail("ssh", said, mend)
}

/// The remote clock was read somewhere between these two times of ours.
fn skew(host: &str, told: &str, before: Duration, after: Duration) -> Finding {
    let Some(there) = time_of(told) else {
        return Finding::warn("clock skew", format!("its `date` says {told:?}"), "install a `date` that knows +%s");
    };
    let late = there.as_secs_f64() - after.as_secs_f64();
    let early = before.as_secs_f64() - there.as_secs_f64();
    let (beyond, word) = if late > early { (late, "ahead") } else { (early, "behind") };
    match beyond {
        // A `date` without nanoseconds cuts a second off.
        ..TOLERATED => Finding::ok("clock skew", format!("less than {:.1?}", after.saturating_sub(before) + WITHIN)),
        _ => Finding::warn(
            "clock skew",
            format!("its clock is {beyond:.1} s {word}: lines of several hosts come in the wrong order"),
            format!("ssh {host} sudo timedatectl set-ntp true"),
        ),
    }
}

fn time_of(told: &str) -> Option<Duration> {
    let (seconds, nanos) = told.split_once('.').unwrap_or((told, ""));
    Some(Duration::new(seconds.parse().ok()?, nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000).unwrap_or(0)))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Bytes that every path of QUIC's has to carry: RFC 9000, section 14.
const DATAGRAM: usize = 1200;
/// How soon it is seen that nobody will send any more.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

const CONNECT_TIMEOUT: &str = "ConnectTimeout=5";
/// Seconds by which a clock may be wrong.
const TOLERATED: f64 = 1.0;
const WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn connections_are_shared_with_a_master_and_a_path() {
        let cases = [
            ("controlmaster auto\ncontrolpath /home/me/.ssh/abc\n", Verdict::Ok),
            ("user me\ncontrolmaster false\ncontrolpath none\n", Verdict::Warn),
            ("controlmaster auto\n", Verdict::Warn),
            ("", Verdict::Warn),
        ];
        for (settings, verdict) in cases {
            assert_eq!(shares("h", settings).verdict, verdict, "{settings}");
        }
    }

    #[test]
    fn a_path_carries_datagrams_there_and_back_or_not() {
        let cases = [
            ("from 10.0.0.2 to 10.0.0.1\nanswered\n", true, Verdict::Ok, "from 10.0.0.2 to 10.0.0.1 and back"),
            ("from 10.0.0.2 to 10.0.0.1\n", true, Verdict::Warn, "ssh h sudo ufw allow proto udp from 10.0.0.1"),
            ("from 10.0.0.2 to 10.0.0.1\n", false, Verdict::Warn, "it: sudo ufw allow proto udp from 10.0.0.2"),
            ("", false, Verdict::Warn, "ssh h sudo apt-get install bash"),
        ];
        for (told, came, verdict, says) in cases {
            let finding = way("h", told, came);
            assert_eq!(finding.verdict, verdict, "{told}");
            assert!(finding.to_string().contains(says), "{finding}");
        }
    }

    #[test]
    fn a_clock_is_wrong_by_what_the_way_there_does_not_explain() {
        let (before, after) = (Duration::from_secs(1_000), Duration::from_secs(1_002));
        let cases = [
            ("1001.5", Verdict::Ok),
            ("999.900000000", Verdict::Ok),
            ("1000.N", Verdict::Ok),
            ("1060.0", Verdict::Warn),
            ("900.0", Verdict::Warn),
            ("Mon", Verdict::Warn),
        ];
        for (told, verdict) in cases {
            assert_eq!(skew("h", told, before, after).verdict, verdict, "{told}");
        }
        assert!(skew("h", "1060.0", before, after).to_string().contains("58.0 s ahead"));
        assert!(skew("h", "900.0", before, after).to_string().contains("100.0 s behind"));
    }
}
