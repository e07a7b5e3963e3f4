//! Heads: the writable end of a map, in memory. One lock orders all changes of a volume.
//!
//! 1. A leaf in memory shows everything appended; a leaf with queued operations is never evicted, so a
//!    leaf that is absent is current in the index.
//! 2. A birth that a write supersedes is dead unless a seal lies between the two.

use super::{Dead, Engine, Inner, Operation, leaf_of, lock};
use crate::catalog::{HEAD, MapRow};
use crate::index::Location;
use crate::index::leaf::{Leaf, Slot};
use crate::valuelog::Room;
use crate::valuelog::format::{EntryKind, LogEntry, Position, birth_crc};
use crate::{
    BLOCK, Birth, Epoch, Error, Kind, LEAF_BLOCKS, LogId, Lsn, MapId, Result, SealedMap, Subject,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

/// Leaves of one head kept in memory (4 GiB of volume).
const LEAVES_MAX: usize = 4096;
/// Blocks per log entry: a location record stays near a kilobyte.
const ENTRY_BLOCKS: usize = LEAF_BLOCKS;
/// Blocks per append.
const APPEND_BLOCKS: usize = 1024;

/// The head of one map; clones share it.
#[derive(Clone)]
pub(crate) struct Head {
    pub(super) map: MapId,
    pub(super) state: Arc<Mutex<HeadState>>,
}

pub(super) struct HeadLeaf {
    pub(super) leaf: Leaf,
    /// Operations that the index has not got yet.
    pub(super) queued: u32,
}

pub(super) struct HeadState {
    pub(super) log: LogId,
    pub(super) parent: Option<SealedMap>,
    pub(super) length_bytes: u64,
    pub(super) next: Lsn,
    started: bool,
    /// Seals that the catalog had when it was last asked.
    seals: BTreeSet<Lsn>,
    /// Seals in the log whose names are on their way into the catalog.
    provisional: BTreeSet<Lsn>,
    pub(super) leaves: BTreeMap<u32, HeadLeaf>,
}

impl Head {
    /// Visible bytes.
    pub(crate) fn length_bytes(&self) -> u64 {
        lock(&self.state).length_bytes
    }

    /// The seals that hold versions of this head, those on their way into the catalog included.
    pub(super) fn seals(&self) -> BTreeSet<Lsn> {
        let state = lock(&self.state);
        state.seals.union(&state.provisional).copied().collect()
    }
}

impl HeadState {
    /// The leaf, loaded from the index if it is not in memory.
    pub(super) fn leaf<'a>(
        &'a mut self,
        inner: &Inner,
        map: MapId,
        leaf: u32,
    ) -> Result<&'a mut HeadLeaf> {
        if !self.leaves.contains_key(&leaf) {
            if self.leaves.len() >= LEAVES_MAX {
                let mut spare = LEAVES_MAX / 8;
                self.leaves.retain(|_, held| {
                    let keep = held.queued > 0 || spare == 0;
                    spare -= usize::from(!keep);
                    keep
                });
            }
            let versions = inner.index.chain(map, leaf, HEAD)?;
            let resolved = Leaf::resolve(versions.iter().map(|(_, version)| version));
            self.leaves.insert(
                leaf,
                HeadLeaf {
                    leaf: resolved,
                    queued: 0,
                },
            );
        }
        self.leaves
            .get_mut(&leaf)
            .ok_or_else(|| Error::new(Kind::Internal, Subject::Volume, "a leaf vanished"))
    }

    /// Asks the catalog again which seals have a name. Under the head's lock: a seal is provisional until
    /// after its name was committed, so none is missed.
    pub(super) fn refresh_seals(&mut self, inner: &Inner, map: MapId) -> Result<()> {
        self.seals = inner.names.cuts(map)?;
        self.seals.remove(&HEAD);
        Ok(())
    }

    /// Shows `slot` (and the ones after it) over a range; returns the births of our own that died.
    fn show(
        &mut self,
        inner: &Inner,
        map: MapId,
        block: u64,
        count: u64,
        slot: Slot,
        at: Lsn,
    ) -> Result<Vec<Dead>> {
        let mut dead: Vec<Dead> = Vec::new();
        let newest_seal = self
            .seals
            .range(..at)
            .next_back()
            .max(self.provisional.range(..at).next_back())
            .copied();
        let own = self.log;
        let mut index = 0;
        while index < count {
            let (leaf, first) = leaf_of(block + index);
            let here =
                (LEAF_BLOCKS - first).min(usize::try_from(count - index).unwrap_or(usize::MAX));
            let held = self.leaf(inner, map, leaf)?;
            for place in &mut held.leaf.slots[first..first + here] {
                if let Slot::Born(birth) = *place
                    && birth.log == own
                    && newest_seal.is_none_or(|seal| birth.lsn > seal)
                {
                    match dead.last_mut() {
                        Some(run) if run.lsn.0 + run.count == birth.lsn.0 => run.count += 1,
                        _ => dead.push(Dead {
                            log: own,
                            lsn: birth.lsn,
                            count: 1,
                        }),
                    }
                }
                *place = slot.advance(index);
                index += 1;
            }
            held.queued += 1;
        }
        Ok(dead)
    }
}

