//! What has an authority issued, and what has it revoked?
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, GeneralSubtree, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, RevokedCertParams, SerialNumber,
};
use rustix::fs::FlockOperation;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::files::{self, CERTIFICATE, Existing, LIST, Readers};
use super::{show, shown};
use crate::text::printable;

const CERTIFICATE_FILE: &str = "authority.pem";
pub(crate) const KEY: &str = "authority.key";
/// The certificates of all identities that it has issued, the oldest first.
const ISSUED: &str = "issued.pem";
pub(crate) const REVOKED: &str = "revoked.pem";

/// Where the names of actors and of identities are: `docs/wire.md` has them.
const ACTORS: &str = "actor.teamster";
const IDENTITIES: &str = "identity.teamster";

/// How long before it was made a certificate is valid: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::hours(1);

/// Days until a list is due again. With it goes what an identity is mostly issued for: a list comes with each.
const LIST_DAYS: i64 = 365;

/// An authority, for as long as nobody else changes it.
pub(crate) struct Authority {
    folder: PathBuf,
    pub(crate) certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    ends: OffsetDateTime,
    /// Its list of what it has revoked.
    pub(crate) list: Vec<u8>,
    _lock: OwnedFd,
}

/// An identity's certificate.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) name: String,
    /// Digits of base 16.
    pub(crate) serial: String,
    pub(crate) ends: OffsetDateTime,
}

