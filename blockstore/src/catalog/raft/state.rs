//! The state machine: the catalog's rows, and how far the group's log has been put into them.
//!
//! 1. Applying a batch puts its rows, or none, in one write together with how far the log has come; it
//!    asks neither clock nor leader. What it answers on one node it answers on every node.
//! 2. A batch counts if its base is the *version*, the number of batches that counted before. So of two
//!    batches made over the same rows one counts.
//! 3. These writes are not synced: after a crash the log brings back what is missing.
//! 4. Whoever waits for a version or a place in the log is woken after the rows are there.

use super::codec::malformed;
use super::log::storage;
use super::snapshot::{self, Transfer};
use super::types::{
    Batch, BatchId, Command, Entry, LogId, Outcome, Snapshot, SnapshotMeta, StorageError,
    StoredMembership, Types,
};
use crate::catalog::committer::Committed;
use crate::catalog::{failed, keys, open};
use crate::{Error, Kind, Result, Subject};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use rocksdb::{DB, WriteBatch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Up to where the log is in the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// How many batches counted.
    pub(super) version: u64,
    /// The last entry applied.
    pub(super) at: Option<LogId>,
    /// Of each node, the boot and number of its last batch that counted.
    #[serde(default, with = "by_node")]
    pub(super) last: BTreeMap<u64, (u64, u64)>,
}

impl Applied {
    /// What became of a batch; `None` while nobody can know.
    pub(super) fn outcome(&self, base: u64, id: BatchId) -> Option<Outcome> {
        if self.version <= base {
            return None;
        }
        let won = self.last.get(&id.node) == Some(&(id.boot, id.number));
        Some(if won { Outcome::Won } else { Outcome::Lost })
    }

    fn apply(&mut self, batch: &Batch) -> Outcome {
        if batch.base != self.version {
            return Outcome::Lost;
        }
        self.version += 1;
        self.last
            .insert(batch.id.node, (batch.id.boot, batch.id.number));
        Outcome::Won
    }
}

/// A list of (node, boot, number): keys of JSON objects are texts, and a row with a version beside its
/// fields does not turn them back.
mod by_node {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(
        last: &BTreeMap<u64, (u64, u64)>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.collect_seq(
            last.iter()
                .map(|(node, (boot, number))| (node, boot, number)),
        )
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<BTreeMap<u64, (u64, u64)>, D::Error> {
        let last = Vec::<(u64, u64, u64)>::deserialize(from)?;
        Ok(last
            .into_iter()
            .map(|(node, boot, number)| (node, (boot, number)))
            .collect())
    }
}

/// The group's members, as of an entry of the log; as a value for the same reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MembersRow {
    members: serde_json::Value,
}

fn members_row(members: &StoredMembership) -> Result<Vec<u8>> {
    let members = serde_json::to_value(members).map_err(|cause| {
        let text = "the group's members cannot be written as JSON";
        Error::new(Kind::Internal, Subject::Store, text).because(cause)
    })?;
    keys::encode(&MembersRow { members })
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SnapshotRow {
    at: Option<LogId>,
}

/// How often one node's state was made the whole group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RecoveryRow {
    pub(super) generation: u64,
}

/// The rows and how far they are; clones share it.
#[derive(Clone)]
pub(super) struct State {
    pub(super) database: Arc<DB>,
    committed: Arc<Committed>,
    /// Where files on their way lie.
    pub(super) scratch: PathBuf,
    inner: Arc<Inner>,
}

struct Inner {
    members: Mutex<StoredMembership>,
    applied: watch::Sender<Applied>,
}

pub(super) fn read_applied(rows: &impl Get) -> Result<Applied> {
    Ok(rows.get_row(keys::NODE_APPLIED)?.unwrap_or_default())
}

pub(super) fn read_members(rows: &impl Get) -> Result<StoredMembership> {
    let Some(row) = rows.get_row::<MembersRow>(keys::NODE_MEMBERS)? else {
        return Ok(StoredMembership::default());
    };
    serde_json::from_value(row.members)
        .map_err(|cause| malformed("the row of the members").because(cause))
}

/// Rows as they stand, or of one moment.
pub(super) trait Get {
    fn get_row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>>;
}

impl Get for DB {
    fn get_row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        open::read(self, key)
    }
}

impl Get for rocksdb::Snapshot<'_> {
    fn get_row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let row = self
            .get(key)
            .map_err(|cause| failed("read a row of the catalog", cause))?;
        row.map(|row| keys::decode(key, &row)).transpose()
    }
}

/// The rows that say how far the log is in the others.
pub(super) fn own_rows(
    applied: &Applied,
    members: &StoredMembership,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let snapshot = SnapshotRow { at: applied.at };
    // In the order of their keys.
    Ok(vec![
        (keys::NODE_APPLIED.to_vec(), keys::encode(applied)?),
        (keys::NODE_MEMBERS.to_vec(), members_row(members)?),
        (keys::NODE_SNAPSHOT.to_vec(), keys::encode(&snapshot)?),
    ])
}

impl State {
    pub(super) fn open(
        database: Arc<DB>,
        committed: Arc<Committed>,
        scratch: PathBuf,
    ) -> Result<Self> {
        let applied = read_applied(database.as_ref())?;
        let members = read_members(database.as_ref())?;
        Ok(Self {
            database,
            committed,
            scratch,
            inner: Arc::new(Inner {
                members: Mutex::new(members),
                applied: watch::Sender::new(applied),
            }),
        })
    }

