//! Objects: buckets, keys, sealed bodies, multipart uploads.
//!
//! 1. An object is committed, in one catalog batch, only after its data is synced.
//! 2. A body is a sealed map, a concat of sealed maps, or (up to [`INLINE_BYTES_MAX`]) lies in the
//!    catalog itself. Copying an object, completing an upload, publishing a snapshot share maps.
//! 3. The store knows no digests: the door computes them from the stream and hands them in.
//! 4. Every incarnation of an object pins the maps it shows under a holder of its own, so that a copy
//!    onto itself, or a replacement by what it replaces, never leaves a map without a pin.
//! 5. The current version of a key is one lookup; older ones and delete markers lie under a prefix of
//!    their own (`version`). Whatever removes a version for good asks its lock in the same transaction.
//! 6. What a bucket and a project hold is counted in the transaction that changes it (`usage`).

mod amend;
mod bucket;
mod copy;
mod delete;
mod document;
pub(crate) mod edit;
mod identity;
mod list;
mod lock;
mod read;
mod rename;
mod reserved;
pub(crate) mod row;
mod snapshot;
pub(crate) mod upgrade;
mod upload;
pub(crate) mod usage;
mod version;
mod versions;
mod write;

pub use amend::Change;
pub use bucket::{BucketChange, BucketConfig, Versioning};
pub use delete::{Delete, Deleted};
pub use edit::{BUFFERED_BYTES_MAX, EDIT_BYTES_MAX, EditHow, ObjectEdit};
pub use identity::Named;
pub use lock::{DefaultRetention, Lock, ObjectLock, Period, Retention, RetentionMode};
pub use reserved::reserved_bucket;
pub use snapshot::BucketSnapshot;
pub use usage::{Quota, Usage};
pub use version::NULL_VERSION;
pub use versions::{VersionPage, VersionQuery};
pub use write::ObjectWriter;

use crate::Result;
use crate::id::SealedMap;
use crate::volume::Extent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bodies up to this many bytes live in the catalog: one sync, no map.
pub const INLINE_BYTES_MAX: usize = 8192;

/// A bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// Its name, 3 to 63 characters as S3 wants them.
    pub name: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The project that owns it: whom its objects are charged to.
    #[serde(default = "crate::journal::root_project")]
    pub project: String,
    /// Its stable id, of the same numbers as [`Object::id`].
    #[serde(default)]
    pub id: u64,
    /// How it treats its objects.
    #[serde(default)]
    pub config: BucketConfig,
}

/// What the door knows about an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// ETag without quotes.
    pub etag: String,
    /// System headers the client set, by lower-case name: `content-type`, `cache-control`, ….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// User metadata, by name without `x-amz-meta-`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, String>,
    /// Checksums as S3 shows them (base64), by algorithm: `crc32`, `crc32c`, `crc64nvme`, `sha1`, `sha256`;
    /// `type` holds `FULL_OBJECT` or `COMPOSITE`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<String, String>,
    /// Tags, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// What keeps this version from being removed.
    #[serde(default, skip_serializing_if = "Lock::is_open")]
    pub lock: Lock,
    /// What other doors keep with it, by their name: `cdmi`, `dav`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, serde_json::Value>,
}

/// One version of an object as listings and HEAD show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Visible bytes.
    pub length_bytes: u64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// What the door knows.
    pub meta: ObjectMeta,
    /// Sizes of the parts it was completed from; empty for a single PUT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<u64>,
    /// Where the bytes are.
    pub body: Body,
    /// Which version of the key this is; `null` for one that was made without versioning.
    #[serde(default = "version::null", skip_serializing_if = "version::is_null")]
    pub version: String,
    /// The stable id of the key: kept over replacement and renaming, never given to a copy.
    #[serde(default)]
    pub id: u64,
    /// When the key first appeared, milliseconds since the Unix epoch.
    #[serde(default)]
    pub created_ms: u64,
    /// When its metadata last changed, milliseconds since the Unix epoch.
    #[serde(default)]
    pub changed_ms: u64,
    /// Whether it is a delete marker: it has no bytes, and hides what lies below.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marker: bool,
    /// Whether it is the newest version of its key. Not stored, but known when it is read.
    #[serde(skip)]
    pub latest: bool,
    /// Who wrote it, as the journal names them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// Where an object's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// In the catalog, beside the row.
    #[default]
    Inline,
    /// One sealed map.
    Map(SealedMap),
    /// A concat map: pieces one behind the other.
    Concat(Vec<Piece>),
}

/// A piece of a concat map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The map the bytes are shown by.
    pub sealed: SealedMap,
    /// First byte in that map.
    pub offset_bytes: u64,
    /// How many bytes.
    pub length_bytes: u64,
}

/// A condition on the current object under a key, checked in the committing batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Only if the current object has one of these ETags (`*`: any object). Empty: no condition.
    pub if_match: Vec<String>,
    /// Only if no current object has one of these ETags (`*`: no object at all). Empty: no condition.
    pub if_none_match: Vec<String>,
    /// Only if the current object was committed in the second of this moment (milliseconds since the
    /// Unix epoch).
    pub modified_ms: Option<u64>,
    /// Only if the current object has this many bytes.
    pub length_bytes: Option<u64>,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that start so.
    pub prefix: String,
    /// Roll up keys behind the first such string after the prefix.
    pub delimiter: Option<String>,
    /// Only keys (and rolled-up prefixes) strictly behind this one, in byte order.
    pub start_after: Option<String>,
    /// At most this many objects and prefixes together; 0 gives an empty, complete page.
    pub max: usize,
}

/// A page of a listing, in byte order of keys.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<Object>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Give this as `start_after` to go on; `None` where the listing is complete.
    pub next: Option<String>,
}

/// An upload under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// Its id.
    pub id: String,
    /// Where it will land.
    pub bucket: String,
    /// Where it will land.
    pub key: String,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Headers and user metadata for the object to be; `checksums` may hold the wanted algorithm
    /// under `algorithm` and the wanted `type`.
    pub meta: ObjectMeta,
    /// Who began it, as the journal names them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// A committed part of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// Bytes.
    pub length_bytes: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Checksums as in [`ObjectMeta::checksums`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<String, String>,
    /// When it was committed, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// Its bytes.
    pub pieces: Vec<Piece>,
}

/// What a command that copies has to say: how many bytes it shared and how many it wrote, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes now shown by one more name, without a copy.
    pub shared_bytes: u64,
    /// Bytes written anew.
    pub rewritten_bytes: u64,
    /// Why any were written.
    pub why: String,
}

/// Reads an object's (or any sealed) bytes; holds a pin in memory, so that a delete meanwhile does
/// not take them away.
pub trait ReadAt: Send + Sync {
    /// Visible bytes.
    fn length_bytes(&self) -> u64;
    /// Fills `buffer` from `offset`; [`crate::Kind::Invalid`] past the end, never short.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Allocation of `offset..offset+length`, which lies inside: adjoining runs in order, at most `max`.
    /// It may cover less, never nothing. Calling all of it data is always right.
    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        let _ = max;
        Ok(vec![Extent {
            offset,
            length,
            data: true,
        }])
    }
}
