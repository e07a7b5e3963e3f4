//! Peers: what nodes of one cluster say to each other, and how a new node comes in.
//!
//! 1. Nothing is read from, or said to, a node that has not shown a certificate of the cluster's CA
//!    which names the cluster and the node id that its hello names. (`trust`, `hello`)
//! 2. A node is spoken to only as the catalog knows it: a member, of that incarnation, at that boot
//!    or a later one, as one process. Copied directories and old boots are refused, in words, at
//!    both ends, and an event says so. (`hello`)
//! 3. Order holds per peer and lane. What was sent before a connection was lost may be lost, and
//!    [`Answers::gone`] says when; what is sent after that travels on the next one. (`link`)
//! 4. Every queue has a bound in bytes. A full one refuses ([`Full`]) or makes the caller wait; it
//!    never drops. (`queue`)
//! 5. A frame whose checksum is wrong ends its connection and is not delivered. (`frame`)
//! 6. A silent peer is noticed within [`Pace::silence`]. (`connection`)
//! 7. A stranger can hold one of a bounded number of half-open connections for a bounded time, and
//!    join with a token that is not expired, not spent and of this cluster; nothing else. (`listener`,
//!    `token`, `join`)
//!
//! A node dials every peer it has something to ask: one connection per lane, requests and messages
//! one way, replies back. Two nodes that talk to each other thus have two connections per lane, and
//! nobody has to decide which of two simultaneous ones stays.
//!
//! ```text
//!   call, send            Link (one per peer and lane)                     Listener
//!   ────────────▶ queue ─▶ hello ─▶ frames, TLS ════════════▶ hello judged ─▶ Answers::call, message
//!                 bytes          ◀════════════ replies ◀── queue ◀──────────────┘
//! ```
//!
//! The transport has a runtime of its own (two threads), because the store blocks (docs/adr/0003).

// The catalog's group and the replicas' driver are built on it; until they are, little of it is used.
#![allow(dead_code, unused_imports)]

mod authority;
mod connection;
mod counters;
mod dial;
mod events;
mod failure;
mod frame;
mod hello;
mod identity;
mod inbound;
mod introduce;
mod join;
mod link;
mod listener;
mod local;
mod options;
mod queue;
mod seal;
mod shared;
#[cfg(test)]
mod tests;
mod token;
mod transport;
mod trust;

pub(crate) use authority::{Advance, Authority, Standing};
pub(crate) use counters::LaneFigures;
pub(crate) use events::{Event, EventKind, Events};
pub(crate) use hello::{ClusterId, Incarnation, Refusal, RefusalCode};
pub(crate) use identity::{Identity, Passport};
pub(crate) use join::{Admission, Gate, Joined, Joiner, MemberAddress};
pub(crate) use local::Switchboard;
pub(crate) use options::{LaneLimits, Options, Pace};
pub(crate) use seal::Seal;
pub(crate) use token::{Shown, Spent, Token, TokenRow};
pub(crate) use transport::Transport;

