//! Images: sealed maps published for others, named by the digest of their guest-visible bytes.

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
}
