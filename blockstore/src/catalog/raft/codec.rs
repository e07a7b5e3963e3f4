//! Bytes of log entries and of what the members say to each other.
//!
//! ```text
//! entry     0 version u8 = 1 · 1 kind u8 · 2 term u64 · 10 leader u64 · 18 index u64 · 26 payload
//!           kind 0 blank · 1 members: JSON · 2 batch: base, node, boot, number u64, rows · 3 recovery: generation u64
//! request   0 version u8 = 1 · 1 verb u8 · 2 group uuid [16] · 18 generation u64 · 26 body
//! reply     0 version u8 = 1 · 1 status u8 (0 done, 1 refused: JSON) · 2 body          (little endian)
//! ```
//!
//! Bodies are JSON, but for entries and pieces of a snapshot: head bytes u32, head as JSON, then the bytes.
//! Nothing that is decoded here is trusted: what is malformed is an error, and takes no more memory than it has bytes.

use super::types::{Batch, BatchId, Command, Entry, LogId, Rows, Vote};
use crate::{Error, Kind, Result, Subject};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{CommittedLeaderId, EntryPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const MEMBERS: u8 = 1;
const BATCH: u8 = 2;
const RECOVER: u8 = 3;
const REQUEST_HEAD: usize = 26;
const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// What one member asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Append,
    Vote,
    SnapshotBegin,
    SnapshotPiece,
    SnapshotEnd,
    Turn,
    Hold,
    Release,
    Propose,
    ReadIndex,
    Change,
    Introduce,
}

const VERBS: [Verb; 12] = [
    Verb::Append,
    Verb::Vote,
    Verb::SnapshotBegin,
    Verb::SnapshotPiece,
    Verb::SnapshotEnd,
    Verb::Turn,
    Verb::Hold,
    Verb::Release,
    Verb::Propose,
    Verb::ReadIndex,
    Verb::Change,
    Verb::Introduce,
];

/// Which group a request is meant for; after a recovery it is another generation of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupId {
    /// Made with the group.
    pub(crate) group: uuid::Uuid,
    /// How often one node's state was made the whole group.
    #[serde(default)]
    pub(crate) generation: u64,
}

/// Why a member does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) why: Why,
    pub(super) text: String,
    /// Who leads, as far as it knows.
    #[serde(default)]
    pub(super) leader: Option<u64>,
}

/// What the asker does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    /// Ask who leads.
    NotLeader,
    /// The turn went to another node; nothing was proposed.
    TurnOver,
    /// Later.
    Busy,
    /// Never like this: the request is wrong, or not allowed.
    Conflict,
    /// As `Conflict`, and it is about something that is not there.
    NotFound,
    /// A newer release sent it.
    Unsupported,
}

impl Refused {
    pub(super) fn error(&self) -> Error {
        let kind = match self.why {
            Why::NotLeader | Why::TurnOver | Why::Busy => Kind::Unavailable,
            Why::Conflict => Kind::Conflict,
            Why::NotFound => Kind::NotFound,
            Why::Unsupported => Kind::Unsupported,
        };
        Error::new(kind, Subject::Store, self.text.clone())
    }
}

pub(super) fn malformed(what: &str) -> Error {
    let text = format!(
        "{what} of the catalog's group is malformed; if it came from the disk, run `infall check`"
    );
    Error::new(Kind::Corrupt, Subject::Store, text)
}

pub(super) fn to_json(what: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(what).map_err(|cause| {
        let text = "what the catalog's group says cannot be written as JSON";
        Error::new(Kind::Internal, Subject::Store, text).because(cause)
    })
}

pub(super) fn from_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|cause| malformed(what).because(cause))
}

pub(super) fn encode_entry(entry: &Entry) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.put_u8(VERSION);
    let kind = match &entry.payload {
        EntryPayload::Blank => BLANK,
        EntryPayload::Membership(_) => MEMBERS,
        EntryPayload::Normal(Command::Batch(_)) => BATCH,
        EntryPayload::Normal(Command::Recover { .. }) => RECOVER,
    };
    out.put_u8(kind);
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.leader_id.node_id);
    out.put_u64_le(entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => {}
        EntryPayload::Membership(members) => out.put_slice(&to_json(members)?),
        EntryPayload::Normal(Command::Batch(batch)) => put_batch(&mut out, batch),
        EntryPayload::Normal(Command::Recover { generation }) => out.put_u64_le(*generation),
    }
    Ok(out)
}