use crate::{NodeId, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fmt;
use std::time::Duration;

/// Says things to other nodes. The simulator implements it, too.
pub(crate) trait Peers: Send + Sync {
    /// Asks and waits for the answer, at most `patience`. The future may be polled anywhere, in or
    /// out of a runtime. Dropping it withdraws the question (the other side may have acted on it).
    ///
    /// Unavailable: the node cannot be reached (with the reason), the connection was lost, no answer
    /// in time, or no room in the queue in time. Anything else is the other side's own answer.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        body: Body,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes>>;

    /// Sends without an answer: in order per node and lane, never silently lost while connected.
    fn send(&self, to: NodeId, lane: Lane, body: Body) -> Result<(), Full>;
}

/// Hears what other nodes say; one per lane.
pub(crate) trait Answers: Send + Sync {
    /// A question. Many are answered at a time; the future is dropped when the asker withdraws.
    fn call(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes>>;

    /// A message, in the order it was sent. Must not block: it runs on a thread of the transport.
    fn message(&self, from: NodeId, body: Bytes);

    /// The receiver has no room: nothing more is read from this node and lane until the future
    /// ends, and the sender's queue fills. Asked after each message and before each call.
    fn room(&self, from: NodeId) -> Option<BoxFuture<'static, ()>> {
        let _ = from;
        None
    }

    /// A connection with this node was lost, in either direction: what was sent before this call
    /// returns may be lost. What comes from the node after it belongs to a later connection.
    fn gone(&self, node: NodeId);

    /// This node can be sent to: newly connected, or there is room again after a [`Full`].
    fn ready(&self, node: NodeId) {
        let _ = node;
    }
}

/// Who belongs to the cluster, as the catalog knows it.
pub(crate) trait Members: Send + Sync {
    /// What is known of the node; none: it is no member.
    fn member(&self, node: NodeId) -> Option<Member>;
}

/// A node as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Where it listens for peers, `host:port`, the best first.
    pub(crate) addresses: Vec<String>,
    /// Which disk it is: a wiped one comes back as another.
    pub(crate) incarnation: Incarnation,
    /// The last start that it has registered; hellos of an earlier one are refused.
    pub(crate) boot: u64,
}

/// What travels together, in order, on a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Membership, turns, small questions.
    Control,
    /// The catalog's group: votes, entries, snapshots' chunks.
    Raft,
    /// Writer to replica: entries, acks, leases.
    Replica,
    /// Blocks asked of another holder.
    Read,
    /// Healing, catching up, draining: whatever may wait.
    Bulk,
}

impl Lane {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 5] = [
        Self::Control,
        Self::Raft,
        Self::Replica,
        Self::Read,
        Self::Bulk,
    ];

    /// Its number on the wire.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Raft => 1,
            Self::Replica => 2,
            Self::Read => 3,
            Self::Bulk => 4,
        }
    }

    /// The lane of that number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name in figures and events.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Raft => "raft",
            Self::Replica => "replica",
            Self::Read => "read",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What is said: a header, and slices of payload that are not copied together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// Travels first.
    pub(crate) header: Bytes,
    /// Follow in order.
    pub(crate) payload: Vec<Bytes>,
}

impl Body {
    /// A header and what follows it.
    pub(crate) fn new(header: impl Into<Bytes>, payload: Vec<Bytes>) -> Self {
        Self {
            header: header.into(),
            payload,
        }
    }

    /// Bytes of it all.
    pub(crate) fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    /// Its slices, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.header).chain(&self.payload)
    }
}

impl From<Bytes> for Body {
    fn from(header: Bytes) -> Self {
        Self::new(header, Vec::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(header: Vec<u8>) -> Self {
        Self::new(header, Vec::new())
    }
}

/// A message was not taken: back-pressure. [`Answers::ready`] says when to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{to}'s {lane} lane takes no message of {asked} bytes now ({why}); \
     {waiting} of {limit} bytes wait in its queue"
)]
pub(crate) struct Full {
    /// For whom it was.
    pub(crate) to: NodeId,
    /// On which lane.
    pub(crate) lane: Lane,
    /// Bytes of the message with its frame.
    pub(crate) asked: usize,
    /// Bytes that wait or are being written.
    pub(crate) waiting: usize,
    /// Bytes that may wait.
    pub(crate) limit: usize,
    /// Why.
    pub(crate) why: Why,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The queue is full: the other side, or the way to it, is slower than we are.
    Queue,
    /// The node cannot be reached at the moment.
    Unreachable,
    /// It is larger than the lane's frames may be: it will never be taken.
    TooLarge,
    /// No such member, or the transport is stopping.
    NoMember,
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Queue => "the queue is full",
            Self::Unreachable => "the node cannot be reached",
            Self::TooLarge => "it is larger than this lane's frames may be",
            Self::NoMember => "it is no member of the cluster",
        })
    }
}
