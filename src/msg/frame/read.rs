//! What do a header's bytes say?
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::super::addr::{Addr, Addrs, Host, HostPort};
use super::super::death::{ExitKind, Receipt, Rung};
use super::super::ident::{Aid, CancelRequest, Canceller};
use super::super::spec::Token;
use super::{AckState, Encoding, FALSE, Frame, FrameError, Hello, LineKind, MAX_ADDRS, NIL, Stop, TRUE, Welcome, kind};

/// What is left of a frame. `None` from a method: the bytes are not what was asked for.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Each hot kind returns from its own arm: one way out for all would copy the frame, which is
    /// as big as a Hello, once more.
    #[inline(always)]
    pub(super) fn frame(&mut self) -> Result<Frame<'a>, FrameError> {
        let fields = self.array().ok_or(FrameError::Malformed("its header is no array"))?;
        let kind = self.uint().ok_or(FrameError::Malformed("its kind is no number"))?;
        let left = fields.checked_sub(1).ok_or(FrameError::Malformed("its header is empty"))?;
        let mut fields = Fields { reader: self, left };
        match u8::try_from(kind) {
            Ok(kind::RETURN) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let encoding = fields.encoding().ok_or(FIELD)?;
                let left = fields.left().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Return { dialog, encoding, left })
            }
            Ok(kind::YIELD) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let encoding = fields.encoding().ok_or(FIELD)?;
                let left = fields.left().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Yield { dialog, encoding, left })
            }
            Ok(kind::PART) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let left = fields.uint().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Part { dialog, left })
            }
            Ok(kind::CREDIT) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let up_to = fields.uint().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Credit { dialog, up_to })
            }
            Ok(kind::START) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let endpoint = fields.u32().ok_or(FIELD)?;
                let encoding = fields.encoding().ok_or(FIELD)?;
                let deadline_us = fields.option(Reader::uint).ok_or(FIELD)?;
                let path = fields.option(|reader| reader.apart(Reader::str)).ok_or(FIELD)?;
                let left = fields.left().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Start { dialog, endpoint, path, deadline_us, encoding, left })
            }
            Ok(kind::START_ACK) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::StartAck { dialog })
            }
            Ok(kind::ERROR) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let left = fields.left().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::Error { dialog, left })
            }
            Ok(kind::CANCEL_ACK) => {
                let dialog = fields.uint().ok_or(FIELD)?;
                let state = fields.ack_state().ok_or(FIELD)?;
                fields.end()?;
                Ok(Frame::CancelAck { dialog, state })
            }
            Ok(kind) => fields.reader.apart(|reader| Fields { reader, left }.rare(kind)),
            Err(_) => Err(FrameError::Malformed("its kind is over 255")),
        }
    }

    /// What [`super::course`] tells.
    #[cfg(feature = "quic")]
    pub(super) fn course(&mut self) -> Option<super::Course> {
        use super::Course;
        let left = self.array()?;
        let kind = u8::try_from(self.uint()?).ok()?;
        let mut fields = Fields { reader: self, left: left.checked_sub(1)? };
        Some(match kind {
            kind::START => Course::Start(fields.uint()?),
            kind::START_ACK | kind::STARTED | kind::OPEN | kind::YIELD | kind::STOP => Course::Behind(fields.uint()?),
            kind::RETURN | kind::ERROR => {
                let dialog = fields.uint()?;
                if kind == kind::RETURN {
                    fields.encoding()?;
                }
                match fields.left()? {
                    0 => Course::Last(dialog),
                    _ => Course::LastBegins(dialog),
                }
            }
            kind::PART => Course::Piece { dialog: fields.uint()?, is_last: fields.uint()? == 0 },
            _ => Course::Line,
        })
    }

    /// Lets a function that is not inlined read from a copy: what one borrows lies on the stack,
    /// and the hot kinds are read in registers.
    #[inline(always)]
    fn apart<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut copy = Reader { bytes: self.bytes };
        let value = read(&mut copy);
        self.bytes = copy.bytes;
        value
    }

    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    #[inline(always)]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    #[inline(always)]
    fn u8(&mut self) -> Option<u64> {
        self.byte().map(u64::from)
    }

    #[inline(always)]
    fn u16(&mut self) -> Option<u64> {
        let (chunk, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u64::from(u16::from_be_bytes(*chunk)))
    }

    #[inline(always)]
    fn u32(&mut self) -> Option<u64> {
        let (chunk, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u64::from(u32::from_be_bytes(*chunk)))
    }

    #[inline(always)]
    fn u64(&mut self) -> Option<u64> {
        let (chunk, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u64::from_be_bytes(*chunk))
    }

    #[inline(always)]
    fn array(&mut self) -> Option<u32> {
        match self.byte()? {
            marker @ 0x90..=0x9f => Some(u32::from(marker & 0x0f)),
            0xdc => self.u16().map(|len| len as u32),
            0xdd => self.u32().map(|len| len as u32),
            _ => None,
        }
    }

    #[inline(always)]
    fn uint(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ 0..=0x7f => Some(u64::from(small)),
            0xcc => self.u8(),
            0xcd => self.u16(),
            0xce => self.u32(),
            0xcf => self.u64(),
            marker @ 0xd0..=0xd3 => self.apart(|reader| reader.positive(marker)),
            _ => None,
        }
    }

    /// A number that some clients write as a signed one.
    #[cold]
    #[inline(never)]
    fn positive(&mut self, marker: u8) -> Option<u64> {
        self.signed(marker).and_then(|value| u64::try_from(value).ok())
    }

    fn signed(&mut self, marker: u8) -> Option<i64> {
        Some(match marker {
            0xd0 => i64::from(self.u8()? as i8),
            0xd1 => i64::from(self.u16()? as i16),
            0xd2 => i64::from(self.u32()? as i32),
            _ => self.u64()? as i64,
        })
    }

    fn int(&mut self) -> Option<i64> {
        match *self.bytes.first()? {
            marker @ 0xe0..=0xff => {
                self.byte()?;
                Some(i64::from(marker as i8))
            }
            marker @ 0xd0..=0xd3 => {
                self.byte()?;
                self.signed(marker)
            }
            _ => i64::try_from(self.uint()?).ok(),
        }
    }

    #[inline(always)]
    fn nil(&mut self) -> bool {
        let rest = self.bytes.strip_prefix(&[NIL]);
        self.bytes = rest.unwrap_or(self.bytes);
        rest.is_some()
    }

    fn bool(&mut self) -> Option<bool> {
        match self.byte()? {
            FALSE => Some(false),
            TRUE => Some(true),
            _ => None,
        }
    }

    /// The bytes of a `str` or of a `bin`: not every language tells them apart.
    fn blob(&mut self) -> Option<&'a [u8]> {
        let len = match self.byte()? {
            marker @ 0xa0..=0xbf => u64::from(marker & 0x1f),
            0xd9 | 0xc4 => self.u8()?,
            0xda | 0xc5 => self.u16()?,
            0xdb | 0xc6 => self.u32()?,
            _ => return None,
        };
        self.take(usize::try_from(len).ok()?)
    }

    fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.blob()?).ok()
    }

    fn array_of<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.blob()?.try_into().ok()
    }

    /// Passes over so many values, however deep, without recursion.
    #[cold]
    #[inline(never)]
    pub(super) fn skip(&mut self, values: u32) -> Option<()> {
        // Every value takes a byte at least, so the bytes bound this loop, whatever lengths say.
        let mut left = u64::from(values);
        while left > 0 {
            left -= 1;
            match self.byte()? {
                0..=0x7f | 0xe0..=0xff | NIL | FALSE | TRUE => {}
                marker @ 0x80..=0x8f => left += 2 * u64::from(marker & 0x0f),
                marker @ 0x90..=0x9f => left += u64::from(marker & 0x0f),
                marker @ 0xa0..=0xbf => self.pass(u64::from(marker & 0x1f))?,
                0xc4 | 0xd9 => self.pass_counted(Self::u8, 0)?,
                0xc5 | 0xda => self.pass_counted(Self::u16, 0)?,
                0xc6 | 0xdb => self.pass_counted(Self::u32, 0)?,
                0xc7 => self.pass_counted(Self::u8, 1)?,
                0xc8 => self.pass_counted(Self::u16, 1)?,
                0xc9 => self.pass_counted(Self::u32, 1)?,
                0xcc | 0xd0 => self.pass(1)?,
                0xcd | 0xd1 => self.pass(2)?,
                0xce | 0xd2 | 0xca => self.pass(4)?,
                0xcf | 0xd3 | 0xcb => self.pass(8)?,
                marker @ 0xd4..=0xd8 => self.pass(1 + (1 << (marker - 0xd4)))?,
                0xdc => left += self.u16()?,
                0xdd => left += self.u32()?,
                0xde => left += 2 * self.u16()?,
                0xdf => left += 2 * self.u32()?,
                0xc1 => return None,
            }
            if left > self.bytes.len() as u64 {
                return None;
            }
        }
        Some(())
    }

    fn pass(&mut self, len: u64) -> Option<()> {
        self.take(usize::try_from(len).ok()?).map(drop)
    }

    fn pass_counted(&mut self, len: fn(&mut Self) -> Option<u64>, more: u64) -> Option<()> {
        let len = len(self)?;
        self.pass(len + more)
    }
}

