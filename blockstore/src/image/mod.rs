//! Images: sealed maps published for others, named by the digest of their guest-visible bytes.
//!
//! ```text
//! object ─detect─▶ raw, qcow2 ─▶ runs ─┬─digest──▶ id
//!                                      └─compose─▶ map: shown where aligned, written elsewhere
//! ```
//! 1. An image shows what a guest would see of its file; equal content gives one image, whatever the
//!    format it came in.
//! 2. An image keeps its own pin: the object it was made from can be removed.
//! 3. Files are read as data only. None is trusted, and none names another that would be opened.

mod add;
pub(crate) mod compose;
pub mod detect;
pub mod digest;
pub mod qcow2;
pub mod raw;
pub(crate) mod row;
pub mod run;

use serde::{Deserialize, Serialize};

/// An image as listings show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageInfo {
    /// `img-<64 hex>`: derived from the digest of what a guest sees, so a raw file and its qcow2 agree.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Guest-visible bytes.
    pub length_bytes: u64,
    /// The map it is.
    pub sealed: crate::id::SealedMap,
    /// `raw` or `qcow2`: what it was made from.
    pub format: String,
    /// `s3://bucket/key` it was made from.
    pub source: String,
    /// When it was registered, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The project that owns it: of whoever added it first.
    #[serde(default = "crate::journal::root_project")]
    pub project: String,
}
