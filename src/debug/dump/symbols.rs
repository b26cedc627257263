//! What is a stack worth saying of? The program's own functions, and the library's that they have called.
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;

use super::places::Modules;

/// A function that is in the middle of its work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// As its writer knows it.
    pub(crate) name: String,
    pub(crate) file: Option<String>,
    pub(crate) line: u32,
}

/// Who knows what is at a place: a function, and those that were inlined into it, the innermost first.
pub(crate) trait Symbols {
    fn at(&mut self, module: &str, offset: u64) -> Vec<Symbol>;
}

/// What this process knows of its own code, and so of every other process of the same program.
pub(crate) struct Own {
    modules: Modules,
    known: HashMap<usize, Vec<Symbol>>,
    folder: Option<String>,
}

impl Own {
    pub(crate) fn new() -> Self {
        let folder = std::env::current_dir().ok().and_then(|folder| Some(format!("{}/", folder.to_str()?)));
        Own { modules: Modules::here(), known: HashMap::new(), folder }
    }

    /// Reads the debug information, which takes most of the time the first time that a process does it.
    pub(crate) fn load() {
        backtrace::resolve((Own::load as fn() as usize) as *mut c_void, |_symbol| {});
    }
}

impl Symbols for Own {
    fn at(&mut self, module: &str, offset: u64) -> Vec<Symbol> {
        let Some(address) = self.modules.address(module, offset) else { return Vec::new() };
        let folder = self.folder.as_deref();
        let known = self.known.entry(address).or_insert_with(|| {
            let mut symbols = Vec::new();
            // It looks up the byte before: a call's own, where the address is what it returns to.
            backtrace::resolve(address as *mut c_void, |symbol| {
                let Some(name) = symbol.name() else { return };
                symbols.push(Symbol {
                    name: plain(&format!("{name:#}")),
                    file: symbol.filename().map(|file| relative(file, folder)),
                    line: symbol.lineno().unwrap_or(0),
                });
            });
            symbols
        });
        known.clone()
    }
}

/// As the compiler's own messages have it: below the folder that the program runs in, from there.
fn relative(file: &Path, folder: Option<&str>) -> String {
    let file = file.to_string_lossy();
    let short = folder.and_then(|folder| file.strip_prefix(folder));
    short.unwrap_or(&file).to_owned()
}

/// A function's name without what the compiler has added: types in place of generics, closures, and traits.
pub(crate) fn plain(name: &str) -> String {
    let mut plain = of_its_type(name);
    for part in ["::{{closure}}", "::{{constructor}}"] {
        plain = plain.replace(part, "");
    }
    while let Some(start) = plain.find("::{closure#") {
        let end = plain[start + 2..].find('}').map_or(plain.len(), |end| start + 2 + end + 1);
        plain.replace_range(start..end, "");
    }
    // What `#[rpc]` makes of an endpoint is a function in a nameless constant.
    without_generics(&plain).replace("::_::body", "").replace("::_::", "::")
}

/// `<T as Trait>::method` is a method of `T`.
fn of_its_type(name: &str) -> String {
    let Some(rest) = name.strip_prefix('<') else { return name.to_owned() };
    let mut depth = 1usize;
    let mut end_of_type = None;
    for (at, character) in rest.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if !rest[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 1 && end_of_type.is_none() && rest[at..].starts_with(" as ") {
            end_of_type = Some(at);
        }
        if depth == 0 {
            let of = &rest[..end_of_type.unwrap_or(at)];
            return format!("{}{}", of_its_type(of.trim_start_matches('&').trim_start_matches("mut ")), &rest[at + 1..]);
        }
    }
    name.to_owned()
}

fn without_generics(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut depth = 0usize;
    let mut before = ' ';
    for character in name.chars() {
        match character {
            '<' => depth += 1,
            '>' if before != '-' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(character),
            _ => {}
        }
        before = character;
    }
    while plain.contains("::::") {
        plain = plain.replace("::::", "::"); // of a turbofish
    }
    plain.trim_end_matches("::").to_owned()
}

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Users,
    Librarys,
    /// Of a library's, and of no interest to who calls it.
    Machinery,
}

