//! One replica of one log.
//!
//! ```text
//!            Standing(known), loss noted durably
//! Closed ───────────────────────────────▶ Bound(epoch) ──Promise(higher)──▶ Bound(higher)
//!   │                                        │  ▲ takes entries, syncs, grants leases
//!   │ Standing(unknown): refuses             │  └─ Copy, CopyReady: swap
//!   └───────────────────────────────         └─ disk failed: refuses until opened again
//! ```
//!
//! 1. A promise is synced before it is answered; below it everything is refused: entries, syncs, reads.
//! 2. The log is a prefix of its writer's: entries are taken only behind the position they follow; what
//!    conflicts is cut first, never below what this writer has matched, never below `commit`.
//! 3. An acknowledgement covers what equals the writer's log *and* has been written (synced) here.
//! 4. `lost`: after a run that did not end in order, the replica may lack what it acknowledged as written.
//!    `gap`: it may lack what it acknowledged as synced (rot, a disk put back). Both are durable and end
//!    when the log has reached `regain`, which the writer set after the loss. With a gap it does not vote.
//! 5. Disk operations run in the order they are given out, except that syncs and saves may overlap writes.
//!
//! The driver opens a replica with what its scan found, *after* the surviving tail was written again and
//! synced. It tells [`Event::Standing`] when the catalog has confirmed incarnation and boot.

mod answers;
mod entries;

use crate::fault::{Fault, planted};
use crate::history::{History, Run};
use crate::id::{Boot, Epoch, Identity, Lsn, NodeId, Position, Time};
use crate::message::{Ack, Entry, Message, Refusal};
use crate::settings::Settings;
use std::collections::VecDeque;

/// What a replica keeps beside the log, synced by [`Effect::Save`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    /// Everything below is refused.
    pub promised: Epoch,
    /// Known to be committed; a hint, it may lag.
    pub commit: Lsn,
    /// It may lack entries acknowledged as written.
    pub lost: bool,
    /// It may lack entries acknowledged as synced.
    pub gap: bool,
}

impl Durable {
    /// What must be saved and synced before a replica is opened after a run that ended so: a loss that
    /// is not noted would be forgotten by the next end.
    #[must_use]
    pub fn after(self, ended: Ended) -> Self {
        let lost = ended != Ended::Whole && !planted(Fault::ForgetLoss);
        Self {
            lost: self.lost || lost,
            gap: self.gap || ended == Ended::Damaged,
            ..self
        }
    }
}

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// In order, or only the process ended: everything that was written is still there.
    Whole,
    /// What was not synced may be lost.
    Abruptly,
    /// What was synced is damaged: the log found is what lies below the damage.
    Damaged,
}

/// What the catalog says of this node's disk and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not asked yet, or not answered.
    Unasked,
    /// Known.
    Known,
    /// Another disk or another run is known: this one was wiped, copied or rolled back.
    Unknown,
}

/// A disk operation, named by the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub u64);

/// What happens to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<P> {
    /// The catalog's word on this disk and run.
    Standing(Standing),
    /// A message of a writer.
    From(NodeId, Message<P>),
    /// A disk operation is done.
    Done(Op),
    /// A disk operation failed.
    Failed(Op),
    /// The entries asked for by [`Effect::Read`] (some of them, from the first on).
    Read {
        /// Who wants them.
        to: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// They follow this.
        from: Position,
        /// In order.
        entries: Vec<Entry<P>>,
    },
    /// The copy asked for by [`Effect::Copy`] is built aside and synced.
    CopyReady(Position),
    /// It could not be made.
    CopyFailed(Position),
    /// Synced bytes of the log are damaged and could not be healed in place; below here all is sound.
    Rot(Lsn),
    /// Entries below are no longer kept as entries.
    Floor(Lsn),
}

