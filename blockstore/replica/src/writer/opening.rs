//! Taking a log over: which prefix is the log, and when it may be served.
//!
//! 1. Asked are the members of every set that may have answered; needed is a quorum of each, counting
//!    only replicas without a gap, in a run that the catalog knows. Each has synced its promise first.
//! 2. Chosen is the highest (epoch of last entry, lsn) among them. It holds everything that was ever
//!    committed: some quorum had synced that, one of them is here, and a later epoch's log holds it, too.
//! 3. Clean: a quorum of every set says that it lost nothing it acknowledged. Then everything *answered*
//!    is in the chosen log, or an earlier opening poisoned it. Else this opening poisons every token
//!    before it. The poison is written into Start, so an opening that died on the way still counts.
//! 4. What is not synced everywhere is fetched first: a source that loses it later does no harm.
//! 5. Another choice may be made only while nothing was appended under this epoch.
//! 6. Served is when Start is synced on a quorum and the last lease of the writer before has ended: each
//!    quorum of promises includes a replica of each quorum that renewed, and that one knows how long.

use super::{Effect, Link, Phase, Writer};
use crate::fault::{Fault, planted};
use crate::history::History;
use crate::id::{Epoch, Identity, Lsn, Member, Position, Time};
use crate::message::{Body, Entry, LeaseLeft, Message, Promised, Start};
use crate::writer::ring::Ring;
use std::collections::BTreeMap;

/// Promises under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Gathering {
    round: u64,
    asked: Option<Time>,
    promises: BTreeMap<Member, (Time, Promised)>,
    quorum_since: Option<Time>,
}

impl Gathering {
    pub(super) fn new(round: u64) -> Self {
        Self {
            round,
            asked: None,
            promises: BTreeMap::new(),
            quorum_since: None,
        }
    }

    pub(super) fn take(&mut self, now: Time, promised: Promised) {
        let known = self.promises.get(&promised.who.member);
        let later = known.is_none_or(|(_, known)| known.who.boot <= promised.who.boot);
        if promised.round == self.round && later {
            self.promises.insert(promised.who.member, (now, promised));
        }
    }

    pub(super) fn next_wake(&self, retry_us: u64, grace_us: u64) -> Time {
        let retry = self.asked.map_or(Time(0), |asked| asked.plus(retry_us));
        self.quorum_since
            .map_or(retry, |since| retry.min(since.plus(grace_us)))
    }
}

/// The chosen tail on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fetching {
    pub(super) source: Identity,
    round: u64,
    upto: Position,
    asked: Option<Time>,
    moved: Time,
    promises: BTreeMap<Member, (Time, Promised)>,
    poison: Epoch,
}

impl Fetching {
    pub(super) fn next_wake(&self, retry_us: u64, patience_us: u64) -> Time {
        let retry = self.asked.map_or(Time(0), |asked| asked.plus(retry_us));
        retry.min(self.moved.plus(patience_us))
    }
}

/// Leases that the writers before may still use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Leases {
    until: Vec<((Epoch, u64), Time)>,
    released: (Epoch, u64),
}

impl Leases {
    pub(super) fn release(&mut self, round: (Epoch, u64)) {
        self.released = self.released.max(round);
    }

    fn take(&mut self, heard: Time, left: LeaseLeft, released: (Epoch, u64)) {
        self.release(released);
        self.until.push((left.round, heard.plus(left.left_us)));
    }

    /// When the last of them has ended for sure.
    pub(super) fn over(&self) -> Time {
        self.until
            .iter()
            .filter(|(round, _)| *round > self.released)
            .map(|(_, until)| *until)
            .max()
            .unwrap_or_default()
    }
}

impl<P: Clone> Writer<P> {
    pub(super) fn step_opening(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        match &self.phase {
            Phase::Gathering(_) => self.step_gathering(now, out),
            Phase::Fetching(_) => self.step_fetching(now, out),
            _ => {}
        }
    }

    fn step_gathering(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let retry_us = self.settings.retry_us;
        let Phase::Gathering(gathering) = &mut self.phase else {
            return;
        };
        if gathering
            .asked
            .is_none_or(|asked| now.since(asked) >= retry_us)
        {
            gathering.asked = Some(now);
            for member in self.followers.keys() {
                if !gathering.promises.contains_key(member) {
                    let promise = Message::Promise {
                        to: *member,
                        epoch: self.epoch,
                        round: gathering.round,
                    };
                    out.push(Effect::Send(member.node, promise));
                }
            }
        }
        let votes = |member: &Member, lossless: bool| {
            let promise = gathering.promises.get(member);
            promise.is_some_and(|(_, promised)| !(promised.gap || lossless && promised.lost))
        };
        if !self.sets.quorum(|member| votes(member, false)) {
            gathering.quorum_since = None;
            return;
        }
        let since = *gathering.quorum_since.get_or_insert(now);
        let clean = self.sets.quorum(|member| votes(member, true)) || planted(Fault::AlwaysClean);
        let all = gathering.promises.len() == self.followers.len();
        if clean || all || now.since(since) >= self.settings.grace_us {
            self.choose(now, clean, out);
        }
    }

