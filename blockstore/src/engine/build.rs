//! Building maps that are sealed from birth: bodies of objects, and images composed of other maps.
//!
//! Births go through the ingest log of this run. Until the catalog names the map, it is under
//! construction: the collector takes its births for live, and the next opening sweeps it if nobody ever
//! named it.

use super::head::{born, located};
use super::{Engine, Inner, Operation, lock};
use crate::catalog::MapRow;
use crate::index::IndexBatch;
use crate::index::leaf::{Leaf, Slot};
use crate::valuelog::Room;
use crate::valuelog::format::{EntryKind, LogEntry, Position};
use crate::{BLOCK, Error, Kind, LEAF, LEAF_BLOCKS, LogId, Lsn, MapId, Result, SealedMap, Subject};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// Maps below one another, from which on a child gets a folded map to stand on.
const CHAIN_MAX: usize = 8;
/// Leaves folded in one go: 2 MiB of memory.
const FOLD_SLICE: usize = 256;

/// Why bytes are written, for the counters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Client,
    Copy,
}

/// A map under construction; dropping it forgets its bytes.
struct Draft {
    engine: Engine,
    map: MapId,
    log: LogId,
    cause: Cause,
    newest: Lsn,
    end: Position,
    finished: bool,
}

impl Draft {
    fn begin(engine: &Engine, cause: Cause) -> Result<Self> {
        let map = engine.inner.names.map_id()?;
        lock(&engine.inner.building).insert(map);
        let log = lock(&engine.inner.ingest).log;
        let end = Position::default();
        Ok(Self {
            engine: engine.clone(),
            map,
            log,
            cause,
            newest: Lsn(0),
            end,
            finished: false,
        })
    }

    /// Writes whole blocks, at most one leaf's worth.
    fn write(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let inner = &self.engine.inner;
        let checks: Vec<u32> = bytes.chunks(BLOCK).map(crc32fast::hash).collect();
        inner.throttle()?;
        let mut ingest = lock(&inner.ingest);
        let entry = born(self.log, inner.epoch, ingest.next, self.map, block, &checks);
        self.end = inner.log.append(
            vec![entry],
            &[bytes],
            Room::Ordinary,
            |appended, entries| {
                let operations = entries
                    .into_iter()
                    .zip(&appended.offsets)
                    .map(|(entry, offset)| {
                        let (log, lsn, map, block) = (entry.log, entry.lsn, entry.map, entry.block);
                        let location = located(entry, appended.segment, *offset);
                        Operation::Write {
                            log,
                            lsn,
                            map,
                            block,
                            location,
                            dead: Vec::new(),
                        }
                    })
                    .collect();
                inner.queue(appended.end, operations);
            },
        )?;
        self.newest = Lsn(ingest.next.0 + checks.len() as u64 - 1);
        ingest.next = Lsn(self.newest.0 + 1);
        drop(ingest);
        let counter = if self.cause == Cause::Client {
            &inner.written.client
        } else {
            &inner.written.copied
        };
        counter.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    /// Takes one lsn of the ingest log, later than everything written here.
    fn mark(&mut self) -> Result<Lsn> {
        let inner = &self.engine.inner;
        let mut ingest = lock(&inner.ingest);
        let lsn = ingest.next;
        let entry = LogEntry {
            kind: EntryKind::Seal,
            log: self.log,
            epoch: inner.epoch,
            lsn,
            map: self.map,
            block: 0,
            count: 0,
            argument: 0,
            checks: Vec::new(),
        };
        let (log, map) = (self.log, self.map);
        self.end = inner
            .log
            .append(vec![entry], &[], Room::Ordinary, |appended, _| {
                inner.queue(appended.end, vec![Operation::Seal { log, lsn, map }]);
            })?;
        ingest.next = Lsn(lsn.0 + 1);
        self.newest = lsn;
        Ok(lsn)
    }

    fn row(&self, length_bytes: u64, borrows: Vec<SealedMap>) -> MapRow {
        MapRow {
            log: self.log,
            parent: None,
            length_bytes,
            borrows,
            created_ms: crate::clock::now_ms(),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            self.engine.inner.abandon(self.map);
        }
    }
}

impl Inner {
    /// A map that nobody will name: its births are dead at once, its leaves go with the next sweep.
    fn abandon(&self, map: MapId) {
        lock(&self.building).remove(&map);
        lock(&self.abandoned).push(map);
    }
}

/// A body written in order.
pub(crate) struct MapBuilder {
    draft: Draft,
    buffer: Vec<u8>,
    written_blocks: u64,
    length_bytes: u64,
}

impl Engine {
    /// Begins a new body map written in order through the ingest log. Dropping it forgets the bytes.
    pub(crate) fn body(&self) -> Result<MapBuilder> {
        let draft = Draft::begin(self, Cause::Client)?;
        Ok(MapBuilder {
            draft,
            buffer: Vec::with_capacity(LEAF),
            written_blocks: 0,
            length_bytes: 0,
        })
    }

