//! The group's log and this node's vote, in a column family of the catalog's database.
//!
//! 1. What is appended, voted or cut off is synced before it is answered: one sync per append.
//! 2. All writes of the database go into one write-ahead log: rows on the disk are never ahead of the log.
//! 3. Entries lie without a hole between the last purged and the last one.
//!
//! | key | value |
//! |---|---|
//! | `vote` | `{"v":1,"vote":…}` |
//! | `purged` | `{"v":1,"at":…}`: the last entry that was removed after it was in the rows of a snapshot |
//! | `e/` index u64, big endian | an entry, see [`super::codec`] |

use super::codec::{decode_entry, encode_entry};
use super::types::{Entry, LogId, StorageError, Types, Vote};
use crate::catalog::committer::{Committed, synced};
use crate::catalog::{failed, keys, open};
use crate::{Error, Kind, Result, Subject};
use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogId, RaftLogReader, StorageIOError,
};
use rocksdb::{ColumnFamily, DB, ReadOptions, WriteBatch};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const ENTRIES: &[u8] = b"e/";
/// Bytes of entries read for one message to a follower.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
struct VoteRow {
    vote: Vote,
}

#[derive(Serialize, Deserialize)]
struct PurgedRow {
    at: LogId,
}

/// The log; clones share it.
#[derive(Clone)]
pub(super) struct Log {
    database: Arc<DB>,
    committed: Arc<Committed>,
}

fn key(index: u64) -> Vec<u8> {
    [ENTRIES, &index.to_be_bytes()].concat()
}

impl Log {
    pub(super) fn new(database: Arc<DB>, committed: Arc<Committed>) -> Self {
        Self {
            database,
            committed,
        }
    }

    fn family(&self) -> Result<&ColumnFamily> {
        self.database.cf_handle(open::LOG_FAMILY).ok_or_else(|| {
            let text = "the catalog has no place for its group's log; run `infall check`";
            Error::new(Kind::Corrupt, Subject::Store, text)
        })
    }

    fn row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        let row = self
            .database
            .get_cf(self.family()?, key)
            .map_err(|cause| failed("read the group's log", cause))?;
        row.map(|row| keys::decode(key, &row)).transpose()
    }

    pub(super) fn vote(&self) -> Result<Option<Vote>> {
        Ok(self.row::<VoteRow>(VOTE)?.map(|row| row.vote))
    }

    pub(super) fn purged(&self) -> Result<Option<LogId>> {
        Ok(self.row::<PurgedRow>(PURGED)?.map(|row| row.at))
    }

    /// The last entry's place, or where the last purged one was.
    pub(super) fn last(&self) -> Result<Option<LogId>> {
        let mut rows = self.database.raw_iterator_cf(self.family()?);
        rows.seek_for_prev(key(u64::MAX));
        if let Some((found, value)) = rows.item()
            && found.starts_with(ENTRIES)
        {
            return Ok(Some(decode_entry(Bytes::copy_from_slice(value))?.log_id));
        }
        rows.status()
            .map_err(|cause| failed("find the end of the group's log", cause))?;
        self.purged()
    }

    /// Entries from `first` on, up to and without `end`, as many as have no more than `bytes_max` bytes, and one at least.
    pub(super) fn entries(
        &self,
        first: u64,
        end: Option<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>> {
        let mut options = ReadOptions::default();
        let end = match end {
            Some(end) => Some(key(end)),
            None => keys::behind(ENTRIES),
        };
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = self.database.raw_iterator_cf_opt(self.family()?, options);
        rows.seek(key(first));
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some((_, value)) = rows.item() {
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(decode_entry(Bytes::copy_from_slice(value))?);
            rows.next();
        }
        rows.status()
            .map_err(|cause| failed("read the group's log", cause))?;
        Ok(entries)
    }

    /// Adds to a batch what makes the log end with `entries`, under `vote`.
    pub(super) fn put_into(
        &self,
        batch: &mut WriteBatch,
        vote: Option<&Vote>,
        entries: &[Entry],
    ) -> Result<()> {
        let family = self.family()?;
        if let Some(vote) = vote {
            batch.put_cf(family, VOTE, keys::encode(&VoteRow { vote: *vote })?);
        }
        for entry in entries {
            batch.put_cf(family, key(entry.log_id.index), encode_entry(entry)?);
        }
        Ok(())
    }

    /// Adds to a batch what removes all entries up to `at`.
    pub(super) fn purge_into(&self, batch: &mut WriteBatch, at: LogId) -> Result<()> {
        let family = self.family()?;
        batch.put_cf(family, PURGED, keys::encode(&PurgedRow { at })?);
        batch.delete_range_cf(family, key(0), key(at.index.saturating_add(1)));
        Ok(())
    }

    /// Adds to a batch what removes all entries from `index` on.
    pub(super) fn cut_into(&self, batch: &mut WriteBatch, index: u64) -> Result<()> {
        let family = self.family()?;
        batch.delete_range_cf(
            family,
            key(index),
            keys::behind(ENTRIES).unwrap_or_default(),
        );
        Ok(())
    }

    /// Writes and syncs, on a thread that may wait. After a failure nobody knows what the disk has: no
    /// further change is taken.
    async fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let log = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let outcome = log.database.write_opt(batch, &synced());
            if let Err(cause) = &outcome {
                log.committed.refuse(cause.as_ref());
            }
            outcome
        });
        // It only fails to be joined when the runtime ends: then nobody asks any more.
        written.await.unwrap_or(Ok(()))
    }
}

