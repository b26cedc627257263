//! How does a frame's header become bytes?
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::BytesMut;

use super::super::addr::{Addr, Addrs, Host, HostPort};
use super::super::death::{ExitKind, Receipt, Rung};
use super::super::ident::{Aid, CancelRequest, Canceller};
use super::{FALSE, Frame, MAX_ADDRS, NIL, TRUE, kind};

/// Appends the frame's length and header to `out`, with room for a payload of `payload_bytes`,
/// which the caller sends right behind it (from where it lies, if it is big).
///
/// # Panics
///
/// If header and payload do not fit the `u32` length: the caller has refused it by the line's limit.
#[inline]
pub(crate) fn encode_head(frame: &Frame<'_>, payload_bytes: usize, out: &mut BytesMut) {
    // Most headers are shorter than a cache line: built on the stack, they cost one copy.
    let mut head = Head { bytes: [0; HEAD_BYTES], len: 4 };
    match *frame {
        Frame::Return { dialog, encoding, left } => {
            head.open(if left > 0 { 4 } else { 3 }, kind::RETURN);
            head.uint(dialog);
            head.push(encoding as u8);
            head.left(left);
        }
        Frame::Yield { dialog, encoding, left } => {
            head.open(if left > 0 { 4 } else { 3 }, kind::YIELD);
            head.uint(dialog);
            head.push(encoding as u8);
            head.left(left);
        }
        Frame::Part { dialog, left } => {
            head.open(3, kind::PART);
            head.uint(dialog);
            head.uint(left);
        }
        Frame::Credit { dialog, up_to } => {
            head.open(3, kind::CREDIT);
            head.uint(dialog);
            head.uint(up_to);
        }
        Frame::Started { dialog, encoding, left } => {
            head.open(if left > 0 { 4 } else { 3 }, kind::STARTED);
            head.uint(dialog);
            head.push(encoding as u8);
            head.left(left);
        }
        Frame::Open { dialog } => {
            head.open(2, kind::OPEN);
            head.uint(dialog);
        }
        Frame::Stop { dialog, how } => {
            head.open(3, kind::STOP);
            head.uint(dialog);
            head.push(how as u8);
        }
        Frame::Start { dialog, endpoint, path: None, deadline_us, encoding, left: 0 } => {
            head.open(if deadline_us.is_some() { 5 } else { 4 }, kind::START);
            head.uint(dialog);
            head.uint(u64::from(endpoint));
            head.push(encoding as u8);
            if let Some(deadline_us) = deadline_us {
                head.uint(deadline_us);
            }
        }
        Frame::StartAck { dialog } => {
            head.open(2, kind::START_ACK);
            head.uint(dialog);
        }
        Frame::Error { dialog, left } => {
            head.open(if left > 0 { 3 } else { 2 }, kind::ERROR);
            head.uint(dialog);
            head.left(left);
        }
        Frame::CancelAck { dialog, state } => {
            head.open(3, kind::CANCEL_ACK);
            head.uint(dialog);
            head.push(state as u8);
        }
        _ => return encode_rare(frame, payload_bytes, out),
    }
    let length = frame_length(head.len - 4 + payload_bytes);
    head.bytes[..4].copy_from_slice(&length.to_le_bytes());
    let end = out.len() + head.len;
    out.reserve(HEAD_BYTES + payload_bytes);
    // All of it, then back to where it ends: again a copy of known size.
    out.extend_from_slice(&head.bytes);
    out.truncate(end);
}

/// Bytes of the longest header that [`encode_head`] builds itself: 4 length, 2 kind, 9 dialog,
/// 5 endpoint, 1 encoding, 9 deadline, and what makes it even.
pub(super) const HEAD_BYTES: usize = 32;

/// Bytes before a path in a Start: msgpack's longest mark of a text.
pub(super) const PATH_MARK_BYTES: usize = 5;

/// The wire's length of a frame with so many bytes of header and payload.
#[inline]
fn frame_length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("the caller refuses payloads over the line's limit, which is a u32")
}

/// A short header on the stack.
struct Head {
    bytes: [u8; HEAD_BYTES],
    len: usize,
}

impl Head {
    #[inline(always)]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline(always)]
    fn open(&mut self, fields: u8, kind: u8) {
        self.push(0x90 | fields);
        self.push(kind);
    }

    /// A trailing field that is left out where it is 0.
    #[inline(always)]
    fn left(&mut self, left: u64) {
        if left > 0 {
            self.uint(left);
        }
    }

    #[inline(always)]
    fn uint(&mut self, value: u64) {
        let (marker, width) = match value {
            0..=0x7f => return self.push(value as u8),
            0x80..=0xff => (0xcc, 1),
            0x100..=0xffff => (0xcd, 2),
            0x1_0000..=0xffff_ffff => (0xce, 4),
            _ => (0xcf, 8),
        };
        self.push(marker);
        // Always eight bytes, of which `width` count: a copy of known size is one instruction.
        let shifted = value << (64 - 8 * width);
        self.bytes[self.len..self.len + 8].copy_from_slice(&shifted.to_be_bytes());
        self.len += width;
    }
}

