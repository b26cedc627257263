//! What does an identity folder hold, and may a tree go by it?
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

/// The certificates of the authorities that its tree believes.
const AUTHORITIES: &str = "authorities.pem";
/// Its own certificate, which signs those of its tree's actors.
const CERTIFICATE: &str = "identity.pem";
const KEY: &str = "identity.key";
/// What those authorities have revoked. It may be missing.
const REVOKED: &str = "revoked.pem";
const FILES: [&str; 4] = [AUTHORITIES, CERTIFICATE, KEY, REVOKED];

/// Bytes of all certificates and lists of an identity, which go to each actor with its boot message. More is an error.
const MAX_BYTES: usize = 32 * 1024;
/// Bytes of one file of the folder: PEM is longer than what it holds, and people write lines around it.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The name that an identity's certificate is made for, and with it those of its tree's actors.
pub(super) fn identity_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

const SUFFIX: &str = ".identity.teamster";

/// An identity, as its folder held it.
pub(super) struct Held {
    pub(super) name: String,
    pub(super) certificate: Bytes,
    pub(super) key: KeyPair,
    pub(super) authorities: Vec<Bytes>,
    pub(super) revoked: Vec<Bytes>,
    pub(super) begins: ASN1Time,
    pub(super) ends: ASN1Time,
    /// When the first of its lists of what was revoked should have been replaced.
    pub(super) lists_due: Option<ASN1Time>,
}

/// Why a tree can't go by the identity in a folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("there is no folder {}: `teamster ca issue NAME --to {}` makes it", .0.display(), .0.display())]
    NoFolder(PathBuf),
    #[error("{} is missing: `teamster ca issue` writes a whole identity folder, copy all of it", .0.display())]
    Missing(PathBuf),
    #[error("{}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("others may read {}, which is a secret (mode {mode:04o}): chmod 600 {}", .path.display(), .path.display())]
    OpenKey { path: PathBuf, mode: u32 },
    #[error("{} holds no {what} that can be read ({reason}): write it anew with `teamster ca`", .path.display())]
    Garbled { path: PathBuf, what: &'static str, reason: String },
    #[error(
        "{} can't sign for a tree's actors, it is no identity's certificate: `teamster ca issue` makes one",
        .0.display()
    )]
    NotAnIdentity(PathBuf),
    #[error(
        "{} and {} don't belong together: copy both from one `teamster ca issue`",
        .0.join(CERTIFICATE).display(), .0.join(KEY).display()
    )]
    OtherKey(PathBuf),
    #[error(
        "none of {} has issued {}: `teamster ca update` adds its authority",
        .0.join(AUTHORITIES).display(), .0.join(CERTIFICATE).display()
    )]
    Unbelieved(PathBuf),
    #[error("{} is valid from {begins} on: look at this machine's clock", .path.display())]
    NotYet { path: PathBuf, begins: ASN1Time },
    #[error(
        "{} has expired on {ended}: `teamster ca issue NAME --renew --to {}` makes a new one",
        .folder.join(CERTIFICATE).display(), .folder.display()
    )]
    Expired { folder: PathBuf, ended: ASN1Time },
    #[error("{} was revoked on {at}: `teamster ca issue` makes a new one", .path.display())]
    Revoked { path: PathBuf, at: ASN1Time },
    #[error("a list in {} was not signed by the authority that it names: `teamster ca update` replaces it", .0.display())]
    Forged(PathBuf),
    #[error(
        "{} holds {bytes} bytes of certificates and lists, of at most {MAX_BYTES}: take authorities that are not used any \
         more out of {AUTHORITIES} and {REVOKED}",
        .path.display()
    )]
    TooLong { path: PathBuf, bytes: usize },
}

