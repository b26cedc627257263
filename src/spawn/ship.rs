//! How does this executable come to a host that does not have it?
//!
//! By a script that the shell over there runs: it looks into a cache, says what it needs, takes that from its stdin, and
//! becomes the keeper of an actor. Nothing is sent before it is asked for: so nothing is read ahead by a program that the
//! script starts.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::actor::build::build_id;
use crate::actor::keeper::KEEP;

/// What the script says when the executable is not there, with that machine's system and architecture behind it.
pub(crate) const NEEDS: &str = "teamster needs ";

/// The answer to that: so many bytes follow.
pub(crate) const SHIP: &[u8] = b"ship\n";

/// The other answer: somebody else has sent it, look again.
pub(crate) const LOOK: &[u8] = b"look\n";

/// Bytes that are sent between two words that it goes on.
const CHUNK_BYTES: usize = 1 << 20;

/// What a login shell is given to run, with the arguments of the executable behind it, each [`quoted`]. The part for a POSIX
/// shell has no single quote in it, as it stands between two.
pub(super) fn script() -> String {
    let (key, bytes) = (key(), size().unwrap_or(0));
    let steps = [
        r#"d="${XDG_CACHE_HOME:-$HOME/.cache}/teamster""#.to_owned(),
        format!(r#"f="$d/{key}""#),
        // After a power cut, a file may be there and not all of it.
        format!(r#"is_there() {{ [ -x "$f" ] && [ "$(wc -c < "$f")" -eq {bytes} ]; }}"#),
        format!(r#"until is_there; do printf "\n%s\n" "{NEEDS}$(uname -s -m)""#),
        r#"read -r answer || exit 75"#.to_owned(),
        r#"[ "$answer" = ship ] || continue"#.to_owned(),
        r#"t="$f.$(uname -n).$$""#.to_owned(),
        format!(
            r#"if (umask 077; mkdir -p "$d" && head -c {bytes} > "$t") && [ "$(wc -c < "$t")" -eq {bytes} ] && chmod 700 "$t" && mv "$t" "$f""#
        ),
        r#"then is_there || { echo "teamster: a program in $d can not be run: is it mounted noexec?" >&2"#.to_owned(),
        r#"exit 74; }"#.to_owned(),
        r#"else rm -f "$t""#.to_owned(),
        r#"echo "teamster: the executable can not be put into $d" >&2"#.to_owned(),
        r#"exit 74"#.to_owned(),
        r#"fi"#.to_owned(),
        r#"find "$d" -type f -atime +30 -exec rm -f {} + 2> /dev/null"#.to_owned(),
        r#"done"#.to_owned(),
        format!("export TEAMSTER_BOOT={KEEP}"),
        r#"exec "$f" "$@""#.to_owned(),
    ];
    // A login shell of another kind starts one that knows this language. Some know no line break within quotes.
    format!("exec sh -c '{}' teamster", steps.join("; "))
}

/// A word as shells take it for one: those of POSIX and fish, and csh where it has no line break and no `!`.
pub(super) fn quoted(word: &OsStr) -> OsString {
    let mut quoted = b"'".to_vec();
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            b'\\' => quoted.extend_from_slice(b"'\\\\'"), // between quotes, fish takes it for more than itself
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// What this executable is called over there: its build id, and its size, as it may have been stripped since. Where the
/// linker has left no build id, it is the hash of the whole.
pub(super) fn key() -> String {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = || match build_id() {
        [] => hash().map(|hash| hex(&hash)).unwrap_or_default(),
        id => format!("{}-{}", hex(id), size().unwrap_or(0)),
    };
    KEY.get_or_init(key).clone()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash() -> io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(EXECUTABLE)?, &mut hasher)?;
    Ok(hasher.finalize().to_vec())
}

pub(super) fn size() -> io::Result<u64> {
    Ok(std::fs::metadata(EXECUTABLE)?.len())
}

/// This executable, also when its file was deleted or replaced meanwhile.
const EXECUTABLE: &str = "/proc/self/exe";

/// Sends it. `goes_on` is called as it does.
pub(super) fn ship(to: &mut impl Write, mut goes_on: impl FnMut()) -> io::Result<()> {
    let mut executable = File::open(EXECUTABLE)?;
    to.write_all(SHIP)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match executable.read(&mut chunk)? {
            0 => return Ok(()),
            count => to.write_all(&chunk[..count])?,
        }
        goes_on();
    }
}

/// Why that machine can't run this executable. `what`: as `uname -s -m` prints it there.
pub(super) fn cannot_run_on(what: &str) -> Option<String> {
    let here = rustix::system::uname();
    let here = format!("{} {}", here.sysname().to_string_lossy(), here.machine().to_string_lossy());
    let differs = what.trim() != here;
    differs.then(|| {
        format!("that host is {}, and this program runs on {here}: start one that was built for it there", what.trim())
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_for_one() {
        for word in ["", "a b", "it's", "$HOME `id` \"x\" \\", "-n", "*", "a\nb", "''"] {
            let mut line = OsString::from("printf %s ");
            line.push(quoted(OsStr::new(word)));
            for shell in ["sh", "bash", "dash", "fish", "zsh"] {
                let Ok(said) = Command::new(shell).arg("-c").arg(&line).output() else { continue };
                assert_eq!(String::from_utf8(said.stdout).unwrap(), word, "{shell}: {line:?}");
            }
        }
    }

    #[test]
    fn the_script_has_no_quote_of_its_own() {
        assert_eq!((script().matches('\'').count(), script().lines().count()), (2, 1));
    }

    #[test]
    fn another_machine_is_one_of_another_kind() {
        let here = rustix::system::uname();
        let here = format!("{} {}", here.sysname().to_string_lossy(), here.machine().to_string_lossy());
        assert_eq!(cannot_run_on(&here), None);
        assert!(cannot_run_on("Linux m68k").unwrap().contains("Linux m68k"));
    }
}