    /// How far the rows are, now and later.
    pub(super) fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.applied.subscribe()
    }

    pub(super) fn members(&self) -> StoredMembership {
        self.inner
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn put(&self, entries: impl IntoIterator<Item = Entry>) -> Result<Vec<Outcome>> {
        let mut applied = self.inner.applied.borrow().clone();
        let mut members = None;
        let mut outcomes = Vec::new();
        let mut batch = WriteBatch::default();
        let mut seq_last = 0;
        for entry in entries {
            applied.at = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => Outcome::None,
                EntryPayload::Membership(changed) => {
                    members = Some(StoredMembership::new(Some(entry.log_id), changed));
                    Outcome::None
                }
                EntryPayload::Normal(Command::Batch(changed)) => {
                    let outcome = applied.apply(&changed);
                    if outcome == Outcome::Won {
                        seq_last = put_rows(&mut batch, &changed).max(seq_last);
                    }
                    outcome
                }
                EntryPayload::Normal(Command::Recover { generation }) => {
                    applied.version += 1;
                    batch.put(keys::RECOVERY, keys::encode(&RecoveryRow { generation })?);
                    Outcome::None
                }
            });
        }
        batch.put(keys::NODE_APPLIED, keys::encode(&applied)?);
        if let Some(members) = &members {
            batch.put(keys::NODE_MEMBERS, members_row(members)?);
        }
        self.database.write(batch).map_err(|cause| {
            self.committed.refuse(cause.as_ref());
            failed("put the group's log into the catalog", cause)
        })?;
        self.show(applied, members, seq_last);
        Ok(outcomes)
    }

    fn show(&self, applied: Applied, members: Option<StoredMembership>, seq_last: u64) {
        if let Some(members) = members {
            *self
                .inner
                .members
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = members;
        }
        self.committed.grow(seq_last);
        self.inner.applied.send_replace(applied);
    }

    /// Replaces the rows by those that came from the leader.
    fn install(&self, transfer: Transfer) -> Result<()> {
        let (applied, members) = snapshot::install(&self.database, &self.scratch, transfer)?;
        let seq_last = open::seq_last(&self.database)?;
        self.show(applied, Some(members), seq_last);
        Ok(())
    }

    /// Remembers that the log up to where the rows are need not be kept: they are on the disk.
    fn keep(&self) -> Result<SnapshotMeta> {
        let rows = self.database.snapshot();
        let applied = read_applied(&rows)?;
        let members = read_members(&rows)?;
        drop(rows);
        let row = keys::encode(&SnapshotRow { at: applied.at })?;
        self.database
            .put(keys::NODE_SNAPSHOT, row)
            .and_then(|()| self.database.flush_wal(true))
            .map_err(|cause| {
                self.committed.refuse(cause.as_ref());
                failed("sync the catalog's rows", cause)
            })?;
        Ok(snapshot::meta(&applied, members))
    }
}

/// Returns the number of the last event among them.
fn put_rows(batch: &mut WriteBatch, changed: &Batch) -> u64 {
    let mut seq_last = 0;
    for (key, value) in changed.rows.iter() {
        if key.starts_with(keys::NODE) {
            // Never made here; from elsewhere it must not touch what is this node's own.
            continue;
        }
        match value {
            Some(value) => {
                if let Ok(seq) = keys::number_behind(keys::JOURNAL, key) {
                    seq_last = seq;
                }
                batch.put(key, value);
            }
            None => batch.delete(key),
        }
    }
    seq_last
}

fn broken(cause: &Error) -> StorageError {
    storage(ErrorSubject::StateMachine, ErrorVerb::Write, cause)
}

impl RaftStateMachine<Types> for State {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.inner.applied.borrow().at, self.members()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.put(entries).map_err(|cause| broken(&cause))
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Transfer>, StorageError> {
        Ok(Box::new(Transfer::none()))
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        transfer: Box<Transfer>,
    ) -> Result<(), StorageError> {
        let state = self.clone();
        let installed = tokio::task::spawn_blocking(move || state.install(*transfer));
        match installed.await {
            Ok(outcome) => outcome
                .map_err(|cause| storage(ErrorSubject::Snapshot(None), ErrorVerb::Write, &cause)),
            Err(cause) => Err(storage(
                ErrorSubject::Snapshot(None),
                ErrorVerb::Write,
                &cause,
            )),
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let fail = |cause: &Error| storage(ErrorSubject::Snapshot(None), ErrorVerb::Read, cause);
        let known: Option<SnapshotRow> = self
            .database
            .get_row(keys::NODE_SNAPSHOT)
            .map_err(|cause| fail(&cause))?;
        if known.is_none() {
            return Ok(None);
        }
        snapshot::begin(&self.database)
            .await
            .map(Some)
            .map_err(|cause| fail(&cause))
    }
}

impl RaftSnapshotBuilder<Types> for State {
    /// The rows are the snapshot: nothing is copied before a member asks for them.
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let state = self.clone();
        let kept = tokio::task::spawn_blocking(move || state.keep()).await;
        let fail = |cause: &(dyn std::error::Error + 'static)| -> StorageError {
            openraft::StorageIOError::write_snapshot(None, openraft::AnyError::error(cause)).into()
        };
        match kept {
            Ok(Ok(meta)) => Ok(Snapshot {
                meta,
                snapshot: Box::new(Transfer::none()),
            }),
            Ok(Err(cause)) => Err(fail(&cause)),
            Err(cause) => Err(fail(&cause)),
        }
    }
}
