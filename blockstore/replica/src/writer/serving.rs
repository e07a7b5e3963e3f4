//! Requests in, entries out, acknowledgements counted, answers given.

use super::{Denied, Effect, Link, Phase, Token, WaitingRead, Writer, denial};
use crate::fault::{Fault, planted};
use crate::id::{Lsn, Member, Position, Time};
use crate::message::{Append, Body, Entry, Message};

/// A replica that says nothing for so many heartbeats is attached anew.
const SILENT_HEARTBEATS: u64 = 6;

impl<P: Clone> Writer<P> {
    pub(super) fn write(
        &mut self,
        now: Time,
        id: u64,
        count: u32,
        bytes: u32,
        payload: P,
        out: &mut Vec<Effect<P>>,
    ) {
        assert!(count > 0, "an entry takes at least one lsn");
        if self.phase != Phase::Serving || self.yielding {
            return out.push(Effect::Done(id, Err(denial(&self.phase))));
        }
        let entry = Entry {
            epoch: self.epoch,
            lsn: self.end().lsn,
            count,
            bytes,
            body: Body::Data(payload),
        };
        let (waiting, entries) = self.uncommitted();
        let bound = self.settings.unsynced_bytes_max;
        if entries >= self.settings.unsynced_entries_max || waiting + entry.weight() > bound {
            return out.push(Effect::Done(id, Err(Denied::Full)));
        }
        if self.writes.is_empty() {
            self.moved = now;
        }
        self.writes.push_back((id, entry.end()));
        self.history.extend(count);
        self.ring.push(entry);
    }

    pub(super) fn flush(&mut self, now: Time, id: u64, token: Token, out: &mut Vec<Effect<P>>) {
        if self.phase != Phase::Serving || self.yielding {
            out.push(Effect::Done(id, Err(denial(&self.phase))));
        } else if token.0 <= self.history.poison() {
            out.push(Effect::Done(id, Err(Denied::Poisoned)));
        } else if self.flushes.len() >= self.settings.waiting_max {
            out.push(Effect::Done(id, Err(Denied::Full)));
        } else {
            if self.flushes.is_empty() {
                self.moved = now;
            }
            self.flushes.push_back((id, self.answered));
            self.want_sync(now, self.answered);
        }
    }

    pub(super) fn read(&mut self, now: Time, id: u64, through: Lsn, out: &mut Vec<Effect<P>>) {
        if self.phase != Phase::Serving || self.yielding {
            out.push(Effect::Done(id, Err(denial(&self.phase))));
        } else if self.reads.len() >= self.settings.waiting_max {
            out.push(Effect::Done(id, Err(Denied::Full)));
        } else {
            self.reads.push_back(WaitingRead {
                id,
                through,
                until: now.plus(self.settings.stall_us),
            });
        }
    }

    fn want_sync(&mut self, now: Time, upto: Lsn) {
        self.sync_wanted = self.sync_wanted.max(upto);
        self.sync_at = now;
    }

    /// What follows from any event.
    pub(super) fn settle(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        self.step_opening(now, out);
        if !matches!(
            self.phase,
            Phase::Starting | Phase::Serving | Phase::Released
        ) {
            return;
        }
        self.count_acks(now, out);
        self.step_change(now, out);
        self.sync_by_itself(now);
        self.answer(now, out);
        self.give_up_lease(now, out);
        self.step_links(now, out);
        self.pump(now, out);
        self.bound(out);
        self.report_stall(now, out);
    }

    fn count_acks(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let of = |member: &Member, synced: bool| {
            self.followers
                .get(member)
                .map_or(0, |f| if synced { f.synced.0 } else { f.written.0 })
        };
        let synced = Lsn(self.sets.reached(|member| of(member, true)));
        let mut written = Lsn(self.sets.reached(|member| of(member, false)));
        if planted(Fault::AnswerAtOne) {
            let most = self.followers.values().map(|f| f.written).max();
            written = most.unwrap_or_default();
        }
        if synced >= self.start_end && synced > self.commit {
            self.commit = synced;
            self.moved = now;
            self.stalled = false;
        }
        let early = planted(Fault::ServeEarly) && written > Lsn(0);
        let lease_over = now >= self.leases.over() || planted(Fault::IgnoreLease);
        if self.phase == Phase::Starting && (self.commit >= self.start_end || early) && lease_over {
            self.phase = Phase::Serving;
            self.moved = now;
            out.push(Effect::Serving {
                clean: self.clean,
                poison: self.history.poison(),
            });
        }
        let serves = matches!(self.phase, Phase::Serving | Phase::Released);
        if serves && written > self.answered {
            self.answered = written;
            self.moved = now;
            self.stalled = false;
        }
    }