/// What a replica asks its driver for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<P> {
    /// Send.
    Send(NodeId, Message<P>),
    /// Write and sync this, instead of what was saved before.
    Save(Op, Durable),
    /// write(2) these entries behind the others.
    Append(Op, Vec<Entry<P>>),
    /// Cut the log here; it must never return. Durable with the next sync.
    Cut(Op, Position),
    /// Sync everything that was written when this was asked.
    Sync(Op),
    /// Read entries for an opening.
    Read {
        /// Who wants them.
        to: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// They follow this.
        from: Position,
        /// Up to there.
        upto: Position,
        /// About so many bytes.
        bytes_max: u64,
    },
    /// Build aside: every leaf version newer than `from` as of `upto`, from `source`; sync; say CopyReady.
    Copy {
        /// What is here.
        from: Position,
        /// What shall be.
        upto: Position,
        /// Where to take it.
        source: NodeId,
    },
    /// Put what was built aside in place, atomically and durably; the log now ends at the position.
    Swap(Op, Position, Vec<Run>),
    /// Throw away what was built aside.
    DropCopy(Position),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pending {
    Append { end: Lsn },
    Cut,
    Sync { through: Lsn },
    Save { durable: Durable },
    Swap { end: Lsn },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copying {
    epoch: Epoch,
    upto: Position,
    runs: Vec<Run>,
    swapping: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    me: Identity,
    lease_wait_us: u64,
    opened: Time,
    standing: Standing,
    failed: bool,
    durable: Durable,
    saved: Durable,
    /// The log as it will be when the pending operations are done.
    history: History,
    written: Lsn,
    synced: Lsn,
    floor: Lsn,
    /// Everything below equals the log of the writer of the promised epoch.
    matched: Lsn,
    /// Committed, as that writer says.
    commit: Lsn,
    /// Who that is, once it has spoken.
    writer: Option<NodeId>,
    regain: Lsn,
    /// Damage was found and is not cut away yet.
    damaged: bool,
    sync_least: Option<Lsn>,
    sync_most: Lsn,
    lease: Option<((Epoch, u64), Time)>,
    released: (Epoch, u64),
    pending: VecDeque<(Op, Pending)>,
    next_op: u64,
    promise: Option<(NodeId, u64)>,
    /// The last Promise. Entries are taken only from a writer that has heard an answer.
    session: (Epoch, u64),
    /// Answers to Promises up to this round say nothing any more: the log lost something since.
    void: u64,
    /// Epoch and session of the last message taken.
    heard: (Epoch, u64),
    copying: Option<Copying>,
    acked: Option<Ack>,
}

/// Most disk operations under way; beyond, entries are dropped and the writer sends them again.
const PENDING_MAX: usize = 256;

impl Replica {
    /// Opens a replica over what its scan found: the surviving log, written again and synced, and what
    /// [`Durable::after`] said, saved.
    #[must_use]
    pub fn open(
        me: Identity,
        settings: &Settings,
        now: Time,
        saved: Durable,
        history: History,
    ) -> Self {
        let mut durable = saved;
        let end = history.end().lsn;
        durable.commit = durable.commit.min(end);
        Self {
            me,
            lease_wait_us: settings.lease_wait_us(),
            opened: now,
            standing: Standing::Unasked,
            failed: false,
            durable,
            saved,
            history,
            written: end,
            synced: end,
            floor: Lsn(0),
            matched: Lsn(0),
            commit: Lsn(0),
            writer: None,
            regain: Lsn(u64::MAX),
            damaged: false,
            sync_least: None,
            sync_most: Lsn(0),
            lease: None,
            released: (Epoch(0), 0),
            pending: VecDeque::new(),
            next_op: 0,
            promise: None,
            session: (Epoch(0), 0),
            void: 0,
            heard: (Epoch(0), 0),
            copying: None,
            acked: None,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.me
    }

    /// The epoch below which it refuses.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.durable.promised
    }

    /// Whether its disk failed: it refuses until it is opened again.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Its log, with what is still being written.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// (matched, written, synced) of the promised epoch.
    #[must_use]
    pub fn progress(&self) -> (Lsn, Lsn, Lsn) {
        (self.matched, self.written, self.synced)
    }

    /// What it keeps beside the log.
    #[must_use]
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// Whether it may serve a read of this writer now.
    ///
    /// # Errors
    /// Refused below the promise, by an unknown or failed replica, and where it doesn't hold the position.
    pub fn may_read(&self, epoch: Epoch, upto: Position) -> Result<(), Refusal> {
        self.admit(epoch)?;
        if upto.lsn <= self.written && self.history.contains(upto) {
            Ok(())
        } else {
            Err(Refusal::Absent)
        }
    }

    fn admit(&self, epoch: Epoch) -> Result<(), Refusal> {
        if self.failed {
            Err(Refusal::Failed)
        } else if self.standing != Standing::Known {
            Err(Refusal::Unknown)
        } else if epoch < self.durable.promised && !planted(Fault::AcceptStale) {
            Err(Refusal::Stale)
        } else if epoch > self.durable.promised {
            Err(Refusal::Unpromised)
        } else {
            Ok(())
        }
    }

    /// Whether its promise is synced and its losses are noted. That a loss is made good may wait.
    fn settled(&self) -> bool {
        let (saved, durable) = (self.saved, self.durable);
        saved.promised == durable.promised && saved.lost >= durable.lost && saved.gap >= durable.gap
    }

    /// Takes an event; what follows from it is pushed to `out`.
    pub fn apply<P: Clone>(&mut self, now: Time, event: Event<P>, out: &mut Vec<Effect<P>>) {
        if self.failed {
            if let Event::From(from, message) = event {
                self.refuse_any(from, &message, Refusal::Failed, out);
            }
            return;
        }
        match event {
            Event::Standing(standing) => {
                let trusts = planted(Fault::TrustUnknown);
                self.standing = if trusts { Standing::Known } else { standing };
                self.save_if_changed(out);
            }
            Event::From(from, message) => self.hear(now, from, message, out),
            Event::Done(op) => self.done(op, out),
            Event::Failed(op) => {
                if self.pending.iter().any(|(pending, _)| *pending == op) {
                    self.failed = true;
                    self.pending.clear();
                    return;
                }
            }
            Event::Read {
                to,
                epoch,
                from,
                entries,
            } => {
                if self.admit(epoch).is_ok() {
                    let who = self.me;
                    out.push(Effect::Send(
                        to,
                        Message::Fetched {
                            who,
                            epoch,
                            from,
                            entries,
                        },
                    ));
                }
            }
            Event::CopyReady(upto) => self.copy_ready(upto, out),
            Event::CopyFailed(upto) => {
                self.copying.take_if(|copying| copying.upto == upto);
            }
            Event::Rot(sound) => self.rot(sound, out),
            Event::Floor(floor) => self.floor = self.floor.max(floor),
        }
        self.advance(now, out);
    }

    fn hear<P: Clone>(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message<P>,
        out: &mut Vec<Effect<P>>,
    ) {
        // For another disk that this node had: not for us to answer, but for whom to stop.
        let other = match &message {
            Message::Promise { to, epoch, .. } => Some((*to, *epoch)),
            Message::Append(append) => Some((append.to.member, append.epoch)),
            Message::Fetch { to, epoch, .. } | Message::Copy { to, epoch, .. } => {
                Some((to.member, *epoch))
            }
            _ => None,
        };
        if let Some((_, epoch)) = other.filter(|(to, _)| *to != self.me.member) {
            if epoch < self.durable.promised {
                self.refuse(from, epoch, Refusal::Stale, out);
            }
            return;
        }
        match message {
            Message::Promise { epoch, round, .. } => {
                if self.standing != Standing::Known {
                    self.refuse(from, epoch, Refusal::Unknown, out);
                } else if epoch < self.durable.promised {
                    self.refuse(from, epoch, Refusal::Stale, out);
                } else {
                    self.promise(from, epoch, round, out);
                }
            }
            Message::Append(append) => match self.admit_to(append.to, append.epoch) {
                Ok(())
                    if append.epoch > self.session.0
                        || append.epoch == self.session.0 && append.session <= self.void =>
                {
                    self.refuse(from, append.epoch, Refusal::Unpromised, out);
                }
                Ok(()) => self.append(now, from, &append, out),
                Err(why) => self.refuse(from, append.epoch, why, out),
            },
            Message::Fetch {
                to,
                epoch,
                from: after,
                upto,
                bytes_max,
            } => {
                let held = self.admit_to(to, epoch).and_then(|()| {
                    let held = after.lsn >= self.floor
                        && self.history.contains(after)
                        && self.history.contains(upto)
                        && upto.lsn <= self.written;
                    if held { Ok(()) } else { Err(Refusal::Absent) }
                });
                match held {
                    Ok(()) => out.push(Effect::Read {
                        to: from,
                        epoch,
                        from: after,
                        upto,
                        bytes_max,
                    }),
                    Err(why) => self.refuse(from, epoch, why, out),
                }
            }
            Message::Copy {
                to,
                epoch,
                session,
                from: have,
                upto,
                source,
                runs,
            } => match self.admit_to(to, epoch) {
                Ok(()) if epoch != self.session.0 || session <= self.void => {
                    self.refuse(from, epoch, Refusal::Unpromised, out);
                }
                Ok(()) => {
                    self.heard.1 = self.heard.1.max(session);
                    self.copy(from, epoch, have, upto, source, runs, out);
                }
                Err(why) => self.refuse(from, epoch, why, out),
            },
            Message::Release { epoch, round } => {
                self.released = self.released.max((epoch, round));
            }
            Message::Promised(_)
            | Message::Refused { .. }
            | Message::Ack(_)
            | Message::Fetched { .. } => {}
        }
    }

    fn admit_to(&self, to: Identity, epoch: Epoch) -> Result<(), Refusal> {
        if to != self.me {
            return Err(Refusal::Elsewhere);
        }
        self.admit(epoch)
    }

    fn refuse<P>(&self, to: NodeId, epoch: Epoch, why: Refusal, out: &mut Vec<Effect<P>>) {
        let refused = Message::Refused {
            who: self.me,
            epoch,
            promised: self.durable.promised,
            why,
        };
        out.push(Effect::Send(to, refused));
    }

    fn refuse_any<P>(
        &self,
        to: NodeId,
        message: &Message<P>,
        why: Refusal,
        out: &mut Vec<Effect<P>>,
    ) {
        match message {
            Message::Promise { epoch, .. }
            | Message::Fetch { epoch, .. }
            | Message::Copy { epoch, .. } => self.refuse(to, *epoch, why, out),
            Message::Append(append) => self.refuse(to, append.epoch, why, out),
            _ => {}
        }
    }

    fn promise<P>(&mut self, from: NodeId, epoch: Epoch, round: u64, out: &mut Vec<Effect<P>>) {
        if epoch > self.durable.promised {
            self.durable.promised = epoch;
            self.matched = Lsn(0);
            self.commit = Lsn(0);
            self.writer = None;
            self.regain = Lsn(u64::MAX);
            self.sync_least = None;
            self.sync_most = Lsn(0);
            self.acked = None;
            if let Some(copying) = self.copying.take_if(|copying| !copying.swapping) {
                out.push(Effect::DropCopy(copying.upto));
            }
            self.save_if_changed(out);
        }
        // Only one writer has this epoch; if it asks again, the last question is answered.
        if epoch > self.session.0 {
            self.session = (epoch, round);
            self.void = 0;
            self.heard = (epoch, 0);
        }
        if round <= self.void {
            return;
        }
        self.session.1 = self.session.1.max(round);
        self.promise = Some((from, round));
    }

    fn save_if_changed<P>(&mut self, out: &mut Vec<Effect<P>>) {
        let kept = |durable: Durable| (durable.promised, durable.lost, durable.gap);
        let durable = self.durable;
        if self.standing != Standing::Known || kept(self.saved) == kept(durable) {
            return;
        }
        let saving = self
            .pending
            .iter()
            .rev()
            .find_map(|(_, pending)| match pending {
                Pending::Save { durable } => Some(*durable),
                _ => None,
            });
        if saving.map(kept) != Some(kept(durable)) {
            let op = self.begin(Pending::Save { durable });
            out.push(Effect::Save(op, durable));
        }
    }

    fn begin(&mut self, pending: Pending) -> Op {
        self.next_op += 1;
        let op = Op(self.next_op);
        self.pending.push_back((op, pending));
        op
    }

    /// Its boot.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.me.boot
    }
}
