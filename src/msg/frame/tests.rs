//! Every frame comes back as it was, and no bytes do harm.
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::addr::{Addr, Host, HostPort};
use super::super::death::{ExitKind, Rung};
use super::super::ident::CancelRequest;
use super::*;

const LIMIT: u32 = 1 << 20;

fn encoded(frame: &Frame<'_>, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    encode(frame, payload, &mut out);
    out
}

fn aid() -> impl Strategy<Value = Aid> {
    (".{0,40}", any::<u128>(), any::<u32>(), "[a-z.]{0,20}")
        .prop_map(|(name, uuid, pid, host)| Aid::new(name, Uuid::from_u128(uuid), pid, host))
}

fn addr() -> impl Strategy<Value = Addr> {
    use std::os::unix::ffi::OsStringExt;
    // Any bytes: a socket's folder need not be UTF-8.
    let path = prop::collection::vec(1u8.., 0..108);
    prop_oneof![
        path.prop_map(|path| Addr::Uds(std::ffi::OsString::from_vec(path).into())),
        place().prop_map(Addr::Tcp),
        place().prop_map(Addr::InsecureTcp),
        place().prop_map(Addr::Quic),
    ]
}

fn place() -> impl Strategy<Value = HostPort> {
    let host = prop_oneof![any::<std::net::IpAddr>().prop_map(Host::Ip), "[a-z][a-z.-]{0,40}".prop_map(Host::Dns)];
    (host, any::<u16>()).prop_map(|(host, port)| HostPort { host, port })
}

fn addrs() -> impl Strategy<Value = Addrs> {
    prop::collection::vec(addr(), 0..4).prop_map(|addrs| addrs.into_iter().collect())
}

fn canceller() -> impl Strategy<Value = Canceller> {
    let request = prop_oneof![
        Just(CancelRequest::Actor),
        Just(CancelRequest::Nursery),
        Just(CancelRequest::NurseryEnd),
        Just(CancelRequest::Failure),
        Just(CancelRequest::Dropped),
        Just(CancelRequest::Deadline),
        any::<i32>().prop_map(CancelRequest::Signal),
        Just(CancelRequest::ParentLost),
        Just(CancelRequest::Context),
        Just(CancelRequest::Itself),
    ];
    (aid(), request).prop_map(|(aid, request)| Canceller { aid, request })
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Positional), Just(Encoding::Named)]
}

/// Numbers of every width on the wire.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift)
}

fn hello() -> impl Strategy<Value = Hello> {
    let line = prop_oneof![Just(LineKind::Data), Just(LineKind::Control), Just(LineKind::Debug)];
    let options = (any::<Option<[u8; 16]>>(), any::<Option<Vec<u8>>>(), addrs(), any::<Option<u128>>());
    (any::<(u16, u16)>(), aid(), line, options).prop_map(|(protocol, aid, line, (token, build, addrs, wanted))| Hello {
        protocol,
        aid,
        line,
        token: token.map(Token),
        build,
        addrs,
        wanted: wanted.map(Uuid::from_u128),
    })
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let time = || number().prop_map(Duration::from_micros);
    let times = (prop::option::of(time()), prop::option::of(time()), time());
    let rung = prop::option::of(prop_oneof![Just(Rung::Cancel), Just(Rung::Sigterm), Just(Rung::Sigkill)]);
    let exit = prop_oneof![
        any::<i32>().prop_map(ExitKind::Status),
        any::<i32>().prop_map(ExitKind::Signal),
        Just(ExitKind::Unknown)
    ];
    (aid(), prop::option::of(canceller()), times, rung, exit, prop::option::of(".{0,80}")).prop_map(
        |(aid, asked_by, (heard, tasks_gone, reaped), rung, exit, stuck)| Receipt {
            aid,
            asked_by,
            heard,
            tasks_gone,
            reaped,
            rung,
            exit,
            stuck,
        },
    )
}

