//! The catalog: names, pins, journal. A RocksDB database of its own, with write-ahead log and sync.
//!
//! 1. One thread owns this node's changes. A change runs there over an overlay, so changes never race,
//!    and a precondition checked in a change holds when the change commits. Between nodes that keep a
//!    catalog together, [`raft`] sees to it.
//! 2. What changes put is durable in one batch per group: on this node's disk with one sync, or on the
//!    disks of most members. A change is answered after that.
//! 3. A change that fails or panics leaves no trace; the others of its group commit.
//! 4. Readers outside the thread see only what is durable, and never wait for writers.
//! 5. After a failed batch every further change is refused until the catalog is opened again: nobody
//!    knows which part of the failed one the disk has. Reads go on.
//!
//! ```text
//! callers ──transact──▶ bounded queue ──▶ committing thread: run ≤ 256 changes over one overlay
//!    ▲                                              │
//!    └──────────────── answers ◀── one batch, carried: local: one synced write
//!                                                      raft:  one entry of the group's log
//! ```
//!
//! Keys and rows: [`keys`].

mod backup;
mod committer;
pub(crate) mod keys;
mod local;
mod open;
mod pins;
pub(crate) mod raft;
mod rows;
#[cfg(test)]
mod tests;
mod torn;
mod txn;

use crate::{Error, Kind, LogId, Lsn, MapId, Result, SealedMap, Subject};
use committer::{CHANGES_QUEUED_MAX, Carrier, Change, Committed, Pending, synced};
use open::{IdsOfNodeRow, IdsRow};
use rocksdb::{DB, ReadOptions, Snapshot};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

pub use backup::Backup;
pub(crate) use txn::Txn;

/// The lsn under which a volume's writable head is pinned: one mechanism for heads and seals.
pub(crate) const HEAD: Lsn = Lsn(u64::MAX);

/// Map ids are reserved in steps of this many.
const IDS_STEP: u64 = 256;

/// What the catalog knows of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapRow {
    /// The log its own births come from.
    pub(crate) log: LogId,
    /// Whose births show where it has written nothing.
    pub(crate) parent: Option<SealedMap>,
    /// Visible bytes of the head (volumes) or of the body.
    pub(crate) length_bytes: u64,
    /// Other sealed maps it shows births of directly (images made from qcow2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) borrows: Vec<SealedMap>,
    /// When it was made, milliseconds since the Unix epoch.
    pub(crate) created_ms: u64,
}

/// How a walk over rows goes on.
pub(crate) enum Step {
    /// To the next row.
    Next,
    /// To the first row at or behind this key.
    Seek(Vec<u8>),
    /// Not at all.
    Stop,
}

/// What a scan does with a row's key and value, and what it says about going on.
pub(crate) type Visit<'a, Next> = dyn FnMut(&[u8], &[u8]) -> Result<Next> + 'a;

/// The catalog: names, pins, journal; RocksDB with WAL and sync; one thread commits for all.
#[derive(Clone)]
pub(crate) struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    /// `None` once closed.
    database: RwLock<Option<Arc<DB>>>,
    /// `None` once closed.
    changes: RwLock<Option<SyncSender<Box<dyn Change>>>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    committer_id: ThreadId,
    committed: Arc<Committed>,
    boot: u64,
    ids: Mutex<Ids>,
    /// The members that keep this catalog together with this node.
    group: Option<raft::Group>,
}

/// Map ids that this node has reserved.
struct Ids {
    /// The next one to give out.
    next: u64,
    end: u64,
    /// Reserved by this run.
    own: Vec<Range<u64>>,
    /// Reserved by earlier runs: maps among them may have been left unfinished.
    unfinished: Vec<Range<u64>>,
}

impl Catalog {
    /// Opens (or makes) `catalog/` in the data directory. Conflict if it is open already or needs its
    /// group ([`Self::open_member`]), Unsupported if a newer release wrote it.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let (directory, database) = Self::database_in(directory)?;
        if let Some(seat) = raft::seat(&database)? {
            let text = format!(
                "the catalog in {} is kept together with other nodes (this one is node {}): open it as their member",
                directory.display(),
                seat.node
            );
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        let run = open::begin_run(&database)?;
        let committed = Arc::new(Committed::new(open::seq_last(&database)?));
        let database = Arc::new(database);
        let local = local::Local::new(
            database.clone(),
            committed.clone(),
            open::seq_last(&database)?,
        );
        Self::start(directory, database, committed, run, Box::new(local), None)
    }