    fn sync_by_itself(&mut self, now: Time) {
        let end = self.end().lsn;
        if end <= self.sync_wanted {
            if self.sync_wanted <= self.commit {
                self.sync_at = now;
            }
            return;
        }
        let waiting = self.ring.bytes_from(self.sync_wanted);
        if waiting >= self.settings.sync_bytes || now.since(self.sync_at) >= self.settings.sync_us {
            self.want_sync(now, end);
        }
    }

    /// Yielded: when what was taken is answered, the lease is given up.
    fn give_up_lease(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let answered = self
            .writes
            .back()
            .is_none_or(|(_, end)| *end <= self.answered);
        if !self.yielding || self.phase != Phase::Serving || !answered || !self.flushes.is_empty() {
            return;
        }
        self.yielding = false;
        self.phase = Phase::Released;
        self.lease_after = self.lease_after.max(now.0);
        for read in self.reads.drain(..) {
            out.push(Effect::Done(read.id, Err(Denied::Moved)));
        }
        for member in self.followers.keys() {
            let release = Message::Release {
                epoch: self.epoch,
                round: now.0,
            };
            out.push(Effect::Send(member.node, release));
        }
        out.push(Effect::Released(self.epoch, now.0, self.end()));
    }

    fn answer(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        if self.phase == Phase::Starting {
            return;
        }
        while let Some((id, _)) = self.writes.pop_front_if(|(_, end)| *end <= self.answered) {
            out.push(Effect::Done(id, Ok(())));
        }
        let durable = if planted(Fault::FlushBeforeSync) {
            self.answered
        } else {
            self.commit
        };
        // Under the lease, too: a writer that was replaced would say yes when it has nothing to sync,
        // to a guest that has written through its successor.
        let leased = self.leased(now) || self.yielding && self.lease_lasts(now);
        while let Some((id, _)) = self
            .flushes
            .pop_front_if(|(_, target)| leased && *target <= durable)
        {
            out.push(Effect::Done(id, Ok(())));
        }
        let leased = leased && !self.yielding;
        let answered = self.answered;
        self.reads.retain(|read| {
            let outcome = if leased && read.through <= answered {
                Ok(())
            } else if now >= read.until {
                Err(Denied::Unleased)
            } else {
                return true;
            };
            out.push(Effect::Done(read.id, outcome));
            false
        });
    }

    /// Attaches who is away, and has those caught up that need more than the ring holds.
    fn step_links(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let (base, epoch) = (self.ring.base().lsn, self.epoch);
        let silence = self.settings.heartbeat_us.saturating_mul(SILENT_HEARTBEATS);
        let (retry_us, resend_us) = (self.settings.retry_us, self.settings.resend_us);
        let sources: Vec<(Member, Lsn)> = self
            .followers
            .iter()
            .filter(|(_, follower)| follower.streaming())
            .map(|(member, follower)| (*member, follower.synced))
            .collect();
        for (member, follower) in &mut self.followers {
            if follower.link != Link::Away && now.since(follower.heard) > silence {
                follower.detach();
            }
            if follower.streaming()
                && follower.next > follower.written
                && now.since(follower.moved) >= resend_us
            {
                follower.next = follower.written.max(follower.have);
                follower.moved = now;
            }
            if follower.streaming() && follower.next < base {
                let sure = follower.written.max(follower.have);
                follower.link = Link::Behind(self.history.at(sure));
            }
            let due = now.since(follower.asked) >= retry_us || follower.asked == Time(0);
            match follower.link {
                Link::Away if due => {
                    follower.asked = now;
                    follower.round = now.0.max(follower.round + 1);
                    let promise = Message::Promise {
                        to: *member,
                        epoch,
                        round: follower.round,
                    };
                    out.push(Effect::Send(member.node, promise));
                }
                Link::Behind(from) | Link::Copying { from, .. } if due => {
                    let source = sources
                        .iter()
                        .filter(|(other, synced)| other != member && *synced >= base)
                        .max_by_key(|(_, synced)| *synced);
                    let Some((source, synced)) = source else {
                        continue;
                    };
                    let upto = match follower.link {
                        Link::Copying { upto, .. } if upto.lsn <= *synced => upto,
                        _ => self.history.at(*synced),
                    };
                    follower.asked = now;
                    follower.link = Link::Copying { from, upto };
                    let copy = Message::Copy {
                        to: follower.identity(*member),
                        epoch,
                        session: follower.session,
                        from,
                        upto,
                        source: source.node,
                        runs: self.history.upto(upto.lsn).runs().to_vec(),
                    };
                    out.push(Effect::Send(member.node, copy));
                }
                _ => {}
            }
        }
    }

