//! One log's replication as state machines: no I/O, clock, threads or randomness of their own.
//!
//! An event goes in with the time, effects come out; a driver carries them to disks, the transport and
//! the catalog. The same machines run under the seeded simulation beside them.
//!
//! ```text
//!  catalog ──Grant(epoch, sets)──▶ Writer ──Append, Promise──▶ Replica ──Append, Sync, Save──▶ disk
//!     ▲                              │  ◀──Ack, Promised────────┘   (one for each member, one may be
//!     └────────AskSets───────────────┘                               the writer's own node)
//!  Standby ──AskGrant──▶ catalog          (the other side of a handover)
//! ```
//!
//! The rules, by the numbers of the design:
//!
//! - 1: an epoch is granted once; a replica syncs its promise, then refuses less on write, flush and read
//!   ([`replica`]).
//! - 2: a replica's log is a prefix of its writer's: entries follow a named position ([`history`]).
//! - 3: a write is answered when a quorum has written, a flush when a quorum has synced ([`writer`]).
//! - 4: everything above `commit` is kept and sent again to who restarts, within a bound.
//! - 7: reads only under a lease; an opening waits it out or takes its release.
//! - 10: only a disk and run that the catalog knows, without a gap, vote.
//! - 11, 12: the highest end of a quorum of every set is the log; an opening that cannot rule out a lost
//!   answer poisons every token before it.
//!
//! What the driver owes the core:
//!
//! 1. Node ids are never reused. A node's boot number is asked from the catalog, which confirms n + 1
//!    to who shows n, once; the node writes the asked number (with a nonce, so that it may ask again)
//!    before it asks. A disk put back from a copy shows an old number. A copy of the *current* run
//!    cannot be told by numbers: two at a time are refused by the transport, and a writer that
//!    remembers what was synced distrusts a disk that shows less.
//! 2. [`replica::Durable::after`] is saved before a replica is opened; what the scan found is written again
//!    and synced before.
//! 3. Disk operations run in order, but syncs and saves may overlap writes. A cut never returns, not even
//!    after a crash, once anything behind it is synced.
//! 4. Time is monotonic and goes on while the machine sleeps.
//! 5. The catalog changes a log's sets only for its current epoch and version.
//! 6. After an effect says that a request is done, it is answered at once or not at all: a read that
//!    lies around after its lease was checked may be stale.

pub mod codec;
mod fault;
pub mod history;
pub mod id;
pub mod message;
pub mod replica;
pub mod sets;
pub mod settings;
pub mod standby;
pub mod writer;

#[cfg(test)]
mod simulation;

pub use message::Start;
