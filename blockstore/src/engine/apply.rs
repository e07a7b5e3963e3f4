//! From the queue into the index: batches of synced operations, folding, checkpoints.

use super::{CHECKPOINT_BYTES, Dead, FOLD_AFTER, Inner, Operation, Queued, leaf_of, lock};
use crate::index::leaf::{Leaf, Run, Slot, Version};
use crate::index::{IndexBatch, Location, SegmentFigures};
use crate::valuelog::format::Position;
use crate::{BLOCK, Birth, LEAF_BLOCKS, LogId, Lsn, MapId, Result, SegmentId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Operations in one index batch.
const BATCH_OPERATIONS: usize = 8192;

/// What the index writer remembers between batches.
#[derive(Default)]
pub(super) struct WriterState {
    /// Deltas of a leaf since its last image, as far as known.
    deltas: HashMap<(MapId, u32), u8>,
}

/// Locations and figures as the batch under construction changes them.
struct Draft<'a> {
    inner: &'a Inner,
    batch: IndexBatch,
    /// Runs of each leaf since the last seal, with the newest lsn.
    runs: BTreeMap<(MapId, u32), (Lsn, Vec<Run>)>,
    written_leaves: HashSet<(MapId, u32)>,
    locations: BTreeMap<(LogId, Lsn), Location>,
    figures: BTreeMap<SegmentId, SegmentFigures>,
    log_ends: BTreeMap<LogId, Lsn>,
    /// Operations per leaf, to release heads afterwards.
    released: HashMap<MapId, HashMap<u32, u32>>,
}

impl Inner {
    pub(super) fn index_loop(&self) {
        while !self.stopping.load(Relaxed) {
            match self.apply_ready() {
                Ok(true) => {}
                Ok(false) => {
                    let progress = lock(&self.progress);
                    drop(
                        self.progressed
                            .wait_timeout(progress, Duration::from_millis(20)),
                    );
                    continue;
                }
                Err(failure) => {
                    drop(self.log.refuse("write the index", failure));
                    return;
                }
            }
            if lock(&self.progress).since_checkpoint >= CHECKPOINT_BYTES
                && let Err(failure) = self.checkpoint()
            {
                drop(self.log.refuse("checkpoint the index", failure));
                return;
            }
        }
    }

    /// Waits until everything below `through` (which must be synced) is in the index.
    pub(super) fn wait_applied(&self, through: Position) -> Result<()> {
        if !self.threads {
            while self.apply_ready()? {}
            return Ok(());
        }
        self.progressed.notify_all();
        let mut progress = lock(&self.progress);
        while progress.applied < through {
            self.log.admit()?;
            let (again, _) = self
                .progressed
                .wait_timeout(progress, Duration::from_millis(20))
                .unwrap_or_else(PoisonError::into_inner);
            progress = again;
        }
        Ok(())
    }

