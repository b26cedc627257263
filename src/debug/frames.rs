//! What are the frames of a stack called?
use std::ffi::c_void;
use std::path::Path;

use super::message::Frame;

/// Frames of the deepest stack that is kept whole.
const MAX_FRAMES: usize = 256;

/// The stack of this thread, without names: some tens of microseconds.
pub(super) fn capture() -> Vec<usize> {
    let mut ips = Vec::with_capacity(MAX_FRAMES);
    backtrace::trace(|frame| {
        let ip = frame.ip() as usize;
        if ip != 0 {
            ips.push(ip);
        }
        ips.len() < MAX_FRAMES
    });
    ips
}

/// The same with names, inlined calls too. The first time a program does it, it reads its debug information: up to
/// a second.
pub(super) fn resolve(ips: &[usize]) -> Vec<Frame> {
    let mut frames = Vec::with_capacity(ips.len());
    for &ip in ips {
        let before = frames.len();
        // The address is that of the next instruction, which may be another line's.
        backtrace::resolve((ip - 1) as *mut c_void, |symbol| {
            let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
            let file = symbol.filename().map(|file| file.display().to_string());
            let is_users = is_users(&name, symbol.filename());
            frames.push(Frame {
                ip: ip as u64,
                name: plain(&name),
                file,
                line: symbol.lineno().unwrap_or(0),
                is_users,
            });
        });
        if frames.len() == before {
            frames.push(Frame { ip: ip as u64, name: format!("{ip:#x}"), file: None, line: 0, is_users: false });
        }
    }
    frames
}

/// Where this crate's own code lies.
pub(super) const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");

fn is_users(name: &str, file: Option<&Path>) -> bool {
    let Some(file) = file.and_then(Path::to_str) else { return false };
    let is_librarys =
        ["/rustc/", "/registry/src/", "/rustlib/", "/git/checkouts/"].iter().any(|part| file.contains(part));
    // A child boots in code of ours that its `main` was made of, and so does a closure that we call.
    // What `#[rpc]` writes around a function is nobody's, and neither is where a thread begins.
    let is_nobodys = name.contains("{async_block#")
        || name.contains("<impl teamster::") && name.contains("Endpoint for ")
        || name == "start_thread"
        || ["clone", "__libc_start", "_start"].iter().any(|beginning| name.starts_with(beginning));
    !is_librarys && !is_nobodys && !file.starts_with(OURS) && !name.starts_with("teamster::")
}

/// A function's name as its writer knows it: async functions are closures to the compiler.
fn plain(name: &str) -> String {
    let is_async = name.contains("::{{closure}}") || name.contains("::{closure#0}");
    let mut plain = name.replace("::{{closure}}", "");
    while let Some(start) = plain.find("::{closure#") {
        let end = plain[start + 2..].find('}').map_or(plain.len(), |end| start + 2 + end + 1);
        plain.replace_range(start..end, "");
    }
    // The macros put the body of an endpoint into a nameless constant.
    let plain = plain.replace("::_::", "::").replace("__teamster_body_", "");
    if is_async { format!("{plain} (async)") } else { plain }
}

/// `file:line:column`, taken apart.
pub(super) fn place(location: &str) -> Option<(&str, u32)> {
    let mut parts = location.rsplitn(3, ':');
    let (_column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    Some((file, line.parse().ok()?))
}

/// Which frame the one at the prompt wants to see first: that of the place that is told, else the first of the program's
/// own.
pub(super) fn first(frames: &[Frame], location: Option<&str>) -> usize {
    let told = location.and_then(|location| {
        let (file, line) = place(location)?;
        frames.iter().position(|frame| frame.line == line && frame.file.as_deref().is_some_and(|f| f.ends_with(file)))
    });
    told.or_else(|| frames.iter().position(|frame| frame.is_users)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_source() {
        assert_eq!(plain("shop::risky"), "shop::risky");
        assert_eq!(plain("shop::inner::{{closure}}"), "shop::inner (async)");
        assert_eq!(plain("shop::inner::{closure#0}::{closure#1}"), "shop::inner (async)");
        assert_eq!(plain("shop::_::__teamster_body_sell::{{closure}}"), "shop::sell (async)");
    }

    #[test]
    fn a_place_is_a_file_and_a_line() {
        assert_eq!(place("src/main.rs:6:111"), Some(("src/main.rs", 6)));
        assert_eq!(place("nowhere"), None);
    }

    #[inline(never)]
    fn here() -> Vec<Frame> {
        resolve(&capture())
    }

    #[test]
    fn a_stack_has_this_very_function() {
        let frames = here();
        assert!(frames.iter().any(|frame| frame.name.ends_with("frames::tests::here")), "{frames:?}");
        let at = first(&frames, Some("src/debug/frames.rs:1:1"));
        assert!(at < frames.len());
    }
}
