//! What comes from strangers, or fails in the system, is an error that says what to do; the tree goes on.
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rmp::encode::{write_array_len, write_bin, write_bool, write_nil, write_sint, write_str, write_uint};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use teamster::launch::Launcher;
use teamster::{ActorNursery, Addr, Context, Error, Portal, context, open_nursery, rpc};

#[path = "support/callee.rs"]
mod callee;
#[path = "support/partner.rs"]
mod partner;
use callee::{callee, is_python};

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn me() -> teamster::Result<Portal> {
    Ok(teamster::this_actor()?)
}

/// It still serves, on its old line and to a newcomer.
async fn goes_on(an: &ActorNursery, frank: &Portal) -> Result<(), Error> {
    assert_eq!(frank.run(add(1, 2)).await?, 3);
    let newcomer = an.start_actor("newcomer").await?;
    assert_eq!(newcomer.run(add(3, 4)).await?, 7);
    newcomer.cancel_actor().await?;
    Ok(())
}

fn path(portal: &Portal) -> PathBuf {
    match portal.addr() {
        Some(Addr::Uds(path)) => path.clone(),
        other => panic!("{other:?}"),
    }
}

// ---- a stranger, spoken from the page docs/wire.md

fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len() + payload.len()).expect("a short frame");
    [&length.to_le_bytes(), header, payload].concat()
}

struct Hello<'a> {
    major: u32,
    line: u32,
    token: Option<&'a [u8]>,
    wanted: Option<&'a [u8]>,
}

const PEER: Hello<'_> = Hello { major: 1, line: 0, token: None, wanted: None };

fn hello(hello: &Hello<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let or_nil = |out: &mut Vec<u8>, bytes: Option<&[u8]>| match bytes {
        Some(bytes) => write_bin(out, bytes).expect("a Vec takes all"),
        None => write_nil(out).expect("a Vec takes all"),
    };
    write_array_len(&mut out, 8).expect("a Vec takes all");
    write_uint(&mut out, 1).expect("a Vec takes all");
    write_array_len(&mut out, 2).expect("a Vec takes all");
    write_uint(&mut out, hello.major.into()).expect("a Vec takes all");
    write_uint(&mut out, 0).expect("a Vec takes all");
    write_aid(&mut out, "stranger", uuid::Uuid::new_v4(), std::process::id());
    write_uint(&mut out, hello.line.into()).expect("a Vec takes all");
    or_nil(&mut out, hello.token);
    write_nil(&mut out).expect("a Vec takes all");
    write_nil(&mut out).expect("a Vec takes all");
    or_nil(&mut out, hello.wanted);
    frame(&out, &[])
}

/// The first call of an endpoint on a line, with these arguments.
fn start(endpoint: &str, arguments: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_array_len(&mut out, 6).expect("a Vec takes all");
    for number in [16, 1, 0, 1] {
        write_uint(&mut out, number).expect("a Vec takes all");
    }
    write_nil(&mut out).expect("a Vec takes all");
    write_str(&mut out, endpoint).expect("a Vec takes all");
    frame(&out, arguments)
}

/// Says all this at an address and gives, as text, what comes back until the other side closes.
async fn say(to: PathBuf, parts: Vec<Vec<u8>>) -> String {
    converse(to, parts, None).await
}

/// The same as a client that says goodbye once it has heard that.
async fn ask(to: PathBuf, parts: Vec<Vec<u8>>, wanted: &str) {
    let answer = converse(to, parts, Some(wanted.to_owned())).await;
    assert!(answer.contains(wanted), "{wanted:?} is not in {answer:?}");
}

/// Off the runtime: the address may be our own.
async fn converse(to: PathBuf, parts: Vec<Vec<u8>>, mut until: Option<String>) -> String {
    let said = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(to).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("any time will do");
        for part in parts {
            if stream.write_all(&part).is_err() {
                break; // it has closed already: what it said stands
            }
        }
        let (mut heard, mut answer) = (vec![0; 4096], Vec::new());
        loop {
            let count = match stream.read(&mut heard) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                read => read.unwrap_or_else(|error| {
                    panic!("{error}: it was not closed, and said {:?}", String::from_utf8_lossy(&answer))
                }),
            };
            answer.extend_from_slice(&heard[..count]);
            let text = String::from_utf8_lossy(&answer);
            if count == 0 {
                return text.into_owned();
            }
            if until.take_if(|until| text.contains(until.as_str())).is_some() {
                stream.write_all(&bye()).expect("it listens");
            }
        }
    });
    said.await.expect("it does not panic")
}

