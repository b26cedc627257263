//! Every example runs to its end, says what it should, and leaves nothing behind.
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use image::ImageEncoder;
use image::codecs::jpeg::JpegEncoder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, inotify, mkfifoat};
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use tempfile::TempDir;
use uuid::Uuid;

#[path = "support/program.rs"]
mod program;
use program::{Terminal, hear_signals, stands_still};

#[test]
fn quickstart() {
    let said = check("quickstart", &[]);
    let wanted = "frank says 3
the same call, here: 3
frank's failure is ours to handle: 3 is odd
frank goes on: 2
the answer is 42
frank is gone, gracefully: true
nothing is left
";
    assert_eq!(said, wanted);
}

#[test]
fn guest_loop() {
    let said = check("guest_loop", &[]);
    assert_eq!(said, "the loop's timer has beaten five times and more: true\nnothing is left\n");
}

#[test]
fn nested_tree() {
    let said = check("nested_tree", &[]);
    for leaf in ["green", "fresh", "young"] {
        assert!(said.contains(&format!("leaf {leaf} was cancelled\n")), "no farewell of {leaf}: {said}");
    }
    let (_, heard) = said.split_once("the root heard:\n").expect("the root tells what it heard");
    for part in ["right", "rotten", "this leaf is rotten", "nested_tree.rs"] {
        assert!(heard.contains(part), "the traceback says nothing of {part}: {heard}");
    }
    assert!(!heard.contains("cancelled"), "a cancelled branch is no failure: {heard}");
    assert!(heard.ends_with("\nnothing is left\n"), "{heard}");
}

#[test]
#[ignore = "needs Python 3.11 with numpy"]
fn py_worker() {
    let said = check("py_worker", &[]);
    assert_eq!(said, "16777216 bytes there, 16777216 back: the tone has 440 cycles\n");
}

#[test]
fn the_readme_shows_the_traceback_as_it_is_printed() {
    let readme = include_str!("../README.md");
    let (_, shown) = readme.split_once("<!-- traceback:begin -->\n```text\n").expect("the README has a traceback");
    let (shown, _) = shown.split_once("```").expect("its block ends");
    let said = check("nested_tree", &[]);
    let heard = said.find("the root heard:\n").expect("the root tells what it heard");
    assert_eq!(without_ids(&said[heard..]), without_ids(shown));
}

/// What differs from run to run, the process ids and the digits of the uuids, left out.
fn without_ids(text: &str) -> String {
    let without_uuids = text.split('@').enumerate().map(|(part, text)| match part {
        0 => text,
        _ => text.trim_start_matches(|c: char| c.is_ascii_hexdigit()),
    });
    let without_uuids: Vec<&str> = without_uuids.collect();
    let joined = without_uuids.join("@");
    let parts = joined.split("(pid ").map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit()));
    parts.collect::<Vec<&str>>().join("(pid ")
}

#[test]
#[cfg(feature = "debug")]
fn hang_dump() {
    let run = Run::start(&mut Run::example("hang_dump")).end();
    run.assert_success();
    let dump = text(&run.output.stderr);
    let places = [
        "root@",
        "clerk@",
        "hang_dump::sell at examples/hang_dump.rs:14",
        "cleaner@",
        "tokio::time::sleep::Sleep::poll",
    ];
    let mut rest = dump.split_once(", after ").expect("a dump").1;
    for place in places {
        rest = rest.split_once(place).unwrap_or_else(|| panic!("no {place} where it belongs: {dump}")).1;
    }
    let said = text(&run.output.stdout);
    assert!(said.contains("\nthe clerk was killed, in hang_dump::sell at examples/hang_dump.rs:14 ("), "{said}");
}

#[test]
fn ask_around() {
    let wanted = "anna heard: ben likes blue, cleo likes cyan
ben heard: anna likes amber, cleo likes cyan
cleo heard: anna likes amber, ben likes blue
";
    assert_eq!(check("ask_around", &[]), wanted);
}

