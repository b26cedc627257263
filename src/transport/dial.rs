//! Which of an actor's addresses works?
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use uuid::Uuid;

#[cfg(feature = "quic")]
use super::quic;
use super::stream::Stream;
use super::tls::{self, Identity};
use super::{tcp, uds};
use crate::msg::addr::Addr;

/// How long a connection is tried before the next one is beside it: RFC 8305, section 5.
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// What is said where no address has answered in the time that the caller has.
pub(crate) const SILENT: &str = "none of its addresses answers";

/// Who connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// What it shows, if it has anything to show.
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) lost_after: Duration,
}

/// An address that did not work, and why.
pub(crate) type Failure<'a> = (&'a Addr, io::Error);

impl Caller<'_> {
    /// A connection to the actor `peer`, with nothing said on it: by the nearest of its addresses that works.
    ///
    /// They are tried one after the other, the next one when those before have failed or had their head start.
    ///
    /// # Errors
    ///
    /// Those of all addresses.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing.
    pub(crate) async fn dial<'a>(
        self,
        peer: Uuid,
        addrs: impl IntoIterator<Item = &'a Addr>,
    ) -> Result<(&'a Addr, Stream), Vec<Failure<'a>>> {
        let mut later = addrs.into_iter().peekable();
        let (mut tries, mut failures) = (FuturesUnordered::new(), Vec::new());
        loop {
            tries.extend(later.next().map(|addr| async move { (addr, self.connect(peer, addr).await) }));
            let tried = match later.peek() {
                Some(_) => tokio::time::timeout(HEAD_START, tries.next()).await,
                None => Ok(tries.next().await),
            };
            match tried {
                Ok(Some((addr, Ok(stream)))) => return Ok((addr, stream)),
                Ok(Some((addr, Err(error)))) => failures.push((addr, error)),
                Ok(None) => return Err(failures),
                Err(_its_head_start_is_over) => {}
            }
        }
    }

    async fn connect(self, peer: Uuid, addr: &Addr) -> io::Result<Stream> {
        match addr {
            Addr::Uds(path) => uds::dial(path).map(Stream::plain),
            Addr::InsecureTcp(place) => {
                let fd = tcp::dial(place, self.lost_after).await?;
                if !tcp::is_loopback(fd.as_fd()) {
                    return Err(io::Error::other("only the loopback interface may be insecure"));
                }
                Ok(Stream::plain(fd))
            }
            Addr::Tcp(place) => {
                let identity = self.shown()?;
                tls::call(tcp::dial(place, self.lost_after).await?, identity, peer).await
            }
            #[cfg(feature = "quic")]
            Addr::Quic(place) => quic::call(place, self.shown()?, peer).await,
            #[cfg(not(feature = "quic"))]
            Addr::Quic(_) => Err(no_quic()),
        }
    }
}

impl<'a> Caller<'a> {
    fn shown(self) -> io::Result<&'a Identity> {
        self.identity.ok_or_else(|| {
            io::Error::other("this actor has no certificate: give it, or its root, `.transport(Transport::Tcp)`, or another that is secured")
        })
    }
}

#[cfg(not(feature = "quic"))]
pub(crate) fn no_quic() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this program was built without teamster's feature `quic`")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use super::*;

    const CALLER: Caller<'static> = Caller { identity: None, lost_after: Duration::from_secs(5) };

    fn nowhere() -> Addr {
        Addr::Uds("/nowhere/a.s".into())
    }

    fn listening() -> (OwnedFd, Addr) {
        let (fd, addr) = tcp::bind_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        (fd, Addr::InsecureTcp(addr.into()))
    }

    #[tokio::test]
    async fn the_next_address_is_tried_at_once_when_one_fails() {
        let (_listener, there) = listening();
        let (addrs, began) = ([nowhere(), nowhere(), there.clone()], Instant::now());
        let (addr, _stream) = CALLER.dial(Uuid::nil(), &addrs).await.unwrap();
        assert_eq!(*addr, there);
        assert!(began.elapsed() < HEAD_START, "nobody was waited for");
    }

    #[tokio::test]
    async fn the_failures_of_all_are_told() {
        let (listener, gone) = listening();
        drop(listener);
        let addrs = [nowhere(), gone];
        let failures = CALLER.dial(Uuid::nil(), &addrs).await.unwrap_err();
        let kinds: Vec<_> = failures.iter().map(|(addr, error)| (*addr, error.kind())).collect();
        assert_eq!(kinds, [(&addrs[0], io::ErrorKind::NotFound), (&addrs[1], io::ErrorKind::ConnectionRefused)]);
        assert!(CALLER.dial(Uuid::nil(), &[]).await.unwrap_err().is_empty());
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn an_address_that_says_nothing_holds_up_nobody() {
        let authority = tls::Authority::new().unwrap();
        let identity = Identity::new(&authority.issue(Uuid::nil()).unwrap()).unwrap();
        let ((_silent, silent), (_listener, there)) = (listening(), listening());
        let Addr::InsecureTcp(place) = silent else { unreachable!("it was made so") };
        let (addrs, began) = ([Addr::Tcp(place), there.clone()], Instant::now());
        let (addr, _stream) = Caller { identity: Some(&identity), ..CALLER }.dial(Uuid::nil(), &addrs).await.unwrap();
        assert_eq!(*addr, there);
        assert!(began.elapsed() >= HEAD_START, "the nearest comes first");
    }
}