    /// Opens the catalog of a member of a group, which reaches the others over `wire`.
    #[cfg_attr(not(test), allow(dead_code, reason = "for members of a group"))]
    pub(crate) fn open_member(
        directory: &Path,
        wire: Arc<dyn raft::Wire>,
        settings: &raft::Settings,
    ) -> Result<Self> {
        let (directory, database) = Self::database_in(directory)?;
        let run = open::begin_run(&database)?;
        let committed = Arc::new(Committed::new(open::seq_last(&database)?));
        let database = Arc::new(database);
        let (group, carrier) = raft::Group::start(
            &directory,
            &database,
            &committed,
            run.boot,
            wire,
            settings.clone(),
        )?;
        Self::start(directory, database, committed, run, carrier, Some(group))
    }

    fn database_in(directory: &Path) -> Result<(PathBuf, DB)> {
        let directory = directory.join("catalog");
        std::fs::create_dir_all(&directory)
            .map_err(|cause| Error::io("make", &directory, cause))?;
        let database = open::database(&directory, false)?;
        Ok((directory, database))
    }

    fn start(
        directory: PathBuf,
        database: Arc<DB>,
        committed: Arc<Committed>,
        run: open::Run,
        carrier: Box<dyn Carrier>,
        group: Option<raft::Group>,
    ) -> Result<Self> {
        let (changes, queue) = sync_channel(CHANGES_QUEUED_MAX);
        let committer = committer::start(database.clone(), committed.clone(), carrier, queue)
            .map_err(|cause| Error::io("start the committing thread for", &directory, cause))?;
        let inner = Inner {
            directory,
            database: RwLock::new(Some(database)),
            changes: RwLock::new(Some(changes)),
            committer_id: committer.thread().id(),
            committer: Mutex::new(Some(committer)),
            committed,
            boot: run.boot,
            ids: Mutex::new(Ids {
                next: 0,
                end: 0,
                own: Vec::new(),
                unfinished: run.unfinished,
            }),
            group,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How often this node's catalog was opened, this time included. Never the same number twice.
    pub(crate) fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// The group that keeps this catalog, if it is not this node's alone.
    pub(crate) fn group(&self) -> Option<&raft::Group> {
        self.inner.group.as_ref()
    }

    /// Waits until everything is seen here that was changed, on whichever node, before this call.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.database()?;
        match &self.inner.group {
            Some(group) => group.catch_up(),
            None => Ok(()),
        }
    }

    /// Runs `change` on the committing thread; what it put is durable when this returns Ok. Err discards its changes only.
    pub(crate) fn transact<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Txn<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if std::thread::current().id() == self.inner.committer_id {
            // It would wait for itself for ever.
            return Err(Error::new(
                Kind::Internal,
                Subject::Store,
                "a change of the catalog began another one",
            ));
        }
        if let Some(refusal) = self.inner.committed.refusal() {
            return Err(refusal);
        }
        let changes = self
            .inner
            .changes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (pending, answer) = Pending::new(change);
        changes
            .ok_or_else(closed)?
            .send(Box::new(pending))
            .map_err(|_| closed())?;
        answer.recv().map_err(|_| closed())?
    }