/// Crates of which every program that is an actor is made.
const LIBRARIES: &[&str] = &[
    "std",
    "core",
    "alloc",
    "tokio",
    "tokio_util",
    "tokio_stream",
    "teamster",
    "futures",
    "futures_util",
    "futures_core",
    "futures_channel",
    "futures_executor",
    "mio",
    "backtrace",
    "parking_lot",
    "parking_lot_core",
    "lock_api",
    "test",
    "tracing",
    "rustix",
];

const MACHINERY: &[&str] = &[
    "core::",
    "alloc::",
    "backtrace::",
    "std::panic",
    "std::rt",
    "std::sys::backtrace",
    "std::thread::local",
    "std::thread::lifecycle",
    "std::thread::Builder",
    "std::thread::functions::Builder",
    "tokio::future",
    "tokio::loom",
    "tokio::macros",
    "tokio::runtime",
    "tokio::sync::task",
    "tokio::task::coop",
    "tokio::util",
    "tokio_util::task",
    "futures_core",
    "futures_util::stream::stream",
    "futures_util::future::",
    "mio::",
    "test::",
    "teamster::actor::",
    "teamster::channel::link",
    "teamster::report",
    "teamster::testing",
];

fn whose(symbol: &Symbol) -> Whose {
    let name = symbol.name.as_str();
    let Some((crate_name, _)) = name.split_once("::") else {
        // A function of C, or `main`'s shim.
        return if name == "main" { Whose::Machinery } else { Whose::Librarys };
    };
    let is_library = LIBRARIES.contains(&crate_name)
        || symbol.file.as_deref().is_some_and(|file| {
            ["/rustc/", "/registry/src/", "/rustlib/", "/git/checkouts/"].iter().any(|part| file.contains(part))
        });
    match is_library {
        false => Whose::Users,
        true if MACHINERY.iter().any(|machinery| name.starts_with(machinery)) => Whose::Machinery,
        true => Whose::Librarys,
    }
}

/// Where a task waits, from the outside in: the program's functions with their places, and what they call of
/// libraries. Of those the first, which is what was called, and of the last ones the future that waits.
pub(crate) fn leaf(stack: &[Symbol]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut last_users: Option<usize> = None;
    let mut librarys: Vec<&str> = Vec::new();
    for symbol in stack.iter().rev() {
        match whose(symbol) {
            Whose::Users => {
                if let (Some(_), Some(called)) = (last_users, librarys.first()) {
                    parts.push((*called).to_owned());
                }
                librarys.clear();
                let part = placed(symbol);
                match last_users {
                    // The closures of one function: the innermost line tells most.
                    Some(last) if last + 1 == parts.len() && is_same(&parts[last], symbol) => parts[last] = part,
                    _ => {
                        parts.push(part);
                        last_users = Some(parts.len() - 1);
                    }
                }
            }
            Whose::Librarys => librarys.push(&symbol.name),
            Whose::Machinery => {}
        }
    }
    if let Some(first) = librarys.first() {
        parts.push((*first).to_owned());
        let waits = librarys.iter().rev().find(|name| name.ends_with("::poll"));
        if let Some(waits) = waits.filter(|waits| *waits != first && !first.starts_with("teamster::")) {
            parts.push((*waits).to_owned());
        }
    }
    parts.join(" > ")
}

fn is_same(part: &str, symbol: &Symbol) -> bool {
    part.strip_prefix(symbol.name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(" at "))
}

fn placed(symbol: &Symbol) -> String {
    match &symbol.file {
        Some(file) => format!("{} at {file}:{}", symbol.name, symbol.line),
        None => symbol.name.clone(),
    }
}

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It waits for work, as threads of runtimes do, or does something of a library's that nobody asked for.
    Idle,
    /// It is in the program's own code: from the inside out.
    Busy(Vec<String>),
}

/// Frames of a thread's stack that are shown.
const SHOWN_FRAMES: usize = 30;

