//! A network that is bad: a TCP proxy that nobody knows of. The kernel of a namespace leads to it whatever connects there; it
//! connects to where that was meant to go, and passes on what is said, later and in other pieces.
#![allow(unsafe_code, dead_code, reason = "two options of sockets have no safe wrapper; not every file uses all of it")]
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::namespaces::Unshared;

/// From who has connected to who listens, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

/// When a connection is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The first connection is 0.
    pub(crate) connection: usize,
    pub(crate) way: Way,
    /// Bytes that still get through.
    pub(crate) after_bytes: u64,
}

/// What the proxy does to those who connect.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// With a seed: what is said arrives in odd pieces, each later by some time of its own.
    pub(crate) slow: Option<u64>,
    pub(crate) cut: Option<Cut>,
}

/// As long as it lives, the connections that are made in one namespace go through it. Dropped, it closes what is left.
pub(crate) struct Proxy {
    state: Arc<State>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    weather: Weather,
    connections: AtomicUsize,
    carried: AtomicU64,
    /// Nothing gets through any more this way, and nobody is told.
    silent: [AtomicBool; 2],
    /// Of this connection alone, if it is one.
    silent_one: AtomicUsize,
    /// This one is reset. Told by `lost`.
    lost_one: AtomicUsize,
    lost: Notify,
}

impl Proxy {
    pub(crate) fn new(on: &Unshared, weather: Weather) -> Self {
        if let Some(seed) = weather.slow {
            println!("the proxy's seed is {seed}");
        }
        let state = State {
            weather,
            connections: AtomicUsize::new(0),
            carried: AtomicU64::new(0),
            silent: Default::default(),
            silent_one: AtomicUsize::new(NONE),
            lost_one: AtomicUsize::new(NONE),
            lost: Notify::new(),
        };
        let (state, network) = (Arc::new(state), on.network());
        let ((end, ended), (told, port)) = (oneshot::channel(), std::sync::mpsc::channel());
        let of_thread = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = listen_in(&network).await;
                told.send(listener.local_addr().expect("it listens").port()).expect("it is waited for");
                tokio::select! {
                    () = serve(&listener, &of_thread) => {}
                    _ended = ended => {}
                }
            });
        });
        let port = port.recv().expect("it listens");
        on.run(&format!(
            "nft table ip proxy {{ chain out {{ type nat hook output priority -100 ; ip protocol tcp meta mark != {MARK} redirect to :{port} ; }} ; }}"
        ));
        Proxy { state, end: Some(end), thread: Some(thread) }
    }

    /// How many have connected to somebody.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Bytes that have got through, both ways.
    pub(crate) fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }

    /// What is said that way gets lost from now on; the kernels on both sides see connections that are in order.
    pub(crate) fn silence(&self, way: Way) {
        self.state.silent[way as usize].store(true, Ordering::Relaxed);
    }

    /// The same for one connection, both ways.
    pub(crate) fn silence_one(&self, connection: usize) {
        self.state.silent_one.store(connection, Ordering::Relaxed);
    }

    /// That connection is reset, on both sides.
    pub(crate) fn cut(&self, connection: usize) {
        self.state.lost_one.store(connection, Ordering::Relaxed);
        self.state.lost.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the proxy has panicked");
    }
}

/// Of no connection.
const NONE: usize = usize::MAX;

/// Connections of the proxy's own are not led back to it.
static MARK: u32 = 0x7e;

/// In that network, and so are the connections that this thread makes from then on.
async fn listen_in(network: &File) -> TcpListener {
    crate::namespaces::enter(network);
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a free port")
}

async fn serve(listener: &TcpListener, state: &Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (inner, _from) = listener.accept().await.expect("a connection");
        while connections.try_join_next().is_some() {}
        let state = Arc::clone(state);
        connections.spawn(async move {
            // Whatever has ended one side ends the other.
            let _ = carry(inner, &state).await;
        });
    }
}

