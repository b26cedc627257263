//! The raw side over TLS: tokio-rustls on TCP, and nothing that could be left out.
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::measure::micros;
use crate::raw_calls::{serve, start};
use crate::raw_processes::{Nest, RawChild};
use crate::{Result, streams::BULK_BYTES};

/// Bytes of one echo, as over a Unix socket.
pub(crate) const ECHO_BYTES: usize = 16;
pub(crate) const NAME: &str = "raw.teamster";

/// A child behind TLS.
pub(crate) struct RawTls {
    line: client::TlsStream<TcpStream>,
    // After the line: its drop waits until the child has seen the line's end.
    _steer: UnixStream,
    _child: RawChild,
}

impl RawTls {
    pub(crate) async fn start(nest: &Nest, role: &str, cpu: Option<usize>) -> Result<Self> {
        let (mut steer, child) = start(nest, role, cpu)?;
        let port = steer.read_u16_le().await?;
        let mut certificate = vec![0; steer.read_u32_le().await? as usize];
        steer.read_exact(&mut certificate).await?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        tcp.set_nodelay(true)?;
        let line = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, tcp).await?;
        Ok(RawTls { line, _steer: steer, _child: child })
    }

    pub(crate) async fn round_trips(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        let request = [7; ECHO_BYTES];
        for _ in 0..count {
            let begin = Instant::now();
            self.line.write_all(&request).await?;
            self.line.flush().await?;
            let mut answer = [0; ECHO_BYTES];
            self.line.read_exact(&mut answer).await?;
            times.push(micros(begin.elapsed()));
            assert_eq!(request, answer, "an echo is what was said");
        }
        Ok(times)
    }

    /// MiB/s.
    pub(crate) async fn bulk(&mut self, messages: u32) -> Result<f64> {
        let message = vec![7; BULK_BYTES];
        let begin = Instant::now();
        self.line.write_u32_le(messages).await?;
        for _ in 0..messages {
            self.line.write_all(&message).await?;
        }
        self.line.flush().await?;
        assert_eq!(self.line.read_u64_le().await?, u64::from(messages) * BULK_BYTES as u64);
        Ok(f64::from(messages) / begin.elapsed().as_secs_f64())
    }
}

/// What a raw child of this file does. `None`: the role is not of this file.
pub(crate) fn child(role: &str) -> Option<Result<()>> {
    Some(match role {
        "tls_echo" => serve(async |steer| echo(accept(steer).await?).await),
        "tls_bulk" => serve(async |steer| bulk_sink(accept(steer).await?).await),
        _ => return None,
    })
}

async fn accept(mut steer: UnixStream) -> Result<server::TlsStream<TcpStream>> {
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = key.cert.der().clone();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    steer.write_u16_le(listener.local_addr()?.port()).await?;
    steer.write_u32_le(certificate.len() as u32).await?;
    steer.write_all(&certificate).await?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)?;
    let (tcp, _) = listener.accept().await?;
    tcp.set_nodelay(true)?;
    Ok(TlsAcceptor::from(Arc::new(config)).accept(tcp).await?)
}

async fn echo(mut line: server::TlsStream<TcpStream>) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match line.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()), // the parent hangs up as it is
            Ok(length) => {
                line.write_all(&buffer[..length]).await?;
                line.flush().await?;
            }
        }
    }
}

async fn bulk_sink(mut line: server::TlsStream<TcpStream>) -> Result<()> {
    let mut message = vec![0; BULK_BYTES];
    while let Ok(messages) = line.read_u32_le().await {
        for _ in 0..messages {
            line.read_exact(&mut message).await?;
        }
        line.write_u64_le(u64::from(messages) * BULK_BYTES as u64).await?;
        line.flush().await?;
    }
    Ok(())
}
