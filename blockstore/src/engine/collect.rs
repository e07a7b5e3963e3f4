//! Collecting: segments without a live block are unlinked, live blocks of sparse ones are moved.
//!
//! A move: copy, sync, location durable, readers drained (they hold the file open), free. Moves keep
//! births. Whether a block is alive is asked of the maps; the figures only say where to look.

use super::head::located;
use super::{Engine, Inner, Operation, Position, lock};
use crate::index::leaf::{Leaf, Slot};
use crate::index::{IndexBatch, Location};
use crate::valuelog::format::{EntryKind, LogEntry};
use crate::valuelog::{Room, scan};
use crate::{BLOCK, Birth, Error, Kind, LogId, Lsn, MapId, Result, SegmentId, Subject};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Background collection moves out of segments with less than this share alive, in percent.
const LIVE_PERCENT_BACKGROUND: u64 = 50;
/// An explicit collection is content with segments of this share alive, in thousandths.
const LIVE_PERMILLE_EXPLICIT: u64 = 995;

/// Segments without a live block that share one checkpoint of the index.
const FREED_TOGETHER: usize = 16;

/// The background looks at least this often.
const ROUND: Duration = Duration::from_secs(10);

/// What a collection did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reclaimed {
    pub(crate) segments: u64,
    pub(crate) freed_bytes: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) maps: u64,
}

impl Engine {
    pub(super) fn collect_loop(&self) {
        let inner = &self.inner;
        while !inner.stopping.load(Relaxed) {
            let wake = lock(&inner.wake);
            let (mut wake, _) = inner
                .woken
                .wait_timeout_while(wake, ROUND, |wake| {
                    !wake.sweep && !inner.stopping.load(Relaxed)
                })
                .unwrap_or_else(PoisonError::into_inner);
            wake.sweep = false;
            drop(wake);
            if inner.stopping.load(Relaxed) || inner.log.refusing().is_some() {
                continue;
            }
            if let Err(failure) = self.collect_some() {
                tracing::error!(failure = failure.chain(), "a background collection stopped");
            }
        }
    }
}

impl Engine {
    /// One round in the background: sweep, then what is worth it.
    pub(crate) fn collect_some(&self) -> Result<Reclaimed> {
        let _one = lock(&self.inner.collecting);
        let mut done = Reclaimed {
            maps: self.sweep()?,
            ..Reclaimed::default()
        };
        let worth = |live: u64, blocks: u64| live * 100 < blocks * LIVE_PERCENT_BACKGROUND;
        self.collect_segments(&worth, &mut done)?;
        Ok(done)
    }

    /// Sweeps and compacts until nothing worth it is left.
    pub(crate) fn collect_all(&self) -> Result<Reclaimed> {
        let _one = lock(&self.inner.collecting);
        let mut done = Reclaimed::default();
        loop {
            let before = done.freed_bytes;
            done.maps += self.sweep()?;
            self.inner.log.seal_active()?;
            self.checkpoint()?;
            self.recount()?;
            let worth = |live: u64, blocks: u64| live * 1000 < blocks * LIVE_PERMILLE_EXPLICIT;
            self.collect_segments(&worth, &mut done)?;
            if done.freed_bytes == before {
                return Ok(done);
            }
        }
    }

    /// Segments that are sealed and wholly in the durable index; those without payload too.
    fn settled_segments(&self) -> Result<Vec<SegmentId>> {
        let upto = lock(&self.inner.progress).checkpointed.segment;
        let (_, present) = self.space()?;
        Ok(present.into_keys().filter(|known| *known < upto).collect())
    }

    fn collect_segments(
        &self,
        worth: &dyn Fn(u64, u64) -> bool,
        done: &mut Reclaimed,
    ) -> Result<()> {
        let (mut dead, mut sparse) = (Vec::new(), Vec::new());
        for segment in self.settled_segments()? {
            let figures = lock(&self.inner.figures)
                .get(&segment)
                .copied()
                .unwrap_or_default();
            if worth(figures.live_blocks, figures.blocks) || figures.live_blocks == 0 {
                let live = self.live_runs(segment)?;
                if live.is_empty() {
                    self.forget_segment(segment)?;
                    dead.push(segment);
                } else {
                    sparse.push(segment);
                }
            }
            if dead.len() >= FREED_TOGETHER {
                self.free_segments(&mut dead, done)?;
            }
            self.inner.log.admit()?;
        }
        // Before anything moves: on a full disk a move needs the room.
        self.free_segments(&mut dead, done)?;
        for segment in sparse {
            self.move_segment(segment, done)?;
            self.inner.log.admit()?;
        }
        Ok(())
    }

