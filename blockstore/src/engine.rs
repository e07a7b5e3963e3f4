//! (signatures first)
#![allow(unused_variables, missing_docs, clippy::todo, clippy::needless_pass_by_value, dead_code)]
use crate::catalog::{Catalog, MapRow};
use crate::store::{Options, View};
use crate::{Result, SealedMap};
use std::path::Path;
use std::sync::Arc;

/// The value log, the index and their threads.
#[derive(Clone)]
pub(crate) struct Engine { inner: Arc<()> }

impl Engine {
    pub(crate) fn open(directory: &Path, options: &Options, catalog: Catalog) -> Result<Self> { todo!() }
    /// Begins a new body map written in order through the ingest log. Dropping it forgets the bytes.
    pub(crate) fn body(&self) -> Result<MapBuilder> { todo!() }
    /// Opens a sealed map for reading; holds it against sweeping while the view lives.
    /// NotFound (Subject::Store) if it has no pin any more: the caller reads its row again.
    pub(crate) fn view(&self, sealed: SealedMap) -> Result<View> { todo!() }
    /// Wakes the sweeper after a transaction that unpinned something.
    pub(crate) fn sweep_soon(&self) { todo!() }
    /// Refuses early (NoSpace) when ordinary writes may not take more of the disk.
    pub(crate) fn admit_write(&self) -> Result<()> { todo!() }
}

/// A body map under construction.
pub(crate) struct MapBuilder { inner: () }
impl MapBuilder {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> { todo!() }
    pub(crate) fn length_bytes(&self) -> u64 { todo!() }
    /// Pads the last block, syncs, waits until the index shows it. The caller commits the row and a pin in ONE transaction.
    pub(crate) fn finish(self) -> Result<(SealedMap, MapRow)> { todo!() }
}