#[test]
fn primes() {
    let said = check("primes", &["100000"]);
    assert_eq!(said.matches(": 9592 primes").count(), 2, "{said}");
    assert!(said.contains("\nspeed-up: "), "{said}");
}

#[test]
fn primes_pool() {
    let said = check("primes_pool", &["100000"]);
    assert_eq!(said.matches(": 9592 primes").count(), 2, "{said}");
    assert!(said.contains("\nspeed-up: "), "{said}");
}

#[test]
fn checksums_are_those_of_sha256sum() {
    let folder = odd_tree();
    for path in [folder.path().to_owned(), folder.path().join("sub/"), folder.path().join("a\nb")] {
        for actors in ["1", "3"] {
            let run = Run::start(Run::example("checksums").arg(&path).args(["--actors", actors])).end();
            run.assert_success();
            assert_eq!(text(&run.output.stdout), text(&pipeline(&path).stdout));
        }
    }
}

#[test]
fn checksums_shows_its_progress_on_a_terminal() {
    let (folder, sockets) = (odd_tree(), tempfile::tempdir().expect("a folder"));
    let terminal = Terminal::new();
    let mut command = Run::example("checksums");
    command.arg(folder.path()).env("TERM", "xterm").env("XDG_RUNTIME_DIR", sockets.path()).stderr(terminal.screen());
    let output = command.output().expect("it starts");
    drop(command); // and its descriptor of the terminal
    let shown = terminal.shown();
    assert!(output.status.success(), "{shown}");
    assert_eq!(text(&output.stdout), text(&pipeline(folder.path()).stdout));
    assert!(shown.contains("B/s"), "{shown:?}");
}

#[test]
fn checksums_of_nothing_are_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(check("checksums", &[folder.path().to_str().expect("a plain path")]), "");
}

#[test]
fn checksums_goes_on_after_what_it_cannot_read() {
    let folder = odd_tree();
    let (file, closed) = (folder.path().join("unreadable"), folder.path().join("closed"));
    fs::write(&file, "secret").expect("a file");
    fs::create_dir(&closed).expect("a folder");
    fs::write(closed.join("inside"), "secret").expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("ours to change");
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).expect("ours to change");

    // Root reads everything, so it runs as nobody, who may not see where the example was built.
    let tools = tempfile::tempdir().expect("a folder");
    fs::set_permissions(tools.path(), Permissions::from_mode(0o755)).expect("ours to change");
    let copy = tools.path().join("checksums");
    fs::copy(example("checksums"), &copy).expect("a copy of the example");
    let scratch = tempfile::tempdir().expect("a folder");
    if geteuid().is_root() {
        chown(scratch.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let run = Run::start_in(scratch, as_nobody(&mut Command::new(copy)).arg(folder.path())).end();
    let wanted = pipeline(folder.path());
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("ours to change");

    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert_eq!(text(&run.output.stdout), text(&wanted.stdout));
    let complaints = text(&run.output.stderr);
    assert_eq!(complaints.lines().count(), 2, "{complaints}");
    for path in [&file, &closed] {
        assert!(complaints.contains(&format!("{}: Permission denied", path.display())), "{complaints}");
    }
}

#[test]
fn checksums_without_a_folder_fails() {
    let run = Run::start(Run::example("checksums").arg("/does/not/exist")).end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert!(text(&run.output.stderr).contains("/does/not/exist: No such file"), "{run:?}");
    for arguments in [&[] as &[&str], &["a", "b"], &["a", "--actors", "0"], &["--actors"]] {
        let run = Run::start(Run::example("checksums").args(arguments)).end();
        assert_eq!(run.output.status.code(), Some(2), "{run:?}");
        assert!(text(&run.output.stderr).starts_with("usage: "), "{run:?}");
    }
}

#[test]
fn checksums_ends_quietly_when_its_reader_goes() {
    let folder = odd_tree();
    let mut run = Run::start(Run::example("checksums").arg(folder.path()));
    let mut reader = BufReader::new(run.child.stdout.take().expect("a pipe"));
    reader.read_until(b'\n', &mut Vec::new()).expect("a first line");
    drop(reader);
    let run = run.end();
    assert_eq!(text(&run.output.stderr), "");
}

#[test]
fn a_killed_hasher_ends_checksums_with_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["one", "two"].map(|name| folder.path().join(name));
    let read = inotify::init(inotify::CreateFlags::CLOEXEC).expect("an inotify descriptor");
    for path in &paths {
        // Minutes of work that take no room on the disk.
        File::create(path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        inotify::add_watch(&read, path, inotify::WatchFlags::ACCESS).expect("a watch");
    }
    let run = Run::start(Run::example("checksums").arg(folder.path()).args(["--actors", "2"]));
    let mut ready = [PollFd::new(&read, PollFlags::IN)];
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut ready, Some(&limit)), Ok(1), "no actor reads a file after a minute");

    let hasher = run.processes().into_iter().find(|&pid| paths.iter().any(|path| has_open(pid, path)));
    let hasher = hasher.and_then(Pid::from_raw).expect("somebody reads the file");
    kill_process(hasher, Signal::KILL).expect("it runs");
    let run = run.end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let said = text(&run.output.stderr);
    assert!(said.contains("hasher-") && said.contains("SIGKILL"), "{said}");
    assert_eq!(text(&run.output.stdout), "");
}