async fn carry(mut inner: TcpStream, state: &State) -> io::Result<()> {
    let mut outer = match connect(original_destination(&inner)?).await {
        Ok(outer) => outer,
        Err(error) => {
            inner.set_zero_linger()?; // as near to a refusal as it gets
            return Err(error);
        }
    };
    let nth = state.connections.fetch_add(1, Ordering::Relaxed);
    let is_cut = async {
        loop {
            let lost = state.lost.notified();
            if state.lost_one.load(Ordering::Relaxed) == nth {
                return;
            }
            lost.await;
        }
    };
    inner.set_nodelay(true)?;
    outer.set_nodelay(true)?;
    let ended = {
        let ((from_inner, to_inner), (from_outer, to_outer)) = (inner.split(), outer.split());
        let there = pass_on(from_inner, to_outer, Way::There, nth, state);
        let back = pass_on(from_outer, to_inner, Way::Back, nth, state);
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => ended.map(drop),
            () = is_cut => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if ended.is_err() {
        inner.set_zero_linger()?;
        outer.set_zero_linger()?;
    }
    ended
}

/// Until that side has ended.
async fn pass_on(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, nth: usize, state: &State) -> io::Result<()> {
    let is_silent =
        || state.silent[way as usize].load(Ordering::Relaxed) || state.silent_one.load(Ordering::Relaxed) == nth;
    let mut chance = state.weather.slow.map(|seed| Chance(seed ^ ((nth as u64) << 1 | way as u64)));
    let mut left = state.weather.cut.filter(|cut| cut.connection == nth && cut.way == way).map(|cut| cut.after_bytes);
    let mut bytes = vec![0; 1 << 18];
    loop {
        let read = from.read(&mut bytes).await;
        if is_silent() {
            match read {
                Ok(0) | Err(_) => std::future::pending().await, // its end gets lost too
                Ok(_) => continue,
            }
        }
        let count = read?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let (piece, later) =
                rest.split_at(chance.as_mut().map_or(rest.len(), |chance| chance.piece_of(rest.len())));
            if let Some(delay) = chance.as_mut().and_then(|chance| chance.delay(count)) {
                tokio::time::sleep(delay).await;
            }
            let through = left.map_or(piece.len(), |left| piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            to.write_all(&piece[..through]).await?;
            state.carried.fetch_add(through as u64, Ordering::Relaxed);
            if let Some(left) = &mut left {
                *left -= through as u64;
                if *left == 0 {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            rest = later;
        }
    }
}

/// SplitMix64: the same seed does the same to the same bytes.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    /// Where to cut: mostly somewhere, often after very few bytes, seldom not at all.
    fn piece_of(&mut self, len: usize) -> usize {
        let piece = match self.below(4) {
            0 => 1 + self.below(7),
            1 | 2 => 1 + self.below(len),
            _ => len,
        };
        piece.min(len)
    }

    /// How much later it is written. A bulk transfer of `burst` bytes at a time is held up seldom, not to take for ever.
    fn delay(&mut self, burst: usize) -> Option<Duration> {
        let one_in = if burst < 16 << 10 { 2 } else { 32 };
        (self.below(one_in) == 0).then(|| Duration::from_micros(self.below(4000) as u64))
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // SAFETY: a plain call on a socket of ours, with an option of that size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const MARK).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    match done {
        0 => socket.connect(to).await,
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where a connection was meant to go that the kernel has led here.
fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    // SAFETY: all zeroes is an address, and the kernel writes no more than one into it.
    let mut addr: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: as above.
    let done = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_IP, libc::SO_ORIGINAL_DST, (&raw mut addr).cast(), &raw mut len)
    };
    match done {
        0 => {
            let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
            Ok(SocketAddrV4::new(ip, u16::from_be(addr.sin_port)).into())
        }
        _ => Err(io::Error::last_os_error()),
    }
}
