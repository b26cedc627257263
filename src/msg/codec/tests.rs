//! Every type comes back as it was in both encodings, and no bytes do harm.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use Encoding::{Named, Positional};
use serde::de::DeserializeOwned;

fn encode<T: Serialize>(value: &T, want: Encoding) -> (Encoding, Vec<u8>) {
    let mut out = b"before".to_vec();
    let encoding = encode_into(value, want, &mut out).unwrap();
    assert_eq!(&out[..6], b"before");
    (encoding, out.split_off(6))
}

/// There and back in both encodings; gives what became of `Positional`.
#[track_caller]
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) -> Encoding {
    let (got, bytes) = encode(&value, Positional);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(&value), "positional: {bytes:02x?}");
    let (named, bytes) = encode(&value, Named);
    assert_eq!(named, Named);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(&value), "named: {bytes:02x?}");
    got
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
struct Point {
    x: i64,
    y: i64,
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Eq, Hash, PartialOrd, Ord)]
struct Key {
    row: u32,
    column: String,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Unit;

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Wrapper(Box<Point>);

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Nothing,
    Circle(f64),
    Line(Point, Point),
    Box { corner: Point, size: Option<Point> },
    Named(Option<()>),
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "kind")]
enum Internal {
    Ping,
    Move { to: Point, by: u8 },
    Turn(Point),
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Ping,
    Move { to: Point },
    Turn(Point, u8),
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Untagged>),
    Maybe { perhaps: Option<Option<u8>>, point: Point },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    point: Point,
    #[serde(flatten)]
    more: BTreeMap<String, i32>,
    shape: Shape,
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Default)]
struct Skips {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    b: Option<u8>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum SkipsInside {
    Variant {
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        list: Vec<u8>,
        last: u8,
    },
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct SkipsBoth {
    a: u8,
    #[serde(skip)]
    cache: u8,
    b: u8,
}

#[test]
fn every_shape_comes_back_in_both_encodings() {
    let point = Point { x: -1, y: i64::MAX };
    assert_eq!(comes_back((1i64, 2i64)), Positional);
    assert_eq!(comes_back(point.clone()), Positional);
    comes_back(());
    comes_back(Unit);
    comes_back(Wrapper(Box::new(point.clone())));
    comes_back((u8::MAX, u16::MAX, u32::MAX, u64::MAX, i8::MIN, i16::MIN, i32::MIN, i64::MIN, -32i8, -33i16));
    comes_back((u128::MAX, i128::MIN, 0u128, -1i128));
    comes_back((1.5f32, f64::MIN_POSITIVE, f32::INFINITY, -0.0f64));
    comes_back(('a', 'ß', '\u{10ffff}', true, false));
    comes_back((String::new(), "x".repeat(31), "x".repeat(32), "x".repeat(256), "ü".repeat(40_000)));
    comes_back((Bytes::from_static(b"\0\xff"), Bytes::new(), Bytes::from(vec![7; 70_000])));
    comes_back((vec![1u8, 200], [1u8, 2, 255], [0u64; 20], vec![(); 3], vec![Unit, Unit], vec![0u8; 70_000]));
    comes_back(HashMap::from([(Key { row: 1, column: "a".into() }, point.clone())]));
    comes_back(BTreeMap::from([(7u8, vec![Some(1), None]), (9, vec![])]));
    comes_back((0..100).map(|n| (n, n)).collect::<HashMap<u32, u32>>());
    comes_back(BTreeSet::from([Key { row: 1, column: "a".into() }]));
    comes_back(PathBuf::from("/tmp/a b"));
    comes_back((Duration::from_nanos(1_000_000_001), SystemTime::UNIX_EPOCH + Duration::from_millis(1234)));
    comes_back("::1".parse::<IpAddr>().unwrap());
    comes_back((uuid::Uuid::from_u128(7), std::num::NonZeroU8::MIN, 1..5u8, std::sync::Arc::<str>::from("s")));
    for shape in [
        Shape::Nothing,
        Shape::Circle(0.5),
        Shape::Line(point.clone(), Point::default()),
        Shape::Box { corner: point.clone(), size: None },
        Shape::Box { corner: point.clone(), size: Some(point.clone()) },
        Shape::Named(None),
        Shape::Named(Some(())),
    ] {
        comes_back((vec![Some(shape)], 1u8));
    }
    for value in [Internal::Ping, Internal::Move { to: point.clone(), by: 200 }, Internal::Turn(point.clone())] {
        comes_back((value, 1u8));
    }
    for value in [Adjacent::Ping, Adjacent::Turn(point.clone(), 200)] {
        comes_back((value, 1u8));
    }
    comes_back(Untagged::List(vec![Untagged::Number(-7), Untagged::Text("x".into())]));
    let more = BTreeMap::from([("z".into(), 1), ("w".into(), 2)]);
    comes_back(Flat { id: 1, point: point.clone(), more, shape: Shape::Line(point.clone(), point) });
}

/// Serde reads the struct variants of such enums from maps only, and says nothing of it when one is
/// written: [`is_positional`] asks the type.
#[test]
fn struct_variants_that_only_names_tell_apart_come_back_by_name() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
        assert!(decode::<T>(&encode(&value, Positional).1).is_err(), "an error, and never another value");
        assert_eq!(decode::<T>(&encode(&value, Named).1), Ok(value));
    }
    let point = Point { x: 1, y: 2 };
    check(Adjacent::Move { to: point.clone() });
    check(Untagged::Maybe { perhaps: Some(None), point });
}

