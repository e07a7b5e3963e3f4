//! Objects: buckets, keys, sealed bodies, multipart uploads.
//!
//! 1. An object is committed, in one catalog batch, only after its data is synced.
//! 2. A body is a sealed map, a concat of sealed maps, or (up to [`INLINE_BYTES_MAX`]) lies in the
//!    catalog itself. Copying an object, completing an upload, publishing a snapshot share maps.
//! 3. The store knows no digests: the door computes them from the stream and hands them in.
//! 4. Every incarnation of an object pins the maps it shows under a holder of its own, so that a copy
//!    onto itself, or a replacement by what it replaces, never leaves a map without a pin.

mod bucket;
mod copy;
mod list;
mod read;
pub(crate) mod row;
mod upload;
mod write;

pub use write::ObjectWriter;

use crate::Result;
use crate::id::SealedMap;
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
}

/// One object as listings and HEAD show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// In the catalog, beside the row.
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
}