const FIELD: FrameError = FrameError::Malformed("a field is missing, or has the wrong type");

/// The fields of one array, in order. Reading past its end is `None`; what is left can be skipped.
struct Fields<'r, 'a> {
    reader: &'r mut Reader<'a>,
    left: u32,
}

impl<'a> Fields<'_, 'a> {
    #[inline(always)]
    fn next(&mut self) -> Option<&mut Reader<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.reader)
    }

    #[inline(always)]
    fn uint(&mut self) -> Option<u64> {
        self.next()?.uint()
    }

    #[inline(always)]
    fn u32(&mut self) -> Option<u32> {
        self.uint()?.try_into().ok()
    }

    /// A field that may be nil, or left out together with all that follow it.
    #[inline(always)]
    fn option<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<Option<T>> {
        if self.left == 0 {
            return Some(None);
        }
        let reader = self.next()?;
        if reader.nil() { Some(None) } else { read(reader).map(Some) }
    }

    /// A field that is itself an array, whose trailing fields are skipped too.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Fields<'_, 'a>) -> Option<T>) -> Option<T> {
        nested(self.next()?, read)
    }

    #[inline(always)]
    fn encoding(&mut self) -> Option<Encoding> {
        match self.uint()? {
            0 => Some(Encoding::Positional),
            1 => Some(Encoding::Named),
            _ => None,
        }
    }

    /// How many bytes of the payload follow: a trailing field, left out where it is 0.
    #[inline(always)]
    fn left(&mut self) -> Option<u64> {
        self.option(Reader::uint).map(Option::unwrap_or_default)
    }

    fn stop(&mut self) -> Option<Stop> {
        match self.uint()? {
            0 => Some(Stop::Finished),
            1 => Some(Stop::Left),
            2 => Some(Stop::BodyOver),
            _ => None,
        }
    }

    #[inline(always)]
    fn ack_state(&mut self) -> Option<AckState> {
        match self.uint()? {
            0 => Some(AckState::Asked),
            1 => Some(AckState::Ended),
            _ => None,
        }
    }

    /// Skips what a later version has added.
    #[inline(always)]
    fn end(&mut self) -> Result<(), FrameError> {
        if self.left == 0 {
            return Ok(());
        }
        let left = self.left;
        self.reader.apart(|reader| reader.skip(left)).ok_or(FrameError::Malformed("it ends within its header"))
    }

    #[cold]
    #[inline(never)]
    fn rare(&mut self, kind: u8) -> Result<Frame<'a>, FrameError> {
        let frame = match kind {
            kind::HELLO => self.hello().map(Frame::Hello),
            kind::WELCOME => self.welcome().map(Frame::Welcome),
            kind::BYE => self.next().and_then(Reader::str).map(|reason| Frame::Bye { reason }),
            kind::PING => self.uint().map(|nonce| Frame::Ping { nonce }),
            kind::PONG => self.uint().map(|nonce| Frame::Pong { nonce }),
            kind::CANCEL => self.cancel(),
            kind::SPAWNING => Some(Frame::Spawning),
            kind::SPAWN_RECORD => self.spawn_record(),
            kind::READY => self.ready(),
            kind::TASKS_GONE => Some(Frame::TasksGone),
            kind::SIGNALLED => self.i32().map(|signal| Frame::Signalled { signal }),
            kind::END_ASKED => self.canceller().map(|canceller| Frame::EndAsked { canceller }),
            kind::END => self.end_other(),
            kind::STARTED => self.started(),
            kind::OPEN => self.uint().map(|dialog| Frame::Open { dialog }),
            kind::STOP => self.stopped(),
            kind::ENDED => self.of_an_end().map(|(to, aid, receipt)| Frame::Ended { to, aid, receipt }),
            kind::OBITUARY_ASKED => self.obituary_asked(),
            kind::OBITUARY => self.of_an_end().map(|(to, aid, receipt)| Frame::Obituary { to, aid, receipt }),
            kind::HOLD => self.next().and_then(Reader::bool).map(|on| Frame::Hold { on }),
            kind::STOOD => self.uint().map(|nanos| Frame::Stood { nanos }),
            kind::DUMP => self.uint().map(|id| Frame::Dump { id }),
            kind::LOAD => self.load(),
            kind::BEAT => self.beat(),
            kind::GONE => self.aid().map(|aid| Frame::Gone { aid }),
            kind::STUCK => self.next().and_then(Reader::blob).map(|places| Frame::Stuck { places }),
            kind::LOG => Some(Frame::Log),
            unknown => return Err(FrameError::UnknownKind(unknown)),
        };
        let frame = frame.ok_or(FIELD)?;
        self.end()?;
        Ok(frame)
    }

    fn hello(&mut self) -> Option<Hello> {
        Some(Hello {
            protocol: self.protocol()?,
            aid: self.aid()?,
            line: match self.uint()? {
                0 => LineKind::Data,
                1 => LineKind::Control,
                2 => LineKind::Debug,
                _ => return None,
            },
            token: self.option(Reader::array_of)?.map(Token),
            build: self.option(Reader::blob)?.map(<[u8]>::to_vec),
            addrs: self.option(addrs)?.unwrap_or_default(),
            wanted: self.option(Reader::array_of)?.map(Uuid::from_bytes),
        })
    }

    fn welcome(&mut self) -> Option<Welcome> {
        Some(Welcome {
            protocol: self.protocol()?,
            aid: self.aid()?,
            max_frame_bytes: self.u32()?,
            same_build: self.next()?.bool()?,
        })
    }

    fn cancel(&mut self) -> Option<Frame<'a>> {
        let (dialog, grace_ms) = (self.uint()?, self.uint()?);
        Some(Frame::Cancel { dialog, grace_ms, canceller: self.canceller()? })
    }

    fn started(&mut self) -> Option<Frame<'a>> {
        Some(Frame::Started { dialog: self.uint()?, encoding: self.encoding()?, left: self.left()? })
    }

    fn stopped(&mut self) -> Option<Frame<'a>> {
        Some(Frame::Stop { dialog: self.uint()?, how: self.stop()? })
    }

    fn end_other(&mut self) -> Option<Frame<'a>> {
        Some(Frame::End { aid: self.aid()?, canceller: self.canceller()? })
    }

    fn obituary_asked(&mut self) -> Option<Frame<'a>> {
        Some(Frame::ObituaryAsked { to: self.aid()?, aid: self.aid()? })
    }

    fn load(&mut self) -> Option<Frame<'a>> {
        let id = self.uint()?;
        let load = self.option(|reader| reader.blob())?;
        Some(Frame::Load { id, load })
    }

    fn beat(&mut self) -> Option<Frame<'a>> {
        let late_ms = self.uint()?;
        let is_held = self.next().and_then(Reader::bool)?;
        Some(Frame::Beat { late_ms, is_held })
    }

    fn of_an_end(&mut self) -> Option<(Aid, Aid, Option<Box<Receipt>>)> {
        let (to, aid) = (self.aid()?, self.aid()?);
        let whose = aid.clone();
        let receipt = self.option(|reader| nested(reader, |fields| fields.receipt(whose)))?;
        Some((to, aid, receipt.map(Box::new)))
    }

    fn receipt(&mut self, aid: Aid) -> Option<Receipt> {
        let micros = |reader: &mut Reader<'a>| reader.uint().map(Duration::from_micros);
        Some(Receipt {
            aid,
            asked_by: self.option(|reader| nested(reader, |fields| fields.of_canceller()))?,
            heard: self.option(micros)?,
            tasks_gone: self.option(micros)?,
            reaped: Duration::from_micros(self.uint()?),
            rung: match self.uint()? {
                1 => Some(Rung::Cancel),
                2 => Some(Rung::Sigterm),
                3 => Some(Rung::Sigkill),
                _ => None, // none, or one that a later version has added
            },
            exit: self.nested(|fields| {
                Some(match (fields.uint()?, fields.i32()?) {
                    (0, status) => ExitKind::Status(status),
                    (1, signal) => ExitKind::Signal(signal),
                    _ => ExitKind::Unknown,
                })
            })?,
            stuck: self.option(Reader::str)?.map(str::to_owned),
        })
    }

    fn spawn_record(&mut self) -> Option<Frame<'a>> {
        let (aid, start_ticks) = (self.aid()?, self.uint()?);
        let is_program = self.option(Reader::bool)?.unwrap_or(false);
        Some(Frame::SpawnRecord { aid, start_ticks, is_program })
    }

    fn ready(&mut self) -> Option<Frame<'a>> {
        let aid = self.aid()?;
        Some(Frame::Ready { aid, addrs: addrs(self.next()?)? })
    }

    fn i32(&mut self) -> Option<i32> {
        self.next()?.int()?.try_into().ok()
    }

    fn protocol(&mut self) -> Option<(u16, u16)> {
        self.nested(|fields| Some((fields.uint()?.try_into().ok()?, fields.uint()?.try_into().ok()?)))
    }

    fn aid(&mut self) -> Option<Aid> {
        self.nested(|fields| {
            let name = fields.next()?.str()?;
            let uuid = Uuid::from_bytes(fields.next()?.array_of()?);
            let pid = fields.u32()?;
            let host = fields.next()?.str()?;
            Some(Aid::new(name, uuid, pid, host))
        })
    }

    /// `Some(None)`: a kind of address of a later version.
    fn addr(&mut self) -> Option<Option<Addr>> {
        let make = match self.next()?.str()? {
            "uds" => {
                let path = self.next()?.blob()?;
                return Some(Some(Addr::Uds(PathBuf::from(OsStr::from_bytes(path)))));
            }
            "tcp" => Addr::Tcp,
            "insecure" => Addr::InsecureTcp,
            "quic" => Addr::Quic,
            _later => return Some(None),
        };
        let host = self.next()?.str()?;
        let host = match host.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_name) => Host::Dns(host.to_owned()),
        };
        Some(Some(make(HostPort { host, port: self.uint()?.try_into().ok()? })))
    }

    fn canceller(&mut self) -> Option<Canceller> {
        self.nested(|fields| fields.of_canceller())
    }

    fn of_canceller(&mut self) -> Option<Canceller> {
        let aid = self.aid()?;
        let request = match self.uint()? {
            1 => CancelRequest::Nursery,
            2 => CancelRequest::NurseryEnd,
            3 => CancelRequest::Failure,
            4 => CancelRequest::Dropped,
            5 => CancelRequest::Deadline,
            6 => CancelRequest::Signal(self.i32()?),
            7 => CancelRequest::ParentLost,
            8 => CancelRequest::Context,
            9 => CancelRequest::Itself,
            // A request that a later version has added ends us all the same.
            _ => CancelRequest::Actor,
        };
        Some(Canceller { aid, request })
    }
}

/// Those of a kind that we know: another is none that we could use.
fn addrs(reader: &mut Reader<'_>) -> Option<Addrs> {
    let all = reader.array()?;
    let looked_at = all.min(MAX_ADDRS as u32);
    let known: Vec<_> = (0..looked_at).map(|_| nested(reader, |fields| fields.addr())).collect::<Option<_>>()?;
    reader.skip(all - looked_at)?;
    Some(known.into_iter().flatten().collect())
}

/// Reads an array and skips what `read` leaves of it.
fn nested<'a, T>(reader: &mut Reader<'a>, read: impl FnOnce(&mut Fields<'_, 'a>) -> Option<T>) -> Option<T> {
    let left = reader.array()?;
    let mut fields = Fields { reader, left };
    let value = read(&mut fields)?;
    let left = fields.left;
    reader.skip(left)?;
    Some(value)
}