#[test]
fn a_type_is_asked_whether_positions_will_do() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Generic<T>(Vec<Option<T>>);
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Tangle {
        Both(Box<Tangle>, Vec<Tangle>),
        Knot { node: Option<Box<Node>>, left: Box<Tangle> },
        Leaf(Generic<u8>),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum LateTangle {
        Leaf,
        More(Box<LateTangle>, Generic<Generic<Untagged>>),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Far {
        Near,
        List(Vec<Far>, Struct<Vec<Inner>>),
        Other,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Struct<T> {
        list: Option<T>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Inner {
        A,
        B { back: Vec<Far> },
        C(BTreeMap<u8, Innermost>),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    enum Innermost {
        A,
        B,
        C(Vec<Untagged>),
    }
    assert!(!is_positional::<Far>());
    assert!(!is_positional::<Vec<Struct<(Far, u8)>>>());
    assert!(is_positional::<(i64, i64)>());
    assert!(is_positional::<(Point, Wrapper, Unit, Shape, Skips, SkipsBoth)>());
    assert!(is_positional::<(Node, Chain, Tangle, Generic<Generic<Key>>, Vec<Chain>)>());
    assert!(is_positional::<(Bytes, PathBuf, Duration, SystemTime, IpAddr, uuid::Uuid, std::num::NonZeroU8)>());
    assert!(is_positional::<(HashMap<Key, Result<Point, String>>, [u8; 3], u128, char, Option<Option<()>>)>());
    assert!(!is_positional::<Untagged>());
    assert!(!is_positional::<(u8, Vec<Option<Adjacent>>)>());
    assert!(!is_positional::<HashMap<u8, Flat>>());
    assert!(!is_positional::<Result<u8, Internal>>());
    assert!(!is_positional::<LateTangle>());
}

#[test]
fn options_and_results_keep_their_layers() {
    comes_back((None::<()>, Some(()), Some(None::<u8>), Some(Some(None::<u8>)), Some(Some(Some(7u8)))));
    comes_back(vec![None, Some(None), Some(Some(())), Some(None)]);
    comes_back((Some(Unit), Some(Some(vec![None::<u8>])), Some(Box::new(Some(())))));
    comes_back::<[Result<Result<Option<()>, ()>, String>; 4]>([
        Ok(Ok(None)),
        Ok(Ok(Some(()))),
        Ok(Err(())),
        Err("no".into()),
    ]);
}

#[test]
fn a_value_that_skips_fields_is_named() {
    let (some, none) = (Skips { a: Some(1), b: Some(2) }, Skips { a: None, b: Some(2) });
    assert_eq!(comes_back(some.clone()), Positional);
    assert_eq!(comes_back(none.clone()), Named);
    assert_eq!(comes_back((1u8, vec![Some((some, none.clone()))])), Named);
    assert_eq!(comes_back(HashMap::from([(1u8, Ok::<_, ()>(none))])), Named);
    assert_eq!(comes_back(SkipsInside::Variant { list: vec![1], last: 2 }), Positional);
    assert_eq!(comes_back(SkipsInside::Variant { list: vec![], last: 2 }), Named);
    // Skipped on both sides: positions agree.
    assert_eq!(comes_back(SkipsBoth { a: 1, cache: 0, b: 2 }), Positional);
}

/// Not even a `Serialize` that swallows the error hides a skipped field.
#[test]
fn a_swallowed_skip_is_noticed() {
    struct Swallows(Skips);
    impl Serialize for Swallows {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            struct Quiet<'a>(&'a Skips);
            impl Serialize for Quiet<'_> {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    self.0.serialize(serializer)
                }
            }
            use serde::ser::SerializeSeq;
            let mut seq = serializer.serialize_seq(None)?;
            // Nobody wants the error: that is what is tested.
            let _ = seq.serialize_element(&Quiet(&self.0));
            seq.end()
        }
    }
    let (encoding, bytes) = encode(&Swallows(Skips { a: None, b: Some(2) }), Positional);
    assert_eq!(encoding, Named);
    assert_eq!(decode::<Vec<Skips>>(&bytes).unwrap(), [Skips { a: None, b: Some(2) }]);
}

