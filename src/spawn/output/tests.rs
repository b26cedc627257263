//! Pipes, as a child holds them, and sinks that keep, block or break.
use std::fs::File;
use std::io::Read;
use std::sync::mpsc;

use super::child::{PARTIAL_LINE_BYTES, TAIL_BYTES};
use super::*;

/// A child's ends of its pipes, and our side of it.
struct Child {
    stdout: Option<File>,
    stderr: Option<File>,
    output: Arc<ChildOutput>,
}

impl Child {
    fn new() -> Child {
        let (stdout, child_stdout) = rustix::pipe::pipe().unwrap();
        let (stderr, child_stderr) = rustix::pipe::pipe().unwrap();
        let output = ChildOutput::new(Some(stdout), Some(stderr)).unwrap();
        Child { stdout: Some(child_stdout.into()), stderr: Some(child_stderr.into()), output }
    }

    fn says(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdout.as_mut().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    fn complains(&mut self, bytes: impl AsRef<[u8]>) {
        self.stderr.as_mut().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    fn dies(&mut self) {
        (self.stdout, self.stderr) = (None, None);
        self.output.drain();
    }

    /// Waits until all that it has printed is written.
    fn relayed(&self) {
        let (done, wait) = mpsc::channel();
        self.output.drain();
        self.output.when_relayed(Box::new(move || done.send(()).unwrap()));
        wait.recv_timeout(Duration::from_secs(5)).expect("the lines are relayed");
    }
}

struct Kept(Arc<Mutex<Vec<u8>>>);

impl Sink for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().extend_from_slice(bytes);
        Ok(())
    }
}

struct Pipe(File);

impl Sink for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

type Written = Arc<Mutex<Vec<u8>>>;

fn relay() -> (OutputThread, Written, Written) {
    let (out, err) = (Written::default(), Written::default());
    let sinks: [Box<dyn Sink>; 2] = [Box::new(Kept(out.clone())), Box::new(Kept(err.clone()))];
    (OutputThread::start_with("output", sinks).unwrap(), out, err)
}

fn text(written: &Written) -> String {
    String::from_utf8(written.lock().clone()).unwrap()
}

const LONG: Duration = Duration::from_secs(5);

#[test]
fn lines_of_two_children_are_not_torn() {
    let (thread, out, _) = relay();
    let (mut a, mut b) = (Child::new(), Child::new());
    for child in [&a, &b] {
        child.output.ready();
        thread.add(child.output.clone()).unwrap();
    }
    for part in ["one ", "line\nand ", "another\nlast"] {
        a.says(part);
        b.says(part.to_uppercase());
    }
    a.dies();
    b.dies();
    assert_eq!(thread.finish(LONG), Finished::Relayed);
    let written = text(&out);
    let mut lines: Vec<&str> = written.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["AND ANOTHER", "LAST", "ONE LINE", "and another", "last", "one line"]);
    assert!(written.ends_with('\n'));
}

#[test]
fn what_comes_before_ready_is_kept_and_not_relayed() {
    let (thread, out, err) = relay();
    let mut child = Child::new();
    thread.add(child.output.clone()).unwrap();
    child.says("running 1 test\n");
    child.complains("a banner\n");
    child.output.ready();
    assert_eq!(child.output.tail(), "a banner\n");
    child.says("hello\n");
    child.complains("oops\n");
    child.dies();
    assert_eq!(thread.finish(LONG), Finished::Relayed);
    assert_eq!((text(&out), text(&err)), ("hello\n".to_owned(), "oops\n".to_owned()));
    assert_eq!(child.output.tail(), "a banner\noops\n");
}

#[test]
fn a_failed_boot_shows_both_streams_in_the_tail() {
    let mut child = Child::new();
    child.says("usage: x\n");
    child.complains("no such option");
    child.dies();
    assert_eq!(child.output.tail(), "usage: x\nno such option");
}

#[test]
fn the_tail_is_bounded_and_starts_with_a_line() {
    let mut child = Child::new();
    for number in 0..10_000 {
        child.complains(format!("line {number} \u{fc}\n"));
        if number % 500 == 0 {
            child.output.drain();
        }
    }
    child.output.drain();
    let tail = child.output.tail();
    assert!(tail.len() <= TAIL_BYTES && tail.len() > TAIL_BYTES - 20, "{}", tail.len());
    assert!(tail.starts_with("line ") && tail.ends_with("line 9999 \u{fc}\n"), "{tail}");
}

#[test]
fn a_long_line_is_relayed_in_pieces_and_stays_whole_alone() {
    let (thread, out, _) = relay();
    let mut child = Child::new();
    child.output.ready();
    thread.add(child.output.clone()).unwrap();
    child.says(vec![b'x'; 200_000]); // the pipe holds 64 KiB: this ends only if it is read
    assert!(child.output.pending_bytes(Stream::Stdout) < 2 * PARTIAL_LINE_BYTES);
    child.says("\nand one\n");
    child.dies();
    assert_eq!(thread.finish(LONG), Finished::Relayed);
    assert_eq!(text(&out), "x".repeat(200_000) + "\nand one\n");
}