#[test]
fn bidir() {
    let wanted = "anna is ready
ping 1, pong 1
ping 2, pong 2
ping 3, pong 3
anna has played 3 balls
";
    assert_eq!(check("bidir", &[]), wanted);
}

#[test]
fn the_memory_of_a_pipeline_does_not_grow_with_what_flows_through_it() {
    let said = check("pipeline", &[]);
    let (little, much) = said.split_once("250 MiB went in, 144000 KiB came out\n").expect("much went through");
    let little = little.strip_prefix("20 MiB went in, 11520 KiB came out\n").expect("little went through");
    let peaks = |lines: &str| -> Vec<u64> {
        let peak = |line: &str| line.split_once(": ")?.1.strip_suffix(" KiB at most")?.parse().ok();
        lines.lines().map(|line| peak(line).unwrap_or_else(|| panic!("no memory in {line:?}"))).collect()
    };
    let (little, much) = (peaks(little), peaks(much));
    assert_eq!(little.len(), 4, "{said}");
    for (little, much) in little.into_iter().zip(much) {
        assert!(much < little + 10 * 1024, "an actor has kept what flowed through it: {said}");
    }
}

#[test]
fn fanout() {
    let wanted = "the careful ones heard [500500, 500500, 500500]
the slow one has lost 900
the slow one heard 925
the slow one heard 950
the slow one heard 975
the slow one heard 1000
";
    assert_eq!(check("fanout", &[]), wanted);
}

#[test]
fn chat() {
    let wanted = "anna talks to 1 in the kitchen
cleo talks to 2 in the garden
anna talks to 2 in the kitchen
anna heard anna: tea? (in the kitchen), anna: more tea? (in the kitchen)
ben heard cleo: look, a hedgehog (in the garden)
cleo heard cleo: look, a hedgehog (in the garden), anna: more tea? (in the kitchen)
";
    assert_eq!(check("chat", &[]), wanted);
}

#[test]
fn shared_resource() {
    let wanted = "opening words
words is closed
five tasks asked at once: [1, 3, 4, 1, 9]
opening words
words is closed
one asked later: 4
";
    assert_eq!(check("shared_resource", &[]), wanted);
}

#[test]
fn logstats_counts_as_awk_sort_and_uniq_do() {
    let folder = odd_logs();
    let names: Vec<PathBuf> = ["plain", "no newline", "odd", "empty", "long"].map(|n| folder.path().join(n)).into();
    let inputs = names.iter().map(std::slice::from_ref).chain([&names[..]]);
    for files in inputs {
        for (field, actors) in [("1", "1"), ("1", "3"), ("3", "2"), ("0", "2"), ("99", "2")] {
            let run = Run::start(Run::example("logstats").args(["--field", field, "--actors", actors]).args(files));
            let run = run.end();
            run.assert_success();
            assert!(run.output.stdout == counted(field, files), "{files:?} are counted in another way: {field}");
        }
    }
    // The first field is the default, and so is stdin.
    let run = Run::start(from_stdin(&names[0]).args(["--actors", "2"])).end();
    run.assert_success();
    assert_eq!(text(&run.output.stdout), text(&counted("1", &names[..1])));
}