/// Serde tells a serializer nothing of such a field, so positions cannot carry it.
#[test]
fn a_field_skipped_on_one_side_is_an_error_and_never_a_shift() {
    #[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
    #[serde(default)]
    struct OneSided {
        #[serde(skip_serializing)]
        secret: u8,
        a: u8,
        b: u8,
    }
    let value = OneSided { secret: 0, a: 1, b: 2 };
    assert_eq!(decode::<OneSided>(&encode(&value, Named).1).unwrap(), value);
    let error = decode::<OneSided>(&encode(&value, Positional).1).unwrap_err();
    assert!(error.message.starts_with("2 fields came by position for the 3 of struct OneSided: "), "{error}");
}

#[test]
fn other_layouts_of_the_same_value_are_read() {
    assert_eq!(decode::<Shape>(b"\x81\xa7Nothing\xc0"), Ok(Shape::Nothing));
    assert_eq!(decode::<Shape>(b"\x00"), Ok(Shape::Nothing));
    assert_eq!(decode::<Shape>(b"\x81\x01\xcb\x3f\xe0\0\0\0\0\0\0"), Ok(Shape::Circle(0.5)));
    assert_eq!(decode::<Point>(b"\x83\xa1y\x02\xa3new\x91\xc0\xa1x\x01"), Ok(Point { x: 1, y: 2 }));
    assert_eq!(decode::<Point>(b"\xdc\x00\x02\xd3\0\0\0\0\0\0\0\x01\xcc\x02"), Ok(Point { x: 1, y: 2 }));
    assert_eq!(decode::<f64>(b"\x07"), Ok(7.0));
    assert_eq!(decode::<u128>(b"\x07"), Ok(7));
    assert_eq!(decode::<Vec<u8>>(b"\xc4\x02\x01\xff"), Ok(vec![1, 255]));
    assert_eq!(decode::<[u8; 2]>(b"\xc4\x02\x01\xff"), Ok([1, 255]));
    assert_eq!(decode::<Bytes>(b"\x92\x01\x02"), Ok(Bytes::from_static(b"\x01\x02")));
    assert_eq!(decode::<Unit>(b"\xc0"), Ok(Unit));
}

/// A peer with `rmp-serde` understands us, and we it: but for its unknown lengths and lost layers.
#[test]
fn the_layout_is_that_of_rmp_serde() {
    let point = Point { x: -1, y: 70_000 };
    let value = (
        (point.clone(), Shape::Line(point.clone(), point.clone()), Shape::Box { corner: point, size: None }),
        (Internal::Ping, vec![Some("x".repeat(40))], 1u128, 2.5f32, 'c', Unit, ()),
        BTreeMap::from([(Key { row: 300, column: "b".into() }, vec![-1i8; 20])]),
        (Bytes::from_static(b"b"), Ok::<u8, ()>(1), SkipsBoth { a: 1, cache: 9, b: 2 }),
    );
    assert_eq!(encode(&value, Positional).1, rmp_serde::to_vec(&value).unwrap());
    assert_eq!(encode(&value, Named).1, rmp_serde::to_vec_named(&value).unwrap());
}