#[test]
fn a_line_of_another_child_in_a_long_line_is_whole() {
    let mut outlet = Outlet::new(Box::new(Kept(Written::default())));
    let written = Written::default();
    outlet.sink = Box::new(Kept(written.clone()));
    for (id, piece) in [(1, "xxx"), (1, "yyy"), (2, "other\n"), (1, "zzz\n"), (2, "more\n")] {
        assert_eq!(outlet.write(id, piece.as_bytes()), Broke::No);
    }
    assert_eq!(text(&written), "xxxyyy\nother\nzzz\nmore\n");
}

#[test]
fn a_blocked_terminal_holds_up_neither_drain_nor_finish() {
    let (mut reader, writer) = rustix::pipe::pipe().map(|(r, w)| (File::from(r), File::from(w))).unwrap();
    let sinks: [Box<dyn Sink>; 2] = [Box::new(Pipe(writer)), Box::new(Kept(Written::default()))];
    let thread = OutputThread::start_with("output", sinks).unwrap();
    let mut child = Child::new();
    child.output.ready();
    thread.add(child.output.clone()).unwrap();
    rustix::io::ioctl_fionbio(child.stdout.as_ref().unwrap(), true).unwrap();
    let mut printed = 0;
    loop {
        // Until our sink and the child's pipe are both full.
        match child.stdout.as_mut().unwrap().write(b"0123456\n") {
            Ok(count) => printed += count,
            Err(_) if printed > 64 * 1024 => break,
            Err(_) => std::thread::yield_now(),
        }
    }
    child.complains("the last word\n");
    child.dies();
    assert_eq!(child.output.tail(), "the last word\n");
    assert_eq!(thread.finish(Duration::from_millis(20)), Finished::Blocked);
    assert_eq!(thread.finish(LONG), Finished::Blocked, "the second time says it at once");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap(); // it ends: the thread left behind has gone
    assert!(rest.len() <= printed && rest.ends_with(b"\n"), "{} of {printed}", rest.len());
}

#[test]
fn a_broken_pipe_is_told_once_and_the_rest_thrown_away() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let err = Written::default();
    let sinks: [Box<dyn Sink>; 2] = [Box::new(Pipe(writer.into())), Box::new(Kept(err.clone()))];
    let thread = OutputThread::start_with("output", sinks).unwrap();
    let (tell, told) = mpsc::channel();
    thread.on_broken_pipe(Box::new(move || tell.send(()).unwrap()));
    let mut child = Child::new();
    child.output.ready();
    thread.add(child.output.clone()).unwrap();
    child.says("one\n");
    told.recv_timeout(LONG).expect("told of the broken pipe");
    child.says("two\n");
    child.complains("still here\n");
    child.dies();
    assert_eq!(thread.finish(LONG), Finished::Relayed);
    assert!(told.try_recv().is_err(), "told once");
    assert_eq!(text(&err), "still here\n");
}

#[test]
fn a_helper_that_keeps_the_pipe_open_is_relayed_and_not_waited_for() {
    let (thread, out, _) = relay();
    let mut child = Child::new();
    child.output.ready();
    thread.add(child.output.clone()).unwrap();
    let mut helper = child.stdout.as_ref().unwrap().try_clone().unwrap();
    child.says("bye");
    child.dies();
    child.relayed();
    assert_eq!(text(&out), "bye\n");
    helper.write_all(b"from the helper\n").unwrap();
    child.relayed();
    assert_eq!(text(&out), "bye\nfrom the helper\n");
    assert_eq!(thread.finish(LONG), Finished::Relayed);
    // A child that another test is just starting holds the pipe too, until its exec.
    while helper.write_all(b"nobody reads this\n").is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn ended_children_are_forgotten() {
    let (thread, _, _) = relay();
    let mut child = Child::new();
    thread.add(child.output.clone()).unwrap();
    child.dies();
    child.relayed();
    assert!(thread.shared.children.lock().by_id.is_empty());
    child.relayed(); // nobody looks at it any more: at once
    assert_eq!(thread.finish(LONG), Finished::Relayed);
}

/// This test's process is started again, with a stdout that is non-blocking and soon full.
#[test]
fn a_slow_non_blocking_stdout_gets_every_line() {
    const AGAIN: &str = "TEAMSTER_OUTPUT_AGAIN";
    if std::env::var_os(AGAIN).is_some() {
        rustix::io::ioctl_fionbio(rustix::stdio::stdout(), true).unwrap();
        let thread = OutputThread::start("output").unwrap();
        let mut child = Child::new();
        child.output.ready();
        thread.add(child.output.clone()).unwrap();
        for number in 0..5000 {
            child.says(format!("relayed {number} {}\n", "x".repeat(90)));
        }
        child.complains("and an error\n");
        child.dies();
        assert_eq!(thread.finish(LONG), Finished::Relayed);
        std::process::exit(0); // libtest's own printing can't wait for room
    }
    let name = "spawn::output::tests::a_slow_non_blocking_stdout_gets_every_line";
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args([name, "--exact", "--nocapture"]).env(AGAIN, "1").stdout(writer).stderr(std::process::Stdio::piped());
    let started = again.spawn().unwrap();
    drop(again); // it holds our copy of the writing end
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    let output = started.wait_with_output().unwrap();
    let numbers = text.lines().filter_map(|line| line.strip_prefix("relayed ")?.strip_suffix(&"x".repeat(90)));
    assert!(numbers.map(|number| number.trim().parse::<u32>().unwrap()).eq(0..5000));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "and an error\n");
}
