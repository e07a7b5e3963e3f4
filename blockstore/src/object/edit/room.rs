//! The quota, asked while an object grows.

use super::ObjectEdit;
use crate::Result;
use crate::object::{bucket, row};
use std::sync::atomic::Ordering;

/// How far a body may grow before the quota is asked again: others use it meanwhile.
const STEP_BYTES: u64 = 1 << 20;

impl ObjectEdit {
    /// NoSpace unless it may become so long, by what its project uses now and what its publication
    /// will free. The transaction that publishes it asks again.
    pub(super) fn admit(&self, length_bytes: u64) -> Result<()> {
        let grows = length_bytes > self.length_bytes();
        let orphaned = self.orphaned.load(Ordering::Acquire);
        if !grows || orphaned || length_bytes <= self.admitted_bytes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let place = self.place().clone();
        let catalog = &self.store.shared.catalog;
        let bucket = bucket::expect(catalog, &place.bucket)?;
        let freed = row::freed(catalog, &bucket, &place.key)?;
        self.store.admit(&bucket.project, length_bytes, freed)?;
        let room = self.store.quota_room(&bucket, freed)?;
        let admitted = length_bytes.saturating_add(STEP_BYTES);
        let admitted = room.map_or(admitted, |room| admitted.min(room));
        self.admitted_bytes.store(admitted, Ordering::Relaxed);
        Ok(())
    }
}
