//! What is a stack worth saying of? The program's own functions, and the library's that they have called.
use std::collections::HashMap;
use std::ffi::c_void;

use super::places::Modules;
use super::symtab::Symtab;
use crate::debug::frames::OURS;

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
    symtab: Symtab,
    known: HashMap<usize, Vec<Symbol>>,
    folder: Option<String>,
}

impl Own {
    /// Reads the debug information, which takes most of the time the first time that a process does it.
    pub(crate) fn load() -> Self {
        backtrace::resolve((Own::load as fn() -> Own as usize) as *mut c_void, |_symbol| {});
        let folder = std::env::current_dir().ok().and_then(|folder| Some(format!("{}/", folder.to_str()?)));
        Own { modules: Modules::here(), symtab: Symtab::read(), known: HashMap::new(), folder }
    }

    fn look_up(&self, module: &str, offset: u64, address: usize) -> Vec<Symbol> {
        let mut symbols = Vec::new();
        // It looks up the byte before: a call's own, where the address is what it returns to.
        backtrace::resolve(address as *mut c_void, |symbol| {
            let Some(name) = symbol.name() else { return };
            let file = symbol.filename().map(|file| file.to_string_lossy());
            symbols.push(Symbol {
                name: whole(plain(&format!("{name:#}")), file.as_deref()),
                file: file.map(|file| relative(&file, self.folder.as_deref())),
                line: symbol.lineno().unwrap_or(0),
            });
        });
        // The others are inlined into it.
        if module.is_empty()
            && let Some(name) = self.symtab.at(offset.saturating_sub(1))
        {
            match symbols.last_mut() {
                Some(outermost) => outermost.name = plain(&name),
                None => symbols.push(Symbol { name: plain(&name), file: None, line: 0 }),
            }
        }
        symbols
    }
}

impl Symbols for Own {
    fn at(&mut self, module: &str, offset: u64) -> Vec<Symbol> {
        let Some(address) = self.modules.address(module, offset) else { return Vec::new() };
        if let Some(known) = self.known.get(&address) {
            return known.clone();
        }
        let symbols = self.look_up(module, offset, address);
        self.known.entry(address).or_insert(symbols).clone()
    }
}

/// As the compiler's own messages have it: below the folder that the program runs in, from there.
fn relative(file: &str, folder: Option<&str>) -> String {
    let short = folder.and_then(|folder| file.strip_prefix(folder));
    short.unwrap_or(file).to_owned()
}

/// The line tables of generic functions have short names. What module one of a library's is in, its file tells.
fn whole(name: String, file: Option<&str>) -> String {
    if name.contains("::") {
        return name;
    }
    let Some((crate_name, inside)) = file.and_then(crate_of) else { return name };
    let modules = inside.trim_end_matches(".rs").split('/').filter(|module| !matches!(*module, "mod" | "lib"));
    let mut whole = crate_name.replace('-', "_");
    for part in modules.chain([name.as_str()]).filter(|part| !part.is_empty()) {
        whole.push_str("::");
        whole.push_str(part);
    }
    whole
}

/// The library that a file is of, and where it lies in that one.
fn crate_of(file: &str) -> Option<(&str, &str)> {
    if let Some(inside) = file.strip_prefix(OURS) {
        return Some(("teamster", inside));
    }
    let (crate_and_version, inside) = match file.split_once("/registry/src/") {
        Some((_, in_registry)) => in_registry.split_once('/')?.1.split_once("/src/")?,
        None if file.starts_with("/rustc/") || file.contains("/rustlib/") => {
            file.split_once("/library/")?.1.split_once("/src/")?
        }
        None => return None,
    };
    let name =
        crate_and_version.rsplit_once('-').filter(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()));
    Some((name.map_or(crate_and_version, |(name, _)| name), inside))
}

/// A function's name without what the compiler has added: types in place of generics, closures, and traits.
pub(crate) fn plain(name: &str) -> String {
    if name.contains("teamster::actor::endpoint::") && name.contains("::invoke") {
        return "teamster::actor::endpoint::invoke".to_owned(); // what `#[rpc]` has made
    }
    let named = without_generics(&of_its_type(name));
    // Closures and async blocks, and what `#[rpc]` makes of an endpoint: a function in a nameless constant.
    let parts = named.split("::").filter(|part| !part.is_empty() && !part.starts_with('{') && *part != "_");
    let parts: Vec<&str> = parts.map(|part| part.strip_prefix("__teamster_body_").unwrap_or(part)).collect();
    let plain = parts.join("::");
    let public = PUBLIC.iter().find_map(|(inside, outside)| Some(format!("{outside}{}", plain.strip_prefix(inside)?)));
    public.unwrap_or(plain)
}