/// The kinds whose headers hold text, or that are sent a few times in a life.
#[cold]
#[inline(never)]
fn encode_rare(frame: &Frame<'_>, payload_bytes: usize, out: &mut BytesMut) {
    let mut w = Writer(Vec::with_capacity(192));
    w.0.extend_from_slice(&[0; 4]);
    match frame {
        Frame::Hello(hello) => {
            w.open(8, kind::HELLO);
            w.protocol(hello.protocol);
            w.aid(&hello.aid);
            w.uint(hello.line as u64);
            w.option(hello.token.as_ref(), |w, token| w.bin(&token.0));
            w.option(hello.build.as_ref(), |w, build| w.bin(build));
            w.addrs(&hello.addrs);
            w.option(hello.wanted.as_ref(), |w, uuid| w.bin(uuid.as_bytes()));
        }
        Frame::Welcome(welcome) => {
            w.open(5, kind::WELCOME);
            w.protocol(welcome.protocol);
            w.aid(&welcome.aid);
            w.uint(u64::from(welcome.max_frame_bytes));
            w.bool(welcome.same_build);
        }
        Frame::Start { dialog, endpoint, path, deadline_us, encoding, left } => {
            w.open(if *left > 0 { 7 } else { 6 }, kind::START);
            w.uint(*dialog);
            w.uint(u64::from(*endpoint));
            w.uint(*encoding as u64);
            w.option(deadline_us.as_ref(), |w, us| w.uint(*us));
            w.option(*path, Writer::str);
            if *left > 0 {
                w.uint(*left);
            }
        }
        Frame::Cancel { dialog, grace_ms, canceller } => {
            w.open(4, kind::CANCEL);
            w.uint(*dialog);
            w.uint(*grace_ms);
            w.canceller(canceller);
        }
        Frame::Spawning => w.open(1, kind::SPAWNING),
        Frame::SpawnRecord { aid, start_ticks, is_program } => {
            w.open(3 + u8::from(*is_program), kind::SPAWN_RECORD);
            w.aid(aid);
            w.uint(*start_ticks);
            if *is_program {
                w.bool(true);
            }
        }
        Frame::Ready { aid, addrs } => {
            w.open(3, kind::READY);
            w.aid(aid);
            w.addrs(addrs);
        }
        Frame::TasksGone => w.open(1, kind::TASKS_GONE),
        Frame::Signalled { signal } => {
            w.open(2, kind::SIGNALLED);
            w.int(i64::from(*signal));
        }
        Frame::EndAsked { canceller } => {
            w.open(2, kind::END_ASKED);
            w.canceller(canceller);
        }
        Frame::End { aid, canceller } => {
            w.open(3, kind::END);
            w.aid(aid);
            w.canceller(canceller);
        }
        Frame::Ended { to, aid, receipt } => {
            w.open(4, kind::ENDED);
            w.aid(to);
            w.aid(aid);
            w.option(receipt.as_deref(), Writer::receipt);
        }
        Frame::ObituaryAsked { to, aid } => {
            w.open(3, kind::OBITUARY_ASKED);
            w.aid(to);
            w.aid(aid);
        }
        Frame::Obituary { to, aid, receipt } => {
            w.open(4, kind::OBITUARY);
            w.aid(to);
            w.aid(aid);
            w.option(receipt.as_deref(), Writer::receipt);
        }
        Frame::Hold { on } => {
            w.open(2, kind::HOLD);
            w.bool(*on);
        }
        Frame::Stood { nanos } => {
            w.open(2, kind::STOOD);
            w.uint(*nanos);
        }
        Frame::Dump { id } => {
            w.open(2, kind::DUMP);
            w.uint(*id);
        }
        Frame::Load { id, load } => {
            w.open(3, kind::LOAD);
            w.uint(*id);
            w.option(*load, |w, load| w.bin(load));
        }
        Frame::Beat { late_ms, is_held } => {
            w.open(3, kind::BEAT);
            w.uint(*late_ms);
            w.bool(*is_held);
        }
        Frame::Gone { aid } => {
            w.open(2, kind::GONE);
            w.aid(aid);
        }
        Frame::Stuck { places } => {
            w.open(2, kind::STUCK);
            w.bin(places);
        }
        Frame::Log => w.open(1, kind::LOG),
        Frame::Ping { nonce } => {
            w.open(2, kind::PING);
            w.uint(*nonce);
        }
        Frame::Pong { nonce } => {
            w.open(2, kind::PONG);
            w.uint(*nonce);
        }
        Frame::Bye { reason } => {
            w.open(2, kind::BYE);
            w.str(reason);
        }
        Frame::StartAck { .. }
        | Frame::Started { .. }
        | Frame::Open { .. }
        | Frame::Yield { .. }
        | Frame::Part { .. }
        | Frame::Stop { .. }
        | Frame::Credit { .. }
        | Frame::Return { .. }
        | Frame::Error { .. }
        | Frame::CancelAck { .. } => {
            unreachable!("encode_head builds these itself")
        }
    }
    let length = frame_length(w.0.len() - 4 + payload_bytes);
    w.0[..4].copy_from_slice(&length.to_le_bytes());
    out.reserve(w.0.len() + payload_bytes);
    out.extend_from_slice(&w.0);
}

