//! What is written into an identity folder?
use std::path::Path;

use anyhow::Context;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authority::{self, Authority, New};
use super::files::{self, CERTIFICATE, Existing, LIST, Readers};
use super::shown;

pub(crate) const CERTIFICATE_FILE: &str = "identity.pem";
const KEY: &str = "identity.key";
pub(crate) const AUTHORITIES: &str = "authorities.pem";
pub(crate) const REVOKED: &str = "revoked.pem";

/// Makes sure that nothing is lost by what is written there.
pub(crate) fn check_room(folder: &Path, name: &str, renew: bool) -> anyhow::Result<()> {
    anyhow::ensure!(!authority::is_at(folder), "{} holds an authority: say another folder by --to", shown(folder));
    let there = files::read(&folder.join(CERTIFICATE_FILE), CERTIFICATE)?.into_iter().next();
    let Some(there) = there else {
        anyhow::ensure!(
            !folder.join(KEY).exists(),
            "{} holds a key without a certificate: move it away, or say another folder by --to",
            shown(folder)
        );
        return Ok(());
    };
    let there =
        authority::read(&there).with_context(|| format!("reading {}", shown(&folder.join(CERTIFICATE_FILE))))?;
    anyhow::ensure!(
        there.name == name,
        "{} is the folder of the identity {}: say another one by --to",
        shown(folder),
        there.name
    );
    anyhow::ensure!(
        renew,
        "{} holds an identity of this name: --renew writes a new key and certificate over it",
        shown(folder)
    );
    Ok(())
}

/// Writes an identity, and whom it believes. What it holds of other authorities stays.
pub(crate) fn write(folder: &Path, authority: &Authority, new: &New) -> anyhow::Result<()> {
    files::make_folder(folder)?;
    // A root that reads in between believes more than before, or finds that the two don't belong together and waits.
    merge(folder, authority, false)?;
    files::write(&folder.join(KEY), &new.key, Readers::Owner, Existing::Replace)?;
    files::write(&folder.join(CERTIFICATE_FILE), &new.certificate, Readers::All, Existing::Replace)
}

/// Writes whom an identity believes.
pub(crate) fn update(folder: &Path, authority: &Authority, only: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        folder.join(CERTIFICATE_FILE).exists() || folder.join(AUTHORITIES).exists(),
        "{0} is no identity folder: teamster ca issue NAME --to {0} makes one",
        shown(folder)
    );
    if only && let Some(own) = files::read(&folder.join(CERTIFICATE_FILE), CERTIFICATE)?.first() {
        let (_, own) = X509Certificate::from_der(own)?;
        let (_, ours) = X509Certificate::from_der(&authority.certificate)?;
        anyhow::ensure!(
            own.issuer().as_raw() == ours.subject().as_raw(),
            "the identity in {0} was issued by another authority, which would not be believed any more: renew it first, by \
             teamster ca issue {1} --renew --to {0}",
            shown(folder),
            own.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or("NAME")
        );
    }
    merge(folder, authority, only)
}

fn merge(folder: &Path, authority: &Authority, only: bool) -> anyhow::Result<()> {
    let (mut certificates, mut lists) = (Vec::new(), Vec::new());
    if !only {
        certificates = files::read(&folder.join(AUTHORITIES), CERTIFICATE)?;
        lists = files::read(&folder.join(REVOKED), LIST)?;
    }
    let (_, ours) = X509Certificate::from_der(&authority.certificate)?;
    certificates.retain(|other| *other != authority.certificate);
    certificates.push(authority.certificate.clone());
    let is_others = |list: &Vec<u8>| {
        authority::parsed_list(list).is_ok_and(|list| list.issuer().as_raw() != ours.subject().as_raw())
    };
    lists.retain(is_others);
    lists.push(authority.list.clone());
    let certificates = files::text(certificates.iter().map(Vec::as_slice), CERTIFICATE);
    let lists = files::text(lists.iter().map(Vec::as_slice), LIST);
    files::write(&folder.join(AUTHORITIES), &certificates, Readers::All, Existing::Replace)?;
    files::write(&folder.join(REVOKED), &lists, Readers::All, Existing::Replace)
}
