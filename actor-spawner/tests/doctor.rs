//! Does `teamster doctor` see what is so, here and on other hosts?
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs it with nothing in its path but what is in this folder.
fn doctor(programs: &Path, hosts: &[&str]) -> Output {
    let sockets = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_teamster"));
    command.arg("doctor").args(hosts).env("PATH", programs).env("TEAMSTER_DIR", sockets.path());
    command.output().expect("it starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program of the user's: a few lines of sh.
fn write_program(folder: &Path, name: &str, lines: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}

#[test]
fn each_line_says_what_is_so_and_what_mends_it() {
    let programs = tempfile::tempdir().expect("a folder");
    let output = doctor(programs.path(), &[]);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("this host:\n"), "{text}");
    for what in ["kernel", "sockets", "ptrace", "gdb", "cgroups", "descriptors", "clock", "debuginfo", "ssh"] {
        let line = text.lines().find(|line| line.get(8..).is_some_and(|rest| rest.starts_with(what)));
        let line = line.unwrap_or_else(|| panic!("nothing of {what}: {text}"));
        assert!(["ok", "warn"].contains(&line.split_whitespace().next().unwrap_or_default()), "{line}");
    }
    assert!(text.contains("  warn  gdb            there is none"), "{text}");
    assert!(text.contains("mend it: sudo apt-get install gdb\n"), "{text}");
    let warnings = text.lines().filter(|line| line.starts_with("  warn")).count();
    assert_eq!(text.matches("mend it: ").count(), warnings, "{text}");
}

#[test]
fn the_limit_of_descriptors_is_its_own() {
    let programs = tempfile::tempdir().expect("a folder");
    let sockets = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 512; PATH=$1 exec $2 doctor", "sh"]).arg(programs.path());
    command.arg(env!("CARGO_BIN_EXE_teamster")).env("TEAMSTER_DIR", sockets.path());
    let text = text(&command.output().expect("there is a sh"));
    assert!(text.contains("  warn  descriptors    512 at once"), "{text}");
}

#[test]
fn without_an_ssh_no_host_is_looked_at() {
    let programs = tempfile::tempdir().expect("a folder");
    let output = doctor(programs.path(), &["moon"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("the other hosts were not looked at: there is no ssh here"), "{output:?}");
}

#[test]
fn a_host_is_asked_for_its_clock_and_for_datagrams_and_ssh_for_its_settings() {
    let programs = tempfile::tempdir().expect("a folder");
    // Its last arguments are `-- HOST date +%s.%N`, or `-G -- HOST`.
    let ssh = r#"
case "$*" in
  -V) echo "OpenSSH_9.9" >&2 ;;
  "-G -- right") echo "controlmaster auto"; echo "controlpath /tmp/mux" ;;
  -G*) echo "controlmaster false" ;;
  "-o BatchMode=yes -o ConnectTimeout=5 -- right date +%s.%N") exec /bin/date +%s.%N ;;
  *"-- right bash -c "*)
    for script; do :; done
    export PATH=/usr/bin:/bin SSH_CONNECTION="127.0.0.1 5 127.0.0.1 22"
    exec /bin/sh -c "$script" ;;
  *"-- wrong bash -c "*) echo "from 10.0.0.2 to 10.0.0.1" ;;
  *"-- wrong date +%s.%N") echo 1000000000.5 ;;
  *) echo "me@moon: Permission denied (publickey)." >&2; exit 255 ;;
esac"#;
    write_program(programs.path(), "ssh", ssh);
    let output = doctor(programs.path(), &["right", "wrong", "moon"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let of = |host: &str| {
        let behind = text.split_once(&format!("\n{host}:\n")).expect("it was looked at").1;
        let lines: Vec<&str> = behind.lines().take_while(|line| line.starts_with("  ")).collect();
        lines.join("\n")
    };
    let right = of("right");
    assert!(!right.contains("warn") && !right.contains("fail"), "{right}");
    assert!(right.contains("connections are shared, at /tmp/mux") && right.contains("clock skew"), "{right}");
    assert!(right.contains("datagrams of 1200 bytes get from 127.0.0.1 to 127.0.0.1 and back"), "{right}");
    let wrong = of("wrong");
    assert!(wrong.contains("no datagram of 1200 bytes gets from 10.0.0.2 to 10.0.0.1"), "{wrong}");
    assert!(wrong.contains("mend it: sudo ufw allow proto udp from 10.0.0.2"), "{wrong}");
    assert!(
        wrong.contains(" s behind: ") && wrong.contains("mend it: ssh wrong sudo timedatectl set-ntp true"),
        "{wrong}"
    );
    assert!(wrong.contains("mend it: printf 'Host wrong\\n  ControlMaster auto\\n"), "{wrong}");
    let moon = of("moon");
    assert!(moon.contains("  fail  ssh            me@moon: Permission denied (publickey)."), "{moon}");
    assert!(moon.contains("mend it: ssh-copy-id moon"), "{moon}");
}
