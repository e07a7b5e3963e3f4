//! Checking: maps against locations, figures against maps, and (scrubbing) bytes against checks.

use super::{Engine, lock};
use crate::index::leaf::{Leaf, Slot};
use crate::{BLOCK, Birth, LogId, Lsn, MapId, Result, SegmentId};
use std::collections::{BTreeMap, BTreeSet};

/// Problems listed before the rest is only counted.
const PROBLEMS_MAX: usize = 100;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) births: u64,
    pub(crate) segments: u64,
    pub(crate) leaked_bytes: u64,
    pub(crate) scrubbed_bytes: u64,
    pub(crate) problems: Vec<String>,
}

impl Findings {
    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

impl Engine {
    /// Checks these maps at these cuts. Writers may go on; what they change meanwhile is not looked at.
    pub(crate) fn check(&self, maps: &[(MapId, BTreeSet<Lsn>)], scrub: bool) -> Result<Findings> {
        let _still = lock(&self.inner.collecting);
        self.settle()?;
        let mut found = Findings::default();
        let (_, present) = self.space()?;
        for (map, cuts) in maps {
            let mut from = 0;
            while let Some(leaf) = self.inner.index.next_leaf(*map, from)? {
                self.check_leaf(*map, leaf, cuts, &present, scrub, &mut found)?;
                let Some(behind) = leaf.checked_add(1) else {
                    break;
                };
                from = behind;
            }
        }
        self.check_figures(&present, &mut found)?;
        Ok(found)
    }

    fn check_leaf(
        &self,
        map: MapId,
        leaf: u32,
        cuts: &BTreeSet<Lsn>,
        present: &BTreeMap<SegmentId, u64>,
        scrub: bool,
        found: &mut Findings,
    ) -> Result<()> {
        let versions = self.inner.index.versions(map, leaf)?;
        let mut births: BTreeMap<(LogId, Lsn), Birth> = BTreeMap::new();
        for cut in cuts {
            let below = versions
                .iter()
                .filter(|(lsn, _)| lsn <= cut)
                .map(|(_, version)| version);
            for slot in Leaf::resolve(below).slots.iter() {
                if let Slot::Born(birth) = slot {
                    births.insert((birth.log, birth.lsn), *birth);
                }
            }
        }
        let mut block = vec![0; BLOCK];
        for birth in births.values() {
            found.births += 1;
            let name = format!(
                "{map} leaf {leaf} shows {}/{}/{}",
                birth.log, birth.epoch, birth.lsn
            );
            match self.inner.locate(birth.log, birth.lsn)? {
                None => found.problem(format!("{name}, which has no location")),
                Some((_, location)) if location.epoch != birth.epoch => {
                    found.problem(format!("{name}, which is located under {}", location.epoch));
                }
                Some((_, location))
                    if !present.contains_key(&location.segment)
                        && !self.segment_is_there(location.segment) =>
                {
                    found.problem(format!("{name}, whose {} is missing", location.segment));
                }
                Some(_) if scrub => match self.inner.read_births(*birth, &mut block) {
                    Ok(()) => found.scrubbed_bytes += BLOCK as u64,
                    Err(failure) => found.problem(format!("{name}: {}", failure.chain())),
                },
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn segment_is_there(&self, segment: SegmentId) -> bool {
        self.inner.log.file(segment).is_ok()
    }

    /// Blocks that the figures take for live and no map shows would never be collected.
    fn check_figures(
        &self,
        present: &BTreeMap<SegmentId, u64>,
        found: &mut Findings,
    ) -> Result<()> {
        let upto = lock(&self.inner.progress).applied.segment;
        for (segment, figures) in self.figures() {
            found.segments += 1;
            if segment >= upto || !present.contains_key(&segment) {
                continue;
            }
            match self.live_runs(segment) {
                Ok(runs) => {
                    let live: u64 = runs.iter().map(|run| run.count).sum();
                    found.leaked_bytes += figures.live_blocks.saturating_sub(live) * BLOCK as u64;
                }
                Err(failure) => found.problem(failure.chain()),
            }
        }
        Ok(())
    }
}
