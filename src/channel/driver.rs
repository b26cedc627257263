//! The loop of one data line: write what waits, read what came, hand it over.
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::{Channel, Flush, LineEnd, Outcome, Service, Start};
use crate::msg::frame::{self, AckState, Frame};
use crate::proto::connection::{StartVerdict, Violation};

/// Received bytes: `bytes[start..end]` are not handled yet.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// The first buffer of a line, in bytes: an idle line costs no more.
const FIRST_BYTES: usize = 1024;
/// A read never asks for less room than this once a line has been busy, in bytes.
const BUSY_BYTES: usize = 64 * 1024;
/// Reads before other tasks get their turn.
const READS_A_TURN: usize = 32;

impl Inbox {
    pub(crate) fn new(first: &[u8]) -> Self {
        let mut bytes = vec![0; FIRST_BYTES.max(first.len())];
        bytes[..first.len()].copy_from_slice(first);
        Inbox { bytes, start: 0, end: first.len() }
    }

    fn unhandled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room for the next read. Grows with bytes that came, never with a length that was announced.
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > BUSY_BYTES {
                self.bytes.truncate(BUSY_BYTES);
                self.bytes.shrink_to_fit();
            }
        }
        if self.end == self.bytes.len() {
            if self.start >= self.bytes.len() / 2 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let grown = (self.bytes.len() * 2).max(BUSY_BYTES);
                self.bytes.resize(grown, 0);
            }
        }
        &mut self.bytes[self.end..]
    }
}

