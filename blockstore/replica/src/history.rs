//! Whose entries a log holds: the runs of its epochs.
//!
//! ```text
//! lsn    0          17                 60        71
//!        │ epoch 1  │ epoch 4          │ epoch 5 │
//!        Start(1)   Start(4)           Start(5)  end
//! ```
//!
//! 1. Each run begins with the Start of its epoch; epochs and starts grow.
//! 2. Two logs that hold the same entry of an epoch are equal up to it. So runs say where two logs
//!    part, without looking at any entry.
//! 3. Runs far below `commit` may be forgotten: every later log has them.

use crate::id::{Epoch, Lsn, Position};

/// Runs that are kept, however old they are.
const RUNS_KEPT: usize = 32;
/// Most runs a history may have (on the wire, too).
pub const RUNS_MAX: usize = 1024;

/// The entries of one epoch in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Whose.
    pub epoch: Epoch,
    /// Where its Start is.
    pub start: Lsn,
    /// Tokens of this epoch and below are poisoned (see [`crate::Start`]).
    pub poison: Epoch,
}

/// The runs of a log and where it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    runs: Vec<Run>,
    end: Lsn,
}

impl History {
    /// A history from outside; `None` if it breaks the rules above.
    #[must_use]
    pub fn new(runs: Vec<Run>, end: Lsn) -> Option<Self> {
        let grows = runs
            .windows(2)
            .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start);
        let sound = match runs.last() {
            Some(last) => last.start < end && runs[0].epoch > Epoch(0),
            None => end == Lsn(0),
        };
        let poisons = runs.iter().all(|run| run.poison < run.epoch);
        (grows && sound && poisons && runs.len() <= RUNS_MAX).then_some(Self { runs, end })
    }

    /// The runs, oldest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Where the log ends, and by whom.
    #[must_use]
    pub fn end(&self) -> Position {
        Position {
            epoch: self.runs.last().map_or(Epoch(0), |run| run.epoch),
            lsn: self.end,
        }
    }

    /// Tokens of this epoch and below are poisoned.
    #[must_use]
    pub fn poison(&self) -> Epoch {
        self.runs.last().map_or(Epoch(0), |run| run.poison)
    }

    /// Whose entry ends at (or covers the lsn below) `lsn`; `None` above the end and in what was forgotten.
    fn epoch_before(&self, lsn: Lsn) -> Option<Epoch> {
        if lsn > self.end {
            return None;
        }
        let after = self.runs.partition_point(|run| run.start < lsn);
        after.checked_sub(1).map(|at| self.runs[at].epoch)
    }

    /// The prefix that ends at `lsn`, which must be the end of an entry. What was forgotten counts as epoch 0.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Position {
        Position {
            epoch: self.epoch_before(lsn).unwrap_or_default(),
            lsn,
        }
    }

    /// Whether this log and any that ends at `position` are equal up to there.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        let Some(first) = self.runs.first() else {
            return position == Position::ZERO;
        };
        match self.epoch_before(position.lsn) {
            Some(epoch) => epoch == position.epoch,
            // Forgotten, so committed: the log of whoever asks has it.
            None => position.lsn <= first.start && position.epoch < first.epoch,
        }
    }

    /// Whether it holds the entry of `epoch` over [lsn, end).
    #[must_use]
    pub fn holds(&self, epoch: Epoch, lsn: Lsn, end: Lsn) -> bool {
        self.epoch_before(Lsn(lsn.0 + 1)) == Some(epoch) && self.epoch_before(end) == Some(epoch)
    }

    /// Appends the Start of an epoch.
    pub(crate) fn start(&mut self, epoch: Epoch, poison: Epoch) {
        assert!(epoch > self.end().epoch, "epochs of a log grow");
        self.runs.push(Run {
            epoch,
            start: self.end,
            poison,
        });
        self.end.0 += 1;
    }

    /// Appends `count` lsns to the last run.
    pub(crate) fn extend(&mut self, count: u32) {
        assert!(!self.runs.is_empty(), "a log begins with a Start");
        self.end.0 += u64::from(count);
    }

    /// Forgets everything from `lsn` on.
    pub(crate) fn cut(&mut self, lsn: Lsn) {
        self.end = self.end.min(lsn);
        self.runs.retain(|run| run.start < lsn);
    }

    /// The prefix that ends at `lsn`.
    #[must_use]
    pub fn upto(&self, lsn: Lsn) -> Self {
        let mut prefix = self.clone();
        prefix.cut(lsn);
        prefix
    }

    /// Where this log and another part: the end of what both hold, or zero if that is forgotten.
    #[must_use]
    pub fn common(&self, other: &Self) -> Position {
        for (at, run) in self.runs.iter().enumerate().rev() {
            let Some(theirs) = other.runs.iter().position(|their| their.epoch == run.epoch) else {
                continue;
            };
            let lsn = self.run_end(at).min(other.run_end(theirs));
            return Position {
                epoch: run.epoch,
                lsn,
            };
        }
        Position::ZERO
    }

    fn run_end(&self, at: usize) -> Lsn {
        self.runs.get(at + 1).map_or(self.end, |next| next.start)
    }

    /// Forgets runs that ended at or below `commit`, but for the last few.
    pub(crate) fn prune(&mut self, commit: Lsn) {
        if self.runs.len() <= RUNS_KEPT {
            return;
        }
        let most = self.runs.len() - RUNS_KEPT;
        let below = self.runs.partition_point(|run| run.start <= commit);
        self.runs.drain(..most.min(below.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(runs: &[(u32, u64)], end: u64) -> History {
        let runs = runs
            .iter()
            .map(|(epoch, start)| Run {
                epoch: Epoch(*epoch),
                start: Lsn(*start),
                poison: Epoch(0),
            })
            .collect();
        History::new(runs, Lsn(end)).unwrap()
    }

    fn position(epoch: u32, lsn: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn logs_part_at_the_end_of_the_last_epoch_that_both_hold() {
        let chosen = history(&[(1, 0), (4, 17), (5, 60)], 71);
        for (other, common) in [
            (history(&[(1, 0), (4, 17), (5, 60)], 65), position(5, 65)),
            (history(&[(1, 0), (4, 17)], 80), position(4, 60)),
            (history(&[(1, 0), (2, 20)], 90), position(1, 17)),
            (history(&[(1, 0), (4, 17), (6, 50)], 90), position(4, 50)),
            (History::default(), Position::ZERO),
        ] {
            assert_eq!(chosen.common(&other), common);
            assert_eq!(other.common(&chosen), common);
            assert!(chosen.contains(common) && other.contains(common));
        }
    }

    #[test]
    fn an_end_is_contained_only_under_its_own_epoch() {
        let log = history(&[(1, 0), (4, 17)], 60);
        assert!(log.contains(position(1, 17)) && log.contains(position(4, 18)));
        assert!(!log.contains(position(4, 17)) && !log.contains(position(4, 61)));
        assert!(!log.contains(position(2, 17)) && log.contains(Position::ZERO));
    }

    #[test]
    fn what_breaks_the_rules_is_no_history() {
        let run = |epoch, start| Run {
            epoch: Epoch(epoch),
            start: Lsn(start),
            poison: Epoch(0),
        };
        assert!(History::new(vec![run(2, 0), run(1, 5)], Lsn(9)).is_none());
        assert!(History::new(vec![run(1, 0), run(2, 0)], Lsn(9)).is_none());
        assert!(History::new(vec![run(1, 9)], Lsn(9)).is_none());
        assert!(History::new(vec![], Lsn(1)).is_none());
    }

    #[test]
    fn old_runs_are_forgotten_and_still_count_as_common() {
        let mut log = History::default();
        for epoch in 1..=100 {
            log.start(Epoch(epoch), Epoch(0));
            log.extend(3);
        }
        log.prune(Lsn(390));
        assert_eq!(log.runs().len(), RUNS_KEPT);
        assert!(log.contains(position(3, 12)));
        assert_eq!(log.end(), position(100, 400));
    }
}