/// Where users know what of ours from.
const PUBLIC: &[(&str, &str)] = &[
    ("teamster::actor::scope::cancelled", "teamster::cancelled"),
    ("teamster::actor::scope::deadline", "teamster::deadline"),
    ("teamster::actor::scope::shield", "teamster::shield"),
    ("teamster::broadcast::", "teamster::"),
    ("teamster::context::opener::", "teamster::"),
    ("teamster::context::handle::", "teamster::"),
    ("teamster::context::", "teamster::"),
    ("teamster::nursery::builder::", "teamster::"),
    ("teamster::nursery::one_shot::", "teamster::"),
    ("teamster::nursery::root::", "teamster::"),
    ("teamster::nursery::scope::", "teamster::"),
    ("teamster::portal::", "teamster::"),
    ("teamster::stream::", "teamster::"),
    ("teamster::tasks::cancel_scope::", "teamster::tasks::"),
    ("teamster::tasks::nursery::", "teamster::tasks::"),
    ("teamster::tasks::topics::", "teamster::tasks::"),
];

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
            return format!(
                "{}{}",
                of_its_type(of.trim_start_matches('&').trim_start_matches("mut ")),
                &rest[at + 1..]
            );
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
    plain
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
    let crate_name = name.split("::").next().unwrap_or_default();
    let is_librarys = match &symbol.file {
        _ if LIBRARIES.contains(&crate_name) => true,
        // A macro of a library's, in code of the program's.
        Some(file) if crate_of(file).is_some_and(|(of, _)| of.replace('-', "_") != crate_name) => {
            return Whose::Machinery;
        }
        Some(file) => {
            ["/rustc/", "/registry/src/", "/rustlib/", "/git/checkouts/"].iter().any(|part| file.contains(part))
                || !file.ends_with(".rs")
        }
        // A function of C, or `main`'s shim.
        None => !name.contains("::"),
    };
    match is_librarys {
        false => Whose::Users,
        true if name == "main" || MACHINERY.iter().any(|machinery| name.starts_with(machinery)) => Whose::Machinery,
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
    /// It is in the program's own code.
    Busy {
        /// What of a library's that has called.
        called: Option<String>,
        /// Its functions with their places, from the inside out.
        frames: Vec<String>,
    },
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
    Doing::Busy { called: called.map(|symbol| symbol.name.clone()), frames }
}

fn parks(name: &str) -> bool {
    // A harness's own thread waits for the one that runs the test.
    if name.starts_with("test::") {
        return true;
    }
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
            ("dumps::_::__teamster_body_block::{{closure}}", "dumps::block"),
            ("teamster::portal::Portal::run::{{closure}}", "teamster::Portal::run"),
            ("teamster::actor::scope::shield", "teamster::shield"),
            ("{closure#1}<teamster::spawn::launch::Message>", ""),
            (
                "core::ops::function::FnOnce::call_once{{vtable.shim}}",
                "core::ops::function::FnOnce::call_once{{vtable.shim}}",
            ),
        ];
        for (name, wanted) in cases {
            assert_eq!(plain(name), wanted);
        }
    }

    #[test]
    fn a_short_name_of_a_librarys_gets_its_modules() {
        let check = |name: &str, file: &str, wanted: &str| assert_eq!(whole(name.into(), Some(file)), wanted);
        check("lock", "/rustc/5980/library/std/src/sync/poison/mutex.rs", "std::sync::poison::mutex::lock");
        check("poll", "/c/registry/src/index.crates.io-1/tokio-util-0.7.1/src/task/mod.rs", "tokio_util::task::poll");
        check("", "/c/registry/src/index.crates.io-1/tokio-1.54.1/src/lib.rs", "tokio");
        check("noting", &format!("{OURS}actor/traces/on.rs"), "teamster::actor::traces::on::noting");
        check("serve", "/home/user/shop/src/main.rs", "serve");
        check("a::b", "/rustc/5980/library/std/src/sync/poison/mutex.rs", "a::b");
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
        assert_eq!(
            doing(&[library("epoll_wait"), library("teamster::actor::control::thread::Thread::run")]),
            Doing::Idle
        );
        let blocked = [
            library("clock_nanosleep"),
            library("std::thread::sleep"),
            user("shop::hangs", 60),
            library("teamster::actor::scope::Scoped::poll"),
            library("tokio::runtime::task::raw::poll"),
            main,
        ];
        let called = Some("std::thread::sleep".into());
        let frames = vec!["shop::hangs at src/main.rs:60".into()];
        assert_eq!(doing(&blocked), Doing::Busy { called, frames });
    }
}