    /// Counts live blocks of every settled segment by the maps, so that the figures are exact.
    fn recount(&self) -> Result<()> {
        for segment in self.settled_segments()? {
            let live = self.live_runs(segment)?.iter().map(|run| run.count).sum();
            let _writer = lock(&self.inner.index_writer);
            let mut figures = lock(&self.inner.figures);
            if let Some(known) = figures.get_mut(&segment) {
                known.live_blocks = live;
            }
        }
        Ok(())
    }

    fn move_segment(&self, segment: SegmentId, done: &mut Reclaimed) -> Result<()> {
        let live = self.live_runs(segment)?;
        let mut end = Position::default();
        for run in &live {
            end = self.move_run(run)?;
            done.moved_bytes += run.count * BLOCK as u64;
        }
        if !live.is_empty() {
            self.settle_through(end)?;
        }
        self.forget_segment(segment)?;
        self.free_segments(&mut vec![segment], done)
    }

    /// Unlinks segments that the index has been made to forget.
    fn free_segments(&self, forgotten: &mut Vec<SegmentId>, done: &mut Reclaimed) -> Result<()> {
        if forgotten.is_empty() {
            return Ok(());
        }
        let inner = &self.inner;
        // From here on no durable record names them.
        inner.checkpoint()?;
        for segment in forgotten.drain(..) {
            let bytes = inner
                .log
                .file(segment)
                .and_then(|file| file.allocated())
                .unwrap_or(0);
            inner.log.remove(segment)?;
            done.segments += 1;
            done.freed_bytes += bytes;
        }
        Ok(())
    }

    fn move_run(&self, run: &LiveRun) -> Result<Position> {
        let inner = &self.inner;
        let count = usize::try_from(run.count).unwrap_or(0);
        let mut payload = vec![0; count * BLOCK];
        inner.read_births(run.birth, &mut payload)?;
        let entry = LogEntry {
            kind: EntryKind::Move,
            log: run.birth.log,
            epoch: run.birth.epoch,
            lsn: run.birth.lsn,
            map: run.map,
            block: run.block,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            argument: 0,
            checks: run.checks.clone(),
        };
        inner.throttle()?;
        inner.written.moved.fetch_add(payload.len() as u64, Relaxed);
        inner.log.append(
            vec![entry],
            &[&payload],
            Room::Reserve,
            |appended, entries| {
                let operations = entries
                    .into_iter()
                    .zip(&appended.offsets)
                    .map(|(entry, offset)| Operation::Move {
                        log: entry.log,
                        lsn: entry.lsn,
                        location: located(entry, appended.segment, *offset),
                    })
                    .collect();
                // Readers go on with the old place until the index has the new one.
                inner.queue_moves(appended.end, operations);
            },
        )
    }

    /// Deletes the locations that still name a segment; all that was alive there has moved.
    fn forget_segment(&self, segment: SegmentId) -> Result<()> {
        let inner = &self.inner;
        let entries = self.footer(segment)?;
        let _writer = lock(&inner.index_writer);
        let mut batch = IndexBatch::default();
        for (_, entry) in &entries {
            let mut at = entry.lsn.0;
            let end = entry.lsn.0 + u64::from(entry.count);
            while at < end {
                match inner.index.location(entry.log, Lsn(at))? {
                    Some((first, location)) => {
                        at = first.0 + location.count();
                        if location.segment == segment {
                            batch.delete_location(entry.log, first);
                        }
                    }
                    None => at += 1,
                }
            }
        }
        batch.delete_figures(segment);
        lock(&inner.figures).remove(&segment);
        inner.index.write(batch)
    }

    fn footer(&self, segment: SegmentId) -> Result<Vec<(u64, LogEntry)>> {
        let unreadable = |failure: Box<dyn std::error::Error + Send + Sync>| {
            let text = format!("{segment} has no readable footer; run `infall check`");
            Error::new(Kind::Corrupt, Subject::Store, text).because(failure)
        };
        let file = self
            .inner
            .log
            .file(segment)
            .map_err(|failure| unreadable(failure.into()))?;
        let footer =
            scan::footer(file.as_ref(), segment).map_err(|failure| unreadable(failure.into()))?;
        footer
            .map(|footer| footer.entries)
            .ok_or_else(|| unreadable("it is not sealed".into()))
    }