    /// The row behind `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.database()?
            .get(key)
            .map_err(|cause| failed("read a row of the catalog", cause))
    }

    /// Rows whose key starts with `prefix`, from `start` (inclusive) on, until `visit` returns false.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        start: &[u8],
        visit: &mut Visit<'_, bool>,
    ) -> Result<()> {
        self.walk(prefix, start, &mut |key, value| {
            Ok(if visit(key, value)? {
                Step::Next
            } else {
                Step::Stop
            })
        })
    }

    /// As [`Self::scan`], but `visit` may also skip ahead. All rows are of one moment.
    pub(crate) fn walk(
        &self,
        prefix: &[u8],
        start: &[u8],
        visit: &mut Visit<'_, Step>,
    ) -> Result<()> {
        let database = self.database()?;
        walk(&database, ReadOptions::default(), prefix, start, visit)
    }

    /// Runs `look` on all rows as they are at this moment.
    pub(crate) fn frozen<T>(&self, look: impl FnOnce(&Frozen<'_>) -> Result<T>) -> Result<T> {
        let database = self.database()?;
        look(&Frozen {
            database: &database,
            snapshot: database.snapshot(),
        })
    }

    /// The format of the catalog: [`keys::FORMAT_VERSION`], or an older one that waits for its upgrade.
    pub(crate) fn format(&self) -> Result<u32> {
        open::format(self.database()?.as_ref())
    }

    /// How many rows start with `prefix`.
    pub(crate) fn count(&self, prefix: &[u8]) -> Result<u64> {
        let mut rows = 0;
        self.scan(prefix, prefix, &mut |_, _| {
            rows += 1;
            Ok(true)
        })?;
        Ok(rows)
    }

    /// Reserves `count` map ids (durably, in blocks); returns the first. Ids are never reused, on no node.
    pub(crate) fn map_ids(&self, count: u64) -> Result<MapId> {
        let none_left = move || {
            let text = format!("there are no {count} map ids left");
            Error::new(Kind::Invalid, Subject::Store, text)
        };
        let mut ids = lock(&self.inner.ids);
        if ids.end - ids.next < count {
            let missing = count - (ids.end - ids.next);
            let reserved = self.transact(move |txn| {
                let row = txn.get(keys::IDS)?;
                let row = row.map(|row| keys::decode::<IdsRow>(keys::IDS, &row));
                let first = row.transpose()?.map_or(1, |row| row.next);
                // Another node may have reserved the ids behind this one's: then the block must do alone.
                let end = first
                    .checked_add(count.max(missing))
                    .and_then(|end| end.checked_next_multiple_of(IDS_STEP))
                    .ok_or_else(none_left)?;
                txn.put(keys::IDS, keys::encode(&IdsRow { next: end })?);
                Ok(first..end)
            })?;
            // Before an id is given out, this node knows that it will have to look after it.
            let mut own = ids.own.clone();
            match own.last_mut() {
                Some(last) if last.end == reserved.start => last.end = reserved.end,
                _ => own.push(reserved.clone()),
            }
            self.put_ids(ids.unfinished.iter().chain(&own))?;
            ids.own = own;
            if ids.end != reserved.start {
                ids.next = reserved.start;
            }
            ids.end = reserved.end;
        }
        let first = ids.next;
        ids.next += count;
        Ok(MapId(first))
    }

    /// Ids that earlier runs of this node have reserved; a map among them without a row was left
    /// unfinished when its run ended, and nobody will ever name it. Empty once [`Self::settle`] was called.
    pub(crate) fn unfinished(&self) -> Result<Vec<Range<u64>>> {
        self.database()?;
        Ok(lock(&self.inner.ids).unfinished.clone())
    }

    /// Remembers that what earlier runs left unfinished is gone: the next opening looks only at this run's ids.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut ids = lock(&self.inner.ids);
        self.put_ids(ids.own.iter())?;
        ids.unfinished.clear();
        Ok(())
    }

    fn put_ids<'a>(&self, ranges: impl Iterator<Item = &'a Range<u64>>) -> Result<()> {
        let mut row = IdsOfNodeRow { ranges: Vec::new() };
        for range in ranges {
            match row.ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => row.ranges.push(range.clone()),
            }
        }
        self.put_own(keys::NODE_IDS, keys::encode(&row)?)
    }

    /// Writes a row of this node's own, durably.
    fn put_own(&self, key: &[u8], row: Vec<u8>) -> Result<()> {
        assert!(key.starts_with(keys::NODE), "not a row of this node's own");
        if let Some(refusal) = self.inner.committed.refusal() {
            return Err(refusal);
        }
        self.database()?
            .put_opt(key, row, &synced())
            .map_err(|cause| {
                self.inner.committed.refuse(cause.as_ref());
                failed("write a row of this node's own", cause)
            })
    }

    /// The number of the last event in the journal; waits up to `patience` for one behind `cursor`.
    pub(crate) fn journal_last(&self, cursor: u64, patience: Duration) -> Result<u64> {
        self.inner
            .committed
            .wait(cursor, patience)
            .ok_or_else(closed)
    }

    /// Why changes are refused, if they are.
    pub(crate) fn refusing(&self) -> Option<String> {
        self.inner.committed.refusal().map(|error| error.chain())
    }

    /// Writes out what is in memory and compacts everything, so that removed rows take no space.
    pub(crate) fn compact(&self) -> Result<()> {
        let database = self.database()?;
        database
            .flush()
            .map_err(|cause| failed("flush the catalog", cause))?;
        database.compact_range::<&[u8], &[u8]>(None, None);
        Ok(())
    }

    /// Size, levels and row counts as a JSON tree.
    pub(crate) fn tree(&self) -> Result<serde_json::Value> {
        let database = self.database()?;
        let property = |name: &str| {
            database
                .property_int_value(name)
                .map_err(|cause| failed("read the catalog's properties", cause))
        };
        let files = database
            .live_files()
            .map_err(|cause| failed("list the catalog's files", cause))?;
        let files: Vec<_> = files
            .iter()
            .map(|file| {
                serde_json::json!({ "name": file.name, "level": file.level, "bytes": file.size, "rows": file.num_entries })
            })
            .collect();
        Ok(serde_json::json!({
            "engine": "rocksdb, write-ahead log, synced batches, lz4",
            "rows_estimated": property("rocksdb.estimate-num-keys")?,
            "table_bytes": property("rocksdb.total-sst-files-size")?,
            "memory_bytes": property("rocksdb.cur-size-all-mem-tables")?,
            "buckets": self.count(keys::BUCKETS)?,
            "objects": self.count(keys::OBJECTS)?,
            "maps": self.count(keys::MAPS)?,
            "pins": self.count(keys::PINS)?,
            "journal_last": self.journal_last(u64::MAX, Duration::ZERO)?,
            "files": files,
        }))
    }

    /// Stops the committing thread after what it has taken, and closes the database once the last
    /// reader is done. Every later call is Unavailable.
    pub(crate) fn close(&self) {
        self.inner.close();
    }

    /// The next batch fails as if the disk had answered so.
    #[cfg(test)]
    pub(crate) fn fail_next_batch(&self, text: &str) {
        self.inner.committed.fail_next(text);
    }

    fn database(&self) -> Result<Arc<DB>> {
        self.inner
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(closed)
    }
}

