//! Reading: slots of a head or a sealed map, their locations, verified bytes.
//!
//! 1. Every block read from the device is checked against its CRC and its birth; unverified bytes never leave.
//! 2. On a mismatch everything is resolved once more (a collection may have moved it); then it is rot.

use super::head::{HeadState, within};
use super::{Engine, Head, Inner, leaf_of, lock};
use crate::index::Location;
use crate::index::leaf::{Leaf, Slot};
use crate::object::ReadAt;
use crate::valuelog::format::birth_crc;
use crate::volume::Extent;
use crate::{
    BLOCK, Birth, Epoch, Error, Kind, LEAF_BLOCKS, LogId, Lsn, MapId, Result, SealedMap, SegmentId,
    Subject,
};
use std::sync::{Arc, PoisonError};

/// Maps below one another that are followed; more is damage.
const DEPTH_MAX: usize = 64;
/// Reads up to this long go through the remembered places; longer ones would only push others out.
const PLACED_BLOCKS_MAX: usize = 8;
/// Leaves that one call for extents looks at.
const EXTENT_LEAVES_MAX: usize = 4096;

/// A sealed map opened for reading; while it lives, sweeping leaves the map alone.
#[derive(Clone)]
pub struct View {
    hold: Arc<Hold>,
}

struct Hold {
    engine: Engine,
    sealed: SealedMap,
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut views = lock(&self.engine.inner.views);
            if let Some(count) = views.get_mut(&self.sealed.map) {
                *count -= 1;
                if *count == 0 {
                    views.remove(&self.sealed.map);
                }
            }
        }
        self.engine.sweep_soon();
    }
}

impl Engine {
    /// Opens a sealed map for reading; holds it against sweeping while the view lives.
    /// NotFound if it has no pin any more: the caller reads its row again.
    pub(crate) fn view(&self, sealed: SealedMap) -> Result<View> {
        *lock(&self.inner.views).entry(sealed.map).or_default() += 1;
        let view = View {
            hold: Arc::new(Hold {
                engine: self.clone(),
                sealed,
            }),
        };
        // Registered first, checked second: a sweep that missed the view has not lost its pin yet.
        if self.inner.names.cuts(sealed.map)?.contains(&sealed.lsn) {
            return Ok(view);
        }
        Err(Error::new(
            Kind::NotFound,
            Subject::Store,
            format!("{} at {} is gone", sealed.map, sealed.lsn),
        ))
    }

    /// Reads from a head.
    pub(crate) fn read(&self, head: &Head, offset: u64, buffer: &mut [u8]) -> Result<()> {
        within(head.length_bytes(), offset, buffer.len() as u64)?;
        self.inner
            .read_unaligned(offset, buffer, &mut |first, count| {
                self.inner
                    .head_slots(head.map, &mut lock(&head.state), first, count)
            })
    }

    /// Allocation of a head.
    pub(crate) fn extents(
        &self,
        head: &Head,
        offset: u64,
        length: u64,
        max: usize,
    ) -> Result<Vec<Extent>> {
        within(head.length_bytes(), offset, length)?;
        self.inner.extents(
            offset,
            length,
            max,
            &mut |from| {
                self.inner
                    .next_shown_leaf(head.map, &lock(&head.state), from)
            },
            &mut |first, count| {
                self.inner
                    .head_slots(head.map, &mut lock(&head.state), first, count)
            },
        )
    }

    /// The merged slots of one leaf of a sealed map.
    pub(super) fn sealed_leaf(&self, sealed: SealedMap, leaf: u32) -> Result<Arc<Leaf>> {
        self.inner.sealed_leaf(sealed, leaf, DEPTH_MAX)
    }
}

impl View {
    /// The map it shows.
    pub fn sealed(&self) -> SealedMap {
        self.hold.sealed
    }
}

impl ReadAt for View {
    fn length_bytes(&self) -> u64 {
        self.hold.sealed.length_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Hold { engine, sealed } = self.hold.as_ref();
        within(sealed.length_bytes, offset, buffer.len() as u64)?;
        engine
            .inner
            .read_unaligned(offset, buffer, &mut |first, count| {
                engine.inner.sealed_slots(*sealed, first, count)
            })
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        let Hold { engine, sealed } = self.hold.as_ref();
        within(sealed.length_bytes, offset, length)?;
        engine.inner.extents(
            offset,
            length,
            max,
            &mut |from| engine.inner.next_sealed_leaf(*sealed, from),
            &mut |first, count| engine.inner.sealed_slots(*sealed, first, count),
        )
    }
}

