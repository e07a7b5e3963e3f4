//! Leaves: 256 slots of a map, their stored versions, and which births a set of cuts still shows. Pure.
//!
//! ```text
//! version = kind (1: 0 delta, 1 image) · run …
//! run     = first block (1) · count − 1 (1) · state (1: 1 zero, 2 born) · born only: log (8) epoch (4) lsn (8)
//! ```
//! A delta names what it changed; an image names all. Blocks of a run are born with consecutive lsns.

use crate::valuelog::format::{Fields, FormatError};
use crate::{Birth, Epoch, LEAF_BLOCKS, LogId, Lsn};
use std::collections::BTreeSet;

/// What a block of a map shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Never written here: the parent shows, or zeroes.
    #[default]
    Unset,
    /// Zeroes, whatever the parent shows.
    Zero,
    /// This birth.
    Born(Birth),
}

impl Slot {
    /// The slot `index` blocks further in a run that begins with this one.
    pub(crate) fn advance(self, index: u64) -> Self {
        match self {
            Self::Born(birth) => Self::Born(Birth {
                lsn: Lsn(birth.lsn.0 + index),
                ..birth
            }),
            other => other,
        }
    }
}

/// The slots of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) slots: Box<[Slot; LEAF_BLOCKS]>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            slots: Box::new([Slot::Unset; LEAF_BLOCKS]),
        }
    }
}

impl Leaf {
    /// What versions (newest first, ending with an image or the oldest) show together.
    pub(crate) fn resolve<'a>(versions: impl IntoIterator<Item = &'a Version>) -> Self {
        let mut leaf = Self::default();
        for version in versions {
            for run in &version.runs {
                for index in 0..run.count {
                    let slot = &mut leaf.slots[usize::from(run.first) + usize::from(index)];
                    if *slot == Slot::Unset {
                        *slot = run.slot.advance(u64::from(index));
                    }
                }
            }
            if version.image {
                break;
            }
        }
        leaf
    }

    /// Shows what lies below where nothing was written here.
    pub(crate) fn fill(&mut self, below: &Self) {
        for (slot, under) in self.slots.iter_mut().zip(below.slots.iter()) {
            if *slot == Slot::Unset {
                *slot = *under;
            }
        }
    }

    /// Whether no block was ever written.
    pub(crate) fn is_unset(&self) -> bool {
        self.slots.iter().all(|slot| *slot == Slot::Unset)
    }

    /// The whole leaf as a version.
    pub(crate) fn image(&self) -> Version {
        let mut runs: Vec<Run> = Vec::new();
        for (block, slot) in self.slots.iter().enumerate() {
            if *slot == Slot::Unset {
                continue;
            }
            let first = u8::try_from(block).unwrap_or(u8::MAX);
            match runs.last_mut() {
                Some(run)
                    if usize::from(run.first) + usize::from(run.count) == block
                        && run.slot.advance(u64::from(run.count)) == *slot =>
                {
                    run.count += 1;
                }
                _ => runs.push(Run {
                    first,
                    count: 1,
                    slot: *slot,
                }),
            }
        }
        Version { image: true, runs }
    }
}

/// Consecutive blocks of one nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block in the leaf.
    pub(crate) first: u8,
    /// 1 to 256 blocks.
    pub(crate) count: u16,
    /// What the first block shows; never Unset.
    pub(crate) slot: Slot,
}

/// A stored version of a leaf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    /// Complete, or only changes.
    pub(crate) image: bool,
    /// In a delta later runs win over earlier ones.
    pub(crate) runs: Vec<Run>,
}

impl Version {
    /// A delta whose runs were gathered oldest first, with each block once, its newest state.
    pub(crate) fn delta(runs: &[Run]) -> Self {
        let newest_first: Vec<Self> = runs
            .iter()
            .rev()
            .map(|run| Self {
                image: false,
                runs: vec![*run],
            })
            .collect();
        let mut merged = Leaf::resolve(&newest_first).image();
        merged.image = false;
        merged
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.runs.len() * 23);
        out.push(u8::from(self.image));
        for run in &self.runs {
            out.push(run.first);
            out.push(u8::try_from(run.count - 1).unwrap_or(u8::MAX));
            match run.slot {
                Slot::Unset => out.push(0),
                Slot::Zero => out.push(1),
                Slot::Born(birth) => {
                    out.push(2);
                    out.extend_from_slice(&birth.log.0.to_le_bytes());
                    out.extend_from_slice(&birth.epoch.0.to_le_bytes());
                    out.extend_from_slice(&birth.lsn.0.to_le_bytes());
                }
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let invalid = FormatError::Invalid {
            what: "leaf version",
        };
        let mut fields = Fields::of(bytes, "leaf version");
        let image = match fields.u8()? {
            0 => false,
            1 => true,
            found => {
                return Err(FormatError::Newer {
                    what: "leaf version",
                    found: u32::from(found),
                });
            }
        };
        let mut runs = Vec::with_capacity(fields.rest() / 23 + 1);
        while fields.rest() > 0 {
            let first = fields.u8()?;
            let count = u16::from(fields.u8()?) + 1;
            let slot = match fields.u8()? {
                1 => Slot::Zero,
                2 => Slot::Born(Birth {
                    log: LogId(fields.u64()?),
                    epoch: Epoch(fields.u32()?),
                    lsn: Lsn(fields.u64()?),
                }),
                _ => return Err(invalid),
            };
            if usize::from(first) + usize::from(count) > LEAF_BLOCKS {
                return Err(invalid);
            }
            runs.push(Run { first, count, slot });
        }
        Ok(Self { image, runs })
    }
}

/// What is left of a leaf when only some cuts are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    /// Versions to write (images).
    pub(crate) put: Vec<(Lsn, Version)>,
    /// Versions to delete.
    pub(crate) delete: Vec<Lsn>,
    /// Births that no live cut shows any more.
    pub(crate) dead: Vec<Birth>,
}