impl Inner {
    pub(super) fn head(&self, map: MapId) -> Result<Head> {
        if let Some(head) = lock(&self.heads).get(&map) {
            return Ok(head.clone());
        }
        let gone = || {
            Error::new(
                Kind::NotFound,
                Subject::Volume,
                format!("no writable map {map}"),
            )
        };
        let row = self.names.map(map)?.ok_or_else(gone)?;
        if !self.names.cuts(map)?.contains(&HEAD) {
            return Err(gone());
        }
        self.load_head(map, &row)
    }

    /// The head of a volume, also of one that was removed and whose seals live on: its tail of the log
    /// must be replayed as it was written.
    fn load_head(&self, map: MapId, row: &MapRow) -> Result<Head> {
        let mut seals = self.names.cuts(map)?;
        seals.remove(&HEAD);
        let state = HeadState {
            log: row.log,
            parent: row.parent,
            length_bytes: row.length_bytes,
            next: self.index.log_end(row.log)?,
            started: false,
            seals,
            provisional: BTreeSet::new(),
            leaves: BTreeMap::new(),
        };
        let head = Head {
            map,
            state: Arc::new(Mutex::new(state)),
        };
        Ok(lock(&self.heads).entry(map).or_insert(head).clone())
    }

    /// The first leaf at or behind `from` in which the head or a map below it shows something.
    pub(super) fn next_shown_leaf(
        &self,
        map: MapId,
        state: &HeadState,
        from: u32,
    ) -> Result<Option<u32>> {
        let held = state
            .leaves
            .range(from..)
            .find(|(_, held)| !held.leaf.is_unset())
            .map(|(leaf, _)| *leaf);
        let stored = self.index.next_leaf(map, from)?;
        let below = match state.parent {
            Some(parent) => self.next_sealed_leaf(parent, from)?,
            None => None,
        };
        Ok([held, stored, below].into_iter().flatten().min())
    }

