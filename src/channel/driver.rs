//! The loop of one data line: write what waits, read what came, hand it over.
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::inbox::Direct;
use super::link::{LinkEnd, Woken};
use super::{Channel, Flush, Inbox, Last, LineEnd, Outcome, Service, Start, Turn};
use crate::msg::frame::{self, AckState, Encoding, Frame};
use crate::msg::remote_error::WireError;
use crate::proto::connection::{Assembling, Head, Left, Piece, StartVerdict, Violation, Waits};

/// Bytes that are read before other tasks get their turn: what a small call waits for behind a long one.
const TURN_BYTES: usize = 256 * 1024;

/// What a short read counts for.
const READ_BYTES: usize = 8 * 1024;

/// A piece of which more is missing is read to where it belongs, in bytes.
const DIRECT_BYTES: usize = 8 * 1024;

/// How much more of a long payload finds room than has come of it: what is announced costs nothing, and what
/// comes is rarely moved.
const GROWTH: usize = 8;

/// Keeps the channel moving until its line ends.
pub(crate) async fn drive<S: Service>(channel: Arc<Channel<S>>, service: Arc<S>, mut inbox: Inbox) {
    let mut idle = Idle { timer: None, dialogs_seen: 0 };
    let end = poll_fn(|cx| {
        channel.driver.register(cx.waker());
        channel.driver_is_due.store(false, Ordering::Release);
        channel.shared.lock().note_items();
        let end = channel.poll_line(&service, &mut inbox, cx);
        if end.is_pending()
            && let Some(after) = channel.idle_after
        {
            return idle.poll(&channel, after, cx);
        }
        end
    })
    .await;
    channel.finish(&service, end);
}

/// Polls this task again when every other has had its turn. A plain wake is not that: on a current-thread runtime the future
/// of `block_on` has one turn for sixty-one of the tasks'.
pub(crate) fn after_the_others<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Its first poll is pending, always.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

