//! What is said to a registrar, and how is it bytes?
//!
//! Both sides open with the same line of text. Then the asking side sends a request and the registrar
//! its reply, and so on: no request before the last one's reply. The registrar may close a connection whenever it owes no reply. Only
//! [`Request::Join`] is followed by [`Update`]s. Each message is a `u32` little-endian length and a value in
//! msgpack, structs as arrays.
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::table::{Place, Record};
use crate::msg::codec;
use crate::msg::death::Receipt;
use crate::msg::frame::Encoding;
use crate::msg::ident::Aid;
use crate::msg::load::{CLASSES, Load};

/// The first bytes of both sides: by them a stranger at the address is known.
pub(super) const GREETING: &[u8; 21] = b"teamster-registrar 1\n";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The newest living actor of this name.
    Find { name: String, scope: Scope },
    /// All living actors of this name (`None`: of any), newest first, from `after` on.
    List { name: Option<String>, scope: Scope, after: Option<Place> },
    /// As `Find`, and the reply comes when there is one.
    Wait { name: String, scope: Scope },
    /// The registrar's own tree, those that boot too, oldest first, from `after` on.
    Tree { after: Option<Place> },
    /// To the leader: another root's names follow, as long as this connection stands.
    Join { root: Aid, folder: String },
    /// End an actor of the registrar's own tree on behalf of `by`, who is outside. The reply comes when it is gone;
    /// where the tree ends with it, the connection's end is the reply.
    End { aid: Aid, by: Aid },
    /// How much the actors of the registrar's own tree have to do, as far as they tell at once.
    Loads,
    /// The log lines of the registrar's own tree from now on: [`Reply::Following`], then [`Reply::Lines`] as they come,
    /// as long as this connection stands.
    Follow,
}

/// Where to look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Scope {
    /// In all trees of this user.
    Everywhere,
    /// In what this registrar knows by itself, but not in the tree of this root: it is the one
    /// that asks, and knows better.
    Without(Uuid),
}

/// What a member tells its leader after `Join`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Update {
    Ready(Record),
    Gone(Uuid),
    /// All that I have was said; say [`Reply::Joined`].
    Complete,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Found(Option<Record>),
    /// `more`: ask again with the last one's place.
    Page {
        records: Vec<Record>,
        more: bool,
    },
    Joined,
    Refused(Refusal),
    /// It is gone. `None`: it was no actor of this tree, or is not any more.
    Ended(Option<Box<Receipt>>),
    /// In no order.
    Loads(Vec<Load>),
    /// What actors of this tree log that are told nothing else.
    Following {
        directives: String,
    },
    /// At least one, as they travel between actors.
    Lines(Vec<Bytes>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Between two leaders, and none came in time.
    NoLeader { waited: Duration },
    /// What listens at the leader's address is none of ours.
    Foreign { path: std::path::PathBuf },
    /// This user's registrars can't be reached.
    Unable { reason: String },
    /// Too many wait already.
    Full { limit: usize },
    /// It was not for this registrar.
    NotLeader,
    /// The cluster's etcd did not answer.
    Cluster { waited: Duration, reason: String },
}

/// The greeting and the request, for one write.
pub(super) fn opening(request: &Request) -> Vec<u8> {
    let mut bytes = GREETING.to_vec();
    append(&mut bytes, request);
    bytes
}

/// A request alone, on a connection that was opened before.
pub(super) fn message(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, request);
    bytes
}

/// Appends a message.
pub(super) fn append(bytes: &mut Vec<u8>, message: &impl Serialize) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    codec::encode_into(message, Encoding::Positional, bytes).expect("our own messages are plain data");
    let length = u32::try_from(bytes.len() - start - 4).expect("messages are cut far below 4 GiB");
    bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Sends a message in one write.
pub(super) async fn send(writer: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut bytes = Vec::new();
    append(&mut bytes, message);
    writer.write_all(&bytes).await
}

/// Receives the other side's greeting. A wrong one is `InvalidData`.
pub(super) async fn receive_greeting(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut greeting = [0; GREETING.len()];
    reader.read_exact(&mut greeting).await?;
    check_greeting(&greeting)
}

/// Receives a message of at most `limit` bytes. The buffer grows with what arrives.
pub(super) async fn receive<T: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin), limit: u32) -> io::Result<T> {
    let length = check_length(reader.read_u32_le().await?, limit)?;
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes).await?;
    decode(&bytes, length)
}

/// One request and its reply, without a runtime; the stream's own timeouts hold.
pub(super) fn ask_blocking(mut stream: impl Read + Write, request: &Request) -> io::Result<Reply> {
    match stream.write_all(&opening(request)) {
        // It has closed already, and may have said before why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    check_greeting(&greeting)?;
    next_blocking(stream)
}

/// A further reply to the same request.
pub(super) fn next_blocking(mut stream: impl Read) -> io::Result<Reply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = check_length(u32::from_le_bytes(length), REPLY_BYTES)?;
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes)?;
    decode(&bytes, length)
}