#[teamster::test]
async fn strangers_are_refused_and_told_why() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let root = path(&me().await?);
        for to in [path(&frank), root] {
            let check = async |parts: Vec<Vec<u8>>, wanted: &str| {
                let answer = say(to.clone(), parts).await;
                assert!(answer.contains(wanted), "{wanted:?} is not in {answer:?}");
            };
            check(vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()], "").await;
            check(vec![vec![0xff; 100_000]], "").await;
            check(vec![frame(b"\x92\x03\xa1x", &[])], "").await;
            check(vec![hello(&Hello { major: 9, ..PEER })], "protocol").await;
            let token = [7; 16];
            check(vec![hello(&Hello { token: Some(&token), ..PEER })], "unknown token").await;
            check(vec![hello(&Hello { token: Some(&token), line: 1, ..PEER })], "unknown token").await;
            check(vec![hello(&Hello { line: 1, ..PEER })], "needs a token").await;
            check(vec![hello(&Hello { wanted: Some(&token), ..PEER })], "another actor lives").await;
            // Let in, and then out again.
            check(vec![hello(&PEER), u32::MAX.to_le_bytes().to_vec()], "limit").await;
            check(vec![hello(&PEER), vec![0; 4]], "").await;
            check(vec![hello(&PEER), frame(b"\x91\x7f", &[])], "kind").await;
            check(vec![hello(&PEER), hello(&PEER)], "Hello").await;
        }
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn half_a_handshake_holds_up_nobody() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let mut halves = Vec::new();
        for to in [path(&frank), path(&me().await?)] {
            for cut in [0, 2, 4, 9] {
                let mut stream = UnixStream::connect(&to).expect("it listens");
                stream.write_all(&hello(&PEER)[..cut]).expect("its buffer is empty");
                halves.push(stream);
            }
        }
        goes_on(an, &frank).await?;
        drop(halves);
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_foreign_client_hears_what_is_wrong_with_its_call() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let shy = callee(an, "shy").expose(["nothing"]).start().await?;
        let real = add(1, 2).endpoint();
        let mut two = vec![0x92];
        write_sint(&mut two, 1).expect("a Vec takes all");
        write_str(&mut two, "two").expect("a Vec takes all");
        // What a Rust program says of it, and what a Python program does, whose arguments have no types.
        for (actor, endpoint, arguments, rust, python) in [
            (&frank, real, vec![0x91, 1], "invalid length 1, expected a tuple of size 2", "and 1 came"),
            (&frank, real, vec![0x93, 1, 2, 3], "3 elements came where 2 were expected", "and 3 came"),
            (&frank, real, two, "the argument `b`", "TypeError"),
            (&frank, real, vec![0xc1], "no value begins with the msgpack marker 0xc1", "the arguments"),
            (&frank, real, vec![], "it ends too early", "and 0 came"),
            (&frank, "no::such", vec![0x90], "NoSuchEndpoint", "NoSuchEndpoint"),
            (&shy, real, vec![0x92, 1, 2], "NotExposed", "NotExposed"),
        ] {
            let wanted = if is_python() { python } else { rust };
            ask(path(actor), vec![hello(&PEER), start(endpoint, &arguments)], wanted).await;
        }
        ask(path(&frank), vec![hello(&PEER), start(real, &[0x92, 1, 2])], RETURN_OF_THE_FIRST).await;
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

/// How the header of a Return of the dialog 1 goes on.
const RETURN_OF_THE_FIRST: &str = "\u{16}\u{1}";

fn bye() -> Vec<u8> {
    frame(b"\x92\x03\xa4done", &[])
}

/// Reads all that comes.
#[context]
async fn listens(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while stream.recv().await?.is_some() {}
    Ok(())
}

/// Opens no stream.
#[context]
async fn waits(ctx: Context<(), u64, u64>) -> teamster::Result<()> {
    ctx.started(()).await?;
    std::future::pending().await
}

/// A header of numbers alone.
fn numbers(header: &[u64], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_array_len(&mut out, header.len() as u32).expect("a Vec takes all");
    for number in header {
        write_uint(&mut out, *number).expect("a Vec takes all");
    }
    frame(&out, payload)
}

