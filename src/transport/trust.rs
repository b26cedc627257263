//! Who is to be believed on a network? A tree's certificate authority, and what it hands out.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use uuid::Uuid;
use x509_parser::time::ASN1Time;

use super::identity::{self, Held, Stamp, identity_name};
use crate::msg::spec::Credentials;

/// The name that an actor's certificate is made for.
pub(super) fn actor_name(actor: Uuid) -> ServerName<'static> {
    // Digits and letters: it is always one.
    ServerName::try_from(host_name(actor)).unwrap_or_else(|_never| unreachable!("a uuid is a host's name"))
}

pub(super) fn host_name(actor: Uuid) -> String {
    format!("{}.actor.teamster", actor.simple())
}

/// Who signs for the actors of one tree, in its root: an authority of its own, which lives in memory and ends with it,
/// or the identity in a folder.
pub(crate) struct Authority {
    folder: Option<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    signer: Arc<Signer>,
    /// Of the folder, before it was read.
    stamp: Option<Stamp>,
    /// How often it was read.
    edition: u64,
}

impl Authority {
    /// One of its own.
    pub(crate) fn new() -> io::Result<Self> {
        let current = Current { signer: Arc::new(Signer::in_memory()?), stamp: None, edition: 0 };
        Ok(Authority { folder: None, current: Mutex::new(current) })
    }

    /// The identity in this folder.
    ///
    /// # Errors
    ///
    /// [`identity::IdentityError`], in an error of I/O.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let stamp = identity::stamp(folder);
        let held = identity::read(folder).map_err(io::Error::other)?;
        warn_of_its_end(&held, folder);
        let current = Current { signer: Arc::new(Signer::of(held)?), stamp: Some(stamp), edition: 0 };
        Ok(Authority { folder: Some(folder.to_owned()), current: Mutex::new(current) })
    }

    /// What an actor shows to others, and believes.
    pub(crate) fn issue(&self, actor: Uuid) -> io::Result<Credentials> {
        self.edition();
        let (signer, edition) = {
            let current = self.current.lock();
            (Arc::clone(&current.signer), current.edition)
        };
        signer.issue(actor, edition)
    }

    /// The same for a host's agent, which lets in whom these files name, if there are any, instead of all that its identity
    /// believes.
    ///
    /// # Errors
    ///
    /// Of one of the files, which says what is wrong with it.
    pub(crate) fn issue_for_agent(&self, allowed: &[PathBuf]) -> io::Result<Credentials> {
        let mut credentials = self.issue(Uuid::new_v4())?;
        if !allowed.is_empty() {
            credentials.authorities.clear();
        }
        for file in allowed {
            let (authorities, lists) = identity::allowed(file).map_err(io::Error::other)?;
            credentials.authorities.extend(authorities);
            credentials.revoked.extend(lists);
        }
        Ok(credentials)
    }

    /// It is another one once the folder has changed. One that can't be read now changes nothing: somebody is copying
    /// its files, or will read the log.
    pub(crate) fn edition(&self) -> u64 {
        let mut current = self.current.lock();
        let Some(folder) = &self.folder else { return current.edition };
        let stamp = Some(identity::stamp(folder));
        if stamp == current.stamp {
            return current.edition;
        }
        current.stamp = stamp;
        match read_again(folder, current.signer.name()) {
            Ok(signer) => {
                tracing::info!(target: "teamster::identity", folder = %folder.display(), "the identity was read again");
                current.signer = Arc::new(signer);
                current.edition += 1;
            }
            Err(error) => {
                tracing::warn!(target: "teamster::identity", %error, "the identity has changed and is of no use: the one before goes on");
            }
        }
        current.edition
    }
}

/// The actors that have the one before know each other by its name.
fn read_again(folder: &Path, name: Option<&str>) -> io::Result<Signer> {
    let held = identity::read(folder).map_err(io::Error::other)?;
    if name != Some(&held.name) {
        let reason = format!("it is another one now, {}: that takes a new root", held.name);
        return Err(io::Error::other(reason));
    }
    warn_of_its_end(&held, folder);
    Signer::of(held)
}

/// Days before its end in which an identity is warned of.
const SOON_DAYS: i64 = 30;

