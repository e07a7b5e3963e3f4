//! The entries the writer keeps: all above `commit`, and some below for replicas that lag.

use crate::id::{Lsn, Position};
use crate::message::Entry;
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot<P> {
    /// Bytes of all entries before this one, counted from the opening.
    before: u64,
    entry: Entry<P>,
}

/// Entries without a gap, from `base` to the end of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ring<P> {
    base: Position,
    slots: VecDeque<Slot<P>>,
    total: u64,
}

impl<P> Ring<P> {
    pub(crate) fn new(base: Position) -> Self {
        Self {
            base,
            slots: VecDeque::new(),
            total: 0,
        }
    }

    /// What the first entry follows.
    pub(crate) fn base(&self) -> Position {
        self.base
    }

    pub(crate) fn end(&self) -> Position {
        self.slots
            .back()
            .map_or(self.base, |slot| slot.entry.position())
    }

    pub(crate) fn push(&mut self, entry: Entry<P>) {
        assert_eq!(entry.lsn, self.end().lsn, "a ring has no gaps");
        let before = self.total;
        self.total += entry.weight();
        self.slots.push_back(Slot { before, entry });
    }

    /// The index of the entry at `lsn`, or of the first above.
    fn index(&self, lsn: Lsn) -> usize {
        self.slots.partition_point(|slot| slot.entry.lsn < lsn)
    }

    /// Bytes pushed before the entry at `lsn`.
    pub(crate) fn bytes_before(&self, lsn: Lsn) -> u64 {
        self.slots
            .get(self.index(lsn))
            .map_or(self.total, |slot| slot.before)
    }

    /// Bytes from `lsn` on.
    pub(crate) fn bytes_from(&self, lsn: Lsn) -> u64 {
        self.total - self.bytes_before(lsn)
    }

    /// Entries from `lsn` on.
    pub(crate) fn count_from(&self, lsn: Lsn) -> usize {
        self.slots.len() - self.index(lsn)
    }

    /// Drops entries that end at or below `lsn`, while more than `retained` bytes of them are there or
    /// nobody needs them.
    pub(crate) fn trim(&mut self, commit: Lsn, needed: Lsn, retained: u64) {
        while let Some(slot) = self.slots.front() {
            let end = slot.entry.end();
            let kept = self.bytes_before(commit).saturating_sub(slot.before);
            if end > commit || (end > needed && kept <= retained) {
                break;
            }
            self.base = slot.entry.position();
            self.slots.pop_front();
        }
    }
}

impl<P: Clone> Ring<P> {
    /// What the entry at `lsn` follows, and entries from there, up to about `bytes` of them.
    pub(crate) fn from(&self, lsn: Lsn, bytes: u64) -> (Position, Vec<Entry<P>>) {
        let first = self.index(lsn);
        let previous = first
            .checked_sub(1)
            .map_or(self.base, |at| self.slots[at].entry.position());
        let mut taken = 0;
        let entries = self
            .slots
            .range(first..)
            .take_while(|slot| {
                let fits = taken == 0 || taken + slot.entry.weight() <= bytes;
                taken += slot.entry.weight();
                fits
            })
            .map(|slot| slot.entry.clone())
            .collect();
        (previous, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use crate::message::Body;

    fn ring() -> Ring<()> {
        let mut ring = Ring::new(Position {
            epoch: Epoch(1),
            lsn: Lsn(10),
        });
        for at in 0..5 {
            ring.push(Entry {
                epoch: Epoch(1),
                lsn: Lsn(10 + at * 2),
                count: 2,
                bytes: 36,
                body: Body::Data(()),
            });
        }
        ring
    }

    #[test]
    fn entries_above_commit_are_never_dropped() {
        let mut ring = ring();
        ring.trim(Lsn(14), Lsn(20), 0);
        assert_eq!(ring.base().lsn, Lsn(14));
        assert_eq!(ring.end().lsn, Lsn(20));
        assert_eq!(ring.bytes_from(Lsn(14)), 300);
    }

    #[test]
    fn entries_below_commit_stay_within_the_bound_for_those_who_need_them() {
        let mut ring = ring();
        ring.trim(Lsn(18), Lsn(10), 200);
        assert_eq!(ring.base().lsn, Lsn(14));
        ring.trim(Lsn(18), Lsn(18), 200);
        assert_eq!(ring.base().lsn, Lsn(18));
    }

    #[test]
    fn a_message_takes_whole_entries_up_to_its_bound() {
        let ring = ring();
        let (previous, entries) = ring.from(Lsn(12), 250);
        assert_eq!((previous.lsn, entries.len()), (Lsn(12), 2));
        let (_, entries) = ring.from(Lsn(12), 1);
        assert_eq!(entries.len(), 1);
        assert!(ring.from(Lsn(20), 250).1.is_empty());
    }
}
