//! What is true of the log, seen from outside, and the invariants that are checked against it.
//!
//! Each entry is known by where it ends, with what it follows: so the log of any epoch can be walked
//! without asking the code under test.

use crate::id::{Epoch, Lsn, Member, Position};
use crate::message::{Body, Entry, Start};
use std::collections::{BTreeMap, HashMap};

/// Bytes of a payload.
pub(super) const BLOCK_BYTES: usize = 40;

/// The payload: one register is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Block {
    pub(super) register: usize,
    pub(super) value: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    follows: Position,
    entry: Entry<Block>,
}

#[derive(Default)]
pub(super) struct Truth {
    entries: HashMap<Position, Known>,
    starts: BTreeMap<Epoch, Start>,
    /// Highest commit and answer that each epoch's writer declared.
    pub(super) commits: BTreeMap<Epoch, Lsn>,
    pub(super) answers: BTreeMap<Epoch, Lsn>,
    pub(super) served: BTreeMap<Epoch, bool>,
    pub(super) checks: u64,
}

pub(super) fn position_at(log: &[Entry<Block>], lsn: Lsn) -> Option<Position> {
    if lsn == Lsn(0) {
        return Some(Position::ZERO);
    }
    let at = log.binary_search_by_key(&lsn, Entry::end).ok()?;
    Some(log[at].position())
}

impl Truth {
    /// Entries exist once, whoever shows them, and always follow the same.
    pub(super) fn saw(&mut self, mut follows: Position, entries: &[Entry<Block>]) {
        for entry in entries {
            assert_eq!(follows.lsn, entry.lsn, "entries follow one another");
            let position = entry.position();
            if let Body::Start(start) = entry.body {
                assert_eq!(start.previous, follows, "a Start says what it follows");
                let before = self.starts.insert(entry.epoch, start);
                assert!(
                    before.is_none_or(|known| known == start),
                    "one Start an epoch"
                );
            }
            let known = Known {
                follows,
                entry: entry.clone(),
            };
            let before = self.entries.insert(position, known.clone());
            assert!(
                before.as_ref().is_none_or(|before| *before == known),
                "(2) two entries end at {position}: {before:?} and {known:?}"
            );
            self.checks += 1;
            follows = position;
        }
    }

    pub(super) fn poison(&self, epoch: Epoch) -> Epoch {
        self.starts
            .get(&epoch)
            .map_or(Epoch(0), |start| start.poison)
    }

    /// Whether the log of this epoch's writer contains a position.
    pub(super) fn contains(&self, epoch: Epoch, position: Position) -> bool {
        if position == Position::ZERO || epoch == position.epoch {
            return true;
        }
        let mut start = self.starts.get(&epoch);
        while let Some(found) = start {
            let end = found.previous;
            if end.epoch <= position.epoch {
                return end.epoch == position.epoch && position.lsn <= end.lsn;
            }
            start = self.starts.get(&end.epoch);
        }
        false
    }

    /// A writer declares (commit, answered).
    pub(super) fn declared(&mut self, epoch: Epoch, commit: Lsn, answered: Lsn) {
        if let Some(before) = self.commits.insert(epoch, commit) {
            assert!(before <= commit, "(3) commit goes back");
        }
        if let Some(before) = self.answers.insert(epoch, answered) {
            assert!(before <= answered, "answers go back");
        }
        let later: Vec<Epoch> = self
            .served
            .range(Epoch(epoch.0 + 1)..)
            .map(|(later, _)| *later)
            .collect();
        for later in later {
            self.check_kept(epoch, later);
        }
    }

    pub(super) fn serves(&mut self, epoch: Epoch, clean: bool) {
        self.served.insert(epoch, clean);
        let earlier: Vec<Epoch> = self.commits.range(..epoch).map(|(e, _)| *e).collect();
        for earlier in earlier {
            self.check_kept(earlier, epoch);
        }
    }

    /// (11, 12) A later log has what was committed, and what was answered unless its tokens are poisoned.
    fn check_kept(&mut self, epoch: Epoch, later: Epoch) {
        self.checks += 1;
        let at = |lsn: &Lsn| {
            // A commit below the Start of its epoch belongs to the log it began with.
            let start = self
                .starts
                .get(&epoch)
                .map_or(Lsn(0), |start| start.previous.lsn);
            (*lsn > start).then_some(Position { epoch, lsn: *lsn })
        };
        if let Some(commit) = self.commits.get(&epoch).and_then(at) {
            assert!(
                self.contains(later, commit),
                "(11) {commit} was committed and is not in the log of {later}"
            );
        }
        if epoch > self.poison(later)
            && let Some(answered) = self.answers.get(&epoch).and_then(at)
        {
            assert!(
                self.contains(later, answered),
                "(12) {answered} was answered, {later} lost it and poisoned only {}",
                self.poison(later)
            );
        }
    }

    /// Registers as the log that ends here shows them, with the ends of the entries that set them.
    pub(super) fn registers(&self, end: Position) -> BTreeMap<usize, (u64, Lsn)> {
        let mut shown = BTreeMap::new();
        let mut at = end;
        while at != Position::ZERO {
            let known = &self.entries[&at];
            if let Body::Data(block) = known.entry.body {
                shown.entry(block.register).or_insert((block.value, at.lsn));
            }
            at = known.follows;
        }
        shown
    }
}

/// What the world knows of a member of a set, for counting copies.
pub(super) struct Copy {
    pub(super) member: Member,
    pub(super) durable: bool,
    pub(super) broken: bool,
}

pub(super) fn assert_on_quorum(sets: &crate::sets::Sets, copies: &[Copy], what: &str) {
    let held = |member: &Member| {
        copies
            .iter()
            .any(|copy| copy.member == *member && (copy.durable || copy.broken))
    };
    assert!(sets.quorum(held), "(3) {what} is not synced on a quorum");
}