/// A frame of any kind: texts are leaked, as a test may.
fn frame() -> impl Strategy<Value = Frame<'static>> {
    fn leak(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }
    let path = prop::option::of(".{0,60}").prop_map(|path| path.map(leak));
    prop_oneof![
        hello().prop_map(Frame::Hello),
        (any::<(u16, u16)>(), aid(), any::<u32>(), any::<bool>()).prop_map(
            |(protocol, aid, max_frame_bytes, same_build)| Frame::Welcome(Welcome {
                protocol,
                aid,
                max_frame_bytes,
                same_build
            })
        ),
        (number(), any::<u32>(), path, prop::option::of(number()), encoding(), number()).prop_map(
            |(dialog, endpoint, path, deadline_us, encoding, left)| Frame::Start {
                dialog,
                endpoint,
                path,
                deadline_us,
                encoding,
                left
            }
        ),
        number().prop_map(|dialog| Frame::StartAck { dialog }),
        (number(), encoding(), number()).prop_map(|(dialog, encoding, left)| Frame::Return { dialog, encoding, left }),
        (number(), number()).prop_map(|(dialog, left)| Frame::Error { dialog, left }),
        (number(), encoding(), number()).prop_map(|(dialog, encoding, left)| Frame::Started { dialog, encoding, left }),
        (number(), encoding(), number()).prop_map(|(dialog, encoding, left)| Frame::Yield { dialog, encoding, left }),
        (number(), number()).prop_map(|(dialog, left)| Frame::Part { dialog, left }),
        (number(), number()).prop_map(|(dialog, up_to)| Frame::Credit { dialog, up_to }),
        number().prop_map(|dialog| Frame::Open { dialog }),
        (number(), prop_oneof![Just(Stop::Finished), Just(Stop::Left), Just(Stop::BodyOver)])
            .prop_map(|(dialog, how)| Frame::Stop { dialog, how }),
        (number(), number(), canceller()).prop_map(|(dialog, grace_ms, canceller)| Frame::Cancel {
            dialog,
            grace_ms,
            canceller
        }),
        (number(), prop_oneof![Just(AckState::Asked), Just(AckState::Ended)])
            .prop_map(|(dialog, state)| Frame::CancelAck { dialog, state }),
        (aid(), number(), any::<bool>()).prop_map(|(aid, start_ticks, is_program)| Frame::SpawnRecord {
            aid,
            start_ticks,
            is_program
        }),
        (aid(), addrs()).prop_map(|(aid, addrs)| Frame::Ready { aid, addrs }),
        Just(Frame::Spawning),
        Just(Frame::TasksGone),
        any::<i32>().prop_map(|signal| Frame::Signalled { signal }),
        canceller().prop_map(|canceller| Frame::EndAsked { canceller }),
        (aid(), canceller()).prop_map(|(aid, canceller)| Frame::End { aid, canceller }),
        (aid(), aid(), prop::option::of(receipt())).prop_map(|(to, aid, receipt)| {
            let receipt = receipt.map(|receipt| Box::new(Receipt { aid: aid.clone(), ..receipt }));
            Frame::Ended { to, aid, receipt }
        }),
        (aid(), aid()).prop_map(|(to, aid)| Frame::ObituaryAsked { to, aid }),
        (aid(), aid(), prop::option::of(receipt())).prop_map(|(to, aid, receipt)| {
            let receipt = receipt.map(|receipt| Box::new(Receipt { aid: aid.clone(), ..receipt }));
            Frame::Obituary { to, aid, receipt }
        }),
        any::<bool>().prop_map(|on| Frame::Hold { on }),
        (any::<u64>(), any::<bool>()).prop_map(|(late_ms, is_held)| Frame::Beat { late_ms, is_held }),
        aid().prop_map(|aid| Frame::Gone { aid }),
        number().prop_map(|nanos| Frame::Stood { nanos }),
        number().prop_map(|id| Frame::Dump { id }),
        (number(), prop::option::of(".{0,80}"))
            .prop_map(|(id, load)| Frame::Load { id, load: load.map(|load| leak(load).as_bytes()) }),
        ".{0,80}".prop_map(|places| Frame::Stuck { places: leak(places).as_bytes() }),
        Just(Frame::Log),
        number().prop_map(|nonce| Frame::Ping { nonce }),
        number().prop_map(|nonce| Frame::Pong { nonce }),
        ".{0,80}".prop_map(|reason| Frame::Bye { reason: leak(reason) }),
    ]
}

