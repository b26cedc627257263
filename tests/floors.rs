//! Does every file of the library use only what stands below it? The floors are those of the
//! drawing in ARCHITECTURE.md.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: the floor's name, and what of `src/` is on it.
const FLOORS: &[(&str, &[&str])] = &[
    ("message", &["msg/", "error.rs", "report.rs"]),
    ("protocol", &["proto/"]),
    ("transport", &["transport/"]),
    ("channel", &["channel/"]),
    ("guest", &["guest/"]),
    ("actor", &["actor/"]),
    ("call", &["portal.rs", "context.rs", "context/", "stream.rs", "stream/", "broadcast.rs", "broadcast/"]),
    ("finding", &["discovery/"]),
    ("spawn", &["spawn/"]),
    ("nursery", &["nursery/"]),
    (AROUND, &["agent/", "asyncio/", "debug/", "pool/", "tasks/", "testing/", "__fuzz.rs"]),
];

/// Its members are neighbours: each uses the house, none needs another.
const AROUND: &str = "around";

/// What can be decided without waiting is decided here: no runtime, no files, no sockets, no clock.
const PURE: &[&str] = &["message", "protocol"];
const IMPURE: &[&[&str]] = &[&["tokio"], &["std", "net"], &["std", "fs"], &["Instant", "now"]];