#[track_caller]
fn refused<T: DeserializeOwned + Debug>(bytes: &[u8], expected: &str) {
    assert_eq!(decode::<T>(bytes).unwrap_err().to_string(), expected);
}

#[test]
fn a_refusal_says_where_and_what() {
    refused::<(i64, i64)>(
        b"\x92\x01\xa1x",
        "cannot decode (i64, i64) at [1]: invalid type: string \"x\", expected i64",
    );
    refused::<(i64, i64)>(b"\x91\x01", "cannot decode (i64, i64): invalid length 1, expected a tuple of size 2");
    refused::<(i64,)>(b"\x92\x01\x02", "cannot decode (i64,): 2 elements came where 1 were expected");
    refused::<i64>(b"\x01\x02\x03", "cannot decode i64: 2 bytes are left over behind it");
    refused::<i64>(b"", "cannot decode i64: it ends too early");
    refused::<u8>(b"\xcd\x01\x00", "cannot decode u8: invalid value: integer `256`, expected u8");
    refused::<i64>(b"\xc1", "cannot decode i64: no value begins with the msgpack marker 0xc1");
    refused::<String>(
        b"\xa1\xff",
        "cannot decode alloc::string::String: invalid utf-8 sequence of 1 bytes from index 0",
    );
    refused::<Option<u8>>(
        b"\xd4\x53\x00",
        "cannot decode core::option::Option<u8>: an optional value with nothing around its nil",
    );
    let error = decode::<Vec<Shape>>(b"\x91\x81\xa3Box\x82\xa6corner\x82\xa1x\x01\xa1y\xa1z\xa4size\xc0").unwrap_err();
    assert_eq!(error.path, "[0].Box.corner.y");
    // By position the names are as good, and the depth is none of theirs.
    let error = decode::<Vec<Shape>>(b"\x91\x81\xa3Box\x92\x92\x01\xa1z\xc0").unwrap_err();
    assert_eq!(error.path, "[0].Box.corner.y");
    let place = |bytes: &[u8]| decode::<Vec<Shape>>(bytes).unwrap_err().path;
    assert_eq!(place(b"\x91\x81\x03\x92\x92\x01\xa1z\xc0"), "[0].Box.corner.y", "by position and index, too");
    assert_eq!(place(b"\x92\x00\x81\xa4Line\x92\x92\x01\x02\xc3"), "[1].Line[1]");
    assert_eq!(place(b"\x91\x81\xa6Circle\xc3"), "[0].Circle");
    let error = decode::<HashMap<i8, Point>>(b"\x81\xff\x81\xa1x\xc3").unwrap_err();
    assert_eq!(error.path, "-1.x");
    let error = decode::<BTreeMap<String, Vec<Option<u8>>>>(b"\x81\xa3key\x92\xc0\xa1z").unwrap_err();
    assert_eq!(error.path, "key[1]");
    let error = decode::<HashMap<Key, u8>>(b"\x81\x92\x01\xa1c\xa1z").unwrap_err();
    assert_eq!(error.path, "?", "the key is no text");
    let error = decode::<Shape>(b"\xa6Square").unwrap_err();
    assert!(error.message.starts_with("unknown variant `Square`"), "{error}");
    let error = decode::<Shape>(b"\xa6Circle").unwrap_err();
    assert_eq!(error.message, "the variant came without its content");
}

#[derive(Serialize)]
struct Shelved {
    shelf: u8,
    path: PathBuf,
}

