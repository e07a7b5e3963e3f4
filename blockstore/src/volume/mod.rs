//! Volumes: writable block devices over a versioned map, their snapshots, clones and attachments.
//!
//! 1. A write is answered once it is in the value log (write(2)); a flush once everything answered
//!    before it is synced.
//! 2. A volume has one writer token at a time; connections of one holder share it.
//! 3. A snapshot is an lsn: nothing is copied. A clone is a child of a sealed map.

mod handle;
mod verbs;

pub(crate) use handle::Tokens;
pub use handle::{Volume, Writer};

use serde::{Deserialize, Serialize};

/// Smallest volume.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// Largest volume.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;

/// A volume as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Visible bytes, a multiple of 4096.
    pub length_bytes: u64,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Its map (also names its log).
    pub map: crate::id::MapId,
    /// What it was cloned from, as the user named it: `image:debian-12`, `snapshot:root1-a`.
    pub origin: Option<String>,
    /// The project that owns it.
    #[serde(default = "crate::journal::root_project")]
    pub project: String,
    /// Who holds the writer token now.
    #[serde(default)]
    pub writer: Option<String>,
}

/// A snapshot as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id, `snap-<16 hex>`.
    pub id: String,
    /// Its name, unique among snapshots; the id if none was given.
    pub name: String,
    /// Of which volume (by name, when it was made).
    pub volume: String,
    /// When, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The map it is.
    pub sealed: crate::id::SealedMap,
    /// Where it was published: `s3://bucket/key`.
    pub published: Option<String>,
    /// The project that owns it.
    #[serde(default = "crate::journal::root_project")]
    pub project: String,
}

/// What a new volume shows at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Zeroes.
    Empty,
    /// An image, by name or id. The site's rules on images must let it be used.
    Image(String),
    /// The same, said to be wanted even if it is deprecated.
    DeprecatedImage(String),
    /// A snapshot, by name or id.
    Snapshot(String),
}

/// A run of blocks of one nature, as base:allocation and SEEK_HOLE want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Whether bytes are stored for it; otherwise it reads as zeroes.
    pub data: bool,
}

impl Extent {
    /// Goes behind `runs`, into the last of them where that goes on alike.
    pub(crate) fn join(self, runs: &mut Vec<Self>) {
        match runs.last_mut() {
            Some(last) if last.data == self.data && last.offset + last.length == self.offset => {
                last.length += self.length;
            }
            _ => runs.push(self),
        }
    }
}
