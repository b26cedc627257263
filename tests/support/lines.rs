//! The lines of processes, seen from outside: which they are, and what becomes of who loses them.
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Whether lines of this run are connections of the kernel's, which it cuts: what QUIC goes by has no end to shut down.
pub(crate) fn can_be_cut() -> bool {
    std::env::var("TEAMSTER_TRANSPORT").as_deref() != Ok("quic")
}

/// Shuts down all that a process has of lines to another one: how many those were.
pub(crate) fn cut(pid: u32, peer: u32) -> std::io::Result<usize> {
    let lines = lines(pid, peer)?;
    cut_off(&lines)?;
    Ok(lines.len())
}

/// Shuts these down, one after the other.
pub(crate) fn cut_off(lines: &[OwnedFd]) -> std::io::Result<()> {
    for line in lines {
        match shutdown(line, Shutdown::Both) {
            // The end of the one before has been seen already, and who saw it has ended this one too.
            Err(rustix::io::Errno::NOTCONN) => {}
            cut => cut?,
        }
    }
    Ok(())
}

/// A process's lines to another one.
pub(crate) fn lines(pid: u32, peer: u32) -> std::io::Result<Vec<OwnedFd>> {
    let theirs: Vec<_> = fds(peer)?.iter().filter_map(ends_on_network).collect();
    Ok(fds(pid)?.into_iter().filter(|fd| is_line_to(fd, peer, &theirs)).collect())
}

/// All that a process has open.
#[allow(dead_code, reason = "one of the two tests that use this file has no need of it")]
pub(crate) fn fds(pid: u32) -> std::io::Result<Vec<OwnedFd>> {
    let process = Pid::from_raw(pid.cast_signed()).expect("it is a process");
    let process = pidfd_open(process, PidfdFlags::empty())?;
    // Listed before the first is taken: where the process is our own, what is taken would be listed too.
    let entries: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))?.collect::<Result<_, _>>()?;
    let numbers = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(|number| pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()).ok()).collect())
}

fn is_line_to(fd: &OwnedFd, peer: u32, theirs: &[[SocketAddr; 2]]) -> bool {
    match ends_on_network(fd) {
        Some([near, far]) => theirs.contains(&[far, near]),
        None => {
            let is_peer = |they: rustix::net::UCred| they.pid.as_raw_pid().cast_unsigned() == peer;
            rustix::net::sockopt::socket_peercred(fd).is_ok_and(is_peer)
        }
    }
}

/// Both ends of a TCP connection, this one first.
fn ends_on_network(fd: &OwnedFd) -> Option<[SocketAddr; 2]> {
    let near = rustix::net::getsockname(fd).ok()?.try_into().ok()?;
    Some([near, rustix::net::getpeername(fd).ok()??.try_into().ok()?])
}
