//! What writer and replicas say to one another. The bytes are in [`crate::codec`].
//!
//! ```text
//! writer                          replica
//!   │ Promise(epoch) ───────────────▶│ syncs the promise
//!   │◀─────────────── Promised(log)  │ … or Refused(higher epoch)
//!   │ Fetch(from, upto) ────────────▶│ an opening only
//!   │◀────────────── Fetched(entries)│
//!   │ Append(prev, entries, commit, sync, lease) ─▶│ checks prev, writes, syncs when asked
//!   │◀──── Ack(written, synced, lease)│
//!   │ Copy(from, upto, source) ─────▶│ builds aside from leaf versions, swaps, answers by Ack
//!   │ Release ──────────────────────▶│
//! ```
//! Messages may be lost, doubled, late and out of order; connections give order, the core needs none.

use crate::history::{History, Run};
use crate::id::{Epoch, Identity, Lsn, Member, NodeId, Position};

/// The first entry of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Start {
    /// The end of the log that the opening chose.
    pub previous: Position,
    /// The opening was unclean, or followed an unclean one: tokens given under this epoch or below
    /// are poisoned, their flushes fail. It only grows along a log.
    pub poison: Epoch,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body<P> {
    /// A writer begins.
    Start(Start),
    /// Anything else; the core does not look into it.
    Data(P),
}

/// One entry of the log. It takes `count` lsns from `lsn` on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry<P> {
    /// Whose.
    pub epoch: Epoch,
    /// Its first lsn.
    pub lsn: Lsn,
    /// How many it takes, at least one.
    pub count: u32,
    /// Bytes of payload, for the bounds.
    pub bytes: u32,
    /// What it is.
    pub body: Body<P>,
}

impl<P> Entry<P> {
    /// Where it ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.count)))
    }

    /// What it counts against the bounds: an entry without payload costs something, too.
    pub fn weight(&self) -> u64 {
        u64::from(self.bytes) + 64
    }

    /// The prefix that ends with it.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            lsn: self.end(),
        }
    }
}

/// The last renewal of a read lease that a replica granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseLeft {
    /// Whose lease, and which renewal (the holder's clock when it asked).
    pub round: (Epoch, u64),
    /// At most this much of it is left, in microseconds of the replica's clock.
    pub left_us: u64,
}

/// A replica's answer to Promise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promised {
    /// Who answers.
    pub who: Identity,
    /// What it promised, durably.
    pub epoch: Epoch,
    /// Echo.
    pub round: u64,
    /// Its log.
    pub history: History,
    /// Everything below is synced.
    pub synced: Lsn,
    /// Everything below is known to be committed.
    pub commit: Lsn,
    /// It can still ship entries from here on.
    pub floor: Lsn,
    /// It may lack entries that it acknowledged as written.
    pub lost: bool,
    /// It may lack entries that it acknowledged as synced: it does not vote.
    pub gap: bool,
    /// The lease that it granted last and that may still be used.
    pub lease: LeaseLeft,
    /// Leases up to this (epoch, renewal) have been given up by their holders.
    pub released: (Epoch, u64),
}

/// Why a replica refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It promised a higher epoch.
    #[error("a writer with a higher epoch has taken over")]
    Stale,
    /// The message is for another run or another disk of this node.
    #[error("the replica is in another run, or on another disk")]
    Elsewhere,
    /// The catalog has not confirmed the node's incarnation and boot, or said that they are not known.
    #[error("the catalog does not know this disk and run of the node")]
    Unknown,
    /// It has not promised this epoch yet.
    #[error("the replica has not promised this epoch")]
    Unpromised,
    /// A write or sync failed; it refuses until it is opened again.
    #[error("the replica's disk failed; it refuses until it is opened again")]
    Failed,
    /// It does not hold what was asked for.
    #[error("the replica does not hold these entries")]
    Absent,
    /// The message contradicts what is committed or what its sender said before.
    #[error("the message contradicts the log")]
    Contradiction,
}

/// Entries, or none: then a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append<P> {
    /// To whom.
    pub to: Identity,
    /// By whose grant.
    pub epoch: Epoch,
    /// The round of the Promise whose answer the writer goes by.
    pub session: u64,
    /// The entries follow this.
    pub prev: Position,
    /// In order, without a gap.
    pub entries: Vec<Entry<P>>,
    /// Everything below is committed.
    pub commit: Lsn,
    /// Please sync everything below.
    pub sync: Lsn,
    /// A renewal of the read lease: the writer's clock when it asked; 0 for none.
    pub lease: u64,
    /// With everything below, the replica lacks nothing that it ever acknowledged.
    pub regain: Lsn,
    /// The writer remembers that this replica had synced more than it shows: it must not vote until then.
    pub distrust: bool,
}

/// A replica's answer to Append and Copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Who answers.
    pub who: Identity,
    /// To which writer.
    pub epoch: Epoch,
    /// The session of the last message it took.
    pub session: u64,
    /// Everything below equals the writer's log and has left through write(2).
    pub written: Lsn,
    /// Everything below equals the writer's log and is synced.
    pub synced: Lsn,
    /// The last renewal of the read lease it has seen.
    pub lease: u64,
    /// It lacks what precedes the entries: send again from `written`.
    pub behind: bool,
}

/// Everything that goes between a writer and a replica of one log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message<P> {
    /// Refuse everything below this epoch from now on, and say what you have.
    Promise {
        /// To whom.
        to: Member,
        /// The grant.
        epoch: Epoch,
        /// Told back in the answer.
        round: u64,
    },
    /// The answer.
    Promised(Box<Promised>),
    /// No.
    Refused {
        /// Who refuses.
        who: Identity,
        /// The epoch it was asked under.
        epoch: Epoch,
        /// The epoch it promised.
        promised: Epoch,
        /// Why.
        why: Refusal,
    },
    /// Entries.
    Append(Append<P>),
    /// How far the replica is.
    Ack(Ack),
    /// The writer reads no more under renewals up to this one.
    Release {
        /// Whose lease.
        epoch: Epoch,
        /// Which renewal.
        round: u64,
    },
    /// Entries wanted, for an opening.
    Fetch {
        /// To whom.
        to: Identity,
        /// The opening's epoch.
        epoch: Epoch,
        /// They follow this.
        from: Position,
        /// Up to there.
        upto: Position,
        /// About so many bytes at once.
        bytes_max: u64,
    },
    /// Entries.
    Fetched {
        /// Who answers.
        who: Identity,
        /// The opening's epoch.
        epoch: Epoch,
        /// They follow this.
        from: Position,
        /// In order, without a gap; not necessarily all.
        entries: Vec<Entry<P>>,
    },
    /// Take every leaf version newer than `from` as of `upto` from `source`: too far behind for entries.
    Copy {
        /// To whom.
        to: Identity,
        /// By whose grant.
        epoch: Epoch,
        /// As in Append.
        session: u64,
        /// What the replica has and the writer's log, too.
        from: Position,
        /// What it will have; the source has synced it.
        upto: Position,
        /// Where to take it.
        source: NodeId,
        /// The runs of the writer's log up to there.
        runs: Vec<Run>,
    },
}
