//! Who knocks? Accepts connections, lets in whom it knows, and gives each line to its keeper.
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::child::{Child, Refusal};
use super::control::Command;
use super::crash::DEBUG_SOCKET;
use super::doors::Door;
use super::refusals::Refusals;
use super::{Actor, DataLine};
use crate::channel::Inbox;
use crate::channel::driver::{drive, framed};
use crate::channel::handshake::{self, HANDSHAKE_WITHIN, HandshakeError};
use crate::channel::line::{Line, LineInbox};
use crate::channel::{CancelLine, Channel, LineEnd, Parts};
use crate::msg::frame::{Encoding, Frame, Hello, LineKind, MAX_FRAME_BYTES, PROTOCOL, Welcome};
use crate::msg::spec::Token;
use crate::proto::connection::Side;
use crate::transport::socket::{self, Listener, Socket};
use crate::transport::stream::Stream;
use crate::transport::tls::Identity;
use crate::transport::tunnel::carry;
use crate::transport::{tcp, tls, uds};

/// A child that is to connect, and by which line.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) child: Arc<Child>,
    pub(crate) line: LineKind,
}

/// Connections that may be in their handshake at a time. One more, and one is let go that has taken long: who has
/// something to say says it in a few milliseconds.
const MAX_HANDSHAKES: usize = 256;

/// A line between peers closes after this time without a dialog.
const IDLE_AFTER: Duration = Duration::from_secs(10);

impl Actor {
    /// A child will show these tokens, each once.
    pub(crate) fn expect(&self, child: &Arc<Child>, data: Token, control: Token) {
        let mut expected = self.expected.lock();
        expected.insert(data, Expected { child: Arc::clone(child), line: LineKind::Data });
        expected.insert(control, Expected { child: Arc::clone(child), line: LineKind::Control });
    }

    /// The child is gone: tokens that it never showed open nothing any more.
    pub(crate) fn expect_no_more(&self, child: &Child) {
        self.expected.lock().retain(|_, expected| expected.child.key != child.key);
    }
}