/// What `==` does not see: it looks at the uuid of an [`Aid`] alone.
fn shown(frame: &Frame<'_>) -> String {
    format!("{frame:?}")
}

/// A header array's length, raised by one for a field of a later version, which is `field`.
fn with_one_more_field(frame: &Frame<'_>, payload: &[u8], field: &[u8]) -> BytesMut {
    let mut head = encoded(frame, &[]);
    head[4] += 1;
    head.extend_from_slice(field);
    head.extend_from_slice(payload);
    let length = head.len() as u32 - 4;
    head[..4].copy_from_slice(&length.to_le_bytes());
    head
}

proptest! {
    #[test]
    fn every_frame_comes_back(frame in frame(), payload in any::<Vec<u8>>(), rest in any::<Vec<u8>>()) {
        let mut bytes = encoded(&frame, &payload);
        let total = bytes.len();
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(needed(&bytes, LIMIT), Ok(Some(total)));
        let (read, read_payload, read_total) = decode(&bytes, LIMIT).unwrap().unwrap();
        prop_assert_eq!(shown(&read), shown(&frame));
        prop_assert_eq!(read_payload, &payload[..]);
        prop_assert_eq!(read_total, total);
    }

    /// Its first bytes are enough to tell where it belongs.
    #[cfg(feature = "quic")]
    #[test]
    fn a_frame_shows_where_it_belongs(frame in frame(), payload in any::<Vec<u8>>()) {
        let bytes = encoded(&frame, &payload);
        let head = &bytes[..bytes.len().min(COURSE_BYTES)];
        let expected = match frame {
            Frame::Start { dialog, .. } => Course::Start(dialog),
            Frame::StartAck { dialog }
            | Frame::Started { dialog, .. }
            | Frame::Open { dialog }
            | Frame::Yield { dialog, .. }
            | Frame::Stop { dialog, .. } => Course::Behind(dialog),
            Frame::Return { dialog, left: 0, .. } | Frame::Error { dialog, left: 0 } => Course::Last(dialog),
            Frame::Return { dialog, .. } | Frame::Error { dialog, .. } => Course::LastBegins(dialog),
            Frame::Part { dialog, left } => Course::Piece { dialog, is_last: left == 0 },
            _ => Course::Line,
        };
        prop_assert_eq!(course(head), Some(expected));
    }

    #[test]
    fn a_frame_cut_anywhere_waits_for_more(frame in frame(), payload in any::<Vec<u8>>()) {
        let bytes = encoded(&frame, &payload);
        for end in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..end], LIMIT), Ok(None));
        }
    }

    /// Its length says that it is all here, and yet its header goes on.
    #[test]
    fn a_header_cut_anywhere_is_malformed(frame in frame()) {
        let bytes = encoded(&frame, &[]);
        for end in 4..bytes.len() {
            let mut cut = bytes[..end].to_vec();
            cut[..4].copy_from_slice(&(end as u32 - 4).to_le_bytes());
            prop_assert!(matches!(decode(&cut, LIMIT), Err(FrameError::Malformed(_))));
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped(frame in frame(), payload in any::<Vec<u8>>(), nested in 0usize..100) {
        // Some trailing fields may be left out, so one more would be one of these.
        let frame = match frame {
            Frame::Start { dialog, endpoint, path, deadline_us, encoding, left } =>
                Frame::Start { dialog, endpoint, path: path.or(Some("a::b")), deadline_us, encoding, left: left.max(1) },
            Frame::Started { dialog, encoding, left } => Frame::Started { dialog, encoding, left: left.max(1) },
            Frame::Yield { dialog, encoding, left } => Frame::Yield { dialog, encoding, left: left.max(1) },
            Frame::Return { dialog, encoding, left } => Frame::Return { dialog, encoding, left: left.max(1) },
            Frame::Error { dialog, left } => Frame::Error { dialog, left: left.max(1) },
            Frame::SpawnRecord { aid, start_ticks, .. } => Frame::SpawnRecord { aid, start_ticks, is_program: true },
            other => other,
        };
        let mut field = vec![0x91; nested];
        field.extend_from_slice(b"\x82\xa3new\xc7\x02\x01\x05\x06\xa4more\x93\xc0\xcb\0\0\0\0\0\0\0\0\xc4\x01\xff");
        let bytes = with_one_more_field(&frame, &payload, &field);
        let (read, read_payload, _) = decode(&bytes, LIMIT).unwrap().unwrap();
        prop_assert_eq!(shown(&read), shown(&frame));
        prop_assert_eq!(read_payload, &payload[..]);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
        // Nothing to compare: a panic is the failure.
        let _ = decode(&bytes, LIMIT);
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let _ = decode(&framed, LIMIT);
    }

    #[test]
    fn a_changed_byte_does_not_make_it_panic(frame in frame(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encoded(&frame, b"payload");
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode(&bytes, LIMIT);
    }
}

fn check(bytes: &[u8], expected: &str) {
    assert_eq!(format!("{:?}", decode(bytes, LIMIT)), expected, "{bytes:02x?}");
}

#[test]
fn what_is_no_frame_is_refused() {
    check(b"\x01\x00\x10", "Ok(None)");
    check(b"\x01\x00\x10\x00", "Err(TooLong { announced: 1048577, limit: 1048576 })");
    check(b"\xff\xff\xff\xff", "Err(TooLong { announced: 4294967295, limit: 1048576 })");
    check(b"\0\0\0\0", "Err(Malformed(\"it has no header\"))");
    check(b"\x01\0\0\0\xc0", "Err(Malformed(\"its header is no array\"))");
    check(b"\x01\0\0\0\x90", "Err(Malformed(\"its kind is no number\"))");
    check(b"\x02\0\0\0\x90\x11", "Err(Malformed(\"its header is empty\"))");
    check(b"\x02\0\0\0\x91\x7f", "Err(UnknownKind(127))");
    check(b"\x02\0\0\0\x91\x32", "Err(UnknownKind(50))"); // Tty: reserved, not here yet
    check(b"\x04\0\0\0\x91\xcd\x01\x16", "Err(Malformed(\"its kind is over 255\"))");
    check(b"\x02\0\0\0\x91\x11", "Err(Malformed(\"a field is missing, or has the wrong type\"))");
    check(b"\x03\0\0\0\x92\x11\xff", "Err(Malformed(\"a field is missing, or has the wrong type\"))");
    check(b"\x04\0\0\0\x93\x16\x01\x02", "Err(Malformed(\"a field is missing, or has the wrong type\"))");
    // One more field of 2^32 - 1 elements, none of which is here.
    check(b"\x08\0\0\0\x93\x11\x01\xdd\xff\xff\xff\xff", "Err(Malformed(\"it ends within its header\"))");
}

#[test]
fn numbers_are_read_in_every_form() {
    check(b"\x03\0\0\0\x92\x11\x07", "Ok(Some((StartAck { dialog: 7 }, [], 7)))");
    check(b"\x04\0\0\0\x92\x11\xd0\x07", "Ok(Some((StartAck { dialog: 7 }, [], 8)))");
    check(b"\x0b\0\0\0\x92\x11\xcf\0\0\0\0\0\0\0\x07", "Ok(Some((StartAck { dialog: 7 }, [], 15)))");
    check(b"\x07\0\0\0\xdc\0\x02\xcc\x11\x07x", "Ok(Some((StartAck { dialog: 7 }, [120], 11)))");
    check(b"\x03\0\0\0\x92\x23\xff", "Ok(Some((Signalled { signal: -1 }, [], 7)))");
}

#[test]
fn a_hello_of_another_major_is_refused_with_a_reason() {
    let hello = |protocol| Hello {
        protocol,
        aid: Aid::new("frank", Uuid::from_u128(0x1f0c_9a2b << 96), 7, "here"),
        line: LineKind::Data,
        token: None,
        build: None,
        addrs: Addrs::default(),
        wanted: None,
    };
    assert_eq!(check_hello(&hello(PROTOCOL)), Ok(()));
    assert_eq!(check_hello(&hello((PROTOCOL.0, PROTOCOL.1 + 9))), Ok(()));
    let (major, minor) = PROTOCOL;
    assert_eq!(
        check_hello(&hello((7, 3))).unwrap_err(),
        format!(
            "frank@1f0c9a2b speaks protocol 7.3, and this side {major}.{minor}: run the same major of teamster on both"
        )
    );
}

/// The frames of `docs/wire.md`, by the name of the example.
fn documented() -> Vec<(&'static str, Frame<'static>, &'static [u8])> {
    let aid = Aid::new("frank", Uuid::from_bytes(std::array::from_fn(|at| at as u8)), 7, "here");
    let addr = Addr::Uds("/t/f".into());
    let asked = |request| Canceller { aid: aid.clone(), request };
    let start = |dialog, path, deadline_us| Frame::Start {
        dialog,
        endpoint: 0,
        path,
        deadline_us,
        encoding: Encoding::Positional,
        left: 0,
    };
    let hello = Hello {
        protocol: (1, 0),
        aid: aid.clone(),
        line: LineKind::Data,
        token: None,
        build: None,
        addrs: Addrs::default(),
        wanted: None,
    };
    let child = Hello {
        line: LineKind::Control,
        token: Some(Token([0x11; 16])),
        build: Some(vec![0xab, 0xcd]),
        addrs: addr.clone().into(),
        ..hello.clone()
    };
    let welcome = Welcome { protocol: (1, 0), aid: aid.clone(), max_frame_bytes: MAX_FRAME_BYTES, same_build: true };
    let receipt = Receipt {
        aid: aid.clone(),
        asked_by: Some(asked(CancelRequest::Actor)),
        heard: Some(Duration::from_micros(100)),
        tasks_gone: None,
        reaped: Duration::from_millis(200),
        rung: Some(Rung::Sigkill),
        exit: ExitKind::Signal(9),
        stuck: None,
    };
    let args = b"\x92\x01\x02";
    vec![
        ("hello", Frame::Hello(hello), b""),
        ("hello_child", Frame::Hello(child), b""),
        ("welcome", Frame::Welcome(welcome), b""),
        ("bye", Frame::Bye { reason: "idle" }, b""),
        ("ping", Frame::Ping { nonce: 42 }, b""),
        ("pong", Frame::Pong { nonce: 42 }, b""),
        ("start_path", start(1, Some("demo::add"), None), args),
        ("start", start(3, None, None), args),
        ("start_deadline", start(5, None, Some(5_000_000)), args),
        ("start_ack", Frame::StartAck { dialog: 3 }, b""),
        ("started", Frame::Started { dialog: 3, encoding: Encoding::Positional, left: 0 }, b"\x03"),
        ("open", Frame::Open { dialog: 3 }, b""),
        ("yield", Frame::Yield { dialog: 3, encoding: Encoding::Positional, left: 0 }, b"\x01\x02"),
        ("yield_long", Frame::Yield { dialog: 3, encoding: Encoding::Positional, left: 300 }, b"\xc5\x01\x2c\x00\x00"),
        ("stop", Frame::Stop { dialog: 3, how: Stop::Finished }, b""),
        ("return", Frame::Return { dialog: 3, encoding: Encoding::Positional, left: 0 }, b"\x03"),
        ("error", Frame::Error { dialog: 3, left: 0 }, b""),
        ("cancel", Frame::Cancel { dialog: 3, grace_ms: 1000, canceller: asked(CancelRequest::Dropped) }, b""),
        ("cancel_ack", Frame::CancelAck { dialog: 3, state: AckState::Asked }, b""),
        ("credit", Frame::Credit { dialog: 3, up_to: 32768 }, b""),
        ("part", Frame::Part { dialog: 3, left: 298 }, b"\x00\x00"),
        ("spawn_record", Frame::SpawnRecord { aid: aid.clone(), start_ticks: 12345, is_program: false }, b""),
        ("ready", Frame::Ready { aid: aid.clone(), addrs: addr.into() }, b""),
        ("tasks_gone", Frame::TasksGone, b""),
        ("signalled", Frame::Signalled { signal: 15 }, b""),
        ("end_asked", Frame::EndAsked { canceller: asked(CancelRequest::Actor) }, b""),
        ("log", Frame::Log, b""),
        ("dump", Frame::Dump { id: 3 }, b""),
        ("end", Frame::End { aid: aid.clone(), canceller: asked(CancelRequest::Actor) }, b""),
        ("ended", Frame::Ended { to: aid.clone(), aid: aid.clone(), receipt: Some(Box::new(receipt)) }, b""),
        ("spawning", Frame::Spawning, b""),
        ("obituary_asked", Frame::ObituaryAsked { to: aid.clone(), aid: aid.clone() }, b""),
        ("obituary", Frame::Obituary { to: aid.clone(), aid: aid.clone(), receipt: None }, b""),
        ("hold", Frame::Hold { on: true }, b""),
        ("stood", Frame::Stood { nanos: 1_500_000_000 }, b""),
        ("stuck", Frame::Stuck { places: b"\x93\x01" }, b""),
        ("load", Frame::Load { id: 3, load: None }, b""),
        ("load_told", Frame::Load { id: 3, load: Some(LOAD) }, b""),
        ("beat", Frame::Beat { late_ms: 20, is_held: false }, b""),
        ("gone", Frame::Gone { aid: aid.clone() }, b""),
    ]
}

/// What an idle actor has to do.
const LOAD: &[u8] = b"\x88\xa5actor\xc4\x10\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
    \xa6served\x2a\xa9in_flight\x01\xa9waits_for\x00\xacqueued_bytes\x00\xa9rss_bytes\x07\xa3cpu\x82\xa4secs\x02\xa5nanos\x00\
    \xa9latencies\x81\xa6counts\x90";

#[test]
fn the_load_of_the_examples_is_one() {
    let load = crate::msg::load::Load::decode(LOAD).expect("it is a load");
    assert_eq!((load.served, load.in_flight, load.encode()), (42, 1, LOAD.to_owned()));
}

/// Examples of `docs/wire.md` whose fence begins with `fence`: the rest of that line, and the bytes.
fn examples(fence: &str) -> Vec<(String, Vec<u8>)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wire.md");
    let page = std::fs::read_to_string(page).expect("docs/wire.md is part of the repository");
    let fence = format!("```{fence} ");
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix(&fence) else { continue };
        let bytes = lines
            .by_ref()
            .take_while(|line| *line != "```")
            .flat_map(|line| {
                // Two digits, and again: what is behind them is for people.
                let digits = |word: &&str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
                let hex = line.split("  ").next().unwrap();
                hex.split(' ').take_while(digits).map(|word| u8::from_str_radix(word, 16).unwrap()).collect::<Vec<_>>()
            })
            .collect();
        found.push((name.to_owned(), bytes));
    }
    found
}