/// Keeps the channel moving until its line ends.
pub(crate) async fn drive<S: Service>(channel: Arc<Channel<S>>, service: Arc<S>, mut inbox: Inbox) {
    let mut idle = Idle { timer: None, dialogs_seen: 0 };
    let end = poll_fn(|cx| {
        channel.driver.register(cx.waker());
        channel.driver_is_due.store(false, Ordering::Release);
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

impl<S: Service> Channel<S> {
    fn poll_line(self: &Arc<Self>, service: &Arc<S>, inbox: &mut Inbox, cx: &mut Context<'_>) -> Poll<LineEnd> {
        // What the handshake has read along comes before the next read.
        if !inbox.unhandled().is_empty()
            && let Err(end) = self.handle_all(service, inbox)
        {
            return Poll::Ready(end);
        }
        for _ in 0..READS_A_TURN {
            self.poll_write(service, cx);
            if self.shared.lock().end.is_some() {
                return Poll::Ready(LineEnd::Shutdown);
            }
            match self.socket.poll_recv(cx, inbox.room()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.end_of_stream()),
                Poll::Ready(Ok(n)) => inbox.end += n,
                Poll::Ready(Err(error)) => return Poll::Ready(LineEnd::Io(error.to_string())),
                Poll::Pending => return Poll::Pending,
            }
            if let Err(end) = self.handle_all(service, inbox) {
                return Poll::Ready(end);
            }
        }
        self.driver_is_due.store(true, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end_of_stream(&self) -> LineEnd {
        if self.shared.lock().bye_sent { LineEnd::Bye("it had been idle".into()) } else { LineEnd::Eof }
    }

    fn poll_write(&self, service: &Arc<S>, cx: &mut Context<'_>) {
        loop {
            match self.try_flush() {
                Flush::Dead => return,
                Flush::Done => {
                    let mut shared = self.shared.lock();
                    let is_quiet = shared.out.waiting_bytes() == 0 && shared.out.urgent.is_empty();
                    if !is_quiet || !service.idle_frames(self, &mut shared.out.waiting) {
                        return;
                    }
                }
                Flush::Blocked => {
                    // Nothing is sent with this: it clears the stale readiness and registers us.
                    let mut shared = self.shared.lock();
                    if shared.out.is_writing {
                        return;
                    }
                    let leaving = std::mem::take(&mut shared.out.leaving);
                    let written = shared.out.written;
                    shared.out.is_writing = true;
                    drop(shared);
                    let sent = self.socket.poll_send(cx, &leaving[written..]);
                    let mut shared = self.shared.lock();
                    shared.out.is_writing = false;
                    shared.out.leaving = leaving;
                    match sent {
                        Poll::Ready(Ok(n)) => {
                            shared.out.wrote(n);
                            shared.wake_room();
                        }
                        Poll::Ready(Err(_broken)) => shared.out.is_dead = true,
                        Poll::Pending => return,
                    }
                }
            }
        }
    }

    fn handle_all(self: &Arc<Self>, service: &Arc<S>, inbox: &mut Inbox) -> Result<(), LineEnd> {
        let mut woken = Woken::default();
        let mut settled = 0;
        loop {
            match frame::decode(inbox.unhandled(), self.limit) {
                Ok(None) => {
                    if settled > 0 {
                        self.shared.lock().settled_at_once = settled;
                    }
                    return Ok(());
                }
                Ok(Some((frame, payload, taken))) => {
                    settled += usize::from(matches!(frame, Frame::Return { .. } | Frame::Error { .. }));
                    self.handle(service, frame, payload, &mut woken)?;
                    inbox.start += taken;
                }
                Err(error) => return Err(LineEnd::Violation(error.to_string())),
            }
        }
    }

    fn handle(
        self: &Arc<Self>,
        service: &Arc<S>,
        frame: Frame<'_>,
        payload: &[u8],
        woken: &mut Woken,
    ) -> Result<(), LineEnd> {
        let violated = |violation: Violation| LineEnd::Violation(violation.to_string());
        match frame {
            Frame::Start { dialog, endpoint, path, deadline_us, encoding } => {
                let mut shared = self.shared.lock();
                let verdict = shared.dialogs.on_start(dialog).map_err(violated)?;
                let endpoint = shared.dialogs.on_endpoint(endpoint, path, |path| service.resolve(path));
                let endpoint = endpoint.map_err(violated)?.clone();
                if shared.bye_sent {
                    shared.dialogs.end_served(dialog);
                    return Ok(()); // crossed our Bye: the peer sends it again on a new line
                }
                drop(shared);
                match verdict {
                    StartVerdict::Serve => {
                        let deadline = deadline_us.map(std::time::Duration::from_micros);
                        service.on_start(self, Start { dialog, endpoint, encoding, deadline }, payload);
                    }
                    StartVerdict::Cancelled(canceller) => {
                        let error = crate::msg::remote_error::WireError::Cancelled(canceller).encode();
                        self.end_with(dialog, &Frame::Error { dialog }, &error);
                    }
                }
            }
            Frame::StartAck { dialog } => self.shared.lock().dialogs.on_start_ack(dialog).map_err(violated)?,
            Frame::Return { dialog, .. } => {
                self.settle("Return", dialog, woken, || Outcome::Returned(payload.to_vec()))?;
            }
            Frame::Error { dialog } => {
                self.settle("Error", dialog, woken, || Outcome::Failed(payload.to_vec()))?;
            }
            Frame::Cancel { dialog: 0, canceller, .. } => {
                self.acknowledge_cancel(0, AckState::Asked);
                service.on_cancel_actor(self, canceller);
            }
            Frame::Cancel { dialog, canceller, .. } => {
                let state = self.on_cancel(dialog, &canceller).map_err(violated)?;
                self.acknowledge_cancel(dialog, state);
            }
            Frame::CancelAck { .. } | Frame::Pong { .. } => {} // heard: only Return or Error ends a dialog
            Frame::Ping { nonce } => self.shared.lock().urgent(&Frame::Pong { nonce }),
            Frame::Log => service.on_log(self, payload),
            Frame::Bye { reason } => {
                self.shared.lock().urgent(&Frame::Bye { reason: "goodbye" });
                self.try_flush();
                return Err(match reason {
                    BYE_IDLE => LineEnd::Bye(reason.to_owned()),
                    _ => LineEnd::Dropped(reason.to_owned()),
                });
            }
            Frame::Hello(_) => return Err(violated(Violation::Misplaced("Hello"))),
            Frame::Welcome(_) => return Err(violated(Violation::Misplaced("Welcome"))),
            Frame::SpawnRecord { .. } => return Err(violated(Violation::Misplaced("SpawnRecord"))),
            Frame::Ready { .. } => return Err(violated(Violation::Misplaced("Ready"))),
            Frame::TasksGone => return Err(violated(Violation::Misplaced("TasksGone"))),
            Frame::Signalled { .. } => return Err(violated(Violation::Misplaced("Signalled"))),
            Frame::EndAsked { .. } => return Err(violated(Violation::Misplaced("EndAsked"))),
            Frame::End { .. } => return Err(violated(Violation::Misplaced("End"))),
            Frame::Ended { .. } => return Err(violated(Violation::Misplaced("Ended"))),
        }
        Ok(())
    }

    fn acknowledge_cancel(&self, dialog: u64, state: AckState) {
        self.shared.lock().urgent(&Frame::CancelAck { dialog, state });
    }

    fn settle(
        &self,
        kind: &'static str,
        dialog: u64,
        woken: &mut Woken,
        outcome: impl FnOnce() -> Outcome,
    ) -> Result<(), LineEnd> {
        let mut shared = self.shared.lock();
        let slot = shared.dialogs.on_end(kind, dialog).map_err(|v| LineEnd::Violation(v.to_string()))?;
        if let Some(waiting) = slot {
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
            shared.urgent(&Frame::Bye { reason: what });
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
            let flushed = shared.out.flushed;
            // What we serve stays in the table: the service cancels it, and knows on whose behalf.
            for (dialog, waiting, left) in shared.dialogs.on_lost(flushed) {
                shared.done.insert(dialog, Outcome::Lost(left, end.clone()));
                shared.lost_paths.push(waiting.path);
                woken.0.extend(waiting.waker);
            }
            woken.0.append(&mut shared.room);
            woken.0.append(&mut shared.flushed);
        }
        drop(shared);
        self.socket.shutdown();
        self.wake_driver();
    }
}

/// Wakers that are woken when the locks are free.
#[derive(Default)]
struct Woken(Vec<Waker>);

impl Drop for Woken {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
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
            (shared.dialogs.is_idle(), shared.dialogs.begun())
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
        shared.urgent(&Frame::Bye { reason: BYE_IDLE });
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
