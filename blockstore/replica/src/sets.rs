//! Replica sets and their quorums. A quorum is a majority; while a set changes, a majority of each.
//!
//! Copies and what they bear: 1 (none may be away), 2 (none may be away for writes, and no answer is
//! ever lost with one disk: with two copies a majority is both, so the loss of either stalls the log
//! until the set is changed), 3 (one away), 5 (two away).

use crate::id::Member;

/// Most copies of a log.
pub const COPIES_MAX: usize = 7;

/// The sets whose quorums count, as recorded by the catalog: one, or old and new during a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sets {
    /// Grows with each change of the sets; the catalog changes them by comparing it.
    pub version: u64,
    /// One set, or old and new.
    pub sets: Vec<Vec<Member>>,
}

impl Sets {
    /// Whether these can be anybody's sets: one or two, none empty, none too large, no member twice.
    #[must_use]
    pub fn valid(&self) -> bool {
        (1..=2).contains(&self.sets.len())
            && self.sets.iter().all(|set| {
                !set.is_empty()
                    && set.len() <= COPIES_MAX
                    && set
                        .iter()
                        .enumerate()
                        .all(|(at, member)| set[..at].iter().all(|other| other.node != member.node))
            })
    }

    /// Whether the members that satisfy `has` are a quorum of every set.
    pub fn quorum(&self, has: impl Fn(&Member) -> bool) -> bool {
        self.sets
            .iter()
            .all(|set| set.iter().filter(|member| has(member)).count() >= majority(set.len()))
    }

    /// The highest value that a quorum of every set has reached.
    pub fn reached(&self, value: impl Fn(&Member) -> u64) -> u64 {
        let of = |set: &Vec<Member>| {
            let mut values: Vec<u64> = set.iter().map(&value).collect();
            values.sort_unstable();
            values[set.len() - majority(set.len())]
        };
        self.sets.iter().map(of).min().unwrap_or(0)
    }

    /// All members, each once.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.sets.iter().flatten().copied().collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Whether old and new both count.
    #[must_use]
    pub fn joint(&self) -> bool {
        self.sets.len() == 2
    }
}

/// How many of `copies` are a quorum.
#[must_use]
pub fn majority(copies: usize) -> usize {
    copies / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, NodeId};

    fn set(nodes: &[u64]) -> Vec<Member> {
        nodes
            .iter()
            .map(|node| Member {
                node: NodeId(*node),
                incarnation: Incarnation(1),
            })
            .collect()
    }

    #[test]
    fn what_a_quorum_has_reached_is_the_least_over_the_sets() {
        let value = |member: &Member| member.node.0 * 10;
        for (sets, reached) in [
            (vec![set(&[1])], 10),
            (vec![set(&[1, 2])], 10),
            (vec![set(&[1, 2, 3])], 20),
            (vec![set(&[1, 2, 3, 4, 5])], 30),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], 20),
        ] {
            let sets = Sets { version: 1, sets };
            assert!(sets.valid());
            assert_eq!(sets.reached(value), reached);
            assert!(sets.quorum(|member| value(member) >= reached));
            assert!(!sets.quorum(|member| value(member) > reached));
        }
    }

    #[test]
    fn a_set_names_each_node_once() {
        let twice = Sets {
            version: 1,
            sets: vec![set(&[1, 1])],
        };
        assert!(!twice.valid());
        assert!(
            !Sets {
                version: 1,
                sets: vec![vec![]]
            }
            .valid()
        );
        assert!(!Sets::default().valid());
    }
}