/// One with its key, in PEM.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) ends: OffsetDateTime,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Makes one where none is.
    pub(crate) fn make(folder: &Path, days: u32) -> anyhow::Result<()> {
        files::make_folder(folder)?;
        let mode = std::fs::metadata(folder)?.permissions().mode();
        anyhow::ensure!(
            mode & 0o077 == 0,
            "others may enter {0}, where a key is to be kept: chmod 700 {0}, or say another folder by --folder",
            shown(folder)
        );
        let lock = lock(folder)?;
        for file in [CERTIFICATE_FILE, KEY, ISSUED] {
            anyhow::ensure!(
                !folder.join(file).exists(),
                "{0} holds an authority already ({file}), and the identities that it has issued hang on it: say another \
                 folder by --folder",
                shown(folder)
            );
        }
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        // Two authorities are told apart by their names: each has its own.
        let number = &uuid::Uuid::new_v4().simple().to_string()[..8];
        params.distinguished_name.push(DnType::CommonName, format!("teamster authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (now - CLOCKS_DIFFER, now + Duration::days(days.into()));
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        files::write(&folder.join(KEY), &key.serialize_pem(), Readers::Owner, Existing::Keep)?;
        let (der, ends) = (certificate.der().to_vec(), params.not_after);
        let issuer = Issuer::new(params, key);
        let folder = folder.to_owned();
        let mut authority = Authority { certificate: der, issuer, ends, list: Vec::new(), _lock: lock, folder };
        authority.write_list()?;
        let text = files::text([&*authority.certificate], CERTIFICATE);
        files::write(&authority.folder.join(CERTIFICATE_FILE), &text, Readers::All, Existing::Keep)
    }

    /// Opens one, and waits while somebody else changes it.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            is_at(folder),
            "there is no authority in {0}: teamster ca init --folder {0} makes one",
            shown(folder)
        );
        let lock = lock(folder)?;
        let path = folder.join(KEY);
        let failed = || format!("reading {}", shown(&path));
        let mode = std::fs::metadata(&path).with_context(failed)?.permissions().mode();
        anyhow::ensure!(
            mode & 0o077 == 0,
            "others may read {0}, which is a secret: chmod 600 {0}; if somebody has read it, make a new authority",
            shown(&path)
        );
        let key = KeyPair::from_pem(&std::fs::read_to_string(&path).with_context(failed)?).with_context(failed)?;
        let certificate = only(&folder.join(CERTIFICATE_FILE), CERTIFICATE)?;
        let list = only(&folder.join(REVOKED), LIST)?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .with_context(|| format!("reading {}", shown(&folder.join(CERTIFICATE_FILE))))?;
        let ends = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&certificate.as_slice().into(), key)?;
        Ok(Authority { folder: folder.to_owned(), certificate, issuer, ends, list, _lock: lock })
    }

    /// Makes sure that nobody has an identity of this name that is still good.
    pub(crate) fn check_new(&self, name: &str) -> anyhow::Result<()> {
        let (now, revoked) = (OffsetDateTime::now_utc(), self.revoked()?);
        let is_good = |one: &Issued| one.ends > now && !revoked.iter().any(|(serial, _)| *serial == one.serial);
        match issued(&self.folder)?.into_iter().find(|one| one.name == name && is_good(one)) {
            None => Ok(()),
            Some(one) => anyhow::bail!(
                "{name} has an identity until {}: --renew issues another one to the same; if the first is lost or stolen, \
                 teamster ca revoke {name}",
                show::date(one.ends)
            ),
        }
    }

    /// Issues an identity. What has left this house is written down before.
    pub(crate) fn issue(&self, name: &str, days: u32) -> anyhow::Result<New> {
        let now = OffsetDateTime::now_utc();
        anyhow::ensure!(
            now < self.ends,
            "the authority in {} has expired on {}: make a new one, and let the identities believe both until all are \
             renewed (docs/identity.md)",
            shown(&self.folder),
            show::date(self.ends)
        );
        let own = format!("{name}.{IDENTITIES}");
        let mut params = CertificateParams::new([own.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "an identity of teamster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let permitted = vec![GeneralSubtree::DnsName(ACTORS.to_owned()), GeneralSubtree::DnsName(own)];
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
        params.not_before = now - CLOCKS_DIFFER;
        params.not_after = self.ends.min(now + Duration::days(days.into()));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut all = files::read(&self.folder.join(ISSUED), CERTIFICATE)?;
        all.push(certificate.der().to_vec());
        let text = files::text(all.iter().map(Vec::as_slice), CERTIFICATE);
        files::write(&self.folder.join(ISSUED), &text, Readers::All, Existing::Replace)?;
        let certificate = files::text([&**certificate.der()], CERTIFICATE);
        Ok(New { ends: params.not_after, certificate, key: key.serialize_pem() })
    }

    /// Revokes the identities of this name that are valid, or the one whose serial number begins so.
    pub(crate) fn revoke(&mut self, whom: &str) -> anyhow::Result<Vec<Issued>> {
        let revoked = self.revoked()?;
        let digits = whom.replace(':', "").to_lowercase();
        let (mut found, others): (Vec<Issued>, Vec<Issued>) =
            issued(&self.folder)?.into_iter().partition(|one| one.name == whom);
        if found.is_empty() && digits.len() >= MIN_SERIAL_DIGITS {
            found = others.into_iter().filter(|one| one.serial.starts_with(&digits)).collect();
            anyhow::ensure!(found.len() < 2, "several serial numbers begin with {digits}: give more of it");
        }
        anyhow::ensure!(
            !found.is_empty(),
            "nothing was issued to {}, and no serial number begins so: teamster ca show {} lists what was",
            printable(whom),
            shown(&self.folder)
        );
        let now = OffsetDateTime::now_utc();
        found.retain(|one| one.ends > now && !revoked.iter().any(|(serial, _)| *serial == one.serial));
        anyhow::ensure!(!found.is_empty(), "{} was revoked already, or has expired", printable(whom));
        self.write_list_with(&found)?;
        Ok(found)
    }

    /// Signs the list anew, so that it is of today.
    pub(crate) fn write_list(&mut self) -> anyhow::Result<()> {
        self.write_list_with(&[])
    }

    fn write_list_with(&mut self, more: &[Issued]) -> anyhow::Result<()> {
        let now = OffsetDateTime::now_utc();
        let issued = issued(&self.folder)?;
        // What has expired is refused without a list: so none grows for ever.
        let is_over = |serial: &str| issued.iter().any(|one| one.serial == serial && one.ends < now - CLOCKS_DIFFER);
        let mut entries: Vec<(String, OffsetDateTime)> = self.revoked()?;
        entries.retain(|(serial, _)| !is_over(serial));
        entries.extend(more.iter().map(|one| (one.serial.clone(), now)));
        let entry = |(serial, at): &(String, OffsetDateTime)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&from_hex(serial).context("a serial number has hex digits")?),
                revocation_time: *at,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let number = match self.list.is_empty() {
            true => 0,
            false => parsed_list(&self.list)?.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0),
        };
        let params = CertificateRevocationListParams {
            this_update: now - CLOCKS_DIFFER,
            next_update: now + Duration::days(LIST_DAYS),
            crl_number: SerialNumber::from(number + 1),
            issuing_distribution_point: None,
            revoked_certs: entries.iter().map(entry).collect::<anyhow::Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.list = params.signed_by(&self.issuer)?.der().to_vec();
        let text = files::text([&*self.list], LIST);
        files::write(&self.folder.join(REVOKED), &text, Readers::All, Existing::Replace)
    }

    /// The serial numbers on its list, and when they came to be there.
    fn revoked(&self) -> anyhow::Result<Vec<(String, OffsetDateTime)>> {
        if self.list.is_empty() {
            return Ok(Vec::new());
        }
        revoked(&self.list)
    }
}