#[test]
fn logstats_goes_on_after_what_it_cannot_read() {
    let folder = odd_logs();
    let (plain, missing) = (folder.path().join("plain"), folder.path().join("missing"));
    let run = Run::start(Run::example("logstats").args([&missing, &plain, &folder.path().to_owned()])).end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert_eq!(text(&run.output.stdout), text(&counted("1", &[plain])));
    let complaints = text(&run.output.stderr);
    assert_eq!(complaints.lines().count(), 2, "{complaints}");
    assert!(complaints.contains(&format!("{}: No such file", missing.display())), "{complaints}");
    assert!(complaints.contains(&format!("{}: Is a directory", folder.path().display())), "{complaints}");
    for arguments in [&["--field", "x"] as &[&str], &["--actors", "0"], &["--field"], &["-x"]] {
        let run = Run::start(Run::example("logstats").args(arguments)).end();
        assert_eq!(run.output.status.code(), Some(2), "{run:?}");
        assert!(text(&run.output.stderr).starts_with("usage: "), "{run:?}");
    }
}

#[test]
fn a_killed_counter_ends_logstats_with_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a fifo");
    let run = Run::start(from_stdin(&fifo).args(["--actors", "2"]));
    let mut input = File::options().write(true).open(&fifo).expect("somebody reads it");
    // More than a pipe holds: when it is written, counters have been started.
    input.write_all(&b"one line\n".repeat(1 << 19)).expect("it is read");
    let counter = run.processes().into_iter().find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).starts_with("teamster:counter-1"))
    });
    let counter = counter.and_then(Pid::from_raw).expect("there is a second counter");
    kill_process(counter, Signal::KILL).expect("it runs");
    let run = run.end(); // though its input goes on
    drop(input);
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let said = text(&run.output.stderr);
    assert!(said.contains("counter-1") && said.contains("SIGKILL"), "{said}");
    assert_eq!(text(&run.output.stdout), "");
}

#[test]
fn thumbnails_are_small_and_those_of_one_process() {
    let (folder, out) = (album(), tempfile::tempdir().expect("a folder"));
    let out = out.path().join("made/here");
    let said = check_thumbnails(folder.path(), &out);
    assert!(said.starts_with("8 thumbnails in "), "{said}");
    assert!(said.contains("\nchecked by one process in "), "{said}");
    let wanted = [
        ("far/far/away/wide.png", (128, 32)),
        ("far/line.png", (128, 1)),
        ("odd\u{fffd}name.png", (64, 128)),
        ("photo.JPG", (128, 64)),
        ("photo.png", (128, 64)),
        ("really a png.jpeg", (128, 128)),
        ("small.png", (5, 7)),
        ("upright.jpg", (64, 128)),
    ];
    let made = files_below(&out);
    assert_eq!(made.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(), wanted.map(|(name, _)| name));
    for (path, (_, size)) in made.iter().zip(wanted) {
        let made = image::ImageReader::open(out.join(path)).and_then(image::ImageReader::with_guessed_format);
        assert_eq!(made.expect("it can be read").into_dimensions().expect("a picture"), size, "{path:?}");
    }
    // Again, over those that are there.
    assert_eq!(check_thumbnails(folder.path(), &out)[..14], said[..14]);
    assert_eq!(files_below(&out), made);
}

