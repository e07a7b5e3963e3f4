//! (signatures first)
#![allow(unused_variables, missing_docs, clippy::todo, dead_code)]
use crate::{Lsn, MapId, LogId, Result, SealedMap};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The lsn under which a volume's writable head is pinned: one mechanism for heads and seals.
pub(crate) const HEAD: Lsn = Lsn(u64::MAX);

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
    pub(crate) created_ms: u64,
}

/// The catalog: names, pins, journal; RocksDB with WAL and sync; one thread commits for all.
#[derive(Clone)]
pub(crate) struct Catalog { inner: Arc<()> }

impl Catalog {
    pub(crate) fn open(directory: &Path) -> Result<Self> { todo!() }
    /// Runs `change` on the committing thread; what it put is durable when this returns Ok. Err discards its changes only.
    pub(crate) fn transact<T: Send + 'static>(&self, change: impl FnOnce(&mut Txn<'_>) -> Result<T> + Send + 'static) -> Result<T> { todo!() }
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    /// Rows whose key starts with `prefix`, from `start` (inclusive) on, until `visit` returns false.
    pub(crate) fn scan(&self, prefix: &[u8], start: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> { todo!() }
    /// Reserves `count` map ids (durably, in blocks); returns the first. Ids are never reused.
    pub(crate) fn map_ids(&self, count: u64) -> Result<MapId> { todo!() }
    pub(crate) fn map(&self, map: MapId) -> Result<Option<MapRow>> { todo!() }
    /// The lsns of `map` that have at least one pin (HEAD included).
    pub(crate) fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>> { todo!() }
    pub(crate) fn has_pin(&self, map: MapId, lsn: Lsn) -> Result<bool> { todo!() }
    /// Maps that lost a cut and wait for the sweeper.
    pub(crate) fn loose(&self) -> Result<Vec<MapId>> { todo!() }
}

/// A batch under construction: reads see its own changes.
pub(crate) struct Txn<'a> { inner: &'a () }
impl Txn<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    pub(crate) fn put(&mut self, key: &[u8], value: Vec<u8>) { todo!() }
    pub(crate) fn delete(&mut self, key: &[u8]) { todo!() }
    pub(crate) fn scan_prefix(&self, prefix: &[u8], max: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> { todo!() }
    pub(crate) fn map(&self, map: MapId) -> Result<Option<MapRow>> { todo!() }
    /// Writes the row of a new or changed map. A new map's parent and borrows are pinned by it here (holder `map:<id>`).
    pub(crate) fn put_map(&mut self, map: MapId, row: &MapRow) -> Result<()> { todo!() }
    /// Pins (map, lsn) for `holder` (`object:b/k`, `part:…`, `snapshot:<id>`, `image:<id>`, `volume:<name>`, `map:<id>`).
    pub(crate) fn pin(&mut self, map: MapId, lsn: Lsn, holder: &str) -> Result<()> { todo!() }
    /// Ends a pin; when it was the last of that lsn, the map becomes loose.
    pub(crate) fn unpin(&mut self, map: MapId, lsn: Lsn, holder: &str) -> Result<()> { todo!() }
    /// The sweeper is done with a map: if it has no cut left, its row goes and its parent's and borrows' pins end (they become loose in turn).
    pub(crate) fn swept(&mut self, map: MapId) -> Result<()> { todo!() }
    /// Appends to the journal in this batch.
    pub(crate) fn journal(&mut self, who: &crate::Who, entry: crate::Entry) -> Result<u64> { todo!() }
}