/// Digits of a serial number that are enough to look for it.
const MIN_SERIAL_DIGITS: usize = 8;

/// Whether an authority is in this folder.
pub(crate) fn is_at(folder: &Path) -> bool {
    folder.join(CERTIFICATE_FILE).exists() && folder.join(KEY).exists()
}

/// Its certificate and its list.
pub(crate) fn public(folder: &Path) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    Ok((only(&folder.join(CERTIFICATE_FILE), CERTIFICATE)?, only(&folder.join(REVOKED), LIST)?))
}

/// All that the authority in this folder has issued, the oldest first.
pub(crate) fn issued(folder: &Path) -> anyhow::Result<Vec<Issued>> {
    let path = folder.join(ISSUED);
    let all = files::read(&path, CERTIFICATE)?;
    all.iter().map(|der| read(der).with_context(|| format!("reading {}", shown(&path)))).collect()
}

/// What an identity's certificate says.
pub(crate) fn read(certificate: &[u8]) -> anyhow::Result<Issued> {
    let (_, parsed) = X509Certificate::from_der(certificate)?;
    let names = parsed.subject_alternative_name()?.context("a certificate without a name")?;
    let name = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => name.strip_suffix(IDENTITIES)?.strip_suffix('.').map(str::to_owned),
        _ => None,
    });
    let name = name.context("it is no identity's certificate")?;
    let (serial, ends) = (to_hex(parsed.raw_serial()), parsed.validity().not_after.to_datetime());
    Ok(Issued { name, serial, ends })
}

/// The serial numbers on a list, and when they came to be there.
pub(crate) fn revoked(list: &[u8]) -> anyhow::Result<Vec<(String, OffsetDateTime)>> {
    let list = parsed_list(list)?;
    let entries = list.iter_revoked_certificates();
    Ok(entries.map(|entry| (to_hex(entry.raw_serial()), entry.revocation_date.to_datetime())).collect())
}

pub(crate) fn parsed_list(list: &[u8]) -> anyhow::Result<CertificateRevocationList<'_>> {
    Ok(CertificateRevocationList::from_der(list)?.1)
}

fn only(path: &Path, kind: &str) -> anyhow::Result<Vec<u8>> {
    let all = files::read(path, kind)?;
    all.into_iter().next().with_context(|| format!("{} holds no {kind}", shown(path)))
}

fn lock(folder: &Path) -> anyhow::Result<OwnedFd> {
    let folder_itself = File::open(folder).with_context(|| format!("opening {}", shown(folder)))?;
    rustix::fs::flock(&folder_itself, FlockOperation::LockExclusive)?;
    Ok(folder_itself.into())
}

/// Without the sign's byte.
fn to_hex(serial: &[u8]) -> String {
    let digits = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len() / 2).map(|n| u8::from_str_radix(digits.get(n * 2..n * 2 + 2)?, 16).ok()).collect()
}