    /// The births in a segment that some cut of their home map shows.
    pub(super) fn live_runs(&self, segment: SegmentId) -> Result<Vec<LiveRun>> {
        let mut shown = Shown::new(&self.inner);
        let mut live: Vec<LiveRun> = Vec::new();
        let mut entries = self.footer(segment)?;
        // Leaf by leaf, each resolved once: random writes name the same leaves over and over.
        entries.sort_by_key(|(_, entry)| (entry.map, super::leaf_of(entry.block).0));
        for (_, entry) in entries {
            // A record is asked for once, and not again for each block that it covers.
            let mut record: Option<(Lsn, Location)> = None;
            for index in 0..entry.count {
                let birth = entry.birth(index);
                let behind =
                    |(first, location): &(Lsn, Location)| birth.lsn.0 - first.0 >= location.count();
                if record.as_ref().is_none_or(behind) {
                    record = self.inner.index.location(birth.log, birth.lsn)?;
                }
                let Some((first, location)) = &record else {
                    continue;
                };
                let block = entry.block + u64::from(index);
                if location.segment != segment
                    || location.epoch != birth.epoch
                    || !shown.shows(entry.map, block, birth)?
                {
                    continue;
                }
                let check = location.checks[usize::try_from(birth.lsn.0 - first.0).unwrap_or(0)];
                match live.last_mut() {
                    Some(run)
                        if run.map == entry.map
                            && run.birth.log == birth.log
                            && run.birth.epoch == birth.epoch
                            && run.birth.lsn.0 + run.count == birth.lsn.0
                            && run.block + run.count == block
                            && run.count < crate::LEAF_BLOCKS as u64
                            // One old record at a time: its neighbours may lie elsewhere.
                            && run.record == *first =>
                    {
                        run.count += 1;
                        run.checks.push(check);
                    }
                    _ => live.push(LiveRun {
                        map: entry.map,
                        block,
                        birth,
                        record: *first,
                        count: 1,
                        checks: vec![check],
                    }),
                }
            }
        }
        Ok(live)
    }
}

impl Inner {
    /// Queues moves without showing them as fresh: until the index has them, the old place serves.
    fn queue_moves(&self, end: Position, operations: Vec<Operation>) {
        lock(&self.queue).extend(
            operations
                .into_iter()
                .map(|operation| super::Queued { end, operation }),
        );
    }
}

/// Live blocks that lie together.
pub(super) struct LiveRun {
    map: MapId,
    block: u64,
    birth: Birth,
    /// First lsn of the location record that holds them.
    record: Lsn,
    pub(super) count: u64,
    checks: Vec<u32>,
}

/// Which births the cuts of a leaf show; remembers the last leaf asked for.
struct Shown<'a> {
    inner: &'a Inner,
    leaf: Option<(MapId, u32)>,
    /// In order.
    births: Vec<(LogId, Lsn)>,
}

impl<'a> Shown<'a> {
    fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            leaf: None,
            births: Vec::new(),
        }
    }

    fn shows(&mut self, map: MapId, block: u64, birth: Birth) -> Result<bool> {
        let (leaf, _) = super::leaf_of(block);
        if self.leaf != Some((map, leaf)) {
            self.births = self.inner.shown_births(map, leaf)?;
            self.leaf = Some((map, leaf));
        }
        Ok(self.births.binary_search(&(birth.log, birth.lsn)).is_ok())
    }
}

impl Inner {
    /// The births that a leaf shows to anybody. Cuts and versions are read under the index writer's lock:
    /// a write that hides a birth from the head enters the index only after any seal that still shows it
    /// is known.
    fn shown_births(&self, map: MapId, leaf: u32) -> Result<Vec<(LogId, Lsn)>> {
        let _writer = lock(&self.index_writer);
        let mut cuts = self.names.cuts(map)?;
        cuts.extend(self.known_seals(map).unwrap_or_default());
        let versions = self.index.versions(map, leaf)?;
        if lock(&self.building).contains(&map) || lock(&self.views).contains_key(&map) {
            // Not named yet, or read by somebody: all of it counts.
            cuts.extend(versions.iter().map(|(lsn, _)| *lsn));
        }
        let mut births = Vec::new();
        for cut in cuts {
            let below = versions
                .iter()
                .filter(|(lsn, _)| *lsn <= cut)
                .map(|(_, version)| version);
            for slot in Leaf::resolve(below).slots.iter() {
                if let Slot::Born(birth) = slot {
                    births.push((birth.log, birth.lsn));
                }
            }
        }
        births.sort_unstable();
        births.dedup();
        Ok(births)
    }
}