#[test]
fn the_examples_of_the_page_are_what_travels() {
    let documented = documented();
    let mut wrong = String::new();
    let examples = examples("hex");
    let names: Vec<_> = examples.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, documented.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    for ((name, page), (_, frame, payload)) in examples.iter().zip(&documented) {
        let bytes = encoded(frame, payload);
        if bytes[..] != page[..] {
            wrong += &format!("\n{name}:\n  page {page:02x?}\n  code {:02x?}", &bytes[..]);
            continue;
        }
        let (read, read_payload, _) = decode(page, LIMIT).unwrap().unwrap();
        assert_eq!((shown(&read), read_payload), (shown(frame), *payload));
    }
    assert!(wrong.is_empty(), "docs/wire.md and the code differ:{wrong}");
}

/// A kind that is not on the page has no example, and one without an example is not tested above.
#[test]
fn every_kind_is_on_the_page() {
    let mut kinds: Vec<u8> = documented().iter().map(|(_, frame, _)| encoded(frame, b"")[5]).collect();
    kinds.dedup();
    let known: Vec<u8> = (0..128)
        .filter(|&kind| decode(&[2, 0, 0, 0, 0x91, kind], LIMIT) != Err(FrameError::UnknownKind(kind)))
        .collect();
    assert_eq!(kinds, known);
}

