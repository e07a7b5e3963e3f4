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
//! 4. What becomes of an image in use (deprecated, expired, signed) is in its row; whether it may be used
//!    is asked at each use ([`trust`]).

mod add;
pub(crate) mod compose;
pub mod detect;
pub mod digest;
pub mod qcow2;
pub mod raw;
pub(crate) mod row;
pub mod run;
pub mod trust;

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
    /// That it should no longer be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<trust::Deprecation>,
    /// From when on it is not used any more, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Signatures over its id; what they are worth is asked of [`crate::Store::image_standing`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endorsements: Vec<trust::Endorsement>,
}

impl ImageInfo {
    /// Whether both stand the same: what was judged of one holds for the other.
    pub(crate) fn stands_as(&self, other: &Self) -> bool {
        (&self.deprecated, self.expires_ms, &self.endorsements)
            == (&other.deprecated, other.expires_ms, &other.endorsements)
    }
}
