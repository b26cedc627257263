//! What does a user's handle to a context do on its line?
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;

use super::link::{Link, Sendable, Woken};
use super::out::Long;
use super::{Channel, Head, LONG_BYTES, Payload, Service};
use crate::msg::frame::{Encoding, Frame, Stop};
use crate::msg::ident::Canceller;
use crate::proto::dialog::{Found, Misuse, Overruns, Role, Room};

/// One item as bytes.
#[derive(Clone, Debug)]
pub(crate) enum ItemBytes<'a> {
    /// To be copied.
    Short(&'a [u8]),
    /// To leave from where it lies, behind its first bytes.
    Long { head: Head, rest: Bytes },
}

impl ItemBytes<'_> {
    fn len(&self) -> usize {
        match self {
            ItemBytes::Short(item) => item.len(),
            ItemBytes::Long { head, rest } => head.as_slice().len() + rest.len(),
        }
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Now,
    /// It goes piece by piece, as the peer reads.
    Piecewise,
    /// It was dropped: nobody reads any more, as if it had been in transit.
    InTransit,
    /// Not sent: a long one is still on its way.
    Behind,
    /// Not sent: the peer reads nothing yet, and what it holds unread is full.
    NoReader,
    /// Not sent: nobody reads any more.
    Gone,
}

/// Bytes that wait in the line's buffer before a sender of items writes them itself: what makes a
/// good write, and the peer goes on meanwhile.
const WRITE_AT_BYTES: usize = 64 * 1024;

impl<S: Service> Channel<S> {
    /// A context's task exists from here on: frames and cancels find it.
    pub(crate) fn serve_context(
        &self,
        dialog: u64,
        path: &'static str,
        task: S::Task,
        overruns: Overruns,
    ) -> Arc<Link> {
        let link = Arc::new(Link::new(dialog, path, Role::Callee, overruns));
        self.serve_linked(dialog, task, Some(Arc::clone(&link)));
        link
    }

    /// The callee's first word.
    pub(crate) fn say_started(&self, link: &Arc<Link>, encoding: Encoding, first: Payload) -> Result<(), Misuse> {
        link.start(matches!(first, Payload::Long(_)))?;
        let dialog = link.dialog;
        let mut shared = self.shared.lock();
        match first {
            Payload::Short(first) => {
                shared.out.queue(&Frame::Started { dialog, encoding, left: 0 }, &first);
            }
            Payload::Long(first) => {
                shared.out.queue(&Frame::Started { dialog, encoding, left: first.len() as u64 }, &[]);
                shared.out.queue_long(Long::first_word(link, first));
            }
        }
        // Its opener goes on by it, whatever the task does next.
        let at_once = shared.is_lone_item();
        drop(shared);
        self.flush_soon(at_once);
        Ok(())
    }

    /// Opens this side's stream.
    pub(crate) fn open_stream(&self, link: &Link) -> Result<(), Misuse> {
        let (says_so, grant) = link.open_stream()?;
        let mut shared = self.shared.lock();
        if says_so {
            shared.out.queue(&Frame::Open { dialog: link.dialog }, &[]);
        }
        if let Some(up_to) = grant {
            shared.out.urgent(&Frame::Credit { dialog: link.dialog, up_to });
        }
        drop(shared);
        self.flush_soon(false);
        Ok(())
    }