pub(crate) fn doing(stack: &[Symbol]) -> Doing {
    let Some(users) = stack.iter().position(|symbol| whose(symbol) == Whose::Users) else { return Doing::Idle };
    // In front of all that is the program's, a runtime parks its thread.
    if stack[..users].iter().any(|symbol| parks(&symbol.name)) {
        return Doing::Idle;
    }
    let mut frames: Vec<String> = Vec::new();
    let called = stack[..users].iter().rev().find(|symbol| whose(symbol) == Whose::Librarys);
    frames.extend(called.map(|symbol| symbol.name.clone()));
    for symbol in &stack[users..] {
        if symbol.name.starts_with("tokio::runtime::") {
            break; // who polls it
        }
        if whose(symbol) == Whose::Users {
            let frame = placed(symbol);
            // An async function and its closure are one.
            if frames.last().is_none_or(|last| !is_same(last, symbol)) && frames.len() < SHOWN_FRAMES {
                frames.push(frame);
            }
        }
    }
    Doing::Busy(frames)
}

fn parks(name: &str) -> bool {
    let is_tokios = name.starts_with("tokio::runtime::") || name.starts_with("mio::");
    is_tokios && (name.contains("park") || name.contains("Poll::poll") || name.contains("::blocking::pool::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        let cases = [
            ("shop::risky", "shop::risky"),
            ("shop::inner::{{closure}}", "shop::inner"),
            ("shop::inner::{closure#0}::{closure#1}", "shop::inner"),
            ("<tokio::time::sleep::Sleep as core::future::future::Future>::poll", "tokio::time::sleep::Sleep::poll"),
            ("tokio::sync::mutex::Mutex<T>::lock::{{closure}}", "tokio::sync::mutex::Mutex::lock"),
            ("<tokio::sync::mutex::Mutex<u32>>::lock::{closure#0}", "tokio::sync::mutex::Mutex::lock"),
            ("<&mut F as core::future::future::Future>::poll", "F::poll"),
            ("<shop::Waits<fn() -> u32> as Future>::poll", "shop::Waits::poll"),
            ("core::ops::function::FnOnce::call_once", "core::ops::function::FnOnce::call_once"),
            ("alloc::vec::Vec::<u8>::push", "alloc::vec::Vec::push"),
            ("dumps::block::_::body::{{closure}}", "dumps::block"),
        ];
        for (name, wanted) in cases {
            assert_eq!(plain(name), wanted);
        }
    }

    fn user(name: &str, line: u32) -> Symbol {
        Symbol { name: name.into(), file: Some("src/main.rs".into()), line }
    }

    fn library(name: &str) -> Symbol {
        Symbol { name: name.into(), file: None, line: 0 }
    }

    #[test]
    fn a_leaf_is_the_users_functions_and_what_they_call() {
        let stack = [
            library("backtrace::backtrace::trace"),
            library("teamster::actor::traces::on::Noting::note"),
            library("core::task::wake::Waker::clone"),
            library("tokio::sync::task::atomic_waker::AtomicWaker::register"),
            library("tokio::sync::batch_semaphore::Acquire::poll"),
            library("tokio::sync::mutex::Mutex::acquire"),
            library("tokio::sync::mutex::Mutex::lock"),
            user("shop::leaf", 60),
            user("shop::leaf", 59),
            library("core::future::poll_fn::PollFn::poll"),
            library("tokio::time::timeout::Timeout::poll"),
            user("shop::mid", 61),
            library("teamster::actor::scope::Scoped::poll"),
            library("teamster::actor::traces::on::noting"),
        ];
        let wanted = "shop::mid at src/main.rs:61 > tokio::time::timeout::Timeout::poll > \
                      shop::leaf at src/main.rs:60 > tokio::sync::mutex::Mutex::lock > \
                      tokio::sync::batch_semaphore::Acquire::poll";
        assert_eq!(leaf(&stack), wanted);
    }

    #[test]
    fn a_thread_is_idle_where_its_runtime_parks_it() {
        let main = user("shop::main", 9);
        let parked = [library("epoll_wait"), library("mio::poll::Poll::poll"), main.clone()];
        assert_eq!(doing(&parked), Doing::Idle);
        assert_eq!(doing(&[library("epoll_wait"), library("teamster::actor::control::thread::Thread::run")]), Doing::Idle);
        let blocked = [
            library("clock_nanosleep"),
            library("std::thread::sleep"),
            user("shop::hangs", 60),
            library("teamster::actor::scope::Scoped::poll"),
            library("tokio::runtime::task::raw::poll"),
            main,
        ];
        let wanted = ["std::thread::sleep", "shop::hangs at src/main.rs:60"].map(String::from);
        assert_eq!(doing(&blocked), Doing::Busy(wanted.into()));
    }
}