#[test]
fn what_lies_in_out_is_no_picture_to_make_smaller() {
    let folder = album();
    let out = folder.path().join("far/small ones");
    for _ in 0..2 {
        assert!(check_thumbnails(folder.path(), &out).starts_with("8 thumbnails in "));
        assert_eq!(files_below(&out).len(), 8);
    }
    // The other way round, they would take the places of their own pictures.
    for (pictures, out) in [(folder.path(), folder.path()), (&folder.path().join("far"), folder.path())] {
        let before = files_below(folder.path());
        let run = Run::start(Run::example("thumbnails").arg(pictures).arg(out)).end();
        assert_eq!(run.output.status.code(), Some(2), "{run:?}");
        assert!(text(&run.output.stderr).contains("its own pictures would be replaced"), "{run:?}");
        assert_eq!(files_below(folder.path()), before);
    }
}

#[test]
fn thumbnails_goes_on_after_a_broken_picture() {
    let (folder, out) = (album(), tempfile::tempdir().expect("a folder"));
    let whole = fs::read(folder.path().join("photo.png")).expect("it is there");
    for (name, content) in [("cut.png", &whole[..whole.len() / 2]), ("text.jpg", b"no picture"), ("empty.png", b"")] {
        fs::write(folder.path().join(name), content).expect("a file");
    }
    let run = Run::start(Run::example("thumbnails").arg(folder.path()).arg(out.path()).arg("--check")).end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert!(text(&run.output.stdout).starts_with("8 thumbnails in "), "{run:?}");
    let complaints = text(&run.output.stderr);
    assert_eq!(complaints.lines().count(), 3, "{complaints}");
    for name in ["cut.png", "text.jpg", "empty.png"] {
        assert!(complaints.contains(&format!("{}: ", folder.path().join(name).display())), "{complaints}");
        assert!(!out.path().join(name).exists(), "{name}");
    }
}

#[test]
fn thumbnails_of_nothing_are_nothing() {
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    assert!(check_thumbnails(folder.path(), out.path()).starts_with("0 thumbnails in "));
    assert_eq!(files_below(out.path()), Vec::<PathBuf>::new());

    let out = out.path().join("out");
    let run = Run::start(Run::example("thumbnails").arg("/does/not/exist").arg(&out)).end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    assert!(text(&run.output.stderr).contains("/does/not/exist: No such file"), "{run:?}");
    assert!(!out.exists());
    for arguments in [&[] as &[&str], &["a"], &["a", "b", "c"], &["a", "b", "--chek"]] {
        let run = Run::start(Run::example("thumbnails").args(arguments)).end();
        assert_eq!(run.output.status.code(), Some(2), "{run:?}");
        assert!(text(&run.output.stderr).starts_with("usage: "), "{run:?}");
    }
}

#[test]
fn a_killed_worker_costs_thumbnails_its_own_picture() {
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    many_big_pictures(folder.path(), 6);
    let run = Run::start(Run::example("thumbnails").arg(folder.path()).arg(out.path()).env("TEAMSTER_WORKERS", "1"));
    kill_process(reads_a_picture(&run), Signal::KILL).expect("it runs");
    let run = run.end();
    assert_eq!(run.output.status.code(), Some(1), "{run:?}");
    let said = text(&run.output.stderr);
    assert!(said.contains("SIGKILL") && said.contains(".png: its worker did not get to the end of it"), "{said}");
    assert!(text(&run.output.stdout).starts_with("5 thumbnails in "), "{run:?}");
    assert_eq!(files_below(out.path()).len(), 5);
}

#[test]
fn ctrl_c_leaves_whole_thumbnails_and_nothing_else() {
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    many_big_pictures(folder.path(), 400);
    let mut command = Run::example("thumbnails");
    let run = Run::start(command.arg(folder.path()).arg(out.path()).process_group(0));
    first_in(out.path());
    kill_process_group(Pid::from_child(&run.child), Signal::INT).expect("it runs"); // as a terminal does
    let run = run.end();
    assert_eq!(run.output.status.signal(), Some(libc::SIGINT), "{run:?}");
    assert_eq!((text(&run.output.stdout), text(&run.output.stderr)), (String::new(), String::new()));
    let made = files_below(out.path());
    assert!((1..400).contains(&made.len()), "{} were made", made.len());
    let first = fs::read(out.path().join(&made[0])).expect("it is there");
    image::load_from_memory(&first).expect("it is a picture");
    for path in made {
        assert!(path.to_string_lossy().starts_with("big"), "{path:?}");
        assert!(fs::read(out.path().join(&path)).expect("it is there") == first, "{path:?} is not whole");
    }
}