    fn choose(&mut self, now: Time, clean: bool, out: &mut Vec<Effect<P>>) {
        let Phase::Gathering(gathering) = &mut self.phase else {
            return;
        };
        let promises = std::mem::take(&mut gathering.promises);
        let round = gathering.round;
        let voters = || {
            promises
                .values()
                .map(|(_, promised)| promised)
                .filter(|promised| !promised.gap)
        };
        let rank = |promised: &&Promised| {
            let local = promised.who.member.node == self.node;
            (promised.history.end(), local, promised.synced)
        };
        let best = if planted(Fault::ChooseLowest) {
            voters().min_by_key(rank)
        } else {
            voters().max_by_key(rank)
        };
        let Some(best) = best else {
            return;
        };
        let poison = if clean {
            best.history.poison()
        } else {
            Epoch(self.epoch.0 - 1)
        };
        let from = self.fetch_from(best, voters());
        self.history = best.history.clone();
        self.chosen = best.history.end();
        self.clean = clean;
        self.ring = Ring::new(self.history.at(from));
        let fetching = Fetching {
            source: best.who,
            round,
            upto: self.chosen,
            asked: None,
            moved: now,
            poison,
            promises: BTreeMap::new(),
        };
        self.phase = Phase::Fetching(Fetching {
            promises,
            ..fetching
        });
        self.step_fetching(now, out);
    }

    /// The lowest lsn that any voter shares with the chosen log and has synced, as far as the source
    /// can ship it and the ring may hold it. Who is further behind is caught up by leaf versions.
    fn fetch_from<'a>(&self, best: &Promised, voters: impl Iterator<Item = &'a Promised>) -> Lsn {
        let end = best.history.end().lsn;
        let bytes_max = self
            .settings
            .unsynced_bytes_max
            .saturating_add(self.settings.retained_bytes_max);
        let lowest = end.0.saturating_sub(bytes_max / 4096).max(best.floor.0);
        voters
            .map(|promised| {
                let common = best.history.common(&promised.history).lsn;
                common.max(promised.commit).min(promised.synced)
            })
            .filter(|from| from.0 >= lowest)
            .min()
            .map_or(end, |from| from.min(end))
    }

    fn step_fetching(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let at = self.ring.end();
        let Phase::Fetching(fetching) = &mut self.phase else {
            return;
        };
        if at == fetching.upto {
            return self.start(now, out);
        }
        if now.since(fetching.moved) >= self.settings.patience_us {
            return self.gather_again(now);
        }
        if fetching
            .asked
            .is_none_or(|asked| now.since(asked) >= self.settings.retry_us)
        {
            fetching.asked = Some(now);
            let fetch = Message::Fetch {
                to: fetching.source,
                epoch: self.epoch,
                from: at,
                upto: fetching.upto,
                bytes_max: self.settings.message_bytes,
            };
            out.push(Effect::Send(fetching.source.member.node, fetch));
        }
    }

    pub(super) fn fetched(
        &mut self,
        now: Time,
        who: Identity,
        from: Position,
        entries: Vec<Entry<P>>,
        out: &mut Vec<Effect<P>>,
    ) {
        let Phase::Fetching(fetching) = &mut self.phase else {
            return;
        };
        if who != fetching.source || from != self.ring.end() {
            return;
        }
        for entry in entries {
            let held = entry.count > 0
                && self.history.holds(entry.epoch, entry.lsn, entry.end())
                && entry.lsn == self.ring.end().lsn;
            if !held {
                return self.gather_again(now);
            }
            self.ring.push(entry);
            fetching.moved = now;
        }
        fetching.asked = None;
        self.step_fetching(now, out);
    }

    /// Nothing was appended under this epoch yet, so another quorum may choose otherwise.
    pub(super) fn gather_again(&mut self, now: Time) {
        let Phase::Fetching(fetching) = &self.phase else {
            return;
        };
        let round = now.0.max(fetching.round + 1);
        self.phase = Phase::Gathering(Gathering::new(round));
        self.history = History::default();
        self.ring = Ring::new(Position::ZERO);
        self.chosen = Position::ZERO;
    }

    fn start(&mut self, now: Time, out: &mut Vec<Effect<P>>) {
        let Phase::Fetching(fetching) = std::mem::replace(&mut self.phase, Phase::Starting) else {
            return;
        };
        let previous = self.history.end();
        assert_eq!(
            previous, self.chosen,
            "Start follows what the opening chose"
        );
        let entry = Entry {
            epoch: self.epoch,
            lsn: previous.lsn,
            count: 1,
            bytes: 0,
            body: Body::Start(Start {
                previous,
                poison: fetching.poison,
            }),
        };
        self.history.start(self.epoch, fetching.poison);
        self.start_end = entry.end();
        self.sync_wanted = entry.end();
        self.ring.push(entry);
        for (heard, promised) in fetching.promises.values() {
            self.commit = self.commit.max(promised.commit);
            self.leases.take(*heard, promised.lease, promised.released);
        }
        self.commit = self.commit.min(self.chosen.lsn);
        self.moved = now;
        for (heard, promised) in fetching.promises.values() {
            self.attach_follower(*heard, promised, out);
        }
        for follower in self.followers.values_mut() {
            if follower.link == Link::Away {
                follower.asked = Time(0);
            }
        }
    }
}
