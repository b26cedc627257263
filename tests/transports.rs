//! Is a line the same whatever it goes over, and who is let in there?
#[path = "support/holds.rs"]
mod holds;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use holds::holds;
use teamster::{ActorNursery, Addr, Error, Host, Portal, Transport, context, rpc};

#[rpc]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[rpc]
async fn fails() -> std::io::Result<()> {
    Err(std::io::Error::other("it was told to"))
}

#[rpc]
async fn adds_in(other: Portal, a: i64, b: i64) -> teamster::Result<i64> {
    Ok(other.run(add(a, b)).await?)
}

/// Starts a child of its own, which calls somebody else.
#[rpc]
async fn adds_by_a_child(other: Portal, a: i64, b: i64) -> teamster::Result<(String, i64)> {
    let block = teamster::open_nursery(async |an| {
        let child = an.start_actor("grandchild").await?;
        let sum = child.run(adds_in(other.clone(), a, b)).await?;
        Ok((child.addr().map(Addr::to_string).unwrap_or_default(), sum))
    });
    Ok(block.await?)
}

/// Echoes what comes.
#[context]
async fn echoes(ctx: teamster::Context<(), bytes::Bytes, bytes::Bytes>) -> teamster::Result<()> {
    ctx.started(()).await?;
    let mut stream = ctx.open_stream().await?;
    while let Some(item) = stream.recv().await? {
        stream.send(item).await?;
    }
    Ok(())
}

const TRANSPORTS: &[(Transport, &str)] = &[
    (Transport::Uds, "/uds/"),
    (Transport::InsecureTcp, "/ip4/127.0.0.1/tcp/"),
    (Transport::Tcp, "/ip4/127.0.0.1/tcp/"),
    #[cfg(feature = "quic")]
    (Transport::Quic, "/ip4/127.0.0.1/udp/"),
];

#[teamster::test]
async fn a_tree_is_the_same_over_each_transport() -> Result<(), Error> {
    for &(transport, begin) in TRANSPORTS {
        teamster::root()
            .transport(transport)
            .open(async |an| {
                let (one, two) = (an.start_actor("one").await?, an.start_actor("two").await?);
                let addr = one.addr().expect("it listens").to_string();
                assert!(addr.starts_with(begin), "{transport:?}: {addr}");
                assert_eq!(addr.ends_with("/insecure"), transport == Transport::InsecureTcp, "{addr}");
                assert_eq!(one.run(add(1, 2)).await?, 3);
                assert_eq!(one.run(adds_in(two.clone(), 1, 2)).await?, 3, "siblings");
                assert_eq!(one.run(adds_in(teamster::this_actor()?, 2, 2)).await?, 4, "the root");
                let (addr, sum) = one.run(adds_by_a_child(two.clone(), 2, 3)).await?;
                assert_eq!(sum, 5, "a grandchild, and its uncle");
                assert!(addr.starts_with(begin), "a child listens as its parent does: {addr}");
                let failed = two.run(fails()).await.expect_err("it was told to fail");
                assert!(failed.to_string().contains("it was told to"), "{failed}");
                carries_long_items(&two).await?;
                let receipt = two.cancel_actor().await?;
                assert_eq!(receipt.rung, Some(teamster::Rung::Cancel));
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// Longer than a socket's buffer, a TLS record and a window, both ways at once.
async fn carries_long_items(portal: &Portal) -> Result<(), teamster::BoxError> {
    let block = portal.open_context(echoes(), async |ctx, ()| {
        let (mut sending, mut receiving) = ctx.open_stream().await?.split();
        let item = |n: usize| bytes::Bytes::from_iter((0..n * 700_001).map(|at| (at % 251) as u8));
        let send = async {
            for n in 0..6 {
                sending.send(item(n)).await?;
            }
            sending.finish().await
        };
        let receive = async {
            for n in 0..6 {
                let came = receiving.recv().await?;
                assert!(came.is_some_and(|came| came == item(n)), "item {n}");
            }
            Ok(())
        };
        tokio::try_join!(send, receive)?;
        Ok(ctx.result().await?)
    });
    Ok(block.await?)
}

#[teamster::test]
async fn an_actor_of_its_own_transport_is_reached_by_those_that_may() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (near, far) = (an.start_actor("near").await?, far(an).await?);
        assert_eq!(far.run(add(1, 2)).await?, 3);
        assert_eq!(far.run(adds_in(teamster::this_actor()?, 1, 2)).await?, 3, "the root listens there since");
        let refused = near.run(adds_in(far.clone(), 1, 2)).await.expect_err("it has nothing to show");
        assert!(refused.to_string().contains("this actor has no certificate"), "{refused}");
        let both = an.actor("both").transports([Transport::Tcp, Transport::Uds]).start().await?;
        assert!(both.addr().is_some_and(|addr| matches!(addr, Addr::Uds(_))), "the nearest comes first");
        assert_eq!(both.run(adds_in(far, 3, 4)).await?, 7);
        let none = an.actor("none").transports([]).start().await.expect_err("it could not be reached");
        assert!(none.to_string().contains("no transport to listen by"), "{none}");
        assert_eq!(near.run(adds_in(both, 3, 4)).await?, 7);
        Ok(())
    })
    .await
}

async fn far(an: &ActorNursery) -> Result<Portal, Error> {
    an.actor("far").transport(Transport::Tcp).start().await
}

fn place(portal: &Portal) -> SocketAddr {
    match portal.addr() {
        Some(Addr::Tcp(place)) => match place.host {
            Host::Ip(ip) => SocketAddr::new(ip, place.port),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What a stranger hears who says this. Nothing: he was hung up on.
fn answer_to(addr: SocketAddr, says: &[u8]) -> Vec<u8> {
    let mut line = TcpStream::connect(addr).expect("it listens");
    line.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    line.write_all(says).expect("it takes that");
    let mut heard = Vec::new();
    match line.read_to_end(&mut heard) {
        Ok(_) => heard,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => heard,
        Err(error) => panic!("it was kept waiting: {error}"),
    }
}

#[teamster::test]
async fn who_speaks_no_tls_is_refused_and_nobody_else() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let far = far(an).await?;
        let addr = place(&far);
        let strange = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 9000], b"\x16\x03\x01\xff\xff"];
        for says in strange {
            let says = says.to_vec();
            let heard = tokio::task::spawn_blocking(move || answer_to(addr, &says)).await?;
            assert!(heard.len() < 64, "an alert of TLS at most: {heard:?}");
            assert_eq!(far.run(add(1, 2)).await?, 3);
        }
        Ok(())
    })
    .await
}