#[test]
fn nothing_points_up() {
    let root = names_of_the_root();
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(home) = file.place else { continue }; // lib.rs stands above all
        for path in &file.paths {
            let Some(name) = path.name_at_the_root(file.depth) else {
                continue;
            };
            let taken_out = || root.get(name).and_then(|module| place_of(module));
            match place_of(name).or_else(taken_out) {
                Some(place) if allowed(home, place) => {}
                Some(_) => wrong.push(format!("{}:{} points up: {path}", file.name, path.line)),
                // `super::name` may be of a module inside the file.
                None if path.segments[0] == "super" => {}
                None => wrong.push(format!("{}:{}: lib.rs stands above all: {path}", file.name, path.line)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_decides_neither_waits_nor_looks_around() {
    let mut wrong = Vec::new();
    for file in sources() {
        let pure = file.place.is_some_and(|place| PURE.contains(&FLOORS[place.floor].0));
        for path in file.paths.iter().filter(|_| pure) {
            for impure in IMPURE.iter().filter(|impure| path.contains(impure)) {
                wrong.push(format!("{}:{} uses {}: {path}", file.name, path.line, impure.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_on_a_floor() {
    let mut there: Vec<String> = fs::read_dir(root().join("src")).expect("there is src").map(listed).collect();
    there.retain(|entry| entry != "lib.rs");
    there.sort();
    let mut wanted: Vec<&str> = FLOORS.iter().flat_map(|(_, entries)| *entries).copied().collect();
    wanted.sort_unstable();
    assert_eq!(there, wanted, "src/ is not what FLOORS lists");
}

#[test]
fn the_drawing_and_the_list_agree() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is ARCHITECTURE.md");
    let drawn: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("│ "))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|words| {
            words.into_iter().enumerate().filter(|&(n, word)| n == 0 || is_entry(word)).map(|(_, word)| word).collect()
        })
        .collect();
    let listed: Vec<Vec<&str>> = FLOORS.iter().rev().map(|(name, entries)| [&[*name], *entries].concat()).collect();
    assert_eq!(drawn, listed, "the drawing in ARCHITECTURE.md is not what FLOORS lists");
}

#[test]
fn the_reader_of_paths_reads_paths() {
    let check = |source: &str, wanted: &str| {
        let read: Vec<String> = paths(source).iter().map(ToString::to_string).collect();
        assert_eq!(read.join(" "), wanted, "{source}");
    };
    check("use crate::msg::frame::Frame;", "use crate::msg::frame::Frame");
    check("use crate::{proto, msg::{self, ident::*}};", "use crate::proto crate::msg::self crate::msg::ident::*");
    check("x.y::<T>()", "x y T");
    check("std::fs::read(p)? // tokio::x\n/* a /* b */ c */ z", "std::fs::read p z");
    check(r###"f("a\"b::c", r#"d"e"#, 'g', '\'', b"h") 'life"###, "f life");
    check("pub(in crate::actor) fn", "pub in crate::actor fn");
    check("#[cfg(test)]\nmod tests { use crate::nursery; }", "");
}

/// Where something stands: the floor's number from the ground, and the entry's on it.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    floor: usize,
    entry: usize,
}

fn allowed(home: Place, target: Place) -> bool {
    target.floor < home.floor || target == home || target.floor == home.floor && FLOORS[home.floor].0 != AROUND
}

fn place_of(module: &str) -> Option<Place> {
    FLOORS.iter().enumerate().find_map(|(floor, (_, entries))| {
        let entry = entries.iter().position(|entry| module_of(entry) == module)?;
        Some(Place { floor, entry })
    })
}

fn module_of(entry: &str) -> &str {
    entry.trim_end_matches('/').trim_end_matches(".rs")
}

fn is_entry(word: &str) -> bool {
    word.ends_with('/') || word.ends_with(".rs")
}

/// One file of the library, without its tests.
struct Source {
    name: String,
    place: Option<Place>,
    /// How many modules it lies below the root.
    depth: usize,
    paths: Vec<CodePath>,
}

fn sources() -> Vec<Source> {
    let folder = root().join("src");
    let files =
        walkdir::WalkDir::new(&folder).sort_by_file_name().into_iter().map(|entry| entry.expect("src can be read"));
    let files = files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"));
    files
        .filter(|entry| {
            !entry.path().components().any(|part| module_of(&part.as_os_str().to_string_lossy()) == "tests")
        })
        .map(|entry| {
            let inside = entry.path().strip_prefix(&folder).expect("it was found there");
            let mut modules: Vec<String> =
                inside.iter().map(|part| module_of(&part.to_string_lossy()).to_owned()).collect();
            modules.pop_if(|last| last == "mod");
            Source {
                name: inside.display().to_string(),
                place: modules.first().and_then(|module| place_of(module)),
                depth: modules.len(),
                paths: paths(&fs::read_to_string(entry.path()).expect("it can be read")),
            }
        })
        .collect()
}

/// What lib.rs takes out of its modules (`pub use portal::Portal`): the name, and the module.
fn names_of_the_root() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("there is lib.rs");
    let mut names = BTreeMap::new();
    for CodePath { mut segments, .. } in paths(&text) {
        segments.retain(|segment| segment != "crate" && segment != "self");
        if let [module, .., name] = segments.as_slice() {
            names.insert(name.clone(), module.clone());
        }
    }
    names
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn listed(entry: std::io::Result<fs::DirEntry>) -> String {
    let entry = entry.expect("src can be read");
    let name = entry.file_name().to_string_lossy().into_owned();
    if entry.path().is_dir() { format!("{name}/") } else { name }
}

/// `a::b::c`, wherever it stands in the code; a group is one path for each member.
struct CodePath {
    segments: Vec<String>,
    line: usize,
}

impl CodePath {
    /// The name in the crate's root with which it begins, if it goes there. `depth`: of the file.
    fn name_at_the_root(&self, depth: usize) -> Option<&str> {
        let ups = self.segments.iter().take_while(|segment| *segment == "super").count();
        let begin = if self.segments[0] == "crate" { 1 } else { ups };
        let reaches = self.segments[0] == "crate" || ups > 0 && ups >= depth;
        self.segments.get(begin).filter(|_| reaches).map(String::as_str)
    }

    fn contains(&self, part: &[&str]) -> bool {
        self.segments.windows(part.len()).any(|window| window == part)
    }
}

impl std::fmt::Display for CodePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

/// All paths of the code, without comments, strings, and the tests at a file's end.
fn paths(source: &str) -> Vec<CodePath> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_name(&tokens[at].text) {
            read_path(&tokens, &mut at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn read_path(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<CodePath>) {
    let mut segments = before.to_vec();
    let line = tokens[*at].line;
    loop {
        segments.push(tokens[*at].text.clone());
        *at += 1;
        let next = |ahead: usize| tokens.get(*at + ahead).map_or("", |token| token.text.as_str());
        if next(0) != "::" {
            break;
        }
        if next(1) == "{" {
            *at += 2;
            return read_group(tokens, at, &segments, found);
        }
        if !is_name(next(1)) && next(1) != "*" {
            break; // a turbofish
        }
        *at += 1;
    }
    found.push(CodePath { segments, line });
}

fn read_group(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<CodePath>) {
    while *at < tokens.len() && tokens[*at].text != "}" {
        match tokens[*at].text.as_str() {
            name if is_name(name) || name == "*" => read_path(tokens, at, before, found),
            _ => *at += 1,
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

struct Token {
    text: String,
    line: usize,
}

/// Names, `::`, and other characters one by one.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = match first {
            _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            _ if rest.starts_with("/*") => (comment_length(rest), false),
            '"' => (string_length(rest), false),
            '\'' => (quote_length(rest), false),
            _ if raw_string_length(rest) > 0 => (raw_string_length(rest), false),
            'b' if rest.starts_with("b\"") => (1, false),
            _ if rest.starts_with("::") => (2, true),
            _ if is_name(rest) => (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true),
            _ => (first.len_utf8(), !first.is_whitespace()),
        };
        let (text, tail) = rest.split_at(length);
        if is_token {
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += text.matches('\n').count();
        rest = tail;
    }
    tokens
}

fn comment_length(rest: &str) -> usize {
    let mut open = 0;
    for (at, _) in rest.char_indices() {
        if rest[at..].starts_with("/*") {
            open += 1;
        } else if rest[at..].starts_with("*/") {
            open -= 1;
            if open == 0 {
                return at + 2;
            }
        }
    }
    rest.len()
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            _ => escaped = character == '\\' && !escaped,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, with any number of hashes; 0: it is none.
fn raw_string_length(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br")) else {
        return 0;
    };
    let hashes = after.len() - after.trim_start_matches('#').len();
    if !after[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = rest.len() - after.len() + hashes + 1;
    rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
}

/// A character with its quotes, or the quote of a lifetime alone.
fn quote_length(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let after = at + escaped.len_utf8();
            rest[after..].find('\'').map_or(rest.len(), |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
