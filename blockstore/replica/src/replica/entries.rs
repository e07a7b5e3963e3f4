//! Entries into the log, and out of it again: what conflicts, what is damaged, what is copied in one piece.

use super::{Copying, Effect, PENDING_MAX, Pending, Replica};
use crate::history::{History, Run};
use crate::id::{Epoch, Lsn, NodeId, Position, Time};
use crate::message::{Append, Body, Entry, Refusal};

impl Replica {
    pub(super) fn append<P: Clone>(
        &mut self,
        now: Time,
        from: NodeId,
        append: &Append<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        let swapping = self
            .copying
            .as_ref()
            .is_some_and(|copying| copying.swapping);
        if !self.settled() || self.damaged || swapping || self.pending.len() >= PENDING_MAX {
            self.save_if_changed(out);
            return;
        }
        let Some(fresh) = self.fresh(append) else {
            return self.refuse(from, append.epoch, Refusal::Contradiction, out);
        };
        self.writer = Some(from);
        self.heard = (append.epoch, self.heard.1.max(append.session));
        let round = (append.epoch, append.lease);
        if append.lease > 0 && self.lease.is_none_or(|(granted, _)| granted < round) {
            self.lease = Some((round, now));
        }
        if append.distrust && !self.durable.gap && self.matched < append.regain {
            self.durable.gap = true;
            self.durable.lost = true;
            self.save_if_changed(out);
        }
        if !self.history.contains(append.prev) {
            return self.acknowledge(true, out);
        }
        self.regain = append.regain;
        self.take(append.prev, &append.entries, fresh, out);
        self.commit = self.commit.max(append.commit);
        if append.sync > self.sync_most {
            self.sync_most = append.sync;
            self.sync_least.get_or_insert(append.sync);
        }
        self.acked = None;
    }

    /// The index of the first entry that is not here yet, or `None` if the message contradicts itself,
    /// what this writer has said before, or what is committed.
    pub(super) fn fresh<P>(&self, append: &Append<P>) -> Option<usize> {
        let mut end = append.prev;
        let mut fresh = None;
        for (at, entry) in append.entries.iter().enumerate() {
            let follows = match entry.body {
                Body::Start(start) => {
                    entry.epoch > end.epoch && start.previous == end && entry.count == 1
                }
                Body::Data(_) => entry.epoch == end.epoch,
            };
            if entry.lsn != end.lsn || entry.count == 0 || entry.epoch > append.epoch || !follows {
                return None;
            }
            end = entry.position();
            let here = self.history.holds(entry.epoch, entry.lsn, entry.end());
            if fresh.is_none() && !here {
                fresh = Some(at);
            }
        }
        let first = fresh.unwrap_or(append.entries.len());
        let conflict = append
            .entries
            .get(first)
            .is_some_and(|entry| entry.lsn < self.history.end().lsn);
        if conflict && self.history.contains(append.prev) {
            let cut = append.entries[first].lsn;
            if cut < self.matched || cut < self.durable.commit {
                return None;
            }
        }
        Some(first)
    }

    pub(super) fn take<P: Clone>(
        &mut self,
        prev: Position,
        entries: &[Entry<P>],
        fresh: usize,
        out: &mut Vec<Effect<P>>,
    ) {
        self.matched = self.matched.max(prev.lsn);
        if let Some(last) = fresh.checked_sub(1) {
            self.matched = self.matched.max(entries[last].end());
        }
        let Some(first) = entries.get(fresh) else {
            return;
        };
        if first.lsn < self.history.end().lsn {
            self.cut(first.lsn, out);
        }
        for entry in &entries[fresh..] {
            match entry.body {
                Body::Start(start) => self.history.start(entry.epoch, start.poison),
                Body::Data(_) => self.history.extend(entry.count),
            }
        }
        let end = self.history.end().lsn;
        self.matched = end;
        let op = self.begin(Pending::Append { end });
        out.push(Effect::Append(op, entries[fresh..].to_vec()));
    }

    pub(super) fn cut<P>(&mut self, lsn: Lsn, out: &mut Vec<Effect<P>>) {
        self.forget(lsn);
        let op = self.begin(Pending::Cut);
        out.push(Effect::Cut(op, self.history.end()));
    }

