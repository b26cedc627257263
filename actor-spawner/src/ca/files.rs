//! How is a file of an authority or an identity written? Whole or not at all.
use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use pem::Pem;

use super::shown;

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Readers {
    Owner,
    All,
}

/// What becomes of a file that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Existing {
    Replace,
    Keep,
}

/// Writes a file that is either as before or as it is to be, also after a power cut.
pub(crate) fn write(path: &Path, text: &str, readers: Readers, existing: Existing) -> anyhow::Result<()> {
    let failed = || format!("writing {}", shown(path));
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let mut file =
        tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    match existing {
        Existing::Replace => drop(file.persist(path).with_context(failed)?),
        Existing::Keep => drop(file.persist_noclobber(path).with_context(failed)?),
    }
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(failed)
}

/// Makes a folder that nobody else enters, and those above it, as far as they are missing.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("making {}", shown(path)))
}

/// The DER of what a file has of one kind. One that is not there has nothing.
pub(crate) fn read(path: &Path, kind: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("reading {}", shown(path)))?,
    };
    let all = pem::parse_many(text).with_context(|| format!("{} is not PEM", shown(path)))?;
    Ok(all.into_iter().filter(|one| one.tag() == kind).map(Pem::into_contents).collect())
}

/// The text of such a file.
pub(crate) fn text<'d>(all: impl IntoIterator<Item = &'d [u8]>, kind: &str) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    all.into_iter().map(|der| pem::encode_config(&Pem::new(kind, der), config)).collect()
}

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const LIST: &str = "X509 CRL";