    /// The same for a stated copy inside the store; only the counters differ.
    pub(crate) fn body_copy(&self) -> Result<MapBuilder> {
        let draft = Draft::begin(self, Cause::Copy)?;
        Ok(MapBuilder {
            draft,
            buffer: Vec::with_capacity(LEAF),
            written_blocks: 0,
            length_bytes: 0,
        })
    }

    /// Begins a map that shows births of other maps, and some of its own.
    pub(crate) fn composer(&self) -> Result<Composer> {
        let draft = Draft::begin(self, Cause::Copy)?;
        Ok(Composer {
            draft,
            leaves: BTreeMap::new(),
            borrows: Vec::new(),
        })
    }
}

impl Engine {
    /// A map that shows the births of `sealed` (which must be pinned or open) and stands alone, if that has
    /// [`CHAIN_MAX`] maps below one another; none otherwise. No payload is copied: what it shows it borrows.
    /// The caller commits row and pin in one transaction, while `sealed` is still held.
    pub(crate) fn folded(&self, sealed: SealedMap) -> Result<Option<(SealedMap, MapRow)>> {
        if self.inner.depth(sealed.map)? < CHAIN_MAX {
            return Ok(None);
        }
        let inner = &self.inner;
        let mut draft = Draft::begin(self, Cause::Copy)?;
        let lsn = draft.mark()?;
        self.settle_through(draft.end)?;
        let mut next = inner.next_sealed_leaf(sealed, 0)?;
        while next.is_some() {
            let mut slice = Vec::new();
            while let Some(leaf) = next.filter(|_| slice.len() < FOLD_SLICE) {
                slice.push((leaf, self.sealed_leaf(sealed, leaf)?));
                next = match leaf.checked_add(1) {
                    Some(behind) => inner.next_sealed_leaf(sealed, behind)?,
                    None => None,
                };
            }
            let _writer = lock(&inner.index_writer);
            let mut batch = IndexBatch::default();
            for (leaf, shown) in &slice {
                let mut version = shown.image();
                version.image = false;
                batch.put_version(draft.map, *leaf, lsn, &version);
            }
            inner.index.write(batch)?;
        }
        // As with a composed map: the index alone knows what is shown.
        inner.checkpoint()?;
        draft.finished = true;
        let folded = SealedMap {
            map: draft.map,
            lsn,
            length_bytes: sealed.length_bytes,
        };
        Ok(Some((folded, draft.row(sealed.length_bytes, vec![sealed]))))
    }
}

impl MapBuilder {
    /// Appends bytes. They reach the log a leaf at a time.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.length_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= LEAF {
                // Whole leaves go to the log without a copy of ours.
                let (leaf, rest) = bytes.split_at(LEAF);
                self.draft.write(self.written_blocks, leaf)?;
                self.written_blocks += LEAF_BLOCKS as u64;
                bytes = rest;
                continue;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(LEAF - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            bytes = rest;
            if self.buffer.len() == LEAF {
                self.flush_buffer()?;
            }
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.buffer
            .resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        self.draft.write(self.written_blocks, &self.buffer)?;
        self.written_blocks += (self.buffer.len() / BLOCK) as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Pads the last block, syncs, waits until the index shows it. The caller commits the row and a pin
    /// in one transaction.
    pub(crate) fn finish(mut self) -> Result<(SealedMap, MapRow)> {
        self.flush_buffer()?;
        self.draft.engine.settle_through(self.draft.end)?;
        self.draft.finished = true;
        let sealed = SealedMap {
            map: self.draft.map,
            lsn: self.draft.newest,
            length_bytes: self.length_bytes,
        };
        Ok((sealed, self.draft.row(self.length_bytes, Vec::new())))
    }
}

/// A map composed of ranges of others and some bytes of its own.
pub(crate) struct Composer {
    draft: Draft,
    leaves: BTreeMap<u32, Leaf>,
    borrows: Vec<SealedMap>,
}

impl Composer {
    /// Shows `length` bytes of `from` (which must be pinned or open) at `guest_offset`; all multiples of 4096.
    pub(crate) fn show(
        &mut self,
        guest_offset: u64,
        length: u64,
        from: SealedMap,
        from_offset: u64,
    ) -> Result<()> {
        let block = BLOCK as u64;
        if !(guest_offset | length | from_offset).is_multiple_of(block) {
            let text = format!(
                "{length} bytes at {from_offset} shown at {guest_offset}: not multiples of {block}"
            );
            return Err(Error::new(Kind::Invalid, Subject::Range, text));
        }
        if !self.borrows.contains(&from) {
            self.borrows.push(from);
        }
        let mut below: Option<(u32, std::sync::Arc<Leaf>)> = None;
        for index in 0..length / block {
            let (source_leaf, source_place) = super::leaf_of(from_offset / block + index);
            let slots = match below.take() {
                Some((leaf, slots)) if leaf == source_leaf => slots,
                _ => self.draft.engine.sealed_leaf(from, source_leaf)?,
            };
            let slot = slots.slots[source_place];
            below = Some((source_leaf, slots));
            if let Slot::Born(_) = slot {
                let (leaf, place) = super::leaf_of(guest_offset / block + index);
                self.leaves.entry(leaf).or_default().slots[place] = slot;
            }
        }
        Ok(())
    }