#[test]
fn thumbnails_shows_its_progress_on_a_terminal() {
    let (folder, out) = (album(), tempfile::tempdir().expect("a folder"));
    let sockets = tempfile::tempdir().expect("a folder");
    let terminal = Terminal::new();
    let mut command = Run::example("thumbnails");
    command.arg(folder.path()).arg(out.path()).env("TERM", "xterm").env("XDG_RUNTIME_DIR", sockets.path());
    let output = command.stderr(terminal.screen()).output().expect("it starts");
    drop(command); // and its descriptor of the terminal
    let shown = terminal.shown();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("/8 pictures"), "{shown:?}");
}

/// Makes thumbnails that one process alone makes alike.
fn check_thumbnails(folder: &Path, out: &Path) -> String {
    let run = Run::start(Run::example("thumbnails").arg(folder).arg(out).arg("--check")).end();
    run.assert_success();
    text(&run.output.stdout)
}

/// Eight pictures: large and small, in both formats and several folders; one by a camera that was held upright, one whose name
/// lies about its format, one whose name is not UTF-8; and what is no picture.
fn album() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::create_dir_all(root.join("far/far/away")).expect("a folder");
    fs::create_dir(root.join("a folder.png")).expect("a folder");
    let picture =
        |width, height| image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let photo = picture(600, 300);
    photo.save(root.join("photo.png")).expect("a picture");
    photo.save(root.join("photo.JPG")).expect("a picture");
    let mut upright = JpegEncoder::new(File::create(root.join("upright.jpg")).expect("a file"));
    upright.set_exif_metadata(TURNED.to_vec()).expect("it takes them");
    upright.encode_image(&photo).expect("a picture");
    picture(300, 300).save_with_format(root.join("really a png.jpeg"), image::ImageFormat::Png).expect("a picture");
    picture(5, 7).save(root.join("small.png")).expect("a picture");
    picture(400, 1).save(root.join("far/line.png")).expect("a picture");
    let clear = image::RgbaImage::from_fn(400, 100, |x, y| image::Rgba([x as u8, y as u8, 7, x as u8]));
    clear.save(root.join("far/far/away/wide.png")).expect("a picture");
    let grey = image::ImageBuffer::from_fn(150, 300, |x, y| image::Luma([(x * y) as u16]));
    grey.save(root.join(OsStr::from_bytes(b"odd\xffname.png"))).expect("a picture");
    fs::write(root.join("notes.txt"), "no picture").expect("a file");
    symlink("photo.png", root.join("link.png")).expect("a link");
    folder
}

/// Metadata of a camera: one entry, the orientation, which says that right is up.
const TURNED: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

/// Each takes a while to read, and no room beyond that of the first.
fn many_big_pictures(folder: &Path, count: usize) {
    let first = folder.join("big-0.png");
    image::GrayImage::from_fn(3000, 3000, |x, y| image::Luma([(x / 7 * y) as u8])).save(&first).expect("a picture");
    for number in 1..count {
        fs::hard_link(&first, folder.join(format!("big-{number}.png"))).expect("a link");
    }
}

/// The worker, stopped in the middle of a picture: one that is killed between two has cost nothing.
fn reads_a_picture(run: &Run) -> Pid {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let is_worker = |pid: &Pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| text(&line).starts_with("teamster:(worker)"))
        };
        let Some(worker) = run.processes().into_iter().filter_map(Pid::from_raw).find(is_worker) else { continue };
        kill_process(worker, Signal::STOP).expect("it runs");
        while !stands_still(worker) {
            std::thread::yield_now();
        }
        let open = fs::read_dir(format!("/proc/{worker}/fd")).expect("it is there");
        let mut open = open.filter_map(|fd| fs::read_link(fd.expect("it is readable").path()).ok());
        if open.any(|file| file.extension().is_some_and(|extension| extension == "png")) {
            return worker;
        }
        kill_process(worker, Signal::CONT).expect("it runs");
    }
    panic!("no worker has read a picture after {LIMIT:?}")
}