/// As many records as fit into a reply, and whether some are left.
pub(super) fn page(records: impl IntoIterator<Item = Record>) -> Reply {
    page_of(records, More::No)
}

/// Whether there are more than those that were given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum More {
    Yes,
    No,
}

/// The same of a part of them.
pub(super) fn page_of(records: impl IntoIterator<Item = Record>, rest: More) -> Reply {
    let mut page = Vec::new();
    let mut bytes = 0;
    for record in records {
        let Some(length) = encoded_bytes(&record) else { continue };
        bytes += length;
        if bytes > PAGE_BYTES {
            return Reply::Page { records: page, more: true };
        }
        page.push(record);
    }
    Reply::Page { records: page, more: rest == More::Yes }
}

/// As many as fit into a reply: of a tree so large that not all do, nobody reads them all.
pub(super) fn loads(mut loads: Vec<Load>) -> Reply {
    loads.truncate(REPLY_BYTES as usize / LOAD_BYTES);
    Reply::Loads(loads)
}

/// `None` for one that fits into no message: nobody can ask for such a name either.
pub(super) fn encoded_bytes(record: &Record) -> Option<usize> {
    let texts = record.aid.name().len() + record.aid.host_id().len();
    (texts <= NAME_BYTES * 2).then_some(texts + RECORD_BYTES)
}

fn check_greeting(greeting: &[u8; GREETING.len()]) -> io::Result<()> {
    match greeting == GREETING {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak as a registrar")),
    }
}

fn check_length(length: u32, limit: u32) -> io::Result<u64> {
    match length <= limit {
        true => Ok(u64::from(length)),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes, {limit} are allowed")))
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8], length: u64) -> io::Result<T> {
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    codec::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A longer request, or update, closes the connection.
pub(super) const REQUEST_BYTES: u32 = 64 << 10;
/// A longer reply closes the connection; lists are cut into pages below it.
pub(super) const REPLY_BYTES: u32 = 1 << 20;
/// A longer name can't be asked for.
pub(super) const NAME_BYTES: usize = 4096;
/// What a load needs at most.
const LOAD_BYTES: usize = 128 + CLASSES * 9;
const PAGE_BYTES: usize = 512 << 10;
/// What a record needs at most beside its texts; a socket's path has 107 bytes.
const RECORD_BYTES: usize = 320;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::table::{Liveness, NameTable};
    use crate::msg::addr::Addr;
    use proptest::prelude::*;

    fn record(name: &str) -> Record {
        let uuid = Uuid::from_u128(u128::MAX);
        let mut table = NameTable::default();
        let aid = Aid::new(name, uuid, u32::MAX, "h".repeat(64));
        table.insert(aid.clone(), Some(uuid), u64::MAX, Liveness::Ourselves, u64::MAX - 9);
        table.set_ready(&aid, Addr::Uds("/".repeat(107).into()).into(), u64::MAX - 9);
        table.find(name).unwrap().clone()
    }

    #[test]
    fn a_page_fits_into_a_reply() {
        let Reply::Page { records, more } = page(std::iter::repeat_n(record(&"n".repeat(NAME_BYTES)), 1000)) else {
            panic!()
        };
        assert!(more && records.len() > 100, "{}", records.len());
        let mut bytes = Vec::new();
        append(&mut bytes, &Reply::Page { records, more });
        assert!(bytes.len() <= PAGE_BYTES);
        let Reply::Page { records, more } = page(vec![record(&"n".repeat(1 << 21)), record("bob")]) else { panic!() };
        assert!(!more && records.len() == 1);
    }

    #[test]
    fn a_record_needs_no_more_than_estimated() {
        let record = record("bob");
        let mut bytes = Vec::new();
        append(&mut bytes, &record);
        assert!(bytes.len() <= encoded_bytes(&record).unwrap(), "{}", bytes.len());
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_an_error_before_its_bytes() {
        let mut bytes: &[u8] = &u32::MAX.to_le_bytes();
        let error = receive::<Request>(&mut bytes, REQUEST_BYTES).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let length = bytes.len() as u64;
            // Any answer will do, as long as there is one.
            let _ = decode::<Request>(&bytes, length);
            let _ = decode::<Reply>(&bytes, length);
            let _ = decode::<Update>(&bytes, length);
        }

        #[test]
        fn a_cut_request_is_an_error(cut in 0usize..40) {
            let mut bytes = Vec::new();
            append(&mut bytes, &Request::Find { name: "a name of some length".into(), scope: Scope::Without(Uuid::nil()) });
            bytes.truncate(cut);
            prop_assert!(futures::executor::block_on(receive::<Request>(&mut bytes.as_slice(), REQUEST_BYTES)).is_err());
        }
    }
}