/// Accepts until the actor ends. Who has not said by then who he is, is let go with it.
pub(crate) async fn listen(actor: Arc<Actor>, listener: Listener, door: Door) {
    let mut handshakes = JoinSet::new();
    let mut oldest: VecDeque<Knock> = VecDeque::new();
    let mut crowd = Crowd { let_go: 0, told_at: None };
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let refusals = Arc::new(Refusals::default());
    loop {
        match listener.accept().await {
            Ok(knock) => {
                while handshakes.try_join_next().is_some() {} // how they ended was said there
                oldest.retain(|knock| !knock.handshake.is_finished());
                if room.available_permits() == 0
                    && let Some(slow) = slowest(&mut oldest)
                {
                    slow.handshake.abort();
                    crowd.tell();
                }
                // One that was let go holds its descriptor until the runtime has had time to drop it.
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return }; // nobody closes it
                let (knocked, door, refusals) = (Arc::clone(&actor), door.clone(), Arc::clone(&refusals));
                let from = knock.from();
                #[cfg(feature = "quic")]
                let knock = asked_again(knock, &listener, room.available_permits());
                let handshake = async move {
                    let _place = place;
                    match let_in(&knocked, knock, &door).await {
                        // It was asked to knock once more.
                        Err(HandshakeError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => refusals.tell(from, &error),
                        Ok(()) => {}
                    }
                };
                let handshake = handshakes.spawn_on(handshake, &actor.runtime);
                oldest.push_back(Knock { from: from.map(|addr| addr.ip()), handshake });
            }
            Err(error) => {
                // Out of descriptors, mostly: those who knock stay in the backlog meanwhile.
                tracing::warn!(target: "teamster::channel", %error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// Where so many handshakes go on that they may be of nobody, who knocks by a datagram has to show that it has come from where
/// it says.
#[cfg(feature = "quic")]
fn asked_again(knock: socket::Knock, listener: &Listener, places_left: usize) -> socket::Knock {
    match knock {
        socket::Knock::Quic(knock) if places_left < MAX_HANDSHAKES / 2 => {
            listener.expect_again(Some(knock.from()));
            socket::Knock::Quic(knock.in_a_crowd())
        }
        knock => knock,
    }
}

/// A handshake that goes on.
struct Knock {
    /// None: on a Unix socket.
    from: Option<IpAddr>,
    handshake: AbortHandle,
}

/// The one that has taken longest, of those from where most come: who knocks a thousand times pushes out himself.
fn slowest(oldest: &mut VecDeque<Knock>) -> Option<Knock> {
    let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
    for knock in oldest.iter() {
        *counts.entry(knock.from).or_default() += 1;
    }
    let (crowded, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let at = oldest.iter().position(|knock| knock.from == crowded)?;
    oldest.remove(at)
}

/// More have knocked at once than were let in: said once a second at most.
struct Crowd {
    let_go: u64,
    told_at: Option<Instant>,
}

impl Crowd {
    fn tell(&mut self) {
        self.let_go += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            let count = self.let_go;
            tracing::warn!(
                target: "teamster::channel", count,
                "connections were let go that had not said who they are, since {MAX_HANDSHAKES} others did not either"
            );
            (self.let_go, self.told_at) = (0, Some(Instant::now()));
        }
    }
}

/// How long the listener rests after the system refused it a descriptor.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Makes sure of who knocks, as far as the connection itself tells.
async fn shown(actor: &Arc<Actor>, knock: socket::Knock, door: &Door) -> Result<Stream, HandshakeError> {
    #[cfg_attr(not(feature = "quic"), expect(clippy::infallible_destructuring_match, reason = "there is a second one"))]
    let fd = match knock {
        socket::Knock::Stream(fd) => fd,
        #[cfg(feature = "quic")]
        socket::Knock::Quic(knock) => {
            return in_time(actor, async |identity| knock.answer(&identity).await).await;
        }
    };
    let user = match door {
        Door::Uds | Door::Quic => uds::peer(fd.as_fd())?.uid.as_raw(), // a datagram comes as one
        Door::Insecure => {
            tcp::prepare(&fd, actor.settings.lost_after)?;
            tcp::peer_user(fd.as_fd())?
        }
        Door::Tls => {
            tcp::prepare(&fd, actor.settings.lost_after)?;
            return in_time(actor, async |identity| tls::answer(fd, &identity).await).await;
        }
    };
    let stream = Stream::plain(fd);
    if user != rustix::process::getuid().as_raw() {
        handshake::refuse(&stream, "another user's process");
        return Err(HandshakeError::Unwelcome(format!("a process of the user {user} knocked")));
    }
    Ok(stream)
}

/// A handshake with what the actor shows, which takes no longer than others.
async fn in_time(
    actor: &Arc<Actor>,
    answer: impl AsyncFnOnce(Identity) -> io::Result<Stream>,
) -> Result<Stream, HandshakeError> {
    let shake_hands = async {
        let identity = actor.newest_identity().await;
        answer(identity.ok_or_else(|| io::Error::other("there is no certificate to show"))?).await
    };
    tokio::select! {
        biased; // what has come is not late
        stream = shake_hands => stream.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => HandshakeError::Ended,
            _ => error.into(),
        }),
        () = actor.clock.sleep(HANDSHAKE_WITHIN) => Err(HandshakeError::Slow),
    }
}

async fn let_in(actor: &Arc<Actor>, knock: socket::Knock, door: &Door) -> Result<(), HandshakeError> {
    let stream = match shown(actor, knock, door).await {
        // A probe that closes without a word is no event.
        Err(HandshakeError::Ended) => return Ok(()),
        shown => shown?,
    };
    let (hello, rest) = match handshake::hello(&stream, actor.clock.sleep(HANDSHAKE_WITHIN)).await {
        Ok(hello) => hello,
        Err(HandshakeError::Ended) => return Ok(()), // the same
        Err(error) => {
            handshake::refuse(&stream, &error.to_string());
            return Err(error);
        }
    };
    let refused = |reason: &str| {
        handshake::refuse(&stream, reason);
        HandshakeError::Unwelcome(format!("{} (pid {}): {reason}", hello.aid, hello.aid.pid()))
    };
    if stream.is_with(hello.aid.uuid()) == Some(false) {
        return Err(refused("its certificate was made for another actor"));
    }
    if hello.wanted.is_some_and(|wanted| wanted != actor.aid.uuid()) {
        return Err(refused("another actor lives at this address now"));
    }
    match hello.token {
        None if hello.line == LineKind::Data => {
            let is_foreign = stream.is_foreign(actor.identity().as_ref());
            let parts = Parts { is_foreign, ..peer_parts(actor, hello, Side::Accepting) };
            let channel = Channel::new(Socket::new(stream)?, parts);
            actor.adopt_peer(&channel);
            channel.wake_driver();
            keep_moving(actor, channel, &rest);
            Ok(())
        }
        None if hello.line == LineKind::Debug => {
            let is_shown = stream.is_with(hello.aid.uuid()) == Some(true);
            let is_ours = is_shown && !stream.is_foreign(actor.identity().as_ref());
            if !is_ours || !actor.is_root() || super::crash::debugger().is_none() {
                return Err(refused("there is no debugger for it here"));
            }
            debug_line(actor, stream, rest).await
        }
        None => Err(refused("a control line needs a token")),
        Some(token) => {
            // Taken out at once: a token that is shown twice is shown by a stranger.
            let expected = actor.expected.lock().remove(&token);
            let Some(expected) = expected.filter(|expected| expected.line == hello.line) else {
                return Err(refused("an unknown token, or one that was used already"));
            };
            let build = super::build::build_id();
            if hello.build.as_deref().is_some_and(|theirs| theirs != build) {
                let child = &expected.child;
                // Told once is enough: both lines say the same.
                let _ = child.refused.set(Refusal::OtherBuild);
                cancel_refused(actor, child);
                return Err(refused("another build of the program"));
            }
            child_line(actor, expected, hello, stream, rest).await
        }
    }
}

/// An actor on another host of this tree speaks to the debugger: what it says is carried to the socket where others do.
async fn debug_line(actor: &Arc<Actor>, stream: Stream, rest: BytesMut) -> Result<(), HandshakeError> {
    let hub = tokio::net::UnixStream::connect(actor.folder.join(DEBUG_SOCKET)).await?;
    let line = Socket::new(stream)?;
    // A fresh socket's buffer takes it whole.
    line.try_send(&welcome(actor, true), &[])?;
    actor.spawn_driver(async move {
        // How it ends is seen by whoever speaks on it.
        let _ = carry(&line, &rest, hub).await;
    });
    Ok(())
}

/// A child whose handshake was refused is of no use: it is ended, and `start_actor` says why.
fn cancel_refused(actor: &Arc<Actor>, child: &Arc<Child>) {
    use crate::msg::ident::{CancelRequest, Canceller};
    let canceller = Canceller { aid: actor.aid.clone(), request: CancelRequest::Actor };
    actor.cancel_child(child, &canceller, Duration::ZERO);
}

async fn child_line(
    actor: &Arc<Actor>,
    expected: Expected,
    hello: Hello,
    stream: Stream,
    rest: BytesMut,
) -> Result<(), HandshakeError> {
    let child = expected.child;
    match hello.line {
        LineKind::Control => {
            let line = Arc::new(Line::new(stream));
            let inbox = LineInbox::new(&rest);
            // Its token let it in, so it is the first and only one.
            let _ = child.control.set(Arc::clone(&line));
            actor.control.attach(&child, line, inbox);
        }
        LineKind::Debug => return Err(HandshakeError::Unwelcome("no child has a token for that line".to_owned())),
        LineKind::Data => {
            let control: Arc<dyn CancelLine> = tokio::select! {
                line = child.control.wait() => Arc::clone(line) as Arc<dyn CancelLine>,
                _ended = child.reaped.wait() => return Err(HandshakeError::Ended),
            };
            // Its first data line says it, once.
            let _ = child.itself.set(hello.aid.clone());
            let addrs = hello.addrs.clone();
            // A child of our own program says its build, which was compared; one of another program has none.
            let same_build = hello.build.is_some();
            let mut parts = peer_parts(actor, hello, Side::Accepting);
            parts.encoding = if same_build { Encoding::Positional } else { Encoding::Named };
            parts.peer = child.known_as().clone();
            parts.control = Some(control);
            parts.idle_after = None;
            parts.grace = child.grace;
            parts.greeting = welcome(actor, same_build);
            if let Some(output) = &child.stderr {
                output.ready();
            }
            let may_stay = stream.is_on_network();
            let socket = Socket::new(stream).inspect_err(|error| {
                let errno = error.raw_os_error().unwrap_or_default();
                let _ = child.refused.set(Refusal::Limit { error: error.to_string(), errno });
                cancel_refused(actor, &child);
            })?;
            let channel = Channel::new(socket, parts);
            actor.add_line(&channel);
            let _ = child.channel.set(Arc::clone(&channel));
            // Told early enough, whenever the thread looks next: before it would end the child for being late.
            actor.control.book(Command::Ready { child: Arc::clone(&child) });
            let _ = child.listens.set(addrs.clone());
            actor.child_is_ready(child.known_as(), &addrs);
            // `start_actor` resumes, and its first call shares a write with the Welcome.
            let _ = child.connected.set(());
            let (service, inbox) = (Arc::clone(actor), Inbox::new(&rest));
            actor.spawn_driver(async move {
                tokio::select! {
                    biased; // an end that has come is the better one
                    () = drive(Arc::clone(&channel), Arc::clone(&service), inbox) => {}
                    () = outlived(&service, &child, &channel), if may_stay => {}
                }
                line_of_child_ended(&service, &child).await;
                // Only this task sets it, once.
                let _ = child.closed.set(());
            });
        }
    }
    Ok(())
}

/// Ends the line of a child that is gone, if its end does not come: something on the way may have lost it.
async fn outlived(actor: &Actor, child: &Child, channel: &Arc<DataLine>) {
    child.reaped.wait().await;
    actor.clock.sleep(child.lost_after).await;
    channel.close(LineEnd::Io("its actor is gone, and it had not ended".to_owned()));
    std::future::pending().await // the line's driver sees that
}

/// The data line of a child has ended. Mostly the child has, too; one that lives on without it can't
/// be called any more and is ended.
async fn line_of_child_ended(actor: &Arc<Actor>, child: &Arc<Child>) {
    let was_asked = child.was_asked.load(Ordering::Acquire);
    let is_ending = was_asked || child.reaped.get().is_some() || child.story.lock().asked.is_some();
    if is_ending || ends_now(child).await || actor.is_cancelled() {
        return;
    }
    child.story.lock().said.get_or_insert("its data line had broken".to_owned());
    actor.control.send(Command::LineBroken { child: Arc::clone(child) });
}

/// Whether the child's process ends now; of one on another host the word on that takes its way.
async fn ends_now(child: &Child) -> bool {
    if child.is_far {
        return tokio::time::timeout(FAR_WITHIN, child.reaped.wait()).await.is_ok();
    }
    super::peers::is_dead_soon(&child.aid).await
}

/// How long the end of a child on another host may take to be known here.
const FAR_WITHIN: Duration = Duration::from_secs(1);

fn welcome(actor: &Actor, same_build: bool) -> BytesMut {
    let max_frame_bytes = actor.settings.max_frame_bytes;
    let welcome = Welcome { protocol: PROTOCOL, aid: actor.aid.clone(), max_frame_bytes, same_build };
    framed(&Frame::Welcome(welcome), &[])
}

fn peer_parts(actor: &Actor, hello: Hello, side: Side) -> Parts {
    let build = super::build::build_id();
    let same_build = !build.is_empty() && hello.build.as_deref() == Some(build);
    Parts {
        peer: hello.aid,
        side,
        encoding: if same_build { Encoding::Positional } else { Encoding::Named },
        limit: actor.settings.max_frame_bytes,
        control: None,
        idle_after: Some(IDLE_AFTER),
        grace: actor.settings.grace,
        is_foreign: false,
        greeting: welcome(actor, same_build),
    }
}

/// The parts of a line that we have dialled: nothing to greet with.
pub(crate) fn dialled_parts(actor: &Actor, welcome: &Welcome) -> Parts {
    Parts {
        peer: welcome.aid.clone(),
        side: Side::Connecting,
        encoding: if welcome.same_build { Encoding::Positional } else { Encoding::Named },
        limit: welcome.max_frame_bytes.min(MAX_FRAME_BYTES),
        control: None,
        idle_after: Some(IDLE_AFTER),
        grace: actor.settings.grace,
        is_foreign: false,
        greeting: BytesMut::new(),
    }
}

/// Starts the line's driver.
pub(crate) fn keep_moving(actor: &Arc<Actor>, channel: Arc<DataLine>, rest: &[u8]) {
    let inbox = Inbox::new(rest);
    let service = Arc::clone(actor);
    actor.spawn_driver(drive(channel, service, inbox));
}