/// The lines that a user sees who looks for warnings.
#[test]
fn who_is_refused_is_in_the_log_with_the_reason_and_the_address() {
    let mut command = std::process::Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "strangers_knock", "--nocapture", "--ignored"]).env("TEAMSTER_LOG", "warn");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned(); // the harness has put both into one
    assert!(output.status.success(), "{said}");
    let refused: Vec<&str> = said.lines().filter(|line| line.contains("a connection was refused")).collect();
    for (line, wanted) in
        refused.iter().zip(["it does not speak TLS (", "it does not speak TLS 1.3 (", "it refused us ("])
    {
        assert!(line.contains(" WARN far@") && line.contains("from=127.0.0.1:"), "{line}");
        assert!(line.contains(&format!("error={wanted}")), "{wanted:?} is not in {line}");
    }
    let slow = |line: &&&str| line.contains("error=it did not say who it is within 5s");
    assert_eq!((refused.len(), refused.iter().filter(slow).count()), (5, 2), "{said}");
    let crowd = "connections were let go that had not said who they are, since 256 others did not either count=";
    assert!(said.contains(crowd), "{said}");
}

#[teamster::test]
#[ignore = "a program that a test starts"]
async fn strangers_knock() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let (far, other) = (far(an).await?, far(an).await?);
        let addr = place(&far);
        for says in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), OLD_HELLO.to_vec()] {
            tokio::task::spawn_blocking(move || answer_to(addr, &says)).await?;
        }
        // Whoever listens there is another than he who is called.
        let there = rmp_serde::to_vec(&(other.aid(), far.addrs()))?;
        let mixed: Portal = rmp_serde::from_slice(&there)?;
        let refused = mixed.run(add(1, 2)).await.expect_err("it is not he");
        assert!(refused.to_string().contains("its certificate was made for another actor"), "{refused}");
        // They begin, and say nothing more: hung up on after 5 s.
        let began = std::time::Instant::now();
        let slow = [&OLD_HELLO[..1], &OLD_HELLO[..20]];
        let slow = slow.map(|says| tokio::task::spawn_blocking(move || answer_to(addr, says)));
        while !slow.iter().all(tokio::task::JoinHandle::is_finished) {
            assert_eq!(far.run(add(1, 2)).await?, 3);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let mut crowd = Vec::new();
        for _ in 0..300 {
            crowd.push(tokio::net::TcpStream::connect(addr).await?);
        }
        let ended = tokio::io::AsyncReadExt::read(&mut crowd[0], &mut [0]).await;
        assert!(!ended.is_ok_and(|count| count > 0), "it was let go");
        Ok(())
    })
    .await
}

