//! Lines from an event to a terminal, through rings, in one process.
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing_subscriber::registry;

use super::*;

fn ring() -> Arc<LogRing> {
    Arc::new(LogRing::new(aid("frank", 4711)))
}

fn aid(name: &str, pid: u32) -> Aid {
    Aid::new(name, Uuid::from_u128(7), pid, "host")
}

/// Logs what `act` logs as a child with these directives would.
fn in_child(directives: &str, ring: &Arc<LogRing>, act: impl FnOnce()) {
    let layer = RingLayer { ring: ring.clone() }.with_filter(targets(directives).0);
    tracing::subscriber::with_default(registry().with(layer), act);
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a root with `TEAMSTER_LOG` prints for what `act` logs.
fn printed(act: impl FnOnce()) -> String {
    let written = Written::default();
    let writer = written.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .event_format(terminal::OneLine);
    tracing::subscriber::with_default(registry().with(layer), act);
    let bytes = written.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

fn messages(lines: &[Bytes]) -> Vec<String> {
    lines.iter().map(|line| codec::decode::<LogLine<'_>>(line).unwrap().message.into_owned()).collect()
}

#[test]
fn a_line_of_a_child_reads_like_one_of_ours_with_its_actor() {
    let ring = ring();
    in_child("info", &ring, || {
        let span = tracing::info_span!("outer");
        let _entered = span.enter();
        tracing::info!(target: "my_crate::work", user = 3, path = "/x", "two\nlines");
    });
    let batch = ring.pop_batch(usize::MAX);
    assert_eq!(batch.len(), 1);
    let mut line: LogLine<'_> = codec::decode(&batch[0]).unwrap();
    assert!(line.file.is_some() && line.line.is_some() && now_us() - line.time_us < 60_000_000);
    line.time_us = 1_764_000_000_000_123;
    let text = printed(|| emit(&aid("parent", 1), &line.encode()));
    let expected = "2025-11-24T16:00:00.000123Z  INFO frank@4711 my_crate::work: outer: two\\nlines user=3 path=/x\n";
    assert_eq!(text, expected);
}

#[test]
fn a_line_of_ours_has_spans_and_fields() {
    let text = printed(|| {
        let span = tracing::info_span!("outer");
        let _entered = span.enter();
        tracing::warn!(target: "my_crate", actor = "jim", n = 1, "hot");
    });
    let (_, after_time) = text.split_once('Z').unwrap();
    assert_eq!(after_time, "  WARN my_crate: outer: hot actor=jim n=1\n");
}

#[test]
fn a_disabled_line_is_never_formatted() {
    struct Bomb;
    impl fmt::Debug for Bomb {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("formatted")
        }
    }
    let ring = ring();
    in_child("noisy=debug,info", &ring, || {
        tracing::debug!(target: "other", bomb = ?Bomb, "{:?}", Bomb);
        tracing::debug!(target: "noisy::part", "heard");
        tracing::trace!(target: "noisy::part", bomb = ?Bomb);
        tracing::info!(target: "other", "heard too");
    });
    assert_eq!(messages(&ring.pop_batch(usize::MAX)), ["heard", "heard too"]);
}

#[test]
fn directives_that_cannot_be_read_mean_info_and_say_so() {
    let (targets, problem) = targets("my_crate=loud");
    assert!(targets.would_enable("any", &Level::INFO) && !targets.would_enable("any", &Level::DEBUG));
    assert!(problem.unwrap().contains("\"my_crate=loud\" can't be read"));
}

#[test]
fn a_full_ring_drops_the_oldest_and_counts_them() {
    let ring = ring();
    for number in 0..12u8 {
        ring.push(Bytes::from(vec![number; RING_BYTES / 10]));
    }
    let batch = ring.pop_batch(RING_BYTES / 10 * 2 + 500);
    assert_eq!(messages(&batch[..1]), ["2 log lines of frank@00000000 were dropped"]);
    assert_eq!(batch[1..].iter().map(|line| line[0]).collect::<Vec<_>>(), [2, 3]);
    let rest = ring.pop_batch(usize::MAX);
    assert_eq!((rest.len(), rest[0][0]), (8, 4));
    assert!(ring.pop_batch(usize::MAX).is_empty());
}

#[test]
fn a_line_longer_than_the_batch_comes_alone() {
    let ring = ring();
    ring.push(Bytes::from_static(b"long"));
    ring.push(Bytes::from_static(b"next"));
    assert_eq!(ring.pop_batch(1).len(), 1);
}

#[test]
fn a_huge_value_is_cut() {
    let ring = ring();
    in_child("info", &ring, || tracing::info!("{}", "ü".repeat(LINE_BYTES)));
    let batch = ring.pop_batch(usize::MAX);
    assert!(batch[0].len() < LINE_BYTES + 1000);
    assert!(messages(&batch)[0].ends_with("ü…"));
}

#[test]
fn the_first_line_notifies_and_the_rest_do_not() {
    let ring = ring();
    ring.push(Bytes::from_static(b"before"));
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    ring.set_notify(Box::new(move || _ = counter.fetch_add(1, Ordering::Relaxed)));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    ring.push(Bytes::from_static(b"second"));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    ring.pop_batch(usize::MAX);
    ring.push(Bytes::from_static(b"third"));
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn lines_about_sending_lines_do_not_loop() {
    let ring = ring();
    ring.set_notify(Box::new(|| tracing::error!("the notifier logs")));
    in_child("trace", &ring, || {
        tracing::debug!(target: "teamster::channel::writer", "wrote 17 bytes");
        tracing::warn!(target: "teamster::channel::writer", "the line is slow");
        let quiet = silence();
        tracing::error!("while sending");
        drop(quiet);
        tracing::info!("after");
    });
    assert_eq!(messages(&ring.pop_batch(usize::MAX)), ["the line is slow", "after"]);
}

#[test]
fn an_actor_in_the_middle_forwards_and_keeps_the_origin() {
    let (below, above) = (ring(), Arc::new(LogRing::new(aid("middle", 1))));
    in_child("info", &below, || tracing::info!("hay"));
    let batch = below.pop_batch(usize::MAX);
    pass_on(Some(&above), &aid("not the origin", 2), &batch[0]);
    assert_eq!(above.pop_batch(usize::MAX), batch);

    let mut nameless: LogLine<'_> = codec::decode(&batch[0]).unwrap();
    nameless.actor = None;
    pass_on(Some(&above), &aid("client", 2), &nameless.encode());
    let batch = above.pop_batch(usize::MAX);
    let line: LogLine<'_> = codec::decode(&batch[0]).unwrap();
    assert_eq!(line.actor.unwrap(), Origin::of(&aid("client", 2)));
}

#[test]
fn hostile_bytes_are_a_line_that_says_so() {
    let text = printed(|| emit(&aid("frank", 4711), &[0x99, 0xff, 0xff]));
    assert!(text.contains("teamster::log: a malformed log line of 3 bytes actor=frank@00000000"), "{text}");
}

#[test]
fn days_are_dates() {
    fn check(seconds: u64, expected: &str) {
        let mut text = String::new();
        terminal::write_time(&mut text, seconds * 1_000_000).unwrap();
        assert_eq!(text, expected);
    }
    check(0, "1970-01-01T00:00:00.000000Z");
    check(951_782_400, "2000-02-29T00:00:00.000000Z");
    check(4_107_542_399, "2100-02-28T23:59:59.000000Z");
    check(4_107_542_400, "2100-03-01T00:00:00.000000Z");
}

/// Runs the test of this name in a process of its own, whose global subscriber is its own, with
/// `TEAMSTER_LOG` set, and gives its stderr. `None`: this is that process.
fn again(name: &str, variable: &str) -> Option<String> {
    const AGAIN: &str = "TEAMSTER_LOG_AGAIN";
    if std::env::var_os(AGAIN).is_some() {
        return None;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("actor::log::tests::{name}");
    let output = again.args([&name, "--exact", "--nocapture"]).env(AGAIN, "1").env(VARIABLE, variable).output();
    let output = output.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    Some(text)
}

#[test]
fn the_variable_prints_a_tree_on_stderr() {
    let Some(text) = again("the_variable_prints_a_tree_on_stderr", "mine=debug,error") else {
        install_in_root();
        tracing::debug!(target: "mine", "ours");
        tracing::info!(target: "other", "not shown");
        let line = ring().dropped_line(3);
        return emit(&aid("frank", 4711), &line);
    };
    let lines: Vec<&str> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
    let dropped = " WARN frank@4711 teamster::log: 3 log lines of frank@00000000 were dropped";
    assert_eq!(lines, ["DEBUG mine: ours", dropped]);
}

#[test]
fn the_variable_wins_over_the_spec() {
    if again("the_variable_wins_over_the_spec", "warn").is_none() {
        let ring = ring();
        install_in_child(Some("trace"), ring.clone());
        tracing::info!("not sent");
        tracing::warn!("sent");
        assert_eq!(messages(&ring.pop_batch(usize::MAX)), ["sent"]);
        assert_eq!(default_directives(), "warn", "its own children are told the same");
    }
}

#[test]
fn a_child_that_is_off_sends_nothing_and_still_forwards() {
    if again("a_child_that_is_off_sends_nothing_and_still_forwards", "off").is_none() {
        let ring = ring();
        install_in_child(Some("trace"), ring.clone());
        tracing::error!("not sent");
        assert!(!tracing::dispatcher::has_been_set());
        emit(&aid("below", 1), &ring.dropped_line(1));
        assert_eq!(ring.pop_batch(usize::MAX).len(), 1);
    }
}

#[tokio::test]
async fn a_follower_has_the_lines_of_its_root_alone() {
    let (root, other) = (aid("king", 1), Aid::new("other", Uuid::from_u128(8), 2, "host"));
    let ring = ring();
    in_child("info", &ring, || tracing::info!(target: "work", user = 3, "from below"));
    let line = ring.pop_batch(1).remove(0);
    follow::offer(&root, &other, &line); // nobody follows
    let follower = follow::Follower::of(&root);
    follow::offer(&other, &other, &line);
    follow::offer(&root, &other, &[0xc1]); // no line at all
    follow::offer(&root, &other, &line);
    let layer = follow::FollowLayer;
    tracing::subscriber::with_default(registry().with(layer), || {
        tracing::warn!(target: "own", "of the\nroot");
        emit(&other, &line); // it comes a second time, as an event of the root's
    });
    let told: Vec<String> =
        follower.next(1 << 20).await.iter().map(|line| follow::LogRecord::decode(line).unwrap().to_string()).collect();
    let told: Vec<&str> = told.iter().map(|line| line.split_once("Z ").unwrap().1).collect();
    assert_eq!(told, [" INFO frank@4711 work: from below user=3", " WARN king@1 own: of the\\nroot"]);
}

#[tokio::test]
async fn a_slow_follower_loses_the_oldest_and_is_told_how_many() {
    let root = Aid::new("king", Uuid::from_u128(9), 1, "host");
    let follower = follow::Follower::of(&root);
    let ring = ring();
    in_child("info", &ring, || tracing::info!("{}", "x".repeat(10_000)));
    let line = ring.pop_batch(1).remove(0);
    for _ in 0..300 {
        follow::offer(&root, &root, &line);
    }
    let lines = follower.next(usize::MAX).await;
    let lost = 300 - (lines.len() as u64 - 1);
    assert_eq!(messages(&lines)[0], format!("{lost} log lines of {root} were dropped"));
    assert!(lost > 150, "{lost}");
}