    fn pump(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let settings = &self.settings;
        let end = self.ring.end().lsn;
        let lease = if self.phase == Phase::Released {
            0
        } else {
            now.0
        };
        for (member, follower) in &mut self.followers {
            if follower.link == Link::Away {
                continue;
            }
            let mut due = follower.sent == Time(0)
                || now.since(follower.sent) >= settings.heartbeat_us
                || follower.streaming() && follower.told_sync < self.sync_wanted;
            loop {
                let floor = self
                    .ring
                    .bytes_before(follower.written.max(self.ring.base().lsn));
                let flying = self.ring.bytes_before(follower.next).saturating_sub(floor);
                let room = flying < settings.window_bytes;
                let more = follower.streaming() && follower.next < end && room;
                if !more && !due {
                    break;
                }
                let (prev, entries) = if more {
                    self.ring.from(follower.next, settings.message_bytes)
                } else if follower.streaming() {
                    (self.ring.from(follower.next, 0).0, Vec::new())
                } else {
                    (Position::ZERO, Vec::new())
                };
                if follower.next == follower.written {
                    follower.moved = now;
                }
                follower.next = entries.last().map_or(follower.next, Entry::end);
                follower.told_sync = self.sync_wanted;
                follower.sent = now;
                due = false;
                let append = Append {
                    to: follower.identity(*member),
                    epoch: self.epoch,
                    session: follower.session,
                    prev,
                    entries,
                    commit: self.commit,
                    sync: self.sync_wanted,
                    lease,
                    regain: follower.regain,
                    distrust: follower.distrust,
                };
                out.push(Effect::Send(member.node, Message::Append(append)));
            }
        }
    }

    /// The ring gives up what nobody needs; writes are held while too much is uncommitted.
    fn bound(&mut self, out: &mut Vec<Effect<P>>) {
        let needed = self
            .followers
            .values()
            .map(|follower| match follower.link {
                // When it comes back it is likely to have that.
                Link::Away => follower.synced_ever,
                _ => follower.synced,
            })
            .min()
            .unwrap_or(self.commit);
        let retained = self.settings.retained_bytes_max;
        if self.commit >= self.start_end {
            self.ring.trim(self.commit, needed, retained);
            self.history.prune(self.commit);
        }
        let (bytes, entries) = self.uncommitted();
        let part = |of: u64| {
            bytes >= self.settings.unsynced_bytes_max / 4 * of
                || entries as u64 >= self.settings.unsynced_entries_max as u64 / 4 * of
        };
        if !self.held && part(3) {
            self.held = true;
            self.sync_wanted = self.sync_wanted.max(self.history.end().lsn);
            out.push(Effect::Hold);
        } else if self.held && !part(2) {
            self.held = false;
            out.push(Effect::Go);
        }
    }

    fn report_stall(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let waiting = !self.writes.is_empty() || !self.flushes.is_empty();
        if waiting && !self.stalled && now.since(self.moved) >= self.settings.stall_us {
            self.stalled = true;
            let answered = self.answered;
            let absent = |member: &Member| {
                let follower = self.followers.get(member);
                follower.is_none_or(|f| !f.streaming() || f.written < answered)
            };
            let missing = self.sets.members().into_iter().filter(absent).collect();
            out.push(Effect::Stalled(missing));
        }
    }

    /// When [`super::Event::Tick`] is due at the latest, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Time {
        let settings = &self.settings;
        match &self.phase {
            Phase::Gathering(gathering) => {
                return gathering.next_wake(settings.retry_us, settings.grace_us);
            }
            Phase::Fetching(fetching) => {
                return fetching.next_wake(settings.retry_us, settings.patience_us);
            }
            Phase::Fenced(_) => return Time(u64::MAX),
            Phase::Starting | Phase::Serving | Phase::Released => {}
        }
        let mut wake = self.change.next_wake(settings.retry_us);
        for follower in self.followers.values() {
            let due = match follower.link {
                Link::Away => follower.asked.plus(settings.retry_us),
                Link::Streaming => follower.sent.plus(settings.heartbeat_us),
                Link::Behind(_) | Link::Copying { .. } => follower
                    .asked
                    .plus(settings.retry_us)
                    .min(follower.sent.plus(settings.heartbeat_us)),
            };
            wake = wake.min(due);
            if follower.streaming() && follower.next > follower.written {
                wake = wake.min(follower.moved.plus(settings.resend_us));
            }
        }
        if self.phase == Phase::Starting && self.commit >= self.start_end {
            wake = wake.min(self.leases.over());
        }
        if self.end().lsn > self.sync_wanted {
            wake = wake.min(self.sync_at.plus(settings.sync_us));
        }
        if let Some(read) = self.reads.front() {
            wake = wake.min(read.until);
        }
        let waiting = !self.writes.is_empty() || !self.flushes.is_empty();
        if waiting && !self.stalled {
            wake = wake.min(self.moved.plus(settings.stall_us));
        }
        wake
    }
}
