//! The nouns of the protocol: who, when, and where in a log.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A node, named by the catalog; never reused.
    NodeId, u64, "node-"
);
id!(
    /// One life of a node's disk: a wiped or replaced disk is another incarnation.
    Incarnation, u64, "incarnation-"
);
id!(
    /// One run of a node over its disk; the catalog counts them, they only grow.
    Boot, u64, "boot-"
);
id!(
    /// A log: the only thing ever written.
    LogId, u64, "log-"
);
id!(
    /// A grant of a log to one writer; it only grows. 0 is before every grant.
    Epoch, u32, "epoch-"
);
id!(
    /// A place in a log, counted in blocks. As an end it is exclusive: everything below it.
    Lsn, u64, "lsn-"
);

/// A reading of a node's own monotonic clock in microseconds.
///
/// It must go on while the machine sleeps (CLOCK_BOOTTIME, not CLOCK_MONOTONIC), or a lease would
/// outlive its second. Readings of different nodes are never compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This long after.
    #[must_use]
    pub fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds since an earlier reading, 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The end of a prefix of some log: every lsn below `lsn`, the last entry by the writer of `epoch`.
///
/// Two logs that both contain a position are equal up to there (the writers number their entries
/// once and each starts from the log of another). The order is the one an opening chooses by: the
/// epoch of the last entry first, then the lsn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Whose entry is the last.
    pub epoch: Epoch,
    /// Where it ends.
    pub lsn: Lsn,
}

impl Position {
    /// The end of the empty prefix.
    pub const ZERO: Self = Self {
        epoch: Epoch(0),
        lsn: Lsn(0),
    };
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.epoch, self.lsn)
    }
}

/// A member of a replica set: a node with the disk it had when it was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.node, self.incarnation)
    }
}

/// A member in one of its runs. What it says of writes not yet synced holds for this run only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The node and its disk.
    pub member: Member,
    /// Its run.
    pub boot: Boot,
}
