//! What the group's log holds, and the types that openraft is told to use.

use crate::catalog::txn::Overlay;
use crate::{Error, Kind, Result, Subject};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;

openraft::declare_raft_types!(
    /// openraft's types, chosen.
    pub(super) Types:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Member,
        SnapshotData = super::snapshot::Transfer,
);

pub(super) type Entry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Membership = openraft::Membership<u64, Member>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(super) type Snapshot = openraft::Snapshot<Types>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type Raft = openraft::Raft<Types>;

/// What the members know of each other besides their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Of its data directory: two directories with one node id differ in it.
    pub(crate) incarnation: String,
    /// Where it was reached when it joined; only a hint.
    #[serde(default)]
    pub(crate) address: String,
}

/// Names a batch for ever: the node that made it, that node's boot, a counter within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct BatchId {
    pub(super) node: u64,
    pub(super) boot: u64,
    pub(super) number: u64,
}

/// What a group of changes put and deleted, over the rows of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// It counts only if exactly so many batches have counted before it.
    pub(super) base: u64,
    pub(super) id: BatchId,
    pub(super) rows: Rows,
}

/// An entry of the group's log that is not openraft's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    Batch(Batch),
    /// One node's state was made the whole group's: every batch made before this loses.
    Recover {
        generation: u64,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => write!(out, "{:?} at {}", batch.id, batch.base),
            Self::Recover { generation } => write!(out, "recovery {generation}"),
        }
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// It was not a batch.
    None,
    /// The batch counts.
    Won,
    /// Another batch had its base: nothing was changed.
    Lost,
}

/// Changed rows in the form in which they lie in the log, known to be well formed:
/// count u32, then key bytes u32, value bytes u32 (2³²−1: the row goes), key, value. Little endian.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Rows(Bytes);

const GONE: u32 = u32::MAX;

impl Rows {
    pub(super) fn encode(changed: &Overlay) -> Result<Self> {
        let too_large = || {
            let text = "a change of the catalog is too large: split it";
            Error::new(Kind::Invalid, Subject::Store, text)
        };
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len())
                .ok()
                .filter(|length| *length < GONE)
                .ok_or_else(too_large)
        };
        let mut out = BytesMut::new();
        out.put_u32_le(u32::try_from(changed.len()).map_err(|_| too_large())?);
        for (key, value) in changed {
            out.put_u32_le(length(key)?);
            out.put_u32_le(value.as_deref().map_or(Ok(GONE), length)?);
            out.put_slice(key);
            out.put_slice(value.as_deref().unwrap_or_default());
        }
        Ok(Self(out.freeze()))
    }

    /// Takes what another node or the disk says is an encoding; `None` if it is not.
    pub(super) fn checked(bytes: Bytes) -> Option<Self> {
        let mut rest: &[u8] = &bytes;
        for _ in 0..rest.try_get_u32_le().ok()? {
            take_row(&mut rest)?;
        }
        rest.is_empty().then_some(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Keys and values; no value: the row goes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut rest: &[u8] = &self.0;
        rest.advance(4.min(rest.len()));
        std::iter::from_fn(move || take_row(&mut rest))
    }
}

fn take_row<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key_bytes = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
    let value_bytes = rest.try_get_u32_le().ok()?;
    let (key, behind) = rest.split_at_checked(key_bytes)?;
    *rest = behind;
    if value_bytes == GONE {
        return Some((key, None));
    }
    let (value, behind) = rest.split_at_checked(usize::try_from(value_bytes).ok()?)?;
    *rest = behind;
    Some((key, Some(value)))
}

impl fmt::Debug for Rows {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes of rows", self.0.len())
    }
}