/// Reads the folder, and makes sure of it as far as others will.
pub(super) fn read(folder: &Path) -> Result<Held, IdentityError> {
    match std::fs::metadata(folder) {
        Ok(there) if there.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(IdentityError::Unreadable { path: folder.to_owned(), error });
        }
        Ok(_) | Err(_) => return Err(IdentityError::NoFolder(folder.to_owned())),
    }
    let authorities = pem::<CertificateDer<'_>>(folder, AUTHORITIES, "certificate")?;
    let own = pem::<CertificateDer<'_>>(folder, CERTIFICATE, "certificate")?.swap_remove(0);
    let key = key(folder)?;
    let lists = match pem::<CertificateRevocationListDer<'_>>(folder, REVOKED, "list of revoked certificates") {
        Err(IdentityError::Missing(_)) => Vec::new(),
        lists => lists?,
    };
    let certificate = parsed(&folder.join(CERTIFICATE), &own)?;
    let name = name(&certificate).ok_or_else(|| IdentityError::NotAnIdentity(folder.join(CERTIFICATE)))?;
    if !certificate.is_ca() {
        return Err(IdentityError::NotAnIdentity(folder.join(CERTIFICATE)));
    }
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(IdentityError::OtherKey(folder.to_owned()));
    }
    let parsed: Vec<X509Certificate<'_>> =
        authorities.iter().map(|der| parsed(&folder.join(AUTHORITIES), der)).collect::<Result<_, _>>()?;
    let has_issued = |authority: &&X509Certificate<'_>| {
        authority.subject().as_raw() == certificate.issuer().as_raw()
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
    };
    if !parsed.iter().any(|authority| has_issued(&authority)) {
        return Err(IdentityError::Unbelieved(folder.to_owned()));
    }
    let (now, validity) = (ASN1Time::now(), certificate.validity());
    if now < validity.not_before {
        return Err(IdentityError::NotYet { path: folder.join(CERTIFICATE), begins: validity.not_before });
    }
    if now > validity.not_after {
        return Err(IdentityError::Expired { folder: folder.to_owned(), ended: validity.not_after });
    }
    let (mut revoked, mut lists_due) = (Vec::new(), None);
    for der in &lists {
        let path = folder.join(REVOKED);
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| IdentityError::Garbled {
            path: path.clone(),
            what: "list of revoked certificates",
            reason: error.to_string(),
        })?;
        // One of an authority that is not believed any more says nothing.
        let Some(signer) = parsed.iter().find(|one| one.subject().as_raw() == list.issuer().as_raw()) else { continue };
        list.verify_signature(signer.public_key()).map_err(|_| IdentityError::Forged(path))?;
        let own = list.iter_revoked_certificates().find(|entry| entry.raw_serial() == certificate.raw_serial());
        if let Some(entry) = own.filter(|_| has_issued(&signer)) {
            return Err(IdentityError::Revoked { path: folder.join(CERTIFICATE), at: entry.revocation_date });
        }
        lists_due = lists_due.into_iter().chain(list.next_update()).min();
        revoked.push(Bytes::copy_from_slice(der));
    }
    let (begins, ends) = (validity.not_before, validity.not_after);
    let authorities: Vec<Bytes> = authorities.iter().map(|der| Bytes::copy_from_slice(der)).collect();
    let certificate = Bytes::copy_from_slice(&own);
    let bytes = authorities.iter().chain(&revoked).chain([&certificate]).map(Bytes::len).sum();
    if bytes > MAX_BYTES {
        return Err(IdentityError::TooLong { path: folder.to_owned(), bytes });
    }
    Ok(Held { name, certificate, key, authorities, revoked, begins, ends, lists_due })
}

/// What a file says of authorities: their certificates, one at least, and their lists of what they have revoked.
pub(super) fn allowed(file: &Path) -> Result<(Vec<Bytes>, Vec<Bytes>), IdentityError> {
    let text = contents(file)?;
    let garbled = |what: &'static str, reason: String| IdentityError::Garbled { path: file.to_owned(), what, reason };
    let authorities = CertificateDer::pem_slice_iter(&text).map(|der| {
        let der = der.map_err(|error| garbled("certificate", why_no_pem(&error)))?;
        parsed(file, &der)?;
        Ok(Bytes::copy_from_slice(&der))
    });
    let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
    if authorities.is_empty() {
        return Err(garbled("certificate", "it has none".to_owned()));
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&text).map(|der| match der {
        Ok(der) => Ok(Bytes::copy_from_slice(&der)),
        Err(error) => Err(garbled("list of revoked certificates", why_no_pem(&error))),
    });
    Ok((authorities, lists.collect::<Result<_, _>>()?))
}

/// What of a folder changes when one of its files is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([Option<(u64, u64, i64, i64)>; FILES.len()]);

pub(super) fn stamp(folder: &Path) -> Stamp {
    Stamp(FILES.map(|file| {
        let there = std::fs::metadata(folder.join(file)).ok()?;
        Some((there.ino(), there.size(), there.mtime(), there.mtime_nsec()))
    }))
}

/// What of one kind a file holds: one at least.
fn pem<T: PemObject>(folder: &Path, file: &str, what: &'static str) -> Result<Vec<T>, IdentityError> {
    let path = folder.join(file);
    let text = contents(&path)?;
    let garbled = |reason: String| IdentityError::Garbled { path: path.clone(), what, reason };
    let all: Vec<T> =
        T::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| garbled(why_no_pem(&error)))?;
    match all.is_empty() {
        true => Err(garbled("it has none".to_owned())),
        false => Ok(all),
    }
}

/// By itself, this error prints lines as lists of numbers.
fn why_no_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it ends in the middle".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "one of its sections has no proper beginning".to_owned(),
        error => error.to_string(),
    }
}

fn key(folder: &Path) -> Result<KeyPair, IdentityError> {
    let path = folder.join(KEY);
    if let Ok(there) = std::fs::metadata(&path)
        && there.permissions().mode() & 0o077 != 0
    {
        return Err(IdentityError::OpenKey { mode: there.permissions().mode() & 0o7777, path });
    }
    let der = pem::<PrivateKeyDer<'_>>(folder, KEY, "private key")?.swap_remove(0);
    KeyPair::try_from(&der).map_err(|error| IdentityError::Garbled {
        path,
        what: "private key",
        reason: error.to_string(),
    })
}

fn contents(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::Unreadable { path: path.to_owned(), error },
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(failed(io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes"))));
    }
    std::fs::read(path).map_err(failed)
}

fn parsed<'c>(path: &Path, der: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| IdentityError::Garbled {
        path: path.to_owned(),
        what: "certificate",
        reason: error.to_string(),
    })?;
    Ok(certificate)
}

/// The identity that this certificate says it is of. Whoever has verified it knows that the identity has signed it.
pub(super) fn named_by(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    name(&certificate)
}

/// Whose certificate this is.
fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => name.strip_suffix(SUFFIX).map(str::to_owned),
        _ => None,
    })
}
