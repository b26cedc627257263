//! Who is to be believed on a network? A tree's own certificate authority, and what it hands out.
use std::fmt;
use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use uuid::Uuid;

use crate::msg::spec::Credentials;

/// The name that an actor's certificate is made for.
pub(super) fn actor_name(actor: Uuid) -> ServerName<'static> {
    // Digits and letters: it is always one.
    ServerName::try_from(host_name(actor)).unwrap_or_else(|_never| unreachable!("a uuid is a host's name"))
}

fn host_name(actor: Uuid) -> String {
    format!("{}.actor.teamster", actor.simple())
}

/// The authority of one tree. It lives in the root's memory, and ends with it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a tree of teamster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?.der().clone();
        Ok(Authority { issuer: Issuer::new(params, key), certificate })
    }

    /// What an actor shows to others, and believes.
    pub(crate) fn issue(&self, actor: Uuid) -> io::Result<Credentials> {
        let mut params = CertificateParams::new([host_name(actor)]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, "an actor of teamster");
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Credentials {
            authority: self.certificate.to_vec().into(),
            certificate: certificate.der().to_vec().into(),
            key: key.serialize_der().into(),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// An actor's credentials, made ready for both sides of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Identity {
    pub(crate) fn new(credentials: &Credentials) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(credentials.authority.to_vec())).map_err(io::Error::other)?;
        let roots = Arc::new(roots);
        let chain = vec![CertificateDer::from(credentials.certificate.to_vec())];
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(credentials.key.to_vec()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(io::Error::other)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key())
            .map_err(io::Error::other)?;
        server.send_tls13_tickets = 0; // a line is made once
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key())
            .map_err(io::Error::other)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false; // who is called knows who he is
        Ok(Identity { client: Arc::new(client), server: Arc::new(server) })
    }
}