/// Frames of a context that the page docs/wire.md does not allow.
#[teamster::test]
async fn a_peer_that_breaks_the_rules_of_a_stream_loses_its_line_alone() -> Result<(), Error> {
    const NIL: u8 = 0xc0;
    const EMPTY: u8 = 0x90;
    const STARTED: u64 = 18;
    const OPEN: u64 = 19;
    const YIELD: u64 = 20;
    const STOP: u64 = 21;
    const RETURN: u64 = 22;
    const CREDIT: u64 = 26;
    const PART: u64 = 27;
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let (reads, holds) = (listens().endpoint(), waits().endpoint());
        let check = async |endpoint: &str, frames: Vec<Vec<u8>>, wanted: &str| {
            // No arguments, in either way.
            let none = if wanted.starts_with("Yield") { EMPTY } else { NIL };
            let mut parts = vec![hello(&PEER), start(endpoint, &[none])];
            parts.extend(frames);
            let answer = say(path(&frank), parts).await;
            assert!(answer.contains(wanted), "{wanted:?} is not in {answer:?}");
        };
        let open = || numbers(&[OPEN, 1], &[]);
        let item = || numbers(&[YIELD, 1, 0], &[7]);
        for endpoint in [reads, holds] {
            check(endpoint, vec![numbers(&[YIELD, 9, 0], &[7])], "Yield for the dialog 9, which is not open").await;
            check(endpoint, vec![item()], "Yield for the dialog 1, where it has no place now").await;
            check(endpoint, vec![open(), open()], "Open for the dialog 1, where it has no place now").await;
            check(endpoint, vec![open(), numbers(&[PART, 1, 0], &[7])], "Part for the dialog 1, where").await;
            check(endpoint, vec![numbers(&[PART, 9, 0], &[7])], "Part for the dialog 9, which is not open").await;
            let long = || numbers(&[YIELD, 1, 0, 100], &[0xc5, 0, 100]);
            check(endpoint, vec![open(), long(), numbers(&[PART, 1, 90], &[7])], "Part for the dialog 1, where").await;
            check(endpoint, vec![open(), long(), numbers(&[PART, 1, 0], &[7; 200])], "Part for the dialog 1").await;
            let endless = numbers(&[YIELD, 1, 0, u64::MAX], &[7]);
            check(endpoint, vec![open(), endless], "is over the limit").await;
            let stop = |how: u64| numbers(&[STOP, 1, how], &[]);
            check(endpoint, vec![stop(0)], "Stop for the dialog 1, where").await;
            check(endpoint, vec![open(), stop(0), item()], "Yield for the dialog 1, where").await;
            check(endpoint, vec![numbers(&[STARTED, 1, 0], &[7])], "Started for the dialog 1, where").await;
            check(endpoint, vec![numbers(&[STARTED, 9, 0], &[7])], "Started for the dialog 9, which is not").await;
            check(endpoint, vec![numbers(&[CREDIT, 9, 7], &[])], "Credit for the dialog 9, which is not").await;
            check(endpoint, vec![numbers(&[RETURN, 1, 0], &[7])], "Return for the dialog 1, which is not open").await;
            check(endpoint, vec![numbers(&[STOP, 1, 7], &[])], "malformed").await;
        }
        // The first stops of both were one: with another the dialog may have ended, and what comes then is dropped.
        let stops = vec![open(), numbers(&[STOP, 1, 0], &[]), numbers(&[STOP, 1, 0], &[])];
        check(holds, stops, "Stop for the dialog 1, where").await;
        let flood = vec![open(), numbers(&[YIELD, 1, 0], &[7; 16 * 1024]), item()];
        check(holds, flood, "more items in the dialog 1 than it was granted").await;
        let long = vec![open(), numbers(&[YIELD, 1, 0, 20_000], &[0xc5]), numbers(&[PART, 1, 1], &[7; 19_999])];
        check(holds, long, "more items in the dialog 1 than it was granted").await;
        // A call has no stream.
        let call = add(1, 2).endpoint();
        ask(path(&frank), vec![hello(&PEER), start(call, &[0x92, 1, 2]), open()], RETURN_OF_THE_FIRST).await;
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

/// A peer that gives the line up with a call on it: whether that ran is not known, so it is not made again.
#[teamster::test]
async fn a_call_is_not_repeated_on_a_peer_that_dropped_its_line() -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("peer");
    let listener = UnixListener::bind(&at).expect("it is free");
    let (uuid, pid) = (uuid::Uuid::new_v4(), std::process::id());
    let peer = std::thread::spawn(move || {
        let mut calls = 0;
        for stream in listener.incoming() {
            let mut stream = stream.expect("somebody connects");
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                return calls; // the test's own: it has seen enough
            }
            stream.read_exact(&mut vec![0; u32::from_le_bytes(length) as usize]).expect("a Hello");
            stream.write_all(&welcome(uuid, pid)).expect("it listens");
            stream.read_exact(&mut length).expect("a call");
            calls += 1;
            stream.write_all(&bye()).expect("it listens");
        }
        calls
    });
    let portal = (("peer", uuid, pid, "here"), Some([Addr::Uds(at.clone())]));
    let portal: Portal =
        rmp_serde::from_slice(&rmp_serde::to_vec(&portal).expect("strings and numbers")).expect("as portals travel");
    open_nursery(async |_an| {
        let called = portal.run(add(1, 2)).await;
        assert!(matches!(called, Err(Error::Unknown { .. })), "{called:?}");
        Ok(())
    })
    .await?;
    drop(UnixStream::connect(&at));
    assert_eq!(peer.join().expect("it does not panic"), 1);
    Ok(())
}

