//! What is in the folder of an authority, or of an identity?
use std::path::Path;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authority::{self, Issued};
use super::files::{self, CERTIFICATE, LIST};
use super::{identity, shown};
use crate::text::{aligned, printable};

pub(crate) fn show(folder: &Path) -> anyhow::Result<String> {
    if authority::is_at(folder) {
        return of_authority(folder);
    }
    let own = files::read(&folder.join(identity::CERTIFICATE_FILE), CERTIFICATE)?;
    anyhow::ensure!(
        !own.is_empty(),
        "{0} holds neither an authority nor an identity: teamster ca init --folder {0} makes the one, teamster ca issue NAME \
         --to {0} the other",
        shown(folder)
    );
    of_identity(folder, own)
}

pub(crate) fn date(at: OffsetDateTime) -> String {
    at.date().to_string()
}

fn of_authority(folder: &Path) -> anyhow::Result<String> {
    let (certificate, list) = authority::public(folder)?;
    let revoked = authority::revoked(&list)?;
    let rows = authority::issued(folder)?.into_iter().map(|one| {
        let state = state(&one, &revoked);
        [one.name, one.serial, date(one.ends), state]
    });
    let rows: Vec<[String; 4]> = rows.collect();
    let table = aligned(&["NAME", "SERIAL", "UNTIL", "STATE"], &rows);
    let space = if table.is_empty() { "" } else { "\n" };
    Ok(format!("{}{}{space}{table}", of_certificate("authority", &certificate)?, of_list(&list)?))
}

fn of_identity(folder: &Path, own: Vec<Vec<u8>>) -> anyhow::Result<String> {
    let lists = files::read(&folder.join(identity::REVOKED), LIST)?;
    let mut text = String::new();
    for certificate in own {
        text += &of_certificate("identity", &certificate)?;
        let (_, parsed) = X509Certificate::from_der(&certificate)?;
        let mut revoked = Vec::new();
        for list in &lists {
            if authority::parsed_list(list)?.issuer().as_raw() == parsed.issuer().as_raw() {
                revoked.extend(authority::revoked(list)?);
            }
        }
        let own = authority::read(&certificate)?;
        text += &format!("  {:11}  {}\n  {:11}  {}\n", "serial", own.serial, "state", state(&own, &revoked));
    }
    for certificate in files::read(&folder.join(identity::AUTHORITIES), CERTIFICATE)? {
        text += &of_certificate("believes", &certificate)?;
    }
    for list in lists {
        text += &of_list(&list)?;
    }
    Ok(text)
}

fn state(one: &Issued, revoked: &[(String, OffsetDateTime)]) -> String {
    match revoked.iter().find(|(serial, _)| *serial == one.serial) {
        Some((_, at)) => format!("revoked on {}", date(*at)),
        None if one.ends < OffsetDateTime::now_utc() => "expired".to_owned(),
        None => "valid".to_owned(),
    }
}

fn of_certificate(what: &str, der: &[u8]) -> anyhow::Result<String> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or("?");
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let fingerprint: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let ends = date(certificate.validity().not_after.to_datetime());
    let name = printable(name);
    Ok(format!("{what} {name}\n  {:11}  {ends}\n  {:11}  {}\n", "until", "sha-256", fingerprint.join(":")))
}

fn of_list(der: &[u8]) -> anyhow::Result<String> {
    let list = authority::parsed_list(der)?;
    let name = list.issuer().iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or("?");
    let due = list.next_update().map_or_else(|| "never".to_owned(), |at| date(at.to_datetime()));
    Ok(format!(
        "revoked by {}\n  {:11}  {}\n  {:11}  {}\n  {:11}  {due}\n",
        printable(name),
        "identities",
        list.iter_revoked_certificates().count(),
        "as of",
        date(list.last_update().to_datetime()),
        "due again"
    ))
}