impl Inner {
    fn close(&self) {
        self.changes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let committer = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(group) = &self.group {
            // Whatever the committing thread waits for comes no more.
            group.stop();
        }
        if let Some(committer) = committer
            // The last handle may have died with a change, on the committing thread itself.
            && std::thread::current().id() != self.committer_id
            && committer.join().is_err()
        {
            tracing::error!(directory = %self.directory.display(), "the catalog's committing thread panicked");
        }
        self.committed.close();
        if let Some(group) = &self.group {
            group.close();
        }
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// All rows of the catalog as they were at one moment.
pub(crate) struct Frozen<'a> {
    database: &'a DB,
    snapshot: Snapshot<'a>,
}

impl Frozen<'_> {
    /// As [`Catalog::walk`].
    pub(crate) fn walk(
        &self,
        prefix: &[u8],
        start: &[u8],
        visit: &mut Visit<'_, Step>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        walk(self.database, options, prefix, start, visit)
    }
}

/// Where rows are read: in a transaction, of one moment, or as they stand.
pub(crate) trait Rows {
    /// The row behind `key`.
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first row whose key starts with `prefix`.
    fn first(&self, prefix: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>>;
}

impl Rows for Catalog {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(key)
    }

    fn first(&self, prefix: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = None;
        self.scan(prefix, prefix, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(false)
        })?;
        Ok(found)
    }
}

impl Rows for Frozen<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.snapshot
            .get(key)
            .map_err(|cause| failed("read a row of the catalog", cause))
    }

    fn first(&self, prefix: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = None;
        self.walk(prefix, prefix, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(Step::Stop)
        })?;
        Ok(found)
    }
}

impl Rows for Txn<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.get(key)
    }

    fn first(&self, prefix: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        Ok(self.scan_prefix(prefix, 1)?.pop())
    }
}

fn walk(
    database: &DB,
    mut options: ReadOptions,
    prefix: &[u8],
    start: &[u8],
    visit: &mut Visit<'_, Step>,
) -> Result<()> {
    if let Some(end) = keys::behind(prefix) {
        options.set_iterate_upper_bound(end);
    }
    let mut rows = database.raw_iterator_opt(options);
    rows.seek(start.max(prefix));
    while let Some((key, value)) = rows.item() {
        match visit(key, value)? {
            Step::Next => rows.next(),
            Step::Seek(target) => {
                assert!(target.as_slice() > key, "a walk only goes forward");
                rows.seek(target);
            }
            Step::Stop => break,
        }
    }
    rows.status()
        .map_err(|cause| failed("scan the catalog", cause))
}

/// RocksDB's error, met while trying to do `what`.
fn failed(what: &str, cause: rocksdb::Error) -> Error {
    let kind = match cause.kind() {
        rocksdb::ErrorKind::Corruption => Kind::Corrupt,
        _ if disk_is_full(cause.as_ref()) => Kind::NoSpace,
        _ => Kind::Internal,
    };
    Error::new(kind, Subject::Store, format!("cannot {what}")).because(cause)
}

/// RocksDB passes the operating system's words on, not its number.
fn disk_is_full(text: &str) -> bool {
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> Error {
    Error::new(
        Kind::Unavailable,
        Subject::Store,
        "the store is closed: open it again",
    )
}