fn warn_of_its_end(held: &Held, folder: &Path) {
    let (now, folder) = (ASN1Time::now(), folder.display());
    let days = (held.ends.timestamp() - now.timestamp()) / (24 * 60 * 60);
    if days < SOON_DAYS {
        tracing::warn!(
            target: "teamster::identity", identity = held.name, %folder,
            "the identity expires on {}, in {days} days: `teamster ca issue {} --renew` makes a new one", held.ends, held.name
        );
    }
    if let Some(due) = held.lists_due.filter(|due| *due < now) {
        tracing::warn!(
            target: "teamster::identity", identity = held.name, %folder,
            "its list of revoked identities should have been replaced by {due}; what is on it stays revoked: \
             `teamster ca update` writes it anew"
        );
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A certificate that signs others, and what goes along with those.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    authorities: Vec<Bytes>,
    revoked: Vec<Bytes>,
    identity: Option<OfIdentity>,
}

/// What a certificate has besides where an identity signs it.
struct OfIdentity {
    name: String,
    certificate: Bytes,
    begins: ASN1Time,
    ends: ASN1Time,
}

impl Signer {
    fn in_memory() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a tree of teamster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.der().to_vec();
        let issuer = Issuer::new(params, key);
        Ok(Signer { issuer, authorities: vec![certificate.into()], revoked: Vec::new(), identity: None })
    }

    fn of(held: Held) -> io::Result<Self> {
        let Held { name, certificate, key, authorities, revoked, begins, ends, lists_due: _ } = held;
        let der = CertificateDer::from(certificate.to_vec());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(io::Error::other)?;
        Ok(Signer { issuer, authorities, revoked, identity: Some(OfIdentity { name, certificate, begins, ends }) })
    }

    fn name(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| &*identity.name)
    }

    fn issue(&self, actor: Uuid, edition: u64) -> io::Result<Credentials> {
        let mut names = vec![host_name(actor)];
        names.extend(self.identity.as_ref().map(|identity| identity_name(&identity.name)));
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, "an actor of teamster");
        params.use_authority_key_identifier_extension = true; // others find its issuer by that
        if let Some(identity) = &self.identity {
            (params.not_before, params.not_after) = (identity.begins.to_datetime(), identity.ends.to_datetime());
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?.der().to_vec();
        let above = self.identity.as_ref().map(|identity| identity.certificate.clone());
        Ok(Credentials {
            authorities: self.authorities.clone(),
            revoked: self.revoked.clone(),
            chain: std::iter::once(Bytes::from(certificate)).chain(above).collect(),
            key: key.serialize_der().into(),
            identity: self.name().map(str::to_owned),
            edition,
        })
    }
}

/// An actor's credentials, made ready for both sides of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    #[cfg(feature = "quic")]
    pub(super) quic: Arc<super::quic::Configs>,
    /// What the certificates of its tree are made for too. None: nobody but its tree is believed.
    pub(super) tree: Option<ServerName<'static>>,
    edition: u64,
}

impl Identity {
    /// Whether it is of a folder, which may change.
    pub(crate) fn is_of_folder(&self) -> bool {
        self.tree.is_some()
    }

    /// How often the root had read its tree's identity, when this was made.
    pub(crate) fn edition(&self) -> u64 {
        self.edition
    }

    pub(crate) fn new(credentials: &Credentials) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        for authority in &credentials.authorities {
            roots.add(CertificateDer::from(authority.to_vec())).map_err(io::Error::other)?;
        }
        let roots = Arc::new(roots);
        let chain: Vec<_> = credentials.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(credentials.key.to_vec()));
        let lists = || credentials.revoked.iter().map(|der| CertificateRevocationListDer::from(der.to_vec()));
        // Nobody keeps lists of what identities sign, nor has to have one of an authority. One that is out of date still
        // counts: what it names stays revoked, and the day on which nobody has copied a new one closes no line.
        let of_callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .with_crls(lists())
            .allow_unknown_revocation_status()
            .build()
            .map_err(io::Error::other)?;
        let of_listeners = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .with_crls(lists())
            .allow_unknown_revocation_status()
            .build()
            .map_err(io::Error::other)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_client_cert_verifier(of_callers)
            .with_single_cert(chain.clone(), key())
            .map_err(io::Error::other)?;
        server.send_tls13_tickets = 0; // a line is made once
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_webpki_verifier(of_listeners)
            .with_client_auth_cert(chain, key())
            .map_err(io::Error::other)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false; // who is called knows who he is
        let tree = credentials.identity.as_deref().map(|name| ServerName::try_from(identity_name(name)));
        let tree = tree.transpose().map_err(io::Error::other)?;
        Ok(Identity {
            #[cfg(feature = "quic")]
            quic: Arc::new(super::quic::Configs::new(&client, &server)?),
            client: Arc::new(client),
            server: Arc::new(server),
            tree,
            edition: credentials.edition,
        })
    }
}