    /// Writes bytes of its own at `guest_offset` (a multiple of 4096); a last partial block is padded with zeroes.
    pub(crate) fn write(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
        let mut block = guest_offset / BLOCK as u64;
        for part in bytes.chunks(LEAF) {
            if part.len().is_multiple_of(BLOCK) {
                self.draft.write(block, part)?;
            } else {
                let mut padded = part.to_vec();
                padded.resize(part.len().next_multiple_of(BLOCK), 0);
                self.draft.write(block, &padded)?;
            }
            block += part.len().div_ceil(BLOCK) as u64;
        }
        Ok(())
    }

    /// Seals: syncs what was written, makes what was shown durable in the index. The caller commits the
    /// row (which borrows what was shown) and a pin in one transaction, while what it showed is still held.
    pub(crate) fn finish(mut self, length_bytes: u64) -> Result<(SealedMap, MapRow)> {
        let lsn = self.draft.mark()?;
        self.draft.engine.settle_through(self.draft.end)?;
        let inner = &self.draft.engine.inner;
        {
            // Shown births are in no log of ours: the index alone has them, so it is checkpointed here.
            let _writer = lock(&inner.index_writer);
            let mut batch = IndexBatch::default();
            for (leaf, shown) in &self.leaves {
                let mut version = shown.image();
                version.image = false;
                batch.put_version(self.draft.map, *leaf, lsn, &version);
            }
            inner.index.write(batch)?;
        }
        inner.checkpoint()?;
        self.draft.finished = true;
        let sealed = SealedMap {
            map: self.draft.map,
            lsn,
            length_bytes,
        };
        Ok((
            sealed,
            self.draft
                .row(length_bytes, std::mem::take(&mut self.borrows)),
        ))
    }
}
