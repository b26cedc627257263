//! How does an actor on another host reach the prompt in its root's terminal?
//!
//! The first actor of a tree on a host listens where every actor there looks for the hub, and carries what is said to the
//! root, each conversation on a line of its own. A thread does it, from the first stop or dump on: the actor's own runtime
//! may be what stands still.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::hub::MAX_CONNECTIONS;
use crate::actor::host::ways_to;
use crate::actor::{Actor, Keep};
use crate::channel::driver::framed;
use crate::channel::handshake::{self, HANDSHAKE_WITHIN};
use crate::msg::addr::Addrs;
use crate::msg::frame::{Frame, Hello, LineKind, PROTOCOL};
use crate::transport::dial::{Caller, SILENT};
use crate::transport::socket::Socket;
use crate::transport::tunnel::carry;

/// Starts the thread, on the socket where the hub is looked for. It ends with the actor.
pub(super) fn open(actor: &Arc<Actor>, listener: OwnedFd) -> io::Result<()> {
    let (stop, stopped) = oneshot::channel();
    let way = Way::of(actor)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true)?;
    let thread = std::thread::Builder::new().name("teamster-tunnel".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                // An error of the listener's own: whoever stops sees no hub, and goes on.
                _ended = serve(listener, Arc::new(way)) => {}
                _stopped = stopped => {}
            }
        });
    })?;
    actor.keeps.lock().push(Box::new(Tunnel { _stop: stop, thread }));
    Ok(())
}

struct Tunnel {
    _stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keep for Tunnel {
    fn end(self: Box<Self>) {
        let Tunnel { _stop: stop, thread } = *self;
        drop(stop);
        // A panic there was said by the hook.
        let _ = thread.join();
    }
}

async fn serve(listener: StdListener, way: Arc<Way>) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut carried = JoinSet::new();
    loop {
        let (unix, _) = listener.accept().await?;
        while carried.try_join_next().is_some() {}
        if carried.len() < MAX_CONNECTIONS {
            let way = Arc::clone(&way);
            // How one ends is seen by whoever speaks on it.
            carried.spawn(async move { way.carry(unix).await });
        }
    }
}

/// The way to the root.
struct Way {
    actor: std::sync::Weak<Actor>,
    addrs: Addrs,
}

impl Way {
    fn of(actor: &Arc<Actor>) -> io::Result<Self> {
        let addrs = actor.root_addrs.clone().ok_or_else(|| io::Error::other("it has no root"))?;
        Ok(Way { actor: Arc::downgrade(actor), addrs })
    }

    async fn carry(&self, unix: UnixStream) -> io::Result<()> {
        let Some(actor) = self.actor.upgrade() else { return Ok(()) };
        let identity = actor.identity();
        let caller = Caller { identity: identity.as_ref(), lost_after: actor.settings.lost_after };
        let ways = ways_to(&actor.root, self.addrs.as_slice());
        let dialled = tokio::time::timeout(HANDSHAKE_WITHIN, caller.dial(actor.root.uuid(), ways)).await;
        let stream = match dialled {
            Ok(Ok((_addr, stream))) => stream,
            Ok(Err(failures)) => return Err(io::Error::other(format!("{failures:?}"))),
            Err(_late) => return Err(io::Error::new(io::ErrorKind::TimedOut, SILENT)),
        };
        let hello = Hello {
            protocol: PROTOCOL,
            aid: actor.aid.clone(),
            line: LineKind::Debug,
            token: None,
            build: None,
            addrs: Addrs::default(),
            wanted: Some(actor.root.uuid()),
        };
        drop(actor);
        let line = Socket::new(stream)?;
        // A fresh socket's buffer takes it whole.
        line.try_send(&framed(&Frame::Hello(hello), &[]), &[])?;
        let welcome = handshake::welcome(&line, tokio::time::sleep(HANDSHAKE_WITHIN)).await;
        let (_welcome, rest) = welcome.map_err(io::Error::other)?;
        carry(&line, &rest, unix).await
    }
}