/// Where one block was found, to find it there again without asking the index.
#[derive(Clone, Copy)]
pub(super) struct Place {
    epoch: Epoch,
    segment: SegmentId,
    offset: u64,
    check: u32,
}

/// Yields the slots of `count` blocks from `first` on.
type Slots<'a> = dyn FnMut(u64, usize) -> Result<Vec<Slot>> + 'a;

impl Inner {
    fn head_slots(
        &self,
        map: MapId,
        state: &mut HeadState,
        first: u64,
        count: usize,
    ) -> Result<Vec<Slot>> {
        let mut slots = Vec::with_capacity(count);
        while slots.len() < count {
            let (leaf, place) = leaf_of(first + slots.len() as u64);
            let here = (LEAF_BLOCKS - place).min(count - slots.len());
            let parent = state.parent;
            let held = state.leaf(self, map, leaf)?;
            let shown = &held.leaf.slots[place..place + here];
            match parent {
                Some(parent) if shown.contains(&Slot::Unset) => {
                    let below = self.sealed_leaf(parent, leaf, DEPTH_MAX)?;
                    slots.extend(shown.iter().zip(&below.slots[place..place + here]).map(
                        |(own, under)| {
                            if *own == Slot::Unset { *under } else { *own }
                        },
                    ));
                }
                _ => slots.extend_from_slice(shown),
            }
        }
        Ok(slots)
    }

    /// Whole blocks of a head whose lock is held.
    pub(super) fn read_state(
        &self,
        map: MapId,
        state: &mut HeadState,
        first: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        self.read_blocks(first, buffer, &mut |first, count| {
            self.head_slots(map, state, first, count)
        })
    }

    fn sealed_slots(&self, sealed: SealedMap, first: u64, count: usize) -> Result<Vec<Slot>> {
        let mut slots = Vec::with_capacity(count);
        while slots.len() < count {
            let (leaf, place) = leaf_of(first + slots.len() as u64);
            let here = (LEAF_BLOCKS - place).min(count - slots.len());
            slots.extend_from_slice(
                &self.sealed_leaf(sealed, leaf, DEPTH_MAX)?.slots[place..place + here],
            );
        }
        Ok(slots)
    }

    fn sealed_leaf(&self, sealed: SealedMap, leaf: u32, depth: usize) -> Result<Arc<Leaf>> {
        if depth == 0 {
            let text = format!("{} has more than {DEPTH_MAX} maps below it", sealed.map);
            return Err(Error::new(Kind::Corrupt, Subject::Store, text));
        }
        let key = (sealed.map, leaf, sealed.lsn);
        if let Some(known) = self.leaves.get(&key) {
            return Ok(known);
        }
        let versions = self.index.chain(sealed.map, leaf, sealed.lsn)?;
        let mut resolved = Leaf::resolve(versions.iter().map(|(_, version)| version));
        if let Some(parent) = self.parent(sealed.map)? {
            resolved.fill(self.sealed_leaf(parent, leaf, depth - 1)?.as_ref());
        }
        // What lies behind the sealed length belongs to nobody.
        let end = sealed.length_bytes.div_ceil(BLOCK as u64);
        for (slot, block) in resolved
            .slots
            .iter_mut()
            .zip(u64::from(leaf) * LEAF_BLOCKS as u64..)
        {
            if block >= end {
                *slot = Slot::Unset;
            }
        }
        let resolved = Arc::new(resolved);
        self.leaves.insert(key, Arc::clone(&resolved));
        Ok(resolved)
    }

    fn parent(&self, map: MapId) -> Result<Option<SealedMap>> {
        if let Some(known) = lock(&self.parents).get(&map) {
            return Ok(*known);
        }
        // A body under construction has no row yet, and no parent.
        let Some(row) = self.names.map(map)? else {
            return Ok(None);
        };
        let mut parents = lock(&self.parents);
        if parents.len() > 1 << 16 {
            parents.clear();
        }
        parents.insert(map, row.parent);
        Ok(row.parent)
    }

