//! Sweeping: a map that lost a cut is pruned to the cuts it has left; without any it goes.
//!
//! Slices of a map are pruned under the index writer's lock, with the cuts as they are then: the
//! catalog's, and seals that are in the log but not in the catalog yet. What is not sealed by then can
//! only be sealed by what comes later, and shows no version that is pruned now.

use super::{Engine, Inner, lock};
use crate::catalog::HEAD;
use crate::index::leaf::prune;
use crate::{Lsn, MapId, Result};
use std::collections::BTreeSet;

/// Leaves pruned in one go.
const SLICE: usize = 256;

impl Engine {
    /// Removes what earlier runs began and never named.
    pub(super) fn sweep_unfinished(&self) -> Result<()> {
        let inner = &self.inner;
        for range in inner.names.unfinished()? {
            let mut at = MapId(range.start);
            while let Some(map) = inner.index.next_map(at)?.filter(|map| map.0 < range.end) {
                if inner.names.map(map)?.is_none() {
                    inner.prune(map, &BTreeSet::new())?;
                }
                at = MapId(map.0 + 1);
            }
        }
        inner.checkpoint()?;
        inner.names.settle()
    }

    /// Prunes every loose map that nobody reads; returns how many went or shrank.
    pub(crate) fn sweep(&self) -> Result<u64> {
        let inner = &self.inner;
        let mut swept = 0;
        loop {
            let building: Vec<MapId> = lock(&inner.building).iter().copied().collect();
            for map in building {
                if inner.names.map(map)?.is_some() {
                    lock(&inner.building).remove(&map);
                }
            }
            let abandoned = std::mem::take(&mut *lock(&inner.abandoned));
            let loose = inner.names.loose()?;
            let ready: Vec<MapId> = loose
                .into_iter()
                .filter(|map| !lock(&inner.views).contains_key(map))
                .collect();
            if ready.is_empty() && abandoned.is_empty() {
                return Ok(swept);
            }
            // Whatever was appended to these maps must be in the index first, and stay out of a replay.
            self.settle()?;
            for map in &abandoned {
                inner.prune(*map, &BTreeSet::new())?;
            }
            let mut pruned = Vec::new();
            for map in ready {
                let cuts = inner.names.cuts(map)?;
                if inner.prune(map, &cuts)? {
                    pruned.push((map, cuts));
                }
            }
            inner.checkpoint()?;
            let before = swept;
            swept += abandoned.len() as u64;
            for (map, cuts) in pruned {
                let gone = cuts.is_empty();
                if inner.names.swept(map, cuts)? {
                    swept += 1;
                    if gone {
                        lock(&inner.heads).remove(&map);
                        lock(&inner.parents).remove(&map);
                    }
                }
            }
            if swept == before {
                return Ok(swept);
            }
        }
    }
}

impl Inner {
    /// False when a reader came in between: then nothing more is done.
    fn prune(&self, map: MapId, cuts: &BTreeSet<Lsn>) -> Result<bool> {
        if let Some(head) = lock(&self.heads).get(&map).cloned() {
            // Seals whose last name is gone hold nothing any more.
            lock(&head.state).refresh_seals(self, map)?;
        }
        let mut from = 0;
        loop {
            let mut writer = lock(&self.index_writer);
            if lock(&self.views).contains_key(&map) {
                return Ok(false);
            }
            let mut live = cuts.clone();
            if cuts.contains(&HEAD) {
                live.extend(self.known_seals(map).unwrap_or_default());
            }
            let mut slice = Vec::new();
            let mut next = self.index.next_leaf(map, from)?;
            while let Some(leaf) = next {
                slice.push((leaf, prune(&self.index.versions(map, leaf)?, &live)));
                let Some(behind) = leaf.checked_add(1) else {
                    break;
                };
                from = behind;
                if slice.len() == SLICE {
                    break;
                }
                next = self.index.next_leaf(map, from)?;
            }
            let last = slice.len() < SLICE;
            slice.retain(|(_, pruned)| {
                !pruned.put.is_empty() || !pruned.delete.is_empty() || !pruned.dead.is_empty()
            });
            if !slice.is_empty() {
                self.write_pruned(&mut writer, map, &slice)?;
            }
            if last {
                return Ok(true);
            }
        }
    }
}