#[test]
fn a_failed_encoding_says_where_and_leaves_the_buffer_as_it_was() {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
    let mut out = b"before".to_vec();
    for want in [Positional, Named] {
        let error = encode_into(&(1, "text", &path), want, &mut out).unwrap_err();
        assert_eq!(error.message, "path contains invalid UTF-8 characters");
        assert!(error.type_name.contains("PathBuf"));
        assert_eq!(error.path, "[2]");
        assert_eq!(out, b"before");
        let node = Shelved { shelf: 1, path: path.clone() };
        assert_eq!(encode_into(&[node], want, &mut out).unwrap_err().path, "[0].path");
        let mut place = |kept: &Kept| encode_into(kept, want, &mut out).unwrap_err().path;
        assert_eq!(place(&Kept::Alone(path.clone())), "Alone");
        assert_eq!(place(&Kept::Both(0, path.clone())), "Both[1]");
        assert_eq!(place(&Kept::Named { at: path.clone() }), "Named.at");
        let by_key = BTreeMap::from([("first".to_owned(), "fine".into()), ("second".to_owned(), path.clone())]);
        assert_eq!(place(&Kept::ByKey(by_key)), "ByKey.second");
        assert_eq!(place(&Kept::ByNumber(BTreeMap::from([(-7, Some(path.clone()))]))), "ByNumber.-7");
    }
}

