//! The nouns that name bytes: logs, epochs, lsns, births, maps, segments.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes in a block, the unit a birth names.
pub const BLOCK: usize = 4096;
/// Blocks in a leaf (1 MiB of a map).
pub const LEAF_BLOCKS: usize = 256;
/// Bytes in a leaf.
pub const LEAF: usize = BLOCK * LEAF_BLOCKS;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A log: the only thing ever written. One per volume, one ingest log per gateway process.
    LogId, u64, "log-"
);
id!(
    /// A grant of a log to one writer; it only grows.
    Epoch, u32, "epoch-"
);
id!(
    /// A place in a log, counted in blocks; it never restarts.
    Lsn, u64, "lsn-"
);
id!(
    /// A map: which birth each block of a volume, object, snapshot or image shows.
    MapId, u64, "map-"
);
id!(
    /// One `infall serve` of a cluster. The catalog gives it at the join, and never again.
    NodeId, u64, "node-"
);
id!(
    /// An append-only file of this node.
    SegmentId, u64, "seg-"
);

/// The eternal name of one 4 KiB block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Birth {
    /// Which log it was written to.
    pub log: LogId,
    /// Under which grant.
    pub epoch: Epoch,
    /// Where in the log.
    pub lsn: Lsn,
}

/// A map as it was at an lsn: a snapshot, an image, the body of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SealedMap {
    /// The map.
    pub map: MapId,
    /// Everything born up to and with this lsn shows.
    pub lsn: Lsn,
    /// Visible bytes.
    pub length_bytes: u64,
}
