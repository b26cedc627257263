//! The raw side over QUIC: quinn with one stream that stays open, and nothing that could be left out.
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::measure::micros;
use crate::raw_calls::{serve, start};
use crate::raw_processes::{Nest, RawChild};
use crate::raw_tls::{ECHO_BYTES, NAME};
use crate::{Result, streams::BULK_BYTES};

/// A child behind QUIC.
pub(crate) struct RawQuic {
    sending: SendStream,
    receiving: RecvStream,
    _endpoint: Endpoint,
    // After the line: its drop waits until the child has seen the line's end.
    _steer: UnixStream,
    _child: RawChild,
}

impl RawQuic {
    pub(crate) async fn start(nest: &Nest, role: &str, cpu: Option<usize>) -> Result<Self> {
        let (mut steer, child) = start(nest, role, cpu)?;
        let port = steer.read_u16_le().await?;
        let mut certificate = vec![0; steer.read_u32_le().await? as usize];
        steer.read_exact(&mut certificate).await?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate))?;
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?)));
        let line = endpoint.connect((Ipv4Addr::LOCALHOST, port).into(), NAME)?.await?;
        let (sending, receiving) = line.open_bi().await?;
        Ok(RawQuic { sending, receiving, _endpoint: endpoint, _steer: steer, _child: child })
    }

    pub(crate) async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        let request = [7; ECHO_BYTES];
        for _ in 0..count {
            let begin = Instant::now();
            self.sending.write_all(&request).await?;
            let mut answer = [0; ECHO_BYTES];
            self.receiving.read_exact(&mut answer).await?;
            times.push(micros(begin.elapsed()));
            assert_eq!(request, answer, "an echo is what was said");
        }
        Ok(times)
    }

    /// MiB/s.
    pub(crate) async fn bulk(&mut self, messages: u32) -> Result<f64> {
        let message = vec![7; BULK_BYTES];
        let begin = Instant::now();
        self.sending.write_u32_le(messages).await?;
        for _ in 0..messages {
            self.sending.write_all(&message).await?;
        }
        assert_eq!(self.receiving.read_u64_le().await?, u64::from(messages) * BULK_BYTES as u64);
        Ok(f64::from(messages) / begin.elapsed().as_secs_f64())
    }
}

/// What a raw child of this file does. `None`: the role is not of this file.
pub(crate) fn child(role: &str) -> Option<Result<()>> {
    Some(match role {
        "quic_echo" => serve(async |steer| {
            let (_endpoint, line) = accept(steer).await?;
            echo(line).await
        }),
        "quic_bulk" => serve(async |steer| {
            let (_endpoint, line) = accept(steer).await?;
            bulk_sink(line).await
        }),
        _ => return None,
    })
}

async fn accept(mut steer: UnixStream) -> Result<(Endpoint, (SendStream, RecvStream))> {
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = key.cert.der().clone();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)?;
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config)?));
    let endpoint = Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    steer.write_u16_le(endpoint.local_addr()?.port()).await?;
    steer.write_u32_le(certificate.len() as u32).await?;
    steer.write_all(&certificate).await?;
    let line = endpoint.accept().await.ok_or("nobody has come")?.await?;
    let streams = line.accept_bi().await?;
    Ok((endpoint, streams))
}

async fn echo((mut sending, mut receiving): (SendStream, RecvStream)) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match receiving.read(&mut buffer).await {
            Ok(None) | Err(_) => return Ok(()), // the parent hangs up as it is
            Ok(Some(length)) => sending.write_all(&buffer[..length]).await?,
        }
    }
}

async fn bulk_sink((mut sending, mut receiving): (SendStream, RecvStream)) -> Result<()> {
    let mut message = vec![0; BULK_BYTES];
    while let Ok(messages) = receiving.read_u32_le().await {
        for _ in 0..messages {
            receiving.read_exact(&mut message).await?;
        }
        sending.write_u64_le(u64::from(messages) * BULK_BYTES as u64).await?;
    }
    Ok(())
}