impl<S: Service> Channel<S> {
    fn poll_line(self: &Arc<Self>, service: &Arc<S>, inbox: &mut Inbox, cx: &mut Context<'_>) -> Poll<LineEnd> {
        // What the handshake has read along comes before the next read.
        if !inbox.unhandled().is_empty()
            && let Err(end) = self.handle_all(service, inbox)
        {
            return Poll::Ready(end);
        }
        let mut read_bytes = 0;
        while read_bytes < TURN_BYTES {
            let is_cut_short = self.poll_write(service, cx);
            if self.shared.lock().end.is_some() {
                return Poll::Ready(LineEnd::Shutdown);
            }
            let read = match &mut inbox.direct {
                Some(direct) => self.socket.poll_recv_more(cx, &mut direct.bytes, direct.missing),
                None => self.socket.poll_recv(cx, inbox.room()),
            };
            let read = match read {
                // A runtime that has tasks to run, as this one, asks the kernel for news only now and then.
                Poll::Pending if is_cut_short => self.recv_now(inbox),
                read => read,
            };
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.end_of_stream()),
                Poll::Ready(Ok(n)) => {
                    read_bytes += n.max(READ_BYTES);
                    match &mut inbox.direct {
                        Some(direct) => direct.missing -= n,
                        None => inbox.received(n),
                    }
                }
                Poll::Ready(Err(error)) => {
                    // So the kernel tells it on a socket of its own: it was closed over there with something to read in it.
                    if error.kind() == io::ErrorKind::ConnectionReset && self.socket.is_unix() {
                        self.shared.lock().out.tail_is_unread();
                    }
                    return Poll::Ready(LineEnd::Io(error.to_string()));
                }
                Poll::Pending if is_cut_short => break,
                Poll::Pending => return Poll::Pending,
            }
            match self.handle_all(service, inbox) {
                // Whoever has got an answer goes on before more of a long payload is read.
                Ok(settled) if settled > 0 && inbox.direct.is_some() => break,
                Ok(_) => {}
                Err(end) => return Poll::Ready(end),
            }
        }
        self.driver_is_due.store(true, Ordering::Release);
        after_the_others(cx)
    }

    fn recv_now(&self, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        let read = match &mut inbox.direct {
            Some(direct) => self.socket.try_recv_more(&mut direct.bytes, direct.missing),
            None => self.socket.try_recv(inbox.room()),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    fn end_of_stream(&self) -> LineEnd {
        if self.shared.lock().bye_sent { LineEnd::Bye("it had been idle".into()) } else { LineEnd::Eof }
    }

    /// Writes what waits; whether there is more that could be written.
    fn poll_write(&self, service: &Arc<S>, cx: &mut Context<'_>) -> bool {
        let mut turn = Turn::new();
        loop {
            match self.try_flush() {
                Flush::Dead => return false,
                Flush::More => return true,
                Flush::Done => {
                    let mut shared = self.shared.lock();
                    if !shared.out.is_quiet() || !service.idle_frames(self, shared.out.idle_buffer()) {
                        return false;
                    }
                }
                Flush::Blocked => {
                    let mut woken = Woken::default();
                    let is_flushed = match self.socket.poll_flush(cx) {
                        Poll::Pending => return false,
                        Poll::Ready(is_flushed) => is_flushed,
                    };
                    let mut shared = self.shared.lock();
                    if is_flushed.is_err() {
                        shared.out.die(&mut woken); // the driver meets the end of the line when it has read what came before
                    }
                    shared.out.unblock();
                    let write = shared.out.begin_write(&mut woken);
                    shared.wake_room();
                    let Ok(write) = write else { continue };
                    drop(shared);
                    // Nothing is sent with this, mostly: it clears the stale readiness and registers us.
                    let (leaving, piece) = write.rest();
                    let sent = self.socket.poll_send(cx, leaving, piece);
                    let (result, is_pending) = match sent {
                        Poll::Ready(result) => (result, false),
                        Poll::Pending => (Err(io::ErrorKind::WouldBlock.into()), true),
                    };
                    let mut shared = self.shared.lock();
                    // A dead end is met by the next flush.
                    if shared.out.end_write(write, &result, &mut woken).is_ok() && !self.socket.is_flushed() {
                        shared.out.block();
                    }
                    shared.wake_room();
                    if is_pending {
                        return false;
                    }
                }
            }
            if turn.is_over() {
                return true;
            }
        }
    }

    /// Hands over what was read; how many calls that has ended.
    fn handle_all(self: &Arc<Self>, service: &Arc<S>, inbox: &mut Inbox) -> Result<usize, LineEnd> {
        let mut woken = Woken::default();
        let mut settled = 0;
        if let Some(direct) = inbox.direct.take_if(|direct| direct.missing == 0) {
            inbox.expects_header = direct.left > 0;
            if let Some(place) = self.shared.lock().dialogs.assembling(direct.dialog) {
                *place = direct.bytes;
            }
            self.on_piece(service, direct.dialog, direct.piece_bytes, direct.left, &mut woken)?;
        }
        if inbox.direct.is_some() {
            return Ok(settled);
        }
        loop {
            match frame::decode(inbox.unhandled(), self.limit) {
                Ok(None) => {
                    if settled > 0 {
                        self.shared.lock().settled_at_once = settled;
                    }
                    self.read_past(inbox);
                    return Ok(settled);
                }
                Ok(Some((frame, payload, taken))) => {
                    settled += usize::from(matches!(frame, Frame::Return { .. } | Frame::Error { .. }));
                    self.handle(service, frame, payload, &mut woken)?;
                    inbox.handled(taken);
                }
                Err(error) => return Err(LineEnd::Violation(error.to_string())),
            }
        }
    }

    /// The rest of a big piece is read to where it belongs, and not copied a second time.
    fn read_past(&self, inbox: &mut Inbox) {
        let Some((dialog, left, head, piece_bytes)) = frame::part_ahead(inbox.unhandled(), self.limit) else { return };
        let here = inbox.unhandled().len() - head;
        if piece_bytes - here < DIRECT_BYTES {
            return;
        }
        // Of a dialog that has ended: it is read as well, and thrown away.
        let mut bytes = self.shared.lock().dialogs.assembling(dialog).map(std::mem::take).unwrap_or_default();
        bytes.extend_from_slice(&inbox.unhandled()[head..]);
        inbox.handled(head + here);
        let missing = piece_bytes - here;
        let whole = missing.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
        let room = whole.min(bytes.len().saturating_mul(GROWTH)).max(missing);
        if bytes.capacity() - bytes.len() < missing {
            bytes.reserve_exact(room);
        }
        inbox.direct = Some(Direct { dialog, left, bytes, piece_bytes, missing });
    }

    fn handle(
        self: &Arc<Self>,
        service: &Arc<S>,
        frame: Frame<'_>,
        payload: &[u8],
        woken: &mut Woken,
    ) -> Result<(), LineEnd> {
        match frame {
            Frame::Start { dialog, endpoint, path, deadline_us, encoding, left } => {
                let mut shared = self.shared.lock();
                let verdict = shared.dialogs.on_start(dialog).map_err(violated)?;
                let endpoint = shared.dialogs.on_endpoint(endpoint, path, |path| service.resolve(path));
                let endpoint = endpoint.map_err(violated)?.clone();
                if shared.bye_sent {
                    shared.dialogs.end_served(dialog);
                    return Ok(()); // crossed our Bye: the peer sends it again on a new line
                }
                match verdict {
                    StartVerdict::Serve if left > 0 => {
                        let head = Head::Start { endpoint, encoding, deadline_us };
                        shared.dialogs.begin(dialog, head, payload, left, self.limit.into()).map_err(violated)?;
                    }
                    StartVerdict::Serve => {
                        drop(shared);
                        self.start(service, dialog, endpoint, encoding, deadline_us, payload);
                    }
                    StartVerdict::Cancelled(canceller) => {
                        drop(shared);
                        self.end_with(dialog, Last::Error, WireError::Cancelled(canceller).encode().into());
                    }
                }
            }
            Frame::StartAck { dialog } => {
                let mut shared = self.shared.lock();
                shared.dialogs.on_start_ack(dialog).map_err(violated)?;
                if let Some(key) = shared.dialogs.slot(dialog).and_then(|waiting| waiting.introduces.take()) {
                    shared.dialogs.is_introduced(key);
                }
            }
            Frame::Return { dialog, left, .. } if left > 0 => self.begin(dialog, Head::Return, payload, left)?,
            Frame::Return { dialog, .. } => {
                self.settle("Return", dialog, woken, || Outcome::Returned(payload.to_vec()))?;
            }
            Frame::Error { dialog, left } if left > 0 => self.begin(dialog, Head::Error, payload, left)?,
            Frame::Error { dialog, .. } => {
                self.settle("Error", dialog, woken, || Outcome::Failed(payload.to_vec()))?;
            }
            Frame::Started { dialog, left, .. } if left > 0 => self.begin(dialog, Head::Started, payload, left)?,
            Frame::Started { dialog, .. } => self.on_started(dialog, payload.to_vec(), woken)?,
            Frame::Yield { dialog, left, .. } => self.on_yield(dialog, payload, left, woken)?,
            Frame::Part { dialog, left } => {
                if let Some(place) = self.shared.lock().dialogs.assembling(dialog) {
                    place.extend_from_slice(payload);
                }
                self.on_piece(service, dialog, payload.len(), left, woken)?;
            }
            Frame::Open { dialog } => {
                if let Some(link) = self.link_for("Open", dialog)? {
                    link.on_open(woken).map_err(violated)?;
                }
            }
            Frame::Stop { dialog, how } => {
                if let Some(link) = self.link_for("Stop", dialog)? {
                    link.on_stop(how, woken).map_err(violated)?;
                }
            }
            Frame::Credit { dialog, up_to } => {
                if let Some(link) = self.link_for("Credit", dialog)? {
                    link.on_credit(up_to, woken);
                    // A long item may have waited for it: the driver looks at them before it reads on.
                }
            }
            Frame::Cancel { dialog: 0, canceller, .. } => {
                self.acknowledge_cancel(0, AckState::Asked);
                service.on_cancel_actor(self, canceller);
            }
            Frame::Cancel { dialog, canceller, .. } => {
                let state = self.on_cancel(dialog, &canceller).map_err(violated)?;
                self.acknowledge_cancel(dialog, state);
            }
            Frame::CancelAck { dialog, .. } => self.on_cancel_ack(dialog), // only Return or Error ends a dialog
            Frame::Pong { .. } => {}
            Frame::Ping { nonce } => self.shared.lock().out.urgent(&Frame::Pong { nonce }),
            Frame::Log => service.on_log(self, payload),
            Frame::Bye { reason } => {
                self.shared.lock().out.urgent(&Frame::Bye { reason: "goodbye" });
                self.try_flush();
                return Err(match reason {
                    BYE_IDLE => LineEnd::Bye(reason.to_owned()),
                    _ => LineEnd::Dropped(reason.to_owned()),
                });
            }
            Frame::Hello(_) => return Err(violated(Violation::Misplaced("Hello"))),
            Frame::Welcome(_) => return Err(violated(Violation::Misplaced("Welcome"))),
            Frame::Spawning => return Err(violated(Violation::Misplaced("Spawning"))),
            Frame::SpawnRecord { .. } => return Err(violated(Violation::Misplaced("SpawnRecord"))),
            Frame::Ready { .. } => return Err(violated(Violation::Misplaced("Ready"))),
            Frame::TasksGone => return Err(violated(Violation::Misplaced("TasksGone"))),
            Frame::Signalled { .. } => return Err(violated(Violation::Misplaced("Signalled"))),
            Frame::EndAsked { .. } => return Err(violated(Violation::Misplaced("EndAsked"))),
            Frame::End { .. } => return Err(violated(Violation::Misplaced("End"))),
            Frame::Ended { .. } => return Err(violated(Violation::Misplaced("Ended"))),
            Frame::ObituaryAsked { .. } => return Err(violated(Violation::Misplaced("ObituaryAsked"))),
            Frame::Dump { .. } => return Err(violated(Violation::Misplaced("Dump"))),
            Frame::Load { .. } => return Err(violated(Violation::Misplaced("Load"))),
            Frame::Stuck { .. } => return Err(violated(Violation::Misplaced("Stuck"))),
            Frame::Obituary { .. } => return Err(violated(Violation::Misplaced("Obituary"))),
            Frame::Gone { .. } => return Err(violated(Violation::Misplaced("Gone"))),
            Frame::Beat { .. } => return Err(violated(Violation::Misplaced("Beat"))),
            Frame::Hold { .. } => return Err(violated(Violation::Misplaced("Hold"))),
            Frame::Stood { .. } => return Err(violated(Violation::Misplaced("Stood"))),
        }
        Ok(())
    }

    fn acknowledge_cancel(&self, dialog: u64, state: AckState) {
        self.shared.lock().out.urgent(&Frame::CancelAck { dialog, state });
    }

    fn start(
        self: &Arc<Self>,
        service: &Arc<S>,
        dialog: u64,
        endpoint: S::Endpoint,
        encoding: Encoding,
        deadline_us: Option<u64>,
        args: &[u8],
    ) {
        let deadline = deadline_us.map(std::time::Duration::from_micros);
        service.on_start(self, Start { dialog, endpoint, encoding, deadline }, args);
    }

    fn begin(&self, dialog: u64, head: Head<S::Endpoint>, first: &[u8], left: u64) -> Result<(), LineEnd> {
        let mut shared = self.shared.lock();
        // Only a dialog that is open here has something to wait for.
        if shared.dialogs.slot(dialog).is_none() && shared.dialogs.served_one(dialog).is_none() {
            return match shared.dialogs.has_been(dialog) {
                true => Ok(()),
                false => Err(violated(Violation::NotOpen { kind: "a long payload", dialog })),
            };
        }
        shared.dialogs.begin(dialog, head, first, left, self.limit.into()).map_err(violated)
    }

    /// A piece was put to the others: what follows from it.
    fn on_piece(
        self: &Arc<Self>,
        service: &Arc<S>,
        dialog: u64,
        bytes: usize,
        left: u64,
        woken: &mut Woken,
    ) -> Result<(), LineEnd> {
        let mut shared = self.shared.lock();
        let piece = shared.dialogs.on_piece(dialog, bytes, left).map_err(violated)?;
        let link = shared.link(dialog);
        drop(shared);
        match piece {
            Piece::Dropped | Piece::More { is_item: false } => Ok(()),
            Piece::More { is_item: true } => match link {
                Some(link) => self.grant(dialog, link.on_piece(bytes).map_err(violated)?),
                None => Ok(()),
            },
            Piece::Whole(Assembling { head, bytes: whole, .. }) => match head {
                Head::Start { endpoint, encoding, deadline_us } => {
                    self.start(service, dialog, endpoint, encoding, deadline_us, &whole);
                    Ok(())
                }
                Head::Started => self.on_started(dialog, whole, woken),
                Head::Return => self.settle("Return", dialog, woken, || Outcome::Returned(whole)),
                Head::Error => self.settle("Error", dialog, woken, || Outcome::Failed(whole)),
                Head::Yield => match link {
                    Some(link) => {
                        self.grant(dialog, link.on_piece(bytes).map_err(violated)?)?;
                        self.grant(dialog, link.on_long_item(whole, woken))
                    }
                    None => Ok(()),
                },
            },
        }
    }

    fn on_started(&self, dialog: u64, first: Vec<u8>, woken: &mut Woken) -> Result<(), LineEnd> {
        match self.link_for("Started", dialog)? {
            Some(link) => self.grant(dialog, link.on_started(first.into(), woken).map_err(violated)?),
            None => Ok(()),
        }
    }

    fn on_yield(&self, dialog: u64, items: &[u8], left: u64, woken: &mut Woken) -> Result<(), LineEnd> {
        let Some(link) = self.link_for("Yield", dialog)? else { return Ok(()) };
        if left == 0 {
            return self.grant(dialog, link.on_items(items.to_vec(), woken).map_err(violated)?);
        }
        self.begin(dialog, Head::Yield, items, left)?;
        self.grant(dialog, link.on_piece(items.len()).map_err(violated)?)
    }

    /// The context that a frame is for. `None`: it has ended here, and the frame was on its way.
    fn link_for(&self, kind: &'static str, dialog: u64) -> Result<Option<Arc<super::Link>>, LineEnd> {
        let mut shared = self.shared.lock();
        if let Some(link) = shared.link(dialog) {
            return Ok(Some(link));
        }
        let is_open = shared.dialogs.slot(dialog).is_some() || shared.dialogs.served_one(dialog).is_some();
        if is_open || !shared.dialogs.has_been(dialog) {
            return Err(violated(Violation::NotOpen { kind, dialog })); // a call has no stream
        }
        Ok(None)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is the last step of those that can fail")]
    fn grant(&self, dialog: u64, up_to: Option<u64>) -> Result<(), LineEnd> {
        if let Some(up_to) = up_to {
            self.shared.lock().out.urgent(&Frame::Credit { dialog, up_to });
        }
        Ok(())
    }

    fn settle(
        &self,
        kind: &'static str,
        dialog: u64,
        woken: &mut Woken,
        outcome: impl FnOnce() -> Outcome,
    ) -> Result<(), LineEnd> {
        let mut shared = self.shared.lock();
        let link = shared.link(dialog);
        let slot = shared.dialogs.on_end(kind, dialog).map_err(violated)?;
        if let Some(key) = slot.as_ref().and_then(|waiting| waiting.introduces) {
            shared.dialogs.is_introduced(key);
        }
        // Whatever our side still has to say, nobody hears it.
        shared.out.forget_rest(dialog, woken);
        if let Some(link) = link {
            let end = match outcome() {
                Outcome::Returned(bytes) => LinkEnd::Returned(bytes.into()),
                Outcome::Failed(bytes) => LinkEnd::Failed(bytes.into()),
                Outcome::Lost(left, end) => LinkEnd::Lost(left, end),
            };
            link.on_end(end, woken);
        } else if let Some(waiting) = slot {
            shared.done.insert(dialog, outcome());
            woken.0.extend(waiting.waker);
        }
        shared.wake_room();
        Ok(())
    }

    /// Tells every waiting dialog that the line is lost, once.
    fn finish(self: &Arc<Self>, service: &Arc<S>, end: LineEnd) {
        if let LineEnd::Violation(what) = &end {
            tracing::warn!(target: "teamster::channel", peer = %self.peer, what, "closing a line");
            let mut shared = self.shared.lock();
            shared.out.urgent(&Frame::Bye { reason: what });
            drop(shared);
            self.try_flush(); // as far as the kernel takes it: the peer's log should say why
        }
        self.close(end);
        self.socket.close();
        let end = self.end().unwrap_or(LineEnd::Eof);
        service.on_end(self, &end);
    }

    /// Ends the line from this side.
    pub(crate) fn close(&self, end: LineEnd) {
        let mut woken = Woken::default();
        let mut shared = self.shared.lock();
        if shared.end.is_none() {
            shared.end = Some(end.clone());
            let maybe_read = shared.out.maybe_read();
            // What we serve stays in the table: the service cancels it, and knows on whose behalf.
            for (dialog, waiting, left, waits) in shared.dialogs.on_lost(maybe_read) {
                if let Some(link) = waiting.link {
                    link.on_end(LinkEnd::Lost(left, end.clone()), &mut woken);
                } else if waits == Waits::Yes {
                    shared.done.insert(dialog, Outcome::Lost(left, end.clone()));
                }
                if waits == Waits::Yes {
                    shared.lost_paths.push(waiting.path);
                }
                woken.0.extend(waiting.waker);
            }
            for link in shared.dialogs.served().filter_map(|served| served.link.as_ref()) {
                link.on_end(LinkEnd::Lost(Left::Yes, end.clone()), &mut woken);
            }
            shared.out.die(&mut woken);
            woken.0.append(&mut shared.room);
            woken.0.append(&mut shared.flushed);
        }
        drop(shared);
        self.socket.shutdown();
        self.wake_driver();
    }
}

fn violated(violation: Violation) -> LineEnd {
    LineEnd::Violation(violation.to_string())
}

/// The one reason of a Bye that is more than a word for people: its sender serves nothing and has
/// served no Start that this Bye has crossed, so such a call may be made again.
const BYE_IDLE: &str = "idle";

/// Says Bye on a peer line that has had no dialog for a while.
struct Idle {
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    /// A dialog may come and go between two looks.
    dialogs_seen: u64,
}

impl Idle {
    fn poll<S: Service>(
        &mut self,
        channel: &Channel<S>,
        after: std::time::Duration,
        cx: &mut Context<'_>,
    ) -> Poll<LineEnd> {
        let (is_idle, dialogs) = {
            let shared = channel.shared.lock();
            // A result that is still leaving keeps the line: it is what its caller waits for.
            let has_left = shared.out.is_empty() && channel.socket.is_delivered();
            (shared.dialogs.is_idle() && has_left, shared.dialogs.begun())
        };
        if !is_idle || dialogs != self.dialogs_seen {
            (self.timer, self.dialogs_seen) = (None, dialogs);
        }
        if !is_idle {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        std::task::ready!(timer.as_mut().poll(cx));
        let mut shared = channel.shared.lock();
        if shared.bye_sent {
            return Poll::Ready(LineEnd::Bye("it had been idle".into()));
        }
        shared.bye_sent = true;
        shared.out.urgent(&Frame::Bye { reason: BYE_IDLE });
        drop(shared);
        self.timer = Some(Box::pin(tokio::time::sleep(after))); // for its answer
        channel.wake_driver();
        self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx)).map(|()| LineEnd::Bye("idle".into()))
    }
}

/// Appends a frame to a buffer: for those that send without a channel.
pub(crate) fn framed(frame: &Frame<'_>, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    frame::encode(frame, payload, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[test]
    fn a_task_that_always_goes_on_leaves_every_other_its_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let polls = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let counted = Arc::clone(&polls);
            let mut tasks = JoinSet::new();
            tasks.spawn(poll_fn(move |cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                after_the_others::<()>(cx)
            }));
            for turn in 1..100 {
                yield_now().await;
                let polls = polls.load(Ordering::Relaxed);
                assert!(polls <= turn + 1, "{polls} polls of the driver in {turn} turns of main");
            }
            assert!(polls.load(Ordering::Relaxed) > 50, "it does go on");
        });
    }
}
