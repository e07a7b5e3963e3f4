//! Three ordered tables with atomic batches and checkpoints: all the index asks of what lies below.
//!
//! 1. A batch is applied whole or not at all.
//! 2. What a checkpoint covered survives a power cut; what came after may be lost, but only from the
//!    newest batch backwards (no batch is lost while a later one stays).

use crate::Result;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// `(map, leaf, lsn newest first)` → a version of a leaf.
    Maps,
    /// `(log, lsn)` → where a run of births lies.
    Locations,
    /// Positions, segment figures, ends of logs.
    Meta,
}

/// One change of a batch; None deletes.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) table: Table,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Looks at a row; false ends the scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool> + 'a;

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// The tables.
pub(crate) trait Tables: Send + Sync {
    /// The value under a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first row at or behind `from`.
    fn next(&self, table: Table, from: &[u8]) -> Result<Option<Row>>;
    /// The last row at or before `upto`.
    fn previous(&self, table: Table, upto: &[u8]) -> Result<Option<Row>>;
    /// Rows from `from` on, in order, until `visit` says false.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()>;
    /// Applies a batch, atomically.
    fn write(&self, changes: Vec<Change>) -> Result<()>;
    /// Makes every batch so far durable.
    fn checkpoint(&self) -> Result<()>;
}