/// Our error as openraft wants it; it stops the member for good.
pub(super) fn storage(
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
    cause: &(impl std::error::Error + 'static),
) -> StorageError {
    StorageIOError::new(subject, verb, openraft::AnyError::new(cause)).into()
}

fn read(cause: &Error) -> StorageError {
    storage(ErrorSubject::Logs, ErrorVerb::Read, cause)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let (first, end) = bounds(&range);
        self.entries(first, end, usize::MAX)
            .map_err(|cause| read(&cause))
    }

    async fn limited_get_log_entries(
        &mut self,
        first: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(first, Some(end), READ_BYTES_MAX)
            .map_err(|cause| read(&cause))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, Option<u64>) {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => None,
    };
    (first, end)
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let state = || -> Result<LogState<Types>> {
            Ok(LogState {
                last_purged_log_id: self.purged()?,
                last_log_id: self.last()?,
            })
        };
        state().map_err(|cause| read(&cause))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let write = |cause: &(dyn std::error::Error + 'static)| {
            StorageIOError::write_vote(openraft::AnyError::error(cause)).into()
        };
        let mut batch = WriteBatch::default();
        self.put_into(&mut batch, Some(vote), &[])
            .map_err(|cause| write(&cause))?;
        self.write(batch).await.map_err(|cause| write(&cause))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.vote()
            .map_err(|cause| storage(ErrorSubject::Vote, ErrorVerb::Read, &cause))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::default();
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.put_into(&mut batch, None, &entries)
            .map_err(|cause| storage(ErrorSubject::Logs, ErrorVerb::Write, &cause))?;
        drop(entries);
        // openraft 0.9 waits for the callback before it does anything else: nothing is won by returning first.
        let outcome = self.write(batch).await;
        callback.log_io_completed(outcome.map_err(std::io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, at: LogId) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        self.cut_into(&mut batch, at.index)
            .map_err(|cause| storage(ErrorSubject::Log(at), ErrorVerb::Delete, &cause))?;
        self.write(batch)
            .await
            .map_err(|cause| storage(ErrorSubject::Log(at), ErrorVerb::Delete, &cause))
    }

    async fn purge(&mut self, at: LogId) -> Result<(), StorageError> {
        let mut batch = WriteBatch::default();
        self.purge_into(&mut batch, at)
            .map_err(|cause| storage(ErrorSubject::Log(at), ErrorVerb::Delete, &cause))?;
        // Entries that come back after a crash do no harm: no sync of its own.
        self.database.write(batch).map_err(|cause| {
            storage(
                ErrorSubject::Log(*at.get_log_id()),
                ErrorVerb::Delete,
                &cause,
            )
        })
    }
}