fn welcome(uuid: uuid::Uuid, pid: u32) -> Vec<u8> {
    let mut out = Vec::new();
    write_array_len(&mut out, 5).expect("a Vec takes all");
    write_uint(&mut out, 2).expect("a Vec takes all");
    write_array_len(&mut out, 2).expect("a Vec takes all");
    write_uint(&mut out, 1).expect("a Vec takes all");
    write_uint(&mut out, 0).expect("a Vec takes all");
    write_aid(&mut out, "peer", uuid, pid);
    write_uint(&mut out, 1 << 30).expect("a Vec takes all");
    write_bool(&mut out, false).expect("a Vec takes all");
    frame(&out, &[])
}

fn write_aid(out: &mut Vec<u8>, name: &str, uuid: uuid::Uuid, pid: u32) {
    write_array_len(out, 4).expect("a Vec takes all");
    write_str(out, name).expect("a Vec takes all");
    write_bin(out, uuid.as_bytes()).expect("a Vec takes all");
    write_uint(out, pid.into()).expect("a Vec takes all");
    write_str(out, "here").expect("a Vec takes all");
}

/// Keeps a copy of the boot message.
#[derive(Debug)]
struct Tapped(PathBuf);

impl Launcher for Tapped {
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        let script = r#"cat > "$BOOT"; exec /proc/$PPID/exe "$@" < "$BOOT""#;
        command.env("BOOT", &self.0).args(["-c", script, "sh"]);
        command
    }
}

