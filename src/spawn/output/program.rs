//! What happens to what a plain program prints? It is a line in the log each, or it is captured; its pipes are drained whatever the log does.
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::child::Stream;
use super::{Capture, ChildOutput, OutputThread};
use crate::actor::child::StderrTail;

/// The output of one program.
pub(crate) struct ProgramOutput {
    child: Arc<ChildOutput>,
    lines: Arc<Lines>,
}

impl ProgramOutput {
    pub(crate) fn new(
        stdout: OwnedFd,
        stderr: OwnedFd,
        capture_bytes: Option<usize>,
        thread: &OutputThread,
    ) -> io::Result<Arc<Self>> {
        let lines = Arc::new(Lines::default());
        let capture = capture_bytes.map(Capture::new);
        let child = ChildOutput::of_program(stdout, stderr, capture, Arc::clone(&lines))?;
        thread.add(Arc::clone(&child))?;
        Ok(Arc::new(ProgramOutput { child, lines }))
    }

    /// Logs its lines, until [`ProgramOutput::close`] and the last one before that.
    pub(crate) async fn log(&self, program: &str, pid: u32) {
        while let Some(Batch { stream, lines, left_out }) = self.lines.next().await {
            if left_out > 0 {
                tracing::warn!(
                    target: TARGET, program, pid, left_out,
                    "it prints faster than this log takes it: lines were left out"
                );
            }
            let stream = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            let lines = lines.strip_suffix(b"\n").unwrap_or(&lines);
            for (index, line) in lines.split(|&byte| byte == b'\n').enumerate() {
                let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
                tracing::info!(target: TARGET, program, pid, stream, "{line}");
                if index % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
                    tokio::task::yield_now().await; // a program that prints much is not all that this actor does
                }
            }
        }
    }

    /// It has ended. What somebody that it has left behind prints from now on is thrown away.
    pub(crate) fn close(&self) {
        self.lines.close();
    }

    pub(crate) fn take_captured(&self) -> Capture {
        self.child.take_captured().unwrap_or_default()
    }

    pub(crate) fn stderr_tail(&self) -> String {
        self.child.tail()
    }
}

impl StderrTail for ProgramOutput {
    fn ready(&self) {} // it is from the first

    fn drained_tail(&self) -> String {
        self.child.drain();
        self.child.tail()
    }

    fn when_relayed(&self, act: Box<dyn FnOnce() + Send>) {
        let lines = Arc::clone(&self.lines);
        self.child.when_relayed(Box::new(move || lines.when_logged(act)));
    }
}

/// What the lines of programs have as their target.
const TARGET: &str = "teamster::program";

/// Lines that are logged before others have their turn.
const LINES_AT_ONCE: usize = 64;

/// What a program has printed and the log has not taken yet.
///
/// The output thread fills it and never waits; a task of the actor's runtime empties it.
#[derive(Default)]
pub(crate) struct Lines {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Stream, Vec<u8>)>,
    weight_bytes: usize,
    /// Lines that were thrown away since the last batch was taken.
    left_out: u64,
    is_closed: bool,
    when_logged: Vec<Box<dyn FnOnce() + Send>>,
}

/// Some lines of one stream, and how many there had been before them that nobody sees.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    stream: Stream,
    lines: Vec<u8>,
    left_out: u64,
}

/// What may wait of one program. Over it the oldest is thrown away, and counted: neither does the program wait for the log, nor
/// are the newest lines lost, which say how it ended.
const WAITING_BYTES: usize = 1024 * 1024;

/// What a line costs beside its bytes: short ones are many.
const LINE_BYTES: usize = 32;

fn count(lines: &[u8]) -> usize {
    lines.iter().filter(|&&byte| byte == b'\n').count().max(1)
}

fn weight(lines: &[u8]) -> usize {
    lines.len() + LINE_BYTES * count(lines)
}

impl Lines {
    pub(super) fn push(&self, stream: Stream, lines: Vec<u8>) {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return;
        }
        queue.weight_bytes += weight(&lines);
        queue.waiting.push_back((stream, lines));
        while queue.weight_bytes > WAITING_BYTES && queue.waiting.len() > 1 {
            let Some((_, oldest)) = queue.waiting.pop_front() else { break };
            queue.weight_bytes -= weight(&oldest);
            queue.left_out += count(&oldest) as u64;
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// The next lines. `None`: it is closed, and all is taken.
    async fn next(&self) -> Option<Batch> {
        loop {
            let logged = {
                let mut queue = self.queue.lock();
                if let Some((stream, lines)) = queue.waiting.pop_front() {
                    queue.weight_bytes -= weight(&lines);
                    return Some(Batch { stream, lines, left_out: std::mem::take(&mut queue.left_out) });
                }
                std::mem::take(&mut queue.when_logged)
            };
            // Whoever takes the next has logged the one before.
            logged.into_iter().for_each(|act| act());
            if self.queue.lock().is_closed {
                return None;
            }
            self.changed.notified().await;
        }
    }

    /// Calls `act` when all that has come by now is logged.
    fn when_logged(&self, act: Box<dyn FnOnce() + Send>) {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            drop(queue);
            return act(); // nobody may look again
        }
        queue.when_logged.push(act);
        drop(queue);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.queue.lock().is_closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_in_order_and_then_an_end() {
        let lines = Lines::default();
        lines.push(Stream::Stdout, b"one\ntwo\n".to_vec());
        lines.push(Stream::Stderr, b"three\n".to_vec());
        lines.close();
        lines.push(Stream::Stdout, b"late\n".to_vec());
        let batch = |stream, text: &str| Some(Batch { stream, lines: text.into(), left_out: 0 });
        assert_eq!(lines.next().await, batch(Stream::Stdout, "one\ntwo\n"));
        assert_eq!(lines.next().await, batch(Stream::Stderr, "three\n"));
        assert_eq!(lines.next().await, None);
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn a_log_that_takes_nothing_costs_the_oldest_lines_and_no_more_memory() {
        let lines = Lines::default();
        let chunk = "y\n".repeat(1000).into_bytes();
        for _ in 0..1000 {
            lines.push(Stream::Stdout, chunk.clone());
            assert!(lines.queue.lock().weight_bytes <= WAITING_BYTES);
        }
        let kept = lines.queue.lock().waiting.len() as u64;
        assert_eq!(lines.next().await.map(|batch| batch.left_out), Some((1000 - kept) * 1000));
        assert_eq!(lines.next().await.map(|batch| batch.left_out), Some(0));
        // One that is larger than all that may wait is there all the same.
        lines.push(Stream::Stdout, vec![b'x'; 2 * WAITING_BYTES]);
        assert_eq!(lines.next().await.map(|batch| batch.lines.len()), Some(2 * WAITING_BYTES));
    }

    #[tokio::test]
    async fn whoever_waits_for_the_log_is_told_when_the_last_line_is_in_it() {
        let lines = Lines::default();
        let (told, mut heard) = tokio::sync::oneshot::channel();
        lines.push(Stream::Stdout, b"one\n".to_vec());
        lines.when_logged(Box::new(move || told.send(()).unwrap()));
        assert!(lines.next().await.is_some());
        assert!(heard.try_recv().is_err());
        let (waited, _) = futures::future::join(lines.next(), async { lines.close() }).await;
        assert_eq!(waited, None);
        heard.try_recv().unwrap();
        let (told, mut heard) = tokio::sync::oneshot::channel();
        lines.when_logged(Box::new(move || told.send(()).unwrap()));
        heard.try_recv().unwrap();
    }
}