/// Nobody fills a log by knocking, and nobody who was refused is left out of it.
#[test]
fn those_who_are_refused_in_thousands_are_counted_in_the_log() {
    let mut command = std::process::Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "many_knock", "--nocapture", "--ignored"]).env("TEAMSTER_LOG", "warn");
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let one_by_one = said.lines().filter(|line| line.contains("a connection was refused from=")).count();
    let counted = said.lines().filter(|line| line.contains("more connections were refused"));
    let counted = counted.filter_map(|line| line.rsplit_once("count=")?.1.parse::<usize>().ok()).sum::<usize>();
    assert_eq!(one_by_one + counted, MANY, "{said}");
    assert!(one_by_one < MANY / 2, "{said}");
}

const MANY: usize = 1000;

#[teamster::test]
#[ignore = "a program that a test starts"]
async fn many_knock() -> Result<(), Error> {
    teamster::root()
        .transport(Transport::Tcp)
        .open(async |_an| {
            let addr = place(&teamster::this_actor()?);
            let knock = move || (0..MANY).for_each(|_| drop(answer_to(addr, b"GET / HTTP/1.1\r\n\r\n")));
            Ok(tokio::task::spawn_blocking(knock).await?)
        })
        .await
}

/// The first message of a client that knows TLS 1.2, and nothing later: RFC 5246, section 7.4.1.2.
const OLD_HELLO: &[u8] = b"\x16\x03\x01\x00\x45\x01\x00\x00\x41\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x04\xc0\x2b\xc0\x2f\x01\x00\
    \x00\x14\x00\x0a\x00\x04\x00\x02\x00\x17\x00\x0d\x00\x08\x00\x06\x04\x03\x08\x04\x04\x01";

/// Ten thousand begin a handshake and leave it at that. The actor keeps 256 of them at most, and serves all who mean it.
#[teamster::test(exclusive)]
async fn ten_thousand_half_open_connections_hold_up_nobody() -> Result<(), Error> {
    const ALL: usize = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let highest = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, highest).expect("up to the hard limit");
    // As many at once as this process may hold; the actor has let go of the oldest by then.
    let at_once = limit.maximum.map_or(ALL, |most| ALL.min(usize::try_from(most).unwrap_or(ALL).saturating_sub(200)));
    teamster::open_nursery(async |an| {
        let (far, near) = (far(an).await?, an.actor("near").transport(Transport::Tcp).start().await?);
        assert_eq!(far.run(add(1, 2)).await?, 3);
        let (addr, pid) = (place(&far), far.aid().pid());
        let (rss, descriptors) = holds(pid);
        let knocks = tokio::task::spawn_blocking(move || {
            let mut half_open = std::collections::VecDeque::new();
            for _ in 0..ALL {
                let mut line = TcpStream::connect(addr)?;
                // One that was let go at once may be closed by now.
                let _ = line.write_all(&OLD_HELLO[..20]);
                half_open.push_back(line);
                if half_open.len() > at_once {
                    half_open.pop_front();
                }
            }
            Ok::<_, std::io::Error>(half_open)
        });
        let (mut most, mut slowest, mut calls) = ((0, 0), Duration::ZERO, 0);
        while !knocks.is_finished() {
            let began = std::time::Instant::now();
            assert_eq!(far.run(add(1, 2)).await?, 3);
            (slowest, calls) = (slowest.max(began.elapsed()), calls + 1);
            let now = holds(pid);
            most = (most.0.max(now.0), most.1.max(now.1));
            tokio::task::yield_now().await;
        }
        let half_open = knocks.await??;
        let began = std::time::Instant::now();
        assert_eq!(near.run(adds_in(far.clone(), 1, 2)).await?, 3, "a newcomer is let in");
        let newcomer = began.elapsed();
        let now = holds(pid);
        most = (most.0.max(now.0), most.1.max(now.1));
        println!(
            "{} held open: {} KiB more, {} descriptors more at most; {calls} calls, the slowest {slowest:?}; a newcomer in \
             {newcomer:?}",
            half_open.len(),
            most.0.saturating_sub(rss),
            most.1.saturating_sub(descriptors)
        );
        assert!(most.1 <= descriptors + 256 + 16, "{descriptors} descriptors, then {}", most.1);
        assert!(most.0 <= rss + 32 * 1024, "{rss} KiB, then {}", most.0);
        assert!(slowest < Duration::from_secs(2) && newcomer < Duration::from_secs(2), "{slowest:?}, {newcomer:?}");
        drop(half_open);
        assert_eq!(far.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await
}

/// A host that floods an actor pushes out its own connections, not another's that is slow.
#[teamster::test]
async fn who_knocks_often_pushes_out_himself() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let addr = place(&far(an).await?);
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 2], 0).into())?;
        let patient = socket.connect(addr).await?;
        let mut flood = Vec::new();
        for _ in 0..600 {
            flood.push(tokio::net::TcpStream::connect(addr).await?);
        }
        // Its oldest half was let go in turn: here is the end of each.
        for line in &mut flood[..300] {
            let ended = tokio::io::AsyncReadExt::read(line, &mut [0]).await;
            assert!(!ended.is_ok_and(|count| count > 0), "nobody has said anything");
        }
        assert!(matches!(patient.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
        Ok(())
    })
    .await
}

