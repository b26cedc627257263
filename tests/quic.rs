//! What holds for lines over QUIC, where no kernel keeps a connection up or says that it has ended?
#![expect(unsafe_code, reason = "a socket is made deaf by a filter, for which rustix has no function")]
#[path = "support/holds.rs"]
mod holds;
#[path = "support/lines.rs"]
#[allow(dead_code, reason = "these lines can't be cut")]
mod lines;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holds::holds;
use rustix::process::{Pid, Signal, kill_process};
use teamster::{ActorNursery, Addr, Error, Host, Portal, Rung, Transport, context, rpc};

const LOST_AFTER: Duration = Duration::from_millis(500);

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Nothing else runs in the actor meanwhile.
#[rpc]
#[expect(clippy::disallowed_methods, reason = "a runtime that is stuck is what this is about")]
async fn block(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

#[rpc]
async fn blocks(other: Portal, millis: u64) -> teamster::Result<u64> {
    Ok(other.run(block(millis)).await?)
}

#[rpc]
async fn waits() {
    std::future::pending().await
}

#[rpc]
async fn waits_for(other: Portal) -> teamster::Result<()> {
    Ok(other.run(waits()).await?)
}

/// Gives back what comes.
#[context]
async fn echoes(ctx: teamster::Context<(), bytes::Bytes, bytes::Bytes>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(item) = stream.recv().await? {
        stream.send(item).await?;
    }
    Ok(())
}

fn root() -> teamster::RootBuilder {
    teamster::root().transport(Transport::Quic).lost_after(LOST_AFTER)
}

async fn two(an: &ActorNursery) -> Result<(Portal, Portal), Error> {
    tokio::try_join!(an.start_actor("one"), an.start_actor("two"))
}

/// It takes nothing any more that comes on this socket, and nobody is told.
fn deafen(socket: &OwnedFd) {
    let mut drop_all = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_all };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads `program` and the one instruction that it points to, both of which live here.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// All lines between two processes are silent from now on: how many those are.
fn silence(one: u32, two: u32) -> usize {
    let all: Vec<OwnedFd> = [(one, two), (two, one)]
        .into_iter()
        .flat_map(|(from, to)| lines::lines(from, to).expect("they are ours"))
        .collect();
    all.iter().for_each(deafen);
    all.len() / 2
}

#[teamster::test]
async fn a_runtime_that_is_stuck_loses_no_line() -> Result<(), Error> {
    let stuck = 4 * LOST_AFTER.as_millis() as u64;
    root()
        .open(async |an| {
            let (one, two) = two(an).await?;
            assert_eq!(two.run(block(stuck)).await?, stuck, "its parent's line");
            assert_eq!(one.run(blocks(two.clone(), stuck)).await?, stuck, "its sibling's");
            assert_eq!(two.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

#[teamster::test]
async fn a_runtime_that_is_stuck_hears_its_cancel() -> Result<(), Error> {
    root()
        .open(async |an| {
            let one = an.actor("one").grace(Duration::from_millis(600)).start().await?;
            let mut blocked = std::pin::pin!(one.run(block(60_000)));
            // It has been heard of when something else isn't any more.
            tokio::select! {
                ended = &mut blocked => panic!("{ended:?}"),
                () = is_stuck(&one) => {}
            }
            let receipt = one.cancel_actor().await?;
            assert!(receipt.heard.is_some_and(|heard| heard < Duration::from_millis(250)), "{receipt:?}");
            assert_eq!(receipt.rung, Some(Rung::Sigkill));
            let blocked = blocked.await;
            assert!(matches!(blocked, Err(Error::Cancelled { .. })), "{blocked:?}");
            Ok(())
        })
        .await
}

async fn is_stuck(portal: &Portal) {
    while tokio::time::timeout(Duration::from_millis(200), portal.run(add(1, 1))).await.is_ok() {}
}

#[teamster::test]
async fn a_child_whose_lines_are_silent_is_given_up_and_gone() -> Result<(), Error> {
    let mut pid = 0;
    let ended = root()
        .open(async |an| {
            let one = an.start_actor("one").await?;
            pid = one.aid().pid();
            let mut waiting = std::pin::pin!(one.run(waits()));
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            assert_eq!(one.run(add(1, 2)).await?, 3);
            assert_eq!(silence(std::process::id(), pid), 2, "data and control");
            let began = Instant::now();
            let lost = waiting.await.expect_err("nobody answers");
            let after = began.elapsed();
            assert!(after > LOST_AFTER / 2 && after < 3 * LOST_AFTER, "{after:?}: {lost}");
            Err(lost)?
        })
        .await;
    let Err::<(), _>(Error::ActorDied(death)) = &ended else { panic!("{ended:?}") };
    // Both sides give the other up after the same time: whoever is first.
    let said = ["had been silent for", "it had lost a line to its parent"];
    assert!(said.iter().any(|said| death.to_string().contains(said)), "{death}");
    assert!(Pid::from_raw(pid.cast_signed()).is_none_or(|pid| rustix::process::test_kill_process(pid).is_err()));
    Ok(())
}

#[teamster::test]
async fn a_silent_line_between_two_ends_what_is_on_it_and_nothing_else() -> Result<(), Error> {
    root()
        .open(async |an| {
            let (one, two) = two(an).await?;
            let mut waiting = std::pin::pin!(one.run(waits_for(two.clone())));
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            let (from, to) = (one.aid().pid(), two.aid().pid());
            while lines::lines(from, to)?.is_empty() {
                assert_eq!(one.run(add(1, 2)).await?, 3);
            }
            assert_eq!(one.run(blocks(two.clone(), 0)).await?, 0, "it has come over that line");
            assert_eq!(silence(from, to), 1);
            let began = Instant::now();
            let lost = waiting.await.expect_err("nobody answers");
            let after = began.elapsed();
            assert!(after > LOST_AFTER / 2 && after < 4 * LOST_AFTER, "{after:?}: {lost}");
            assert_eq!(one.run(blocks(two.clone(), 0)).await?, 0, "by a new line");
            assert_eq!(two.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

#[teamster::test]
async fn a_killed_process_ends_all_dialogs_with_it_at_once() -> Result<(), Error> {
    let ended = root()
        .open(async |an| {
            let (one, two) = two(an).await?;
            let mut waiting = std::pin::pin!(one.run(waits_for(two.clone())));
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            assert_eq!(one.run(blocks(two.clone(), 0)).await?, 0);
            kill_process(Pid::from_raw(two.aid().pid().cast_signed()).expect("a pid"), Signal::KILL)?;
            let began = Instant::now();
            let lost = teamster::shield(waiting).await.expect_err("it is dead");
            assert!(began.elapsed() < LOST_AFTER / 2, "{:?}: {lost}", began.elapsed());
            Ok(())
        })
        .await;
    assert!(matches!(ended, Err(Error::ActorDied(death)) if death.signal() == Some(9)));
    Ok(())
}

/// Longer than every window, on four contexts at once, with calls beside them.
#[teamster::test]
async fn long_items_go_beside_each_other_and_beside_calls() -> Result<(), Error> {
    root()
        .open(async |an| {
            let one = an.start_actor("one").await?;
            let item = |n: usize| bytes::Bytes::from_iter((0..3_000_001).map(|at| (at % 251 + n) as u8));
            let long = |n: usize| {
                one.open_context(echoes(), async move |ctx, ()| {
                    let (mut sending, mut receiving) = ctx.open_stream().await?.split();
                    let send = async {
                        for _ in 0..4 {
                            sending.send(item(n)).await?;
                        }
                        sending.finish().await
                    };
                    let receive = async {
                        for _ in 0..4 {
                            assert!(receiving.recv().await?.is_some_and(|came| came == item(n)), "context {n}");
                        }
                        Ok(())
                    };
                    tokio::try_join!(send, receive)?;
                    Ok(ctx.result().await?)
                })
            };
            let calls = async {
                for n in 0..2000 {
                    assert_eq!(one.run(add(n, 1)).await?, n + 1);
                }
                Ok(())
            };
            tokio::try_join!(long(0), long(1), long(2), long(3), calls)?;
            Ok(())
        })
        .await
}

// ---- strangers

fn place(portal: &Portal) -> SocketAddr {
    match portal.addr() {
        Some(Addr::Quic(place)) => match place.host {
            Host::Ip(ip) => SocketAddr::new(ip, place.port),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// quinn, believing anybody and showing nothing.
fn stranger(protocol: &[u8]) -> quinn::Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("there is TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("it is for QUIC");
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("there is no TLS 1.2 in QUIC".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a client of somebody else's is not let in.
async fn refusal(endpoint: &quinn::Endpoint, addr: SocketAddr) -> String {
    let connected = async {
        let line = endpoint.connect(addr, "anybody.teamster")?.await?;
        // It believes itself to be in before its certificate is looked at.
        Ok::<_, teamster::BoxError>(line.closed().await)
    };
    match connected.await {
        Ok(closed) => closed.to_string(),
        Err(error) => error.to_string(),
    }
}

#[teamster::test]
async fn a_client_that_shows_nothing_or_speaks_something_else_is_refused() -> Result<(), Error> {
    root()
        .open(async |an| {
            let one = an.start_actor("one").await?;
            let nameless = refusal(&stranger(b"teamster/1"), place(&one)).await;
            assert!(nameless.contains("116") || nameless.contains("certificate"), "certificate_required: {nameless}");
            let other = refusal(&stranger(b"h3"), place(&one)).await;
            assert!(other.contains("120") || other.contains("application protocol"), "{other}");
            assert_eq!(one.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

/// A datagram that looks like the beginning of a connection, and is none.
fn forged(n: u32) -> Vec<u8> {
    let mut datagram = vec![0xc0, 0, 0, 0, 1, 8];
    datagram.extend_from_slice(&u64::from(n).to_be_bytes());
    datagram.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0x44, 0x96]);
    datagram.extend((datagram.len()..1250).map(|at| (at as u32 ^ n) as u8));
    datagram
}

#[teamster::test]
async fn what_is_no_quic_hurts_nobody() -> Result<(), Error> {
    root()
        .open(async |an| {
            let one = an.start_actor("one").await?;
            let addr = place(&one);
            let strange: Vec<Vec<u8>> =
                [vec![], vec![0], vec![0xc0; 1300], vec![0x40; 1300], b"GET / HTTP/1.1".to_vec()]
                    .into_iter()
                    .chain((0..500).map(forged))
                    .collect();
            for says in strange {
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(&says, addr)?;
            }
            // What belongs to a connection is forged too: its own socket takes it from nobody else.
            let line = lines::lines(one.aid().pid(), std::process::id())?.remove(0);
            let line: SocketAddr = rustix::net::getsockname(&line)?.try_into().expect("an address");
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(&[0x40; 100], line)?;
            assert_eq!(one.run(add(1, 2)).await?, 3);
            Ok(())
        })
        .await
}

/// Two thousand clients begin a handshake and are never heard of again.
#[teamster::test(exclusive)]
async fn thousands_of_half_open_connections_hold_up_nobody() -> Result<(), Error> {
    const ALL: usize = 2000;
    root()
        .lost_after(Duration::from_secs(5))
        .open(async |an| {
            let (one, near) = two(an).await?;
            let (addr, pid) = (place(&one), one.aid().pid());
            assert_eq!(one.run(add(1, 2)).await?, 3);
            let (rss, descriptors) = holds(pid);
            // What such a client says first, kept to be said from thousands of ports.
            let catcher = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let endpoint = stranger(b"teamster/1");
            let begun = endpoint.connect(catcher.local_addr()?, "anybody.teamster")?;
            let (first, catcher) = tokio::task::spawn_blocking(move || {
                let mut first = [0; 2048];
                let length = catcher.recv(&mut first)?;
                Ok::<_, std::io::Error>((first[..length].to_vec(), catcher))
            })
            .await??;
            drop((begun, catcher));
            let knocks = tokio::task::spawn_blocking(move || {
                (0..ALL).try_for_each(|_| {
                    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(&first, addr)?;
                    std::thread::yield_now();
                    Ok::<_, std::io::Error>(())
                })
            });
            let (mut most, mut slowest) = ((0, 0), Duration::ZERO);
            while !knocks.is_finished() {
                let began = Instant::now();
                assert_eq!(one.run(add(1, 2)).await?, 3);
                slowest = slowest.max(began.elapsed());
                let now = holds(pid);
                most = (most.0.max(now.0), most.1.max(now.1));
            }
            knocks.await??;
            let began = Instant::now();
            assert_eq!(near.run(blocks(one.clone(), 0)).await?, 0, "a newcomer is let in");
            let newcomer = began.elapsed();
            println!(
                "{} KiB more, {} descriptors more at most; the slowest call {slowest:?}; a newcomer in {newcomer:?}",
                most.0.saturating_sub(rss),
                most.1.saturating_sub(descriptors)
            );
            assert!(most.1 <= descriptors + 256 + 32, "{descriptors} descriptors, then {}", most.1);
            assert!(most.0 <= rss + 64 * 1024, "{rss} KiB, then {}", most.0);
            assert!(slowest < Duration::from_secs(2) && newcomer < Duration::from_secs(4), "{slowest:?}, {newcomer:?}");
            Ok(())
        })
        .await
}