/// Reduces the versions of a leaf (newest first) to one image for each cut that shows something
/// else than the cut before. A version that lived over [a, b) is dead when no cut lies in [a, b).
pub(crate) fn prune(versions: &[(Lsn, Version)], cuts: &BTreeSet<Lsn>) -> Pruned {
    let mut pruned = Pruned::default();
    let mut kept: BTreeSet<Lsn> = BTreeSet::new();
    let mut shown: BTreeSet<(u64, u32, u64)> = BTreeSet::new();
    let name = |birth: &Birth| (birth.log.0, birth.epoch.0, birth.lsn.0);
    for cut in cuts {
        let Some(newest) = versions.iter().position(|(lsn, _)| lsn <= cut) else {
            continue;
        };
        let lsn = versions[newest].0;
        if !kept.insert(lsn) {
            continue;
        }
        let leaf = Leaf::resolve(versions[newest..].iter().map(|(_, version)| version));
        for slot in leaf.slots.iter() {
            if let Slot::Born(birth) = slot {
                shown.insert(name(birth));
            }
        }
        let image = leaf.image();
        if versions[newest].1 != image {
            pruned.put.push((lsn, image));
        }
    }
    let mut dead = BTreeSet::new();
    for (lsn, version) in versions {
        if !kept.contains(lsn) {
            pruned.delete.push(*lsn);
        }
        for run in &version.runs {
            for index in 0..u64::from(run.count) {
                if let Slot::Born(birth) = run.slot.advance(index)
                    && !shown.contains(&name(&birth))
                    && dead.insert(name(&birth))
                {
                    pruned.dead.push(birth);
                }
            }
        }
    }
    pruned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn born(lsn: u64) -> Slot {
        Slot::Born(Birth {
            log: LogId(1),
            epoch: Epoch(1),
            lsn: Lsn(lsn),
        })
    }

    /// Writes of (first, count) in lsn order, as deltas, newest first.
    fn versions(writes: &[(u8, u8)]) -> Vec<(Lsn, Version)> {
        let mut lsn = 1;
        let mut versions = Vec::new();
        for (first, count) in writes {
            let count = (u16::from(*count) + 1).min(256 - u16::from(*first));
            let slot = if count % 7 == 0 {
                Slot::Zero
            } else {
                born(lsn)
            };
            versions.push((
                Lsn(lsn),
                Version::delta(&[Run {
                    first: *first,
                    count,
                    slot,
                }]),
            ));
            lsn += u64::from(count);
        }
        versions.reverse();
        versions
    }

    fn at(versions: &[(Lsn, Version)], cut: Lsn) -> Leaf {
        Leaf::resolve(
            versions
                .iter()
                .filter(|(lsn, _)| *lsn <= cut)
                .map(|(_, version)| version),
        )
    }

    proptest! {
        #[test]
        fn versions_come_back_as_written(writes in proptest::collection::vec(any::<(u8, u8)>(), 0..9)) {
            for (_, version) in versions(&writes) {
                prop_assert_eq!(Version::decode(&version.encode()), Ok(version));
            }
        }

        #[test]
        fn pruning_keeps_what_each_cut_shows_and_names_exactly_the_rest(
            writes in proptest::collection::vec(any::<(u8, u8)>(), 0..12),
            cuts in proptest::collection::btree_set(0..600u64, 0..4),
            head: bool,
        ) {
            let versions = versions(&writes);
            let mut cuts: BTreeSet<Lsn> = cuts.into_iter().map(Lsn).collect();
            if head {
                cuts.insert(Lsn(u64::MAX));
            }
            let pruned = prune(&versions, &cuts);
            let mut after: Vec<(Lsn, Version)> = versions
                .iter()
                .filter(|(lsn, _)| !pruned.delete.contains(lsn))
                .map(|(lsn, old)| {
                    let new = pruned.put.iter().find(|(put, _)| put == lsn).map(|(_, version)| version);
                    (*lsn, new.unwrap_or(old).clone())
                })
                .collect();
            after.sort_by_key(|(lsn, _)| std::cmp::Reverse(*lsn));
            let mut live = Vec::new();
            for cut in &cuts {
                let leaf = at(&versions, *cut);
                prop_assert_eq!(&at(&after, *cut), &leaf);
                live.extend(leaf.slots.iter().copied());
            }
            for (_, version) in &versions {
                for run in &version.runs {
                    for index in 0..u64::from(run.count) {
                        if let Slot::Born(birth) = run.slot.advance(index) {
                            prop_assert_eq!(pruned.dead.contains(&birth), !live.contains(&Slot::Born(birth)));
                        }
                    }
                }
            }
        }

        #[test]
        fn garbage_versions_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Version::decode(&bytes);
        }
    }
}
