//! The single writer of one log under one epoch, from its grant to its end.
//!
//! ```text
//!          promises of a quorum      tail fetched       Start synced on a quorum,
//!          of every set              (if any)           old lease over or released
//! Gathering ─────────────▶ Fetching ─────────▶ Starting ─────────▶ Serving ⇄ Released
//!     ▲                       │                    │                  │  (Yield, Resume)
//!     └── source lost, ───────┘                    └───── a higher epoch in any answer ──▶ Fenced
//!         nothing appended yet                            (from every phase; for good)
//! ```
//!
//! 1. Until Serving nothing is answered. Once Fenced nothing is answered any more.
//! 2. Entries are numbered once and sent in order; a write is answered when a quorum of every set has
//!    it written, a flush when a quorum of every set has synced what was answered before it: `commit`.
//! 3. Every entry above `commit` is in the ring. Its size is bounded by refusing writes.
//! 4. `commit` moves only over entries that end at or above this epoch's Start.
//! 5. Reads are allowed while a quorum of every set has renewed the lease less than a lease ago,
//!    counted from when the renewal was sent.
//! 6. A flush under a poisoned token fails. A flush succeeds under the lease only: who was replaced does
//!    not say that all is synced because it knows of nothing to sync.

mod change;
mod follower;
mod opening;
mod ring;
mod serving;

use crate::fault::{Fault, planted};
use crate::history::History;
use crate::id::{Boot, Epoch, Identity, Lsn, Member, NodeId, Position, Time};
use crate::message::{Ack, Message, Promised, Refusal};
use crate::sets::Sets;
use crate::settings::Settings;
pub use follower::{Follower, Link};
use opening::{Fetching, Gathering, Leases};
use ring::Ring;
use std::collections::{BTreeMap, VecDeque};

/// What the catalog granted: once, to one writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The epoch.
    pub epoch: Epoch,
    /// Every set that may have answered: one, or old and new while a change is under way.
    pub sets: Sets,
    /// The run of each member that the catalog knew; answers of earlier runs do not count.
    pub boots: BTreeMap<Member, Boot>,
}

/// Names one attachment of a volume: the epoch that served when it was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub Epoch);

/// Why a request is not answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denied {
    /// The opening is not done.
    #[error("the log is being opened; try again")]
    Opening,
    /// Too much is not synced yet.
    #[error("too much is waiting to be synced; try again")]
    Full,
    /// The writer was yielded.
    #[error("the log's writer is moving; try again at its new place")]
    Moved,
    /// A higher epoch was granted. Whether the request took effect is not known.
    #[error("a writer with {0} has taken over")]
    Fenced(Epoch),
    /// What this attachment wrote may be lost.
    #[error("writes of this attachment may be lost; attach the disk again")]
    Poisoned,
    /// No quorum renewed the read lease.
    #[error("no quorum of replicas answers; reads wait for one")]
    Unleased,
}

/// What happens to a writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<P> {
    /// Time has passed; see [`Writer::next_wake`].
    Tick,
    /// A message of a replica.
    From(NodeId, Message<P>),
    /// The connection to a node is lost, and with it perhaps what was sent.
    Gone(NodeId),
    /// The holder of the lease before gave it up, told directly.
    Released(Epoch, u64),
    /// Append an entry at [`Writer::end`].
    Write {
        /// Told back.
        id: u64,
        /// How many lsns.
        count: u32,
        /// Bytes of payload.
        bytes: u32,
        /// It.
        payload: P,
    },
    /// Make everything answered durable.
    Flush {
        /// Told back.
        id: u64,
        /// Whose flush.
        token: Token,
    },
    /// May these bytes, read before this event, be shown?
    Read {
        /// Told back.
        id: u64,
        /// The end of the newest entry they show.
        through: Lsn,
    },
    /// The operator or the healer wants this set.
    Change(Vec<Member>),
    /// The catalog recorded these sets.
    Sets(Sets),
    /// Take no more writes, read no more, give up the lease.
    Yield,
    /// The successor did not come; go on.
    Resume,
}