/// Waits until a file has come to its place there.
fn first_in(folder: &Path) {
    let came = inotify::init(inotify::CreateFlags::CLOEXEC).expect("an inotify descriptor");
    inotify::add_watch(&came, folder, inotify::WatchFlags::MOVED_TO).expect("a watch");
    if !files_below(folder).iter().any(|path| path.to_string_lossy().starts_with("big")) {
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&came, PollFlags::IN)], Some(&limit)), Ok(1), "nothing after a minute");
    }
}

/// All files, by their paths from there.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let found = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(|entry| entry.expect("it is there"));
    let files = found.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().strip_prefix(folder).expect("it lies there").to_owned()).collect()
}

/// Runs an example that should end well, and gives what it printed.
fn check(name: &str, arguments: &[&str]) -> String {
    let run = Run::start(Run::example(name).args(arguments)).end();
    run.assert_success();
    text(&run.output.stdout)
}

/// An example that runs. It, its actors and its files are told from all others by a mark.
struct Run {
    child: Child,
    mark: String,
    folder: TempDir,
}

#[derive(Debug)]
struct Ended {
    output: Output,
}

impl Run {
    fn example(name: &str) -> Command {
        let mut command = Command::new(example(name));
        command.env_remove("RUST_BACKTRACE"); // what is shown to people is shown without
        command
    }

    fn start(command: &mut Command) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), command)
    }

    /// `folder` takes all that the library writes.
    fn start_in(folder: TempDir, command: &mut Command) -> Self {
        let mark = Uuid::new_v4().to_string();
        command.env(MARK, &mark).env("TMPDIR", folder.path()).env("XDG_RUNTIME_DIR", folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        hear_signals();
        let child = command.spawn().expect("the example starts");
        Run { child, mark, folder }
    }

    /// Waits for its end, and sees that nothing is left.
    fn end(self) -> Ended {
        let pid = Pid::from_child(&self.child);
        let (done, ended) = mpsc::channel();
        let waiter = std::thread::spawn(move || done.send(self.child.wait_with_output()));
        let output = ended.recv_timeout(LIMIT).unwrap_or_else(|_| {
            // It may be gone by now: then the thread has its output.
            let _ = kill_process(pid, Signal::KILL);
            panic!("the example has not ended after {LIMIT:?}");
        });
        waiter.join().expect("it only waits").expect("somebody receives");
        let run = Ended { output: output.expect("its output can be read") };
        let left = marked(&self.mark);
        assert!(left.is_empty(), "processes {left:?} are left of {run:?}");
        let sockets = sockets_below(self.folder.path());
        assert!(sockets.is_empty(), "sockets {sockets:?} are left of {run:?}");
        run
    }

    fn processes(&self) -> Vec<i32> {
        marked(&self.mark)
    }
}

impl Ended {
    fn assert_success(&self) {
        assert!(self.output.status.success(), "{self:?}");
        let said = text(&self.output.stderr).to_lowercase();
        assert!(!said.contains("error") && !said.contains("panic"), "{self:?}");
    }
}

/// Where cargo has put it: `cargo test` builds the examples too, `cargo test --test examples` doesn't.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let built = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("examples").join(name);
    assert!(built.exists(), "{} is not there: run `cargo build --examples` first", built.display());
    built
}