#[teamster::test]
async fn those_who_say_nothing_hold_up_nobody() -> Result<(), Error> {
    teamster::root()
        .transport(Transport::Tcp)
        .open(async |an| {
            let addr = place(&teamster::this_actor()?);
            let silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(addr)).collect::<Result<_, _>>()?;
            let began = std::time::Instant::now();
            let one = an.start_actor("one").await?;
            assert_eq!(one.run(add(1, 2)).await?, 3);
            assert!(began.elapsed() < Duration::from_secs(4), "not when their time is over: {:?}", began.elapsed());
            drop(silent);
            Ok(())
        })
        .await
}

/// Two trees of one program: neither believes the other.
#[teamster::test(exclusive)]
async fn another_trees_actor_is_not_believed() -> Result<(), Error> {
    let (told, portals) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let other_tree = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(teamster::open_nursery(async |an| {
            told.send(far(an).await?).expect("the test waits");
            ended.await.ok();
            Ok(())
        }))
    });
    let theirs = portals.recv().expect("the other tree grows");
    teamster::open_nursery(async |an| {
        let ours = far(an).await?;
        let refused = ours.run(adds_in(theirs.clone(), 1, 2)).await.expect_err("they are strangers");
        assert!(refused.to_string().contains("it belongs to another tree, or to none"), "{refused}");
        Ok(())
    })
    .await?;
    end.send(()).expect("the other tree waits");
    other_tree.join().expect("it does not panic")
}

/// What a root says that has only its environment to go by.
fn said_with(variable: &str, value: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "a_tree_by_the_environment", "--nocapture", "--ignored"])
        .env(variable, value)
        .output()
        .expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_transport_that_is_none_is_refused() {
    let said = said_with("TEAMSTER_TRANSPORT", "pigeon");
    assert!(said.contains("\"pigeon\" is none of uds, tcp, insecure"), "{said}");
}

#[test]
fn the_environment_says_where_a_root_listens() {
    let said = said_with("TEAMSTER_LISTEN", "/ip4/127.0.0.2/tcp/0, /ip4/127.0.0.3/tcp/0/insecure");
    assert!(said.contains("it listens at /ip4/127.0.0.2/tcp/") && said.contains("/ip4/127.0.0.3/tcp/"), "{said}");
    assert!(!said.contains("/tcp/0"), "the ports are known: {said}");
    let said = said_with("TEAMSTER_LISTEN", "");
    assert!(said.contains("it listens at /uds/"), "{said}");
    let said = said_with("TEAMSTER_LISTEN", "10.0.0.1:4711");
    assert!(said.contains("TEAMSTER_LISTEN: \"10.0.0.1:4711\" is no address: one begins with a kind"), "{said}");
}