    fn replay_head(&self, map: MapId) -> Result<Head> {
        if let Some(head) = lock(&self.heads).get(&map) {
            return Ok(head.clone());
        }
        let row = self.names.map(map)?;
        let row = row.ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                Subject::Volume,
                format!("{map} lost its row"),
            )
        })?;
        self.load_head(map, &row)
    }

    /// Replays a write read back from the log.
    pub(super) fn replay_write(
        &self,
        entry: &LogEntry,
        location: Location,
        end: Position,
    ) -> Result<()> {
        let head = self.replay_head(entry.map)?;
        let mut state = lock(&head.state);
        let slot = Slot::Born(entry.birth(0));
        let dead = state.show(
            self,
            entry.map,
            entry.block,
            u64::from(entry.count),
            slot,
            entry.lsn,
        )?;
        state.next = state.next.max(Lsn(entry.lsn.0 + entry.lsns()));
        let operation = Operation::Write {
            log: entry.log,
            lsn: entry.lsn,
            map: entry.map,
            block: entry.block,
            location,
            dead,
        };
        self.queue(end, vec![operation]);
        Ok(())
    }

    /// Replays a zero, seal or resize read back from the log.
    pub(super) fn replay_mark(&self, entry: &LogEntry, end: Position) -> Result<()> {
        let head = self.replay_head(entry.map)?;
        if entry.kind == EntryKind::Zero {
            // What it hides may lie in a map below, which must be in the index to be seen.
            while self.apply_ready()? {}
        }
        let mut state = lock(&head.state);
        let operation = if entry.kind == EntryKind::Zero {
            self.zero_operation(head.map, &mut state, entry.lsn, entry.block, entry.argument)?
        } else if entry.kind == EntryKind::Seal {
            Operation::Seal {
                log: entry.log,
                lsn: entry.lsn,
                map: entry.map,
            }
        } else {
            Operation::Mark {
                log: entry.log,
                lsn: entry.lsn,
            }
        };
        state.next = state.next.max(Lsn(entry.lsn.0 + 1));
        self.queue(end, vec![operation]);
        Ok(())
    }

    fn zero_operation(
        &self,
        map: MapId,
        state: &mut HeadState,
        lsn: Lsn,
        block: u64,
        count: u64,
    ) -> Result<Operation> {
        let (mut leaves, mut dead) = (Vec::new(), Vec::new());
        let end = block + count;
        let mut from = leaf_of(block).0;
        while let Some(leaf) = self.next_shown_leaf(map, state, from)? {
            let first = (u64::from(leaf) * LEAF_BLOCKS as u64).max(block);
            if first >= end {
                break;
            }
            let here = ((u64::from(leaf) + 1) * LEAF_BLOCKS as u64).min(end) - first;
            dead.extend(state.show(self, map, first, here, Slot::Zero, lsn)?);
            leaves.push(leaf);
            from = leaf + 1;
        }
        Ok(Operation::Zero {
            log: state.log,
            lsn,
            map,
            block,
            count,
            leaves,
            dead,
        })
    }

    /// Begins this run's epoch in the log, once.
    fn start(&self, head: &Head, state: &mut HeadState) -> Result<()> {
        if !state.started {
            let end = state.next.0;
            self.mark(head, state, EntryKind::Start, 0, end)?;
            state.started = true;
        }
        Ok(())
    }

    /// Appends an entry without payload and returns its lsn and end.
    fn mark(
        &self,
        head: &Head,
        state: &mut HeadState,
        kind: EntryKind,
        block: u64,
        argument: u64,
    ) -> Result<(Lsn, Position)> {
        let lsn = state.next;
        let entry = LogEntry {
            kind,
            log: state.log,
            epoch: self.epoch,
            lsn,
            map: head.map,
            block,
            count: 0,
            argument,
            checks: Vec::new(),
        };
        let (log, map) = (state.log, head.map);
        let mut shown = Ok(());
        // Seals and zeroes free or keep data; on a full disk they must still go through.
        let end = self
            .log
            .append(vec![entry], &[], Room::Reserve, |appended, _| {
                let operation = match kind {
                    EntryKind::Seal => Operation::Seal { log, lsn, map },
                    EntryKind::Zero => {
                        match self.zero_operation(map, state, lsn, block, argument) {
                            Ok(operation) => operation,
                            Err(failure) => {
                                shown = Err(failure);
                                Operation::Mark { log, lsn }
                            }
                        }
                    }
                    EntryKind::Start | EntryKind::Write | EntryKind::Resize | EntryKind::Move => {
                        Operation::Mark { log, lsn }
                    }
                };
                self.queue(appended.end, vec![operation]);
            })?;
        if let Err(failure) = shown {
            // The log says so and the index cannot follow: only an opening can bring them together.
            return Err(self.log.refuse("read the index", failure));
        }
        state.next = Lsn(lsn.0 + 1);
        Ok((lsn, end))
    }
}

impl Engine {
    /// Writes whole blocks. Answered once it is in the log (write(2) done).
    pub(crate) fn write(&self, head: &Head, block: u64, bytes: &[u8]) -> Result<()> {
        let checks: Vec<u32> = bytes.chunks(BLOCK).map(crc32fast::hash).collect();
        self.inner.throttle()?;
        let mut state = lock(&head.state);
        self.write_locked(head, &mut state, block, bytes, &checks)
    }