fn as_nobody(command: &mut Command) -> &mut Command {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// What the example must print, as the system's own tools do it.
fn pipeline(path: &Path) -> Output {
    let script = r#"find "$1" -type f -print0 | sort -z | xargs -r -0 sha256sum"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(path).env("LC_ALL", "C");
    as_nobody(&mut command).output().expect("find, sort, xargs and sha256sum are there")
}

/// `logstats`, with this file as its stdin.
fn from_stdin(path: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" "$@" < "$INPUT""#]).arg(example("logstats")).env("INPUT", path);
    command.env_remove("RUST_BACKTRACE");
    command
}

/// What `logstats` must print, as the system's own tools do it.
fn counted(field: &str, files: &[PathBuf]) -> Vec<u8> {
    let script = r#"field=$1; shift; awk "{print \$$field}" "$@" | sort | uniq -c | sort -rn"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", field]).args(files).env("LC_ALL", "C");
    let output = command.output().expect("awk, sort and uniq are there");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

/// Logs with lines across the borders of blocks, very long and empty ones, some that are not UTF-8, and an end
/// without a newline.
fn odd_logs() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut plain = Vec::new();
    for number in 0..60_000_u32 {
        let (host, status) = (number.wrapping_mul(2_654_435_761) % 97, 200 + number % 7 * 50);
        writeln!(plain, "10.0.0.{host} - {status} \"GET /{number}\"").expect("it is memory");
    }
    let mut long = b"first ".to_vec();
    long.extend(b"x".repeat(3 << 20));
    long.extend(b" third\n\nsecond line here\n");
    long.extend(b"y ".repeat(1 << 20));
    let odd: &[u8] = b"\n\n  leading blanks\n\ttab\ttab tab\n\xff\xfe \xc3\x28 \x80\n\xff\xfe again\n \n\t\n\xc3\xa9 \xc3\xa9\n*\n-n\n%s\\n\n\n";
    let no_newline: &[u8] = b"10.0.0.1 - 500\n10.0.0.1 - 200\n10.0.0.2";
    for (name, content) in
        [("plain", &plain[..]), ("no newline", no_newline), ("odd", odd), ("empty", b""), ("long", &long)]
    {
        fs::write(folder.path().join(name), content).expect("a file");
    }
    folder
}

/// Names that sha256sum escapes, that sort in an unexpected place, that are not UTF-8; more files
/// than one batch holds; things that are no files.
fn odd_tree() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    fs::set_permissions(root, Permissions::from_mode(0o755)).expect("ours to change");
    for name in ["sub/deep/er", "sub.d", "empty"] {
        fs::create_dir_all(root.join(name)).expect("a folder");
    }
    let names: [&[u8]; 18] = [
        b"a\nb",
        b"a\\b",
        b"a\rb",
        b"a\tb",
        b"a b",
        b"a\xff\xfeb",
        b"*",
        b"-",
        b"--help",
        b"\xc3\xa9",
        b".hidden",
        b"'",
        b"\"",
        b"sub-",
        b"sub/z",
        b"sub.d/x",
        b"sub/deep/er/y\\n\n",
        b"empty file",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let content = name.repeat(if name == b"empty file" { 0 } else { number * 100 });
        fs::write(root.join(OsStr::from_bytes(name)), content).expect("a file");
    }
    for number in 0..600 {
        fs::write(root.join(format!("sub/deep/{number}")), number.to_string()).expect("a file");
    }
    let mut big = File::create(root.join("sub/big")).expect("a file");
    for number in 0..20_000_u64 {
        big.write_all(&[number.to_le_bytes(); 64].concat()).expect("room for 10 MB");
    }
    symlink("sub", root.join("link to a folder")).expect("a link");
    symlink("-", root.join("link to a file")).expect("a link");
    symlink("nowhere", root.join("link to nothing")).expect("a link");
    folder
}

/// Processes that have the mark in their environment: a zombie has no environment any more.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    })
    .collect()
}

fn has_open(pid: i32, path: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == path))
}

fn sockets_below(folder: &Path) -> Vec<PathBuf> {
    let found = walkdir::WalkDir::new(folder).into_iter().flatten();
    found.filter(|entry| entry.file_type().is_socket()).map(walkdir::DirEntry::into_path).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const MARK: &str = "TEAMSTER_TEST_MARK";
const NOBODY: u32 = 65534;
/// A safety net only: all that is waited for is an event.
const LIMIT: Duration = Duration::from_secs(120);