/// A header of any length. Writing msgpack to a `Vec` cannot fail.
struct Writer(Vec<u8>);

impl Writer {
    fn open(&mut self, fields: u8, kind: u8) {
        self.array(fields);
        self.0.push(kind);
    }

    fn array(&mut self, fields: u8) {
        debug_assert!(fields < 16, "a fixarray");
        self.0.push(0x90 | fields);
    }

    fn uint(&mut self, value: u64) {
        rmp::encode::write_uint(&mut self.0, value).expect(VEC);
    }

    fn int(&mut self, value: i64) {
        rmp::encode::write_sint(&mut self.0, value).expect(VEC);
    }

    fn bool(&mut self, value: bool) {
        self.0.push(if value { TRUE } else { FALSE });
    }

    fn str(&mut self, value: &str) {
        rmp::encode::write_str(&mut self.0, value).expect(VEC);
    }

    fn bin(&mut self, value: &[u8]) {
        rmp::encode::write_bin(&mut self.0, value).expect(VEC);
    }

    fn option<T: ?Sized>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        match value {
            Some(value) => write(self, value),
            None => self.0.push(NIL),
        }
    }

    fn protocol(&mut self, (major, minor): (u16, u16)) {
        self.array(2);
        self.uint(u64::from(major));
        self.uint(u64::from(minor));
    }

    fn aid(&mut self, aid: &Aid) {
        self.array(4);
        self.str(aid.name());
        self.bin(aid.uuid().as_bytes());
        self.uint(u64::from(aid.pid()));
        self.str(aid.host_id());
    }

    fn addrs(&mut self, addrs: &Addrs) {
        // More than a reader looks at, they are never.
        let all = addrs.as_slice().len().min(MAX_ADDRS);
        self.array(all as u8);
        for addr in &addrs.as_slice()[..all] {
            self.addr(addr);
        }
    }

    fn addr(&mut self, addr: &Addr) {
        match addr {
            Addr::Uds(path) => {
                self.array(2);
                self.str("uds");
                // As bytes: a path need not be UTF-8.
                self.bin(path.as_os_str().as_bytes());
            }
            Addr::Tcp(place) => self.place("tcp", place),
            Addr::InsecureTcp(place) => self.place("insecure", place),
            Addr::Quic(place) => self.place("quic", place),
        }
    }

    fn place(&mut self, scheme: &str, place: &HostPort) {
        self.array(3);
        self.str(scheme);
        match &place.host {
            Host::Ip(ip) => self.str(&ip.to_string()),
            Host::Dns(name) => self.str(name),
        }
        self.uint(u64::from(place.port));
    }

    /// Without its aid: the frame has that.
    fn receipt(&mut self, receipt: &Receipt) {
        self.array(if receipt.stuck.is_some() { 7 } else { 6 });
        self.option(receipt.asked_by.as_ref(), Self::canceller);
        self.option(receipt.heard.as_ref(), Self::micros);
        self.option(receipt.tasks_gone.as_ref(), Self::micros);
        self.micros(&receipt.reaped);
        self.uint(match receipt.rung {
            None => 0,
            Some(Rung::Cancel) => 1,
            Some(Rung::Sigterm) => 2,
            Some(Rung::Sigkill) => 3,
        });
        self.array(2);
        let (kind, number) = match receipt.exit {
            ExitKind::Status(status) => (0, status),
            ExitKind::Signal(signal) => (1, signal),
            ExitKind::Unknown => (2, 0),
        };
        self.uint(kind);
        self.int(i64::from(number));
        if let Some(stuck) = &receipt.stuck {
            self.str(stuck);
        }
    }

    fn micros(&mut self, time: &Duration) {
        self.uint(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn canceller(&mut self, canceller: &Canceller) {
        self.array(3);
        self.aid(&canceller.aid);
        let (request, argument) = match canceller.request {
            CancelRequest::Actor => (0, 0),
            CancelRequest::Nursery => (1, 0),
            CancelRequest::NurseryEnd => (2, 0),
            CancelRequest::Failure => (3, 0),
            CancelRequest::Dropped => (4, 0),
            CancelRequest::Deadline => (5, 0),
            CancelRequest::Signal(number) => (6, number),
            CancelRequest::ParentLost => (7, 0),
            CancelRequest::Context => (8, 0),
            CancelRequest::Itself => (9, 0),
        };
        self.uint(request);
        self.int(i64::from(argument));
    }
}

const VEC: &str = "writing to a Vec does not fail";