    /// How many maps lie below one another from this one on, itself included.
    pub(super) fn depth(&self, map: MapId) -> Result<usize> {
        let (mut depth, mut here) = (1, map);
        while let Some(parent) = self.parent(here)? {
            depth += 1;
            here = parent.map;
            if depth > DEPTH_MAX {
                break;
            }
        }
        Ok(depth)
    }

    /// The first leaf at or behind `from` in which a sealed map may show something.
    pub(super) fn next_sealed_leaf(&self, sealed: SealedMap, from: u32) -> Result<Option<u32>> {
        let mut nearest = None;
        let mut map = Some(sealed.map);
        let mut depth = 0;
        while let Some(here) = map {
            let stored = self.index.next_leaf(here, from)?;
            nearest = [nearest, stored].into_iter().flatten().min();
            map = self.parent(here)?.map(|parent| parent.map);
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(Error::new(
                    Kind::Corrupt,
                    Subject::Store,
                    format!("{} has itself below it", sealed.map),
                ));
            }
        }
        let end = sealed.length_bytes.div_ceil(crate::LEAF as u64);
        Ok(nearest.filter(|leaf| u64::from(*leaf) < end))
    }

    fn extents(
        &self,
        offset: u64,
        length: u64,
        max: usize,
        next_leaf: &mut dyn FnMut(u32) -> Result<Option<u32>>,
        slots: &mut Slots<'_>,
    ) -> Result<Vec<Extent>> {
        let mut runs: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        let mut looked = 0;
        while at < end && looked < EXTENT_LEAVES_MAX {
            let leaf_bytes = crate::LEAF as u64;
            let leaf = u32::try_from(at / leaf_bytes).unwrap_or(u32::MAX);
            let shown =
                next_leaf(leaf)?.map_or(end, |next| (u64::from(next) * leaf_bytes).clamp(at, end));
            if shown > at {
                Extent {
                    offset: at,
                    length: shown - at,
                    data: false,
                }
                .join(&mut runs);
                at = shown;
                continue;
            }
            looked += 1;
            let first = at / BLOCK as u64;
            let stop = ((u64::from(leaf) + 1) * leaf_bytes).min(end);
            let count = usize::try_from(stop.div_ceil(BLOCK as u64) - first).unwrap_or(0);
            for (slot, block) in slots(first, count)?.into_iter().zip(first..) {
                let (from, upto) = (
                    (block * BLOCK as u64).max(at),
                    ((block + 1) * BLOCK as u64).min(end),
                );
                Extent {
                    offset: from,
                    length: upto - from,
                    data: matches!(slot, Slot::Born(_)),
                }
                .join(&mut runs);
            }
            at = stop;
            if runs.len() > max {
                break;
            }
        }
        runs.truncate(max);
        Ok(runs)
    }

    fn read_unaligned(&self, offset: u64, buffer: &mut [u8], slots: &mut Slots<'_>) -> Result<()> {
        let block = BLOCK as u64;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let lead = usize::try_from(at % block).unwrap_or(0);
            let left = buffer.len() - done;
            if lead == 0 && left >= BLOCK {
                let whole = left - left % BLOCK;
                self.read_blocks(at / block, &mut buffer[done..done + whole], slots)?;
                done += whole;
            } else {
                let mut edge = [0; BLOCK];
                self.read_blocks(at / block, &mut edge, slots)?;
                let here = left.min(BLOCK - lead);
                buffer[done..done + here].copy_from_slice(&edge[lead..lead + here]);
                done += here;
            }
        }
        Ok(())
    }

    fn read_blocks(&self, first: u64, buffer: &mut [u8], slots: &mut Slots<'_>) -> Result<()> {
        let count = buffer.len() / BLOCK;
        match self.read_slots(&slots(first, count)?, buffer) {
            Err(failure) if failure.kind() == Kind::Corrupt => {
                tracing::warn!(
                    first,
                    count,
                    failure = failure.chain(),
                    "read again after a mismatch"
                );
                self.read_slots(&slots(first, count)?, buffer)
            }
            other => other,
        }
    }

    fn read_slots(&self, slots: &[Slot], buffer: &mut [u8]) -> Result<()> {
        let mut at = 0;
        while at < slots.len() {
            let first = slots[at];
            let run = (1..slots.len() - at)
                .find(|index| slots[at + index] != first.advance(*index as u64));
            let count = run.unwrap_or(slots.len() - at);
            let bytes = &mut buffer[at * BLOCK..(at + count) * BLOCK];
            match first {
                Slot::Unset | Slot::Zero => bytes.fill(0),
                Slot::Born(birth) => self.read_births(birth, bytes)?,
            }
            at += count;
        }
        Ok(())
    }

    /// Reads births with consecutive lsns.
    pub(super) fn read_births(&self, first: Birth, buffer: &mut [u8]) -> Result<()> {
        let short = buffer.len() <= PLACED_BLOCKS_MAX * BLOCK;
        let mut done = 0;
        if short {
            while done < buffer.len() && self.read_placed(first, done / BLOCK, &mut buffer[done..])
            {
                done += BLOCK;
            }
        }
        while done < buffer.len() {
            let birth = Birth {
                lsn: Lsn(first.lsn.0 + (done / BLOCK) as u64),
                ..first
            };
            let rot = |what: &str| {
                let text = format!("block {}/{}/{} {what}", birth.log, birth.epoch, birth.lsn);
                Error::new(Kind::Corrupt, Subject::Store, text)
            };
            let (start, location) = self
                .locate(birth.log, birth.lsn)?
                .ok_or_else(|| rot("has no location"))?;
            if location.epoch != birth.epoch {
                return Err(rot("is located under another epoch"));
            }
            let lead = usize::try_from(birth.lsn.0 - start.0).unwrap_or(usize::MAX);
            let count = (location.checks.len() - lead).min((buffer.len() - done) / BLOCK);
            let bytes = &mut buffer[done..done + count * BLOCK];
            let offset = location.offset + (lead * BLOCK) as u64;
            self.log
                .read(location.segment, offset, bytes)
                .map_err(|failure| {
                    rot(&format!(
                        "cannot be read from {} at {offset}",
                        location.segment
                    ))
                    .because(failure)
                })?;
            for (index, block) in bytes.chunks_exact(BLOCK).enumerate() {
                let named = Birth {
                    lsn: Lsn(birth.lsn.0 + index as u64),
                    ..birth
                };
                if crc32fast::hash(block) ^ birth_crc(named) != location.checks[lead + index] {
                    return Err(rot(&format!(
                        "fails its check (+{index}, {} at {offset})",
                        location.segment
                    )));
                }
            }
            if short {
                for index in 0..count {
                    let place = Place {
                        epoch: birth.epoch,
                        segment: location.segment,
                        offset: offset + (index * BLOCK) as u64,
                        check: location.checks[lead + index],
                    };
                    let lsn = Lsn(birth.lsn.0 + index as u64);
                    self.places.insert((birth.log, lsn), place);
                }
            }
            done += count * BLOCK;
        }
        Ok(())
    }

    /// Reads one block from where it was found before. False if it was not, or lies there no more: a
    /// collection may have moved it, and what is read proves itself by its check.
    fn read_placed(&self, first: Birth, index: usize, buffer: &mut [u8]) -> bool {
        let birth = Birth {
            lsn: Lsn(first.lsn.0 + index as u64),
            ..first
        };
        let Some(place) = self.places.get(&(birth.log, birth.lsn)) else {
            return false;
        };
        let block = &mut buffer[..BLOCK];
        let holds = place.epoch == birth.epoch
            && self.log.read(place.segment, place.offset, block).is_ok()
            && crc32fast::hash(block) ^ birth_crc(birth) == place.check;
        if !holds {
            self.places.remove(&(birth.log, birth.lsn));
        }
        holds
    }

    /// Where an lsn of a log lies now.
    pub(super) fn locate(&self, log: LogId, lsn: Lsn) -> Result<Option<(Lsn, Location)>> {
        {
            let fresh = self.fresh.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(((_, first), location)) =
                fresh.range((log, Lsn(0))..=(log, lsn)).next_back()
                && lsn.0 - first.0 < location.count()
            {
                return Ok(Some((*first, location.clone())));
            }
        }
        self.index.location(log, lsn)
    }
}