/// What a writer asks its driver for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<P> {
    /// Send.
    Send(NodeId, Message<P>),
    /// The log is open. It begins with what was chosen; see [`Writer::chosen`].
    Serving {
        /// Every answered write is there.
        clean: bool,
        /// Tokens of this epoch and below are poisoned.
        poison: Epoch,
    },
    /// A request is answered.
    Done(u64, Result<(), Denied>),
    /// Give no more writes for now …
    Hold,
    /// … now again.
    Go,
    /// The lease is given up; nothing is read any more. For the successor: (epoch, renewal, end).
    Released(Epoch, u64, Position),
    /// A higher epoch was granted. The writer is at its end.
    Fenced(Epoch),
    /// Record these sets if the recorded version is the one before theirs.
    AskSets(Sets),
    /// The set that was asked for counts, alone.
    Changed(Vec<Member>),
    /// This replica shows less than it had synced: an event, and a disk to look at.
    Distrusted(Member),
    /// Nothing was answered for [`Settings::stall_us`]; these members do not take part.
    Stalled(Vec<Member>),
    /// A replica refused with a contradiction: a bug, or a disk that lies.
    Contradicted(Member),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Gathering(Gathering),
    Fetching(Fetching),
    Starting,
    Serving,
    Released,
    Fenced(Epoch),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WaitingRead {
    id: u64,
    through: Lsn,
    until: Time,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer<P> {
    settings: Settings,
    node: NodeId,
    epoch: Epoch,
    sets: Sets,
    boots: BTreeMap<Member, Boot>,
    followers: BTreeMap<Member, Follower>,
    phase: Phase,
    leases: Leases,
    history: History,
    ring: Ring<P>,
    chosen: Position,
    start_end: Lsn,
    clean: bool,
    answered: Lsn,
    commit: Lsn,
    writes: VecDeque<(u64, Lsn)>,
    flushes: VecDeque<(u64, Lsn)>,
    reads: VecDeque<WaitingRead>,
    sync_wanted: Lsn,
    sync_at: Time,
    lease_after: u64,
    held: bool,
    yielding: bool,
    moved: Time,
    stalled: bool,
    change: change::Change,
}

impl<P: Clone> Writer<P> {
    /// Begins the opening of a log under a grant. The first [`Event::Tick`] sends the promises.
    ///
    /// `node` is where it runs: of equal logs the local one is chosen.
    #[must_use]
    pub fn open(node: NodeId, grant: Grant, settings: Settings, now: Time) -> Self {
        assert!(grant.sets.valid(), "the catalog grants valid sets");
        let followers = grant
            .sets
            .members()
            .into_iter()
            .map(|member| (member, Follower::new(now)))
            .collect();
        Self {
            settings,
            node,
            epoch: grant.epoch,
            sets: grant.sets,
            boots: grant.boots,
            followers,
            phase: Phase::Gathering(Gathering::new(now.0.max(1))),
            leases: Leases::default(),
            history: History::default(),
            ring: Ring::new(Position::ZERO),
            chosen: Position::ZERO,
            start_end: Lsn(u64::MAX),
            clean: false,
            answered: Lsn(0),
            commit: Lsn(0),
            writes: VecDeque::new(),
            flushes: VecDeque::new(),
            reads: VecDeque::new(),
            sync_wanted: Lsn(0),
            sync_at: now,
            lease_after: 0,
            held: false,
            yielding: false,
            moved: now,
            stalled: false,
            change: change::Change::default(),
        }
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where the log ends: the next write begins here.
    #[must_use]
    pub fn end(&self) -> Position {
        self.history.end()
    }

    /// The prefix the opening chose; this epoch's Start follows it.
    #[must_use]
    pub fn chosen(&self) -> Position {
        self.chosen
    }

    /// Every write that ends at or below was answered.
    #[must_use]
    pub fn answered(&self) -> Lsn {
        self.answered
    }

    /// Everything below is synced on a quorum.
    #[must_use]
    pub fn commit(&self) -> Lsn {
        self.commit
    }

    /// Tokens of this epoch and below are poisoned.
    #[must_use]
    pub fn poison(&self) -> Epoch {
        self.history.poison()
    }

    /// The sets that count.
    #[must_use]
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// Whether requests are answered.
    #[must_use]
    pub fn serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// Whether a higher epoch ended it.
    #[must_use]
    pub fn fenced(&self) -> bool {
        matches!(self.phase, Phase::Fenced(_))
    }

    /// Each replica as the writer sees it.
    pub fn followers(&self) -> impl Iterator<Item = (&Member, &Follower)> {
        self.followers.iter()
    }

    /// Bytes and entries that are not committed yet.
    #[must_use]
    pub fn uncommitted(&self) -> (u64, usize) {
        (
            self.ring.bytes_from(self.commit),
            self.ring.count_from(self.commit),
        )
    }

    /// A token for an attachment made now.
    ///
    /// # Errors
    /// Only a serving writer attaches.
    pub fn attach(&self) -> Result<Token, Denied> {
        match &self.phase {
            Phase::Serving => Ok(Token(self.epoch)),
            phase => Err(denial(phase)),
        }
    }

    /// Whether bytes that were read before `now` may be shown.
    #[must_use]
    pub fn leased(&self, now: Time) -> bool {
        !self.yielding && self.lease_lasts(now)
    }

    fn lease_lasts(&self, now: Time) -> bool {
        if self.phase != Phase::Serving {
            return false;
        }
        let round = self
            .sets
            .reached(|member| self.followers.get(member).map_or(0, |f| f.leased));
        planted(Fault::ReadUnleased)
            || (round > self.lease_after && now < Time(round).plus(self.settings.lease_us))
    }

    /// Takes an event; what follows from it is pushed to `out`.
    pub fn apply(&mut self, now: Time, event: Event<P>, out: &mut Vec<Effect<P>>) {
        match event {
            Event::Tick => {}
            Event::From(_, message) => self.hear(now, message, out),
            Event::Gone(node) => self.gone(node),
            Event::Released(epoch, round) => self.leases.release((epoch, round)),
            Event::Write {
                id,
                count,
                bytes,
                payload,
            } => self.write(now, id, count, bytes, payload, out),
            Event::Flush { id, token } => self.flush(now, id, token, out),
            Event::Read { id, through } => self.read(now, id, through, out),
            Event::Change(set) => self.change.want(set),
            Event::Sets(sets) => self.sets_recorded(now, sets, out),
            Event::Yield => self.yield_now(),
            Event::Resume => self.resume(now),
        }
        self.settle(now, out);
    }

    fn hear(&mut self, now: Time, message: Message<P>, out: &mut Vec<Effect<P>>) {
        if self.fenced() {
            return;
        }
        match message {
            Message::Promised(promised) => self.promised(now, *promised, out),
            Message::Refused {
                who,
                epoch,
                promised,
                why,
            } => self.refused(now, who, epoch, promised, why, out),
            Message::Ack(ack) => self.acked(now, &ack),
            Message::Fetched {
                who,
                epoch,
                from,
                entries,
            } => {
                if epoch == self.epoch {
                    self.fetched(now, who, from, entries, out);
                }
            }
            Message::Promise { .. }
            | Message::Append(_)
            | Message::Release { .. }
            | Message::Fetch { .. }
            | Message::Copy { .. } => {}
        }
    }

    /// The disk and run that answers must be one that the catalog knew, or a later run.
    fn known(&self, who: Identity) -> bool {
        let granted = self.boots.get(&who.member);
        self.followers.contains_key(&who.member)
            && (granted.is_none_or(|boot| who.boot >= *boot) || planted(Fault::TrustUnknown))
    }

    fn promised(&mut self, now: Time, promised: Promised, out: &mut Vec<Effect<P>>) {
        if promised.epoch != self.epoch || !self.known(promised.who) {
            return;
        }
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.take(now, promised);
            return;
        }
        if matches!(self.phase, Phase::Fetching(_)) {
            return;
        }
        let fresh = self
            .followers
            .get(&promised.who.member)
            .is_some_and(|follower| {
                follower.link == Link::Away
                    && promised.who.boot >= follower.boot
                    && promised.round > follower.void
            });
        if fresh {
            self.attach_follower(now, &promised, out);
        }
    }

    /// From now on this run of the replica gets entries, or is caught up.
    fn attach_follower(&mut self, now: Time, promised: &Promised, out: &mut Vec<Effect<P>>) {
        let end = self.history.end().lsn;
        let common = self.history.common(&promised.history).lsn;
        let have = common.max(promised.commit.min(self.commit));
        let base = self.ring.base().lsn;
        let have_position = self.history.at(have);
        let Some(follower) = self.followers.get_mut(&promised.who.member) else {
            return;
        };
        let less = have.min(promised.synced) < follower.synced_ever;
        if less && !follower.distrust && !promised.gap {
            out.push(Effect::Distrusted(promised.who.member));
        }
        follower.distrust = less;
        follower.synced_ever = follower.synced_ever.max(have.min(promised.synced));
        follower.boot = promised.who.boot;
        follower.session = promised.round;
        follower.round = follower.round.max(promised.round);
        follower.next = have;
        follower.have = have;
        follower.written = Lsn(0);
        follower.synced = Lsn(0);
        follower.regain = end;
        follower.told_sync = Lsn(0);
        follower.sent = Time(0);
        follower.heard = now;
        follower.moved = now;
        follower.link = if have >= base {
            Link::Streaming
        } else {
            Link::Behind(have_position)
        };
    }

    fn refused(
        &mut self,
        now: Time,
        who: Identity,
        epoch: Epoch,
        promised: Epoch,
        why: Refusal,
        out: &mut Vec<Effect<P>>,
    ) {
        let asked = self.followers.keys().any(|m| m.node == who.member.node);
        if !asked || epoch != self.epoch {
            return;
        }
        // Only a grant makes a promise, so a higher one ends this writer, whoever tells.
        if promised > self.epoch {
            return self.fence(promised, out);
        }
        if matches!(&self.phase, Phase::Fetching(fetching) if fetching.source == who) {
            return self.gather_again(now);
        }
        let Some(follower) = self.followers.get_mut(&who.member) else {
            return;
        };
        if why == Refusal::Contradiction {
            out.push(Effect::Contradicted(who.member));
        }
        if who.boot >= follower.boot && why != Refusal::Unknown {
            follower.detach();
        }
    }

    fn fence(&mut self, by: Epoch, out: &mut Vec<Effect<P>>) {
        self.phase = Phase::Fenced(by);
        let denied = Err(Denied::Fenced(by));
        let waiting = self.writes.drain(..).map(|(id, _)| id);
        let waiting = waiting.chain(self.flushes.drain(..).map(|(id, _)| id));
        let waiting = waiting.chain(self.reads.drain(..).map(|read| read.id));
        for id in waiting {
            out.push(Effect::Done(id, denied));
        }
        self.ring = Ring::new(self.history.end());
        out.push(Effect::Fenced(by));
    }

    fn acked(&mut self, now: Time, ack: &Ack) {
        let (end, base, resend_us) = (
            self.history.end().lsn,
            self.ring.base().lsn,
            self.settings.resend_us,
        );
        let Some(follower) = self.followers.get_mut(&ack.who.member) else {
            return;
        };
        let current = ack.epoch == self.epoch
            && ack.who.boot == follower.boot
            && ack.session >= follower.session
            && follower.link != Link::Away
            && ack.synced <= ack.written
            && ack.written <= end;
        if !current {
            return;
        }
        follower.heard = now;
        follower.leased = follower.leased.max(ack.lease.min(now.0));
        if ack.written > follower.written || ack.synced > follower.synced {
            follower.moved = now;
        }
        follower.written = follower.written.max(ack.written);
        follower.synced = follower.synced.max(ack.synced);
        follower.synced_ever = follower.synced_ever.max(ack.synced);
        if follower.distrust && follower.synced >= follower.regain {
            follower.distrust = false;
        }
        follower.next = follower.next.max(follower.written);
        let have = self.history.at(follower.written);
        match &mut follower.link {
            Link::Behind(_) | Link::Copying { .. } if follower.written >= base => {
                follower.next = follower.written;
                follower.link = Link::Streaming;
            }
            // The ring went on meanwhile: another round.
            Link::Copying { upto, .. } if follower.written >= upto.lsn => {
                follower.link = Link::Behind(have);
            }
            Link::Behind(from) | Link::Copying { from, .. } if from.lsn < have.lsn => *from = have,
            // Out of order rather than lost, most often: it is not all sent again at once.
            Link::Streaming
                if ack.behind
                    && ack.written < follower.next
                    && (now.since(follower.moved) >= resend_us / 4
                        || follower.written == Lsn(0)) =>
            {
                follower.next = follower.written.max(follower.have);
                follower.moved = now;
            }
            _ => {}
        }
    }

    fn gone(&mut self, node: NodeId) {
        for (member, follower) in &mut self.followers {
            if member.node == node {
                follower.detach();
            }
        }
    }

    fn yield_now(&mut self) {
        if self.phase == Phase::Serving {
            self.yielding = true;
        }
    }

    /// Renewals sent before are void: only those sent from now on let it read again.
    fn resume(&mut self, now: Time) {
        self.yielding = false;
        if self.phase == Phase::Released {
            self.phase = Phase::Serving;
            self.lease_after = self.lease_after.max(now.0);
        }
    }
}

fn denial(phase: &Phase) -> Denied {
    match phase {
        Phase::Gathering(_) | Phase::Fetching(_) | Phase::Starting => Denied::Opening,
        Phase::Serving | Phase::Released => Denied::Moved,
        Phase::Fenced(by) => Denied::Fenced(*by),
    }
}

#[cfg(test)]
mod tests;
