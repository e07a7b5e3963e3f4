//! What follows from events: operations done, losses made good, promises answered, syncs begun,
//! acknowledgements.

use super::{Effect, Op, Pending, Replica, Standing};
use crate::fault::{Fault, planted};
use crate::id::{Epoch, Lsn, Time};
use crate::message::{Ack, LeaseLeft, Message, Promised};

impl Replica {
    pub(super) fn done<P>(&mut self, op: Op, out: &mut Vec<Effect<P>>) {
        let Some(at) = self.pending.iter().position(|(pending, _)| *pending == op) else {
            return;
        };
        let Some((_, pending)) = self.pending.remove(at) else {
            return;
        };
        match pending {
            Pending::Append { end } => self.written = self.written.max(end),
            Pending::Cut => {}
            Pending::Sync { through } => self.synced = self.synced.max(through),
            Pending::Save { durable } => {
                self.saved = durable;
                self.save_if_changed(out);
                self.cut_damaged(out);
            }
            Pending::Swap { end } => {
                self.written = end;
                self.synced = end;
                self.floor = end;
                let copied = self.copying.take();
                if copied.is_some_and(|copying| copying.epoch == self.durable.promised) {
                    self.matched = self.matched.max(end);
                }
            }
        }
    }

    /// What follows from any change: loss made good, promises answered, syncs begun, acknowledgements.
    pub(super) fn advance<P>(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        if self.failed || self.standing != Standing::Known {
            return;
        }
        let (written, synced) = (
            self.matched.min(self.written),
            self.matched.min(self.synced),
        );
        if self.durable.lost && written >= self.regain {
            self.durable.lost = self.durable.gap;
        }
        if self.durable.gap && synced >= self.regain {
            self.durable.gap = false;
            self.durable.lost = false;
        }
        // Of what is synced only: after a crash the log may end in what was there before a cut, and that
        // is nobody's commit.
        self.durable.commit = self.durable.commit.max(self.commit.min(synced));
        self.history.prune(self.durable.commit);
        self.save_if_changed(out);
        self.answer_promise(now, out);
        self.begin_sync(out);
        if self.settled() && self.writer.is_some() && self.matched > Lsn(0) {
            self.acknowledge(false, out);
        }
    }

    /// Once the promise is synced and everything taken before it is written, so that what is reported
    /// stays.
    pub(super) fn answer_promise<P>(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let Some((from, round)) = self.promise else {
            return;
        };
        let writing = self.pending.iter().any(|(_, pending)| {
            matches!(
                pending,
                Pending::Append { .. } | Pending::Cut | Pending::Swap { .. }
            )
        });
        if (writing || self.damaged || !self.settled()) && !planted(Fault::PromiseUnsynced) {
            return;
        }
        self.promise = None;
        let promised = Promised {
            who: self.me,
            epoch: self.durable.promised,
            round,
            history: self.history.clone(),
            synced: self.synced,
            commit: self.durable.commit,
            floor: self.floor,
            lost: self.durable.lost,
            gap: self.durable.gap && !planted(Fault::VoteWithGap),
            lease: self.lease_left(now),
            released: self.released,
        };
        out.push(Effect::Send(from, Message::Promised(Box::new(promised))));
    }

    pub(super) fn lease_left(&self, now: Time) -> LeaseLeft {
        // Leases granted by the run before are not remembered; no release covers them.
        let (round, since) = self
            .lease
            .unwrap_or(((Epoch(u32::MAX), u64::MAX), self.opened));
        LeaseLeft {
            round,
            left_us: self.lease_wait_us.saturating_sub(now.since(since)),
        }
    }

    pub(super) fn begin_sync<P>(&mut self, out: &mut Vec<Effect<P>>) {
        let reached = self.matched.min(self.written);
        let Some(least) = self.sync_least else {
            return;
        };
        let syncing = self
            .pending
            .iter()
            .any(|(_, pending)| matches!(pending, Pending::Sync { .. }));
        if reached < least || syncing {
            return;
        }
        let through = self.written;
        self.sync_least = (self.sync_most > reached).then_some(self.sync_most);
        if self.synced < through {
            let op = self.begin(Pending::Sync { through });
            out.push(Effect::Sync(op));
        }
    }

    pub(super) fn acknowledge<P>(&mut self, behind: bool, out: &mut Vec<Effect<P>>) {
        let Some(writer) = self.writer else {
            return;
        };
        let ack = Ack {
            who: self.me,
            epoch: self.heard.0,
            session: self.heard.1,
            written: self.matched.min(self.written),
            synced: self.matched.min(self.synced),
            lease: self
                .lease
                .filter(|((epoch, _), _)| *epoch == self.durable.promised)
                .map_or(0, |((_, round), _)| round),
            behind,
        };
        if self.acked != Some(ack) {
            self.acked = (!behind).then_some(ack);
            out.push(Effect::Send(writer, Message::Ack(ack)));
        }
    }
}
