//! What the engine asks of the catalog: maps, their cuts, and ids. Narrow, so that a simulation can
//! stand in with names kept in memory.

use crate::catalog::{Catalog, MapRow};
use crate::{Lsn, MapId, Result};
use std::collections::BTreeSet;
use std::ops::Range;

/// The catalog as the engine sees it. Everything it answers is durable.
pub(crate) trait Names: Send + Sync {
    /// The row of a map.
    fn map(&self, map: MapId) -> Result<Option<MapRow>>;
    /// The lsns of a map that are pinned; [`crate::catalog::HEAD`] for a writable one.
    fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>>;
    /// Maps that lost a cut.
    fn loose(&self) -> Result<Vec<MapId>>;
    /// A map was pruned down to the cuts `saw`; without any it goes, and what it pinned becomes loose.
    /// False when its cuts have changed in the meantime: then it stays loose.
    fn swept(&self, map: MapId, saw: BTreeSet<Lsn>) -> Result<bool>;
    /// A map id nobody has had.
    fn map_id(&self) -> Result<MapId>;
    /// Ids that earlier runs of this node may have left without a row.
    fn unfinished(&self) -> Result<Vec<Range<u64>>>;
    /// The leftovers of earlier runs are gone.
    fn settle(&self) -> Result<()>;
}

impl Names for Catalog {
    fn map(&self, map: MapId) -> Result<Option<MapRow>> {
        Self::map(self, map)
    }

    fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>> {
        Self::cuts(self, map)
    }

    fn loose(&self) -> Result<Vec<MapId>> {
        Self::loose(self)
    }

    fn swept(&self, map: MapId, saw: BTreeSet<Lsn>) -> Result<bool> {
        self.transact(move |txn| txn.swept(map, &saw))
    }

    fn map_id(&self) -> Result<MapId> {
        self.map_ids(1)
    }

    fn unfinished(&self) -> Result<Vec<Range<u64>>> {
        Self::unfinished(self)
    }

    fn settle(&self) -> Result<()> {
        Self::settle(self)
    }
}