#[test]
fn the_payloads_of_the_page_are_what_travels() {
    use super::super::codec::encode_into;
    #[derive(Serialize)]
    struct Point {
        x: u8,
        y: u8,
    }
    let (mut named, mut positional, mut some) = (Vec::new(), Vec::new(), Vec::new());
    encode_into(&Point { x: 1, y: 2 }, Encoding::Named, &mut named).unwrap();
    encode_into(&Point { x: 1, y: 2 }, Encoding::Positional, &mut positional).unwrap();
    encode_into(&Some(None::<u8>), Encoding::Named, &mut some).unwrap();
    let ours = [
        ("named Point { x: 1, y: 2 }".to_owned(), named),
        ("positional Point { x: 1, y: 2 }".to_owned(), positional),
        ("named Some(None)".to_owned(), some),
    ];
    assert_eq!(examples("payload"), ours);
}

/// `cargo test --release -- --ignored --nocapture frame_times`
#[test]
#[ignore = "a measurement"]
fn frame_times() {
    let args = b"\x92\x01\x02";
    let name: Arc<str> = "frank".into();
    let asked = Canceller { aid: Aid::new(name, Uuid::nil(), 7, "here"), request: CancelRequest::Actor };
    for (what, frame) in [
        (
            "Start",
            Frame::Start {
                dialog: 70_001,
                endpoint: 3,
                path: None,
                deadline_us: None,
                encoding: Encoding::Positional,
                left: 0,
            },
        ),
        (
            "Start with path",
            Frame::Start {
                dialog: 70_001,
                endpoint: 3,
                path: Some("demo::add"),
                deadline_us: None,
                encoding: Encoding::Positional,
                left: 0,
            },
        ),
        ("Return", Frame::Return { dialog: 70_001, encoding: Encoding::Positional, left: 0 }),
        ("StartAck", Frame::StartAck { dialog: 70_001 }),
        ("Cancel", Frame::Cancel { dialog: 70_001, grace_ms: 1000, canceller: asked }),
    ] {
        const TIMES: u32 = 1_000_000;
        let mut out = BytesMut::with_capacity(1 << 10);
        let begun = Instant::now();
        for _ in 0..TIMES {
            out.clear();
            encode(std::hint::black_box(&frame), args, &mut out);
        }
        let encoding = begun.elapsed() / TIMES;
        let begun = Instant::now();
        let mut sum = 0;
        for _ in 0..TIMES {
            match decode(std::hint::black_box(&out[..]), LIMIT) {
                Ok(Some((Frame::Start { dialog, .. }, payload, _)))
                | Ok(Some((Frame::StartAck { dialog }, payload, _)))
                | Ok(Some((Frame::Return { dialog, .. }, payload, _)))
                | Ok(Some((Frame::Cancel { dialog, .. }, payload, _))) => sum += dialog + payload.len() as u64,
                other => panic!("{other:?}"),
            }
        }
        std::hint::black_box(sum);
        println!("{what}: encode {encoding:?}, decode {:?}, {} bytes", begun.elapsed() / TIMES, out.len());
    }
}