#[derive(Serialize)]
enum Kept {
    Alone(PathBuf),
    Both(u8, PathBuf),
    Named { at: PathBuf },
    ByKey(BTreeMap<String, PathBuf>),
    ByNumber(BTreeMap<i32, Option<PathBuf>>),
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
struct Node {
    name: String,
    children: Vec<Node>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
enum Chain {
    End,
    Next(Box<Chain>),
    Field { next: Box<Chain> },
}

#[derive(Deserialize, Debug)]
struct Endless(#[expect(dead_code, reason = "it is never reached")] Option<Box<Endless>>);

/// The thread of a tokio worker has 2 MiB; this one has half of that, in a debug build.
fn on_a_small_stack(run: fn()) {
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn nesting_that_goes_too_deep_is_refused_before_the_stack_ends() {
    on_a_small_stack(|| {
        let deep = format!("it nests deeper than {MAX_DEPTH} levels");
        let bomb = |level: &[u8]| level.repeat(1_000_000 / level.len());
        let refusals = [
            decode::<Node>(&bomb(b"\x82\xa4name\xa1x\xa8children\x91")).unwrap_err(),
            decode::<Node>(&bomb(b"\x92\xa1x\x91")).unwrap_err(),
            decode::<Chain>(&bomb(b"\x81\xa4Next")).unwrap_err(),
            decode::<Chain>(&bomb(b"\x81\xa5Field\x91")).unwrap_err(),
            decode::<Untagged>(&bomb(b"\x91")).unwrap_err(),
            decode::<serde::de::IgnoredAny>(&bomb(b"\x81\x81\x91")).unwrap_err(),
            decode::<Endless>(b"\x07").unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.message, deep, "{}", refusal.type_name);
        }
    });
}

#[test]
fn what_is_too_deep_to_be_read_is_not_written() {
    on_a_small_stack(|| {
        let nested = |levels: u16| (1..levels).fold(Chain::End, |inner, _| Chain::Next(Box::new(inner)));
        comes_back(nested(MAX_DEPTH));
        let error = encode_into(&nested(MAX_DEPTH + 2), Positional, &mut Vec::new()).unwrap_err();
        assert_eq!(error.message, format!("it nests deeper than {MAX_DEPTH} levels"));
        // Width is no depth.
        comes_back((0..1000).map(|_| nested(3)).collect::<Vec<_>>());
        comes_back(vec![Node::default(), Node { name: "x".into(), children: vec![Node::default()] }]);
    });
}

#[test]
fn announced_lengths_size_nothing() {
    let [seq, str, bin, map] =
        [&b"\xdd\xff\xff\xff\xff"[..], b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"];
    let early = "it ends too early";
    for lie in [seq, bin] {
        assert_eq!(decode::<Vec<u8>>(lie).unwrap_err().message, early);
        assert_eq!(decode::<Vec<u64>>(lie).unwrap_err().message, early);
        assert_eq!(decode::<Vec<[u64; 32]>>(lie).unwrap_err().message, early);
    }
    for lie in [seq, str, bin] {
        assert_eq!(decode::<Bytes>(lie).unwrap_err().message, early);
    }
    assert_eq!(decode::<String>(str).unwrap_err().message, early);
    assert_eq!(decode::<HashMap<u8, u8>>(map).unwrap_err().message, early);
    for lie in [seq, str, bin, map] {
        assert_eq!(decode::<Untagged>(lie).unwrap_err().message, early);
        assert_eq!(decode::<serde::de::IgnoredAny>(lie).unwrap_err().message, early);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
        // Nothing to compare: a panic is the failure.
        let _ = decode::<(Shape, Option<Option<Point>>)>(&bytes);
        let _ = decode::<Untagged>(&bytes);
        let _ = decode::<Flat>(&bytes);
        let _ = decode::<Internal>(&bytes);
        let _ = decode::<HashMap<Bytes, Vec<u128>>>(&bytes);
    }

    #[test]
    fn a_changed_byte_does_not_make_it_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), named: bool) {
        let value = Flat {
            id: 1,
            point: Point { x: 1, y: 2 },
            more: BTreeMap::from([("z".into(), 1)]),
            shape: Shape::Named(Some(())),
        };
        let (_, mut bytes) = encode(&value, if named { Named } else { Positional });
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode::<Flat>(&bytes);
        let _ = decode::<Flat>(&bytes[..at]);
    }

    #[test]
    fn values_come_back(value in any::<(i64, u64, f64, String, Vec<Option<Option<u8>>>, char, Option<bool>, HashMap<String, i32>)>()) {
        prop_assume!(!value.2.is_nan());
        comes_back(value);
    }
}

/// `cargo test --release -- --ignored --nocapture codec_times`
#[test]
#[ignore = "a measurement"]
fn codec_times() {
    /// The best of some rounds, in ns: the machine has other users.
    fn best(mut run: impl FnMut()) -> f64 {
        const TIMES: u32 = 20_000;
        (0..50)
            .map(|_| {
                let begun = Instant::now();
                (0..TIMES).for_each(|_| run());
                begun.elapsed().as_nanos() as f64 / f64::from(TIMES)
            })
            .fold(f64::MAX, f64::min)
    }
    fn time<T: Serialize + DeserializeOwned>(what: &str, value: T) {
        use std::hint::black_box;
        let mut out = Vec::with_capacity(1 << 10);
        for want in [Positional, Named] {
            let write = best(|| {
                out.clear();
                encode_into(black_box(&value), want, &mut out).unwrap();
                black_box(&out);
            });
            let read = best(|| _ = black_box(decode::<T>(black_box(&out)).unwrap()));
            println!("{what} {want:?}: encode {write:.1} ns, decode {read:.1} ns");
        }
        let write = best(|| {
            out.clear();
            black_box(&value).serialize(&mut rmp_serde::Serializer::new(&mut out)).unwrap();
            black_box(&out);
        });
        let read = best(|| _ = black_box(rmp_serde::from_slice::<T>(black_box(&out)).unwrap()));
        println!("{what} by rmp-serde, positional: encode {write:.1} ns, decode {read:.1} ns");
    }
    let (tuple, tree) = (best(|| _ = is_positional::<(i64, i64)>()), best(|| _ = is_positional::<(Node, Shape)>()));
    println!("is_positional: (i64, i64) {tuple:.0} ns, (Node, Shape) {tree:.0} ns");
    time("(i64, i64)", (1i64, 2i64));
    time("(i64, i64) big", (1i64 << 40, -70_000i64));
    time("struct", Node { name: "name".into(), children: vec![Node::default(), Node::default()] });
    time("Vec<u8> of 1000", vec![200u8; 1000]);
    time("Bytes of 1000", Bytes::from(vec![200u8; 1000]));
}

/// Keeps what it is shown, as long as there are no more than `room`.
struct Shelf {
    room: usize,
    taken: Vec<Bytes>,
    restarts: usize,
}

impl Spill for Shelf {
    fn take(&mut self, bytes: &[u8]) -> Option<u32> {
        if self.taken.len() == self.room {
            return None;
        }
        self.taken.push(Bytes::copy_from_slice(bytes));
        Some(self.taken.len() as u32 - 1)
    }