    fn write_locked(
        &self,
        head: &Head,
        state: &mut HeadState,
        block: u64,
        bytes: &[u8],
        checks: &[u32],
    ) -> Result<()> {
        debug_assert_eq!(bytes.len() % BLOCK, 0);
        within(state.length_bytes, block * BLOCK as u64, bytes.len() as u64)?;
        self.inner.start(head, state)?;
        let mut at = block;
        for (part, part_checks) in bytes
            .chunks(APPEND_BLOCKS * BLOCK)
            .zip(checks.chunks(APPEND_BLOCKS))
        {
            self.append_part(head, state, at, part, part_checks)?;
            at += part_checks.len() as u64;
        }
        self.inner
            .written
            .client
            .fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    fn append_part(
        &self,
        head: &Head,
        state: &mut HeadState,
        block: u64,
        bytes: &[u8],
        checks: &[u32],
    ) -> Result<()> {
        let inner = &self.inner;
        // Load first: an index that cannot be read must fail before the log is written.
        let mut at = block;
        while at < block + checks.len() as u64 {
            let leaf = leaf_of(at).0;
            state.leaf(inner, head.map, leaf)?;
            at = (u64::from(leaf) + 1) * LEAF_BLOCKS as u64;
        }
        let (mut entries, mut payload) = (Vec::new(), Vec::new());
        let (mut lsn, mut at) = (state.next, block);
        for (part, part_checks) in bytes
            .chunks(ENTRY_BLOCKS * BLOCK)
            .zip(checks.chunks(ENTRY_BLOCKS))
        {
            entries.push(born(state.log, inner.epoch, lsn, head.map, at, part_checks));
            payload.push(part);
            lsn = Lsn(lsn.0 + part_checks.len() as u64);
            at += part_checks.len() as u64;
        }
        let mut shown = Ok(());
        inner
            .log
            .append(entries, &payload, Room::Ordinary, |appended, entries| {
                let mut operations = Vec::with_capacity(entries.len());
                for (entry, offset) in entries.into_iter().zip(&appended.offsets) {
                    let slot = Slot::Born(entry.birth(0));
                    let dead = match state.show(
                        inner,
                        head.map,
                        entry.block,
                        u64::from(entry.count),
                        slot,
                        entry.lsn,
                    ) {
                        Ok(dead) => dead,
                        Err(failure) => {
                            shown = Err(failure);
                            Vec::new()
                        }
                    };
                    let (log, lsn, map, block) = (entry.log, entry.lsn, entry.map, entry.block);
                    let location = located(entry, appended.segment, *offset);
                    operations.push(Operation::Write {
                        log,
                        lsn,
                        map,
                        block,
                        location,
                        dead,
                    });
                }
                inner.queue(appended.end, operations);
            })?;
        state.next = lsn;
        // The log says so and the index cannot follow: only an opening can bring them together.
        shown.map_err(|failure| inner.log.refuse("read the index", failure))
    }

    /// Writes any range: the blocks that it cuts are read, merged and written whole, under one lock.
    pub(crate) fn write_bytes(&self, head: &Head, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK) {
            return if bytes.is_empty() {
                Ok(())
            } else {
                self.write(head, offset / BLOCK as u64, bytes)
            };
        }
        self.inner.throttle()?;
        let mut state = lock(&head.state);
        within(state.length_bytes, offset, bytes.len() as u64)?;
        let first = offset / BLOCK as u64;
        let end = (offset + bytes.len() as u64).div_ceil(BLOCK as u64);
        let mut whole = vec![0; usize::try_from(end - first).unwrap_or(usize::MAX) * BLOCK];
        let last_at = whole.len() - BLOCK;
        self.inner
            .read_state(head.map, &mut state, first, &mut whole[..BLOCK])?;
        if last_at > 0 {
            self.inner
                .read_state(head.map, &mut state, end - 1, &mut whole[last_at..])?;
        }
        let lead = usize::try_from(offset - first * BLOCK as u64).unwrap_or(0);
        whole[lead..lead + bytes.len()].copy_from_slice(bytes);
        let checks: Vec<u32> = whole.chunks(BLOCK).map(crc32fast::hash).collect();
        self.write_locked(head, &mut state, first, &whole, &checks)
    }

    /// Makes whole blocks read as zeroes and frees what lay there.
    pub(crate) fn zero(&self, head: &Head, block: u64, count: u64) -> Result<()> {
        self.inner.throttle()?;
        let mut state = lock(&head.state);
        within(
            state.length_bytes,
            block * BLOCK as u64,
            count * BLOCK as u64,
        )?;
        self.zero_locked(head, &mut state, block, count)
    }

    /// Zeroes any range: whole blocks are freed, blocks that it cuts are written.
    pub(crate) fn zero_bytes(&self, head: &Head, offset: u64, length: u64) -> Result<()> {
        within(head.length_bytes(), offset, length)?;
        let block = BLOCK as u64;
        let end = offset + length;
        let (first, last) = (offset.next_multiple_of(block), end - end % block);
        if first > last {
            // Inside one block.
            return self.write_bytes(head, offset, &vec![0; usize::try_from(length).unwrap_or(0)]);
        }
        if first > offset {
            self.write_bytes(
                head,
                offset,
                &vec![0; usize::try_from(first - offset).unwrap_or(0)],
            )?;
        }
        if last > first {
            self.zero(head, first / block, (last - first) / block)?;
        }
        if end > last {
            self.write_bytes(
                head,
                last,
                &vec![0; usize::try_from(end - last).unwrap_or(0)],
            )?;
        }
        Ok(())
    }

