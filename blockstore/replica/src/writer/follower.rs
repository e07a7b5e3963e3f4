//! What a writer knows of one replica.
//!
//! ```text
//! Away ──Promise, Promised──▶ Streaming ◀──────────── Copying
//!   ▲                            │  behind the ring       ▲ a source has synced enough
//!   └── silent, gone, another ◀──┴──────▶ Behind ─────────┘
//!       run, not promised
//! ```
//! A replica that is not streaming is out of the quorum path: nobody waits for it in particular. It is
//! a learner until it has what the ring begins with.

use crate::id::{Boot, Identity, Lsn, Member, Position, Time};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Not attached in its present run.
    Away,
    /// Gets entries from the ring.
    Streaming,
    /// Lacks entries that the ring no longer has; what it has ends here.
    Behind(Position),
    /// Catching up by leaf versions.
    Copying {
        /// What it has.
        from: Position,
        /// What it will have.
        upto: Position,
    },
}

/// One replica, as its writer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Follower {
    pub(crate) link: Link,
    pub(crate) boot: Boot,
    /// The round of the Promise whose answer is gone by; answers up to `void` are too old.
    pub(crate) session: u64,
    pub(crate) void: u64,
    /// The round of the last Promise it was asked for.
    pub(crate) round: u64,
    /// The next entry to send.
    pub(crate) next: Lsn,
    /// What it shared with the log when it was attached.
    pub(crate) have: Lsn,
    pub(crate) written: Lsn,
    pub(crate) synced: Lsn,
    /// The most it ever acknowledged as synced under this epoch.
    pub(crate) synced_ever: Lsn,
    pub(crate) leased: u64,
    pub(crate) regain: Lsn,
    pub(crate) distrust: bool,
    /// The sync it was asked for last.
    pub(crate) told_sync: Lsn,
    pub(crate) asked: Time,
    pub(crate) sent: Time,
    pub(crate) heard: Time,
    /// When an acknowledgement last brought something new, or entries were sent again.
    pub(crate) moved: Time,
}

impl Follower {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            link: Link::Away,
            boot: Boot(0),
            session: 0,
            void: 0,
            round: 0,
            next: Lsn(0),
            have: Lsn(0),
            written: Lsn(0),
            synced: Lsn(0),
            synced_ever: Lsn(0),
            leased: 0,
            regain: Lsn(0),
            distrust: false,
            told_sync: Lsn(0),
            asked: Time(0),
            sent: Time(0),
            heard: now,
            moved: now,
        }
    }

    /// How it is attached.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// (written, synced) as acknowledged.
    #[must_use]
    pub fn progress(&self) -> (Lsn, Lsn) {
        (self.written, self.synced)
    }

    /// It has to be attached anew, by an answer to a question asked from now on: an older one may tell
    /// of a log that was shorter then.
    pub(crate) fn detach(&mut self) {
        if self.link != Link::Away {
            self.link = Link::Away;
            self.void = self.round;
        }
    }

    pub(crate) fn streaming(&self) -> bool {
        self.link == Link::Streaming
    }

    pub(crate) fn identity(&self, member: Member) -> Identity {
        Identity {
            member,
            boot: self.boot,
        }
    }
}