    fn restart(&mut self) {
        self.taken.clear();
        self.restarts += 1;
    }
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Parcel {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    note: Option<String>,
    first: Bytes,
    small: Bytes,
    later: Option<Bytes>,
}

fn large(fill: u8) -> Bytes {
    vec![fill; SPILL_BYTES].into()
}

fn parcel(note: Option<&str>) -> Parcel {
    Parcel {
        note: note.map(str::to_owned),
        first: large(1),
        small: Bytes::from_static(b"small"),
        later: Some(large(2)),
    }
}

/// There with `room` places, and back; gives how many were taken, and how often it began anew.
#[track_caller]
fn spilled<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, room: usize) -> (usize, usize) {
    let mut shelf = Shelf { room, taken: Vec::new(), restarts: 0 };
    let mut out = b"before".to_vec();
    encode_with(value, Positional, &mut out, Some(&mut shelf)).unwrap();
    let left = out.len() - 6 + shelf.taken.iter().map(Bytes::len).sum::<usize>();
    assert!(left < 2 * SPILL_BYTES + 200, "nothing is there twice: {left}");
    let taken = shelf.taken.len();
    assert_eq!(with_pieces(shelf.taken, || decode::<T>(&out[6..])).as_ref(), Ok(value));
    (taken, shelf.restarts)
}

#[test]
fn large_byte_strings_lie_aside_as_far_as_there_is_room() {
    assert_eq!(spilled(&parcel(Some("a note")), 2), (2, 0));
    assert_eq!(spilled(&parcel(Some("a note")), 1), (1, 0));
    assert_eq!(spilled(&parcel(Some("a note")), 0), (0, 0));
    assert_eq!(spilled(&large(1).slice(1..), 1), (0, 0), "one byte less stays");
    assert_eq!(spilled(&vec![(1, large(1)), (2, large(2))], 2), (2, 0));
}

#[test]
fn what_lay_aside_is_dropped_when_a_value_is_written_anew() {
    assert_eq!(spilled(&parcel(None), 2), (2, 1), "it skips a field, which positions would not show");
}

#[test]
fn bytes_that_lie_aside_are_bytes_to_every_visitor() {
    let marked = [0xd6, 84, 0, 0, 0, 0];
    let three = || vec![Bytes::from_static(&[1, 2, 3])];
    assert_eq!(with_pieces(three(), || decode::<Bytes>(&marked)), Ok(Bytes::from_static(&[1, 2, 3])));
    assert_eq!(with_pieces(three(), || decode::<Vec<u8>>(&marked)), Ok(vec![1, 2, 3]));
    assert_eq!(with_pieces(three(), || decode::<(u8, u8, u8)>(&marked)), Ok((1, 2, 3)));
    assert_eq!(with_pieces(three(), || decode::<Option<Bytes>>(&marked)).unwrap().unwrap().len(), 3);
    assert_eq!(with_pieces(three(), || decode::<serde::de::IgnoredAny>(&marked)), Ok(serde::de::IgnoredAny));
    with_pieces(three(), || decode::<u8>(&marked)).expect_err("it is no number");
    with_pieces(three(), || decode::<(u8, u8)>(&marked)).expect_err("they are three");
}

#[test]
fn a_mark_without_its_bytes_is_an_error() {
    let marked = [0xd6, 84, 0, 0, 0, 1];
    let failure = decode::<Bytes>(&marked).unwrap_err();
    assert_eq!(failure.message, "its byte string 1 did not come with it");
    let one = vec![Bytes::new()];
    with_pieces(one, || decode::<Bytes>(&marked)).expect_err("there is no second");
    decode::<Bytes>(&marked[..5]).expect_err("it is cut");
    decode::<Bytes>(&[0xd6, 83, 0, 0, 0, 0]).expect_err("another extension is unknown");
    assert_eq!(value_len(&marked), Some(6));
}

#[test]
fn pieces_are_those_of_the_innermost_decoding_and_gone_after_it() {
    let marked = [0xd6, 84, 0, 0, 0, 0];
    let read = || decode::<Bytes>(&marked).ok();
    with_pieces(vec![Bytes::from_static(b"outer")], || {
        assert_eq!(with_pieces(vec![Bytes::from_static(b"inner")], read).unwrap(), "inner");
        assert_eq!(read().unwrap(), "outer");
        let panicked = std::panic::catch_unwind(|| with_pieces(vec![], || panic!("while decoding")));
        panicked.expect_err("it panics");
        assert_eq!(read().unwrap(), "outer");
    });
    assert_eq!(read(), None);
}