pub(super) fn decode_entry(mut bytes: Bytes) -> Result<Entry> {
    let broken = || malformed("an entry of the log");
    let version = bytes.try_get_u8().map_err(|_| broken())?;
    if version > VERSION {
        return Err(newer("an entry of the log", version));
    }
    let kind = bytes.try_get_u8().map_err(|_| broken())?;
    let mut number = || bytes.try_get_u64_le().map_err(|_| broken());
    let leader_id = CommittedLeaderId::new(number()?, number()?);
    let log_id = LogId::new(leader_id, number()?);
    let payload = match kind {
        BLANK if bytes.is_empty() => EntryPayload::Blank,
        MEMBERS => EntryPayload::Membership(from_json("an entry of the log", &bytes)?),
        BATCH => EntryPayload::Normal(Command::Batch(take_batch(bytes)?)),
        RECOVER if bytes.len() == 8 => EntryPayload::Normal(Command::Recover {
            generation: bytes.get_u64_le(),
        }),
        _ => return Err(broken()),
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn put_batch(out: &mut Vec<u8>, batch: &Batch) {
    out.put_u64_le(batch.base);
    out.put_u64_le(batch.id.node);
    out.put_u64_le(batch.id.boot);
    out.put_u64_le(batch.id.number);
    out.put_slice(batch.rows.bytes());
}

pub(super) fn take_batch(mut bytes: Bytes) -> Result<Batch> {
    let broken = || malformed("a batch");
    let mut number = || bytes.try_get_u64_le().map_err(|_| broken());
    let base = number()?;
    let id = BatchId {
        node: number()?,
        boot: number()?,
        number: number()?,
    };
    let rows = Rows::checked(bytes).ok_or_else(broken)?;
    Ok(Batch { base, id, rows })
}

/// The head of a request with entries.
#[derive(Serialize, Deserialize)]
pub(super) struct AppendHead {
    pub(super) vote: Vote,
    pub(super) previous: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

pub(super) fn encode_append(head: &AppendHead, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut out = with_head(head)?;
    for entry in entries {
        let entry = encode_entry(entry)?;
        put_length(&mut out, entry.len())?;
        out.put_slice(&entry);
    }
    Ok(out)
}

pub(super) fn decode_append(bytes: Bytes) -> Result<(AppendHead, Vec<Entry>)> {
    let what = "a request with entries";
    let (head, mut rest) = take_head(what, bytes)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let length = rest.try_get_u32_le().map_err(|_| malformed(what))?;
        let length = usize::try_from(length).map_err(|_| malformed(what))?;
        if length > rest.len() {
            return Err(malformed(what));
        }
        entries.push(decode_entry(rest.split_to(length))?);
    }
    Ok((head, entries))
}

/// A body that begins with a JSON head.
pub(super) fn with_head(head: &impl Serialize) -> Result<Vec<u8>> {
    let head = to_json(head)?;
    let mut out = Vec::with_capacity(4 + head.len());
    put_length(&mut out, head.len())?;
    out.put_slice(&head);
    Ok(out)
}

/// The head of such a body, and what lies behind it.
pub(super) fn take_head<T: DeserializeOwned>(what: &str, mut bytes: Bytes) -> Result<(T, Bytes)> {
    let length = bytes.try_get_u32_le().map_err(|_| malformed(what))?;
    let length = usize::try_from(length).map_err(|_| malformed(what))?;
    if length > bytes.len() {
        return Err(malformed(what));
    }
    let head = from_json(what, &bytes.split_to(length))?;
    Ok((head, bytes))
}

fn put_length(out: &mut Vec<u8>, bytes: usize) -> Result<()> {
    let length = u32::try_from(bytes).map_err(|_| {
        let text = "a message of the catalog's group is too large";
        Error::new(Kind::Invalid, Subject::Store, text)
    })?;
    out.put_u32_le(length);
    Ok(())
}

pub(super) fn encode_request(group: GroupId, verb: Verb, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(REQUEST_HEAD + body.len());
    out.put_u8(VERSION);
    let number = VERBS.iter().position(|known| *known == verb);
    out.put_u8(
        number
            .and_then(|number| u8::try_from(number).ok())
            .unwrap_or(u8::MAX),
    );
    out.put_slice(group.group.as_bytes());
    out.put_u64_le(group.generation);
    out.put_slice(body);
    out.freeze()
}

/// The group that a request is for, what it asks, and its body.
pub(super) fn decode_request(mut bytes: Bytes) -> Result<(GroupId, Verb, Bytes)> {
    let what = "a request";
    if bytes.first().is_some_and(|version| *version > VERSION) {
        return Err(newer(what, bytes[0]));
    }
    if bytes.len() < REQUEST_HEAD {
        return Err(malformed(what));
    }
    let mut head = bytes.split_to(REQUEST_HEAD);
    head.advance(1);
    let verb = VERBS.get(usize::from(head.get_u8())).copied();
    let mut group = [0; 16];
    head.copy_to_slice(&mut group);
    let group = GroupId {
        group: uuid::Uuid::from_bytes(group),
        generation: head.get_u64_le(),
    };
    Ok((group, verb.ok_or_else(|| malformed(what))?, bytes))
}

pub(super) fn encode_reply(reply: Result<Vec<u8>, Refused>) -> Bytes {
    let (status, body) = match reply {
        Ok(body) => (DONE, body),
        Err(refused) => (REFUSED, serde_json::to_vec(&refused).unwrap_or_default()),
    };
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_u8(VERSION);
    out.put_u8(status);
    out.put_slice(&body);
    out.freeze()
}

pub(super) fn decode_reply(mut bytes: Bytes) -> Result<Result<Bytes, Refused>> {
    let what = "a reply";
    let version = bytes.try_get_u8().map_err(|_| malformed(what))?;
    if version > VERSION {
        return Err(newer(what, version));
    }
    match bytes.try_get_u8() {
        Ok(DONE) => Ok(Ok(bytes)),
        Ok(REFUSED) => Ok(Err(from_json(what, &bytes)?)),
        _ => Err(malformed(what)),
    }
}

fn newer(what: &str, version: u8) -> Error {
    let text = format!(
        "{what} of the catalog's group has version {version}, this release reads up to {VERSION}: \
         all nodes of a cluster run one release"
    );
    Error::new(Kind::Unsupported, Subject::Store, text)
}