    /// Sends one item, if there is room for it. `reserved`: bytes that its sender has booked already.
    pub(crate) fn send_item(
        &self,
        link: &Arc<Link>,
        encoding: Encoding,
        item: &ItemBytes<'_>,
        reserved: &mut usize,
    ) -> Result<Sent, Misuse> {
        let len = item.len();
        if let ItemBytes::Short(item) = item
            && len <= *reserved
        {
            *reserved -= len;
            self.send_reserved(link.dialog, encoding, item);
            return Ok(Sent::Now);
        }
        let is_long = len > LONG_BYTES;
        let booked = match link.room(len, is_long, reserved)? {
            Sendable::Behind => return Ok(Sent::Behind),
            Sendable::Room(Room::NoReader) => return Ok(Sent::NoReader),
            Sendable::Room(Room::Gone) => return Ok(Sent::Gone),
            Sendable::Room(Room::InTransit) => return Ok(Sent::InTransit),
            Sendable::Room(Room::Now) => len,
            // Nothing may go between its pieces: what was reserved for short ones is the first of its own.
            Sendable::Room(Room::Pieces) => std::mem::take(reserved),
        };
        let dialog = link.dialog;
        if let ItemBytes::Short(item) = item
            && booked == len
        {
            self.send_reserved(dialog, encoding, item);
            return Ok(Sent::Now);
        }
        *reserved = 0;
        let mut shared = self.shared.lock();
        let (head, rest) = match item {
            ItemBytes::Short(item) => (Head::default(), Bytes::copy_from_slice(item)),
            ItemBytes::Long { head, rest } => (*head, rest.clone()),
        };
        shared.out.queue(&Frame::Yield { dialog, encoding, left: len as u64 }, &[]);
        shared.out.queue_long(Long::item(link, head, rest, booked));
        drop(shared);
        self.flush_soon(true);
        Ok(if booked == len { Sent::Now } else { Sent::Piecewise })
    }

    /// Sends a short item for which its sender has booked the room.
    pub(crate) fn send_reserved(&self, dialog: u64, encoding: Encoding, item: &[u8]) {
        let mut shared = self.shared.lock();
        shared.out.queue_item(dialog, encoding, item);
        let at_once = shared.is_lone_item() || shared.out.waiting_bytes() >= WRITE_AT_BYTES;
        drop(shared);
        self.flush_soon(at_once);
    }

    /// What there is to read. Registers `cx` where there is nothing yet.
    pub(crate) fn read_items(&self, link: &Link, cx: &mut Context<'_>) -> Found {
        let (found, grant) = link.read(cx);
        if let Some(up_to) = grant {
            self.shared.lock().out.urgent(&Frame::Credit { dialog: link.dialog, up_to });
            self.flush_soon(true);
        }
        found
    }

    /// Sends no more items, or does not even read any more.
    pub(crate) fn stop_stream(&self, link: &Link, how: Stop) {
        let mut woken = Woken::default();
        let (Some(how), grant) = link.stop(how, &mut woken) else { return };
        let mut shared = self.shared.lock();
        shared.out.queue_stop(link.dialog, how);
        if let Some(up_to) = grant {
            shared.out.urgent(&Frame::Credit { dialog: link.dialog, up_to });
        }
        drop(shared);
        self.flush_soon(false);
    }

    /// Asks for the end of a context that we opened, and goes on waiting for it.
    pub(crate) fn ask_to_end(&self, link: &Link, canceller: &Canceller) {
        let mut woken = Woken::default();
        // The task may have something to say while it ends: nobody hears it, and it is not held up.
        self.grant_now(link, link.cancel(&mut woken));
        self.ask_for(link, canceller);
    }

    /// The same on behalf of a third actor: for our own user it is not a cancel of ours.
    pub(crate) fn ask_for(&self, link: &Link, canceller: &Canceller) {
        let mut shared = self.shared.lock();
        if shared.end.is_none() && shared.dialogs.ask(link.dialog) {
            link.asks();
            shared.out.forget_args(link.dialog);
            self.send_cancel(shared, link.dialog, canceller);
        }
    }

    /// How long a task of the peer may take to end once it was asked.
    pub(crate) fn grace(&self) -> std::time::Duration {
        self.grace
    }

    /// Items that this side does not read in time are dropped from now on.
    pub(crate) fn allow_overruns(&self, link: &Link) {
        self.grant_now(link, link.allow_overruns());
    }

    /// Nobody will read what comes: it is thrown away, and its sender is not held up.
    pub(crate) fn throw_away(&self, link: &Link) {
        self.grant_now(link, link.throw_away());
    }

    fn grant_now(&self, link: &Link, grant: Option<u64>) {
        if let Some(up_to) = grant {
            self.shared.lock().out.urgent(&Frame::Credit { dialog: link.dialog, up_to });
            self.flush_soon(false);
        }
    }

    /// The peer has heard a cancel of ours, whichever line that came by.
    pub(crate) fn on_cancel_ack(&self, dialog: u64) {
        if let Some(link) = self.shared.lock().link(dialog) {
            link.on_cancel_ack();
        }
    }
}