    fn zero_locked(
        &self,
        head: &Head,
        state: &mut HeadState,
        block: u64,
        count: u64,
    ) -> Result<()> {
        let shown = self
            .inner
            .next_shown_leaf(head.map, state, leaf_of(block).0)?;
        if count == 0
            || shown.is_none_or(|leaf| u64::from(leaf) * LEAF_BLOCKS as u64 >= block + count)
        {
            return Ok(());
        }
        self.inner.start(head, state)?;
        self.inner
            .mark(head, state, EntryKind::Zero, block, count)
            .map(|_| ())
    }

    /// Everything answered before is durable when this returns.
    pub(crate) fn flush(&self) -> Result<()> {
        self.inner.log.sync(self.inner.log.end())
    }

    /// Cuts the map here; durable and readable by this lsn when it returns.
    pub(crate) fn seal(&self, head: &Head) -> Result<SealedMap> {
        let (lsn, end, length_bytes) = {
            let mut state = lock(&head.state);
            self.inner.start(head, &mut state)?;
            let (lsn, end) = self.inner.mark(head, &mut state, EntryKind::Seal, 0, 0)?;
            state.provisional.insert(lsn);
            (lsn, end, state.length_bytes)
        };
        self.settle_through(end)?;
        Ok(SealedMap {
            map: head.map,
            lsn,
            length_bytes,
        })
    }

    /// Whether the seal `lsn` is the last that was ever appended to this head.
    pub(crate) fn ends_with(&self, head: &Head, lsn: Lsn) -> bool {
        lock(&head.state).next == Lsn(lsn.0 + 1)
    }

    /// The catalog has the seal now, or never will: its answer counts from here on.
    pub(crate) fn sealed(&self, head: &Head, lsn: Lsn) -> Result<()> {
        let mut state = lock(&head.state);
        state.refresh_seals(&self.inner, head.map)?;
        state.provisional.remove(&lsn);
        Ok(())
    }

    /// Changes the length; what is cut off reads as zeroes if the map grows again. The caller makes the
    /// catalog's row follow.
    pub(crate) fn resize(&self, head: &Head, length_bytes: u64) -> Result<()> {
        let end = {
            let mut state = lock(&head.state);
            self.inner.start(head, &mut state)?;
            if length_bytes < state.length_bytes {
                let block = length_bytes / BLOCK as u64;
                let count = state.length_bytes.div_ceil(BLOCK as u64) - block;
                self.zero_locked(head, &mut state, block, count)?;
            }
            let (_, end) = self
                .inner
                .mark(head, &mut state, EntryKind::Resize, 0, length_bytes)?;
            state.length_bytes = length_bytes;
            end
        };
        self.settle_through(end)
    }
}

/// An entry for blocks about to be born; `checks` are the CRCs of the payload.
pub(super) fn born(
    log: LogId,
    epoch: Epoch,
    lsn: Lsn,
    map: MapId,
    block: u64,
    checks: &[u32],
) -> LogEntry {
    let checks: Vec<u32> = checks
        .iter()
        .zip(lsn.0..)
        .map(|(check, lsn)| {
            check
                ^ birth_crc(Birth {
                    log,
                    epoch,
                    lsn: Lsn(lsn),
                })
        })
        .collect();
    let count = u32::try_from(checks.len()).unwrap_or(u32::MAX);
    LogEntry {
        kind: EntryKind::Write,
        log,
        epoch,
        lsn,
        map,
        block,
        count,
        argument: 0,
        checks,
    }
}

/// The location of an entry's payload.
pub(super) fn located(entry: LogEntry, segment: crate::SegmentId, offset: u64) -> Location {
    Location {
        epoch: entry.epoch,
        segment,
        offset,
        map: entry.map,
        block: entry.block,
        checks: entry.checks.into(),
    }
}

/// A range must lie inside the map.
pub(super) fn within(length_bytes: u64, offset: u64, count: u64) -> Result<()> {
    if offset
        .checked_add(count)
        .is_some_and(|end| end <= length_bytes)
    {
        return Ok(());
    }
    let text = format!("bytes {offset}+{count} lie outside (the length is {length_bytes} bytes)");
    Err(Error::new(Kind::Invalid, Subject::Range, text))
}