#[teamster::test]
async fn a_token_lets_in_once() -> Result<(), Error> {
    #[derive(serde::Deserialize)]
    struct Tokens {
        data_token: [u8; 16],
        control_token: [u8; 16],
    }
    let folder = tempfile::tempdir().expect("a folder");
    let boot = folder.path().join("boot");
    open_nursery(async |an| {
        let frank = an.actor("frank").launcher(Tapped(boot.clone())).start().await?;
        let message = std::fs::read(&boot).expect("it was kept");
        let tokens: Tokens = rmp_serde::from_slice(&message[4..]).expect("a map with names");
        let root = path(&me().await?);
        for (line, token) in [(0, tokens.data_token), (1, tokens.control_token), (0, tokens.control_token)] {
            let answer = say(root.clone(), vec![hello(&Hello { line, token: Some(&token), ..PEER })]).await;
            assert!(answer.contains("used already"), "{answer:?}");
        }
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn another_user_is_refused() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(()); // only root can be somebody else
    }
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        let socket = path(&frank);
        let knock = async || {
            let mut command = partner::command("knock");
            command.env("SOCKET", &socket).uid(65534).gid(65534);
            let mut running = partner::start(&mut command);
            tokio::task::spawn_blocking(move || {
                let said = running.line("heard ");
                running.child.wait().expect("it is our child");
                said
            })
            .await
            .expect("it does not panic")
        };
        assert!(knock().await.contains("denied"));
        // Somebody has opened the folder: the socket itself asks who it is.
        let test = socket.ancestors().nth(3).expect("the test's own folder");
        let open: Vec<_> = socket.ancestors().take_while(|&at| at != test.parent().expect("/tmp")).collect();
        let before: Vec<_> = open.iter().map(|at| at.metadata().expect("it is there").permissions()).collect();
        for at in &open {
            std::fs::set_permissions(at, Permissions::from_mode(0o777)).expect("we are root");
        }
        let said = knock().await;
        for (at, permissions) in open.iter().zip(before) {
            std::fs::set_permissions(at, permissions).expect("we are root");
        }
        assert!(said.contains("another user"), "{said}");
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

#[teamster::test]
async fn a_full_descriptor_table_is_named_and_survived() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        goes_on(an, &frank).await?;
        let usual = getrlimit(Resource::Nofile);
        let highest = std::fs::read_dir("/proc/self/fd").expect("we may look at ourselves").count() as u64;
        let mut refused = 0;
        for room in 0..30 {
            setrlimit(Resource::Nofile, Rlimit { current: Some(highest + room), maximum: usual.maximum })
                .expect("lower is allowed");
            let started = an.start_actor("one-more").await;
            assert_eq!(frank.run(add(1, 2)).await?, 3);
            match started {
                Ok(one_more) => {
                    assert_eq!(one_more.run(add(1, 2)).await?, 3);
                    one_more.cancel_actor().await?;
                }
                Err(error) => {
                    assert!(error.to_string().contains("ulimit -n"), "with room for {room}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        setrlimit(Resource::Nofile, usual).expect("back to where it was");
        goes_on(an, &frank).await?;
        Ok(())
    })
    .await
}

const LONG: usize = 8 << 20;

#[rpc]
async fn without_descriptors() -> bytes::Bytes {
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: usual.maximum }).expect("lower is allowed");
    vec![7; LONG].into()
}

/// Its socket is full again and again, and no descriptor is left to watch it by.
#[teamster::test]
async fn a_long_result_comes_though_no_descriptor_is_left() -> Result<(), Error> {
    open_nursery(async |an| {
        let frank = callee(an, "frank").start().await?;
        assert_eq!(frank.run(add(1, 2)).await?, 3);
        let long = tokio::time::timeout(Duration::from_secs(20), frank.run(without_descriptors()));
        assert_eq!(long.await.expect("it comes")?.len(), LONG);
        Ok(())
    })
    .await
}

// ---- programs

#[test]
#[ignore = "a program that the tests start"]
fn program() {
    match partner::name().as_str() {
        "grow" => partner::exit(grow()),
        "knock" => partner::exit(knock()),
        other => panic!("no program {other:?}"),
    }
}

/// One actor at once, and one for each line of stdin.
#[teamster::main]
async fn grow() -> Result<(), Error> {
    open_nursery(async |an| {
        loop {
            println!("sum {}", an.start_actor("one").await?.run(add(1, 2)).await?);
            if partner::heard().await.is_none() {
                return Ok(());
            }
        }
    })
    .await
}

fn knock() -> std::io::Result<()> {
    let socket = std::env::var("SOCKET").expect("the test sets it");
    let heard = UnixStream::connect(socket).map(|mut stream| {
        stream.write_all(&hello(&PEER)).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok(); // a reset comes behind the answer
        String::from_utf8_lossy(&answer).replace('\n', " ")
    });
    println!("\nheard {}", heard.unwrap_or_else(|error| error.to_string()));
    Ok(())
}

#[teamster::test]
async fn children_start_from_a_program_that_was_deleted_or_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("program");
    for replaced in [false, true] {
        std::fs::copy("/proc/self/exe", &copy).expect("there is room");
        let mut running = partner::start(&mut partner::at(&copy, "grow"));
        assert_eq!(running.line("sum "), "3");
        std::fs::remove_file(&copy).expect("it is ours");
        if replaced {
            std::fs::copy("/bin/false", &copy).expect("there is room");
        }
        running.say("again");
        assert_eq!(running.line("sum "), "3");
        running.stdin = None;
        let status = running.child.wait().expect("it is our child");
        assert!(status.success(), "{status}: {}", running.errors());
    }
}

fn with_folder(folder: &Path) -> partner::Running {
    partner::start(partner::command("grow").env("TEAMSTER_DIR", folder))
}

#[teamster::test]
async fn a_folder_that_can_not_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("there is room");
    for (at, wanted) in [
        (file.clone(), "is not a folder"),
        (file.join("below"), "is not a folder"),
        (folder.path().join("no/such"), "make the folder"),
    ] {
        let mut running = with_folder(&at);
        running.stdin = None;
        let status = running.child.wait().expect("it is our child");
        let errors = running.errors();
        assert!(!status.success() && errors.contains(wanted), "{wanted:?} is not in {errors}");
    }
}

#[teamster::test]
async fn a_path_too_long_for_sockets_is_replaced_by_a_short_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let long = folder.path().join("x".repeat(120));
    let mut running = with_folder(&long);
    assert_eq!(running.line("sum "), "3");
    running.stdin = None;
    let status = running.child.wait().expect("it is our child");
    assert!(status.success(), "{status}: {}", running.errors());
    assert!(!long.exists());
}
