use std::future::poll_fn;

use bytes::BytesMut;

use super::*;
use crate::msg::addr::HostPort;
use crate::msg::frame::{self, Encoding, Frame};
use crate::transport::socket::Socket;
use crate::transport::tls::Authority;

fn framed(frame: &Frame<'_>, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(frame, payload, &mut out);
    out
}

/// Both sides of a connection on the loopback interface.
async fn both() -> (Stream, Stream) {
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let authority = Authority::new().unwrap();
    let identity = |of| Identity::new(&authority.issue(of).unwrap()).unwrap();
    let (fd, addr) = bind_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listener = Listener::new(fd).unwrap();
    let (place, of_two, of_one) = (HostPort::from(addr), identity(two), identity(one));
    let answered = async { listener.accept().await.unwrap().answer(&of_two).await };
    let (called, answered) = tokio::join!(call(&place, &of_one, two), answered);
    let (called, answered) = (called.unwrap(), answered.unwrap());
    assert_eq!((called.is_with(two), answered.is_with(one)), (Some(true), Some(true)));
    assert_eq!(answered.is_with(two), Some(false));
    (called, answered)
}

async fn read(socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| socket.poll_recv(cx, into)).await
}

#[tokio::test]
async fn frames_go_both_ways_and_a_close_is_an_end() {
    let (one, two) = both().await;
    let (one, two) = (Socket::new(one).unwrap(), Socket::new(two).unwrap());
    let (ping, pong) = (framed(&Frame::Ping { nonce: 7 }, &[]), framed(&Frame::Pong { nonce: 7 }, &[]));
    assert_eq!(one.try_send(&ping, &[]).unwrap(), ping.len());
    let mut bytes = [0; 1024];
    assert_eq!(read(&two, &mut bytes).await.unwrap(), ping.len());
    assert_eq!(bytes[..ping.len()], ping);
    assert_eq!(two.try_send(&pong, &[]).unwrap(), pong.len());
    assert_eq!(read(&one, &mut bytes).await.unwrap(), pong.len());
    let start =
        Frame::Start { dialog: 1, endpoint: 0, path: Some("a"), deadline_us: None, encoding: Encoding::Named, left: 0 };
    let start = framed(&start, b"args");
    one.try_send(&start, &[]).unwrap();
    one.shutdown();
    assert_eq!(read(&two, &mut bytes).await.unwrap(), start.len(), "what came before the end");
    assert_eq!(read(&two, &mut bytes).await.unwrap(), 0);
    assert_eq!(read(&two, &mut bytes).await.unwrap(), 0, "the end stays");
}

#[tokio::test]
async fn who_has_gone_without_a_word_is_missed_at_the_next_ping() {
    let (one, two) = both().await;
    let one = Socket::new(one).unwrap();
    drop(two);
    assert!(one.tend(true).is_some());
    let mut bytes = [0; 8];
    let ended = tokio::time::timeout(Duration::from_secs(5), read(&one, &mut bytes)).await;
    assert_eq!(ended.expect("the kernel says it").unwrap(), 0);
}

#[tokio::test]
async fn what_was_sent_last_has_come_when_it_is_concluded() {
    let (one, two) = both().await;
    let two = Socket::new(two).unwrap();
    let word = framed(&Frame::Ping { nonce: 1 }, &[]);
    one.send(&word).unwrap();
    let concluding = std::thread::spawn(move || one.conclude(Instant::now() + Duration::from_secs(5)));
    let mut bytes = [0; 64];
    assert_eq!(read(&two, &mut bytes).await.unwrap(), word.len());
    assert_eq!(read(&two, &mut bytes).await.unwrap(), 0);
    concluding.join().unwrap();
}

#[tokio::test]
async fn another_conversation_goes_along_on_the_first_stream() {
    let (one, two) = both().await;
    let (one, two) = (Socket::new(one).unwrap(), Socket::new(two).unwrap());
    let hello = framed(&Frame::Ping { nonce: 7 }, &[]);
    one.try_send(&hello, &[]).unwrap();
    one.be_raw();
    one.try_send(b"no frame", &[]).unwrap();
    let mut bytes = [0; 64];
    assert_eq!(read(&two, &mut bytes).await.unwrap(), hello.len());
    two.be_raw();
    let mut came = Vec::new();
    while came.len() < 8 {
        let count = read(&two, &mut bytes).await.unwrap();
        came.extend_from_slice(&bytes[..count]);
    }
    assert_eq!(came, b"no frame");
}