    /// Makes the index durable as far as it has come.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let reached = {
            let mut progress = lock(&self.progress);
            progress.since_checkpoint = 0;
            progress.applied
        };
        self.index.checkpoint()?;
        let mut progress = lock(&self.progress);
        progress.checkpointed = progress.checkpointed.max(reached);
        Ok(())
    }

    /// Applies what is synced; false when there was nothing.
    pub(super) fn apply_ready(&self) -> Result<bool> {
        let mut writer = lock(&self.index_writer);
        // Read before the queue: what is synced later waits for the next round.
        let synced = self.log.synced();
        let ready: Vec<Queued> = {
            let mut queue = lock(&self.queue);
            let mut ready = queue
                .iter()
                .take(BATCH_OPERATIONS)
                .take_while(|queued| queued.end <= synced)
                .count();
            // Never half of a log batch: the position covered would claim the other half too.
            while ready > 0
                && queue
                    .get(ready)
                    .is_some_and(|next| next.end == queue[ready - 1].end)
            {
                ready += 1;
            }
            queue.drain(..ready).collect()
        };
        let Some(end) = ready.last().map(|queued| queued.end) else {
            let mut progress = lock(&self.progress);
            if progress.applied < synced
                && lock(&self.queue)
                    .front()
                    .is_none_or(|queued| queued.end > synced)
            {
                progress.applied = synced;
                self.progressed.notify_all();
            }
            return Ok(false);
        };
        let mut draft = Draft::new(self);
        let mut payload = 0;
        for queued in &ready {
            if let Operation::Write { location, .. } | Operation::Move { location, .. } =
                &queued.operation
            {
                payload += location.count() * BLOCK as u64;
            }
            draft.take(&queued.operation, &mut writer)?;
        }
        draft.finish(end, &mut writer)?;
        {
            let mut fresh = self.fresh.write().unwrap_or_else(PoisonError::into_inner);
            for queued in &ready {
                if let Operation::Write { log, lsn, .. } | Operation::Move { log, lsn, .. } =
                    &queued.operation
                {
                    fresh.remove(&(*log, *lsn));
                }
            }
        }
        self.queue_room.notify_all();
        let mut progress = lock(&self.progress);
        progress.applied = progress.applied.max(end);
        progress.since_checkpoint += payload;
        self.progressed.notify_all();
        Ok(true)
    }

    /// The seals of a map as its head knows them, those included that the catalog has not got yet.
    pub(super) fn known_seals(&self, map: MapId) -> Option<std::collections::BTreeSet<Lsn>> {
        let head = lock(&self.heads).get(&map).cloned();
        head.map(|head| head.seals())
    }

    /// Takes `count` births off the figures of the segments that hold them.
    fn bury(&self, draft: &mut Draft<'_>, dead: Dead, only_of: Option<MapId>) -> Result<()> {
        let mut at = dead.lsn.0;
        let end = dead.lsn.0 + dead.count;
        while at < end {
            match draft.locate(dead.log, Lsn(at))? {
                Some((first, location)) => {
                    let here = (first.0 + location.count()).min(end) - at;
                    if only_of.is_none_or(|map| location.map == map) {
                        let figures = draft.figures(location.segment);
                        figures.live_blocks = figures.live_blocks.saturating_sub(here);
                    }
                    at += here;
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    /// Writes one slice of pruned versions; the caller holds the index writer.
    pub(super) fn write_pruned(
        &self,
        writer: &mut WriterState,
        map: MapId,
        leaves: &[(u32, crate::index::leaf::Pruned)],
    ) -> Result<()> {
        let mut draft = Draft::new(self);
        for (leaf, pruned) in leaves {
            for (lsn, version) in &pruned.put {
                draft.batch.put_version(map, *leaf, *lsn, version);
            }
            for lsn in &pruned.delete {
                draft.batch.delete_version(map, *leaf, *lsn);
            }
            writer.deltas.remove(&(map, *leaf));
            for Birth { log, lsn, .. } in &pruned.dead {
                self.bury(
                    &mut draft,
                    Dead {
                        log: *log,
                        lsn: *lsn,
                        count: 1,
                    },
                    Some(map),
                )?;
            }
        }
        draft.write_figures();
        self.index.write(draft.batch)
    }
}

impl<'a> Draft<'a> {
    fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            batch: IndexBatch::default(),
            runs: BTreeMap::new(),
            written_leaves: HashSet::new(),
            locations: BTreeMap::new(),
            figures: BTreeMap::new(),
            log_ends: BTreeMap::new(),
            released: HashMap::new(),
        }
    }

    fn take(&mut self, operation: &Operation, writer: &mut WriterState) -> Result<()> {
        match operation {
            Operation::Write {
                log,
                lsn,
                map,
                block,
                location,
                dead,
            } => {
                let count = location.count();
                let born = Slot::Born(Birth {
                    log: *log,
                    epoch: location.epoch,
                    lsn: *lsn,
                });
                let last = Lsn(lsn.0 + count - 1);
                self.show(*map, *block, count, born, last);
                self.locations.insert((*log, *lsn), location.clone());
                let figures = self.figures(location.segment);
                figures.live_blocks += count;
                figures.blocks += count;
                self.end(*log, Lsn(lsn.0 + count));
                for run in dead {
                    self.inner.bury(self, *run, None)?;
                }
            }
            Operation::Zero {
                log,
                lsn,
                map,
                block,
                count,
                leaves,
                dead,
                ..
            } => {
                for leaf in leaves {
                    let first = (u64::from(*leaf) * LEAF_BLOCKS as u64).max(*block);
                    let end = ((u64::from(*leaf) + 1) * LEAF_BLOCKS as u64).min(block + count);
                    self.show(*map, first, end - first, Slot::Zero, *lsn);
                }
                self.end(*log, Lsn(lsn.0 + 1));
                for run in dead {
                    self.inner.bury(self, *run, None)?;
                }
            }
            Operation::Seal { log, lsn, map } => {
                self.fold_map(*map, writer)?;
                self.end(*log, Lsn(lsn.0 + 1));
            }
            Operation::Mark { log, lsn } => self.end(*log, Lsn(lsn.0 + 1)),
            Operation::Move { log, lsn, location } => self.relocate(*log, *lsn, location)?,
        }
        Ok(())
    }

    /// Births keep their names; only their place changes. What the old record held beside them stays.
    fn relocate(&mut self, log: LogId, lsn: Lsn, location: &Location) -> Result<()> {
        let count = location.count();
        self.figures(location.segment).blocks += count;
        let Some((first, old)) = self.locate(log, lsn)? else {
            return Ok(());
        };
        if old.segment == location.segment || old.epoch != location.epoch {
            return Ok(());
        }
        let lead = usize::try_from(lsn.0 - first.0).unwrap_or(0);
        let moved = usize::try_from(count)
            .unwrap_or(0)
            .min(old.checks.len() - lead);
        let behind = lead + moved;
        if behind < old.checks.len() {
            let rest = Location {
                offset: old.offset + (behind * BLOCK) as u64,
                block: old.block + behind as u64,
                checks: old.checks[behind..].into(),
                ..old.clone()
            };
            self.locations
                .insert((log, Lsn(first.0 + behind as u64)), rest);
        }
        if lead > 0 {
            self.locations.insert(
                (log, first),
                Location {
                    checks: old.checks[..lead].into(),
                    ..old.clone()
                },
            );
        }
        self.locations.insert((log, lsn), location.clone());
        let figures = self.figures(old.segment);
        figures.live_blocks = figures.live_blocks.saturating_sub(moved as u64);
        self.figures(location.segment).live_blocks += moved as u64;
        Ok(())
    }

    fn show(&mut self, map: MapId, block: u64, count: u64, slot: Slot, lsn: Lsn) {
        let mut done = 0;
        while done < count {
            let (leaf, first) = leaf_of(block + done);
            let here = (count - done).min((LEAF_BLOCKS - first) as u64);
            let run = Run {
                first: u8::try_from(first).unwrap_or(u8::MAX),
                count: u16::try_from(here).unwrap_or(u16::MAX),
                slot: slot.advance(done),
            };
            let (newest, runs) = self.runs.entry((map, leaf)).or_default();
            *newest = lsn.max(*newest);
            runs.push(run);
            *self
                .released
                .entry(map)
                .or_default()
                .entry(leaf)
                .or_default() += 1;
            done += here;
        }
    }

    fn end(&mut self, log: LogId, next: Lsn) {
        let known = self.log_ends.entry(log).or_default();
        *known = next.max(*known);
    }

    fn figures(&mut self, segment: SegmentId) -> &mut SegmentFigures {
        self.figures.entry(segment).or_insert_with(|| {
            lock(&self.inner.figures)
                .get(&segment)
                .copied()
                .unwrap_or_default()
        })
    }

    fn locate(&self, log: LogId, lsn: Lsn) -> Result<Option<(Lsn, Location)>> {
        let drafted = self.locations.range((log, Lsn(0))..=(log, lsn)).next_back();
        if let Some(((_, first), location)) = drafted
            && lsn.0 - first.0 < location.count()
        {
            return Ok(Some((*first, location.clone())));
        }
        self.inner.index.location(log, lsn)
    }

    /// Writes the gathered runs of one map as versions.
    fn fold_map(&mut self, map: MapId, writer: &mut WriterState) -> Result<()> {
        let leaves: Vec<(MapId, u32)> = self
            .runs
            .range((map, 0)..=(map, u32::MAX))
            .map(|(place, _)| *place)
            .collect();
        for place in leaves {
            self.write_leaf(place, writer)?;
        }
        Ok(())
    }

    fn write_leaf(&mut self, place: (MapId, u32), writer: &mut WriterState) -> Result<()> {
        let Some((lsn, runs)) = self.runs.remove(&place) else {
            return Ok(());
        };
        let (map, leaf) = place;
        let delta = Version::delta(&runs);
        let deltas = writer.deltas.entry(place).or_default();
        *deltas = deltas.saturating_add(1);
        let first_in_batch = self.written_leaves.insert(place);
        if *deltas < FOLD_AFTER || !first_in_batch {
            self.batch.put_version(map, leaf, lsn, &delta);
            return Ok(());
        }
        let Some(seals) = self.inner.known_seals(map) else {
            self.batch.put_version(map, leaf, lsn, &delta);
            return Ok(());
        };
        *deltas = 0;
        // What no seal can show any more is replaced by one image.
        let keep_upto = seals.range(..lsn).next_back().copied();
        let chain = self.inner.index.chain(map, leaf, lsn)?;
        for (old, _) in &chain {
            if keep_upto.is_none_or(|seal| *old > seal) {
                self.batch.delete_version(map, leaf, *old);
            }
        }
        let image =
            Leaf::resolve(std::iter::once(&delta).chain(chain.iter().map(|(_, version)| version)))
                .image();
        self.batch.put_version(map, leaf, lsn, &image);
        Ok(())
    }

    fn write_figures(&mut self) {
        let mut shared = lock(&self.inner.figures);
        for (segment, figures) in std::mem::take(&mut self.figures) {
            shared.insert(segment, figures);
            self.batch.put_figures(segment, figures);
        }
    }

    fn finish(mut self, end: Position, writer: &mut WriterState) -> Result<()> {
        let left: Vec<(MapId, u32)> = self.runs.keys().copied().collect();
        for place in left {
            self.write_leaf(place, writer)?;
        }
        if writer.deltas.len() > 1 << 20 {
            writer.deltas.clear();
        }
        for ((log, lsn), location) in &self.locations {
            self.batch.put_location(*log, *lsn, location);
        }
        for (log, next) in &self.log_ends {
            self.batch.put_log_end(*log, *next);
        }
        self.write_figures();
        self.batch.put_covered(end);
        self.inner.index.write(self.batch)?;
        for (map, leaves) in self.released {
            let Some(head) = lock(&self.inner.heads).get(&map).cloned() else {
                continue;
            };
            let mut state = lock(&head.state);
            for (leaf, count) in leaves {
                if let Some(held) = state.leaves.get_mut(&leaf) {
                    held.queued = held.queued.saturating_sub(count);
                }
            }
        }
        Ok(())
    }
}