    pub(super) fn forget(&mut self, lsn: Lsn) {
        self.history.cut(lsn);
        self.written = self.written.min(lsn);
        self.synced = self.synced.min(lsn);
        self.matched = self.matched.min(lsn);
        // What is under way reaches only up to the cut, whatever is written behind it later.
        for (_, pending) in &mut self.pending {
            match pending {
                Pending::Append { end } => *end = lsn.min(*end),
                Pending::Sync { through } => *through = lsn.min(*through),
                Pending::Swap { end } => *end = lsn.min(*end),
                Pending::Cut | Pending::Save { .. } => {}
            }
        }
    }

    pub(super) fn rot<P>(&mut self, sound: Lsn, out: &mut Vec<Effect<P>>) {
        if sound >= self.history.end().lsn {
            return;
        }
        self.durable.gap = true;
        self.durable.lost = true;
        // The writer has to attach anew, and to say what makes the loss good.
        self.void = self.session.1;
        self.regain = Lsn(u64::MAX);
        self.durable.commit = self.durable.commit.min(sound);
        self.acked = None;
        // What is being built aside may build on what is damaged.
        if let Some(copying) = self.copying.take_if(|copying| !copying.swapping) {
            out.push(Effect::DropCopy(copying.upto));
        }
        self.forget(sound);
        self.sync_least = None;
        self.sync_most = Lsn(0);
        self.damaged = true;
        self.save_if_changed(out);
        self.cut_damaged(out);
    }

    /// The damage is cut away only when it is noted: else the next run would find a sound, short log.
    pub(super) fn cut_damaged<P>(&mut self, out: &mut Vec<Effect<P>>) {
        if self.damaged && self.saved.gap {
            self.damaged = false;
            let op = self.begin(Pending::Cut);
            out.push(Effect::Cut(op, self.history.end()));
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn copy<P>(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        have: Position,
        upto: Position,
        source: NodeId,
        runs: Vec<Run>,
        out: &mut Vec<Effect<P>>,
    ) {
        if !self.settled() || self.damaged {
            return;
        }
        self.writer = Some(from);
        self.acked = None;
        if self.history.contains(upto) && upto.lsn <= self.history.end().lsn {
            self.matched = self.matched.max(upto.lsn);
            return;
        }
        let sound = History::new(runs.clone(), upto.lsn).is_some_and(|log| log.end() == upto);
        if have.lsn < self.matched {
            // Late: more has come since. The acknowledgement says so.
            return;
        }
        if !sound || !self.history.contains(have) {
            return self.refuse(from, epoch, Refusal::Contradiction, out);
        }
        if let Some(copying) = &self.copying {
            if copying.swapping || copying.upto == upto {
                return;
            }
            out.push(Effect::DropCopy(copying.upto));
        }
        self.copying = Some(Copying {
            epoch,
            upto,
            runs,
            swapping: false,
        });
        out.push(Effect::Copy {
            from: have,
            upto,
            source,
        });
    }

    /// A copy ready under an epoch that is no longer promised is thrown away: it may hold what a later
    /// opening has decided against.
    pub(super) fn copy_ready<P>(&mut self, upto: Position, out: &mut Vec<Effect<P>>) {
        let promised = self.durable.promised;
        let busy = !self.settled() || !self.pending.is_empty();
        let longer = self.matched >= upto.lsn;
        let Some(copying) = self
            .copying
            .as_mut()
            .filter(|copying| copying.upto == upto && !copying.swapping)
        else {
            return out.push(Effect::DropCopy(upto));
        };
        // Busy with entries: then it is not so far behind; the writer asks again if it is.
        if copying.epoch != promised || longer || busy {
            self.copying = None;
            return out.push(Effect::DropCopy(upto));
        }
        copying.swapping = true;
        let runs = copying.runs.clone();
        let Some(history) = History::new(runs.clone(), upto.lsn) else {
            return;
        };
        let common = self.history.common(&history).lsn;
        self.history = history;
        self.written = self.written.min(common);
        self.synced = self.synced.min(common);
        let op = self.begin(Pending::Swap { end: upto.lsn });
        out.push(Effect::Swap(op, upto, runs));
    }
}
