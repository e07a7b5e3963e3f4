//! Changing the replica set while the log is written.
//!
//! ```text
//! old ──Change(new)──▶ learners ──majority of new streams, has synced `commit`──▶ AskSets(old, new)
//!                                                                                       │ recorded
//! new ◀──recorded── AskSets(new) ◀──what was there at `mark` is committed in both── old and new
//! ```
//!
//! 1. New members are learners first: they get everything and count for nothing.
//! 2. The writer counts old and new at the latest when the catalog has recorded both; an opening after
//!    that asks a quorum of each. Before, nothing was answered that old alone had not.
//! 3. The old set is let go only when everything that may have been answered without the new one is
//!    committed in both. An opening that finds both recorded goes on from there.

use super::{Effect, Follower, Phase, Writer};
use crate::fault::{Fault, planted};
use crate::id::{Lsn, Member, Time};
use crate::sets::Sets;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Change {
    target: Option<Vec<Member>>,
    asked: Option<Time>,
    /// Where the log ended when both sets began to count.
    mark: Option<Lsn>,
}

impl Change {
    pub(super) fn want(&mut self, set: Vec<Member>) {
        self.target = Some(set);
        self.asked = None;
    }

    pub(super) fn next_wake(&self, retry_us: u64) -> Time {
        self.asked
            .map_or(Time(u64::MAX), |asked| asked.plus(retry_us))
    }
}

impl<P: Clone> Writer<P> {
    /// Members that get entries: those that count and those that learn.
    fn wanted_members(&self) -> Vec<Member> {
        let mut members = self.sets.members();
        if !self.sets.joint() {
            members.extend(self.change.target.iter().flatten());
        }
        members.sort_unstable();
        members.dedup();
        members
    }

    pub(super) fn step_change(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        if self.phase != Phase::Serving {
            return;
        }
        if self.sets.joint() && self.change.mark.is_none() {
            self.change.mark = Some(self.end().lsn);
        }
        self.follow_wanted(now);
        if !self.sets.joint() && self.change.target.as_ref() == self.sets.sets.first() {
            self.change.asked = None;
            if let Some(set) = self.change.target.take() {
                out.push(Effect::Changed(set));
            }
        }
        if !self.sets.joint() && self.change.target.is_none() {
            return;
        }
        let Some(sets) = self.next_sets() else {
            return;
        };
        let due = |asked| now.since(asked) >= self.settings.retry_us;
        if self.change.asked.is_none_or(due) {
            self.change.asked = Some(now);
            out.push(Effect::AskSets(sets));
        }
    }

    /// The sets that may be recorded next.
    fn next_sets(&self) -> Option<Sets> {
        let version = self.sets.version + 1;
        if self.sets.joint() {
            // Not `commit`: that may stem from the old set alone.
            let synced = |member: &Member| self.followers.get(member).map_or(0, |f| f.synced.0);
            let both = self.sets.reached(synced);
            let settled = self.change.mark.is_some_and(|mark| both >= mark.0);
            return settled.then(|| Sets {
                version,
                sets: vec![self.sets.sets[1].clone()],
            });
        }
        let target = self.change.target.as_ref()?;
        if planted(Fault::SkipJoint) {
            let sets = vec![target.clone()];
            return Some(Sets { version, sets });
        }
        let both = Sets {
            version,
            sets: vec![self.sets.sets[0].clone(), target.clone()],
        };
        let alone = Sets {
            version,
            sets: vec![target.clone()],
        };
        let ready = both.valid()
            && alone.quorum(|member| {
                let follower = self.followers.get(member);
                follower.is_some_and(|f| f.streaming() && f.synced >= self.commit)
            });
        ready.then_some(both)
    }

    pub(super) fn sets_recorded(&mut self, now: Time, sets: Sets, out: &mut Vec<Effect<P>>) {
        if sets.version <= self.sets.version || !sets.valid() || self.fenced() {
            return;
        }
        let joint = sets.joint();
        self.sets = sets;
        self.change.asked = None;
        self.change.mark = joint.then(|| self.end().lsn);
        if !joint {
            let set = self.sets.sets[0].clone();
            if self.change.target.as_ref() == Some(&set) {
                self.change.target = None;
            }
            out.push(Effect::Changed(set));
        }
        self.follow_wanted(now);
    }

    fn follow_wanted(&mut self, now: Time) {
        let wanted = self.wanted_members();
        self.followers.retain(|member, _| wanted.contains(member));
        for member in wanted {
            self.followers
                .entry(member)
                .or_insert_with(|| Follower::new(now));
        }
    }
}