#[teamster::test]
#[ignore = "a program that a test starts"]
async fn a_tree_by_the_environment() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let child = an.start_actor("child").await?;
        assert_eq!(child.run(add(1, 2)).await?, 3);
        for addr in teamster::this_actor()?.addrs() {
            println!("it listens at {addr}");
        }
        Ok(())
    })
    .await
}

#[teamster::test]
#[ignore = "needs openssl"]
async fn openssl_is_refused_without_a_certificate() -> Result<(), Error> {
    teamster::open_nursery(async |an| {
        let far = far(an).await?;
        let addr = place(&far);
        let client = move || {
            std::process::Command::new("openssl")
                .args(["s_client", "-tls1_3", "-connect", &addr.to_string()])
                .stdin(std::process::Stdio::null())
                .output()
        };
        let output = tokio::task::spawn_blocking(client).await??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("TLSv1.3"), "it is TLS 1.3: {said}");
        assert!(said.contains("CN = an actor of teamster") || said.contains("CN=an actor of teamster"), "{said}");
        let old = move || {
            std::process::Command::new("openssl")
                .args(["s_client", "-tls1_2", "-connect", &addr.to_string()])
                .stdin(std::process::Stdio::null())
                .output()
        };
        let old = tokio::task::spawn_blocking(old).await??;
        assert!(!old.status.success(), "TLS 1.2 is refused");
        assert_eq!(far.run(add(1, 2)).await?, 3);
        Ok(())
    })
    .await
}

#[teamster::test]
async fn an_actor_listens_where_it_is_told_to() -> Result<(), Error> {
    for all in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"] {
        let ended = teamster::root().listen(all.parse().expect("it is an address")).open(async |an| {
            let (near, here) = (an.start_actor("near").await?, teamster::this_actor()?);
            for told in [here.addrs(), near.addrs()] {
                assert!(matches!(told[0], Addr::Uds(_)), "the nearest comes first: {told:?}");
                let unspecified =
                    |addr: &Addr| addr.to_string().contains("0.0.0.0") || addr.to_string().contains("/::/");
                assert!(!told.iter().any(unspecified), "nobody can connect there: {told:?}");
            }
            assert_eq!(near.run(add(1, 2)).await?, 3);
            Ok(())
        });
        match ended.await {
            Err(Error::Transport { reason, .. }) if all.starts_with("/ip6") => {
                assert!(reason.contains("/ip6/::/tcp/0"), "{reason}"); // no IPv6 here
            }
            ended => ended?,
        }
    }
    Ok(())
}

#[teamster::test]
async fn an_address_that_nobody_can_listen_at_is_refused() -> Result<(), Error> {
    const REFUSED: [(&str, &str); 5] = [
        ("/ip4/192.0.2.7/tcp/0", "/ip4/192.0.2.7/tcp/0"), // of nobody: RFC 5737
        ("/dns/no-such-host.invalid/tcp/0", "/dns/no-such-host.invalid/tcp/0"), // RFC 6761
        ("/ip4/10.0.0.1/tcp/0/insecure", "only the loopback interface may be insecure"),
        ("/dns/localhost/tcp/0/insecure", "only the loopback interface may be insecure"),
        ("/uds/tmp/own.s", "its Unix socket is in the folder of its tree"),
    ];
    for (addr, said) in REFUSED {
        let ended = teamster::root().listen(addr.parse().expect("it is an address")).open(async |_an| Ok(())).await;
        let error = ended.expect_err(addr).to_string();
        assert!(error.contains(said) && error.contains(addr), "{addr}: {error}");
    }
    teamster::root()
        .open(async |an| {
            for (addr, said) in REFUSED {
                let child = an.actor("child").listen(addr.parse().expect("it is an address"));
                let error = child.start().await.expect_err(addr).to_string();
                assert!(error.contains(said) && error.contains(addr), "{addr}: {error}");
            }
            let child = an.actor("child").listen("/ip4/127.0.0.1/tcp/0".parse().expect("it is an address"));
            assert_eq!(child.start().await?.run(add(1, 2)).await?, 3, "the nursery goes on");
            Ok(())
        })
        .await
}
